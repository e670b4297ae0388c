/*
 * generate.c: makes a case out of a seed and a number: instructions from the table of forms with
 * random operands, and the state they start in.
 *
 * The first instruction's form goes round robin, so that every form gets its share. Registers that
 * an instruction needs as pointer, counter or divisor are given a fitting value, once ("pinned");
 * whoever needs the same register later makes the best of its value.
 */
#include "fuzz.h"

struct gen {
    struct fuzz_case *c;
    struct fuzz_rng r;
    const struct cpu_model *model;
    u8 pinned; /* bit per register: its value was chosen */
    u8 target; /* bit per instruction: jumps there */
    /* Places that get the address of an instruction, once all are laid out. */
    struct {
        bool reg;
        u8 at;
        u32 offset;
    } address[FUZZ_MAX_INSNS];
    unsigned addresses;
};

static u32 any(struct gen *g) {
    return fuzz_random(&g->r);
}
static u32 below(struct gen *g, u32 n) {
    return fuzz_below(&g->r, n);
}
static bool one_in(struct gen *g, u32 n) {
    return fuzz_one_in(&g->r, n);
}

/* ---- Addresses and registers ---- */

/* A linear address worth accessing. */
static u32 random_target(struct gen *g) {
    static const u32 edges[] = {FUZZ_MAIN,    FUZZ_MAIN + 0x1000,    FUZZ_MAIN + 0x2000,
                                FUZZ_MAIN_RO, FUZZ_MAIN_RO + 0x1000, FUZZ_STACK,
                                FUZZ_LOW,     FUZZ_LOW_RO,           FUZZ_TOP};
    u32 align = one_in(g, 3) ? 0 : 15;
    switch (below(g, 24)) {
    case 0:
    case 1: /* about the edge of a page */
        return edges[below(g, ARRAY_LEN(edges))] - below(g, 33);
    case 2:
        return FUZZ_MAIN_RO + below(g, PAGE_BYTES - 16);
    case 3:
        return FUZZ_STACK + below(g, 2 * PAGE_BYTES - 16);
    case 4:
        return FUZZ_LOW + below(g, 2 * PAGE_BYTES - 16);
    case 5:
        return one_in(g, 4) ? 0u - below(g, 40) : FUZZ_TOP + below(g, PAGE_BYTES - 40);
    case 6:
        if (one_in(g, 3))
            return one_in(g, 2) ? any(g) : FUZZ_CODE + FUZZ_HALTS + below(g, PAGE_BYTES - 640);
        /* fall through */
    default:
        return (FUZZ_MAIN + 64 + below(g, 3 * PAGE_BYTES - 640)) & ~align;
    }
}

static bool is_pinned(const struct gen *g, unsigned reg) {
    return g->pinned >> reg & 1;
}
static void pin(struct gen *g, unsigned reg, u32 value) {
    if (!is_pinned(g, reg))
        g->c->gpr[reg] = value;
    g->pinned |= (u8)BIT(reg);
}

static u32 segment_base(const struct gen *g, u8 override) {
    u16 selector = override == 0x64 ? g->c->fs : override == 0x65 ? g->c->gs : FUZZ_DS;
    return selector & 4 ? fuzz_ldt[selector >> 3].base : 0;
}

static void patch(struct gen *g, u32 lin, u32 value) {
    struct fuzz_case *c = g->c;
    i32 offset = fuzz_scratch_offset(lin);
    if (offset < 0 || offset + 4u > FUZZ_RW_BYTES || c->patches == ARRAY_LEN(c->patch))
        return;
    c->patch[c->patches++] = (struct fuzz_patch){(u32)offset, value};
}

/* ---- Encoding one instruction ---- */

struct encoding {
    u8 byte[40];
    unsigned bytes;
    u8 segment; /* prefix byte or 0 */
    bool addr16;
    u32 offset; /* of the memory operand in its segment, as far as known */
};
static void put(struct encoding *e, u32 byte) {
    e->byte[e->bytes++] = (u8)byte;
}
static void put_n(struct encoding *e, u32 value, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        put(e, value >> (8 * i));
}

