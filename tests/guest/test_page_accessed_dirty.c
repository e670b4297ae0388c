/*
 * The processor sets A in both levels on any access and D in the last on a write, never
 * otherwise, and never clears them; software that clears them and flushes sees them set again.
 * SDM volume 3A, section 4.8 "Accessed and Dirty Flags".
 * Expected: bits 5 and 6 after each access as tabled; none after an access that faults.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %eax,(%ecx)" DONE);
CODE(jump_it, "jmp *%ecx");
CODE(cmpxchg, "mov $0x55,%eax; lock cmpxchg %edx,(%ecx)" DONE);

static void clear(u32 flags) {
    *pte(AREA) = SCRATCH | flags;
    *pde(AREA) &= ~(u32)PT_A;
    write_cr3(read_cr3());
}

static void expect(u32 ring, const u8 *code, u32 vector, u32 table, u32 directory) {
    reset_run(ring);
    in.ecx = AREA + 0x10;
    EQ(run(ring, code), vector);
    EQ(*pte(AREA) & (PT_A | PT_D), table);
    EQ(*pde(AREA) & PT_A, directory);
}

void test(void) {
    u32 all = PT_P | PT_W | PT_U;
    paging_prepare();
    pte(AREA);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    scratch[0x10] = 0xcd, scratch[0x11] = 0x80;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        clear(all);
        expect(ring, load, V_DONE, PT_A, PT_A);
        expect(ring, load, V_DONE, PT_A, PT_A);
        expect(ring, store, V_DONE, PT_A | PT_D, PT_A);
        scratch[0x10] = 0xcd, scratch[0x11] = 0x80;
        clear(all);
        expect(ring, jump_it, V_DONE, PT_A, PT_A);
        clear(all);
        expect(ring, store, V_DONE, PT_A | PT_D, PT_A);
        clear(all); /* cleared behind the processor's back, then flushed: set again */
        expect(ring, store, V_DONE, PT_A | PT_D, PT_A);
        clear(all | PT_A);
        expect(ring, store, V_DONE, PT_A | PT_D, PT_A);
        clear(all | PT_A | PT_D);
        expect(ring, load, V_DONE, PT_A | PT_D, PT_A);
        clear(PT_P | PT_U);
        expect(ring, load, V_DONE, PT_A, PT_A);
        expect(ring, store, V_PF, PT_A, PT_A);
        clear(all); /* a compare that fails writes back what it read: the page is dirty */
        expect(ring, cmpxchg, V_DONE, PT_A | PT_D, PT_A);
        scratch[0x10] = 0xcd, scratch[0x11] = 0x80;
        clear(0);
        EQ(*pte(AREA) & PT_A, 0);
    }
    /* INVLPG is enough, for one page. */
    clear(all);
    expect(0, store, V_DONE, PT_A | PT_D, PT_A);
    *pte(AREA) = SCRATCH | all;
    invlpg(AREA);
    expect(0, load, V_DONE, PT_A, PT_A);
    expect(0, store, V_DONE, PT_A | PT_D, PT_A);
    paging_off();
}
