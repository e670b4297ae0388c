/*
 * test_hostfp.c: hostfp_execute against the host itself. Every x87, MMX and SSE encoding runs twice
 * on random state: through hostfp with its re-encoding, masking and bounce buffer, and directly,
 * byte for byte, with real exceptions caught as signals. State, memory, flags and faults must
 * agree.
 */
#include "interp/interp.h"
#include "isa/insn.h"
#include "mmu/mmu.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

enum { MEMORY_AT = 0x20000, MEMORY_BYTES = 512, FX_COMPARED = 288 };
enum {
    FCW = 0,
    FSW = 2,
    FTW = 4,
    FOP = 6,
    FIP = 8,
    FCS = 12,
    FDP = 16,
    MXCSR = 24,
    ST = 32,
    XMM = 160
};

struct world {
    struct cpu *cpu;
    struct interp *it;
    u8 *memory; /* guest memory at MEMORY_AT */
};

static int create_world(void **state) {
    struct world *w = calloc(1, sizeof *w);
    struct mmu_error err;
    w->cpu = aligned_alloc(4096, ALIGN_UP(sizeof *w->cpu + 4096, 4096));
    memset(w->cpu, 0, sizeof *w->cpu);
    w->cpu->mmu = mmu_create(1 << 20, &err);
    w->it = interp_create();
    if (!w->cpu->mmu || !w->it)
        return -1;
    cpu_reset(w->cpu);
    struct cpu *cpu = w->cpu;
    cpu->cr0 = CR0_PE | CR0_NE | CR0_MP | CR0_ET;
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = (struct segment){.selector = 0x10,
                                       .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G,
                                       .limit = 0xffffffff};
    cpu->seg[SEG_CS].selector = 8;
    cpu->seg[SEG_CS].attr |= ATTR_CODE;
    cpu->eip = 0x1234;
    w->memory = mmu_ram(cpu->mmu) + MEMORY_AT;
    *state = w;
    return 0;
}

static int destroy_world(void **state) {
    struct world *w = *state;
    interp_destroy(w->it);
    mmu_destroy(w->cpu->mmu);
    free(w->cpu);
    free(w);
    return 0;
}

/* ---- The reference: the same bytes, run directly ---- */

struct native {
    _Alignas(64) u8 fx[512];
    _Alignas(64) u8 memory[MEMORY_BYTES];
    u64 gpr[4]; /* eax ecx edx ebx; edi points to memory */
    u64 flags;
    const void *code;
    u64 operand;
    int signal; /* 0, or the one that ended it */
    u32 signal_mxcsr;
};

static sigjmp_buf native_end;
static volatile int native_signal;
static volatile u32 native_mxcsr;

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)info;
    ucontext_t *uc = context;
    native_signal = number;
    native_mxcsr = uc->uc_mcontext.fpregs ? uc->uc_mcontext.fpregs->mxcsr : 0;
    siglongjmp(native_end, 1);
}

static __attribute__((noinline)) void native_call(struct native *n) {
#define AT(field) [field] "i"(offsetof(struct native, field))
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "fxrstor64 (%[n])\n\t"
                     "push %%rbp\n\t"
                     "push %%rbx\n\t"
                     "mov %[n], %%rbp\n\t"
                     "mov %c[gpr](%%rbp), %%rax\n\t"
                     "mov %c[gpr]+8(%%rbp), %%rcx\n\t"
                     "mov %c[gpr]+16(%%rbp), %%rdx\n\t"
                     "mov %c[gpr]+24(%%rbp), %%rbx\n\t"
                     "mov %c[operand](%%rbp), %%rdi\n\t"
                     "pushq %c[flags](%%rbp)\n\t"
                     "popfq\n\t"
                     "call *%c[code](%%rbp)\n\t"
                     "pushfq\n\t"
                     "popq %c[flags](%%rbp)\n\t"
                     "mov %%rax, %c[gpr](%%rbp)\n\t"
                     "mov %%rcx, %c[gpr]+8(%%rbp)\n\t"
                     "mov %%rdx, %c[gpr]+16(%%rbp)\n\t"
                     "mov %%rbx, %c[gpr]+24(%%rbp)\n\t"
                     "fxsave64 (%%rbp)\n\t"
                     "pop %%rbx\n\t"
                     "pop %%rbp\n\t"
                     "lea 128(%%rsp), %%rsp"
                     :
                     : [n] "S"(n), AT(gpr), AT(operand), AT(flags), AT(code)
                     : "rax", "rcx", "rdx", "rdi", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3",
                       "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13", "xmm14", "xmm15");
