/*
 * insn.h: one decoded guest instruction, small enough to cache. Zydis decodes; interp and bt read
 * this and never the raw Zydis structures.
 */
#ifndef RINGFOLD_ISA_INSN_H
#define RINGFOLD_ISA_INSN_H

#include "base/base.h"
#include <Zydis/Zydis.h>

#define INSN_MAX_BYTES 15

enum insn_op_type { OP_NONE, OP_REG, OP_MEM, OP_IMM, OP_FAR };

/* Register classes. GPR numbers are the encoding's (0-7); 8-bit registers 4-7 are AH CH DH BH. */
enum insn_reg_class {
    RC_GPR8,
    RC_GPR16,
    RC_GPR32,
    RC_SEG, /* enum seg */
    RC_CR,
    RC_DR,
    RC_ST,
    RC_MMX,
    RC_XMM
};

/* One visible (explicit) operand, in Intel order. */
struct insn_op {
    u8 type;  /* enum insn_op_type */
    u8 bytes; /* operand size in bytes: 1, 2, 4, 8, 10, 16, 28/108/512 for state images */
    u8 reg_class;
    u8 reg;
    u8 field; /* enum insn_field: where a register operand is encoded */
};
enum insn_field { FIELD_IMPLICIT, FIELD_MODRM_REG, FIELD_MODRM_RM, FIELD_OPCODE };

/* An instruction has at most one ModRM/moffs memory operand; string and implicit stack operands
 * are known from the mnemonic. */
#define INSN_NO_REG 0xff
struct insn {
    u8 length;
    u16 mnemonic;   /* ZydisMnemonic */
    u8 op_bytes;    /* effective operand size, 2 or 4 */
    u8 addr_bytes;  /* effective address size, 2 or 4 */
    u8 stack_bytes; /* 2 or 4: SS.B at decode */
    bool lock, rep,
        repne; /* prefixes as encoded (F3 and F2), even where mandatory; the last of F2/F3 wins.
                  F3 0F BC/BD are BSF/BSR here: re-emit them without the F3 */
    bool has_modrm, has_sib;
    u8 seg_override; /* enum seg, or INSN_NO_REG */
    u8 map;          /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A, 4: 3DNow */
    u8 opcode;       /* last opcode byte */
    u8 modrm, sib;
    u8 opcode_offset; /* offset of the opcode byte in bytes[] */
    u8 modrm_offset;
    u8 imm_offset, imm_bytes;   /* first immediate in bytes[], 0 bytes if none */
    u8 disp_offset, disp_bytes; /* displacement in bytes[] */
    u8 op_count;                /* visible operands */
    struct insn_op op[4];
    /* Memory operand: linear = seg_base + (base + index * scale + disp) mod 2^addr. */
    u8 mem_seg, mem_base, mem_index, mem_scale;
    i32 disp;
    /* Immediates: first and second (ENTER, far pointers: imm = offset, imm2 = selector). Branch
     * targets relative: imm is the sign-extended displacement. */
    u64 imm;
    u32 imm2;
    u8 bytes[INSN_MAX_BYTES + 1];
};

enum insn_status {
    INSN_OK,
    INSN_INVALID,  /* #UD */
    INSN_TOO_LONG, /* more than 15 bytes: #GP(0) */
    INSN_MORE      /* available bytes end inside the instruction */
};

/* Decodes one instruction from up to `available` bytes. code32: CS.D; stack32: SS.B. Thread safe.
 * Encodings that only 64-bit mode or AVX has are INSN_INVALID. Privilege, CPUID features and
 * LOCK rules: LOCK on a non-lockable form is INSN_INVALID; the rest is the caller's. */
enum insn_status insn_decode(struct insn *out, const u8 *code, size_t available, bool code32,
                             bool stack32);

/* The code size it was decoded with, which follows from its prefixes and operand size. */
bool insn_was_code32(const struct insn *in);
/* Intel-syntax text of a guest instruction at eip. Returns out. */
const char *insn_format(const struct insn *in, u32 eip, char *out, size_t out_bytes);
const char *insn_mnemonic_name(u16 mnemonic);

#endif
