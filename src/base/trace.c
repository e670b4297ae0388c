/*
 * trace.c: one trace line, from anywhere. Light callouts run while the guest's x87 and SSE state is
 * in the host's registers, and libc uses those: so the state is put aside around the printing. This
 * file is compiled for general registers only. Also the address filter (-dfilter).
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdlib.h>

void trace_printf(const char *fmt, ...) {
    _Alignas(16) u8 fx[512];
    u32 mxcsr = 0x1f80;
    va_list ap;
    __asm__ volatile("fxsave64 %0; fninit; ldmxcsr %1" : "=m"(fx) : "m"(mxcsr));
    va_start(ap, fmt);
    trace_vprintf(fmt, ap);
    va_end(ap);
    __asm__ volatile("fxrstor64 %0" : : "m"(fx));
}

/* ---- -dfilter ---- */

#define MAX_RANGES 32
static struct { u64 first, last; } ranges[MAX_RANGES];
static unsigned range_count; /* 0: everything is wanted */

/* START..END, START+BYTES or START-BYTES: see QEMU's manual, option -dfilter. */
static bool parse_range(const char *text, char **end, u64 *first, u64 *last) {
    u64 start = strtoull(text, end, 0);
    if (*end == text)
        return false;
    char kind = **end;
    bool interval = !strncmp(*end, "..", 2);
    if (!interval && kind != '+' && kind != '-')
        return false;
    const char *second_text = *end + (interval ? 2 : 1);
    u64 second = strtoull(second_text, end, 0);
    if (*end == second_text || (!interval && second == 0))
        return false;
    *first = kind == '-' ? start - (second - 1) : start;
    *last = interval ? second : kind == '+' ? start + (second - 1) : start;
    return *first <= *last;
}

bool trace_filter_parse(const char *list) {
    unsigned count = 0;
    while (*list) {
        char *end;
        if (count == MAX_RANGES ||
            !parse_range(list, &end, &ranges[count].first, &ranges[count].last) ||
            (*end && *end != ','))
            return false;
        count++;
        list = end + (*end == ',');
    }
    range_count = count;
    return count > 0;
}

bool trace_wants(u64 address, u64 bytes) {
    for (unsigned i = 0; i < range_count; i++)
        if (address <= ranges[i].last && ranges[i].first < address + bytes)
            return true;
    return range_count == 0;
}
