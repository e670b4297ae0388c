/*
 * fuzz.h: one case of the differential fuzzer: a few instructions and the whole state that a
 * user-mode program sees, run by each engine from the same start at the same linear addresses.
 *
 * Everything about a case follows from seed and case number. Engines leave a fuzz_result; memory is
 * in it as a hash over the lines that changed.
 */
#ifndef RINGFOLD_TESTS_FUZZ_H
#define RINGFOLD_TESTS_FUZZ_H

#include "base/base.h"
#include "base/cpu.h"
#include "isa/insn.h"

#include <stdio.h>

/* ---- Linear memory, alike in the guest and in the native process. A hole precedes and follows
 * each run of pages. ---- */
#define FUZZ_LOW 0x00004000u    /* 2 pages: what 16-bit addresses reach */
#define FUZZ_LOW_RO 0x00006000u /* read-only */
#define FUZZ_STUB 0x0fff9000u   /* native only: where cases end; nothing there in the guest */
#define FUZZ_STUB16 0x40u       /* offset in that page of what a jump from 16-bit code finds */
#define FUZZ_CODE 0x10000000u   /* executable, not writable */
#define FUZZ_CODE_BYTES 0x00100000u
#define FUZZ_HALTS (FUZZ_CODE_BYTES - PAGE_BYTES) /* offset of a last page full of HLTs */
#define FUZZ_MAIN 0x20000000u                     /* 3 pages */
#define FUZZ_MAIN_RO 0x20003000u                  /* read-only */
#define FUZZ_STACK 0x30001000u                    /* 2 pages */
#define FUZZ_STACK_END 0x30010000u                /* a page: where SP wraps to from the first */
#define FUZZ_TOP 0xfffff000u                      /* the last page */
#define FUZZ_SYSTEM                                                                                \
    0x9d5b7000u /* guest only: tables at CPL 0; no case gets there but by chance                   \
                 */
#define FUZZ_SYSTEM_BYTES 0x4000u
/* All writable pages in this order, then the read-only ones: the scratch memory. */
#define FUZZ_PAGES 11u
#define FUZZ_RW_PAGES 9u
#define FUZZ_SCRATCH_BYTES (FUZZ_PAGES * PAGE_BYTES)
#define FUZZ_RW_BYTES (FUZZ_RW_PAGES * PAGE_BYTES)
extern const u32 fuzz_page_lin[FUZZ_PAGES];
/* Offset in scratch memory of a linear address, or -1. */
i32 fuzz_scratch_offset(u32 lin);

/* ---- Selectors, as Linux gives them to a 64-bit process, and an LDT of ours (segments.c) ---- */
#define FUZZ_LDT(index) ((index) << 3 | 7)
enum {
    FUZZ_CS = 0x23,
    FUZZ_DS = 0x2b,
    FUZZ_CS64 = 0x33,
    FUZZ_LDT_BASED = FUZZ_LDT(0),   /* base FUZZ_MAIN - 4000h, 4 GiB */
    FUZZ_LDT_LIMITED = FUZZ_LDT(1), /* base FUZZ_MAIN, 2000h bytes */
    FUZZ_LDT_RO = FUZZ_LDT(2),      /* flat, read-only */
    FUZZ_LDT_DOWN = FUZZ_LDT(3),    /* expand-down above FUZZ_MAIN + FFFh */
    FUZZ_LDT_ABSENT = FUZZ_LDT(4),  /* not present */
    FUZZ_LDT_CODE = FUZZ_LDT(5),    /* flat readable code */
    FUZZ_LDT_XO = FUZZ_LDT(6),      /* execute-only, base FUZZ_CODE, 1 MiB */
    FUZZ_LDT_SHORT = FUZZ_LDT(7),   /* code, base FUZZ_CODE, 50000h bytes */
    FUZZ_LDT_BASED_CODE = FUZZ_LDT(8),
    FUZZ_LDT_NO_CODE = FUZZ_LDT(9),     /* code, not present */
    FUZZ_LDT_CONFORMING = FUZZ_LDT(10), /* the same, conforming: Linux allows no present one */
    FUZZ_LDT_STACK = FUZZ_LDT(11),      /* 32-bit stack, base FUZZ_STACK - 123450h */
    FUZZ_LDT_STACK_DOWN = FUZZ_LDT(12), /* expand-down above FUZZ_STACK + FFFh */
    FUZZ_LDT_STACK16 = FUZZ_LDT(13),    /* 16-bit stack, base FUZZ_STACK, 64 KiB */
    FUZZ_LDT_DATA16 = FUZZ_LDT(14),     /* 16-bit data, base FUZZ_MAIN, 64 KiB */
    FUZZ_LDT_DOWN16 = FUZZ_LDT(15),     /* 16-bit expand-down: offsets 1000h to FFFFh */
    FUZZ_LDT_CODE16 = FUZZ_LDT(16),     /* and 15 more: 64 KiB each of FUZZ_CODE */
    FUZZ_LDT_ENTRIES = 32,
    FUZZ_LDT_LIMIT = 0xfff,
    FUZZ_LDT_EXIT = FUZZ_STUB >> 16 /* code over FUZZ_STUB16, see native_entry.S */
};
struct fuzz_descriptor {
    u32 base, limit; /* limit as encoded */
    bool pages, code, read_only, down, absent, small, conforming;
};
/* NULL: no descriptor of ours, or one that the host does not allow. */
const struct fuzz_descriptor *fuzz_descriptor(u16 selector);
/* Base of what a case may load; 0 for the flat ones. */
u32 fuzz_base(u16 selector);
/* D or B bit; true for the flat ones. */
bool fuzz_is_32bit(u16 selector);
/* What modify_ldt allows on this host; set before anything is generated. */
void fuzz_segments_allow(bool ldt, bool small);
bool fuzz_has_ldt(void);
bool fuzz_has_16bit(void);

