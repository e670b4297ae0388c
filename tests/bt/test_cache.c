/*
 * test_cache.c: the cache at work: chaining, invalidation, eviction, views, the return stack,
 * polls, adaptation, exits. Every test runs guest code and compares the guest's state with what the
 * code says; none looks at how the translator got there except through its counters.
 */
#include "bt_fixture.h"

#include <signal.h>
#include <sys/time.h>

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

/* ---- the return stack ---- */

static void expect_recursion(u32 depth, u64 flushes) {
    struct world w;
    world_create(&w, NULL);
    u32 f = CODE + 0x100;
    u32 at = put32(&w, put8(&w, CODE, 0xb8), depth); /* mov eax,depth */
    put8(&w, put_branch(&w, at, 0xe8, f), 0xf4);
    at = put(&w, f, "85 c0 74 07 48"); /* f: test eax,eax; jz out; dec eax; call f; inc ecx; */
    put(&w, put_branch(&w, at, 0xe8, f), "41 c3"); /* out: ret */
    w.cpu->gpr[R_ESP] = 0x780000;
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_ECX), depth);
    assert_int_equal(reg(&w, R_ESP), 0x780000);
    assert_int_equal(count(&w)->cache_flushes, flushes);
    world_destroy(&w);
}

static void recursion_deeper_than_the_return_stack_comes_back(void **state) {
    (void)state;
    u32 frames = BT_RETURN_STACK_BYTES / 8;
    expect_recursion(10, 0);
    expect_recursion(frames - 1, 0);
    expect_recursion(frames, 0);
    expect_recursion(frames + 1, 0);
    expect_recursion(5 * frames + 17, 0);
}

static void a_ret_without_a_call_goes_where_the_guest_stack_says(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* mov ecx,100; top: push next; ret; next: dec ecx; jnz top; hlt */
    u32 at = put(&w, CODE, "b9 64 00 00 00"), top = at;
    at = put32(&w, put8(&w, at, 0x68), top + 6);
    at = put(&w, at, "c3 49 75");
    at = put8(&w, at, (u8)(top - (at + 1)));
    put8(&w, at, 0xf4);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_ECX), 0);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    world_destroy(&w);
}

static void a_return_address_changed_by_the_callee_is_obeyed(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* mov ecx,50; top: call f; hlt; back: dec ecx; jnz top; hlt; f: add dword [esp],1; inc eax; ret
     */
    u32 at = put(&w, CODE, "b9 32 00 00 00"), top = at, f = CODE + 0x100;
    at = put_branch(&w, at, 0xe8, f);
    u32 wrong = at;
    at = put(&w, at, "f4 49 75");
    at = put8(&w, at, (u8)(top - (at + 1)));
    put8(&w, at, 0xf4);
    put(&w, f, "83 04 24 01 40 c3");
    run_to_hlt(&w, CODE);
    assert_int_not_equal(w.cpu->eip, wrong);
    assert_int_equal(reg(&w, R_ECX), 0);
    assert_int_equal(reg(&w, R_EAX), 50);
    world_destroy(&w);
}

static void a_return_over_several_frames_is_obeyed(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* longjmp: three calls deep, then esp moved up and ret to the first caller */
    u32 f = CODE + 0x100, g = CODE + 0x200, h = CODE + 0x300;
    u32 at = put(&w, CODE, "b9 14 00 00 00"), top = at; /* mov ecx,20 */
    at = put(&w, put_branch(&w, at, 0xe8, f), "40 49 75");
    at = put8(&w, at, (u8)(top - (at + 1)));
    put8(&w, at, 0xf4);
    put(&w, put_branch(&w, f, 0xe8, g), "43 c3");
    put(&w, put_branch(&w, g, 0xe8, h), "43 c3");
    put(&w, h, "83 c4 08 c2 00 00"); /* add esp,8; ret 0 */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 20);
    assert_int_equal(reg(&w, R_EBX), 0);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    world_destroy(&w);
}

static void ret_with_an_immediate_releases_the_arguments(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    u32 f = CODE + 0x100, at = put(&w, CODE, "6a 01 6a 02");
    put8(&w, put_branch(&w, at, 0xe8, f), 0xf4);
    put(&w, f, "8b 44 24 04 c2 08 00"); /* mov eax,[esp+4]; ret 8 */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 2);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    world_destroy(&w);
}

static void flags_live_across_a_return_survive_prediction_and_miss(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* f: cmp eax,eax; ret. After the call: setz bl, and flags by pushf into edx */
    u32 f = CODE + 0x100;
    u32 at = put_branch(&w, CODE, 0xe8, f);
    put(&w, at, "0f 94 c3 9c 5a f4");
    put(&w, f, "39 c0 c3");
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EBX), 1);
    assert_int_equal(reg(&w, R_EDX) & F_ARITH, F_ZF | F_PF);
    /* the same over an unpredicted return */
    put32(&w, put8(&w, CODE + 0x400, 0x68), at);
    put_branch(&w, CODE + 0x405, 0xe9, f);
    w.cpu->gpr[R_EBX] = 0;
    run_to_hlt(&w, CODE + 0x400);
    assert_int_equal(reg(&w, R_EBX), 1);
    assert_int_equal(reg(&w, R_EDX) & F_ARITH, F_ZF | F_PF);
    world_destroy(&w);
}

/* ---- indirect branches ---- */

