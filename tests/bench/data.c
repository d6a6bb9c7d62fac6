/* How much of training goes by waiting for rows: one file read in each order, after its pages were
 * dropped from memory. Usage: mpirun -n R bench_data FOLDER ROWS WIDTH LATENTS BATCH STEPS. Prints
 * one line and one JSON object for each order on rank 0. */
#include "darkfield/train.h"

#include <fcntl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct bench {
    df_comm *comm;
    df_kernels *kernels;
    uint64_t rows, width, steps;
    size_t latents, batch;
    char *acts, *shuffled, *output, *prefix;
} bench;

static const df_provenance nobody = {.command = "bench",
                                     .hosts = "",
                                     .kernel_path = "",
                                     .volatile_options = "",
                                     .commit = "",
                                     .build = ""};

/* ---- the file - */

static df_status write_index(df_file *file, uint64_t rows) {
    uint64_t ends[2] = {0, rows}, zero = 0;
    uint8_t training = 0;
    DF_TRY(df_file_write(file, DF_ACTS_WINDOWS, 0, 2, ends));
    DF_TRY(df_file_write(file, DF_ACTS_DOCUMENT_ROW, 0, 2, ends));
    DF_TRY(df_file_write(file, DF_ACTS_DOCUMENT_SOURCE, 0, 1, &zero));
    return df_file_write(file, DF_ACTS_DOCUMENT_HELDOUT, 0, 1, &training);
}

/* Noise in bf16; tokens stay 0. */
static df_status write_rows(df_file *file, const bench *b) {
    float *x = NULL;
    uint16_t *stored = NULL;
    df_range mine = df_share((size_t)b->rows, df_comm_size(b->comm), df_comm_rank(b->comm));
    df_status status = DF_NEW(x, b->width);
    if (status == DF_OK) status = DF_NEW(stored, b->width);
    for (size_t r = mine.first; r < mine.first + mine.count && status == DF_OK; r++) {
        for (size_t c = 0; c < b->width; c++) {
            uint64_t bits = df_random_bits(1, DF_STREAM_TEST, r * b->width + c);
            x[c] = (float)(int32_t)(uint32_t)bits * 0x1p-31f;
        }
        df_narrow_bf16(x, stored, b->width);
        status = df_file_write(file, DF_ACTS_SITE, r, 1, stored);
    }
    df_free(x);
    df_free(stored);
    return status;
}

static df_status write_acts(const bench *b) {
    const df_acts_spec spec = {.rows = b->rows,
                               .windows = 1,
                               .documents = 1,
                               .type = DF_BF16,
                               .sites = 1,
                               .site = (const char *const[]){"blocks.0.hook_resid_post"},
                               .width = &b->width,
                               .layer = (const int64_t[]){0},
                               .model = "bench",
                               .model_path = "",
                               .dtype = "bf16",
                               .architecture = "none",
                               .corpus = "noise",
                               .field = "text",
                               .packing = "stream",
                               .bos = -1};
    df_file *file = NULL;
    df_status status = df_file_create(b->comm, b->acts, "darkfield-activations", &file);
    if (status == DF_OK) status = df_acts_declare(file, &spec);
    if (status == DF_OK) status = df_file_provenance(file, &nobody);
    if (status == DF_OK) status = df_file_ready(file);
    if (status == DF_OK) {
        status = df_comm_rank(b->comm) == 0 ? write_index(file, b->rows) : DF_OK;
        if (status == DF_OK) status = write_rows(file, b);
        status = df_file_agree(file, status);
    }
    if (status == DF_OK) status = df_file_set_real(file, "/model", "loss", 0);
    if (status == DF_OK)
        status = df_file_set_real(file, "/sites/blocks.0.hook_resid_post", "mean_square", 1);
    if (status == DF_OK) return df_file_finish(&file);
    if (file != NULL) df_file_abandon(&file, false);
    return status;
}

/* ---- one order - */

static void drop_pages(const char *path) {
    int descriptor = open(path, O_RDONLY);
    if (descriptor < 0) return;
    fsync(descriptor);
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    close(descriptor);
}

