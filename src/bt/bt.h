/*
 * bt.h: the binary translator. Guest code of the plain 32-bit flat protected mode (virtual CPL 0 or
 * 3) is translated unit by unit into a cache of 64-bit host code and run there; everything else is
 * handed back as an exit. The translator never emulates: it exits.
 */
#ifndef RINGFOLD_BT_BT_H
#define RINGFOLD_BT_BT_H

#include "base/base.h"
#include "base/cpu.h"

/* Why translated code handed control back. X(name, help) */
#define BT_EXITS(X)                                                                                \
    X(EMULATE, "the instruction at cpu->eip must be emulated")                                     \
    X(FAULT, "cpu->fault at cpu->eip is to be delivered")                                          \
    X(KICK, "a kick arrived: look at events, timers and interrupts")                               \
    X(COLD, "the code at cpu->eip is not hot yet: interpret it")                                   \
    X(MODE, "the CPU's mode is not translated: interpret")                                         \
    X(BUDGET, "the -icount budget is used up")                                                     \
    X(UNIT_END, "lockstep: one unit ran to its end")

enum bt_exit {
#define X(name, help) BT_EXIT_##name,
    BT_EXITS(X)
#undef X
        BT_EXIT_COUNT
};

/* Classes of privileged instructions that may be left to trap instead of being rewritten. */
enum bt_trap_class {
    BT_TRAP_CR = 1,
    BT_TRAP_IO = 2,
    BT_TRAP_CLI_STI = 4,
    BT_TRAP_HLT = 8,
    BT_TRAP_MSR = 16,
    BT_TRAP_DESCRIPTOR = 32,
    BT_TRAP_INVLPG = 64
};
/* The same in the order of their bits. X(name, help) */
#define BT_TRAP_CLASSES(X)                                                                         \
    X(cr, "MOV to and from control registers, CLTS, LMSW that trapped")                            \
    X(io, "IN, OUT, INS, OUTS that trapped")                                                       \
    X(cli_sti, "CLI, STI that trapped")                                                            \
    X(hlt, "HLT that trapped")                                                                     \
    X(msr, "RDMSR, WRMSR that trapped")                                                            \
    X(descriptor, "LGDT, LIDT, LLDT, LTR that trapped")                                            \
    X(invlpg, "INVLPG that trapped")
enum bt_trap_class_index {
#define X(name, help) BT_TRAP_INDEX_##name,
    BT_TRAP_CLASSES(X)
#undef X
        BT_TRAP_CLASS_COUNT
};
_Static_assert(BT_TRAP_CR == 1 << BT_TRAP_INDEX_cr && BT_TRAP_INVLPG == 1 << BT_TRAP_INDEX_invlpg &&
                   BT_TRAP_CLASS_COUNT == 7,
               "one bit for each class");

struct bt_config {
    u64 cache_bytes;   /* translation cache; default 32 MiB, at least 1 MiB */
    u32 hot_threshold; /* executions in interp before translation; 0: at once */
    /* Each mechanism can be switched off. */
    bool chain, retstack, icache, adapt, foresight, selfcheck;
    bool selfcheck_all; /* every page's units check themselves: to test them */
    bool light;         /* IN, OUT, CPUID, CLTS, MOV to CRn: without leaving translated code where
                         * possible; never with icount or lockstep */
    bool verify;        /* Capstone checks every emitted unit */
    bool count;         /* translated code counts how often each unit is entered (hosted only) */
    bool icount;        /* translated code counts guest instructions */
    bool direct;        /* applications run untranslated where the substrate can (metal) */
    u32 trap_classes; /* enum bt_trap_class bits: left in place in kernel code, so that they trap */
    bool lockstep;    /* units end at every branch and are never chained: see bt_lockstep_compare */
};
void bt_config_default(struct bt_config *config);

struct bt;
/* The CPU must have its mmu. Installs nothing process-wide but the fault handlers (shared by all
 * VMs of the process). NULL with err filled. */
struct bt *bt_create(struct cpu *cpu, const struct bt_config *config, char *err, size_t err_bytes);
void bt_destroy(struct bt *bt);

/* True when the CPU's mode is one the translator knows: protected, 32-bit flat CS/SS/DS/ES, CPL 0
 * or 3, no TF, DF, VM, no alignment checks, no hardware breakpoints. Elsewhere bt_run returns
 * BT_EXIT_MODE. */
bool bt_mode_translatable(const struct cpu *cpu);
/* Lets RDTSC run inline: guest TSC = host TSC - host_tsc_base + cpu->tsc_offset. Without
 * this call RDTSC is emulated. */
void bt_set_tsc_base(struct bt *bt, u64 host_tsc_base);
/* Instructions at these linear addresses are never translated: bt_run returns BT_EXIT_EMULATE with
 * cpu->eip there. At most BT_MAX_BREAKPOINTS; drops every translation. */
#define BT_MAX_BREAKPOINTS 64
void bt_set_breakpoints(struct bt *bt, const u32 *lin, unsigned count);
/* Runs translated code from the CPU's state until an exit. The state is complete on return. Not
 * reentrant; vCPU thread only. */
