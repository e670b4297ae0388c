/*
 * libc.c: the floor under the C library. The image links musl for its functions on memory, strings
 * and numbers, which need no operating system; here is what those, Capstone (compiled against
 * glibc, with its checked variants) and the compiler expect beside them. image.ld refuses what
 * would make a system call.
 */
#include "base/log.h"
#include "metal/boot_internal.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- errno: one thread, so no need of TLS ---- */

int *__errno_location(void);
int *___errno_location(void); /* musl's own name for it */
int *__errno_location(void) {
    static int value;
    return &value;
}
int *___errno_location(void) {
    return __errno_location();
}

/* ---- The thread's block ---- */

/* Like musl's struct pthread at its start: its own address, and the canary at 28h where the x86-64
 * ABI's stack protector looks for it. The rest is musl's own; only its locale is ever read. */
static struct {
    void *self;
    u64 unused[4];
    u64 canary;
    u64 rest[122];
} thread __attribute__((aligned(64)));

void metal_load_tls(void) {
    u64 base = (u64)&thread;
    __asm__ volatile("wrmsr" : : "c"(0xc0000100), "a"((u32)base), "d"((u32)(base >> 32)));
}

void metal_libc_init(void) {
    thread.self = &thread;
    thread.canary = 0x5be0cd19137e2100; /* a zero byte first: no string runs over it unnoticed */
    metal_load_tls();
    uselocale(LC_GLOBAL_LOCALE); /* strerror and wide characters look for it in the block */
}

/* ---- Ends ---- */

static _Noreturn void end(const char *what) {
    log_error("%s", what);
    log_backtrace();
    log_end();
}

_Noreturn void abort(void) {
    end("abort() was called");
}

_Noreturn void __stack_chk_fail(void);
_Noreturn void __stack_chk_fail(void) {
    end("a function overran its stack frame");
}

_Noreturn void __assert_fail(const char *what, const char *file, int line, const char *function);
_Noreturn void __assert_fail(const char *what, const char *file, int line, const char *function) {
    (void)function;
    rf_assert_fail(what, file, line);
}

static _Noreturn void chk_fail(const char *function) {
    log_error("%s would overrun its buffer", function);
    log_backtrace();
    log_end();
}

/* ---- musl's inside: what formatting and scanning of strings would need only for streams ---- */

int __lockfile(FILE *f);
void __unlockfile(FILE *f);
int __uflow(FILE *f);
int __lockfile(FILE *f) {
    (void)f;
    return 0;
}
void __unlockfile(FILE *f) {
    (void)f;
}
/* What exit() would flush. */
void __stdio_exit_needed(void);
void __stdio_exit_needed(void) {}
/* Refills a stream's buffer: a string has no more than it has. */
int __uflow(FILE *f) {
    (void)f;
    return EOF;
}

/* ---- Checked variants: "Linux Standard Base Core Specification 5.0, Generic", chapter 11 "Base
 * Libraries"; the size is that of the destination. ---- */

void *__memcpy_chk(void *to, const void *from, size_t bytes, size_t size);
void *__memcpy_chk(void *to, const void *from, size_t bytes, size_t size) {
    if (bytes > size)
        chk_fail("memcpy");
    return memcpy(to, from, bytes);
}

char *__strcpy_chk(char *to, const char *from, size_t size);
char *__strcpy_chk(char *to, const char *from, size_t size) {
    if (strlen(from) >= size)
        chk_fail("strcpy");
    return strcpy(to, from);
}

char *__strncpy_chk(char *to, const char *from, size_t bytes, size_t size);
char *__strncpy_chk(char *to, const char *from, size_t bytes, size_t size) {
    if (bytes > size)
        chk_fail("strncpy");
    return strncpy(to, from, bytes);
}

char *__strcat_chk(char *to, const char *from, size_t size);
char *__strcat_chk(char *to, const char *from, size_t size) {
    if (strlen(to) + strlen(from) >= size)
        chk_fail("strcat");
    return strcat(to, from);
}

int __vsnprintf_chk(char *to, size_t bytes, int flag, size_t size, const char *fmt, va_list ap)
    __attribute__((format(printf, 5, 0)));
int __vsnprintf_chk(char *to, size_t bytes, int flag, size_t size, const char *fmt, va_list ap) {
    (void)flag;
    if (bytes > size)
        chk_fail("snprintf");
    return vsnprintf(to, bytes, fmt, ap);
}

int __snprintf_chk(char *to, size_t bytes, int flag, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
int __snprintf_chk(char *to, size_t bytes, int flag, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = __vsnprintf_chk(to, bytes, flag, size, fmt, ap);
    va_end(ap);
    return n;
}

int __sprintf_chk(char *to, int flag, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int __sprintf_chk(char *to, int flag, size_t size, const char *fmt, ...) {
    va_list ap;
    (void)flag;
    va_start(ap, fmt);
    int n = vsnprintf(to, MIN(size, (size_t)INT32_MAX), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n >= size)
        chk_fail("sprintf");
    return n;
}

/* glibc's tables of characters -128 to 255, as <ctype.h> there reads them. */
const i32 **__ctype_tolower_loc(void);
const i32 **__ctype_tolower_loc(void) {
    static i32 table[384];
    static const i32 *zero;
    if (!zero) {
        for (int c = -128; c < 256; c++)
            table[c + 128] = c >= 0 ? tolower(c) : c;
        zero = table + 128;
    }
    return &zero;
}
