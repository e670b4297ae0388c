/*
 * translate.c: makes one translation unit: decode and classify straight on, lower, record the PC
 * table, verify, publish.
 */
#include "bt/bt_internal.h"

#include <x86intrin.h>

void translation_note_pc(struct translation *t, u16 guest, u8 recovery, u8 index) {
    struct bt *bt = t->bt;
    if (bt->pc_count == bt->pc_capacity) {
        t->failed = true;
        return;
    }
    bt->pc[bt->pc_count++] = (struct bt_pc){.host = (u16)(t->e.p - t->e.start),
                                            .recovery = recovery,
                                            .index = index,
                                            .guest = guest,
                                            .esp = (i16)t->esp_delta};
}

/* Classes after which straight-line translation cannot go on. */
static bool ends_unit(const struct translation *t, const struct bt_tinsn *ti) {
    if (t->checked && selfcheck_ends_unit(ti))
        return true;
    if (ti->adapted)
        return !bt_adapted_stays(&ti->in);
    switch (ti->class) {
    case BT_CLASS_EMULATE:
    case BT_CLASS_TRAP:
    case BT_CLASS_JMP:
    case BT_CLASS_RET:
    case BT_CLASS_INT:
    case BT_CLASS_IRET:
    case BT_CLASS_SYSENTER:
    case BT_CLASS_SYSEXIT:
        return true;
    case BT_CLASS_JCC:
    case BT_CLASS_LOOP:
        return t->straight;
    case BT_CLASS_CALL:
        return !t->bt->config.retstack;
    default:
        return false;
    }
}

/* Far JMP/CALL/RET share mnemonics with the near forms. */
static bool is_far(const struct insn *in) {
    if (in->op_count && in->op[0].type == OP_FAR)
        return true;
    if (in->map != 0)
        return false;
    if (in->opcode == 0xff)
        return ((in->modrm >> 3) & 7) == 3 || ((in->modrm >> 3) & 7) == 5;
    return in->opcode == 0xca || in->opcode == 0xcb;
}

static bool has_breakpoint(const struct translation *t, u32 eip) {
    if (t->bt->replayed)
        return t->bt->replayed->broken >> t->count & 1;
    for (unsigned i = 0; i < t->bt->breakpoints; i++)
        if (t->bt->breakpoint[i] == eip)
            return true;
    return false;
}

static bool is_adapted(const struct translation *t, u64 gpa) {
    if (t->bt->replayed)
        return t->bt->replayed->adapted >> t->count & 1;
    return t->bt->config.adapt && site_adapted(t->bt, gpa);
}

static bool is_live(const struct translation *t, const struct bt_tinsn *ti, u64 gpa) {
    if (t->bt->replayed)
        return t->bt->replayed->live >> t->count & 1;
    return selfcheck_immediate_is_live(t, ti, gpa);
}

void translation_classify(struct translation *t, struct bt_tinsn *ti, u64 gpa) {
    ti->class = bt_class_of(&ti->in, t->cpl, t->fp_ok);
    if (!bt_announced(t->bt->cpu->model, &ti->in))
        ti->class = BT_CLASS_EMULATE;
    if ((ti->class == BT_CLASS_JMP || ti->class == BT_CLASS_CALL || ti->class == BT_CLASS_RET) &&
        is_far(&ti->in))
        ti->class = BT_CLASS_EMULATE;
    if (ti->class == BT_CLASS_RDTSC &&
        (!t->bt->tsc_inline || (t->cpl == 3 && (t->bt->cpu->cr4 & CR4_TSD))))
        ti->class = BT_CLASS_EMULATE;
    if (ti->in.mnemonic == ZYDIS_MNEMONIC_LDMXCSR && !t->bt->mxcsr_exact)
        ti->class = BT_CLASS_EMULATE;
    if (ti->class == BT_CLASS_LIGHT && !bt_light_wanted(&t->bt->config))
        ti->class = BT_CLASS_EMULATE;
    if (t->cpl == 0 && (t->bt->config.trap_classes & bt_trap_class_of(&ti->in)))
        ti->class = BT_CLASS_TRAP;
    bool broken = has_breakpoint(t, ti->eip);
    if (broken)
        ti->class = BT_CLASS_EMULATE;
    ti->adapted = !broken && is_adapted(t, gpa);
    ti->live = !broken && is_live(t, ti, gpa);
    t->broken |= (u64)broken << t->count;
    t->live |= (u64)ti->live << t->count;
    t->adapted |= (u64)ti->adapted << t->count;
}

static bool find_second_page(const struct translation *t, struct gpa *second) {
    struct cpu *cpu = t->bt->cpu;
    u32 next_page = (t->eip & ~PAGE_OFFSET_MASK) + PAGE_BYTES;
    if (t->bt->replayed)
        *second = GPA(t->bt->replayed->gpa2);
    else if (!mmu_fetch(cpu, GLIN(next_page), t->cpl == 3, second))
        return false;
    return mmu_gpa_is_ram(cpu->mmu, second->v);
}

