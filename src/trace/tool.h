/*
 * tool.h: the commands `ringfold trace ...` and `ringfold replay ...`. argv[0] is the command's own
 * name; the result is an exit status: 0, or 1 after one line on standard error.
 */
#ifndef RINGFOLD_TRACE_TOOL_H
#define RINGFOLD_TRACE_TOOL_H

int tt_replay_main(int argc, char **argv);
int tt_trace_main(int argc, char **argv);

#endif
