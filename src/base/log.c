/*
 * log.c: everything the monitor says that is not the guest speaking: trace lines by category, one-
 * line errors, and the end of the road for a failed assertion.
 *
 * The trace mask is process-wide: options set it once before any VM runs. Where the words go is the
 * substrate's (log.h).
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

/* The longest piece that is written at once; what is longer is cut. */
#define PIECE_CHARS 2048

u32 trace_mask;
void (*rf_crash_hook)(const char *what);

static const struct {
    const char *name, *help;
} trace_names[] = {
#define X(name, help) {#name, help},
    TRACE_CATEGORIES(X)
#undef X
};
_Static_assert(TRACE_COUNT <= 32, "trace_mask holds one bit per category");

static void trace_list(void) {
    for (unsigned i = 0; i < TRACE_COUNT; i++)
        log_printf("%-14s %s\n", trace_names[i].name, trace_names[i].help);
}

static bool trace_find(const char *name, size_t chars, u32 *mask) {
    if (chars == 3 && !strncmp(name, "all", 3)) {
        *mask = (u32)(BIT64(TRACE_COUNT) - 1);
        return true;
    }
    for (unsigned i = 0; i < TRACE_COUNT; i++) {
        if (strlen(trace_names[i].name) == chars && !strncmp(name, trace_names[i].name, chars)) {
            *mask = BIT(i);
            return true;
        }
    }
    return false;
}

bool trace_parse(const char *list, const char **bad) {
    u32 mask = 0;
    for (const char *p = list; *p;) {
        size_t chars = strcspn(p, ",");
        u32 one = 0;
        if (chars == 4 && !strncmp(p, "help", 4)) {
            trace_list();
        } else if (chars && !trace_find(p, chars, &one)) {
            if (bad)
                *bad = p;
            return false;
        }
        mask |= one;
        p += chars;
        if (*p == ',')
            p++;
    }
    trace_mask |= mask;
    return true;
}

void trace_vprintf(const char *fmt, va_list ap) {
    char text[PIECE_CHARS];
    int chars = vsnprintf(text, sizeof text, fmt, ap);
    if (chars > 0)
        trace_sink(text, MIN((size_t)chars, sizeof text - 1));
}

void log_printf(const char *fmt, ...) {
    char text[PIECE_CHARS];
    va_list ap;
    va_start(ap, fmt);
    int chars = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (chars > 0)
        log_sink(text, MIN((size_t)chars, sizeof text - 1));
}

static void log_line(const char *kind, const char *fmt, va_list ap) {
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    log_printf("ringfold: %s%s\n", kind, text);
}

void log_error(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    log_line("", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    log_line("warning: ", fmt, ap);
    va_end(ap);
}

_Noreturn void rf_assert_fail(const char *cond, const char *file, int line) {
    char what[256];
    snprintf(what, sizeof what, "%s:%d: assertion failed: %s", file, line, cond);
    trace_sink_flush();
    log_printf("ringfold: %s\n", what);
    log_backtrace();
    void (*hook)(const char *) = rf_crash_hook;
    rf_crash_hook = NULL; /* a second failure inside the reporter must not recurse */
    if (hook)
        hook(what);
    log_end();
}
