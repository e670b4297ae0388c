/*
 * LDS, LES, LFS, LGS and LSS: 16:16 and 16:32 pointers in memory, null and bad selectors, pointers
 * that cross a limit or a page, and what a fault leaves. SDM volume 2A, "LDS/LES/LFS/LGS/LSS".
 * Expected: both registers change together or not at all; #GP(selector), #NP, #SS for LSS, #GP(0)
 * for LSS with null; LSS shadows nothing and changes the stack in one piece.
 */
#include "rings.h"

u32 fp_pointer[4];
enum { ABSENT = FREE_GDT, READ_ONLY, EXECUTE_ONLY, SMALL, PAGES = 0x30000000 };
CODE(p_ds, "lds %es:(%ecx),%eax; mov %ds,%ebx" DONE);
CODE(p_es, "les (%ecx),%eax; mov %es,%ebx" DONE);
CODE(p_fs, "lfs (%ecx),%eax; mov %fs,%ebx" DONE);
CODE(p_gs, "lgs (%ecx),%eax; mov %gs,%ebx" DONE);
CODE(p_ss, "lss (%ecx),%eax; mov %ss,%ebx" DONE);
CODE(w_ds, ".byte 0x66; lds %es:(%ecx),%eax; mov %ds,%ebx" DONE);
CODE(w_es, ".byte 0x66; les (%ecx),%eax; mov %es,%ebx" DONE);
CODE(w_fs, ".byte 0x66; lfs (%ecx),%eax; mov %fs,%ebx" DONE);
CODE(w_gs, ".byte 0x66; lgs (%ecx),%eax; mov %gs,%ebx" DONE);
CODE(w_ss, ".byte 0x66; lss (%ecx),%eax; mov %ss,%ebx" DONE);
CODE(self, "lfs (%eax),%eax; mov %fs,%ebx" DONE);
CODE(stack,
     "mov %esp,%ebp; lss (%ecx),%esp; push $0x77; pop %edx; mov %esp,%ebx; mov %ebp,%esp" DONE);
CODE(through_fs, "lgs %fs:(%ecx),%eax; mov %gs,%ebx" DONE);
static const u8 *const forms[2][5] = {{p_ds, p_es, p_fs, p_gs, p_ss},
                                      {w_ds, w_es, w_fs, w_gs, w_ss}};

static void store(u32 at, u32 wide, u32 offset, u16 selector) {
    u8 *p = (u8 *)at;
    memcpy(p, &offset, wide ? 4 : 2);
    memcpy(p + (wide ? 4 : 2), &selector, 2);
}

static void expect(u32 ring, u32 seg, u16 selector, u32 vector, u32 error) {
    for (u32 narrow = 0; narrow < 2; narrow++) {
        store((u32)fp_pointer + 1, !narrow, 0x89abcdef, selector);
        reset_at(ring);
        in.eax = 0x11112222;
        in.ecx = (u32)fp_pointer + 1;
        EQ(run_at(ring, forms[narrow][seg]), vector);
        if (vector == V_DONE) {
            EQ(trap.eax, narrow ? 0x1111cdef : 0x89abcdef);
            EQ(trap.ebx & 0xffff, selector);
            continue;
        }
        EQ(trap.error, error);
        EQ(trap.eax, 0x11112222);
        EQ(trap.eip, forms[narrow][seg]);
        const u32 now[5] = {trap.ds, trap.es, trap.fs, trap.gs, trap.ss};
        EQ(now[seg] & 0xffff, ring_data(ring));
    }
}

