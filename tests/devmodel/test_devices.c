/* The whole machine: reset brings back the power-on state, and no sequence of accesses hangs it,
 * faults, or makes it do unbounded work. */
#include "pc_fixture.h"

static u64 next_random(u64 *s) {
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return *s;
}

static void machines_are_independent(void **state) {
    struct pc *a = *state, *b = pc_create(true);
    out8(a, 0x21, 0x12);
    out8(b, 0x21, 0x34);
    assert_int_equal(in8(a, 0x21), 0x12);
    pc_destroy(b);
    assert_int_equal(in8(a, 0x21), 0x12);
}

static void reset_silences_everything(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    out8(pc, 0x3fc, 0x08), out8(pc, 0x3f9, 0x02); /* COM1 interrupts */
    out8(pc, 0x43, 0x34), out8(pc, 0x40, 100), out8(pc, 0x40, 0);
    out8(pc, 0x70, 0x0b), out8(pc, 0x71, 0x72);
    out8(pc, 0x60, 0xff);
    pc_advance(pc, 10 * MS);
    assert_true(dev_intr_pending(pc->m));
    dev_machine_reset(pc->m);
    assert_false(dev_intr_pending(pc->m));
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
    out8(pc, 0x21, 0), out8(pc, 0xa1, 0);
    assert_false(dev_intr_pending(pc->m));
    out8(pc, 0x20, 0x0a), out8(pc, 0xa0, 0x0a);
    assert_int_equal(in8(pc, 0x20) | in8(pc, 0xa0), 0);
    assert_int_equal(in8(pc, 0x64) & 1, 0);
}

static u16 random_port(u64 *s) {
    static const u16 bases[] = {0x00, 0x20,  0x40,  0x60,  0x70,  0x80,  0xa0,  0xb0,  0xc0,
                                0xe0, 0x2f8, 0x3f8, 0x4d0, 0x500, 0x600, 0xcf8, 0x2000};
    u64 r = next_random(s);
    return r % 50 == 0 ? (u16)(r >> 20)
                       : (u16)(bases[(r >> 8) % ARRAY_LEN(bases)] + (r >> 20 & 15));
}

static void random_accesses_do_no_harm(void **state) {
    struct pc *pc = *state;
    u64 s = 0x9e3779b97f4a7c15ull;
    static const u8 sizes[3] = {1, 2, 4};
    struct dev_bus *bus = dev_machine_bus(pc->m);
    for (unsigned i = 0; i < 400000; i++) {
        u64 r = next_random(&s);
        u16 port = random_port(&s);
        if (r & 1)
            dev_io_write(bus, port, (u32)(r >> 32), sizes[(r >> 1) % 3]);
        else
            dev_io_read(bus, port, sizes[(r >> 1) % 3]);
        if (r % 11 == 0)
            dev_mmio_write(bus, GPA(0xff000000 + (r >> 40 & 0x1ffff)), r, 1u << (r >> 8 & 3));
        if (r % 7 == 0) {
            pc->now_ns += r >> (16 + (r >> 4 & 31));
            if (pc->now_ns > UINT64_MAX / 4)
                pc->now_ns = UINT64_MAX / 4;
            dev_run_timers(pc->m, pc->now_ns);
        }
        if (r % 5 == 0 && dev_intr_pending(pc->m))
            dev_intr_acknowledge(pc->m);
        if (r % 13 == 0) {
            pc->line[0].input = pc->line[1].input = "some characters";
            dev_serial_poll(pc->m);
        }
        if (r % 5000 == 0)
            dev_machine_reset(pc->m);
        pc->line[0].sent_bytes = pc->line[1].sent_bytes = 0;
        pc->line[0].refuse = r >> 60 == 1;
    }
}

/* A deadline in the past after dev_run_timers would make the monitor spin. */
static void timers_never_stay_due(void **state) {
    struct pc *pc = *state;
    u64 s = 42;
    for (unsigned i = 0; i < 100000; i++) {
        u64 r = next_random(&s);
        dev_io_write(dev_machine_bus(pc->m), random_port(&s), (u32)(r >> 32), 1);
        pc->now_ns += r & 0xfffff;
        dev_run_timers(pc->m, pc->now_ns);
        assert_true(dev_next_deadline_ns(pc->m) > pc->now_ns);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(machines_are_independent),
        PC_TEST(reset_silences_everything),
        PC_TEST(random_accesses_do_no_harm),
        PC_TEST(timers_never_stay_due),
    };
    return cmocka_run_group_tests_name("devices", tests, NULL, NULL);
}
