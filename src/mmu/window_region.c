/*
 * window_region.c: the books of a window. For each 4 MiB with anything mapped: what the host maps
 * at each page, the guest's entries it was filled from, and the one routine (apply) that changes
 * host mappings, in as few calls as it can, keeping books, mapping count and reverse map in step.
 *
 * Rule: a snapshot entry of a live page is the entry its mapping came from. Whoever refreshes the
 * entry first brings mapping and fetch mark in line with it.
 */
#include "mmu/window.h"

/* Changed frames that one revalidation of a half maps anew. Beyond that, parking them in one call
 * per run is cheaper, and who changed so many will not touch them all at once. */
#define REMAPS_PER_HALF 8

/* ---- The guest's tables ---- */

enum half_kind half_kind_of(const struct cpu *cpu, u64 pde) {
    if (!cpu_paging(cpu))
        return HALF_LARGE;
    if (!(pde & PTE_P))
        return HALF_NONE;
    if ((pde & PTE_PS) && (cpu->cr4 & (CR4_PSE | CR4_PAE)))
        return HALF_LARGE;
    return HALF_TABLE;
}

struct half half_now(const struct cpu *cpu, u32 slot, u32 half) {
    const struct mmu *mmu = cpu->mmu;
    struct half h = {.pde = 0};
    u64 address = BIT64(52) - 1 - PAGE_OFFSET_MASK;
    if (tables_are_pae(cpu)) {
        u64 pdpte = cpu->pdptr[slot >> 8];
        if (pdpte & PTE_P)
            h.pde = load64(mmu_table_at(mmu, (pdpte & address) + ((slot * 2 + half) & 511) * 8));
    } else if (cpu_paging(cpu)) {
        h.pde = load32(mmu_table_at(mmu, (cpu->cr3 & ~PAGE_OFFSET_MASK) + slot * 4));
    }
    h.kind = half_kind_of(cpu, h.pde);
    if (h.kind == HALF_TABLE)
        h.table = mmu_table_at(mmu, h.pde & address);
    return h;
}

/* The rights of a page where one table serves both rings. Ring 0 may not write through a user page
 * what ring 3 may not: under CR0.WP=0 such a write is emulated. */
static u32 shared_rights(const struct cpu *cpu, const struct mmu_xlat *x) {
    if (!x->user)
        return x->writable || !(cpu->cr0 & CR0_WP) ? HOST_W : 0;
    return HOST_U | (x->writable ? HOST_W : 0) | (x->no_execute ? 0 : HOST_X);
}

/* What a granted translation means for the host mapping. */
static u32 host_value(const struct cpu *cpu, const struct window *w, const struct mmu_xlat *x) {
    const struct mmu *mmu = cpu->mmu;
    bool smap = cpu_paging(cpu) && (cpu->cr4 & CR4_SMAP);
    if ((w->user && !x->user) || (!w->user && x->user && smap))
        return 0;
    if (!mmu_gpa_is_ram(mmu, x->gpa.v))
        return 0;
    u32 frame = (u32)(x->gpa.v >> PAGE_SHIFT);
    bool granted = x->writable || (!w->user && !(cpu->cr0 & CR0_WP));
    u32 rights = granted ? HOST_W : 0;
    if (mmu->windows->one_table)
        rights = shared_rights(cpu, x);
    if (!x->dirty || mmu->code_page[frame])
        rights &= ~(u32)HOST_W;
    return frame << HOST_FRAME_SHIFT | rights | HOST_P;
}

u32 region_wanted(const struct cpu *cpu, const struct window *w, u32 lin) {
    struct mmu_xlat x;
    struct mmu_walk walk = {.x = &x};
    if (mmu_walk_tables(cpu, lin, &walk) != MMU_WALK_OK)
        return 0;
    for (unsigned i = 0; i < walk.depth; i++)
        if (!(walk.entry[i] & PTE_A))
            return 0;
    return host_value(cpu, w, &x);
}

/* ---- Counting mappings: the kernel merges neighbours that continue each other ---- */

static u32 host_at(struct mmu_windows *ws, const struct window *w, u32 page) {
    const struct shadow_region *r = window_region(ws, w, page / REGION_PAGES);
    return r ? r->host[page % REGION_PAGES] : 0;
}
static inline bool is_boundary(u32 a, u32 b) {
    return a && b ? b != a + HOST_NEXT_FRAME : a != b;
}

