/*
 * window.c: which window is current, what a host fault in it means, and what the architecture's
 * events do to the windows. A window is a very large TLB: it may hold any translation that was true
 * when last revalidated, and revalidation happens exactly where the architecture flushes.
 *
 * The user window of a CR3 is chosen and revalidated when ring 3 is next entered, not at the CR3
 * load: kernels load CR3 more often than they return to another process. INVLPG waits likewise:
 * copy-on-write flushes the page first and stores the new entry after. With one table it cannot
 * wait, because ring 0 reaches the same entries.
 */
#include "mmu/window.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define NO_PROGRESS_FAULTS 3

/* ---- Creation ---- */

void mmu_windows_free(struct mmu *mmu) {
    struct mmu_windows *ws = mmu->windows;
    if (!ws)
        return;
    backing_release(ws);
    memory_free(ws->pool, (u64)ws->pool_regions * sizeof *ws->pool);
    memory_free(ws->rmap, (mmu->ram_bytes >> PAGE_SHIFT) * sizeof *ws->rmap);
    free(ws);
    mmu->windows = NULL;
}

static u64 mode_bits(const struct cpu *cpu) {
    u32 cr4 = cpu->cr4 & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP);
    u64 a20 = cpu->a20_masked ? BIT64(63) : 0;
    return (cpu->cr0 & (CR0_PG | CR0_WP)) | (u64)cr4 << 32 | (cpu->efer & EFER_NXE) | a20;
}

static bool create_failed(struct mmu *mmu, struct mmu_error *err, const char *what) {
    if (err)
        snprintf(err->text, sizeof err->text, "windows: %s: %s", what, strerror(errno));
    mmu_windows_free(mmu);
    return false;
}

bool mmu_windows_create_sized(struct cpu *cpu, unsigned users, unsigned regions, u32 map_limit,
                              struct mmu_error *err) {
    struct mmu *mmu = cpu->mmu;
    RF_ASSERT(!mmu->windows && users && users < MMU_MAX_VIEWS && regions && regions < 0xffff);
    struct mmu_windows *ws = calloc(1, sizeof *ws + (users + 1) * sizeof ws->window[0]);
    if (!ws)
        return create_failed(mmu, err, "no memory");
    mmu->windows = ws;
    ws->mmu = mmu;
    ws->users = users;
    ws->map_limit = map_limit;
    ws->stale = true;
    windows_unsettle(ws);
    ws->mode = mode_bits(cpu);
    ws->foresight = true;

    ws->pool_regions = regions;
    ws->pool = memory_alloc((u64)regions * sizeof *ws->pool);
    ws->rmap = memory_alloc((mmu->ram_bytes >> PAGE_SHIFT) * sizeof *ws->rmap);
    if (!ws->pool || !ws->rmap)
        return create_failed(mmu, err, "no memory for the books");
    for (unsigned i = regions; i-- > 0;) {
        ws->pool[i].next_free = ws->free_region;
        ws->free_region = (u16)(i + 1);
    }
    for (unsigned i = 1; i <= users; i++)
        ws->window[i].user = true;
    if (!backing_reserve(ws))
        return create_failed(mmu, err, "no room for them");
    ws->selected = &ws->window[0];
    backing_select(ws, ws->selected);
    return true;
}

bool mmu_windows_create(struct cpu *cpu, struct mmu_error *err) {
    struct backing_limits l = backing_limits();
    /* Where address space or memory is short fewer windows do as well, only slower. */
    for (; l.users; l.users /= 2, l.regions = MAX(l.regions / 2, l.least_regions))
        if (mmu_windows_create_sized(cpu, l.users, l.regions, l.map_limit, err))
            return true;
    return false;
}

void mmu_windows_destroy(struct cpu *cpu) {
    mmu_windows_free(cpu->mmu);
}

bool mmu_windows_shared(const struct cpu *cpu) {
    return cpu->mmu->windows && cpu->mmu->windows->one_table;
}

void mmu_windows_set_foresight(struct cpu *cpu, bool on) {
    if (cpu->mmu->windows)
        cpu->mmu->windows->foresight = on;
}

/* ---- Choosing windows ---- */

