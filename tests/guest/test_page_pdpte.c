/*
 * The four page-directory pointers of PAE paging are registers: MOV to CR3 loads them, and so does
 * a MOV to CR0 or CR4 that changes CD, NW, PG, PAE, PGE, PSE or SMEP; reserved bits in a present
 * one make these #GP(0) and leave every register as it was. SDM volume 3A, section 4.4.1 "PDPTE
 * Registers". NX counts at every level below.
 * Expected: pointers changed in memory count after the next such load and not before, whatever is
 * flushed meanwhile; no other MOV to CR0 or CR4 looks at them.
 * OPTIONS: -cpu max
 * QEMU: its TCG reads the pointers at every walk and does not check them
 */
#include "guest.h"

enum { AREA = 0x40000000u, EFER = 0xc0000080u, NXE = 0x800 };
#define CR0_CD 0x40000000u
#define CR4_SMEP (1u << 20)
CODE(load, "mov (%ecx),%eax" DONE);
CODE(jump_it, "jmp *%ecx");
CODE(load_cr0, "mov %ecx,%cr0" DONE);
CODE(load_cr3, "mov %ecx,%cr3" DONE);
CODE(load_cr4, "mov %ecx,%cr4" DONE);
static u64 other_pointers[4] __attribute__((aligned(32)));

static u32 at(u32 ring, const u8 *code, u32 ecx) {
    reset_run(ring);
    in.ecx = ecx;
    return run(ring, code);
}
static void reaches(bool there) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        EQ(at(ring, load, AREA + 16), there ? V_DONE : V_PF);
        if (there)
            EQ(trap.eax, 0xfeed);
    }
}

/* Every load refuses every reserved bit of a present pointer. */
static void reserved_bits(void) {
    u32 bits = cpuid(0x80000008).eax & 0xff, cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    u64 good = pae_pointers[2];
    bool smep = cpuid(0).eax >= 7 && (cpuid(7).ebx >> 7 & 1);
    for (u32 bit = 1; bit < 64; bit++) {
        if (bit == 3 || bit == 4 || (bit >= 9 && bit < bits))
            continue;
        pae_pointers[2] = good | 1ull << bit;
        EQ(at(0, load_cr3, cr3), V_GP);
        EQ(trap.error, 0);
        EQ(at(0, load_cr4, cr4 ^ CR4_PGE), V_GP);
        EQ(trap.error, 0);
        EQ(at(0, load_cr4, cr4 ^ CR4_PSE), V_GP);
        if (smep)
            EQ(at(0, load_cr4, cr4 ^ CR4_SMEP), V_GP);
        EQ(at(0, load_cr0, cr0 ^ CR0_CD), V_GP);
        EQ(trap.error, 0);
        EQ(read_cr0(), cr0);
        EQ(read_cr3(), cr3);
        EQ(read_cr4(), cr4);
        /* These do not look. */
        EQ(at(0, load_cr4, cr4 ^ CR4_TSD), V_DONE);
        EQ(at(0, load_cr4, cr4), V_DONE);
        EQ(at(0, load_cr0, cr0 ^ CR0_WP), V_DONE);
        EQ(at(0, load_cr0, cr0), V_DONE);
        pae_pointers[2] = (good | 1ull << bit) & ~1ull; /* not present: all else is ignored */
        EQ(at(0, load_cr3, cr3), V_DONE);
        pae_pointers[2] = good;
        EQ(at(0, load_cr3, cr3), V_DONE);
    }
    reaches(true);
    /* Ignored bits: 3, 4 (PWT, PCD) and 9-11. */
    pae_pointers[1] |= 0xe18;
    EQ(at(0, load_cr3, cr3), V_DONE);
    reaches(true);
    pae_pointers[1] &= ~0xe18ull;
    EQ(at(0, load_cr3, cr3 | 0x18), V_DONE);
    EQ(at(0, load_cr3, cr3), V_DONE);
}

static void paging_does_not_start(void) {
    u64 good = pae_pointers[2];
    u32 cr0 = read_cr0();
    write_cr0(cr0 & ~CR0_PG);
    pae_pointers[2] |= 0x1e6;
    EQ(at(0, load_cr0, cr0), V_GP);
    EQ(trap.error, 0);
    EQ(read_cr0(), cr0 & ~CR0_PG);
    pae_pointers[2] = good;
    EQ(at(0, load_cr0, cr0), V_DONE);
    EQ(read_cr0(), cr0);
    reaches(true);
}

