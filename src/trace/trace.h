/*
 * trace.h: translation traces: what happened to the translation cache of one run, in order, in one
 * self-contained file. A recorder writes one beside a running guest; a reader hands out its events
 * again; a replay makes the same host code from it without a guest. The format is
 * docs/trace-format.md.
 */
#ifndef RINGFOLD_TRACE_TRACE_H
#define RINGFOLD_TRACE_TRACE_H

#include "base/base.h"
#include "base/cpu.h"
#include "bt/bt.h"
#include "bt/bt_replay.h"

/* One line that says what is wrong, file name included. */
struct tt_error {
    char text[300];
};

/* ---- What a trace holds ---- */

#define TT_VERSION 1
#define TT_NOTE_BYTES 256

struct tt_header {
    char version[32];         /* of the recording program */
    char note[TT_NOTE_BYTES]; /* what was run, for people */
    u64 ram_bytes;
    bool exact_counts; /* executions are counted, not sampled */
    struct bt_config config;
    struct cpu_model model;
};

/* How often units ran (or were seen running by the sampler) since the flush before. */
struct tt_count {
    u32 unit;
    u64 count;
};

enum tt_record_kind {
    TT_EVENT,  /* one of the translator's events */
    TT_COUNTS, /* executions of units, in front of the flush that ends their numbers, and at the end
                */
    TT_END     /* nothing follows */
};

struct tt_record {
    enum tt_record_kind kind;
    struct bt_event event;     /* TT_EVENT; its context, too, lives until the next tt_next */
    u32 code_id;               /* of a translate event: equal for equal code bytes */
    struct bt_context context; /* where event.context points */
    const struct tt_count *counts;
    u32 count_count;
};

/* Totals, as the end of a trace has them. */
struct tt_totals {
    u64 events[BT_EVENT_COUNT];
    u64 guest_insns, guest_bytes, host_bytes;
    u64 codes, code_bytes; /* different pieces of guest code, their bytes */
    u64 exits[BT_EXIT_COUNT], callouts[BT_CALLOUT_COUNT]; /* while it was recorded */
};

/* ---- Reading ---- */

struct tt_reader;
/* NULL with *err filled: no such file, not a trace, another version, damaged. Guards itself against
 * any file. */
struct tt_reader *tt_open(const char *path, struct tt_error *err);
const struct tt_header *tt_header(const struct tt_reader *reader);
/* The next record. False with *err filled: damaged or truncated. After TT_END the file has been
 * checked to its last byte. */
bool tt_next(struct tt_reader *reader, struct tt_record *out, struct tt_error *err);
/* Complete once tt_next has given TT_END. */
const struct tt_totals *tt_totals(const struct tt_reader *reader);
/* The guest code of that number (tt_record.code_id), NULL if there is none. Valid until the next
 * tt_next. */
const u8 *tt_code(const struct tt_reader *reader, u32 code_id, u32 *bytes);
void tt_close(struct tt_reader *reader);

/* ---- Recording ---- */

struct tt_recorder;
/* Creates the file and observes bt from now on. NULL with *err filled. vCPU thread. */
struct tt_recorder *tt_record(struct bt *bt, const char *path, const struct tt_header *header,
                              struct tt_error *err);
/* Writes out what has been heard, if that is much: call it after each bt_run. */
void tt_record_drain(struct tt_recorder *recorder);
/* A sampler found the vCPU at this host pc. Async-signal-safe, on the vCPU thread. */
void tt_record_sample_sigsafe(struct tt_recorder *recorder, u64 pc);
/* Ends the recording; *totals, if not NULL, tells what it holds. False with *err filled when
 * anything could not be written: the file is then removed. Before bt_destroy. */
bool tt_record_end(struct tt_recorder *recorder, struct tt_totals *totals, struct tt_error *err);

/* ---- Replaying ---- */

struct tt_replay_options {
    u64 cache_bytes;       /* 0: as recorded */
    bool verify;           /* Capstone checks each unit */
    unsigned stage_repeat; /* >0: measure each stage, by so many repetitions of each unit */
    /* Called for each unit made, if not NULL: its record's number among the trace's translate
     * events, and the translator that holds it, to look at with bt_replay_unit. */
    void (*made)(void *opaque, u64 number, struct bt *bt, u32 unit);
    void *opaque;
};
struct tt_replay_result {
    struct tt_totals totals;                         /* of the trace */
    u64 units, guest_insns, guest_bytes, host_bytes; /* made by the replay */
    u64 chains, invalidated;
    u64 flushes, evicted_units; /* because the cache was full here */
    u64 remade_units;           /* made again because they were used after such a flush */
    u64 differing;  /* units that came out with other instructions or bytes than recorded */
    u64 unmatched;  /* events that found no branch: a different translator recorded */
    u64 peak_bytes; /* of the cache in use */
    u64 image_hash; /* XXH64 over the cache images at each flush and at the end */
    u64 cycles;     /* TSC, of translating, linking, dropping: all but reading */
    u64 link_cycles;
    u64 stage_cycles[BT_STAGE_COUNT]; /* link is link_cycles and what translation spends beside
                                         these */
};
/* Replays a whole trace. False with *err filled. */
bool tt_replay(const char *path, const struct tt_replay_options *options,
               struct tt_replay_result *result, struct tt_error *err);

/* The same from memory, for benchmarks: everything read and checked beforehand, so that a pass is
 * translator's work alone. */
struct tt_script;
struct tt_script *tt_script_load(const char *path, struct tt_error *err);
bool tt_script_run(const struct tt_script *script, const struct tt_replay_options *options,
                   struct tt_replay_result *result, struct tt_error *err);
const struct tt_header *tt_script_header(const struct tt_script *script);
void tt_script_free(struct tt_script *script);

#endif
