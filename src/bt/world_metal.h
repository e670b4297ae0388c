/*
 * world_metal.h: what entry_metal.S and substrate_metal.c share about the world switch. One
 * processor, so one such structure.
 */
#ifndef RINGFOLD_BT_WORLD_METAL_H
#define RINGFOLD_BT_WORLD_METAL_H

#define WORLD_CPU 0         /* struct cpu *: whose guest code runs */
#define WORLD_IS_DIRECT 8   /* u32: the direct GDT is loaded, GS is the application's */
#define WORLD_FS_FOREIGN 12 /* u32: the FS base is not the monitor's */
#define WORLD_MEASURE 16    /* u32: cycles by ring are counted */
#define WORLD_GDT_MONITOR 24
#define WORLD_GDT_DIRECT 40
#define WORLD_DIRECT 2    /* BT_DIRECT */
#define WORLD_EXIT_KICK 2 /* BT_EXIT_KICK */

#ifndef __ASSEMBLER__
#include "base/base.h"

struct cpu;
struct world_gdtr {
    u16 limit;
    u64 base;
} __attribute__((packed));
struct world {
    struct cpu *cpu;
    u32 is_direct, fs_foreign, measure, pad;
    struct world_gdtr gdt_monitor;
    u8 pad2[6];
    struct world_gdtr gdt_direct;
};
extern struct world bt_world;

_Noreturn void bt_resume(struct cpu *cpu, u64 to);
extern const u8 bt_syscall_entry[], bt_int_entry[], bt_stubs_start[], bt_stubs_end[];
/* Called by entry_metal.S; general registers only. */
void bt_measure_entry(struct cpu *cpu, u64 to);
void bt_measure_callout(struct cpu *cpu, u32 callout, u32 arg);
/* At a trap out of guest code; when it is dealt with (nothing if the frame leads to ring 0, or if
 * bt_resume goes on); at a device interrupt. By substrate_metal.c while `measure` is set. */
struct metal_frame;
void bt_measure_trap(struct cpu *cpu, const struct metal_frame *frame);
void bt_measure_trap_end(struct cpu *cpu, const struct metal_frame *frame);
void bt_measure_interrupt(struct cpu *cpu, const struct metal_frame *frame);
_Noreturn void bt_bad_callout(u64 number);
#endif

#endif
