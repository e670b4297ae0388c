/*
 * mmu.h: guest memory. Guest RAM (mapped once flat), the guest page-table walker,
 * software-translated access for emulation, and the windows through which translated code reaches
 * guest memory directly.
 *
 * A window is 4 GiB of reserved host address space (plus guard) whose mapped pages are exactly the
 * guest pages it may touch. The kernel window serves virtual ring 0, one user window per address
 * space (CR3) serves ring 3. See docs/architecture.md.
 */
#ifndef RINGFOLD_MMU_MMU_H
#define RINGFOLD_MMU_MMU_H

#include "base/base.h"
#include "base/cpu.h"

enum mmu_access {
    MMU_READ = 0,
    MMU_WRITE = 1,
    MMU_FETCH = 2,
    MMU_SUPERVISOR = 4 /* implicit supervisor access (descriptor tables, TSS) whatever the CPL */
};

/* Why mmu_create failed, for one clear line. */
struct mmu_error {
    char text[160];
};

/* ---- Machine memory ---- */

/* ram_bytes: multiple of 4096, 1 MiB to 3 GiB. NULL with *err filled on failure. */
struct mmu *mmu_create(u64 ram_bytes, struct mmu_error *err);
void mmu_destroy(struct mmu *mmu);
u8 *mmu_ram(struct mmu *mmu);
u64 mmu_ram_bytes(const struct mmu *mmu);
/* Zeroes all of it, behind the MMU's back: mmu_phys_written tells. */
void mmu_ram_clear(struct mmu *mmu);
/* Guest physical addresses [A0000h, C0000h) are MMIO; all other addresses below ram_bytes are RAM;
 * everything above is MMIO, but for the ROM. */
static inline bool mmu_gpa_is_ram(const struct mmu *mmu, u64 gpa);
/* Puts an image, a multiple of 4 KiB and aligned to 8 bytes, right below 4 GiB: reads and fetches
 * find it, writes are lost. It is not RAM: translated code hands accesses to it over. The image
 * stays the caller's; NULL takes it out. */
void mmu_set_rom(struct mmu *mmu, const u8 *image, u32 bytes);
/* Makes whole pages of RAM read-only, as shadowed firmware is, or RAM like any other again: writes
 * by guest code are lost, physical ones are refused. */
void mmu_ram_set_read_only(struct mmu *mmu, struct gpa gpa, u64 bytes, bool on);
/* Gate A20: while not enabled, bit 20 of every physical address that the CPU makes reads as 0.
 * Windows do not know it: nothing translated may run while cpu->a20_masked. */
void mmu_set_a20(struct cpu *cpu, bool enabled);

/* ---- Page-table walker (walk.c) ---- */

struct mmu_xlat {
    struct gpa gpa;      /* translated address, offset included */
    u64 pte;             /* leaf entry as in guest memory after A/D updates */
    u32 page_bytes;      /* 4 KiB, 2 MiB or 4 MiB */
    bool user, writable; /* effective U/S and R/W over all levels */
    bool no_execute;     /* effective NX */
    bool global;         /* G with CR4.PGE */
    bool dirty;
};

/* Walks the guest's tables for an access at the given privilege (user: CPL 3 and not
 * MMU_SUPERVISOR). Sets A, and D for writes, like hardware. False: cpu->fault is the #PF (CR2 in
 * fault.cr2, not yet in CR2). Without paging: identity. SDM volume 3, chapter 4 "Paging". */
bool mmu_translate(struct cpu *cpu, struct glin lin, unsigned access, bool user,
                   struct mmu_xlat *out);
/* The same without side effects and without rights check: false if not present or malformed.
 * Signal safe. */
bool mmu_probe(const struct cpu *cpu, struct glin lin, struct mmu_xlat *out);
/* Loads the four PDPTEs for PAE from CR3; false: #GP(0) in cpu->fault (reserved bits). */
bool mmu_load_pdptrs(struct cpu *cpu, u32 cr3);