#undef AT
}

static void native_run(struct native *n, const u8 *bytes, unsigned count) {
    static u8 *code;
    if (!code) {
        code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
        assert_ptr_not_equal(code, MAP_FAILED);
    }
    static const int signals[] = {SIGFPE, SIGILL, SIGSEGV};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction old[ARRAY_LEN(signals)];
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &action, &old[i]);
    memcpy(code, bytes, count);
    code[count] = 0xc3;
    n->code = code;
    native_signal = 0;
    if (sigsetjmp(native_end, 1) == 0)
        native_call(n);
    u32 mxcsr = 0x1f80;
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &old[i], NULL);
    n->signal = native_signal;
    n->signal_mxcsr = native_mxcsr;
}

/* ---- Random state ---- */

static u64 seed = 0x2545f4914f6cdd1d;
static u64 rnd(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x9e3779b97f4a7c15ull;
}

static u64 random_double(void) {
    static const u64 special[] = {0,
                                  0x8000000000000000,
                                  0x3ff0000000000000,
                                  0x7ff0000000000000,
                                  0xfff0000000000000,
                                  0x7ff8000000000001,
                                  0x7ff0000000000001,
                                  1,
                                  0x000fffffffffffff,
                                  0x0010000000000000,
                                  0x7fefffffffffffff,
                                  0x41dfffffffc00000};
    u64 r = rnd();
    return r & 1 ? special[(r >> 8) % ARRAY_LEN(special)]
                 : (r & 2 ? rnd() : rnd() >> 4 | 3ull << 60);
}

static u32 random_float(void) {
    static const u32 special[] = {0,          0x80000000, 0x3f800000, 0x7f800000,
                                  0xff800000, 0x7fc00001, 0x7f800001, 1,
                                  0x7fffff,   0x800000,   0x7f7fffff, 0x4f000000};
    u64 r = rnd();
    return r & 1 ? special[(r >> 8) % ARRAY_LEN(special)] : (u32)(r >> 32);
}

static void random_vector(u8 out[16]) {
    switch (rnd() >> 60 & 3) {
    case 0:
        for (unsigned i = 0; i < 4; i++)
            store32(out + 4 * i, random_float());
        break;
    case 1:
        store64(out, random_double());
        store64(out + 8, random_double());
        break;
    default:
        store64(out, rnd());
        store64(out + 8, rnd());
    }
}

static void random_st(u8 out[16]) {
    static const u64 mantissa[] = {0, 1ull << 63, 3ull << 62, 1, ~0ull, ~0ull >> 1};
    static const u16 exponent[] = {0, 1, 0x3fff, 0x7fff, 0x7ffe, 0x403e, 0x3fc0};
    u64 r = rnd();
    memset(out, 0, 16);
    store64(out, r & 1 ? mantissa[(r >> 8) % ARRAY_LEN(mantissa)] : rnd() | 1ull << 63);
    u16 e = r & 2 ? exponent[(r >> 16) % ARRAY_LEN(exponent)] : (u16)(0x3fe0 + (r >> 24) % 64);
    store16(out + 8, e | (u16)(r >> 40 & 0x8000));
}

