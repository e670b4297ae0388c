/*
 * test_fetch.c: where instructions come from: the decode cache never serves stale bytes, and
 * fetches respect page borders, limits and the 15 bytes an instruction may have.
 */
#include "interp_fixture.h"

static void rewritten_code_is_seen(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\xb8\x01\0\0\0"), INTERP_OK);
    assert_int_equal(STEP(g, "\xb8\x01\0\0\0"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
    *guest_at(g, CODE_BASE + 4) = 0x80; /* last byte, as a device would */
    g->cpu->eip = CODE_BASE;
    interp_step(g->it, g->cpu);
    assert_int_equal(g->cpu->gpr[R_EAX], 0x80000001);
}

static void code_that_rewrites_the_next_instruction(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EBX] = CODE_BASE + 3;
    GUEST_CODE(g, "\xc6\x03\x40\x90"); /* mov byte [next], inc eax */
    assert_int_equal(interp_run(g->it, g->cpu, 2, NULL), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
}

static void same_bytes_decode_by_mode(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EAX] = 0xffffffff;
    STEP(g, "\xb8\x34\x12\x40\x40");
    assert_int_equal(g->cpu->gpr[R_EAX], 0x40401234);
    g->cpu->seg[SEG_CS].attr &= ~(u32)ATTR_DB;
    STEP(g, "\xb8\x34\x12\x40\x40");
    assert_int_equal(g->cpu->gpr[R_EAX], 0x40401234);
    assert_int_equal(g->cpu->eip, CODE_BASE + 3);
}

static void instructions_cross_pages(void **state) {
    struct guest *g = *state;
    for (u32 cut = 1; cut < 5; cut++) {
        u32 eip = CODE_BASE + 0x1000 - cut;
        memcpy(guest_at(g, eip), "\xb8\x78\x56\x34\x12", 5);
        for (unsigned again = 0; again < 2; again++) {
            g->cpu->eip = eip;
            g->cpu->gpr[R_EAX] = 0;
            assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
            assert_int_equal(g->cpu->gpr[R_EAX], 0x12345678);
            assert_int_equal(g->cpu->eip, eip + 5);
        }
    }
}

static void fifteen_bytes_are_the_limit(void **state) {
    struct guest *g = *state;
    assert_int_equal(STEP(g, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"),
                     INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 15);
    assert_int_equal(STEP(g, "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90"),
                     INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_GP);
}

static void cs_limit_cuts_the_fetch(void **state) {
    struct guest *g = *state;
    g->cpu->seg[SEG_CS].limit = CODE_BASE + 4;
    assert_int_equal(STEP(g, "\xb8\x01\0\0\0"), INTERP_OK);
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_FAULT); /* eip beyond */
    assert_int_equal(g->cpu->fault.vector, VEC_GP);
    g->cpu->seg[SEG_CS].limit = CODE_BASE + 3;
    assert_int_equal(STEP(g, "\xb8\x01\0\0\0"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_GP);
}

static void cs_base_is_added(void **state) {
    struct guest *g = *state;
    g->cpu->seg[SEG_CS].base = CODE_BASE;
    GUEST_CODE(g, "\x40\xeb\xfd");
    g->cpu->eip = 0;
    assert_int_equal(interp_run(g->it, g->cpu, 10, NULL), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(rewritten_code_is_seen),
        CASE(code_that_rewrites_the_next_instruction),
        CASE(same_bytes_decode_by_mode),
        CASE(instructions_cross_pages),
        CASE(fifteen_bytes_are_the_limit),
        CASE(cs_limit_cuts_the_fetch),
        CASE(cs_base_is_added),
    };
    return cmocka_run_group_tests_name("interp.fetch", tests, NULL, NULL);
}
