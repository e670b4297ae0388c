/*
 * fake_metal.h: the part of a bare machine that windows need: physical pages, a CR3 and an MMU. Its
 * TLB has room for everything and forgets nothing unasked, and it looks ahead: any page that a
 * program may touch can be in it, and any page directory entry in the paging-structure caches. So a
 * missing flush shows at the next access.
 */
#ifndef RINGFOLD_TESTS_FAKE_METAL_MACHINE_H
#define RINGFOLD_TESTS_FAKE_METAL_MACHINE_H

#include "metal/metal.h"

#include <stdlib.h>
#include <string.h>

#define FAKE_PHYS 0x100000ull /* physical address of the first page that is the monitor's */
#define FAKE_PAGES 8192u
#define FAKE_MONITOR_ROOT 0xfff000ull

static struct {
    u8 *memory;
    u8 taken[FAKE_PAGES];
    u64 limit; /* pages there are */
    u64 cr3;
    u64 (*tlb)[2]; /* by page: entry, and the flush count it is valid for */
    u64 directory_cache[2048][2];
    u64 flushes, directory_flushes;         /* valid: those made since */
    unsigned page_flush_calls, flush_calls; /* counted for tests */
} fake;

static void fake_start(void) {
    memset(&fake, 0, sizeof fake);
    fake.memory = calloc(FAKE_PAGES, 4096);
    fake.tlb = calloc(1u << 20, sizeof *fake.tlb);
    fake.limit = FAKE_PAGES;
    fake.cr3 = FAKE_MONITOR_ROOT;
    fake.flushes = fake.directory_flushes = 1;
}
static void fake_end(void) {
    free(fake.memory);
    free(fake.tlb);
}

/* ---- metal.h ---- */

void *metal_phys_pointer(u64 phys) {
    RF_ASSERT(phys - FAKE_PHYS < FAKE_PAGES * 4096ull);
    return fake.memory + (phys - FAKE_PHYS);
}
u64 metal_pages_left(void) {
    u64 left = fake.limit;
    for (u64 i = 0; i < FAKE_PAGES; i++)
        left -= fake.taken[i];
    return left;
}
u64 metal_pages_alloc(u64 pages, u64 align_pages) {
    RF_ASSERT(align_pages == 1);
    for (u64 first = 0, i = 0; metal_pages_left() >= pages && i < FAKE_PAGES; i++) {
        if (fake.taken[i])
            first = i + 1;
        if (i + 1 - first < pages)
            continue;
        memset(fake.taken + first, 1, pages);
        memset(fake.memory + first * 4096, 0xa5, pages * 4096);
        return FAKE_PHYS + first * 4096;
    }
    return 0;
}
void metal_pages_free(u64 phys, u64 pages) {
    u64 first = (phys - FAKE_PHYS) / 4096;
    for (u64 i = 0; i < pages; i++) {
        RF_ASSERT(fake.taken[first + i]);
        fake.taken[first + i] = 0;
    }
}
void metal_tlb_flush(void) {
    fake.flush_calls++;
    fake.flushes++;
    fake.directory_flushes++;
}
void metal_tlb_flush_page(u64 linear) {
    fake.page_flush_calls++;
    fake.tlb[linear >> 12][1] = 0;
    fake.directory_flushes++;
}
u64 metal_root_create(void) {
    u64 root = metal_pages_alloc(1, 1);
    if (root)
        memset(metal_phys_pointer(root), 0, 4096);
    return root;
}
void metal_root_destroy(u64 root) {
    RF_ASSERT(root != fake.cr3);
    metal_pages_free(root, 1);
}
u64 metal_root_current(void) {
    return fake.cr3;
}
u64 metal_root_monitor(void) {
    return FAKE_MONITOR_ROOT;
}
void metal_root_load(u64 root) {
    if (root == fake.cr3)
        return;
    fake.cr3 = root;
    fake.flushes++;
    fake.directory_flushes++;
}

/* ---- The MMU ---- */

/* The entry behind an index of a table in the fake's memory: present, with all its upper rights. */
static u64 fake_upper(u64 table, u64 index) {
    u64 entry = ((u64 *)metal_phys_pointer(table & METAL_PTE_ADDRESS))[index];
    u64 rights = METAL_PTE_P | METAL_PTE_W | METAL_PTE_U | METAL_PTE_A;
    if (!(entry & METAL_PTE_P))
        return 0;
    RF_ASSERT((entry & ~METAL_PTE_ADDRESS) == rights);
    return entry;
}

static u64 fake_directory_entry(u64 lin) {
    u64 *cached = fake.directory_cache[lin >> 21];
    if (cached[1] == fake.directory_flushes)
        return cached[0];
    u64 pdpt = fake_upper(fake.cr3, 0);
    u64 directory = pdpt ? fake_upper(pdpt, lin >> 30) : 0;
    u64 entry = directory ? fake_upper(directory, (lin >> 21) & 511) : 0;
    if (entry) {
        cached[0] = entry;
        cached[1] = fake.directory_flushes;
    }
    return entry;
}

/* The leaf entry that the hardware uses for lin: from the TLB if it is there, else from a walk that
 * fills it. 0: not present. */
static u64 fake_look_up(u64 lin) {
    u64 *cached = fake.tlb[lin >> 12];
    if (cached[1] == fake.flushes)
        return cached[0];
    u64 table = fake_directory_entry(lin);
    if (!table)
        return 0;
    u64 entry = ((u64 *)metal_phys_pointer(table & METAL_PTE_ADDRESS))[(lin >> 12) & 511];
    if (!(entry & METAL_PTE_P))
        return 0;
    cached[0] = entry;
    cached[1] = fake.flushes;
    return entry;
}

/* Host rings 1 and 3 under CR0.WP=1 and EFER.NXE=1: SDM volume 3, section 4.6 "Access Rights". A
 * refused access drops the entry: section 4.10.4.1 "Operations that Invalidate TLBs and
 * Paging-Structure Caches". */
static bool fake_access(bool ring3, u64 lin, bool write, bool fetch, u64 *phys) {
    u64 entry = lin < 1ull << 32 && fake.cr3 != FAKE_MONITOR_ROOT ? fake_look_up(lin) : 0;
    bool granted = entry && (!ring3 || (entry & METAL_PTE_U)) &&
                   (!write || (entry & METAL_PTE_W)) &&
                   (!fetch || (ring3 && !(entry & METAL_PTE_NX)));
    if (granted) {
        RF_ASSERT((entry & METAL_PTE_A) && (entry & METAL_PTE_D));
        *phys = (entry & METAL_PTE_ADDRESS) | (lin & 4095);
    } else if (lin < 1ull << 32) {
        fake.tlb[lin >> 12][1] = 0;
        fake.directory_cache[lin >> 21][1] = 0;
    }
    return granted;
}

#endif
