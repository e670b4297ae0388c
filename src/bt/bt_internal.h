/*
 * bt_internal.h: the translator's own structures: units, slots, the cache, the emitter.
 *
 * A translation unit (TU) is guest code from one entry EIP, straight on over not-taken branches and
 * over calls, up to an unconditional transfer, an instruction for the emulator, the page's end or a
 * limit. It is keyed by physical address, linear EIP and CPL, and only valid while its page's fetch
 * mapping holds. Its host code is:
 *
 *   indirect entry:  compare r8d with the unit's EIP, else jmp [r15+HOT_STUB_INDIRECT_MISS]
 *   direct entry:    [self-check: compare the source with what it was, else leave]
 *                    [-icount: count]
 *                    body
 *   slot stubs:      per direct exit: mov r8d, slot; mov r9d, CO_LINK; jmp [r15+HOT_STUB_CALLOUT]
 *                    or, where the target lies on another page at CPL 3:
 *                                     mov r8d, eip; jmp [r13 + (eip & mask) * 8]
 *
 * VERIFIER: what bt_verify accepts (and nothing else):
 *  - guest memory: gs: with a 32-bit address (65 67 prefixes), any base/index/displacement; no
 *    RIP-relative form; no 67h string instruction
 *  - strings: [mov edi,edi; lea rdi,[r14+rdi];] [mov esi,esi; lea rsi,[r14+rsi];] [mov ecx,ecx;]
 *    (rep) plain string instruction; then mov edi,edi / mov esi,esi for each pointer used, with no
 *    branch target inside the sequence. RCX is truncated only under REP.
 *  - vCPU memory: [r15+disp32] without index, disp in the hot area, or exactly the safepoint word;
 *    stores only to HOT_FLAG_IF, HOT_ARG0, HOT_ARG1, HOT_ARG2 and (with -icount) HOT_BUDGET
 *  - with config.count, at the direct entry: the increment of the unit's own counter (match_count)
 *  - pointer chases: mov r8,[r15+HOT_FS_BASE_PTR|HOT_GS_BASE_PTR]; mov r8d,[r8] and
 *    mov r9,[r15+HOT_STI_POLL]; mov r9d,[r9], as exact pairs
 *  - branches: direct ones inside the unit at an instruction boundary (not inside a sequence), or
 * to the direct entry of another unit; jmp/call [r15+HOT_STUB_*]; jmp/call [r13+disp32] and
 *    jmp/call [r13+r9*2] directly after lea r9d,[r8*4]; movzx r9d,r9w; ret
 *  - POPF and RDTSC as lower_system.c emits them, byte for byte; the self-check of selfcheck.c
 *    likewise, in units that are marked so, of no other bytes than the unit's own source
 *  - pushfq; pop r8 (PUSHF) and pushfq ... popfq (-icount's count at the direct entry), no other
 * use of rsp but call and ret; r13, r14, r15 never written
 *  - no privileged, I/O, system-call, segment, XSAVE, AVX or 64-bit-only state instruction, but: in
 *    units of CPL 0, for a class in config.trap_classes, the forms of verify_trap.c, each with the
 *    callout to the emulator right behind it and no branch target in between
 */
#ifndef RINGFOLD_BT_INTERNAL_H
#define RINGFOLD_BT_INTERNAL_H

#include "base/cpu.h"
#include "base/memory.h"
#include "bt/bt.h"
#include "bt/bt_contract.h"
#include "bt/substrate.h"
#include "isa/insn.h"
#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

