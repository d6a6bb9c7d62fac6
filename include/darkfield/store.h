/* darkfield/store.h: files. Parallel HDF5 (the only place that calls H5), activations,
 * dictionaries, safetensors, text.
 *
 * An HDF5 output is written as PATH.part and renamed last. Life of a file: df_file_create, declare
 * every dataset and attribute, df_file_ready (metadata flushed and fsynced, space reserved),
 * independent writes of disjoint row ranges, df_file_finish (writes agreed, checksums computed by
 * reading back, complete = 1, rename). Between ready and finish only raw data change, so a killed
 * run leaves a .part that df_file_resume can continue. Content is a function of what was declared
 * and written, never of the number of ranks.
 *
 * Beside each dataset /a/b stands /checksums/a/b, u64: the XXH3-64 of each block of its rows. A
 * block has as many rows as fit into 1 MiB, at least one. Root attributes: format, format_version,
 * complete (1 in a finished file), layout (hash of paths, types and shapes); each dataset has its
 * declared number as `id`, and units, long_name, labels. Texts are of fixed length, UTF-8. The file
 * begins with an HDF5 user block that holds a checksum of everything that is not raw data; a file
 * whose checksum does not fit is refused before HDF5 sees it. */
#ifndef DARKFIELD_STORE_H
#define DARKFIELD_STORE_H

#include "darkfield/base.h"
#include "darkfield/comm.h"

/* ---- element types -------------------------------------------------------------------------- */

typedef enum df_type {
    DF_U8,
    DF_U32,
    DF_U64,
    DF_I64,
    DF_BF16,
    DF_F16,
    DF_F32,
    DF_F64,
    DF_I32,
    DF_U16
} df_type;
size_t df_type_bytes(df_type type);     /* of one element */
const char *df_type_name(df_type type); /* "bf16" */
df_status df_type_parse(const char *name,
                        df_type *out) DF_MUST_CHECK; /* accepts f32, F32, bf16, BF16, ... */

/* ---- writing our HDF5 files ----------------------------------------------------------------- */

#define DF_MAX_DIMS 4
typedef struct df_file df_file; /* a file being written */

typedef struct df_dataset {
    const char *path; /* "/sites/blocks.2.hook_resid_post" */
    df_type type;
    int dims;
    uint64_t shape[DF_MAX_DIMS]; /* rows are the first dimension; every extent may be 0 */
    const char *units, *long_name, *labels; /* labels: "row, width" */
} df_dataset;

/* Collective on comm (borrowed until finish). format: "darkfield-activations". overwrite of a
 * complete PATH is the caller's decision, taken before. Root attributes format, format_version are
 * set. */
df_status df_file_create(df_comm *comm, const char *path, const char *format,
                         df_file **out) DF_MUST_CHECK;
/* Declarations: collective, same arguments on every rank, before df_file_ready. Groups are made as
 * needed;
 * "" or "/" as `where` is the root. *id numbers the datasets from 0. */
df_status df_file_dataset(df_file *file, const df_dataset *spec, int *id) DF_MUST_CHECK;
df_status df_file_text(df_file *file, const char *where, const char *name,
                       const char *value) DF_MUST_CHECK;
df_status df_file_int(df_file *file, const char *where, const char *name,
                      int64_t value) DF_MUST_CHECK;
df_status df_file_real(df_file *file, const char *where, const char *name,
                       double value) DF_MUST_CHECK;
/* Scalar f64 attributes whose value is only known at the end are declared (as NaN) and set between
 * ready and finish, which writes them. Not collective; rank 0's value counts. A resumed file must
 * be given them again. */
df_status df_file_set_real(df_file *file, const char *where, const char *name,
                           double value) DF_MUST_CHECK;
/* Cuts the rows of some datasets into files of their own, parts of a size to be moved about:
 * "x.acts.h5" names "x.000.acts.h5", "x.001.acts.h5", ... Each has, under the same paths, rows
 * [cut[p], cut[p + 1]); the file keeps a virtual dataset over them, so that HDF5 reads it like any
 * other, and lists them in the attributes of /parts: name0, rows0, hash0 (content), ... Everything
 * here, readers and df_check take it for one file: the same digest, rows by pread. A part that is
 * missing, exchanged or damaged is DF_BAD_INPUT naming it. After the declarations, before
 * df_file_ready. Collective. */
