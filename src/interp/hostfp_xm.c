/*
 * hostfp_xm.c: which flags an SSE instruction leaves in MXCSR when it raises #XM. The instruction
 * itself runs masked (hostfp.c), and that tells too much: after an unmasked overflow or underflow
 * PE speaks of the result with unbounded exponent, and the sums of DPPS and DPPD are not made once
 * a product has raised an exception. So each element is computed again, alone. SDM volume 1,
 * section 11.5.2.5 "Numeric Underflow Exception (#U)" and 11.5.2.4; volume 2, "DPPS".
 */
#include "interp/hostfp_internal.h"

#include "interp/interp_internal.h"

enum op { DO_ADD, DO_SUB, DO_MUL, DO_DIV, DO_NARROW, DO_NONE };

/* Computations that are independent of each other. */
struct level {
    unsigned count;
    bool wide; /* double precision */
    struct element {
        enum op op;
        u64 a, b;
    } element[4];
    u64 result[4];
};

/* ---- One element ---- */

#define SCALAR(name, operand)                                                                      \
    __asm__ volatile("ldmxcsr %[control]\n\t" name " %[b], %[a]\n\tstmxcsr %[control]\n\t"         \
                     "ldmxcsr %[host]"                                                             \
                     : [a] "+x"(operand), [control] "+m"(control)                                  \
                     : [b] "x"(b), [host] "m"(host))

/* The result, and in *mxcsr the flags that it raises with everything masked. */
static u64 compute(const struct element *e, bool wide, u32 *mxcsr) {
    u32 control = (*mxcsr & ~(u32)MXCSR_FLAGS) | MXCSR_MASKS, host;
    double a, b;
    memcpy(&a, &e->a, sizeof a);
    memcpy(&b, &e->b, sizeof b);
    __asm__ volatile("stmxcsr %0" : "=m"(host));
    switch (e->op << 1 | wide) {
    case DO_ADD << 1:
        SCALAR("addss", a);
        break;
    case DO_ADD << 1 | 1:
        SCALAR("addsd", a);
        break;
    case DO_SUB << 1:
        SCALAR("subss", a);
        break;
    case DO_SUB << 1 | 1:
        SCALAR("subsd", a);
        break;
    case DO_MUL << 1:
        SCALAR("mulss", a);
        break;
    case DO_MUL << 1 | 1:
        SCALAR("mulsd", a);
        break;
    case DO_DIV << 1:
        SCALAR("divss", a);
        break;
    case DO_DIV << 1 | 1:
        SCALAR("divsd", a);
        break;
    case DO_NARROW << 1 | 1:
        SCALAR("cvtsd2ss", a);
        break;
    default: /* not selected */
        a = 0;
        break;
    }
    u64 result;
    memcpy(&result, &a, sizeof result);
    *mxcsr = control & MXCSR_FLAGS;
    return wide && e->op != DO_NARROW ? result : (u32)result;
}

/* A finite number: mantissa * 2^exponent. */
struct number {
    u64 mantissa;
    int exponent;
    bool negative;
};
static struct number number_of(u64 bits, bool wide) {
    unsigned fraction_bits = wide ? 52 : 23;
    u64 fraction = bits & ((1ull << fraction_bits) - 1);
    int exponent = (int)(bits >> fraction_bits & (wide ? 0x7ff : 0xff));
    return (struct number){.mantissa = fraction | (exponent ? 1ull << fraction_bits : 0),
                           .exponent = exponent ? exponent : 1,
                           .negative = bits >> (wide ? 63 : 31) & 1};
}

/* Bits from the first to the last that is set. */
static unsigned width(unsigned __int128 v) {
    unsigned n = 0;
    for (; v && !(v & 1); v >>= 1) {
    }
    for (; v; v >>= 1)
        n++;
    return n;
}
static u64 odd_part(u64 v) {
    while (v && !(v & 1))
        v >>= 1;
    return v;
}

static unsigned sum_width(struct number a, struct number b) {
    struct number high = a.exponent >= b.exponent ? a : b, low = a.exponent >= b.exponent ? b : a;
    unsigned distance = (unsigned)(high.exponent - low.exponent);
    if (!low.mantissa || !high.mantissa)
        return width(low.mantissa | high.mantissa);
    if (distance > 64) /* farther than any precision */
        return 128;
    unsigned __int128 h = (unsigned __int128)high.mantissa << distance, l = low.mantissa;
    return width(a.negative == b.negative ? h + l : h > l ? h - l : l - h);
}

/* Does the exact result, of whatever exponent, need more bits than the destination has? */
static bool inexact(const struct element *e, bool wide) {
    struct number a = number_of(e->a, wide), b = number_of(e->b, wide);
    unsigned precision = wide && e->op != DO_NARROW ? 53 : 24;
    switch (e->op) {
    case DO_SUB:
        b.negative = !b.negative;
        return sum_width(a, b) > precision;
    case DO_ADD:
        return sum_width(a, b) > precision;
    case DO_MUL:
        return width((unsigned __int128)a.mantissa * b.mantissa) > precision;
    case DO_DIV:
        return odd_part(a.mantissa) % odd_part(b.mantissa) != 0;
    default:
        return width(a.mantissa) > precision;
    }
}

