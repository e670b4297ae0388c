/*
 * tool.h: the commands `ringfold trace ...` and `ringfold replay ...`. argv[0] is the command's own
 * name; the result is an exit status: 0, or 1 after one line on standard error.
 */
#ifndef RINGFOLD_TRACE_TOOL_H
#define RINGFOLD_TRACE_TOOL_H

#include "base/base.h"

#include <errno.h>
#include <stdlib.h>

/* A word of the command line as a number between least and most, in any base strtoull knows. */
static inline bool tool_number(const char *text, u64 least, u64 most, u64 *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return !errno && end != text && !*end && text[0] != '-' && *out >= least && *out <= most;
}

int tt_replay_main(int argc, char **argv);
int tt_trace_main(int argc, char **argv);

#endif
