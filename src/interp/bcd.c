/*
 * bcd.c: AAA AAS AAM AAD DAA DAS. 64-bit mode does not have them, so they are computed as the
 * manual's operation sections say; flags the manual leaves undefined come out as on
 * AMD's processors.
 */
#include "interp/interp_internal.h"

static u32 result_flags(u8 v) {
    u32 f = v & 0x80 ? F_SF : 0;
    f |= v == 0 ? F_ZF : 0;
    f |= __builtin_parity(v) ? 0 : F_PF;
    return f;
}

/* SDM volume 2, AAA and AAS: SF, ZF, PF and OF are undefined; they come from the 16-bit sum. */
static enum ex ascii_adjust(struct cpu *cpu, bool add) {
    u32 ax = (u16)cpu->gpr[R_EAX], flags;
    bool adjust = (ax & 0xf) > 9 || (cpu->eflags & F_AF);
    ax = alu_sum(2, ax, adjust ? 0x106 : 0, !add, &flags);
    gpr_write(cpu, R_EAX, 2, ax & 0xff0f);
    flags &= ~(u32)(F_AF | F_CF);
    set_arith_flags(cpu, flags | (adjust ? F_AF | F_CF : 0));
    return EX_NEXT;
}

enum ex exec_aaa(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ascii_adjust(cpu, true);
}
enum ex exec_aas(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ascii_adjust(cpu, false);
}

/* SDM volume 2, AAM and AAD: OF, AF and CF are undefined; AAM clears them, AAD adds. */
enum ex exec_aam(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u8 base = (u8)in->imm, al = (u8)cpu->gpr[R_EAX];
    (void)it;
    if (base == 0)
        return ex_fault(cpu, VEC_DE);
    gpr_write(cpu, R_EAX, 2, (u32)(al / base) << 8 | al % base);
    set_arith_flags(cpu, result_flags(al % base));
    return EX_NEXT;
}
enum ex exec_aad(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 flags, tens = (u8)(*gpr8(cpu, 4) * (u8)in->imm);
    (void)it;
    gpr_write(cpu, R_EAX, 2, (u8)alu_sum(1, (u8)cpu->gpr[R_EAX], tens, false, &flags));
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

/* SDM volume 2, DAA and DAS: OF is undefined; it comes from adding the correction. */
static enum ex decimal_adjust(struct cpu *cpu, bool add) {
    u32 al = (u8)cpu->gpr[R_EAX], correction = 0, flags;
    bool low = (al & 0xf) > 9 || (cpu->eflags & F_AF), high = al > 0x99 || (cpu->eflags & F_CF);
    bool borrow = low && (add ? al > 0xf9 : al < 6);
    correction = (low ? 6 : 0) + (high ? 0x60 : 0);
    al = alu_sum(1, al, correction, !add, &flags);
    gpr_write(cpu, R_EAX, 1, al);
    flags &= ~(u32)(F_AF | F_CF);
    set_arith_flags(cpu, flags | (low ? F_AF : 0) | (high || borrow ? F_CF : 0));
    return EX_NEXT;
}

enum ex exec_daa(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return decimal_adjust(cpu, true);
}
enum ex exec_das(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return decimal_adjust(cpu, false);
}
