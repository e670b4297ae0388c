/*
 * debug.c: which breakpoints an access hits, and the checks of the accesses that transfers make to
 * the stack by themselves. SDM volume 3, section 17.2 "Debug Registers".
 *
 * Data breakpoints see the words that interrupts, exceptions, far calls and returns push and pop:
 * hits wait in cpu->shadow and are reported before the next instruction, which is the handler's
 * first. (The manual does not speak of them; processors report them so, which is how a breakpoint
 * on the stack of #DB's own handler kept processors from ever leaving microcode: CVE-2015-8104.)
 * DEVIATION: reads and writes of descriptor tables, TSSs and the IDT by the processor itself hit no
 * data breakpoint. The manual is silent; processors differ.
 */
#include "ringcomp/rc_internal.h"

u32 rc_debug_hits(const struct cpu *cpu, u32 lin, unsigned bytes, u32 kinds) {
    static const u8 length[4] = {1, 2, 8, 4};
    u32 hits = 0;
    for (unsigned n = 0; n < 4; n++) {
        u32 control = cpu->dr[7] >> (16 + 4 * n), kind = BIT(control & 3);
        if (!((cpu->dr[7] >> (2 * n)) & 3) || !(kind & kinds))
            continue;
        if (kind == RC_DR_IO && !(cpu->cr4 & CR4_DE))
            continue;
        u32 len = length[(control >> 2) & 3], start = cpu->dr[n] & ~(len - 1);
        /* modulo 2^32, either range may hold the other's start */
        if (lin - start < len || start - lin < bytes)
            hits |= BIT(n);
    }
    return hits;
}

bool rc_frame_aligned(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access) {
    bool supervisor = access & MMU_SUPERVISOR;
    if (supervisor || !rc_alignment_checked(cpu) || !(lin & (bytes - 1)))
        return true;
    return cpu_fault_error(cpu, VEC_AC, 0);
}

void rc_frame_watched(struct cpu *cpu, u32 lin, unsigned bytes, bool write) {
    u32 hits = rc_debug_hits(cpu, lin, bytes, RC_DR_ACCESS | (write ? RC_DR_WRITE : 0));
    cpu->shadow |= (u8)(hits << SHADOW_DEBUG_SHIFT);
}
