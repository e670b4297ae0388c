/*
 * string.c: MOVS STOS LODS CMPS SCAS INS OUTS, single and repeated.
 *
 * Every element commits its registers before the next one starts, so a fault in the middle leaves
 * the state of the last whole iteration. Ascending MOVS and STOS inside plain pages move whole runs
 * at once. A step does a bounded number of iterations (it->rep_budget).
 */
#include "interp/interp_internal.h"

/* One string instruction in progress. */
struct run {
    unsigned bytes; /* element size */
    u32 mask;       /* of the address size, on ESI, EDI, ECX */
    u32 step;       /* added to the pointers per element, modulo 2^32 */
    u32 left;       /* iterations still to do */
    u32 budget;
    bool rep;
    enum seg source;
};

static struct run run_start(const struct interp *it, const struct cpu *cpu, const struct insn *in) {
    struct run r = {.bytes = opcode_bytes(in),
                    .mask = in->addr_bytes == 2 ? 0xffff : 0xffffffff,
                    .budget = it->rep_budget,
                    .rep = in->rep || in->repne};
    r.step = cpu->eflags & F_DF ? -r.bytes : r.bytes;
    r.left = r.rep ? (u32)cpu->gpr[R_ECX] & r.mask : 1;
    r.source = in->seg_override != INSN_NO_REG ? in->seg_override : SEG_DS;
    return r;
}

static u32 source_offset(const struct cpu *cpu, const struct run *r) {
    return (u32)cpu->gpr[R_ESI] & r->mask;
}
static u32 dest_offset(const struct cpu *cpu, const struct run *r) {
    return (u32)cpu->gpr[R_EDI] & r->mask;
}
static void advance(struct cpu *cpu, const struct run *r, enum gpr pointer, u32 elements) {
    gpr_write_masked(cpu, pointer, (u32)cpu->gpr[pointer] + r->step * elements, r->mask);
}
/* Accounts for elements done; cost is in fast elements. */
static void run_done(struct cpu *cpu, struct run *r, u32 elements, u32 cost) {
    r->left -= elements;
    if (r->rep)
        gpr_write_masked(cpu, R_ECX, r->left, r->mask);
    r->budget -= MIN(r->budget, cost);
}
static enum ex run_end(const struct run *r) {
    return r->left ? EX_REP_MORE : EX_NEXT;
}

/* Elements that may be moved in one run from offset: inside the page, the address size and what is
 * left. */
static u32 run_length(const struct run *r, u32 offset, u32 lin, u32 limit) {
    u32 room = PAGE_BYTES - (lin & PAGE_OFFSET_MASK);
    if (r->mask == 0xffff)
        room = MIN(room, 0x10000 - offset);
    return MIN(room / r->bytes, limit);
}

/* ---- MOVS ---- */

/* Copies element by element in ascending order, as an overlapping REP MOVS must. */
static void copy_elements(u8 *to, const u8 *from, u32 elements, unsigned bytes) {
    for (u32 i = 0; i < elements; i++, to += bytes, from += bytes)
        host_store(to, bytes, host_load(from, bytes));
}

/* Moves a run inside one source and one destination page; 0 when that is not possible. */
static u32 movs_run(struct interp *it, struct cpu *cpu, const struct run *r) {
    u32 from_off = source_offset(cpu, r), to_off = dest_offset(cpu, r), from, to;
    u32 n = MIN(r->left, r->budget);
    if (n < 2 || (cpu->eflags & F_DF) || it->checks ||
        !seg_linear(it, cpu, r->source, from_off, r->bytes, false, &from) ||
        !seg_linear(it, cpu, SEG_ES, to_off, r->bytes, true, &to))
        return 0;
    n = run_length(r, from_off, from, n);
    n = run_length(r, to_off, to, n);
    u32 total = n * r->bytes;
    if (n < 2 || !seg_linear(it, cpu, r->source, from_off, total, false, &from) ||
        !seg_linear(it, cpu, SEG_ES, to_off, total, true, &to))
        return 0;
    u8 *target = mmu_host_pointer(cpu, to, total, MMU_WRITE);
    const u8 *origin = target ? mmu_host_pointer(cpu, from, total, MMU_READ) : NULL;
    if (!origin)
        return 0;
    if (target > origin && target < origin + total)
        copy_elements(target, origin, n, r->bytes);
    else
        memmove(target, origin, total);
    return n;
}

