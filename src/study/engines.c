/*
 * engines.c: one column: the nanobenchmark kernel under one engine. All rows run in one machine;
 * where that machine does not come through, each missing row is tried in one of its own, until
 * several in turn have failed or time is up.
 */
#include "study/study_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PASSED = 33, MAX_WORDS = 40, ICOUNT_SHIFT = 2, TRIES = 6 };
static const double ALL_ROWS_S = 60, ONE_ROW_S = 4, RETRIES_S = 20, PIT_HZ = 1193182;
enum { HOPELESS = 3 }; /* rows in turn that fail */
/* A loop in ring 0 that takes so many times the native one is not run by the processor. */
static const double CRAWL = 20;

const char *const study_engine_name[ENGINE_COUNT] = {"native", "bt",  "interp",  "kvm",
                                                     "metal",  "tcg", "qemu-kvm"};

const char *study_engine_unit(enum study_engine e) {
    return e == ENGINE_METAL ? "instructions" : "cycles";
}

/* How long the loop of the timer rows must be to take some 15 ms. */
static u32 busy_loop(enum study_engine e) {
    switch (e) {
    case ENGINE_INTERP:
        return 1000000;
    case ENGINE_TCG:
        return 5000000;
    case ENGINE_METAL: /* instructions: nothing disturbs them */
        return 5000000;
    default:
        return 20000000;
    }
}

/* ---- Where an engine cannot be ---- */

static bool in_path(const char *program) {
    const char *path = getenv("PATH");
    char file[4096];
    for (const char *p = path ? path : "/usr/bin:/bin"; *p; p += *p == ':') {
        size_t chars = strcspn(p, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)chars, p, program);
        if (!access(file, X_OK))
            return true;
        p += chars;
    }
    return false;
}

static const char *kvm_unavailable(void) {
    static char text[80];
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        snprintf(text, sizeof text, "/dev/kvm: %s", strerror(errno));
        return text;
    }
    close(fd);
    return NULL;
}

/* Whether the processor has VT-x or AMD-V. A /dev/kvm without them is somebody's emulation. */
static bool has_assist(void) {
    char line[8192];
    bool found = false;
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = !strncmp(line, "flags", 5) && (strstr(line, " vmx") || strstr(line, " svm"));
    if (f)
        fclose(f);
    return found;
}

const char *study_unavailable(struct study *s, enum study_engine e) {
    if (e == ENGINE_METAL) {
        if (access(s->image, R_OK))
            return "the bootable image was not built";
        if (!in_path("qemu-system-x86_64"))
            return "no qemu-system-x86_64 on this host";
    }
    if ((e == ENGINE_TCG || e == ENGINE_QEMU_KVM) && !in_path("qemu-system-i386"))
        return "no qemu-system-i386 on this host";
    return e == ENGINE_KVM || e == ENGINE_QEMU_KVM ? kvm_unavailable() : NULL;
}

/* ---- Command lines ---- */

struct command {
    const char *word[MAX_WORDS];
    unsigned count;
    char guest[1024], image[2048]; /* -append: the kernel's, the bootable image's */
};

static void add(struct command *c, const char *words[], unsigned count) {
    for (unsigned i = 0; i < count && c->count < MAX_WORDS - 1; i++)
        c->word[c->count++] = words[i];
    c->word[c->count] = NULL;
}
#define ADD(c, ...)                                                                                \
    add(c, (const char *[]){__VA_ARGS__}, sizeof(const char *[]){__VA_ARGS__} / sizeof(char *))

static void add_metal(const struct study *s, struct command *c, const char *option) {
    snprintf(c->image, sizeof c->image,
             "-carrier-exit 0x501 %s -m 64 -nographic -no-reboot -append \"%s\" -device "
             "isa-debug-exit,iobase=0xf4,iosize=0x4",
             option ? option : "", c->guest);
    ADD(c, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "320", "-nodefaults",
        "-no-reboot", "-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio",
        "-device", "isa-debug-exit,iobase=0x501,iosize=2", "-icount", "shift=2,sleep=off",
        "-kernel", s->image, "-append", c->image, "-initrd", s->kernel);
}

static void make_command(const struct study *s, enum study_engine e, const char *option,
                         struct command *c) {
    static const char *const accel[] = {[ENGINE_BT] = "bt",
                                        [ENGINE_INTERP] = "interp",
                                        [ENGINE_KVM] = "kvm",
                                        [ENGINE_TCG] = "tcg",
                                        [ENGINE_QEMU_KVM] = "kvm"};
    c->count = 0;
    if (e == ENGINE_METAL) {
        add_metal(s, c, option);
        return;
    }
    bool qemu = e == ENGINE_TCG || e == ENGINE_QEMU_KVM;
    ADD(c, qemu ? "qemu-system-i386" : s->self, "-accel", accel[e], "-kernel", s->kernel, "-append",
        c->guest, "-m", "64", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
        "-monitor", "none", "-serial", "stdio", "-display", "none");
    if (qemu)
        ADD(c, "-nodefaults", "-vga", "none");
    else
        ADD(c, "-stats", "json");
    if (option)
        ADD(c, option);
}

