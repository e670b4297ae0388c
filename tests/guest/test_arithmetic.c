/*
 * Results and flags of the arithmetic, shift, rotate, multiply and bit instructions in three
 * sizes, against models in C of the manual's pseudo-code. SDM volume 1, appendix A "EFLAGS
 * Cross-Reference".
 * Expected: the models' values; undefined flags are not compared.
 */
#include "guest.h"

#define TWO(name, text) CODE(name, "push %esi; popf; " text "; pushf; pop %esi" DONE)
TWO(add4, "add %ecx,%eax");
TWO(adc4, "adc %ecx,%eax");
TWO(sub4, "sub %ecx,%eax");
TWO(sbb4, "sbb %ecx,%eax");
TWO(and4, "and %ecx,%eax");
TWO(or4, "or %ecx,%eax");
TWO(xor4, "xor %ecx,%eax");
TWO(cmp4, "cmp %ecx,%eax");
TWO(inc4, "inc %eax");
TWO(dec4, "dec %eax");
TWO(neg4, "neg %eax");
TWO(add1, "add %cl,%al");
TWO(adc1, "adc %ch,%al");
TWO(sub1, "sub %cl,%al");
TWO(sbb1, "sbb %cl,%al");
TWO(add2, "add %cx,%ax");
TWO(adc2, "adc %cx,%ax");
TWO(sub2, "sub %cx,%ax");
TWO(sbb2, "sbb %cx,%ax");
TWO(shl4, "shl %cl,%eax");
TWO(shr4, "shr %cl,%eax");
TWO(sar4, "sar %cl,%eax");
TWO(rol4, "rol %cl,%eax");
TWO(ror4, "ror %cl,%eax");
TWO(rcl4, "rcl %cl,%eax");
TWO(rcr4, "rcr %cl,%eax");
TWO(mul4, "mul %ecx");
TWO(imul4, "imul %ecx");
TWO(imul2op, "imul %ecx,%eax");
TWO(shld4, "shld %cl,%edx,%eax");
TWO(shrd4, "shrd %cl,%edx,%eax");
TWO(bsf4, "bsf %ecx,%eax");
TWO(bsr4, "bsr %ecx,%eax");
TWO(div4, "div %ecx");
TWO(inc_mem, "push %eax; incl (%esp); pop %eax");
TWO(xadd4, "xadd %ecx,%eax");
TWO(cmpxchg4, "cmpxchg %ecx,%edx");
TWO(adc_mem, "push %eax; adc %ecx,(%esp); pop %eax");

static const u32 values[] = {0,          1,          2,          0x7f,       0x80,       0xff,
                             0x7fff,     0x8000,     0xffff,     0x12345678, 0x7fffffff, 0x80000000,
                             0x80000001, 0xfffffffe, 0xffffffff, 0xcafe1234};
enum { COUNT = sizeof values / sizeof *values };

static u32 go(const u8 *code, u32 a, u32 c, u32 d, u32 flags) {
    reset_run(3);
    in.eax = a;
    in.ecx = c;
    in.edx = d;
    in.esi = flags | F_FIXED;
    RUNS(3, code);
    return trap.eax;
}

static u32 szp(u32 r, u32 bits) {
    u32 parity = 0;
    for (u32 i = 0; i < 8; i++)
        parity ^= r >> i & 1;
    u32 mask = bits == 32 ? 0xffffffff : (1u << bits) - 1;
    return ((r & mask) ? 0 : F_ZF) | ((r >> (bits - 1) & 1) ? F_SF : 0) | (parity ? 0 : F_PF);
}

static u32 add_flags(u32 a, u32 b, u32 carry, u32 bits) {
    u64 mask = bits == 32 ? 0xffffffffull : (1u << bits) - 1;
    u64 sum = (a & mask) + (b & mask) + carry;
    u32 r = (u32)(sum & mask);
    return szp(r, bits) | (sum > mask ? F_CF : 0) |
           (((a ^ r) & (b ^ r)) >> (bits - 1) & 1 ? F_OF : 0) | ((a ^ b ^ r) & 0x10);
}

