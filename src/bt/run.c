/*
 * run.c: the engine's loop. Each round brings views, windows and pending invalidations up to date,
 * finds or makes the unit at cpu->eip and enters it; translated code comes back with a reason.
 */
#include "bt/bt_internal.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>

void bt_config_default(struct bt_config *config) {
    *config = (struct bt_config){.cache_bytes = 32u << 20,
                                 .hot_threshold = 8,
                                 .chain = true,
                                 .retstack = true,
                                 .icache = true,
                                 .adapt = true,
                                 .foresight = true,
                                 .selfcheck = true,
                                 .light = true};
}

/* ---- creation ---- */

/* LAHF in 64-bit mode is the one thing the stubs need beyond the baseline. */
static bool host_has_lahf64(void) {
    unsigned a, b, c, d;
    return __get_cpuid(0x80000001u, &a, &b, &c, &d) && (c & 1);
}

/* A wider mask, as that of AMD's misaligned-exception mode, would accept what must be #GP. SDM
 * volume 1, section 11.6.6 "Guidelines for Writing to the MXCSR Register". */
static bool host_mxcsr_mask_is(u32 mask) {
    _Alignas(16) u8 fx[512];
    __asm__ volatile("fxsave64 %0" : "=m"(fx));
    u32 host = load32(fx + 28);
    return (host ? host : 0xffbf) == mask;
}

#define RETURN_STACK_BLOCK (BT_RETURN_STACK_BYTES + 2 * PAGE_BYTES)

void bt_clear_return_stack(struct bt *bt, bool user) {
    u64 *top = (u64 *)(bt->return_top[user] - bt_ring_delta(bt, user));
    *top = bt_stub(bt, bt_stub_underflow, user);
}

static bool create_return_stacks(struct bt *bt) {
    for (int user = 0; user < 2; user++) {
        u8 *p = memory_shared_alloc(RETURN_STACK_BLOCK);
        if (!p || !memory_shared_protect(p, PAGE_BYTES, MEMORY_NONE))
            return false;
        bt->return_stack[user] = p;
        bt->return_top[user] =
            (u64)p + PAGE_BYTES + BT_RETURN_STACK_BYTES + bt_ring_delta(bt, user);
        bt_clear_return_stack(bt, user);
    }
    return true;
}

static void init_hot(struct bt *bt) {
    struct bt_hot *hot = bt_hot(bt->cpu);
    *hot = (struct bt_hot){.bt = bt,
                           .stub_callout = bt_stub(bt, bt_stub_callout, false),
                           .stub_callout_returning = bt_stub(bt, bt_stub_callout_returning, false),
                           .stub_load_segment = bt_stub(bt, bt_stub_load_segment, false),
                           .stub_return_miss = bt_stub(bt, bt_stub_return_miss, false),
                           .stub_indirect_miss = bt_stub(bt, bt_stub_indirect_miss, false),
                           .sti_poll = (u64)&hot->sti_poll,
                           .callout_counts = (u64)bt->stats->callouts_by_kind,
                           .enter_frame = (u64)bt_enter_frame,
                           .fsgsbase = substrate_switches_gs()};
    hot->return_rsp = bt->return_top[0];
    hot->ring_return_rsp[0] = bt->return_top[0];
    hot->ring_return_rsp[1] = bt->return_top[1];
    hot_forget_segments(bt->cpu);
}

static bool create(struct bt *bt, char *err, size_t err_bytes) {
    struct mmu_error mmu_err;
    if (bt->config.cache_bytes < (1u << 20) || bt->config.cache_bytes > (1u << 30)) {
        snprintf(err, err_bytes, "the translation cache must have 1 MiB to 1 GiB");
        return false;
    }
    if (!host_has_lahf64()) {
        snprintf(err, err_bytes, "the host CPU lacks LAHF in 64-bit mode");
        return false;
    }
    if (!substrate_open(bt, err, err_bytes))
        return false;
    bt->translation = calloc(1, sizeof *bt->translation);
    if (!bt->translation || !create_return_stacks(bt)) {
        snprintf(err, err_bytes, "no memory for the translator");
        return false;
    }
    init_hot(bt);
    if (!cache_create(bt, err, err_bytes))
        return false;
    if (!mmu_windows_create(bt->cpu, &mmu_err)) {
        snprintf(err, err_bytes, "%s", mmu_err.text);
        return false;
    }
    mmu_windows_set_foresight(bt->cpu, bt->config.foresight);
    unwind_register(bt);
    return true;
}

