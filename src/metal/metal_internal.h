/*
 * metal_internal.h: what the files of src/metal tell each other and nobody else.
 *
 * Start-up calls, in this order:
 *   metal_console_init      needs nothing; from here on metal_fatal is heard
 *   metal_descriptors_init  needs nothing; from here on a fault is reported. Interrupts stay off
 *   (memory, paging with the direct map, heap, TLS)
 *   metal_power_init        finds the ACPI tables; needs the direct map and metal_boot()
 *   metal_traps_init        interrupt controllers, guard pages; needs the direct map
 *   metal_time_init         TSC frequency, clock, timer
 *   STI
 */
#ifndef RINGFOLD_METAL_METAL_INTERNAL_H
#define RINGFOLD_METAL_METAL_INTERNAL_H

#include "metal/metal.h"

void metal_console_init(void);
void metal_descriptors_init(void);
void metal_power_init(void);
void metal_traps_init(void);
void metal_time_init(void);

/* ---- paging.c ---- */

/* Whether the direct map reaches all of these bytes, be they RAM, tables or devices. */
bool metal_phys_mapped(u64 phys, u64 bytes);

/* Takes a page of the image's data away from every root: nothing may touch it from then on. */
void metal_page_remove(const void *page);

/* ---- console.c ---- */

/* Lets received bytes raise IRQ 4, for which the 8259 is set up. What has come before and was not
 * read raises it at once. */
void metal_console_enable_input(void);

/* ---- descriptors.c ---- */

/* Stacks that the CPU switches to by itself. SDM volume 3, section 7.7 "Task Management in 64-bit
 * Mode". Numbers are those of the gates' IST field; 0 is RSP0's, for traps out of guest code. */
enum metal_stack {
    METAL_STACK_TRAP,
    METAL_STACK_NMI,
    METAL_STACK_DEBUG,
    METAL_STACK_DOUBLE_FAULT,
    METAL_STACK_MACHINE_CHECK,
    METAL_STACK_DEVICE,
    METAL_STACKS
};
/* Takes away the page below each of them; paging is ready. */
void metal_stacks_guard(void);
/* The stack below which this address lies in a guard page, NULL when there is none. */
const char *metal_stack_overrun(u64 address);

/* ---- trap.S ---- */

extern const u8 metal_trap_stubs[256][METAL_TRAP_STUB_BYTES];
extern const u8 metal_trap_iret[];       /* the IRETQ that leaves the trap path */
extern u8 metal_trap_clac[3];            /* room for CLAC */
extern const u8 metal_syscall_refused[]; /* LSTAR as long as nobody set it */
extern const u8 metal_compat_syscall[];  /* CSTAR */
extern const u8 metal_read_from[], metal_read_to[], metal_read_landing[];
extern volatile u32 metal_nmi_count;

/* Reads 8 bytes that may not be there. */
bool metal_read_safely(u64 address, u64 *value);

/* ---- trap.c, called by trap.S ---- */

/* All traps but the usual ones out of guest code. Returns the frame to go on with: at CPL 0 it is
 * resumed, otherwise the guest-trap hook sees it. */
struct metal_frame *metal_trap_slow(struct metal_frame *frame, u64 cr2);
/* The guest-trap hook gave up. */
_Noreturn void metal_trap_unexplained(struct metal_frame *frame, u64 cr2);
void metal_device_interrupt(struct metal_frame *frame);

/* ---- timer.c ---- */

/* Sets up the 8259 pair and the local APIC, all quiet but IRQ 4. */
void metal_interrupt_controllers_init(void);
/* Chooses the timer; the TSC's frequency is known. */
void metal_timer_init(void);
/* Tells the controllers that the interrupt was taken. False when there is nothing to tell anybody:
 * it was spurious, or of a timer disarmed meanwhile. */
bool metal_interrupt_acknowledge(u8 vector);

/* ---- time.c ---- */

/* Seconds since 1970 of second, minute, hour, day, month, year and century as an MC146818A holds
 * them under that register B; 0 when they are no date. */
i64 metal_clock_to_epoch(const u8 *t, u8 register_b, bool has_century);

/* ---- acpi.c ---- */

/* What the ACPI tables say about switching off; all 0 when there are none. */
struct metal_acpi {
    bool found; /* a FADT and an \_S5_ */
    u16 pm1a_control, pm1b_control;
    u16 smi_command; /* 0: ACPI mode is on for good */
    u8 acpi_enable;
    u8 slp_typ_a, slp_typ_b;
    u8 sleep_space; /* of the sleep control register: 0 memory, 1 I/O; its address 0: none */
    u64 sleep_control;
    u8 century; /* CMOS register of the century, 0: none */
};
const struct metal_acpi *metal_acpi(void);
/* Finds the tables. rsdp 0: looks for the pointer where BIOSes put it. */
void metal_acpi_init(u64 rsdp);
/* SLP_TYPa and b of \_S5_ in a definition block's AML. Never reads outside it. */
bool metal_acpi_find_s5(const u8 *aml, u64 bytes, u8 *typ_a, u8 *typ_b);

/* ---- panic.c ---- */

/* Reports an exception that nothing explains and switches the machine off. */
_Noreturn void metal_report_trap(const struct metal_frame *frame, u64 cr2, const char *what);

#endif
