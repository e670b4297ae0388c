/*
 * engine.c: the ways to run guest code behind one interface: the interpreter alone, and translated
 * code with the interpreter beside it.
 */
#include "monitor/vm.h"

/* Instructions that the interpreter runs between two looks at the world, if nothing kicks it. */
#define INTERP_SLICE_INSNS (1u << 20)
/* The same while an interrupt waits for the guest to open up. */
#define INTERP_WINDOW_INSNS 8

/* ---- interp ---- */

static enum mon_exit interp_engine_run(struct vm *vm) {
    u64 max = INTERP_SLICE_INSNS;
    if (dev_intr_pending(vm->dev))
        max = INTERP_WINDOW_INSNS;
    if (vm->clock.icount)
        max = MIN(max, mon_clock_budget(vm, mon_next_deadline_ns(vm)));
    return mon_interp_exit(interp_run(vm->interp, vm->cpu, max, &vm->stop));
}

static void interp_engine_flush(struct vm *vm) {
    struct interp *fresh = interp_create();
    if (!fresh)
        return; /* its decode cache checks bytes against memory anyway */
    interp_destroy(vm->interp);
    vm->interp = fresh;
}

/* vm->stop is all that interp_run looks at. */
static void interp_engine_kick(struct vm *vm) {
    (void)vm;
}

const struct engine mon_engine_interp = {
    .name = "interp",
    .run = interp_engine_run,
    .kick_sigsafe = interp_engine_kick,
    .flush = interp_engine_flush,
};

/* ---- bt ---- */

#define X(name, help)                                                                              \
    _Static_assert((int)MON_EXIT_##name == (int)BT_EXIT_##name, "the loop's exits begin with "     \
                                                                "bt's");
BT_EXITS(X)
#undef X

static bool bt_engine_create(struct vm *vm, struct mon_error *err) {
    char why[200] = "";
    vm->bt = bt_create(vm->cpu, &vm->opt.bt, why, sizeof why);
    if (!vm->bt)
        return mon_fail(err, "could not start the translator: %s", why);
    mon_clock_tell_bt(vm);
    if (vm->opt.ring_report)
        bt_ring_measure(vm->bt, true);
    return true;
}

static void bt_engine_destroy(struct vm *vm) {
    if (vm->bt)
        bt_destroy(vm->bt);
    vm->bt = NULL;
}

/* The instruction at EIP has done nothing yet, so that it may as well wait. A fault found behind a
 * task switch belongs to what was done already. */
static bool may_wait(enum bt_exit why, const struct cpu *cpu, u16 task) {
    switch (why) {
    case BT_EXIT_EMULATE:
    case BT_EXIT_COLD:
    case BT_EXIT_MODE:
    case BT_EXIT_BUDGET:
        return true;
    case BT_EXIT_FAULT:
        return cpu->seg[SEG_TR].selector == task;
    default:
        return false;
    }
}

/* Something is due at a count of instructions: translated code, like the interpreter, comes back
 * when they are done, and not after one more or after the exception that the next one raises. */
static enum mon_exit run_counted(struct vm *vm) {
    u64 before = vm->cpu->insn_count;
    u16 task = vm->cpu->seg[SEG_TR].selector;
    bt_set_budget(vm->bt, mon_clock_budget(vm, mon_next_deadline_ns(vm)));
    enum bt_exit why = bt_run(vm->bt);
    bool progress = vm->cpu->insn_count != before;
    if (progress && mon_clock_now_ns(vm) >= mon_next_deadline_ns(vm) &&
        may_wait(why, vm->cpu, task))
        return MON_EXIT_STEPPED;
    return (enum mon_exit)why;
}

static enum mon_exit bt_engine_run(struct vm *vm) {
    if (unlikely(vm->cpu->a20_masked)) /* windows do not know it */
        return interp_engine_run(vm);
    if (vm->lockstep)
        return mon_lockstep_run(vm);
    bt_set_interrupt_pending(vm->bt, dev_intr_pending(vm->dev));
    return vm->clock.icount ? run_counted(vm) : (enum mon_exit)bt_run(vm->bt);
}

static void bt_engine_kick(struct vm *vm) {
    bt_kick_sigsafe(vm->bt);
}

static void bt_engine_flush(struct vm *vm) {
    interp_engine_flush(vm);
    bt_flush(vm->bt);
}

const struct engine mon_engine_bt = {
    .name = "bt",
    .create = bt_engine_create,
    .destroy = bt_engine_destroy,
    .run = bt_engine_run,
    .kick_sigsafe = bt_engine_kick,
    .flush = bt_engine_flush,
};
