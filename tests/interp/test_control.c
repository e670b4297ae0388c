/*
 * test_control.c: branches, loops, calls and software interrupts, with both operand sizes and both
 * address sizes.
 */
#include "interp_fixture.h"

static void loop_counts_in_the_address_size(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_ECX] = 0x10001;
    assert_int_equal(STEP(g, "\x67\xe2\x10"), INTERP_OK); /* CX becomes 0: not taken */
    assert_int_equal(g->cpu->gpr[R_ECX], 0x10000);
    assert_int_equal(g->cpu->eip, CODE_BASE + 3);
    assert_int_equal(STEP(g, "\xe2\x10"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_ECX], 0xffff);
    assert_int_equal(g->cpu->eip, CODE_BASE + 0x12);
}

static void loope_and_loopne_look_at_zf(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_ECX] = 10;
    STEP(g, "\xe1\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
    STEP(g, "\xe0\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 0x12);
    g->cpu->eflags |= F_ZF;
    STEP(g, "\xe1\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 0x12);
    STEP(g, "\xe0\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
    assert_int_equal(g->cpu->gpr[R_ECX], 6);
}

static void jecxz_and_jcxz(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_ECX] = 0x10000;
    STEP(g, "\xe3\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
    STEP(g, "\x67\xe3\x10");
    assert_int_equal(g->cpu->eip, CODE_BASE + 0x13);
}

static void sixteen_bit_branches_truncate_eip(void **state) {
    struct guest *g = *state;
    STEP(g, "\x66\xe9\x10\x00");
    assert_int_equal(g->cpu->eip, (CODE_BASE + 0x14) & 0xffff);
    STEP(g, "\x66\xeb\x10");
    assert_int_equal(g->cpu->eip, (CODE_BASE + 0x13) & 0xffff);
    STEP(g, "\x66\xe8\x10\x00");
    assert_int_equal(g->cpu->gpr[R_ESP], STACK_TOP - 2);
    assert_int_equal(load16(guest_at(g, STACK_TOP - 2)), (CODE_BASE + 4) & 0xffff);
    g->cpu->gpr[R_EAX] = 0x12345678;
    STEP(g, "\x66\xff\xe0");
    assert_int_equal(g->cpu->eip, 0x5678);
}

static void call_and_ret_pair(void **state) {
    struct guest *g = *state;
    STEP(g, "\xe8\x20\0\0\0");
    assert_int_equal(g->cpu->eip, CODE_BASE + 0x25);
    assert_int_equal(load32(guest_at(g, STACK_TOP - 4)), CODE_BASE + 5);
    STEP(g, "\xc2\x08\0");
    assert_int_equal(g->cpu->eip, CODE_BASE + 5);
    assert_int_equal(g->cpu->gpr[R_ESP], STACK_TOP + 8);
    store32(guest_at(g, DATA_BASE), 0xcafe);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    STEP(g, "\xff\x13");
    assert_int_equal(g->cpu->eip, 0xcafe);
    /* the target is read before ESP moves: call [esp] */
    store32(guest_at(g, STACK_TOP), 0xbeef);
    g->cpu->gpr[R_ESP] = STACK_TOP;
    STEP(g, "\xff\x14\x24");
    assert_int_equal(g->cpu->eip, 0xbeef);
}

static void far_jump_in_real_mode(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    cpu_reset(cpu);
    memcpy(guest_at(g, 0x7c00), "\xea\x34\x12\x00\x20", 5);
    cpu->seg[SEG_CS].selector = 0;
    cpu->seg[SEG_CS].base = 0;
    cpu->eip = 0x7c00;
    assert_int_equal(interp_step(g->it, cpu), INTERP_DELIVERED);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x2000);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x20000);
    assert_int_equal(cpu->eip, 0x1234);
}

static void real_mode_int_and_iret(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    cpu_reset(cpu);
    cpu->seg[SEG_CS].selector = 0;
    cpu->seg[SEG_CS].base = 0;
    cpu->idtr.limit = 0x3ff;
    cpu->gpr[R_ESP] = 0x9000;
    cpu->eip = 0x7c00;
    cpu->eflags = F_FIXED | F_IF | F_CF;
    store32(guest_at(g, 0x10 * 4), 0x30000500);
    memcpy(guest_at(g, 0x7c00), "\xcd\x10", 2);
    *guest_at(g, 0x30500) = 0xcf;
    assert_int_equal(interp_step(g->it, cpu), INTERP_DELIVERED);
    assert_int_equal(cpu->seg[SEG_CS].base + cpu->eip, 0x30500);
    assert_int_equal(cpu->eflags & F_IF, 0);
    assert_int_equal(load16(guest_at(g, 0x8ffa)), 0x7c02);
    assert_int_equal(interp_step(g->it, cpu), INTERP_DELIVERED);
    assert_int_equal(cpu->eip, 0x7c02);
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_CF);
    assert_int_equal(cpu->gpr[R_ESP], 0x9000);
}

