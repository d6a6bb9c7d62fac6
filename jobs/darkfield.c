/* darkfield: the program. Reads the command line and the job file, starts MPI and the kernels, runs
 * stages. */
#include "check.h"
#include "convert.h"
#include "generate.h"
#include "jobs.h"
#include "sweep.h"
#include "version.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const df_stage *const stages[] = {&df_stage_harvest,  &df_stage_shuffle, &df_stage_train,
                                         &df_stage_evaluate, &df_stage_stats,   &df_stage_diff,
                                         &df_stage_spectrum, &df_stage_lens,    &df_stage_report};
enum { N_STAGES = sizeof stages / sizeof *stages, MAX_SETS = 64, MAX_OPTIONS = 256 };

typedef struct command_line {
    const char *verb; /* a stage, "run", "check" or "help" */
    const char *operands[64];
    size_t n_operands;
    const char *sets[MAX_SETS];
    size_t n_sets;
    df_setting settings[32]; /* of convert and generate */
    size_t n_settings;
    bool dry_run, force, digest, help, version, print_config;
} command_line;

static const char usage[] =
    "darkfield: batch mechanistic interpretability on MPI\n\n"
    "  darkfield run JOB.yaml         all stages in order, skipping what is complete\n"
    "  darkfield STAGE JOB.yaml       one stage (listed below)\n"
    "  darkfield check FILE...        validate files that darkfield wrote; --digest prints their "
    "content hash\n"
    "  darkfield convert --to FORMAT IN OUT   dictionaries from and to SAELens, sparsify, Gemma "
    "Scope, ...;\n"
    "                                 darkfield help convert lists them\n"
    "  darkfield generate MODEL PROMPT        a model continues a text, perhaps with latents set: "
    "darkfield help generate\n"
    "  darkfield help STAGE           the stage's options and the shared ones\n\n"
    "  --set KEY=VALUE   override a key of the job file        --dry-run        check inputs, "
    "print the plan\n"
    "  --force           run even when the output is current   --print-config   the resolved job "
    "file\n"
    "  --version         version and libraries                 --help           this text\n\n"
    "Run it alone, under mpirun or under srun: the same job file, the same bytes.\n"
    "Exit codes: 0 done, 1 the run failed, 2 command line or job file, 3 bad input data,\n"
    "            75 stopped on request with a checkpoint (run me again).\n\nStages, in order:\n";

static void print_usage(FILE *to) {
    fputs(usage, to);
    for (size_t i = 0; i < N_STAGES; i++)
        fprintf(to, "  %-10s %s\n", stages[i]->name, stages[i]->help);
}

static const df_stage *find_stage(const char *name) {
    for (size_t i = 0; i < N_STAGES; i++)
        if (strcmp(stages[i]->name, name) == 0) return stages[i];
    return NULL;
}

/* ---- command line --------------------------------------------------------------------------- */

static df_status take_set(command_line *line, const char *value) {
    if (value == NULL || strchr(value, '=') == NULL)
        return df_fail(DF_USAGE, "--set needs KEY=VALUE, found %s",
                       value == NULL ? "nothing" : value);
    if (line->n_sets == MAX_SETS) return df_fail(DF_USAGE, "more than %d --set options", MAX_SETS);
    line->sets[line->n_sets++] = value;
    return DF_OK;
}

