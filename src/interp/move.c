/*
 * move.c: data movement without arithmetic: MOV in all its forms, extensions, conditional moves,
 * exchanges, pointer loads, and the instructions on single flags.
 */
#include "interp/interp_internal.h"

#define INLINE static inline __attribute__((always_inline))

/* ---- MOV between general registers, memory and immediates: specialised by form and size ---- */

enum mov_form { MOV_rr, MOV_ri, MOV_rm, MOV_mr, MOV_mi };

INLINE enum ex mov_exec(struct interp *it, struct cpu *cpu, const struct insn *in,
                        enum mov_form form, unsigned bytes) {
    u32 lin, v;
    if (form == MOV_rm) {
        if (!mem_linear(it, cpu, in, bytes, false, &lin) || !mem_read(cpu, lin, bytes, &v))
            return EX_FAULT;
        gpr_write(cpu, in->op[0].reg, bytes, v);
        return EX_NEXT;
    }
    v = form == MOV_ri || form == MOV_mi ? (u32)in->imm : gpr_read(cpu, in->op[1].reg, bytes);
    if (form == MOV_rr || form == MOV_ri) {
        gpr_write(cpu, in->op[0].reg, bytes, v);
        return EX_NEXT;
    }
    if (!mem_linear(it, cpu, in, bytes, true, &lin) || !mem_write(cpu, lin, bytes, v))
        return EX_FAULT;
    return EX_NEXT;
}
#define MOV_INSTANCE(form, bytes)                                                                  \
    static enum ex mov_##form##bytes(struct interp *it, struct cpu *cpu, const struct insn *in) {  \
        return mov_exec(it, cpu, in, MOV_##form, bytes);                                           \
    }
#define MOV_SIZES(form) MOV_INSTANCE(form, 1) MOV_INSTANCE(form, 2) MOV_INSTANCE(form, 4)
MOV_SIZES(rr)
MOV_SIZES(ri)
MOV_SIZES(rm)
MOV_SIZES(mr)
MOV_SIZES(mi)

static bool is_system_reg(const struct insn_op *op) {
    return op->type == OP_REG &&
           (op->reg_class == RC_SEG || op->reg_class == RC_CR || op->reg_class == RC_DR);
}

exec_fn bind_mov(const struct insn *in) {
#define ROW(form)                                                                                  \
    { mov_##form##1, mov_##form##2, mov_##form##4 }
    static const exec_fn table[5][3] = {ROW(rr), ROW(ri), ROW(rm), ROW(mr), ROW(mi)};
#undef ROW
    if (is_system_reg(&in->op[0]) || is_system_reg(&in->op[1]))
        return exec_mov_any;
    enum mov_form form;
    if (in->op[0].type == OP_MEM)
        form = in->op[1].type == OP_IMM ? MOV_mi : MOV_mr;
    else if (in->op[1].type == OP_MEM)
        form = MOV_rm;
    else
        form = in->op[1].type == OP_IMM ? MOV_ri : MOV_rr;
    return table[form][in->op[0].bytes >> 1];
}

/* ---- MOV with segment, control and debug registers ---- */

static enum ex mov_from_seg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 selector = cpu->seg[in->op[1].reg].selector;
    /* A register takes the operand size, zero-extended; memory always 16 bits. */
    unsigned bytes = in->op[0].type == OP_REG ? in->op_bytes : 2;
    return op_write(it, cpu, in, 0, bytes, selector) ? EX_NEXT : EX_FAULT;
}

static enum ex mov_to_seg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 selector;
    unsigned seg = in->op[0].reg;
    if (seg == SEG_CS || seg > SEG_GS)
        return ex_fault(cpu, VEC_UD);
    if (!op_read(it, cpu, in, 1, 2, &selector) ||
        !rc_load_segment(cpu, (enum seg)seg, (u16)selector))
        return EX_FAULT;
    if (seg == SEG_SS && !(it->shadow_before & SHADOW_SS))
        cpu->shadow |= SHADOW_SS;
    return EX_NEXT;
}

