/* Where a dictionary came from: kept in the text of its job, so that it goes back as it came. */
#include "exchange.h"

#include <string.h>

/* HDF5 keeps attributes of up to 64 KiB; a config longer than this is not carried. */
#define MOST_TEXT 60000
/* Small tensors are carried whole, larger ones where all their elements are equal. */
#define MOST_CARRIED 1024

static json_t *carried(const df_tensor *t) {
    size_t width = df_type_bytes(t->type), bytes = t->elements * width;
    const char *data = t->data;
    bool equal = true;
    char hex[2 * MOST_CARRIED + 1] = "";
    for (size_t b = width; b < bytes && equal; b++) equal = data[b] == data[b % width];
    if (!equal && bytes > MOST_CARRIED) return NULL;
    size_t n = equal && bytes > 0 ? width : bytes;
    for (size_t b = 0; b < n; b++)
        snprintf(hex + 2 * b, 3, "%02x", (unsigned)(unsigned char)data[b]);
    json_t *shape = json_array();
    for (int d = 0; d < t->dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    return json_pack("{s:s, s:o, s:s}", "type", df_type_name(t->type), "shape", shape, "hex", hex);
}

static json_t *describe(const exchange *x) {
    json_t *types = json_object(), *small = json_object();
    for (size_t i = 0; i < x->tensors; i++) {
        const exchange_tensor *t = &x->tensor[i];
        if (t->found == NULL) continue;
        if (t->role == ROLE_CARRIED) {
            json_t *one = carried(t->found);
            if (one != NULL) json_object_set_new(small, t->name, one);
        } else if (t->found->type != DF_F32)
            json_object_set_new(types, t->name, json_string(df_type_name(t->found->type)));
    }
    json_t *inner = json_pack("{s:s, s:I, s:o, s:o}", "from", x->family->name, "layer",
                              (json_int_t)x->layer, "types", types, "carried", small);
    if (x->config != NULL && strlen(x->config) < MOST_TEXT / 2)
        json_object_set_new(inner, "config", json_string(x->config));
    if (x->variant != NULL) json_object_set_new(inner, "variant", json_string(x->variant));
    return json_pack("{s:o}", "converted", inner);
}

df_status exchange_origin_write(const exchange *x, char **job) {
    *job = exchange_dump(describe(x));
    if (*job == NULL) return DF_FAILED;
    if (strlen(*job) < MOST_TEXT) return DF_OK;
    df_free(*job);
    *job = df_strdup("{\"converted\": {}}");
    return *job != NULL ? DF_OK : DF_FAILED;
}

/* ---- the way back - */

static df_status use_tensor(const exchange *x, exchange_tensor *t, bool *keep) {
    const json_t *types = json_object_get(x->origin, "types");
    const json_t *small = json_object_get(json_object_get(x->origin, "carried"), t->name);
    const char *type = json_string_value(json_object_get(types, t->name));
    *keep = t->role != ROLE_CARRIED || small != NULL;
    if (t->role == ROLE_CARRIED) type = json_string_value(json_object_get(small, "type"));
    return *keep && type != NULL ? df_type_parse(type, &t->type) : DF_OK;
}

static json_t *origin_of(const exchange *x) {
    json_error_t error;
    const char *job = x->dict->job;
    json_t *root = job != NULL && job[0] == '{' ? json_loads(job, 0, &error) : NULL;
    json_t *inner = json_incref(json_object_get(root, "converted"));
    json_decref(root);
    const char *from = json_string_value(json_object_get(inner, "from"));
    if (from != NULL && strcmp(from, x->family->name) == 0) return inner;
    json_decref(inner);
    return NULL;
}

df_status exchange_origin_use(exchange *x) {
    size_t kept = 0;
    if (x->origin == NULL && x->tensors == 0) { // before the list: what the list depends on
        x->origin = origin_of(x);
        const char *variant = json_string_value(json_object_get(x->origin, "variant"));
        json_int_t layer = json_integer_value(json_object_get(x->origin, "layer"));
        if (layer > 0 && x->options->layer < 0) x->layer = (size_t)layer;
        return variant != NULL ? exchange_name(&x->variant, variant) : DF_OK;
    }
    for (size_t i = 0; i < x->tensors; i++) {
        bool keep;
        DF_TRY(use_tensor(x, &x->tensor[i], &keep));
        if (keep) x->tensor[kept++] = x->tensor[i];
    }
    x->tensors = kept;
    const char *config = json_string_value(json_object_get(x->origin, "config"));
    return config != NULL ? exchange_name(&x->config, config) : DF_OK;
}
