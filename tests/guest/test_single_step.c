/*
 * Single steps by TF in the cases beyond plain instructions: INT n, SYSENTER, faults, REP strings,
 * HLT, a TF that POPF sets in front of what leaves the ring, and beside breakpoints. SDM volume 3B,
 * section 17.3.1.4 "Single-Step Exception Condition"; volume 3A, table 6-2.
 * Expected: INT n saves TF and its handler runs free; SYSENTER keeps TF, so that its target is
 * stepped; a fault saves TF and traps no step; elements of REP strings trap with RF set but the
 * last; a step and a data breakpoint are one #DB; a step goes before a breakpoint at the next
 * instruction.
 */
#include "guest.h"

enum { BS = 0x4000, MSR_CS = 0x174, MSR_ESP, MSR_EIP };

static struct step { u32 eip, dr6, eflags, cs; } step[16];
static u32 steps, stop_at;

static bool on_debug(struct frame *f) {
    u32 dr6;
    if (f->vector != V_DB)
        return false;
    __asm__ volatile("mov %%dr6,%0; mov %1,%%dr6" : "=&r"(dr6) : "r"(0xffff0ff0));
    step[steps++ % 16] = (struct step){f->eip, dr6, f->eflags, f->cs};
    if (stop_at == f->eip)
        f->eflags &= ~(u32)F_TF;
    if ((dr6 & 0xf) && !(dr6 & BS))
        f->eflags |= F_RF;
    return steps < 100;
}

static void begin(u32 ring) {
    steps = stop_at = 0;
    reset_run(ring);
    in.eflags |= F_TF;
}

CODE(into_int, "nop; .globl i1\ni1: int $0x80");
CODE(into_fault, "nop; .globl u1\nu1: ud2");
CODE(not_taken, "into; .globl n1\nn1: cpuid; .globl n2\nn2: nop" DONE);
CODE(strings, "rep movsb; .globl r1\nr1: nop" DONE);
CODE(sets_tf_then_int, "pushf; orl $0x100,(%esp); popf; int $0x80");
CODE(sets_tf_then_fault, "pushf; orl $0x100,(%esp); popf; .globl t1\nt1: ud2");
CODE(sets_tf_then_store,
     "pushf; orl $0x100,(%esp); popf; movl $1,scratch+64; .globl t2\nt2: nop" DONE);
CODE(watched, "movl $1,scratch+64; .globl b1\nb1: nop; .globl b2\nb2: nop" DONE);
CODE(halts, "hlt; .globl h1\nh1: nop" DONE);
CODE(caller, "mov %esp,%ecx; mov $s_back,%edx; sysenter; ud2; .globl s_back\ns_back: nop" DONE);
CODE(entry, "nop; .globl s1\ns1: sysexit");
extern const u8 i1[], u1[], n1[], n2[], r1[], t1[], t2[], b1[], b2[], h1[], s1[], s_back[];
u32 entry_stack[256];

static void transfers(u32 ring) {
    begin(ring);
    RUNS(ring, into_int);
    EQ(steps, 1); /* in front of the INT, and none in its handler */
    EQ(step[0].eip, i1);
    EQ(trap.eflags & F_TF, F_TF);
    begin(ring);
    EQ(run(ring, into_fault), V_UD);
    EQ(steps, 1);
    EQ(trap.eip, u1);
    EQ(trap.eflags & F_TF, F_TF);
    begin(ring);
    RUNS(ring, not_taken);
    EQ(steps, 3);
    EQ(step[0].eip, n1);
    EQ(step[1].eip, n2);
}

/* TF is set by the program itself, which may run untranslated. */
static void own_flag(u32 ring) {
    begin(ring);
    in.eflags &= ~(u32)F_TF;
    RUNS(ring, sets_tf_then_int);
    EQ(steps, 0);
    EQ(trap.eflags & F_TF, F_TF);
    begin(ring);
    in.eflags &= ~(u32)F_TF;
    EQ(run(ring, sets_tf_then_fault), V_UD);
    EQ(steps, 0);
    EQ(trap.eip, t1);
    EQ(trap.eflags & F_TF, F_TF);
    begin(ring);
    in.eflags &= ~(u32)F_TF;
    RUNS(ring, sets_tf_then_store);
    EQ(steps, 2);
    EQ(step[0].eip, t2);
    EQ(step[0].dr6 & 0xe00f, BS);
}

static void repetition(u32 ring) {
    begin(ring);
    in.esi = SCRATCH;
    in.edi = SCRATCH + 64;
    in.ecx = 3;
    RUNS(ring, strings);
    EQ(steps, 4);
    for (u32 i = 0; i < 3; i++) {
        EQ(step[i].eip, i < 2 ? strings : r1);
        if (!is_tcg()) /* leaves RF clear */
            EQ(step[i].eflags & F_RF, i < 2 ? F_RF : 0);
    }
}

static void beside_breakpoints(u32 ring) {
    __asm__ volatile("mov %0,%%dr0; mov %1,%%dr1" ::"r"(scratch + 64), "r"(b1));
    __asm__ volatile("mov %0,%%dr7" ::"r"(0x400 | 2 | 8 | 1 << 16 | 3 << 18));
    begin(ring);
    RUNS(ring, watched);
    EQ(steps, 4);
    EQ(step[0].eip, b1);
    EQ(step[0].dr6 & 0xe00f, BS | 1);
    EQ(step[1].eip, b1); /* and then the breakpoint */
    EQ(step[1].dr6 & 0xe00f, 2);
    EQ(step[2].eip, b2);
    EQ(step[2].dr6 & 0xe00f, BS);
    __asm__ volatile("mov %0,%%dr7" ::"r"(0x400));
}

static void system_call(void) {
    if (!(cpuid(1).edx & 1 << 11))
        return;
    wrmsr(MSR_CS, KERNEL_CODE);
    wrmsr(MSR_ESP, (u32)entry_stack + sizeof entry_stack);
    wrmsr(MSR_EIP, (u32)entry);
    begin(3);
    stop_at = (u32)s_back;
    RUNS(3, caller);
    EQ(steps, 5); /* two MOVs, SYSENTER, NOP, SYSEXIT */
    EQ(step[2].eip, entry);
    EQ(step[2].cs, KERNEL_CODE);
    EQ(step[2].eflags & F_TF, F_TF);
    EQ(step[3].eip, s1);
    EQ(step[4].eip, s_back);
    EQ(step[4].cs, USER_CODE);
    wrmsr(MSR_CS, 0);
}

void test(void) {
    trap_hook = on_debug;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        transfers(ring);
        own_flag(ring);
        repetition(ring);
        if (!is_tcg()) /* breaks in the wrong order */
            beside_breakpoints(ring);
    }
    system_call();
    if (!is_tcg()) { /* stays there */
        begin(0);
        RUNS(0, halts); /* the trap ends it */
        EQ(steps, 2);
        EQ(step[0].eip, h1);
    }
    trap_hook = NULL;
}
