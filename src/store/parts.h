/* parts.h: what the files of this module share and nobody else sees.
 *
 * HDF5 is used for what it is good at, the description of a file; raw data are moved by pread and
 * pwrite at the offsets it gives. So a reader keeps one table of objects in memory and no HDF5
 * handle: it is thread-safe, and everything in the table has been checked against the size of the
 * file. */
#ifndef STORE_PARTS_H
#define STORE_PARTS_H

#include "darkfield/store.h"

#include <hdf5.h>
#include <stdatomic.h>

#define STORE_CALL_BYTES ((uint64_t)256 << 20) /* most bytes that one pwrite or pread moves */
#define STORE_BLOCK_BYTES DF_CHECK_BYTES       /* about the bytes of one checksum block */
#define STORE_CHECKSUMS "/checksums"
#define STORE_PROVENANCE "/provenance"
#define STORE_VERSION 1

/* ---- attributes and objects ----------------------------------------------------------------- */

typedef enum store_kind { STORE_TEXT, STORE_INT, STORE_REAL } store_kind;

typedef struct store_attribute {
    char *name;
    store_kind kind;
    char *text; /* STORE_TEXT only */
    int64_t integer;
    double real;
} store_attribute;

/* A group or a dataset of a file. */
typedef struct store_object {
    char *path; /* "/" is the root */
    bool is_dataset;
    df_type type;
    int dims;
    uint64_t shape[DF_MAX_DIMS];
    uint64_t offset, bytes; /* in the file; an empty dataset has offset 0 */
    bool split;             /* its rows stand in the parts of the table's split */
    /* Checksum block b holds rows [b, b + 1) * block_rows - shift: blocks of a part are those of
     * the whole, whose first one may begin in the part before. */
    uint64_t row_bytes, block_rows, shift;
    size_t blocks;
    uint64_t *checksum;           /* [blocks], NULL until loaded */
    _Atomic unsigned char *sound; /* [blocks] 1: read and found intact */
    store_attribute *attributes;  /* sorted by name */
    size_t n_attributes, attribute_capacity;
} store_object;

/* Datasets whose rows stand in files of their own, which a virtual dataset of HDF5 joins: part p
 * holds rows [cut[p], cut[p + 1]) of each. No parts: there are none. */
typedef struct store_split {
    size_t parts;
    char **name;   /* [parts] of files in the folder of the whole */
    uint64_t *cut; /* [parts + 1] */
} store_split;

typedef struct store_table {
    store_object *objects; /* sorted by path */
    size_t n, capacity;
    store_split split;
} store_table;

/* Rows of one checksum block: a function of the bytes of a row alone. */
uint64_t store_block_rows(uint64_t row_bytes);
/* Bytes, row bytes and blocks from type, shape and shift; DF_BAD_INPUT when they overflow. */
df_status store_measure(store_object *object) DF_MUST_CHECK;
bool store_under(const char *path, const char *group); /* path is the group or inside it */

/* Fills the table from a file opened read-only; `size` is the file's: extents past it are refused.
 */
df_status store_table_read(const char *path, uint64_t size, store_table *table) DF_MUST_CHECK;
void store_table_free(store_table *table);
store_object *store_table_find(const store_table *table,
                               const char *path); /* NULL when absent; "" is the root */
const store_attribute *store_find_attribute(const store_object *object, const char *name);

/* ---- HDF5 ----------------------------------------------------------------------------------- */

void store_h5_quiet(void); /* HDF5 prints its own error stack unless told not to */
const char *
store_h5_reason(void); /* the innermost reason of the last HDF5 failure, in a static buffer */
hid_t store_h5_type(df_type type); /* a new type (H5Tclose it), < 0 on failure */
bool store_h5_type_of(hid_t file_type, df_type *out);
hid_t store_h5_access(void); /* access list of the formats we write: serial, no file locks */
df_status store_h5_text(hid_t object, const char *name, const char *padded,
                        size_t room) DF_MUST_CHECK; /* padded [room] */
