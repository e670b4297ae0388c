/*
 * boot_internal.h: what the boot protocols tell memory and paging, and how those come up. boot.c
 * drives it; metal_internal.h has the rest of the start-up order.
 */
#ifndef RINGFOLD_METAL_BOOT_INTERNAL_H
#define RINGFOLD_METAL_BOOT_INTERNAL_H

#include "metal/metal.h"

enum metal_range_kind {
    RANGE_USABLE,
    RANGE_ACPI, /* tables in RAM: mapped as memory, never handed out */
    RANGE_OTHER /* reserved, devices, broken */
};
struct metal_range {
    u64 start, end; /* physical, end excluded; as the loader told them */
    enum metal_range_kind kind;
};
#define METAL_MAX_RANGES 128

struct metal_boot_info {
    struct metal_boot boot;
    unsigned ranges;
    struct metal_range range[METAL_MAX_RANGES];
};

/* Parsers of what a loader left at `info`, below 4 GiB. They copy all strings; what is wrong ends
 * in metal_fatal. */
void boot_multiboot1(struct metal_boot_info *out, const u8 *info);
void boot_multiboot2(struct metal_boot_info *out, const u8 *info);
void boot_pvh(struct metal_boot_info *out, const u8 *info);

/* For the parsers. */
void boot_add_range(struct metal_boot_info *out, u64 start, u64 bytes, u32 e820_type);
void boot_add_module(struct metal_boot_info *out, const char *name, u64 start, u64 end);
/* A copy that lasts. */
const char *boot_copy_string(const char *s);

/* libc.c: TLS block and locale; snprintf works from here on. */
void metal_libc_init(void);
/* memory.c: needs the first 4 GiB in the direct map. */
void metal_memory_init(const struct metal_boot_info *info);
/* paging.c: the final page tables, CR0 and CR4. */
void metal_paging_init(const struct metal_boot_info *info);

/* image.ld: the image's parts, page aligned. */
extern const u8 metal_text_start[], metal_text_end[], metal_rodata_end[], metal_data_end[];
/* End of all that the loader placed, the symbol table included. */
u64 metal_image_end_phys(void);

#endif
