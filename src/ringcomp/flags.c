/*
 * flags.c: the flags that privilege guards. POPF, PUSHF, CLI and STI never trap on POPF's silent
 * rules, which is why they are virtualized here. SDM volume 2, "POPF", "PUSHF", "CLI", "STI"; where
 * VIF stands in for IF, volume 3, chapter 20 "8086 Emulation".
 */
#include "ringcomp/rc_internal.h"

static inline bool iopl_below_3_in_v86(const struct cpu *cpu) {
    return cpu_v86(cpu) && (cpu->eflags & F_IOPL) != F_IOPL;
}

bool rc_virtual_flags_allowed(const struct cpu *cpu, u32 image, unsigned op_bytes) {
    if (!rc_has_virtual_if(cpu) || op_bytes != 2)
        return false;
    return !(image & F_TF) && !((image & F_IF) && (cpu->eflags & F_VIP));
}

void rc_load_virtual_flags(struct cpu *cpu, u32 image) {
    u32 mask = F_ARITH | F_DF | F_NT | F_TF;
    u32 flags = (cpu->eflags & ~(mask | F_RF | F_VIF)) | (image & mask) | F_FIXED;
    cpu->eflags = flags | (image & F_IF ? F_VIF : 0);
}

u32 rc_virtual_flags_image(const struct cpu *cpu) {
    u32 image = cpu->eflags & 0xffff & ~(u32)F_IF;
    return image | F_IOPL | (cpu->eflags & F_VIF ? F_IF : 0);
}

static bool popf_virtual(struct cpu *cpu, u32 image, unsigned op_bytes) {
    if (!rc_virtual_flags_allowed(cpu, image, op_bytes))
        return rc_gp0(cpu);
    rc_load_virtual_flags(cpu, image);
    return true;
}

bool rc_popf(struct cpu *cpu, u32 image, unsigned op_bytes) {
    if (unlikely(iopl_below_3_in_v86(cpu)))
        return popf_virtual(cpu, image, op_bytes);
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

bool rc_pushf(struct cpu *cpu, u32 *image, unsigned op_bytes) {
    *image = cpu->eflags & ~(u32)(F_VM | F_RF);
    if (likely(!iopl_below_3_in_v86(cpu)))
        return true;
    if (!rc_has_virtual_if(cpu) || op_bytes != 2)
        return rc_gp0(cpu);
    *image = rc_virtual_flags_image(cpu);
    return true;
}

/* CPL is 3 in V86 mode and 0 in real mode, so one comparison serves all. */
static inline bool may_change_if(const struct cpu *cpu) {
    return likely(cpu->cpl <= (cpu->eflags >> IOPL_SHIFT & 3));
}

bool rc_cli(struct cpu *cpu) {
    if (may_change_if(cpu))
        cpu->eflags &= ~(u32)F_IF;
    else if (rc_has_virtual_if(cpu))
        cpu->eflags &= ~(u32)F_VIF;
    else
        return rc_gp0(cpu);
    return true;
}

bool rc_sti(struct cpu *cpu) {
    if (!may_change_if(cpu)) {
        if (!rc_has_virtual_if(cpu) || (cpu->eflags & F_VIP))
            return rc_gp0(cpu);
        cpu->eflags |= F_VIF;
        return true;
    }
    if (!(cpu->eflags & F_IF))
        cpu->shadow |= SHADOW_STI;
    cpu->eflags |= F_IF;
    return true;
}
