/*
 * rfbench.h: what a benchmark row is. Every row does a fixed number of operations, known before it
 * starts, so that a number means the same under every engine.
 */
#ifndef RINGFOLD_RFBENCH_H
#define RINGFOLD_RFBENCH_H

#include <stdint.h>

struct row {
    const char *name;
    const char *what;     /* what one operation is */
    uint32_t operations;  /* in one repetition */
    uint32_t quantum;     /* operations must be a multiple of this */
    uint32_t pages;       /* 4 KiB pages of data that the row works on; 0: registers and stack */
    int (*prepare)(void); /* untimed, once; non-zero: the row cannot run here */
    uint32_t (*run)(uint32_t operations); /* timed; the result depends on operations alone */
};

/* Both lists end with a row that has no name. */
extern const struct row compute_rows[];
extern const struct row kernel_rows[];

/* Gives the pages of the compute rows back, so that fork copies the same number whichever rows ran
 * before it. */
void release_compute_memory(void);
void prepare_compute_memory(void);

/* The path this program can be executed again by. */
extern const char *self_path;

#endif
