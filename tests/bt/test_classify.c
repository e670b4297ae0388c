/*
 * test_classify.c: the classification table against two oracles: the manual's list of sensitive and
 * privileged instructions, decoded from real encodings and translated at both rings, and Zydis'
 * table of flags. What the translator may get wrong here is dangerous in one direction only:
 * running a sensitive instruction as it is, missing a flag that is read, claiming a flag that is
 * not always written.
 */
#include "bt_fixture.h"

/* ---- the table ---- */

static void every_mnemonic_has_a_sane_row(void **state) {
    (void)state;
    for (u16 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct bt_class_row *row = bt_classify(m);
        assert_non_null(row);
        assert_true(row->class < BT_CLASS_COUNT);
        assert_true(row->privilege <= PRIV_SENSITIVE);
        assert_int_equal(row->flags_read & ~F_ARITH, 0);
        assert_int_equal(row->flags_written & ~F_ARITH, 0);
        if (row->mnemonic == 0) {
            assert_int_equal(row->class, BT_CLASS_EMULATE);
            continue;
        }
        assert_int_equal(row->mnemonic, m);
        if (!row->manual || !row->manual[0])
            fail_msg("%s names no section of the manual", insn_mnemonic_name(m));
    }
    assert_int_equal(bt_classify(ZYDIS_MNEMONIC_MAX_VALUE + 1)->class, BT_CLASS_EMULATE);
    assert_int_equal(bt_classify(UINT16_MAX)->class, BT_CLASS_EMULATE);
}

static bool copies(enum bt_class class) {
    return class == BT_CLASS_PLAIN || class == BT_CLASS_FP || class == BT_CLASS_NOP ||
           class == BT_CLASS_LEA || class == BT_CLASS_INCDEC || class == BT_CLASS_STRING;
}

static void no_row_with_a_privilege_rule_is_copied(void **state) {
    (void)state;
    for (u16 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const struct bt_class_row *row = bt_classify(m);
        if (row->privilege != PRIV_NONE && copies(row->class))
            fail_msg("%s is copied", insn_mnemonic_name(m));
    }
}

/* Zydis knows categories and privilege itself: nothing it calls privileged, I/O, interrupt, system
 * call, or an operation on AVX state is copied. */
static void nothing_that_zydis_calls_privileged_is_copied(void **state) {
    (void)state;
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    unsigned privileged = 0;
    for (u32 i = 0; i < 1u << 18; i++) {
        static const u8 prefix[] = {0x66, 0xf3, 0xf2, 0x90};
        u8 bytes[16] = {0};
        unsigned at = 0;
        if (prefix[i & 3] != 0x90)
            bytes[at++] = prefix[i & 3];
        if (i & 4)
            bytes[at++] = 0x0f;
        bytes[at++] = (u8)(i >> 3);
        bytes[at++] = (u8)((i >> 11) | ((i & 8) ? 0xc0 : 0));
        struct insn in;
        ZydisDecodedInstruction z;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        if (insn_decode(&in, bytes, 15, true, true) != INSN_OK ||
            !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, 15, &z, op)))
            continue;
        bool dangerous =
            (z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) || z.meta.category == ZYDIS_CATEGORY_IO ||
            z.meta.category == ZYDIS_CATEGORY_IOSTRINGOP ||
            z.meta.category == ZYDIS_CATEGORY_INTERRUPT ||
            z.meta.category == ZYDIS_CATEGORY_SYSCALL || z.meta.category == ZYDIS_CATEGORY_SYSTEM ||
            z.meta.category == ZYDIS_CATEGORY_XSAVE || z.meta.category == ZYDIS_CATEGORY_RDWRFSGS;
        privileged += dangerous;
        for (u8 cpl = 0; cpl <= 3; cpl += 3)
            if (dangerous && copies(bt_class_of(&in, cpl, true)))
                fail_msg("%s is copied at CPL %u", insn_mnemonic_name(in.mnemonic), cpl);
    }
    assert_true(privileged > 500);
}

/* ---- sensitive and privileged instructions, from their encodings ---- */