typedef struct df_split {
    const int *id; /* [n] datasets, all of cut[parts] rows */
    size_t n;
    const uint64_t *cut; /* [parts + 1], ascending from 0 */
    size_t parts;
} df_split;
df_status df_file_split(df_file *file, const df_split *how) DF_MUST_CHECK;
df_status df_file_ready(df_file *file) DF_MUST_CHECK; /* collective */

/* Not collective: rows [first, first + count) of dataset `id`, packed, in the file's element type.
 * At most 256 MiB per HDF5 call (longer ones are cut). A rank-local failure is remembered and
 * surfaces in df_file_agree. */
df_status df_file_write(df_file *file, int id, uint64_t first, uint64_t count,
                        const void *data) DF_MUST_CHECK;
/* Reads rows that this rank has written. Not collective. */
df_status df_file_read(const df_file *file, int id, uint64_t first, uint64_t count,
                       void *data) DF_MUST_CHECK;
df_status df_file_agree(df_file *file, df_status mine)
    DF_MUST_CHECK; /* collective: df_agree over the file's comm */
df_status df_file_sync(df_file *file)
    DF_MUST_CHECK; /* collective: raw data written so far reaches the disk */
df_status
df_file_finish(df_file **file) DF_MUST_CHECK; /* collective; frees the handle in every case; no
                                                 .part remains after an error of finish */
void df_file_abandon(df_file **file,
                     bool keep_part); /* collective; keep_part: a later resume may continue it */

/* Reopens PATH.part left by a killed run for more writes; *out = NULL (and DF_OK) when there is
 * none or it is not usable (not flushed, other layout hash): the caller then starts anew. Datasets
 * keep their ids. */
df_status df_file_resume(df_comm *comm, const char *path, const char *format,
                         df_file **out) DF_MUST_CHECK;
df_status df_file_id(const df_file *file, const char *dataset,
                     int *id) DF_MUST_CHECK; /* Not collective */
/* A text attribute of a ready or resumed file ("job": was it made by the same one?). df_free it.
 * Not collective. */
df_status df_file_get_text(const df_file *file, const char *where, const char *name,
                           char **out) DF_MUST_CHECK;

/* The /provenance group, skipped by digests: commit, build, command line, hosts, ranks, threads,
 * job id, start, end, volatile options. Before df_file_ready; the end time is filled in by finish.
 */
typedef struct df_provenance {
    const char *command, *hosts, *kernel_path, *screen, *volatile_options, *commit, *build;
    const char *inputs; /* lines of df_inputs_note; NULL: none are told */
    int ranks, threads;
    double start; /* df_now at start */
} df_provenance;
df_status df_file_provenance(df_file *file, const df_provenance *facts) DF_MUST_CHECK;

/* Scratch in which readers check blocks, and df_file_finish sums them up: rows up to so many bytes.
 */
#define DF_CHECK_BYTES ((uint64_t)1 << 20)
/* What a job will need: bytes of its own memory on one rank, and on disk. */
typedef struct df_need {
    uint64_t memory, disk;
} df_need;
/* A file for plans: takes declarations like one that is created, and touches no disk. Then
 * df_file_need says what making it would need beside what is declared, and frees it; NULL is
 * allowed. Not collective. */
df_status df_file_outline(const char *format, df_file **out) DF_MUST_CHECK;
df_need df_file_need(df_file **file);

/* ---- reading our HDF5 files ----------------------------------------------------------------- */

typedef struct df_reader df_reader;
/* Not collective: every rank opens for itself. Refuses (DF_BAD_INPUT, naming file, expected and
 * found) what is not HDF5, of another format, incomplete, or truncated. format NULL: any of ours.
 */
