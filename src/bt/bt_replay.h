/*
 * bt_replay.h: the translator's work without a guest, for trace replay and benchmarks: an
 * observer's events (bt_observe) go in, the same host code comes out. The bt belongs to the caller
 * alone: bt_run must not be called on it. vCPU thread rules: one thread. Nothing here trusts what
 * it is given.
 */
#ifndef RINGFOLD_BT_BT_REPLAY_H
#define RINGFOLD_BT_BT_REPLAY_H

#include "bt/bt.h"

/* Translates in that context. False: no translator ever had such a context (RAM too small, bytes
 * across a page, ...). *unit: its number since the last flush, or UINT32_MAX when the cache or a
 * table is full: flush and try again. */
bool bt_replay_translate(struct bt *bt, const struct bt_context *context, u32 *unit);
/* Links the branch-th direct branch of unit `from` to a unit. False: no such branch or unit. */
bool bt_replay_chain(struct bt *bt, u32 from, u32 branch, u32 unit);
/* Cuts the links that leave their page. */
void bt_replay_unchain(struct bt *bt);
/* Drops a unit. False: there is none of that number. */
bool bt_replay_invalidate(struct bt *bt, u32 unit);
void bt_replay_flush(struct bt *bt);
/* All of the cache that is in use; one unit. Valid until the next call. */
const u8 *bt_replay_image(const struct bt *bt, u32 *bytes);
/* False: no such unit. */
bool bt_replay_unit(const struct bt *bt, u32 unit, struct bt_unit_info *out);

/* ---- What each stage costs ---- */

/* X(name, help) */
#define BT_STAGES(X)                                                                               \
    X(decode, "Zydis and the compact form")                                                        \
    X(classify, "what is to be done with each instruction, flags' liveness not included")          \
    X(lower, "choosing host instructions, the PC table, liveness")                                 \
    X(emit, "writing host bytes")                                                                  \
    X(link, "indexing the unit and linking branches")
enum bt_stage {
#define X(name, help) BT_STAGE_##name,
    BT_STAGES(X)
#undef X
        BT_STAGE_COUNT
};
/* Repeats the stages of making the unit in that context, `repeat` times each, and adds the TSC
 * cycles of one pass to cycles[]: decode by decoding alone, classify by classifying what is
 * decoded, lower by lowering with an emitter that has no room, emit by lowering with room minus
 * that. Nothing stays in the cache. False as bt_replay_translate, or when the cache is full. The
 * link stage is the caller's: it is bt_replay_chain. */
bool bt_replay_measure(struct bt *bt, const struct bt_context *context, unsigned repeat,
                       u64 cycles[BT_STAGE_COUNT]);

#endif
