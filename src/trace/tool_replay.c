/*
 * tool_replay.c: `ringfold replay FILE`: the translation workload of a recorded run, without the
 * run.
 */
#include "trace/tool.h"
#include "trace/trace_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct arguments {
    const char *path;
    u64 passes;
    bool stages, json;
    struct tt_replay_options options;
};

static const char *const stage_name[] = {
#define X(stage, help) #stage,
    BT_STAGES(X)
#undef X
};

static double per(u64 a, u64 b) {
    return b ? (double)a / (double)b : 0;
}

static u64 now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (u64)at.tv_sec * 1000000000 + (u64)at.tv_nsec;
}

/* Cycles of the TSC in a nanosecond, over the time that the replay took anyway. */
struct speed {
    u64 ns, tsc;
};
static struct speed speed_now(void) {
    return (struct speed){now_ns(), __builtin_ia32_rdtsc()};
}
static double cycles_per_ns(struct speed from) {
    struct speed to = speed_now();
    return per(to.tsc - from.tsc, to.ns - from.ns);
}

static u64 stage_sum(const struct tt_replay_result *r) {
    u64 sum = 0;
    for (unsigned i = 0; i < BT_STAGE_COUNT; i++)
        sum += r->stage_cycles[i];
    return sum;
}

static void print_text(const struct tt_replay_result *r, const struct arguments *a, double speed) {
    printf("units      %" PRIu64 ", %" PRIu64 " guest instructions\n", r->units, r->guest_insns);
    printf("bytes      %" PRIu64 " in, %" PRIu64 " out, %.2f out per byte in\n", r->guest_bytes,
           r->host_bytes, per(r->host_bytes, r->guest_bytes));
    printf("chains     %" PRIu64 ", %" PRIu64 " units dropped\n", r->chains, r->invalidated);
    printf("cache      %" PRIu64 " KiB at most, %" PRIu64 " evictions of %" PRIu64
           " units in all, %" PRIu64 " made again\n",
           r->peak_bytes >> 10, r->flushes, r->evicted_units, r->remade_units);
    if (r->differing)
        printf("differing  %" PRIu64
               " units: made with other instructions or bytes than recorded\n",
               r->differing);
    if (r->unmatched)
        printf("unmatched  %" PRIu64 " events: recorded by a different translator\n", r->unmatched);
    printf("time       %.1f cycles, %.1f ns per guest instruction\n",
           per(r->cycles, r->guest_insns), per(r->cycles, r->guest_insns) / speed);
    for (unsigned i = 0; a->stages && i < BT_STAGE_COUNT; i++)
        printf("  %-8s %8.1f cycles, %6.1f ns per guest instruction, %4.1f %%\n", stage_name[i],
               per(r->stage_cycles[i], r->guest_insns),
               per(r->stage_cycles[i], r->guest_insns) / speed,
               100 * per(r->stage_cycles[i], stage_sum(r)));
    printf("image      %016" PRIx64 "\n", r->image_hash);
}

static void print_json(const struct tt_replay_result *r, const struct arguments *a, double speed) {
    printf("{\"units\": %" PRIu64 ", \"guest_insns\": %" PRIu64 ", \"guest_bytes\": %" PRIu64
           ", \"host_bytes\": %" PRIu64 ", \"chains\": %" PRIu64 ", \"invalidated\": %" PRIu64
           ", \"flushes\": %" PRIu64 ", \"evicted_units\": %" PRIu64 ", \"remade_units\": %" PRIu64
           ", \"differing\": %" PRIu64 ", \"unmatched\": %" PRIu64 ", \"peak_bytes\": %" PRIu64
           ", \"cycles\": %" PRIu64 ", \"cycles_per_ns\": %.4f",
           r->units, r->guest_insns, r->guest_bytes, r->host_bytes, r->chains, r->invalidated,
           r->flushes, r->evicted_units, r->remade_units, r->differing, r->unmatched, r->peak_bytes,
           r->cycles, speed);
    for (unsigned i = 0; a->stages && i < BT_STAGE_COUNT; i++)
        printf(", \"%s_cycles\": %" PRIu64, stage_name[i], r->stage_cycles[i]);
    printf(", \"image\": \"%016" PRIx64 "\"}\n", r->image_hash);
}

/* ---- the command ---- */

static bool parse(int argc, char **argv, struct arguments *a) {
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        u64 n;
        if (!strcmp(word, "--no-stages"))
            a->stages = false;
        else if (!strcmp(word, "--json"))
            a->json = true;
        else if (!strcmp(word, "--verify"))
            a->options.verify = true;
        else if (!strcmp(word, "--cache") && tool_number(value, 1, 1024, &n))
            a->options.cache_bytes = n << 20, i++;
        else if (!strcmp(word, "--passes") && tool_number(value, 1, 1000, &n))
            a->passes = n, i++;
        else if (word[0] != '-' && !a->path)
            a->path = word;
        else
            return false;
    }
    return a->path;
}

/* The best of several passes, which must agree in what they make. */
static bool run(const struct arguments *a, struct tt_replay_result *best, struct tt_error *err) {
    struct tt_script *script = tt_script_load(a->path, err);
    bool ok = script;
    for (u64 pass = 0; ok && pass < a->passes; pass++) {
        struct tt_replay_result r;
        ok = tt_script_run(script, &a->options, &r, err);
        if (ok && pass && r.image_hash != best->image_hash)
            ok = tt_fail(err, "two passes made different code: %016" PRIx64 " and %016" PRIx64,
                         best->image_hash, r.image_hash);
        if (ok && (!pass || r.cycles < best->cycles))
            *best = r;
    }
    tt_script_free(script);
    return ok;
}

int tt_replay_main(int argc, char **argv) {
    struct arguments a = {.passes = 3, .stages = true};
    struct tt_replay_result result;
    struct tt_error err;
    if (!parse(argc, argv, &a)) {
        fprintf(stderr,
                "usage: ringfold replay [--cache MIB] [--passes N] [--verify] [--no-stages] "
                "[--json] FILE\n");
        return 1;
    }
    a.options.stage_repeat = a.stages ? 3 : 0;
    struct speed start = speed_now();
    if (!run(&a, &result, &err)) {
        fprintf(stderr, "ringfold: %s\n", err.text);
        return 1;
    }
    (a.json ? print_json : print_text)(&result, &a, cycles_per_ns(start));
    return 0;
}
