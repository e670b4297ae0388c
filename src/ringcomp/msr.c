/*
 * msr.c: model-specific registers, one table row each: number, the first processors to have it,
 * kind, and what may be written. What has no row, or not in this CPU model, does not exist and
 * raises #GP(0). SDM volume 4, chapter 2 "Model-Specific Registers": the set is that of family 6,
 * model 1Ch (section 2.4), less what P6 (section 2.22) and Pentium (section 2.23) processors lack.
 */
#include "ringcomp/rc_internal.h"

enum msr_kind {
    MSR_CONSTANT,  /* reads as `value`; a write is ignored */
    MSR_READ_ONLY, /* reads as `value`; a write is #GP(0) */
    MSR_FIELD32,
    MSR_FIELD64,
    MSR_P5_MC,
    MSR_TSC,
    MSR_TSC_AUX,
    MSR_APICBASE,
    MSR_X2APIC, /* these two are on the bus */
    MSR_TSC_DEADLINE,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_EFER,
    MSR_MCG_CAP,
    MSR_MCG_STATUS,
    MSR_MC_BANK,
    MSR_MTRR_CAP,
    MSR_MTRR_DEFTYPE,
    MSR_MTRR_FIXED,
    MSR_MTRR_VARIABLE
};

/* Since when there is such a register, apart from the feature that some go with. */
enum generation {
    P5,  /* Pentium: the first to have any */
    P6,  /* family 6 */
    CORE /* family 6 from model 0Eh on */
};

struct msr_row {
    u32 first, last;
    enum generation since;
    enum msr_kind kind;
    u32 offset; /* in struct cpu, for FIELD kinds */
    u64 value;  /* constant, or mask of writable bits (others raise #GP) */
};

#define MTRR_FIXED_ROW(msr, index)                                                                 \
    { msr, msr, P6, MSR_MTRR_FIXED, index, 0 }

static const struct msr_row rows[] = {
    {0x0, 0x1, P5, MSR_P5_MC, 0, 0},                  /* P5_MC_ADDR, P5_MC_TYPE */
    {0x10, 0x10, P5, MSR_TSC, 0, 0},                  /* IA32_TIME_STAMP_COUNTER */
    {0x17, 0x17, P6, MSR_READ_ONLY, 0, 0},            /* IA32_PLATFORM_ID */
    {0x1b, 0x1b, P6, MSR_APICBASE, 0, 0},             /* IA32_APIC_BASE */
    {0x2a, 0x2a, P6, MSR_CONSTANT, 0, 0},             /* MSR_EBL_CR_POWERON */
    {0x3a, 0x3a, CORE, MSR_READ_ONLY, 0, 1},          /* IA32_FEATURE_CONTROL: locked */
    {0x79, 0x79, P6, MSR_CONSTANT, 0, 0},             /* IA32_BIOS_UPDT_TRIG */
    {0x8b, 0x8b, P6, MSR_CONSTANT, 0, 0x10700000000}, /* IA32_BIOS_SIGN_ID: revision 107h */
    {0xcd, 0xcd, CORE, MSR_READ_ONLY, 0, 1},          /* MSR_FSB_FREQ: 133 MHz */
    {0xfe, 0xfe, P6, MSR_MTRR_CAP, 0, 0},             /* IA32_MTRRCAP */
    {0x174, 0x174, P6, MSR_FIELD32, offsetof(struct cpu, sysenter_cs), 0xffffffff},
    {0x175, 0x175, P6, MSR_FIELD32, offsetof(struct cpu, sysenter_esp), 0xffffffff},
    {0x176, 0x176, P6, MSR_FIELD32, offsetof(struct cpu, sysenter_eip), 0xffffffff},
    {0x179, 0x179, P6, MSR_MCG_CAP, 0, 0},       /* IA32_MCG_CAP */
    {0x17a, 0x17a, P6, MSR_MCG_STATUS, 0, 0},    /* IA32_MCG_STATUS */
    {0x198, 0x198, CORE, MSR_READ_ONLY, 0, 0},   /* IA32_PERF_STATUS */
    {0x199, 0x19c, CORE, MSR_CONSTANT, 0, 0},    /* PERF_CTL, clock modulation, thermal */
    {0x1a0, 0x1a0, CORE, MSR_MISC_ENABLE, 0, 0}, /* IA32_MISC_ENABLE */
    {0x1d9, 0x1d9, P6, MSR_FIELD64, offsetof(struct cpu, msr_debugctl), 0x1fc3},
    {0x1db, 0x1de, P6, MSR_CONSTANT, 0, 0},      /* last branch and exception records */
    {0x200, 0x20f, P6, MSR_MTRR_VARIABLE, 0, 0}, /* IA32_MTRR_PHYSBASE0..PHYSMASK7 */
    MTRR_FIXED_ROW(0x250, 0),                    /* IA32_MTRR_FIX64K_00000 */
    MTRR_FIXED_ROW(0x258, 1),                    /* FIX16K_80000 */
    MTRR_FIXED_ROW(0x259, 2),                    /* FIX16K_A0000 */
    {0x268, 0x26f, P6, MSR_MTRR_FIXED, 3, 0},    /* FIX4K_C0000..F8000 */
    {0x277, 0x277, P6, MSR_PAT, 0, 0},           /* IA32_PAT */
    {0x2ff, 0x2ff, P6, MSR_MTRR_DEFTYPE, 0, 0},  /* IA32_MTRR_DEF_TYPE */
    {0x400, 0x400 + 4 * CPU_MC_BANKS - 1, P6, MSR_MC_BANK, 0, 0}, /* IA32_MC0_CTL.. */
    {0x6e0, 0x6e0, CORE, MSR_TSC_DEADLINE, 0, 0},                 /* IA32_TSC_DEADLINE */
    {0x800, 0x8ff, CORE, MSR_X2APIC, 0, 0},         /* IA32_X2APIC_APICID and the others */
    {0xc0000080, 0xc0000080, P5, MSR_EFER, 0, 0},   /* IA32_EFER */
    {0xc0000103, 0xc0000103, P5, MSR_TSC_AUX, 0, 0} /* IA32_TSC_AUX */
};

