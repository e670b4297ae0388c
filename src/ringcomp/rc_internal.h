/*
 * rc_internal.h: what the files of ringcomp share: descriptors as read from guest tables, and stack
 * frames that are checked as a whole before a single byte of them is written.
 *
 * Everything here may run while the guest's x87 and SSE state is live in the host's registers: no
 * floating point, no vectors, no libc.
 */
#ifndef RINGFOLD_RINGCOMP_RC_INTERNAL_H
#define RINGFOLD_RINGCOMP_RC_INTERNAL_H

#include "base/base.h"
#include "base/cpu.h"
#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

/* System descriptor types: SDM volume 3, section 3.5, table 3-2. */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15
};
#define SYS_BUSY 2 /* the bit of a TSS type that says busy */
#define SYS_32 8   /* the bit of a TSS or gate type that says 32 bits */

/* Attributes of segments that no descriptor defines. */
enum {
    ATTR_REAL = ATTR_P | ATTR_S | ATTR_W | ATTR_A,
    ATTR_V86 = ATTR_REAL | ATTR_DPL,
    ATTR_FLAT_CODE = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | ATTR_CODE | ATTR_R | ATTR_A,
    ATTR_FLAT_DATA = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | ATTR_W | ATTR_A
};

/* ---- Memory ---- */

/* mmu_host_pointer() with its soft-TLB hit inlined: the accesses below go to few pages (GDT, IDT,
 * TSS, kernel stack), which nearly always hit. rc_host_known: NULL when they do not. */
static inline void *rc_host_known(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access) {
    struct mmu *mmu = cpu->mmu;
    bool user = cpu->cpl == 3 && !(access & MMU_SUPERVISOR);
    const struct softtlb_entry *e = &mmu->tlb[user].entry[softtlb_index(lin)];
    u32 tag = access & MMU_WRITE ? e->write_tag : e->read_tag, offset = lin & PAGE_OFFSET_MASK;
    bool recording = (access & MMU_WRITE) && mmu->journal;
    bool hit = tag == ((lin & ~PAGE_OFFSET_MASK) | 1) && offset + bytes <= PAGE_BYTES;
    return likely(hit && !recording) ? e->host + offset : NULL;
}
static inline void *rc_host(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access) {
    void *known = rc_host_known(cpu, lin, bytes, access);
    return likely(known) ? known : mmu_host_pointer(cpu, lin, bytes, access);
}

/* Reads 2, 4 or 8 bytes of a descriptor table or TSS with supervisor rights. *out is only written,
 * never passed on, so that it can stay in a register. */
static inline __attribute__((always_inline)) bool rc_read_sys(struct cpu *cpu, u32 lin, u64 *out,
                                                              unsigned bytes) {
    const void *p = rc_host(cpu, lin, bytes, MMU_READ | MMU_SUPERVISOR);
    if (unlikely(!p)) {
        u64 value = 0;
        if (!mmu_read(cpu, lin, &value, bytes, MMU_READ | MMU_SUPERVISOR))
            return false;
        *out = value;
        return true;
    }
    *out = bytes == 8 ? load64(p) : bytes == 4 ? load32(p) : load16(p);
    return true;
}

/* ---- Faults ---- */

/* An exception whose error code is a selector: SDM volume 3, section 6.13 "Error Code". */
static inline bool rc_fault_selector(struct cpu *cpu, u8 vector, u16 selector, u32 ext) {
    return cpu_fault_error(cpu, vector, (selector & 0xfffcu) | ext);
}
static inline bool rc_gp0(struct cpu *cpu) {
    return cpu_fault_error(cpu, VEC_GP, 0);
}

/* ---- Descriptors ---- */

/* The two halves as in memory, and where they were read. */
struct rc_desc {
    u32 lo, hi;
    u32 lin;
};
static inline bool rc_null(u16 selector) {
    return (selector & 0xfffcu) == 0;
}
static inline u32 rc_desc_attr(const struct rc_desc *d) {
    return (d->hi >> 8) & 0xf0ffu;
}
static inline u32 rc_desc_base(const struct rc_desc *d) {
    return d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000u);
}
static inline u32 rc_desc_limit(const struct rc_desc *d) {
    u32 limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    return d->hi & BIT(23) ? limit << 12 | 0xfff : limit;
}
static inline unsigned rc_attr_dpl(u32 attr) {
    return attr >> ATTR_DPL_SHIFT & 3;
}
static inline bool rc_attr_is_code(u32 attr) {
    return (attr & (ATTR_S | ATTR_CODE)) == (ATTR_S | ATTR_CODE);
}
static inline bool rc_attr_is_writable_data(u32 attr) {
    return (attr & (ATTR_S | ATTR_CODE | ATTR_W)) == (ATTR_S | ATTR_W);
}
/* Gate fields: SDM volume 3, section 5.8.3 "Call Gates" and 6.11 "IDT Descriptors". */
static inline u16 rc_gate_selector(const struct rc_desc *d) {
    return (u16)(d->lo >> 16);
}
static inline u32 rc_gate_offset(const struct rc_desc *d) {
    u32 low = d->lo & 0xffff;
    return d->hi & BIT(11) ? low | (d->hi & 0xffff0000u) : low;
}