static struct window *least_recent(struct mmu_windows *ws, const struct window *keep) {
    struct window *found = NULL;
    for (unsigned i = 1; i <= ws->users; i++) {
        struct window *w = &ws->window[i];
        if (w == keep || (int)i == ws->current || !w->count)
            continue;
        if (!found || w->last_use < found->last_use)
            found = w;
    }
    return found;
}

void windows_make_room(struct mmu_windows *ws, struct window *keep) {
    struct window *victim = least_recent(ws, keep);
    if (!victim) {
        /* Only the current user window and the kernel's hold anything. */
        struct window *kernel = &ws->window[0], *user = &ws->window[ws->current];
        victim = keep != user && user->count       ? user
                 : keep != kernel && kernel->count ? kernel
                                                   : keep;
    }
    ws->mmu->stat_window_evictions++;
    window_drop(ws, victim);
}

static u64 user_key(const struct cpu *cpu) {
    if (!cpu_paging(cpu))
        return 0;
    return cpu->cr4 & CR4_PAE ? (cpu->cr3 & ~0x1fu) | 2 : (cpu->cr3 & ~PAGE_OFFSET_MASK) | 1;
}

/* The window of this address space: its own, else a free one, else the least recently used. */
static struct window *choose_user(struct mmu_windows *ws, u64 key) {
    struct window *oldest = NULL;
    for (unsigned i = 1; i <= ws->users; i++) {
        struct window *w = &ws->window[i];
        if (w->assigned && w->key == key)
            return w;
        if (!oldest || (oldest->assigned && (!w->assigned || w->last_use < oldest->last_use)))
            oldest = w;
    }
    if (oldest->count) {
        ws->mmu->stat_window_evictions++;
        window_drop(ws, oldest);
    }
    oldest->assigned = true;
    oldest->key = key;
    window_next_epoch(ws, oldest); /* the id now names another view */
    return oldest;
}

static void revalidate_pending(struct cpu *cpu, struct window *w) {
    struct mmu_windows *ws = cpu->mmu->windows;
    window_revalidate_pages(cpu, w, ws->pending, ws->pending_count);
    ws->pending_count = 0;
}

/* One table: puts a window behind the slots that the kernel window leaves free. */
static void select_window(struct mmu_windows *ws, const struct window *w) {
    if (!ws->one_table || w == ws->selected)
        return;
    ws->selected = w;
    windows_unsettle(ws);
    backing_select(ws, w);
}

static struct window *current_user(struct cpu *cpu) {
    struct mmu_windows *ws = cpu->mmu->windows;
    if (likely(!ws->stale)) {
        struct window *same = &ws->window[ws->current];
        if (unlikely(ws->pending_count))
            revalidate_pending(cpu, same);
        select_window(ws, same);
        return same;
    }
    struct window *w = choose_user(ws, user_key(cpu));
    ws->current = (int)(w - ws->window);
    windows_unsettle(ws);
    ws->stale = false;
    ws->pending_count = 0;
    w->last_use = ++ws->tick;
    window_revalidate(cpu, w, false, false);
    select_window(ws, w);
    return w;
}

static inline bool smap_on(const struct cpu *cpu) {
    return cpu_paging(cpu) && (cpu->cr4 & CR4_SMAP);
}

static inline struct window *current_window(struct cpu *cpu, bool user) {
    struct mmu_windows *ws = cpu->mmu->windows;
    if (user)
        return current_user(cpu);
    if (mmu_window_by_ring(cpu)) /* no user page may be within reach of ring 0 */
        select_window(ws, &ws->window[0]);
    return &ws->window[0];
}

u64 mmu_window_base(struct cpu *cpu, bool user) {
    return current_window(cpu, user)->base;
}

struct mmu_view mmu_current_view(struct cpu *cpu, bool user) {
    struct mmu_windows *ws = cpu->mmu->windows;
    const struct window *w = current_window(cpu, user);
    struct mmu_view view = {.id = (u32)(w - ws->window), .epoch = w->epoch};
    if (user)
        ws->seen = view;
    return view;
}