df_status store_h5_int(hid_t object, const char *name, int64_t value) DF_MUST_CHECK;
df_status store_h5_real(hid_t object, const char *name, double value) DF_MUST_CHECK;
df_status store_h5_attributes(hid_t object,
                              store_object *out) DF_MUST_CHECK; /* reads all of them */

/* Rewrites attributes that exist, on this rank alone. A text must fit the room it was made with. */
typedef struct store_change {
    const char *where, *name; /* owned by the df_file they belong to, if any */
    store_kind kind;
    char text[64];
    int64_t integer;
    double real;
} store_change;
df_status store_change_attributes(const char *path, const store_change *changes,
                                  size_t n) DF_MUST_CHECK;

/* ---- raw bytes ------------------------------------------------------------------------------ */

df_status store_pread(int descriptor, const char *path, void *out, uint64_t bytes,
                      uint64_t offset) DF_MUST_CHECK;
df_status store_pwrite(int descriptor, const char *path, const void *data, uint64_t bytes,
                       uint64_t offset) DF_MUST_CHECK;
df_status store_fsync(int descriptor, const char *path) DF_MUST_CHECK;
df_status store_fsync_folder(const char *path) DF_MUST_CHECK; /* of the folder that holds path */
df_status store_reserve(int descriptor, const char *path, uint64_t bytes) DF_MUST_CHECK;

/* ---- a file being written ------------------------------------------------------------------- */

typedef struct store_declaration { /* of a dataset or an attribute, until df_file_ready makes it */
    char *where, *name;            /* dataset: where is its path, name NULL */
    store_kind kind;
    char *text; /* [room], zeros behind the text */
    size_t room;
    int64_t integer;
    double real;
} store_declaration;

struct df_file {
    df_comm *comm;
    char *path, *part, *format;
    int descriptor;
    bool ready;
    store_object *datasets; /* by id; path, type and shape as declared */
    size_t n_datasets, dataset_capacity;
    store_declaration *attributes;
    size_t n_attributes, attribute_capacity;
    store_change *changes; /* set by df_file_set_real, written by finish */
    size_t n_changes, change_capacity;
    store_table table; /* once ready */
    size_t *at;        /* [n_datasets] places in the table */
    uint64_t layout;   /* hash of the declared datasets, once they are being made */
    bool has_provenance;
    store_split split;
    df_file **piece;     /* [split.parts] the parts */
    bool published;      /* of a part, on rank 0: it has its final name */
    _Atomic int failure; /* first failure of this rank's writes */
    char failure_text[1024];
};

df_status store_layout_hash(const store_object *datasets, size_t n, uint64_t *out) DF_MUST_CHECK;
df_status store_create_objects(df_file *file)
    DF_MUST_CHECK; /* collective: everything rank 0 has declared, in PATH.part */
df_status
store_attach(df_file *file) DF_MUST_CHECK; /* not collective: table and places from PATH.part */
uint64_t store_planned_bytes(const df_file *file);
df_status store_write_checksums(df_file *file) DF_MUST_CHECK; /* collective */
df_status store_change_add(df_file *file, const char *where, const char *name,
                           store_change **out) DF_MUST_CHECK;
df_status store_remember(df_file *file, df_status code); /* returns code */
/* df_file_text with room for longer values to come. */
df_status store_declare_text(df_file *file, const char *where, const char *name, const char *value,
                             size_t room) DF_MUST_CHECK;
void store_file_free(df_file **file);
/* UTC time of `ago` seconds before now, as df_iso_time writes it. */
void store_time_before(double ago, char out[static 32]);

/* The block before the HDF5 file proper: see seal.c. */
uint64_t store_seal_bytes(size_t datasets);
df_status store_seal(const df_file *file, uint64_t file_bytes)
    DF_MUST_CHECK; /* rank 0, whenever structure has changed */
df_status store_seal_check(int descriptor, const char *path, uint64_t size) DF_MUST_CHECK;
df_status store_reserve_and_seal(const df_file *file) DF_MUST_CHECK; /* rank 0 */

