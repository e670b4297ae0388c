/* PCI mechanism 1: Linux's probe, the three functions there are, and absent ones. */
#include "pc_fixture.h"

static void cfg_select(struct pc *pc, unsigned bus, unsigned dev, unsigned fn, unsigned reg) {
    out32(pc, 0xcf8, 0x80000000u | bus << 16 | dev << 11 | fn << 8 | (reg & 0xfc));
}
static u32 cfg_read(struct pc *pc, unsigned dev, unsigned fn, unsigned reg) {
    cfg_select(pc, 0, dev, fn, reg);
    return in32(pc, 0xcfc);
}

/* pci_check_type1() of arch/x86/pci/direct.c. */
static void linux_finds_configuration_mechanism_1(void **state) {
    struct pc *pc = *state;
    out8(pc, 0xcfb, 0x01);
    u32 saved = in32(pc, 0xcf8);
    assert_int_equal(saved, 0); /* byte writes do not reach the address register */
    out32(pc, 0xcf8, 0x80000000);
    assert_int_equal(in32(pc, 0xcf8), 0x80000000);
    cfg_select(pc, 0, 0, 0, 0x08);
    assert_int_equal(in16(pc, 0xcfe), 0x0600); /* a host bridge: the sanity check passes */
}

static void three_functions_are_there_and_no_more(void **state) {
    struct pc *pc = *state;
    assert_int_equal(cfg_read(pc, 0, 0, 0), 0x12378086);
    assert_int_equal(cfg_read(pc, 1, 0, 0), 0x70008086);
    assert_int_equal(cfg_read(pc, 1, 3, 0), 0x71138086);
    assert_int_equal(cfg_read(pc, 1, 0, 8) >> 16, 0x0601);
    assert_int_equal(cfg_read(pc, 1, 3, 8), 0x06800003);
    assert_int_equal(cfg_read(pc, 1, 0, 0x0c) >> 16 & 0xff, 0x80);
    unsigned found = 0;
    for (unsigned bus = 0; bus < 256; bus += 15)
        for (unsigned dev = 0; dev < 32; dev++)
            for (unsigned fn = 0; fn < 8; fn++) {
                cfg_select(pc, bus, dev, fn, 0);
                found += in32(pc, 0xcfc) != 0xffffffff;
            }
    assert_int_equal(found, 3);
    out32(pc, 0xcf8, 0); /* configuration cycles off */
    assert_int_equal(in32(pc, 0xcfc), 0xffffffff);
}

static void bars_do_not_exist_and_identity_is_read_only(void **state) {
    struct pc *pc = *state;
    static const u8 fn[3][2] = {{0, 0}, {1, 0}, {1, 3}};
    for (unsigned i = 0; i < 3; i++)
        for (unsigned reg = 0; reg < 0x3c; reg += 4) {
            u32 before = cfg_read(pc, fn[i][0], fn[i][1], reg);
            out32(pc, 0xcfc, 0xffffff00);
            if (reg >= 0x10)
                assert_int_equal(in32(pc, 0xcfc), 0);
            else
                assert_int_equal(in32(pc, 0xcfc), before);
        }
}

static void accesses_of_every_size_reach_their_bytes(void **state) {
    struct pc *pc = *state;
    cfg_select(pc, 0, 0, 0, 0);
    assert_int_equal(in16(pc, 0xcfc), 0x8086);
    assert_int_equal(in16(pc, 0xcfe), 0x1237);
    assert_int_equal(in8(pc, 0xcfd), 0x80);
    cfg_select(pc, 0, 1, 0, 0x60);
    out8(pc, 0xcfe, 0x05); /* PIRQRC */
    assert_int_equal(in32(pc, 0xcfc), 0x80058080);
    cfg_select(pc, 0, 0, 0, 0xfc);
    assert_int_equal(in32(pc, 0xcfe), 0xffff0000); /* does not run into the next register */
}

static void the_power_function_names_its_ports(void **state) {
    struct pc *pc = *state;
    assert_int_equal(cfg_read(pc, 1, 3, 0x40), 0x601);
    assert_int_equal(cfg_read(pc, 1, 3, 0x80) & 1, 1);
    assert_int_equal(cfg_read(pc, 1, 3, 0x3c) & 0xffff, 0x0109);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(linux_finds_configuration_mechanism_1),
        PC_TEST(three_functions_are_there_and_no_more),
        PC_TEST(bars_do_not_exist_and_identity_is_read_only),
        PC_TEST(accesses_of_every_size_reach_their_bytes),
        PC_TEST(the_power_function_names_its_ports),
    };
    return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