bool mmu_window_contains(struct cpu *cpu, u64 host, bool user, struct glin *lin) {
    const struct mmu_windows *ws = cpu->mmu->windows;
    if (!ws || host - ws->reserve_base >= ws->reserve_bytes)
        return false;
    /* Not current_user(): a look must not change what is current. */
    u64 base = ws->window[user ? ws->current : 0].base;
    *lin = GLIN(host - base); /* at least 4 GiB anywhere outside the window proper */
    return true;
}

/* ---- Faults ---- */

/* The guest may be in a loop that the mapping cannot satisfy, for a reason the books do not
 * know: emulating one instruction always makes progress. */
static bool no_progress(struct mmu_windows *ws, u32 lin) {
    if (ws->last_lin != lin) {
        ws->last_lin = lin;
        ws->last_repeats = 0;
    }
    if (++ws->last_repeats < NO_PROGRESS_FAULTS)
        return false;
    ws->last_repeats = 0;
    return true;
}

/* Fills, making room as long as that can help: first with foresight, at last the one page. */
static bool fill(struct cpu *cpu, struct window *w, u32 lin) {
    struct mmu_windows *ws = cpu->mmu->windows;
    enum fill_result result = region_fill(cpu, w, lin, false);
    for (unsigned tries = 0; result == FILL_NO_ROOM && tries < ws->users + 3; tries++) {
        windows_make_room(ws, w);
        result = region_fill(cpu, w, lin, tries >= ws->users + 1);
    }
    if (result == FILL_HOST_FAILED) { /* the host is short of mappings: give many
                                         back, once more */
        windows_make_room(ws, w);
        result = region_fill(cpu, w, lin, true);
    }
    return result == FILL_DONE;
}

/* The window that serves an access just granted. */
static struct window *window_behind(struct cpu *cpu, bool user, u32 lin, const struct mmu_xlat *x) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct window *kernel = &ws->window[0];
    if (!ws->one_table)
        return current_window(cpu, user);
    if (!cpu_paging(cpu) || !x->user || window_region(ws, kernel, lin >> REGION_SHIFT))
        return kernel;
    return current_user(cpu);
}

/* May the page never be filled for this access, granted though it is? */
static bool must_emulate(const struct cpu *cpu, bool user, unsigned access,
                         const struct mmu_xlat *x) {
    const struct mmu *mmu = cpu->mmu;
    if (!mmu_gpa_is_ram(mmu, x->gpa.v))
        return true;
    if (!(access & MMU_WRITE))
        return false;
    bool past_wp = mmu->windows->one_table && !user && x->user && !x->writable; /* CR0.WP=0 */
    return past_wp || mmu->code_page[x->gpa.v >> PAGE_SHIFT];
}

enum mmu_fault_result mmu_window_access_fault(struct cpu *cpu, bool user, struct glin glin,
                                              enum mmu_access access) {
    struct mmu *mmu = cpu->mmu;
    u32 lin = (u32)glin.v;
    struct mmu_xlat x;
    if (!mmu->windows->one_table)
        current_window(cpu, user); /* what it held back comes before the walk */
    if (glin.v >= WINDOW_BYTES || no_progress(mmu->windows, lin) ||
        (!user && smap_on(cpu) && mmu_probe(cpu, GLIN(lin), &x) && x.user)) {
        mmu->stat_emulate_faults++;
        return MMU_FAULT_EMULATE;
    }
    if (!mmu_translate(cpu, GLIN(lin), access, user, &x)) {
        mmu->windows->last_repeats = 0; /* delivering it is progress */
        mmu->stat_true_faults++;
        TRACE_AT(mmu, lin, "true fault at %08x error %x\n", lin, cpu->fault.error);
        return MMU_FAULT_TRUE;
    }
    const char *kind = access & MMU_WRITE ? "write" : access & MMU_FETCH ? "fetch" : "read";
    if (must_emulate(cpu, user, access, &x) || !fill(cpu, window_behind(cpu, user, lin, &x), lin)) {
        mmu->stat_emulate_faults++;
        TRACE_AT(mmu, lin, "emulate %s at %08x gpa %llx\n", kind, lin, (unsigned long long)x.gpa.v);
        return MMU_FAULT_EMULATE;
    }
    mmu->stat_hidden_faults++;
    TRACE_AT(mmu, lin, "hidden fault: %s at %08x gpa %llx\n", kind, lin,
             (unsigned long long)x.gpa.v);
    return MMU_FAULT_FILLED;
}

