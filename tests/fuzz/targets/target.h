/*
 * target.h: what fuzz targets share. A target is one function of bytes, which libFuzzer calls
 * (fuzz_<name>, clang only) and the replay program (replay_<name>): whatever the bytes are, it
 * returns, and what it asserts holds.
 */
#ifndef RINGFOLD_TESTS_FUZZ_TARGET_H
#define RINGFOLD_TESTS_FUZZ_TARGET_H

#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Bytes to be used up; what is not there is zero. */
struct input {
    const u8 *at, *end;
};
static inline struct input input_of(const u8 *data, size_t bytes) {
    return (struct input){data, data + bytes};
}
static inline bool input_left(const struct input *in) {
    return in->at < in->end;
}
static inline u64 take(struct input *in, unsigned bytes) {
    u64 v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (u64)(in->at < in->end ? *in->at++ : 0) << 8 * i;
    return v;
}
static inline u8 take8(struct input *in) {
    return (u8)take(in, 1);
}
static inline u16 take16(struct input *in) {
    return (u16)take(in, 2);
}
static inline u32 take32(struct input *in) {
    return (u32)take(in, 4);
}

/* A claim about the project's code. */
#define CLAIM(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
