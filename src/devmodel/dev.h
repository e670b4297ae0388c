/*
 * dev.h: the device side of the machine.
 *
 * A device is one file that registers port or MMIO handlers, raises IRQ lines, arms timers and
 * talks to a character back end. It knows nothing of CPU, MMU or translator, never exits the
 * process, never reads host time. Everything runs on the vCPU thread; nothing here is thread safe
 * or signal safe. Time is virtual nanoseconds.
 */
#ifndef RINGFOLD_DEVMODEL_DEV_H
#define RINGFOLD_DEVMODEL_DEV_H

#include "base/base.h"

struct machine_devices; /* the whole PC: all devices and the bus */

/* ---- Clock and timers ---- */

/* Virtual time source, injected. now_ns must be monotonic. */
struct dev_clock {
    u64 (*now_ns)(void *opaque);
    void *opaque;
    /* Wall-clock seconds since 1970 UTC at virtual time 0, for the RTC. */
    i64 epoch_s;
};

#define DEV_NEVER UINT64_MAX

/* One-shot timer, embedded in the device's state. fire() runs from dev_run_timers. */
struct dev_timer {
    u64 deadline_ns; /* DEV_NEVER when not armed */
    void (*fire)(void *opaque);
    void *opaque;
    struct dev_timer *next;
};
struct dev_timers {
    struct dev_timer *head;
};
void dev_timer_init(struct dev_timers *list, struct dev_timer *t, void (*fire)(void *),
                    void *opaque);
void dev_timer_arm(struct dev_timer *t, u64 deadline_ns);
void dev_timer_cancel(struct dev_timer *t);

/* ---- Port and MMIO bus ---- */

/* Ports only: an access that begins in the region is never split. It comes whole though it runs off
 * the end; one that is not aligned to its size does not come (and reads as 0). */
#define DEV_UNDIVIDED 0xff
/* Accesses of 1, 2 or 4 bytes. offset is relative to the region's base. A device that takes bytes
 * only sets max_bytes = 1 and the bus splits wider accesses. */
struct dev_region_ops {
    u32 (*read)(void *opaque, u32 offset, unsigned bytes);
    void (*write)(void *opaque, u32 offset, u32 value, unsigned bytes);
    u8 max_bytes; /* 1, 2 or 4, 0 means 4; or DEV_UNDIVIDED */
    /* Ports only: whether this access (value: what is written) is light, that is, looks at and
     * changes nothing but the clock, the state of devices, timers, IRQ lines and requests. It calls
     * no back end, no library and nothing of the machine's owner but the clock. NULL: none is. */
    bool (*light)(const void *opaque, u32 offset, bool write, u32 value);
};
/* For a region whose accesses all are; all that read. */
bool dev_light_always(const void *opaque, u32 offset, bool write, u32 value);
bool dev_light_reads(const void *opaque, u32 offset, bool write, u32 value);
struct dev_bus;
struct dev_bus *dev_bus_create(void);
void dev_bus_destroy(struct dev_bus *bus);
/* Claims [base, base+count) ports; later claims shadow earlier ones. False when the table is full.
 */
bool dev_bus_add_ports(struct dev_bus *bus, u16 base, u32 count, const struct dev_region_ops *ops,
                       void *opaque);
bool dev_bus_add_mmio(struct dev_bus *bus, struct gpa base, u64 bytes,
                      const struct dev_region_ops *ops, void *opaque);
/* Moves the MMIO regions that ops and opaque claimed; to a base of DEV_NOWHERE: out of reach. */
#define DEV_NOWHERE UINT64_MAX
void dev_bus_move_mmio(struct dev_bus *bus, const struct dev_region_ops *ops, void *opaque,
                       struct gpa base);
/* Unclaimed ports and MMIO read as all ones; writes to them are dropped. */
u32 dev_io_read(struct dev_bus *bus, u16 port, unsigned bytes);
void dev_io_write(struct dev_bus *bus, u16 port, u32 value, unsigned bytes);
/* Makes the access if it is light: reads or writes *value. False: nothing happened. Uses general
 * registers only. */