static void put_displacement(struct encoding *e, unsigned mod, u32 value, unsigned word) {
    if (mod == 1)
        put(e, value);
    else if (mod == 2)
        put_n(e, value, word);
}

/* Displacement of a mod that may name it: none, 8 or more bits. */
static u32 random_displacement(struct gen *g, unsigned mod) {
    if (mod == 0)
        return 0;
    if (mod == 1)
        return (u32)(i8)any(g);
    return one_in(g, 2) ? fuzz_value(&g->r) : below(g, 512) - 256;
}

/* 16-bit forms: SDM volume 2, table 2-1. */
static void put_memory16(struct gen *g, struct encoding *e, unsigned reg, u32 offset) {
    static const u8 first[8] = {R_EBX, R_EBX, R_EBP, R_EBP, R_ESI, R_EDI, R_EBP, R_EBX};
    static const u8 second[4] = {R_ESI, R_EDI, R_ESI, R_EDI};
    unsigned mod = below(g, 3), rm = below(g, 8);
    if (mod == 0 && rm == 6) {
        put(e, reg << 3 | rm);
        put_n(e, offset, 2);
        return;
    }
    u32 sum = 0, disp = random_displacement(g, mod);
    if (rm < 4) {
        pin(g, second[rm], fuzz_value(&g->r));
        sum = g->c->gpr[second[rm]];
    }
    u32 want = (offset - sum - disp) & 0xffff;
    pin(g, first[rm], want | (any(g) & 0xffff0000));
    if ((u16)(g->c->gpr[first[rm]] + sum + disp) != (u16)offset) {
        mod = 2;
        disp = offset - sum - g->c->gpr[first[rm]];
    }
    put(e, mod << 6 | reg << 3 | rm);
    put_displacement(e, mod, disp, 2);
}

static void put_memory32(struct gen *g, struct encoding *e, unsigned reg, u32 offset) {
    unsigned mod = below(g, 3), base = below(g, 8), index = 4, scale = below(g, 4);
    bool sib = base == 4 || one_in(g, 3);
    if (one_in(g, 5)) { /* absolute, with or without SIB */
        put(e, reg << 3 | (sib ? 4 : 5));
        if (sib)
            put(e, 0x25);
        put_n(e, offset, 4);
        return;
    }
    if (sib && one_in(g, 2))
        index = below(g, 8);
    u32 sum = 0, disp = random_displacement(g, mod);
    if (index != 4) {
        pin(g, index, one_in(g, 2) ? below(g, 64) : fuzz_value(&g->r));
        sum = g->c->gpr[index] << scale;
    }
    if (base == 5 && mod == 0)
        mod = 1;
    pin(g, base, offset - sum - disp);
    if (g->c->gpr[base] + sum + disp != offset || (base == index && index != 4)) {
        mod = 2;
        disp = offset - sum - g->c->gpr[base];
    }
    put(e, mod << 6 | reg << 3 | (sib ? 4 : base));
    if (sib)
        put(e, scale << 6 | index << 3 | base);
    put_displacement(e, mod, disp, 4);
}

static void put_modrm(struct gen *g, struct encoding *e, const struct fuzz_form *f) {
    unsigned reg = f->reg == FUZZ_ANY ? below(g, 8) : f->reg;
    if (!f->memory) {
        put(e, 0xc0 | reg << 3 | (f->rm == FUZZ_ANY ? below(g, 8) : f->rm));
        return;
    }
    u32 target = random_target(g);
    if (e->addr16 && !one_in(g, 8))
        target = segment_base(g, e->segment) + FUZZ_LOW + below(g, 2 * PAGE_BYTES - 16);
    e->offset = target - segment_base(g, e->segment);
    if (e->addr16)
        e->offset &= 0xffff;
    if (e->addr16)
        put_memory16(g, e, reg, e->offset);
    else
        put_memory32(g, e, reg, e->offset);
}