/* The engine area of struct cpu: what emitted code and stubs address from r15. */
struct bt_hot {
    u32 flag_if, flag_rest;
    u64 fs_base_ptr, gs_base_ptr;
    u64 sti_poll;
    u64 host_rsp, return_rsp;
    u64 window, view_table;
    u16 flags16, pad16;
    u32 exit;
    u32 arg0, arg1;
    u64 stub_callout, stub_return_miss, stub_indirect_miss;
    i64 budget;
    u32 fsgsbase;
    u32 cr0, cr2, cr3, cr4;
    u16 selectors[6];
    u32 arg2;
    u64 callout_return, stub_callout_returning, stub_load_segment;
    u64 scratch;
    struct bt_segment_cache {
        u64 descriptor, minus_value, minus_selector;
    } segment_cache[4]; /* by callout - CO_LOAD_ES */
    u64 tsc_delta;
    u64 return_misses, callout_counts, enter_frame;
    u64 delta;     /* of the addresses loaded: 0, or ring3_delta while ring_user */
    u32 ring_user; /* which ring's window, table and return stack are loaded */
    /* From here on for C only. */
    struct bt *bt;
    union {
        struct {
            volatile u32 kick;
            volatile bool safepoint_armed;
            bool interrupt_pending;
            bool
                window_by_ring; /* every change of ring selects a window: guest's SMAP, one table */
            u8 pad_attention;
        };
        volatile u64 attention; /* 0: none of them */
    };
    u64 unit_counts;
    u64 null_descriptor;
    /* Per privilege [user]: what a change of ring loads. */
    u64 ring_window[2], ring_table[2], ring_return_rsp[2];
    u64 tsc_base;
};
#define HOT_ASSERT(name, field)                                                                    \
    _Static_assert(name == CPU_HOT + offsetof(struct bt_hot, field), #name " does not match")
_Static_assert(offsetof(struct cpu, gpr) == CPU_GPR, "gpr");
_Static_assert(offsetof(struct cpu, fx) == CPU_FX, "fx");
_Static_assert(offsetof(struct cpu, eip) == CPU_EIP, "eip");
_Static_assert(offsetof(struct cpu, eflags) == CPU_EFLAGS, "eflags");
_Static_assert(CPU_SAFEPOINT == CPU_SAFEPOINT_OFFSET, "safepoint");
_Static_assert(offsetof(struct cpu, engine_area) == CPU_HOT, "engine area");
_Static_assert(sizeof(struct bt_hot) <= sizeof(((struct cpu *)0)->engine_area), "hot area size");
HOT_ASSERT(HOT_FLAG_IF, flag_if);
HOT_ASSERT(HOT_FLAG_REST, flag_rest);
HOT_ASSERT(HOT_FS_BASE_PTR, fs_base_ptr);
HOT_ASSERT(HOT_GS_BASE_PTR, gs_base_ptr);
HOT_ASSERT(HOT_STI_POLL, sti_poll);
HOT_ASSERT(HOT_HOST_RSP, host_rsp);
HOT_ASSERT(HOT_RETURN_RSP, return_rsp);
HOT_ASSERT(HOT_WINDOW, window);
HOT_ASSERT(HOT_VIEW_TABLE, view_table);
HOT_ASSERT(HOT_FLAGS16, flags16);
HOT_ASSERT(HOT_EXIT, exit);
HOT_ASSERT(HOT_ARG0, arg0);
HOT_ASSERT(HOT_ARG1, arg1);
HOT_ASSERT(HOT_STUB_CALLOUT, stub_callout);
HOT_ASSERT(HOT_STUB_RETURN_MISS, stub_return_miss);
HOT_ASSERT(HOT_STUB_INDIRECT_MISS, stub_indirect_miss);
HOT_ASSERT(HOT_BUDGET, budget);
HOT_ASSERT(HOT_FSGSBASE, fsgsbase);
HOT_ASSERT(HOT_CR0, cr0);
HOT_ASSERT(HOT_CR2, cr2);
HOT_ASSERT(HOT_CR3, cr3);
HOT_ASSERT(HOT_CR4, cr4);
HOT_ASSERT(HOT_SELECTORS, selectors);
HOT_ASSERT(HOT_ARG2, arg2);
HOT_ASSERT(HOT_CALLOUT_RETURN, callout_return);
HOT_ASSERT(HOT_STUB_CALLOUT_RETURNING, stub_callout_returning);
HOT_ASSERT(HOT_STUB_LOAD_SEGMENT, stub_load_segment);
HOT_ASSERT(HOT_SCRATCH, scratch);
HOT_ASSERT(HOT_SEGMENT_CACHE, segment_cache);
HOT_ASSERT(HOT_TSC_DELTA, tsc_delta);
HOT_ASSERT(HOT_RETURN_MISSES, return_misses);
HOT_ASSERT(HOT_CALLOUT_COUNTS, callout_counts);
HOT_ASSERT(HOT_ENTER_FRAME, enter_frame);
HOT_ASSERT(HOT_DELTA, delta);
HOT_ASSERT(HOT_RING_USER, ring_user);
HOT_ASSERT(HOT_KICK, kick);
HOT_ASSERT(HOT_UNIT_COUNTS, unit_counts);
_Static_assert(sizeof(struct bt_segment_cache) == SEGMENT_CACHE_BYTES, "segment cache");

_Static_assert((int)CO_COUNT == (int)BT_CALLOUT_COUNT && CO_STALE == (int)BT_CALLOUT_stale &&
                   CO_INT == (int)BT_CALLOUT_int && CO_INVLPG == (int)BT_CALLOUT_invlpg,
               "BT_CALLOUTS lists the CO_* in their order");

static inline struct bt_hot *bt_hot(const struct cpu *cpu) {
    return (struct bt_hot *)cpu->engine_area;
}

/* ---- Units, slots, continuations, the PC table ---- */

#define BT_NONE UINT32_MAX
#define BT_MAX_UNIT_INSNS 64
#define BT_MAX_UNIT_HOST_BYTES 16384

/* A direct exit of a unit: one rel32 in its code, first pointing at the slot's stub. */
struct bt_slot {
    u32 unit;  /* owner */
    u32 patch; /* cache offset of the rel32 */
    u32 stub;  /* cache offset of the stub */
    u32 target_eip;
    u32 target;        /* linked unit, or BT_NONE */
    u32 next_incoming; /* list of the target unit */
    bool same_page;    /* the link holds in every view: neither it nor its target leaves the page */
};

/* The PC table: host offset within the unit -> guest offset, one entry per guest instruction, plus
 * recovery actions. */
enum bt_recovery {
    RECOVER_PLAIN,
    RECOVER_STI,  /* the poll behind STI: its shadow is in force */
    RECOVER_POPF, /* the poll behind POPF */
    RECOVER_CHECK /* the unit looks at its own source: a fetch, not an access of the guest's */
};
/* Flags that POPF at CPL 0 may not change inline. */
#define POPF_SLOW_FLAGS (F_ALL & ~(u32)(F_ARITH | F_FIXED | F_IF | F_RF | F_VM))
struct bt_pc {
    u16 host;    /* offset from the unit's first host byte */
    u8 recovery; /* enum bt_recovery */
    u8 index;    /* number of guest instructions before it */
    u16 guest;   /* offset from the unit's EIP */
    i16 esp;     /* guest ESP minus r12 there: pushes and pops move r12 late */
};

struct bt_unit {
    u64 gpa;   /* of the first byte */
    u64 page2; /* second physical page an only instruction spans, or UINT64_MAX */
    u32 eip;
    u16 guest_bytes, insns;
    u8 cpl, fp; /* key: virtual CPL; FP instructions allowed */
    bool valid;
    bool checked;                      /* checks itself: see selfcheck.c */
    u8 lockstep_runs;                  /* executions compared, up to LOCKSTEP_FIRST */
    u32 host, host_direct, host_bytes; /* cache offsets: indirect entry, direct entry */
    u32 slot_first, slot_count;
    u32 pc_first, pc_count;
    u32 cont_first, cont_count; /* return continuations: cache offsets in bt->cont[] */
    u32 incoming;               /* slots linked here */
    u32 hash_next;
    u32 page_next[2];             /* lists of units by physical page: gpa's, page2's */
    u32 check_first, check_count; /* in bt->check[] */
};

/* A piece of a unit's source as it was when the unit was made. */
struct bt_check {
    u32 expected;
    u16 guest; /* offset from the unit's EIP */
    u8 bytes;  /* 1, 2 or 4 */
};

struct translation;

/* A segment as a load at CPL 0 left it: good again while the descriptor is the same. */
struct bt_known_segment {
    u16 selector;
    const void *descriptor; /* host address; NULL: nothing known */
    u64 value;
    struct segment segment;
};

struct bt_view_state {
    u64 *table; /* VIEW_ENTRIES host addresses; NULL until used */
    u32 epoch;
    bool seen;
};

#define BT_HASH_BITS 16
#define BT_SITE_BITS 12
#define BT_HEAT_BITS 16
#define BT_RECENT 32
/* -lockstep: executions of each unit that are compared, and the interval after that (a prime, so as
 * not to fall into step with the guest's loops). */
#define LOCKSTEP_FIRST 64
#define LOCKSTEP_INTERVAL 61

struct bt_site {
    u64 gpa;
    u32 page; /* what it last stored to, if that was a page with code; else BT_NONE */
    u8 faults;
    bool adapted;
    bool live; /* its immediate was found changed */
};

/* Which pages are written though they hold code: selfcheck.c. */
#define BT_WRITTEN_PAGES 64
#define BT_CHECKED_PAGES 256
struct bt_written_page {
    u32 page, weight;
    u64 since;               /* instructions left to the emulator before */
    u64 at[PAGE_BYTES / 64]; /* where writes began, a bit for each byte */
};

struct bt {
    struct cpu *cpu;
    struct bt_config config;
    /* The cache: written at rw, executed at rx (and on metal by ring 3 at rx + ring3_delta). */
    struct memory_code cache_memory;
    u8 *cache_rw;
    u8 *cache_rx;
    u32 cache_bytes, cache_used;
    u64 generation;
    struct bt_unit *unit;
    u32 unit_count, unit_capacity;
    u64 *executions; /* config.count: by unit */
    struct bt_slot *slot;
    u32 slot_count, slot_capacity;
    struct bt_pc *pc;
    u32 pc_count, pc_capacity;
    u32 *cont;
    u32 cont_count, cont_capacity;
    u32 hash[1 << BT_HASH_BITS];
    u32 *page_head; /* per physical page: first unit */
    u64 page_count;
    u32 heat[1 << BT_HEAT_BITS];
    struct bt_site site[1 << BT_SITE_BITS];
    struct bt_view_state view[MMU_MAX_VIEWS];
    bool fp_ok; /* key of every link, table entry and continuation now in force */
    bool prefill_pending, prefill_write; /* the page a user #PF named: map it before resuming */
    u32 prefill_lin;
    bool fault_emulate; /* the last EMULATE exit came from a host fault at fault_gpa */
    u64 fault_gpa;
    u32 fault_page;        /* the page with code that it stored to, or BT_NONE */
    u32 user_view;         /* id of the view whose links the user return stack may hold */
    u8 *return_stack[2];   /* [user]; guard page below each */
    u64 return_top[2];     /* as translated code of that ring sees it */
    u64 ring3_delta;       /* ring 3 sees shared memory this much above: 0 when hosted */
    u64 stub_shift;        /* the stubs run this much above where they were linked: 0 when hosted */
    u32 recent[BT_RECENT]; /* units entered by the dispatcher */
    u32 recent_next;
    u32 last_unit_insns;
    bool lockstep_compare; /* leave at the end of the unit */
    bool lockstep_sample;  /* whatever unit comes next is one to compare */
    u32 lockstep_since;    /* executions of units that are no longer new */
    struct bt_counters counters;
    struct bt_counters *stats;                   /* = &counters */
    struct unwind_entry *unwind;                 /* what libunwind knows about the cache */
    struct bt_known_segment known_segment[4][2]; /* by callout - CO_LOAD_ES; null or not */
    u32 tsd;                                     /* CR4.TSD under which RDTSC was translated */
    bool tsc_inline;                             /* RDTSC runs inline */
    bool mxcsr_exact; /* the host refuses the same bits in MXCSR as the guest's CPU */
    u32 breakpoint[BT_MAX_BREAKPOINTS]; /* linear addresses that are left to the emulator */
    unsigned breakpoints;
    struct translation *translation; /* the translator's workspace */
    struct substrate *substrate;     /* what the substrate keeps for this translator */
    struct bt_meter *meter;          /* time by ring, once it is measured */
    struct bt_listener {
        bt_observer *observer;
        void *opaque;
    } listener[BT_MAX_OBSERVERS]; /* told of what happens to the cache */
    unsigned listeners;
    const struct bt_context *replayed; /* instead of the CPU and its tables: see replay.c */
    /* Where descriptor tables and TSS were when what is known of them was last forgotten. */
    struct bt_tables {
        struct table_register gdtr, idtr;
        struct segment ldtr, tr;
        u32 epoch; /* mmu->translation_epoch */
    } tables;
    /* What selfcheck.c keeps. */
    struct bt_check *check;
    u32 check_count, check_capacity;
    bool *page_checked; /* per physical page: its units check themselves, and it is not protected */
    u32 checked_page[BT_CHECKED_PAGES], checked_pages; /* those pages */
    struct bt_written_page written[BT_WRITTEN_PAGES];
    u32 stale_unit; /* the unit whose check failed, or BT_NONE */
    u32 kicks;      /* since pages that are checked were last given up */
};

/* What translated code of ring 3 adds to the address of anything shared. */
static inline u64 bt_ring_delta(const struct bt *bt, bool user) {
    return user ? bt->ring3_delta : 0;
}
/* An address that translated code of either ring used, as the monitor knows it. */
static inline u64 bt_plain_address(const struct bt *bt, u64 address) {
    u64 shared = (u64)bt->cpu & ~(MEMORY_SHARED_MAX_BYTES - 1);
    return address - bt->ring3_delta - shared < MEMORY_SHARED_MAX_BYTES ? address - bt->ring3_delta
                                                                        : address;
}
/* Where translated code of a ring finds a stub of entry_*.S. */
static inline u64 bt_stub(const struct bt *bt, const u8 *stub, bool user) {
    return (u64)stub + bt->stub_shift + bt_ring_delta(bt, user);
}

#define VIEW_TABLE_BYTES (VIEW_ENTRIES * sizeof(u64))

/* Return stack bytes per ring. */
#define BT_RETURN_STACK_BYTES 65536

/* ---- emit.c: the bounded emitter ---- */

/* Host register numbers. */
enum {
    H_RAX,
    H_RCX,
    H_RDX,
    H_RBX,
    H_RSP,
    H_RBP,
    H_RSI,
    H_RDI,
    H_R8,
    H_R9,
    H_R10,
    H_R11,
    H_R12,
    H_R13,
    H_R14,
    H_R15,
    H_NONE = 0xff
};
static inline u8 host_reg(u8 guest) {
    return guest == R_ESP ? H_R12 : guest;
}

struct emit {
    u8 *p, *start, *end;
    bool overflow; /* once set, nothing more is written */
};
/* A memory operand in host registers; gs: window-relative (65 67) or plain. */
struct host_mem {
    u8 base, index, scale; /* scale 1, 2, 4, 8 */
    i32 disp;
    bool window;
};
/* One instruction: legacy prefixes, opcode map and byte, register field and either a register or a
 * memory operand in r/m. rex_w: 64-bit operands. Immediates follow by emit_imm. */
struct host_op {
    bool p66, rep, repne, lock, rex_w;
    u8 map; /* 0, 1, 2, 3 */
    u8 opcode;
    u8 reg;
    bool byte_rm; /* r/m is an 8-bit register that needs REX for numbers 4-7 (never the guest's) */
};
void emit_u8(struct emit *e, u8 v);
void emit_u32(struct emit *e, u32 v);
void emit_bytes(struct emit *e, const u8 *bytes, size_t count);
#define EMIT_BYTES(e, ...)                                                                         \
    emit_bytes(e, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))
