/*
 * replay.c: drives the translator without a guest: makes, links and drops units as somebody says
 * who recorded what bt_observe told. What comes out is the same host code.
 */
#include "bt/bt_internal.h"
#include "bt/bt_replay.h"

#include <x86intrin.h>

static bool context_is_sane(const struct bt *bt, const struct bt_context *c) {
    u32 room = PAGE_BYTES - (u32)(c->gpa & PAGE_OFFSET_MASK);
    struct mmu *mmu = bt->cpu->mmu;
    if (!mmu_gpa_is_ram(mmu, c->gpa) || ((c->gpa ^ c->eip) & PAGE_OFFSET_MASK) ||
        c->code_bytes == 0 || c->code_bytes > MIN(room, BT_CONTEXT_CODE_BYTES) ||
        (c->cpl != 0 && c->cpl != 3))
        return false;
    return c->gpa2 == UINT64_MAX ||
           (mmu_gpa_is_ram(mmu, c->gpa2) && (c->gpa2 & PAGE_OFFSET_MASK) == 0 &&
            c->code2_bytes <= INSN_MAX_BYTES);
}

/* Makes the CPU look as it did. */
static void set_up(struct bt *bt, const struct bt_context *c) {
    struct cpu *cpu = bt->cpu;
    u8 *ram = mmu_ram(cpu->mmu);
    memcpy(ram + c->gpa, c->code, c->code_bytes);
    if (c->gpa2 != UINT64_MAX)
        memcpy(ram + c->gpa2, c->code2, c->code2_bytes);
    cpu->cpl = c->cpl;
    cpu->cr0 &= ~(u32)(CR0_EM | CR0_TS);
    cpu->cr4 = c->fp_ok ? cpu->cr4 | CR4_OSFXSR : cpu->cr4 & ~(u32)CR4_OSFXSR;
    cpu->cr4 = c->tsd ? cpu->cr4 | CR4_TSD : cpu->cr4 & ~(u32)CR4_TSD;
    bt->fp_ok = c->fp_ok;
    bt->tsc_inline = c->tsc_inline;
}

bool bt_replay_translate(struct bt *bt, const struct bt_context *context, u32 *unit) {
    if (!context_is_sane(bt, context))
        return false;
    set_up(bt, context);
    bt->replayed = context;
    *unit = bt_translate(bt, context->eip, context->gpa);
    bt->replayed = NULL;
    return true;
}

static bool unit_is_valid(const struct bt *bt, u32 unit) {
    return unit < bt->unit_count && bt->unit[unit].valid;
}

bool bt_replay_chain(struct bt *bt, u32 from, u32 branch, u32 unit) {
    if (!unit_is_valid(bt, from) || !unit_is_valid(bt, unit) || branch >= bt->unit[from].slot_count)
        return false;
    u32 slot = bt->unit[from].slot_first + branch;
    if (bt->unit[unit].page2 != UINT64_MAX)
        bt->slot[slot].same_page = false;
    cache_link(bt, slot, unit);
    return true;
}

void bt_replay_unchain(struct bt *bt) {
    cache_unlink_cross_page(bt);
}

bool bt_replay_invalidate(struct bt *bt, u32 unit) {
    if (!unit_is_valid(bt, unit))
        return false;
    cache_invalidate_unit(bt, unit, BT_CAUSE_none);
    return true;
}

void bt_replay_flush(struct bt *bt) {
    cache_flush(bt, BT_CAUSE_none);
}

const u8 *bt_replay_image(const struct bt *bt, u32 *bytes) {
    *bytes = bt->cache_used;
    return bt->cache_rw;
}

bool bt_replay_unit(const struct bt *bt, u32 unit, struct bt_unit_info *out) {
    if (unit >= bt->unit_count)
        return false;
    return bt_unit_at(bt, (u64)bt->cache_rx + bt->unit[unit].host, out);
}

/* ---- stages ---- */

static void decode_again(struct translation *t) {
    const u8 *code = mmu_ram(t->bt->cpu->mmu) + t->gpa;
    u32 room = PAGE_BYTES - (t->eip & PAGE_OFFSET_MASK);
    for (u32 i = 0; i < t->count; i++) {
        u32 offset = t->insn[i].eip - t->eip;
        struct insn in;
        insn_decode(&in, code + offset, MIN(room - offset, INSN_MAX_BYTES), true, true);
        __asm__ volatile("" : : "r"(&in) : "memory");
    }
}

static void classify_again(struct translation *t) {
    u32 count = t->count;
    for (t->count = 0; t->count < count; t->count++) {
        struct bt_tinsn *ti = &t->insn[t->count];
        if (ti->in.length)
            translation_classify(t, ti, t->gpa + (ti->eip - t->eip));
    }
}

/* The unit's host code, into `room` bytes. */
static void emit_again(struct translation *t, u32 room) {
    translation_roll_back(t);
    t->current = 0;
    t->esp_delta = 0;
    t->ended = t->failed = false;
    t->e.p = t->e.start;
    t->e.end = t->e.start + room;
    t->e.overflow = room == 0;
    translation_emit(t);
}

static u64 time_emit(struct translation *t, unsigned repeat, u32 room) {
    u64 start = __rdtsc();
    for (unsigned i = 0; i < repeat; i++)
        emit_again(t, room);
    return (__rdtsc() - start) / repeat;
}

bool bt_replay_measure(struct bt *bt, const struct bt_context *context, unsigned repeat,
                       u64 cycles[BT_STAGE_COUNT]) {
    struct translation *t = bt->translation;
    if (!context_is_sane(bt, context) || bt->unit_count == bt->unit_capacity)
        return false;
    set_up(bt, context);
    bt->replayed = context;
    translation_decode(t, bt, context->eip, context->gpa);
    u32 room = (u32)(t->e.end - t->e.start);
    bool fits = translation_emit(t);
    if (fits) {
        u64 start = __rdtsc();
        for (unsigned i = 0; i < repeat; i++)
            decode_again(t);
        u64 decoded = __rdtsc();
        for (unsigned i = 0; i < repeat; i++)
            classify_again(t);
        cycles[BT_STAGE_decode] += (decoded - start) / repeat;
        cycles[BT_STAGE_classify] += (__rdtsc() - decoded) / repeat;
        u64 lower = time_emit(t, repeat, 0), both = time_emit(t, repeat, room);
        cycles[BT_STAGE_lower] += lower;
        cycles[BT_STAGE_emit] += both > lower ? both - lower : 0;
    }
    translation_roll_back(t);
    bt->replayed = NULL;
    return fits;
}
