/* darkfield/base.h: what every other module stands on. No MPI, no HDF5.
 *
 * Status codes with a context stack, counted memory, log and progress, the option table that drives
 * job files, counter-based random numbers, JSON, hashing. Nothing here is collective. Everything
 * here may be called before MPI starts. Only the log and the error record keep process-wide state.
 */
#ifndef DARKFIELD_BASE_H
#define DARKFIELD_BASE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- status --------------------------------------------------------------------------------- */

/* What a function returns, and the process's exit code. */
typedef enum df_status {
    DF_OK = 0,
    DF_FAILED = 1,    /* the run failed: numerics, memory, a full disk, a bug */
    DF_USAGE = 2,     /* command line or job file */
    DF_BAD_INPUT = 3, /* data that cannot be used: missing, damaged, mismatched */
    DF_STOPPED = 75   /* stopped on request, with a checkpoint: run me again */
} df_status;

#define DF_MUST_CHECK __attribute__((warn_unused_result))
#define DF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Records a failure (replacing any earlier record of this thread) and returns `code`.
 * The message names what was expected, what was found, and the remedy where there is one. */
df_status df_fail(df_status code, const char *fmt, ...) DF_PRINTF(2, 3);

/* Adds one line of context to the pending failure: what was being done when it happened, innermost
 * first. Does nothing when no failure is pending. */
void df_context(const char *fmt, ...) DF_PRINTF(1, 2);

/* The pending failure: the message, then one indented "while ..." line per context. "" when there
 * is none. The text belongs to base and holds until the next df_fail, df_context or df_error_clear
 * of this thread. */
const char *df_error_text(void);
void df_error_clear(void);

/* The failure of worker threads on its way to the main one: of several, that of the lowest piece of
 * work. Starts as {0}. */
typedef struct df_carried {
    df_status code;
    uint64_t at;
    char *text;
} df_carried;
/* A worker's failure at piece `at`: its record is taken along and cleared. Thread-safe. */
void df_carry(df_carried *carried, df_status code, uint64_t at);
/* In the main thread, once the workers are done: the failure becomes this thread's, and is no
 * longer carried. DF_OK where there was none. */
df_status df_carried_raise(df_carried *carried) DF_MUST_CHECK;

/* Leaves the function with the status of `call` when it is not DF_OK. */
#define DF_TRY(call)                                                                               \
    do {                                                                                           \
        df_status df_try_ = (call);                                                                \
        if (df_try_ != DF_OK) return df_try_;                                                      \
    } while (0)

/* The same, adding context on the way out: DF_TRY_AS(read_header(f), "reading the header of %s",
 * path). */
#define DF_TRY_AS(call, ...)                                                                       \
    do {                                                                                           \
        df_status df_try_ = (call);                                                                \
        if (df_try_ != DF_OK) {                                                                    \
            df_context(__VA_ARGS__);                                                               \
            return df_try_;                                                                        \
        }                                                                                          \
    } while (0)

/* For functions that hold resources: sets the local `status` and jumps to the local label `done`.
 */
#define DF_GO(call)                                                                                \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != DF_OK) goto done;                                                            \
    } while (0)

/* ---- memory --------------------------------------------------------------------------------- */

/* Memory is zeroed, aligned to 64 bytes, and counted. df_alloc returns NULL with a failure recorded
 * (size asked for, bytes in use) when there is none; n == 0 gives a valid pointer. Thread-safe. */
void *df_alloc(size_t n, size_t size);
void df_free(void *p); /* NULL is allowed */

/* df_status-valued: DF_TRY(DF_NEW(ptr, n)) allocates n elements of *ptr. */
#define DF_NEW(ptr, n) (((ptr) = df_alloc((n), sizeof *(ptr))) != NULL ? DF_OK : DF_FAILED)

/* Grows *p (from df_alloc or NULL) to hold at least n elements, at least doubling; *capacity is in
 * elements. */
df_status df_grow(void **p, size_t *capacity, size_t n, size_t size) DF_MUST_CHECK;

