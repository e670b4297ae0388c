/*
 * task.c: the hardware task switch. Everything that can be refused in the old task is refused
 * before anything changes; from the commit point on, faults belong to the new task, which is then
 * the state that the caller delivers them in. SDM volume 3, chapter 7 "Task Management".
 */
#include "ringcomp/rc_internal.h"

#define TSS32_BYTES 104
#define TSS16_BYTES 44

/* A task's state, of either format. */
struct task_image {
    u32 cr3, eip, eflags, gpr[8];
    u16 selector[6]; /* ES CS SS DS FS GS */
    u16 ldt;
    bool trap;
};

/* The new task while a switch is under way. */
struct new_task {
    u16 selector;
    struct rc_desc desc;
    bool is32;
    u32 base, limit;
};

static bool tss_is32(u32 attr) {
    return attr & SYS_32;
}

/* Finds and checks the new TSS: SDM volume 3, section 7.3, steps 1 to 4. */
static bool fetch_task(struct cpu *cpu, enum rc_task_cause cause, u32 ext, struct new_task *t) {
    bool back = cause == RC_TASK_IRET;
    u8 vector = back ? VEC_TS : VEC_GP;
    if ((t->selector & 4) || rc_null(t->selector))
        return rc_fault_selector(cpu, vector, t->selector, ext);
    if (!rc_fetch(cpu, t->selector, vector, ext, &t->desc))
        return false;
    u32 attr = rc_desc_attr(&t->desc), type = attr & (ATTR_S | ATTR_TYPE);
    u32 expected = back ? SYS_TSS16_BUSY : SYS_TSS16;
    if ((type & ~(u32)SYS_32) != expected)
        return rc_fault_selector(cpu, vector, t->selector, ext);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, t->selector, ext);
    t->is32 = tss_is32(attr);
    t->base = rc_desc_base(&t->desc);
    t->limit = rc_desc_limit(&t->desc);
    if (t->limit < (t->is32 ? TSS32_BYTES : TSS16_BYTES) - 1u)
        return rc_fault_selector(cpu, VEC_TS, t->selector, ext);
    return true;
}

static bool read_image(struct cpu *cpu, const struct new_task *t, struct task_image *m) {
    u8 raw[TSS32_BYTES];
    unsigned bytes = t->is32 ? TSS32_BYTES : TSS16_BYTES;
    /* In pieces of machine size, so that nothing on the way calls a vectorized memcpy. */
    for (unsigned i = 0; i < bytes; i += 4)
        if (!mmu_read(cpu, t->base + i, raw + i, 4, MMU_READ | MMU_SUPERVISOR))
            return false;
    m->trap = false;
    m->selector[SEG_FS] = m->selector[SEG_GS] = 0;
    if (t->is32) {
        m->cr3 = load32(raw + 0x1c);
        m->eip = load32(raw + 0x20);
        m->eflags = load32(raw + 0x24);
        for (unsigned i = 0; i < 8; i++)
            m->gpr[i] = load32(raw + 0x28 + 4 * i);
        for (unsigned i = 0; i < 6; i++)
            m->selector[i] = load16(raw + 0x48 + 4 * i);
        m->ldt = load16(raw + 0x60);
        m->trap = raw[0x64] & 1;
        return true;
    }
    m->cr3 = cpu->cr3;
    m->eip = load16(raw + 0x0e);
    m->eflags = load16(raw + 0x10);
    for (unsigned i = 0; i < 8; i++)
        m->gpr[i] = load16(raw + 0x12 + 2 * i);
    for (unsigned i = 0; i < 4; i++)
        m->selector[i] = load16(raw + 0x22 + 2 * i);
    m->ldt = load16(raw + 0x2a);
    return true;
}

/* The part of the old TSS that a switch saves: [*from, *from + *bytes). */
static void save_area(const struct cpu *cpu, u32 *from, u32 *bytes) {
    bool is32 = tss_is32(cpu->seg[SEG_TR].attr);
    *from = is32 ? 0x20 : 0x0e;
    *bytes = is32 ? 0x40 : 0x1c;
}

/* Makes sure that every byte the switch will write is writable. */
static bool check_writes(struct cpu *cpu, const struct new_task *t, enum rc_task_cause cause) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    const unsigned access = MMU_WRITE | MMU_SUPERVISOR;
    u32 from, bytes, old_desc;
    save_area(cpu, &from, &bytes);
    if (!mmu_check_write(cpu, tr->base + from, bytes, access) ||
        !mmu_check_write(cpu, t->desc.lin + 5, 1, access))
        return false;
    if (cause == RC_TASK_CALL || cause == RC_TASK_EVENT)
        return mmu_check_write(cpu, t->base, 2, access);
    return !rc_table_lookup(cpu, tr->selector, &old_desc) ||
           mmu_check_write(cpu, old_desc + 5, 1, access);
}

