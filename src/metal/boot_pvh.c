/*
 * boot_pvh.c: reads what a PVH loader (Xen, QEMU, Firecracker, Cloud Hypervisor) leaves in memory.
 * Most of these load one module only, so a module that is a cpio archive stands for its members.
 */
#include "metal/boot_internal.h"

#include <stdlib.h>

/* Xen, public/arch-x86/hvm/start_info.h: struct hvm_start_info, hvm_modlist_entry and
 * hvm_memmap_table_entry. */
enum { INFO_VERSION = 4, INFO_MODULES = 12, INFO_MODULES_AT = 16, INFO_COMMAND_LINE = 24 };
enum { INFO_RSDP = 32, INFO_MAP_AT = 40, INFO_MAP_ENTRIES = 48 };
enum { MODULE_AT = 0, MODULE_BYTES = 8, MODULE_COMMAND_LINE = 16, MODULE_ENTRY_BYTES = 32 };

/* ---- cpio, "newc": a header of 110 characters, the name, the data, both padded to 4 bytes ---- */

enum { CPIO_HEADER_BYTES = 110, CPIO_FIRST_FIELD = 6, CPIO_FILE_BYTES = 6, CPIO_NAME_BYTES = 11 };

static bool is_cpio(const char *p, u64 bytes) {
    return bytes >= CPIO_HEADER_BYTES && memcmp(p, "070701", 6) == 0;
}

/* Field number n of a header: eight hexadecimal digits. */
static u64 cpio_field(const char *header, unsigned n) {
    char digits[9] = {0};
    memcpy(digits, header + CPIO_FIRST_FIELD + 8 * n, 8);
    return strtoul(digits, NULL, 16);
}

/* Every member of the archive becomes a module where it lies. */
static void unpack_cpio(struct metal_boot_info *out, u64 phys, u64 bytes) {
    const char *archive = metal_phys_pointer(phys);
    for (u64 at = 0;;) {
        if (!is_cpio(archive + at, bytes - at))
            metal_fatal("pvh: the archive of modules is damaged at byte %llu",
                        (unsigned long long)at);
        u64 name_bytes = cpio_field(archive + at, CPIO_NAME_BYTES);
        u64 file_bytes = cpio_field(archive + at, CPIO_FILE_BYTES);
        const char *name = archive + at + CPIO_HEADER_BYTES;
        u64 data = ALIGN_UP(at + CPIO_HEADER_BYTES + name_bytes, 4);
        u64 next = ALIGN_UP(data + file_bytes, 4);
        if (data > bytes || data + file_bytes > bytes || !name_bytes || name[name_bytes - 1])
            metal_fatal("pvh: the archive of modules is cut off at byte %llu",
                        (unsigned long long)at);
        if (strcmp(name, "TRAILER!!!") == 0)
            return;
        boot_add_module(out, name, phys + data, phys + data + file_bytes);
        at = MIN(next, bytes);
    }
}

static void read_modules(struct metal_boot_info *out, const u8 *info) {
    const u8 *entry = metal_phys_pointer(load64(info + INFO_MODULES_AT));
    for (u32 i = 0; i < load32(info + INFO_MODULES); i++, entry += MODULE_ENTRY_BYTES) {
        u64 phys = load64(entry + MODULE_AT), bytes = load64(entry + MODULE_BYTES);
        u64 line = load64(entry + MODULE_COMMAND_LINE);
        if (phys + bytes > 1ull << 32)
            metal_fatal("pvh: module %u lies above 4 GiB", i);
        if (i == 0 && is_cpio(metal_phys_pointer(phys), bytes))
            unpack_cpio(out, phys, bytes);
        else
            boot_add_module(out, line ? metal_phys_pointer(line) : "", phys, phys + bytes);
    }
}

void boot_pvh(struct metal_boot_info *out, const u8 *info) {
    if (load32(info) != 0x336ec578)
        metal_fatal("pvh: no start information");
    u64 line = load64(info + INFO_COMMAND_LINE);
    if (line)
        out->boot.command_line = boot_copy_string(metal_phys_pointer(line));
    out->boot.rsdp = load64(info + INFO_RSDP);
    if (load32(info + INFO_VERSION) >= 1) {
        const u8 *entry = metal_phys_pointer(load64(info + INFO_MAP_AT));
        for (u32 n = load32(info + INFO_MAP_ENTRIES); n > 0; n--, entry += 24)
            boot_add_range(out, load64(entry), load64(entry + 8), load32(entry + 16));
    }
    read_modules(out, info);
}
