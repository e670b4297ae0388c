/*
 * prepare.c: operands that make sense: divisors, counts, selectors, return addresses, masks. One
 * function per kind of instruction, ending in a table by mnemonic.
 */
#include "generate.h"

typedef void prepare_fn(struct gen *g, struct encoding *e, const struct insn *in);

/* ---- Memory images ---- */

static u32 linear(const struct encoding *e) {
    return e->offset + e->base;
}

/* The pointers of an image are not compared: report.c compares those in the registers. FXSAVE: SDM
 * volume 1, 10.5.1 "FXSAVE Area", table 10-2; MXCSR_MASK is the processor's. */
static void prepare_fxsave(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)in;
    fuzz_ignore(g->c, linear(e) + 6, 18);
    fuzz_ignore(g->c, linear(e) + 28, 4);
}

/* FSTENV, FSAVE: SDM volume 1, 8.1.10 "Saving the x87 FPU's State with FSTENV/FNSTENV and
 * FSAVE/FNSAVE", figures 8-9 to 8-12. */
static void prepare_environment(struct gen *g, struct encoding *e, const struct insn *in) {
    if (in->op_bytes == 2)
        fuzz_ignore(g->c, linear(e) + 6, 8);
    else
        fuzz_ignore(g->c, linear(e) + 12, 16);
}

static void prepare_ldmxcsr(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)in;
    if (!one_in(g, 6))
        gen_patch(g, linear(e), any(g) & 0xffff);
}
static void prepare_fxrstor(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)in;
    if (!one_in(g, 6))
        gen_patch(g, linear(e) + 24, any(g) & 0xffff);
}

/* SGDT, SIDT: the tables are the host's own. */
static void prepare_table_store(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)in;
    fuzz_ignore(g->c, linear(e), 6);
}

/* ---- Integer operands ---- */

static void prepare_string(struct gen *g, struct encoding *e, const struct insn *in) {
    u32 mask = in->addr_bytes == 2 ? 0xffff : 0xffffffff, upper = any(g) & ~mask;
    for (unsigned reg = R_ESI; reg <= R_EDI; reg++) {
        u32 base =
            reg == R_EDI ? fuzz_base(g->c->seg[SEG_ES]) : gen_segment_base(g, e->segment, false);
        u32 to = (mask == 0xffff ? gen_target16(g, base) : gen_target(g)) - base;
        gen_pin(g, reg, (to & mask) | upper);
    }
    /* Copies that overlap, by a little. */
    if (one_in(g, 8))
        gen_pin(g, R_EDI, g->c->gpr[R_ESI] + below(g, 32) - 16);
    if (in->rep || in->repne)
        gen_pin(g, R_ECX, one_in(g, 16) ? fuzz_value(&g->r) : below(g, one_in(g, 8) ? 3000 : 24));
}

static void prepare_divide(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e;
    if (one_in(g, 4))
        return;
    if (in->op[0].bytes == 1) {
        gen_pin(g, R_EAX, one_in(g, 2) ? below(g, 256) : any(g) & 0xffff0fff);
        return;
    }
    gen_pin(g, R_EDX, one_in(g, 4) ? 0xffffffff : below(g, one_in(g, 2) ? 1 : 200));
}

static void prepare_bits(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e;
    if (in->op[1].type == OP_REG && in->op[0].type == OP_MEM && !one_in(g, 8))
        gen_pin(g, in->op[1].reg, below(g, 16000) - 8000);
}

static void prepare_shift(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e, (void)in;
    if (one_in(g, 2))
        gen_pin(g, R_ECX, below(g, 36) | (any(g) & 0xffffff00));
}

static void prepare_count(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e, (void)in;
    gen_pin(g, R_ECX, below(g, 6));
}

/* The compared value is often there, and the bounds often hold. */
static void prepare_cmpxchg(struct gen *g, struct encoding *e, const struct insn *in) {
    if (one_in(g, 2))
        return;
    if (in->op[0].type == OP_MEM)
        gen_patch(g, linear(e), g->c->gpr[R_EAX]);
    if (in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B)
        gen_patch(g, linear(e) + 4, g->c->gpr[R_EDX]);
}
static void prepare_bound(struct gen *g, struct encoding *e, const struct insn *in) {
    if (one_in(g, 3))
        return;
    gen_patch(g, linear(e), in->op_bytes == 2 ? 0x7fff8000 : 0x80000000);
    gen_patch(g, linear(e) + 4, 0x7fffffff);
}

