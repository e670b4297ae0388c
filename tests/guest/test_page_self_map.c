/*
 * Page tables inside the pages they map: the last directory entry names the directory itself, so
 * that all tables stand at FFC00000h and the directory at FFFFF000h, as many kernels have it. What
 * is stored there counts for the very next access once INVLPG or a CR3 load has run, also for the
 * code that did it. SDM volume 3A, section 4.10.4.1 "Operations that Invalidate TLBs and
 * Paging-Structure Caches".
 * Expected: values, A and D bits as the entries say at that moment.
 */
#include "guest.h"

enum { AREA = 0x30000000, CODE_AREA = 0x31000000, SELF = 1023 };
#define TABLE_OF(a) (0xffc00000u + ((a) >> 12) * 4)
#define ENTRY_OF(a) (0xfffff000u + ((a) >> 22) * 4)
#define ALL (PT_P | PT_W | PT_U)
#define PAGE(n) (SCRATCH + (n)*4096u)

/* ecx: the entry by the self-map, edx: what to store there, ebx: the address. */
CODE(remap, "mov %edx,(%ecx); invlpg (%ebx); mov (%ebx),%eax" DONE);
CODE(remap_reload, "mov %edx,(%ecx); mov %cr3,%eax; mov %eax,%cr3; mov (%ebx),%eax" DONE);
CODE(remap_store, "mov %edx,(%ecx); invlpg (%ebx); mov %esi,(%ebx); mov (%ecx),%edi" DONE);
CODE(remap_twice, "mov %edx,(%ecx); invlpg (%ebx); mov (%ebx),%eax; mov %esi,(%ecx);"
                  "invlpg (%ebx); mov (%ebx),%edi" DONE);
CODE(watch, "mov (%ecx),%eax; mov (%ebx),%esi; mov (%ecx),%edx; mov %edi,(%ebx);"
            "mov (%ecx),%edi" DONE);
/* Runs at CODE_AREA and gives itself another page, where the last load has another number. */
CODE(pull_the_rug, "mov %edx,(%ecx); invlpg (%ebx); mov $1,%eax" DONE);
CODE(pull_by_cr3, "mov %edx,(%ecx); mov %cr3,%eax; mov %eax,%cr3; mov $1,%eax" DONE);
CODE(load, "mov (%ebx),%eax" DONE);

static u32 go(u32 ring, const void *code, u32 ecx, u32 edx, u32 ebx, u32 esi) {
    reset_run(ring);
    in.ecx = ecx;
    in.edx = edx;
    in.ebx = ebx;
    in.esi = esi;
    in.edi = 0x77;
    return run(ring, code);
}

static void through_the_table(void) {
    u32 at = TABLE_OF(AREA);
    for (u32 i = 0; i < 12; i++) {
        u32 n = i % 4, next = (i + 1) % 4;
        EQ(go(0, remap, at, PAGE(n) | ALL, AREA, 0), V_DONE);
        EQ(trap.eax, 100 + n);
        EQ(go(0, remap_reload, at, PAGE(next) | ALL, AREA, 0), V_DONE);
        EQ(trap.eax, 100 + next);
        EQ(go(0, remap_twice, at, PAGE(n) | ALL, AREA, PAGE(next) | ALL), V_DONE);
        EQ(trap.eax, 100 + n);
        EQ(trap.edi, 100 + next);
        EQ(go(0, remap_store, at, PAGE(n) | ALL, AREA, 100 + n), V_DONE);
        EQ(trap.edi, PAGE(n) | ALL | PT_A | PT_D); /* seen by the next load of the entry */
        EQ(go(3, load, 0, 0, AREA, 0), V_DONE);
        EQ(trap.eax, 100 + n);
        EQ(go(0, remap, at, 0, AREA, 0), V_PF);
        EQ(trap.error, 0);
        EQ(trap_cr2, AREA);
        EQ(go(0, remap, at, PAGE(n) | PT_P, AREA, 0), V_DONE);
        EQ(go(3, load, 0, 0, AREA, 0), V_PF);
        EQ(go(0, remap_store, at, PAGE(n) | PT_P | PT_U, AREA, 5), V_PF);
        EQ(trap.error, 3);
    }
    /* A at a load, D at a store, each visible at once. */
    EQ(go(0, remap, at, PAGE(1) | ALL, AREA, 0), V_DONE);
    *pte(AREA) = PAGE(1) | ALL;
    invlpg(AREA);
    EQ(go(0, watch, at, 0, AREA, 0), V_DONE);
    EQ(trap.eax & (PT_A | PT_D), 0);
    EQ(trap.edx & (PT_A | PT_D), PT_A);
    EQ(trap.edi & (PT_A | PT_D), PT_A | PT_D);
    *(u32 *)PAGE(1) = 101;
    /* In the role of a table entry the directory entry gets its own D. */
    *pde(AREA) &= ~(u32)(PT_A | PT_D);
    write_cr3(read_cr3());
    EQ(go(0, remap, at, PAGE(2) | ALL, AREA, 0), V_DONE);
    EQ(*pde(AREA) & (PT_A | PT_D), PT_A | PT_D);
    *pde(AREA) &= ~(u32)PT_D;
}

