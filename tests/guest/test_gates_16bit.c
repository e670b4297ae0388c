/*
 * 16-bit interrupt and trap gates in a 32-bit kernel: frames of words, on the same ring's stack and
 * from ring 3, with error codes; 16 bits of the handler's offset count; IRET with operand size 16
 * goes back. SDM volume 3A, sections 6.11 "IDT Descriptors" and 6.12.1; volume 2, "INT n", "IRET".
 * Expected: FLAGS, CS, IP (and SP, SS) as words; upper halves of EIP and ESP lost, as the manual
 * warns, so that the code here lies below 64 KiB and its stack in a segment with a base.
 */
#include "guest.h"

enum { HANDLER = 0x7400, CALLER = 0x7600, STACK = FREE_GDT, DATA_BASE = 0x20000 };
u16 g16_frame[8];
u32 g16_esp, g16_flags;
/* Copies eight words of its stack, drops an error code if EBX says so, and goes back. */
CODE(handler16, "mov %esp,%ss:g16_esp; pushf; popl %ss:g16_flags; pushal; lea 32(%esp),%esi;"
                "mov $g16_frame,%edi; push %es; push %ds; push %ss; pop %ds; mov $0x10,%eax; mov "
                "%eax,%es; mov $8,%ecx; cld; rep movsw; pop %ds; pop %es; popal; add %ebx,%esp; "
                ".byte 0x66; iret");
CODE(caller16, "int $0x90; mov $0x600d,%ecx" DONE "nop; nop; nop");
/* #NP: its handler makes DS loadable by clearing EAX; */
CODE(faulting16, "1: mov %eax,%ds; mov $0x600d,%ecx" DONE);

static void check_frame(u32 first, u32 ip, u32 cs) {
    EQ(g16_frame[first], ip);
    EQ(g16_frame[first + 1], cs);
    EQ(g16_frame[first + 2] & ~(u32)F_IF, F_FIXED | F_CF);
}

void test(void) {
    memcpy((void *)HANDLER, handler16, 128);
    memcpy((void *)CALLER, caller16, 16);
    u16 stack = gdt_set(STACK, descriptor(DATA_BASE, 0xffff, 0xf2, 4));
    for (u32 trap_gate = 0; trap_gate < 2; trap_gate++) {
        /* QEMU takes all 32 bits. */
        idt_set(0x90,
                gate((is_tcg() ? 0 : 0xdead0000) | HANDLER, KERNEL_CODE, (u8)(0xe6 | trap_gate)));
        /* Same ring: three words. */
        reset_run(0);
        in.eflags |= F_CF | F_IF;
        RUNS(0, (const u8 *)CALLER);
        EQ(trap.ecx, 0x600d);
        check_frame(0, CALLER + 2, KERNEL_CODE);
        EQ(trap.esp, g16_esp + 6);
        EQ(g16_flags & F_IF, trap_gate ? F_IF : 0);
        EQ(trap.eflags & (F_IF | F_CF), F_IF | F_CF);
        /* From ring 3: five words on a 32-bit inner stack. */
        reset_run(3);
        in.eflags |= F_CF;
        in.ss = stack;
        in.esp = 0x8000;
        RUNS(3, (const u8 *)CALLER);
        EQ(trap.ecx, 0x600d);
        check_frame(0, CALLER + 2, USER_CODE);
        EQ(g16_frame[3], 0x8000);
        EQ(g16_frame[4], stack);
        EQ(trap.esp, 0x8000);
        EQ(g16_esp, tss.esp0 - 10);
    }
    idt_set(0x90, default_gate(0x90));
    /* An error code is a word, too. */
    gdt_set(STACK + 1, descriptor(0, 0xfffff, 0x72, 12));
    memcpy((void *)CALLER, faulting16, 16);
    memcpy((void *)(HANDLER + 2), handler16, 128);
    *(volatile u16 *)HANDLER = 0xc031; /* XOR EAX,EAX */
    idt_set(V_NP, gate(HANDLER, KERNEL_CODE, 0x86));
    for (u32 ring = 0; ring <= 3; ring += 3) {
        reset_run(ring);
        in.eflags |= F_CF;
        in.eax = (STACK + 1) << 3 | 3;
        in.ebx = 2;
        if (ring) {
            in.ss = stack;
            in.esp = 0x8000;
        }
        RUNS(ring, (const u8 *)CALLER);
        EQ(trap.ecx, 0x600d);
        EQ(g16_frame[0], (STACK + 1) << 3);
        EQ(g16_frame[1], CALLER);
        EQ(g16_frame[2], ring ? USER_CODE : KERNEL_CODE);
    }
    idt_set(V_NP, default_gate(V_NP));
    gdt_set(STACK, 0);
    gdt_set(STACK + 1, 0);
}