void emit_imm(struct emit *e, u64 v, unsigned bytes);
void emit_op_reg(struct emit *e, struct host_op op, u8 rm);
void emit_op_mem(struct emit *e, struct host_op op, struct host_mem mem);
/* Short forms. */
void emit_mov_imm32(struct emit *e, u8 reg, u32 imm);          /* mov r32, imm32 */
void emit_mov_reg32(struct emit *e, u8 dst, u8 src);           /* mov r32, r32 */
void emit_load32(struct emit *e, u8 reg, struct host_mem mem); /* mov r32, [mem] */
void emit_load64(struct emit *e, u8 reg, struct host_mem mem);
void emit_store32(struct emit *e, struct host_mem mem, u8 reg);
void emit_store_imm32(struct emit *e, struct host_mem mem, u32 imm);
void emit_lea32(struct emit *e, u8 reg, struct host_mem mem); /* 64-bit address, 32-bit result */
void emit_lea64(struct emit *e, u8 reg, struct host_mem mem);
static inline struct host_mem hot_mem(u32 offset) {
    return (struct host_mem){.base = H_R15, .index = H_NONE, .disp = (i32)offset};
}

/* ---- classify.c ---- */

#define BT_CLASSES(X)                                                                              \
    X(EMULATE, "handed to the monitor, which interprets it")                                       \
    X(PLAIN, "runs as it is, its memory operand made window-relative")                             \
    X(FP, "like PLAIN where FP instructions are allowed, else emulated")                           \
    X(NOP, "nothing to do")                                                                        \
    X(LEA, "address arithmetic")                                                                   \
    X(INCDEC, "40-4F become FE/FF forms")                                                          \
    X(PUSH, "push")                                                                                \
    X(POP, "pop")                                                                                  \
    X(PUSHA, "pusha")                                                                              \
    X(POPA, "popa")                                                                                \
    X(LEAVE, "leave")                                                                              \
    X(PUSHF, "image composed inline")                                                              \
    X(POPF, "callout")                                                                             \
    X(JMP, "jump")                                                                                 \
    X(JCC, "conditional jump")                                                                     \
    X(LOOP, "loop, jcxz")                                                                          \
    X(CALL, "call")                                                                                \
    X(RET, "ret")                                                                                  \
    X(STRING, "string instruction")                                                                \
    X(CLI, "virtual IF cleared inline")                                                            \
    X(STI, "virtual IF set inline, then a poll")                                                   \
    X(MOV, "mov, which may name a segment, control or debug register")                             \
    X(INT, "delivered by a callout")                                                               \
    X(IRET, "callout")                                                                             \
    X(SYSENTER, "callout")                                                                         \
    X(SYSEXIT, "callout")                                                                          \
    X(RDTSC, "host TSC plus a delta inline")                                                       \
    X(INVLPG, "callout")                                                                           \
    X(LIGHT, "callout, which leaves to the emulator what is not light")                            \
    X(AC, "callout")                                                                               \
    X(TRAP, "left in place, privileged, to trap and be emulated")

