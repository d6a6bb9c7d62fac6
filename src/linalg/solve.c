/* Ridge systems by Cholesky. */
#include "parts.h"

/* Adds the ridge to the diagonal. */
static void add_ridge(df_matrix *m, double ridge) {
    for (size_t j = 0; j < m->local_columns; j++)
        for (size_t i = 0; i < m->local_rows; i++)
            if (df_matrix_row_at(m, i) == df_matrix_column_at(m, j))
                m->local[j * m->local_rows + i] += ridge;
}

static df_status factor(df_matrix *m, double ridge) {
    int n = (int)m->rows, one = 1, info = 0;
    pdpotrf_("L", &n, m->local, &one, &one, m->desc, &info, 1);
    if (info == 0) return DF_OK;
    return df_fail(DF_FAILED,
                   "the matrix is not positive definite: pivot %d of %d (ridge %g); "
                   "use a larger ridge or more rows than columns",
                   info, n, ridge);
}

static df_status norm_of(const df_matrix *m, double *out) {
    double *work;
    int n = (int)m->rows, one = 1;
    DF_TRY(DF_NEW(work, m->local_columns + 1));
    *out = pdlange_("1", &n, &n, m->local, &one, &one, m->desc, work, 1);
    df_free(work);
    return DF_OK;
}

/* The factor's workspace for PDPOCON, asked for by a first call. */
typedef struct condition {
    double norm, rcond, *work;
    int *integers, n_work, n_integers;
} condition;

static df_status pdpocon(const df_matrix *m, condition *c) {
    int n = (int)m->rows, one = 1, info = 0;
    pdpocon_("L", &n, m->local, &one, &one, m->desc, &c->norm, &c->rcond, c->work, &c->n_work,
             c->integers, &c->n_integers, &info, 1);
    return info == 0 ? DF_OK : df_fail(DF_FAILED, "PDPOCON ended with info %d for n = %d", info, n);
}

static df_status make_condition(const df_matrix *m, condition *c) {
    double reals = 0;
    int integers = 0;
    condition query = {c->norm, 0, &reals, &integers, -1, -1};
    DF_TRY(pdpocon(m, &query));
    DF_TRY(df_work_size(reals, 1, &c->n_work));
    DF_TRY(df_work_size(integers, 1, &c->n_integers));
    DF_TRY(DF_NEW(c->work, (size_t)c->n_work));
    return DF_NEW(c->integers, (size_t)c->n_integers);
}

static df_status back_substitute(const df_matrix *m, df_matrix *b) {
    int n = (int)m->rows, right = (int)b->columns, one = 1, info = 0;
    pdpotrs_("L", &n, &right, m->local, &one, &one, m->desc, b->local, &one, &one, b->desc, &info,
             1);
    return info == 0 ? DF_OK : df_fail(DF_FAILED, "PDPOTRS ended with info %d for n = %d", info, n);
}

static df_status solve(df_matrix *m, double ridge, df_matrix *b, condition *c) {
    df_comm *comm = m->grid->comm;
    bool inside = m->grid->row >= 0;
    DF_TRY(df_agree(comm, inside ? norm_of(m, &c->norm) : DF_OK));
    DF_TRY(df_agree(comm, inside ? factor(m, ridge) : DF_OK));
    DF_TRY(df_agree(comm, inside ? make_condition(m, c) : DF_OK));
    DF_TRY(df_agree(comm, inside ? pdpocon(m, c) : DF_OK));
    DF_TRY(df_agree(comm, inside ? back_substitute(m, b) : DF_OK));
    df_broadcast(comm, 0, &c->rcond, sizeof c->rcond); // rank 0 is always inside the grid
    return DF_OK;
}

df_status df_solve_ridge(const df_matrix *g, double ridge, df_matrix *b, double *rcond) {
    df_matrix *m = NULL;
    condition c = {0};
    double largest;
    if (g->columns != g->rows || b->rows != g->rows)
        return df_fail(DF_FAILED, "a system of [%zu, %zu] with right-hand sides [%zu, %zu]",
                       g->rows, g->columns, b->rows, b->columns);
    DF_TRY(df_matrix_largest(g, "the system's matrix", &largest));
    DF_TRY(df_matrix_largest(b, "the system's right-hand side", &largest));
    df_status status;
    DF_GO(df_matrix_copy(g, &m));
    add_ridge(m, ridge);
    DF_GO(solve(m, ridge, b, &c));
    if (rcond != NULL) *rcond = c.rcond;
done:
    df_free(c.work);
    df_free(c.integers);
    df_matrix_free(&m);
    return status;
}