enum bt_exit bt_run(struct bt *bt);
/* Makes a running or the next bt_run return BT_EXIT_KICK soon. Async-signal-safe; must be called on
 * the vCPU thread (from a signal handler) or before a signal is sent to it. */
void bt_kick_sigsafe(struct bt *bt);
/* On metal, where a kick comes from a device interrupt: the interrupted frame, so that an
 * application that runs untranslated is left at once. Call it after bt_kick_sigsafe, from the
 * interrupt hook. */
void bt_interrupted(struct bt *bt, void *frame);
/* Tells whether an external interrupt waits although it cannot be delivered yet (IF=0 or shadow):
 * bt_run then returns BT_EXIT_KICK as soon as the guest opens interrupts. Call before each bt_run.
 */
void bt_set_interrupt_pending(struct bt *bt, bool pending);
/* -icount: instructions translated code may still run before BT_EXIT_BUDGET. */
void bt_set_budget(struct bt *bt, u64 insns);
/* Drops every translation (loadvm, reset). */
void bt_flush(struct bt *bt);
/* lockstep: the guest instructions of the unit just run. */
u32 bt_last_unit_insns(const struct bt *bt);
/* lockstep: the next bt_run stops where its first unit ends, at the latest. Otherwise it goes on
 * until it meets a unit that is due to be compared (its first executions, later every now and
 * then) and returns BT_EXIT_UNIT_END in front of it. */
void bt_lockstep_compare(struct bt *bt);

/* ---- Looking inside ---- */
struct bt_unit_info {
    u32 eip, guest_bytes, insns;
    u64 gpa;
    const u8 *host;
    u32 host_bytes;
    u8 cpl;
    bool due; /* lockstep: this execution is one to compare */
    u64 id;
};
/* The unit whose host code contains pc; signal safe. */
bool bt_unit_at(const struct bt *bt, u64 pc, struct bt_unit_info *out);
/* Guest EIP of a host pc inside a unit; signal safe. */
bool bt_pc_to_eip(const struct bt *bt, u64 pc, u32 *eip);
/* The unit for the CPU's current eip, if translated. */
bool bt_unit_current(struct bt *bt, struct bt_unit_info *out);
/* Guest and host code side by side. */
void bt_dump_unit(struct bt *bt, const struct bt_unit_info *unit,
                  void (*print)(void *, const char *line), void *opaque);
/* The units entered through the dispatcher most recently, newest first; returns the number. */
unsigned bt_last_units(const struct bt *bt, struct bt_unit_info *out, unsigned max);

/* ---- Observing (for recorders) ---- */

/* What happens to the translation cache, in order. X(name, help) */
#define BT_EVENTS(X)                                                                               \
    X(translate, "a unit was made")                                                                \
    X(chain, "a direct branch was linked to a unit")                                               \
    X(unchain, "the links that leave their page were cut: the kernel's fetch mapping changed")     \
    X(icache_fill, "a unit was put into a view's jump table")                                      \
    X(icache_clear, "a view's jump table was emptied")                                             \
    X(invalidate, "a unit was dropped")                                                            \
    X(flush, "the whole cache was emptied")                                                        \
    X(adapt, "an instruction kept faulting: from now on it is translated as a callout")
enum bt_event_kind {
#define X(name, help) BT_EVENT_##name,
    BT_EVENTS(X)
#undef X
        BT_EVENT_COUNT
};
/* Why. X(name, help) */
#define BT_CAUSES(X)                                                                               \
    X(none, "nothing but the run of things")                                                       \
    X(write, "its code was written")                                                               \
    X(remap, "the second page it spans is another one now")                                        \
    X(adapt, "one of its instructions was adapted")                                                \
    X(check, "its page checks itself from now on, or no longer does")                              \
    X(stale, "it found its own code changed")                                                      \
    X(full, "the cache or one of its tables was full")                                             \
    X(request, "reset, breakpoints, CR4.TSD, or more writes to code than the queue holds")
enum bt_cause {
#define X(name, help) BT_CAUSE_##name,
    BT_CAUSES(X)
#undef X
        BT_CAUSE_COUNT
};
/* Everything but the configuration and the CPU model that decides what a unit's host code is. */
struct bt_context {
    u32 eip;
    u64 gpa,
        gpa2; /* of the first byte; of the second page an only instruction spans, or UINT64_MAX */
    u8 cpl;
    bool fp_ok;      /* x87 and SSE instructions do not raise #NM or #UD */
    bool tsc_inline; /* RDTSC may run inline */
    bool tsd;        /* CR4.TSD */
    bool checked;    /* the unit compares its own source at each entry */
    u64 live;        /* bit i: the i-th instruction reads its immediate where it stands */
    u64 adapted;     /* bit i: the i-th instruction is adapted */
    u64 broken;      /* bit i: there is a breakpoint on it */
    const u8 *code;  /* what the decoder could see from gpa on; valid during the call */
    u32 code_bytes;  /* at most BT_CONTEXT_CODE_BYTES */
    const u8 *code2; /* the same from gpa2 on */
    u32 code2_bytes; /* at most 15 */
};
#define BT_CONTEXT_CODE_BYTES 1024
struct bt_event {
    u8 kind, cause; /* enum bt_event_kind, enum bt_cause */
    u32 unit;       /* translate, chain, icache_fill, invalidate: number since the last flush */
    u32 from;       /* chain: the unit that branches */
    u32 branch;     /* chain: which of its direct branches, from 0 */
    u32 view;       /* icache_fill, icache_clear */
    u64 gpa;        /* adapt */
    const struct bt_context *context; /* translate */
    u16 insns, guest_bytes;           /* translate: what became of it */
    u32 host_bytes;
    const u8 *host; /* translate: its code, where it is executed */
};
/* Called at each event, at most BT_MAX_OBSERVERS of them. It may run with the guest's x87 and SSE
 * state in the registers, which it must not touch, and must not call the translator. */
