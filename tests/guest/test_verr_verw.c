/*
 * VERR and VERW: ZF tells whether a segment is readable or writable at max(CPL, RPL). SDM volume
 * 2C, "VERR/VERW-Verify a Segment for Reading or Writing".
 * Expected: bit 0 of the table = VERR's ZF, bit 1 = VERW's, at ring 0 and at ring 3.
 */
#include "guest.h"

CODE(verify, "verr %cx; setz %al; verw %cx; setz %ah" DONE);
CODE(verify_memory, "push %ecx; verr (%esp); setz %al; verw (%esp); setz %ah; pop %ecx" DONE);

static void expect(u32 ring, u32 selector, u32 bits) {
    for (u32 form = 0; form < 2; form++) {
        reset_run(ring);
        in.ecx = selector;
        RUNS(ring, form ? verify_memory : verify);
        EQ(trap.eax & 0x101, (bits & 1) | (bits >> 1) << 8);
    }
}

void test(void) {
    u16 read_only = gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0xf0, 12));
    u16 execute_only = gdt_set(FREE_GDT + 1, descriptor(0, 0xfffff, 0xf8, 12));
    u16 conforming = gdt_set(FREE_GDT + 2, descriptor(0, 0xfffff, 0x9e, 12));
    expect(0, KERNEL_DATA, 3);
    expect(0, KERNEL_CODE, 1);
    expect(0, USER_DATA, 3);
    expect(0, read_only, 1);
    expect(0, execute_only, 0);
    expect(0, TSS_SEL, 0);
    expect(0, 0, 0);
    expect(0, GDT_ENTRIES * 8, 0);
    expect(0, KERNEL_DATA | 3, 0);
    expect(3, KERNEL_DATA, 0);
    expect(3, KERNEL_CODE, 0);
    expect(3, USER_DATA, 3);
    expect(3, USER_CODE, 1);
    expect(3, read_only, 1);
    expect(3, execute_only, 0);
    expect(3, conforming, 1);
    for (u32 i = 0; i < 3; i++)
        gdt_set(FREE_GDT + i, 0);
}