/* ---- A case ---- */
#define FUZZ_CODE_MAX 120u
#define FUZZ_EXIT_BYTES 7u /* jmp FUZZ_CS64:FUZZ_STUB, behind the code */
#define FUZZ_SLOT_BYTES 160u
#define FUZZ_MAX_INSNS 12u
#define FUZZ_FX_BYTES 288u /* FXSAVE image, 32-bit format, up to XMM7 */

struct fuzz_patch {
    u32 offset, value; /* a dword in scratch memory */
};
struct fuzz_case {
    _Alignas(64) u8 fx[512];
    u32 gpr[8], eflags;
    u32 entry; /* linear */
    u16 seg[6];
    u8 code[FUZZ_CODE_MAX + FUZZ_EXIT_BYTES + 1];
    u8 code_bytes;
    u8 insns, insn_start[FUZZ_MAX_INSNS + 1];
    u8 patches, ignores;
    bool skip;            /* does not end in the interpreter */
    bool lone;            /* only one instruction */
    bool code16, stack16; /* as it starts */
    u8 left_out;          /* enum fuzz_left_out, with skip */
    struct fuzz_patch patch[8];
    bool careful;                /* fuzz_host_differs has to look */
    struct fuzz_patch ignore[8]; /* scratch offset, bytes: not compared */
    u16 form;                    /* index of the first instruction's form */
    u64 number;
};

/* Why the native process does not run a case. */
enum fuzz_left_out {
    FUZZ_LEFT_NOT,
    FUZZ_LEFT_EMPTY,  /* no instruction could be made */
    FUZZ_LEFT_STRAYS, /* runs into code of other cases, or between two instructions */
    FUZZ_LEFT_LONG,
    FUZZ_LEFT_64BIT,
    FUZZ_LEFT_TASK,
    FUZZ_LEFT_MOVS,
    FUZZ_LEFT_REASONS
};
enum fuzz_end { FUZZ_DONE, FUZZ_FAULT, FUZZ_TIMEOUT, FUZZ_CRASH, FUZZ_ODD };
struct fuzz_result {
    _Alignas(64) u8 fx[512];
    u32 gpr[8], eflags, eip;
    u16 seg[6];
    u8 end; /* enum fuzz_end */
    u8 vector;
    u32 error, cr2;
    u64 memory; /* hash of the changed lines */
};

/* ---- Random numbers ---- */
struct fuzz_rng {
    u64 state;
};
u32 fuzz_random(struct fuzz_rng *r);
static inline u32 fuzz_below(struct fuzz_rng *r, u32 n) {
    return (u32)((u64)fuzz_random(r) * n >> 32);
}
static inline bool fuzz_one_in(struct fuzz_rng *r, u32 n) {
    return fuzz_below(r, n) == 0;
}
/* Seeded by two numbers. */
struct fuzz_rng fuzz_rng(u64 seed, u64 number);
/* 32 bits, corner values more often. */
u32 fuzz_value(struct fuzz_rng *r);
void fuzz_float_bytes(struct fuzz_rng *r, u8 *out, unsigned bytes);

