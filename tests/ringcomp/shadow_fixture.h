/*
 * shadow_fixture.h: a guest with a GDT like Linux's and a program in ring 3, and the tables that
 * the processor would use beneath it.
 */
#ifndef RINGFOLD_TESTS_SHADOW_FIXTURE_H
#define RINGFOLD_TESTS_SHADOW_FIXTURE_H

#include "rc_fixture.h"

#include <string.h>

#include "metal/metal_contract.h"
#include "ringcomp/shadow.h"

_Static_assert(RC_SHADOW_GDT_FREE == METAL_CS0 / 8, "the monitor's entries");

/* A GDT like Linux's: 32 entries in a supervisor page of their own. */
enum {
    LGDT = 0x6000,
    LLDT = 0x7000,
    L_ENTRIES = 32,
    L_TLS = 0x33,
    L_KCODE = 0x60,
    L_KDATA = 0x68,
    L_UCODE = 0x73,
    L_UDATA = 0x7b,
    L_TSS = 0x80,
    L_LDT = 0x88,
    L_FREE = 0x50, /* an entry for tests to fill */
    BIG = 0x100000 /* 64 pages for large tables; linear equals physical at first */
};
#define UDATA_ATTR (DATA_ATTR | ATTR_A | DPL(3))
#define UCODE_ATTR (CODE_ATTR | ATTR_A | DPL(3))
#define MONITOR_CS0 0x00af9b000000ffffull
#define MONITOR_SS0 0x00cf93000000ffffull

struct rig {
    struct cpu *cpu;
    struct rc_shadow s;
    u64 gdt[RC_SHADOW_ENTRIES], ldt[RC_SHADOW_ENTRIES];
};

static inline void put_linux_gdt(struct mmu *mmu) {
    memset(mmu_ram(mmu) + LGDT, 0, PAGE_BYTES);
    put_desc(mmu, LGDT + (L_TLS & ~7), 0x20000, FLAT_LIMIT, UDATA_ATTR);
    put_desc(mmu, LGDT + L_KCODE, 0, FLAT_LIMIT, CODE_ATTR | ATTR_A);
    put_desc(mmu, LGDT + L_KDATA, 0, FLAT_LIMIT, DATA_ATTR | ATTR_A);
    put_desc(mmu, LGDT + (L_UCODE & ~7), 0, FLAT_LIMIT, UCODE_ATTR);
    put_desc(mmu, LGDT + (L_UDATA & ~7), 0, FLAT_LIMIT, UDATA_ATTR);
    put_desc(mmu, LGDT + L_TSS, TSS_A, 103, ATTR_P | 11);
    put_desc(mmu, LGDT + L_LDT, LLDT, 0xff, ATTR_P | 2);
}

/* A supervisor page for each table, a program in ring 3 with a thread pointer in GS. */
static inline struct rig *boot(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    struct rig *r = aligned_alloc(4096, ALIGN_UP(sizeof *r, 4096));
    memset(r, 0, sizeof *r);
    r->cpu = cpu;
    r->gdt[METAL_CS0 / 8] = MONITOR_CS0;
    r->gdt[METAL_SS0 / 8] = MONITOR_SS0;
    enable_paging(cpu);
    put_linux_gdt(cpu->mmu);
    set_page(cpu, LGDT, 3);
    set_page(cpu, LLDT, 3);
    for (u32 page = 0; page < 64; page++)
        set_page(cpu, BIG + page * PAGE_BYTES, 3);
    cpu->gdtr = (struct table_register){.base = LGDT, .limit = L_ENTRIES * 8 - 1};
    assert_true(rc_lldt(cpu, 0));
    cpu->sysenter_cs = L_KCODE;
    cpu->gpr[R_ECX] = STACK3;
    cpu->gpr[R_EDX] = 0x1000;
    assert_true(rc_sysexit(cpu));
    assert_true(rc_load_segment(cpu, SEG_DS, L_UDATA));
    assert_true(rc_load_segment(cpu, SEG_ES, L_UDATA));
    assert_true(rc_load_segment(cpu, SEG_FS, 0));
    assert_true(rc_load_segment(cpu, SEG_GS, L_TLS));
    cpu->eflags |= F_IF;
    cpu->cr4 |= CR4_OSFXSR;
    assert_true(rc_shadow_init(&r->s, r->gdt, r->ldt));
    return r;
}

static inline u64 desc_with(u32 attr) {
    return (u64)(attr & 0xf0ff) << 40 | 0x1234567;
}

/* What may stand in the tables, whatever the guest's hold. */
static inline void assert_entry_is_harmless(u64 raw) {
    if (!raw)
        return;
    bool code = raw & BIT64(43), conforming = code && (raw & BIT64(42));
    assert_true(raw & BIT64(44)); /* not a system descriptor */
    assert_true(raw & BIT64(47));
    assert_true(raw & BIT64(40)); /* the processor never writes it */
    assert_false(raw & BIT64(53));
    assert_true(conforming || (raw >> 45 & 3) == 3);
}

static inline void assert_tables_are_harmless(const struct rig *r) {
    assert_int_equal(r->gdt[0], 0);
    for (u32 i = 0; i < RC_SHADOW_GDT_FREE; i++)
        if (r->gdt[i])
            assert_entry_is_harmless(r->gdt[i]);
    for (u32 i = 0; i < RC_SHADOW_ENTRIES; i++)
        if (r->ldt[i])
            assert_entry_is_harmless(r->ldt[i]);
    assert_true(r->gdt[METAL_CS0 / 8] == MONITOR_CS0 && r->gdt[METAL_SS0 / 8] == MONITOR_SS0);
}

#endif
