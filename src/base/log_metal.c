/*
 * log_metal.c: the monitor's words on the bare machine: all of them, the trace too, go to its
 * console, whose lines end in CR and LF.
 */
#include "base/log.h"
#include "metal/metal.h"

#include <errno.h>

/* As metal_fatal's: the monitor itself failed. */
#define FAILURE_STATUS 1
#define MAX_FRAMES 64

void log_sink(const char *text, size_t bytes) {
    const char *end = text + bytes;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *stop = newline ? newline : end;
        metal_console_write(text, (size_t)(stop - text));
        if (newline)
            metal_console_write("\r\n", 2);
        text = stop + (newline != NULL);
    }
}

void trace_sink(const char *text, size_t bytes) {
    log_sink(text, bytes);
}

void trace_sink_flush(void) {
    /* nothing is held back */
}

/* There are no files: only the console can be chosen. */
bool trace_open(const char *path) {
    errno = ENOENT;
    return !path;
}

void log_backtrace(void) {
    u64 pc[MAX_FRAMES];
    unsigned frames = metal_backtrace((u64)__builtin_frame_address(0), pc, ARRAY_LEN(pc));
    log_printf("monitor backtrace:\n");
    for (unsigned i = 0; i < frames; i++) {
        char name[128];
        metal_symbol(pc[i] - 1, name, sizeof name); /* the call, not what follows it */
        log_printf("  #%-2u %016llx %s\n", i, (unsigned long long)pc[i], name);
    }
}

_Noreturn void log_end(void) {
    metal_power_off(FAILURE_STATUS);
}
