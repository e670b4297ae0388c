/*
 * test_emit.c: every form of the bounded emitter against Zydis: its decoder reads back the operands
 * in 64-bit mode, its encoder says how long the shortest form is. An emitter out of room sets its
 * flag and leaves the bytes behind the end alone.
 */
#include "bt_fixture.h"

#include <Zydis/Zydis.h>

static const i32 displacements[] = {0,    1,    -1,  4,          127,         128,
                                    -128, -129, 255, 0x12345678, -0x7fffffff, INT32_MIN};

static ZydisRegister reg64(u8 n) {
    return (ZydisRegister)(ZYDIS_REGISTER_RAX + n);
}
static ZydisRegister reg32(u8 n) {
    return (ZydisRegister)(ZYDIS_REGISTER_EAX + n);
}
static ZydisRegister reg16(u8 n) {
    return (ZydisRegister)(ZYDIS_REGISTER_AX + n);
}
/* Low bytes only: AL..BL, SPL..DIL, R8B... */
static ZydisRegister low8(u8 n) {
    return (ZydisRegister)(n < 4 ? ZYDIS_REGISTER_AL + n : ZYDIS_REGISTER_SPL + (n - 4));
}

struct decoded {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static void decode(const u8 *code, unsigned bytes, struct decoded *d) {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, bytes, &d->in, d->op)))
        fail_msg("does not decode: %02x %02x %02x %02x", code[0], code[1], code[2], code[3]);
    assert_int_equal(d->in.length, bytes);
}

static void emit_into(u8 *code, size_t room, struct emit *e) {
    *e = (struct emit){.p = code, .start = code, .end = code + room};
}

/* The Zydis encoder's length for the same instruction, 0 if it has none. */
static unsigned encoded_length(const ZydisEncoderRequest *request) {
    u8 out[ZYDIS_MAX_INSTRUCTION_LENGTH];
    ZyanUSize length = sizeof out;
    return ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(request, out, &length)) ? (unsigned)length
                                                                              : 0;
}

/* ---- registers ---- */

static void expect_reg_form(struct host_op op, u8 rm, ZydisMnemonic mnemonic, ZydisRegister first,
                            ZydisRegister second) {
    u8 code[32];
    struct emit e;
    struct decoded d;
    emit_into(code, sizeof code, &e);
    emit_op_reg(&e, op, rm);
    assert_false(e.overflow);
    decode(code, (unsigned)(e.p - code), &d);
    assert_int_equal(d.in.mnemonic, mnemonic);
    assert_int_equal(d.op[0].reg.value, first);
    assert_int_equal(d.op[1].reg.value, second);
    ZydisEncoderRequest request = {
        .machine_mode = ZYDIS_MACHINE_MODE_LONG_64, .mnemonic = mnemonic, .operand_count = 2};
    request.operands[0].type = request.operands[1].type = ZYDIS_OPERAND_TYPE_REGISTER;
    request.operands[0].reg.value = first;
    request.operands[1].reg.value = second;
    assert_int_equal(e.p - code, encoded_length(&request));
}

static void register_forms_name_the_registers_asked_for(void **state) {
    (void)state;
    for (u8 r = 0; r < 16; r++)
        for (u8 rm = 0; rm < 16; rm++) {
            expect_reg_form((struct host_op){.opcode = 0x8b, .reg = r}, rm, ZYDIS_MNEMONIC_MOV,
                            reg32(r), reg32(rm));
            expect_reg_form((struct host_op){.opcode = 0x01, .reg = r}, rm, ZYDIS_MNEMONIC_ADD,
                            reg32(rm), reg32(r));
            expect_reg_form((struct host_op){.opcode = 0x8b, .reg = r, .rex_w = true}, rm,
                            ZYDIS_MNEMONIC_MOV, reg64(r), reg64(rm));
            expect_reg_form((struct host_op){.opcode = 0x8b, .reg = r, .p66 = true}, rm,
                            ZYDIS_MNEMONIC_MOV, reg16(r), reg16(rm));
            expect_reg_form((struct host_op){.opcode = 0xb7, .map = 1, .reg = r}, rm,
                            ZYDIS_MNEMONIC_MOVZX, reg32(r), reg16(rm));
        }
}

