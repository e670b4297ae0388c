/*
 * String instructions in all sizes, directions and prefixes, across pages, overlapping, with zero
 * and 16-bit counts, and with page faults in the middle that leave a state to go on from. SDM
 * volume 1, section 7.3.9 "String Operations"; volume 2B, "REP/REPE/REPZ/REPNE/REPNZ".
 * Expected: registers and memory as tabled; at a fault ECX, ESI, EDI name the element that
 * faulted.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
CODE(movsb, "rep movsb" DONE);
CODE(movsw, "rep movsw" DONE);
CODE(movsd, "rep movsl" DONE);
CODE(movs1, "movsl; movsb" DONE);
CODE(stosb, "rep stosb" DONE);
CODE(stosd, "rep stosl" DONE);
CODE(stosw16, "addr16 rep stosw" DONE);
CODE(lodsd, "rep lodsl" DONE);
CODE(scasb, "repne scasb" DONE);
CODE(scasw, "repe scasw" DONE);
CODE(cmpsb, "repe cmpsb" DONE);
CODE(cmpsd, "repne cmpsl" DONE);
CODE(scas_zero, "cmp %eax,%eax; repne scasb; sete %bl" DONE);

static void setup(u32 ring, u32 count, u32 from, u32 to, u32 eax, bool down) {
    reset_run(ring);
    in.ecx = count;
    in.esi = from;
    in.edi = to;
    in.eax = eax;
    if (down)
        in.eflags |= F_DF;
}

static void fill(void) {
    for (u32 i = 0; i < 32768; i++)
        scratch[i] = (u8)(i * 7 + (i >> 8));
}

static void plain(u32 ring) {
    fill();
    setup(ring, 9000, SCRATCH + 1, SCRATCH + 16385, 0, false);
    RUNS(ring, movsb);
    EQ(trap.ecx, 0);
    EQ(trap.esi, SCRATCH + 9001);
    EQ(trap.edi, SCRATCH + 16385 + 9000);
    EQ(memcmp(scratch + 1, scratch + 16385, 9000), 0);
    fill();
    setup(ring, 3000, SCRATCH + 11999, SCRATCH + 28002, 0, true);
    RUNS(ring, movsw);
    EQ(trap.esi, SCRATCH + 11999 - 6000);
    EQ(memcmp(scratch + 6001, scratch + 22004, 6000), 0);
    /* Overlap: one byte is spread forwards. */
    scratch[0] = 0x5e;
    setup(ring, 5000, SCRATCH, SCRATCH + 1, 0, false);
    RUNS(ring, movsb);
    EQ(scratch[5000], 0x5e);
    EQ(scratch[4097], 0x5e);
    fill();
    setup(ring, 1000, SCRATCH + 4090, SCRATCH + 4093, 0, false);
    RUNS(ring, movsd); /* unaligned, across pages, overlapping by less than an element */
    EQ(trap.edi, SCRATCH + 8093);
    setup(ring, 0, SCRATCH, SCRATCH + 1, 0, false);
    RUNS(ring, movsd);
    EQ(trap.esi, SCRATCH);
    setup(ring, 0xffffffff, SCRATCH, SCRATCH + 100, 0, true);
    RUNS(ring, movs1); /* no prefix: the count does not matter */
    EQ(trap.ecx, 0xffffffff);
    EQ(trap.esi, SCRATCH - 5);
    EQ(trap.edi, SCRATCH + 95);
    setup(ring, 2048, 0, SCRATCH + 2, 0xa1b2c3d4, false);
    RUNS(ring, stosd);
    EQ(*(u32 *)(SCRATCH + 2 + 8188), 0xa1b2c3d4);
    setup(ring, 5, 0, SCRATCH + 0x7fff, 0x66, true);
    RUNS(ring, stosb);
    EQ(scratch[0x7ffb], 0x66);
    *(u32 *)(SCRATCH + 40) = 0x44332211;
    setup(ring, 11, SCRATCH, 0, 0, false);
    RUNS(ring, lodsd);
    EQ(trap.eax, 0x44332211);
    setup(ring, 0xffff0003, 0, 0x7100, 0xbeef, false);
    *(volatile u16 *)0x7104 = 0;
    RUNS(ring, stosw16); /* CX counts, DI points */
    EQ(trap.ecx, 0xffff0000);
    EQ(*(volatile u16 *)0x7104, 0xbeef);
}

