/*
 * LAR, LSL, VERR and VERW on every type of descriptor, segment and system, at every CPL, RPL and
 * DPL, present or not; ARPL on all pairs. SDM volume 2A, "LAR", table 3-53, "LSL", table 3-64;
 * volume 2C, "VERR/VERW"; volume 2A, "ARPL".
 * Expected: what a model of those tables says; ZF=0 leaves the destination alone; no presence
 * check.
 *
 * ROUNDS: 2
 */
#include "rings.h"

CODE(queries, "mov %ecx,%esi; mov $0x12345678,%eax; mov %eax,%ebx; lar %ecx,%eax; setz %dl;"
              "lsl %ecx,%ebx; setz %dh; verr %si; setz %cl; verw %si; setz %ch" DONE);
CODE(arpls, "arpl %cx,%ax; setz %dl; mov %eax,%ebx; mov %edi,-4(%esp); arpl %cx,-4(%esp); "
            "setz %dh; mov -4(%esp),%edi" DONE);

/* Bit n: type n of a system descriptor is one LAR (LSL) knows. */
enum { LAR_KNOWS = 0x1a3e, LSL_KNOWS = 0x0a0e };

static void query(u32 cpl, u32 rpl, u32 dpl, u32 type, bool segment, bool present) {
    u32 access = (present ? 0x80 : 0) | dpl << 5 | (segment ? 0x10 : 0) | type;
    gdt_set(FREE_GDT, descriptor(0x12345000, 0x5a321, (u8)access, type & 1 ? 12 : 4));
    reset_at(cpl);
    in.ecx = FREE_GDT << 3 | rpl;
    EQ(run_at(cpl, queries), V_DONE);
    bool code = segment && (type & 8), conforming = segment && (type & 12) == 12;
    bool visible = conforming || (cpl <= dpl && rpl <= dpl);
    bool lar = visible && (segment || (LAR_KNOWS >> type & 1));
    bool lsl = visible && (segment || (LSL_KNOWS >> type & 1));
    u32 limit = type & 1 ? 0x5a321fff : 0x5a321;
    EQ(trap.edx & 0x101, lar | lsl << 8);
    /* Bits 16 to 19 are undefined. */
    EQ(trap.eax & 0xfff0ffff, lar ? access << 8 | (type & 1 ? 0xc00000 : 0x400000) : 0x12305678);
    EQ(trap.ebx, lsl ? limit : 0x12345678);
    bool readable = segment && (!code || (type & 2)), writable = segment && !code && (type & 2);
    EQ(trap.ecx & 0x101, (visible && readable) | (visible && writable) << 8);
}

void test(void) {
    rings_prepare();
    for (u32 i = 0; i < 4 * 4 * 4 * 16 * 4; i++)
        query(i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6 & 15, i >> 10 & 1, i >> 11);
    for (u32 cpl = 0; cpl < 4; cpl++)
        for (u32 i = 0; i < 16; i++) {
            u32 to = 0xabcd1230 | (i & 3), from = 0x77770040 | i >> 2;
            bool raise = (i & 3) < i >> 2;
            reset_at(cpl);
            in.eax = in.edi = to;
            in.ecx = from;
            EQ(run_at(cpl, arpls), V_DONE);
            EQ(trap.edx & 0x101, raise ? 0x101 : 0);
            EQ(trap.ebx, raise ? (to & ~3u) | i >> 2 : to);
            EQ(trap.edi, trap.ebx);
        }
    gdt_set(FREE_GDT, 0);
    rings_remove();
}