/* ---- a file being read ---------------------------------------------------------------------- */

struct df_reader {
    char *path, *format;
    int descriptor;
    uint64_t size;
    store_table table;
    df_reader **part; /* [table.split.parts] */
};

/* Looks an object up; DF_BAD_INPUT names the file and the nearest dataset. */
df_status store_reader_dataset(const df_reader *reader, const char *path,
                               store_object **out) DF_MUST_CHECK;
/* XXH3-64 of block b as it stands in the file. scratch holds one block. */
df_status store_block_hash(int descriptor, const char *path, const store_object *object,
                           size_t block, void *scratch, uint64_t *out) DF_MUST_CHECK;
uint64_t store_block_bytes(const store_object *object, size_t block);
uint64_t store_block_first(const store_object *object, size_t block); /* its first row */
df_status store_verify_all(const df_reader *reader) DF_MUST_CHECK;
/* The digest by stored checksums alone: what df_digest gives when nothing is damaged. */
uint64_t store_stored_digest(const df_reader *reader);

/* ---- files in parts ------------------------------------------------------------------------- */

#define STORE_PART_FORMAT "darkfield-part"
#define STORE_PARTS "/parts" /* of the whole file: attributes format, nameP, rowsP, hashP */

void store_split_free(store_split *split);
/* PATH of the part: it stands beside the whole. New memory. */
char *store_split_path(const char *whole, const char *name);
/* The creation list of a virtual dataset over all parts, < 0 on failure; and what one says, which
 * must agree with what `split` has from the datasets before. */
hid_t store_split_properties(const store_split *split, const store_object *object);
df_status store_split_read(hid_t properties, const store_object *object,
                           store_split *split) DF_MUST_CHECK;

/* An open part: of a file being written, or read. */
typedef struct store_part {
    int descriptor;
    const char *path;
    const store_table *table;
} store_part;
/* XXH3-64 of a block of the whole, over the parts: the checksum that stands in a part, where one
 * holds the whole block. scratch holds one block. */
df_status store_split_hash(const store_split *split, const store_part *part,
                           const store_object *whole, size_t block, void *scratch,
                           uint64_t *out) DF_MUST_CHECK;

/* Writing. Rows of a split dataset to or from its parts; the first function also of a file that has
 * none. */
df_status store_pieces_sync(df_file *file) DF_MUST_CHECK;
df_status store_pieces_ready(df_file *file) DF_MUST_CHECK;     /* collective */
df_status store_pieces_checksums(df_file *file) DF_MUST_CHECK; /* collective */
df_status store_pieces_publish(df_file *file) DF_MUST_CHECK;   /* rank 0 */
df_status store_pieces_resume(df_file *file) DF_MUST_CHECK;    /* collective */
void store_pieces_abandon(df_file *file, bool keep);           /* collective */
df_status store_pieces_write(df_file *file, const store_object *object, df_range rows,
                             const void *data) DF_MUST_CHECK;
df_status store_pieces_read(const df_file *file, const store_object *object, df_range rows,
                            void *data) DF_MUST_CHECK;
df_status store_piece_hash(const df_file *file, const store_object *object, size_t block,
                           void *scratch, uint64_t *out) DF_MUST_CHECK;
/* Rank 0: parts that an earlier file of this name left behind. */
void store_pieces_clear(const df_file *file);
/* complete = 1 in the .part, which is then read back; *hash: its digest. Rank 0. */
df_status store_complete(df_file *file, uint64_t *hash) DF_MUST_CHECK;
df_status store_rename(df_file *file) DF_MUST_CHECK; /* rank 0 */

/* Reading. */
df_status store_parts_open(df_reader *reader) DF_MUST_CHECK;
void store_parts_close(df_reader *reader);
df_status store_parts_rows(const df_reader *reader, const store_object *object, df_range rows,
                           bool verify, void *out) DF_MUST_CHECK;
/* Every block of every part, and the checksums of the whole. */
df_status store_parts_verify(const df_reader *reader) DF_MUST_CHECK;

#endif
