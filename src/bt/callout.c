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

static inline void load_flags(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    u32 f = cpu->eflags;
    hot->flags16 = bt_flags16(f);
    hot->flag_if = f & F_IF;
    /* RF lasts for one instruction, and none here looks at it. */
    hot->flag_rest = (f & ~(u32)(F_ARITH | F_IF | F_RF)) | F_FIXED;
}

void hot_load_flags(struct cpu *cpu) {
    load_flags(cpu);
}

void hot_store_flags(struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    cpu->eflags = ((hot->flags16 >> 8) & 0xd5) | ((u32)(hot->flags16 & 1) << 11) | hot->flag_if |
                  hot->flag_rest;
}

/* Where translated code finds the base of FS or GS. */
static u64 base_pointer(const struct cpu *cpu, enum seg seg) {
    const struct segment *s = &cpu->seg[seg];
    return (rc_segment_is_unlimited(s) ? (u64)&s->base : (u64)cpu + CPU_POISON_OFFSET) +
           bt_hot(cpu)->delta;
}

void hot_load_segments(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    hot->fs_base_ptr = base_pointer(cpu, SEG_FS);
    hot->gs_base_ptr = base_pointer(cpu, SEG_GS);
    for (int i = 0; i < 6; i++)
        hot->selectors[i] = cpu->seg[i].selector;
}

/* Makes no sum zero. */
static void forget_segment_cache(struct cpu *cpu, int which) {
    struct bt_hot *hot = bt_hot(cpu);
    hot->segment_cache[which] = (struct bt_segment_cache){
        .descriptor = (u64)&hot->null_descriptor + hot->delta, .minus_value = 1};
}

static struct bt_tables tables_now(const struct cpu *cpu) {
    return (struct bt_tables){.gdtr = cpu->gdtr,
                              .idtr = cpu->idtr,
                              .ldtr = cpu->seg[SEG_LDTR],
                              .tr = cpu->seg[SEG_TR],
                              .epoch = cpu->mmu->translation_epoch};
}

static inline bool same_segment(const struct segment *a, const struct segment *b) {
    return a->selector == b->selector && a->attr == b->attr && a->limit == b->limit &&
           a->base == b->base;
}

static bool tables_stayed(const struct cpu *cpu) {
    const struct bt_tables *t = &bt_hot(cpu)->bt->tables;
    return t->gdtr.base == cpu->gdtr.base && t->gdtr.limit == cpu->gdtr.limit &&
           t->idtr.base == cpu->idtr.base && t->idtr.limit == cpu->idtr.limit &&
           same_segment(&t->ldtr, &cpu->seg[SEG_LDTR]) && same_segment(&t->tr, &cpu->seg[SEG_TR]);
}

void hot_doubt_segments(struct cpu *cpu) {
    struct bt *bt = bt_hot(cpu)->bt;
    bt->tables.epoch = cpu->mmu->translation_epoch;
    for (int i = 0; i < 4; i++) {
        forget_segment_cache(cpu, i);
        bt->known_segment[i][0].descriptor = bt->known_segment[i][1].descriptor = NULL;
    }
    rc_fast_doubt(cpu);
}

void hot_forget_segments(struct cpu *cpu) {
    hot_doubt_segments(cpu);
    bt_hot(cpu)->bt->tables = tables_now(cpu);
    rc_fast_forget(cpu);
}

void hot_forget_stale_segments(struct cpu *cpu) {
    const struct bt *bt = bt_hot(cpu)->bt;
    if (!tables_stayed(cpu))
        hot_forget_segments(cpu);
    else if (bt->tables.epoch != cpu->mmu->translation_epoch)
        hot_doubt_segments(cpu);
    else /* the segment registers may hold other descriptors' contents */
        for (int i = 0; i < 4; i++)
            forget_segment_cache(cpu, i);
}

