/*
 * test_window_metal.c: windows as real page-table entries, case by case, on a machine that
 * fake_metal.h plays. test_window_metal_property.c does the same at random.
 */
#include "metal_fixture.h"

#include <signal.h>
#include <ucontext.h>

#define LIN 0x08049000u
#define KERNEL 0xc0012000u
#define FRAME 0x00200000u
#define PD2 0x2000u /* a second address space */

static void expect(bool user, u32 lin, enum mmu_access access, u32 gpa, unsigned faults) {
    struct outcome o = touch(user, lin, access);
    assert_int_equal(o.kind, MMU_FAULT_FILLED);
    assert_int_equal(o.gpa, gpa);
    assert_int_equal(o.faults, faults);
}
static void expect_true_fault(bool user, u32 lin, enum mmu_access access, u32 error) {
    assert_int_equal(touch(user, lin, access).kind, MMU_FAULT_TRUE);
    assert_int_equal(f->cpu.fault.error, error);
    assert_int_equal(f->cpu.fault.cr2, lin);
}
static void expect_emulate(bool user, u64 lin, enum mmu_access access) {
    assert_int_equal(touch(user, lin, access).kind, MMU_FAULT_EMULATE);
}
static void load_cr3(u32 cr3) {
    f->cpu.cr3 = cr3;
    mmu_cr3_loaded(&f->cpu);
}
static void map2(u32 lin, u32 entry) {
    fix_write32(f, fix_pte(f, PD2, lin), entry);
}
/* ---- Rights ---- */

static void user_pages_serve_both_rings(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    expect(true, LIN, MMU_READ, FRAME, 1);
    expect(false, LIN + 4, MMU_READ, FRAME + 4, 0);
    expect(false, LIN + 8, MMU_WRITE, FRAME + 8, 1);
    expect(true, LIN, MMU_WRITE, FRAME, 0);
    assert_int_equal(fix_read32(f, fix_pte(f, FIX_PD, LIN)) & AD, AD);
}

static void supervisor_pages_beside_user_pages_are_ring_0s_alone(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, LIN + 0x1000, (FRAME + 0x5000) | PTE_P | PTE_W | AD);
    expect(true, LIN, MMU_READ, FRAME, 1);
    expect(false, LIN + 0x1000, MMU_WRITE, FRAME + 0x5000, 1);
    expect_true_fault(true, LIN + 0x1000, MMU_READ, PF_P | PF_U);
    expect(true, LIN + 8, MMU_WRITE, FRAME + 8, 0); /* foreseen with its neighbour */
    fix_map(f, LIN + 0x1000, 0);
    mmu_invlpg(&f->cpu, GLIN(LIN + 0x1000));
    expect_true_fault(false, LIN + 0x1000, MMU_READ, 0);
    expect(true, LIN, MMU_WRITE, FRAME, 0);
}

static void a_slot_returns_to_the_user_window(void **state) {
    (void)state;
    struct mmu_windows *ws = f->mmu->windows;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, LIN + 0x20000, (FRAME + 0x5000) | PTE_P | PTE_W | AD);
    expect(true, LIN, MMU_READ, FRAME, 1);
    expect(false, LIN + 0x20000, MMU_READ, FRAME + 0x5000, 1);
    assert_non_null(window_region(ws, &ws->window[0], LIN >> REGION_SHIFT));
    fix_map(f, LIN + 0x20000, 0);
    mmu_invlpg(&f->cpu, GLIN(LIN + 0x20000));
    assert_null(window_region(ws, &ws->window[0], LIN >> REGION_SHIFT));
    validate();
    expect(true, LIN, MMU_READ, FRAME, 0);
    expect_true_fault(false, LIN + 0x20000, MMU_READ, 0);
}

