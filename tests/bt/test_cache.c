/*
 * test_cache.c: the translation cache: chaining, invalidation, eviction, looking inside.
 */
#include "bt_fixture.h"

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
}

/* ---- chaining ---- */

/* ecx iterations of a two-unit loop, then HLT. */
static u32 put_loop(struct world *w, u32 at) {
    at = put(w, at, "b9 e8 03 00 00"); /* mov ecx,1000 */
    u32 top = at;
    at = put(w, at, "40 eb 00");          /* inc eax; jmp $+2 */
    at = put(w, at, "83 c3 02 49 0f 85"); /* add ebx,2; dec ecx; jnz top */
    at = put32(w, at, top - (at + 4));
    return put8(w, at, 0xf4);
}

static void a_chained_loop_enters_through_the_dispatcher_once(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put_loop(&w, CODE);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 1000);
    assert_int_equal(reg(&w, R_EBX), 2000);
    assert_int_equal(reg(&w, R_ECX), 0);
    assert_true(count(&w)->dispatches <= 4);
    assert_true(count(&w)->chains >= 2);
    world_destroy(&w);
}

static void without_chaining_the_result_is_the_same(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.chain = config.icache = config.retstack = false;
    world_create(&w, &config);
    put_loop(&w, CODE);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 1000);
    assert_int_equal(reg(&w, R_EBX), 2000);
    assert_int_equal(count(&w)->chains, 0);
    assert_true(count(&w)->dispatches >= 1000);
    world_destroy(&w);
}

/* ---- invalidation ---- */

static void a_write_behind_the_mmu_kills_the_unit(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "b8 01 00 00 00 f4"); /* mov eax,1 */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 1);
    w.ram[CODE + 1] = 2;
    mmu_phys_written(w.cpu->mmu, GPA(CODE + 1), 1);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 2);
    assert_int_equal(count(&w)->units_invalidated, 1);
    world_destroy(&w);
}

static void an_emulated_write_kills_the_unit_and_every_link_to_it(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put_branch(&w, put(&w, CODE, "43"), 0xe9, CODE + 0x800); /* inc ebx; jmp to the same page */
    put(&w, CODE + 0x800, "b8 01 00 00 00 f4");
    for (u32 i = 1; i < 4; i++) {
        u8 value = (u8)i;
        assert_true(mmu_write(w.cpu, CODE + 0x801, &value, 1, MMU_WRITE));
        run_to_hlt(&w, CODE);
        assert_int_equal(reg(&w, R_EAX), i);
        run_to_hlt(&w, CODE);
        assert_int_equal(reg(&w, R_EAX), i);
    }
    assert_int_equal(count(&w)->units_invalidated, 2);
    world_destroy(&w);
}

static void a_write_beside_the_unit_leaves_it_alone(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE + 0x10, "b8 01 00 00 00 f4");
    run_to_hlt(&w, CODE + 0x10);
    u8 value = 0x55;
    assert_true(mmu_write(w.cpu, CODE + 0x0f, &value, 1, MMU_WRITE));
    assert_true(mmu_write(w.cpu, CODE + 0x16, &value, 1, MMU_WRITE));
    run_to_hlt(&w, CODE + 0x10);
    assert_int_equal(count(&w)->units_invalidated, 0);
    assert_int_equal(count(&w)->units_translated, 1);
    assert_true(mmu_write(w.cpu, CODE + 0x15, &w.ram[CODE + 0x15], 1, MMU_WRITE));
    run_to_hlt(&w, CODE + 0x10);
    assert_int_equal(count(&w)->units_invalidated, 1);
    world_destroy(&w);
}

static void translated_code_cannot_write_over_itself_unseen(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* mov byte [CODE+8],2; mov eax,1; hlt */
    u32 at = put(&w, CODE, "c6 05");
    at = put32(&w, at, CODE + 8);
    at = put(&w, at, "02 b8 01 00 00 00 f4");
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE); /* the store is the emulator's */
    assert_int_equal(w.ram[CODE + 8], 1);
    u8 two = 2;
    assert_true(mmu_write(w.cpu, CODE + 8, &two, 1, MMU_WRITE));
    run_to_hlt(&w, CODE + 7);
    assert_int_equal(reg(&w, R_EAX), 2);
    world_destroy(&w);
}