static void colliding_targets_of_an_indirect_branch_stay_apart(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    /* Two functions whose addresses agree in every bit of the table's index. */
    u32 f = CODE + 0x10000, g = f + VIEW_ENTRIES, h = f + 7 * VIEW_ENTRIES;
    put(&w, f, "83 c0 01 c3");
    put(&w, g, "83 c3 01 c3");
    put(&w, h, "83 c5 01 c3");
    u32 at = put(&w, CODE, "b9 64 00 00 00"), top = at;
    at = put32(&w, put8(&w, at, 0xbe), f);
    at = put32(&w, put8(&w, at, 0xbf), g);
    at = put32(&w, put8(&w, at, 0xba), h);
    at = put(&w, at, "ff d6 ff d7 ff d2 49 75"); /* call esi; call edi; call edx; dec ecx; jnz */
    at = put8(&w, at, (u8)(top - (at + 1)));
    put8(&w, at, 0xf4);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 100);
    assert_int_equal(reg(&w, R_EBX), 100);
    assert_int_equal(reg(&w, R_EBP), 100);
    assert_true(count(&w)->indirect_misses > 100);
    world_destroy(&w);
}

static void an_indirect_branch_hits_the_table_the_second_time(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    u32 f = CODE + 0x1000;
    put(&w, f, "40 c3");
    u32 at = put(&w, CODE, "b9 64 00 00 00");
    at = put32(&w, put8(&w, at, 0xbe), f);
    put(&w, at, "ff d6 49 75 fb f4");
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 100);
    assert_true(count(&w)->indirect_misses <= 3);
    world_destroy(&w);
}

/* ---- views: what a link depends on ---- */

static void expect_remapped_target_followed(u8 cpl, const char *branch, bool reload_cr3) {
    enum { SOURCE = 0x500000, TARGET = 0x501000, FIRST = 0x600000, SECOND = 0x601000 };
    struct world w;
    u32 rights = cpl == 3 ? USER_PAGE : KERNEL_PAGE;
    world_create(&w, NULL);
    enable_paging(&w, rights);
    put(&w, FIRST, "b8 01 00 00 00 f4");
    put(&w, SECOND, "b8 02 00 00 00 f4");
    map_page(&w, TARGET, FIRST | rights);
    u32 at = put(&w, SOURCE, branch);
    put32(&w, at, TARGET - (at + 4));
    set_cpl(&w, cpl);
    for (u32 i = 0; i < 6; i++) {
        u32 frame = i & 1 ? SECOND : FIRST;
        map_page(&w, TARGET, frame | rights);
        if (reload_cr3)
            mmu_cr3_loaded(w.cpu);
        else
            mmu_invlpg(w.cpu, GLIN(TARGET));
        for (u32 again = 0; again < 3; again++) {
            w.cpu->gpr[R_ESP] = STACK_TOP;
            run_to_hlt(&w, SOURCE);
            assert_int_equal(reg(&w, R_EAX), (i & 1) + 1);
        }
    }
    world_destroy(&w);
}

static void a_branch_to_another_page_follows_its_mapping_at_cpl_3(void **state) {
    (void)state;
    expect_remapped_target_followed(3, "e9", false);
    expect_remapped_target_followed(3, "e9", true);
    expect_remapped_target_followed(3, "39 c0 0f 84", false); /* cmp eax,eax; jz */
    expect_remapped_target_followed(3, "e8", false);
}

static void a_branch_to_another_page_follows_its_mapping_at_cpl_0(void **state) {
    (void)state;
    expect_remapped_target_followed(0, "e9", false);
    expect_remapped_target_followed(0, "e9", true);
    expect_remapped_target_followed(0, "39 c0 0f 84", true);
    expect_remapped_target_followed(0, "e8", false);
}

/* A chain inside one page to an instruction that runs into the next, whose mapping changes. */
static void expect_spanning_target_followed(u8 cpl) {
    enum { SOURCE = 0x500000, NEXT = 0x501000, FIRST = 0x600000, SECOND = 0x601000 };
    struct world w;
    world_create(&w, NULL);
    enable_paging(&w, USER_PAGE);
    u32 spanning = NEXT - 2;
    put_branch(&w, SOURCE, 0xe9, spanning);
    put(&w, spanning, "b8 00"); /* mov eax,imm32, three of its bytes on the next page */
    put(&w, FIRST, "01 00 00 f4");
    put(&w, SECOND, "02 00 00 f4");
    set_cpl(&w, cpl);
    for (u32 i = 0; i < 6; i++) {
        remap_page(&w, NEXT, (i & 1 ? SECOND : FIRST) | USER_PAGE);
        for (u32 again = 0; again < 3; again++) {
            run_to_hlt(&w, SOURCE);
            assert_int_equal(reg(&w, R_EAX), ((i & 1) + 1) << 8);
        }
    }
    world_destroy(&w);
}

static void a_chain_to_a_spanning_instruction_follows_its_second_page_at_cpl_3(void **state) {
    (void)state;
    expect_spanning_target_followed(3);
}
static void a_chain_to_a_spanning_instruction_follows_its_second_page_at_cpl_0(void **state) {
    (void)state;
    expect_spanning_target_followed(0);
}

