/*
 * test_decode.c: rows of instruction bytes beside the fields struct insn must hold for them, and
 * properties that hold for any bytes at all.
 */
#include "base/cpu.h"
#include "isa/insn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NR INSN_NO_REG
#define M(name) ZYDIS_MNEMONIC_##name

struct row {
    const char *bytes; /* hexadecimal, blanks allowed */
    bool code16;
    u16 mnemonic;
    u8 op_bytes, addr_bytes;
    u8 map, opcode;
    u8 seg_override;
    int modrm; /* -1: none */
    u8 imm_offset, imm_bytes, disp_offset, disp_bytes;
    u8 mem_seg, mem_base, mem_index, mem_scale; /* only looked at when an operand is OP_MEM */
    i32 disp;
    u64 imm;
    u32 imm2;
    u8 op_count;
    struct insn_op op[3];
};

#define REG(c, n, b)                                                                               \
    { .type = OP_REG, .bytes = b, .reg_class = c, .reg = n }
#define MEM(b)                                                                                     \
    { .type = OP_MEM, .bytes = b }
#define IMM(b)                                                                                     \
    { .type = OP_IMM, .bytes = b }
#define FAR_PTR(b)                                                                                 \
    { .type = OP_FAR, .bytes = b }

static const struct row rows[] = {
    /* add eax, ecx */
    {"01 c8", 0, M(ADD), 4, 4, 0, 0x01, NR, 0xc8, 0, 0,
     0,       0, 0,      0, 0, 0, 0,    0,  0,    2, {REG(RC_GPR32, 0, 4), REG(RC_GPR32, 1, 4)}},
    /* add word ptr fs:[ebx+esi*4-8], ax */
    {"64 66 01 44 b3 f8",
     0,
     M(ADD),
     2,
     4,
     0,
     0x01,
     SEG_FS,
     0x44,
     0,
     0,
     5,
     1,
     SEG_FS,
     R_EBX,
     R_ESI,
     4,
     -8,
     0,
     0,
     2,
     {MEM(2), REG(RC_GPR16, 0, 2)}},
    /* mov eax, [ebp+0x11223344]: SS by default */
    {"8b 85 44 33 22 11",
     0,
     M(MOV),
     4,
     4,
     0,
     0x8b,
     NR,
     0x85,
     0,
     0,
     2,
     4,
     SEG_SS,
     R_EBP,
     NR,
     0,
     0x11223344,
     0,
     0,
     2,
     {REG(RC_GPR32, 0, 4), MEM(4)}},
    /* mov eax, [bp+si-1] in 16-bit addressing */
    {"67 8b 42 ff",
     0,
     M(MOV),
     4,
     2,
     0,
     0x8b,
     NR,
     0x42,
     0,
     0,
     3,
     1,
     SEG_SS,
     R_EBP,
     R_ESI,
     1,
     -1,
     0,
     0,
     2,
     {REG(RC_GPR32, 0, 4), MEM(4)}},
    /* mov al, [0xfffffff0]: moffs */
    {"a0 f0 ff ff ff",
     0,
     M(MOV),
     4,
     4,
     0,
     0xa0,
     NR,
     -1,
     0,
     0,
     1,
     4,
     SEG_DS,
     NR,
     NR,
     0,
     -16,
     0,
     0,
     2,
     {REG(RC_GPR8, 0, 1), MEM(1)}},
    /* mov gs:[0x8000], ax in 16-bit code */
    {"65 a3 00 80",
     1,
     M(MOV),
     2,
     2,
     0,
     0xa3,
     SEG_GS,
     -1,
     0,
     0,
     2,
     2,
     SEG_GS,
     NR,
     NR,
     0,
     -32768,
     0,
     0,
     2,
     {MEM(2), REG(RC_GPR16, 0, 2)}},
    /* mov dword ptr [esp], 0x80000001 */
    {"c7 04 24 01 00 00 80",
     0,
     M(MOV),
     4,
     4,
     0,
     0xc7,
     NR,
     0x04,
     3,
     4,
     0,
     0,
     SEG_SS,
     R_ESP,
     NR,
     0,
     0,
     0xffffffff80000001,
     0,
     2,
     {MEM(4), IMM(4)}},
    /* sub esp, -128 (sign-extended byte) */
    {"83 ec 80",
     0,
     M(SUB),
     4,
     4,
     0,
     0x83,
     NR,
     0xec,
     2,
     1,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0xffffffffffffff80,
     0,
     2,
     {REG(RC_GPR32, R_ESP, 4), IMM(1)}},
    /* 82h is 80h */
    {"82 c5 7f", 0, M(ADD), 4, 4, 0, 0x82, NR,   0xc5, 2, 1,
     0,          0, 0,      0, 0, 0, 0,    0x7f, 0,    2, {REG(RC_GPR8, 5, 1), IMM(1)}},
    /* test byte [eax], 1 through the F6 /1 alias */
    {"f6 08 01", 0, M(TEST), 4,     4,  0, 0xf6, NR, 0x08, 2, 1,
     0,          0, SEG_DS,  R_EAX, NR, 0, 0,    1,  0,    2, {MEM(1), IMM(1)}},
    {"f7 c9 01 00 00 00",
     0,
     M(TEST),
     4,
     4,
     0,
     0xf7,
     NR,
     0xc9,
     2,
     4,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     1,
     0,
     2,
     {REG(RC_GPR32, 1, 4), IMM(4)}},
    /* D1 /6 is SHL; the implied 1 is an immediate without bytes */
    {"d1 f0", 0, M(SHL), 4, 4, 0, 0xd1, NR, 0xf0, 0, 0,
     0,       0, 0,      0, 0, 0, 0,    1,  0,    2, {REG(RC_GPR32, 0, 4), IMM(1)}},
    {"c0 f3 07", 0, M(SHL), 4, 4, 0, 0xc0, NR, 0xf3, 2, 1,
     0,          0, 0,      0, 0, 0, 0,    7,  0,    2, {REG(RC_GPR8, 3, 1), IMM(1)}},
    {"d3 f3", 0, M(SHL), 4, 4, 0, 0xd3, NR, 0xf3, 0, 0,
     0,       0, 0,      0, 0, 0, 0,    0,  0,    2, {REG(RC_GPR32, 3, 4), REG(RC_GPR8, 1, 1)}},
    {"d6", 0, M(SALC), 4, 4, 0, 0xd6, NR, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {{0}}},
    {"f1", 0, M(INT1), 4, 4, 0, 0xf1, NR, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {{0}}},
    {"0f 0b", 0, M(UD2), 4, 4, 1, 0x0b, NR, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {{0}}},
    {"0f b9 00", 0, M(UD1), 4,     4,  1, 0xb9, NR, 0x00, 0, 0,
     0,          0, SEG_DS, R_EAX, NR, 0, 0,    0,  0,    2, {REG(RC_GPR32, 0, 4), MEM(4)}},
    {"0f ff 00", 0, M(UD0), 4,     4,  1, 0xff, NR, 0x00, 0, 0,
     0,          0, SEG_DS, R_EAX, NR, 0, 0,    0,  0,    2, {REG(RC_GPR32, 0, 4), MEM(4)}},
    /* call +5, call -4 with 16-bit operands (EIP truncated), jz short -2 */
    {"e8 05 00 00 00", 0, M(CALL), 4, 4, 0, 0xe8, NR, -1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1,
     {IMM(4)}},
    {"66 e8 fc ff",      0, M(CALL), 2,       4, 0, 0xe8, NR, -1, 2, 2, 0, 0, 0, 0, 0, 0, 0,
     0xfffffffffffffffc, 0, 1,       {IMM(2)}},
    {"66 0f 84 00 80",   0, M(JZ), 2,       4, 1, 0x84, NR, -1, 3, 2, 0, 0, 0, 0, 0, 0, 0,
     0xffffffffffff8000, 0, 1,     {IMM(2)}},
    {"74 fe", 0, M(JZ),   4, 4, 0, 0x74, NR, -1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0xfffffffffffffffe,
     0,       1, {IMM(1)}},
    /* jmp 0x1234:0x89abcdef; its 16-bit form */
    {"ea ef cd ab 89 34 12",
     0,
     M(JMP),
     4,
     4,
     0,
     0xea,
     NR,
     -1,
     1,
     4,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0x89abcdef,
     0x1234,
     1,
     {FAR_PTR(6)}},
    {"9a 00 80 34 f2", 1,      M(CALL), 2,           2, 0, 0x9a, NR, -1, 1, 2, 0, 0, 0, 0, 0, 0, 0,
     0x8000,           0xf234, 1,       {FAR_PTR(4)}},
    /* enter 0xfffe, 3 */
    {"c8 fe ff 03",   0, M(ENTER), 4, 4, 0, 0xc8, NR, -1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0xfffe, 3, 2,
     {IMM(2), IMM(1)}},
    /* ret 0xfff0 is unsigned */
    {"c2 f0 ff", 0, M(RET), 4, 4, 0, 0xc2, NR,     -1, 1, 2,
     0,          0, 0,      0, 0, 0, 0,    0xfff0, 0,  1, {IMM(2)}},
    /* far pointers in memory */
    {"ff 18", 0, M(CALL), 4,     4,  0, 0xff, NR, 0x18, 0, 0,
     0,       0, SEG_DS,  R_EAX, NR, 0, 0,    0,  0,    1, {MEM(6)}},
    {"66 c4 08", 0, M(LES), 2,     4,  0, 0xc4, NR, 0x08, 0, 0,
     0,          0, SEG_DS, R_EAX, NR, 0, 0,    0,  0,    2, {REG(RC_GPR16, 1, 2), MEM(4)}},
    /* system registers and segments */
    {"0f 22 d8", 0, M(MOV), 4, 4, 1, 0x22, NR, 0xd8, 0, 0,
     0,          0, 0,      0, 0, 0, 0,    0,  0,    2, {REG(RC_CR, 3, 4), REG(RC_GPR32, 0, 4)}},
    {"0f 23 f9", 0, M(MOV), 4, 4, 1, 0x23, NR, 0xf9, 0, 0,
     0,          0, 0,      0, 0, 0, 0,    0,  0,    2, {REG(RC_DR, 7, 4), REG(RC_GPR32, 1, 4)}},
    {"8e e8", 0, M(MOV), 4, 4, 0, 0x8e, NR, 0xe8, 0, 0,
     0,       0, 0,      0, 0, 0, 0,    0,  0,    2, {REG(RC_SEG, SEG_GS, 2), REG(RC_GPR16, 0, 2)}},
    /* strings: no operands, but the override and the prefixes are there */
    {"f3 64 a5", 0, M(MOVSD), 4, 4, 0, 0xa5, SEG_FS, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {{0}}},
    {"f3 66 67 ab", 0, M(STOSW), 2, 2, 0, 0xab, NR, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {{0}}},
    /* x87, MMX, SSE */
    {"db 2d 00 10 00 00",
     0,
     M(FLD),
     4,
     4,
     0,
     0xdb,
     NR,
     0x2d,
     0,
     0,
     2,
     4,
     SEG_DS,
     NR,
     NR,
     0,
     0x1000,
     0,
     0,
     1,
     {MEM(10)}},
    {"df c3", 0, M(FFREEP), 4, 4, 0, 0xdf, NR, 0xc3, 0, 0,
     0,       0, 0,         0, 0, 0, 0,    0,  0,    1, {REG(RC_ST, 3, 10)}},
    {"d9 30", 0, M(FNSTENV), 4,     4,  0, 0xd9, NR, 0x30, 0, 0,
     0,       0, SEG_DS,     R_EAX, NR, 0, 0,    0,  0,    1, {MEM(28)}},
    {"0f 6f 0a", 0, M(MOVQ), 4,     4,  1, 0x6f, NR, 0x0a, 0, 0,
     0,          0, SEG_DS,  R_EDX, NR, 0, 0,    0,  0,    2, {REG(RC_MMX, 1, 8), MEM(8)}},
    {"66 0f 3a 0f d1 04",
     0,
     M(PALIGNR),
     2,
     4,
     3,
     0x0f,
     NR,
     0xd1,
     5,
     1,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     4,
     0,
     3,
     {REG(RC_XMM, 2, 16), REG(RC_XMM, 1, 16), IMM(1)}},
    {"f2 0f 38 f1 00",
     0,
     M(CRC32),
     4,
     4,
     2,
     0xf1,
     NR,
     0x00,
     0,
     0,
     0,
     0,
     SEG_DS,
     R_EAX,
     NR,
     0,
     0,
     0,
     0,
     2,
     {REG(RC_GPR32, 0, 4), MEM(4)}},
    /* older meanings: see the head of decode.c */
    {"f3 0f bc c1",
     0,
     M(BSF),
     4,
     4,
     1,
     0xbc,
     NR,
     0xc1,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     2,
     {REG(RC_GPR32, 0, 4), REG(RC_GPR32, 1, 4)}},
    {"f3 0f bd c1",
     0,
     M(BSR),
     4,
     4,
     1,
     0xbd,
     NR,
     0xc1,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     2,
     {REG(RC_GPR32, 0, 4), REG(RC_GPR32, 1, 4)}},
    {"f3 0f 1e fb",
     0,
     M(NOP),
     4,
     4,
     1,
     0x1e,
     NR,
     0xfb,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     0,
     2,
     {REG(RC_GPR32, 3, 4), REG(RC_GPR32, 7, 4)}},
};