struct bt *bt_create(struct cpu *cpu, const struct bt_config *config, char *err, size_t err_bytes) {
    struct bt *bt = calloc(1, sizeof *bt);
    if (!bt) {
        snprintf(err, err_bytes, "no memory for the translator");
        return NULL;
    }
    bt->cpu = cpu;
    bt->config = *config;
    /* Both need units that run straight to their end. */
    if (config->lockstep || config->icount)
        bt->config.retstack = false;
    if (config->lockstep)
        bt->config.chain = bt->config.icache = false;
    bt->stats = &bt->counters;
    bt->user_view = BT_NONE;
    bt->mxcsr_exact = host_mxcsr_mask_is(cpu_mxcsr_mask(cpu));
    if (!create(bt, err, err_bytes)) {
        bt_destroy(bt);
        return NULL;
    }
    return bt;
}

void bt_destroy(struct bt *bt) {
    if (!bt)
        return;
    substrate_close(bt);
    unwind_unregister(bt);
    mmu_windows_destroy(bt->cpu);
    cache_destroy(bt);
    for (int user = 0; user < 2; user++)
        if (bt->return_stack[user])
            memory_shared_free(bt->return_stack[user], RETURN_STACK_BLOCK);
    for (unsigned v = 0; v < MMU_MAX_VIEWS; v++)
        if (bt->view[v].table)
            memory_shared_free(bt->view[v].table, VIEW_TABLE_BYTES);
    free(bt->translation);
    free(bt->meter);
    free(bt);
}

/* ---- events ---- */

void bt_kick_sigsafe(struct bt *bt) {
    struct bt_hot *hot = bt_hot(bt->cpu);
    hot->kick = 1;
    if (!hot->safepoint_armed) {
        hot->safepoint_armed = true;
        memory_shared_protect((u8 *)bt->cpu + CPU_SAFEPOINT_OFFSET, PAGE_BYTES, MEMORY_NONE);
    }
}

void bt_disarm_safepoint(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    if (hot->safepoint_armed) {
        /* In this order: a kick in between leaves the page open, and bt_run sees its flag. */
        memory_shared_protect((u8 *)cpu + CPU_SAFEPOINT_OFFSET, PAGE_BYTES, MEMORY_READ_WRITE);
        hot->safepoint_armed = false;
    }
}

static enum bt_exit take_kick(struct bt *bt) {
    bt_hot(bt->cpu)->kick = 0;
    bt_disarm_safepoint(bt->cpu);
    selfcheck_age(bt);
    return BT_EXIT_KICK;
}

void bt_set_interrupt_pending(struct bt *bt, bool pending) {
    struct bt_hot *hot = bt_hot(bt->cpu);
    hot->interrupt_pending = pending;
    hot->sti_poll = (pending ? (u64)bt->cpu + CPU_POISON_OFFSET : (u64)&hot->sti_poll) + hot->delta;
}

void bt_set_budget(struct bt *bt, u64 insns) {
    bt_hot(bt->cpu)->budget = (i64)MIN(insns, (u64)INT64_MAX);
}

void bt_set_tsc_base(struct bt *bt, u64 host_tsc_base) {
    bt_hot(bt->cpu)->tsc_base = host_tsc_base;
    bt->tsc_inline = true;
}

void bt_set_breakpoints(struct bt *bt, const u32 *lin, unsigned count) {
    bt->breakpoints = MIN(count, (unsigned)BT_MAX_BREAKPOINTS);
    memcpy(bt->breakpoint, lin, bt->breakpoints * sizeof *lin);
    bt_flush(bt);
}

void bt_flush(struct bt *bt) {
    bt->stats->cache_flushes++;
    cache_flush(bt, BT_CAUSE_request);
}

static void evict_all(struct bt *bt) {
    bt->stats->cache_flushes++;
    cache_flush(bt, BT_CAUSE_full);
}

/* ---- mode and views ---- */

bool bt_mode_translatable(const struct cpu *cpu) {
    if (!(cpu->cr0 & CR0_PE) || (cpu->eflags & (F_VM | F_TF | F_DF)))
        return false;
    if (cpu->cpl != 0 && cpu->cpl != 3)
        return false;
    if ((cpu->eflags & F_AC) && (cpu->cr0 & CR0_AM) && cpu->cpl == 3)
        return false;
    if ((cpu->dr[7] & 0xff) || rc_virtual_interrupt_due(cpu))
        return false;
    return bt_code_and_stack_flat(cpu) && rc_segment_is_flat_data(&cpu->seg[SEG_DS]) &&
           rc_segment_is_flat_data(&cpu->seg[SEG_ES]);
}