/* Field by field: a compound literal of this padded structure compiles to stores followed by wider
 * loads of the same bytes, a store-forwarding stall each. */
static inline void rc_fill(struct segment *s, u16 selector, u32 attr, u32 limit, u32 base) {
    s->selector = selector;
    s->attr = attr;
    s->limit = limit;
    s->base = base;
}
static inline void rc_fill_desc(struct segment *s, u16 selector, const struct rc_desc *d) {
    rc_fill(s, selector, rc_desc_attr(d) | (d->hi & BIT(12) ? ATTR_A : 0), rc_desc_limit(d),
            rc_desc_base(d));
}
static inline void rc_fill_null(struct segment *s, u16 selector) {
    rc_fill(s, selector, ATTR_NULL, 0, 0);
}
static inline void rc_fill_v86(struct segment *s, u16 selector) {
    rc_fill(s, selector, ATTR_V86, 0xffff, (u32)selector << 4);
}
static inline void rc_copy_segment(struct segment *to, const struct segment *from) {
    rc_fill(to, from->selector, from->attr, from->limit, from->base);
}
/* Real mode replaces selector and base only, so that big real mode works. */
void rc_load_real(struct cpu *cpu, enum seg seg, u16 selector);

/* Where the selector's descriptor lies; false when outside its table. */
static inline bool rc_table_lookup(const struct cpu *cpu, u16 selector, u32 *lin) {
    u32 base = cpu->gdtr.base, limit = cpu->gdtr.limit;
    if (unlikely(selector & 4)) {
        if (cpu->seg[SEG_LDTR].attr & ATTR_NULL)
            return false;
        base = cpu->seg[SEG_LDTR].base;
        limit = cpu->seg[SEG_LDTR].limit;
    }
    *lin = base + (selector & 0xfff8u);
    return (selector | 7u) <= limit;
}
static inline bool rc_read_desc(struct cpu *cpu, u32 lin, struct rc_desc *d) {
    u64 raw;
    if (unlikely(!rc_read_sys(cpu, lin, &raw, 8)))
        return false;
    d->lo = (u32)raw;
    d->hi = (u32)(raw >> 32);
    d->lin = lin;
    return true;
}
/* Fetches a descriptor; outside the table it raises `vector` with the selector. */
static inline bool rc_fetch(struct cpu *cpu, u16 selector, u8 vector, u32 ext, struct rc_desc *d) {
    u32 lin;
    if (unlikely(!rc_table_lookup(cpu, selector, &lin)))
        return rc_fault_selector(cpu, vector, selector, ext);
    return rc_read_desc(cpu, lin, d);
}
/* Sets the accessed bit in the guest's table if it is clear. */
bool rc_set_accessed_slow(struct cpu *cpu, u32 lin, u32 hi);
static inline bool rc_set_accessed(struct cpu *cpu, const struct rc_desc *d) {
    return likely(d->hi & BIT(8)) || rc_set_accessed_slow(cpu, d->lin, d->hi);
}

/* ---- Limits and stacks ---- */

/* True when [offset, offset + bytes) lies within the segment: SDM volume 3, section 5.3. */
static inline bool rc_in_limit(const struct segment *s, u32 offset, unsigned bytes) {
    if (unlikely((s->attr & (ATTR_S | ATTR_CODE | ATTR_E)) == (ATTR_S | ATTR_E))) {
        u32 top = s->attr & ATTR_DB ? 0xffffffffu : 0xffffu;
        return offset > s->limit && offset <= top && bytes - 1 <= top - offset;
    }
    return offset <= s->limit && bytes - 1 <= s->limit - offset;
}
static inline u32 rc_stack_mask(const struct segment *ss) {
    return ss->attr & ATTR_DB ? 0xffffffffu : 0xffffu;
}
/* esp with `value` put where a stack of this size has its pointer (SP or ESP). */
static inline u32 rc_stack_pointer(const struct segment *ss, u32 esp, u32 value) {
    u32 mask = rc_stack_mask(ss);
    return (esp & ~mask) | (value & mask);
}

