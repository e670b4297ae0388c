/*
 * devices.c: the list of devices that make up the PC, and the machine that owns them. A new device
 * is one file plus one line in the list.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

/* In order of creation: the interrupt controllers first, because the others take IRQ lines from
 * them; later claims of a port shadow earlier ones. */
static const struct dev_descriptor *const devices[] = {
    &dev_pic,     &dev_local_apic,    &dev_io_apic, &dev_pit,      &dev_rtc,  &dev_com1,
    &dev_com2,    &dev_i8042,         &dev_port92,  &dev_dma,      &dev_post, /* port 80h lies among
                                                                                 the DMA page
                                                                                 registers */
    &dev_pci,     &dev_reset_control, /* port CF9h lies in PCI's CF8h-CFBh */
    &dev_acpi_pm, &dev_debug_exit,    &dev_testdev, &dev_debugcon, /* port E9h lies in testdev's
                                                                      E8h-EBh */
    &dev_fw_cfg,  &dev_ferr,
};
_Static_assert(ARRAY_LEN(devices) <= DEV_MAX_DEVICES, "raise DEV_MAX_DEVICES");

struct machine_devices *dev_machine_create(const struct dev_config *config) {
    struct machine_devices *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->config = *config;
    m->bus = dev_bus_create();
    bool good = m->bus != NULL;
    for (unsigned i = 0; good && i < ARRAY_LEN(devices); i++)
        good = devices[i]->init(m, &m->state[i]);
    if (!good) {
        dev_machine_destroy(m);
        return NULL;
    }
    dev_machine_reset(m);
    return m;
}

void dev_machine_destroy(struct machine_devices *m) {
    if (!m)
        return;
    for (unsigned i = ARRAY_LEN(devices); i-- > 0;)
        if (m->state[i] && devices[i]->done)
            devices[i]->done(m->state[i]);
    if (m->bus)
        dev_bus_destroy(m->bus);
    free(m);
}

void dev_machine_reset(struct machine_devices *m) {
    m->a20 = true;
    for (unsigned i = 0; i < ARRAY_LEN(devices); i++)
        if (m->state[i] && devices[i]->reset)
            devices[i]->reset(m->state[i]);
    dev_intr_update(m);
    m->requests = (struct dev_requests){.intr_changed = true};
}

struct dev_bus *dev_machine_bus(struct machine_devices *m) {
    return m->bus;
}

struct dev_requests *dev_machine_requests(struct machine_devices *m) {
    return &m->requests;
}

u64 dev_next_deadline_ns(struct machine_devices *m) {
    return dev_timers_next_ns(&m->timers);
}

void dev_run_timers(struct machine_devices *m, u64 now_ns) {
    dev_timers_run(&m->timers, now_ns);
}

void dev_serial_poll(struct machine_devices *m) {
    for (unsigned i = 0; i < ARRAY_LEN(m->uart); i++)
        if (m->uart[i])
            dev_uart_poll(m->uart[i]);
}

bool dev_a20_enabled(struct machine_devices *m) {
    return m->a20;
}
