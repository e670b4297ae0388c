/*
 * format_metal.c: a guest instruction as text, by Capstone: the bootable image holds only the
 * decoder of Zydis.
 */
#include "isa/insn.h"

#include <capstone/capstone.h>
#include <stdio.h>

const char *insn_format(const struct insn *in, u32 eip, char *out, size_t out_bytes) {
    csh handle;
    cs_insn *list = NULL;
    if (out_bytes == 0)
        return out;
    snprintf(out, out_bytes, "%s", insn_mnemonic_name(in->mnemonic));
    cs_mode mode = insn_was_code32(in) ? CS_MODE_32 : CS_MODE_16;
    if (cs_open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK)
        return out;
    size_t count = cs_disasm(handle, in->bytes, in->length, eip, 1, &list);
    if (count) {
        snprintf(out, out_bytes, "%s %s", list->mnemonic, list->op_str);
        cs_free(list, count);
    }
    cs_close(&handle);
    return out;
}
