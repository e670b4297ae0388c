/*
 * mmu_fixture.h: a CPU with paging on and helpers that build guest page tables by hand.
 */
#ifndef RINGFOLD_TESTS_MMU_FIXTURE_H
#define RINGFOLD_TESTS_MMU_FIXTURE_H

#include "mmu/mmu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define FIX_RAM_BYTES (32ull << 20)
#define FIX_PD 0x1000u      /* page directory of the default address space */
#define FIX_PDPT 0x3000u    /* PAE */
#define FIX_TABLES 0x10000u /* page tables are allocated from here */

struct fixture {
    struct cpu cpu;
    struct mmu *mmu;
    u32 next_table;
    u32 mmio_last_gpa, mmio_last_bytes;
    u64 mmio_last_value;
};

static u64 fix_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    struct fixture *f = opaque;
    f->mmio_last_gpa = (u32)addr.v;
    f->mmio_last_bytes = bytes;
    return 0x1122334455667788ull;
}
static void fix_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    struct fixture *f = opaque;
    f->mmio_last_gpa = (u32)addr.v;
    f->mmio_last_bytes = bytes;
    f->mmio_last_value = value;
}

static inline struct fixture *fix_create(u64 ram_bytes) {
    static struct cpu_bus bus;
    struct fixture *f = aligned_alloc(64, ALIGN_UP(sizeof *f, 64));
    memset(f, 0, sizeof *f);
    struct mmu_error err;
    f->mmu = mmu_create(ram_bytes, &err);
    assert_non_null(f->mmu);
    bus = (struct cpu_bus){.mmio_read = fix_mmio_read, .mmio_write = fix_mmio_write, .opaque = f};
    cpu_reset(&f->cpu);
    f->cpu.mmu = f->mmu;
    f->cpu.bus = &bus;
    f->next_table = FIX_TABLES;
    f->cpu.cr3 = FIX_PD;
    f->cpu.cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->cpu.cr4 = CR4_PSE | CR4_PGE;
    return f;
}

static inline void fix_destroy(struct fixture *f) {
    mmu_windows_destroy(&f->cpu);
    mmu_destroy(f->mmu);
    free(f);
}

static inline u32 fix_read32(struct fixture *f, u32 gpa) {
    return load32(f->mmu->ram + gpa);
}
static inline u64 fix_read64(struct fixture *f, u32 gpa) {
    return load64(f->mmu->ram + gpa);
}
static inline void fix_write32(struct fixture *f, u32 gpa, u32 v) {
    store32(f->mmu->ram + gpa, v);
}
static inline void fix_write64(struct fixture *f, u32 gpa, u64 v) {
    store64(f->mmu->ram + gpa, v);
}

static inline u32 fix_new_table(struct fixture *f) {
    u32 table = f->next_table;
    f->next_table += PAGE_BYTES;
    memset(f->mmu->ram + table, 0, PAGE_BYTES);
    return table;
}

/* The gpa of the 32-bit PTE of lin under directory pd, its table made when missing. */
static inline u32 fix_pte(struct fixture *f, u32 pd, u32 lin) {
    u32 pde_gpa = pd + (lin >> 22) * 4;
    if (!(fix_read32(f, pde_gpa) & PTE_P) || (fix_read32(f, pde_gpa) & PTE_PS))
        fix_write32(f, pde_gpa, fix_new_table(f) | PTE_P | PTE_W | PTE_U);
    return (fix_read32(f, pde_gpa) & ~0xfffu) + ((lin >> 12) & 1023) * 4;
}
static inline void fix_map(struct fixture *f, u32 lin, u32 entry) {
    fix_write32(f, fix_pte(f, FIX_PD, lin), entry);
}
static inline void fix_map_large(struct fixture *f, u32 lin, u32 entry) {
    fix_write32(f, FIX_PD + (lin >> 22) * 4, entry | PTE_PS);
}

/* PAE: four directories behind the PDPT, PDPTEs loaded. */
static inline void fix_enable_pae(struct fixture *f, bool nx) {
    f->cpu.cr4 |= CR4_PAE;
    f->cpu.cr3 = FIX_PDPT;
    f->cpu.efer = nx ? EFER_NXE : 0;
    for (unsigned i = 0; i < 4; i++)
        fix_write64(f, FIX_PDPT + 8 * i, fix_new_table(f) | PTE_P);
    assert_true(mmu_load_pdptrs(&f->cpu, FIX_PDPT));
    mmu_mode_changed(&f->cpu);
}
static inline u32 fix_pae_pde(struct fixture *f, u32 lin) {
    return (u32)(fix_read64(f, FIX_PDPT + (lin >> 30) * 8) & ~0xfffu) + ((lin >> 21) & 511) * 8;
}
static inline u32 fix_pae_pte(struct fixture *f, u32 lin) {
    u32 pde_gpa = fix_pae_pde(f, lin);
    if (!(fix_read64(f, pde_gpa) & PTE_P) || (fix_read64(f, pde_gpa) & PTE_PS))
        fix_write64(f, pde_gpa, fix_new_table(f) | PTE_P | PTE_W | PTE_U);
    return (u32)(fix_read64(f, pde_gpa) & 0xfffff000u) + ((lin >> 12) & 511) * 8;
}

#endif
