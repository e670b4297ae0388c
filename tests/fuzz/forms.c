/*
 * forms.c: which instructions there are. Every opcode of the maps 0, 0F, 0F38 and 0F3A is decoded
 * with every mandatory prefix and ModRM byte; what the CPU model announces and the list below does
 * not exclude is a form. ModRM fields that only name operands are left open.
 */
#include "fuzz.h"

#include <cpuid.h>
#include <stdlib.h>

#define MAX_FORMS 4096
struct fuzz_form fuzz_form[MAX_FORMS];
unsigned fuzz_forms;

/* ---- What is left out, and why ---- */

static const char why_values[] = "its value is the moment's or the host's";
static const char why_kernel[] = "a call of the host's kernel";
static const char why_feature[] = "not announced by the CPU model";
static const char why_newer[] = "F3 makes it TZCNT or LZCNT on this host";
static const char why_0d[] = "a no-operation on Intel, #UD on AMD (APM volume 3, PREFETCH)";
static const char why_invalid[] = "not an instruction of 32-bit mode";

static const struct {
    u16 mnemonic;
    const char *why;
} exclusions[] = {
    {ZYDIS_MNEMONIC_SYSENTER, why_kernel}, {ZYDIS_MNEMONIC_SYSCALL, why_kernel},
    {ZYDIS_MNEMONIC_RDTSC, why_values},    {ZYDIS_MNEMONIC_RDTSCP, why_values},
    {ZYDIS_MNEMONIC_RDPMC, why_values},    {ZYDIS_MNEMONIC_CPUID, why_values},
    {ZYDIS_MNEMONIC_RDRAND, why_values},   {ZYDIS_MNEMONIC_RDSEED, why_values},
};

/* Zydis' instruction sets that depend on nothing but the i386, or on a CPUID bit. word: 0 leaf 1's
 * EDX, 1 its ECX, 2 always, 3 leaf 7's EBX, 4 leaf 80000001h's ECX. */
static const struct {
    u8 isa_set, word, bit;
} announced_sets[] = {
    {ZYDIS_ISA_SET_I86, 2, 0},           {ZYDIS_ISA_SET_I186, 2, 0},
    {ZYDIS_ISA_SET_I286PROTECTED, 2, 0}, {ZYDIS_ISA_SET_I286REAL, 2, 0},
    {ZYDIS_ISA_SET_I386, 2, 0},          {ZYDIS_ISA_SET_I486, 2, 0},
    {ZYDIS_ISA_SET_I486REAL, 2, 0},      {ZYDIS_ISA_SET_PPRO, 2, 0},
    {ZYDIS_ISA_SET_PAUSE, 2, 0},         {ZYDIS_ISA_SET_FAT_NOP, 2, 0},
    {ZYDIS_ISA_SET_PREFETCH_NOP, 2, 0},  {ZYDIS_ISA_SET_LAHF, 2, 0},
    {ZYDIS_ISA_SET_X87, 0, 0},           {ZYDIS_ISA_SET_PENTIUMREAL, 0, 8},
    {ZYDIS_ISA_SET_CMOV, 0, 15},         {ZYDIS_ISA_SET_FCMOV, 0, 15},
    {ZYDIS_ISA_SET_CLFSH, 0, 19},        {ZYDIS_ISA_SET_PENTIUMMMX, 0, 23},
    {ZYDIS_ISA_SET_FXSAVE, 0, 24},       {ZYDIS_ISA_SET_SSE, 0, 25},
    {ZYDIS_ISA_SET_SSEMXCSR, 0, 25},     {ZYDIS_ISA_SET_SSE_PREFETCH, 0, 25},
    {ZYDIS_ISA_SET_SSE2, 0, 26},         {ZYDIS_ISA_SET_SSE2MMX, 0, 26},
    {ZYDIS_ISA_SET_SSE3, 1, 0},          {ZYDIS_ISA_SET_SSE3X87, 1, 0},
    {ZYDIS_ISA_SET_SSSE3, 1, 9},         {ZYDIS_ISA_SET_SSSE3MMX, 1, 9},
    {ZYDIS_ISA_SET_SSE4, 1, 19},         {ZYDIS_ISA_SET_SSE42, 1, 20},
    {ZYDIS_ISA_SET_MOVBE, 1, 22},        {ZYDIS_ISA_SET_POPCNT, 1, 23},
    {ZYDIS_ISA_SET_PCLMULQDQ, 1, 1},     {ZYDIS_ISA_SET_AES, 1, 25},
    {ZYDIS_ISA_SET_ADOX_ADCX, 3, 19},    {ZYDIS_ISA_SET_SSE4A, 4, 6},
};

