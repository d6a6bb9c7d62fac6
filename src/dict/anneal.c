/* p-annealing: the power of the lp penalty falls in equal updates, and at each the weight keeps the
 * size of the penalty. */
#include "darkfield/dict.h"

#include <string.h>

/* The step after which update i takes effect. */
static uint64_t update_step(const df_anneal_plan *plan, size_t i) {
    double span = (double)plan->end - (double)plan->start;
    return (uint64_t)((double)plan->start + (double)i * span / (double)(plan->updates - 1));
}

static double power_at(const df_anneal_plan *plan, size_t i) {
    double part = (double)i / (double)(plan->updates - 1);
    return i + 1 < plan->updates ? plan->from + part * (plan->to - plan->from) : plan->to;
}

/* Updates that took effect before `step`. */
static size_t updates_before(const df_anneal_plan *plan, uint64_t step) {
    size_t n = 0;
    while (n < plan->updates && update_step(plan, n) < step) n++;
    return n;
}

void df_anneal_set(const df_anneal_plan *plan, const df_anneal *anneal, uint64_t step,
                   df_objective *objective) {
    size_t n = updates_before(plan, step);
    objective->power = n > 0 ? power_at(plan, n - 1) : plan->from;
    objective->next_power = n > 0 ? power_at(plan, n < plan->updates ? n : n - 1) : 0.0;
    objective->weight *= anneal->factor;
}

static void push(df_anneal *a, double now, double next) {
    if (a->count == DF_ANNEAL_QUEUE) {
        memmove(a->now, a->now + 1, (DF_ANNEAL_QUEUE - 1) * sizeof *a->now);
        memmove(a->next, a->next + 1, (DF_ANNEAL_QUEUE - 1) * sizeof *a->next);
        a->count--;
    }
    a->now[a->count] = now;
    a->next[a->count++] = next;
}

void df_anneal_note(const df_anneal_plan *plan, df_anneal *anneal, uint64_t step,
                    const df_step_report *report) {
    size_t n = updates_before(plan, step);
    double now = 0.0, next = 0.0;
    if (n == 0) return;
    push(anneal, report->sparsity, report->next_sparsity);
    if (n == plan->updates || update_step(plan, n) != step) return;
    for (size_t i = 0; i < anneal->count; i++) {
        now += anneal->now[i];
        next += anneal->next[i];
    }
    if (now > 0.0 && next > 0.0) anneal->factor *= now / next;
}
