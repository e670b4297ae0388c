/* Keyboard controller: the controller commands, the keyboard's answers, A20, reset, interrupts. */
#include "pc_fixture.h"

static void command(struct pc *pc, u8 v) {
    out8(pc, 0x64, v);
}
static u8 status(struct pc *pc) {
    return in8(pc, 0x64);
}
static u8 answer(struct pc *pc) {
    assert_true(status(pc) & 1);
    return in8(pc, 0x60);
}
static u8 requests(struct pc *pc, u16 port) { /* IRR of the 8259 at this port */
    out8(pc, port, 0x0a);
    return in8(pc, port);
}

static void self_tests_pass(void **state) {
    struct pc *pc = *state;
    assert_int_equal(status(pc) & 0x13, 0x10); /* empty, not locked */
    command(pc, 0xaa);
    assert_int_equal(answer(pc), 0x55);
    command(pc, 0xab);
    assert_int_equal(answer(pc), 0x00);
    command(pc, 0xa9);
    assert_int_equal(answer(pc), 0x00);
    assert_int_equal(status(pc) & 1, 0);
}

static void the_command_byte_reads_back(void **state) {
    struct pc *pc = *state;
    command(pc, 0x60), out8(pc, 0x60, 0x47);
    command(pc, 0x20);
    assert_int_equal(answer(pc), 0x47);
    command(pc, 0xa7), command(pc, 0xad);
    command(pc, 0x20);
    assert_int_equal(answer(pc), 0x77);
    command(pc, 0xa8), command(pc, 0xae);
    command(pc, 0x20);
    assert_int_equal(answer(pc), 0x47);
}

static void the_keyboard_answers_reset_identify_and_leds(void **state) {
    struct pc *pc = *state;
    command(pc, 0x60), out8(pc, 0x60, 0x05); /* no translation */
    out8(pc, 0x60, 0xff);
    assert_int_equal(answer(pc), 0xfa);
    assert_int_equal(answer(pc), 0xaa);
    out8(pc, 0x60, 0xf2);
    assert_int_equal(answer(pc), 0xfa);
    assert_int_equal(answer(pc), 0xab);
    assert_int_equal(answer(pc), 0x83);
    out8(pc, 0x60, 0xed);
    assert_int_equal(answer(pc), 0xfa);
    out8(pc, 0x60, 0x02);
    assert_int_equal(answer(pc), 0xfa);
    out8(pc, 0x60, 0xf0);
    assert_int_equal(answer(pc), 0xfa);
    out8(pc, 0x60, 0x00);
    assert_int_equal(answer(pc), 0xfa);
    assert_int_equal(answer(pc), 0x02);
    out8(pc, 0x60, 0xee);
    assert_int_equal(answer(pc), 0xee);
    out8(pc, 0x60, 0xfe);
    assert_int_equal(answer(pc), 0xee);
    out8(pc, 0x60, 0xe1);
    assert_int_equal(answer(pc), 0xfe);
    command(pc, 0x60), out8(pc, 0x60, 0x45); /* translation changes the identity */
    out8(pc, 0x60, 0xf2);
    in8(pc, 0x60), in8(pc, 0x60);
    assert_int_equal(answer(pc), 0x41);
}

static void every_keyboard_byte_raises_irq1(void **state) {
    struct pc *pc = *state;
    command(pc, 0x60), out8(pc, 0x60, 0x44);
    out8(pc, 0x60, 0xff);
    assert_int_equal(requests(pc, 0x20) & 2, 0); /* not enabled */
    command(pc, 0x60), out8(pc, 0x60, 0x45);
    assert_int_equal(requests(pc, 0x20) & 2, 2);
    pc_init_pics(pc, 1);
    assert_int_equal(answer(pc), 0xfa);
    assert_true(dev_intr_pending(pc->m));
    assert_int_equal(dev_intr_acknowledge(pc->m), 0x21);
    assert_int_equal(answer(pc), 0xaa);
    out8(pc, 0x20, 0x20);
    assert_false(dev_intr_pending(pc->m));
}

