/* MC146818: time of day in every format, setting it, flags and interrupts, CMOS contents. */
#include "pc_fixture.h"

static u8 rd(struct pc *pc, u8 reg) {
    out8(pc, 0x70, reg);
    return in8(pc, 0x71);
}
static void wr(struct pc *pc, u8 reg, u8 v) {
    out8(pc, 0x70, reg);
    out8(pc, 0x71, v);
}

static void expect_time(struct pc *pc, const char *text) {
    char now[32];
    snprintf(now, sizeof now, "%02x%02x-%02x-%02x %02x:%02x:%02x /%x", rd(pc, 0x32), rd(pc, 9),
             rd(pc, 8), rd(pc, 7), rd(pc, 4), rd(pc, 2), rd(pc, 0), rd(pc, 6));
    assert_string_equal(now, text);
}

static bool irq8(struct pc *pc) {
    out8(pc, 0xa0, 0x0a);
    return in8(pc, 0xa0) & 1;
}

static void time_is_the_epoch_plus_virtual_time(void **state) {
    struct pc *pc = *state;
    assert_int_equal(rd(pc, 0x0b), 0x02); /* BCD, 24 h, nothing enabled */
    assert_int_equal(rd(pc, 0x0d), 0x80);
    expect_time(pc, "2024-01-02 03:04:05 /3");
    pc_advance(pc, 999999999);
    expect_time(pc, "2024-01-02 03:04:05 /3");
    pc_advance(pc, 1);
    expect_time(pc, "2024-01-02 03:04:06 /3");
    pc_advance(pc, 58 * 86400 * SECOND); /* leap year */
    expect_time(pc, "2024-02-29 03:04:06 /5");
    pc_advance(pc, 366 * 86400 * SECOND);
    expect_time(pc, "2025-03-01 03:04:06 /7");
}

static void binary_and_12_hour_formats(void **state) {
    struct pc *pc = *state;
    pc_advance(pc, (12 * 3600 + 30 * 60) * SECOND); /* 15:34:05 */
    wr(pc, 0x0b, 0x06);
    assert_int_equal(rd(pc, 4), 15);
    assert_int_equal(rd(pc, 2), 34);
    assert_int_equal(rd(pc, 9), 24);
    assert_int_equal(rd(pc, 0x32), 20);
    wr(pc, 0x0b, 0x00);
    assert_int_equal(rd(pc, 4), 0x83);
    pc_advance(pc, 9 * 3600 * SECOND); /* 00:34 is 12 AM */
    assert_int_equal(rd(pc, 4), 0x12);
}

static void set_time(struct pc *pc, u8 century, u8 y, u8 mo, u8 d, u8 h, u8 mi, u8 s) {
    wr(pc, 0, s), wr(pc, 2, mi), wr(pc, 4, h), wr(pc, 7, d), wr(pc, 8, mo), wr(pc, 9, y);
    wr(pc, 0x32, century);
}

/* mc146818_set_time() of Linux: SET, divider reset, write, restore. */
static void setting_the_clock_starts_the_next_second_half_a_second_later(void **state) {
    struct pc *pc = *state;
    pc_advance(pc, 123 * MS);
    wr(pc, 0x0b, 0x82);
    wr(pc, 0x0a, 0x76);
    set_time(pc, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    assert_int_equal(rd(pc, 0), 0x58);
    pc_advance(pc, 5 * SECOND); /* it stands still */
    wr(pc, 0x0b, 0x02);
    wr(pc, 0x0a, 0x26);
    expect_time(pc, "1999-12-31 23:59:58 /6");
    pc_advance(pc, 499 * MS);
    expect_time(pc, "1999-12-31 23:59:58 /6");
    pc_advance(pc, 2 * MS);
    expect_time(pc, "1999-12-31 23:59:59 /6");
    pc_advance(pc, 1 * SECOND);
    expect_time(pc, "2000-01-01 00:00:00 /7");
}

static void single_fields_can_be_written_while_it_runs(void **state) {
    struct pc *pc = *state;
    wr(pc, 4, 0x20);
    pc_advance(pc, SECOND);
    expect_time(pc, "2024-01-02 20:04:06 /3");
}

static void nonsense_values_do_no_harm(void **state) {
    struct pc *pc = *state;
    for (unsigned v = 0; v < 256; v++) {
        wr(pc, 0x0b, (u8)v);
        for (u8 reg = 0; reg < 128; reg++) {
            wr(pc, reg, (u8)(v * 7 + reg));
            rd(pc, reg);
        }
        pc_advance(pc, 100 * MS);
        rd(pc, 0x0c);
    }
}

static void update_in_progress_precedes_the_second(void **state) {
    struct pc *pc = *state;
    pc_advance(pc, SECOND - 245 * US);
    assert_int_equal(rd(pc, 0x0a), 0x26);
    pc_advance(pc, 2 * US);
    assert_int_equal(rd(pc, 0x0a), 0xa6);
    pc_advance(pc, 243 * US);
    assert_int_equal(rd(pc, 0x0a), 0x26);
}

static void flags_are_set_without_interrupts_and_cleared_by_reading(void **state) {
    struct pc *pc = *state;
    rd(pc, 0x0c);
    pc_advance(pc, SECOND);
    assert_int_equal(rd(pc, 0x0c), 0x50); /* periodic and update, no IRQF */
    assert_int_equal(rd(pc, 0x0c), 0x00);
    assert_false(irq8(pc));
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
}

static void update_interrupts_come_every_second(void **state) {
    struct pc *pc = *state;
    wr(pc, 0x0a, 0x20);
    wr(pc, 0x0b, 0x12);
    for (unsigned i = 0; i < 5; i++) {
        pc_advance(pc, SECOND - 1);
        assert_false(irq8(pc));
        pc_advance(pc, 1);
        assert_true(irq8(pc));
        assert_int_equal(rd(pc, 0x0c), 0x90);
        assert_false(irq8(pc));
    }
}

static void setting_the_clock_disables_update_interrupts(void **state) {
    struct pc *pc = *state;
    wr(pc, 0x0b, 0x92); /* SET clears UIE (data sheet, "Register B") */
    assert_int_equal(rd(pc, 0x0b), 0x82);
}

static void periodic_interrupts_have_the_selected_rate(void **state) {
    struct pc *pc = *state;
    static const struct {
        u8 rate;
        unsigned hz;
    } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {13, 8}, {15, 2}};
    for (unsigned i = 0; i < ARRAY_LEN(rates); i++) {
        wr(pc, 0x0a, 0x20 | rates[i].rate);
        wr(pc, 0x0b, 0x42);
        rd(pc, 0x0c);
        unsigned count = 0;
        u64 end = pc->now_ns + SECOND;
        while (dev_next_deadline_ns(pc->m) <= end) {
            pc->now_ns = dev_next_deadline_ns(pc->m);
            dev_run_timers(pc->m, pc->now_ns);
            assert_true(irq8(pc));
            assert_int_equal(rd(pc, 0x0c) & 0xc0, 0xc0);
            count++;
        }
        pc->now_ns = end;
        assert_int_equal(count, rates[i].hz);
        wr(pc, 0x0b, 0x02);
    }
}

