/* Interventions: what a run changes at its hook sites. */
#include "forward.h"

#include <string.h>

/* ---- the changes ---------------------------------------------------------------------------- */

static void project_out(const float *v, size_t n, float *x) {
    double along = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        along += (double)x[i] * (double)v[i];
        square += (double)v[i] * (double)v[i];
    }
    for (size_t i = 0; i < n; i++) x[i] = (float)((double)x[i] - along / square * (double)v[i]);
}

// One row, of n columns from x on.
static void edit_row(const df_intervention *e, size_t position, size_t n, float *x) {
    const float *v = e->values;
    if (e->per_position) v += (position - e->from) * n;
    switch (e->edit) {
    case DF_EDIT_REPLACE:
        if (v == NULL)
            memset(x, 0, n * sizeof *x);
        else
            memcpy(x, v, n * sizeof *x);
        return;
    case DF_EDIT_ADD:
        df_add_row(x, v, n);
        return;
    case DF_EDIT_SCALE:
        for (size_t i = 0; i < n; i++) x[i] *= e->factor;
        return;
    case DF_EDIT_PROJECT:
        project_out(v, n, x);
        return;
    case DF_EDIT_CALL:
        return;
    }
}

static df_status edit_rows(const df_intervention *e, const df_site_rows *all) {
    size_t end = all->first + all->n;
    size_t from = e->from > all->first ? e->from : all->first;
    size_t to = e->to > 0 && e->to < end ? e->to : end;
    size_t columns = e->columns > 0 ? e->columns : all->width;
    if (from >= to) return DF_OK;
    float *x = all->x + (from - all->first) * all->width;
    if (e->edit == DF_EDIT_CALL) {
        df_site_rows some = {x, from, to - from, all->width};
        return e->call(e->context, &some);
    }
    for (size_t p = from; p < to; p++, x += all->width) edit_row(e, p, columns, x + e->column);
    return DF_OK;
}

/* ---- inside a pass -------------------------------------------------------------------------- */

static bool is_place(const site_place *a, site_place b) {
    return a->kind == b.kind && a->layer == b.layer;
}

bool df_forward_edits(const df_forward *f, site_kind kind, size_t layer) {
    for (size_t i = 0; f->edits != NULL && i < f->edits->n; i++)
        if (is_place(&f->edits->place[i], (site_place){kind, layer})) return true;
    return false;
}

void df_forward_edit(const df_forward *f, site_place place, size_t first, size_t n, float *rows) {
    forward_edits *edits = f->edits;
    df_site_rows all = {rows, first, n,
                        df_site_columns(&f->model->config.shape, place.kind, f->context)};
    for (size_t i = 0; edits != NULL && i < edits->n && edits->status == DF_OK; i++)
        if (is_place(&edits->place[i], place)) edits->status = edit_rows(&edits->list[i], &all);
}

df_status df_forward_edited(const df_forward *f) {
    return f->edits != NULL ? f->edits->status : DF_OK;
}

/* ---- the list ------------------------------------------------------------------------------- */

static bool is_zero(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0.0f) return false;
    return true;
}

static df_status check_values(const df_intervention *e, size_t columns) {
    bool needs = e->edit == DF_EDIT_ADD || e->edit == DF_EDIT_PROJECT || e->per_position;
    if (e->edit == DF_EDIT_CALL && e->call == NULL)
        return df_fail(DF_USAGE, "an intervention at %s: no function to call", e->site);
    if (needs && e->values == NULL)
        return df_fail(DF_USAGE, "an intervention at %s: no values", e->site);
    if (e->edit != DF_EDIT_PROJECT) return DF_OK;
    if (e->per_position || is_zero(e->values, columns))
        return df_fail(DF_USAGE, "an intervention at %s projects out %s", e->site,
                       e->per_position ? "a direction per position: give one" : "the zero vector");
    return DF_OK;
}

static df_status check(const df_forward *f, const df_intervention *e, site_place place) {
    size_t width = df_site_columns(&f->model->config.shape, place.kind, f->context);
    if (e->column >= width || e->columns > width - e->column || (e->columns == 0 && e->column > 0))
        return df_fail(DF_USAGE, "an intervention at %s, columns %zu to %zu: it has %zu", e->site,
                       e->column, e->column + e->columns, width);
    if (e->from >= f->context || e->to > f->context || (e->to > 0 && e->to <= e->from))
        return df_fail(DF_USAGE, "an intervention at %s, positions %zu to %zu of a context of %zu",
                       e->site, e->from, e->to, f->context);
    return check_values(e, e->columns > 0 ? e->columns : width);
}

// The arrays that edits of wide sites need.
static df_status make_room(df_forward *f) {
    const df_model_shape *s = &f->model->config.shape;
    forward_edits *edits = f->edits;
    size_t wide = 0;
    bool pattern = false;
    for (size_t i = 0; i < edits->n; i++) {
        site_kind kind = edits->place[i].kind;
        size_t columns = df_site_columns(s, kind, f->context);
        if (kind != SITE_PATTERN && kind != SITE_RESULT) continue;
        pattern |= kind == SITE_PATTERN;
        if (columns > wide) wide = columns;
    }
    if (wide > 0) DF_TRY(DF_NEW(edits->wide, f->rows * wide));
    if (pattern && f->pattern == NULL) DF_TRY(DF_NEW(edits->pattern, s->heads * f->rows * f->rows));
    return DF_OK;
}

static df_status take_list(df_forward *f, const df_intervention *list, size_t n) {
    forward_edits *edits = f->edits;
    DF_TRY(DF_NEW(edits->list, n));
    DF_TRY(DF_NEW(edits->place, n));
    memcpy(edits->list, list, n * sizeof *list);
    edits->n = n;
    for (size_t i = 0; i < n; i++) {
        DF_TRY(df_site_find_in(f->model, list[i].site, &edits->place[i]));
        DF_TRY(check(f, &list[i], edits->place[i]));
    }
    return make_room(f);
}

void df_forward_forget(df_forward *f) {
    if (f->edits == NULL) return;
    df_free(f->edits->list);
    df_free(f->edits->place);
    df_free(f->edits->wide);
    df_free(f->edits->pattern);
    df_free(f->edits);
    f->edits = NULL;
}

df_status df_forward_intervene(df_forward *f, const df_intervention *list, size_t n) {
    df_forward_forget(f);
    if (n == 0) return DF_OK;
    DF_TRY(DF_NEW(f->edits, 1));
    df_status status = take_list(f, list, n);
    if (status != DF_OK) df_forward_forget(f);
    return status;
}

uint64_t df_forward_intervene_bytes(const df_model_shape *shape, size_t context, size_t n,
                                    bool pattern) {
    uint64_t rows = df_forward_rows(context);
    uint64_t wide = pattern ? rows * shape->heads * (context + rows) : 0;
    return sizeof(forward_edits) + n * (sizeof(df_intervention) + sizeof(site_place)) +
           wide * sizeof(float);
}
