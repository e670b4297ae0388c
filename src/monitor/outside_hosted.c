/*
 * outside_hosted.c: the world around the machine in a Linux process: its clocks, its files, its
 * standard output.
 */
#include "monitor/outside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include <cpuid.h>

#define NS_PER_S 1000000000ull
#define MAX_FILE_BYTES (3ull << 30)

const struct mon_outside mon_outside = {.name = "hosted", .files = true, .debuggers = true};

bool mon_outside_defaults(struct mon_options *o, struct mon_error *err) {
    (void)o, (void)err;
    return true;
}

void mon_print(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
}

/* ---- Time ---- */

u64 mon_host_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * NS_PER_S + (u64)ts.tv_nsec;
}

i64 mon_epoch_s(void) {
    return (i64)time(NULL);
}

bool mon_local_epoch_s(i64 *epoch_s) {
    struct tm tm;
    time_t now = time(NULL);
    if (!localtime_r(&now, &tm))
        return false;
    *epoch_s = (i64)timegm(&tm);
    return true;
}

/* The kernel's own conversion of TSC to time, from the user page of a perf event. */
static u64 tsc_hz_from_kernel(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof attr,
                                   .config = PERF_COUNT_SW_DUMMY,
                                   .exclude_kernel = 1,
                                   .exclude_hv = 1};
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
    if (fd < 0)
        return 0;
    u64 hz = 0;
    long page = sysconf(_SC_PAGESIZE);
    struct perf_event_mmap_page *p = mmap(NULL, (size_t)page, PROT_READ, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        if (p->cap_user_time && p->time_mult)
            hz = (u64)(((unsigned __int128)NS_PER_S << p->time_shift) / p->time_mult);
        munmap(p, (size_t)page);
    }
    close(fd);
    return hz;
}

static u64 tsc_hz_measured(void) {
    u64 ns0 = mon_host_ns(), tsc0 = __rdtsc();
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
    u64 ns1 = mon_host_ns(), tsc1 = __rdtsc();
    return (u64)((unsigned __int128)(tsc1 - tsc0) * NS_PER_S / (ns1 - ns0));
}

void mon_host_tsc(struct mon_host_cpu *out) {
    unsigned a, b, c, d;
    if (__get_cpuid(0x80000007, &a, &b, &c, &d))
        out->tsc_invariant = d & BIT(8);
    if (!out->tsc_invariant)
        return;
    out->tsc_hz = tsc_hz_from_kernel();
    if (!out->tsc_hz)
        out->tsc_hz = tsc_hz_measured();
}

/* ---- Random numbers ---- */

bool mon_host_random(u64 *value) {
    return getrandom(value, sizeof *value, GRND_NONBLOCK) == (ssize_t)sizeof *value;
}

/* ---- Files ---- */

static bool read_all(int fd, u8 *data, u64 *bytes) {
    for (u64 done = 0; done < *bytes;) {
        ssize_t n = read(fd, data + done, *bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        if (n == 0) {
            *bytes = done; /* the file shrank meanwhile */
            break;
        }
        done += (u64)n;
    }
    return true;
}

/* err gets the bare reason: the caller names the file and its role. */
bool mon_file_read(struct mon_file *f, const char *name, struct mon_error *err) {
    *f = (struct mon_file){.name = name};
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (fd < 0)
        return mon_fail(err, "%s", strerror(errno));
    struct stat st;
    bool good = fstat(fd, &st) == 0;
    if (!good)
        mon_fail(err, "%s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        good = mon_fail(err, S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file");
    else if ((u64)st.st_size > MAX_FILE_BYTES)
        good = mon_fail(err, "is too large");
    if (good) {
        f->bytes = (u64)st.st_size;
        u8 *data = malloc(f->bytes + 1);
        f->data = data;
        if (!data)
            good = mon_fail(err, "no memory to read it");
        else if (!read_all(fd, data, &f->bytes))
            good = mon_fail(err, "%s", strerror(errno));
    }
    close(fd);
    if (!good)
        mon_file_free(f);
    return good;
}

void mon_file_free(struct mon_file *f) {
    free((void *)(uintptr_t)f->data);
    f->data = NULL;
    f->bytes = 0;
}

/* struct mon_output is a stdio stream under another name. */
struct mon_output *mon_output_open(const char *path, struct mon_error *err) {
    FILE *f = fopen(path, "we");
    if (!f)
        mon_fail(err, "%s", strerror(errno));
    return (struct mon_output *)f;
}

void mon_output_write(struct mon_output *out, const u8 *data, size_t bytes) {
    fwrite(data, 1, bytes, (FILE *)out);
    fflush((FILE *)out);
}

void mon_output_close(struct mon_output *out) {
    if (out)
        fclose((FILE *)out);
}
