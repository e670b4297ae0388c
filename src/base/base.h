/*
 * base.h: the words every other module speaks: fixed-width integers, kinds of address, status,
 * logging, trace categories and assertions.
 */
#ifndef RINGFOLD_BASE_BASE_H
#define RINGFOLD_BASE_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

/* Kinds of address are different types, wide enough for 64-bit guests. A guest linear address is
 * what segmentation yields and paging consumes; a guest physical address is what paging yields. */
struct glin {
    u64 v;
};
struct gpa {
    u64 v;
};
#define GLIN(x) ((struct glin){(x)})
#define GPA(x) ((struct gpa){(x)})

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096u
#define PAGE_OFFSET_MASK 0xfffu

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define BIT(n) (1u << (n))
#define BIT64(n) (1ull << (n))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALIGN_UP(x, a) (((x) + (a)-1) & ~((u64)(a)-1))

/* Unaligned little-endian loads and stores. */
static inline u16 load16(const void *p) {
    u16 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline u32 load32(const void *p) {
    u32 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline u64 load64(const void *p) {
    u64 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store16(void *p, u16 v) {
    memcpy(p, &v, sizeof v);
}
static inline void store32(void *p, u32 v) {
    memcpy(p, &v, sizeof v);
}
static inline void store64(void *p, u64 v) {
    memcpy(p, &v, sizeof v);
}

/* ---- Trace categories (-d LIST). X(name, help) ---- */
#define TRACE_CATEGORIES(X)                                                                        \
    X(in_asm, "guest code of each translated unit")                                                \
    X(out_asm, "host code of each translated unit, beside its guest code")                         \
    X(int, "interrupts and exceptions delivered to the guest")                                     \
    X(exec, "every unit entered through the dispatcher")                                           \
    X(mmu, "windows, hidden and true faults, revalidation")                                        \
    X(exits, "every exit from translated code with its reason")                                    \
    X(cpu_reset, "CPU state at reset and triple fault")                                            \
    X(guest_errors, "what the guest did wrong to a device or register")                            \
    X(ioport, "port reads and writes")                                                             \
    X(unimp, "what the guest asked for that is not there")                                         \
    X(page, "guest page faults")                                                                   \
    X(nochain,                                                                                     \
      "prints nothing, but lets every unit come from the dispatcher, so that exec is complete")

enum trace_category {
#define X(name, help) TRACE_##name,
    TRACE_CATEGORIES(X)
#undef X
        TRACE_COUNT
};

/* Bit mask of enabled categories: process-wide, written only while options are parsed. */
extern u32 trace_mask;
static inline bool trace_on(enum trace_category c) {
    return unlikely(trace_mask & BIT(c));
}

/* Parses a comma-separated list ("in_asm,int"; "help" lists). Returns false on an unknown name,
 * which is then left in *bad (not owned). */
bool trace_parse(const char *list, const char **bad);
/* Opens the trace file (-D); NULL means stderr. False with errno set on failure, and on metal,
 * where there are no files. */
bool trace_open(const char *path);
/* Writes one formatted piece to the trace stream. May be called with guest x87 and SSE state in the
 * registers, which stays; takes no floating-point arguments. */
void trace_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, for callers that need no such care. */
void trace_vprintf(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));
/* Restricts what happens at a guest address (in_asm, out_asm, exec, exits, int, page, mmu) to a
 * list of ranges: "START..END" (END included), "START+BYTES" or "START-BYTES" (ending at START),
 * separated by commas; 0x for hexadecimal. False when that is not such a list. */
bool trace_filter_parse(const char *list);
/* True when [address, address+bytes) meets one of the ranges, or there are none. */
bool trace_wants(u64 address, u64 bytes);
#define TRACE(cat, ...)                                                                            \
    do {                                                                                           \
        if (trace_on(TRACE_##cat))                                                                 \
            trace_printf(__VA_ARGS__);                                                             \
    } while (0)
/* The same for what happens at a guest address, which the filter must let through. */
#define TRACE_AT(cat, address, ...)                                                                \
    do {                                                                                           \
        if (trace_on(TRACE_##cat) && trace_wants(address, 1))                                      \
            trace_printf(__VA_ARGS__);                                                             \
    } while (0)

/* One line on stderr, prefixed "ringfold: ", newline added. Never exits. */
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What is not one such line (reports, tables), as it is, to the same place. */
void log_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A bug in the monitor: prints the place, runs the crash reporter if one is installed, aborts.
 * No guest input may ever reach it. */
#define RF_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (unlikely(!(cond)))                                                                     \
            rf_assert_fail(#cond, __FILE__, __LINE__);                                             \
    } while (0)
_Noreturn void rf_assert_fail(const char *cond, const char *file, int line);
/* Installed once by the monitor; called with a description before abort(). */
extern void (*rf_crash_hook)(const char *what);

#endif