#define F1_EDX_APIC BIT(9)
#define F1_ECX_X2APIC BIT(21)
#define F1_ECX_TSC_DEADLINE BIT(24)
#define F1_EDX_SEP BIT(11)
#define F1_EDX_MTRR BIT(12)
#define F1_EDX_PAT BIT(16)
#define F1_EDX_TSC BIT(4)
#define F1_EDX_MCE BIT(7)
#define F1_EDX_MCA BIT(14)
#define X1_EDX_RDTSCP BIT(27)

/* CPUID bit (leaf 1 EDX) that a kind or number depends on; 0: always there. */
static u32 needed_feature(const struct msr_row *row) {
    switch (row->kind) {
    case MSR_APICBASE:
        return F1_EDX_APIC;
    case MSR_PAT:
        return F1_EDX_PAT;
    case MSR_MTRR_CAP:
    case MSR_MTRR_DEFTYPE:
    case MSR_MTRR_FIXED:
    case MSR_MTRR_VARIABLE:
        return F1_EDX_MTRR;
    case MSR_FIELD32:
        return F1_EDX_SEP;
    case MSR_TSC:
        return F1_EDX_TSC;
    case MSR_P5_MC:
        return F1_EDX_MCE;
    case MSR_MCG_CAP:
    case MSR_MCG_STATUS:
    case MSR_MC_BANK:
        return F1_EDX_MCA;
    default:
        return 0;
    }
}

static bool on_the_bus(const struct cpu *cpu, const struct msr_row *row) {
    u32 needed = row->kind == MSR_X2APIC ? F1_ECX_X2APIC : F1_ECX_TSC_DEADLINE;
    return (cpu->model->f1_ecx & needed) && cpu->bus->msr;
}

static enum generation generation_of(const struct cpu_model *model) {
    if (cpu_model_family(model) < 6)
        return P5;
    return cpu_model_family(model) == 6 && cpu_model_number(model) < 0xe ? P6 : CORE;
}

static const struct msr_row *find_row(const struct cpu *cpu, u32 msr) {
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        const struct msr_row *row = &rows[i];
        if (msr < row->first || msr > row->last)
            continue;
        if (row->kind == MSR_EFER && !cpu->model->has_nx)
            return NULL;
        if ((row->kind == MSR_X2APIC || row->kind == MSR_TSC_DEADLINE) && !on_the_bus(cpu, row))
            return NULL;
        if (row->kind == MSR_TSC_AUX && !(cpu->model->x1_edx & X1_EDX_RDTSCP))
            return NULL;
        u32 needed = needed_feature(row);
        bool there = (cpu->model->f1_edx & needed) == needed;
        return there && generation_of(cpu->model) >= row->since ? row : NULL;
    }
    return NULL;
}

/* ---- Reading ---- */

/* Eight variable ranges, the fixed ones, and write combining. */
#define MTRR_CAP_VALUE 0x508
/* Branch trace store and precise sampling unavailable: read-only ones. */
#define MISC_ENABLE_FIXED (BIT(11) | BIT(12))
/* Of a bank's four registers, the one that holds anything: there are no machine checks. */
enum { MC_CTL, MC_STATUS, MC_ADDR, MC_MISC };

