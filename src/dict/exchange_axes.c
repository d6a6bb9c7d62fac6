/* Axes: from letters to shapes and strides, and from the shapes of files to sizes. */
#include "exchange.h"

#include <inttypes.h>
#include <string.h>

static uint64_t extent(const exchange *x, const exchange_tensor *t, char axis) {
    switch (axis) {
    case 'F':
        return x->latents;
    case 'I':
        return x->in;
    case 'O':
        return x->out;
    case 'S':
        return x->layers;
    case 'T':
        return x->layers - t->group;
    case 'L':
        return t->lead;
    default:
        return 1;
    }
}

int exchange_shape(const exchange *x, const exchange_tensor *t, uint64_t shape[DF_MAX_DIMS]) {
    int dims = (int)strlen(t->axes);
    for (int d = 0; d < dims; d++) shape[d] = extent(x, t, t->axes[d]);
    return dims;
}

exchange_view exchange_view_of(const exchange *x, const exchange_tensor *t) {
    exchange_view view = {.elements = 1};
    for (size_t d = strlen(t->axes); d-- > 0;) {
        char axis = t->axes[d];
        uint64_t step = view.elements;
        if (axis == 'F') view.latent = step;
        if (axis == 'I' || axis == 'O') view.column = step;
        if (axis == 'S' || axis == 'T') view.site = step;
        if (axis == 'L') view.offset += t->pick * step;
        view.elements *= extent(x, t, axis);
    }
    return view;
}

/* ---- learning sizes - */

static size_t *unknown(exchange *x, char axis) {
    size_t *size = axis == 'F'   ? &x->latents
                   : axis == 'I' ? &x->in
                   : axis == 'O' ? &x->out
                   : axis == 'S' ? &x->layers
                                 : NULL;
    return size != NULL && *size == 0 ? size : NULL;
}

static df_status misshapen(const exchange *x, const exchange_tensor *t) {
    char found[100] = "", want[100] = "";
    for (int d = 0; d < t->found->dims; d++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%" PRIu64,
                 d > 0 ? ", " : "", t->found->shape[d]);
    for (size_t d = 0; t->axes[d] != '\0'; d++) {
        uint64_t n = extent(x, t, t->axes[d]);
        snprintf(want + strlen(want), sizeof want - strlen(want), n > 0 ? "%s%" PRIu64 : "%sany",
                 d > 0 ? ", " : "", n);
    }
    return df_fail(DF_BAD_INPUT,
                   "%s: tensor \"%s\" has shape [%s], expected [%s] (axes %s: F latents, I columns "
                   "read, O columns written, S and T sites)",
                   x->folder, t->name, found, want, t->axes);
}

static df_status learn(exchange *x, const exchange_tensor *t) {
    if (t->found->dims != (int)strlen(t->axes)) return misshapen(x, t);
    for (int d = 0; d < t->found->dims; d++) {
        uint64_t n = t->found->shape[d];
        size_t *size = unknown(x, t->axes[d]);
        if (size != NULL) {
            if (n == 0 || n > UINT32_MAX) return misshapen(x, t);
            *size = n;
        }
        if (n != extent(x, t, t->axes[d])) return misshapen(x, t);
    }
    return DF_OK;
}

static bool fits_role(const exchange_tensor *t) {
    df_type type = t->found->type;
    bool real = type == DF_F32 || type == DF_BF16 || type == DF_F16 || type == DF_F64;
    if (t->role == ROLE_CARRIED) return true;
    if (t->role == ROLE_K) return type == DF_I32 || type == DF_I64;
    return real;
}

static df_status find_tensor(exchange *x, exchange_tensor *t) {
    t->found = exchange_find(x, t->name);
    if (t->found == NULL && t->optional) return DF_OK;
    if (t->found == NULL)
        return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" is missing", x->folder, t->name);
    t->type = t->found->type;
    if (!fits_role(t))
        return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" is of type %s, expected %s", x->folder,
                       t->name, df_type_name(t->type),
                       t->role == ROLE_K ? "an integer" : "f32, bf16, f16 or f64");
    return t->role == ROLE_CARRIED ? DF_OK : learn(x, t);
}

static df_status check_strangers(const exchange *x) {
    for (size_t f = 0; f < x->files; f++)
        for (size_t i = 0; i < df_tensors_count(x->file[f]); i++) {
            const char *name = df_tensors_at(x->file[f], i)->name;
            size_t t = 0;
            while (t < x->tensors && strcmp(x->tensor[t].name, name) != 0) t++;
            if (t == x->tensors)
                return df_fail(DF_BAD_INPUT,
                               "%s: tensor \"%s\" has no place in a %s dictionary of this kind",
                               x->file_name[f], name, x->family->name);
        }
    return DF_OK;
}

df_status exchange_match(exchange *x) {
    for (size_t i = 0; i < x->tensors; i++) DF_TRY(find_tensor(x, &x->tensor[i]));
    DF_TRY(check_strangers(x));
    if (x->out == 0) x->out = x->in;
    if (x->layers == 0) x->layers = 1;
    bool same = x->kind == DF_SAE || x->kind == DF_CROSSCODER;
    if (same && x->in != x->out)
        return df_fail(DF_BAD_INPUT,
                       "%s: it reads %zu columns and writes %zu: no autoencoder (a transcoder? "
                       "--kind transcoder)",
                       x->folder, x->in, x->out);
    if (x->latents > 0 && x->in > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: no encoder in it", x->folder);
}
