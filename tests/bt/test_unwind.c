/*
 * test_unwind.c: backtraces through translated code: out of a callout, out of a fault in C below a
 * callout, and out of a fault in translated code itself; one frame per guest call, down to main.
 */
#include "bt/bt_internal.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define CODE 0x10000u
#define STACK_TOP 0x9000u
#define GDT_MMIO 0xf0000000u /* not RAM: reading a descriptor reaches the bus */
#define FLAT_DATA 0x00cf93000000ffffull
#define MAX_FRAMES 200

struct frame {
    char name[64];
    bool translated;
    u32 eip;
};
struct scene {
    struct mmu *mmu;
    struct cpu *cpu;
    struct bt *bt;
    struct cpu_bus bus;
    struct frame frame[MAX_FRAMES];
    unsigned frames, callouts;
    void (*in_callout)(struct scene *s);
    sigjmp_buf escape;
};
static struct scene *current; /* for the crash hook, which has no argument */

/* Where an unwinder looks: a return address stands for the call before it. */
static __attribute__((noinline)) void walk(struct scene *s) {
    unw_context_t context;
    unw_cursor_t cursor;
    bool exact = true;
    unw_getcontext(&context);
    assert_int_equal(unw_init_local(&cursor, &context), 0);
    s->frames = 0;
    do {
        struct frame *f = &s->frame[s->frames++];
        unw_word_t pc, offset;
        assert_int_equal(unw_get_reg(&cursor, UNW_REG_IP, &pc), 0);
        f->translated = bt_pc_to_eip(s->bt, exact ? pc : pc - 1, &f->eip);
        if (f->translated || unw_get_proc_name(&cursor, f->name, sizeof f->name, &offset) != 0)
            snprintf(f->name, sizeof f->name, "?");
        exact = unw_is_signal_frame(&cursor) > 0;
    } while (s->frames < MAX_FRAMES && unw_step(&cursor) > 0);
}

static int find(const struct scene *s, const char *name) {
    for (unsigned i = 0; i < s->frames; i++)
        if (!strcmp(s->frame[i].name, name))
            return (int)i;
    return -1;
}

/* The translated frames are exactly these, newest first, then the way out to main. */
static void expect(const struct scene *s, unsigned count, const u32 *eips) {
    unsigned i = 0;
    while (i < s->frames && !s->frame[i].translated)
        i++;
    for (unsigned k = 0; k < count; k++, i++) {
        assert_true(i < s->frames && s->frame[i].translated);
        assert_int_equal(s->frame[i].eip, eips[k]);
    }
    assert_string_equal(s->frame[i].name, "bt_sentinel");
    assert_string_equal(s->frame[i + 1].name, "bt_enter");
    int run = find(s, "bt_run"), end = find(s, "main");
    assert_true(run > (int)i + 1 && end > run);
}

static void print_frames(const struct scene *s) {
    for (unsigned i = 0; i < MIN(s->frames, 20u); i++)
        if (s->frame[i].translated)
            printf("  #%-2u guest eip %08x\n", i, s->frame[i].eip);
        else
            printf("  #%-2u %s\n", i, s->frame[i].name);
}

static u64 mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    struct scene *s = opaque;
    s->callouts++;
    s->in_callout(s);
    return bytes == 8 ? FLAT_DATA : FLAT_DATA >> (addr.v & 4 ? 32 : 0);
}
static void mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)addr, (void)value, (void)bytes;
}

static void set_flat(struct cpu *cpu, enum seg seg, u16 selector, u32 attr) {
    cpu->seg[seg] = (struct segment){.selector = selector,
                                     .attr = attr | ATTR_P | ATTR_S | ATTR_A | ATTR_DB | ATTR_G,
                                     .limit = UINT32_MAX};
}

