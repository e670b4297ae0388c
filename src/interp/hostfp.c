/*
 * hostfp.c: x87, MMX and SSE by running the very instruction on the host.
 *
 * The guest's FX state is loaded into the host's registers, the instruction runs with its memory
 * operand redirected to a bounce buffer and its integer register to EAX, and the state is taken
 * back. Each distinct encoding becomes one small stub (the instruction and RET), cached. Guest
 * memory is read before and written after, so a fault leaves nothing half done. Guest FP state is
 * live in host registers in two places only: run_stub() moves all of it, run_vector() just the XMM
 * registers, for instructions that touch no others.
 *
 * The guest cannot make the host take an FP exception: x87 instructions only raise the *previous*
 * one's exception, and a pending one is reported as #MF in software before anything runs; SSE
 * exceptions run masked and are compared with the guest's masks afterwards.
 */
#include "base/memory.h"
#include "base/serialize.h"
#include "interp/hostfp_internal.h"

#include "interp/interp_internal.h"

#include <cpuid.h>
#include <stdlib.h>

/* ---- The stub cache ---- */

/* One stub per slot, direct-mapped: a collision evicts. */
enum { STUB_SLOTS = 8192, STUB_BYTES = 16, STUB_INSN_MAX = 12 };

/* CPUID features that decide whether an instruction exists. FEATURE_NEVER: not here at all. */
enum feature {
    FEATURE_X87,
    FEATURE_FCMOV,
    FEATURE_MMX,
    FEATURE_SSE,
    FEATURE_SSE2,
    FEATURE_SSE3,
    FEATURE_SSSE3,
    FEATURE_SSE41,
    FEATURE_SSE42,
    FEATURE_PCLMUL,
    FEATURE_AES,
    FEATURE_SHA,
    FEATURE_SSE4A,
    FEATURE_NEVER
};

struct stub_slot {
    u8 code[STUB_INSN_MAX]; /* re-encoded instruction; all zero: free */
    u8 bytes;
    u8 feature;
};

/* What run_stub() works on; the assembly addresses it by offsetof. */
struct fp_call {
    _Alignas(64) u8 fx[FX_BYTES];
    _Alignas(64) u8 memory[64]; /* the bounce buffer: the memory operand is [rdi] */
    u64 eax, ecx, edx;
    u64 flags; /* in AX, as ASM_FLAGS_OUT has them */
    const void *code;
    u32 host_mxcsr;
    u16 host_fcw;
};

/* What CPUID reports: 1.EDX, 1.ECX, 7.EBX, 80000001h.ECX. */
struct cpuid_words {
    u32 word[4];
};

struct hostfp {
    struct fp_call call;
    struct stub_slot slot[STUB_SLOTS];
    struct memory_code stubs; /* never writable and executable at one address */
    struct cpuid_words host;  /* what the host reports */
};

/* Where CPUID reports each feature. */
static bool words_have(const struct cpuid_words *w, enum feature f) {
    static const struct {
        u8 word, bit;
    } place[FEATURE_NEVER] = {
        [FEATURE_X87] = {0, 0},    [FEATURE_FCMOV] = {0, 15}, [FEATURE_MMX] = {0, 23},
        [FEATURE_SSE] = {0, 25},   [FEATURE_SSE2] = {0, 26},  [FEATURE_SSE3] = {1, 0},
        [FEATURE_PCLMUL] = {1, 1}, [FEATURE_SSSE3] = {1, 9},  [FEATURE_SSE41] = {1, 19},
        [FEATURE_SSE42] = {1, 20}, [FEATURE_AES] = {1, 25},   [FEATURE_SHA] = {2, 29},
        [FEATURE_SSE4A] = {3, 6},
    };
    return f < FEATURE_NEVER && (w->word[place[f].word] >> place[f].bit & 1);
}

static struct cpuid_words host_words(void) {
    u32 a, b, ecx, edx, f7_ebx = 0, x1_ecx = 0, unused;
    if (!__get_cpuid(1, &a, &b, &ecx, &edx))
        return (struct cpuid_words){0};
    if (!__get_cpuid_count(7, 0, &a, &f7_ebx, &b, &unused))
        f7_ebx = 0;
    if (!__get_cpuid(0x80000001, &a, &b, &x1_ecx, &unused))
        x1_ecx = 0;
    return (struct cpuid_words){{edx, ecx, f7_ebx, x1_ecx}};
}

struct hostfp *hostfp_create(void) {
    struct hostfp *fp = aligned_alloc(64, ALIGN_UP(sizeof *fp, 64));
    if (!fp)
        return NULL;
    memset(fp, 0, sizeof *fp);
    fp->host = host_words();
    if (!memory_code_create(&fp->stubs, (u64)STUB_SLOTS * STUB_BYTES)) {
        hostfp_destroy(fp);
        return NULL;
    }
    return fp;
}