bool dev_io_light(struct dev_bus *bus, u16 port, unsigned bytes, bool write, u32 *value);
u64 dev_mmio_read(struct dev_bus *bus, struct gpa addr, unsigned bytes);
void dev_mmio_write(struct dev_bus *bus, struct gpa addr, u64 value, unsigned bytes);

/* ---- IRQ lines ---- */
struct dev_irq {
    void (*set)(void *opaque, unsigned line, bool level);
    void *opaque;
    unsigned line;
};
static inline void dev_irq_set(const struct dev_irq *irq, bool level) {
    if (irq->set)
        irq->set(irq->opaque, irq->line, level);
}

/* ---- Character back ends (serial lines) ---- */

/* Output goes through write (never blocks for long; returns bytes taken). Input is pulled by the
 * device: can-receive logic is the device's own; read returns 0..max bytes. */
struct dev_chardev {
    size_t (*write)(void *opaque, const u8 *data, size_t bytes);
    size_t (*read)(void *opaque, u8 *data, size_t max_bytes);
    void *opaque;
};

/* ---- What devices ask of the machine; drained by the monitor after every access ---- */
struct dev_requests {
    bool reset;        /* i8042 FEh, port 92h bit 0, port CF9h */
    bool poweroff;     /* ACPI S5 */
    bool exit;         /* isa-debug-exit */
    int exit_code;     /* (v << 1) | 1 */
    bool intr_changed; /* dev_intr_pending may have changed */
    bool nmi;          /* an NMI is to be delivered */
};

/* ---- Firmware configuration (fw_cfg.c) ---- */

/* Keys of QEMU's fw_cfg items. */
enum {
    DEV_FW_CFG_SIGNATURE = 0x00,
    DEV_FW_CFG_ID = 0x01,
    DEV_FW_CFG_UUID = 0x02,
    DEV_FW_CFG_RAM_SIZE = 0x03,
    DEV_FW_CFG_NOGRAPHIC = 0x04,
    DEV_FW_CFG_NB_CPUS = 0x05,
    DEV_FW_CFG_KERNEL_ADDR = 0x07,
    DEV_FW_CFG_KERNEL_SIZE = 0x08,
    DEV_FW_CFG_INITRD_ADDR = 0x0a,
    DEV_FW_CFG_INITRD_SIZE = 0x0b,
    DEV_FW_CFG_BOOT_MENU = 0x0e,
    DEV_FW_CFG_MAX_CPUS = 0x0f,
    DEV_FW_CFG_KERNEL_DATA = 0x11,
    DEV_FW_CFG_INITRD_DATA = 0x12,
    DEV_FW_CFG_CMDLINE_ADDR = 0x13,
    DEV_FW_CFG_CMDLINE_SIZE = 0x14,
    DEV_FW_CFG_CMDLINE_DATA = 0x15,
    DEV_FW_CFG_SETUP_ADDR = 0x16,
    DEV_FW_CFG_SETUP_SIZE = 0x17,
    DEV_FW_CFG_SETUP_DATA = 0x18,
    DEV_FW_CFG_FILE_DIR = 0x19,
    DEV_FW_CFG_FILE_FIRST = 0x20,
};
#define DEV_FW_CFG_NAME_BYTES 56 /* with the NUL */
/* One item beside those that the device makes by itself (up to FILE_DIR). With a name it is a file
 * of the directory, and the device chooses the key. Name and data stay their owner's. */
struct dev_fw_cfg_item {
    u16 key;
    const char *name;
    const u8 *data;
    u32 bytes;
};

/* ---- The machine ---- */

/* Local APIC of the CPU and I/O APIC beside the 8259s. What CPUID announces decides. */
struct dev_apic_config {
    bool present; /* false: the 8259s alone */
    bool x2apic, tsc_deadline;
    u64 timer_hz; /* the timer's clock before its divider */
    /* The guest's time-stamp counter, for TSC-deadline mode. */
    u64 tsc_hz;
    u64 (*tsc)(void *opaque);
    void *opaque;
};

