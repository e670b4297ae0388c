/*
 * test_debug.c: single-stepping, breakpoints, RF and interrupt shadows. SDM volume 3, chapter 17
 * and section 6.8.3.
 */
#include "interp_fixture.h"

static void expect_debug_trap(struct guest *g, enum interp_result r, u32 eip, u32 dr6_bits) {
    assert_int_equal(r, INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_DB);
    assert_false(g->cpu->fault.has_error);
    assert_int_equal(g->cpu->eip, eip);
    assert_int_equal(g->cpu->dr[6] & 0x400f, dr6_bits);
    g->cpu->dr[6] = 0xffff0ff0;
}

static void tf_traps_behind_each_instruction(void **state) {
    struct guest *g = *state;
    g->cpu->eflags |= F_TF;
    expect_debug_trap(g, STEP(g, "\x40\x90"), CODE_BASE + 1, 0x4000);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
    assert_int_equal(g->cpu->insn_count, 1);
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 2, 0x4000);
}

static void tf_traps_behind_each_rep_iteration(void **state) {
    struct guest *g = *state;
    g->cpu->eflags |= F_TF;
    g->cpu->gpr[R_EDI] = DATA_BASE;
    g->cpu->gpr[R_ECX] = 2;
    expect_debug_trap(g, STEP(g, "\xf3\xaa"), CODE_BASE, 0x4000);
    assert_int_equal(g->cpu->gpr[R_ECX], 1);
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 2, 0x4000);
    assert_int_equal(g->cpu->gpr[R_ECX], 0);
}

static void popf_that_sets_tf_traps_one_later(void **state) {
    struct guest *g = *state;
    store32(guest_at(g, STACK_TOP), F_FIXED | F_TF);
    assert_int_equal(STEP(g, "\x9d\x90"), INTERP_OK);
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 2, 0x4000);
}

static void popf_that_clears_tf_still_traps(void **state) {
    struct guest *g = *state;
    store32(guest_at(g, STACK_TOP), F_FIXED);
    g->cpu->eflags |= F_TF;
    expect_debug_trap(g, STEP(g, "\x9d"), CODE_BASE + 1, 0x4000);
    assert_false(g->cpu->eflags & F_TF);
}

static void faulting_instruction_does_not_trap(void **state) {
    struct guest *g = *state;
    g->cpu->eflags |= F_TF;
    assert_int_equal(STEP(g, "\x0f\x0b"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_UD);
}

static void execution_breakpoint_fires_before_unless_rf(void **state) {
    struct guest *g = *state;
    g->cpu->dr[1] = CODE_BASE;
    g->cpu->dr[7] = 0x400 | 1 << 2;
    expect_debug_trap(g, STEP(g, "\x40"), CODE_BASE, 2);
    assert_int_equal(g->cpu->gpr[R_EAX], 0);
    g->cpu->eflags |= F_RF;
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
    assert_false(g->cpu->eflags & F_RF);
}

static void rf_survives_a_fault(void **state) {
    struct guest *g = *state;
    g->cpu->eflags |= F_RF;
    assert_int_equal(STEP(g, "\x0f\x0b"), INTERP_FAULT);
    assert_true(g->cpu->eflags & F_RF);
}

static void write_breakpoint_traps_behind_the_store(void **state) {
    struct guest *g = *state;
    g->cpu->dr[0] = DATA_BASE + 4;
    g->cpu->dr[7] = 0x400 | 1 | 0xdu << 16; /* write, four bytes */
    g->cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\x89\x03"), INTERP_OK);
    assert_int_equal(STEP(g, "\x8b\x43\x04"), INTERP_OK); /* a load does not match */
    expect_debug_trap(g, STEP(g, "\x88\x43\x07"), CODE_BASE + 3, 1);
    expect_debug_trap(g, STEP(g, "\x89\x43\x02"), CODE_BASE + 3, 1);
    g->cpu->dr[7] |= 2u << 16 | 0xfu << 16; /* read or write */
    expect_debug_trap(g, STEP(g, "\x8b\x43\x04"), CODE_BASE + 3, 1);
}

static void sti_shadows_one_instruction(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\xfb\x90\x90"), INTERP_OK);
    assert_false(rc_interruptible(g->cpu));
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
    assert_true(rc_interruptible(g->cpu));
    g->cpu->eip = CODE_BASE;
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK); /* IF was set: no shadow */
    assert_true(rc_interruptible(g->cpu));
}

static void mov_ss_shadows_interrupts_and_single_step(void **state) {
    struct guest *g = *state;
    store64(guest_at(g, GDT_BASE + 16), 0x00cf93000000ffffull);
    g->cpu->gpr[R_EAX] = 16;
    g->cpu->eflags |= F_TF | F_IF;
    assert_int_equal(STEP(g, "\x8e\xd0\x90"), INTERP_OK);
    assert_false(rc_interruptible(g->cpu));
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 3, 0x4000);
    assert_true(rc_interruptible(g->cpu));
}

static void run_returns_when_an_interrupt_became_possible(void **state) {
    struct guest *g = *state;
    GUEST_CODE(g, "\xfb\x90\x90\x90\x90");
    while (!rc_interruptible(g->cpu))
        assert_int_equal(interp_run(g->it, g->cpu, 100, NULL), INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
    store32(guest_at(g, STACK_TOP), F_FIXED | F_IF);
    g->cpu->eflags = F_FIXED;
    g->cpu->eip = CODE_BASE;
    GUEST_CODE(g, "\x9d\x90\x90");
    assert_int_equal(interp_run(g->it, g->cpu, 100, NULL), INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 1);
}

static void alignment_check_needs_ring_3_am_and_ac(void **state) {
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->gpr[R_EBX] = DATA_BASE + 2;
    g->cpu->cr0 |= CR0_AM;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_OK);
    g->cpu->eflags |= F_AC;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_AC);
    assert_int_equal(STEP(g, "\x66\x8b\x03"), INTERP_OK);
    g->cpu->cpl = 0;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(tf_traps_behind_each_instruction),
        CASE(tf_traps_behind_each_rep_iteration),
        CASE(popf_that_sets_tf_traps_one_later),
        CASE(popf_that_clears_tf_still_traps),
        CASE(faulting_instruction_does_not_trap),
        CASE(execution_breakpoint_fires_before_unless_rf),
        CASE(rf_survives_a_fault),
        CASE(write_breakpoint_traps_behind_the_store),
        CASE(sti_shadows_one_instruction),
        CASE(mov_ss_shadows_interrupts_and_single_step),
        CASE(run_returns_when_an_interrupt_became_possible),
        CASE(alignment_check_needs_ring_3_am_and_ac),
    };
    return cmocka_run_group_tests_name("interp.debug", tests, NULL, NULL);
}
