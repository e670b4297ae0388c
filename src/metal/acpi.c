/*
 * acpi.c: the few facts of the ACPI tables that switching off needs, read once at start: where the
 * sleep registers are, and what \_S5_ says to write there. There is no AML interpreter: \_S5_ is a
 * package of constants in every machine's tables, so that its bytes can be found and read as they
 * stand.
 * Source: ACPI 6.5, sections 5.2.5 "Root System Description Pointer (RSDP)", 5.2.9 "Fixed ACPI
 * Description Table (FADT)" and 20.2 "AML Grammar Definition".
 */
#include "metal/metal_internal.h"

enum { HEADER_BYTES = 36, RSDP_BYTES = 20, GAS_BYTES = 12 };

static struct metal_acpi acpi;

const struct metal_acpi *metal_acpi(void) {
    return &acpi;
}

static bool sums_to_zero(const u8 *p, u64 bytes) {
    u8 sum = 0;
    while (bytes--)
        sum = (u8)(sum + *p++);
    return sum == 0;
}

static const u8 *rsdp_at(u64 phys) {
    if (!metal_phys_mapped(phys, RSDP_BYTES))
        return NULL;
    const u8 *p = metal_phys_pointer(phys);
    return !memcmp(p, "RSD PTR ", 8) && sums_to_zero(p, RSDP_BYTES) ? p : NULL;
}

/* On a PC: the first KiB of the extended BIOS data area, then E0000h-FFFFFh. Section 5.2.5.1. */
static const u8 *search_rsdp(void) {
    if (!metal_phys_mapped(0, 0x100000))
        return NULL;
    u64 ebda = (u64)load16(metal_phys_pointer(0x40e)) << 4;
    const u8 *p = NULL;
    for (u64 at = ebda; ebda >= 0x400 && at < ebda + 1024 && !p; at += 16)
        p = rsdp_at(at);
    for (u64 at = 0xe0000; at < 0x100000 && !p; at += 16)
        p = rsdp_at(at);
    return p;
}

/* The table there, its length and checksum being right; its length is then in the header. */
static const u8 *table_at(u64 phys) {
    if (!phys || !metal_phys_mapped(phys, HEADER_BYTES))
        return NULL;
    const u8 *p = metal_phys_pointer(phys);
    u32 bytes = load32(p + 4);
    if (bytes < HEADER_BYTES || !metal_phys_mapped(phys, bytes) || !sums_to_zero(p, bytes))
        return NULL;
    return p;
}

/* Section 20.2.4 "Package Length Encoding": the bytes it takes, 0 when cut off. */
static unsigned package_length_bytes(const u8 *p, const u8 *end) {
    unsigned bytes = p < end ? 1 + (*p >> 6) : 0;
    return bytes <= (u64)(end - p) ? bytes : 0;
}

/* Section 20.2.3 "Data Objects Encoding": a constant, of which only the low byte counts here. */
static const u8 *constant(const u8 *p, const u8 *end, u8 *value) {
    if (p >= end)
        return NULL;
    unsigned payload;
    switch (*p) {
    case 0x00: /* ZeroOp */
    case 0x01: /* OneOp */
        *value = *p;
        return p + 1;
    case 0x0a: /* BytePrefix */
        payload = 1;
        break;
    case 0x0b: /* WordPrefix */
        payload = 2;
        break;
    case 0x0c: /* DWordPrefix */
        payload = 4;
        break;
    default:
        return NULL;
    }
    if ((u64)(end - p) < 1 + payload)
        return NULL;
    *value = p[1];
    return p + 1 + payload;
}

/* Name (\_S5_, Package (n) {typ_a, typ_b, ...}) behind its name. */
static bool parse_s5(const u8 *p, const u8 *end, u8 *typ_a, u8 *typ_b) {
    enum { PACKAGE_OP = 0x12 };
    if (p >= end || *p++ != PACKAGE_OP)
        return false;
    unsigned length_bytes = package_length_bytes(p, end);
    if (!length_bytes)
        return false;
    p += length_bytes;
    if (p >= end || *p++ < 1)
        return false;
    p = constant(p, end, typ_a);
    if (!p || *typ_a > 7)
        return false;
    if (!constant(p, end, typ_b) || *typ_b > 7)
        *typ_b = *typ_a;
    return true;
}