enum mmu_fault_result mmu_window_fault(struct cpu *cpu, bool user, struct glin lin, bool write) {
    return mmu_window_access_fault(cpu, user, lin, write ? MMU_WRITE : MMU_READ);
}

void mmu_window_prefill(struct cpu *cpu, bool user, struct glin glin, bool write) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct mmu_xlat x;
    if (!ws || glin.v >= WINDOW_BYTES)
        return;
    u32 lin = (u32)glin.v, page = lin >> PAGE_SHIFT;
    struct window *w = current_window(cpu, user);
    if (ws->one_table) {
        if (!mmu_probe(cpu, GLIN(lin), &x))
            return;
        w = window_behind(cpu, user, lin, &x);
    }
    u32 wanted = region_wanted(cpu, w, lin);
    if (!wanted || (write && !(wanted & HOST_W)))
        return;
    const struct shadow_region *r = window_region(ws, w, page / REGION_PAGES);
    if (!r || r->host[page % REGION_PAGES] != wanted)
        fill(cpu, w, lin);
}

/* Where a page lies that region_note_fetch remembers, by the same entries as now: what another walk
 * would say. False: walk. */
static bool fetch_known(const struct cpu *cpu, const struct window *w, u32 lin, u64 *gpa) {
    u32 i = (lin >> PAGE_SHIFT) % REGION_PAGES, pages = half_pages(cpu), bytes = entry_bytes(cpu);
    const struct shadow_region *r = window_region(cpu->mmu->windows, w, lin >> REGION_SHIFT);
    if (!r || !(r->flags[i] & PAGE_FETCHED) || !cpu_paging(cpu))
        return false;
    struct half now = half_now(cpu, r->slot, i / pages);
    u64 leaf = now.table ? load_entry(now.table, i % pages, bytes) : now.pde;
    u64 within = now.table ? PAGE_BYTES - 1 : (u64)pages * PAGE_BYTES - 1;
    if (now.pde != r->pde[i / pages] || (now.table && leaf != load_entry(r->snapshot, i, bytes)) ||
        (leaf & within & ~PAGE_OFFSET_MASK)) /* PAT, and what leads beyond 4 GiB */
        return false;
    *gpa = (leaf & (BIT64(52) - 1) & ~within) | (lin & within);
    return true;
}

bool mmu_fetch(struct cpu *cpu, struct glin lin, bool user, struct gpa *out) {
    struct mmu_windows *ws = cpu->mmu->windows;
    struct mmu_xlat x;
    u64 known;
    if (ws && fetch_known(cpu, current_window(cpu, user), (u32)lin.v, &known)) {
        *out = GPA(known);
        return true;
    }
    if (!mmu_translate(cpu, lin, MMU_FETCH, user, &x))
        return false;
    *out = x.gpa;
    if (!ws || !mmu_gpa_is_ram(cpu->mmu, x.gpa.v))
        return true;
    struct window *w = current_window(cpu, user);
    if (!region_note_fetch(cpu, w, (u32)lin.v))
        window_next_epoch(ws, w); /* not remembered, so void at once: never reached while the pool
                                   * holds a region */
    return true;
}

/* ---- Architectural events ---- */

void mmu_windows_cr3_loaded(struct cpu *cpu) {
    struct mmu_windows *ws = cpu->mmu->windows;
    ws->stale = true;
    windows_unsettle(ws);
    ws->last_repeats = 0;
    select_window(ws, &ws->window[0]);
    window_revalidate(cpu, &ws->window[0], cpu->cr4 & CR4_PGE, false);
}

/* A change of CR4.PGE alone is how kernels flush global pages, one of CR0.WP how they patch
 * read-only text: both keep the format of the tables, so revalidation does. */
