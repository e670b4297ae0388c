/*
 * lower.c: how one guest instruction becomes host instructions. Most are re-emitted as they are,
 * their memory operand made window-relative; this file holds that and the pieces the other lowering
 * files share. Invariant: the access that can fault comes before any guest state changes, so every
 * host fault restarts at the guest instruction.
 */
#include "bt/bt_internal.h"

/* Window-relative form of the instruction's memory operand; may emit code that computes r8 (flags
 * untouched). extra_disp is added to the displacement. */
struct host_mem lower_mem(struct translation *t, const struct insn *in, i32 extra_disp) {
    struct emit *e = &t->e;
    struct host_mem m = {
        .base = in->mem_base == INSN_NO_REG ? H_NONE : host_reg(in->mem_base),
        .index = in->mem_index == INSN_NO_REG ? H_NONE : host_reg(in->mem_index),
        .scale = in->mem_scale ? in->mem_scale : 1,
        .disp = (i32)((u32)in->disp + (u32)extra_disp),
        .window = true,
    };
    if (m.base == H_R12)
        m.disp = (i32)((u32)m.disp + (u32)t->esp_delta);
    if (in->mem_seg < SEG_FS)
        return m;
    /* FS and GS: the base sits behind a pointer that names the poison page when the segment is
     * unusable or limited: the load then faults and the instruction is emulated. */
    u32 hot = in->mem_seg == SEG_FS ? HOT_FS_BASE_PTR : HOT_GS_BASE_PTR;
    emit_load64(e, H_R8, hot_mem(hot));
    emit_load32(e, H_R8, (struct host_mem){.base = H_R8, .index = H_NONE});
    if (m.base != H_NONE && m.index != H_NONE) {
        emit_lea32(e, H_R8, (struct host_mem){.base = H_R8, .index = m.index, .scale = m.scale});
        m.index = m.base;
        m.scale = 1;
    } else if (m.index == H_NONE) {
        m.index = m.base;
        m.scale = 1;
    }
    m.base = H_R8;
    return m;
}

/* F2/F3 are kept only where they select the operation; elsewhere a newer CPU would give them a
 * meaning that the guest's CPU does not have (BND, TZCNT, ...). */
static bool keeps_rep(const struct insn *in) {
    if (in->map == 0)
        return false;
    if (in->map == 1)
        switch (in->opcode) {
        case 0xbc: /* BSF: not TZCNT */
        case 0xbd: /* BSR: not LZCNT */
        case 0x09:
        case 0x0d:
        case 0xc7:
            return false;
        default:
            return (in->opcode < 0x18 || in->opcode > 0x1f) && (in->opcode & 0xf0) != 0x80 &&
                   (in->opcode & 0xf0) != 0x90 && (in->opcode & 0xf0) != 0x40;
        }
    return true;
}

static struct host_op host_op_of(const struct insn *in) {
    struct host_op op = {
        .p66 = bt_has_prefix66(in),
        .rep = in->rep && keeps_rep(in),
        .repne = in->repne && keeps_rep(in),
        .lock = in->lock,
        .map = in->map,
        .opcode = in->opcode,
        .reg = (in->modrm >> 3) & 7,
    };
    if (op.map == 0 && op.opcode == 0x82)
        op.opcode = 0x80;
    return op;
}

static const struct insn_op *operand_in_field(const struct insn *in, u8 field) {
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_REG && in->op[i].field == field)
            return &in->op[i];
    return NULL;
}

static bool is_word_gpr(const struct insn_op *op) {
    return op && (op->reg_class == RC_GPR32 || op->reg_class == RC_GPR16);
}
static bool is_high_byte(const struct insn_op *op) {
    return op && op->reg_class == RC_GPR8 && op->reg >= 4;
}

static void emit_immediate_of(struct emit *e, const struct insn *in) {
    for (unsigned i = 0; i < in->imm_bytes; i++)
        emit_u8(e, in->bytes[in->imm_offset + i]);
}

/* xchg of a register's low and high byte: flag-free, REX-free. */
static void emit_swap_bytes(struct emit *e, u8 parent) {
    emit_u8(e, 0x86);
    emit_u8(e, (u8)(0xc0 | ((parent + 4) << 3) | parent));
}

static bool mem_needs_rex(struct host_mem m) {
    return (m.base != H_NONE && m.base >= 8) || (m.index != H_NONE && m.index >= 8);
}