/* The caller's page is exchanged while its callee runs. */
static void expect_return_to_remapped_caller(u8 cpl) {
    enum { CALLER = 0x500000, CALLEE = 0x501000, FIRST = 0x600000, SECOND = 0x601000 };
    struct world w;
    u32 rights = cpl == 3 ? USER_PAGE : KERNEL_PAGE;
    world_create(&w, NULL);
    enable_paging(&w, rights);
    put(&w, put_branch(&w, FIRST, 0xe8, FIRST + PAGE_BYTES), "b8 01 00 00 00 f4");
    put(&w, put_branch(&w, SECOND, 0xe8, SECOND + PAGE_BYTES), "b8 02 00 00 00 f4");
    put(&w, CALLEE, "f4 c3"); /* hlt; ret */
    set_cpl(&w, cpl);
    for (u32 i = 0; i < 4; i++) {
        remap_page(&w, CALLER, FIRST | rights);
        run_to_hlt(&w, CALLER);
        assert_int_equal(w.cpu->eip, CALLEE);
        remap_page(&w, CALLER, SECOND | rights);
        run_to_hlt(&w, CALLEE + 1);
        assert_int_equal(reg(&w, R_EAX), 2);
        assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    }
    world_destroy(&w);
}

static void a_return_to_a_remapped_page_runs_what_is_there_now(void **state) {
    (void)state;
    expect_return_to_remapped_caller(0);
    expect_return_to_remapped_caller(3);
}

static void a_remapped_code_page_is_translated_anew(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    enable_paging(&w, USER_PAGE);
    put(&w, 0x600000, "b8 01 00 00 00 f4");
    put(&w, 0x601000, "b8 02 00 00 00 f4");
    for (u32 i = 0; i < 8; i++) {
        set_cpl(&w, i & 2 ? 3 : 0);
        remap_page(&w, 0x500000, (i & 1 ? 0x601000 : 0x600000) | USER_PAGE);
        run_to_hlt(&w, 0x500000);
        assert_int_equal(reg(&w, R_EAX), (i & 1) + 1);
    }
    assert_int_equal(count(&w)->units_translated, 4); /* two pages, two rings */
    world_destroy(&w);
}

static void an_unmapped_code_page_leaves_to_the_emulator(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    enable_paging(&w, USER_PAGE);
    set_cpl(&w, 3);
    put_branch(&w, 0x500000, 0xe9, 0x501000);
    put(&w, 0x501000, "b8 01 00 00 00 f4");
    run_to_hlt(&w, 0x500000);
    remap_page(&w, 0x501000, 0);
    w.cpu->eip = 0x500000;
    expect_exit(&w, BT_EXIT_EMULATE, 0x501000);
    world_destroy(&w);
}

static void ring_0_code_is_not_run_for_ring_3(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    enable_paging(&w, USER_PAGE);
    put(&w, CODE, "0f 20 c0 f4"); /* mov eax,cr0; hlt */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), w.cpu->cr0);
    set_cpl(&w, 3);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE);
    assert_int_equal(count(&w)->units_translated, 2);
    world_destroy(&w);
}

/* ---- kicks ---- */

static struct bt *kicked;
static void on_alarm(int sig) {
    (void)sig;
    bt_kick_sigsafe(kicked);
}

/* Runs endless code and expects a kick from a signal handler to end it in every place. */
static void expect_kick_ends(const char *name, const struct bt_config *config,
                             u32 (*build)(struct world *)) {
    struct world w;
    world_create(&w, config);
    build(&w);
    kicked = w.bt;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    for (unsigned i = 0; i < 12; i++) {
        struct itimerval in = {.it_value.tv_usec = 500 + (int)i * 137};
        setitimer(ITIMER_REAL, &in, NULL);
        alarm(0);
        setitimer(ITIMER_REAL, &in, NULL);
        enum bt_exit exit = bt_run(w.bt);
        if (exit != BT_EXIT_KICK)
            fail_msg("%s: exit %d at %08x", name, exit, w.cpu->eip);
        assert_false(bt_hot(w.cpu)->safepoint_armed);
    }
    assert_true(reg(&w, R_EAX) > 100); /* it went on after each kick */
    world_destroy(&w);
}

static u32 build_backward_jump(struct world *w) {
    return put(w, CODE, "40 eb fd");
}
static u32 build_conditional(struct world *w) {
    return put(w, CODE, "40 83 c9 01 75 fa");
}
static u32 build_loop(struct world *w) {
    return put(w, CODE, "40 b9 02 00 00 00 e2 f8 eb f6");
}
static u32 build_jecxz(struct world *w) {
    return put(w, CODE, "40 31 c9 e3 fb");
}
static u32 build_indirect(struct world *w) {
    return put(w, put32(w, put8(w, CODE, 0xbe), CODE + 5), "40 ff e6"); /* jmp esi */
}
static u32 build_two_pages(struct world *w) {
    put_branch(w, put(w, CODE, "40"), 0xe9, CODE + 0x1800);
    return put_branch(w, put(w, CODE + 0x1800, "40"), 0xe9, CODE);
}
static u32 build_calls(struct world *w) {
    put(w, CODE + 0x100, "40 c3");
    return put(w, put_branch(w, CODE, 0xe8, CODE + 0x100), "eb f9");
}
static u32 build_endless_recursion(struct world *w) { /* call over and over, esp put back */
    u32 at = put(w, CODE, "40 83 c4 04");
    return put_branch(w, at, 0xe8, CODE);
}
static u32 build_returns(struct world *w) { /* push self; ret */
    return put8(w, put32(w, put(w, CODE, "40 68"), CODE), 0xc3);
}
static u32 build_strings(struct world *w) {
    u32 at = put32(w, put(w, CODE, "40 b9 00 10 00 00 bf"), DATA);
    return put(w, at, "f3 aa eb f1");
}
static u32 build_popf(struct world *w) {
    return put(w, CODE, "40 9c 9d eb fb");
}

