/*
 * deliver.c: interrupts and exceptions reach the guest through its IVT or IDT. One attempt either
 * changes stack, CS:EIP, flags and CPL together, or fails with the fault that stopped it and leaves
 * everything as it was; what two faults in a row mean is decided in one loop at the end.
 */
#include "ringcomp/rc_internal.h"

struct delivery {
    u8 vector;
    bool software; /* the gate's DPL is checked */
    bool has_error;
    u32 ext; /* EXT bit of error codes */
    u32 error, return_eip;
};

static __attribute__((noinline, cold)) void trace_delivery(const struct cpu *cpu,
                                                           const struct delivery *d) {
    trace_printf("int: v=%02x e=%04x s=%d cpl=%d ip=%04x:%08x sp=%04x:%08x flags=%08x eax=%08x "
                 "cr2=%08x\n",
                 d->vector, d->error, d->software, cpu->cpl, cpu->seg[SEG_CS].selector,
                 d->return_eip, cpu->seg[SEG_SS].selector, (u32)cpu->gpr[R_ESP], cpu->eflags,
                 (u32)cpu->gpr[R_EAX], cpu->cr2);
}

/* ---- Real mode: SDM volume 3, section 20.1.4 "Interrupt and Exception Handling" ---- */

static bool deliver_real(struct cpu *cpu, const struct delivery *d) {
    u64 entry;
    if (d->vector * 4u + 3 > cpu->idtr.limit)
        return rc_gp0(cpu);
    if (!rc_read_sys(cpu, cpu->idtr.base + d->vector * 4u, &entry, 4))
        return false;
    struct rc_frame f;
    u32 esp = (u32)cpu->gpr[R_ESP];
    rc_frame_init(&f, 2);
    rc_frame_add(&f, cpu->eflags);
    rc_frame_add(&f, cpu->seg[SEG_CS].selector);
    rc_frame_add(&f, d->return_eip);
    if (!rc_push_frame(cpu, &cpu->seg[SEG_SS], &esp, &f, 0, 0))
        return false;
    cpu->gpr[R_ESP] = esp;
    cpu->eflags &= ~(u32)(F_IF | F_TF | F_AC | F_RF);
    rc_load_real(cpu, SEG_CS, (u16)(entry >> 16));
    cpu->eip = (u16)entry;
    return true;
}

/* ---- Protected mode: SDM volume 3, section 6.12 "Exception and Interrupt Handling" ---- */

/* Reads and checks the IDT entry. */
static inline bool fetch_gate(struct cpu *cpu, const struct delivery *d, struct rc_desc *gate) {
    u32 error = d->vector * 8u + 2 + d->ext;
    if (unlikely(d->vector * 8u + 7 > cpu->idtr.limit))
        return cpu_fault_error(cpu, VEC_GP, error);
    if (unlikely(!rc_read_desc(cpu, cpu->idtr.base + d->vector * 8u, gate)))
        return false;
    u32 attr = rc_desc_attr(gate), type = attr & (ATTR_S | ATTR_TYPE);
    bool known = type == SYS_TASK_GATE || (type & ~(u32)SYS_32 & ~1u) == SYS_INT16;
    if (unlikely(!known || (d->software && rc_attr_dpl(attr) < cpu->cpl)))
        return cpu_fault_error(cpu, VEC_GP, error);
    if (unlikely(!(attr & ATTR_P)))
        return cpu_fault_error(cpu, VEC_NP, error);
    return true;
}

