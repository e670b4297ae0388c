/*
 * lower_trap.c: trap and emulate, beside translation. A privileged instruction of a class that
 * config.trap_classes names stands in translated kernel code as it is: the kernel runs above ring 0
 * with IOPL 0 and without an I/O bitmap, so the CPU raises #GP there, and the instruction is
 * emulated as after any other fault.
 *
 * Why it always is #GP, and before anything happened: the instructions of SDM volume 3, section 5.9
 * "Privileged Instructions", raise #GP(0) when CPL is not 0; CLI and STI when CPL > IOPL; IN and
OUT
 * when CPL > IOPL and the TSS has no bitmap (volume 1, section 19.5.1 "I/O Privilege Level", and
 * 19.5.2 "I/O Permission Bit Map"). Exceptions of a privilege check come before those of operands
 * (volume 3, section 6.9 "Priority Among Simultaneous Exceptions and Interrupts") and before a
 * carrier's intercepts (section 26.1.1 "Relative Priority of Faults and VM Exits"). Nothing is left
 * to that order where a form without a memory operand has the same check: INS and OUTS become IN
and
 * OUT, LMSW, LLDT and LTR take a register. LGDT, LIDT and INVLPG have memory forms only: they name
a
 * word of the hot area, which could be read without harm.
 */
#include "bt/bt_internal.h"

static void emit_on_hot_area(struct emit *e, u8 extension) {
    emit_op_mem(e, (struct host_op){.map = 1, .opcode = 0x01, .reg = extension},
                hot_mem(HOT_SCRATCH));
}

/* IN and OUT, also in the place of INS and OUTS, which mean port DX. */
static void emit_io(struct emit *e, const struct insn *in) {
    bool string = in->opcode >= 0x6c && in->opcode <= 0x6f;
    u8 opcode = string ? 0xec | (in->opcode & 3) : in->opcode;
    if (in->op_bytes == 2 && (opcode & 1))
        emit_u8(e, 0x66);
    emit_u8(e, opcode);
    if (in->imm_bytes)
        emit_u8(e, (u8)in->imm);
}

static void emit_mov_cr(struct emit *e, const struct insn *in) {
    bool write = in->op[0].reg_class == RC_CR;
    u8 cr = in->op[write ? 0 : 1].reg, gpr = in->op[write ? 1 : 0].reg;
    emit_op_reg(e, (struct host_op){.map = 1, .opcode = in->opcode, .reg = cr}, host_reg(gpr));
}

static void emit_privileged(struct emit *e, const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        emit_mov_cr(e, in);
        break;
    case ZYDIS_MNEMONIC_LMSW:
        EMIT_BYTES(e, 0x0f, 0x01, 0xf0); /* lmsw ax */
        break;
    case ZYDIS_MNEMONIC_LLDT:
        EMIT_BYTES(e, 0x0f, 0x00, 0xd0); /* lldt ax */
        break;
    case ZYDIS_MNEMONIC_LTR:
        EMIT_BYTES(e, 0x0f, 0x00, 0xd8); /* ltr ax */
        break;
    case ZYDIS_MNEMONIC_LGDT:
        emit_on_hot_area(e, 2);
        break;
    case ZYDIS_MNEMONIC_LIDT:
        emit_on_hot_area(e, 3);
        break;
    case ZYDIS_MNEMONIC_INVLPG:
        emit_on_hot_area(e, 7);
        break;
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
        EMIT_BYTES(e, 0x0f, in->opcode);
        break;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_HLT:
        emit_u8(e, in->opcode);
        break;
    default:
        emit_io(e, in);
        break;
    }
}

/* The callout behind the instruction is never reached; it is there so that nothing depends on that.
 */
void bt_lower_trap(struct translation *t, const struct bt_tinsn *ti) {
    emit_privileged(&t->e, &ti->in);
    lower_emulate(t, ti->eip);
}
