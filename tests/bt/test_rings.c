/*
 * test_rings.c: changes of ring and of task from inside translated code.
 */
#include "bt_fixture.h"

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
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
/* light: MOV CR3 does not leave translated code. */
static void return_in_another_address_space(bool light) {
    enum { OTHER_DIRECTORY = 0x6a0000, OTHER_TABLE = 0x6a1000, OTHER_CODE = 0x600000 };
    struct world w;
    struct bt_config config;
    default_test_config(&config);
    config.light = light;
    two_ring_world(&w, &config);
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
        if (!light) {
            expect_exit(&w, BT_EXIT_EMULATE, HANDLER);
            w.cpu->cr3 = target; /* what the emulator does */
            mmu_cr3_loaded(w.cpu);
            w.cpu->eip = HANDLER + 3;
        }
        run_to_hlt(&w, w.cpu->eip);
        expected += i % 3 ? 100 : 1;
        assert_int_equal(reg(&w, R_EAX), expected);
        assert_int_equal(reg(&w, R_ESP), USER_STACK);
    }
    world_destroy(&w);
}

static void a_return_in_another_address_space_runs_that_spaces_code(void **state) {
    (void)state;
    return_in_another_address_space(false);
    return_in_another_address_space(true);
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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
