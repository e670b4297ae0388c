/*
 * callout_system.c: light callouts of privileged instructions: ports whose device needs nothing but
 * its own state, CPUID, control registers, INVLPG. What is not light leaves to the emulator with
 * the state as it was. Compiled for general registers only, like callout.c.
 *
 * Ports need no check of rights: ring 0 may use all (SDM volume 1, section 19.5 "Protected-Mode
 * I/O"), and with I/O breakpoints armed nothing is translated.
 */
#include "bt/bt_internal.h"

static u32 low_bytes(u32 value, unsigned bytes) {
    return bytes == 4 ? value : value & (BIT(8 * bytes) - 1);
}

u64 co_io(struct cpu *cpu, u32 eip) {
    const struct bt_hot *hot = bt_hot(cpu);
    const struct cpu_bus *bus = cpu->bus;
    unsigned bytes = IO_BYTES(hot->arg2);
    bool out = hot->arg2 & IO_OUT;
    u32 eax = (u32)cpu->gpr[R_EAX], value = low_bytes(eax, bytes);
    cpu->eip = eip; /* for traces */
    enum cpu_io done = bus && bus->io_light
                           ? bus->io_light(bus->opaque, (u16)hot->arg0, bytes, out, &value)
                           : CPU_IO_HEAVY;
    if (done == CPU_IO_HEAVY)
        return co_leave_emulate_inside(cpu, eip);
    if (!out)
        cpu->gpr[R_EAX] = (eax & ~low_bytes(UINT32_MAX, bytes)) | low_bytes(value, bytes);
    /* The access may have brought up an interrupt that the guest is open to. */
    if (done == CPU_IO_LEAVE || (hot->interrupt_pending && hot->flag_if))
        return co_leave_kick_inside(cpu, hot->arg1);
    return 0;
}

u64 co_cpuid(struct cpu *cpu, u32 eip) {
    (void)eip;
    rc_cpuid(cpu);
    return 0;
}

/* ---- What changes mappings ---- */

/* Around a call that may reach the C library and the host: both may use the registers that hold the
 * guest's x87 and SSE state. Still a quarter of what leaving costs. */
struct fp_aside {
    _Alignas(16) u8 fx[512];
};
static inline void put_fp_aside(struct fp_aside *state) {
    __asm__ volatile("fxsave64 %0" : "=m"(state->fx));
}
static inline void take_fp_back(const struct fp_aside *state) {
    __asm__ volatile("fxrstor64 %0" : : "m"(state->fx));
}

/* Goes on in the unit if the kernel still fetches from where it did. The rest finds out by itself:
 * the user window is brought up to date before ring 3 runs. */
static u64 after_flush(struct cpu *cpu) {
    const struct bt_hot *hot = bt_hot(cpu);
    struct mmu_view view = mmu_current_view(cpu, false);
    hot_doubt_segments(cpu);
    return hot->bt->view[view.id].epoch == view.epoch ? 0 : co_leave_again_inside(cpu, hot->arg1);
}

u64 co_invlpg(struct cpu *cpu, u32 eip) {
    struct glin lin = GLIN(bt_hot(cpu)->arg0);
    if (mmu_invlpg_is_light(cpu, lin)) {
        mmu_invlpg(cpu, lin);
        hot_doubt_segments(cpu);
        return 0;
    }
    if (!bt_light_wanted(&bt_hot(cpu)->bt->config))
        return co_leave_emulate_inside(cpu, eip);
    struct fp_aside state;
    put_fp_aside(&state);
    mmu_invlpg(cpu, lin);
    take_fp_back(&state);
    return after_flush(cpu);
}

/* CR3, and CR4.PGE alone, by which kernels flush everything. PAE's table of page directories may
 * hold what it must not: #GP(0). */
static u64 flush_all(struct cpu *cpu, u32 eip, unsigned n, u32 value) {
    struct bt_hot *hot = bt_hot(cpu);
    struct fp_aside state;
    bool light = n == 3 && mmu_cr3_load_is_light(cpu);
    if (!light)
        put_fp_aside(&state);
    bool ok = rc_write_cr(cpu, n, value);
    if (!light)
        take_fp_back(&state);
    if (!ok)
        return co_leave_fault_inside(cpu, eip);
    hot->cr3 = cpu->cr3;
    hot->cr4 = cpu->cr4;
    return after_flush(cpu);
}

/* ---- Control registers ---- */

/* Changes of TS, or of nothing. */
static u64 write_cr0(struct cpu *cpu, u32 eip, u32 value) {
    struct bt_hot *hot = bt_hot(cpu);
    u32 changed = value ^ cpu->cr0;
    if (changed & ~(u32)CR0_TS)
        return co_leave_emulate_inside(cpu, eip);
    hot->cr0 = cpu->cr0 = value;
    /* Units are made for one answer to whether there are x87 and SSE instructions. */
    if (changed && bt_fp_allowed(cpu) != hot->bt->fp_ok)
        return co_leave_again_inside(cpu, hot->arg1);
    return 0;
}

static u64 write_cr4(struct cpu *cpu, u32 eip, u32 value) {
    u32 changed = value ^ cpu->cr4;
    if (!changed)
        return 0;
    return changed == CR4_PGE ? flush_all(cpu, eip, 4, value) : co_leave_emulate_inside(cpu, eip);
}

u64 co_write_cr(struct cpu *cpu, u32 eip) {
    const struct bt_hot *hot = bt_hot(cpu);
    cpu->eip = eip; /* for traces, and should it fault */
    switch (hot->arg2) {
    case 0:
        return write_cr0(cpu, eip, hot->arg0);
    case CR_CLTS:
        return write_cr0(cpu, eip, cpu->cr0 & ~(u32)CR0_TS);
    case 3:
        return flush_all(cpu, eip, 3, hot->arg0);
    default:
        return write_cr4(cpu, eip, hot->arg0);
    }
}
