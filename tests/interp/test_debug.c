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

static void stack_segment_load_holds_its_breakpoint_back(void **state) {
    struct guest *g = *state;
    store64(guest_at(g, GDT_BASE + 16), 0x00cf93000000ffffull);
    store16(guest_at(g, DATA_BASE), 16);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->dr[0] = DATA_BASE;
    g->cpu->dr[1] = CODE_BASE + 2;          /* on the instruction behind: not seen at all */
    g->cpu->dr[7] = 0x400 | 5 | 0x7u << 16; /* reads and writes, two bytes */
    assert_int_equal(STEP(g, "\x8e\x13\x40"), INTERP_OK);
    assert_int_equal(g->cpu->dr[6] & 0xf, 0);
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 3, 1);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
    assert_int_equal(g->cpu->shadow, 0);
}

/* CVE-2018-8897: the handler of the fault or interrupt that follows meets the #DB. */
static void held_breakpoint_is_reported_in_the_handler(void **state) {
    struct guest *g = *state;
    store64(guest_at(g, GDT_BASE + 8), 0x00cf9b000000ffffull);
    store64(guest_at(g, GDT_BASE + 16), 0x00cf93000000ffffull);
    u32 handler = CODE_BASE + 0x100;
    store64(guest_at(g, IDT_BASE + 8 * VEC_UD),
            (handler & 0xffffull) | 8ull << 16 | 0x8e00ull << 32 | (u64)(handler >> 16) << 48);
    store16(guest_at(g, DATA_BASE), 16);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->dr[0] = DATA_BASE;
    g->cpu->dr[7] = 0x400 | 1 | 0x7u << 16;
    assert_int_equal(STEP(g, "\x8e\x13\x0f\x0b"), INTERP_OK);
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_UD);
    rc_deliver_fault(g->cpu);
    expect_debug_trap(g, interp_step(g->it, g->cpu), handler, 1);
}

static void interrupt_frame_hits_a_breakpoint(void **state) {
    struct guest *g = *state;
    u32 handler = CODE_BASE + 0x100;
    store64(guest_at(g, GDT_BASE + 8), 0x00cf9b000000ffffull);
    store64(guest_at(g, IDT_BASE + 8 * 0x30),
            (handler & 0xffffull) | 8ull << 16 | 0x8e00ull << 32 | (u64)(handler >> 16) << 48);
    g->cpu->dr[2] = STACK_TOP - 4;
    g->cpu->dr[7] = 0x400 | 1 << 4 | 0xdu << 24;
    g->cpu->eflags |= F_TF; /* pushed and cleared: no single step */
    expect_debug_trap(g, STEP(g, "\xcd\x30"), handler, 4);
}

static void repeated_string_is_left_with_rf(void **state) {
    struct guest *g = *state;
    g->cpu->dr[0] = CODE_BASE;
    g->cpu->dr[1] = DATA_BASE;
    g->cpu->dr[7] = 0x400 | 5 | 0xdu << 20;
    g->cpu->gpr[R_EDI] = DATA_BASE;
    g->cpu->gpr[R_ECX] = 3;
    expect_debug_trap(g, STEP(g, "\xf3\xab"), CODE_BASE, 1);
    g->cpu->eflags |= F_RF;
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE, 2);
    assert_true(g->cpu->eflags & F_RF); /* so that the breakpoint on it does not fire again */
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_REP_MORE);
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
    assert_false(g->cpu->eflags & F_RF);
}

static void port_breakpoints_need_de(void **state) {
    struct guest *g = *state;
    g->cpu->dr[0] = 0x72;
    g->cpu->dr[7] = 0x400 | 1 | 0x6u << 16; /* ports, two bytes */
    assert_int_equal(STEP(g, "\xe6\x73"), INTERP_OK);
    g->cpu->cr4 |= CR4_DE;
    expect_debug_trap(g, STEP(g, "\xe6\x73"), CODE_BASE + 2, 1);
    expect_debug_trap(g, STEP(g, "\xe5\x70"), CODE_BASE + 2, 1); /* 70h to 73h */
    assert_int_equal(STEP(g, "\xe5\x74"), INTERP_OK);
    g->cpu->gpr[R_EDX] = 0x73;
    g->cpu->gpr[R_EDI] = DATA_BASE;
    g->cpu->gpr[R_ECX] = 2;
    expect_debug_trap(g, STEP(g, "\xf3\x6c"), CODE_BASE, 1);
    expect_debug_trap(g, interp_step(g->it, g->cpu), CODE_BASE + 2, 1);
}

