/*
 * emit.c: the bounded emitter. Writes host instructions byte by byte into a window of memory and
 * never past its end: an overflow sets a flag that the translator checks once per unit.
 */
#include "bt/bt_internal.h"

void emit_u8(struct emit *e, u8 v) {
    if (e->p < e->end)
        *e->p++ = v;
    else
        e->overflow = true;
}

void emit_u32(struct emit *e, u32 v) {
    if (e->end - e->p >= 4) {
        store32(e->p, v);
        e->p += 4;
    } else {
        e->overflow = true;
    }
}

void emit_bytes(struct emit *e, const u8 *bytes, size_t count) {
    if (e->overflow)
        return;
    for (size_t i = 0; i < count; i++)
        emit_u8(e, bytes[i]);
}

void emit_imm(struct emit *e, u64 v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        emit_u8(e, (u8)(v >> (8 * i)));
}

/* Prefixes, REX and opcode bytes in the order the hardware wants them. */
static void emit_head(struct emit *e, const struct host_op *op, u8 rex, bool window) {
    if (op->lock)
        emit_u8(e, 0xf0);
    if (window)
        emit_u8(e, 0x65);
    if (window)
        emit_u8(e, 0x67);
    if (op->p66)
        emit_u8(e, 0x66);
    if (op->repne)
        emit_u8(e, 0xf2);
    if (op->rep)
        emit_u8(e, 0xf3);
    if (op->rex_w)
        rex |= 0x48;
    if (rex)
        emit_u8(e, rex | 0x40);
    if (op->map >= 1)
        emit_u8(e, 0x0f);
    if (op->map == 2)
        emit_u8(e, 0x38);
    if (op->map == 3)
        emit_u8(e, 0x3a);
    emit_u8(e, op->opcode);
}

void emit_op_reg(struct emit *e, struct host_op op, u8 rm) {
    if (e->overflow)
        return;
    u8 rex = (u8)(((op.reg >> 3) << 2) | (rm >> 3));
    if (op.byte_rm && rm >= 4)
        rex |= 0x40;
    emit_head(e, &op, rex, false);
    emit_u8(e, (u8)(0xc0 | ((op.reg & 7) << 3) | (rm & 7)));
}

static u8 scale_bits(u8 scale) {
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

void emit_op_mem(struct emit *e, struct host_op op, struct host_mem m) {
    if (e->overflow)
        return;
    u8 rex = (u8)((op.reg >> 3) << 2);
    if (m.base != H_NONE)
        rex |= m.base >> 3;
    if (m.index != H_NONE)
        rex |= (u8)((m.index >> 3) << 1);
    emit_head(e, &op, rex, m.window);
    u8 reg = (u8)((op.reg & 7) << 3);
    bool need_sib = m.index != H_NONE || m.base == H_NONE || (m.base & 7) == 4;
    u8 index = m.index == H_NONE ? 4 : (m.index & 7);
    if (m.base == H_NONE) { /* mod 00, rm 101 alone would be RIP-relative */
        emit_u8(e, reg | 4);
        emit_u8(e, (u8)((scale_bits(m.scale) << 6) | (index << 3) | 5));
        emit_u32(e, (u32)m.disp);
        return;
    }
    u8 mod = m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp == (i8)m.disp ? 1 : 2;
    emit_u8(e, (u8)((mod << 6) | reg | (need_sib ? 4 : (m.base & 7))));
    if (need_sib)
        emit_u8(e, (u8)((scale_bits(m.scale) << 6) | (index << 3) | (m.base & 7)));
    if (mod == 1)
        emit_u8(e, (u8)m.disp);
    else if (mod == 2)
        emit_u32(e, (u32)m.disp);
}

void emit_mov_imm32(struct emit *e, u8 reg, u32 imm) {
    if (reg >= 8)
        emit_u8(e, 0x41);
    emit_u8(e, 0xb8 | (reg & 7));
    emit_u32(e, imm);
}

void emit_mov_reg32(struct emit *e, u8 dst, u8 src) {
    emit_op_reg(e, (struct host_op){.opcode = 0x8b, .reg = dst}, src);
}

void emit_load32(struct emit *e, u8 reg, struct host_mem mem) {
    emit_op_mem(e, (struct host_op){.opcode = 0x8b, .reg = reg}, mem);
}

void emit_load64(struct emit *e, u8 reg, struct host_mem mem) {
    emit_op_mem(e, (struct host_op){.opcode = 0x8b, .reg = reg, .rex_w = true}, mem);
}

void emit_store32(struct emit *e, struct host_mem mem, u8 reg) {
    emit_op_mem(e, (struct host_op){.opcode = 0x89, .reg = reg}, mem);
}

void emit_store_imm32(struct emit *e, struct host_mem mem, u32 imm) {
    emit_op_mem(e, (struct host_op){.opcode = 0xc7, .reg = 0}, mem);
    emit_u32(e, imm);
}

void emit_lea32(struct emit *e, u8 reg, struct host_mem mem) {
    emit_op_mem(e, (struct host_op){.opcode = 0x8d, .reg = reg}, mem);
}

void emit_lea64(struct emit *e, u8 reg, struct host_mem mem) {
    emit_op_mem(e, (struct host_op){.opcode = 0x8d, .reg = reg, .rex_w = true}, mem);
}
