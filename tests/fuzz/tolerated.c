/*
 * tolerated.c: where hardware may do as it likes. Each rule names the instruction, what it takes
 * out of a difference, and the source that allows it; how often each was needed is counted.
 */
#include "fuzz.h"

#include <cpuid.h>

struct rule {
    const char *name, *source;
    u32 (*apply)(const struct insn *in, const struct fuzz_result *native,
                 const struct fuzz_result *engine, u32 difference);
    u64 cases;
};

static bool faulted(const struct fuzz_result *r, u8 vector) {
    return r->end == FUZZ_FAULT && r->vector == vector;
}

/* Linear addresses an operand can reach over the end of the 4 GiB. */
static bool near_zero(u32 lin) {
    return lin < 512;
}

/* The memory operand's offsets, or its linear addresses, pass the end of the 4 GiB. The registers
 * at a fault are those the address was made from. */
static bool operand_wraps(const struct insn *in, const struct fuzz_result *native) {
    u32 offset = (u32)in->disp, bytes = 0;
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_MEM)
            bytes = in->op[i].bytes;
    if (in->mem_base != INSN_NO_REG)
        offset += native->gpr[in->mem_base];
    if (in->mem_index != INSN_NO_REG)
        offset += native->gpr[in->mem_index] * in->mem_scale;
    bool string = in->map == 0 && (in->opcode & 0xf0) == 0xa0;
    bool string_wraps = string && (native->gpr[R_ESI] > 0u - 4 || native->gpr[R_EDI] > 0u - 4);
    return in->addr_bytes == 4 && (string_wraps || (bytes && offset + bytes - 1 < offset));
}

static bool memory_fault(const struct fuzz_result *r) {
    return faulted(r, VEC_PF) || faulted(r, VEC_AC) ||
           ((faulted(r, VEC_GP) || faulted(r, VEC_SS)) && r->error == 0);
}

/* An operand that begins below 4 GiB and ends above: faults of any kind, at the same instruction.
 */
static u32 wraps(const struct insn *in, const struct fuzz_result *native,
                 const struct fuzz_result *engine, u32 d) {
    bool segment = (faulted(native, VEC_GP) || faulted(native, VEC_SS)) && native->error == 0;
    bool page = faulted(native, VEC_PF) && near_zero(native->cr2) && native->error == engine->error;
    bool zero = faulted(engine, VEC_PF) && near_zero(engine->cr2) && (segment || page);
    bool stack = segment && faulted(engine, VEC_AC) && native->gpr[R_ESP] + 64 < 128;
    bool popa = in->mnemonic == ZYDIS_MNEMONIC_POPA || in->mnemonic == ZYDIS_MNEMONIC_POPAD;
    if (native->eip != engine->eip || !memory_fault(native) || !memory_fault(engine) ||
        !(zero || stack || operand_wraps(in, native)))
        return d;
    return d & ~(u32)(FUZZ_DIFF_FAULT | FUZZ_DIFF_MEMORY | (popa ? FUZZ_DIFF_GPR : 0));
}

/* State images are accessed in parts, in any order: any of their bytes may be what faults first. */
static u32 image_address(const struct insn *in, const struct fuzz_result *native,
                         const struct fuzz_result *engine, u32 d) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
        break;
    default:
        return d;
    }
    bool same = faulted(native, VEC_PF) && faulted(engine, VEC_PF) &&
                (native->cr2 - engine->cr2 < 512 || engine->cr2 - native->cr2 < 512);
    return same ? d & ~(u32)(FUZZ_DIFF_FAULT | FUZZ_DIFF_MEMORY) : d;
}

static u32 mask_move(const struct insn *in, const struct fuzz_result *native,
                     const struct fuzz_result *engine, u32 d) {
    (void)engine;
    if (in->mnemonic != ZYDIS_MNEMONIC_MASKMOVQ && in->mnemonic != ZYDIS_MNEMONIC_MASKMOVDQU)
        return d;
    return memory_fault(native) || faulted(native, VEC_GP) || faulted(native, VEC_SS) ? 0 : d;
}

