/*
 * interp_internal.h: what the instruction families of the interpreter share: the result of an
 * instruction function, operand access, and guest memory access with the hit path inline.
 *
 * An instruction function changes nothing before the last of its steps that can fault; then it
 * commits registers and flags. It does not advance eip unless it transfers control.
 */
#ifndef RINGFOLD_INTERP_INTERNAL_H
#define RINGFOLD_INTERP_INTERNAL_H

#include "interp/interp.h"
#include "isa/insn.h"
#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

/* How an instruction function ended. */
enum ex {
    EX_NEXT,      /* done: go on behind the instruction */
    EX_JUMP,      /* done: eip was set */
    EX_SYNC,      /* done, go on behind it, but let the engine look at the system state first */
    EX_DELIVERED, /* done: far transfer or IRET, eip was set */
    EX_INT,       /* done: software interrupt delivered, eip was set; no single-step trap */
    EX_HALT,      /* done: HLT */
    EX_FREEZE,    /* cpu->halted: an x87 error waits for an interrupt; nothing changed */
    EX_REP_MORE,  /* a REP string used up its chunk; eip stays */
    EX_FAULT      /* cpu->fault holds the exception; nothing changed */
};

typedef enum ex (*exec_fn)(struct interp *it, struct cpu *cpu, const struct insn *in);

/* One slot of the decode cache. It is valid for linear address and mode when the key fits, and
 * used only after its bytes were compared with memory: no invalidation is ever needed. */
struct decoded {
    u64 key;
    exec_fn exec;
    struct insn insn;
};
/* Some 64 KiB of code lie side by side. Of 2^14, 2^16 and 2^18 slots, booting Debian decodes 23, 7
 * and 2 million instructions. */
#define DECODE_ENTRIES 65536u
_Static_assert(sizeof(struct decoded) <= 128, "a slot should span at most two cache lines");

/* Reasons why every memory access of the instruction takes the slow path. */
enum { CHECK_WATCH = 1, CHECK_ALIGN = 2 };

/* Iterations of a REP string per step, in elements moved by the fast path; an element that goes the
 * slow way costs REP_SLOW_COST. */
#define REP_CHUNK 65536u
#define REP_SLOW_COST 16u

struct hostfp;
struct interp {
    struct decoded *cache;
    struct hostfp *fp;
    u32 checks;          /* CHECK_*; 0 outside step_careful */
    u32 watch_hits;      /* DR6 bits of data breakpoints hit by this instruction */
    u32 rep_budget;      /* for the instruction being executed */
    u8 shadow_before;    /* interrupt shadow in force for this instruction */
    struct insn scratch; /* decoding happens here before a slot is overwritten */
    struct interp_counters count;
};

/* The stubs of hostfp.c. NULL when the host has no memory. */
struct hostfp *hostfp_create(void);
void hostfp_destroy(struct hostfp *fp);

/* The function for a decoded instruction under this CPU model; never NULL (#UD if nothing else). */
exec_fn interp_bind(const struct cpu *cpu, const struct insn *in);

/* ---- Flags ---- */

/* Arithmetic flags travel to and from inline assembly in AX: AH as LAHF and SAHF have it, AL bit 0
 * is OF ("addb $127, %al" makes OF of it, SETO brings it back). */
#define ASM_FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define ASM_FLAGS_OUT "\n\tlahf\n\tseto %%al"
static inline u32 flags_from_ax(u32 ax) {
    return ((ax >> 8) & 0xd5) | ((ax & 1) << 11);
}
static inline u32 flags_to_ax(u32 eflags) {
    return (eflags & 0xd5) << 8 | ((eflags >> 11) & 1);
}
static inline void set_arith_flags(struct cpu *cpu, u32 flags) {
    cpu->eflags = (cpu->eflags & ~(u32)F_ARITH) | flags;
}

