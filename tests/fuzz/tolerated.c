/*
 * tolerated.c: where hardware may do as it likes. Each rule names the instruction and the exact
 * condition, what it takes out of a difference, and the source that allows it; how often each was
 * needed is counted. What was only measured holds on the CPU family where it was measured: on
 * others the difference shows, and is to be looked at (tests/README.md).
 *
 * A fault may leave bytes in memory that a restart writes again: those are named before memory is
 * compared (fuzz_ignore_partial), all others count.
 */
#include "fuzz.h"

#include "base/cpu.h"

#include <cpuid.h>

/* What a rule sees: the instruction where the native process faulted (or, where it did not, that of
 * the engine), and both ends. */
struct view {
    const struct fuzz_case *c;
    const struct insn *in;
    const struct fuzz_result *native, *engine;
};

enum where { ANYWHERE, ON_AMD_1A, WITH_UMIP };
struct rule {
    const char *name, *source;
    enum where where;
    u32 (*apply)(const struct view *v, u32 difference);
    u64 cases;
};

static bool faulted(const struct fuzz_result *r, u8 vector) {
    return r->end == FUZZ_FAULT && r->vector == vector;
}
static bool beyond_limit(const struct fuzz_result *r) {
    return (faulted(r, VEC_GP) || faulted(r, VEC_SS)) && r->error == 0;
}
static bool memory_fault(const struct fuzz_result *r) {
    return faulted(r, VEC_PF) || faulted(r, VEC_AC) || beyond_limit(r);
}
static bool same_place(const struct view *v) {
    return v->native->eip == v->engine->eip && v->native->seg[SEG_CS] == v->engine->seg[SEG_CS] &&
           memory_fault(v->native) && memory_fault(v->engine);
}

/* ---- Operands ---- */

static u32 size_mask(unsigned bytes) {
    return bytes == 2 ? 0xffff : 0xffffffff;
}

/* Two operands, one behind the other: the bounds of BOUND; offset and selector of LDS and its like,
 * far JMP and CALL. */
static bool is_pair(const struct insn *in) {
    bool transfer = in->map == 0 && in->opcode == 0xff &&
                    ((in->modrm >> 3 & 7) == 3 || (in->modrm >> 3 & 7) == 5);
    return transfer || in->mnemonic == ZYDIS_MNEMONIC_BOUND || in->mnemonic == ZYDIS_MNEMONIC_LDS ||
           in->mnemonic == ZYDIS_MNEMONIC_LES || in->mnemonic == ZYDIS_MNEMONIC_LFS ||
           in->mnemonic == ZYDIS_MNEMONIC_LGS || in->mnemonic == ZYDIS_MNEMONIC_LSS;
}

/* Bytes of the memory operand; 0: it has none. */
static u32 operand_bytes(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
        return in->op_bytes == 2 ? 94 : 108;
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
        return in->op_bytes == 2 ? 14 : 28;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
        return 512;
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
        return 6;
    case ZYDIS_MNEMONIC_MASKMOVQ:
        return 8;
    case ZYDIS_MNEMONIC_MASKMOVDQU:
        return 16;
    case ZYDIS_MNEMONIC_BOUND:
        return 2u * in->op_bytes;
    default:
        break;
    }
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_MEM)
            return is_pair(in) ? in->op_bytes + 2u : in->op[i].bytes;
    return 0;
}

static bool is_mask_move(const struct insn *in) {
    return in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || in->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU;
}

/* BT and its like with the bit's number in a register, which reaches beyond the operand. */
static bool is_bit_string(const struct insn *in) {
    return in->map == 1 && (in->opcode & 0xe7) == 0xa3 && in->op_count == 2 &&
           in->op[0].type == OP_MEM;
}

