/*
 * INT n, INT3 and INTO go through the guest's IDT with its privilege rules. SDM volume 2A, "INT
 * n/INTO/ INT3/INT1"; volume 3A, section 6.12 "Exception and Interrupt Handling".
 * Expected: from ring 3 a gate of DPL 3 enters at ring 0 on the TSS's stack with the old SS:ESP,
 * flags, CS:EIP pushed; a gate of DPL 0 raises #GP(vector * 8 + 2); so does a vector above the
 * IDT limit; a gate that is not present raises #NP; an interrupt gate clears IF, a trap gate
 * keeps it.
 */
#include "guest.h"

CODE(int_80, "int $0x80");
CODE(int_90, "int $0x90; .globl after_90\nafter_90:" DONE);
CODE(int_3, "int3; .globl after_int3\nafter_int3:" DONE);
CODE(int_cd03, ".byte 0xcd,3; .globl after_cd03\nafter_cd03:" DONE);
CODE(into_taken, "mov $0x7fffffff,%eax; add $1,%eax; into; .globl after_into\nafter_into:" DONE);
CODE(into_not, "xor %eax,%eax; into; mov $5,%eax" DONE);
extern const u8 after_90[], after_int3[], after_cd03[], after_into[];

/* Stores what the handler sees: EFLAGS and ESP inside it. */
u32 inside_eflags, inside_esp, inside_ss;
CODE(handler,
     "pushf; popl %ss:inside_eflags; mov %esp,%ss:inside_esp; mov %ss,%ss:inside_ss; iret");

void test(void) {
    RUNS(3, int_80);
    EQ(trap.eip, int_80 + 2);
    EQ(trap.cs, USER_CODE);
    EQ(trap.ss, USER_DATA);
    EQ(trap.esp, USER_STACK_TOP);
    RUNS(0, int_80);
    EQ(trap.cs, KERNEL_CODE);

    FAULTS(3, int_90, V_GP, 0x90 * 8 + 2);
    EQ(trap.eip, int_90);
    EQ(run(0, int_90), 0x90);
    EQ(trap.eip, after_90);
    EQ(run(3, int_3), V_BP);
    EQ(trap.eip, after_int3);
    EQ(run(3, int_cd03), V_BP);
    EQ(trap.eip, after_cd03);
    EQ(run(3, into_taken), V_OF);
    EQ(trap.eip, after_into);
    RUNS(3, into_not);
    EQ(trap.eax, 5);

    idt_set(0x90, default_gate(0x90) & ~(0x80ull << 40));
    FAULTS(0, int_90, V_NP, 0x90 * 8 + 2);
    idt_set(0x90, 0);
    FAULTS(0, int_90, V_GP, 0x90 * 8 + 2);
    idt_set(0x90, gate((u32)handler, 0, 0xee));
    FAULTS(0, int_90, V_GP, 0);
    idt_set(0x90, gate((u32)handler, KERNEL_DATA, 0xee));
    FAULTS(0, int_90, V_GP, KERNEL_DATA);
    idt_set(0x90, default_gate(0x90));
    load_idt_limit(0x90 * 8 - 1);
    FAULTS(0, int_90, V_GP, 0x90 * 8 + 2);
    load_idt_limit(0x90 * 8 + 7);
    EQ(run(0, int_90), 0x90);
    load_idt_limit(sizeof idt - 1);

    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 type = 0xee; type <= 0xef; type++) {
            idt_set(0x90, gate((u32)handler, KERNEL_CODE, (u8)type));
            reset_run(ring);
            in.eflags |= F_IF | F_CF;
            RUNS(ring, int_90);
            EQ(inside_eflags & (F_IF | F_CF), (type & 1) ? F_IF | F_CF : F_CF);
            EQ(inside_ss, KERNEL_DATA);
            if (ring)
                EQ(inside_esp, tss.esp0 - 20);
            EQ(trap.eflags & (F_IF | F_CF), F_IF | F_CF);
        }
    idt_set(0x90, default_gate(0x90));
}
