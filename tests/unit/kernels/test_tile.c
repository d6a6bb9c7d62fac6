/* The screen's panels and tiles: every precision against its plain twin, and against the bound that
 * the coder relies on. */
#include "df_test.h"

#include "darkfield/kernels.h"

#define WIDTH 131
#define ROWS DF_TILE_ROWS
#define LATENTS DF_TILE_LATENTS
#define UNIT 5.9604644775390625e-8

static void fill(float *x, size_t n, uint64_t seed, float size) {
    for (size_t i = 0; i < n; i++) x[i] = size * (float)df_random_normal(seed, DF_STREAM_TEST, i);
}

typedef struct tile_case {
    size_t width, rows, latents;
    float x[ROWS * (WIDTH + 3)], w[LATENTS * WIDTH]; /* rows are width + 3 apart */
    uint32_t room[(ROWS + LATENTS) * WIDTH + 1];     /* panels, at any address */
    float row_unit[ROWS], row_lost[ROWS], unit[LATENTS], lost[LATENTS];
    int32_t start[LATENTS];
    float gain[LATENTS], lift[LATENTS], floor[ROWS];
    df_tile tile;
} tile_case;

static void pack_case(tile_case *t, df_screen screen) {
    uint32_t *rows = t->room + 1, *latents = rows + ROWS * WIDTH;
    df_panel of_rows = {screen, ROWS, t->width, rows};
    df_panel of_latents = {screen, LATENTS, t->width, latents};
    memset(t->row_unit, 0, sizeof t->row_unit);
    df_pack(&of_rows, t->x, t->width + 3, t->rows, (df_packed){t->row_unit, t->row_lost, NULL});
    df_pack(&of_latents, t->w, t->width, t->latents, (df_packed){t->unit, t->lost, t->start});
    for (size_t l = 0; l < t->latents; l++) t->gain[l] = (1.0f + (float)(l % 3)) * t->unit[l];
    for (size_t r = 0; r < ROWS; r++) t->floor[r] = r == 3 ? INFINITY : 0.7f * (float)r - 4.0f;
    t->tile = (df_tile){.screen = screen,
                        .width = t->width,
                        .rows = rows,
                        .latents = latents,
                        .start = t->start,
                        .gain = t->gain,
                        .lift = t->lift,
                        .unit = t->row_unit,
                        .floor = t->floor};
}

static double length_of(const float *v, size_t n) {
    return sqrt(df_sum_squares(v, n));
}

/* |x w - x' w'| <= |dx| (|w| + |dw|) + |x| |dw| + 2 D u |x| |w|, as in the coder. */
static void check_bound(const tile_case *t, const float *product) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t l = 0; l < t->latents; l++) {
            const float *x = t->x + r * (t->width + 3), *w = t->w + l * t->width;
            double exact = 0.0, size_x = length_of(x, t->width), size_w = length_of(w, t->width);
            for (size_t c = 0; c < t->width; c++) exact += (double)x[c] * (double)w[c];
            double screened =
                (double)product[r * LATENTS + l] * (double)t->unit[l] * (double)t->row_unit[r];
            double bound = (double)t->row_lost[r] * (size_w + (double)t->lost[l]) +
                           size_x * (double)t->lost[l] +
                           2.0 * (double)(t->width + 64) * UNIT * size_x * size_w + 1e-34;
            assert_true(fabs(screened - exact) <= bound);
        }
}

/* Bits where the upper value clearly reaches the floor, or clearly does not. */
static void check_masks(const tile_case *t, const float *product, const uint32_t *mask) {
    for (size_t r = 0; r < ROWS; r++)
        for (size_t l = 0; l < t->latents; l++) {
            double u = (double)product[r * LATENTS + l] * (double)t->gain[l];
            u = u * (double)t->row_unit[r] + (double)t->lift[l];
            double room = 1e-5 * (fabs(u) + 1.0);
            if (u > (double)t->floor[r] + room) assert_true((mask[r] >> l & 1) == 1);
            if (u < (double)t->floor[r] - room) assert_true((mask[r] >> l & 1) == 0);
        }
    assert_int_equal(mask[3], 0);
}

