/*
 * Tests of the CPU model: what a leaf says follows from the model, the host and -cpu's list.
 */
#include "monitor/monitor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct mon_host_cpu full_host = {
    .f1_edx = 0xffffffffu, .f1_ecx = 0x7fffffffu, .f7_ebx = 0xffffffffu, .x1_ecx = 0xffffffffu};
static struct cpu_model m;
static struct mon_error err;

static const struct cpuid_leaf *leaf(u32 number) {
    for (unsigned i = 0; i < m.count; i++)
        if (m.leaf[i].leaf == number && m.leaf[i].subleaf == 0)
            return &m.leaf[i];
    return NULL;
}
static bool build(const char *spec) {
    return mon_cpu_model(spec, &full_host, 2600000000u, &m, &err);
}

static void default_is_an_atom_without_bugs(void **state) {
    (void)state;
    assert_true(build(NULL));
    assert_int_equal(leaf(1)->eax, 0x106ca); /* family 6, model 1Ch, stepping 10 */
    assert_int_equal(leaf(0)->ebx, 0x756e6547);
    static const char *const has[] = {"fpu",   "pse",    "tsc",    "msr",    "pae",   "cx8",  "sep",
                                      "pge",   "cmov",   "mmx",    "fxsr",   "sse",   "sse2", "pni",
                                      "ssse3", "sse4.1", "sse4.2", "popcnt", "movbe", "nx"};
    for (unsigned i = 0; i < ARRAY_LEN(has); i++)
        assert_true(mon_cpu_has(&m, has[i]));
    assert_true(mon_cpu_has(&m, "apic") && mon_cpu_has(&m, "x2apic"));
    assert_true(mon_cpu_has(&m, "tsc-deadline"));
    assert_int_equal(leaf(1)->ebx >> 24, 0); /* APIC ID */
    assert_true(leaf(6)->eax & (1 << 2));    /* its timer runs always */
    assert_true(m.has_nx);
    assert_true(m.cr4_allowed & CR4_PAE);
}

static void leaf_15_gives_the_tsc_frequency(void **state) {
    (void)state;
    assert_true(build(NULL));
    const struct cpuid_leaf *l = leaf(0x15);
    assert_non_null(l);
    assert_int_equal((u64)l->ecx * l->ebx / l->eax, 2600000000u);
    assert_true(mon_cpu_model(NULL, &full_host, 5000000000u, &m, &err));
    l = leaf(0x15);
    assert_int_equal((u64)l->ecx * l->ebx / l->eax, 5000000000u);
}

static void features_can_be_removed(void **state) {
    (void)state;
    assert_true(build("default,-sse4.2,-pae,sep=off"));
    assert_false(mon_cpu_has(&m, "sse4.2"));
    assert_false(mon_cpu_has(&m, "sep"));
    assert_false(mon_cpu_has(&m, "pae"));
    assert_false(m.has_nx); /* NX needs PAE */
    assert_false(m.cr4_allowed & CR4_PAE);
    assert_true(mon_cpu_has(&m, "sse2"));
}

static void dependents_go_with_their_base(void **state) {
    (void)state;
    assert_true(build("default,-sse"));
    assert_false(mon_cpu_has(&m, "sse2"));
    assert_false(mon_cpu_has(&m, "ssse3"));
    assert_true(build("default,-fpu"));
    assert_false(mon_cpu_has(&m, "mmx"));
    assert_false(mon_cpu_has(&m, "fxsr"));
}

static void the_apic_can_be_removed(void **state) {
    (void)state;
    assert_true(build("default,-apic"));
    assert_false(leaf(1)->edx & (1 << 9));
    assert_false(mon_cpu_has(&m, "x2apic"));
    assert_false(mon_cpu_has(&m, "tsc-deadline"));
    assert_null(leaf(6));
    assert_true(build("default,-x2apic,-tsc-deadline"));
    assert_true(mon_cpu_has(&m, "apic"));
    assert_true(build("486"));
    assert_false(mon_cpu_has(&m, "apic"));
    assert_true(build("pentium3"));
    assert_true(mon_cpu_has(&m, "apic"));
    assert_false(mon_cpu_has(&m, "x2apic"));
}