size_t df_memory_now(void);  /* bytes allocated by df_alloc and not yet freed */
size_t df_memory_peak(void); /* their high-water mark since start or df_memory_reset_peak */
void df_memory_reset_peak(void);
/* High-water mark of the whole process in bytes (VmHWM: libraries, code and mapped pages count
 * too); 0 where the system does not tell. */
size_t df_process_peak(void);
void df_memory_fail_after(
    int64_t calls); /* tests: let the n-th following df_alloc fail once; < 0: never */

char *df_strdup(const char *s);                        /* NULL on failure; df_free it */
char *df_format(const char *fmt, ...) DF_PRINTF(1, 2); /* sprintf into new memory; df_free it */

/* a * b and a + b with overflow as a recorded failure ("size overflow: ..."). */
df_status df_mul(size_t a, size_t b, size_t *out) DF_MUST_CHECK;
df_status df_add(size_t a, size_t b, size_t *out) DF_MUST_CHECK;

/* The run (window, document, file) of n > 0 that holds `row`: offset[run] <= row < offset[run + 1],
 * for ascending offset [n + 1]. A row past the end falls to the last run, n 0 gives 0. */
size_t df_run_holding(const uint64_t *offset, size_t n, uint64_t row);

/* ---- log and progress ----------------------------------------------------------------------- */

/* Rank 0 tells the story on stdout; other ranks stay silent until df_log_rank says otherwise.
 * df_info and df_warn print on rank 0 only; warnings are counted and repeated at the end. df_warn
 * goes to stderr. df_error_print writes the pending failure to stderr from whichever rank calls it.
 */
void df_log_rank(int rank);
void df_log_quiet(bool quiet); /* silence df_info (tests) */
void df_info(const char *fmt, ...) DF_PRINTF(1, 2);
void df_warn(const char *fmt, ...) DF_PRINTF(1, 2);
void df_error_print(df_status code);
size_t df_warnings(void);
void df_warnings_repeat(
    void); /* for the summary: the count and the first 20 texts; nothing when there were none */

double df_now(void);                                    /* seconds, monotonic */
void df_iso_time(char out[static 32]);                  /* 2026-11-23T09:40:37+00:00 */
void df_human_bytes(double bytes, char out[static 16]); /* "1.5 GiB" */
/* "64GB" (powers of 1000), "1.5 GiB" (of 1024), "512" (bytes); false when it is no size. */
bool df_parse_bytes(const char *text, uint64_t *out);
void df_human_time(double seconds, char out[static 16]); /* "2 m 03 s" */

/* One progress display: a bar rewritten in place on a terminal, one line per interval in a log
 * file. Only rank 0 prints. `note` (may be NULL) is appended. Shows done/total, rate and ETA. */
typedef struct df_progress {
    const char *what, *unit;
    uint64_t total, base; /* base: done before this run (resume), not counted in the rate */
    double start, last, interval;
    bool terminal;
} df_progress;
void df_progress_start(df_progress *p, const char *what, const char *unit, uint64_t base,
                       uint64_t total);
void df_progress_at(df_progress *p, uint64_t done, const char *note);
void df_progress_end(df_progress *p, uint64_t done);

/* ---- counter-based random numbers ----------------------------------------------------------- */

/* Philox4x32-10 (Salmon et al., SC11): a draw is a pure function of (seed, stream, index), the same
 * on every rank and thread. Streams keep uses apart; they are named here so that none is used
 * twice. */
