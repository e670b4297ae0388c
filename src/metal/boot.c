/*
 * boot.c: from the first C function to metal_main: what the boot loader said becomes one struct,
 * whatever its protocol, and the machine's floor comes up in order.
 */
#include "metal/boot_internal.h"
#include "metal/metal_internal.h"

#include <stdio.h>

static struct metal_boot_info info;
static u64 image_end;

const struct metal_boot *metal_boot(void) {
    return &info.boot;
}

u64 metal_image_end_phys(void) {
    return image_end;
}

/* ---- For the protocols' parsers ---- */

const char *boot_copy_string(const char *s) {
    static char text[16384];
    static size_t used;
    size_t bytes = strlen(s) + 1;
    if (bytes > sizeof text - used)
        metal_fatal("the command lines of the image and its modules are too long");
    char *copy = memcpy(text + used, s, bytes);
    used += bytes;
    return copy;
}

/* Types of memory: ACPI specification 6.5, section 15.4 "System Address Map Interfaces", "Address
 * Range Types"; all three protocols use its numbers. */
void boot_add_range(struct metal_boot_info *out, u64 start, u64 bytes, u32 e820_type) {
    if (!bytes)
        return;
    if (start + bytes < start)
        bytes = -start - 1;
    if (out->ranges == METAL_MAX_RANGES)
        metal_fatal("%s: the memory map has more than %u entries", out->boot.loader,
                    METAL_MAX_RANGES);
    struct metal_range *range = &out->range[out->ranges++];
    range->start = start;
    range->end = start + bytes;
    range->kind = e820_type == 1                     ? RANGE_USABLE
                  : e820_type == 3 || e820_type == 4 ? RANGE_ACPI
                                                     : RANGE_OTHER;
}

void boot_add_module(struct metal_boot_info *out, const char *name, u64 start, u64 end) {
    struct metal_boot *boot = &out->boot;
    if (boot->modules == METAL_MAX_MODULES)
        metal_fatal("%s: more than %u modules", boot->loader, METAL_MAX_MODULES);
    struct metal_module *module = &boot->module[boot->modules];
    char numbered[24];
    if (!*name) {
        snprintf(numbered, sizeof numbered, "module %u", boot->modules);
        name = numbered;
    }
    module->name = boot_copy_string(name);
    module->data = metal_phys_pointer(start);
    if (end < start)
        metal_fatal("%s: module %s ends before it starts", boot->loader, module->name);
    module->bytes = end - start;
    boot->modules++;
}

/* ---- Checks that hold for every protocol ---- */

/* Loaders may tell adjacent ranges in several entries, in any order. */
static bool in_usable_memory(u64 start, u64 end) {
    for (unsigned i = 0; i < info.ranges && start < end; i++) {
        const struct metal_range *range = &info.range[i];
        if (range->kind == RANGE_USABLE && start >= range->start && start < range->end) {
            start = range->end;
            i = (unsigned)-1; /* look at all of them again, for the rest */
        }
    }
    return start >= end;
}

static void check_modules(void) {
    for (unsigned i = 0; i < info.boot.modules; i++) {
        const struct metal_module *module = &info.boot.module[i];
        u64 start = (u64)module->data - METAL_DIRECT, end = start + module->bytes;
        if (end > 1ull << 32 || !in_usable_memory(start, end))
            metal_fatal("%s: module %s does not lie in memory below 4 GiB", info.boot.loader,
                        module->name);
        if (start < image_end && end > METAL_CONTAINER)
            metal_fatal("%s: module %s overlaps the monitor's image", info.boot.loader,
                        module->name);
    }
}

static void parse(u32 magic, u32 info_phys) {
    const u8 *p = metal_phys_pointer(info_phys);
    info.boot.command_line = "";
    switch (magic) {
    case 0x2badb002:
        info.boot.loader = "multiboot";
        boot_multiboot1(&info, p);
        break;
    case 0x36d76289:
        info.boot.loader = "multiboot2";
        boot_multiboot2(&info, p);
        break;
    case 0x336ec578:
        info.boot.loader = "pvh";
        boot_pvh(&info, p);
        break;
    default:
        metal_fatal("started by an unknown boot protocol (eax was %xh)", magic);
    }
    if (!info.ranges)
        metal_fatal("%s: the boot loader gave no memory map", info.boot.loader);
    if (!in_usable_memory(METAL_CONTAINER, image_end))
        metal_fatal("%s: the memory map does not cover the image", info.boot.loader);
    check_modules();
    for (unsigned i = 0; i < info.ranges; i++) {
        if (info.range[i].kind == RANGE_USABLE)
            info.boot.memory_bytes += info.range[i].end - info.range[i].start;
    }
}

/* The C library has none that matter; the monitor's fill tables. */
static void run_constructors(void) {
    typedef void (*constructor)(void);
    extern const constructor metal_constructors[], metal_constructors_end[];
    for (const constructor *c = metal_constructors; c < metal_constructors_end; c++)
        (*c)();
}

/* Called by start.S. */
_Noreturn void metal_boot_entry(u32 magic, u32 info_phys, u32 end_phys);
_Noreturn void metal_boot_entry(u32 magic, u32 info_phys, u32 end_phys) {
    image_end = end_phys;
    metal_libc_init();
    metal_console_init();
    metal_descriptors_init();
    parse(magic, info_phys);
    metal_memory_init(&info);
    metal_paging_init(&info);
    metal_power_init();
    metal_traps_init();
    metal_time_init();
    run_constructors();
    __asm__ volatile("sti");
    metal_power_off(metal_main());
}