void hostfp_destroy(struct hostfp *fp) {
    if (!fp)
        return;
    memory_code_destroy(&fp->stubs);
    free(fp);
}

/* The feature an instruction needs, by Zydis' grouping. */
static enum feature feature_of(const struct insn *in) {
    static const ZydisDecoder decoder = {.machine_mode = ZYDIS_MACHINE_MODE_LEGACY_32,
                                         .stack_width = ZYDIS_STACK_WIDTH_32};
    ZydisDecodedInstruction zi;
    /* The operand and address size do not change the group, so neither does the code size. */
    u8 bytes[INSN_MAX_BYTES + 8] = {0};
    memcpy(bytes, in->bytes, in->length);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, 15, &zi)))
        return FEATURE_NEVER;
    switch (zi.meta.isa_set) {
    case ZYDIS_ISA_SET_X87:
        return FEATURE_X87;
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_PPRO: /* FCOMI */
        return FEATURE_FCMOV;
    case ZYDIS_ISA_SET_PENTIUMMMX:
        return FEATURE_MMX;
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR:
        return FEATURE_SSE;
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
        return FEATURE_SSE2;
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87:
        return FEATURE_SSE3;
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
        return FEATURE_SSSE3;
    case ZYDIS_ISA_SET_SSE4:
        return FEATURE_SSE41;
    case ZYDIS_ISA_SET_SSE42:
        return FEATURE_SSE42;
    case ZYDIS_ISA_SET_PCLMULQDQ:
        return FEATURE_PCLMUL;
    case ZYDIS_ISA_SET_AES:
        return FEATURE_AES;
    case ZYDIS_ISA_SET_SHA:
        return FEATURE_SHA;
    case ZYDIS_ISA_SET_SSE4A:
        return FEATURE_SSE4A;
    default:
        return FEATURE_NEVER;
    }
}

/* The ModRM field of the explicit integer register operand, if there is one: 0 or its shift. */
struct gpr_operand {
    bool present;
    u8 reg, shift; /* shift of its field in ModRM: 0 (rm) or 3 (reg) */
};
static struct gpr_operand find_gpr(const struct insn *in) {
    for (unsigned i = 0; i < in->op_count; i++) {
        const struct insn_op *op = &in->op[i];
        if (op->type == OP_REG && op->reg_class <= RC_GPR32 &&
            (op->field == FIELD_MODRM_REG || op->field == FIELD_MODRM_RM))
            return (struct gpr_operand){true, op->reg, op->field == FIELD_MODRM_REG ? 3 : 0};
    }
    return (struct gpr_operand){0};
}

/* The instruction for 64-bit mode: memory operand at [rdi], integer register EAX. Segment and
 * address-size prefixes go; of the others those that select the instruction stay. */
static unsigned reencode(const struct insn *in, const struct gpr_operand *gpr, u8 *out) {
    unsigned n = 0;
    bool operand_size = false;
    for (unsigned i = 0; i < in->opcode_offset; i++)
        operand_size |= in->bytes[i] == 0x66;
    if (in->map != 0) {
        if (operand_size)
            out[n++] = 0x66;
        if (in->rep || in->repne)
            out[n++] = in->rep ? 0xf3 : 0xf2;
        out[n++] = 0x0f;
        if (in->map > 1)
            out[n++] = in->map == 2 ? 0x38 : 0x3a;
    }
    out[n++] = in->opcode;
    if (!in->has_modrm)
        return n;
    u8 modrm = in->modrm;
    if (modrm < 0xc0)
        modrm = (modrm & 0x38) | 7;
    if (gpr->present)
        modrm &= (u8) ~(7u << gpr->shift);
    out[n++] = modrm;
    unsigned tail_at = in->modrm_offset + 1u + in->has_sib + in->disp_bytes;
    for (unsigned i = tail_at; i < in->length && n < STUB_INSN_MAX; i++)
        out[n++] = in->bytes[i];
    return n;
}

static u32 hash_code(const u8 code[STUB_INSN_MAX]) {
    u64 h = (load64(code) ^ (u64)load32(code + 8) << 17) * 0x9e3779b97f4a7c15ull;
    return (u32)(h >> 51) % STUB_SLOTS;
}

