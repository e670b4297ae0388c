/*
 * coverage.c: the table of mnemonics and operand forms: how often each ran on the host, how it
 * ended, with which prefixes, or why it is left out; and the check that none is forgotten.
 *
 * The rows come from the decoder itself: every byte string of prefix, map, opcode and ModRM that
 * Zydis takes in 32-bit mode, VEX, EVEX, XOP and 3DNow! among them. The generator's list of forms
 * has no part in it, so that what falls out of that list is missed here.
 */
#include "fuzz.h"

#include <stdlib.h>

#define MAX_ROWS 8192u /* a power of two */

enum decoration {
    WITH_LOCK,
    WITH_REPEAT,
    WITH_66,
    WITH_67,
    WITH_SEGMENT,
    IN_16BIT_CODE,
    STEPPED,
    DECORATIONS
};
static const char *const decoration_names[DECORATIONS] = {"LOCK", "REP",    "66", "67",
                                                          "seg",  "code16", "TF"};

struct row {
    u16 mnemonic;
    char operands[44];
    const char *why;  /* left out */
    bool in_universe; /* found by the decoder, not only met in a case */
    bool memory, lockable, repeatable;
    u64 cases, done, fault[32], with[DECORATIONS]; /* with: executed */
};
static struct row rows[MAX_ROWS];
static unsigned row_count;

/* Instruction sets that the models never announce, and their encodings. */
static struct {
    const char *name;
    u64 encodings;
    bool known; /* to forms.c */
} left_out_sets[256];

/* ---- Names of forms ---- */

static const char *operand_name(const ZydisDecodedOperand *op, char text[24]) {
    static const char *const classes[] = {
        [ZYDIS_REGCLASS_GPR8] = "r8",    [ZYDIS_REGCLASS_GPR16] = "r16",
        [ZYDIS_REGCLASS_GPR32] = "r32",  [ZYDIS_REGCLASS_X87] = "st",
        [ZYDIS_REGCLASS_MMX] = "mm",     [ZYDIS_REGCLASS_XMM] = "xmm",
        [ZYDIS_REGCLASS_SEGMENT] = "sr", [ZYDIS_REGCLASS_CONTROL] = "cr",
        [ZYDIS_REGCLASS_DEBUG] = "dr"};
    unsigned class;
    switch (op->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        class = ZydisRegisterGetClass(op->reg.value);
        snprintf(text, 24, "%s",
                 class < ARRAY_LEN(classes) && classes[class] ? classes[class] : "reg");
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN) /* LEA: no access, no size */
            snprintf(text, 24, "m");
        else
            snprintf(text, 24, "m%u", op->size);
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        snprintf(text, 24, "%s%u", op->imm.is_relative ? "rel" : "imm", op->size);
        break;
    default:
        snprintf(text, 24, "ptr%u", op->size);
    }
    return text;
}

/* Visible operands, and for strings and the stack the operand size. */
static void name_operands(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op,
                          char *out, size_t bytes) {
    char text[24];
    size_t n = 0;
    out[0] = 0;
    for (unsigned i = 0; i < zi->operand_count_visible && n < bytes - 1; i++)
        n += (size_t)snprintf(out + n, bytes - n, "%s%s", i ? "," : "", operand_name(&op[i], text));
    if (zi->operand_count_visible == 0)
        snprintf(out, bytes, "-");
}

static struct row *find_row(u16 mnemonic, const char *operands) {
    u32 hash = mnemonic * 0x9e3779b1u;
    for (const char *p = operands; *p; p++)
        hash = (hash ^ (u8)*p) * 0x01000193u;
    for (u32 i = hash % MAX_ROWS;; i = (i + 1) % MAX_ROWS) {
        struct row *r = &rows[i];
        if (r->operands[0] && r->mnemonic == mnemonic && !strcmp(r->operands, operands))
            return r;
        if (r->operands[0])
            continue;
        RF_ASSERT(++row_count < MAX_ROWS / 2);
        r->mnemonic = mnemonic;
        snprintf(r->operands, sizeof r->operands, "%s", operands);
        return r;
    }
}

/* ---- The universe ---- */

struct decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const u8 *code, size_t bytes, bool code16, struct decoded *d) {
    static const ZydisDecoder decoders[2] = {
        {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_32, .stack_width = ZYDIS_STACK_WIDTH_32},
        {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_16, .stack_width = ZYDIS_STACK_WIDTH_16}};
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[code16], code, bytes, &d->insn, d->op));
}