static bool is_string(const struct fuzz_form *f) {
    return f->map == 0 && ((f->opcode >= 0xa4 && f->opcode <= 0xaf && (f->opcode & 0xfe) != 0xa8) ||
                           (f->opcode >= 0x6c && f->opcode <= 0x6f));
}

/* Prefixes in random order. */
static void put_prefixes(struct gen *g, struct encoding *e, const struct fuzz_form *f) {
    static const u8 segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    u8 list[6];
    unsigned n = 0;
    bool memory = f->memory || is_string(f);
    if (f->prefix)
        list[n++] = f->prefix;
    if (one_in(g, memory ? 12 : 40)) {
        e->addr16 = true;
        list[n++] = 0x67;
    }
    if (one_in(g, memory ? 8 : 60))
        list[n++] = e->segment = segments[below(g, ARRAY_LEN(segments))];
    if (one_in(g, memory ? 12 : 60))
        list[n++] = 0xf0;
    if (f->map == 0 && !f->prefix && one_in(g, is_string(f) ? 2 : 40))
        list[n++] = one_in(g, 2) ? 0xf2 : 0xf3;
    if (one_in(g, 60))
        list[n++] = f->prefix && f->prefix != 0x66 ? f->prefix : 0x66;
    for (unsigned i = n; i > 1; i--) {
        unsigned k = below(g, i);
        u8 swap = list[i - 1];
        list[i - 1] = list[k];
        list[k] = swap;
    }
    for (unsigned i = 0; i < n; i++)
        put(e, list[i]);
}

/* F2 and F3 turn LOOPE into LOOPNE and back on AMD family 1Ah. SDM volume 2, 2.1.1 "Instruction
 * Prefixes": with other than string instructions their use is reserved and may be unpredictable. */
static bool reserved_repeat(const struct insn *in) {
    bool loop = in->mnemonic == ZYDIS_MNEMONIC_LOOPE || in->mnemonic == ZYDIS_MNEMONIC_LOOPNE;
    return loop && (in->rep || in->repne);
}

/* Decodes what was put, with random bytes behind for immediates. LOCK where it is not allowed is
 * #UD: such encodings stay, now and then. */
static bool finish(struct gen *g, struct encoding *e, struct insn *in) {
    for (unsigned i = 0; i < 8; i++)
        e->byte[e->bytes + i] = (u8)fuzz_value(&g->r);
    enum insn_status status = insn_decode(in, e->byte, INSN_MAX_BYTES, true, true);
    if (status == INSN_INVALID) {
        u8 bare[INSN_MAX_BYTES + 1];
        unsigned n = 0, locks = 0;
        for (unsigned i = 0; i < INSN_MAX_BYTES; i++) {
            bool lock = !locks && e->byte[i] == 0xf0;
            locks += lock;
            if (!lock)
                bare[n++] = e->byte[i];
        }
        if (!locks || !one_in(g, 6) || insn_decode(in, bare, n, true, true) != INSN_OK)
            return false;
        /* AMD: LOCK MOV CR0 is MOV CR8 (CPUID 80000001h.ECX[4]). */
        if (fuzz_excluded(in, g->model) || (in->map == 1 && (in->opcode & 0xfc) == 0x20))
            return false;
        e->bytes = in->length + 1u;
        return true;
    }
    e->bytes = in->length;
    return status == INSN_OK && !fuzz_excluded(in, g->model) && !reserved_repeat(in);
}

/* ---- What single mnemonics want ---- */

static u16 random_selector(struct gen *g) {
    static const u16 selectors[] = {FUZZ_DS,
                                    FUZZ_DS,
                                    FUZZ_DS,
                                    FUZZ_DS,
                                    0,
                                    FUZZ_CS,
                                    FUZZ_LDT_BASED,
                                    FUZZ_LDT_RO,
                                    FUZZ_LDT_DOWN,
                                    FUZZ_LDT_LIMITED,
                                    FUZZ_LDT_CODE,
                                    FUZZ_LDT_ABSENT,
                                    0x18,
                                    0x50,
                                    0x63,
                                    0x37,
                                    0x83,
                                    3};
    return selectors[below(g, ARRAY_LEN(selectors))];
}

