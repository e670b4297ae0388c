/*
 * alu.c: ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT CMPXCHG XADD.
 *
 * The idea: the host is an x86, so the operation itself and its flags, undefined ones included,
 * come from the native instruction. Each operation exists once per operand size and operand form,
 * so that the hit path has no decisions left.
 */
#include "interp/interp_internal.h"

enum alu_op { ALU_add, ALU_or, ALU_adc, ALU_sbb, ALU_and, ALU_sub, ALU_xor, ALU_cmp, ALU_test };
enum alu_form { FORM_rr, FORM_ri, FORM_rm, FORM_mr, FORM_mi };

#define INLINE static inline __attribute__((always_inline))

/* asm operands: a is read and written, b is read, cf holds the carry in bit 0, ax gets the flags */
#define ALU_ASM(prefix, mnemonic, width)                                                           \
    __asm__(prefix mnemonic " %" width "[b], %" width "[a]" ASM_FLAGS_OUT                          \
            : "=&a"(ax), [a] "+q"(a)                                                               \
            : [b] "q"(b), [cf] "q"(cf)                                                             \
            : "cc")
#define ALU_SWITCH(s, width)                                                                       \
    switch (op) {                                                                                  \
    case ALU_add:                                                                                  \
        ALU_ASM("", "add" s, width);                                                               \
        break;                                                                                     \
    case ALU_or:                                                                                   \
        ALU_ASM("", "or" s, width);                                                                \
        break;                                                                                     \
    case ALU_adc:                                                                                  \
        ALU_ASM("btl $0, %k[cf]\n\t", "adc" s, width);                                             \
        break;                                                                                     \
    case ALU_sbb:                                                                                  \
        ALU_ASM("btl $0, %k[cf]\n\t", "sbb" s, width);                                             \
        break;                                                                                     \
    case ALU_and:                                                                                  \
        ALU_ASM("", "and" s, width);                                                               \
        break;                                                                                     \
    case ALU_sub:                                                                                  \
        ALU_ASM("", "sub" s, width);                                                               \
        break;                                                                                     \
    case ALU_xor:                                                                                  \
        ALU_ASM("", "xor" s, width);                                                               \
        break;                                                                                     \
    case ALU_cmp:                                                                                  \
        ALU_ASM("", "cmp" s, width);                                                               \
        break;                                                                                     \
    case ALU_test:                                                                                 \
        ALU_ASM("", "test" s, width);                                                              \
        break;                                                                                     \
    }

/* a op b; *flags gets the six arithmetic flags. */
INLINE u32 alu_compute(enum alu_op op, unsigned bytes, u32 a, u32 b, u32 cf, u32 *flags) {
    u32 ax = 0;
    if (bytes == 4) {
        ALU_SWITCH("l", "k")
    } else if (bytes == 2) {
        ALU_SWITCH("w", "w")
    } else {
        ALU_SWITCH("b", "b")
    }
    *flags = flags_from_ax(ax);
    return a;
}

INLINE bool alu_writes(enum alu_op op) {
    return op != ALU_cmp && op != ALU_test;
}

