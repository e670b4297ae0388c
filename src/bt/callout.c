/*
 * callout.c: what translated code calls. Compiled for general registers only, because the guest's
 * x87 and SSE state is live in the host's registers; whatever needs more leaves translated code.
 *
 * A callout returns 0 (go back to the caller), BT_LEAVE, or the host address to continue at.
 */
#include "bt/bt_internal.h"
#include "ringcomp/ringcomp.h"

static u64 leave(struct cpu *cpu, u32 eip, u32 exit) {
    cpu->eip = eip;
    bt_hot(cpu)->exit = exit;
    return BT_LEAVE;
}

/* ---- hot area ---- */

void hot_load_flags(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    u32 f = cpu->eflags;
    hot->flags16 = (u16)(((f & 0xd5) << 8) | ((f >> 11) & 1));
    hot->flag_if = f & F_IF;
    /* RF lasts for one instruction, and none here looks at it. */
    hot->flag_rest = (f & ~(u32)(F_ARITH | F_IF | F_RF)) | F_FIXED;
}

void hot_store_flags(struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    cpu->eflags = ((hot->flags16 >> 8) & 0xd5) | ((u32)(hot->flags16 & 1) << 11) | hot->flag_if |
                  hot->flag_rest;
}

void hot_load_segments(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    u64 poison = (u64)cpu + CPU_POISON_OFFSET;
    const struct segment *fs = &cpu->seg[SEG_FS], *gs = &cpu->seg[SEG_GS];
    hot->fs_base_ptr = data_segment_unlimited(fs) ? (u64)&fs->base : poison;
    hot->gs_base_ptr = data_segment_unlimited(gs) ? (u64)&gs->base : poison;
    for (int i = 0; i < 6; i++)
        hot->selectors[i] = cpu->seg[i].selector;
}

static const u64 null_descriptor;

void hot_forget_segments(struct cpu *cpu) {
    for (int i = 0; i < 4; i++) /* no sum is zero */
        bt_hot(cpu)->segment_cache[i] =
            (struct bt_segment_cache){.descriptor = (u64)&null_descriptor, .minus_value = 1};
}

static const u8 cached_segment[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

/* IRET and SYSEXIT may have loaded other selectors, or null ones. */
static void forget_changed_segments(struct cpu *cpu) {
    struct bt_segment_cache *c = bt_hot(cpu)->segment_cache;
    for (int i = 0; i < 4; i++)
        if (c[i].minus_selector + cpu->seg[cached_segment[i]].selector != 0)
            c[i].minus_value = 1, c[i].descriptor = (u64)&null_descriptor;
}

static void remember_segment(struct cpu *cpu, unsigned which, u16 selector) {
    struct bt_segment_cache *c = &bt_hot(cpu)->segment_cache[which];
    const void *descriptor = &null_descriptor;
    if (selector & ~7)
        descriptor = selector & 4 ? NULL
                                  : mmu_host_pointer(cpu, cpu->gdtr.base + (selector & ~7u), 8,
                                                     MMU_READ | MMU_SUPERVISOR);
    if (!descriptor)
        return;
    c->descriptor = (u64)descriptor;
    c->minus_value = -load64(descriptor);
    c->minus_selector = -(u64)selector;
}

#define ARCH_SET_GS_CODE 0x1001
static void set_gs_by_syscall(u64 base) {
    long result;
    register long nr __asm__("rax") = 158; /* arch_prctl */
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "r"(nr), "D"(ARCH_SET_GS_CODE), "S"(base)
                     : "rcx", "r11", "memory");
}

void hot_set_window(struct cpu *cpu, u64 base) {
    struct bt_hot *hot = bt_hot(cpu);
    if (hot->window != base && !hot->fsgsbase)
        set_gs_by_syscall(base);
    hot->window = base;
}

void hot_select_ring(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    bool user = cpu->cpl == 3;
    if (hot->ring_user != user) {
        hot->ring_return_rsp[!user] = hot->return_rsp;
        /* The kernel starts with an empty return stack: no application's frame is below it. */
        hot->return_rsp = user ? hot->ring_return_rsp[1] : hot->bt->return_top[0];
        hot->ring_user = user;
    }
    hot_set_window(cpu, hot->ring_window[user]);
    hot->view_table = hot->ring_table[user];
}

/* ---- dispatch ---- */

static bool code_writes_pending(const struct cpu *cpu) {
    const struct mmu *mmu = cpu->mmu;
    return mmu->code_queue_head != mmu->code_queue_tail || mmu->code_queue_overflow;
}