static void a_hidden_region_leaves_nothing_in_the_paging_structure_caches(void **state) {
    (void)state;
    u32 slot = LIN & 0xffc00000, other = 0x200000; /* the half that no access faults in */
    struct gpa gpa;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, LIN + 0x20000, (FRAME + 0x5000) | PTE_P | PTE_W | AD);
    fix_map(f, 0xc0000000 + other, (FRAME + 0x7000) | PTE_P | PTE_W | AD);
    mmu_current_view(&f->cpu, true);
    assert_true(mmu_fetch(&f->cpu, GLIN(LIN), true, &gpa)); /* a region with a mark alone */
    assert_int_equal(fake_look_up(slot + other), 0);
    expect(false, LIN + 0x20000, MMU_WRITE, FRAME + 0x5000,
           1); /* the kernel window takes the slot */
    assert_int_equal(fake_look_up(slot + other), 0);
    fix_map(f, LIN, 0);
    mmu_invlpg(&f->cpu, GLIN(LIN)); /* and the user window's region goes */
    expect(false, 0xc0000000 + other, MMU_WRITE, FRAME + 0x7000, 1);
    assert_int_equal(fake_look_up(slot + other), 0);
}

static void without_write_protection_only_ring_3_is_held_back(void **state) {
    (void)state;
    f->cpu.cr0 &= ~CR0_WP;
    mmu_mode_changed(&f->cpu);
    fix_map(f, LIN, FRAME | PTE_P | PTE_U);
    fix_map(f, KERNEL, (FRAME + 0x1000) | PTE_P);
    expect(true, LIN, MMU_READ, FRAME, 1);
    expect_emulate(false, LIN, MMU_WRITE);
    assert_true(fix_read32(f, fix_pte(f, FIX_PD, LIN)) & PTE_D);
    expect_true_fault(true, LIN + 4, MMU_WRITE, PF_P | PF_U | PF_W);
    expect(false, KERNEL, MMU_WRITE, FRAME + 0x1000, 1);
    f->cpu.cr0 |= CR0_WP;
    mmu_mode_changed(&f->cpu);
    expect_true_fault(false, KERNEL, MMU_WRITE, PF_P | PF_W);
    expect(false, KERNEL, MMU_READ, FRAME + 0x1000, 0);
}

static void ring_3_executes_what_the_guest_lets_it(void **state) {
    (void)state;
    fix_enable_pae(f, true);
    fix_write64(f, fix_pae_pte(f, LIN), FRAME | RWU | AD);
    fix_write64(f, fix_pae_pte(f, LIN + 0x1000), (FRAME + 0x1000) | RWU | AD | PTE_NX);
    fix_write64(f, fix_pae_pte(f, KERNEL), (FRAME + 0x2000) | PTE_P | AD);
    expect(true, LIN, MMU_FETCH, FRAME, 1);
    expect(true, LIN + 0x1000, MMU_WRITE, FRAME + 0x1000, 0);
    expect_true_fault(true, LIN + 0x1000, MMU_FETCH, PF_P | PF_U | PF_I);
    expect(false, KERNEL, MMU_READ, FRAME + 0x2000, 1);
    u64 phys;
    assert_false(fake_access(true, KERNEL, false, true, &phys));
    fix_write64(f, fix_pae_pte(f, LIN), FRAME | RWU | AD | PTE_NX);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    expect_true_fault(true, LIN, MMU_FETCH, PF_P | PF_U | PF_I);
    expect(true, LIN, MMU_WRITE, FRAME, 0);
    fix_write64(f, fix_pae_pte(f, LIN), FRAME | RWU | AD);
    expect(true, LIN, MMU_FETCH, FRAME, 1); /* more rights need no flush */
}

static void a_fetch_sets_accessed_only(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    expect(true, LIN, MMU_FETCH, FRAME, 1);
    assert_int_equal(fix_read32(f, fix_pte(f, FIX_PD, LIN)) & AD, PTE_A);
    expect(true, LIN, MMU_WRITE, FRAME, 1);
    expect_true_fault(true, LIN + 0x1000, MMU_FETCH, PF_U);
}

static void without_paging_both_rings_see_physical_memory(void **state) {
    (void)state;
    f->cpu.cr0 &= ~CR0_PG;
    mmu_mode_changed(&f->cpu);
    expect(false, 0x300000, MMU_WRITE, 0x300000, 1);
    expect(true, 0x300000, MMU_WRITE, 0x300000, 0);
    expect(true, 0x300004, MMU_FETCH, 0x300004, 0);
    expect_emulate(false, 0xa0000, MMU_READ);
    expect_emulate(false, (u32)FIX_RAM_BYTES, MMU_READ);
}