enum bt_class {
#define X(name, help) BT_CLASS_##name,
    BT_CLASSES(X)
#undef X
        BT_CLASS_COUNT
};
/* Privilege rule of a mnemonic. */
enum bt_privilege {
    PRIV_NONE,     /* runs at any CPL */
    PRIV_CPL0,     /* #GP, of STAC and CLAC #UD, unless CPL 0 */
    PRIV_IOPL,     /* IOPL-sensitive */
    PRIV_SENSITIVE /* reads or changes privileged state without trapping */
};
/* What CPUID must announce, at least: an instruction whose own bit is set but not this one is
 * merely emulated. */
enum bt_feature {
    BT_FEATURE_NONE,
    BT_FEATURE_FPU,
    BT_FEATURE_TSC,
    BT_FEATURE_CX8,
    BT_FEATURE_SEP,
    BT_FEATURE_CMOV,
    BT_FEATURE_MMX,
    BT_FEATURE_SSE,
    BT_FEATURE_SSE2,
    BT_FEATURE_SSE3,
    BT_FEATURE_SSSE3,
    BT_FEATURE_SSE41,
    BT_FEATURE_SSE42,
    BT_FEATURE_MOVBE,
    BT_FEATURE_POPCNT,
    BT_FEATURE_SMAP,
    BT_FEATURE_COUNT
};
struct bt_class_row {
    u16 mnemonic;
    u8 class, privilege;
    u8 feature;                    /* enum bt_feature: what CPUID must announce */
    u16 flags_read, flags_written; /* arithmetic flags; written means always written */
    const char *manual;            /* SDM volume 2 entry */
};
/* The row of a mnemonic; one with class EMULATE for a mnemonic that has none. */
const struct bt_class_row *bt_classify(u16 mnemonic);
/* False: the emulator decides (#UD where CPUID does not announce the instruction). */
bool bt_announced(const struct cpu_model *model, const struct insn *in);
const char *bt_class_name(enum bt_class class);
bool bt_has_prefix66(const struct insn *in);
/* What the translator does with this instruction at this CPL. */
enum bt_class bt_class_of(const struct insn *in, u8 cpl, bool fp_ok);
/* The BT_TRAP_* bit of a privileged instruction that can be left to trap; 0: not one of them. */
u32 bt_trap_class_of(const struct insn *in);
/* Arithmetic flags read before written / surely written, exact for this form (shift counts). */
void bt_flags_of(const struct insn *in, u16 *read, u16 *written);