/* Boundaries touching pages [first, first + n) of the region if they held v. */
static u32 count_boundaries(struct mmu_windows *ws, const struct window *w,
                            const struct shadow_region *r, u32 first, u32 n, const u32 *v) {
    u32 page = r->slot * REGION_PAGES + first, count = 0;
    if (ws->one_table) /* page tables do not run out */
        return 0;
    if (page)
        count += is_boundary(host_at(ws, w, page - 1), v[0]);
    for (u32 i = 1; i < n; i++)
        count += is_boundary(v[i - 1], v[i]);
    if (page + n < WINDOW_REGIONS * REGION_PAGES)
        count += is_boundary(v[n - 1], host_at(ws, w, page + n));
    return count;
}

static void add_maps(struct mmu_windows *ws, struct window *w, u32 after, u32 before) {
    w->maps += after - before;
    ws->maps += after - before;
}

/* ---- Books of one page ---- */

static void note_writable(struct mmu_windows *ws, const struct window *w, u32 page, u32 frame) {
    struct rmap *m = &ws->rmap[frame];
    m->writable++;
    if (w->user) {
        m->user_page = page;
        m->user_window = (u16)(w - ws->window);
    } else {
        m->kernel_page = page;
    }
}

static void set_page(struct mmu_windows *ws, struct window *w, struct shadow_region *r, u32 i,
                     u32 host, u8 flags) {
    u32 old = r->host[i];
    u8 old_flags = r->flags[i];
    bool was = (old & HOST_P) || (old_flags & PAGE_FETCHED);
    bool is = (host & HOST_P) || (flags & PAGE_FETCHED);
    if (!is)
        flags = 0;
    r->live += is - was;
    r->parked += !!(host & HOST_PARKED) - !!(old & HOST_PARKED);
    w->weak[r->slot] += (is && !(flags & PAGE_GLOBAL)) - (was && !(old_flags & PAGE_GLOBAL));
    if (old != host) {
        if (old & HOST_W)
            ws->rmap[host_frame(old)].writable--;
        if (host & HOST_W)
            note_writable(ws, w, r->slot * REGION_PAGES + i, host_frame(host));
        r->host[i] = host;
    }
    r->flags[i] = flags;
}

/* ---- Regions ---- */

static struct shadow_region *region_get(struct cpu *cpu, struct window *w, u32 slot) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct shadow_region *r = window_region(ws, w, slot);
    if (r)
        return r;
    if (!ws->free_region)
        windows_make_room(ws, w);
    if (!ws->free_region)
        return NULL;
    u16 index = ws->free_region;
    r = &ws->pool[index - 1];
    ws->free_region = r->next_free;
    r->slot = (u16)slot;
    r->list_index = w->count;
    r->live = r->parked = 0;
    memset(r->host, 0, sizeof r->host);
    memset(r->flags, 0, sizeof r->flags);
    for (u32 half = 0; half < 2; half++) {
        r->lo[half] = REGION_PAGES;
        r->hi[half] = 0;
        r->pde[half] = half_now(cpu, slot, half).pde;
    }
    w->list[w->count++] = (u16)slot;
    w->region[slot] = index;
    w->weak[slot] = 0;
    backing_region_taken(ws, w, r);
    backing_sync(ws);
    return r;
}

static void region_release(struct mmu_windows *ws, struct window *w, struct shadow_region *r) {
    u16 last = w->list[--w->count];
    w->list[r->list_index] = last;
    window_region(ws, w, last)->list_index = r->list_index;
    w->region[r->slot] = 0;
    backing_region_released(ws, w, r);
    r->next_free = ws->free_region;
    ws->free_region = (u16)(r - ws->pool + 1);
}

void window_drop(struct mmu_windows *ws, struct window *w) {
    if (!w->count)
        return;
    /* No mapping is split here, so only a host without any memory left could refuse. */
    bool done = backing_unmap(ws, w, 0, WINDOW_PAGES);
    RF_ASSERT(done);
    while (w->count) {
        struct shadow_region *r = window_region(ws, w, w->list[w->count - 1]);
        for (u32 i = 0; i < REGION_PAGES; i++) {
            ws->mmu->stat_dropped_pages += r->host[i] & HOST_P;
            if (r->host[i] & HOST_W)
                ws->rmap[host_frame(r->host[i])].writable--;
        }
        w->weak[r->slot] = 0;
        region_release(ws, w, r);
    }
    ws->maps -= w->maps;
    w->maps = 0;
    window_next_epoch(ws, w);
    backing_sync(ws);
}