static const u8 cached_segment[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

/* After a change of ring: have the data segments' selectors changed (IRET and SYSEXIT null them)?
 */
static bool data_selectors_changed(const struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    for (int i = 0; i < 4; i++)
        if (hot->selectors[cached_segment[i]] != cpu->seg[cached_segment[i]].selector)
            return true;
    return false;
}

static void forget_changed_segments(struct cpu *cpu) {
    struct bt_segment_cache *c = bt_hot(cpu)->segment_cache;
    for (int i = 0; i < 4; i++)
        if (c[i].minus_selector + cpu->seg[cached_segment[i]].selector != 0)
            forget_segment_cache(cpu, i);
}

static void set_segment_cache(struct cpu *cpu, unsigned which, const void *descriptor, u64 value,
                              u16 selector) {
    if (bt_hot(cpu)->delta) /* ring 3 does not reach the guest's tables where the monitor does */
        return;
    bt_hot(cpu)->segment_cache[which] = (struct bt_segment_cache){
        .descriptor = (u64)descriptor, .minus_value = -value, .minus_selector = -(u64)selector};
}

static void remember_segment(struct cpu *cpu, unsigned which, u16 selector) {
    bool null = (selector & ~7) == 0;
    const void *descriptor = &bt_hot(cpu)->null_descriptor;
    if (!null)
        descriptor = selector & 4 ? NULL
                                  : mmu_host_pointer(cpu, cpu->gdtr.base + (selector & ~7u), 8,
                                                     MMU_READ | MMU_SUPERVISOR);
    if (!descriptor) { /* nothing to compare: what was remembered is not what is loaded */
        forget_segment_cache(cpu, (int)which);
        return;
    }
    u64 value = load64(descriptor);
    set_segment_cache(cpu, which, descriptor, value, selector);
    if (cpu->cpl == 0)
        bt_hot(cpu)->bt->known_segment[which][!null] =
            (struct bt_known_segment){.selector = selector,
                                      .descriptor = descriptor,
                                      .value = value,
                                      .segment = cpu->seg[cached_segment[which]]};
}

/* Kernels switch FS or GS between two values on every entry and exit. */
static bool load_known_segment(struct cpu *cpu, unsigned which, u16 selector) {
    const struct bt_known_segment *k = &bt_hot(cpu)->bt->known_segment[which][(selector & ~7) != 0];
    if (cpu->cpl != 0 || !k->descriptor || k->selector != selector ||
        load64(k->descriptor) != k->value)
        return false;
    cpu->seg[cached_segment[which]] = k->segment;
    set_segment_cache(cpu, which, k->descriptor, k->value, selector);
    return true;
}

void hot_set_window(struct cpu *cpu, u64 base) {
    struct bt_hot *hot = bt_hot(cpu);
    if (hot->window != base && !hot->fsgsbase)
        substrate_set_gs_base(base);
    hot->window = base;
}

/* Where the rings see shared memory at different addresses: what the hot area names is moved. */
static void move_pointers(struct cpu *cpu, bool user) {
    struct bt_hot *hot = bt_hot(cpu);
    u64 by = bt_ring_delta(hot->bt, user) - hot->delta;
    u64 *const moved[] = {&hot->stub_callout,       &hot->stub_callout_returning,
                          &hot->stub_load_segment,  &hot->stub_return_miss,
                          &hot->stub_indirect_miss, &hot->sti_poll,
                          &hot->fs_base_ptr,        &hot->gs_base_ptr};
    for (size_t i = 0; i < ARRAY_LEN(moved); i++)
        *moved[i] += by;
    hot->delta += by;
    for (int i = 0; i < 4; i++)
        forget_segment_cache(cpu, i);
}

static void change_ring(struct cpu *cpu, bool user) {
    struct bt_hot *hot = bt_hot(cpu);
    hot->ring_return_rsp[!user] = hot->return_rsp;
    /* The kernel starts with an empty return stack: no application's frame is below it. */
    hot->return_rsp = user ? hot->ring_return_rsp[1] : hot->bt->return_top[0];
    hot->ring_user = user;
    if (hot->bt->ring3_delta)
        move_pointers(cpu, user);
}

static inline void select_ring(struct cpu *cpu, bool user) {
    struct bt_hot *hot = bt_hot(cpu);
    if (hot->ring_user != user)
        change_ring(cpu, user);
    hot_set_window(cpu, hot->ring_window[user]);
    hot->view_table = hot->ring_table[user];
}

void hot_select_ring(struct cpu *cpu) {
    select_ring(cpu, cpu->cpl == 3);
}

/* ---- dispatch ---- */

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
        cache_invalidate_unit(bt, *unit, BT_CAUSE_remap), *unit = BT_NONE;
    return true;
}

