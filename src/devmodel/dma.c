/*
 * dma.c: the registers of the two 8237A DMA controllers and their page registers, so that probes
 * find what they expect. No device requests DMA, so no transfer ever runs.
 * Source: Intel 8237A data sheet (231466), "Register Description"; IBM AT page registers.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

struct controller {
    u16 address[4], count[4];
    u8 mask; /* masked channels */
    u8 mode[4], command;
    bool high; /* the byte pointer flip-flop */
};

struct dma {
    struct controller c[2];
    u8 page[16];
};

static void master_clear(struct controller *c) {
    c->mask = 0x0f;
    c->command = 0;
    c->high = false;
}

static u8 read_register(struct controller *c, u32 reg) {
    if (reg < 8) {
        u16 value = reg & 1 ? c->count[reg >> 1] : c->address[reg >> 1];
        c->high = !c->high;
        return (u8)(c->high ? value : value >> 8);
    }
    return reg == 15 ? c->mask | 0xf0 : 0; /* 8: status, nothing requested or finished */
}

static void write_register(struct controller *c, u32 reg, u8 value) {
    if (reg < 8) {
        u16 *r = reg & 1 ? &c->count[reg >> 1] : &c->address[reg >> 1];
        *r = (u16)(c->high ? (*r & 0x00ff) | value << 8 : (*r & 0xff00) | value);
        c->high = !c->high;
        return;
    }
    switch (reg) {
    case 8:
        c->command = value;
        break;
    case 10:
        c->mask = value & 4 ? c->mask | (u8)BIT(value & 3) : c->mask & (u8)~BIT(value & 3);
        break;
    case 11:
        c->mode[value & 3] = value;
        break;
    case 12:
        c->high = false;
        break;
    case 13:
        master_clear(c);
        break;
    case 14:
        c->mask = 0;
        break;
    case 15:
        c->mask = value & 0x0f;
        break;
    default: /* 9: software request, of use to memory-to-memory transfers only */
        break;
    }
}

/* The first controller sits on byte ports, the second on every other one. */
static u32 read_first(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return read_register(&((struct dma *)opaque)->c[0], offset);
}
static void write_first(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    write_register(&((struct dma *)opaque)->c[0], offset, (u8)value);
}
static u32 read_second(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return offset & 1 ? 0xff : read_register(&((struct dma *)opaque)->c[1], offset >> 1);
}
static void write_second(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    if (!(offset & 1))
        write_register(&((struct dma *)opaque)->c[1], offset >> 1, (u8)value);
}
static u32 read_page(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return ((struct dma *)opaque)->page[offset];
}
static void write_page(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    ((struct dma *)opaque)->page[offset] = (u8)value;
}

static const struct dev_region_ops first_ops = {read_first, write_first, 1, dev_light_always};
static const struct dev_region_ops second_ops = {read_second, write_second, 1, dev_light_always};
static const struct dev_region_ops page_ops = {read_page, write_page, 1, dev_light_always};

static bool dma_init(struct machine_devices *m, void **state) {
    struct dma *d = calloc(1, sizeof *d);
    if (!d)
        return false;
    *state = d;
    return dev_bus_add_ports(m->bus, 0x00, 16, &first_ops, d) &&
           dev_bus_add_ports(m->bus, 0xc0, 32, &second_ops, d) &&
           dev_bus_add_ports(m->bus, 0x80, 16, &page_ops, d);
}

static void dma_reset(void *state) {
    struct dma *d = state;
    *d = (struct dma){0};
    master_clear(&d->c[0]);
    master_clear(&d->c[1]);
}

const struct dev_descriptor dev_dma = {"8237", dma_init, dma_reset, free};
