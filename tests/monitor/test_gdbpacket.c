/*
 * Tests of gdb's packet framing: good packets, escapes, and everything a broken peer may send.
 */
#include "monitor/monitor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct mon_gdb_parser p;

static enum mon_gdb_event feed(const char *text) {
    enum mon_gdb_event e = MON_GDB_MORE;
    memset(&p, 0, sizeof p);
    for (; *text; text++)
        e = mon_gdb_feed(&p, (u8)*text);
    return e;
}

static void a_good_packet_is_recognised(void **state) {
    (void)state;
    assert_int_equal(feed("$g#67"), MON_GDB_PACKET);
    assert_string_equal(p.text, "g");
    assert_int_equal(feed("++$m0,4#fd"), MON_GDB_PACKET);
    assert_string_equal(p.text, "m0,4");
    assert_int_equal(feed("$#00"), MON_GDB_PACKET);
    assert_string_equal(p.text, "");
}

static void a_wrong_checksum_is_bad(void **state) {
    (void)state;
    assert_int_equal(feed("$g#68"), MON_GDB_BAD);
    assert_int_equal(feed("$g#zz"), MON_GDB_MORE); /* given up at the first, idle at the second */
    assert_int_equal(feed("$g#6z"), MON_GDB_BAD);
}

static void escapes_are_resolved(void **state) {
    (void)state;
    char framed[64];
    size_t n = mon_gdb_frame("a#b}c$*", 7, framed, sizeof framed - 1);
    assert_true(n > 0);
    framed[n] = 0;
    assert_int_equal(feed(framed), MON_GDB_PACKET);
    assert_string_equal(p.text, "a#b}c$*");
}

static void break_and_acks_stand_alone(void **state) {
    (void)state;
    assert_int_equal(feed("\x03"), MON_GDB_BREAK);
    assert_int_equal(feed("+"), MON_GDB_ACK);
    assert_int_equal(feed("-"), MON_GDB_NAK);
    assert_int_equal(feed("noise"), MON_GDB_MORE);
}

static void an_endless_packet_is_refused(void **state) {
    (void)state;
    memset(&p, 0, sizeof p);
    mon_gdb_feed(&p, '$');
    for (unsigned i = 0; i < 3 * MON_GDB_PACKET_BYTES; i++)
        assert_int_equal(mon_gdb_feed(&p, 'A'), MON_GDB_MORE);
    mon_gdb_feed(&p, '#');
    mon_gdb_feed(&p, '0');
    assert_int_equal(mon_gdb_feed(&p, '0'), MON_GDB_BAD);
    assert_int_equal(mon_gdb_feed(&p, '$'), MON_GDB_MORE);
    mon_gdb_feed(&p, 'g');
    mon_gdb_feed(&p, '#');
    mon_gdb_feed(&p, '6');
    assert_int_equal(mon_gdb_feed(&p, '7'), MON_GDB_PACKET);
}

static void a_frame_that_does_not_fit_is_refused(void **state) {
    (void)state;
    char small[8];
    assert_int_equal(mon_gdb_frame("0123456789", 10, small, sizeof small), 0);
    assert_int_equal(mon_gdb_frame("", 0, small, 3), 0);
    assert_int_equal(mon_gdb_frame("ok", 2, small, sizeof small), 6);
}

static void random_bytes_never_overrun(void **state) {
    (void)state;
    srand(1);
    memset(&p, 0, sizeof p);
    for (unsigned i = 0; i < 300000; i++) {
        mon_gdb_feed(&p, (u8)(rand() % 7 ? rand() : "$#}"[rand() % 3]));
        assert_true(p.length <= MON_GDB_PACKET_BYTES);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_packet_is_recognised),
        cmocka_unit_test(a_wrong_checksum_is_bad),
        cmocka_unit_test(escapes_are_resolved),
        cmocka_unit_test(break_and_acks_stand_alone),
        cmocka_unit_test(an_endless_packet_is_refused),
        cmocka_unit_test(a_frame_that_does_not_fit_is_refused),
        cmocka_unit_test(random_bytes_never_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
