/*
 * cache.c: the translation cache (written through one mapping, executed through another), the units
 * in it, their index by key and by physical page, links between them,
 * invalidation. When anything is full the whole cache is flushed.
 */
#include "base/serialize.h"
#include "bt/bt_internal.h"

#include <stdio.h>
#include <stdlib.h>

/* Table sizes in proportion to the cache: measured averages are about 200 host bytes, 1.5 slots and
 * 7 instructions per unit. */
static bool create_tables(struct bt *bt) {
    bt->unit_capacity = bt->cache_bytes / 96;
    bt->slot_capacity = bt->unit_capacity * 3;
    bt->cont_capacity = bt->unit_capacity;
    bt->check_capacity = bt->unit_capacity * 2;
    bt->pc_capacity = bt->unit_capacity * 10;
    bt->page_count = mmu_ram_bytes(bt->cpu->mmu) >> PAGE_SHIFT;
    bt->unit = calloc(bt->unit_capacity, sizeof *bt->unit);
    bt->slot = calloc(bt->slot_capacity, sizeof *bt->slot);
    bt->pc = calloc(bt->pc_capacity, sizeof *bt->pc);
    bt->cont = calloc(bt->cont_capacity, sizeof *bt->cont);
    bt->check = calloc(bt->check_capacity, sizeof *bt->check);
    bt->page_head = malloc(bt->page_count * sizeof *bt->page_head);
    if (bt->config.count)
        bt->executions = calloc(bt->unit_capacity, sizeof *bt->executions);
    bt_hot(bt->cpu)->unit_counts = (u64)bt->executions;
    return (bt->executions || !bt->config.count) && bt->unit && bt->slot && bt->pc && bt->cont &&
           bt->check && bt->page_head && selfcheck_create(bt);
}

bool cache_create(struct bt *bt, char *err, size_t err_bytes) {
    bt->cache_bytes = (u32)bt->config.cache_bytes;
    if (!memory_code_create(&bt->cache_memory, bt->cache_bytes)) {
        snprintf(err, err_bytes, "no memory for a translation cache of %u bytes", bt->cache_bytes);
        return false;
    }
    bt->cache_rw = bt->cache_memory.rw;
    bt->cache_rx = bt->cache_memory.rx;
    if (!create_tables(bt)) {
        snprintf(err, err_bytes, "no memory for the translation cache's tables");
        return false;
    }
    cache_flush(bt, BT_CAUSE_request);
    return true;
}

void cache_destroy(struct bt *bt) {
    memory_code_destroy(&bt->cache_memory);
    free(bt->executions);
    free(bt->unit);
    free(bt->slot);
    free(bt->pc);
    free(bt->cont);
    free(bt->check);
    free(bt->page_head);
    selfcheck_destroy(bt);
}

static u32 hash_of(u64 gpa, u32 eip) {
    u32 h = (u32)(gpa * 0x9e3779b1u) ^ (eip * 0x85ebca6bu);
    return (h ^ (h >> 15)) & ((1u << BT_HASH_BITS) - 1);
}

u32 cache_find(const struct bt *bt, u64 gpa, u32 eip, u8 cpl, bool fp_ok) {
    for (u32 i = bt->hash[hash_of(gpa, eip)]; i != BT_NONE; i = bt->unit[i].hash_next) {
        const struct bt_unit *u = &bt->unit[i];
        if (u->gpa == gpa && u->eip == eip && u->cpl == cpl && u->fp == fp_ok)
            return i;
    }
    return BT_NONE;
}

/* ---- lists by physical page ---- */

static unsigned page_side(const struct bt_unit *u, u64 page) {
    return (u->gpa >> PAGE_SHIFT) == page ? 0 : 1;
}

static void page_add(struct bt *bt, u32 index, u64 page) {
    struct bt_unit *u = &bt->unit[index];
    u->page_next[page_side(u, page)] = bt->page_head[page];
    bt->page_head[page] = index;
    if (!bt->page_checked[page])
        mmu_code_protect(bt->cpu->mmu, GPA(page << PAGE_SHIFT));
}

static void page_remove(struct bt *bt, u32 index, u64 page) {
    u32 *link = &bt->page_head[page];
    while (*link != BT_NONE) {
        struct bt_unit *u = &bt->unit[*link];
        unsigned side = page_side(u, page);
        if (*link == index) {
            *link = u->page_next[side];
            break;
        }
        link = &u->page_next[side];
    }
    if (bt->page_head[page] == BT_NONE)
        mmu_code_unprotect(bt->cpu->mmu, GPA(page << PAGE_SHIFT));
}

void cache_insert(struct bt *bt, u32 index) {
    struct bt_unit *u = &bt->unit[index];
    u32 h = hash_of(u->gpa, u->eip);
    u->hash_next = bt->hash[h];
    bt->hash[h] = index;
    page_add(bt, index, u->gpa >> PAGE_SHIFT);
    if (u->page2 != UINT64_MAX && u->page2 >> PAGE_SHIFT != u->gpa >> PAGE_SHIFT)
        page_add(bt, index, u->page2 >> PAGE_SHIFT);
}

