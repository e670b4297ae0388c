/*
 * test_hostfp_host.c: what running guest x87, MMX and SSE instructions natively leaves behind: the
 * host's own control words and an empty x87 stack, and the parts of the guest's state that the
 * instruction does not touch.
 */
#include "interp_fixture.h"

enum { FX_CONTROL_BYTES = 24, FX_ST = 32, FX_XMM = 160, FX_END = 288 };

/* What the ABI says of x87 and MXCSR between functions. */
static void assert_host_is_clean(void) {
    struct {
        u16 control, r0, status, r1, tags, r2;
        u32 rest[4];
    } env;
    u32 mxcsr;
    __asm__ volatile("fnstenv %0\n\tfldcw %0\n\tstmxcsr %1" : "=m"(env), "=m"(mxcsr));
    assert_int_equal(env.control, 0x37f);
    assert_int_equal(env.tags, 0xffff);
    assert_int_equal(env.status & 0x80, 0); /* no exception is pending */
    assert_int_equal(mxcsr & 0xffc0, 0x1f80);
}

static struct cpu *fp_on(struct guest *g) {
    g->cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    g->cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\xdb\xe3"), INTERP_OK); /* fninit */
    return g->cpu;
}

static void the_host_keeps_its_control_words_and_an_empty_stack(void **state) {
    struct guest *g = *state;
    fp_on(g);
    store16(guest_at(g, DATA_BASE), 0x0f40); /* all unmasked, round to zero */
    store32(guest_at(g, DATA_BASE + 4), 0xff80);
    static const char *const code[] = {
        "\xd9\xe8\x90\x90", /* fld1 */
        "\xd9\x2b\x90\x90", /* fldcw [ebx] */
        "\xd9\xee\x90\x90", /* fldz */
        "\xde\xf9\x90\x90", /* fdivp: #Z stays pending */
    };
    for (unsigned i = 0; i < ARRAY_LEN(code); i++) {
        memcpy(guest_at(g, CODE_BASE), code[i], 4);
        g->cpu->eip = CODE_BASE;
        assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
        assert_host_is_clean();
    }
    assert_true(load16(g->cpu->fx + 2) & 0x80);
    assert_int_equal(STEP(g, "\x0f\xfe\xc1"), INTERP_FAULT); /* paddd mm0, mm1 */
    assert_int_equal(g->cpu->fault.vector, VEC_MF);
    assert_int_equal(STEP(g, "\xdb\xe2"), INTERP_OK);     /* fnclex */
    assert_int_equal(STEP(g, "\x0f\xfe\xc1"), INTERP_OK); /* all tags valid now */
    assert_host_is_clean();
    assert_int_equal(STEP(g, "\x0f\xae\x53\x04"), INTERP_OK); /* ldmxcsr [ebx+4] */
    assert_int_equal(STEP(g, "\xf2\x0f\x58\xc1"), INTERP_OK); /* addsd */
    assert_int_equal(STEP(g, "\x0f\x2a\x03"), INTERP_OK);     /* cvtpi2ps xmm0, [ebx] */
    assert_host_is_clean();
}

/* Control words, registers and pointers of x87, with an exception pending, beside SSE. */
static void sse_leaves_x87_as_it_is(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = fp_on(g);
    u8 before[FX_END];
    for (unsigned i = FX_ST; i < FX_END; i++)
        cpu->fx[i] = (u8)(i * 37);
    store16(cpu->fx, 0x0240);
    store16(cpu->fx + 2, 0xab84); /* TOP 5, #Z pending */
    cpu->fx[4] = 0x5a;
    memset(cpu->fx + 6, 0x77, FX_CONTROL_BYTES - 6);
    memcpy(before, cpu->fx, FX_END);
    assert_int_equal(STEP(g, "\x66\x0f\xfe\xc1"), INTERP_OK); /* paddd xmm0, xmm1 */
    assert_memory_equal(cpu->fx, before, FX_CONTROL_BYTES);
    assert_memory_equal(cpu->fx + FX_ST, before + FX_ST, FX_XMM - FX_ST);
    assert_memory_equal(cpu->fx + FX_XMM + 16, before + FX_XMM + 16, FX_END - FX_XMM - 16);
    for (unsigned i = FX_XMM; i < FX_XMM + 16; i += 4)
        assert_int_equal(load32(cpu->fx + i), load32(before + i) + load32(before + i + 16));
    assert_host_is_clean();
}

static void flags_pass_through_what_does_not_write_them(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = fp_on(g);
    static const u32 flag[] = {F_CF, F_PF, F_AF, F_ZF, F_SF, F_OF};
    for (u32 set = 0; set < 64; set++) {
        u32 flags = F_FIXED | F_IF;
        for (unsigned i = 0; i < ARRAY_LEN(flag); i++)
            flags |= set >> i & 1 ? flag[i] : 0;
        cpu->eflags = flags;
        assert_int_equal(STEP(g, "\x66\x0f\xef\xc1"), INTERP_OK); /* pxor xmm0, xmm1 */
        assert_int_equal(STEP(g, "\xd9\xd0"), INTERP_OK);         /* fnop */
        assert_int_equal(STEP(g, "\x0f\xef\xc1"), INTERP_OK);     /* pxor mm0, mm1 */
        assert_int_equal(cpu->eflags, flags);
        assert_int_equal(STEP(g, "\x66\x0f\x2e\xc0"), INTERP_OK); /* ucomisd xmm0, xmm0: equal */
        assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_ZF);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(the_host_keeps_its_control_words_and_an_empty_stack),
        CASE(sse_leaves_x87_as_it_is),
        CASE(flags_pass_through_what_does_not_write_them),
    };
    return cmocka_run_group_tests_name("interp.hostfp_host", tests, NULL, NULL);
}