/* unmasked: let exceptions be unmasked and flags be pending. */
static void random_state(struct native *n, bool unmasked) {
    memset(n->fx, 0, sizeof n->fx);
    u64 r = rnd();
    u16 fcw = (u16)(0x40 | (r & 0xf00) | (unmasked ? r >> 16 & 0x3f : 0x3f));
    u16 fsw = (u16)(r >> 24 & 0x7f00); /* TOP and condition codes */
    if (unmasked && (r >> 40 & 7) == 0)
        fsw |= (u16)(r >> 44 & 0x3f);
    if (fsw & 0x3f & ~fcw)
        fsw |= 0x8080;
    store16(n->fx + FCW, fcw);
    store16(n->fx + FSW, fsw);
    n->fx[FTW] = (u8)(r >> 52 & 1 ? 0xff : rnd() >> 32);
    u32 mxcsr = (u32)rnd() & 0xe07f;
    store32(n->fx + MXCSR, mxcsr | (unmasked ? (u32)rnd() & 0x1f80 : 0x1f80));
    for (unsigned i = 0; i < 8; i++) {
        random_st(n->fx + ST + 16 * i);
        random_vector(n->fx + XMM + 16 * i);
    }
    for (unsigned i = 0; i < MEMORY_BYTES; i += 16)
        rnd() & 1 ? random_vector(n->memory + i) : random_st(n->memory + i);
    for (unsigned i = 0; i < 4; i++)
        n->gpr[i] = rnd() & 1 ? (u32)rnd() >> 28 : (u32)rnd();
    n->flags = (rnd() & F_ARITH) | 0x202;
    n->operand = (u64)(uintptr_t)n->memory;
}

/* ---- One comparison ---- */

static u8 vector_of_signal(int number) {
    return number == SIGILL ? VEC_UD : number == SIGSEGV ? VEC_GP : VEC_XM;
}

static void explain(const u8 *bytes, const struct insn *in, const char *what) {
    char text[96];
    insn_format(in, 0, text, sizeof text);
    fail_msg("%02x %02x %02x %02x %02x %02x  %s: %s", bytes[0], bytes[1], bytes[2], bytes[3],
             bytes[4], bytes[5], text, what);
}

/* Zeroes what only the guest's own pointers decide: in the FX image, and in a stored environment.
 */
static void blank_pointers(u8 *fx, u8 *memory, const struct insn *in) {
    memset(fx + FOP, 0, MXCSR - FOP);
    memset(fx + MXCSR + 4, 0, 4);
    if (in->mnemonic != ZYDIS_MNEMONIC_FNSTENV && in->mnemonic != ZYDIS_MNEMONIC_FNSAVE)
        return;
    if (in->op_bytes == 4)
        memset(memory + 12, 0, 16);
    else
        memset(memory + 6, 0, 8);
}

static const char *difference(struct world *w, struct native *n, const struct insn *in) {
    struct cpu *cpu = w->cpu;
    u8 fx[512];
    memcpy(fx, cpu->fx, sizeof fx);
    blank_pointers(fx, w->memory, in);
    blank_pointers(n->fx, n->memory, in);
    if (memcmp(fx + MXCSR, n->fx + MXCSR, 4))
        return "MXCSR differs";
    if (memcmp(fx, n->fx, ST))
        return "FCW, FSW or FTW differs";
    if (memcmp(fx + ST, n->fx + ST, 128))
        return "ST differs";
    if (memcmp(fx + XMM, n->fx + XMM, 128))
        return "XMM differs";
    if (memcmp(w->memory, n->memory, MEMORY_BYTES))
        return "memory differs";
    static const u8 order[] = {R_EAX, R_ECX, R_EDX, R_EBX};
    for (unsigned i = 0; i < 4; i++)
        if (cpu->gpr[order[i]] != (u32)n->gpr[i])
            return "a general register differs";
    return (cpu->eflags ^ (u32)n->flags) & F_ARITH ? "flags differ" : NULL;
}

static unsigned compared;