static void note_left_out_set(const ZydisDecodedInstruction *zi, bool known) {
    unsigned set = zi->meta.isa_set;
    if (set < ARRAY_LEN(left_out_sets)) {
        left_out_sets[set].name = ZydisISASetGetString(zi->meta.isa_set);
        left_out_sets[set].encodings++;
        left_out_sets[set].known |= known;
    }
}

/* With an operand in DS, which prefixes can move. */
static bool has_memory(const struct decoded *d) {
    for (unsigned i = 0; i < d->insn.operand_count; i++)
        if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            d->op[i].mem.type == ZYDIS_MEMOP_TYPE_MEM && d->op[i].mem.segment == ZYDIS_REGISTER_DS)
            return true;
    return false;
}

/* One encoding; true when it has a ModRM byte. */
static bool look_at(const u8 *code, size_t bytes, const struct cpu_model *model) {
    struct decoded d;
    struct insn in;
    char operands[44];
    if (!decode(code, bytes, false, &d))
        return true;
    bool modrm = d.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    enum fuzz_announcement a = fuzz_announcement(&d.insn, model);
    if (a != FUZZ_ANNOUNCED) {
        note_left_out_set(&d.insn, a == FUZZ_NOT_ANNOUNCED);
        return modrm;
    }
    name_operands(&d.insn, d.op, operands, sizeof operands);
    struct row *r = find_row((u16)d.insn.mnemonic, operands);
    bool ours = insn_decode(&in, code, bytes, true, true) == INSN_OK;
    const char *why = ours ? fuzz_excluded(&in, model) : "not an instruction to our decoder";
    /* One encoding that is generated is enough for a form. */
    if (!r->in_universe || !why)
        r->why = why;
    r->in_universe = true;
    r->memory |= has_memory(&d);
    r->lockable |= (d.insn.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    r->repeatable |= (d.insn.attributes &
                      (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
    return modrm;
}

/* Legacy maps, each under the prefixes that can change what an opcode is. */
static void legacy_opcodes(const struct cpu_model *model) {
    static const u8 prefixes[] = {0, 0x66, 0xf2, 0xf3, 0xf0};
    static const u8 no_opcodes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67,
                                    0xf0, 0xf2, 0xf3, 0x62, 0xc4, 0xc5, 0x8f};
    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            if (map == 0 && (opcode == 0x0f || memchr(no_opcodes, (int)opcode, 11)))
                continue;
            if (map == 1 && (opcode == 0x38 || opcode == 0x3a))
                continue;
            for (unsigned p = 0; p < ARRAY_LEN(prefixes) * 2; p++)
                for (unsigned modrm = 0; modrm < 256; modrm++) {
                    u8 code[24] = {0};
                    unsigned n = 0;
                    if (p & 1) /* with a 16-bit address */
                        code[n++] = 0x67;
                    if (prefixes[p / 2])
                        code[n++] = prefixes[p / 2];
                    if (map)
                        code[n++] = 0x0f;
                    if (map > 1)
                        code[n++] = map == 2 ? 0x38 : 0x3a;
                    code[n++] = (u8)opcode;
                    code[n] = (u8)modrm;
                    if (!look_at(code, 15, model))
                        break;
                }
        }
}

/* VEX, XOP and EVEX by maps, pp, W and L, and 3DNow! by its immediate. */
static void extended_opcodes(const struct cpu_model *model) {
    static const u8 modrms[] = {0xc1, 0x01, 0xc8, 0xd0, 0xd8, 0xe0, 0xe8, 0xf0,
                                0xf8, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38};
    for (unsigned bits = 0; bits < 16 * 16; bits++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned m = 0; m < ARRAY_LEN(modrms); m++) {
                u8 map = (u8)(bits >> 4), pp = (u8)(bits & 3), w = (u8)(bits << 5 & 0x80),
                   l = (u8)(bits >> 1 & 4);
                u8 vex[16] = {0xc4, (u8)(0xe0 | map), (u8)(w | 0x78 | l | pp), (u8)opcode,
                              modrms[m]};
                u8 xop[16] = {0x8f, (u8)(0xe0 | map), (u8)(w | 0x78 | l | pp), (u8)opcode,
                              modrms[m]};
                u8 evex[16] = {0x62,
                               (u8)(0xf0 | (map & 7)),
                               (u8)(w | 0x7c | pp),
                               (u8)(l << 4 | 8),
                               (u8)opcode,
                               modrms[m]};
                look_at(vex, 15, model);
                if (map >= 8)
                    look_at(xop, 15, model);
                if (map < 8)
                    look_at(evex, 15, model);
            }
    for (unsigned imm = 0; imm < 256; imm++) {
        u8 now[16] = {0x0f, 0x0f, 0xc1, (u8)imm};
        look_at(now, 15, model);
    }
}

void fuzz_cover_universe(const struct cpu_model *model) {
    legacy_opcodes(model);
    extended_opcodes(model);
}

/* ---- Counting ---- */

static void count_decorations(struct row *r, const struct fuzz_case *c,
                              const ZydisDecodedInstruction *zi) {
    bool raw66 = false;
    for (unsigned i = 0; i < zi->raw.prefix_count; i++)
        raw66 |= zi->raw.prefixes[i].value == 0x66;
    const bool has[DECORATIONS] = {
        [WITH_LOCK] = zi->attributes & ZYDIS_ATTRIB_HAS_LOCK,
        [WITH_REPEAT] = zi->attributes &
                        (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE),
        [WITH_66] = raw66,
        [WITH_67] = zi->attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE,
        [WITH_SEGMENT] = zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT,
        [IN_16BIT_CODE] = c->code16,
        [STEPPED] = c->eflags & F_TF,
    };
    for (unsigned i = 0; i < DECORATIONS; i++)
        r->with[i] += has[i];
}

void fuzz_cover_case(const struct fuzz_case *c, const struct fuzz_result *native) {
    struct decoded d;
    char operands[44];
    if (!c->lone || (native->end != FUZZ_DONE && native->end != FUZZ_FAULT) ||
        !decode(c->code, c->code_bytes, c->code16, &d))
        return;
    name_operands(&d.insn, d.op, operands, sizeof operands);
    struct row *r = find_row((u16)d.insn.mnemonic, operands);
    u32 at = c->entry - fuzz_base(c->seg[SEG_CS]);
    /* The trap behind it, or behind a step of it. */
    bool executed = native->end == FUZZ_DONE ||
                    (native->vector == VEC_DB && (c->eflags & F_TF) && native->eip != at);
    r->cases++;
    r->done += executed;
    if (executed)
        count_decorations(r, c, &d.insn);
    else
        r->fault[native->vector & 31]++;
}

/* ---- What never runs to its end at CPL 3 ---- */

static const char why_privileged[] = "#GP at CPL 3: the fault is compared";
static const char why_undefined[] = "#UD: the fault is compared";
static const char why_trap[] = "a trap: vector, EIP and flags are compared";

static const struct {
    u16 mnemonic;
    const char *why;
} only_faults[] = {
#define F(name, why)                                                                               \
    { ZYDIS_MNEMONIC_##name, why }
    F(HLT, why_privileged),    F(CLI, why_privileged),     F(STI, why_privileged),
    F(IN, why_privileged),     F(OUT, why_privileged),     F(INSB, why_privileged),
    F(INSW, why_privileged),   F(INSD, why_privileged),    F(OUTSB, why_privileged),
    F(OUTSW, why_privileged),  F(OUTSD, why_privileged),   F(LGDT, why_privileged),
    F(LIDT, why_privileged),   F(LLDT, why_privileged),    F(LTR, why_privileged),
    F(LMSW, why_privileged),   F(INVLPG, why_privileged),  F(INVD, why_privileged),
    F(WBINVD, why_privileged), F(CLTS, why_privileged),    F(RDMSR, why_privileged),
    F(WRMSR, why_privileged),  F(SYSEXIT, why_privileged), F(RSM, why_undefined),
    F(UD0, why_undefined),     F(UD1, why_undefined),      F(UD2, why_undefined),
    F(INT, why_trap),          F(INT3, why_trap),          F(INT1, why_trap),
#undef F
};

static const char *faults_because(const struct row *r) {
    for (unsigned i = 0; i < ARRAY_LEN(only_faults); i++)
        if (only_faults[i].mnemonic == r->mnemonic)
            return only_faults[i].why;
    bool system_register = strstr(r->operands, "cr") || strstr(r->operands, "dr");
    return r->mnemonic == ZYDIS_MNEMONIC_MOV && system_register ? why_privileged : NULL;
}

/* ---- The table and the check ---- */

static int by_name(const void *a, const void *b) {
    const struct row *x = *(const struct row *const *)a, *y = *(const struct row *const *)b;
    int names = strcmp(insn_mnemonic_name(x->mnemonic), insn_mnemonic_name(y->mnemonic));
    return names ? names : strcmp(x->operands, y->operands);
}

static unsigned sorted(const struct row **out) {
    unsigned n = 0;
    for (unsigned i = 0; i < MAX_ROWS; i++)
        if (rows[i].operands[0])
            out[n++] = &rows[i];
    qsort(out, n, sizeof *out, by_name);
    return n;
}

static void print_row(FILE *out, const struct row *r) {
    const char *why = r->why ? r->why : faults_because(r);
    fprintf(out, "%s\t%s\t%llu\t%llu\t", insn_mnemonic_name(r->mnemonic), r->operands,
            (unsigned long long)r->cases, (unsigned long long)r->done);
    for (unsigned v = 0; v < 32; v++)
        if (r->fault[v])
            fprintf(out, "#%u:%llu ", v, (unsigned long long)r->fault[v]);
    fprintf(out, "\t");
    for (unsigned i = 0; i < DECORATIONS; i++)
        if (r->with[i])
            fprintf(out, "%s:%llu ", decoration_names[i], (unsigned long long)r->with[i]);
    fprintf(out, "\t%s\n", why ? why : "");
}

void fuzz_print_table(FILE *out) {
    static const struct row *list[MAX_ROWS];
    unsigned n = sorted(list);
    fprintf(out,
            "# coverage: mnemonic, operands, lone cases, executed, faulted by vector, executed "
            "with prefixes and modes, why not executed\n");
    for (unsigned i = 0; i < n; i++)
        print_row(out, list[i]);
    fprintf(out, "# instruction sets that the CPU model does not announce: name, encodings\n");
    for (unsigned i = 0; i < ARRAY_LEN(left_out_sets); i++)
        if (left_out_sets[i].encodings)
            fprintf(out, "%s\t%llu\n", left_out_sets[i].name,
                    (unsigned long long)left_out_sets[i].encodings);
}

static unsigned complain(const struct row *r, const char *what) {
    printf("fuzz_native: coverage: %s %s: %s\n", insn_mnemonic_name(r->mnemonic), r->operands,
           what);
    return 1;
}

static unsigned check_row(const struct row *r) {
    const char *faults = faults_because(r);
    if (!r->in_universe || r->why)
        return r->why && r->done ? complain(r, "executed, but listed as left out") : 0;
    if (faults) {
        if (r->done)
            return complain(r, "executed, but listed as always faulting");
        return r->cases ? 0 : complain(r, "no case");
    }
    if (!r->done)
        return complain(r, "never executed");
    unsigned bad = 0;
    if (r->lockable && !r->with[WITH_LOCK])
        bad += complain(r, "never executed with LOCK");
    if (r->repeatable && !r->with[WITH_REPEAT])
        bad += complain(r, "never executed with REP");
    if (r->memory && !r->with[WITH_67] && fuzz_has_low())
        bad += complain(r, "never executed with 67h");
    if (r->memory && !r->with[WITH_SEGMENT])
        bad += complain(r, "never executed with a segment prefix");
    if (!r->with[STEPPED] && !fuzz_kernel_emulates(r->mnemonic))
        bad += complain(r, "never single-stepped");
    if (!r->with[IN_16BIT_CODE] && fuzz_has_16bit() && !fuzz_kernel_emulates(r->mnemonic))
        bad += complain(r, "never executed in 16-bit code");
    return bad;
}

unsigned fuzz_check_coverage(void) {
    unsigned bad = 0;
    for (unsigned i = 0; i < MAX_ROWS; i++)
        if (rows[i].operands[0])
            bad += check_row(&rows[i]);
    for (unsigned i = 0; i < ARRAY_LEN(left_out_sets); i++)
        if (left_out_sets[i].encodings && !left_out_sets[i].known) {
            printf("fuzz_native: coverage: instruction set %s: neither announced by a CPUID bit "
                   "nor known to be absent (forms.c)\n",
                   left_out_sets[i].name);
            bad++;
        }
    return bad;
}
