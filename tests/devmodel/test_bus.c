/* Routing of port and MMIO accesses: splitting, shadowing and what nobody claims. */
#include "pc_fixture.h"

struct probe {
    u32 last_offset, last_value;
    unsigned last_bytes, calls;
    u8 answer;
};

static u32 probe_read(void *opaque, u32 offset, unsigned bytes) {
    struct probe *p = opaque;
    p->last_offset = offset;
    p->last_bytes = bytes;
    p->calls++;
    return 0x01010101u * (u32)(p->answer + offset);
}
static void probe_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct probe *p = opaque;
    p->last_offset = offset;
    p->last_bytes = bytes;
    p->last_value = value;
    p->calls++;
}
static const struct dev_region_ops narrow = {
    .read = probe_read, .write = probe_write, .max_bytes = 1};
static const struct dev_region_ops wide = {.read = probe_read, .write = probe_write};

static void unclaimed_ports_read_all_ones(void **state) {
    (void)state;
    struct dev_bus *bus = dev_bus_create();
    assert_int_equal(dev_io_read(bus, 0x1234, 1), 0xff);
    assert_int_equal(dev_io_read(bus, 0x1234, 2), 0xffff);
    assert_int_equal(dev_io_read(bus, 0xffff, 4), 0xffffffff);
    dev_io_write(bus, 0xffff, 0x12345678, 4);
    assert_int_equal(dev_mmio_read(bus, GPA(UINT64_MAX - 2), 8), UINT64_MAX);
    dev_mmio_write(bus, GPA(UINT64_MAX), 1, 8);
    dev_bus_destroy(bus);
}

static void byte_devices_see_wide_accesses_as_bytes(void **state) {
    (void)state;
    struct dev_bus *bus = dev_bus_create();
    struct probe p = {.answer = 0x10};
    assert_true(dev_bus_add_ports(bus, 0x100, 4, &narrow, &p));
    assert_int_equal(dev_io_read(bus, 0x100, 4), 0x13121110);
    assert_int_equal(p.calls, 4);
    dev_io_write(bus, 0x102, 0xbbaa, 2);
    assert_int_equal(p.last_offset, 3);
    assert_int_equal(p.last_value, 0xbb);
    /* Two bytes beyond the end are nobody's. */
    assert_int_equal(dev_io_read(bus, 0x102, 4), 0xffff1312);
    dev_bus_destroy(bus);
}

static void later_claims_shadow_single_ports_only(void **state) {
    (void)state;
    struct dev_bus *bus = dev_bus_create();
    struct probe below = {.answer = 1}, above = {.answer = 0x40};
    assert_true(dev_bus_add_ports(bus, 0xcf8, 4, &wide, &below));
    assert_true(dev_bus_add_ports(bus, 0xcf9, 1, &narrow, &above));
    dev_io_write(bus, 0xcf9, 6, 1);
    assert_int_equal(above.last_value, 6);
    assert_int_equal(below.calls, 0);
    dev_io_write(bus, 0xcf8, 0x80000000, 4);
    assert_int_equal(below.last_value, 0x80000000);
    assert_int_equal(below.last_bytes, 4);
    dev_bus_destroy(bus);
}

static void full_tables_and_bad_ranges_are_refused(void **state) {
    (void)state;
    struct dev_bus *bus = dev_bus_create();
    struct probe p = {0};
    assert_false(dev_bus_add_ports(bus, 0xffff, 2, &narrow, &p));
    assert_false(dev_bus_add_ports(bus, 0, 0, &narrow, &p));
    assert_false(dev_bus_add_mmio(bus, GPA(UINT64_MAX), 2, &narrow, &p));
    unsigned taken = 0;
    while (taken < 1000 && dev_bus_add_ports(bus, (u16)taken, 1, &narrow, &p))
        taken++;
    assert_in_range(taken, 32, 255);
    dev_bus_destroy(bus);
}

static void mmio_splits_at_the_end_of_a_region(void **state) {
    (void)state;
    struct dev_bus *bus = dev_bus_create();
    struct probe p = {.answer = 0x20};
    assert_true(dev_bus_add_mmio(bus, GPA(0xfee00000), 0x1000, &wide, &p));
    assert_int_equal(dev_mmio_read(bus, GPA(0xfee00010), 8), 0x3434343430303030ull);
    assert_int_equal(p.calls, 2);
    assert_int_equal(dev_mmio_read(bus, GPA(0xfee00ffe), 4) >> 16, 0xffff);
    assert_int_equal(dev_mmio_read(bus, GPA(0xfedfffff), 1), 0xff);
    dev_bus_destroy(bus);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unclaimed_ports_read_all_ones),
        cmocka_unit_test(byte_devices_see_wide_accesses_as_bytes),
        cmocka_unit_test(later_claims_shadow_single_ports_only),
        cmocka_unit_test(full_tables_and_bad_ranges_are_refused),
        cmocka_unit_test(mmio_splits_at_the_end_of_a_region),
    };
    return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
