/*
 * survey.h: a whole trace as a table of units, for those who ask about it.
 */
#ifndef RINGFOLD_TRACE_SURVEY_H
#define RINGFOLD_TRACE_SURVEY_H

#include "trace/trace.h"

/* All translations of the same code at the same place and privilege. */
struct survey_unit {
    u64 code_hash; /* XXH3 of the bytes that the unit consists of */
    u32 eip;
    u8 cpl;
    u16 insns, guest_bytes;
    u32 host_bytes; /* of the last one */
    u32 code_id;
    u64 first; /* its first translation's number in the trace */
    u64 made;  /* translations */
    u64 count; /* executions seen or counted */
};

struct survey {
    struct tt_reader *reader; /* read to its end */
    const struct tt_header *header;
    const struct tt_totals *totals;
    u64 causes[BT_EVENT_COUNT][BT_CAUSE_COUNT];
    u64 counted;              /* executions in all */
    struct survey_unit *unit; /* in the order of eip, cpl, code_hash */
    u64 units;
};

/* False with *err filled. */
bool survey_make(struct survey *s, const char *path, struct tt_error *err);
void survey_free(struct survey *s);

/* Orders for qsort: most executed instructions first; by key. */
int survey_by_heat(const void *a, const void *b);
int survey_by_key(const void *a, const void *b);

#endif
