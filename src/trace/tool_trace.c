/*
 * tool_trace.c: `ringfold trace info|dump|top|diff FILE...`: what a translation trace holds.
 */
#include "isa/insn.h"
#include "trace/survey.h"
#include "trace/tool.h"
#include "trace/trace_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const event_name[] = {
#define X(name, help) #name,
    BT_EVENTS(X)
#undef X
};
static const char *const cause_name[] = {
#define X(name, help) #name,
    BT_CAUSES(X)
#undef X
};
static const char *const exit_name[] = {
#define X(name, help) #name,
    BT_EXITS(X)
#undef X
};
static const char *const callout_name[] = {
#define X(name, help) #name,
    BT_CALLOUTS(X)
#undef X
};

static int fail(const struct tt_error *err) {
    fprintf(stderr, "ringfold: %s\n", err->text);
    return 1;
}

static double ratio(u64 a, u64 b) {
    return b ? (double)a / (double)b : 0;
}

/* ---- info ---- */

static void print_config(const struct tt_header *h) {
    const struct bt_config *c = &h->config;
    printf("recorded by   ringfold %s: %s\n", h->version, h->note);
    printf("machine       %" PRIu64 " MiB of RAM, translation cache of %" PRIu64
           " MiB, translated at the %u. execution\n",
           h->ram_bytes >> 20, c->cache_bytes >> 20, c->hot_threshold);
    printf("mechanisms   %s%s%s%s%s%s%s\n", c->chain ? " chain" : "",
           c->retstack ? " retstack" : "", c->icache ? " icache" : "", c->adapt ? " adapt" : "",
           c->foresight ? " foresight" : "", c->light ? " light" : "", c->icount ? " icount" : "");
}

static int info(const char *path) {
    struct survey s;
    struct tt_error err;
    if (!survey_make(&s, path, &err))
        return fail(&err);
    const struct tt_totals *t = s.totals;
    print_config(s.header);
    printf("units         %" PRIu64 " made of %" PRIu64 " different ones, %" PRIu64
           " guest instructions\n",
           t->events[BT_EVENT_translate], s.units, t->guest_insns);
    printf("bytes         %" PRIu64 " guest, %" PRIu64 " host, %.2f out per byte in\n",
           t->guest_bytes, t->host_bytes, ratio(t->host_bytes, t->guest_bytes));
    printf("code          %" PRIu64 " different pieces, %" PRIu64 " bytes\n", t->codes,
           t->code_bytes);
    printf("executions    %" PRIu64 " %s\n", s.counted,
           s.header->exact_counts ? "counted" : "sampled");
    for (unsigned e = 0; e < BT_EVENT_COUNT; e++) {
        printf("%-13s %" PRIu64, event_name[e], t->events[e]);
        for (unsigned c = 1; c < BT_CAUSE_COUNT; c++)
            if (s.causes[e][c])
                printf(", %" PRIu64 " %s", s.causes[e][c], cause_name[c]);
        printf("\n");
    }
    survey_free(&s);
    return 0;
}

/* ---- top ---- */

struct named {
    u64 value;
    const char *name;
};
static int by_value(const void *a, const void *b) {
    const struct named *x = a, *y = b;
    return x->value > y->value ? -1 : x->value < y->value;
}

_Static_assert((int)BT_EXIT_COUNT <= (int)BT_CALLOUT_COUNT, "rows of print_named");
static void print_named(const char *title, const u64 *value, const char *const *name,
                        unsigned count) {
    struct named row[BT_CALLOUT_COUNT];
    for (unsigned i = 0; i < count; i++)
        row[i] = (struct named){value[i], name[i]};
    qsort(row, count, sizeof *row, by_value);
    printf("\n%s\n", title);
    for (unsigned i = 0; i < count && row[i].value; i++)
        printf("%14" PRIu64 "  %s\n", row[i].value, row[i].name);
}

static const u8 *code_of(const struct survey *s, const struct survey_unit *u, u32 *bytes) {
    const u8 *code = tt_code(s->reader, u->code_id, bytes);
    *bytes = MIN(*bytes, (u32)u->guest_bytes);
    return code;
}

