/*
 * walk.c: the guest's page tables, read the way the hardware reads them: 32-bit paging with 4-MiB
 * pages and PSE-36, and PAE paging with execute-disable. SDM volume 3, chapter 4 "Paging".
 *
 * One walk collects the entries; the rights check follows; only then are A and D set, with a
 * compare-exchange each, and a lost race (a device or another mapping wrote the entry) walks again.
 * Tables may lie in ROM; where nothing is, entries read as ones, as on any PC.
 * DEVIATION: so they do where a device's registers are.
 */
#include "mmu/mmu.h"

#define F1_EDX_PAE BIT(6)
#define F1_EDX_PAT BIT(16)
#define F1_EDX_PSE36 BIT(17)

/* What the CPU model says about the format of entries: SDM volume 3, section 4.1.4 "Enumeration of
 * Paging Features by CPUID". */
static void learn_format(const struct cpu *cpu) {
    struct mmu *mmu = cpu->mmu;
    const struct cpu_model *m = cpu->model;
    unsigned bits = !m || (m->f1_edx & F1_EDX_PAE) ? 36 : 32;
    for (unsigned i = 0; m && i < m->count; i++)
        if (m->leaf[i].leaf == 0x80000008u)
            bits = m->leaf[i].eax & 0xff;
    mmu->has_pat = !m || (m->f1_edx & F1_EDX_PAT);
    mmu->has_pse36 = !m || (m->f1_edx & F1_EDX_PSE36);
    mmu->phys_bits = (u8)MIN(MAX(bits, 32u), 52u);
}

static const struct mmu *format(const struct cpu *cpu) {
    if (unlikely(!cpu->mmu->phys_bits))
        learn_format(cpu);
    return cpu->mmu;
}
static unsigned phys_bits(const struct cpu *cpu) {
    return format(cpu)->phys_bits;
}
/* The PAT bit of a PTE or of a large page's PDE, where it is reserved. */
static u64 reserved_pat(const struct cpu *cpu, u64 bit) {
    return unlikely(!format(cpu)->has_pat) ? bit : 0;
}

/* Reserved bits of a PAE entry: above MAXPHYADDR, and NX unless enabled. */
static u64 pae_reserved(const struct cpu *cpu) {
    u64 reserved = ~(BIT64(phys_bits(cpu)) - 1) & ~PTE_NX;
    return cpu->efer & EFER_NXE ? reserved : reserved | PTE_NX;
}

const u8 *mmu_table_at(const struct mmu *mmu, u64 gpa) {
    if (likely(mmu_gpa_is_ram(mmu, gpa)))
        return mmu->ram + gpa;
    const u8 *rom = mmu_rom_at(mmu, gpa);
    return rom ? rom : mmu->nothing + (gpa & PAGE_OFFSET_MASK);
}

/* Reads an entry into the walk; false when it is not present. */
static bool read_entry(const struct cpu *cpu, struct mmu_walk *w, u64 gpa) {
    gpa = mmu_mask_a20(cpu, gpa);
    const u8 *at = mmu_table_at(cpu->mmu, gpa);
    u64 entry = w->entry_bytes == 8 ? __atomic_load_n((const u64 *)at, __ATOMIC_RELAXED)
                                    : __atomic_load_n((const u32 *)at, __ATOMIC_RELAXED);
    w->entry_gpa[w->depth] = gpa;
    w->entry[w->depth++] = entry;
    return entry & PTE_P;
}

static enum mmu_walk_status finish(const struct cpu *cpu, struct mmu_walk *w, u64 frame,
                                   u32 page_bytes, u32 lin) {
    struct mmu_xlat *x = w->x;
    u64 leaf = w->entry[w->depth - 1], all = leaf, any = leaf;
    if (w->depth == 2) {
        all &= w->entry[0];
        any |= w->entry[0];
    }
    x->gpa = GPA(mmu_mask_a20(cpu, frame | (lin & (page_bytes - 1))));
    x->pte = leaf;
    x->page_bytes = page_bytes;
    x->user = all & PTE_U;
    x->writable = all & PTE_W;
    x->no_execute = w->entry_bytes == 8 && (cpu->efer & EFER_NXE) && (any & PTE_NX);
    x->global = (cpu->cr4 & CR4_PGE) && (leaf & PTE_G);
    x->dirty = leaf & PTE_D;
    return MMU_WALK_OK;
}

