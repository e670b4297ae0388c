/*
 * events.c: when to wake up. The substrate brings kicks (events_hosted.c, events_metal.c): its
 * timer stands at the devices' next deadline, and a CPU in HLT sleeps until then or until a kick.
 */
#include "monitor/vm.h"

#define NS_PER_S 1000000000ull
#define LONGEST_TIMER_NS (3600 * NS_PER_S)

void mon_events_arm(struct vm *vm) {
    struct mon_events *e = &vm->events;
    if (vm->clock.icount || !e->host)
        return;
    u64 deadline = vm->paused ? DEV_NEVER : dev_next_deadline_ns(vm->dev);
    if (deadline == e->armed_ns)
        return;
    e->armed_ns = deadline;
    if (deadline == DEV_NEVER) {
        mon_timer_set(vm, DEV_NEVER);
        return;
    }
    u64 now = mon_clock_now_ns(vm);
    mon_timer_set(vm, deadline > now ? MIN(deadline - now, LONGEST_TIMER_NS) : 1);
}

void mon_events_wait(struct vm *vm, u64 deadline_ns) {
    u64 now = mon_clock_now_ns(vm);
    u64 wait = deadline_ns == DEV_NEVER ? DEV_NEVER : deadline_ns > now ? deadline_ns - now : 0;
    /* -icount skips idle time; only while someone may type does it pass at its real pace. */
    bool skip = vm->clock.icount && deadline_ns != DEV_NEVER;
    bool sleep =
        !skip || (vm->console.uses_stdin && !vm->console.stdin_regular && !vm->console.stdin_eof);
    u64 begin = skip ? mon_host_ns() : 0;
    bool interrupted = sleep && mon_sleep(vm, wait);
    if (skip)
        vm->clock.skipped_ns += interrupted ? MIN(mon_host_ns() - begin, wait) : wait;
}
