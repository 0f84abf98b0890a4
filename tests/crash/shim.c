/* Stands between a process and the files of one database: fails the n-th operation, or keeps a log of them all.
 *
 * Loaded by LD_PRELOAD and idle until `shim_watch` names the database. A file of it is one whose path begins with the
 * database's; its kind is what follows. An operation and its record are made under one lock, so that the log has them in
 * the order in which they took effect.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITES, SYNCS, READS, SORTS };
enum { FDS = 1024, PATH = 4096 };

struct record {
    uint64_t offset;
    uint64_t length; /* of the data that follow a write, or the length a file was cut to */
    uint32_t file;   /* the number of the file, counted by creation; 0 for the directory */
    char what;       /* c(reated) w(ritten) t(runcated) s(ynced) u(nlinked) r(enamed) */
    char kind;       /* d(atabase) w(al) j(ournal) s(hared memory) l(ock) a(cks) D(irectory) */
    char pad[2];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char database[PATH], directory[PATH];
static char kinds[FDS];
static uint32_t files[FDS], named[128], made;
static int log_fd = -1;
static long counts[SORTS], fired;
static int fault_sort = -1, fault_error, fault_forever;
static long fault_at;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

void shim_watch(const char *path, const char *log_path)
{
    snprintf(database, PATH, "%s", path);
    snprintf(directory, PATH, "%s", path);
    *strrchr(directory, '/') = 0;
    if (*log_path)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

/* Fail the `at`-th operation of a sort from now on, and all later ones if `forever`; none with a sort below 0. */
void shim_fail(int sort, long at, int error, int forever)
{
    pthread_mutex_lock(&lock);
    memset(counts, 0, sizeof counts);
    fired = 0;
    fault_at = at;
    fault_error = error;
    fault_forever = forever;
    fault_sort = sort;
    pthread_mutex_unlock(&lock);
}

long shim_fired(void) { return fired; }
long shim_count(int sort) { return counts[sort]; }

static char kind_of(const char *path)
{
    size_t length = strlen(database);
    if (!length)
        return 0;
    if (!strcmp(path, directory))
        return 'D';
    if (strncmp(path, database, length))
        return 0;
    path += length;
    if (!*path)
        return 'd';
    if (!strcmp(path, "-wal"))
        return 'w';
    if (!strcmp(path, "-journal"))
        return 'j';
    if (!strcmp(path, "-shm"))
        return 's';
    if (!strcmp(path, ".lock"))
        return 'l';
    if (!strcmp(path, ".acks"))
        return 'a';
    return 0;
}

static char kind_of_fd(int fd) { return fd >= 0 && fd < FDS ? kinds[fd] : 0; }

static void record(char what, char kind, uint32_t file, uint64_t offset, uint64_t length, const void *data)
{
    if (log_fd < 0)
        return;
    struct record entry = {offset, length, file, what, kind, {0}};
    syscall(SYS_write, log_fd, &entry, sizeof entry);
    if (data)
        syscall(SYS_write, log_fd, data, length);
}

/* Tell, with the lock held, whether this operation fails. */
static int fails(int sort, char kind)
{
    if (kind == 'a' || fault_sort != sort)
        return 0;
    long count = ++counts[sort];
    if (count != fault_at && !(fault_forever && count > fault_at))
        return 0;
    fired++;
    errno = fault_error;
    return 1;
}

static int opened(int (*function)(const char *, int, ...), const char *path, int flags, mode_t mode)
{
    char kind = kind_of(path);
    if (!kind)
        return function(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat status;
    int is_new = kind != 'D' && stat(path, &status) != 0;
    int fd = function(path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        if (is_new) {
            named[(int)kind] = ++made;
            record('c', kind, made, 0, 0, NULL);
        }
        kinds[fd] = kind;
        files[fd] = kind == 'D' ? 0 : named[(int)kind];
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        return opened((int (*)(const char *, int, ...))real(#name), path, flags, mode);                                \
    }
OPEN(open)
OPEN(open64)

int close(int fd)
{
    if (kind_of_fd(fd))
        kinds[fd] = 0;
    return (int)syscall(SYS_close, fd);
}

static ssize_t written(int fd, const void *data, size_t size, off_t offset, int is_placed)
{
    char kind = kind_of_fd(fd);
    if (!kind)
        return is_placed ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
    pthread_mutex_lock(&lock);
    ssize_t done = -1;
    if (!fails(WRITES, kind)) {
        if (!is_placed)
            offset = kind == 'a' ? 0 : lseek(fd, 0, SEEK_CUR);
        done = is_placed ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
        if (done > 0)
            record('w', kind, files[fd], (uint64_t)offset, (uint64_t)done, data);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset, 1); }

static ssize_t got(int fd, void *data, size_t size, off_t offset, int is_placed)
{
    char kind = kind_of_fd(fd);
    int is_failing = 0;
    if (kind) {
        pthread_mutex_lock(&lock);
        is_failing = fails(READS, kind);
        pthread_mutex_unlock(&lock);
    }
    if (is_failing)
        return -1;
    return is_placed ? syscall(SYS_pread64, fd, data, size, offset) : syscall(SYS_read, fd, data, size);
}

ssize_t read(int fd, void *data, size_t size) { return got(fd, data, size, 0, 0); }
ssize_t pread(int fd, void *data, size_t size, off_t offset) { return got(fd, data, size, offset, 1); }
ssize_t pread64(int fd, void *data, size_t size, off64_t offset) { return got(fd, data, size, offset, 1); }

static int cut(int fd, off_t length)
{
    char kind = kind_of_fd(fd);
    if (!kind)
        return (int)syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (!fails(WRITES, kind)) {
        done = (int)syscall(SYS_ftruncate, fd, length);
        if (!done)
            record('t', kind, files[fd], 0, (uint64_t)length, NULL);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

/* On disk is what was written before the call; the record stands after it. */
static int synced(int fd, long call)
{
    char kind = kind_of_fd(fd);
    if (!kind)
        return (int)syscall(call, fd);
    pthread_mutex_lock(&lock);
    /* Nothing real is synced while a log is kept: what would be on disk is reckoned from the log. */
    int done = fails(SYNCS, kind) ? -1 : log_fd >= 0 ? 0 : (int)syscall(call, fd);
    if (!done)
        record('s', kind, files[fd], 0, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlink(const char *path)
{
    char kind = kind_of(path);
    if (!kind)
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done)
        record('u', kind, named[(int)kind], 0, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *old, const char *new)
{
    if (kind_of(old) || kind_of(new))
        record('r', kind_of(old), 0, 0, 0, NULL);
    return (int)syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0);
}