void bt_publish(struct bt *bt, u32 unit) {
    u64 *table = (u64 *)bt_hot(bt->cpu)->view_table, entry = (u64)unit_indirect_entry(bt, unit);
    u32 index = bt->unit[unit].eip & (VIEW_ENTRIES - 1);
    if (!bt->config.icache || table[index] == entry)
        return;
    table[index] = entry;
    BT_TELL(bt, .kind = BT_EVENT_icache_fill, .unit = unit,
            .view = bt->unit[unit].cpl == 3 ? bt->user_view : 0);
}

static inline void sync_code_and_stack(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    hot->selectors[SEG_CS] = cpu->seg[SEG_CS].selector;
    hot->selectors[SEG_SS] = cpu->seg[SEG_SS].selector;
}

bool hot_sync_selectors(struct cpu *cpu) {
    if (data_selectors_changed(cpu)) {
        forget_changed_segments(cpu);
        hot_load_segments(cpu);
        return true;
    }
    sync_code_and_stack(cpu);
    return false;
}

/* bt_mode_translatable after a transfer, which changes flags, CS and SS, and data segments only by
 * other selectors. */
static bool transfer_translatable(const struct cpu *cpu, bool data_changed) {
    if (data_changed)
        return bt_mode_translatable(cpu);
    if ((cpu->eflags & (F_VM | F_TF | F_DF | F_AC | F_VIP)) || (cpu->cpl != 0 && cpu->cpl != 3))
        return bt_mode_translatable(cpu);
    return bt_code_and_stack_flat(cpu);
}

/* In translated code, or out. The flags are loaded. */
static u64 dispatch_translated(struct cpu *cpu, bool data_changed) {
    struct bt_hot *hot = bt_hot(cpu);
    if (bt_code_writes_pending(cpu) || !transfer_translatable(cpu, data_changed) ||
        (cpu->cpl == 3 && (hot->bt->prefill_pending || mmu_user_window_pending(cpu))))
        return leave(cpu, cpu->eip, BT_EXIT_AGAIN);
    hot_select_ring(cpu);
    return ((u64 *)hot->view_table)[cpu->eip & (VIEW_ENTRIES - 1)];
}

/* One page table for both rings: makes it the one of the ring that runs next. A light matter there;
 * should it fail, it is pending still. */
static void select_shared_window(struct bt *bt) {
    struct cpu *cpu = bt->cpu;
    if (cpu->cpl == 3 && mmu_user_window_pending(cpu))
        bt_sync_view(bt, true);
    else if (cpu->cpl == 0 && mmu_window_pending(cpu, false))
        mmu_window_base(cpu, false);
}

/* Continue at cpu->eip after the ring, flags or segments changed. */
static u64 dispatch(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    struct bt *bt = hot->bt;
    load_flags(cpu); /* leaving stores them back */
    bool data_changed = hot_sync_selectors(cpu);
    if (bt->lockstep_compare)
        return leave(cpu, cpu->eip, BT_EXIT_UNIT_END);
    if (hot->kick)
        return leave(cpu, cpu->eip, BT_EXIT_KICK);
    if (hot->interrupt_pending && (cpu->eflags & F_IF))
        return leave(cpu, cpu->eip, BT_EXIT_KICK);
    if (mmu_windows_shared(cpu))
        select_shared_window(bt);
    if (cpu->cpl == 3 && bt->config.direct && !mmu_user_window_pending(cpu) &&
        substrate_direct_ready(bt))
        return BT_DIRECT;
    return dispatch_translated(cpu, data_changed);
}

/* Is there nothing to do but to go on? */
static inline bool undisturbed(const struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    return !hot->attention && !hot->bt->lockstep_compare && !bt_code_writes_pending(cpu);
}

static __attribute__((noinline)) u64 kernel_entry_point(struct cpu *cpu) {
    select_ring(cpu, false);
    return ((u64 *)bt_hot(cpu)->view_table)[cpu->eip & (VIEW_ENTRIES - 1)];
}

