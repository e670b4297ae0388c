/*
 * test_adaptation.c: sites that keep faulting become callouts and give the same results.
 */
#include "bt_fixture.h"

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
}

/* ---- adaptation ---- */

static void a_site_that_keeps_faulting_becomes_a_callout(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* inc eax; mov [ebx],eax with ebx above RAM: a device register */
    put(&w, CODE, "40 89 03 43 f4");
    for (unsigned i = 0; i < 6; i++) {
        w.cpu->gpr[R_EBX] = RAM_BYTES + 0x1000;
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        assert_int_equal(reg(&w, R_EAX), i + 1);
        assert_int_equal(reg(&w, R_EBX), RAM_BYTES + 0x1000);
    }
    assert_int_equal(count(&w)->adapted_sites, 1);
    assert_int_equal(count(&w)->faults, 2);
    /* The adapted site reaches memory without an exit. */
    w.cpu->gpr[R_EBX] = DATA;
    run_to_hlt(&w, CODE);
    assert_int_equal(load32(w.ram + DATA), 7);
    assert_int_equal(reg(&w, R_EBX), DATA + 1);
    world_destroy(&w);
}

static void without_adaptation_the_site_faults_every_time(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.adapt = false;
    world_create(&w, &config);
    put(&w, CODE, "89 03 f4");
    w.cpu->gpr[R_EBX] = RAM_BYTES;
    for (unsigned i = 0; i < 5; i++) {
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE);
    }
    assert_int_equal(count(&w)->adapted_sites, 0);
    assert_int_equal(count(&w)->faults, 5);
    world_destroy(&w);
}

/* Makes the site at CODE adapted by two device accesses through ebx, then points ebx at DATA. */
static void adapt_site(struct world *w) {
    for (unsigned i = 0; i < 2; i++) {
        w->cpu->gpr[R_EBX] = w->cpu->gpr[R_EDI] = RAM_BYTES + 0x2000;
        w->cpu->gpr[R_ESI] = RAM_BYTES + 0x3000;
        w->cpu->eip = CODE;
        expect_exit(w, BT_EXIT_EMULATE, CODE);
    }
    assert_int_equal(count(w)->adapted_sites, 1);
    w->cpu->gpr[R_EBX] = DATA;
    w->cpu->gpr[R_EDI] = DATA + 0x100;
    w->cpu->gpr[R_ESI] = DATA;
}

static void adapted_moves_give_what_plain_ones_give(void **state) {
    (void)state;
    static const struct {
        const char *hex;
        enum gpr r;
        u32 expected;
    } loads[] = {
        {"8b 03 f4", R_EAX, 0x8899aabb},       {"66 8b 03 f4", R_EAX, 0x1111aabb},
        {"8a 03 f4", R_EAX, 0x111111bb},       {"8a 63 01 f4", R_EAX, 0x1111aa11},
        {"0f b6 43 03 f4", R_EAX, 0x88},       {"0f be 43 03 f4", R_EAX, 0xffffff88},
        {"0f b7 03 f4", R_EAX, 0xaabb},        {"0f bf 03 f4", R_EAX, 0xffffaabb},
        {"66 0f be 03 f4", R_EAX, 0x1111ffbb}, {"66 0f b6 03 f4", R_EAX, 0x111100bb},
        {"8b 23 f4", R_ESP, 0x8899aabb},       {"0f b6 1b f4", R_EBX, 0xbb},
    };
    for (size_t i = 0; i < ARRAY_LEN(loads); i++) {
        struct world w;
        world_create(&w, NULL);
        put(&w, CODE, loads[i].hex);
        store32(w.ram + DATA, 0x8899aabb);
        adapt_site(&w);
        w.cpu->gpr[R_EAX] = 0x11111111;
        w.cpu->eflags = F_FIXED | F_CF | F_OF | F_SF;
        run_to_hlt(&w, CODE);
        if (reg(&w, loads[i].r) != loads[i].expected)
            fail_msg("%s: %08x", loads[i].hex, reg(&w, loads[i].r));
        assert_int_equal(w.cpu->eflags & F_ARITH, F_CF | F_OF | F_SF);
        world_destroy(&w);
    }
}

static void adapted_stores_give_what_plain_ones_give(void **state) {
    (void)state;
    static const struct {
        const char *hex;
        u32 expected;
    } stores[] = {
        {"89 03 f4", 0x12345678},
        {"66 89 03 f4", 0xffff5678},
        {"88 03 f4", 0xffffff78},
        {"88 23 f4", 0xffffff56},
        {"c7 03 dd cc bb aa f4", 0xaabbccdd},
        {"c6 43 01 5a f4", 0xffff5aff},
        {"66 c7 03 34 12 f4", 0xffff1234},
    };
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct world w;
        world_create(&w, NULL);
        put(&w, CODE, stores[i].hex);
        store32(w.ram + DATA, 0xffffffff);
        adapt_site(&w);
        w.cpu->gpr[R_EAX] = 0x12345678;
        run_to_hlt(&w, CODE);
        if (load32(w.ram + DATA) != stores[i].expected)
            fail_msg("%s: %08x", stores[i].hex, load32(w.ram + DATA));
        world_destroy(&w);
    }
}

static void adapted_strings_give_what_plain_ones_give(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "f3 a5 f4"); /* rep movsd over page ends, misaligned */
    w.cpu->gpr[R_ECX] = 1;
    adapt_site(&w);
    for (u32 i = 0; i < 0x4000; i++)
        w.ram[DATA + 1 + i] = (u8)(i * 7);
    w.cpu->gpr[R_ECX] = 0x800;
    w.cpu->gpr[R_ESI] = DATA + 1;
    w.cpu->gpr[R_EDI] = DATA + 0x5ffe;
    bool crossing = false;
    w.cpu->eip = CODE;
    while (bt_run(w.bt) == BT_EXIT_EMULATE && w.cpu->eip == CODE) {
        /* An element that crosses a page end is the emulator's: do it as the emulator would. */
        u32 value;
        crossing = true;
        assert_true(mmu_read(w.cpu, reg(&w, R_ESI), &value, 4, MMU_READ));
        assert_true(mmu_write(w.cpu, reg(&w, R_EDI), &value, 4, MMU_WRITE));
        w.cpu->gpr[R_ESI] = reg(&w, R_ESI) + 4;
        w.cpu->gpr[R_EDI] = reg(&w, R_EDI) + 4;
        w.cpu->gpr[R_ECX]--;
    }
    assert_true(crossing);
    assert_int_equal(reg(&w, R_ECX), 0);
    assert_int_equal(reg(&w, R_ESI), DATA + 1 + 0x2000);
    assert_int_equal(reg(&w, R_EDI), DATA + 0x5ffe + 0x2000);
    assert_memory_equal(w.ram + DATA + 1, w.ram + DATA + 0x5ffe, 0x2000);
    world_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_site_that_keeps_faulting_becomes_a_callout),
        cmocka_unit_test(without_adaptation_the_site_faults_every_time),
        cmocka_unit_test(adapted_moves_give_what_plain_ones_give),
        cmocka_unit_test(adapted_stores_give_what_plain_ones_give),
        cmocka_unit_test(adapted_strings_give_what_plain_ones_give),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
