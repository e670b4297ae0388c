/*
 * lockstep_hosted.c: the oracle at work. For every translated unit the interpreter runs first, with
 * a journal of all memory it changes and a picture of the CPU after each instruction; its changes
 * are taken back, the translated unit runs, and both outcomes are compared: registers, flags,
 * segments, system registers, x87/SSE state, the fault, and the bytes the journal names. The first
 * difference is printed with both states and both codes, and ends the run with status 1.
 *
 * A unit is compared at its first executions and from then on every now and then, or always with
 * -lockstep-all, which takes about 1.5 us per unit.
 *
 * What reaches devices, reads the clock or changes the address space runs once only: the
 * interpreter stops in front of it and translated code must hand it over. Flags that the manual
 * leaves undefined are not compared until an instruction defines them again.
 */
#include "isa/insn.h"
#include "monitor/vm.h"

#include <stdlib.h>

#define MAX_STEPS 256
#define JOURNAL_ENTRIES (64u << 10)
#define MAX_REP_ITERATIONS 4096
/* Journal entries that one instruction may need, a whole REP included. */
#define STEP_ENTRIES (MAX_REP_ITERATIONS + 256)

/* FXSAVE image: what both sides must agree on. FIP, FDP and FOP are the host's in translated code.
 */
enum { FX_MXCSR = 24, FX_ST = 32, FX_XMM = 160, FX_XMM_END = 288 };

/* The state before instruction n of the unit (n = steps: after the last). */
struct picture {
    struct cpu cpu;
    u32 journal_count;
    u32 undefined_flags;
    bool rep; /* the instruction is repeated: it may be left in the middle */
};

struct mon_lockstep {
    struct mmu_journal journal;
    u8 (*actual)[16]; /* per journal entry: what translated code left in its place */
    struct picture picture[MAX_STEPS + 1];
    unsigned steps;
    struct picture fault; /* what the instruction at picture[steps] leaves if it faults */
    bool faulted;
    bool stopped_early; /* it is one that runs once only */
    bool transferred;   /* the last one was a call or a taken branch: the unit ends there */
    bool told_pending;  /* translated code was told that an interrupt waits */
    bool touched;       /* the bus was used while probing */
    struct cpu_bus bus; /* the real one, while probing */
};

/* ---- A bus that only tells that it was touched ---- */
static u32 probe_io_read(void *opaque, u16 port, unsigned bytes) {
    (void)port, (void)bytes;
    ((struct mon_lockstep *)opaque)->touched = true;
    return 0;
}
static void probe_io_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    (void)port, (void)value, (void)bytes;
    ((struct mon_lockstep *)opaque)->touched = true;
}
static u64 probe_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    (void)addr, (void)bytes;
    ((struct mon_lockstep *)opaque)->touched = true;
    return 0;
}
static void probe_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)addr, (void)value, (void)bytes;
    ((struct mon_lockstep *)opaque)->touched = true;
}
static u64 probe_tsc(void *opaque) {
    ((struct mon_lockstep *)opaque)->touched = true;
    return 0;
}

static bool probe_msr(void *opaque, u32 index, bool write, u64 *value) {
    (void)index;
    ((struct mon_lockstep *)opaque)->touched = true;
    if (!write)
        *value = 0;
    return true;
}

static bool probe_random(void *opaque, u64 *value) {
    ((struct mon_lockstep *)opaque)->touched = true;
    *value = 0;
    return true;
}

static bool probe_ferr(void *opaque, bool asserted) {
    (void)asserted;
    ((struct mon_lockstep *)opaque)->touched = true;
    return false;
}

bool mon_lockstep_open(struct vm *vm, struct mon_error *err) {
    struct mon_lockstep *l = vm->lockstep = calloc(1, sizeof *l);
    if (!l)
        return mon_fail(err, "out of memory");
    l->journal.entry = calloc(JOURNAL_ENTRIES, sizeof *l->journal.entry);
    l->journal.capacity = JOURNAL_ENTRIES;
    l->actual = calloc(JOURNAL_ENTRIES, sizeof *l->actual);
    return (l->journal.entry && l->actual) || mon_fail(err, "out of memory");
}

