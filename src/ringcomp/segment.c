/*
 * segment.c: a segment register is a selector plus a cached descriptor. Loading one reads the
 * guest's table with supervisor rights, makes every check in the manual's order, and only then
 * changes the register; using one is a limit and type check of the cache.
 */
#include "ringcomp/rc_internal.h"

bool rc_set_accessed_slow(struct cpu *cpu, u32 lin, u32 hi) {
    u8 type = (u8)(hi >> 8) | ATTR_A;
    return mmu_write(cpu, lin + 5, &type, 1, MMU_WRITE | MMU_SUPERVISOR);
}

void rc_load_real(struct cpu *cpu, enum seg seg, u16 selector) {
    struct segment *s = &cpu->seg[seg];
    if (s->attr & ATTR_NULL) {
        s->attr = 0;
        s->limit = 0xffff;
    }
    if (seg == SEG_CS || !(s->attr & ATTR_P))
        s->attr = (s->attr & (ATTR_DB | ATTR_G | ATTR_AVL)) | ATTR_REAL;
    s->selector = selector;
    s->base = (u32)selector << 4;
}

/* ---- MOV Sreg, POP Sreg, LES...: SDM volume 2, "MOV-Move"; volume 3, section 5.6 ---- */

static bool load_stack_segment(struct cpu *cpu, u16 selector) {
    struct rc_desc d;
    if (unlikely(rc_null(selector)))
        return rc_gp0(cpu);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, &d))
        return false;
    u32 attr = rc_desc_attr(&d);
    unsigned cpl = cpu->cpl;
    if ((selector & 3u) != cpl || !rc_attr_is_writable_data(attr) || rc_attr_dpl(attr) != cpl)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_SS, selector, 0);
    if (!rc_set_accessed(cpu, &d))
        return false;
    rc_fill_desc(&cpu->seg[SEG_SS], selector, &d);
    return true;
}

static inline bool load_data_segment(struct cpu *cpu, enum seg seg, u16 selector) {
    struct rc_desc d;
    if (rc_null(selector)) {
        rc_fill_null(&cpu->seg[seg], selector);
        return true;
    }
    if (unlikely(!rc_fetch(cpu, selector, VEC_GP, 0, &d)))
        return false;
    u32 attr = rc_desc_attr(&d);
    bool is_code = attr & ATTR_CODE;
    if (unlikely(!(attr & ATTR_S) || (is_code && !(attr & ATTR_R))))
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    unsigned dpl = rc_attr_dpl(attr);
    if (!(is_code && (attr & ATTR_C)) && unlikely((selector & 3u) > dpl || cpu->cpl > dpl))
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (unlikely(!(attr & ATTR_P)))
        return rc_fault_selector(cpu, VEC_NP, selector, 0);
    if (unlikely(!rc_set_accessed(cpu, &d)))
        return false;
    rc_fill_desc(&cpu->seg[seg], selector, &d);
    return true;
}

bool rc_load_segment(struct cpu *cpu, enum seg seg, u16 selector) {
    if (unlikely(!cpu_protected(cpu))) {
        rc_load_real(cpu, seg, selector);
        return true;
    }
    if (unlikely(cpu_v86(cpu))) {
        rc_fill_v86(&cpu->seg[seg], selector);
        return true;
    }
    if (seg == SEG_SS)
        return load_stack_segment(cpu, selector);
    return load_data_segment(cpu, seg, selector);
}

/* ---- LLDT, LTR ---- */

static bool require_protected(struct cpu *cpu) {
    return (cpu_protected(cpu) && !cpu_v86(cpu)) || cpu_fault(cpu, VEC_UD);
}

/* SDM volume 2, "LLDT-Load Local Descriptor Table Register". */
bool rc_lldt(struct cpu *cpu, u16 selector) {
    struct rc_desc d;
    if (!require_protected(cpu) || !rc_require_cpl0(cpu))
        return false;
    if (rc_null(selector)) {
        rc_fill_null(&cpu->seg[SEG_LDTR], selector);
        return true;
    }
    if (selector & 4)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, &d))
        return false;
    u32 attr = rc_desc_attr(&d);
    if ((attr & (ATTR_S | ATTR_TYPE)) != SYS_LDT)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, selector, 0);
    rc_fill_desc(&cpu->seg[SEG_LDTR], selector, &d);
    return true;
}

