/*
 * The page-fault matrix: read, write and fetch, at both rings, against all combinations of P, W,
 * U in the directory and in the table, with WP on and off. SDM volume 3A, section 4.6 "Access
 * Rights" and 4.7 "Page-Fault Exceptions".
 * Expected: allowed exactly when both levels allow it (WP=0: ring 0 writes anywhere present);
 * otherwise #PF with error code P|W|U of the access and CR2 at the first byte; EIP at the access.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %eax,(%ecx)" DONE);
CODE(modify, "incl (%ecx)" DONE);
CODE(push_it, "lea 4(%ecx),%esp; push %eax; mov $user_stack+8192,%esp" DONE);
CODE(jump_it, "jmp *%ecx");

static void expect(u32 ring, const u8 *code, bool allowed, u32 error) {
    reset_run(ring);
    in.ecx = AREA + 0x120;
    u32 vector = run(ring, code);
    EQ(vector, allowed ? V_DONE : V_PF);
    if (!allowed && vector == V_PF) {
        EQ(trap.error, error);
        EQ(trap_cr2, AREA + 0x120);
    }
}

static void combination(u32 directory, u32 table, bool wp) {
    u32 both = directory & table;
    bool present = both & PT_P, writable = both & PT_W, user = both & PT_U;
    *pde(AREA) = (*pde(AREA) & ~7u) | directory;
    *(u32 *)((*pde(AREA) & ~0xfffu) + (AREA >> 12 & 1023) * 4) = SCRATCH | table;
    write_cr3(read_cr3());
    u32 p = present ? 1 : 0;
    expect(0, load, present, p);
    expect(3, load, present && user, p | 4);
    expect(0, store, present && (writable || !wp), p | 2);
    expect(3, store, present && user && writable, p | 6);
    if (!is_tcg() || present) { /* QEMU reports the read of a read-modify-write */
        expect(0, modify, present && (writable || !wp), p | 2);
        if (!is_tcg() || user)
            expect(3, modify, present && user && writable, p | 6);
    }
    expect(3, push_it, present && user && writable, p | 6);
    scratch[0x120] = 0xcd, scratch[0x121] = 0x80;
    expect(0, jump_it, present, p);
    expect(3, jump_it, present && user, p | 4);
}

void test(void) {
    paging_prepare();
    pte(AREA);
    paging_on();
    for (u32 wp = 0; wp < 2; wp++) {
        write_cr0((read_cr0() & ~CR0_WP) | (wp ? CR0_WP : 0));
        for (u32 bits = 0; bits < 64; bits++)
            combination(bits & 7, bits >> 3, wp);
    }
    paging_off();
}
