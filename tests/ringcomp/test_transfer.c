/* test_transfer.c: far jumps, calls and returns, call gates, SYSENTER, and the stack. */
#include "rc_fixture.h"

static void far_jump_loads_cs_and_checks_it(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_far_jump(cpu, KCODE | 0, 0xfedc1234, 4, 0));
    assert_int_equal(cpu->eip, 0xfedc1234);
    assert_true(rc_far_jump(cpu, CODE16, 0xfedc1234, 2, 0));
    assert_int_equal(cpu->eip, 0x1234);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_far_jump(cpu, 0, 0, 4, 0), VEC_GP, 0);
    assert_fault(rc_far_jump(cpu, KCODE | 3, 0, 4, 0), VEC_GP, KCODE);
    assert_fault(rc_far_jump(cpu, CODE1, 0, 4, 0), VEC_GP, CODE1);
    assert_fault(rc_far_jump(cpu, KDATA, 0, 4, 0), VEC_GP, KDATA);
    assert_fault(rc_far_jump(cpu, CODE16, 0x10000, 4, 0), VEC_GP, 0);
    put_desc(cpu->mmu, GDT + ABSENT, 0, 0xffff, CODE_ATTR & ~ATTR_P);
    assert_fault(rc_far_jump(cpu, ABSENT, 0, 4, 0), VEC_NP, ABSENT);
    assert_unchanged(cpu, &before);
    enter_ring(cpu, 3);
    assert_true(rc_far_jump(cpu, CONFORMING, 0x44, 4, 0)); /* CPL stays, RPL reads back as CPL */
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[SEG_CS].selector, CONFORMING | 3);
}

static void far_call_and_return_in_one_ring(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_far_call(cpu, CODE16, 0x4000, 4, 0x107));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 8);
    assert_int_equal(peek32(cpu, STACK0 - 4), KCODE);
    assert_int_equal(peek32(cpu, STACK0 - 8), 0x107);
    assert_true(rc_far_return(cpu, 4, 0));
    assert_int_equal(cpu->eip, 0x107);
    assert_int_equal(cpu->seg[SEG_CS].selector, KCODE);
    assert_int_equal(cpu->gpr[R_ESP], STACK0);
    assert_true(rc_far_call(cpu, CODE16, 0x4000, 2, 0x107));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 4);
    assert_true(rc_far_return(cpu, 2, 6));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 + 6);
}

static void call_gate_copies_parameters_and_returns(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enter_ring(cpu, 3);
    cpu->gpr[R_ESP] = STACK3 - 8;
    poke32(cpu, STACK3 - 8, 0x11111111);
    poke32(cpu, STACK3 - 4, 0x22222222);
    assert_true(rc_load_segment(cpu, SEG_DS, UDATA));
    assert_true(rc_far_call(cpu, CALL_GATE | 3, 0x999, 4, 0x1007));
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->eip, HANDLER);
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 24);
    const u32 want[6] = {0x1007, UCODE, 0x11111111, 0x22222222, STACK3 - 8, UDATA};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(peek32(cpu, STACK0 - 24 + 4 * i), want[i]);
    assert_true(rc_load_segment(cpu, SEG_ES, KDATA));
    assert_true(rc_load_segment(cpu, SEG_FS, CONFORMING));
    assert_true(rc_far_return(cpu, 4, 8));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->eip, 0x1007);
    assert_int_equal(cpu->gpr[R_ESP], STACK3);
    assert_int_equal(cpu->seg[SEG_ES].selector, 0); /* ring 0 data taken away */
    assert_int_equal(cpu->seg[SEG_FS].selector, CONFORMING);
    assert_int_equal(cpu->seg[SEG_DS].selector, UDATA);
}

static void sixteen_bit_call_gate_pushes_words(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enter_ring(cpu, 3);
    store16(ram(cpu, STACK3), 0x5678);
    assert_true(rc_far_call(cpu, CALL_GATE16, 0, 4, 0x1007));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 10);
    assert_int_equal(cpu->eip, 0x2340);
    const u16 want[5] = {0x1007, UCODE, 0x5678, STACK3, UDATA};
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(load16(ram(cpu, STACK0 - 10 + 2 * i)), want[i]);
    assert_true(rc_far_return(cpu, 2, 2));
    assert_int_equal(cpu->gpr[R_ESP], STACK3 + 2);
}