void mon_lockstep_close(struct vm *vm) {
    if (vm->lockstep) {
        free(vm->lockstep->journal.entry);
        free(vm->lockstep->actual);
    }
    free(vm->lockstep);
    vm->lockstep = NULL;
}

/* ---- What an instruction is, as far as lockstep cares ---- */

static bool decode_at(struct vm *vm, u32 lin, struct insn *in) {
    u8 code[INSN_MAX_BYTES];
    size_t n = 0;
    while (n < sizeof code) {
        struct mmu_xlat x;
        size_t piece = MIN(sizeof code - n, PAGE_BYTES - ((lin + n) & PAGE_OFFSET_MASK));
        if (!mmu_probe(vm->cpu, GLIN((u32)(lin + n)), &x) ||
            !mmu_phys_read(vm->mmu, x.gpa, code + n, piece))
            break;
        n += piece;
    }
    return insn_decode(in, code, n, true, true) == INSN_OK;
}

/* Instructions with effects outside CPU and RAM, or on how RAM is seen. */
static bool runs_once(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVD:
        return true;
    case ZYDIS_MNEMONIC_MOV:
        return in->op[0].type == OP_REG && in->op[0].reg_class == RC_CR;
    default:
        return false;
    }
}

/* Translated units may go on behind a call, where the callee returns to; not so this execution. */
static bool transfers(const struct insn *in, u32 eip_before, u32 eip_after) {
    return in->mnemonic == ZYDIS_MNEMONIC_CALL || eip_after != eip_before + in->length;
}

/* Flags that the instruction defines and those it leaves undefined: SDM volume 1, appendix A
 * "EFLAGS Cross-Reference". Conservative: what is not listed defines nothing. */
static void flag_effect(const struct insn *in, u32 *defined, u32 *undefined) {
    *defined = *undefined = 0;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_COMISS:
    case ZYDIS_MNEMONIC_COMISD:
    case ZYDIS_MNEMONIC_UCOMISS:
    case ZYDIS_MNEMONIC_UCOMISD:
    case ZYDIS_MNEMONIC_POPCNT:
        *defined = F_ARITH;
        break;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        *defined = F_ARITH & ~(u32)F_CF;
        break;
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
        *defined = F_ARITH & ~(u32)F_AF;
        *undefined = F_AF;
        break;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        *undefined = F_AF | F_OF;
        break;
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        *undefined = F_OF;
        break;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        *defined = F_CF | F_OF;
        *undefined = F_SF | F_ZF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        *undefined = F_ARITH;
        break;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        *defined = F_ZF;
        *undefined = F_ARITH & ~(u32)F_ZF;
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        *defined = F_CF;
        *undefined = F_OF | F_SF | F_AF | F_PF;
        break;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
        *undefined = F_ARITH;
        break;
    default:
        break;
    }
}

/* ---- The interpreter's turn ---- */

/* An overflowing journal could not undo what the step did. */
static bool has_room(const struct mmu_journal *j) {
    return j->capacity - j->count >= STEP_ENTRIES;
}

