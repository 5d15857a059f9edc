/* A clock that can be set while a program runs: what Python asks for the time of day is told CHAOS_CLOCK's seconds more.
 *
 * Loaded by LD_PRELOAD. Only the interpreter's own calls are changed: compiled libraries turn the time of day into
 * deadlines for the kernel, whose clock stays, and would wait for as long as the clock has jumped. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *seconds;

__attribute__((constructor)) static void open_clock(void) {
    const char *name = getenv("CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) seconds = page;
    close(file);
}

static long jumped(void *caller) {
    Dl_info where;
    if (!seconds || !dladdr(caller, &where) || !where.dli_fname) return 0;
    const char *slash = strrchr(where.dli_fname, '/');
    const char *file = slash ? slash + 1 : where.dli_fname;
    return !strncmp(file, "python", 6) || !strncmp(file, "libpython", 9) ? *seconds : 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, now);
    if (!status && id == CLOCK_REALTIME) now->tv_sec += jumped(__builtin_return_address(0));
    return status;
}

time_t time(time_t *out) {
    struct timespec now;
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_REALTIME, &now);
    now.tv_sec += jumped(__builtin_return_address(0));
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