static void call_gate_checks(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_far_jump(cpu, CALL_GATE, 0, 4, 0)); /* same ring: a jump may use it */
    assert_int_equal(cpu->eip, HANDLER);
    enter_ring(cpu, 3);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_far_jump(cpu, CALL_GATE, 0, 4, 0), VEC_GP, KCODE);
    put_gate(cpu->mmu, GDT + ABSENT, 12, 1, KCODE, HANDLER, 0);
    assert_fault(rc_far_call(cpu, ABSENT, 0, 4, 0), VEC_GP, ABSENT);
    put_gate(cpu->mmu, GDT + ABSENT, 12, 3, KDATA, HANDLER, 0);
    assert_fault(rc_far_call(cpu, ABSENT, 0, 4, 0), VEC_GP, KDATA);
    put_gate(cpu->mmu, GDT + ABSENT, 12, 3, 0, HANDLER, 0);
    assert_fault(rc_far_call(cpu, ABSENT, 0, 4, 0), VEC_GP, 0);
    put_gate(cpu->mmu, GDT + ABSENT, 12, 3, CODE16, HANDLER, 0);
    assert_fault(rc_far_call(cpu, ABSENT, 0, 4, 0), VEC_GP, 0);
    put_gate(cpu->mmu, GDT + ABSENT, 14, 3, KCODE, HANDLER, 0);
    assert_fault(rc_far_call(cpu, ABSENT, 0, 4, 0), VEC_GP, ABSENT);
    assert_unchanged(cpu, &before);
    put_gate(cpu->mmu, GDT + ABSENT, 12, 3, CODE1, HANDLER, 0);
    assert_true(rc_far_call(cpu, ABSENT, 0, 4, 0x55));
    assert_int_equal(cpu->cpl, 1);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA1 | 1);
    assert_int_equal(cpu->gpr[R_ESP], STACK1 - 16);
}

static void failing_call_writes_no_stack(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enable_paging(cpu);
    set_page(cpu, STACK0 - 4, 5); /* read-only */
    cpu->gpr[R_ESP] = STACK0 + 4;
    poke32(cpu, STACK0, 0xeeeeeeee);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_far_call(cpu, CODE16, 0, 4, 7), VEC_PF, PF_P | PF_W);
    assert_unchanged(cpu, &before);
    assert_int_equal(peek32(cpu, STACK0), 0xeeeeeeee);
    enter_ring(cpu, 3);
    before = snapshot(cpu);
    set_page(cpu, STACK3, 0); /* parameters unreadable */
    assert_fault(rc_far_call(cpu, CALL_GATE, 0, 4, 7), VEC_PF, PF_U);
    assert_unchanged(cpu, &before);
}

static void far_return_checks(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    static const struct {
        u32 cs, ss, vector, error;
    } rows[] = {
        {0, 0, VEC_GP, 0},
        {KDATA, 0, VEC_GP, KDATA},
        {GDT_END, 0, VEC_GP, GDT_END},
        {UCODE & ~3, 0, VEC_GP, UCODE & ~3},
        {KCODE | 3, 0, VEC_GP, KCODE},
        {UCODE, 0, VEC_GP, 0},
        {UCODE, KDATA, VEC_GP, KDATA},
        {UCODE, KDATA | 3, VEC_GP, KDATA},
        {UCODE, READ_ONLY, VEC_GP, READ_ONLY & ~3},
        {UCODE, ABSENT | 3, VEC_SS, ABSENT},
    };
    cpu->gpr[R_ESP] = STACK0 - 16;
    struct cpu before = snapshot(cpu);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        poke32(cpu, STACK0 - 12, rows[i].cs);
        poke32(cpu, STACK0 - 4, rows[i].ss);
        assert_fault(rc_far_return(cpu, 4, 0), rows[i].vector, rows[i].error);
        assert_unchanged(cpu, &before);
    }
    enter_ring(cpu, 3);
    cpu->gpr[R_ESP] = STACK3 - 8;
    poke32(cpu, STACK3 - 4, KCODE); /* never inward */
    assert_fault(rc_far_return(cpu, 4, 0), VEC_GP, KCODE);
}

