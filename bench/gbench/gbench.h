/*
 * gbench.h: Google Benchmark for programs in C. Each function here is one of the library's own,
 * with the same meaning; opaque pointers stand for its objects, and no C++ exception leaves the
 * wrapper: what the library throws ends the program with one line.
 *
 * A benchmark is a function that loops while gb_keep_running() says so:
 *
 *     static void walk(struct gb_state *state, void *user) {
 *         while (gb_keep_running(state))
 *             gb_use(mmu_walk(user, gb_range(state, 0)));
 *     }
 *     int main(int argc, char **argv) {
 *         gb_init(&argc, argv);
 *         gb_arg(gb_register("walk", walk, cpu), 2);
 *         return gb_main(argc, argv);
 *     }
 *
 * Source: Google Benchmark 1.7.1, docs/user_guide.md. Everything but what takes a struct gb_state
 * is for the main thread; a state belongs to the thread that was given it.
 */
#ifndef RINGFOLD_BENCH_GBENCH_H
#define RINGFOLD_BENCH_GBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define GB_NOTHROW noexcept
#else
#define GB_NOTHROW
#endif

struct gb_state;     /* one run of a benchmark in one thread */
struct gb_benchmark; /* a registered family: lives until gb_clear */
typedef void gb_function(struct gb_state *state, void *user);

/* ---- The program ---- */

/* Takes the library's --benchmark_* options out of argv. Before anything else. */
void gb_init(int *argc, char **argv) GB_NOTHROW;
/* True after printing each argument that nobody took. */
bool gb_unrecognized(int argc, char **argv) GB_NOTHROW;
/* A line of the report's context, e.g. the build type of this project (the library tells only its
 * own, and Debian's says "debug"). */
void gb_context(const char *key, const char *value) GB_NOTHROW;
/* Adds what this wrapper knows of the program that it was compiled into: "ringfold_build" (with
 * assertions or without them) and "ringfold_version". */
void gb_context_of_build(void) GB_NOTHROW;
/* Runs what --benchmark_filter selects; returns how many benchmarks that were. */
size_t gb_run(void) GB_NOTHROW;
/* The same for a regular expression of benchmark names instead of the option's. */
size_t gb_run_matching(const char *filter) GB_NOTHROW;
/* Forgets every registered benchmark. */
void gb_clear(void) GB_NOTHROW;
/* Ends the library. Nothing of it may be called afterwards. */
void gb_shutdown(void) GB_NOTHROW;
/* After gb_init and all gb_register: context, unknown options, run, shut down. main's result: 1 for
 * an unknown option or a filter that selects nothing. */
int gb_main(int argc, char **argv) GB_NOTHROW;

/* ---- Registering ---- */

/* A family under that name; fn is called with user, by several threads at once under gb_threads. */
struct gb_benchmark *gb_register(const char *name, gb_function *fn, void *user) GB_NOTHROW;

/* What to run it with. Each call adds one or more runs and returns its argument. */
struct gb_benchmark *gb_arg(struct gb_benchmark *b, int64_t value) GB_NOTHROW;
struct gb_benchmark *gb_args(struct gb_benchmark *b, const int64_t *values,
                             size_t count) GB_NOTHROW;
/* first, last and the powers of the multiplier (8, or gb_range_multiplier's) between them. */
struct gb_benchmark *gb_arg_range(struct gb_benchmark *b, int64_t first, int64_t last) GB_NOTHROW;
struct gb_benchmark *gb_arg_dense_range(struct gb_benchmark *b, int64_t first, int64_t last,
                                        int step) GB_NOTHROW;
/* One range for each argument: every combination. */
struct gb_benchmark *gb_arg_ranges(struct gb_benchmark *b, const int64_t (*first_last)[2],
                                   size_t count) GB_NOTHROW;
struct gb_benchmark *gb_range_multiplier(struct gb_benchmark *b, int multiplier) GB_NOTHROW;
/* How the arguments are called in the report. */
struct gb_benchmark *gb_arg_names(struct gb_benchmark *b, const char *const *names,
                                  size_t count) GB_NOTHROW;