static void alarms_match_and_wildcards_match_all(void **state) {
    struct pc *pc = *state;
    wr(pc, 5, 0x04), wr(pc, 3, 0x00), wr(pc, 1, 0x00); /* 04:00:00 */
    wr(pc, 0x0b, 0x22);
    rd(pc, 0x0c);
    u64 until = (55 * 60 + 55) * SECOND;
    assert_int_equal(dev_next_deadline_ns(pc->m), until);
    pc_advance(pc, until - 1);
    assert_false(irq8(pc));
    pc_advance(pc, 1);
    assert_true(irq8(pc));
    assert_int_equal(rd(pc, 0x0c) & 0xb0, 0xb0);
    assert_int_equal(dev_next_deadline_ns(pc->m) - pc->now_ns, 86400 * SECOND);
    wr(pc, 5, 0xff), wr(pc, 3, 0xc0), wr(pc, 1, 0x30); /* every minute at :30 */
    pc_advance(pc, 30 * SECOND);
    assert_true(irq8(pc));
    rd(pc, 0x0c);
    pc_advance(pc, 60 * SECOND);
    assert_true(irq8(pc));
    wr(pc, 1, 0x77); /* never */
    rd(pc, 0x0c);
    assert_int_equal(dev_next_deadline_ns(pc->m), DEV_NEVER);
}

static void cmos_reports_memory_and_keeps_bytes(void **state) {
    struct pc *pc = *state;
    assert_int_equal(rd(pc, 0x15) | rd(pc, 0x16) << 8, 640);
    assert_int_equal(rd(pc, 0x17) | rd(pc, 0x18) << 8, 63 * 1024);
    assert_int_equal(rd(pc, 0x30) | rd(pc, 0x31) << 8, 63 * 1024);
    assert_int_equal(rd(pc, 0x34) | rd(pc, 0x35) << 8, 48 * 16);
    assert_int_equal(rd(pc, 0x10), 0);
    unsigned sum = 0;
    for (u8 i = 0x10; i <= 0x2d; i++)
        sum += rd(pc, i);
    assert_int_equal(rd(pc, 0x2e) << 8 | rd(pc, 0x2f), sum);
    wr(pc, 0x8f, 0x0a); /* shutdown byte, NMI masked */
    dev_machine_reset(pc->m);
    assert_int_equal(rd(pc, 0x0f), 0x0a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(time_is_the_epoch_plus_virtual_time),
        PC_TEST(binary_and_12_hour_formats),
        PC_TEST(setting_the_clock_starts_the_next_second_half_a_second_later),
        PC_TEST(single_fields_can_be_written_while_it_runs),
        PC_TEST(nonsense_values_do_no_harm),
        PC_TEST(update_in_progress_precedes_the_second),
        PC_TEST(flags_are_set_without_interrupts_and_cleared_by_reading),
        PC_TEST(update_interrupts_come_every_second),
        PC_TEST(setting_the_clock_disables_update_interrupts),
        PC_TEST(periodic_interrupts_have_the_selected_rate),
        PC_TEST(alarms_match_and_wildcards_match_all),
        PC_TEST(cmos_reports_memory_and_keeps_bytes),
    };
    return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