/* ---- Forms (forms.c) ---- */
#define FUZZ_ANY 0xff
struct fuzz_form {
    u8 map, opcode;
    u8 prefix;              /* 0, 66h, F2h, F3h */
    bool has_modrm, memory; /* memory: mod < 3 */
    u8 reg, rm;             /* ModRM fields, or FUZZ_ANY */
    u16 mnemonic;
    u64 cases, done, fault[32], undefined_differs, skipped;
};
extern struct fuzz_form fuzz_form[];
extern unsigned fuzz_forms;
/* Finds all forms that the model announces; those of the mnemonic `without` (or NULL) are
 * forgotten, to see that it is noticed. */
void fuzz_forms_enumerate(const struct cpu_model *model, const char *without);
/* Announces what no CPU model does but the interpreter can run on this host: TZCNT, LZCNT, ADX,
 * AES, PCLMULQDQ, SSE4A. */
void fuzz_add_host_features(struct cpu_model *model);
/* NULL when the instruction may be generated, or why not. */
const char *fuzz_excluded(const struct insn *in, const struct cpu_model *model);
enum fuzz_announcement {
    FUZZ_ANNOUNCED,
    FUZZ_NOT_ANNOUNCED, /* its CPUID bit is clear in the model, or in all models */
    FUZZ_UNKNOWN_SET    /* nobody has said so: an omission */
};
enum fuzz_announcement fuzz_announcement(const ZydisDecodedInstruction *zi,
                                         const struct cpu_model *model);
/* The excluded encodings by reason. */
void fuzz_print_excluded(FILE *out);

/* Decodes what stands at an offset in the case's code, as it starts. */
bool fuzz_decode(const struct fuzz_case *c, u32 at, struct insn *out);

/* ---- Generator (generate.c) ---- */
#define FUZZ_BATCH 4096u
/* Where a case's code lies: batches are laid out at different distances from the start of pages. */
static inline u32 fuzz_entry(u64 number) {
    u32 shift = (u32)(number / FUZZ_BATCH * 52 % (FUZZ_HALTS - FUZZ_BATCH * FUZZ_SLOT_BYTES));
    return FUZZ_CODE + shift + (u32)(number % FUZZ_BATCH) * FUZZ_SLOT_BYTES;
}
void fuzz_generate(struct fuzz_case *c, u64 seed, u64 number, const struct cpu_model *model);
/* The memory that all cases of a batch start with. */
void fuzz_template(u8 scratch[FUZZ_SCRATCH_BYTES], u64 seed, u64 batch);

/* ---- The host (host.c) ---- */
struct fuzz_host {
    char vendor[13];
    unsigned family, model;
    bool under_hypervisor;
};
struct fuzz_host fuzz_host_cpu(void);
bool fuzz_host_is_amd(unsigned family);
bool fuzz_host_has_umip(void);
/* Undefined flags are the interpreter's: hosts/ has the record. */
bool fuzz_host_is_recorded(void);
/* Name of its record: vendor-family-model.txt. */
void fuzz_host_record_name(char *out, size_t bytes);
/* SGDT, SIDT, SLDT, STR, SMSW: with UMIP the host's kernel may do them. */
bool fuzz_kernel_emulates(u16 mnemonic);

/* ---- What hosts may do as they like (tolerated.c) ---- */
/* Takes those bits out of a difference (FUZZ_DIFF_*) that the manual, or a documented difference
 * between processors, allows. */
u32 fuzz_tolerate(const struct fuzz_case *c, const struct fuzz_result *native,
                  const struct fuzz_result *engine, u32 difference);
void fuzz_print_tolerated(FILE *out);
struct cpu;
/* Whether the host is known to do something else than the manual at the next instruction of the
 * case, in the state that it has come to. */
enum fuzz_left_out fuzz_host_differs(struct fuzz_case *c, const struct cpu *cpu,
                                     const struct insn *in);
/* Names the bytes that the instruction which just faulted may or may not have written. */
void fuzz_ignore_partial(struct fuzz_case *c, const struct cpu *cpu);

/* ---- Undefined flags (undefined.c) ---- */
/* The flags that the manual leaves undefined after the instruction. */
u32 fuzz_undefined_flags(const struct insn *in);
/* The union over a case's instructions. */
u32 fuzz_case_undefined(const struct fuzz_case *c);
/* Records what the host did with them: lone instructions that ended. */
void fuzz_note_undefined(const struct fuzz_case *c, const struct fuzz_result *native);
void fuzz_print_undefined(FILE *out);
/* The same as a record for hosts/, and the comparison with the one that is there: the number of
 * lines that differ. */
