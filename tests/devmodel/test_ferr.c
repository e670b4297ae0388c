/* The x87 unit's errors by way of FERR#, IRQ 13, port F0h and IGNNE#. */
#include "pc_fixture.h"

static bool irq13_comes(struct pc *pc) {
    return dev_intr_pending(pc->m) && dev_intr_acknowledge(pc->m) == 0x2d;
}
static void finish_irq13(struct pc *pc) {
    out8(pc, 0xa0, 0x20), out8(pc, 0x20, 0x20);
}

static void ferr_latches_irq_13_until_port_f0(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    out8(pc, 0x21, 0), out8(pc, 0xa1, 0);
    assert_false(dev_ferr_set(pc->m, true));
    assert_true(irq13_comes(pc));
    finish_irq13(pc);
    assert_false(dev_intr_pending(pc->m));
    /* The latch is still set: no new edge from a new error. */
    dev_ferr_set(pc->m, false);
    assert_false(dev_ferr_set(pc->m, true));
    assert_false(dev_intr_pending(pc->m));
    dev_ferr_set(pc->m, false);
    out8(pc, 0xf0, 0);
    assert_false(dev_ferr_set(pc->m, true));
    assert_true(irq13_comes(pc));
}

static void port_f0_asserts_ignne_while_ferr_lasts(void **state) {
    struct pc *pc = *state;
    out8(pc, 0xf0, 0); /* no error: nothing to pass over */
    assert_false(dev_ferr_set(pc->m, true));
    out8(pc, 0xf0, 0);
    assert_true(dev_ferr_set(pc->m, true));
    assert_false(dev_ferr_set(pc->m, false));
    assert_false(dev_ferr_set(pc->m, true));
}

static void reset_clears_latch_and_ignne(void **state) {
    struct pc *pc = *state;
    dev_ferr_set(pc->m, true);
    out8(pc, 0xf0, 0);
    dev_machine_reset(pc->m);
    pc_init_pics(pc, 1);
    out8(pc, 0x21, 0), out8(pc, 0xa1, 0);
    assert_false(dev_intr_pending(pc->m));
    assert_false(dev_ferr_set(pc->m, true));
    assert_true(irq13_comes(pc));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(ferr_latches_irq_13_until_port_f0),
        PC_TEST(port_f0_asserts_ignne_while_ferr_lasts),
        PC_TEST(reset_clears_latch_and_ignne),
    };
    return cmocka_run_group_tests_name("devmodel.ferr", tests, NULL, NULL);
}
