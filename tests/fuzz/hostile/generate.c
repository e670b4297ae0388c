/*
 * generate.c: from a seed and a number to a machine: each kind of hostile guest is a mixture of the
 * same pieces.
 */
#include "hostile.h"

const char *const hostile_kind_name[HOSTILE_KINDS] = {
#define X(name, help) [HOSTILE_##name] = #name,
    HOSTILE_KINDS_LIST(X)
#undef X
};

#define CODE_BYTES 0x800u

void hostile_describe(struct hostile_case *c, u64 seed, u64 number) {
    static const u8 shifts[] = {0, 0, 4, 8};
    struct fuzz_rng r = fuzz_rng(seed ^ 0x686f7374, number);
    *c = (struct hostile_case){.seed = seed, .number = number};
    c->kind = (enum hostile_kind)(number % HOSTILE_KINDS);
    c->shift = shifts[fuzz_below(&r, ARRAY_LEN(shifts))];
    c->budget_ns = (u64)(100 + fuzz_below(&r, 3000)) << c->shift;
    c->cpu = fuzz_one_in(&r, 3) ? "max" : NULL;
}

/* ---- Code ---- */

typedef void put_fn(struct gen *g);

static void put_anything(struct gen *g) {
    static put_fn *const all[] = {put_random_insn, put_privileged_insn, put_system_insn,
                                  put_memory_insn, put_device_insn};
    PICK(g, all)(g);
}

static void put_mostly_random(struct gen *g) {
    (one_in(g, 3) ? put_privileged_insn : one_in(g, 4) ? put_memory_insn : put_random_insn)(g);
}

static void put_mostly_memory(struct gen *g) {
    if (one_in(g, 12))
        put_privileged_insn(g);
    else if (one_in(g, 12))
        PUT(g, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8); /* CR3 to itself */
    else
        put_memory_insn(g);
}

static void put_mostly_system(struct gen *g) {
    (one_in(g, 6) ? put_memory_insn : put_system_insn)(g);
}

static void put_mostly_device(struct gen *g) {
    (one_in(g, 8) ? put_privileged_insn : put_device_insn)(g);
}

static void put_self_modifying(struct gen *g) {
    if (one_in(g, 3))
        put_self_store(g, g->at & ~0x7ffu, g->end);
    else
        put_anything(g);
}

static void put_random_bytes(struct gen *g) {
    PUT(g, (u8)any(g), (u8)any(g), (u8)any(g), (u8)any(g));
}

static bool code_is_16bit(const struct gen *g) {
    return !(g->cpu->seg[SEG_CS].attr & ATTR_DB);
}

/* Code from `at` on, and a jump back to its start. */
static void fill_code(struct gen *g, u32 at, put_fn *put) {
    u32 bytes = 32 + below(g, CODE_BYTES - 64);
    g->at = at;
    g->end = at + bytes;
    while (g->at < g->end)
        put(g);
    g->end += 8;
    if (code_is_16bit(g)) {
        PUT(g, 0xe9, (u8)(at - g->at - 3), (u8)((at - g->at - 3) >> 8));
    } else {
        PUT(g, 0xe9);
        put32(g, at - g->at - 4);
    }
}

static put_fn *code_of(struct gen *g) {
    switch (g->c->kind) {
    case HOSTILE_code:
        return one_in(g, 4) ? put_random_bytes : put_mostly_random;
    case HOSTILE_pages:
        return put_mostly_memory;
    case HOSTILE_tables:
        return put_mostly_system;
    case HOSTILE_devices:
        return put_mostly_device;
    default:
        return one_in(g, 2) ? put_self_modifying : put_anything;
    }
}

/* ---- The machine ---- */

static void enter_some_mode(struct gen *g) {
    bool odd = (g->c->kind == HOSTILE_code || g->c->kind == HOSTILE_mix) && one_in(g, 6);
    if (odd && one_in(g, 2))
        enter_real(g);
    else if (odd)
        enter_v86(g);
    else
        enter_protected(g, one_in(g, 3) ? 3 : 0);
}

/* CR3 loads lead to tables of the kind that CR4 wants, paging on or not. */
static void some_pages(struct gen *g) {
    bool pae = one_in(g, 2);
    make_pages(g, pae);
    if (g->c->kind == HOSTILE_pages || one_in(g, 3))
        tamper_with_pages(g, 1 + below(g, g->c->kind == HOSTILE_pages ? 40 : 4));
    if (g->c->kind == HOSTILE_pages || one_in(g, 2))
        return;
    g->cpu->cr0 &= ~CR0_PG;
    g->cpu->efer = 0;
}

void hostile_generate(struct hostile_case *c, u8 *ram, struct cpu *cpu) {
    struct gen g = {.r = fuzz_rng(c->seed, c->number), .ram = ram, .cpu = cpu, .c = c};
    cpu->cr0 = CR0_ET;
    make_tables(&g);
    make_dma(&g);
    some_pages(&g);
    enter_some_mode(&g);
    if (c->kind == HOSTILE_tables || (c->kind == HOSTILE_mix && one_in(&g, 2)))
        tamper_with_tables(&g, 1 + below(&g, 16));
    put_fn *put = code_of(&g);
    fill_code(&g, AT_KERNEL, put);
    fill_code(&g, AT_USER, put);
    fill_code(&g, AT_REAL, put);
    for (u32 i = 0; i < 64; i++)
        store32(ram + AT_DATA + 4 * below(&g, DATA_BYTES / 4), hostile_value(&g));
    for (u32 i = 0; i < 0x80; i += 4) {
        store32(ram + AT_STACK0 + i, hostile_value(&g));
        store32(ram + AT_STACK3 + i, hostile_value(&g));
    }
}
