/*
 * mmu_internal.h: the structures behind mmu.h, visible so that hot paths inline. Only src/mmu
 * writes them.
 */
#ifndef RINGFOLD_MMU_INTERNAL_H
#define RINGFOLD_MMU_INTERNAL_H

#include "base/cpu.h"
#include "base/memory.h"

/* Soft TLB: direct-mapped by linear page number; for each privilege one for data and one for
 * fetches, so that code and the data it works on never evict each other. */
#define SOFTTLB_ENTRIES 1024
struct softtlb_entry {
    u32 read_tag, write_tag, fetch_tag; /* lin page | 1 when valid for that access, or 0 */
    u32 gpa_page;                       /* physical page number */
    u8 *host;                           /* host address of the page */
};
struct softtlb {
    struct softtlb_entry entry[SOFTTLB_ENTRIES];
    u64 used[SOFTTLB_ENTRIES / 64];  /* entries made since the last flush */
    u64 large[SOFTTLB_ENTRIES / 64]; /* those of them made from large pages */
    u32 used_words;                  /* bit n: used[n] is not 0 */
};
/* Which one, as an index into mmu->tlb. */
enum { SOFTTLB_USER = 1, SOFTTLB_FETCH = 2, SOFTTLB_COUNT = 4 };
/* Pages whose addresses differ by a power of two, as stacks and buffers often do, do not meet. */
static inline u32 softtlb_index(u32 lin) {
    u32 page = lin >> PAGE_SHIFT;
    return (page ^ page >> 10) % SOFTTLB_ENTRIES;
}

struct mmu_code_write {
    u64 gpa;
    u32 bytes;
};
#define MMU_CODE_QUEUE 64

struct mmu_windows; /* window.c */
struct mmu_journal;
struct mmu_xlat;

struct mmu {
    u8 *ram;
    u64 ram_bytes;
    struct memory_ram memory;
    u8 *code_page; /* one byte per RAM page, PAGE_*: not 0 means that writes need attention */
    const u8 *rom; /* rom_bytes, ending at 4 GiB; NULL: none */
    u32 rom_bytes;
    struct mmu_code_write code_queue[MMU_CODE_QUEUE];
    u32 code_queue_head, code_queue_tail;
    bool code_queue_overflow;
    struct softtlb tlb[SOFTTLB_COUNT];
    u8 phys_bits; /* guest's MAXPHYADDR; 0: ask the CPU model again for it and what follows */
    bool has_pat, has_pse36;
    struct mmu_journal *journal; /* NULL when not recording */
    struct mmu_windows *windows; /* NULL when only interp runs */
    bool user_window_settled;    /* not pending when last looked at, and nothing it goes by has
                                  * changed since: windows_unsettle */
    u32 translation_epoch;       /* changes whenever the soft TLB lets go of anything */
    u64 stat_hidden_faults, stat_true_faults, stat_emulate_faults, stat_fills, stat_pages_filled,
        stat_cr3_loads, stat_revalidated_regions, stat_dropped_pages, stat_window_evictions,
        stat_invlpg, stat_host_maps;
    _Alignas(8) u8 nothing[PAGE_BYTES]; /* all ones: what a table shows where nothing is */
};

/* What a page of RAM is besides RAM. Either way no window maps it writable. */
enum { PAGE_IS_CODE = 1 /* holds translated code */, PAGE_IS_READ_ONLY = 2 };

/* The host's copy of a byte of ROM (the rest of the page follows), NULL elsewhere. */
static inline const u8 *mmu_rom_at(const struct mmu *mmu, u64 gpa) {
    u64 offset = gpa - (0x100000000ull - mmu->rom_bytes);
    return offset < mmu->rom_bytes ? mmu->rom + offset : NULL;
}

static inline u64 mmu_mask_a20(const struct cpu *cpu, u64 gpa) {
    return unlikely(cpu->a20_masked) ? gpa & ~(1ull << 20) : gpa;
}

static inline bool mmu_gpa_is_ram(const struct mmu *mmu, u64 gpa) {
    return gpa < mmu->ram_bytes && (gpa < 0xa0000 || gpa >= 0xc0000);
}

/* Page-table entry bits common to both formats: SDM volume 3, section 4.3 "32-bit Paging" and
 * 4.4 "PAE Paging". */
enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_PAT = 1 << 7, /* of a PTE */
    PTE_G = 1 << 8,
    PDE_PAT = 1 << 12 /* of a large page */
};
#define PTE_NX BIT64(63)

/* Where a walk reads the guest's tables, from gpa to the end of the page: RAM, ROM, or ones where
 * neither is. */
const u8 *mmu_table_at(const struct mmu *mmu, u64 gpa);

/* One walk of the guest's tables (walk.c): the outcome and where its entries stand. */
enum mmu_walk_status { MMU_WALK_OK, MMU_WALK_NOT_PRESENT, MMU_WALK_RESERVED };
struct mmu_walk {
    struct mmu_xlat *x; /* filled when the status is MMU_WALK_OK */
    unsigned depth;     /* entries seen that hold an A bit: 0 (no paging) to 2 */
    unsigned entry_bytes;
    u64 entry_gpa[2];
    u64 entry[2]; /* the PDE, then the PTE */
};
enum mmu_walk_status mmu_walk_tables(const struct cpu *cpu, u32 lin, struct mmu_walk *walk);
/* The rights check at the end of a walk. */
bool mmu_access_allowed(const struct cpu *cpu, const struct mmu_xlat *x, unsigned access,
                        bool user);

bool mmu_user_window_pending_exact(const struct cpu *cpu);

/* Called wherever software changes RAM at gpa: queues the write when the page holds translated
 * code. Signal safe. */
void mmu_code_note_write(struct mmu *mmu, u64 gpa, u64 bytes);
/* Journals a change of RAM about to happen; call only while mmu->journal is set. */
void mmu_journal_record(struct mmu *mmu, u64 gpa, const void *new_value, unsigned bytes);

/* Called by code.c when a page becomes protected: makes it read-only in every window. */
void mmu_windows_protect_page(struct mmu *mmu, u64 gpa_page);
/* Releases the windows, if there are any (window.c). */
void mmu_windows_free(struct mmu *mmu);
/* The windows' part in the architectural events of mmu.h (window.c). */
void mmu_windows_cr3_loaded(struct cpu *cpu);
void mmu_windows_mode_changed(struct cpu *cpu);
void mmu_windows_invlpg(struct cpu *cpu, u32 lin);

#endif