bool bt_find_current(struct bt *bt, u32 *unit, u64 *gpa) {
    struct cpu *cpu = bt->cpu;
    struct gpa at;
    if (!mmu_fetch(cpu, GLIN(cpu->eip), cpu->cpl == 3, &at) || !mmu_gpa_is_ram(cpu->mmu, at.v))
        return false;
    *gpa = at.v;
    *unit = cache_find(bt, at.v, cpu->eip, cpu->cpl, bt->fp_ok);
    if (*unit == BT_NONE || bt->unit[*unit].page2 == UINT64_MAX)
        return true;
    /* A unit that spans two pages also depends on the second one's mapping. */
    struct gpa second;
    u32 next = (cpu->eip & ~PAGE_OFFSET_MASK) + PAGE_BYTES;
    if (!mmu_fetch(cpu, GLIN(next), cpu->cpl == 3, &second))
        return false;
    if (second.v != bt->unit[*unit].page2)
        cache_invalidate_unit(bt, *unit), *unit = BT_NONE;
    return true;
}

void bt_publish(struct bt *bt, u32 unit) {
    u64 *table = (u64 *)bt_hot(bt->cpu)->view_table;
    if (bt->config.icache)
        table[bt->unit[unit].eip & (VIEW_ENTRIES - 1)] = (u64)unit_indirect_entry(bt, unit);
}

/* Continue at cpu->eip after the ring, flags or segments changed. */
static u64 dispatch(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    struct bt *bt = hot->bt;
    hot_load_flags(cpu); /* leaving stores them back */
    if (bt->lockstep_compare)
        return leave(cpu, cpu->eip, BT_EXIT_UNIT_END);
    if (hot->kick)
        return leave(cpu, cpu->eip, BT_EXIT_KICK);
    if (hot->interrupt_pending && (cpu->eflags & F_IF))
        return leave(cpu, cpu->eip, BT_EXIT_KICK);
    if (code_writes_pending(cpu) || !bt_mode_translatable(cpu) ||
        (cpu->cpl == 3 && (bt->prefill_pending || mmu_user_window_pending(cpu))))
        return leave(cpu, cpu->eip, BT_EXIT_AGAIN);
    hot_load_segments(cpu);
    hot_select_ring(cpu);
    return ((u64 *)hot->view_table)[cpu->eip & (VIEW_ENTRIES - 1)];
}

static bool lockstep_due(struct bt *bt, u32 unit) {
    bt->lockstep_sample = ++bt->lockstep_since % LOCKSTEP_INTERVAL == 0;
    return bt->lockstep_sample || bt->unit[unit].lockstep_runs < LOCKSTEP_FIRST;
}

/* A translated unit at eip, or leave. Flags stay in the hot area. */
static u64 resolve(struct cpu *cpu, u32 eip, u32 *unit) {
    struct bt_hot *hot = bt_hot(cpu);
    struct bt *bt = hot->bt;
    u64 gpa;
    cpu->eip = eip;
    if (bt->lockstep_compare)
        return leave(cpu, eip, BT_EXIT_UNIT_END);
    if (hot->kick)
        return leave(cpu, eip, BT_EXIT_KICK);
    if (!bt_find_current(bt, unit, &gpa) || *unit == BT_NONE)
        return leave(cpu, eip, BT_EXIT_AGAIN);
    if (bt->config.lockstep && lockstep_due(bt, *unit))
        return leave(cpu, eip, BT_EXIT_UNIT_END);
    bt->recent[bt->recent_next++ % BT_RECENT] = *unit;
    return (u64)unit_direct_entry(bt, *unit);
}

u64 co_leave_emulate(struct cpu *cpu, u32 eip) {
    bt_hot(cpu)->bt->fault_emulate = false;
    return leave(cpu, eip, BT_EXIT_EMULATE);
}

static u64 co_budget(struct cpu *cpu, u32 eip) { return leave(cpu, eip, BT_EXIT_BUDGET); }

static u64 co_link(struct cpu *cpu, u32 index) {
    struct bt *bt = bt_hot(cpu)->bt;
    u32 unit, eip = bt->slot[index].target_eip;
    u64 to = resolve(cpu, eip, &unit);
    if (to == BT_LEAVE)
        return to;
    /* A unit that spans pages is entered only after both mappings were looked at. */
    bool crossing = bt->unit[unit].page2 != UINT64_MAX && cpu->cpl == 3;
    if (bt->config.chain && !crossing)
        cache_link(bt, index, unit);
    else
        bt->stats->dispatches++;
    return to;
}

static u64 co_indirect(struct cpu *cpu, u32 eip) {
    struct bt *bt = bt_hot(cpu)->bt;
    u32 unit;
    u64 to = resolve(cpu, eip, &unit);
    if (to == BT_LEAVE)
        return to;
    bt->stats->indirect_misses++;
    bt_publish(bt, unit);
    return to;
}

