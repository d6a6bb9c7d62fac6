/* A model whose blocks stand on two ranks: bench_pipeline FOLDER [ROUNDS], two ranks of one thread.
 * A model of forward-llama's shape with random weights is written into FOLDER. In each round the
 * first rank alone runs one window of 512 tokens with its loss while the other sleeps, then both
 * run windows in the pipeline; counted are those between the first and the last, as in a long job,
 * while the first stage always has a next one. */
#include "median.h"
#include "shapes.h"

#include "darkfield/line.h"
#include "darkfield/placement.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { WINDOW = 512, MOST_ROUNDS = 64, COUNTED = 4, AHEAD = 2 };

/* A model or a part, and a pass of it. */
typedef struct stage {
    df_model *model;
    df_forward *forward;
} stage;

typedef struct bench {
    df_comm *world;
    const char *folder;
    size_t rounds, numbers; // floats of a window's stream
    stage whole, part;      // whole: on the first rank
    df_line *line;
} bench;

static df_status open_stage(const bench *b, df_model_part part, stage *s) {
    DF_TRY(df_model_open_part(b->folder, part, &s->model));
    return df_forward_open(s->model, WINDOW, NULL, 0, &s->forward);
}

static void close_stage(stage *s) {
    df_forward_close(&s->forward);
    df_model_close(&s->model);
}

static void draw_ids(size_t window, uint32_t *ids) {
    for (size_t t = 0; t < WINDOW; t++)
        ids[t] = (uint32_t)(df_random_bits(5, DF_STREAM_TEST, window * WINDOW + t) % 4096);
}

/* ---- where the blocks stand ----------------------------------------------------------------- */

static uint64_t weights_of(const void *shape, df_model_part part) {
    return df_model_part_bytes(shape, part, false);
}

static df_status place(const bench *b, df_model_shape *shape, df_model_part part[2]) {
    double cost[64], head;
    DF_TRY(df_model_plan(b->folder, shape));
    DF_TRY(df_model_costs(b->folder, WINDOW, cost, &head));
    const df_load load = {shape->layers, cost, head, weights_of, shape};
    return df_place(&load, 2, 0, part);
}

/* ---- one rank ------------------------------------------------------------------------------- */

// Sleeps where another waits: a rank that spins would take from the one that is measured.
static void take_turns(const bench *b, size_t round) {
    char *flag = df_format("%s/round-%zu", b->folder, round);
    if (df_comm_rank(b->world) == 0)
        (void)!df_write_file(flag, "", 0);
    else
        while (!df_file_exists(flag)) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    df_free(flag);
    df_barrier(b->world);
}

static df_status time_alone(const bench *b, size_t round, double *seconds) {
    uint32_t ids[WINDOW];
    double nll[WINDOW], start = df_now();
    draw_ids(round, ids);
    DF_TRY(df_forward_run(b->whole.forward, ids, WINDOW, NULL, NULL));
    DF_TRY(df_forward_nll(b->whole.forward, nll));
    *seconds = df_now() - start;
    return DF_OK;
}

/* ---- both ----------------------------------------------------------------------------------- */

// One window through this stage.
static df_status pass(const bench *b, size_t window) {
    uint32_t ids[WINDOW];
    double nll[WINDOW];
    const void *in;
    size_t bytes = b->numbers * sizeof(float);
    draw_ids(window, ids);
    bool good = df_line_take(b->line, &in);
    float *room = df_line_room(b->line), *stream = df_forward_stream(b->part.forward);
    if (good && in != NULL) memcpy(stream, in, bytes);
    df_status status = good ? df_forward_run(b->part.forward, ids, WINDOW, NULL, NULL) : DF_OK;
    if (room != NULL)
        memcpy(room, stream, bytes);
    else if (good && status == DF_OK)
        status = df_forward_nll(b->part.forward, nll);
    df_line_give(b->line, bytes, good && status == DF_OK);
    return status;
}