static void prepare_xlat(struct gen *g, struct encoding *e, const struct insn *in) {
    u32 base = gen_segment_base(g, e->segment, false);
    gen_pin(g, R_EBX, (in->addr_bytes == 2 ? gen_target16(g, base) : gen_target(g)) - base);
}
static void prepare_mask_move(struct gen *g, struct encoding *e, const struct insn *in) {
    prepare_xlat(g, e, in);
    u32 base = gen_segment_base(g, e->segment, false);
    gen_pin(g, R_EDI, (in->addr_bytes == 2 ? gen_target16(g, base) : gen_target(g)) - base);
}

/* ---- The stack ---- */

/* A frame pointer into the stack. */
static u32 random_frame(struct gen *g) {
    u32 base = fuzz_base(g->c->seg[SEG_SS]);
    return FUZZ_STACK + 256 + below(g, 7000) - base;
}
/* ENTER copies as many frame pointers as its level says. */
static void prepare_enter(struct gen *g, struct encoding *e, const struct insn *in) {
    if (!one_in(g, 6))
        store16(e->byte + in->imm_offset, (u16)below(g, 128));
    gen_pin(g, R_EBP, random_frame(g));
}
static void prepare_leave(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e, (void)in;
    gen_pin(g, R_EBP, random_frame(g));
}

static u32 random_flags(struct gen *g) {
    static const u32 interesting[] = {F_NT | F_ID, F_TF, F_AC, F_RF | F_VM, F_IOPL, F_IF};
    u32 value = any(g) & (F_ARITH | F_DF);
    if (one_in(g, 3))
        value |= interesting[below(g, ARRAY_LEN(interesting))];
    if (one_in(g, 16))
        value = any(g);
    return value | F_FIXED;
}
static void prepare_popf(struct gen *g, struct encoding *e, const struct insn *in) {
    (void)e, (void)in;
    gen_patch(g, gen_stack_linear(g, 0), random_flags(g));
}

/* ---- Selectors ---- */

static u16 random_selector(struct gen *g) {
    static const u16 others[] = {0, 3, FUZZ_CS, 0x18, 0x50, 0x63, 0x83, 0x10, 0x40, 0x2a, 0x1007};
    if (one_in(g, 3))
        return FUZZ_DS;
    if (one_in(g, 4))
        return others[below(g, ARRAY_LEN(others))];
    return (u16)FUZZ_LDT(below(g, FUZZ_LDT_ENTRIES)) & (u16)(one_in(g, 8) ? ~3u : ~0u);
}

/* LDS and the like: offset and selector are operands in memory; a stack that goes on working. */
static void prepare_far_load(struct gen *g, struct encoding *e, const struct insn *in) {
    u16 selector = in->mnemonic == ZYDIS_MNEMONIC_LSS && !one_in(g, 3) ? gen_data_selector(g)
                                                                       : random_selector(g);
    if (in->mnemonic == ZYDIS_MNEMONIC_LSS)
        gen_patch(g, linear(e), FUZZ_STACK + below(g, 0x1800) - fuzz_base(selector));
    gen_patch(g, linear(e) + in->op_bytes, selector);
}
static void prepare_segment_load(struct gen *g, struct encoding *e, const struct insn *in) {
    u32 value = random_selector(g) | (any(g) & 0xffff0000);
    if (in->mnemonic == ZYDIS_MNEMONIC_POP)
        gen_patch(g, gen_stack_linear(g, 0), value);
    else if (in->op[1].type == OP_REG)
        gen_pin(g, in->op[1].reg, value);
    else
        gen_patch(g, linear(e), value);
}

/* LAR, LSL, VERR, VERW: the selector is their last operand. */
static void prepare_selector(struct gen *g, struct encoding *e, const struct insn *in) {
    const struct insn_op *op = &in->op[in->op_count - 1];
    u32 value = random_selector(g) | (any(g) & 0xffff0000);
    if (op->type == OP_REG)
        gen_pin(g, op->reg, value);
    else
        gen_patch(g, linear(e), value);
}

/* ---- Transfers ---- */