/* Gives a region back that has nothing live any more; parked pages go in one call. */
static void region_retire(struct mmu_windows *ws, struct window *w, struct shadow_region *r) {
    static const u32 nothing[REGION_PAGES];
    if (r->live)
        return;
    if (r->parked) {
        u32 before = count_boundaries(ws, w, r, 0, REGION_PAGES, r->host);
        u32 after = count_boundaries(ws, w, r, 0, REGION_PAGES, nothing);
        if (!backing_unmap(ws, w, (u32)r->slot * REGION_PAGES, REGION_PAGES)) {
            window_drop(ws, w);
            return;
        }
        memcpy(r->host, nothing, sizeof nothing);
        add_maps(ws, w, after, before);
    }
    region_release(ws, w, r);
    backing_sync(ws);
}

/* ---- Changing host mappings ---- */

/* The four kinds of call. Each takes the longest run from k on that one call can serve and
 * returns its end, or 0 when the host refused. */
struct change {
    struct mmu_windows *ws;
    struct window *w;
    struct shadow_region *r;
    u32 first, n; /* pages of the region */
    u32 page;     /* the first one's number in the window */
    const u32 *want;
};

static u32 park_run(const struct change *c, u32 k) {
    const u32 *old = c->r->host + c->first;
    u32 end = k + 1;
    for (u32 j = end; j < c->n && old[j] && (c->want[j] & HOST_PARKED); j++)
        if (old[j] & HOST_P)
            end = j + 1;
    return backing_protect(c->ws, c->w, c->page + k, end - k, HOST_PARKED) ? end : 0;
}

static u32 unmap_run(const struct change *c, u32 k) {
    const u32 *old = c->r->host + c->first;
    u32 end = k + 1;
    for (u32 j = end; j < c->n && !c->want[j]; j++)
        if (old[j])
            end = j + 1;
    return backing_unmap(c->ws, c->w, c->page + k, end - k) ? end : 0;
}

static u32 protect_run(const struct change *c, u32 k) {
    const u32 *old = c->r->host + c->first, *want = c->want;
    u32 end = k + 1, rights = want[k] & HOST_RIGHTS;
    for (u32 j = end; j < c->n; j++) {
        if (!old[j] || host_frame(old[j]) != host_frame(want[j]) ||
            (want[j] & HOST_RIGHTS) != rights)
            break;
        if (old[j] != want[j])
            end = j + 1;
    }
    return backing_protect(c->ws, c->w, c->page + k, end - k, rights) ? end : 0;
}

static u32 map_run(const struct change *c, u32 k) {
    const u32 *old = c->r->host + c->first, *want = c->want;
    u32 end = k + 1;
    while (end < c->n && want[end] == want[end - 1] + HOST_NEXT_FRAME && old[end] != want[end])
        end++;
    u32 rights = want[k] & HOST_RIGHTS, frame = host_frame(want[k]);
    return backing_map(c->ws, c->w, c->page + k, end - k, frame, rights) ? end : 0;
}

/* Makes pages [first, first + n) of the region map want[]: 0 is a hole. NO_ROOM: nothing was
 * changed. HOST_FAILED: the whole window was dropped, the region is gone. */
static enum fill_result apply(struct mmu_windows *ws, struct window *w, struct shadow_region *r,
                              u32 first, u32 n, u32 *want) {
    struct change c = {.ws = ws,
                       .w = w,
                       .r = r,
                       .first = first,
                       .n = n,
                       .page = (u32)r->slot * REGION_PAGES + first,
                       .want = want};
    u32 *old = r->host + first;
    u32 before = count_boundaries(ws, w, r, first, n, old);
    u32 after = count_boundaries(ws, w, r, first, n, want);
    if (after > before && ws->maps + (after - before) + 2 > ws->map_limit)
        return FILL_NO_ROOM;
    for (u32 k = 0; k < n;) {
        if (old[k] == want[k]) {
            k++;
            continue;
        }
        u32 end;
        if (!want[k])
            end = unmap_run(&c, k);
        else if (!(want[k] & HOST_P))
            end = park_run(&c, k);
        else if (old[k] && host_frame(old[k]) == host_frame(want[k]))
            end = protect_run(&c, k);
        else
            end = map_run(&c, k);
        if (!end) {
            window_drop(ws, w);
            return FILL_HOST_FAILED;
        }
        for (; k < end; k++) {
            ws->mmu->stat_pages_filled += ~old[k] & want[k] & HOST_P;
            ws->mmu->stat_dropped_pages += old[k] & ~want[k] & HOST_P;
            set_page(ws, w, r, first + k, want[k], r->flags[first + k]);
        }
    }
    add_maps(ws, w, after, before);
    backing_sync(ws);
    return FILL_DONE;
}

/* ---- Fill ---- */

