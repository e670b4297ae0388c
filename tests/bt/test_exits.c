/*
 * test_exits.c: why translated code hands control back: kicks, interrupts behind STI and POPF,
 * modes, faults.
 */
#include "bt_fixture.h"

#include <signal.h>
#include <sys/time.h>

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kick_ends_every_kind_of_endless_loop),
        cmocka_unit_test(a_kick_before_the_run_ends_it_at_once),
        cmocka_unit_test(sti_with_an_interrupt_waiting_stops_behind_its_shadow),
        cmocka_unit_test(sti_without_an_interrupt_runs_on),
        cmocka_unit_test(popf_that_opens_interrupts_stops_behind_itself),
        cmocka_unit_test(popf_shows_only_what_its_ring_may_change),
        cmocka_unit_test(cold_code_is_handed_back_until_it_is_hot),
        cmocka_unit_test(a_threshold_beyond_a_byte_is_reached),
        cmocka_unit_test(modes_that_are_not_translated_are_handed_back),
        cmocka_unit_test(a_poll_of_the_mode_inside_translated_code_leaves),
        cmocka_unit_test(divide_by_zero_is_a_fault_at_the_instruction),
        cmocka_unit_test(a_lockstep_run_ends_with_its_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
