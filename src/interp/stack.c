/*
 * stack.c: PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE. ESP moves last; where several words are
 * written, all of them are known to be writable first.
 */
#include "interp/interp_internal.h"

static void set_sp(struct cpu *cpu, u32 value, u32 mask) {
    gpr_write_masked(cpu, R_ESP, value, mask);
}

bool stack_push(struct interp *it, struct cpu *cpu, u32 value, unsigned bytes) {
    u32 lin, mask = stack_mask(cpu), sp = ((u32)cpu->gpr[R_ESP] - bytes) & mask;
    if (!seg_linear(it, cpu, SEG_SS, sp, bytes, true, &lin) || !mem_write(cpu, lin, bytes, value))
        return false;
    set_sp(cpu, sp, mask);
    return true;
}

bool stack_peek(struct interp *it, struct cpu *cpu, u32 displacement, unsigned bytes, u32 *value) {
    u32 lin, sp = ((u32)cpu->gpr[R_ESP] + displacement) & stack_mask(cpu);
    return seg_linear(it, cpu, SEG_SS, sp, bytes, false, &lin) && mem_read(cpu, lin, bytes, value);
}

bool stack_pop(struct interp *it, struct cpu *cpu, u32 *value, unsigned bytes) {
    if (!stack_peek(it, cpu, 0, bytes, value))
        return false;
    set_sp(cpu, (u32)cpu->gpr[R_ESP] + bytes, stack_mask(cpu));
    return true;
}

static bool is_seg_operand(const struct insn *in) {
    return in->op[0].type == OP_REG && in->op[0].reg_class == RC_SEG;
}

/* A segment register is pushed zero-extended to the operand size. */
enum ex exec_push(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 v;
    if (is_seg_operand(in))
        v = cpu->seg[in->op[0].reg].selector;
    else if (!op_read(it, cpu, in, 0, bytes, &v))
        return EX_FAULT;
    return stack_push(it, cpu, v, bytes) ? EX_NEXT : EX_FAULT;
}

static enum ex pop_seg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    enum seg seg = in->op[0].reg;
    u32 v, mask = stack_mask(cpu), sp = (u32)cpu->gpr[R_ESP] + in->op_bytes;
    if (!stack_peek(it, cpu, 0, in->op_bytes, &v) || !rc_load_segment(cpu, seg, (u16)v))
        return EX_FAULT;
    set_sp(cpu, sp, mask);
    if (seg == SEG_SS && !(it->shadow_before & SHADOW_SS))
        cpu->shadow |= SHADOW_SS;
    return EX_NEXT;
}

/* POP to memory addresses its operand with ESP already incremented: SDM volume 2, POP. */
enum ex exec_pop(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 v, mask = stack_mask(cpu), old_sp = (u32)cpu->gpr[R_ESP];
    if (is_seg_operand(in))
        return pop_seg(it, cpu, in);
    if (!stack_peek(it, cpu, 0, bytes, &v))
        return EX_FAULT;
    set_sp(cpu, old_sp + bytes, mask);
    if (!op_write(it, cpu, in, 0, bytes, v)) {
        cpu->gpr[R_ESP] = old_sp;
        return EX_FAULT;
    }
    return EX_NEXT;
}

/* ---- PUSHA, POPA ---- */

/* Eight words downward from ESP, each checked before the first is written. */
static bool pusha_store(struct interp *it, struct cpu *cpu, u32 sp, u32 mask, unsigned bytes) {
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < 8; i++) {
            u32 lin, at = (sp - (i + 1) * bytes) & mask;
            if (!seg_linear(it, cpu, SEG_SS, at, bytes, true, &lin))
                return false;
            if (pass == 0 ? !mmu_check_write(cpu, lin, bytes, MMU_WRITE)
                          : !mem_write(cpu, lin, bytes, (u32)cpu->gpr[i]))
                return false;
        }
    return true;
}

enum ex exec_pusha(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 mask = stack_mask(cpu), sp = (u32)cpu->gpr[R_ESP];
    if (!pusha_store(it, cpu, sp, mask, bytes))
        return EX_FAULT;
    set_sp(cpu, sp - 8 * bytes, mask);
    return EX_NEXT;
}

enum ex exec_popa(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 v[8];
    for (unsigned i = 0; i < 8; i++)
        if (i != 3 && !stack_peek(it, cpu, i * bytes, bytes, &v[7 - i]))
            return EX_FAULT;
    set_sp(cpu, (u32)cpu->gpr[R_ESP] + 8 * bytes, stack_mask(cpu));
    for (unsigned i = 0; i < 8; i++)
        if (i != R_ESP)
            gpr_write(cpu, i, bytes, v[i]);
    return EX_NEXT;
}

/* ---- PUSHF, POPF ---- */

enum ex exec_pushf(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 image;
    if (!rc_pushf(cpu, &image, in->op_bytes) || !stack_push(it, cpu, image, in->op_bytes))
        return EX_FAULT;
    return EX_NEXT;
}

/* When interrupts just became possible the engine must look for one. */
enum ex exec_popf(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 image, before = cpu->eflags;
    if (!stack_peek(it, cpu, 0, in->op_bytes, &image) || !rc_popf(cpu, image, in->op_bytes))
        return EX_FAULT;
    set_sp(cpu, (u32)cpu->gpr[R_ESP] + in->op_bytes, stack_mask(cpu));
    return ~before & cpu->eflags & F_IF ? EX_SYNC : EX_NEXT;
}

/* ---- ENTER, LEAVE ---- */

/* SDM volume 2, ENTER. The words go below ESP, which moves only at the end, so a fault between two
 * of them restarts the whole instruction. */
enum ex exec_enter(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes, level = in->imm2 & 31;
    u32 size = (u16)in->imm, mask = stack_mask(cpu), saved = (u32)cpu->gpr[R_ESP];
    u32 frame, lin, bp = (u32)cpu->gpr[R_EBP], v;
    enum ex result = EX_FAULT;
    if (!stack_push(it, cpu, bp, bytes))
        goto out;
    frame = (u32)cpu->gpr[R_ESP];
    for (unsigned i = 1; i < level; i++) {
        bp -= bytes;
        if (!seg_linear(it, cpu, SEG_SS, bp & mask, bytes, false, &lin) ||
            !mem_read(cpu, lin, bytes, &v) || !stack_push(it, cpu, v, bytes))
            goto out;
    }
    if (level && !stack_push(it, cpu, frame, bytes))
        goto out;
    set_sp(cpu, (u32)cpu->gpr[R_ESP] - size, mask);
    /* The last word of the frame must be writable; it is not written. */
    if (!seg_linear_aligned(it, cpu, SEG_SS, (u32)cpu->gpr[R_ESP] & mask, bytes,
                            (struct access){.align = (u8)bytes, .write = true}, &lin) ||
        !mmu_check_write(cpu, lin, bytes, MMU_WRITE))
        goto out;
    gpr_write(cpu, R_EBP, bytes, frame);
    result = EX_NEXT;
out:
    if (result == EX_FAULT)
        cpu->gpr[R_ESP] = saved;
    return result;
}

enum ex exec_leave(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 mask = stack_mask(cpu), bp = (u32)cpu->gpr[R_EBP], lin, v;
    if (!seg_linear(it, cpu, SEG_SS, bp & mask, bytes, false, &lin) ||
        !mem_read(cpu, lin, bytes, &v))
        return EX_FAULT;
    set_sp(cpu, bp + bytes, mask);
    gpr_write(cpu, R_EBP, bytes, v);
    return EX_NEXT;
}