df_status df_reader_open(const char *path, const char *format, df_reader **out) DF_MUST_CHECK;
void df_reader_close(df_reader **reader);
const char *df_reader_path(const df_reader *reader);
bool df_reader_has(const df_reader *reader, const char *dataset);
/* Type and shape; DF_BAD_INPUT when missing. expected_dims < 0: any. */
df_status df_reader_find(const df_reader *reader, const char *dataset, int expected_dims,
                         df_type *type, uint64_t shape[DF_MAX_DIMS]) DF_MUST_CHECK;
/* Rows [first, first + count), in the file's element type, by pread. Checksums of the blocks
 * touched are verified when `verify`; damage is DF_BAD_INPUT naming dataset and block. Thread-safe.
 */
df_status df_reader_rows(const df_reader *reader, const char *dataset, uint64_t first,
                         uint64_t count, bool verify, void *out) DF_MUST_CHECK;
/* Whole dataset into new memory; type and (when >= 0) total element count must be as asked. */
df_status df_reader_all(const df_reader *reader, const char *dataset, df_type type,
                        int64_t elements, void **out) DF_MUST_CHECK;
df_status df_reader_text(const df_reader *reader, const char *where, const char *name,
                         char **out) DF_MUST_CHECK; /* df_free it */
df_status
df_reader_text_or(const df_reader *reader, const char *where, const char *name, const char *absent,
                  char **out) DF_MUST_CHECK; /* a copy of `absent` where it is not there */
df_status df_reader_int(const df_reader *reader, const char *where, const char *name,
                        int64_t *out) DF_MUST_CHECK;
df_status df_reader_real(const df_reader *reader, const char *where, const char *name,
                         double *out) DF_MUST_CHECK;
/* Names of the datasets directly in a group, sorted; each and the array are df_free'd by the
 * caller. */
df_status df_reader_list(const df_reader *reader, const char *group, char ***names,
                         size_t *n) DF_MUST_CHECK;
/* Byte offset of a contiguous dataset, for prefetchers; DF_BAD_INPUT of one in parts. */
df_status df_reader_offset(const df_reader *reader, const char *dataset,
                           uint64_t *out) DF_MUST_CHECK;

/* The content hash (design section 4): sorted objects outside /provenance: path, type, shape,
 * attributes, bytes. Not collective. `df_check` validates everything: format, completeness, layout
 * of that format, checksums. */
df_status df_digest(const char *path, uint64_t *out) DF_MUST_CHECK;
df_status df_check(const char *path,
                   char **summary) DF_MUST_CHECK; /* summary: one line per finding; df_free it */
/* True when PATH exists, is complete and its stored resolved job (root attribute "job") equals
 * `resolved`. Says in *why (new memory, may be NULL) what differs. */
bool df_file_is_current(const char *path, const char *format, const char *resolved, char **why);

/* ---- activations ---------------------------------------------------------------------------- */

/* What a harvest knows before it starts; every text is given (not NULL). */
typedef struct df_acts_spec {
    uint64_t rows, windows, documents;
    df_type type; /* of all sites: bf16, f16 or f32 */
    size_t sites;
    const char *const *site;                               /* [sites] "blocks.2.hook_resid_post" */
    const uint64_t *width;                                 /* [sites] */
    const int64_t *layer;                                  /* [sites] */
    const char *model, *model_path, *dtype, *architecture; /* model_path goes under /provenance */
    int64_t hidden, layers;
    const char *corpus, *field, *packing;
    int64_t context, bos;                             /* bos < 0: none */
    uint64_t model_hash, corpus_hash, tokenizer_hash; /* of contents */
} df_acts_spec;
/* Dataset numbers of an activations file; site i is DF_ACTS_SITE + i in the order of the spec. */
enum df_acts_dataset {
    DF_ACTS_TOKENS,
    DF_ACTS_TOKEN_END,
    DF_ACTS_WINDOWS,
    DF_ACTS_DOCUMENT_ROW,
    DF_ACTS_DOCUMENT_SOURCE,
    DF_ACTS_DOCUMENT_HELDOUT,
    DF_ACTS_SITE
};
/* Declares the layout of design section 5 in a fresh file of format "darkfield-activations". The
 * caller then writes every dataset and sets two late values: "loss" of "/model", and "mean_square"
 * (mean over all rows of |x|^2) of each
 * "/sites/<site>". Collective. */
