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

struct dev_pic;
struct dev_uart;

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
    bool a20;                 /* shared by the i8042 and port 92h: the last writer wins */
    struct dev_pic *pic;      /* set by the PIC's init */
    struct dev_uart *uart[2]; /* set by the UARTs' init; NULL when not connected */
    void *state[DEV_MAX_DEVICES];
};

/* Virtual time now. */
static inline u64 dev_now_ns(struct machine_devices *m) {
    return m->config.clock.now_ns ? m->config.clock.now_ns(m->config.clock.opaque) : 0;
}

/* Ticks of a hz clock elapsed at virtual time ns, and the first ns at which it shows that many. */
static inline u64 dev_ns_to_ticks(u64 ns, u64 hz) {
    return (u64)((unsigned __int128)ns * hz / DEV_NS_PER_S);
}
static inline u64 dev_ticks_to_ns(u64 ticks, u64 hz) {
    return (u64)(((unsigned __int128)ticks * DEV_NS_PER_S + hz - 1) / hz);
}

/* The ISA interrupt line (0-15) as an injectable handle. */
struct dev_irq dev_machine_irq(struct machine_devices *m, unsigned line);

/* pic.c */
bool dev_pic_output(const struct dev_pic *pic);
u8 dev_pic_acknowledge(struct dev_pic *pic);
void dev_pic_set_line(void *pic, unsigned line, bool level);
/* uart.c: pulls input from the back end and retries output that it did not take. */
void dev_uart_poll(struct dev_uart *u);
/* timer.c */
u64 dev_timers_next_ns(const struct dev_timers *list);
void dev_timers_run(struct dev_timers *list, u64 now_ns);

extern const struct dev_descriptor dev_pic, dev_pit, dev_rtc, dev_com1, dev_com2, dev_i8042,
    dev_port92, dev_post, dev_pci, dev_reset_control, dev_acpi_pm, dev_dma, dev_debug_exit,
    dev_testdev, dev_debugcon, dev_fw_cfg;

#endif
