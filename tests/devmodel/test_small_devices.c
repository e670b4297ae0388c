/* The devices of a few registers: port 92h, POST, reset control, DMA, and the test devices. */
#include "pc_fixture.h"

static void port_92_controls_a20_and_reset(void **state) {
    struct pc *pc = *state;
    assert_int_equal(in8(pc, 0x92), 0x02);
    out8(pc, 0x92, 0x00);
    assert_false(dev_a20_enabled(pc->m));
    out8(pc, 0x92, 0x02);
    assert_true(dev_a20_enabled(pc->m));
    assert_false(dev_machine_requests(pc->m)->reset);
    out8(pc, 0x92, 0x01);
    assert_true(dev_machine_requests(pc->m)->reset);
    dev_machine_reset(pc->m);
    assert_true(dev_a20_enabled(pc->m));
}

static void post_and_delay_ports_read_back(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x80, 0x55), out8(pc, 0xed, 0xaa);
    assert_int_equal(in8(pc, 0x80), 0x55);
    assert_int_equal(in8(pc, 0xed), 0xaa);
}

static void cf9_resets_on_the_rising_edge(void **state) {
    struct pc *pc = *state;
    out8(pc, 0xcf9, 0x02);
    assert_false(dev_machine_requests(pc->m)->reset);
    assert_int_equal(in8(pc, 0xcf9), 0x02);
    out8(pc, 0xcf9, 0x06);
    assert_true(dev_machine_requests(pc->m)->reset);
    dev_machine_reset(pc->m);
    out32(pc, 0xcf8, 0xffffffff); /* an address, not a reset */
    assert_false(dev_machine_requests(pc->m)->reset);
}

static void dma_registers_go_through_the_flip_flop(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x0c, 0);
    out8(pc, 0x04, 0x34), out8(pc, 0x04, 0x12);
    assert_int_equal(in8(pc, 0x04), 0x34);
    assert_int_equal(in8(pc, 0x04), 0x12);
    out8(pc, 0xd8, 0);
    out8(pc, 0xc6, 0x78), out8(pc, 0xc6, 0x56);
    assert_int_equal(in8(pc, 0xc6), 0x78);
    assert_int_equal(in8(pc, 0x08), 0); /* no request, no terminal count */
    out8(pc, 0x0a, 0x02);
    assert_int_equal(in8(pc, 0x0f) & 0x0f, 0x0b);
    out8(pc, 0x0d, 0);
    assert_int_equal(in8(pc, 0x0f) & 0x0f, 0x0f);
    for (u16 port = 0x81; port < 0x90; port++) {
        out8(pc, port, (u8)port);
        assert_int_equal(in8(pc, port), port);
    }
}

static void debug_exit_reports_the_first_code(void **state) {
    struct pc *pc = *state;
    struct dev_requests *r = dev_machine_requests(pc->m);
    assert_int_equal(in8(pc, 0x501), 0);
    assert_false(r->exit);
    out8(pc, 0x501, 0x10);
    assert_true(r->exit);
    assert_int_equal(r->exit_code, 0x21);
    out8(pc, 0x501, 0x20);
    assert_int_equal(r->exit_code, 0x21);
}

static void debug_exit_listens_where_it_is_told(void **state) {
    (void)state;
    struct dev_config c = {.debug_exit = true, .debug_exit_iobase = 0xf4, .debug_exit_iosize = 4};
    struct machine_devices *m = dev_machine_create(&c);
    assert_non_null(m);
    dev_io_write(dev_machine_bus(m), 0x501, 1, 1);
    assert_false(dev_machine_requests(m)->exit);
    dev_io_write(dev_machine_bus(m), 0xf4, 0, 4);
    assert_true(dev_machine_requests(m)->exit);
    assert_int_equal(dev_machine_requests(m)->exit_code, 1);
    dev_machine_destroy(m);
}

static void debug_exit_takes_every_size_at_every_place(void **state) {
    (void)state;
    static const u8 sizes[] = {1, 2, 4};
    for (unsigned s = 0; s < ARRAY_LEN(sizes); s++) {
        struct dev_config c = {
            .debug_exit = true, .debug_exit_iobase = 0xf4, .debug_exit_iosize = sizes[s]};
        struct machine_devices *m = dev_machine_create(&c);
        assert_non_null(m);
        struct dev_requests *r = dev_machine_requests(m);
        /* A wide access has its value from the first port it names. */
        for (unsigned bytes = 1; bytes <= 4; bytes *= 2) {
            dev_io_write(dev_machine_bus(m), 0xf4, 0x31, bytes);
            assert_true(r->exit);
            assert_int_equal(r->exit_code & 0xff, 0x63);
            dev_machine_reset(m);
        }
        for (u16 port = 0xf4; port < 0xf4 + sizes[s]; port++) {
            assert_int_equal(dev_io_read(dev_machine_bus(m), port, 1), 0);
            dev_io_write(dev_machine_bus(m), port, 5, 1);
            assert_int_equal(r->exit_code, 11);
            dev_machine_reset(m);
        }
        dev_io_write(dev_machine_bus(m), (u16)(0xf4 + sizes[s]), 5, 1);
        dev_io_write(dev_machine_bus(m), 0xf5, 5, 2); /* not aligned */
        dev_io_write(dev_machine_bus(m), 0xf6, 5, 4);
        dev_io_write(dev_machine_bus(m), 0xf2, 0x50005, 2);
        assert_false(r->exit);
        dev_machine_destroy(m);
    }
}

