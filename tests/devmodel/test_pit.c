/* The 8254 and port 61h: every mode, latches, and the loops by which Linux calibrates the TSC. */
#include "pc_fixture.h"

#define PIT_HZ 1193182ull

/* Moves the clock to the first instant of tick t of the 1.193182 MHz clock. */
static void to_tick(struct pc *pc, u64 t) {
    u64 ns = (t * SECOND + PIT_HZ - 1) / PIT_HZ;
    assert_true(ns >= pc->now_ns);
    pc_advance(pc, ns - pc->now_ns);
}

static void load(struct pc *pc, unsigned channel, unsigned mode, u16 count) {
    out8(pc, 0x43, (u8)(channel << 6 | 0x30 | mode << 1));
    out8(pc, (u16)(0x40 + channel), (u8)count);
    out8(pc, (u16)(0x40 + channel), (u8)(count >> 8));
}

static u16 latched(struct pc *pc, unsigned channel) {
    out8(pc, 0x43, (u8)(channel << 6));
    u8 low = in8(pc, (u16)(0x40 + channel));
    return (u16)(low | in8(pc, (u16)(0x40 + channel)) << 8);
}

static u8 status(struct pc *pc, unsigned channel) {
    out8(pc, 0x43, (u8)(0xe0 | 2 << channel));
    return in8(pc, (u16)(0x40 + channel));
}

static bool out2(struct pc *pc) {
    return in8(pc, 0x61) & 0x20;
}

/* A tick later than the write the counter holds N (data sheet: "loaded on the next CLK pulse"). */

static void mode_0_raises_out_n_plus_1_clocks_after_the_write(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    to_tick(pc, 100);
    load(pc, 2, 0, 10);
    assert_false(out2(pc));
    to_tick(pc, 101);
    assert_int_equal(latched(pc, 2), 10);
    to_tick(pc, 110);
    assert_int_equal(latched(pc, 2), 1);
    assert_false(out2(pc));
    to_tick(pc, 111);
    assert_true(out2(pc));
    assert_int_equal(latched(pc, 2), 0);
    to_tick(pc, 112); /* it keeps counting, OUT stays high */
    assert_int_equal(latched(pc, 2), 0xffff);
    assert_true(out2(pc));
}

static void mode_0_stops_at_the_first_byte_of_a_new_count(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 0, 2);
    to_tick(pc, 5);
    assert_true(out2(pc));
    out8(pc, 0x42, 4);
    assert_false(out2(pc));
    to_tick(pc, 20);
    assert_false(out2(pc));
    out8(pc, 0x42, 0);
    to_tick(pc, 25);
    assert_true(out2(pc));
}

static void the_gate_pauses_mode_0(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 0, 100);
    to_tick(pc, 41); /* loaded at 1: 40 counted */
    out8(pc, 0x61, 0);
    assert_int_equal(latched(pc, 2), 60);
    to_tick(pc, 500);
    assert_int_equal(latched(pc, 2), 60);
    out8(pc, 0x61, 1);
    to_tick(pc, 559);
    assert_false(out2(pc));
    to_tick(pc, 560);
    assert_true(out2(pc));
}

static void mode_1_is_a_retriggerable_one_shot(void **state) {
    struct pc *pc = *state;
    load(pc, 2, 1, 10);
    to_tick(pc, 50);
    assert_true(out2(pc));
    assert_int_equal(status(pc, 2) & 0x40, 0x40); /* null count until the trigger */
    out8(pc, 0x61, 1);
    to_tick(pc, 52);
    assert_int_equal(status(pc, 2) & 0x40, 0);
    assert_false(out2(pc));
    to_tick(pc, 56);
    out8(pc, 0x61, 0), out8(pc, 0x61, 1);
    to_tick(pc, 66);
    assert_false(out2(pc));
    to_tick(pc, 67);
    assert_true(out2(pc));
}

static void mode_2_is_low_for_one_clock_per_period(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 2, 5);
    for (unsigned t = 1; t < 40; t++) {
        to_tick(pc, t);
        unsigned phase = (t - 1) % 5;
        assert_int_equal(out2(pc), phase != 4);
        assert_int_equal(latched(pc, 2), 5 - phase);
    }
    out8(pc, 0x61, 0); /* the gate forces OUT high and reloads */
    assert_true(out2(pc));
    to_tick(pc, 100);
    out8(pc, 0x61, 1);
    to_tick(pc, 101);
    assert_int_equal(latched(pc, 2), 5);
}