static void a_kick_ends_every_kind_of_endless_loop(void **state) {
    (void)state;
    static const struct {
        const char *name;
        u32 (*build)(struct world *);
    } loops[] = {{"jmp", build_backward_jump}, {"jcc", build_conditional},
                 {"loop", build_loop},         {"jecxz", build_jecxz},
                 {"jmp esi", build_indirect},  {"pages", build_two_pages},
                 {"call/ret", build_calls},    {"recursion", build_endless_recursion},
                 {"ret", build_returns},       {"rep stosb", build_strings},
                 {"popf", build_popf}};
    struct bt_config config;
    default_test_config(&config);
    for (size_t i = 0; i < ARRAY_LEN(loops); i++) {
        config.chain = config.retstack = config.icache = true;
        expect_kick_ends(loops[i].name, &config, loops[i].build);
        config.retstack = false;
        expect_kick_ends(loops[i].name, &config, loops[i].build);
        config.chain = config.icache = false;
        expect_kick_ends(loops[i].name, &config, loops[i].build);
    }
}

static void a_kick_before_the_run_ends_it_at_once(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 f4");
    bt_kick_sigsafe(w.bt);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_KICK, CODE);
    assert_int_equal(reg(&w, R_EAX), 0);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 1);
    world_destroy(&w);
}

/* ---- STI, POPF and a waiting interrupt ---- */

static void sti_with_an_interrupt_waiting_stops_behind_its_shadow(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 fb 43 f4"); /* inc eax; sti; inc ebx; hlt */
    bt_set_interrupt_pending(w.bt, true);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_KICK, CODE + 2);
    assert_true(w.cpu->eflags & F_IF);
    assert_int_equal(w.cpu->shadow, SHADOW_STI);
    assert_int_equal(reg(&w, R_EAX), 1);
    assert_int_equal(reg(&w, R_EBX), 0);
    expect_exit(&w, BT_EXIT_EMULATE, CODE + 2); /* the shadow is the emulator's */
    world_destroy(&w);
}

static void sti_without_an_interrupt_runs_on(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "fb 43 fa 9c 58 fb f4"); /* sti; inc ebx; cli; pushf; pop eax; sti; hlt */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EBX), 1);
    assert_false(reg(&w, R_EAX) & F_IF);
    assert_true(w.cpu->eflags & F_IF);
    assert_int_equal(w.cpu->shadow, 0);
    world_destroy(&w);
}

static void popf_that_opens_interrupts_stops_behind_itself(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "68 02 02 00 00 9d 43 f4"); /* push 202h; popf; inc ebx; hlt */
    bt_set_interrupt_pending(w.bt, true);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_KICK, CODE + 6);
    assert_true(w.cpu->eflags & F_IF);
    assert_int_equal(w.cpu->shadow, 0);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP);
    world_destroy(&w);
}

static void popf_shows_only_what_its_ring_may_change(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    enable_paging(&w, USER_PAGE);
    set_cpl(&w, 3);
    put(&w, CODE, "68 d7 7a 24 00 9d 9c 58 f4"); /* all flags but TF, DF; pushf; pop eax */
    w.ram[CODE + 2] = 0x7a & ~(F_DF >> 8);       /* keep DF clear: it is not translated */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX) & (F_IF | F_IOPL | F_VM), 0);
    assert_int_equal(reg(&w, R_EAX) & (F_CF | F_ZF | F_NT | F_ID), F_CF | F_ZF | F_NT | F_ID);
    world_destroy(&w);
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

/* ---- exits ---- */

static void cold_code_is_handed_back_until_it_is_hot(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.hot_threshold = 3;
    world_create(&w, &config);
    put(&w, CODE, "40 f4");
    for (unsigned i = 0; i < 3; i++) {
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_COLD, CODE);
    }
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 1);
    assert_int_equal(count(&w)->exits_by_reason[BT_EXIT_COLD], 3);
    world_destroy(&w);
}

static void a_threshold_beyond_a_byte_is_reached(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.hot_threshold = 300;
    world_create(&w, &config);
    put(&w, CODE, "40 f4");
    for (unsigned i = 0; i < 300; i++) {
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_COLD, CODE);
    }
    run_to_hlt(&w, CODE);
    world_destroy(&w);
}

static void modes_that_are_not_translated_are_handed_back(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 f4");
    struct cpu *cpu = w.cpu, *saved = malloc(sizeof *saved);
    memcpy(saved, cpu, sizeof *saved);
    for (unsigned i = 0; i < 10; i++) {
        switch (i) {
        case 0:
            cpu->eflags |= F_DF;
            break;
        case 1:
            cpu->eflags |= F_TF;
            break;
        case 2:
            cpu->eflags |= F_VM;
            break;
        case 3:
            cpu->cr0 &= ~CR0_PE;
            break;
        case 4:
            cpu->cpl = 1;
            break;
        case 5:
            cpu->seg[SEG_DS].base = 0x1000;
            break;
        case 6:
            cpu->seg[SEG_SS].limit = 0xffff;
            break;
        case 7:
            cpu->seg[SEG_CS].attr &= ~(u32)ATTR_DB;
            break;
        case 8:
            cpu->dr[7] = 1;
            break;
        default:
            cpu->seg[SEG_ES].attr = ATTR_NULL;
            break;
        }
        cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_MODE, CODE);
        memcpy(cpu->seg, saved->seg, sizeof cpu->seg);
        cpu->eflags = saved->eflags;
        cpu->cr0 = saved->cr0;
        cpu->cpl = saved->cpl;
        cpu->dr[7] = saved->dr[7];
    }
    free(saved);
    run_to_hlt(&w, CODE);
    world_destroy(&w);
}

