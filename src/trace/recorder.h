/*
 * recorder.h: internal: what the recorder's two halves share: hear.c, which the translator calls,
 * and recorder.c, which writes at leisure.
 */
#ifndef RINGFOLD_TRACE_RECORDER_H
#define RINGFOLD_TRACE_RECORDER_H

#include "trace/trace_internal.h"

enum { HEARD_BYTES = 32 << 20, DRAIN_AT_BYTES = 1 << 20 };

/* One entry of the buffer. */
struct heard {
    u32 bytes; /* of the whole entry */
    bool is_counts;
    u32 counts;
    struct bt_event event;
    struct bt_context context;
    _Alignas(8) u8 payload[]; /* guest code, or struct tt_count */
};

struct tt_recorder {
    struct bt *bt;
    struct tt_writer *writer;
    u8 *buffer;
    u64 used;
    struct bt_counters before;
    bool lost;  /* the buffer was full: what is in the file is not the whole */
    u64 *count; /* executions, by unit */
    u32 count_capacity;
    u32 units; /* made since the last flush */
};

/* The observer. */
void tt_hear(void *opaque, const struct bt_event *event);
/* Notes the executions since the last flush and starts anew. */
void tt_hear_counts(struct tt_recorder *recorder);

#endif