/* The handler's code segment; *inner tells whether it runs in an inner ring. */
static inline bool fetch_handler(struct cpu *cpu, const struct delivery *d,
                                 const struct rc_desc *gate, struct rc_desc *code, bool *inner) {
    u16 selector = rc_gate_selector(gate);
    if (unlikely(rc_null(selector)))
        return cpu_fault_error(cpu, VEC_GP, d->ext);
    if (unlikely(!rc_fetch(cpu, selector, VEC_GP, d->ext, code)))
        return false;
    u32 attr = rc_desc_attr(code);
    unsigned dpl = rc_attr_dpl(attr);
    if (unlikely(!rc_attr_is_code(attr) || dpl > cpu->cpl))
        return rc_fault_selector(cpu, VEC_GP, selector, d->ext);
    if (unlikely(!(attr & ATTR_P)))
        return rc_fault_selector(cpu, VEC_NP, selector, d->ext);
    *inner = !(attr & ATTR_C) && dpl < cpu->cpl;
    /* Out of V86 mode there is one way only: to ring 0. */
    if (unlikely(cpu_v86(cpu) && (!*inner || dpl != 0)))
        return rc_fault_selector(cpu, VEC_GP, selector, d->ext);
    return true;
}

static inline void frame_tail(const struct cpu *cpu, const struct delivery *d, struct rc_frame *f) {
    rc_frame_add(f, cpu->eflags);
    rc_frame_add(f, cpu->seg[SEG_CS].selector);
    rc_frame_add(f, d->return_eip);
    if (d->has_error)
        rc_frame_add(f, d->error);
}

static inline bool push_same_ring(struct cpu *cpu, const struct delivery *d, struct rc_frame *f) {
    u32 esp = (u32)cpu->gpr[R_ESP];
    frame_tail(cpu, d, f);
    if (unlikely(!rc_push_frame(cpu, &cpu->seg[SEG_SS], &esp, f, 0, d->ext)))
        return false;
    cpu->gpr[R_ESP] = esp;
    return true;
}

static inline bool push_inner_ring(struct cpu *cpu, const struct delivery *d, struct rc_frame *f,
                                   unsigned dpl) {
    struct rc_stack inner;
    if (unlikely(!rc_inner_stack(cpu, dpl, d->ext, &inner)))
        return false;
    if (unlikely(cpu_v86(cpu))) {
        rc_frame_add(f, cpu->seg[SEG_GS].selector);
        rc_frame_add(f, cpu->seg[SEG_FS].selector);
        rc_frame_add(f, cpu->seg[SEG_DS].selector);
        rc_frame_add(f, cpu->seg[SEG_ES].selector);
    }
    rc_frame_add(f, cpu->seg[SEG_SS].selector);
    rc_frame_add(f, (u32)cpu->gpr[R_ESP]);
    frame_tail(cpu, d, f);
    u32 ss_error = (inner.ss.selector & 0xfffcu) | d->ext;
    if (unlikely(!rc_push_frame(cpu, &inner.ss, &inner.esp, f, MMU_SUPERVISOR, ss_error)))
        return false;
    if (unlikely(cpu_v86(cpu))) {
        rc_fill_null(&cpu->seg[SEG_GS], 0);
        rc_fill_null(&cpu->seg[SEG_FS], 0);
        rc_fill_null(&cpu->seg[SEG_DS], 0);
        rc_fill_null(&cpu->seg[SEG_ES], 0);
    }
    rc_copy_segment(&cpu->seg[SEG_SS], &inner.ss);
    cpu->gpr[R_ESP] = inner.esp;
    return true;
}

static inline bool deliver_protected(struct cpu *cpu, const struct delivery *d) {
    struct rc_desc gate, code;
    struct rc_frame f;
    bool inner;
    if (unlikely(!fetch_gate(cpu, d, &gate)))
        return false;
    u32 type = rc_desc_attr(&gate) & ATTR_TYPE;
    if (unlikely(type == SYS_TASK_GATE))
        return rc_task_switch_ext(cpu, rc_gate_selector(&gate), RC_TASK_EVENT, d->return_eip,
                                  d->has_error, d->error, d->ext);
    if (unlikely(!fetch_handler(cpu, d, &gate, &code, &inner)))
        return false;
    u32 offset = rc_gate_offset(&gate);
    if (unlikely(offset > rc_desc_limit(&code)))
        return cpu_fault_error(cpu, VEC_GP, d->ext);
    if (unlikely(!rc_set_accessed(cpu, &code)))
        return false;
    rc_frame_init(&f, type & SYS_32 ? 4 : 2);
    unsigned cpl = inner ? rc_attr_dpl(rc_desc_attr(&code)) : cpu->cpl;
    if (unlikely(!(inner ? push_inner_ring(cpu, d, &f, cpl) : push_same_ring(cpu, d, &f))))
        return false;
    u32 clear = F_TF | F_VM | F_RF | F_NT;
    if (!(type & 1)) /* interrupt gate; a trap gate leaves IF */
        clear |= F_IF;
    cpu->eflags &= ~clear;
    rc_commit_cs(cpu, rc_gate_selector(&gate), &code, cpl);
    cpu->eip = offset;
    return true;
}