static void a_poll_of_the_mode_inside_translated_code_leaves(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "68 02 04 00 00 9d 40 f4"); /* push DF; popf; inc eax */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_MODE, CODE + 6);
    assert_true(w.cpu->eflags & F_DF);
    assert_int_equal(reg(&w, R_EAX), 0);
    world_destroy(&w);
}

static void divide_by_zero_is_a_fault_at_the_instruction(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 31 d2 31 c9 f7 f1 f4"); /* inc eax; xor edx,edx; xor ecx,ecx; div ecx */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE + 5);
    assert_int_equal(w.cpu->fault.vector, VEC_DE);
    assert_int_equal(reg(&w, R_EAX), 1);
    world_destroy(&w);
}

static void a_lockstep_run_ends_with_its_unit(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.lockstep = true;
    world_create(&w, &config);
    put(&w, CODE, "40 75 00 43 eb fa f4"); /* inc eax; jnz $+2; inc ebx; jmp CODE */
    w.cpu->eip = CODE;
    bt_lockstep_compare(w.bt);
    expect_exit(&w, BT_EXIT_UNIT_END, CODE + 3);
    assert_int_equal(bt_last_unit_insns(w.bt), 2);
    bt_lockstep_compare(w.bt);
    expect_exit(&w, BT_EXIT_UNIT_END, CODE);
    assert_int_equal(bt_last_unit_insns(w.bt), 2);
    assert_int_equal(reg(&w, R_EAX), 1);
    assert_int_equal(reg(&w, R_EBX), 1);
    world_destroy(&w);
}

/* ---- -icount ---- */

static void counted_world(struct world *w) {
    struct bt_config config;
    default_test_config(&config);
    config.icount = true;
    world_create(w, &config);
}

static void the_budget_ends_at_a_unit_and_counts_every_instruction(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE,
        "b9 0a 00 00 00 40 43 49 75 fb f4"); /* mov ecx,10; top: inc eax; inc ebx; dec; jnz */
    bt_set_budget(w.bt, 1000);
    run_to_hlt(&w, CODE);
    assert_int_equal(w.cpu->insn_count, 1 + 10 * 4);
    assert_int_equal(bt_hot(w.cpu)->budget, 1000 - 41);
    w.cpu->insn_count = 0;
    bt_set_budget(w.bt, 12);
    w.cpu->eip = CODE;
    assert_int_equal(bt_run(w.bt), BT_EXIT_BUDGET);
    assert_true(w.cpu->insn_count <= 12);
    assert_int_equal(w.cpu->insn_count + (u64)bt_hot(w.cpu)->budget, 12);
    world_destroy(&w);
}

static void a_fault_gives_the_budget_of_what_did_not_run_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE, "40 43 31 c9 f7 f1 40 40 f4"); /* the division is the fourth */
    bt_set_budget(w.bt, 100);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE + 4);
    assert_int_equal(w.cpu->insn_count, 3);
    world_destroy(&w);
}

static void a_callout_that_leaves_gives_the_budget_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    /* inc eax; mov ds,ebx (a null selector: not flat any more); inc eax; inc eax; hlt */
    put(&w, CODE, "40 8e db 40 40 f4");
    bt_set_budget(w.bt, 100);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_MODE, CODE + 3);
    assert_int_equal(w.cpu->insn_count, 2);
    /* a selector outside the table: a fault at the second instruction */
    set_cpl(&w, 0);
    w.cpu->gpr[R_EBX] = 0xf008;
    w.cpu->insn_count = 0;
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE + 1);
    assert_int_equal(w.cpu->insn_count, 1);
    world_destroy(&w);
}

static void an_adapted_site_that_leaves_gives_the_budget_back(void **state) {
    (void)state;
    struct world w;
    counted_world(&w);
    put(&w, CODE, "40 89 03 40 40 f4"); /* a device register at ebx */
    w.cpu->gpr[R_EBX] = RAM_BYTES;
    for (unsigned i = 0; i < 5; i++) {
        bt_set_budget(w.bt, 100);
        w.cpu->insn_count = 0;
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        assert_int_equal(w.cpu->insn_count, 1);
    }
    world_destroy(&w);
}

static void instructions_behind_one_that_is_emulated_are_not_counted(void **state) {
    (void)state;
    static const char *const emulated[] = {"8e d3", "17", "0f 22 d8", "66 5c", "0f 31", "f4"};
    for (size_t i = 0; i < ARRAY_LEN(emulated); i++) {
        struct world w;
        counted_world(&w);
        put(&w, put(&w, put(&w, CODE, "40"), emulated[i]), "43 43 43 f4");
        bt_set_budget(w.bt, 100);
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        if (w.cpu->insn_count != 1)
            fail_msg("%s: %u", emulated[i], (unsigned)w.cpu->insn_count);
        world_destroy(&w);
    }
}

/* ---- task switches from translated code ---- */

enum { TSS_OLD = 0xa000, TSS_NEW = 0xa100, NEW_TASK = CODE + 0x800 };