/* Zydis' sets whose CPUID bits no CPU model has, by the beginnings of their names. */
static const char *const absent_sets[] = {
    /* clang-format off */
    "AVX", "FMA", "F16C", "BMI", "TBM", "XOP", "AMD3DNOW", "SHA", "GFNI", "VAES", "VPCLMUL",
    "VTX", "SVM", "SMX", "CET", "PKU", "XSAVE", "TSX", "RTM", "CLWB", "CLFLUSHOPT", "CLZERO",
    "MOVDIR", "RDPID", "RDPRU", "RDSEED", "RDRAND", "MONITOR", "WAITPKG", "SGX", "ENQCMD",
    "SERIALIZE", "HRESET", "KEYLOCKER", "PCONFIG", "INVPCID", "SMAP", "MCOMMIT", "SNP",
    "PREFETCHWT1", "PADLOCK", "TDX", "RDTSCP", "AMD_INVLPGB", "AMD", "VMFUNC", "RDPMC", "LWP",
    "PT"
    /* clang-format on */
};

enum fuzz_announcement fuzz_announcement(const ZydisDecodedInstruction *zi,
                                         const struct cpu_model *model) {
    const u32 words[] = {model->f1_edx, model->f1_ecx, ~0u, model->f7_ebx, model->x1_ecx};
    for (unsigned i = 0; i < ARRAY_LEN(announced_sets); i++)
        if (announced_sets[i].isa_set == zi->meta.isa_set)
            return words[announced_sets[i].word] >> announced_sets[i].bit & 1 ? FUZZ_ANNOUNCED
                                                                              : FUZZ_NOT_ANNOUNCED;
    const char *name = ZydisISASetGetString(zi->meta.isa_set);
    for (unsigned i = 0; i < ARRAY_LEN(absent_sets); i++)
        if (!strncmp(name, absent_sets[i], strlen(absent_sets[i])))
            return FUZZ_NOT_ANNOUNCED;
    return FUZZ_UNKNOWN_SET;
}

static bool announced(const struct insn *in, const struct cpu_model *model) {
    static const ZydisDecoder decoders[2] = {
        {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_16, .stack_width = ZYDIS_STACK_WIDTH_16},
        {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_32, .stack_width = ZYDIS_STACK_WIDTH_32}};
    const ZydisDecoder *decoder = &decoders[insn_was_code32(in)];
    ZydisDecodedInstruction zi;
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder, NULL, in->bytes, in->length, &zi)) &&
           fuzz_announcement(&zi, model) == FUZZ_ANNOUNCED;
}

void fuzz_add_host_features(struct cpu_model *model) {
    u32 eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        model->f1_ecx |= ecx & (BIT(1) | BIT(25));
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        model->f7_ebx |= ebx & (BIT(3) | BIT(19)); /* SHA: AMD does not check alignment */
    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx))
        model->x1_ecx |= ecx & (BIT(5) | BIT(6));
}

