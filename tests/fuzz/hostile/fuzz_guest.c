/*
 * fuzz_guest.c: hostile guests against the whole monitor, in process.
 *
 *   fuzz_guest [--cases N] [--first K] [--seed S] [--seconds T] [--engines interp,bt,lockstep]
 *              [--kind NAME] [--keep-going N] [--case K]
 *              [--verbose] [--trace LIST] [--budget NS]
 *
 * Every case runs on a fresh machine under each engine. The monitor must come back in time, within
 * its bounds of memory and host mappings; every translated unit must pass the verifier; where the
 * outcome is determined, interpreter and translator must agree on it, and lockstep on the way
 * there. Cases run in a child process, so that one that ends it is found, reported and skipped.
 * --case K runs one case in this process, for a debugger; --trace is the monitor's -d, --budget the
 * virtual time that it gets. Exit status: 0 if all is well.
 */
#include "hostile.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct options {
    u64 cases, first, seed, only, budget_ns;
    bool one, verbose, engine[HOSTILE_ENGINES];
    int kind; /* -1: all */
    unsigned keep_going;
    double seconds;
};

/* Shared between the parent and the child that runs the cases. */
struct progress {
    volatile u64 number; /* the case that runs, or the next one */
    volatile int engine;
    volatile bool done;
    u64 run[HOSTILE_KINDS], compared, ends[4];
    unsigned failures;
};

