/*
 * A debugger that single-steps a program at ring 3 by setting TF in its saved flags, as ptrace
 * does: through jumps, calls, a page fault that is repaired on the way, system calls, string
 * instructions, POPF that clears TF and POPF that sets it, and loads of SS. SDM volume 3B,
 * section 17.3.1.4 "Single-Step Exception Condition". Expected: one #DB behind every instruction,
 * none behind a load of SS, one per string element; nothing of the program's results changes.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
CODE(program,
     "mov $3,%ecx; .globl p1\np1: xor %eax,%eax; .globl p2\np2: add %ecx,%eax; .globl p3\np3: loop "
     "p2; .globl p4\np4: call 1f; .globl p5\np5: mov %eax,0x30000000; .globl p6\np6: int $0x90;"
     ".globl p7\np7: mov %ss,%edx; .globl p8\np8: mov %edx,%ss; .globl p9\np9: nop; .globl p10\n"
     "p10: pushf; .globl p11\np11: pop %ebx; .globl p12\np12: mov $2,%ecx; .globl p13\np13: rep "
     "stosb; .globl p14\np14: push $2; .globl p15\np15: popf; nop; nop; push $0x102; popf; .globl "
     "p16\np16: nop; .globl p17\np17: cmovz %ebx,%esi; .globl p18\np18:" DONE
     ".globl p19\n1: p19: ret");
extern const u8 p1[], p2[], p3[], p4[], p5[], p6[], p7[], p8[], p9[], p10[], p11[], p12[], p13[],
    p14[], p15[], p16[], p17[], p18[], p19[];
static const u8 *const expected[] = {p1, p2, p3, p2, p3, p2, p3, p4, p19, p5, p6, p8, p10, p11, p12,
                                     p13, p13, p14, p15,
                                     /* POPF itself is still stepped; then nothing until P16's */
                                     NULL, p17, p18};
static bool stepping;
static u32 steps, calls, repaired, seen[40];

static bool debugger(struct frame *f) {
    if (f->vector == 0x90) {
        calls++;
        EQ(f->eflags & F_TF, stepping ? F_TF : 0);
        return true;
    }
    if (f->vector == V_PF) {
        repaired++;
        EQ(f->eip, p5);
        EQ(f->eflags & F_TF, stepping ? F_TF : 0);
        map(AREA, SCRATCH, PT_P | PT_W | PT_U);
        return true;
    }
    if (f->vector != V_DB)
        return false;
    u32 dr6;
    __asm__ volatile("mov %%dr6,%0; mov %1,%%dr6" : "=&r"(dr6) : "r"(0xffff0ff0u));
    EQ(dr6 & 0xe00f, 0x4000);
    EQ(f->cs, USER_CODE);
    if (steps < 40)
        seen[steps] = f->eip;
    steps++;
    return steps < 200;
}

void test(void) {
    paging_prepare();
    pte(AREA);
    paging_on();
    idt_set(0x90, gate((u32)trap_stubs + 16 * 0x90, KERNEL_CODE, 0xee));
    trap_hook = debugger;
    for (u32 pass = 0; pass < 2; pass++) {
        stepping = pass;
        map(AREA, 0, 0);
        steps = calls = repaired = 0;
        reset_run(3);
        in.eflags |= stepping ? F_TF : 0;
        in.edi = SCRATCH + 64;
        RUNS(3, program);
        EQ(calls, 1);
        EQ(repaired, 1);
        EQ(*(u32 *)scratch, 6);
        EQ(trap.ecx, 0);
        EQ(trap.edi, SCRATCH + 66);
        EQ(trap.esp, USER_STACK_TOP);
        if (!stepping) {
            EQ(steps, 2); /* it sets TF itself at the end */
            EQ(seen[0], p17);
            EQ(seen[1], p18);
            continue;
        }
        EQ(trap.ebx & F_TF, F_TF);
        EQ(steps, sizeof expected / sizeof *expected);
        for (u32 i = 0; i < sizeof expected / sizeof *expected; i++)
            if (expected[i])
                EQ(seen[i], expected[i]);
    }
    idt_set(0x90, default_gate(0x90));
    trap_hook = NULL;
    paging_off();
}
