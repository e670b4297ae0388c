/*
 * verify_table.c: which host opcodes translated code may hold, and what their ModRM fields name. A
 * row that is missing is refused.
 */
#include "bt/verify_internal.h"

#define REG_ONLY VF_REG_ONLY
#define MEM_ONLY VF_MEM_ONLY

/* map, first and last opcode, reg field, r/m field, immediate, /n mask for EXT, flags */
static const struct verify_form forms[] = {
    /* one-byte map; the ALU block 00-3F is in verify_find_form */
    {0, 0x69, 0x69, VK_WORD, VK_WORD, VI_Z, 0, 0},
    {0, 0x6b, 0x6b, VK_WORD, VK_WORD, VI_1, 0, 0},
    {0, 0x80, 0x80, VK_EXT, VK_BYTE, VI_1, 0xff, 0},
    {0, 0x81, 0x81, VK_EXT, VK_WORD, VI_Z, 0xff, 0},
    {0, 0x83, 0x83, VK_EXT, VK_WORD, VI_1, 0xff, 0},
    {0, 0x84, 0x84, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {0, 0x85, 0x85, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 0x86, 0x86, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {0, 0x87, 0x87, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 0x88, 0x88, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {0, 0x89, 0x89, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 0x8a, 0x8a, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {0, 0x8b, 0x8b, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 0x8d, 0x8d, VK_WORD, VK_WORD, VI_0, 0, MEM_ONLY | VF_NO_ACCESS},
    {0, 0x91, 0x97, VK_WORD, VK_NONE, VI_0, 0, VF_OPCODE_REG},
    {0, 0x98, 0x99, VK_NONE, VK_NONE, VI_0, 0, 0},
    {0, 0x9b, 0x9b, VK_NONE, VK_NONE, VI_0, 0, 0},
    {0, 0x9e, 0x9f, VK_NONE, VK_NONE, VI_0, 0, 0},
    {0, 0xa8, 0xa8, VK_NONE, VK_NONE, VI_1, 0, 0},
    {0, 0xa9, 0xa9, VK_NONE, VK_NONE, VI_Z, 0, 0},
    {0, 0xb0, 0xb7, VK_BYTE, VK_NONE, VI_1, 0, VF_OPCODE_REG},
    {0, 0xb8, 0xbf, VK_WORD, VK_NONE, VI_Z, 0, VF_OPCODE_REG},
    {0, 0xc0, 0xc0, VK_EXT, VK_BYTE, VI_1, 0xff, 0},
    {0, 0xc1, 0xc1, VK_EXT, VK_WORD, VI_1, 0xff, 0},
    {0, 0xc6, 0xc6, VK_EXT, VK_BYTE, VI_1, 0x01, 0},
    {0, 0xc7, 0xc7, VK_EXT, VK_WORD, VI_Z, 0x01, 0},
    {0, 0xd0, 0xd0, VK_EXT, VK_BYTE, VI_0, 0xff, 0},
    {0, 0xd1, 0xd1, VK_EXT, VK_WORD, VI_0, 0xff, 0},
    {0, 0xd2, 0xd2, VK_EXT, VK_BYTE, VI_0, 0xff, 0},
    {0, 0xd3, 0xd3, VK_EXT, VK_WORD, VI_0, 0xff, 0},
    /* x87: register forms as the hardware has them; no environment or state image in memory */
    {0, 0xd9, 0xd9, VK_EXT, VK_VEC, VI_0, 0xff, REG_ONLY},
    {0, 0xd9, 0xd9, VK_EXT, VK_VEC, VI_0, 0xad, MEM_ONLY},
    {0, 0xdb, 0xdb, VK_EXT, VK_VEC, VI_0, 0xff, REG_ONLY},
    {0, 0xdb, 0xdb, VK_EXT, VK_VEC, VI_0, 0xaf, MEM_ONLY},
    {0, 0xdd, 0xdd, VK_EXT, VK_VEC, VI_0, 0xff, REG_ONLY},
    {0, 0xdd, 0xdd, VK_EXT, VK_VEC, VI_0, 0x8f, MEM_ONLY},
    {0, 0xd8, 0xdf, VK_EXT, VK_VEC, VI_0, 0xff, VF_EVEN},
    {0, 0xdf, 0xdf, VK_EXT, VK_VEC, VI_0, 0xff, 0},
    {0, 0xf5, 0xf5, VK_NONE, VK_NONE, VI_0, 0, 0},
    {0, 0xf8, 0xf9, VK_NONE, VK_NONE, VI_0, 0, 0},
    {0, 0xf6, 0xf6, VK_EXT, VK_BYTE, VI_TEST, 0xff, 0},
    {0, 0xf7, 0xf7, VK_EXT, VK_WORD, VI_TEST, 0xff, 0},
    {0, 0xfe, 0xfe, VK_EXT, VK_BYTE, VI_0, 0x03, 0},
    {0, 0xff, 0xff, VK_EXT, VK_WORD, VI_0, 0x03, 0},
    /* 0F: integer */
    {1, 0x40, 0x4f, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0x90, 0x9f, VK_EXT, VK_BYTE, VI_0, 0xff, 0},
    {1, 0xa3, 0xa3, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xa4, 0xa4, VK_WORD, VK_WORD, VI_1, 0, 0},
    {1, 0xa5, 0xa5, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xab, 0xab, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xac, 0xac, VK_WORD, VK_WORD, VI_1, 0, 0},
    {1, 0xad, 0xad, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xae, 0xae, VK_EXT, VK_NONE, VI_0, 0xe0, REG_ONLY | VF_NO_PREFIX}, /* fences */
    {1, 0xae, 0xae, VK_EXT, VK_WORD, VI_0, 0x0c, MEM_ONLY | VF_NO_PREFIX}, /* LDMXCSR, STMXCSR */
    {1, 0xaf, 0xaf, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xb0, 0xb0, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {1, 0xb1, 0xb1, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xb3, 0xb3, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xb6, 0xb6, VK_WORD, VK_BYTE, VI_0, 0, 0},
    {1, 0xb7, 0xb7, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xb8, 0xb8, VK_WORD, VK_WORD, VI_0, 0, VF_NEEDS_F3}, /* POPCNT */
    {1, 0xba, 0xba, VK_EXT, VK_WORD, VI_1, 0xf0, 0},
    {1, 0xbb, 0xbb, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xbc, 0xbd, VK_WORD, VK_WORD, VI_0, 0, VF_NO_REPEAT}, /* not TZCNT, LZCNT */
    {1, 0xbe, 0xbe, VK_WORD, VK_BYTE, VI_0, 0, 0},
    {1, 0xbf, 0xbf, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xc0, 0xc0, VK_BYTE, VK_BYTE, VI_0, 0, 0},
    {1, 0xc1, 0xc1, VK_WORD, VK_WORD, VI_0, 0, 0},
    {1, 0xc3, 0xc3, VK_WORD, VK_WORD, VI_0, 0, MEM_ONLY | VF_NO_PREFIX},   /* MOVNTI */
    {1, 0xc7, 0xc7, VK_EXT, VK_WORD, VI_0, 0x02, MEM_ONLY | VF_NO_REPEAT}, /* CMPXCHG8B */
    {1, 0xc8, 0xcf, VK_WORD, VK_NONE, VI_0, 0, VF_OPCODE_REG},
    /* 0F: MMX, SSE. Those that name a general register come first. */
    {1, 0x2a, 0x2a, VK_VEC, VK_WORD, VI_0, 0, VF_NEEDS_REPEAT},
    {1, 0x2c, 0x2d, VK_WORD, VK_VEC, VI_0, 0, VF_NEEDS_REPEAT},
    {1, 0x50, 0x50, VK_WORD, VK_VEC, VI_0, 0, REG_ONLY},
    {1, 0x6e, 0x6e, VK_VEC, VK_WORD, VI_0, 0, 0},
    {1, 0x7e, 0x7e, VK_VEC, VK_WORD, VI_0, 0, VF_NO_REPEAT},
    {1, 0xc4, 0xc4, VK_VEC, VK_WORD, VI_1, 0, 0},
    {1, 0xc5, 0xc5, VK_WORD, VK_VEC, VI_1, 0, REG_ONLY},
    {1, 0xd7, 0xd7, VK_WORD, VK_VEC, VI_0, 0, REG_ONLY},
    {1, 0x10, 0x17, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0x28, 0x2f, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0x51, 0x6f, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0x70, 0x70, VK_VEC, VK_VEC, VI_1, 0, 0},
    {1, 0x71, 0x73, VK_EXT, VK_VEC, VI_1, 0xdc, REG_ONLY},
    {1, 0x74, 0x76, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0x77, 0x77, VK_NONE, VK_NONE, VI_0, 0, VF_NO_PREFIX},
    {1, 0x7c, 0x7f, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0xc2, 0xc2, VK_VEC, VK_VEC, VI_1, 0, 0},
    {1, 0xc6, 0xc6, VK_VEC, VK_VEC, VI_1, 0, 0},
    {1, 0xd0, 0xf6, VK_VEC, VK_VEC, VI_0, 0, 0},
    {1, 0xf8, 0xfe, VK_VEC, VK_VEC, VI_0, 0, 0}, /* F7 is MASKMOVQ: stores at [rdi] */
    /* 0F 38 */
    {2, 0x00, 0x0b, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x10, 0x10, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x14, 0x15, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x17, 0x17, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x1c, 0x1e, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x20, 0x25, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x28, 0x2b, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0x30, 0x41, VK_VEC, VK_VEC, VI_0, 0, 0},
    {2, 0xf0, 0xf0, VK_WORD, VK_BYTE, VI_0, 0, VF_NEEDS_REPEAT}, /* CRC32 */
    {2, 0xf1, 0xf1, VK_WORD, VK_WORD, VI_0, 0, VF_NEEDS_REPEAT},
    {2, 0xf0, 0xf1, VK_WORD, VK_WORD, VI_0, 0, MEM_ONLY | VF_NO_REPEAT}, /* MOVBE */
    /* 0F 3A */
    {3, 0x08, 0x0f, VK_VEC, VK_VEC, VI_1, 0, 0},
    {3, 0x14, 0x17, VK_VEC, VK_WORD, VI_1, 0, 0},
    {3, 0x20, 0x20, VK_VEC, VK_WORD, VI_1, 0, 0},
    {3, 0x21, 0x21, VK_VEC, VK_VEC, VI_1, 0, 0},
    {3, 0x22, 0x22, VK_VEC, VK_WORD, VI_1, 0, 0},
    {3, 0x40, 0x42, VK_VEC, VK_VEC, VI_1, 0, 0},
    {3, 0x60, 0x63, VK_VEC, VK_VEC, VI_1, 0, 0},
};

/* ADD..CMP: 00-05, 08-0D, ..., 38-3D. */
static const struct verify_form alu_forms[6] = {
    {0, 0, 0, VK_BYTE, VK_BYTE, VI_0, 0, 0}, {0, 1, 1, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 2, 2, VK_BYTE, VK_BYTE, VI_0, 0, 0}, {0, 3, 3, VK_WORD, VK_WORD, VI_0, 0, 0},
    {0, 4, 4, VK_NONE, VK_NONE, VI_1, 0, 0}, {0, 5, 5, VK_NONE, VK_NONE, VI_Z, 0, 0},
};

/* Does the row hold for these prefixes and this ModRM byte? */
static bool form_fits(const struct verify_form *f, const struct verify_insn *in) {
    bool repeat = in->repeat != 0;
    if (in->map != f->map || in->opcode < f->first || in->opcode > f->last)
        return false;
    if ((f->flags & VF_EVEN) && (in->opcode & 1))
        return false;
    if ((f->flags & VF_NO_PREFIX) && (repeat || in->operand_size))
        return false;
    if ((f->flags & VF_NO_REPEAT) && repeat)
        return false;
    if ((f->flags & VF_NEEDS_REPEAT) && !repeat)
        return false;
    if ((f->flags & VF_NEEDS_F3) && in->repeat != 0xf3)
        return false;
    bool register_form = in->modrm >= 0xc0;
    if ((f->flags & VF_REG_ONLY) && !register_form)
        return false;
    if ((f->flags & VF_MEM_ONLY) && register_form)
        return false;
    return f->reg != VK_EXT || (f->ext >> (in->modrm >> 3 & 7) & 1);
}

const struct verify_form *verify_find_form(const struct verify_insn *in) {
    if (in->map == 0 && in->opcode < 0x40)
        return (in->opcode & 7) < 6 ? &alu_forms[in->opcode & 7] : NULL;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++)
        if (form_fits(&forms[i], in))
            return &forms[i];
    return NULL;
}
