/*
 * target_privilege.c: any descriptors, gates and TSSs under everything that changes privilege:
 * segment loads, far transfers, interrupts, IRET, SYSENTER, task switches, control registers. A
 * failed operation changes nothing (task switches and page tables' A and D bits aside), a
 * successful one leaves privilege consistent.
 *
 * Input: operations: a byte of kind and its operands; some of them change the tables.
 */
#include "target.h"

#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

enum {
    RAM_BYTES = 2 << 20,
    GDT = 0x1000,
    LDT = 0x1800,
    IDT = 0x2000,
    TSS = 0x3000, /* four, 256 bytes each */
    TABLES = 0x4000,
    STACK0 = 0x9000,
    STACK3 = 0xa000,
    GDT_ENTRIES = 16
};

static u64 a_tsc(void *opaque) {
    return ++*(u64 *)opaque;
}

static struct cpu *the_cpu(void) {
    static struct cpu *cpu;
    static u64 tsc;
    static struct cpu_model model = {.max_basic = 1, .has_nx = true, .f1_edx = 0xbfe9fbff};
    static struct cpu_bus bus = {.tsc = a_tsc, .opaque = &tsc};
    struct mmu_error err;
    if (cpu)
        return cpu;
    cpu = cpu_create();
    CLAIM(cpu);
    model.cr4_allowed = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_UMIP |
                        CR4_SMEP | CR4_SMAP;
    cpu->model = &model;
    cpu->bus = &bus;
    cpu->mmu = mmu_create(RAM_BYTES, &err);
    CLAIM(cpu->mmu);
    return cpu;
}

static u64 descriptor(u32 base, u32 limit, u32 type, u32 flags) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static void default_tables(u8 *ram) {
    u64 *gdt = (u64 *)(ram + GDT);
    memset(ram, 0, 0x10000);
    gdt[1] = descriptor(0, 0xfffff, 0x9b, 0xc);
    gdt[2] = descriptor(0, 0xfffff, 0x93, 0xc);
    gdt[3] = descriptor(0, 0xfffff, 0xfb, 0xc);
    gdt[4] = descriptor(0, 0xfffff, 0xf3, 0xc);
    for (u32 i = 0; i < 4; i++)
        gdt[5 + i] = descriptor(TSS + 256 * i, 0x67, i == 3 ? 0x81 : 0x89, 0);
    gdt[9] = descriptor(LDT, 0x3f, 0x82, 0);
    gdt[10] = 0x0000ec0000080000ull | 0x1000;    /* call gate */
    gdt[11] = 0x0000e50000300000ull;             /* task gate */
    gdt[12] = descriptor(0, 0xffff, 0x9b, 0);    /* 16-bit code */
    gdt[13] = descriptor(0, 0xffff, 0x93, 0);    /* 16-bit data */
    gdt[14] = descriptor(0, 0xfffff, 0x9f, 0xc); /* conforming */
    gdt[15] = descriptor(0, 0xfffff, 0xbb, 0xc); /* ring 1 */
    for (u32 v = 0; v < 256; v++)
        store64(ram + IDT + 8 * v, 0x0000ee0000080000ull | 0x1000);
    for (u32 i = 0; i < 4; i++) {
        u8 *tss = ram + TSS + 256 * i;
        store32(tss + 4, STACK0);
        store32(tss + 8, 0x10);
        store32(tss + 0x1c, TABLES);
        store32(tss + 0x24, F_FIXED);
        store32(tss + 0x38, STACK0 - 0x200);
        for (u32 s = 0; s < 6; s++)
            store32(tss + 0x48 + 4 * s, s == SEG_CS ? 8 : 0x10);
    }
    store32(ram + TABLES, (TABLES + PAGE_BYTES) | 7);
    for (u32 i = 0; i < 1024; i++)
        store32(ram + TABLES + PAGE_BYTES + 4 * i, (i << 12) % RAM_BYTES | 7);
}

