/*
 * hostfp_internal.h: the FX image by name, and what hostfp.c (the instruction itself runs) and
 * hostfp_state.c (state images are built in software) share.
 */
#ifndef RINGFOLD_INTERP_HOSTFP_INTERNAL_H
#define RINGFOLD_INTERP_HOSTFP_INTERNAL_H

#include "interp/interp.h"
#include "isa/insn.h"

/* Byte offsets in the FX image, 32-bit format: SDM volume 1, section 10.5.1 "FXSAVE Area". The
 * guest's x87 pointers are kept in this format, whatever the host would store there. */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4, /* abridged: one bit per physical register, 1 = not empty */
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FCS = 12,
    FX_FDP = 16,
    FX_FDS = 20,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160,
    FX_GUEST_BYTES = 288, /* what 32-bit FXSAVE writes: up to XMM7 */
    FX_POINTERS = FX_FOP, /* FOP to FDS */
    FX_POINTERS_BYTES = FX_MXCSR - FX_FOP,
    FX_BYTES = 512
};
enum {
    FSW_EXCEPTIONS = 0x3f,
    FSW_PE = 0x20,
    FSW_SF = 0x40,
    FSW_ES = 0x80,
    FSW_TOP = 0x3800,
    FSW_B = 0x8000,
    FSW_ERROR = FSW_ES | FSW_B,
    FCW_MASKS = 0x3f,
    FCW_RESERVED_ONE = 0x40,
    FCW_WRITABLE = 0x1f3f,
    FCW_INIT = 0x37f
};
enum {
    MXCSR_FLAGS = 0x3f,
    MXCSR_PRE = 0x07, /* IE, DE, ZE: detected before the computation */
    MXCSR_MASKS = 0x1f80,
    MXCSR_OE = 1 << 3,
    MXCSR_UE = 1 << 4,
    MXCSR_PE = 1 << 5,
    MXCSR_UM = 1 << 11,
    MXCSR_FZ = 1 << 15,
    MXCSR_VALID = 0xffff,
    MXCSR_MASKS_SHIFT = 7
};

static inline u16 fx_get16(const struct cpu *cpu, unsigned offset) {
    return load16(cpu->fx + offset);
}
static inline void fx_set16(struct cpu *cpu, unsigned offset, u16 value) {
    store16(cpu->fx + offset, value);
}

/* FSW.ES and B follow the flags and masks, as the processor keeps them. */
void hostfp_update_es(struct cpu *cpu);

/* CR0.NE=0, and an instruction that waits meets an error: asserts FERR#. True when the guest wants
 * it passed over (IGNNE#); else the CPU waits for an interrupt in front of it, of whichever vector,
 * and asks again. SDM volume 1, section 8.7.2 "MS-DOS Compatibility Sub-mode". */
bool hostfp_error_ignored(struct cpu *cpu);
/* FERR# ends with the error: after each instruction while it is asserted. */
void hostfp_watch_error(struct cpu *cpu);

/* The flags that an SSE instruction adds to MXCSR by raising #XM, where its masked execution raised
 * `raised` (hostfp_xm.c). memory: its memory operand, if it has one. */
u32 hostfp_xm_flags(const struct cpu *cpu, const struct insn *in, const u8 *memory, u32 mxcsr,
                    u32 raised);

/* Sets FSW. FX images hold registers in ST order, so a new TOP turns the file. */
void hostfp_set_fsw(struct cpu *cpu, u16 fsw);

/* The instructions that move or reset whole state. Each returns false with cpu->fault and the state
 * unchanged. The CR0 and CR4 rules and pending exceptions were looked at by the caller. */
void hostfp_fninit(struct cpu *cpu);
bool hostfp_fnstenv(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_fldenv(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_fnsave(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_frstor(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_fxsave(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_fxrstor(struct interp *it, struct cpu *cpu, const struct insn *in);
bool hostfp_ldmxcsr(struct interp *it, struct cpu *cpu, const struct insn *in);
/* Stores to the memory operand, which must be aligned to `align` where that is checked. */
bool hostfp_store(struct interp *it, struct cpu *cpu, const struct insn *in, const void *value,
                  unsigned bytes, u8 align);

#endif
