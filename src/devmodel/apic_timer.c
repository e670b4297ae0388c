/*
 * apic_timer.c: the local APIC's timer. Nothing ticks: the count follows from virtual time since it
 * was last set, and a device timer stands at the next moment it reaches zero. Source: SDM volume 3,
 * section 10.5.4 "APIC Timer" and 10.5.4.1 "TSC-Deadline Mode".
 *
 * DEVIATION: periods under 20 us interrupt every 20 us, so that a guest cannot keep the host busy
 * with timers.
 */
#include "devmodel/apic.h"

#define SHORTEST_PERIOD_NS 20000u

static u64 hz(const struct dev_apic *a) {
    return a->m->config.apic.timer_hz;
}
static bool periodic(const struct dev_apic *a) {
    return a->lvt[DEV_LVT_TIMER] & DEV_LVT_PERIODIC;
}
static bool deadline_mode(const struct dev_apic *a) {
    return a->lvt[DEV_LVT_TIMER] & DEV_LVT_TSC_DEADLINE;
}

/* Figure 10-10 "Divide Configuration Register": 111b divides by 1, 000b by 2, up to 128. */
static u64 divisor(const struct dev_apic *a) {
    unsigned code = (a->divide & 3) | (a->divide >> 1 & 4);
    return 1u << ((code + 1) & 7);
}

/* Steps of the count since it was `first`. */
static u64 steps(const struct dev_apic *a, u64 now_ns) {
    return dev_ns_to_ticks(now_ns - a->start_ns, hz(a)) / divisor(a);
}

static u32 count_at(const struct dev_apic *a, u64 now_ns) {
    u64 n = steps(a, now_ns);
    if (n < a->first)
        return (u32)(a->first - n);
    return periodic(a) && a->initial ? (u32)(a->initial - (n - a->first) % a->initial) : 0;
}

/* How often the count has reached zero. */
static u64 expirations_at(const struct dev_apic *a, u64 now_ns) {
    u64 n = steps(a, now_ns);
    if (!a->first || n < a->first)
        return 0;
    return periodic(a) && a->initial ? 1 + (n - a->first) / a->initial : 1;
}

/* When the count reaches zero for the first time that was not yet seen to. */
static u64 next_expiration_ns(const struct dev_apic *a) {
    if (!a->first || (a->expirations && (!periodic(a) || !a->initial)))
        return DEV_NEVER;
    u64 n = a->first + a->expirations * a->initial;
    return a->start_ns + dev_ticks_to_ns(n * divisor(a), hz(a));
}

static u64 tsc_now(const struct dev_apic *a) {
    const struct dev_apic_config *c = &a->m->config.apic;
    return c->tsc(c->opaque);
}

/* Virtual time at which the time-stamp counter reaches the deadline. */
static u64 deadline_ns(const struct dev_apic *a) {
    u64 tsc = tsc_now(a), now = dev_now_ns(a->m);
    if (a->deadline_tsc <= tsc)
        return now;
    u64 frequency = a->m->config.apic.tsc_hz;
    unsigned __int128 wait =
        ((unsigned __int128)(a->deadline_tsc - tsc) * DEV_NS_PER_S + frequency - 1) / frequency;
    return wait >= DEV_NEVER - now ? DEV_NEVER : now + (u64)wait;
}

/* not_before_ns keeps short periods apart. */
static void arm(struct dev_apic *a, u64 not_before_ns) {
    u64 at;
    if (deadline_mode(a))
        at = a->deadline_tsc ? deadline_ns(a) : DEV_NEVER;
    else
        at = next_expiration_ns(a);
    dev_timer_arm(&a->timer, MAX(at, not_before_ns));
}

static void fire(void *opaque) {
    struct dev_apic *a = opaque;
    u64 now = dev_now_ns(a->m), not_before = 0;
    bool expired;
    if (deadline_mode(a)) {
        expired = a->deadline_tsc && tsc_now(a) >= a->deadline_tsc;
        if (expired)
            a->deadline_tsc = 0;
        not_before = now + 1; /* the two clocks may differ by a rounding */
    } else {
        u64 n = expirations_at(a, now);
        expired = n > a->expirations;
        a->expirations = n;
        if (periodic(a))
            not_before = now + SHORTEST_PERIOD_NS;
    }
    if (expired)
        dev_apic_raise_lvt(a, DEV_LVT_TIMER);
    arm(a, not_before);
}

/* Lets the count go on from where it is under other rules. */
static void restart(struct dev_apic *a, u32 count) {
    a->first = count;
    a->start_ns = dev_now_ns(a->m);
    a->expirations = 0;
}

u32 dev_apic_timer_count(const struct dev_apic *a) {
    return deadline_mode(a) ? 0 : count_at(a, dev_now_ns(a->m));
}

void dev_apic_timer_start(struct dev_apic *a, u32 initial) {
    if (deadline_mode(a)) /* writes to the initial count are ignored */
        return;
    a->initial = initial;
    restart(a, initial);
    arm(a, 0);
}

void dev_apic_timer_divide(struct dev_apic *a, u32 divide) {
    if (!deadline_mode(a)) {
        u32 count = dev_apic_timer_count(a);
        a->divide = divide;
        restart(a, count);
    }
    a->divide = divide;
    arm(a, 0);
}

/* Changing between TSC-deadline and the other modes disarms the timer. */
void dev_apic_timer_mode(struct dev_apic *a, u32 old) {
    u32 now = a->lvt[DEV_LVT_TIMER], changed = old ^ now;
    if (changed & DEV_LVT_TSC_DEADLINE) {
        a->deadline_tsc = 0;
        a->initial = 0;
        restart(a, 0);
    } else if ((changed & DEV_LVT_PERIODIC) && !deadline_mode(a)) {
        a->lvt[DEV_LVT_TIMER] = old;
        u32 count = dev_apic_timer_count(a);
        a->lvt[DEV_LVT_TIMER] = now;
        restart(a, count);
    }
    arm(a, 0);
}

void dev_apic_timer_set_deadline(struct dev_apic *a, u64 tsc) {
    if (!deadline_mode(a)) /* "IA32_TSC_DEADLINE ... writes are ignored" in other modes */
        return;
    a->deadline_tsc = tsc;
    if (tsc && tsc <= tsc_now(a)) {
        a->deadline_tsc = 0;
        dev_apic_raise_lvt(a, DEV_LVT_TIMER);
    }
    arm(a, 0);
}

void dev_apic_tsc_changed(struct machine_devices *m) {
    if (m->apic && deadline_mode(m->apic))
        arm(m->apic, 0);
}

void dev_apic_timer_init(struct dev_apic *a) {
    dev_timer_init(&a->m->timers, &a->timer, fire, a);
}

void dev_apic_timer_reset(struct dev_apic *a) {
    a->divide = a->initial = a->first = 0;
    a->start_ns = a->expirations = a->deadline_tsc = 0;
    dev_timer_cancel(&a->timer);
}