/* One instruction, specialised by constant op, bytes and form. */
INLINE enum ex alu_exec(struct interp *it, struct cpu *cpu, const struct insn *in, enum alu_op op,
                        unsigned bytes, enum alu_form form) {
    u32 lin, flags, a, b, cf = cpu->eflags;
    struct rmw m = {0};
    if (form == FORM_rr || form == FORM_mr)
        b = gpr_read(cpu, in->op[1].reg, bytes);
    else if (form == FORM_ri || form == FORM_mi)
        b = (u32)in->imm;
    else if (!mem_linear(it, cpu, in, bytes, false, &lin) || !mem_read(cpu, lin, bytes, &b))
        return EX_FAULT;

    if (form == FORM_mr || form == FORM_mi) {
        if (!mem_linear(it, cpu, in, bytes, alu_writes(op), &lin))
            return EX_FAULT;
        if (alu_writes(op) ? !rmw_open(cpu, lin, bytes, &m, &a) : !mem_read(cpu, lin, bytes, &a))
            return EX_FAULT;
        a = alu_compute(op, bytes, a, b, cf, &flags);
        if (alu_writes(op) && !rmw_close(cpu, &m, bytes, a))
            return EX_FAULT;
    } else {
        a = gpr_read(cpu, in->op[0].reg, bytes);
        a = alu_compute(op, bytes, a, b, cf, &flags);
        if (alu_writes(op))
            gpr_write(cpu, in->op[0].reg, bytes, a);
    }
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

#define ALU_INSTANCE(name, bytes, form)                                                            \
    static enum ex name##_##form##bytes(struct interp *it, struct cpu *cpu,                        \
                                        const struct insn *in) {                                   \
        return alu_exec(it, cpu, in, ALU_##name, bytes, FORM_##form);                              \
    }
#define ALU_INSTANCES(name, bytes)                                                                 \
    ALU_INSTANCE(name, bytes, rr)                                                                  \
    ALU_INSTANCE(name, bytes, ri)                                                                  \
    ALU_INSTANCE(name, bytes, rm)                                                                  \
    ALU_INSTANCE(name, bytes, mr)                                                                  \
    ALU_INSTANCE(name, bytes, mi)
#define ALU_ROW(name, bytes)                                                                       \
    { name##_rr##bytes, name##_ri##bytes, name##_rm##bytes, name##_mr##bytes, name##_mi##bytes }
#define ALU_FAMILY(name)                                                                           \
    ALU_INSTANCES(name, 1)                                                                         \
    ALU_INSTANCES(name, 2)                                                                         \
    ALU_INSTANCES(name, 4)                                                                         \
    exec_fn bind_##name(const struct insn *in) {                                                   \
        static const exec_fn row[3][5] = {ALU_ROW(name, 1), ALU_ROW(name, 2), ALU_ROW(name, 4)};   \
        return row[in->op[0].bytes >> 1][alu_form_of(in)];                                         \
    }

static enum alu_form alu_form_of(const struct insn *in) {
    if (in->op[0].type == OP_MEM)
        return in->op[1].type == OP_IMM ? FORM_mi : FORM_mr;
    if (in->op[1].type == OP_MEM)
        return FORM_rm;
    return in->op[1].type == OP_IMM ? FORM_ri : FORM_rr;
}

ALU_FAMILY(add)
ALU_FAMILY(or)
ALU_FAMILY(adc)
ALU_FAMILY(sbb)
ALU_FAMILY(and)
ALU_FAMILY(sub)
ALU_FAMILY(xor)
ALU_FAMILY(cmp)
ALU_FAMILY(test)

u32 alu_compare(unsigned bytes, u32 a, u32 b) {
    u32 flags;
    alu_compute(ALU_cmp, bytes, a, b, 0, &flags);
    return flags;
}

/* ---- INC, DEC: CF stays ---- */

INLINE enum ex step_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool up,
                         unsigned bytes) {
    struct place p;
    u32 a, flags;
    if (!place_open(it, cpu, in, 0, bytes, &p, &a))
        return EX_FAULT;
    a = alu_compute(up ? ALU_add : ALU_sub, bytes, a, 1, 0, &flags);
    if (!place_close(cpu, &p, bytes, a))
        return EX_FAULT;
    set_arith_flags(cpu, (flags & ~(u32)F_CF) | (cpu->eflags & F_CF));
    return EX_NEXT;
}
#define STEP_INSTANCE(name, up, bytes)                                                             \
    static enum ex name##bytes(struct interp *it, struct cpu *cpu, const struct insn *in) {        \
        return step_exec(it, cpu, in, up, bytes);                                                  \
    }
#define STEP_FAMILY(name, up)                                                                      \
    STEP_INSTANCE(name, up, 1)                                                                     \
    STEP_INSTANCE(name, up, 2)                                                                     \
    STEP_INSTANCE(name, up, 4)                                                                     \
    exec_fn bind_##name(const struct insn *in) {                                                   \
        static const exec_fn row[3] = {name##1, name##2, name##4};                                 \
        return row[in->op[0].bytes >> 1];                                                          \
    }
STEP_FAMILY(inc, true)
STEP_FAMILY(dec, false)

u32 alu_sum(unsigned bytes, u32 a, u32 b, bool subtract, u32 *flags) {
    return subtract ? alu_compute(ALU_sub, bytes, a, b, 0, flags)
                    : alu_compute(ALU_add, bytes, a, b, 0, flags);
}

enum ex exec_neg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    struct place p;
    u32 a, flags;
    if (!place_open(it, cpu, in, 0, bytes, &p, &a))
        return EX_FAULT;
    a = alu_sum(bytes, 0, a, true, &flags);
    if (!place_close(cpu, &p, bytes, a))
        return EX_FAULT;
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

enum ex exec_not(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    struct place p;
    u32 a;
    if (!place_open(it, cpu, in, 0, bytes, &p, &a) || !place_close(cpu, &p, bytes, ~a))
        return EX_FAULT;
    return EX_NEXT;
}

/* ---- Exchanges that compute ---- */

/* The destination is written even when the comparison fails: SDM volume 2, CMPXCHG. */
enum ex exec_cmpxchg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 source = gpr_read(cpu, in->op[1].reg, bytes), acc = gpr_read(cpu, R_EAX, bytes);
    struct place p;
    u32 old;
    if (!place_open(it, cpu, in, 0, bytes, &p, &old))
        return EX_FAULT;
    u32 flags = alu_compare(bytes, acc, old);
    if (!place_close(cpu, &p, bytes, flags & F_ZF ? source : old))
        return EX_FAULT;
    if (!(flags & F_ZF))
        gpr_write(cpu, R_EAX, bytes, old);
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

enum ex exec_xadd(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 source = gpr_read(cpu, in->op[1].reg, bytes);
    struct place p;
    u32 old, flags;
    if (!place_open(it, cpu, in, 0, bytes, &p, &old))
        return EX_FAULT;
    u32 sum = alu_sum(bytes, old, source, false, &flags);
    if (!p.is_reg && !place_close(cpu, &p, bytes, sum))
        return EX_FAULT;
    gpr_write(cpu, in->op[1].reg, bytes, old);
    if (p.is_reg)
        gpr_write(cpu, p.reg, bytes, sum);
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}