/* What the kernel is to print beside the rows: its clock's row; or of each row, instead of its
 * batches, only how many operations they were. */
enum also { NOTHING, CLOCK, TOTAL };

/* The kernel's own command line. */
static void make_guest_line(const struct study *s, enum study_engine e, const bool *rows,
                            unsigned batches, enum also also, struct command *c) {
    size_t n = (size_t)snprintf(c->guest, sizeof c->guest,
                                "rounds=1 batches=%u tries=%u busy=%u total=%u rows=", batches,
                                e == ENGINE_METAL || also == TOTAL ? 1 : TRIES,
                                busy_loop(e) / (s->config.quick ? 4 : 1), also == TOTAL);
    for (unsigned i = 0; i < study_row_count; i++)
        if (rows[i] && n < sizeof c->guest)
            n += (size_t)snprintf(c->guest + n, sizeof c->guest - n, "%s,", study_rows[i].name);
    if (also == CLOCK && n < sizeof c->guest)
        snprintf(c->guest + n, sizeof c->guest - n, "clock");
}

/* ---- One machine ---- */

struct native_work {
    const struct study *s;
    const bool *rows;
    unsigned batches;
};

static void run_native(void *opaque) {
    const struct native_work *w = opaque;
    for (unsigned i = 0; i < study_row_count; i++)
        if (w->rows[i] && study_rows[i].native) {
            native_print(study_rows[i].name, study_rows[i].native, w->batches);
            fflush(stdout);
        }
}

static bool run_machine(const struct study *s, enum study_engine e, const bool *rows,
                        unsigned batches, const char *option, double limit_s,
                        struct child_result *r) {
    if (e == ENGINE_NATIVE) {
        struct native_work work = {s, rows, batches};
        return child_call(run_native, &work, limit_s, r);
    }
    struct command c;
    make_guest_line(s, e, rows, batches, e != ENGINE_METAL && !option ? CLOCK : NOTHING, &c);
    make_command(s, e, option, &c);
    return child_run(c.word, limit_s, r);
}

static const char *next_line(const char *line) {
    const char *end = strchr(line, '\n');
    return end ? end + 1 : line + strlen(line);
}

/* Fills what the kernel printed. */
static void take_rows(const char *text, double divisor, struct study_sample *sample,
                      double *ticks_per_pit) {
    for (const char *line = text; *line; line = next_line(line)) {
        char name[32];
        struct study_batch batch[STUDY_MAX_BATCHES];
        struct study_sample found;
        unsigned count;
        if (!study_parse_row(line, name, batch, &count))
            continue;
        study_summarize(batch, count, divisor, &found);
        int i = study_row_index(name, strlen(name));
        if (i >= 0)
            sample[i] = found;
        else if (!strcmp(name, "clock") && ticks_per_pit && found.count)
            *ticks_per_pit = found.least;
    }
}

/* Text from outside, in one line. */
static void append_line(char *out, size_t bytes, const char *text) {
    size_t n = strlen(out), chars = strcspn(text, "\r\n");
    for (size_t i = 0; i < chars && i < 90 && n + 1 < bytes; i++)
        out[n++] = isprint((unsigned char)text[i]) ? text[i] : '?';
    out[n] = 0;
}

/* What it said for itself: the first line that is neither a row nor a counter. */
static void say_why(const struct child_result *r, double limit_s, char *why, size_t bytes) {
    if (r->timed_out)
        snprintf(why, bytes, "no end within %g s", limit_s);
    else
        snprintf(why, bytes, "ended with status %d", r->status);
    const char *const said[] = {r->out, r->err};
    for (unsigned i = 0; i < 2; i++)
        for (const char *line = said[i]; *line; line = next_line(line))
            if (isalpha((unsigned char)*line) && strncmp(line, "row", 3) &&
                !strstr(line, "warning")) {
                snprintf(why + strlen(why), bytes - strlen(why), ": ");
                append_line(why, bytes, line);
                return;
            }
}

/* ---- A column ---- */

static void take_samples(const struct study_sample *sample, struct study_column *column) {
    for (unsigned i = 0; i < study_row_count; i++)
        if (sample[i].count && !column->cell[i].sample.count)
            column->cell[i].sample = sample[i];
}

static double divisor_of(enum study_engine e) {
    return e == ENGINE_METAL ? 1 << ICOUNT_SHIFT : 1;
}

