/*
 * gbench.cc: the only C++ of the project: gbench.h on top of the library. Each function is one
 * call; `noexcept` turns whatever the library throws into the end of the program.
 */
#include "gbench.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

using benchmark::Counter;
using benchmark::State;
using Family = benchmark::internal::Benchmark;

namespace {

State &cpp(gb_state *state) {
    return *reinterpret_cast<State *>(state);
}
const State &cpp(const gb_state *state) {
    return *reinterpret_cast<const State *>(state);
}
Family *cpp(gb_benchmark *b) {
    return reinterpret_cast<Family *>(b);
}
gb_benchmark *c(Family *b) {
    return reinterpret_cast<gb_benchmark *>(b);
}

double minimum(const std::vector<double> &values) {
    return *std::min_element(values.begin(), values.end());
}

} // namespace

/* ---- The program ---- */

void gb_init(int *argc, char **argv) noexcept {
    benchmark::Initialize(argc, argv);
}
bool gb_unrecognized(int argc, char **argv) noexcept {
    return benchmark::ReportUnrecognizedArguments(argc, argv);
}
void gb_context(const char *key, const char *value) noexcept {
    benchmark::AddCustomContext(key, value);
}
void gb_context_of_build() noexcept {
    gb_context("ringfold_version", RINGFOLD_VERSION);
    gb_context("ringfold_build", RINGFOLD_BUILD_TYPE);
}
size_t gb_run() noexcept {
    return benchmark::RunSpecifiedBenchmarks();
}
size_t gb_run_matching(const char *filter) noexcept {
    return benchmark::RunSpecifiedBenchmarks(std::string(filter));
}
void gb_clear() noexcept {
    benchmark::ClearRegisteredBenchmarks();
}
void gb_shutdown() noexcept {
    benchmark::Shutdown();
}