/* Did a change of entries touch what a fetch depends on? */
static bool fetch_changed(const struct cpu *cpu, u64 old_pde, u64 new_pde, u64 old_leaf,
                          u64 new_leaf) {
    enum half_kind kind = half_kind_of(cpu, old_pde);
    if (kind != half_kind_of(cpu, new_pde))
        return true;
    u64 changed = old_pde ^ new_pde, rights = PTE_P | PTE_U | PTE_NX;
    if (kind == HALF_LARGE) /* all but W, D, G and the bits software owns */
        return changed & ~(u64)(PTE_W | PTE_D | PTE_G | 0xe00);
    return (changed & rights) || ((old_leaf ^ new_leaf) & ~(u64)(PTE_W | PTE_D | PTE_G | 0xe00));
}

bool region_page_fetched(const struct cpu *cpu, const struct shadow_region *r, u32 lin) {
    u32 i = (lin >> PAGE_SHIFT) % REGION_PAGES, half = i / half_pages(cpu);
    return (r->flags[i] & PAGE_FETCHED) || half_now(cpu, r->slot, half).pde != r->pde[half];
}

static void store_snapshot(struct shadow_region *r, u32 i, u64 leaf, u32 bytes) {
    if (bytes == 8)
        store64(r->snapshot + i * 8, leaf);
    else
        store32(r->snapshot + i * 4, (u32)leaf);
}

/* Refreshes the snapshot entry and flags of page i from the tables as they are now. */
static void refresh_entry(struct cpu *cpu, struct window *w, struct shadow_region *r, u32 i,
                          const struct half *now) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 bytes = entry_bytes(cpu), half = i / half_pages(cpu);
    u64 old_leaf = load_entry(r->snapshot, i, bytes), new_leaf = 0;
    if (now->table) {
        new_leaf = load_entry(now->table, i % half_pages(cpu), bytes);
        store_snapshot(r, i, new_leaf, bytes);
    }
    u8 flags = r->flags[i] & (u8)~PAGE_GLOBAL;
    if ((flags & PAGE_FETCHED) &&
        fetch_changed(cpu, r->pde[half], now->pde, now->table ? old_leaf : 0, new_leaf)) {
        flags &= (u8)~PAGE_FETCHED;
        window_next_epoch(ws, w);
    }
    if ((now->kind == HALF_LARGE ? now->pde : new_leaf) & PTE_G)
        flags |= PAGE_GLOBAL;
    set_page(ws, w, r, i, r->host[i], flags);
}

/* Widens the compared range of a half to [first, last], copying the entries in between. */
static void cover(const struct cpu *cpu, struct shadow_region *r, u32 half, const struct half *now,
                  u32 first, u32 last) {
    u32 bytes = entry_bytes(cpu), half_first = half * half_pages(cpu);
    bool empty = r->lo[half] > r->hi[half];
    if (!empty && r->lo[half] <= first && last <= r->hi[half])
        return;
    u32 lo = empty ? first : MIN(first, r->lo[half]), hi = empty ? last : MAX(last, r->hi[half]);
    if (now->table) {
        u32 copy_end = empty ? hi + 1 : r->lo[half];
        if (lo < copy_end)
            memcpy(r->snapshot + lo * bytes, now->table + (lo - half_first) * bytes,
                   (copy_end - lo) * bytes);
        if (!empty && r->hi[half] < hi)
            memcpy(r->snapshot + (r->hi[half] + 1) * bytes,
                   now->table + (r->hi[half] + 1 - half_first) * bytes, (hi - r->hi[half]) * bytes);
    }
    r->lo[half] = (u16)lo;
    r->hi[half] = (u16)hi;
}

/* Wanted values of an aligned run under one large page: one walk serves all. */
static void plan_large(struct cpu *cpu, struct window *w, u32 lin, u32 pages, u32 *want) {
    struct mmu_xlat x;
    memset(want, 0, pages * sizeof *want);
    if (!region_wanted(cpu, w, lin) || !mmu_probe(cpu, GLIN(lin), &x))
        return;
    u64 frame = x.gpa.v & ~((u64)pages * PAGE_BYTES - 1);
    for (u32 i = 0; i < pages; i++) {
        x.gpa = GPA(frame + (u64)i * PAGE_BYTES);
        want[i] = host_value(cpu, w, &x);
    }
}

/* May the neighbour at `next` be changed in the same host call as page `at`? Either both only
 * change rights, or their frames continue each other. */
