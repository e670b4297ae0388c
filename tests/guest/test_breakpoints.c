/*
 * Breakpoints in DR0-DR3 in all their kinds, and what belongs to them: RF, DR6, DR7's enables and
 * general detect, CR4.DE, MOV SS, task switches, INT1. SDM volume 3B, chapter 17 "Debug, Branch
 * Profile, TSC", sections 17.2 and 17.3; volume 3A, section 6.8.3.
 * Expected: execution breaks before the instruction, with RF clear in the pushed flags, and not
 * where RF is set; data and ports behind the instruction, by every byte an operand touches, x87 and
 * SSE operands and pushed frames as well; MOV SS hides the next instruction and holds its own back.
 */
#include "guest.h"

enum { BD = 0x2000, BS = 0x4000, BT = 0x8000, GD = 0x2000, DR7_FIXED = 0x400 };
enum { EXECUTE, WRITES, PORTS, ACCESSES };
enum { LEN1, LEN2, LEN8, LEN4 };
#define CR4_DE 8u

static struct hit { u32 eip, dr6, dr7, eflags, cs; } hit[16];
static u32 hits;
static bool clears_dr6;

#define READ(reg)                                                                                  \
    __extension__({                                                                                \
        u32 v_;                                                                                    \
        __asm__ volatile("mov %%" reg ",%0" : "=r"(v_));                                           \
        v_;                                                                                        \
    })
#define WRITE(reg, value) __asm__ volatile("mov %0,%%" reg ::"r"((u32)(value)))

static bool on_debug(struct frame *f) {
    if (f->vector != V_DB)
        return false;
    struct hit *h = &hit[hits++ % 16];
    *h = (struct hit){f->eip, READ("dr6"), READ("dr7"), f->eflags, f->cs};
    if (clears_dr6)
        WRITE("dr6", 0xffff0ff0);
    /* Faults would come again; a trap's RF only hides breakpoints for one instruction. */
    if (h->dr6 & 0xf)
        f->eflags |= F_RF;
    return hits < 200;
}

static void arm(u32 n, const void *address, u32 kind, u32 length, bool global) {
    switch (n) {
    case 0:
        WRITE("dr0", address);
        break;
    case 1:
        WRITE("dr1", address);
        break;
    case 2:
        WRITE("dr2", address);
        break;
    default:
        WRITE("dr3", address);
        break;
    }
    u32 dr7 = READ("dr7") & ~(0xfu << (16 + 4 * n));
    WRITE("dr7", dr7 | (global ? 2u : 1u) << (2 * n) | (kind | length << 2) << (16 + 4 * n));
}
static void disarm(void) {
    WRITE("dr7", DR7_FIXED);
    WRITE("dr6", 0xffff0ff0);
    hits = 0;
    clears_dr6 = true;
}

/* ---- Execution ---- */

CODE(marked, "nop; .globl m0\nm0: nop; .globl m1\nm1: inc %eax; .globl m2\nm2: nop; .globl m3\n"
             "m3: inc %eax; nop" DONE);
CODE(undefined, "ud2" DONE);
CODE(repeated, "rep stosl; .globl after_rep\nafter_rep: nop" DONE);
extern const u8 m0[], m1[], m2[], m3[], after_rep[];

static void execution(u32 ring) {
    static const u8 *const at[4] = {m0, m1, m2, m3};
    disarm();
    for (u32 n = 0; n < 4; n++)
        arm(n, at[n], EXECUTE, LEN1, n & 1);
    RUNS(ring, marked);
    EQ(hits, 4);
    for (u32 n = 0; n < 4; n++) {
        EQ(hit[n].eip, at[n]);
        EQ(hit[n].dr6 & 0xe00f, 1u << n);
        EQ(hit[n].eflags & F_RF, 0);
    }
    hits = 0;
    WRITE("dr7", READ("dr7") & ~0xffu); /* none enabled */
    RUNS(ring, marked);
    EQ(hits, 0);

    /* IRET with RF set passes the breakpoint at its target, once; a fault there keeps RF. */
    disarm();
    arm(0, marked, EXECUTE, LEN1, true);
    arm(1, undefined, EXECUTE, LEN1, true);
    RUNS(ring, marked);
    EQ(hits, 1);
    reset_run(ring);
    in.eflags |= F_RF;
    RUNS(ring, marked);
    EQ(hits, 1);
    reset_run(ring);
    in.eflags |= F_RF;
    EQ(run(ring, undefined), V_UD);
    EQ(hits, 1);
    EQ(trap.eflags & F_RF, F_RF);
}

