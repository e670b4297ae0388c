/*
 * decode.c: Zydis finds the instruction's parts; this file packs them into struct insn.
 *
 * Zydis runs with every optional mode off, so that encodings which older CPUs give another meaning
 * keep the old one: F3 0F BC/BD are BSF/BSR with `rep` set (not TZCNT/LZCNT), F3 0F 1E FB and the
 * MPX and CLDEMOTE encodings are hint NOPs, F3 0F 09 is WBINVD. Whoever re-emits such an
 * instruction must drop its F3, or the host executes the newer meaning.
 */
#include "isa/insn.h"

#include "base/cpu.h"

/* ZydisDecoder is plain data: as constants there is nothing to initialise and nothing to race on.
 */
static const ZydisDecoder decoders[2] = {
    {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_16, .stack_width = ZYDIS_STACK_WIDTH_16},
    {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_32, .stack_width = ZYDIS_STACK_WIDTH_32},
};

_Static_assert((int)ZYDIS_REGISTER_BH == (int)ZYDIS_REGISTER_AL + 7, "8-bit registers in order");
_Static_assert((int)ZYDIS_REGISTER_GS == (int)ZYDIS_REGISTER_ES + SEG_GS, "segments in order");

/* Register number and class. False for a register no supported instruction names visibly. */
static bool unpack_register(ZydisRegister reg, struct insn_op *op) {
    static const struct {
        u16 first, count;
        u8 reg_class, bytes;
    } ranges[] = {
        {ZYDIS_REGISTER_EAX, 8, RC_GPR32, 4}, {ZYDIS_REGISTER_AL, 8, RC_GPR8, 1},
        {ZYDIS_REGISTER_AX, 8, RC_GPR16, 2},  {ZYDIS_REGISTER_XMM0, 8, RC_XMM, 16},
        {ZYDIS_REGISTER_MM0, 8, RC_MMX, 8},   {ZYDIS_REGISTER_ST0, 8, RC_ST, 10},
        {ZYDIS_REGISTER_ES, 6, RC_SEG, 2},    {ZYDIS_REGISTER_CR0, 5, RC_CR, 4},
        {ZYDIS_REGISTER_DR0, 8, RC_DR, 4},
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        unsigned number = (unsigned)reg - ranges[i].first;
        if (number < ranges[i].count) {
            op->reg_class = ranges[i].reg_class;
            op->reg = (u8)number;
            op->bytes = ranges[i].bytes;
            return true;
        }
    }
    return false;
}

/* Base or index register number of a memory operand, whatever the address size. */
static u8 address_register(ZydisRegister reg) {
    if (reg == ZYDIS_REGISTER_NONE)
        return INSN_NO_REG;
    struct insn_op op;
    return unpack_register(reg, &op) ? op.reg : INSN_NO_REG;
}

static void unpack_memory(struct insn *out, const ZydisDecodedOperandMem *mem) {
    out->mem_seg = (u8)(mem->segment - ZYDIS_REGISTER_ES);
    if (mem->segment < ZYDIS_REGISTER_ES || mem->segment > ZYDIS_REGISTER_GS)
        out->mem_seg = SEG_DS;
    out->mem_base = address_register(mem->base);
    out->mem_index = address_register(mem->index);
    /* BNDLDX-like operands report no scale; with no index the scale means nothing. */
    out->mem_scale = out->mem_index == INSN_NO_REG ? 0 : mem->scale;
}

/* Displacement and immediates come from the bytes themselves, not from Zydis' idea of their value.
 */
static i64 signed_bytes(const u8 *p, unsigned bytes) {
    switch (bytes) {
    case 1:
        return (i8)*p;
    case 2:
        return (i16)load16(p);
    case 4:
        return (i32)load32(p);
    default:
        return 0;
    }
}

static u64 immediate_value(const u8 *bytes, const struct ZydisDecodedInstructionRawImm_ *imm) {
    unsigned n = imm->size / 8u;
    i64 value = signed_bytes(bytes + imm->offset, n);
    if (imm->is_signed || imm->is_relative || n == 0)
        return (u64)value;
    return (u64)value & (~0ull >> (64 - 8 * n));
}

static void unpack_prefixes(struct insn *out, unsigned prefix_count, bool code32) {
    bool operand_size = false, address_size = false;
    out->seg_override = INSN_NO_REG;
    for (unsigned i = 0; i < prefix_count; i++) {
        switch (out->bytes[i]) {
        case 0x26:
            out->seg_override = SEG_ES;
            break;
        case 0x2e:
            out->seg_override = SEG_CS;
            break;
        case 0x36:
            out->seg_override = SEG_SS;
            break;
        case 0x3e:
            out->seg_override = SEG_DS;
            break;
        case 0x64:
            out->seg_override = SEG_FS;
            break;
        case 0x65:
            out->seg_override = SEG_GS;
            break;
        case 0x66:
            operand_size = true;
            break;
        case 0x67:
            address_size = true;
            break;
        case 0xf0:
            out->lock = true;
            break;
        case 0xf2: /* of F2 and F3 the last one counts, as on hardware */
            out->repne = true;
            out->rep = false;
            break;
        case 0xf3:
            out->rep = true;
            out->repne = false;
            break;
        }
    }
    out->op_bytes = code32 != operand_size ? 4 : 2;
    out->addr_bytes = code32 != address_size ? 4 : 2;
}

