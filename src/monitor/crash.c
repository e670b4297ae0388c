/*
 * crash.c: what a report says about the guest, be it the monitor that failed (crash_hosted.c,
 * crash_metal.c) or the guest that triple-faulted.
 */
#include "monitor/vm.h"

#include <stdio.h>

void mon_crash_guest_state(struct vm *vm, void (*print)(void *, const char *), void *opaque) {
    cpu_dump(vm->cpu, print, opaque);
    struct bt_unit_info unit[8];
    unsigned n = vm->bt ? bt_last_units(vm->bt, unit, ARRAY_LEN(unit)) : 0;
    if (n)
        print(opaque, "last units entered through the dispatcher, newest first:");
    for (unsigned i = 0; i < n; i++) {
        char text[120];
        snprintf(text, sizeof text, "  unit %llu: eip %08x cpl %u, %u instructions",
                 (unsigned long long)unit[i].id, unit[i].eip, unit[i].cpl, unit[i].insns);
        print(opaque, text);
    }
}
