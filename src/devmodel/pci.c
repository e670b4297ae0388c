/*
 * pci.c: PCI configuration mechanism 1 with the three functions of an i440FX PC that have no BARs:
 * host bridge, PIIX3 ISA bridge, PIIX4 power management. A function is 256 bytes and a mask of the
 * bits that can be written. Source: PCI Local Bus Specification 2.2, section 3.2.2.3.2 "Software
 * Generation of Configuration Transactions"; Intel 440FX (290549) and 82371AB (290562) data sheets.
 *
 * DEVIATION: PMBA cannot be moved; SMRAM and the PIRQ routers keep what is written but route
 * nothing. Of PAM only the write enables are obeyed, and only where there is firmware (-bios):
 * reads always find the RAM, into which the firmware was copied.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum {
    FUNCTIONS = 3,
    HOST = 0x00,
    ISA = 0x08,
    POWER = 0x0b, /* device << 3 | function */
    PAM = 0x59,
    PAM_REGISTERS = 7,
    PAM_WRITE = 2, /* in either half of a register */
    COMMAND = 0x04,
    STATUS = 0x06,
    REVISION = 0x08,
    SUBCLASS = 0x0a,
    BASECLASS = 0x0b,
    HEADER = 0x0e,
    IRQ_LINE = 0x3c,
    IRQ_PIN = 0x3d,
};

struct function {
    u8 devfn;
    u8 config[256];
    u8 writable[256];
};

struct pci {
    struct machine_devices *m;
    u32 address; /* CONFIG_ADDRESS */
    struct function f[FUNCTIONS];
};

static struct function *selected(struct pci *p) {
    if (!(p->address & 0x80000000u) || (p->address >> 16 & 0xff) != 0)
        return NULL;
    for (unsigned i = 0; i < FUNCTIONS; i++)
        if (p->f[i].devfn == (p->address >> 8 & 0xff))
            return &p->f[i];
    return NULL;
}

/* Only a 32-bit access reaches the address register. */
static u32 read_address(void *opaque, u32 offset, unsigned bytes) {
    return offset == 0 && bytes == 4 ? ((struct pci *)opaque)->address : UINT32_MAX;
}

static void write_address(void *opaque, u32 offset, u32 value, unsigned bytes) {
    if (offset == 0 && bytes == 4)
        ((struct pci *)opaque)->address = value & 0x80fffffcu;
}

static u32 read_config(void *opaque, u32 offset, unsigned bytes) {
    struct pci *p = opaque;
    const struct function *f = selected(p);
    if (!f)
        return UINT32_MAX;
    u32 first = (p->address & 0xfc) + offset, value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (u32)f->config[(first + i) & 0xff] << (8 * i);
    return value;
}

/* PAM0's upper half governs the 64 KiB at F0000h; the halves of the others 16 KiB each from C0000h
 * on. 440FX data sheet, "PAM: Programmable Attribute Map Registers". */
static void shadow_changed(struct pci *p, u32 reg) {
    const struct dev_config *c = &p->m->config;
    u8 value = p->f[0].config[reg];
    if (!c->shadow_changed)
        return;
    if (reg == PAM) {
        c->shadow_changed(c->dma_opaque, GPA(0xf0000), 0x10000, value >> 4 & PAM_WRITE);
        return;
    }
    u32 base = 0xc0000 + (reg - PAM - 1) * 0x8000;
    c->shadow_changed(c->dma_opaque, GPA(base), 0x4000, value & PAM_WRITE);
    c->shadow_changed(c->dma_opaque, GPA(base + 0x4000), 0x4000, value >> 4 & PAM_WRITE);
}

static void write_config(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct pci *p = opaque;
    struct function *f = selected(p);
    if (!f)
        return;
    u32 first = (p->address & 0xfc) + offset;
    for (unsigned i = 0; i < bytes; i++) {
        u8 *byte = &f->config[(first + i) & 0xff], mask = f->writable[(first + i) & 0xff];
        *byte = (u8)((*byte & ~mask) | (value >> (8 * i) & mask));
        if (f->devfn == HOST && (first + i) - PAM < PAM_REGISTERS)
            shadow_changed(p, first + i);
    }
}

static const struct dev_region_ops address_ops = {read_address, write_address, 4, dev_light_always};
static const struct dev_region_ops data_ops = {read_config, write_config, 4, dev_light_reads};

static bool pci_init(struct machine_devices *m, void **state) {
    struct pci *p = calloc(1, sizeof *p);
    if (!p)
        return false;
    *state = p;
    p->m = m;
    return dev_bus_add_ports(m->bus, 0xcf8, 4, &address_ops, p) &&
           dev_bus_add_ports(m->bus, 0xcfc, 4, &data_ops, p);
}

static void identify(struct function *f, u8 devfn, u16 device, u8 revision, u16 class_code) {
    *f = (struct function){.devfn = devfn};
    store16(f->config, 0x8086);
    store16(f->config + 2, device);
    f->config[REVISION] = revision;
    f->config[SUBCLASS] = (u8)class_code;
    f->config[BASECLASS] = (u8)(class_code >> 8);
}

static void pci_reset(void *state) {
    struct pci *p = state;
    p->address = 0;

    struct function *host = &p->f[0];
    identify(host, HOST, 0x1237, 0x02, 0x0600);
    store16(host->config + COMMAND, 0x0006);
    store16(host->config + STATUS, 0x0280);
    memset(host->writable + PAM, 0xff, PAM_REGISTERS);
    host->config[0x72] = 0x02; /* SMRAM */
    host->writable[0x72] = 0x78;

    struct function *isa = &p->f[1];
    identify(isa, ISA, 0x7000, 0x00, 0x0601);
    store16(isa->config + COMMAND, 0x0007);
    store16(isa->config + STATUS, 0x0200);
    isa->config[HEADER] = 0x80;          /* multifunction */
    memset(isa->config + 0x60, 0x80, 4); /* PIRQRC[A:D]: not routed */
    memset(isa->writable + 0x60, 0x8f, 4);

    struct function *power = &p->f[2];
    identify(power, POWER, 0x7113, 0x03, 0x0680);
    store16(power->config + COMMAND, 0x0001);
    store16(power->config + STATUS, 0x0280);
    power->config[HEADER] = 0x00;
    power->config[IRQ_LINE] = DEV_SCI_IRQ;
    power->writable[IRQ_LINE] = 0xff;
    power->config[IRQ_PIN] = 1;
    store32(power->config + 0x40, DEV_PM_BASE | 1); /* PMBA */
    power->config[0x80] = 0x01;                     /* PMREGMISC: PM I/O space on */
}

const struct dev_descriptor dev_pci = {"PCI", pci_init, pci_reset, free};
