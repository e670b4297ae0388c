/*
 * tool_replay.c: `ringfold replay FILE`: the translation workload of a recorded run, without the
 * run.
 */
#include "trace/tool.h"
#include "trace/trace.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void print_stages(const struct tt_replay_result *r) {
    static const char *const name[] = {
#define X(stage, help) #stage,
        BT_STAGES(X)
#undef X
    };
    u64 sum = 0;
    for (unsigned i = 0; i < BT_STAGE_COUNT; i++)
        sum += r->stage_cycles[i];
    for (unsigned i = 0; i < BT_STAGE_COUNT; i++)
        printf("%-10s %8.1f cycles per guest instruction, %4.1f %%\n", name[i],
               (double)r->stage_cycles[i] / (double)MAX(r->guest_insns, 1u),
               100.0 * (double)r->stage_cycles[i] / (double)MAX(sum, 1u));
}

static void print(const struct tt_replay_result *r, bool stages) {
    u64 insns = MAX(r->guest_insns, (u64)1);
    printf("units      %" PRIu64 ", %" PRIu64 " guest instructions\n", r->units, r->guest_insns);
    printf("bytes      %" PRIu64 " in, %" PRIu64 " out, %.2f out per byte in\n", r->guest_bytes,
           r->host_bytes, (double)r->host_bytes / (double)MAX(r->guest_bytes, (u64)1));
    printf("chains     %" PRIu64 ", %" PRIu64 " units dropped\n", r->chains, r->invalidated);
    printf("cache      %" PRIu64 " KiB at most, %" PRIu64 " evictions of %" PRIu64
           " units in all, %" PRIu64 " made again\n",
           r->peak_bytes >> 10, r->flushes, r->evicted_units, r->remade_units);
    if (r->unmatched)
        printf("unmatched  %" PRIu64 " events: recorded by a different translator\n", r->unmatched);
    printf("time       %.1f cycles per guest instruction\n", (double)r->cycles / (double)insns);
    if (stages)
        print_stages(r);
    printf("image      %016" PRIx64 "\n", r->image_hash);
}

int tt_replay_main(int argc, char **argv) {
    struct tt_replay_options options = {.stage_repeat = 0};
    struct tt_replay_result result;
    struct tt_error err;
    if (argc != 2) {
        fprintf(stderr, "usage: ringfold replay FILE\n");
        return 1;
    }
    options.stage_repeat = 3;
    if (!tt_replay(argv[1], &options, &result, &err)) {
        fprintf(stderr, "ringfold: %s\n", err.text);
        return 1;
    }
    print(&result, options.stage_repeat != 0);
    return 0;
}