struct encoding {
    const char *name, *hex;
};
static const struct encoding sensitive[] = {
    /* The seventeen that do not trap (Robin and Irvine, 2000), all their forms. */
    {"sgdt", "0f 01 03"},
    {"sidt", "0f 01 0b"},
    {"sldt mem", "0f 00 03"},
    {"sldt reg", "0f 00 c0"},
    {"smsw mem", "0f 01 23"},
    {"smsw reg", "0f 01 e0"},
    {"str mem", "0f 00 0b"},
    {"str reg", "0f 00 c8"},
    {"pushf", "9c"},
    {"pushf 16", "66 9c"},
    {"popf", "9d"},
    {"popf 16", "66 9d"},
    {"lar", "0f 02 c3"},
    {"lar mem", "0f 02 03"},
    {"lsl", "0f 03 c3"},
    {"lsl mem", "0f 03 03"},
    {"verr", "0f 00 e3"},
    {"verw", "0f 00 eb"},
    {"verr mem", "0f 00 23"},
    {"verw mem", "0f 00 2b"},
    {"push es", "06"},
    {"push cs", "0e"},
    {"push ss", "16"},
    {"push ds", "1e"},
    {"push fs", "0f a0"},
    {"push gs", "0f a8"},
    {"pop es", "07"},
    {"pop ss", "17"},
    {"pop ds", "1f"},
    {"pop fs", "0f a1"},
    {"pop gs", "0f a9"},
    {"mov eax,cs", "8c c8"},
    {"mov ax,ds", "66 8c d8"},
    {"mov [ebx],ss", "8c 13"},
    {"mov ds,eax", "8e d8"},
    {"mov es,[ebx]", "8e 03"},
    {"mov ss,eax", "8e d0"},
    {"mov gs,eax", "8e e8"},
    {"call far imm", "9a 00 00 00 00 08 00"},
    {"call far mem", "ff 1b"},
    {"jmp far imm", "ea 00 00 00 00 08 00"},
    {"jmp far mem", "ff 2b"},
    {"ret far", "cb"},
    {"ret far imm", "ca 04 00"},
    {"ret far 16", "66 cb"},
    {"call far mem 16", "66 ff 1b"},
    {"int n", "cd 80"},
    {"int3", "cc"},
    {"into", "ce"},
    {"int1", "f1"},
    {"iret", "cf"},
    {"iret 16", "66 cf"},
    {"les", "c4 03"},
    {"lds", "c5 03"},
    {"lss", "0f b2 03"},
    {"lfs", "0f b4 03"},
    {"lgs", "0f b5 03"},
    {"arpl", "63 c8"},
    {"sysenter", "0f 34"},
    {"rdtsc", "0f 31"},
    {"rdpmc", "0f 33"},
    {"cpuid", "0f a2"},
    /* IOPL decides */
    {"cli", "fa"},
    {"sti", "fb"},
    {"in al,imm", "e4 10"},
    {"in eax,dx", "ed"},
    {"out imm,al", "e6 10"},
    {"out dx,eax", "ef"},
    {"insb", "6c"},
    {"rep insd", "f3 6d"},
    {"outsb", "6e"},
    {"rep outsd", "f3 6f"},
    /* privileged */
    {"hlt", "f4"},
    {"lgdt", "0f 01 13"},
    {"lidt", "0f 01 1b"},
    {"lldt", "0f 00 d0"},
    {"ltr", "0f 00 d8"},
    {"lmsw", "0f 01 f0"},
    {"clts", "0f 06"},
    {"invlpg", "0f 01 3b"},
    {"clac", "0f 01 ca"},
    {"stac", "0f 01 cb"},
    {"invd", "0f 08"},
    {"wbinvd", "0f 09"},
    {"rdmsr", "0f 32"},
    {"wrmsr", "0f 30"},
    {"sysexit", "0f 35"},
    {"mov cr0,eax", "0f 22 c0"},
    {"mov cr2,eax", "0f 22 d0"},
    {"mov cr3,eax", "0f 22 d8"},
    {"mov cr4,eax", "0f 22 e0"},
    {"mov eax,cr0", "0f 20 c0"},
    {"mov eax,cr2", "0f 20 d0"},
    {"mov eax,cr3", "0f 20 d8"},
    {"mov eax,cr4", "0f 20 e0"},
    {"mov eax,dr7", "0f 21 f8"},
    {"mov dr7,eax", "0f 23 f8"},
    {"rsm", "0f aa"},
};

/* Host code of a unit may hold the mnemonic only in a form that has nothing to do with segments,
 * control registers or far transfers. */
