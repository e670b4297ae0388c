/*
 * rfbench.c: one static i386 program that times what a virtualizer can make slow. It runs natively
 * on the host and as a process of the guest, and prints the same lines there:
 *
 *     row NAME operations N pages P ns_per_op X tsc_per_op Y check Z
 *
 * usage: rfbench [ROW,ROW...]; the environment may say RFBENCH_ROWS=ROW,ROW..., RFBENCH_REPEAT=N
 * (the best repetition counts; 5) and RFBENCH_DIVIDE=N (that many times fewer operations, for slow
 * engines; 1). A guest kernel hands words of its command line that it does not know to init as
 * environment, which is how they arrive there.
 */
#include "rfbench.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *self_path;

struct instant {
    int64_t ns;
    uint64_t tsc;
};

static struct instant now(void) {
    struct timespec at = {0};
    uint32_t low, high;

    clock_gettime(CLOCK_MONOTONIC, &at);
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (struct instant){at.tv_sec * INT64_C(1000000000) + at.tv_nsec,
                            (uint64_t)high << 32 | low};
}

static struct instant start;

static bool wanted(const char *name, const char *list) {
    size_t length = strlen(name);

    if (!list || !*list)
        return true;
    for (const char *at = list; (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || !at[length]))
            return true;
    return false;
}

static unsigned number_from(const char *name, unsigned otherwise) {
    const char *text = getenv(name);

    return text && atoi(text) > 0 ? (unsigned)atoi(text) : otherwise;
}

/* Nanoseconds between two instants, by the time-stamp counter where the clock stood still. */
static double elapsed_ns(struct instant from, struct instant to) {
    struct instant end = now();

    if (to.ns > from.ns)
        return (double)(to.ns - from.ns);
    if (end.ns <= start.ns || end.tsc <= start.tsc)
        return 0;
    return (double)(to.tsc - from.tsc) * (double)(end.ns - start.ns) /
           (double)(end.tsc - start.tsc);
}

static void run_row(const struct row *row, unsigned repeat, unsigned divide) {
    uint32_t operations = row->operations / divide / row->quantum * row->quantum, check = 0;
    double best_ns = 0, best_tsc = 0;

    if (operations == 0)
        operations = row->quantum;
    if (!strcmp(row->name, "ram_fill"))
        repeat = 1; /* what it fills stays filled */
    if (row->prepare && row->prepare()) {
        printf("row %s skipped\n", row->name);
        fflush(stdout);
        return;
    }
    for (unsigned i = 0; i < repeat; i++) {
        struct instant from = now(), to;
        double ns, tsc;

        check = row->run(operations);
        to = now();
        ns = elapsed_ns(from, to) / operations;
        tsc = (double)(to.tsc - from.tsc) / operations;
        if (i == 0 || ns < best_ns)
            best_ns = ns;
        if (i == 0 || tsc < best_tsc)
            best_tsc = tsc;
    }
    printf("row %s operations %u pages %u ns_per_op %.3f tsc_per_op %.1f check %08x\n", row->name,
           operations, row->pages, best_ns, best_tsc, check);
    fflush(stdout);
}

/* A context switch must not become a talk between two processors. */
static void stay_on_one_processor(void) {
    cpu_set_t set;
    int processor = sched_getcpu();

    if (processor < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv) {
    const char *rows = argc > 1 ? argv[1] : getenv("RFBENCH_ROWS");
    unsigned repeat = number_from("RFBENCH_REPEAT", 5), divide = number_from("RFBENCH_DIVIDE", 1);
    static const struct row *const lists[] = {compute_rows, kernel_rows};

    if (argc > 1 && !strcmp(argv[1], "--exit"))
        _exit(3);
    if (argc > 1 && !strcmp(argv[1], "--list")) {
        for (unsigned i = 0; i < 2; i++)
            for (const struct row *row = lists[i]; row->name; row++)
                printf("%-18s %s\n", row->name, row->what);
        return 0;
    }
    self_path = argv[0];
    stay_on_one_processor();
    prepare_compute_memory();
    start = now();
    printf("rfbench: begin repeat %u divide %u\n", repeat, divide);
    fflush(stdout);
    for (unsigned i = 0; i < 2; i++) {
        for (const struct row *row = lists[i]; row->name; row++)
            if (wanted(row->name, rows))
                run_row(row, repeat, divide);
        release_compute_memory();
    }
    printf("rfbench: end ns %.0f\n", elapsed_ns(start, now()));
    fflush(stdout);
    usleep(500000); /* whoever started the machine reads its memory now */
    return 0;
}