static void cached(void) {
    u32 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    const u32 loads[][2] = {{(u32)load_cr3, cr3},
                            {(u32)load_cr4, cr4 ^ CR4_PGE},
                            {(u32)load_cr4, cr4 ^ CR4_PSE},
                            {(u32)load_cr0, cr0 ^ CR0_CD}};
    for (u32 i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        u64 pointer = pae_pointers[1];
        pae_pointers[1] = 0;
        invlpg(AREA);
        reaches(true);
        EQ(at(0, load_cr0, cr0 ^ CR0_WP), V_DONE); /* flushes, but loads no pointer */
        reaches(true);
        EQ(at(0, load_cr0, cr0), V_DONE);
        EQ(at(0, (u8 *)loads[i][0], loads[i][1]), V_DONE);
        reaches(false);
        pae_pointers[1] = pointer; /* from absent to present counts as late */
        invlpg(AREA);
        reaches(false);
        write_cr0(cr0), write_cr4(cr4);
        EQ(at(0, load_cr3, cr3), V_DONE);
        reaches(true);
    }
    /* A failed load keeps those of the space in force. */
    memcpy(other_pointers, pae_pointers, sizeof other_pointers);
    other_pointers[1] = 0;
    other_pointers[3] |= 2;
    EQ(at(0, load_cr3, (u32)other_pointers), V_GP);
    EQ(read_cr3(), cr3);
    reaches(true);
    other_pointers[3] &= ~2ull;
    EQ(at(0, load_cr3, (u32)other_pointers), V_DONE);
    reaches(false);
    EQ(at(0, load_cr3, cr3), V_DONE);
    reaches(true);
}

/* XD in the directory entry, over a table and as a 2 MiB page; reserved there without NXE. */
static void no_execute_above(void) {
    u64 *directory = (u64 *)((u32)pae_pointers[1] & ~0xfffu), table = directory[0];
    u64 large = (16 << 20) | PT_P | PT_W | PT_U | PT_PS;
    u8 *code = (u8 *)(16 << 20);
    code[0x40] = scratch[0x40] = 0xcd, code[0x41] = scratch[0x41] = 0x80;
    for (u32 i = 0; i < 2; i++)
        for (u32 ring = 0; ring <= 3; ring += 3) {
            u64 entry = i ? large : table;
            directory[0] = entry;
            write_cr3(read_cr3());
            EQ(at(ring, jump_it, AREA + 0x40), V_DONE);
            directory[0] = entry | PT_NX;
            write_cr3(read_cr3());
            EQ(at(ring, load, AREA + 0x40), V_DONE);
            EQ(at(ring, jump_it, AREA + 0x40), V_PF);
            EQ(trap.error, ring ? 0x15 : 0x11);
            EQ(trap_cr2, AREA + 0x40);
            wrmsr(EFER, rdmsr(EFER) & ~(u64)NXE);
            EQ(at(ring, load, AREA + 0x40), V_PF);
            EQ(trap.error, ring ? 0x0d : 0x09);
            EQ(at(ring, jump_it, AREA + 0x40), V_PF); /* no I/D bit any more */
            EQ(trap.error, ring ? 0x0d : 0x09);
            wrmsr(EFER, rdmsr(EFER) | NXE);
        }
    directory[0] = table;
    write_cr3(read_cr3());
}

void test(void) {
    if (!(cpuid(1).edx & 1 << 6))
        skip("this CPU has no PAE");
    pae_prepare();
    *pae_pte(AREA) = SCRATCH | PT_P | PT_W | PT_U;
    *(u32 *)(SCRATCH + 16) = 0xfeed;
    pae_on();
    write_cr0(read_cr0() | CR0_WP);
    wrmsr(EFER, rdmsr(EFER) | NXE);
    reaches(true);
    reserved_bits();
    paging_does_not_start();
    cached();
    no_execute_above();
    wrmsr(EFER, rdmsr(EFER) & ~(u64)NXE);
    paging_off();
}
