/*
 * memory.c: which pages of the machine's memory are free: one bit per page of everything below the
 * end of RAM. Single pages come from the lowest that is free; larger blocks from where the last one
 * was found, so that gaps too small for them are not looked at again and again.
 */
#include "metal/boot_internal.h"

/* The direct map ends where the shared area begins. */
#define MAX_PAGES ((METAL_SHARED - METAL_DIRECT) >> PAGE_SHIFT)

static u64 *free_bits; /* 1: free */
static u64 pages_total, pages_free;
static u64 lowest;   /* no page below is free */
static u64 next_fit; /* where to look for a block first */
/* Larger ones than this are rare and do not move next_fit: they skip gaps that others can use. */
#define NEXT_FIT_MAX_PAGES 256

/* ---- The bitmap ---- */

/* First page at or after `page` that is free (or in use), or `end`. */
static u64 next_page(u64 page, u64 end, bool free) {
    while (page < end) {
        u64 word = free_bits[page / 64];
        word = (free ? word : ~word) >> (page % 64);
        if (word)
            return MIN(page + (u64)__builtin_ctzll(word), end);
        page = (page / 64 + 1) * 64;
    }
    return end;
}

static void set_pages(u64 page, u64 end, bool free) {
    while (page < end) {
        u64 in_word = MIN(64 - page % 64, end - page);
        u64 mask = (in_word == 64 ? ~0ull : BIT64(in_word) - 1) << (page % 64);
        if (free)
            free_bits[page / 64] |= mask;
        else
            free_bits[page / 64] &= ~mask;
        page += in_word;
    }
}

/* The first block at or after `page`, 0 without one. */
static u64 find_pages(u64 page, u64 pages, u64 align) {
    for (;;) {
        page = ALIGN_UP(next_page(page, pages_total, true), align);
        if (page + pages > pages_total)
            return 0;
        u64 used = next_page(page, page + pages, false);
        if (used == page + pages)
            return page;
        page = used;
    }
}

static u64 find_block(u64 pages, u64 align) {
    u64 page = find_pages(MAX(lowest, next_fit), pages, align);
    if (!page)
        page = find_pages(lowest, pages, align);
    if (page && pages <= NEXT_FIT_MAX_PAGES)
        next_fit = page + pages;
    return page;
}

u64 metal_pages_alloc(u64 pages, u64 align_pages) {
    RF_ASSERT(align_pages && !(align_pages & (align_pages - 1)));
    if (!pages || pages > pages_free)
        return 0;
    lowest = next_page(lowest, pages_total, true);
    u64 page = pages == 1 ? find_pages(lowest, 1, align_pages) : find_block(pages, align_pages);
    if (!page)
        return 0;
    set_pages(page, page + pages, false);
    if (page == lowest)
        lowest = page + pages;
    pages_free -= pages;
    return page << PAGE_SHIFT;
}

void metal_pages_free(u64 phys, u64 pages) {
    u64 page = phys >> PAGE_SHIFT;
    RF_ASSERT(page && page + pages <= pages_total);
    RF_ASSERT(next_page(page, page + pages, true) == page + pages);
    set_pages(page, page + pages, true);
    lowest = MIN(lowest, page);
    if (pages > 1)
        next_fit = MIN(next_fit, page);
    pages_free += pages;
}

u64 metal_pages_left(void) {
    return pages_free;
}

u64 metal_pages_largest(void) {
    u64 largest = 0;
    for (u64 page = 0; page < pages_total;) {
        u64 start = next_page(page, pages_total, true);
        page = next_page(start, pages_total, false);
        largest = MAX(largest, page - start);
    }
    return largest;
}

/* ---- At start ---- */

/* What memory that the map calls usable is taken by: the first MiB (the BIOS' data, buffers that
 * firmware still uses), the image, the modules, and what other entries of the map say. The one
 * number n, false after the last. */
static bool taken_range(const struct metal_boot_info *info, unsigned n, u64 *start, u64 *end) {
    if (n == 0) {
        *start = 0;
        *end = 1 << 20;
        return true;
    }
    if (n == 1) {
        *start = METAL_CONTAINER;
        *end = metal_image_end_phys();
        return true;
    }
    n -= 2;
    if (n < info->boot.modules) {
        *start = (u64)info->boot.module[n].data - METAL_DIRECT;
        *end = *start + info->boot.module[n].bytes;
        return true;
    }
    n -= info->boot.modules;
    if (n < info->ranges) {
        const struct metal_range *range = &info->range[n];
        *start = range->start;
        *end = range->kind == RANGE_USABLE ? range->start : range->end;
        return true;
    }
    return false;
}

/* A place for the bitmap: in usable memory below 4 GiB, which the boot page tables map. */
static u64 place_bitmap(const struct metal_boot_info *info, u64 bytes) {
    for (unsigned i = 0; i < info->ranges; i++) {
        const struct metal_range *range = &info->range[i];
        u64 at = ALIGN_UP(range->start, PAGE_BYTES), start, end;
        if (range->kind != RANGE_USABLE)
            continue;
        for (unsigned n = 0; taken_range(info, n, &start, &end); n++) {
            if (start < at + bytes && end > at) {
                at = ALIGN_UP(end, PAGE_BYTES);
                n = (unsigned)-1; /* look at all of them again */
            }
        }
        if (at + bytes <= range->end && at + bytes <= 1ull << 32)
            return at;
    }
    metal_fatal("no room for the map of free memory (%llu KiB)", (unsigned long long)bytes >> 10);
}

void metal_memory_init(const struct metal_boot_info *info) {
    for (unsigned i = 0; i < info->ranges; i++) {
        if (info->range[i].kind == RANGE_USABLE)
            pages_total = MAX(pages_total, info->range[i].end >> PAGE_SHIFT);
    }
    pages_total = MIN(pages_total, MAX_PAGES);
    u64 bytes = ALIGN_UP(ALIGN_UP(pages_total, 64) / 8, PAGE_BYTES);
    u64 bitmap = place_bitmap(info, bytes);
    free_bits = metal_phys_pointer(bitmap);
    memset(free_bits, 0, bytes);

    for (unsigned i = 0; i < info->ranges; i++) {
        const struct metal_range *range = &info->range[i];
        if (range->kind == RANGE_USABLE)
            set_pages(ALIGN_UP(range->start, PAGE_BYTES) >> PAGE_SHIFT,
                      MIN(range->end >> PAGE_SHIFT, pages_total), true);
    }
    u64 start, end;
    for (unsigned n = 0; taken_range(info, n, &start, &end); n++)
        set_pages(start >> PAGE_SHIFT, MIN(ALIGN_UP(end, PAGE_BYTES) >> PAGE_SHIFT, pages_total),
                  false);
    set_pages(bitmap >> PAGE_SHIFT, (bitmap + bytes) >> PAGE_SHIFT, false);
    for (u64 i = 0; i < ALIGN_UP(pages_total, 64) / 64; i++)
        pages_free += (u64)__builtin_popcountll(free_bits[i]);
}
