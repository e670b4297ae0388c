/*
 * debug.c: the slow path of memory accesses, where segment faults, alignment checks and data
 * breakpoints live. SDM volume 3, section 17.2 "Debug Registers" and section 6.15, "Interrupt
 * 17-Alignment Check Exception (#AC)".
 */
#include "interp/interp_internal.h"

void seg_watch(struct interp *it, const struct cpu *cpu, u32 lin, unsigned bytes, bool write) {
    u32 kinds = RC_DR_ACCESS | (write ? RC_DR_WRITE : 0);
    if (it->checks & CHECK_WATCH)
        it->watch_hits |= rc_debug_hits(cpu, lin, bytes, kinds);
}

/* What lies across the end of the 4 GiB is misaligned as well, but exceeds the limit first. Of an
 * image of several fields that is asked of the first. */
static bool misaligned(struct cpu *cpu, enum seg seg, u32 offset, u8 align) {
    bool wraps = offset + align - 1 < offset;
    return cpu_fault_error(cpu, !wraps ? VEC_AC : seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

bool seg_linear_aligned(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset,
                        unsigned bytes, struct access how, u32 *lin) {
    if (!rc_linear(cpu, seg, offset, bytes, how.write, lin))
        return false;
    if (likely(!it->checks))
        return true;
    if ((it->checks & CHECK_ALIGN) && (*lin & (how.align - 1u)))
        return misaligned(cpu, seg, offset, how.align);
    if (how.watch)
        seg_watch(it, cpu, *lin, bytes, how.write);
    return true;
}

/* Integers are aligned to their size: table 6-7 "Alignment Requirements by Data Type". */
bool seg_linear_slow(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset, unsigned bytes,
                     bool write, u32 *lin) {
    u8 align = bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
    return seg_linear_aligned(it, cpu, seg, offset, bytes, (struct access){align, write, true},
                              lin);
}
