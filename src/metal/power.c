/*
 * power.c: switching the machine off, by whatever way it understands.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

/* PM1 control: ACPI 6.5, section 4.8.3.2 "PM1 Control Grouping". Sleep control register: section
 * 4.8.3.7 "Sleep Control and Status Registers". */
enum {
    PM1_SCI_EN = 1,
    PM1_SLP_TYP_SHIFT = 10,
    PM1_SLP_EN = 1 << 13,
    SLEEP_TYP_SHIFT = 2,
    SLEEP_EN = 1 << 5,
};
/* About 1 us each. A carrier may take its time between being told and ending. */
enum { ENABLE_POLLS = 3000000, OFF_POLLS = 2000000, FALLBACK_POLLS = 200000, PATIENCE_SECONDS = 5 };

static u16 exit_port;

void metal_power_init(void) {
    metal_acpi_init(metal_boot()->rsdp);
}

void metal_set_exit_port(u16 port) {
    exit_port = port;
}

static void pause_polls(u32 polls) {
    while (polls--)
        in8(0x80);
}

/* A carrier on a busy host takes its time to go. */
static void pause_seconds(u64 seconds) {
    u64 begin = metal_tsc(), cycles = metal_tsc_hz() * seconds;
    pause_polls(FALLBACK_POLLS);
    while (metal_tsc() - begin < cycles)
        in8(0x80);
}

/* ACPI 6.5, section 4.8.2.5 "Legacy/ACPI Select and the SCI Interrupt". */
static void enable_acpi(const struct metal_acpi *a) {
    if (!a->smi_command || !a->acpi_enable || in16(a->pm1a_control) & PM1_SCI_EN)
        return;
    out8(a->smi_command, a->acpi_enable);
    for (u32 i = 0; i < ENABLE_POLLS && !(in16(a->pm1a_control) & PM1_SCI_EN); i++)
        ;
}

static void sleep_pm1(u16 port, u8 typ) {
    u16 v = in16(port) & (u16) ~(7u << PM1_SLP_TYP_SHIFT | PM1_SLP_EN);
    v |= (u16)(typ << PM1_SLP_TYP_SHIFT);
    out16(port, v);
    out16(port, v | PM1_SLP_EN);
}

static void acpi_off(void) {
    const struct metal_acpi *a = metal_acpi();
    if (!a->found)
        return;
    if (a->sleep_control) {
        u8 v = (u8)(a->slp_typ_a << SLEEP_TYP_SHIFT | SLEEP_EN);
        if (a->sleep_space == 1)
            out8((u16)a->sleep_control, v);
        else
            *(volatile u8 *)metal_phys_pointer(a->sleep_control) = v;
        pause_polls(OFF_POLLS);
    }
    if (!a->pm1a_control)
        return;
    enable_acpi(a);
    if (a->pm1b_control)
        sleep_pm1(a->pm1b_control, a->slp_typ_b);
    sleep_pm1(a->pm1a_control, a->slp_typ_a);
    pause_polls(OFF_POLLS);
}

/* isa-debug-exit makes the carrier end with (value << 1) | 1, so that odd statuses arrive as they
 * are and even ones as the next greater. 0 is success, which that device cannot say: it goes by way
 * of powering off, which carriers report as 0; the port comes after that fails. */
void metal_power_off(int status) {
    metal_interrupts_off();
    if (exit_port && status)
        out8(exit_port, (u8)(status >> 1));
    acpi_off();
    out16(0x604, 0x2000);  /* QEMU's machines, should their tables be missing */
    out16(0xb004, 0x2000); /* Bochs, and QEMU before 2.0 */
    out16(0x4004, 0x3400); /* VirtualBox */
    pause_seconds(PATIENCE_SECONDS);
    if (exit_port)
        out8(exit_port, (u8)(status >> 1));
    for (;;)
        __asm__ volatile("cli; hlt");
}
