/* The result file. */
#include "parts.h"

#define FORMAT "darkfield-lens"

/* Datasets of a model: figures and their errors one after the other, then those without errors. */
enum { FIGURES = DF_LENS_QUANTITIES + 4 + DF_LENS_DETECTORS + 1 };
enum { WEIGHTS = 2 * FIGURES, COMPOSITIONS = WEIGHTS + DF_LENS_WEIGHTS };
enum { DATASETS = COMPOSITIONS + DF_LENS_COMPOSITIONS };

/* A set of numbers with errors; of an outline, from is NULL. */
typedef struct figure {
    const char *name, *units, *what, *labels;
    uint64_t rows, columns; // columns 0: one dimension
    const df_estimate *from;
} figure;

static const df_estimate *behind(const df_estimate *from, size_t n) {
    return from != NULL ? from + n : NULL;
}

static void list_figures(const df_lens *lens, figure out[static FIGURES]) {
    const uint64_t L = lens->shape.layers, H = lens->shape.heads, P = L + 1;
    const df_estimate *point = lens->point, *detector = lens->detector;
    const char *by_head = "layer, head";
    // clang-format off
    const figure all[FIGURES] = {
        {"logit_lens/nll", "nats", "mean loss of the next token, read out before each block and at "
            "the end", "point", P, 0, behind(point, DF_LENS_NLL * P)},
        {"logit_lens/kl", "nats", "mean KL(final distribution || the one read out here)", "point",
            P, 0, behind(point, DF_LENS_KL * P)},
        {"logit_lens/entropy", "nats", "mean entropy of the distribution read out", "point", P, 0,
            behind(point, DF_LENS_ENTROPY * P)},
        {"logit_lens/top1", "1", "share of positions whose likeliest token is the final one",
            "point", P, 0, behind(point, DF_LENS_TOP1 * P)},
        {"attribution/whole", "logits", "mean part of embedding, positions, final norm's bias, and "
            "the logit that is attributed", "part", DF_LENS_WHOLES, 0, lens->whole},
        {"attribution/mlp", "logits", "mean part of each MLP", "layer", L, 0, lens->mlp},
        {"attribution/attention_bias", "logits", "mean part of attention's output bias", "layer",
            L, 0, lens->bias},
        {"attribution/head", "logits", "mean part of each head", by_head, L, H, lens->head},
        {"heads/previous_token", "1", "mean attention to the position before, on repeated random "
            "tokens", by_head, L, H, behind(detector, DF_LENS_PREVIOUS * L * H)},
        {"heads/duplicate_token", "1", "mean attention of the second half to the same token in the "
            "first", by_head, L, H, behind(detector, DF_LENS_DUPLICATE * L * H)},
        {"heads/induction", "1", "mean attention of the second half to the token behind the same "
            "one in the first", by_head, L, H, behind(detector, DF_LENS_INDUCTION * L * H)},
        {"heads/previous_token_text", "1", "mean attention to the position before, on the text",
            by_head, L, H, lens->previous},
    };
    // clang-format on
    for (size_t i = 0; i < FIGURES; i++) out[i] = all[i];
}

static df_status declare_at(df_file *file, const char *model, df_dataset spec, const char *end,
                            int *id) {
    char *path = df_format("/%s/%s%s", model, spec.path, end);
    spec.path = path;
    df_status status = path != NULL ? df_file_dataset(file, &spec, id) : DF_FAILED;
    df_free(path);
    return status;
}

static df_status declare_figures(df_file *file, const df_lens *lens, int *id) {
    figure list[FIGURES];
    list_figures(lens, list);
    for (size_t i = 0; i < FIGURES; i++) {
        const figure *f = &list[i];
        df_dataset spec = {
            f->name, DF_F64,   f->columns > 0 ? 2 : 1, {f->rows, f->columns}, f->units,
            f->what, f->labels};
        DF_TRY(declare_at(file, lens->name, spec, "", &id[2 * i]));
        spec.long_name = "its jackknife error over 64 runs of windows or sequences";
        DF_TRY(declare_at(file, lens->name, spec, "_error", &id[2 * i + 1]));
    }
    return DF_OK;
}

