/*
 * fast.c: INT n from ring 3 and the IRET that answers it, remembered. A system call reads the same
 * gate, code, stack and TSS entries each time; here their host addresses and values are kept with
 * the segments they led to, compared, and used again. Whatever is not the plain case goes the long
 * way.
 */
#include "ringcomp/rc_internal.h"

/* One table entry as it was: host address and value. */
struct entry {
    const u64 *at;
    u64 value;
    u32 lin;
};

struct fast {
    struct {
        bool known, doubted;
        u8 vector;
        u32 cleared; /* flags: IF by an interrupt gate, not by a trap gate */
        u32 eip;
        struct entry gate, cs_entry, ss_entry;
        const u8 *stack; /* ESP0 and SS0 in the TSS */
        u32 stack_lin;
        struct segment cs, ss;
    } down;
    struct {
        bool known, doubted;
        struct entry cs_entry, ss_entry;
        struct segment cs, ss;
    } up;
};
_Static_assert(sizeof(struct fast) <= sizeof(((struct cpu *)0)->ringcomp_area), "ringcomp area");

static struct fast *fast_of(struct cpu *cpu) {
    return (struct fast *)cpu->ringcomp_area;
}

void rc_fast_forget(struct cpu *cpu) {
    struct fast *f = fast_of(cpu);
    f->down.known = f->down.doubted = f->up.known = f->up.doubted = false;
}

void rc_fast_doubt(struct cpu *cpu) {
    struct fast *f = fast_of(cpu);
    f->down.doubted |= f->down.known;
    f->up.doubted |= f->up.known;
    f->down.known = f->up.known = false;
}

static inline bool same(const struct entry *e) {
    return load64(e->at) == e->value;
}

/* In two words: fields would be loaded and stored one by one. */
static inline void copy_segment(struct segment *to, const struct segment *from) {
    _Static_assert(sizeof *to == 16, "two words");
    u64 low = load64(from), high = load64((const u8 *)from + 8);
    store64(to, low);
    store64((u8 *)to + 8, high);
}

static bool note(struct cpu *cpu, struct entry *e, u32 lin) {
    e->at = rc_host(cpu, lin, 8, MMU_READ | MMU_SUPERVISOR);
    if (!e->at)
        return false;
    e->value = load64(e->at);
    e->lin = lin;
    return true;
}

/* Is it where it was? */
static bool confirmed(struct cpu *cpu, const struct entry *e) {
    return rc_host(cpu, e->lin, 8, MMU_READ | MMU_SUPERVISOR) == e->at;
}

/* A code or data descriptor in the GDT. */
static bool note_descriptor(struct cpu *cpu, struct entry *e, u16 selector) {
    return !(selector & 4) && note(cpu, e, cpu->gdtr.base + (selector & ~7u));
}

/* What both rings' code and stack must be like to be remembered. */
static bool flat(const struct segment *cs, const struct segment *ss) {
    return rc_segment_is_flat_code(cs) && rc_segment_is_flat_data(ss) &&
           (cs->attr & ss->attr & ATTR_DB);
}

/* ---- INT n ---- */

static void note_int(struct cpu *cpu, u8 vector) {
    struct fast *f = fast_of(cpu);
    u32 type = cpu->seg[SEG_TR].attr & 0xd; /* 9 or 11: a 32-bit TSS */
    if (!cpu_protected(cpu) || cpu->cpl != 0 || cpu_v86(cpu) || type != 9 ||
        !flat(&cpu->seg[SEG_CS], &cpu->seg[SEG_SS]) ||
        !note(cpu, &f->down.gate, cpu->idtr.base + vector * 8u) ||
        !note_descriptor(cpu, &f->down.cs_entry, cpu->seg[SEG_CS].selector) ||
        !note_descriptor(cpu, &f->down.ss_entry, cpu->seg[SEG_SS].selector))
        return;
    u32 gate_type = (f->down.gate.value >> 40) & 0x1f;
    f->down.stack_lin = cpu->seg[SEG_TR].base + 4;
    f->down.stack = rc_host(cpu, f->down.stack_lin, 8, MMU_READ | MMU_SUPERVISOR);
    if (!f->down.stack || (gate_type != 14 && gate_type != 15))
        return;
    f->down.vector = vector;
    f->down.cleared = F_TF | F_NT | F_RF | F_VM | (gate_type == 14 ? F_IF : 0);
    f->down.eip = cpu->eip;
    f->down.cs = cpu->seg[SEG_CS];
    f->down.ss = cpu->seg[SEG_SS];
    f->down.known = true;
    f->down.doubted = false;
}

/* After rc_fast_doubt, the first time: known again, if everything is where it was. */
static bool int_is_confirmed(struct cpu *cpu, u8 vector) {
    struct fast *f = fast_of(cpu);
    if (!f->down.doubted || f->down.vector != vector || cpu->cpl != 3 || cpu_v86(cpu))
        return false;
    f->down.doubted = false;
    f->down.known = confirmed(cpu, &f->down.gate) && confirmed(cpu, &f->down.cs_entry) &&
                    confirmed(cpu, &f->down.ss_entry) &&
                    rc_host(cpu, f->down.stack_lin, 8, MMU_READ | MMU_SUPERVISOR) == f->down.stack;
    return f->down.known;
}

static inline void take_int(struct cpu *cpu, u8 *frame, u32 esp, u32 next_eip) {
    const struct fast *f = fast_of(cpu);
    u32 eflags = cpu->eflags;
    store32(frame, next_eip);
    store32(frame + 4, cpu->seg[SEG_CS].selector);
    store32(frame + 8, eflags & ~(u32)F_RF);
    store32(frame + 12, (u32)cpu->gpr[R_ESP]);
    store32(frame + 16, cpu->seg[SEG_SS].selector);
    copy_segment(&cpu->seg[SEG_CS], &f->down.cs);
    copy_segment(&cpu->seg[SEG_SS], &f->down.ss);
    cpu->gpr[R_ESP] = esp;
    cpu->eip = f->down.eip;
    cpu->eflags = eflags & ~f->down.cleared;
    cpu->cpl = 0;
}