void mmu_windows_mode_changed(struct cpu *cpu) {
    struct mmu_windows *ws = cpu->mmu->windows;
    u64 changed = ws->mode ^ mode_bits(cpu), soft = CR0_WP | (u64)CR4_PGE << 32;
    ws->mode ^= changed;
    ws->stale = true;
    windows_unsettle(ws);
    ws->last_repeats = 0;
    select_window(ws, &ws->window[0]);
    if (!(changed & ~soft)) {
        window_revalidate(cpu, &ws->window[0], false, changed & cpu->cr0 & CR0_WP);
        return;
    }
    for (unsigned i = 0; i <= ws->users; i++) {
        window_drop(ws, &ws->window[i]);
        window_next_epoch(ws, &ws->window[i]);
        ws->window[i].assigned = false;
    }
}

void mmu_windows_invlpg(struct cpu *cpu, u32 lin) {
    struct mmu_windows *ws = cpu->mmu->windows;
    ws->last_repeats = 0;
    window_revalidate_page(cpu, &ws->window[0], lin);
    if (ws->stale || !window_region(ws, &ws->window[ws->current], lin >> REGION_SHIFT))
        return;
    windows_unsettle(ws);
    if (ws->one_table)
        window_revalidate_page(cpu, &ws->window[ws->current], lin);
    else if (ws->pending_count == MAX_PENDING)
        ws->stale = true;
    else
        ws->pending[ws->pending_count++] = lin;
}

bool mmu_invlpg_is_light(const struct cpu *cpu, struct glin lin) {
    struct mmu_windows *ws = cpu->mmu->windows;
    if (!ws)
        return true;
    const struct shadow_region *r = window_region(ws, &ws->window[0], (u32)lin.v >> REGION_SHIFT);
    return !r || (ws->one_table ? !region_page_fetched(cpu, r, (u32)lin.v)
                                : region_page_settled(cpu, r, (u32)lin.v));
}

bool mmu_cr3_load_is_light(const struct cpu *cpu) {
    const struct mmu_windows *ws = cpu->mmu->windows;
    if (!ws)
        return true;
    const struct window *kernel = &ws->window[0];
    for (u32 k = 0; k < kernel->count; k++)
        if (!(cpu->cr4 & CR4_PGE) || kernel->weak[kernel->list[k]])
            return false;
    return true;
}

bool mmu_window_by_ring(const struct cpu *cpu) {
    return mmu_windows_shared(cpu) && smap_on(cpu);
}

/* With one table the current user window may have been chosen, or have lost a page that code was
 * fetched from, on behalf of ring 0. */
bool mmu_window_pending(const struct cpu *cpu, bool user) {
    const struct mmu_windows *ws = cpu->mmu->windows;
    if (!ws)
        return false;
    bool selected = !mmu_window_by_ring(cpu) || (ws->selected != &ws->window[0]) == user;
    if (!user || !selected)
        return !selected;
    return ws->stale || ws->pending_count ||
           (ws->one_table &&
            (ws->seen.id != (u32)ws->current || ws->seen.epoch != ws->window[ws->current].epoch));
}

bool mmu_user_window_pending_exact(const struct cpu *cpu) {
    bool pending = mmu_window_pending(cpu, true);
    cpu->mmu->user_window_settled = !pending && cpu->mmu->windows;
    return pending;
}

/* ---- Validator ---- */

/* The rights of one table: U and X as the guest's tables say, W only where they let ring 3 write
 * what ring 3 may touch. */
static const char *check_shared(const struct cpu *cpu, u32 host, bool user, bool writable,
                                bool execute) {
    if (!!(host & HOST_U) != user)
        return "the U/S bit is not the guest's";
    if (!!(host & HOST_X) != (user && execute))
        return "the execute-disable bit is not the guest's";
    if ((host & HOST_W) && !writable && (user || (cpu->cr0 & CR0_WP)))
        return "a read-only page is mapped writable";
    return NULL;
}

