/*
 * acpi_tables.c: describes the machine to the guest: RSDP, RSDT, FADT, FACS, MADT (if there are
 * APICs) and a DSDT assembled from AML byte codes by a few small helpers. PCI interrupts are ISA
 * lines, in the 8259s' world as in the APICs'.
 * Source: ACPI 3.0, chapter 5.2 "ACPI System Description Tables", 6.4 "Resource Data Types for
 * ACPI" and 20.2 "AML Grammar Definition".
 */
#include "devmodel/machine.h"

enum {
    RSDP_AT = 0xe0000,
    RSDT_AT = 0xe0040,
    FADT_AT = 0xe0080,
    FACS_AT = 0xe0180, /* must be 64-byte aligned */
    MADT_AT = 0xe0200,
    DSDT_AT = 0xe0280,
    TABLES_END = 0xe1000,
    HEADER_BYTES = 36,
    FADT_BYTES = 244,
    FACS_BYTES = 64,
};
#define PCI_HOLE_START 0xc0000000u
#define PCI_HOLE_END 0xfebfffffu

/* ---- AML assembler ---- */

struct aml {
    u8 *code;
    u32 used, room;
    bool overflow; /* the table did not fit; nothing is written past room */
};

static void put(struct aml *a, u8 byte) {
    if (a->used < a->room)
        a->code[a->used++] = byte;
    else
        a->overflow = true;
}
static void put16(struct aml *a, u32 v) {
    put(a, (u8)v), put(a, (u8)(v >> 8));
}
static void put32(struct aml *a, u32 v) {
    put16(a, v), put16(a, v >> 16);
}
static void put_text(struct aml *a, const char *text) {
    while (*text)
        put(a, (u8)*text++);
}

/* Opens a construct with a PkgLength, always in the two-byte form; close_pkg fills it in. */
static u32 open_pkg(struct aml *a) {
    u32 at = a->used;
    put16(a, 0);
    return at;
}
static void close_pkg(struct aml *a, u32 at) {
    u32 length = a->used - at;
    if (a->overflow || length > 0xfff) {
        a->overflow = true;
        return;
    }
    a->code[at] = (u8)(0x40 | (length & 15));
    a->code[at + 1] = (u8)(length >> 4);
}

static void put_integer(struct aml *a, u32 v) {
    if (v <= 1) {
        put(a, (u8)v); /* ZeroOp, OneOp */
    } else if (v <= 0xff) {
        put(a, 0x0a), put(a, (u8)v);
    } else if (v <= 0xffff) {
        put(a, 0x0b), put16(a, v);
    } else {
        put(a, 0x0c), put32(a, v);
    }
}

/* Names are written as AML wants them: four characters, padded with '_'. */
static void put_name(struct aml *a, const char *name) {
    put(a, 0x08), put_text(a, name);
}

static void name_integer(struct aml *a, const char *name, u32 v) {
    put_name(a, name);
    put_integer(a, v);
}

/* "PNP0A03" packed: three 5-bit letters and four hexadecimal digits, big-endian. */
static void name_hid(struct aml *a, const char *id) {
    u32 v = 0;
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | (u32)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | (u32)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
    put_name(a, "_HID");
    put(a, 0x0c);
    put32(a, __builtin_bswap32(v));
}

static u32 open_device(struct aml *a, const char *name) {
    put(a, 0x5b), put(a, 0x82);
    u32 at = open_pkg(a);
    put_text(a, name);
    return at;
}

/* Name (_CRS, Buffer) with its size patched in at the end. */
struct crs {
    u32 pkg, size, data;
};
static struct crs open_crs(struct aml *a) {
    struct crs c;
    put_name(a, "_CRS");
    put(a, 0x11);
    c.pkg = open_pkg(a);
    put(a, 0x0b);
    c.size = a->used;
    put16(a, 0);
    c.data = a->used;
    return c;
}
static void close_crs(struct aml *a, struct crs c) {
    put(a, 0x79), put(a, 0); /* end tag; a zero checksum is always right */
    if (!a->overflow)
        store16(a->code + c.size, (u16)(a->used - c.data));
    close_pkg(a, c.pkg);
}