/* dispatch after a transfer to ring 0 that left the data segments alone, to flat code and stack. */
static inline __attribute__((always_inline)) u64 into_kernel(struct cpu *cpu) {
    struct bt_hot *hot = bt_hot(cpu);
    if (unlikely(!undisturbed(cpu) || (cpu->eflags & (F_VM | F_TF | F_DF))))
        return dispatch(cpu);
    load_flags(cpu);
    sync_code_and_stack(cpu);
    if (unlikely(hot->ring_user))
        return kernel_entry_point(cpu);
    /* The window stays: ring 0 has one for good, and it is loaded. */
    hot->view_table = hot->ring_table[0];
    return ((u64 *)hot->view_table)[cpu->eip & (VIEW_ENTRIES - 1)];
}

static __attribute__((noinline)) u64 into_translated_user(struct cpu *cpu) {
    load_flags(cpu);
    return dispatch_translated(cpu, false);
}

/* The same to ring 3. An application that runs untranslated has its flags in struct cpu only. */
static inline __attribute__((always_inline)) u64 into_user(struct cpu *cpu) {
    struct bt *bt = bt_hot(cpu)->bt;
    if (unlikely(!undisturbed(cpu) || !bt->config.direct || mmu_user_window_pending(cpu)))
        return dispatch(cpu);
    sync_code_and_stack(cpu);
    return likely(substrate_direct_ready(bt)) ? BT_DIRECT : into_translated_user(cpu);
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
    /* Finding it may have set accessed bits, in tables that lie among code. */
    if (!bt_find_current(bt, unit, &gpa) || *unit == BT_NONE || bt_code_writes_pending(cpu))
        return leave(cpu, eip, BT_EXIT_AGAIN);
    if (bt->config.lockstep && lockstep_due(bt, *unit))
        return leave(cpu, eip, BT_EXIT_UNIT_END);
    bt->recent[bt->recent_next++ % BT_RECENT] = *unit;
    if (trace_on(TRACE_exec))
        bt_trace_exec(bt, *unit);
    return (u64)unit_direct_entry(bt, *unit);
}

/* Leaves from a returning callout, in the middle of a unit: -icount gets back what did not run. */
static u64 leave_inside(struct cpu *cpu, u32 eip, u32 exit) {
    struct bt_hot *hot = bt_hot(cpu);
    const struct bt *bt = hot->bt;
    u32 index = bt->config.icount ? cache_unit_at(bt, hot->callout_return - 1) : BT_NONE;
    if (index != BT_NONE) {
        const struct bt_unit *u = &bt->unit[index];
        const struct bt_pc *pc = cache_pc_lookup(
            bt, u,
            (u32)(bt_plain_address(bt, hot->callout_return - 1) - (u64)bt->cache_rx) - u->host);
        u32 ran = pc->index + (eip != u->eip + pc->guest);
        hot->budget += u->insns > ran ? u->insns - ran : 0;
    }
    return leave(cpu, eip, exit);
}

u64 co_leave_emulate_inside(struct cpu *cpu, u32 eip) {
    bt_hot(cpu)->bt->fault_emulate = false;
    return leave_inside(cpu, eip, BT_EXIT_EMULATE);
}

u64 co_leave_emulate(struct cpu *cpu, u32 eip) {
    bt_hot(cpu)->bt->fault_emulate = false;
    return leave(cpu, eip, BT_EXIT_EMULATE);
}

u64 co_leave_again_inside(struct cpu *cpu, u32 eip) {
    /* Lockstep compares at exits to the emulator, even in the middle of a REP. */
    if (bt_hot(cpu)->bt->lockstep_compare)
        return co_leave_emulate_inside(cpu, eip);
    return leave_inside(cpu, eip, BT_EXIT_AGAIN);
}

u64 co_leave_kick_inside(struct cpu *cpu, u32 eip) {
    return leave_inside(cpu, eip, BT_EXIT_KICK);
}

u64 co_leave_fault_inside(struct cpu *cpu, u32 eip) {
    return leave_inside(cpu, eip, BT_EXIT_FAULT);
}

static u64 co_budget(struct cpu *cpu, u32 eip) {
    return leave(cpu, eip, BT_EXIT_BUDGET);
}

