/* Several activations files of one model as one. */
#include "parts.h"

#include <string.h>

/* ---- what must be alike - */

static df_status check_site(const df_acts *all, const df_acts *part, size_t s, size_t *found) {
    const struct df_site *want = &all->site[s], *have;
    DF_TRY(df_acts_site(part, want->name, found));
    have = &part->site[*found];
    if (have->width == want->width && have->type == want->type) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: %s is %s of width %llu, in %s it is %s of width %llu: they make no one "
                   "data set",
                   part->path, want->name, df_type_name(have->type),
                   (unsigned long long)have->width, all->part[0]->path, df_type_name(want->type),
                   (unsigned long long)want->width);
}

static df_status check_part(const df_acts *all, size_t p) {
    const df_acts *first = all->part[0], *part = all->part[p];
    if (strcmp(part->model, first->model) != 0 || strcmp(part->tokenizer, first->tokenizer) != 0 ||
        part->bos != first->bos)
        return df_fail(DF_BAD_INPUT,
                       "%s is of model %s (tokenizer %s, BOS %lld), %s of model %s (tokenizer %s, "
                       "BOS %lld): they make no one data set",
                       part->path, part->model, part->tokenizer, (long long)part->bos, first->path,
                       first->model, first->tokenizer, (long long)first->bos);
    for (size_t s = 0; s < all->sites; s++)
        DF_TRY(check_site(all, part, s, &all->part_site[p * all->sites + s]));
    return DF_OK;
}

/* ---- the row index - */

static df_status room(df_acts *all) {
    DF_TRY(DF_NEW(all->tokens, all->rows));
    DF_TRY(DF_NEW(all->token_end, all->rows));
    DF_TRY(DF_NEW(all->window, all->windows + 1));
    DF_TRY(DF_NEW(all->document, all->documents + 1));
    DF_TRY(DF_NEW(all->source, all->documents));
    return DF_NEW(all->heldout, all->documents);
}

static void append(df_acts *all, const df_acts *part, uint64_t row, uint64_t w, uint64_t d) {
    memcpy(all->tokens + row, part->tokens, part->rows * sizeof *all->tokens);
    memcpy(all->token_end + row, part->token_end, part->rows * sizeof *all->token_end);
    for (uint64_t i = 0; i <= part->windows; i++) all->window[w + i] = row + part->window[i];
    for (uint64_t i = 0; i <= part->documents; i++) all->document[d + i] = row + part->document[i];
    memcpy(all->source + d, part->source, part->documents * sizeof *all->source);
    memcpy(all->heldout + d, part->heldout, part->documents);
}

static df_status join_index(df_acts *all) {
    uint64_t windows = 0, documents = 0;
    for (size_t p = 0; p < all->parts; p++) {
        all->part_row[p] = all->rows;
        all->rows += all->part[p]->rows;
        all->windows += all->part[p]->windows;
        all->documents += all->part[p]->documents;
    }
    all->part_row[all->parts] = all->rows;
    DF_TRY(room(all));
    for (size_t p = 0; p < all->parts; p++) {
        append(all, all->part[p], all->part_row[p], windows, documents);
        windows += all->part[p]->windows;
        documents += all->part[p]->documents;
        all->hash = df_hash_more(all->hash, &all->part[p]->hash, sizeof all->hash);
        all->recipe = df_hash_more(all->recipe, &all->part[p]->recipe, sizeof all->recipe);
        all->alignment =
            df_hash_more(all->alignment, &all->part[p]->alignment, sizeof all->alignment);
    }
    return DF_OK;
}

/* ---- the sites - */

static df_status copy_sites(df_acts *all) {
    const df_acts *first = all->part[0];
    DF_TRY(DF_NEW(all->site, first->sites));
    for (size_t s = 0; s < first->sites; s++) {
        all->site[s] = first->site[s];
        all->site[s].name = df_strdup(first->site[s].name);
        all->sites = s + 1;
        if (all->site[s].name == NULL) return DF_FAILED;
    }
    return DF_NEW(all->part_site, all->parts * all->sites);
}

/* Mean squares are means over rows. */
static void mean_squares(df_acts *all) {
    for (size_t s = 0; s < all->sites; s++) {
        double sum = 0;
        for (size_t p = 0; p < all->parts; p++) {
            const df_acts *part = all->part[p];
            sum += (double)part->rows * part->site[all->part_site[p * all->sites + s]].mean_square;
        }
        if (all->rows > 0) all->site[s].mean_square = sum / (double)all->rows;
    }
}

static df_status copy_names(df_acts *all) {
    const df_acts *first = all->part[0];
    all->path = df_format("%s and %zu more", first->path, all->parts - 1);
    all->model = df_strdup(first->model);
    all->model_path = df_strdup(first->model_path);
    all->corpus = df_strdup(first->corpus);
    all->tokenizer = df_strdup(first->tokenizer);
    all->bos = first->bos;
    const char *names[] = {all->path, all->model, all->model_path, all->corpus, all->tokenizer};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i] == NULL) return DF_FAILED;
    return DF_OK;
}

static df_status join(df_acts *all, df_acts *const *parts, size_t n) {
    DF_TRY(DF_NEW(all->part, n));
    memcpy(all->part, parts, n * sizeof *all->part);
    all->parts = n;
    DF_TRY(DF_NEW(all->part_row, n + 1));
    DF_TRY(copy_names(all));
    DF_TRY(copy_sites(all));
    for (size_t p = 0; p < n; p++) DF_TRY(check_part(all, p));
    DF_TRY(join_index(all));
    mean_squares(all);
    all->file = all->part[0]->file;
    return DF_OK;
}

df_status df_acts_join(df_acts *const *parts, size_t n, df_acts **out) {
    df_acts *all = NULL;
    *out = parts[0];
    if (n == 1) return DF_OK;
    df_status status = DF_NEW(all, 1);
    if (status == DF_OK) status = join(all, parts, n);
    if (status != DF_OK) {
        if (all != NULL) all->parts = 0; // the parts are closed here
        df_acts_close(&all);
        for (size_t p = 0; p < n; p++) {
            df_acts *part = parts[p];
            df_acts_close(&part);
        }
    }
    *out = all;
    return status;
}
