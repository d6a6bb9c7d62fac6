/* Raw bytes of a file: whole reads and writes, reaching the disk, reserving space. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static size_t piece(uint64_t left) {
    return (size_t)(left < STORE_CALL_BYTES ? left : STORE_CALL_BYTES);
}

df_status store_pread(int descriptor, const char *path, void *out, uint64_t bytes,
                      uint64_t offset) {
    char *to = out;
    while (bytes > 0) {
        ssize_t n = pread(descriptor, to, piece(bytes), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return df_fail(DF_BAD_INPUT, "cannot read %s at byte %llu: %s", path,
                           (unsigned long long)offset, strerror(errno));
        if (n == 0)
            return df_fail(DF_BAD_INPUT, "%s ends at byte %llu: expected %llu more bytes", path,
                           (unsigned long long)offset, (unsigned long long)bytes);
        to += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return DF_OK;
}

df_status store_pwrite(int descriptor, const char *path, const void *data, uint64_t bytes,
                       uint64_t offset) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t n = pwrite(descriptor, from, piece(bytes), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return df_fail(DF_FAILED, "cannot write %s at byte %llu: %s", path,
                           (unsigned long long)offset, strerror(n < 0 ? errno : ENOSPC));
        from += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return DF_OK;
}

df_status store_fsync(int descriptor, const char *path) {
    while (fsync(descriptor) != 0)
        if (errno != EINTR)
            return df_fail(DF_FAILED, "cannot bring %s to the disk: %s", path, strerror(errno));
    return DF_OK;
}

df_status store_fsync_folder(const char *path) {
    char folder[4096]; // no system opens longer paths
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash != NULL) slash[slash == folder] = '\0';
    int descriptor = open(slash != NULL ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0)
        return df_fail(DF_FAILED, "cannot open the folder of %s: %s", path, strerror(errno));
    // Some file systems know no fsync of a folder; the rename is as safe there as it gets.
    int code = fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
    close(descriptor);
    if (code == 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot bring the folder of %s to the disk: %s", path,
                   strerror(code));
}

static df_status no_room(int descriptor, const char *path, uint64_t bytes) {
    char need[16], room[16] = "not known";
    struct statvfs facts;
    df_human_bytes((double)bytes, need);
    if (fstatvfs(descriptor, &facts) == 0)
        df_human_bytes((double)facts.f_bavail * (double)facts.f_frsize, room);
    return df_fail(
        DF_FAILED,
        "not enough disk space for %s: it needs %s, free there: %s; make room, or choose "
        "another folder",
        path, need, room);
}

static df_status fits(int descriptor, const char *path, uint64_t bytes) {
    struct statvfs facts;
    if (fstatvfs(descriptor, &facts) != 0) return DF_OK; // nothing known: the writes will tell
    if ((double)facts.f_bavail * (double)facts.f_frsize >= (double)bytes) return DF_OK;
    return no_room(descriptor, path, bytes);
}

df_status store_reserve(int descriptor, const char *path, uint64_t bytes) {
    int code;
    if (bytes == 0) return DF_OK;
    if (bytes > INT64_MAX) return df_fail(DF_FAILED, "%s would be too large for any file", path);
    do code = posix_fallocate(descriptor, 0, (off_t)bytes);
    while (code == EINTR);
    if (code == 0) return DF_OK;
    if (code == ENOSPC || code == EDQUOT) return no_room(descriptor, path, bytes);
    if (code == EOPNOTSUPP || code == EINVAL || code == ENOSYS)
        return fits(descriptor, path, bytes);
    return df_fail(DF_FAILED, "cannot reserve space for %s: %s", path, strerror(code));
}
