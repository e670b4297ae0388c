/*
 * verify_internal.h: what verify.c and verify_table.c share: a host instruction taken apart, and
 * the rows of the opcode table.
 */
#ifndef RINGFOLD_BT_VERIFY_INTERNAL_H
#define RINGFOLD_BT_VERIFY_INTERNAL_H

#include "base/base.h"

/* What a ModRM field names. VK_NONE in both fields of a row: no ModRM byte. */
enum { VK_NONE, VK_EXT, VK_BYTE, VK_WORD, VK_VEC };
/* Immediates; VI_TEST: F6/F7, whose /0 and /1 have one; VI_Z: 2 or 4 bytes by operand size. */
enum { VI_0, VI_1, VI_Z, VI_TEST };
enum {
    VF_REG_ONLY = 1,
    VF_MEM_ONLY = 2,
    VF_OPCODE_REG = 4, /* the register is in the opcode's low bits; no ModRM */
    VF_NO_ACCESS = 8,  /* LEA */
    VF_NO_PREFIX = 16, /* none of 66, F2, F3 */
    VF_NO_REPEAT = 32, /* neither F2 nor F3 */
    VF_NEEDS_REPEAT = 64,
    VF_NEEDS_F3 = 128,
    VF_EVEN = 256 /* even opcodes of the range only */
};
struct verify_form {
    u8 map, first, last;
    u8 reg, rm, imm;
    u8 ext; /* mask of allowed /n */
    u16 flags;
};

/* One host instruction taken apart. */
struct verify_insn {
    u8 length;
    bool lock, gs, addr32, operand_size;
    u8 repeat; /* F2, F3 or 0 */
    u8 rex;    /* 0: none */
    u8 map, opcode, modrm;
    bool memory;
    bool rip_relative;
    u8 base, index; /* full numbers, or VERIFY_NO_REG */
    i32 disp;
};
#define VERIFY_NO_REG 0xff

/* The first row for this opcode, its prefixes and its ModRM byte (in->modrm may be any byte for
 * opcodes without one); NULL: refused. */
const struct verify_form *verify_find_form(const struct verify_insn *in);

#endif
