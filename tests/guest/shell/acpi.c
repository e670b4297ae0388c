/*
 * acpi.c: just enough ACPI to turn the machine off: RSDP, RSDT, FADT, and the _S5_ package of the
 * DSDT. ACPI specification 6.4, sections 5.2.5, 5.2.7, 5.2.9 and 7.4.2.
 */
#include "shell.h"

struct header {
    char signature[4];
    u32 length;
    u8 revision, checksum;
    char oem[6], oem_table[8];
    u32 oem_revision, creator, creator_revision;
} __attribute__((packed));

struct fadt {
    struct header header;
    u32 facs, dsdt;
    u8 model, profile;
    u16 sci;
    u32 smi_command;
    u8 acpi_enable, acpi_disable, s4bios, pstate;
    u32 pm1a_event, pm1b_event, pm1a_control, pm1b_control;
} __attribute__((packed));

static u16 inw(u16 port) {
    u16 value;
    __asm__ volatile("inw %1,%0" : "=a"(value) : "Nd"(port));
    return value;
}

static bool sum_is_zero(const void *at, u32 bytes) {
    u8 sum = 0;
    for (const u8 *p = at; bytes; bytes--)
        sum += *p++;
    return !sum;
}

static const u8 *find_rsdp(u32 from, u32 to) {
    for (u32 p = from & ~15u; p < to; p += 16)
        if (!memcmp((const void *)p, "RSD PTR ", 8) && sum_is_zero((const void *)p, 20))
            return (const u8 *)p;
    return NULL;
}

static const struct fadt *find_fadt(void) {
    /* The address of the word at 40Eh is kept from the compiler, which takes page 0 for a mistake.
     */
    u32 ebda_pointer = 0x40e;
    __asm__("" : "+r"(ebda_pointer));
    u32 ebda = (u32) * (volatile u16 *)ebda_pointer << 4;
    const u8 *rsdp = find_rsdp(0xe0000, 0x100000);
    if (!rsdp && ebda)
        rsdp = find_rsdp(ebda, ebda + 1024);
    if (!rsdp)
        return NULL;
    u32 address;
    memcpy(&address, rsdp + 16, 4);
    const struct header *rsdt = (const struct header *)address;
    if (memcmp(rsdt->signature, "RSDT", 4) || !sum_is_zero(rsdt, rsdt->length))
        return NULL;
    const u8 *entries = (const u8 *)(rsdt + 1);
    for (u32 i = 0; i < (rsdt->length - sizeof *rsdt) / 4; i++) {
        memcpy(&address, entries + 4 * i, 4);
        if (!memcmp((const void *)address, "FACP", 4))
            return (const struct fadt *)address;
    }
    return NULL;
}

/* An integer of the package: ZeroOp, OneOp, BytePrefix or a plain byte. */
static u8 aml_integer(const u8 **at) {
    u8 op = *(*at)++;
    return op == 0x0a ? *(*at)++ : op;
}

/* SLP_TYPa and SLP_TYPb of \_S5_: Name (_S5_, Package () { a, b, ... }). */
static bool find_s5(const struct header *dsdt, u8 *type_a, u8 *type_b) {
    const u8 *end = (const u8 *)dsdt + dsdt->length;
    for (const u8 *p = (const u8 *)(dsdt + 1); p + 8 < end; p++) {
        if (memcmp(p, "_S5_", 4) || p[4] != 0x12)
            continue;
        p += 5;
        p += 1 + (*p >> 6); /* the package's length */
        p++;                /* its number of elements */
        *type_a = aml_integer(&p);
        *type_b = aml_integer(&p);
        return true;
    }
    return false;
}

void acpi_power_off(void) {
    const struct fadt *fadt = find_fadt();
    u8 type_a, type_b;
    if (!fadt || !find_s5((const struct header *)fadt->dsdt, &type_a, &type_b)) {
        print("poweroff: no usable ACPI tables\n");
        return;
    }
    u16 control = (u16)fadt->pm1a_control;
    if (fadt->smi_command && !(inw(control) & 1)) {
        outb((u16)fadt->smi_command, fadt->acpi_enable);
        for (u32 i = 0; i < 100000 && !(inw(control) & 1); i++) {
        }
    }
    outw(control, (u16)((inw(control) & 0xc3ff) | type_a << 10 | 1 << 13));
    if (fadt->pm1b_control)
        outw((u16)fadt->pm1b_control, (u16)(type_b << 10 | 1 << 13));
    print("poweroff: the machine is still on\n");
}
