/*
 * test_log.c: option parsing of -d, and the trace stream.
 */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static int reset(void **state) {
    (void)state;
    trace_mask = 0;
    return 0;
}

static void a_list_sets_exactly_its_categories(void **state) {
    (void)state;
    assert_true(trace_parse("in_asm,int", NULL));
    assert_int_equal(trace_mask, BIT(TRACE_in_asm) | BIT(TRACE_int));
    assert_true(trace_on(TRACE_int));
    assert_false(trace_on(TRACE_mmu));
}

static void an_unknown_name_is_reported_and_changes_nothing(void **state) {
    (void)state;
    const char *bad = NULL;
    assert_false(trace_parse("int,nonsense,mmu", &bad));
    assert_string_equal(bad, "nonsense,mmu");
    assert_int_equal(trace_mask, 0);
}

static void a_prefix_of_a_name_is_not_the_name(void **state) {
    (void)state;
    assert_false(trace_parse("in", NULL));
    assert_false(trace_parse("in_asmx", NULL));
}

static void all_sets_every_category(void **state) {
    (void)state;
    assert_true(trace_parse("all", NULL));
    assert_int_equal(trace_mask, (u32)(BIT64(TRACE_COUNT) - 1));
}

static void trace_lines_go_to_the_opened_file(void **state) {
    (void)state;
    char path[] = "/tmp/ringfold-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(trace_open(path));
    assert_true(trace_parse("mmu", NULL));
    TRACE(mmu, "fill %x\n", 0x1234);
    TRACE(page, "not enabled\n");
    assert_true(trace_open(NULL));
    char text[64] = "";
    assert_int_equal(read(fd, text, sizeof text - 1), 10);
    assert_string_equal(text, "fill 1234\n");
    close(fd);
    unlink(path);
}

static void opening_an_impossible_trace_file_fails(void **state) {
    (void)state;
    assert_false(trace_open("/nonexistent-directory/trace"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_list_sets_exactly_its_categories, reset),
        cmocka_unit_test_setup(an_unknown_name_is_reported_and_changes_nothing, reset),
        cmocka_unit_test_setup(a_prefix_of_a_name_is_not_the_name, reset),
        cmocka_unit_test_setup(all_sets_every_category, reset),
        cmocka_unit_test_setup(trace_lines_go_to_the_opened_file, reset),
        cmocka_unit_test_setup(opening_an_impossible_trace_file_fails, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
