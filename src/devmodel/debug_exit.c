/*
 * debug_exit.c: isa-debug-exit. A write of v asks the machine to end with status (v << 1) | 1;
 * reads give 0. An access of any size counts by the port it begins at, if that is aligned to its
 * size from the first port on, as QEMU's bus has it.
 */
#include "devmodel/machine.h"

static u32 debug_exit_read(void *opaque, u32 offset, unsigned bytes) {
    (void)opaque, (void)offset, (void)bytes;
    return 0;
}

static void debug_exit_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct machine_devices *m = opaque;
    if (m->requests.exit)
        return; /* the first one counts */
    m->requests.exit = true;
    m->requests.exit_code = (int)(value << 1 | 1);
}

static const struct dev_region_ops debug_exit_ops = {debug_exit_read, debug_exit_write,
                                                     DEV_UNDIVIDED, NULL};

static bool debug_exit_init(struct machine_devices *m, void **state) {
    (void)state;
    const struct dev_config *c = &m->config;
    if (!c->debug_exit)
        return true;
    u16 base = c->debug_exit_iobase ? c->debug_exit_iobase : 0x501;
    u32 count = c->debug_exit_iosize ? c->debug_exit_iosize : 2;
    return dev_bus_add_ports(m->bus, base, count, &debug_exit_ops, m);
}

const struct dev_descriptor dev_debug_exit = {"isa-debug-exit", debug_exit_init, NULL, NULL};