static inline bool deliver(struct cpu *cpu, const struct delivery *d) {
    if (trace_on(TRACE_int) && trace_wants(cpu->eip, 1))
        trace_delivery(cpu, d);
    bool done = likely(cpu_protected(cpu)) ? deliver_protected(cpu, d) : deliver_real(cpu, d);
    if (done) {
        cpu->shadow &= SHADOW_DEBUG; /* a breakpoint of the frame waits for the handler */
        cpu->halted = false;
    }
    return done;
}

/* ---- INT n in V86 mode: SDM volume 3, section 20.3.3 "Class 3-Software Interrupt Handling in
 * Virtual-8086 Mode", table 20-2 ---- */

#define TSS_IOMAP_OFFSET 0x66
#define REDIRECTION_BYTES 32

/* The bit of the software interrupt redirection bit map, which lies right below the I/O permission
 * bit map. Where the TSS has none, #GP(0). */
static bool redirection_bit(struct cpu *cpu, u8 vector, bool *to_protected_mode) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    u64 map;
    if ((tr->attr & ATTR_NULL) || !(tr->attr & SYS_32) || tr->limit < TSS_IOMAP_OFFSET + 1)
        return rc_gp0(cpu);
    if (!rc_read_sys(cpu, tr->base + TSS_IOMAP_OFFSET, &map, 2))
        return false;
    u32 offset = (u32)map - REDIRECTION_BYTES + vector / 8u;
    u8 bits;
    if (map < REDIRECTION_BYTES || offset > tr->limit)
        return rc_gp0(cpu);
    if (!mmu_read(cpu, tr->base + offset, &bits, 1, MMU_READ | MMU_SUPERVISOR))
        return false;
    *to_protected_mode = bits >> (vector & 7) & 1;
    return true;
}

/* To the 8086 program's own handler, by the vector table at its linear address 0: methods 5 and 6.
 */
static bool redirect_to_program(struct cpu *cpu, u8 vector, u32 return_eip) {
    bool virtual_if = rc_has_virtual_if(cpu);
    u64 entry;
    if (!rc_read_sys(cpu, vector * 4u, &entry, 4))
        return false;
    struct rc_frame f;
    u32 esp = (u32)cpu->gpr[R_ESP];
    rc_frame_init(&f, 2);
    rc_frame_add(&f, virtual_if ? rc_virtual_flags_image(cpu) : cpu->eflags);
    rc_frame_add(&f, cpu->seg[SEG_CS].selector);
    rc_frame_add(&f, return_eip);
    if (!rc_push_frame(cpu, &cpu->seg[SEG_SS], &esp, &f, 0, 0))
        return false;
    cpu->gpr[R_ESP] = esp;
    cpu->eflags &= ~(u32)(F_TF | F_RF | (virtual_if ? F_VIF : F_IF));
    rc_fill_v86(&cpu->seg[SEG_CS], (u16)(entry >> 16));
    cpu->eip = (u16)entry;
    cpu->shadow = 0;
    return true;
}

/* False with *done clear: the ordinary way is right. */
static __attribute__((noinline)) bool deliver_v86_int_n(struct cpu *cpu, u8 vector, u32 return_eip,
                                                        bool *done) {
    bool to_protected_mode = true;
    *done = true;
    if ((cpu->cr4 & CR4_VME) && !redirection_bit(cpu, vector, &to_protected_mode))
        return false;
    if (!to_protected_mode)
        return redirect_to_program(cpu, vector, return_eip);
    if ((cpu->eflags & F_IOPL) != F_IOPL)
        return rc_gp0(cpu);
    *done = false;
    return false;
}

