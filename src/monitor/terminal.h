/*
 * terminal.h: internal to the hosted substrate: raw mode.
 */
#ifndef RINGFOLD_MONITOR_TERMINAL_H
#define RINGFOLD_MONITOR_TERMINAL_H

#include <stdbool.h>

/* Puts the controlling terminal on standard input into raw mode; keep_signals: Ctrl-C and its kin
 * still make signals. False when standard input is no terminal of ours. */
bool mon_terminal_raw(bool keep_signals);
/* Puts the terminal back as it was; any time, any thread, more than once. Signal safe. */
void mon_terminal_restore_sigsafe(void);

#endif
