/*
 * study_internal.h: what the files of `ringfold study` share: rows, engines, cells, and how each is
 * filled.
 */
#ifndef RINGFOLD_STUDY_STUDY_INTERNAL_H
#define RINGFOLD_STUDY_STUDY_INTERNAL_H

#include "base/base.h"

#include <stdio.h>

enum { STUDY_MAX_ROWS = 48, STUDY_MAX_BATCHES = 8, STUDY_MAX_REASONS = 12 };

/* ---- Numbers (parse.c) ---- */

/* One batch: TSC ticks, and how many operations they were for. */
struct study_batch {
    u32 ticks, operations;
};
/* What one row gave under one engine, per operation. */
struct study_sample {
    unsigned count; /* batches that make sense; 0: nothing is known */
    double value[STUDY_MAX_BATCHES];
    double median, mad, least, most; /* mad: the median distance from the median */
    u64 operations;                  /* of all batches together */
};
/* Reads one line of the nanobenchmark kernel, "row NAME T/N T/N ...", which ends at a newline or
 * at the text's end. False when it is none, or has more than STUDY_MAX_BATCHES. */
bool study_parse_row(const char *line, char name[32], struct study_batch *batch, unsigned *count);
/* Batches without ticks or operations are dropped (noise ate them), and those of 2^31 ticks or
 * more, which may have wrapped. divisor: ticks per unit of the result. */
void study_summarize(const struct study_batch *batch, unsigned count, double divisor,
                     struct study_sample *out);
double study_median(const double *value, unsigned count); /* of at most 64; 0 of none */
/* Finds "name": NUMBER in the object that -stats json prints. False when it is not there. */
bool study_json_number(const char *json, const char *name, double *out);
/* The next "name": NUMBER from *at on, which moves behind it. */
bool study_json_next(const char **at, char name[48], double *value);

/* ---- Rows (rows.c) ---- */

/* Cycles that Adams and Agesen published; 0: none. */
struct study_published {
    const char *name; /* theirs; NULL: this row has none */
    double native, software, hardware;
    bool beyond_native; /* software is what comes on top of a native system call */
};
struct study_row {
    const char *name, *operation;
    void (*native)(struct study_batch *out); /* one batch at host user level; NULL: cannot exist */
    const char *native_is;                   /* where that is not the same operation */
    struct study_published published;
    bool signal_floor;         /* hosted cannot be cheaper than a signal */
    unsigned done_per_counted; /* operations for each that the kernel counts; 0: one */
};
extern const struct study_row study_rows[];
extern const unsigned study_row_count;
int study_row_index(const char *name, size_t chars); /* -1: none */

/* Native operations (native.c), one batch each. */
void native_loop(struct study_batch *out);
void native_int80(struct study_batch *out);
void native_syscall(struct study_batch *out);
void native_minor_fault(struct study_batch *out);
void native_divide(struct study_batch *out);
void native_signal(struct study_batch *out); /* SIGSEGV to handler and back */
void native_rdtsc(struct study_batch *out);
void native_call(struct study_batch *out);
void native_call_indirect(struct study_batch *out);
void native_pushf_popf(struct study_batch *out);
void native_cpuid(struct study_batch *out);
double study_tsc_hz(void);
/* Runs batch() count times after one of warm-up and prints a row; in a child process. */
void native_print(const char *name, void (*batch)(struct study_batch *), unsigned count);

/* ---- Children (child.c) ---- */

struct child_result {
    char *out, *err; /* what it printed, NUL-terminated; truncated at 1 MiB each */
    int status;      /* exit status, 128 + signal, or 127: could not be started */
    bool timed_out;
};
/* Runs argv (found in PATH, NULL-terminated) with nothing on standard input. False when the host
 * has no process or memory left: then there is nothing to free. */
bool child_run(const char *const argv[], double limit_s, struct child_result *out);
/* The same for a function, whose standard output is captured. */
bool child_call(void (*body)(void *), void *opaque, double limit_s, struct child_result *out);
void child_free(struct child_result *r);

/* ---- Engines (engines.c) ---- */

enum study_engine {
    ENGINE_NATIVE,
    ENGINE_BT,
    ENGINE_INTERP,
    ENGINE_KVM,
    ENGINE_METAL,
    ENGINE_TCG,
    ENGINE_QEMU_KVM,
    ENGINE_COUNT
};
struct study_reason {
    char name[48];
    double per_operation;
};
struct study_cell {
    struct study_sample sample;
    bool counted; /* exits are known */
    double exits;
    struct study_reason reason[STUDY_MAX_REASONS];
    unsigned reasons;
};
struct study_column {
    bool wanted;
    char why[200];    /* why it, or part of it, is empty; "" when it is not */
    double tsc_ratio; /* guest TSC to host TSC; 0: not looked at */
    struct study_cell cell[STUDY_MAX_ROWS];
};

struct study_config {
    bool wanted_row[STUDY_MAX_ROWS];
    bool wanted_engine[ENGINE_COUNT];
    const char *directory;
    bool quick, ablation, help;
};
struct study {
    struct study_config config;
    unsigned batches;
    double tsc_hz;
    double signal_cycles; /* 0: not measured */
    char kernel[40];      /* the nanobenchmark kernel, as children may open it */
    char self[4096], image[4096];
    struct study_column column[ENGINE_COUNT];
};

extern const char *const study_engine_name[ENGINE_COUNT];
const char *study_engine_unit(enum study_engine e); /* "cycles" or "instructions" */
/* Fills the column, or says why not. */
void study_run_engine(struct study *s, enum study_engine e);
/* Exits per operation of the rows that the column has; bt and kvm alone count any. */
void study_count_exits(struct study *s, enum study_engine e);
/* The samples of all wanted rows with one more option of ringfold's; false: it did not run. */
bool study_run_with_option(struct study *s, enum study_engine e, const char *option,
                           struct study_sample sample[STUDY_MAX_ROWS]);
/* One row alone, without the kernel's clock; *operations were timed. False, with *r to be freed all
 * the same, when the machine did not come through. */
bool study_run_once(struct study *s, enum study_engine e, unsigned row, unsigned batches,
                    double limit_s, u64 *operations, struct child_result *r);
/* Whether this ringfold's -help lists the option. */
bool study_has_option(struct study *s, const char *option);
/* Where the columns cannot be: NULL or the reason. */
const char *study_unavailable(struct study *s, enum study_engine e);

/* ---- Results (report.c, output.c, ablation.c) ---- */

enum study_verdict {
    VERDICT_NONE,
    VERDICT_AHEAD,
    VERDICT_BEHIND,
    VERDICT_FLOOR /* behind, but so is the host's signal alone */
};
enum study_verdict study_judge(const struct study *s, unsigned row);
/* What bt is held against in this row: cycles; 0: nothing. */
double study_bar(const struct study *s, unsigned row);
void study_print_table(const struct study *s, FILE *f);
bool study_is_noisy(const struct study_sample *s);
/* "-" for what is not known, as few digits as tell something. */
const char *study_number(double value, char text[24]);
/* study.json, study.csv, study.svg in the directory. False after one line on standard error. */
bool study_write(const struct study *s);
/* A new file in the directory of --out. NULL after one line on standard error. */
FILE *study_create(const struct study *s, const char *name);
int study_ablation(struct study *s);

/* ---- Command line (options.c) ---- */

/* False after a line in *error. */
bool study_parse_options(int argc, char **argv, struct study_config *out, char error[200]);

#endif
