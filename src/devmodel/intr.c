/*
 * intr.c: the paths that interrupts take. A device's line leads to the 8259s and to the I/O APIC at
 * once, whichever of them the guest has unmasked; the 8259s' INTR leads to the local APIC's LINT0
 * and to the I/O APIC's pin 0; what reaches the CPU is one bit, computed when something changes, so
 * that looking at it costs a load. Source: MultiProcessor Specification 1.4, section 3.6.2
 * "Interrupt Modes"; SDM volume 3, section 10.1 "Local and I/O APIC Overview".
 */
#include "devmodel/machine.h"

static bool pic_reaches_cpu(const struct machine_devices *m) {
    if (!dev_pic_output(m->pic))
        return false;
    return !m->apic || dev_apic_passes_extint(m->apic) || dev_ioapic_passes_extint(m->ioapic);
}

void dev_intr_update(struct machine_devices *m) {
    bool intr = (m->apic && dev_apic_pending(m->apic)) || pic_reaches_cpu(m);
    if (intr != m->intr)
        m->requests.intr_changed = true;
    m->intr = intr;
}

void dev_intr_pic_output(struct machine_devices *m, bool level) {
    if (m->apic)
        dev_apic_set_lint(m->apic, 0, level);
    if (m->ioapic)
        dev_ioapic_set_pin(m->ioapic, 0, level);
    dev_intr_update(m);
}

static void set_line(void *opaque, unsigned line, bool level) {
    struct machine_devices *m = opaque;
    if (line < 16)
        dev_pic_set_line(m->pic, line, level);
    if (m->ioapic && line != 2) /* the 8259s' cascade */
        dev_ioapic_set_pin(m->ioapic, line ? line : DEV_IOAPIC_TIMER_PIN, level);
}

struct dev_irq dev_machine_irq(struct machine_devices *m, unsigned line) {
    return (struct dev_irq){set_line, m, line};
}

bool dev_intr_pending(struct machine_devices *m) {
    return m->intr;
}

u8 dev_intr_acknowledge(struct machine_devices *m) {
    u8 vector = m->apic && (dev_apic_pending(m->apic) || !pic_reaches_cpu(m))
                    ? dev_apic_acknowledge(m->apic)
                    : dev_pic_acknowledge(m->pic);
    dev_intr_update(m);
    return vector;
}

void dev_nmi_pulse(struct machine_devices *m) {
    if (!m->apic) {
        m->requests.nmi = true;
        return;
    }
    dev_apic_set_lint(m->apic, 1, true);
    dev_apic_set_lint(m->apic, 1, false);
}

/* SDM volume 3, section 10.11.1 "Message Address Register Format". With the redirection hint set
 * the one CPU there is has the lowest priority of all. */
void dev_msi_write(struct machine_devices *m, struct gpa address, u32 data) {
    if (!m->apic || address.v >> 20 != 0xfee)
        return;
    struct dev_intr_message message = {.vector = (u8)data,
                                       .mode = data >> 8 & 7,
                                       .level = data >> 15 & 1,
                                       .logical = address.v >> 2 & 1,
                                       .destination = (u8)(address.v >> 12)};
    bool deassert = message.level && !(data >> 14 & 1);
    if (!deassert)
        dev_apic_deliver(m->apic, &message);
}