/* CR and DR moves. Whatever they changed, the engine above must look at it. */
static enum ex mov_system(struct cpu *cpu, const struct insn *in) {
    bool to = is_system_reg(&in->op[0]);
    const struct insn_op *sys = &in->op[to ? 0 : 1], *gpr = &in->op[to ? 1 : 0];
    bool is_cr = sys->reg_class == RC_CR, ok;
    u32 v = (u32)cpu->gpr[gpr->reg];
    if (!rc_require_cpl0(cpu))
        return EX_FAULT;
    if (to) {
        ok = is_cr ? rc_write_cr(cpu, sys->reg, v) : rc_write_dr(cpu, sys->reg, v);
        return ok ? EX_SYNC : EX_FAULT;
    }
    ok = is_cr ? rc_read_cr(cpu, sys->reg, &v) : rc_read_dr(cpu, sys->reg, &v);
    if (!ok)
        return EX_FAULT;
    gpr_write(cpu, gpr->reg, 4, v);
    return EX_NEXT;
}

enum ex exec_mov_any(struct interp *it, struct cpu *cpu, const struct insn *in) {
    if (in->op[0].type == OP_REG && in->op[0].reg_class == RC_SEG)
        return mov_to_seg(it, cpu, in);
    if (in->op[1].type == OP_REG && in->op[1].reg_class == RC_SEG)
        return mov_from_seg(it, cpu, in);
    return mov_system(cpu, in);
}

/* ---- Extensions and conversions ---- */

enum ex exec_movzx(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 v;
    if (!op_read(it, cpu, in, 1, in->opcode & 1 ? 2 : 1, &v))
        return EX_FAULT;
    gpr_write(cpu, in->op[0].reg, in->op_bytes, v);
    return EX_NEXT;
}

enum ex exec_movsx(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 v;
    if (!op_read(it, cpu, in, 1, in->opcode & 1 ? 2 : 1, &v))
        return EX_FAULT;
    v = in->opcode & 1 ? (u32)(i16)v : (u32)(i8)v;
    gpr_write(cpu, in->op[0].reg, in->op_bytes, v);
    return EX_NEXT;
}

enum ex exec_cbw(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    gpr_write(cpu, R_EAX, 2, (u32)(i8)cpu->gpr[R_EAX]);
    return EX_NEXT;
}
enum ex exec_cwde(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    gpr_write(cpu, R_EAX, 4, (u32)(i16)cpu->gpr[R_EAX]);
    return EX_NEXT;
}
enum ex exec_cwd(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    gpr_write(cpu, R_EDX, 2, cpu->gpr[R_EAX] & 0x8000 ? 0xffff : 0);
    return EX_NEXT;
}
enum ex exec_cdq(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    gpr_write(cpu, R_EDX, 4, cpu->gpr[R_EAX] & 0x80000000 ? 0xffffffff : 0);
    return EX_NEXT;
}

enum ex exec_movbe(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 v;
    if (!op_read(it, cpu, in, 1, bytes, &v))
        return EX_FAULT;
    v = bytes == 4 ? __builtin_bswap32(v) : __builtin_bswap16((u16)v);
    return op_write(it, cpu, in, 0, bytes, v) ? EX_NEXT : EX_FAULT;
}

/* ---- Conditional ---- */

/* A memory source is read whatever the condition. */
enum ex exec_cmov(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 v;
    if (!op_read(it, cpu, in, 1, bytes, &v))
        return EX_FAULT;
    if (condition(cpu->eflags, in->opcode & 15))
        gpr_write(cpu, in->op[0].reg, bytes, v);
    return EX_NEXT;
}

enum ex exec_setcc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 v = condition(cpu->eflags, in->opcode & 15);
    return op_write(it, cpu, in, 0, 1, v) ? EX_NEXT : EX_FAULT;
}

/* ---- Exchanges, addresses, tables ---- */

enum ex exec_xchg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    unsigned m = in->op[1].type == OP_MEM ? 1 : 0, r = 1 - m;
    struct place p;
    u32 old, v = gpr_read(cpu, in->op[r].reg, bytes);
    if (!place_open(it, cpu, in, m, bytes, &p, &old) || !place_close(cpu, &p, bytes, v))
        return EX_FAULT;
    gpr_write(cpu, in->op[r].reg, bytes, old);
    return EX_NEXT;
}

