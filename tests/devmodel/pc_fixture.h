/*
 * pc_fixture.h: a PC with a hand-driven clock, captured serial output and scripted serial input,
 * one per test. Tests talk to it through ports, as a guest does.
 */
#ifndef RINGFOLD_TESTS_DEVMODEL_PC_FIXTURE_H
#define RINGFOLD_TESTS_DEVMODEL_PC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "devmodel/dev.h"

#define PC_RAM_BYTES (64ull << 20)
#define PC_EPOCH_S 1704164645ll /* Tuesday 2024-01-02 03:04:05 UTC */
#define PC_TSC_HZ 2000000000ull
#define PC_APIC_HZ 100000000ull
#define US 1000ull
#define MS 1000000ull
#define SECOND 1000000000ull

struct pc_line {
    u8 sent[8192];
    size_t sent_bytes;
    const char *input;
    bool refuse; /* the back end takes nothing */
};

struct pc {
    u64 now_ns;
    i64 tsc_offset;         /* the time-stamp counter runs at PC_TSC_HZ */
    struct pc_line line[3]; /* COM1, COM2, debug console */
    u8 *ram;
    u64 dma_first, dma_bytes;
    struct machine_devices *m;
};

static inline u64 pc_now(void *opaque) {
    return ((struct pc *)opaque)->now_ns;
}

static inline u64 pc_tsc(void *opaque) {
    const struct pc *pc = opaque;
    return pc->now_ns * (PC_TSC_HZ / SECOND) + (u64)pc->tsc_offset;
}

static inline size_t pc_line_write(void *opaque, const u8 *data, size_t bytes) {
    struct pc_line *l = opaque;
    if (l->refuse || l->sent_bytes + bytes > sizeof l->sent)
        return 0;
    memcpy(l->sent + l->sent_bytes, data, bytes);
    l->sent_bytes += bytes;
    return bytes;
}

static inline size_t pc_line_read(void *opaque, u8 *data, size_t max_bytes) {
    struct pc_line *l = opaque;
    size_t bytes = l->input ? strlen(l->input) : 0;
    bytes = MIN(bytes, max_bytes);
    if (bytes) {
        memcpy(data, l->input, bytes);
        l->input += bytes;
    }
    return bytes;
}

static inline void pc_dma_written(void *opaque, struct gpa addr, u64 bytes) {
    struct pc *pc = opaque;
    pc->dma_first = addr.v;
    pc->dma_bytes = bytes;
}

/* Everything there is, on request only one serial port and no test devices; with or without APICs.
 */
static inline struct pc *pc_create_with(bool full, bool apic) {
    struct pc *pc = calloc(1, sizeof *pc);
    assert_non_null(pc);
    pc->ram = calloc(1, 2 << 20);
    assert_non_null(pc->ram);
    struct dev_config c = {
        .ram_bytes = PC_RAM_BYTES,
        .clock = {pc_now, pc, PC_EPOCH_S},
        .serial = {{pc_line_write, pc_line_read, &pc->line[0]}},
        .ram = pc->ram,
        .dma_written = pc_dma_written,
        .dma_opaque = pc,
    };
    if (apic)
        c.apic = (struct dev_apic_config){.present = true,
                                          .x2apic = true,
                                          .tsc_deadline = true,
                                          .timer_hz = PC_APIC_HZ,
                                          .tsc_hz = PC_TSC_HZ,
                                          .tsc = pc_tsc,
                                          .opaque = pc};
    if (full) {
        c.serial[1] = (struct dev_chardev){pc_line_write, pc_line_read, &pc->line[1]};
        c.debugcon = (struct dev_chardev){pc_line_write, NULL, &pc->line[2]};
        c.debug_exit = c.testdev = true;
    }
    pc->m = dev_machine_create(&c);
    assert_non_null(pc->m);
    return pc;
}

static inline struct pc *pc_create(bool full) {
    return pc_create_with(full, false);
}

static inline void pc_destroy(struct pc *pc) {
    dev_machine_destroy(pc->m);
    free(pc->ram);
    free(pc);
}

