/*
 * sysreg.c: control and debug registers, the time-stamp counter, CPUID and port rights. A write is
 * checked for reserved bits and consistency first; what the MMU must know is told last.
 */
#include "ringcomp/rc_internal.h"

bool rc_require_cpl0(struct cpu *cpu) {
    return rc_is_cpl0(cpu);
}

/* ---- Control registers: SDM volume 3, section 2.5 "Control Registers" ---- */

#define CR0_DEFINED                                                                                \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |     \
     CR0_PG)
#define CR4_PAGING (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP)
#define CR4_RELOADS_PDPTES (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)

/* PAE paging caches its four PDPTEs; these writes reload them: SDM volume 3, section 4.4.1. */
static bool reload_pdptes(struct cpu *cpu, bool needed) {
    return !needed || mmu_load_pdptrs(cpu, cpu->cr3);
}

static bool write_cr0(struct cpu *cpu, u32 value) {
    value = (value & CR0_DEFINED) | CR0_ET;
    u32 changed = value ^ cpu->cr0;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return rc_gp0(cpu);
    bool pae = (value & CR0_PG) && (cpu->cr4 & CR4_PAE);
    if (!reload_pdptes(cpu, pae && (changed & (CR0_PG | CR0_CD | CR0_NW))))
        return false;
    cpu->cr0 = value;
    if (changed & CR0_PE)
        cpu->cpl = 0;
    if (changed & (CR0_PG | CR0_WP))
        mmu_mode_changed(cpu);
    return true;
}

static bool write_cr3(struct cpu *cpu, u32 value) {
    bool pae = cpu_paging(cpu) && (cpu->cr4 & CR4_PAE);
    if (pae && !mmu_load_pdptrs(cpu, value))
        return false;
    cpu->cr3 = value;
    mmu_cr3_loaded(cpu);
    return true;
}

static bool write_cr4(struct cpu *cpu, u32 value) {
    u32 changed = value ^ cpu->cr4;
    if (value & ~cpu->model->cr4_allowed)
        return rc_gp0(cpu);
    bool pae = cpu_paging(cpu) && (value & CR4_PAE);
    if (!reload_pdptes(cpu, pae && (changed & CR4_RELOADS_PDPTES)))
        return false;
    cpu->cr4 = value;
    if (changed & CR4_PAGING)
        mmu_mode_changed(cpu);
    return true;
}

bool rc_write_cr(struct cpu *cpu, unsigned n, u32 value) {
    if (n > 4 || n == 1)
        return cpu_fault(cpu, VEC_UD);
    if (!rc_is_cpl0(cpu))
        return false;
    switch (n) {
    case 0:
        return write_cr0(cpu, value);
    case 2:
        cpu->cr2 = value;
        return true;
    case 3:
        return write_cr3(cpu, value);
    default:
        return write_cr4(cpu, value);
    }
}

bool rc_read_cr(struct cpu *cpu, unsigned n, u32 *value) {
    const u32 all[5] = {cpu->cr0, 0, cpu->cr2, cpu->cr3, cpu->cr4};
    if (n > 4 || n == 1)
        return cpu_fault(cpu, VEC_UD);
    if (!rc_is_cpl0(cpu))
        return false;
    *value = all[n];
    return true;
}

/* SDM volume 2, "LMSW": loads PE, MP, EM and TS, and cannot clear PE. */
bool rc_lmsw(struct cpu *cpu, u16 value) {
    u32 mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    if (!rc_is_cpl0(cpu))
        return false;
    return write_cr0(cpu, (cpu->cr0 & ~mask) | (value & mask) | (cpu->cr0 & CR0_PE));
}

/* ---- Debug registers: SDM volume 3, section 17.2 "Debug Registers" ---- */

#define DR6_FIXED 0xffff0ff0u
#define DR6_WRITABLE 0x0000e00fu
#define DR7_FIXED 0x00000400u
#define DR7_WRITABLE 0xffff23ffu

/* The register meant by n (4 and 5 are 6 and 7 without CR4.DE), or a fault. */
static bool debug_register(struct cpu *cpu, unsigned *n) {
    if (*n > 7 || ((*n == 4 || *n == 5) && (cpu->cr4 & CR4_DE)))
        return cpu_fault(cpu, VEC_UD);
    if (!rc_is_cpl0(cpu))
        return false;
    if (cpu->dr[7] & DR7_GD) {
        cpu->dr[6] |= DR6_BD;
        return cpu_fault(cpu, VEC_DB);
    }
    if (*n == 4 || *n == 5)
        *n += 2;
    return true;
}

bool rc_write_dr(struct cpu *cpu, unsigned n, u32 value) {
    if (!debug_register(cpu, &n))
        return false;
    if (n == 6)
        value = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (n == 7)
        value = (value & DR7_WRITABLE) | DR7_FIXED;
    cpu->dr[n] = value;
    return true;
}

