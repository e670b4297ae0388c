/*
 * Tests of what `ringfold study` makes of a guest's output: rows, nonsense, medians, counters.
 */
#include "study/study_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char name[32];
static struct study_batch batch[STUDY_MAX_BATCHES];
static unsigned count;

static bool parse(const char *line) {
    return study_parse_row(line, name, batch, &count);
}

static void a_row_is_read(void **state) {
    (void)state;
    assert_true(parse("row call_ret 3900/1000 4294967295/1\nrow int80 1/1\n"));
    assert_string_equal(name, "call_ret");
    assert_int_equal(count, 2);
    assert_int_equal(batch[0].ticks, 3900);
    assert_int_equal(batch[0].operations, 1000);
    assert_int_equal(batch[1].ticks, 4294967295u);
    assert_true(parse("row x 1/2"));
    assert_true(parse("row x 1/2\r\n")); /* a serial line */
}

static void what_is_no_row_is_refused(void **state) {
    (void)state;
    const char *const lines[] = {"",
                                 "rows end\n",
                                 "row",
                                 "row ",
                                 "row \n",
                                 "row x\n",
                                 "row x \n",
                                 "row x 1\n",
                                 "row x 1/\n",
                                 "row x /1\n",
                                 "row x 1/2 \n",
                                 "row x 1/2,3/4\n",
                                 "row x 4294967296/1\n",
                                 "row x -1/1\n",
                                 "row name_that_is_longer_than_any_row_has 1/1\n"};
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        assert_false(parse(lines[i]));
    /* More batches than there may be: not silently cut. */
    assert_false(parse("row x 1/1 1/1 1/1 1/1 1/1 1/1 1/1 1/1 1/1\n"));
}

static void medians_are_those_of_sorted_values(void **state) {
    (void)state;
    assert_true(study_median((double[]){5, 1, 3}, 3) == 3);
    assert_true(study_median((double[]){4, 1, 3, 2}, 4) == 2.5);
    assert_true(study_median((double[]){7}, 1) == 7);
    assert_true(study_median(NULL, 0) == 0);
}

static void samples_drop_nonsense(void **state) {
    (void)state;
    const struct study_batch b[] = {{100, 10},         {0, 10},   {300, 0},
                                    {4294967000u, 10}, {300, 10}, {110, 10}};
    struct study_sample s;
    study_summarize(b, ARRAY_LEN(b), 1, &s);
    assert_int_equal(s.count, 3);
    assert_true(s.median == 11 && s.least == 10 && s.most == 30 && s.mad == 1);
    assert_int_equal(s.operations, 50); /* all that were done, timed well or not */
    study_summarize(b, 1, 4, &s);
    assert_true(s.median == 2.5 && s.mad == 0);
    study_summarize(b + 1, 2, 1, &s);
    assert_int_equal(s.count, 0);
    assert_true(s.median == 0);
}

static void counters_are_found_by_whole_names(void **state) {
    (void)state;
    const char *json = "noise \"x\" {\"guest_exits\": 1\n, \"bt.exits\": 22\n, \"exits\": 3.5}";
    double v = 0;
    assert_true(study_json_number(json, "exits", &v));
    assert_true(v == 3.5);
    assert_true(study_json_number(json, "bt.exits", &v));
    assert_true(v == 22);
    assert_false(study_json_number(json, "xits", &v));
    assert_false(study_json_number("", "exits", &v));
    assert_false(study_json_number("{\"exits", "exits", &v));
    assert_false(study_json_number("{\"exits\": }", "exits", &v));
}

static struct study_config config;
static char error[200];

static bool options(const char *a, const char *b, const char *c, const char *d) {
    char *argv[] = {(char *)"study", (char *)a, (char *)b, (char *)c, (char *)d, NULL};
    int argc = 1;
    while (argv[argc])
        argc++;
    return study_parse_options(argc, argv, &config, error);
}

static unsigned chosen(const bool *wanted, unsigned n) {
    unsigned sum = 0;
    for (unsigned i = 0; i < n; i++)
        sum += wanted[i];
    return sum;
}

