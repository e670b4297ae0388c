/*
 * measure_metal.c: where the time goes by ring. Every transition between the guest's rings and
 * ring 0 reads the TSC: what passed belongs to the ring that is left, and what the monitor then
 * needs until the guest goes on belongs to the reason of that exit. So the table shows beside each
 * other what it costs to let an instruction trap, and what it costs to translate it into a callout.
 *
 * An exit is light when the guest goes on straight from the callout or trap, its x87 and SSE state
 * still in the registers, and full when bt_run's loop, or the monitor's, was in between.
 *
 * Compiled for general registers only; the hooks run at every transition, with interrupts off.
 */
#include "bt/bt_internal.h"
#include "bt/world_metal.h"
#include "metal/metal.h"

#include <stdio.h>
#include <stdlib.h>

/* Who runs. X(name, ring, help) */
#define METER_STATES(X)                                                                            \
    X(MONITOR, 0, "monitor")                                                                       \
    X(KERNEL, 1, "guest kernel, translated")                                                       \
    X(APPLICATION, 3, "applications, translated")                                                  \
    X(DIRECT, 3, "applications, untranslated")
enum meter_state {
#define X(name, ring, help) METER_##name,
    METER_STATES(X)
#undef X
        METER_STATES_COUNT
};
/* Why ring 0 was entered. First the callouts but CO_EMULATE, in their order; then that one and #GP
 * by class of instruction; then these. X(name, help) */
#define METER_REASONS(X)                                                                           \
    X(EMULATE_OTHER, "callout emulate: other instructions")                                        \
    X(GP_OTHER, "#GP: other instructions")                                                         \
    X(PF_HIDDEN, "#PF answered by a shadow page-table entry")                                      \
    X(PF_TRUE, "#PF that is the guest's own")                                                      \
    X(PF_EMULATE, "#PF whose instruction is emulated")                                             \
    X(PF_KICK, "#PF of an interrupt poll")                                                         \
    X(SYSENTER, "SYSENTER, as #GP or #UD")                                                         \
    X(INT_N, "INT n, INT3, INTO")                                                                  \
    X(UD, "#UD")                                                                                   \
    X(EXCEPTION, "other exceptions")                                                               \
    X(INTERRUPT, "device interrupt")
enum meter_reason {
    METER_EMULATE_CLASS = CO_COUNT,
    METER_GP_CLASS = METER_EMULATE_CLASS + BT_TRAP_CLASS_COUNT,
    METER_LAST_CLASS = METER_GP_CLASS + BT_TRAP_CLASS_COUNT - 1,
#define X(name, help) METER_##name,
    METER_REASONS(X)
#undef X
        METER_REASON_COUNT
};

struct meter_row {
    u64 count[2], cycles[2]; /* [full] */
};
struct bt_meter {
    u64 started, since; /* TSC: of the measurement; of the present stretch */
    enum meter_state state, left;
    unsigned reason; /* of the last exit; METER_REASON_COUNT: none yet */
    u64 cycles[METER_STATES_COUNT], entries[METER_STATES_COUNT];
    u64 interrupts[METER_STATES_COUNT]; /* taken while this ran */
    u64 exit_cycles[2];                 /* [full] */
    u64 idle;                           /* in none of the above */
    struct meter_row row[METER_STATES_COUNT][METER_REASON_COUNT];
};

/* hot->exit says where a full exit leads; no exit has this number. */
#define NOT_LEFT UINT32_MAX

static struct bt_meter *meter_of(const struct cpu *cpu) {
    return bt_hot(cpu)->bt->meter;
}

/* ---- Transitions ---- */

static u64 end_stretch(struct bt_meter *m) {
    u64 now = __builtin_ia32_rdtsc(), passed = now - m->since;
    m->cycles[m->state] += passed;
    m->since = now;
    return passed;
}

static void leave_guest(struct cpu *cpu, enum meter_state from, unsigned reason) {
    struct bt_meter *m = meter_of(cpu);
    end_stretch(m);
    m->state = METER_MONITOR;
    m->left = from;
    m->reason = reason;
    bt_hot(cpu)->exit = NOT_LEFT;
}