static u64 read_row(struct cpu *cpu, const struct msr_row *row, u32 msr) {
    const u8 *field = (const u8 *)cpu + row->offset;
    u32 index = msr - row->first;
    switch (row->kind) {
    case MSR_FIELD32:
        return load32(field);
    case MSR_FIELD64:
        return load64(field);
    case MSR_TSC:
        return rc_tsc(cpu);
    case MSR_TSC_AUX:
        return cpu->msr_tsc_aux;
    case MSR_MCG_CAP:
        return CPU_MC_BANKS;
    case MSR_MCG_STATUS:
        return cpu->msr_mcg_status;
    case MSR_MC_BANK:
        return index % 4 == MC_CTL ? cpu->msr_mc_ctl[index / 4] : 0;
    case MSR_APICBASE:
        return cpu->msr_apicbase;
    case MSR_MISC_ENABLE:
        return cpu->msr_misc_enable | MISC_ENABLE_FIXED;
    case MSR_PAT:
        return cpu->msr_pat;
    case MSR_EFER:
        return cpu->efer;
    case MSR_MTRR_CAP:
        return MTRR_CAP_VALUE;
    case MSR_MTRR_DEFTYPE:
        return cpu->msr_mtrr_deftype;
    case MSR_MTRR_FIXED:
        return cpu->msr_mtrr_fixed[row->offset + index];
    case MSR_MTRR_VARIABLE:
        return cpu->msr_mtrr_var[index];
    default:
        return row->value;
    }
}

bool rc_rdmsr(struct cpu *cpu) {
    u32 msr = (u32)cpu->gpr[R_ECX];
    if (!rc_is_cpl0(cpu))
        return false;
    const struct msr_row *row = find_row(cpu, msr);
    if (!row) {
        TRACE(unimp, "rdmsr %08x: no such register, #GP at %08x\n", msr, cpu->eip);
        return rc_gp0(cpu);
    }
    u64 value;
    if (row->kind == MSR_X2APIC || row->kind == MSR_TSC_DEADLINE) {
        if (!cpu->bus->msr(cpu->bus->opaque, msr, false, &value)) {
            TRACE(guest_errors, "rdmsr %08x: #GP at %08x\n", msr, cpu->eip);
            return rc_gp0(cpu);
        }
    } else {
        value = read_row(cpu, row, msr);
    }
    cpu->gpr[R_EAX] = (u32)value;
    cpu->gpr[R_EDX] = value >> 32;
    return true;
}

/* ---- Writing; each false without side effect means #GP(0) ---- */

/* Memory types: SDM volume 3, section 11.12.2, table 11-10 (7, UC-, in the PAT only). */
static bool types_ok(u64 value, u32 allowed) {
    for (unsigned i = 0; i < 8; i++) {
        u32 type = value >> (8 * i) & 0xff;
        if (type > 7 || !(allowed >> type & 1))
            return false;
    }
    return true;
}
#define MTRR_TYPES 0x73u
#define PAT_TYPES 0xf3u

static u64 phys_mask(const struct cpu *cpu) {
    const struct cpuid_leaf *l = rc_find_leaf(cpu->model, 0x80000008u, 0);
    unsigned bits = l ? l->eax & 0xff : 36;
    return bits >= 32 && bits <= 52 ? BIT64(bits) - 1 : BIT64(36) - 1;
}

/* SDM volume 3, section 10.4.4 "Local APIC Status and Location": BSP is read-only. Which changes of
 * mode are legal the APIC itself knows. */
static bool write_apicbase(struct cpu *cpu, u64 value) {
    const u64 bsp = BIT(8), extended = BIT(10), enable = BIT(11);
    bool has_x2apic = (cpu->model->f1_ecx & F1_ECX_X2APIC) && cpu->bus->msr;
    if (value & ~((phys_mask(cpu) & ~0xfffull) | bsp | (has_x2apic ? extended : 0) | enable))
        return false;
    value = (value & ~bsp) | (cpu->msr_apicbase & bsp);
    if (cpu->bus->msr && !cpu->bus->msr(cpu->bus->opaque, 0x1b, true, &value))
        return false;
    cpu->msr_apicbase = value;
    return true;
}

/* Before model 0Eh of family 6 the high half could only be cleared: SDM volume 3, section 17.17
 * "Time-Stamp Counter". */
static bool write_tsc(struct cpu *cpu, u64 value) {
    if (generation_of(cpu->model) < CORE)
        value = (u32)value;
    cpu->tsc_offset += value - rc_tsc(cpu);
    if (cpu->bus->msr)
        cpu->bus->msr(cpu->bus->opaque, 0x10, true, &value);
    return true;
}

/* SDM volume 4, table 2-4: bits that software may change; those that are not, but mean something,
 * keep their value, so that a guest's "set what the BIOS left" does not fault. XD-disable (34)
 * stays clear. The others are reserved. */