static void hash_remove(struct bt *bt, u32 index) {
    struct bt_unit *u = &bt->unit[index];
    u32 *link = &bt->hash[hash_of(u->gpa, u->eip)];
    while (*link != BT_NONE && *link != index)
        link = &bt->unit[*link].hash_next;
    if (*link == index)
        *link = u->hash_next;
}

/* ---- links ---- */

static void patch_slot(struct bt *bt, const struct bt_slot *slot, u32 target) {
    store32(bt->cache_rw + slot->patch, target - (slot->patch + 4));
}

void cache_link(struct bt *bt, u32 index, u32 unit) {
    struct bt_slot *slot = &bt->slot[index];
    if (slot->target != BT_NONE || !bt->unit[slot->unit].valid)
        return;
    slot->target = unit;
    slot->next_incoming = bt->unit[unit].incoming;
    bt->unit[unit].incoming = index;
    patch_slot(bt, slot, bt->unit[unit].host_direct);
    host_serialize();
    bt->stats->chains++;
    BT_TELL(bt, .kind = BT_EVENT_chain, .from = slot->unit,
            .branch = index - bt->unit[slot->unit].slot_first, .unit = unit);
}

void cache_unlink_slot(struct bt *bt, u32 index) {
    struct bt_slot *slot = &bt->slot[index];
    if (slot->target == BT_NONE)
        return;
    u32 *link = &bt->unit[slot->target].incoming;
    while (*link != index)
        link = &bt->slot[*link].next_incoming;
    *link = slot->next_incoming;
    slot->target = BT_NONE;
    slot->next_incoming = BT_NONE;
    patch_slot(bt, slot, slot->stub);
}

void cache_unlink_cross_page(struct bt *bt) {
    BT_TELL(bt, .kind = BT_EVENT_unchain);
    for (u32 i = 0; i < bt->slot_count; i++)
        if (!bt->slot[i].same_page)
            cache_unlink_slot(bt, i);
    host_serialize();
}

/* ---- invalidation ---- */

/* jmp [r15 + HOT_STUB_RETURN_MISS] over a continuation that a return stack may still name. */
static void kill_continuations(struct bt *bt, const struct bt_unit *u) {
    for (u32 i = 0; i < u->cont_count; i++) {
        u8 *p = bt->cache_rw + bt->cont[u->cont_first + i];
        p[0] = 0x41;
        p[1] = 0xff;
        p[2] = 0xa7;
        store32(p + 3, HOT_STUB_RETURN_MISS);
    }
}

static void unpublish(struct bt *bt, const struct bt_unit *u) {
    u64 entry = (u64)unit_indirect_entry(bt, (u32)(u - bt->unit));
    for (unsigned v = 0; v < MMU_MAX_VIEWS; v++) {
        u64 *table = bt->view[v].table;
        if (table && table[u->eip & (VIEW_ENTRIES - 1)] == entry)
            table[u->eip & (VIEW_ENTRIES - 1)] = bt_stub(bt, bt_stub_indirect_miss, v != 0);
    }
}

void cache_invalidate_unit(struct bt *bt, u32 index, enum bt_cause cause) {
    struct bt_unit *u = &bt->unit[index];
    if (!u->valid)
        return;
    BT_TELL(bt, .kind = BT_EVENT_invalidate, .cause = (u8)cause, .unit = index);
    u->valid = false;
    while (u->incoming != BT_NONE)
        cache_unlink_slot(bt, u->incoming);
    for (u32 i = 0; i < u->slot_count; i++)
        cache_unlink_slot(bt, u->slot_first + i);
    kill_continuations(bt, u);
    unpublish(bt, u);
    hash_remove(bt, index);
    page_remove(bt, index, u->gpa >> PAGE_SHIFT);
    if (u->page2 != UINT64_MAX && u->page2 >> PAGE_SHIFT != u->gpa >> PAGE_SHIFT)
        page_remove(bt, index, u->page2 >> PAGE_SHIFT);
    host_serialize();
    bt->stats->units_invalidated++;
}

/* Does the unit's code overlap [gpa, gpa+bytes)? */
static bool overlaps(const struct bt_unit *u, u64 gpa, u64 bytes) {
    u64 end = gpa + bytes, first = u->guest_bytes;
    if (u->page2 != UINT64_MAX) {
        first = MIN(first, PAGE_BYTES - (u->gpa & PAGE_OFFSET_MASK));
        u64 rest = u->guest_bytes - first;
        if (u->page2 < end && u->page2 + rest > gpa)
            return true;
    }
    return u->gpa < end && u->gpa + first > gpa;
}