/* Executed instructions by mnemonic; units that were never seen running count once. */
static void add_classes(const struct survey *s, u64 *by_mnemonic, bool executed) {
    for (u64 i = 0; i < s->units; i++) {
        const struct survey_unit *u = &s->unit[i];
        u32 bytes, at = 0;
        const u8 *code = code_of(s, u, &bytes);
        struct insn in;
        for (; at < bytes && insn_decode(&in, code + at, bytes - at, true, true) == INSN_OK;
             at += in.length)
            by_mnemonic[in.mnemonic] += executed ? u->count : 1;
    }
}

static void print_mnemonics(u64 *by_mnemonic, u64 limit) {
    u64 all = 0;
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
        all += by_mnemonic[i];
    for (u64 n = 0; n < limit; n++) {
        unsigned best = 0;
        for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
            if (by_mnemonic[i] > by_mnemonic[best])
                best = i;
        if (!by_mnemonic[best])
            return;
        printf("%14" PRIu64 "  %5.1f %%  %s\n", by_mnemonic[best],
               100 * ratio(by_mnemonic[best], all), insn_mnemonic_name((u16)best));
        by_mnemonic[best] = 0;
    }
}

static int top(const char *path, u64 limit) {
    struct survey s;
    struct tt_error err;
    if (!survey_make(&s, path, &err))
        return fail(&err);
    u64 heat = 0;
    for (u64 i = 0; i < s.units; i++)
        heat += s.unit[i].count * s.unit[i].insns;
    bool executed = heat != 0;
    qsort(s.unit, s.units, sizeof *s.unit, survey_by_heat);
    printf("hottest units, by executions %s times instructions\n"
           "    share  executions  eip       cpl  insns  bytes in/out  made\n",
           s.header->exact_counts ? "counted" : "sampled");
    for (u64 i = 0; i < MIN(limit, s.units); i++) {
        const struct survey_unit *u = &s.unit[i];
        printf("  %5.1f %%  %10" PRIu64 "  %08x  %u    %5u  %5u/%-6u  %4" PRIu64 "\n",
               100 * ratio(u->count * u->insns, heat), u->count, u->eip, u->cpl, u->insns,
               u->guest_bytes, u->host_bytes, u->made);
    }
    u64 *by_mnemonic = calloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof *by_mnemonic);
    if (by_mnemonic) {
        printf("\ninstructions %s\n", executed ? "executed" : "translated");
        add_classes(&s, by_mnemonic, executed);
        print_mnemonics(by_mnemonic, limit);
        free(by_mnemonic);
    }
    print_named("exits", s.totals->exits, exit_name, BT_EXIT_COUNT);
    print_named("callouts", s.totals->callouts, callout_name, BT_CALLOUT_COUNT);
    survey_free(&s);
    return 0;
}

/* ---- dump ---- */

struct dump {
    bool all;
    u64 from, to; /* guest addresses */
    u64 left;     /* units still to print */
};

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    puts(line);
}

static void dump_unit(void *opaque, u64 n, struct bt *bt, u32 unit) {
    struct dump *d = opaque;
    struct bt_unit_info u;
    if (!d->left || !bt_replay_unit(bt, unit, &u) ||
        (!d->all && (u.eip > d->to || u.eip + MAX(u.guest_bytes, 1u) <= d->from)))
        return;
    d->left--;
    printf("translation %" PRIu64 "\n", n);
    bt_dump_unit(bt, &u, print_line, NULL);
}

static int dump(const char *path, struct dump *d) {
    struct tt_replay_options options = {.made = dump_unit, .opaque = d};
    struct tt_replay_result result;
    struct tt_error err;
    return tt_replay(path, &options, &result, &err) ? 0 : fail(&err);
}

/* ---- diff ---- */

struct difference {
    u64 only[2], same, changed;
    u64 only_insns[2];
    i64 host_bytes; /* of units in both */
};