struct session {
    struct options o;
    struct progress *p;
    int log; /* what the monitor says about the case that runs; stderr */
    FILE *out;
    struct hostile_state state[HOSTILE_ENGINES];
    double started;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- One case ---- */

static void clear_log(const struct session *s) {
    if (s->log >= 0 && (ftruncate(s->log, 0) != 0 || lseek(s->log, 0, SEEK_SET) != 0))
        abort();
}

static void copy_log(const struct session *s) {
    char text[4096];
    ssize_t n;
    off_t at = 0;
    while (s->log >= 0 && (n = pread(s->log, text, sizeof text, at)) > 0 && at < 1 << 16) {
        fwrite(text, 1, (size_t)n, s->out);
        at += n;
    }
}

static void fail(struct session *s, const struct hostile_case *c, const char *engine,
                 const char *what) {
    s->p->failures++;
    fprintf(s->out, "---- seed %llu case %llu (%s) %s: %s\n", (unsigned long long)c->seed,
            (unsigned long long)c->number, hostile_kind_name[c->kind], engine, what);
    copy_log(s);
    fflush(s->out);
}

/* The sanitizers' run-time library uses vector registers where light callouts must not: x87 and SSE
 * state is lost in such builds. */
#ifdef RINGFOLD_SANITIZED
#define COMPARES false
/* The address sanitizer's: non-zero when there are leaks. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));
static bool has_leaks(void) {
    return __lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check();
}
#else
#define COMPARES true
static bool has_leaks(void) {
    return false;
}
#endif

static bool comparable(const struct hostile_state *a, const struct hostile_state *b) {
    return COMPARES && a->end != HOSTILE_ALARM && b->end != HOSTILE_ALARM && !a->wrong &&
           !b->wrong && !a->tables_written && !a->incomparable;
}

/* Which translations the engines remember decides what a guest sees that changes its tables and
 * does not say so. */
static bool unclear(const struct session *s) {
    const struct hostile_state *a = &s->state[HOSTILE_INTERP];
    return a->tables_written || a->incomparable;
}

static const char *run_engines(struct session *s, const struct hostile_case *c, bool report) {
    const char *what = NULL;
    for (int e = 0; e < HOSTILE_ENGINES; e++) {
        if (!s->o.engine[e])
            continue;
        s->p->engine = e;
        clear_log(s);
        hostile_run(c, (enum hostile_engine)e, &s->state[e]);
        what = s->state[e].wrong;
        if (e == HOSTILE_LOCKSTEP && s->o.engine[HOSTILE_INTERP] && unclear(s))
            what = NULL;
        if (what && report)
            fail(s, c, hostile_engine_name[e], what);
        if (what)
            return what;
    }
    return NULL;
}

/* The shortest time after which the engines differ, and the states then. */
static void narrow_down(struct session *s, struct hostile_case *c) {
    u64 bad = c->budget_ns, good = 0;
    while (bad - good > 1ull << c->shift) {
        c->budget_ns = good + (bad - good) / 2;
        run_engines(s, c, false);
        if (hostile_compare(&s->state[HOSTILE_INTERP], &s->state[HOSTILE_BT], NULL))
            bad = c->budget_ns;
        else
            good = c->budget_ns;
    }
    c->budget_ns = good;
    run_engines(s, c, false);
    const struct cpu *cpu = &s->state[HOSTILE_INTERP].cpu;
    u32 at = cpu->seg[SEG_CS].base + cpu->eip;
    fprintf(s->out, "  equal up to %llu ns, at %08x; %s", (unsigned long long)good, at,
            "bytes there (if linear is physical):");
    for (u32 i = 0; i < 16 && at < HOSTILE_RAM - 16; i++)
        fprintf(s->out, " %02x", s->state[HOSTILE_INTERP].ram[at + i]);
    struct insn in;
    char text[96];
    if (at < HOSTILE_RAM - 16 && insn_decode(&in, s->state[HOSTILE_INTERP].ram + at, 15,
                                             cpu->seg[SEG_CS].attr & ATTR_DB, true) == INSN_OK)
        fprintf(s->out, " %s", insn_format(&in, cpu->eip, text, sizeof text));
    fprintf(s->out, "\n");
    c->budget_ns = bad;
    run_engines(s, c, false);
}

static void compare(struct session *s, struct hostile_case *c) {
    struct hostile_state *a = &s->state[HOSTILE_INTERP], *b = &s->state[HOSTILE_BT];
    if (!s->o.engine[HOSTILE_INTERP] || !s->o.engine[HOSTILE_BT] || !comparable(a, b))
        return;
    s->p->compared++;
    const char *what = hostile_compare(a, b, NULL);
    if (!what)
        return;
    fail(s, c, "interp and bt differ", what);
    if (!s->o.one)
        return;
    narrow_down(s, c);
    what = hostile_compare(a, b, s->out);
    fprintf(s->out, "  first: %s\n", what ? what : "nothing");
    fflush(s->out);
}

static void run_case(struct session *s, u64 number) {
    struct hostile_case c;
    hostile_describe(&c, s->o.seed, number);
    if (s->o.kind >= 0 && (int)c.kind != s->o.kind)
        return;
    if (s->o.budget_ns)
        c.budget_ns = s->o.budget_ns;
    double begin = now();
    s->p->run[c.kind]++;
    if (!run_engines(s, &c, true))
        compare(s, &c);
    for (int e = 0; e < HOSTILE_ENGINES; e++)
        if (s->o.engine[e])
            s->p->ends[s->state[e].end]++;
    if (s->o.verbose)
        fprintf(s->out, "case %llu %s: ends %d %d %d, %.1f ms\n", (unsigned long long)number,
                hostile_kind_name[c.kind], s->state[0].end, s->state[1].end, s->state[2].end,
                (now() - begin) * 1000);
}

/* ---- The child ---- */

static bool time_is_up(const struct session *s) {
    return s->o.seconds > 0 && now() - s->started > s->o.seconds;
}

/* What a whole machine may leave behind in its process when it is gone. */
static const char *leaks(const struct hostile_usage *first, const struct hostile_usage *last) {
    if (last->files > first->files)
        return "open files are left behind";
    if (last->maps > first->maps + 64)
        return "host mappings are left behind";
#ifndef RINGFOLD_SANITIZED
    if (last->resident_bytes > first->resident_bytes + (32ull << 20))
        return "memory is left behind";
#endif
    return NULL;
}

static int child(struct session *s) {
    struct hostile_usage first = {0};
    unsigned warm = 0;
    struct hostile_case c;
    if (s->log >= 0)
        dup2(s->log, 2);
    mon_crash_install();
    if (!hostile_setup())
        return 2;
    while (s->p->number < s->o.first + s->o.cases && !time_is_up(s)) {
        run_case(s, s->p->number);
        s->p->number++;
        if (warm++ == 20)
            first = hostile_usage();
        if (s->p->failures >= s->o.keep_going)
            break;
    }
    struct hostile_usage last = hostile_usage();
    hostile_describe(&c, s->o.seed, s->p->number);
    if (warm > 20 && leaks(&first, &last))
        fail(s, &c, "before it", leaks(&first, &last));
    else if (has_leaks())
        fail(s, &c, "before it", "memory leaks");
    s->p->done = true;
    return 0;
}

/* ---- The parent ---- */

static void report_end(struct session *s, int status) {
    struct hostile_case c;
    char text[80];
    hostile_describe(&c, s->o.seed, s->p->number);
    if (WIFSIGNALED(status))
        snprintf(text, sizeof text, "signal %d ended the monitor", WTERMSIG(status));
    else
        snprintf(text, sizeof text, "the monitor's process ended with status %d",
                 WEXITSTATUS(status));
    fail(s, &c, hostile_engine_name[s->p->engine], text);
    s->p->number++;
}

static int run_all(struct session *s) {
    while (!s->p->done && s->p->failures < s->o.keep_going && !time_is_up(s)) {
        fflush(s->out);
        pid_t pid = fork();
        if (pid < 0) {
            perror("fuzz_guest: fork");
            return 2;
        }
        if (pid == 0)
            _exit(child(s));
        int status = 0;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (!s->p->done && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
            report_end(s, status);
    }
    u64 all = 0;
    for (unsigned k = 0; k < HOSTILE_KINDS; k++)
        all += s->p->run[k];
    fprintf(s->out, "%llu hostile guests in %.1f s (", (unsigned long long)all, now() - s->started);
    for (unsigned k = 0; k < HOSTILE_KINDS; k++)
        fprintf(s->out, "%s%llu %s", k ? ", " : "", (unsigned long long)s->p->run[k],
                hostile_kind_name[k]);
    fprintf(s->out,
            "), %llu compared; runs ended by time %llu, by themselves %llu, by exceptions %llu, by "
            "the alarm %llu; %u failures\n",
            (unsigned long long)s->p->compared, (unsigned long long)s->p->ends[0],
            (unsigned long long)s->p->ends[1], (unsigned long long)s->p->ends[2],
            (unsigned long long)s->p->ends[3], s->p->failures);
    return s->p->failures ? 1 : 0;
}

static int run_one(struct session *s) {
    mon_crash_install();
    if (!hostile_setup())
        return 2;
    s->o.verbose = true;
    s->p->number = s->o.only;
    run_case(s, s->o.only);
    return s->p->failures ? 1 : 0;
}

/* ---- Options ---- */

static bool parse_engines(struct options *o, const char *list) {
    memset(o->engine, 0, sizeof o->engine);
    for (const char *p = list; *p;) {
        size_t chars = strcspn(p, ",");
        int found = -1;
        for (int e = 0; e < HOSTILE_ENGINES; e++)
            if (strlen(hostile_engine_name[e]) == chars &&
                !strncmp(p, hostile_engine_name[e], chars))
                found = e;
        if (found < 0)
            return false;
        o->engine[found] = true;
        p += chars + (p[chars] == ',');
    }
    return true;
}

static bool parse_kind(struct options *o, const char *name) {
    for (int k = 0; k < HOSTILE_KINDS; k++)
        if (!strcmp(name, hostile_kind_name[k]))
            o->kind = k;
    return o->kind >= 0;
}

static bool parse(struct options *o, int argc, char **argv) {
    static const struct option names[] = {
        {"cases", required_argument, NULL, 'n'},   {"first", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 's'},    {"seconds", required_argument, NULL, 't'},
        {"engines", required_argument, NULL, 'e'}, {"kind", required_argument, NULL, 'k'},
        {"case", required_argument, NULL, 'c'},    {"keep-going", required_argument, NULL, 'g'},
        {"verbose", no_argument, NULL, 'v'},       {"trace", required_argument, NULL, 'd'},
        {"budget", required_argument, NULL, 'b'},  {0}};
    *o = (struct options){
        .cases = 1000, .seed = 1, .kind = -1, .keep_going = 5, .engine = {true, true, COMPARES}};
    for (int opt; (opt = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        u64 number = optarg ? strtoull(optarg, NULL, 0) : 0;
        bool good = true;
        const char *bad;
        switch (opt) {
        case 'n':
            o->cases = number;
            break;
        case 'f':
            o->first = number;
            break;
        case 's':
            o->seed = number;
            break;
        case 't':
            o->seconds = strtod(optarg, NULL);
            break;
        case 'e':
            good = parse_engines(o, optarg);
            break;
        case 'k':
            good = parse_kind(o, optarg);
            break;
        case 'c':
            o->one = true, o->only = number;
            break;
        case 'g':
            o->keep_going = (unsigned)number;
            break;
        case 'b':
            o->budget_ns = number;
            break;
        case 'd':
            good = trace_parse(optarg, &bad);
            break;
        case 'v':
            o->verbose = true;
            break;
        default:
            good = false;
        }
        if (!good)
            return false;
    }
    return optind == argc;
}

int main(int argc, char **argv) {
    struct session s = {.log = -1, .out = stdout, .started = now()};
    if (!parse(&s.o, argc, argv)) {
        fprintf(stderr, "fuzz_guest: bad options\n");
        return 2;
    }
    static u8 ram[HOSTILE_ENGINES][HOSTILE_RAM];
    for (int e = 0; e < HOSTILE_ENGINES; e++)
        s.state[e].ram = ram[e];
    s.p = mmap(NULL, sizeof *s.p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s.p == MAP_FAILED)
        return 2;
    if (s.o.one)
        return run_one(&s);
    s.p->number = s.o.first;
    s.log = memfd_create("log", 0);
    return run_all(&s);
}
