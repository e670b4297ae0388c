/*
 * IRET in its 32-bit forms: same ring, to ring 3, refused inwards, with flags filtered by the
 * ring it came from. SDM volume 2A, "IRET/IRETD".
 * Expected: EIP, CS, EFLAGS (and ESP, SS) as popped; at ring 3 IF and IOPL cannot be changed with
 * IOPL 0; #GP(selector) for bad CS, #NP for absent CS, #GP/#SS for bad SS; ring-0 data selectors
 * become null when leaving to ring 3.
 */
#include "guest.h"

CODE(target, "mov %cs,%eax; mov %esp,%ebx; pushf; pop %edx; mov %ds,%esi" DONE);
/* ECX = CS, EDX = flags */
CODE(same, "mov %esp,%ebp; push %edx; push %ecx; push $target; .globl same_iret\nsame_iret: iret");
/* EDI = SS, ESI = ESP */
CODE(outward,
     "push %edi; push %esi; push %edx; push %ecx; push $target; .globl out_iret\nout_iret: iret");
extern const u8 same_iret[], out_iret[];
CODE(same_16, "mov %esp,%ebp; pushw %dx; pushw %cx; pushw $0x7000; .byte 0x66; iret");
CODE(nested, "pushf; orl $0x4000,(%esp); popf; push $2; push %ecx; push $target; iret");

static u32 out(u32 cs, u32 ss, u32 flags) {
    reset_run(0);
    in.ecx = cs;
    in.edx = flags;
    in.edi = ss;
    in.esi = (u32)user_stack + 4096;
    return run(0, outward);
}

void test(void) {
    u16 absent = gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0x7a, 12));
    u16 absent_data = gdt_set(FREE_GDT + 1, descriptor(0, 0xfffff, 0x72, 12));
    for (u32 ring = 0; ring <= 3; ring += 3) {
        reset_run(ring);
        in.ecx = ring ? USER_CODE : KERNEL_CODE;
        in.edx = F_FIXED | F_CF | F_IOPL | F_ID;
        RUNS(ring, same);
        EQ(trap.eax, ring ? USER_CODE : KERNEL_CODE);
        EQ(trap.ebx, trap.ebp);
        EQ(trap.edx & ~(u32)F_IF, F_FIXED | F_CF | F_ID | (ring ? 0 : F_IOPL));
    }
    reset_run(3);
    in.ecx = USER_CODE;
    in.eflags |= F_IF;
    in.edx = F_FIXED;
    RUNS(3, same);
    EQ(trap.edx & F_IF, F_IF);

    EQ(out(USER_CODE, USER_DATA, F_FIXED | F_IF | F_ZF), V_DONE);
    EQ(trap.eax, USER_CODE);
    EQ(trap.ebx, (u32)user_stack + 4096);
    EQ(trap.edx, F_FIXED | F_IF | F_ZF);
    EQ(trap.esi, 0);
    EQ(trap.ss, USER_DATA);
    EQ(out(USER_CODE, USER_DATA, F_FIXED | F_IOPL), V_DONE);
    EQ(trap.edx, F_FIXED | F_IOPL);

    EQ(out(USER_CODE, KERNEL_DATA, F_FIXED), V_GP);
    EQ(trap.error, KERNEL_DATA);
    EQ(trap.eip, out_iret);
    EQ(trap.cs, KERNEL_CODE);
    EQ(out(USER_CODE, 0, F_FIXED), V_GP);
    EQ(trap.error, 0);
    EQ(out(USER_CODE, absent_data, F_FIXED), is_tcg() ? V_NP : V_SS); /* QEMU: the wrong vector */
    EQ(trap.error, absent_data & ~3u);
    EQ(out(absent, USER_DATA, F_FIXED), V_NP);
    EQ(trap.error, absent & ~3u);
    EQ(out(USER_DATA, USER_DATA, F_FIXED), V_GP);
    EQ(trap.error, USER_DATA & ~3u);
    EQ(out(0, USER_DATA, F_FIXED), V_GP);
    EQ(trap.error, 0);

    reset_run(3);
    in.ecx = KERNEL_CODE;
    in.edx = F_FIXED;
    FAULTS(3, same, V_GP, KERNEL_CODE);
    EQ(trap.eip, same_iret);
    reset_run(3);
    in.ecx = USER_CODE;
    in.edx = F_FIXED | F_VM; /* only ring 0 may enter V86 mode: the bit is ignored */
    if (!is_tcg()) {         /* QEMU enters V86 mode */
        RUNS(3, same);
        EQ(trap.edx & ~(u32)F_IF, F_FIXED);
    }
    in.eflags = 0;
    gdt_set(FREE_GDT, 0);
    gdt_set(FREE_GDT + 1, 0);
}