/* Finds or makes the stub; sets call.code. Returns the instruction's feature. */
static enum feature select_stub(struct hostfp *fp, const struct insn *in,
                                const struct gpr_operand *gpr) {
    u8 code[STUB_INSN_MAX] = {0};
    unsigned bytes = reencode(in, gpr, code);
    u32 index = hash_code(code);
    struct stub_slot *slot = &fp->slot[index];
    fp->call.code = fp->stubs.rx + (size_t)index * STUB_BYTES;
    if (likely(slot->bytes == bytes && memcmp(slot->code, code, sizeof code) == 0))
        return slot->feature;
    u8 *stub = fp->stubs.rw + (size_t)index * STUB_BYTES;
    memset(stub, 0xcc, STUB_BYTES);
    memcpy(stub, code, bytes);
    stub[bytes] = 0xc3;
    host_serialize();
    memcpy(slot->code, code, sizeof code);
    slot->bytes = (u8)bytes;
    slot->feature = (u8)feature_of(in);
    return slot->feature;
}

/* The instruction itself between the integer registers, flags and memory operand of the call, which
 * RBX points to. Nothing else here is allowed to touch the flags or the guest's FP state. */
#define CALL_STUB                                                                                  \
    "mov %c[flags](%%rbx), %%eax\n\t" ASM_FLAGS_IN "mov %c[eax](%%rbx), %%eax\n\t"                 \
    "mov %c[ecx](%%rbx), %%ecx\n\t"                                                                \
    "mov %c[edx](%%rbx), %%edx\n\t"                                                                \
    "lea %c[memory](%%rbx), %%rdi\n\t"                                                             \
    "call *%c[code](%%rbx)\n\t"                                                                    \
    "mov %%eax, %c[eax](%%rbx)\n\t"                                                                \
    "mov %%ecx, %c[ecx](%%rbx)" ASM_FLAGS_OUT "\n\t"                                               \
    "mov %%eax, %c[flags](%%rbx)\n\t"
#define AT(field) [field] "i"(offsetof(struct fp_call, field))
#define XMM_CLOBBERS                                                                               \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* Runs call->code on the XMM registers of an FX image and on call's MXCSR; results are call's. */
static __attribute__((noinline)) void run_vector(struct fp_call *call, const u8 *image) {
#define EACH_XMM(X) X("0") X("1") X("2") X("3") X("4") X("5") X("6") X("7")
#define LOAD_XMM(n) "movups 16*" n "(%[from]), %%xmm" n "\n\t"
#define STORE_XMM(n) "movups %%xmm" n ", %c[xmm]+16*" n "(%%rbx)\n\t"
    /* clang-format off */
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "stmxcsr %c[host_mxcsr](%%rbx)\n\t"
                     "ldmxcsr %c[mxcsr](%%rbx)\n\t"
                     EACH_XMM(LOAD_XMM)
                     CALL_STUB
                     EACH_XMM(STORE_XMM)
                     "stmxcsr %c[mxcsr](%%rbx)\n\t"
                     "ldmxcsr %c[host_mxcsr](%%rbx)\n\t"
                     "lea 128(%%rsp), %%rsp"
                     :
                     : "b"(call), [from] "S"(image + FX_XMM), AT(host_mxcsr), AT(eax), AT(ecx),
                       AT(edx), AT(memory), AT(flags), AT(code),
                       [xmm] "i"(offsetof(struct fp_call, fx) + FX_XMM),
                       [mxcsr] "i"(offsetof(struct fp_call, fx) + FX_MXCSR)
                     : "rax", "rcx", "rdx", "rdi", "memory", "cc", XMM_CLOBBERS);
    /* clang-format on */
#undef EACH_XMM
#undef LOAD_XMM
#undef STORE_XMM
}

/* Runs call->code on all of call's state. The host's control words come back; its x87 stack is
 * empty, as the ABI wants it: EMMS does that at a fraction of FNINIT's cost, but not while an
 * exception is pending. Signals that arrive in between see the kernel's own default FP state. */
static __attribute__((noinline)) void run_stub(struct fp_call *call) {
    /* clang-format off */
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "fnstcw %c[host_fcw](%%rbx)\n\t"
                     "stmxcsr %c[host_mxcsr](%%rbx)\n\t"
                     "fxrstor64 %c[fx](%%rbx)\n\t"
                     CALL_STUB
                     "fxsave64 %c[fx](%%rbx)\n\t"
                     "testb %[es], %c[fsw](%%rbx)\n\t"
                     "jnz 1f\n\t"
                     "emms\n\t"
                     "jmp 2f\n"
                     "1:\tfninit\n"
                     "2:\tfldcw %c[host_fcw](%%rbx)\n\t"
                     "ldmxcsr %c[host_mxcsr](%%rbx)\n\t"
                     "lea 128(%%rsp), %%rsp"
                     :
                     : "b"(call), AT(host_fcw), AT(host_mxcsr), AT(fx), AT(eax), AT(ecx), AT(edx),
                       AT(memory), AT(flags), AT(code), [es] "i"(FSW_ES),
                       [fsw] "i"(offsetof(struct fp_call, fx) + FX_FSW)
                     : "rax", "rcx", "rdx", "rdi", "memory", "cc", XMM_CLOBBERS);
    /* clang-format on */
}
#undef AT
#undef CALL_STUB
#undef XMM_CLOBBERS

