/* The text under the lens: windows, their sites, and the figures over all of them. */
#include "reader.h"

#include <omp.h>

lens_columns df_lens_columns(const df_model_shape *s) {
    size_t heads = s->layers * s->heads;
    lens_columns c = {.point = LENS_FIRST};
    c.whole = c.point + DF_LENS_QUANTITIES * (s->layers + 1);
    c.mlp = c.whole + DF_LENS_WHOLES;
    c.bias = c.mlp + s->layers;
    c.head = c.bias + s->layers;
    c.previous = c.head + heads;
    c.all = c.previous + heads;
    return c;
}

/* ---- sites ---------------------------------------------------------------------------------- */

static size_t sites_of(const df_model_shape *s) {
    return 3 * s->layers + 2 + s->learned;
}

// Their names, and the floats of a row: L streams and the last, L z, L MLPs, the scale, positions.
static void list_sites(const df_model_shape *s, char (*name)[LENS_NAME], size_t *width) {
    size_t n = 0, layers = s->layers;
    for (size_t l = 0; l < layers; l++, n++)
        snprintf(name[n], LENS_NAME, "blocks.%zu.hook_resid_pre", l);
    snprintf(name[n++], LENS_NAME, "blocks.%zu.hook_resid_post", layers - 1);
    for (size_t l = 0; l < layers; l++, n++)
        snprintf(name[n], LENS_NAME, "blocks.%zu.attn.hook_z", l);
    for (size_t l = 0; l < layers; l++, n++)
        snprintf(name[n], LENS_NAME, "blocks.%zu.hook_mlp_out", l);
    snprintf(name[n++], LENS_NAME, "ln_final.hook_scale");
    if (s->learned) snprintf(name[n], LENS_NAME, "hook_pos_embed");
    for (size_t i = 0; i < sites_of(s); i++) {
        bool z = i > layers && i <= 2 * layers;
        width[i] = i == 3 * layers + 1 ? 1 : z ? s->heads * s->head_width : s->width;
    }
}

/* The list while a forward is opened. */
typedef struct site_list {
    char (*name)[LENS_NAME];
    const char **text;
    size_t *width, n, row; // row: floats of all sites at one position
} site_list;

static void free_sites(site_list *list) {
    df_free(list->name);
    df_free(list->text);
    df_free(list->width);
}

static df_status make_sites(const df_model_shape *s, site_list *out) {
    *out = (site_list){.n = sites_of(s)};
    df_status status = DF_NEW(out->name, out->n);
    if (status == DF_OK) status = DF_NEW(out->text, out->n);
    if (status == DF_OK) status = DF_NEW(out->width, out->n);
    if (status != DF_OK) return status;
    list_sites(s, out->name, out->width);
    for (size_t i = 0; i < out->n; i++) {
        out->text[i] = out->name[i];
        out->row += out->width[i];
    }
    return DF_OK;
}

/* ---- a window ------------------------------------------------------------------------------- */

static df_status open_sites(const lens_text_plan *plan, const site_list *list, lens_reader *r) {
    size_t layers = plan->shape->layers;
    DF_TRY(df_forward_open(plan->input->model, plan->input->text.context, list->text, list->n,
                           &r->forward));
    DF_TRY(DF_NEW(r->sites, plan->rows * list->row));
    DF_TRY(DF_NEW(r->out, list->n));
    float *next = r->sites;
    for (size_t i = 0; i < list->n; i++) {
        r->out[i] = next;
        next += plan->rows * list->width[i];
    }
    r->stream = r->out;
    r->z = r->out + layers + 1;
    r->mlp = r->z + layers;
    r->scale = r->out[3 * layers + 1];
    r->pos = plan->shape->learned ? r->out[3 * layers + 2] : NULL;
    return DF_OK;
}

