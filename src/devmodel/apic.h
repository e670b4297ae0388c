/*
 * apic.h: internal to apic.c and apic_timer.c: the local APIC's state.
 */
#ifndef RINGFOLD_DEVMODEL_APIC_H
#define RINGFOLD_DEVMODEL_APIC_H

#include "devmodel/machine.h"

#define DEV_MSR_APIC_BASE 0x1bu
#define DEV_MSR_TSC_DEADLINE 0x6e0u
#define DEV_MSR_X2APIC 0x800u

#define DEV_APIC_BASE_BSP BIT64(8)
#define DEV_APIC_BASE_EXTD BIT64(10)
#define DEV_APIC_BASE_EN BIT64(11)

enum dev_lvt {
    DEV_LVT_TIMER,
    DEV_LVT_THERMAL,
    DEV_LVT_COUNTER,
    DEV_LVT_LINT0,
    DEV_LVT_LINT1,
    DEV_LVT_ERROR,
    DEV_LVT_COUNT
};
enum {
    DEV_LVT_REMOTE_IRR = 1 << 14,
    DEV_LVT_LEVEL = 1 << 15,
    DEV_LVT_MASKED = 1 << 16,
    DEV_LVT_PERIODIC = 1 << 17,
    DEV_LVT_TSC_DEADLINE = 1 << 18
};

struct dev_apic {
    struct machine_devices *m;
    u64 base; /* IA32_APIC_BASE */
    u8 id;
    bool pending;           /* a request is above the processor priority */
    bool lint[2];           /* levels of the pins */
    u32 tpr, ldr, dfr, svr; /* ldr: xAPIC only */
    u32 esr, errors;        /* as latched, and since */
    u64 icr;
    u32 lvt[DEV_LVT_COUNT];
    u32 irr[8], isr[8], tmr[8];

    /* Timer: counted down from `first`, then, if periodic, from `initial` again and again. */
    struct dev_timer timer;
    u32 divide; /* as written */
    u32 initial, first;
    u64 start_ns;     /* when the count was `first` */
    u64 expirations;  /* since then, delivered or masked */
    u64 deadline_tsc; /* 0: not armed */
};

bool dev_apic_x2(const struct dev_apic *a);
/* A local event: the entry of the local vector table says what it does. */
void dev_apic_raise_lvt(struct dev_apic *a, enum dev_lvt which);

/* apic_timer.c */
void dev_apic_timer_init(struct dev_apic *a);
void dev_apic_timer_reset(struct dev_apic *a);
u32 dev_apic_timer_count(const struct dev_apic *a);
void dev_apic_timer_start(struct dev_apic *a, u32 initial);
void dev_apic_timer_divide(struct dev_apic *a, u32 divide);
/* The timer's LVT entry was written; old is what it was. */
void dev_apic_timer_mode(struct dev_apic *a, u32 old);
void dev_apic_timer_set_deadline(struct dev_apic *a, u64 tsc);

#endif
