/* Faults of a disk, and a record of what reached it: LD_PRELOAD, for some folders only.
 *
 * FAULTS_FOLDER   files under these folders (a:b) are concerned, others never
 * FAULTS_CONTROL  a file whose first byte says what happens now: '-' nothing, 'e' fsync fails with
 *                 EIO, 'f' writes fail with ENOSPC, 'r' nothing may be written (EROFS)
 * FAULTS_RECORD   a file that every change of the folder is appended to, in order:
 *                 one header line "op length offset name other" and then `length` bytes
 *
 * Several processes may share one record. A change is recorded after it was made and before the
 * call returns; of a sync both its begin and its end are, by thread: what was recorded before the
 * begin is on the disk once the end is recorded. So the record never claims more than was kept.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static char control(void) {
    const char *path = getenv("FAULTS_CONTROL");
    char found = '-';
    if (path) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) { if (read(fd, &found, 1) != 1) found = '-'; close(fd); }
    }
    return found;
}

static int concerned(const char *path) {
    const char *folder = getenv("FAULTS_FOLDER");
    while (folder && path && *folder) {
        size_t n = strcspn(folder, ":");
        if (strncmp(path, folder, n) == 0 && (path[n] == 0 || path[n] == '/')) return 1;
        folder += n + (folder[n] == ':');
    }
    return 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return concerned(path);
}

static void absolute(const char *path, char *whole) {
    if (path[0] == '/') snprintf(whole, PATH_MAX, "%s", path);
    else { if (!getcwd(whole, PATH_MAX)) whole[0] = 0; strncat(whole, "/", 2); strncat(whole, path, PATH_MAX - strlen(whole) - 1); }
}

static void record(const char *header, const void *data, size_t length) {
    const char *path = getenv("FAULTS_RECORD");
    if (!path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    size_t head = strlen(header);
    char *all = malloc(head + 1 + length);
    memcpy(all, header, head);
    all[head] = '\n';
    memcpy(all + head + 1, data, length);
    syscall(SYS_write, fd, all, head + 1 + length);
    free(all);
    close(fd);
}

static void note(const char *op, const char *path, const char *other) {
    char header[2 * PATH_MAX + 64];
    snprintf(header, sizeof header, "%s\t0\t0\t%s\t%s", op, path, other);
    record(header, "", 0);
}

static int refused(const char *path) {
    if (concerned(path)) {
        char now = control();
        if (now == 'f') { errno = ENOSPC; return 1; }
        if (now == 'r') { errno = EROFS; return 1; }
    }
    return 0;
}

static void wrote(int fd, const char *path, const void *data, ssize_t n, off_t at) {
    char header[PATH_MAX + 128];
    (void)fd;
    snprintf(header, sizeof header, "write\t%zd\t%lld\t%s\t", n, (long long)at, path);
    record(header, data, (size_t)n);
}

static ssize_t do_pwrite(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *data, size_t n, off_t at) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, data, n, at);
    if (refused(path)) return -1;
    pthread_mutex_lock(&one);
    ssize_t done = real(fd, data, n, at);
    if (done > 0) wrote(fd, path, data, done, at);
    pthread_mutex_unlock(&one);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { REAL(ssize_t, "pwrite", int, const void *, size_t, off_t); return do_pwrite(real, fd, data, n, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t); return do_pwrite(real, fd, data, n, at); }

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, data, n);
    if (refused(path)) return -1;
    pthread_mutex_lock(&one);
    off_t at = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, n);
    if (done > 0) wrote(fd, path, data, done, at);
    pthread_mutex_unlock(&one);
    return done;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, parts, count, at);
    if (refused(path)) return -1;
    pthread_mutex_lock(&one);
    ssize_t done = real(fd, parts, count, at);
    if (done > 0) {
        char *whole = malloc((size_t)done);
        size_t have = 0;
        for (int i = 0; i < count && have < (size_t)done; i++) {
            size_t n = parts[i].iov_len < (size_t)done - have ? parts[i].iov_len : (size_t)done - have;
            memcpy(whole + have, parts[i].iov_base, n);
            have += n;
        }
        wrote(fd, path, whole, done, at);
        free(whole);
    }
    pthread_mutex_unlock(&one);
    return done;
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return pwritev(fd, parts, count, at); }

static int do_allocate(int (*real)(int, off_t, off_t), int fd, off_t at, off_t n) {
    char path[PATH_MAX], header[PATH_MAX + 128];
    if (!path_of(fd, path)) return real(fd, at, n);
    if (refused(path)) return errno;
    pthread_mutex_lock(&one);
    int failed = real(fd, at, n);
    if (!failed) { snprintf(header, sizeof header, "extend\t0\t%lld\t%s\t", (long long)(at + n), path); record(header, "", 0); }
    pthread_mutex_unlock(&one);
    return failed;
}
int posix_fallocate(int fd, off_t at, off_t n) { REAL(int, "posix_fallocate", int, off_t, off_t); return do_allocate(real, fd, at, n); }
int posix_fallocate64(int fd, off_t at, off_t n) { REAL(int, "posix_fallocate64", int, off_t, off_t); return do_allocate(real, fd, at, n); }

static int truncating(int (*real)(const char *, off_t), const char *path, off_t size) {
    char whole[PATH_MAX], header[PATH_MAX + 128];
    absolute(path, whole);
    if (!concerned(whole)) return real(path, size);
    if (control() == 'r') { errno = EROFS; return -1; }
    pthread_mutex_lock(&one);
    int done = real(path, size);
    if (done == 0) { snprintf(header, sizeof header, "truncate\t0\t%lld\t%s\t", (long long)size, whole); record(header, "", 0); }
    pthread_mutex_unlock(&one);
    return done;
}
int truncate(const char *path, off_t size) { REAL(int, "truncate", const char *, off_t); return truncating(real, path, size); }
int truncate64(const char *path, off_t size) { REAL(int, "truncate64", const char *, off_t); return truncating(real, path, size); }

static int do_truncate(int (*real)(int, off_t), int fd, off_t size) {
    char path[PATH_MAX], header[PATH_MAX + 128];
    if (!path_of(fd, path)) return real(fd, size);
    if (control() == 'r') { errno = EROFS; return -1; }
    pthread_mutex_lock(&one);
    int done = real(fd, size);
    if (done == 0) { snprintf(header, sizeof header, "truncate\t0\t%lld\t%s\t", (long long)size, path); record(header, "", 0); }
    pthread_mutex_unlock(&one);
    return done;
}
int ftruncate(int fd, off_t size) { REAL(int, "ftruncate", int, off_t); return do_truncate(real, fd, size); }
int ftruncate64(int fd, off_t size) { REAL(int, "ftruncate64", int, off_t); return do_truncate(real, fd, size); }

static int do_sync(int (*real)(int), int fd) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd);
    if (control() == 'e') { errno = EIO; return -1; }
    char thread[32];
    snprintf(thread, sizeof thread, "%ld", syscall(SYS_gettid));
    note("syncing", path, thread);
    int done = real(fd);
    if (done == 0) note("sync", path, thread);
    return done;
}
int fsync(int fd) { REAL(int, "fsync", int); return do_sync(real, fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); return do_sync(real, fd); }

static int opening(int (*real)(const char *, int, mode_t), const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    absolute(path, whole);
    if (!concerned(whole) || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return real(path, flags, mode);
    if (control() == 'r') { errno = EROFS; return -1; }
    pthread_mutex_lock(&one);
    int existed = access(whole, F_OK) == 0;
    if (!existed && control() == 'f' && (flags & O_CREAT)) { pthread_mutex_unlock(&one); errno = ENOSPC; return -1; }
    int fd = real(path, flags, mode);
    if (fd >= 0 && !existed) note("create", whole, "");
    if (fd >= 0 && existed && (flags & O_TRUNC)) note("truncate", whole, "");
    pthread_mutex_unlock(&one);
    return fd;
}
#define MODE() mode_t mode = 0; if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { MODE(); REAL(int, "open", const char *, int, mode_t); return opening(real, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(); REAL(int, "open64", const char *, int, mode_t); return opening(real, path, flags, mode); }

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    char whole[PATH_MAX];
    absolute(path, whole);
    if (!concerned(whole)) return real(path);
    if (control() == 'r') { errno = EROFS; return -1; }
    pthread_mutex_lock(&one);
    int done = real(path);
    if (done == 0) note("unlink", whole, "");
    pthread_mutex_unlock(&one);
    return done;
}
static int moving(int (*real)(const char *, const char *), const char *op, const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    absolute(from, a); absolute(to, b);
    if (!concerned(a) && !concerned(b)) return real(from, to);
    if (control() == 'r') { errno = EROFS; return -1; }
    pthread_mutex_lock(&one);
    int done = real(from, to);
    if (done == 0) note(op, a, b);
    pthread_mutex_unlock(&one);
    return done;
}
int rename(const char *from, const char *to) { REAL(int, "rename", const char *, const char *); return moving(real, "rename", from, to); }
int link(const char *from, const char *to) { REAL(int, "link", const char *, const char *); return moving(real, "link", from, to); }

static int in_folder(const char *path, const char *op, int done) {
    char whole[PATH_MAX];
    absolute(path, whole);
    if (done == 0 && concerned(whole)) note(op, whole, "");
    return done;
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    pthread_mutex_lock(&one);
    int done = in_folder(path, "rmdir", real(path));
    pthread_mutex_unlock(&one);
    return done;
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    char whole[PATH_MAX];
    absolute(path, whole);
    if (concerned(whole) && control() == 'r') { errno = access(whole, F_OK) == 0 ? EEXIST : EROFS; return -1; }
    pthread_mutex_lock(&one);
    int done = in_folder(path, "mkdir", real(path, mode));
    pthread_mutex_unlock(&one);
    return done;
}
