/*
 * undefined.c: the flags that the manual leaves undefined, by mnemonic, and what this host does
 * with them. Each row names the entry of SDM volume 2 whose paragraph "Flags Affected" says so.
 */
#include "fuzz.h"

#include <cpuid.h>
#include <stdlib.h>

static const struct row {
    u16 mnemonic;
    u16 flags;
    const char *entry;
} rows[] = {
#define ROW(name, flags, entry)                                                                    \
    { ZYDIS_MNEMONIC_##name, (flags), entry }
    ROW(AAA, F_OF | F_SF | F_ZF | F_PF, "AAA"),
    ROW(AAS, F_OF | F_SF | F_ZF | F_PF, "AAS"),
    ROW(AAD, F_OF | F_AF | F_CF, "AAD"),
    ROW(AAM, F_OF | F_AF | F_CF, "AAM"),
    ROW(DAA, F_OF, "DAA"),
    ROW(DAS, F_OF, "DAS"),
    ROW(AND, F_AF, "AND"),
    ROW(OR, F_AF, "OR"),
    ROW(XOR, F_AF, "XOR"),
    ROW(TEST, F_AF, "TEST"),
    ROW(BSF, F_CF | F_OF | F_SF | F_AF | F_PF, "BSF, TZCNT"),
    ROW(BSR, F_CF | F_OF | F_SF | F_AF | F_PF, "BSR, LZCNT"),
    ROW(BT, F_OF | F_SF | F_AF | F_PF, "BT"),
    ROW(BTS, F_OF | F_SF | F_AF | F_PF, "BTS"),
    ROW(BTR, F_OF | F_SF | F_AF | F_PF, "BTR"),
    ROW(BTC, F_OF | F_SF | F_AF | F_PF, "BTC"),
    ROW(DIV, F_ARITH, "DIV"),
    ROW(IDIV, F_ARITH, "IDIV"),
    ROW(MUL, F_SF | F_ZF | F_AF | F_PF, "MUL"),
    ROW(IMUL, F_SF | F_ZF | F_AF | F_PF, "IMUL"),
    /* OF is defined for a count of 1 only, AF never; CF not for counts beyond the operand. */
    ROW(SHL, F_OF | F_AF | F_CF, "SAL/SAR/SHL/SHR"),
    ROW(SHR, F_OF | F_AF | F_CF, "SAL/SAR/SHL/SHR"),
    ROW(SAR, F_OF | F_AF, "SAL/SAR/SHL/SHR"),
    ROW(ROL, F_OF, "RCL/RCR/ROL/ROR"),
    ROW(ROR, F_OF, "RCL/RCR/ROL/ROR"),
    ROW(RCL, F_OF, "RCL/RCR/ROL/ROR"),
    ROW(RCR, F_OF, "RCL/RCR/ROL/ROR"),
    /* All of them, and the destination, for counts beyond the operand. */
    ROW(SHLD, F_ARITH, "SHLD"),
    ROW(SHRD, F_ARITH, "SHRD"),
#undef ROW
};

/* What was seen of each flag after lone instructions. */
static struct seen { u64 cases, set[32], changed[32]; } seen[ARRAY_LEN(rows)];

static int find(u16 mnemonic) {
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].mnemonic == mnemonic)
            return (int)i;
    return -1;
}

/* The count of a shift or rotate with an immediate count; 0 when it is in CL. */
static unsigned known_count(const struct insn *in) {
    if (in->map == 0 && (in->opcode == 0xd0 || in->opcode == 0xd1))
        return 1;
    return in->imm_bytes ? (unsigned)in->imm & 31 : 0;
}

u32 fuzz_undefined_flags(const struct insn *in) {
    int i = find(in->mnemonic);
    if (i < 0)
        return 0;
    u32 flags = rows[i].flags;
    if (in->rep && (in->mnemonic == ZYDIS_MNEMONIC_BSF || in->mnemonic == ZYDIS_MNEMONIC_BSR))
        return flags & ~(u32)F_CF; /* TZCNT, LZCNT */
    bool shift = in->mnemonic == ZYDIS_MNEMONIC_SHL || in->mnemonic == ZYDIS_MNEMONIC_SHR;
    bool rotate =
        flags == F_OF && in->mnemonic != ZYDIS_MNEMONIC_DAA && in->mnemonic != ZYDIS_MNEMONIC_DAS;
    if (in->imm_bytes && !known_count(in) && (shift || rotate || flags == (F_OF | F_AF)))
        return 0; /* a count of 0 changes none */
    unsigned count = known_count(in), bits = in->op[0].bytes * 8u;
    if (shift && count && count < bits)
        flags &= ~(u32)F_CF;
    if ((shift || rotate || in->mnemonic == ZYDIS_MNEMONIC_SAR) && count == 1)
        flags &= ~(u32)F_OF;
    if ((in->mnemonic == ZYDIS_MNEMONIC_SHLD || in->mnemonic == ZYDIS_MNEMONIC_SHRD) && count &&
        count <= bits)
        flags = F_AF | (count == 1 ? 0 : F_OF);
    return flags;
}

/* What the instruction leaves defined, whatever its operands: the arithmetic that has no count. */
static u32 defined_flags(const struct insn *in) {
    if (in->map != 0)
        return 0;
    bool alu = in->opcode < 0x40 && (in->opcode & 7) < 6;
    bool group1 = in->opcode >= 0x80 && in->opcode <= 0x83;
    bool test =
        in->opcode == 0x84 || in->opcode == 0x85 || in->opcode == 0xa8 || in->opcode == 0xa9;
    return alu || group1 || test ? F_ARITH & ~fuzz_undefined_flags(in) : 0;
}