static void mode_2_takes_a_new_count_at_the_end_of_the_period(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 2, 100);
    to_tick(pc, 51);
    out8(pc, 0x42, 10), out8(pc, 0x42, 0);
    assert_int_equal(status(pc, 2) & 0x40, 0x40);
    assert_int_equal(latched(pc, 2), 50);
    to_tick(pc, 101);
    assert_int_equal(status(pc, 2) & 0x40, 0);
    assert_int_equal(latched(pc, 2), 10);
    to_tick(pc, 110);
    assert_false(out2(pc));
}

static void mode_3_is_a_square_wave(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 3, 6);
    static const u16 even[6] = {6, 4, 2, 6, 4, 2};
    for (unsigned t = 1; t < 30; t++) {
        to_tick(pc, t);
        assert_int_equal(out2(pc), (t - 1) % 6 < 3);
        assert_int_equal(latched(pc, 2), even[(t - 1) % 6]);
    }
    to_tick(pc, 100);
    load(pc, 2, 3, 5); /* odd: high for (N+1)/2, low for (N-1)/2 */
    for (unsigned t = 101; t < 130; t++) {
        to_tick(pc, t);
        assert_int_equal(out2(pc), (t - 101) % 5 < 3);
    }
}

static void mode_3_takes_a_new_count_at_the_half_period(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 3, 20); /* high for ticks 1-10 */
    to_tick(pc, 4);
    out8(pc, 0x42, 4), out8(pc, 0x42, 0);
    to_tick(pc, 10);
    assert_true(out2(pc));
    to_tick(pc, 11);
    assert_false(out2(pc));
    to_tick(pc, 13);
    assert_true(out2(pc)); /* the low half was already the new one */
}

static void mode_4_strobes_once_and_mode_5_when_triggered(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 1);
    load(pc, 2, 4, 10);
    to_tick(pc, 10);
    assert_true(out2(pc));
    to_tick(pc, 11);
    assert_false(out2(pc));
    to_tick(pc, 12);
    assert_true(out2(pc));
    out8(pc, 0x61, 0);
    load(pc, 2, 5, 3);
    to_tick(pc, 50);
    out8(pc, 0x61, 1);
    to_tick(pc, 53);
    assert_true(out2(pc));
    to_tick(pc, 54);
    assert_false(out2(pc));
    to_tick(pc, 55);
    assert_true(out2(pc));
}

static void a_latch_holds_until_it_is_read(void **state) {
    struct pc *pc = *state;
    load(pc, 0, 2, 1000);
    to_tick(pc, 101);
    out8(pc, 0x43, 0x00);
    to_tick(pc, 201);
    out8(pc, 0x43, 0x00); /* ignored: the first latch has not been read */
    assert_int_equal(in8(pc, 0x40), 900 & 0xff);
    assert_int_equal(in8(pc, 0x40), 900 >> 8);
    assert_int_equal(latched(pc, 0), 800);
}

static void read_back_latches_status_before_count(void **state) {
    struct pc *pc = *state;
    load(pc, 0, 2, 1000);
    load(pc, 2, 3, 50);
    to_tick(pc, 101);
    out8(pc, 0x43, 0xc2); /* status and count of counter 0 */
    to_tick(pc, 500);
    assert_int_equal(in8(pc, 0x40), 0x80 | 0x30 | 2 << 1); /* OUT, LSB+MSB, mode 2, binary */
    assert_int_equal(in8(pc, 0x40), 900 & 0xff);
    assert_int_equal(in8(pc, 0x40), 900 >> 8);
}

static void bcd_counts_in_decimal(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x43, 0x31 | 2 << 1);
    out8(pc, 0x40, 0x00), out8(pc, 0x40, 0x10); /* 1000 */
    to_tick(pc, 2);
    assert_int_equal(latched(pc, 0), 0x0999);
    out8(pc, 0x43, 0x31 | 0 << 1);
    out8(pc, 0x40, 0), out8(pc, 0x40, 0); /* 10000 */
    to_tick(pc, 4);
    assert_int_equal(latched(pc, 0), 0x9999);
}

static void single_byte_access_modes(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x43, 0x14); /* LSB only, mode 2 */
    out8(pc, 0x40, 200);
    to_tick(pc, 11);
    assert_int_equal(in8(pc, 0x40), 190);
    assert_int_equal(in8(pc, 0x40), 190);
    out8(pc, 0x43, 0x20); /* MSB only, mode 0 */
    out8(pc, 0x40, 2);
    to_tick(pc, 12);
    assert_int_equal(in8(pc, 0x40), 2);
}

static void counter_0_interrupts_at_its_rate(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    load(pc, 0, 2, 11932); /* 100 Hz */
    unsigned count = 0;
    if (dev_intr_pending(pc->m)) /* OUT rose with the control word */
        dev_intr_acknowledge(pc->m), out8(pc, 0x20, 0x20);
    for (unsigned i = 0; i < 10000; i++) {
        pc_advance(pc, 100 * US);
        if (dev_intr_pending(pc->m)) {
            assert_int_equal(dev_intr_acknowledge(pc->m), 0x20);
            out8(pc, 0x20, 0x20);
            count++;
        }
    }
    assert_in_range(count, 99, 100);
}

