/*
 * rc_fixture.h: one CPU in 2 MiB of RAM with descriptor tables, TSSs and stacks at fixed places,
 * flat 32-bit protected mode, ring 0. With paging, linear equals physical and every page is a user
 * page, until a test says otherwise.
 */
#ifndef RINGFOLD_TESTS_RC_FIXTURE_H
#define RINGFOLD_TESTS_RC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

enum {
    GDT = 0x1000,
    LDT = 0x1800,
    IDT = 0x2000,
    TSS_A = 0x3000,
    TSS_B = 0x3400,
    TSS_16 = 0x3800,
    PAGE_DIRECTORY = 0x4000,
    PAGE_TABLE = 0x5000,
    STACK0 = 0x9000, /* tops, growing down in a page each */
    STACK1 = 0xa000,
    STACK3 = 0xc000,
    HANDLER = 0x12340
};

/* Selectors of the GDT. */
enum {
    KCODE = 0x08,
    KDATA = 0x10,
    UCODE = 0x1b,
    UDATA = 0x23,
    TASK_A = 0x28,
    TASK_B = 0x30,
    TASK_16 = 0x38,
    LDT_SEL = 0x40,
    CONFORMING = 0x48,
    EXPAND_DOWN = 0x50,
    STACK16 = 0x58,
    ABSENT = 0x60,
    CALL_GATE = 0x68, /* 32 bits, DPL 3, to KCODE:HANDLER, two parameters */
    CODE1 = 0x70,
    DATA1 = 0x78,
    EXEC_ONLY = 0x80,
    READ_ONLY = 0x8b,
    TASK_GATE = 0x93, /* DPL 3, to TASK_B */
    CALL_GATE16 = 0x98,
    USTACK16 = 0xa3,
    SMALL = 0xab, /* base 10000h, limit FFh, DPL 3 */
    CODE16 = 0xb0,
    UEXPAND_DOWN = 0xbb, /* limit 7FFFh: offsets from 8000h */
    GDT_END = 0xc0
};

static inline void put_desc(struct mmu *mmu, u32 at, u32 base, u32 limit, u32 attr) {
    u32 raw = limit > 0xfffff ? limit >> 12 : limit;
    if (limit > 0xfffff)
        attr |= ATTR_G;
    u32 lo = raw & 0xffff, hi = raw & 0xf0000;
    lo |= base << 16;
    hi |= (base >> 16 & 0xff) | (base & 0xff000000u) | (attr & 0xf0ff) << 8;
    store32(mmu_ram(mmu) + at, lo);
    store32(mmu_ram(mmu) + at + 4, hi);
}
/* A gate of that type; `extra` is a call gate's parameter count. */
static inline void put_gate(struct mmu *mmu, u32 at, unsigned type, unsigned dpl, u16 selector,
                            u32 offset, unsigned extra) {
    store32(mmu_ram(mmu) + at, (offset & 0xffff) | (u32)selector << 16);
    store32(mmu_ram(mmu) + at + 4, (offset & 0xffff0000u) | (0x80 | dpl << 5 | type) << 8 | extra);
}

#define DATA_ATTR (ATTR_P | ATTR_S | ATTR_W | ATTR_DB)
#define CODE_ATTR (ATTR_P | ATTR_S | ATTR_CODE | ATTR_R | ATTR_DB)
#define DPL(n) ((u32)(n) << ATTR_DPL_SHIFT)
#define FLAT_LIMIT 0xffffffffu

static inline void put_gdt(struct mmu *mmu) {
    put_desc(mmu, GDT + KCODE, 0, FLAT_LIMIT, CODE_ATTR);
    put_desc(mmu, GDT + KDATA, 0, FLAT_LIMIT, DATA_ATTR);
    put_desc(mmu, GDT + (UCODE & ~7), 0, FLAT_LIMIT, CODE_ATTR | DPL(3));
    put_desc(mmu, GDT + (UDATA & ~7), 0, FLAT_LIMIT, DATA_ATTR | DPL(3));
    put_desc(mmu, GDT + TASK_A, TSS_A, 0x3ff, ATTR_P | 9);
    put_desc(mmu, GDT + TASK_B, TSS_B, 103, ATTR_P | 9);
    put_desc(mmu, GDT + TASK_16, TSS_16, 43, ATTR_P | 1);
    put_desc(mmu, GDT + LDT_SEL, LDT, 0x1f, ATTR_P | 2);
    put_desc(mmu, GDT + CONFORMING, 0, FLAT_LIMIT, CODE_ATTR | ATTR_C);
    put_desc(mmu, GDT + EXPAND_DOWN, 0, 0xfff, DATA_ATTR | ATTR_E);
    put_desc(mmu, GDT + STACK16, 0, 0xffff, DATA_ATTR & ~ATTR_DB);
    put_desc(mmu, GDT + ABSENT, 0, 0xffff, (DATA_ATTR | DPL(3)) & ~ATTR_P);
    put_gate(mmu, GDT + CALL_GATE, 12, 3, KCODE, HANDLER, 2);
    put_desc(mmu, GDT + CODE1, 0, FLAT_LIMIT, CODE_ATTR | DPL(1));
    put_desc(mmu, GDT + DATA1, 0, FLAT_LIMIT, DATA_ATTR | DPL(1));
    put_desc(mmu, GDT + EXEC_ONLY, 0, FLAT_LIMIT, CODE_ATTR & ~ATTR_R);
    put_desc(mmu, GDT + (READ_ONLY & ~7), 0, FLAT_LIMIT, (DATA_ATTR | DPL(3)) & ~ATTR_W);
    put_gate(mmu, GDT + (TASK_GATE & ~7), 5, 3, TASK_B, 0, 0);
    put_gate(mmu, GDT + CALL_GATE16, 4, 3, KCODE, 0x2340, 1);
    put_desc(mmu, GDT + (USTACK16 & ~7), 0, 0xffff, (DATA_ATTR | DPL(3)) & ~ATTR_DB);
    put_desc(mmu, GDT + (SMALL & ~7), 0x10000, 0xff, DATA_ATTR | DPL(3));
    put_desc(mmu, GDT + CODE16, 0, 0xffff, CODE_ATTR & ~ATTR_DB);
    put_desc(mmu, GDT + (UEXPAND_DOWN & ~7), 0, 0x7fff, DATA_ATTR | DPL(3) | ATTR_E);
    put_desc(mmu, LDT + 8, 0x20000, 0xffff, DATA_ATTR | DPL(3)); /* selector 0Fh */
}

