/*
 * generate.c: makes a case out of a seed and a number: instructions from the table of forms with
 * random operands, and the state they start in.
 *
 * The first instruction's form goes round robin, and with each round what is asked of it (enum
 * fuzz_variant), so that every form gets its share. Registers that an instruction needs as pointer,
 * counter or divisor are given a fitting value, once ("pinned"); whoever needs the same register
 * later makes the best of its value.
 */
#include "generate.h"

/* ---- Addresses and registers ---- */

u32 gen_target(struct gen *g) {
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
        if (one_in(g, 3)) /* the case's own code, which no case may write */
            return g->c->entry + below(g, FUZZ_CODE_MAX);
        /* fall through */
    default:
        return (FUZZ_MAIN + 64 + below(g, 3 * PAGE_BYTES - 640)) & ~align;
    }
}

u32 gen_target16(struct gen *g, u32 base) {
    if (one_in(g, 16)) /* about the ends of the 64 KiB */
        return base + ((one_in(g, 2) ? 0x10000 : 0) - below(g, 24));
    u32 page = fuzz_page_lin[below(g, FUZZ_PAGES)];
    for (unsigned attempt = 0; attempt < 20 && page - base >= 0x10000; attempt++)
        page = fuzz_page_lin[below(g, FUZZ_PAGES)];
    return page + (below(g, PAGE_BYTES) & (one_in(g, 3) ? ~0u : ~15u));
}

void gen_pin(struct gen *g, unsigned reg, u32 value) {
    if (!gen_is_pinned(g, reg))
        g->c->gpr[reg] = value;
    g->pinned |= (u8)BIT(reg);
}

void gen_patch(struct gen *g, u32 lin, u32 value) {
    struct fuzz_case *c = g->c;
    i32 offset = fuzz_scratch_offset(lin);
    if (offset < 0 || offset + 4u > FUZZ_RW_BYTES || c->patches == ARRAY_LEN(c->patch))
        return;
    c->patch[c->patches++] = (struct fuzz_patch){(u32)offset, value};
}

u32 gen_segment_base(const struct gen *g, u8 override, bool stack) {
    static const struct {
        u8 prefix, seg;
    } map[] = {{0x26, SEG_ES}, {0x2e, SEG_CS}, {0x36, SEG_SS},
               {0x3e, SEG_DS}, {0x64, SEG_FS}, {0x65, SEG_GS}};
    u8 seg = stack ? SEG_SS : SEG_DS;
    for (unsigned i = 0; i < ARRAY_LEN(map); i++)
        if (map[i].prefix == override)
            seg = map[i].seg;
    return fuzz_base(g->c->seg[seg]);
}

u32 gen_stack_linear(const struct gen *g, u32 above) {
    u32 offset = g->c->gpr[R_ESP] + above;
    return fuzz_base(g->c->seg[SEG_SS]) + (g->c->stack16 ? offset & 0xffff : offset);
}

/* ---- Sequences ---- */

static bool is_relative(const struct insn *in) {
    return in->op[0].type == OP_IMM && in->imm_bytes &&
           ((in->map == 0 &&
             ((in->opcode & 0xf0) == 0x70 || (in->opcode >= 0xe0 && in->opcode <= 0xe3) ||
              in->opcode == 0xe8 || in->opcode == 0xe9 || in->opcode == 0xeb)) ||
            (in->map == 1 && (in->opcode & 0xf0) == 0x80));
}

/* Appends an instruction of the form. False: try another. */
static bool append(struct gen *g, const struct fuzz_form *f) {
    struct fuzz_case *c = g->c;
    struct encoding e = {.bytes = 0};
    struct insn in;
    if (!gen_encode(g, f, &e, &in) || (gen_must_be_alone(&in) && !g->alone) ||
        c->code_bytes + e.bytes > FUZZ_CODE_MAX)
        return false;
    gen_prepare(g, &e, &in);
    c->careful |= (in.map == 0 && in.opcode == 0xcf) || in.rep || in.repne;
    c->insn_start[c->insns++] = c->code_bytes;
    memcpy(c->code + c->code_bytes, e.byte, e.bytes);
    c->code_bytes += (u8)e.bytes;
    c->insn_start[c->insns] = c->code_bytes;
    return true;
}

/* Relative branches lead to an instruction behind them, LOOPs also to one before, others rarely:
 * most such cases would run on. */
static void fix_branches(struct gen *g) {
    struct fuzz_case *c = g->c;
    for (unsigned i = 0; i < c->insns; i++) {
        struct insn in;
        u8 *at = c->code + c->insn_start[i];
        if ((g->loop && i == g->loop) || !fuzz_decode(c, c->insn_start[i], &in) ||
            !is_relative(&in))
            continue;
        bool loop = in.map == 0 && in.opcode >= 0xe0 && in.opcode <= 0xe2;
        bool back = one_in(g, loop ? 2 : 24);
        unsigned to = back ? below(g, i + 1u) : i + 1 + below(g, (u32)(c->insns - i));
        u32 distance = (u32)c->insn_start[to] - c->insn_start[i + 1];
        if (in.imm_bytes == 4 && one_in(g, 16)) /* into a hole or a data page */
            distance = gen_target(g) - c->entry - c->insn_start[i + 1];
        for (unsigned k = 0; k < in.imm_bytes; k++)
            at[in.imm_offset + k] = (u8)(distance >> (8 * k));
    }
}