static void through_the_directory(void) {
    static u32 other_table[1024] __attribute__((aligned(4096)));
    u32 at = ENTRY_OF(AREA), first = *pde(AREA) & ~0xfffu;
    *pte(AREA) = PAGE(0) | ALL;
    other_table[0] = PAGE(3) | ALL;
    for (u32 i = 0; i < 8; i++) {
        EQ(go(0, remap, at, (u32)other_table | ALL, AREA, 0), V_DONE);
        EQ(trap.eax, 103);
        EQ(go(0, remap_reload, at, first | ALL, AREA, 0), V_DONE);
        EQ(trap.eax, 100);
        write_cr4(read_cr4() | CR4_PSE);
        EQ(go(0, remap, at, (16 << 20) | ALL | PT_PS, AREA, 0), V_DONE);
        EQ(trap.eax, 0x1e1e);
        EQ(go(0, remap, at, first | ALL, AREA, 0), V_DONE);
        EQ(trap.eax, 100);
        write_cr4(read_cr4() & ~CR4_PSE);
        EQ(go(0, remap, at, 0, AREA, 0), V_PF);
        EQ(go(0, remap, at, first | PT_P, AREA, 0), V_DONE);
        EQ(go(3, load, 0, 0, AREA, 0), V_PF);
        EQ(trap.error, 5);
        EQ(go(0, remap_reload, at, first | ALL, AREA, 0), V_DONE);
    }
}

/* The code's own page is exchanged under it: the instruction after INVLPG is the new page's. */
static void under_itself(const u8 *code, u32 load_at) {
    u32 at = TABLE_OF(CODE_AREA);
    for (u32 i = 0; i < 3; i++) {
        memcpy((void *)PAGE(8 + i), code, 64);
        *(u32 *)(PAGE(8 + i) + load_at) = 0x1000 + i;
    }
    for (u32 i = 0; i < 12; i++) {
        *pte(CODE_AREA) = PAGE(8 + i % 3) | ALL;
        invlpg(CODE_AREA);
        u32 next = (i + 1) % 3;
        EQ(go(0, (void *)CODE_AREA, at, PAGE(8 + next) | ALL, CODE_AREA, 0), V_DONE);
        EQ(trap.eax, 0x1000 + next);
        /* No page any more: the fetch behind the flush faults at the latest. (Any earlier one may:
         * a TLB may lose what it holds at any time, and a walk then finds nothing.) */
        EQ(go(0, (void *)CODE_AREA, at, 0, CODE_AREA, 0), V_PF);
        EQ(trap.error, 0);
        EQ(trap_cr2, trap.eip);
        CHECK(trap.eip > CODE_AREA && trap.eip < CODE_AREA + load_at);
    }
}

void test(void) {
    paging_prepare();
    pte(AREA);
    pte(CODE_AREA);
    page_directory[SELF] = (u32)page_directory | PT_P | PT_W;
    *(u32 *)(16 << 20) = 0x1e1e;
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 i = 0; i < 8; i++)
        *(u32 *)PAGE(i) = 100 + i;
    EQ(*(u32 *)TABLE_OF(AREA), *pte(AREA));
    EQ(*(u32 *)ENTRY_OF(AREA), *pde(AREA));
    EQ(*(u32 *)0xfffffffcu & ~0xfffu, page_directory);
    through_the_table();
    through_the_directory();
    under_itself(pull_the_rug, 6);
    under_itself(pull_by_cr3, 9);
    paging_off();
}