static df_status declare_weights(df_file *file, const df_lens *lens, int *id) {
    const uint64_t L = lens->shape.layers, H = lens->shape.heads;
    const char *by_head = "layer, head",
               *pairs = "earlier layer, earlier head, later layer, later head";
    // clang-format off
    const df_dataset all[] = {
        {"weights/ov", DF_F64, 2, {L, H}, "1", "real parts over moduli of the eigenvalues of OV, "
            "stream to stream", by_head},
        {"weights/ov_full", DF_F64, 2, {L, H}, "1", "the same of OV from embedding to unembedding: "
            "copying", by_head},
        {"weights/qk", DF_F64, 2, {L, H}, "1", "the same of QK without rotation, stream to stream",
            by_head},
        {"weights/qk_full", DF_F64, 2, {L, H}, "1", "the same of QK between embeddings, without "
            "rotation: matching", by_head},
        {"weights/ov_norm", DF_F64, 2, {L, H}, "1", "Frobenius norm of OV, gains folded", by_head},
        {"weights/qk_norm", DF_F64, 2, {L, H}, "1", "Frobenius norm of QK, gains folded", by_head},
        {"composition/q", DF_F64, 4, {L, H, L, H}, "1", "Q-composition |QK' OV| / (|QK| |OV|); 0 "
            "where the layer is not later", pairs},
        {"composition/k", DF_F64, 4, {L, H, L, H}, "1", "K-composition |QK OV| / (|QK| |OV|)",
            pairs},
        {"composition/v", DF_F64, 4, {L, H, L, H}, "1", "V-composition |OV OV| / (|OV| |OV|)",
            pairs},
    };
    // clang-format on
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        DF_TRY(declare_at(file, lens->name, all[i], "", &id[i]));
    return DF_OK;
}

static df_status describe_model(df_file *file, const df_lens *lens) {
    static const char *const parts[DF_LENS_WHOLES] = {"embedding", "positions", "final norm's bias",
                                                      "logit"};
    char name[32], *where = df_format("/%s", lens->name),
                   *attribution = df_format("/%s/attribution", lens->name);
    df_status status = where != NULL && attribution != NULL ? DF_OK : DF_FAILED;
    if (status != DF_OK) goto done;
    DF_GO(df_file_text(file, where, "family", lens->shape.family));
    DF_GO(df_file_int(file, where, "windows", (int64_t)lens->windows));
    DF_GO(df_file_int(file, where, "scored", (int64_t)lens->scored));
    DF_GO(df_file_int(file, where, "sequences", (int64_t)lens->sequences));
    DF_GO(df_file_int(file, where, "period", (int64_t)lens->period));
    DF_GO(df_file_int(file, attribution, "against", lens->against));
    DF_GO(df_file_real(file, attribution, "gap", lens->gap));
    for (size_t i = 0; i < DF_LENS_WHOLES; i++) {
        snprintf(name, sizeof name, "name%zu", i);
        DF_GO(df_file_text(file, attribution, name, parts[i]));
    }
done:
    df_free(where);
    df_free(attribution);
    return status;
}

// id [models, DATASETS]
static df_status declare(df_file *file, const df_lens *lens, size_t models, int *id) {
    DF_TRY(df_file_int(file, "/", "models", (int64_t)models));
    for (size_t m = 0; m < models; m++) {
        char name[32];
        snprintf(name, sizeof name, "model%zu", m);
        DF_TRY(df_file_text(file, "/", name, lens[m].name));
        DF_TRY(declare_figures(file, &lens[m], id + m * DATASETS));
        DF_TRY(declare_weights(file, &lens[m], id + m * DATASETS + WEIGHTS));
        DF_TRY(describe_model(file, &lens[m]));
    }
    return DF_OK;
}

/* ---- filling -------------------------------------------------------------------------------- */

