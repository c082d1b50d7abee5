/* Stops, kills or fails a process at one of its calls on files below a folder; and sets its clock apart.
 *
 * Preloaded (LD_PRELOAD). Armed by fault_arm(), or when the process starts, by the environment:
 *   FAULT_ROOT    calls on paths below this folder are counted
 *   FAULT_AT      `<call>:<pattern>:<number>`: the number-th such call on a path (below the root) that fits the pattern
 *   FAULT_ACTION  stop (SIGSTOP before the call), kill (SIGKILL before it), torn (SIGKILL after half a write),
 *                 lost:<errno> (the call is done, its reply is this error), fail:<errno> (it is not done), none
 *   FAULT_RATE    in place of FAULT_AT: this share of all calls, drawn from FAULT_SEED and the process id
 *   FAULT_TRACE   a file to which each counted call is appended: `<call> <path>`, and `! <call> <path>` where it struck
 *   FAULT_CLOCK   seconds that this process's clock is ahead
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum action { NONE, STOP, KILL, TORN, LOST, FAIL };

static char root[4096];
static size_t root_length;
static char wanted_call[32], pattern[512];
static long wanted_number;
static atomic_long matched;
static enum action action;
static int error_number;
static double rate;
static unsigned int seed;
static int trace = -1;
static long clock_offset;
static atomic_int struck;
static __thread int busy;

#define REAL(name) ((typeof(&name))real_symbol(#name))
static void *real_symbol(const char *name) { return dlsym(RTLD_NEXT, name); }

static void parse_action(const char *text) {
    action = NONE;
    if (!strcmp(text, "stop")) action = STOP;
    else if (!strcmp(text, "kill")) action = KILL;
    else if (!strcmp(text, "torn")) action = TORN;
    else if (!strncmp(text, "lost:", 5)) action = LOST, error_number = atoi(text + 5);
    else if (!strncmp(text, "fail:", 5)) action = FAIL, error_number = atoi(text + 5);
}

void fault_arm(const char *folder, const char *at, const char *what, const char *trace_path) {
    root_length = 0;
    matched = 0;
    struck = 0;
    wanted_call[0] = 0;
    if (at && *at) {
        char copy[1024];
        snprintf(copy, sizeof copy, "%s", at);
        char *first = strchr(copy, ':'), *last = strrchr(copy, ':');
        *first = *last = 0;
        snprintf(wanted_call, sizeof wanted_call, "%.31s", copy);
        snprintf(pattern, sizeof pattern, "%.511s", first + 1);
        wanted_number = atol(last + 1);
    }
    parse_action(what);
    if (trace_path && *trace_path)
        trace = syscall(SYS_openat, AT_FDCWD, trace_path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0666);
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
}

void fault_clock(long seconds) { clock_offset = seconds; }

__attribute__((constructor)) static void from_environment(void) {
    const char *folder = getenv("FAULT_ROOT"), *offset = getenv("FAULT_CLOCK"), *share = getenv("FAULT_RATE");
    if (offset) clock_offset = atol(offset);
    if (!folder) return;
    const char *at = getenv("FAULT_AT"), *what = getenv("FAULT_ACTION"), *path = getenv("FAULT_TRACE");
    fault_arm(folder, at, what ? what : "none", path);
    if (share) {
        const char *number = getenv("FAULT_SEED");
        rate = atof(share);
        seed = (number ? atoi(number) : 0) * 7919u + getpid();
    }
}

/* The path of a call, from its folder's descriptor and name; returns whether it lies below the root. */
static int below(int folder, const char *name, char *out, size_t size) {
    if (!root_length || busy) return 0;
    char base[4096] = "";
    if (!name || name[0] != '/') {
        char link[64];
        ssize_t length;
        if (folder == AT_FDCWD) {
            length = syscall(SYS_getcwd, base, sizeof base);
            if (length > 0) length--;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            length = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        }
        if (length < 0) return 0;
        base[length] = 0;
        if (name && *name) snprintf(out, size, "%s/%s", base, name);
        else snprintf(out, size, "%s", base);
    } else {
        snprintf(out, size, "%s", name);
    }
    return !strncmp(out, root, root_length) && (out[root_length] == '/' || !out[root_length]);
}

static void note(const char *prefix, const char *call, const char *path) {
    if (trace < 0) return;
    char line[8200];
    int length = snprintf(line, sizeof line, "%s%s %s\n", prefix, call, path + root_length);
    if (length > 0) syscall(SYS_write, trace, line, length);
}

/* Counts a call; returns the action that it has to take after or in place of the call. */
static enum action strike(const char *call, int folder, const char *name) {
    char path[8192];
    int before = errno;
    enum action found = NONE;
    if (below(folder, name, path, sizeof path)) {
        busy = 1;
        int hit = 0;
        if (rate > 0) {
            hit = rand_r(&seed) < rate * RAND_MAX;
        } else if (wanted_call[0] && (wanted_call[0] == '*' || !strcmp(wanted_call, call)) &&
                   !fnmatch(pattern, path + root_length, 0)) {
            hit = ++matched == wanted_number;
        }
        note(hit ? "! " : "", call, path);
        if (hit) {
            struck = 1;
            if (action == STOP) kill(getpid(), SIGSTOP);
            else if (action == KILL) kill(getpid(), SIGKILL);
            else found = action;
            if (action == STOP || action == KILL) usleep(1000); /* the signal stops all threads before the call */
        }
        busy = 0;
    }
    errno = before;
    return found;
}