struct dev_config {
    u64 ram_bytes;
    struct dev_clock clock;
    struct dev_apic_config apic;
    struct dev_chardev serial[2]; /* COM1, COM2; a null write means not connected */
    bool debug_exit;              /* -device isa-debug-exit */
    u16 debug_exit_iobase;        /* default 0x501 */
    u8 debug_exit_iosize;         /* default 2 */
    bool testdev;                 /* -device pc-testdev */
    struct dev_chardev debugcon;  /* port E9h; null write: absent */
    /* Guest RAM, flat, for DMA and for placing the ACPI tables. Stores by a device must be told
     * to dma_written (may be NULL) so that translations of those bytes die. */
    u8 *ram;
    void (*dma_written)(void *opaque, struct gpa addr, u64 bytes);
    /* False when part of it cannot be written. NULL: all RAM can. */
    bool (*ram_writable)(void *opaque, struct gpa addr, u64 bytes);
    /* The host bridge's PAM registers made this part of C0000h-FFFFFh writable, or not. NULL: not
     * wanted. */
    void (*shadow_changed)(void *opaque, struct gpa addr, u64 bytes, bool writable);
    void *dma_opaque; /* of all three */
    const struct dev_fw_cfg_item *fw_cfg;
    unsigned fw_cfg_items;
};

/* NULL on allocation failure. The config is copied. */
struct machine_devices *dev_machine_create(const struct dev_config *config);
void dev_machine_destroy(struct machine_devices *m);
/* Power-on reset of every device. Does not touch RAM. */
void dev_machine_reset(struct machine_devices *m);
/* Writes RSDP, RSDT, FADT, FACS, DSDT and, for a machine with APICs, the MADT into guest RAM in
 * E0000h-EFFFFh. Call after each RAM load. */
void dev_acpi_place_tables(struct machine_devices *m);
/* Writes the MultiProcessor Specification's floating pointer and configuration table to F0000h, if
 * the machine has APICs. Call after each RAM load. */
void dev_mp_place_tables(struct machine_devices *m);

struct dev_bus *dev_machine_bus(struct machine_devices *m);
struct dev_requests *dev_machine_requests(struct machine_devices *m);

/* Whether a maskable interrupt asks for the CPU: from the local APIC, where the processor and task
 * priority allow it, or from the 8259s. dev_intr_acknowledge returns the vector to deliver and
 * acknowledges it; the local APIC's come before the 8259s' (the manuals leave the order open). With
 * nothing pending it yields a spurious vector. */
bool dev_intr_pending(struct machine_devices *m);
u8 dev_intr_acknowledge(struct machine_devices *m);
/* A pulse on the processor's NMI line, which is the local APIC's LINT1. What becomes of it shows in
 * dev_requests. */
void dev_nmi_pulse(struct machine_devices *m);

/* The processor's FERR# output: an x87 error waits, and CR0.NE is clear. Returns its IGNNE# input:
 * the guest said that the error is to be passed over. SDM volume 1, appendix D.2. */
bool dev_ferr_set(struct machine_devices *m, bool asserted);

/* A message-signalled interrupt: a device's write of data to FEExxxxxh. Other addresses, and
 * machines without an APIC, drop it. SDM volume 3, section 10.11 "Message Signalled Interrupts". */
void dev_msi_write(struct machine_devices *m, struct gpa address, u32 data);

/* The MSRs of the local APIC: IA32_APIC_BASE (1Bh; the caller has checked the reserved bits),
 * IA32_TSC_DEADLINE (6E0h) and, in x2APIC mode, 800h-8FFh. Reads or writes *value; false: #GP(0),
 * also when there is no APIC. */
bool dev_apic_msr(struct machine_devices *m, u32 index, bool write, u64 *value);
/* The guest's time-stamp counter was set: a deadline in terms of it has moved. */
void dev_apic_tsc_changed(struct machine_devices *m);

/* Earliest armed timer, DEV_NEVER if none. dev_run_timers fires all due at now_ns. */
u64 dev_next_deadline_ns(struct machine_devices *m);
void dev_run_timers(struct machine_devices *m, u64 now_ns);
/* Tells the serial ports that their back end may have input. */
void dev_serial_poll(struct machine_devices *m);
/* State of A20 as port 92h and the i8042 set it. */
bool dev_a20_enabled(struct machine_devices *m);

#endif
