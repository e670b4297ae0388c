/*
 * recorder.c: writes what hear.c heard, between the translator's runs.
 */
#include "trace/recorder.h"

#include <stdlib.h>

static void release(struct tt_recorder *r) {
    free(r->buffer);
    free(r->count);
    free(r);
}

struct tt_recorder *tt_record(struct bt *bt, const char *path, const struct tt_header *header,
                              struct tt_error *err) {
    struct tt_recorder *r = calloc(1, sizeof *r);
    if (r) {
        r->bt = bt;
        r->count_capacity = (u32)(header->config.cache_bytes / 16);
        r->buffer = malloc(HEARD_BYTES);
        r->count = calloc(r->count_capacity, sizeof *r->count);
    }
    if (!r || !r->buffer || !r->count) {
        tt_fail(err, "no memory to record '%s'", path);
    } else {
        r->writer = tt_writer_open(path, header, err);
        if (r->writer) {
            r->before = *bt_counters(bt);
            bt_observe(bt, tt_hear, r);
            return r;
        }
    }
    if (r)
        release(r);
    return NULL;
}

static void write_all(struct tt_recorder *r) {
    for (u64 at = 0; at < r->used;) {
        struct heard *h = (struct heard *)(r->buffer + at);
        at += h->bytes;
        if (h->is_counts) {
            tt_write_counts(r->writer, (const struct tt_count *)h->payload, h->counts);
            continue;
        }
        if (h->event.context) {
            h->context.code = h->payload;
            h->context.code2 = h->payload + h->context.code_bytes;
            h->event.context = &h->context;
        }
        tt_write_event(r->writer, &h->event);
    }
    r->used = 0;
}

void tt_record_drain(struct tt_recorder *r) {
    if (r->used > DRAIN_AT_BYTES)
        write_all(r);
}

void tt_record_sample_sigsafe(struct tt_recorder *r, u64 pc) {
    struct bt_unit_info unit;
    if (bt_unit_at(r->bt, pc, &unit) && (u32)unit.id < r->count_capacity)
        r->count[(u32)unit.id]++;
}

bool tt_record_end(struct tt_recorder *r, struct tt_totals *totals, struct tt_error *err) {
    bt_unobserve(r->bt, tt_hear, r);
    tt_hear_counts(r);
    write_all(r);
    tt_write_counters(r->writer, &r->before, bt_counters(r->bt));
    bool lost = r->lost;
    bool ok = tt_writer_close(r->writer, totals, err);
    release(r);
    if (ok && lost)
        return tt_fail(err, "the trace is not complete: more events at once than its buffer holds");
    return ok;
}
