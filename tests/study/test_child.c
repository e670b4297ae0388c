/*
 * Tests of the children of `ringfold study`: what they print is caught, none outlives its limit.
 */
#include "study/study_internal.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct child_result r;

static bool shell(const char *script, double limit_s) {
    return child_run((const char *[]){"sh", "-c", script, NULL}, limit_s, &r);
}

static void output_and_status_come_back(void **state) {
    (void)state;
    assert_true(shell("echo out; echo err >&2; cat; exit 33", 60));
    assert_string_equal(r.out, "out\n");
    assert_string_equal(r.err, "err\n");
    assert_int_equal(r.status, 33);
    assert_false(r.timed_out);
    child_free(&r);
}

static void a_child_that_stays_is_killed(void **state) {
    (void)state;
    assert_true(shell("echo begun; exec sleep 1000", 0.3));
    assert_true(r.timed_out);
    assert_int_equal(r.status, 128 + SIGKILL);
    child_free(&r);
    /* Also when it has closed its output and ignores what can be ignored. */
    assert_true(shell("trap '' TERM INT HUP; exec >&- 2>&-; exec sleep 1000", 0.3));
    assert_true(r.timed_out);
    child_free(&r);
}

static void a_flood_is_cut(void **state) {
    (void)state;
    assert_true(shell("head -c 5000000 /dev/zero | tr '\\0' x; echo end >&2", 60));
    assert_int_equal(strlen(r.out), 1 << 20);
    assert_string_equal(r.err, "end\n");
    assert_int_equal(r.status, 0);
    child_free(&r);
}

static void a_program_that_is_not_there_is_127(void **state) {
    (void)state;
    assert_true(child_run((const char *[]){"/nonexistent/program", NULL}, 60, &r));
    assert_int_equal(r.status, 127);
    child_free(&r);
}

static void crash(void *opaque) {
    printf("%s", (const char *)opaque);
    fflush(stdout);
    raise(SIGKILL);
}

static void a_function_may_die(void **state) {
    (void)state;
    assert_true(child_call(crash, (void *)"last words", 60, &r));
    assert_string_equal(r.out, "last words");
    assert_int_equal(r.status, 128 + SIGKILL);
    assert_false(r.timed_out);
    child_free(&r);
}

static void print_native(void *opaque) {
    (void)opaque;
    for (unsigned i = 0; i < study_row_count; i++)
        if (study_rows[i].native &&
            study_rows[i].native != native_int80) /* not every host has it */
            native_print(study_rows[i].name, study_rows[i].native, 3);
    native_print("signal", native_signal, 2);
}

static void native_operations_print_rows(void **state) {
    (void)state;
    unsigned rows = 0;
    assert_true(child_call(print_native, NULL, 60, &r));
    assert_int_equal(r.status, 0);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"), rows++) {
        char name[32];
        struct study_batch batch[STUDY_MAX_BATCHES];
        unsigned count;
        assert_true(study_parse_row(line, name, batch, &count));
        for (unsigned i = 0; i < count; i++)
            assert_true(batch[i].ticks && batch[i].operations);
    }
    assert_true(rows > 8);
    child_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_and_status_come_back),
        cmocka_unit_test(a_child_that_stays_is_killed),
        cmocka_unit_test(a_flood_is_cut),
        cmocka_unit_test(a_program_that_is_not_there_is_127),
        cmocka_unit_test(a_function_may_die),
        cmocka_unit_test(native_operations_print_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