static unsigned parse_hex(const char *text, u8 *out) {
    unsigned n = 0;
    for (char *end; *text; text = end)
        out[n++] = (u8)strtoul(text, &end, 16);
    return n;
}

static void check_operands(const struct row *r, const struct insn *in) {
    assert_int_equal(in->op_count, r->op_count);
    for (unsigned i = 0; i < r->op_count; i++) {
        assert_int_equal(in->op[i].type, r->op[i].type);
        assert_int_equal(in->op[i].bytes, r->op[i].bytes);
        assert_int_equal(in->op[i].reg_class, r->op[i].reg_class);
        assert_int_equal(in->op[i].reg, r->op[i].reg);
        if (in->op[i].type == OP_MEM) {
            assert_int_equal(in->mem_seg, r->mem_seg);
            assert_int_equal(in->mem_base, r->mem_base);
            assert_int_equal(in->mem_index, r->mem_index);
            assert_int_equal(in->mem_scale, r->mem_scale);
        }
    }
}

static void every_row_decodes_to_its_fields(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        u8 bytes[32] = {0};
        unsigned n = parse_hex(r->bytes, bytes);
        struct insn in;
        print_message("%s\n", r->bytes);
        assert_int_equal(insn_decode(&in, bytes, sizeof bytes, !r->code16, true), INSN_OK);
        assert_int_equal(in.length, n);
        assert_int_equal(in.mnemonic, r->mnemonic);
        assert_int_equal(in.op_bytes, r->op_bytes);
        assert_int_equal(in.addr_bytes, r->addr_bytes);
        assert_int_equal(in.map, r->map);
        assert_int_equal(in.opcode, r->opcode);
        assert_int_equal(bytes[in.opcode_offset], r->opcode);
        assert_int_equal(in.seg_override, r->seg_override);
        assert_int_equal(in.has_modrm ? in.modrm : -1, r->modrm);
        assert_int_equal(in.imm_offset, r->imm_offset);
        assert_int_equal(in.imm_bytes, r->imm_bytes);
        assert_int_equal(in.disp_offset, r->disp_offset);
        assert_int_equal(in.disp_bytes, r->disp_bytes);
        assert_int_equal(in.disp, r->disp);
        assert_int_equal(in.imm, r->imm);
        assert_int_equal(in.imm2, r->imm2);
        check_operands(r, &in);
    }
}