/* Condition code cc (0-15) as in Jcc: SDM volume 2, appendix B, table B-10. */
static inline bool condition(u32 f, unsigned cc) {
    bool r = false;
    bool sf_ne_of = ((f >> 7) ^ (f >> 11)) & 1;
    switch (cc >> 1) {
    case 0:
        r = f & F_OF;
        break;
    case 1:
        r = f & F_CF;
        break;
    case 2:
        r = f & F_ZF;
        break;
    case 3:
        r = f & (F_CF | F_ZF);
        break;
    case 4:
        r = f & F_SF;
        break;
    case 5:
        r = f & F_PF;
        break;
    case 6:
        r = sf_ne_of;
        break;
    default:
        r = sf_ne_of || (f & F_ZF);
        break;
    }
    return r != (bool)(cc & 1);
}

/* ---- General registers ---- */

static inline u8 *gpr8(struct cpu *cpu, unsigned r) {
    return (u8 *)&cpu->gpr[r & 3] + ((r >> 2) & 1);
}
static inline u32 gpr_read(struct cpu *cpu, unsigned r, unsigned bytes) {
    if (bytes == 4)
        return (u32)cpu->gpr[r];
    return bytes == 2 ? (u16)cpu->gpr[r] : *gpr8(cpu, r);
}
static inline void gpr_write(struct cpu *cpu, unsigned r, unsigned bytes, u32 value) {
    if (bytes == 4)
        cpu->gpr[r] = value;
    else if (bytes == 2)
        store16(&cpu->gpr[r], (u16)value);
    else
        *gpr8(cpu, r) = (u8)value;
}
static inline u32 size_mask(unsigned bytes) {
    return bytes == 4 ? 0xffffffffu : bytes == 2 ? 0xffffu : 0xffu;
}
/* Writes a register that counts or points, under an address-size mask of 0xffff or 0xffffffff. */
static inline void gpr_write_masked(struct cpu *cpu, unsigned r, u32 value, u32 mask) {
    cpu->gpr[r] = ((u32)cpu->gpr[r] & ~mask) | (value & mask);
}

/* ---- Addresses ---- */

/* Offset of the memory operand in its segment. */
static inline u32 ea_offset(const struct cpu *cpu, const struct insn *in) {
    u32 offset = (u32)in->disp;
    if (in->mem_base != INSN_NO_REG)
        offset += (u32)cpu->gpr[in->mem_base];
    if (in->mem_index != INSN_NO_REG)
        offset += (u32)cpu->gpr[in->mem_index] * in->mem_scale;
    return in->addr_bytes == 2 ? offset & 0xffff : offset;
}

bool seg_linear_slow(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset, unsigned bytes,
                     bool write, u32 *lin);

/* The same of `bytes` that must be aligned to `align`, a power of 2, where that is checked: for
 * operands whose size does not tell. watch: whether data breakpoints see it now; otherwise
 * seg_watch() tells them when the access was made. */
struct access {
    u8 align;
    bool write, watch;
};
bool seg_linear_aligned(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset,
                        unsigned bytes, struct access how, u32 *lin);
void seg_watch(struct interp *it, const struct cpu *cpu, u32 lin, unsigned bytes, bool write);

/* Linear address of an access, after the segment's checks. Present expand-up writable data segments
 * pass inline. */
static inline bool seg_linear(struct interp *it, struct cpu *cpu, enum seg seg, u32 offset,
                              unsigned bytes, bool write, u32 *lin) {
    const struct segment *s = &cpu->seg[seg];
    const u32 mask = ATTR_NULL | ATTR_P | ATTR_S | ATTR_CODE | ATTR_E | ATTR_W;
    if (likely((s->attr & mask) == (ATTR_P | ATTR_S | ATTR_W) &&
               (u64)offset + bytes - 1 <= s->limit && !it->checks)) {
        *lin = s->base + offset;
        return true;
    }
    return seg_linear_slow(it, cpu, seg, offset, bytes, write, lin);
}
/* The same for the memory operand of an instruction. */
static inline bool mem_linear(struct interp *it, struct cpu *cpu, const struct insn *in,
                              unsigned bytes, bool write, u32 *lin) {
    return seg_linear(it, cpu, in->mem_seg, ea_offset(cpu, in), bytes, write, lin);
}

