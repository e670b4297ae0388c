/*
 * test_fp_errors.c: unmasked x87 errors with CR0.NE=0: FERR#, IGNNE#, and the instruction that
 * waits. SDM volume 1, section 8.7.2 "MS-DOS Compatibility Sub-mode" and appendix D.2.
 */
#include "interp_fixture.h"

enum { FSW_IE = 1, FSW_ZE = 4, FSW_ES = 0x80 };

/* The pins. */
static struct pins {
    bool ferr, ignne;
    unsigned told;
} pins;

static bool on_ferr(void *opaque, bool asserted) {
    (void)opaque;
    pins.told++;
    pins.ferr = asserted;
    pins.ignne = pins.ignne && asserted;
    return pins.ignne;
}

/* 1.0 / 0.0 has been tried, with all exceptions unmasked. */
static struct guest *divided(void **state) {
    struct guest *g = *state;
    static const u8 fcw[2] = {0x40, 0x03};
    pins = (struct pins){.ferr = false};
    g->bus.ferr = on_ferr;
    g->cpu->cr4 |= CR4_OSFXSR;
    store32(g->cpu->fx + 24, 0x1f80);
    memcpy(guest_at(g, DATA_BASE), fcw, 2);
    g->cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\xdb\xe3"), INTERP_OK); /* fninit */
    assert_int_equal(STEP(g, "\xd9\x2b"), INTERP_OK); /* fldcw */
    assert_int_equal(STEP(g, "\xd9\xe8"), INTERP_OK); /* fld1 */
    assert_int_equal(STEP(g, "\xd9\xee"), INTERP_OK); /* fldz */
    assert_int_equal(STEP(g, "\xd8\xf9"), INTERP_OK); /* fdivr st, st(1): 1 / 0 */
    assert_int_equal(load16(g->cpu->fx + 2) & 0xbf, FSW_ES | FSW_ZE);
    assert_false(pins.told);
    g->cpu->cr0 &= ~(u32)CR0_NE;
    return g;
}

static void freezes(struct guest *g, enum interp_result r) {
    assert_int_equal(r, INTERP_HALT);
    assert_true(g->cpu->halted && pins.ferr && g->cpu->ferr);
    assert_int_equal(g->cpu->eip, CODE_BASE);
    g->cpu->halted = false; /* an interrupt came */
}

static void with_ne_it_is_an_exception(void **state) {
    struct guest *g = divided(state);
    g->cpu->cr0 |= CR0_NE;
    assert_int_equal(STEP(g, "\x9b"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_MF);
    assert_false(pins.told);
}

static void waiting_instructions_freeze(void **state) {
    struct guest *g = divided(state);
    freezes(g, STEP(g, "\x9b"));                          /* fwait */
    freezes(g, STEP(g, "\xd9\xe8"));                      /* fld1 */
    freezes(g, STEP(g, "\xd9\x2b"));                      /* fldcw */
    freezes(g, STEP(g, "\x0f\x6f\xc1"));                  /* movq mm0, mm1 */
    assert_int_equal(STEP(g, "\x0f\x28\xc1"), INTERP_OK); /* movaps does not wait */
    assert_int_equal(STEP(g, "\xdf\xe0"), INTERP_OK);     /* nor fnstsw */
    assert_true(pins.ferr);
    assert_int_equal(STEP(g, "\xdb\xe2"), INTERP_OK); /* fnclex: FERR# ends with the error */
    assert_false(pins.ferr || g->cpu->ferr);
    assert_int_equal(STEP(g, "\xd9\xe8"), INTERP_OK);
}

static void no_shadow_keeps_a_frozen_cpu_from_interrupts(void **state) {
    struct guest *g = divided(state);
    assert_int_equal(STEP(g, "\xfb\x9b"), INTERP_OK); /* sti; fwait */
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_HALT);
    assert_int_equal(g->cpu->eip, CODE_BASE + 1);
    assert_true(rc_interruptible(g->cpu));
}

