/*
 * test_system.c: privileged and system instructions: who may execute them, what they read and
 * write, and that what CPUID does not announce is #UD.
 */
#include "interp_fixture.h"

#define EXPECT_FAULT(g, code, expected)                                                            \
    do {                                                                                           \
        assert_int_equal(STEP(g, code), INTERP_FAULT);                                             \
        assert_int_equal((g)->cpu->fault.vector, expected);                                        \
        assert_int_equal((g)->cpu->eip, CODE_BASE);                                                \
    } while (0)

static void privileged_instructions_raise_gp_at_ring_3(void **state) {
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->seg[SEG_TR].limit = 0x67; /* no port bitmap */
    g->cpu->gpr[R_EBX] = DATA_BASE;
    EXPECT_FAULT(g, "\xf4", VEC_GP);         /* hlt */
    EXPECT_FAULT(g, "\xfa", VEC_GP);         /* cli */
    EXPECT_FAULT(g, "\xfb", VEC_GP);         /* sti */
    EXPECT_FAULT(g, "\xec", VEC_GP);         /* in al, dx */
    EXPECT_FAULT(g, "\xee", VEC_GP);         /* out dx, al */
    EXPECT_FAULT(g, "\x0f\x20\xc0", VEC_GP); /* mov eax, cr0 */
    EXPECT_FAULT(g, "\x0f\x22\xd8", VEC_GP); /* mov cr3, eax */
    EXPECT_FAULT(g, "\x0f\x21\xf8", VEC_GP); /* mov eax, dr7 */
    EXPECT_FAULT(g, "\x0f\x01\x13", VEC_GP); /* lgdt */
    EXPECT_FAULT(g, "\x0f\x01\x1b", VEC_GP); /* lidt */
    EXPECT_FAULT(g, "\x0f\x01\x3b", VEC_GP); /* invlpg */
    EXPECT_FAULT(g, "\x0f\x01\xf0", VEC_GP); /* lmsw */
    EXPECT_FAULT(g, "\x0f\x06", VEC_GP);     /* clts */
    EXPECT_FAULT(g, "\x0f\x08", VEC_GP);     /* invd */
    EXPECT_FAULT(g, "\x0f\x09", VEC_GP);     /* wbinvd */
    EXPECT_FAULT(g, "\x0f\x30", VEC_GP);     /* wrmsr */
    EXPECT_FAULT(g, "\x0f\x32", VEC_GP);     /* rdmsr */
    EXPECT_FAULT(g, "\x0f\x00\xd0", VEC_GP); /* lldt */
    EXPECT_FAULT(g, "\x0f\x00\xd8", VEC_GP); /* ltr */
}

static void sensitive_stores_are_open_to_all(void **state) {
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    g->cpu->gpr[R_EAX] = 0xffffffff;
    assert_int_equal(STEP(g, "\x0f\x01\x03"), INTERP_OK); /* sgdt */
    assert_int_equal(load16(guest_at(g, DATA_BASE)), 0x3f);
    assert_int_equal(load32(guest_at(g, DATA_BASE + 2)), GDT_BASE);
    assert_int_equal(STEP(g, "\x0f\x01\x0b"), INTERP_OK); /* sidt */
    assert_int_equal(load32(guest_at(g, DATA_BASE + 2)), IDT_BASE);
    assert_int_equal(STEP(g, "\x0f\x01\xe0"), INTERP_OK); /* smsw eax */
    assert_int_equal(g->cpu->gpr[R_EAX], g->cpu->cr0);
    g->cpu->seg[SEG_TR].selector = 0x28;
    assert_int_equal(STEP(g, "\x0f\x00\xc8"), INTERP_OK); /* str eax */
    assert_int_equal(g->cpu->gpr[R_EAX], 0x28);
}

