/*
 * output.c: the same results for programs: study.json and study.csv, and a chart, study.svg, which
 * gnuplot draws.
 */
#include "study/study_internal.h"

#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

FILE *study_create(const struct study *s, const char *name) {
    char path[4200];
    if (mkdir(s->config.directory, 0777) && errno != EEXIST) {
        log_error("study: could not make the directory '%s': %s", s->config.directory,
                  strerror(errno));
        return NULL;
    }
    snprintf(path, sizeof path, "%s/%s", s->config.directory, name);
    FILE *f = fopen(path, "we");
    if (!f)
        log_error("study: could not write '%s': %s", path, strerror(errno));
    return f;
}

static bool close_written(const struct study *s, FILE *f, const char *name) {
    bool bad = ferror(f);
    if (!fclose(f) && !bad)
        return true;
    log_error("study: could not write '%s/%s': %s", s->config.directory, name, strerror(errno));
    return false;
}

/* ---- JSON ---- */

static void put_string(FILE *f, const char *text) {
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', f);
        if ((unsigned char)*text >= ' ')
            fputc(*text, f);
    }
    fputc('"', f);
}

static void put_cell(FILE *f, const struct study_cell *c) {
    fprintf(f, "{\"median\": %.3f, \"mad\": %.3f, \"min\": %.3f, \"max\": %.3f, \"batches\": [",
            c->sample.median, c->sample.mad, c->sample.least, c->sample.most);
    for (unsigned i = 0; i < c->sample.count; i++)
        fprintf(f, "%s%.3f", i ? ", " : "", c->sample.value[i]);
    fprintf(f, "]");
    if (c->counted) {
        fprintf(f, ", \"exits\": %.4f, \"reasons\": {", c->exits);
        for (unsigned i = 0; i < c->reasons; i++)
            fprintf(f, "%s\"%s\": %.4f", i ? ", " : "", c->reason[i].name,
                    c->reason[i].per_operation);
        fprintf(f, "}");
    }
    fprintf(f, "}");
}

static void put_engines(const struct study *s, FILE *f) {
    const char *comma = "";
    fprintf(f, "\"engines\": {");
    for (int e = 0; e < ENGINE_COUNT; e++) {
        const struct study_column *c = &s->column[e];
        if (!c->wanted)
            continue;
        fprintf(f, "%s\n  \"%s\": {\"unit\": \"%s\", \"why_empty\": ", comma, study_engine_name[e],
                study_engine_unit(e));
        put_string(f, c->why);
        if (c->tsc_ratio > 0)
            fprintf(f, ", \"guest_tsc_to_host_tsc\": %.4f", c->tsc_ratio);
        fprintf(f, "}");
        comma = ",";
    }
    fprintf(f, "},\n");
}

static void put_published(const struct study *s, unsigned row, FILE *f) {
    static const char *const verdict[] = {"", "ahead", "behind", "behind, as is a signal alone"};
    const struct study_published *p = &study_rows[row].published;
    fprintf(f, ", \"published\": {\"name\": \"%s\"", p->name);
    if (p->native)
        fprintf(f, ", \"native\": %g", p->native);
    fprintf(f, ", \"software\": %g, \"software_is_beyond_native\": %s", p->software,
            p->beyond_native ? "true" : "false");
    if (p->hardware)
        fprintf(f, ", \"hardware\": %g", p->hardware);
    fprintf(f, "}, \"bar\": %.1f, \"bt_is\": \"%s\"", study_bar(s, row),
            verdict[study_judge(s, row)]);
}

static void put_row(const struct study *s, unsigned row, FILE *f) {
    const char *comma = "";
    fprintf(f, "  {\"row\": \"%s\", \"operation\": ", study_rows[row].name);
    put_string(f, study_rows[row].operation);
    if (study_rows[row].native_is) {
        fprintf(f, ", \"native_is\": ");
        put_string(f, study_rows[row].native_is);
    }
    if (study_rows[row].published.name)
        put_published(s, row, f);
    fprintf(f, ", \"cells\": {");
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->column[e].wanted && s->column[e].cell[row].sample.count) {
            fprintf(f, "%s\"%s\": ", comma, study_engine_name[e]);
            put_cell(f, &s->column[e].cell[row]);
            comma = ", ";
        }
    fprintf(f, "}}");
}

static bool write_json(const struct study *s) {
    FILE *f = study_create(s, "study.json");
    const char *comma = "";
    if (!f)
        return false;
    fprintf(f,
            "{\"ringfold\": \"%s\", \"tsc_hz\": %.0f, \"signal_round_trip\": %.1f, "
            "\"batches\": %u,\n",
            RINGFOLD_VERSION, s->tsc_hz, s->signal_cycles, s->batches);
    put_engines(s, f);
    fprintf(f, "\"rows\": [\n");
    for (unsigned i = 0; i < study_row_count; i++)
        if (s->config.wanted_row[i]) {
            fprintf(f, "%s", comma);
            put_row(s, i, f);
            comma = ",\n";
        }
    fprintf(f, "\n]}\n");
    return close_written(s, f, "study.json");
}

/* ---- CSV ---- */

static void put_published_lines(const struct study_row *row, FILE *f) {
    const struct study_published *p = &row->published;
    const char *plus = p->beyond_native ? "cycles beyond native" : "cycles";
    if (p->native)
        fprintf(f, "%s,published native,cycles,%g,,,,,\n", row->name, p->native);
    if (p->software)
        fprintf(f, "%s,published software,%s,%g,,,,,\n", row->name, plus, p->software);
    if (p->hardware)
        fprintf(f, "%s,published hardware,cycles,%g,,,,,\n", row->name, p->hardware);
}

