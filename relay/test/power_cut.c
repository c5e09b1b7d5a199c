/* A power cut for one directory: an LD_PRELOAD library that writes down what a program writes there and what it syncs.
 *
 *   RELAY_POWER_DIR   the directory, absolute and without links
 *   RELAY_POWER_LOG   the log, outside of it; appended to
 *
 * Each change is logged before it is made, with what was there before; a sync is logged after the kernel has reported
 * it, with the number of the last change it certainly covers. After the program was killed, relay.test.power_cut reads
 * the log and takes back what was never synced. Build: cc -shared -fPIC -O2 -o power_cut.so power_cut.c -ldl -lpthread
 *
 * Record: magic u32 | op u32 | number u64 | inode u64 | offset u64 | size u64 | before u32 | after u32 | name u32 | to u32
 *         | before bytes | after bytes | name bytes | to bytes         (host byte order)
 *
 *   W  write   offset; size: the file's size before; before: what was overwritten; after: what was written
 *   T  resize  offset: the new size; size: the size before; before: what was cut off
 *   S  sync    offset: the number of the last change covered
 *   C  create  name                     U  unlink  name; a hard link NAME.N.kept stays beside the log
 *   R  rename  name, to; what was at "to" stays as with unlink
 *   D  sync of a directory: as S, for names
 *   M  something this library cannot follow: a file mapped for shared writing
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x52504331u
#define FDS 65536
#define BEFORE_MAX (256u << 20)

struct record {
    uint32_t magic, op;
    uint64_t number, inode, offset, size;
    uint32_t before, after, name, to;
};

static char directory[PATH_MAX], log_path[PATH_MAX];
static size_t directory_length;
static int log_fd = -1;
static uint64_t last_number;
static char known[FDS]; /* 0 unknown, 1 in the directory, 2 elsewhere */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_posix_fallocate)(int, off_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static int (*real_dup2)(int, int);

static void broken(const char *what) {
    dprintf(2, "power_cut: %s: %s\n", what, strerror(errno));
    _exit(99);
}

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("RELAY_POWER_DIR"), *log = getenv("RELAY_POWER_LOG");
#define REAL(name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)
    REAL(open); REAL(openat); REAL(close); REAL(write); REAL(pwrite); REAL(writev); REAL(ftruncate); REAL(fallocate);
    REAL(posix_fallocate); REAL(fsync); REAL(fdatasync); REAL(rename); REAL(unlink); REAL(mmap); REAL(dup2);
    if (!watched || !log) return;
    snprintf(directory, sizeof directory, "%s/", watched);
    directory_length = strlen(directory);
    snprintf(log_path, sizeof log_path, "%s", log);
    log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) broken(log);
}

/* --- the log: called with the mutex held ------------------------------------------------------------------------- */

static uint64_t note(uint32_t op, uint64_t inode, uint64_t offset, uint64_t size, const void *before, uint32_t before_n,
                     const void *after, uint32_t after_n, const char *name, const char *to) {
    struct record head = {MAGIC, op, 0, inode, offset, size, before_n, after_n,
                          name ? (uint32_t)strlen(name) : 0, to ? (uint32_t)strlen(to) : 0};
    if (op != 'S' && op != 'D') last_number++;
    head.number = last_number;
    struct iovec parts[5] = {{&head, sizeof head}, {(void *)before, before_n}, {(void *)after, after_n},
                             {(void *)name, head.name}, {(void *)to, head.to}};
    ssize_t wanted = sizeof head + before_n + after_n + head.name + head.to;
    if (real_writev(log_fd, parts, 5) != wanted) broken("the log");
    return head.number;
}

static int inside(int fd) {
    if (log_fd < 0 || fd < 0 || fd >= FDS || fd == log_fd) return 0;
    if (!known[fd]) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length < 0) return 0;
        path[length] = 0;
        size_t tail = (size_t)length >= 4 ? (size_t)length - 4 : 0;
        int shared_index = !strcmp(path + tail, "-shm"); /* SQLite's: made anew after a crash */
        int in = !strncmp(path, directory, directory_length) || (!strncmp(path, directory, directory_length - 1) &&
                 (size_t)length == directory_length - 1);
        known[fd] = in && !shared_index ? 1 : 2;
    }
    return known[fd] == 1;
}

