/*
 * Tests of the command line: QEMU's spellings, what warns, what fails, what each option sets.
 */
#include "monitor/monitor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct mon_options o;

/* Parses "ringfold LINE", split at blanks; what goes to stdout and stderr is dropped. */
static enum mon_parse_result parse(const char *line) {
    static char text[512];
    char *argv[40] = {"ringfold"}, *save = NULL;
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
        argv[argc++] = word;
    int keep[2] = {dup(1), dup(2)};
    fflush(stdout);
    assert_non_null(freopen("/dev/null", "w", stdout));
    assert_non_null(freopen("/dev/null", "w", stderr));
    enum mon_parse_result r = mon_parse_options(argc, argv, &o);
    fflush(stdout);
    fflush(stderr);
    dup2(keep[0], 1);
    dup2(keep[1], 2);
    close(keep[0]);
    close(keep[1]);
    return r;
}
static void runs(const char *line) {
    assert_int_equal(parse(line), MON_PARSE_RUN);
}
static void fails(const char *line) {
    assert_int_equal(parse(line), MON_PARSE_ERROR);
}
static void answers(const char *line) {
    assert_int_equal(parse(line), MON_PARSE_DONE);
}

static void sizes_take_suffixes(void **state) {
    (void)state;
    u64 n;
    assert_true(mon_parse_size("128", 1 << 20, &n));
    assert_int_equal(n, 128u << 20);
    assert_true(mon_parse_size("1G", 1 << 20, &n));
    assert_int_equal(n, 1u << 30);
    assert_true(mon_parse_size("64k", 1 << 20, &n));
    assert_int_equal(n, 64u << 10);
    assert_true(mon_parse_size("1.5M", 1, &n));
    assert_int_equal(n, 3u << 19);
    assert_true(mon_parse_size("0x10M", 1, &n));
    assert_int_equal(n, 16u << 20);
    static const char *const bad[] = {"", "M", "-1", "12X", "1MM", "foo", " 5", "1e99", "nan"};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(mon_parse_size(bad[i], 1 << 20, &n));
}

static void one_and_two_dashes_are_alike(void **state) {
    (void)state;
    runs("-kernel k --initrd i --append a -m 64 --nographic");
    assert_string_equal(o.kernel, "k");
    assert_string_equal(o.initrd, "i");
    assert_string_equal(o.append, "a");
    assert_int_equal(o.ram_bytes, 64u << 20);
    assert_true(o.nographic);
}

static void defaults_are_bt_and_128_mib(void **state) {
    (void)state;
    runs("-kernel k");
    assert_string_equal(o.accel, "bt");
    assert_int_equal(o.ram_bytes, 128u << 20);
    assert_int_equal(o.serial[0].kind, MON_CHR_STDIO);
    assert_true(o.serial[0].mux);
    assert_int_equal(o.debug_exit_iobase, 0x501);
}

static void memory_is_validated(void **state) {
    (void)state;
    fails("-kernel k -m 0");
    fails("-kernel k -m 4096");
    fails("-kernel k -m 1T");
    fails("-kernel k -m lots");
    fails("-kernel k -m -5");
    runs("-kernel k -m size=256,slots=2");
    assert_int_equal(o.ram_bytes, 256u << 20);
    runs("-kernel k -m 3G");
}

static void accelerators_and_machines(void **state) {
    (void)state;
    runs("-kernel k -accel interp");
    assert_string_equal(o.accel, "interp");
    runs("-kernel k -machine pc,accel=kvm:tcg");
    assert_string_equal(o.accel, "bt");
    runs("-kernel k -M pc-i440fx-7.2");
    fails("-kernel k -accel kvm");
    fails("-kernel k -machine toaster");
    fails("-kernel k -enable-kvm");
    answers("-machine help");
    answers("-accel help");
    answers("-cpu help");
}

static void devices(void **state) {
    (void)state;
    runs("-kernel k -device isa-debug-exit,iobase=0xf4,iosize=0x4 -device pc-testdev");
    assert_true(o.debug_exit);
    assert_true(o.testdev);
    assert_int_equal(o.debug_exit_iobase, 0xf4);
    assert_int_equal(o.debug_exit_iosize, 4);
    fails("-kernel k -device e1000");
    fails("-kernel k -device isa-debug-exit,iobase=zebra");
    fails("-kernel k -drive file=x");
    fails("-kernel k disk.img");
    fails("-kernel k -netdev user,id=n");
}

