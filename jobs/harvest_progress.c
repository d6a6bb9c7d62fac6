/* What a harvest has finished, in a small file beside the growing output:
 * OUT/NAME.acts.h5.progress. It is replaced by rename, after the output's data have reached the
 * disk, so it never promises a unit that is not there. */
#include "harvest.h"

#include <stdio.h>
#include <string.h>

typedef struct header {
    char magic[8];
    uint64_t job; // hash of the job text: model, text, sites, options
    uint64_t units, columns;
    uint64_t content; // hash of what follows: done, then sums
} header;

static const char magic[8] = "dfunits1";

df_status df_units_new(harvest *h) {
    unit_table *t = &h->table;
    t->units = (h->text.windows + HARVEST_UNIT - 1) / HARVEST_UNIT;
    t->columns = 2 + h->sites;
    DF_TRY(DF_NEW(t->done, t->units));
    return DF_NEW(t->sums, t->units * t->columns);
}

void df_units_free(unit_table *table) {
    df_free(table->done);
    df_free(table->sums);
    *table = (unit_table){0};
}

static size_t sums_bytes(const unit_table *t) {
    return t->units * t->columns * sizeof *t->sums;
}

static uint64_t content_hash(const unit_table *t) {
    return df_hash_more(df_hash(t->done, t->units), t->sums, sums_bytes(t));
}

static header expected_header(const harvest *h) {
    header head = {.job = df_hash(h->job, strlen(h->job)),
                   .units = h->table.units,
                   .columns = h->table.columns};
    memcpy(head.magic, magic, sizeof magic);
    return head;
}

static df_status write_table(const harvest *h) {
    const unit_table *t = &h->table;
    header head = expected_header(h);
    char *bytes;
    head.content = content_hash(t);
    size_t size = sizeof head + t->units + sums_bytes(t);
    DF_TRY(DF_NEW(bytes, size));
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, t->done, t->units);
    memcpy(bytes + sizeof head + t->units, t->sums, sums_bytes(t));
    df_status status = df_write_file(h->progress_path, bytes, size);
    df_free(bytes);
    return status;
}

df_status df_units_save(harvest *h) {
    DF_TRY(df_file_sync(h->file));
    return df_agree(h->run->world, df_comm_rank(h->run->world) == 0 ? write_table(h) : DF_OK);
}

// Rank 0: true when the file is whole and of this very job. The table is filled in only then.
static bool read_table(harvest *h) {
    unit_table *t = &h->table;
    header head = expected_header(h);
    char *bytes = NULL;
    size_t size;
    if (!df_file_exists(h->progress_path) || df_read_file(h->progress_path, &bytes, &size) != DF_OK)
        return false;
    bool good = size == sizeof head + t->units + sums_bytes(t) &&
                memcmp(bytes, &head, offsetof(header, content)) == 0;
    if (good) {
        memcpy(&head, bytes, sizeof head);
        memcpy(t->done, bytes + sizeof head, t->units);
        memcpy(t->sums, bytes + sizeof head + t->units, sums_bytes(t));
        good = content_hash(t) == head.content;
    }
    if (!good) {
        memset(t->done, 0, t->units);
        memset(t->sums, 0, sums_bytes(t));
    }
    df_free(bytes);
    return good;
}

bool df_units_load(harvest *h) {
    uint8_t good = df_comm_rank(h->run->world) == 0 && read_table(h);
    df_error_clear();
    df_broadcast(h->run->world, 0, &good, sizeof good);
    if (!good) return false;
    df_broadcast(h->run->world, 0, h->table.done, h->table.units);
    df_broadcast(h->run->world, 0, h->table.sums, sums_bytes(&h->table));
    return true;
}