static void ignne_passes_the_error_over(void **state) {
    struct guest *g = divided(state);
    freezes(g, STEP(g, "\x9b"));
    pins.ignne = true;
    assert_int_equal(STEP(g, "\x9b"), INTERP_OK);
    assert_int_equal(STEP(g, "\xd9\xe8"), INTERP_OK); /* fld1 */
    u16 fsw = load16(g->cpu->fx + 2);
    assert_int_equal(fsw & 0xbf, FSW_ES | FSW_ZE); /* still there */
    assert_int_equal(fsw >> 11 & 7, 5);            /* but loaded */
    assert_int_equal(STEP(g, "\xd9\xee\xd8\xf9"), INTERP_OK);
    assert_int_equal(STEP(g, "\xdb\x2b"), INTERP_OK);
    store16(guest_at(g, DATA_BASE), 0x37f);
    assert_int_equal(STEP(g, "\xd9\x2b"), INTERP_OK); /* fldcw masks it: no error any more */
    assert_int_equal(load16(g->cpu->fx + 2) & FSW_ES, 0);
    assert_false(pins.ferr || pins.ignne);
}

static void state_that_is_loaded_may_end_it_or_not(void **state) {
    struct guest *g = divided(state);
    freezes(g, STEP(g, "\x9b"));
    assert_int_equal(STEP(g, "\x0f\xae\x03"), INTERP_OK); /* fxsave */
    assert_int_equal(STEP(g, "\x0f\xae\x0b"), INTERP_OK); /* fxrstor of the same */
    assert_true(pins.ferr);
    store16(guest_at(g, DATA_BASE + 2), 0);
    assert_int_equal(STEP(g, "\x0f\xae\x0b"), INTERP_OK);
    assert_false(pins.ferr);
}

static void breakpoint_held_back_comes_before_the_freeze(void **state) {
    struct guest *g = divided(state);
    store64(guest_at(g, GDT_BASE + 16), 0x00cf93000000ffffull);
    store16(guest_at(g, DATA_BASE), 16);
    g->cpu->dr[0] = DATA_BASE;
    g->cpu->dr[7] = 0x400 | 1 | 0x7u << 16;
    assert_int_equal(STEP(g, "\x8e\x13\x9b"), INTERP_OK); /* mov ss, [ebx]; fwait */
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_DB);
    assert_false(g->cpu->halted);
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
}

static void mxcsr_takes_the_bits_of_the_model(void **state) {
    struct guest *g = *state;
    g->cpu->cr4 |= CR4_OSFXSR;
    g->cpu->gpr[R_EBX] = DATA_BASE;
    store32(guest_at(g, DATA_BASE), 0x1fc0); /* denormals are zeros */
    assert_int_equal(STEP(g, "\x0f\xae\x13"), INTERP_OK);
    store32(guest_at(g, DATA_BASE), 0x21f80); /* AMD's misaligned-exception mask */
    assert_int_equal(STEP(g, "\x0f\xae\x13"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_GP);
    g->model.f1_edx &= ~BIT(26);                          /* no SSE2 */
    assert_int_equal(STEP(g, "\x0f\xae\x03"), INTERP_OK); /* fxsave */
    assert_int_equal(load32(guest_at(g, DATA_BASE + 28)), 0xffbf);
    assert_int_equal(STEP(g, "\x0f\xae\x0b"), INTERP_FAULT);
    store32(guest_at(g, DATA_BASE), 0x1fc0);
    assert_int_equal(STEP(g, "\x0f\xae\x13"), INTERP_FAULT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(with_ne_it_is_an_exception),
        CASE(waiting_instructions_freeze),
        CASE(no_shadow_keeps_a_frozen_cpu_from_interrupts),
        CASE(ignne_passes_the_error_over),
        CASE(state_that_is_loaded_may_end_it_or_not),
        CASE(breakpoint_held_back_comes_before_the_freeze),
        CASE(mxcsr_takes_the_bits_of_the_model),
    };
    return cmocka_run_group_tests_name("interp.fp_errors", tests, NULL, NULL);
}