static u32 sub_flags(u32 a, u32 b, u32 borrow, u32 bits) {
    u64 mask = bits == 32 ? 0xffffffffull : (1u << bits) - 1;
    u32 r = (u32)(((a & mask) - (b & mask) - borrow) & mask);
    return szp(r, bits) | ((a & mask) < (b & mask) + borrow ? F_CF : 0) |
           (((a ^ b) & (a ^ r)) >> (bits - 1) & 1 ? F_OF : 0) | ((a ^ b ^ r) & 0x10);
}

static void sums(u32 a, u32 b, u32 carry) {
    EQ(go(add4, a, b, 0, carry), a + b);
    EQ(trap.esi & F_ARITH, add_flags(a, b, 0, 32));
    EQ(go(adc4, a, b, 0, carry), a + b + carry);
    EQ(trap.esi & F_ARITH, add_flags(a, b, carry, 32));
    EQ(go(adc_mem, a, b, 0, carry), a + b + carry);
    EQ(trap.esi & F_ARITH, add_flags(a, b, carry, 32));
    EQ(go(sub4, a, b, 0, carry), a - b);
    EQ(trap.esi & F_ARITH, sub_flags(a, b, 0, 32));
    EQ(go(sbb4, a, b, 0, carry), a - b - carry);
    EQ(trap.esi & F_ARITH, sub_flags(a, b, carry, 32));
    EQ(go(cmp4, a, b, 0, carry), a);
    EQ(trap.esi & F_ARITH, sub_flags(a, b, 0, 32));
    EQ(go(add1, a, b, 0, carry), (a & ~0xffu) | ((a + b) & 0xff));
    EQ(trap.esi & F_ARITH, add_flags(a, b, 0, 8));
    EQ(go(adc1, a, b, 0, carry), (a & ~0xffu) | ((a + (b >> 8) + carry) & 0xff));
    EQ(trap.esi & F_ARITH, add_flags(a, b >> 8, carry, 8));
    EQ(go(sub1, a, b, 0, carry), (a & ~0xffu) | ((a - b) & 0xff));
    EQ(trap.esi & F_ARITH, sub_flags(a, b, 0, 8));
    EQ(go(sbb2, a, b, 0, carry), (a & ~0xffffu) | ((a - b - carry) & 0xffff));
    EQ(trap.esi & F_ARITH, sub_flags(a, b, carry, 16));
    EQ(go(add2, a, b, 0, carry), (a & ~0xffffu) | ((a + b) & 0xffff));
    EQ(trap.esi & F_ARITH, add_flags(a, b, 0, 16));
    EQ(go(and4, a, b, 0, carry), a & b);
    EQ(trap.esi & (F_ARITH & ~F_AF), szp(a & b, 32));
    EQ(go(xor4, a, b, 0, carry), a ^ b);
    EQ(trap.esi & (F_ARITH & ~F_AF), szp(a ^ b, 32));
    EQ(go(xadd4, a, b, 0, carry), a + b);
    EQ(trap.ecx, a);
    EQ(go(cmpxchg4, a, b, 0x80, carry), a == 0x80 ? a : 0x80);
    EQ(trap.edx, a == 0x80 ? b : 0x80);
    EQ(trap.esi & F_ARITH, sub_flags(a, 0x80, 0, 32));
}

static void one_operand(u32 a, u32 carry) {
    EQ(go(inc4, a, 0, 0, carry), a + 1);
    EQ(trap.esi & F_ARITH, (add_flags(a, 1, 0, 32) & ~F_CF) | carry);
    EQ(go(inc_mem, a, 0, 0, carry), a + 1);
    EQ(trap.esi & F_ARITH, (add_flags(a, 1, 0, 32) & ~F_CF) | carry);
    EQ(go(dec4, a, 0, 0, carry), a - 1);
    EQ(trap.esi & F_ARITH, (sub_flags(a, 1, 0, 32) & ~F_CF) | carry);
    EQ(go(neg4, a, 0, 0, carry), -a);
    EQ(trap.esi & F_ARITH, sub_flags(0, a, 0, 32));
}