static void crs_io(struct aml *a, u16 base, u8 count) {
    put(a, 0x47), put(a, 1), put16(a, base), put16(a, base), put(a, 1), put(a, count);
}
static void crs_irq(struct aml *a, unsigned line) {
    put(a, 0x22), put16(a, BIT(line));
}

/* Address space descriptors that the bridge produces, minimum and maximum fixed. */
static void crs_word_range(struct aml *a, u8 type, u8 flags, u32 first, u32 last) {
    put(a, 0x88), put16(a, 13), put(a, type), put(a, 0x0c), put(a, flags);
    put16(a, 0), put16(a, first), put16(a, last), put16(a, 0), put16(a, last - first + 1);
}
static void crs_memory_range(struct aml *a, u8 flags, u32 first, u32 last) {
    put(a, 0x87), put16(a, 23), put(a, 0), put(a, 0x0c), put(a, flags);
    put32(a, 0), put32(a, first), put32(a, last), put32(a, 0), put32(a, last - first + 1);
}

/* ---- DSDT ---- */

struct isa_device {
    const char *name, *hid;
    i8 uid;    /* -1: none */
    i8 irq;    /* -1: none */
    i8 serial; /* index of the serial port that has to be connected, -1: always there */
    struct {
        u16 base;
        u8 count;
    } io[6];
};

static const struct isa_device isa_devices[] = {
    {"PIC_", "PNP0000", -1, 2, -1, {{0x20, 2}, {0xa0, 2}, {0x4d0, 2}}},
    {"TIMR", "PNP0100", -1, 0, -1, {{0x40, 4}}},
    {"DMAC", "PNP0200", -1, -1, -1, {{0x00, 16}, {0x81, 15}, {0xc0, 32}}},
    {"SPKR", "PNP0800", -1, -1, -1, {{0x61, 1}}},
    {"FPU_", "PNP0C04", -1, 13, -1, {{0xf0, 1}}},
    {"RTC_", "PNP0B00", -1, 8, -1, {{0x70, 2}}},
    {"KBD_", "PNP0303", -1, 1, -1, {{0x60, 1}, {0x64, 1}}},
    {"COM1", "PNP0501", 1, 4, 0, {{0x3f8, 8}}},
    {"COM2", "PNP0501", 2, 3, 1, {{0x2f8, 8}}},
    {"SYSR", "PNP0C02", 1, -1, -1, {{0x80, 1}, {0xed, 1}, {DEV_SMI_CMD, 2}, {DEV_PM_BASE, 0x40}}},
};

static void put_isa_device(struct aml *a, const struct isa_device *d) {
    u32 device = open_device(a, d->name);
    name_hid(a, d->hid);
    if (d->uid >= 0)
        name_integer(a, "_UID", (u32)d->uid);
    struct crs crs = open_crs(a);
    for (unsigned i = 0; i < ARRAY_LEN(d->io) && d->io[i].count; i++)
        crs_io(a, d->io[i].base, d->io[i].count);
    if (d->irq >= 0)
        crs_irq(a, (unsigned)d->irq);
    close_crs(a, crs);
    close_pkg(a, device);
}

/* Name (_S5, Package (4) {0, 0, 0, 0}): soft off is SLP_TYP 0, as the PIIX4 has it. */
static void put_s5(struct aml *a) {
    put_name(a, "_S5_");
    put(a, 0x12);
    u32 package = open_pkg(a);
    put(a, 4);
    for (unsigned i = 0; i < 4; i++)
        put_integer(a, 0);
    close_pkg(a, package);
}