static u64 tss_descriptor(u32 base) {
    return 0x0000890000000067ull | (u64)(base & 0xffffff) << 16 | (u64)(base >> 24) << 56;
}

/* INT 80h through a task gate to NEW_TASK, with the selector that its TSS names for CS. */
static void task_world(struct world *w, u16 cs) {
    world_create(w, NULL);
    enable_paging(w, KERNEL_PAGE);
    store64(w->ram + GDT_AT + 0x28, tss_descriptor(TSS_OLD) | 0x20000000000ull); /* busy */
    store64(w->ram + GDT_AT + 0x30, tss_descriptor(TSS_NEW));
    w->cpu->seg[SEG_TR] =
        (struct segment){.selector = 0x28, .attr = ATTR_P | 0xb, .limit = 0x67, .base = TSS_OLD};
    store64(w->ram + IDT_AT + 8 * 0x80, 0x0000850000300000ull);
    u8 *tss = w->ram + TSS_NEW;
    store32(tss + 28, PAGE_DIRECTORY);
    store32(tss + 32, NEW_TASK);
    store32(tss + 36, F_FIXED | F_CF);
    store32(tss + 56, STACK_TOP - 0x1000);
    for (unsigned s = 0; s < 6; s++)
        store32(tss + 72 + 4 * s, 0x10);
    store32(tss + 76, cs);
    put(w, CODE, "b8 05 00 00 00 cd 80 f4");
}

static void a_task_gate_makes_fp_instructions_fault(void **state) {
    (void)state;
    struct world w;
    task_world(&w, 8);
    put(&w, NEW_TASK, "d9 e8 f4"); /* fld1 */
    run_to_hlt(&w, NEW_TASK);      /* now the jump table knows it, FP allowed */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, NEW_TASK);
    assert_true(w.cpu->cr0 & CR0_TS);
    assert_int_equal(w.cpu->seg[SEG_TR].selector, 0x30);
    world_destroy(&w);
}

static void a_task_gate_changes_the_control_registers_that_code_reads(void **state) {
    (void)state;
    struct world w;
    task_world(&w, 8);
    put(&w, NEW_TASK, "0f 20 c0 9c 5b f4"); /* mov eax,cr0; pushf; pop ebx */
    run_to_hlt(&w, NEW_TASK);
    run_to_hlt(&w, CODE);
    assert_true(reg(&w, R_EAX) & CR0_TS);
    assert_int_equal(reg(&w, R_EBX), F_FIXED | F_CF | F_NT);
    world_destroy(&w);
}

static void a_task_switch_follows_the_new_page_tables(void **state) {
    (void)state;
    enum { OTHER_DIRECTORY = 0x1a0000, OTHER_TABLE = 0x1a1000, OTHER_CODE = 0x600000 };
    struct world w;
    task_world(&w, 8);
    memcpy(w.ram + OTHER_DIRECTORY, w.ram + PAGE_DIRECTORY, PAGE_BYTES);
    memcpy(w.ram + OTHER_TABLE, w.ram + PAGE_TABLES, PAGE_BYTES);
    store32(w.ram + OTHER_DIRECTORY, OTHER_TABLE | USER_PAGE);
    store32(w.ram + OTHER_TABLE + (CODE >> 12) * 4, OTHER_CODE | KERNEL_PAGE);
    store32(w.ram + TSS_NEW + 28, OTHER_DIRECTORY);
    put(&w, NEW_TASK, "b8 01 00 00 00 f4");
    put(&w, OTHER_CODE + (NEW_TASK & PAGE_OFFSET_MASK), "b8 02 00 00 00 f4");
    run_to_hlt(&w, NEW_TASK);
    assert_int_equal(reg(&w, R_EAX), 1);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 2);
    world_destroy(&w);
}

static void a_fault_after_a_task_switch_belongs_to_the_new_task(void **state) {
    (void)state;
    struct world w;
    task_world(&w, 0x70); /* no such descriptor */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, NEW_TASK);
    assert_int_equal(w.cpu->fault.vector, VEC_TS);
    assert_int_equal(w.cpu->eflags, F_FIXED | F_CF | F_NT);
    world_destroy(&w);
}

/* ---- changes of ring ---- */

enum {
    HANDLER = CODE + 0x1000,
    KERNEL_STACK = 0x3ff000,
    USER_CODE = 0x500000,
    USER_STACK = 0x511000
};

/* Ring 3 at USER_CODE, an interrupt gate 80h to ring 0 at HANDLER. */
static void two_ring_world(struct world *w, const struct bt_config *config) {
    world_create(w, config);
    enable_paging(w, USER_PAGE);
    w->cpu->seg[SEG_TR] =
        (struct segment){.selector = 0x28, .attr = ATTR_P | 0xb, .limit = 0x67, .base = TSS_OLD};
    store32(w->ram + TSS_OLD + 4, KERNEL_STACK);
    store32(w->ram + TSS_OLD + 8, 0x10);
    store64(w->ram + IDT_AT + 8 * 0x80,
            (u64)(HANDLER & 0xffff) | 8u << 16 | 0xee00ull << 32 | (u64)(HANDLER >> 16) << 48);
    for (u32 lin = CODE; lin < STACK_TOP; lin += PAGE_BYTES)
        map_page(w, lin, lin | KERNEL_PAGE);
    set_cpl(w, 3);
    w->cpu->gpr[R_ESP] = USER_STACK;
}

