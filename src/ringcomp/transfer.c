/*
 * transfer.c: far jumps, calls and returns, through code segments, call gates, task gates and TSSs,
 * and SYSENTER/SYSEXIT. Everything is checked and every stack written before CS:EIP, SS:ESP and
 * the CPL change together.
 */
#include "ringcomp/rc_internal.h"

static inline bool real_or_v86(const struct cpu *cpu) {
    return !cpu_protected(cpu) || cpu_v86(cpu);
}

static void load_cs_real(struct cpu *cpu, u16 selector) {
    if (cpu_protected(cpu))
        rc_fill_v86(&cpu->seg[SEG_CS], selector);
    else
        rc_load_real(cpu, SEG_CS, selector);
}

/* The code segment named by a far jump or call: SDM volume 3, section 5.8.1 "Direct Calls or Jumps
 * to Code Segments". */
static bool check_direct_code(struct cpu *cpu, u16 selector, const struct rc_desc *d, u32 offset) {
    u32 attr = rc_desc_attr(d);
    unsigned dpl = rc_attr_dpl(attr), cpl = cpu->cpl;
    bool allowed = attr & ATTR_C ? dpl <= cpl : (selector & 3u) <= cpl && dpl == cpl;
    if (!allowed)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, selector, 0);
    if (offset > rc_desc_limit(d))
        return rc_gp0(cpu);
    return rc_set_accessed(cpu, d);
}

/* A gate or TSS may be used when its DPL is at least both CPL and RPL. */
static bool check_system_dpl(struct cpu *cpu, u16 selector, const struct rc_desc *d) {
    unsigned dpl = rc_attr_dpl(rc_desc_attr(d));
    return (dpl >= cpu->cpl && dpl >= (selector & 3u)) ||
           rc_fault_selector(cpu, VEC_GP, selector, 0);
}
static bool check_gate_access(struct cpu *cpu, u16 selector, const struct rc_desc *d) {
    if (!check_system_dpl(cpu, selector, d))
        return false;
    return (rc_desc_attr(d) & ATTR_P) || rc_fault_selector(cpu, VEC_NP, selector, 0);
}

/* The target code segment of a call gate: SDM volume 3, section 5.8.4 "Accessing a Code Segment
 * Through a Call Gate". */
static bool check_gate_target(struct cpu *cpu, const struct rc_desc *gate, bool call,
                              struct rc_desc *code) {
    u16 selector = rc_gate_selector(gate);
    if (rc_null(selector))
        return rc_gp0(cpu);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, code))
        return false;
    u32 attr = rc_desc_attr(code);
    unsigned dpl = rc_attr_dpl(attr);
    bool allowed = call || (attr & ATTR_C) ? dpl <= cpu->cpl : dpl == cpu->cpl;
    if (!rc_attr_is_code(attr) || !allowed)
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!(attr & ATTR_P))
        return rc_fault_selector(cpu, VEC_NP, selector, 0);
    if (rc_gate_offset(gate) > rc_desc_limit(code))
        return rc_gp0(cpu);
    return rc_set_accessed(cpu, code);
}

/* Jumps and calls to a TSS or task gate: SDM volume 3, section 7.3 "Task Switching". */
static bool transfer_to_task(struct cpu *cpu, u16 selector, const struct rc_desc *d,
                             enum rc_task_cause cause, u32 next_eip) {
    bool through_gate = (rc_desc_attr(d) & ATTR_TYPE) == SYS_TASK_GATE;
    /* Of a TSS the switch itself asks first whether it is busy, then whether it is present. */
    if (!(through_gate ? check_gate_access : check_system_dpl)(cpu, selector, d))
        return false;
    u16 tss = through_gate ? rc_gate_selector(d) : selector;
    return rc_task_switch_ext(cpu, tss, cause, next_eip, false, 0, 0);
}

static bool is_task(u32 type) {
    return type == SYS_TASK_GATE || type == SYS_TSS16 || type == SYS_TSS32 ||
           type == SYS_TSS16_BUSY || type == SYS_TSS32_BUSY;
}

/* ---- JMP far: SDM volume 2, "JMP-Jump" ---- */

