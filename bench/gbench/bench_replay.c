/*
 * bench_replay.c: the translation workload of whole runs: the traces that bench/traces recorded,
 * each replayed from beginning to end. Where they were not recorded nothing is registered.
 */
#include "trace/trace.h"
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void replay(struct gb_state *state, void *user) {
    const struct tt_script *script = user;
    const struct tt_replay_options options = {.verify = false};
    struct tt_replay_result result = {.units = 0};
    struct tt_error err;
    double cycles = 0;
    while (gb_keep_running(state)) {
        if (!tt_script_run(script, &options, &result, &err)) {
            gb_skip_with_error(state, err.text);
            break;
        }
        cycles += (double)result.cycles;
    }
    gb_set_counter(state, "units", (double)result.units, GB_COUNT);
    gb_set_counter(state, "insns", (double)result.guest_insns, GB_COUNT);
    gb_set_counter(state, "bytes_in", (double)result.guest_bytes, GB_COUNT);
    gb_set_counter(state, "bytes_out", (double)result.host_bytes, GB_COUNT);
    gb_set_counter(state, "cycles_per_insn", cycles / (double)MAX(result.guest_insns, (u64)1),
                   GB_PER_ITERATION);
    gb_set_items(state, gb_iterations_done(state) * (int64_t)result.guest_insns);
}

void bench_replay_register(void) {
    static const char *const names[] = {"boot", "compile", "fork"};
    const char *directory = getenv("RINGFOLD_TRACES");
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        char path[512], name[64];
        struct tt_error err;
        snprintf(path, sizeof path, "%s/%s.rft", directory ? directory : RINGFOLD_TRACES, names[i]);
        if (access(path, R_OK) != 0)
            continue;
        struct tt_script *script = tt_script_load(path, &err);
        if (!script) {
            fprintf(stderr, "microbench: %s\n", err.text);
            continue;
        }
        snprintf(name, sizeof name, "replay/%s", names[i]);
        gb_unit(gb_register(name, replay, script), GB_MILLISECOND);
    }
}
