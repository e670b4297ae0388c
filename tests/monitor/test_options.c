/*
 * Tests of the command line: QEMU's spellings, what warns, what fails, what each option sets.
 */
#include "monitor/monitor.h"
#include "monitor/option_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
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
    runs("-kernel k -accel kvm");
    assert_string_equal(o.accel, "kvm");
    runs("-kernel k -enable-kvm");
    assert_string_equal(o.accel, "kvm");
    fails("-kernel k -accel whpx");
    fails("-kernel k -machine toaster");
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
    runs("-kernel k -no-chain -no-retstack -no-icache -no-adapt -no-foresight -no-selfcheck -no-light "
         "-hot 3 -cache 4M -verify -stats");
    assert_false(o.bt.chain || o.bt.retstack || o.bt.icache || o.bt.adapt || o.bt.foresight ||
                 o.bt.selfcheck || o.bt.light);
    assert_int_equal(o.bt.hot_threshold, 3);
    assert_int_equal(o.bt.cache_bytes, 4u << 20);
    assert_true(o.bt.verify && o.stats);
    fails("-kernel k -cache 1K");
    fails("-kernel k -hot many");
    runs("-kernel k -accel interp -lockstep");
    assert_string_equal(o.accel, "bt");
}

/* Nothing of it can be had here, but it may be declined. */
static void what_needs_rings_can_only_be_declined_when_hosted(void **state) {
    (void)state;
    runs("-kernel k");
    assert_false(o.bt.direct);
    assert_int_equal(o.bt.trap_classes, 0);
    runs("-kernel k -no-direct");
    assert_false(o.bt.direct);
    runs("-kernel k -direct off -trap-classes none -ring-report off");
    assert_false(o.bt.direct || o.ring_report);
    assert_int_equal(o.bt.trap_classes, 0);
    fails("-kernel k -direct on");
    fails("-kernel k -direct perhaps");
    fails("-kernel k -ring-report on");
    fails("-kernel k -trap-classes cr");
    fails("-kernel k -trap-classes none,io");
    fails("-kernel k -trap-classes all");
    fails("-kernel k -carrier-exit 0xf4");
}

static void trap_classes_are_a_list(void **state) {
    (void)state;
    static const struct {
        const char *text;
        u32 classes;
    } good[] = {
        {"none", 0},
        {"cr", BT_TRAP_CR},
        {"io,hlt", BT_TRAP_IO | BT_TRAP_HLT},
        {"cli-sti,msr,none", BT_TRAP_CLI_STI | BT_TRAP_MSR},
        {"descriptor,invlpg", BT_TRAP_DESCRIPTOR | BT_TRAP_INVLPG},
        {"all", 127},
    };
    size_t chars;
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        u32 classes = 99;
        assert_null(option_trap_classes(good[i].text, &classes, &chars));
        assert_int_equal(classes, good[i].classes);
    }
    static const char *const bad[] = {"", "CR", "cr,", ",io", "cli", "cli_sti", "io,wine,msr"};
    u32 classes;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_non_null(option_trap_classes(bad[i], &classes, &chars));
    const char *unknown = option_trap_classes("io,wine,msr", &classes, &chars);
    assert_int_equal(chars, 4);
    assert_memory_equal(unknown, "wine", 4);
}

static void dates_are_as_the_c_library_reads_them(void **state) {
    (void)state;
    static const char *const good[] = {
        "1970-01-01",          "2000-02-29",          "1900-03-01",
        "2020-12-31T23:59:59", "2026-02-31T00:00:00", "2100-02-28T12:00:00",
        "1969-12-31T23:59:59", "9999-12-31",          "2024-1-2",
        "0001-01-01",
    };
    for (unsigned i = 0; i < ARRAY_LEN(good); i++) {
        struct tm tm = {0};
        i64 epoch_s;
        const char *format = strchr(good[i], 'T') ? "%Y-%m-%dT%H:%M:%S" : "%Y-%m-%d";
        assert_non_null(strptime(good[i], format, &tm));
        assert_true(option_date(good[i], &epoch_s));
        assert_int_equal(epoch_s, (i64)timegm(&tm));
    }
    static const char *const bad[] = {
        "",
        "2020",
        "2020-13-01",
        "2020-00-01",
        "2020-01-32",
        "2020-01-01 ",
        "2020-01-01T1:2",
        "2020-01-01T24:0:0",
        "2020-01-01T23:60:0",
        "now",
    };
    i64 epoch_s;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(option_date(bad[i], &epoch_s));
}

