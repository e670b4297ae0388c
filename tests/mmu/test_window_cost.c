/*
 * test_window_cost.c: prints what the windows' operations cost on this host, and asserts only what
 * does not depend on it: how many host calls each takes. The real host fault (about 1.6 us) comes
 * on top of every fill; it is left out here.
 */
#include "mmu_fixture.h"

#include "mmu/window.h"

#include <time.h>

#define RWU (PTE_P | PTE_W | PTE_U)
#define AD (PTE_A | PTE_D)
#define BASE 0x08000000u
#define PD2 0x2000u

static struct fixture *f;
static int setup(void **state) {
    (void)state;
    struct mmu_error err;
    f = fix_create(FIX_RAM_BYTES);
    memset(f->mmu->ram, 0, FIX_RAM_BYTES); /* the host has every page already */
    assert_true(mmu_windows_create(&f->cpu, &err));
    return 0;
}
static int teardown(void **state) {
    (void)state;
    fix_destroy(f);
    return 0;
}
static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* the machine may be shared */
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}
static void report(const char *what, u64 ns, u64 n) {
    printf("    %-58s %8.0f ns\n", what, (double)ns / (double)n);
}
/* Maps pages [0, n) of the process at BASE to frames `stride` pages apart. */
static void map_pages(u32 pd, u32 n, u32 stride, u32 flags) {
    for (u32 i = 0; i < n; i++) {
        u32 frame = 0x200000 + i * stride * PAGE_BYTES % (FIX_RAM_BYTES - 0x200000);
        fix_write32(f, fix_pte(f, pd, BASE + i * PAGE_BYTES), frame | flags);
    }
    for (u32 lin = BASE; lin < BASE + n * PAGE_BYTES; lin += 4u << 20) {
        u32 pde = pd + (lin >> 22) * 4;
        fix_write32(f, pde, fix_read32(f, pde) | PTE_A);
    }
}
static void touch(u32 lin) {
    *(volatile u32 *)(mmu_window_base(&f->cpu, true) + lin);
}
static void fault(u32 lin, bool write) {
    assert_int_equal(mmu_window_fault(&f->cpu, true, GLIN(lin), write), MMU_FAULT_FILLED);
}
static u64 calls(void) {
    return f->mmu->stat_host_maps;
}

static void filling_single_pages(void **state) {
    (void)state;
    u32 n = 1024;
    map_pages(FIX_PD, n, 3, RWU | AD);
    mmu_windows_set_foresight(&f->cpu, false);
    u64 before = calls(), t = now_ns();
    for (u32 i = 0; i < n; i++)
        fault(BASE + i * PAGE_BYTES, false);
    report("fill of a single page", now_ns() - t, n);
    assert_int_equal(calls() - before, n);
    t = now_ns();
    for (u32 i = 0; i < n; i++)
        touch(BASE + i * PAGE_BYTES);
    report("  first touch after it", now_ns() - t, n);
    t = now_ns();
    mmu_mode_changed(&f->cpu); /* nothing changed: revalidates the kernel window only */
    report("revalidating an empty window", now_ns() - t, 1);
}

static void filling_runs_of_16(void **state) {
    (void)state;
    u32 n = 1024;
    map_pages(FIX_PD, n, 1, RWU | AD);
    u64 before = calls(), t = now_ns();
    for (u32 i = 0; i < n; i += 16)
        fault(BASE + i * PAGE_BYTES, false);
    report("fill of a contiguous run of 16, per page", now_ns() - t, n);
    assert_int_equal(calls() - before, n / 16);
    t = now_ns();
    for (u32 i = 0; i < n; i++)
        touch(BASE + i * PAGE_BYTES);
    report("  first touch after it", now_ns() - t, n);
}

static void filling_scattered_neighbours(void **state) {
    (void)state;
    u32 n = 1024;
    map_pages(FIX_PD, n, 3, RWU | AD);
    u64 before = f->mmu->stat_pages_filled, t = now_ns();
    for (u32 i = 0; i < n; i += 16)
        fault(BASE + i * PAGE_BYTES, false);
    report("fill with scattered neighbours, per page", now_ns() - t,
           f->mmu->stat_pages_filled - before);
}

static void filling_a_large_page(void **state) {
    (void)state;
    for (u32 i = 0; i < 4; i++)
        fix_map_large(f, BASE + (i << 22), (4u << 20) * (i + 1) | RWU | AD);
    u64 t = now_ns();
    for (u32 i = 0; i < 4; i++)
        fault(BASE + (i << 22), true);
    report("fill of a large page", now_ns() - t, 4);
    t = now_ns();
    for (u32 i = 0; i < 4096; i++)
        touch(BASE + i * PAGE_BYTES);
    report("  first touch of its pages, per page", now_ns() - t, 4096);
}

static void upgrading_clean_pages(void **state) {
    (void)state;
    u32 n = 1024;
    map_pages(FIX_PD, n, 3, RWU | PTE_A);
    for (u32 i = 0; i < n; i += 1)
        mmu_window_prefill(&f->cpu, true, GLIN(BASE + i * PAGE_BYTES), false);
    u64 t = now_ns();
    for (u32 i = 0; i < n; i++)
        fault(BASE + i * PAGE_BYTES, true);
    report("first write to a clean page", now_ns() - t, n);
    t = now_ns();
    for (u32 i = 0; i < n; i++)
        *(volatile u32 *)(mmu_window_base(&f->cpu, true) + BASE + i * PAGE_BYTES) = i;
    report("  the write after it", now_ns() - t, n);
}