/* Its offset in the segment, from the registers that the address was made from. */
static u32 operand_offset(const struct insn *in, const u32 gpr[8]) {
    u32 offset = (u32)in->disp;
    if (is_mask_move(in))
        return gpr[R_EDI] & size_mask(in->addr_bytes);
    if (in->mnemonic == ZYDIS_MNEMONIC_POP && in->mem_base == R_ESP)
        offset += in->op_bytes; /* ESP is incremented first: SDM volume 2, "POP" */
    if (is_bit_string(in)) {
        u32 bit = gpr[in->op[1].reg];
        offset += in->op_bytes == 2 ? (u32)((i16)bit >> 4) * 2 : (u32)((i32)bit >> 5) * 4;
    }
    if (in->mem_base != INSN_NO_REG)
        offset += gpr[in->mem_base];
    if (in->mem_index != INSN_NO_REG)
        offset += gpr[in->mem_index] * in->mem_scale;
    return offset & size_mask(in->addr_bytes);
}
static u16 operand_selector(const struct insn *in, const u16 seg[6]) {
    if (is_mask_move(in))
        return seg[in->seg_override == INSN_NO_REG ? SEG_DS : in->seg_override];
    return in->mem_seg < 6 ? seg[in->mem_seg] : 0;
}
/* Offsets wrap at the address size. */
static bool in_operand(const struct view *v, u32 lin) {
    u32 offset = lin - fuzz_base(operand_selector(v->in, v->native->seg));
    u32 start = operand_offset(v->in, v->native->gpr);
    return ((offset - start) & size_mask(v->in->addr_bytes)) < operand_bytes(v->in);
}

static bool is_pusha(const struct insn *in) {
    return in->mnemonic == ZYDIS_MNEMONIC_PUSHA || in->mnemonic == ZYDIS_MNEMONIC_PUSHAD;
}
static bool is_popa(const struct insn *in) {
    return in->mnemonic == ZYDIS_MNEMONIC_POPA || in->mnemonic == ZYDIS_MNEMONIC_POPAD;
}
static bool is_far_call(const struct insn *in) {
    return in->map == 0 &&
           (in->opcode == 0x9a || (in->opcode == 0xff && (in->modrm >> 3 & 7) == 3));
}
static bool is_far_return(const struct insn *in) {
    return in->map == 0 && (in->opcode == 0xca || in->opcode == 0xcb || in->opcode == 0xcf);
}
static bool is_state_image(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXRSTOR:
        return true;
    default:
        return false;
    }
}
/* ---- Bytes that a faulting instruction may have written ---- */

static bool operand_wraps(const struct insn *in, const u32 gpr[8]) {
    u32 bytes = operand_bytes(in), offset = operand_offset(in, gpr);
    return bytes && in->addr_bytes == 4 && offset + bytes - 1 < offset;
}
static bool string_wraps(const struct insn *in, const u32 gpr[8]) {
    return in->map == 0 && (in->opcode & 0xf0) == 0xa0 && in->addr_bytes == 4 &&
           (gpr[R_ESI] > 0u - 4 || gpr[R_EDI] > 0u - 4);
}

static void ignore_below_stack(struct fuzz_case *c, const struct cpu *cpu, u32 bytes) {
    const struct segment *ss = &cpu->seg[SEG_SS];
    u32 mask = ss->attr & ATTR_DB ? 0xffffffff : 0xffff;
    for (u32 i = 1; i <= bytes; i++)
        fuzz_ignore(c, ss->base + (((u32)cpu->gpr[R_ESP] - i) & mask), 1);
}

void fuzz_ignore_partial(struct fuzz_case *c, const struct cpu *cpu) {
    u32 at = cpu->seg[SEG_CS].base + cpu->eip - c->entry, gpr[8];
    struct insn in;
    if (!fuzz_decode(c, at, &in))
        return;
    for (unsigned i = 0; i < 8; i++)
        gpr[i] = (u32)cpu->gpr[i];
    /* One PUSH after the other: SDM volume 2, "PUSHA/PUSHAD", "CALL", sections "Operation". */
    if (is_pusha(&in))
        ignore_below_stack(c, cpu, 8u * in.op_bytes);
    if (is_far_call(&in))
        ignore_below_stack(c, cpu, 2u * in.op_bytes);
    bool stores = is_state_image(&in) || is_mask_move(&in) || fuzz_kernel_emulates(in.mnemonic) ||
                  operand_wraps(&in, gpr);
    if (stores && operand_bytes(&in)) {
        unsigned seg = is_mask_move(&in) && in.seg_override == INSN_NO_REG ? (unsigned)SEG_DS
                       : is_mask_move(&in)                                 ? in.seg_override
                                                                           : in.mem_seg;
        fuzz_ignore(c, cpu->seg[seg].base + operand_offset(&in, gpr), operand_bytes(&in));
    }
}