/* ---- Classification ---- */

/* Which set of CR0/CR4 rules holds. SSE_MMX: SSE instructions that also touch MMX registers. */
enum kind { KIND_X87, KIND_FWAIT, KIND_FXSR, KIND_MMX, KIND_SSE, KIND_SSE_MMX };

static enum kind kind_of(const struct insn *in) {
    if (in->map == 0)
        return in->opcode == 0x9b ? KIND_FWAIT : KIND_X87;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
        return KIND_FXSR;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
        return KIND_SSE;
    case ZYDIS_MNEMONIC_EMMS:
        return KIND_MMX;
    default:
        break;
    }
    bool mmx = false, xmm = false;
    for (unsigned i = 0; i < in->op_count; i++) {
        mmx |= in->op[i].type == OP_REG && in->op[i].reg_class == RC_MMX;
        xmm |= in->op[i].type == OP_REG && in->op[i].reg_class == RC_XMM;
    }
    if (!mmx)
        return KIND_SSE;
    bool converts = in->map == 1 && (in->opcode == 0x2c || in->opcode == 0x2d);
    return xmm || converts ? KIND_SSE_MMX : KIND_MMX;
}

bool hostfp_handles(const struct insn *in) {
    if (in->map == 0)
        return (in->opcode & 0xf8) == 0xd8 || in->opcode == 0x9b;
    /* CVT(T)SS2SI and CVT(T)SD2SI from memory name no vector register. */
    if (in->map == 1 && (in->opcode == 0x2c || in->opcode == 0x2d))
        return true;
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_REG &&
            (in->op[i].reg_class == RC_MMX || in->op[i].reg_class == RC_XMM))
            return true;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_EMMS:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
        return true;
    default:
        return false;
    }
}

/* SDM volume 3, section 2.5 "Control Registers", tables 2-2 and 13-1; volume 2, the exception lists
 * of the instructions. */
static bool allowed_by_control_registers(struct cpu *cpu, enum kind kind) {
    u32 cr0 = cpu->cr0;
    switch (kind) {
    case KIND_FWAIT:
        return (cr0 & (CR0_MP | CR0_TS)) != (CR0_MP | CR0_TS) || cpu_fault(cpu, VEC_NM);
    case KIND_X87:
    case KIND_FXSR:
        return !(cr0 & (CR0_EM | CR0_TS)) || cpu_fault(cpu, VEC_NM);
    case KIND_SSE:
    case KIND_SSE_MMX:
        if (!(cpu->cr4 & CR4_OSFXSR))
            return cpu_fault(cpu, VEC_UD);
        break;
    case KIND_MMX:
        break;
    }
    if (cr0 & CR0_EM)
        return cpu_fault(cpu, VEC_UD);
    return !(cr0 & CR0_TS) || cpu_fault(cpu, VEC_NM);
}

/* The x87 instructions that do not look at pending exceptions, and leave the pointers alone. */
static bool x87_control(const struct insn *in, bool *waits) {
    unsigned reg = in->modrm >> 3 & 7;
    bool memory = in->modrm < 0xc0;
    *waits = true;
    if (memory && in->opcode == 0xd9 && reg >= 4) { /* FLDENV FLDCW FNSTENV FNSTCW */
        *waits = reg < 6;
        return true;
    }
    if (memory && in->opcode == 0xdd && (reg == 4 || reg >= 6)) { /* FRSTOR FNSAVE FNSTSW */
        *waits = reg == 4;
        return true;
    }
    bool control = (in->opcode == 0xdf && in->modrm == 0xe0) ||
                   (in->opcode == 0xdb && in->modrm >= 0xe0 && in->modrm <= 0xe4);
    if (control)
        *waits = false;
    return control;
}

/* ---- Instructions done in software ---- */

enum software { SOFTWARE_NO, SOFTWARE_DONE, SOFTWARE_FAULT };
static enum software outcome(bool ok) {
    return ok ? SOFTWARE_DONE : SOFTWARE_FAULT;
}

