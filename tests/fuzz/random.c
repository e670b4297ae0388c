/*
 * random.c: random numbers that repeat, and random state with the corners where bugs live.
 */
#include "fuzz.h"

u32 fuzz_random(struct fuzz_rng *r) {
    u64 z = r->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (u32)(z >> 32 ^ z);
}

struct fuzz_rng fuzz_rng(u64 seed, u64 number) {
    struct fuzz_rng r = {seed * 0xd1342543de82ef95ull + number};
    r.state = (u64)fuzz_random(&r) << 32 | fuzz_random(&r);
    return r;
}

u32 fuzz_value(struct fuzz_rng *r) {
    static const u32 corners[] = {0,          1,          2,          3,          0x7f,
                                  0x80,       0xff,       0x100,      0x7fff,     0x8000,
                                  0xffff,     0x10000,    0x7fffffff, 0x80000000, 0xffffffff,
                                  0xfffffffe, 0x80000001, 0xff80,     0x99,       0x9a};
    switch (fuzz_below(r, 4)) {
    case 0:
        return corners[fuzz_below(r, ARRAY_LEN(corners))];
    case 1:
        return fuzz_random(r) >> fuzz_below(r, 32);
    default:
        return fuzz_random(r);
    }
}

/* Floating-point patterns of 4, 8 or 10 bytes: zeros, denormals, infinities, NaNs, near limits. */
void fuzz_float_bytes(struct fuzz_rng *r, u8 *out, unsigned bytes) {
    static const u32 singles[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x40000000,
                                  1,          0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff,
                                  0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001,
                                  0x7fbfffff, 0x4effffff, 0x4f000000, 0xcf000000, 0x3effffff};
    static const u64 doubles[] = {0,
                                  0x8000000000000000ull,
                                  0x3ff0000000000000ull,
                                  0xbff0000000000000ull,
                                  1,
                                  0x800fffffffffffffull,
                                  0x0010000000000000ull,
                                  0x7fefffffffffffffull,
                                  0x7ff0000000000000ull,
                                  0xfff0000000000000ull,
                                  0x7ff8000000000000ull,
                                  0x7ff0000000000001ull,
                                  0x41dfffffffc00000ull,
                                  0x41e0000000000000ull,
                                  0xc1e0000000000000ull,
                                  0x36a0000000000000ull};
    static const u16 exponents[] = {0, 1, 0x3fff, 0x4000, 0x7ffe, 0x7fff, 0x403e, 0x3fbf, 0x3f81};
    static const u64 mantissas[] = {0,
                                    1,
                                    0x8000000000000000ull,
                                    0xc000000000000000ull,
                                    ~0ull,
                                    0x8000000000000001ull,
                                    0x7fffffffffffffffull};
    u64 any = (u64)fuzz_random(r) << 32 | fuzz_random(r);
    if (bytes == 4) {
        store32(out, fuzz_one_in(r, 3) ? (u32)any : singles[fuzz_below(r, ARRAY_LEN(singles))]);
    } else if (bytes == 8) {
        /* Often of a magnitude that single precision and integers hold. */
        u64 tame = (any & 0x800fffffffffffffull) | (u64)(1000 + fuzz_below(r, 60)) << 52;
        store64(out, fuzz_one_in(r, 3)   ? any
                     : fuzz_one_in(r, 2) ? tame
                                         : doubles[fuzz_below(r, ARRAY_LEN(doubles))]);
    } else {
        u16 sign = (u16)(fuzz_random(r) & 0x8000);
        u16 exponent = fuzz_one_in(r, 2) ? (u16)(0x3fff - 40 + fuzz_below(r, 104))
                                         : exponents[fuzz_below(r, ARRAY_LEN(exponents))];
        u64 mantissa =
            fuzz_one_in(r, 2) ? any | BIT64(63) : mantissas[fuzz_below(r, ARRAY_LEN(mantissas))];
        if (fuzz_one_in(r, 16)) {
            mantissa = any;
            exponent = (u16)(fuzz_random(r) & 0x7fff);
        }
        store64(out, mantissa);
        store16(out + 8, sign | exponent);
    }
}

void fuzz_template(u8 scratch[FUZZ_SCRATCH_BYTES], u64 seed, u64 batch) {
    struct fuzz_rng r = fuzz_rng(seed ^ 0x7465, batch);
    for (u32 at = 0; at < FUZZ_SCRATCH_BYTES; at += 16) {
        u8 *p = scratch + at;
        switch (fuzz_below(&r, 6)) {
        case 0:
            for (unsigned i = 0; i < 16; i += 4)
                fuzz_float_bytes(&r, p + i, 4);
            break;
        case 1:
            fuzz_float_bytes(&r, p, 8);
            fuzz_float_bytes(&r, p + 8, 8);
            break;
        case 2:
            store64(p + 8, fuzz_random(&r));
            fuzz_float_bytes(&r, p, 10);
            break;
        case 3: /* packed decimal digits for FBLD */
            for (unsigned i = 0; i < 16; i++)
                p[i] = (u8)(fuzz_below(&r, 10) << 4 | fuzz_below(&r, 10));
            p[9] = (u8)(fuzz_random(&r) & 0x80);
            break;
        default:
            for (unsigned i = 0; i < 16; i += 4)
                store32(p + i, fuzz_value(&r));
        }
    }
}