static void shifts(u32 a, u32 count) {
    u32 n = count & 31, start = F_CF | F_AF | F_OF;
    u32 expected = n ? a << n : a;
    EQ(go(shl4, a, count, 0, start), expected);
    EQ(trap.esi & (F_CF | F_ZF | F_SF),
       n ? (szp(expected, 32) & (F_ZF | F_SF)) | (a >> (32 - n) & 1) : F_CF);
    if (!n)
        EQ(trap.esi & F_ARITH, start); /* a count of zero changes no flag */
    expected = a >> n;
    EQ(go(shr4, a, count, 0, start), expected);
    EQ(trap.esi & F_CF, n ? a >> (n - 1) & 1 : F_CF);
    EQ(go(sar4, a, count, 0, start), (u32)((int32_t)a >> n));
    EQ(go(rol4, a, count, 0, start), n ? a << n | a >> (32 - n) : a);
    EQ(trap.esi & F_CF, n ? trap.eax & 1 : F_CF);
    EQ(go(ror4, a, count, 0, start), n ? a >> n | a << (32 - n) : a);
    u64 wide = (u64)a | 1ull << 32;
    EQ(go(rcl4, a, count, 0, start), n ? (u32)(wide << n | wide >> (33 - n)) : a);
    EQ(go(rcr4, a, count, 0, start), n ? (u32)(wide >> n | wide << (33 - n)) : a);
    EQ(go(shld4, a, count, 0xf0f0a5a5, start), n ? a << n | 0xf0f0a5a5 >> (32 - n) : a);
    EQ(go(shrd4, a, count, 0xf0f0a5a5, start), n ? a >> n | 0xf0f0a5a5u << (32 - n) : a);
}

static void products(u32 a, u32 b) {
    u64 wide = (u64)a * b;
    int64_t narrow = (int64_t)(int32_t)a * (int32_t)b;
    EQ(go(mul4, a, b, 0, 0), (u32)wide);
    EQ(trap.edx, (u32)(wide >> 32));
    EQ(trap.esi & (F_CF | F_OF), wide >> 32 ? F_CF | F_OF : 0);
    EQ(go(imul4, a, b, 0, 0), (u32)narrow);
    EQ(trap.edx, (u32)((u64)narrow >> 32));
    EQ(go(imul2op, a, b, 0, 0), (u32)narrow);
    EQ(trap.esi & (F_CF | F_OF), narrow != (int32_t)narrow ? F_CF | F_OF : 0);
    if (b) {
        u32 lowest = 0, highest = 31;
        while (!(b >> lowest & 1))
            lowest++;
        while (!(b >> highest & 1))
            highest--;
        EQ(go(bsf4, 99, b, 0, F_ZF), lowest);
        EQ(trap.esi & F_ZF, 0);
        EQ(go(bsr4, 99, b, 0, F_ZF), highest);
        EQ(go(div4, a, b, 0, 0), a / b);
        EQ(trap.edx, a % b);
    } else {
        go(bsf4, 99, b, 0, 0);
        EQ(trap.esi & F_ZF, F_ZF);
    }
}

void test(void) {
    static u32 round;
    for (u32 i = round++ & 1; i < COUNT; i += 2) { /* every other round the other half */
        for (u32 j = 0; j < COUNT; j++) {
            sums(values[i], values[j], j & 1);
            sums(values[i], values[j], ~j & 1);
            products(values[i], values[j]);
        }
        one_operand(values[i], 0);
        one_operand(values[i], 1);
        for (u32 count = 0; count < 40; count += count < 4 || count > 28 ? 1 : 5)
            shifts(values[i], count);
    }
}