bool rc_far_jump(struct cpu *cpu, u16 selector, u32 offset, unsigned op_bytes, u32 next_eip) {
    struct rc_desc d, code;
    if (op_bytes == 2)
        offset &= 0xffff;
    if (real_or_v86(cpu)) {
        if (offset > (cpu_protected(cpu) ? 0xffffu : cpu->seg[SEG_CS].limit))
            return rc_gp0(cpu);
        load_cs_real(cpu, selector);
        cpu->eip = offset;
        return true;
    }
    if (rc_null(selector))
        return rc_gp0(cpu);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, &d))
        return false;
    u32 attr = rc_desc_attr(&d), type = attr & ATTR_TYPE;
    if (rc_attr_is_code(attr)) {
        if (!check_direct_code(cpu, selector, &d, offset))
            return false;
        rc_commit_cs(cpu, selector, &d, cpu->cpl);
        cpu->eip = offset;
        return true;
    }
    if (!(attr & ATTR_S) && is_task(type))
        return transfer_to_task(cpu, selector, &d, RC_TASK_JUMP, next_eip);
    if ((attr & ATTR_S) || (type != SYS_CALL16 && type != SYS_CALL32))
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    if (!check_gate_access(cpu, selector, &d) || !check_gate_target(cpu, &d, false, &code))
        return false;
    rc_commit_cs(cpu, rc_gate_selector(&d), &code, cpu->cpl);
    cpu->eip = rc_gate_offset(&d);
    return true;
}

/* ---- CALL far: SDM volume 2, "CALL-Call Procedure" ---- */

/* Pushes CS:EIP on the current stack. */
static bool push_return(struct cpu *cpu, unsigned bytes, u32 next_eip) {
    struct rc_frame f;
    u32 esp = (u32)cpu->gpr[R_ESP];
    rc_frame_init(&f, bytes);
    rc_frame_add(&f, cpu->seg[SEG_CS].selector);
    rc_frame_add(&f, next_eip);
    if (!rc_push_frame(cpu, &cpu->seg[SEG_SS], &esp, &f, 0, 0))
        return false;
    cpu->gpr[R_ESP] = esp;
    return true;
}

/* A call gate to an inner ring: new stack from the TSS, parameters copied to it. */
static bool call_inner(struct cpu *cpu, const struct rc_desc *gate, const struct rc_desc *code,
                       u32 next_eip) {
    unsigned dpl = rc_attr_dpl(rc_desc_attr(code)), count = gate->hi & 31;
    struct rc_frame f;
    struct rc_stack inner;
    u32 param[31];
    rc_frame_init(&f, gate->hi & BIT(11) ? 4 : 2);
    if (!rc_inner_stack(cpu, dpl, 0, &inner))
        return false;
    if (count && !rc_peek_frame(cpu, 0, count, f.bytes, param))
        return false;
    rc_frame_add(&f, cpu->seg[SEG_SS].selector);
    rc_frame_add(&f, (u32)cpu->gpr[R_ESP]);
    while (count--)
        rc_frame_add(&f, param[count]);
    rc_frame_add(&f, cpu->seg[SEG_CS].selector);
    rc_frame_add(&f, next_eip);
    if (!rc_push_frame(cpu, &inner.ss, &inner.esp, &f, MMU_SUPERVISOR, inner.ss.selector & 0xfffcu))
        return false;
    rc_copy_segment(&cpu->seg[SEG_SS], &inner.ss);
    cpu->gpr[R_ESP] = inner.esp;
    rc_commit_cs(cpu, rc_gate_selector(gate), code, dpl);
    cpu->eip = rc_gate_offset(gate);
    return true;
}

static bool call_gate(struct cpu *cpu, u16 selector, const struct rc_desc *gate, u32 next_eip) {
    struct rc_desc code;
    if (!check_gate_access(cpu, selector, gate) || !check_gate_target(cpu, gate, true, &code))
        return false;
    u32 attr = rc_desc_attr(&code);
    if (!(attr & ATTR_C) && rc_attr_dpl(attr) < cpu->cpl)
        return call_inner(cpu, gate, &code, next_eip);
    if (!push_return(cpu, gate->hi & BIT(11) ? 4 : 2, next_eip))
        return false;
    rc_commit_cs(cpu, rc_gate_selector(gate), &code, cpu->cpl);
    cpu->eip = rc_gate_offset(gate);
    return true;
}