/* ---- Software access for emulation (access.c) ---- */

/* Linear accesses of 1-512 bytes, crossing pages correctly (both pages checked before either is
 * touched), wrapping at 4 GiB. user = (CPL == 3) unless MMU_SUPERVISOR. MMIO goes to cpu->bus.
 * Writes to pages with translated code are queued for invalidation. False: cpu->fault. */
bool mmu_read(struct cpu *cpu, u32 lin, void *buf, unsigned bytes, unsigned access);
bool mmu_write(struct cpu *cpu, u32 lin, const void *buf, unsigned bytes, unsigned access);
/* Checks a write of `bytes` at lin would succeed (sets A/D); for read-modify-write and for
 * pushing frames all-or-nothing. */
bool mmu_check_write(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access);
/* A host pointer for [lin, lin+bytes) inside one page of plain RAM with the access granted, or NULL
 * (no fault raised: fall back to mmu_read/mmu_write). For writes NULL also when the page holds
 * translated code. Valid until the next mmu call that changes mappings. */
void *mmu_host_pointer(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access);
/* Physical accesses by devices, debuggers and loaders. False when not RAM; reads find the ROM, too,
 * writes also fail on read-only pages. */
bool mmu_phys_read(struct mmu *mmu, struct gpa gpa, void *buf, u64 bytes);
bool mmu_phys_writable(const struct mmu *mmu, struct gpa gpa, u64 bytes);
bool mmu_phys_write(struct mmu *mmu, struct gpa gpa, const void *buf, u64 bytes);
/* Tells that a device wrote RAM behind the MMU's back. */
void mmu_phys_written(struct mmu *mmu, struct gpa gpa, u64 bytes);

/* The soft TLB behind the functions above; flushed by the functions below, exported for tests. */
void mmu_softtlb_flush(struct cpu *cpu);
void mmu_softtlb_flush_page(struct cpu *cpu, u32 lin);

/* ---- Architectural events: called by ringcomp and interp ---- */

/* CR3 written (cpu->cr3 already new): non-global translations die. */
void mmu_cr3_loaded(struct cpu *cpu);
/* CR0.PG/WP, CR4.PSE/PAE/PGE/SMEP/SMAP or EFER.NXE changed: all translations die. */
void mmu_mode_changed(struct cpu *cpu);
void mmu_invlpg(struct cpu *cpu, struct glin lin);
/* True when mmu_invlpg for this address makes no host call, uses general registers only and leaves
 * the kernel's view as it is, so that a light callout may make it; the same of a load of CR3. */
bool mmu_invlpg_is_light(const struct cpu *cpu, struct glin lin);
bool mmu_cr3_load_is_light(const struct cpu *cpu);

/* ---- Translated-code tracking (code.c) ---- */

/* Marks the physical page as holding translated (or interp-cached) code: it becomes read-only in
 * every window, and writes to it are reported. */
void mmu_code_protect(struct mmu *mmu, struct gpa page);
void mmu_code_unprotect(struct mmu *mmu, struct gpa page);
bool mmu_code_is_protected(const struct mmu *mmu, struct gpa page);
/* Drains one queued write to a protected page. False when the queue is empty. When more writes
 * came than the queue holds, *all is set once: assume every page was written. */
bool mmu_code_next_write(struct mmu *mmu, struct gpa *gpa, u32 *bytes, bool *all);

/* ---- Journal (access.c): lockstep's record of every RAM byte changed by software access ---- */
struct mmu_journal_entry {
    u64 gpa;
    u8 bytes;
    u8 old_value[16], new_value[16];
};
struct mmu_journal {
    struct mmu_journal_entry *entry; /* owned by the caller */
    u32 count, capacity;
    bool overflow; /* set when capacity was reached; later writes are not recorded */
};
/* While a journal is set, mmu_write and the walker's A/D updates record into it in order, and
 * mmu_host_pointer for writes returns NULL. NULL ends recording. */