// Attention to the position before, over scored positions but the first.
static df_status look_back(void *context, const df_site_rows *rows) {
    const lens_watch *watch = context;
    const lens_reader *r = watch->worker;
    const df_model_shape *s = r->plan->shape;
    size_t wide = r->plan->input->text.context;
    double *to = r->sums + df_lens_columns(s).previous + watch->layer * s->heads;
    for (size_t i = 1; i < rows->n; i++)
        for (size_t h = 0; h < s->heads && r->scored[i]; h++)
            to[h] += (double)rows->x[i * rows->width + h * wide + i - 1];
    return DF_OK;
}

static df_status open_reader(const lens_text_plan *plan, lens_reader *r) {
    const df_model_shape *s = plan->shape;
    site_list list;
    *r = (lens_reader){.plan = plan};
    df_status status = make_sites(s, &list);
    if (status == DF_OK) status = open_sites(plan, &list, r);
    free_sites(&list);
    DF_TRY(status);
    DF_TRY(DF_NEW(r->watch, s->layers));
    DF_TRY(DF_NEW(r->watched, s->layers));
    DF_TRY(DF_NEW(r->list, s->layers));
    DF_TRY(DF_NEW(r->normed, LENS_ROWS * s->width));
    DF_TRY(DF_NEW(r->direction, LENS_ROWS * s->width));
    DF_TRY(DF_NEW(r->turned, LENS_ROWS * s->width));
    DF_TRY(DF_NEW(r->through, LENS_ROWS * s->heads * s->head_width));
    DF_TRY(DF_NEW(r->p, LENS_ROWS * s->vocabulary));
    DF_TRY(DF_NEW(r->logits, LENS_ROWS * s->vocabulary));
    DF_TRY(DF_NEW(r->row, s->vocabulary));
    df_lens_watch(s, r, look_back, r->watch, r->watched, r->list);
    return df_forward_intervene(r->forward, r->list, s->layers);
}

static void close_reader(lens_reader *r) {
    df_forward_close(&r->forward);
    void *const arrays[] = {r->sites,     r->out,    r->watch,   r->watched, r->list,   r->normed,
                            r->direction, r->turned, r->through, r->p,       r->logits, r->row};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) df_free(arrays[i]);
}

static df_status check_finite(const lens_reader *r, uint64_t window) {
    const df_model_shape *s = r->plan->shape;
    for (size_t l = 0; l <= s->layers; l++)
        if (!df_all_finite(r->stream[l], r->window.count * s->width))
            return df_fail(DF_BAD_INPUT,
                           "window %llu of the text: the stream before block %zu is not finite: "
                           "are the model's weights damaged?",
                           (unsigned long long)window, l);
    return DF_OK;
}

static df_status read_window(void *context, size_t slot, uint64_t item, double *sums) {
    lens_reader *r = (lens_reader *)context + slot;
    const df_lens_text *text = &r->plan->input->text;
    r->window = (df_range){(size_t)text->window[item],
                           (size_t)(text->window[item + 1] - text->window[item])};
    r->scored = text->scored + r->window.first;
    r->sums = sums;
    DF_TRY_AS(
        df_forward_run(r->forward, text->token + r->window.first, r->window.count, r->out, NULL),
        "running window %llu of the text", (unsigned long long)item);
    DF_TRY(check_finite(r, item));
    for (size_t i = 0; i < r->window.count; i++) {
        sums[LENS_SCORED] += r->scored[i];
        sums[LENS_BEHIND] += i > 0 && r->scored[i];
    }
    for (size_t first = 0; first + 1 < r->window.count; first += LENS_ROWS) {
        size_t left = r->window.count - 1 - first, n = left < LENS_ROWS ? left : LENS_ROWS;
        df_lens_read_points(r, first, n);
        df_lens_attribute(r, first, n);
    }
    return DF_OK;
}

/* ---- all windows ---------------------------------------------------------------------------- */

static size_t slots_of(const df_lens_input *input, size_t threads) {
    return input->text.windows < threads ? (size_t)input->text.windows : threads;
}