/* Inside the test: cmocka takes the host's signals for itself before it calls one. */
static struct scene *scene_create(void) {
    struct scene *s = calloc(1, sizeof *s);
    struct mmu_error mmu_err;
    char err[200];
    s->mmu = mmu_create(4u << 20, &mmu_err);
    s->cpu = cpu_create();
    assert_true(s->mmu && s->cpu);
    s->bus = (struct cpu_bus){.mmio_read = mmio_read, .mmio_write = mmio_write, .opaque = s};
    s->cpu->mmu = s->mmu;
    s->cpu->bus = &s->bus;
    cpu_reset(s->cpu);
    s->cpu->cr0 |= CR0_PE;
    mmu_mode_changed(s->cpu);
    for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
        set_flat(s->cpu, seg, 0x10, ATTR_W);
    set_flat(s->cpu, SEG_CS, 8, ATTR_CODE | ATTR_R);
    s->cpu->gdtr = (struct table_register){.base = GDT_MMIO, .limit = 0xff};
    s->cpu->gpr[R_ESP] = STACK_TOP;
    s->cpu->gpr[R_EAX] = 0x10;
    s->cpu->eip = CODE;
    struct bt_config config;
    bt_config_default(&config);
    config.hot_threshold = 0;
    s->bt = bt_create(s->cpu, &config, err, sizeof err);
    assert_non_null(s->bt);
    current = s;
    return s;
}

static void scene_destroy(struct scene *s) {
    rf_crash_hook = NULL;
    bt_destroy(s->bt);
    mmu_destroy(s->mmu);
    cpu_destroy(s->cpu);
    free(s);
}

static void put_code(struct scene *s, u32 at, const u8 *code, size_t bytes) {
    memcpy(mmu_ram(s->mmu) + at, code, bytes);
}
#define PUT(s, at, ...) put_code(s, at, (const u8[]){__VA_ARGS__}, sizeof((u8[]){__VA_ARGS__}))

/* main: nop; call 10100h; hlt.  10100h: call 10200h; ret.  10200h: nop; `last`; ret. */
static void put_nested(struct scene *s, u8 last0, u8 last1) {
    PUT(s, CODE, 0x90, 0xe8, 0xfa, 0, 0, 0, 0xf4);
    PUT(s, CODE + 0x100, 0xe8, 0xfb, 0, 0, 0, 0xc3);
    PUT(s, CODE + 0x200, 0x90, last0, last1, 0xc3);
}
static const u32 nested_eips[] = {CODE + 0x201, CODE + 0x100, CODE + 1};

/* Every branch linked and every page mapped, so that the next run stays in translated code. */
static void run_to_halt(struct scene *s) {
    enum bt_exit exit;
    for (unsigned i = 0; i < 100; i++) {
        exit = bt_run(s->bt);
        if (exit != BT_EXIT_UNIT_END && exit != BT_EXIT_KICK)
            break;
    }
    assert_int_equal(exit, BT_EXIT_EMULATE);
}

static void a_callout_sees_every_guest_call(void **state) {
    (void)state;
    struct scene *s = scene_create();
    s->in_callout = walk;
    put_nested(s, 0x8e, 0xc0); /* mov es,ax */
    run_to_halt(s);
    assert_int_equal(s->cpu->eip, CODE + 6);
    assert_true(s->callouts >= 1);
    print_frames(s);
    assert_true(find(s, "bt_stub_callout_returning") > 0);
    expect(s, 3, nested_eips);
    scene_destroy(s);
}

static void deep_recursion_shows_one_frame_per_call(void **state) {
    (void)state;
    struct scene *s = scene_create();
    s->in_callout = walk;
    s->cpu->gpr[R_ECX] = 50;
    PUT(s, CODE, 0xe8, 0xfb, 0, 0, 0, 0xf4);
    /* dec ecx; jz 1f; call self; ret; 1: mov es,ax; ret */
    PUT(s, CODE + 0x100, 0x49, 0x74, 0x06, 0xe8, 0xf8, 0xff, 0xff, 0xff, 0xc3, 0x8e, 0xc0, 0xc3);
    run_to_halt(s);
    u32 eips[51] = {CODE + 0x109};
    for (unsigned i = 1; i < 50; i++)
        eips[i] = CODE + 0x103;
    eips[50] = CODE;
    expect(s, 51, eips);
    scene_destroy(s);
}

/* `jmp`ed to: INT n through a gate that lies beyond RAM. The unit that did it is not on the stack.
 */
