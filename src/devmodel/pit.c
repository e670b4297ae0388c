/*
 * pit.c: the 8254 timer and port 61h (speaker gate, OUT2, refresh toggle). Nothing ticks: every
 * counter is computed from virtual time, in whole periods of the 1.193182 MHz clock, and only
 * counter 0 arms a timer, for its next rising edge.
 * Source: Intel 8254 data sheet (231164), "Mode Definitions" and "Read Operations".
 *
 * DEVIATION: IRQ0 carries the rising edges of OUT0 only and stays high in between; outside mode 0
 * the low phase is not shown to the 8259, because a late timer would then lose the interrupt.
 * Periods under 50 us interrupt every 50 us, so that a guest cannot keep the host busy with timers.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

#define PIT_HZ 1193182ull
#define NEVER_TICK INT64_MAX
enum { REFRESH_TOGGLE_NS = 15085, SHORTEST_PERIOD_NS = 50000 };

struct counter {
    u8 mode; /* 0-5 */
    u8 rw;   /* 1 LSB, 2 MSB, 3 LSB then MSB */
    bool bcd, gate;
    bool write_msb, read_msb; /* next byte of a two-byte access */
    u8 lsb;                   /* first byte of a two-byte write */
    bool counting;            /* the counting element was loaded since the control word */
    bool frozen;              /* gate low stops it (modes 0, 2, 3, 4) */
    i64 frozen_elapsed;
    u32 reload;   /* N last written, 1..65536 */
    u32 count;    /* N in force */
    i64 start;    /* tick at which the counting element held N */
    i64 load_at;  /* tick at which the last write takes effect (null count until then) */
    bool pending; /* modes 2 and 3: reload takes over at load_at, with this start: */
    i64 pending_start;
    u16 latch;
    u8 latch_bytes; /* bytes of the latch still to be read */
    bool status_latched;
    u8 status;
};

struct pit {
    struct machine_devices *m;
    struct dev_irq irq;
    struct dev_timer timer;
    struct counter c[3];
    u8 port61; /* bits 0-3 as written */
};

static i64 tick_now(struct pit *p) {
    return (i64)dev_ns_to_ticks(dev_now_ns(p->m), PIT_HZ);
}

static u32 modulus(const struct counter *c) {
    return c->bcd ? 10000 : 65536;
}

/* Length of the high phase of mode 3. */
static i64 high_phase(u32 count) {
    return ((i64)count + 1) / 2;
}

static void sync(struct counter *c, i64 t) {
    if (c->pending && t >= c->load_at) {
        c->count = c->reload;
        c->start = c->pending_start;
        c->pending = false;
    }
}

static i64 elapsed(const struct counter *c, i64 t) {
    i64 e = c->frozen ? c->frozen_elapsed : t - c->start;
    return MAX(e, 0);
}

static bool out(struct counter *c, i64 t) {
    sync(c, t);
    if (!c->counting)
        return c->mode != 0;
    i64 e = elapsed(c, t), n = c->count;
    switch (c->mode) {
    case 0:
    case 1:
        return e >= n;
    case 2:
        return !c->gate || e % n != n - 1;
    case 3:
        return !c->gate || e % n < high_phase(c->count);
    default:
        return e != n;
    }
}