/* Runs `in` both ways from one random state. */
static void compare(struct world *w, const u8 *bytes, const struct insn *in, bool unmasked) {
    struct native *n = aligned_alloc(64, ALIGN_UP(sizeof *n, 64));
    struct cpu *cpu = w->cpu;
    random_state(n, unmasked);
    memcpy(cpu->fx, n->fx, sizeof cpu->fx);
    memcpy(w->memory, n->memory, MEMORY_BYTES);
    static const u8 order[] = {R_EAX, R_ECX, R_EDX, R_EBX};
    for (unsigned i = 0; i < 4; i++)
        cpu->gpr[order[i]] = (u32)n->gpr[i];
    cpu->gpr[R_EDI] = MEMORY_AT;
    cpu->eflags = (u32)(n->flags & F_ARITH) | F_FIXED;
    u32 mxcsr_before = load32(cpu->fx + MXCSR);
    bool ok = hostfp_execute(w->it, cpu, in);
    native_run(n, bytes, in->length);
    compared++;
    if (ok != (n->signal == 0)) {
        char text[64];
        snprintf(text, sizeof text, "hostfp %s %u, native signal %d", ok ? "succeeded" : "fault",
                 cpu->fault.vector, n->signal);
        explain(bytes, in, text);
    }
    if (!ok) {
        u8 expected = vector_of_signal(n->signal);
        if (cpu->fault.vector == VEC_MF) /* SIGFPE both */
            expected = n->signal == SIGFPE ? VEC_MF : expected;
        if (cpu->fault.vector != expected)
            explain(bytes, in, "other exception");
        if (cpu->fault.vector == VEC_XM) {
            if (load32(cpu->fx + MXCSR) != n->signal_mxcsr)
                explain(bytes, in, "MXCSR after #XM differs");
            store32(cpu->fx + MXCSR, mxcsr_before);
        }
    } else {
        const char *what = difference(w, n, in);
        if (what)
            explain(bytes, in, what);
    }
    free(n);
}

static bool excluded(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE: /* another layout in 64-bit mode */
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_GF2P8MULB: /* GFNI is never announced */
    case ZYDIS_MNEMONIC_GF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_GF2P8AFFINEINVQB:
        return true;
    default:
        return false;
    }
}

/* Instructions of one map byte by byte: ModRM chosen so that registers are EAX-EBX and memory is
 * [EDI]. */
static void compare_encoding(struct world *w, const u8 *bytes, unsigned times) {
    struct insn in;
    if (insn_decode(&in, bytes, 15, true, true) != INSN_OK || !hostfp_handles(&in) || excluded(&in))
        return;
    for (unsigned i = 0; i < times; i++) {
        compare(w, bytes, &in, false);
        compare(w, bytes, &in, true);
    }
}

static void every_x87_encoding_matches_the_host(void **state) {
    struct world *w = *state;
    compared = 0;
    for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            if (modrm < 0xc0 && (modrm & 0xc7) != 7)
                continue;
            u8 bytes[16] = {(u8)opcode, (u8)modrm};
            compare_encoding(w, bytes, 40);
            u8 prefixed[16] = {0x66, (u8)opcode, (u8)modrm};
            compare_encoding(w, prefixed, 10);
        }
    }
    u8 fwait[16] = {0x9b};
    compare_encoding(w, fwait, 20);
    assert_true(compared > 20000);
}

static void compare_map(struct world *w, const u8 *escape, unsigned escape_bytes) {
    static const int prefixes[] = {-1, 0x66, 0xf3, 0xf2};
    static const u8 modrms[] = {0xc1, 0xd3, 0xca, 0x07, 0x0f, 0x1f, 0xfa, 0xf1, 0xe2};
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (escape_bytes == 1 && (opcode == 0x38 || opcode == 0x3a))
            continue;
        for (size_t p = 0; p < ARRAY_LEN(prefixes); p++) {
            for (size_t m = 0; m < ARRAY_LEN(modrms); m++) {
                u8 bytes[16] = {0};
                unsigned at = 0;
                if (prefixes[p] >= 0)
                    bytes[at++] = (u8)prefixes[p];
                memcpy(bytes + at, escape, escape_bytes);
                at += escape_bytes;
                bytes[at++] = (u8)opcode;
                bytes[at++] = modrms[m];
                struct insn in;
                bytes[at] = (u8)rnd();
                bytes[at + 1] = (u8)rnd();
                if (insn_decode(&in, bytes, 15, true, true) != INSN_OK)
                    continue;
                /* Registers 4-7 are not set up on the native side. */
                bool high = false;
                for (unsigned i = 0; i < in.op_count; i++)
                    high |= in.op[i].type == OP_REG && in.op[i].reg_class <= RC_GPR32 &&
                            in.op[i].reg > 3;
                if (!high)
                    compare_encoding(w, bytes, 40);
            }
        }
    }
}

static void every_mmx_and_sse_encoding_matches_the_host(void **state) {
    struct world *w = *state;
    compared = 0;
    compare_map(w, (const u8[]){0x0f}, 1);
    compare_map(w, (const u8[]){0x0f, 0x38}, 2);
    compare_map(w, (const u8[]){0x0f, 0x3a}, 2);
    assert_true(compared > 20000);
}

