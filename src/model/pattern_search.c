/* Searching a text with a pattern in bounded time. PCRE2 bounds the steps of one start of one match
 * only, and a text has as many starts as characters, so a budget goes over all searches of a text:
 * a constant and so much for each byte searched. It is measured as this thread's processor time,
 * since PCRE2 does not tell how many steps it took; ordinary patterns take a hundredth of it. */
#include "tokenizer_parts.h"

#include <time.h>

#define BUDGET_SECONDS 0.5
#define BUDGET_PER_BYTE 1e-5
#define WORK_PER_LOOK 1024    // bytes searched between two looks at the clock
#define FEW_STEPS 1000u       // of one start: all that ordinary patterns take
#define MOST_STEPS 10000000u  // of one start, and one for each byte of a longer text
#define MOST_HEAP (64u << 10) // KiB
#define FEWEST_STARTS 4096u   // of one call of PCRE2, which may look through the whole text
#define MOST_STARTS 32768u

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void df_budget_reset(df_budget *budget) {
    *budget = (df_budget){0};
}

void df_budget_resume(df_budget *budget) {
    budget->clock = thread_seconds();
}

static df_status too_long(size_t n) {
    return df_fail(DF_BAD_INPUT, "the tokenizer's pattern takes too long on a text of %zu bytes",
                   n);
}

static df_status look_at_clock(df_budget *budget, size_t n) {
    double now = thread_seconds();
    budget->spent += now - budget->clock;
    budget->clock = now;
    budget->work = 0;
    return budget->spent > BUDGET_SECONDS + budget->granted ? too_long(n) : DF_OK;
}

static df_status ready_to_match(df_pass *pass) {
    if (pass->match != NULL) return DF_OK;
    pass->match = pcre2_match_data_create(1, NULL);
    pass->context = pcre2_match_context_create(NULL);
    pass->stack = pcre2_jit_stack_create(32u << 10, 8u << 20, NULL);
    if (pass->match == NULL || pass->context == NULL)
        return df_fail(DF_FAILED, "out of memory for pattern matching");
    pcre2_set_heap_limit(pass->context, MOST_HEAP);
    if (pass->stack != NULL) pcre2_jit_stack_assign(pass->context, NULL, pass->stack);
    return DF_OK;
}

typedef enum outcome { NO_MATCH, MATCH, TOO_MANY_STEPS } outcome;

// The first match that starts in bytes [from, until], of at most `steps` steps a start.
static df_status try_starts(df_pass *pass, const df_search *search, df_span starts, uint32_t steps,
                            df_span *match, outcome *what) {
    PCRE2_SPTR text = (PCRE2_SPTR)search->text;
    size_t n = search->bytes, from = starts.begin;
    pcre2_set_match_limit(pass->context, steps);
    pcre2_set_offset_limit(pass->context, starts.end);
    int code =
        pcre2_match(search->pattern, text, n, from, PCRE2_NO_UTF_CHECK, pass->match, pass->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
        code = pcre2_match(search->pattern, text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           pass->match, pass->context);
    *what = code >= 0 ? MATCH : code == PCRE2_ERROR_MATCHLIMIT ? TOO_MANY_STEPS : NO_MATCH;
    if (code == PCRE2_ERROR_NOMATCH || code == PCRE2_ERROR_MATCHLIMIT) return DF_OK;
    if (code < 0) {
        PCRE2_UCHAR message[200] = "";
        pcre2_get_error_message(code, message, sizeof message);
        return df_fail(DF_BAD_INPUT, "the tokenizer's pattern fails on a text of %zu bytes: %s", n,
                       (const char *)message);
    }
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(pass->match);
    if (place[0] < from || place[1] < place[0] || place[1] > n)
        return df_fail(DF_BAD_INPUT, "the tokenizer's pattern matches backwards (\\K)");
    *match = (df_span){(uint32_t)place[0], (uint32_t)place[1]};
    return DF_OK;
}

// The start of the character after byte `at`; n + 1 after the end.
static size_t next_start(const df_search *search, size_t at) {
    do at++;
    while (at < search->bytes && ((unsigned char)search->text[at] & 0xc0) == 0x80);
    return at;
}

// The same for any pattern: all starts with few steps, and where these are not enough one start
// after another, with many steps and a look at the clock each.
static df_status search_starts(df_pass *pass, const df_search *search, df_span starts,
                               df_span *match, bool *any) {
    size_t n = search->bytes;
    uint32_t most = MOST_STEPS + (n > MOST_STEPS ? (uint32_t)n : 0);
    outcome what;
    DF_TRY(try_starts(pass, search, starts, FEW_STEPS, match, &what));
    *any = what == MATCH;
    if (what != TOO_MANY_STEPS) return DF_OK;
    for (size_t at = starts.begin; !*any && at <= starts.end; at = next_start(search, at)) {
        DF_TRY(look_at_clock(&pass->budget, n));
        df_span one = {(uint32_t)at, (uint32_t)at};
        DF_TRY(try_starts(pass, search, one, most, match, &what));
        if (what == TOO_MANY_STEPS) return too_long(n);
        *any = what == MATCH;
    }
    return DF_OK;
}

df_search df_search_begin(df_pass *pass, const pcre2_code *pattern, const char *text, size_t n) {
    pass->budget.granted += BUDGET_PER_BYTE * (double)n;
    return (df_search){.pattern = pattern, .text = text, .bytes = n, .last = SIZE_MAX};
}

df_status df_search_next(df_pass *pass, df_search *search, df_span *match, bool *found) {
    size_t n = search->bytes, many = n / 64;
    many = many < FEWEST_STARTS ? FEWEST_STARTS : many > MOST_STARTS ? MOST_STARTS : many;
    DF_TRY(ready_to_match(pass));
    *found = false;
    while (!*found && search->from <= n) {
        size_t from = search->from, until = n - from > many ? from + many : n;
        bool any;
        df_span starts = {(uint32_t)from, (uint32_t)until};
        DF_TRY(search_starts(pass, search, starts, match, &any));
        bool empty = any && match->begin == match->end;
        *found = any && !(empty && match->end == search->last);
        if (*found) search->from = search->last = match->end;
        if (!*found) search->from = next_start(search, any ? match->end : until);
        pass->budget.work += search->from - from + 1;
        if (pass->budget.work >= WORK_PER_LOOK) DF_TRY(look_at_clock(&pass->budget, n));
    }
    return DF_OK;
}
