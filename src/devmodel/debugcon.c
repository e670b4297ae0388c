/*
 * debugcon.c: the debug console at port E9h: a byte written goes to its back end (a byte that the
 * back end does not take is lost); a read gives E9h, by which guests find it.
 */
#include "devmodel/machine.h"

static u32 debugcon_read(void *opaque, u32 offset, unsigned bytes) {
    (void)opaque, (void)offset, (void)bytes;
    return 0xe9;
}

static void debugcon_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    const struct dev_chardev *back = opaque;
    u8 byte = (u8)value;
    back->write(back->opaque, &byte, 1);
}

static const struct dev_region_ops debugcon_ops = {debugcon_read, debugcon_write, 1, NULL};

static bool debugcon_init(struct machine_devices *m, void **state) {
    (void)state;
    if (!m->config.debugcon.write)
        return true;
    return dev_bus_add_ports(m->bus, 0xe9, 1, &debugcon_ops, &m->config.debugcon);
}

const struct dev_descriptor dev_debugcon = {"debugcon", debugcon_init, NULL, NULL};
