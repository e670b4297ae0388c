/*
 * Three-level paging (PAE): 4 KiB and 2 MiB pages, no-execute, reserved bits, and page-directory
 * pointers that are read only by loads of CR3, CR0 and CR4. SDM volume 3A, section 4.4 "PAE
 * Paging".
 * Expected: values as mapped; fetch from an NX page raises #PF with bit 4; reserved bits raise
 * #PF with bit 3; a PDPTE with reserved bits makes MOV to CR3 raise #GP(0); a PDPTE changed in
 * memory counts only after the next CR3 load.
 */
#include "guest.h"

enum { AREA = 0x40000000u, EFER = 0xc0000080u, NXE = 0x800 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(jump_it, "jmp *%ecx");
CODE(load_cr3, "mov %ecx,%cr3" DONE);
#define RESERVED (1ull << 62)
static u32 tcg_p; /* QEMU leaves bit 0 out of the error code of reserved bits */

static u32 at(u32 ring, const u8 *code, u32 address) {
    reset_run(ring);
    in.ecx = address;
    return run(ring, code);
}

static void set(u64 entry) {
    *pae_pte(AREA) = entry;
    invlpg(AREA);
}

static void no_execute(u32 ring) {
    u64 all = PT_P | PT_W | PT_U;
    scratch[0] = 0xcd, scratch[1] = 0x80;
    set(SCRATCH | all);
    EQ(at(ring, jump_it, AREA), V_DONE);
    set(SCRATCH | all | PT_NX);
    EQ(at(ring, load, AREA), V_DONE);
    EQ(at(ring, jump_it, AREA), V_PF);
    EQ(trap.error, ring ? 0x15 : 0x11);
    EQ(trap.eip, AREA);
    EQ(trap_cr2, AREA);
    set(SCRATCH | all);
    EQ(at(ring, jump_it, AREA), V_DONE);
    wrmsr(EFER, rdmsr(EFER) & ~(u64)NXE);
    set(SCRATCH | all | PT_NX); /* reserved while NXE is clear */
    EQ(at(ring, load, AREA), V_PF);
    EQ(trap.error | tcg_p, ring ? 0x0d : 0x09);
    wrmsr(EFER, rdmsr(EFER) | NXE);
}

void test(void) {
    if (!(cpuid(1).edx & 1 << 6))
        skip("this CPU has no PAE");
    u64 all = PT_P | PT_W | PT_U;
    bool nx = cpuid(0x80000000).eax >= 0x80000001 && cpuid(0x80000001).edx >> 20 & 1;
    tcg_p = is_tcg();
    pae_prepare();
    pae_pte(AREA);
    pae_on();
    write_cr0(read_cr0() | CR0_WP);
    if (nx)
        wrmsr(EFER, rdmsr(EFER) | NXE);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        for (u32 i = 0; i < 8; i++)
            *(u32 *)(SCRATCH + i * 4096) = 200 + i;
        for (u32 i = 0; i < 8; i++) {
            set((SCRATCH + i * 4096) | all);
            EQ(at(ring, load, AREA), V_DONE);
            EQ(trap.eax, 200 + i);
        }
        EQ((u32)*pae_pte(AREA) & (PT_A | PT_D), PT_A);
        EQ(at(ring, store, AREA + 8), V_DONE);
        EQ((u32)*pae_pte(AREA) & (PT_A | PT_D), PT_A | PT_D);
        set(SCRATCH | PT_P | PT_U);
        EQ(at(ring, store, AREA), V_PF);
        EQ(trap.error, ring ? 7 : 3);
        set(SCRATCH | all | RESERVED);
        EQ(at(ring, load, AREA), V_PF);
        EQ(trap.error | tcg_p, ring ? 0x0d : 0x09);
        if (nx)
            no_execute(ring);
        set(SCRATCH | all);

        /* A 2 MiB page. */
        u64 *directory = (u64 *)((u32)pae_pointers[1] & ~0xfffu);
        u64 saved = directory[1];
        directory[1] = (16 << 20) | all | PT_PS;
        invlpg(AREA + (2 << 20));
        *(volatile u32 *)((16 << 20) + 0x123450) = 0x2222;
        EQ(at(ring, load, AREA + (2 << 20) + 0x123450), V_DONE);
        EQ(trap.eax, 0x2222);
        directory[1] = (16 << 20) | 0x2000 | all | PT_PS; /* a reserved address bit */
        invlpg(AREA + (2 << 20));
        EQ(at(ring, load, AREA + (2 << 20)), V_PF);
        EQ(trap.error | tcg_p, ring ? 0x0d : 0x09);
        directory[1] = saved;
        invlpg(AREA + (2 << 20));

        /* The pointers are cached; QEMU reads them at every walk. */
        u64 pointer = pae_pointers[1];
        pae_pointers[1] = 0;
        invlpg(AREA);
        if (!is_tcg())
            EQ(at(ring, load, AREA), V_DONE);
        write_cr3(read_cr3());
        EQ(at(ring, load, AREA), V_PF);
        EQ(trap.error, ring ? 4 : 0);
        pae_pointers[1] = pointer | PT_W; /* reserved in a pointer */
        if (!is_tcg()) {
            u32 before = read_cr3();
            EQ(at(0, load_cr3, (u32)pae_pointers), V_GP);
            EQ(trap.error, 0);
            EQ(read_cr3(), before);
        }
        pae_pointers[1] = pointer;
        write_cr3(read_cr3());
        EQ(at(ring, load, AREA), V_DONE);
    }
    if (nx)
        wrmsr(EFER, rdmsr(EFER) & ~(u64)NXE);
    paging_off();
}