/* One instruction; a REP to its end. False: it does not count as run (it faulted, or runs once). */
static bool probe_one(struct vm *vm, struct mon_lockstep *l) {
    struct cpu *cpu = vm->cpu;
    struct picture *before = &l->picture[l->steps], *after = before + 1;
    before->cpu = *cpu;
    before->journal_count = l->journal.count;
    struct insn in;
    bool decoded = decode_at(vm, cpu->eip, &in);
    bool rep = decoded && (in.rep || in.repne);
    before->rep = rep;
    bool too_long = rep && (u32)cpu->gpr[R_ECX] > MAX_REP_ITERATIONS;
    if (too_long || !has_room(&l->journal) || (decoded && runs_once(&in))) {
        l->stopped_early = true;
        return false;
    }
    enum interp_result r;
    do
        r = interp_step(vm->interp, cpu);
    while (r == INTERP_REP_MORE && !l->touched);
    RF_ASSERT(!l->journal.overflow);
    if (l->touched || r == INTERP_HALT) {
        l->stopped_early = true;
        return false;
    }
    if (r == INTERP_FAULT) {
        l->faulted = true;
        l->fault.cpu = *cpu; /* a REP may have got somewhere */
        l->fault.journal_count = l->journal.count;
        l->fault.undefined_flags = before->undefined_flags;
        return false;
    }
    u32 defined = 0, undefined = 0;
    if (decoded)
        flag_effect(&in, &defined, &undefined);
    after->undefined_flags = (before->undefined_flags & ~defined) | undefined;
    l->transferred = !decoded || transfers(&in, before->cpu.eip, cpu->eip);
    return true;
}

/* All but the engine's own area: a kick may have arrived there meanwhile. */
static void restore(struct cpu *to, const struct cpu *from) {
    const size_t first = offsetof(struct cpu, engine_area);
    const size_t after = first + sizeof from->engine_area;
    memcpy(to, from, first);
    memcpy((u8 *)to + after, (const u8 *)from + after, sizeof *from - after);
}

static bool is_accessed_dirty_update(const struct mmu_journal_entry *e) {
    u8 changed = e->old_value[0] ^ e->new_value[0];
    return (e->bytes == 4 || e->bytes == 8) && changed && !(changed & ~0x60) &&
           !memcmp(e->old_value + 1, e->new_value + 1, e->bytes - 1u);
}

/* True when accessed or dirty bits were among it. */
static bool undo(struct vm *vm, const struct mmu_journal *j) {
    u8 *ram = mmu_ram(vm->mmu);
    bool tables = false;
    for (u32 i = j->count; i-- > 0;) {
        memcpy(ram + j->entry[i].gpa, j->entry[i].old_value, j->entry[i].bytes);
        tables |= is_accessed_dirty_update(&j->entry[i]);
    }
    return tables;
}

static void probe(struct vm *vm, struct mon_lockstep *l, u32 insns) {
    struct cpu *cpu = vm->cpu;
    l->steps = 0;
    l->faulted = l->stopped_early = l->touched = false;
    l->journal.count = 0;
    l->journal.overflow = false;
    l->bus = vm->bus;
    vm->bus = (struct cpu_bus){probe_io_read,
                               probe_io_write,
                               probe_mmio_read,
                               probe_mmio_write,
                               probe_tsc,
                               probe_msr,
                               probe_random,
                               probe_ferr,
                               l,
                               NULL};
    mmu_set_journal(vm->mmu, &l->journal);
    l->picture[0].undefined_flags = 0;
    l->transferred = false;
    while (l->steps < MIN(insns, (u32)MAX_STEPS) && !l->transferred && probe_one(vm, l))
        l->steps++;
    if (!l->faulted && !l->stopped_early) {
        l->picture[l->steps].cpu = *cpu;
        l->picture[l->steps].journal_count = l->journal.count;
    }
    mmu_set_journal(vm->mmu, NULL);
    vm->bus = l->bus;
    /* Nothing else the interpreter does here changes how memory is seen. */
    bool tables_changed = undo(vm, &l->journal), switched = cpu->cr3 != l->picture[0].cpu.cr3;
    restore(cpu, &l->picture[0].cpu);
    if (switched)
        mmu_cr3_loaded(cpu);
    else if (tables_changed)
        mmu_softtlb_flush(cpu);
}

/* ---- Comparison ---- */

static bool same_fx(const u8 *a, const u8 *b) {
    return !memcmp(a, b, 5) && load32(a + FX_MXCSR) == load32(b + FX_MXCSR) &&
           !memcmp(a + FX_ST, b + FX_ST, FX_XMM - FX_ST) &&
           !memcmp(a + FX_XMM, b + FX_XMM, FX_XMM_END - FX_XMM);
}

