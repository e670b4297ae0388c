/*
 * window_metal.c: windows on the bare machine. One page table per user window, and one more for the
 * time when none is chosen; all of them share the kernel window's page-table pages.
 *
 * Each region of the pool owns two hardware page tables (2 MiB each), so page-directory entries
 * change only when a region comes or goes. Page tables of free regions are all zero. What the TLB
 * must forget is collected and flushed in backing_sync; tables out of reach of the current root
 * need nothing, because loading a root flushes everything (no PCIDs, no global pages).
 */
#include "metal/metal.h"
#include "mmu/window.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_USERS 48u
#define DEFAULT_REGIONS 512u /* 21 KiB each */
#define LEAST_REGIONS 32u

/* Foresight must not cost more than it may save: a hidden fault takes some 2,500 instructions with
 * its trap, each further page of a run 220, of a large page 140. */
#define ENTRY_RUN_PAGES 4u
#define LARGE_RUN_PAGES 16u

#define FLUSH_PAGES 32u /* beyond that, flushing all costs less */

#define REGION_TABLES (REGION_PAGES / 512)
#define ROOT_PAGES 5u /* PDPT and the four page directories of 4 GiB, in this order */

/* SDM volume 3, section 4.5 "4-Level Paging": rights are decided in the last level. */
#define LINK (METAL_PTE_P | METAL_PTE_W | METAL_PTE_U | METAL_PTE_A)

struct root {
    u64 phys;       /* of the PML4 */
    u64 *directory; /* 2,048 entries of 2 MiB, contiguous */
};

struct backing {
    u64 (*table)[REGION_PAGES]; /* by pool index: the region's PTEs */
    u64 table_phys, table_pages;
    u64 root_phys, root_pages; /* everything below the PML4s */
    unsigned roots, loaded;    /* root[k] shows window k, root[0] the kernel window alone */
    bool flush_all;
    unsigned flush_count;
    u32 flush[FLUSH_PAGES]; /* page numbers */
    struct root root[];
};

/* ---- Creation ---- */

struct backing_limits backing_limits(void) {
    return (struct backing_limits){
        .users = DEFAULT_USERS, .regions = DEFAULT_REGIONS, .least_regions = LEAST_REGIONS};
}

static bool create_root(struct backing *b, unsigned index) {
    struct root *root = &b->root[index];
    u64 phys = b->root_phys + (u64)index * ROOT_PAGES * PAGE_BYTES;
    root->phys = metal_root_create();
    if (!root->phys)
        return false;
    u64 *pml4 = metal_phys_pointer(root->phys), *pdpt = metal_phys_pointer(phys);
    root->directory = pdpt + 512;
    for (u64 i = 0; i < 4; i++)
        pdpt[i] = (phys + (i + 1) * PAGE_BYTES) | LINK;
    pml4[0] = phys | LINK;
    return true;
}

bool backing_reserve(struct mmu_windows *ws) {
    unsigned roots = ws->users + 1;
    struct backing *b = calloc(1, sizeof *b + roots * sizeof b->root[0]);
    if (!b)
        return false;
    ws->backing = b;
    errno = ENOMEM;
    b->table_pages = (u64)ws->pool_regions * REGION_TABLES;
    b->root_pages = (u64)roots * ROOT_PAGES;
    b->table_phys = metal_pages_alloc(b->table_pages, 1);
    b->root_phys = metal_pages_alloc(b->root_pages, 1);
    if (!b->table_phys || !b->root_phys)
        return false;
    b->table = metal_phys_pointer(b->table_phys);
    memset(b->table, 0, b->table_pages * PAGE_BYTES);
    memset(metal_phys_pointer(b->root_phys), 0, b->root_pages * PAGE_BYTES);
    while (b->roots < roots) {
        if (!create_root(b, b->roots))
            return false;
        b->roots++;
    }
    b->loaded = ~0u;
    ws->one_table = true;
    ws->run_pages = ENTRY_RUN_PAGES;
    ws->large_run_pages = LARGE_RUN_PAGES;
    ws->reserve_bytes = WINDOW_STRIDE_BYTES; /* all windows lie at 0 */
    return true;
}

void backing_release(struct mmu_windows *ws) {
    struct backing *b = ws->backing;
    if (!b)
        return;
    metal_root_load(metal_root_monitor());
    while (b->roots)
        metal_root_destroy(b->root[--b->roots].phys);
    if (b->table_phys)
        metal_pages_free(b->table_phys, b->table_pages);
    if (b->root_phys)
        metal_pages_free(b->root_phys, b->root_pages);
    free(b);
    ws->backing = NULL;
}

