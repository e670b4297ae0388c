/*
 * machine.h: internal to devmodel. The services that the machine lends to its devices (bus,
 * timers, IRQ lines, requests) and the descriptor by which a device joins it.
 */
#ifndef RINGFOLD_DEVMODEL_MACHINE_H
#define RINGFOLD_DEVMODEL_MACHINE_H

#include "devmodel/dev.h"

#define DEV_MAX_DEVICES 32
#define DEV_NS_PER_S 1000000000ull

/* Fixed places that the ACPI tables, the PCI configuration space and the devices agree on. */
#define DEV_PM_BASE 0x600u /* PIIX4 PMBA */
#define DEV_SMI_CMD 0xb2u  /* APMC */
#define DEV_ACPI_ENABLE 0xf1u
#define DEV_ACPI_DISABLE 0xf0u
#define DEV_SCI_IRQ 9u
#define DEV_RTC_CENTURY 0x32u
#define DEV_APIC_BASE 0xfee00000u /* where reset puts the local APIC */
#define DEV_APIC_VERSION 0x14u
#define DEV_IOAPIC_BASE 0xfec00000u
#define DEV_IOAPIC_VERSION 0x11u
/* The BIOS gives the I/O APIC an ID that the processor's local APIC (0) does not have. */
#define DEV_IOAPIC_ID 1u
#define DEV_IOAPIC_PINS 24u
/* ISA line n is wired to pin n, but the 8254's to pin 2; the 8259s' INTR to pin 0. */
#define DEV_IOAPIC_TIMER_PIN 2u

struct dev_pic;
struct dev_apic;
struct dev_ioapic;
struct dev_uart;
struct dev_ferr;

/* One kind of device. init allocates the state, claims ports and MMIO, and returns false on
 * failure; *state may stay NULL when the configuration leaves the device out. reset and done are
 * only called with a state, and may be NULL. reset also runs once after every init. */
struct dev_descriptor {
    const char *name;
    bool (*init)(struct machine_devices *m, void **state);
    void (*reset)(void *state);
    void (*done)(void *state);
};

struct machine_devices {
    struct dev_config config;
    struct dev_bus *bus;
    struct dev_timers timers;
    struct dev_requests requests;
    bool a20;              /* shared by the i8042 and port 92h: the last writer wins */
    bool intr;             /* what dev_intr_pending says */
    struct dev_pic *pic;   /* set by the PIC's init */
    struct dev_apic *apic; /* likewise; NULL in a machine without APICs */
    struct dev_ioapic *ioapic;
    struct dev_ferr *ferr;
    struct dev_uart *uart[2]; /* set by the UARTs' init; NULL when not connected */
    void *state[DEV_MAX_DEVICES];
};

/* Virtual time now. */
static inline u64 dev_now_ns(struct machine_devices *m) {
    return m->config.clock.now_ns ? m->config.clock.now_ns(m->config.clock.opaque) : 0;
}

/* Ticks of a hz clock elapsed at virtual time ns, and the first ns at which it shows that many; hz
 * below 2^34. Whole seconds go apart: the division of 128 bits would be the compiler's library's. */
static inline u64 dev_ns_to_ticks(u64 ns, u64 hz) {
    return ns / DEV_NS_PER_S * hz + ns % DEV_NS_PER_S * hz / DEV_NS_PER_S;
}
static inline u64 dev_ticks_to_ns(u64 ticks, u64 hz) {
    return ticks / hz * DEV_NS_PER_S + (ticks % hz * DEV_NS_PER_S + hz - 1) / hz;
}

/* An interrupt line as an injectable handle: 0-15 are the ISA lines, which lead to the 8259s and to
 * the I/O APIC, 16-23 lead to the I/O APIC only. */
struct dev_irq dev_machine_irq(struct machine_devices *m, unsigned line);

/* intr.c: finds out anew whether an interrupt asks for the CPU. */
void dev_intr_update(struct machine_devices *m);
/* The 8259s' INTR output changed. */
void dev_intr_pic_output(struct machine_devices *m, bool level);

/* apic.c. A message on the way to the local APIC: SDM volume 3, section 10.11.2 "Message Data
 * Register Format" (delivery modes) and 10.6.2 "Determining IPI Destination". */
enum dev_delivery {
    DEV_DELIVER_FIXED,
    DEV_DELIVER_LOWEST,
    DEV_DELIVER_SMI,
    DEV_DELIVER_NMI = 4,
    DEV_DELIVER_INIT,
    DEV_DELIVER_STARTUP,
    DEV_DELIVER_EXTINT
};
struct dev_intr_message {
    u8 vector, mode; /* enum dev_delivery */
    bool level;      /* level triggered */
    bool logical;
    u8 destination;
};
/* False when the local APIC did not take it: not its destination, or not enabled. */
bool dev_apic_deliver(struct dev_apic *apic, const struct dev_intr_message *message);
bool dev_apic_matches(const struct dev_apic *apic, u8 destination, bool logical);
void dev_apic_set_lint(struct dev_apic *apic, unsigned pin, bool level);
/* Whether its own interrupts ask for the CPU, and whether it lets the 8259s ask. */
bool dev_apic_pending(const struct dev_apic *apic);
bool dev_apic_passes_extint(const struct dev_apic *apic);
u8 dev_apic_acknowledge(struct dev_apic *apic);
/* ioapic.c */
void dev_ioapic_set_pin(struct dev_ioapic *io, unsigned pin, bool level);
void dev_ioapic_eoi(struct dev_ioapic *io, u8 vector);
/* Offers what was not accepted once more: the local APIC has changed. */
void dev_ioapic_retry(struct dev_ioapic *io);
/* Whether an ExtINT entry passes pin 0, the 8259s' INTR, to the CPU. */
bool dev_ioapic_passes_extint(const struct dev_ioapic *io);

/* pic.c */
bool dev_pic_output(const struct dev_pic *pic);
u8 dev_pic_acknowledge(struct dev_pic *pic);
void dev_pic_set_line(void *pic, unsigned line, bool level);
/* uart.c: pulls input from the back end and retries output that it did not take. */
void dev_uart_poll(struct dev_uart *u);
/* timer.c */
u64 dev_timers_next_ns(const struct dev_timers *list);
void dev_timers_run(struct dev_timers *list, u64 now_ns);

extern const struct dev_descriptor dev_pic, dev_local_apic, dev_io_apic, dev_pit, dev_rtc, dev_com1,
    dev_com2, dev_i8042, dev_port92, dev_post, dev_pci, dev_reset_control, dev_acpi_pm, dev_dma,
    dev_debug_exit, dev_testdev, dev_debugcon, dev_fw_cfg, dev_ferr;

#endif
