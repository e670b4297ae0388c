/*
 * symbols.h: names of addresses, for reports: the guest's from a System.map, /proc/kallsyms or an
 * ELF file that has a symbol table; the monitor's own from its program file.
 */
#ifndef RINGFOLD_MONITOR_SYMBOLS_H
#define RINGFOLD_MONITOR_SYMBOLS_H

#include "monitor/monitor.h"

struct mon_symbols;
/* Reads a file of any of those kinds. NULL with a reason: not readable, or no function in it. */
struct mon_symbols *mon_symbols_load(const char *path, struct mon_error *err);
/* This program's, at the addresses where it was loaded. */
struct mon_symbols *mon_symbols_own(struct mon_error *err);
/* The last symbol at or before the address (within the largest distance that code has), NULL if
 * there is none. symbols may be NULL. */
const char *mon_symbols_find(const struct mon_symbols *symbols, u64 address);
void mon_symbols_free(struct mon_symbols *symbols);

#endif
