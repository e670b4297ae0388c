/* test_iret.c: IRET's forms and the flags each may change. */
#include "rc_fixture.h"

#define ALL_FLAGS 0xffffffffu

/* Puts an IRET frame of 32-bit slots at the current ESP. */
static void frame(struct cpu *cpu, u32 eip, u32 cs, u32 flags, u32 esp, u32 ss) {
    const u32 slot[5] = {eip, cs, flags, esp, ss};
    cpu->gpr[R_ESP] = STACK0 - 64;
    for (unsigned i = 0; i < 5; i++)
        poke32(cpu, STACK0 - 64 + 4 * i, slot[i]);
}

static void ring_0_to_ring_0_takes_every_flag_but_vm(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    frame(cpu, 0x1234, KCODE, ALL_FLAGS & ~F_VM, 0, 0);
    assert_true(rc_iret(cpu, 4, 0));
    assert_int_equal(cpu->eflags, F_ALL & ~F_VM);
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 52);
    assert_int_equal(cpu->eip, 0x1234);
    cpu->eflags = F_FIXED | F_RF | F_AC;
    cpu->gpr[R_ESP] = STACK0 - 64;
    store16(ram(cpu, STACK0 - 62), KCODE);
    store16(ram(cpu, STACK0 - 60), 0xffff & ~F_NT);
    assert_true(rc_iret(cpu, 2, 0));
    assert_int_equal(cpu->eflags, ((F_ALL & 0xffff) & ~F_NT) | F_RF | F_AC);
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 58);
}

static void to_ring_3_nulls_inaccessible_segments(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(rc_load_segment(cpu, SEG_DS, KDATA));
    assert_true(rc_load_segment(cpu, SEG_ES, UDATA));
    assert_true(rc_load_segment(cpu, SEG_FS, DATA1));
    assert_true(rc_load_segment(cpu, SEG_GS, 2));
    frame(cpu, 0x1234, UCODE, F_FIXED | F_IF | F_IOPL, STACK3, UDATA);
    assert_true(rc_iret(cpu, 4, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[R_ESP], STACK3);
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_IOPL);
    assert_int_equal(cpu->seg[SEG_DS].attr, ATTR_NULL);
    assert_int_equal(cpu->seg[SEG_DS].selector, 0);
    assert_int_equal(cpu->seg[SEG_ES].selector, UDATA);
    assert_int_equal(cpu->seg[SEG_FS].selector, 0);
    assert_int_equal(cpu->seg[SEG_GS].selector, 2); /* null already: left alone */
}

static void ring_3_cannot_raise_itself(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enter_ring(cpu, 3);
    cpu->eflags = F_FIXED | F_IF;
    frame(cpu, 0x1234, UCODE, ALL_FLAGS & ~F_IF, 0, 0);
    assert_true(rc_iret(cpu, 4, 0)); /* VM in the image is ignored */
    assert_int_equal(cpu->eflags,
                     F_FIXED | F_IF | F_ARITH | F_TF | F_DF | F_NT | F_RF | F_AC | F_ID);
    cpu->eflags = F_FIXED | F_IOPL | F_IF;
    frame(cpu, 0x1234, UCODE, 0, 0, 0);
    assert_true(rc_iret(cpu, 4, 0));
    assert_int_equal(cpu->eflags, F_FIXED | F_IOPL);
    frame(cpu, 0x1234, KCODE, 0, 0, 0);
    assert_fault(rc_iret(cpu, 4, 0), VEC_GP, KCODE);
}

static void sixteen_bit_outer_stack_shows_the_upper_half_of_esp(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    put_desc(cpu->mmu, GDT + KDATA, 0xfff00000, FLAT_LIMIT, DATA_ATTR);
    assert_true(rc_load_segment(cpu, SEG_SS, KDATA));
    frame(cpu, 0x1234, UCODE, F_FIXED, 0x7776c000, USTACK16);
    cpu->gpr[R_ESP] = 0x100000 + STACK0 - 64; /* the same memory through the new base */
    assert_true(rc_iret(cpu, 4, 0));
    assert_int_equal(cpu->gpr[R_ESP], 0x0010c000);
}

static void checks_leave_the_state(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    static const struct {
        u32 eip, cs, ss, vector, error;
    } rows[] = {
        {0, 0, 0, VEC_GP, 0},
        {0, KDATA, 0, VEC_GP, KDATA},
        {0, 0x24, 0, VEC_GP, 0x24},
        {0, CODE1, 0, VEC_GP, CODE1},
        {0x10000, CODE16, 0, VEC_GP, 0},
        {0, UCODE, 0, VEC_GP, 0},
        {0, UCODE, UDATA & ~3, VEC_GP, UDATA & ~3},
        {0, UCODE, UCODE, VEC_GP, UCODE & ~3},
        {0, UCODE, ABSENT | 3, VEC_SS, ABSENT},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        frame(cpu, rows[i].eip, rows[i].cs, 2, STACK3, rows[i].ss);
        struct cpu before = snapshot(cpu);
        assert_fault(rc_iret(cpu, 4, 0), rows[i].vector, rows[i].error);
        assert_unchanged(cpu, &before);
    }
    put_desc(cpu->mmu, GDT + ABSENT, 0, 0xffff, (CODE_ATTR | DPL(3)) & ~ATTR_P);
    frame(cpu, 0, ABSENT | 3, 2, STACK3, UDATA);
    assert_fault(rc_iret(cpu, 4, 0), VEC_NP, ABSENT);
}

static void page_fault_on_the_outer_half_of_the_frame_changes_nothing(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enable_paging(cpu);
    cpu->gpr[R_ESP] = STACK0 - 12;
    poke32(cpu, STACK0 - 12, 0x1234);
    poke32(cpu, STACK0 - 8, UCODE);
    poke32(cpu, STACK0 - 4, F_FIXED);
    set_page(cpu, STACK0, 0);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_iret(cpu, 4, 0), VEC_PF, 0);
    assert_int_equal(cpu->fault.cr2, STACK0);
    assert_unchanged(cpu, &before);
}

static void v86_iret_needs_iopl_3_and_keeps_it(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    cpu->cpl = 3;
    cpu->eflags = F_FIXED | F_VM;
    assert_true(rc_load_segment(cpu, SEG_SS, 0x800));
    assert_true(rc_load_segment(cpu, SEG_CS, 0x100));
    cpu->gpr[R_ESP] = 0x100;
    store16(ram(cpu, 0x8100), 0x4321);
    store16(ram(cpu, 0x8102), 0x200);
    store16(ram(cpu, 0x8104), F_IF | F_CF);
    assert_fault(rc_iret(cpu, 2, 0), VEC_GP, 0);
    cpu->eflags |= F_IOPL;
    assert_true(rc_iret(cpu, 2, 0));
    assert_int_equal(cpu->eip, 0x4321);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x2000);
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IOPL | F_IF | F_CF);
    assert_int_equal(cpu->gpr[R_ESP], 0x106);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(ring_0_to_ring_0_takes_every_flag_but_vm),
        TEST(to_ring_3_nulls_inaccessible_segments),
        TEST(ring_3_cannot_raise_itself),
        TEST(sixteen_bit_outer_stack_shows_the_upper_half_of_esp),
        TEST(checks_leave_the_state),
        TEST(page_fault_on_the_outer_half_of_the_frame_changes_nothing),
        TEST(v86_iret_needs_iopl_3_and_keeps_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
