/*
 * world.h: what the micro benchmarks work on: a flat 32-bit guest of 16 MiB with paging off or on,
 * a translator attached, and the sample code in its memory.
 */
#ifndef RINGFOLD_BENCH_WORLD_H
#define RINGFOLD_BENCH_WORLD_H

#include "bt/bt_internal.h"
#include "gbench.h"

#define WORLD_RAM_BYTES (16u << 20)
#define WORLD_CODE 0x00200000u
#define WORLD_DATA 0x00400000u
#define WORLD_STACK_TOP 0x00300000u
#define WORLD_PAGE_DIRECTORY 0x1000u
#define WORLD_PAGE_TABLES 0x2000u

struct world {
    struct cpu *cpu;
    struct bt *bt;
    u8 *ram;
};

/* Ends the program with one line when the host has no memory. */
void world_open(struct world *w);
void world_close(struct world *w);
/* 32-bit paging, all RAM mapped to itself, supervisor, writable, A and D set. */
void world_enable_paging(struct world *w);
/* Puts machine code at WORLD_CODE and sets eip to it. */
void world_put(struct world *w, const u8 *code, size_t bytes);

/* The sample of guest code in sample.S. */
extern const u8 sample_code[], sample_code_end[];
#define SAMPLE_MAX_INSNS 256
/* Where each instruction of the sample begins; returns how many there are. */
unsigned sample_offsets(u32 offset[SAMPLE_MAX_INSNS]);
/* Where the translation units begin that cover the sample. */
unsigned sample_units(struct world *w, u32 offset[SAMPLE_MAX_INSNS]);

/* Each file of benchmarks registers its own. */
void bench_decode_register(void);
void bench_translate_register(void);
void bench_mmu_register(void);
void bench_run_register(void);
void bench_replay_register(void);

#endif
