/*
 * log.h: internal: where the monitor's words go. Made by each substrate (log_hosted.c,
 * log_metal.c); log.c does the wording.
 */
#ifndef RINGFOLD_BASE_LOG_H
#define RINGFOLD_BASE_LOG_H

#include "base/base.h"

/* Writes text as it is, to standard error or the machine's console. */
void log_sink(const char *text, size_t bytes);
/* The same to the trace stream. */
void trace_sink(const char *text, size_t bytes);
/* After a failed assertion: makes sure that what was traced can be read. */
void trace_sink_flush(void);
/* Where a failed assertion stands, on substrates whose crash hook does not show it itself. */
void log_backtrace(void);
/* The end after a failed assertion, all being said. */
_Noreturn void log_end(void);

#endif
