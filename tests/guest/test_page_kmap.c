/*
 * High memory as kernels reach it who have no addresses for all of it: a few slots, each remapped
 * again and again with one INVLPG, over most of 1 GiB. Copies between two slots, fills, and
 * accesses at ring 3 through the same frames. SDM volume 3A, section 4.10.4.1 "Operations that
 * Invalidate TLBs and Paging-Structure Caches".
 * Expected: every frame holds what was put into it last; no other frame shows through a slot.
 * OPTIONS: -m 1024
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

enum { SLOTS = 0x30000000, SLOT_COUNT = 8, USER = 0x30400000, FIRST = 64 << 20, COUNT = 2048 };
CODE(copy_page, "cld; mov $1024,%ecx; rep movsl" DONE);
CODE(fill_page, "cld; mov $1024,%ecx; rep stosl" DONE);
CODE(load, "mov (%ecx),%eax" DONE);
CODE(add, "add %edx,(%ecx); mov 4092(%ecx),%eax" DONE);
static u32 model[COUNT];
static u32 next_slot, spread;

static u32 frame(u32 n) {
    return FIRST + n * spread;
}
/* The next slot in turn shows frame n. */
static volatile u32 *kmap(u32 n) {
    u32 at = SLOTS + next_slot++ % SLOT_COUNT * 4096;
    map(at, frame(n), PT_P | PT_W | PT_A | PT_D);
    return (volatile u32 *)at;
}
/* As a kernel may leave it: the entry cleared now, the flush at the next use. */
static void kunmap(volatile u32 *page) {
    *pte((u32)page) = 0;
}

static void fill_all(void) {
    for (u32 n = 0; n < COUNT; n++) {
        volatile u32 *page = kmap(n);
        model[n] = n * 2654435761u;
        if (n % 16 == 0) {
            reset_run(0);
            in.edi = (u32)page;
            in.eax = model[n];
            RUNS(0, fill_page);
        } else
            page[0] = page[1023] = model[n];
        kunmap(page);
    }
}
static void check_all(void) {
    for (u32 i = 0; i < COUNT; i++) {
        u32 n = i * 1229 % COUNT; /* an order of its own */
        volatile u32 *page = kmap(n);
        EQ(page[0], model[n]);
        EQ(page[1023], model[n]);
        kunmap(page);
    }
}
static void copy_some(void) {
    for (u32 i = 0; i < COUNT / 8; i++) {
        u32 from = i * 37 % COUNT, to = i * 101 % COUNT;
        volatile u32 *source = kmap(from), *target = kmap(to);
        reset_run(0);
        in.esi = (u32)source;
        in.edi = (u32)target;
        RUNS(0, copy_page);
        model[to] = model[from];
        EQ(*source, model[from]);
        kunmap(source), kunmap(target);
    }
}
/* The same frames in a program's hands, while the kernel looks at them through a slot. */
static void user_pages(void) {
    for (u32 i = 0; i < COUNT / 8; i++) {
        u32 n = i * 53 % COUNT;
        map(USER, frame(n), PT_P | PT_W | PT_U);
        volatile u32 *page = kmap(n);
        reset_run(3);
        in.ecx = USER;
        RUNS(3, load);
        EQ(trap.eax, model[n]);
        page[1023] = page[0] = model[n] ^= 0x5555;
        reset_run(3);
        in.ecx = USER;
        in.edx = 3;
        RUNS(3, add);
        EQ(trap.eax, model[n]);
        EQ(page[0], model[n] + 3);
        page[0] = model[n];
        kunmap(page);
        map(USER, 0, 0);
    }
}

void test(void) {
    if (memory_bytes() < 1000u << 20)
        skip("less than 1 GiB of memory");
    spread = ((memory_bytes() - FIRST - (1 << 20)) / COUNT) & ~0xfffu;
    paging_prepare();
    pte(SLOTS);
    pte(USER);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    fill_all();
    check_all();
    copy_some();
    check_all();
    user_pages();
    check_all();
    paging_off();
}