static void compare(const struct survey s[2], struct difference *d, u64 limit) {
    u64 i = 0, j = 0;
    while (i < s[0].units || j < s[1].units) {
        const struct survey_unit *a = &s[0].unit[i], *b = &s[1].unit[j];
        int order = i == s[0].units ? 1 : j == s[1].units ? -1 : survey_by_key(a, b);
        if (order) {
            const struct survey_unit *u = order < 0 ? a : b;
            d->only[order > 0]++;
            d->only_insns[order > 0] += u->insns;
            i += order < 0;
            j += order > 0;
            continue;
        }
        d->same += a->host_bytes == b->host_bytes && a->insns == b->insns;
        if (a->host_bytes != b->host_bytes || a->insns != b->insns) {
            if (d->changed++ < limit)
                printf("  %08x cpl %u: %u -> %u instructions, %u -> %u host bytes\n", a->eip,
                       a->cpl, a->insns, b->insns, a->host_bytes, b->host_bytes);
            d->host_bytes += (i64)b->host_bytes - (i64)a->host_bytes;
        }
        i++;
        j++;
    }
}

static void diff_row(const char *name, u64 a, u64 b) {
    if (a != b)
        printf("  %-22s %12" PRIu64 " -> %12" PRIu64 "  %+7.1f %%\n", name, a, b,
               a ? 100 * (ratio(b, a) - 1) : 0.0);
}

static void diff_totals(const struct tt_totals *a, const struct tt_totals *b) {
    printf("totals that differ\n");
    for (unsigned e = 0; e < BT_EVENT_COUNT; e++)
        diff_row(event_name[e], a->events[e], b->events[e]);
    diff_row("guest instructions", a->guest_insns, b->guest_insns);
    diff_row("guest bytes", a->guest_bytes, b->guest_bytes);
    diff_row("host bytes", a->host_bytes, b->host_bytes);
    for (unsigned i = 0; i < BT_EXIT_COUNT; i++)
        diff_row(exit_name[i], a->exits[i], b->exits[i]);
    for (unsigned i = 0; i < BT_CALLOUT_COUNT; i++)
        diff_row(callout_name[i], a->callouts[i], b->callouts[i]);
}

static int diff(char **path, u64 limit) {
    struct survey s[2];
    struct tt_error err;
    struct difference d = {0};
    if (!survey_make(&s[0], path[0], &err))
        return fail(&err);
    if (!survey_make(&s[1], path[1], &err)) {
        survey_free(&s[0]);
        return fail(&err);
    }
    diff_totals(s[0].totals, s[1].totals);
    printf("units of the same code whose translation differs\n");
    compare(s, &d, limit);
    if (d.changed > limit)
        printf("  and %" PRIu64 " more\n", d.changed - limit);
    printf("units: %" PRIu64 " the same, %" PRIu64 " changed (%+" PRId64 " host bytes), %" PRIu64
           " only in the first (%" PRIu64 " instructions), %" PRIu64 " only in the second (%" PRIu64
           ")\n",
           d.same, d.changed, d.host_bytes, d.only[0], d.only_insns[0], d.only[1], d.only_insns[1]);
    survey_free(&s[0]);
    survey_free(&s[1]);
    return 0;
}

/* ---- the command ---- */

static int usage(void) {
    fprintf(stderr, "usage: ringfold trace info FILE | top FILE [ROWS] | dump FILE [ADDRESS "
                    "[LAST-ADDRESS]] | diff FILE FILE [ROWS]\n");
    return 1;
}

int tt_trace_main(int argc, char **argv) {
    u64 rows = 20;
    const char *what = argc > 2 ? argv[1] : "";
    if (!strcmp(what, "info") && argc == 3)
        return info(argv[2]);
    if (!strcmp(what, "top") && argc <= 4)
        return argc == 4 && !tool_number(argv[3], 0, UINT64_MAX, &rows) ? usage()
                                                                        : top(argv[2], rows);
    if (!strcmp(what, "diff") && argc >= 4 && argc <= 5)
        return argc == 5 && !tool_number(argv[4], 0, UINT64_MAX, &rows) ? usage()
                                                                        : diff(argv + 2, rows);
    if (!strcmp(what, "dump") && argc <= 5) {
        struct dump d = {.all = argc == 3, .left = UINT64_MAX};
        if ((argc > 3 && !tool_number(argv[3], 0, UINT32_MAX, &d.from)) ||
            (argc > 4 && !tool_number(argv[4], 0, UINT32_MAX, &d.to)))
            return usage();
        if (argc == 4)
            d.to = d.from;
        return dump(argv[2], &d);
    }
    return usage();
}