/* ---- Rules of the guest's mode ---- */

static bool run(struct world *w, const char *hex) {
    u8 bytes[16] = {0};
    unsigned n = 0;
    for (char *end; *hex; hex = end)
        bytes[n++] = (u8)strtoul(hex, &end, 16);
    struct insn in;
    assert_int_equal(insn_decode(&in, bytes, 15, true, true), INSN_OK);
    assert_true(hostfp_handles(&in));
    memset(&w->cpu->fault, 0, sizeof w->cpu->fault);
    return hostfp_execute(w->it, w->cpu, &in);
}

static void fresh(struct world *w) {
    struct cpu *cpu = w->cpu;
    memset(cpu->fx, 0, sizeof cpu->fx);
    store16(cpu->fx + FCW, 0x37f);
    store32(cpu->fx + MXCSR, 0x1f80);
    memset(w->memory, 0, MEMORY_BYTES);
    cpu->gpr[R_EDI] = MEMORY_AT;
    cpu->cr0 = CR0_PE | CR0_NE | CR0_MP | CR0_ET;
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
}

static void control_registers_decide_ud_and_nm(void **state) {
    struct world *w = *state;
    static const struct {
        const char *bytes;
        u32 cr0, cr4;
        u8 vector; /* 0: runs */
    } rows[] = {
        {"d9 e8", CR0_TS, CR4_OSFXSR, VEC_NM},
        {"d9 e8", CR0_EM, CR4_OSFXSR, VEC_NM},
        {"db e3", CR0_TS, CR4_OSFXSR, VEC_NM},
        {"d9 e8", CR0_MP, 0, 0},
        {"9b", CR0_TS, CR4_OSFXSR, 0},
        {"9b", CR0_MP, CR4_OSFXSR, 0},
        {"9b", CR0_TS | CR0_MP, CR4_OSFXSR, VEC_NM},
        {"9b", CR0_EM, CR4_OSFXSR, 0},
        {"0f 6f c1", CR0_EM, CR4_OSFXSR, VEC_UD},
        {"0f 6f c1", CR0_TS, CR4_OSFXSR, VEC_NM},
        {"0f 6f c1", 0, 0, 0},
        {"0f 77", CR0_EM, 0, VEC_UD},
        {"0f 28 c1", 0, 0, VEC_UD},
        {"0f 28 c1", CR0_TS, 0, VEC_UD},
        {"0f 28 c1", CR0_EM, CR4_OSFXSR, VEC_UD},
        {"0f 28 c1", CR0_TS, CR4_OSFXSR, VEC_NM},
        {"0f 2c c1", 0, 0, VEC_UD},
        {"0f ae 07", CR0_TS, 0, VEC_NM},
        {"0f ae 07", CR0_EM, 0, VEC_NM},
        {"0f ae 07", 0, 0, 0},
        {"0f ae 1f", 0, 0, VEC_UD},
        {"0f ae 1f", CR0_TS, CR4_OSFXSR, VEC_NM},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fresh(w);
        w->cpu->cr0 = CR0_PE | CR0_NE | rows[i].cr0;
        w->cpu->cr4 = rows[i].cr4;
        bool ok = run(w, rows[i].bytes);
        if (ok != (rows[i].vector == 0) || w->cpu->fault.vector != rows[i].vector)
            fail_msg("%s, row %zu: vector %u", rows[i].bytes, i, w->cpu->fault.vector);
    }
}

static void misaligned_sse_operands_raise_gp(void **state) {
    struct world *w = *state;
    fresh(w);
    w->cpu->gpr[R_EDI] = MEMORY_AT + 8;
    assert_false(run(w, "0f 28 07")); /* movaps */
    assert_int_equal(w->cpu->fault.vector, VEC_GP);
    assert_true(w->cpu->fault.has_error);
    assert_false(run(w, "66 0f fe 07")); /* paddd */
    assert_int_equal(w->cpu->fault.vector, VEC_GP);
    assert_true(run(w, "0f 10 07"));          /* movups */
    assert_true(run(w, "f2 0f f0 07"));       /* lddqu */
    assert_true(run(w, "66 0f 3a 63 07 00")); /* pcmpistri */
    assert_true(run(w, "f3 0f 58 07"));       /* addss: 4 bytes */
    assert_false(run(w, "0f ae 07"));         /* fxsave */
    assert_int_equal(w->cpu->fault.vector, VEC_GP);
}

