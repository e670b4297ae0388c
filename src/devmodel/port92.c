/*
 * port92.c: system control port A: fast A20 (bit 1) and fast reset (a rising bit 0).
 * Source: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
 */
#include "devmodel/machine.h"

static u32 port92_read(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    const struct machine_devices *m = opaque;
    return m->a20 ? 2 : 0;
}

static void port92_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct machine_devices *m = opaque;
    m->a20 = value & 2;
    if (value & 1) /* it was 0 before: setting it resets the machine, which clears it */
        m->requests.reset = true;
}

static const struct dev_region_ops port92_ops = {port92_read, port92_write, 1, dev_light_reads};

static bool port92_init(struct machine_devices *m, void **state) {
    (void)state;
    return dev_bus_add_ports(m->bus, 0x92, 1, &port92_ops, m);
}

const struct dev_descriptor dev_port92 = {"port 92h", port92_init, NULL, NULL};