static void a_disabled_keyboard_keeps_its_bytes(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x60, 0xf2);
    assert_int_equal(answer(pc), 0xfa);
    command(pc, 0xad);
    assert_int_equal(answer(pc), 0xab); /* was in the output buffer already */
    assert_int_equal(status(pc) & 1, 0);
    command(pc, 0xae);
    assert_int_equal(answer(pc), 0x41);
}

static void writing_to_the_keyboard_turns_its_interface_on(void **state) {
    struct pc *pc = *state;
    command(pc, 0xad);
    out8(pc, 0x60, 0xee);
    assert_int_equal(answer(pc), 0xee);
}

/* i8042_check_aux(): the loop returns the byte as the mouse's, with IRQ12 when enabled. */
static void the_auxiliary_loop_answers_with_irq12(void **state) {
    struct pc *pc = *state;
    command(pc, 0xd3), out8(pc, 0x60, 0x5a);
    assert_int_equal(status(pc) & 0x21, 0x21);
    assert_int_equal(requests(pc, 0xa0) & 0x10, 0);
    assert_int_equal(answer(pc), 0x5a);
    command(pc, 0x60), out8(pc, 0x60, 0x47);
    command(pc, 0xd3), out8(pc, 0x60, 0xa5);
    assert_int_equal(requests(pc, 0xa0) & 0x10, 0x10);
    assert_int_equal(requests(pc, 0x20) & 2, 0);
    assert_int_equal(answer(pc), 0xa5);
    command(pc, 0xd4), out8(pc, 0x60, 0xf2); /* no mouse: time-out */
    assert_int_equal(status(pc) & 0x61, 0x61);
    assert_int_equal(answer(pc), 0xfe);
    command(pc, 0xd2), out8(pc, 0x60, 0x33);
    assert_int_equal(status(pc) & 0x21, 0x01);
    assert_int_equal(answer(pc), 0x33);
}

static void the_output_port_controls_a20(void **state) {
    struct pc *pc = *state;
    assert_true(dev_a20_enabled(pc->m));
    command(pc, 0xd1), out8(pc, 0x60, 0xdd);
    assert_false(dev_a20_enabled(pc->m));
    command(pc, 0xd0);
    assert_int_equal(answer(pc) & 3, 1);
    assert_int_equal(in8(pc, 0x92) & 2, 0);
    command(pc, 0xdf);
    assert_true(dev_a20_enabled(pc->m));
    command(pc, 0xdd);
    assert_false(dev_a20_enabled(pc->m));
    assert_false(dev_machine_requests(pc->m)->reset);
}

static void reset_by_pulse_and_by_output_port(void **state) {
    struct pc *pc = *state;
    command(pc, 0xff);
    assert_false(dev_machine_requests(pc->m)->reset);
    command(pc, 0xfe);
    assert_true(dev_machine_requests(pc->m)->reset);
    dev_machine_reset(pc->m);
    assert_false(dev_machine_requests(pc->m)->reset);
    command(pc, 0xd1), out8(pc, 0x60, 0xfe);
    assert_true(dev_machine_requests(pc->m)->reset);
}

static void queues_are_bounded(void **state) {
    struct pc *pc = *state;
    for (unsigned i = 0; i < 10000; i++) {
        out8(pc, 0x60, 0xf2);
        command(pc, (u8)(0x20 + i % 0xd0));
    }
    unsigned bytes = 0;
    while (status(pc) & 1) {
        in8(pc, 0x60);
        bytes++;
        assert_true(bytes < 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(self_tests_pass),
        PC_TEST(the_command_byte_reads_back),
        PC_TEST(the_keyboard_answers_reset_identify_and_leds),
        PC_TEST(every_keyboard_byte_raises_irq1),
        PC_TEST(a_disabled_keyboard_keeps_its_bytes),
        PC_TEST(writing_to_the_keyboard_turns_its_interface_on),
        PC_TEST(the_auxiliary_loop_answers_with_irq12),
        PC_TEST(the_output_port_controls_a20),
        PC_TEST(reset_by_pulse_and_by_output_port),
        PC_TEST(queues_are_bounded),
    };
    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
