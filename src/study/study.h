/*
 * study.h: the command `ringfold study ...`: what privileged operations cost under every engine of
 * this host, in one table. docs/study.md says how to read it.
 */
#ifndef RINGFOLD_STUDY_STUDY_H
#define RINGFOLD_STUDY_STUDY_H

/* argv[0] is the command's own name. The result is an exit status: 0, or 1 after one line on
 * standard error. */
int study_main(int argc, char **argv);

#endif
