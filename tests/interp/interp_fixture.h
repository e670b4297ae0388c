/*
 * interp_fixture.h: a guest of 16 MiB in flat 32-bit protected mode without paging, whose code is a
 * byte string at CODE_BASE. Each test sets registers, runs, and looks.
 */
#ifndef RINGFOLD_TESTS_INTERP_FIXTURE_H
#define RINGFOLD_TESTS_INTERP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "interp/interp.h"
#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

#define RAM_BYTES (16u << 20)
#define DATA_BASE 0x00800000u
#define CODE_BASE 0x00810000u
#define STACK_TOP 0x00828000u
#define IDT_BASE 0x00002000u
#define GDT_BASE 0x00003000u

/* What the last port accesses were. */
struct test_ports {
    u16 port;
    u32 value;
    unsigned bytes, reads, writes;
};

struct guest {
    struct cpu *cpu;
    struct interp *it;
    struct cpu_model model;
    struct cpu_bus bus;
    struct test_ports ports;
    u64 tsc;
};

static inline u32 test_io_read(void *opaque, u16 port, unsigned bytes) {
    struct test_ports *p = &((struct guest *)opaque)->ports;
    p->port = port;
    p->bytes = bytes;
    return 0x11223340u + p->reads++;
}
static inline void test_io_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    struct test_ports *p = &((struct guest *)opaque)->ports;
    *p = (struct test_ports){port, value, bytes, p->reads, p->writes + 1};
}
static inline u64 test_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    (void)opaque, (void)bytes;
    return addr.v;
}
static inline void test_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)addr, (void)value, (void)bytes;
}
static inline u64 test_tsc(void *opaque) {
    return ((struct guest *)opaque)->tsc += 100;
}

/* Flat segments at the given CPL, interrupts off, ESP at STACK_TOP, EIP at CODE_BASE. */
static inline void guest_reset(struct guest *g, unsigned cpl) {
    struct cpu *cpu = g->cpu;
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
    cpu->cpl = (u8)cpl;
    u32 dpl = cpl << ATTR_DPL_SHIFT;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++) {
        bool code = s == SEG_CS;
        cpu->seg[s] = (struct segment){.selector = (u16)((code ? 8 : 16) + 16 * (cpl == 3) + cpl),
                                       .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB |
                                               ATTR_G | dpl | (code ? ATTR_CODE : 0),
                                       .limit = 0xffffffff};
    }
    cpu->gdtr = (struct table_register){GDT_BASE, 0x3f};
    cpu->idtr = (struct table_register){IDT_BASE, 0x7ff};
    cpu->gpr[R_ESP] = STACK_TOP;
    cpu->eip = CODE_BASE;
    cpu->eflags = F_FIXED;
    mmu_mode_changed(cpu);
}

static inline void guest_create(struct guest *g) {
    struct mmu_error err;
    memset(g, 0, sizeof *g);
    g->cpu = cpu_create();
    assert_non_null(g->cpu);
    g->bus = (struct cpu_bus){.io_read = test_io_read,
                              .io_write = test_io_write,
                              .mmio_read = test_mmio_read,
                              .mmio_write = test_mmio_write,
                              .tsc = test_tsc,
                              .opaque = g};
    g->model = (struct cpu_model){
        .signature = 0x106ca, .f1_edx = 0xffffffff, .f1_ecx = 0xffffffff, .cr4_allowed = ~0u};
    g->cpu->bus = &g->bus;
    g->cpu->model = &g->model;
    g->cpu->mmu = mmu_create(RAM_BYTES, &err);
    assert_non_null(g->cpu->mmu);
    g->it = interp_create();
    assert_non_null(g->it);
    guest_reset(g, 0);
}

static inline void guest_destroy(struct guest *g) {
    interp_destroy(g->it);
    mmu_destroy(g->cpu->mmu);
    cpu_destroy(g->cpu);
}

static inline u8 *guest_at(struct guest *g, u32 gpa) {
    return mmu_ram(g->cpu->mmu) + gpa;
}

/* Puts code at CODE_BASE; a string literal, its final NUL left out. */
#define GUEST_CODE(g, literal) memcpy(guest_at(g, CODE_BASE), literal, sizeof(literal) - 1)
/* The same, and one step over it from CODE_BASE. */
#define STEP(g, literal)                                                                           \
    (GUEST_CODE(g, literal), (g)->cpu->eip = CODE_BASE, interp_step((g)->it, (g)->cpu))

/* setup and teardown for cmocka */
static inline int setup(void **state) {
    static struct guest g;
    guest_create(&g);
    *state = &g;
    return 0;
}
static inline int teardown(void **state) {
    guest_destroy(*state);
    return 0;
}
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
