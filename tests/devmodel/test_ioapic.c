/* The I/O APIC: redirection of edges and levels, remote IRR, masks and delivery modes, after the
 * 82093AA data sheet; the MP table and the MADT name what is there. */
#include "pc_fixture.h"

enum { MASKED = 0x10000, LEVEL = 0x8000, REMOTE_IRR = 0x4000, LOGICAL = 0x800 };
enum { EXTINT = 0x700, NMI = 0x400, SMI = 0x200, LOWEST = 0x100 };

static u8 intack(struct pc *pc) {
    return dev_intr_acknowledge(pc->m);
}
static bool pending(struct pc *pc) {
    return dev_intr_pending(pc->m);
}
static void eoi(struct pc *pc) {
    apic_write(pc, 0xb0, 0);
}
static void pulse(struct pc *pc, unsigned line) {
    pc_line_set(pc, line, true);
    pc_line_set(pc, line, false);
}

static void registers_read_back(void **state) {
    struct pc *pc = *state;
    assert_int_equal(ioapic(pc, 1), 0x00170011);
    assert_int_equal(ioapic(pc, 0), 0x01000000);
    ioapic_write(pc, 0, 0xffffffff);
    assert_int_equal(ioapic(pc, 0), 0x0f000000);
    assert_int_equal(ioapic(pc, 2), 0x0f000000);
    ioapic_write(pc, 1, 0);
    assert_int_equal(ioapic(pc, 1), 0x00170011);
    for (unsigned pin = 0; pin < 24; pin++)
        assert_int_equal(redirection(pc, pin), MASKED);
    redirect(pc, 23, 0xffffffff, 0xa5);
    assert_int_equal(redirection(pc, 23), 0x1afff); /* status and remote IRR are read-only */
    assert_int_equal(ioapic(pc, 0x10 + 2 * 23 + 1), 0xa5000000);
    assert_int_equal(ioapic(pc, 0x40), 0);
    assert_int_equal(mmio32(pc, 0xfec00000), 0x40); /* IOREGSEL */
    assert_int_equal(dev_mmio_read(dev_machine_bus(pc->m), GPA(0xfec00000), 1), 0x40);
}

static void an_edge_is_one_interrupt(void **state) {
    struct pc *pc = *state;
    redirect(pc, 4, 0x51, 0);
    pc_line_set(pc, 4, true);
    assert_int_equal(intack(pc), 0x51);
    assert_int_equal(redirection(pc, 4), 0x51);
    eoi(pc);
    assert_false(pending(pc));
    pc_line_set(pc, 4, false);
    assert_false(pending(pc));
    pc_line_set(pc, 4, true);
    assert_int_equal(intack(pc), 0x51);
}

static void edges_at_a_masked_pin_are_lost(void **state) {
    struct pc *pc = *state;
    redirect(pc, 4, MASKED | 0x51, 0);
    pulse(pc, 4);
    redirect(pc, 4, 0x51, 0);
    assert_false(pending(pc));
    pulse(pc, 4);
    assert_true(pending(pc));
}

static void a_level_asks_until_it_is_lowered(void **state) {
    struct pc *pc = *state;
    redirect(pc, 16, LEVEL | 0x52, 0);
    pc_line_set(pc, 16, true);
    assert_int_equal(redirection(pc, 16), LEVEL | REMOTE_IRR | 0x52);
    assert_int_equal(apic(pc, 0x1a0), 1u << (0x52 % 32)); /* TMR */
    assert_int_equal(intack(pc), 0x52);
    pc_line_set(pc, 16, false), pc_line_set(pc, 16, true); /* nothing new before the EOI */
    assert_false(pending(pc));
    eoi(pc);
    assert_int_equal(intack(pc), 0x52);
    pc_line_set(pc, 16, false);
    eoi(pc);
    assert_false(pending(pc));
    assert_int_equal(redirection(pc, 16), LEVEL | 0x52);
}