/* The emulator takes the first instruction, so that there is progress whatever the check saw. */
static u64 co_stale(struct cpu *cpu, u32 index) {
    struct bt *bt = bt_hot(cpu)->bt;
    bt->stale_unit = index;
    bt->fault_emulate = false;
    return leave(cpu, bt->unit[index].eip, BT_EXIT_EMULATE);
}

static u64 co_link(struct cpu *cpu, u32 index) {
    struct bt *bt = bt_hot(cpu)->bt;
    u32 unit, eip = bt->slot[index].target_eip;
    u64 to = resolve(cpu, eip, &unit);
    if (to == BT_LEAVE)
        return to;
    /* A unit that spans pages depends on both mappings: links into it go the way of those that
     * leave their page. At CPL 3 those do not exist. */
    bool spans = bt->unit[unit].page2 != UINT64_MAX;
    if (spans)
        bt->slot[index].same_page = false;
    if (bt->config.chain && !(spans && cpu->cpl == 3))
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
    u32 next = hot->arg1;
    u16 selector = (u16)hot->arg0;
    if (load_known_segment(cpu, which, selector)) {
        hot->selectors[seg] = selector;
    } else {
        cpu->eip = eip;
        hot_store_flags(cpu);
        if (!rc_load_segment(cpu, seg, selector))
            return leave_inside(cpu, eip, BT_EXIT_FAULT);
        remember_segment(cpu, which, selector);
        hot_load_segments(cpu);
    }
    cpu->gpr[R_ESP] = (u32)(cpu->gpr[R_ESP] + hot->arg2);
    if (bt_code_writes_pending(cpu))
        return leave_inside(cpu, next, BT_EXIT_AGAIN);
    /* FS and GS leave the mode as it is. */
    if (seg == SEG_FS)
        hot->fs_base_ptr = base_pointer(cpu, SEG_FS);
    else if (seg == SEG_GS)
        hot->gs_base_ptr = base_pointer(cpu, SEG_GS);
    else if (!bt_mode_translatable(cpu))
        return leave_inside(cpu, next, BT_EXIT_AGAIN);
    return 0;
}

static u64 co_load_es(struct cpu *cpu, u32 eip) {
    return load_segment(cpu, 0, eip);
}
static u64 co_load_ds(struct cpu *cpu, u32 eip) {
    return load_segment(cpu, 1, eip);
}
static u64 co_load_fs(struct cpu *cpu, u32 eip) {
    return load_segment(cpu, 2, eip);
}
static u64 co_load_gs(struct cpu *cpu, u32 eip) {
    return load_segment(cpu, 3, eip);
}

static u64 co_popf(struct cpu *cpu, u32 eip) {
    struct bt_hot *hot = bt_hot(cpu);
    u32 next = hot->arg1, image = hot->arg0;
    hot_store_flags(cpu);
    if (!rc_popf(cpu, image, 4)) {
        cpu->gpr[R_ESP] = (u32)(cpu->gpr[R_ESP] - 4);
        return leave_inside(cpu, eip, BT_EXIT_FAULT);
    }
    hot_load_flags(cpu);
    if (!bt_mode_translatable(cpu))
        return leave_inside(cpu, next, BT_EXIT_AGAIN);
    if (hot->interrupt_pending && hot->flag_if)
        return leave_inside(cpu, next, BT_EXIT_KICK);
    return 0;
}

/* Not by hot_store_flags: AC alone is looked at outside, by the rights check under SMAP. */
static u64 co_ac(struct cpu *cpu, u32 eip) {
    (void)eip;
    struct bt_hot *hot = bt_hot(cpu);
    hot->flag_rest = (hot->flag_rest & ~(u32)F_AC) | hot->arg0;
    cpu->eflags = (cpu->eflags & ~(u32)F_AC) | hot->arg0;
    return 0;
}

/* ---- changes of ring ---- */

/* The last instruction of a unit faulted: -icount gets it back. */
static u64 leave_by_fault(struct cpu *cpu) {
    bt_hot(cpu)->budget++;
    return leave(cpu, cpu->eip, BT_EXIT_FAULT);
}

/* Finishes a transfer that either moved the CPU or left a fault at cpu->eip. */
static u64 transferred(struct cpu *cpu, bool ok) {
    return ok ? dispatch(cpu) : leave_by_fault(cpu);
}