typedef enum df_stream {
    DF_STREAM_SPLIT = 1,        /* held-out documents; index = document number */
    DF_STREAM_SHUFFLE = 2,      /* row permutation of epoch e: seed + e */
    DF_STREAM_INIT = 3,         /* dictionary initialisation; index = latent * width + column */
    DF_STREAM_SYNTHETIC = 4,    /* directions of a synthetic model */
    DF_STREAM_RESAMPLE = 5,     /* rows for dead latents; index = step * 2^32 + row of the batch */
    DF_STREAM_INIT_BIAS = 6,    /* encoder biases; index = latent */
    DF_STREAM_INIT_ENCODER = 7, /* untied encoders; index = latent * width + column */
    DF_STREAM_INIT_FIT = 8,     /* rows that scale the encoder; index = row * width + column */
    DF_STREAM_SYNTHETIC_ROWS = 20,
    DF_STREAM_CHUNKS = 21, /* order of runs of rows; of epoch e: seed + e */
    DF_STREAM_BUFFER = 22, /* order within a shuffle buffer */
    DF_STREAM_NULL = 40,   /* perturbations that a dictionary's error is compared with */
    DF_STREAM_SAMPLE = 41, /* tokens of a continuation; index = position */
    DF_STREAM_REPEAT = 42, /* tokens of sequences that are written twice; of sequence s: seed + s */
    DF_STREAM_BOOTSTRAP = 43, /* units of bootstrap samples; index = sample * units + draw */
    DF_STREAM_HALVES = 44,    /* which of two documents is in which half; index = pair */
    DF_STREAM_TEST = 100
} df_stream;
uint64_t df_random_bits(uint64_t seed, df_stream stream, uint64_t index);
double df_random_uniform(uint64_t seed, df_stream stream, uint64_t index); /* [0, 1), 53 bits */
double df_random_normal(uint64_t seed, df_stream stream, uint64_t index);  /* Box-Muller, N(0, 1) */

/* Where element i goes in a pseudo-random permutation of 0..n-1 (n >= 1): a keyed Feistel network
 * over the next even number of bits with cycle walking. No memory; any rank computes any element.
 */
uint64_t df_random_permute(uint64_t seed, df_stream stream, uint64_t n, uint64_t i);
/* The other way: df_random_unpermute(..., df_random_permute(..., i)) = i. */
uint64_t df_random_unpermute(uint64_t seed, df_stream stream, uint64_t n, uint64_t i);

/* ---- hashing -------------------------------------------------------------------------------- */

uint64_t df_hash(const void *data, size_t bytes); /* XXH3-64, seed 0 */
uint64_t df_hash_more(uint64_t seed, const void *data,
                      size_t bytes); /* chains: seed = earlier hash */
df_status df_hash_file(const char *path, uint64_t *out) DF_MUST_CHECK;

/* ---- small files and JSON ------------------------------------------------------------------- */

/* Reads a whole file into new memory, a zero byte added behind it. DF_BAD_INPUT names the file. */
df_status df_read_file(const char *path, char **text, size_t *bytes) DF_MUST_CHECK;

/* Writes path by way of path.tmp, fsync, rename, fsync of the folder. */
df_status df_write_file(const char *path, const void *data, size_t bytes) DF_MUST_CHECK;

/* Creates a folder and its parents; existing ones are fine. */
df_status df_make_folder(const char *path) DF_MUST_CHECK;
bool df_file_exists(const char *path);

/* Parses text (named `what` in messages: line and column are given). The caller json_decrefs *out.
 * Duplicate keys are refused. */
df_status df_json_parse(const char *text, size_t bytes, const char *what,
                        json_t **out) DF_MUST_CHECK;

/* Typed members of an object; a missing or mistyped one is DF_BAD_INPUT naming `what` and the key.
 * The _or variants give `fallback` for a missing or null member. Strings belong to the object. */
df_status df_json_int(const json_t *object, const char *what, const char *key,
                      int64_t *out) DF_MUST_CHECK;
df_status df_json_int_or(const json_t *object, const char *what, const char *key, int64_t fallback,
                         int64_t *out) DF_MUST_CHECK;
df_status df_json_real_or(const json_t *object, const char *what, const char *key, double fallback,
                          double *out) DF_MUST_CHECK;
df_status df_json_bool_or(const json_t *object, const char *what, const char *key, bool fallback,
                          bool *out) DF_MUST_CHECK;
df_status df_json_text(const json_t *object, const char *what, const char *key,
                       const char **out) DF_MUST_CHECK;
df_status df_json_text_or(const json_t *object, const char *what, const char *key,
                          const char *fallback, const char **out) DF_MUST_CHECK;

/* ---- the option table and job files --------------------------------------------------------- */

typedef enum df_option_type {
    DF_OPT_INT,
    DF_OPT_REAL,
    DF_OPT_BOOL,
    DF_OPT_TEXT,
    DF_OPT_CHOICE,
    DF_OPT_LIST,
    DF_OPT_SWEEP
} df_option_type;

