/*
 * bit.c: bit tests, bit scans, counts and CRC32. A bit offset in a register reaches outside the
 * addressed word: the operand's address moves by whole words first.
 */
#include "interp/interp_internal.h"

enum bt_op { BT_test, BT_set, BT_reset, BT_complement };

#define BT_ASM(mnemonic, width)                                                                    \
    __asm__(ASM_FLAGS_IN mnemonic " %" width "[b], %" width "[a]" ASM_FLAGS_OUT                    \
            : "+a"(ax), [a] "+r"(a)                                                                \
            : [b] "r"(bit)                                                                         \
            : "cc")
#define BT_WIDTHS(name)                                                                            \
    if (bytes == 4)                                                                                \
        BT_ASM(name "l", "k");                                                                     \
    else                                                                                           \
        BT_ASM(name "w", "w");                                                                     \
    break

static u32 bt_compute(enum bt_op op, unsigned bytes, u32 a, u32 bit, u32 *eflags) {
    u32 ax = flags_to_ax(*eflags);
    switch (op) {
    case BT_test:
        BT_WIDTHS("bt");
    case BT_set:
        BT_WIDTHS("bts");
    case BT_reset:
        BT_WIDTHS("btr");
    case BT_complement:
        BT_WIDTHS("btc");
    }
    *eflags = flags_from_ax(ax);
    return a;
}

/* Linear address of the word that holds the bit. SDM volume 2, BT. */
static bool bt_linear(struct interp *it, struct cpu *cpu, const struct insn *in, unsigned bytes,
                      u32 bit, bool write, u32 *lin) {
    u32 offset = ea_offset(cpu, in);
    if (in->op[1].type == OP_REG) {
        i32 index = bytes == 4 ? (i32)bit >> 5 : (i32)(i16)bit >> 4;
        offset += (u32)index * bytes;
        if (in->addr_bytes == 2)
            offset &= 0xffff;
    }
    return seg_linear(it, cpu, in->mem_seg, offset, bytes, write, lin);
}

static enum ex bt_exec(struct interp *it, struct cpu *cpu, const struct insn *in, enum bt_op op) {
    unsigned bytes = in->op[0].bytes;
    u32 a, lin, flags = cpu->eflags;
    u32 bit = in->op[1].type == OP_REG ? gpr_read(cpu, in->op[1].reg, bytes) : (u32)in->imm;
    struct rmw m = {0};
    if (in->op[0].type == OP_REG) {
        a = bt_compute(op, bytes, gpr_read(cpu, in->op[0].reg, bytes), bit, &flags);
        if (op != BT_test)
            gpr_write(cpu, in->op[0].reg, bytes, a);
    } else {
        bool write = op != BT_test;
        if (!bt_linear(it, cpu, in, bytes, bit, write, &lin))
            return EX_FAULT;
        if (write ? !rmw_open(cpu, lin, bytes, &m, &a) : !mem_read(cpu, lin, bytes, &a))
            return EX_FAULT;
        a = bt_compute(op, bytes, a, bit, &flags);
        if (write && !rmw_close(cpu, &m, bytes, a))
            return EX_FAULT;
    }
    set_arith_flags(cpu, flags);
    return EX_NEXT;
}

enum ex exec_bt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return bt_exec(it, cpu, in, BT_test);
}
enum ex exec_bts(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return bt_exec(it, cpu, in, BT_set);
}
enum ex exec_btr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return bt_exec(it, cpu, in, BT_reset);
}
enum ex exec_btc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return bt_exec(it, cpu, in, BT_complement);
}

/* ---- Scans and counts ---- */

#define SCAN_ASM(mnemonic, width)                                                                  \
    __asm__(ASM_FLAGS_IN mnemonic " %" width "[b], %" width "[a]" ASM_FLAGS_OUT                    \
            : "+a"(ax), [a] "+r"(a)                                                                \
            : [b] "r"(b)                                                                           \
            : "cc")