static void revalidating_1000_pages(void **state) {
    (void)state;
    u32 n = 1000, rounds = 1000;
    map_pages(FIX_PD, n, 1, RWU | AD);
    for (u32 i = 0; i < n; i++)
        mmu_window_prefill(&f->cpu, true, GLIN(BASE + i * PAGE_BYTES), true);
    u64 before = calls(), t = now_ns();
    for (u32 i = 0; i < rounds; i++) {
        mmu_cr3_loaded(&f->cpu);
        mmu_window_base(&f->cpu, true);
    }
    report("revalidating 1000 unchanged pages", now_ns() - t, rounds);
    t = now_ns();
    for (u32 i = 0; i < rounds; i++) {
        u32 pte = fix_pte(f, FIX_PD, BASE + 500 * PAGE_BYTES);
        fix_write32(f, pte, fix_read32(f, pte) ^ 0x200); /* a bit that is software's */
        mmu_cr3_loaded(&f->cpu);
        mmu_window_base(&f->cpu, true);
    }
    report("  with one entry changed, mapping kept", now_ns() - t, rounds);
    assert_int_equal(calls(), before);
    t = now_ns();
    map_pages(FIX_PD, n, 1, PTE_P | PTE_U | AD); /* fork: all read-only */
    mmu_cr3_loaded(&f->cpu);
    mmu_window_base(&f->cpu, true);
    report("  with all made read-only", now_ns() - t, 1);
    t = now_ns();
    map_pages(FIX_PD, n, 1, 0);
    mmu_cr3_loaded(&f->cpu);
    mmu_window_base(&f->cpu, true);
    report("  with all unmapped", now_ns() - t, 1);
}

static void switching_between_two_processes(void **state) {
    (void)state;
    u32 rounds = 1000, regions = 6;
    for (u32 k = 0; k < 2; k++) {
        u32 pd = k ? PD2 : FIX_PD;
        for (u32 r = 0; r < regions; r++)
            for (u32 i = 0; i < 40; i++) {
                u32 frame = 0x200000 + ((k * 1000 + r * 40 + i) * 3 * PAGE_BYTES) % 0x1000000;
                fix_write32(f, fix_pte(f, pd, BASE + (r << 22) + i * PAGE_BYTES), frame | RWU | AD);
            }
        f->cpu.cr3 = pd;
        mmu_cr3_loaded(&f->cpu);
        for (u32 r = 0; r < regions; r++)
            for (u32 i = 0; i < 40; i += 4)
                fault(BASE + (r << 22) + i * PAGE_BYTES, true);
    }
    u64 before = calls(), t = now_ns();
    for (u32 i = 0; i < rounds; i++) {
        f->cpu.cr3 = i & 1 ? PD2 : FIX_PD;
        mmu_cr3_loaded(&f->cpu);
        mmu_window_base(&f->cpu, true);
    }
    report("CR3 switch between processes of 6 regions, 240 pages", now_ns() - t, rounds);
    assert_int_equal(calls(), before);
}

static void invalidating_single_pages(void **state) {
    (void)state;
    u32 n = 1000;
    map_pages(FIX_PD, n, 1, RWU | AD);
    for (u32 i = 0; i < n; i++)
        mmu_window_prefill(&f->cpu, true, GLIN(BASE + i * PAGE_BYTES), true);
    u64 t = now_ns();
    for (u32 i = 0; i < n; i++)
        mmu_invlpg(&f->cpu, GLIN(BASE + i * PAGE_BYTES));
    report("INVLPG of an unchanged page", now_ns() - t, n);
    t = now_ns();
    for (u32 i = 0; i < n; i += 2) {
        fix_write32(f, fix_pte(f, FIX_PD, BASE + i * PAGE_BYTES), 0);
        mmu_invlpg(&f->cpu, GLIN(BASE + i * PAGE_BYTES));
    }
    report("INVLPG of an unmapped page", now_ns() - t, n / 2);
    t = now_ns();
    for (u32 i = 1; i < n; i += 2)
        mmu_code_protect(f->mmu, GPA(0x200000 + i * PAGE_BYTES));
    report("protecting a code page mapped writable", now_ns() - t, n / 2);
}

static void the_walker_and_the_soft_tlb(void **state) {
    (void)state;
    u32 n = 1000000, v;
    struct mmu_xlat x;
    map_pages(FIX_PD, 64, 1, RWU | AD);
    u64 t = now_ns();
    for (u32 i = 0; i < n; i++)
        mmu_translate(&f->cpu, GLIN(BASE + (i & 63) * PAGE_BYTES), MMU_READ, true, &x);
    report("walk", now_ns() - t, n);
    t = now_ns();
    for (u32 i = 0; i < n; i++)
        mmu_read(&f->cpu, BASE + (i & 63) * PAGE_BYTES, &v, 4, MMU_READ);
    report("mmu_read through the soft TLB", now_ns() - t, n);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(filling_single_pages),
        T(filling_runs_of_16),
        T(filling_scattered_neighbours),
        T(filling_a_large_page),
        T(upgrading_clean_pages),
        T(revalidating_1000_pages),
        T(switching_between_two_processes),
        T(invalidating_single_pages),
        T(the_walker_and_the_soft_tlb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
