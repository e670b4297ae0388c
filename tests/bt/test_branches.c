/*
 * test_branches.c: where branches go: the return stack, indirect branches, and the view that a link
 * depends on.
 */
#include "bt_fixture.h"

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