/* x87, MMX and SSE operands, with their whole lengths, and only when the access took place. */
static void float_operands_are_watched(void **state) {
    struct guest *g = *state;
    g->cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    store16(g->cpu->fx, 0x37f);
    store32(g->cpu->fx + 24, 0x1f80);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->dr[0] = DATA_BASE + 8;
    g->cpu->dr[7] = 0x400 | 1 | 0xdu << 16;                              /* writes of four bytes */
    assert_int_equal(STEP(g, "\xdb\x2b"), INTERP_OK);                    /* fld m80 */
    expect_debug_trap(g, STEP(g, "\xdb\x3b"), CODE_BASE + 2, 1);         /* fstp m80: ten bytes */
    assert_int_equal(STEP(g, "\xd9\xe8\xdd\x1b"), INTERP_OK);            /* fld1 */
    assert_int_equal(STEP(g, "\xdd\x1b"), INTERP_OK);                    /* fstp m64: eight */
    expect_debug_trap(g, STEP(g, "\x0f\x29\x03"), CODE_BASE + 3, 1);     /* movaps store */
    assert_int_equal(STEP(g, "\x0f\x28\x03"), INTERP_OK);                /* movaps load */
    expect_debug_trap(g, STEP(g, "\x0f\xae\x03"), CODE_BASE + 3, 1);     /* fxsave */
    expect_debug_trap(g, STEP(g, "\xd9\x33"), CODE_BASE + 2, 1);         /* fnstenv */
    expect_debug_trap(g, STEP(g, "\xdd\x33"), CODE_BASE + 2, 1);         /* fnsave */
    g->cpu->dr[7] |= 0xfu << 16;                                         /* reads, too */
    expect_debug_trap(g, STEP(g, "\x0f\x58\x03"), CODE_BASE + 3, 1);     /* addps */
    expect_debug_trap(g, STEP(g, "\x0f\x7f\x43\x08"), CODE_BASE + 4, 1); /* movq mm0 */
    assert_int_equal(STEP(g, "\x0f\xae\x53\x0c"), INTERP_OK);            /* ldmxcsr behind it */
}

static void masked_move_is_watched_by_byte(void **state) {
    struct guest *g = *state;
    g->cpu->cr4 |= CR4_OSFXSR;
    store32(g->cpu->fx + 24, 0x1f80);
    g->cpu->fx[160 + 16 + 5] = 0x80; /* xmm1 selects byte 5 */
    g->cpu->gpr[R_EDI] = DATA_BASE;
    g->cpu->dr[0] = DATA_BASE + 4;
    g->cpu->dr[7] = 0x400 | 1 | 0x1u << 16; /* one byte */
    assert_int_equal(STEP(g, "\x66\x0f\xf7\xc1"), INTERP_OK);
    g->cpu->dr[0] = DATA_BASE + 5;
    expect_debug_trap(g, STEP(g, "\x66\x0f\xf7\xc1"), CODE_BASE + 4, 1);
}

static void store_that_an_exception_stops_is_not_watched(void **state) {
    struct guest *g = *state;
    store16(g->cpu->fx, 0x37e); /* invalid operation unmasked */
    g->cpu->fx[4] = 0;          /* and all registers empty */
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->dr[0] = DATA_BASE;
    g->cpu->dr[7] = 0x400 | 1 | 0xdu << 16;
    assert_int_equal(STEP(g, "\xdb\x1b"), INTERP_OK); /* fistp from an empty register */
    assert_int_equal(STEP(g, "\xdb\xe3"), INTERP_OK); /* fninit: all masked */
    expect_debug_trap(g, STEP(g, "\xdb\x1b"), CODE_BASE + 2, 1);
}

/* Where the operand may begin, as offsets from a multiple of 16: one bit each. SDM volume 3, table
 * 6-7; for movups, fxsave and maskmovdqu as on AMD family 1Ah. */