/* Where the soft TLB does not know the stack. (Apart, so that the short way calls nothing.) */
static __attribute__((noinline)) bool int_by_walk(struct cpu *cpu, u32 esp, u32 next_eip) {
    u8 *frame = mmu_host_pointer(cpu, esp, 20, MMU_WRITE | MMU_SUPERVISOR);
    if (frame)
        take_int(cpu, frame, esp, next_eip);
    return frame;
}

bool rc_known_int(struct cpu *cpu, u8 vector, u32 next_eip) {
    const struct fast *f = fast_of(cpu);
    if (unlikely(!f->down.known || f->down.vector != vector || cpu->cpl != 3 || cpu_v86(cpu) ||
                 !same(&f->down.gate) || !same(&f->down.cs_entry) || !same(&f->down.ss_entry) ||
                 load16(f->down.stack + 4) != f->down.ss.selector || trace_on(TRACE_int)))
        return false;
    u32 esp = load32(f->down.stack) - 20;
    u8 *frame = rc_host_known(cpu, esp, 20, MMU_WRITE | MMU_SUPERVISOR);
    if (unlikely(!frame))
        return int_by_walk(cpu, esp, next_eip);
    take_int(cpu, frame, esp, next_eip);
    return true;
}

bool rc_fast_int(struct cpu *cpu, u8 vector, u32 next_eip) {
    if (rc_known_int(cpu, vector, next_eip) ||
        (int_is_confirmed(cpu, vector) && rc_known_int(cpu, vector, next_eip)))
        return true;
    bool from_user = cpu->cpl == 3 && !cpu_v86(cpu);
    if (!rc_deliver(cpu, vector, RC_SOFTWARE, false, 0, next_eip))
        return false;
    if (from_user)
        note_int(cpu, vector);
    return true;
}

/* ---- IRET ---- */

static void note_iret(struct cpu *cpu) {
    struct fast *f = fast_of(cpu);
    if (cpu->cpl != 3 || cpu_v86(cpu) ||
        !note_descriptor(cpu, &f->up.cs_entry, cpu->seg[SEG_CS].selector) ||
        !note_descriptor(cpu, &f->up.ss_entry, cpu->seg[SEG_SS].selector))
        return;
    f->up.cs = cpu->seg[SEG_CS];
    f->up.ss = cpu->seg[SEG_SS];
    f->up.known = flat(&f->up.cs, &f->up.ss);
    f->up.doubted = false;
}

static bool iret_is_confirmed(struct cpu *cpu) {
    struct fast *f = fast_of(cpu);
    if (!f->up.doubted || cpu->cpl != 0)
        return false;
    f->up.doubted = false;
    f->up.known = confirmed(cpu, &f->up.cs_entry) && confirmed(cpu, &f->up.ss_entry);
    return f->up.known;
}

/* Would IRET leave a data segment alone: null, or of DPL 3? */
static inline bool stays(const struct segment *data) {
    return likely(!(~data->attr & ATTR_DPL)) || (data->attr & ATTR_NULL);
}

static inline bool take_iret(struct cpu *cpu, const u8 *frame) {
    const struct fast *f = fast_of(cpu);
    u32 image = load32(frame + 8);
    if (unlikely(load16(frame + 4) != f->up.cs.selector ||
                 load16(frame + 16) != f->up.ss.selector || (image & F_VM) ||
                 !stays(&cpu->seg[SEG_ES]) || !stays(&cpu->seg[SEG_DS]) ||
                 !stays(&cpu->seg[SEG_FS]) || !stays(&cpu->seg[SEG_GS])))
        return false;
    u32 eip = load32(frame), esp = load32(frame + 12);
    cpu->eip = eip;
    cpu->eflags = (image & F_ALL) | F_FIXED;
    cpu->gpr[R_ESP] = esp;
    copy_segment(&cpu->seg[SEG_CS], &f->up.cs);
    copy_segment(&cpu->seg[SEG_SS], &f->up.ss);
    cpu->cpl = 3;
    cpu->nmi_blocked = false;
    return true;
}

static __attribute__((noinline)) bool iret_by_walk(struct cpu *cpu) {
    const u8 *frame = mmu_host_pointer(cpu, (u32)cpu->gpr[R_ESP], 20, MMU_READ);
    return frame && take_iret(cpu, frame);
}

bool rc_known_iret(struct cpu *cpu) {
    const struct fast *f = fast_of(cpu);
    if (unlikely(!f->up.known || cpu->cpl != 0 || (cpu->eflags & (F_NT | F_VM)) ||
                 !same(&f->up.cs_entry) || !same(&f->up.ss_entry)))
        return false;
    const u8 *frame = rc_host_known(cpu, (u32)cpu->gpr[R_ESP], 20, MMU_READ);
    return likely(frame) ? take_iret(cpu, frame) : iret_by_walk(cpu);
}

bool rc_fast_iret(struct cpu *cpu, u32 next_eip) {
    if (flat(&cpu->seg[SEG_CS], &cpu->seg[SEG_SS]) &&
        (rc_known_iret(cpu) || (iret_is_confirmed(cpu) && rc_known_iret(cpu))))
        return true;
    bool from_kernel = cpu->cpl == 0;
    if (!rc_iret(cpu, 4, next_eip))
        return false;
    if (from_kernel)
        note_iret(cpu);
    return true;
}
