/*
 * window_hosted.c: windows in an ordinary Linux process. Shadow page tables are mappings of the
 * guest-RAM memfd; this file is the only one that makes them.
 *
 * No mapping reaches from one window into another, so dropping a window splits none and cannot fail
 * for want of one.
 */
#include "mmu/window.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define DEFAULT_USERS 48u
#define DEFAULT_REGIONS 1024u

#define RESERVE_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* Where windows may lie: far below the places where the kernel puts what has no wish. */
#define ARENA_FIRST 0x100000000000ull
#define ARENA_END 0x500000000000ull

/* Windows are holes in the address space, because mapping a page into a hole takes 3.1 us and into
 * a reservation, which it splits, 4.8. What marks the place as taken is one inaccessible page in
 * the guard below the first window: another VM's MAP_FIXED_NOREPLACE fails on it. */
bool backing_reserve(struct mmu_windows *ws) {
    unsigned windows = ws->users + 1;
    u64 bytes = WINDOW_BYTES + windows * WINDOW_STRIDE_BYTES;
    for (u64 at = ARENA_FIRST; at + bytes <= ARENA_END; at += ALIGN_UP(bytes, 1ull << 40)) {
        void *p = mmap((void *)at, bytes, PROT_NONE, RESERVE_FLAGS | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED)
            continue;
        if ((u64)p != at || munmap(p + PAGE_BYTES, bytes - PAGE_BYTES) != 0) {
            munmap(p, bytes);
            continue;
        }
        ws->reserve_base = at;
        ws->reserve_bytes = bytes;
        ws->first_base = at + WINDOW_BYTES;
        for (unsigned i = 0; i < windows; i++)
            ws->window[i].base = ws->first_base + i * WINDOW_STRIDE_BYTES;
        return true;
    }
    return false;
}

void backing_release(struct mmu_windows *ws) {
    if (ws->reserve_bytes)
        munmap((void *)ws->reserve_base, ws->reserve_bytes);
}

static inline void *host_address(const struct window *w, u32 page) {
    return (void *)(w->base + (u64)page * PAGE_BYTES);
}

bool backing_map(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 frame,
                 u32 rights) {
    int prot = PROT_READ | (rights & HOST_W ? PROT_WRITE : 0);
    ws->mmu->stat_host_maps++;
    int populate = pages == 1 ? MAP_POPULATE : 0; /* spares the touch that follows a fault */
    return mmap(host_address(w, page), (u64)pages * PAGE_BYTES, prot,
                MAP_SHARED | MAP_FIXED | MAP_NORESERVE | populate, ws->mmu->memory.fd,
                (off_t)frame << PAGE_SHIFT) != MAP_FAILED;
}

bool backing_protect(struct mmu_windows *ws, struct window *w, u32 page, u32 pages, u32 rights) {
    (void)ws;
    int prot = rights & HOST_W ? PROT_READ | PROT_WRITE : rights & HOST_P ? PROT_READ : PROT_NONE;
    return !mprotect(host_address(w, page), (u64)pages * PAGE_BYTES, prot);
}

bool backing_unmap(struct mmu_windows *ws, struct window *w, u32 page, u32 pages) {
    (void)ws;
    return munmap(host_address(w, page), (u64)pages * PAGE_BYTES) == 0;
}

/* A read fault lets the host map the whole aligned 64 KiB around it as far as the file has
 * pages, writable where the mapping is; a write fault maps one page only. So one page is populated
 * by reading: measured for a run of 16, 3 us, against 8 for MAP_POPULATE and 14 for POPULATE_WRITE.
 * A kernel older than 5.14 refuses, which costs minor faults later and nothing else. */
void backing_populate(struct mmu_windows *ws, struct window *w, u32 page) {
    (void)ws;
    int saved = errno;
    madvise(host_address(w, page), PAGE_BYTES, MADV_POPULATE_READ);
    errno = saved;
}

/* Each window lies at an address of its own and mmap changes what the next access finds: nothing
 * to link, to select or to flush. */
void backing_region_taken(struct mmu_windows *ws, struct window *w, const struct shadow_region *r) {
    (void)ws, (void)w, (void)r;
}
void backing_region_released(struct mmu_windows *ws, struct window *w,
                             const struct shadow_region *r) {
    (void)ws, (void)w, (void)r;
}
void backing_select(struct mmu_windows *ws, const struct window *w) {
    (void)ws, (void)w;
}
void backing_sync(struct mmu_windows *ws) {
    (void)ws;
}

static u32 map_limit(void) {
    char text[32] = "";
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, text, sizeof text - 1) < 0)
            text[0] = 0;
        close(fd);
    }
    long limit = strtol(text, NULL, 10);
    limit = limit > 0 ? MIN(limit, 1l << 30) : 65530;
    return (u32)(limit - limit / 4); /* the rest is for everybody else in the process */
}

struct backing_limits backing_limits(void) {
    return (struct backing_limits){.users = DEFAULT_USERS,
                                   .regions = DEFAULT_REGIONS,
                                   .least_regions = DEFAULT_REGIONS,
                                   .map_limit = map_limit()};
}

/* One mapping of the host inside the windows, as /proc/self/maps prints it. */
static const char *check_mapping(struct mmu_windows *ws, u64 start, u64 end, const char *perms,
                                 u64 offset, u32 *maps) {
    u64 index = (start - ws->first_base) / WINDOW_STRIDE_BYTES;
    if (index > ws->users)
        return NULL;
    const struct window *w = &ws->window[index];
    if (start >= w->base + WINDOW_BYTES)
        return memcmp(perms, "---", 3) ? "a guard is accessible" : NULL;
    if (end > w->base + WINDOW_BYTES)
        return "a mapping runs into the guard";
    maps[index]++;
    for (u64 at = start; at < end;) {
        u32 page = (u32)((at - w->base) >> PAGE_SHIFT);
        const struct shadow_region *r = window_region(ws, w, page / REGION_PAGES);
        u32 host = r ? r->host[page % REGION_PAGES] : 0;
        if ((perms[0] == 'r') != !!(host & HOST_P) || (perms[1] == 'w') != !!(host & HOST_W))
            return "host permissions differ from the books";
        if (host && (u64)host_frame(host) << PAGE_SHIFT != offset + (at - start))
            return "the host maps another frame than the books say";
        at += r ? PAGE_BYTES : (REGION_PAGES - page % REGION_PAGES) * (u64)PAGE_BYTES;
    }
    return NULL;
}

const char *backing_check(struct mmu_windows *ws, char *text, size_t text_bytes) {
    static const u32 no_maps[MMU_MAX_VIEWS];
    u32 maps[MMU_MAX_VIEWS];
    memcpy(maps, no_maps, sizeof maps);
    FILE *f = fopen("/proc/self/maps", "r");
    if (!f)
        return NULL;
    char line[512], perms[8];
    const char *bad = NULL;
    while (!bad && fgets(line, sizeof line, f)) {
        u64 start, end, offset;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64, &start, &end, perms, &offset) != 4)
            continue;
        if (start >= ws->first_base && end <= ws->reserve_base + ws->reserve_bytes)
            bad = check_mapping(ws, start, end, perms, offset, maps);
    }
    fclose(f);
    for (unsigned i = 0; !bad && i <= ws->users; i++) {
        /* The books count boundaries, holes' edges too, so they may only be above. */
        if (maps[i] > ws->window[i].maps + 1) {
            snprintf(text, text_bytes, "window %u: host counts %u mappings, the books %u", i,
                     maps[i], ws->window[i].maps + 1);
            bad = text;
        }
    }
    return bad;
}
