/*
 * log_hosted.c: the monitor's words in a Linux process: standard error, and a file for the trace.
 */
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

static FILE *trace_stream; /* NULL: stderr */

void log_sink(const char *text, size_t bytes) {
    fwrite(text, 1, bytes, stderr);
}

void trace_sink(const char *text, size_t bytes) {
    fwrite(text, 1, bytes, trace_stream ? trace_stream : stderr);
}

void trace_sink_flush(void) {
    if (trace_stream)
        fflush(trace_stream);
}

bool trace_open(const char *path) {
    FILE *f = NULL;
    if (path) {
        f = fopen(path, "w");
        if (!f)
            return false;
    }
    if (trace_stream)
        fclose(trace_stream);
    trace_stream = f;
    return true;
}

void log_backtrace(void) {
    /* the monitor's crash hook walks through translated frames, too */
}

_Noreturn void log_end(void) {
    abort();
}
