/*
 * crash_metal.c: what is left behind when the monitor itself fails on the bare machine. Where it
 * was, src/metal's panic or the failed assertion has said; here is what the guest was doing.
 */
#include "monitor/vm.h"

static void print_line(void *opaque, const char *line) {
    (void)opaque;
    log_printf("  %s\n", line);
}

static void report(const char *what) {
    (void)what;
    struct vm *vm = mon_current_vm();
    if (!vm)
        return;
    log_printf("guest state:\n");
    mon_crash_guest_state(vm, print_line, NULL);
}

void mon_crash_install(void) {
    rf_crash_hook = report;
}