/* _PRT: pin A of device 1 (power management) is wired to the SCI's line. */
static void put_prt(struct aml *a) {
    put_name(a, "_PRT");
    put(a, 0x12);
    u32 table = open_pkg(a);
    put(a, 1);
    put(a, 0x12);
    u32 entry = open_pkg(a);
    put(a, 4);
    put_integer(a, 0x0001ffff);
    put_integer(a, 0);
    put_integer(a, 0);
    put_integer(a, DEV_SCI_IRQ);
    close_pkg(a, entry);
    close_pkg(a, table);
}

static void put_root_bridge(struct aml *a, const struct dev_config *config) {
    u32 bridge = open_device(a, "PCI0");
    name_hid(a, "PNP0A03");
    name_integer(a, "_UID", 0);
    struct crs crs = open_crs(a);
    crs_word_range(a, 2, 0, 0, 0xff); /* bus numbers */
    crs_io(a, 0xcf8, 8);              /* its own configuration ports */
    crs_word_range(a, 1, 3, 0x0000, 0x0cf7);
    crs_word_range(a, 1, 3, 0x0d00, 0xffff);
    crs_memory_range(a, 3, 0xa0000, 0xbffff); /* cacheable, read-write */
    crs_memory_range(a, 1, PCI_HOLE_START, PCI_HOLE_END);
    close_crs(a, crs);
    put_prt(a);
    u32 isa = open_device(a, "ISA_");
    name_integer(a, "_ADR", 0x00010000);
    for (unsigned i = 0; i < ARRAY_LEN(isa_devices); i++) {
        const struct isa_device *d = &isa_devices[i];
        if (d->serial < 0 || config->serial[d->serial].write)
            put_isa_device(a, d);
    }
    close_pkg(a, isa);
    close_pkg(a, bridge);
}

/* ---- Tables ---- */

static u8 checksum(const u8 *table, u32 bytes) {
    u8 sum = 0;
    for (u32 i = 0; i < bytes; i++)
        sum = (u8)(sum + table[i]);
    return (u8)-sum;
}

static void put_header(u8 *table, const char *signature, u32 bytes, u8 revision) {
    memcpy(table, signature, 4);
    store32(table + 4, bytes);
    table[8] = revision;
    memcpy(table + 10, "RINGFD", 6);
    memcpy(table + 16, "RINGFOLD", 8);
    store32(table + 24, 1);
    memcpy(table + 28, "RFLD", 4);
    store32(table + 32, 1);
    table[9] = checksum(table, bytes);
}

/* Generic Address Structure in I/O space; access: 1 byte, 2 word, 3 dword. */
static void put_io_address(u8 *at, u8 bits, u8 access, u16 port) {
    at[0] = 1;
    at[1] = bits;
    at[3] = access;
    store64(at + 4, port);
}

static void put_fadt(u8 *t, bool apic) {
    store32(t + 36, FACS_AT);
    store32(t + 40, DSDT_AT);
    t[45] = 1; /* desktop */
    store16(t + 46, DEV_SCI_IRQ);
    store32(t + 48, DEV_SMI_CMD);
    t[52] = DEV_ACPI_ENABLE;
    t[53] = DEV_ACPI_DISABLE;
    store32(t + 56, DEV_PM_BASE);        /* PM1a event block */
    store32(t + 64, DEV_PM_BASE + 0x04); /* PM1a control block */
    store32(t + 76, DEV_PM_BASE + 0x08); /* PM timer */
    store32(t + 80, DEV_PM_BASE + 0x0c); /* GPE0 */
    t[88] = 4;
    t[89] = 2;
    t[91] = 4;
    t[92] = 4;
    store16(t + 96, 0xfff); /* no C2, no C3 */
    store16(t + 98, 0xfff);
    t[108] = DEV_RTC_CENTURY;
    /* Legacy devices, 8042, no VGA; without a local APIC no MSI. */
    store16(t + 109, apic ? 0x07 : 0x0f);
    /* WBINVD works, C1 works, no fixed power and sleep buttons, RTC cannot wake, 24-bit timer,
     * the reset register is there. */
    store32(t + 112, BIT(0) | BIT(2) | BIT(4) | BIT(5) | BIT(6) | BIT(10));
    put_io_address(t + 116, 8, 1, 0xcf9);
    t[128] = 0x06;
    store64(t + 140, DSDT_AT);
    put_io_address(t + 148, 32, 2, DEV_PM_BASE);
    put_io_address(t + 172, 16, 2, DEV_PM_BASE + 0x04);
    put_io_address(t + 208, 32, 3, DEV_PM_BASE + 0x08);
    put_io_address(t + 220, 32, 1, DEV_PM_BASE + 0x0c);
    put_header(t, "FACP", FADT_BYTES, 3);
}

