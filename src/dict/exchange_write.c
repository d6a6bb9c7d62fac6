/* From a dictionary to the tensors of a file: every rank puts its latents. */
#include "exchange.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct writer {
    const exchange *x;
    const df_dict *d;
    const exchange_fold *fold;
    df_tensor_file *file;
    size_t first;  // number of the file's first tensor in x->tensor
    double *norms; // [mine.count]
    float *values; // scratch, and the same in the type of the file
    char *packed;
} writer;

static df_status put(const writer *w, size_t i, uint64_t at, size_t n) {
    const exchange_tensor *t = &w->x->tensor[i];
    df_from_f32(t->type, w->values, w->packed, n);
    return df_tensor_file_put(w->file, i - w->first, at, n, w->packed);
}

/* ---- matrices - */

typedef struct block { // the columns of one site in the rows of one group's latents here
    const float *base;
    size_t row, width, site, local, count; // row: floats from latent to latent
    uint64_t at, latent, column;           // in the tensor
    bool output;
} block;

static float folded(const writer *w, const block *b, size_t j, size_t c) {
    double factor = b->output ? exchange_dec_factor(w->fold, b->local + j, b->site)
                              : exchange_enc_factor(w->fold, b->local + j, b->site);
    return (float)((double)b->base[j * b->row + c] * factor);
}

static df_status put_block(const writer *w, size_t i, const block *b) {
    bool rows = b->column == 1;
    size_t outer = rows ? b->count : b->width, inner = rows ? b->width : b->count;
    for (size_t o = 0; o < outer; o++) {
        for (size_t n = 0; n < inner; n++)
            w->values[n] = rows ? folded(w, b, o, n) : folded(w, b, n, o);
        DF_TRY(put(w, i, b->at + o * (rows ? b->latent : b->column), inner));
    }
    return DF_OK;
}

static df_status put_matrix(const writer *w, size_t i, bool output) {
    const exchange_tensor *t = &w->x->tensor[i];
    const df_dict_group *g = &w->d->group[t->group];
    exchange_span span = exchange_span_of(w->d, g, output);
    exchange_view view = exchange_view_of(w->x, t);
    if (g->local.count == 0) return DF_OK;
    const float *base =
        output ? df_dict_dec(w->d, g->local.first) : df_dict_enc(w->d, g->local.first);
    for (size_t s = 0; s < span.sites; s++) {
        const block b = {.base = base + s * span.width,
                         .row = output ? g->out.count : g->in.count,
                         .width = span.width,
                         .site = span.first + s,
                         .local = g->local.first,
                         .count = g->local.count,
                         .at = view.offset + s * view.site +
                               (w->d->mine.first + g->local.first - g->first) * view.latent,
                         .latent = view.latent,
                         .column = view.column,
                         .output = output};
        DF_TRY(put_block(w, i, &b));
    }
    return DF_OK;
}

/* ---- vectors - */

static float threshold_of(const writer *w, size_t j) {
    if (w->d->activation == DF_JUMPRELU) return w->d->theta[j];
    if (w->d->activation != DF_BATCHTOPK) return 0.0f;
    double cut = (double)w->d->threshold / w->norms[j]; // code times norm is above the threshold
    return cut < (double)FLT_MAX ? (float)cut : FLT_MAX;
}

static float element(const writer *w, exchange_role role, size_t j) {
    switch (role) {
    case ROLE_B_ENC:
        return (float)w->fold->b_enc[j];
    case ROLE_THETA:
        return threshold_of(w, j);
    case ROLE_R_MAG:
        return w->d->r_mag[j];
    default:
        return w->d->b_mag[j];
    }
}

static df_status put_vector(const writer *w, size_t i) {
    const exchange_tensor *t = &w->x->tensor[i];
    const df_dict_group *g = &w->d->group[t->group];
    if (g->local.count == 0) return DF_OK;
    for (size_t j = 0; j < g->local.count; j++)
        w->values[j] = element(w, t->role, g->local.first + j);
    uint64_t at = exchange_view_of(w->x, t).offset;
    return put(w, i, at + w->d->mine.first + g->local.first - g->first, g->local.count);
}

