/*
 * apic.c: the local APIC of the one CPU, as xAPIC (a page of MMIO) and x2APIC (MSRs): three 256-bit
 * sets say which vectors are requested (IRR), in service (ISR) and level triggered (TMR), and the
 * highest request whose class is above the processor priority asks for the CPU. Source: SDM volume
 * 3, chapter 10 "Advanced Programmable Interrupt Controller (APIC)"; apic_timer.c has its timer.
 *
 * Reset leaves what the BIOS of a PC leaves: the APIC enabled, the 8259s passed through LINT0
 * (virtual wire mode), NMI at LINT1.
 *
 * DEVIATION: there is no other CPU: interrupts sent to others are dropped, SMI and start-up
 * messages too; INIT to itself resets the machine. The APIC page cannot be moved over RAM.
 */
#include "devmodel/apic.h"

#include <stdlib.h>

enum { REGION_BYTES = 0x1000 };

/* Registers by MMIO offset / 10h, which is also the MSR's number - 800h: table 10-1 "Local APIC
 * Register Address Map" and table 10-6 "Local APIC Register Address Map Supported by x2APIC". */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f
};
enum { SVR_ENABLE = 1 << 8, SVR_WRITABLE = 0x3ff };
enum { ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVE_ILLEGAL = 1 << 6, ESR_ILLEGAL_REGISTER = 1 << 7 };
enum { ICR_LOGICAL = 1 << 11, ICR_ASSERT = 1 << 14, ICR_LEVEL = 1 << 15, ICR_WRITABLE = 0xccfff };
enum { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS }; /* ICR bits 18-19 */
#define DESTINATION_ALL 0xffffffffu

/* ---- Sets of vectors ---- */

static bool test_vector(const u32 set[8], unsigned vector) {
    return set[vector / 32] >> (vector % 32) & 1;
}
static void put_vector(u32 set[8], unsigned vector, bool value) {
    u32 bit = BIT(vector % 32), *word = &set[vector / 32];
    *word = value ? *word | bit : *word & ~bit;
}
/* Highest vector in the set, 0 when it is empty (vectors under 16 never enter one). */
static unsigned highest(const u32 set[8]) {
    for (unsigned word = 8; word-- > 0;)
        if (set[word])
            return word * 32 + 31 - (unsigned)__builtin_clz(set[word]);
    return 0;
}

/* ---- State ---- */

bool dev_apic_x2(const struct dev_apic *a) {
    return a->base & DEV_APIC_BASE_EXTD;
}
static bool globally_enabled(const struct dev_apic *a) {
    return a->base & DEV_APIC_BASE_EN;
}
static bool software_enabled(const struct dev_apic *a) {
    return a->svr & SVR_ENABLE;
}

/* Section 10.12.10.2 "Deriving Logical x2APIC ID from the Local x2APIC ID". */
static u32 logical_id(const struct dev_apic *a) {
    return dev_apic_x2(a) ? (u32)a->id >> 4 << 16 | BIT(a->id & 15) : a->ldr;
}

/* Section 10.8.3.1 "Task and Processor Priorities". */
static u32 processor_priority(const struct dev_apic *a) {
    unsigned served = highest(a->isr) & 0xf0;
    return (a->tpr & 0xf0) >= served ? a->tpr : served;
}
/* Section 10.6.2.4 "Lowest Priority Delivery Mode", arbitration priority. */
static u32 arbitration_priority(const struct dev_apic *a) {
    unsigned requested = highest(a->irr) & 0xf0, served = highest(a->isr) & 0xf0;
    if ((a->tpr & 0xf0) >= requested && (a->tpr & 0xf0) > served)
        return a->tpr;
    return MAX(MAX(a->tpr & 0xf0, served), requested);
}

static void update(struct dev_apic *a) {
    a->pending = globally_enabled(a) && (highest(a->irr) & 0xf0) > (processor_priority(a) & 0xf0);
    dev_intr_update(a->m);
}

bool dev_apic_pending(const struct dev_apic *a) {
    return a->pending;
}

/* Section 10.4.3 "Enabling or Disabling the Local APIC": when off, LINT0 and LINT1 are the INTR and
 * NMI pins. */
bool dev_apic_passes_extint(const struct dev_apic *a) {
    u32 lint0 = a->lvt[DEV_LVT_LINT0];
    return !globally_enabled(a) ||
           (!(lint0 & DEV_LVT_MASKED) && (lint0 >> 8 & 7) == DEV_DELIVER_EXTINT);
}

/* ---- Errors: section 10.5.3 "Error Handling" ---- */