static df_status take_flag(command_line *line, const char *flag) {
    const struct {
        const char *name;
        bool *value;
    } flags[] = {{"--dry-run", &line->dry_run},
                 {"--force", &line->force},
                 {"--digest", &line->digest},
                 {"--help", &line->help},
                 {"--version", &line->version},
                 {"--print-config", &line->print_config},
                 {"-h", &line->help}};
    const char *known[sizeof flags / sizeof *flags];
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        known[i] = flags[i].name;
        if (strcmp(flag, flags[i].name) != 0) continue;
        *flags[i].value = true;
        return DF_OK;
    }
    const char *near = df_nearest(flag, known, sizeof flags / sizeof *flags);
    return df_fail(DF_USAGE, "unknown option %s%s%s%s (see darkfield --help)", flag,
                   near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static df_status take_setting(command_line *line, const char *name, const char *value) {
    if (value == NULL) return df_fail(DF_USAGE, "--%s needs a value", name);
    if (line->n_settings == sizeof line->settings / sizeof *line->settings)
        return df_fail(DF_USAGE, "too many options on the command line");
    line->settings[line->n_settings++] = (df_setting){name, value};
    return DF_OK;
}

static df_status take_operand(command_line *line, const char *word) {
    if (line->verb == NULL) {
        line->verb = word;
        return DF_OK;
    }
    if (line->n_operands == sizeof line->operands / sizeof *line->operands)
        return df_fail(DF_USAGE, "too many files on the command line");
    line->operands[line->n_operands++] = word;
    return DF_OK;
}

static df_status read_command_line(int argc, char **argv, command_line *line) {
    *line = (command_line){0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--set") == 0)
            DF_TRY(take_set(line, i + 1 < argc ? argv[++i] : NULL));
        else if (strncmp(argv[i], "--set=", 6) == 0)
            DF_TRY(take_set(line, argv[i] + 6));
        else if (df_convert_takes(argv[i]) || df_generate_takes(argv[i])) {
            DF_TRY(take_setting(line, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL));
            i++;
        } else if (argv[i][0] == '-')
            DF_TRY(take_flag(line, argv[i]));
        else
            DF_TRY(take_operand(line, argv[i]));
    }
    return DF_OK;
}

/* ---- options -------------------------------------------------------------------------------- */

static size_t table_length(const df_option *table) {
    size_t n = 0;
    while (table[n].key != NULL) n++;
    return n;
}

/* Calls for every further table of a stage. */
#define FOR_MORE(stage, table)                                                                     \
    for (const df_option *const *table = (stage)->more; table != NULL && *table != NULL; table++)

/* The shared options, then every stage's: one table for the whole job file. */
static size_t all_options(df_option out[static MAX_OPTIONS]) {
    size_t n = 0;
    for (size_t i = 0; i < df_n_shared_options && n < MAX_OPTIONS; i++)
        out[n++] = df_shared_options[i];
    for (size_t s = 0; s < N_STAGES; s++) {
        for (size_t i = 0; i < stages[s]->n_options && n < MAX_OPTIONS; i++)
            out[n++] = stages[s]->options[i];
        FOR_MORE(stages[s], table)
        for (size_t i = 0; i < table_length(*table) && n < MAX_OPTIONS; i++) out[n++] = (*table)[i];
    }
    return n;
}

static df_status print_help(const command_line *line) {
    const char *topic = line->help && line->verb != NULL && strcmp(line->verb, "help") != 0
                            ? line->verb
                        : line->n_operands > 0 ? line->operands[0]
                                               : NULL;
    const df_stage *stage = topic != NULL ? find_stage(topic) : NULL;
    if (topic != NULL && strcmp(topic, "convert") == 0) {
        df_convert_help();
        return DF_OK;
    }
    if (topic != NULL && strcmp(topic, "generate") == 0) {
        df_generate_help();
        return DF_OK;
    }
    if (topic != NULL && stage == NULL && strcmp(topic, "run") != 0 && strcmp(topic, "check") != 0)
        return df_fail(DF_USAGE, "no stage is called %s (see darkfield --help)", topic);
    if (stage == NULL) {
        print_usage(stdout);
        return DF_OK;
    }
    printf("darkfield %s JOB.yaml: %s\n\nOptions of this stage:\n", stage->name, stage->help);
    df_options_help(stdout, stage->options, stage->n_options, stage->name);
    FOR_MORE(stage, table)
    df_options_help(stdout, *table, table_length(*table), stage->name);
    if (stage->more_help != NULL) stage->more_help(stdout);
    printf("\nShared options:\n");
    df_options_help(stdout, df_shared_options, df_n_shared_options, NULL);
    return DF_OK;
}

static void print_version(void) {
    printf("darkfield %s (%s)\n%s\n", df_version, df_commit, df_build);
}

/* ---- a run ---------------------------------------------------------------------------------- */

/* Rank 0 reads the job file; its text is broadcast and parsed on every rank, identical by
 * construction. */
static df_status load_job(df_comm *world, const command_line *line, const df_option *options,
                          size_t n, df_job **job) {
    char *text = NULL;
    size_t bytes = 0;
    const char *path = line->operands[0];
    df_status status = df_comm_rank(world) == 0 ? df_read_file(path, &text, &bytes) : DF_OK;
    if (status != DF_OK) status = DF_USAGE;
    DF_TRY(df_agree(world, status));
    df_broadcast(world, 0, &bytes, sizeof bytes);
    if (df_comm_rank(world) != 0) status = DF_NEW(text, bytes + 1);
    status = df_agree(world, status);
    if (status == DF_OK) {
        df_broadcast(world, 0, text, bytes);
        status = df_agree(
            world, df_job_parse(path, text, bytes, options, n, line->sets, line->n_sets, job));
    }
    df_free(text);
    return status;
}

static df_status presume(df_job *job) {
    for (size_t i = 0; i < N_STAGES; i++)
        if (stages[i]->presume != NULL) DF_TRY(stages[i]->presume(job));
    return DF_OK;
}

static int thread_count(const df_job *job) {
    int64_t asked = df_job_int(job, "threads");
    if (asked > 0) omp_set_num_threads((int)asked);
    return omp_get_max_threads();
}

/* Ranks that compute on different kernels would not give the same bytes. */
static df_status agree_kernels(df_comm *world, const df_kernels *kernels) {
    uint64_t ends[2] = {df_hash(df_kernels_path(kernels), strlen(df_kernels_path(kernels))), 0};
    ends[1] = ~ends[0];
    df_max_u64(world, ends, 2);
    if (ends[0] == ~ends[1]) return DF_OK;
    return df_fail(DF_USAGE,
                   "ranks would compute on different kernels (%s here): pin one with kernel_path",
                   df_kernels_path(kernels));
}

static void print_banner(df_run *run) {
    char start[32];
    df_iso_time(start);
    df_info("darkfield %s (%s), %s", df_version, df_commit, df_build);
    df_info("kernels %s, screen %s; %d rank%s x %d thread%s on %s; started %s\n",
            df_kernels_path(run->kernels), run->provenance.screen, run->provenance.ranks,
            run->provenance.ranks == 1 ? "" : "s", run->provenance.threads,
            run->provenance.threads == 1 ? "" : "s", run->provenance.hosts, start);
}

static bool was_given(const df_job *job, const char *key) {
    return strcmp(df_job_where(job, key), "default") != 0;
}

/* A key of its section was given, and no list of stages that might leave it out. */
static bool is_requested(const df_job *job, const df_stage *stage) {
    if (!stage->on_request || was_given(job, "stages")) return false;
    for (size_t i = 0; i < stage->n_options; i++)
        if (was_given(job, stage->options[i].key)) return true;
    return false;
}

static bool is_wanted(const df_job *job, const command_line *line, const df_stage *stage) {
    if (strcmp(line->verb, "run") != 0) return strcmp(line->verb, stage->name) == 0;
    const char *const *listed;
    size_t n = df_job_list(job, "stages", &listed);
    for (size_t i = 0; i < n; i++)
        if (strcmp(listed[i], stage->name) == 0) return true;
    return is_requested(job, stage);
}

static df_status check_stage_list(const df_job *job) {
    const char *const *listed;
    size_t n = df_job_list(job, "stages", &listed);
    for (size_t i = 0; i < n; i++)
        if (find_stage(listed[i]) == NULL)
            return df_fail(DF_USAGE, "%s: no stage is called \"%s\" (see darkfield --help)",
                           df_job_where(job, "stages"), listed[i]);
    return DF_OK;
}

/* Between two stages is a safe point too: harvest and train have others inside. */
static df_status stop_before(const df_run *run, const df_stage *stage) {
    if (run->dry_run || !df_stop_requested(run->world)) return DF_OK;
    return df_fail(DF_STOPPED,
                   "stopped on request before stage %s; what is complete is kept: run the same job "
                   "again to go on",
                   stage->name);
}

static df_status run_stages(df_run *run, const command_line *line) {
    bool first = true;
    DF_TRY(check_stage_list(run->job));
    for (size_t i = 0; i < N_STAGES; i++) {
        if (!is_wanted(run->job, line, stages[i])) continue;
        if (!first) DF_TRY(stop_before(run, stages[i]));
        first = false;
        df_info("== %s: %s", stages[i]->name, stages[i]->help);
        df_run one = df_run_of(run, run->use);
        df_status status = df_job_require(run->job, stages[i]->name);
        if (status == DF_OK) status = stages[i]->run(stages[i]->of_one ? &one : run);
        if (status != DF_OK) {
            df_context("running stage %s of %s", stages[i]->name, line->operands[0]);
            return status;
        }
    }
    return DF_OK;
}

static void summarise(df_run *run, size_t base, double seconds) {
    char own[16], before[16], process[16];
    if (!run->dry_run) {
        df_info("%s", "");
        df_timer_report(run->world, seconds);
    }
    df_human_bytes((double)df_memory_peak(), own);
    df_human_bytes((double)base, before);
    df_human_bytes((double)df_process_peak(), process);
    df_warnings_repeat();
    df_info("own memory on rank 0: at most %s; process: at most %s, %s of it before the job "
            "(MPI, libraries, kernels); warnings: %zu",
            own, process, before, df_warnings());
}

/* Between the parsed job and the result: kernels, folder, provenance, stages, summary. */
static df_status run_job(df_run *run, const command_line *line, const char *command, char *hosts) {
    double start = df_now();
    df_stop_after(60.0 * df_job_real(run->job, "time_limit"));
    df_stop_halt_file(df_job_text(run->job, "halt_file"));
    int threads = thread_count(run->job);
    DF_TRY(
        df_agree(run->world, df_kernels_open(df_job_text(run->job, "kernel_path"), &run->kernels)));
    DF_TRY(df_agree(run->world, agree_kernels(run->world, run->kernels)));
    DF_TRY(
        df_agree(run->world, df_kernels_set_screen(run->kernels, df_job_text(run->job, "screen"))));
    DF_TRY(df_agree(run->world, df_kernels_check(run->kernels)));
    size_t base = df_process_peak();
    char *volatile_options = df_job_resolved(run->job, NULL, true);
    if (volatile_options == NULL) return DF_FAILED;
    run->provenance = (df_provenance){.command = command,
                                      .hosts = hosts,
                                      .kernel_path = df_kernels_path(run->kernels),
                                      .screen = df_screen_name(df_kernels_screen(run->kernels)),
                                      .volatile_options = volatile_options,
                                      .commit = df_commit,
                                      .build = df_build,
                                      .ranks = df_comm_size(run->world),
                                      .threads = threads,
                                      .start = start};
    print_banner(run);
    df_status status = DF_OK;
    if (!run->dry_run && df_comm_rank(run->world) == 0)
        status = df_make_folder(df_job_text(run->job, "out"));
    status = df_agree(run->world, status);
    if (status == DF_OK) status = run_stages(run, line);
    if (status == DF_OK) summarise(run, base, df_now() - start);
    df_free(volatile_options);
    return status;
}

static bool needs_site(const df_job *job, const command_line *line) {
    for (size_t i = 0; i < N_STAGES; i++)
        if (!stages[i]->siteless && is_wanted(job, line, stages[i])) return true;
    return false;
}

/* What every stage reads and nothing can stand in for. */
static df_status require_shared(const df_run *run, const command_line *line) {
    static const char *const sections[] = {"out", "models", "text"};
    const df_job *job = run->job;
    const char *source = df_job_text(job, "train.source");
    bool synthetic = strcmp(source, "activations") != 0; // then no model is needed
    for (size_t i = 0; i < (synthetic ? 1 : sizeof sections / sizeof *sections); i++)
        DF_TRY(df_job_require(job, sections[i]));
    if (!needs_site(job, line)) return DF_OK;
    for (size_t d = 0; d < df_run_dictionaries(run) && !synthetic; d++)
        DF_TRY(df_job_require_sites(df_run_of(run, d).job));
    return DF_OK;
}

static void print_config(const df_run *run) {
    for (size_t d = 0; d < df_run_dictionaries(run); d++) {
        df_run one = df_run_of(run, d);
        char *fixed = df_job_resolved(one.job, NULL, false);
        if (one.member != NULL) df_info("# member %s", one.member);
        df_info("%s", fixed != NULL ? fixed : "");
        df_free(fixed);
    }
}

static df_status run_with_job(df_comm *world, const command_line *line, const char *command) {
    static df_option options[MAX_OPTIONS];
    static char hosts[1024];
    size_t n = all_options(options);
    if (line->n_operands != 1)
        return df_fail(DF_USAGE,
                       "darkfield %s needs one job file, found %zu (see darkfield --help)",
                       line->verb, line->n_operands);
    df_job *job = NULL;
    DF_TRY(load_job(world, line, options, n, &job));
    df_run run = {.world = world, .job = job, .dry_run = line->dry_run, .force = line->force};
    df_status status = presume(job);
    if (status == DF_OK) status = df_sweep_open(&run);
    if (status == DF_OK) status = require_shared(&run, line);
    status = df_agree(world, status);
    if (status == DF_OK && line->print_config)
        print_config(&run);
    else if (status == DF_OK) {
        df_comm_hosts(world, hosts, sizeof hosts);
        status = run_job(&run, line, command, hosts);
    }
    df_kernels_close(&run.kernels);
    df_sweep_close(&run);
    df_job_free(job);
    return status;
}

static df_status run_convert(df_comm *world, const command_line *line, const char *command) {
    static char hosts[1024];
    df_comm_hosts(world, hosts, sizeof hosts);
    const df_provenance facts = {.command = command,
                                 .hosts = hosts,
                                 .kernel_path = "",
                                 .volatile_options = "",
                                 .commit = df_commit,
                                 .build = df_build,
                                 .ranks = df_comm_size(world),
                                 .threads = 1,
                                 .start = df_now()};
    const df_convert what = {.operands = line->operands,
                             .n_operands = line->n_operands,
                             .settings = line->settings,
                             .n_settings = line->n_settings,
                             .force = line->force,
                             .facts = &facts};
    return df_convert_run(world, &what);
}

static df_status run_generate(df_comm *world, const command_line *line) {
    const df_generate what = {line->operands, line->n_operands, line->settings, line->n_settings};
    return df_generate_run(world, &what);
}

// Options with a value belong to one command.
static df_status check_settings(const command_line *line) {
    bool (*takes)(const char *) = strcmp(line->verb, "convert") == 0    ? df_convert_takes
                                  : strcmp(line->verb, "generate") == 0 ? df_generate_takes
                                                                        : NULL;
    for (size_t i = 0; i < line->n_settings; i++) {
        const char *name = line->settings[i].name;
        char flag[64];
        snprintf(flag, sizeof flag, "--%s", name);
        if (takes == NULL || !takes(flag))
            return df_fail(DF_USAGE, "--%s belongs to darkfield %s", name,
                           df_convert_takes(flag) ? "convert" : "generate");
    }
    return DF_OK;
}

static df_status dispatch(df_comm *world, const command_line *line, const char *command) {
    bool speaker = df_comm_rank(world) == 0;
    if (line->version) {
        if (speaker) print_version();
        return DF_OK;
    }
    if (line->help || line->verb == NULL || strcmp(line->verb, "help") == 0) {
        if (!line->help && line->verb == NULL)
            return df_fail(DF_USAGE,
                           "nothing to do: give a stage and a job file (see darkfield --help)");
        return speaker ? print_help(line) : DF_OK;
    }
    if (strcmp(line->verb, "check") == 0)
        return df_agree(world, speaker
                                   ? df_check_files(line->operands, line->n_operands, line->digest)
                                   : DF_OK);
    DF_TRY(check_settings(line));
    if (strcmp(line->verb, "convert") == 0) return run_convert(world, line, command);
    if (strcmp(line->verb, "generate") == 0) return run_generate(world, line);
    if (strcmp(line->verb, "run") == 0 || find_stage(line->verb) != NULL)
        return run_with_job(world, line, command);
    const char *known[N_STAGES + 5] = {"run", "check", "help", "convert", "generate"};
    for (size_t i = 0; i < N_STAGES; i++) known[i + 5] = stages[i]->name;
    const char *near = df_nearest(line->verb, known, N_STAGES + 5);
    return df_fail(DF_USAGE, "unknown command %s%s%s%s (see darkfield --help)", line->verb,
                   near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static char *join_command(int argc, char **argv) {
    char *command = df_strdup("darkfield");
    for (int i = 1; i < argc && command != NULL; i++) {
        char *longer = df_format("%s %s", command, argv[i]);
        df_free(command);
        command = longer;
    }
    return command;
}

int main(int argc, char **argv) {
    df_comm *world = NULL;
    df_status status = df_comm_start(&argc, &argv, &world);
    if (status != DF_OK) {
        df_error_print(status);
        return (int)status;
    }
    command_line line;
    char *command = join_command(argc, argv);
    status = df_agree(world, command == NULL ? DF_FAILED : read_command_line(argc, argv, &line));
    if (status == DF_OK)
        status = dispatch(world, &line, command); // agreed: what it calls is collective
    if (status != DF_OK && df_comm_rank(world) == 0) df_error_print(status);
    df_free(command);
    df_comm_finish(&world);
    return (int)status;
}