static void fix_addresses(struct gen *g) {
    struct fuzz_case *c = g->c;
    for (unsigned i = 0; i < g->addresses; i++) {
        unsigned to = g->address[i].end ? c->insns : 1 + below(g, c->insns);
        u32 eip = c->entry + c->insn_start[to] - g->address[i].base;
        if (g->address[i].selector) /* a pointer of 16 bits: one dword with its selector */
            eip = (eip & 0xffff) | (u32)g->address[i].selector << 16;
        if (g->address[i].reg)
            c->gpr[g->address[i].at] = eip;
        else if (c->patches < ARRAY_LEN(c->patch))
            c->patch[c->patches++] = (struct fuzz_patch){g->address[i].offset, eip};
    }
}

/* A loop around what is there: DEC ECX, JNZ back (or LOOP). ECX is a small number. */
static void close_loop(struct gen *g) {
    struct fuzz_case *c = g->c;
    static const u8 dec_jnz[] = {0x49, 0x75}, loop[] = {0xe2};
    bool plain = one_in(g, 2);
    unsigned n = plain ? 1 : 2, start = below(g, c->insns);
    if (c->code_bytes + n + 1 > FUZZ_CODE_MAX || c->insns + n > FUZZ_MAX_INSNS)
        return;
    u8 *to = c->code + c->code_bytes;
    memcpy(to, plain ? loop : dec_jnz, n);
    to[n] = (u8)(c->insn_start[start] - (c->code_bytes + n + 1));
    if (!plain)
        c->insn_start[c->insns++] = c->code_bytes++;
    g->loop = c->insns;
    c->insn_start[c->insns++] = c->code_bytes;
    c->code_bytes += 2;
    c->insn_start[c->insns] = c->code_bytes;
    gen_pin(g, R_ECX, 1 + below(g, 12));
}

/* ---- State ---- */

u16 gen_data_selector(struct gen *g) {
    static const u16 selectors[] = {FUZZ_DS,          FUZZ_DS,         FUZZ_LDT_BASED,
                                    FUZZ_LDT_LIMITED, FUZZ_LDT_DOWN,   FUZZ_LDT_STACK,
                                    FUZZ_LDT_DATA16,  FUZZ_LDT_STACK16};
    u16 selector = selectors[below(g, ARRAY_LEN(selectors))];
    return fuzz_descriptor(selector) ? selector : FUZZ_DS;
}

static u16 extra_selector(struct gen *g) {
    if (one_in(g, 3))
        return FUZZ_DS;
    u16 selector = one_in(g, 5) ? 0 : one_in(g, 5) ? FUZZ_LDT_RO : gen_data_selector(g);
    return selector && !fuzz_descriptor(selector) ? FUZZ_DS : selector;
}

/* Segments other than flat ones: for code in 16-bit segments such that 16-bit offsets reach
 * something. */
static void random_segments(struct gen *g) {
    struct fuzz_case *c = g->c;
    static const u16 codes[] = {FUZZ_LDT_CODE, FUZZ_LDT_XO, FUZZ_LDT_SHORT, FUZZ_LDT_BASED_CODE};
    static const u16 stacks[] = {FUZZ_LDT_STACK, FUZZ_LDT_STACK_DOWN, FUZZ_LDT_STACK16};
    bool segmented = fuzz_has_ldt() && one_in(g, 6);
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = i == SEG_CS ? FUZZ_CS : FUZZ_DS;
    if (g->plain)
        return;
    c->seg[SEG_FS] = extra_selector(g);
    c->seg[SEG_GS] = extra_selector(g);
    if (fuzz_has_16bit() && (g->variant == VARIANT_SMALL || one_in(g, 20))) {
        c->seg[SEG_CS] = (u16)(FUZZ_LDT_CODE16 + ((c->entry - FUZZ_CODE) >> 16) * 8);
        c->seg[SEG_SS] = one_in(g, 3) ? FUZZ_DS : FUZZ_LDT_STACK16;
        c->seg[SEG_DS] = one_in(g, 3) ? FUZZ_DS : FUZZ_LDT_DATA16;
        c->seg[SEG_ES] = one_in(g, 3) ? FUZZ_DS : FUZZ_LDT_DATA16;
    } else if (segmented) {
        if (one_in(g, 2))
            c->seg[SEG_CS] = codes[below(g, ARRAY_LEN(codes))];
        if (one_in(g, 2))
            c->seg[SEG_SS] = stacks[below(g, ARRAY_LEN(stacks))];
        c->seg[SEG_DS] = gen_data_selector(g);
        c->seg[SEG_ES] = one_in(g, 2) ? gen_data_selector(g) : FUZZ_DS;
        if (one_in(g, 16))
            c->seg[one_in(g, 2) ? SEG_DS : SEG_ES] = 0;
    }
    if (!fuzz_descriptor(c->seg[SEG_SS]))
        c->seg[SEG_SS] = FUZZ_DS;
    /* Beyond the segment's end native_entry.S would fault. */
    if (c->seg[SEG_CS] == FUZZ_LDT_SHORT && c->entry - FUZZ_CODE >= 0x50000)
        c->seg[SEG_CS] = FUZZ_CS;
    c->code16 = !fuzz_is_32bit(c->seg[SEG_CS]);
    c->stack16 = !fuzz_is_32bit(c->seg[SEG_SS]);
}

