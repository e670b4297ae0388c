/*
 * system.c: instructions on system state: ports, descriptor tables, control of interrupts and
 * caches, MSRs, time, identification. The rules of privilege are ringcomp's; this file fetches the
 * operands and calls it.
 */
#include "interp/interp_internal.h"

static enum ex ok_or_fault(bool ok) {
    return ok ? EX_NEXT : EX_FAULT;
}
/* The same when the engine must look at the new state before it goes on. */
static enum ex sync_or_fault(bool ok) {
    return ok ? EX_SYNC : EX_FAULT;
}

enum ex exec_hlt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (!rc_require_cpl0(cpu))
        return EX_FAULT;
    cpu->halted = true;
    return EX_HALT;
}

enum ex exec_cli(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_cli(cpu));
}
enum ex exec_sti(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_sti(cpu));
}
enum ex exec_clts(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (!rc_require_cpl0(cpu))
        return EX_FAULT;
    cpu->cr0 &= ~CR0_TS;
    return EX_SYNC;
}

/* EFLAGS.AC from ring 0 under SMAP: SDM volume 2, CLAC and STAC. */
enum ex exec_clac(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (cpu->cpl != 0)
        return ex_fault(cpu, VEC_UD);
    cpu->eflags &= ~(u32)F_AC;
    return EX_NEXT;
}
enum ex exec_stac(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (cpu->cpl != 0)
        return ex_fault(cpu, VEC_UD);
    cpu->eflags |= F_AC;
    return EX_NEXT;
}

/* ---- Ports: after an access the monitor looks at what the devices want ---- */

/* E4-E7 name the port, EC-EF take it from DX. */
static u16 port_of(const struct cpu *cpu, const struct insn *in) {
    return in->opcode & 8 ? (u16)cpu->gpr[R_EDX] : (u8)in->imm;
}

enum ex exec_in(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = opcode_bytes(in);
    u16 port = port_of(cpu, in);
    if (!rc_check_io(cpu, port, bytes))
        return EX_FAULT;
    if (it->checks)
        it->watch_hits |= rc_debug_hits(cpu, port, bytes, RC_DR_IO);
    gpr_write(cpu, R_EAX, bytes, cpu->bus->io_read(cpu->bus->opaque, port, bytes));
    return EX_SYNC;
}

enum ex exec_out(struct interp *it, struct cpu *cpu, const struct insn *in) {
    unsigned bytes = opcode_bytes(in);
    u16 port = port_of(cpu, in);
    if (!rc_check_io(cpu, port, bytes))
        return EX_FAULT;
    if (it->checks)
        it->watch_hits |= rc_debug_hits(cpu, port, bytes, RC_DR_IO);
    cpu->bus->io_write(cpu->bus->opaque, port, gpr_read(cpu, R_EAX, bytes), bytes);
    return EX_SYNC;
}

/* ---- Descriptor-table registers ---- */

/* The limit must be aligned as a word and the base as a doubleword, so that the whole lies two
 * bytes behind a multiple of 4: SDM volume 3, section 3.5.1 "Segment Descriptor Tables". */
static bool table_linear(struct interp *it, struct cpu *cpu, const struct insn *in, bool write,
                         u32 *lin) {
    struct access how = {.align = 2, .write = write, .watch = true};
    if (!seg_linear_aligned(it, cpu, in->mem_seg, ea_offset(cpu, in), 6, how, lin))
        return false;
    return !(it->checks & CHECK_ALIGN) || *lin % 4 == 2 || cpu_fault_error(cpu, VEC_AC, 0);
}

