/*
 * test_hot_paths.c: what the translator calls on every system call and interrupt. Checks that
 * round trips restore the state; prints what each costs (a measurement, not a gate).
 */
#include "rc_fixture.h"

#include <stdio.h>
#include <time.h>

#define ROUNDS 2000000u

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static void report(const char *what, double start_ns, double calls) {
    printf("  %-52s %6.1f ns\n", what, (now_ns() - start_ns) / calls);
}

static struct cpu *boot(void **state, unsigned ring) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    put_gate(cpu->mmu, IDT + 8 * 0x80, 15, 3, KCODE, HANDLER, 0);
    put_gate(cpu->mmu, IDT + 8 * 0x20, 14, 0, KCODE, HANDLER, 0);
    enable_paging(cpu);
    enter_ring(cpu, ring);
    cpu->eflags |= F_IF;
    return cpu;
}

static void round_trip(struct cpu *cpu, u8 vector, enum rc_event event, const char *what) {
    u32 eip = cpu->eip;
    struct cpu before;
    bool ok = rc_deliver(cpu, vector, event, false, 0, eip) && rc_iret(cpu, 4, 0);
    before = snapshot(cpu);
    double start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++)
        ok &= rc_deliver(cpu, vector, event, false, 0, eip) && rc_iret(cpu, 4, 0);
    report(what, start, 2.0 * ROUNDS);
    assert_true(ok);
    assert_unchanged(cpu, &before);
}

static void system_call_through_a_trap_gate_and_iret(void **state) {
    struct cpu *cpu = boot(state, 3);
    round_trip(cpu, 0x80, RC_SOFTWARE, "INT 80h from ring 3, IRET to ring 3: each");
}

static void same_ring_interrupt_and_iret(void **state) {
    struct cpu *cpu = boot(state, 0);
    round_trip(cpu, 0x20, RC_EXTERNAL, "interrupt in ring 0, IRET to ring 0: each");
}

static void delivery_alone(void **state) {
    struct cpu *cpu = boot(state, 3);
    struct segment cs = cpu->seg[SEG_CS], ss = cpu->seg[SEG_SS];
    bool ok = true;
    double start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++) {
        ok &= rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002);
        cpu->seg[SEG_CS] = cs;
        cpu->seg[SEG_SS] = ss;
        cpu->gpr[R_ESP] = STACK3;
        cpu->cpl = 3;
    }
    report("INT 80h from ring 3 alone", start, ROUNDS);
    assert_true(ok);
}

static void segment_load(void **state) {
    struct cpu *cpu = boot(state, 3);
    bool ok = true;
    double start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++)
        ok &= rc_load_segment(cpu, SEG_FS, UDATA);
    report("MOV FS, unchanged selector", start, ROUNDS);
    start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++)
        ok &= rc_load_segment(cpu, SEG_GS, i & 1 ? 0 : UDATA);
    report("MOV GS, null and not null in turn", start, ROUNDS);
    assert_true(ok);
}

static void fast_system_call(void **state) {
    struct cpu *cpu = boot(state, 3);
    cpu->sysenter_esp = STACK0;
    bool ok = true;
    double start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++)
        ok &= rc_sysenter(cpu) && rc_sysexit(cpu);
    report("SYSENTER, SYSEXIT: each", start, 2.0 * ROUNDS);
    assert_true(ok);
    assert_int_equal(cpu->cpl, 3);
}

static void push_and_pop(void **state) {
    struct cpu *cpu = boot(state, 3);
    u32 value = 7;
    bool ok = true;
    double start = now_ns();
    for (u32 i = 0; i < ROUNDS; i++)
        ok &= rc_push(cpu, value + 1, 4) && rc_pop(cpu, &value, 4);
    report("PUSH, POP: each", start, 2.0 * ROUNDS);
    assert_true(ok);
    assert_int_equal(value, 7 + ROUNDS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(system_call_through_a_trap_gate_and_iret),
        TEST(same_ring_interrupt_and_iret),
        TEST(delivery_alone),
        TEST(segment_load),
        TEST(fast_system_call),
        TEST(push_and_pop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