static void smap_keeps_user_pages_from_ring_0(void **state) {
    (void)state;
    f->cpu.cr4 |= CR4_SMAP;
    mmu_mode_changed(&f->cpu);
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, KERNEL, (FRAME + 0x1000) | PTE_P | PTE_W | AD);
    expect(true, LIN, MMU_WRITE, FRAME, 1);
    expect(false, KERNEL, MMU_WRITE, FRAME + 0x1000, 1);
    for (u32 i = 0; i < 4; i++) {
        expect_emulate(false, LIN, MMU_READ);
        expect(true, LIN, MMU_WRITE, FRAME, 0);
    }
    validate();
}

static void mmio_code_and_the_guard_are_emulated(void **state) {
    (void)state;
    fix_map(f, LIN, 0xb8000 | RWU);
    fix_map(f, LIN + 0x1000, FRAME | RWU | AD);
    fix_map(f, 0xfffff000, FRAME | RWU | AD);
    expect_emulate(true, LIN, MMU_READ);
    expect(true, LIN + 0x1000, MMU_WRITE, FRAME, 1);
    expect(false, 0xfffffff8, MMU_WRITE, FRAME + 0xff8, 1);
    mmu_code_protect(f->mmu, GPA(FRAME));
    expect_emulate(true, LIN + 0x1000, MMU_WRITE);
    expect_emulate(false, 0xfffff010, MMU_WRITE);
    expect(true, LIN + 0x1000, MMU_READ, FRAME, 0);
    expect_emulate(false, WINDOW_BYTES + 4, MMU_WRITE);
    struct glin lin;
    assert_int_equal(mmu_window_base(&f->cpu, true), 0);
    assert_true(mmu_window_contains(&f->cpu, 0xdeadbeef, true, &lin));
    assert_int_equal(lin.v, 0xdeadbeef);
    assert_true(mmu_window_contains(&f->cpu, WINDOW_BYTES + 4, false, &lin));
    assert_int_equal(lin.v, WINDOW_BYTES + 4);
    assert_false(mmu_window_contains(&f->cpu, 2 * WINDOW_BYTES, true, &lin));
    assert_false(mmu_window_contains(&f->cpu, METAL_DIRECT, true, &lin));
}

/* ---- Flushes ---- */

static void invlpg_acts_at_once_for_both_rings(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, KERNEL, FRAME | PTE_P | PTE_W | AD);
    expect(true, LIN, MMU_WRITE, FRAME, 1);
    expect(false, KERNEL, MMU_WRITE, FRAME, 1);
    fix_map(f, LIN, (FRAME + 0x3000) | RWU | AD);
    fix_map(f, KERNEL, (FRAME + 0x3000) | PTE_P | PTE_W | AD);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    mmu_invlpg(&f->cpu, GLIN(KERNEL));
    assert_false(mmu_user_window_pending(&f->cpu));
    expect(false, LIN, MMU_WRITE, FRAME + 0x3000, 0);
    expect(false, KERNEL, MMU_WRITE, FRAME + 0x3000, 0);
}

static void a_cr3_load_hides_the_user_window_until_it_is_needed(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    map2(LIN, (FRAME + 0x1000) | RWU | AD);
    expect(true, LIN, MMU_WRITE, FRAME, 1);
    u64 first = fake.cr3, phys;
    load_cr3(PD2);
    assert_false(fake_access(false, LIN, false, false, &phys));
    assert_true(mmu_user_window_pending(&f->cpu));
    expect(false, LIN, MMU_WRITE, FRAME + 0x1000,
           1); /* ring 0 chose it: the view is still to see */
    assert_true(mmu_user_window_pending(&f->cpu));
    expect(true, LIN, MMU_WRITE, FRAME + 0x1000, 0);
    assert_true(fake.cr3 != first);
    load_cr3(FIX_PD);
    expect(true, LIN, MMU_WRITE, FRAME, 0);
    assert_int_equal(fake.cr3, first);
}

