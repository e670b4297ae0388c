/*
 * bcd.c: AAA AAS AAM AAD DAA DAS. 64-bit mode does not have them, so they are computed as the
 * manual's operation sections say; flags the manual leaves undefined follow the result.
 */
#include "interp/interp_internal.h"

static u32 result_flags(u8 v) {
    u32 f = v & 0x80 ? F_SF : 0;
    f |= v == 0 ? F_ZF : 0;
    f |= __builtin_parity(v) ? 0 : F_PF;
    return f;
}

/* SDM volume 2, AAA and AAS: SF, ZF, PF and OF are undefined. */
static enum ex ascii_adjust(struct cpu *cpu, bool add) {
    u16 ax = (u16)cpu->gpr[R_EAX];
    u32 flags = 0;
    if ((ax & 0xf) > 9 || (cpu->eflags & F_AF)) {
        ax = add ? ax + 0x106 : ax - 0x106;
        flags = F_AF | F_CF;
    }
    ax &= 0xff0f;
    gpr_write(cpu, R_EAX, 2, ax);
    set_arith_flags(cpu, flags | result_flags((u8)ax));
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

/* SDM volume 2, AAM and AAD: OF, AF and CF are undefined. */
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
    u8 al = (u8)(*gpr8(cpu, R_EAX) + *gpr8(cpu, 4) * (u8)in->imm);
    (void)it;
    gpr_write(cpu, R_EAX, 2, al);
    set_arith_flags(cpu, result_flags(al));
    return EX_NEXT;
}

/* SDM volume 2, DAA and DAS: OF is undefined. */
static enum ex decimal_adjust(struct cpu *cpu, bool add) {
    u8 old = (u8)cpu->gpr[R_EAX], al = old;
    bool old_cf = cpu->eflags & F_CF, cf = false;
    u32 flags = 0;
    if ((old & 0xf) > 9 || (cpu->eflags & F_AF)) {
        al = add ? al + 6 : al - 6;
        cf = old_cf || (add ? old > 0xf9 : old < 6);
        flags |= F_AF;
    }
    if (old > 0x99 || old_cf) {
        al = add ? al + 0x60 : al - 0x60;
        cf = true;
    }
    gpr_write(cpu, R_EAX, 1, al);
    set_arith_flags(cpu, flags | (cf ? F_CF : 0) | result_flags(al));
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
