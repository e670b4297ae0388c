/*
 * Entries changed without a flush. From absent to present needs none; more rights may cost one
 * fault, which drops the old translation; of fewer rights, another frame, or a cleared A or D bit
 * the processor may learn at once or at the flush. SDM volume 3A, section 4.10.2.3 "Details of TLB
 * Use", 4.10.4.3 "Optional Invalidation", 4.10.4.4 "Delayed Invalidation".
 * Expected: where the manual allows the old translation to live on, the one or the other outcome
 * and nothing else; after the flush the new one.
 * LOCKSTEP: the two engines' TLBs may hold translations of different age
 */
#include "guest.h"

enum { AREA = 0x30000000 };
#define ALL (PT_P | PT_W | PT_U)
#define PAGE(n) (SCRATCH + (n)*4096u)
CODE(load, "mov (%ebx),%eax" DONE);
CODE(store, "mov %esi,(%ebx)" DONE);
CODE(add, "lock add %esi,(%ebx); mov (%ebx),%eax" DONE);

static u32 go(u32 ring, const void *code, u32 ebx, u32 esi) {
    reset_run(ring);
    in.ebx = ebx;
    in.esi = esi;
    return run(ring, code);
}

static u32 spurious;
static bool tolerate(struct frame *f) {
    if (f->vector != V_PF || read_cr2() != AREA)
        return false;
    u32 e = *pte(AREA);
    bool fine = (e & PT_P) && (!(f->error & 2) || (e & PT_W)) && (!(f->error & 4) || (e & PT_U));
    spurious += fine;
    return fine && spurious < 8; /* a fault drops the entry it came from */
}
static void without_a_flush(u32 ring) {
    trap_hook = tolerate;
    for (u32 i = 0; i < 6; i++) {
        /* Not present to present: never cached. */
        map(AREA, 0, 0);
        EQ(go(ring, load, AREA, 0), V_PF);
        spurious = 0;
        *pte(AREA) = PAGE(5) | PT_P | PT_U;
        EQ(go(ring, load, AREA, 0), V_DONE);
        EQ(trap.eax, 105);
        EQ(spurious, 0);
        /* Read-only to writable: at most one fault. */
        *pte(AREA) |= PT_W;
        EQ(go(ring, store, AREA, 105), V_DONE);
        CHECK(spurious <= 1);
        EQ(*pte(AREA) & (PT_A | PT_D), PT_A | PT_D);
        /* The supervisor's to the user's. */
        map(AREA, PAGE(5), PT_P | PT_W);
        EQ(go(0, load, AREA, 0), V_DONE);
        spurious = 0;
        *pte(AREA) |= PT_U;
        EQ(go(3, add, AREA, 0), V_DONE);
        EQ(trap.eax, 105);
        CHECK(spurious <= 1);
        /* A and D cleared: later accesses may leave them clear, and must still work. */
        *pte(AREA) &= ~(u32)(PT_A | PT_D);
        EQ(go(ring, load, AREA, 0), V_DONE);
        EQ(go(ring, store, AREA, 105), V_DONE);
        EQ(*pte(AREA) & ~(u32)(PT_A | PT_D), PAGE(5) | ALL);
        invlpg(AREA);
        EQ(go(ring, store, AREA, 105), V_DONE);
        EQ(*pte(AREA) & (PT_A | PT_D), PT_A | PT_D);
        /* Another frame: the old or the new, until a flush; fewer rights likewise. */
        *pte(AREA) = PAGE(6) | ALL;
        EQ(go(ring, load, AREA, 0), V_DONE);
        CHECK(trap.eax == 105 || trap.eax == 106);
        invlpg(AREA);
        EQ(go(ring, load, AREA, 0), V_DONE);
        EQ(trap.eax, 106);
        *pte(AREA) &= ~(u32)PT_W;
        u32 vector = go(ring, store, AREA, 106);
        CHECK(vector == V_DONE || (vector == V_PF && (trap.error & 3) == 3));
        write_cr3(read_cr3());
        EQ(go(ring, store, AREA, 7), V_PF);
        EQ(*(u32 *)PAGE(6), 106);
    }
    trap_hook = NULL;
}

/* A global translation may outlive the directory that it came from, until CR4.PGE changes or INVLPG
 * names it. */
static u32 other_directory[1024] __attribute__((aligned(4096)));
static void global_pages(u32 ring) {
    write_cr4(read_cr4() | CR4_PGE);
    memcpy(other_directory, page_directory, sizeof other_directory);
    other_directory[AREA >> 22] = 0;
    for (u32 i = 0; i < 6; i++) {
        map(AREA, PAGE(5), ALL | PT_G);
        EQ(go(ring, load, AREA, 0), V_DONE);
        write_cr3((u32)other_directory);
        u32 vector = go(ring, load, AREA, 0);
        CHECK(vector == V_DONE ? trap.eax == 105 : vector == V_PF && (trap.error & ~4u) == 0);
        if (i & 1) {
            invlpg(AREA);
        } else {
            write_cr4(read_cr4() & ~CR4_PGE);
            write_cr4(read_cr4() | CR4_PGE);
        }
        EQ(go(ring, load, AREA, 0), V_PF);
        EQ(trap.error, ring ? 4 : 0);
        write_cr3((u32)page_directory);
        EQ(go(ring, load, AREA, 0), V_DONE);
        EQ(trap.eax, 105);
    }
    write_cr4(read_cr4() & ~CR4_PGE);
}

void test(void) {
    paging_prepare();
    pte(AREA);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 i = 0; i < 8; i++)
        *(u32 *)PAGE(i) = 100 + i;
    for (u32 ring = 0; ring <= 3; ring += 3)
        without_a_flush(ring), global_pages(ring);
    paging_off();
}