/* ---- The TLB ---- */

static inline unsigned index_of(const struct mmu_windows *ws, const struct window *w) {
    return (unsigned)(w - ws->window);
}
/* The kernel window is in every root. */
static inline bool in_reach(const struct mmu_windows *ws, const struct window *w) {
    unsigned index = index_of(ws, w);
    return index == 0 || index == ws->backing->loaded;
}

static void flush_later(struct backing *b, u32 page) {
    if (b->flush_count == FLUSH_PAGES)
        b->flush_all = true;
    else
        b->flush[b->flush_count++] = page;
}

void backing_sync(struct mmu_windows *ws) {
    struct backing *b = ws->backing;
    if (b->flush_all)
        metal_tlb_flush();
    else
        for (unsigned i = 0; i < b->flush_count; i++)
            metal_tlb_flush_page((u64)b->flush[i] << PAGE_SHIFT);
    b->flush_all = false;
    b->flush_count = 0;
}

void backing_select(struct mmu_windows *ws, const struct window *w) {
    struct backing *b = ws->backing;
    b->loaded = index_of(ws, w);
    metal_root_load(b->root[b->loaded].phys);
}

/* ---- Page-table entries ---- */

static inline u64 *entries_of(const struct mmu_windows *ws, const struct shadow_region *r) {
    return ws->backing->table[r - ws->pool];
}

/* A and D are set beforehand, which spares the hardware its locked updates. */
static u64 right_bits(u32 rights) {
    return METAL_PTE_P | METAL_PTE_A | METAL_PTE_D | (rights & HOST_W ? METAL_PTE_W : 0) |
           (rights & HOST_U ? METAL_PTE_U : 0) | (rights & HOST_X ? 0 : METAL_PTE_NX);
}

/* Must the TLB forget the old entry? More rights than it remembers need no flush: the access
 * faults once at most, and a fault drops the entry. SDM volume 3, section 4.10.4.3 "Optional
 * Invalidation". */
static inline bool takes_away(u64 old, u64 new) {
    u64 lost = old & ~new, gained = new & ~old;
    if (!(old & METAL_PTE_P))
        return false;
    return (lost & (METAL_PTE_P | METAL_PTE_W | METAL_PTE_U)) || (gained & METAL_PTE_NX) ||
           ((lost | gained) & METAL_PTE_ADDRESS);
}

static inline void set_entry(struct backing *b, volatile u64 *entry, u64 value, u32 page,
                             bool reached) {
    u64 old = *entry;
    *entry = value;
    if (reached && takes_away(old, value))
        flush_later(b, page);
}

/* The entry of a page whose region is there. */
static inline u64 *entry_of(const struct mmu_windows *ws, const struct window *w, u32 page) {
    return ws->backing->table[w->region[page / REGION_PAGES] - 1] + page % REGION_PAGES;
}

bool backing_map(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 frame,
                 u32 rights) {
    u64 *entry = entry_of(ws, w, page);
    u64 value = (ws->mmu->memory.phys + ((u64)frame << PAGE_SHIFT)) | right_bits(rights);
    bool reached = in_reach(ws, w);
    ws->mmu->stat_host_maps++;
    for (u32 i = 0; i < pages; i++, value += PAGE_BYTES)
        set_entry(ws->backing, entry + i, value, page + i, reached);
    return true;
}

bool backing_protect(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 rights) {
    u64 *entry = entry_of(ws, w, page);
    u64 bits = right_bits(rights);
    bool reached = in_reach(ws, w);
    for (u32 i = 0; i < pages; i++)
        set_entry(ws->backing, entry + i, (entry[i] & METAL_PTE_ADDRESS) | bits, page + i, reached);
    return true;
}

bool backing_unmap(struct mmu_windows *ws, struct window *w, u32 page, u32 pages) {
    struct backing *b = ws->backing;
    bool reached = in_reach(ws, w);
    for (u32 end = page + pages; page < end;) {
        u32 next = MIN(end, (page / REGION_PAGES + 1) * REGION_PAGES);
        bool there = w->region[page / REGION_PAGES];
        u64 *entry = there ? entry_of(ws, w, page) : NULL;
        for (; there && page < next; page++, entry++)
            if (*entry)
                set_entry(b, entry, 0, page, reached);
        page = next;
    }
    return true;
}

/* No minor faults here: entries are complete. */
void backing_populate(struct mmu_windows *ws, struct window *w, u32 page) {
    (void)ws, (void)w, (void)page;
}

/* ---- Links ---- */

