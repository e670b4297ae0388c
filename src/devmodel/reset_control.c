/*
 * reset_control.c: the PIIX3's reset control register at CF9h: a rising bit 2 resets the machine.
 * Source: Intel PIIX/PIIX3 data sheet (290550), "RC - Reset Control Register".
 */
#include "devmodel/machine.h"

#include <stdlib.h>

struct reset_control {
    struct machine_devices *m;
    u8 value;
};

static u32 rcr_read(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    return ((struct reset_control *)opaque)->value;
}

static void rcr_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct reset_control *r = opaque;
    if (value & ~r->value & 4)
        r->m->requests.reset = true;
    r->value = value & 0x06;
}

static const struct dev_region_ops rcr_ops = {rcr_read, rcr_write, 1, NULL};

static bool rcr_init(struct machine_devices *m, void **state) {
    struct reset_control *r = calloc(1, sizeof *r);
    if (!r)
        return false;
    *state = r;
    r->m = m;
    return dev_bus_add_ports(m->bus, 0xcf9, 1, &rcr_ops, r);
}

static void rcr_reset(void *state) {
    ((struct reset_control *)state)->value = 0;
}

const struct dev_descriptor dev_reset_control = {"reset control", rcr_init, rcr_reset, free};