static void testdev_scratch_register_takes_every_size(void **state) {
    struct pc *pc = *state;
    out32(pc, 0xe0, 0x12345678);
    assert_int_equal(in32(pc, 0xe0), 0x12345678);
    assert_int_equal(in8(pc, 0xe1), 0x56);
    assert_int_equal(in16(pc, 0xe2), 0x1234);
    out8(pc, 0xe3, 0xff);
    assert_int_equal(in32(pc, 0xe0), 0xff345678);
    assert_int_equal(in8(pc, 0xe8), 0x78); /* the same register, byte by byte */
    assert_int_equal(in16(pc, 0xea), 0xff34);
    out32(pc, 0xe4, 0x1000); /* flush: nothing to see */
    dev_machine_reset(pc->m);
    assert_int_equal(in32(pc, 0xe0), 0xff345678); /* outlives resets */
}

static void testdev_drives_interrupt_lines_by_bytes(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 0x01);
    out16(pc, 0x2005, 1); /* not a byte: nothing */
    out32(pc, 0x2004, 0x01010101);
    assert_false(dev_intr_pending(pc->m));
    out8(pc, 0x2005, 0x80);
    assert_true(dev_intr_pending(pc->m));
    assert_int_equal(dev_intr_acknowledge(pc->m), 0x25);
    out8(pc, 0x20, 0x20);
    out8(pc, 0x200c, 1);
    assert_int_equal(dev_intr_acknowledge(pc->m), 0x2c);
    assert_int_equal(in8(pc, 0x2005), 0);
    out8(pc, 0x2017, 1); /* a line of an I/O APIC */
    out8(pc, 0x2018, 1); /* none */
}

static void testdev_memory_takes_every_size(void **state) {
    struct pc *pc = *state;
    struct dev_bus *bus = dev_machine_bus(pc->m);
    dev_mmio_write(bus, GPA(0xff000000), 0x1122334455667788ull, 8);
    assert_int_equal(dev_mmio_read(bus, GPA(0xff000000), 8), 0x1122334455667788ull);
    assert_int_equal(dev_mmio_read(bus, GPA(0xff000003), 2), 0x4455);
    dev_mmio_write(bus, GPA(0xff00ffff), 0xbbaa, 2); /* the second byte is outside */
    assert_int_equal(dev_mmio_read(bus, GPA(0xff00ffff), 2), 0xffaa);
}

static void debugcon_is_found_and_prints(void **state) {
    struct pc *pc = *state;
    assert_int_equal(in8(pc, 0xe9), 0xe9);
    out8(pc, 0xe9, 'h'), out8(pc, 0xe9, 'i');
    assert_memory_equal(pc->line[2].sent, "hi", 2);
}

static void test_devices_are_absent_unless_asked_for(void **state) {
    (void)state;
    struct pc *pc = pc_create(false);
    assert_int_equal(in8(pc, 0xe9), 0xff);
    assert_int_equal(in32(pc, 0xe0), 0xffffffff);
    assert_int_equal(dev_mmio_read(dev_machine_bus(pc->m), GPA(0xff000000), 4), 0xffffffff);
    out8(pc, 0x501, 1);
    assert_false(dev_machine_requests(pc->m)->exit);
    pc_destroy(pc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(port_92_controls_a20_and_reset),
        PC_TEST(post_and_delay_ports_read_back),
        PC_TEST(cf9_resets_on_the_rising_edge),
        PC_TEST(dma_registers_go_through_the_flip_flop),
        PC_TEST(debug_exit_reports_the_first_code),
        cmocka_unit_test(debug_exit_listens_where_it_is_told),
        cmocka_unit_test(debug_exit_takes_every_size_at_every_place),
        PC_TEST(testdev_scratch_register_takes_every_size),
        PC_TEST(testdev_drives_interrupt_lines_by_bytes),
        PC_TEST(testdev_memory_takes_every_size),
        PC_TEST(debugcon_is_found_and_prints),
        cmocka_unit_test(test_devices_are_absent_unless_asked_for),
    };
    return cmocka_run_group_tests_name("small_devices", tests, NULL, NULL);
}
