/*
 * substrate.h: what translated code needs of the machine under it: a way in and out, traps as data,
 * the base of its window. substrate_hosted.c and entry_hosted.S make it of a Linux process's
 * signals, substrate_metal.c and entry_metal.S of ring 0's own tables.
 */
#ifndef RINGFOLD_BT_SUBSTRATE_H
#define RINGFOLD_BT_SUBSTRATE_H

#include "base/base.h"

struct bt;
struct cpu;

/* A host trap in translated code (fault.c): the host's registers by number, and what happened. The
 * handler edits it and the substrate resumes there. */
struct bt_trap {
    u64 reg[16];
    u64 rip, rflags;
    u64 vector, error, address; /* address: of a page fault */
    bool leave;                 /* set by the handler: go on in the monitor, at rip */
};
/* False: not explicable, so a bug of the monitor. Signal safe; general registers only. */
bool bt_trap(struct bt *bt, struct bt_trap *trap);
/* For crash reports: puts the guest's registers where cpu_dump finds them, if the trap came from
 * translated code. */
void bt_trap_save_guest(struct bt *bt, const struct bt_trap *trap);

/* ---- Made by each substrate ---- */

/* Ready to take traps for this translator; sets bt->ring3_delta and bt->stub_shift first of all. */
bool substrate_open(struct bt *bt, char *err, size_t err_bytes);
void substrate_close(struct bt *bt);
/* True when world switches load the GS base themselves; else substrate_set_gs_base is called when
 * the window changes. */
bool substrate_switches_gs(void);
void substrate_set_gs_base(u64 base);
/* May the CPU's present state run untranslated, and is everything prepared for it? (Always false
 * when hosted.) Called with the guest's FP state live. */
bool substrate_direct_ready(struct bt *bt);
/* Before guest code runs after the monitor may have changed the guest's TSC, IA32_TSC_AUX or CR4.TSD:
 * an application that runs untranslated finds them in the machine, or traps. */
void substrate_load_tsc(struct bt *bt);
/* The address a callout continues at to run directly, or that bt_enter gets. */
#define BT_DIRECT 2

#endif