/* AH..BH against an address that needs REX: the byte goes through r9b. */
static void lower_high_byte(struct translation *t, const struct insn *in, struct host_op op,
                            struct host_mem m, u8 high) {
    struct emit *e = &t->e;
    u8 parent = high - 4;
    struct host_op to_r9 = {.opcode = 0x88, .reg = parent, .byte_rm = true};
    struct host_op from_r9 = {.opcode = 0x8a, .reg = parent, .byte_rm = true};
    emit_swap_bytes(e, parent);
    emit_op_reg(e, to_r9, H_R9);
    emit_swap_bytes(e, parent);
    op.reg = H_R9;
    emit_op_mem(e, op, m);
    emit_immediate_of(e, in);
    emit_swap_bytes(e, parent);
    emit_op_reg(e, from_r9, H_R9);
    emit_swap_bytes(e, parent);
}

static bool is_moffs(const struct insn *in) {
    return in->map == 0 && in->opcode >= 0xa0 && in->opcode <= 0xa3;
}

/* A0-A3 name a 64-bit address in 64-bit mode: use the ModRM forms. */
static void lower_moffs(struct translation *t, const struct insn *in) {
    static const u8 form[4] = {0x8a, 0x8b, 0x88, 0x89};
    struct host_op op = {.p66 = in->op_bytes == 2 && (in->opcode & 1),
                         .opcode = form[in->opcode - 0xa0],
                         .reg = R_EAX};
    emit_op_mem(&t->e, op, lower_mem(t, in, 0));
}

/* No ModRM: the register, if any, is in the opcode's low bits. */
static void lower_short_form(struct translation *t, const struct insn *in) {
    struct emit *e = &t->e;
    const struct insn_op *low = operand_in_field(in, FIELD_OPCODE);
    if (bt_has_prefix66(in))
        emit_u8(e, 0x66);
    if (is_word_gpr(low) && low->reg == R_ESP)
        emit_u8(e, 0x41);
    if (in->map == 1)
        emit_u8(e, 0x0f);
    emit_u8(e, in->opcode);
    emit_immediate_of(e, in);
}

void lower_plain(struct translation *t, const struct insn *in) {
    struct emit *e = &t->e;
    if (is_moffs(in)) {
        lower_moffs(t, in);
        return;
    }
    if (!in->has_modrm) {
        lower_short_form(t, in);
        return;
    }
    struct host_op op = host_op_of(in);
    const struct insn_op *reg = operand_in_field(in, FIELD_MODRM_REG);
    if (is_word_gpr(reg))
        op.reg = host_reg(reg->reg);
    if ((in->modrm >> 6) == 3) {
        const struct insn_op *rm = operand_in_field(in, FIELD_MODRM_RM);
        u8 rm_reg = in->modrm & 7;
        emit_op_reg(e, op, is_word_gpr(rm) ? host_reg(rm_reg) : rm_reg);
        emit_immediate_of(e, in);
        return;
    }
    struct host_mem m = lower_mem(t, in, 0);
    if (is_high_byte(reg) && mem_needs_rex(m)) {
        lower_high_byte(t, in, op, m, reg->reg);
        return;
    }
    emit_op_mem(e, op, m);
    emit_immediate_of(e, in);
}

static void lower_incdec(struct translation *t, const struct insn *in) {
    if (in->has_modrm) {
        lower_plain(t, in);
        return;
    }
    struct host_op op = {.p66 = in->op_bytes == 2,
                         .opcode = 0xff,
                         .reg = in->mnemonic == ZYDIS_MNEMONIC_DEC ? 1 : 0};
    emit_op_reg(&t->e, op, host_reg(in->opcode & 7));
}

static void lower_lea(struct translation *t, const struct insn *in) {
    struct host_op op = {.p66 = in->op_bytes == 2, .opcode = 0x8d, .reg = host_reg(in->op[0].reg)};
    struct host_mem m = {
        .base = in->mem_base == INSN_NO_REG ? H_NONE : host_reg(in->mem_base),
        .index = in->mem_index == INSN_NO_REG ? H_NONE : host_reg(in->mem_index),
        .scale = in->mem_scale ? in->mem_scale : 1,
        .disp = (i32)((u32)in->disp + (in->mem_base == R_ESP ? (u32)t->esp_delta : 0)),
    };
    emit_op_mem(&t->e, op, m);
}

/* ---- shared pieces ---- */

static u32 callout_stub(unsigned callout, bool returns) {
    if (callout >= CO_LOAD_ES && callout <= CO_LOAD_GS)
        return HOT_STUB_LOAD_SEGMENT;
    return returns ? HOT_STUB_CALLOUT_RETURNING : HOT_STUB_CALLOUT;
}