/* ---- Rules about the instruction that faulted ---- */

/* Begins below 4 GiB and ends above, as offset or as linear address: any fault, or none. */
static u32 wraps(const struct view *v, u32 d) {
    const u32 *gpr = v->native->gpr;
    u32 base = fuzz_base(operand_selector(v->in, v->native->seg)),
        stack = fuzz_base(v->native->seg[SEG_SS]);
    u32 lin = operand_offset(v->in, gpr) + base, bytes = operand_bytes(v->in);
    bool linear = bytes && lin + bytes - 1 < lin;
    bool pushes = gpr[R_ESP] + 64 < 128 || gpr[R_ESP] + stack + 64 < 128;
    bool frame = v->in->mnemonic == ZYDIS_MNEMONIC_ENTER || v->in->mnemonic == ZYDIS_MNEMONIC_LEAVE;
    frame = frame && gpr[R_EBP] + 256 < 512;
    if (!same_place(v) ||
        !(operand_wraps(v->in, gpr) || linear || string_wraps(v->in, gpr) || pushes || frame))
        return d;
    return d & ~(u32)(FUZZ_DIFF_FAULT | (is_popa(v->in) ? FUZZ_DIFF_GPR : 0));
}

/* Images and far pointers are several operands, one after the other in any order. */
static u32 in_parts(const struct view *v, u32 d) {
    if (!(is_state_image(v->in) || is_pair(v->in)) || !same_place(v))
        return d;
    bool native = !faulted(v->native, VEC_PF) || in_operand(v, v->native->cr2);
    bool engine = !faulted(v->engine, VEC_PF) || in_operand(v, v->engine->cr2);
    return native && engine ? d & ~(u32)FUZZ_DIFF_FAULT : d;
}

/* FRSTOR, FLDENV and FXRSTOR that fault may have loaded x87 registers. */
static u32 loaded_in_parts(const struct view *v, u32 d) {
    bool loads =
        v->in->mnemonic == ZYDIS_MNEMONIC_FRSTOR || v->in->mnemonic == ZYDIS_MNEMONIC_FLDENV;
    bool sse_equal = !memcmp(v->native->fx + 160, v->engine->fx + 160, 128) &&
                     load32(v->native->fx + 24) == load32(v->engine->fx + 24);
    return loads && same_place(v) && sse_equal ? d & ~(u32)FUZZ_DIFF_FX : d;
}

static const u8 *mask_of(const struct view *v) {
    const u8 *fx = v->native->fx;
    unsigned reg = v->in->modrm & 7, top = load16(fx + 2) >> 11 & 7;
    return v->in->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ? fx + 160 + 16 * reg
                                                        : fx + 32 + 16 * ((reg - top) & 7);
}
/* A byte that is to be written lies in [first, end) of the operand. */
static bool selects(const u8 *mask, u32 first, u32 end) {
    for (u32 i = first; i < end; i++)
        if (mask[i] & 0x80)
            return true;
    return false;
}

/* The engine's x87 state is the native one but for the transition to MMX, which sets TOP to 0: the
 * registers stand at other places of the image. */
static bool entered_mmx(const struct fuzz_result *n, const struct fuzz_result *e) {
    unsigned top = load16(e->fx + 2) >> 11 & 7;
    bool equal = load16(n->fx) == load16(e->fx) &&
                 load16(n->fx + 2) == (load16(e->fx + 2) & 0xc7ff) &&
                 !memcmp(n->fx + 24, e->fx + 24, 4) && !memcmp(n->fx + 160, e->fx + 160, 128);
    for (unsigned i = 0; i < 8; i++)
        equal &= !memcmp(n->fx + 32 + 16 * i, e->fx + 32 + 16 * ((i - top) & 7), 10);
    return equal;
}

static u32 mask_move_transition(const struct view *v, u32 d) {
    return v->in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ && same_place(v) &&
                   entered_mmx(v->native, v->engine)
               ? d & ~(u32)FUZZ_DIFF_FX
               : d;
}

/* The processor may fault for bytes that are not selected. In the page where it did, either none is
 * (the engine may go on), or the engine faults for the first of them. */
