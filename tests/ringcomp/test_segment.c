/* test_segment.c: loading segment registers, inspecting selectors, and limits. */
#include "rc_fixture.h"

static void data_segment_loads_and_sets_the_accessed_bit(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_int_equal(peek32(cpu, GDT + (SMALL & ~7) + 4) & 0x100, 0);
    assert_true(rc_load_segment(cpu, SEG_FS, SMALL));
    assert_int_equal(cpu->seg[SEG_FS].selector, SMALL);
    assert_int_equal(cpu->seg[SEG_FS].base, 0x10000);
    assert_int_equal(cpu->seg[SEG_FS].limit, 0xff);
    assert_int_equal(cpu->seg[SEG_FS].attr, DATA_ATTR | DPL(3) | ATTR_A);
    assert_int_equal(peek32(cpu, GDT + (SMALL & ~7) + 4) & 0x100, 0x100);
    assert_true(rc_load_segment(cpu, SEG_ES, UDATA));
    assert_int_equal(cpu->seg[SEG_ES].limit, FLAT_LIMIT);
    assert_true(rc_load_segment(cpu, SEG_GS, 0x0f));
    assert_int_equal(cpu->seg[SEG_GS].base, 0x20000);
}

static void null_selector_loads_but_faults_on_use(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 lin;
    assert_true(rc_load_segment(cpu, SEG_DS, 3));
    assert_int_equal(cpu->seg[SEG_DS].selector, 3);
    assert_fault(rc_linear(cpu, SEG_DS, 0, 1, false, &lin), VEC_GP, 0);
    assert_fault(rc_load_segment(cpu, SEG_SS, 0), VEC_GP, 0);
}

static void data_segment_checks_come_in_the_manuals_order(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    struct cpu before = snapshot(cpu);
    assert_fault(rc_load_segment(cpu, SEG_DS, GDT_END), VEC_GP, GDT_END);
    assert_fault(rc_load_segment(cpu, SEG_DS, 0x24), VEC_GP,
                 0x24); /* beyond the LDT's use: type 0 */
    assert_fault(rc_load_segment(cpu, SEG_DS, TASK_A), VEC_GP, TASK_A);
    assert_fault(rc_load_segment(cpu, SEG_DS, EXEC_ONLY), VEC_GP, EXEC_ONLY);
    assert_fault(rc_load_segment(cpu, SEG_DS, KDATA | 3), VEC_GP, KDATA);
    assert_fault(rc_load_segment(cpu, SEG_DS, ABSENT), VEC_NP, ABSENT);
    assert_unchanged(cpu, &before);
    assert_true(rc_load_segment(cpu, SEG_DS, CONFORMING | 3));
    assert_true(rc_load_segment(cpu, SEG_DS, KCODE));
    enter_ring(cpu, 3);
    assert_fault(rc_load_segment(cpu, SEG_DS, KDATA), VEC_GP, KDATA);
    assert_true(rc_load_segment(cpu, SEG_DS, CONFORMING | 3));
}

static void stack_segment_needs_cpl_everywhere(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_fault(rc_load_segment(cpu, SEG_SS, KDATA | 1), VEC_GP, KDATA);
    assert_fault(rc_load_segment(cpu, SEG_SS, UDATA), VEC_GP, UDATA & ~3);
    assert_fault(rc_load_segment(cpu, SEG_SS, KCODE), VEC_GP, KCODE);
    put_desc(cpu->mmu, GDT + ABSENT, 0, 0xffff, DATA_ATTR & ~ATTR_P);
    assert_fault(rc_load_segment(cpu, SEG_SS, ABSENT), VEC_SS, ABSENT);
    assert_true(rc_load_segment(cpu, SEG_SS, EXPAND_DOWN));
}

static void real_mode_keeps_limit_and_v86_resets_it(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_load_segment(cpu, SEG_ES, UDATA));
    assert_true(rc_write_cr(cpu, 0, cpu->cr0 & ~CR0_PE));
    assert_true(rc_load_segment(cpu, SEG_ES, 0x1234));
    assert_int_equal(cpu->seg[SEG_ES].base, 0x12340);
    assert_int_equal(cpu->seg[SEG_ES].limit, FLAT_LIMIT);
    cpu->cr0 |= CR0_PE;
    cpu->eflags |= F_VM;
    assert_true(rc_load_segment(cpu, SEG_ES, 0x1234));
    assert_int_equal(cpu->seg[SEG_ES].limit, 0xffff);
    assert_int_equal(cpu->seg[SEG_ES].attr >> ATTR_DPL_SHIFT & 3, 3);
}

static void expand_down_limits_are_inverted(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 lin;
    assert_true(rc_load_segment(cpu, SEG_DS, EXPAND_DOWN));
    assert_fault(rc_linear(cpu, SEG_DS, 0xfff, 1, false, &lin), VEC_GP, 0);
    assert_true(rc_linear(cpu, SEG_DS, 0x1000, 4, true, &lin));
    assert_true(rc_linear(cpu, SEG_DS, 0xfffffffc, 4, true, &lin));
    assert_fault(rc_linear(cpu, SEG_DS, 0xfffffffd, 4, true, &lin), VEC_GP, 0);
    put_desc(cpu->mmu, GDT + EXPAND_DOWN, 0, 0xfff, (DATA_ATTR | ATTR_E) & ~ATTR_DB);
    assert_true(rc_load_segment(cpu, SEG_DS, EXPAND_DOWN));
    assert_true(rc_linear(cpu, SEG_DS, 0xfffe, 2, true, &lin));
    assert_fault(rc_linear(cpu, SEG_DS, 0xffff, 2, true, &lin), VEC_GP, 0);
}