bool rc_far_call(struct cpu *cpu, u16 selector, u32 offset, unsigned op_bytes, u32 next_eip) {
    struct rc_desc d;
    if (op_bytes == 2)
        offset &= 0xffff;
    if (real_or_v86(cpu)) {
        if (offset > (cpu_protected(cpu) ? 0xffffu : cpu->seg[SEG_CS].limit))
            return rc_gp0(cpu);
        if (!push_return(cpu, op_bytes, next_eip))
            return false;
        load_cs_real(cpu, selector);
        cpu->eip = offset;
        return true;
    }
    if (rc_null(selector))
        return rc_gp0(cpu);
    if (!rc_fetch(cpu, selector, VEC_GP, 0, &d))
        return false;
    u32 attr = rc_desc_attr(&d), type = attr & ATTR_TYPE;
    if (rc_attr_is_code(attr)) {
        if (!check_direct_code(cpu, selector, &d, offset) || !push_return(cpu, op_bytes, next_eip))
            return false;
        rc_commit_cs(cpu, selector, &d, cpu->cpl);
        cpu->eip = offset;
        return true;
    }
    if (!(attr & ATTR_S) && is_task(type))
        return transfer_to_task(cpu, selector, &d, RC_TASK_CALL, next_eip);
    if ((attr & ATTR_S) || (type != SYS_CALL16 && type != SYS_CALL32))
        return rc_fault_selector(cpu, VEC_GP, selector, 0);
    return call_gate(cpu, selector, &d, next_eip);
}

/* ---- RET far: SDM volume 2, "RET-Return from Procedure" ---- */

bool rc_check_return_cs(struct cpu *cpu, struct rc_return *r) {
    if (unlikely(rc_null(r->cs)))
        return rc_gp0(cpu);
    if (unlikely(!rc_fetch(cpu, r->cs, VEC_GP, 0, &r->cs_desc)))
        return false;
    u32 attr = rc_desc_attr(&r->cs_desc);
    unsigned dpl = rc_attr_dpl(attr), rpl = r->cs & 3u;
    bool dpl_ok = attr & ATTR_C ? dpl <= rpl : dpl == rpl;
    if (unlikely(!rc_attr_is_code(attr) || rpl < cpu->cpl || !dpl_ok))
        return rc_fault_selector(cpu, VEC_GP, r->cs, 0);
    if (unlikely(!(attr & ATTR_P)))
        return rc_fault_selector(cpu, VEC_NP, r->cs, 0);
    /* Returning to the same ring needs nothing more; to an outer one, SS comes before EIP. */
    if (rpl == cpu->cpl) {
        if (unlikely(r->eip > rc_desc_limit(&r->cs_desc)))
            return rc_gp0(cpu);
        return rc_set_accessed(cpu, &r->cs_desc);
    }
    return true;
}

bool rc_check_return_ss(struct cpu *cpu, struct rc_return *r) {
    struct rc_desc d;
    unsigned rpl = r->cs & 3u;
    if (unlikely(rc_null(r->ss)))
        return rc_gp0(cpu);
    if (unlikely(!rc_fetch(cpu, r->ss, VEC_GP, 0, &d)))
        return false;
    u32 attr = rc_desc_attr(&d);
    if (unlikely((r->ss & 3u) != rpl || rc_attr_dpl(attr) != rpl ||
                 !rc_attr_is_writable_data(attr)))
        return rc_fault_selector(cpu, VEC_GP, r->ss, 0);
    if (unlikely(!(attr & ATTR_P)))
        return rc_fault_selector(cpu, VEC_SS, r->ss, 0);
    if (unlikely(r->eip > rc_desc_limit(&r->cs_desc)))
        return rc_gp0(cpu);
    if (unlikely(!rc_set_accessed(cpu, &r->cs_desc) || !rc_set_accessed(cpu, &d)))
        return false;
    rc_fill_desc(&r->ss_seg, r->ss, &d);
    return true;
}

