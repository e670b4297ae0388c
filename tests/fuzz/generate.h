/*
 * generate.h: what the files of the generator share: a case in the making. generate.c lays out
 * cases and their state, encode.c makes one instruction, prepare.c gives it operands that make
 * sense.
 */
#ifndef RINGFOLD_TESTS_FUZZ_GENERATE_H
#define RINGFOLD_TESTS_FUZZ_GENERATE_H

#include "fuzz.h"

/* What a case's number asks of its first instruction, so that each form gets each of them. */
enum fuzz_variant {
    VARIANT_PLAIN,
    VARIANT_ADDRESS, /* 67h */
    VARIANT_SEGMENT,
    VARIANT_LOCK,
    VARIANT_REPEAT, /* F2h or F3h, where they mean something */
    VARIANT_SIZE,   /* 66h */
    VARIANT_STEP,   /* TF */
    VARIANT_SMALL,  /* in 16-bit code */
    VARIANT_SEQUENCE,
    VARIANTS = 16
};

struct gen {
    struct fuzz_case *c;
    struct fuzz_rng r;
    const struct cpu_model *model;
    enum fuzz_variant variant; /* of the instruction being made */
    u8 pinned;                 /* bit per register: its value was chosen */
    bool alone;
    bool plain; /* flat segments, no single-stepping: the host's kernel may emulate it */
    u8 loop;    /* number of the branch that closes a loop; 0: none */
    /* Places that get the address of an instruction, once all are laid out. */
    struct {
        bool reg, end; /* end: the end of the case, whatever is chosen for others */
        u8 at;
        u16 selector; /* stands behind an address of 16 bits */
        u32 offset, base;
    } address[FUZZ_MAX_INSNS];
    unsigned addresses;
};

struct encoding {
    u8 byte[40];
    unsigned bytes;
    u8 segment; /* prefix byte or 0 */
    bool addr16;
    u32 offset; /* of the memory operand in its segment, as far as known */
    u32 base;   /* of that segment */
};

static inline u32 any(struct gen *g) {
    return fuzz_random(&g->r);
}
static inline u32 below(struct gen *g, u32 n) {
    return fuzz_below(&g->r, n);
}
static inline bool one_in(struct gen *g, u32 n) {
    return fuzz_one_in(&g->r, n);
}

/* ---- generate.c ---- */
/* A linear address worth accessing; one that 16-bit offsets reach from the base. */
u32 gen_target(struct gen *g);
u32 gen_target16(struct gen *g, u32 base);
/* The register gets the value unless it has one already. */
void gen_pin(struct gen *g, unsigned reg, u32 value);
static inline bool gen_is_pinned(const struct gen *g, unsigned reg) {
    return g->pinned >> reg & 1;
}
/* A dword in memory, if it is in writable scratch memory. */
void gen_patch(struct gen *g, u32 lin, u32 value);
/* Linear address of what lies on the stack. */
u32 gen_stack_linear(const struct gen *g, u32 above);
/* Base of the segment of a memory operand: overridden, or that of SS or DS. */
u32 gen_segment_base(const struct gen *g, u8 override, bool stack);
u16 gen_data_selector(struct gen *g);

/* ---- encode.c ---- */
/* Encodes an instruction of the form; false: the encoding is no instruction, or one that is left
 * out. */
bool gen_encode(struct gen *g, const struct fuzz_form *f, struct encoding *e, struct insn *in);
bool gen_is_string(const struct fuzz_form *f);

/* ---- prepare.c ---- */
/* Gives registers, memory and immediates values that the instruction can use. */
void gen_prepare(struct gen *g, struct encoding *e, const struct insn *in);
/* Instructions that must be alone. */
bool gen_must_be_alone(const struct insn *in);

#endif
