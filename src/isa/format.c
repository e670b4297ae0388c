/*
 * format.c: what both ways of writing an instruction as text need.
 */
#include "isa/insn.h"

bool insn_was_code32(const struct insn *in) {
    bool operand_size = false;
    for (unsigned i = 0; i < in->opcode_offset; i++)
        operand_size |= in->bytes[i] == 0x66;
    return (in->op_bytes == 4) != operand_size;
}

const char *insn_mnemonic_name(u16 mnemonic) {
    const char *name = mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE
                           ? ZydisMnemonicGetString((ZydisMnemonic)mnemonic)
                           : NULL;
    return name ? name : "invalid";
}
