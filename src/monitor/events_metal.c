/*
 * events_metal.c: how the world reaches the virtual CPU on the bare machine: a device interrupt,
 * from the timer at the devices' next deadline or from the serial port. Its hook sets vm->stop and
 * tells the engine to come back. The flag is set before and looked at after every wait, and the
 * wait opens interrupts together with halting, so that no wake-up is lost.
 *
 * This file is compiled for general registers only: the hook interrupts code that holds the
 * guest's.
 */
#include "metal/metal.h"
#include "metal/ports.h"
#include "monitor/console_metal.h"
#include "monitor/vm.h"

#include <stdlib.h>

#define SHORTEST_TIMER_NS 1000

/* Nothing but its existence says that there are kicks. */
struct mon_events_host {
    struct vm *vm;
};

/* The machine has one: the hook and the crash report start from here. */
static struct vm *current_vm;
struct vm *mon_current_vm(void) {
    return current_vm;
}

static void on_interrupt(void *opaque, struct metal_frame *frame) {
    struct vm *vm = opaque;
    vm->events.armed_ns = DEV_NEVER; /* the timer may have come, and early: look at it again */
    if (mon_keyboard_collect() && vm->events.watch_stdin)
        vm->events.stdin_ready = 1;
    vm->stop = 1;
    vm->engine->kick_sigsafe(vm);
    if (frame && vm->bt)
        bt_interrupted(vm->bt, frame);
}

void mon_events_watch(struct vm *vm, bool stdin_too, int gdb_fd) {
    (void)gdb_fd;
    vm->events.watch_stdin = stdin_too;
    if (!stdin_too)
        return;
    bool on = metal_interrupts_save();
    if (mon_keyboard_collect()) {
        vm->events.stdin_ready = 1;
        vm->stop = 1;
    }
    metal_interrupts_restore(on);
}

void mon_timer_set(struct vm *vm, u64 wait_ns) {
    (void)vm;
    if (wait_ns == DEV_NEVER)
        metal_timer_disarm();
    else
        metal_timer_arm(MAX(wait_ns, (u64)SHORTEST_TIMER_NS));
}

bool mon_sleep(struct vm *vm, u64 wait_ns) {
    if (vm->stop || !wait_ns)
        return false;
    u64 begin = mon_host_ns();
    mon_timer_set(vm, wait_ns);
    vm->events.armed_ns = DEV_NEVER; /* it may stand elsewhere than the devices want it */
    u64 asleep = __builtin_ia32_rdtsc();
    metal_wait(&vm->stop);
    if (vm->bt)
        bt_ring_idle(vm->bt, __builtin_ia32_rdtsc() - asleep);
    return mon_host_ns() - begin < wait_ns;
}

bool mon_events_start(struct vm *vm, struct mon_error *err) {
    struct mon_events_host *h = vm->events.host = calloc(1, sizeof *h);
    if (!h)
        return mon_fail(err, "out of memory");
    h->vm = current_vm = vm;
    vm->events.armed_ns = DEV_NEVER;
    metal_set_interrupt(on_interrupt, vm);
    return true;
}

void mon_events_stop(struct vm *vm) {
    metal_set_interrupt(NULL, NULL);
    metal_timer_disarm();
    free(vm->events.host);
    vm->events.host = NULL;
    current_vm = NULL;
}
