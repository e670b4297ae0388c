/* The 8259 pair: priorities, modes, cascade and spurious interrupts, after the data sheet. */
#include "pc_fixture.h"

static u8 intack(struct pc *pc) {
    return dev_intr_acknowledge(pc->m);
}
static bool pending(struct pc *pc) {
    return dev_intr_pending(pc->m);
}
static void pulse(struct pc *pc, unsigned line) {
    pc_line_set(pc, line, false);
    pc_line_set(pc, line, true);
}

static void the_mask_register_reads_back(void **state) {
    struct pc *pc = *state;
    out8(pc, 0x21, 0xfb); /* how Linux probes for the chip */
    assert_int_equal(in8(pc, 0x21), 0xfb);
    out8(pc, 0xa1, 0xff);
    assert_int_equal(in8(pc, 0xa1), 0xff);
}

static void higher_priority_comes_first_and_nests(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 5), pulse(pc, 3);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x23);
    assert_false(pending(pc)); /* 5 waits for 3's EOI */
    pulse(pc, 1);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x21);
    out8(pc, 0x20, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0x0a); /* ISR: 1 and 3 */
    out8(pc, 0x20, 0x0a);
    assert_int_equal(in8(pc, 0x20), 0x20); /* IRR: 5 */
    out8(pc, 0x20, 0x20);
    assert_false(pending(pc));
    out8(pc, 0x20, 0x20);
    assert_int_equal(intack(pc), 0x25);
}

static void slave_vectors_come_through_the_cascade(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 14);
    assert_int_equal(intack(pc), 0x2e);
    out8(pc, 0x20, 0x0b), out8(pc, 0xa0, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0x04);
    assert_int_equal(in8(pc, 0xa0), 0x40);
    out8(pc, 0xa0, 0x66), out8(pc, 0x20, 0x62); /* specific EOIs, as Linux sends them */
    assert_int_equal(in8(pc, 0x20), 0);
    assert_int_equal(in8(pc, 0xa0), 0);
    pulse(pc, 14); /* and a second one gets through */
    assert_int_equal(intack(pc), 0x2e);
}

static void two_slave_requests_are_served_in_turn(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 12), pulse(pc, 8);
    assert_int_equal(intack(pc), 0x28);
    out8(pc, 0xa0, 0x20), out8(pc, 0x20, 0x20);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x2c);
}

static void a_slave_in_automatic_eoi_mode_asks_again_at_once(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 3);
    out8(pc, 0xa0, 0x11), out8(pc, 0xa1, 0x28), out8(pc, 0xa1, 2), out8(pc, 0xa1, 3);
    pulse(pc, 9), pulse(pc, 12);
    assert_int_equal(intack(pc), 0x29);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x2c);
    assert_false(pending(pc));
}

static void edge_lines_need_a_new_edge_and_level_lines_do_not(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 10);
    assert_int_equal(intack(pc), 0x2a);
    out8(pc, 0xa0, 0x20), out8(pc, 0x20, 0x20);
    assert_false(pending(pc)); /* still high, but no edge */
    out8(pc, 0x4d1, 0x04);
    assert_int_equal(in8(pc, 0x4d1), 0x04);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x2a);
    out8(pc, 0xa0, 0x20), out8(pc, 0x20, 0x20);
    assert_true(pending(pc)); /* a level asks again until it is lowered */
    pc_line_set(pc, 10, false);
    assert_false(pending(pc));
    out8(pc, 0x4d0, 0xff), out8(pc, 0x4d1, 0xff); /* 0, 1, 2, 8 and 13 stay edge triggered */
    assert_int_equal(in16(pc, 0x4d0), 0xdef8);
}

static void withdrawn_requests_are_spurious(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 4);
    pc_line_set(pc, 4, false);
    assert_int_equal(intack(pc), 0x27);
    out8(pc, 0x20, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0); /* no ISR bit for it */
}

static void a_slave_request_masked_before_inta_is_spurious_at_the_master(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 11);
    out8(pc, 0xa1, 0xff); /* the slave drops its INT, and with it the master's IR2 */
    assert_false(pending(pc));
    assert_int_equal(intack(pc), 0x27);
    out8(pc, 0xa1, 0x00); /* the request itself was only masked */
    assert_int_equal(intack(pc), 0x2b);
}

static void masked_requests_wait(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    out8(pc, 0x21, 0x10);
    pulse(pc, 4);
    assert_false(pending(pc));
    out8(pc, 0x21, 0x00);
    assert_true(pending(pc));
}