enum ex exec_cmpxchg8b(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 lin, zero_flag;
    u64 old, value;
    u64 expected = cpu->gpr[R_EDX] << 32 | (u32)cpu->gpr[R_EAX];
    if (in->op[0].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    if (!mem_linear(it, cpu, in, 8, true, &lin) || !mmu_check_write(cpu, lin, 8, MMU_WRITE) ||
        !mmu_read(cpu, lin, &old, 8, MMU_READ))
        return EX_FAULT;
    zero_flag = old == expected ? F_ZF : 0;
    value = zero_flag ? cpu->gpr[R_ECX] << 32 | (u32)cpu->gpr[R_EBX] : old;
    if (!mmu_write(cpu, lin, &value, 8, MMU_WRITE))
        return EX_FAULT;
    if (!zero_flag) {
        cpu->gpr[R_EAX] = (u32)old;
        cpu->gpr[R_EDX] = old >> 32;
    }
    cpu->eflags = (cpu->eflags & ~(u32)F_ZF) | zero_flag;
    return EX_NEXT;
}

enum ex exec_lea(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    gpr_write(cpu, in->op[0].reg, in->op_bytes, ea_offset(cpu, in));
    return EX_NEXT;
}

enum ex exec_xlat(struct interp *it, struct cpu *cpu, const struct insn *in) {
    enum seg seg = in->seg_override != INSN_NO_REG ? in->seg_override : SEG_DS;
    u32 lin, v, offset = (u32)cpu->gpr[R_EBX] + (u8)cpu->gpr[R_EAX];
    if (in->addr_bytes == 2)
        offset &= 0xffff;
    if (!seg_linear(it, cpu, seg, offset, 1, false, &lin) || !mem_read(cpu, lin, 1, &v))
        return EX_FAULT;
    gpr_write(cpu, R_EAX, 1, v);
    return EX_NEXT;
}

/* LDS, LES, LFS, LGS, LSS: offset first in memory, then the selector. Each is aligned by its own
 * size: SDM volume 3, section 6.15, table 6-7 "Alignment Requirements by Data Type". */
static enum ex load_far(struct interp *it, struct cpu *cpu, const struct insn *in, enum seg seg) {
    unsigned bytes = in->op_bytes;
    u32 lin, selector_lin, offset = ea_offset(cpu, in);
    u8 image[6];
    if (in->op[1].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    if (!seg_linear(it, cpu, in->mem_seg, offset, bytes, false, &lin) ||
        !seg_linear(it, cpu, in->mem_seg, offset + bytes, 2, false, &selector_lin) ||
        !mmu_read(cpu, lin, image, bytes + 2, MMU_READ))
        return EX_FAULT;
    if (!rc_load_segment(cpu, seg, load16(image + bytes)))
        return EX_FAULT;
    gpr_write(cpu, in->op[0].reg, bytes, host_load(image, bytes));
    return EX_NEXT;
}
enum ex exec_lds(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_far(it, cpu, in, SEG_DS);
}
enum ex exec_les(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_far(it, cpu, in, SEG_ES);
}
enum ex exec_lfs(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_far(it, cpu, in, SEG_FS);
}
enum ex exec_lgs(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_far(it, cpu, in, SEG_GS);
}
enum ex exec_lss(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_far(it, cpu, in, SEG_SS);
}

/* ---- Single flags ---- */

enum ex exec_lahf(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    *gpr8(cpu, 4) = (u8)((cpu->eflags & 0xd5) | F_FIXED);
    return EX_NEXT;
}
enum ex exec_sahf(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags = (cpu->eflags & ~0xd5u) | (*gpr8(cpu, 4) & 0xd5);
    return EX_NEXT;
}
/* SALC (D6, undocumented by Intel, documented by AMD's opcode map): AL = CF ? FF : 0. */
enum ex exec_salc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    gpr_write(cpu, R_EAX, 1, cpu->eflags & F_CF ? 0xff : 0);
    return EX_NEXT;
}
enum ex exec_clc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags &= ~(u32)F_CF;
    return EX_NEXT;
}
enum ex exec_stc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags |= F_CF;
    return EX_NEXT;
}
enum ex exec_cmc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags ^= F_CF;
    return EX_NEXT;
}
enum ex exec_cld(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags &= ~(u32)F_DF;
    return EX_NEXT;
}
enum ex exec_std(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    cpu->eflags |= F_DF;
    return EX_NEXT;
}
enum ex exec_nop(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)cpu, (void)in;
    return EX_NEXT;
}
