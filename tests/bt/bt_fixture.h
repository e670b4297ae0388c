/*
 * bt_fixture.h: a guest of 8 MiB in flat 32-bit protected mode with a translator attached. A test
 * puts machine code into RAM as a hex string, runs it to its HLT (which translated code hands to
 * the emulator) and looks at the state.
 */
#ifndef RINGFOLD_TESTS_BT_FIXTURE_H
#define RINGFOLD_TESTS_BT_FIXTURE_H

#include "bt/bt_internal.h"
#include "ringcomp/ringcomp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM_BYTES (8u << 20)
#define CODE 0x00200000u
#define DATA 0x00300000u
#define STACK_TOP 0x00400000u
#define PAGE_DIRECTORY 0x1000u
#define PAGE_TABLES 0x2000u /* one per 4 MiB of RAM */
#define GDT_AT 0x8000u
#define IDT_AT 0x9000u
#define KERNEL_PAGE (PTE_P | PTE_W | PTE_A | PTE_D)
#define USER_PAGE (KERNEL_PAGE | PTE_U)

struct world {
    struct cpu *cpu;
    struct bt *bt;
    u8 *ram;
};

static inline struct segment flat_segment(u16 selector, bool code, unsigned dpl) {
    return (struct segment){.selector = (u16)(selector | dpl),
                            .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G |
                                    (code ? (u32)ATTR_CODE : 0) | dpl << ATTR_DPL_SHIFT,
                            .limit = 0xffffffff};
}

/* Flat segments of the ring: 8 and 10h for ring 0, 18h and 20h for ring 3. */
static inline void set_cpl(struct world *w, u8 cpl) {
    w->cpu->cpl = cpl;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        w->cpu->seg[s] =
            flat_segment((u16)((s == SEG_CS ? 8 : 16) + (cpl == 3 ? 16 : 0)), s == SEG_CS, cpl);
}

/* A descriptor: flat, code or data, of the given privilege. */
static inline u64 flat_descriptor(bool code, unsigned dpl) {
    return 0x00cf93000000ffffull | (code ? 0x080000000000ull : 0) | (u64)dpl << 45;
}

static inline void default_test_config(struct bt_config *config) {
    bt_config_default(config);
    config->hot_threshold = 0;
    config->cache_bytes = 2 << 20;
    config->verify = true;
}

static inline void world_create(struct world *w, const struct bt_config *config) {
    struct bt_config defaults;
    struct mmu_error err;
    char text[160];
    default_test_config(&defaults);
    w->cpu = cpu_create();
    assert_non_null(w->cpu);
    w->cpu->mmu = mmu_create(RAM_BYTES, &err);
    assert_non_null(w->cpu->mmu);
    w->ram = mmu_ram(w->cpu->mmu);
    cpu_reset(w->cpu);
    w->cpu->cr0 = CR0_PE | CR0_NE | CR0_ET | CR0_WP;
    w->cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    set_cpl(w, 0);
    for (unsigned i = 1; i < 5; i++)
        store64(w->ram + GDT_AT + 8 * i, flat_descriptor(i & 1, i > 2 ? 3 : 0));
    w->cpu->gdtr = (struct table_register){GDT_AT, 0x7f};
    w->cpu->idtr = (struct table_register){IDT_AT, 0x7ff};
    w->cpu->gpr[R_ESP] = STACK_TOP;
    w->cpu->eip = CODE;
    w->bt = bt_create(w->cpu, config ? config : &defaults, text, sizeof text);
    if (!w->bt)
        fail_msg("%s", text);
}

static inline void world_destroy(struct world *w) {
    const char *wrong = mmu_validate(w->cpu);
    if (wrong)
        fail_msg("%s", wrong);
    bt_destroy(w->bt);
    mmu_destroy(w->cpu->mmu);
    cpu_destroy(w->cpu);
}

static inline unsigned hex_bytes(u8 *out, const char *hex) {
    unsigned n = 0;
    for (char *end; *hex; hex = end) {
        u8 byte = (u8)strtoul(hex, &end, 16);
        if (end == hex)
            break;
        out[n++] = byte;
    }
    return n;
}

/* Machine code at a physical address; the address behind it. */
static inline u32 put(struct world *w, u32 at, const char *hex) {
    return at + hex_bytes(w->ram + at, hex);
}
static inline u32 put8(struct world *w, u32 at, u8 value) {
    w->ram[at] = value;
    return at + 1;
}
static inline u32 put32(struct world *w, u32 at, u32 value) {
    store32(w->ram + at, value);
    return at + 4;
}
/* An opcode byte and the rel32 to target. */
static inline u32 put_branch(struct world *w, u32 at, u8 opcode, u32 target) {
    at = put8(w, at, opcode);
    return put32(w, at, target - (at + 4));
}

static inline u32 reg(const struct world *w, enum gpr r) {
    return (u32)w->cpu->gpr[r];
}

/* Runs from eip to a HLT, which must be where the code stops. */
static inline void run_to_hlt(struct world *w, u32 eip) {
    w->cpu->eip = eip;
    enum bt_exit exit = bt_run(w->bt);
    if (exit != BT_EXIT_EMULATE)
        fail_msg("exit %d at %08x", exit, w->cpu->eip);
    struct mmu_xlat x;
    assert_true(mmu_probe(w->cpu, GLIN(w->cpu->eip), &x));
    if (w->ram[x.gpa.v] != 0xf4)
        fail_msg("stopped at %08x, opcode %02x", w->cpu->eip, w->ram[x.gpa.v]);
}

static inline void expect_exit(struct world *w, enum bt_exit expected, u32 eip) {
    enum bt_exit exit = bt_run(w->bt);
    if (exit != expected || w->cpu->eip != eip)
        fail_msg("exit %d at %08x, expected %d at %08x", exit, w->cpu->eip, expected, eip);
}

/* ---- paging ---- */

static inline u32 pte_at(u32 lin) {
    return PAGE_TABLES + (lin >> 12) * 4;
}
static inline void map_page(struct world *w, u32 lin, u32 entry) {
    store32(w->ram + pte_at(lin), entry);
}
/* Turns paging on, all RAM mapped to itself with the given rights. */
static inline void enable_paging(struct world *w, u32 rights) {
    for (u32 i = 0; i < RAM_BYTES >> 22; i++)
        store32(w->ram + PAGE_DIRECTORY + 4 * i, (PAGE_TABLES + i * PAGE_BYTES) | USER_PAGE);
    for (u32 lin = 0; lin < RAM_BYTES; lin += PAGE_BYTES)
        map_page(w, lin, lin | rights);
    w->cpu->cr3 = PAGE_DIRECTORY;
    w->cpu->cr0 |= CR0_PG;
    mmu_mode_changed(w->cpu);
}
static inline void remap_page(struct world *w, u32 lin, u32 entry) {
    map_page(w, lin, entry);
    mmu_invlpg(w->cpu, GLIN(lin));
}

#endif
