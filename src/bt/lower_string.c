/*
 * lower_string.c: string instructions. GS cannot override ES:[EDI], so they run on 64-bit pointers
 * made from the window base, inside a fixed sequence that the verifier knows: truncate, add the
 * base, run, truncate again. Windows are 4-GiB aligned, so the low half of a pointer is the guest's
 * register even in the middle of a REP, which makes every fault restartable. DF is 0 in translated
 * code.
 */
#include "bt/bt_internal.h"

static void to_pointer(struct emit *e, u8 reg) {
    emit_mov_reg32(e, reg, reg);
    emit_lea64(e, reg, (struct host_mem){.base = H_R14, .index = reg, .scale = 1});
}

void bt_lower_string(struct translation *t, const struct bt_tinsn *ti) {
    struct emit *e = &t->e;
    const struct insn *in = &ti->in;
    u8 group = in->opcode & 0xfe;
    bool uses_edi = group != 0xac;                                   /* all but LODS */
    bool uses_esi = group == 0xa4 || group == 0xa6 || group == 0xac; /* MOVS, CMPS, LODS */
    if (uses_edi)
        to_pointer(e, H_RDI);
    if (uses_esi)
        to_pointer(e, H_RSI);
    if (in->rep || in->repne) {
        emit_mov_reg32(e, H_RCX, H_RCX);
        emit_u8(e, in->rep ? 0xf3 : 0xf2);
    }
    if (in->op_bytes == 2 && (in->opcode & 1))
        emit_u8(e, 0x66);
    emit_u8(e, in->opcode);
    if (uses_edi)
        emit_mov_reg32(e, H_RDI, H_RDI);
    if (uses_esi)
        emit_mov_reg32(e, H_RSI, H_RSI);
}