static u32 random_esp(struct gen *g) {
    const struct fuzz_case *c = g->c;
    u32 lin = FUZZ_STACK + 0x400 + below(g, 0x1800);
    if (c->seg[SEG_SS] == FUZZ_LDT_STACK_DOWN)
        lin = FUZZ_STACK + 0x1040 + below(g, 0xf00);
    if (!one_in(g, 6))
        lin &= ~3u;
    if (one_in(g, 40))
        lin = (one_in(g, 2) ? FUZZ_STACK : FUZZ_STACK + 0x2000) + below(g, 64) - 32;
    u32 esp = lin - fuzz_base(c->seg[SEG_SS]);
    if (!c->stack16)
        return esp;
    if (one_in(g, 8)) /* SP wraps */
        esp = (below(g, 48) - 24) & 0xffff;
    return (esp & 0xffff) | (one_in(g, 2) ? any(g) << 16 : 0);
}

static void random_registers(struct gen *g) {
    struct fuzz_case *c = g->c;
    random_segments(g);
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = one_in(g, 3) ? gen_target(g) : fuzz_value(&g->r);
    c->gpr[R_ESP] = random_esp(g);
    g->pinned = BIT(R_ESP);
    c->eflags = F_FIXED | F_IF | (any(g) & F_ARITH);
    if (one_in(g, 16))
        c->eflags |= F_DF;
    /* native_entry.S: not with a 16-bit stack. */
    if ((g->variant == VARIANT_STEP || one_in(g, 64)) && !c->stack16 && !g->plain)
        c->eflags |= F_TF;
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

/* ---- Cases ---- */

static const struct fuzz_form *random_form(struct gen *g) {
    for (;;) {
        const struct fuzz_form *f = &fuzz_form[below(g, fuzz_forms)];
        bool x87 = f->map == 0 && (f->opcode & 0xf8) == 0xd8;
        if ((!x87 || one_in(g, 4)) && (f->map == 0 || one_in(g, 2)))
            return f;
    }
}

/* Integer instructions that only make or only read flags, and accesses that may fault between them:
 * what a translator that leaves out dead flags can get wrong. */
static const struct fuzz_form *flag_form(struct gen *g) {
    for (unsigned attempt = 0; attempt < 200; attempt++) {
        const struct fuzz_form *f = &fuzz_form[below(g, fuzz_forms)];
        u8 high = f->opcode & 0xf0;
        bool alu = f->map == 0 && (f->opcode < 0x40 || high == 0x80 || high == 0xc0 ||
                                   high == 0xd0 || f->opcode >= 0xf5);
        bool reads = (f->map == 1 && (high == 0x40 || high == 0x80 || high == 0x90)) ||
                     (f->map == 0 && (high == 0x70 || f->opcode == 0x9c || f->opcode == 0x9f));
        if (f->opcode < 0xd8 || f->opcode > 0xdf ? alu || reads : false)
            return f;
    }
    return random_form(g);
}

static void sequence(struct gen *g) {
    struct fuzz_case *c = g->c;
    unsigned want = 2 + below(g, one_in(g, 3) ? FUZZ_MAX_INSNS - 1 : 6);
    bool flags = one_in(g, 3);
    for (unsigned attempt = 0; attempt < 60 && c->insns && c->insns < want; attempt++) {
        g->variant = VARIANT_PLAIN;
        append(g, flags ? flag_form(g) : random_form(g));
    }
    if (one_in(g, 8))
        close_loop(g);
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
    if (!g->plain && one_in(g, 24))
        c->eflags |= F_AC;
}

void fuzz_generate(struct fuzz_case *c, u64 seed, u64 number, const struct cpu_model *model) {
    struct gen g = {.c = c, .r = fuzz_rng(seed, number), .model = model};
    memset(c, 0, sizeof *c);
    c->number = number;
    c->entry = fuzz_entry(number);
    c->form = (u16)(number % fuzz_forms);
    g.variant = (enum fuzz_variant)(number / fuzz_forms % VARIANTS);
    g.plain = fuzz_kernel_emulates(fuzz_form[c->form].mnemonic);
    g.alone = g.plain || g.variant < VARIANT_SEQUENCE;
    random_registers(&g);
    random_fx(&g);
    for (unsigned attempt = 0; attempt < 40 && c->insns == 0; attempt++) {
        if (attempt == 20) /* the form cannot have it */
            g.variant = VARIANT_PLAIN;
        append(&g, &fuzz_form[c->form]);
    }
    if (!g.alone)
        sequence(&g);
    c->skip = c->insns == 0;
    c->left_out = c->skip ? FUZZ_LEFT_EMPTY : FUZZ_LEFT_NOT;
    finish_case(&g);
}
