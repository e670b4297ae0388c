/* ACPI tables as an OS walks them: found by signature, chained, checksums right, AML well formed.
 */
#include "pc_fixture.h"

static u8 sum(const u8 *p, u32 bytes) {
    u8 s = 0;
    while (bytes--)
        s = (u8)(s + *p++);
    return s;
}

static u32 find_rsdp(struct pc *pc) {
    for (u32 at = 0xe0000; at < 0x100000; at += 16)
        if (memcmp(pc->ram + at, "RSD PTR ", 8) == 0)
            return at;
    return 0;
}

static u8 *table(struct pc *pc, u32 at, const char *signature) {
    assert_in_range(at, 0xe0000, 0xfffff);
    u8 *t = pc->ram + at;
    assert_memory_equal(t, signature, 4);
    assert_in_range(load32(t + 4), 36, 4096);
    assert_int_equal(sum(t, load32(t + 4)), 0);
    return t;
}

static void the_chain_leads_from_rsdp_to_dsdt(void **state) {
    struct pc *pc = *state;
    dev_acpi_place_tables(pc->m);
    u32 at = find_rsdp(pc);
    assert_int_not_equal(at, 0);
    assert_int_equal(sum(pc->ram + at, 20), 0);
    u8 *rsdt = table(pc, load32(pc->ram + at + 16), "RSDT");
    assert_int_equal(load32(rsdt + 4), 40);
    u8 *fadt = table(pc, load32(rsdt + 36), "FACP");
    u32 facs = load32(fadt + 36);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(pc->ram + facs, "FACS", 4);
    assert_int_equal(load32(pc->ram + facs + 4), 64);
    table(pc, load32(fadt + 40), "DSDT");
    assert_int_equal(pc->dma_first, 0xe0000);
    assert_true(pc->dma_bytes >= load32(fadt + 40) - 0xe0000 + 36);
}

/* The FADT's addresses work when used. */
static void the_fadt_describes_the_hardware_that_is_there(void **state) {
    struct pc *pc = *state;
    dev_acpi_place_tables(pc->m);
    u8 *fadt = pc->ram + load32(pc->ram + load32(pc->ram + find_rsdp(pc) + 16) + 36);
    u16 control = (u16)load32(fadt + 64), timer = (u16)load32(fadt + 76);
    out8(pc, (u16)load32(fadt + 48), fadt[52]); /* SMI_CMD <- ACPI_ENABLE */
    assert_int_equal(in16(pc, control) & 1, 1);
    pc_advance(pc, 1 * SECOND);
    assert_int_equal(in32(pc, timer), 3579545);
    assert_int_equal(load16(fadt + 109) & 7, 7); /* legacy devices, 8042, no VGA */
    assert_true(load32(fadt + 112) & BIT(10));
    assert_int_equal(fadt[116], 1); /* reset register in I/O space */
    out8(pc, (u16)load64(fadt + 120), fadt[128]);
    assert_true(dev_machine_requests(pc->m)->reset);
    static const u8 x_block[4][2] = {{148, 56}, {172, 64}, {208, 76}, {220, 80}};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(load64(fadt + x_block[i][0] + 4), load32(fadt + x_block[i][1]));
}

static u32 count_text(const u8 *t, const char *text) {
    u32 count = 0;
    for (u32 i = 36; i + 4 <= load32(t + 4); i++)
        count += memcmp(t + i, text, 4) == 0;
    return count;
}

/* Every PkgLength of the nested scopes and devices ends exactly where its parent allows. */
static void check_terms(const u8 *t, u32 at, u32 end, unsigned depth, unsigned *devices) {
    assert_true(depth < 8);
    while (at < end) {
        if (t[at] == 0x08) { /* Name: skip the object by its own length */
            at += 5;
            if (t[at] == 0x11 || t[at] == 0x12)
                at += 1 + ((t[at + 1] & 0x0fu) | (u32)t[at + 2] << 4);
            else
                at += t[at] <= 1 ? 1 : t[at] == 0x0a ? 2 : t[at] == 0x0b ? 3 : 5;
            assert_true(at <= end);
            continue;
        }
        bool device = t[at] == 0x5b && t[at + 1] == 0x82;
        assert_true(device || t[at] == 0x10);
        *devices += device;
        u32 body = at + (device ? 2 : 1);
        u32 next = body + ((t[body] & 0x0fu) | (u32)t[body + 1] << 4);
        assert_true(next <= end);
        check_terms(t, body + 2 + 4, next, depth + 1, devices);
        at = next;
    }
    assert_int_equal(at, end);
}

static void the_dsdt_is_well_formed(void **state) {
    struct pc *pc = *state;
    dev_acpi_place_tables(pc->m);
    u8 *fadt = pc->ram + load32(pc->ram + load32(pc->ram + find_rsdp(pc) + 16) + 36);
    u8 *dsdt = pc->ram + load32(fadt + 40);
    unsigned devices = 0;
    check_terms(dsdt, 36, load32(dsdt + 4), 0, &devices);
    assert_int_equal(devices, 12); /* PCI0, ISA and ten below it */
    assert_int_equal(count_text(dsdt, "_S5_"), 1);
    assert_int_equal(count_text(dsdt, "\x41\xd0\x0a\x03"), 1); /* EisaId ("PNP0A03") */
    assert_int_equal(count_text(dsdt, "COM2"), 1);
}

static void a_missing_port_is_not_described(void **state) {
    (void)state;
    struct pc *pc = pc_create(false);
    dev_acpi_place_tables(pc->m);
    u8 *fadt = pc->ram + load32(pc->ram + load32(pc->ram + find_rsdp(pc) + 16) + 36);
    u8 *dsdt = pc->ram + load32(fadt + 40);
    assert_int_equal(count_text(dsdt, "COM1"), 1);
    assert_int_equal(count_text(dsdt, "COM2"), 0);
    pc_destroy(pc);
}

static void too_little_ram_gets_no_tables(void **state) {
    (void)state;
    u8 byte = 0x5a;
    struct dev_config c = {.ram_bytes = 1, .ram = &byte};
    struct machine_devices *m = dev_machine_create(&c);
    assert_non_null(m);
    dev_acpi_place_tables(m);
    assert_int_equal(byte, 0x5a);
    dev_machine_destroy(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(the_chain_leads_from_rsdp_to_dsdt),
        PC_TEST(the_fadt_describes_the_hardware_that_is_there),
        PC_TEST(the_dsdt_is_well_formed),
        cmocka_unit_test(a_missing_port_is_not_described),
        cmocka_unit_test(too_little_ram_gets_no_tables),
    };
    return cmocka_run_group_tests_name("acpi_tables", tests, NULL, NULL);
}