static void a_system_call_stays_in_translated_code(void **state) {
    (void)state;
    struct world w;
    two_ring_world(&w, NULL);
    /* mov ecx,1000; top: int 80h; dec ecx; jnz top; hlt */
    put(&w, USER_CODE, "b9 e8 03 00 00 cd 80 49 75 fb f4");
    put(&w, HANDLER, "83 c0 03 cf"); /* add eax,3; iret */
    run_to_hlt(&w, USER_CODE);
    assert_int_equal(reg(&w, R_EAX), 3000);
    assert_int_equal(reg(&w, R_ESP), USER_STACK);
    assert_int_equal(w.cpu->cpl, 3);
    assert_int_equal(w.cpu->seg[SEG_CS].selector, 0x1b);
    assert_int_equal(count(&w)->exits, 1);
    assert_true(count(&w)->dispatches < 16);
    world_destroy(&w);
}

static void flags_and_registers_survive_a_system_call(void **state) {
    (void)state;
    struct world w;
    two_ring_world(&w, NULL);
    /* stc; int 80h; sbb eax,eax; pushf; pop edx; hlt */
    put(&w, USER_CODE, "f9 cd 80 19 c0 9c 5a f4");
    put(&w, HANDLER, "f8 31 c9 9c 5b cf"); /* clc; xor ecx,ecx; pushf; pop ebx; iret */
    w.cpu->eflags = F_FIXED | F_IF;
    run_to_hlt(&w, USER_CODE);
    assert_int_equal(reg(&w, R_EAX), 0xffffffff);
    assert_true(reg(&w, R_EDX) & F_IF);
    assert_int_equal(reg(&w, R_EBX) & (F_IF | F_ARITH), F_ZF | F_PF);
    world_destroy(&w);
}

static void frames_of_one_ring_do_not_serve_the_other(void **state) {
    (void)state;
    struct world w;
    two_ring_world(&w, NULL);
    /* Ring 3, two calls deep, enters ring 0; ring 0 returns to an address of its own choice. */
    u32 f = USER_CODE + 0x100, g = USER_CODE + 0x200, own = HANDLER + 0x80;
    u32 at = put(&w, USER_CODE, "b9 14 00 00 00"), top = at; /* mov ecx,20 */
    at = put(&w, put_branch(&w, at, 0xe8, f), "49 75");
    at = put8(&w, at, (u8)(top - (at + 1)));
    put8(&w, at, 0xf4);
    put(&w, put_branch(&w, f, 0xe8, g), "43 c3");            /* inc ebx; ret */
    put(&w, g, "cd 80 45 c3");                               /* int 80h; inc ebp; ret */
    put8(&w, put32(&w, put8(&w, HANDLER, 0x68), own), 0xc3); /* push own; ret */
    put(&w, own, "40 cf");
    run_to_hlt(&w, USER_CODE);
    assert_int_equal(reg(&w, R_EAX), 20);
    assert_int_equal(reg(&w, R_EBX), 20);
    assert_int_equal(reg(&w, R_EBP), 20);
    assert_int_equal(reg(&w, R_ESP), USER_STACK);
    world_destroy(&w);
}

/* Two address spaces with other code behind the same call: a return must find the code of the space
 * that it returns in, although the address on the stack is the one predicted. */
static void a_return_in_another_address_space_runs_that_spaces_code(void **state) {
    (void)state;
    enum { OTHER_DIRECTORY = 0x6a0000, OTHER_TABLE = 0x6a1000, OTHER_CODE = 0x600000 };
    struct world w;
    two_ring_world(&w, NULL);
    memcpy(w.ram + OTHER_DIRECTORY, w.ram + PAGE_DIRECTORY, PAGE_BYTES);
    memcpy(w.ram + OTHER_TABLE, w.ram + PAGE_TABLES + PAGE_BYTES, PAGE_BYTES);
    store32(w.ram + OTHER_DIRECTORY + 4, OTHER_TABLE | USER_PAGE);
    store32(w.ram + OTHER_TABLE + ((USER_CODE >> 12) & 1023) * 4, OTHER_CODE | USER_PAGE);
    u32 f = USER_CODE + 0x100;
    for (u32 space = 0; space < 2; space++) {
        u32 frame = space ? OTHER_CODE : USER_CODE;
        put_branch(&w, frame, 0xe8, frame + 0x100);
        put32(&w, put8(&w, frame + 5, 0x05), space ? 100 : 1); /* add eax,1 or 100 */
        put8(&w, frame + 10, 0xf4);
        put(&w, frame + 0x100, "cd 80 c3");
    }
    put(&w, HANDLER, "0f 22 df cf"); /* mov cr3,edi; iret */
    assert_int_equal(w.ram[f], 0xcd);
    u32 expected = 0;
    for (u32 i = 0; i < 12; i++) {
        u32 target = i % 3 ? OTHER_DIRECTORY : PAGE_DIRECTORY;
        w.cpu->gpr[R_EDI] = target;
        w.cpu->eip = USER_CODE;
        expect_exit(&w, BT_EXIT_EMULATE, HANDLER);
        w.cpu->cr3 = target; /* what the emulator does */
        mmu_cr3_loaded(w.cpu);
        run_to_hlt(&w, HANDLER + 3);
        expected += i % 3 ? 100 : 1;
        assert_int_equal(reg(&w, R_EAX), expected);
        assert_int_equal(reg(&w, R_ESP), USER_STACK);
    }
    world_destroy(&w);
}