static bool movs_one(struct interp *it, struct cpu *cpu, const struct run *r) {
    u32 from, to, v;
    return seg_linear(it, cpu, r->source, source_offset(cpu, r), r->bytes, false, &from) &&
           mem_read(cpu, from, r->bytes, &v) &&
           seg_linear(it, cpu, SEG_ES, dest_offset(cpu, r), r->bytes, true, &to) &&
           mem_write(cpu, to, r->bytes, v);
}

enum ex exec_movs(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    while (r.left && r.budget) {
        u32 n = movs_run(it, cpu, &r), cost = n;
        if (!n) {
            if (!movs_one(it, cpu, &r))
                return EX_FAULT;
            n = 1;
            cost = REP_SLOW_COST;
        }
        advance(cpu, &r, R_ESI, n);
        advance(cpu, &r, R_EDI, n);
        run_done(cpu, &r, n, cost);
    }
    return run_end(&r);
}

/* ---- STOS ---- */

static u32 stos_run(struct interp *it, struct cpu *cpu, const struct run *r) {
    u32 offset = dest_offset(cpu, r), lin, n = MIN(r->left, r->budget);
    if (n < 2 || (cpu->eflags & F_DF) || it->checks ||
        !seg_linear(it, cpu, SEG_ES, offset, r->bytes, true, &lin))
        return 0;
    n = run_length(r, offset, lin, n);
    if (n < 2 || !seg_linear(it, cpu, SEG_ES, offset, n * r->bytes, true, &lin))
        return 0;
    u8 *target = mmu_host_pointer(cpu, lin, n * r->bytes, MMU_WRITE);
    if (!target)
        return 0;
    u32 v = gpr_read(cpu, R_EAX, r->bytes);
    if (r->bytes == 1 || v == 0)
        memset(target, (int)v, (size_t)n * r->bytes);
    else
        for (u32 i = 0; i < n; i++)
            host_store(target + i * r->bytes, r->bytes, v);
    return n;
}

static bool stos_one(struct interp *it, struct cpu *cpu, const struct run *r) {
    u32 to;
    return seg_linear(it, cpu, SEG_ES, dest_offset(cpu, r), r->bytes, true, &to) &&
           mem_write(cpu, to, r->bytes, gpr_read(cpu, R_EAX, r->bytes));
}

enum ex exec_stos(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    while (r.left && r.budget) {
        u32 n = stos_run(it, cpu, &r), cost = n;
        if (!n) {
            if (!stos_one(it, cpu, &r))
                return EX_FAULT;
            n = 1;
            cost = REP_SLOW_COST;
        }
        advance(cpu, &r, R_EDI, n);
        run_done(cpu, &r, n, cost);
    }
    return run_end(&r);
}

/* ---- LODS, CMPS, SCAS ---- */

enum ex exec_lods(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    while (r.left && r.budget) {
        u32 from, v;
        if (!seg_linear(it, cpu, r.source, source_offset(cpu, &r), r.bytes, false, &from) ||
            !mem_read(cpu, from, r.bytes, &v))
            return EX_FAULT;
        gpr_write(cpu, R_EAX, r.bytes, v);
        advance(cpu, &r, R_ESI, 1);
        run_done(cpu, &r, 1, REP_SLOW_COST);
    }
    return run_end(&r);
}

/* REPE goes on while ZF, REPNE while not. True: the comparison ended the instruction. */
static bool compare_ends(const struct insn *in, u32 flags) {
    if (in->rep)
        return !(flags & F_ZF);
    return in->repne && (flags & F_ZF);
}

