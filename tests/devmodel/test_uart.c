/* 16550A: what Linux's 8250 driver probes for, interrupt sources and priorities, FIFO, loopback. */
#include "pc_fixture.h"

enum {
    COM1 = 0x3f8,
    COM2 = 0x2f8,
    THR = 0,
    IER = 1,
    IIR = 2,
    FCR = 2,
    LCR = 3,
    MCR = 4,
    LSR = 5,
    MSR = 6,
    SCR = 7
};

static u8 rd(struct pc *pc, unsigned reg) {
    return in8(pc, (u16)(COM1 + reg));
}
static void wr(struct pc *pc, unsigned reg, u8 v) {
    out8(pc, (u16)(COM1 + reg), v);
}

static bool irq4(struct pc *pc) {
    out8(pc, 0x20, 0x0a);
    return in8(pc, 0x20) & 0x10;
}

static void transmitted_bytes_reach_the_back_end(void **state) {
    struct pc *pc = *state;
    wr(pc, THR, 'o'), wr(pc, THR, 'k');
    assert_memory_equal(pc->line[0].sent, "ok", 2);
    assert_int_equal(rd(pc, LSR), 0x60);
    out8(pc, COM2, 'x');
    assert_int_equal(pc->line[1].sent[0], 'x');
}

/* autoconfig() and autoconfig_16550a() of drivers/tty/serial/8250/8250_port.c, step by step. */
static void linux_autoconfig_finds_a_16550a(void **state) {
    struct pc *pc = *state;
    wr(pc, IER, 0);
    out8(pc, 0x80, 0xff);
    assert_int_equal(rd(pc, IER) & 0x0f, 0);
    wr(pc, IER, 0x0f);
    assert_int_equal(rd(pc, IER), 0x0f);
    wr(pc, IER, 0);
    wr(pc, MCR, 0x1a); /* loop, OUT2, RTS */
    assert_int_equal(rd(pc, MSR) & 0xf0, 0x90);
    wr(pc, MCR, 0);
    wr(pc, LCR, 0xbf);
    wr(pc, FCR, 0);
    wr(pc, LCR, 0);
    wr(pc, FCR, 1);
    assert_int_equal(rd(pc, IIR) >> 6, 3);
    wr(pc, LCR, 0x80); /* no EFR: reads as IIR */
    assert_int_not_equal(rd(pc, IIR), 0);
    wr(pc, LCR, 0xbf);
    assert_int_not_equal(rd(pc, IIR), 0);
    wr(pc, LCR, 0); /* no 64-byte FIFO of the 16750 */
    wr(pc, FCR, 0x21);
    assert_int_equal(rd(pc, IIR) >> 5, 6);
    wr(pc, LCR, 0x80);
    wr(pc, FCR, 0x21);
    assert_int_equal(rd(pc, IIR) >> 5, 6);
    wr(pc, LCR, 0);
    wr(pc, IER, 0x40); /* no XScale UUE */
    assert_int_equal(rd(pc, IER), 0);
    wr(pc, SCR, 0xa5);
    assert_int_equal(rd(pc, SCR), 0xa5);
}

/* serial8250_do_startup(): the THRE interrupt must come back when IER is written again. */
static void the_thre_interrupt_rearms_when_it_is_enabled_again(void **state) {
    struct pc *pc = *state;
    wr(pc, FCR, 1);
    wr(pc, IER, 2);
    assert_int_equal(rd(pc, IIR), 0xc2);
    wr(pc, IER, 0);
    wr(pc, IER, 2);
    assert_int_equal(rd(pc, IIR), 0xc2);
    assert_int_equal(rd(pc, IIR), 0xc1); /* reading it cleared it */
    wr(pc, THR, 'a');
    assert_int_equal(rd(pc, IIR), 0xc2); /* THR is empty again */
}

static void the_interrupt_line_follows_out2(void **state) {
    struct pc *pc = *state;
    wr(pc, IER, 2);
    assert_false(irq4(pc));
    wr(pc, MCR, 0x08);
    assert_true(irq4(pc));
    rd(pc, IIR);
    assert_false(irq4(pc));
}

static void every_transmitted_byte_is_a_new_edge(void **state) {
    struct pc *pc = *state;
    pc_init_pics(pc, 1);
    wr(pc, MCR, 0x08), wr(pc, IER, 2);
    assert_int_equal(dev_intr_acknowledge(pc->m), 0x24);
    out8(pc, 0x20, 0x20);
    assert_false(dev_intr_pending(pc->m));
    wr(pc, THR, 'a');
    assert_true(dev_intr_pending(pc->m));
}

