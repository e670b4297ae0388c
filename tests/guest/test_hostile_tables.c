/*
 * Page tables that refer to themselves, to nothing and to the top of physical memory; a directory
 * that is its own table (as many kernels have it); tables that are code; CR3 beyond RAM.
 * Expected: the translation that a walk by the book gives; #PF where an entry is absent; no harm
 * to the monitor.
 */
#include "guest.h"

enum { SELF = 0x3f0u << 22 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(jump, "jmp *%ecx");

static u32 at(u32 ring, const u8 *code, u32 ecx, u32 edx) {
    reset_run(ring);
    in.ecx = ecx;
    in.edx = edx;
    return run(ring, code);
}

void test(void) {
    paging_prepare();
    page_directory[0x3f0] = (u32)page_directory | PT_P | PT_W | PT_U;
    page_directory[0x3f1] = 0xfffff000u | PT_P | PT_W | PT_U; /* a table where no RAM is */
    page_directory[0x3f2] = (u32)scratch | PT_P | PT_W | PT_U;
    paging_on();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        /* The recursive slot shows the tables. */
        EQ(at(ring, load, SELF + (SCRATCH >> 10), 0), V_DONE);
        EQ(trap.eax & 0xfffff000, SCRATCH);
        EQ(at(ring, load, SELF + 0x3f0000 + 0x3f0 * 4, 0), V_DONE);
        EQ(trap.eax & 0xfffff007, (u32)page_directory | 7);
        /* Writing a page table through it takes effect, after INVLPG. */
        u32 address = 0x01800000; /* within the identity map */
        EQ(at(ring, store, SELF + (address >> 10), SCRATCH + 4096 + 7), V_DONE);
        invlpg(address);
        *(u32 *)(SCRATCH + 4096) = 0x1357;
        EQ(at(ring, load, address, 0), V_DONE);
        EQ(trap.eax, 0x1357);
        *pte(address) = address | 7;
        invlpg(address);
        if (!is_tcg()) { /* a table of all ones: reserved bits do not exist in 32-bit entries */
            u32 vector = at(ring, load, 0x3f1u << 22, 0);
            CHECK(vector == V_DONE || vector == V_PF);
        }
        /* A page that is code and its own page table's neighbour. */
        for (u32 i = 0; i < 1024; i++)
            ((u32 *)scratch)[i] = i == 5 ? SCRATCH | 7 : 0;
        u32 code_at = (0x3f2u << 22) + 5 * 4096;
        scratch[100] = 0xcd, scratch[101] = 0x80;
        write_cr3(read_cr3());
        EQ(at(ring, jump, code_at + 100, 0), V_DONE);
        EQ(at(ring, store, code_at + 5 * 4, 0), V_DONE); /* takes itself away */
        invlpg(code_at);
        EQ(at(ring, jump, code_at + 100, 0), V_PF);
    }
    paging_off();
}
