/*
 * A long pseudo-random sequence of what kernels do to address spaces, checked against a model at
 * each step: map, unmap, protect, remap, switch between four directories, clear A and D, writes
 * through aliases, accesses by ring 0 and ring 3. SDM volume 3A, section 4.10.4 "Invalidation of
 * TLBs and Paging-Structure Caches": each change is followed by what the manual requires (INVLPG
 * or a CR3 load; nothing when only rights are added after a fault or an entry becomes present).
 * Expected: every access gives the model's value or the model's fault; A and D bits agree with
 * the accesses made.
 * ROUNDS: 2
 * SECONDS: 90
 */
#include "guest.h"

enum { SPACES = 4, PAGES = 64, FRAMES = 32, AREA = 0x40000000, STEPS = 4000 };
static u32 directories[SPACES][1024] __attribute__((aligned(4096)));
static u32 tables[SPACES][2][1024] __attribute__((aligned(4096)));
static u32 model_frame[FRAMES];
static u32 current, seed = 1;
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(add, "add %edx,(%ecx); mov (%ecx),%eax" DONE);
CODE(copy, "cld; mov %ecx,%esi; mov %edx,%edi; mov $1,%ecx; rep movsl" DONE);

static u32 random(u32 limit) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % limit;
}

static u32 frame_address(u32 frame) {
    return SCRATCH + frame * 4096 + 64;
}
/* The pages stand in two groups, 4 MiB apart, so that two directory entries are in play. */
static u32 page_address(u32 page) {
    return AREA + (page & 31) * 4096 + (page >> 5) * 0x400000 + 64;
}
static u32 *entry(u32 space, u32 page) {
    return &tables[space][page >> 5][page & 31];
}

static void flush(u32 space, u32 page) {
    if (space != current)
        return; /* the CR3 load that makes it current will do */
    if (random(4))
        invlpg(page_address(page));
    else
        write_cr3(read_cr3());
}

/* The vector an access must end in. */
static u32 expected(u32 space, u32 page, u32 ring, bool write) {
    u32 e = *entry(space, page);
    if (!(e & PT_P) || (ring && !(e & PT_U)) || (write && !(e & PT_W)))
        return V_PF;
    return V_DONE;
}

static void go(u32 ring, const u8 *code, u32 ecx, u32 edx) {
    reset_run(ring);
    in.ecx = ecx;
    in.edx = edx;
    run(ring, code);
}

static void access(u32 page, u32 ring, u32 kind) {
    static const u8 *const codes[] = {load, store, add};
    u32 before = *entry(current, page), value = seed,
        vector = expected(current, page, ring, kind != 0);
    u32 frame = ((before & ~0xfffu) - SCRATCH) / 4096;
    go(ring, codes[kind], page_address(page), value);
    EQ(trap.vector, vector);
    u32 after = *entry(current, page);
    if (vector == V_PF) {
        EQ(trap_cr2, page_address(page));
        EQ(trap.error, (before & PT_P ? 1u : 0) |
                           (kind == 2 && is_tcg() ? trap.error & 2
                            : kind                ? 2u
                                                  : 0) |
                           (ring ? 4 : 0));
        EQ(after & PT_D, before & PT_D);
        return;
    }
    EQ(after & PT_A, PT_A);
    EQ(after & PT_D, kind ? PT_D : before & PT_D);
    EQ(after & ~(PT_A | PT_D), before & ~(PT_A | PT_D));
    if (kind == 1)
        model_frame[frame] = value;
    if (kind == 2)
        model_frame[frame] += value;
    EQ(*(volatile u32 *)frame_address(frame), model_frame[frame]);
    if (kind != 1)
        EQ(trap.eax, model_frame[frame]);
}

static void change(u32 space, u32 page) {
    u32 *e = entry(space, page), old = *e;
    u32 fresh = frame_address(random(FRAMES)) & ~0xfffu;
    switch (random(8)) {
    case 0:
        *e = 0;
        break;
    case 1:
        *e = fresh | PT_P | PT_W | PT_U;
        break;
    case 2:
        *e = fresh | PT_P | PT_U;
        break;
    case 3:
        *e = fresh | PT_P | PT_W;
        break;
    case 4:
        *e = old & ~(u32)PT_W;
        break;
    case 5:
        *e = old & ~(u32)(PT_A | PT_D);
        break;
    case 6:
        *e = fresh | PT_P | PT_W | PT_U | PT_A | PT_D;
        break;
    default:
        *e = old ^ PT_P;
        if (!(old & ~0xfffu))
            *e = 0;
    }
    if (old & PT_P)
        flush(space, page); /* from absent to present needs none */
}

/* As a kernel copies a process: all entries of one space become read-only and go to another. */
static void fork_space(u32 from, u32 to) {
    if (from == to)
        return;
    for (u32 page = 0; page < PAGES; page++) {
        *entry(from, page) &= ~(u32)PT_W;
        *entry(to, page) = *entry(from, page) & ~(u32)PT_D;
    }
    write_cr3(read_cr3());
}

static void copy_between(u32 from, u32 to, u32 ring) {
    bool works = expected(current, from, ring, false) == V_DONE &&
                 expected(current, to, ring, true) == V_DONE;
    u32 a = ((*entry(current, from) & ~0xfffu) - SCRATCH) / 4096,
        b = ((*entry(current, to) & ~0xfffu) - SCRATCH) / 4096;
    go(ring, copy, page_address(from), page_address(to));
    EQ(trap.vector, works ? V_DONE : V_PF);
    if (works) {
        model_frame[b] = model_frame[a];
        EQ(*(volatile u32 *)frame_address(b), model_frame[b]);
    }
}

void test(void) {
    paging_prepare();
    for (u32 frame = 0; frame < FRAMES; frame++)
        *(u32 *)frame_address(frame) = model_frame[frame] = frame * 0x01010101;
    memset(tables, 0, sizeof tables);
    for (u32 space = 0; space < SPACES; space++) {
        memcpy(directories[space], page_directory, 4096);
        for (u32 group = 0; group < 2; group++)
            directories[space][(AREA >> 22) + group] =
                (u32)tables[space][group] | PT_P | PT_W | PT_U;
    }
    write_cr0(read_cr0() | CR0_WP);
    current = 0;
    write_cr3((u32)directories[0]);
    write_cr0(read_cr0() | CR0_PG);
    for (u32 step = 0; step < STEPS; step++) {
        u32 ring = random(2) * 3;
        switch (random(10)) {
        case 0:
            current = random(SPACES);
            write_cr3((u32)directories[current]);
            break;
        case 1:
        case 2:
        case 3:
            change(random(3) ? current : random(SPACES), random(PAGES));
            break;
        case 4:
            copy_between(random(PAGES), random(PAGES), ring);
            break;
        case 5:
            if (!random(20))
                fork_space(current, random(SPACES));
            break;
        case 6: { /* the kernel writes the frame by its identity mapping */
            u32 frame = random(FRAMES);
            *(volatile u32 *)frame_address(frame) = model_frame[frame] = seed;
            break;
        }
        default:
            access(random(PAGES), ring, random(3));
        }
    }
    write_cr3((u32)page_directory);
    paging_off();
}
