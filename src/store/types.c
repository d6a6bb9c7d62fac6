/* Element types; their conversion to and from fp32 is done in kernels. */
#include "darkfield/kernels.h"
#include "darkfield/store.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [DF_U8] = {"u8", 1},     [DF_U32] = {"u32", 4}, [DF_U64] = {"u64", 8}, [DF_I64] = {"i64", 8},
    [DF_BF16] = {"bf16", 2}, [DF_F16] = {"f16", 2}, [DF_F32] = {"f32", 4}, [DF_F64] = {"f64", 8},
    [DF_I32] = {"i32", 4},   [DF_U16] = {"u16", 2},
};

size_t df_type_bytes(df_type type) {
    return types[type].bytes;
}

const char *df_type_name(df_type type) {
    return types[type].name;
}

df_status df_type_parse(const char *name, df_type *out) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcasecmp(name, types[i].name) != 0) continue;
        *out = (df_type)i;
        return DF_OK;
    }
    return df_fail(
        DF_BAD_INPUT,
        "unknown element type \"%s\": expected u8, u16, u32, u64, i32, i64, bf16, f16, f32 or f64",
        name);
}

static void f64_to_f32(const void *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, (const char *)in + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

// `in` may be unaligned: it can point into a mapped file.
void df_to_f32(df_type from, const void *in, float *out, size_t n) {
    if (n == 0) return;
    switch (from) {
    case DF_F32:
        memcpy(out, in, 4 * n);
        return;
    case DF_BF16:
        df_widen_bf16(in, out, n);
        return;
    case DF_F16:
        df_widen_f16(in, out, n);
        return;
    case DF_F64:
        f64_to_f32(in, out, n);
        return;
    default:
        assert(false && "df_to_f32 takes floating-point types");
    }
}

void df_from_f32(df_type to, const float *in, void *out, size_t n) {
    if (n == 0) return;
    switch (to) {
    case DF_F32:
        memcpy(out, in, 4 * n);
        return;
    case DF_BF16:
        df_narrow_bf16(in, out, n);
        return;
    case DF_F16:
        df_narrow_f16(in, out, n);
        return;
    case DF_F64:
        for (size_t i = 0; i < n; i++) ((double *)out)[i] = (double)in[i];
        return;
    default:
        assert(false && "df_from_f32 takes floating-point types");
    }
}