/* Opcode map and place. False for the maps 32-bit legacy code does not have. */
static bool unpack_opcode(struct insn *out, const ZydisDecodedInstruction *zi) {
    unsigned escape_bytes;
    switch (zi->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        out->map = 0;
        escape_bytes = 0;
        break;
    case ZYDIS_OPCODE_MAP_0F:
        out->map = 1;
        escape_bytes = 1;
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        out->map = 2;
        escape_bytes = 2;
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        out->map = 3;
        escape_bytes = 2;
        break;
    default:
        return false;
    }
    out->opcode = zi->opcode;
    out->opcode_offset = (u8)(zi->raw.prefix_count + escape_bytes);
    return true;
}

static void unpack_fields(struct insn *out, const ZydisDecodedInstruction *zi) {
    if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        out->has_modrm = true;
        out->modrm_offset = zi->raw.modrm.offset;
        out->modrm = out->bytes[out->modrm_offset];
    }
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SIB) {
        out->has_sib = true;
        out->sib = out->bytes[zi->raw.sib.offset];
    }
    if (zi->raw.disp.size) {
        out->disp_offset = zi->raw.disp.offset;
        out->disp_bytes = zi->raw.disp.size / 8;
        out->disp = (i32)signed_bytes(out->bytes + out->disp_offset, out->disp_bytes);
    }
    if (zi->raw.imm[0].size) {
        out->imm_offset = zi->raw.imm[0].offset;
        out->imm_bytes = zi->raw.imm[0].size / 8;
        out->imm = immediate_value(out->bytes, &zi->raw.imm[0]);
    }
    if (zi->raw.imm[1].size)
        out->imm2 = (u32)immediate_value(out->bytes, &zi->raw.imm[1]);
}

static u8 register_field(ZydisOperandEncoding encoding) {
    switch (encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return FIELD_MODRM_REG;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return FIELD_MODRM_RM;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        return FIELD_OPCODE;
    default:
        return FIELD_IMPLICIT;
    }
}

/* Copies the visible operands. String instructions' and other implied memory operands (no ModRM,
 * not moffs) are left out: they are known from the mnemonic. */
static bool unpack_operands(struct insn *out, const ZydisDecodedOperand *ops, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct insn_op *op = &out->op[out->op_count];
        op->bytes = (u8)(ops[i].size / 8u);
        if (ops[i].size / 8u > 255)
            op->bytes = 0; /* FXSAVE area: see insn.h */
        switch (ops[i].type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            op->type = OP_REG;
            if (!unpack_register(ops[i].reg.value, op))
                return false;
            op->field = register_field(ops[i].encoding);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_NONE)
                continue;
            op->type = OP_MEM;
            unpack_memory(out, &ops[i].mem);
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            op->type = OP_IMM;
            if (!out->imm_bytes) /* the implied 1 of D0/D1 */
                out->imm = ops[i].imm.value.u;
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            op->type = OP_FAR;
            break;
        default:
            return false;
        }
        out->op_count++;
    }
    return true;
}

static enum insn_status status_of_failure(ZyanStatus status) {
    switch (status) {
    case ZYDIS_STATUS_NO_MORE_DATA:
        return INSN_MORE;
    case ZYDIS_STATUS_INSTRUCTION_TOO_LONG:
        return INSN_TOO_LONG;
    default:
        return INSN_INVALID;
    }
}

enum insn_status insn_decode(struct insn *out, const u8 *code, size_t available, bool code32,
                             bool stack32) {
    if (available == 0)
        return INSN_MORE;
    const ZydisDecoder *decoder = &decoders[code32];
    ZydisDecodedInstruction zi;
    ZydisDecoderContext context;
    ZyanStatus status = ZydisDecoderDecodeInstruction(decoder, &context, code, available, &zi);
    if (!ZYAN_SUCCESS(status))
        return status_of_failure(status);
    if (zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return INSN_INVALID;

    memset(out, 0, sizeof *out);
    out->length = zi.length;
    out->mnemonic = (u16)zi.mnemonic;
    out->stack_bytes = stack32 ? 4 : 2;
    out->mem_base = out->mem_index = INSN_NO_REG;
    memcpy(out->bytes, code, zi.length);
    unpack_prefixes(out, zi.raw.prefix_count, code32);
    if (!unpack_opcode(out, &zi))
        return INSN_INVALID;
    unpack_fields(out, &zi);

    ZydisDecodedOperand ops[ARRAY_LEN(out->op)];
    unsigned count = MIN(zi.operand_count_visible, (unsigned)ARRAY_LEN(ops));
    if (count == 0)
        return INSN_OK;
    status = ZydisDecoderDecodeOperands(decoder, &context, &zi, ops, (ZyanU8)count);
    if (!ZYAN_SUCCESS(status) || !unpack_operands(out, ops, count))
        return INSN_INVALID;
    return INSN_OK;
}
