/*
 * lower_adapted.c: adaptive binary translation. A site whose access keeps faulting (a kernel copy
 * to or from an application, a device register, data beside code) becomes a callout that goes
 * through the software TLB and never faults; forms without one leave to the emulator.
 */
#include "bt/bt_internal.h"

static bool is_gpr(const struct insn_op *op) {
    return op->type == OP_REG &&
           (op->reg_class == RC_GPR8 || op->reg_class == RC_GPR16 || op->reg_class == RC_GPR32);
}

/* MOV, MOVZX and MOVSX between memory of a flat segment and a register or immediate. */
static bool pack_access(const struct insn *in, u32 *packed) {
    const struct insn_op *dst = &in->op[0], *src = &in->op[1];
    if (in->op_count != 2 || in->addr_bytes != 4 || in->mem_seg >= SEG_FS || in->mem_seg == SEG_CS)
        return false;
    bool mov = in->mnemonic == ZYDIS_MNEMONIC_MOV;
    bool extend = in->mnemonic == ZYDIS_MNEMONIC_MOVZX || in->mnemonic == ZYDIS_MNEMONIC_MOVSX;
    if ((mov || extend) && src->type == OP_MEM && is_gpr(dst)) {
        unsigned kind = in->mnemonic == ZYDIS_MNEMONIC_MOVSX ? ACCESS_LOAD_SIGNED : ACCESS_LOAD;
        *packed = ACCESS_PACK(dst->reg, src->bytes, dst->bytes, kind);
        return true;
    }
    if (mov && dst->type == OP_MEM && (is_gpr(src) || src->type == OP_IMM)) {
        unsigned kind = src->type == OP_IMM ? ACCESS_STORE_IMM : ACCESS_STORE;
        *packed = ACCESS_PACK(src->reg, dst->bytes, dst->bytes, kind);
        return true;
    }
    return false;
}

/* MOVS and STOS through the default segments. */
static bool pack_string(const struct insn *in, u32 *packed) {
    u8 group = in->opcode & 0xfe;
    if (in->map != 0 || (group != 0xa4 && group != 0xaa) || in->addr_bytes != 4 ||
        in->seg_override != INSN_NO_REG)
        return false;
    u32 bytes = in->opcode & 1 ? in->op_bytes : 1;
    *packed = bytes | (group == 0xaa ? STRING_STOS : 0) | (in->rep || in->repne ? STRING_REP : 0);
    return true;
}

bool bt_adapted_stays(const struct insn *in) {
    u32 packed;
    return bt_classify(in->mnemonic)->class == BT_CLASS_STRING ? pack_string(in, &packed)
                                                               : pack_access(in, &packed);
}

void bt_lower_adapted(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    const struct insn *in = &ti->in;
    u32 packed;
    if (ti->class == BT_CLASS_STRING && pack_string(in, &packed)) {
        emit_store_imm32(e, hot_mem(HOT_ARG1), packed);
        lower_callout(t, CO_STRING, ti->eip, true);
        return;
    }
    if (!pack_access(in, &packed)) {
        lower_emulate(t, ti->eip);
        return;
    }
    struct host_mem m = lower_mem(t, in, 0);
    m.window = false;
    emit_lea32(e, H_R9, m);
    emit_store32(e, hot_mem(HOT_ARG0), H_R9);
    emit_store_imm32(e, hot_mem(HOT_ARG1), packed);
    if (ACCESS_KIND(packed) == ACCESS_STORE_IMM)
        emit_store_imm32(e, hot_mem(HOT_ARG2), (u32)in->imm);
    lower_callout(t, CO_ACCESS, ti->eip, true);
}