static void more_writes_than_the_queue_holds_flush_everything(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "b8 01 00 00 00 f4");
    run_to_hlt(&w, CODE);
    for (u32 i = 0; i < 2 * MMU_CODE_QUEUE; i++) {
        u8 value = (u8)i;
        assert_true(mmu_write(w.cpu, CODE + 0x800 + 3 * i, &value, 1, MMU_WRITE));
    }
    u8 nine = 9;
    assert_true(mmu_write(w.cpu, CODE + 1, &nine, 1, MMU_WRITE));
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 9);
    assert_int_equal(count(&w)->cache_flushes, 1);
    world_destroy(&w);
}

static void a_unit_that_spans_two_pages_dies_with_either_half(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    u32 at = CODE + PAGE_BYTES - 2;
    put(&w, at, "b8 11 11 11 11 f4"); /* mov eax,imm32 with three bytes on the next page */
    run_to_hlt(&w, at);
    assert_int_equal(reg(&w, R_EAX), 0x11111111);
    u8 first = 0x22, last = 0x33;
    assert_true(mmu_write(w.cpu, at + 1, &first, 1, MMU_WRITE));
    run_to_hlt(&w, at);
    assert_int_equal(reg(&w, R_EAX), 0x11111122);
    assert_true(mmu_write(w.cpu, at + 4, &last, 1, MMU_WRITE));
    run_to_hlt(&w, at);
    assert_int_equal(reg(&w, R_EAX), 0x33111122);
    assert_int_equal(count(&w)->units_invalidated, 2);
    world_destroy(&w);
}

static void invalidation_leaves_a_return_stack_safe(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* call f; mov eax,1; hlt ... f: hlt; ret */
    u32 f = CODE + 0x100, at = put_branch(&w, CODE, 0xe8, f);
    put(&w, at, "b8 01 00 00 00 f4");
    put(&w, f, "f4 c3");
    run_to_hlt(&w, CODE); /* the continuation is on the return stack */
    u8 five = 5;
    assert_true(mmu_write(w.cpu, at + 1, &five, 1, MMU_WRITE));
    run_to_hlt(&w, f + 1);
    assert_int_equal(w.cpu->eip, at + 5);
    assert_int_equal(reg(&w, R_EAX), 5);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    world_destroy(&w);
}

static void expect_flush_harmless(u8 cpl) {
    struct world w;
    world_create(&w, NULL);
    set_cpl(&w, cpl);
    u32 f = CODE + 0x100, at = put_branch(&w, CODE, 0xe8, f);
    put(&w, at, "b8 01 00 00 00 f4");
    put(&w, f, "f4 c3");
    run_to_hlt(&w, CODE);
    bt_flush(w.bt);
    /* What comes to stand in the old unit's place must not be entered in its middle. */
    put(&w, CODE + 0x800, "60 60 60 60 43 43 43 60 60 f4");
    u32 esp = reg(&w, R_ESP);
    run_to_hlt(&w, CODE + 0x800);
    w.cpu->gpr[R_ESP] = esp;
    w.cpu->gpr[R_EBX] = 0;
    w.ram[at + 1] = 7;
    run_to_hlt(&w, f + 1);
    assert_int_equal(reg(&w, R_EAX), 7);
    assert_int_equal(reg(&w, R_EBX), 0);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    assert_int_equal(count(&w)->cache_flushes, 1);
    world_destroy(&w);
}

static void a_flush_with_a_live_return_stack_is_harmless(void **state) {
    (void)state;
    expect_flush_harmless(0);
    expect_flush_harmless(3);
}

