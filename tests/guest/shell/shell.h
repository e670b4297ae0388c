/*
 * shell.h: the small guest kernel that the demo falls back to when Debian's cannot be fetched.
 */
#ifndef RINGFOLD_TESTS_GUEST_SHELL_H
#define RINGFOLD_TESTS_GUEST_SHELL_H

#include "guest.h"

/* Finds the FADT by way of the RSDP and enters S5 as it says. Returns only when that failed. */
void acpi_power_off(void);

#endif