static void linear_checks_limit_and_type(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 lin;
    assert_true(rc_load_segment(cpu, SEG_DS, SMALL));
    assert_true(rc_linear(cpu, SEG_DS, 0xfc, 4, true, &lin));
    assert_int_equal(lin, 0x100fc);
    assert_fault(rc_linear(cpu, SEG_DS, 0xfd, 4, true, &lin), VEC_GP, 0);
    assert_fault(rc_linear(cpu, SEG_DS, 0xffffffff, 4, true, &lin), VEC_GP, 0);
    assert_true(rc_load_segment(cpu, SEG_DS, READ_ONLY));
    assert_true(rc_linear(cpu, SEG_DS, 5, 4, false, &lin));
    assert_fault(rc_linear(cpu, SEG_DS, 5, 4, true, &lin), VEC_GP, 0);
    assert_true(rc_linear(cpu, SEG_CS, 5, 4, false, &lin));
    assert_fault(rc_linear(cpu, SEG_CS, 5, 4, true, &lin), VEC_GP, 0);
    assert_true(rc_segment_is_flat(&cpu->seg[SEG_CS]));
    assert_true(rc_segment_is_flat(&cpu->seg[SEG_SS]));
    assert_false(rc_segment_is_flat(&cpu->seg[SEG_DS]));
    assert_true(rc_load_segment(cpu, SEG_SS, EXPAND_DOWN));
    assert_fault(rc_linear(cpu, SEG_SS, 0, 4, true, &lin), VEC_SS, 0);
}

static void lldt_and_ltr_check_type_table_and_presence(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_fault(rc_lldt(cpu, KDATA), VEC_GP, KDATA);
    assert_fault(rc_lldt(cpu, 0x0c), VEC_GP, 0x0c);
    assert_fault(rc_ltr(cpu, 0), VEC_GP, 0);
    assert_fault(rc_ltr(cpu, TASK_A), VEC_GP, TASK_A); /* busy */
    assert_true(rc_ltr(cpu, TASK_B));
    assert_int_equal(cpu->seg[SEG_TR].attr & ATTR_TYPE, 11);
    assert_int_equal(peek32(cpu, GDT + TASK_B + 4) >> 8 & 15, 11);
    assert_true(rc_lldt(cpu, 0));
    assert_fault(rc_load_segment(cpu, SEG_ES, 0x0f), VEC_GP, 0x0c);
    enter_ring(cpu, 3);
    assert_fault(rc_lldt(cpu, LDT_SEL), VEC_GP, 0);
}

static void lar_lsl_and_verify_see_what_the_caller_may_see(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    bool ok;
    u32 value = 0;
    assert_true(rc_lar(cpu, UDATA, &ok, &value));
    assert_true(ok);
    assert_int_equal(value, 0x00cff300); /* the limit's bits as on the processors seen */
    assert_true(rc_lsl(cpu, UDATA, &ok, &value));
    assert_true(ok);
    assert_int_equal(value, FLAT_LIMIT);
    assert_true(rc_lsl(cpu, CALL_GATE, &ok, &value));
    assert_false(ok);
    assert_true(rc_lar(cpu, CALL_GATE, &ok, &value));
    assert_true(ok);
    assert_true(rc_lar(cpu, 0, &ok, &value));
    assert_false(ok);
    assert_true(rc_lar(cpu, 0xfff8, &ok, &value));
    assert_false(ok);
    assert_true(rc_verify(cpu, KDATA, true, &ok));
    assert_true(ok);
    assert_true(rc_verify(cpu, KCODE, true, &ok));
    assert_false(ok);
    assert_true(rc_verify(cpu, EXEC_ONLY, false, &ok));
    assert_false(ok);
    enter_ring(cpu, 3);
    assert_true(rc_verify(cpu, KDATA, false, &ok));
    assert_false(ok);
    assert_true(rc_lar(cpu, CONFORMING, &ok, &value));
    assert_true(ok);
    cpu->eflags |= F_VM;
    assert_false(rc_lar(cpu, UDATA, &ok, &value));
    assert_int_equal(cpu->fault.vector, VEC_UD);
}

static void page_fault_in_the_table_leaves_the_register(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enable_paging(cpu);
    set_page(cpu, GDT, 0);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_load_segment(cpu, SEG_FS, SMALL), VEC_PF, 0);
    assert_int_equal(cpu->fault.cr2, GDT + (SMALL & ~7));
    assert_unchanged(cpu, &before);
    /* The table is readable but the accessed bit cannot be set: CR0.WP holds for the CPU too. */
    set_page(cpu, GDT, 1);
    assert_fault(rc_load_segment(cpu, SEG_FS, SMALL), VEC_PF, PF_P | PF_W);
    assert_unchanged(cpu, &before);
    enter_ring(cpu, 3);
    assert_fault(rc_load_segment(cpu, SEG_FS, SMALL), VEC_PF, PF_P | PF_W);
    set_page(cpu, GDT, 3); /* supervisor page, read from ring 3 */
    assert_true(rc_load_segment(cpu, SEG_FS, SMALL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(data_segment_loads_and_sets_the_accessed_bit),
        TEST(null_selector_loads_but_faults_on_use),
        TEST(data_segment_checks_come_in_the_manuals_order),
        TEST(stack_segment_needs_cpl_everywhere),
        TEST(real_mode_keeps_limit_and_v86_resets_it),
        TEST(expand_down_limits_are_inverted),
        TEST(linear_checks_limit_and_type),
        TEST(lldt_and_ltr_check_type_table_and_presence),
        TEST(lar_lsl_and_verify_see_what_the_caller_may_see),
        TEST(page_fault_in_the_table_leaves_the_register),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
