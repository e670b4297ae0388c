/*
 * trace_internal.h: the encoding of a trace, shared by writer and reader. docs/trace-format.md
 * tells the same to people.
 *
 * file:   "RFTRACE\0", u32 version, u32 0, one zstd frame with checksum, u64 XXH64
 *         of all bytes before
 * frame:  records: one byte of type, then its fields; numbers are LEB128 (low seven bits first),
 *         signed ones zigzag
 */
#ifndef RINGFOLD_TRACE_INTERNAL_H
#define RINGFOLD_TRACE_INTERNAL_H

#include "trace/trace.h"

#define TT_MAGIC "RFTRACE"
enum { TT_MAGIC_BYTES = 8, TT_PRELUDE_BYTES = 16, TT_HASH_BYTES = 8 };

/* Types of records. A translator's event has TT_TYPE_EVENT + its kind. */
enum {
    TT_TYPE_HEADER = 1,
    TT_TYPE_CODE = 2,
    TT_TYPE_COUNTS = 3,
    TT_TYPE_END = 4,
    TT_TYPE_EVENT = 16
};

/* Bits of a translate record's second byte. */
enum {
    TT_USER = 1,
    TT_FP = 2,
    TT_TSC_INLINE = 4,
    TT_TSD = 8,
    TT_SPANS = 16,
    TT_MASKS = 32,
    TT_CHECKED = 64
};

/* Bits of the configuration as the header has them. */
enum {
    TT_CONFIG_CHAIN = 1,
    TT_CONFIG_RETSTACK = 2,
    TT_CONFIG_ICACHE = 4,
    TT_CONFIG_ADAPT = 8,
    TT_CONFIG_FORESIGHT = 16,
    TT_CONFIG_ICOUNT = 32,
    TT_CONFIG_LOCKSTEP = 64,
    TT_CONFIG_DIRECT = 128,
    TT_CONFIG_LIGHT = 256
};

/* The words of struct cpu_model in the order of the header. The assertion reminds whoever adds one.
 */
#define TT_MODEL_WORDS(X)                                                                          \
    X(signature)                                                                                   \
    X(max_basic)                                                                                   \
    X(max_extended)                                                                                \
    X(max_hypervisor)                                                                              \
    X(cr4_allowed)                                                                                 \
    X(f1_edx)                                                                                      \
    X(f1_ecx)                                                                                      \
    X(f7_ebx)                                                                                      \
    X(x1_edx)                                                                                      \
    X(x1_ecx)
_Static_assert(sizeof(struct cpu_model) == 20 + 40 * sizeof(struct cpuid_leaf) + 12 + 16 + 24,
               "a trace holds all of the CPU model");

/* Limits that no honest trace reaches: a reader's memory stays within them. */
#define TT_MAX_CODES (1u << 22)
#define TT_MAX_CODE_BYTES (512u << 20)
#define TT_MAX_RAM_BYTES (3ull << 30)
#define TT_MAX_COUNTS (1u << 24)

bool tt_fail(struct tt_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- writer.c: records into a file ---- */
struct tt_writer;
struct tt_writer *tt_writer_open(const char *path, const struct tt_header *header,
                                 struct tt_error *err);
void tt_write_event(struct tt_writer *w, const struct bt_event *event);
void tt_write_counts(struct tt_writer *w, const struct tt_count *counts, u32 count);
/* Exits and callouts for the totals, before the end. */
void tt_write_counters(struct tt_writer *w, const struct bt_counters *from,
                       const struct bt_counters *to);
/* Writes the end; false with *err filled when anything failed on the way: the file is removed. */
bool tt_writer_close(struct tt_writer *w, struct tt_totals *totals, struct tt_error *err);

#endif
