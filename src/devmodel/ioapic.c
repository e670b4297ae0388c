/*
 * ioapic.c: the I/O APIC: 24 pins, each with a redirection entry that makes a message to the local
 * APIC of it. An edge is a message; a level is one message per EOI, for as long as it lasts.
 * Source: Intel 82093AA data sheet (290566), chapter 3 "Register Description".
 *
 * DEVIATION: devices say whether they ask, not how their line looks: the polarity bit is kept and
 * means nothing. SMI and INIT messages are dropped.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum { IOREGSEL = 0x00, IOWIN = 0x10, REGION_BYTES = 0x1000 };
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_REDIRECTION = 0x10 };
enum {
    ENTRY_LOGICAL = 1 << 11,
    ENTRY_REMOTE_IRR = 1 << 14,
    ENTRY_LEVEL = 1 << 15,
    ENTRY_MASKED = 1 << 16,
    ENTRY_WRITABLE = 0x1afff, /* of the low half: not delivery status and remote IRR */
};

struct dev_ioapic {
    struct machine_devices *m;
    u8 select, id;
    u32 line; /* levels of the pins */
    u32 irr;  /* edges that wait for the local APIC to accept them */
    u64 entry[DEV_IOAPIC_PINS];
};

static unsigned entry_mode(u64 entry) {
    return entry >> 8 & 7;
}

/* Whether a level asks now: SDM volume 3, section 10.8.5 "Signaling Interrupt Servicing
 * Completion". */
static bool level_asks(const struct dev_ioapic *io, unsigned pin) {
    return (io->line >> pin & 1) && !(io->entry[pin] & ENTRY_REMOTE_IRR);
}

/* Sends the pin's message if there is one to send. */
static void service(struct dev_ioapic *io, unsigned pin) {
    u64 *entry = &io->entry[pin];
    bool level = *entry & ENTRY_LEVEL;
    unsigned mode = entry_mode(*entry);
    if ((*entry & ENTRY_MASKED) || !(level ? level_asks(io, pin) : io->irr >> pin & 1))
        return;
    if (mode == DEV_DELIVER_EXTINT) /* no message: dev_ioapic_passes_extint */
        return;
    struct dev_intr_message message = {
        .vector = (u8)*entry,
        .mode = (u8)mode,
        .level = level && mode <= DEV_DELIVER_LOWEST, /* the others are edges always */
        .logical = *entry & ENTRY_LOGICAL,
        .destination = (u8)(*entry >> 56)};
    if (!dev_apic_deliver(io->m->apic, &message))
        return;
    if (message.level)
        *entry |= ENTRY_REMOTE_IRR;
    else
        io->irr &= ~BIT(pin);
}

void dev_ioapic_set_pin(struct dev_ioapic *io, unsigned pin, bool level) {
    if (pin >= DEV_IOAPIC_PINS)
        return;
    u32 bit = BIT(pin);
    bool rising = level && !(io->line & bit);
    io->line = level ? io->line | bit : io->line & ~bit;
    /* Edges at a masked pin are not held pending. */
    if (rising && !(io->entry[pin] & ENTRY_MASKED))
        io->irr |= bit;
    if (level)
        service(io, pin);
}

void dev_ioapic_retry(struct dev_ioapic *io) {
    for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++)
        service(io, pin);
}

void dev_ioapic_eoi(struct dev_ioapic *io, u8 vector) {
    for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++) {
        u64 *entry = &io->entry[pin];
        if ((u8)*entry != vector || !(*entry & ENTRY_LEVEL))
            continue;
        *entry &= ~(u64)ENTRY_REMOTE_IRR;
        service(io, pin);
    }
}

bool dev_ioapic_passes_extint(const struct dev_ioapic *io) {
    u64 entry = io->entry[0];
    return !(entry & ENTRY_MASKED) && entry_mode(entry) == DEV_DELIVER_EXTINT &&
           dev_apic_matches(io->m->apic, (u8)(entry >> 56), entry & ENTRY_LOGICAL);
}

/* ---- Registers ---- */

static u32 read_selected(const struct dev_ioapic *io) {
    unsigned entry = (io->select - REG_REDIRECTION) / 2;
    switch (io->select) {
    case REG_ID:
    case REG_ARBITRATION:
        return (u32)io->id << 24;
    case REG_VERSION:
        return (DEV_IOAPIC_PINS - 1) << 16 | DEV_IOAPIC_VERSION;
    default:
        if (io->select < REG_REDIRECTION || entry >= DEV_IOAPIC_PINS)
            return 0;
        return (u32)(io->entry[entry] >> (io->select & 1 ? 32 : 0));
    }
}

static void write_entry(struct dev_ioapic *io, unsigned pin, bool high, u32 value) {
    u64 *entry = &io->entry[pin];
    if (high) {
        *entry = (u32)*entry | (u64)(value & 0xff000000u) << 32;
    } else {
        *entry = (*entry & ~(u64)ENTRY_WRITABLE) | (value & ENTRY_WRITABLE);
        if (!(*entry & ENTRY_LEVEL)) /* has a meaning for levels only */
            *entry &= ~(u64)ENTRY_REMOTE_IRR;
        if (*entry & (ENTRY_MASKED | ENTRY_LEVEL))
            io->irr &= ~BIT(pin);
    }
    service(io, pin);
    dev_intr_update(io->m);
}

static void write_selected(struct dev_ioapic *io, u32 value) {
    unsigned pin = (io->select - REG_REDIRECTION) / 2;
    if (io->select == REG_ID)
        io->id = value >> 24 & 15;
    else if (io->select >= REG_REDIRECTION && pin < DEV_IOAPIC_PINS)
        write_entry(io, pin, io->select & 1, value);
    else
        TRACE(guest_errors, "I/O APIC: write of %08x to register %02x\n", value, io->select);
}

/* The data sheet wants 32-bit accesses; narrower reads see the bytes, narrower writes to IOWIN are
 * dropped. */
static u32 ioapic_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes; /* the bus cuts the value to size */
    const struct dev_ioapic *io = opaque;
    u32 value = (offset & ~3u) == IOREGSEL ? io->select
                : (offset & ~3u) == IOWIN  ? read_selected(io)
                                           : 0;
    return value >> (8 * (offset & 3));
}

static void ioapic_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct dev_ioapic *io = opaque;
    if (offset == IOREGSEL)
        io->select = (u8)value;
    else if (offset == IOWIN && bytes == 4)
        write_selected(io, value);
}

static const struct dev_region_ops ioapic_ops = {ioapic_read, ioapic_write, 4, NULL};

static bool ioapic_init(struct machine_devices *m, void **state) {
    if (!m->config.apic.present)
        return true;
    struct dev_ioapic *io = calloc(1, sizeof *io);
    if (!io)
        return false;
    *state = m->ioapic = io;
    io->m = m;
    return dev_bus_add_mmio(m->bus, GPA(DEV_IOAPIC_BASE), REGION_BYTES, &ioapic_ops, io);
}

static void ioapic_reset(void *state) {
    struct dev_ioapic *io = state;
    *io = (struct dev_ioapic){.m = io->m, .id = DEV_IOAPIC_ID};
    for (unsigned pin = 0; pin < DEV_IOAPIC_PINS; pin++)
        io->entry[pin] = ENTRY_MASKED;
}

const struct dev_descriptor dev_io_apic = {"I/O APIC", ioapic_init, ioapic_reset, free};