static void a_callout_that_does_not_return_shows_the_callers(void **state) {
    (void)state;
    struct scene *s = scene_create();
    s->in_callout = walk;
    s->cpu->idtr = (struct table_register){.base = GDT_MMIO, .limit = 0x7ff};
    put_nested(s, 0xcd, 0x80);
    enum bt_exit exit = bt_run(s->bt);
    assert_int_equal(exit, BT_EXIT_FAULT); /* what the bus returned is no gate */
    assert_int_equal(s->cpu->eip, CODE + 0x201);
    print_frames(s);
    expect(s, 2, nested_eips + 1);
    scene_destroy(s);
}

static void walk_and_escape(const char *what) {
    (void)what;
    walk(current);
    siglongjmp(current->escape, 1);
}

static __attribute__((noinline)) void touch_nothing(struct scene *s) {
    volatile int *nothing = (volatile int *)(s->cpu->model); /* NULL here */
    *nothing = 0;
}

static void a_monitor_fault_below_a_callout_sees_every_guest_call(void **state) {
    (void)state;
    struct scene *s = scene_create();
    s->in_callout = touch_nothing;
    rf_crash_hook = walk_and_escape;
    put_nested(s, 0x8e, 0xc0);
    if (!sigsetjmp(s->escape, 1)) {
        bt_run(s->bt);
        fail();
    }
    print_frames(s);
    int hook = find(s, "walk_and_escape"), fault = find(s, "touch_nothing");
    assert_true(hook >= 0 && fault > hook);
    assert_true(find(s, "bt_stub_callout_returning") > fault);
    expect(s, 3, nested_eips);
    scene_destroy(s);
}

/* A pointer of the monitor's that emitted code follows is bad: translated code faults where only a
 * bug can make it fault. STI polls for interrupts after itself, so the fault is the next
 * instruction's. */
static void a_fault_in_translated_code_sees_every_guest_call(void **state) {
    (void)state;
    struct scene *s = scene_create();
    const u32 eips[] = {CODE + 0x202, CODE + 0x100, CODE + 1};
    rf_crash_hook = walk_and_escape;
    put_nested(s, 0xfb, 0x90); /* sti; nop */
    bt_hot(s->cpu)->sti_poll = 8;
    if (!sigsetjmp(s->escape, 1)) {
        bt_run(s->bt);
        fail();
    }
    print_frames(s);
    assert_string_equal(s->frame[1].name, "walk_and_escape");
    expect(s, 3, eips);
    scene_destroy(s);
}

static void a_second_translator_has_its_own_frames(void **state) {
    struct scene *first = scene_create();
    a_callout_sees_every_guest_call(state);
    scene_destroy(first);
}

static void callouts_and_return_misses_are_counted(void **state) {
    (void)state;
    struct scene *s = scene_create();
    s->in_callout = walk;
    put_nested(s, 0x8e, 0xc0);
    PUT(s, CODE + 0x100, 0xe8, 0xfb, 0, 0, 0, 0x83, 0x04, 0x24, 0, 0xc3); /* add [esp],0; ret */
    run_to_halt(s);
    const struct bt_counters *c = bt_counters(s->bt);
    assert_int_equal(c->return_misses, 0);
    assert_int_equal(c->callouts_by_kind[BT_CALLOUT_load_es], 1);
    assert_true(c->callouts > c->callouts_by_kind[BT_CALLOUT_load_es]);
    PUT(s, CODE + 0x400, 0x68, 6, 0, 1, 0, 0xc3); /* push CODE+6; ret: nothing to pair with */
    s->cpu->eip = CODE + 0x400;
    s->cpu->gpr[R_ESP] = STACK_TOP;
    run_to_halt(s);
    assert_int_equal(bt_counters(s->bt)->return_misses, 1);
    scene_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_callout_sees_every_guest_call),
        cmocka_unit_test(deep_recursion_shows_one_frame_per_call),
        cmocka_unit_test(a_callout_that_does_not_return_shows_the_callers),
        cmocka_unit_test(a_monitor_fault_below_a_callout_sees_every_guest_call),
        cmocka_unit_test(a_fault_in_translated_code_sees_every_guest_call),
        cmocka_unit_test(a_second_translator_has_its_own_frames),
        cmocka_unit_test(callouts_and_return_misses_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