static u32 mask_move(const struct view *v, u32 d) {
    if (!is_mask_move(v->in))
        return d;
    u32 bytes = operand_bytes(v->in), offset = operand_offset(v->in, v->native->gpr);
    u32 lin = offset + fuzz_base(operand_selector(v->in, v->native->seg));
    u32 room = PAGE_BYTES - (lin & PAGE_OFFSET_MASK), split = MIN(room, bytes);
    const u8 *mask = mask_of(v);
    if (faulted(v->native, VEC_PF) && v->native->cr2 - lin < bytes && (v->native->error & PF_W)) {
        bool high = v->native->cr2 - lin >= split;
        if (!selects(mask, high ? split : 0, high ? bytes : split))
            return 0;
        bool page = faulted(v->engine, VEC_PF) && v->engine->eip == v->native->eip &&
                    v->engine->error == v->native->error && v->engine->cr2 - lin < bytes &&
                    (v->engine->cr2 - lin >= split) == high;
        return page ? d & ~(u32)FUZZ_DIFF_FAULT : d;
    }
    /* Beyond a limit, or the end of the 4 GiB or 64 KiB: unless all are selected. */
    bool all = true;
    for (u32 i = 0; i < bytes; i++)
        all &= mask[i] >> 7;
    return beyond_limit(v->native) && !all ? 0 : d;
}

/* One POP after the other, and the word for ESP is read: so it can fault, too. */
static u32 popa_partial(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native;
    if (!is_popa(v->in) || !memory_fault(n))
        return d;
    u32 bytes = v->in->op_bytes, base = fuzz_base(n->seg[SEG_SS]);
    u32 mask = fuzz_is_32bit(n->seg[SEG_SS]) ? 0xffffffff : 0xffff;
    u32 offset = (n->gpr[R_ESP] + 3 * bytes) & mask, skipped = base + offset;
    bool slot_fault = (faulted(n, VEC_PF) && n->cr2 - skipped < bytes) ||
                      (faulted(n, VEC_SS) && offset + bytes - 1 > mask);
    bool engine_behind = faulted(v->engine, VEC_PF) && v->engine->cr2 == skipped + bytes;
    if (slot_fault && !same_place(v)) /* the engine went on */
        return 0;
    if (!same_place(v) || n->gpr[R_ESP] != v->engine->gpr[R_ESP])
        return d;
    return d & ~(u32)(FUZZ_DIFF_GPR | (slot_fault && engine_behind ? FUZZ_DIFF_FAULT : 0));
}

/* MMX operand beside an XMM one, and the fault is the instruction's own. */
static u32 mmx_transition(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native, *e = v->engine;
    const struct insn *in = v->in;
    bool mmx = false;
    for (unsigned i = 0; i < in->op_count; i++)
        mmx |= in->op[i].type == OP_REG && in->op[i].reg_class == RC_MMX;
    bool converts = in->map == 1 && in->opcode >= 0x2a && in->opcode <= 0x2d;
    bool rest_equal = !memcmp(n->fx + 160, e->fx + 160, 128) &&
                      load32(n->fx + 24) == load32(e->fx + 24) && load16(n->fx) == load16(e->fx);
    return mmx && converts && faulted(n, VEC_XM) && faulted(e, VEC_XM) && rest_equal
               ? d & ~(u32)FUZZ_DIFF_FX
               : d;
}

/* A MOVAPS-like operand that is misaligned and beyond its segment's limit. */
static u32 alignment_or_limit(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native, *e = v->engine;
    bool both = (faulted(n, VEC_GP) && faulted(e, VEC_SS)) ||
                (faulted(n, VEC_SS) && faulted(e, VEC_GP)) ||
                (faulted(n, VEC_AC) && (faulted(e, VEC_GP) || faulted(e, VEC_SS)));
    u32 lin = operand_offset(v->in, n->gpr) + fuzz_base(operand_selector(v->in, n->seg));
    return operand_bytes(v->in) >= 16 && (lin & 15) && both && !n->error && !e->error
               ? d & ~(u32)FUZZ_DIFF_FAULT
               : d;
}

/* RETF and IRET read their words in some order, and those of an outer stack when the selector's RPL
 * is not the CPL, which only then is found to be too low. */