static inline int pc_setup(void **state) {
    *state = pc_create(true);
    return 0;
}
static inline int pc_setup_apic(void **state) {
    *state = pc_create_with(true, true);
    return 0;
}
static inline int pc_teardown(void **state) {
    pc_destroy(*state);
    return 0;
}

static inline u8 in8(struct pc *pc, u16 port) {
    return (u8)dev_io_read(dev_machine_bus(pc->m), port, 1);
}
static inline u16 in16(struct pc *pc, u16 port) {
    return (u16)dev_io_read(dev_machine_bus(pc->m), port, 2);
}
static inline u32 in32(struct pc *pc, u16 port) {
    return dev_io_read(dev_machine_bus(pc->m), port, 4);
}
static inline void out8(struct pc *pc, u16 port, u8 v) {
    dev_io_write(dev_machine_bus(pc->m), port, v, 1);
}
static inline void out16(struct pc *pc, u16 port, u16 v) {
    dev_io_write(dev_machine_bus(pc->m), port, v, 2);
}
static inline void out32(struct pc *pc, u16 port, u32 v) {
    dev_io_write(dev_machine_bus(pc->m), port, v, 4);
}

/* Lets virtual time pass, firing timers at their deadlines as the monitor does. */
static inline void pc_advance(struct pc *pc, u64 ns) {
    u64 end = pc->now_ns + ns;
    for (;;) {
        u64 next = dev_next_deadline_ns(pc->m);
        if (next > end)
            break;
        pc->now_ns = MAX(pc->now_ns, next);
        dev_run_timers(pc->m, pc->now_ns);
    }
    pc->now_ns = end;
}

/* Programs both 8259s: vectors 20h and 28h, all lines unmasked, ICW4 as given. */
static inline void pc_init_pics(struct pc *pc, u8 icw4) {
    out8(pc, 0x20, 0x11), out8(pc, 0x21, 0x20), out8(pc, 0x21, 0x04), out8(pc, 0x21, icw4);
    out8(pc, 0xa0, 0x11), out8(pc, 0xa1, 0x28), out8(pc, 0xa1, 0x02), out8(pc, 0xa1, 0x01);
    out8(pc, 0x21, 0x00), out8(pc, 0xa1, 0x00);
}

/* Drives an interrupt line through pc-testdev. */
static inline void pc_line_set(struct pc *pc, unsigned line, bool level) {
    out8(pc, (u16)(0x2000 + line), level);
}

/* ---- Machines with APICs ---- */

static inline u32 mmio32(struct pc *pc, u32 at) {
    return (u32)dev_mmio_read(dev_machine_bus(pc->m), GPA(at), 4);
}
static inline void mmio32_write(struct pc *pc, u32 at, u32 v) {
    dev_mmio_write(dev_machine_bus(pc->m), GPA(at), v, 4);
}
static inline u32 apic(struct pc *pc, u32 offset) {
    return mmio32(pc, 0xfee00000u + offset);
}
static inline void apic_write(struct pc *pc, u32 offset, u32 v) {
    mmio32_write(pc, 0xfee00000u + offset, v);
}
/* I/O APIC registers by index; both halves of a redirection entry. */
static inline u32 ioapic(struct pc *pc, u8 index) {
    mmio32_write(pc, 0xfec00000u, index);
    return mmio32(pc, 0xfec00010u);
}
static inline void ioapic_write(struct pc *pc, u8 index, u32 v) {
    mmio32_write(pc, 0xfec00000u, index);
    mmio32_write(pc, 0xfec00010u, v);
}
static inline void redirect(struct pc *pc, unsigned pin, u32 low, u8 destination) {
    ioapic_write(pc, (u8)(0x11 + 2 * pin), (u32)destination << 24);
    ioapic_write(pc, (u8)(0x10 + 2 * pin), low);
}
static inline u32 redirection(struct pc *pc, unsigned pin) {
    return ioapic(pc, (u8)(0x10 + 2 * pin));
}

#define PC_TEST(f) cmocka_unit_test_setup_teardown(f, pc_setup, pc_teardown)
#define PC_APIC_TEST(f) cmocka_unit_test_setup_teardown(f, pc_setup_apic, pc_teardown)

#endif
