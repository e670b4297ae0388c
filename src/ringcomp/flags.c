/*
 * flags.c: the flags that privilege guards. POPF, PUSHF, CLI and STI never trap on POPF's silent
 * rules, which is why they are virtualized here. SDM volume 2, "POPF", "PUSHF", "CLI", "STI".
 */
#include "ringcomp/rc_internal.h"

static inline bool iopl_below_3_in_v86(const struct cpu *cpu) {
    return cpu_v86(cpu) && (cpu->eflags & F_IOPL) != F_IOPL;
}

bool rc_popf(struct cpu *cpu, u32 image, unsigned op_bytes) {
    if (unlikely(iopl_below_3_in_v86(cpu)))
        return rc_gp0(cpu);
    u32 mask = F_ARITH | F_TF | F_DF | F_NT;
    if (op_bytes == 4)
        mask |= F_AC | F_ID;
    if (cpu->cpl <= (cpu->eflags >> IOPL_SHIFT & 3))
        mask |= F_IF;
    if (cpu->cpl == 0)
        mask |= F_IOPL;
    cpu->eflags = (cpu->eflags & ~(mask | F_RF)) | (image & mask) | F_FIXED;
    return true;
}

bool rc_pushf(struct cpu *cpu, u32 *image) {
    if (unlikely(iopl_below_3_in_v86(cpu)))
        return rc_gp0(cpu);
    *image = cpu->eflags & ~(u32)(F_VM | F_RF);
    return true;
}

/* CPL is 3 in V86 mode and 0 in real mode, so one comparison serves all. */
static inline bool may_change_if(struct cpu *cpu) {
    return likely(cpu->cpl <= (cpu->eflags >> IOPL_SHIFT & 3)) || rc_gp0(cpu);
}

bool rc_cli(struct cpu *cpu) {
    if (!may_change_if(cpu))
        return false;
    cpu->eflags &= ~(u32)F_IF;
    return true;
}

bool rc_sti(struct cpu *cpu) {
    if (!may_change_if(cpu))
        return false;
    if (!(cpu->eflags & F_IF))
        cpu->shadow |= SHADOW_STI;
    cpu->eflags |= F_IF;
    return true;
}
