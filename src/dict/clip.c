/* Clipping by the norm of all gradients together. */
#include "step.h"

#include <math.h>
#include <string.h>

df_status df_clip(df_coder *c, double most, df_sink *sink, df_step_report *report) {
    double squares, skip;
    df_sink norm = *sink;
    norm.squares = c->block_squares;
    memset(c->block_squares, 0, c->my_blocks.count * sizeof *c->block_squares);
    DF_TRY(df_latent_gradients(c, &norm));
    c->late = false; // codes have their gradients now
    sink->centered = true;
    DF_TRY(df_block_sums(c, 1, c->block_squares, &squares));
    DF_TRY(df_skip_norm(c, &norm, &skip));
    report->norm = sqrt(squares + skip + df_sum_squares(c->center_gradient, c->out));
    double factor = most / (report->norm + 1e-6); // PyTorch's clip_grad_norm_
    if (factor < 1.0) sink->factor = (float)factor;
    return DF_OK;
}
