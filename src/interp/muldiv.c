/*
 * muldiv.c: MUL IMUL DIV IDIV, executed natively on the guest's flags. A quotient that does not fit
 * is found beforehand and raises #DE in the guest.
 */
#include "interp/interp_internal.h"

/* One-operand multiply: the accumulator is loaded behind the flags. */
#define MUL_ASM(mnemonic, width, load, store_lo)                                                   \
    __asm__(ASM_FLAGS_IN load "\n\t" mnemonic " %" width "[b]\n\t" store_lo ASM_FLAGS_OUT          \
            : "+a"(ax), "=&d"(high), [lo] "+&q"(low)                                               \
            : [b] "q"(b)                                                                           \
            : "cc")

static enum ex mul_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool is_signed) {
    unsigned bytes = in->op[0].bytes;
    u32 ax = flags_to_ax(cpu->eflags), low = (u32)cpu->gpr[R_EAX], high, b;
    if (!op_read(it, cpu, in, 0, bytes, &b))
        return EX_FAULT;
    if (bytes == 4 && is_signed)
        MUL_ASM("imull", "k", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    else if (bytes == 4)
        MUL_ASM("mull", "k", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    else if (bytes == 2 && is_signed)
        MUL_ASM("imulw", "w", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    else if (bytes == 2)
        MUL_ASM("mulw", "w", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    else if (is_signed)
        MUL_ASM("imulb", "b", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    else
        MUL_ASM("mulb", "b", "movl %k[lo], %%eax", "movl %%eax, %k[lo]");
    if (bytes == 1) {
        gpr_write(cpu, R_EAX, 2, low);
    } else {
        gpr_write(cpu, R_EAX, bytes, low);
        gpr_write(cpu, R_EDX, bytes, high);
    }
    set_arith_flags(cpu, flags_from_ax(ax));
    return EX_NEXT;
}

enum ex exec_mul(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return mul_exec(it, cpu, in, false);
}

/* IMUL r, r/m and IMUL r, r/m, imm. */
static enum ex imul_exec(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 ax = flags_to_ax(cpu->eflags), a, b;
    if (!op_read(it, cpu, in, 1, bytes, &b))
        return EX_FAULT;
    a = in->map == 0 ? (u32)in->imm : gpr_read(cpu, in->op[0].reg, bytes);
    if (bytes == 4)
        __asm__(ASM_FLAGS_IN "imull %k[b], %k[a]" ASM_FLAGS_OUT
                : "+a"(ax), [a] "+r"(a)
                : [b] "r"(b)
                : "cc");
    else
        __asm__(ASM_FLAGS_IN "imulw %w[b], %w[a]" ASM_FLAGS_OUT
                : "+a"(ax), [a] "+r"(a)
                : [b] "r"(b)
                : "cc");
    gpr_write(cpu, in->op[0].reg, bytes, a);
    set_arith_flags(cpu, flags_from_ax(ax));
    return EX_NEXT;
}

enum ex exec_imul(struct interp *it, struct cpu *cpu, const struct insn *in) {
    bool one_operand = in->map == 0 && (in->opcode & 0xfe) == 0xf6;
    return one_operand ? mul_exec(it, cpu, in, true) : imul_exec(it, cpu, in);
}

/* The dividend of a division of the given operand size. */
static u64 dividend(struct cpu *cpu, unsigned bytes) {
    if (bytes == 1)
        return (u16)cpu->gpr[R_EAX];
    if (bytes == 2)
        return (u32)(u16)cpu->gpr[R_EDX] << 16 | (u16)cpu->gpr[R_EAX];
    return cpu->gpr[R_EDX] << 32 | (u32)cpu->gpr[R_EAX];
}

static i64 sign_extend(u64 v, unsigned bytes) {
    unsigned shift = 64 - 8 * bytes;
    return (i64)(v << shift) >> shift;
}

static bool quotient_fits(u64 n, u32 d, unsigned bytes, bool is_signed) {
    if (d == 0)
        return false;
    if (!is_signed)
        return n / d <= size_mask(bytes);
    i64 sn = bytes == 4 ? (i64)n : sign_extend(n, 2 * bytes), sd = sign_extend(d, bytes);
    if (sd == -1 && sn == INT64_MIN)
        return false;
    i64 q = sn / sd, limit = (i64)1 << (8 * bytes - 1);
    return q >= -limit && q < limit;
}

#define DIV_ASM(mnemonic, width)                                                                   \
    __asm__(ASM_FLAGS_IN "movl %k[lo], %%eax\n\t" mnemonic " %" width                              \
                         "[d]\n\tmovl %%eax, %k[lo]" ASM_FLAGS_OUT                                 \
            : "+a"(ax), "+&d"(high), [lo] "+&q"(low)                                               \
            : [d] "q"(d)                                                                           \
            : "cc")

static enum ex div_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool is_signed) {
    unsigned bytes = in->op[0].bytes;
    u32 d, ax = flags_to_ax(cpu->eflags);
    u32 low = (u32)cpu->gpr[R_EAX], high = (u32)cpu->gpr[R_EDX];
    if (!op_read(it, cpu, in, 0, bytes, &d))
        return EX_FAULT;
    if (!quotient_fits(dividend(cpu, bytes), d, bytes, is_signed))
        return ex_fault(cpu, VEC_DE);
    if (bytes == 4 && is_signed)
        DIV_ASM("idivl", "k");
    else if (bytes == 4)
        DIV_ASM("divl", "k");
    else if (bytes == 2 && is_signed)
        DIV_ASM("idivw", "w");
    else if (bytes == 2)
        DIV_ASM("divw", "w");
    else if (is_signed)
        DIV_ASM("idivb", "b");
    else
        DIV_ASM("divb", "b");
    if (bytes == 1) {
        gpr_write(cpu, R_EAX, 2, low);
    } else {
        gpr_write(cpu, R_EAX, bytes, low);
        gpr_write(cpu, R_EDX, bytes, high);
    }
    set_arith_flags(cpu, flags_from_ax(ax));
    return EX_NEXT;
}

enum ex exec_div(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return div_exec(it, cpu, in, false);
}
enum ex exec_idiv(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return div_exec(it, cpu, in, true);
}