/* ACPI 3.0, section 5.2.11 "Multiple APIC Description Table (MADT)". */
static void put_madt(u8 *t) {
    static const u8 structures[] = {
        0,
        8,
        0,
        0,
        1,
        0,
        0,
        0, /* processor 0 has local APIC 0, enabled */
        2,
        10,
        0,
        0,
        DEV_IOAPIC_TIMER_PIN,
        0,
        0,
        0,
        0,
        0, /* ISA line 0, as the bus has it */
        2,
        10,
        0,
        DEV_SCI_IRQ,
        DEV_SCI_IRQ,
        0,
        0,
        0,
        0xd,
        0, /* SCI: level, active high */
        4,
        6,
        0xff,
        0,
        0,
        1, /* NMI at every processor's LINT1 */
        1,
        12,
        DEV_IOAPIC_ID,
        0, /* the I/O APIC: address, first interrupt */
    };
    store32(t + 36, DEV_APIC_BASE);
    store32(t + 40, 1); /* 8259s are there, too */
    memcpy(t + 44, structures, sizeof structures);
    store32(t + 44 + sizeof structures, DEV_IOAPIC_BASE);
    store32(t + 48 + sizeof structures, 0);
    put_header(t, "APIC", 52 + sizeof structures, 1);
}

static void put_dsdt(u8 *table, u32 room, const struct dev_config *config) {
    struct aml a = {.code = table, .used = HEADER_BYTES, .room = room};
    put_s5(&a);
    put(&a, 0x10);
    u32 scope = open_pkg(&a);
    put_text(&a, "_SB_");
    put_root_bridge(&a, config);
    close_pkg(&a, scope);
    RF_ASSERT(!a.overflow); /* depends on nothing that a guest controls */
    put_header(table, "DSDT", a.used, 1);
}

void dev_acpi_place_tables(struct machine_devices *m) {
    const struct dev_config *c = &m->config;
    if (!c->ram || c->ram_bytes < TABLES_END)
        return;
    u8 *ram = c->ram;
    memset(ram + RSDP_AT, 0, TABLES_END - RSDP_AT);

    put_dsdt(ram + DSDT_AT, TABLES_END - DSDT_AT, c);
    memcpy(ram + FACS_AT, "FACS", 4);
    store32(ram + FACS_AT + 4, FACS_BYTES);
    put_fadt(ram + FADT_AT, c->apic.present);
    store32(ram + RSDT_AT + HEADER_BYTES, FADT_AT);
    if (c->apic.present) {
        put_madt(ram + MADT_AT);
        store32(ram + RSDT_AT + HEADER_BYTES + 4, MADT_AT);
    }
    put_header(ram + RSDT_AT, "RSDT", HEADER_BYTES + (c->apic.present ? 8 : 4), 1);

    u8 *rsdp = ram + RSDP_AT;
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, "RINGFD", 6);
    store32(rsdp + 16, RSDT_AT);
    rsdp[8] = checksum(rsdp, 20);
    if (c->dma_written)
        c->dma_written(c->dma_opaque, GPA(RSDP_AT), TABLES_END - RSDP_AT);
}