bool rc_read_dr(struct cpu *cpu, unsigned n, u32 *value) {
    if (!debug_register(cpu, &n))
        return false;
    *value = cpu->dr[n];
    return true;
}

/* ---- Counters: SDM volume 2, "RDTSC", "RDPMC" ---- */

bool rc_rdtsc(struct cpu *cpu) {
    if (unlikely((cpu->cr4 & CR4_TSD) && cpu->cpl != 0))
        return rc_gp0(cpu);
    u64 tsc = rc_tsc(cpu);
    cpu->gpr[R_EAX] = (u32)tsc;
    cpu->gpr[R_EDX] = tsc >> 32;
    return true;
}

/* No model announces performance counters, so every index is invalid: #GP(0), whatever CR4.PCE
 * says. DEVIATION: of the processors that the models are named after, those of family 6 have
 * counters that no CPUID bit tells of (MSRs C1h and 186h on, RDPMC); here they are not there. */
bool rc_rdpmc(struct cpu *cpu) {
    return cpu_model_has_rdpmc(cpu->model) ? rc_gp0(cpu) : cpu_fault(cpu, VEC_UD);
}

/* ---- CPUID: SDM volume 2, "CPUID-CPU Identification" ---- */

#define F1_EDX_APIC BIT(9)
#define F1_ECX_OSXSAVE BIT(27)
#define CR4_OSXSAVE BIT(18)
#define APICBASE_ENABLE BIT(11)

/* Leaves whose data depend on ECX; the others ignore it. */
static bool has_subleaves(u32 leaf) {
    switch (leaf) {
    case 0x4:
    case 0x7:
    case 0xb:
    case 0xd:
    case 0x14:
    case 0x17:
        return true;
    default:
        return false;
    }
}

const struct cpuid_leaf *rc_find_leaf(const struct cpu_model *model, u32 leaf, u32 subleaf) {
    for (unsigned i = 0; i < model->count; i++) {
        const struct cpuid_leaf *l = &model->leaf[i];
        if (l->leaf == leaf && (!has_subleaves(leaf) || l->subleaf == subleaf))
            return l;
    }
    return NULL;
}

/* Leaves beyond the end of their range answer like the highest basic leaf. */
static u32 existing_leaf(const struct cpu_model *model, u32 leaf) {
    u32 max = model->max_basic;
    if (leaf >= 0x80000000u)
        max = model->max_extended;
    else if (leaf >= 0x40000000u)
        max = model->max_hypervisor;
    return leaf <= max ? leaf : model->max_basic;
}

void rc_cpuid(struct cpu *cpu) {
    const struct cpu_model *model = cpu->model;
    u32 leaf = existing_leaf(model, (u32)cpu->gpr[R_EAX]);
    const struct cpuid_leaf *l = rc_find_leaf(model, leaf, (u32)cpu->gpr[R_ECX]);
    struct cpuid_leaf out = l ? *l : (struct cpuid_leaf){0};
    if (leaf == 1) {
        if (!(cpu->msr_apicbase & APICBASE_ENABLE))
            out.edx &= ~F1_EDX_APIC;
        out.ecx &= ~F1_ECX_OSXSAVE;
        if (cpu->cr4 & CR4_OSXSAVE)
            out.ecx |= F1_ECX_OSXSAVE;
    }
    cpu->gpr[R_EAX] = out.eax;
    cpu->gpr[R_EBX] = out.ebx;
    cpu->gpr[R_ECX] = out.ecx;
    cpu->gpr[R_EDX] = out.edx;
}

/* ---- Ports: SDM volume 1, section 18.5 "Protected-Mode I/O" ---- */

#define TSS_IOMAP_OFFSET 0x66

bool rc_check_io(struct cpu *cpu, u16 port, unsigned bytes) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    u64 map, bits;
    if (!cpu_protected(cpu))
        return true;
    if (likely(!cpu_v86(cpu) && cpu->cpl <= (cpu->eflags >> IOPL_SHIFT & 3)))
        return true;
    if ((tr->attr & ATTR_NULL) || !(tr->attr & SYS_32) || tr->limit < TSS_IOMAP_OFFSET + 1)
        return rc_gp0(cpu);
    if (!rc_read_sys(cpu, tr->base + TSS_IOMAP_OFFSET, &map, 2))
        return false;
    u32 offset = (u32)map + port / 8u; /* two bytes are always read: the access may straddle them */
    if (offset + 1 > tr->limit)
        return rc_gp0(cpu);
    if (!rc_read_sys(cpu, tr->base + offset, &bits, 2))
        return false;
    u32 mask = (BIT(bytes) - 1) << (port & 7);
    return !(bits & mask) || rc_gp0(cpu);
}
