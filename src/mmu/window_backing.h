/*
 * window_backing.h: what the windows ask of the substrate. window_hosted.c answers with mappings of
 * a Linux process, window_metal.c with page-table entries; which of the two is linked decides.
 *
 * Places are a window and a page number in it, counts are pages, frames are guest physical page
 * numbers. Functions returning bool say false when the host refuses (out of memory or mappings);
 * what they were to change is then undefined.
 */
#ifndef RINGFOLD_MMU_WINDOW_BACKING_H
#define RINGFOLD_MMU_WINDOW_BACKING_H

#include "base/base.h"

struct mmu_windows;
struct window;
struct shadow_region;

/* What the host maps at one page: 0 for nothing, else frame << HOST_FRAME_SHIFT with HOST_P and
 * further rights, or with HOST_PARKED: the mapping is there but inaccessible. When hosted, parking
 * a page takes a third of the time that unmapping takes, and so does making it accessible again;
 * with one table nothing is ever parked. */
enum {
    HOST_P = 1,
    HOST_W = 2,
    HOST_PARKED = 4,
    HOST_U = 8,  /* one table: ring 3 may, too. Set exactly where the guest's page is a user page */
    HOST_X = 16, /* one table: ring 3 may execute. Only together with HOST_U */
    HOST_RIGHTS = 31,
    HOST_FRAME_SHIFT = 5,
    HOST_NEXT_FRAME = 1 << HOST_FRAME_SHIFT
};
static inline u32 host_frame(u32 host) {
    return host >> HOST_FRAME_SHIFT;
}

/* What this substrate starts with. When creation fails it is tried again with half of the users
 * and regions, down to the least. */
struct backing_limits {
    unsigned users, regions, least_regions;
    u32 map_limit; /* mappings that the host may have; not looked at with one table */
};
struct backing_limits backing_limits(void);

/* Takes what ws->users + 1 windows and ws->pool_regions regions need and sets their bases and the
 * traits in ws. False with errno set. */
bool backing_reserve(struct mmu_windows *ws);
void backing_release(struct mmu_windows *ws);

/* rights: HOST_P with perhaps W, U, X. All pages lie in one region. */
bool backing_map(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 frame,
                 u32 rights);
/* The same, or HOST_PARKED. Only parking may cover pages never mapped. */
bool backing_protect(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 rights);
/* Any number of pages, mapped or not. */
bool backing_unmap(struct mmu_windows *ws, struct window *w, u32 page, u32 pages);
/* Spares the minor faults of the page and of up to 15 neighbours mapped in the same call. */
void backing_populate(struct mmu_windows *ws, struct window *w, u32 page);

/* A region came into the books of a window (nothing mapped in it), or left them: nothing is mapped
 * in it any more, and window_region() does not find it. */
void backing_region_taken(struct mmu_windows *ws, struct window *w, const struct shadow_region *r);
void backing_region_released(struct mmu_windows *ws, struct window *w,
                             const struct shadow_region *r);
/* The window that is to be behind the slots where the kernel window has no region: a user window,
 * or the kernel window for none. */
void backing_select(struct mmu_windows *ws, const struct window *w);
/* Changes so far hold from the next guest instruction on (TLB). */
void backing_sync(struct mmu_windows *ws);

/* Compares what the host has with the books; NULL or a description. Tests only. */
const char *backing_check(struct mmu_windows *ws, char *text, size_t text_bytes);

#endif