/* An instruction that runs into the next page makes a unit of its own. */
static bool decode_spanning(struct translation *t, struct bt_tinsn *ti, unsigned first_bytes) {
    struct bt *bt = t->bt;
    struct gpa second;
    u8 bytes[INSN_MAX_BYTES];
    if (!find_second_page(t, &second))
        return false;
    memcpy(bytes, mmu_ram(bt->cpu->mmu) + t->gpa, first_bytes);
    memcpy(bytes + first_bytes, mmu_ram(bt->cpu->mmu) + second.v, sizeof bytes - first_bytes);
    if (insn_decode(&ti->in, bytes, sizeof bytes, true, true) != INSN_OK)
        return false;
    t->page2 = second.v & ~(u64)PAGE_OFFSET_MASK;
    t->checked |= !bt->replayed && bt->page_checked[second.v >> PAGE_SHIFT];
    return true;
}

/* Fills t->insn. An instruction that does not decode is left to the emulator. */
static void decode_unit(struct translation *t) {
    const u8 *ram = mmu_ram(t->bt->cpu->mmu);
    u32 offset = 0, room = PAGE_BYTES - (t->eip & PAGE_OFFSET_MASK);
    while (t->count < BT_MAX_UNIT_INSNS) {
        struct bt_tinsn *ti = &t->insn[t->count];
        ti->eip = t->eip + offset;
        enum insn_status status = insn_decode(&ti->in, ram + t->gpa + offset,
                                              MIN(room - offset, INSN_MAX_BYTES), true, true);
        if (status == INSN_MORE && t->count > 0)
            break; /* the next unit takes it */
        if (status == INSN_MORE && decode_spanning(t, ti, room))
            status = INSN_OK;
        if (status != INSN_OK) {
            ti->in.length = 0;
            ti->class = BT_CLASS_EMULATE;
            ti->adapted = ti->live = false;
            t->count++;
            break;
        }
        translation_classify(t, ti, t->gpa + offset);
        t->count++;
        offset += ti->in.length;
        if (ends_unit(t, ti) || offset >= room)
            break;
    }
    struct bt_tinsn *last = &t->insn[t->count - 1];
    /* Nothing may come between STI and the next instruction: it heads the next unit, or is the
     * emulator's, which knows shadows. */
    if (last->class == BT_CLASS_STI) {
        if (t->count > 1)
            last = &t->insn[--t->count - 1];
        else
            last->class = BT_CLASS_EMULATE;
    }
    t->guest_bytes = last->eip + last->in.length - t->eip;
}

/* Counts the unit's instructions against the budget; flags survive on the return stack. */
static void emit_icount(struct translation *t) {
    struct emit *e = &t->e;
    u8 n = t->counted;
    struct host_op sub = {.opcode = 0x83, .reg = 5, .rex_w = true};
    struct host_op add = {.opcode = 0x83, .reg = 0, .rex_w = true};
    emit_u8(e, 0x9c); /* pushfq */
    emit_op_mem(e, sub, hot_mem(HOT_BUDGET));
    emit_u8(e, n);
    emit_u8(e, 0x79); /* jns */
    u8 *skip = e->p;
    emit_u8(e, 0);
    emit_op_mem(e, add, hot_mem(HOT_BUDGET));
    emit_u8(e, n);
    emit_u8(e, 0x9d); /* popfq */
    lower_callout(t, CO_BUDGET, t->eip, false);
    if (!e->overflow)
        *skip = (u8)(e->p - skip - 1);
    emit_u8(e, 0x9d);
}

/* One more execution of this unit: no flag is touched, r8 and r9 are free at a direct entry. */
static void emit_count(struct translation *t) {
    struct host_mem count = {.base = H_R8, .index = H_NONE, .disp = (i32)(t->bt->unit_count * 8)};
    struct host_mem next = {.base = H_R9, .index = H_NONE, .disp = 1};
    emit_load64(&t->e, H_R8, hot_mem(HOT_UNIT_COUNTS));
    emit_load64(&t->e, H_R9, count);
    emit_lea64(&t->e, H_R9, next);
    emit_op_mem(&t->e, (struct host_op){.opcode = 0x89, .reg = H_R9, .rex_w = true}, count);
}

static void emit_unit(struct translation *t, struct bt_unit *u) {
    struct bt *bt = t->bt;
    translation_note_pc(t, 0, RECOVER_PLAIN, 0);
    lower_eip_check(t, t->eip, HOT_STUB_INDIRECT_MISS);
    u->host_direct = (u32)(t->e.p - bt->cache_rw);
    if (t->checked)
        lower_self_check(t);
    if (bt->config.count)
        emit_count(t);
    if (bt->config.icount)
        emit_icount(t);
    for (u32 i = 0; i < t->count && !t->ended; i++) {
        struct bt_tinsn *ti = &t->insn[i];
        t->current = i;
        t->next_eip = ti->eip + ti->in.length;
        if (lower_needs_esp(ti))
            lower_settle_esp(t, 0);
        translation_note_pc(t, (u16)(ti->eip - t->eip), RECOVER_PLAIN, (u8)i);
        bt_lower(t, ti);
    }
    if (!t->ended) {
        lower_settle_esp(t, 0);
        translation_note_pc(t, (u16)(t->next_eip - t->eip), RECOVER_PLAIN, (u8)t->count);
        lower_exit(t, t->next_eip);
    }
    lower_slot_stubs(t);
}