static void into_and_bound(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\xce"), INTERP_OK);
    store32(guest_at(g, DATA_BASE), (u32)-5);
    store32(guest_at(g, DATA_BASE + 4), 7);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->gpr[R_EAX] = 7;
    assert_int_equal(STEP(g, "\x62\x03"), INTERP_OK);
    g->cpu->gpr[R_EAX] = 8;
    assert_int_equal(STEP(g, "\x62\x03"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_BR);
    g->cpu->gpr[R_EAX] = (u32)-6;
    assert_int_equal(STEP(g, "\x62\x03"), INTERP_FAULT);
}

static void enter_copies_frame_pointers(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EBP] = DATA_BASE + 0x100;
    store32(guest_at(g, DATA_BASE + 0xfc), 0x11111111);
    store32(guest_at(g, DATA_BASE + 0xf8), 0x22222222);
    assert_int_equal(STEP(g, "\xc8\x10\x00\x03"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EBP], STACK_TOP - 4);
    assert_int_equal(g->cpu->gpr[R_ESP], STACK_TOP - 16 - 0x10);
    assert_int_equal(load32(guest_at(g, STACK_TOP - 4)), DATA_BASE + 0x100);
    assert_int_equal(load32(guest_at(g, STACK_TOP - 8)), 0x11111111);
    assert_int_equal(load32(guest_at(g, STACK_TOP - 12)), 0x22222222);
    assert_int_equal(load32(guest_at(g, STACK_TOP - 16)), STACK_TOP - 4);
}

static void pusha_wraps_with_a_16_bit_stack(void **state) {
    struct guest *g = *state;
    g->cpu->seg[SEG_SS].attr &= ~(u32)ATTR_DB;
    g->cpu->seg[SEG_SS].base = DATA_BASE;
    g->cpu->gpr[R_ESP] = 0xabcd0006;
    g->cpu->gpr[R_EAX] = 0x1111;
    g->cpu->gpr[R_EDI] = 0x7777;
    assert_int_equal(STEP(g, "\x66\x60"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_ESP], 0xabcdfff6);
    assert_int_equal(load16(guest_at(g, DATA_BASE + 4)), 0x1111);
    assert_int_equal(load16(guest_at(g, DATA_BASE + 0xfff6)), 0x7777);
    g->cpu->gpr[R_EAX] = g->cpu->gpr[R_EDI] = 0;
    assert_int_equal(STEP(g, "\x66\x61"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 0x1111);
    assert_int_equal(g->cpu->gpr[R_EDI], 0x7777);
    assert_int_equal(g->cpu->gpr[R_ESP], 0xabcd0006);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(loop_counts_in_the_address_size),
        CASE(loope_and_loopne_look_at_zf),
        CASE(jecxz_and_jcxz),
        CASE(sixteen_bit_branches_truncate_eip),
        CASE(call_and_ret_pair),
        CASE(far_jump_in_real_mode),
        CASE(real_mode_int_and_iret),
        CASE(into_and_bound),
        CASE(enter_copies_frame_pointers),
        CASE(pusha_wraps_with_a_16_bit_stack),
    };
    return cmocka_run_group_tests_name("interp.control", tests, NULL, NULL);
}