static void note_error(struct dev_apic *a, u32 error) {
    bool news = !(a->errors & error);
    a->errors |= error;
    /* An error interrupt with an illegal vector is an error in turn, the same one. */
    if (news)
        dev_apic_raise_lvt(a, DEV_LVT_ERROR);
}

/* ---- Acceptance: section 10.8.4 "Interrupt Acceptance for Fixed Interrupts" ---- */

static void request(struct dev_apic *a, u8 vector, bool level) {
    if (vector < 16) {
        note_error(a, ESR_RECEIVE_ILLEGAL);
        return;
    }
    put_vector(a->irr, vector, true);
    put_vector(a->tmr, vector, level);
    update(a);
}

static bool accept(struct dev_apic *a, u8 vector, unsigned mode, bool level) {
    switch (mode) {
    case DEV_DELIVER_FIXED:
    case DEV_DELIVER_LOWEST:
        if (!software_enabled(a))
            return false;
        request(a, vector, level);
        return true;
    case DEV_DELIVER_NMI:
        a->m->requests.nmi = true;
        return true;
    default: /* ExtINT is no message here; SMI, INIT and start-up have no effect */
        return true;
    }
}

/* Section 10.6.2 "Determining IPI Destination". */
static bool matches(const struct dev_apic *a, u32 destination, bool logical) {
    if (destination == DESTINATION_ALL)
        return true;
    u32 own = logical_id(a);
    if (!logical)
        return destination == a->id;
    if (dev_apic_x2(a))
        return destination >> 16 == own >> 16 && (destination & own & 0xffff);
    destination &= 0xff;
    own >>= 24;
    if (a->dfr >> 28 == 0xf) /* flat */
        return destination & own;
    return (destination >> 4 == 15 || destination >> 4 == own >> 4) && (destination & own & 15);
}

/* Messages carry eight bits of destination in either mode. */
bool dev_apic_matches(const struct dev_apic *a, u8 destination, bool logical) {
    return globally_enabled(a) &&
           matches(a, destination == 0xff ? DESTINATION_ALL : destination, logical);
}

bool dev_apic_deliver(struct dev_apic *a, const struct dev_intr_message *message) {
    return dev_apic_matches(a, message->destination, message->logical) &&
           accept(a, message->vector, message->mode, message->level);
}

/* Section 10.5.1 "Local Vector Table". */
void dev_apic_raise_lvt(struct dev_apic *a, enum dev_lvt which) {
    u32 entry = a->lvt[which];
    if (entry & DEV_LVT_MASKED)
        return;
    bool has_mode = which != DEV_LVT_TIMER && which != DEV_LVT_ERROR;
    accept(a, (u8)entry, has_mode ? entry >> 8 & 7 : DEV_DELIVER_FIXED, false);
}

/* A LINT pin in fixed mode requests by edges, or for as long as it is high: then Remote IRR is set
 * until the EOI. */
static void sample_lint(struct dev_apic *a, unsigned pin, bool rising) {
    u32 *entry = &a->lvt[DEV_LVT_LINT0 + pin];
    unsigned mode = *entry >> 8 & 7;
    if ((*entry & DEV_LVT_MASKED) || mode == DEV_DELIVER_EXTINT)
        return;
    if (mode != DEV_DELIVER_FIXED || !(*entry & DEV_LVT_LEVEL)) {
        if (rising)
            dev_apic_raise_lvt(a, DEV_LVT_LINT0 + pin);
    } else if (a->lint[pin] && !(*entry & DEV_LVT_REMOTE_IRR) &&
               accept(a, (u8)*entry, DEV_DELIVER_FIXED, true)) {
        *entry |= DEV_LVT_REMOTE_IRR;
    }
}

void dev_apic_set_lint(struct dev_apic *a, unsigned pin, bool level) {
    bool rising = level && !a->lint[pin];
    a->lint[pin] = level;
    if (globally_enabled(a))
        sample_lint(a, pin, rising);
    else if (pin == 1 && rising)
        a->m->requests.nmi = true;
}

/* Section 10.9 "Spurious Interrupt": the request may have gone, or been masked by TPR. */
u8 dev_apic_acknowledge(struct dev_apic *a) {
    unsigned vector = highest(a->irr);
    if (!a->pending)
        return (u8)a->svr;
    put_vector(a->irr, vector, false);
    put_vector(a->isr, vector, true);
    update(a);
    TRACE(int, "local APIC: acknowledge vector %02x\n", vector);
    return (u8)vector;
}