static bool same_call(const u32 *old, const u32 *value, u32 at, u32 next) {
    bool protect = old[at] && host_frame(old[at]) == host_frame(value[at]);
    if (protect)
        return old[next] && (value[next] & HOST_RIGHTS) == (value[at] & HOST_RIGHTS) &&
               host_frame(old[next]) == host_frame(value[next]);
    u32 steps = (next - at) * HOST_NEXT_FRAME; /* modulo 2^32 when next < at */
    return value[next] && value[next] == value[at] + steps;
}

/* Foresight: from the aligned run of pages around page i, take the neighbours that cost no
 * host call of their own. (One that does costs more than the hidden fault it may save.) */
static void plan_run(struct cpu *cpu, struct window *w, const struct shadow_region *r, u32 i,
                     u32 *want) {
    u32 start = i & ~(RUN_PAGES - 1), at = i - start, value[RUN_PAGES];
    u32 lin = (u32)r->slot << REGION_SHIFT | start << PAGE_SHIFT;
    const u32 *old = r->host + start;
    for (u32 k = 0; k < RUN_PAGES; k++) {
        value[k] = region_wanted(cpu, w, lin + (k << PAGE_SHIFT));
        want[k] = old[k];
    }
    want[at] = value[at];
    for (u32 k = at + 1; k < RUN_PAGES && same_call(old, value, at, k); k++)
        want[k] = value[k];
    for (u32 k = at; k-- > 0 && same_call(old, value, at, k);)
        want[k] = value[k];
}

/* region_wanted() of a page whose PDE was just walked and has A=1, from its PTE: a fault on a
 * machine where faults are cheap must not walk the tables for each neighbour. */
static u32 entry_value(const struct cpu *cpu, const struct window *w, u64 pde, u64 leaf) {
    u64 high = (leaf & ~PTE_NX) >> 32; /* no RAM up there, or reserved */
    bool nxe = cpu->efer & EFER_NXE;
    bool pat = (leaf & PTE_PAT) && !cpu->mmu->has_pat;
    if (~leaf & (PTE_P | PTE_A) || high || pat || ((leaf & PTE_NX) && !nxe))
        return 0;
    struct mmu_xlat x = {.gpa = GPA(leaf & 0xfffff000u),
                         .user = pde & leaf & PTE_U,
                         .writable = pde & leaf & PTE_W,
                         .no_execute = (pde | leaf) & PTE_NX,
                         .dirty = leaf & PTE_D};
    return host_value(cpu, w, &x);
}

/* Pages that continue each other, in the books already, for one call. */
struct run {
    u32 first, count, want;
};
static void map_pages(struct mmu_windows *ws, struct window *w, const struct shadow_region *r,
                      const struct run *run) {
    if (run->count)
        backing_map(ws, w, r->slot * REGION_PAGES + run->first, run->count, host_frame(run->want),
                    run->want & HOST_RIGHTS);
}

/* Adds a page that is neither mapped nor fetched from to the books and the run. */
static void enter_page(struct mmu_windows *ws, struct window *w, struct shadow_region *r, u32 i,
                       u32 want, bool global, struct run *run) {
    if (run->first + run->count != i || want != run->want + run->count * HOST_NEXT_FRAME) {
        map_pages(ws, w, r, run);
        *run = (struct run){.first = i, .want = want};
    }
    run->count++;
    if (want & HOST_W)
        note_writable(ws, w, r->slot * REGION_PAGES + i, host_frame(want));
    r->host[i] = want;
    r->flags[i] = global ? PAGE_GLOBAL : 0;
    r->live++;
    w->weak[r->slot] += !global;
    ws->mmu->stat_pages_filled++;
}

/* Fills page i and its neighbours where page-table entries are written. There is no call to save,
 * so any neighbour will do that is not mapped yet and whose entry says present and accessed. */
static void fill_entries(struct cpu *cpu, struct window *w, struct shadow_region *r, u32 i,
                         const struct half *now, u32 pages) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 first = i & ~(pages - 1), bytes = entry_bytes(cpu), in_half = half_pages(cpu) - 1;
    u32 *want = ws->want;
    u64 leaf = now->pde;
    struct run run = {0};
    if (!now->table)
        plan_large(cpu, w, (u32)r->slot << REGION_SHIFT | i << PAGE_SHIFT, pages, want);
    ws->mmu->stat_fills++;
    cover(cpu, r, i / (in_half + 1), now, first, first + pages - 1);
    for (u32 k = first; k < first + pages; k++, want++) {
        bool empty = !r->host[k] && !(r->flags[k] & PAGE_FETCHED);
        if (k != i && !empty)
            continue;
        if (now->table) {
            leaf = load_entry(now->table, k & in_half, bytes);
            *want = entry_value(cpu, w, now->pde, leaf);
        }
        if (empty && *want) {
            if (now->table)
                store_snapshot(r, k, leaf, bytes);
            enter_page(ws, w, r, k, *want, leaf & PTE_G, &run);
        } else if (k == i) {
            apply(ws, w, r, i, 1, want);
            refresh_entry(cpu, w, r, i, now);
        }
    }
    map_pages(ws, w, r, &run);
    backing_sync(ws);
}