static u32 far_return(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native, *e = v->engine;
    if (!is_far_return(v->in) || n->eip != e->eip || n->seg[SEG_CS] != e->seg[SEG_CS])
        return d;
    u32 bytes = v->in->op_bytes, own = (v->in->opcode == 0xcf ? 3 : 2) * bytes;
    u32 mask = fuzz_is_32bit(n->seg[SEG_SS]) ? 0xffffffff : 0xffff;
    u32 esp = n->gpr[R_ESP], base = fuzz_base(n->seg[SEG_SS]);
    u32 outer = esp + own + (v->in->opcode == 0xca ? (u16)v->in->imm : 0);
    u32 at = (n->cr2 - base) & mask;
    bool order = faulted(n, VEC_PF) && faulted(e, VEC_PF) && n->error == e->error &&
                 ((at - esp) & mask) < own && ((e->cr2 - base - esp) & mask) < own;
    bool misaligned = faulted(n, VEC_AC) && ((outer + base) & (bytes - 1));
    bool outer_read = (faulted(n, VEC_PF) && ((at - outer) & mask) < 2 * bytes) ||
                      (faulted(n, VEC_SS) && n->error == 0) || misaligned;
    bool low_rpl = faulted(e, VEC_GP);
    /* Of two words, one misaligned and one beyond the end of a 16-bit stack. */
    bool ends = (esp & mask) + own > 0x10000 && mask == 0xffff;
    order |= ends && ((faulted(n, VEC_SS) && faulted(e, VEC_AC)) ||
                      (faulted(n, VEC_AC) && faulted(e, VEC_SS)));
    return order || (low_rpl && outer_read) ? d & ~(u32)FUZZ_DIFF_FAULT : d;
}

static bool is_call(const struct insn *in) {
    return in->map == 0 &&
           (in->opcode == 0x9a || in->opcode == 0xe8 ||
            (in->opcode == 0xff && ((in->modrm >> 3 & 7) == 2 || (in->modrm >> 3 & 7) == 3)));
}

/* CALL pushes before it compares EIP with the limit. */
static u32 call_order(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native, *e = v->engine;
    if (!is_call(v->in) || !same_place(v) || !faulted(e, VEC_GP) || faulted(n, VEC_GP))
        return d;
    u32 mask = fuzz_is_32bit(n->seg[SEG_SS]) ? 0xffffffff : 0xffff, bytes = 2u * v->in->op_bytes;
    u32 below = n->gpr[R_ESP] - bytes, base = fuzz_base(n->seg[SEG_SS]);
    bool pushes = !faulted(n, VEC_PF) || ((n->cr2 - base - below) & mask) < bytes;
    return pushes ? d & ~(u32)FUZZ_DIFF_FAULT : d;
}

/* UD0 without its ModRM byte: #UD comes before the fault of fetching it. */
static u32 short_ud0(const struct view *v, u32 d) {
    const struct fuzz_result *n = v->native, *e = v->engine;
    bool fetch = beyond_limit(e) || (faulted(e, VEC_PF) && (e->error & PF_I));
    return v->in->mnemonic == ZYDIS_MNEMONIC_UD0 && faulted(n, VEC_UD) && fetch && n->eip == e->eip
               ? d & ~(u32)FUZZ_DIFF_FAULT
               : d;
}

/* INT1 under a hypervisor that intercepts #DB: EIP is the instruction's own. */
static u32 int1_eip(const struct view *v, u32 d) {
    bool at_it = v->in->mnemonic == ZYDIS_MNEMONIC_INT1 && faulted(v->native, VEC_DB) &&
                 faulted(v->engine, VEC_DB) && v->engine->eip == v->native->eip + v->in->length;
    return at_it ? d & ~(u32)FUZZ_DIFF_EIP : d;
}

/* ---- The same with the native process's instruction known from either side ---- */

/* The instruction that a result stopped at, if it faulted. */
static bool faulting_insn(const struct fuzz_case *c, const struct fuzz_result *r, struct insn *in) {
    u32 at = r->eip + fuzz_base(r->seg[SEG_CS]) - c->entry;
    return r->end == FUZZ_FAULT && fuzz_decode(c, at, in);
}

/* In a segment of 64 KiB, with 16-bit addresses, the parts of an operand may wrap one by one, so
 * that none is beyond the limit: x87 images, 80-bit operands and far pointers. What the engine
 * would have done then is not known. */