static void byte_registers_get_the_rex_that_names_their_low_byte(void **state) {
    (void)state;
    for (u8 r = 0; r < 16; r++)
        for (u8 rm = 0; rm < 16; rm++) {
            if (r >= 4 && r < 8 && rm < 4)
                continue; /* without REX these are AH..BH */
            expect_reg_form((struct host_op){.opcode = 0x88, .reg = r, .byte_rm = true}, rm,
                            ZYDIS_MNEMONIC_MOV, low8(rm), low8(r));
        }
    /* The guest's own high bytes stay REX-free. */
    for (u8 high = 4; high < 8; high++)
        for (u8 rm = 0; rm < 8; rm++)
            expect_reg_form((struct host_op){.opcode = 0x88, .reg = high}, rm, ZYDIS_MNEMONIC_MOV,
                            (ZydisRegister)(ZYDIS_REGISTER_AL + rm),
                            (ZydisRegister)(ZYDIS_REGISTER_AL + high));
}

static void opcode_maps_and_mandatory_prefixes_reach_their_instruction(void **state) {
    (void)state;
    for (u8 r = 0; r < 8; r++) {
        ZydisRegister x0 = (ZydisRegister)(ZYDIS_REGISTER_XMM0 + r), x1 = ZYDIS_REGISTER_XMM3;
        expect_reg_form((struct host_op){.opcode = 0x58, .map = 1, .reg = r}, 3,
                        ZYDIS_MNEMONIC_ADDPS, x0, x1);
        expect_reg_form((struct host_op){.opcode = 0x58, .map = 1, .reg = r, .p66 = true}, 3,
                        ZYDIS_MNEMONIC_ADDPD, x0, x1);
        expect_reg_form((struct host_op){.opcode = 0x58, .map = 1, .reg = r, .rep = true}, 3,
                        ZYDIS_MNEMONIC_ADDSS, x0, x1);
        expect_reg_form((struct host_op){.opcode = 0x58, .map = 1, .reg = r, .repne = true}, 3,
                        ZYDIS_MNEMONIC_ADDSD, x0, x1);
        expect_reg_form((struct host_op){.opcode = 0x00, .map = 2, .reg = r, .p66 = true}, 3,
                        ZYDIS_MNEMONIC_PSHUFB, x0, x1);
        expect_reg_form((struct host_op){.opcode = 0x2a, .map = 1, .reg = r, .repne = true}, 12,
                        ZYDIS_MNEMONIC_CVTSI2SD, x0, ZYDIS_REGISTER_R12D);
        expect_reg_form((struct host_op){.opcode = 0xf1, .map = 2, .reg = r, .repne = true}, 12,
                        ZYDIS_MNEMONIC_CRC32, reg32(r), ZYDIS_REGISTER_R12D);
    }
}

/* ---- memory ---- */

static ZydisRegister address_reg(u8 n, bool window) {
    return n == H_NONE ? ZYDIS_REGISTER_NONE : window ? reg32(n) : reg64(n);
}

static void expect_memory_operand(const struct decoded *d, const ZydisDecodedOperand *op,
                                  struct host_mem m) {
    assert_int_equal(op->type, ZYDIS_OPERAND_TYPE_MEMORY);
    assert_int_equal(op->mem.segment == ZYDIS_REGISTER_GS, m.window);
    assert_int_equal(d->in.address_width, m.window ? 32 : 64);
    assert_int_equal(op->mem.base, address_reg(m.base, m.window));
    assert_int_equal(op->mem.index, address_reg(m.index, m.window));
    if (m.index != H_NONE)
        assert_int_equal(op->mem.scale, m.scale);
    assert_int_equal(op->mem.disp.has_displacement ? (i32)op->mem.disp.value : 0, m.disp);
}

static unsigned shortest(u8 r, struct host_mem m) {
    ZydisEncoderRequest request = {.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
                                   .mnemonic = ZYDIS_MNEMONIC_MOV,
                                   .operand_count = 2};
    request.operands[0].type = ZYDIS_OPERAND_TYPE_REGISTER;
    request.operands[0].reg.value = reg32(r);
    request.operands[1].type = ZYDIS_OPERAND_TYPE_MEMORY;
    request.operands[1].mem.base = address_reg(m.base, m.window);
    request.operands[1].mem.index = address_reg(m.index, m.window);
    request.operands[1].mem.scale = m.index == H_NONE ? 0 : m.scale;
    request.operands[1].mem.displacement = m.disp;
    request.operands[1].mem.size = 4;
    if (m.window)
        request.prefixes = ZYDIS_ATTRIB_HAS_SEGMENT_GS;
    return encoded_length(&request);
}