enum fill_result region_fill(struct cpu *cpu, struct window *w, u32 lin, bool alone) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 slot = lin >> REGION_SHIFT, i = (lin >> PAGE_SHIFT) % REGION_PAGES;
    u32 pages = half_pages(cpu), half = i / pages;
    struct half now = half_now(cpu, slot, half);
    struct shadow_region *r = window_region(ws, w, slot);
    if (r && r->pde[half] != now.pde) /* the half must hold one PDE's pages only */
        window_revalidate_page(cpu, w, lin);
    r = region_get(cpu, w, slot);
    if (!r)
        return FILL_NO_ROOM;
    bool one = alone || !ws->foresight;
    if (ws->one_table && now.kind != HALF_NONE) {
        u32 run_pages = now.kind == HALF_LARGE ? ws->large_run_pages : ws->run_pages;
        fill_entries(cpu, w, r, i, &now, one ? 1 : run_pages);
        region_retire(ws, w, r);
        return FILL_DONE;
    }
    bool large = now.kind == HALF_LARGE;
    u32 first = i, n = 1, *want = ws->want, old[RUN_PAGES];
    if (one) {
        want[0] = region_wanted(cpu, w, lin);
    } else if (large) {
        first = half * pages;
        n = pages;
        plan_large(cpu, w, lin, pages, want);
    } else {
        first = i & ~(RUN_PAGES - 1);
        n = RUN_PAGES;
        plan_run(cpu, w, r, i, want);
    }
    memcpy(old, r->host + first, MIN(n, RUN_PAGES) * sizeof *old);
    enum fill_result result = apply(ws, w, r, first, n, want);
    if (result == FILL_HOST_FAILED)
        return result;
    if (result == FILL_DONE) {
        ws->mmu->stat_fills++;
        cover(cpu, r, half, &now, first, first + n - 1);
        u32 filled = 0;
        /* Pages left as they were keep the entry they came from. */
        for (u32 k = first; k < first + n; k++)
            if ((r->host[k] & HOST_P) && (large || k == i || old[k - first] != r->host[k])) {
                refresh_entry(cpu, w, r, k, &now);
                filled++;
            }
        if (large || filled > 1)
            backing_populate(ws, w, lin >> PAGE_SHIFT);
    }
    region_retire(ws, w, r);
    return result;
}

bool region_note_fetch(struct cpu *cpu, struct window *w, u32 lin) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 slot = lin >> REGION_SHIFT, i = (lin >> PAGE_SHIFT) % REGION_PAGES;
    u32 half = i / half_pages(cpu);
    /* A mapping or mark made from another entry than the present one goes first. */
    window_revalidate_page(cpu, w, lin);
    struct shadow_region *r = region_get(cpu, w, slot);
    if (!r)
        return false;
    struct half now = half_now(cpu, slot, half);
    cover(cpu, r, half, &now, i, i);
    refresh_entry(cpu, w, r, i, &now);
    set_page(ws, w, r, i, r->host[i], r->flags[i] | PAGE_FETCHED);
    if ((now.kind == HALF_LARGE ? now.pde : load_entry(r->snapshot, i, entry_bytes(cpu))) & PTE_G)
        set_page(ws, w, r, i, r->host[i], r->flags[i] | PAGE_GLOBAL);
    return true;
}

/* ---- Revalidation ---- */

/* The mapping a live page should have after its entry changed. Rights are granted here too: a
 * neighbour whose rights change costs little in the same call, a write fault later costs a signal.
 */
static u32 revalidated(const struct cpu *cpu, const struct window *w, u32 lin, u32 host, u64 leaf,
                       unsigned *remaps) {
    u32 target = region_wanted(cpu, w, lin);
    if (target && host_frame(target) == host_frame(host))
        return target;
    if (target && (*remaps)++ < REMAPS_PER_HALF)
        return target;
    /* An entry that still says something (PROT_NONE, not accessed) keeps its frame, and parking is
     * the cheapest there; behind an empty one nothing comes back. */
    if (cpu->mmu->windows->one_table)
        return 0;
    return leaf && !target ? host_frame(host) << HOST_FRAME_SHIFT | HOST_PARKED : 0;
}

struct revalidation {
    bool skip_global, force;
};

