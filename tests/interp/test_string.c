/*
 * test_string.c: REP strings: what they move, what they leave in the registers, and how they stop.
 */
#include "interp_fixture.h"

static void set_pointers(struct guest *g, u32 from, u32 to, u32 count) {
    g->cpu->gpr[R_ESI] = from;
    g->cpu->gpr[R_EDI] = to;
    g->cpu->gpr[R_ECX] = count;
}
static void fill_pattern(struct guest *g, u32 at, u32 bytes) {
    for (u32 i = 0; i < bytes; i++)
        *guest_at(g, at + i) = (u8)(i * 7 + (i >> 8));
}

static void rep_movsd_copies_across_pages(void **state) {
    struct guest *g = *state;
    fill_pattern(g, DATA_BASE, 0x5000);
    set_pointers(g, DATA_BASE + 3, DATA_BASE + 0x8ffd, 0x1000);
    assert_int_equal(STEP(g, "\xf3\xa5"), INTERP_OK);
    assert_memory_equal(guest_at(g, DATA_BASE + 3), guest_at(g, DATA_BASE + 0x8ffd), 0x4000);
    assert_int_equal(g->cpu->gpr[R_ECX], 0);
    assert_int_equal(g->cpu->gpr[R_ESI], DATA_BASE + 3 + 0x4000);
    assert_int_equal(g->cpu->gpr[R_EDI], DATA_BASE + 0x8ffd + 0x4000);
    assert_int_equal(g->cpu->insn_count, 1);
}

static void overlapping_rep_movsb_replicates(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "abc", 3);
    set_pointers(g, DATA_BASE, DATA_BASE + 3, 9);
    assert_int_equal(STEP(g, "\xf3\xa4"), INTERP_OK);
    assert_memory_equal(guest_at(g, DATA_BASE), "abcabcabcabc", 12);
}

static void overlapping_downward_copy_is_a_move(void **state) {
    struct guest *g = *state;
    fill_pattern(g, DATA_BASE + 0x100, 0x300);
    u8 want[0x300];
    memcpy(want, guest_at(g, DATA_BASE + 0x100), sizeof want);
    set_pointers(g, DATA_BASE + 0x100, DATA_BASE + 0xf0, 0x300);
    assert_int_equal(STEP(g, "\xf3\xa4"), INTERP_OK);
    assert_memory_equal(guest_at(g, DATA_BASE + 0xf0), want, sizeof want);
}

static void descending_movsw_goes_down(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "12345678", 8);
    g->cpu->eflags |= F_DF;
    set_pointers(g, DATA_BASE + 6, DATA_BASE + 0x16, 3);
    assert_int_equal(STEP(g, "\xf3\x66\xa5"), INTERP_OK);
    assert_memory_equal(guest_at(g, DATA_BASE + 0x12), "345678", 6);
    assert_int_equal(g->cpu->gpr[R_ESI], DATA_BASE);
}

static void sixteen_bit_addresses_wrap_and_keep_upper_halves(void **state) {
    struct guest *g = *state;
    set_pointers(g, 0, 0x5555fffe, 0x77770004);
    g->cpu->gpr[R_EAX] = 0xaa;
    assert_int_equal(STEP(g, "\x67\xf3\xaa"), INTERP_OK);
    assert_int_equal(*guest_at(g, 0xffff), 0xaa);
    assert_int_equal(*guest_at(g, 1), 0xaa);
    assert_int_equal(*guest_at(g, 2), 0);
    assert_int_equal(*guest_at(g, 0x10000), 0);
    assert_int_equal(g->cpu->gpr[R_EDI], 0x55550002);
    assert_int_equal(g->cpu->gpr[R_ECX], 0x77770000);
}

static void long_rep_stops_in_chunks_and_goes_on(void **state) {
    struct guest *g = *state;
    set_pointers(g, 0, 0x100000, 0x500000);
    g->cpu->gpr[R_EAX] = 0x5a;
    unsigned steps = 1;
    while (STEP(g, "\xf3\xaa") == INTERP_REP_MORE) {
        assert_int_equal(g->cpu->eip, CODE_BASE);
        assert_true(++steps < 1000);
    }
    assert_true(steps > 10);
    assert_int_equal(g->cpu->gpr[R_ECX], 0);
    assert_int_equal(g->cpu->gpr[R_EDI], 0x600000);
    assert_int_equal(*guest_at(g, 0x5fffff), 0x5a);
    assert_int_equal(g->cpu->insn_count, 1);
}

static void zero_count_touches_nothing(void **state) {
    struct guest *g = *state;
    set_pointers(g, 0xffffffff, 0xffffffff, 0);
    g->cpu->eflags |= F_ZF;
    assert_int_equal(STEP(g, "\xf3\xa6"), INTERP_OK);
    assert_true(g->cpu->eflags & F_ZF);
    assert_int_equal(g->cpu->gpr[R_ESI], 0xffffffff);
}

static void repne_scasb_finds_the_terminator(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "ringfold", 9);
    set_pointers(g, 0, DATA_BASE, 0xffffffff);
    g->cpu->gpr[R_EAX] = 0;
    assert_int_equal(STEP(g, "\xf2\xae"), INTERP_OK);
    assert_int_equal(~g->cpu->gpr[R_ECX] & 0xffffffff, 9);
    assert_int_equal(g->cpu->gpr[R_EDI], DATA_BASE + 9);
    assert_true(g->cpu->eflags & F_ZF);
}

static void repe_cmpsb_stops_at_the_difference(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "same!A", 6);
    memcpy(guest_at(g, DATA_BASE + 16), "same!B", 6);
    set_pointers(g, DATA_BASE, DATA_BASE + 16, 100);
    assert_int_equal(STEP(g, "\xf3\xa6"), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_ECX], 94);
    assert_int_equal(g->cpu->eflags & (F_ZF | F_CF | F_SF), F_CF | F_SF);
}

static void outsb_and_insd_use_the_bus(void **state) {
    struct guest *g = *state;
    *guest_at(g, DATA_BASE) = 0x42;
    set_pointers(g, DATA_BASE, DATA_BASE + 8, 2);
    g->cpu->gpr[R_EDX] = 0x3f8;
    assert_int_equal(STEP(g, "\x6e"), INTERP_OK);
    assert_int_equal(g->ports.port, 0x3f8);
    assert_int_equal(g->ports.value, 0x42);
    assert_int_equal(STEP(g, "\xf3\x6d"), INTERP_OK);
    assert_int_equal(load32(guest_at(g, DATA_BASE + 8)), 0x11223340);
    assert_int_equal(load32(guest_at(g, DATA_BASE + 12)), 0x11223341);
    assert_int_equal(g->cpu->gpr[R_ECX], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(rep_movsd_copies_across_pages),
        CASE(overlapping_rep_movsb_replicates),
        CASE(overlapping_downward_copy_is_a_move),
        CASE(descending_movsw_goes_down),
        CASE(sixteen_bit_addresses_wrap_and_keep_upper_halves),
        CASE(long_rep_stops_in_chunks_and_goes_on),
        CASE(zero_count_touches_nothing),
        CASE(repne_scasb_finds_the_terminator),
        CASE(repe_cmpsb_stops_at_the_difference),
        CASE(outsb_and_insd_use_the_bus),
    };
    return cmocka_run_group_tests_name("interp.string", tests, NULL, NULL);
}