static bool far_return_outer(struct cpu *cpu, struct rc_return *r, unsigned op_bytes,
                             u32 release_bytes) {
    u32 slot[2];
    if (!rc_peek_frame(cpu, 2 * op_bytes + release_bytes, 2, op_bytes, slot))
        return false;
    r->esp = slot[0];
    r->ss = (u16)slot[1];
    if (!rc_check_return_ss(cpu, r))
        return false;
    u32 esp = rc_stack_pointer(&r->ss_seg, (u32)cpu->gpr[R_ESP], r->esp);
    rc_copy_segment(&cpu->seg[SEG_SS], &r->ss_seg);
    cpu->gpr[R_ESP] = rc_stack_pointer(&r->ss_seg, esp, esp + release_bytes);
    rc_commit_cs(cpu, r->cs, &r->cs_desc, r->cs & 3u);
    cpu->eip = r->eip;
    rc_null_inaccessible(cpu, cpu->cpl);
    return true;
}

bool rc_far_return(struct cpu *cpu, unsigned op_bytes, u32 release_bytes) {
    struct rc_return r;
    u32 slot[2], esp = (u32)cpu->gpr[R_ESP];
    if (!rc_peek_frame(cpu, 0, 2, op_bytes, slot))
        return false;
    r.eip = slot[0];
    r.cs = (u16)slot[1];
    u32 after = rc_stack_pointer(&cpu->seg[SEG_SS], esp, esp + 2 * op_bytes + release_bytes);
    if (real_or_v86(cpu)) {
        if (r.eip > (cpu_protected(cpu) ? 0xffffu : cpu->seg[SEG_CS].limit))
            return rc_gp0(cpu);
        load_cs_real(cpu, r.cs);
    } else {
        if (!rc_check_return_cs(cpu, &r))
            return false;
        if ((r.cs & 3u) != cpu->cpl)
            return far_return_outer(cpu, &r, op_bytes, release_bytes);
        rc_commit_cs(cpu, r.cs, &r.cs_desc, cpu->cpl);
    }
    cpu->eip = r.eip;
    cpu->gpr[R_ESP] = after;
    return true;
}

/* ---- SYSENTER, SYSEXIT: SDM volume 3, section 5.8.7 "Performing Fast Calls" ---- */

#define F1_EDX_SEP BIT(11)

static inline void load_flat(struct cpu *cpu, enum seg seg, u32 selector, u32 attr, unsigned dpl) {
    rc_fill(&cpu->seg[seg], (u16)((selector & 0xfffcu) | dpl), attr | dpl << ATTR_DPL_SHIFT,
            0xffffffffu, 0);
}
static inline bool has_sysenter(const struct cpu *cpu) {
    return !cpu->model || (cpu->model->f1_edx & F1_EDX_SEP);
}

bool rc_sysenter(struct cpu *cpu) {
    u32 cs = cpu->sysenter_cs;
    if (unlikely(!has_sysenter(cpu)))
        return cpu_fault(cpu, VEC_UD);
    if (unlikely(!cpu_protected(cpu) || rc_null((u16)cs)))
        return rc_gp0(cpu);
    cpu->eflags &= ~(u32)(F_VM | F_IF | F_RF);
    load_flat(cpu, SEG_CS, cs, ATTR_FLAT_CODE, 0);
    load_flat(cpu, SEG_SS, cs + 8, ATTR_FLAT_DATA, 0);
    cpu->cpl = 0;
    cpu->gpr[R_ESP] = cpu->sysenter_esp;
    cpu->eip = cpu->sysenter_eip;
    return true;
}

bool rc_sysexit(struct cpu *cpu) {
    u32 cs = cpu->sysenter_cs;
    if (unlikely(!has_sysenter(cpu)))
        return cpu_fault(cpu, VEC_UD);
    if (unlikely(!cpu_protected(cpu) || rc_null((u16)cs) || cpu->cpl != 0))
        return rc_gp0(cpu);
    load_flat(cpu, SEG_CS, cs + 16, ATTR_FLAT_CODE, 3);
    load_flat(cpu, SEG_SS, cs + 24, ATTR_FLAT_DATA, 3);
    cpu->cpl = 3;
    cpu->gpr[R_ESP] = (u32)cpu->gpr[R_ECX];
    cpu->eip = (u32)cpu->gpr[R_EDX];
    return true;
}