static enum mmu_walk_status walk_pae(const struct cpu *cpu, u32 lin, struct mmu_walk *w) {
    u64 pdpte = cpu->pdptr[lin >> 30], reserved = pae_reserved(cpu);
    u64 address = (BIT64(phys_bits(cpu)) - 1) & ~0xfffull;
    w->entry_bytes = 8;
    if (!(pdpte & PTE_P) || !read_entry(cpu, w, (pdpte & address) + ((lin >> 21) & 511) * 8))
        return MMU_WALK_NOT_PRESENT;
    u64 pde = w->entry[0];
    if (pde & reserved)
        return MMU_WALK_RESERVED;
    if (pde & PTE_PS) {
        if (pde & (0x1fe000 | reserved_pat(cpu, PDE_PAT)))
            return MMU_WALK_RESERVED;
        return finish(cpu, w, pde & address & ~0x1fffffull, 2u << 20, lin);
    }
    if (!read_entry(cpu, w, (pde & address) + ((lin >> 12) & 511) * 8))
        return MMU_WALK_NOT_PRESENT;
    if (w->entry[1] & (reserved | reserved_pat(cpu, PTE_PAT)))
        return MMU_WALK_RESERVED;
    return finish(cpu, w, w->entry[1] & address, PAGE_BYTES, lin);
}

/* A 4-MiB page: bits 13-20 hold physical address bits 32-39, those beyond MAXPHYADDR (or all,
 * without PSE-36) and bit 21 are reserved. SDM volume 3, table 4-4. */
static enum mmu_walk_status finish_4m(const struct cpu *cpu, u32 lin, struct mmu_walk *w) {
    unsigned high_bits = format(cpu)->has_pse36 ? MIN(phys_bits(cpu), 40u) - 32 : 0;
    u32 pde = (u32)w->entry[0], high_mask = ((1u << high_bits) - 1) << 13;
    if (pde & ((0x3fe000 & ~high_mask) | reserved_pat(cpu, PDE_PAT)))
        return MMU_WALK_RESERVED;
    u64 frame = (pde & 0xffc00000u) | (u64)(pde & high_mask) << 19;
    return finish(cpu, w, frame, 4u << 20, lin);
}

static enum mmu_walk_status walk_32(const struct cpu *cpu, u32 lin, struct mmu_walk *w) {
    w->entry_bytes = 4;
    if (!read_entry(cpu, w, (cpu->cr3 & ~0xfffu) + (lin >> 22) * 4))
        return MMU_WALK_NOT_PRESENT;
    if ((w->entry[0] & PTE_PS) && (cpu->cr4 & CR4_PSE))
        return finish_4m(cpu, lin, w);
    if (!read_entry(cpu, w, (w->entry[0] & ~0xfffull) + ((lin >> 12) & 1023) * 4))
        return MMU_WALK_NOT_PRESENT;
    /* Without CR4.PSE no bit is reserved in this format. */
    if (unlikely((cpu->cr4 & CR4_PSE) && (w->entry[1] & reserved_pat(cpu, PTE_PAT))))
        return MMU_WALK_RESERVED;
    return finish(cpu, w, w->entry[1] & ~0xfffull, PAGE_BYTES, lin);
}

enum mmu_walk_status mmu_walk_tables(const struct cpu *cpu, u32 lin, struct mmu_walk *w) {
    w->depth = 0;
    w->entry_bytes = 4;
    if (!cpu_paging(cpu)) {
        *w->x = (struct mmu_xlat){.gpa = GPA(mmu_mask_a20(cpu, lin)),
                                  .pte = lin & ~PAGE_OFFSET_MASK,
                                  .page_bytes = 4u << 20,
                                  .user = true,
                                  .writable = true,
                                  .dirty = true};
        return MMU_WALK_OK;
    }
    return cpu->cr4 & CR4_PAE ? walk_pae(cpu, lin, w) : walk_32(cpu, lin, w);
}

/* SDM volume 3, section 4.6 "Access Rights". */
bool mmu_access_allowed(const struct cpu *cpu, const struct mmu_xlat *x, unsigned access,
                        bool user) {
    if (!cpu_paging(cpu))
        return true;
    if ((access & MMU_FETCH) && x->no_execute)
        return false;
    if (user)
        return x->user && (x->writable || !(access & MMU_WRITE));
    if (x->user) {
        if ((access & MMU_FETCH) && (cpu->cr4 & CR4_SMEP))
            return false;
        if (!(access & MMU_FETCH) && (cpu->cr4 & CR4_SMAP) &&
            ((access & MMU_SUPERVISOR) || !(cpu->eflags & F_AC)))
            return false;
    }
    return !(access & MMU_WRITE) || x->writable || !(cpu->cr0 & CR0_WP);
}

