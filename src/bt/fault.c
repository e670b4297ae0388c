/*
 * fault.c: host traps in translated code. One becomes a window fill, a guest exception, an
 * instruction to emulate, or an interrupt poll that fired.
 *
 * Everything here may run in a signal or trap handler, on its stack.
 */
#include "bt/bt_internal.h"

/* Guest registers out of the trap; the flags stay in the hot area until bt_run merges. */
static void save_registers(struct cpu *cpu, const struct bt_trap *t) {
    for (u8 i = 0; i < 8; i++)
        cpu->gpr[i] = (u32)t->reg[host_reg(i)];
    bt_hot(cpu)->flags16 = bt_flags16((u32)t->rflags);
    bt_hot(cpu)->return_rsp = t->reg[H_RSP];
}

/* Leaves translated code when the handler returns. */
static void leave_from_handler(struct cpu *cpu, struct bt_trap *t, u32 eip, u32 exit) {
    struct bt_hot *hot = bt_hot(cpu);
    save_registers(cpu, t);
    cpu->eip = eip;
    hot->exit = exit;
    t->reg[H_R15] = (u64)cpu;
    t->reg[H_RSP] = hot->host_rsp;
    t->reg[H_RBP] = hot->host_rsp + 64;
    t->rip = (u64)bt_fault_exit;
    t->leave = true;
}

struct fault_place {
    struct bt *bt;
    struct cpu *cpu;
    const struct bt_unit *unit;
    const struct bt_pc *pc;
    u32 eip;
};

static void leave_unit(const struct fault_place *at, struct bt_trap *t, u32 exit) {
    struct bt_hot *hot = bt_hot(at->cpu);
    /* Give back what did not run; the self-check comes before the count. */
    if (at->bt->config.icount && at->pc->recovery != RECOVER_CHECK)
        hot->budget += at->unit->insns > at->pc->index ? at->unit->insns - at->pc->index : 0;
    leave_from_handler(at->cpu, t, at->eip, exit);
    at->cpu->gpr[R_ESP] = (u32)(at->cpu->gpr[R_ESP] + (u32)at->pc->esp);
}

/* To take note of writes, or for another look at the unit's source. Lockstep compares at exits to
 * the emulator, even in the middle of a REP. */
static void leave_again(const struct fault_place *at, struct bt_trap *t) {
    leave_unit(at, t, at->bt->lockstep_compare ? BT_EXIT_EMULATE : BT_EXIT_AGAIN);
}

static void emulate(const struct fault_place *at, struct bt_trap *t) {
    at->bt->fault_emulate = true;
    at->bt->fault_gpa = at->unit->gpa + at->pc->guest;
    at->bt->fault_page = BT_NONE;
    leave_unit(at, t, BT_EXIT_EMULATE);
}

/* A ring-0 access to an application's page is not worth a mapping of its own that the next CR3 load
 * drops. */
static bool kernel_touches_user_page(const struct fault_place *at, struct glin lin) {
    struct mmu_xlat x;
    return !mmu_windows_shared(at->cpu) && at->bt->config.adapt && at->unit->cpl == 0 &&
           cpu_paging(at->cpu) && mmu_probe(at->cpu, lin, &x) && x.user;
}

/* A store to a page with code: the site is remembered by that page. */
static void emulate_store(const struct fault_place *at, struct bt_trap *t, struct glin lin) {
    struct mmu_xlat x;
    emulate(at, t);
    if (mmu_probe(at->cpu, lin, &x) && mmu_code_is_protected(at->cpu->mmu, x.gpa))
        at->bt->fault_page = (u32)(x.gpa.v >> PAGE_SHIFT);
}

/* A unit that looks at its own source does what a fetch does: where that takes more than a fill,
 * the emulator fetches. */
static void check_fault(const struct fault_place *at, struct bt_trap *t, struct glin lin) {
    if (mmu_window_fault(at->cpu, at->unit->cpl == 3, lin, false) == MMU_FAULT_FILLED)
        leave_again(at, t);
    else
        leave_unit(at, t, BT_EXIT_EMULATE);
}

static bool window_fault(const struct fault_place *at, struct bt_trap *t, u64 address, bool write) {
    struct cpu *cpu = at->cpu;
    bool user = at->unit->cpl == 3;
    struct glin lin;
    if (!mmu_window_contains(cpu, address, user, &lin))
        return false;
    if (at->pc->recovery == RECOVER_CHECK) {
        check_fault(at, t, lin);
        return true;
    }
    if (kernel_touches_user_page(at, lin)) {
        emulate(at, t);
        return true;
    }
    switch (mmu_window_fault(cpu, user, lin, write)) {
    case MMU_FAULT_FILLED:
        /* The walk may have set accessed and dirty bits in tables that lie among code. */
        if (at->unit->checked || bt_code_writes_pending(cpu))
            leave_again(at, t);
        break;
    case MMU_FAULT_TRUE:
        at->bt->prefill_pending = user;
        at->bt->prefill_lin = (u32)lin.v;
        at->bt->prefill_write = write;
        leave_unit(at, t, BT_EXIT_FAULT);
        break;
    default:
        if (write)
            emulate_store(at, t, lin);
        else
            emulate(at, t);
        break;
    }
    return true;
}