static void a_masked_level_asks_when_unmasked(void **state) {
    struct pc *pc = *state;
    redirect(pc, 17, MASKED | LEVEL | 0x53, 0);
    pc_line_set(pc, 17, true);
    assert_false(pending(pc));
    redirect(pc, 17, LEVEL | 0x53, 0);
    assert_int_equal(intack(pc), 0x53);
    redirect(pc, 17, MASKED | LEVEL | 0x53, 0);
    eoi(pc); /* clears remote IRR though masked */
    assert_false(pending(pc));
    assert_int_equal(redirection(pc, 17), MASKED | LEVEL | 0x53);
}

static void an_eoi_ends_every_level_of_that_vector(void **state) {
    struct pc *pc = *state;
    redirect(pc, 16, LEVEL | 0x54, 0), redirect(pc, 17, LEVEL | 0x54, 0);
    redirect(pc, 18, LEVEL | 0x64, 0);
    pc_line_set(pc, 16, true), pc_line_set(pc, 17, true), pc_line_set(pc, 18, true);
    assert_int_equal(intack(pc), 0x64);
    eoi(pc);
    pc_line_set(pc, 18, false);
    assert_int_equal(intack(pc), 0x64); /* it had asked again at the EOI */
    pc_line_set(pc, 16, false), pc_line_set(pc, 17, false);
    eoi(pc);
    assert_int_equal(redirection(pc, 18), LEVEL | 0x64);
    assert_int_equal(intack(pc), 0x54);
    assert_int_equal(redirection(pc, 16) & redirection(pc, 17) & REMOTE_IRR, REMOTE_IRR);
    eoi(pc);
    assert_int_equal((redirection(pc, 16) | redirection(pc, 17)) & REMOTE_IRR, 0);
    assert_false(pending(pc));
}

/* How Linux ends a level interrupt without an EOI: mask, edge, level. */
static void turning_a_level_into_an_edge_clears_remote_irr(void **state) {
    struct pc *pc = *state;
    redirect(pc, 16, LEVEL | 0x55, 0);
    pc_line_set(pc, 16, true);
    assert_int_equal(intack(pc), 0x55);
    redirect(pc, 16, MASKED | 0x55, 0);
    assert_int_equal(redirection(pc, 16), MASKED | 0x55);
    redirect(pc, 16, MASKED | LEVEL | 0x55, 0);
    assert_int_equal(redirection(pc, 16), MASKED | LEVEL | 0x55);
}

static void edges_end_without_telling_the_io_apic(void **state) {
    struct pc *pc = *state;
    redirect(pc, 16, LEVEL | 0x56, 0), redirect(pc, 5, 0x56, 0);
    pc_line_set(pc, 16, true);
    assert_int_equal(intack(pc), 0x56);
    pulse(pc, 5); /* the same vector, now as an edge: the TMR bit goes */
    assert_int_equal(apic(pc, 0x1a0), 0);
    eoi(pc);
    assert_int_equal(redirection(pc, 16) & REMOTE_IRR, REMOTE_IRR);
}

static void the_timer_is_wired_to_pin_2_and_the_8259s_to_pin_0(void **state) {
    struct pc *pc = *state;
    redirect(pc, 2, 0x60, 0);
    pc_line_set(pc, 0, false);
    pc_line_set(pc, 0, true);
    assert_int_equal(intack(pc), 0x60);
    eoi(pc);
    pc_line_set(pc, 2, false);
    pc_line_set(pc, 2, true); /* the cascade is no line */
    assert_false(pending(pc));
    apic_write(pc, 0x350, MASKED); /* LINT0 */
    redirect(pc, 0, EXTINT, 0);
    pc_init_pics(pc, 1);
    pc_line_set(pc, 0, false), pc_line_set(pc, 0, true); /* reaches both */
    assert_int_equal(intack(pc), 0x60);
    eoi(pc);
    assert_int_equal(intack(pc), 0x20);
    assert_false(pending(pc));
    out8(pc, 0x20, 0x20);
    redirect(pc, 0, 0x70, 0); /* INTR as an ordinary edge */
    pc_line_set(pc, 3, true);
    assert_int_equal(intack(pc), 0x70);
}

static void extint_obeys_mask_and_destination(void **state) {
    struct pc *pc = *state;
    apic_write(pc, 0x350, MASKED);
    pc_init_pics(pc, 1);
    pc_line_set(pc, 3, true);
    redirect(pc, 0, EXTINT, 1);
    assert_false(pending(pc));
    redirect(pc, 0, EXTINT, 0);
    assert_true(pending(pc));
    redirect(pc, 0, MASKED | EXTINT, 0);
    assert_false(pending(pc));
}