static u32 popa_partial(const struct insn *in, const struct fuzz_result *native,
                        const struct fuzz_result *engine, u32 d) {
    bool popa = in->mnemonic == ZYDIS_MNEMONIC_POPA || in->mnemonic == ZYDIS_MNEMONIC_POPAD;
    if (!popa || !faulted(native, VEC_PF) || !faulted(engine, VEC_PF) ||
        native->gpr[R_ESP] != engine->gpr[R_ESP])
        return d;
    /* The word that ESP would be popped from is skipped, or read: CR2 is one byte lower then. */
    u32 bytes = in->op_bytes, skipped = native->gpr[R_ESP] + 3 * bytes;
    bool in_skipped = native->error == engine->error && native->cr2 - skipped < bytes &&
                      engine->cr2 == skipped + bytes;
    return d & ~(u32)(FUZZ_DIFF_GPR | (in_skipped ? FUZZ_DIFF_FAULT : 0));
}

/* MMX operand beside an XMM one, and the fault is the instruction's own. */
static u32 mmx_transition(const struct insn *in, const struct fuzz_result *native,
                          const struct fuzz_result *engine, u32 d) {
    bool mmx = false;
    for (unsigned i = 0; i < in->op_count; i++)
        mmx |= in->op[i].type == OP_REG && in->op[i].reg_class == RC_MMX;
    bool converts = in->map == 1 && in->opcode >= 0x2a && in->opcode <= 0x2d;
    bool rest_equal = !memcmp(native->fx + 160, engine->fx + 160, 128) &&
                      load32(native->fx + 24) == load32(engine->fx + 24);
    return mmx && converts && faulted(native, VEC_XM) && faulted(engine, VEC_XM) && rest_equal
               ? d & ~(u32)FUZZ_DIFF_FX
               : d;
}

/* A MOVAPS-like operand that is misaligned and beyond its segment's limit. */
static u32 alignment_or_limit(const struct insn *in, const struct fuzz_result *native,
                              const struct fuzz_result *engine, u32 d) {
    bool wide = false;
    for (unsigned i = 0; i < in->op_count; i++)
        wide |= in->op[i].type == OP_MEM && in->op[i].bytes >= 16;
    bool both = (faulted(native, VEC_GP) && faulted(engine, VEC_SS)) ||
                (faulted(native, VEC_SS) && faulted(engine, VEC_GP));
    both |= faulted(native, VEC_AC) && (faulted(engine, VEC_GP) || faulted(engine, VEC_SS));
    return wide && both && !native->error && !engine->error ? d & ~(u32)FUZZ_DIFF_FAULT : d;
}

static u32 pusha_partial(const struct insn *in, const struct fuzz_result *native,
                         const struct fuzz_result *engine, u32 d) {
    bool pusha = in->mnemonic == ZYDIS_MNEMONIC_PUSHA || in->mnemonic == ZYDIS_MNEMONIC_PUSHAD;
    return pusha && native->end == FUZZ_FAULT && engine->end == FUZZ_FAULT
               ? d & ~(u32)FUZZ_DIFF_MEMORY
               : d;
}

/* The instruction that either engine stopped at, if it faulted. */
static bool faulting_insn(const struct fuzz_case *c, const struct fuzz_result *r, struct insn *in) {
    u32 at = r->eip - c->entry;
    return r->end == FUZZ_FAULT && at < c->code_bytes &&
           insn_decode(in, c->code + at, INSN_MAX_BYTES, true, true) == INSN_OK;
}

/* Rules about whole cases look at every instruction. */
static bool any_insn(const struct fuzz_case *c, bool (*is)(const struct insn *in)) {
    struct insn in;
    for (unsigned i = 0; i < c->insns; i++)
        if (insn_decode(&in, c->code + c->insn_start[i], INSN_MAX_BYTES, true, true) == INSN_OK &&
            is(&in))
            return true;
    return false;
}

static bool is_short_movs(const struct insn *in) {
    return in->map == 0 && (in->opcode & 0xfe) == 0xa4 && in->addr_bytes == 2 &&
           (in->rep || in->repne);
}

/* Linux keeps the number of the CPU in the limit of descriptor 15. */
static bool loads_cpu_number(const struct fuzz_result *native, const struct fuzz_result *engine) {
    for (unsigned i = 0; i < 6; i++)
        if ((native->seg[i] & ~3u) == 0x78)
            return true;
    return engine->end == FUZZ_FAULT && (engine->error & ~3u) == 0x78;
}

/* The guest's own tables are present, for CPL 0, and the native process has its stub. */
static bool hits_system_pages(const struct fuzz_result *engine) {
    return faulted(engine, VEC_PF) &&
           (engine->cr2 - FUZZ_SYSTEM < FUZZ_SYSTEM_BYTES || engine->cr2 - FUZZ_STUB < PAGE_BYTES);
}