static void start(struct cpu *cpu, u8 how) {
    default_tables(mmu_ram(cpu->mmu));
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE | (how & 1 ? CR0_PG | CR0_WP : 0);
    cpu->cr3 = TABLES;
    cpu->gdtr = (struct table_register){GDT, 8 * GDT_ENTRIES - 1};
    cpu->idtr = (struct table_register){IDT, 0x7ff};
    cpu->sysenter_cs = 8;
    cpu->sysenter_esp = STACK0;
    mmu_mode_changed(cpu);
    CLAIM(rc_ltr(cpu, 0x28) && rc_lldt(cpu, 0x48));
    CLAIM(rc_load_segment(cpu, SEG_SS, 0x10) && rc_far_jump(cpu, 8, 0x100, 4, 0));
    cpu->gpr[R_ESP] = STACK0 - 0x100;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        if (s != SEG_CS && s != SEG_SS)
            CLAIM(rc_load_segment(cpu, (enum seg)s, 0x20));
    if (how & 2) {
        cpu->gpr[R_ECX] = STACK3;
        CLAIM(rc_sysexit(cpu));
    }
    if (how & 4) {
        cpu->eflags |= F_VM;
        cpu->cpl = 3;
        for (unsigned s = SEG_ES; s <= SEG_GS; s++)
            CLAIM(s == SEG_CS || rc_load_segment(cpu, (enum seg)s, 0x100));
        cpu->seg[SEG_CS] = cpu->seg[SEG_DS];
    }
}

/* ---- Operations ---- */

static void change_memory(struct cpu *cpu, struct input *in, u8 kind) {
    u8 *ram = mmu_ram(cpu->mmu);
    switch (kind & 7) {
    case 0:
        store64(ram + GDT + 8 * (take8(in) % GDT_ENTRIES), take(in, 8));
        break;
    case 1:
        store64(ram + IDT + 8 * take8(in), take(in, 8));
        break;
    case 2:
        store32(ram + TSS + (take16(in) % 1020), take32(in));
        break;
    case 3:
        store64(ram + LDT + 8 * (take8(in) % 8), take(in, 8));
        break;
    case 4: {
        u32 page = take8(in);
        store32(ram + TABLES + PAGE_BYTES + 4 * page, take32(in));
        mmu_invlpg(cpu, GLIN(page << 12));
        break;
    }
    case 5:
        ram[GDT + take8(in) % (8 * GDT_ENTRIES)] ^= (u8)BIT(take8(in) & 7);
        break;
    case 6: {
        u32 at = ((u32)cpu->gpr[R_ESP] & 0xffff) + 4 * (take8(in) & 15);
        store32(ram + at, take32(in));
        break;
    }
    default:
        cpu->gpr[kind >> 3 & 7] = take32(in);
    }
}

static void change_flags(struct cpu *cpu, u32 value) {
    u32 fixed = F_VM | F_RF;
    cpu->eflags = (cpu->eflags & fixed) | (value & F_ALL & ~fixed) | F_FIXED;
}

static bool transfer(struct cpu *cpu, struct input *in, u8 kind) {
    unsigned op = kind & 1 ? 2 : 4;
    u16 selector = take16(in);
    u32 offset = take32(in), value;
    bool ok;
    switch (kind >> 1 & 15) {
    case 0:
        return rc_load_segment(
            cpu, (const enum seg[]){SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS}[offset % 5], selector);
    case 1:
        return rc_far_jump(cpu, selector, offset, op, 1);
    case 2:
        return rc_far_call(cpu, selector, offset, op, 1);
    case 3:
        return rc_far_return(cpu, op, offset & 63);
    case 4:
        return rc_iret(cpu, op, 1);
    case 5:
        return rc_deliver(cpu, (u8)selector, (enum rc_event)(offset % 6), offset & 8, 0x18, 1);
    case 6:
        return rc_lar(cpu, selector, &ok, &value);
    case 7:
        return rc_lsl(cpu, selector, &ok, &value);
    case 8:
        return rc_verify(cpu, selector, kind & 1, &ok);
    case 9:
        return kind & 1 ? rc_sysenter(cpu) : rc_sysexit(cpu);
    case 10:
        return rc_popf(cpu, offset, op);
    case 11:
        return kind & 1 ? rc_push(cpu, offset, 4) : rc_pop(cpu, &value, 4);
    case 12:
        return rc_check_io(cpu, selector, BIT(offset % 3));
    case 13:
        return kind & 1 ? rc_fast_int(cpu, (u8)selector, 1) : rc_fast_iret(cpu, 1);
    case 14:
        return rc_task_switch(cpu, selector, (enum rc_task_cause)(offset % 4), 1, kind & 1, 4);
    default:
        return kind & 1 ? rc_sti(cpu) : rc_cli(cpu);
    }
}

