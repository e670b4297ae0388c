/*
 * shift.c: shifts, rotates and double shifts, executed by the native instruction on the guest's
 * flags, so that undefined flags and over-long counts come out as on the host.
 */
#include "interp/interp_internal.h"

enum shift_op { SH_rol, SH_ror, SH_rcl, SH_rcr, SH_shl, SH_shr, SH_sar };

#define INLINE static inline __attribute__((always_inline))

#define SHIFT_ASM(mnemonic, width)                                                                 \
    __asm__(ASM_FLAGS_IN mnemonic " %%cl, %" width "[a]" ASM_FLAGS_OUT                             \
            : "+a"(ax), [a] "+q"(a)                                                                \
            : "c"(count)                                                                           \
            : "cc")
#define SHIFT_WIDTHS(name)                                                                         \
    if (bytes == 4)                                                                                \
        SHIFT_ASM(name "l", "k");                                                                  \
    else if (bytes == 2)                                                                           \
        SHIFT_ASM(name "w", "w");                                                                  \
    else                                                                                           \
        SHIFT_ASM(name "b", "b");                                                                  \
    break

INLINE u32 shift_compute(enum shift_op op, unsigned bytes, u32 a, u32 count, u32 *eflags) {
    u32 ax = flags_to_ax(*eflags);
    switch (op) {
    case SH_rol:
        SHIFT_WIDTHS("rol");
    case SH_ror:
        SHIFT_WIDTHS("ror");
    case SH_rcl:
        SHIFT_WIDTHS("rcl");
    case SH_rcr:
        SHIFT_WIDTHS("rcr");
    case SH_shl:
        SHIFT_WIDTHS("shl");
    case SH_shr:
        SHIFT_WIDTHS("shr");
    case SH_sar:
        SHIFT_WIDTHS("sar");
    }
    *eflags = flags_from_ax(ax);
    return a;
}

/* Count of the forms D0/D1 (one), D2/D3 (CL) and C0/C1 (immediate). */
static u32 shift_count(const struct cpu *cpu, const struct insn *in) {
    if ((in->opcode & 0xfe) == 0xd0)
        return 1;
    if ((in->opcode & 0xfe) == 0xd2)
        return (u8)cpu->gpr[R_ECX];
    return (u8)in->imm;
}

INLINE enum ex shift_exec(struct interp *it, struct cpu *cpu, const struct insn *in,
                          enum shift_op op) {
    unsigned bytes = in->op[0].bytes;
    u32 a, flags = cpu->eflags, count = shift_count(cpu, in) & 31;
    struct place p;
    if (!place_open(it, cpu, in, 0, bytes, &p, &a))
        return EX_FAULT;
    a = shift_compute(op, bytes, a, count, &flags);
    if (!place_close(cpu, &p, bytes, a))
        return EX_FAULT;
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

#define SHIFT_FUNCTION(name)                                                                       \
    enum ex exec_##name(struct interp *it, struct cpu *cpu, const struct insn *in) {               \
        return shift_exec(it, cpu, in, SH_##name);                                                 \
    }
SHIFT_FUNCTION(rol)
SHIFT_FUNCTION(ror)
SHIFT_FUNCTION(rcl)
SHIFT_FUNCTION(rcr)
SHIFT_FUNCTION(shl)
SHIFT_FUNCTION(shr)
SHIFT_FUNCTION(sar)

#define DOUBLE_ASM(mnemonic, width)                                                                \
    __asm__(ASM_FLAGS_IN mnemonic " %%cl, %" width "[b], %" width "[a]" ASM_FLAGS_OUT              \
            : "+a"(ax), [a] "+r"(a)                                                                \
            : "c"(count), [b] "r"(b)                                                               \
            : "cc")

static enum ex double_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool left) {
    unsigned bytes = in->op[0].bytes;
    /* 0F A4/AC take an immediate, 0F A5/AD take CL */
    u32 count = (in->opcode & 1 ? (u8)cpu->gpr[R_ECX] : (u8)in->imm) & 31;
    u32 a, b = gpr_read(cpu, in->op[1].reg, bytes), ax = flags_to_ax(cpu->eflags);
    struct place p;
    if (!place_open(it, cpu, in, 0, bytes, &p, &a))
        return EX_FAULT;
    if (bytes == 4 && left)
        DOUBLE_ASM("shldl", "k");
    else if (bytes == 4)
        DOUBLE_ASM("shrdl", "k");
    else if (left)
        DOUBLE_ASM("shldw", "w");
    else
        DOUBLE_ASM("shrdw", "w");
    if (!place_close(cpu, &p, bytes, a))
        return EX_FAULT;
    set_arith_flags(cpu, flags_from_ax(ax));
    return EX_NEXT;
}

enum ex exec_shld(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return double_exec(it, cpu, in, true);
}
enum ex exec_shrd(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return double_exec(it, cpu, in, false);
}