static void start(struct translation *t, struct bt *bt, u32 eip, u64 gpa) {
    *t = (struct translation){
        .bt = bt,
        .gpa = gpa,
        .eip = eip,
        .cpl = bt->cpu->cpl,
        .fp_ok = bt_fp_allowed(bt->cpu),
        .straight = bt->config.lockstep || bt->config.icount,
        .slot_first = bt->slot_count,
        .cont_first = bt->cont_count,
        .pc_first = bt->pc_count,
        .check_first = bt->check_count,
        .checked = bt->replayed ? bt->replayed->checked : bt->page_checked[gpa >> PAGE_SHIFT],
        .page2 = UINT64_MAX,
    };
    t->e.start = t->e.p = bt->cache_rw + bt->cache_used;
    t->e.end = MIN(bt->cache_rw + bt->cache_bytes, t->e.p + BT_MAX_UNIT_HOST_BYTES);
}

static void count_unit(struct bt *bt, const struct bt_unit *u, u64 tsc) {
    bt->stats->units_translated++;
    bt->stats->guest_insns_translated += u->insns;
    bt->stats->guest_bytes_translated += u->guest_bytes;
    bt->stats->host_bytes_emitted += u->host_bytes;
    bt->stats->checked_units += u->checked;
    bt->stats->translate_tsc += tsc;
}

static void verify(struct bt *bt, const struct bt_unit *u) {
    u32 offset = 0;
    const char *wrong = bt_verify(bt, u, &offset);
    if (wrong) {
        log_error("verifier: unit at %08x: host offset %u: %s", u->eip, offset, wrong);
        rf_assert_fail("emitted code obeys the isolation rules", __FILE__, __LINE__);
    }
    bt->stats->verified_units++;
}

void translation_decode(struct translation *t, struct bt *bt, u32 eip, u64 gpa) {
    start(t, bt, eip, gpa);
    decode_unit(t);
    const struct bt_tinsn *last = &t->insn[t->count - 1];
    bool leaves = last->class == BT_CLASS_EMULATE || last->class == BT_CLASS_TRAP ||
                  (last->adapted && !bt_adapted_stays(&last->in));
    t->counted = (u8)(t->count - (leaves ? 1 : 0));
}

void translation_roll_back(const struct translation *t) {
    struct bt *bt = t->bt;
    bt->slot_count = t->slot_first;
    bt->cont_count = t->cont_first;
    bt->pc_count = t->pc_first;
    bt->check_count = t->check_first;
}

bool translation_emit(struct translation *t) {
    struct bt *bt = t->bt;
    struct bt_unit *u = &bt->unit[bt->unit_count];
    *u = (struct bt_unit){.gpa = t->gpa,
                          .page2 = t->page2,
                          .eip = t->eip,
                          .guest_bytes = (u16)MAX(t->guest_bytes, 1),
                          .insns = t->counted,
                          .cpl = t->cpl,
                          .fp = t->fp_ok,
                          .valid = true,
                          .host = bt->cache_used,
                          .incoming = BT_NONE};
    emit_unit(t, u);
    u->host_bytes = (u32)(t->e.p - t->e.start);
    u->slot_first = t->slot_first;
    u->slot_count = bt->slot_count - t->slot_first;
    u->pc_first = t->pc_first;
    u->pc_count = bt->pc_count - t->pc_first;
    u->cont_first = t->cont_first;
    u->cont_count = bt->cont_count - t->cont_first;
    u->checked = t->checked;
    u->check_first = t->check_first;
    u->check_count = bt->check_count - t->check_first;
    return !t->e.overflow && !t->failed;
}

/* Takes the unit just emitted into the cache. */
static u32 keep(struct translation *t) {
    struct bt *bt = t->bt;
    u32 index = bt->unit_count++;
    const struct bt_unit *u = &bt->unit[index];
    for (u32 i = u->slot_first; i < bt->slot_count; i++)
        bt->slot[i].unit = index;
    bt->cache_used = (u32)ALIGN_UP(bt->cache_used + u->host_bytes, 16);
    cache_insert(bt, index);
    return index;
}

u32 bt_translate(struct bt *bt, u32 eip, u64 gpa) {
    u64 tsc = __rdtsc();
    struct translation *t = bt->translation;
    if (bt->unit_count == bt->unit_capacity)
        return BT_NONE;
    translation_decode(t, bt, eip, gpa);
    if (!translation_emit(t)) {
        translation_roll_back(t);
        return BT_NONE;
    }
    u32 index = keep(t);
    count_unit(bt, &bt->unit[index], __rdtsc() - tsc);
    if (trace_on(TRACE_in_asm) || trace_on(TRACE_out_asm))
        bt_trace_translation(bt, t, index);
    if (unlikely(bt->listeners))
        bt_tell_translation(bt, t, index);
    if (bt->config.verify)
        verify(bt, &bt->unit[index]);
    return index;
}