/* With 16-bit operands only 24 bits of the base are loaded: SDM volume 2, LGDT. */
static enum ex load_table(struct interp *it, struct cpu *cpu, const struct insn *in,
                          struct table_register *table) {
    u8 image[6];
    u32 lin;
    if (in->op[0].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    if (!rc_require_cpl0(cpu) || !table_linear(it, cpu, in, false, &lin) ||
        !mmu_read(cpu, lin, image, 6, MMU_READ))
        return EX_FAULT;
    table->limit = load16(image);
    table->base = load32(image + 2) & (in->op_bytes == 2 ? 0xffffff : 0xffffffff);
    return EX_NEXT;
}

/* All 32 bits of the base are stored whatever the operand size, as processors do it. */
static enum ex store_table(struct interp *it, struct cpu *cpu, const struct insn *in,
                           const struct table_register *table) {
    u8 image[6];
    u32 lin;
    if (in->op[0].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    store16(image, table->limit);
    store32(image + 2, table->base);
    if (!table_linear(it, cpu, in, true, &lin) || !mmu_write(cpu, lin, image, 6, MMU_WRITE))
        return EX_FAULT;
    return EX_NEXT;
}

enum ex exec_lgdt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_table(it, cpu, in, &cpu->gdtr);
}
enum ex exec_lidt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return load_table(it, cpu, in, &cpu->idtr);
}
enum ex exec_sgdt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return store_table(it, cpu, in, &cpu->gdtr);
}
enum ex exec_sidt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return store_table(it, cpu, in, &cpu->idtr);
}

/* ---- Selectors ---- */

static bool selectors_exist(struct cpu *cpu) {
    return (cpu_protected(cpu) && !cpu_v86(cpu)) || cpu_fault(cpu, VEC_UD);
}

enum ex exec_lldt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 selector;
    if (!selectors_exist(cpu) || !rc_require_cpl0(cpu) || !op_read(it, cpu, in, 0, 2, &selector))
        return EX_FAULT;
    return ok_or_fault(rc_lldt(cpu, (u16)selector));
}
enum ex exec_ltr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 selector;
    if (!selectors_exist(cpu) || !rc_require_cpl0(cpu) || !op_read(it, cpu, in, 0, 2, &selector))
        return EX_FAULT;
    return ok_or_fault(rc_ltr(cpu, (u16)selector));
}

/* A 16-bit system value: memory takes 16 bits, a register the operand size. */
static enum ex store_word(struct interp *it, struct cpu *cpu, const struct insn *in, u32 value) {
    unsigned bytes = in->op[0].type == OP_REG ? in->op_bytes : 2;
    return ok_or_fault(op_write(it, cpu, in, 0, bytes, value));
}
enum ex exec_sldt(struct interp *it, struct cpu *cpu, const struct insn *in) {
    if (!selectors_exist(cpu))
        return EX_FAULT;
    return store_word(it, cpu, in, cpu->seg[SEG_LDTR].selector);
}
enum ex exec_str(struct interp *it, struct cpu *cpu, const struct insn *in) {
    if (!selectors_exist(cpu))
        return EX_FAULT;
    return store_word(it, cpu, in, cpu->seg[SEG_TR].selector);
}
enum ex exec_smsw(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return store_word(it, cpu, in, cpu->cr0);
}
enum ex exec_lmsw(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 v;
    if (!rc_require_cpl0(cpu) || !op_read(it, cpu, in, 0, 2, &v))
        return EX_FAULT;
    return sync_or_fault(rc_lmsw(cpu, (u16)v));
}

static void set_zf(struct cpu *cpu, bool zf) {
    cpu->eflags = (cpu->eflags & ~(u32)F_ZF) | (zf ? F_ZF : 0);
}

static enum ex inspect(struct interp *it, struct cpu *cpu, const struct insn *in,
                       bool (*query)(struct cpu *, u16, bool *, u32 *)) {
    u32 selector, value = 0;
    bool ok = false;
    if (!selectors_exist(cpu) || !op_read(it, cpu, in, 1, 2, &selector) ||
        !query(cpu, (u16)selector, &ok, &value))
        return EX_FAULT;
    if (ok)
        gpr_write(cpu, in->op[0].reg, in->op_bytes, value);
    set_zf(cpu, ok);
    return EX_NEXT;
}
enum ex exec_lar(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return inspect(it, cpu, in, rc_lar);
}
enum ex exec_lsl(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return inspect(it, cpu, in, rc_lsl);
}

static enum ex verify(struct interp *it, struct cpu *cpu, const struct insn *in, bool for_write) {
    u32 selector;
    bool ok = false;
    if (!selectors_exist(cpu) || !op_read(it, cpu, in, 0, 2, &selector) ||
        !rc_verify(cpu, (u16)selector, for_write, &ok))
        return EX_FAULT;
    set_zf(cpu, ok);
    return EX_NEXT;
}
enum ex exec_verr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return verify(it, cpu, in, false);
}
enum ex exec_verw(struct interp *it, struct cpu *cpu, const struct insn *in) {
    return verify(it, cpu, in, true);
}