bool rc_deliver(struct cpu *cpu, u8 vector, enum rc_event event, bool has_error, u32 error,
                u32 return_eip) {
    bool software = event == RC_SOFTWARE || event == RC_SOFT_TRAP;
    struct delivery d = {.vector = vector,
                         .software = software,
                         .has_error = has_error,
                         .ext = !software,
                         .error = error,
                         .return_eip = return_eip};
    if (unlikely(cpu_v86(cpu)) && event == RC_SOFTWARE) {
        bool done, ok = deliver_v86_int_n(cpu, vector, return_eip, &done);
        if (done)
            return ok;
    }
    if (unlikely(event == RC_NMI)) /* from here on, whatever becomes of the delivery */
        cpu->nmi_blocked = true;
    if (unlikely(!deliver(cpu, &d)))
        return false;
    if (event == RC_ICEBP)
        cpu->dr[7] &= ~(u32)DR7_GD;
    return true;
}

/* ---- Faults, double faults, shutdown: SDM volume 3, section 6.15, table 6-5 ---- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum fault_class classify(u8 vector) {
    if (vector == VEC_PF)
        return PAGE_FAULT;
    if (vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP))
        return CONTRIBUTORY;
    return BENIGN;
}

static bool is_double_fault(u8 first, u8 second) {
    switch (classify(first)) {
    case CONTRIBUTORY:
        return classify(second) == CONTRIBUTORY;
    case PAGE_FAULT:
        return classify(second) != BENIGN;
    default:
        return false;
    }
}

/* True for the exceptions whose pushed flags have RF set: faults, for their instruction is executed
 * again. With #DB it is as it was: SDM volume 3, section 17.3.1.1 "Instruction-Breakpoint Exception
 * Condition". Of general detect, which by that text would set it, processors of either vendor leave
 * it alone, too (Linux, arch/x86/kvm/x86.c, exception_type). */
static bool pushes_rf(u8 vector) {
    switch (vector) {
    case VEC_DB:
    case VEC_NMI:
    case VEC_BP:
    case VEC_OF:
    case VEC_DF:
    case VEC_MC:
        return false;
    default:
        return true;
    }
}

/* Faults in a row before the CPU gives up; the rules above need at most four. */
#define MAX_NESTED_FAULTS 8

void rc_deliver_fault(struct cpu *cpu) {
    struct guest_fault now = cpu->fault;
    for (unsigned i = 0; i < MAX_NESTED_FAULTS; i++) {
        if (now.vector == VEC_PF)
            cpu->cr2 = now.cr2;
        if (pushes_rf(now.vector))
            cpu->eflags |= F_RF;
        struct delivery d = {.vector = now.vector,
                             .has_error = now.has_error,
                             .ext = 1,
                             .error = now.error,
                             .return_eip = cpu->eip};
        if (deliver(cpu, &d)) {
            if (now.vector == VEC_DB)
                cpu->dr[7] &= ~(u32)DR7_GD;
            return;
        }
        struct guest_fault next = cpu->fault;
        if (next.vector == VEC_PF)
            cpu->cr2 = next.cr2;
        if (now.vector == VEC_DF && classify(next.vector) != BENIGN)
            break;
        if (is_double_fault(now.vector, next.vector))
            next = (struct guest_fault){.vector = VEC_DF, .has_error = true};
        now = next;
    }
    cpu->shutdown = true;
}

void rc_deliver_external(struct cpu *cpu, u8 vector) {
    enum rc_event event = vector == VEC_NMI ? RC_NMI : RC_EXTERNAL;
    cpu->halted = false;
    if (!rc_deliver(cpu, vector, event, false, 0, cpu->eip))
        rc_deliver_fault(cpu);
}