/* Section 10.8.5 "Signaling Interrupt Servicing Completion". */
static void end_of_interrupt(struct dev_apic *a) {
    unsigned vector = highest(a->isr);
    if (!vector)
        return;
    put_vector(a->isr, vector, false);
    update(a);
    if (!test_vector(a->tmr, vector))
        return;
    for (unsigned pin = 0; pin < ARRAY_LEN(a->lint); pin++) {
        u32 *entry = &a->lvt[DEV_LVT_LINT0 + pin];
        if ((*entry & DEV_LVT_REMOTE_IRR) && (u8)*entry == vector) {
            *entry &= ~(u32)DEV_LVT_REMOTE_IRR;
            sample_lint(a, pin, false);
        }
    }
    dev_ioapic_eoi(a->m->ioapic, (u8)vector);
}

/* ---- Interprocessor interrupts: section 10.6.1 "Interrupt Command Register (ICR)" ---- */

static void send_ipi(struct dev_apic *a) {
    u32 command = (u32)a->icr;
    unsigned mode = command >> 8 & 7, shorthand = command >> 18 & 3;
    u32 destination = (u32)(a->icr >> 32);
    if (!dev_apic_x2(a)) {
        destination >>= 24;
        destination = destination == 0xff ? DESTINATION_ALL : destination;
    }
    bool fixed = mode == DEV_DELIVER_FIXED || mode == DEV_DELIVER_LOWEST;
    if (fixed && (command & 0xff) < 16) {
        note_error(a, ESR_SEND_ILLEGAL);
        return;
    }
    /* INIT level de-assert only synchronised arbitration IDs. */
    if (mode == DEV_DELIVER_INIT && (command & ICR_LEVEL) && !(command & ICR_ASSERT))
        return;
    bool to_self = shorthand == TO_SELF || shorthand == TO_ALL ||
                   (shorthand == TO_DESTINATION && matches(a, destination, command & ICR_LOGICAL));
    if (!to_self || (shorthand == TO_SELF && mode != DEV_DELIVER_FIXED)) /* table 10-3 */
        return;
    if (mode == DEV_DELIVER_INIT)
        a->m->requests.reset = true;
    else
        accept(a, (u8)command, mode, false); /* level IPIs are sent as edges */
}

/* ---- Registers ---- */

static const u32 lvt_writable[DEV_LVT_COUNT] = {
    [DEV_LVT_TIMER] = 0x700ff, [DEV_LVT_THERMAL] = 0x107ff, [DEV_LVT_COUNTER] = 0x107ff,
    [DEV_LVT_LINT0] = 0x1a7ff, [DEV_LVT_LINT1] = 0x1a7ff,   [DEV_LVT_ERROR] = 0x100ff,
};
static u32 lvt_mask(const struct dev_apic *a, unsigned which) {
    bool no_deadline = which == DEV_LVT_TIMER && !a->m->config.apic.tsc_deadline;
    return lvt_writable[which] & ~(no_deadline ? (u32)DEV_LVT_TSC_DEADLINE : 0);
}

static void write_lvt(struct dev_apic *a, unsigned which, u32 value) {
    u32 mask = lvt_mask(a, which), old = a->lvt[which];
    value = (old & ~mask) | (value & mask);
    if (!software_enabled(a))
        value |= DEV_LVT_MASKED;
    if (!(value & DEV_LVT_LEVEL))
        value &= ~(u32)DEV_LVT_REMOTE_IRR;
    a->lvt[which] = value;
    if (which == DEV_LVT_TIMER)
        dev_apic_timer_mode(a, old);
    else if (which == DEV_LVT_LINT0 || which == DEV_LVT_LINT1)
        sample_lint(a, which - DEV_LVT_LINT0, false);
    dev_intr_update(a->m); /* LINT0 may pass the 8259s now, or not any more */
}

/* Section 10.4.7.2 "Local APIC State After It Has Been Software Disabled". */
static void write_svr(struct dev_apic *a, u32 value) {
    a->svr = value & SVR_WRITABLE;
    if (!software_enabled(a))
        for (unsigned i = 0; i < DEV_LVT_COUNT; i++)
            a->lvt[i] |= DEV_LVT_MASKED;
    dev_ioapic_retry(a->m->ioapic);
    dev_intr_update(a->m);
}

/* What other registers do not know is an illegal register (xAPIC), or #GP (x2APIC, where the caller
 * sorts them out). */
