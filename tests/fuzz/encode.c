/*
 * encode.c: the bytes of one instruction: prefixes in any order, and a memory operand built such
 * that it names the address that was chosen.
 */
#include "generate.h"

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

/* The offset that an operand in that segment gets. */
static u32 choose_offset(struct gen *g, struct encoding *e, bool stack) {
    e->base = gen_segment_base(g, e->segment, stack);
    u32 target = e->addr16 && !one_in(g, 8) ? gen_target16(g, e->base) : gen_target(g);
    e->offset = target - e->base;
    if (e->addr16)
        e->offset &= 0xffff;
    return e->offset;
}

/* 16-bit forms: SDM volume 2, 2.1.5 "Addressing-Mode Encoding of ModR/M and SIB Bytes", table 2-1.
 */
static void put_memory16(struct gen *g, struct encoding *e, unsigned reg) {
    static const u8 first[8] = {R_EBX, R_EBX, R_EBP, R_EBP, R_ESI, R_EDI, R_EBP, R_EBX};
    static const u8 second[4] = {R_ESI, R_EDI, R_ESI, R_EDI};
    unsigned mod = below(g, 3), rm = below(g, 8);
    bool absolute = mod == 0 && rm == 6;
    u32 offset = choose_offset(g, e, first[rm] == R_EBP && !absolute);
    if (absolute) {
        put(e, reg << 3 | rm);
        put_n(e, offset, 2);
        return;
    }
    u32 sum = 0, disp = random_displacement(g, mod);
    if (rm < 4) {
        gen_pin(g, second[rm], fuzz_value(&g->r));
        sum = g->c->gpr[second[rm]];
    }
    u32 want = (offset - sum - disp) & 0xffff;
    gen_pin(g, first[rm], want | (any(g) & 0xffff0000));
    if ((u16)(g->c->gpr[first[rm]] + sum + disp) != (u16)offset) {
        mod = 2;
        disp = offset - sum - g->c->gpr[first[rm]];
    }
    put(e, mod << 6 | reg << 3 | rm);
    put_displacement(e, mod, disp, 2);
}

static void put_memory32(struct gen *g, struct encoding *e, unsigned reg) {
    unsigned mod = below(g, 3), base = below(g, 8), index = 4, scale = below(g, 4);
    bool sib = base == 4 || one_in(g, 3), absolute = one_in(g, 5);
    if (base == 5 && mod == 0)
        mod = 1;
    u32 offset = choose_offset(g, e, !absolute && (base == R_ESP || base == R_EBP));
    if (absolute) { /* with or without SIB */
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
        gen_pin(g, index, one_in(g, 2) ? below(g, 64) : fuzz_value(&g->r));
        sum = g->c->gpr[index] << scale;
    }
    gen_pin(g, base, offset - sum - disp);
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
    if (!f->memory)
        put(e, 0xc0 | reg << 3 | (f->rm == FUZZ_ANY ? below(g, 8) : f->rm));
    else if (e->addr16)
        put_memory16(g, e, reg);
    else
        put_memory32(g, e, reg);
}

bool gen_is_string(const struct fuzz_form *f) {
    return f->map == 0 && ((f->opcode >= 0xa4 && f->opcode <= 0xaf && (f->opcode & 0xfe) != 0xa8) ||
                           (f->opcode >= 0x6c && f->opcode <= 0x6f));
}

/* MOV with an absolute address, and XLAT. */
static bool has_offset(const struct fuzz_form *f) {
    return f->map == 0 && ((f->opcode >= 0xa0 && f->opcode <= 0xa3) || f->opcode == 0xd7);
}

/* True when the variant asks for it, or by chance. */
static bool wanted(struct gen *g, enum fuzz_variant variant, u32 chance) {
    return g->variant == variant || one_in(g, chance);
}

/* Prefixes in random order. */
static void put_prefixes(struct gen *g, struct encoding *e, const struct fuzz_form *f) {
    static const u8 segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    u8 list[6];
    unsigned n = 0;
    bool memory = f->memory || gen_is_string(f) || has_offset(f), string = gen_is_string(f);
    if (f->prefix)
        list[n++] = f->prefix;
    e->addr16 = g->c->code16;
    if (wanted(g, VARIANT_ADDRESS, memory ? 12 : 40)) {
        e->addr16 = !e->addr16;
        list[n++] = 0x67;
    }
    if (wanted(g, VARIANT_SEGMENT, memory ? 8 : 60))
        list[n++] = e->segment = segments[below(g, ARRAY_LEN(segments))];
    if (wanted(g, VARIANT_LOCK, memory ? 16 : 60))
        list[n++] = 0xf0;
    if (f->map == 0 && !f->prefix && wanted(g, VARIANT_REPEAT, string ? 2 : 40))
        list[n++] = one_in(g, 2) ? 0xf2 : 0xf3;
    if (wanted(g, VARIANT_SIZE, g->c->code16 ? 4 : 60))
        list[n++] = f->prefix && f->prefix != 0x66 && one_in(g, 2) ? f->prefix : 0x66;
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
    bool code32 = !g->c->code16, stack32 = !g->c->stack16;
    for (unsigned i = 0; i < 8; i++)
        e->byte[e->bytes + i] = (u8)fuzz_value(&g->r);
    enum insn_status status = insn_decode(in, e->byte, INSN_MAX_BYTES, code32, stack32);
    if (status == INSN_INVALID) {
        u8 bare[INSN_MAX_BYTES + 1];
        unsigned n = 0, locks = 0;
        for (unsigned i = 0; i < INSN_MAX_BYTES; i++) {
            bool lock = !locks && e->byte[i] == 0xf0;
            locks += lock;
            if (!lock)
                bare[n++] = e->byte[i];
        }
        if (!locks || !one_in(g, 6) || insn_decode(in, bare, n, code32, stack32) != INSN_OK)
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

bool gen_encode(struct gen *g, const struct fuzz_form *f, struct encoding *e, struct insn *in) {
    put_prefixes(g, e, f);
    if (f->map)
        put(e, 0x0f);
    if (f->map > 1)
        put(e, f->map == 2 ? 0x38 : 0x3a);
    put(e, f->opcode);
    if (f->has_modrm)
        put_modrm(g, e, f);
    if (!finish(g, e, in))
        return false;
    if (in->map == 0 && in->opcode >= 0xa0 && in->opcode <= 0xa3) { /* MOV with an offset */
        choose_offset(g, e, false);
        for (unsigned i = 0; i < in->addr_bytes; i++)
            e->byte[e->bytes - in->addr_bytes + i] = (u8)(e->offset >> (8 * i));
    }
    return true;
}
