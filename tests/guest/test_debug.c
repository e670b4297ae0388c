/*
 * Debugging: single steps by TF (not through an interrupt gate, one step late after loads of SS,
 * once per string element), breakpoints on execution and data in DR0-DR3, DR6's cause bits. SDM
 * volume 3B, chapter 18 "Debug, Branch Profile, TSC", sections 18.2 and 18.3.
 * Expected: #DB behind every instruction; DR6.BS for steps, DR6.B0 for breakpoints; an
 * instruction breakpoint reports before the instruction and RF lets it pass.
 */
#include "guest.h"

CODE(stepped,
     "nop; .globl s1\ns1: mov $5,%eax; .globl s2\ns2: inc %eax; .globl s3\ns3: jmp 1f; ud2;"
     ".globl s4\n1: s4: nop; .globl s5\ns5:" DONE);
CODE(step_strings, "rep stosb; .globl after_stos\nafter_stos: nop" DONE);
CODE(set_tf, "pushf; orl $0x100,(%esp); popf; .globl tf_first\ntf_first: nop; .globl "
             "tf_second\ntf_second: pushf; andl $~0x100,(%esp);"
             "popf; nop" DONE);
CODE(execute, "mov $1,%eax; .globl break_here\nbreak_here: inc %eax; inc %eax" DONE);
CODE(data, "mov $1,%eax; mov %eax,scratch+64; .globl after_write\nafter_write: mov "
           "scratch+64,%ebx; .globl after_read\n"
           "after_read: nop" DONE);
extern const u8 s1[], s2[], s3[], s4[], s5[], after_stos[], tf_first[], tf_second[], break_here[],
    after_write[], after_read[];

static u32 steps, eips[16], causes[16];
static u32 read_dr6(void) {
    u32 v;
    __asm__ volatile("mov %%dr6,%0" : "=r"(v));
    return v;
}
static void write_dr6(u32 v) {
    __asm__ volatile("mov %0,%%dr6" ::"r"(v));
}
static void write_dr0(u32 v) {
    __asm__ volatile("mov %0,%%dr0" ::"r"(v));
}
static void write_dr7(u32 v) {
    __asm__ volatile("mov %0,%%dr7" ::"r"(v));
}

static bool on_debug(struct frame *f) {
    if (f->vector != V_DB)
        return false;
    if (steps < 16) {
        eips[steps] = f->eip;
        causes[steps] = read_dr6();
    }
    steps++;
    write_dr6(0xffff0ff0);
    if ((causes[steps - 1] & 1) && f->eip == (u32)break_here)
        f->eflags |= F_RF;
    return steps < 200;
}

static void begin(u32 ring, u32 flags) {
    steps = 0;
    write_dr6(0xffff0ff0);
    reset_run(ring);
    in.eflags |= flags;
}

void test(void) {
    trap_hook = on_debug;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        begin(ring, F_TF);
        RUNS(ring, stepped);
        static const u8 *const expected[] = {s1, s2, s3, s4, s5};
        EQ(steps, 5);
        for (u32 i = 0; i < 5; i++) {
            EQ(eips[i], expected[i]);
            EQ(causes[i] & 0x400f, 0x4000);
        }
        EQ(trap.eax, 6);
        begin(ring, F_TF);
        in.ecx = 3;
        in.edi = SCRATCH;
        RUNS(ring, step_strings);
        EQ(eips[0], step_strings);
        EQ(eips[1], step_strings);
        EQ(eips[2], after_stos);
        EQ(trap.ecx, 0);
        begin(ring, 0);
        RUNS(ring, set_tf);
        EQ(eips[0], tf_second);
        CHECK(steps >= 3);

        begin(ring, 0);
        write_dr0((u32)break_here);
        write_dr7(0x402); /* G0, execute */
        RUNS(ring, execute);
        EQ(steps, 1);
        EQ(eips[0], break_here);
        EQ(causes[0] & 0x400f, 1);
        EQ(trap.eax, 3);
        begin(ring, 0);
        write_dr0(SCRATCH + 64);
        write_dr7(0x402 | 1 << 16 | 3 << 18); /* data write, four bytes */
        RUNS(ring, data);
        EQ(steps, 1);
        EQ(eips[0], after_write);
        EQ(causes[0] & 0x400f, 1);
        begin(ring, 0);
        write_dr7(0x402 | 3 << 16 | 3 << 18); /* data read or write */
        RUNS(ring, data);
        EQ(steps, 2);
        EQ(eips[1], after_read);
        write_dr7(0x400);
        write_dr0(0);
    }
    trap_hook = NULL;
}
