/*
 * cpu.h: the architectural state of one guest CPU, as every module above base sees it.
 *
 * Outside translated code the state is complete: all flags are in eflags, all registers in gpr[].
 * Guest exceptions are ordinary data: a function that can raise one returns false and has filled
 * cpu->fault. The upper halves of the registers are reserved for 64-bit guests and are zero.
 */
#ifndef RINGFOLD_BASE_CPU_H
#define RINGFOLD_BASE_CPU_H

#include "base/base.h"

enum gpr { R_EAX, R_ECX, R_EDX, R_EBX, R_ESP, R_EBP, R_ESI, R_EDI };

/* Flags: Intel SDM volume 1, section 3.4.3 "EFLAGS Register". */
enum {
    F_CF = 1 << 0,
    F_FIXED = 1 << 1,
    F_PF = 1 << 2,
    F_AF = 1 << 4,
    F_ZF = 1 << 6,
    F_SF = 1 << 7,
    F_TF = 1 << 8,
    F_IF = 1 << 9,
    F_DF = 1 << 10,
    F_OF = 1 << 11,
    F_IOPL = 3 << 12,
    F_NT = 1 << 14,
    F_RF = 1 << 16,
    F_VM = 1 << 17,
    F_AC = 1 << 18,
    F_VIF = 1 << 19,
    F_VIP = 1 << 20,
    F_ID = 1 << 21,
    F_ARITH = F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF,
    F_ALL = 0x3f7fd7
};
#define IOPL_SHIFT 12

enum {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_ET = 1u << 4,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR0_AM = 1u << 18,
    CR0_NW = 1u << 29,
    CR0_CD = 1u << 30
};
#define CR0_PG 0x80000000u
enum {
    CR4_VME = 1u << 0,
    CR4_PVI = 1u << 1,
    CR4_TSD = 1u << 2,
    CR4_DE = 1u << 3,
    CR4_PSE = 1u << 4,
    CR4_PAE = 1u << 5,
    CR4_MCE = 1u << 6,
    CR4_PGE = 1u << 7,
    CR4_PCE = 1u << 8,
    CR4_OSFXSR = 1u << 9,
    CR4_OSXMMEXCPT = 1u << 10,
    CR4_UMIP = 1u << 11,
    CR4_SMEP = 1u << 20,
    CR4_SMAP = 1u << 21
};
enum { EFER_SCE = 1, EFER_NXE = 1 << 11 };

/* Debug registers: SDM volume 3, section 17.2 "Debug Registers". */
enum {
    DR6_BD = 1 << 13,
    DR6_BS = 1 << 14,
    DR6_BT = 1 << 15,
    DR7_LOCAL_ENABLES = 0x155, /* L0 to L3, LE */
    DR7_ANY_ENABLE = 0xff,     /* L0 to L3, G0 to G3 */
    DR7_GD = 1 << 13
};

/* Exception vectors: SDM volume 3, section 6.3 "Sources of Interrupts", table 6-1. */
enum vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19
};
/* Page-fault error code bits: SDM volume 3, section 4.7 "Page-Fault Exceptions". */
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

/* A guest exception, as data. */
struct guest_fault {
    u8 vector;
    bool has_error;
    u32 error;
    u32 cr2;
};

/* Segment registers in the order of their encoding in MOV Sreg; then the two system ones. */
enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* Attribute bits of a cached descriptor: descriptor bits 40-47 in bits 0-7, bits 52-55 in bits
 * 12-15 (the layout of a VMCS access-rights field); ATTR_NULL marks an unusable (null) register. */
enum {
    ATTR_TYPE = 0xf,
    ATTR_A = 1 << 0, /* code/data: accessed */
    ATTR_W = 1 << 1, /* data: writable; code: readable */
    ATTR_R = 1 << 1,
    ATTR_E = 1 << 2, /* data: expand down; code: conforming */
    ATTR_C = 1 << 2,
    ATTR_CODE = 1 << 3,
    ATTR_S = 1 << 4, /* code or data, not system */
    ATTR_DPL = 3 << 5,
    ATTR_P = 1 << 7,
    ATTR_AVL = 1 << 12,
    ATTR_L = 1 << 13,
    ATTR_DB = 1 << 14,
    ATTR_G = 1 << 15,
    ATTR_NULL = 1 << 16
};
#define ATTR_DPL_SHIFT 5
struct segment {
    u16 selector;
    u32 attr;
    u32 limit; /* in bytes, granularity applied: last valid offset (expand-up) */
    u32 base;
};
struct table_register {
    u32 base;
    u16 limit;
};

