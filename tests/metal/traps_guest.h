/*
 * traps_guest.h: what the files of test_traps.c's image share: where things lie in its little
 * guest.
 */
#ifndef RINGFOLD_TESTS_METAL_TRAPS_GUEST_H
#define RINGFOLD_TESTS_METAL_TRAPS_GUEST_H

/* One page each. The code page and the stack page are mapped twice, for ring 1 (U=0) and for ring 3
 * (U=1). */
#define CODE1 0x400000
#define CODE3 0x401000
#define STACK1 0x402000
#define STACK3 0x403000
#define SYSTEM_PAGE 0x404000 /* U=0 */
#define HOLE 0x405000
#define READ_ONLY 0x406000 /* U=1 */
#define FLAG 0x407000      /* U=1: what a loop waits for */
#define SNIPPET_BYTES 64

/* Selectors in the direct GDT, those of Linux. */
#define COMPAT_CS 0x73
#define COMPAT_SS 0x7b

#ifndef __ASSEMBLER__
#include <stdbool.h>

/* On the console. */
void test_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* traps_tables.c */
bool cmos_formats(void);
bool sleep_package_is_found_and_bounded(void);
#endif

#endif