static void real_mode_far_transfers(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_far_jump(cpu, CODE16, 0, 2, 0));
    assert_true(rc_load_segment(cpu, SEG_SS, STACK16));
    assert_true(rc_write_cr(cpu, 0, cpu->cr0 & ~CR0_PE));
    assert_true(rc_far_jump(cpu, 0x1234, 0x10, 2, 0));
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_fault(rc_far_jump(cpu, 0, 0x10000, 4, 0), VEC_GP, 0);
    cpu->gpr[R_ESP] = 0x12340002; /* SP wraps within 64 KiB */
    assert_true(rc_far_call(cpu, 0x2000, 0x99, 2, 0x15));
    assert_int_equal(cpu->gpr[R_ESP], 0x1234fffe);
    assert_int_equal(load16(ram(cpu, 0)), 0x1234);
    assert_int_equal(load16(ram(cpu, 0xfffe)), 0x15);
    assert_true(rc_far_return(cpu, 2, 0));
    assert_int_equal(cpu->gpr[R_ESP], 0x12340002);
    assert_int_equal(cpu->eip, 0x15);
}

static void sysenter_and_sysexit_load_flat_segments(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enter_ring(cpu, 3);
    cpu->sysenter_cs = 0;
    assert_fault(rc_sysenter(cpu), VEC_GP, 0);
    cpu->sysenter_cs = KCODE;
    cpu->sysenter_esp = 0x8080;
    cpu->sysenter_eip = 0xc0100000;
    cpu->eflags = F_FIXED | F_IF | F_TF | F_CF;
    assert_fault(rc_sysexit(cpu), VEC_GP, 0);
    assert_true(rc_sysenter(cpu));
    assert_int_equal(cpu->eflags, F_FIXED | F_TF | F_CF);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[SEG_CS].selector, KCODE);
    assert_int_equal(cpu->seg[SEG_SS].selector, KDATA);
    assert_int_equal(cpu->gpr[R_ESP], 0x8080);
    assert_int_equal(cpu->eip, 0xc0100000);
    assert_true(rc_segment_is_flat(&cpu->seg[SEG_CS]));
    assert_true(rc_segment_is_flat(&cpu->seg[SEG_SS]));
    assert_true(rc_sysexit(cpu));
    assert_int_equal(cpu->seg[SEG_CS].selector, UCODE);
    assert_int_equal(cpu->seg[SEG_SS].selector, UDATA);
    assert_int_equal(cpu->gpr[R_ESP], STACK3);
    ((struct fixture *)*state)->model.f1_edx &= ~BIT(11);
    assert_false(rc_sysenter(cpu));
    assert_int_equal(cpu->fault.vector, VEC_UD);
}

static void push_and_pop_obey_limit_and_page_rights(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 value = 0;
    assert_true(rc_load_segment(cpu, SEG_SS, EXPAND_DOWN)); /* offsets from 1000h */
    cpu->gpr[R_ESP] = 0x1004;
    assert_true(rc_push(cpu, 0xcafebabe, 4));
    assert_fault(rc_push(cpu, 1, 2), VEC_SS, 0);
    assert_int_equal(cpu->gpr[R_ESP], 0x1000);
    assert_true(rc_pop(cpu, &value, 4));
    assert_int_equal(value, 0xcafebabe);
    assert_true(rc_load_segment(cpu, SEG_SS, STACK16));
    cpu->gpr[R_ESP] = 0xffff0000;
    assert_true(rc_push(cpu, 0x1234, 2));
    assert_int_equal(cpu->gpr[R_ESP], 0xfffffffe);
    assert_true(rc_pop(cpu, &value, 2));
    assert_int_equal(value, 0x1234);
    assert_int_equal(cpu->gpr[R_ESP], 0xffff0000);
    enable_paging(cpu);
    enter_ring(cpu, 3);
    set_page(cpu, STACK3 - 4, 3);
    assert_fault(rc_push(cpu, 1, 4), VEC_PF, PF_P | PF_W | PF_U);
    assert_int_equal(cpu->gpr[R_ESP], STACK3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(far_jump_loads_cs_and_checks_it),
        TEST(far_call_and_return_in_one_ring),
        TEST(call_gate_copies_parameters_and_returns),
        TEST(sixteen_bit_call_gate_pushes_words),
        TEST(call_gate_checks),
        TEST(failing_call_writes_no_stack),
        TEST(far_return_checks),
        TEST(real_mode_far_transfers),
        TEST(sysenter_and_sysexit_load_flat_segments),
        TEST(push_and_pop_obey_limit_and_page_rights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