static void iret_that_opens_interrupts_stops_for_one_that_waits(void **state) {
    (void)state;
    struct world w;
    two_ring_world(&w, NULL);
    put(&w, USER_CODE, "cd 80 40 f4");
    put(&w, HANDLER, "43 cf");
    w.cpu->eflags = F_FIXED | F_IF;
    w.cpu->eip = USER_CODE;
    set_cpl(&w, 3);
    bt_set_interrupt_pending(w.bt, true);
    expect_exit(&w, BT_EXIT_KICK, USER_CODE + 2);
    assert_int_equal(reg(&w, R_EBX), 1);
    assert_int_equal(reg(&w, R_EAX), 0);
    world_destroy(&w);
}

static void a_software_interrupt_without_a_gate_is_a_fault(void **state) {
    (void)state;
    struct world w;
    two_ring_world(&w, NULL);
    put(&w, USER_CODE, "40 cd 81 f4");
    w.cpu->eip = USER_CODE;
    expect_exit(&w, BT_EXIT_FAULT, USER_CODE + 1);
    assert_int_equal(w.cpu->fault.vector, VEC_GP);
    assert_int_equal(w.cpu->fault.error, 0x81 * 8 + 2);
    assert_int_equal(w.cpu->cpl, 3);
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
        cmocka_unit_test(recursion_deeper_than_the_return_stack_comes_back),
        cmocka_unit_test(a_ret_without_a_call_goes_where_the_guest_stack_says),
        cmocka_unit_test(a_return_address_changed_by_the_callee_is_obeyed),
        cmocka_unit_test(a_return_over_several_frames_is_obeyed),
        cmocka_unit_test(ret_with_an_immediate_releases_the_arguments),
        cmocka_unit_test(flags_live_across_a_return_survive_prediction_and_miss),
        cmocka_unit_test(colliding_targets_of_an_indirect_branch_stay_apart),
        cmocka_unit_test(an_indirect_branch_hits_the_table_the_second_time),
        cmocka_unit_test(a_branch_to_another_page_follows_its_mapping_at_cpl_3),
        cmocka_unit_test(a_branch_to_another_page_follows_its_mapping_at_cpl_0),
        cmocka_unit_test(a_chain_to_a_spanning_instruction_follows_its_second_page_at_cpl_3),
        cmocka_unit_test(a_chain_to_a_spanning_instruction_follows_its_second_page_at_cpl_0),
        cmocka_unit_test(a_return_to_a_remapped_page_runs_what_is_there_now),
        cmocka_unit_test(a_remapped_code_page_is_translated_anew),
        cmocka_unit_test(an_unmapped_code_page_leaves_to_the_emulator),
        cmocka_unit_test(ring_0_code_is_not_run_for_ring_3),
        cmocka_unit_test(a_kick_ends_every_kind_of_endless_loop),
        cmocka_unit_test(a_kick_before_the_run_ends_it_at_once),
        cmocka_unit_test(sti_with_an_interrupt_waiting_stops_behind_its_shadow),
        cmocka_unit_test(sti_without_an_interrupt_runs_on),
        cmocka_unit_test(popf_that_opens_interrupts_stops_behind_itself),
        cmocka_unit_test(popf_shows_only_what_its_ring_may_change),
        cmocka_unit_test(a_site_that_keeps_faulting_becomes_a_callout),
        cmocka_unit_test(without_adaptation_the_site_faults_every_time),
        cmocka_unit_test(adapted_moves_give_what_plain_ones_give),
        cmocka_unit_test(adapted_stores_give_what_plain_ones_give),
        cmocka_unit_test(adapted_strings_give_what_plain_ones_give),
        cmocka_unit_test(cold_code_is_handed_back_until_it_is_hot),
        cmocka_unit_test(a_threshold_beyond_a_byte_is_reached),
        cmocka_unit_test(modes_that_are_not_translated_are_handed_back),
        cmocka_unit_test(a_poll_of_the_mode_inside_translated_code_leaves),
        cmocka_unit_test(divide_by_zero_is_a_fault_at_the_instruction),
        cmocka_unit_test(a_lockstep_run_ends_with_its_unit),
        cmocka_unit_test(the_budget_ends_at_a_unit_and_counts_every_instruction),
        cmocka_unit_test(a_fault_gives_the_budget_of_what_did_not_run_back),
        cmocka_unit_test(a_callout_that_leaves_gives_the_budget_back),
        cmocka_unit_test(an_adapted_site_that_leaves_gives_the_budget_back),
        cmocka_unit_test(instructions_behind_one_that_is_emulated_are_not_counted),
        cmocka_unit_test(a_task_gate_makes_fp_instructions_fault),
        cmocka_unit_test(a_task_gate_changes_the_control_registers_that_code_reads),
        cmocka_unit_test(a_task_switch_follows_the_new_page_tables),
        cmocka_unit_test(a_fault_after_a_task_switch_belongs_to_the_new_task),
        cmocka_unit_test(a_system_call_stays_in_translated_code),
        cmocka_unit_test(flags_and_registers_survive_a_system_call),
        cmocka_unit_test(frames_of_one_ring_do_not_serve_the_other),
        cmocka_unit_test(a_return_in_another_address_space_runs_that_spaces_code),
        cmocka_unit_test(iret_that_opens_interrupts_stops_for_one_that_waits),
        cmocka_unit_test(a_software_interrupt_without_a_gate_is_a_fault),
        cmocka_unit_test(the_last_units_are_those_entered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
