/*
 * report.c: compares results, and prints cases, differences and coverage for people.
 */
#include "fuzz.h"

#define COMPARED_FLAGS (F_ARITH | F_DF | F_TF | F_NT | F_AC | F_ID | F_IF)

/* The x87 pointers count while an unmasked exception is pending: without one, processors may keep
 * those of the last exception (CPUID.7.EBX[6]), and AMD's FXSAVE may leave them out (APM volume 2,
 * "FXSAVE and FXRSTOR Instructions"). The data pointer counts after a memory operand: SDM volume 1,
 * 8.1.8 "x87 FPU Instruction and Data (Operand) Pointers". Not their selectors, which are lost
 * whenever the host's kernel switches processes. */
static bool pointers_equal(const u8 *a, const u8 *b) {
    const u8 summary = 0x80;
    bool memory = a[6] < 0xc0;
    return !(a[2] & summary) ||
           (!memcmp(a + 6, b + 6, 6) && (!memory || !memcmp(a + 16, b + 16, 4)));
}

/* FX image without reserved bytes. */
static bool fx_equal(const u8 *a, const u8 *b) {
    if (memcmp(a, b, 5) || memcmp(a + 24, b + 24, 4) || memcmp(a + 160, b + 160, 128) ||
        !pointers_equal(a, b))
        return false;
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10))
            return false;
    return true;
}

bool fuzz_fx_differs(const struct fuzz_result *a, const struct fuzz_result *b) {
    return !fx_equal(a->fx, b->fx);
}

/* Null selectors lose their RPL when the host's kernel returns to user mode: SDM volume 2, IRET. */
static bool segments_differ(const struct fuzz_result *a, const struct fuzz_result *b) {
    for (unsigned i = 0; i < 6; i++)
        if (a->seg[i] != b->seg[i] && (a->seg[i] > 3 || b->seg[i] > 3))
            return true;
    return false;
}

u32 fuzz_compare(const struct fuzz_case *c, const struct fuzz_result *a,
                 const struct fuzz_result *b) {
    u32 d = 0;
    if (a->end != b->end)
        return fuzz_tolerate(c, a, b, FUZZ_DIFF_END);
    if (a->end != FUZZ_DONE && a->end != FUZZ_FAULT)
        return 0;
    if (a->vector != b->vector || a->error != b->error || a->cr2 != b->cr2)
        d |= FUZZ_DIFF_FAULT;
    if (a->eip != b->eip)
        d |= FUZZ_DIFF_EIP;
    if (memcmp(a->gpr, b->gpr, sizeof a->gpr))
        d |= FUZZ_DIFF_GPR;
    u32 flags = (a->eflags ^ b->eflags) & COMPARED_FLAGS;
    u32 undefined = flags && !fuzz_host_is_recorded() ? fuzz_case_undefined(c) : 0;
    if (flags & ~undefined)
        d |= FUZZ_DIFF_FLAGS;
    if (flags & undefined)
        d |= FUZZ_DIFF_UNDEFINED;
    if (segments_differ(a, b))
        d |= FUZZ_DIFF_SEGMENTS;
    if (!fx_equal(a->fx, b->fx))
        d |= FUZZ_DIFF_FX;
    if (a->memory != b->memory)
        d |= FUZZ_DIFF_MEMORY;
    return d ? fuzz_tolerate(c, a, b, d) : 0;
}

/* ---- Printing ---- */

static const char *const gpr_names[8] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
static const char *const end_names[] = {"done", "fault", "runs on", "crash", "left user mode"};

static void print_bytes(const u8 *p, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        printf("%02x", p[i]);
}

static void print_code(const struct fuzz_case *c) {
    for (unsigned i = 0; i < c->insns; i++) {
        struct insn in;
        char text[160] = "(invalid)";
        const u8 *at = c->code + c->insn_start[i];
        unsigned n = c->insn_start[i + 1] - c->insn_start[i];
        if (fuzz_decode(c, c->insn_start[i], &in))
            insn_format(&in, c->entry + c->insn_start[i], text, sizeof text);
        printf("  %08x  %-42s ", c->entry + c->insn_start[i], text);
        print_bytes(at, n);
        printf("\n");
    }
}

static void print_fx(const u8 *fx) {
    printf("  fcw %04x fsw %04x ftw %02x fop %03x fip %08x fdp %08x mxcsr %08x\n", load16(fx),
           load16(fx + 2), fx[4], load16(fx + 6), load32(fx + 8), load32(fx + 16), load32(fx + 24));
    for (unsigned i = 0; i < 8; i++)
        printf("  st%u %04x.%016llx  xmm%u %016llx.%016llx\n", i, load16(fx + 40 + 16 * i),
               (unsigned long long)load64(fx + 32 + 16 * i), i,
               (unsigned long long)load64(fx + 168 + 16 * i),
               (unsigned long long)load64(fx + 160 + 16 * i));
}