static void an_indirect_branch_forgets_a_unit_that_died(void **state) {
    (void)state;
    for (u8 cpl = 0; cpl <= 3; cpl += 3)
        for (unsigned direct = 0; direct < 2; direct++) {
            struct world w;
            u32 f = CODE + 0x1000;
            world_create(&w, NULL);
            set_cpl(&w, cpl);
            put(&w, f, "b8 00 00 00 00 f4");
            w.cpu->gpr[R_ESI] = f;
            if (direct)
                put_branch(&w, CODE, 0xe9, f); /* at CPL 3 through the same table */
            else
                put(&w, CODE, "ff e6"); /* jmp esi */
            for (u32 i = 1; i < 5; i++) {
                u8 value = (u8)i;
                assert_true(mmu_phys_write(w.cpu->mmu, GPA(f + 1), &value, 1));
                for (unsigned again = 0; again < 3; again++) {
                    run_to_hlt(&w, CODE);
                    assert_int_equal(reg(&w, R_EAX), i);
                }
            }
            world_destroy(&w);
        }
}

/* ---- eviction ---- */

static void eviction_keeps_chains_and_return_stack_right(void **state) {
    (void)state;
    enum { LEVELS = 24000 };
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.cache_bytes = 1 << 20;
    config.verify = false;
    world_create(&w, &config);
    u32 at = put_branch(&w, CODE, 0xe8, CODE + 16);
    put8(&w, at, 0xf4);
    at = CODE + 16;
    for (u32 i = 0; i < LEVELS; i++) { /* call the next level; inc ecx; ret */
        put(&w, put_branch(&w, at, 0xe8, at + 8), "41 c3");
        at += 8;
    }
    put(&w, at, "42 c3"); /* inc edx; ret */
    w.cpu->gpr[R_ESP] = 0x780000;
    w.cpu->gpr[R_EDX] = 0;
    for (u32 round = 1; round <= 2; round++) {
        run_to_hlt(&w, CODE);
        assert_int_equal(reg(&w, R_ECX), LEVELS * round);
        assert_int_equal(reg(&w, R_EDX), round);
        assert_int_equal(reg(&w, R_ESP), 0x780000);
    }
    assert_true(count(&w)->cache_flushes >= 4);
    assert_true(count(&w)->units_evicted > LEVELS);
    world_destroy(&w);
}

/* ---- inspection ---- */

static void the_last_units_are_those_entered(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 f4");
    put(&w, CODE + 0x100, "43 f4");
    run_to_hlt(&w, CODE);
    run_to_hlt(&w, CODE + 0x100);
    struct bt_unit_info info[4], at;
    assert_int_equal(bt_last_units(w.bt, info, 4), 2);
    assert_int_equal(info[0].eip, CODE + 0x100);
    assert_int_equal(info[1].eip, CODE);
    u32 eip;
    assert_true(bt_unit_at(w.bt, (u64)info[1].host + 3, &at));
    assert_int_equal(at.id, info[1].id);
    assert_true(bt_pc_to_eip(w.bt, (u64)info[1].host + info[1].host_bytes - 1, &eip));
    assert_int_equal(eip, CODE + 1);
    assert_false(bt_unit_at(w.bt, (u64)&w, &at));
    w.cpu->eip = CODE;
    assert_true(bt_unit_current(w.bt, &at));
    assert_int_equal(at.eip, CODE);
    bt_flush(w.bt);
    assert_int_equal(bt_last_units(w.bt, info, 4), 0);
    assert_false(bt_unit_current(w.bt, &at));
    world_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chained_loop_enters_through_the_dispatcher_once),
        cmocka_unit_test(without_chaining_the_result_is_the_same),
        cmocka_unit_test(a_write_behind_the_mmu_kills_the_unit),
        cmocka_unit_test(an_emulated_write_kills_the_unit_and_every_link_to_it),
        cmocka_unit_test(a_write_beside_the_unit_leaves_it_alone),
        cmocka_unit_test(translated_code_cannot_write_over_itself_unseen),
        cmocka_unit_test(more_writes_than_the_queue_holds_flush_everything),
        cmocka_unit_test(a_unit_that_spans_two_pages_dies_with_either_half),
        cmocka_unit_test(invalidation_leaves_a_return_stack_safe),
        cmocka_unit_test(a_flush_with_a_live_return_stack_is_harmless),
        cmocka_unit_test(an_indirect_branch_forgets_a_unit_that_died),
        cmocka_unit_test(eviction_keeps_chains_and_return_stack_right),
        cmocka_unit_test(the_last_units_are_those_entered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