/* What 32-bit mode refuses although it looks like an instruction. */
static void undefined_encodings_are_invalid(void **state) {
    (void)state;
    static const char *const invalid[] = {
        "c5 f8 77",          /* vzeroupper: VEX */
        "c4 e2 79 18 00",    /* vbroadcastss: VEX */
        "62 f1 7c 48 28 c1", /* vmovaps zmm: EVEX */
        "8f e8 78 c2 00 00", /* XOP */
        "0f 0f c1 9e",       /* pfadd: 3DNow! */
        "8f c8",             /* 8F /1 */
        "c7 c8",             /* C7 /1 */
        "ff f8",             /* FF /7 */
        "fe d0",             /* FE /2 */
        "8d c0",             /* lea reg, reg */
        "0f 20 c8",          /* mov eax, cr1 */
        "0f 20 e8",          /* mov eax, cr5 */
        "8e c8",             /* mov cs, ax */
        "8c f0",             /* mov eax, segment 6 */
        "0f 24 c0",          /* test registers */
        "0f 04",             /* no opcode */
        "f0 90",             /* lock nop */
        "f0 01 c8",          /* lock with a register destination */
        "f0 39 08",          /* lock cmp */
        "f0 8b 00",          /* lock mov */
        "f0 0f 20 c0",       /* lock mov eax, cr0: CR8 on AMD */
        "d9 d1",             /* x87 holes */
        "db e5",
        "df f8",
        "0f c7 c0", /* cmpxchg8b with a register */
        "0f b2 c0", /* lss with a register */
    };
    for (size_t i = 0; i < ARRAY_LEN(invalid); i++) {
        u8 bytes[32] = {0};
        struct insn in;
        parse_hex(invalid[i], bytes);
        print_message("%s\n", invalid[i]);
        assert_int_equal(insn_decode(&in, bytes, sizeof bytes, true, true), INSN_INVALID);
    }
}