/* Where the host call at the fault was going, as a guest EIP. */
static u32 call_target(const struct fault_place *at, const struct bt_trap *t) {
    const struct bt *bt = at->bt;
    const u8 *pc = (const u8 *)bt_plain_address(bt, t->rip);
    u32 patch = (u32)(pc + 1 - bt->cache_rx);
    for (u32 i = 0; *pc == 0xe8 && i < at->unit->slot_count; i++)
        if (bt->slot[at->unit->slot_first + i].patch == patch)
            return bt->slot[at->unit->slot_first + i].target_eip;
    return (u32)t->reg[H_R8];
}

/* The return stack is full: forget its frames and go on, or leave if a kick waits. The guest's own
 * push is done, so the place to leave at is the call's target. */
static void return_stack_full(const struct fault_place *at, struct bt_trap *t, bool user) {
    bt_clear_return_stack(at->bt, user);
    t->reg[H_RSP] = at->bt->return_top[user];
    if (bt_hot(at->cpu)->kick)
        leave_from_handler(at->cpu, t, call_target(at, t), BT_EXIT_KICK);
}

static bool page_fault(const struct fault_place *at, struct bt_trap *t) {
    u64 base = (u64)at->cpu, address = bt_plain_address(at->bt, t->address);
    if (address - (base + CPU_SAFEPOINT_OFFSET) < PAGE_BYTES) {
        bt_disarm_safepoint(at->cpu);
        at->bt->stats->safepoints++;
        if (at->pc->recovery == RECOVER_STI)
            at->cpu->shadow = SHADOW_STI;
        leave_unit(at, t, BT_EXIT_KICK);
        return true;
    }
    if (address - (base + CPU_POISON_OFFSET) < PAGE_BYTES) {
        if (at->pc->recovery == RECOVER_STI) {
            at->cpu->shadow = SHADOW_STI;
            leave_unit(at, t, BT_EXIT_KICK);
        } else if (at->pc->recovery == RECOVER_POPF) {
            leave_unit(at, t, BT_EXIT_KICK);
        } else {
            at->bt->fault_emulate = false; /* FS or GS base not usable: not the site's fault */
            leave_unit(at, t, BT_EXIT_EMULATE);
        }
        return true;
    }
    for (int user = 0; user < 2; user++)
        if (address - (u64)at->bt->return_stack[user] < PAGE_BYTES) {
            return_stack_full(at, t, user);
            return true;
        }
    return window_fault(at, t, address, t->error & 2);
}

/* Handles a fault whose host pc lies in a unit. False: not explicable, so a bug. */
static bool unit_fault(const struct fault_place *at, struct bt_trap *t) {
    at->bt->stats->faults++;
    switch (t->vector) {
    case VEC_PF:
        return page_fault(at, t);
    case VEC_DE:
        at->cpu->fault = (struct guest_fault){.vector = VEC_DE};
        leave_unit(at, t, BT_EXIT_FAULT);
        return true;
    case VEC_GP: /* left to trap; misaligned SSE operand, bad MXCSR, non-canonical end of a window
                  */
        bt_count_trap(at->bt, t->rip);
        __attribute__((fallthrough));
    case VEC_UD:
    case VEC_MF:
    case VEC_XM:
    case VEC_AC:
        at->bt->fault_emulate = false;
        leave_unit(at, t, BT_EXIT_EMULATE);
        return true;
    default:
        return false;
    }
}

/* The poll in the return-miss stub: r8 holds the EIP to go on at. */
static bool stub_poll(struct bt *bt, struct bt_trap *t) {
    if (t->rip != bt_stub(bt, bt_stub_poll, bt_hot(bt->cpu)->ring_user))
        return false;
    bt_disarm_safepoint(bt->cpu);
    bt->stats->safepoints++;
    leave_from_handler(bt->cpu, t, (u32)t->reg[H_R8], BT_EXIT_KICK);
    return true;
}

bool bt_trap(struct bt *bt, struct bt_trap *trap) {
    u64 pc = bt_plain_address(bt, trap->rip);
    u32 index = cache_unit_at(bt, pc);
    if (index == BT_NONE)
        return stub_poll(bt, trap);
    struct fault_place at = {.bt = bt, .cpu = bt->cpu, .unit = &bt->unit[index]};
    at.pc = cache_pc_lookup(bt, at.unit, (u32)(pc - (u64)bt->cache_rx) - at.unit->host);
    at.eip = at.unit->eip + at.pc->guest;
    return unit_fault(&at, trap);
}

void bt_trap_save_guest(struct bt *bt, const struct bt_trap *trap) {
    u32 eip;
    if (!bt_pc_to_eip(bt, trap->rip, &eip))
        return;
    save_registers(bt->cpu, trap);
    hot_store_flags(bt->cpu);
    bt->cpu->eip = eip;
}
