/*
 * A fault that cannot be delivered, nor its double fault: the machine resets; with -no-reboot the
 * monitor ends. SDM volume 3A, section 6.15, "Interrupt 8-Double Fault Exception (#DF)".
 * Expected: the line below, status 0, no further output.
 * STATUS: 0
 * OUTPUT: about to triple-fault
 */
#include "guest.h"

void test(void) {
    print("about to triple-fault\n");
    load_idt_limit(0);
    __asm__ volatile("ud2");
    print("not reached\n");
    finish(0x11);
}