/* ---- translate.c, lower*.c ---- */

struct bt_tinsn {
    struct insn in;
    u32 eip;
    enum bt_class class;
    bool adapted; /* keeps faulting: emulate */
    bool live;    /* its immediate keeps changing: read it where it stands */
};
struct translation {
    struct bt *bt;
    struct emit e;
    u64 gpa;
    u32 eip, next_eip; /* of the unit; of the instruction after the current one */
    u8 cpl;
    bool fp_ok;
    u32 count;
    struct bt_tinsn insn[BT_MAX_UNIT_INSNS];
    u32 slot_first, cont_first, pc_first, check_first;
    u32 current;   /* index of the instruction being lowered */
    i32 esp_delta; /* guest ESP minus r12 at this point of the emitted code */
    u32 guest_bytes;
    u8 counted;                /* instructions that run inside the unit */
    bool checked;              /* the unit checks itself */
    bool straight;             /* a conditional branch ends the unit (lockstep, -icount) */
    bool ended;                /* the current instruction ended the unit */
    bool failed;               /* a table is full */
    u64 adapted, broken, live; /* as in struct bt_context */
    u64 page2;
};
/* Translates the unit at cpu->eip whose first byte is at gpa. BT_NONE when a table or the cache is
 * full (flush and try again). */
