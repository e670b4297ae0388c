/*
 * fuzz_native.c: the differential fuzzer: generated cases on the host CPU, in the interpreter and
 * translated must end in the same state.
 *
 *   fuzz_native [--cases N] [--seed S] [--engines interp,bt,checked] [--case K] [--seconds T]
 *               [--keep-going N] [--cpu MODEL] [--coverage FILE] [--check] [--without MNEMONIC]
 *               [--record FILE] [--hosts DIRECTORY] [--no-ldt]
 *
 * Without bt, instructions are added that no CPU model announces but the interpreter knows.
 * --case K runs and prints one case of the seed, made smaller when it fails. --check fails unless
 * every form was executed or is left out for a reason; --without leaves a mnemonic out, to see that
 * it does. --record writes what this CPU does with undefined flags, --hosts compares that with what
 * is recorded. --no-ldt does without modify_ldt. Exit status: 0 no difference, 1 some, 77 the host
 * cannot run cases natively.
 */
#include "fuzz.h"

#include "monitor/outside.h"

#include <getopt.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

static const char *const engine_names[FUZZ_ENGINES] = {"interp", "bt"};

struct options {
    u64 cases, seed, only;
    bool one, check, no_ldt, engine[FUZZ_ENGINES];
    bool checked;        /* translated units check themselves */
    unsigned keep_going; /* differences that are reported before it ends */
    double seconds;
    const char *coverage, *cpu, *without, *record, *hosts;
};

