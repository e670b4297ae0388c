/*
 * verify_internal.h: what verify.c, verify_sequence.c and verify_table.c share: the verifier's
 * state, matching byte by byte, a host instruction taken apart, and the rows of the opcode table.
 */
#ifndef RINGFOLD_BT_VERIFY_INTERNAL_H
#define RINGFOLD_BT_VERIFY_INTERNAL_H

#include "bt/bt_internal.h"

#include <capstone/capstone.h>

#define VERIFY_MAX_BYTES BT_MAX_UNIT_HOST_BYTES

struct verifier {
    const u8 *code;
    u32 bytes, at;
    bool icount, count;
    u32 trap_classes; /* BT_TRAP_* that may be left in place */
    bool (*known)(void *opaque, u32 offset);
    void *opaque;
    const struct bt_unit *unit; /* NULL: the arguments of CO_LINK and CO_STALE are not looked at */
    u32 unit_index;
    csh handle;
    cs_insn *insn;
    bool after_call; /* the next item must be a return continuation */
    bool falls_through;
    u8 boundary[VERIFY_MAX_BYTES / 8]; /* offsets where an item starts */
    u8 target[VERIFY_MAX_BYTES / 8];   /* offsets that branches name */
};

/* ---- Matching byte sequences ---- */

/* A cursor over the code; once something does not match, nothing more does. */
struct cursor {
    const u8 *p, *end;
    bool ok;
};
static inline struct cursor cursor_at(const struct verifier *v, u32 offset) {
    return (struct cursor){v->code + offset, v->code + v->bytes, true};
}
static inline bool take(struct cursor *c, const void *bytes, size_t count) {
    if (!c->ok || (size_t)(c->end - c->p) < count || memcmp(c->p, bytes, count) != 0)
        c->ok = false;
    else
        c->p += count;
    return c->ok;
}
#define TAKE(c, ...) take(c, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))
static inline bool take_u32(struct cursor *c, u32 value) {
    u8 bytes[4];
    store32(bytes, value);
    return take(c, bytes, 4);
}
static inline u32 read_u32(struct cursor *c) {
    if (!c->ok || c->end - c->p < 4) {
        c->ok = false;
        return 0;
    }
    c->p += 4;
    return load32(c->p - 4);
}
static inline u8 read_u8(struct cursor *c) {
    if (!c->ok || c->p >= c->end) {
        c->ok = false;
        return 0;
    }
    return *c->p++;
}
static inline u32 matched(const struct verifier *v, u32 offset, const struct cursor *c) {
    return c->ok ? (u32)(c->p - (v->code + offset)) : 0;
}

/* ---- verify_sequence.c: shapes of several instructions ---- */

/* The length of the sequence at offset, 0: none of those that may stand anywhere. */
u32 verify_sequence(struct verifier *v, u32 offset);
/* The comparison of r8d with the EIP that stands for this place; a miss jumps through hot_stub. */
u32 verify_eip_check(const struct verifier *v, u32 offset, u32 hot_stub);

/* ---- verify_table.c: single instructions ---- */

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
