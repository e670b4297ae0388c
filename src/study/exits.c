/*
 * exits.c: exits per operation, exactly: a row runs alone, with one batch and with three; what the
 * counters of -stats json differ by belongs to the two batches more. Starting up, the warm-up batch
 * and printing (only the number of operations) cancel out.
 *
 * For bt an exit is whatever leaves translated code for the monitor's: callouts of all kinds and
 * host faults. For kvm it is an exit of the processor's guest mode to this process.
 */
#include "study/study_internal.h"

#include <stdlib.h>

enum { FEW = 1, MANY = 3 };
static const double LIMIT_S = 10;
static const double WORTH_A_NAME = 0.005; /* per operation */

static bool is_reason(const char *name) {
    return !strncmp(name, "callout.", 8) || !strcmp(name, "bt.faults") ||
           !strncmp(name, "exit.", 5) || !strcmp(name, "io_reads") || !strcmp(name, "io_writes");
}

static double exits_in(const char *json, enum study_engine e) {
    double callouts = 0, faults = 0, exits = 0;
    if (e == ENGINE_KVM)
        return study_json_number(json, "hardware_exits", &exits) ? exits : -1;
    if (!study_json_number(json, "bt.callouts", &callouts) ||
        !study_json_number(json, "bt.faults", &faults))
        return -1;
    return callouts + faults;
}

static int by_frequency(const void *a, const void *b) {
    double x = ((const struct study_reason *)a)->per_operation;
    double y = ((const struct study_reason *)b)->per_operation;
    return (x < y) - (x > y);
}

static void take_reasons(const char *few, const char *many, double operations,
                         struct study_cell *cell) {
    struct study_reason reason;
    double more;
    cell->reasons = 0;
    while (cell->reasons < STUDY_MAX_REASONS && study_json_next(&many, reason.name, &more)) {
        double less = 0;
        if (!is_reason(reason.name))
            continue;
        study_json_number(few, reason.name, &less);
        reason.per_operation = (more - less) / operations;
        if (reason.per_operation >= WORTH_A_NAME)
            cell->reason[cell->reasons++] = reason;
    }
    qsort(cell->reason, cell->reasons, sizeof reason, by_frequency);
}

static void count_row(struct study *s, enum study_engine e, unsigned row) {
    struct study_cell *cell = &s->column[e].cell[row];
    struct child_result r[2] = {0};
    u64 operations[2] = {0};
    unsigned done = study_rows[row].done_per_counted;
    bool ok = true;
    for (unsigned i = 0; i < 2; i++)
        ok = ok && study_run_once(s, e, row, i ? MANY : FEW, LIMIT_S, &operations[i], &r[i]);
    if (ok && operations[1] > operations[0]) {
        double more = (double)(operations[1] - operations[0]) * MAX(done, 1u);
        double few = exits_in(r[0].err, e), many = exits_in(r[1].err, e);
        cell->counted = few >= 0 && many >= few;
        cell->exits = cell->counted ? (many - few) / more : 0;
        take_reasons(r[0].err, r[1].err, more, cell);
    }
    for (unsigned i = 0; i < 2; i++)
        child_free(&r[i]);
}

void study_count_exits(struct study *s, enum study_engine e) {
    if (e != ENGINE_BT && e != ENGINE_KVM)
        return;
    for (unsigned i = 0; i < study_row_count; i++)
        if (s->column[e].cell[i].sample.count)
            count_row(s, e, i);
}
