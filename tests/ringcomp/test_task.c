/* test_task.c: hardware task switches by jump, call, gate, interrupt and IRET. */
#include "rc_fixture.h"

static u32 tss_type(struct cpu *cpu, u16 selector) {
    return peek32(cpu, GDT + (selector & ~7u) + 4) >> 8 & 15;
}

static struct cpu *boot(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    poke32(cpu, TSS_B + 0x1c, PAGE_DIRECTORY);
    poke32(cpu, TSS_B + 0x20, 0x4242);
    poke32(cpu, TSS_B + 0x24, F_FIXED | F_CF);
    for (unsigned i = 0; i < 8; i++)
        poke32(cpu, TSS_B + 0x28 + 4 * i, 0x11110000 + i);
    poke32(cpu, TSS_B + 0x38, STACK1);
    for (unsigned s = 0; s < 6; s++)
        poke32(cpu, TSS_B + 0x48 + 4 * s, s == SEG_CS ? KCODE : s == SEG_FS ? UDATA : KDATA);
    poke32(cpu, TSS_B + 0x60, LDT_SEL);
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = 0xaaaa0000 + i;
    cpu->gpr[R_ESP] = STACK0;
    cpu->dr[7] = 0x455;
    return cpu;
}

static void jump_saves_the_old_task_and_loads_the_new(void **state) {
    struct cpu *cpu = boot(state);
    cpu->eflags = F_FIXED | F_ZF;
    assert_true(rc_far_jump(cpu, TASK_B, 0, 4, 0x107));
    assert_int_equal(peek32(cpu, TSS_A + 0x20), 0x107);
    assert_int_equal(peek32(cpu, TSS_A + 0x24), F_FIXED | F_ZF);
    assert_int_equal(peek32(cpu, TSS_A + 0x28), 0xaaaa0000);
    assert_int_equal(load16(ram(cpu, TSS_A + 0x4c)), KCODE);
    assert_int_equal(cpu->eip, 0x4242);
    assert_int_equal(cpu->eflags, F_FIXED | F_CF);
    assert_int_equal(cpu->gpr[R_EDI], 0x11110007);
    assert_int_equal(cpu->gpr[R_ESP], STACK1);
    assert_int_equal(cpu->seg[SEG_FS].selector, UDATA);
    assert_int_equal(cpu->seg[SEG_LDTR].selector, LDT_SEL);
    assert_int_equal(cpu->seg[SEG_TR].selector, TASK_B);
    assert_int_equal(tss_type(cpu, TASK_A), 9);
    assert_int_equal(tss_type(cpu, TASK_B), 11);
    assert_true(cpu->cr0 & CR0_TS);
    assert_int_equal(cpu->dr[7], 0x400);
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0), VEC_GP, TASK_B); /* busy */
}

static void call_nests_and_iret_returns(void **state) {
    struct cpu *cpu = boot(state);
    assert_true(rc_far_call(cpu, TASK_GATE, 0, 4, 0x107));
    assert_true(cpu->eflags & F_NT);
    assert_int_equal(load16(ram(cpu, TSS_B)), TASK_A);
    assert_int_equal(tss_type(cpu, TASK_A), 11);
    assert_int_equal(tss_type(cpu, TASK_B), 11);
    cpu->gpr[R_EAX] = 0x77;
    assert_true(rc_iret(cpu, 4, 0x4250));
    assert_int_equal(cpu->eip, 0x107);
    assert_false(cpu->eflags & F_NT);
    assert_int_equal(cpu->gpr[R_EAX], 0xaaaa0000);
    assert_int_equal(tss_type(cpu, TASK_A), 11);
    assert_int_equal(tss_type(cpu, TASK_B), 9);
    assert_int_equal(peek32(cpu, TSS_B + 0x20), 0x4250);
    assert_int_equal(peek32(cpu, TSS_B + 0x28), 0x77);
    assert_false(peek32(cpu, TSS_B + 0x24) & F_NT);
}

static void sixteen_bit_task_and_back(void **state) {
    struct cpu *cpu = boot(state);
    store16(ram(cpu, TSS_16 + 0x0e), 0x1357);
    store16(ram(cpu, TSS_16 + 0x10), F_FIXED);
    store16(ram(cpu, TSS_16 + 0x12), 0xabcd);
    store16(ram(cpu, TSS_16 + 0x1a), 0x8800);
    const u16 sel[4] = {KDATA, CODE16, STACK16, KDATA};
    memcpy(ram(cpu, TSS_16 + 0x22), sel, sizeof sel);
    assert_true(rc_far_call(cpu, TASK_16, 0, 4, 0x107));
    assert_int_equal(cpu->eip, 0x1357);
    assert_int_equal(cpu->gpr[R_EAX], 0xabcd);
    assert_int_equal(cpu->gpr[R_ESP], 0x8800);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE16);
    assert_int_equal(cpu->seg[SEG_FS].attr, ATTR_NULL);
    assert_true(rc_iret(cpu, 2, 0x1360));
    assert_int_equal(cpu->eip, 0x107);
    assert_int_equal(load16(ram(cpu, TSS_16 + 0x0e)), 0x1360);
    assert_int_equal(load16(ram(cpu, TSS_16 + 0x28 - 4)), CODE16);
}