static void delivery_modes(void **state) {
    struct pc *pc = *state;
    struct dev_requests *r = dev_machine_requests(pc->m);
    redirect(pc, 10, LOWEST | 0x61, 0), redirect(pc, 11, NMI, 0), redirect(pc, 12, SMI, 0);
    pulse(pc, 10);
    assert_int_equal(intack(pc), 0x61);
    assert_false(r->nmi);
    pulse(pc, 11);
    assert_true(r->nmi);
    r->nmi = false;
    pulse(pc, 12);
    assert_false(pending(pc) || r->nmi || r->reset);
}

static void destinations_are_physical_or_logical(void **state) {
    struct pc *pc = *state;
    apic_write(pc, 0xd0, 2u << 24); /* LDR */
    redirect(pc, 5, 0x62, 3);
    pulse(pc, 5);
    assert_false(pending(pc));
    redirect(pc, 5, MASKED | 0x62, 0), redirect(pc, 5, LOGICAL | 0x62, 6);
    pulse(pc, 5);
    assert_int_equal(intack(pc), 0x62);
    eoi(pc);
    redirect(pc, 5, LOGICAL | 0x62, 4);
    pulse(pc, 5);
    assert_false(pending(pc));
    redirect(pc, 5, MASKED | 0x62, 0), redirect(pc, 5, 0x62, 0xff);
    pulse(pc, 5);
    assert_int_equal(intack(pc), 0x62);
}

static void what_the_cpu_does_not_accept_waits(void **state) {
    struct pc *pc = *state;
    apic_write(pc, 0xf0, 0xff); /* software disabled */
    redirect(pc, 5, 0x62, 0), redirect(pc, 16, LEVEL | 0x72, 0);
    pulse(pc, 5), pc_line_set(pc, 16, true);
    assert_false(pending(pc));
    assert_int_equal(redirection(pc, 16), LEVEL | 0x72);
    apic_write(pc, 0xf0, 0x1ff);
    assert_int_equal(intack(pc), 0x72);
    pc_line_set(pc, 16, false);
    eoi(pc);
    assert_int_equal(intack(pc), 0x62);
}

static void a_line_reaches_8259_and_io_apic(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    redirect(pc, 9, LEVEL | 0x63, 0);
    pc_line_set(pc, 9, true);
    assert_int_equal(intack(pc), 0x63);
    assert_int_equal(intack(pc), 0x29);
}

static void reset_masks_all_pins(void **state) {
    struct pc *pc = *state;
    redirect(pc, 7, LEVEL | 0x63, 0);
    pc_line_set(pc, 7, true);
    dev_machine_reset(pc->m);
    assert_false(pending(pc));
    assert_int_equal(redirection(pc, 7), MASKED);
    assert_int_equal(ioapic(pc, 0), 0x01000000);
}

/* ---- Tables ---- */

static u8 sum(const u8 *p, u32 bytes) {
    u8 s = 0;
    while (bytes--)
        s = (u8)(s + *p++);
    return s;
}

static void the_madt_names_what_is_there(void **state) {
    struct pc *pc = *state;
    dev_acpi_place_tables(pc->m);
    const u8 *rsdt = pc->ram + load32(pc->ram + 0xe0010);
    assert_int_equal(load32(rsdt + 4), 44);
    const u8 *madt = pc->ram + load32(rsdt + 40);
    u32 bytes = load32(madt + 4);
    assert_memory_equal(madt, "APIC", 4);
    assert_int_equal(sum(madt, bytes), 0);
    assert_int_equal(mmio32(pc, load32(madt + 36) + 0x30), 0x00050014);
    unsigned seen[5] = {0};
    u32 at = 44;
    for (; at < bytes; at += madt[at + 1]) {
        const u8 *s = madt + at;
        assert_in_range(s[0], 0, 4);
        assert_int_equal(s[1], ((const u8[]){8, 12, 10, 0, 6})[s[0]]);
        seen[s[0]]++;
        if (s[0] == 1) {
            mmio32_write(pc, load32(s + 4), 1);
            assert_int_equal(mmio32(pc, load32(s + 4) + 0x10), 0x00170011);
            assert_int_equal(ioapic(pc, 0) >> 24, s[2]);
        }
        if (s[0] == 2 && s[3] == 0) { /* line 0: follow it */
            redirect(pc, load32(s + 4), 0x60, 0);
            pc_line_set(pc, 0, false), pc_line_set(pc, 0, true);
            assert_int_equal(intack(pc), 0x60);
        }
    }
    assert_int_equal(at, bytes);
    assert_true(seen[0] == 1 && seen[1] == 1 && seen[2] == 2 && seen[4] == 1);
    const u8 *fadt = pc->ram + load32(rsdt + 36);
    assert_int_equal(load16(fadt + 109) & 8, 0); /* MSI works */
}

