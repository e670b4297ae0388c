/*
 * native.h: runs 32-bit guest code on the host CPU itself, through a far jump into the host's
 * 32-bit user code segment. Code, data and stack lie below 4 GiB at the addresses they have in the
 * guest, so that both see the same pointers.
 */
#ifndef RINGFOLD_TESTS_INTERP_NATIVE_H
#define RINGFOLD_TESTS_INTERP_NATIVE_H

#include "base/base.h"

/* Registers in encoding order, then EFLAGS. */
struct native_regs {
    u32 gpr[8];
    u32 eflags;
};

#define NATIVE_BASE 0x00800000u
#define NATIVE_BYTES 0x00040000u
#define NATIVE_PRIVATE 0x00838000u /* trampolines and saved state, inside the mapping */

/* Maps the region and builds the trampolines. False when the host does not allow it. */
bool native_init(void);
/* Runs the code at entry until it falls off its end (`bytes` later). Returns 0, or the signal that
 * ended it; registers are valid only for 0. */
int native_run(u32 entry, u32 bytes, struct native_regs *regs);

#endif