/* One machine for these rows. False: it did not come through, *why says how. */
static bool fill(struct study *s, enum study_engine e, const bool *rows, double limit_s,
                 char why[200]) {
    struct study_column *column = &s->column[e];
    struct study_sample sample[STUDY_MAX_ROWS] = {0};
    struct child_result r;
    double ticks_per_pit = 0;
    if (!run_machine(s, e, rows, s->batches, NULL, limit_s, &r)) {
        snprintf(why, 200, "could not start a process: %s", strerror(errno));
        return false;
    }
    take_rows(r.out, divisor_of(e), sample, &ticks_per_pit);
    take_samples(sample, column);
    if (ticks_per_pit > 0 && s->tsc_hz > 0)
        column->tsc_ratio = ticks_per_pit * PIT_HZ / s->tsc_hz;
    bool ok = r.status == (e == ENGINE_NATIVE ? 0 : PASSED) && !r.timed_out;
    if (!ok)
        say_why(&r, limit_s, why, 200);
    child_free(&r);
    return ok;
}

static bool can_be(enum study_engine e, unsigned row) {
    return e != ENGINE_NATIVE || study_rows[row].native;
}

static double now_s(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void fill_one_by_one(struct study *s, enum study_engine e) {
    struct study_column *column = &s->column[e];
    double end_s = now_s() + RETRIES_S;
    unsigned failed = 0;
    for (unsigned i = 0; i < study_row_count && failed < HOPELESS && now_s() < end_s; i++) {
        bool rows[STUDY_MAX_ROWS] = {false};
        char why[200];
        rows[i] = true;
        if (!s->config.wanted_row[i] || column->cell[i].sample.count || !can_be(e, i))
            continue;
        failed = fill(s, e, rows, ONE_ROW_S, why) ? 0 : failed + 1;
    }
}

/* Hardware assist runs a loop as the bare processor does; else it is none. */
static void refuse_emulation(struct study *s, enum study_engine e) {
    struct study_column *column = &s->column[e];
    int loop = study_row_index("loop_kernel", strlen("loop_kernel"));
    double native = s->column[ENGINE_NATIVE].cell[loop].sample.median;
    double here = column->cell[loop].sample.median;
    if (e != ENGINE_KVM && e != ENGINE_QEMU_KVM)
        return;
    if (native > 0 && here > CRAWL * native) {
        snprintf(column->why, sizeof column->why,
                 "/dev/kvm only emulates here: a loop takes %.0f times its native time",
                 here / native);
        memset(column->cell, 0, sizeof column->cell);
    } else if (column->why[0] && !has_assist()) {
        char text[200];
        snprintf(text, sizeof text, "%s", column->why);
        snprintf(column->why, sizeof column->why,
                 "/dev/kvm only emulates here (no VT-x, no AMD-V): %.120s", text);
    }
}

void study_run_engine(struct study *s, enum study_engine e) {
    struct study_column *column = &s->column[e];
    const char *unavailable = study_unavailable(s, e);
    unsigned missing = 0;
    column->wanted = true;
    if (unavailable) {
        snprintf(column->why, sizeof column->why, "%s", unavailable);
        return;
    }
    if (!fill(s, e, s->config.wanted_row, ALL_ROWS_S, column->why))
        fill_one_by_one(s, e);
    for (unsigned i = 0; i < study_row_count; i++)
        missing += s->config.wanted_row[i] && can_be(e, i) && !column->cell[i].sample.count;
    if (missing && !column->why[0])
        snprintf(column->why, sizeof column->why, "noise ate %u row%s: try again", missing,
                 missing > 1 ? "s" : "");
    refuse_emulation(s, e);
}

bool study_run_with_option(struct study *s, enum study_engine e, const char *option,
                           struct study_sample sample[STUDY_MAX_ROWS]) {
    struct child_result r;
    memset(sample, 0, STUDY_MAX_ROWS * sizeof *sample);
    if (!run_machine(s, e, s->config.wanted_row, s->batches, option, ALL_ROWS_S, &r))
        return false;
    take_rows(r.out, divisor_of(e), sample, NULL);
    bool ok = r.status == PASSED && !r.timed_out;
    child_free(&r);
    return ok;
}

bool study_run_once(struct study *s, enum study_engine e, unsigned row, unsigned batches,
                    double limit_s, u64 *operations, struct child_result *r) {
    bool rows[STUDY_MAX_ROWS] = {false};
    struct study_sample sample[STUDY_MAX_ROWS] = {0};
    struct command c;
    rows[row] = true;
    make_guest_line(s, e, rows, batches, TOTAL, &c);
    make_command(s, e, NULL, &c);
    if (!child_run(c.word, limit_s, r))
        return false;
    take_rows(r->out, 1, sample, NULL);
    *operations = sample[row].operations;
    return r->status == PASSED && !r->timed_out;
}

bool study_has_option(struct study *s, const char *option) {
    struct child_result r;
    char line[64];
    if (!child_run((const char *[]){s->self, "-help", NULL}, 10, &r))
        return false;
    snprintf(line, sizeof line, "\n%s ", option);
    bool found = strstr(r.out, line);
    child_free(&r);
    return found;
}