u32 bt_translate(struct bt *bt, u32 eip, u64 gpa);
/* Its stages: what the unit consists of; one instruction's class (t->count tells which); the host
 * code, into the free part of the cache, false when that or a table is full; giving back what of
 * the tables the last translation_emit took. */
void translation_decode(struct translation *t, struct bt *bt, u32 eip, u64 gpa);
void translation_classify(struct translation *t, struct bt_tinsn *ti, u64 gpa);
bool translation_emit(struct translation *t);
void translation_roll_back(const struct translation *t);
/* One PC table entry for the host code that follows: guest offset, recovery, instructions before.
 */
void translation_note_pc(struct translation *t, u16 guest, u8 recovery, u8 index);
/* Lowers one instruction. Sets t->ended if it ends the unit. */
void bt_lower(struct translation *t, const struct bt_tinsn *ti);
void bt_lower_branch(struct translation *t, const struct bt_tinsn *ti);
void bt_lower_string(struct translation *t, const struct bt_tinsn *ti);
void bt_lower_system(struct translation *t, const struct bt_tinsn *ti);
void bt_lower_stack(struct translation *t, const struct bt_tinsn *ti);
void bt_lower_trap(struct translation *t, const struct bt_tinsn *ti);
/* Instructions that keep faulting: a light callout where there is one for the form, else an exit.
 */
bool bt_adapted_stays(const struct insn *in); /* the unit can go on behind it */
void bt_lower_adapted(struct translation *t, const struct bt_tinsn *ti);
u64 co_access(struct cpu *cpu, u32 eip);
u64 co_string(struct cpu *cpu, u32 eip);
u64 co_io(struct cpu *cpu, u32 eip);
u64 co_cpuid(struct cpu *cpu, u32 eip);
u64 co_write_cr(struct cpu *cpu, u32 eip);
u64 co_invlpg(struct cpu *cpu, u32 eip);
u64 co_leave_emulate(struct cpu *cpu, u32 eip);
u64 co_leave_kick_inside(struct cpu *cpu, u32 eip);
u64 co_leave_emulate_inside(struct cpu *cpu, u32 eip); /* from a returning callout */
u64 co_leave_again_inside(struct cpu *cpu, u32 eip);
u64 co_leave_fault_inside(struct cpu *cpu, u32 eip);
/* Pieces shared by the lowering files. */
/* The guest's stack at ESP + disp. */
static inline struct host_mem stack_mem(const struct translation *t, i32 disp) {
    return (struct host_mem){
        .base = H_R12, .index = H_NONE, .disp = t->esp_delta + disp, .window = true};
}
/* Moves r12 to where guest ESP + delta is; flags untouched. */
void lower_settle_esp(struct translation *t, i32 delta);
bool lower_needs_esp(const struct bt_tinsn *ti);
struct host_mem lower_mem(struct translation *t, const struct insn *in, i32 extra_disp);
void lower_callout(struct translation *t, unsigned callout, u32 arg, bool returns);
void lower_emulate(struct translation *t, u32 eip);
void lower_poll(struct translation *t);
void lower_exit(struct translation *t, u32 target_eip); /* jmp to a slot */
u8 *lower_slot_jump(struct translation *t, u8 opcode1, u8 opcode2, u32 target_eip);
void lower_slot_stubs(struct translation *t);
void lower_eip_check(struct translation *t, u32 eip, u32 hot_stub);
void lower_plain(struct translation *t, const struct insn *in);