static df_status put_bias(const writer *w, size_t i) {
    const df_dict *d = w->d;
    const exchange_tensor *t = &w->x->tensor[i];
    size_t at = 0, seen = 0;
    for (size_t s = 0; s < d->sites; s++) {
        if (!d->site[s].output) continue;
        const float *b = d->b_dec + (d->site[s].first - d->out.first);
        if (t->part == EXCHANGE_ALL || t->part == seen)
            for (size_t c = 0; c < d->site[s].width; c++)
                w->values[at++] = (float)((double)b[c] / w->fold->scale[s]);
        seen++;
    }
    return put(w, i, 0, at);
}

static df_status put_skip(const writer *w, size_t i) {
    const df_dict *d = w->d;
    double factor = w->fold->scale[0] / w->fold->scale[1];
    for (size_t r = 0; r < d->skip_rows.count; r++) {
        for (size_t c = 0; c < d->in.count; c++)
            w->values[c] = (float)((double)d->w_skip[r * d->in.count + c] * factor);
        DF_TRY(put(w, i, (d->skip_rows.first + r) * d->in.count, d->in.count));
    }
    return DF_OK;
}

/* ---- numbers - */

static df_status put_number(const writer *w, size_t i) {
    const exchange_tensor *t = &w->x->tensor[i];
    if (t->role != ROLE_K) {
        size_t n = df_dict_thresholds(w->d);
        const float *threshold = df_dict_decoupled(w->d) ? w->d->site_threshold : &w->d->threshold;
        memcpy(w->values, threshold, n * sizeof *threshold);
        return put(w, i, 0, n);
    }
    const int64_t wide = (int64_t)w->d->k;
    const int32_t k = (int32_t)w->d->k;
    return df_tensor_file_put(w->file, i - w->first, 0, 1,
                              t->type == DF_I32 ? (const void *)&k : (const void *)&wide);
}

static df_status put_scales(const writer *w, size_t i) {
    for (size_t s = 0; s < w->d->sites; s++) w->values[s] = (float)w->d->site[s].scale;
    return put(w, i, 0, w->d->sites);
}

// Mean 0, and a deviation whose square sums to 1 / scale^2 over a site.
static df_status put_normaliser(const writer *w, size_t i) {
    bool std = w->x->tensor[i].role == ROLE_STD;
    for (size_t s = 0; s < w->d->sites; s++) {
        const df_dict_site *site = &w->d->site[s];
        for (size_t c = 0; c < site->width; c++)
            w->values[site->first + c] =
                std ? (float)(1.0 / (site->scale * sqrt((double)site->width))) : 0.0f;
    }
    return put(w, i, 0, w->d->width);
}

static void spec_of(const exchange *x, const exchange_tensor *t, df_tensor_spec *out) {
    *out = (df_tensor_spec){.name = t->name, .type = t->type};
    if (t->role != ROLE_CARRIED) {
        out->dims = exchange_shape(x, t, out->shape);
        return;
    }
    const json_t *all = json_object_get(x->origin, "carried");
    const json_t *shape = json_object_get(json_object_get(all, t->name), "shape");
    for (size_t d = 0; d < json_array_size(shape) && d < DF_MAX_DIMS; d++)
        out->shape[out->dims++] = (uint64_t)json_integer_value(json_array_get(shape, d));
}

