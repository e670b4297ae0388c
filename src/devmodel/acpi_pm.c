/*
 * acpi_pm.c: the ACPI fixed hardware as the PIIX4 lays it out: PM1a event and control block, PM
 * timer, GPE0, and the SMI command port that hands the hardware to the OS. Sources: ACPI 2.0
 * section 4.7.3 "Fixed Hardware Features"; Intel 82371AB data sheet (290562), "Power Management
 * I/O Registers".
 *
 * DEVIATION: no power button, no wake events; sleep types other than S5's are ignored.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

#define PM_TIMER_HZ 3579545ull
enum {
    PM1_STS = 0x00,
    PM1_EN = 0x02,
    PM1_CNT = 0x04,
    PM_TMR = 0x08,
    GPE_STS = 0x0c,
    GPE_EN = 0x0e,
    PM_BYTES = 0x40,
    STS_TMR = 0x0001,
    EN_BITS = 0x0521, /* TMR, GBL, PWRBTN, RTC */
    CNT_SCI_EN = 0x0001,
    CNT_BM_RLD = 0x0002,
    CNT_SLP_TYP = 0x1c00,
    CNT_SLP_EN = 0x2000,
    TIMER_BITS = 24,
};

struct acpi_pm {
    struct machine_devices *m;
    struct dev_irq sci;
    struct dev_timer timer;
    u16 status, enable, control, gpe_enable;
    u64 synced_ticks; /* timer value up to which STS_TMR is right */
    u8 smi[2];        /* APMC, APMS */
};

static u64 ticks_now(struct acpi_pm *a) {
    return dev_ns_to_ticks(dev_now_ns(a->m), PM_TIMER_HZ);
}

/* TMR_STS is set whenever the timer's top bit changes. */
static void sync(struct acpi_pm *a) {
    u64 now = ticks_now(a);
    if (now >> (TIMER_BITS - 1) != a->synced_ticks >> (TIMER_BITS - 1))
        a->status |= STS_TMR;
    a->synced_ticks = now;
}

static void update(struct acpi_pm *a) {
    sync(a);
    dev_irq_set(&a->sci, (a->control & CNT_SCI_EN) && (a->status & a->enable));
    if ((a->enable & STS_TMR) && !(a->status & STS_TMR)) {
        u64 next = ((a->synced_ticks >> (TIMER_BITS - 1)) + 1) << (TIMER_BITS - 1);
        dev_timer_arm(&a->timer, dev_ticks_to_ns(next, PM_TIMER_HZ));
    } else {
        dev_timer_cancel(&a->timer);
    }
}

static void timer_wrapped(void *opaque) {
    update(opaque);
}

static u16 read_word(struct acpi_pm *a, u32 reg, u32 timer) {
    switch (reg) {
    case PM1_STS:
        return a->status;
    case PM1_EN:
        return a->enable;
    case PM1_CNT:
        return a->control;
    case PM_TMR:
        return (u16)timer;
    case PM_TMR + 2:
        return (u16)(timer >> 16);
    case GPE_EN:
        return a->gpe_enable;
    default: /* GPE_STS: there are no events */
        return 0;
    }
}

static void write_pm1_control(struct acpi_pm *a, u16 value) {
    a->control = value & (CNT_SCI_EN | CNT_BM_RLD | CNT_SLP_TYP);
    if (!(value & CNT_SLP_EN))
        return;
    if ((value & CNT_SLP_TYP) == 0) /* soft off: \_S5 names this type */
        a->m->requests.poweroff = true;
    else
        TRACE(unimp, "acpi: sleep type %u\n", value >> 10 & 7);
}

/* mask tells which bytes of the word were written. */
static void write_word(struct acpi_pm *a, u32 reg, u16 value, u16 mask) {
    switch (reg) {
    case PM1_STS:
        a->status &= (u16) ~(value & mask);
        break;
    case PM1_EN:
        a->enable = ((a->enable & (u16)~mask) | (value & mask)) & EN_BITS;
        break;
    case PM1_CNT:
        write_pm1_control(a, (a->control & (u16)~mask) | (value & mask));
        break;
    case GPE_EN:
        a->gpe_enable = (a->gpe_enable & (u16)~mask) | (value & mask);
        break;
    default:
        break;
    }
}

static u32 pm_read(void *opaque, u32 offset, unsigned bytes) {
    struct acpi_pm *a = opaque;
    u32 value = 0;
    sync(a);
    u32 timer = (u32)(a->synced_ticks & (BIT64(TIMER_BITS) - 1));
    for (unsigned i = 0; i < bytes; i++) {
        u16 word = read_word(a, (offset + i) & ~1u, timer);
        value |= (u32)((offset + i) & 1 ? word >> 8 : word & 0xff) << (8 * i);
    }
    return value;
}

static void pm_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct acpi_pm *a = opaque;
    sync(a);
    for (unsigned i = 0; i < bytes;) {
        bool odd = (offset + i) & 1, whole = !odd && bytes - i >= 2;
        u16 mask = whole ? 0xffff : odd ? 0xff00 : 0x00ff;
        u16 word = (u16)(odd ? value >> (8 * i) << 8 : value >> (8 * i));
        write_word(a, (offset + i) & ~1u, word, mask);
        i += whole ? 2 : 1;
    }
    update(a);
}

static u32 smi_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    return ((struct acpi_pm *)opaque)->smi[offset];
}

/* What the SMI handler of a BIOS would do: switch between legacy and ACPI mode. */
static void smi_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    struct acpi_pm *a = opaque;
    a->smi[offset] = (u8)value;
    if (offset == 0 && value == DEV_ACPI_ENABLE)
        a->control |= CNT_SCI_EN;
    else if (offset == 0 && value == DEV_ACPI_DISABLE)
        a->control &= (u16)~CNT_SCI_EN;
    update(a);
}

static const struct dev_region_ops pm_ops = {pm_read, pm_write, 4, dev_light_always};
static const struct dev_region_ops smi_ops = {smi_read, smi_write, 1, dev_light_always};

static bool acpi_pm_init(struct machine_devices *m, void **state) {
    struct acpi_pm *a = calloc(1, sizeof *a);
    if (!a)
        return false;
    *state = a;
    a->m = m;
    a->sci = dev_machine_irq(m, DEV_SCI_IRQ);
    dev_timer_init(&m->timers, &a->timer, timer_wrapped, a);
    return dev_bus_add_ports(m->bus, DEV_PM_BASE, PM_BYTES, &pm_ops, a) &&
           dev_bus_add_ports(m->bus, DEV_SMI_CMD, 2, &smi_ops, a);
}

static void acpi_pm_reset(void *state) {
    struct acpi_pm *a = state;
    a->status = a->enable = a->control = a->gpe_enable = 0;
    a->smi[0] = a->smi[1] = 0;
    a->synced_ticks = ticks_now(a);
    update(a);
}

const struct dev_descriptor dev_acpi_pm = {"ACPI PM", acpi_pm_init, acpi_pm_reset, free};
