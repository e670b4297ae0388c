/*
 * tool.h: the commands `ringfold trace ...` and `ringfold replay ...`.
 */
#ifndef RINGFOLD_TRACE_TOOL_H
#define RINGFOLD_TRACE_TOOL_H

/* argv[0] is the command's own name. The exit status: 0, or 1 after one line on standard error. */
int tt_replay_main(int argc, char **argv);

#endif