struct session {
    struct options o;
    struct cpu_model model;
    struct fuzz_native *native;
    struct fuzz_guest *guest[FUZZ_ENGINES];
    struct fuzz_result *result[FUZZ_ENGINES];
    u64 run, left_out[FUZZ_LEFT_REASONS], undefined_differs, differences[FUZZ_ENGINES];
    unsigned failures;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- Running ---- */

/* The interpreter goes first and tells which cases end; the child works while bt does. */
static void run_cases(struct session *s, unsigned count) {
    struct fuzz_case *cases = fuzz_native_cases(s->native);
    const u8 *template = fuzz_native_template(s->native);
    for (unsigned e = 0; e < FUZZ_ENGINES; e++)
        if (s->guest[e])
            fuzz_guest_load(s->guest[e], cases, count, template);
    for (unsigned i = 0; i < count; i++) {
        struct fuzz_result *r = &s->result[FUZZ_INTERP][i];
        if (cases[i].skip)
            continue;
        fuzz_guest_run(s->guest[FUZZ_INTERP], &cases[i], template, r);
        cases[i].skip = cases[i].left_out != FUZZ_LEFT_NOT;
    }
    fuzz_native_start(s->native, count);
    for (unsigned i = 0; i < count && s->guest[FUZZ_BT]; i++)
        if (!cases[i].skip)
            fuzz_guest_run(s->guest[FUZZ_BT], &cases[i], template, &s->result[FUZZ_BT][i]);
    fuzz_native_wait(s->native);
}

static u32 difference(const struct session *s, enum fuzz_engine e, unsigned i) {
    const struct fuzz_case *c = &fuzz_native_cases(s->native)[i];
    const struct fuzz_result *n = &fuzz_native_results(s->native)[i];
    return c->skip || !s->o.engine[e] ? 0 : fuzz_compare(c, n, &s->result[e][i]);
}

/* ---- A failing case: made smaller, and shown ---- */

static bool still_fails(struct session *s, const struct fuzz_case *c) {
    fuzz_native_cases(s->native)[0] = *c;
    run_cases(s, 1);
    for (unsigned e = 0; e < FUZZ_ENGINES; e++)
        if (difference(s, e, 0) & ~(u32)FUZZ_DIFF_UNDEFINED)
            return true;
    return false;
}

static void keep_if_fails(struct session *s, struct fuzz_case *c, const struct fuzz_case *smaller) {
    if (still_fails(s, smaller))
        *c = *smaller;
}

/* Instructions become NOPs, registers zero, segments flat, the FX image plain, patches go. */
static void minimise(struct session *s, struct fuzz_case *c) {
    struct fuzz_case t;
    for (unsigned i = 0; i < c->insns; i++) {
        t = *c;
        memset(t.code + t.insn_start[i], 0x90, (size_t)(t.insn_start[i + 1] - t.insn_start[i]));
        keep_if_fails(s, c, &t);
    }
    for (unsigned i = 0; i < 8; i++) {
        t = *c;
        t.gpr[i] = 0;
        keep_if_fails(s, c, &t);
    }
    for (unsigned i = 0; i < 6; i++) { /* flat, but for CS, which its code was made for */
        t = *c;
        t.seg[i] = i == SEG_CS ? t.seg[i] : FUZZ_DS;
        t.stack16 = !fuzz_is_32bit(t.seg[SEG_SS]);
        keep_if_fails(s, c, &t);
    }
    t = *c;
    t.eflags = F_FIXED | F_IF;
    keep_if_fails(s, c, &t);
    t = *c;
    memset(t.fx, 0, sizeof t.fx);
    store16(t.fx, 0x37f);
    store32(t.fx + 24, 0x1f80);
    keep_if_fails(s, c, &t);
    while (c->patches) {
        t = *c;
        t.patches--;
        if (!still_fails(s, &t))
            break;
        *c = t;
    }
}

/* Runs the case alone, so that memory stays to be looked at, and prints what differs. */
static void show(struct session *s, const struct fuzz_case *c) {
    bool fails = still_fails(s, c);
    fuzz_print_case(c);
    const struct fuzz_result *n = fuzz_native_results(s->native);
    if (!fails)
        printf(" all engines agree: end %u vector %u eip %08x eflags %08x\n", n->end, n->vector,
               n->eip, n->eflags);
    for (unsigned e = 0; e < FUZZ_ENGINES; e++) {
        u32 d = difference(s, e, 0);
        if (!d)
            continue;
        fuzz_print_results(c, n, s->result[e], engine_names[e]);
        if (d & FUZZ_DIFF_MEMORY)
            fuzz_print_memory(fuzz_native_scratch(s->native), fuzz_guest_scratch(s->guest[e]));
    }
}

static void report(struct session *s, u64 number) {
    struct fuzz_case c;
    fuzz_generate(&c, s->o.seed, number, &s->model);
    fuzz_template(fuzz_native_template(s->native), s->o.seed, number / FUZZ_BATCH);
    printf("---- seed %llu case %llu%s\n", (unsigned long long)s->o.seed,
           (unsigned long long)number, still_fails(s, &c) ? "" : " (not when run alone)");
    if (still_fails(s, &c))
        minimise(s, &c);
    show(s, &c);
    fflush(stdout);
}

/* ---- Differences of lone instructions, by mnemonic ---- */

struct tally {
    u16 mnemonic, difference;
    u8 engine, native_vector, engine_vector;
    u64 cases, first;
};
static struct tally tally[512];
static unsigned tallies;

static void tally_difference(const struct session *s, enum fuzz_engine e, unsigned i, u32 d) {
    const struct fuzz_case *c = &fuzz_native_cases(s->native)[i];
    const struct fuzz_result *n = &fuzz_native_results(s->native)[i], *r = &s->result[e][i];
    struct tally t = {.mnemonic = c->lone ? fuzz_form[c->form].mnemonic : 0,
                      .difference = (u16)d,
                      .engine = (u8)e,
                      .native_vector = n->vector,
                      .engine_vector = r->vector};
    unsigned at = 0;
    while (at < tallies && memcmp(&tally[at], &t, offsetof(struct tally, cases)))
        at++;
    if (at == ARRAY_LEN(tally))
        return;
    if (at == tallies) {
        tally[tallies++] = t;
        tally[at].first = c->number;
    }
    tally[at].cases++;
}

static void print_tallies(void) {
    for (unsigned i = 0; i < tallies; i++)
        printf("  %-6s %-12s differs %3x vectors %u %u: %llu cases, first %llu\n",
               engine_names[tally[i].engine],
               tally[i].mnemonic ? insn_mnemonic_name(tally[i].mnemonic) : "(sequence)",
               tally[i].difference, tally[i].native_vector, tally[i].engine_vector,
               (unsigned long long)tally[i].cases, (unsigned long long)tally[i].first);
}

/* ---- Batches ---- */

static void count_case(struct session *s, unsigned i) {
    const struct fuzz_case *c = &fuzz_native_cases(s->native)[i];
    const struct fuzz_result *n = &fuzz_native_results(s->native)[i];
    struct fuzz_form *f = &fuzz_form[c->form];
    if (c->skip) {
        s->left_out[c->left_out]++;
        f->skipped++;
        return;
    }
    s->run++;
    f->cases++;
    f->done += n->end == FUZZ_DONE;
    if (n->end == FUZZ_FAULT)
        f->fault[n->vector & 31]++;
    fuzz_note_undefined(c, n);
    if (s->o.check || s->o.coverage)
        fuzz_cover_case(c, n);
}

static void run_batch(struct session *s, u64 first, unsigned count) {
    static u64 failed[FUZZ_BATCH];
    unsigned failures = 0;
    for (unsigned i = 0; i < count; i++)
        fuzz_generate(&fuzz_native_cases(s->native)[i], s->o.seed, first + i, &s->model);
    fuzz_template(fuzz_native_template(s->native), s->o.seed, first / FUZZ_BATCH);
    run_cases(s, count);
    for (unsigned i = 0; i < count; i++) {
        u32 all = 0;
        count_case(s, i);
        for (unsigned e = 0; e < FUZZ_ENGINES; e++) {
            u32 d = difference(s, e, i);
            if (d & ~(u32)FUZZ_DIFF_UNDEFINED) {
                s->differences[e]++;
                tally_difference(s, e, i, d);
            }
            all |= d;
        }
        if (all == FUZZ_DIFF_UNDEFINED) {
            s->undefined_differs++;
            fuzz_form[fuzz_native_cases(s->native)[i].form].undefined_differs++;
        } else if (all) {
            failed[failures++] = first + i;
        }
    }
    for (unsigned i = 0; i < failures && s->failures < s->o.keep_going; i++, s->failures++)
        report(s, failed[i]);
}

static bool too_many(const struct session *s) {
    return s->differences[FUZZ_INTERP] + s->differences[FUZZ_BT] >= 1000 * (1ull + s->o.keep_going);
}

static const char *const left_out_names[FUZZ_LEFT_REASONS] = {
    [FUZZ_LEFT_EMPTY] = "no encoding of the form was found",
    [FUZZ_LEFT_STRAYS] = "runs into the code of other cases or the middle of an instruction",
    [FUZZ_LEFT_LONG] = "runs on",
    [FUZZ_LEFT_64BIT] = "enters 64-bit code",
    [FUZZ_LEFT_TASK] = "IRET with NT: long mode has no task switches",
    [FUZZ_LEFT_MOVS] = "REP MOVS that this host is known to get wrong",
};

static void print_left_out(const struct session *s, FILE *out) {
    for (unsigned i = 0; i < FUZZ_LEFT_REASONS; i++)
        if (s->left_out[i])
            fprintf(out, "fuzz_native: left out: %llu cases: %s\n",
                    (unsigned long long)s->left_out[i], left_out_names[i]);
}

static void run_all(struct session *s) {
    double start = now();
    for (u64 at = 0; at < s->o.cases && !too_many(s); at += FUZZ_BATCH) {
        run_batch(s, at, (unsigned)MIN(s->o.cases - at, (u64)FUZZ_BATCH));
        if (s->o.seconds > 0 && now() - start > s->o.seconds)
            break;
    }
    double seconds = now() - start;
    printf("fuzz_native: seed %llu: %llu cases of %u forms in %.1f s (%.0f a second)\n",
           (unsigned long long)s->o.seed, (unsigned long long)s->run, fuzz_forms, seconds,
           (double)s->run / seconds);
    print_left_out(s, stdout);
    printf("fuzz_native: undefined flags alone differ in %llu cases\n",
           (unsigned long long)s->undefined_differs);
    for (unsigned e = 0; e < FUZZ_ENGINES; e++)
        if (s->o.engine[e])
            printf("fuzz_native: %s: %llu differences\n", engine_names[e],
                   (unsigned long long)s->differences[e]);
    print_tallies();
    fuzz_print_tolerated(stdout);
}

static void print_all(FILE *out) {
    fuzz_print_undefined(out);
    fuzz_print_tolerated(out);
    fuzz_print_table(out);
    fuzz_print_coverage(out);
    fuzz_print_excluded(out);
}

static void write_file(const char *path, void (*print)(FILE *out)) {
    FILE *out = path ? fopen(path, "w") : NULL;
    if (path && !out)
        perror(path);
    if (!out)
        return;
    print(out);
    fclose(out);
}

/* ---- Start ---- */

static void usage(void) {
    fprintf(stderr,
            "usage: fuzz_native [--cases N] [--seed S] [--engines interp,bt,checked] [--case K]\n"
            "                   [--seconds T] [--keep-going N] [--cpu MODEL] [--coverage FILE]\n"
            "                   [--check] [--without MNEMONIC] [--record FILE] [--hosts DIR]\n"
            "                   [--no-ldt]\n");
    exit(2);
}

static void parse(struct options *o, int argc, char **argv) {
    static const struct option names[] = {{"cases", 1, 0, 'n'},    {"seed", 1, 0, 's'},
                                          {"engines", 1, 0, 'e'},  {"case", 1, 0, 'k'},
                                          {"coverage", 1, 0, 'c'}, {"seconds", 1, 0, 't'},
                                          {"cpu", 1, 0, 'p'},      {"keep-going", 1, 0, 'g'},
                                          {"check", 0, 0, 'h'},    {"without", 1, 0, 'w'},
                                          {"no-ldt", 0, 0, 'l'},   {"record", 1, 0, 'r'},
                                          {"hosts", 1, 0, 'o'},    {0, 0, 0, 0}};
    int option;
    *o = (struct options){.cases = 1000000, .seed = 1, .engine = {true, true}, .keep_going = 10};
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
        switch (option) {
        case 'n':
            o->cases = strtoull(optarg, NULL, 0);
            break;
        case 's':
            o->seed = strtoull(optarg, NULL, 0);
            break;
        case 'e':
            o->engine[FUZZ_INTERP] = strstr(optarg, "interp");
            o->checked = strstr(optarg, "checked");
            o->engine[FUZZ_BT] = o->checked || strstr(optarg, "bt");
            break;
        case 'k':
            o->one = true;
            o->only = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            o->coverage = optarg;
            break;
        case 't':
            o->seconds = strtod(optarg, NULL);
            break;
        case 'g':
            o->keep_going = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'p':
            o->cpu = optarg;
            break;
        case 'h':
            o->check = true;
            break;
        case 'w':
            o->without = optarg;
            break;
        case 'r':
            o->record = optarg;
            break;
        case 'o':
            o->hosts = optarg;
            break;
        case 'l':
            o->no_ldt = true;
            break;
        default:
            usage();
        }
}

static bool open_session(struct session *s) {
    struct mon_host_cpu host;
    struct mon_error err;
    const char *why;
    mon_host_cpu(&host);
    if (!mon_cpu_model(s->o.cpu, &host, 1000000000, &s->model, &err)) {
        fprintf(stderr, "fuzz_native: %s\n", err.text);
        exit(2);
    }
    if (!s->o.engine[FUZZ_BT])
        fuzz_add_host_features(&s->model);
    fuzz_forms_enumerate(&s->model, s->o.without);
    if (s->o.check || s->o.coverage)
        fuzz_cover_universe(&s->model);
    s->native = fuzz_native_create(FUZZ_BATCH, !s->o.no_ldt, &why);
    if (!s->native) {
        fprintf(stderr, "fuzz_native: cannot run natively: %s\n", why);
        return false;
    }
    if (!fuzz_has_ldt())
        printf("fuzz_native: left out: all segments but the flat ones, and 16-bit code: no "
               "modify_ldt here\n");
    else if (!fuzz_has_16bit())
        printf("fuzz_native: left out: 16-bit segments: modify_ldt refuses them here\n");
    if (!fuzz_has_low())
        printf("fuzz_native: left out: pages below 64 KiB: vm.mmap_min_addr\n");
    for (unsigned e = 0; e < FUZZ_ENGINES; e++) {
        s->result[e] = aligned_alloc(64, FUZZ_BATCH * sizeof *s->result[e]);
        memset(s->result[e], 0, FUZZ_BATCH * sizeof *s->result[e]);
        if (e == FUZZ_INTERP || s->o.engine[e])
            s->guest[e] = fuzz_guest_create(&s->model, e, s->o.checked);
    }
    return s->guest[FUZZ_INTERP] && (s->guest[FUZZ_BT] || !s->o.engine[FUZZ_BT]);
}

int main(int argc, char **argv) {
    static struct session s;
    parse(&s.o, argc, argv);
    if (!open_session(&s))
        return 77;
    if (s.o.one)
        report(&s, s.o.only);
    else
        run_all(&s);
    write_file(s.o.coverage, print_all);
    write_file(s.o.record, fuzz_print_record);
    unsigned uncovered = s.o.check && !s.o.one ? fuzz_check_coverage() : 0;
    uncovered += s.o.hosts ? fuzz_check_record(s.o.hosts) : 0;
    u64 differences = s.differences[FUZZ_INTERP] + s.differences[FUZZ_BT];
    for (unsigned e = 0; e < FUZZ_ENGINES; e++) {
        fuzz_guest_destroy(s.guest[e]);
        free(s.result[e]);
    }
    fuzz_native_destroy(s.native);
    return differences || uncovered ? 1 : 0;
}
