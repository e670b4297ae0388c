/*
 * test_sensitive.c: the table of sensitive instructions is complete and consistent in itself.
 */
#include "rc_fixture.h"

#include <string.h>

#include "ringcomp/sensitive.h"

static void every_row_is_filled_and_stands_once(void **state) {
    (void)state;
    unsigned registers = 0;
    for (unsigned i = 0; i < RC_SENSITIVE_COUNT; i++) {
        const struct rc_sensitive *row = &rc_sensitive[i];
        assert_true(row->name && row->example && row->left_in_place);
        assert_true(row->length >= 1 && row->length <= sizeof row->bytes);
        assert_true(row->bytes[0] != 0);
        for (unsigned n = row->length; n < sizeof row->bytes; n++)
            assert_int_equal(row->bytes[n], 0);
        registers += row->group == RC_SENSITIVE_REGISTER;
        for (unsigned k = 0; k < i; k++) {
            assert_string_not_equal(row->name, rc_sensitive[k].name);
            assert_memory_not_equal(row->bytes, rc_sensitive[k].bytes, sizeof row->bytes);
        }
    }
    assert_int_equal(registers, 6); /* SGDT SIDT SLDT SMSW PUSHF POPF */
}

static void the_mnemonics_are_those_of_the_paper_and_iret(void **state) {
    (void)state;
    static const char *const names[] = {"SGDT",  "SIDT", "SLDT", "SMSW", "PUSHF", "POPF", "LAR",
                                        "LSL",   "VERR", "VERW", "POP",  "PUSH",  "CALL", "JMP",
                                        "INT n", "RET",  "IRET", "STR",  "MOV"};
    assert_int_equal(ARRAY_LEN(names), RC_SENSITIVE_COUNT);
    for (size_t n = 0; n < ARRAY_LEN(names); n++) {
        bool found = false;
        for (unsigned i = 0; i < RC_SENSITIVE_COUNT; i++)
            found |= !strcmp(rc_sensitive[i].name, names[n]);
        assert_true(found);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_filled_and_stands_once),
        cmocka_unit_test(the_mnemonics_are_those_of_the_paper_and_iret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
