/*
 * parse.c: from what the nanobenchmark kernel and -stats json print to numbers with a spread.
 */
#include "study/study_internal.h"

#include <math.h>
#include <stdlib.h>

static bool take_u32(const char **p, u32 *out) {
    u64 value = 0;
    const char *start = *p;
    for (; **p >= '0' && **p <= '9'; ++*p) {
        value = value * 10 + (u64)(**p - '0');
        if (value > UINT32_MAX)
            return false;
    }
    *out = (u32)value;
    return *p > start;
}

bool study_parse_row(const char *line, char name[32], struct study_batch *batch, unsigned *count) {
    if (strncmp(line, "row ", 4))
        return false;
    const char *p = line + 4;
    size_t chars = strcspn(p, " \r\n");
    if (!chars || chars >= 32)
        return false;
    memcpy(name, p, chars);
    name[chars] = 0;
    p += chars;
    for (*count = 0; *p == ' '; ++*count) {
        struct study_batch b;
        if (*count == STUDY_MAX_BATCHES)
            return false;
        p++;
        if (!take_u32(&p, &b.ticks) || *p++ != '/' || !take_u32(&p, &b.operations))
            return false;
        batch[*count] = b;
    }
    return *count > 0 && (*p == '\n' || *p == '\r' || !*p);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double study_median(const double *value, unsigned count) {
    double sorted[64];
    if (!count)
        return 0;
    count = MIN(count, (unsigned)ARRAY_LEN(sorted));
    memcpy(sorted, value, count * sizeof *value);
    qsort(sorted, count, sizeof *sorted, compare);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

void study_summarize(const struct study_batch *batch, unsigned count, double divisor,
                     struct study_sample *out) {
    double distance[STUDY_MAX_BATCHES];
    *out = (struct study_sample){0};
    for (unsigned i = 0; i < count && i < STUDY_MAX_BATCHES; i++) {
        out->operations += batch[i].operations;
        if (!batch[i].operations || !batch[i].ticks || batch[i].ticks >> 31)
            continue;
        out->value[out->count++] = batch[i].ticks / divisor / batch[i].operations;
    }
    if (!out->count)
        return;
    out->median = study_median(out->value, out->count);
    out->least = out->most = out->value[0];
    for (unsigned i = 0; i < out->count; i++) {
        out->least = MIN(out->least, out->value[i]);
        out->most = MAX(out->most, out->value[i]);
        distance[i] = fabs(out->value[i] - out->median);
    }
    out->mad = study_median(distance, out->count);
}

bool study_json_next(const char **at, char name[48], double *value) {
    for (;;) {
        const char *start = strchr(*at, '"');
        const char *end = start ? strchr(start + 1, '"') : NULL;
        if (!end)
            return false;
        size_t chars = (size_t)(end - start - 1);
        char *stop;
        *at = end + 1;
        if (end[1] != ':' || chars >= 48)
            continue;
        *value = strtod(end + 2, &stop);
        if (stop == end + 2)
            continue;
        memcpy(name, start + 1, chars);
        name[chars] = 0;
        *at = stop;
        return true;
    }
}

bool study_json_number(const char *json, const char *name, double *out) {
    char found[48];
    double value;
    while (study_json_next(&json, found, &value))
        if (!strcmp(found, name)) {
            *out = value;
            return true;
        }
    return false;
}
