/*
 * debug.c: the slow path of memory accesses, where segment faults, alignment checks and data
 * breakpoints live. SDM volume 3, section 17.2 "Debug Registers".
 *
 * DEVIATION: data breakpoints and alignment checks see the operands of integer instructions and
 * near stack accesses, not those of x87/MMX/SSE instructions, descriptor tables and interrupt
 * frames.
 */
#include "interp/interp_internal.h"

u32 debug_hits(const struct cpu *cpu, u32 lin, unsigned bytes, u32 kinds) {
    static const u8 length[4] = {1, 2, 8, 4};
    u32 hits = 0;
    for (unsigned n = 0; n < 4; n++) {
        u32 control = cpu->dr[7] >> (16 + 4 * n), kind = BIT(control & 3);
        if (!((cpu->dr[7] >> (2 * n)) & 3) || !(kind & kinds))
            continue;
        if (kind == DR_IO && !(cpu->cr4 & CR4_DE))
            continue;
        u32 len = length[(control >> 2) & 3], start = cpu->dr[n] & ~(len - 1);
        /* modulo 2^32, either range may hold the other's start */
        if (lin - start < len || start - lin < bytes)
            hits |= BIT(n);
    }
    return hits;
}

/* #AC: only at CPL 3 with CR0.AM and EFLAGS.AC (step_careful looked); by operand size. */
static bool misaligned(u32 lin, unsigned bytes) {
    unsigned align = bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes;
    return lin & (align - 1);
}

bool seg_linear_slow(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset, unsigned bytes,
                     bool write, u32 *lin) {
    if (!rc_linear(cpu, seg, offset, bytes, write, lin))
        return false;
    if (likely(!it->checks))
        return true;
    if ((it->checks & CHECK_ALIGN) && misaligned(*lin, bytes))
        return cpu_fault_error(cpu, VEC_AC, 0);
    if (it->checks & CHECK_WATCH)
        it->watch_hits |= debug_hits(cpu, *lin, bytes, write ? DR_WRITE | DR_ACCESS : DR_ACCESS);
    return true;
}