bool metal_acpi_find_s5(const u8 *aml, u64 bytes, u8 *typ_a, u8 *typ_b) {
    enum { NAME_OP = 0x08, ROOT = '\\' };
    for (u64 i = 1; i + 4 <= bytes; i++) {
        if (memcmp(aml + i, "_S5_", 4))
            continue;
        bool named =
            aml[i - 1] == NAME_OP || (aml[i - 1] == ROOT && i >= 2 && aml[i - 2] == NAME_OP);
        if (named && parse_s5(aml + i + 4, aml + bytes, typ_a, typ_b))
            return true;
    }
    return false;
}

/* Field of a table if the table reaches that far, else 0. */
static u64 field(const u8 *table, u32 offset, unsigned bytes) {
    if (load32(table + 4) < offset + bytes)
        return 0;
    return bytes == 1   ? table[offset]
           : bytes == 2 ? load16(table + offset)
           : bytes == 4 ? load32(table + offset)
                        : load64(table + offset);
}

/* The port of a control block: the old field, or the generic address where that is empty. */
static u16 control_port(const u8 *fadt, u32 offset, u32 generic_offset) {
    u64 port = field(fadt, offset, 4);
    if (!port && field(fadt, generic_offset, 1) == 1) /* system I/O space */
        port = field(fadt, generic_offset + 4, 8);
    return port <= 0xffff ? (u16)port : 0;
}

static void read_sleep_control(const u8 *fadt) {
    enum { FLAGS = 112, HW_REDUCED = 1 << 20, SLEEP_CONTROL = 244 };
    enum { SYSTEM_MEMORY = 0, SYSTEM_IO = 1 };
    if (!(field(fadt, FLAGS, 4) & HW_REDUCED) || load32(fadt + 4) < SLEEP_CONTROL + GAS_BYTES)
        return;
    u8 space = fadt[SLEEP_CONTROL];
    u64 address = load64(fadt + SLEEP_CONTROL + 4);
    if ((space == SYSTEM_IO && address <= 0xffff) ||
        (space == SYSTEM_MEMORY && metal_phys_mapped(address, 1))) {
        acpi.sleep_space = space;
        acpi.sleep_control = address;
    }
}

static void read_fadt(const u8 *fadt) {
    acpi.smi_command = (u16)field(fadt, 48, 4);
    acpi.acpi_enable = (u8)field(fadt, 52, 1);
    acpi.pm1a_control = control_port(fadt, 64, 172);
    acpi.pm1b_control = control_port(fadt, 68, 184);
    acpi.century = (u8)field(fadt, 108, 1);
    read_sleep_control(fadt);
    const u8 *dsdt = table_at(field(fadt, 40, 4));
    if (!dsdt)
        dsdt = table_at(field(fadt, 140, 8));
    if (dsdt)
        acpi.found = metal_acpi_find_s5(dsdt + HEADER_BYTES, load32(dsdt + 4) - HEADER_BYTES,
                                        &acpi.slp_typ_a, &acpi.slp_typ_b);
}

/* Every table with that signature, in the order of the root table. */
static void each_table(const u8 *root, unsigned entry_bytes, const char *signature,
                       void (*use)(const u8 *table)) {
    for (u32 at = HEADER_BYTES; at + entry_bytes <= load32(root + 4); at += entry_bytes) {
        const u8 *table = table_at(field(root, at, entry_bytes));
        if (table && !memcmp(table, signature, 4))
            use(table);
    }
}

static void read_ssdt(const u8 *ssdt) {
    if (!acpi.found)
        acpi.found = metal_acpi_find_s5(ssdt + HEADER_BYTES, load32(ssdt + 4) - HEADER_BYTES,
                                        &acpi.slp_typ_a, &acpi.slp_typ_b);
}

void metal_acpi_init(u64 rsdp) {
    const u8 *pointer = rsdp ? rsdp_at(rsdp) : NULL;
    if (!pointer)
        pointer = search_rsdp();
    if (!pointer)
        return;
    unsigned entry_bytes = 8;
    const u8 *root = pointer[15] >= 2 ? table_at(load64(pointer + 24)) : NULL; /* XSDT */
    if (!root) {
        entry_bytes = 4;
        root = table_at(load32(pointer + 16)); /* RSDT */
    }
    if (!root)
        return;
    each_table(root, entry_bytes, "FACP", read_fadt);
    each_table(root, entry_bytes, "SSDT", read_ssdt);
}