static void sixteen_bytes_are_too_long(void **state) {
    (void)state;
    u8 bytes[32];
    struct insn in;
    memset(bytes, 0x26, sizeof bytes);
    assert_int_equal(insn_decode(&in, bytes, sizeof bytes, true, true), INSN_TOO_LONG);
    bytes[14] = 0x90;
    assert_int_equal(insn_decode(&in, bytes, sizeof bytes, true, true), INSN_OK);
    assert_int_equal(in.length, 15);
    bytes[14] = 0x04; /* add al, imm8 ends at byte 16 */
    assert_int_equal(insn_decode(&in, bytes, sizeof bytes, true, true), INSN_TOO_LONG);
    assert_int_equal(insn_decode(&in, bytes, 14, true, true), INSN_MORE);
    assert_int_equal(insn_decode(&in, bytes, 0, true, true), INSN_MORE);
}

/* Opcodes every 32-bit CPU executes, over all ModRM bytes: the aliases and hint NOPs. */
static void hint_nops_and_aliases_decode_with_every_modrm(void **state) {
    (void)state;
    static const u8 opcodes[] = {0x0d, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f};
    static const int prefixes[] = {-1, 0x66, 0xf2, 0xf3};
    for (size_t o = 0; o < ARRAY_LEN(opcodes); o++) {
        for (size_t p = 0; p < ARRAY_LEN(prefixes); p++) {
            for (unsigned modrm = 0; modrm < 256; modrm++) {
                u8 bytes[16] = {0};
                unsigned n = 0;
                if (prefixes[p] >= 0)
                    bytes[n++] = (u8)prefixes[p];
                bytes[n++] = 0x0f;
                bytes[n++] = opcodes[o];
                bytes[n++] = (u8)modrm;
                struct insn in;
                assert_int_equal(insn_decode(&in, bytes, 15, true, true), INSN_OK);
                assert_int_equal(in.modrm, modrm);
            }
        }
    }
}