/* MXCSR.MM, which the CPU model does not have. */
static bool loads_mxcsr_mm(const struct fuzz_case *c, const struct fuzz_result *engine) {
    u32 eax, ebx, ecx = 0, edx;
    struct insn in;
    return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & BIT(7)) &&
           faulted(engine, VEC_GP) && faulting_insn(c, engine, &in) &&
           (in.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || in.mnemonic == ZYDIS_MNEMONIC_FXRSTOR);
}

enum { CASE_MOVS, CASE_CPU_NUMBER, CASE_SYSTEM, CASE_MM, CASE_RULES };
static struct {
    const char *name, *source;
    u64 cases;
} case_rules[CASE_RULES] = {
    {"REP MOVS with 16-bit addresses that overlap, upper halves of ESI and EDI different",
     "copies as if they did not overlap on AMD family 1Ah, against SDM volume 2, MOVS", 0},
    {"selector 78h", "a descriptor of the host's kernel", 0},
    {"pages of the guest's tables and of the native stub", "only one side has them", 0},
    {"MXCSR.MM loaded", "AMD APM volume 2, Misaligned Exception Mask: CPUID 80000001h.ECX[7]", 0},
};

static struct rule rules[] = {
    {"operands across the end of the 4 GiB",
     "SDM volume 3, 5.3 Limit Checking: may or may not fault, implementation-specific", wraps, 0},
    {"order of accesses to x87 and FX state images",
     "SDM volume 2, FSAVE, FXSAVE: no order is given", image_address, 0},
    {"MASKMOVQ and MASKMOVDQU with bytes masked off",
     "SDM volume 2, MASKMOVDQU: faults of unselected bytes are implementation dependent", mask_move,
     0},
    {"POPA and POPAD that fault have loaded registers",
     "SDM volume 2, POPA, pseudo-code: one POP after the other; seen on AMD family 1Ah",
     popa_partial, 0},
    {"x87-to-MMX transition of a conversion that raises #XM",
     "SDM volume 2, CVTPS2PI, does not order the two; done first on AMD family 1Ah", mmx_transition,
     0},
    {"misaligned wide operands beyond a segment's limit",
     "SDM volume 3, table 6-2: no priority among the faults of one operand", alignment_or_limit, 0},
    {"PUSHA and PUSHAD that fault have written words",
     "SDM volume 2, PUSHA, pseudo-code: one PUSH after the other; seen on AMD family 1Ah",
     pusha_partial, 0},
};

static unsigned case_rule(const struct fuzz_case *c, const struct fuzz_result *native,
                          const struct fuzz_result *engine, u32 difference) {
    if (loads_cpu_number(native, engine))
        return CASE_CPU_NUMBER;
    if (hits_system_pages(engine))
        return CASE_SYSTEM;
    if (loads_mxcsr_mm(c, engine))
        return CASE_MM;
    return difference & FUZZ_DIFF_MEMORY && any_insn(c, is_short_movs) ? CASE_MOVS : CASE_RULES;
}

u32 fuzz_tolerate(const struct fuzz_case *c, const struct fuzz_result *native,
                  const struct fuzz_result *engine, u32 difference) {
    struct insn in;
    unsigned whole = case_rule(c, native, engine, difference);
    if (whole != CASE_RULES) {
        case_rules[whole].cases++;
        return 0;
    }
    if (!faulting_insn(c, native, &in))
        return difference;
    for (unsigned i = 0; i < ARRAY_LEN(rules) && difference & ~(u32)FUZZ_DIFF_UNDEFINED; i++) {
        u32 left = rules[i].apply(&in, native, engine, difference);
        rules[i].cases += left != difference;
        difference = left;
    }
    return difference;
}

void fuzz_print_tolerated(FILE *out) {
    fprintf(out, "# tolerated: rule, source, comparisons\n");
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++)
        fprintf(out, "%s\t%s\t%llu\n", rules[i].name, rules[i].source,
                (unsigned long long)rules[i].cases);
    for (unsigned i = 0; i < CASE_RULES; i++)
        fprintf(out, "%s\t%s\t%llu\n", case_rules[i].name, case_rules[i].source,
                (unsigned long long)case_rules[i].cases);
}
