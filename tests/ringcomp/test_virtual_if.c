/*
 * test_virtual_if.c: VIF in the place of IF: CR4.VME in V86 mode, CR4.PVI in ring 3. SDM volume 3,
 * chapter 20 "8086 Emulation".
 */
#include "rc_fixture.h"

enum { V86_CODE = 0x1100, V86_STACK = 0x1200, MAP = 0x68, OWN_HANDLER = 0x1300 };

/* V86 mode at 1100:0010, stack 1200:0100, with the given flags; all INT n redirected. */
static struct cpu *enter_v86(void **state, u32 flags) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    enter_ring(cpu, 3);
    cpu->cr4 |= CR4_VME;
    cpu->eflags = F_FIXED | F_VM | flags;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] =
            (struct segment){.attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | DPL(3), .limit = 0xffff};
    cpu->seg[SEG_CS].selector = V86_CODE;
    cpu->seg[SEG_CS].base = V86_CODE << 4;
    cpu->seg[SEG_SS].selector = V86_STACK;
    cpu->seg[SEG_SS].base = V86_STACK << 4;
    cpu->gpr[R_ESP] = 0x100;
    cpu->eip = 0x10;
    store16(ram(cpu, TSS_A + 0x66), MAP + 32);
    memset(ram(cpu, TSS_A + MAP), 0, 32);
    poke32(cpu, 4 * 0x21, OWN_HANDLER << 16 | 0x42);
    return cpu;
}
static u32 stack_word(struct cpu *cpu, u32 offset) {
    return load16(ram(cpu, (V86_STACK << 4) + offset));
}

static void int_n_goes_to_the_programs_own_handler(void **state) {
    struct cpu *cpu = enter_v86(state, F_VIF | F_IF | F_TF | F_CF);
    assert_true(rc_deliver(cpu, 0x21, RC_SOFTWARE, false, 0, 0x12));
    assert_int_equal(cpu->seg[SEG_CS].selector, OWN_HANDLER);
    assert_int_equal(cpu->seg[SEG_CS].base, OWN_HANDLER << 4);
    assert_int_equal(cpu->eip, 0x42);
    assert_int_equal(cpu->gpr[R_ESP], 0xfa);
    assert_int_equal(stack_word(cpu, 0xfe), F_FIXED | F_CF | F_TF | F_IF | F_IOPL);
    assert_int_equal(stack_word(cpu, 0xfc), V86_CODE);
    assert_int_equal(stack_word(cpu, 0xfa), 0x12);
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IF | F_CF);
    assert_int_equal(cpu->cpl, 3);
}

static void int_n_at_iopl_3_clears_the_real_if(void **state) {
    struct cpu *cpu = enter_v86(state, F_VIF | F_IF | F_IOPL);
    assert_true(rc_deliver(cpu, 0x21, RC_SOFTWARE, false, 0, 0x12));
    assert_int_equal(stack_word(cpu, 0xfe), F_FIXED | F_IF | F_IOPL);
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_VIF | F_IOPL);
}

static void the_map_and_iopl_decide(void **state) {
    struct cpu *cpu = enter_v86(state, F_IF);
    put_gate(cpu->mmu, IDT + 8 * 0x21, 14, 3, KCODE, HANDLER, 0);
    put_gate(cpu->mmu, IDT + 8 * 3, 14, 3, KCODE, HANDLER, 0);
    ram(cpu, TSS_A + MAP)[0x21 / 8] = 1 << (0x21 & 7);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_deliver(cpu, 0x21, RC_SOFTWARE, false, 0, 0x12), VEC_GP, 0);
    store16(ram(cpu, TSS_A + 0x66), 31); /* the map would lie before the TSS */
    assert_fault(rc_deliver(cpu, 0x20, RC_SOFTWARE, false, 0, 0x12), VEC_GP, 0);
    store16(ram(cpu, TSS_A + 0x66), 0x400 + 31 - 0x21 / 8); /* or end before its byte */
    assert_fault(rc_deliver(cpu, 0x28, RC_SOFTWARE, false, 0, 0x12), VEC_GP, 0);
    store16(ram(cpu, TSS_A + 0x66), MAP + 32);
    cpu->seg[SEG_TR].attr = before.seg[SEG_TR].attr = ATTR_P | 3; /* a 16-bit TSS has none */
    assert_fault(rc_deliver(cpu, 0x20, RC_SOFTWARE, false, 0, 0x12), VEC_GP, 0);
    cpu->seg[SEG_TR].attr = before.seg[SEG_TR].attr = ATTR_P | 11;
    assert_unchanged(cpu, &before);
    cpu->eflags |= F_IOPL;
    assert_true(rc_deliver(cpu, 0x21, RC_SOFTWARE, false, 0, 0x12)); /* through the IDT */
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->eip, HANDLER);
    cpu = enter_v86(state, F_IF);
    assert_true(rc_deliver(cpu, 3, RC_SOFT_TRAP, false, 0, 0x12)); /* INT3 is not INT n */
    assert_int_equal(cpu->cpl, 0);
}

