/* Preloaded by killed.py: a process counts the calls that change a file and dies by SIGKILL at one of them, of a
   write in its middle. Not for processes with threads. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long fatal = -1, made;

void die_at(long call) { fatal = call; made = 0; }
long calls_made(void) { return made; }

static int is_fatal(void) { return ++made == fatal; }
static void die(void) { kill(getpid(), SIGKILL); }

static int is_fatal_write(int file) {
    struct stat found;
    return fstat(file, &found) == 0 && S_ISREG(found.st_mode) && is_fatal();
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (is_fatal_write(file)) { REAL(write)(file, bytes, count / 2); die(); }
    return REAL(write)(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (is_fatal_write(file)) { REAL(writev)(file, parts, count / 2); die(); }
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    if (is_fatal_write(file)) { REAL(pwrite)(file, bytes, count / 2, at); die(); }
    return REAL(pwrite)(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    if (is_fatal_write(file)) { REAL(pwrite64)(file, bytes, count / 2, at); die(); }
    return REAL(pwrite64)(file, bytes, count, at);
}

#define DIES_BEFORE(name, declared, passed) \
    int name declared { if (is_fatal()) die(); return REAL(name) passed; }

DIES_BEFORE(fsync, (int file), (file))
DIES_BEFORE(fdatasync, (int file), (file))
DIES_BEFORE(ftruncate, (int file, off_t size), (file, size))
DIES_BEFORE(ftruncate64, (int file, off64_t size), (file, size))
DIES_BEFORE(rename, (const char *old, const char *new), (old, new))
DIES_BEFORE(unlink, (const char *path), (path))