static void expect_rewritten(const struct encoding *enc, const struct insn *guest, const u8 *code,
                             unsigned bytes) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned at = 0; at < bytes; at += z.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + at, bytes - at, &z, op)))
            fail_msg("%s: host offset %u does not decode", enc->name, at);
        if (z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
            z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
            fail_msg("%s: privileged or far host instruction", enc->name);
        for (unsigned i = 0; i < z.operand_count; i++) {
            ZydisRegisterClass c = op[i].type == ZYDIS_OPERAND_TYPE_REGISTER
                                       ? ZydisRegisterGetClass(op[i].reg.value)
                                       : ZYDIS_REGCLASS_INVALID;
            if (c == ZYDIS_REGCLASS_SEGMENT || c == ZYDIS_REGCLASS_CONTROL ||
                c == ZYDIS_REGCLASS_DEBUG)
                fail_msg("%s: host code names a system register", enc->name);
        }
        static const u16 harmless[] = {ZYDIS_MNEMONIC_PUSH, ZYDIS_MNEMONIC_POP, ZYDIS_MNEMONIC_MOV,
                                       ZYDIS_MNEMONIC_CALL, ZYDIS_MNEMONIC_JMP, ZYDIS_MNEMONIC_RET,
                                       /* reads the host's, to which the guest's delta is added */
                                       ZYDIS_MNEMONIC_RDTSC};
        bool same = z.mnemonic == guest->mnemonic;
        for (size_t i = 0; i < ARRAY_LEN(harmless); i++)
            same &= z.mnemonic != harmless[i];
        if (same)
            fail_msg("%s stands in the host code", enc->name);
    }
}

static void sensitive_and_privileged_instructions_are_rewritten_at(u8 cpl, bool tsc) {
    struct world w;
    world_create(&w, NULL);
    set_cpl(&w, cpl);
    if (tsc)
        bt_set_tsc_base(w.bt, 0);
    for (size_t i = 0; i < ARRAY_LEN(sensitive); i++) {
        struct insn in;
        u8 bytes[16] = {0};
        hex_bytes(bytes, sensitive[i].hex);
        if (insn_decode(&in, bytes, 15, true, true) == INSN_OK) {
            if (copies(bt_class_of(&in, cpl, true)))
                fail_msg("%s is copied at CPL %u", sensitive[i].name, cpl);
        } else {
            in.mnemonic = ZYDIS_MNEMONIC_INVALID;
        }
        cache_flush(w.bt, BT_CAUSE_request);
        put8(&w, put(&w, CODE, sensitive[i].hex), 0xf4);
        u32 index = bt_translate(w.bt, CODE, CODE);
        assert_int_not_equal(index, BT_NONE);
        const struct bt_unit *u = &w.bt->unit[index];
        expect_rewritten(&sensitive[i], &in, w.bt->cache_rx + u->host, u->host_bytes);
    }
    world_destroy(&w);
}
static void sensitive_instructions_are_rewritten_at_cpl_0(void **state) {
    (void)state;
    sensitive_and_privileged_instructions_are_rewritten_at(0, false);
    sensitive_and_privileged_instructions_are_rewritten_at(0, true);
}
static void sensitive_instructions_are_rewritten_at_cpl_3(void **state) {
    (void)state;
    sensitive_and_privileged_instructions_are_rewritten_at(3, false);
    sensitive_and_privileged_instructions_are_rewritten_at(3, true);
}

static void expect_class(const char *hex, u8 cpl, bool fp_ok, enum bt_class class) {
    struct insn in;
    u8 bytes[16] = {0};
    hex_bytes(bytes, hex);
    assert_int_equal(insn_decode(&in, bytes, 15, true, true), INSN_OK);
    enum bt_class got = bt_class_of(&in, cpl, fp_ok);
    if (got != class)
        fail_msg("%s at CPL %u: %s", hex, cpl, bt_class_name(got));
}

static void privilege_decides_what_stays_inline(void **state) {
    (void)state;
    expect_class("fa", 0, true, BT_CLASS_CLI);
    expect_class("fa", 3, true, BT_CLASS_EMULATE);
    expect_class("fb", 0, true, BT_CLASS_STI);
    expect_class("fb", 3, true, BT_CLASS_EMULATE);
    expect_class("0f 35", 0, true, BT_CLASS_SYSEXIT);
    expect_class("0f 35", 3, true, BT_CLASS_EMULATE);
    expect_class("0f 20 c0", 0, true, BT_CLASS_MOV);
    expect_class("0f 20 c0", 3, true, BT_CLASS_EMULATE);
    expect_class("0f 21 c0", 0, true, BT_CLASS_EMULATE);
}