void fuzz_print_case(const struct fuzz_case *c) {
    printf("case %llu\n", (unsigned long long)c->number);
    print_code(c);
    printf(" input:\n ");
    for (unsigned i = 0; i < 8; i++)
        printf(" %s %08x", gpr_names[i], c->gpr[i]);
    printf("\n  eflags %08x es %02x cs %02x ss %02x ds %02x fs %02x gs %02x%s\n", c->eflags,
           c->seg[SEG_ES], c->seg[SEG_CS], c->seg[SEG_SS], c->seg[SEG_DS], c->seg[SEG_FS],
           c->seg[SEG_GS], c->code16 ? ", 16-bit code" : "");
    for (unsigned i = 0; i < c->patches; i++)
        printf("  [%08x] = %08x\n",
               fuzz_page_lin[c->patch[i].offset / PAGE_BYTES] + c->patch[i].offset % PAGE_BYTES,
               c->patch[i].value);
    print_fx(c->fx);
}

static void print_pair(const char *name, u64 native, u64 engine, int digits) {
    if (native != engine)
        printf("  %-8s native %0*llx  engine %0*llx\n", name, digits, (unsigned long long)native,
               digits, (unsigned long long)engine);
}

void fuzz_print_results(const struct fuzz_case *c, const struct fuzz_result *native,
                        const struct fuzz_result *engine, const char *engine_name) {
    u32 d = fuzz_compare(c, native, engine);
    printf(" %s differs (%x): native %s %u error %x at %08x, %s %s %u error %x at %08x\n",
           engine_name, d, end_names[native->end], native->vector, native->error, native->eip,
           engine_name, end_names[engine->end], engine->vector, engine->error, engine->eip);
    print_pair("cr2", native->cr2, engine->cr2, 8);
    print_pair("eip", native->eip, engine->eip, 8);
    for (unsigned i = 0; i < 8; i++)
        print_pair(gpr_names[i], native->gpr[i], engine->gpr[i], 8);
    print_pair("eflags", native->eflags & COMPARED_FLAGS, engine->eflags & COMPARED_FLAGS, 8);
    for (unsigned i = 0; i < 6; i++)
        print_pair("selector", native->seg[i], engine->seg[i], 4);
    if (d & FUZZ_DIFF_FX) {
        printf(" native:\n");
        print_fx(native->fx);
        printf(" %s:\n", engine_name);
        print_fx(engine->fx);
    }
}

void fuzz_print_memory(const u8 *native, const u8 *engine) {
    unsigned printed = 0;
    for (u32 at = 0; at < FUZZ_RW_BYTES && printed < 16; at += 8)
        if (memcmp(native + at, engine + at, 8)) {
            printf("  [%08x] native ", fuzz_page_lin[at / PAGE_BYTES] + at % PAGE_BYTES);
            print_bytes(native + at, 8);
            printf("  engine ");
            print_bytes(engine + at, 8);
            printf("\n");
            printed++;
        }
}

void fuzz_print_coverage(FILE *out) {
    static const char *const maps[] = {"", "0f ", "0f38 ", "0f3a "};
    fprintf(out, "# forms: prefix, opcode, /reg, rm or memory, mnemonic, cases, done, faults by "
                 "vector, left out, undefined flags that differ\n");
    for (unsigned i = 0; i < fuzz_forms; i++) {
        const struct fuzz_form *f = &fuzz_form[i];
        fprintf(out, "%02x\t%s%02x\t", f->prefix, maps[f->map], f->opcode);
        fprintf(out, f->reg == FUZZ_ANY ? "r\t" : "/%u\t", f->reg);
        fprintf(out, f->memory ? "m" : !f->has_modrm ? "-" : f->rm == FUZZ_ANY ? "r" : "%u", f->rm);
        fprintf(out, "\t%s\t%llu\t%llu\t", insn_mnemonic_name(f->mnemonic),
                (unsigned long long)f->cases, (unsigned long long)f->done);
        for (unsigned v = 0; v < 32; v++)
            if (f->fault[v])
                fprintf(out, "#%u:%llu ", v, (unsigned long long)f->fault[v]);
        fprintf(out, "\t%llu\t%llu\n", (unsigned long long)f->skipped,
                (unsigned long long)f->undefined_differs);
    }
}