void bt_reset_return_stack(struct bt *bt, bool user) {
    struct bt_hot *hot = bt_hot(bt->cpu);
    hot->ring_return_rsp[user] = bt->return_top[user];
    if (hot->ring_user == user)
        hot->return_rsp = bt->return_top[user];
}

bool bt_sync_view(struct bt *bt, bool user) {
    struct bt_hot *hot = bt_hot(bt->cpu);
    struct mmu_view view = mmu_current_view(bt->cpu, user);
    RF_ASSERT(view.id < MMU_MAX_VIEWS);
    struct bt_view_state *state = &bt->view[view.id];
    if (!state->table) {
        state->table = memory_shared_alloc(VIEW_TABLE_BYTES);
        if (!state->table)
            return false;
        state->epoch = ~view.epoch;
    }
    if (state->epoch != view.epoch) {
        cache_clear_view(bt, view.id);
        state->epoch = view.epoch;
        bt_reset_return_stack(bt, user);
        if (!user)
            cache_unlink_cross_page(bt);
        bt->stats->view_flushes++;
    }
    if (user && view.id != bt->user_view) {
        bt->user_view = view.id;
        bt_reset_return_stack(bt, true);
    }
    hot->ring_table[user] = (u64)state->table + bt_ring_delta(bt, user);
    hot->ring_window[user] = mmu_window_base(bt->cpu, user);
    return true;
}

/* Links, tables and continuations hold units of one FP key only. */
static void sync_fp(struct bt *bt) {
    bool fp_ok = bt_fp_allowed(bt->cpu);
    if (fp_ok == bt->fp_ok)
        return;
    bt->fp_ok = fp_ok;
    cache_clear_views(bt);
    bt_reset_return_stack(bt, false);
    bt_reset_return_stack(bt, true);
}

/* RDTSC at CPL 3 is translated for one value of CR4.TSD. */
static void sync_tsd(struct bt *bt) {
    if (bt->tsd == (bt->cpu->cr4 & CR4_TSD))
        return;
    bt->tsd = bt->cpu->cr4 & CR4_TSD;
    bt_flush(bt);
}

static void drain_code_writes(struct bt *bt) {
    struct gpa gpa;
    u32 bytes;
    bool all;
    while (mmu_code_next_write(bt->cpu->mmu, &gpa, &bytes, &all)) {
        if (all)
            bt_flush(bt);
        else {
            selfcheck_note_write(bt, gpa.v);
            cache_invalidate_range(bt, gpa.v, bytes, BT_CAUSE_write);
        }
    }
}

/* ---- finding and making units ---- */

static u32 *heat_of(struct bt *bt, u64 gpa) {
    return &bt->heat[(gpa * 0x9e3779b1u >> 12) & ((1u << BT_HEAT_BITS) - 1)];
}

void bt_cool(struct bt *bt, u64 gpa) {
    *heat_of(bt, gpa) = 0;
}

/* Counts an execution of cold code; true once it is worth translating. */
static bool is_hot(struct bt *bt, u64 gpa) {
    if (bt->config.hot_threshold == 0)
        return true;
    u32 *heat = heat_of(bt, gpa);
    if (*heat >= bt->config.hot_threshold)
        return true;
    ++*heat;
    return false;
}

/* The unit to enter at cpu->eip, or an exit. */
static bool find_unit(struct bt *bt, u32 *unit, enum bt_exit *exit) {
    u64 gpa;
    if (!bt_find_current(bt, unit, &gpa)) {
        bt->fault_emulate = false;
        *exit = BT_EXIT_EMULATE; /* the interpreter raises the fetch fault */
        return false;
    }
    if (*unit != BT_NONE)
        return true;
    if (!is_hot(bt, gpa)) {
        *exit = BT_EXIT_COLD;
        return false;
    }
    *unit = bt_translate(bt, bt->cpu->eip, gpa);
    if (*unit == BT_NONE) {
        evict_all(bt);
        *unit = bt_translate(bt, bt->cpu->eip, gpa);
        RF_ASSERT(*unit != BT_NONE);
    }
    return true;
}