static enum software x87_state_insn(struct interp *it, struct cpu *cpu, const struct insn *in) {
    if (in->modrm >= 0xc0) {
        if (in->opcode == 0xdf && in->modrm == 0xe0) { /* FNSTSW AX */
            store16(&cpu->gpr[R_EAX], fx_get16(cpu, FX_FSW));
            return SOFTWARE_DONE;
        }
        if (in->opcode != 0xdb || in->modrm < 0xe0 || in->modrm > 0xe4)
            return SOFTWARE_NO;
        if (in->modrm == 0xe2) /* FNCLEX */
            fx_set16(cpu, FX_FSW, fx_get16(cpu, FX_FSW) & 0x7f00);
        else if (in->modrm == 0xe3)
            hostfp_fninit(cpu);
        return SOFTWARE_DONE; /* DB E0, E1, E4: 8087 and 80287 control, ignored since the 387 */
    }
    switch (in->opcode << 3 | (in->modrm >> 3 & 7)) {
    case 0xd9 << 3 | 4:
        return outcome(hostfp_fldenv(it, cpu, in));
    case 0xd9 << 3 | 6:
        return outcome(hostfp_fnstenv(it, cpu, in));
    case 0xd9 << 3 | 7:
        return outcome(hostfp_store(it, cpu, in, cpu->fx + FX_FCW, 2, 2));
    case 0xdd << 3 | 4:
        return outcome(hostfp_frstor(it, cpu, in));
    case 0xdd << 3 | 6:
        return outcome(hostfp_fnsave(it, cpu, in));
    case 0xdd << 3 | 7:
        return outcome(hostfp_store(it, cpu, in, cpu->fx + FX_FSW, 2, 2));
    default:
        return SOFTWARE_NO;
    }
}

/* MASKMOVQ and MASKMOVDQU: bytes selected by the mask's sign bits go to [EDI]. Every selected byte
 * is checked before the first is written. Where alignment is checked, EDI must be a multiple of 8,
 * as AMD family 1Ah has it; the manuals give no width. */
static bool mask_move(struct interp *it, struct cpu *cpu, const struct insn *in, bool mmx) {
    unsigned base = mmx ? FX_ST : FX_XMM, bytes = mmx ? 8 : 16;
    const u8 *data = cpu->fx + base + 16 * (in->modrm >> 3 & 7);
    const u8 *mask = cpu->fx + base + 16 * (in->modrm & 7);
    enum seg seg = in->seg_override == INSN_NO_REG ? SEG_DS : (enum seg)in->seg_override;
    u32 wrap = in->addr_bytes == 2 ? 0xffff : 0xffffffff;
    if (mmx) { /* the register file's view of it before the mode changes: ST order, so by TOP */
        unsigned top = (fx_get16(cpu, FX_FSW) & FSW_TOP) >> 11;
        data = cpu->fx + base + 16 * (((in->modrm >> 3) - top) & 7);
        mask = cpu->fx + base + 16 * ((in->modrm - top) & 7);
    }
    u32 lin[16];
    for (unsigned i = 0; i < bytes; i++) {
        struct access how = {.align = i == 0 ? 8 : 1, .write = true, .watch = mask[i] & 0x80};
        u32 offset = ((u32)cpu->gpr[R_EDI] + i) & wrap;
        if ((i == 0 && (it->checks & CHECK_ALIGN)) || (mask[i] & 0x80)) {
            if (!seg_linear_aligned(it, cpu, seg, offset, 1, how, &lin[i]))
                return false;
        }
        if ((mask[i] & 0x80) && !mmu_check_write(cpu, lin[i], 1, MMU_WRITE))
            return false;
    }
    for (unsigned i = 0; i < bytes; i++)
        if ((mask[i] & 0x80) && !mmu_write(cpu, lin[i], &data[i], 1, MMU_WRITE))
            return false;
    return true;
}

/* MMX instructions leave TOP 0 and all registers tagged valid. */
static void enter_mmx(struct cpu *cpu) {
    hostfp_set_fsw(cpu, fx_get16(cpu, FX_FSW) & (u16)~FSW_TOP);
    cpu->fx[FX_FTW] = 0xff;
}