static bool save_old_task(struct cpu *cpu, u32 eip, u32 eflags) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    u8 raw[0x40];
    u32 from, bytes;
    save_area(cpu, &from, &bytes);
    if (tss_is32(tr->attr)) {
        store32(raw, eip);
        store32(raw + 4, eflags);
        for (unsigned i = 0; i < 8; i++)
            store32(raw + 8 + 4 * i, (u32)cpu->gpr[i]);
        for (unsigned i = 0; i < 6; i++)
            store32(raw + 0x28 + 4 * i, cpu->seg[i].selector);
    } else {
        store16(raw, (u16)eip);
        store16(raw + 2, (u16)eflags);
        for (unsigned i = 0; i < 8; i++)
            store16(raw + 4 + 2 * i, (u16)cpu->gpr[i]);
        for (unsigned i = 0; i < 4; i++)
            store16(raw + 0x14 + 2 * i, cpu->seg[i].selector);
    }
    for (u32 i = 0; i < bytes; i += 4)
        if (!mmu_write(cpu, tr->base + from + i, raw + i, 4, MMU_WRITE | MMU_SUPERVISOR))
            return false;
    return true;
}

/* Sets or clears the busy bit of a TSS descriptor in the GDT. */
static bool mark_busy(struct cpu *cpu, u16 selector, bool busy) {
    u32 lin;
    u8 type;
    if (!rc_table_lookup(cpu, selector, &lin))
        return true;
    if (!mmu_read(cpu, lin + 5, &type, 1, MMU_READ | MMU_SUPERVISOR))
        return false;
    type = busy ? type | SYS_BUSY : type & ~SYS_BUSY;
    return mmu_write(cpu, lin + 5, &type, 1, MMU_WRITE | MMU_SUPERVISOR);
}

/* ---- The new task's segments: SDM volume 3, section 7.3, table 7-1 ---- */

static bool load_task_ldt(struct cpu *cpu, u16 selector, u32 ext) {
    struct rc_desc d;
    if (rc_null(selector))
        return true;
    if (selector & 4)
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!rc_fetch(cpu, selector, VEC_TS, ext, &d))
        return false;
    u32 attr = rc_desc_attr(&d);
    if ((attr & (ATTR_S | ATTR_TYPE)) != SYS_LDT || !(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    rc_fill_desc(&cpu->seg[SEG_LDTR], selector, &d);
    return true;
}

static bool load_task_cs(struct cpu *cpu, u16 selector, u32 ext) {
    struct rc_desc d;
    unsigned rpl = selector & 3u;
    if (rc_null(selector))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!rc_fetch(cpu, selector, VEC_TS, ext, &d))
        return false;
    u32 attr = rc_desc_attr(&d);
    unsigned dpl = rc_attr_dpl(attr);
    if (!rc_attr_is_code(attr) || !(attr & ATTR_C ? dpl <= rpl : dpl == rpl))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, selector, ext);
    if (!rc_set_accessed(cpu, &d))
        return false;
    rc_fill_desc(&cpu->seg[SEG_CS], selector, &d);
    return true;
}

static bool load_task_ss(struct cpu *cpu, u16 selector, u32 ext) {
    struct rc_desc d;
    if (rc_null(selector))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!rc_fetch(cpu, selector, VEC_TS, ext, &d))
        return false;
    u32 attr = rc_desc_attr(&d);
    if (!rc_attr_is_writable_data(attr) || rc_attr_dpl(attr) != cpu->cpl ||
        (selector & 3u) != cpu->cpl)
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_SS, selector, ext);
    if (!rc_set_accessed(cpu, &d))
        return false;
    rc_fill_desc(&cpu->seg[SEG_SS], selector, &d);
    return true;
}

/* Data segments: the checks of MOV Sreg, with #TS where that has #GP. */
static bool load_task_data(struct cpu *cpu, enum seg seg, u16 selector, u32 ext) {
    if (rc_load_segment(cpu, seg, selector))
        return true;
    if (cpu->fault.vector == VEC_GP)
        cpu->fault.vector = VEC_TS;
    if (cpu->fault.vector != VEC_PF)
        cpu->fault.error |= ext;
    return false;
}