static void fp_instructions_are_emulated_while_fp_is_off(void **state) {
    (void)state;
    static const char *const hex[] = {"d9 e8",       "0f 58 c1", "66 0f 58 c1", "0f fc c1",
                                      "f2 0f 10 03", "db e3",    "9b",          "f2 0f c2 c1 00"};
    for (size_t i = 0; i < ARRAY_LEN(hex); i++) {
        expect_class(hex[i], 3, true, BT_CLASS_FP);
        expect_class(hex[i], 3, false, BT_CLASS_EMULATE);
    }
}

static void forms_that_cannot_be_lowered_are_emulated(void **state) {
    (void)state;
    expect_class("67 8b 07", 3, true, BT_CLASS_EMULATE);    /* [bx] */
    expect_class("67 8d 07", 3, true, BT_CLASS_EMULATE);    /* lea of a 16-bit address */
    expect_class("2e 8b 03", 3, true, BT_CLASS_EMULATE);    /* cs: */
    expect_class("67 a4", 3, true, BT_CLASS_EMULATE);       /* movsb through si, di */
    expect_class("64 a4", 3, true, BT_CLASS_EMULATE);       /* movsb from fs */
    expect_class("67 e2 00", 3, true, BT_CLASS_EMULATE);    /* loop on cx */
    expect_class("66 e9 00 00", 3, true, BT_CLASS_EMULATE); /* EIP truncated */
    expect_class("66 c3", 3, true, BT_CLASS_EMULATE);
    expect_class("66 60", 3, true, BT_CLASS_EMULATE);
    expect_class("66 c9", 3, true, BT_CLASS_EMULATE);
    expect_class("0f b6 e4", 3, true, BT_CLASS_EMULATE); /* movzx esp,ah */
    expect_class("0f b6 e0", 3, true, BT_CLASS_PLAIN);   /* movzx esp,al */
    expect_class("0f be c4", 3, true, BT_CLASS_PLAIN);   /* movsx eax,ah */
    expect_class("fd", 3, true, BT_CLASS_EMULATE);       /* DF=1 is not translated */
}

/* ---- flags ---- */

static u16 zydis_flags(ZydisAccessedFlagsMask mask) {
    u16 f = 0;
    f |= mask & ZYDIS_CPUFLAG_CF ? F_CF : 0;
    f |= mask & ZYDIS_CPUFLAG_PF ? F_PF : 0;
    f |= mask & ZYDIS_CPUFLAG_AF ? F_AF : 0;
    f |= mask & ZYDIS_CPUFLAG_ZF ? F_ZF : 0;
    f |= mask & ZYDIS_CPUFLAG_SF ? F_SF : 0;
    f |= mask & ZYDIS_CPUFLAG_OF ? F_OF : 0;
    return f;
}

static bool is_shift(u16 m) {
    return m == ZYDIS_MNEMONIC_SHL || m == ZYDIS_MNEMONIC_SHR || m == ZYDIS_MNEMONIC_SAR ||
           m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD || m == ZYDIS_MNEMONIC_ROL ||
           m == ZYDIS_MNEMONIC_ROR || m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR;
}

static void check_flags(const struct insn *in, const ZydisDecodedInstruction *z, const u8 *b) {
    u16 read, written;
    bt_flags_of(in, &read, &written);
    u16 tested = zydis_flags(z->cpu_flags->tested);
    u16 set = zydis_flags(z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1 |
                          z->cpu_flags->undefined);
    /* What REPE CMPS tests is the ZF that it has just written itself. */
    if (bt_classify(in->mnemonic)->class == BT_CLASS_STRING)
        tested = 0;
    if (tested & ~read)
        fail_msg("%s (%02x %02x %02x %02x): reads %#x, we say %#x",
                 insn_mnemonic_name(in->mnemonic), b[0], b[1], b[2], b[3], tested, read);
    if (written & ~set)
        fail_msg("%s (%02x %02x %02x %02x): writes %#x, we say %#x",
                 insn_mnemonic_name(in->mnemonic), b[0], b[1], b[2], b[3], set, written);
}

