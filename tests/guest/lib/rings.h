/*
 * rings.h: runs at all four rings. Flat code and data segments of each ring stand at the end of the
 * tests' part of the GDT; trap, vectors and checks are guest.h's.
 */
#ifndef RINGFOLD_TESTS_RINGS_H
#define RINGFOLD_TESTS_RINGS_H

#include "guest.h"

enum { RING_GDT = GDT_ENTRIES - 8 }; /* tests use FREE_GDT up to here */
static u8 ring_stacks[4][4096] __attribute__((aligned(16)));

static inline u16 ring_code(u32 ring) {
    return ring ? (u16)((RING_GDT + ring) << 3 | ring) : KERNEL_CODE;
}
static inline u16 ring_data(u32 ring) {
    return ring ? (u16)((RING_GDT + 4 + ring) << 3 | ring) : KERNEL_DATA;
}
static inline u32 ring_stack(u32 ring) {
    return (u32)(ring_stacks[ring] + sizeof ring_stacks[ring]);
}
static inline void rings_prepare(void) {
    for (u32 ring = 1; ring < 4; ring++) {
        gdt_set(RING_GDT + ring, descriptor(0, 0xfffff, (u8)(0x9b | ring << 5), 12));
        gdt_set(RING_GDT + 4 + ring, descriptor(0, 0xfffff, (u8)(0x93 | ring << 5), 12));
    }
}
static inline void rings_remove(void) {
    for (u32 i = 0; i < 8; i++)
        gdt_set(RING_GDT + i, 0);
}
/* What a run at this ring begins with; run_at() then runs it. */
static inline void reset_at(u32 ring) {
    reset_run(ring);
    if (!ring)
        return;
    in.cs = ring_code(ring);
    in.ss = in.ds = in.es = in.fs = in.gs = ring_data(ring);
    in.esp = ring_stack(ring);
}
static inline u32 run_at(u32 ring, const void *code) {
    if (!in.eflags)
        reset_at(ring);
    return run(ring, code);
}

#endif