static bool write_misc_enable(struct cpu *cpu, u64 value) {
    const u64 writable =
        BIT(0) | BIT(3) | BIT(10) | BIT(13) | BIT(16) | BIT(18) | BIT(20) | BIT(22) | BIT(23);
    const u64 kept = BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(19) | BIT64(34);
    if (value & ~(writable | kept))
        return false;
    cpu->msr_misc_enable = (cpu->msr_misc_enable & ~writable) | (value & writable);
    return true;
}

/* SDM volume 3, sections 15.3.1.2 "IA32_MCG_STATUS MSR" (RIPV, EIPV, MCIP) and 15.3.2
 * "Error-Reporting Register Banks": of a bank, software only clears what is not its CTL. */
static bool write_mcg_status(struct cpu *cpu, u64 value) {
    if (value & ~7ull)
        return false;
    cpu->msr_mcg_status = value;
    return true;
}
static bool write_mc_bank(struct cpu *cpu, u32 index, u64 value) {
    if (index % 4 != MC_CTL)
        return !value;
    cpu->msr_mc_ctl[index / 4] = value;
    return true;
}

static bool write_efer(struct cpu *cpu, u64 value) {
    if (value & ~(u64)EFER_NXE)
        return false;
    bool changed = (value ^ cpu->efer) & EFER_NXE;
    cpu->efer = value;
    if (changed)
        mmu_mode_changed(cpu);
    return true;
}

/* SDM volume 3, section 11.11.2 "Setting Memory Ranges with MTRRs". */
static bool write_mtrr_variable(struct cpu *cpu, u32 index, u64 value) {
    u64 page = phys_mask(cpu) & ~0xfffull;
    bool is_mask = index & 1;
    if (value & ~(page | (is_mask ? BIT(11) : 0xff)))
        return false;
    if (!is_mask && ((value & 0xff) > 7 || !(MTRR_TYPES >> (value & 0xff) & 1)))
        return false;
    cpu->msr_mtrr_var[index] = value;
    return true;
}
static bool write_mtrr_deftype(struct cpu *cpu, u64 value) {
    if ((value & ~0xcffull) || (value & 0xff) > 7 || !(MTRR_TYPES >> (value & 0xff) & 1))
        return false;
    cpu->msr_mtrr_deftype = value;
    return true;
}

static bool write_row(struct cpu *cpu, const struct msr_row *row, u32 msr, u64 value) {
    u8 *field = (u8 *)cpu + row->offset;
    u32 index = msr - row->first;
    switch (row->kind) {
    case MSR_CONSTANT:
    case MSR_P5_MC:
        return true;
    case MSR_FIELD32:
        store32(field, (u32)value);
        return true;
    case MSR_FIELD64:
        if (value & ~row->value)
            return false;
        store64(field, value);
        return true;
    case MSR_TSC:
        return write_tsc(cpu, value);
    case MSR_TSC_AUX:
        if (value >> 32)
            return false;
        cpu->msr_tsc_aux = (u32)value;
        return true;
    case MSR_MCG_STATUS:
        return write_mcg_status(cpu, value);
    case MSR_MC_BANK:
        return write_mc_bank(cpu, index, value);
    case MSR_APICBASE:
        return write_apicbase(cpu, value);
    case MSR_X2APIC:
    case MSR_TSC_DEADLINE:
        return cpu->bus->msr(cpu->bus->opaque, msr, true, &value);
    case MSR_MISC_ENABLE:
        return write_misc_enable(cpu, value);
    case MSR_PAT:
        if (!types_ok(value, PAT_TYPES))
            return false;
        cpu->msr_pat = value;
        return true;
    case MSR_EFER:
        return write_efer(cpu, value);
    case MSR_MTRR_DEFTYPE:
        return write_mtrr_deftype(cpu, value);
    case MSR_MTRR_FIXED:
        if (!types_ok(value, MTRR_TYPES))
            return false;
        cpu->msr_mtrr_fixed[row->offset + index] = value;
        return true;
    case MSR_MTRR_VARIABLE:
        return write_mtrr_variable(cpu, index, value);
    default:
        return false;
    }
}

bool rc_wrmsr(struct cpu *cpu) {
    u32 msr = (u32)cpu->gpr[R_ECX];
    u64 value = (u32)cpu->gpr[R_EAX] | (u64)(u32)cpu->gpr[R_EDX] << 32;
    if (!rc_is_cpl0(cpu))
        return false;
    const struct msr_row *row = find_row(cpu, msr);
    if (!row || !write_row(cpu, row, msr, value)) {
        if (row)
            TRACE(guest_errors, "wrmsr %08x: bad value %016llx, #GP at %08x\n", msr,
                  (unsigned long long)value, cpu->eip);
        else
            TRACE(unimp, "wrmsr %08x: no such register, #GP at %08x\n", msr, cpu->eip);
        return rc_gp0(cpu);
    }
    return true;
}
