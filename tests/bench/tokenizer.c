/* Tokenizing on one core: bench_tokenizer FOLDER TEXT [ROUNDS], the tokenizer of a model's folder
 * over a text file. `first` starts without known words, `again` finds those of the round before. */
#include "median.h"

#include "darkfield/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ROUNDS 100

static df_status run(const df_tokenizer *tokenizer, const char *text, size_t bytes, size_t rounds) {
    double first[MOST_ROUNDS], again[MOST_ROUNDS];
    size_t count = 0;
    for (size_t i = 0; i < rounds; i++) {
        df_tokens tokens = {0};
        double start = df_now();
        DF_TRY(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
        double middle = df_now();
        DF_TRY(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
        first[i] = middle - start;
        again[i] = df_now() - middle;
        count = tokens.count;
        df_tokens_free(&tokens);
    }
    double mb = (double)bytes * 1e-6, a = median(first, rounds), b = median(again, rounds);
    printf("tokenizer: %.2f MB, %zu tokens of %zu, one core\n", mb, count,
           df_tokenizer_size(tokenizer));
    printf("  first %8.1f MB/s   %6.2f M tokens/s\n", mb / a, (double)count * 1e-6 / a);
    printf("  again %8.1f MB/s   %6.2f M tokens/s\n", mb / b, (double)count * 1e-6 / b);
    printf("{\"name\": \"tokenizer\", \"ranks\": 1, \"threads\": 1, \"bytes\": %zu, "
           "\"vocabulary\": %zu, \"mb_per_second\": %.2f, \"mb_per_second_again\": %.2f}\n",
           bytes, df_tokenizer_size(tokenizer), mb / a, mb / b);
    return DF_OK;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer FOLDER TEXT [ROUNDS]\n");
        return (int)DF_USAGE;
    }
    size_t bytes, rounds = argc > 3 ? strtoul(argv[3], NULL, 10) : 9;
    if (rounds < 1 || rounds > MOST_ROUNDS) rounds = MOST_ROUNDS;
    char *text = NULL;
    df_tokenizer *tokenizer = NULL;
    df_status status = df_tokenizer_open_folder(argv[1], &tokenizer);
    if (status == DF_OK) status = df_read_file(argv[2], &text, &bytes);
    if (status == DF_OK) status = run(tokenizer, text, bytes, rounds);
    if (status != DF_OK) df_error_print(status);
    df_tokenizer_close(tokenizer);
    df_free(text);
    return (int)status;
}