/* What became of a page fault shows only when it is dealt with. */
static unsigned final_reason(unsigned reason, u32 exit) {
    if (reason != METER_PF_HIDDEN || exit == NOT_LEFT)
        return reason;
    return exit == BT_EXIT_FAULT  ? METER_PF_TRUE
           : exit == BT_EXIT_KICK ? METER_PF_KICK
                                  : METER_PF_EMULATE;
}

static void enter_guest(struct cpu *cpu, enum meter_state to) {
    struct bt_meter *m = meter_of(cpu);
    u64 passed = end_stretch(m);
    u32 exit = bt_hot(cpu)->exit;
    m->state = to;
    m->entries[to]++;
    if (m->reason == METER_REASON_COUNT)
        return;
    bool full = exit != NOT_LEFT;
    struct meter_row *row = &m->row[m->left][final_reason(m->reason, exit)];
    row->count[full]++;
    row->cycles[full] += passed;
    m->exit_cycles[full] += passed;
}

void bt_measure_entry(struct cpu *cpu, u64 to) {
    enum meter_state translated = bt_hot(cpu)->ring_user ? METER_APPLICATION : METER_KERNEL;
    enter_guest(cpu, to == BT_DIRECT ? METER_DIRECT : translated);
}

/* ---- Reasons ---- */

static bool is_prefix(u8 byte) {
    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return false;
    }
}

/* The class of a guest instruction, BT_TRAP_INDEX_* or BT_TRAP_CLASS_COUNT, by its opcode alone:
 * the decoder would need the registers that are the guest's here. */
static unsigned class_of_guest(const u8 *p, const u8 *end) {
    while (p < end && is_prefix(*p))
        p++;
    u8 opcode = p < end ? p[0] : 0, second = end - p > 1 ? p[1] : 0;
    u8 extension = end - p > 2 ? p[2] >> 3 & 7 : 0;
    switch (opcode) {
    case 0xfa:
    case 0xfb:
        return BT_TRAP_INDEX_cli_sti;
    case 0xf4:
        return BT_TRAP_INDEX_hlt;
    case 0x0f:
        break;
    default:
        return (opcode & 0xf4) == 0xe4 || (opcode & 0xfc) == 0x6c ? BT_TRAP_INDEX_io
                                                                  : BT_TRAP_CLASS_COUNT;
    }
    switch (second) {
    case 0x00:
        return extension == 2 || extension == 3 ? BT_TRAP_INDEX_descriptor : BT_TRAP_CLASS_COUNT;
    case 0x01:
        return extension == 2 || extension == 3 ? BT_TRAP_INDEX_descriptor
               : extension == 6                 ? BT_TRAP_INDEX_cr
               : extension == 7                 ? BT_TRAP_INDEX_invlpg
                                                : BT_TRAP_CLASS_COUNT;
    case 0x06:
    case 0x20:
    case 0x22:
        return BT_TRAP_INDEX_cr;
    case 0x30:
    case 0x32:
        return BT_TRAP_INDEX_msr;
    default:
        return BT_TRAP_CLASS_COUNT;
    }
}

static unsigned emulate_reason(struct cpu *cpu, u32 eip) {
    u32 bytes = MIN(INSN_MAX_BYTES, PAGE_BYTES - (eip & PAGE_OFFSET_MASK));
    const u8 *p = mmu_host_pointer(cpu, eip, bytes, MMU_READ);
    unsigned class = p ? class_of_guest(p, p + bytes) : (unsigned)BT_TRAP_CLASS_COUNT;
    return class < BT_TRAP_CLASS_COUNT ? METER_EMULATE_CLASS + class
                                       : (unsigned)METER_EMULATE_OTHER;
}

void bt_measure_callout(struct cpu *cpu, u32 callout, u32 arg) {
    unsigned reason = MIN(callout, CO_COUNT - 1u);
    if (callout == CO_EMULATE)
        reason = emulate_reason(cpu, arg);
    leave_guest(cpu, bt_hot(cpu)->ring_user ? METER_APPLICATION : METER_KERNEL, reason);
}