static void compare(u32 ring) {
    memset(scratch, 0x20, 8192);
    scratch[5000] = 0x21;
    setup(ring, 8000, 0, SCRATCH, 0x21, false);
    RUNS(ring, scasb);
    EQ(trap.edi, SCRATCH + 5001);
    EQ(trap.ecx, 8000 - 5001);
    EQ(trap.eflags & F_ZF, F_ZF);
    setup(ring, 4000, 0, SCRATCH, 0x2020, false);
    RUNS(ring, scasw);
    EQ(trap.edi, SCRATCH + 5002);
    EQ(trap.eflags & (F_ZF | F_CF), F_CF);
    setup(ring, 100, 0, SCRATCH, 0x99, false);
    RUNS(ring, scasb);
    EQ(trap.ecx, 0);
    EQ(trap.eflags & F_ZF, 0);
    memset(scratch + 16384, 0x20, 8192);
    setup(ring, 8192, SCRATCH, SCRATCH + 16384, 0, false);
    RUNS(ring, cmpsb);
    EQ(trap.esi, SCRATCH + 5001);
    EQ(trap.ecx, 8192 - 5001);
    EQ(trap.eflags & (F_ZF | F_CF), 0);
    setup(ring, 100, SCRATCH, SCRATCH + 16384, 0, false);
    RUNS(ring, cmpsd);
    EQ(trap.ecx, 99);
    setup(ring, 0, 0, SCRATCH, 0, false);
    RUNS(ring, scas_zero); /* a count of zero leaves the flags alone */
    EQ(trap.ebx & 1, 1);
}

static void faulting(u32 ring) {
    map(AREA, SCRATCH, PT_P | PT_W | PT_U);
    map(AREA + 4096, SCRATCH + 4096, PT_P | PT_U);
    map(AREA + 8192, 0, 0);
    fill();
    setup(ring, 2000, SCRATCH + 16384, AREA + 4096 - 1000, 0, false);
    EQ(run(ring, movsb), V_PF);
    EQ(trap.error, ring ? 7 : 3);
    EQ(trap_cr2, AREA + 4096);
    EQ(trap.ecx, 1000);
    EQ(trap.esi, SCRATCH + 17384);
    EQ(trap.edi, AREA + 4096);
    EQ(trap.eip, movsb);
    EQ(trap.eflags & F_DF, 0);
    EQ(memcmp(scratch + 4096 - 1000, scratch + 16384, 1000), 0);
    setup(ring, 100, AREA + 8192 - 40, SCRATCH + 16384, 0, false);
    EQ(run(ring, movsd), V_PF);
    EQ(trap.error, ring ? 4 : 0);
    EQ(trap_cr2, AREA + 8192);
    EQ(trap.ecx, 90);
    EQ(trap.esi, AREA + 8192);
    setup(ring, 100, 0, AREA + 8192 + 40, 0x77, true); /* downwards: faults at once */
    EQ(run(ring, stosd), V_PF);
    EQ(trap.ecx, 100);
    EQ(trap_cr2, AREA + 8192 + 40);
    EQ(trap.eflags & F_DF, F_DF);
    setup(ring, 100, AREA + 8192 - 10, SCRATCH, 0, false); /* an element across the edge */
    EQ(run(ring, movsd), V_PF);
    EQ(trap.ecx, 98);
    EQ(trap_cr2, AREA + 8192);
    EQ(trap.esi, AREA + 8192 - 2);
    setup(ring, 8192, 0, AREA + 4096, 0x77777777, false);
    *pte(AREA + 4096) |= PT_W;
    invlpg(AREA + 4096);
    EQ(run(ring, stosd), V_PF);
    EQ(trap.ecx, 8192 - 1024);
    EQ(trap.edi, AREA + 8192);
    EQ(*pte(AREA + 4096) & PT_D, PT_D);
    memset(scratch + 4096, 0x20, 4096);
    setup(ring, 8192, 0, AREA + 4096, 0x21, false);
    EQ(run(ring, scasb), V_PF);
    EQ(trap.ecx, 4096);
    map(AREA, 0, 0);
    map(AREA + 4096, 0, 0);
}

void test(void) {
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            pte(AREA);
            paging_on();
            write_cr0(read_cr0() | CR0_WP);
        }
        for (u32 ring = 0; ring <= 3; ring += 3) {
            plain(ring);
            compare(ring);
            if (paged)
                faulting(ring);
        }
    }
    paging_off();
}
