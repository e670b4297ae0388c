/*
 * test_trace.c: -dfilter's ranges, and that a trace line leaves x87 and SSE registers alone.
 */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* First, because the filter stays once set. */
static void without_a_filter_everything_is_wanted(void **state) {
    (void)state;
    assert_true(trace_wants(0, 1));
    assert_true(trace_wants(0xffffffff, 1));
}

static void the_three_spellings_of_a_range(void **state) {
    (void)state;
    assert_true(trace_filter_parse("0x8000..0x8fff,0xc1000000+0x1000,0x5000-0x10"));
    assert_false(trace_wants(0x7fff, 1));
    assert_true(trace_wants(0x8000, 1));
    assert_true(trace_wants(0x8fff, 1));
    assert_false(trace_wants(0x9000, 1));
    assert_true(trace_wants(0xc1000fff, 1));
    assert_false(trace_wants(0xc1001000, 1));
    assert_true(trace_wants(0x5000, 1));
    assert_true(trace_wants(0x4ff1, 1));
    assert_false(trace_wants(0x4ff0, 1));
}

static void a_unit_that_reaches_into_a_range_is_wanted(void **state) {
    (void)state;
    assert_true(trace_filter_parse("4096..4096"));
    assert_true(trace_wants(4090, 7));
    assert_false(trace_wants(4090, 6));
    assert_true(trace_wants(4096, 100));
    assert_false(trace_wants(4097, 100));
}

static void what_is_no_range_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",    "x",         "0x1000",    "1..", "2..1", "1+0", "0x1000..0x2000x",
        "1.2", "1..2;3..4", "0x1000:10", "..5"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        if (trace_filter_parse(bad[i]))
            fail_msg("'%s' was taken", bad[i]);
    char many[1000] = "";
    for (unsigned i = 0; i < 100; i++)
        strcat(many, i ? ",1..2" : "1..2");
    assert_false(trace_filter_parse(many));
}

static void a_trace_line_keeps_the_floating_point_state(void **state) {
    (void)state;
    _Alignas(16) u8 before[512], after[512];
    const u32 mxcsr = 0x9f80, usual = 0x1f80;
    const u16 fcw = 0x0a7f;
    char path[] = "/tmp/ringfold-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && trace_open(path));
    memset(before, 0, sizeof before);
    memset(after, 0, sizeof after);
    __asm__ volatile("fninit; fldpi; fldln2; fldcw %3; ldmxcsr %2; pcmpeqd %%xmm9, %%xmm9\n\t"
                     "fxsave64 %0; fxsave64 %1"
                     : "=m"(before), "=m"(after)
                     : "m"(mxcsr), "m"(fcw)
                     : "xmm9");
    trace_printf("%u %s %llx\n", 17u, "and some text that is longer than a register", 1ull << 40);
    __asm__ volatile("fxsave64 %0; fninit; ldmxcsr %1" : "=m"(after) : "m"(usual));
    assert_memory_equal(before, after, 160); /* x87 whole */
    assert_memory_equal(before + 160 + 16 * 9, after + 160 + 16 * 9, 16);
    assert_true(trace_open(NULL));
    close(fd);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_filter_everything_is_wanted),
        cmocka_unit_test(the_three_spellings_of_a_range),
        cmocka_unit_test(a_unit_that_reaches_into_a_range_is_wanted),
        cmocka_unit_test(what_is_no_range_is_refused),
        cmocka_unit_test(a_trace_line_keeps_the_floating_point_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