typedef void bt_observer(void *opaque, const struct bt_event *event);
bool bt_observe(struct bt *bt, bt_observer *observer, void *opaque);
/* With config.count: how often each unit was entered since the last flush, by its number; else
 * NULL. A flush clears it after the observers were told. */
const u64 *bt_executions(const struct bt *bt);
void bt_unobserve(struct bt *bt, bt_observer *observer, void *opaque);
#define BT_MAX_OBSERVERS 2

/* Counters, one list. X(name, help) */
#define BT_COUNTERS(X)                                                                             \
    X(units_translated, "translation units made")                                                  \
    X(guest_insns_translated, "guest instructions in them")                                        \
    X(guest_bytes_translated, "guest bytes in them")                                               \
    X(host_bytes_emitted, "host bytes emitted for them")                                           \
    X(translate_tsc, "host TSC cycles spent translating")                                          \
    X(units_invalidated, "units dropped because their code was written")                           \
    X(units_evicted, "units dropped because the cache was full")                                   \
    X(cache_flushes, "whole-cache flushes")                                                        \
    X(chains, "direct branches linked")                                                            \
    X(dispatches, "entries through the dispatcher")                                                \
    X(indirect_misses, "indirect branches resolved by the dispatcher")                             \
    X(return_misses, "returns whose prediction failed")                                            \
    X(callouts, "callouts of all kinds")                                                           \
    X(exits, "exits to the monitor")                                                               \
    X(faults, "host faults in translated code")                                                    \
    X(safepoints, "interrupt polls that fired")                                                    \
    X(adapted_sites, "sites turned into callouts because they kept faulting")                      \
    X(checked_pages, "pages whose units began to check themselves")                                \
    X(checked_units, "units that check themselves")                                                \
    X(stale_units, "units that found their code changed")                                          \
    X(live_immediates, "immediates that units read where the guest rewrites them")                 \
    X(view_flushes, "views whose links were voided")                                               \
    X(verified_units, "units the verifier passed")
/* Callouts by kind, in the order of CO_* in bt_contract.h. X(name, help) */
#define BT_CALLOUTS(X)                                                                             \
    X(emulate, "instructions left to the emulator")                                                \
    X(link, "direct branches to be linked")                                                        \
    X(indirect, "indirect branches not in the table")                                              \
    X(load_es, "loads of ES")                                                                      \
    X(load_ds, "loads of DS")                                                                      \
    X(load_fs, "loads of FS")                                                                      \
    X(load_gs, "loads of GS")                                                                      \
    X(int, "INT n")                                                                                \
    X(iret, "IRET")                                                                                \
    X(sysenter, "SYSENTER")                                                                        \
    X(sysexit, "SYSEXIT")                                                                          \
    X(popf, "POPF")                                                                                \
    X(invlpg, "INVLPG")                                                                            \
    X(budget, "-icount budgets used up")                                                           \
    X(access, "adapted memory accesses")                                                           \
    X(string, "adapted string instructions")                                                       \
    X(ac, "STAC and CLAC")                                                                         \
    X(stale, "units that found their code changed")                                                \
    X(io, "IN and OUT of the kernel")                                                              \
    X(cpuid, "CPUID")                                                                              \
    X(write_cr, "MOV to control registers, CLTS")
enum bt_callout {
#define X(name, help) BT_CALLOUT_##name,
    BT_CALLOUTS(X)
#undef X
        BT_CALLOUT_COUNT
};
struct bt_counters {
#define X(name, help) u64 name;
    BT_COUNTERS(X)
#undef X
    u64 exits_by_reason[BT_EXIT_COUNT];
    u64 callouts_by_kind[BT_CALLOUT_COUNT];
    u64 traps_by_class[BT_TRAP_CLASS_COUNT];
};
/* Brings sums up to date. */
const struct bt_counters *bt_counters(const struct bt *bt);

/* ---- Time by ring (measure_*.c) ---- */
/* Starts anew or stops counting TSC cycles, entries and exits by executing ring: on metal only, at
 * some 100 cycles per transition. Not from within a run. */
void bt_ring_measure(struct bt *bt, bool on);
/* The monitor slept for so many TSC cycles: no exit's cost. */
void bt_ring_idle(struct bt *bt, u64 cycles);
/* The table; one line where there is nothing to tell. */
void bt_ring_report(struct bt *bt, void (*print)(void *, const char *line), void *opaque);

#endif