static void check_case(tile_case *t, df_screen screen) {
    float product[2][DF_TILE_ENTRIES];
    uint32_t mask[2][ROWS], any[2], seen = 0;
    pack_case(t, screen);
    any[0] = df_screen_tile(&t->tile, product[0], mask[0]);
    any[1] = df_screen_tile_plain(&t->tile, product[1], mask[1]);
    check_bound(t, product[0]);
    check_bound(t, product[1]);
    check_masks(t, product[0], mask[0]);
    check_masks(t, product[1], mask[1]);
    for (size_t r = 0; r < ROWS; r++) seen |= mask[0][r];
    assert_true(any[0] == seen && (any[1] != 0) == (seen != 0));
    if (screen == DF_SCREEN_INT8) // sums of integers, rounded once
        assert_memory_equal(product[0], product[1], sizeof product[0]);
}

static void test_tiles(void **state) {
    (void)state;
    static tile_case t;
    static const float sizes[] = {1.0f, 1e-20f, 1e18f, 1e-38f};
    for (uint64_t round = 0; round < 120; round++) {
        t = (tile_case){.width = 1 + df_random_bits(1, DF_STREAM_TEST, round) % WIDTH};
        t.rows = 1 + df_random_bits(2, DF_STREAM_TEST, round) % ROWS;
        t.latents = 1 + df_random_bits(3, DF_STREAM_TEST, round) % LATENTS;
        fill(t.x, t.rows * (t.width + 3), 10 + round, sizes[round % 4]);
        fill(t.w, t.latents * t.width, 300 + round, sizes[round / 4 % 2]);
        fill(t.lift, LATENTS, 600 + round, 0.5f);
        if (round % 6 == 5) t.x[0] = 1e3f * sizes[round % 4]; // one outlier column
        if (round % 7 == 6) memset(t.w, 0, t.width * sizeof *t.w);
        for (int s = 0; s < DF_SCREENS; s++) check_case(&t, (df_screen)s);
    }
}

/* Masks with few bits, many, all and none. */
static void test_places(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 500; round++) {
        uint32_t mask[ROWS];
        uint16_t place[2][DF_TILE_PLACES];
        for (size_t r = 0; r < ROWS; r++) {
            mask[r] = (uint32_t)df_random_bits(4, DF_STREAM_TEST, round * ROWS + r);
            for (size_t n = 0; n < round % 7; n++) // every second bit goes
                mask[r] &= (uint32_t)df_random_bits(5 + n, DF_STREAM_TEST, round * ROWS + r);
            if (round % 11 == 10) mask[r] = round % 2 == 0 ? UINT32_MAX : 0;
        }
        size_t n = df_mask_places(mask, place[0]), seen = 0;
        assert_int_equal(n, df_mask_places_plain(mask, place[1]));
        assert_memory_equal(place[0], place[1], n * sizeof place[0][0]);
        for (size_t i = 0; i < n; i++) {
            assert_true(i == 0 || place[0][i - 1] < place[0][i]);
            assert_true((mask[place[0][i] / LATENTS] >> place[0][i] % LATENTS & 1) == 1);
        }
        for (size_t r = 0; r < ROWS; r++) seen += (size_t)__builtin_popcount(mask[r]);
        assert_int_equal(n, seen);
    }
}

/* What bf16 could only hold as a subnormal is lost, and counted; ties go to even. */
static void test_bf16_rounding(void **state) {
    (void)state;
    float rows[2][4] = {{1.0f, 1e-39f, -3.5f, 0.0f}, {1.00390625f, 2.0f, 0.0f, 1e-45f}};
    float unit[2], lost[2];
    uint32_t panel[2 * LATENTS], other[2 * LATENTS] = {0};
    df_panel p = {DF_SCREEN_BF16, LATENTS, 4, panel}, q = {DF_SCREEN_BF16, LATENTS, 4, other};
    df_pack(&p, &rows[0][0], 4, 2, (df_packed){unit, lost, NULL});
    assert_int_equal(panel[0], 0x3f80);
    assert_int_equal(panel[LATENTS], 0xc060);
    assert_int_equal(panel[1], 0x3f80 | 0x4000u << 16);
    assert_true(lost[0] >= 1e-39f && lost[0] < 1e-37f);
    assert_close(lost[1], 0.00390625, 1e-5, 0);
    assert_int_equal(panel[2], 0);
    df_panel_copy(&q, 7, &p, 1);
    assert_true(other[7] == panel[1] && other[LATENTS + 7] == panel[LATENTS + 1] && other[6] == 0);
}

