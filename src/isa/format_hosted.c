/*
 * format_hosted.c: a decoded guest instruction as Intel-syntax text, for traces and dumps only. The
 * instruction is decoded again, in full, because struct insn keeps less than a formatter needs.
 */
#include "isa/insn.h"

#include <stdio.h>

const char *insn_format(const struct insn *in, u32 eip, char *out, size_t out_bytes) {
    if (out_bytes == 0)
        return out;
    bool code32 = insn_was_code32(in);
    const ZydisDecoder decoder = {
        .machine_mode = code32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16,
        .stack_width = in->stack_bytes == 4 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16,
    };
    ZydisFormatter formatter;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, in->bytes, in->length, &zi, ops)) &&
        ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) &&
        ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &zi, ops, zi.operand_count_visible,
                                                     out, out_bytes, eip, ZYAN_NULL)))
        return out;
    snprintf(out, out_bytes, "%s", insn_mnemonic_name(in->mnemonic));
    return out;
}