static void the_frame_of_int_n_faults_like_any_push(void **state) {
    struct cpu *cpu = enter_v86(state, F_VIF);
    enable_paging(cpu);
    set_page(cpu, V86_STACK << 4, 5);
    struct cpu before = snapshot(cpu);
    assert_false(rc_deliver(cpu, 0x21, RC_SOFTWARE, false, 0, 0x12));
    assert_int_equal(cpu->fault.vector, VEC_PF);
    assert_int_equal(cpu->fault.error, PF_P | PF_W | PF_U);
    assert_int_equal(cpu->eflags, before.eflags);
    assert_int_equal(cpu->gpr[R_ESP], 0x100);
    assert_int_equal(cpu->eip, 0x10);
}

static void flags_in_v86_mode_show_vif_as_if(void **state) {
    struct cpu *cpu = enter_v86(state, F_IF);
    u32 image;
    assert_true(rc_sti(cpu));
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IF | F_VIF);
    assert_int_equal(cpu->shadow, 0);
    assert_true(rc_pushf(cpu, &image, 2));
    assert_int_equal(image, F_FIXED | F_IF | F_IOPL);
    assert_true(rc_cli(cpu));
    assert_true(rc_pushf(cpu, &image, 2));
    assert_int_equal(image, F_FIXED | F_IOPL);
    assert_fault(rc_pushf(cpu, &image, 4), VEC_GP, 0);
    assert_fault(rc_popf(cpu, 0, 4), VEC_GP, 0);
    assert_fault(rc_popf(cpu, F_TF, 2), VEC_GP, 0);
    assert_true(rc_popf(cpu, F_IF | F_DF | F_NT, 2));
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IF | F_VIF | F_DF | F_NT);
    cpu->eflags |= F_VIP;
    assert_true(rc_virtual_interrupt_due(cpu));
    assert_true(rc_popf(cpu, 0, 2));
    assert_false(rc_virtual_interrupt_due(cpu));
    assert_fault(rc_sti(cpu), VEC_GP, 0);
    assert_fault(rc_popf(cpu, F_IF, 2), VEC_GP, 0);
    cpu->cr4 &= ~CR4_VME;
    assert_fault(rc_cli(cpu), VEC_GP, 0);
    assert_fault(rc_pushf(cpu, &image, 2), VEC_GP, 0);
}

static void iret_in_v86_mode_loads_vif(void **state) {
    struct cpu *cpu = enter_v86(state, F_IF);
    u8 *frame = ram(cpu, (V86_STACK << 4) + 0x100);
    store16(frame, 0x77);
    store16(frame + 2, 0x1400);
    store16(frame + 4, F_IF | F_ZF);
    assert_true(rc_iret(cpu, 2, 0));
    assert_int_equal(cpu->eip, 0x77);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x14000);
    assert_int_equal(cpu->gpr[R_ESP], 0x106);
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IF | F_VIF | F_ZF);
    cpu->gpr[R_ESP] = 0x100;
    assert_fault(rc_iret(cpu, 4, 0), VEC_GP, 0);
    cpu->eflags = F_FIXED | F_VM | F_IF | F_VIP;
    assert_fault(rc_iret(cpu, 2, 0), VEC_GP, 0);
    store16(frame + 4, F_TF);
    assert_fault(rc_iret(cpu, 2, 0), VEC_GP, 0);
    assert_int_equal(cpu->gpr[R_ESP], 0x100);
}

static void ring_3_under_pvi_has_cli_and_sti_only(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 image;
    enter_ring(cpu, 3);
    cpu->eflags = F_FIXED | F_IF;
    cpu->cr4 |= CR4_VME; /* not for protected mode */
    assert_fault(rc_sti(cpu), VEC_GP, 0);
    cpu->cr4 |= CR4_PVI;
    assert_true(rc_sti(cpu));
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_VIF);
    assert_true(rc_pushf(cpu, &image, 4));
    assert_int_equal(image, F_FIXED | F_IF | F_VIF);
    assert_true(rc_popf(cpu, 0, 4));
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_VIF);
    assert_true(rc_cli(cpu));
    cpu->eflags |= F_VIP;
    assert_fault(rc_sti(cpu), VEC_GP, 0);
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_VIP);
    cpu->eflags |= F_VIF;
    assert_true(rc_virtual_interrupt_due(cpu));
    cpu->cpl = 1; /* CPL 3 only */
    assert_false(rc_virtual_interrupt_due(cpu));
    assert_fault(rc_cli(cpu), VEC_GP, 0);
    cpu->cpl = 0;
    assert_true(rc_cli(cpu));
}

/* The remembered IRET of fast.c loads VIF and VIP as the long way does. */
static void iret_from_ring_0_loads_vif_and_vip(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    rc_fast_forget(cpu);
    for (int i = 0; i < 3; i++) {
        enter_ring(cpu, 0);
        const u32 frame[5] = {0x1000, UCODE, F_FIXED | F_IF | F_VIF | F_VIP, STACK3, UDATA};
        cpu->gpr[R_ESP] = STACK0 - 20;
        memcpy(ram(cpu, STACK0 - 20), frame, sizeof frame);
        assert_true(rc_fast_iret(cpu, 0));
        assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_VIF | F_VIP);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(int_n_goes_to_the_programs_own_handler),
        TEST(int_n_at_iopl_3_clears_the_real_if),
        TEST(the_map_and_iopl_decide),
        TEST(the_frame_of_int_n_faults_like_any_push),
        TEST(flags_in_v86_mode_show_vif_as_if),
        TEST(iret_in_v86_mode_loads_vif),
        TEST(ring_3_under_pvi_has_cli_and_sti_only),
        TEST(iret_from_ring_0_loads_vif_and_vip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
