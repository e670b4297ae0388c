/*
 * mp_table.c: describes CPU, I/O APIC and the wiring between them to systems that do not read
 * ACPI's tables: a floating pointer at F0000h and the configuration table behind it. Source:
 * MultiProcessor Specification 1.4, chapter 4 "MP Configuration Table".
 */
#include "devmodel/machine.h"

enum {
    POINTER_AT = 0xf0000,
    TABLE_AT = 0xf0010,
    HEADER_BYTES = 44,
    PROCESSOR_BYTES = 20,
    ENTRY_BYTES = 8,
    TABLES_END = 0xf0200
};
enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_IO_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { BUS_PCI, BUS_ISA };
enum { TYPE_INT, TYPE_NMI, TYPE_SMI, TYPE_EXTINT };
/* Polarity in bits 0-1, trigger in bits 2-3; 0: as the bus has it. */
enum { AS_THE_BUS = 0, ACTIVE_HIGH_LEVEL = 0xd };
enum { CPU_ENABLED = 1, CPU_BOOTSTRAP = 2, IOAPIC_USABLE = 1, ALL_LOCAL_APICS = 0xff };

struct table {
    u8 *start;
    u32 bytes;
    u16 entries;
};

static u8 checksum(const u8 *p, u32 bytes) {
    u8 sum = 0;
    while (bytes--)
        sum = (u8)(sum + *p++);
    return (u8)-sum;
}

static u8 *add(struct table *t, u8 type, u32 bytes) {
    u8 *entry = t->start + t->bytes;
    t->bytes += bytes;
    t->entries++;
    entry[0] = type;
    return entry;
}

static void add_bus(struct table *t, u8 id, const char name[6]) {
    u8 *e = add(t, ENTRY_BUS, ENTRY_BYTES);
    e[1] = id;
    memcpy(e + 2, name, 6);
}

static void add_interrupt(struct table *t, u8 kind, u8 type, u16 flags, u8 bus, u8 source,
                          u8 destination, u8 pin) {
    u8 *e = add(t, kind, ENTRY_BYTES);
    e[1] = type;
    store16(e + 2, flags);
    e[4] = bus;
    e[5] = source;
    e[6] = destination;
    e[7] = pin;
}

static void add_wiring(struct table *t) {
    for (u8 line = 0; line < 16; line++) {
        if (line == DEV_IOAPIC_TIMER_PIN) /* the 8259s' cascade; the timer has its pin */
            continue;
        u16 flags = line == DEV_SCI_IRQ ? ACTIVE_HIGH_LEVEL : AS_THE_BUS;
        add_interrupt(t, ENTRY_IO_INTERRUPT, TYPE_INT, flags, BUS_ISA, line, DEV_IOAPIC_ID,
                      line ? line : DEV_IOAPIC_TIMER_PIN);
    }
    /* Pin A of device 1: device number << 2 | pin. */
    add_interrupt(t, ENTRY_IO_INTERRUPT, TYPE_INT, ACTIVE_HIGH_LEVEL, BUS_PCI, 1 << 2,
                  DEV_IOAPIC_ID, DEV_SCI_IRQ);
    add_interrupt(t, ENTRY_IO_INTERRUPT, TYPE_EXTINT, AS_THE_BUS, BUS_ISA, 0, DEV_IOAPIC_ID, 0);
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, TYPE_EXTINT, AS_THE_BUS, BUS_ISA, 0, ALL_LOCAL_APICS,
                  0);
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, TYPE_NMI, AS_THE_BUS, BUS_ISA, 0, ALL_LOCAL_APICS, 1);
}

static void put_table(u8 *at) {
    struct table t = {at, HEADER_BYTES, 0};
    u8 *cpu = add(&t, ENTRY_PROCESSOR, PROCESSOR_BYTES);
    cpu[2] = DEV_APIC_VERSION;
    cpu[3] = CPU_ENABLED | CPU_BOOTSTRAP;
    store32(cpu + 4, 0x600);  /* signature: family 6 */
    store32(cpu + 8, BIT(9)); /* features: a local APIC */
    add_bus(&t, BUS_PCI, "PCI   ");
    add_bus(&t, BUS_ISA, "ISA   ");
    u8 *ioapic = add(&t, ENTRY_IOAPIC, ENTRY_BYTES);
    ioapic[1] = DEV_IOAPIC_ID;
    ioapic[2] = DEV_IOAPIC_VERSION;
    ioapic[3] = IOAPIC_USABLE;
    store32(ioapic + 4, DEV_IOAPIC_BASE);
    add_wiring(&t);
    memcpy(at, "PCMP", 4);
    store16(at + 4, (u16)t.bytes);
    at[6] = 4; /* revision 1.4 */
    memcpy(at + 8, "RINGFOLD", 8);
    memcpy(at + 16, "PC          ", 12);
    store16(at + 34, t.entries);
    store32(at + 36, DEV_APIC_BASE);
    at[7] = checksum(at, t.bytes);
}

void dev_mp_place_tables(struct machine_devices *m) {
    const struct dev_config *c = &m->config;
    if (!c->apic.present || !c->ram || c->ram_bytes < TABLES_END)
        return;
    memset(c->ram + POINTER_AT, 0, TABLES_END - POINTER_AT);
    put_table(c->ram + TABLE_AT);
    u8 *pointer = c->ram + POINTER_AT;
    memcpy(pointer, "_MP_", 4);
    store32(pointer + 4, TABLE_AT);
    pointer[8] = 1; /* length in paragraphs */
    pointer[9] = 4; /* revision 1.4 */
    pointer[10] = checksum(pointer, 16);
    if (c->dma_written)
        c->dma_written(c->dma_opaque, GPA(POINTER_AT), TABLES_END - POINTER_AT);
}