static void options_choose(void **state) {
    (void)state;
    assert_true(options(NULL, NULL, NULL, NULL));
    assert_int_equal(chosen(config.wanted_row, STUDY_MAX_ROWS), study_row_count);
    assert_int_equal(chosen(config.wanted_engine, ENGINE_COUNT), ENGINE_COUNT);
    assert_string_equal(config.directory, "study");
    assert_true(options("--rows", "rdtsc,rdtsc_user", "--engines", "qemu-kvm"));
    assert_int_equal(chosen(config.wanted_row, STUDY_MAX_ROWS), 2);
    assert_true(config.wanted_row[study_row_index("rdtsc", 5)]);
    assert_true(config.wanted_engine[ENGINE_QEMU_KVM]);
    assert_int_equal(chosen(config.wanted_engine, ENGINE_COUNT), 1);
    assert_true(options("--quick", "--ablation", NULL, NULL));
    assert_true(config.quick && config.ablation);
}

static void bad_options_are_named(void **state) {
    (void)state;
    assert_false(options("--rows", "rdtsc,", NULL, NULL));
    assert_false(options("--engines", "kv", NULL, NULL));
    assert_non_null(strstr(error, "'kv'"));
    assert_false(options("--out", NULL, NULL, NULL));
    assert_false(options("rows", NULL, NULL, NULL));
    assert_non_null(strstr(error, "'rows'"));
}

/* A study as it is after all engines ran. */
static struct study study;

static void set(enum study_engine e, const char *row, double median) {
    struct study_sample *s = &study.column[e].cell[study_row_index(row, strlen(row))].sample;
    *s = (struct study_sample){.count = 1, .median = median};
}

static enum study_verdict verdict(const char *row) {
    return study_judge(&study, (unsigned)study_row_index(row, strlen(row)));
}

static void verdicts_are_against_published_cycles(void **state) {
    (void)state;
    memset(&study, 0, sizeof study);
    assert_int_equal(verdict("call_ret"), VERDICT_NONE);
    set(ENGINE_BT, "call_ret", 50);
    set(ENGINE_BT, "in_port", 215);
    set(ENGINE_BT, "cli_sti", 1);
    assert_int_equal(verdict("call_ret"), VERDICT_AHEAD);
    assert_int_equal(verdict("in_port"), VERDICT_BEHIND);
    assert_int_equal(verdict("cli_sti"), VERDICT_NONE); /* nothing was published */
    set(ENGINE_BT, "int80", 2200);
    assert_int_equal(verdict("int80"), VERDICT_BEHIND); /* 2000 beyond native, which is not known */
    set(ENGINE_NATIVE, "sysenter", 300);
    assert_int_equal(verdict("int80"), VERDICT_AHEAD);
}

static void a_signal_excuses_only_what_needs_one(void **state) {
    (void)state;
    memset(&study, 0, sizeof study);
    set(ENGINE_BT, "div_zero", 6000);
    set(ENGINE_BT, "in_port", 6000);
    study.signal_cycles = 3000; /* below the published 3223: no excuse */
    assert_int_equal(verdict("div_zero"), VERDICT_BEHIND);
    study.signal_cycles = 5000;
    assert_int_equal(verdict("div_zero"), VERDICT_FLOOR);
    assert_int_equal(verdict("in_port"), VERDICT_BEHIND);
}

static void numbers_are_short(void **state) {
    (void)state;
    char text[24];
    assert_string_equal(study_number(0.61, text), "0.6");
    assert_string_equal(study_number(99.94, text), "99.9");
    assert_string_equal(study_number(99.96, text), "100");
    assert_string_equal(study_number(-1, text), "-");
    assert_string_equal(study_number(0.0 / 0.0, text), "-");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_read),
        cmocka_unit_test(what_is_no_row_is_refused),
        cmocka_unit_test(medians_are_those_of_sorted_values),
        cmocka_unit_test(samples_drop_nonsense),
        cmocka_unit_test(counters_are_found_by_whole_names),
        cmocka_unit_test(options_choose),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(verdicts_are_against_published_cycles),
        cmocka_unit_test(a_signal_excuses_only_what_needs_one),
        cmocka_unit_test(numbers_are_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
