/*
 * 4 MiB pages (PSE): translation, rights, A and D in the directory entry; without CR4.PSE bit 7
 * is ignored. SDM volume 3A, section 4.3 "32-Bit Paging".
 * Expected: reads through the large page show physical memory at the same offset; faults as with
 * small pages; splitting a large page into small ones and back, with INVLPG or a CR3 reload,
 * takes effect.
 */
#include "guest.h"

enum { AREA = 0x30000000, PHYSICAL = 16 << 20 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
#define RAM(offset) (*(volatile u32 *)(PHYSICAL + (offset)))

static u32 access(u32 ring, const u8 *code, u32 offset, u32 value) {
    reset_run(ring);
    in.ecx = AREA + offset;
    in.edx = value;
    return run(ring, code);
}

void test(void) {
    paging_prepare();
    write_cr4(read_cr4() | CR4_PSE);
    *pde(AREA) = PHYSICAL | PT_P | PT_W | PT_U | PT_PS;
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        *pde(AREA) = PHYSICAL | PT_P | PT_W | PT_U | PT_PS;
        write_cr3(read_cr3());
        for (u32 offset = 0; offset < 4 << 20; offset += 0x3fffc) {
            RAM(offset) = offset ^ 0xabcd0123;
            EQ(access(ring, load, offset, 0), V_DONE);
            EQ(trap.eax, offset ^ 0xabcd0123);
        }
        EQ(*pde(AREA) & (PT_A | PT_D), PT_A);
        EQ(access(ring, store, 0x3ffffc, 0x77), V_DONE);
        EQ(RAM(0x3ffffc), 0x77);
        EQ(*pde(AREA) & (PT_A | PT_D), PT_A | PT_D);

        *pde(AREA) = PHYSICAL | PT_P | PT_U | PT_PS;
        invlpg(AREA + 0x200000); /* any address in it drops the whole page */
        EQ(access(ring, store, 0, 1), V_PF);
        EQ(trap.error, ring ? 7 : 3);
        EQ(access(ring, store, 0x3ff000, 1), V_PF);
        EQ(access(ring, load, 0x3ff000, 0), V_DONE);
        *pde(AREA) = PHYSICAL | PT_P | PT_W | PT_PS;
        write_cr3(read_cr3());
        EQ(access(ring, load, 0, 0), ring ? V_PF : V_DONE);

        /* Split: one page of it goes elsewhere. */
        *pde(AREA) = 0;
        for (u32 offset = 0; offset < 64 << 12; offset += 4096)
            *pte(AREA + offset) = (PHYSICAL + offset) | PT_P | PT_W | PT_U;
        *pte(AREA + 0x5000) = SCRATCH | PT_P | PT_W | PT_U;
        write_cr3(read_cr3());
        *(volatile u32 *)SCRATCH = 0x5c5c;
        EQ(access(ring, load, 0x5000, 0), V_DONE);
        EQ(trap.eax, 0x5c5c);
        RAM(0x4000) = 0x4444;
        EQ(access(ring, load, 0x4000, 0), V_DONE);
        EQ(trap.eax, 0x4444);
        RAM(0x5000) = 0x5555;
        *pde(AREA) = PHYSICAL | PT_P | PT_W | PT_U | PT_PS;
        write_cr3(read_cr3());
        EQ(access(ring, load, 0x5000, 0), V_DONE);
        EQ(trap.eax, 0x5555);
    }
    paging_off();
}