static void want_address(struct gen *g, bool reg, unsigned at, u32 lin, u16 selector) {
    i32 offset = reg ? 0 : fuzz_scratch_offset(lin);
    if (offset < 0 || offset + 4u > FUZZ_RW_BYTES || g->addresses == ARRAY_LEN(g->address))
        return;
    g->address[g->addresses].reg = reg;
    g->address[g->addresses].at = (u8)at;
    g->address[g->addresses].base = fuzz_base(selector);
    /* Code of the other size is the jump at the end only. */
    g->address[g->addresses].end = fuzz_is_32bit(selector) == g->c->code16;
    g->address[g->addresses++].offset = (u32)offset;
    if (reg)
        g->pinned |= (u8)BIT(at);
}

/* A far pointer to an instruction. */
static void want_pointer(struct gen *g, u32 lin, u16 selector, unsigned bytes) {
    unsigned before = g->addresses;
    want_address(g, false, 0, lin, selector);
    if (bytes == 4)
        gen_patch(g, lin + 4, selector | (any(g) & 0xffff0000));
    else if (g->addresses > before)
        g->address[before].selector = selector;
}

/* Near indirect jumps, calls and returns get an instruction's address, mostly. */
static void prepare_indirect(struct gen *g, struct encoding *e, const struct insn *in) {
    u16 cs = g->c->seg[SEG_CS];
    if (in->op[0].type == OP_FAR || one_in(g, 8))
        return;
    if (in->mnemonic == ZYDIS_MNEMONIC_RET)
        want_address(g, false, 0, gen_stack_linear(g, 0), cs);
    else if (in->op[0].type == OP_REG && !gen_is_pinned(g, in->op[0].reg))
        want_address(g, true, in->op[0].reg, 0, cs);
    else if (in->op[0].type == OP_MEM)
        want_address(g, false, 0, linear(e), cs);
}

static u16 code_selector(struct gen *g) {
    static const u16 flat[] = {
        FUZZ_CS, FUZZ_CS, FUZZ_LDT_CODE, FUZZ_LDT_XO, FUZZ_LDT_BASED_CODE, FUZZ_LDT_SHORT};
    u16 small = (u16)(FUZZ_LDT_CODE16 + ((g->c->entry - FUZZ_CODE) >> 16) * 8);
    if (one_in(g, 6)) {
        static const u16 bad[] = {FUZZ_LDT_NO_CODE,
                                  FUZZ_LDT_CONFORMING,
                                  FUZZ_LDT_RO,
                                  FUZZ_DS,
                                  0x10,
                                  0x08,
                                  0x40,
                                  0x50,
                                  0,
                                  3,
                                  0x1007,
                                  0x83};
        return one_in(g, 2) ? random_selector(g) : bad[below(g, ARRAY_LEN(bad))];
    }
    bool smaller = g->alone ? one_in(g, 3) : g->c->code16; /* one size in a sequence */
    u16 selector = smaller && fuzz_has_16bit() ? small : flat[below(g, ARRAY_LEN(flat))];
    return one_in(g, 12) ? selector & (u16)~below(g, 4) : selector;
}

static void prepare_far(struct gen *g, struct encoding *e, const struct insn *in) {
    u16 selector = code_selector(g);
    u32 at = in->mnemonic == ZYDIS_MNEMONIC_RET ? gen_stack_linear(g, 0) : linear(e);
    if (in->op[0].type == OP_FAR) { /* forward, to the end: its place is not known yet */
        store16(e->byte + in->imm_offset + in->op_bytes, selector);
        u32 to = g->c->entry + g->c->code_bytes + in->length - fuzz_base(selector);
        for (unsigned i = 0; i < in->op_bytes; i++)
            e->byte[in->imm_offset + i] = (u8)(to >> (8 * i));
        return;
    }
    want_pointer(g, at, selector, in->op_bytes);
}

static void prepare_iret(struct gen *g, struct encoding *e, const struct insn *in) {
    u16 selector = code_selector(g);
    (void)e;
    want_pointer(g, gen_stack_linear(g, 0), selector, in->op_bytes);
    gen_patch(g, gen_stack_linear(g, 2u * in->op_bytes), random_flags(g));
}

static bool is_far(const struct insn *in) {
    if (in->map != 0)
        return false;
    u8 reg = in->modrm >> 3 & 7;
    return in->opcode == 0x9a || in->opcode == 0xea || in->opcode == 0xca || in->opcode == 0xcb ||
           (in->opcode == 0xff && (reg == 3 || reg == 5));
}
static void prepare_transfer(struct gen *g, struct encoding *e, const struct insn *in) {
    if (is_far(in))
        prepare_far(g, e, in);
    else
        prepare_indirect(g, e, in);
}

