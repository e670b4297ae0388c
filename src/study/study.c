/*
 * study.c: `ringfold study`: every engine in turn, then the table. The nanobenchmark kernel is a
 * part of this program; the children that run it open it as a file in memory.
 */
#include "study/study.h"
#include "study/study_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BATCHES = 5, QUICK_BATCHES = 2 };
extern const u8 study_nano[];
extern const u64 study_nano_bytes;

static int complain(const char *text) {
    log_error("%s", text);
    return 1;
}

static void print_help(void) {
    printf(
        "usage: ringfold study [--rows LIST] [--engines LIST] [--out DIR] [--quick] [--ablation]\n"
        "Runs the nanobenchmark kernel under every engine of this host and prints cycles and\n"
        "exits per operation; study.json, study.csv and study.svg go to DIR (study).\n"
        "  --quick     fewer batches\n"
        "  --ablation  instead: every mechanism off in turn, as ratios (ablation.csv)\n"
        "engines:");
    for (int e = 0; e < ENGINE_COUNT; e++)
        printf(" %s", study_engine_name[e]);
    printf("\nrows:\n");
    for (unsigned i = 0; i < study_row_count; i++)
        printf("  %-17s %s\n", study_rows[i].name, study_rows[i].operation);
}

/* Children inherit the descriptor and open it by name. */
static bool make_kernel_file(struct study *s) {
    int fd = memfd_create("nano.elf", 0);
    if (fd < 0 || write(fd, study_nano, study_nano_bytes) != (ssize_t)study_nano_bytes)
        return false;
    snprintf(s->kernel, sizeof s->kernel, "/proc/self/fd/%d", fd);
    return true;
}

/* This program, and the image that is built beside it. */
static bool find_programs(struct study *s) {
    ssize_t n = readlink("/proc/self/exe", s->self, sizeof s->self - 1);
    if (n <= 0)
        return false;
    s->self[n] = 0;
    const char *slash = strrchr(s->self, '/');
    int folder = slash ? (int)(slash - s->self) : 0;
    snprintf(s->image, sizeof s->image, "%.*s/ringfold-metal.elf", MIN(folder, 4000), s->self);
    return true;
}

static void run_signal(void *opaque) {
    native_print("signal", native_signal, *(const unsigned *)opaque);
}

static double measure_signal(unsigned batches) {
    struct child_result r;
    struct study_batch batch[STUDY_MAX_BATCHES];
    struct study_sample sample = {0};
    char name[32];
    unsigned count;
    if (!child_call(run_signal, &batches, 10, &r))
        return 0;
    if (!r.status && study_parse_row(r.out, name, batch, &count))
        study_summarize(batch, count, 1, &sample);
    child_free(&r);
    return sample.median;
}

static int run(struct study *s) {
    s->batches = s->config.quick ? QUICK_BATCHES : BATCHES;
    if (!study_nano_bytes)
        return complain("study: this build has no nanobenchmark kernel, for there was no compiler "
                        "for 32-bit code (package gcc-i686-linux-gnu)");
    if (!make_kernel_file(s) || !find_programs(s))
        return complain("study: could not hand over the nanobenchmark kernel");
    FILE *f = study_create(s, s->config.ablation ? "ablation.csv" : "study.json");
    if (!f) /* better now than after minutes */
        return 1;
    fclose(f);
    s->tsc_hz = study_tsc_hz();
    if (s->config.ablation)
        return study_ablation(s);
    s->signal_cycles = measure_signal(s->batches);
    for (int e = 0; e < ENGINE_COUNT; e++)
        if (s->config.wanted_engine[e]) {
            study_run_engine(s, (enum study_engine)e);
            study_count_exits(s, (enum study_engine)e);
        }
    study_print_table(s, stdout);
    return study_write(s) ? 0 : 1;
}

int study_main(int argc, char **argv) {
    char error[200];
    struct study *s = calloc(1, sizeof *s);
    if (!s)
        return complain("study: out of memory");
    int status = 0;
    if (!study_parse_options(argc, argv, &s->config, error))
        status = complain(error);
    else if (s->config.help)
        print_help();
    else
        status = run(s);
    free(s);
    return status;
}
