/* Loaded before libc: while the file FAILING_WHEN exists, the disk under the file FAILING_FILE is full. Of
 * the first write to it half finds room, the later ones none. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_full;

static int is_at(int file, const char *path)
{
    struct stat ours, theirs;
    return fstat(file, &ours) == 0 && S_ISREG(ours.st_mode) && stat(path, &theirs) == 0
        && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

ssize_t write(int file, const void *bytes, size_t count)
{
    const char *when = getenv("FAILING_WHEN");
    const char *path = getenv("FAILING_FILE");
    if (when && path && is_at(file, path)) {
        int was_full = is_full;
        /* One thread alone writes to it. */
        is_full = access(when, F_OK) == 0;
        if (is_full && (was_full || count < 2)) {
            errno = ENOSPC;
            return -1;
        }
        if (is_full)
            count /= 2;
    }
    return syscall(SYS_write, file, bytes, count);
}