const char *fuzz_excluded(const struct insn *in, const struct cpu_model *model) {
    for (unsigned i = 0; i < ARRAY_LEN(exclusions); i++)
        if (exclusions[i].mnemonic == in->mnemonic)
            return exclusions[i].why;
    if (in->mnemonic == ZYDIS_MNEMONIC_INT && (u8)in->imm == 0x80)
        return why_kernel;
    if (in->rep && in->mnemonic == ZYDIS_MNEMONIC_BSF)
        return model->f7_ebx & BIT(3) ? NULL : why_newer;
    if (in->rep && in->mnemonic == ZYDIS_MNEMONIC_BSR)
        return model->x1_ecx & BIT(5) ? NULL : why_newer;
    if (in->map == 1 && in->opcode == 0x0d && in->modrm >= 0xc0)
        return why_0d;
    return announced(in, model) ? NULL : why_feature;
}

bool fuzz_decode(const struct fuzz_case *c, u32 at, struct insn *out) {
    return at < c->code_bytes &&
           insn_decode(out, c->code + at, INSN_MAX_BYTES, !c->code16, !c->stack16) == INSN_OK;
}

/* ---- Enumeration ---- */

static struct {
    const char *why;
    u16 mnemonic;
    u32 encodings;
} excluded[2048];
static unsigned excluded_count;

static void note_excluded(u16 mnemonic, const char *why) {
    for (unsigned i = 0; i < excluded_count; i++)
        if (excluded[i].why == why && excluded[i].mnemonic == mnemonic) {
            excluded[i].encodings++;
            return;
        }
    if (excluded_count < ARRAY_LEN(excluded)) {
        excluded[excluded_count].why = why;
        excluded[excluded_count].mnemonic = mnemonic;
        excluded[excluded_count++].encodings = 1;
    }
}

/* What no mnemonic names; the code says so where it leaves them out. */
static const char *const excluded_states[] = {
    "INT 80h: a call of the host's kernel",
    "F2 and F3 before LOOPE and LOOPNE: reserved, SDM volume 2, 2.1.1 \"Instruction Prefixes\"",
    "LOCK MOV CR0: MOV CR8 on AMD (CPUID 80000001h.ECX[4])",
    "IRET with NT set: a task switch, which long mode does not have",
    "far transfers to 64-bit code: the guest has none",
    "single steps on 16-bit stacks: IRETQ does not load all of ESP there",
    "SGDT, SIDT, SLDT, STR, SMSW in sequences, single steps or LDT segments: emulated by Linux",
};

void fuzz_print_excluded(FILE *out) {
    fprintf(out, "# excluded: reason, mnemonic, encodings (prefix x ModRM)\n");
    for (unsigned i = 0; i < excluded_count; i++)
        fprintf(out, "%s\t%s\t%u\n", excluded[i].why, insn_mnemonic_name(excluded[i].mnemonic),
                excluded[i].encodings);
    fprintf(out, "# left out in any form\n");
    for (unsigned i = 0; i < ARRAY_LEN(excluded_states); i++)
        fprintf(out, "%s\n", excluded_states[i]);
}

static unsigned put_opcode(u8 *out, u8 prefix, u8 map, u8 opcode) {
    unsigned n = 0;
    if (prefix)
        out[n++] = prefix;
    if (map)
        out[n++] = 0x0f;
    if (map > 1)
        out[n++] = map == 2 ? 0x38 : 0x3a;
    out[n++] = opcode;
    return n;
}

/* Mnemonic of an encoding that may be generated, else 0. */
static u16 probe(const struct cpu_model *model, u8 prefix, u8 map, u8 opcode, u8 modrm,
                 bool *has_modrm) {
    struct insn in;
    u8 code[24] = {0};
    code[put_opcode(code, prefix, map, opcode)] = modrm;
    if (insn_decode(&in, code, 15, true, true) != INSN_OK) {
        note_excluded(0, why_invalid);
        return 0;
    }
    *has_modrm |= in.has_modrm;
    const char *why = fuzz_excluded(&in, model);
    if (why)
        note_excluded(in.mnemonic, why);
    return why ? 0 : in.mnemonic;
}

