/*
 * test_icount.c: -icount: every instruction is counted once, whatever ends its unit.
 */
#include "bt_fixture.h"

/* ---- -icount ---- */

static void counted_world(struct world *w) {
    struct bt_config config;
    default_test_config(&config);
    config.icount = true;
    world_create(w, &config);
}

static void the_budget_ends_at_a_unit_and_counts_every_instruction(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE,
        "b9 0a 00 00 00 40 43 49 75 fb f4"); /* mov ecx,10; top: inc eax; inc ebx; dec; jnz */
    bt_set_budget(w.bt, 1000);
    run_to_hlt(&w, CODE);
    assert_int_equal(w.cpu->insn_count, 1 + 10 * 4);
    assert_int_equal(bt_hot(w.cpu)->budget, 1000 - 41);
    w.cpu->insn_count = 0;
    bt_set_budget(w.bt, 12);
    w.cpu->eip = CODE;
    assert_int_equal(bt_run(w.bt), BT_EXIT_BUDGET);
    assert_true(w.cpu->insn_count <= 12);
    assert_int_equal(w.cpu->insn_count + (u64)bt_hot(w.cpu)->budget, 12);
    world_destroy(&w);
}

static void a_fault_gives_the_budget_of_what_did_not_run_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE, "40 43 31 c9 f7 f1 40 40 f4"); /* the division is the fourth */
    bt_set_budget(w.bt, 100);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE + 4);
    assert_int_equal(w.cpu->insn_count, 3);
    world_destroy(&w);
}

static void a_callout_that_leaves_gives_the_budget_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    /* inc eax; mov ds,ebx (a null selector: not flat any more); inc eax; inc eax; hlt */
    put(&w, CODE, "40 8e db 40 40 f4");
    bt_set_budget(w.bt, 100);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_MODE, CODE + 3);
    assert_int_equal(w.cpu->insn_count, 2);
    /* a selector outside the table: a fault at the second instruction */
    set_cpl(&w, 0);
    w.cpu->gpr[R_EBX] = 0xf008;
    w.cpu->insn_count = 0;
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE + 1);
    assert_int_equal(w.cpu->insn_count, 1);
    world_destroy(&w);
}

static void an_adapted_site_that_leaves_gives_the_budget_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE, "40 89 03 40 40 f4"); /* a device register at ebx */
    w.cpu->gpr[R_EBX] = RAM_BYTES;
    for (unsigned i = 0; i < 5; i++) {
        bt_set_budget(w.bt, 100);
        w.cpu->insn_count = 0;
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        assert_int_equal(w.cpu->insn_count, 1);
    }
    world_destroy(&w);
}

static void instructions_behind_one_that_is_emulated_are_not_counted(void **state) {
    (void)state;
    static const char *const emulated[] = {"8e d3", "17", "0f 22 d8", "66 5c", "0f 31", "f4"};
    for (size_t i = 0; i < ARRAY_LEN(emulated); i++) {
        struct world w;
        counted_world(&w);
        put(&w, put(&w, put(&w, CODE, "40"), emulated[i]), "43 43 43 f4");
        bt_set_budget(w.bt, 100);
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        if (w.cpu->insn_count != 1)
            fail_msg("%s: %u", emulated[i], (unsigned)w.cpu->insn_count);
        world_destroy(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_budget_ends_at_a_unit_and_counts_every_instruction),
        cmocka_unit_test(a_fault_gives_the_budget_of_what_did_not_run_back),
        cmocka_unit_test(a_callout_that_leaves_gives_the_budget_back),
        cmocka_unit_test(an_adapted_site_that_leaves_gives_the_budget_back),
        cmocka_unit_test(instructions_behind_one_that_is_emulated_are_not_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