static void repetition(u32 ring) {
    if (is_tcg()) /* breaks at each element */
        return;
    disarm();
    arm(0, repeated, EXECUTE, LEN1, true);
    arm(1, scratch + 4, WRITES, LEN4, true);
    reset_run(ring);
    in.edi = SCRATCH;
    in.ecx = 4;
    RUNS(ring, repeated);
    EQ(hits, 2); /* the instruction once, not per element */
    EQ(hit[0].eip, repeated);
    EQ(hit[0].dr6 & 0xf, 1);
    EQ(hit[1].eip, repeated);
    EQ(hit[1].dr6 & 0xf, 2);
    EQ(hit[1].eflags & F_RF, F_RF);
    EQ(trap.ecx, 0);
}

/* ---- Data ---- */

CODE(stores, "movl $1,scratch+64; .globl w1\nw1: movb $1,scratch+67; .globl w2\nw2: movw "
             "$1,scratch+62; mov scratch+64,%eax; .globl w3\nw3: incl scratch+65; .globl w4\nw4:"
             "pushl scratch+66; .globl w5\nw5: pop %eax" DONE);
CODE(floats,
     "fninit; fldpi; fstpt scratch+64; .globl f1\nf1: fld1; fstpl scratch+64; fstpl "
     "scratch+72; .globl f2\nf2: movups %xmm0,scratch+60; .globl f3\nf3: movss "
     "%xmm0,scratch+72; .globl f4\nf4: movlps %xmm0,scratch+64; fnstenv scratch+52;"
     ".globl f5\nf5: fxsave scratch; .globl f6\nf6: movq scratch+72,%mm0; emms; fninit" DONE);
CODE(descriptor_store, "sgdt scratch+62; .globl d1\nd1: nop" DONE);
extern const u8 w1[], w2[], w3[], w4[], w5[], f1[], f2[], f3[], f4[], f5[], f6[], d1[];

static void expect(const u8 *const *at, u32 count) {
    EQ(hits, count);
    for (u32 i = 0; i < count; i++) {
        EQ(hit[i].eip, at[i]);
        EQ(hit[i].dr6 & 0xe00f, 1);
    }
    hits = 0;
}

static void data(u32 ring) {
    static const u8 *const on_write[] = {w1, w2, w4};
    static const u8 *const on_access[] = {w1, w2, w3, w4, w5};
    disarm();
    arm(0, scratch + 66, WRITES, LEN2, false);
    RUNS(ring, stores);
    expect(on_write, 3);
    arm(0, scratch + 66, ACCESSES, LEN2, false);
    RUNS(ring, stores);
    expect(on_access, 5);
    WRITE("dr6", 0xffff0ff0 | BS); /* stays: only software clears it */
    clears_dr6 = false;
    arm(0, scratch + 67, WRITES, LEN1, false);
    RUNS(ring, stores);
    EQ(hit[0].dr6 & 0xe00f, BS | 1);
}

static void float_data(u32 ring) {
    static const u8 *const on_write[] = {f1, f2, f3, f4, f5, f6};
    disarm();
    arm(0, scratch + 72, WRITES, LEN4, true);
    RUNS(ring, floats);
    expect(on_write, 6);
    arm(0, scratch + 66, WRITES, LEN2, true);
    RUNS(ring, descriptor_store);
    EQ(hits, 1);
    EQ(hit[0].eip, d1);
}

/* ---- Ports and the extensions that CR4.DE switches on ---- */

CODE(ports, "out %al,$0x80; .globl p1\np1: in $0x80,%al; .globl p2\np2: out %al,$0x84; mov $2,%ecx;"
            "mov $0x80,%edx; mov $scratch,%esi; .globl p3\np3: rep outsb; .globl p4\np4: nop" DONE);
CODE(dr4, "mov %dr4,%eax; mov %dr6,%ebx; mov %dr5,%ecx; mov %dr7,%edx" DONE);
extern const u8 p1[], p2[], p3[], p4[];

static void extensions(void) {
    static const u8 *const at[] = {p1, p2, p3, p4};
    u32 cr4 = read_cr4();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        disarm();
        write_cr4(cr4 | CR4_DE);
        arm(0, (void *)0x80, PORTS, LEN1, true);
        reset_run(ring);
        in.eflags |= F_IOPL;
        RUNS(ring, ports);
        if (is_tcg()) /* has none for strings */
            hits = 0;
        else
            expect(at, 4);
        WRITE("dr7", DR7_FIXED);
        write_cr4(cr4 & ~CR4_DE);
    }
    RUNS(0, dr4);
    EQ(trap.eax, trap.ebx);
    EQ(trap.ecx, trap.edx);
    write_cr4(cr4 | CR4_DE);
    EQ(run(0, dr4), V_UD);
    write_cr4(cr4);
}

CODE(detected, "mov %eax,%dr7; .globl gd_at\ngd_at: mov %dr0,%ebx; mov %ebx,%dr1" DONE);
CODE(reads_dr0, "mov %dr0,%eax" DONE);
extern const u8 gd_at[];