/* The flags of one element with the guest's masks. */
static u32 element_flags(const struct element *e, bool wide, u32 mxcsr, u64 *result) {
    u32 flags = mxcsr, tiny = mxcsr | MXCSR_FZ;
    if (mxcsr & MXCSR_UM) {
        *result = compute(e, wide, &flags);
        tiny = 0;
    } else { /* as in hostfp.c: every tiny result counts, and FZ does not */
        compute(e, wide, &tiny);
        flags &= ~(u32)MXCSR_FZ;
        *result = compute(e, wide, &flags);
        flags = (flags & ~(u32)MXCSR_UE) | (tiny & MXCSR_UE);
    }
    bool unbounded = flags & ~(mxcsr >> MXCSR_MASKS_SHIFT) & (MXCSR_OE | MXCSR_UE);
    if (unbounded)
        flags = (flags & ~(u32)MXCSR_PE) | (inexact(e, wide) ? MXCSR_PE : 0);
    return flags;
}

/* ---- Instructions ---- */

/* What is found before the computation keeps the rest from being found: SDM volume 1,
 * section 11.5.1 "SIMD Floating-Point Exceptions". */
static u32 reported(u32 flags, u32 mxcsr) {
    u32 unmasked = flags & ~(mxcsr >> MXCSR_MASKS_SHIFT);
    return unmasked & MXCSR_PRE ? flags & MXCSR_PRE : flags;
}

/* Adds a level's flags to *raised. False: it raises #XM, and no further level is computed. */
static bool run_level(struct level *l, u32 mxcsr, u32 *raised) {
    u32 flags = 0;
    for (unsigned i = 0; i < l->count; i++)
        flags |= element_flags(&l->element[i], l->wide, mxcsr, &l->result[i]);
    *raised |= reported(flags, mxcsr);
    return !(flags & ~(mxcsr >> MXCSR_MASKS_SHIFT));
}

static u64 lane(const u8 *vector, unsigned i, bool wide) {
    return wide ? load64(vector + 8 * i) : load32(vector + 4 * i);
}

/* SDM volume 2, "DPPS", "DPPD". */
static void dot_product(struct level *l, const u8 *dest, const u8 *source, u8 select, u32 mxcsr,
                        u32 *raised) {
    l->count = l->wide ? 2 : 4;
    for (unsigned i = 0; i < l->count; i++)
        l->element[i] = (struct element){select >> (4 + i) & 1 ? DO_MUL : DO_NONE,
                                         lane(dest, i, l->wide), lane(source, i, l->wide)};
    while (run_level(l, mxcsr, raised) && l->count > 1) {
        l->count /= 2;
        for (unsigned i = 0; i < l->count; i++)
            l->element[i] = (struct element){DO_ADD, l->result[2 * i], l->result[2 * i + 1]};
    }
}

/* Operands side by side: HADDPS and the like. */
static void pair_up(struct level *l, const u8 *dest, const u8 *source, enum op op) {
    l->count = l->wide ? 2 : 4;
    for (unsigned i = 0; i < l->count; i++) {
        const u8 *from = i < l->count / 2 ? dest : source;
        unsigned at = 2 * i % l->count;
        l->element[i] = (struct element){op, lane(from, at, l->wide), lane(from, at + 1, l->wide)};
    }
}

static void line_up(struct level *l, const u8 *dest, const u8 *source, enum op op, bool scalar) {
    l->count = scalar ? 1 : l->wide ? 2 : 4;
    for (unsigned i = 0; i < l->count; i++)
        l->element[i] = (struct element){op, lane(dest, i, l->wide), lane(source, i, l->wide)};
}

static bool has_66(const struct insn *in) {
    for (unsigned i = 0; i < in->opcode_offset; i++)
        if (in->bytes[i] == 0x66)
            return true;
    return false;
}

u32 hostfp_xm_flags(const struct cpu *cpu, const struct insn *in, const u8 *memory, u32 mxcsr,
                    u32 raised) {
    const u8 *xmm = cpu->fx + FX_XMM, *dest = xmm + 16 * (in->modrm >> 3 & 7);
    const u8 *source = in->modrm < 0xc0 ? memory : xmm + 16 * (in->modrm & 7);
    bool scalar = in->rep || in->repne, map1 = in->map == 1;
    struct level l = {.wide = scalar ? in->repne : has_66(in)};
    u32 flags = 0;
    switch (map1 ? in->opcode : in->map << 8 | in->opcode) {
    case 0x58:
        line_up(&l, dest, source, DO_ADD, scalar);
        break;
    case 0x59:
        line_up(&l, dest, source, DO_MUL, scalar);
        break;
    case 0x5a:
        if (!l.wide)
            return reported(raised, mxcsr); /* widening neither overflows nor underflows */
        line_up(&l, source, source, DO_NARROW, scalar);
        break;
    case 0x5c:
        line_up(&l, dest, source, DO_SUB, scalar);
        break;
    case 0x5e:
        line_up(&l, dest, source, DO_DIV, scalar);
        break;
    case 0x7c: /* in these three F2 means single precision */
    case 0x7d:
        l.wide = !in->repne;
        pair_up(&l, dest, source, in->opcode & 1 ? DO_SUB : DO_ADD);
        break;
    case 0xd0:
        l.wide = !in->repne;
        line_up(&l, dest, source, DO_ADD, false);
        for (unsigned i = 0; i < l.count; i += 2)
            l.element[i].op = DO_SUB;
        break;
    case 0x340:
    case 0x341:
        l.wide = in->opcode & 1;
        dot_product(&l, dest, source, (u8)in->imm, mxcsr, &flags);
        return flags;
    default:
        return reported(raised, mxcsr);
    }
    run_level(&l, mxcsr, &flags);
    return flags;
}