static void splits(const char *line, bool good, int count, const char *const *words) {
    char text[128], *argv[8];
    snprintf(text, sizeof text, "%s", line);
    int argc;
    assert_int_equal(mon_split_line(text, argv, ARRAY_LEN(argv), &argc), good);
    assert_int_equal(argc, count);
    for (int i = 0; i < count; i++)
        assert_string_equal(argv[i], words[i]);
}
static void splits_into(const char *line, int count, const char *const *words) {
    splits(line, true, count, words);
}
static void breaks_after(const char *line, int count, const char *const *words) {
    splits(line, false, count, words);
}

static void a_line_is_split_as_a_shell_splits_it(void **state) {
    (void)state;
    splits_into("", 0, NULL);
    splits_into("  \t ", 0, NULL);
    splits_into(" -m  256 ", 2, (const char *const[]){"-m", "256"});
    splits_into("-append \"console=ttyS0 quiet\" -m 1", 4,
                (const char *const[]){"-append", "console=ttyS0 quiet", "-m", "1"});
    splits_into("a'b \"c'd e", 2, (const char *const[]){"ab \"cd", "e"});
    splits_into("\"\" ''", 2, (const char *const[]){"", ""});
    splits_into("a\\ b \\\"c", 2, (const char *const[]){"a b", "\"c"});
    splits_into("\"a\\\"b\\\\\\c\" 'd\\'", 2, (const char *const[]){"a\"b\\\\c", "d\\"});
    splits_into("end\\", 1, (const char *const[]){"end\\"});
    static const char *const eight[] = {"1", "2", "3", "4", "5", "6", "7", "8"};
    splits_into("1 2 3 4 5 6 7 8", 8, eight);
    breaks_after("1 2 3 4 5 6 7 8 9", 8, eight);
    breaks_after("\"open", 0, NULL);
    breaks_after("-a 1 'b", 2, (const char *const[]){"-a", "1"});
}

static void firmware_replaces_the_kernel(void **state) {
    (void)state;
    runs("-bios rom.bin");
    assert_string_equal(o.bios, "rom.bin");
    assert_null(o.kernel);
    runs("-bios rom.bin -kernel k -append x");
    fails("-bios rom.bin -append x");
    fails("-bios");
}

static void takes(const char *arg, const char *name, bool is_file, const char *value) {
    struct mon_fw_cfg_option f;
    struct mon_error why;
    assert_true(mon_fw_cfg_parse(arg, &f, &why));
    assert_string_equal(f.name, name);
    assert_string_equal(f.value, value);
    assert_int_equal(f.is_file, is_file);
}
static void refuses(const char *arg, const char *reason) {
    struct mon_fw_cfg_option f;
    struct mon_error why = {""};
    assert_false(mon_fw_cfg_parse(arg, &f, &why));
    assert_non_null(strstr(why.text, reason));
}

static void fw_cfg_items_are_spelled_as_qemus(void **state) {
    (void)state;
    takes("name=opt/a,string=b", "opt/a", false, "b");
    takes("opt/a,file=b=c", "opt/a", true, "b=c");
    takes("file=x,name=opt/a", "opt/a", true, "x");
    takes("opt/a,string=one,,two,,", "opt/a", false, "one,two,");
    takes("opt/a,string=,file=f", "opt/a", true, "f"); /* empty is as good as absent */
    refuses("opt/a", "exactly one");
    refuses("", "name, plus");
    refuses("opt/a,string=", "exactly one");
    refuses("string=x", "name, plus");
    refuses("opt/a,string=x,file=y", "exactly one");
    refuses("opt/a,strong=x", "strong");
    refuses("opt/a,x", "'x'");
    char text[1200];
    snprintf(text, sizeof text, "%055d,string=x", 0);
    assert_int_equal(strlen(text), 55 + 9);
    struct mon_fw_cfg_option f;
    assert_true(mon_fw_cfg_parse(text, &f, &(struct mon_error){""}));
    snprintf(text, sizeof text, "%056d,string=x", 0);
    refuses(text, "name too long (max. 55 char)");
    snprintf(text, sizeof text, "opt/a,string=%01100d", 0);
    refuses(text, "too long");
    runs("-kernel k -fw_cfg name=opt/a,string=b -fw_cfg opt/c,file=d");
    assert_int_equal(o.fw_cfg_count, 2);
    fails("-kernel k -fw_cfg opt/a");
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
        cmocka_unit_test(what_needs_rings_can_only_be_declined_when_hosted),
        cmocka_unit_test(trap_classes_are_a_list),
        cmocka_unit_test(dates_are_as_the_c_library_reads_them),
        cmocka_unit_test(a_line_is_split_as_a_shell_splits_it),
        cmocka_unit_test(firmware_replaces_the_kernel),
        cmocka_unit_test(fw_cfg_items_are_spelled_as_qemus),
        cmocka_unit_test(what_needs_a_kernel_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