static void general_detect(void) {
    if (is_tcg()) /* does not detect */
        return;
    disarm();
    reset_run(0);
    in.eax = DR7_FIXED | GD;
    RUNS(0, detected);
    EQ(hits, 1); /* the handler's own accesses are free: GD is clear */
    EQ(hit[0].eip, gd_at);
    EQ(hit[0].dr6 & 0xe00f, BD);
    EQ(hit[0].dr7 & GD, 0);
    FAULTS(3, reads_dr0, V_GP, 0);
}

/* ---- Stack segments ---- */

u16 stack_selector;
CODE(loads_ss, "mov %ss,%eax; mov %eax,%ss; .globl ss1\nss1: nop; nop" DONE);
CODE(loads_ss_watched, "mov stack_selector,%ss; nop; .globl ss2\nss2: nop" DONE);
CODE(loads_ss_then_int, "mov stack_selector,%ss; int $0x80");
extern const u8 ss1[], ss2[];

static void stack_segments(u32 ring) {
    static const u8 *const held[] = {ss2};
    if (is_tcg()) /* knows nothing of it */
        return;
    stack_selector = ring ? USER_DATA : KERNEL_DATA;
    disarm();
    arm(0, ss1, EXECUTE, LEN1, true);
    RUNS(ring, loads_ss);
    EQ(hits, 0);
    disarm();
    arm(0, &stack_selector, ACCESSES, LEN2, true);
    RUNS(ring, loads_ss_watched);
    expect(held, 1);
    /* The handler of INT meets the exception: CVE-2018-8897. */
    RUNS(ring, loads_ss_then_int);
    EQ(hits, 1);
    EQ(hit[0].eip, (u32)trap_stubs + 16 * V_DONE);
    EQ(hit[0].cs, KERNEL_CODE);
}

CODE(only_done, DONE);

/* What a trap pushes is written data as well, and the handler starts with the #DB. */
static void frames(void) {
    if (is_tcg()) /* has no breakpoints there */
        return;
    disarm();
    RUNS(3, only_done); /* sets tss.esp0 */
    arm(0, (void *)(tss.esp0 - 4), WRITES, LEN4, true);
    RUNS(3, only_done);
    EQ(hits, 1);
    EQ(hit[0].eip, (u32)trap_stubs + 16 * V_DONE);
    EQ(hit[0].dr6 & 0xf, 1);
}

/* ---- Task switches, INT1 ---- */

struct tss other_task __attribute__((aligned(4096)));
u32 other_stack[256];
__asm__(".text\n.globl other_code\nother_code: nop; iret");
extern const u8 other_code[];
CODE(calls_task, "lcall $0x40,$0; clts" DONE);
CODE(int1, ".byte 0xf1; .globl behind_int1\nbehind_int1: nop" DONE);
extern const u8 behind_int1[];

static void task_switch(void) {
    if (is_tcg()) /* looks at no T bit */
        return;
    disarm();
    memset(&other_task, 0, offsetof(struct tss, bitmap));
    other_task.eip = (u32)other_code;
    other_task.esp = (u32)other_stack + sizeof other_stack;
    other_task.eflags = F_FIXED;
    other_task.cs = KERNEL_CODE;
    other_task.ss = other_task.ds = other_task.es = other_task.fs = other_task.gs = KERNEL_DATA;
    other_task.cr3 = tss.cr3 = read_cr3();
    other_task.trace = 1;
    EQ(gdt_set(FREE_GDT, descriptor((u32)&other_task, 0x67, 0x89, 0)), 0x40);
    arm(0, m0, EXECUTE, LEN1, false);
    arm(1, m0, EXECUTE, LEN1, true);
    RUNS(0, calls_task);
    EQ(hits, 1);
    EQ(hit[0].eip, other_code);
    EQ(hit[0].dr6 & 0xe00f, BT);
    EQ(hit[0].dr7 & 0xff, 8); /* the local enable is gone */
    gdt_set(FREE_GDT, 0);
}

static void interrupt_1(u32 ring) {
    if (is_tcg()) /* #UD */
        return;
    disarm();
    RUNS(ring, int1);
    EQ(hits, 1);
    EQ(hit[0].eip, behind_int1);
    EQ(hit[0].dr6 & 0xe00f, 0);
    EQ(hit[0].cs & 3, ring);
}

void test(void) {
    u32 cr4 = read_cr4();
    trap_hook = on_debug;
    write_cr4(cr4 | CR4_OSFXSR);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        execution(ring);
        repetition(ring);
        data(ring);
        float_data(ring);
        stack_segments(ring);
        interrupt_1(ring);
    }
    extensions();
    general_detect();
    frames();
    task_switch();
    disarm();
    trap_hook = NULL;
    write_cr4(cr4);
}