static void prepare_int(struct gen *g, struct encoding *e, const struct insn *in) {
    static const u8 vectors[] = {VEC_BP, VEC_OF, VEC_DB, VEC_GP, 0x20, 0x81, 0xff};
    if (one_in(g, 2))
        e->byte[in->imm_offset] = vectors[below(g, ARRAY_LEN(vectors))];
}

/* ---- By mnemonic ---- */

#define M(name) ZYDIS_MNEMONIC_##name
static const struct {
    u16 mnemonic;
    prepare_fn *prepare;
} table[] = {
    {M(DIV), prepare_divide},
    {M(IDIV), prepare_divide},
    {M(LAR), prepare_selector},
    {M(LSL), prepare_selector},
    {M(VERR), prepare_selector},
    {M(VERW), prepare_selector},
    {M(BT), prepare_bits},
    {M(BTS), prepare_bits},
    {M(BTR), prepare_bits},
    {M(BTC), prepare_bits},
    {M(JMP), prepare_transfer},
    {M(CALL), prepare_transfer},
    {M(RET), prepare_transfer},
    {M(IRET), prepare_iret},
    {M(IRETD), prepare_iret},
    {M(INT), prepare_int},
    {M(POPF), prepare_popf},
    {M(POPFD), prepare_popf},
    {M(ENTER), prepare_enter},
    {M(LEAVE), prepare_leave},
    {M(XLAT), prepare_xlat},
    {M(MASKMOVQ), prepare_mask_move},
    {M(LDMXCSR), prepare_ldmxcsr},
    {M(MASKMOVDQU), prepare_mask_move},
    {M(FXRSTOR), prepare_fxrstor},
    {M(FXSAVE), prepare_fxsave},
    {M(FNSAVE), prepare_environment},
    {M(FNSTENV), prepare_environment},
    {M(LOOP), prepare_count},
    {M(LOOPE), prepare_count},
    {M(LOOPNE), prepare_count},
    {M(JECXZ), prepare_count},
    {M(JCXZ), prepare_count},
    {M(SHL), prepare_shift},
    {M(SHR), prepare_shift},
    {M(SAR), prepare_shift},
    {M(RCL), prepare_shift},
    {M(RCR), prepare_shift},
    {M(SHLD), prepare_shift},
    {M(SHRD), prepare_shift},
    {M(CMPXCHG), prepare_cmpxchg},
    {M(CMPXCHG8B), prepare_cmpxchg},
    {M(BOUND), prepare_bound},
    {M(LDS), prepare_far_load},
    {M(LES), prepare_far_load},
    {M(LFS), prepare_far_load},
    {M(LGS), prepare_far_load},
    {M(LSS), prepare_far_load},
    {M(SGDT), prepare_table_store},
    {M(SIDT), prepare_table_store},
};
#undef M

static bool loads_segment(const struct insn *in) {
    return in->op[0].type == OP_REG && in->op[0].reg_class == RC_SEG &&
           (in->mnemonic == ZYDIS_MNEMONIC_MOV || in->mnemonic == ZYDIS_MNEMONIC_POP);
}
static bool string_insn(const struct insn *in) {
    return in->map == 0 &&
           ((in->opcode >= 0xa4 && in->opcode <= 0xaf && (in->opcode & 0xfe) != 0xa8) ||
            (in->opcode >= 0x6c && in->opcode <= 0x6f));
}

void gen_prepare(struct gen *g, struct encoding *e, const struct insn *in) {
    if (string_insn(in)) {
        prepare_string(g, e, in);
        return;
    }
    if (loads_segment(in)) {
        prepare_segment_load(g, e, in);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].mnemonic == in->mnemonic) {
            table[i].prepare(g, e, in);
            return;
        }
}

/* Their memory images are not wholly compared, or (SGDT and its like) the host's kernel may emulate
 * them, or (LSL) a selector that is left to chance may be 78h, whose limit is the number of the
 * CPU. */
bool gen_must_be_alone(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_LSL:
        return true;
    default:
        return fuzz_kernel_emulates(in->mnemonic);
    }
}