static bool half_is_current(const struct cpu *cpu, const struct shadow_region *r, u32 half,
                            const struct half *now) {
    u32 bytes = entry_bytes(cpu), lo = r->lo[half], hi = r->hi[half];
    if (now->pde != r->pde[half])
        return false;
    return now->kind != HALF_TABLE || !memcmp(now->table + (lo - half * half_pages(cpu)) * bytes,
                                              r->snapshot + lo * bytes, (hi - lo + 1) * bytes);
}

/* False: the window was dropped. */
static bool revalidate_half(struct cpu *cpu, struct window *w, struct shadow_region *r, u32 half,
                            struct revalidation how) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct half now = half_now(cpu, r->slot, half);
    u32 lo = r->lo[half], hi = r->hi[half], bytes = entry_bytes(cpu);
    u32 half_first = half * half_pages(cpu), *want = ws->want;
    unsigned remaps = 0;
    if (lo > hi) {
        r->pde[half] = now.pde;
        return true;
    }
    if (!how.force && half_is_current(cpu, r, half, &now))
        return true;
    bool same_pde = now.pde == r->pde[half];
    if (same_pde && now.kind == HALF_LARGE && (now.pde & PTE_W))
        return true; /* forced for CR0.WP, which does not matter here */
    how.skip_global &= same_pde;
    if (same_pde && !how.force && now.table) { /* look only at what lies between differences */
        const u8 *table = now.table - half_first * bytes;
        while (lo < hi && load_entry(table, lo, bytes) == load_entry(r->snapshot, lo, bytes))
            lo++;
        while (lo < hi && load_entry(table, hi, bytes) == load_entry(r->snapshot, hi, bytes))
            hi--;
    }
    for (u32 i = lo; i <= hi; i++) {
        want[i - lo] = r->host[i];
        if (!(r->host[i] & HOST_P) || (how.skip_global && (r->flags[i] & PAGE_GLOBAL)))
            continue;
        u64 leaf = now.table ? load_entry(now.table, i - half_first, bytes) : 0;
        if (same_pde && !how.force && (!now.table || leaf == load_entry(r->snapshot, i, bytes)))
            continue;
        u32 lin = (u32)r->slot << REGION_SHIFT | i << PAGE_SHIFT;
        want[i - lo] = revalidated(cpu, w, lin, r->host[i], leaf, &remaps);
    }
    if (apply(ws, w, r, lo, hi - lo + 1, want) != FILL_DONE) {
        window_drop(ws, w);
        return false;
    }
    for (u32 i = lo; i <= hi; i++) {
        if (how.skip_global && (r->flags[i] & PAGE_GLOBAL))
            continue;
        if (region_page_live(r, i))
            refresh_entry(cpu, w, r, i, &now);
        else if (now.table)
            memcpy(r->snapshot + i * bytes, now.table + (i - half_first) * bytes, bytes);
    }
    r->pde[half] = now.pde;
    return true;
}

/* A process that replaced its address space shows in its page directory: drop all in one call. */
static bool mostly_changed(const struct cpu *cpu, struct mmu_windows *ws, const struct window *w) {
    unsigned changed = 0;
    if (w->count < 3)
        return false;
    for (u32 k = 0; k < w->count; k++) {
        const struct shadow_region *r = window_region(ws, w, w->list[k]);
        u32 half = r->lo[0] <= r->hi[0] ? 0 : 1;
        changed += half_now(cpu, r->slot, half).pde != r->pde[half];
    }
    return changed * 2 > w->count;
}

void window_revalidate(struct cpu *cpu, struct window *w, bool skip_global, bool force) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct revalidation how = {.skip_global = skip_global, .force = force};
    TRACE(mmu, "revalidate: %s window, %u regions\n", w->user ? "user" : "kernel", w->count);
    if (w->user && mostly_changed(cpu, ws, w)) {
        TRACE(mmu, "revalidate: mostly changed, dropped\n");
        window_drop(ws, w);
        return;
    }
    for (u32 k = w->count; k-- > 0;) {
        u32 slot = w->list[k];
        if (skip_global && !w->weak[slot])
            continue;
        struct shadow_region *r = window_region(ws, w, slot);
        ws->mmu->stat_revalidated_regions++;
        if (!revalidate_half(cpu, w, r, 0, how))
            return;
        if (tables_are_pae(cpu) && !revalidate_half(cpu, w, r, 1, how))
            return;
        region_retire(ws, w, r);
    }
}