/* Points a root's directory entries of one slot at a region's tables, or at nothing. */
static void link_slot(struct mmu_windows *ws, unsigned root, u32 slot,
                      const struct shadow_region *r) {
    struct backing *b = ws->backing;
    volatile u64 *pde = b->root[root].directory + slot * REGION_TABLES;
    u64 phys = r ? b->table_phys + (u64)(r - ws->pool) * REGION_TABLES * PAGE_BYTES : 0;
    bool was_linked = pde[0] != 0;
    for (u64 i = 0; i < REGION_TABLES; i++)
        pde[i] = r ? (phys + i * PAGE_BYTES) | LINK : 0;
    if (root != b->loaded || !was_linked)
        return;
    /* The tables linked before: empty, but perhaps still in the paging-structure caches, which
     * INVLPG of any page empties; or a user window's, which go on holding what now is hidden. */
    if (r)
        b->flush_all = true;
    else
        flush_later(b, slot * REGION_PAGES);
}

void backing_region_taken(struct mmu_windows *ws, struct window *w, const struct shadow_region *r) {
    unsigned index = index_of(ws, w);
    if (index && !window_region(ws, &ws->window[0], r->slot))
        link_slot(ws, index, r->slot, r);
    for (unsigned k = 0; !index && k < ws->backing->roots; k++)
        link_slot(ws, k, r->slot, r);
}

void backing_region_released(struct mmu_windows *ws, struct window *w,
                             const struct shadow_region *r) {
    unsigned index = index_of(ws, w);
    if (index && !window_region(ws, &ws->window[0], r->slot))
        link_slot(ws, index, r->slot, NULL);
    for (unsigned k = 0; !index && k < ws->backing->roots; k++)
        link_slot(ws, k, r->slot, k ? window_region(ws, &ws->window[k], r->slot) : NULL);
}

/* ---- Validator ---- */

static const char *check_entries(const struct mmu_windows *ws, const struct window *w) {
    for (u32 k = 0; k < w->count; k++) {
        const struct shadow_region *r = &ws->pool[w->region[w->list[k]] - 1];
        const u64 *entry = entries_of(ws, r);
        for (u32 i = 0; i < REGION_PAGES; i++) {
            u32 host = r->host[i];
            u64 frame = ws->mmu->memory.phys + ((u64)host_frame(host) << PAGE_SHIFT);
            if (host & HOST_PARKED)
                return "a page is parked";
            if (entry[i] != (host ? frame | right_bits(host) : 0))
                return "a page-table entry is not what the books say";
        }
    }
    return NULL;
}

static const char *check_links(struct mmu_windows *ws, unsigned k) {
    const struct backing *b = ws->backing;
    const u64 *pml4 = metal_phys_pointer(b->root[k].phys);
    u64 phys = b->root_phys + (u64)k * ROOT_PAGES * PAGE_BYTES;
    const u64 *pdpt = metal_phys_pointer(phys);
    for (u64 i = 0; i < 512; i++) {
        if (pdpt[i] != (i < 4 ? (phys + (i + 1) * PAGE_BYTES) | LINK : 0) ||
            (i < 256 && pml4[i] != (i ? 0 : phys | LINK)))
            return "the upper levels are damaged";
    }
    for (u32 slot = 0; slot < WINDOW_REGIONS; slot++) {
        const struct shadow_region *r = window_region(ws, &ws->window[0], slot);
        if (!r && k)
            r = window_region(ws, &ws->window[k], slot);
        for (u64 i = 0; i < REGION_TABLES; i++) {
            u64 at = r ? b->table_phys + ((u64)(r - ws->pool) * REGION_TABLES + i) * PAGE_BYTES : 0;
            if (b->root[k].directory[slot * REGION_TABLES + i] != (r ? at | LINK : 0))
                return "a page directory links the wrong page table";
        }
    }
    return NULL;
}

const char *backing_check(struct mmu_windows *ws, char *text, size_t text_bytes) {
    const struct backing *b = ws->backing;
    if (b->flush_all || b->flush_count)
        return "the TLB was not flushed";
    if (&ws->window[b->loaded] != ws->selected || metal_root_current() != b->root[b->loaded].phys)
        return "the page table in force is not the selected one";
    for (u16 index = ws->free_region; index; index = ws->pool[index - 1].next_free)
        for (u32 i = 0; i < REGION_PAGES; i++)
            if (b->table[index - 1][i])
                return "a page table outside all windows is not empty";
    for (unsigned k = 0; k < b->roots; k++) {
        const char *bad = check_entries(ws, &ws->window[k]);
        if (!bad)
            bad = check_links(ws, k);
        if (bad) {
            snprintf(text, text_bytes, "window %u: %s", k, bad);
            return text;
        }
    }
    return NULL;
}
