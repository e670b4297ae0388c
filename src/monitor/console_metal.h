/*
 * console_metal.h: internal to the metal substrate: what the interrupt hook tells the console.
 */
#ifndef RINGFOLD_MONITOR_CONSOLE_METAL_H
#define RINGFOLD_MONITOR_CONSOLE_METAL_H

#include <stdbool.h>

/* Takes what has arrived out of the serial port. True when there is something to read. Interrupts
 * are off; general registers only. */
bool mon_keyboard_collect(void);

#endif