static u16 to_bcd(u32 v) {
    return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* The counting element as software reads it. */
static u16 read_count(struct counter *c, i64 t) {
    sync(c, t);
    if (!c->counting)
        return c->bcd ? to_bcd(c->count % 10000) : (u16)c->count;
    i64 e = elapsed(c, t), n = c->count, m = modulus(c), v;
    if (c->mode == 2) {
        v = n - e % n;
    } else if (c->mode == 3) { /* counts by two from the even part of N, twice per period */
        i64 phase = e % n;
        if (phase >= high_phase(c->count))
            phase -= high_phase(c->count);
        v = (n & ~(i64)1) - 2 * phase;
    } else {
        v = m + (n - e) % m;
    }
    v %= m;
    return c->bcd ? to_bcd((u32)v) : (u16)v;
}

/* Tick of the next rising edge of OUT after t, NEVER_TICK if there is none. */
static i64 next_rising(struct counter *c, i64 t) {
    sync(c, t);
    if (!c->counting || c->frozen)
        return NEVER_TICK;
    i64 e = elapsed(c, t), n = c->count;
    switch (c->mode) {
    case 0:
        return e < n ? c->start + n : NEVER_TICK;
    case 2:
    case 3:
        if (c->pending) /* in mode 3 the new count may take over at the falling edge */
            return c->pending_start == c->load_at ? c->load_at : c->pending_start + c->reload;
        return c->start + (e / n + 1) * n;
    case 4:
        return e <= n ? c->start + n + 1 : NEVER_TICK;
    default:
        return NEVER_TICK; /* modes 1 and 5 wait for a gate that counter 0 does not have */
    }
}

/* t is the time at which the counter was last looked at or loaded: with a later one, an edge that
 * fell in between (the host may take the CPU away at any point) would be lost. */
static void arm(struct pit *p, i64 t) {
    i64 next = next_rising(&p->c[0], t);
    if (next == NEVER_TICK)
        dev_timer_cancel(&p->timer);
    else
        dev_timer_arm(&p->timer, dev_ticks_to_ns((u64)next, PIT_HZ));
}

static void counter0_edge(void *opaque) {
    struct pit *p = opaque;
    dev_irq_set(&p->irq, false);
    dev_irq_set(&p->irq, true);
    arm(p, tick_now(p));
    if (p->timer.deadline_ns != DEV_NEVER)
        dev_timer_arm(&p->timer, MAX(p->timer.deadline_ns, dev_now_ns(p->m) + SHORTEST_PERIOD_NS));
}

static void start_counting(struct counter *c, i64 t) {
    c->count = c->reload;
    c->counting = true;
    c->pending = false;
    c->start = c->load_at = t + 1; /* loaded by the next CLK pulse */
    c->frozen = false;
}

static void freeze(struct counter *c, i64 t) {
    c->frozen_elapsed = t - c->start;
    c->frozen = true;
}

/* Modes 2 and 3: a count written on the way takes over at the end of the (half) period. */
static void defer_reload(struct counter *c, i64 t) {
    i64 n = c->count, phase = elapsed(c, t) % n, end = n;
    if (c->mode == 3 && phase < high_phase(c->count))
        end = high_phase(c->count);
    c->load_at = MAX(t, c->start) - phase + end;
    c->pending_start = end == n ? c->load_at : c->load_at - high_phase(c->reload);
    c->pending = true;
}

static void load(struct counter *c, u16 raw, i64 t) {
    u32 n = raw;
    if (c->bcd)
        n = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
    sync(c, t);
    c->reload = n ? n : modulus(c);
    switch (c->mode) {
    case 1:
    case 5: /* loaded by the next trigger */
        c->load_at = NEVER_TICK;
        break;
    case 2:
    case 3:
        if (c->counting && !c->frozen) {
            defer_reload(c, t);
            break;
        }
        /* fall through */
    default:
        start_counting(c, t);
        if (!c->gate)
            freeze(c, c->start);
    }
}

static void set_gate(struct counter *c, bool gate, i64 t) {
    bool rising = gate && !c->gate, falling = !gate && c->gate;
    sync(c, t);
    c->gate = gate;
    switch (c->mode) {
    case 1:
    case 5:
        if (rising && c->reload)
            start_counting(c, t);
        break;
    case 2:
    case 3:
        if (rising && c->counting)
            start_counting(c, t);
        else if (falling && c->counting)
            freeze(c, t);
        break;
    default:
        if (rising && c->frozen) {
            c->start = t - c->frozen_elapsed;
            c->frozen = false;
        } else if (falling && c->counting) {
            freeze(c, t);
        }
    }
}

static void latch_count(struct counter *c, i64 t) {
    if (c->latch_bytes)
        return;
    c->latch = read_count(c, t);
    c->latch_bytes = c->rw == 3 ? 2 : 1;
}

static void latch_status(struct counter *c, i64 t) {
    if (c->status_latched)
        return;
    bool null_count = t < c->load_at;
    c->status = (u8)(out(c, t) << 7 | null_count << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static void write_control(struct pit *p, u8 value) {
    i64 t = tick_now(p);
    unsigned which = value >> 6, rw = value >> 4 & 3;
    if (which == 3) { /* read-back command */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & 2u << i))
                continue;
            if (!(value & 0x20))
                latch_count(&p->c[i], t);
            if (!(value & 0x10))
                latch_status(&p->c[i], t);
        }
        return;
    }
    struct counter *c = &p->c[which];
    if (rw == 0) {
        latch_count(c, t);
        return;
    }
    unsigned mode = value >> 1 & 7;
    u16 shown = read_count(c, t);
    *c = (struct counter){.mode = (u8)(mode > 5 ? mode - 4 : mode),
                          .rw = (u8)rw,
                          .bcd = value & 1,
                          .gate = c->gate,
                          .count = shown,
                          .load_at = NEVER_TICK};
    if (which == 0) {
        dev_irq_set(&p->irq, out(c, t));
        arm(p, t);
    }
}