void mmu_set_journal(struct mmu *mmu, struct mmu_journal *journal);

/* ---- Windows (window.c); their substrates in window_hosted.c and window_metal.c ---- */

enum mmu_fault_result {
    MMU_FAULT_FILLED, /* hidden fault: retry the instruction */
    MMU_FAULT_TRUE,   /* cpu->fault is the guest's #PF */
    MMU_FAULT_EMULATE /* MMIO, write to a code page, ...: emulate this one instruction */
};
/* Handles a host fault at lin in the current window of privilege `user`; MMU_FETCH is for ring 3
 * that executes its own pages. Signal safe (called by the host fault handler on the vCPU thread)
 * and free of x87 and SSE. */
enum mmu_fault_result mmu_window_access_fault(struct cpu *cpu, bool user, struct glin lin,
                                              enum mmu_access access);
enum mmu_fault_result mmu_window_fault(struct cpu *cpu, bool user, struct glin lin, bool write);
/* Host address of the current window of that privilege. Call mmu_current_view for the user window
 * before ring 3 runs again whenever mmu_user_window_pending: only then is the window brought up to
 * date with the flushes since, and selected where one page table serves both rings. */
u64 mmu_window_base(struct cpu *cpu, bool user);
static inline bool mmu_user_window_pending(const struct cpu *cpu);
/* The same for either privilege. Ring 0 needs it only where one page table serves both rings and
 * the guest has set CR4.SMAP: user pages are then out of reach while ring 0 runs. */
bool mmu_window_pending(const struct cpu *cpu, bool user);
/* True where that is so: then mmu_window_base, too, is due at every change of ring. */
bool mmu_window_by_ring(const struct cpu *cpu);
/* True when a host address lies in any window or its guards; *lin gets the linear address. */
bool mmu_window_contains(struct cpu *cpu, u64 host, bool user, struct glin *lin);
/* True when both privileges run on one page table (metal), so that ring 0 reaches an application's
 * pages through the application's own mappings. */
bool mmu_windows_shared(const struct cpu *cpu);
/* Foresight: maps the page of lin (and neighbours) if the guest's tables grant it already. */
void mmu_window_prefill(struct cpu *cpu, bool user, struct glin lin, bool write);

/* Fetch translation for the translator: like mmu_translate(MMU_FETCH) but remembers the page in the
 * current view, so that a change of its mapping bumps the view's epoch. */
bool mmu_fetch(struct cpu *cpu, struct glin lin, bool user, struct gpa *out);
/* A view is the fetch mapping in force. The id of the current view of that privilege (kernel: 0;
 * user windows: 1 + slot) and its epoch: when the epoch differs from the one remembered, every link
 * that leaves its page, every inline cache and return continuation made in the view is void. */
struct mmu_view {
    u32 id;
    u32 epoch;
};
struct mmu_view mmu_current_view(struct cpu *cpu, bool user);
#define MMU_MAX_VIEWS 128

/* Attach or detach the window machinery (bt only; interp alone needs none). False on failure of the
 * host (err filled). */
bool mmu_windows_create(struct cpu *cpu, struct mmu_error *err);
void mmu_windows_destroy(struct cpu *cpu);
/* Switches foresight (mapping neighbours of a faulting page) off or on; on by default. */
void mmu_windows_set_foresight(struct cpu *cpu, bool on);

/* Whole-structure validator for tests: every mapping in every window agrees with the guest PTE it
 * was filled from, no writable mapping of a protected page. NULL or a description. */
const char *mmu_validate(struct cpu *cpu);

#include "mmu/mmu_internal.h"

static inline bool mmu_user_window_pending(const struct cpu *cpu) {
    return unlikely(!cpu->mmu->user_window_settled) && mmu_user_window_pending_exact(cpu);
}

#endif