static void receive_interrupts_at_the_trigger_level_or_after_a_pause(void **state) {
    struct pc *pc = *state;
    wr(pc, LCR, 0x83), wr(pc, 0, 1), wr(pc, 1, 0), wr(pc, LCR, 0x03); /* 115200 8N1 */
    wr(pc, FCR, 0x81);                                                /* trigger at 8 */
    wr(pc, IER, 1), wr(pc, MCR, 8);
    pc->line[0].input = "1234567";
    dev_serial_poll(pc->m);
    assert_int_equal(rd(pc, IIR), 0xc1);
    assert_int_equal(rd(pc, LSR), 0x61);
    pc_advance(pc, 340 * US);
    assert_int_equal(rd(pc, IIR), 0xc1);
    pc_advance(pc, 10 * US); /* four characters of ten bits: 347 us */
    assert_int_equal(rd(pc, IIR), 0xcc);
    assert_true(irq4(pc));
    assert_int_equal(rd(pc, 0), '1');
    assert_int_equal(rd(pc, IIR), 0xc1);
    pc->line[0].input = "89";
    dev_serial_poll(pc->m);
    assert_int_equal(rd(pc, IIR), 0xc4);
    for (char c = '2'; c <= '9'; c++)
        assert_int_equal(rd(pc, 0), c);
    assert_int_equal(rd(pc, LSR), 0x60);
    assert_false(irq4(pc));
}

static void input_waits_at_the_back_end_when_the_fifo_is_full(void **state) {
    struct pc *pc = *state;
    const char *text = "abcdefghijklmnopqrstuvwxyz";
    wr(pc, FCR, 1), wr(pc, IER, 1);
    pc->line[0].input = text;
    dev_serial_poll(pc->m), dev_serial_poll(pc->m);
    assert_ptr_equal(pc->line[0].input, text + 16);
    for (unsigned i = 0; i < 26; i++) {
        if (i == 16) {
            assert_int_equal(rd(pc, LSR) & 3, 0); /* empty, nothing lost */
            pc_advance(pc, 1 * MS);
        }
        assert_int_equal(rd(pc, 0), text[i]);
    }
}

static void input_waits_until_the_guest_listens(void **state) {
    struct pc *pc = *state;
    const char *text = "abc";
    wr(pc, FCR, 1);
    pc->line[0].input = text;
    dev_serial_poll(pc->m);
    pc_advance(pc, 100 * MS);
    assert_ptr_equal(pc->line[0].input, text);
    wr(pc, FCR, 7), wr(pc, FCR, 0); /* a driver that probes */
    wr(pc, IER, 1);
    pc_advance(pc, 1 * MS);
    assert_ptr_equal(pc->line[0].input, text); /* no FIFO yet: it may come in a moment */
    wr(pc, FCR, 1);
    dev_serial_poll(pc->m);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rd(pc, 0), text[i]);
}

static void a_polling_guest_listens(void **state) {
    struct pc *pc = *state;
    const char *text = "x";
    pc->line[0].input = text;
    for (unsigned i = 0; i < 20; i++) /* a printing guest looks at LSR too */
        rd(pc, LSR), wr(pc, THR, '.');
    assert_ptr_equal(pc->line[0].input, text);
    for (unsigned i = 0; i < 20 && !(rd(pc, LSR) & 1); i++)
        ;
    assert_int_equal(rd(pc, 0), 'x');
}

static void turning_the_fifo_on_keeps_a_character(void **state) {
    struct pc *pc = *state;
    pc->line[0].input = "q";
    wr(pc, IER, 1);
    pc_advance(pc, 10 * MS);
    wr(pc, FCR, 1);
    assert_int_equal(rd(pc, 0), 'q');
}

static void sources_are_reported_in_priority_order(void **state) {
    struct pc *pc = *state;
    wr(pc, IER, 0x0f);
    wr(pc, MCR, 0x11);                  /* loop: DTR to DSR; CTS and DCD drop: delta bits */
    wr(pc, THR, 'a'), wr(pc, THR, 'b'); /* without FIFO: overrun */
    assert_int_equal(rd(pc, IIR), 0x06);
    assert_int_equal(rd(pc, LSR) & 3, 3);
    assert_int_equal(rd(pc, IIR), 0x04);
    assert_int_equal(rd(pc, 0), 'b');
    assert_int_equal(rd(pc, IIR), 0x02);
    assert_int_equal(rd(pc, IIR), 0x00);
    assert_int_equal(rd(pc, MSR), 0x29);
    assert_int_equal(rd(pc, IIR), 0x01);
    assert_int_equal(pc->line[0].sent_bytes, 0); /* nothing leaves in loopback */
}

