/*
 * window.h: what the files of the window machinery share. window.c decides, window_region.c keeps
 * the books of each 4 MiB, and behind window_backing.h stands the substrate: mappings of a Linux
 * process (window_hosted.c) or real page-table entries (window_metal.c).
 *
 * One table: real page tables serve both privileges at once, told apart by their U/S bits. The
 * windows keep their books as ever; which of them is behind an address goes by its 4 MiB slot: the
 * kernel window where it has a region there, user pages among supervisor pages included, and the
 * current user window elsewhere.
 *
 * Nothing here allocates after mmu_windows_create: the host fault handler runs through all of it.
 */
#ifndef RINGFOLD_MMU_WINDOW_H
#define RINGFOLD_MMU_WINDOW_H

#include "mmu/mmu.h"
#include "mmu/window_backing.h"

#define WINDOW_BYTES (1ull << 32)
#define WINDOW_STRIDE_BYTES (2ull << 32) /* the upper half is the guard */
#define WINDOW_PAGES (1u << 20)
#define WINDOW_REGIONS 1024u
#define REGION_SHIFT 22
#define REGION_PAGES 1024u
#define RUN_PAGES 16u /* when hosted, foresight looks at this aligned run of neighbours */

/* INVLPGs remembered for the user window before all of it is revalidated instead. */
#define MAX_PENDING 32u

/* Flags of a live page (one that is mapped or fetched from). */
enum { PAGE_FETCHED = 1, PAGE_GLOBAL = 2 };

/* The books of 4 MiB of one window. "Half" is what one PDE covers: 4 MiB with 32-bit paging
 * (only half 0 is used), 2 MiB with PAE. snapshot holds the page-table entries as they were when
 * the pages were filled; entries of pages that are not live mean nothing, but those between lo and
 * hi are kept near the truth so that the common comparison is one memcmp. */
struct shadow_region {
    u16 slot;       /* linear address >> 22 */
    u16 list_index; /* in window.list */
    u16 live;       /* pages mapped or fetched; parked ones do not count */
    u16 parked;
    u16 next_free;    /* pool index + 1 */
    u16 lo[2], hi[2]; /* per half: first and last page ever live; lo > hi: none */
    u64 pde[2];
    u32 host[REGION_PAGES];
    u8 flags[REGION_PAGES];
    u8 snapshot[2 * PAGE_BYTES];
};

struct window {
    u64 base;
    bool user;
    bool assigned; /* user: key is valid */
    u64 key;       /* CR3 and table format */
    u64 last_use;
    u32 epoch;
    u32 maps; /* host mappings beyond the first */
    u16 count;
    u16 list[WINDOW_REGIONS];   /* slots of populated regions */
    u16 region[WINDOW_REGIONS]; /* pool index + 1, by slot */
    u16 weak[WINDOW_REGIONS];   /* live pages that are not global, by slot */
};

/* Writable mappings of one physical page: how many, and where the latest were made. Hints may be
 * stale, the count never is. */
struct rmap {
    u32 kernel_page, user_page; /* linear page numbers */
    u16 user_window;
    u32 writable;
};

struct mmu_windows {
    struct mmu *mmu;
    unsigned users;           /* user windows; window[0] is the kernel's, 1.. the users' */
    int current;              /* current user window, or 0 when none is chosen */
    bool stale;               /* CR3 changed since the current user window was chosen */
    u32 pending[MAX_PENDING]; /* pages of the current user window flushed since it was last used */
    unsigned pending_count;
    struct mmu_view seen; /* of the user window, as mmu_current_view last told it */
    u64 tick;
    u64 mode; /* paging mode bits the windows were filled under */
    u32 maps, map_limit;
    u32 last_lin; /* no-progress detector */
    unsigned last_repeats;
    bool foresight; /* map neighbours too */