static void float_operands_are_aligned(void **state) {
    static const struct {
        const char *code;
        u8 bytes;
        u16 fine, gp;
    } cases[] = {
        {"\xd9\x2b", 2, 0x5555, 0},             /* fldcw */
        {"\xd9\x03", 2, 0x1111, 0},             /* fld m32 */
        {"\xdd\x03", 2, 0x0101, 0},             /* fld m64 */
        {"\xdb\x2b", 2, 0x0101, 0},             /* fld m80 */
        {"\xdf\x23", 2, 0x0101, 0},             /* fbld */
        {"\xd9\x33", 2, 0x1111, 0},             /* fnstenv */
        {"\x66\xd9\x33", 3, 0x5555, 0},         /* the 16-bit one */
        {"\xdd\x33", 2, 0x1111, 0},             /* fnsave */
        {"\x66\xdd\x23", 3, 0x5555, 0},         /* frstor, 16 bits */
        {"\x0f\x6e\x03", 3, 0x1111, 0},         /* movd mm0 */
        {"\x0f\x6f\x03", 3, 0x0101, 0},         /* movq mm0 */
        {"\xf3\x0f\x10\x03", 4, 0x1111, 0},     /* movss */
        {"\xf2\x0f\x10\x03", 4, 0x0101, 0},     /* movsd */
        {"\x66\x0f\xc4\x03\x00", 5, 0x5555, 0}, /* pinsrw */
        {"\x0f\x10\x03", 3, 0x0001, 0},         /* movups */
        {"\x0f\x28\x03", 3, 0x0001, 0xfffe},    /* movaps */
        {"\x0f\xae\x03", 3, 0x0001, 0x1110},    /* fxsave */
        {"\x0f\xae\x5b\x00", 4, 0x1111, 0},     /* stmxcsr */
        {"\x66\x0f\xf7\xc1", 4, 0x0101, 0},     /* maskmovdqu */
        {"\x0f\x01\x03", 3, 0x4444, 0},         /* sgdt */
        {"\x0f\x00\x03", 3, 0x5555, 0},         /* sldt: a selector */
    };
    struct guest *g = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        for (u32 offset = 0; offset < 16; offset++) {
            guest_reset(g, 3);
            struct cpu *cpu = g->cpu;
            cpu->cr0 |= CR0_AM;
            cpu->cr4 |= CR4_OSFXSR;
            cpu->eflags |= F_AC;
            store16(cpu->fx, 0x37f);
            store32(cpu->fx + 24, 0x1f80);
            cpu->gpr[R_EBX] = cpu->gpr[R_EDI] = DATA_BASE + offset;
            memcpy(guest_at(g, CODE_BASE), cases[i].code, cases[i].bytes);
            enum interp_result r = interp_step(g->it, cpu);
            bool fine = cases[i].fine >> offset & 1, gp = cases[i].gp >> offset & 1;
            if (r != (fine ? INTERP_OK : INTERP_FAULT) ||
                (!fine && cpu->fault.vector != (gp ? VEC_GP : VEC_AC)))
                fail_msg("case %u at offset %u: result %d, vector %u", i, offset, r,
                         cpu->fault.vector);
        }
}

static void limit_goes_before_alignment(void **state) {
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->cr0 |= CR0_AM;
    g->cpu->eflags |= F_AC;
    g->cpu->gpr[R_EBP] = 3;
    assert_int_equal(STEP(g, "\xc8\x00\x00\x02"), INTERP_FAULT); /* enter 0, 2 reads at -1 */
    assert_int_equal(g->cpu->fault.vector, VEC_SS);
    g->cpu->gpr[R_EBX] = 0xfffffffeu;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_GP);
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
        CASE(stack_segment_load_holds_its_breakpoint_back),
        CASE(held_breakpoint_is_reported_in_the_handler),
        CASE(interrupt_frame_hits_a_breakpoint),
        CASE(repeated_string_is_left_with_rf),
        CASE(port_breakpoints_need_de),
        CASE(float_operands_are_watched),
        CASE(masked_move_is_watched_by_byte),
        CASE(store_that_an_exception_stops_is_not_watched),
        CASE(float_operands_are_aligned),
        CASE(limit_goes_before_alignment),
    };
    return cmocka_run_group_tests_name("interp.debug", tests, NULL, NULL);
}
