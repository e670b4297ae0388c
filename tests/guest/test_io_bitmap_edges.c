/*
 * The edges of the TSS's I/O bitmap: the byte behind the last one, port FFFFh, a bitmap that lies
 * inside the TSS, a limit that cuts it off anywhere, a 16-bit TSS, the rings between. SDM volume 1,
 * section 19.5.2 "I/O Permission Bit Map": the processor always reads two bytes.
 * Expected: allowed only when both bytes lie within the limit and the bits are clear.
 */
#include "rings.h"

CODE(in1, "in %dx,%al" DONE);
CODE(in2, "in %dx,%ax" DONE);
CODE(in4, "in %dx,%eax" DONE);
static const u8 *const forms[3] = {in1, in2, in4};
enum { TSS = FREE_GDT, BITMAP = offsetof(struct tss, bitmap) };

static void load(u32 limit, u8 access) {
    gdt_set(TSS, descriptor((u32)&tss, limit, access, 0));
    __asm__ volatile("ltr %w0" ::"r"(TSS << 3));
}
static void expect(u32 ring, u32 iopl, u32 port, u32 size, bool allowed) {
    reset_at(ring);
    in.edx = port;
    in.eflags |= iopl << 12;
    EQ(run_at(ring, forms[size]), allowed ? V_DONE : V_GP);
    EQ(trap.error, 0);
    if (!allowed)
        EQ(trap.eip, forms[size]);
}

void test(void) {
    rings_prepare();
    memset(tss.bitmap, 0, sizeof tss.bitmap);
    tss.iomap = BITMAP;
    tss.bitmap[8192] = 0xff;
    /* All 65,536 ports, and the byte of ones behind. */
    load(BITMAP + 8192, 0x89);
    expect(3, 0, 0xffff, 0, true);
    expect(3, 0, 0xfffe, 1, true);
    expect(3, 0, 0xfffc, 2, true);
    expect(3, 0, 0xffff, 1, false); /* runs into the ones */
    expect(3, 0, 0xfffd, 2, false);
    /* Without that byte the last ports are out of reach. */
    load(BITMAP + 8191, 0x89);
    expect(3, 0, 0xffff, 0, false);
    expect(3, 0, 0xfff8, 0, false);
    expect(3, 0, 0xfff7, 0, true);
    /* Cut off everywhere: port p needs bytes p/8 and p/8+1. */
    for (u32 bytes = 0; bytes < 20; bytes++) {
        load(BITMAP + bytes - 1, 0x89);
        for (u32 port = 0xe0; port < 0xf0; port += 5) {
            /* Ports that nobody has; the bitmap is moved instead of the port. */
            tss.iomap = (u16)(BITMAP - (0xe0 - 0x40) / 8);
            expect(3, 0, port, 0, (port - 0xa0) / 8 + 1 < bytes);
        }
    }
    /* Each bit on its own, for each size. */
    load(BITMAP + 8192, 0x89);
    tss.iomap = BITMAP;
    for (u32 bit = 0xe4; bit < 0xf4; bit++) {
        tss.bitmap[bit / 8] = (u8)(1 << (bit & 7));
        for (u32 port = 0xe8; port < 0xf0; port++)
            for (u32 size = 0; size < 3; size++)
                expect(3, 0, port, size, bit < port || bit >= port + (1u << size));
        tss.bitmap[bit / 8] = 0;
    }
    /* A bitmap at offset 0 of the TSS is what the TSS holds there. */
    tss.iomap = 0;
    expect(3, 0, 0xe8, 0, !(((u8 *)&tss)[0xe8 / 8] & 1));
    /* IOPL before the bitmap, in all rings; ones everywhere. */
    tss.iomap = BITMAP;
    memset(tss.bitmap, 0xff, 64);
    for (u32 ring = 0; ring < 4; ring++)
        for (u32 iopl = 0; iopl < 4; iopl++)
            expect(ring, iopl, 0xe8, 0, ring <= iopl);
    memset(tss.bitmap, 0, 64);
    for (u32 ring = 0; ring < 4; ring++)
        expect(ring, 0, 0xe8, 0, true);
    /* A 16-bit TSS has no bitmap. SS0:SP0 at its 2 and 4 must serve the trap. */
    u16 *narrow = (u16 *)(scratch + 0x100);
    memset(narrow, 0, 256);
    gdt_set(TSS + 1, descriptor(0, 0xfffff, 0x92, 12));
    narrow[1] = 0x7000;
    narrow[2] = KERNEL_DATA;
    gdt_set(TSS, descriptor((u32)narrow, 0xff, 0x81, 0));
    __asm__ volatile("ltr %w0" ::"r"(TSS << 3));
    expect(3, 0, 0xe8, 0, false);
    expect(3, 3, 0xe8, 0, true);
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
    tss.iomap = sizeof tss;
    memset(tss.bitmap, 0, sizeof tss.bitmap);
    gdt_set(TSS, 0);
    gdt_set(TSS + 1, 0);
    rings_remove();
}