static void expect_mem_form(u8 r, struct host_mem m) {
    u8 code[32];
    struct emit e;
    struct decoded d;
    emit_into(code, sizeof code, &e);
    emit_op_mem(&e, (struct host_op){.opcode = 0x8b, .reg = r}, m);
    assert_false(e.overflow);
    decode(code, (unsigned)(e.p - code), &d);
    assert_int_equal(d.in.mnemonic, ZYDIS_MNEMONIC_MOV);
    assert_int_equal(d.op[0].reg.value, reg32(r));
    expect_memory_operand(&d, &d.op[1], m);
    unsigned length = shortest(r, m);
    bool absolute = m.base == H_NONE && m.index == H_NONE;
    assert_true(length != 0);
    if (!absolute && e.p - code != length)
        fail_msg("base %u index %u scale %u disp %d: %d bytes, shortest %u", m.base, m.index,
                 m.scale, m.disp, (int)(e.p - code), length);
}

static void memory_forms_name_base_index_scale_and_displacement(void **state) {
    (void)state;
    for (unsigned b = 0; b <= 16; b++)
        for (unsigned i = 0; i <= 16; i++)
            for (u8 scale = 1; scale <= 8; scale *= 2)
                for (size_t d = 0; d < ARRAY_LEN(displacements); d++)
                    for (unsigned window = 0; window < 2; window++) {
                        struct host_mem m = {.base = b == 16 ? H_NONE : (u8)b,
                                             .index = i == 16 ? H_NONE : (u8)i,
                                             .scale = scale,
                                             .disp = displacements[d],
                                             .window = window};
                        if (m.index == H_RSP || (m.index == H_NONE && scale > 1))
                            continue;
                        expect_mem_form((u8)((b * 5 + i * 3 + d) & 15), m);
                    }
}

static void no_memory_form_is_rip_relative(void **state) {
    (void)state;
    u8 code[32];
    for (unsigned window = 0; window < 2; window++) {
        struct emit e;
        struct decoded d;
        emit_into(code, sizeof code, &e);
        emit_load32(&e, H_RAX,
                    (struct host_mem){
                        .base = H_NONE, .index = H_NONE, .scale = 1, .disp = 64, .window = window});
        decode(code, (unsigned)(e.p - code), &d);
        assert_int_equal(d.op[1].mem.base, ZYDIS_REGISTER_NONE);
        assert_false(d.in.attributes & ZYDIS_ATTRIB_IS_RELATIVE);
    }
}

static void prefixes_of_memory_forms_survive(void **state) {
    (void)state;
    u8 code[32];
    struct emit e;
    struct decoded d;
    struct host_mem m = {.base = H_R12, .index = H_RCX, .scale = 4, .disp = 8, .window = true};
    emit_into(code, sizeof code, &e);
    emit_op_mem(&e, (struct host_op){.opcode = 0x01, .reg = H_R12, .lock = true, .p66 = true}, m);
    decode(code, (unsigned)(e.p - code), &d);
    assert_int_equal(d.in.mnemonic, ZYDIS_MNEMONIC_ADD);
    assert_true(d.in.attributes & ZYDIS_ATTRIB_HAS_LOCK);
    assert_int_equal(d.op[1].reg.value, ZYDIS_REGISTER_R12W);
    expect_memory_operand(&d, &d.op[0], m);
    emit_into(code, sizeof code, &e);
    emit_op_mem(&e, (struct host_op){.opcode = 0x0f, .map = 3, .reg = 5, .p66 = true}, m);
    emit_imm(&e, 7, 1);
    decode(code, (unsigned)(e.p - code), &d);
    assert_int_equal(d.in.mnemonic, ZYDIS_MNEMONIC_PALIGNR);
    assert_int_equal(d.op[0].reg.value, ZYDIS_REGISTER_XMM5);
    expect_memory_operand(&d, &d.op[1], m);
    assert_int_equal(d.op[2].imm.value.u, 7);
}

/* ---- short forms and room ---- */

