/* ACPI fixed hardware: PM timer, mode switch, SCI, soft off. */
#include "pc_fixture.h"

enum { PM1_STS = 0x600, PM1_EN = 0x602, PM1_CNT = 0x604, PM_TMR = 0x608, GPE0 = 0x60c };

static bool irq9(struct pc *pc) {
    out8(pc, 0xa0, 0x0a);
    return in8(pc, 0xa0) & 2;
}

static void the_timer_runs_at_3579545_hz_in_24_bits(void **state) {
    struct pc *pc = *state;
    assert_int_equal(in32(pc, PM_TMR), 0);
    pc_advance(pc, SECOND);
    assert_int_equal(in32(pc, PM_TMR), 3579545);
    pc_advance(pc, 9 * SECOND);
    assert_int_equal(in32(pc, PM_TMR), 35795450 & 0xffffff);
    assert_int_equal(in16(pc, PM_TMR + 2), 35795450 >> 16 & 0xff);
    out32(pc, PM_TMR, 0);
    assert_int_equal(in32(pc, PM_TMR), 35795450 & 0xffffff);
}

static void the_smi_command_switches_acpi_mode(void **state) {
    struct pc *pc = *state;
    assert_int_equal(in16(pc, PM1_CNT) & 1, 0);
    out8(pc, 0xb2, 0xf1);
    assert_int_equal(in16(pc, PM1_CNT) & 1, 1);
    assert_int_equal(in8(pc, 0xb2), 0xf1);
    out8(pc, 0xb2, 0xf0);
    assert_int_equal(in16(pc, PM1_CNT) & 1, 0);
}

static void the_timer_overflow_raises_the_sci(void **state) {
    struct pc *pc = *state;
    out8(pc, 0xb2, 0xf1);
    pc_advance(pc, 3 * SECOND); /* bit 23 has changed: 2^23 ticks are 2.34 s */
    assert_int_equal(in16(pc, PM1_STS), 1);
    assert_false(irq9(pc));
    out16(pc, PM1_EN, 1);
    assert_true(irq9(pc));
    out16(pc, PM1_STS, 1);
    assert_false(irq9(pc));
    assert_int_equal(in16(pc, PM1_STS), 0);
    pc_advance(pc, 1600 * MS);
    assert_false(irq9(pc));
    pc_advance(pc, 100 * MS); /* 2^24 ticks are 4.687 s */
    assert_true(irq9(pc));
    out16(pc, PM1_CNT, 0); /* without SCI_EN there is no SCI */
    assert_false(irq9(pc));
}

static void byte_writes_touch_their_byte_only(void **state) {
    struct pc *pc = *state;
    out16(pc, PM1_EN, 0xffff);
    assert_int_equal(in16(pc, PM1_EN), 0x0521);
    out8(pc, PM1_EN + 1, 0);
    assert_int_equal(in16(pc, PM1_EN), 0x0021);
    pc_advance(pc, 3 * SECOND);
    out8(pc, PM1_STS + 1, 0xff);
    assert_int_equal(in32(pc, PM1_STS), 0x00210001);
    out32(pc, GPE0, 0xabcdffff);
    assert_int_equal(in32(pc, GPE0), 0xabcd0000);
}

static void soft_off_needs_slp_en_and_the_s5_type(void **state) {
    struct pc *pc = *state;
    struct dev_requests *r = dev_machine_requests(pc->m);
    out16(pc, PM1_CNT, 0x0001);
    assert_false(r->poweroff);
    out16(pc, PM1_CNT, 0x2401); /* another sleep type */
    assert_false(r->poweroff);
    assert_int_equal(in16(pc, PM1_CNT), 0x0401); /* SLP_EN reads as 0 */
    out16(pc, PM1_CNT, 0x2001);
    assert_true(r->poweroff);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(the_timer_runs_at_3579545_hz_in_24_bits),
        PC_TEST(the_smi_command_switches_acpi_mode),
        PC_TEST(the_timer_overflow_raises_the_sci),
        PC_TEST(byte_writes_touch_their_byte_only),
        PC_TEST(soft_off_needs_slp_en_and_the_s5_type),
    };
    return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