static bool straight(const struct insn *in) {
    return !(in->map == 0 && ((in->opcode & 0xf0) == 0x70 || in->opcode >= 0xe0 ||
                              in->opcode == 0x9a || (in->opcode & 0xf6) == 0xc2)) &&
           !(in->map == 1 && (in->opcode & 0xf0) == 0x80);
}

/* A later instruction defines a flag again where no branch can go around it. */
u32 fuzz_case_undefined(const struct fuzz_case *c) {
    struct insn in;
    u32 flags = 0;
    bool follows = true;
    for (unsigned i = 0; i < c->insns; i++)
        follows &= fuzz_decode(c, c->insn_start[i], &in) && straight(&in);
    for (unsigned i = 0; i < c->insns; i++)
        if (fuzz_decode(c, c->insn_start[i], &in)) {
            flags &= follows ? ~defined_flags(&in) : ~0u;
            flags |= fuzz_undefined_flags(&in);
        }
    return flags;
}

void fuzz_note_undefined(const struct fuzz_case *c, const struct fuzz_result *native) {
    struct insn in;
    if (!c->lone || native->end != FUZZ_DONE || !fuzz_decode(c, 0, &in))
        return;
    int row = find(in.mnemonic);
    u32 flags = fuzz_undefined_flags(&in);
    if (row < 0 || !flags)
        return;
    seen[row].cases++;
    for (unsigned bit = 0; bit < 12; bit++)
        if (flags >> bit & 1) {
            seen[row].set[bit] += native->eflags >> bit & 1;
            seen[row].changed[bit] += (native->eflags ^ c->eflags) >> bit & 1;
        }
}

static void print_cpu(FILE *out) {
    u32 brand[12] = {0}, eax, ebx, ecx, edx;
    for (u32 i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &brand[i * 4], &brand[i * 4 + 1], &brand[i * 4 + 2],
                    &brand[i * 4 + 3]);
    eax = 0;
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    fprintf(out, "# host CPU: %.48s, signature %08x\n", (const char *)brand, eax);
}

void fuzz_print_undefined(FILE *out) {
    static const struct {
        u8 bit;
        const char *name;
    } names[] = {{0, "CF"}, {2, "PF"}, {4, "AF"}, {6, "ZF"}, {7, "SF"}, {11, "OF"}};
    print_cpu(out);
    fprintf(out,
            "# undefined flags: mnemonic, SDM volume 2 entry, cases, then each undefined flag\n"
            "# with the percentage of cases that left it set and that changed it\n");
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        if (!seen[i].cases)
            continue;
        fprintf(out, "%s\t%s\t%llu", insn_mnemonic_name(rows[i].mnemonic), rows[i].entry,
                (unsigned long long)seen[i].cases);
        for (unsigned k = 0; k < ARRAY_LEN(names); k++)
            if (rows[i].flags >> names[k].bit & 1)
                fprintf(out, "\t%s set %.1f%% changed %.1f%%", names[k].name,
                        100.0 * (double)seen[i].set[names[k].bit] / (double)seen[i].cases,
                        100.0 * (double)seen[i].changed[names[k].bit] / (double)seen[i].cases);
        fprintf(out, "\n");
    }
}

/* ---- The record of a CPU model ---- */

static const char *behaviour(const struct seen *s, unsigned bit) {
    return s->changed[bit] == 0      ? "kept"
           : s->set[bit] == 0        ? "0"
           : s->set[bit] == s->cases ? "1"
                                     : "varies";
}

void fuzz_print_record(FILE *out) {
    static const struct {
        u8 bit;
        const char *name;
    } names[] = {{0, "CF"}, {2, "PF"}, {4, "AF"}, {6, "ZF"}, {7, "SF"}, {11, "OF"}};
    struct fuzz_host h = fuzz_host_cpu();
    fprintf(out,
            "# %s family %02x model %02x: what becomes of the flags that the manual leaves\n"
            "# undefined: mnemonic, entry of SDM volume 2 (\"Flags Affected\"), flags\n",
            h.vendor, h.family, h.model);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        fprintf(out, "%s\t%s", insn_mnemonic_name(rows[i].mnemonic), rows[i].entry);
        for (unsigned k = 0; k < ARRAY_LEN(names); k++)
            if (rows[i].flags >> names[k].bit & 1)
                fprintf(out, "\t%s %s", names[k].name,
                        seen[i].cases ? behaviour(&seen[i], names[k].bit) : "not seen");
        fprintf(out, "\n");
    }
}

unsigned fuzz_check_record(const char *directory) {
    char path[4096], name[64], line[256], *now = NULL, *at;
    size_t bytes = 0;
    unsigned bad = 0;
    fuzz_host_record_name(name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r"), *out = open_memstream(&now, &bytes);
    fuzz_print_record(out);
    fclose(out);
    if (!file)
        printf("fuzz_native: no record %s of this CPU: tests/README.md says how to make one\n",
               name);
    at = now;
    while (file && fgets(line, sizeof line, file)) {
        size_t n = strlen(line);
        if (strncmp(at, line, n)) {
            printf("fuzz_native: %s says: %s", name, line);
            bad++;
        }
        at += strcspn(at, "\n");
        at += *at == '\n';
    }
    if (file)
        fclose(file);
    free(now);
    return bad;
}
