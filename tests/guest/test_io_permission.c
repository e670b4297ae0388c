/*
 * Port access at ring 3: by IOPL, then by the TSS's bitmap, in all widths; string I/O alike. SDM
 * volume 1, section 19.5 "Protected-Mode I/O".
 * Expected: allowed when IOPL = 3 or all bits of the ports touched are clear; otherwise #GP(0); a
 * bitmap beyond the TSS limit counts as ones; ring 0 is never checked.
 */
#include "guest.h"

CODE(in1, "in %dx,%al" DONE);
CODE(in2, "in %dx,%ax" DONE);
CODE(in4, "in %dx,%eax" DONE);
CODE(out1, "out %al,%dx" DONE);
CODE(ins1, "mov $scratch,%edi; cld; mov $3,%ecx; rep insb" DONE);
CODE(in_imm, "in $0x61,%al" DONE);

static void expect(const u8 *code, u32 port, u32 flags, bool allowed) {
    reset_run(3);
    in.edx = port;
    in.eflags |= flags;
    EQ(run(3, code), allowed ? V_DONE : V_GP);
    if (!allowed)
        EQ(trap.error, 0);
}

void test(void) {
    memset(tss.bitmap, 0xff, sizeof tss.bitmap);
    tss.iomap = sizeof tss;
    expect(in1, 0x61, 0, false);
    expect(in1, 0x61, 0x1000, false);
    expect(in1, 0x61, F_IOPL, true);
    expect(ins1, 0x61, F_IOPL, true);
    tss.iomap = offsetof(struct tss, bitmap);
    expect(in1, 0x61, 0, false);
    tss.bitmap[0x61 / 8] &= ~(1 << (0x61 & 7));
    tss.bitmap[0xeb / 8] &= ~(1 << (0xeb & 7));
    expect(in1, 0x61, 0, true);
    expect(in_imm, 0, 0, true);
    expect(in1, 0x60, 0, false);
    expect(in1, 0x62, 0, false);
    expect(in2, 0x61, 0, false);
    expect(in2, 0x60, 0, false);
    expect(ins1, 0x61, 0, true);
    expect(out1, 0xeb, 0, true);
    expect(out1, 0xec, 0, false);
    tss.bitmap[0xe8 / 8] = 0;
    expect(in4, 0xe8, 0, true);
    expect(in4, 0xec, 0, true);
    expect(in4, 0xed, 0, false);
    expect(in4, 0xe7, 0, false);
    tss.bitmap[0xf0 / 8] &= ~1;
    expect(in4, 0xed, 0, true); /* across a byte of the bitmap */
    RUNS(0, in_imm);
    /* A TSS limit that cuts the bitmap off: two bytes are always read. */
    gdt_set(FREE_GDT, descriptor((u32)&tss, offsetof(struct tss, bitmap) + 0x61 / 8, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(FREE_GDT << 3));
    expect(in1, 0x61, 0, false);
    expect(in1, 0xeb, 0, false);
    gdt_set(FREE_GDT, descriptor((u32)&tss, offsetof(struct tss, bitmap) + 0x61 / 8 + 1, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(FREE_GDT << 3));
    expect(in1, 0x61, 0, true);
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
    gdt_set(FREE_GDT, 0);
    tss.iomap = sizeof tss;
    memset(tss.bitmap, 0, sizeof tss.bitmap);
}