static void special_mask_mode_lets_lower_priorities_through(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 3);
    assert_int_equal(intack(pc), 0x23);
    pulse(pc, 6);
    assert_false(pending(pc));
    out8(pc, 0x21, 0x08);
    out8(pc, 0x20, 0x68); /* set special mask mode */
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x26);
    out8(pc, 0x20, 0x20); /* must not end the masked 3 */
    out8(pc, 0x20, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0x08);
    out8(pc, 0x20, 0x48); /* reset special mask mode */
    out8(pc, 0x20, 0x20);
    assert_int_equal(in8(pc, 0x20), 0);
}

static void poll_answers_and_acknowledges(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    out8(pc, 0x20, 0x0c);
    assert_int_equal(in8(pc, 0x20), 0x00);
    pulse(pc, 6);
    out8(pc, 0x20, 0x0c);
    assert_int_equal(in8(pc, 0x20), 0x86);
    assert_false(pending(pc));
    out8(pc, 0x20, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0x40);
}

static void rotation_makes_the_served_line_the_lowest(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    pulse(pc, 0);
    assert_int_equal(intack(pc), 0x20);
    out8(pc, 0x20, 0xa0); /* rotate on non-specific EOI */
    pulse(pc, 0), pulse(pc, 7);
    assert_int_equal(intack(pc), 0x27);
    out8(pc, 0x20, 0x20);
    assert_int_equal(intack(pc), 0x20);
    out8(pc, 0x20, 0x20);
    out8(pc, 0x20, 0xc4); /* set priority: 4 lowest, 5 highest */
    pulse(pc, 4), pulse(pc, 5), pulse(pc, 1);
    assert_int_equal(intack(pc), 0x25);
    out8(pc, 0x20, 0xe5); /* rotate on specific EOI: 6 highest */
    pulse(pc, 6);
    assert_int_equal(intack(pc), 0x26);
}

static void automatic_eoi_leaves_nothing_in_service(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 3);
    pulse(pc, 2 + 1), pulse(pc, 5);
    assert_int_equal(intack(pc), 0x23);
    assert_int_equal(intack(pc), 0x25);
    out8(pc, 0x20, 0x0b);
    assert_int_equal(in8(pc, 0x20), 0);
    out8(pc, 0x20, 0x80); /* rotate in automatic EOI mode */
    pulse(pc, 0), pulse(pc, 1);
    assert_int_equal(intack(pc), 0x20);
    pulse(pc, 0);
    assert_int_equal(intack(pc), 0x21);
}

static void specially_fully_nested_mode_admits_a_higher_slave_line(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 0x11);
    pulse(pc, 12);
    assert_int_equal(intack(pc), 0x2c);
    pulse(pc, 9);
    assert_true(pending(pc));
    assert_int_equal(intack(pc), 0x29);
}

static void icw1_clears_edges_and_mask(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    out8(pc, 0x21, 0xff);
    pulse(pc, 3);
    pc_init_pics(pc, 1);
    assert_int_equal(in8(pc, 0x21), 0);
    assert_false(pending(pc)); /* the line is high, but its edge is forgotten */
}

static void changes_of_intr_are_reported(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    dev_machine_requests(pc->m)->intr_changed = false;
    pulse(pc, 3);
    assert_true(dev_machine_requests(pc->m)->intr_changed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(the_mask_register_reads_back),
        PC_TEST(higher_priority_comes_first_and_nests),
        PC_TEST(slave_vectors_come_through_the_cascade),
        PC_TEST(two_slave_requests_are_served_in_turn),
        PC_TEST(a_slave_in_automatic_eoi_mode_asks_again_at_once),
        PC_TEST(edge_lines_need_a_new_edge_and_level_lines_do_not),
        PC_TEST(withdrawn_requests_are_spurious),
        PC_TEST(a_slave_request_masked_before_inta_is_spurious_at_the_master),
        PC_TEST(masked_requests_wait),
        PC_TEST(special_mask_mode_lets_lower_priorities_through),
        PC_TEST(poll_answers_and_acknowledges),
        PC_TEST(rotation_makes_the_served_line_the_lowest),
        PC_TEST(automatic_eoi_leaves_nothing_in_service),
        PC_TEST(specially_fully_nested_mode_admits_a_higher_slave_line),
        PC_TEST(icw1_clears_edges_and_mask),
        PC_TEST(changes_of_intr_are_reported),
    };
    return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
