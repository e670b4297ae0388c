/*
 * iret.c: IRET in all its forms: real mode, V86 mode, to the same ring, to an outer ring, to V86
 * mode, and back to the previous task. SDM volume 2, "IRET/IRETD-Interrupt Return".
 */
#include "ringcomp/rc_internal.h"

/* Flags an IRET of that operand size takes from the image at this CPL. */
static inline u32 flags_mask(const struct cpu *cpu, unsigned op_bytes) {
    u32 mask = F_ARITH | F_TF | F_DF | F_NT;
    unsigned iopl = cpu->eflags >> IOPL_SHIFT & 3;
    if (op_bytes == 4)
        mask |= F_RF | F_AC | F_ID;
    if (cpu->cpl <= iopl)
        mask |= F_IF;
    if (cpu->cpl == 0) {
        mask |= F_IOPL;
        if (op_bytes == 4)
            mask |= F_VIF | F_VIP;
    }
    return mask;
}
static inline u32 merge_flags(u32 old, u32 image, u32 mask) {
    return (old & ~mask) | (image & mask) | F_FIXED;
}

/* V86 mode with IOPL below 3, where CR4.VME lets VIF stand in for IF: SDM volume 3, section 20.3.2.
 */
static bool iret_virtual(struct cpu *cpu, unsigned op_bytes) {
    u32 slot[3], esp = (u32)cpu->gpr[R_ESP];
    if (!rc_has_virtual_if(cpu) || op_bytes != 2)
        return rc_gp0(cpu);
    if (!rc_peek_frame(cpu, 0, 3, 2, slot))
        return false;
    if (!rc_virtual_flags_allowed(cpu, slot[2], 2))
        return rc_gp0(cpu);
    rc_fill_v86(&cpu->seg[SEG_CS], (u16)slot[1]);
    cpu->gpr[R_ESP] = rc_stack_pointer(&cpu->seg[SEG_SS], esp, esp + 6);
    cpu->eip = slot[0];
    rc_load_virtual_flags(cpu, slot[2]);
    return true;
}

/* Real mode, and V86 mode with IOPL 3: no rings, CS:IP and FLAGS only. */
static bool iret_real(struct cpu *cpu, unsigned op_bytes) {
    u32 slot[3], esp = (u32)cpu->gpr[R_ESP], mask = F_ARITH | F_TF | F_DF | F_NT | F_IF;
    bool v86 = cpu_protected(cpu);
    if (v86 && (cpu->eflags & F_IOPL) != F_IOPL)
        return iret_virtual(cpu, op_bytes);
    if (!rc_peek_frame(cpu, 0, 3, op_bytes, slot))
        return false;
    if (slot[0] > (v86 ? 0xffffu : cpu->seg[SEG_CS].limit))
        return rc_gp0(cpu);
    if (op_bytes == 4)
        mask |= F_RF | F_AC | F_ID;
    if (!v86)
        mask |= F_IOPL;
    if (v86)
        rc_fill_v86(&cpu->seg[SEG_CS], (u16)slot[1]);
    else
        rc_load_real(cpu, SEG_CS, (u16)slot[1]);
    cpu->gpr[R_ESP] = rc_stack_pointer(&cpu->seg[SEG_SS], esp, esp + 3 * op_bytes);
    cpu->eip = slot[0];
    cpu->eflags = merge_flags(cpu->eflags, slot[2], mask);
    return true;
}

/* From ring 0 to V86 mode: SDM volume 3, section 20.2.5 "Entering Virtual-8086 Mode". */
static bool iret_to_v86(struct cpu *cpu, const u32 *slot) {
    static const u8 order[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    u32 outer[6]; /* ESP SS ES DS FS GS */
    if (!rc_peek_frame(cpu, 12, 6, 4, outer))
        return false;
    if (slot[0] > 0xffff)
        return rc_gp0(cpu);
    cpu->eflags = merge_flags(0, slot[2], F_ALL);
    cpu->eip = slot[0];
    cpu->cpl = 3;
    rc_fill_v86(&cpu->seg[SEG_CS], (u16)slot[1]);
    rc_fill_v86(&cpu->seg[SEG_SS], (u16)outer[1]);
    cpu->gpr[R_ESP] = outer[0];
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        rc_fill_v86(&cpu->seg[order[i]], (u16)outer[2 + i]);
    return true;
}

/* NT set: back to the task named by the link field of the current TSS. */
static bool iret_task(struct cpu *cpu, u32 next_eip) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    u64 link;
    if ((tr->attr & ATTR_NULL) || tr->limit < 1)
        return rc_fault_selector(cpu, VEC_TS, tr->selector, 0);
    if (!rc_read_sys(cpu, tr->base, &link, 2))
        return false;
    return rc_task_switch_ext(cpu, (u16)link, RC_TASK_IRET, next_eip, false, 0, 0);
}

static inline bool iret_outer(struct cpu *cpu, struct rc_return *r, unsigned op_bytes, u32 image) {
    u32 slot[2], mask = flags_mask(cpu, op_bytes);
    if (unlikely(!rc_peek_frame(cpu, 3 * op_bytes, 2, op_bytes, slot)))
        return false;
    r->esp = slot[0];
    r->ss = (u16)slot[1];
    if (unlikely(!rc_check_return_ss(cpu, r)))
        return false;
    /* A 16-bit outer stack takes SP only: the upper half of the kernel's ESP shows through. */
    cpu->gpr[R_ESP] = rc_stack_pointer(&r->ss_seg, (u32)cpu->gpr[R_ESP], r->esp);
    rc_copy_segment(&cpu->seg[SEG_SS], &r->ss_seg);
    rc_commit_cs(cpu, r->cs, &r->cs_desc, r->cs & 3u);
    cpu->eip = r->eip;
    cpu->eflags = merge_flags(cpu->eflags, image, mask);
    rc_null_inaccessible(cpu, cpu->cpl);
    return true;
}

bool rc_iret(struct cpu *cpu, unsigned op_bytes, u32 next_eip) {
    struct rc_return r;
    u32 slot[3];
    cpu->nmi_blocked = false; /* even when the IRET faults: SDM volume 3, section 6.7.1 */
    if (unlikely(!cpu_protected(cpu) || cpu_v86(cpu)))
        return iret_real(cpu, op_bytes);
    if (unlikely(cpu->eflags & F_NT))
        return iret_task(cpu, next_eip);
    if (unlikely(!rc_peek_frame(cpu, 0, 3, op_bytes, slot)))
        return false;
    if (unlikely(op_bytes == 4 && (slot[2] & F_VM) && cpu->cpl == 0))
        return iret_to_v86(cpu, slot);
    r.eip = slot[0];
    r.cs = (u16)slot[1];
    if (unlikely(!rc_check_return_cs(cpu, &r)))
        return false;
    if ((r.cs & 3u) != cpu->cpl)
        return iret_outer(cpu, &r, op_bytes, slot[2]);
    u32 esp = (u32)cpu->gpr[R_ESP];
    cpu->gpr[R_ESP] = rc_stack_pointer(&cpu->seg[SEG_SS], esp, esp + 3 * op_bytes);
    cpu->eflags = merge_flags(cpu->eflags, slot[2], flags_mask(cpu, op_bytes));
    rc_commit_cs(cpu, r.cs, &r.cs_desc, cpu->cpl);
    cpu->eip = r.eip;
    return true;
}