/* ---- Memory ---- */

static inline u32 host_load(const u8 *p, unsigned bytes) {
    return bytes == 4 ? load32(p) : bytes == 2 ? load16(p) : *p;
}
static inline void host_store(u8 *p, unsigned bytes, u32 value) {
    if (bytes == 4)
        store32(p, value);
    else if (bytes == 2)
        store16(p, (u16)value);
    else
        *p = (u8)value;
}
static inline const struct softtlb_entry *softtlb_slot(const struct cpu *cpu, u32 lin) {
    return &cpu->mmu->tlb[cpu->cpl == 3].entry[softtlb_index(lin)];
}
static inline bool softtlb_hit(u32 tag, u32 lin, unsigned bytes) {
    return tag == ((lin & ~PAGE_OFFSET_MASK) | 1) && (lin & PAGE_OFFSET_MASK) <= PAGE_BYTES - bytes;
}
/* Reads or writes 1, 2 or 4 bytes at a linear address. */
static inline bool mem_read(struct cpu *cpu, u32 lin, unsigned bytes, u32 *value) {
    const struct softtlb_entry *e = softtlb_slot(cpu, lin);
    if (likely(softtlb_hit(e->read_tag, lin, bytes))) {
        *value = host_load(e->host + (lin & PAGE_OFFSET_MASK), bytes);
        return true;
    }
    u32 v = 0;
    if (!mmu_read(cpu, lin, &v, bytes, MMU_READ))
        return false;
    *value = v;
    return true;
}
static inline bool mem_write(struct cpu *cpu, u32 lin, unsigned bytes, u32 value) {
    const struct softtlb_entry *e = softtlb_slot(cpu, lin);
    if (likely(softtlb_hit(e->write_tag, lin, bytes) && !cpu->mmu->journal)) {
        host_store(e->host + (lin & PAGE_OFFSET_MASK), bytes, value);
        return true;
    }
    return mmu_write(cpu, lin, &value, bytes, MMU_WRITE);
}

/* Read-modify-write of memory: the access counts as a write from the start, as on hardware. */
struct rmw {
    u8 *host; /* NULL: through the MMU */
    u32 lin;
};
static inline bool rmw_open(struct cpu *cpu, u32 lin, unsigned bytes, struct rmw *m, u32 *old) {
    const struct softtlb_entry *e = softtlb_slot(cpu, lin);
    m->lin = lin;
    if (likely(softtlb_hit(e->write_tag, lin, bytes) && !cpu->mmu->journal)) {
        m->host = e->host + (lin & PAGE_OFFSET_MASK);
        *old = host_load(m->host, bytes);
        return true;
    }
    m->host = NULL;
    *old = 0;
    return mmu_check_write(cpu, lin, bytes, MMU_WRITE) && mmu_read(cpu, lin, old, bytes, MMU_READ);
}
static inline bool rmw_close(struct cpu *cpu, const struct rmw *m, unsigned bytes, u32 value) {
    if (likely(m->host != NULL)) {
        host_store(m->host, bytes, value);
        return true;
    }
    return mmu_write(cpu, m->lin, &value, bytes, MMU_WRITE);
}

/* ---- Operands that are a register or memory ---- */

