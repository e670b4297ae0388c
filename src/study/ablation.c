/*
 * ablation.c: what each mechanism is worth: the same rows with one of them off at a time, as ratios
 * to all of them on. A mechanism of which this ringfold knows no switch has no column.
 */
#include "study/study_internal.h"

static const struct mechanism {
    const char *option;
    enum study_engine engine;
} mechanisms[] = {
    {"-no-chain", ENGINE_BT}, {"-no-retstack", ENGINE_BT},  {"-no-icache", ENGINE_BT},
    {"-no-adapt", ENGINE_BT}, {"-no-foresight", ENGINE_BT}, {"-no-selfcheck", ENGINE_BT},
    {"-no-light", ENGINE_BT}, {"-no-direct", ENGINE_METAL},
};

struct ablation {
    struct {
        const struct mechanism *mechanism;
        struct study_sample sample[STUDY_MAX_ROWS];
        bool ran;
    } column[ARRAY_LEN(mechanisms)];
    unsigned columns;
};

/* 0: not known. */
static double ratio(const struct study *s, const struct ablation *a, unsigned column,
                    unsigned row) {
    enum study_engine e = a->column[column].mechanism->engine;
    const struct study_sample *on = &s->column[e].cell[row].sample;
    const struct study_sample *off = &a->column[column].sample[row];
    return on->count && off->count && on->median > 0 ? off->median / on->median : 0;
}

static bool noisy(const struct study *s, const struct ablation *a, unsigned column, unsigned row) {
    return study_is_noisy(&a->column[column].sample[row]) ||
           study_is_noisy(&s->column[a->column[column].mechanism->engine].cell[row].sample);
}

static void measure(struct study *s, struct ablation *a) {
    for (unsigned i = 0; i < ARRAY_LEN(mechanisms); i++) {
        const struct mechanism *m = &mechanisms[i];
        if (!s->config.wanted_engine[m->engine] || study_unavailable(s, m->engine) ||
            !study_has_option(s, m->option))
            continue;
        a->column[a->columns].mechanism = m;
        a->column[a->columns].ran =
            study_run_with_option(s, m->engine, m->option, a->column[a->columns].sample);
        a->columns++;
    }
}

static void print_table(const struct study *s, const struct ablation *a) {
    char text[24];
    printf("%-17s %9s %9s", "row", "bt", "metal");
    for (unsigned c = 0; c < a->columns; c++)
        printf(" %13s", a->column[c].mechanism->option);
    printf("\n");
    for (unsigned i = 0; i < study_row_count; i++) {
        if (!s->config.wanted_row[i])
            continue;
        printf("%-17s", study_rows[i].name);
        for (int metal = 0; metal < 2; metal++) {
            const struct study_sample *on =
                &s->column[metal ? ENGINE_METAL : ENGINE_BT].cell[i].sample;
            printf(" %9s", on->count ? study_number(on->median, text) : "-");
        }
        for (unsigned c = 0; c < a->columns; c++) {
            double r = ratio(s, a, c, i);
            if (r > 0)
                printf(" %12.2f%s", r, noisy(s, a, c, i) ? "~" : " ");
            else
                printf(" %13s", "-");
        }
        printf("\n");
    }
    printf("bt: cycles, metal: instructions, all mechanisms on; then times that, without one "
           "(~: batches differ much). -no-direct is of metal\n");
    for (unsigned c = 0; c < a->columns; c++)
        if (!a->column[c].ran)
            printf("%s: the machine did not come through\n", a->column[c].mechanism->option);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted && s->column[e].why[0])
            printf("%s: %s\n", study_engine_name[e], s->column[e].why);
}

static bool write_csv(const struct study *s, const struct ablation *a) {
    FILE *f = study_create(s, "ablation.csv");
    if (!f)
        return false;
    fprintf(f, "row,engine,unit,off,median,all_on,ratio\n");
    for (unsigned c = 0; c < a->columns; c++)
        for (unsigned i = 0; i < study_row_count; i++) {
            enum study_engine e = a->column[c].mechanism->engine;
            double r = ratio(s, a, c, i);
            if (r > 0)
                fprintf(f, "%s,%s,%s,%s,%.3f,%.3f,%.4f\n", study_rows[i].name, study_engine_name[e],
                        study_engine_unit(e), a->column[c].mechanism->option + 1,
                        a->column[c].sample[i].median, s->column[e].cell[i].sample.median, r);
        }
    bool bad = ferror(f);
    if (!fclose(f) && !bad)
        return true;
    log_error("study: could not write '%s/ablation.csv'", s->config.directory);
    return false;
}

int study_ablation(struct study *s) {
    struct ablation a = {0};
    const enum study_engine base[] = {ENGINE_BT, ENGINE_METAL};
    for (unsigned i = 0; i < ARRAY_LEN(base); i++)
        if (s->config.wanted_engine[base[i]])
            study_run_engine(s, base[i]);
    measure(s, &a);
    print_table(s, &a);
    return write_csv(s, &a) ? 0 : 1;
}