/* ---- segments and flags ---- */

static u64 load_segment(struct cpu *cpu, unsigned which, u32 eip) {
    enum seg seg = cached_segment[which];
    struct bt_hot *hot = bt_hot(cpu);
    u32 cs_next = hot->arg1;
    cpu->eip = eip;
    hot_store_flags(cpu);
    if (!rc_load_segment(cpu, seg, (u16)hot->arg0))
        return leave(cpu, eip, BT_EXIT_FAULT);
    remember_segment(cpu, which, (u16)hot->arg0);
    cpu->gpr[R_ESP] = (u32)(cpu->gpr[R_ESP] + hot->arg2);
    hot_load_segments(cpu);
    if (code_writes_pending(cpu) || !bt_mode_translatable(cpu))
        return leave(cpu, cs_next, BT_EXIT_AGAIN);
    return 0;
}

static u64 co_load_es(struct cpu *cpu, u32 eip) { return load_segment(cpu, 0, eip); }
static u64 co_load_ds(struct cpu *cpu, u32 eip) { return load_segment(cpu, 1, eip); }
static u64 co_load_fs(struct cpu *cpu, u32 eip) { return load_segment(cpu, 2, eip); }
static u64 co_load_gs(struct cpu *cpu, u32 eip) { return load_segment(cpu, 3, eip); }

static u64 co_popf(struct cpu *cpu, u32 eip) {
    struct bt_hot *hot = bt_hot(cpu);
    u32 next = hot->arg1;
    hot_store_flags(cpu);
    if (!rc_popf(cpu, hot->arg0, 4)) {
        cpu->gpr[R_ESP] = (u32)(cpu->gpr[R_ESP] - 4);
        return leave(cpu, eip, BT_EXIT_FAULT);
    }
    hot_load_flags(cpu);
    if (!bt_mode_translatable(cpu))
        return leave(cpu, next, BT_EXIT_AGAIN);
    if (hot->interrupt_pending && hot->flag_if)
        return leave(cpu, next, BT_EXIT_KICK);
    return 0;
}

static u64 co_rdtsc(struct cpu *cpu, u32 eip) {
    if (cpu->cr4 & CR4_TSD)
        return co_leave_emulate(cpu, eip);
    u64 tsc = __builtin_ia32_rdtsc() - bt_hot(cpu)->tsc_base + cpu->tsc_offset;
    cpu->gpr[R_EAX] = (u32)tsc;
    cpu->gpr[R_EDX] = tsc >> 32;
    return 0;
}

/* ---- changes of ring ---- */

/* Finishes a transfer that either moved the CPU or left a fault at eip. */
static u64 transferred(struct cpu *cpu, u32 eip, bool ok) {
    if (!ok)
        return leave(cpu, eip, BT_EXIT_FAULT);
    forget_changed_segments(cpu);
    return dispatch(cpu);
}

static u64 co_int(struct cpu *cpu, u32 eip) {
    struct bt_hot *hot = bt_hot(cpu);
    cpu->eip = eip;
    hot_store_flags(cpu);
    return transferred(cpu, eip,
                       rc_deliver(cpu, (u8)hot->arg0, RC_SOFTWARE, false, 0, hot->arg1));
}

static u64 co_iret(struct cpu *cpu, u32 eip) {
    cpu->eip = eip;
    hot_store_flags(cpu);
    return transferred(cpu, eip, rc_iret(cpu, 4, bt_hot(cpu)->arg1));
}

static u64 co_sysenter(struct cpu *cpu, u32 eip) {
    cpu->eip = eip;
    hot_store_flags(cpu);
    return transferred(cpu, eip, rc_sysenter(cpu));
}

static u64 co_sysexit(struct cpu *cpu, u32 eip) {
    cpu->eip = eip;
    hot_store_flags(cpu);
    return transferred(cpu, eip, rc_sysexit(cpu));
}

u64 (*const bt_callout_table[CO_COUNT])(struct cpu *cpu, u32 arg) = {
    [CO_EMULATE] = co_leave_emulate, [CO_LINK] = co_link,         [CO_INDIRECT] = co_indirect,
    [CO_LOAD_ES] = co_load_es,   [CO_LOAD_DS] = co_load_ds,   [CO_LOAD_FS] = co_load_fs,
    [CO_LOAD_GS] = co_load_gs,   [CO_INT] = co_int,           [CO_IRET] = co_iret,
    [CO_SYSENTER] = co_sysenter, [CO_SYSEXIT] = co_sysexit,   [CO_POPF] = co_popf,
    [CO_RDTSC] = co_rdtsc,       [CO_BUDGET] = co_budget,     [CO_ACCESS] = co_access,
    [CO_STRING] = co_string,
};