/* One row: key, type, unit, default, range, help. The table drives the job file, --set, --help, the
 * resolved copy stored in outputs, and the unknown-key check. A NULL default means "must be given"
 * unless `optional`. */
typedef struct df_option {
    const char *key;      /* "train.latents"; every dot is one level of mapping */
    df_option_type type;  /* LIST is a sequence of texts; SWEEP: see df_job_members */
    const char *fallback; /* as it would be written in the file; lists: comma-separated */
    const char *unit;     /* "rows", "nats per token", NULL */
    const char *choices;  /* CHOICE: "topk batchtopk relu" */
    double min, max;      /* INT and REAL: allowed range when min < max */
    bool is_volatile;     /* stored under /provenance, not compared (paths, limits, intervals) */
    bool optional;        /* may stay unset: df_job_has is false then */
    bool fixed;           /* a sweep cannot vary it */
    const char *tag;      /* before its value in the names of members; NULL: its name, or nothing
                             before a text */
    const char *help;
} df_option;

typedef struct df_job df_job;

/* Parses YAML text (named `path` in messages) against the table, then applies `sets` ("key=value")
 * in order. Errors are DF_USAGE with file:line (or --set) and the nearest known key. Anchors,
 * aliases, tags, merge keys and duplicate keys are refused; types come from the table, never from
 * the look of a scalar. The option rows are borrowed and must outlive the job. Free with
 * df_job_free. */
df_status df_job_parse(const char *path, const char *text, size_t bytes, const df_option *options,
                       size_t n_options, const char *const *sets, size_t n_sets,
                       df_job **out) DF_MUST_CHECK;
void df_job_free(df_job *job);

/* Gives a key another default: the value of `text` where neither the file, --set nor an earlier
 * call gave one. `where` ("preset saelens-topk") is what df_job_where then says. */
df_status df_job_presume(df_job *job, const char *key, const char *text,
                         const char *where) DF_MUST_CHECK;

/* Values by key. A key that is not in the table is a programming error (assert). */
bool df_job_has(const df_job *job, const char *key);
int64_t df_job_int(const df_job *job, const char *key);
double df_job_real(const df_job *job, const char *key);
bool df_job_bool(const df_job *job, const char *key);
const char *df_job_text(const df_job *job,
                        const char *key); /* NULL when unset; belongs to the job */
size_t df_job_list(const df_job *job, const char *key,
                   const char *const **items); /* belongs to the job */

/* An option of type SWEEP gives other values to options of its own section: a mapping from options
 * to lists of values, of which every combination is a member, the last option changing fastest; or
 * a list of mappings, a member each, which may hold a `name`; or the text none. With --set it is
 * YAML in flow style. Members are named after their values ("k8-m1024"), all differently.
 *
 * How many there are (0: no sweep); the name of member i (new memory); the job as it is with its
 * values, without any sweep, and with defaults where df_job_presume was at work. */
size_t df_job_members(const df_job *job, const char *key);
char *df_job_member_name(const df_job *job, const char *key, size_t i);
df_status df_job_member(const df_job *job, const char *key, size_t i, df_job **out) DF_MUST_CHECK;

/* Checks that every key without default whose section (text before the first dot) is `section` was
 * given. */
df_status df_job_require(const df_job *job, const char *section) DF_MUST_CHECK;

/* "file:line" of where a key was given, "--set" or "default": for messages of later checks. */
const char *df_job_where(const df_job *job, const char *key);

/* A job file that reproduces the run: all keys of the named sections (space-separated; NULL: all)
 * with their values, in table order. volatile_part selects the volatile ones or the others. New
 * memory; df_free it. */
char *df_job_resolved(const df_job *job, const char *sections, bool volatile_part);

/* Prints the options whose key starts with `section.`, grouped, with type, unit, default and help.
 */
void df_options_help(FILE *to, const df_option *options, size_t n_options, const char *section);

/* The nearest of n known words by edit distance, NULL when none is near. */
const char *df_nearest(const char *word, const char *const *known, size_t n);

#endif