static void want_address(struct gen *g, bool reg, unsigned at, u32 lin) {
    i32 offset = reg ? 0 : fuzz_scratch_offset(lin);
    if (offset < 0 || offset + 4u > FUZZ_RW_BYTES || g->addresses == ARRAY_LEN(g->address))
        return;
    g->address[g->addresses].reg = reg;
    g->address[g->addresses].at = (u8)at;
    g->address[g->addresses++].offset = (u32)offset;
    if (reg)
        g->pinned |= (u8)BIT(at);
}

static void prepare_string(struct gen *g, const struct insn *in) {
    u32 mask = in->addr_bytes == 2 ? 0xffff : 0xffffffff, upper = any(g) & ~mask;
    for (unsigned reg = R_ESI; reg <= R_EDI; reg++) {
        u32 to = mask == 0xffff ? FUZZ_LOW + below(g, 0x2400) : random_target(g);
        pin(g, reg, (to & mask) | upper);
    }
    if (in->rep || in->repne)
        pin(g, R_ECX, one_in(g, 16) ? fuzz_value(&g->r) : below(g, one_in(g, 8) ? 3000 : 24));
}

static void prepare_divide(struct gen *g, const struct insn *in) {
    if (one_in(g, 4))
        return;
    if (in->op[0].bytes == 1) {
        pin(g, R_EAX, one_in(g, 2) ? below(g, 256) : any(g) & 0xffff0fff);
        return;
    }
    pin(g, R_EDX, one_in(g, 4) ? 0xffffffff : below(g, one_in(g, 2) ? 1 : 200));
}

static void prepare_segment_load(struct gen *g, const struct insn *in, u32 lin) {
    u16 selector = random_selector(g);
    if (in->mnemonic == ZYDIS_MNEMONIC_POP)
        patch(g, g->c->gpr[R_ESP], selector | (any(g) & 0xffff0000));
    else if (in->mnemonic != ZYDIS_MNEMONIC_MOV)
        patch(g, lin + in->op_bytes, selector);
    else if (in->op[1].type == OP_REG)
        pin(g, in->op[1].reg, selector | (any(g) & 0xffff0000));
    else
        patch(g, lin, selector);
}

/* LAR, LSL, VERR, VERW: the selector is their last operand. */
static void prepare_selector(struct gen *g, const struct insn *in, u32 lin) {
    const struct insn_op *op = &in->op[in->op_count - 1];
    if (op->type == OP_REG)
        pin(g, op->reg, random_selector(g) | (any(g) & 0xffff0000));
    else
        patch(g, lin, random_selector(g));
}

static bool loads_segment(const struct insn *in) {
    return (in->op[0].type == OP_REG && in->op[0].reg_class == RC_SEG &&
            (in->mnemonic == ZYDIS_MNEMONIC_MOV || in->mnemonic == ZYDIS_MNEMONIC_POP)) ||
           in->mnemonic == ZYDIS_MNEMONIC_LDS || in->mnemonic == ZYDIS_MNEMONIC_LES ||
           in->mnemonic == ZYDIS_MNEMONIC_LFS || in->mnemonic == ZYDIS_MNEMONIC_LGS;
}

/* Near indirect jumps, calls and returns get an instruction's address, mostly. */
static void prepare_indirect(struct gen *g, const struct insn *in, u32 lin) {
    bool relative = in->op[0].type == OP_IMM;
    if (one_in(g, 8))
        return;
    if (in->mnemonic == ZYDIS_MNEMONIC_RET)
        want_address(g, false, 0, g->c->gpr[R_ESP]);
    else if (!relative && in->op[0].type == OP_REG && !is_pinned(g, in->op[0].reg))
        want_address(g, true, in->op[0].reg, 0);
    else if (!relative && in->op[0].type == OP_MEM)
        want_address(g, false, 0, lin);
}

static void prepare_bits(struct gen *g, const struct insn *in) {
    if (in->op[1].type == OP_REG && in->op[0].type == OP_MEM && !one_in(g, 8))
        pin(g, in->op[1].reg, below(g, 16000) - 8000);
}

