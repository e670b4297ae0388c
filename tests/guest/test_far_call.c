/*
 * Far CALL pushes CS and EIP; through a call gate it enters an inner ring on the TSS's stack and
 * copies parameters. SDM volume 2A, "CALL", "Far Calls in Protected Mode"; volume 3A, section
 * 5.8.4 "Accessing a Code Segment Through a Call Gate".
 * Expected: return address and selector on the stack with the caller's virtual ring; parameters
 * and the outer SS:ESP on the inner stack; #GP(selector) without a gate.
 */
#include "guest.h"

struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) far;

CODE(callee, "mov (%esp),%eax; mov 4(%esp),%ecx; mov %cs,%edx; lret");
CODE(same_ring, "mov %esp,%ebp; lcall *far; .globl after_call\nafter_call: mov %esp,%ebx" DONE);
CODE(callee_16, "movzwl (%esp),%eax; movzwl 2(%esp),%ecx; .byte 0x66; lret");
extern const u8 after_call[];

/* At ring 0 behind the gate: records the frame, then goes back with LRET $8. */
u32 seen[8];
CODE(gate_target, "pushal; mov %ss,%eax; mov %eax,seen; lea 32(%esp),%esi; mov %esp,seen+28;"
                  "mov $0x10,%eax; mov $seen+4,%edi; mov %ds,%ebx; push %es; push %ss; pop %es;"
                  "mov $6,%ecx; cld; rep movsl; pop %es; popal; lret $8");
CODE(through_gate, "push $0x2222; push $0x1111; lcall *far; .globl after_gate\nafter_gate:"
                   "mov %cs,%eax; mov %ss,%ecx; mov %esp,%edx; mov %ds,%ebx" DONE);
extern const u8 after_gate[];

void test(void) {
    far.offset = (u32)callee;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        far.selector = ring ? USER_CODE : KERNEL_CODE;
        RUNS(ring, same_ring);
        EQ(trap.eax, (u32)after_call);
        EQ(trap.ecx & 0xffff, far.selector);
        EQ(trap.edx, far.selector);
        EQ(trap.ebx, trap.ebp);
    }
    far.selector = KERNEL_CODE;
    FAULTS(3, same_ring, V_GP, KERNEL_CODE);
    far.selector = 0;
    FAULTS(3, same_ring, V_GP, 0);
    far.selector = KERNEL_DATA;
    FAULTS(0, same_ring, V_GP, KERNEL_DATA);

    u64 value = gate((u32)gate_target, KERNEL_CODE, 0xec) | 2ull << 32; /* two parameters */
    far.selector = gdt_set(FREE_GDT, value) | 3;
    far.offset = 0xdeadbeef; /* ignored */
    RUNS(3, through_gate);
    EQ(trap.eax, USER_CODE);
    EQ(trap.ecx, USER_DATA);
    EQ(trap.edx, USER_STACK_TOP); /* LRET $8 removed the parameters on both stacks */
    EQ(seen[0], KERNEL_DATA);
    EQ(seen[1], (u32)after_gate);
    EQ(seen[2] & 0xffff, USER_CODE);
    EQ(seen[3], 0x1111);
    EQ(seen[4], 0x2222);
    EQ(seen[5], USER_STACK_TOP - 8);
    EQ(seen[6] & 0xffff, USER_DATA);
    EQ(seen[7], tss.esp0 - 6 * 4 - 32);

    gdt_set(FREE_GDT, gate((u32)gate_target, KERNEL_CODE, 0x8c)); /* DPL 0 */
    FAULTS(3, through_gate, V_GP, FREE_GDT << 3);
    gdt_set(FREE_GDT, gate((u32)gate_target, KERNEL_CODE, 0x6c)); /* not present */
    FAULTS(3, through_gate, V_NP, FREE_GDT << 3);
    gdt_set(FREE_GDT, 0);
}
