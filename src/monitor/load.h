/*
 * load.h: internal to the loaders: the fixed places in low memory and the two boot protocols.
 */
#ifndef RINGFOLD_MONITOR_LOAD_H
#define RINGFOLD_MONITOR_LOAD_H

#include "monitor/monitor.h"

enum { E820_RAM = 1, E820_RESERVED = 2 };
#define LOW_RAM_END 0x9fc00u /* below it: RAM; then 1 KiB of EBDA */
#define HIGH_RAM_BASE 0x100000u

/* Flat 4 GiB segments, protected mode on, paging and interrupts off: the entry state of both
 * protocols. */
void mon_flat_segments(struct cpu *cpu, u16 code, u16 data);

/* Linux's boot protocol (load_bzimage.c). */
bool mon_bzimage_recognise(const struct mon_file *f);
bool mon_bzimage_check(const struct mon_file *f, struct mon_error *err);
bool mon_bzimage_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                      struct mon_error *err);

/* Multiboot 1 (load_multiboot.c). */
bool mon_multiboot_check(const struct mon_file *f, u32 *header_offset, struct mon_error *err);
bool mon_multiboot_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                        struct mon_error *err);

#endif