static u32 read_register(struct dev_apic *a, unsigned reg) {
    if (reg >= REG_ISR && reg < REG_ESR) {
        const u32 *set = reg < REG_TMR ? a->isr : reg < REG_IRR ? a->tmr : a->irr;
        return set[reg & 7];
    }
    if (reg >= REG_LVT && reg < REG_LVT + DEV_LVT_COUNT)
        return a->lvt[reg - REG_LVT];
    switch (reg) {
    case REG_ID:
        return dev_apic_x2(a) ? a->id : (u32)a->id << 24;
    case REG_VERSION:
        return (DEV_LVT_COUNT - 1) << 16 | DEV_APIC_VERSION;
    case REG_TPR:
        return a->tpr;
    case REG_APR:
        return arbitration_priority(a);
    case REG_PPR:
        return processor_priority(a);
    case REG_EOI: /* write-only */
        return 0;
    case REG_LDR:
        return logical_id(a);
    case REG_DFR:
        return a->dfr;
    case REG_SVR:
        return a->svr;
    case REG_ESR:
        return a->esr;
    case REG_ICR:
        return (u32)a->icr;
    case REG_ICR_HIGH:
        return (u32)(a->icr >> 32);
    case REG_INITIAL:
        return a->initial;
    case REG_CURRENT:
        return dev_apic_timer_count(a);
    case REG_DIVIDE:
        return a->divide;
    default:
        note_error(a, ESR_ILLEGAL_REGISTER);
        return 0;
    }
}

static void write_register(struct dev_apic *a, unsigned reg, u32 value) {
    if (reg >= REG_LVT && reg < REG_LVT + DEV_LVT_COUNT) {
        write_lvt(a, reg - REG_LVT, value);
        return;
    }
    switch (reg) {
    case REG_ID:
        a->id = (u8)(value >> 24);
        break;
    case REG_TPR:
        a->tpr = value & 0xff;
        update(a);
        break;
    case REG_EOI:
        end_of_interrupt(a);
        break;
    case REG_LDR:
        a->ldr = value & 0xff000000u;
        dev_ioapic_retry(a->m->ioapic);
        break;
    case REG_DFR:
        a->dfr = value | 0x0fffffff;
        dev_ioapic_retry(a->m->ioapic);
        break;
    case REG_SVR:
        write_svr(a, value);
        break;
    case REG_ESR: /* a write latches what happened since the last one */
        a->esr = a->errors;
        a->errors = 0;
        break;
    case REG_ICR:
        a->icr = (a->icr & ~(u64)UINT32_MAX) | (value & ICR_WRITABLE);
        send_ipi(a);
        break;
    case REG_ICR_HIGH:
        a->icr = (u32)a->icr | (u64)(value & 0xff000000u) << 32;
        break;
    case REG_INITIAL:
        dev_apic_timer_start(a, value);
        break;
    case REG_DIVIDE:
        dev_apic_timer_divide(a, value & 0xb);
        break;
    default: /* read-only ones are left alone */
        if (reg != REG_VERSION && reg != REG_APR && reg != REG_PPR && reg != REG_CURRENT &&
            !(reg >= REG_ISR && reg < REG_ESR))
            note_error(a, ESR_ILLEGAL_REGISTER);
    }
}

/* ---- xAPIC: section 10.4.1 "The Local APIC Block Diagram": 32-bit accesses at 16-byte steps ----
 */

static u32 apic_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes; /* the bus cuts the value to size */
    return offset & 12 ? 0 : read_register(opaque, offset >> 4) >> (8 * (offset & 3));
}

static void apic_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    if (bytes == 4 && !(offset & 15))
        write_register(opaque, offset >> 4, value);
}

static const struct dev_region_ops apic_ops = {apic_read, apic_write, 4, NULL};

/* ---- x2APIC: section 10.12.1.2 "x2APIC Register Address Space" ---- */

static bool read_x2(struct dev_apic *a, unsigned reg, u64 *value) {
    bool there = reg == REG_ID || reg == REG_VERSION || reg == REG_TPR || reg == REG_PPR ||
                 reg == REG_LDR || reg == REG_SVR || (reg >= REG_ISR && reg <= REG_ESR) ||
                 reg == REG_ICR || (reg >= REG_LVT && reg <= REG_CURRENT) || reg == REG_DIVIDE;
    if (!there)
        return false;
    *value = reg == REG_ICR ? a->icr : read_register(a, reg);
    return true;
}

/* Bits that may be set in a write, 0 for registers that cannot be written (or only with 0). */
static u64 x2_writable(const struct dev_apic *a, unsigned reg) {
    if (reg >= REG_LVT && reg < REG_LVT + DEV_LVT_COUNT)
        return lvt_mask(a, reg - REG_LVT);
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return 0xff;
    case REG_SVR:
        return SVR_WRITABLE;
    case REG_ICR:
        return 0xffffffff00000000ull | ICR_WRITABLE;
    case REG_INITIAL:
        return UINT32_MAX;
    case REG_DIVIDE:
        return 0xb;
    default:
        return 0;
    }
}