static void the_crystal_is_the_apic_timers_clock(void **state) {
    (void)state;
    assert_true(build(NULL));
    assert_int_equal(m.crystal_hz, leaf(0x15)->ecx);
    assert_true(mon_cpu_model(NULL, &full_host, 5000000000u, &m, &err));
    assert_int_equal(m.crystal_hz, leaf(0x15)->ecx);
}

static void features_can_be_added(void **state) {
    (void)state;
    assert_true(build("pentium3,+sse2,+nx"));
    assert_true(mon_cpu_has(&m, "sse2"));
    assert_false(build("default,+avx512f"));
    assert_true(build("default,-avx512f")); /* absent anyway */
    assert_false(build("default,sse=perhaps"));
}

static void what_builds_on_something_missing_is_refused(void **state) {
    (void)state;
    assert_false(build("pentium3,+sse4.2"));
    assert_non_null(strstr(err.text, "'sse4.2' needs 'sse4.1'"));
    assert_true(build("pentium3,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2"));
    assert_false(build("default,-pae,+nx"));
    assert_non_null(strstr(err.text, "'nx' needs 'pae'"));
    assert_false(build("486,+rdtscp"));
    assert_false(build("max,+sse2,-sse"));
    assert_true(build("max,-sse"));
    assert_false(mon_cpu_has(&m, "aes") || mon_cpu_has(&m, "sse4.1"));
    assert_true(build("max,-msr"));
    static const char *const gone[] = {"mtrr", "pat",    "sep", "apic",         "x2apic",
                                       "nx",   "rdtscp", "mca", "tsc-deadline", "msr"};
    for (unsigned i = 0; i < ARRAY_LEN(gone); i++)
        assert_false(mon_cpu_has(&m, gone[i]));
    assert_true(mon_cpu_has(&m, "mce"));
}

static void models_are_of_one_piece(void **state) {
    (void)state;
    static const char *const names[] = {"default", "max", "486", "pentium", "pentium3", "core2"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        assert_true(build(names[i]));
        assert_int_equal(leaf(1)->eax, m.signature);
        assert_int_equal(leaf(0)->eax, m.max_basic);
        assert_int_equal(leaf(1)->edx, m.f1_edx);
        assert_int_equal(!!(m.cr4_allowed & CR4_VME), mon_cpu_has(&m, "vme"));
        assert_int_equal(!!(m.cr4_allowed & CR4_PVI), mon_cpu_has(&m, "vme"));
        assert_int_equal(!!(m.cr4_allowed & CR4_MCE), mon_cpu_has(&m, "mce"));
        assert_int_equal(!!(m.cr4_allowed & CR4_OSFXSR), mon_cpu_has(&m, "fxsr"));
        assert_int_equal(!!(m.cr4_allowed & CR4_PCE), i != 2 && i != 3);
        assert_int_equal(m.max_extended, leaf(0x80000000) ? leaf(0x80000000)->eax : 0);
        for (u32 n = 0x80000001; m.max_extended && n <= 0x80000008; n++)
            assert_true(leaf(n) || n == 0x80000005);
    }
    assert_true(build("486"));
    assert_int_equal(m.cr4_allowed, 0);
    assert_int_equal(m.f1_edx, 1);
    assert_true(build("core2"));
    assert_int_equal(leaf(0x80000008)->eax, 0x2024);
    assert_int_equal(leaf(0x80000006)->ecx >> 16, 4096);
    assert_true(build("core2,-pae,-pse36"));
    assert_int_equal(leaf(0x80000008)->eax, 0x2020);
}