/* Callout with argument r8d. returns: called, comes back when the callout's result is 0. */
void lower_callout(struct translation *t, unsigned callout, u32 arg, bool returns) {
    struct emit *e = &t->e;
    emit_mov_imm32(e, H_R8, arg);
    emit_mov_imm32(e, H_R9, callout);
    emit_op_mem(e, (struct host_op){.opcode = 0xff, .reg = returns ? 2 : 4},
                hot_mem(callout_stub(callout, returns)));
}

void lower_emulate(struct translation *t, u32 eip) {
    lower_callout(t, CO_EMULATE, eip, false);
    t->ended = true;
}

/* An interrupt poll: one load that faults when the safepoint is armed. Behind STI it leaves with
 * the shadow in force. */
void lower_poll(struct translation *t) {
    bool shadow = t->current > 0 && t->insn[t->current - 1].class == BT_CLASS_STI;
    u16 guest = (u16)(t->insn[t->current].eip - t->eip);
    if (shadow)
        translation_note_pc(t, guest, RECOVER_STI, (u8)t->current);
    emit_load32(&t->e, H_R9, hot_mem(CPU_SAFEPOINT));
    if (shadow)
        translation_note_pc(t, guest, RECOVER_PLAIN, (u8)t->current);
}

/* Instructions that meet guest ESP only as the base of an address, or as a stack pointer. */
static bool leaves_esp_alone(const struct bt_tinsn *ti) {
    const struct insn *in = &ti->in;
    switch (ti->class) {
    case BT_CLASS_PLAIN:
    case BT_CLASS_FP:
    case BT_CLASS_INCDEC:
    case BT_CLASS_LEA:
    case BT_CLASS_MOV:
    case BT_CLASS_PUSH:
    case BT_CLASS_POP:
    case BT_CLASS_CALL:
        for (unsigned i = 0; i < in->op_count; i++) {
            const struct insn_op *op = &in->op[i];
            if (op->type == OP_REG &&
                (op->reg_class == RC_SEG || op->reg_class == RC_CR || op->reg_class == RC_DR ||
                 (is_word_gpr(op) && op->reg == R_ESP)))
                return false;
        }
        return true;
    case BT_CLASS_NOP:
    case BT_CLASS_LEAVE:
    case BT_CLASS_STRING:
    case BT_CLASS_RET:
        return true;
    default:
        return false;
    }
}

bool lower_needs_esp(const struct bt_tinsn *ti) {
    return ti->adapted || !leaves_esp_alone(ti);
}

void bt_lower(struct translation *t, const struct bt_tinsn *ti) {
    if (ti->adapted) {
        bt_lower_adapted(t, ti);
        return;
    }
    if (ti->live && lower_live(t, ti))
        return;
    switch (ti->class) {
    case BT_CLASS_NOP:
        break;
    case BT_CLASS_PLAIN:
    case BT_CLASS_FP:
        lower_plain(t, &ti->in);
        break;
    case BT_CLASS_INCDEC:
        lower_incdec(t, &ti->in);
        break;
    case BT_CLASS_LEA:
        lower_lea(t, &ti->in);
        break;
    case BT_CLASS_PUSH:
    case BT_CLASS_POP:
    case BT_CLASS_PUSHA:
    case BT_CLASS_POPA:
    case BT_CLASS_LEAVE:
        bt_lower_stack(t, ti);
        break;
    case BT_CLASS_STRING:
        bt_lower_string(t, ti);
        break;
    case BT_CLASS_JMP:
    case BT_CLASS_JCC:
    case BT_CLASS_LOOP:
    case BT_CLASS_CALL:
    case BT_CLASS_RET:
        bt_lower_branch(t, ti);
        break;
    case BT_CLASS_MOV:
    case BT_CLASS_PUSHF:
    case BT_CLASS_POPF:
    case BT_CLASS_CLI:
    case BT_CLASS_STI:
    case BT_CLASS_INT:
    case BT_CLASS_IRET:
    case BT_CLASS_SYSENTER:
    case BT_CLASS_SYSEXIT:
    case BT_CLASS_RDTSC:
    case BT_CLASS_INVLPG:
    case BT_CLASS_AC:
    case BT_CLASS_LIGHT:
        bt_lower_system(t, ti);
        break;
    case BT_CLASS_TRAP:
        bt_lower_trap(t, ti);
        break;
    default:
        lower_emulate(t, ti->eip);
        break;
    }
}