static void prepare_popf(struct gen *g) {
    static const u32 interesting[] = {F_NT | F_ID, F_TF, F_AC, F_RF | F_VM, F_IOPL, F_IF};
    u32 value = any(g) & (F_ARITH | F_DF);
    if (one_in(g, 3))
        value |= interesting[below(g, ARRAY_LEN(interesting))];
    if (one_in(g, 16))
        value = any(g);
    patch(g, g->c->gpr[R_ESP], value | F_FIXED);
}

/* ENTER copies as many frame pointers as its level says. */
static void prepare_enter(struct gen *g, struct encoding *e, const struct insn *in) {
    if (!one_in(g, 6))
        store16(e->byte + in->imm_offset, (u16)below(g, 128));
    pin(g, R_EBP, FUZZ_STACK + 256 + below(g, 7000));
}

static void prepare(struct gen *g, struct encoding *e, const struct insn *in) {
    u32 lin = e->offset + segment_base(g, e->segment);
    if (loads_segment(in)) {
        prepare_segment_load(g, in, lin);
        return;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        prepare_divide(g, in);
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        prepare_selector(g, in, lin);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        prepare_bits(g, in);
        break;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
        prepare_indirect(g, in, lin);
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
        prepare_popf(g);
        break;
    case ZYDIS_MNEMONIC_ENTER:
        prepare_enter(g, e, in);
        break;
    case ZYDIS_MNEMONIC_LEAVE:
        pin(g, R_EBP, FUZZ_STACK + below(g, 2 * PAGE_BYTES));
        break;
    case ZYDIS_MNEMONIC_XLAT:
        pin(g, R_EBX, random_target(g));
        break;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
        pin(g, R_EDI, random_target(g));
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
        if (!one_in(g, 6))
            patch(g, lin, any(g) & 0xffff);
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
        if (!one_in(g, 6))
            patch(g, lin + 24, any(g) & 0xffff);
        break;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JCXZ:
        pin(g, R_ECX, below(g, 6));
        break;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        if (one_in(g, 2))
            pin(g, R_ECX, below(g, 36) | (any(g) & 0xffffff00));
        break;
    default:
        break;
    }
}

bool fuzz_stores_pointers(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
        return true;
    default:
        return false;
    }
}

static void ignore_bytes(struct fuzz_case *c, u32 lin, u32 bytes) {
    for (u32 i = 0; i < bytes && c->ignores < ARRAY_LEN(c->ignore);) {
        i32 offset = fuzz_scratch_offset(lin + i);
        u32 n = MIN(bytes - i, PAGE_BYTES - ((lin + i) & PAGE_OFFSET_MASK));
        if (offset >= 0 && (u32)offset < FUZZ_RW_BYTES)
            c->ignore[c->ignores++] = (struct fuzz_patch){(u32)offset, n};
        i += n;
    }
}

/* The pointers in an image in memory: SDM volume 1, figures 8-9 to 8-12 and table 10-2. */
static void ignore_pointers(struct gen *g, const struct insn *in, u32 lin) {
    struct fuzz_case *c = g->c;
    if (in->mnemonic == ZYDIS_MNEMONIC_FXSAVE) {
        ignore_bytes(c, lin + 6, 18);
        ignore_bytes(c, lin + 28, 4); /* MXCSR_MASK */
    } else if (in->op_bytes == 4) {
        ignore_bytes(c, lin + 12, 16);
    } else {
        ignore_bytes(c, lin + 6, 8);
    }
}

/* ---- Sequences ---- */

static bool is_relative(const struct insn *in) {
    return in->op[0].type == OP_IMM && in->imm_bytes &&
           ((in->map == 0 &&
             ((in->opcode & 0xf0) == 0x70 || (in->opcode >= 0xe0 && in->opcode <= 0xe3) ||
              in->opcode == 0xe8 || in->opcode == 0xe9 || in->opcode == 0xeb)) ||
            (in->map == 1 && (in->opcode & 0xf0) == 0x80));
}