static void ports_reach_the_bus(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EAX] = 0xddccbbaa;
    g->cpu->gpr[R_EDX] = 0xffff1234;
    assert_int_equal(STEP(g, "\xee"), INTERP_OK);
    assert_int_equal(g->ports.port, 0x1234);
    assert_int_equal(g->ports.value, 0xaa);
    assert_int_equal(STEP(g, "\x66\xe7\x80"), INTERP_OK);
    assert_int_equal(g->ports.port, 0x80);
    assert_int_equal(g->ports.value, 0xbbaa);
    assert_int_equal(g->ports.bytes, 2);
    assert_int_equal(STEP(g, "\xe4\x60"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 0xddccbb40);
    assert_int_equal(STEP(g, "\xed"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 0x11223341);
}

static void run_returns_after_a_port_access(void **state) {
    struct guest *g = *state;
    GUEST_CODE(g, "\x90\xe6\x80\x90\x90");
    assert_int_equal(interp_run(g->it, g->cpu, 100, NULL), INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 3);
    assert_int_equal(g->cpu->insn_count, 2);
}

static void run_obeys_budget_and_stop(void **state) {
    struct guest *g = *state;
    u32 stop = 1;
    GUEST_CODE(g, "\xeb\xfe");
    assert_int_equal(interp_run(g->it, g->cpu, 1000, NULL), INTERP_OK);
    assert_int_equal(g->cpu->insn_count, 1000);
    assert_int_equal(interp_run(g->it, g->cpu, 1000, &stop), INTERP_OK);
    assert_int_equal(g->cpu->insn_count, 1000);
}

static void hlt_retires_and_halts(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\xf4"), INTERP_HALT);
    assert_true(g->cpu->halted);
    assert_int_equal(g->cpu->eip, CODE_BASE + 1);
    assert_int_equal(g->cpu->insn_count, 1);
}

static void lgdt_takes_24_bits_with_16_bit_operands(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "\x34\x12\x78\x56\x34\x12", 6);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\x66\x0f\x01\x13"), INTERP_OK);
    assert_int_equal(g->cpu->gdtr.base, 0x345678);
    assert_int_equal(STEP(g, "\x0f\x01\x13"), INTERP_OK);
    assert_int_equal(g->cpu->gdtr.base, 0x12345678);
    assert_int_equal(g->cpu->gdtr.limit, 0x1234);
}

static u64 next_random;
static bool test_random(void *opaque, u64 *value) {
    (void)opaque;
    *value = next_random;
    return next_random;
}

static void random_numbers_come_from_the_bus(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    g->model.f7_ebx = BIT(18);
    cpu->gpr[R_ECX] = 0x11111111;
    assert_int_equal(STEP(g, "\x0f\xc7\xf1"), INTERP_OK); /* rdrand ecx: nobody there */
    assert_int_equal(cpu->gpr[R_ECX], 0);
    assert_int_equal(cpu->eflags & F_ARITH, 0);
    g->bus.random = test_random;
    next_random = 0x123456789abcdef0;
    cpu->eflags |= F_ARITH;
    assert_int_equal(STEP(g, "\x0f\xc7\xf1"), INTERP_OK);
    assert_int_equal(cpu->gpr[R_ECX], 0x9abcdef0);
    assert_int_equal(cpu->eflags & F_ARITH, F_CF);
    cpu->gpr[R_ECX] = 0x55555555;
    assert_int_equal(STEP(g, "\x66\x0f\xc7\xf9"), INTERP_OK); /* rdseed cx */
    assert_int_equal(cpu->gpr[R_ECX], 0x5555def0);
    next_random = 0; /* exhausted */
    assert_int_equal(STEP(g, "\x0f\xc7\xf9"), INTERP_OK);
    assert_int_equal(cpu->gpr[R_ECX], 0);
    assert_int_equal(cpu->eflags & F_CF, 0);
    EXPECT_FAULT(g, "\x0f\xc7\x31", VEC_UD); /* VMPTRLD */
}

static void instructions_follow_the_processors_generation(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\x0f\x1f\xc0"), INTERP_OK); /* nop eax */
    EXPECT_FAULT(g, "\x0f\x33", VEC_GP);                  /* rdpmc */
    interp_destroy(g->it); /* what an instruction means is remembered, like the model for good */
    g->it = interp_create();
    g->model.signature = 0x52c;
    EXPECT_FAULT(g, "\x0f\x1f\xc0", VEC_UD);
    EXPECT_FAULT(g, "\x0f\x33", VEC_UD);
    g->model.f1_edx &= ~(u32)(BIT(24) | BIT(25));
    EXPECT_FAULT(g, "\x0f\xae\x03", VEC_UD); /* fxsave */
    EXPECT_FAULT(g, "\x0f\xae\x13", VEC_UD); /* ldmxcsr */
}