df_status df_acts_declare(df_file *file, const df_acts_spec *spec) DF_MUST_CHECK;

/* Rows that have no file: made when they are asked for, by what a higher floor provides. The
 * functions are thread-safe. */
typedef struct df_acts_made {
    void *self; /* NULL: there is a file */
    /* How many of these rows, at least one, can be read of all sites, one site after another,
     * without being made twice. */
    size_t (*fit)(void *self, const uint64_t *rows, size_t n);
    /* As df_acts_gather. */
    df_status (*read)(void *self, size_t site, const uint64_t *rows, size_t n, float *out,
                      size_t ld);
    void (*close)(void *self); /* and the row index, which it has lent */
} df_acts_made;

/* One *.acts.h5, opened. The row index is in memory; sites stay on disk. Same on every rank. */
typedef struct df_acts {
    df_reader *file;
    char *path;
    uint64_t rows, windows, documents;
    uint32_t *tokens; /* [rows] */
    uint32_t *
        token_end; /* [rows] byte just after the token in its document's text; 0 for added tokens */
    uint64_t *window;   /* [windows + 1] first row of each context window */
    uint64_t *document; /* [documents + 1] first row of each document */
    uint64_t *source;   /* [documents] number in the corpus */
    uint8_t *heldout;   /* [documents] */
    uint64_t alignment; /* hash of tokens, windows and documents: equal for aligned files */
    uint64_t hash; /* of the whole content, for records of inputs (stored digest of datasets) */
    /* Of what the rows are a function of: a harvest's job with the hashes of its inputs. The same
     * of rows that are made. `hash` where a file does not say. */
    uint64_t recipe;
    char *model, *model_path, *corpus, *tokenizer; /* corpus: "name hash"; tokenizer: its hash */
    int64_t bos;                                   /* token id put before each document, -1: none */
    size_t sites;
    struct df_site {
        char *name; /* "blocks.3.hook_resid_post" */
        uint64_t width;
        df_type type;
        double mean_square; /* mean over all rows of |x|^2 */
    } * site;
    struct df_acts **part;    /* of df_acts_join: [parts], owned; parts is 0 for one file */
    size_t parts, *part_site; /* [parts, sites] index of each site in each part */
    uint64_t *part_row;       /* [parts + 1] first row of each */
    df_acts_made made;        /* instead of `file` */
} df_acts;
/* Not collective. Structure is validated: offsets ascend, extents agree, ends meet. */
df_status df_acts_open(const char *path, df_acts **out) DF_MUST_CHECK;
/* Several files of one model as one: rows, windows and documents one after another, the sites of
 * the first. Takes the files, also when it fails; of one file it gives that. DF_BAD_INPUT when they
 * are of other models, tokenizers or widths. df_acts_raw and df_acts_mark_bad are for single files.
 * Not collective. */
df_status df_acts_join(df_acts *const *parts, size_t n, df_acts **out) DF_MUST_CHECK;
void df_acts_close(df_acts **acts);
df_status df_acts_site(const df_acts *acts, const char *name,
                       size_t *out) DF_MUST_CHECK; /* nearest name in the message */
/* Rows as fp32 into out with row stride ld (elements). NaN or infinite values: DF_BAD_INPUT naming
 * file, site, row. Not collective; thread-safe. df_acts_gather reads rows[i] into out row i. */
df_status df_acts_read(const df_acts *acts, size_t site, uint64_t first, size_t count, float *out,
                       size_t ld) DF_MUST_CHECK;
df_status df_acts_gather(const df_acts *acts, size_t site, const uint64_t *rows, size_t n,
                         float *out, size_t ld) DF_MUST_CHECK;