/* Calls f for one instruction of every opcode, prefix and register field that decodes. */
static void for_each_form(void (*f)(const struct insn *, const ZydisDecodedInstruction *,
                                    const u8 *)) {
    static const char *const heads[] = {"",         "66",    "f3",       "f2",       "0f",
                                        "66 0f",    "f3 0f", "f2 0f",    "0f 38",    "66 0f 38",
                                        "f2 0f 38", "0f 3a", "66 0f 3a", "66 f3 0f", "66 f2 0f 38"};
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    for (size_t h = 0; h < ARRAY_LEN(heads); h++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned field = 0; field < 16; field++) {
                u8 b[20] = {0};
                unsigned n = hex_bytes(b, heads[h]);
                b[n] = (u8)opcode;
                b[n + 1] = (u8)((field & 7) << 3 | (field & 8 ? 0xc1 : 0x03));
                b[n + 2] = 5; /* a shift count, if it is one */
                struct insn in;
                ZydisDecodedInstruction z;
                ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
                if (insn_decode(&in, b, 15, true, true) != INSN_OK ||
                    !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, b, 15, &z, op)) ||
                    z.mnemonic != in.mnemonic || !z.cpu_flags)
                    continue;
                f(&in, &z, b);
            }
}

static void flags_agree_with_zydis(void **state) {
    (void)state;
    for_each_form(check_flags);
}

static void check_shift(const struct insn *in, const ZydisDecodedInstruction *z, const u8 *b) {
    (void)z;
    struct insn zero = *in;
    u16 read, written;
    if (!is_shift(in->mnemonic))
        return;
    const struct insn_op *count = &in->op[in->op_count - 1];
    bool by_cl = in->op_count > 1 && count->type == OP_REG && count->reg_class == RC_GPR8 &&
                 count->reg == R_ECX;
    bt_flags_of(in, &read, &written);
    if (by_cl || (in->imm_bytes && (in->imm & 31) == 0))
        assert_int_equal(written, 0);
    else if (!(written & F_CF))
        fail_msg("%s (%02x %02x %02x %02x): CF is written", insn_mnemonic_name(in->mnemonic), b[0],
                 b[1], b[2], b[3]);
    zero.imm = 32; /* masked to zero */
    bt_flags_of(&zero, &read, &written);
    if (zero.imm_bytes)
        assert_int_equal(written, 0);
}

static void a_shift_that_may_count_zero_writes_no_flag_for_sure(void **state) {
    (void)state;
    for_each_form(check_shift);
}

static void check_string(const struct insn *in, const ZydisDecodedInstruction *z, const u8 *b) {
    (void)z, (void)b;
    u16 read, written;
    if (bt_classify(in->mnemonic)->class != BT_CLASS_STRING || !(in->rep || in->repne))
        return;
    bt_flags_of(in, &read, &written);
    assert_int_equal(written, 0); /* ECX may be zero */
}

static void a_repeated_string_writes_no_flag_for_sure(void **state) {
    (void)state;
    for_each_form(check_string);
}

static void leaving_translated_code_shows_every_flag(void **state) {
    (void)state;
    for (u16 m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        struct insn in = {.mnemonic = m};
        u16 read, written;
        bt_flags_of(&in, &read, &written);
        if (bt_classify(m)->class == BT_CLASS_EMULATE)
            assert_int_equal(read, F_ARITH);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mnemonic_has_a_sane_row),
        cmocka_unit_test(no_row_with_a_privilege_rule_is_copied),
        cmocka_unit_test(nothing_that_zydis_calls_privileged_is_copied),
        cmocka_unit_test(sensitive_instructions_are_rewritten_at_cpl_0),
        cmocka_unit_test(sensitive_instructions_are_rewritten_at_cpl_3),
        cmocka_unit_test(privilege_decides_what_stays_inline),
        cmocka_unit_test(fp_instructions_are_emulated_while_fp_is_off),
        cmocka_unit_test(forms_that_cannot_be_lowered_are_emulated),
        cmocka_unit_test(flags_agree_with_zydis),
        cmocka_unit_test(a_shift_that_may_count_zero_writes_no_flag_for_sure),
        cmocka_unit_test(a_repeated_string_writes_no_flag_for_sure),
        cmocka_unit_test(leaving_translated_code_shows_every_flag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