/* An instruction kept leaving by host faults: translate it as an exit from now on. */
static void learn_from_fault(struct bt *bt) {
    if (!bt->fault_emulate)
        return;
    bt->fault_emulate = false;
    if (selfcheck_spares_site(bt))
        return;
    if (bt->config.adapt && site_note_fault(bt, bt->fault_gpa, bt->fault_page, 2))
        cache_invalidate_range(bt, bt->fault_gpa, 1, BT_CAUSE_adapt);
}

/* Offsets in the FXSAVE64 image: status word, last opcode, instruction and data pointer. */
enum { FX_FSW = 2, FX_FOP = 6, FX_FIP = 8, FX_FDP = 16 };

/* Bytes of guest code at lin, up to the longest instruction, as far as they can be read. */
static unsigned peek_code(struct cpu *cpu, u32 lin, u8 code[INSN_MAX_BYTES]) {
    unsigned n = 0;
    while (n < INSN_MAX_BYTES) {
        unsigned part = MIN(INSN_MAX_BYTES - n, PAGE_BYTES - ((lin + n) & PAGE_OFFSET_MASK));
        const u8 *from = mmu_host_pointer(cpu, lin + n, part, MMU_FETCH);
        if (!from)
            break;
        memcpy(code + n, from, part);
        n += part;
    }
    return n;
}

/* Opcode and operand of the x87 instruction at eip: the host's opcode has another ModRM byte, and
 * its address has the segment's base in it. Code that is gone leaves them as they are. */
static void translate_fp_operand(struct cpu *cpu, u32 eip) {
    bool code32 = cpu->seg[SEG_CS].attr & ATTR_DB, stack32 = cpu->seg[SEG_SS].attr & ATTR_DB;
    u8 code[INSN_MAX_BYTES];
    unsigned n = peek_code(cpu, cpu->seg[SEG_CS].base + eip, code);
    struct insn in;
    if (insn_decode(&in, code, n, code32, stack32) != INSN_OK || in.map != 0 ||
        (in.opcode & 0xf8) != 0xd8)
        return;
    store16(cpu->fx + FX_FOP, (u16)((in.opcode & 7) << 8 | in.modrm));
    if (in.modrm >= 0xc0 || in.mem_seg > SEG_GS)
        return;
    const struct segment *seg = &cpu->seg[in.mem_seg];
    u32 base = in.mem_seg >= SEG_FS ? seg->base : 0; /* others are flat */
    store64(cpu->fx + FX_FDP, (load32(cpu->fx + FX_FDP) - base) | (u64)seg->selector << 32);
}

/* Turns the host's pointers at the last x87 instruction into the guest's: SDM volume 1, section
 * 8.1.8 "x87 FPU Instruction and Data (Operand) Pointers". Windows are 4-GiB aligned.
 * DEVIATION: hosts whose FXSAVE leaves the pointers out while no exception is pending (AMD's
 * without CPUID 80000008h.EBX[2]) lose them here, so that the guest reads zero; elsewhere FOP is
 * then the host's, and FDP includes the base of FS or GS. With an exception pending all are exact,
 * unless FS or GS was loaded between. */
static void translate_fp_pointers(struct bt *bt) {
    const unsigned summary = 0x80;
    struct cpu *cpu = bt->cpu;
    u64 fip = load64(cpu->fx + FX_FIP);
    if (likely(bt_plain_address(bt, fip) - (u64)bt->cache_rx >= bt->cache_bytes))
        return;
    u32 eip = 0;
    bool known = bt_pc_to_eip(bt, fip, &eip);
    store64(cpu->fx + FX_FIP, known ? eip | (u64)cpu->seg[SEG_CS].selector << 32 : 0);
    store64(cpu->fx + FX_FDP,
            known ? load32(cpu->fx + FX_FDP) | (u64)cpu->seg[SEG_DS].selector << 32 : 0);
    if (known && (load16(cpu->fx + FX_FSW) & summary))
        translate_fp_operand(cpu, eip);
}

/* Everything translated code and its callouts look at, from struct cpu. */
static void load_hot(struct bt *bt) {
    struct cpu *cpu = bt->cpu;
    struct bt_hot *hot = bt_hot(cpu);
    hot_load_flags(cpu);
    hot_load_segments(cpu);
    hot_forget_stale_segments(cpu);
    hot->cr0 = cpu->cr0;
    hot->cr2 = cpu->cr2;
    hot->cr3 = cpu->cr3;
    hot->cr4 = cpu->cr4;
    hot->tsc_delta = cpu->tsc_offset - hot->tsc_base;
    hot->window_by_ring = mmu_window_by_ring(cpu);
}