static unsigned gp_reason(const struct bt *bt, u64 rip) {
    u64 offset = bt_plain_address(bt, rip) - (u64)bt->cache_rx;
    u32 class;
    if (offset < bt->cache_used &&
        bt_privileged_form(bt->cache_rx + offset, bt->cache_used - offset, &class))
        return METER_GP_CLASS + (unsigned)__builtin_ctz(class);
    return METER_GP_OTHER;
}

static enum meter_state state_of(const struct metal_frame *f) {
    if (bt_world.is_direct && f->rip < BIT64(32)) /* its selectors are the guest's choice */
        return METER_DIRECT;
    return f->cs == METAL_CS1 ? METER_KERNEL : METER_APPLICATION;
}

static bool is_sysenter(struct cpu *cpu, const struct metal_frame *f) {
    const u8 *p = mmu_host_pointer(cpu, cpu->seg[SEG_CS].base + (u32)f->rip, 2, MMU_READ);
    return p && p[0] == 0x0f && p[1] == 0x34;
}

void bt_measure_trap(struct cpu *cpu, const struct metal_frame *f) {
    unsigned reason = METER_EXCEPTION;
    bool refused = f->vector == VEC_GP || f->vector == VEC_UD;
    if (refused && state_of(f) == METER_DIRECT && is_sysenter(cpu, f))
        reason = METER_SYSENTER;
    else if (f->vector == VEC_PF)
        reason = METER_PF_HIDDEN;
    else if (f->vector == VEC_GP)
        reason = gp_reason(bt_hot(cpu)->bt, f->rip);
    else if (f->vector == VEC_UD)
        reason = METER_UD;
    else if (f->vector >= 32 || f->vector == VEC_BP || f->vector == VEC_OF)
        reason = METER_INT_N;
    leave_guest(cpu, state_of(f), reason);
}

void bt_measure_trap_end(struct cpu *cpu, const struct metal_frame *f) {
    if (f->cs & 3) /* else the guest goes on by way of bt_enter */
        enter_guest(cpu, state_of(f));
}

void bt_measure_interrupt(struct cpu *cpu, const struct metal_frame *f) {
    struct bt_meter *m = meter_of(cpu);
    enum meter_state state = state_of(f);
    m->interrupts[state]++;
    if (state == METER_DIRECT)
        leave_guest(cpu, state, METER_INTERRUPT);
}

/* ---- The report ---- */

struct report {
    void (*print)(void *, const char *);
    void *opaque;
};