static int path_inside(const char *path, char *absolute) {
    if (log_fd < 0) return 0;
    if (path[0] == '/') snprintf(absolute, PATH_MAX, "%s", path);
    else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        if (snprintf(absolute, PATH_MAX, "%s/%s", here, path) >= PATH_MAX) return 0;
    }
    size_t length = strlen(absolute);
    if (length >= 4 && !strcmp(absolute + length - 4, "-shm")) return 0;
    return !strncmp(absolute, directory, directory_length);
}

static void *before_of(int fd, uint64_t offset, uint64_t length, uint64_t size, uint32_t *got) {
    uint64_t end = offset + length < size ? offset + length : size;
    *got = 0;
    if (offset >= end) return NULL;
    if (end - offset > BEFORE_MAX) broken("too much is overwritten at once");
    char *bytes = malloc(end - offset), path[64];
    /* The program may have opened the file for writing only. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = real_open(path, O_RDONLY | O_CLOEXEC);
    if (!bytes || again < 0) broken("reading what was there");
    while (*got < end - offset) {
        ssize_t n = pread(again, bytes + *got, end - offset - *got, offset + *got);
        if (n <= 0) broken("reading what was there");
        *got += n;
    }
    real_close(again);
    return bytes;
}

static void note_write(int fd, const void *data, size_t length, uint64_t offset) {
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) return;
    uint32_t before_n;
    void *before = before_of(fd, offset, length, status.st_size, &before_n);
    note('W', status.st_ino, offset, status.st_size, before, before_n, data, length, NULL, NULL);
    free(before);
}

static void note_resize(int fd, uint64_t wanted) {
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode) || (uint64_t)status.st_size == wanted) return;
    uint32_t before_n = 0;
    void *before = NULL;
    if (wanted < (uint64_t)status.st_size)
        before = before_of(fd, wanted, status.st_size - wanted, status.st_size, &before_n);
    note('T', status.st_ino, wanted, status.st_size, before, before_n, NULL, 0, NULL, NULL);
    free(before);
}

static void keep(const char *path) {
    char beside[PATH_MAX + 64];
    snprintf(beside, sizeof beside, "%s.%llu.kept", log_path, (unsigned long long)last_number + 1);
    real_unlink(beside);
    if (link(path, beside) && errno != ENOENT) broken("keeping a file that is removed");
}

/* --- what is watched --------------------------------------------------------------------------------------------- */

static int opened(const char *path, int flags, int fd, int existed) {
    if (fd >= 0 && fd < FDS) known[fd] = 0;
    if (fd >= 0 && (flags & O_CREAT) && !existed && inside(fd)) {
        struct stat status;
        char absolute[PATH_MAX];
        if (!fstat(fd, &status) && path_inside(path, absolute))
            note('C', status.st_ino, 0, 0, NULL, 0, NULL, 0, absolute, NULL);
    }
    return fd;
}

static int open_any(int at, const char *path, int flags, mode_t mode) {
    char absolute[PATH_MAX];
    if (at != AT_FDCWD || !path_inside(path, absolute)) {
        int fd = real_openat(at, path, flags, mode);
        if (fd >= 0 && fd < FDS) known[fd] = 0;
        return fd;
    }
    pthread_mutex_lock(&mutex);
    struct stat status;
    int existed = !stat(path, &status);
    int cut = flags & O_TRUNC;
    int fd = opened(path, flags, real_openat(at, path, flags & ~O_TRUNC, mode), existed);
    if (fd >= 0 && cut && existed) {
        note_resize(fd, 0);
        if (real_ftruncate(fd, 0)) broken("truncating");
    }
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;    \
        va_end(rest);                                                           \
        return open_any(AT_FDCWD, path, flags, mode);                           \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                            \
    int name(int at, const char *path, int flags, ...) {                        \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;    \
        va_end(rest);                                                           \
        return open_any(at, path, flags, mode);                                 \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < FDS) known[fd] = 0;
    if (fd == log_fd && fd >= 0) return 0; /* whoever closes all descriptors */
    return real_close(fd);
}

int dup2(int from, int to) {
    if (to >= 0 && to < FDS) known[to] = 0;
    return real_dup2(from, to);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    if (!inside(fd)) return real_pwrite(fd, data, length, offset);
    pthread_mutex_lock(&mutex);
    note_write(fd, data, length, offset);
    ssize_t done = real_pwrite(fd, data, length, offset);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }

static uint64_t place(int fd) {
    int flags = fcntl(fd, F_GETFL);
    struct stat status;
    if (flags >= 0 && (flags & O_APPEND) && !fstat(fd, &status)) return status.st_size;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : at;
}

ssize_t write(int fd, const void *data, size_t length) {
    if (!inside(fd)) return real_write(fd, data, length);
    pthread_mutex_lock(&mutex);
    note_write(fd, data, length, place(fd));
    ssize_t done = real_write(fd, data, length);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!inside(fd)) return real_writev(fd, parts, count);
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    char *joined = malloc(total ? total : 1), *end = joined;
    if (!joined) broken("writev");
    for (int i = 0; i < count; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    ssize_t done = write(fd, joined, total);
    int error = errno;
    free(joined);
    errno = error;
    return done;
}

static ssize_t pwritev_any(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = pwrite(fd, parts[i].iov_base, parts[i].iov_len, offset + sum);
        if (done < 0) return sum ? sum : -1;
        sum += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return sum;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev_any(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev_any(fd, parts, count, offset); }

int ftruncate(int fd, off_t size) {
    if (!inside(fd)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&mutex);
    note_resize(fd, size);
    int done = real_ftruncate(fd, size);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

static void note_growth(int fd, off_t offset, off_t length) {
    struct stat status;
    if (!fstat(fd, &status) && offset + length > status.st_size) note_resize(fd, offset + length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    if (!inside(fd)) return real_fallocate(fd, mode, offset, length);
    pthread_mutex_lock(&mutex);
    if (mode & ~FALLOC_FL_KEEP_SIZE) note('M', 0, 0, 0, NULL, 0, NULL, 0, "fallocate with a hole", NULL);
    else if (!mode) note_growth(fd, offset, length);
    int done = real_fallocate(fd, mode, offset, length);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}
int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }

int posix_fallocate(int fd, off_t offset, off_t length) {
    if (!inside(fd)) return real_posix_fallocate(fd, offset, length);
    pthread_mutex_lock(&mutex);
    note_growth(fd, offset, length);
    int done = real_posix_fallocate(fd, offset, length);
    pthread_mutex_unlock(&mutex);
    return done;
}
int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

static int synced(int fd, int (*sync)(int)) {
    if (!inside(fd)) return sync(fd);
    struct stat status;
    if (fstat(fd, &status)) return -1;
    pthread_mutex_lock(&mutex);
    uint64_t covered = last_number;
    pthread_mutex_unlock(&mutex);
    int done = sync(fd);
    if (!done) {
        pthread_mutex_lock(&mutex);
        note(S_ISDIR(status.st_mode) ? 'D' : 'S', status.st_ino, covered, 0, NULL, 0, NULL, 0, NULL, NULL);
        pthread_mutex_unlock(&mutex);
    }
    return done;
}
int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int rename(const char *from, const char *to) {
    char from_path[PATH_MAX], to_path[PATH_MAX];
    struct stat status;
    if (!path_inside(from, from_path) || !path_inside(to, to_path) || stat(from, &status)) return real_rename(from, to);
    pthread_mutex_lock(&mutex);
    keep(to_path);
    note('R', status.st_ino, 0, 0, NULL, 0, NULL, 0, from_path, to_path);
    int done = real_rename(from, to);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}

static int unlinked(const char *path) {
    char absolute[PATH_MAX];
    struct stat status;
    if (!path_inside(path, absolute) || stat(path, &status)) return real_unlink(path);
    pthread_mutex_lock(&mutex);
    keep(absolute);
    note('U', status.st_ino, 0, 0, NULL, 0, NULL, 0, absolute, NULL);
    int done = real_unlink(path);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return done;
}
int unlink(const char *path) { return unlinked(path); }

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) && inside(fd)) {
        pthread_mutex_lock(&mutex);
        note('M', 0, 0, 0, NULL, 0, NULL, 0, "a file mapped for shared writing", NULL);
        pthread_mutex_unlock(&mutex);
    }
    return real_mmap(address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}