/* Instructions that must be alone: their memory images are not wholly compared, or (LSL) a selector
 * that is left to chance may be 78h, whose limit is the number of the CPU. */
static bool must_be_alone(const struct insn *in) {
    return fuzz_stores_pointers(in) || in->mnemonic == ZYDIS_MNEMONIC_LSL;
}

/* Appends an instruction of the form. False: try another. */
static bool append(struct gen *g, const struct fuzz_form *f, bool alone) {
    struct fuzz_case *c = g->c;
    struct encoding e = {.bytes = 0};
    struct insn in;
    put_prefixes(g, &e, f);
    if (f->map)
        put(&e, 0x0f);
    if (f->map > 1)
        put(&e, f->map == 2 ? 0x38 : 0x3a);
    put(&e, f->opcode);
    if (f->has_modrm)
        put_modrm(g, &e, f);
    if (!finish(g, &e, &in) || (must_be_alone(&in) && !alone))
        return false;
    if (in.map == 0 && in.opcode >= 0xa0 && in.opcode <= 0xa3) { /* MOV moffs */
        e.offset = random_target(g) - segment_base(g, e.segment);
        if (in.addr_bytes == 4)
            store32(e.byte + e.bytes - 4, e.offset);
        else
            store16(e.byte + e.bytes - 2, (u16)(FUZZ_LOW + below(g, 0x2000)));
    }
    if (is_string(f))
        prepare_string(g, &in);
    else
        prepare(g, &e, &in);
    if (fuzz_stores_pointers(&in))
        ignore_pointers(g, &in, e.offset + segment_base(g, e.segment));
    if (c->code_bytes + e.bytes > FUZZ_CODE_MAX)
        return false;
    c->insn_start[c->insns++] = c->code_bytes;
    memcpy(c->code + c->code_bytes, e.byte, e.bytes);
    c->code_bytes += (u8)e.bytes;
    c->insn_start[c->insns] = c->code_bytes;
    return true;
}

/* Relative branches lead to an instruction behind them, LOOPs also to one before. */
static void fix_branches(struct gen *g) {
    struct fuzz_case *c = g->c;
    for (unsigned i = 0; i < c->insns; i++) {
        struct insn in;
        u8 *at = c->code + c->insn_start[i];
        if (insn_decode(&in, at, 15, true, true) != INSN_OK || !is_relative(&in))
            continue;
        bool loop = in.map == 0 && in.opcode >= 0xe0 && in.opcode <= 0xe2;
        unsigned to =
            loop && one_in(g, 2) ? below(g, i + 1u) : i + 1 + below(g, (u32)(c->insns - i));
        u32 distance = (u32)c->insn_start[to] - c->insn_start[i + 1];
        if (in.imm_bytes == 4 && one_in(g, 16)) /* into a hole or a data page */
            distance = random_target(g) - c->entry - c->insn_start[i + 1];
        for (unsigned k = 0; k < in.imm_bytes; k++)
            at[in.imm_offset + k] = (u8)(distance >> (8 * k));
    }
}

static void fix_addresses(struct gen *g) {
    struct fuzz_case *c = g->c;
    for (unsigned i = 0; i < g->addresses; i++) {
        u32 eip = c->entry + c->insn_start[1 + below(g, c->insns)];
        if (g->address[i].reg)
            c->gpr[g->address[i].at] = eip;
        else if (c->patches < ARRAY_LEN(c->patch))
            c->patch[c->patches++] = (struct fuzz_patch){g->address[i].offset, eip};
    }
}

/* ---- State ---- */