static void add(u8 prefix, u8 map, u8 opcode, bool has_modrm, bool memory, u8 reg, u8 rm,
                u16 mnemonic) {
    RF_ASSERT(fuzz_forms < MAX_FORMS);
    fuzz_form[fuzz_forms++] = (struct fuzz_form){.map = map,
                                                 .opcode = opcode,
                                                 .prefix = prefix,
                                                 .has_modrm = has_modrm,
                                                 .memory = memory,
                                                 .reg = reg,
                                                 .rm = rm,
                                                 .mnemonic = mnemonic};
}

static bool all_equal(const u16 *m, unsigned step, unsigned count) {
    for (unsigned i = 1; i < count; i++)
        if (m[i * step] != m[0])
            return false;
    return true;
}

/* Forms of one opcode under one prefix with mod = 3 (register) or less. mnemonic[reg * 8 + rm]. */
static void add_modrm_forms(u8 prefix, u8 map, u8 opcode, bool memory, const u16 mnemonic[64]) {
    bool rm_open = true;
    for (unsigned reg = 0; reg < 8; reg++)
        rm_open &= all_equal(mnemonic + reg * 8, 1, 8);
    bool reg_open = rm_open && all_equal(mnemonic, 8, 8);
    for (unsigned reg = 0; reg < (reg_open ? 1u : 8u); reg++)
        for (unsigned rm = 0; rm < (rm_open ? 1u : 8u); rm++)
            if (mnemonic[reg * 8 + rm])
                add(prefix, map, opcode, true, memory, reg_open ? FUZZ_ANY : (u8)reg,
                    rm_open ? FUZZ_ANY : (u8)rm, mnemonic[reg * 8 + rm]);
}

static void enumerate_opcode(const struct cpu_model *model, u8 prefix, u8 map, u8 opcode) {
    bool has_modrm = false;
    for (unsigned memory = 0; memory < 2; memory++) {
        u16 mnemonic[64];
        for (unsigned i = 0; i < 64; i++) {
            /* One memory operand stands for all: [ebx]. */
            u8 modrm = (u8)(memory ? (i & 0x38) | 3 : 0xc0 | i);
            if (i == 1 && !has_modrm && mnemonic[0])
                break;
            mnemonic[i] = probe(model, prefix, map, opcode, modrm, &has_modrm);
        }
        if (has_modrm)
            add_modrm_forms(prefix, map, opcode, memory, mnemonic);
        else if (mnemonic[0] && !memory)
            add(prefix, map, opcode, false, false, FUZZ_ANY, FUZZ_ANY, mnemonic[0]);
    }
}

/* F2 and F3 mean nothing to the rest of the one-byte opcodes; the generator puts them there now and
 * then. */
static bool repeatable(u8 map, u8 opcode) {
    return map != 0 || opcode == 0x90 || (opcode >= 0x6c && opcode <= 0x6f) ||
           (opcode >= 0xa4 && opcode <= 0xaf);
}

void fuzz_forms_enumerate(const struct cpu_model *model, const char *without) {
    static const u8 prefixes[] = {0, 0x66, 0xf2, 0xf3};
    static const u8 not_opcodes[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64,
                                     0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};
    fuzz_forms = excluded_count = 0;
    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            if (map == 0 && memchr(not_opcodes, (int)opcode, sizeof not_opcodes))
                continue;
            if (map == 1 && (opcode == 0x38 || opcode == 0x3a || opcode == 0x0f))
                continue;
            for (unsigned p = 0; p < (repeatable((u8)map, (u8)opcode) ? 4 : 2); p++)
                enumerate_opcode(model, prefixes[p], (u8)map, (u8)opcode);
        }
    unsigned kept = 0;
    for (unsigned i = 0; i < fuzz_forms; i++)
        if (!without || strcmp(insn_mnemonic_name(fuzz_form[i].mnemonic), without))
            fuzz_form[kept++] = fuzz_form[i];
    fuzz_forms = kept;
}