static void harmless_options_pass(void **state) {
    (void)state;
    runs("-kernel k -nodefaults -no-user-config -display none -vga none -net none -name x -boot c "
         "-rtc base=utc -no-hpet -smp 1 -global a.b=c -bios b");
    fails("-kernel k -smp 2");
    fails("-kernel k -unheard-of");
    fails("-kernel");
}

static void serial_lines(void **state) {
    (void)state;
    runs("-kernel k -serial file:/tmp/x -serial null");
    assert_int_equal(o.serial_count, 2);
    assert_int_equal(o.serial[0].kind, MON_CHR_FILE);
    assert_string_equal(o.serial[0].path, "/tmp/x");
    assert_int_equal(o.serial[1].kind, MON_CHR_NULL);
    runs("-kernel k -serial mon:stdio");
    assert_true(o.serial[0].mux);
    runs("-kernel k -serial stdio");
    assert_false(o.serial[0].mux);
    runs("-kernel k -nographic -serial file:x");
    assert_int_equal(o.monitor.kind, MON_CHR_STDIO);
    runs("-kernel k -nodefaults");
    assert_int_equal(o.serial_count, 0);
    fails("-kernel k -serial stdio -serial stdio");
    fails("-kernel k -serial stdio -monitor stdio");
    fails("-kernel k -serial pty");
    fails("-kernel k -serial null -serial null -serial null");
}

static void gdb_and_icount(void **state) {
    (void)state;
    runs("-kernel k -s -S");
    assert_int_equal(o.gdb_port, 1234);
    assert_true(o.start_paused);
    runs("-kernel k -gdb tcp::5678");
    assert_int_equal(o.gdb_port, 5678);
    fails("-kernel k -gdb tcp::0");
    fails("-kernel k -gdb unix:x");
    runs("-kernel k -icount shift=3,rr=record,rrfile=log");
    assert_true(o.icount && o.bt.icount);
    assert_int_equal(o.icount_shift, 3);
    assert_int_equal(o.rr, MON_RR_RECORD);
    assert_string_equal(o.rr_file, "log");
    fails("-kernel k -icount shift=99");
    fails("-kernel k -icount rr=record");
    fails("-kernel k -icount rr=maybe,rrfile=x");
    runs("-kernel k -rtc base=2020-01-02T03:04:05");
    assert_true(o.rtc_set);
    assert_int_equal(o.rtc_epoch_s, 1577934245);
    fails("-kernel k -rtc base=yesterday");
}

static void own_switches(void **state) {
    (void)state;
    runs("-kernel k -no-chain -no-retstack -no-icache -no-adapt -no-foresight -hot 3 -cache 4M "
         "-verify -stats");
    assert_false(o.bt.chain || o.bt.retstack || o.bt.icache || o.bt.adapt || o.bt.foresight);
    assert_int_equal(o.bt.hot_threshold, 3);
    assert_int_equal(o.bt.cache_bytes, 4u << 20);
    assert_true(o.bt.verify && o.stats);
    fails("-kernel k -cache 1K");
    fails("-kernel k -hot many");
    runs("-kernel k -accel interp -lockstep");
    assert_string_equal(o.accel, "bt");
}

static void what_needs_a_kernel_says_so(void **state) {
    (void)state;
    fails("-append x");
    fails("-initrd x");
    fails("-nographic");
    answers("-help");
    answers("--version");
    answers("-h");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(one_and_two_dashes_are_alike),
        cmocka_unit_test(defaults_are_bt_and_128_mib),
        cmocka_unit_test(memory_is_validated),
        cmocka_unit_test(accelerators_and_machines),
        cmocka_unit_test(devices),
        cmocka_unit_test(harmless_options_pass),
        cmocka_unit_test(serial_lines),
        cmocka_unit_test(gdb_and_icount),
        cmocka_unit_test(own_switches),
        cmocka_unit_test(what_needs_a_kernel_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