static void random_registers(struct gen *g) {
    struct fuzz_case *c = g->c;
    static const u16 selectors[] = {FUZZ_DS,        FUZZ_DS,          FUZZ_DS,     0,
                                    FUZZ_LDT_BASED, FUZZ_LDT_LIMITED, FUZZ_LDT_RO, FUZZ_LDT_DOWN};
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = one_in(g, 3) ? random_target(g) : fuzz_value(&g->r);
    c->gpr[R_ESP] = FUZZ_STACK + 0x400 + below(g, 0x1800);
    if (!one_in(g, 6))
        c->gpr[R_ESP] &= ~3u;
    if (one_in(g, 40))
        c->gpr[R_ESP] = (one_in(g, 2) ? FUZZ_STACK : FUZZ_STACK + 0x2000) + below(g, 64) - 32;
    g->pinned = BIT(R_ESP);
    c->eflags = F_FIXED | F_IF | (any(g) & F_ARITH);
    if (one_in(g, 16))
        c->eflags |= F_DF;
    c->fs = selectors[below(g, ARRAY_LEN(selectors))];
    c->gs = selectors[below(g, ARRAY_LEN(selectors))];
}

/* FXSAVE image: SDM volume 1, table 10-2. */
static void random_fx(struct gen *g) {
    struct fuzz_case *c = g->c;
    u16 fcw = one_in(g, 2) ? 0x37f : (u16)((any(g) & 0xf3f) | 0x40);
    u16 fsw = one_in(g, 2) ? (u16)(below(g, 8) << 11) : (u16)(any(g) & 0x7f7f);
    u32 mxcsr = 0x1f80;
    if (!one_in(g, 3))
        fcw |= 0x3f;
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    if (one_in(g, 2))
        mxcsr |= any(g) & 0xe07f;
    if (one_in(g, 4))
        mxcsr &= any(g) | 0xe07f;
    store16(c->fx, fcw);
    store16(c->fx + 2, fsw);
    c->fx[4] = (u8)(one_in(g, 2) ? 0xff : one_in(g, 2) ? 0 : any(g));
    store32(c->fx + 24, mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        fuzz_float_bytes(&g->r, c->fx + 32 + 16 * i, 10);
        u8 *xmm = c->fx + 160 + 16 * i;
        unsigned kind = below(g, 3);
        for (unsigned k = 0; k < 16; k += kind == 1 ? 8 : 4)
            if (kind == 0)
                fuzz_float_bytes(&g->r, xmm + k, 4);
            else if (kind == 1)
                fuzz_float_bytes(&g->r, xmm + k, 8);
            else
                store32(xmm + k, fuzz_value(&g->r));
    }
}

/* Integer forms come first in the table of forms: maps are enumerated in order. */
static const struct fuzz_form *random_form(struct gen *g) {
    for (unsigned attempt = 0;; attempt++) {
        const struct fuzz_form *f = &fuzz_form[below(g, fuzz_forms)];
        bool x87 = f->map == 0 && (f->opcode & 0xf8) == 0xd8;
        if ((!x87 || one_in(g, 4)) && (f->map == 0 || one_in(g, 2)))
            return f;
    }
}

static void finish_case(struct gen *g) {
    struct fuzz_case *c = g->c;
    u8 *end = c->code + c->code_bytes;
    fix_branches(g);
    fix_addresses(g);
    end[0] = 0xea;
    store32(end + 1, FUZZ_STUB);
    store16(end + 5, FUZZ_CS64);
    c->lone = c->insns == 1;
    if (one_in(g, 24))
        c->eflags |= F_AC;
}

void fuzz_generate(struct fuzz_case *c, u64 seed, u64 number, const struct cpu_model *model) {
    struct gen g = {.c = c, .r = fuzz_rng(seed, number), .model = model};
    memset(c, 0, sizeof *c);
    c->number = number;
    c->entry = fuzz_entry(number);
    c->form = (u16)(number % fuzz_forms);
    random_registers(&g);
    random_fx(&g);
    bool alone = one_in(&g, 2);
    unsigned want = alone ? 1 : 2 + below(&g, FUZZ_MAX_INSNS - 1);
    for (unsigned attempt = 0; attempt < 40 && c->insns == 0; attempt++)
        append(&g, &fuzz_form[c->form], alone);
    for (unsigned attempt = 0; attempt < 40 && c->insns && c->insns < want; attempt++)
        append(&g, random_form(&g), false);
    c->skip = c->insns == 0;
    finish_case(&g);
}
