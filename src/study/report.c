/*
 * report.c: the table for people: a line per row, a column per engine, beside them what Adams and
 * Agesen published, and below it why a column is empty.
 */
#include "study/study_internal.h"

#include <math.h>

enum { NAME_CHARS = 17, CELL_CHARS = 9 };
static const double NOISY = 0.2;     /* of the median */
static const double SAME_TSC = 0.05; /* of the host's, or a line says that cycles are not cycles */

const char *study_number(double value, char text[24]) {
    if (value < 0 || !isfinite(value))
        return "-";
    snprintf(text, 24, "%.*f", value < 99.95 ? 1 : 0, value);
    return text;
}

/* Both ways into the kernel are held against the host's own SYSCALL, the cheaper one. */
static double native_system_call(const struct study *s) {
    int row = study_row_index("sysenter", strlen("sysenter"));
    return s->column[ENGINE_NATIVE].cell[row].sample.median;
}

double study_bar(const struct study *s, unsigned row) {
    const struct study_published *p = &study_rows[row].published;
    return p->software + (p->beyond_native ? native_system_call(s) : 0);
}

enum study_verdict study_judge(const struct study *s, unsigned row) {
    const struct study_sample *bt = &s->column[ENGINE_BT].cell[row].sample;
    double bar = study_bar(s, row);
    if (!bar || !bt->count)
        return VERDICT_NONE;
    if (bt->median < bar)
        return VERDICT_AHEAD;
    return study_rows[row].signal_floor && s->signal_cycles > bar ? VERDICT_FLOOR : VERDICT_BEHIND;
}

/* Batches that disagree so much that the median may be noise. */
bool study_is_noisy(const struct study_sample *s) {
    return s->count > 1 && s->mad > NOISY * s->median;
}

static void put_sample(FILE *f, const struct study_sample *s) {
    char text[24];
    fprintf(f, " %*s%s", CELL_CHARS - 1, s->count ? study_number(s->median, text) : "-",
            study_is_noisy(s) ? "~" : " ");
}

static void put_exits(FILE *f, const struct study_cell *c) {
    char text[24];
    fprintf(f, " %*s", CELL_CHARS, c->counted ? study_number(c->exits, text) : "-");
}

static void print_heads(const struct study *s, FILE *f) {
    fprintf(f, "%-*s", NAME_CHARS, "");
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted)
            fprintf(f, " %*s ", CELL_CHARS - 1, e == ENGINE_METAL ? "(insns)" : "");
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted && (e == ENGINE_BT || e == ENGINE_KVM))
            fprintf(f, " %*s", CELL_CHARS, "exits of");
    fprintf(f, " | Adams & Agesen, ASPLOS 2006\n%-*s", NAME_CHARS, "row");
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted)
            fprintf(f, " %*s ", CELL_CHARS - 1, study_engine_name[e]);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted && (e == ENGINE_BT || e == ENGINE_KVM))
            fprintf(f, " %*s", CELL_CHARS, study_engine_name[e]);
    fprintf(f, " | %-8s %8s %8s %8s  %s\n", "", "native", "software", "hardware", "bt is");
}

static void print_published(const struct study *s, unsigned row, FILE *f) {
    const struct study_published *p = &study_rows[row].published;
    char text[3][24];
    static const char *const verdict[] = {"", "ahead", "behind", "behind: the host's signal"};
    const double value[3] = {p->native, p->software, p->hardware};
    if (!p->name) {
        fprintf(f, " |");
        return;
    }
    fprintf(f, " | %-8s", p->name);
    for (int i = 0; i < 3; i++) {
        if (!value[i])
            snprintf(text[i], sizeof text[i], "%s", p->beyond_native ? "n" : "-");
        else
            snprintf(text[i], sizeof text[i], "%s%.0f", p->beyond_native ? "n+" : "", value[i]);
        fprintf(f, " %8s", text[i]);
    }
    fprintf(f, "  %s", verdict[study_judge(s, row)]);
}

static void print_row(const struct study *s, unsigned row, FILE *f) {
    fprintf(f, "%-*s", NAME_CHARS, study_rows[row].name);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted)
            put_sample(f, &s->column[e].cell[row].sample);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted && (e == ENGINE_BT || e == ENGINE_KVM))
            put_exits(f, &s->column[e].cell[row]);
    print_published(s, row, f);
    fprintf(f, "\n");
}

static void print_notes(const struct study *s, FILE *f) {
    const char *comma = "";
    for (int e = 0; e < ENGINE_COUNT; e++) {
        const struct study_column *c = &s->column[e];
        if (c->wanted && c->why[0])
            fprintf(f, "%s: %s\n", study_engine_name[e], c->why);
        if (c->wanted && c->tsc_ratio > 0 && fabs(c->tsc_ratio - 1) > SAME_TSC)
            fprintf(f, "%s: the guest's TSC ran at %.2f times the host's: not quite cycles\n",
                    study_engine_name[e], c->tsc_ratio);
    }
    for (unsigned i = 0; s->column[ENGINE_NATIVE].wanted && i < study_row_count; i++)
        if (s->config.wanted_row[i] && study_rows[i].native_is) {
            fprintf(f, "%s%s: %s", *comma ? comma : "native: ", study_rows[i].name,
                    study_rows[i].native_is);
            comma = "; ";
        }
    fprintf(f, "%s", *comma ? "\n" : "");
    if (s->signal_cycles > 0)
        fprintf(f,
                "a SIGSEGV to its handler and back costs this host %.0f cycles: less is not to be "
                "had under bt for true_fault and div_zero\n",
                s->signal_cycles);
    fprintf(f, "published: cycles of their machine; n: native (SYSCALL getppid here); their cr8wr "
               "(140, 35, "
               "native) has no row, for 32-bit mode has no CR8\n");
}

void study_print_table(const struct study *s, FILE *f) {
    fprintf(f,
            "cycles per operation, median of %u batches (~: they differ much); TSC at %.0f MHz\n",
            s->batches, s->tsc_hz / 1e6);
    print_heads(s, f);
    for (unsigned i = 0; i < study_row_count; i++)
        if (s->config.wanted_row[i])
            print_row(s, i, f);
    print_notes(s, f);
}
