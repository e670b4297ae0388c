/*
 * control.c: jumps, calls, returns, loops and everything that raises or ends an interrupt. A near
 * target is checked against the CS limit before anything is pushed.
 */
#include "interp/interp_internal.h"

#define INLINE static inline __attribute__((always_inline))

INLINE enum ex jump_to(struct cpu *cpu, u32 target, unsigned op_bytes) {
    if (op_bytes == 2)
        target &= 0xffff;
    if (unlikely(target > cpu->seg[SEG_CS].limit))
        return ex_gp0(cpu);
    cpu->eip = target;
    return EX_JUMP;
}
INLINE u32 relative_target(const struct cpu *cpu, const struct insn *in) {
    return next_eip(cpu, in) + (u32)in->imm;
}

/* ---- Jcc, one function per condition ---- */

#define JCC_INSTANCE(cc)                                                                           \
    static enum ex jcc_##cc(struct interp *it, struct cpu *cpu, const struct insn *in) {           \
        (void)it;                                                                                  \
        if (!condition(cpu->eflags, cc))                                                           \
            return EX_NEXT;                                                                        \
        return jump_to(cpu, relative_target(cpu, in), in->op_bytes);                               \
    }
JCC_INSTANCE(0)
JCC_INSTANCE(1)
JCC_INSTANCE(2)
JCC_INSTANCE(3)
JCC_INSTANCE(4)
JCC_INSTANCE(5)
JCC_INSTANCE(6)
JCC_INSTANCE(7)
JCC_INSTANCE(8)
JCC_INSTANCE(9)
JCC_INSTANCE(10)
JCC_INSTANCE(11)
JCC_INSTANCE(12)
JCC_INSTANCE(13)
JCC_INSTANCE(14)
JCC_INSTANCE(15)

exec_fn bind_jcc(const struct insn *in) {
    static const exec_fn row[16] = {jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
                                    jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15};
    return row[in->opcode & 15];
}

/* ---- JMP, CALL, RET ---- */

enum transfer_form { T_RELATIVE, T_INDIRECT, T_FAR_DIRECT, T_FAR_INDIRECT };

static enum transfer_form transfer_form(const struct insn *in) {
    switch (in->opcode) {
    case 0xe8:
    case 0xe9:
    case 0xeb:
        return T_RELATIVE;
    case 0x9a:
    case 0xea:
        return T_FAR_DIRECT;
    default: /* FF /2 to /5 */
        return (in->modrm >> 3) & 1 ? T_FAR_INDIRECT : T_INDIRECT;
    }
}

/* Reads the pointer of a far indirect transfer: offset, then selector. */
static bool far_pointer(struct interp *it, struct cpu *cpu, const struct insn *in, u16 *selector,
                        u32 *offset) {
    u8 image[6];
    u32 lin, selector_lin, at = ea_offset(cpu, in);
    unsigned bytes = in->op_bytes;
    if (in->op[0].type != OP_MEM)
        return cpu_fault(cpu, VEC_UD);
    if (!seg_linear(it, cpu, in->mem_seg, at, bytes, false, &lin) ||
        !seg_linear(it, cpu, in->mem_seg, at + bytes, 2, false, &selector_lin) ||
        !mmu_read(cpu, lin, image, bytes + 2, MMU_READ))
        return false;
    *offset = host_load(image, bytes);
    *selector = load16(image + bytes);
    return true;
}

/* Target of a far transfer, or of a near one (selector untouched). */
static bool transfer_target(struct interp *it, struct cpu *cpu, const struct insn *in,
                            u16 *selector, u32 *offset) {
    switch (transfer_form(in)) {
    case T_RELATIVE:
        *offset = relative_target(cpu, in);
        return true;
    case T_INDIRECT:
        return op_read(it, cpu, in, 0, in->op_bytes, offset);
    case T_FAR_DIRECT:
        *offset = (u32)in->imm & size_mask(in->op_bytes);
        *selector = (u16)in->imm2;
        return true;
    default:
        return far_pointer(it, cpu, in, selector, offset);
    }
}

enum ex exec_jmp(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 offset;
    u16 selector;
    if (!transfer_target(it, cpu, in, &selector, &offset))
        return EX_FAULT;
    if (transfer_form(in) <= T_INDIRECT)
        return jump_to(cpu, offset, in->op_bytes);
    if (!rc_far_jump(cpu, selector, offset, in->op_bytes, next_eip(cpu, in)))
        return EX_FAULT;
    return EX_DELIVERED;
}