static u64 fixture_tsc(void *opaque) {
    return ++*(u64 *)opaque;
}

struct fixture {
    struct cpu *cpu;
    struct cpu_model model;
    struct cpu_bus bus;
    u64 tsc;
};

static inline u8 *ram(struct cpu *cpu, u32 at) {
    return mmu_ram(cpu->mmu) + at;
}
static inline u32 peek32(struct cpu *cpu, u32 at) {
    return load32(ram(cpu, at));
}
static inline void poke32(struct cpu *cpu, u32 at, u32 value) {
    store32(ram(cpu, at), value);
}

static inline void enter_ring(struct cpu *cpu, unsigned ring) {
    cpu->cpl = 0;
    assert_true(rc_load_segment(cpu, SEG_SS, KDATA));
    assert_true(rc_far_jump(cpu, KCODE, 0x100, 4, 0));
    cpu->gpr[R_ESP] = STACK0;
    if (ring == 3) {
        cpu->sysenter_cs = KCODE;
        cpu->gpr[R_ECX] = STACK3;
        cpu->gpr[R_EDX] = 0x1000;
        assert_true(rc_sysexit(cpu));
    }
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        if (s != SEG_CS && s != SEG_SS)
            assert_true(rc_load_segment(cpu, s, UDATA));
}

static inline int setup(void **state) {
    struct mmu_error err;
    struct fixture *f = calloc(1, sizeof *f);
    f->cpu = cpu_create();
    f->model = (struct cpu_model){.signature = 0x106ca,
                                  .max_basic = 10,
                                  .max_extended = 0x80000008u,
                                  .count = 5,
                                  .leaf = {{.leaf = 0, .eax = 10, .ebx = 0x756e6547},
                                           {.leaf = 1, .eax = 0x106ca, .edx = 0xbfe9fbff},
                                           {.leaf = 4, .subleaf = 0, .eax = 0x121},
                                           {.leaf = 10, .eax = 0xaaaa},
                                           {.leaf = 0x80000008u, .eax = 0x2024}},
                                  .cr4_allowed =
                                      CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR,
                                  .has_nx = true,
                                  .f1_edx = 0xbfe9fbff};
    f->bus = (struct cpu_bus){.tsc = fixture_tsc, .opaque = &f->tsc};
    struct cpu *cpu = f->cpu;
    cpu->model = &f->model;
    cpu->bus = &f->bus;
    cpu->mmu = mmu_create(2u << 20, &err);
    cpu_reset(cpu);
    put_gdt(cpu->mmu);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP;
    cpu->gdtr = (struct table_register){.base = GDT, .limit = GDT_END - 1};
    cpu->idtr = (struct table_register){.base = IDT, .limit = 0x7ff};
    poke32(cpu, TSS_A + 4, STACK0);
    poke32(cpu, TSS_A + 8, KDATA);
    poke32(cpu, TSS_A + 12, STACK1);
    poke32(cpu, TSS_A + 16, DATA1 | 1);
    assert_true(rc_ltr(cpu, TASK_A));
    assert_true(rc_lldt(cpu, LDT_SEL));
    enter_ring(cpu, 0);
    *state = f;
    return 0;
}

static inline int teardown(void **state) {
    struct fixture *f = *state;
    mmu_destroy(f->cpu->mmu);
    cpu_destroy(f->cpu);
    free(f);
    return 0;
}

/* Identity-maps the 2 MiB with 4-KiB user pages. */
static inline void enable_paging(struct cpu *cpu) {
    poke32(cpu, PAGE_DIRECTORY, PAGE_TABLE | 7);
    for (u32 i = 0; i < 512; i++)
        poke32(cpu, PAGE_TABLE + 4 * i, i << 12 | 7);
    cpu->cr3 = PAGE_DIRECTORY;
    u8 cpl = cpu->cpl;
    cpu->cpl = 0;
    assert_true(rc_write_cr(cpu, 0, cpu->cr0 | CR0_PG));
    cpu->cpl = cpl;
}
/* Replaces the rights of one page: 0 not present, 1 read-only supervisor, 3, 5, 7. */
static inline void set_page(struct cpu *cpu, u32 lin, u32 rights) {
    poke32(cpu, PAGE_TABLE + 4 * (lin >> 12), (lin & ~0xfffu) | rights);
    mmu_invlpg(cpu, GLIN(lin));
}

#define assert_fault(call, vec, code)                                                              \
    do {                                                                                           \
        assert_false(call);                                                                        \
        assert_int_equal(cpu->fault.vector, vec);                                                  \
        assert_true(cpu->fault.has_error);                                                         \
        assert_int_equal(cpu->fault.error, code);                                                  \
    } while (0)

/* Everything a failed operation must leave alone. */
static inline struct cpu snapshot(const struct cpu *cpu) {
    return *cpu;
}
static inline void assert_unchanged(const struct cpu *cpu, const struct cpu *before) {
    struct cpu now = *cpu;
    now.fault = before->fault;
    assert_memory_equal(&now, before, sizeof now);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