static void the_mp_table_names_what_is_there(void **state) {
    struct pc *pc = *state;
    dev_mp_place_tables(pc->m);
    const u8 *pointer = pc->ram + 0xf0000;
    assert_memory_equal(pointer, "_MP_", 4);
    assert_int_equal(sum(pointer, 16), 0);
    const u8 *table = pc->ram + load32(pointer + 4);
    u16 bytes = load16(table + 4), entries = load16(table + 34);
    assert_memory_equal(table, "PCMP", 4);
    assert_int_equal(sum(table, bytes), 0);
    assert_int_equal(load32(table + 36), 0xfee00000);
    u32 at = 44, isa_lines = 0;
    unsigned seen[5] = {0};
    for (; entries--; at += table[at] ? 8 : 20) {
        const u8 *e = table + at;
        assert_in_range(e[0], 0, 4);
        seen[e[0]]++;
        if (e[0] == 2)
            assert_int_equal(load32(e + 4), 0xfec00000);
        if (e[0] == 3 && e[1] == 0 && e[4] == 1) {
            assert_int_equal(e[7], e[5] ? e[5] : 2);
            isa_lines |= 1u << e[5];
        }
    }
    assert_int_equal(at, bytes);
    assert_int_equal(isa_lines, 0xfffb);
    assert_true(seen[0] == 1 && seen[1] == 2 && seen[2] == 1 && seen[3] == 17 && seen[4] == 2);
    assert_true(pc->dma_first == 0xf0000 && pc->dma_bytes >= 16u + bytes);
}

static void a_machine_without_apics_has_no_such_tables(void **state) {
    struct pc *pc = *state; /* PC_TEST: without */
    dev_mp_place_tables(pc->m);
    dev_acpi_place_tables(pc->m);
    assert_int_equal(load32(pc->ram + 0xf0000), 0);
    const u8 *rsdt = pc->ram + load32(pc->ram + 0xe0010);
    assert_int_equal(load32(rsdt + 4), 40);
    assert_int_equal(load16(pc->ram + load32(rsdt + 36) + 109) & 8, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_APIC_TEST(registers_read_back),
        PC_APIC_TEST(an_edge_is_one_interrupt),
        PC_APIC_TEST(edges_at_a_masked_pin_are_lost),
        PC_APIC_TEST(a_level_asks_until_it_is_lowered),
        PC_APIC_TEST(a_masked_level_asks_when_unmasked),
        PC_APIC_TEST(an_eoi_ends_every_level_of_that_vector),
        PC_APIC_TEST(turning_a_level_into_an_edge_clears_remote_irr),
        PC_APIC_TEST(edges_end_without_telling_the_io_apic),
        PC_APIC_TEST(the_timer_is_wired_to_pin_2_and_the_8259s_to_pin_0),
        PC_APIC_TEST(extint_obeys_mask_and_destination),
        PC_APIC_TEST(delivery_modes),
        PC_APIC_TEST(destinations_are_physical_or_logical),
        PC_APIC_TEST(what_the_cpu_does_not_accept_waits),
        PC_APIC_TEST(a_line_reaches_8259_and_io_apic),
        PC_APIC_TEST(reset_masks_all_pins),
        PC_APIC_TEST(the_madt_names_what_is_there),
        PC_APIC_TEST(the_mp_table_names_what_is_there),
        PC_TEST(a_machine_without_apics_has_no_such_tables),
    };
    return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