static void faulting_operands_leave_no_trace(void **state) {
    struct world *w = *state;
    fresh(w);
    struct cpu *cpu = w->cpu;
    cpu->fx[FTW] = 0xff;
    cpu->seg[SEG_DS].limit = MEMORY_AT + 3;
    u8 before[512];
    memcpy(before, cpu->fx, sizeof before);
    assert_false(run(w, "dd 1f")); /* fstp qword [edi] */
    assert_int_equal(cpu->fault.vector, VEC_GP);
    assert_memory_equal(before, cpu->fx, sizeof before);
    assert_true(run(w, "d9 1f")); /* fstp dword [edi] */
    memcpy(before, cpu->fx, sizeof before);
    assert_false(run(w, "66 0f d6 07")); /* movq [edi], xmm0 */
    assert_false(run(w, "dd 07"));       /* fld qword [edi] */
    assert_false(run(w, "dd 37"));       /* fnsave [edi] */
    assert_memory_equal(before, cpu->fx, sizeof before);
    cpu->seg[SEG_DS].limit = 0xffffffff;
}

static void esp_is_an_ordinary_operand(void **state) {
    struct world *w = *state;
    fresh(w);
    w->cpu->gpr[R_ESP] = 0x89abcdef;
    assert_true(run(w, "66 0f 6e cc")); /* movd xmm1, esp */
    assert_int_equal(load32(w->cpu->fx + XMM + 16), 0x89abcdef);
    store32(w->cpu->fx + XMM + 16, 0x12345678);
    assert_true(run(w, "66 0f 7e cc")); /* movd esp, xmm1 */
    assert_int_equal(w->cpu->gpr[R_ESP], 0x12345678);
    w->cpu->gpr[R_ESP] = MEMORY_AT;
    store32(w->memory + 4, 0xfeedface);
    assert_true(run(w, "66 0f 6e 44 24 04")); /* movd xmm0, [esp+4] */
    assert_int_equal(load32(w->cpu->fx + XMM), 0xfeedface);
}

static void x87_pointers_are_the_guests(void **state) {
    struct world *w = *state;
    fresh(w);
    struct cpu *cpu = w->cpu;
    assert_true(run(w, "d9 47 04")); /* fld dword [edi+4] */
    assert_int_equal(load16(cpu->fx + FOP), 0x147);
    assert_int_equal(load32(cpu->fx + FIP), 0x1234);
    assert_int_equal(load16(cpu->fx + FCS), 8);
    assert_int_equal(load32(cpu->fx + FDP), MEMORY_AT + 4);
    assert_true(run(w, "d9 77 10")); /* fnstenv [edi+16] */
    assert_int_equal(load32(w->memory + 16 + 12), 0x1234);
    assert_int_equal(load32(w->memory + 16 + 16), 8 | 0x147 << 16);
    assert_int_equal(load32(w->memory + 16 + 20), MEMORY_AT + 4);
    assert_int_equal(load32(w->memory + 16 + 24), 0xffff0010);
    assert_int_equal(load32(w->memory + 16 + 8), 0xffff7fff); /* ST(0) is R7, zero: tag 01 */
    assert_true(run(w, "db e3"));
    assert_int_equal(load32(cpu->fx + FIP), 0);
    assert_true(run(w, "d9 67 10")); /* fldenv [edi+16] */
    assert_int_equal(load32(cpu->fx + FIP), 0x1234);
    assert_int_equal(load16(cpu->fx + FOP), 0x147);
    assert_int_equal(cpu->fx[FTW], 0x80);
    cpu->cr0 = 0; /* real mode: linear addresses in 20-bit form */
    cpu->seg[SEG_CS].selector = 0xf000;
    assert_true(run(w, "d9 e8"));
    cpu->seg[SEG_CS].selector = 8;
    assert_true(run(w, "66 d9 37")); /* 16-bit fnstenv */
    assert_int_equal(load16(w->memory + 6), 0x1234);
    assert_int_equal(load16(w->memory + 8), 0xf000 | 0x1e8);
}