static bool parts_wrap(const struct fuzz_case *c, const struct fuzz_result *engine) {
    struct insn in;
    if (!beyond_limit(engine) || !faulting_insn(c, engine, &in) || in.addr_bytes != 2)
        return false;
    u32 bytes = operand_bytes(&in);
    return (bytes == 10 || is_pair(&in) || is_state_image(&in)) &&
           operand_offset(&in, engine->gpr) + bytes > 0x10000;
}

/* SGDT and its like, to memory: Linux' emulation knows fewer faults and forms than the processor
 * (arch/x86/kernel/umip.c: error code 6 whatever the page, no 16-bit addresses, CS writable). */
static bool emulated_store(const struct fuzz_case *c) {
    struct insn in;
    return c->lone && fuzz_decode(c, 0, &in) && fuzz_kernel_emulates(in.mnemonic) &&
           in.op[0].type == OP_MEM;
}

/* Linux keeps the number of the CPU in the limit of descriptor 15. */
static bool loads_cpu_number(const struct fuzz_result *native, const struct fuzz_result *engine) {
    for (unsigned i = 0; i < 6; i++)
        if ((native->seg[i] & ~3u) == 0x78)
            return true;
    return engine->end == FUZZ_FAULT && (engine->error & ~3u) == 0x78;
}

/* The guest's own tables are present, for CPL 0, and the native process has its stub, which ends a
 * case that finds a pointer to it in the code of others. */
static bool hits_system_pages(const struct fuzz_result *engine) {
    return (faulted(engine, VEC_PF) && (engine->cr2 - FUZZ_SYSTEM < FUZZ_SYSTEM_BYTES ||
                                        engine->cr2 - FUZZ_STUB < PAGE_BYTES)) ||
           (engine->seg[SEG_CS] | 3) == FUZZ_LDT_EXIT;
}

/* MXCSR.MM, which the CPU model does not have. */
static bool loads_mxcsr_mm(const struct fuzz_case *c, const struct fuzz_result *engine) {
    u32 eax, ebx, ecx = 0, edx;
    struct insn in;
    return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & BIT(7)) &&
           faulted(engine, VEC_GP) && faulting_insn(c, engine, &in) &&
           (in.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || in.mnemonic == ZYDIS_MNEMONIC_FXRSTOR);
}

static bool loads_fs_gs(const struct insn *in) {
    return in->op[0].type == OP_REG && in->op[0].reg_class == RC_SEG && in->op[0].reg >= SEG_FS;
}
static bool loads_control_word(const struct insn *in) {
    return in->mnemonic == ZYDIS_MNEMONIC_FLDCW;
}
static bool any_insn(const struct fuzz_case *c, bool (*is)(const struct insn *in)) {
    struct insn in;
    for (unsigned i = 0; i < c->insns; i++)
        if (fuzz_decode(c, c->insn_start[i], &in) && is(&in))
            return true;
    return false;
}

/* The translator's DEVIATION: pointers from before FLDCW unmasked an exception are zero, and the
 * data pointer of an operand in FS or GS that was loaded since has another base. */
static bool pointers_lost(const struct fuzz_case *c, const struct fuzz_result *native,
                          const struct fuzz_result *engine, u32 d) {
    struct fuzz_result same = *engine;
    bool none = !load16(same.fx + 6) && !load32(same.fx + 8) && !load32(same.fx + 16);
    if (d != FUZZ_DIFF_FX)
        return false;
    memcpy(same.fx + 16, native->fx + 16, 4);
    if (none)
        memcpy(same.fx + 6, native->fx + 6, 6);
    return any_insn(c, none ? loads_control_word : loads_fs_gs) && !fuzz_fx_differs(native, &same);
}

/* ---- Before an instruction is executed ---- */

/* IRET with NT set is a task return, which long mode does not have: SDM volume 3, 7.7 "Task
 * Management in 64-bit Mode". */
static bool returns_from_task(const struct insn *in, const struct cpu *cpu) {
    return in->map == 0 && in->opcode == 0xcf && (cpu->eflags & F_NT);
}

/* Ascending REP MOVS with 16-bit addresses to 1 to 63 bytes above its source, with something in the
 * upper half of EDI, which is no part of the address: AMD family 1Ah model 02h copies blocks as if
 * the two did not overlap, if there are 3 elements or more. */
