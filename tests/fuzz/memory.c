/*
 * memory.c: the scratch memory of a case: where its pages lie, how it starts, and a hash over what
 * a case changed.
 */
#include "fuzz.h"

const u32 fuzz_page_lin[FUZZ_PAGES] = {
    FUZZ_LOW,           FUZZ_LOW + 0x1000, FUZZ_MAIN,           FUZZ_MAIN + 0x1000,
    FUZZ_MAIN + 0x2000, FUZZ_STACK,        FUZZ_STACK + 0x1000, FUZZ_TOP,
    FUZZ_STACK_END,     FUZZ_LOW_RO,       FUZZ_MAIN_RO,
};

i32 fuzz_scratch_offset(u32 lin) {
    for (u32 i = 0; i < FUZZ_PAGES; i++)
        if ((lin & ~PAGE_OFFSET_MASK) == fuzz_page_lin[i])
            return (i32)(i * PAGE_BYTES + (lin & PAGE_OFFSET_MASK));
    return -1;
}

void fuzz_memory_reset(u8 *scratch, const u8 *template, const struct fuzz_case *c) {
    memcpy(scratch, template, FUZZ_RW_BYTES);
    for (unsigned i = 0; i < c->patches; i++)
        store32(scratch + c->patch[i].offset, c->patch[i].value);
}

u64 fuzz_memory_hash(u8 *scratch, const u8 *template, const struct fuzz_case *c) {
    enum { LINE = 128 };
    u64 hash = 0;
    for (unsigned i = 0; i < c->ignores; i++)
        memset(scratch + c->ignore[i].offset, 0, c->ignore[i].value);
    for (u32 at = 0; at < FUZZ_RW_BYTES; at += LINE) {
        if (memcmp(scratch + at, template + at, LINE) == 0)
            continue;
        hash ^= at;
        for (u32 i = 0; i < LINE; i += 8) {
            hash = (hash ^ load64(scratch + at + i)) * 0x9e3779b97f4a7c15ull;
            hash ^= hash >> 29;
        }
    }
    return hash;
}

void fuzz_ignore(struct fuzz_case *c, u32 lin, u32 bytes) {
    for (u32 i = 0; i < bytes;) {
        i32 offset = fuzz_scratch_offset(lin + i);
        u32 n = MIN(bytes - i, PAGE_BYTES - ((lin + i) & PAGE_OFFSET_MASK));
        struct fuzz_patch *last = c->ignores ? &c->ignore[c->ignores - 1] : NULL;
        i += n;
        if (offset < 0 || (u32)offset >= FUZZ_RW_BYTES)
            continue;
        if (last && last->offset + last->value == (u32)offset)
            last->value += n;
        else if (last && (u32)offset + n == last->offset) {
            last->offset = (u32)offset;
            last->value += n;
        } else if (c->ignores < ARRAY_LEN(c->ignore))
            c->ignore[c->ignores++] = (struct fuzz_patch){(u32)offset, n};
    }
}