// A first window, COUNTED windows, and AHEAD more for the first stage to go on with.
static df_status time_both(const bench *b, size_t round, double *seconds) {
    df_status status = DF_OK;
    double start = 0, end = 0;
    for (size_t i = 0; i < 1 + COUNTED + AHEAD; i++) {
        df_status one = pass(b, round * 16 + i);
        if (status == DF_OK) status = one;
        if (i == 0) start = df_now();
        if (i == COUNTED) end = df_now();
    }
    *seconds = end - start;
    df_broadcast(b->world, 1, seconds, sizeof *seconds); // the last stage's
    return df_agree(b->world, status);
}

static void report(const bench *b, const df_model_part part[2], double *alone, double *both) {
    double one = WINDOW / median(alone, b->rounds),
           two = WINDOW * COUNTED / median(both, b->rounds);
    if (df_comm_rank(b->world) > 0) return;
    printf("forward-pipeline: Llama shape, window %d with loss, blocks %zu + %zu\n", WINDOW,
           part[0].count, part[1].count);
    printf("  one rank  %8.1f tokens/s\n  two ranks %8.1f tokens/s   share of twice one %.3f\n",
           one, two, two / (2 * one));
    printf("{\"name\": \"forward-pipeline\", \"ranks\": 2, \"threads\": 1, \"tokens_per_second\": "
           "%.1f, \"one_rank_tokens_per_second\": %.1f, \"share\": %.4f}\n",
           two, one, two / (2 * one));
}

static df_status measure(const bench *b, const df_model_part part[2]) {
    double alone[MOST_ROUNDS] = {0}, both[MOST_ROUNDS] = {0};
    bool first = df_comm_rank(b->world) == 0;
    for (size_t round = 0; round < b->rounds; round++) {
        df_status status = DF_OK;
        if (first && round == 0) status = time_alone(b, 0, alone); // warms up
        if (first && status == DF_OK) status = time_alone(b, round, &alone[round]);
        take_turns(b, round);
        DF_TRY(df_agree(b->world, status));
        DF_TRY(time_both(b, round, &both[round]));
    }
    report(b, part, alone, both);
    return DF_OK;
}

static df_status write_model(const bench *b) {
    df_comm *self;
    DF_TRY(df_comm_self(&self));
    df_status status = bench_write_model(self, bench_shape_find("forward-pipeline"), b->folder);
    df_comm_free(&self);
    return status;
}

static df_status run(bench *b) {
    df_model_part part[2];
    df_model_shape shape;
    int rank = df_comm_rank(b->world);
    DF_TRY(df_agree(b->world, rank == 0 ? write_model(b) : DF_OK));
    df_status status = place(b, &shape, part);
    if (status == DF_OK && rank == 0) status = open_stage(b, df_model_whole(&shape), &b->whole);
    if (status == DF_OK) status = open_stage(b, part[rank], &b->part);
    DF_TRY(df_agree(b->world, status));
    b->numbers = df_forward_rows(WINDOW) * shape.width;
    DF_TRY(df_line_open(b->world, b->numbers * sizeof(float), &b->line));
    status = measure(b, part);
    df_line_close(&b->line);
    return status;
}

int main(int argc, char **argv) {
    bench b = {.rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 5};
    if (argc < 2 || b.rounds < 1 || b.rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: mpirun -n 2 bench_pipeline FOLDER [ROUNDS]\n");
        return (int)DF_USAGE;
    }
    b.folder = argv[1];
    if (df_comm_start(&argc, &argv, &b.world) != DF_OK) return (int)DF_FAILED;
    df_status status =
        df_comm_size(b.world) == 2 ? run(&b) : df_fail(DF_USAGE, "two ranks, please");
    if (status != DF_OK && df_comm_rank(b.world) == 0) df_error_print(status);
    close_stage(&b.whole);
    close_stage(&b.part);
    df_comm_finish(&b.world);
    return (int)status;
}