// What the source's file held besides, as hexadecimal digits.
static df_status put_carried(const writer *w, size_t i) {
    const exchange_tensor *t = &w->x->tensor[i];
    const json_t *all = json_object_get(w->x->origin, "carried");
    const char *hex = json_string_value(json_object_get(json_object_get(all, t->name), "hex"));
    df_tensor_spec spec;
    spec_of(w->x, t, &spec);
    size_t given = hex != NULL ? strlen(hex) / 2 : 0, bytes = df_type_bytes(t->type);
    char *data;
    for (int dim = 0; dim < spec.dims; dim++) DF_TRY(df_mul(bytes, spec.shape[dim], &bytes));
    DF_TRY(DF_NEW(data, bytes + 1));
    for (size_t b = 0; b < bytes && given > 0; b++) { // one element stands for all
        unsigned value = 0;
        sscanf(hex + 2 * (b % given), "%2x", &value);
        data[b] = (char)value;
    }
    df_status status =
        df_tensor_file_put(w->file, i - w->first, 0, bytes / df_type_bytes(t->type), data);
    df_free(data);
    return status;
}

static df_status put_tensor(const writer *w, size_t i, bool first_rank) {
    switch (w->x->tensor[i].role) {
    case ROLE_ENC:
        return put_matrix(w, i, false);
    case ROLE_DEC:
        return put_matrix(w, i, true);
    case ROLE_B_ENC:
    case ROLE_THETA:
    case ROLE_R_MAG:
    case ROLE_B_MAG:
        return put_vector(w, i);
    case ROLE_SKIP:
        return put_skip(w, i);
    case ROLE_B_DEC:
        return first_rank ? put_bias(w, i) : DF_OK;
    case ROLE_K:
    case ROLE_CUT:
        return first_rank ? put_number(w, i) : DF_OK;
    case ROLE_SCALE:
        return first_rank ? put_scales(w, i) : DF_OK;
    case ROLE_MEAN:
    case ROLE_STD:
        return first_rank ? put_normaliser(w, i) : DF_OK;
    case ROLE_CARRIED:
        return first_rank ? put_carried(w, i) : DF_OK;
    }
    return DF_OK;
}

/* ---- files - */

// Tensors [first, end) are one file.
static df_status put_file(writer *w, df_comm *comm, const char *name, size_t first, size_t end) {
    df_tensor_spec *specs = NULL;
    char *path = df_format("%s/%s", w->x->folder, name);
    bool speaker = df_comm_rank(comm) == 0;
    df_status status = path != NULL ? DF_NEW(specs, end - first) : DF_FAILED;
    for (size_t i = first; i < end && status == DF_OK; i++)
        spec_of(w->x, &w->x->tensor[i], &specs[i - first]);
    w->first = first;
    DF_GO(df_agree(comm, status));
    DF_GO(df_tensor_file_create(comm, path, specs, end - first, &w->file));
    for (size_t i = first; i < end && status == DF_OK; i++) status = put_tensor(w, i, speaker);
    status = df_agree(comm, status);
    if (status == DF_OK)
        status = df_tensor_file_finish(&w->file);
    else
        df_tensor_file_abandon(&w->file);
done:
    df_free(specs);
    df_free(path);
    return status;
}

static size_t longest(const df_dict *d) {
    size_t n = d->mine.count > d->width ? d->mine.count : d->width;
    return n > d->sites ? n : d->sites;
}

df_status exchange_put(const exchange *x, df_comm *comm, const df_dict *dict,
                       const exchange_fold *fold) {
    writer w = {.x = x, .d = dict, .fold = fold};
    df_status status = exchange_norms(dict, &w.norms);
    if (status == DF_OK) status = DF_NEW(w.values, longest(dict));
    if (status == DF_OK) status = DF_NEW(w.packed, 8 * longest(dict));
    DF_GO(df_agree(comm, status));
    for (size_t first = 0, end; first < x->tensors; first = end) {
        char room[64], other[64];
        const char *name = x->family->file_of(x, first, room);
        for (end = first + 1; end < x->tensors; end++)
            if (strcmp(x->family->file_of(x, end, other), name) != 0) break;
        DF_GO(put_file(&w, comm, name, first, end));
    }
done:
    df_free(w.norms);
    df_free(w.values);
    df_free(w.packed);
    return status;
}