static bool same_segment(const struct segment *a, const struct segment *b) {
    return a->selector == b->selector && a->attr == b->attr && a->limit == b->limit &&
           a->base == b->base;
}

/* NULL, or what differs.
 * DEVIATION: translated code drops RF where no breakpoint is armed, and leaves no shadow behind an
 * STI when no interrupt waits; neither can be seen, because the next instruction always follows. */
static const char *compare_cpu(const struct cpu *want, const struct cpu *got, u32 undefined,
                               bool pending) {
    for (unsigned r = 0; r < 8; r++)
        if (want->gpr[r] != got->gpr[r])
            return "general registers";
    if (want->eip != got->eip)
        return "eip";
    if ((want->eflags ^ got->eflags) & ~undefined & ~(want->dr[7] & 0xff ? 0u : F_RF))
        return "eflags";
    if (want->cpl != got->cpl)
        return "cpl";
    if (want->shadow != got->shadow && (pending || want->shadow != SHADOW_STI || got->shadow))
        return "interrupt shadow";
    for (unsigned s = 0; s < SEG_COUNT; s++)
        if (!same_segment(&want->seg[s], &got->seg[s]))
            return "segment registers";
    if (want->cr0 != got->cr0 || want->cr2 != got->cr2 || want->cr3 != got->cr3 ||
        want->cr4 != got->cr4)
        return "control registers";
    if (memcmp(want->dr, got->dr, sizeof want->dr))
        return "debug registers";
    if (!same_fx(want->fx, got->fx))
        return "x87/SSE state";
    return NULL;
}

/* A and D bits of a table that the interpreter walked. A window that holds the page already sets
 * none, and a store that is handed over has set them before. */
static bool is_accessed_dirty(struct vm *vm, u64 gpa, u8 difference) {
    const struct mmu_journal *j = &vm->lockstep->journal;
    if (!cpu_paging(vm->cpu) || (difference & ~0x60))
        return false;
    for (u32 i = 0; i < j->count; i++)
        if (j->entry[i].gpa == gpa && is_accessed_dirty_update(&j->entry[i]))
            return true;
    return false;
}

/* Compares the bytes that the journal names with what they should be after its first `count`
 * entries: brings those about in RAM, compares, and puts the actual bytes back. */
static bool compare_memory(struct vm *vm, u32 count, u64 *bad, u8 *want) {
    struct mon_lockstep *l = vm->lockstep;
    const struct mmu_journal *j = &l->journal;
    u8 *ram = mmu_ram(vm->mmu);
    bool same = true;
    for (u32 i = 0; i < j->count; i++)
        memcpy(l->actual[i], ram + j->entry[i].gpa, j->entry[i].bytes);
    undo(vm, j);
    for (u32 i = 0; i < count; i++)
        memcpy(ram + j->entry[i].gpa, j->entry[i].new_value, j->entry[i].bytes);
    for (u32 i = 0; i < j->count && same; i++) {
        const struct mmu_journal_entry *e = &j->entry[i];
        for (unsigned n = 0; n < e->bytes && same; n++) {
            u8 should = ram[e->gpa + n], is = l->actual[i][n];
            if (should != is && !is_accessed_dirty(vm, e->gpa + n, should ^ is)) {
                *bad = e->gpa + n;
                *want = should;
                same = false;
            }
        }
    }
    for (u32 i = 0; i < j->count; i++)
        memcpy(ram + j->entry[i].gpa, l->actual[i], j->entry[i].bytes);
    return same;
}

/* ---- Report ---- */

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    log_printf("  %s\n", line);
}

