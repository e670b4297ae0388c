/*
 * Remapping: after INVLPG or a CR3 load the new entry counts, after a store to the table alone
 * the old one may; global pages survive a CR3 load but not a change of CR4.PGE; two directories
 * show two contents at one address; an entry that was not present needs no flush. SDM volume 3A,
 * section 4.10 "Caching Translation Information".
 * Expected: the value of the page that the entry in force names.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
static u32 other_directory[1024] __attribute__((aligned(4096)));
static u32 other_table[1024] __attribute__((aligned(4096)));
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
#define PAGE(n) (SCRATCH + (n)*4096u)

static u32 value(u32 ring, u32 address) {
    reset_run(ring);
    in.ecx = address;
    return run(ring, load) == V_DONE ? trap.eax : 0xbad00000 | trap.vector;
}

static void two_spaces(u32 ring) {
    memcpy(other_directory, page_directory, sizeof other_directory);
    memset(other_table, 0, sizeof other_table);
    other_table[AREA >> 12 & 1023] = PAGE(2) | PT_P | PT_W | PT_U;
    other_directory[AREA >> 22] = (u32)other_table | PT_P | PT_W | PT_U;
    map(AREA, PAGE(1), PT_P | PT_W | PT_U);
    for (u32 i = 0; i < 4; i++) {
        write_cr3((u32)page_directory);
        EQ(value(ring, AREA), 101);
        write_cr3((u32)other_directory);
        EQ(value(ring, AREA), 102);
    }
    /* A table changed while its space was not in force. */
    write_cr3((u32)page_directory);
    other_table[AREA >> 12 & 1023] = PAGE(3) | PT_P | PT_W | PT_U;
    write_cr3((u32)other_directory);
    EQ(value(ring, AREA), 103);
    other_table[AREA >> 12 & 1023] = 0;
    write_cr3((u32)page_directory);
    EQ(value(ring, AREA), 101);
    write_cr3((u32)other_directory);
    EQ(value(ring, AREA), 0xbad00000 | V_PF);
    other_directory[AREA >> 22] = 0;
    write_cr3((u32)other_directory);
    EQ(value(ring, AREA), 0xbad00000 | V_PF);
    write_cr3((u32)page_directory);
}

void test(void) {
    u32 all = PT_P | PT_W | PT_U;
    paging_prepare();
    pte(AREA);
    paging_on();
    for (u32 i = 0; i < 8; i++)
        *(u32 *)PAGE(i) = 100 + i;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        for (u32 i = 0; i < 8; i++) {
            map(AREA, PAGE(i), all);
            EQ(value(ring, AREA), 100 + i);
        }
        for (u32 i = 0; i < 8; i++) {
            *pte(AREA) = PAGE(i) | all;
            write_cr3(read_cr3());
            EQ(value(ring, AREA), 100 + i);
        }
        map(AREA, 0, 0);
        EQ(value(ring, AREA), 0xbad00000 | V_PF);
        *pte(AREA) = PAGE(4) | all; /* from absent to present: no flush needed */
        EQ(value(ring, AREA), 104);
        /* An alias: a store by one address shows at the other. */
        map(AREA + 4096, PAGE(4), all);
        reset_run(ring);
        in.ecx = AREA + 4096;
        in.edx = 777;
        RUNS(ring, store);
        EQ(value(ring, AREA), 777);
        *(u32 *)PAGE(4) = 104;
        /* Read-only to writable after a fault, without a flush, as copy-on-write does. */
        write_cr0(read_cr0() | CR0_WP);
        map(AREA, PAGE(5), PT_P | PT_U);
        reset_run(ring);
        in.ecx = AREA;
        in.edx = 105;
        EQ(run(ring, store), V_PF);
        *pte(AREA) = PAGE(5) | all;
        reset_run(ring);
        in.ecx = AREA;
        in.edx = 105;
        RUNS(ring, store);
        /* Global pages. */
        write_cr4(read_cr4() | CR4_PGE);
        map(AREA, PAGE(6), all | PT_G);
        EQ(value(ring, AREA), 106);
        *pte(AREA) = PAGE(7) | all | PT_G;
        invlpg(AREA);
        EQ(value(ring, AREA), 107);
        *pte(AREA) = PAGE(6) | all | PT_G;
        write_cr4(read_cr4() & ~CR4_PGE);
        EQ(value(ring, AREA), 106);
        two_spaces(ring);
    }
    paging_off();
}