static enum software sse_state_insn(struct interp *it, struct cpu *cpu, const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_EMMS:
        enter_mmx(cpu);
        cpu->fx[FX_FTW] = 0;
        return SOFTWARE_DONE;
    case ZYDIS_MNEMONIC_FXSAVE:
        return outcome(hostfp_fxsave(it, cpu, in));
    case ZYDIS_MNEMONIC_FXRSTOR:
        return outcome(hostfp_fxrstor(it, cpu, in));
    case ZYDIS_MNEMONIC_LDMXCSR:
        return outcome(hostfp_ldmxcsr(it, cpu, in));
    case ZYDIS_MNEMONIC_STMXCSR:
        return outcome(hostfp_store(it, cpu, in, cpu->fx + FX_MXCSR, 4, 4));
    case ZYDIS_MNEMONIC_MASKMOVDQU:
        return outcome(mask_move(it, cpu, in, false));
    case ZYDIS_MNEMONIC_MASKMOVQ:
        if (!mask_move(it, cpu, in, true))
            return SOFTWARE_FAULT;
        enter_mmx(cpu);
        return SOFTWARE_DONE;
    default:
        return SOFTWARE_NO;
    }
}

/* ---- Running the instruction itself ---- */

/* The memory operand of an instruction that runs natively. */
struct fp_memory {
    bool present, store;
    u8 bytes;
    u32 offset, lin;
};

static bool x87_stores(const struct insn *in) {
    unsigned reg = in->modrm >> 3 & 7;
    switch (in->opcode) {
    case 0xd9: /* FST, FSTP */
        return reg == 2 || reg == 3;
    case 0xdb: /* FISTTP, FIST, FISTP, FSTP m80 */
    case 0xdd: /* FISTTP, FST, FSTP */
    case 0xdf: /* FISTTP, FIST, FISTP, FBSTP, FISTP m64 */
        return (reg >= 1 && reg <= 3) || (in->opcode == 0xdb && reg == 7) ||
               (in->opcode == 0xdf && reg >= 6);
    default:
        return false;
    }
}

/* Instructions whose 16-byte memory operand need not be aligned. */
static bool unaligned_allowed(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    default:
        return false;
    }
}

/* SDM volume 3, table 6-7 "Alignment Requirements by Data Type": 80-bit numbers to 8 bytes. Of 128
 * bits that need not be aligned, processors may check it (volume 2, "MOVDQU"): AMD's do. */
static u8 operand_alignment(unsigned bytes) {
    return bytes == 10 ? 8 : (u8)bytes;
}

/* Finds and checks the memory operand and reads it into the bounce buffer. */
static bool open_memory(struct interp *it, struct cpu *cpu, const struct insn *in, enum kind kind,
                        struct fp_memory *m) {
    u8 *buffer = it->fp->call.memory;
    *m = (struct fp_memory){0};
    if (!in->has_modrm || in->modrm >= 0xc0)
        return true;
    for (unsigned i = 0; i < in->op_count; i++) {
        if (in->op[i].type == OP_MEM) {
            m->present = true;
            m->bytes = in->op[i].bytes;
            m->store = kind == KIND_X87 ? x87_stores(in) : i == 0;
        }
    }
    if (!m->present || m->bytes == 0 || m->bytes > 16)
        return cpu_fault(cpu, VEC_UD);
    m->offset = ea_offset(cpu, in);
    struct access how = {.align = operand_alignment(m->bytes), .write = m->store};
    bool strict = m->bytes == 16 && !unaligned_allowed(in); /* #GP, whatever AC says */
    if (strict)
        how.align = 1;
    if (!seg_linear_aligned(it, cpu, in->mem_seg, m->offset, m->bytes, how, &m->lin))
        return false;
    if (strict && m->lin % 16 != 0)
        return cpu_fault_error(cpu, VEC_GP, 0);
    memset(buffer, 0, 16);
    if (!m->store)
        return mmu_read(cpu, m->lin, buffer, m->bytes, MMU_READ);
    if (!mmu_check_write(cpu, m->lin, m->bytes, MMU_WRITE))
        return false;
    /* An unmasked x87 exception may leave the destination unwritten: then its old value goes back.
     */
    bool may_not_store = kind == KIND_X87 && (~fx_get16(cpu, FX_FCW) & FCW_MASKS);
    return !may_not_store || mmu_read(cpu, m->lin, buffer, m->bytes, MMU_READ);
}

static inline void copy_xmm(u8 *to, const u8 *from) {
    memcpy(to + FX_XMM, from + FX_XMM, FX_GUEST_BYTES - FX_XMM);
}
static inline void copy_x87(u8 *to, const u8 *from) {
    memcpy(to, from, FX_XMM);
}

/* Runs the stub on the guest's state. The pointers are kept out of it, and MXCSR runs with
 * everything masked and no flag set. */