enum { FORMS = 14 };
static void emit_form(struct emit *e, unsigned form) {
    struct host_mem m = {.base = H_R12, .index = H_RSI, .scale = 8, .disp = 0x1000, .window = true};
    switch (form) {
    case 0:
        emit_u8(e, 0x90);
        break;
    case 1:
        emit_u32(e, 0x11223344);
        break;
    case 2:
        emit_imm(e, 0x8877665544332211, 8);
        break;
    case 3:
        emit_mov_imm32(e, H_RDX, 0xdeadbeef);
        break;
    case 4:
        emit_mov_imm32(e, H_R12, 0xdeadbeef);
        break;
    case 5:
        emit_mov_reg32(e, H_R8, H_RBX);
        break;
    case 6:
        emit_load32(e, H_R9, m);
        break;
    case 7:
        emit_load64(e, H_R9, hot_mem(HOT_STI_POLL));
        break;
    case 8:
        m = (struct host_mem){.base = H_R12, .index = H_NONE, .disp = -4, .window = true};
        emit_store32(e, m, H_RDI);
        break;
    case 9:
        emit_store_imm32(e, hot_mem(HOT_ARG1), 0xcafef00d);
        break;
    case 10:
        m.window = false;
        emit_lea32(e, H_R10, m);
        break;
    case 11:
        m.window = false;
        emit_lea64(e, H_R11, m);
        break;
    case 12:
        emit_op_reg(e, (struct host_op){.opcode = 0x81, .reg = 7}, H_R8);
        break;
    default:
        emit_op_mem(e, (struct host_op){.opcode = 0xff, .reg = 4}, hot_mem(HOT_STUB_CALLOUT));
    }
}

static void short_forms_decode_to_their_names(void **state) {
    (void)state;
    static const char *const text[FORMS] = {[3] = "mov edx, 0xDEADBEEF",
                                            [4] = "mov r12d, 0xDEADBEEF",
                                            [5] = "mov r8d, ebx",
                                            [6] = "mov r9d, gs:[r12d+esi*8+0x1000]",
                                            [7] = "mov r9, [r15+0x98]",
                                            [8] = "mov gs:[r12d-0x04], edi",
                                            [9] = "mov dword ptr [r15+0xCC], 0xCAFEF00D",
                                            [10] = "lea r10d, [r12+rsi*8+0x1000]",
                                            [11] = "lea r11, [r12+rsi*8+0x1000]",
                                            [13] = "jmp [r15+0xD0]"};
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned form = 0; form < FORMS; form++) {
        u8 code[32];
        char out[96];
        struct emit e;
        struct decoded d;
        if (!text[form])
            continue;
        emit_into(code, sizeof code, &e);
        emit_form(&e, form);
        decode(code, (unsigned)(e.p - code), &d);
        ZydisFormatterFormatInstruction(&formatter, &d.in, d.op, d.in.operand_count_visible, out,
                                        sizeof out, 0, NULL);
        assert_string_equal(out, text[form]);
    }
}

static void an_emitter_without_room_sets_its_flag_and_writes_nothing_beyond(void **state) {
    (void)state;
    for (unsigned form = 0; form < FORMS; form++) {
        u8 whole[32], code[64];
        struct emit e;
        emit_into(whole, sizeof whole, &e);
        emit_form(&e, form);
        unsigned length = (unsigned)(e.p - whole);
        for (unsigned room = 0; room <= length; room++) {
            memset(code, 0xa5, sizeof code);
            emit_into(code, room, &e);
            emit_form(&e, form);
            assert_int_equal(e.overflow, room < length);
            assert_true(e.p <= e.end);
            for (unsigned i = room; i < sizeof code; i++)
                assert_int_equal(code[i], 0xa5);
            if (room == length)
                assert_memory_equal(code, whole, length);
        }
    }
}

static void overflow_stays_set(void **state) {
    (void)state;
    u8 code[4];
    struct emit e;
    emit_into(code, 3, &e);
    emit_u32(&e, 1);
    assert_true(e.overflow);
    emit_u8(&e, 1); /* there is room for this one */
    assert_true(e.overflow);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(register_forms_name_the_registers_asked_for),
        cmocka_unit_test(byte_registers_get_the_rex_that_names_their_low_byte),
        cmocka_unit_test(opcode_maps_and_mandatory_prefixes_reach_their_instruction),
        cmocka_unit_test(memory_forms_name_base_index_scale_and_displacement),
        cmocka_unit_test(no_memory_form_is_rip_relative),
        cmocka_unit_test(prefixes_of_memory_forms_survive),
        cmocka_unit_test(short_forms_decode_to_their_names),
        cmocka_unit_test(an_emitter_without_room_sets_its_flag_and_writes_nothing_beyond),
        cmocka_unit_test(overflow_stays_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
