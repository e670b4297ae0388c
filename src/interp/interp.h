/*
 * interp.h: the reference interpreter. It executes one guest instruction at a time on the
 * architectural state, exactly as the manual says; it is the oracle for lockstep, and the emulator
 * for MMIO, faulting accesses, rare modes and cold code.
 */
#ifndef RINGFOLD_INTERP_INTERP_H
#define RINGFOLD_INTERP_INTERP_H

#include "base/base.h"
#include "base/cpu.h"

enum interp_result {
    INTERP_OK,        /* one instruction done, eip advanced */
    INTERP_FAULT,     /* cpu->fault holds the exception; state as before the instruction (REP: as
                         after the last whole iteration), eip at the instruction */
    INTERP_DELIVERED, /* INT n, INT3, IRET, far transfer, ...: control moved (also counts as done)
                       */
    INTERP_HALT,      /* cpu->halted set: HLT retired, eip advanced; or an x87 instruction is frozen
                         (CR0.NE=0), eip at it */
    INTERP_REP_MORE   /* a REP string stopped after a bounded number of iterations; eip unchanged */
};

struct interp; /* decode cache and host-FP stubs */
struct interp *interp_create(void);
void interp_destroy(struct interp *in);

/* What it has had to do beside executing, since interp_create: */
#define INTERP_COUNTERS(X)                                                                         \
    X(decodes, "instructions decoded: new, changed, or pushed out of the decode cache")            \
    X(slow_fetches, "instructions fetched with all checks, those decoded among them")              \
    X(careful_steps, "instructions under debug traps, interrupt shadow or alignment checks")
struct interp_counters {
#define X(name, help) u64 name;
    INTERP_COUNTERS(X)
#undef X
};
const struct interp_counters *interp_counters(const struct interp *in);

/* Executes one instruction (REP: at most a bounded chunk). Handles fetch faults, #UD by CPUID
 * policy, TF/DR traps (as a pending #DB fault with eip advanced: returns INTERP_FAULT), the
 * interrupt shadow (decremented). Increments cpu->insn_count once per completed instruction. */
enum interp_result interp_step(struct interp *in, struct cpu *cpu);

/* Runs until max_insns instructions were completed, *stop becomes non-zero, control leaves straight
 * flow by an event (fault, halt), or system state that an engine must see changed. Faults are
 * NOT delivered: INTERP_FAULT is returned. interp_step for the common rest. */
enum interp_result interp_run(struct interp *in, struct cpu *cpu, u64 max_insns,
                              const volatile u32 *stop);

/* ---- Host execution of x87, MMX and SSE (hostfp.c) ----
 * The host is an x86: the instruction itself runs, natively, on the guest's FX state, its memory
 * operand redirected to a buffer. */
struct insn;
/* Executes one x87/MMX/SSE instruction; or, with CR0.NE=0, finds an error that waits, sets
 * cpu->halted and does nothing else: SDM volume 1, section 8.7.2. False: cpu->fault (#NM, #UD, #MF,
 * #XM, #GP, #PF, ...). Does not advance eip. Also writes integer registers and flags where the
 * instruction does (FNSTSW AX, MOVD, COMISS, FCOMI, PMOVMSKB, ...). */
bool hostfp_execute(struct interp *it, struct cpu *cpu, const struct insn *in);
/* True for instructions that hostfp_execute handles. */
bool hostfp_handles(const struct insn *in);

#endif