/* Does the mapping of page i follow from the entries in its snapshot? */
static const char *check_page(const struct cpu *cpu, const struct window *w,
                              const struct shadow_region *r, u32 i) {
    const struct mmu *mmu = cpu->mmu;
    u32 host = r->host[i], frame = host_frame(host), half = i / half_pages(cpu);
    if (!mmu_gpa_is_ram(mmu, (u64)frame << PAGE_SHIFT))
        return "a window maps what is not RAM";
    if ((host & HOST_W) && mmu->code_page[frame])
        return "a page with translated code is mapped writable";
    if (!mmu->windows->one_table && (host & (HOST_U | HOST_X)))
        return "a right that has no meaning here";
    if (!cpu_paging(cpu))
        return frame != r->slot * REGION_PAGES + i ? "unpaged mapping is not identity"
               : mmu->windows->one_table           ? check_shared(cpu, host, true, true, true)
                                                   : NULL;
    u64 pde = r->pde[half], leaf = load_entry(r->snapshot, i, entry_bytes(cpu)), rights = pde;
    u64 any = pde;
    enum half_kind kind = half_kind_of(cpu, pde);
    if (kind == HALF_NONE)
        return "a page is mapped under an absent PDE";
    if (kind == HALF_LARGE) {
        leaf = pde;
        if (((leaf >> PAGE_SHIFT) ^ frame) & 0xfffff & ~(half_pages(cpu) - 1))
            return "a large page maps another frame than its PDE says";
    } else {
        rights &= leaf;
        any |= leaf;
        if (((leaf >> PAGE_SHIFT) & 0xfffff) != frame)
            return "a page maps another frame than its PTE says";
    }
    if (!(leaf & PTE_P) || !(leaf & PTE_A))
        return "a page is mapped though its entry was absent or not accessed";
    if (w->user && !(rights & PTE_U))
        return "a supervisor page is in a user window";
    if ((host & HOST_W) && !(leaf & PTE_D))
        return "a clean page is mapped writable";
    bool execute = !(tables_are_pae(cpu) && (cpu->efer & EFER_NXE) && (any & PTE_NX));
    if (mmu->windows->one_table)
        return check_shared(cpu, host, rights & PTE_U, rights & PTE_W, execute);
    if ((host & HOST_W) && !(rights & PTE_W) && (w->user || (cpu->cr0 & CR0_WP)))
        return "a read-only page is mapped writable";
    return NULL;
}

static const char *check_region(const struct cpu *cpu, const struct window *w,
                                const struct shadow_region *r, i64 *writable) {
    u32 live = 0, weak = 0, parked = 0;
    for (u32 i = 0; i < REGION_PAGES; i++) {
        u32 half = i / half_pages(cpu);
        const char *bad = r->host[i] & HOST_P ? check_page(cpu, w, r, i) : NULL;
        if (bad)
            return bad;
        parked += !!(r->host[i] & HOST_PARKED);
        if (!region_page_live(r, i))
            continue;
        live++;
        weak += !(r->flags[i] & PAGE_GLOBAL);
        *writable += !!(r->host[i] & HOST_W);
        if (i < r->lo[half] || i > r->hi[half])
            return "a live page lies outside the compared range";
    }
    if (live != r->live || parked != r->parked || weak != w->weak[r->slot])
        return "a region's counts are wrong";
    return live ? NULL : "an empty region was kept";
}

const char *mmu_validate(struct cpu *cpu) {
    static _Thread_local char text[160];
    struct mmu_windows *ws = cpu->mmu->windows;
    u32 maps = 0;
    i64 writable = 0;
    if (!ws)
        return NULL;
    for (unsigned k = 0; k <= ws->users; k++) {
        const struct window *w = &ws->window[k];
        maps += w->maps;
        for (u32 i = 0; i < w->count; i++) {
            const struct shadow_region *r = window_region(ws, w, w->list[i]);
            const char *bad = !r || r->slot != w->list[i] || r->list_index != i
                                  ? "the list of regions is broken"
                                  : check_region(cpu, w, r, &writable);
            if (bad) {
                snprintf(text, sizeof text, "window %u region %03x: %s", k, w->list[i], bad);
                return text;
            }
        }
    }
    for (u64 i = 0; i < cpu->mmu->ram_bytes >> PAGE_SHIFT; i++)
        writable -= ws->rmap[i].writable;
    if (writable)
        return "the reverse map's counts are wrong";
    if (maps != ws->maps)
        return "the mapping count is wrong";
    return backing_check(ws, text, sizeof text);
}
