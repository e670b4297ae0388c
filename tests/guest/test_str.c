/*
 * STR shows the guest's task register at both rings. SDM volume 2B, "STR".
 * Expected: selector 28h in a register (upper half zero) and in two bytes of memory; the TSS
 * descriptor in the guest's GDT is busy (type 0Bh); LTR of a busy TSS raises #GP(selector).
 */
#include "guest.h"

u32 word;
CODE(to_register, "mov $-1,%eax; str %eax" DONE);
CODE(to_memory, "str word" DONE);
CODE(load, "ltr %cx" DONE);

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, to_register);
        EQ(trap.eax, TSS_SEL);
        word = 0xa5a5a5a5;
        RUNS(ring, to_memory);
        EQ(word, 0xa5a50000u | TSS_SEL);
    }
    EQ((u32)(gdt[TSS_SEL >> 3] >> 40) & 0xff, 0x8b);
    reset_run(0);
    in.ecx = TSS_SEL;
    FAULTS(0, load, V_GP, TSS_SEL);
    reset_run(0);
    in.ecx = 0;
    if (!is_tcg()) /* QEMU loads a null TR */
        FAULTS(0, load, V_GP, 0);
    in.eflags = 0;
    reset_run(3);
    in.ecx = TSS_SEL;
    FAULTS(3, load, V_GP, 0);
}
