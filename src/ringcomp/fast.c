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
};

struct fast {
    struct {
        bool known;
        u8 vector;
        bool masks_interrupts; /* interrupt gate, not trap gate */
        u32 eip;
        struct entry gate, cs_entry, ss_entry;
        const u8 *stack; /* ESP0 and SS0 in the TSS */
        struct segment cs, ss;
    } down;
    struct {
        bool known;
        struct entry cs_entry, ss_entry;
        struct segment cs, ss;
    } up;
};
_Static_assert(sizeof(struct fast) <= sizeof(((struct cpu *)0)->ringcomp_area), "ringcomp area");

static struct fast *fast_of(struct cpu *cpu) {
    return (struct fast *)cpu->ringcomp_area;
}

void rc_fast_forget(struct cpu *cpu) {
    fast_of(cpu)->down.known = fast_of(cpu)->up.known = false;
}

static bool same(const struct entry *e) {
    return load64(e->at) == e->value;
}

static bool note(struct cpu *cpu, struct entry *e, u32 lin) {
    e->at = rc_host(cpu, lin, 8, MMU_READ | MMU_SUPERVISOR);
    if (!e->at)
        return false;
    e->value = load64(e->at);
    return true;
}

/* A code or data descriptor in the GDT. */
static bool note_descriptor(struct cpu *cpu, struct entry *e, u16 selector) {
    return !(selector & 4) && note(cpu, e, cpu->gdtr.base + (selector & ~7u));
}

static bool flat_stack(const struct segment *ss) {
    return (ss->attr & ATTR_DB) && rc_segment_is_flat_data(ss);
}

/* ---- INT n ---- */

static void note_int(struct cpu *cpu, u8 vector) {
    struct fast *f = fast_of(cpu);
    u32 type = cpu->seg[SEG_TR].attr & 0xd; /* 9 or 11: a 32-bit TSS */
    if (!cpu_protected(cpu) || cpu->cpl != 0 || cpu_v86(cpu) || type != 9 ||
        !flat_stack(&cpu->seg[SEG_SS]) || !note(cpu, &f->down.gate, cpu->idtr.base + vector * 8u) ||
        !note_descriptor(cpu, &f->down.cs_entry, cpu->seg[SEG_CS].selector) ||
        !note_descriptor(cpu, &f->down.ss_entry, cpu->seg[SEG_SS].selector))
        return;
    u32 gate_type = (f->down.gate.value >> 40) & 0x1f;
    f->down.stack = rc_host(cpu, cpu->seg[SEG_TR].base + 4, 8, MMU_READ | MMU_SUPERVISOR);
    if (!f->down.stack || (gate_type != 14 && gate_type != 15))
        return;
    f->down.vector = vector;
    f->down.masks_interrupts = gate_type == 14;
    f->down.eip = cpu->eip;
    f->down.cs = cpu->seg[SEG_CS];
    f->down.ss = cpu->seg[SEG_SS];
    f->down.known = true;
}

static bool known_int(struct cpu *cpu, u8 vector, u32 next_eip) {
    struct fast *f = fast_of(cpu);
    if (!f->down.known || f->down.vector != vector || cpu->cpl != 3 || !same(&f->down.gate) ||
        !same(&f->down.cs_entry) || !same(&f->down.ss_entry) ||
        load16(f->down.stack + 4) != f->down.ss.selector)
        return false;
    u32 esp = load32(f->down.stack) - 20;
    u8 *frame = rc_host(cpu, esp, 20, MMU_WRITE | MMU_SUPERVISOR);
    if (!frame)
        return false;
    store32(frame, next_eip);
    store32(frame + 4, cpu->seg[SEG_CS].selector);
    store32(frame + 8, cpu->eflags & ~(u32)F_RF);
    store32(frame + 12, (u32)cpu->gpr[R_ESP]);
    store32(frame + 16, cpu->seg[SEG_SS].selector);
    cpu->seg[SEG_CS] = f->down.cs;
    cpu->seg[SEG_SS] = f->down.ss;
    cpu->gpr[R_ESP] = esp;
    cpu->eip = f->down.eip;
    cpu->eflags &= ~(u32)(F_TF | F_NT | F_RF | F_VM | (f->down.masks_interrupts ? F_IF : 0));
    cpu->cpl = 0;
    return true;
}

bool rc_fast_int(struct cpu *cpu, u8 vector, u32 next_eip) {
    if (!cpu_v86(cpu) && known_int(cpu, vector, next_eip)) {
        TRACE(int, "int: v=%02x (known gate)\n", vector);
        return true;
    }
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
    f->up.known =
        f->up.cs.limit == UINT32_MAX && (f->up.cs.attr & ATTR_DB) && flat_stack(&f->up.ss);
}

/* Would IRET null one of the data segments? */
static bool data_segments_stay(const struct cpu *cpu) {
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        u32 attr = cpu->seg[data[i]].attr;
        if (!(attr & ATTR_NULL) && (attr & ATTR_DPL) != ATTR_DPL)
            return false;
    }
    return true;
}

static bool known_iret(struct cpu *cpu) {
    struct fast *f = fast_of(cpu);
    if (!f->up.known || cpu->cpl != 0 || (cpu->eflags & (F_NT | F_VM)) ||
        !flat_stack(&cpu->seg[SEG_SS]) || !same(&f->up.cs_entry) || !same(&f->up.ss_entry))
        return false;
    const u8 *frame = rc_host(cpu, (u32)cpu->gpr[R_ESP], 20, MMU_READ);
    if (!frame || load16(frame + 4) != f->up.cs.selector ||
        load16(frame + 16) != f->up.ss.selector || (load32(frame + 8) & F_VM) ||
        !data_segments_stay(cpu))
        return false;
    cpu->eip = load32(frame);
    cpu->eflags = (load32(frame + 8) & F_ALL & ~(u32)(F_VM | F_VIF | F_VIP)) | F_FIXED;
    cpu->gpr[R_ESP] = load32(frame + 12);
    cpu->seg[SEG_CS] = f->up.cs;
    cpu->seg[SEG_SS] = f->up.ss;
    cpu->cpl = 3;
    cpu->nmi_blocked = false;
    return true;
}

bool rc_fast_iret(struct cpu *cpu, u32 next_eip) {
    if (known_iret(cpu))
        return true;
    bool from_kernel = cpu->cpl == 0;
    if (!rc_iret(cpu, 4, next_eip))
        return false;
    if (from_kernel)
        note_iret(cpu);
    return true;
}