static void selectors(u32 ring) {
    u16 good = ring_data(ring);
    for (u32 seg = 0; seg < 5; seg++) {
        bool ss = seg == 4;
        expect(ring, seg, good, V_DONE, 0);
        if (ss) {
            expect(ring, seg, 0, V_GP, 0);
            expect(ring, seg, 3, V_GP, 0);
        } else {
            expect(ring, seg, 0, V_DONE, 0);
            expect(ring, seg, 2, V_DONE, 0);
        }
        expect(ring, seg, ABSENT << 3 | 3, ss && ring != 3 ? V_GP : ss ? V_SS : V_NP, ABSENT << 3);
        expect(ring, seg, EXECUTE_ONLY << 3 | 3, V_GP, EXECUTE_ONLY << 3);
        if (ss)
            expect(ring, seg, READ_ONLY << 3 | 3, V_GP, READ_ONLY << 3);
        else
            expect(ring, seg, READ_ONLY << 3 | 3, V_DONE, 0);
        expect(ring, seg, GDT_ENTRIES * 8, V_GP, GDT_ENTRIES * 8);
        expect(ring, seg, TSS_SEL, V_GP, TSS_SEL);
        expect(ring, seg, 0xc, V_GP, 0xc);
        if (ring)
            expect(ring, seg, KERNEL_DATA, V_GP, KERNEL_DATA);
    }
}

static void memory(void) {
    /* Offset and selector on two pages: the fault names the second, nothing has changed. */
    paging_prepare();
    pte(PAGES);
    paging_on();
    map(PAGES, SCRATCH, PT_P | PT_W | PT_U);
    for (u32 n = 0; n < 6; n++) {
        map(PAGES + 4096, 0, 0);
        reset_run(3);
        in.eax = 0x11112222;
        in.ecx = PAGES + 4095 - n;
        EQ(run(3, p_gs), n < 5 ? V_PF : V_GP);
        if (n < 5)
            EQ(trap_cr2, PAGES + 4096);
        EQ(trap.eax, 0x11112222);
        map(PAGES + 4096, SCRATCH + 4096, PT_P | PT_W | PT_U);
        store(SCRATCH + 4095 - n, 1, 0x55667788, USER_DATA);
        reset_run(3);
        in.ecx = PAGES + 4095 - n;
        RUNS(3, p_gs);
        EQ(trap.eax, 0x55667788);
        memset((void *)(SCRATCH + 4095 - n), 0xff, 6);
    }
    paging_off();
    /* The same across a limit. */
    u16 small = gdt_set(SMALL, descriptor(SCRATCH, 0xff, 0xf2, 4));
    store(SCRATCH + 0xfa, 1, 0x55667788, USER_DATA);
    for (u32 n = 0xfa; n < 0x102 && !is_tcg(); n++) {
        reset_run(3);
        in.fs = small;
        in.ecx = n;
        EQ(run(3, through_fs), n == 0xfa ? V_DONE : V_GP);
        EQ(trap.error, 0);
    }
    /* The destination may be part of the address; LSS to ESP switches stacks in one instruction. */
    store((u32)fp_pointer, 1, 0xcafe, USER_DATA);
    reset_run(3);
    in.eax = (u32)fp_pointer;
    RUNS(3, self);
    EQ(trap.eax, 0xcafe);
    store((u32)fp_pointer, 1, SCRATCH + 0x800, USER_DATA);
    reset_run(3);
    in.ecx = (u32)fp_pointer;
    RUNS(3, stack);
    EQ(trap.ebx, SCRATCH + 0x800);
    EQ(trap.edx, 0x77);
    EQ(*(u32 *)(scratch + 0x7fc), 0x77);
}

void test(void) {
    rings_prepare();
    gdt_set(ABSENT, descriptor(0, 0xfffff, 0x72, 12));
    gdt_set(READ_ONLY, descriptor(0, 0xfffff, 0xf0, 12));
    gdt_set(EXECUTE_ONLY, descriptor(0, 0xfffff, 0xf8, 12));
    for (u32 ring = 0; ring < 4; ring++)
        selectors(ring);
    memory();
    for (u32 i = 0; i < 4; i++)
        gdt_set(FREE_GDT + i, 0);
    rings_remove();
}