static enum ex scan_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool reverse) {
    unsigned bytes = in->op[0].bytes;
    u32 ax = flags_to_ax(cpu->eflags), a = gpr_read(cpu, in->op[0].reg, bytes), old = a, b;
    if (!op_read(it, cpu, in, 1, bytes, &b))
        return EX_FAULT;
    if (bytes == 4 && reverse)
        SCAN_ASM("bsrl", "k");
    else if (bytes == 4)
        SCAN_ASM("bsfl", "k");
    else if (reverse)
        SCAN_ASM("bsrw", "w");
    else
        SCAN_ASM("bsfw", "w");
    /* Zero source: the destination stays, as every processor does it (AMD documents it). */
    gpr_write(cpu, in->op[0].reg, bytes, b ? a : old);
    set_arith_flags(cpu, flags_from_ax(ax));
    return EX_NEXT;
}

enum ex exec_bsf(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return scan_exec(it, cpu, in, false);
}
enum ex exec_bsr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return scan_exec(it, cpu, in, true);
}

/* TZCNT and LZCNT: CF when the source is zero, ZF when the result is; of the others,
 * undefined, OF stays and the rest is cleared, as AMD's processors do it. */
static enum ex count_exec(struct interp *it, struct cpu *cpu, const struct insn *in, bool leading) {
    unsigned bytes = in->op[0].bytes;
    u32 v, n = 8 * bytes;
    if (!op_read(it, cpu, in, 1, bytes, &v))
        return EX_FAULT;
    if (v)
        n = leading ? (u32)__builtin_clz(v) - (32 - 8 * bytes) : (u32)__builtin_ctz(v);
    gpr_write(cpu, in->op[0].reg, bytes, n);
    set_arith_flags(cpu, (cpu->eflags & F_OF) | (v ? 0 : F_CF) | (n ? 0 : F_ZF));
    return EX_NEXT;
}

enum ex exec_tzcnt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return count_exec(it, cpu, in, false);
}
enum ex exec_lzcnt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return count_exec(it, cpu, in, true);
}

enum ex exec_popcnt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[0].bytes;
    u32 v;
    if (!op_read(it, cpu, in, 1, bytes, &v))
        return EX_FAULT;
    gpr_write(cpu, in->op[0].reg, bytes, (u32)__builtin_popcount(v));
    set_arith_flags(cpu, v ? 0 : F_ZF);
    return EX_NEXT;
}

/* With a 16-bit operand the result is undefined; processors write zero. */
enum ex exec_bswap(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned r = in->op[0].reg;
    (void)it;
    if (in->op_bytes == 2)
        gpr_write(cpu, r, 2, 0);
    else
        gpr_write(cpu, r, 4, __builtin_bswap32((u32)cpu->gpr[r]));
    return EX_NEXT;
}

/* CRC-32C of the source, accumulated in the destination; polynomial 11EDC6F41h, bits reflected. */
enum ex exec_crc32(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = in->op[1].bytes;
    u32 v;
    if (!op_read(it, cpu, in, 1, bytes, &v))
        return EX_FAULT;
    u32 crc = (u32)cpu->gpr[in->op[0].reg] ^ v;
    for (unsigned i = 0; i < 8 * bytes; i++)
        crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    gpr_write(cpu, in->op[0].reg, 4, crc);
    return EX_NEXT;
}

/* ADCX and ADOX: addition with carry in and out of one flag only. */
static enum ex add_flag_exec(struct interp *it, struct cpu *cpu, const struct insn *in, u32 flag) {
    u32 b;
    if (!op_read(it, cpu, in, 1, 4, &b))
        return EX_FAULT;
    u64 sum = (u64)(u32)cpu->gpr[in->op[0].reg] + b + !!(cpu->eflags & flag);
    gpr_write(cpu, in->op[0].reg, 4, (u32)sum);
    cpu->eflags = (cpu->eflags & ~flag) | (sum >> 32 ? flag : 0);
    return EX_NEXT;
}

enum ex exec_adcx(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return add_flag_exec(it, cpu, in, F_CF);
}
enum ex exec_adox(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return add_flag_exec(it, cpu, in, F_OF);
}
