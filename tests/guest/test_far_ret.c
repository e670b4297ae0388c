/*
 * Far RET to the same ring and outwards, with and without an immediate; segment registers that
 * the outer ring may not hold become null. SDM volume 2B, "RET".
 * Expected: CS, EIP, ESP (and SS, ESP of the outer ring); #GP(selector) inwards; DS = 0 after a
 * return to ring 3 with a ring 0 data selector in DS.
 */
#include "guest.h"

CODE(target, "mov %cs,%eax; mov %esp,%ebx; mov %ds,%edx" DONE);
CODE(same, "mov %esp,%ebp; push %ecx; push $target; lret");
CODE(same_imm, "mov %esp,%ebp; push $1; push $2; push %ecx; push $target; lret $8");
CODE(outward, "push $0x23; push $user_stack+4096; push %ecx; push $target; lret");
CODE(outward_imm,
     "push $0x23; push $user_stack+4096; push $7; push $7; push %ecx; push $target; lret $8");
CODE(ret_16, "mov %esp,%ebp; pushw %cx; pushw $0x1234; .byte 0x66; lret");

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 form = 0; form < 2; form++) {
            reset_run(ring);
            in.ecx = ring ? USER_CODE : KERNEL_CODE;
            RUNS(ring, form ? same_imm : same);
            EQ(trap.eax, ring ? USER_CODE : KERNEL_CODE);
            EQ(trap.ebx, trap.ebp);
        }
    for (u32 form = 0; form < 2; form++) {
        reset_run(0);
        in.ecx = USER_CODE;
        RUNS(0, form ? outward_imm : outward);
        EQ(trap.eax, USER_CODE);
        EQ(trap.ebx, (u32)user_stack + 4096 + (form ? 8 : 0));
        EQ(trap.edx, 0); /* DS held a ring 0 selector */
        EQ(trap.es, 0);
        EQ(trap.fs, 0);
        EQ(trap.gs, 0);
        EQ(trap.ss, USER_DATA);
        reset_run(0);
        in.ecx = USER_CODE;
        in.ds = in.es = in.fs = in.gs = USER_DATA;
        RUNS(0, form ? outward_imm : outward);
        EQ(trap.edx, USER_DATA);
        EQ(trap.gs, USER_DATA);
    }
    reset_run(3);
    in.ecx = KERNEL_CODE;
    FAULTS(3, same, V_GP, KERNEL_CODE);
    reset_run(3);
    in.ecx = 0;
    FAULTS(3, same, V_GP, 0);
    reset_run(0);
    in.ecx = KERNEL_DATA;
    FAULTS(0, same, V_GP, KERNEL_DATA);
}