/* ---- observe.c ---- */
void bt_tell(struct bt *bt, const struct bt_event *event);
void bt_tell_translation(struct bt *bt, const struct translation *t, u32 unit);
#define BT_TELL(bt, ...)                                                                           \
    do {                                                                                           \
        if (unlikely((bt)->listeners))                                                             \
            bt_tell(bt, &(struct bt_event){__VA_ARGS__});                                          \
    } while (0)

/* ---- cache.c ---- */
bool cache_create(struct bt *bt, char *err, size_t err_bytes);
/* Empties the jump table of one view, of all. */
void cache_clear_view(struct bt *bt, unsigned view);
void cache_clear_views(struct bt *bt);
void cache_destroy(struct bt *bt);
void cache_flush(struct bt *bt, enum bt_cause cause);
u32 cache_find(const struct bt *bt, u64 gpa, u32 eip, u8 cpl, bool fp_ok);
void cache_insert(struct bt *bt, u32 unit);
void cache_invalidate_range(struct bt *bt, u64 gpa, u64 bytes, enum bt_cause cause);
void cache_invalidate_unit(struct bt *bt, u32 unit, enum bt_cause cause);
void cache_link(struct bt *bt, u32 slot, u32 unit);
void cache_unlink_slot(struct bt *bt, u32 slot);
void cache_unlink_cross_page(struct bt *bt);
u32 cache_unit_at(const struct bt *bt, u64 pc); /* signal safe */
const struct bt_pc *cache_pc_lookup(const struct bt *bt, const struct bt_unit *u, u32 host_offset);
static inline const u8 *unit_indirect_entry(const struct bt *bt, u32 unit) {
    return bt->cache_rx + bt->unit[unit].host + bt_ring_delta(bt, bt->unit[unit].cpl == 3);
}
static inline const u8 *unit_direct_entry(const struct bt *bt, u32 unit) {
    return bt->cache_rx + bt->unit[unit].host_direct + bt_ring_delta(bt, bt->unit[unit].cpl == 3);
}
/* Sites that keep faulting. */
bool site_adapted(const struct bt *bt, u64 gpa);
bool site_live(const struct bt *bt, u64 gpa);
/* page: see struct bt_site. True when just adapted. */
bool site_note_fault(struct bt *bt, u64 gpa, u32 page, unsigned threshold);
struct bt_site *site_at(struct bt *bt, u64 gpa); /* made when there is none */

/* ---- selfcheck.c ---- */
bool selfcheck_create(struct bt *bt);
void selfcheck_destroy(struct bt *bt);
/* A write to a protected page is about to be taken note of. */
void selfcheck_note_write(struct bt *bt, u64 gpa);
/* After an exit: drops the unit that found itself stale, if one did, and learns from it. */
void selfcheck_drop_stale(struct bt *bt);
/* Now and then: protects all pages again, for those that are no longer written. */
void selfcheck_age(struct bt *bt);
/* Is the fault that just left translated code no reason to leave the site to the emulator for good?
 */
bool selfcheck_spares_site(const struct bt *bt);
/* Must the unit end behind this instruction, because it may have changed what follows? */
bool selfcheck_ends_unit(const struct bt_tinsn *ti);
/* Emits the comparison of the unit's source with what it was made from. */
void lower_self_check(struct translation *t);
/* Has the guest been rewriting this instruction's immediate, and can it be lowered so that it is
 * read where it stands? */
bool selfcheck_immediate_is_live(const struct translation *t, const struct bt_tinsn *ti, u64 gpa);
/* Lowers an instruction with a live immediate. False: its own lowering does it. */
bool lower_live(struct translation *t, const struct bt_tinsn *ti);
/* The guest's code at offset bytes behind the instruction's first, as memory. */
static inline struct host_mem source_mem(const struct bt_tinsn *ti, u32 offset) {
    return (struct host_mem){.base = H_NONE,
                             .index = H_NONE,
                             .scale = 1,
                             .disp = (i32)(ti->eip + offset),
                             .window = true};
}

/* ---- run.c, callout*.c, fault.c, entry_*.S ---- */
#define BT_LEAVE 1 /* a callout's result: leave translated code */
/* -icount and -lockstep want what is outside CPU and memory to end the unit. */
static inline bool bt_light_wanted(const struct bt_config *config) {
    return config->light && !config->icount && !config->lockstep;
}
static inline bool bt_fp_allowed(const struct cpu *cpu) {
    return !(cpu->cr0 & (CR0_EM | CR0_TS)) && (cpu->cr4 & CR4_OSFXSR) && !cpu->ferr;
}
/* Hot area <-> struct cpu: flags; segments and control registers. */
void hot_load_flags(struct cpu *cpu);
void hot_store_flags(struct cpu *cpu);
void hot_load_segments(struct cpu *cpu);
/* Forgets what segment loads found: after anything that may change descriptor tables' mappings. */
void hot_forget_segments(struct cpu *cpu);
/* The tables may be mapped elsewhere; their registers are what they were. */
void hot_doubt_segments(struct cpu *cpu);
/* The same as far as needed when anything but translated code and its callouts has run. */
void hot_forget_stale_segments(struct cpu *cpu);
/* Takes over selectors that changed: they mirror struct cpu's whenever guest code runs and whenever
 * a callout begins. True when one of a data segment had. */
