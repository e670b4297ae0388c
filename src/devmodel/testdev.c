/*
 * testdev.c: pc-testdev, what kvm-unit-tests drive: a scratch register (ports E0h-E3h, and the same
 * one byte by byte at E8h-EBh), a page-flush port (E4h), interrupt lines (2000h + line) and 64 KiB
 * of scratch memory at FF000000h. All of it outlives a reset of the machine.
 *
 * An access of a size that QEMU's device does not take there reads as 0 and writes nothing.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum { MEMORY_BYTES = 0x10000, IRQ_PORTS = 24 };

struct testdev {
    struct machine_devices *m;
    u32 scratch;
    u8 memory[MEMORY_BYTES];
};

static u32 scratch_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes; /* the bus cuts the value to size */
    return ((struct testdev *)opaque)->scratch >> (8 * (offset & 3));
}

static void scratch_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct testdev *t = opaque;
    unsigned shift = 8 * (offset & 3);
    u32 mask = (bytes == 4 ? UINT32_MAX : BIT(8 * bytes) - 1) << shift;
    t->scratch = (t->scratch & ~mask) | (value << shift & mask);
}

static u32 write_only(void *opaque, u32 offset, unsigned bytes) {
    (void)opaque, (void)offset, (void)bytes;
    return 0;
}

/* Asks the host to drop its mapping of a page and make it anew. Windows fill themselves again from
 * the guest's tables whenever that happens, so there is nothing that the guest could see. */
static void flush_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)opaque, (void)offset;
    if (bytes == 4)
        TRACE(ioport, "testdev: flush page %08x\n", value);
}

static void irq_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct testdev *t = opaque;
    if (bytes != 1)
        return;
    struct dev_irq irq = dev_machine_irq(t->m, offset);
    dev_irq_set(&irq, value != 0); /* lines 16-23 lead to the I/O APIC only */
}

static u32 memory_read(void *opaque, u32 offset, unsigned bytes) {
    u32 value = 0;
    memcpy(&value, ((struct testdev *)opaque)->memory + offset, bytes);
    return value;
}

static void memory_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    memcpy(((struct testdev *)opaque)->memory + offset, &value, bytes);
}

static const struct dev_region_ops scratch_ops = {scratch_read, scratch_write, 4, NULL};
static const struct dev_region_ops bytes_ops = {scratch_read, scratch_write, 1, NULL};
static const struct dev_region_ops flush_ops = {write_only, flush_write, 4, NULL};
static const struct dev_region_ops irq_ops = {write_only, irq_write, 4, NULL};
static const struct dev_region_ops memory_ops = {memory_read, memory_write, 4, NULL};

static bool testdev_init(struct machine_devices *m, void **state) {
    if (!m->config.testdev)
        return true;
    struct testdev *t = calloc(1, sizeof *t);
    if (!t)
        return false;
    *state = t;
    t->m = m;
    return dev_bus_add_ports(m->bus, 0xe0, 4, &scratch_ops, t) &&
           dev_bus_add_ports(m->bus, 0xe4, 4, &flush_ops, t) &&
           dev_bus_add_ports(m->bus, 0xe8, 4, &bytes_ops, t) &&
           dev_bus_add_ports(m->bus, 0x2000, IRQ_PORTS, &irq_ops, t) &&
           dev_bus_add_mmio(m->bus, GPA(0xff000000), MEMORY_BYTES, &memory_ops, t);
}

const struct dev_descriptor dev_testdev = {"pc-testdev", testdev_init, NULL, free};