#define GUARDED(call, folder, name, type, real)                  \
    enum action what = strike(call, folder, name);               \
    if (what == FAIL) { errno = error_number; return -1; }       \
    type result = real;                                          \
    if (what == TORN) kill(getpid(), SIGKILL);                   \
    if (what == LOST && result >= 0) { errno = error_number; return -1; } \
    return result;

static const char *kind_of_open(int flags) { return flags & O_CREAT ? "create" : "open"; }

#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        GUARDED(kind_of_open(flags), AT_FDCWD, path, int, REAL(name)(path, flags, mode)) \
    }
#define OPENAT(name)                                                                  \
    int name(int folder, const char *path, int flags, ...) {                          \
        va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        GUARDED(kind_of_open(flags), folder, path, int, REAL(name)(folder, path, flags, mode)) \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

DIR *opendir(const char *path) {
    enum action what = strike("list", AT_FDCWD, path);
    if (what == FAIL || what == LOST) { errno = error_number; return NULL; }
    return REAL(opendir)(path);
}

static ssize_t half(ssize_t size) { return size > 1 ? size / 2 : size; }

ssize_t write(int file, const void *data, size_t size) {
    enum action what = strike("write", file, NULL);
    if (what == FAIL) { errno = error_number; return -1; }
    ssize_t done = REAL(write)(file, data, what == TORN ? half(size) : size);
    if (what == TORN) kill(getpid(), SIGKILL);
    if (what == LOST && done >= 0) { errno = error_number; return -1; }
    return done;
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { GUARDED("write", file, NULL, ssize_t, REAL(pwrite64)(file, data, size, at)) }
ssize_t writev(int file, const struct iovec *parts, int count) { GUARDED("write", file, NULL, ssize_t, REAL(writev)(file, parts, count)) }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size);
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { GUARDED("write", to, NULL, ssize_t, REAL(sendfile64)(to, from, at, size)) }

int fsync(int file) { GUARDED("fsync", file, NULL, int, REAL(fsync)(file)) }
int fdatasync(int file) { GUARDED("fsync", file, NULL, int, REAL(fdatasync)(file)) }
int ftruncate64(int file, off64_t size) { GUARDED("truncate", file, NULL, int, REAL(ftruncate64)(file, size)) }
int rename(const char *from, const char *to) { GUARDED("rename", AT_FDCWD, to, int, REAL(rename)(from, to)) }
int renameat(int a, const char *from, int b, const char *to) { GUARDED("rename", b, to, int, REAL(renameat)(a, from, b, to)) }
int link(const char *from, const char *to) { GUARDED("link", AT_FDCWD, to, int, REAL(link)(from, to)) }
int linkat(int a, const char *from, int b, const char *to, int flags) { GUARDED("link", b, to, int, REAL(linkat)(a, from, b, to, flags)) }
int symlink(const char *from, const char *to) { GUARDED("link", AT_FDCWD, to, int, REAL(symlink)(from, to)) }
int unlink(const char *path) { GUARDED("unlink", AT_FDCWD, path, int, REAL(unlink)(path)) }
int unlinkat(int folder, const char *path, int flags) { GUARDED("unlink", folder, path, int, REAL(unlinkat)(folder, path, flags)) }
int rmdir(const char *path) { GUARDED("rmdir", AT_FDCWD, path, int, REAL(rmdir)(path)) }
int mkdir(const char *path, mode_t mode) { GUARDED("mkdir", AT_FDCWD, path, int, REAL(mkdir)(path, mode)) }
int mkdirat(int folder, const char *path, mode_t mode) { GUARDED("mkdir", folder, path, int, REAL(mkdirat)(folder, path, mode)) }
int chmod(const char *path, mode_t mode) { GUARDED("chmod", AT_FDCWD, path, int, REAL(chmod)(path, mode)) }
int fchmod(int file, mode_t mode) { GUARDED("chmod", file, NULL, int, REAL(fchmod)(file, mode)) }
int fchmodat(int folder, const char *path, mode_t mode, int flags) { GUARDED("chmod", folder, path, int, REAL(fchmodat)(folder, path, mode, flags)) }
int utimensat(int folder, const char *path, const struct timespec times[2], int flags) { GUARDED("utime", folder, path, int, REAL(utimensat)(folder, path, times, flags)) }
int futimens(int file, const struct timespec times[2]) { GUARDED("utime", file, NULL, int, REAL(futimens)(file, times)) }
int stat64(const char *path, struct stat64 *facts) { GUARDED("stat", AT_FDCWD, path, int, REAL(stat64)(path, facts)) }
int stat(const char *path, struct stat *facts) { GUARDED("stat", AT_FDCWD, path, int, REAL(stat)(path, facts)) }
int fstatat64(int folder, const char *path, struct stat64 *facts, int flags) { GUARDED("stat", folder, path, int, REAL(fstatat64)(folder, path, facts, flags)) }
int fstatat(int folder, const char *path, struct stat *facts, int flags) { GUARDED("stat", folder, path, int, REAL(fstatat)(folder, path, facts, flags)) }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (!result && clock_offset && clock == CLOCK_REALTIME) now->tv_sec += clock_offset;
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (!result && clock_offset) now->tv_sec += clock_offset;
    return result;
}
time_t time(time_t *out) {
    time_t now = REAL(time)(NULL) + clock_offset;
    if (out) *out = now;
    return now;
}