/* Values to be pushed; slot[0] first (highest address). */
#define RC_FRAME_MAX 36 /* far call through a gate: SS, ESP, 31 parameters, CS, EIP */
struct rc_frame {
    unsigned count, bytes; /* slots, and the size of each: 2 or 4 */
    u32 slot[RC_FRAME_MAX];
};
static inline void rc_frame_init(struct rc_frame *f, unsigned bytes) {
    f->count = 0; /* the slots stay as they are: clearing them would call memset */
    f->bytes = bytes;
}
static inline void rc_frame_add(struct rc_frame *f, u32 value) {
    f->slot[f->count++] = value;
}
/* Pushes all or nothing and updates *esp. access: MMU_SUPERVISOR for an inner stack. A limit
 * violation is #SS(ss_error). */
bool rc_push_frame(struct cpu *cpu, const struct segment *ss, u32 *esp, const struct rc_frame *f,
                   unsigned access, u32 ss_error);
/* Reads `count` slots upwards from ESP + skip without popping them. #SS(0) on the limit. */
bool rc_peek_frame(struct cpu *cpu, u32 skip, unsigned count, unsigned bytes, u32 *slot);

/* Do accesses to the stack have to be looked at one by one? (AC without AM only costs time.) */
static inline bool rc_frame_checked(const struct cpu *cpu) {
    return unlikely((cpu->dr[7] & DR7_ANY_ENABLE) | (cpu->eflags & F_AC));
}
/* #AC(0) for a slot that the program's own ring reads or writes and that is not aligned. */
bool rc_frame_aligned(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access);
/* Notes the data breakpoints that a slot hits. */
void rc_frame_watched(struct cpu *cpu, u32 lin, unsigned bytes, bool write);

/* A stack to switch to. */
struct rc_stack {
    struct segment ss;
    u32 esp;
};
/* The stack of ring `dpl` from the current TSS, fully checked: SDM volume 3, section 5.8.5 "Stack
 * Switching". #TS, #SS or #PF. */
bool rc_inner_stack(struct cpu *cpu, unsigned dpl, u32 ext, struct rc_stack *out);

/* ---- Transfers ---- */

static inline void rc_commit_cs(struct cpu *cpu, u16 selector, const struct rc_desc *d,
                                unsigned cpl) {
    rc_fill_desc(&cpu->seg[SEG_CS], (u16)((selector & 0xfffcu) | cpl), d);
    cpu->cpl = (u8)cpl;
}
/* Returns to an outer ring null the data segments that ring may not use: SDM volume 3, section
 * 5.8.6 "Returning from a Called Procedure". */
static inline void rc_null_inaccessible(struct cpu *cpu, unsigned cpl) {
    static const u8 regs[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(regs); i++) {
        struct segment *s = &cpu->seg[regs[i]];
        bool conforming = (s->attr & (ATTR_CODE | ATTR_C)) == (ATTR_CODE | ATTR_C);
        if (!(s->attr & ATTR_NULL) && rc_attr_dpl(s->attr) < cpl && !conforming)
            rc_fill_null(s, 0);
    }
}
/* A code segment and stack to return to, as popped by RETF or IRET. */
struct rc_return {
    u16 cs, ss;
    u32 eip, esp;
    struct rc_desc cs_desc;
    struct segment ss_seg; /* outer ring only */
};
/* Checks the popped CS for a return from CPL; the RPL in it is the new CPL. */
bool rc_check_return_cs(struct cpu *cpu, struct rc_return *r);
/* Checks the popped SS of a return to an outer ring, and EIP. */
bool rc_check_return_ss(struct cpu *cpu, struct rc_return *r);

/* ---- VIF in the place of IF, in V86 mode (flags.c) ---- */

/* May POPF or IRET of that size take the image? (A pending virtual interrupt must not be let in
 * that way, single-stepping not be turned on.) False: #GP(0). */
bool rc_virtual_flags_allowed(const struct cpu *cpu, u32 image, unsigned op_bytes);
/* The flags from that image, VIF from its IF; IF and IOPL stay. */
void rc_load_virtual_flags(struct cpu *cpu, u32 image);
/* The 16 bits that PUSHF and INT n push: IOPL 3, and VIF for IF. */
u32 rc_virtual_flags_image(const struct cpu *cpu);

/* rc_task_switch with the EXT bit of error codes. */
bool rc_task_switch_ext(struct cpu *cpu, u16 selector, enum rc_task_cause cause, u32 next_eip,
                        bool has_error, u32 error, u32 ext);

/* CPL 0, or #GP(0); inlined form of rc_require_cpl0(). */
static inline bool rc_is_cpl0(struct cpu *cpu) {
    return likely(cpu->cpl == 0) || rc_gp0(cpu);
}
/* The data of a CPUID leaf, or NULL. */
const struct cpuid_leaf *rc_find_leaf(const struct cpu_model *model, u32 leaf, u32 subleaf);
/* The guest's time-stamp counter. */
static inline u64 rc_tsc(const struct cpu *cpu) {
    return cpu->bus->tsc(cpu->bus->opaque) + cpu->tsc_offset;
}

#endif