/* How many of these rows to read at once, of all sites: n of a file. */
size_t df_acts_fit(const df_acts *acts, const uint64_t *rows, size_t n);
/* Sets `alignment` from the row index. */
void df_acts_align(df_acts *acts);
/* Rows as they are stored, packed; refuses what df_acts_read refuses, and rows that are made. */
df_status df_acts_raw(const df_acts *acts, size_t site, uint64_t first, size_t count,
                      void *out) DF_MUST_CHECK;
/* Bytes that df_acts_read and df_acts_gather take for `count` rows while they run, beside
 * DF_CHECK_BYTES where blocks were not checked before. */
size_t df_acts_read_bytes(const df_acts *acts, size_t site, size_t count);
/* Sets bad[i] to 1 where row first + i holds NaN or infinity; never of rows that are made: making
 * refuses them. Not collective; thread-safe. */
df_status df_acts_mark_bad(const df_acts *acts, size_t site, uint64_t first, size_t count,
                           uint8_t *bad) DF_MUST_CHECK;
/* Which rows of an activations file are used. */
typedef struct df_acts_filter {
    int part;       /* 0 training documents, 1 held-out ones, 2 both */
    bool bos;       /* leave out BOS rows */
    uint64_t first; /* leave out so many first rows of each window */
    const uint32_t *token;
    size_t tokens; /* leave out rows of these tokens */
} df_acts_filter;
/* Whether a row of this token at this place of its window passes, whatever its document. */
bool df_acts_passes(const df_acts *acts, const df_acts_filter *filter, uint32_t token,
                    uint64_t place);
/* The rows that pass, ascending. New memory. */
df_status df_acts_filtered(const df_acts *acts, const df_acts_filter *filter, uint64_t **rows,
                           size_t *n) DF_MUST_CHECK;
/* The rows to use, ascending: not left out (skip_first: BOS rows and the first position of each
 * window) and of the wanted part. which: 0 training, 1 held-out, 2 both. New memory. */
df_status df_acts_rows(const df_acts *acts, int which, bool skip_first, uint64_t **rows,
                       size_t *n) DF_MUST_CHECK;
/* What a file was made from. Its job names activations by their recipe, which is known of rows that
 * models make as well; /provenance holds the content too. df_inputs_note adds a line "RECIPE
 * CONTENT NAME" for each file to `lines`, which it takes, in new memory (they begin as an empty
 * text; NULL before or after: out of memory); the content of rows that are made is "-".
 * df_inputs_check: DF_BAD_INPUT where one of the lines `inputs` (NULL: there are none) has the
 * recipe of an input of `file` and another content, both known. Not collective. */
char *df_inputs_note(char *lines, const df_acts *acts);
df_status df_inputs_check(const df_reader *file, const char *inputs) DF_MUST_CHECK;
/* DF_BAD_INPUT unless alignment hashes agree; the message says what differs first (tokens, windows,
 * documents). */
df_status df_acts_aligned(const df_acts *a, const df_acts *b) DF_MUST_CHECK;

/* f32 <-> bf16 (round to nearest even), f16. n elements. */
void df_to_f32(df_type from, const void *in, float *out, size_t n);
void df_from_f32(df_type to, const float *in, void *out, size_t n);

/* ---- tensors: safetensors and npz ----------------------------------------------------------- */

typedef struct df_tensors df_tensors; /* the tensors of one folder or file */
typedef struct df_tensor {
    const char *name; /* npz: without ".npy" */
    df_type type;
    int dims;
    uint64_t shape[DF_MAX_DIMS];
    const void *data; /* C order; may be unaligned */
    uint64_t elements;
} df_tensor;
/* path: a folder (model.safetensors, or model.safetensors.index.json and its shards), or one file:
 * safetensors, npz or npy (one array, named as the file), told by its first bytes. What is stored
 * plainly is mapped; deflated and Fortran-ordered members of an npz are unpacked into memory, their
 * checksums verified. Hostile headers (lengths, overlaps, offsets past the end, shapes that
 * disagree with bytes, duplicate names, sizes that no compression reaches) are DF_BAD_INPUT. Not
 * collective. */
