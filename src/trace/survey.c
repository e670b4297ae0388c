/*
 * survey.c: reads a trace to its end and sums up by unit.
 */
#include "trace/survey.h"
#include "trace/trace_internal.h"

#include <stdlib.h>
#include <xxhash.h>

struct reading {
    struct survey *s;
    u64 capacity;
    u64 generation; /* index of the first unit made after the last flush */
};

int survey_by_key(const void *a, const void *b) {
    const struct survey_unit *x = a, *y = b;
    if (x->eip != y->eip)
        return x->eip < y->eip ? -1 : 1;
    if (x->cpl != y->cpl)
        return x->cpl < y->cpl ? -1 : 1;
    return x->code_hash < y->code_hash ? -1 : x->code_hash > y->code_hash;
}

int survey_by_heat(const void *a, const void *b) {
    const struct survey_unit *x = a, *y = b;
    u64 hx = x->count * x->insns, hy = y->count * y->insns;
    return hx > hy ? -1 : hx < hy ? 1 : survey_by_key(a, b);
}

static bool add(struct reading *r, const struct tt_record *record, struct tt_error *err) {
    struct survey *s = r->s;
    if (s->units == r->capacity) {
        u64 capacity = MAX(r->capacity * 2, (u64)4096);
        struct survey_unit *more = realloc(s->unit, capacity * sizeof *more);
        if (!more)
            return tt_fail(err, "no memory for the trace");
        s->unit = more;
        r->capacity = capacity;
    }
    const struct bt_event *e = &record->event;
    u32 bytes = MIN((u32)e->guest_bytes, e->context->code_bytes);
    s->unit[s->units] = (struct survey_unit){.code_hash = XXH3_64bits(e->context->code, bytes),
                                             .eip = e->context->eip,
                                             .cpl = e->context->cpl,
                                             .insns = e->insns,
                                             .guest_bytes = e->guest_bytes,
                                             .host_bytes = e->host_bytes,
                                             .code_id = record->code_id,
                                             .first = s->units,
                                             .made = 1};
    s->units++;
    return true;
}

static void count(struct reading *r, const struct tt_record *record) {
    for (u32 i = 0; i < record->count_count; i++) {
        u64 unit = r->generation + record->counts[i].unit;
        if (unit >= r->s->units)
            continue;
        r->s->unit[unit].count += record->counts[i].count;
        r->s->counted += record->counts[i].count;
    }
}

/* Translations of one thing next to each other become one. */
static void merge(struct survey *s) {
    u64 out = 0;
    qsort(s->unit, s->units, sizeof *s->unit, survey_by_key);
    for (u64 i = 0; i < s->units; i++) {
        struct survey_unit *u = &s->unit[i], *last = out ? &s->unit[out - 1] : NULL;
        if (!last || survey_by_key(last, u)) {
            s->unit[out++] = *u;
            continue;
        }
        last->first = MIN(last->first, u->first);
        last->made += u->made;
        last->count += u->count;
        last->host_bytes = u->host_bytes;
    }
    s->units = out;
}

bool survey_make(struct survey *s, const char *path, struct tt_error *err) {
    struct reading r = {.s = s};
    struct tt_record record;
    *s = (struct survey){.reader = tt_open(path, err)};
    if (!s->reader)
        return false;
    s->header = tt_header(s->reader);
    s->totals = tt_totals(s->reader);
    do {
        if (!tt_next(s->reader, &record, err)) {
            survey_free(s);
            return false;
        }
        if (record.kind == TT_COUNTS)
            count(&r, &record);
        if (record.kind != TT_EVENT)
            continue;
        s->causes[record.event.kind][record.event.cause]++;
        if (record.event.kind == BT_EVENT_translate && !add(&r, &record, err)) {
            survey_free(s);
            return false;
        }
        if (record.event.kind == BT_EVENT_flush)
            r.generation = s->units;
    } while (record.kind != TT_END);
    merge(s);
    return true;
}

void survey_free(struct survey *s) {
    tt_close(s->reader);
    free(s->unit);
    s->reader = NULL;
    s->unit = NULL;
}
