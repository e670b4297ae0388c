/*
 * LAR: access rights of a descriptor, masked with 00FxFF00h, ZF=1 when the selector is visible at
 * max(CPL, RPL). SDM volume 2A, "LAR-Load Access Rights Byte", table 3-53.
 * Expected: per case below. Invisible or invalid: ZF=0 and the destination unchanged.
 */
#include "guest.h"

CODE(rights, "mov $0x12345678,%eax; lar %ecx,%eax; setz %dl" DONE);

static void expect(u32 ring, u32 selector, bool visible, u32 value) {
    reset_run(ring);
    in.ecx = selector;
    RUNS(ring, rights);
    EQ(trap.edx & 1, visible);
    EQ(trap.eax & ~0x000f0000u, visible ? value : 0x12345678u & ~0x000f0000u);
}

void test(void) {
    u16 call_gate = gdt_set(FREE_GDT, gate(0, KERNEL_CODE, 0x8c));
    u16 interrupt_gate = gdt_set(FREE_GDT + 1, gate(0, KERNEL_CODE, 0x8e));
    u16 absent = gdt_set(FREE_GDT + 2, descriptor(0, 0xfffff, 0x72, 12));
    u16 conforming = gdt_set(FREE_GDT + 3, descriptor(0, 0xfffff, 0x9e, 12));

    expect(0, KERNEL_CODE, true, 0x00c09b00);
    expect(0, KERNEL_DATA, true, 0x00c09300);
    expect(0, USER_CODE, true, 0x00c0fb00);
    expect(0, TSS_SEL, true, 0x00008b00);
    expect(0, call_gate, true, 0x00008c00);
    expect(0, interrupt_gate, false, 0);
    expect(0, absent, true, 0x00c07200);
    expect(0, 0, false, 0);
    expect(0, GDT_ENTRIES * 8, false, 0);
    expect(0, 0xc, false, 0);             /* in a null LDT */
    expect(0, KERNEL_DATA | 3, false, 0); /* RPL above DPL */

    expect(3, KERNEL_CODE, false, 0);
    expect(3, KERNEL_DATA, false, 0);
    expect(3, USER_CODE, true, 0x00c0fb00);
    expect(3, USER_DATA, true, 0x00c0f300);
    expect(3, conforming, true, 0x00c09e00);
    expect(3, TSS_SEL, false, 0);
    for (u32 i = 0; i < 4; i++)
        gdt_set(FREE_GDT + i, 0);
}