df_status df_tensors_open(const char *path, df_tensors **out) DF_MUST_CHECK;
void df_tensors_close(df_tensors **tensors);
size_t df_tensors_count(const df_tensors *tensors);
const df_tensor *df_tensors_at(const df_tensors *tensors, size_t i); /* sorted by name */
const df_tensor *df_tensors_find(const df_tensors *tensors,
                                 const char *name); /* NULL when absent */

/* A file of tensors being written: as PATH.part, renamed by finish. Its bytes are a function of the
 * specs and of what is put, never of the number of ranks or of the day. */
typedef struct df_tensor_spec {
    const char *name;
    df_type type;
    int dims;
    uint64_t shape[DF_MAX_DIMS];
} df_tensor_spec;
typedef struct df_tensor_file df_tensor_file;
/* npz (members stored, as numpy.savez does) where the path ends in ".npz", else safetensors. Space
 * is reserved. Collective; the same arguments on every rank. */
df_status df_tensor_file_create(df_comm *comm, const char *path, const df_tensor_spec *specs,
                                size_t n, df_tensor_file **out) DF_MUST_CHECK;
/* Elements [first, first + count) of tensor `i` of the specs, in C order and in its own type. A
 * failure is also remembered for finish. Not collective. */
df_status df_tensor_file_put(df_tensor_file *file, size_t i, uint64_t first, uint64_t count,
                             const void *data) DF_MUST_CHECK;
/* Frees the handle in every case; nothing is left after a failure. Collective. */
df_status df_tensor_file_finish(df_tensor_file **file) DF_MUST_CHECK;
void df_tensor_file_abandon(df_tensor_file **file); /* collective */

/* ---- text corpora --------------------------------------------------------------------------- */

/* Documents: of JSON Lines (*.jsonl, *.ndjson, *.json) with a field; of plain text, one a file; or
 * of token ids, in npy, npz or safetensors (u16, u32, i32, u64 or i64: an array named by the field,
 * "tokens" or "input_ids", [documents, tokens], or [tokens] beside "offsets" [documents + 1]).
 * Texts may be packed by gzip or zstd. */
typedef struct df_corpus df_corpus;
typedef struct df_corpus_how {
    const char *field;  /* NULL: "text" */
    const char *labels; /* name of the field that holds [[name, first, end], ...]; NULL: none */
    /* The field holds a list of {"role": ..., "content": ...}, written as text of this format:
     * chatml (Qwen), llama2, llama3, mistral, mistral-tekken, gemma. NULL: it holds text. */
    const char *chat;
    uint64_t max_documents; /* 0: all */
} df_corpus_how;
typedef struct df_span { /* a labelled stretch of a document */
    uint32_t concept;    /* index into df_corpus_concept */
    uint32_t first, end; /* bytes */
} df_span;
/* path: a file, a folder of files, or a pattern with * ? [ (files in the order of their names'
 * bytes). Invalid UTF-8 becomes U+FFFD, counted and warned about. What is damaged, truncated or of
 * another form is DF_BAD_INPUT naming file and line. Not collective. */
df_status df_corpus_open(const char *path, const df_corpus_how *how, df_corpus **out) DF_MUST_CHECK;
void df_corpus_close(df_corpus **corpus);
uint64_t df_corpus_documents(const df_corpus *corpus);
uint64_t df_corpus_hash(const df_corpus *corpus); /* of the documents' texts */
/* Zero-terminated; "" in a corpus of tokens. */
const char *df_corpus_text(const df_corpus *corpus, uint64_t document, size_t *bytes);
/* NULL in a corpus of texts. */
const uint32_t *df_corpus_tokens(const df_corpus *corpus, uint64_t document, size_t *n);
size_t df_corpus_concepts(const df_corpus *corpus);
const char *df_corpus_concept(const df_corpus *corpus, size_t i); /* sorted by name */
const df_span *df_corpus_spans(const df_corpus *corpus, uint64_t document,
                               size_t *n); /* NULL when *n is 0 */

#endif
