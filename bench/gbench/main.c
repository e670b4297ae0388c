/*
 * main.c: the micro benchmarks in one program. bench/README.md shows how to compare two runs.
 */
#include "world.h"

int main(int argc, char **argv) {
    gb_init(&argc, argv);
    bench_decode_register();
    bench_translate_register();
    bench_mmu_register();
    bench_run_register();
    bench_replay_register();
    return gb_main(argc, argv);
}