static void run_call(struct fp_call *call, const struct cpu *cpu, const struct gpr_operand *gpr,
                     bool xmm_only, u32 mxcsr) {
    call->eax = (u32)cpu->gpr[gpr->present ? gpr->reg : R_EAX];
    call->ecx = (u32)cpu->gpr[R_ECX];
    call->edx = (u32)cpu->gpr[R_EDX];
    call->flags = flags_to_ax(cpu->eflags);
    if (!xmm_only) {
        copy_x87(call->fx, cpu->fx);
        copy_xmm(call->fx, cpu->fx);
        memset(call->fx + FX_POINTERS, 0, FX_POINTERS_BYTES);
        u16 fsw = fx_get16(cpu, FX_FSW);
        if (unlikely(fsw & FSW_ES)) /* passed over: IGNNE# */
            store16(call->fx + FX_FSW, fsw & (u16) ~(FSW_ERROR | FSW_EXCEPTIONS));
    }
    store32(call->fx + FX_MXCSR, (mxcsr & ~(u32)MXCSR_FLAGS & MXCSR_VALID) | MXCSR_MASKS);
    if (xmm_only)
        run_vector(call, cpu->fx);
    else
        run_stub(call);
}

/* #XM: SDM volume 1, section 11.5.3 "SIMD Floating-Point Exception Handling". Only MXCSR's flags
 * change then. */