static inline bool op_read(struct interp *it, struct cpu *cpu, const struct insn *in, unsigned n,
                           unsigned bytes, u32 *value) {
    u32 lin;
    switch (in->op[n].type) {
    case OP_REG:
        *value = gpr_read(cpu, in->op[n].reg, bytes);
        return true;
    case OP_IMM:
        *value = (u32)in->imm & size_mask(bytes);
        return true;
    default:
        return mem_linear(it, cpu, in, bytes, false, &lin) && mem_read(cpu, lin, bytes, value);
    }
}
static inline bool op_write(struct interp *it, struct cpu *cpu, const struct insn *in, unsigned n,
                            unsigned bytes, u32 value) {
    u32 lin;
    if (in->op[n].type == OP_REG) {
        gpr_write(cpu, in->op[n].reg, bytes, value);
        return true;
    }
    return mem_linear(it, cpu, in, bytes, true, &lin) && mem_write(cpu, lin, bytes, value);
}

/* A register or memory operand opened for read-modify-write. */
struct place {
    bool is_reg;
    u8 reg;
    struct rmw mem;
};
static inline bool place_open(struct interp *it, struct cpu *cpu, const struct insn *in, unsigned n,
                              unsigned bytes, struct place *p, u32 *old) {
    u32 lin;
    p->is_reg = in->op[n].type == OP_REG;
    p->reg = in->op[n].reg;
    if (p->is_reg) {
        p->mem = (struct rmw){.host = NULL};
        *old = gpr_read(cpu, p->reg, bytes);
        return true;
    }
    return mem_linear(it, cpu, in, bytes, true, &lin) && rmw_open(cpu, lin, bytes, &p->mem, old);
}
static inline bool place_close(struct cpu *cpu, const struct place *p, unsigned bytes, u32 value) {
    if (p->is_reg) {
        gpr_write(cpu, p->reg, bytes, value);
        return true;
    }
    return rmw_close(cpu, &p->mem, bytes, value);
}

/* ---- Stack (stack.c) ---- */

static inline u32 stack_mask(const struct cpu *cpu) {
    return cpu->seg[SEG_SS].attr & ATTR_DB ? 0xffffffffu : 0xffffu;
}
/* PUSH and POP of 2 or 4 bytes; ESP moves only on success. */
bool stack_push(struct interp *it, struct cpu *cpu, u32 value, unsigned bytes);
bool stack_pop(struct interp *it, struct cpu *cpu, u32 *value, unsigned bytes);
/* Reads the stack at ESP + displacement without moving ESP. */
bool stack_peek(struct interp *it, struct cpu *cpu, u32 displacement, unsigned bytes, u32 *value);

/* ---- Shorthands ---- */

static inline enum ex ex_fault(struct cpu *cpu, u8 vector) {
    cpu_fault(cpu, vector);
    return EX_FAULT;
}
static inline enum ex ex_gp0(struct cpu *cpu) {
    cpu_fault_error(cpu, VEC_GP, 0);
    return EX_FAULT;
}
static inline u32 next_eip(const struct cpu *cpu, const struct insn *in) {
    return cpu->eip + in->length;
}
/* Size of an instruction whose opcode bit 0 chooses between byte and full operand size. */
static inline unsigned opcode_bytes(const struct insn *in) {
    return in->opcode & 1 ? in->op_bytes : 1;
}
/* Flags of the subtraction a - b, as CMP sets them (alu.c). */
u32 alu_compare(unsigned bytes, u32 a, u32 b);
/* a + b or a - b with the flags of ADD or SUB (alu.c). */
u32 alu_sum(unsigned bytes, u32 a, u32 b, bool subtract, u32 *flags);

