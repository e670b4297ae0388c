/*
 * clock.c: virtual time. Real time comes from the host's invariant TSC, so that the guest's TSC and
 * the devices' nanoseconds are one clock by construction; without such a TSC both come from
 * CLOCK_MONOTONIC. With -icount, time is a function of the number of instructions executed.
 */
#include "monitor/vm.h"

#define NS_PER_S 1000000000ull
/* -icount and hosts without a usable TSC: a round frequency, so that one tick is one ns. */
#define SYNTHETIC_TSC_HZ NS_PER_S

static u64 raw_now(const struct mon_clock *c) {
    return c->from_tsc ? __builtin_ia32_rdtsc() : mon_host_ns();
}

void mon_clock_init(struct mon_clock *c, const struct mon_options *opt,
                    const struct mon_host_cpu *host) {
    memset(c, 0, sizeof *c);
    c->icount = opt->icount;
    c->shift = opt->icount_shift;
    c->from_tsc = !c->icount && host->tsc_invariant && host->tsc_hz;
    c->tsc_hz = c->from_tsc ? host->tsc_hz : SYNTHETIC_TSC_HZ;
    c->ns_per_tick_32 = (u64)(((unsigned __int128)NS_PER_S << 32) / c->tsc_hz);
    /* Applications that run untranslated read the machine's TSC itself. */
    c->start = mon_outside.rings && c->from_tsc ? 0 : raw_now(c);
}

/* Ticks of the raw clock since virtual time 0. */
static u64 elapsed(const struct mon_clock *c) {
    return (c->paused ? c->paused_at : raw_now(c)) - c->start;
}

u64 mon_clock_now_ns(const struct vm *vm) {
    const struct mon_clock *c = &vm->clock;
    if (c->icount)
        return (vm->cpu->insn_count << c->shift) + c->skipped_ns;
    return (u64)(((unsigned __int128)elapsed(c) * c->ns_per_tick_32) >> 32);
}

u64 mon_clock_tsc(const struct vm *vm) {
    if (vm->clock.icount)
        return mon_clock_now_ns(vm); /* SYNTHETIC_TSC_HZ */
    return elapsed(&vm->clock);
}

u64 mon_clock_budget(const struct vm *vm, u64 deadline_ns) {
    u64 now = mon_clock_now_ns(vm);
    if (deadline_ns <= now)
        return 1;
    u64 wait = deadline_ns - now;
    u64 unit = 1ull << vm->clock.shift;
    return wait > (1ull << 40) ? 1ull << 30 : MAX((wait + unit - 1) >> vm->clock.shift, 1);
}

void mon_clock_pause(struct vm *vm) {
    if (vm->clock.paused)
        return;
    vm->clock.paused_at = raw_now(&vm->clock);
    vm->clock.paused = true;
}

void mon_clock_resume(struct vm *vm) {
    if (!vm->clock.paused)
        return;
    vm->clock.paused = false;
    vm->clock.start += raw_now(&vm->clock) - vm->clock.paused_at;
    mon_clock_tell_bt(vm);
}

void mon_clock_tell_bt(struct vm *vm) {
    if (vm->bt && vm->clock.from_tsc && !vm->lockstep && !vm->opt.bt.lockstep)
        bt_set_tsc_base(vm->bt, vm->clock.start);
}