enum ex exec_call(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 offset;
    u16 selector;
    if (!transfer_target(it, cpu, in, &selector, &offset))
        return EX_FAULT;
    if (transfer_form(in) > T_INDIRECT) {
        if (!rc_far_call(cpu, selector, offset, in->op_bytes, next_eip(cpu, in)))
            return EX_FAULT;
        return EX_DELIVERED;
    }
    offset &= size_mask(in->op_bytes);
    if (offset > cpu->seg[SEG_CS].limit)
        return ex_gp0(cpu);
    if (!stack_push(it, cpu, next_eip(cpu, in), in->op_bytes))
        return EX_FAULT;
    cpu->eip = offset;
    return EX_JUMP;
}

enum ex exec_ret(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 target, release = in->imm_bytes ? (u16)in->imm : 0;
    if (in->opcode == 0xca || in->opcode == 0xcb)
        return rc_far_return(cpu, in->op_bytes, release) ? EX_DELIVERED : EX_FAULT;
    if (!stack_peek(it, cpu, 0, in->op_bytes, &target))
        return EX_FAULT;
    enum ex result = jump_to(cpu, target, in->op_bytes);
    if (result != EX_FAULT)
        gpr_write_masked(cpu, R_ESP, (u32)cpu->gpr[R_ESP] + in->op_bytes + release,
                         stack_mask(cpu));
    return result;
}

/* ---- Loops ---- */

static u32 count_mask(const struct insn *in) {
    return in->addr_bytes == 2 ? 0xffff : 0xffffffff;
}

enum ex exec_jcxz(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    if ((u32)cpu->gpr[R_ECX] & count_mask(in))
        return EX_NEXT;
    return jump_to(cpu, relative_target(cpu, in), in->op_bytes);
}

/* E0 LOOPNE, E1 LOOPE, E2 LOOP. */
enum ex exec_loop(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 mask = count_mask(in), count = ((u32)cpu->gpr[R_ECX] - 1) & mask;
    bool zf = cpu->eflags & F_ZF;
    bool taken = count && (in->opcode == 0xe2 || zf == (in->opcode == 0xe1));
    (void)it;
    if (taken) {
        enum ex result = jump_to(cpu, relative_target(cpu, in), in->op_bytes);
        if (result == EX_FAULT)
            return result;
        gpr_write_masked(cpu, R_ECX, count, mask);
        return result;
    }
    gpr_write_masked(cpu, R_ECX, count, mask);
    return EX_NEXT;
}

/* ---- Interrupts ---- */

static enum ex interrupt(struct cpu *cpu, const struct insn *in, u8 vector, enum rc_event event) {
    return rc_deliver(cpu, vector, event, false, 0, next_eip(cpu, in)) ? EX_INT : EX_FAULT;
}

enum ex exec_int(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    return interrupt(cpu, in, (u8)in->imm, RC_SOFTWARE);
}
enum ex exec_int3(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    return interrupt(cpu, in, VEC_BP, RC_SOFT_TRAP);
}
enum ex exec_into(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    return cpu->eflags & F_OF ? interrupt(cpu, in, VEC_OF, RC_SOFT_TRAP) : EX_NEXT;
}
enum ex exec_int1(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    return interrupt(cpu, in, VEC_DB, RC_ICEBP);
}

enum ex exec_iret(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    return rc_iret(cpu, in->op_bytes, next_eip(cpu, in)) ? EX_DELIVERED : EX_FAULT;
}

/* BOUND: signed index against a pair of bounds in memory. */
enum ex exec_bound(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op_bytes;
    u32 lin[2], low, high, offset = ea_offset(cpu, in), index = gpr_read(cpu, in->op[0].reg, bytes);
    if (in->op[1].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    /* Each bound is an operand of its own, as alignment goes. */
    if (!seg_linear(it, cpu, in->mem_seg, offset, bytes, false, &lin[0]) ||
        !seg_linear(it, cpu, in->mem_seg, offset + bytes, bytes, false, &lin[1]) ||
        !mem_read(cpu, lin[0], bytes, &low) || !mem_read(cpu, lin[1], bytes, &high))
        return EX_FAULT;
    if (bytes == 2) {
        index = (u32)(i16)index;
        low = (u32)(i16)low;
        high = (u32)(i16)high;
    }
    if ((i32)index < (i32)low || (i32)index > (i32)high)
        return ex_fault(cpu, VEC_BR);
    return EX_NEXT;
}

enum ex exec_ud(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ex_fault(cpu, VEC_UD);
}

enum ex exec_sysenter(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return rc_sysenter(cpu) ? EX_DELIVERED : EX_FAULT;
}
enum ex exec_sysexit(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return rc_sysexit(cpu) ? EX_DELIVERED : EX_FAULT;
}
