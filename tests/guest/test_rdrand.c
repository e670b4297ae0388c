/*
 * RDRAND and RDSEED. SDM volume 1, section 7.3.17 "Random Number Generator Instructions"; volume 2,
 * "RDRAND", "RDSEED".
 * Expected: CF tells whether there was a number, OF, SF, ZF, AF and PF are cleared; a 16-bit
 * operand leaves the upper half alone; numbers differ and have every bit in both states; memory
 * operands and LOCK are #UD.
 * OPTIONS: -cpu max
 */
#include "guest.h"

CODE(rdrand_32, "push $0x8d5; popf; mov $0x11111111,%ecx; rdrand %ecx; pushf; pop %ebx" DONE);
CODE(rdseed_32, "push $0x8d5; popf; mov $0x11111111,%ecx; rdseed %ecx; pushf; pop %ebx" DONE);
CODE(rdrand_16, "mov $0x5a5a0000,%ecx; rdrand %cx; pushf; pop %ebx" DONE);
CODE(rdseed_16, "mov $0x5a5a0000,%ecx; rdseed %cx; pushf; pop %ebx" DONE);
CODE(rdrand_lock, ".byte 0xf0,0x0f,0xc7,0xf0" DONE);
CODE(rdrand_vmptrld, ".byte 0x0f,0xc7,0x30" DONE); /* with a memory operand it is VMPTRLD */

enum { NUMBERS = 64 };

static void numbers(u32 ring, const u8 *code32, const u8 *code16) {
    u32 any = 0, all = ~0u, last = 0, repeats = 0, got = 0;
    for (u32 i = 0; i < NUMBERS; i++) {
        RUNS(ring, code32);
        EQ(trap.ebx & F_ARITH & ~F_CF, 0);
        if (!(trap.ebx & F_CF)) { /* exhausted, as it may be */
            EQ(trap.ecx, 0);
            continue;
        }
        repeats += got && trap.ecx == last;
        last = trap.ecx;
        any |= last;
        all &= last;
        got++;
    }
    CHECK(got > NUMBERS / 2);
    EQ(any, ~0u);
    EQ(all, 0);
    CHECK(repeats < 2);
    any = 0;
    for (u32 i = 0; i < NUMBERS; i++) {
        RUNS(ring, code16);
        EQ(trap.ecx >> 16, 0x5a5a);
        any |= trap.ecx;
    }
    EQ(any & 0xffff, 0xffff);
}

void test(void) {
    bool has_rdrand = cpuid(1).ecx >> 30 & 1, has_rdseed = cpuid(7).ebx >> 18 & 1;
    if (!has_rdrand)
        skip("no RDRAND");
    for (u32 ring = 0; ring <= 3; ring += 3) {
        numbers(ring, rdrand_32, rdrand_16);
        if (has_rdseed)
            numbers(ring, rdseed_32, rdseed_16);
        FAULTS(ring, rdrand_lock, V_UD, 0);
        if (!is_tcg())
            FAULTS(ring, rdrand_vmptrld, V_UD, 0);
    }
}