/* How to measure. */
enum gb_unit { GB_NANOSECOND, GB_MICROSECOND, GB_MILLISECOND, GB_SECOND };
struct gb_benchmark *gb_unit(struct gb_benchmark *b, enum gb_unit unit) GB_NOTHROW;
struct gb_benchmark *gb_threads(struct gb_benchmark *b, int threads) GB_NOTHROW;
struct gb_benchmark *gb_thread_range(struct gb_benchmark *b, int first, int last) GB_NOTHROW;
struct gb_benchmark *gb_thread_per_cpu(struct gb_benchmark *b) GB_NOTHROW;
struct gb_benchmark *gb_use_real_time(struct gb_benchmark *b) GB_NOTHROW; /* wall clock decides */
struct gb_benchmark *
gb_use_process_time(struct gb_benchmark *b) GB_NOTHROW; /* CPU time of all threads */
struct gb_benchmark *
gb_use_manual_time(struct gb_benchmark *b) GB_NOTHROW; /* gb_set_iteration_time decides */
struct gb_benchmark *gb_min_time(struct gb_benchmark *b, double seconds) GB_NOTHROW;
struct gb_benchmark *gb_min_warm_up_time(struct gb_benchmark *b, double seconds) GB_NOTHROW;
struct gb_benchmark *gb_iterations(struct gb_benchmark *b,
                                   int64_t iterations) GB_NOTHROW; /* exactly */
struct gb_benchmark *gb_repetitions(struct gb_benchmark *b, int repetitions) GB_NOTHROW;
struct gb_benchmark *gb_report_aggregates_only(struct gb_benchmark *b, bool on) GB_NOTHROW;
/* One more line after the repetitions: the smallest of their times. */
struct gb_benchmark *gb_report_minimum(struct gb_benchmark *b) GB_NOTHROW;

/* ---- Inside a benchmark ---- */

/* True for each iteration to make; the first call starts the clock, the last stops it. A call costs
 * about 2 ns: measure shorter things in batches. */
bool gb_keep_running(struct gb_state *state) GB_NOTHROW;
/* True for each batch of n iterations (n > 0). */
bool gb_keep_running_batch(struct gb_state *state, int64_t n) GB_NOTHROW;
/* The index-th argument of this run; ends the program when there is none. */
int64_t gb_range(const struct gb_state *state, size_t index) GB_NOTHROW;
/* Iterations so far; in all, once gb_keep_running was false. */
int64_t gb_iterations_done(const struct gb_state *state) GB_NOTHROW;
int gb_thread_index(const struct gb_state *state) GB_NOTHROW;
int gb_thread_count(const struct gb_state *state) GB_NOTHROW;
void gb_pause(struct gb_state *state) GB_NOTHROW; /* some 300 ns together with gb_resume */
void gb_resume(struct gb_state *state) GB_NOTHROW;
/* Under gb_use_manual_time, once in each iteration. */
void gb_set_iteration_time(struct gb_state *state, double seconds) GB_NOTHROW;

/* What else to report. */
enum gb_counter {
    GB_COUNT = 0,           /* as it is */
    GB_RATE = 1,            /* per second */
    GB_AVERAGE_THREADS = 2, /* divided by the threads */
    GB_PER_ITERATION = 4,   /* divided by the iterations */
    GB_EACH_ITERATION = 8,  /* multiplied by the iterations (with GB_RATE) */
    GB_INVERT = 16          /* one divided by all that */
};
/* flags: enum gb_counter, or-ed. A second call with one name replaces the first. */
void gb_set_counter(struct gb_state *state, const char *name, double value,
                    unsigned flags) GB_NOTHROW;
void gb_set_bytes(struct gb_state *state, int64_t bytes) GB_NOTHROW; /* in all iterations */
void gb_set_items(struct gb_state *state, int64_t items) GB_NOTHROW;
void gb_set_label(struct gb_state *state, const char *label) GB_NOTHROW;
/* The run failed: reported as an error. Leave the loop afterwards. */
void gb_skip_with_error(struct gb_state *state, const char *message) GB_NOTHROW;

/* Keeps the compiler from dropping the computation of value, from moving memory accesses across. */
static inline void gb_use(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
}
static inline void gb_clobber_memory(void) {
    __asm__ volatile("" : : : "memory");
}

#ifdef __cplusplus
}
#endif

#endif
