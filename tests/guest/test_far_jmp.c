/*
 * Far JMP loads CS and EIP: direct and through memory; to a conforming segment CPL stays. A far
 * jump never changes the ring. SDM volume 2A, "JMP", "Far Jumps in Protected Mode".
 * Expected: CS as pushed afterwards; #GP(selector) to another ring's segment, to data, to null;
 * #NP(selector) to a segment that is not present; a call gate jumps to its own target.
 */
#include "guest.h"

struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) far;

CODE(landed, "mov %cs,%eax; mov $0x600d,%ebx" DONE);
CODE(direct0, "ljmp $8,$landed");
CODE(direct3, "ljmp $0x1b,$landed");
CODE(indirect, "ljmp *far" DONE);

static void jump(u32 ring, u32 selector, u32 vector, u32 expected) {
    far.offset = (u32)landed;
    far.selector = (u16)selector;
    EQ(run(ring, indirect), vector);
    if (vector == V_DONE) {
        EQ(trap.eax, expected);
        EQ(trap.ebx, 0x600d);
    } else {
        EQ(trap.error, expected);
        EQ(trap.eip, indirect);
    }
}

void test(void) {
    u16 conforming = gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0x9e, 12));
    u16 absent = gdt_set(FREE_GDT + 1, descriptor(0, 0xfffff, 0x7a, 12));
    u16 gate3 = gdt_set(FREE_GDT + 2, gate((u32)landed, USER_CODE & ~3, 0xec));
    u16 gate0 = gdt_set(FREE_GDT + 3, gate((u32)landed, KERNEL_CODE, 0xec));
    u16 based = gdt_set(FREE_GDT + 4, descriptor(0x1000, 0xfffff, 0xfa, 12));
    RUNS(0, direct0);
    EQ(trap.eax, KERNEL_CODE);
    RUNS(3, direct3);
    EQ(trap.eax, USER_CODE);
    jump(0, KERNEL_CODE, V_DONE, KERNEL_CODE);
    jump(3, USER_CODE, V_DONE, USER_CODE);
    jump(3, USER_CODE & ~3u, V_DONE, USER_CODE); /* RPL of CS becomes CPL */
    jump(0, USER_CODE, V_GP, USER_CODE & ~3u);
    jump(3, KERNEL_CODE, V_GP, KERNEL_CODE);
    jump(0, KERNEL_CODE | 3, V_GP, KERNEL_CODE);
    jump(0, KERNEL_DATA, V_GP, KERNEL_DATA);
    jump(0, 0, V_GP, 0);
    jump(3, 0, V_GP, 0);
    jump(3, conforming, V_DONE, conforming | 3);
    jump(0, conforming, V_DONE, conforming);
    jump(3, absent, V_NP, absent & ~3u);
    jump(3, gate3, V_DONE, USER_CODE);
    jump(0, gate0, V_DONE, KERNEL_CODE);
    jump(3, gate0, V_GP, KERNEL_CODE); /* a jump through a gate cannot change the ring */
    far.selector = based;
    far.offset = (u32)landed - 0x1000;
    RUNS(3, indirect);
    EQ(trap.eax, based);
    EQ(trap.eip, (u32)trap.eip);
    CHECK(trap.eip < (u32)landed && trap.eip > (u32)landed - 0x1000);
    for (u32 i = 0; i < 5; i++)
        gdt_set(FREE_GDT + i, 0);
}