/* SDM volume 2, "LTR-Load Task Register". */
bool rc_ltr(struct cpu *cpu, u16 selector) {
    struct rc_desc d;
    if (!require_protected(cpu) || !rc_require_cpl0(cpu))
        return false;
    if (rc_null(selector))
        return rc_gp0(cpu);
    if (selector & 4)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, &d))
        return false;
    u32 attr = rc_desc_attr(&d), type = attr & (ATTR_S | ATTR_TYPE);
    if (type != SYS_TSS16 && type != SYS_TSS32)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, selector, 0);
    u8 busy = (u8)(d.hi >> 8) | SYS_BUSY;
    if (!mmu_write(cpu, d.lin + 5, &busy, 1, MMU_WRITE | MMU_SUPERVISOR))
        return false;
    d.hi |= (u32)SYS_BUSY << 8;
    rc_fill_desc(&cpu->seg[SEG_TR], selector, &d);
    return true;
}

/* ---- LAR, LSL, VERR, VERW: SDM volume 3, section 5.10 "Pointer Validation" ---- */

/* Types of system descriptor that LAR and LSL accept, a bit each. */
#define LSL_TYPES                                                                                  \
    (BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY))
#define LAR_TYPES (LSL_TYPES | BIT(SYS_CALL16) | BIT(SYS_TASK_GATE) | BIT(SYS_CALL32))

/* Fetches for inspection: *ok false when the selector names nothing the caller may see. False: a
 * fault. */
static bool inspect(struct cpu *cpu, u16 selector, u32 system_types, struct rc_desc *d, bool *ok) {
    u32 lin;
    *ok = false;
    if (!require_protected(cpu))
        return false;
    if (rc_null(selector) || !rc_table_lookup(cpu, selector, &lin))
        return true;
    if (!rc_read_desc(cpu, lin, d))
        return false;
    u32 attr = rc_desc_attr(d);
    if (!(attr & ATTR_S) && !(system_types >> (attr & ATTR_TYPE) & 1))
        return true;
    bool conforming = (attr & (ATTR_S | ATTR_CODE | ATTR_C)) == (ATTR_S | ATTR_CODE | ATTR_C);
    unsigned dpl = rc_attr_dpl(attr);
    *ok = conforming || (cpu->cpl <= dpl && (selector & 3u) <= dpl);
    return true;
}

bool rc_lar(struct cpu *cpu, u16 selector, bool *ok, u32 *value) {
    struct rc_desc d;
    if (!inspect(cpu, selector, LAR_TYPES, &d, ok))
        return false;
    if (*ok)
        *value = d.hi & 0x00ffff00u; /* 00FxFF00h: x, undefined, is the limit's upper part */
    return true;
}

bool rc_lsl(struct cpu *cpu, u16 selector, bool *ok, u32 *value) {
    struct rc_desc d;
    if (!inspect(cpu, selector, LSL_TYPES, &d, ok))
        return false;
    if (*ok)
        *value = rc_desc_limit(&d);
    return true;
}

bool rc_verify(struct cpu *cpu, u16 selector, bool for_write, bool *ok) {
    struct rc_desc d;
    if (!inspect(cpu, selector, 0, &d, ok))
        return false;
    if (*ok) {
        u32 attr = rc_desc_attr(&d);
        *ok = for_write ? rc_attr_is_writable_data(attr) : !(attr & ATTR_CODE) || (attr & ATTR_R);
    }
    return true;
}

/* ---- Using a segment: SDM volume 3, sections 5.3 "Limit Checking" and 5.4 "Type Checking" ---- */

bool rc_linear(struct cpu *cpu, enum seg seg, u32 offset, unsigned bytes, bool write, u32 *lin) {
    const struct segment *s = &cpu->seg[seg];
    *lin = s->base + offset;
    if (likely(rc_segment_is_unlimited(s)))
        return true;
    bool usable = !(s->attr & ATTR_NULL) && (s->attr & ATTR_P);
    bool type_ok =
        s->attr & ATTR_CODE ? !write && (s->attr & ATTR_R) : !write || (s->attr & ATTR_W);
    if (likely(usable && type_ok)) {
        bool unlimited_code = s->limit == 0xffffffffu && (s->attr & ATTR_CODE);
        if (unlimited_code || rc_in_limit(s, offset, bytes))
            return true;
    }
    return cpu_fault_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}