static void refusals_leave_the_old_task(void **state) {
    struct cpu *cpu = boot(state);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_task_switch(cpu, 0x0c, RC_TASK_JUMP, 0, false, 0), VEC_GP, 0x0c);
    assert_fault(rc_task_switch(cpu, KDATA, RC_TASK_EVENT, 0, false, 0), VEC_GP, KDATA | 1);
    assert_fault(rc_task_switch(cpu, TASK_B, RC_TASK_IRET, 0, false, 0), VEC_TS, TASK_B);
    put_desc(cpu->mmu, GDT + TASK_B, TSS_B, 102, ATTR_P | 9);
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0), VEC_TS, TASK_B);
    put_desc(cpu->mmu, GDT + TASK_B, TSS_B, 103, 9);
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0), VEC_NP, TASK_B);
    assert_unchanged(cpu, &before);
    put_desc(cpu->mmu, GDT + TASK_B, TSS_B, 103, ATTR_P | 9);
    enter_ring(cpu, 3);
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0), VEC_GP, TASK_B);
    assert_true(rc_far_jump(cpu, TASK_GATE, 0, 4, 0)); /* the gate's DPL counts */
    assert_int_equal(cpu->cpl, 0);
}

static void unreadable_new_tss_faults_in_the_old_task(void **state) {
    struct cpu *cpu = boot(state);
    enable_paging(cpu);
    put_desc(cpu->mmu, GDT + TASK_B, 0x20fc0, 103, ATTR_P | 9);
    memcpy(ram(cpu, 0x20fc0), ram(cpu, TSS_B), 104);
    set_page(cpu, 0x21000, 0);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0), VEC_PF, 0);
    assert_unchanged(cpu, &before);
    set_page(cpu, 0x21000, 7);
    set_page(cpu, 0x20000, 5); /* a call must write the link */
    assert_fault(rc_far_call(cpu, TASK_B, 0, 4, 0), VEC_PF, PF_P | PF_W);
    assert_unchanged(cpu, &before);
    assert_true(rc_far_jump(cpu, TASK_B, 0, 4, 0));
}

static void bad_segment_faults_in_the_new_task(void **state) {
    struct cpu *cpu = boot(state);
    poke32(cpu, TSS_B + 0x50, UDATA); /* SS with the wrong DPL */
    assert_fault(rc_far_jump(cpu, TASK_B, 0, 4, 0x107), VEC_TS, UDATA & ~3);
    assert_int_equal(cpu->seg[SEG_TR].selector, TASK_B);
    assert_int_equal(cpu->eip, 0x4242);
    assert_int_equal(peek32(cpu, TSS_A + 0x20), 0x107);
}

static void task_in_v86_mode_and_trap_bit(void **state) {
    struct cpu *cpu = boot(state);
    poke32(cpu, TSS_B + 0x24, F_FIXED | F_VM);
    poke32(cpu, TSS_B + 0x4c, 0x1234);
    ram(cpu, TSS_B)[0x64] = 1;
    assert_false(rc_far_jump(cpu, TASK_B, 0, 4, 0));
    assert_int_equal(cpu->fault.vector, VEC_DB);
    assert_true(cpu->dr[6] & BIT(15));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_int_equal(cpu->eip, 0x4242);
}

static void new_task_brings_its_address_space(void **state) {
    struct cpu *cpu = boot(state);
    enable_paging(cpu);
    poke32(cpu, TSS_B + 0x1c, 0x6000);
    poke32(cpu, 0x6000, PAGE_TABLE | 7);
    assert_true(rc_far_jump(cpu, TASK_B, 0, 4, 0));
    assert_int_equal(cpu->cr3, 0x6000);
}

/* The old TSS lies where only the old task's tables lead, in a page that no TLB of ours keeps. */
static u32 mmio_stores;
static u64 mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    (void)opaque, (void)addr, (void)bytes;
    return 0;
}
static void mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)value, (void)bytes;
    mmio_stores += addr.v >= 0x200020 && addr.v < 0x200060;
}

static void old_task_is_left_through_its_own_pae_tables(void **state) {
    enum { PDPT_A = 0x6000, PDPT_B = 0x6040, PD_A = 0x7000, PD_B = 0x8000, LARGE = 0xe7 };
    struct cpu *cpu = boot(state);
    struct fixture *f = *state;
    f->bus.mmio_read = mmio_read;
    f->bus.mmio_write = mmio_write;
    store64(ram(cpu, PDPT_A), PD_A | 1);
    store64(ram(cpu, PDPT_B), PD_B | 1);
    store64(ram(cpu, PD_A), LARGE);
    store64(ram(cpu, PD_A + 8), 0x200000 | LARGE); /* behind RAM */
    store64(ram(cpu, PD_B), LARGE);
    poke32(cpu, TSS_B + 0x1c, PDPT_B);
    cpu->cr3 = PDPT_A;
    assert_true(rc_write_cr(cpu, 4, CR4_PAE));
    assert_true(rc_write_cr(cpu, 0, cpu->cr0 | CR0_PG));
    cpu->seg[SEG_TR].base = 0x200000;
    mmio_stores = 0;
    assert_true(rc_far_jump(cpu, TASK_B, 0, 4, 0x107));
    assert_int_equal(mmio_stores, 16); /* EIP, EFLAGS, eight registers, six selectors */
    assert_int_equal(cpu->cr3, PDPT_B);
    assert_int_equal(cpu->pdptr[0], PD_B | 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(jump_saves_the_old_task_and_loads_the_new),
        TEST(call_nests_and_iret_returns),
        TEST(sixteen_bit_task_and_back),
        TEST(refusals_leave_the_old_task),
        TEST(unreadable_new_tss_faults_in_the_old_task),
        TEST(bad_segment_faults_in_the_new_task),
        TEST(task_in_v86_mode_and_trap_bit),
        TEST(new_task_brings_its_address_space),
        TEST(old_task_is_left_through_its_own_pae_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