static df_status time_order(bench *b, const df_rows *rows, df_shuffle how, const char *path) {
    static const char *const names[] = {"exact", "buffer", "global"};
    const df_train_options o = {.latents = b->latents,
                                .k = 32,
                                .batch = b->batch,
                                .steps = b->steps,
                                .seed = 1,
                                .activation = DF_TOPK,
                                .subtract_bias = true,
                                .init_norm = 1,
                                .lr = 1e-4,
                                .beta1 = 0.9,
                                .beta2 = 0.999,
                                .epsilon = 1e-8,
                                .dead_rows = UINT64_MAX,
                                .unit_decoder = true,
                                .shuffle = how,
                                .buffer_rows = 4 * b->batch,
                                .log_every = b->steps,
                                .checkpoint = b->prefix,
                                .output = b->output,
                                .resolved_job = "bench",
                                .facts = nobody};
    df_timer_reset();
    if (df_comm_rank(b->comm) == 0) drop_pages(path);
    df_barrier(b->comm);
    DF_TRY(df_train(b->comm, b->kernels, rows, &o));
    double time[3] = {df_timer_seconds("read"), df_timer_seconds("share rows"),
                      df_timer_seconds("step")};
    df_max_double(b->comm, time, 3);
    if (df_comm_rank(b->comm) != 0) return DF_OK;
    double share = time[0] / (time[0] + time[1] + time[2]);
    printf("data-read %-7s %d ranks x %d threads: waiting %.3f s, sharing %.3f s, steps %.3f s: "
           "%.2f %% waiting\n",
           names[how], df_comm_size(b->comm), omp_get_max_threads(), time[0], time[1], time[2],
           100 * share);
    printf("{\"name\": \"data-read\", \"shuffle\": \"%s\", \"ranks\": %d, \"threads\": %d, "
           "\"seconds\": %.6f, \"waiting_seconds\": %.6f, \"waiting_share\": %.5f}\n",
           names[how], df_comm_size(b->comm), omp_get_max_threads(), time[0] + time[1] + time[2],
           time[0], share);
    return DF_OK;
}

static df_status run(bench *b) {
    df_acts *acts = NULL;
    df_rows *rows = NULL, *shuffled = NULL;
    const df_acts_filter all = {.part = 2};
    const df_shuffle_options how = {
        .seed = 1, .memory = 64 << 20, .output = b->shuffled, .job = "bench", .facts = nobody};
    df_status status = df_kernels_open("auto", &b->kernels);
    if (status == DF_OK) status = write_acts(b);
    if (status == DF_OK) status = df_acts_open(b->acts, &acts);
    if (status == DF_OK)
        status = df_rows_open(&(df_rows_files){&acts, (const size_t[]){0}, 1, 1}, &all, &rows);
    double start = df_now();
    if (status == DF_OK) status = df_rows_shuffle(b->comm, rows, &how);
    if (status == DF_OK && df_comm_rank(b->comm) == 0) {
        double mib = (double)(b->rows * b->width * 2) / 0x1p20, seconds = df_now() - start;
        printf("shuffle of %.0f MiB through 64 MiB per rank: %.2f s, %.0f MiB/s\n", mib, seconds,
               mib / seconds);
    }
    if (status == DF_OK) status = df_rows_open_shuffled(b->shuffled, &shuffled);
    if (status == DF_OK) status = time_order(b, rows, DF_SHUFFLE_EXACT, b->acts);
    if (status == DF_OK) status = time_order(b, rows, DF_SHUFFLE_BUFFER, b->acts);
    if (status == DF_OK) status = time_order(b, shuffled, DF_SHUFFLE_GLOBAL, b->shuffled);
    df_rows_close(&shuffled);
    df_rows_close(&rows);
    df_acts_close(&acts);
    return status;
}

int main(int argc, char **argv) {
    bench b = {0};
    if (df_comm_start(&argc, &argv, &b.comm) != DF_OK) return 1;
    const char *folder = argc > 1 ? argv[1] : ".";
    b.rows = argc > 2 ? strtoull(argv[2], NULL, 10) : 200000;
    b.width = argc > 3 ? strtoull(argv[3], NULL, 10) : 768;
    b.latents = argc > 4 ? strtoul(argv[4], NULL, 10) : 16384;
    b.batch = argc > 5 ? strtoul(argv[5], NULL, 10) : 4096;
    b.steps = argc > 6 ? strtoull(argv[6], NULL, 10) : 30;
    b.acts = df_format("%s/bench.acts.h5", folder);
    b.shuffled = df_format("%s/bench.rows.h5", folder);
    b.output = df_format("%s/bench.dict.h5", folder);
    b.prefix = df_format("%s/bench", folder);
    df_log_quiet(true);
    df_status status = run(&b);
    if (status != DF_OK) df_error_print(status);
    df_kernels_close(&b.kernels);
    char *paths[] = {b.acts, b.shuffled, b.output, b.prefix};
    for (size_t i = 0; i < 4; i++) {
        if (df_comm_rank(b.comm) == 0 && i < 3) unlink(paths[i]);
        df_free(paths[i]);
    }
    df_comm_finish(&b.comm);
    return (int)status;
}