static void unannounced_features_are_invalid_opcodes(void **state) {
    struct guest *g = *state;
    g->model.f1_edx = g->model.f1_ecx = 0;
    EXPECT_FAULT(g, "\x0f\x40\xc0", VEC_UD);                  /* cmovo */
    EXPECT_FAULT(g, "\x0f\xc7\x0b", VEC_UD);                  /* cmpxchg8b */
    EXPECT_FAULT(g, "\x0f\x34", VEC_UD);                      /* sysenter */
    EXPECT_FAULT(g, "\x0f\x31", VEC_UD);                      /* rdtsc */
    EXPECT_FAULT(g, "\xf3\x0f\xb8\xc0", VEC_UD);              /* popcnt */
    EXPECT_FAULT(g, "\x0f\x38\xf0\x03", VEC_UD);              /* movbe */
    EXPECT_FAULT(g, "\xf2\x0f\x38\xf0\xc0", VEC_UD);          /* crc32 */
    EXPECT_FAULT(g, "\x0f\x01\xc8", VEC_UD);                  /* monitor */
    EXPECT_FAULT(g, "\x0f\xc7\xf0", VEC_UD);                  /* rdrand */
    EXPECT_FAULT(g, "\x0f\xae\xe8", VEC_UD);                  /* lfence */
    EXPECT_FAULT(g, "\x0f\x01\xca", VEC_UD);                  /* clac */
    EXPECT_FAULT(g, "\x0f\x01\xd0", VEC_UD);                  /* xgetbv */
    EXPECT_FAULT(g, "\x0f\x01\xc1", VEC_UD);                  /* vmcall */
    EXPECT_FAULT(g, "\x0f\x05", VEC_UD);                      /* syscall */
    EXPECT_FAULT(g, "\x0f\xff\xc0", VEC_UD);                  /* ud0 */
    EXPECT_FAULT(g, "\x0f\xb9\xc0", VEC_UD);                  /* ud1 */
    EXPECT_FAULT(g, "\x0f\x0b", VEC_UD);                      /* ud2 */
    EXPECT_FAULT(g, "\xc5\xf8\x77", VEC_UD);                  /* vzeroupper */
    EXPECT_FAULT(g, "\xf0\x90", VEC_UD);                      /* lock nop */
    EXPECT_FAULT(g, "\xf0\x01\xc0", VEC_UD);                  /* lock add eax, eax */
    EXPECT_FAULT(g, "\x8e\xc8", VEC_UD);                      /* mov cs, ax */
    assert_int_equal(STEP(g, "\xf3\x90"), INTERP_OK);         /* pause is a nop */
    assert_int_equal(STEP(g, "\x0f\x18\x03"), INTERP_OK);     /* so is prefetch */
    assert_int_equal(STEP(g, "\xf3\x0f\x1e\xfb"), INTERP_OK); /* and endbr32 */
}

static void rep_bsf_is_tzcnt_only_where_announced(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_ECX] = 77;
    assert_int_equal(STEP(g, "\xf3\x0f\xbc\xc8"), INTERP_OK); /* rep bsf ecx, eax with eax 0 */
    assert_int_equal(g->cpu->gpr[R_ECX], 77);
    assert_true(g->cpu->eflags & F_ZF);
    g->model.f7_ebx = BIT(3);
    g->cpu->eip = CODE_BASE + 0x100;
    memcpy(guest_at(g, CODE_BASE + 0x100), "\xf3\x0f\xbc\xc8", 4);
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_ECX], 32);
    assert_true(g->cpu->eflags & F_CF);
}

static void selector_instructions_do_not_exist_in_real_mode(void **state) {
    struct guest *g = *state;
    g->cpu->cr0 &= ~(u32)CR0_PE;
    EXPECT_FAULT(g, "\x0f\x00\xc0", VEC_UD); /* sldt */
    EXPECT_FAULT(g, "\x0f\x00\xd0", VEC_UD); /* lldt */
    EXPECT_FAULT(g, "\x0f\x02\xc0", VEC_UD); /* lar */
    EXPECT_FAULT(g, "\x63\xc0", VEC_UD);     /* arpl */
}

static void segment_register_moves(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EAX] = 0xffffffff;
    assert_int_equal(STEP(g, "\x8c\xd8"), INTERP_OK); /* mov eax, ds: zero-extended */
    assert_int_equal(g->cpu->gpr[R_EAX], 16);
    g->cpu->gpr[R_EAX] = 0xffffffff;
    assert_int_equal(STEP(g, "\x66\x8c\xd8"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 0xffff0010);
    store32(guest_at(g, DATA_BASE), 0xffffffff);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\x8c\x1b"), INTERP_OK); /* memory takes 16 bits */
    assert_int_equal(load32(guest_at(g, DATA_BASE)), 0xffff0010);
    store64(guest_at(g, GDT_BASE + 24), 0x0040f20000001234ull | 0x1000000);
    memcpy(guest_at(g, DATA_BASE), "\x44\x33\x22\x11\x1b\x00", 6);
    assert_int_equal(STEP(g, "\xc4\x0b"), INTERP_OK); /* les ecx, [ebx] */
    assert_int_equal(g->cpu->gpr[R_ECX], 0x11223344);
    assert_int_equal(g->cpu->seg[SEG_ES].selector, 0x1b);
    assert_int_equal(g->cpu->seg[SEG_ES].limit, 0x1234);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(privileged_instructions_raise_gp_at_ring_3),
        CASE(sensitive_stores_are_open_to_all),
        CASE(ports_reach_the_bus),
        CASE(run_returns_after_a_port_access),
        CASE(run_obeys_budget_and_stop),
        CASE(hlt_retires_and_halts),
        CASE(lgdt_takes_24_bits_with_16_bit_operands),
        CASE(random_numbers_come_from_the_bus),
        CASE(instructions_follow_the_processors_generation),
        CASE(unannounced_features_are_invalid_opcodes),
        CASE(rep_bsf_is_tzcnt_only_where_announced),
        CASE(selector_instructions_do_not_exist_in_real_mode),
        CASE(segment_register_moves),
    };
    return cmocka_run_group_tests_name("interp.system", tests, NULL, NULL);
}