/* At CPL 0, as the interpreter checks before. */
static bool privileged(struct cpu *cpu, struct input *in, u8 kind) {
    u32 value = take32(in);
    if (cpu->cpl != 0)
        return rc_require_cpl0(cpu);
    switch (kind & 7) {
    case 0:
        return rc_lldt(cpu, (u16)value);
    case 1:
        return rc_ltr(cpu, (u16)value);
    case 2:
        return rc_write_cr(cpu, 0, value | (value & 1 ? 0 : CR0_PE));
    case 3:
        return rc_write_cr(cpu, 3, value);
    case 4:
        return rc_write_cr(cpu, 4, value);
    case 5:
        return rc_lmsw(cpu, (u16)value);
    case 6:
        return kind & 8 ? rc_rdmsr(cpu) : rc_wrmsr(cpu);
    default:
        return rc_write_dr(cpu, kind >> 3 & 7, value);
    }
}

/* ---- Claims ---- */

/* SYSEXIT leaves the data segments as they are: SDM volume 2, SYSEXIT. */
static void claim_consistent(const struct cpu *cpu, bool sysexit) {
    const struct segment *cs = &cpu->seg[SEG_CS], *ss = &cpu->seg[SEG_SS];
    CLAIM((cpu->eflags & F_FIXED) && !(cpu->eflags & ~(u32)F_ALL));
    if (!cpu_protected(cpu)) {
        CLAIM(cpu->cpl == 0);
        return;
    }
    if (cpu_v86(cpu)) {
        CLAIM(cpu->cpl == 3 && cs->base == (u32)cs->selector << 4);
        return;
    }
    CLAIM((cs->selector & 3) == cpu->cpl && (ss->selector & 3) == cpu->cpl);
    CLAIM((ss->attr >> ATTR_DPL_SHIFT & 3) == cpu->cpl || (ss->attr & ATTR_NULL));
    CLAIM((cs->attr & ATTR_CODE) && !(cs->attr & ATTR_NULL));
    for (unsigned s = SEG_ES; s <= SEG_GS && !sysexit; s++) {
        const struct segment *d = &cpu->seg[s];
        bool conforming = (d->attr & (ATTR_CODE | ATTR_C)) == (ATTR_CODE | ATTR_C);
        if (s != SEG_CS && s != SEG_SS && !(d->attr & ATTR_NULL) && !conforming)
            CLAIM((d->attr >> ATTR_DPL_SHIFT & 3u) >= cpu->cpl);
    }
}

static void claim_unchanged(const struct cpu *now, const struct cpu *before) {
    CLAIM(now->eip == before->eip && now->eflags == before->eflags && now->cpl == before->cpl);
    CLAIM(!memcmp(now->gpr, before->gpr, sizeof now->gpr));
    CLAIM(!memcmp(now->seg, before->seg, sizeof now->seg));
    CLAIM(now->cr0 == before->cr0 && now->cr3 == before->cr3 && now->cr4 == before->cr4);
    CLAIM(!memcmp(now->pdptr, before->pdptr, sizeof now->pdptr));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct input in = input_of(data, bytes);
    struct cpu *cpu = the_cpu();
    static struct cpu before;
    bool sysexit = false;
    start(cpu, take8(&in));
    for (unsigned n = 0; n < 100 && input_left(&in) && !cpu->shutdown; n++) {
        u8 kind = take8(&in);
        if (kind < 0x60) {
            change_memory(cpu, &in, kind);
            continue;
        }
        if (kind < 0x68) {
            change_flags(cpu, take32(&in));
            continue;
        }
        before = *cpu;
        cpu->cr0 &= ~CR0_TS;
        bool ok = kind < 0x80 ? privileged(cpu, &in, kind) : transfer(cpu, &in, kind);
        sysexit |= ok && kind >= 0x80 && (kind & 0x1f) == 18;
        bool switched = cpu->cr0 & CR0_TS; /* also by MOV CR0 and LMSW */
        cpu->cr0 |= before.cr0 & CR0_TS;
        if (!cpu_protected(cpu))
            return 0;
        if (ok) {
            claim_consistent(cpu, sysexit);
            continue;
        }
        if (!switched) {
            before.nmi_blocked = cpu->nmi_blocked;
            claim_unchanged(cpu, &before);
        }
        rc_deliver_fault(cpu);
        if (!cpu->shutdown)
            claim_consistent(cpu, sysexit);
    }
    return 0;
}