static void fxsave_writes_the_32_bit_image_only(void **state) {
    struct world *w = *state;
    fresh(w);
    struct cpu *cpu = w->cpu;
    struct native n;
    random_state(&n, false);
    memcpy(cpu->fx, n.fx, FX_COMPARED);
    memset(cpu->fx + 288, 0x55, 224);
    memset(w->memory, 0xaa, MEMORY_BYTES);
    assert_true(run(w, "0f ae 07"));
    for (unsigned i = 288; i < 512; i++)
        assert_int_equal(w->memory[i], 0xaa);
    assert_int_equal(load32(w->memory + 28), 0xffff);
    assert_memory_equal(w->memory + ST, cpu->fx + ST, 256);
    u8 image[512];
    memcpy(image, w->memory, sizeof image);
    fresh(w);
    memcpy(w->memory, image, sizeof image);
    assert_true(run(w, "0f ae 0f"));
    assert_memory_equal(cpu->fx, image, 28);
    assert_memory_equal(cpu->fx + ST, image + ST, 256);
    store32(w->memory + MXCSR, 0x10000);
    assert_false(run(w, "0f ae 0f"));
    assert_int_equal(cpu->fault.vector, VEC_GP);
    cpu->cr4 = 0; /* SSE state not restored, so its MXCSR is not looked at */
    assert_true(run(w, "0f ae 0f"));
    assert_int_equal(load32(cpu->fx + MXCSR), load32(image + MXCSR));
}

static void unmasked_simd_exceptions_are_ud_without_osxmmexcpt(void **state) {
    struct world *w = *state;
    fresh(w);
    store32(w->cpu->fx + MXCSR, 0x1f80 & ~(1u << 9)); /* divide by zero unmasked */
    store32(w->cpu->fx + XMM, 0x3f800000);
    w->cpu->cr4 = CR4_OSFXSR;
    assert_false(run(w, "f3 0f 5e c1")); /* divss xmm0, xmm1 */
    assert_int_equal(w->cpu->fault.vector, VEC_UD);
    w->cpu->cr4 |= CR4_OSXMMEXCPT;
    assert_false(run(w, "f3 0f 5e c1"));
    assert_int_equal(w->cpu->fault.vector, VEC_XM);
    assert_int_equal(load32(w->cpu->fx + XMM), 0x3f800000);
    assert_int_equal(load32(w->cpu->fx + MXCSR) & 0x3f, 4);
}

static void a_pending_exception_stops_the_next_waiting_instruction(void **state) {
    struct world *w = *state;
    fresh(w);
    store16(w->cpu->fx + FCW, 0x37f & ~4); /* zero divide unmasked */
    assert_true(run(w, "d9 e8"));          /* fld1 */
    assert_true(run(w, "d9 ee"));          /* fldz */
    assert_true(run(w, "d8 f9"));          /* fdivr st0, st1: 1/0 raises, later */
    assert_true(load16(w->cpu->fx + FSW) & 0x80);
    assert_true(run(w, "df e0")); /* fnstsw ax */
    assert_int_equal((u16)w->cpu->gpr[R_EAX], load16(w->cpu->fx + FSW));
    static const char *const waiting[] = {"9b", "d9 e8", "0f 6f c1", "0f 77", "0f 2a c1"};
    for (size_t i = 0; i < ARRAY_LEN(waiting); i++) {
        assert_false(run(w, waiting[i]));
        assert_int_equal(w->cpu->fault.vector, VEC_MF);
    }
    assert_true(run(w, "0f 28 c1")); /* SSE does not wait */
    assert_true(run(w, "db e2"));    /* fnclex */
    assert_true(run(w, "9b"));
}

static void features_the_model_hides_are_undefined(void **state) {
    struct world *w = *state;
    fresh(w);
    static const struct cpu_model model = {.signature = 0x673,
                                           .f1_edx = 1 | 1 << 15 | 1 << 23 | 1 << 25 | 1 << 26};
    w->cpu->model = &model;
    assert_true(run(w, "66 0f ef c0"));
    assert_false(run(w, "66 0f 38 00 c0")); /* pshufb: SSSE3 */
    assert_int_equal(w->cpu->fault.vector, VEC_UD);
    assert_false(run(w, "f2 0f d0 c0")); /* addsubps: SSE3 */
    assert_false(run(w, "66 0f 3a 0e c0 01"));
    w->cpu->model = NULL;
}