static u64 next_random(u64 *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Prefix bytes and escapes come up more often than chance gives them. */
static void random_bytes(u64 *seed, u8 bytes[16]) {
    static const u8 likely_bytes[] = {0x66, 0x67, 0xf2, 0xf3, 0x0f, 0x0f, 0x64, 0x2e, 0xf0};
    for (unsigned i = 0; i < 16; i++) {
        u64 r = next_random(seed);
        bytes[i] = i < 4 && (r & 3) == 0 ? likely_bytes[(r >> 8) % ARRAY_LEN(likely_bytes)]
                                         : (u8)(r >> 16);
    }
}

/* The parts of an instruction lie inside it, in order, and end exactly at its end. */
static void check_layout(const struct insn *in, const u8 *bytes) {
    assert_in_range(in->length, 1, 15);
    assert_memory_equal(in->bytes, bytes, in->length);
    assert_int_equal(in->bytes[in->opcode_offset], in->opcode);
    unsigned end = in->opcode_offset + 1u;
    if (in->has_modrm) {
        assert_int_equal(in->modrm_offset, end);
        end += in->has_sib ? 2 : 1;
        assert_int_equal(in->bytes[in->modrm_offset], in->modrm);
    }
    if (in->disp_bytes) {
        assert_int_equal(in->disp_offset, end);
        end += in->disp_bytes;
    }
    if (in->imm_bytes) {
        assert_int_equal(in->imm_offset, end);
        end += in->imm_bytes;
    }
    if (in->mnemonic == ZYDIS_MNEMONIC_ENTER || in->mnemonic == ZYDIS_MNEMONIC_EXTRQ ||
        in->mnemonic == ZYDIS_MNEMONIC_INSERTQ)
        end += in->imm_bytes ? 1 : 0;
    if (in->op_count == 1 && in->op[0].type == OP_FAR)
        end += 2;
    assert_int_equal(end, in->length);
    assert_true(in->op_bytes == 2 || in->op_bytes == 4);
    assert_true(in->addr_bytes == 2 || in->addr_bytes == 4);
}

static void random_bytes_decode_consistently(void **state) {
    (void)state;
    u64 seed = 0x9e3779b97f4a7c15;
    unsigned decoded = 0;
    for (unsigned i = 0; i < 400000; i++) {
        u8 bytes[16];
        random_bytes(&seed, bytes);
        bool code32 = i & 1;
        struct insn in, again;
        enum insn_status status = insn_decode(&in, bytes, 16, code32, code32);
        assert_int_not_equal(status, INSN_MORE);
        if (status != INSN_OK)
            continue;
        decoded++;
        check_layout(&in, bytes);
        for (unsigned n = 0; n < in.length; n++)
            assert_int_equal(insn_decode(&again, bytes, n, code32, code32), INSN_MORE);
        assert_int_equal(insn_decode(&again, in.bytes, in.length, code32, code32), INSN_OK);
        assert_memory_equal(&again, &in, sizeof in);
    }
    assert_true(decoded > 100000);
}

static void formatting_gives_intel_syntax(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } texts[] = {
        {"8b 44 8b fc", "mov eax, [ebx+ecx*4-0x04]"},
        {"e8 fb ff ff ff", "call 0x00001000"},
        {"f3 a4", "rep movsb"},
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        u8 bytes[16] = {0};
        char text[96];
        struct insn in;
        parse_hex(texts[i].bytes, bytes);
        assert_int_equal(insn_decode(&in, bytes, 15, true, true), INSN_OK);
        assert_string_equal(insn_format(&in, 0x1000, text, sizeof text), texts[i].text);
    }
    assert_string_equal(insn_mnemonic_name(ZYDIS_MNEMONIC_IRETD), "iretd");
    assert_string_equal(insn_mnemonic_name(0xffff), "invalid");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_decodes_to_its_fields),
        cmocka_unit_test(undefined_encodings_are_invalid),
        cmocka_unit_test(sixteen_bytes_are_too_long),
        cmocka_unit_test(hint_nops_and_aliases_decode_with_every_modrm),
        cmocka_unit_test(random_bytes_decode_consistently),
        cmocka_unit_test(formatting_gives_intel_syntax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