void cache_invalidate_range(struct bt *bt, u64 gpa, u64 bytes, enum bt_cause cause) {
    if (bytes == 0)
        return;
    u64 last = MIN((gpa + bytes - 1) >> PAGE_SHIFT, bt->page_count - 1);
    for (u64 page = gpa >> PAGE_SHIFT; page <= last; page++) {
        u32 i = bt->page_head[page];
        while (i != BT_NONE) {
            struct bt_unit *u = &bt->unit[i];
            u32 next = u->page_next[page_side(u, page)];
            if (overlaps(u, gpa, bytes))
                cache_invalidate_unit(bt, i, cause);
            i = next;
        }
    }
}

void cache_clear_view(struct bt *bt, unsigned view) {
    u64 miss = bt_stub(bt, bt_stub_indirect_miss, view != 0), *table = bt->view[view].table;
    if (table)
        BT_TELL(bt, .kind = BT_EVENT_icache_clear, .view = view);
    for (u32 i = 0; table && i < VIEW_ENTRIES; i++)
        table[i] = miss;
}

void cache_clear_views(struct bt *bt) {
    for (unsigned v = 0; v < MMU_MAX_VIEWS; v++)
        cache_clear_view(bt, v);
}

void cache_flush(struct bt *bt, enum bt_cause cause) {
    BT_TELL(bt, .kind = BT_EVENT_flush, .cause = (u8)cause);
    for (u32 i = 0; i < bt->unit_count; i++) {
        struct bt_unit *u = &bt->unit[i];
        if (!u->valid)
            continue;
        mmu_code_unprotect(bt->cpu->mmu, GPA(u->gpa & ~(u64)PAGE_OFFSET_MASK));
        if (u->page2 != UINT64_MAX)
            mmu_code_unprotect(bt->cpu->mmu, GPA(u->page2));
    }
    bt->stats->units_evicted += bt->unit_count;
    if (bt->executions)
        memset(bt->executions, 0, bt->unit_count * sizeof *bt->executions);
    memset(bt->hash, 0xff, sizeof bt->hash);
    memset(bt->page_head, 0xff, bt->page_count * sizeof *bt->page_head);
    bt->unit_count = bt->slot_count = bt->pc_count = bt->cont_count = bt->check_count = 0;
    bt->stale_unit = BT_NONE;
    bt->cache_used = 0;
    bt->generation++;
    cache_clear_views(bt);
    bt_reset_return_stack(bt, false);
    bt_reset_return_stack(bt, true);
    bt->recent_next = 0;
    memset(bt->recent, 0xff, sizeof bt->recent);
}

/* ---- host pc -> unit ---- */

u32 cache_unit_at(const struct bt *bt, u64 pc) {
    pc = bt_plain_address(bt, pc);
    if (pc < (u64)bt->cache_rx || pc >= (u64)bt->cache_rx + bt->cache_used)
        return BT_NONE;
    u32 offset = (u32)(pc - (u64)bt->cache_rx);
    u32 low = 0, high = bt->unit_count;
    while (low < high) { /* first unit beyond offset */
        u32 mid = (low + high) / 2;
        if (bt->unit[mid].host <= offset)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == 0 || offset >= bt->unit[low - 1].host + bt->unit[low - 1].host_bytes)
        return BT_NONE;
    return low - 1;
}

const struct bt_pc *cache_pc_lookup(const struct bt *bt, const struct bt_unit *u, u32 host_offset) {
    const struct bt_pc *found = &bt->pc[u->pc_first];
    for (u32 i = 0; i < u->pc_count; i++) {
        if (bt->pc[u->pc_first + i].host > host_offset)
            break;
        found = &bt->pc[u->pc_first + i];
    }
    return found;
}

/* ---- sites that keep faulting ---- */

static u32 site_index(u64 gpa) {
    return (u32)((gpa * 0x9e3779b97f4a7c15ull) >> (64 - BT_SITE_BITS));
}

bool site_adapted(const struct bt *bt, u64 gpa) {
    const struct bt_site *s = &bt->site[site_index(gpa)];
    return s->gpa == gpa && s->adapted;
}

bool site_live(const struct bt *bt, u64 gpa) {
    const struct bt_site *s = &bt->site[site_index(gpa)];
    return s->gpa == gpa && s->live;
}

struct bt_site *site_at(struct bt *bt, u64 gpa) {
    struct bt_site *s = &bt->site[site_index(gpa)];
    if (s->gpa != gpa)
        *s = (struct bt_site){.gpa = gpa, .page = BT_NONE};
    return s;
}

bool site_note_fault(struct bt *bt, u64 gpa, u32 page, unsigned threshold) {
    struct bt_site *s = site_at(bt, gpa);
    s->page = page;
    if (s->adapted || ++s->faults < threshold)
        return false;
    s->adapted = true;
    BT_TELL(bt, .kind = BT_EVENT_adapt, .gpa = gpa);
    bt->stats->adapted_sites++;
    return true;
}