int gb_main(int argc, char **argv) noexcept {
    if (gb_unrecognized(argc, argv))
        return EXIT_FAILURE;
    gb_context_of_build();
    const size_t ran = gb_run();
    gb_shutdown();
    return ran ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- Registering ---- */

gb_benchmark *gb_register(const char *name, gb_function *fn, void *user) noexcept {
    return c(benchmark::RegisterBenchmark(
        name, [fn, user](State &state) { fn(reinterpret_cast<gb_state *>(&state), user); }));
}

gb_benchmark *gb_arg(gb_benchmark *b, int64_t value) noexcept {
    return c(cpp(b)->Arg(value));
}
gb_benchmark *gb_args(gb_benchmark *b, const int64_t *values, size_t count) noexcept {
    return c(cpp(b)->Args(std::vector<int64_t>(values, values + count)));
}
gb_benchmark *gb_arg_range(gb_benchmark *b, int64_t first, int64_t last) noexcept {
    return c(cpp(b)->Range(first, last));
}
gb_benchmark *gb_arg_dense_range(gb_benchmark *b, int64_t first, int64_t last, int step) noexcept {
    return c(cpp(b)->DenseRange(first, last, step));
}
gb_benchmark *gb_arg_ranges(gb_benchmark *b, const int64_t (*first_last)[2],
                            size_t count) noexcept {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (size_t i = 0; i < count; i++)
        ranges.emplace_back(first_last[i][0], first_last[i][1]);
    return c(cpp(b)->Ranges(ranges));
}
gb_benchmark *gb_range_multiplier(gb_benchmark *b, int multiplier) noexcept {
    return c(cpp(b)->RangeMultiplier(multiplier));
}
gb_benchmark *gb_arg_names(gb_benchmark *b, const char *const *names, size_t count) noexcept {
    return c(cpp(b)->ArgNames(std::vector<std::string>(names, names + count)));
}

gb_benchmark *gb_unit(gb_benchmark *b, enum gb_unit unit) noexcept {
    static const benchmark::TimeUnit units[] = {benchmark::kNanosecond, benchmark::kMicrosecond,
                                                benchmark::kMillisecond, benchmark::kSecond};
    return c(cpp(b)->Unit(units[unit]));
}
gb_benchmark *gb_threads(gb_benchmark *b, int threads) noexcept {
    return c(cpp(b)->Threads(threads));
}
gb_benchmark *gb_thread_range(gb_benchmark *b, int first, int last) noexcept {
    return c(cpp(b)->ThreadRange(first, last));
}
gb_benchmark *gb_thread_per_cpu(gb_benchmark *b) noexcept {
    return c(cpp(b)->ThreadPerCpu());
}
gb_benchmark *gb_use_real_time(gb_benchmark *b) noexcept {
    return c(cpp(b)->UseRealTime());
}
gb_benchmark *gb_use_process_time(gb_benchmark *b) noexcept {
    return c(cpp(b)->MeasureProcessCPUTime());
}
gb_benchmark *gb_use_manual_time(gb_benchmark *b) noexcept {
    return c(cpp(b)->UseManualTime());
}
gb_benchmark *gb_min_time(gb_benchmark *b, double seconds) noexcept {
    return c(cpp(b)->MinTime(seconds));
}
gb_benchmark *gb_min_warm_up_time(gb_benchmark *b, double seconds) noexcept {
    return c(cpp(b)->MinWarmUpTime(seconds));
}
gb_benchmark *gb_iterations(gb_benchmark *b, int64_t iterations) noexcept {
    return c(cpp(b)->Iterations(iterations));
}
gb_benchmark *gb_repetitions(gb_benchmark *b, int repetitions) noexcept {
    return c(cpp(b)->Repetitions(repetitions));
}
gb_benchmark *gb_report_aggregates_only(gb_benchmark *b, bool on) noexcept {
    return c(cpp(b)->ReportAggregatesOnly(on));
}
gb_benchmark *gb_report_minimum(gb_benchmark *b) noexcept {
    return c(cpp(b)->ComputeStatistics("min", minimum));
}

/* ---- Inside a benchmark ---- */

bool gb_keep_running(gb_state *state) noexcept {
    return cpp(state).KeepRunning();
}
bool gb_keep_running_batch(gb_state *state, int64_t n) noexcept {
    return cpp(state).KeepRunningBatch(n);
}

int64_t gb_range(const gb_state *state, size_t index) noexcept {
    return cpp(state).range(index);
}
int64_t gb_iterations_done(const gb_state *state) noexcept {
    return cpp(state).iterations();
}
int gb_thread_index(const gb_state *state) noexcept {
    return cpp(state).thread_index();
}
int gb_thread_count(const gb_state *state) noexcept {
    return cpp(state).threads();
}
void gb_pause(gb_state *state) noexcept {
    cpp(state).PauseTiming();
}
void gb_resume(gb_state *state) noexcept {
    cpp(state).ResumeTiming();
}
void gb_set_iteration_time(gb_state *state, double seconds) noexcept {
    cpp(state).SetIterationTime(seconds);
}

void gb_set_counter(gb_state *state, const char *name, double value, unsigned flags) noexcept {
    static const std::pair<unsigned, Counter::Flags> meaning[] = {
        {GB_RATE, Counter::kIsRate},
        {GB_AVERAGE_THREADS, Counter::kAvgThreads},
        {GB_PER_ITERATION, Counter::kAvgIterations},
        {GB_EACH_ITERATION, Counter::kIsIterationInvariant},
        {GB_INVERT, Counter::kInvert}};
    Counter::Flags all = Counter::kDefaults;
    for (const auto &[flag, its] : meaning)
        if (flags & flag)
            all = all | its;
    cpp(state).counters[name] = Counter(value, all);
}
void gb_set_bytes(gb_state *state, int64_t bytes) noexcept {
    cpp(state).SetBytesProcessed(bytes);
}
void gb_set_items(gb_state *state, int64_t items) noexcept {
    cpp(state).SetItemsProcessed(items);
}
void gb_set_label(gb_state *state, const char *label) noexcept {
    cpp(state).SetLabel(label);
}
void gb_skip_with_error(gb_state *state, const char *message) noexcept {
    cpp(state).SkipWithError(message);
}