void fuzz_print_record(FILE *out);
unsigned fuzz_check_record(const char *directory);

/* ---- Memory (memory.c) ---- */
/* These bytes are not compared from here on. */
void fuzz_ignore(struct fuzz_case *c, u32 lin, u32 bytes);
/* Puts template and patches into scratch memory. */
void fuzz_memory_reset(u8 *scratch, const u8 *template, const struct fuzz_case *c);
/* Hash of what differs from the template, the ignored bytes left out (they are zeroed). */
u64 fuzz_memory_hash(u8 *scratch, const u8 *template, const struct fuzz_case *c);

/* ---- The native engine (native.c) ---- */
struct fuzz_native;
/* NULL with a reason where the host does not allow it. Without ldt, as where modify_ldt is refused.
 */
struct fuzz_native *fuzz_native_create(unsigned max_cases, bool ldt, const char **why);
void fuzz_native_destroy(struct fuzz_native *n);
/* Shared with the child; the caller fills them. */
struct fuzz_case *fuzz_native_cases(struct fuzz_native *n);
const struct fuzz_result *fuzz_native_results(struct fuzz_native *n);
u8 *fuzz_native_template(struct fuzz_native *n);
/* Scratch memory as the last case left it. */
u8 *fuzz_native_scratch(struct fuzz_native *n);
/* Starts cases [0, count); their code is taken from them. */
void fuzz_native_start(struct fuzz_native *n, unsigned count);
/* Waits for their end. A case that kills or blocks the child gets FUZZ_CRASH, and a new child goes
 * on behind it. */
void fuzz_native_wait(struct fuzz_native *n);
/* Pages below 64 KiB are there. */
bool fuzz_has_low(void);

/* ---- The engines under test (engines.c) ---- */
enum fuzz_engine { FUZZ_INTERP, FUZZ_BT, FUZZ_ENGINES };
struct fuzz_guest;
/* checked: translated units check themselves. */
struct fuzz_guest *fuzz_guest_create(const struct cpu_model *model, enum fuzz_engine engine,
                                     bool checked);
void fuzz_guest_destroy(struct fuzz_guest *g);
/* New code and read-only memory for a batch. */
void fuzz_guest_load(struct fuzz_guest *g, const struct fuzz_case *cases, unsigned count,
                     const u8 *template);
/* The interpreter also says in c->left_out why the others should not run it. */
void fuzz_guest_run(struct fuzz_guest *g, struct fuzz_case *c, const u8 *template,
                    struct fuzz_result *out);
u8 *fuzz_guest_scratch(struct fuzz_guest *g);

/* ---- Comparison and reports (report.c) ---- */
/* What differs, a bit each; 0 when the results agree. */
enum fuzz_difference {
    FUZZ_DIFF_END = 1,
    FUZZ_DIFF_FAULT = 2,
    FUZZ_DIFF_EIP = 4,
    FUZZ_DIFF_GPR = 8,
    FUZZ_DIFF_FLAGS = 16,
    FUZZ_DIFF_UNDEFINED = 32, /* flags that the manual leaves undefined */
    FUZZ_DIFF_SEGMENTS = 64,
    FUZZ_DIFF_FX = 128,
    FUZZ_DIFF_MEMORY = 256
};
u32 fuzz_compare(const struct fuzz_case *c, const struct fuzz_result *a,
                 const struct fuzz_result *b);
bool fuzz_fx_differs(const struct fuzz_result *a, const struct fuzz_result *b);
/* Disassembly, input and the fields that differ. */
void fuzz_print_case(const struct fuzz_case *c);
void fuzz_print_results(const struct fuzz_case *c, const struct fuzz_result *native,
                        const struct fuzz_result *engine, const char *engine_name);
void fuzz_print_memory(const u8 *native, const u8 *engine);
/* ---- Coverage (coverage.c) ---- */
/* Finds all that there is to cover. */
void fuzz_cover_universe(const struct cpu_model *model);
/* Counts a lone case. */
void fuzz_cover_case(const struct fuzz_case *c, const struct fuzz_result *native);
void fuzz_print_table(FILE *out);
/* Prints what was neither executed nor left out for a reason, and reasons that do not hold. Returns
 * their number. */
unsigned fuzz_check_coverage(void);

/* All forms with their cases and outcomes. */
void fuzz_print_coverage(FILE *out);

#endif