static void loopback_wires_mcr_to_msr(void **state) {
    struct pc *pc = *state;
    static const u8 wire[4][2] = {{1, 0x20}, {2, 0x10}, {4, 0x40}, {8, 0x80}};
    for (unsigned i = 0; i < 4; i++) {
        wr(pc, MCR, 0x10 | wire[i][0]);
        assert_int_equal(rd(pc, MSR) & 0xf0, wire[i][1]);
    }
    wr(pc, MCR, 0x14);
    rd(pc, MSR);
    wr(pc, MCR, 0x10); /* trailing edge of RI */
    assert_int_equal(rd(pc, MSR) & 0x0f, 0x04);
    wr(pc, MCR, 0x14);
    assert_int_equal(rd(pc, MSR) & 0x0f, 0x00);
    wr(pc, MCR, 0);
    assert_int_equal(rd(pc, MSR) & 0xf0, 0xb0);
}

static void the_divisor_hides_behind_dlab(void **state) {
    struct pc *pc = *state;
    wr(pc, IER, 5);
    wr(pc, LCR, 0x83);
    wr(pc, 0, 0x34), wr(pc, 1, 0x12);
    assert_int_equal(rd(pc, 0), 0x34);
    assert_int_equal(rd(pc, 1), 0x12);
    wr(pc, LCR, 0x03);
    assert_int_equal(rd(pc, IER), 5);
    assert_int_equal(pc->line[0].sent_bytes, 0);
}

static void a_refusing_back_end_holds_thre_down(void **state) {
    struct pc *pc = *state;
    wr(pc, FCR, 1), wr(pc, IER, 2);
    rd(pc, IIR);
    pc->line[0].refuse = true;
    for (unsigned i = 0; i < 40; i++)
        wr(pc, THR, (u8)('A' + i));
    assert_int_equal(rd(pc, LSR), 0);
    assert_int_equal(rd(pc, IIR), 0xc1);
    pc_advance(pc, 10 * MS);
    pc->line[0].refuse = false;
    pc_advance(pc, 2 * MS);
    assert_int_equal(rd(pc, LSR), 0x60);
    assert_int_equal(rd(pc, IIR), 0xc2);
    assert_int_equal(pc->line[0].sent_bytes, 16);
    assert_memory_equal(pc->line[0].sent, "ABCDEFGHIJKLMNOP", 16);
}

static void fcr_clears_the_receive_fifo(void **state) {
    struct pc *pc = *state;
    wr(pc, FCR, 1);
    pc->line[0].input = "xyz";
    dev_serial_poll(pc->m);
    wr(pc, FCR, 3);
    assert_int_equal(rd(pc, LSR), 0x60);
    pc_advance(pc, SECOND);
    wr(pc, IER, 1);
    assert_int_equal(rd(pc, IIR), 0xc1);
}

static void a_port_without_back_end_is_absent(void **state) {
    (void)state;
    struct pc *pc = pc_create(false);
    for (u16 i = 0; i < 8; i++)
        assert_int_equal(in8(pc, COM2 + i), 0xff);
    assert_int_equal(in8(pc, COM1 + LSR), 0x60);
    pc_destroy(pc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PC_TEST(transmitted_bytes_reach_the_back_end),
        PC_TEST(linux_autoconfig_finds_a_16550a),
        PC_TEST(the_thre_interrupt_rearms_when_it_is_enabled_again),
        PC_TEST(the_interrupt_line_follows_out2),
        PC_TEST(every_transmitted_byte_is_a_new_edge),
        PC_TEST(receive_interrupts_at_the_trigger_level_or_after_a_pause),
        PC_TEST(input_waits_at_the_back_end_when_the_fifo_is_full),
        PC_TEST(input_waits_until_the_guest_listens),
        PC_TEST(a_polling_guest_listens),
        PC_TEST(turning_the_fifo_on_keeps_a_character),
        PC_TEST(sources_are_reported_in_priority_order),
        PC_TEST(loopback_wires_mcr_to_msr),
        PC_TEST(the_divisor_hides_behind_dlab),
        PC_TEST(a_refusing_back_end_holds_thre_down),
        PC_TEST(fcr_clears_the_receive_fifo),
        cmocka_unit_test(a_port_without_back_end_is_absent),
    };
    return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