static void write_counter(struct pit *p, unsigned which, u8 value) {
    struct counter *c = &p->c[which];
    i64 t = tick_now(p);
    if (c->rw == 3 && !c->write_msb) {
        c->lsb = value;
        c->write_msb = true;
        if (c->mode != 0)
            return;
        c->counting = c->frozen = false; /* the first byte stops the counter and drops OUT */
    } else {
        u16 raw = c->rw == 1 ? value : c->rw == 2 ? (u16)(value << 8) : (u16)(value << 8 | c->lsb);
        c->write_msb = false;
        load(c, raw, t);
    }
    if (which == 0) {
        if (c->mode == 0)
            dev_irq_set(&p->irq, out(c, t));
        arm(p, t);
    }
}

static u8 read_counter(struct pit *p, unsigned which) {
    struct counter *c = &p->c[which];
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    u16 value = c->latch_bytes ? c->latch : read_count(c, tick_now(p));
    bool high = c->rw == 2;
    if (c->rw == 3) {
        high = c->read_msb;
        c->read_msb = !c->read_msb;
    }
    if (c->latch_bytes)
        c->latch_bytes--;
    return (u8)(high ? value >> 8 : value);
}

static u32 pit_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return offset == 3 ? 0xff : read_counter(opaque, offset);
}

static void pit_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    if (offset == 3)
        write_control(opaque, (u8)value);
    else
        write_counter(opaque, offset, (u8)value);
}

/* Port 61h: bit 0 gate of counter 2, bit 1 speaker, bit 4 refresh toggle, bit 5 OUT2. */
static u32 port61_read(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    struct pit *p = opaque;
    u8 refresh = dev_now_ns(p->m) / REFRESH_TOGGLE_NS & 1;
    return (u32)(p->port61 | refresh << 4 | out(&p->c[2], tick_now(p)) << 5);
}

static void port61_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct pit *p = opaque;
    p->port61 = value & 0x0f;
    set_gate(&p->c[2], value & 1, tick_now(p));
}

/* A control word that sets a mode clears a counter, by the C library perhaps. */
static bool pit_light(const void *opaque, u32 offset, bool write, u32 value) {
    (void)opaque;
    return !write || offset != 3 || value >> 6 == 3 || (value >> 4 & 3) == 0;
}

static const struct dev_region_ops pit_ops = {pit_read, pit_write, 1, pit_light};
static const struct dev_region_ops port61_ops = {port61_read, port61_write, 1, dev_light_always};

static bool pit_init(struct machine_devices *m, void **state) {
    struct pit *p = calloc(1, sizeof *p);
    if (!p)
        return false;
    *state = p;
    p->m = m;
    p->irq = dev_machine_irq(m, 0);
    dev_timer_init(&m->timers, &p->timer, counter0_edge, p);
    return dev_bus_add_ports(m->bus, 0x40, 4, &pit_ops, p) &&
           dev_bus_add_ports(m->bus, 0x61, 1, &port61_ops, p);
}

static void pit_reset(void *state) {
    struct pit *p = state;
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (struct counter){.rw = 3, .gate = i != 2, .load_at = NEVER_TICK};
    p->port61 = 0;
    dev_timer_cancel(&p->timer);
    dev_irq_set(&p->irq, false);
}

const struct dev_descriptor dev_pit = {"8254", pit_init, pit_reset, free};
