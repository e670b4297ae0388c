/*
 * firmware.c: what firmware and test kernels find instead of a BIOS of our own: the ROM of -bios,
 * and the items of fw_cfg (kernel, initrd, command line, files).
 *
 * The ROM lies read-only below 4 GiB; its last 128 KiB are copied to below 1 MiB, where the RAM is
 * read-only until the firmware opens it through the host bridge's PAM registers.
 * Source: QEMU's docs/specs/fw_cfg; for the kernel's items, Linux's Documentation/x86/boot.rst,
 * "The Real-Mode Kernel Header", and what QEMU's linuxboot ROM expects.
 */
#include "monitor/load.h"
#include "monitor/vm.h"

#include <stdio.h>
#include <stdlib.h>

#define ROM_UNIT_BYTES 0x10000u
#define ROM_MAX_BYTES 0x40000u
#define LOW_ALIAS_BYTES 0x20000u
#define ACPI_RESERVE_BYTES 0x28000u /* what firmware may keep at the end of RAM for its tables */

/* ---- Items ---- */

static bool add_item(struct mon_firmware *f, u16 key, const char *name, const void *data,
                     u64 bytes) {
    RF_ASSERT(f->items < ARRAY_LEN(f->item));
    f->item[f->items++] = (struct dev_fw_cfg_item){key, name, data, (u32)bytes};
    return true;
}

static void add_u32(struct mon_firmware *f, u16 key, u32 value) {
    u8 *at = f->value[f->values++];
    store32(at, value);
    add_item(f, key, NULL, at, 4);
}

/* Where a kernel of that protocol version wants its parts: real-mode code, command line, the rest.
 */
struct kernel_places {
    u32 setup, cmdline, kernel;
};
static struct kernel_places kernel_places(u16 protocol, bool high, u32 cmdline_bytes) {
    if (protocol >= 0x202 && high)
        return (struct kernel_places){0x10000, 0x20000, 0x100000};
    return (struct kernel_places){0x90000, 0x9a000 - cmdline_bytes, high ? 0x100000 : 0x10000};
}

/* 0: it does not fit. */
static u32 initrd_place(const u8 *setup, u16 protocol, u64 ram_bytes, u64 initrd_bytes) {
    u64 max = protocol >= 0x203 ? load32(setup + 0x22c) : 0x37ffffff;
    if (ram_bytes < ACPI_RESERVE_BYTES + initrd_bytes + HIGH_RAM_BASE)
        return 0;
    max = MIN(max, ram_bytes - ACPI_RESERVE_BYTES - 1);
    return (u32)((max - MIN(max, initrd_bytes)) & ~(u64)PAGE_OFFSET_MASK);
}

/* Fills in the header as a boot loader does. */
static void patch_setup(u8 *setup, u16 protocol, const struct kernel_places *at, u32 initrd,
                        u32 initrd_bytes) {
    if (protocol >= 0x202) {
        store32(setup + 0x228, at->cmdline);
    } else {
        store16(setup + 0x20, 0xa33f);
        store16(setup + 0x22, (u16)(at->cmdline - at->setup));
    }
    setup[0x210] = 0xb0; /* the loader's type, QEMU's */
    if (protocol >= 0x201) {
        setup[0x211] |= 0x80; /* there is a heap */
        store16(setup + 0x224, (u16)(at->cmdline - at->setup - 0x200));
    }
    store32(setup + 0x218, initrd);
    store32(setup + 0x21c, initrd_bytes);
}

static bool add_kernel(struct mon_firmware *f, const struct mon_image *image, u64 ram_bytes,
                       struct mon_error *err) {
    const struct mon_file *k = &image->kernel;
    u32 setup_bytes = ((k->data[0x1f1] ? k->data[0x1f1] : 4) + 1u) * 512;
    u16 protocol = load16(k->data + 0x206);
    u32 cmdline_bytes = (u32)strlen(image->append) + 1;
    RF_ASSERT(setup_bytes <= k->bytes); /* mon_bzimage_check saw to it */
    struct kernel_places at = kernel_places(protocol, k->data[0x211] & 1, cmdline_bytes);
    f->setup = malloc(setup_bytes);
    if (!f->setup)
        return mon_fail(err, "out of memory for the kernel's header");
    memcpy(f->setup, k->data, setup_bytes);
    u32 initrd = 0, initrd_bytes = 0;
    if (image->modules) {
        const struct mon_file *i = &image->module[0].file;
        initrd_bytes = (u32)i->bytes;
        initrd = initrd_place(f->setup, protocol, ram_bytes, initrd_bytes);
        if (!initrd && f->rom.data) /* without firmware the loader says it */
            return mon_fail(err, "the initrd '%s' does not fit into %llu MiB of RAM", i->name,
                            (unsigned long long)(ram_bytes >> 20));
        add_u32(f, DEV_FW_CFG_INITRD_ADDR, initrd);
        add_u32(f, DEV_FW_CFG_INITRD_SIZE, initrd_bytes);
        add_item(f, DEV_FW_CFG_INITRD_DATA, NULL, i->data, initrd_bytes);
    }
    patch_setup(f->setup, protocol, &at, initrd, initrd_bytes);
    add_u32(f, DEV_FW_CFG_CMDLINE_ADDR, at.cmdline);
    add_u32(f, DEV_FW_CFG_CMDLINE_SIZE, cmdline_bytes);
    add_item(f, DEV_FW_CFG_CMDLINE_DATA, NULL, image->append, cmdline_bytes);
    add_u32(f, DEV_FW_CFG_KERNEL_ADDR, at.kernel);
    add_u32(f, DEV_FW_CFG_KERNEL_SIZE, (u32)(k->bytes - setup_bytes));
    add_item(f, DEV_FW_CFG_KERNEL_DATA, NULL, k->data + setup_bytes, k->bytes - setup_bytes);
    add_u32(f, DEV_FW_CFG_SETUP_ADDR, at.setup);
    add_u32(f, DEV_FW_CFG_SETUP_SIZE, setup_bytes);
    return add_item(f, DEV_FW_CFG_SETUP_DATA, NULL, f->setup, setup_bytes);
}