static bool write_x2(struct dev_apic *a, unsigned reg, u64 value) {
    u64 writable = x2_writable(a, reg);
    if ((!writable && reg != REG_EOI && reg != REG_ESR) || (value & ~writable))
        return false;
    if (reg == REG_SELF_IPI) {
        reg = REG_ICR;
        value |= TO_SELF << 18;
    }
    if (reg == REG_ICR) {
        a->icr = value;
        send_ipi(a);
    } else {
        write_register(a, reg, (u32)value);
    }
    return true;
}

/* ---- IA32_APIC_BASE: sections 10.4.4 "Local APIC Status and Location" and 10.12.5 "x2APIC State
 * Transitions" ---- */

static void power_up(struct dev_apic *a);

static bool write_base(struct dev_apic *a, u64 value) {
    const u64 mode = DEV_APIC_BASE_EN | DEV_APIC_BASE_EXTD;
    u64 from = a->base & mode, to = value & mode;
    bool legal = to != DEV_APIC_BASE_EXTD && (to != mode || a->m->config.apic.x2apic) &&
                 !(from == 0 && to == mode) && !(from == mode && to == DEV_APIC_BASE_EN);
    if (!legal)
        return false;
    a->base = (value & ~DEV_APIC_BASE_BSP) | (a->base & DEV_APIC_BASE_BSP);
    if (!to)
        power_up(a); /* section 10.4.3: prior initialization may be lost */
    else if (to == mode && from != mode)
        a->icr = 0; /* section 10.12.5.1 "x2APIC States" */
    dev_bus_move_mmio(a->m->bus, &apic_ops, a,
                      GPA(to == DEV_APIC_BASE_EN ? a->base & ~0xfffull & ~mode : DEV_NOWHERE));
    dev_ioapic_retry(a->m->ioapic);
    update(a);
    return true;
}

bool dev_apic_msr(struct machine_devices *m, u32 index, bool write, u64 *value) {
    struct dev_apic *a = m->apic;
    if (!a)
        return false;
    if (index == DEV_MSR_APIC_BASE) {
        if (write)
            return write_base(a, *value);
        *value = a->base;
        return true;
    }
    if (index == DEV_MSR_TSC_DEADLINE && m->config.apic.tsc_deadline) {
        if (write)
            dev_apic_timer_set_deadline(a, *value);
        else
            *value = a->deadline_tsc;
        return true;
    }
    if (index < DEV_MSR_X2APIC || index > DEV_MSR_X2APIC + 0xff || !dev_apic_x2(a))
        return false;
    unsigned reg = index - DEV_MSR_X2APIC;
    return write ? write_x2(a, reg, *value) : read_x2(a, reg, value);
}

/* ---- Life ---- */

/* Section 10.4.7.1 "Local APIC State After Power-Up or Reset". The pins keep their levels. */
static void power_up(struct dev_apic *a) {
    dev_apic_timer_reset(a);
    memset(a->irr, 0, sizeof a->irr);
    memset(a->isr, 0, sizeof a->isr);
    memset(a->tmr, 0, sizeof a->tmr);
    for (unsigned i = 0; i < DEV_LVT_COUNT; i++)
        a->lvt[i] = DEV_LVT_MASKED;
    a->tpr = a->ldr = a->esr = a->errors = 0;
    a->icr = 0;
    a->id = 0;
    a->dfr = UINT32_MAX;
    a->svr = 0xff;
    a->pending = false;
}

static bool apic_init(struct machine_devices *m, void **state) {
    if (!m->config.apic.present)
        return true;
    struct dev_apic *a = calloc(1, sizeof *a);
    if (!a)
        return false;
    *state = m->apic = a;
    a->m = m;
    dev_apic_timer_init(a);
    return dev_bus_add_mmio(m->bus, GPA(DEV_APIC_BASE), REGION_BYTES, &apic_ops, a);
}

static void apic_reset(void *state) {
    struct dev_apic *a = state;
    power_up(a);
    a->base = DEV_APIC_BASE | DEV_APIC_BASE_EN | DEV_APIC_BASE_BSP;
    dev_bus_move_mmio(a->m->bus, &apic_ops, a, GPA(DEV_APIC_BASE));
    a->svr |= SVR_ENABLE;
    a->lvt[DEV_LVT_LINT0] = DEV_LVT_LEVEL | DEV_DELIVER_EXTINT << 8;
    a->lvt[DEV_LVT_LINT1] = DEV_LVT_LEVEL | DEV_DELIVER_NMI << 8;
}

const struct dev_descriptor dev_local_apic = {"local APIC", apic_init, apic_reset, free};
