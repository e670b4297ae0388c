/*
 * hostile.h: one hostile guest: the contents of a small machine's memory and its CPU's state, made
 * out of a seed and a number, and what is left of it when its time is up.
 *
 * The machine is the monitor's own, devices and run loop included, built in this process. Its time
 * is counted in instructions (-icount), so that a case ends the same way every time.
 */
#ifndef RINGFOLD_TESTS_FUZZ_HOSTILE_H
#define RINGFOLD_TESTS_FUZZ_HOSTILE_H

#include "../fuzz.h"

#include "monitor/vm.h"

/* X(name, help) */
#define HOSTILE_KINDS_LIST(X)                                                                      \
    X(code, "random and privileged instructions, random bytes")                                    \
    X(pages, "random page tables under code that touches memory")                                  \
    X(tables, "random descriptor tables under far transfers, interrupts and task switches")        \
    X(devices, "random port, MMIO and DMA accesses")                                               \
    X(mix, "all of it, and code that rewrites itself")
enum hostile_kind {
#define X(name, help) HOSTILE_##name,
    HOSTILE_KINDS_LIST(X)
#undef X
        HOSTILE_KINDS
};
extern const char *const hostile_kind_name[HOSTILE_KINDS];

/* ---- The guest's memory ---- */
#define HOSTILE_RAM_MIB 2u
#define HOSTILE_RAM (HOSTILE_RAM_MIB << 20)
enum {
    AT_IVT = 0, /* of real mode */
    AT_GDT = 0x1000,
    AT_IDT = 0x2000,
    AT_LDT = 0x3000,
    AT_TSS = 0x4000,    /* HOSTILE_TSSS of them, 256 bytes each */
    AT_STUBS = 0x5000,  /* exception handlers, 16 bytes each */
    AT_TABLES = 0x8000, /* page tables: the first is what CR3 names */
    TABLES_END = 0x20000,
    AT_REAL = 0x20000,    /* code of real mode and V86 */
    AT_KERNEL = 0x100000, /* code at CPL 0 */
    AT_USER = 0x140000,   /* code at CPL 3 */
    AT_DATA = 0x180000,
    DATA_BYTES = 0x10000,
    AT_STACK0 = 0x1a0000, /* tops */
    AT_STACK3 = 0x1b0000,
    AT_DMA = 0x1c0000,
    HOSTILE_TSSS = 4
};
/* Selectors of the GDT when nobody has tampered with it. */
enum {
    SEL_CODE0 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x1b,
    SEL_DATA3 = 0x23,
    SEL_TSS = 0x28, /* HOSTILE_TSSS entries */
    SEL_LDT = 0x48,
    SEL_CALL_GATE = 0x50,
    SEL_TASK_GATE = 0x58,
    SEL_CODE16 = 0x60,
    SEL_DATA16 = 0x68,
    SEL_CONFORMING = 0x70,
    SEL_LIMITED = 0x78,
    GDT_BYTES = 0x80
};

/* ---- A case ---- */
struct hostile_case {
    u64 seed, number;
    enum hostile_kind kind;
    u64 budget_ns;   /* virtual time to its end */
    u8 shift;        /* one instruction takes 2^shift ns */
    const char *cpu; /* -cpu */
    /* The final states of the engines may differ although none of them is wrong. */
    bool incomparable;
};
/* What the case is like; the machine must be made accordingly. */
void hostile_describe(struct hostile_case *c, u64 seed, u64 number);
/* Fills memory and CPU of a fresh machine. Follows from seed and number alone. */
void hostile_generate(struct hostile_case *c, u8 *ram, struct cpu *cpu);

/* ---- Generators ---- */
struct gen {
    struct fuzz_rng r;
    u8 *ram;
    struct cpu *cpu;
    struct hostile_case *c;
    u32 at, end; /* where code is being written, and where it must stop */
};
static inline u32 any(struct gen *g) {
    return fuzz_random(&g->r);
}
static inline u32 below(struct gen *g, u32 n) {
    return fuzz_below(&g->r, n);
}
static inline bool one_in(struct gen *g, u32 n) {
    return fuzz_below(&g->r, n) == 0;
}
#define PICK(g, array) ((array)[below(g, ARRAY_LEN(array))])
#define PUT(g, ...) put_bytes(g, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* code.c: instructions */
void put_bytes(struct gen *g, const u8 *bytes, unsigned count);
void put32(struct gen *g, u32 value);
/* mov r32, value */
void put_move(struct gen *g, unsigned reg, u32 value);
void put_random_insn(struct gen *g);
void put_privileged_insn(struct gen *g);
void put_system_insn(struct gen *g);
void put_memory_insn(struct gen *g);
/* A store into the code between from and to. */
void put_self_store(struct gen *g, u32 from, u32 to);
/* An address that is worth touching. */
u32 hostile_address(struct gen *g);
u32 hostile_value(struct gen *g);

/* system.c: tables and CPU state */
/* Valid descriptor tables, TSSs and exception handlers that go on behind the instruction. */
void make_tables(struct gen *g);
void tamper_with_tables(struct gen *g, unsigned changes);
void random_descriptor(struct gen *g, u32 at);
/* All of RAM mapped to itself, by 32-bit or PAE tables; paging is switched on. */
void make_pages(struct gen *g, bool pae);
void tamper_with_pages(struct gen *g, unsigned changes);
/* Flat protected mode at that privilege, real mode, V86 mode. */
void enter_protected(struct gen *g, unsigned cpl);
void enter_real(struct gen *g);
void enter_v86(struct gen *g);

/* devices.c */
void put_device_insn(struct gen *g);
void make_dma(struct gen *g);

/* ---- Running (run.c) ---- */
enum hostile_engine { HOSTILE_INTERP, HOSTILE_BT, HOSTILE_LOCKSTEP, HOSTILE_ENGINES };
extern const char *const hostile_engine_name[HOSTILE_ENGINES];

struct hostile_state {
    struct cpu cpu;
    u8 *ram; /* a copy; the caller gives room for it */
    /* How it ended: its time was up, or it reset or powered off the machine, or it made so many
     * exceptions; else the alarm ended it, or that a REP went round and round. */
    enum { HOSTILE_TIME_UP, HOSTILE_ENDED, HOSTILE_FAULTS, HOSTILE_ALARM } end;
    u64 faults;
    bool incomparable;   /* it did what hostile_case.incomparable tells of */
    bool tables_written; /* page tables changed, beyond A and D bits */
    const char *wrong;   /* NULL, or the invariant that does not hold */
};
/* Once per process: the kernel that is never run, the alarm. */
bool hostile_setup(void);
/* Builds the machine, runs the case and looks at what is left. */
void hostile_run(const struct hostile_case *c, enum hostile_engine engine,
                 struct hostile_state *out);
/* NULL, or what differs first; details are printed to `out` if it is not NULL. */
const char *hostile_compare(const struct hostile_state *a, const struct hostile_state *b,
                            FILE *out);
/* Resident memory, host mappings and open files of this process. */
struct hostile_usage {
    u64 resident_bytes, maps, files;
};
struct hostile_usage hostile_usage(void);

#endif