static df_status make_plan(const df_lens_input *input, lens_text_plan *out) {
    const df_model_shape *s = df_model_facts(input->model);
    *out = (lens_text_plan){.input = input,
                            .shape = s,
                            .read = df_model_readout(input->model),
                            .rows = df_forward_rows(input->text.context)};
    DF_TRY(DF_NEW(out->offset, s->width));
    bool mean = input->against < 0;
    size_t first = mean ? 0 : (size_t)input->against, n = mean ? s->vocabulary : 1;
    for (size_t v = first; v < first + n; v++)
        for (size_t i = 0; i < s->width; i++)
            out->offset[i] += (double)out->read.unembed[v * s->width + i] / (double)n;
    return DF_OK;
}

static df_status set_figures(const lens_walk *walk, const double *all, df_lens *out) {
    const df_model_shape *s = &out->shape;
    const lens_columns c = df_lens_columns(s);
    size_t heads = s->layers * s->heads;
    const struct {
        size_t count, first, n;
        df_estimate *to;
    } parts[] = {{LENS_SCORED, c.point, DF_LENS_QUANTITIES * (s->layers + 1), out->point},
                 {LENS_SCORED, c.whole, DF_LENS_WHOLES, out->whole},
                 {LENS_SCORED, c.mlp, s->layers, out->mlp},
                 {LENS_SCORED, c.bias, s->layers, out->bias},
                 {LENS_SCORED, c.head, heads, out->head},
                 {LENS_BEHIND, c.previous, heads, out->previous}};
    for (size_t b = 0; b < DF_BUCKETS; b++)
        out->scored += (uint64_t)all[b * walk->columns + LENS_SCORED];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        DF_TRY(df_lens_means(walk, all, parts[i].count, parts[i].first, parts[i].n, parts[i].to));
    return DF_OK;
}

df_status df_lens_read(df_comm *comm, const df_lens_input *input, df_lens *out) {
    lens_text_plan plan = {0};
    lens_walk walk = {.comm = comm,
                      .what = "lens: text",
                      .unit = "windows",
                      .items = input->text.windows,
                      .columns = df_lens_columns(&out->shape).all,
                      .slots = slots_of(input, (size_t)omp_get_max_threads()),
                      .each = read_window};
    lens_reader *readers = NULL;
    double *all = NULL;
    df_status status = make_plan(input, &plan);
    if (status == DF_OK) status = DF_NEW(readers, walk.slots);
    for (size_t i = 0; status == DF_OK && i < walk.slots; i++)
        status = open_reader(&plan, &readers[i]);
    if (status == DF_OK) status = DF_NEW(all, DF_BUCKETS * walk.columns);
    DF_GO(df_agree(comm, status));
    walk.context = readers;
    DF_GO(df_lens_walk(&walk, all));
    for (size_t i = 0; i < walk.slots; i++)
        if (readers[i].gap > out->gap) out->gap = readers[i].gap;
    df_max_double(comm, &out->gap, 1);
    status = df_agree(comm, set_figures(&walk, all, out));
done:
    for (size_t i = 0; readers != NULL && i < walk.slots; i++) close_reader(&readers[i]);
    df_free(readers);
    df_free(plan.offset);
    df_free(all);
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static uint64_t reader_bytes(const df_lens_input *input, const df_model_shape *s,
                             const site_list *list) {
    size_t query = s->heads * s->head_width;
    uint64_t floats = df_forward_rows(input->text.context) * list->row +
                      LENS_ROWS * (3 * s->width + query) + (2 * LENS_ROWS + 1) * s->vocabulary;
    return sizeof(lens_reader) + floats * sizeof(float) + list->n * sizeof(float *) +
           df_forward_bytes(s, input->text.context, list->text, list->n) +
           df_lens_watch_bytes(s, input->text.context);
}

df_status df_lens_read_bytes(const df_lens_input *input, const df_model_shape *s, int size,
                             size_t threads, uint64_t *out) {
    size_t columns = df_lens_columns(s).all, slots = slots_of(input, threads);
    size_t sums = slots + DF_BUCKETS + df_share(DF_BUCKETS, size, 0).count;
    site_list list;
    df_status status = make_sites(s, &list);
    if (status == DF_OK)
        *out = slots * reader_bytes(input, s, &list) + s->width * sizeof(double) +
               sums * columns * sizeof(double);
    free_sites(&list);
    return status;
}