enum ex exec_cmps(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    while (r.left && r.budget) {
        u32 first, second, a, b;
        if (!seg_linear(it, cpu, r.source, source_offset(cpu, &r), r.bytes, false, &first) ||
            !mem_read(cpu, first, r.bytes, &a) ||
            !seg_linear(it, cpu, SEG_ES, dest_offset(cpu, &r), r.bytes, false, &second) ||
            !mem_read(cpu, second, r.bytes, &b))
            return EX_FAULT;
        u32 flags = alu_compare(r.bytes, a, b);
        set_arith_flags(cpu, flags);
        advance(cpu, &r, R_ESI, 1);
        advance(cpu, &r, R_EDI, 1);
        run_done(cpu, &r, 1, REP_SLOW_COST);
        if (compare_ends(in, flags))
            return EX_NEXT;
    }
    return run_end(&r);
}

enum ex exec_scas(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    u32 acc = gpr_read(cpu, R_EAX, r.bytes);
    while (r.left && r.budget) {
        u32 lin, b;
        if (!seg_linear(it, cpu, SEG_ES, dest_offset(cpu, &r), r.bytes, false, &lin) ||
            !mem_read(cpu, lin, r.bytes, &b))
            return EX_FAULT;
        u32 flags = alu_compare(r.bytes, acc, b);
        set_arith_flags(cpu, flags);
        advance(cpu, &r, R_EDI, 1);
        run_done(cpu, &r, 1, REP_SLOW_COST);
        if (compare_ends(in, flags))
            return EX_NEXT;
    }
    return run_end(&r);
}

/* ---- INS, OUTS ---- */

/* Elements per step: a device may have asked for something. */
#define IO_BUDGET (REP_SLOW_COST * 256)

static enum ex io_end(const struct run *r) {
    return r->left ? EX_REP_MORE : EX_SYNC;
}

enum ex exec_ins(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    u16 port = (u16)cpu->gpr[R_EDX];
    r.budget = MIN(r.budget, IO_BUDGET);
    if (!rc_check_io(cpu, port, r.bytes)) /* even when ECX is 0 */
        return EX_FAULT;
    if (!r.left)
        return EX_NEXT;
    while (r.left && r.budget) {
        u32 to;
        /* The write is known to succeed before the device is asked. */
        if (!seg_linear(it, cpu, SEG_ES, dest_offset(cpu, &r), r.bytes, true, &to) ||
            !mmu_check_write(cpu, to, r.bytes, MMU_WRITE))
            return EX_FAULT;
        it->watch_hits |= it->checks ? rc_debug_hits(cpu, port, r.bytes, RC_DR_IO) : 0;
        u32 v = cpu->bus->io_read(cpu->bus->opaque, port, r.bytes);
        if (!mem_write(cpu, to, r.bytes, v))
            return EX_FAULT;
        advance(cpu, &r, R_EDI, 1);
        run_done(cpu, &r, 1, REP_SLOW_COST);
    }
    return io_end(&r);
}

enum ex exec_outs(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct run r = run_start(it, cpu, in);
    u16 port = (u16)cpu->gpr[R_EDX];
    r.budget = MIN(r.budget, IO_BUDGET);
    if (!rc_check_io(cpu, port, r.bytes)) /* even when ECX is 0 */
        return EX_FAULT;
    if (!r.left)
        return EX_NEXT;
    while (r.left && r.budget) {
        u32 from, v;
        if (!seg_linear(it, cpu, r.source, source_offset(cpu, &r), r.bytes, false, &from) ||
            !mem_read(cpu, from, r.bytes, &v))
            return EX_FAULT;
        it->watch_hits |= it->checks ? rc_debug_hits(cpu, port, r.bytes, RC_DR_IO) : 0;
        cpu->bus->io_write(cpu->bus->opaque, port, v, r.bytes);
        advance(cpu, &r, R_ESI, 1);
        run_done(cpu, &r, 1, REP_SLOW_COST);
    }
    return io_end(&r);
}