static bool write_csv(const struct study *s) {
    FILE *f = study_create(s, "study.csv");
    if (!f)
        return false;
    fprintf(f, "row,engine,unit,median,mad,min,max,batches,exits\n");
    for (unsigned i = 0; i < study_row_count; i++) {
        for (int e = 0; s->config.wanted_row[i] && e < ENGINE_COUNT; e++) {
            const struct study_cell *c = &s->column[e].cell[i];
            if (!s->column[e].wanted || !c->sample.count)
                continue;
            fprintf(f, "%s,%s,%s,%.3f,%.3f,%.3f,%.3f,%u,", study_rows[i].name, study_engine_name[e],
                    study_engine_unit(e), c->sample.median, c->sample.mad, c->sample.least,
                    c->sample.most, c->sample.count);
            if (c->counted)
                fprintf(f, "%.4f", c->exits);
            fprintf(f, "\n");
        }
        if (s->config.wanted_row[i] && study_rows[i].published.name)
            put_published_lines(&study_rows[i], f);
    }
    return close_written(s, f, "study.csv");
}

/* ---- The chart ---- */

static bool in_chart(const struct study *s, int e) {
    bool any = false;
    for (unsigned i = 0; s->column[e].wanted && i < study_row_count; i++)
        any |= s->column[e].cell[i].sample.count > 0;
    return any && e != ENGINE_METAL; /* instructions are not cycles */
}

static void put_chart_data(const struct study *s, FILE *f) {
    fprintf(f, "$study << END\n");
    for (unsigned i = 0; i < study_row_count; i++) {
        if (!s->config.wanted_row[i])
            continue;
        fprintf(f, "\"%s\"", study_rows[i].name);
        for (int e = 0; e < ENGINE_COUNT; e++)
            if (in_chart(s, e) && s->column[e].cell[i].sample.count)
                fprintf(f, " %.3f", s->column[e].cell[i].sample.median);
            else if (in_chart(s, e))
                fprintf(f, " NaN");
        if (study_bar(s, i))
            fprintf(f, " %.3f\n", study_bar(s, i));
        else
            fprintf(f, " NaN\n");
    }
    fprintf(f, "END\n");
}

/* Column by column. gnuplot takes none that is empty. */
static void put_chart(const struct study *s, FILE *f) {
    unsigned column = 2;
    const char *plot = "plot";
    bool published = false;
    for (unsigned i = 0; i < study_row_count; i++)
        published |= s->config.wanted_row[i] && study_bar(s, i);
    fprintf(f, "set terminal svg size 1600,700 noenhanced\n"
               "set title 'cycles per operation (medians)'\n"
               "set logscale y\nset grid ytics\nset key top left horizontal\n"
               "set style data histogram\nset style histogram cluster gap 1\n"
               "set style fill solid 0.8\nset boxwidth 0.9\nset xtics rotate by 45 right\n"
               "set ylabel 'cycles'\nset yrange [0.1:*]\n");
    put_chart_data(s, f);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (in_chart(s, e)) {
            fprintf(f, "%s $study using %u:xtic(1) title '%s'", plot, column, study_engine_name[e]);
            plot = ",";
            column++;
        }
    if (published)
        fprintf(f, "%s $study using %u:xtic(1) title 'software VMM of 2006' lc rgb 'gray'", plot,
                column);
    fprintf(f, "\n");
}

struct chart {
    const struct study *s;
    FILE *script;
};

static void draw(void *opaque) {
    const struct chart *chart = opaque;
    rewind(chart->script);
    if (dup2(fileno(chart->script), 0) < 0)
        _exit(127);
    execlp("gnuplot", "gnuplot", "-", NULL);
    _exit(127);
}

static bool write_svg(const struct study *s) {
    struct child_result r;
    bool any = false;
    for (int e = 0; e < ENGINE_COUNT; e++)
        any |= in_chart(s, e);
    if (!any) {
        printf("no chart: there are no cycles to draw\n");
        return true;
    }
    struct chart chart = {s, tmpfile()};
    if (!chart.script) {
        log_error("study: no temporary file for gnuplot: %s", strerror(errno));
        return false;
    }
    put_chart(s, chart.script);
    fflush(chart.script);
    bool ok = child_call(draw, &chart, 60, &r);
    fclose(chart.script);
    if (!ok) {
        log_error("study: could not start gnuplot: %s", strerror(errno));
        return false;
    }
    if (r.status == 127) {
        printf("no chart: gnuplot is not there (package gnuplot-nox)\n");
    } else if (r.status || r.timed_out || !strstr(r.out, "</svg>")) {
        log_error("study: gnuplot ended with status %d: %.120s", r.status, r.err);
        ok = false;
    } else {
        FILE *f = study_create(s, "study.svg");
        ok = f && fputs(r.out, f) >= 0;
        ok = f && close_written(s, f, "study.svg") && ok;
    }
    child_free(&r);
    return ok;
}

/* A chart of an earlier run beside numbers of this one would be a lie. */
static void remove_old_chart(const struct study *s) {
    char path[4200];
    snprintf(path, sizeof path, "%s/study.svg", s->config.directory);
    unlink(path);
}

bool study_write(const struct study *s) {
    remove_old_chart(s);
    return write_json(s) && write_csv(s) && write_svg(s);
}
