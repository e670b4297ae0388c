/*
 * boot_multiboot.c: reads what Multiboot 1 loaders (QEMU's -kernel, GRUB) and Multiboot 2 loaders
 * (GRUB, on BIOS and UEFI) leave in memory.
 */
#include "metal/boot_internal.h"

/* ---- "Multiboot Specification version 0.6.96", section 3.3 "Boot information format" ---- */

enum { MB1_FLAGS = 0, MB1_COMMAND_LINE = 16, MB1_MODULES = 20, MB1_MODULES_AT = 24 };
enum { MB1_MAP_BYTES = 44, MB1_MAP_AT = 48, MB1_LOADER_NAME = 64 };
enum { MB1_HAS_COMMAND_LINE = 4, MB1_HAS_MODULES = 8, MB1_HAS_MAP = 64, MB1_HAS_LOADER = 512 };

static const char *string_at(u32 phys) {
    return phys ? metal_phys_pointer(phys) : "";
}

/* QEMU, as GRUB Legacy did, begins the line with the image's file name; GRUB 2 leaves it out. */
static const char *without_image_name(const char *line, const char *loader) {
    if (strncmp(loader, "GRUB 2", 6) == 0)
        return line;
    line += strcspn(line, " ");
    return line + strspn(line, " ");
}

void boot_multiboot1(struct metal_boot_info *out, const u8 *info) {
    u32 flags = load32(info + MB1_FLAGS);
    const char *loader = flags & MB1_HAS_LOADER ? string_at(load32(info + MB1_LOADER_NAME)) : "";
    if (flags & MB1_HAS_COMMAND_LINE) {
        const char *line = string_at(load32(info + MB1_COMMAND_LINE));
        out->boot.command_line = boot_copy_string(without_image_name(line, loader));
    }
    if (flags & MB1_HAS_MODULES) {
        const u8 *entry = metal_phys_pointer(load32(info + MB1_MODULES_AT));
        for (u32 n = load32(info + MB1_MODULES); n > 0; n--, entry += 16)
            boot_add_module(out, string_at(load32(entry + 8)), load32(entry), load32(entry + 4));
    }
    if (!(flags & MB1_HAS_MAP))
        return;
    /* An entry's size field does not count itself. */
    const u8 *p = metal_phys_pointer(load32(info + MB1_MAP_AT));
    const u8 *end = p + load32(info + MB1_MAP_BYTES);
    for (; p + 24 <= end; p += 4 + load32(p))
        boot_add_range(out, load64(p + 4), load64(p + 12), load32(p + 20));
}

/* ---- "Multiboot2 Specification version 2.0", section 3.6 "Boot information format" ---- */

enum {
    MB2_END = 0,
    MB2_COMMAND_LINE = 1,
    MB2_MODULE = 3,
    MB2_MAP = 6,
    MB2_OLD_RSDP = 14,
    MB2_NEW_RSDP = 15
};

static void read_map(struct metal_boot_info *out, const u8 *tag, u32 bytes) {
    u32 entry_bytes = load32(tag + 8);
    if (entry_bytes < 24)
        metal_fatal("multiboot2: memory map entries of %u bytes", entry_bytes);
    for (u32 at = 16; at + entry_bytes <= bytes; at += entry_bytes)
        boot_add_range(out, load64(tag + at), load64(tag + at + 8), load32(tag + at + 16));
}

/* The tag holds a copy of the RSDP, which must outlive the boot information. The newer one wins. */
static void keep_rsdp(struct metal_boot_info *out, const u8 *tag, u32 bytes, bool newer) {
    static u8 copy[64] __attribute__((aligned(16)));
    if (out->boot.rsdp && !newer)
        return;
    memcpy(copy, tag + 8, MIN(bytes - 8, sizeof copy));
    out->boot.rsdp = metal_pointer_phys(copy);
}

void boot_multiboot2(struct metal_boot_info *out, const u8 *info) {
    const u8 *end = info + load32(info);
    for (const u8 *tag = info + 8; tag + 8 <= end;) {
        u32 type = load32(tag), bytes = load32(tag + 4);
        if (type == MB2_END)
            return;
        if (bytes < 8 || bytes > (size_t)(end - tag))
            metal_fatal("multiboot2: a tag of type %u with %u bytes", type, bytes);
        switch (type) {
        case MB2_COMMAND_LINE:
            out->boot.command_line = boot_copy_string((const char *)tag + 8);
            break;
        case MB2_MODULE:
            boot_add_module(out, (const char *)tag + 16, load32(tag + 8), load32(tag + 12));
            break;
        case MB2_MAP:
            read_map(out, tag, bytes);
            break;
        case MB2_OLD_RSDP:
        case MB2_NEW_RSDP:
            keep_rsdp(out, tag, bytes, type == MB2_NEW_RSDP);
            break;
        }
        tag += ALIGN_UP(bytes, 8);
    }
}