/* More distinct encodings than slots: eviction must be invisible. */
static void the_stub_cache_evicts_and_stays_right(void **state) {
    struct world *w = *state;
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned imm = 0; imm < 256; imm++) {
            fresh(w);
            char hex[32];
            store32(w->cpu->fx + XMM + 16 * (round % 8), 0x11223344);
            store32(w->cpu->fx + XMM + 16 * (round % 8) + 4, 0x55667788);
            snprintf(hex, sizeof hex, "66 0f 70 %02x %02x", 0xc0 | round % 64, imm);
            assert_true(run(w, hex)); /* pshufd */
        }
    }
    fresh(w);
    store32(w->cpu->fx + XMM + 16, 0xcafe);
    assert_true(run(w, "66 0f 70 c1 00"));
    assert_int_equal(load32(w->cpu->fx + XMM + 12), 0xcafe);
}

/* One instruction on xmm0 and xmm1, everything unmasked: the flags it leaves. */
static u32 flags_after_xm(struct world *w, const char *hex, u64 a, u64 b) {
    fresh(w);
    store32(w->cpu->fx + MXCSR, 0);
    store64(w->cpu->fx + XMM, a);
    store64(w->cpu->fx + XMM + 16, b);
    assert_false(run(w, hex));
    assert_int_equal(w->cpu->fault.vector, VEC_XM);
    return load32(w->cpu->fx + MXCSR);
}

/* SDM volume 1, sections 11.5.2.4 and 11.5.2.5: PE tells of the result with unbounded exponent. */
static void unmasked_overflow_is_precise_or_not(void **state) {
    struct world *w = *state;
    assert_int_equal(flags_after_xm(w, "f3 0f 59 c1", 0x7f000000, 0x7f000000), 0x08);
    assert_int_equal(flags_after_xm(w, "f3 0f 59 c1", 0x7f7fffff, 0x7f7fffff), 0x28);
    assert_int_equal(flags_after_xm(w, "f3 0f 59 c1", 0x00800000, 0x00800000), 0x10);
    assert_int_equal(flags_after_xm(w, "f3 0f 5e c1", 0x00800000, 0x7f400000), 0x30);
    assert_int_equal(flags_after_xm(w, "f3 0f 58 c1", 0x7f7fffff, 0x7f7fffff), 0x08);
    assert_int_equal(flags_after_xm(w, "f2 0f 5a c1", 0, 0x7fe0000000000000), 0x08);
    assert_int_equal(flags_after_xm(w, "f2 0f 5a c1", 0, 0x7fe0000000000001), 0x28);
    /* dpps: the products raise overflow, their sum is not made */
    assert_int_equal(flags_after_xm(w, "66 0f 3a 40 c1 31", 0xff0000007f000000, 0x7f0000007f000000),
                     0x08);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_x87_encoding_matches_the_host),
        cmocka_unit_test(every_mmx_and_sse_encoding_matches_the_host),
        cmocka_unit_test(control_registers_decide_ud_and_nm),
        cmocka_unit_test(misaligned_sse_operands_raise_gp),
        cmocka_unit_test(faulting_operands_leave_no_trace),
        cmocka_unit_test(esp_is_an_ordinary_operand),
        cmocka_unit_test(x87_pointers_are_the_guests),
        cmocka_unit_test(fxsave_writes_the_32_bit_image_only),
        cmocka_unit_test(unmasked_simd_exceptions_are_ud_without_osxmmexcpt),
        cmocka_unit_test(unmasked_overflow_is_precise_or_not),
        cmocka_unit_test(a_pending_exception_stops_the_next_waiting_instruction),
        cmocka_unit_test(features_the_model_hides_are_undefined),
        cmocka_unit_test(the_stub_cache_evicts_and_stays_right),
    };
    return cmocka_run_group_tests(tests, create_world, destroy_world);
}
