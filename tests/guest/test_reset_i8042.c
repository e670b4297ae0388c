/*
 * The keyboard controller's reset pulse (command FEh) resets the machine; with -no-reboot the
 * monitor ends.
 * Expected: status 0.
 * STATUS: 0
 * OUTPUT: about to reset
 */
#include "guest.h"

void test(void) {
    print("about to reset\n");
    outb(0x64, 0xfe);
    for (u32 i = 0; i < 100000000; i++)
        __asm__ volatile("pause");
    finish(0x11);
}