static bool overlaps_unseen(const struct insn *in, const struct cpu *cpu, u32 *bytes) {
    u32 esi = (u32)cpu->gpr[R_ESI], edi = (u32)cpu->gpr[R_EDI];
    unsigned source = in->seg_override == INSN_NO_REG ? (unsigned)SEG_DS : in->seg_override;
    u32 distance = cpu->seg[SEG_ES].base + (u16)edi - cpu->seg[source].base - (u16)esi;
    *bytes = (u16)cpu->gpr[R_ECX] * (in->opcode & 1 ? in->op_bytes : 1u);
    return in->map == 0 && (in->opcode & 0xfe) == 0xa4 && in->addr_bytes == 2 &&
           (in->rep || in->repne) && !(cpu->eflags & F_DF) && edi >> 16 && distance - 1 < 63 &&
           distance < *bytes;
}

static u64 left_out_movs, ignored_movs;

enum fuzz_left_out fuzz_host_differs(struct fuzz_case *c, const struct cpu *cpu,
                                     const struct insn *in) {
    u32 bytes;
    if (returns_from_task(in, cpu))
        return FUZZ_LEFT_TASK;
    if (!fuzz_host_is_amd(0x1a) || !overlaps_unseen(in, cpu, &bytes))
        return FUZZ_LEFT_NOT;
    if (!c->lone || bytes > 0x4000) {
        left_out_movs++;
        return FUZZ_LEFT_MOVS;
    }
    ignored_movs++;
    u32 edi = (u32)cpu->gpr[R_EDI], base = cpu->seg[SEG_ES].base;
    for (u32 i = 0; i < bytes; i++) /* the offset wraps */
        fuzz_ignore(c, base + ((edi + i) & 0xffff), 1);
    return FUZZ_LEFT_NOT;
}

/* ---- The rules ---- */

enum { CASE_CPU_NUMBER, CASE_SYSTEM, CASE_MM, CASE_UMIP, CASE_PARTS, CASE_POINTERS, CASE_RULES };
static struct {
    const char *name, *source;
    u64 cases;
} case_rules[CASE_RULES] = {
    {"selector 78h", "a descriptor of the host's kernel", 0},
    {"pages of the guest's tables and of the native stub", "only one side has them", 0},
    {"MXCSR.MM loaded",
     "AMD APM volume 1, \"MXCSR Register\", Misaligned Exception Mask; CPUID "
     "80000001h.ECX[7]",
     0},
    {"SGDT, SIDT, SLDT, STR, SMSW to memory under UMIP, one side faults",
     "emulated by the host's kernel: Linux, arch/x86/kernel/umip.c", 0},
    {"parts of an operand across the end of the 64 KiB",
     "measured on AMD family 1Ah: with 16-bit addresses each part's offset wraps by itself", 0},
    {"x87 pointers from before FLDCW, and in FS or GS reloaded since",
     "docs/deviations.md, src/bt/run.c", 0},
};