static bool simd_exception(struct cpu *cpu, u32 mxcsr, u32 raised) {
    store32(cpu->fx + FX_MXCSR, mxcsr | raised);
    return cpu_fault(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
}

static bool run_sse(struct hostfp *fp, struct cpu *cpu, const struct insn *in,
                    const struct gpr_operand *gpr, bool xmm_only) {
    struct fp_call *call = &fp->call;
    u32 mxcsr = load32(cpu->fx + FX_MXCSR) & MXCSR_VALID, effective = mxcsr, tiny = 0;
    if (unlikely(!(mxcsr & MXCSR_UM))) {
        /* Unmasked underflow is raised by any tiny result, exact ones too, and FZ is then ignored:
         * a trial run with FZ set flags every tiny result. */
        run_call(call, cpu, gpr, xmm_only, mxcsr | MXCSR_FZ);
        tiny = load32(call->fx + FX_MXCSR) & MXCSR_UE;
        effective &= ~(u32)MXCSR_FZ;
    }
    run_call(call, cpu, gpr, xmm_only, effective);
    u32 raised = (load32(call->fx + FX_MXCSR) & MXCSR_FLAGS) | tiny;
    if (unlikely(raised & ~(mxcsr >> MXCSR_MASKS_SHIFT)))
        return simd_exception(cpu, mxcsr, hostfp_xm_flags(cpu, in, call->memory, mxcsr, raised));
    store32(call->fx + FX_MXCSR, mxcsr | raised);
    return true;
}

/* x87 pointers after a non-control instruction. DEVIATION: they are recorded by every instruction,
 * as on processors without CPUID.7.EBX[6] and [13]. */
static void record_pointers(struct cpu *cpu, const struct insn *in, const struct fp_memory *m) {
    fx_set16(cpu, FX_FOP, (u16)((in->opcode & 7) << 8 | in->modrm));
    store32(cpu->fx + FX_FIP, cpu->eip);
    store32(cpu->fx + FX_FCS, cpu->seg[SEG_CS].selector);
    if (m->present) {
        store32(cpu->fx + FX_FDP, m->offset);
        store32(cpu->fx + FX_FDS, cpu->seg[in->mem_seg].selector);
    }
}

/* Takes the results over; the only step that changes registers. */
static void commit(struct cpu *cpu, const struct fp_call *call, const struct insn *in,
                   const struct gpr_operand *gpr, bool xmm_only) {
    if (!xmm_only) {
        u8 pointers[FX_POINTERS_BYTES];
        u16 fsw = fx_get16(cpu, FX_FSW), passed_over = fsw & FSW_ES ? fsw & FSW_EXCEPTIONS : 0;
        memcpy(pointers, cpu->fx + FX_POINTERS, sizeof pointers);
        copy_x87(cpu->fx, call->fx);
        memcpy(cpu->fx + FX_POINTERS, pointers, sizeof pointers);
        if (unlikely(passed_over)) {
            fx_set16(cpu, FX_FSW, fx_get16(cpu, FX_FSW) | passed_over);
            hostfp_update_es(cpu);
        }
    }
    copy_xmm(cpu->fx, call->fx);
    memcpy(cpu->fx + FX_MXCSR, call->fx + FX_MXCSR, 4);
    store32(cpu->fx + FX_MXCSR_MASK, cpu_mxcsr_mask(cpu));
    set_arith_flags(cpu, flags_from_ax((u32)call->flags));
    if (gpr->present)
        cpu->gpr[gpr->reg] = (u32)call->eax;
    else if (in->mnemonic == ZYDIS_MNEMONIC_PCMPESTRI || in->mnemonic == ZYDIS_MNEMONIC_PCMPISTRI)
        cpu->gpr[R_ECX] = (u32)call->ecx;
}

/* CVTPI2PS from memory names no MMX register, but may enter MMX mode: SDM volume 2, CVTPI2PS. */
static bool touches_xmm_only(const struct insn *in, enum kind kind) {
    bool from_mmx = in->map == 1 && in->opcode == 0x2a && !in->rep && !in->repne;
    return kind == KIND_SSE && !from_mmx;
}

/* An unmasked exception but precision keeps an x87 store from happening: SDM volume 1, section 8.5
 * "x87 FPU Floating-Point Exception Conditions". */
static bool x87_stored(const struct fp_call *call) {
    u32 unmasked = load16(call->fx + FX_FSW) & ~(u32)load16(call->fx + FX_FCW);
    return !(unmasked & FSW_EXCEPTIONS & ~(u32)FSW_PE);
}

static bool execute_natively(struct interp *it, struct cpu *cpu, const struct insn *in,
                             enum kind kind, const struct gpr_operand *gpr, bool control) {
    struct hostfp *fp = it->fp;
    struct fp_memory m;
    bool xmm_only = touches_xmm_only(in, kind);
    if (!open_memory(it, cpu, in, kind, &m))
        return false;
    if (kind == KIND_SSE || kind == KIND_SSE_MMX) {
        if (!run_sse(fp, cpu, in, gpr, xmm_only))
            return false;
    } else {
        run_call(&fp->call, cpu, gpr, false, load32(cpu->fx + FX_MXCSR));
        store32(fp->call.fx + FX_MXCSR, load32(cpu->fx + FX_MXCSR));
    }
    if (m.store && !mmu_write(cpu, m.lin, fp->call.memory, m.bytes, MMU_WRITE))
        return false;
    if (m.present && (!m.store || kind != KIND_X87 || x87_stored(&fp->call)))
        seg_watch(it, cpu, m.lin, m.bytes, m.store);
    commit(cpu, &fp->call, in, gpr, xmm_only);
    if (kind == KIND_X87 && !control)
        record_pointers(cpu, in, &m);
    return true;
}

/* The instruction exists for this guest (by its CPU model) and on this host. */
static bool feature_present(const struct hostfp *fp, const struct cpu *cpu, enum feature f) {
    const struct cpu_model *m = cpu->model;
    if (!words_have(&fp->host, f))
        return false;
    return !m || words_have(&(struct cpuid_words){{m->f1_edx, m->f1_ecx, m->f7_ebx, m->x1_ecx}}, f);
}

/* The same for what is done in software, and needs nothing of the host. */
static bool software_announced(const struct cpu *cpu, enum kind kind) {
    u32 fxsr = BIT(24), sse = BIT(25);
    if (!cpu->model || kind == KIND_FWAIT)
        return true;
    return cpu->model->f1_edx & (kind == KIND_FXSR ? fxsr : sse);
}

static bool execute(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct hostfp *fp = it->fp;
    enum kind kind = kind_of(in);
    struct gpr_operand gpr = find_gpr(in);
    bool software_only = kind == KIND_FWAIT || kind == KIND_FXSR ||
                         in->mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
                         in->mnemonic == ZYDIS_MNEMONIC_STMXCSR;
    if (software_only ? !software_announced(cpu, kind)
                      : !feature_present(fp, cpu, select_stub(fp, in, &gpr)))
        return cpu_fault(cpu, VEC_UD);
    if (!allowed_by_control_registers(cpu, kind))
        return false;
    bool control = false, waits = kind == KIND_FWAIT || kind == KIND_MMX || kind == KIND_SSE_MMX;
    if (kind == KIND_X87)
        control = x87_control(in, &waits);
    if (waits && unlikely(fx_get16(cpu, FX_FSW) & FSW_ES)) {
        if (cpu->cr0 & CR0_NE)
            return cpu_fault(cpu, VEC_MF);
        cpu->halted = !hostfp_error_ignored(cpu);
        if (cpu->halted)
            return true;
    }
    if (kind == KIND_FWAIT)
        return true;
    enum software s = kind == KIND_X87 ? x87_state_insn(it, cpu, in) : sse_state_insn(it, cpu, in);
    if (s != SOFTWARE_NO)
        return s == SOFTWARE_DONE;
    return execute_natively(it, cpu, in, kind, &gpr, control);
}

bool hostfp_execute(struct interp *it, struct cpu *cpu, const struct insn *in) {
    bool done = execute(it, cpu, in);
    if (unlikely(cpu->ferr))
        hostfp_watch_error(cpu);
    return done;
}