static enum mon_exit report(struct vm *vm, const struct bt_unit_info *unit,
                            const struct picture *want, const char *what) {
    log_error("lockstep: %s differ after the unit at %08x (cpl %u)", what, unit->eip, unit->cpl);
    log_printf("before the unit:\n");
    cpu_dump(&vm->lockstep->picture[0].cpu, print_line, NULL);
    if (want) {
        log_printf("interpreter:\n");
        cpu_dump(&want->cpu, print_line, NULL);
    }
    log_printf("translated code:\n");
    cpu_dump(vm->cpu, print_line, NULL);
    bt_dump_unit(vm->bt, unit, print_line, NULL);
    vm->finished = true;
    vm->exit_status = 1;
    return MON_EXIT_STEPPED;
}

/* The interpreter's state at the boundary where translated code stopped. */
static const struct picture *boundary(const struct vm *vm, enum mon_exit why) {
    const struct mon_lockstep *l = vm->lockstep;
    const struct picture *last = &l->picture[l->steps];
    if (why == MON_EXIT_FAULT)
        return l->faulted ? &l->fault : NULL;
    if (why == MON_EXIT_UNIT_END && last->cpu.eip == vm->cpu->eip)
        return last;
    for (unsigned i = 0; i <= l->steps; i++)
        if (l->picture[i].cpu.eip == vm->cpu->eip)
            return &l->picture[i];
    return NULL;
}

static enum mon_exit compare(struct vm *vm, const struct bt_unit_info *unit, enum mon_exit why) {
    struct mon_lockstep *l = vm->lockstep;
    const struct picture *want = boundary(vm, why);
    if (l->stopped_early && (why == MON_EXIT_UNIT_END || !want))
        return why; /* translated code ran the instruction itself: nothing to compare with */
    if (!want)
        return report(vm, unit, want, "exits");
    const char *what = compare_cpu(&want->cpu, vm->cpu, want->undefined_flags, l->told_pending);
    if (what && want->rep && why != MON_EXIT_UNIT_END)
        return why; /* handed over in the middle of a REP */
    /* The host's own #XM has set MXCSR's flags, as the guest's is about to. */
    if (what && why == MON_EXIT_EMULATE && l->faulted && l->fault.cpu.eip == vm->cpu->eip &&
        !compare_cpu(&l->fault.cpu, vm->cpu, want->undefined_flags, l->told_pending))
        what = NULL;
    if (what)
        return report(vm, unit, want, what);
    if (why == MON_EXIT_FAULT) {
        const struct guest_fault *a = &want->cpu.fault, *b = &vm->cpu->fault;
        if (a->vector != b->vector || a->has_error != b->has_error ||
            (a->has_error && a->error != b->error) || (a->vector == VEC_PF && a->cr2 != b->cr2))
            return report(vm, unit, want, "faults");
    }
    u64 bad;
    u8 byte;
    if (!compare_memory(vm, want->journal_count, &bad, &byte)) {
        log_printf("memory at physical %08llx: %02x, should be %02x\n", (unsigned long long)bad,
                   mmu_ram(vm->mmu)[bad], byte);
        return report(vm, unit, want, "memory contents");
    }
    return why;
}

enum mon_exit mon_lockstep_run(struct vm *vm) {
    struct bt_unit_info unit;
    bool pending = vm->lockstep->told_pending = dev_intr_pending(vm->dev);
    bt_set_interrupt_pending(vm->bt, pending);
    if (!bt_unit_current(vm->bt, &unit) || unit.insns == 0 || !(unit.due || vm->opt.lockstep_all)) {
        if (vm->opt.lockstep_all)
            bt_lockstep_compare(vm->bt);
        return (enum mon_exit)bt_run(vm->bt);
    }
    u64 count = vm->cpu->insn_count;
    probe(vm, vm->lockstep, unit.insns);
    bt_lockstep_compare(vm->bt);
    enum mon_exit why = (enum mon_exit)bt_run(vm->bt);
    if (vm->cpu->insn_count == count)
        vm->cpu->insn_count += vm->lockstep->steps;
    vm->count.lockstep_units++;
    return compare(vm, &unit, why);
}
