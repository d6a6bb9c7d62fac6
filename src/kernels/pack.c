/* Packed panels of the screen, and what rounding took from them. */
#include "darkfield/kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "pack.h"

#define PART 64 /* columns rounded at a time, so that rounding vectorises and stores stay near */
#define SUMS 32 /* of squares side by side: as many as hide the latency of a sum */

size_t df_screen_columns(df_screen screen) {
    return screen == DF_SCREEN_INT8 ? 4 : screen == DF_SCREEN_BF16 ? 2 : 1;
}

size_t df_screen_words(df_screen screen, size_t width) {
    size_t columns = df_screen_columns(screen);
    return (width + columns - 1) / columns;
}

size_t df_panel_bytes(df_screen screen, size_t lanes, size_t width) {
    return lanes * sizeof(uint32_t) * df_screen_words(screen, width);
}

/* ---- rounding ------------------------------------------------------------------------------- */

/* To nearest even; what bf16 could only hold as a subnormal becomes zero, as the CPU would read it.
 * Finite x below 3e38. */
static uint32_t round_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (rounded & 0x7f80u) != 0 ? rounded : 0;
}

static float widen(uint32_t half) {
    uint32_t bits = half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float largest_size(const float *row, size_t n) {
    float most[16] = {0.0f}, largest = 0.0f;
    for (size_t i = 0; i + 16 <= n; i += 16)
        for (size_t l = 0; l < 16; l++)
            most[l] = fabsf(row[i + l]) > most[l] ? fabsf(row[i + l]) : most[l];
    for (size_t i = n / 16 * 16; i < n; i++)
        largest = fabsf(row[i]) > largest ? fabsf(row[i]) : largest;
    for (size_t l = 0; l < 16; l++) largest = most[l] > largest ? most[l] : largest;
    return largest;
}

static void add_squares(double sum[static SUMS], const float part[static PART]) {
    for (size_t i = 0; i < PART; i += SUMS)
        for (size_t l = 0; l < SUMS; l++) sum[l] += (double)part[i + l] * (double)part[i + l];
}

static double total(const double sum[static SUMS]) {
    double all = 0.0;
    for (size_t l = 0; l < SUMS; l++) all += sum[l];
    return all;
}

/* ---- one lane ------------------------------------------------------------------------------- */

typedef struct lane {
    uint32_t *out; /* words, `lanes` apart */
    size_t lanes, width;
    const float *from;
} lane;

static void pack_fp32(lane l) {
    for (size_t c = 0; c < l.width; c++) memcpy(l.out + c * l.lanes, l.from + c, sizeof *l.out);
}

/* Returns the sum of squares of what is lost. */
static double pack_bf16(lane l) {
    double lost[SUMS] = {0.0};
    for (size_t c = 0; c < l.width; c += PART) {
        size_t n = l.width - c < PART ? l.width - c : PART;
        uint32_t half[PART] = {0};
        float gone[PART] = {0.0f};
        for (size_t i = 0; i < n; i++) half[i] = round_bf16(l.from[c + i]);
        for (size_t i = 0; i < n; i++) gone[i] = l.from[c + i] - widen(half[i]);
        for (size_t i = 0; i < (n + 1) / 2; i++)
            l.out[(c / 2 + i) * l.lanes] = half[2 * i] | half[2 * i + 1] << 16;
        add_squares(lost, gone);
    }
    return total(lost);
}

/* With 1 / unit = inverse. `offset` is 128 for rows. The sum of the packed numbers goes to *sum. */
static double pack_int8(lane l, float unit, float inverse, int32_t offset, int32_t *sum) {
    double lost[SUMS] = {0.0};
    for (size_t c = 0; c < l.width; c += PART) {
        size_t n = l.width - c < PART ? l.width - c : PART;
        int32_t q[PART] = {0};
        uint8_t byte[PART];
        float gone[PART] = {0.0f};
        for (size_t i = 0; i < n; i++) q[i] = (int32_t)rintf(l.from[c + i] * inverse);
        for (size_t i = 0; i < n; i++) gone[i] = l.from[c + i] - unit * (float)q[i];
        for (size_t i = 0; i < PART; i++) *sum += q[i];
        for (size_t i = 0; i < PART; i++) byte[i] = (uint8_t)(q[i] + offset);
        for (size_t i = 0; i < (n + 3) / 4; i++)
            memcpy(l.out + (c / 4 + i) * l.lanes, byte + 4 * i, sizeof *l.out);
        add_squares(lost, gone);
    }
    return total(lost);
}

/* ---- panels --------------------------------------------------------------------------------- */

/* The small terms cover the rounding of this arithmetic itself. */
static float upwards(double squares) {
    return (float)(sqrt(squares) * (1.0 + 1e-6) + (double)FLT_MIN);
}

static void pack_lane(df_screen screen, lane l, df_packed out, size_t i) {
    out.unit[i] = 1.0f;
    out.lost[i] = 0.0f;
    if (screen == DF_SCREEN_BF16) {
        out.lost[i] = upwards(pack_bf16(l));
    } else if (screen == DF_SCREEN_INT8) {
        float size = largest_size(l.from, l.width), unit = size / 127.0f;
        bool tiny = !(size > 1e-30f); // its inverse might not be finite
        int32_t sum = 0, offset = out.start == NULL ? 128 : 0;
        double lost = pack_int8(l, tiny ? 0.0f : unit, tiny ? 0.0f : 1.0f / unit, offset, &sum);
        // each of the width products unit * q was rounded by at most 2^-24 of size
        out.lost[i] = upwards(lost) + size * 2e-7f * sqrtf((float)l.width);
        out.unit[i] = tiny ? 0.0f : unit;
        if (out.start != NULL) out.start[i] = -128 * sum;
    } else {
        pack_fp32(l);
    }
}

void df_pack(const df_panel *to, const float *from, size_t ld, size_t count, df_packed out) {
    if (count < to->lanes) memset(to->packed, 0, df_panel_bytes(to->screen, to->lanes, to->width));
    for (size_t i = 0; i < count; i++)
        pack_lane(to->screen,
                  (lane){(uint32_t *)to->packed + i, to->lanes, to->width, from + i * ld}, out, i);
}

void df_panel_copy(const df_panel *to, size_t to_lane, const df_panel *from, size_t from_lane) {
    uint32_t *out = (uint32_t *)to->packed + to_lane;
    const uint32_t *in = (const uint32_t *)from->packed + from_lane;
    size_t words = df_screen_words(to->screen, to->width);
    for (size_t i = 0; i < words; i++) out[i * to->lanes] = in[i * from->lanes];
}

/* ---- the twin ------------------------------------------------------------------------------- */

static double word_product(df_screen screen, uint32_t a, uint32_t b) {
    double sum = 0.0;
    if (screen == DF_SCREEN_BF16)
        return (double)widen(a & 0xffffu) * (double)widen(b & 0xffffu) +
               (double)widen(a >> 16) * (double)widen(b >> 16);
    if (screen == DF_SCREEN_INT8) {
        for (int shift = 0; shift < 32; shift += 8)
            sum += (double)(a >> shift & 255) * (double)(int8_t)(b >> shift & 255);
        return sum;
    }
    float x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return (double)x * (double)y;
}

float df_tile_product(const df_tile *t, size_t row, size_t latent) {
    const uint32_t *a = (const uint32_t *)t->rows + row, *b = (const uint32_t *)t->latents + latent;
    double sum = t->screen == DF_SCREEN_INT8 ? (double)t->start[latent] : 0.0;
    for (size_t i = 0; i < df_screen_words(t->screen, t->width); i++)
        sum += word_product(t->screen, a[i * DF_TILE_ROWS], b[i * DF_TILE_LATENTS]);
    return (float)sum;
}

uint32_t df_tile_masks(const df_tile *t, const float *product, uint32_t *mask) {
    uint32_t any = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        mask[r] = 0;
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            float u = fmaf(product[r * DF_TILE_LATENTS + l] * t->gain[l], t->unit[r], t->lift[l]);
            mask[r] |= (uint32_t)(u >= t->floor[r]) << l;
        }
        any |= mask[r];
    }
    return any;
}

uint32_t df_screen_tile_plain(const df_tile *t, float product[static DF_TILE_ENTRIES],
                              uint32_t mask[static DF_TILE_ROWS]) {
    for (size_t r = 0; r < DF_TILE_ROWS; r++)
        for (size_t l = 0; l < DF_TILE_LATENTS; l++)
            product[r * DF_TILE_LATENTS + l] = df_tile_product(t, r, l);
    return df_tile_masks(t, product, mask);
}
