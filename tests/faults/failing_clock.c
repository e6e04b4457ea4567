/* Loaded before libc: from the moment that the file FAILING_WHEN exists, the clocks fail once in the
 * thread that is called FAILING_THREAD. Rust's standard library panics there. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static __thread int has_failed;

int clock_gettime(clockid_t clock, struct timespec *time)
{
    char name[16] = "";
    const char *thread = getenv("FAILING_THREAD");
    const char *when = getenv("FAILING_WHEN");
    if (!has_failed && thread && when
        && pthread_getname_np(pthread_self(), name, sizeof name) == 0
        && strcmp(name, thread) == 0
        && access(when, F_OK) == 0) {
        /* Once: the panic itself wants to know the time. */
        has_failed = 1;
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_clock_gettime, clock, time);
}