static df_status write_figure(df_file *file, const figure *f, double *room, const int *id) {
    size_t n = f->rows * (f->columns > 0 ? f->columns : 1);
    for (size_t i = 0; i < n; i++) room[i] = f->from[i].value;
    DF_TRY(df_file_write(file, id[0], 0, f->rows, room));
    for (size_t i = 0; i < n; i++) room[i] = f->from[i].error;
    return df_file_write(file, id[1], 0, f->rows, room);
}

// One earlier layer's rows [H, L, H] of a composition.
static void spread(const df_lens *lens, size_t which, size_t earlier, double *room) {
    const df_model_shape *s = &lens->shape;
    for (size_t h = 0; h < s->heads; h++)
        for (size_t l = 0; l < s->layers; l++)
            for (size_t to = 0; to < s->heads; to++) {
                size_t pair = l > earlier ? df_lens_pair(s, earlier, h, l) : 0;
                room[(h * s->layers + l) * s->heads + to] =
                    l > earlier
                        ? lens->composition[(pair * s->heads + to) * DF_LENS_COMPOSITIONS + which]
                        : 0.0;
            }
}

// Numbers that are made ready at a time.
static size_t room_of(const df_model_shape *s) {
    size_t row = s->heads * s->layers * s->heads, least = DF_LENS_WHOLES + s->layers;
    return row > least ? row : least;
}

static df_status fill(df_file *file, const df_lens *lens, double *room, const int *id) {
    size_t layers = lens->shape.layers, heads = layers * lens->shape.heads;
    figure list[FIGURES];
    list_figures(lens, list);
    for (size_t i = 0; i < FIGURES; i++) DF_TRY(write_figure(file, &list[i], room, id + 2 * i));
    for (size_t i = 0; i < DF_LENS_WEIGHTS; i++)
        DF_TRY(df_file_write(file, id[WEIGHTS + i], 0, layers, lens->weight + i * heads));
    for (size_t i = 0; i < DF_LENS_COMPOSITIONS; i++)
        for (size_t l = 0; l < layers; l++) {
            spread(lens, i, l, room);
            DF_TRY(df_file_write(file, id[COMPOSITIONS + i], l, 1, room));
        }
    return DF_OK;
}

static df_status fill_all(df_file *file, const df_lens *lens, size_t models, const int *id) {
    double *room = NULL;
    df_status status = DF_OK;
    for (size_t m = 0; m < models && status == DF_OK; m++) {
        status = DF_NEW(room, room_of(&lens[m].shape));
        if (status == DF_OK) status = fill(file, &lens[m], room, id + m * DATASETS);
        df_free(room);
    }
    return status;
}

df_status df_lens_write(df_comm *comm, const df_lens *lens, size_t models,
                        const df_lens_options *options) {
    df_file *file = NULL;
    int *id = NULL;
    df_status status;
    DF_GO(df_agree(comm, DF_NEW(id, models * DATASETS)));
    DF_GO(df_file_create(comm, options->output, FORMAT, &file));
    status = df_file_text(file, "/", "job", options->resolved_job);
    if (status == DF_OK) status = declare(file, lens, models, id);
    if (status == DF_OK) status = df_file_provenance(file, &options->facts);
    DF_GO(df_file_agree(file, status));
    DF_GO(df_file_ready(file));
    status = df_comm_rank(comm) == 0 ? fill_all(file, lens, models, id) : DF_OK;
    DF_GO(df_file_agree(file, status));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    df_free(id);
    return status;
}

df_status df_lens_file_need(const df_lens *lens, size_t models, df_need *out) {
    df_file *file = NULL;
    int *id = NULL;
    size_t room = 0;
    df_status status;
    DF_GO(DF_NEW(id, models * DATASETS));
    DF_GO(df_file_outline(FORMAT, &file));
    status = declare(file, lens, models, id);
done:
    *out = df_file_need(&file);
    for (size_t m = 0; m < models; m++)
        if (room_of(&lens[m].shape) > room) room = room_of(&lens[m].shape);
    out->memory += models * DATASETS * sizeof *id + room * sizeof(double);
    df_free(id);
    return status;
}