/* The same where the transfer may have been a task switch, after which everything is looked at
 * anew. A fault found after the switch belongs to the new task. */
static u64 transferred_from_task(struct cpu *cpu, u16 task, bool ok) {
    if (cpu->seg[SEG_TR].selector == task)
        return transferred(cpu, ok);
    hot_load_flags(cpu); /* leaving stores them back */
    return ok ? leave(cpu, cpu->eip, BT_EXIT_AGAIN) : leave_by_fault(cpu);
}

static u64 deliver_int(struct cpu *cpu, u8 vector, u32 next_eip) {
    u16 task = cpu->seg[SEG_TR].selector;
    bool ok = rc_fast_int(cpu, vector, next_eip);
    return transferred_from_task(cpu, task, ok);
}

static u64 co_int(struct cpu *cpu, u32 eip) {
    const struct bt_hot *hot = bt_hot(cpu);
    cpu->eip = eip;
    hot_store_flags(cpu);
    if (likely(rc_known_int(cpu, (u8)hot->arg0, hot->arg1)))
        return into_kernel(cpu);
    return deliver_int(cpu, (u8)hot->arg0, hot->arg1);
}

static __attribute__((noinline)) u64 direct_int_elsewhere(struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    cpu->eip = hot->arg1 - 2;
    cpu->eflags &=
        ~(u32)F_RF;  /* an IRET's; no instruction of the application has cleared it here */
    load_flags(cpu); /* leaving stores them back */
    return deliver_int(cpu, (u8)hot->arg0, hot->arg1);
}

u64 bt_direct_int(struct cpu *cpu, u32 vector, u32 next_eip) {
    struct bt_hot *hot = bt_hot(cpu);
    hot->bt->stats->faults++;
    hot->arg0 = vector;
    hot->arg1 = next_eip;
    return likely(rc_known_int(cpu, (u8)vector, next_eip)) ? into_kernel(cpu)
                                                           : direct_int_elsewhere(cpu);
}

static __attribute__((noinline)) u64 iret_elsewhere(struct cpu *cpu, u32 eip) {
    u16 task = cpu->seg[SEG_TR].selector;
    cpu->eip = eip;
    hot_store_flags(cpu);
    bool ok = rc_fast_iret(cpu, bt_hot(cpu)->arg1);
    return transferred_from_task(cpu, task, ok);
}

static u64 co_iret(struct cpu *cpu, u32 eip) {
    /* The flags that it looks at are those that translated code does not change inline. */
    return likely(rc_known_iret(cpu)) ? into_user(cpu) : iret_elsewhere(cpu, eip);
}

static u64 co_sysenter(struct cpu *cpu, u32 eip) {
    cpu->eip = eip;
    hot_store_flags(cpu);
    return rc_sysenter(cpu) ? into_kernel(cpu) : leave_by_fault(cpu);
}

static u64 co_sysexit(struct cpu *cpu, u32 eip) {
    cpu->eip = eip;
    hot_store_flags(cpu);
    return rc_sysexit(cpu) ? into_user(cpu) : leave_by_fault(cpu);
}

u64 (*const bt_callout_table[CO_COUNT])(struct cpu *cpu, u32 arg) = {
    [CO_EMULATE] = co_leave_emulate,
    [CO_LINK] = co_link,
    [CO_INDIRECT] = co_indirect,
    [CO_LOAD_ES] = co_load_es,
    [CO_LOAD_DS] = co_load_ds,
    [CO_LOAD_FS] = co_load_fs,
    [CO_LOAD_GS] = co_load_gs,
    [CO_INT] = co_int,
    [CO_IRET] = co_iret,
    [CO_SYSENTER] = co_sysenter,
    [CO_SYSEXIT] = co_sysexit,
    [CO_POPF] = co_popf,
    [CO_BUDGET] = co_budget,
    [CO_ACCESS] = co_access,
    [CO_STRING] = co_string,
    [CO_INVLPG] = co_invlpg,
    [CO_AC] = co_ac,
    [CO_STALE] = co_stale,
    [CO_IO] = co_io,
    [CO_CPUID] = co_cpuid,
    [CO_WRITE_CR] = co_write_cr,
};