static void a_view_changed_under_ring_0_is_pending(void **state) {
    (void)state;
    struct gpa gpa;
    fix_map(f, LIN, FRAME | RWU | AD);
    expect(true, LIN, MMU_READ, FRAME, 1);
    assert_true(mmu_fetch(&f->cpu, GLIN(LIN), true, &gpa));
    assert_false(mmu_user_window_pending(&f->cpu));
    u32 epoch = mmu_current_view(&f->cpu, true).epoch;
    mmu_invlpg(&f->cpu, GLIN(LIN));
    assert_false(mmu_user_window_pending(&f->cpu));
    fix_map(f, LIN, (FRAME + 0x1000) | RWU | AD);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    assert_true(mmu_user_window_pending(&f->cpu));
    assert_int_equal(mmu_current_view(&f->cpu, true).epoch, epoch + 1);
    assert_false(mmu_user_window_pending(&f->cpu));
}

static void invlpg_is_light_unless_it_may_change_the_kernels_view(void **state) {
    (void)state;
    struct gpa gpa;
    fix_map(f, KERNEL, FRAME | PTE_P | PTE_W | AD);
    fix_map(f, KERNEL + 0x1000, FRAME | PTE_P | PTE_W | AD);
    expect(false, KERNEL, MMU_READ, FRAME, 1);
    assert_true(mmu_fetch(&f->cpu, GLIN(KERNEL + 0x1000), false, &gpa));
    assert_true(mmu_invlpg_is_light(&f->cpu, GLIN(KERNEL)));
    assert_false(mmu_invlpg_is_light(&f->cpu, GLIN(KERNEL + 0x1000)));
    assert_true(mmu_invlpg_is_light(&f->cpu, GLIN(LIN)));
}

static void global_pages_outlive_a_cr3_load(void **state) {
    (void)state;
    fix_map(f, KERNEL, FRAME | PTE_P | PTE_W | PTE_G | AD);
    fix_map(f, KERNEL + 0x1000, (FRAME + 0x4000) | PTE_P | PTE_W | AD);
    expect(false, KERNEL, MMU_WRITE, FRAME, 1);
    expect(false, KERNEL + 0x1000, MMU_WRITE, FRAME + 0x4000, 0);
    fix_map(f, KERNEL, (FRAME + 0x1000) | PTE_P | PTE_W | PTE_G | AD);
    fix_map(f, KERNEL + 0x1000, (FRAME + 0x5000) | PTE_P | PTE_W | AD);
    load_cr3(FIX_PD);
    expect(false, KERNEL, MMU_WRITE, FRAME, 0);
    expect(false, KERNEL + 0x1000, MMU_WRITE, FRAME + 0x5000, 0);
    f->cpu.cr4 &= ~(u32)CR4_PGE;
    mmu_mode_changed(&f->cpu);
    expect(false, KERNEL, MMU_WRITE, FRAME + 0x1000, 0);
}

static void only_lost_rights_in_reach_are_flushed(void **state) {
    (void)state;
    for (u32 i = 0; i < 200; i++)
        fix_map(f, LIN + i * 0x1000, (FRAME + i * 0x1000) | RWU | AD);
    for (u32 i = 0; i < 200; i++)
        touch(true, LIN + i * 0x1000, MMU_READ);
    assert_int_equal(fake.page_flush_calls + fake.flush_calls, 0);
    fix_map(f, LIN, FRAME | PTE_P | PTE_U | AD);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    assert_int_equal(fake.page_flush_calls, 1);
    mmu_code_protect(f->mmu, GPA(FRAME + 0x5000));
    assert_int_equal(fake.page_flush_calls, 2);
    for (u32 i = 0; i < 200; i++)
        fix_map(f, LIN + i * 0x1000, (FRAME + i * 0x1000) | PTE_P | PTE_U | AD);
    load_cr3(FIX_PD);
    mmu_current_view(&f->cpu, true); /* revalidated before its table is loaded */
    assert_int_equal(fake.page_flush_calls + fake.flush_calls, 2);
    mmu_mode_changed(&f->cpu);
    fix_map_large(f, 0xc0400000, 0x400000 | PTE_P | PTE_W | AD);
    for (u32 i = 0; i < 40; i++)
        touch(false, 0xc0400000 + i * 0x1000, MMU_WRITE);
    fix_map_large(f, 0xc0400000, 0x400000 | PTE_P | AD);
    mmu_invlpg(&f->cpu, GLIN(0xc0400000));
    assert_int_equal(fake.page_flush_calls, 2);
    assert_int_equal(fake.flush_calls, 1);
    expect_true_fault(false, 0xc0402000, MMU_WRITE, PF_P | PF_W);
}

