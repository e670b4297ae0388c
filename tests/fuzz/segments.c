/*
 * segments.c: the descriptors of the LDT that guest and native process share, and what the host
 * allows of them.
 */
#include "fuzz.h"

#define CODE16(k)                                                                                  \
    { .base = FUZZ_CODE + (k)*0x10000u, .limit = 0xffff, .code = true, .small = true }

/* Expand-down segments are valid above their limit: SDM volume 3, section 5.3 "Limit Checking". */
static const struct fuzz_descriptor descriptors[FUZZ_LDT_ENTRIES] = {
    {.base = FUZZ_MAIN - 0x4000, .limit = 0xfffff, .pages = true},
    {.base = FUZZ_MAIN, .limit = 0x1fff},
    {.limit = 0xfffff, .pages = true, .read_only = true},
    {.limit = FUZZ_MAIN >> 12, .pages = true, .down = true},
    {.limit = 0xfffff, .pages = true, .absent = true},
    {.limit = 0xfffff, .pages = true, .code = true},
    {.base = FUZZ_CODE, .limit = 0xfffff, .code = true, .read_only = true},
    {.base = FUZZ_CODE, .limit = 0x4ffff, .code = true},
    {.base = 0x00346ab7, .limit = 0xfffff, .pages = true, .code = true},
    {.limit = 0xfffff, .pages = true, .code = true, .absent = true},
    {.limit = 0xfffff, .pages = true, .code = true, .absent = true, .conforming = true},
    {.base = FUZZ_STACK - 0x123450, .limit = 0xfffff, .pages = true},
    {.limit = FUZZ_STACK >> 12, .pages = true, .down = true},
    {.base = FUZZ_STACK, .limit = 0xffff, .small = true},
    {.base = FUZZ_MAIN, .limit = 0xffff, .small = true},
    {.base = FUZZ_MAIN - 0x1000, .limit = 0xfff, .down = true, .small = true},
    CODE16(0),
    CODE16(1),
    CODE16(2),
    CODE16(3),
    CODE16(4),
    CODE16(5),
    CODE16(6),
    CODE16(7),
    CODE16(8),
    CODE16(9),
    CODE16(10),
    CODE16(11),
    CODE16(12),
    CODE16(13),
    CODE16(14),
    CODE16(15),
};
/* A far jump in 16-bit code takes the upper half of FUZZ_STUB for its selector and the lower one
 * for its offset. */
static const struct fuzz_descriptor exit_descriptor = {
    .base = FUZZ_STUB + FUZZ_STUB16 - (FUZZ_STUB & 0xffff), .limit = 0xffff, .code = true};

static bool ldt_allowed, small_allowed;

void fuzz_segments_allow(bool ldt, bool small) {
    ldt_allowed = ldt;
    small_allowed = ldt && small;
}
bool fuzz_has_ldt(void) {
    return ldt_allowed;
}
bool fuzz_has_16bit(void) {
    return small_allowed;
}

const struct fuzz_descriptor *fuzz_descriptor(u16 selector) {
    unsigned index = selector >> 3;
    const struct fuzz_descriptor *d = (selector | 3) == FUZZ_LDT_EXIT ? &exit_descriptor
                                      : index < FUZZ_LDT_ENTRIES      ? &descriptors[index]
                                                                      : NULL;
    if (!(selector & 4) || !d || !ldt_allowed || (d->small && !small_allowed))
        return NULL;
    return d;
}

u32 fuzz_base(u16 selector) {
    const struct fuzz_descriptor *d = fuzz_descriptor(selector);
    return d ? d->base : 0;
}

bool fuzz_is_32bit(u16 selector) {
    const struct fuzz_descriptor *d = fuzz_descriptor(selector);
    return !d || !d->small;
}