static bool page_fault(struct cpu *cpu, u32 lin, unsigned access, bool user, u32 error) {
    bool reports_fetch = (cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE));
    if (access & MMU_WRITE)
        error |= PF_W;
    if (user)
        error |= PF_U;
    if ((access & MMU_FETCH) && reports_fetch)
        error |= PF_I;
    cpu_fault_error(cpu, VEC_PF, error);
    cpu->fault.cr2 = lin;
    return false;
}

/* Sets bits in entry i; false when the entry is no longer what the walk read. */
static bool set_bits(struct mmu *mmu, struct mmu_walk *w, unsigned i, u32 bits) {
    u64 old = w->entry[i], new = old | bits;
    if (old == new)
        return true;
    u64 gpa = w->entry_gpa[i];
    if (unlikely(!mmu_gpa_is_ram(mmu, gpa) ||
                 (mmu->code_page[gpa >> PAGE_SHIFT] & PAGE_IS_READ_ONLY))) {
        w->entry[i] = new; /* the write is lost */
        return true;
    }
    if (mmu->journal)
        mmu_journal_record(mmu, gpa, &new, w->entry_bytes);
    bool done;
    if (w->entry_bytes == 8) {
        done = __atomic_compare_exchange_n((u64 *)(mmu->ram + gpa), &old, new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        u32 old32 = (u32)old;
        done = __atomic_compare_exchange_n((u32 *)(mmu->ram + gpa), &old32, (u32) new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    w->entry[i] = new;
    if (done)
        mmu_code_note_write(mmu, gpa, w->entry_bytes);
    return done;
}

static bool set_accessed_dirty(struct cpu *cpu, struct mmu_walk *w, bool write) {
    for (unsigned i = 0; i < w->depth; i++) {
        bool leaf = i + 1 == w->depth;
        if (!set_bits(cpu->mmu, w, i, leaf && write ? PTE_A | PTE_D : PTE_A))
            return false;
    }
    if (w->depth) {
        w->x->pte = w->entry[w->depth - 1];
        w->x->dirty = w->x->pte & PTE_D;
    }
    return true;
}

bool mmu_translate(struct cpu *cpu, struct glin glin, unsigned access, bool user,
                   struct mmu_xlat *out) {
    u32 lin = (u32)glin.v;
    struct mmu_walk walk = {.x = out};
    for (;;) {
        switch (mmu_walk_tables(cpu, lin, &walk)) {
        case MMU_WALK_NOT_PRESENT:
            return page_fault(cpu, lin, access, user, 0);
        case MMU_WALK_RESERVED:
            return page_fault(cpu, lin, access, user, PF_P | PF_RSVD);
        case MMU_WALK_OK:
            break;
        }
        if (!mmu_access_allowed(cpu, out, access, user))
            return page_fault(cpu, lin, access, user, PF_P);
        /* Only another host thread can win a race, and it makes progress by winning. */
        if (set_accessed_dirty(cpu, &walk, access & MMU_WRITE))
            return true;
    }
}

bool mmu_probe(const struct cpu *cpu, struct glin lin, struct mmu_xlat *out) {
    struct mmu_walk walk = {.x = out};
    return mmu_walk_tables(cpu, (u32)lin.v, &walk) == MMU_WALK_OK;
}

/* SDM volume 3, section 4.4.1 "PDPTE Registers". CR3 bits 31:5 locate the four entries. */
bool mmu_load_pdptrs(struct cpu *cpu, u32 cr3) {
    u64 gpa = mmu_mask_a20(cpu, cr3 & ~0x1fu), entry[4];
    u64 reserved = ~(BIT64(phys_bits(cpu)) - 1) | 0x1e6;
    for (unsigned i = 0; i < 4; i++) {
        entry[i] = load64(mmu_table_at(cpu->mmu, gpa) + 8 * i);
        if ((entry[i] & PTE_P) && (entry[i] & reserved))
            return cpu_fault_error(cpu, VEC_GP, 0);
    }
    memcpy(cpu->pdptr, entry, sizeof entry);
    return true;
}