static void one_shot_modes_interrupt_once(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    static const u8 modes[2] = {0, 4};
    for (unsigned i = 0; i < 2; i++) {
        load(pc, 0, modes[i], 1193); /* 1 ms */
        if (dev_intr_pending(pc->m))
            dev_intr_acknowledge(pc->m), out8(pc, 0x20, 0x20);
        pc_advance(pc, 990 * US);
        assert_false(dev_intr_pending(pc->m));
        pc_advance(pc, 20 * US);
        assert_true(dev_intr_pending(pc->m));
        dev_intr_acknowledge(pc->m), out8(pc, 0x20, 0x20);
        pc_advance(pc, 200 * MS);
        assert_false(dev_intr_pending(pc->m));
    }
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
}

static void a_late_timer_gives_one_interrupt_and_keeps_the_phase(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    load(pc, 0, 2, 11932);
    pc->now_ns = 95 * MS + 500 * US;
    dev_run_timers(pc->m, pc->now_ns);
    assert_true(dev_intr_pending(pc->m));
    assert_in_range(dev_next_deadline_ns(pc->m), 100 * MS - 10 * US, 100 * MS + 10 * US);
}

static void a_tiny_period_does_not_flood_the_host(void **state) {
    struct pc *pc = *state;
    load(pc, 0, 2, 2);
    unsigned fired = 0;
    while (dev_next_deadline_ns(pc->m) <= 10 * MS) {
        pc->now_ns = dev_next_deadline_ns(pc->m);
        dev_run_timers(pc->m, pc->now_ns);
        fired++;
    }
    assert_in_range(fired, 190, 201);
}

/* quick_pit_calibrate() and pit_calibrate_tsc() of Linux: gate on, mode 0, watch MSB and OUT2. */
static void linux_calibration_loops_end(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, (in8(pc, 0x61) & ~0x02) | 0x01);
    out8(pc, 0x43, 0xb0);
    out8(pc, 0x42, 0xff), out8(pc, 0x42, 0xff);
    unsigned changes = 0;
    u8 msb = 0xff;
    while (changes < 5) {
        pc_advance(pc, 2 * US);
        in8(pc, 0x42);
        u8 now = in8(pc, 0x42);
        if (now != msb) {
            assert_int_equal(now, msb - 1);
            msb = now, changes++;
        }
        assert_true(pc->now_ns < 2 * MS);
    }
    out8(pc, 0x43, 0xb0);
    u16 count = PIT_HZ / 100; /* 10 ms */
    out8(pc, 0x42, (u8)count), out8(pc, 0x42, (u8)(count >> 8));
    u64 start = pc->now_ns;
    while (!(in8(pc, 0x61) & 0x20))
        pc_advance(pc, 1 * US);
    assert_in_range(pc->now_ns - start, 9990 * US, 10010 * US);
}

static void port_61_keeps_its_bits_and_toggles_refresh(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x61, 0xff);
    assert_int_equal(in8(pc, 0x61) & 0xcf, 0x0f);
    u8 first = in8(pc, 0x61) & 0x10;
    pc_advance(pc, 15085);
    assert_int_not_equal(in8(pc, 0x61) & 0x10, first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(mode_0_raises_out_n_plus_1_clocks_after_the_write),
        PC_TEST(mode_0_stops_at_the_first_byte_of_a_new_count),
        PC_TEST(the_gate_pauses_mode_0),
        PC_TEST(mode_1_is_a_retriggerable_one_shot),
        PC_TEST(mode_2_is_low_for_one_clock_per_period),
        PC_TEST(mode_2_takes_a_new_count_at_the_end_of_the_period),
        PC_TEST(mode_3_is_a_square_wave),
        PC_TEST(mode_3_takes_a_new_count_at_the_half_period),
        PC_TEST(mode_4_strobes_once_and_mode_5_when_triggered),
        PC_TEST(a_latch_holds_until_it_is_read),
        PC_TEST(read_back_latches_status_before_count),
        PC_TEST(bcd_counts_in_decimal),
        PC_TEST(single_byte_access_modes),
        PC_TEST(counter_0_interrupts_at_its_rate),
        PC_TEST(one_shot_modes_interrupt_once),
        PC_TEST(a_late_timer_gives_one_interrupt_and_keeps_the_phase),
        PC_TEST(a_tiny_period_does_not_flood_the_host),
        PC_TEST(linux_calibration_loops_end),
        PC_TEST(port_61_keeps_its_bits_and_toggles_refresh),
    };
    return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