static bool name_is_taken(const struct mon_firmware *f, const char *name) {
    for (unsigned i = 0; i < f->items; i++)
        if (f->item[i].name && !strcmp(f->item[i].name, name))
            return true;
    return false;
}

static bool add_file(struct mon_firmware *f, const char *option, struct mon_error *err) {
    struct mon_firmware_file *file = &f->file[f->files++];
    struct mon_error why;
    mon_fw_cfg_parse(option, &file->option, err); /* the command line was checked */
    const struct mon_fw_cfg_option *o = &file->option;
    if (name_is_taken(f, o->name))
        return mon_fail(err, "duplicate fw_cfg file name: %s", o->name);
    if (!o->is_file)
        return add_item(f, 0, o->name, o->value, strlen(o->value));
    if (!mon_file_read(&file->content, o->value, &why))
        return mon_fail(err, "-fw_cfg: can't load '%s': %s", o->value, why.text);
    return add_item(f, 0, o->name, file->content.data, file->content.bytes);
}

/* ---- The whole ---- */

static bool read_rom(struct mon_firmware *f, const char *name, struct mon_error *err) {
    struct mon_error why;
    if (!mon_file_read(&f->rom, name, &why))
        return mon_fail(err, "could not load PC BIOS '%s': %s", name, why.text);
    u64 bytes = f->rom.bytes;
    if (!bytes || bytes > ROM_MAX_BYTES || bytes % ROM_UNIT_BYTES)
        return mon_fail(err,
                        "could not load PC BIOS '%s': %llu bytes; a ROM has 64, 128, 192 or 256 "
                        "KiB",
                        name, (unsigned long long)bytes);
    return true;
}

bool mon_firmware_open(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    struct mon_firmware *f = &vm->firmware;
    if (o->bios && !read_rom(f, o->bios, err))
        return false;
    if (o->bios && o->kernel && vm->image.kind != MON_KERNEL_BZIMAGE)
        return mon_fail(err,
                        "-bios: firmware gets Linux kernels only; '%s' is a Multiboot kernel, "
                        "which starts without -bios",
                        o->kernel);
    if (o->kernel && vm->image.kind == MON_KERNEL_BZIMAGE &&
        !add_kernel(f, &vm->image, o->ram_bytes, err))
        return false;
    store64(f->e820 + 8, o->ram_bytes);
    store32(f->e820 + 16, E820_RAM);
    add_item(f, 0, "etc/e820", f->e820, sizeof f->e820);
    add_item(f, 0, "bootorder", "", 0);
    f->file = o->fw_cfg_count ? calloc(o->fw_cfg_count, sizeof *f->file) : NULL;
    if (o->fw_cfg_count && !f->file)
        return mon_fail(err, "out of memory for -fw_cfg");
    for (unsigned i = 0; i < o->fw_cfg_count; i++)
        if (!add_file(f, o->fw_cfg[i], err))
            return false;
    return true;
}

void mon_firmware_close(struct vm *vm) {
    struct mon_firmware *f = &vm->firmware;
    mon_file_free(&f->rom);
    for (unsigned i = 0; i < f->files; i++)
        mon_file_free(&f->file[i].content);
    free(f->file);
    free(f->setup);
}

static u32 low_alias_bytes(const struct mon_firmware *f) {
    return (u32)MIN(f->rom.bytes, (u64)LOW_ALIAS_BYTES);
}

bool mon_firmware_place(struct vm *vm) {
    const struct mon_firmware *f = &vm->firmware;
    if (!f->rom.data)
        return false;
    u32 bytes = low_alias_bytes(f), base = HIGH_RAM_BASE - bytes;
    mmu_set_rom(vm->mmu, f->rom.data, (u32)f->rom.bytes);
    memcpy(mmu_ram(vm->mmu) + base, f->rom.data + f->rom.bytes - bytes, bytes);
    mmu_ram_set_read_only(vm->mmu, GPA(base), bytes, true);
    return true;
}

void mon_firmware_shadow(struct vm *vm, struct gpa addr, u64 bytes, bool writable) {
    u64 first = MAX(addr.v, (u64)HIGH_RAM_BASE - low_alias_bytes(&vm->firmware));
    if (first < addr.v + bytes)
        mmu_ram_set_read_only(vm->mmu, GPA(first), addr.v + bytes - first, !writable);
}