/* ---- The families: plain functions by file, then functions that choose one by operands ---- */
/* clang-format off */
#define INTERP_EXEC_FUNCTIONS(X)                                                                   \
    /* alu.c */                                                                                    \
    X(exec_neg) X(exec_not) X(exec_cmpxchg) X(exec_xadd)                                           \
    /* shift.c */                                                                                  \
    X(exec_rol) X(exec_ror) X(exec_rcl) X(exec_rcr) X(exec_shl) X(exec_shr) X(exec_sar)            \
    X(exec_shld) X(exec_shrd)                                                                      \
    /* muldiv.c */                                                                                 \
    X(exec_mul) X(exec_imul) X(exec_div) X(exec_idiv)                                              \
    /* bit.c */                                                                                    \
    X(exec_bt) X(exec_bts) X(exec_btr) X(exec_btc) X(exec_bsf) X(exec_bsr) X(exec_tzcnt)           \
    X(exec_lzcnt) X(exec_popcnt) X(exec_bswap) X(exec_crc32) X(exec_adcx) X(exec_adox)             \
    /* move.c */                                                                                   \
    X(exec_mov_any) X(exec_movzx) X(exec_movsx) X(exec_movbe) X(exec_xchg) X(exec_lea)             \
    X(exec_cmov) X(exec_setcc) X(exec_cbw) X(exec_cwde) X(exec_cwd) X(exec_cdq) X(exec_xlat)       \
    X(exec_lahf) X(exec_sahf) X(exec_salc) X(exec_clc) X(exec_stc) X(exec_cmc) X(exec_cld)         \
    X(exec_std) X(exec_nop) X(exec_cmpxchg8b) X(exec_lds) X(exec_les) X(exec_lfs) X(exec_lgs)      \
    X(exec_lss)                                                                                    \
    /* string.c */                                                                                 \
    X(exec_movs) X(exec_stos) X(exec_lods) X(exec_cmps) X(exec_scas) X(exec_ins) X(exec_outs)      \
    /* stack.c */                                                                                  \
    X(exec_push) X(exec_pop) X(exec_pusha) X(exec_popa) X(exec_pushf) X(exec_popf) X(exec_enter)   \
    X(exec_leave)                                                                                  \
    /* control.c */                                                                                \
    X(exec_jmp) X(exec_call) X(exec_ret) X(exec_iret) X(exec_jcxz) X(exec_loop) X(exec_int)        \
    X(exec_int3) X(exec_into) X(exec_int1) X(exec_bound) X(exec_sysenter) X(exec_sysexit)          \
    X(exec_ud)                                                                                     \
    /* system.c */                                                                                 \
    X(exec_hlt) X(exec_cli) X(exec_sti) X(exec_clts) X(exec_in) X(exec_out) X(exec_lgdt)           \
    X(exec_lidt) X(exec_sgdt) X(exec_sidt) X(exec_lldt) X(exec_ltr) X(exec_sldt) X(exec_str)       \
    X(exec_lmsw) X(exec_smsw) X(exec_lar) X(exec_lsl) X(exec_verr) X(exec_verw) X(exec_arpl)       \
    X(exec_invlpg) X(exec_invd) X(exec_rdmsr) X(exec_wrmsr) X(exec_rdtsc) X(exec_rdtscp)           \
    X(exec_rdpmc) X(exec_cpuid) X(exec_monitor) X(exec_mwait) X(exec_clflush) X(exec_rdrand)       \
    X(exec_clac) X(exec_stac)                                                                      \
    /* bcd.c */                                                                                    \
    X(exec_aaa) X(exec_aas) X(exec_aam) X(exec_aad) X(exec_daa) X(exec_das)                        \
    /* dispatch.c */                                                                               \
    X(exec_hostfp)
#define INTERP_BIND_FUNCTIONS(X)                                                                   \
    X(bind_add) X(bind_or) X(bind_adc) X(bind_sbb) X(bind_and) X(bind_sub) X(bind_xor)             \
    X(bind_cmp) X(bind_test) X(bind_inc) X(bind_dec) X(bind_mov) X(bind_jcc)
/* clang-format on */

#define X(name) enum ex name(struct interp *it, struct cpu *cpu, const struct insn *in);
INTERP_EXEC_FUNCTIONS(X)
#undef X
#define X(name) exec_fn name(const struct insn *in);
INTERP_BIND_FUNCTIONS(X)
#undef X

#endif