static struct rule rules[] = {
    {"operands across the end of the 4 GiB",
     "SDM volume 3, 5.3 \"Limit Checking\": may or may not fault, implementation-specific",
     ANYWHERE, wraps, 0},
    {"order of accesses to x87 and FX state images, far pointers and bounds",
     "SDM volume 2, \"FSAVE/FNSAVE\", \"FXSAVE\", \"LDS/LES/LFS/LGS/LSS\", no order is given",
     ANYWHERE, in_parts, 0},
    {"FRSTOR and FLDENV that fault have loaded x87 registers",
     "SDM volume 2, \"FRSTOR\", no order is given; measured on AMD family 1Ah", ON_AMD_1A,
     loaded_in_parts, 0},
    {"MASKMOVQ and MASKMOVDQU fault for bytes masked off",
     "SDM volume 2, \"MASKMOVDQU\", \"MASKMOVQ\": may still be signaled (implementation "
     "dependent)",
     ANYWHERE, mask_move, 0},
    {"MASKMOVQ that faults has left x87 state for MMX",
     "SDM volume 2, \"MASKMOVQ\", does not order the two; measured on AMD family 1Ah", ON_AMD_1A,
     mask_move_transition, 0},
    {"CALL pushes before #GP for EIP beyond the limit",
     "SDM volume 2, \"CALL\", section Operation, orders them otherwise; measured on AMD family 1Ah",
     ON_AMD_1A, call_order, 0},
    {"POPA and POPAD that fault have loaded registers, and read the word of ESP",
     "SDM volume 2, \"POPA/POPAD\", section Operation: one POP after the other; measured on AMD "
     "family 1Ah",
     ON_AMD_1A, popa_partial, 0},
    {"x87-to-MMX transition of a conversion that raises #XM",
     "SDM volume 2, \"CVTPS2PI\", does not order the two; measured on AMD family 1Ah", ON_AMD_1A,
     mmx_transition, 0},
    {"misaligned wide operands beyond a segment's limit",
     "SDM volume 3, 6.9 \"Priority Among Simultaneous Exceptions and Interrupts\", table 6-2: no "
     "priority among the faults of one operand",
     ANYWHERE, alignment_or_limit, 0},
    {"RETF and IRET read CS first, and the outer stack before RPL < CPL is #GP",
     "SDM volume 2, \"RET\", \"IRET/IRETD/IRETQ\", section Operation, order the checks otherwise; "
     "measured on AMD family 1Ah",
     ON_AMD_1A, far_return, 0},
    {"UD0 without ModRM byte",
     "SDM volume 2, \"UD-Undefined Instruction\": some processors decode it so", ANYWHERE,
     short_ud0, 0},
    {"INT1 leaves EIP at itself",
     "measured on AMD family 1Ah under KVM: an intercepted #DB of INT1 has RIP at the instruction",
     ON_AMD_1A, int1_eip, 0},
};

static bool holds_here(enum where where) {
    return where == ON_AMD_1A ? fuzz_host_is_amd(0x1a) : true;
}

static unsigned case_rule(const struct fuzz_case *c, const struct fuzz_result *native,
                          const struct fuzz_result *engine, u32 d) {
    if (loads_cpu_number(native, engine))
        return CASE_CPU_NUMBER;
    if (hits_system_pages(engine))
        return CASE_SYSTEM;
    if (loads_mxcsr_mm(c, engine))
        return CASE_MM;
    if (fuzz_host_is_amd(0x1a) && parts_wrap(c, engine))
        return CASE_PARTS;
    if (pointers_lost(c, native, engine, d))
        return CASE_POINTERS;
    bool faults = native->end == FUZZ_FAULT || engine->end == FUZZ_FAULT;
    return faults && fuzz_host_has_umip() && emulated_store(c) ? CASE_UMIP : CASE_RULES;
}

u32 fuzz_tolerate(const struct fuzz_case *c, const struct fuzz_result *native,
                  const struct fuzz_result *engine, u32 difference) {
    struct insn in;
    struct view v = {c, &in, native, engine};
    unsigned whole = case_rule(c, native, engine, difference);
    if (whole != CASE_RULES) {
        case_rules[whole].cases++;
        return 0;
    }
    if (!faulting_insn(c, native, &in) &&
        !(native->end == FUZZ_DONE && faulting_insn(c, engine, &in)))
        return difference;
    for (unsigned i = 0; i < ARRAY_LEN(rules) && difference & ~(u32)FUZZ_DIFF_UNDEFINED; i++) {
        if (!holds_here(rules[i].where))
            continue;
        u32 left = rules[i].apply(&v, difference);
        rules[i].cases += left != difference;
        difference = left;
    }
    return difference;
}

void fuzz_print_tolerated(FILE *out) {
    fprintf(out, "# tolerated: rule, source, comparisons\n");
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++)
        if (holds_here(rules[i].where))
            fprintf(out, "%s\t%s\t%llu\n", rules[i].name, rules[i].source,
                    (unsigned long long)rules[i].cases);
    for (unsigned i = 0; i < CASE_RULES; i++)
        fprintf(out, "%s\t%s\t%llu\n", case_rules[i].name, case_rules[i].source,
                (unsigned long long)case_rules[i].cases);
    if (fuzz_host_is_amd(0x1a))
        fprintf(out,
                "REP MOVS with 16-bit addresses to 1 to 63 bytes above its source, upper half of "
                "EDI not 0\tcopies as if they did not overlap, against SDM volume 2, \"MOVS\"; "
                "measured on AMD family 1Ah\t%llu (destination not compared), %llu (left out)\n",
                (unsigned long long)ignored_movs, (unsigned long long)left_out_movs);
}
