/*
 * LSL: limit of a segment in bytes, granularity applied; same visibility rules as LAR, and gates
 * have no limit. SDM volume 2A, "LSL-Load Segment Limit".
 * Expected: per case below; otherwise ZF=0 and the destination unchanged.
 */
#include "guest.h"

CODE(limit, "mov $0x12345678,%eax; lsl %ecx,%eax; setz %dl" DONE);
CODE(limit16, "mov $0x12345678,%eax; lsl %cx,%ax; setz %dl" DONE);

static void expect(u32 ring, u32 selector, bool visible, u32 value) {
    reset_run(ring);
    in.ecx = selector;
    RUNS(ring, limit);
    EQ(trap.edx & 1, visible);
    EQ(trap.eax, visible ? value : 0x12345678);
}

void test(void) {
    u16 small = gdt_set(FREE_GDT, descriptor(0x1000, 0x12345, 0xf2, 4));
    u16 pages = gdt_set(FREE_GDT + 1, descriptor(0, 0x10, 0xf2, 12));
    u16 call_gate = gdt_set(FREE_GDT + 2, gate(0, KERNEL_CODE, 0xec));
    expect(0, KERNEL_CODE, true, 0xffffffff);
    expect(3, USER_DATA, true, 0xffffffff);
    expect(3, small, true, 0x12345);
    expect(3, pages, true, 0x10fff);
    expect(0, TSS_SEL, true, sizeof tss - 1);
    expect(0, call_gate, false, 0);
    expect(3, KERNEL_DATA, false, 0);
    expect(0, 0, false, 0);
    expect(0, GDT_ENTRIES * 8, false, 0);
    reset_run(3);
    in.ecx = small;
    RUNS(3, limit16);
    EQ(trap.eax, 0x12342345);
    for (u32 i = 0; i < 3; i++)
        gdt_set(FREE_GDT + i, 0);
}