static void added_features_get_the_leaves_they_need(void **state) {
    (void)state;
    assert_true(build("pentium3,+nx"));
    assert_int_equal(m.max_extended, 0x80000001);
    assert_int_equal(leaf(0x80000001)->edx, 1 << 20);
    assert_true(build("pentium3,+adx"));
    assert_int_equal(m.max_basic, 7);
    assert_int_equal(leaf(7)->ebx, 1 << 19);
    assert_true(build("default"));
    assert_null(leaf(7)); /* answers zero */
}

static void max_has_what_the_host_has(void **state) {
    (void)state;
    assert_true(build("max"));
    static const char *const more[] = {"rdrand", "rdseed",    "rdtscp",     "adx", "lzcnt",
                                       "aes",    "pclmulqdq", "clflushopt", "vme"};
    for (unsigned i = 0; i < ARRAY_LEN(more); i++)
        assert_true(mon_cpu_has(&m, more[i]));
    struct mon_host_cpu poor = full_host;
    poor.f1_ecx &= ~(1u << 30 | 1u << 25);
    poor.f7_ebx &= ~(1u << 18);
    poor.x1_ecx = 0;
    assert_true(mon_cpu_model("max", &poor, 1000000000u, &m, &err));
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(mon_cpu_has(&m, more[i]), i == 2 || i == 3); /* emulated anywhere */
    assert_false(mon_cpu_model("default,+rdrand", &poor, 1000000000u, &m, &err));
}

static void smep_and_smap_come_with_their_cr4_bits(void **state) {
    (void)state;
    assert_true(build("default"));
    assert_false(m.cr4_allowed & (CR4_SMEP | CR4_SMAP));
    assert_true(build("max"));
    assert_true(mon_cpu_has(&m, "smep") && mon_cpu_has(&m, "smap"));
    assert_int_equal(m.cr4_allowed & (CR4_SMEP | CR4_SMAP), CR4_SMEP | CR4_SMAP);
    assert_true(build("default,+smap"));
    assert_int_equal(m.cr4_allowed & (CR4_SMEP | CR4_SMAP), CR4_SMAP);
    assert_true(build("pentium3,+smap"));
    assert_true(m.cr4_allowed & CR4_SMAP);
    assert_int_equal(leaf(7)->ebx, 1 << 20);
}

static void the_host_limits_what_it_must_execute(void **state) {
    (void)state;
    struct mon_host_cpu old = full_host;
    old.f1_ecx &= ~(1u << 20);
    assert_true(mon_cpu_model(NULL, &old, 1000000000u, &m, &err));
    assert_false(mon_cpu_has(&m, "sse4.2"));
    assert_false(mon_cpu_model("default,+sse4.2", &old, 1000000000u, &m, &err));
}

static void models_and_aliases(void **state) {
    (void)state;
    static const char *const names[] = {"base",    "host",     "max",   "qemu32",  "486",
                                        "pentium", "pentium3", "core2", "core2duo"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        assert_true(build(names[i]));
    assert_false(build("z80"));
    assert_true(build("486"));
    assert_false(mon_cpu_has(&m, "cx8"));
    assert_int_equal(m.max_extended, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_is_an_atom_without_bugs),
        cmocka_unit_test(leaf_15_gives_the_tsc_frequency),
        cmocka_unit_test(features_can_be_removed),
        cmocka_unit_test(dependents_go_with_their_base),
        cmocka_unit_test(the_apic_can_be_removed),
        cmocka_unit_test(the_crystal_is_the_apic_timers_clock),
        cmocka_unit_test(features_can_be_added),
        cmocka_unit_test(what_builds_on_something_missing_is_refused),
        cmocka_unit_test(models_are_of_one_piece),
        cmocka_unit_test(added_features_get_the_leaves_they_need),
        cmocka_unit_test(max_has_what_the_host_has),
        cmocka_unit_test(smep_and_smap_come_with_their_cr4_bits),
        cmocka_unit_test(the_host_limits_what_it_must_execute),
        cmocka_unit_test(models_and_aliases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