/* ---- CPUID policy: filled by the monitor's CPU model, read by ringcomp ---- */
struct cpuid_leaf {
    u32 leaf, subleaf;
    u32 eax, ebx, ecx, edx;
};
struct cpu_model {
    u32 signature; /* CPUID leaf 1 EAX */
    u32 max_basic, max_extended, max_hypervisor;
    unsigned count;
    struct cpuid_leaf leaf[40];
    u32 cr4_allowed; /* CR4 bits that may be set; others raise #GP */
    bool has_nx;
    u64 tsc_hz;     /* host TSC frequency, also reported in leaf 15h/16h where the model has them */
    u64 crystal_hz; /* core crystal clock, as leaf 15h has it: the local APIC timer's clock */
    /* Features that decide #UD, as CPUID leaf 1 EDX/ECX and 80000001h EDX/ECX images. */
    u32 f1_edx, f1_ecx, f7_ebx, x1_edx, x1_ecx;
};
static inline u32 cpu_model_family(const struct cpu_model *model) {
    return model->signature >> 8 & 15;
}
/* With the extended model number, which families 6 and 15 have. */
static inline u32 cpu_model_number(const struct cpu_model *model) {
    u32 family = cpu_model_family(model), extended = model->signature >> 12 & 0xf0;
    return (model->signature >> 4 & 15) | (family == 6 || family == 15 ? extended : 0);
}
/* RDPMC and CR4.PCE came with the Pentium Pro and the Pentium with MMX: SDM volume 2, "RDPMC". */
static inline bool cpu_model_has_rdpmc(const struct cpu_model *model) {
    u32 family = cpu_model_family(model);
    return family > 5 || (family == 5 && cpu_model_number(model) >= 4);
}

/* What became of a light access to a port (cpu_bus.io_light). */
enum cpu_io {
    CPU_IO_HEAVY, /* it is none: nothing happened, it is to be made by io_read or io_write */
    CPU_IO_DONE,
    CPU_IO_LEAVE /* done, and the monitor has something to look at before guest code goes on */
};

/* The bus to the devices, injected by the monitor so that nothing below it knows them. */
struct cpu_bus {
    u32 (*io_read)(void *opaque, u16 port, unsigned bytes);
    void (*io_write)(void *opaque, u16 port, u32 value, unsigned bytes);
    u64 (*mmio_read)(void *opaque, struct gpa addr, unsigned bytes);
    void (*mmio_write)(void *opaque, struct gpa addr, u64 value, unsigned bytes);
    u64 (*tsc)(void *opaque); /* guest's RDTSC before IA32_TSC adjustment */
    /* The MSRs that belong to the local APIC, after all checks that the CPU can make: reads or
     * writes *value; false: #GP(0). Also told of writes to IA32_TIME_STAMP_COUNTER, when they are
     * done. NULL: none of them is there, and IA32_APIC_BASE is a plain register. */
    bool (*msr)(void *opaque, u32 index, bool write, u64 *value);
    /* What RDRAND and RDSEED give. False: none to be had now. NULL: never. */
    bool (*random)(void *opaque, u64 *value);
    /* FERR# is asserted (told by each instruction that meets the error) or ends; returns IGNNE#.
     * NULL: nothing is connected. SDM volume 1, section 8.7.2 "MS-DOS Compatibility Sub-mode". */
    bool (*ferr)(void *opaque, bool asserted);
    void *opaque;
    /* IN or OUT of translated code, with the guest's x87 and SSE state in the registers: reads or
     * writes *value. NULL: every access is heavy. */
    enum cpu_io (*io_light)(void *opaque, u16 port, unsigned bytes, bool write, u32 *value);
};

struct mmu;
struct bt_vcpu;

#define CPU_MC_BANKS 5 /* machine-check banks of models that announce MCA */

/* Interrupt shadow after STI / MOV SS / POP SS: counts down by interp after each instruction. Above
 * it DR6's B0 to B3 of data breakpoints that were hit and wait to be reported, at the next boundary
 * of instructions that no MOV SS shadows: no interrupt comes before them. */