/* ---- Filling ---- */

static void large_pages_are_filled_by_runs(void **state) {
    (void)state;
    fix_map_large(f, 0xc0000000, 0x00400000 | PTE_P | PTE_W | AD);
    unsigned faults = 0;
    for (u32 i = 0; i < 1024; i++) {
        struct outcome o = touch(false, 0xc0000000 + i * 0x1000, MMU_WRITE);
        assert_int_equal(o.kind, MMU_FAULT_FILLED);
        assert_int_equal(o.gpa, 0x400000 + i * 0x1000);
        faults += o.faults;
    }
    assert_int_equal(faults, 1024 / f->mmu->windows->large_run_pages);
    mmu_code_protect(f->mmu, GPA(0x405000));
    expect_emulate(false, 0xc0005000, MMU_WRITE);
    fix_map_large(f, 0xc0000000, 0x00800000 | PTE_P | PTE_W | AD);
    mmu_invlpg(&f->cpu, GLIN(0xc0123000));
    expect(false, 0xc002f000, MMU_WRITE, 0x82f000, 1);
    expect(false, 0xc03ff000, MMU_WRITE, 0xbff000, 1);
}

static void foresight_takes_neighbours_that_are_granted_and_accessed(void **state) {
    (void)state;
    for (u32 i = 0; i < 4; i++)
        fix_map(f, 0x08048000 + i * 0x1000, (FRAME + i * 0x3000) | RWU | (i & 1 ? AD : 0));
    expect(true, 0x08048000, MMU_READ, FRAME, 1);
    expect(true, 0x08049000, MMU_WRITE, FRAME + 0x3000, 0);
    expect(true, 0x0804b000, MMU_WRITE, FRAME + 0x9000, 0);
    expect(true, 0x0804a000, MMU_READ, FRAME + 0x6000, 1);
    mmu_window_prefill(&f->cpu, true, GLIN(0x0804a000), true); /* not dirty */
    expect(true, 0x0804a000, MMU_WRITE, FRAME + 0x6000, 1);
    fix_map(f, 0x0a000000, FRAME | RWU | AD);
    mmu_translate(&f->cpu, GLIN(0x0a000000), MMU_READ, false, &(struct mmu_xlat){0});
    mmu_window_prefill(&f->cpu, true, GLIN(0x0a000000), true);
    expect(true, 0x0a000000, MMU_WRITE, FRAME, 0);
}

static void an_exhausted_pool_evicts(void **state) {
    (void)state;
    bare_teardown();
    bare_setup(3, 2);
    for (u32 i = 0; i < 200; i++) {
        u32 lin = 0x10000000 + (i % 50) * 0x400000, gpa = 0x00400000 + i * 0x3000;
        fix_map(f, lin, gpa | (i % 7 ? RWU : PTE_P | PTE_W) | AD);
        if (i >= 50)
            load_cr3(FIX_PD);
        expect(i % 7 && i % 3, lin, MMU_WRITE, gpa, 1);
        struct gpa fetched;
        assert_true(mmu_fetch(&f->cpu, GLIN(lin), i % 7 && i % 2, &fetched));
        validate();
    }
    assert_true(f->mmu->stat_window_evictions > 50);
}

static void little_memory_means_fewer_windows(void **state) {
    (void)state;
    struct mmu_error err = {""};
    bare_teardown();
    for (u64 limit = 1; limit < FAKE_PAGES; limit *= 2) {
        fake_start();
        fake.limit = limit;
        f = fix_create(FIX_RAM_BYTES);
        f->mmu->memory.phys = PHYS;
        bool created = mmu_windows_create(&f->cpu, &err);
        assert_int_equal(created, limit >= 128);
        assert_true(created || strstr(err.text, "windows"));
        if (created) {
            fix_map(f, LIN, FRAME | RWU | AD);
            expect(true, LIN, MMU_WRITE, FRAME, 1);
            validate();
        }
        bare_teardown();
    }
}

/* ---- Cost ---- */