__attribute__((format(printf, 2, 3))) static void line(const struct report *r, const char *fmt,
                                                       ...) {
    char text[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->print(r->opaque, text);
}

typedef unsigned long long ull;

static ull per(u64 cycles, u64 count) {
    return count ? cycles / count : 0;
}

static void reason_name(unsigned reason, char *text, size_t bytes) {
    static const char *const callouts[] = {
#define X(name, help) "callout " #name,
        BT_CALLOUTS(X)
#undef X
    };
    static const char *const classes[] = {
#define X(name, help) #name,
        BT_TRAP_CLASSES(X)
#undef X
    };
    static const char *const others[] = {
#define X(name, help) help,
        METER_REASONS(X)
#undef X
    };
    if (reason < METER_EMULATE_CLASS)
        snprintf(text, bytes, "%s", callouts[reason]);
    else if (reason < METER_GP_CLASS)
        snprintf(text, bytes, "callout emulate: %s", classes[reason - METER_EMULATE_CLASS]);
    else if (reason <= METER_LAST_CLASS)
        snprintf(text, bytes, "#GP: %s", classes[reason - METER_GP_CLASS]);
    else
        snprintf(text, bytes, "%s", others[reason - METER_LAST_CLASS - 1]);
}

static void report_rings(const struct report *r, const struct bt_meter *m, const char *const *who,
                         const u8 *ring) {
    u64 total = 0;
    for (unsigned i = 0; i < METER_STATES_COUNT; i++)
        total += m->cycles[i];
    line(r, "%-4s  %-28s %16s %7s %12s %14s %12s", "ring", "who", "TSC cycles", "share", "entries",
         "cycles/entry", "interrupts");
    for (unsigned i = 0; i < METER_STATES_COUNT; i++) {
        u64 permille = total ? (u64)((unsigned __int128)m->cycles[i] * 1000 / total) : 0;
        if (i == METER_MONITOR)
            line(r, "%-4u  %-28s %16llu %4llu.%llu%%", ring[i], who[i], (ull)m->cycles[i],
                 (ull)permille / 10, (ull)permille % 10);
        else
            line(r, "%-4u  %-28s %16llu %4llu.%llu%% %12llu %14llu %12llu", ring[i], who[i],
                 (ull)m->cycles[i], (ull)permille / 10, (ull)permille % 10, (ull)m->entries[i],
                 per(m->cycles[i], m->entries[i]), (ull)m->interrupts[i]);
    }
    line(r, "      %-28s %16llu", "  in light exits", (ull)m->exit_cycles[0]);
    line(r, "      %-28s %16llu", "  in full exits", (ull)m->exit_cycles[1]);
    line(r, "      %-28s %16llu", "(asleep, not counted)", (ull)m->idle);
}

static void report_exits(const struct report *r, const struct bt_meter *m, unsigned state,
                         const char *who, u8 ring) {
    if (!m->entries[state])
        return;
    line(r, "exits from ring %u, %s, and what the monitor needs until the guest goes on:", ring,
         who);
    line(r, "  %-42s %12s %12s %12s %12s", "reason", "light", "cycles each", "full", "cycles each");
    for (unsigned i = 0; i < METER_REASON_COUNT; i++) {
        const struct meter_row *row = &m->row[state][i];
        char name[64];
        if (!row->count[0] && !row->count[1])
            continue;
        reason_name(i, name, sizeof name);
        line(r, "  %-42s %12llu %12llu %12llu %12llu", name, (ull)row->count[0],
             per(row->cycles[0], row->count[0]), (ull)row->count[1],
             per(row->cycles[1], row->count[1]));
    }
}

void bt_ring_report(struct bt *bt, void (*print)(void *, const char *line), void *opaque) {
    static const char *const who[] = {
#define X(name, ring, help) help,
        METER_STATES(X)
#undef X
    };
    static const u8 ring[] = {
#define X(name, ring, help) ring,
        METER_STATES(X)
#undef X
    };
    const struct report r = {print, opaque};
    struct bt_meter *m = bt->meter;
    if (!m) {
        line(&r, "rings: nothing was measured (-ring-report on)");
        return;
    }
    if (bt_world.measure)
        end_stretch(m);
    u64 hz = metal_tsc_hz();
    u64 ms = hz ? (u64)((unsigned __int128)(m->since - m->started) * 1000 / hz) : 0;
    line(&r, "time by ring, %llu.%03llu s at %llu MHz:", (ull)ms / 1000, (ull)ms % 1000,
         (ull)hz / 1000000);
    report_rings(&r, m, who, ring);
    for (unsigned i = METER_KERNEL; i < METER_STATES_COUNT; i++)
        report_exits(&r, m, i, who[i], ring[i]);
}

void bt_ring_idle(struct bt *bt, u64 cycles) {
    if (!bt_world.measure)
        return;
    bt->meter->idle += cycles;
    bt->meter->since += cycles;
}

/* The monitor runs now, so that nothing of the guest's is cut in two. */
void bt_ring_measure(struct bt *bt, bool on) {
    if (on && !bt->meter)
        bt->meter = malloc(sizeof *bt->meter);
    if (!bt->meter)
        return;
    if (on) {
        *bt->meter = (struct bt_meter){.reason = METER_REASON_COUNT};
        bt->meter->started = bt->meter->since = __builtin_ia32_rdtsc();
    } else if (bt_world.measure) {
        end_stretch(bt->meter);
    }
    bt_world.measure = on;
}