bool hot_sync_selectors(struct cpu *cpu);
/* INT n of an application that runs untranslated, its state in struct cpu; its flags there only. */
u64 bt_direct_int(struct cpu *cpu, u32 vector, u32 next_eip);
void hot_select_ring(struct cpu *cpu); /* window, view table and return stack of cpu->cpl */
void hot_set_window(struct cpu *cpu, u64 base);
/* Brings one view's jump table, and on metal the page tables, up to date. False when the host has
 * no memory for it. */
bool bt_sync_view(struct bt *bt, bool user);
void bt_reset_return_stack(struct bt *bt, bool user);
/* Puts the sentinel frame back at its top. */
void bt_clear_return_stack(struct bt *bt, bool user);
void bt_disarm_safepoint(struct cpu *cpu);
/* The code at gpa must prove anew that it is hot. */
void bt_cool(struct bt *bt, u64 gpa);
/* The unit at cpu->eip in the current mode: BT_NONE if not translated; *gpa its address. False when
 * the fetch faults or is not RAM. */
bool bt_find_current(struct bt *bt, u32 *unit, u64 *gpa);
/* Puts a unit into the current view's jump table. */
void bt_publish(struct bt *bt, u32 unit);
u32 bt_enter(struct cpu *cpu, const void *code);
extern const u8 bt_stub_callout[], bt_stub_return_miss[], bt_stub_indirect_miss[];
extern const u8 bt_stub_callout_returning[], bt_stub_load_segment[], bt_stub_underflow[],
    bt_stub_poll[], bt_fault_exit[];
extern const u8 bt_enter_frame[]; /* inside bt_enter, for unwinders */
extern u64 (*const bt_callout_table[CO_COUNT])(struct cpu *cpu, u32 arg);
/* Internal exit value: go round bt_run's loop again (translate, drain, ...). */
#define BT_EXIT_AGAIN 0x100u

static inline bool bt_code_writes_pending(const struct cpu *cpu) {
    const struct mmu *mmu = cpu->mmu;
    return mmu->code_queue_head != mmu->code_queue_tail || mmu->code_queue_overflow;
}

/* Code and stack of the mode that is translated: flat and 32-bit. */
static inline bool bt_code_and_stack_flat(const struct cpu *cpu) {
    const struct segment *cs = &cpu->seg[SEG_CS], *ss = &cpu->seg[SEG_SS];
    return rc_segment_is_flat_code(cs) && rc_segment_is_flat_data(ss) &&
           (cs->attr & ss->attr & ATTR_DB);
}
/* Arithmetic flags as LAHF and SETO leave them: AH = SF ZF AF PF CF, AL = OF. */
static inline u16 bt_flags16(u32 eflags) {
    return (u16)(((eflags & 0xd5) << 8) | ((eflags >> 11) & 1));
}

/* ---- trace.c ---- */
/* in_asm and out_asm of a unit just made; exec. Call them when the category is on. */
void bt_trace_translation(struct bt *bt, const struct translation *t, u32 unit);
void bt_trace_exec(const struct bt *bt, u32 unit);

/* ---- unwind.c ---- */
/* Tells libunwind how to walk through translated frames, from creation to destruction. Without
 * memory for it backtraces end at the first translated frame: not worth failing for. */
void unwind_register(struct bt *bt);
void unwind_unregister(struct bt *bt);

/* ---- verify.c ---- */
/* Checks the host code of a unit against the rules above. NULL, or what is wrong, at *offset. */
const char *bt_verify(const struct bt *bt, const struct bt_unit *unit, u32 *offset);
/* The same on plain bytes: code at cache offset `at`; trap_classes: BT_TRAP_* that may be there;
 * known(opaque, cache_offset) tells whether a branch out of the unit may go there. */
const char *bt_verify_code(const u8 *code, u32 bytes, u32 at, bool icount, u32 trap_classes,
                           bool (*known)(void *opaque, u32 offset), void *opaque, u32 *offset);

/* ---- verify_trap.c ---- */
/* The host instruction at code, if it is one that is left to trap: its bytes, and its BT_TRAP_*
 * bit in *class. Else 0. Signal safe; general registers only. */
unsigned bt_privileged_form(const u8 *code, size_t room, u32 *class);
/* Counts a #GP of translated code at host code `pc` by its class, if it has one. */
void bt_count_trap(struct bt *bt, u64 pc);

#endif