static void test_int8_rounding(void **state) {
    (void)state;
    float row[5] = {127.0f, -1.0f, 0.4f, 0.0f, -127.0f}, tiny[5] = {1e-33f}, unit, lost;
    int32_t start;
    uint32_t panel[2];
    uint8_t bytes[8];
    df_panel p = {DF_SCREEN_INT8, 1, 5, panel};
    df_pack(&p, row, 5, 1, (df_packed){&unit, &lost, NULL});
    memcpy(bytes, panel, sizeof bytes);
    assert_true(bytes[0] == 255 && bytes[1] == 127 && bytes[2] == 128 && bytes[4] == 1);
    assert_close(unit, 1.0, 1e-7, 0);
    assert_close(lost, 0.4, 1e-3, 0);
    df_pack(&p, row, 5, 1, (df_packed){&unit, &lost, &start});
    assert_int_equal(start, 128);
    df_pack(&p, tiny, 5, 1, (df_packed){&unit, &lost, &start});
    assert_true(start == 0 && unit == 0.0f && lost >= 1e-33f && panel[0] == 0);
}

static bool same_bits(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static void test_whole_products(void **state) {
    (void)state;
    static float left[WIDTH * ROWS], right[WIDTH * LATENTS];
    float fast[DF_TILE_ENTRIES], plain[DF_TILE_ENTRIES];
    fill(left, WIDTH * ROWS, 1, 1.0f);
    fill(right, WIDTH * LATENTS, 2, 1.0f);
    fill(fast, DF_TILE_ENTRIES, 3, 1.0f);
    memcpy(plain, fast, sizeof plain);
    for (size_t n = 0; n <= WIDTH; n += 1 + n / 3)
        for (int add = 1; add >= 0; add--) {
            df_multiply_tile(left, right, n, add != 0, fast);
            df_multiply_tile_plain(left, right, n, add != 0, plain);
            assert_true(same_bits(fast, plain, DF_TILE_ENTRIES));
        }
}

static void test_dot_tile(void **state) {
    (void)state;
    static tile_case t;
    static float left[(WIDTH + 15) * ROWS], right[(WIDTH + 15) * LATENTS];
    float out[DF_TILE_ENTRIES];
    assert_true(df_dot_floats(WIDTH) <= WIDTH + 15);
    fill(t.x, ROWS * (WIDTH + 3), 1, 1.0f);
    fill(t.w, LATENTS * WIDTH, 2, 1.0f);
    for (size_t n = 1; n <= WIDTH; n += 1 + n / 5) {
        size_t rows = n % ROWS + 1, latents = n % LATENTS + 1;
        df_pack_dots(t.x, (df_extent){rows, n}, WIDTH + 3, ROWS, left);
        df_pack_dots(t.w, (df_extent){latents, n}, WIDTH, LATENTS, right);
        df_dot_tile(left, right, n, out);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t l = 0; l < LATENTS; l++) {
                float plain = 0.0f;
                if (r < rows && l < latents)
                    plain = df_dot_plain(t.x + r * (WIDTH + 3), t.w + l * WIDTH, n);
                assert_true(same_bits(&plain, &out[r * LATENTS + l], 1));
            }
    }
}

static void test_choice(void **state) {
    (void)state;
    df_kernels *kernels;
    assert_ok(df_kernels_open("auto", &kernels));
    df_screen best = df_kernels_screen(kernels);
    assert_true(df_screen_quick(best) && !df_screen_quick(DF_SCREEN_PLAIN));
    for (int s = 0; s < DF_SCREENS; s++) {
        assert_ok(df_kernels_set_screen(kernels, df_screen_name((df_screen)s)));
        assert_int_equal(df_kernels_screen(kernels), s);
    }
    assert_ok(df_kernels_set_screen(kernels, "auto"));
    assert_int_equal(df_kernels_screen(kernels), best);
    assert_fails(df_kernels_set_screen(kernels, "fp8"), DF_USAGE, "fp8");
    df_kernels_close(&kernels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles),          cmocka_unit_test(test_places),
        cmocka_unit_test(test_bf16_rounding),  cmocka_unit_test(test_int8_rounding),
        cmocka_unit_test(test_whole_products), cmocka_unit_test(test_dot_tile),
        cmocka_unit_test(test_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