/* ARPL: raises the destination's RPL to the source's. The destination is written only then. */
enum ex exec_arpl(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u32 dest, rpl = gpr_read(cpu, in->op[1].reg, 2) & 3;
    if (!selectors_exist(cpu) || !op_read(it, cpu, in, 0, 2, &dest))
        return EX_FAULT;
    bool raise = (dest & 3) < rpl;
    if (raise && !op_write(it, cpu, in, 0, 2, (dest & ~3u) | rpl))
        return EX_FAULT;
    set_zf(cpu, raise);
    return EX_NEXT;
}

/* ---- Caches and TLB ---- */

enum ex exec_invlpg(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it;
    if (in->op[0].type != OP_MEM)
        return ex_fault(cpu, VEC_UD);
    if (!rc_require_cpl0(cpu))
        return EX_FAULT;
    mmu_invlpg(cpu, GLIN((u32)(cpu->seg[in->mem_seg].base + ea_offset(cpu, in))));
    return EX_SYNC;
}
enum ex exec_invd(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_require_cpl0(cpu));
}
/* CLFLUSH faults like a load of one byte and does nothing else: guest memory is coherent. */
enum ex exec_clflush(struct interp *it, struct cpu *cpu, const struct insn *in) {
    struct mmu_xlat x;
    u32 lin;
    return ok_or_fault(mem_linear(it, cpu, in, 1, false, &lin) &&
                       mmu_translate(cpu, GLIN(lin), MMU_READ, cpu->cpl == 3, &x));
}

/* ---- MSRs, time, identification ---- */

enum ex exec_rdmsr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_require_cpl0(cpu) && rc_rdmsr(cpu));
}
enum ex exec_wrmsr(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return sync_or_fault(rc_require_cpl0(cpu) && rc_wrmsr(cpu));
}
enum ex exec_rdtsc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_rdtsc(cpu));
}
enum ex exec_rdtscp(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (!rc_rdtsc(cpu))
        return EX_FAULT;
    cpu->gpr[R_ECX] = cpu->msr_tsc_aux;
    return EX_NEXT;
}
enum ex exec_rdpmc(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    return ok_or_fault(rc_rdpmc(cpu));
}
enum ex exec_cpuid(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    rc_cpuid(cpu);
    return EX_NEXT;
}

/* RDRAND and RDSEED: CF says whether there was a number; without one the register is zero, and the
 * other flags are cleared either way. SDM volume 2, "RDRAND". */
enum ex exec_rdrand(struct interp *it, struct cpu *cpu, const struct insn *in) {
    u64 value = 0;
    bool good = cpu->bus->random && cpu->bus->random(cpu->bus->opaque, &value);
    (void)it;
    gpr_write(cpu, in->op[0].reg, in->op_bytes, good ? (u32)value : 0);
    set_arith_flags(cpu, good ? F_CF : 0);
    return EX_NEXT;
}

/* MONITOR checks its address; MWAIT ends at once, as it may for any reason. */
enum ex exec_monitor(struct interp *it, struct cpu *cpu, const struct insn *in) {
    enum seg seg = in->seg_override != INSN_NO_REG ? in->seg_override : SEG_DS;
    u32 lin, v, offset = (u32)cpu->gpr[R_EAX] & (in->addr_bytes == 2 ? 0xffff : 0xffffffff);
    if (cpu->cpl != 0)
        return ex_fault(cpu, VEC_UD);
    if (cpu->gpr[R_ECX])
        return ex_gp0(cpu);
    return ok_or_fault(seg_linear(it, cpu, seg, offset, 1, false, &lin) &&
                       mem_read(cpu, lin, 1, &v));
}
enum ex exec_mwait(struct interp *it, struct cpu *cpu, const struct insn *in) {
    (void)it, (void)in;
    if (cpu->cpl != 0)
        return ex_fault(cpu, VEC_UD);
    if (cpu->gpr[R_ECX] & ~1ull)
        return ex_gp0(cpu);
    return EX_SYNC;
}
