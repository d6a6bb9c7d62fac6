/* Small files: read whole, written whole by way of a temporary name. */
#include "darkfield/base.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_BYTES 4096

static df_status cannot(df_status code, const char *what, const char *path) {
    return df_fail(code, "cannot %s %s: %s", what, path, strerror(errno));
}

// What fstat says is only a first guess of the size: pipes have none, and a file may grow
// meanwhile.
static df_status read_all(int fd, size_t guess, const char *path, char **text, size_t *bytes) {
    size_t capacity = 0, used = 0;
    DF_TRY(df_grow((void **)text, &capacity, guess + 1, 1));
    for (;;) {
        if (used + 1 >= capacity) DF_TRY(df_grow((void **)text, &capacity, used + FIRST_BYTES, 1));
        ssize_t n = read(fd, *text + used, capacity - used - 1);
        if (n == 0) break;
        if (n < 0 && errno != EINTR) return cannot(DF_BAD_INPUT, "read", path);
        if (n > 0) used += (size_t)n;
    }
    (*text)[used] = '\0';
    *bytes = used;
    return DF_OK;
}

df_status df_read_file(const char *path, char **text, size_t *bytes) {
    *text = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cannot(DF_BAD_INPUT, "open", path);
    df_status status = DF_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) DF_GO(cannot(DF_BAD_INPUT, "look at", path));
    if (S_ISDIR(info.st_mode))
        DF_GO(df_fail(DF_BAD_INPUT, "cannot read %s: a file was expected, it is a folder", path));
    DF_GO(
        read_all(fd, info.st_size > 0 ? (size_t)info.st_size + 1 : FIRST_BYTES, path, text, bytes));
done:
    close(fd);
    if (status != DF_OK) {
        df_free(*text);
        *text = NULL;
    }
    return status;
}

static df_status write_all(int fd, const char *data, size_t bytes, const char *path) {
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno != EINTR) return cannot(DF_FAILED, "write", path);
        if (n > 0) {
            data += n;
            bytes -= (size_t)n;
        }
    }
    if (fsync(fd) != 0 && errno != EINVAL) return cannot(DF_FAILED, "sync", path);
    return DF_OK;
}

static df_status write_temporary(const char *temporary, const void *data, size_t bytes) {
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return cannot(DF_FAILED, "create", temporary);
    df_status status = write_all(fd, data, bytes, temporary);
    if (close(fd) != 0 && status == DF_OK) status = cannot(DF_FAILED, "close", temporary);
    return status;
}

// The new name is safe only when the folder is on disk too. Some file systems cannot sync folders
// (EINVAL).
static df_status sync_folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    char *folder = slash == NULL   ? df_strdup(".")
                   : slash == path ? df_strdup("/")
                                   : df_format("%.*s", (int)length, path);
    if (folder == NULL) return DF_FAILED;
    df_status status = DF_OK;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) DF_GO(cannot(DF_FAILED, "open folder", folder));
    if (fsync(fd) != 0 && errno != EINVAL) status = cannot(DF_FAILED, "sync folder", folder);
    close(fd);
done:
    df_free(folder);
    return status;
}

df_status df_write_file(const char *path, const void *data, size_t bytes) {
    char *temporary = df_format("%s.tmp", path);
    if (temporary == NULL) return DF_FAILED;
    df_status status = write_temporary(temporary, data, bytes);
    if (status == DF_OK && rename(temporary, path) != 0) status = cannot(DF_FAILED, "write", path);
    if (status != DF_OK) (void)unlink(temporary);
    df_free(temporary);
    if (status == DF_OK) status = sync_folder_of(path);
    return status;
}

static df_status make_one(const char *path) {
    struct stat info;
    if (mkdir(path, 0777) == 0) return DF_OK;
    int reason =
        errno; // a folder that is there may also say EROFS or EACCES: look before complaining
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return DF_OK;
        reason = ENOTDIR;
    }
    errno = reason;
    return cannot(DF_FAILED, "create folder", path);
}

df_status df_make_folder(const char *path) {
    if (path[0] == '\0') return df_fail(DF_FAILED, "cannot create a folder: its name is empty");
    char *part = df_strdup(path);
    if (part == NULL) return DF_FAILED;
    df_status status = DF_OK;
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        DF_GO(make_one(part));
        *slash = '/';
    }
    DF_GO(make_one(part));
done:
    df_free(part);
    return status;
}

bool df_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}