/* Loads the visible selectors, then what they name. */
static bool load_task_segments(struct cpu *cpu, const struct task_image *m, u32 ext) {
    static const u8 data[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    bool v86 = cpu_v86(cpu);
    cpu->cpl = v86 ? 3 : m->selector[SEG_CS] & 3u;
    for (unsigned i = 0; i < 6; i++) {
        if (v86)
            rc_fill_v86(&cpu->seg[i], m->selector[i]);
        else
            rc_fill_null(&cpu->seg[i], m->selector[i]);
    }
    rc_fill_null(&cpu->seg[SEG_LDTR], m->ldt);
    if (!load_task_ldt(cpu, m->ldt, ext))
        return false;
    if (v86)
        return true;
    if (!load_task_cs(cpu, m->selector[SEG_CS], ext) ||
        !load_task_ss(cpu, m->selector[SEG_SS], ext))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        if (!load_task_data(cpu, data[i], m->selector[data[i]], ext))
            return false;
    return true;
}

static bool push_task_error(struct cpu *cpu, bool is32, u32 error, u32 ext) {
    struct rc_frame f;
    u32 esp = (u32)cpu->gpr[R_ESP];
    rc_frame_init(&f, is32 ? 4 : 2);
    rc_frame_add(&f, error);
    if (!rc_push_frame(cpu, &cpu->seg[SEG_SS], &esp, &f, 0, ext))
        return false;
    cpu->gpr[R_ESP] = esp;
    return true;
}

/* Writes the old task's state and the busy bits and links; all were checked to be writable. */
static bool leave_old_task(struct cpu *cpu, const struct new_task *t, enum rc_task_cause cause,
                           u32 next_eip) {
    u16 old = cpu->seg[SEG_TR].selector;
    bool nests = cause == RC_TASK_CALL || cause == RC_TASK_EVENT;
    u32 eflags = cause == RC_TASK_IRET ? cpu->eflags & ~(u32)F_NT : cpu->eflags;
    if (!save_old_task(cpu, next_eip, eflags))
        return false;
    if (!nests && !mark_busy(cpu, old, false))
        return false;
    if (cause != RC_TASK_IRET && !mark_busy(cpu, t->selector, true))
        return false;
    return !nests || mmu_write(cpu, t->base, &old, 2, MMU_WRITE | MMU_SUPERVISOR);
}

/* Reads and checks the new task's PDPTEs. The old task's stay in force until it has been left: its
 * TSS is written through them. */
static bool read_pdptrs(struct cpu *cpu, u32 cr3, u64 out[4]) {
    u64 old[4];
    for (unsigned i = 0; i < 4; i++)
        old[i] = cpu->pdptr[i];
    bool ok = mmu_load_pdptrs(cpu, cr3);
    for (unsigned i = 0; i < 4; i++) {
        out[i] = cpu->pdptr[i];
        cpu->pdptr[i] = old[i];
    }
    return ok;
}

/* Loads everything that cannot fault. pdptr: with PAE and another CR3 only. */
static void enter_new_task(struct cpu *cpu, const struct new_task *t, const struct task_image *m,
                           enum rc_task_cause cause, const u64 pdptr[4]) {
    u32 cr3 = cpu->cr3;
    rc_fill_desc(&cpu->seg[SEG_TR], t->selector, &t->desc);
    cpu->seg[SEG_TR].attr |= SYS_BUSY;
    cpu->cr0 |= CR0_TS;
    cpu->dr[7] &= ~(u32)DR7_LOCAL_ENABLES;
    cpu->eip = m->eip;
    cpu->eflags = (m->eflags & F_ALL) | F_FIXED;
    if (cause == RC_TASK_CALL || cause == RC_TASK_EVENT)
        cpu->eflags |= F_NT;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = m->gpr[i];
    cpu->shadow &= SHADOW_DEBUG;
    cpu->halted = false;
    if (cpu_paging(cpu) && m->cr3 != cr3) {
        cpu->cr3 = m->cr3;
        for (unsigned i = 0; pdptr && i < 4; i++)
            cpu->pdptr[i] = pdptr[i];
        mmu_cr3_loaded(cpu);
    }
}

bool rc_task_switch_ext(struct cpu *cpu, u16 selector, enum rc_task_cause cause, u32 next_eip,
                        bool has_error, u32 error, u32 ext) {
    struct new_task t = {.selector = selector};
    struct task_image m;
    if (cpu->seg[SEG_TR].attr & ATTR_NULL)
        return rc_fault_selector(cpu, VEC_TS, cpu->seg[SEG_TR].selector, ext);
    if (!fetch_task(cpu, cause, ext, &t) || !read_image(cpu, &t, &m) ||
        !check_writes(cpu, &t, cause))
        return false;
    u64 pdptr[4];
    bool pae = cpu_paging(cpu) && (cpu->cr4 & CR4_PAE) && m.cr3 != cpu->cr3;
    if (pae && !read_pdptrs(cpu, m.cr3, pdptr))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (!leave_old_task(cpu, &t, cause, next_eip))
        return false;
    enter_new_task(cpu, &t, &m, cause, pae ? pdptr : NULL);
    if (!load_task_segments(cpu, &m, ext))
        return false;
    if (cpu->eip > cpu->seg[SEG_CS].limit)
        return cpu_fault_error(cpu, VEC_GP, ext);
    if (has_error && !push_task_error(cpu, t.is32, error, ext))
        return false;
    if (m.trap) {
        cpu->dr[6] |= DR6_BT;
        return cpu_fault(cpu, VEC_DB);
    }
    return true;
}

bool rc_task_switch(struct cpu *cpu, u16 tss_selector, enum rc_task_cause cause, u32 next_eip,
                    bool has_error, u32 error) {
    return rc_task_switch_ext(cpu, tss_selector, cause, next_eip, has_error, error,
                              cause == RC_TASK_EVENT);
}