    /* What the substrate is like, set by backing_reserve. */
    struct backing *backing;
    bool one_table;
    const struct window *selected;  /* one table: window[0], or the user window it shows as well */
    u32 run_pages, large_run_pages; /* one table: foresight's aligned runs, powers of two */
    u64 reserve_base, reserve_bytes, first_base;
    struct shadow_region *pool;
    unsigned pool_regions;
    u16 free_region; /* pool index + 1 */
    struct rmap *rmap;
    u32 want[REGION_PAGES]; /* scratch of fill and revalidation */
    struct window window[];
};

/* Like mmu_windows_create with its bounds spelled out, for tests. */
bool mmu_windows_create_sized(struct cpu *cpu, unsigned users, unsigned regions, u32 map_limit,
                              struct mmu_error *err);

static inline struct shadow_region *window_region(struct mmu_windows *ws, const struct window *w,
                                                  u32 slot) {
    u16 index = w->region[slot];
    return index ? &ws->pool[index - 1] : NULL;
}
/* After any change of what mmu_window_pending looks at that may make it true. */
static inline void windows_unsettle(struct mmu_windows *ws) {
    ws->mmu->user_window_settled = false;
}
/* The fetch mapping of a window has changed. */
static inline void window_next_epoch(struct mmu_windows *ws, struct window *w) {
    w->epoch++;
    windows_unsettle(ws);
}
static inline bool region_page_live(const struct shadow_region *r, u32 i) {
    return (r->host[i] & HOST_P) || (r->flags[i] & PAGE_FETCHED);
}

/* ---- window_region.c ---- */

enum half_kind { HALF_NONE, HALF_TABLE, HALF_LARGE };
struct half {
    u64 pde;
    enum half_kind kind;
    const u8 *table; /* HALF_TABLE: the page table in flat RAM */
};
static inline bool tables_are_pae(const struct cpu *cpu) {
    return cpu_paging(cpu) && (cpu->cr4 & CR4_PAE);
}
static inline u32 half_pages(const struct cpu *cpu) {
    return tables_are_pae(cpu) ? 512 : 1024;
}
static inline u32 entry_bytes(const struct cpu *cpu) {
    return tables_are_pae(cpu) ? 8 : 4;
}
static inline u64 load_entry(const u8 *table, u32 i, u32 bytes) {
    return bytes == 8 ? load64(table + i * 8) : load32(table + i * 4);
}
enum half_kind half_kind_of(const struct cpu *cpu, u64 pde);
struct half half_now(const struct cpu *cpu, u32 slot, u32 half);

/* What the window should map at lin by the guest's tables, without side effects: 0 where
 * nothing, A=0 included. */
u32 region_wanted(const struct cpu *cpu, const struct window *w, u32 lin);

/* May invalidating this page change what a fetch depends on? */
bool region_page_fetched(const struct cpu *cpu, const struct shadow_region *r, u32 lin);

/* Does invalidating this page find everything as it is? */
bool region_page_settled(const struct cpu *cpu, const struct shadow_region *r, u32 lin);

enum fill_result { FILL_DONE, FILL_NO_ROOM, FILL_HOST_FAILED };
/* Maps the page of lin, which the tables grant with A=1, and its neighbours by foresight; only
 * the page itself when `alone`. */
enum fill_result region_fill(struct cpu *cpu, struct window *w, u32 lin, bool alone);
/* Remembers that code is fetched from the page of lin, just walked. False when the books are
 * full. */
bool region_note_fetch(struct cpu *cpu, struct window *w, u32 lin);
/* Brings the window in line with the guest's tables. Global pages of the kernel window are
 * skipped when `skip_global`; `force` re-examines entries that did not change. */
void window_revalidate(struct cpu *cpu, struct window *w, bool skip_global, bool force);
void window_revalidate_pages(struct cpu *cpu, struct window *w, const u32 *lin, unsigned count);
void window_revalidate_page(struct cpu *cpu, struct window *w, u32 lin);
/* Unmaps everything, in one host call when hosted. */
void window_drop(struct mmu_windows *ws, struct window *w);
/* Gives host mappings and regions back by dropping the least valuable window; `keep` goes last. */
void windows_make_room(struct mmu_windows *ws, struct window *keep);

#endif