enum { SHADOW_STI = 1, SHADOW_SS = 2, SHADOW_DEBUG = 0xf0 };
#define SHADOW_DEBUG_SHIFT 4

struct cpu {
    u64 gpr[16];
    /* Private to the engine that runs this CPU: translated code reaches it at a fixed distance from
     * the registers above. */
    u8 engine_area[512];
    /* Guest x87/MMX/SSE state in FXSAVE64 layout, valid whenever C code runs. */
    _Alignas(64) u8 fx[512];
    u32 eip;
    u32 eflags; /* bit 1 always set */
    u8 cpl;
    u8 shadow;   /* SHADOW_* in force for the next instruction */
    bool ferr;   /* FERR# is asserted: CR0.NE=0, and an x87 instruction met an unmasked error */
    bool halted; /* HLT executed, or an x87 instruction is frozen: waiting for an interrupt */
    bool nmi_blocked;
    bool shutdown;   /* triple fault */
    bool a20_masked; /* physical address bit 20 is forced to 0: see mmu_set_a20 */
    struct segment seg[SEG_COUNT];
    struct table_register gdtr, idtr;
    u32 cr0, cr2, cr3, cr4;
    u32 dr[8];
    u64 efer;
    u64 pdptr[4]; /* PAE page-directory pointers, reloaded by CR3/CR0/CR4 writes only */
    /* MSRs */
    u32 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 tsc_offset; /* guest TSC = bus->tsc() + tsc_offset */
    u64 msr_pat, msr_misc_enable, msr_apicbase, msr_debugctl;
    u64 msr_mtrr_deftype, msr_mtrr_fixed[11], msr_mtrr_var[16];
    u64 msr_mcg_status, msr_mc_ctl[CPU_MC_BANKS];
    u32 msr_tsc_aux;

    struct guest_fault fault; /* valid after a function returned false */

    u64 insn_count; /* guest instructions completed (interp always; translated code with -icount) */

    const struct cpu_model *model;
    const struct cpu_bus *bus;
    struct mmu *mmu;
    void *owner; /* the monitor's VM; opaque to everyone below */
    /* Private to ringcomp's fast paths; empty (all zero) whenever nothing is known. */
    u64 ringcomp_area[40];
};

/* Allocates a zeroed CPU at the start of a page, followed by the safepoint page and the poison page
 * of the engine (CPU_SAFEPOINT_OFFSET, CPU_POISON_OFFSET; the latter is never accessible). Every
 * struct cpu that an engine runs comes from here. NULL when the host has no memory. */
struct cpu *cpu_create(void);
void cpu_destroy(struct cpu *cpu);
#define CPU_SAFEPOINT_OFFSET 4096
#define CPU_POISON_OFFSET 8192
#define CPU_BLOCK_BYTES (3 * PAGE_BYTES)

static inline bool cpu_fault(struct cpu *cpu, u8 vector) {
    cpu->fault = (struct guest_fault){.vector = vector};
    return false;
}
static inline bool cpu_fault_error(struct cpu *cpu, u8 vector, u32 error) {
    cpu->fault = (struct guest_fault){.vector = vector, .has_error = true, .error = error};
    return false;
}
static inline bool cpu_protected(const struct cpu *cpu) {
    return cpu->cr0 & CR0_PE;
}
static inline bool cpu_paging(const struct cpu *cpu) {
    return cpu->cr0 & CR0_PG;
}
/* The bits of MXCSR that may be set. Denormals-are-zeros came with SSE2: SDM volume 1, section
 * 11.6.6 "Guidelines for Writing to the MXCSR Register". */
static inline u32 cpu_mxcsr_mask(const struct cpu *cpu) {
    bool daz = !cpu->model || (cpu->model->f1_edx >> 26 & 1);
    return daz ? 0xffff : 0xffbf;
}
static inline bool cpu_v86(const struct cpu *cpu) {
    return cpu->eflags & F_VM;
}

/* State after power-on or INIT: SDM volume 3, section 9.1.1 "Processor State After Reset". Keeps
 * the engine area, model, bus, mmu and owner. */
void cpu_reset(struct cpu *cpu);
/* Registers in the layout of QEMU's "info registers". */
void cpu_dump(const struct cpu *cpu, void (*print)(void *, const char *line), void *opaque);

#endif
