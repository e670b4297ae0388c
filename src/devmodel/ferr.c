/*
 * ferr.c: errors of the x87 unit as a PC/AT reports them, while CR0.NE is clear. The processor's
 * FERR# sets a latch, which is IRQ 13; writing port F0h clears the latch and asserts IGNNE#, under
 * which the processor passes over the error, until FERR# ends. Source: SDM volume 1, appendix D.2
 * "Implementation of the MS-DOS Compatibility Sub-mode"; Intel PIIX4 data sheet (290562),
 * "COPROC_ERR-Coprocessor Error Register".
 */
#include "devmodel/machine.h"

#include <stdlib.h>

#define COPROCESSOR_IRQ 13

struct dev_ferr {
    struct dev_irq irq;
    bool asserted; /* FERR# */
    bool ignne;
};

bool dev_ferr_set(struct machine_devices *m, bool asserted) {
    struct dev_ferr *f = m->ferr;
    if (asserted && !f->asserted)
        dev_irq_set(&f->irq, true);
    f->asserted = asserted;
    f->ignne = f->ignne && asserted;
    return f->ignne;
}

static u32 ferr_read(void *opaque, u32 offset, unsigned bytes) {
    (void)opaque, (void)offset, (void)bytes;
    return 0xff;
}

static void ferr_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)value, (void)bytes;
    struct dev_ferr *f = opaque;
    dev_irq_set(&f->irq, false);
    f->ignne = f->asserted;
}

static const struct dev_region_ops ferr_ops = {
    .read = ferr_read, .write = ferr_write, .max_bytes = 1};

static bool ferr_init(struct machine_devices *m, void **state) {
    struct dev_ferr *f = calloc(1, sizeof *f);
    if (!f)
        return false;
    *state = m->ferr = f;
    f->irq = dev_machine_irq(m, COPROCESSOR_IRQ);
    return dev_bus_add_ports(m->bus, 0xf0, 1, &ferr_ops, f);
}

static void ferr_reset(void *state) {
    struct dev_ferr *f = state;
    f->asserted = f->ignne = false;
    dev_irq_set(&f->irq, false);
}

const struct dev_descriptor dev_ferr = {"coprocessor error", ferr_init, ferr_reset, free};