static u32 enter_at(struct bt *bt, const void *code) {
    struct cpu *cpu = bt->cpu;
    const struct bt_hot *hot = bt_hot(cpu);
    i64 budget = hot->budget;
    u32 exit = bt_enter(cpu, code);
    translate_fp_pointers(bt);
    if (bt->config.icount)
        cpu->insn_count += (u64)(budget - hot->budget);
    hot_store_flags(cpu);
    return exit;
}

static u32 enter(struct bt *bt, u32 unit) {
    load_hot(bt);
    hot_select_ring(bt->cpu);
    bt_publish(bt, unit);
    bt->recent[bt->recent_next++ % BT_RECENT] = unit;
    bt->last_unit_insns = bt->unit[unit].insns;
    bt->stats->dispatches++;
    if (bt->lockstep_compare)
        bt->unit[unit].lockstep_runs += bt->unit[unit].lockstep_runs < LOCKSTEP_FIRST;
    /* The indirect entry has more to get wrong: flags that a fault or a poll may show. */
    return enter_at(bt, bt->lockstep_compare ? unit_indirect_entry(bt, unit)
                                             : unit_direct_entry(bt, unit));
}

static u32 enter_direct(struct bt *bt) {
    load_hot(bt);
    return enter_at(bt, (const void *)BT_DIRECT);
}

/* How to go on at cpu->eip. */
enum entry { ENTRY_NONE, ENTRY_UNIT, ENTRY_DIRECT };

static bool views_ready(struct bt *bt) {
    /* The user window is looked at only when ring 3 is entered: see dispatch in callout.c. */
    return bt_sync_view(bt, false) && (bt->cpu->cpl != 3 || bt_sync_view(bt, true));
}

static enum entry before_entry(struct bt *bt, enum bt_exit *exit) {
    struct cpu *cpu = bt->cpu;
    drain_code_writes(bt);
    if (bt_hot(cpu)->kick) {
        *exit = take_kick(bt);
        return ENTRY_NONE;
    }
    if (cpu->shadow) {
        bt->fault_emulate = false;
        *exit = BT_EXIT_EMULATE;
        return ENTRY_NONE;
    }
    bool direct = bt->config.direct && cpu->cpl == 3;
    bool translatable = bt_mode_translatable(cpu);
    *exit = BT_EXIT_MODE;
    if (!direct && !translatable)
        return ENTRY_NONE;
    sync_fp(bt);
    sync_tsd(bt);
    substrate_load_tsc(bt);
    if (!views_ready(bt))
        return ENTRY_NONE;
    if (direct && substrate_direct_ready(bt))
        return ENTRY_DIRECT;
    if (!translatable)
        return ENTRY_NONE;
    if (bt->prefill_pending && cpu->cpl == 3) {
        bt->prefill_pending = false;
        if (bt->config.foresight)
            mmu_window_prefill(cpu, true, GLIN(bt->prefill_lin), bt->prefill_write);
    }
    return ENTRY_UNIT;
}

/* One stretch of guest code, from cpu->eip to an exit or BT_EXIT_AGAIN. False: it could not be
 * entered. */
static bool run_stretch(struct bt *bt, u32 *code) {
    enum bt_exit exit;
    u32 unit;
    enum entry entry = before_entry(bt, &exit);
    if (entry == ENTRY_DIRECT) {
        *code = enter_direct(bt);
        return true;
    }
    if (entry == ENTRY_NONE || !find_unit(bt, &unit, &exit)) {
        *code = exit;
        return false;
    }
    if (trace_on(TRACE_exec))
        bt_trace_exec(bt, unit);
    *code = enter(bt, unit);
    learn_from_fault(bt);
    selfcheck_drop_stale(bt);
    return true;
}

static enum bt_exit run(struct bt *bt) {
    for (;;) {
        u32 code;
        bool ran = run_stretch(bt, &code);
        if (ran && code == BT_EXIT_AGAIN && !bt->lockstep_compare)
            continue;
        if (code == BT_EXIT_AGAIN)
            code = BT_EXIT_UNIT_END;
        if (ran && code == BT_EXIT_KICK && bt_hot(bt->cpu)->kick)
            take_kick(bt);
        bt->stats->exits += ran;
        bt->stats->exits_by_reason[code]++;
        return code;
    }
}

enum bt_exit bt_run(struct bt *bt) {
    enum bt_exit exit = run(bt);
    bt->lockstep_compare = false;
    return exit;
}
