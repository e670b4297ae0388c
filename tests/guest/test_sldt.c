/*
 * SLDT shows the selector that LLDT loaded, at both rings; a null LDT reads as 0. To a register
 * of 32 bits the upper half is zero; to memory it stores two bytes. SDM volume 2B, "SLDT".
 * Expected: 40h with an LDT loaded, 0 without, LLDT of a code segment #GP(selector).
 */
#include "guest.h"

u64 ldt[4];
u32 word;

CODE(to_register, "mov $-1,%eax; sldt %eax" DONE);
CODE(to_register16, "mov $-1,%eax; sldt %ax" DONE);
CODE(to_memory, "sldt word" DONE);
CODE(load, "lldt %cx" DONE);

static void expect(u32 selector) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, to_register);
        EQ(trap.eax, selector);
        RUNS(ring, to_register16);
        EQ(trap.eax, 0xffff0000u | selector);
        word = 0xa5a5a5a5;
        RUNS(ring, to_memory);
        EQ(word, 0xa5a50000u | selector);
    }
}

void test(void) {
    expect(0);
    u16 selector = gdt_set(FREE_GDT, descriptor((u32)ldt, sizeof ldt - 1, 0x82, 0));
    reset_run(0);
    in.ecx = selector;
    RUNS(0, load);
    expect(selector);
    reset_run(0);
    in.ecx = KERNEL_CODE;
    FAULTS(0, load, V_GP, KERNEL_CODE);
    reset_run(0);
    in.ecx = 0;
    RUNS(0, load);
    expect(0);
    reset_run(3);
    in.ecx = 0;
    FAULTS(3, load, V_GP, 0);
    gdt_set(FREE_GDT, 0);
}