static volatile sig_atomic_t steps;
static volatile u64 last_step;
/* The iterations of one REP count as one instruction. */
static void on_step(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)info;
    u64 rip = (u64)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    steps += rip != last_step;
    last_step = rip;
}
/* Machine instructions of one fault, counted by the trap flag. */
static unsigned instructions_of_fault(bool user, u32 lin, enum mmu_access access) {
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    mmu_current_view(&f->cpu, user);
    steps = 0;
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "cc", "memory");
    enum mmu_fault_result result = mmu_window_access_fault(&f->cpu, user, GLIN(lin), access);
    __asm__ volatile("pushfq; andl $~0x100, (%%rsp); popfq" ::: "cc", "memory");
    unsigned n = (unsigned)steps;
    assert_int_equal(result, MMU_FAULT_FILLED);
    return n;
}

static void a_hidden_fault_costs_at_most_1500_instructions(void **state) {
    (void)state;
#if defined(RINGFOLD_SANITIZED) || !defined(__OPTIMIZE__)
    skip(); /* other code than the one that counts */
#endif
    static const char *const kind[] = {"read", "write", "fetch"};
    fix_map(f, 0x08300000, FRAME | RWU | AD);
    touch(true, 0x08300000, MMU_READ); /* the region is there */
    fix_map(f, 0x08200000, FRAME | RWU);
    instructions_of_fault(true, 0x08200000, MMU_READ); /* the dynamic linker has done its part */
    unsigned first = 0;
    for (u32 access = 0; access < 3; access++)
        for (u32 neighbours = 0; neighbours < 2; neighbours++) {
            u32 lin = (LIN & 0xffff0000) + access * 0x20000 + neighbours * 0x10000;
            for (u32 i = 0; i < (neighbours ? 16 : 1); i++)
                fix_map(f, lin + i * 0x1000, (FRAME + i * 0x3000) | RWU | (i ? AD : 0));
            unsigned n = instructions_of_fault(true, lin, access);
            printf("    hidden fault, %s%s: %u instructions\n", kind[access],
                   neighbours ? ", with neighbours" : "", n);
            assert_in_range(n, 100, neighbours ? 2000 : 1500);
        }
    fix_map(f, 0x10000000, FRAME | RWU);
    fix_map(f, KERNEL, FRAME | PTE_P | PTE_W);
    fix_map_large(f, 0xc8000000, 0x400000 | PTE_P | PTE_W | AD);
    touch(false, KERNEL, MMU_READ);
    first = instructions_of_fault(true, 0x10000000, MMU_WRITE);
    unsigned upgrade = instructions_of_fault(false, KERNEL, MMU_WRITE);
    unsigned large = instructions_of_fault(false, 0xc8000000, MMU_WRITE);
    printf("    first of its 4 MiB %u, first write %u, first of a large page %u\n", first, upgrade,
           large);
    assert_in_range(first, 100, 2500);
    assert_in_range(upgrade, 100, 1500);
    assert_in_range(large, 100, 5000);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(user_pages_serve_both_rings),
        T(supervisor_pages_beside_user_pages_are_ring_0s_alone),
        T(a_slot_returns_to_the_user_window),
        T(a_hidden_region_leaves_nothing_in_the_paging_structure_caches),
        T(without_write_protection_only_ring_3_is_held_back),
        T(ring_3_executes_what_the_guest_lets_it),
        T(a_fetch_sets_accessed_only),
        T(without_paging_both_rings_see_physical_memory),
        T(smap_keeps_user_pages_from_ring_0),
        T(mmio_code_and_the_guard_are_emulated),
        T(invlpg_acts_at_once_for_both_rings),
        T(a_cr3_load_hides_the_user_window_until_it_is_needed),
        T(a_view_changed_under_ring_0_is_pending),
        T(invlpg_is_light_unless_it_may_change_the_kernels_view),
        T(global_pages_outlive_a_cr3_load),
        T(only_lost_rights_in_reach_are_flushed),
        T(large_pages_are_filled_by_runs),
        T(foresight_takes_neighbours_that_are_granted_and_accessed),
        T(an_exhausted_pool_evicts),
        T(little_memory_means_fewer_windows),
        T(a_hidden_fault_costs_at_most_1500_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