bool region_page_settled(const struct cpu *cpu, const struct shadow_region *r, u32 lin) {
    u32 i = (lin >> PAGE_SHIFT) % REGION_PAGES, half = i / half_pages(cpu);
    struct half now = half_now(cpu, r->slot, half);
    if (now.pde != r->pde[half] || !r->live)
        return false;
    if (now.kind != HALF_TABLE || !region_page_live(r, i))
        return true;
    u32 bytes = entry_bytes(cpu);
    return load_entry(now.table, i % half_pages(cpu), bytes) == load_entry(r->snapshot, i, bytes);
}

void window_revalidate_page(struct cpu *cpu, struct window *w, u32 lin) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 i = (lin >> PAGE_SHIFT) % REGION_PAGES, half = i / half_pages(cpu);
    struct shadow_region *r = window_region(ws, w, lin >> REGION_SHIFT);
    if (!r)
        return;
    struct half now = half_now(cpu, r->slot, half);
    if (now.pde != r->pde[half]) {
        if (!revalidate_half(cpu, w, r, half, (struct revalidation){0}))
            return;
    } else if (now.kind == HALF_TABLE && region_page_live(r, i)) {
        u32 bytes = entry_bytes(cpu);
        u64 leaf = load_entry(now.table, i % half_pages(cpu), bytes);
        if (leaf == load_entry(r->snapshot, i, bytes))
            return;
        unsigned remaps = 0;
        u32 want = r->host[i];
        if (want & HOST_P)
            want = revalidated(cpu, w, lin & ~PAGE_OFFSET_MASK, want, leaf, &remaps);
        if (apply(ws, w, r, i, 1, &want) != FILL_DONE) {
            window_drop(ws, w);
            return;
        }
        refresh_entry(cpu, w, r, i, &now);
    }
    if (!r->live)
        region_retire(ws, w, r);
}

/* The same for several pages: halves with more than one of them in one go. */
void window_revalidate_pages(struct cpu *cpu, struct window *w, const u32 *lin, unsigned count) {
    u32 half_bytes = half_pages(cpu) * PAGE_BYTES;
    for (unsigned k = 0; k < count;) {
        unsigned same = 1;
        while (k + same < count && lin[k + same] / half_bytes == lin[k] / half_bytes)
            same++;
        u32 slot = lin[k] >> REGION_SHIFT;
        struct shadow_region *r = window_region(cpu->mmu->windows, w, slot);
        if (same == 1) {
            window_revalidate_page(cpu, w, lin[k]);
        } else if (r) {
            u32 half = (lin[k] >> PAGE_SHIFT) % REGION_PAGES / half_pages(cpu);
            if (revalidate_half(cpu, w, r, half, (struct revalidation){0}) && !r->live)
                region_retire(cpu->mmu->windows, w, r);
        }
        k += same;
    }
}

/* ---- Code protection ---- */

/* Takes the write right of one page where it maps `frame` writable. */
static void demote(struct mmu_windows *ws, struct window *w, u32 page, u32 frame) {
    struct shadow_region *r = window_region(ws, w, page / REGION_PAGES);
    u32 i = page % REGION_PAGES;
    if (!r || (r->host[i] & HOST_W) == 0 || host_frame(r->host[i]) != frame)
        return;
    u32 want = r->host[i] & ~(u32)HOST_W;
    if (apply(ws, w, r, i, 1, &want) == FILL_NO_ROOM)
        window_drop(ws, w);
}

static void demote_everywhere(struct mmu_windows *ws, struct window *w, u32 frame) {
    const struct rmap *m = &ws->rmap[frame];
    for (u32 k = w->count; k-- > 0 && m->writable;) {
        if (k >= w->count) /* the window was dropped */
            return;
        u32 slot = w->list[k];
        const struct shadow_region *r = window_region(ws, w, slot);
        for (u32 i = 0; i < REGION_PAGES && w->count; i++)
            if ((r->host[i] & HOST_W) && host_frame(r->host[i]) == frame)
                demote(ws, w, slot * REGION_PAGES + i, frame);
    }
}

void mmu_windows_protect_page(struct mmu *mmu, u64 gpa_page) {
    struct mmu_windows *ws = mmu->windows;
    if (!ws)
        return;
    u32 frame = (u32)gpa_page;
    struct rmap *m = &ws->rmap[frame];
    if (m->writable)
        demote(ws, &ws->window[0], m->kernel_page, frame);
    if (m->writable && m->user_window <= ws->users)
        demote(ws, &ws->window[m->user_window], m->user_page, frame);
    for (unsigned i = 0; i <= ws->users && m->writable; i++)
        demote_everywhere(ws, &ws->window[i], frame);
    RF_ASSERT(!m->writable);
}
