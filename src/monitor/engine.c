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
    enum mon_exit why = mon_interp_exit(interp_run(vm->interp, vm->cpu, max, &vm->stop));
    if (vm->clock.icount && mon_clock_now_ns(vm) >= mon_next_deadline_ns(vm))
        vm->stop = 1;
    return why;
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

static enum mon_exit bt_engine_run(struct vm *vm) {
    if (unlikely(vm->cpu->a20_masked)) /* windows do not know it */
        return interp_engine_run(vm);
    if (vm->lockstep)
        return mon_lockstep_run(vm);
    if (vm->clock.icount)
        bt_set_budget(vm->bt, mon_clock_budget(vm, mon_next_deadline_ns(vm)));
    bt_set_interrupt_pending(vm->bt, dev_intr_pending(vm->dev));
    return (enum mon_exit)bt_run(vm->bt);
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
