/*
 * io_light.c: IN and OUT of translated code where the device needs nothing but its own state: the
 * access is made with the guest's x87 and SSE state in the registers, so this file and all it calls
 * are compiled for general registers only and stay away from the C library. What the access brought
 * up and what takes more (a timer to be armed, a reset) is left to the loop.
 */
#include "monitor/vm.h"

/* True: leave translated code. An interrupt alone is the translator's to weigh. */
static bool must_leave(struct vm *vm) {
    struct dev_requests *r = dev_machine_requests(vm->dev);
    if (r->intr_changed) {
        r->intr_changed = false;
        bt_set_interrupt_pending(vm->bt, dev_intr_pending(vm->dev));
    }
    if (r->nmi || r->reset || r->poweroff || r->exit ||
        dev_next_deadline_ns(vm->dev) < vm->events.armed_ns)
        vm->stop = 1;
    return vm->stop;
}

enum cpu_io mon_io_light(void *opaque, u16 port, unsigned bytes, bool write, u32 *value) {
    struct vm *vm = opaque;
    /* Devices look at the clock; only the TSC can be read without the host. */
    if (!vm->clock.from_tsc || !dev_io_light(vm->dev_bus, port, bytes, write, value))
        return CPU_IO_HEAVY;
    if (write) {
        vm->count.io_writes++;
        TRACE(ioport, "out %04x/%u <- %x at %08x\n", port, bytes, *value, vm->cpu->eip);
    } else {
        vm->count.io_reads++;
        TRACE(ioport, "in  %04x/%u -> %x at %08x\n", port, bytes, *value, vm->cpu->eip);
    }
    return must_leave(vm) ? CPU_IO_LEAVE : CPU_IO_DONE;
}
