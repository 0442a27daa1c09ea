/* Loaded before libc into a process, lets its n-th writing call on a file of a watched folder fail.
 *
 * FAULT_UNDER     folders with colons between them; other files are left alone
 * FAULT_AT        which call fails, counted from 1 over the process alone; with FAULT_STAYS all after it as well
 * FAULT_AS        ENOSPC, EIO, or "short": a write writes half
 * FAULT_COUNT     a file that gets one byte for each such call, so that somebody knows how many there were
 * FAULT_CLOCK     seconds by which the clock of the day jumps after each fifth reading, back and forth
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) (__typeof__(&name)) dlsym(RTLD_NEXT, #name)

static int calls;

static int watched(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    char whole[4096];
    if (!under || !path || !*under) return 0;
    if (*path != '/') { /* from the working folder */
        if (!getcwd(whole, sizeof whole - strlen(path) % 2048 - 2)) return 0;
        strcat(strcat(whole, "/"), path);
        path = whole;
    }
    while (*under) {
        size_t length = strcspn(under, ":");
        if (length && !strncmp(path, under, length)) return 1;
        under += length + (under[length] == ':');
    }
    return 0;
}

static int watched_fd(int fd) {
    char link[64], path[4096];
    struct stat found;
    if (fd < 3 || syscall(SYS_newfstatat, fd, "", &found, AT_EMPTY_PATH) || !S_ISREG(found.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return watched(path);
}

/* 0: go on, 1: fail with errno, 2: write half */
static int fails(void) {
    const char *at = getenv("FAULT_AT"), *as = getenv("FAULT_AS"), *count = getenv("FAULT_COUNT");
    int number = __sync_add_and_fetch(&calls, 1);
    if (count) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, count, O_WRONLY | O_CREAT | O_APPEND, 0666);
        if (fd >= 0) {
            syscall(SYS_write, fd, ".", 1);
            syscall(SYS_close, fd);
        }
    }
    if (!at || !as) return 0;
    if (number != atoi(at) && !(getenv("FAULT_STAYS") && number > atoi(at))) return 0;
    errno = !strcmp(as, "EIO") ? EIO : ENOSPC;
    return strcmp(as, "short") ? 1 : 2;
}

ssize_t write(int fd, const void *data, size_t size) {
    if (watched_fd(fd)) {
        int how = fails();
        if (how == 1) return -1;
        if (how == 2 && size > 1) size /= 2;
    }
    return (REAL(write))(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (watched_fd(fd) && fails() == 1) return -1;
    return (REAL(pwrite64))(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) { /* of C++ streams */
    if (watched_fd(fd) && fails() == 1) return -1;
    return (REAL(writev))(fd, parts, count);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    if (watched_fd(to) && fails() == 1) return -1;
    return (REAL(sendfile64))(to, from, at, size);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags) {
    if (watched_fd(to) && fails() == 1) return -1;
    return (REAL(copy_file_range))(from, at, to, to_at, size, flags);
}

int ftruncate64(int fd, off64_t size) {
    if (watched_fd(fd) && fails() == 1) return -1;
    return (REAL(ftruncate64))(fd, size);
}

int fsync(int fd) {
    if (watched_fd(fd) && fails() == 1) return -1;
    return (REAL(fsync))(fd);
}

#define OPENS(name)                                                        \
    int name(const char *path, int flags, ...) {                           \
        va_list rest;                                                      \
        va_start(rest, flags);                                             \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                      \
        if ((flags & O_ACCMODE) != O_RDONLY && watched(path) && fails() == 1) return -1; \
        return (REAL(name))(path, flags, mode);                            \
    }

OPENS(open)
OPENS(open64)

FILE *fopen64(const char *path, const char *how) {
    if (strpbrk(how, "wa+") && watched(path) && fails() == 1) return NULL;
    return (REAL(fopen64))(path, how);
}

FILE *fopen(const char *path, const char *how) {
    if (strpbrk(how, "wa+") && watched(path) && fails() == 1) return NULL;
    return (REAL(fopen))(path, how);
}

int rename(const char *from, const char *to) {
    if (watched(to) && fails() == 1) return -1;
    return (REAL(rename))(from, to);
}

int link(const char *from, const char *to) {
    if (watched(to) && fails() == 1) return -1;
    return (REAL(link))(from, to);
}

int mkdir(const char *path, mode_t mode) {
    if (watched(path) && fails() == 1) return -1;
    return (REAL(mkdir))(path, mode);
}

static long jump(void) {
    const char *seconds = getenv("FAULT_CLOCK");
    static int readings;
    return seconds && __sync_add_and_fetch(&readings, 1) / 5 % 2 ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jump();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
