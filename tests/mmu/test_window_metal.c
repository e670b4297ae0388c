/*
 * test_window_metal.c: windows as real page-table entries, on a machine that fake_metal.h plays:
 * what its MMU and TLB let rings 1 and 3 do must be what the guest's tables let rings 0 and 3 do,
 * now or at any time since the last flush.
 */
#include "fake_metal.h"
#include "mmu_fixture.h"

#include "mmu/window.h"

#include <signal.h>
#include <ucontext.h>

#define PHYS 0x40000000ull /* where guest RAM lies in the machine's */
#define LIN 0x08049000u
#define KERNEL 0xc0012000u
#define FRAME 0x00200000u
#define RWU (PTE_P | PTE_W | PTE_U)
#define AD (PTE_A | PTE_D)
#define PD2 0x2000u /* a second address space */

static struct fixture *f;

/* ---- One access, as guest code makes it ---- */

struct outcome {
    enum mmu_fault_result kind; /* FILLED: it was made */
    unsigned faults;
    u32 gpa;
};

static struct outcome touch(bool user, u64 lin, enum mmu_access access) {
    struct outcome o = {.kind = MMU_FAULT_FILLED};
    u64 phys = 0;
    /* The translator's part: views are brought up to date before the ring is entered. */
    if (mmu_window_pending(&f->cpu, user))
        mmu_current_view(&f->cpu, user);
    assert_false(mmu_window_pending(&f->cpu, user));
    f->cpu.cpl = user ? 3 : 0;
    while (!fake_access(user, lin, access == MMU_WRITE, access == MMU_FETCH, &phys)) {
        assert_true(o.faults < 4);
        o.faults++;
        o.kind = mmu_window_access_fault(&f->cpu, user, GLIN(lin), access);
        if (o.kind != MMU_FAULT_FILLED)
            return o;
    }
    assert_true(phys - PHYS < f->mmu->ram_bytes);
    o.gpa = (u32)(phys - PHYS);
    return o;
}
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
static void validate(void) {
    const char *bad = mmu_validate(&f->cpu);
    if (bad)
        fail_msg("%s", bad);
}
static void load_cr3(u32 cr3) {
    f->cpu.cr3 = cr3;
    mmu_cr3_loaded(&f->cpu);
}
static void map2(u32 lin, u32 entry) {
    fix_write32(f, fix_pte(f, PD2, lin), entry);
}
static void bare_setup(unsigned users, unsigned regions) {
    struct mmu_error err = {""};
    fake_start();
    f = fix_create(FIX_RAM_BYTES);
    f->mmu->memory.phys = PHYS;
    if (!mmu_windows_create_sized(&f->cpu, users, regions, 0, &err))
        fail_msg("%s", err.text);
    assert_true(f->mmu->windows->one_table);
}
static void bare_teardown(void) {
    fix_destroy(f);
    f = NULL;
    assert_int_equal(fake.cr3, FAKE_MONITOR_ROOT);
    assert_int_equal(metal_pages_left(), fake.limit);
    fake_end();
}
static int setup(void **state) {
    (void)state;
    bare_setup(4, 64);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    if (f) {
        validate();
        bare_teardown();
    }
    return 0;
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

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

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
#if defined(SANITIZED) || !defined(__OPTIMIZE__)
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

/* ---- The property ---- */

static u32 rng_state = 12345;
static u32 rng(u32 n) {
    rng_state = rng_state * 1664525 + 1013904223;
    return (u32)((u64)(rng_state >> 4) * n >> 28);
}

#define SPACES 5
#define SLOTS 5
#define PAST 8
#define TABLE_BANKS 2
enum slot_kind { USER_SLOT, MIXED_SLOT, KERNEL_SLOT };
static const struct {
    u32 lin;
    enum slot_kind kind;
} slots[SLOTS] = {{0x08000000, USER_SLOT},
                  {0x08400000, MIXED_SLOT},
                  {0x40000000, USER_SLOT},
                  {0xbfc00000, MIXED_SLOT},
                  {0xc0000000, KERNEL_SLOT}};

/* What the guest's tables granted at one page at one time. */
struct grant {
    u64 frame;
    bool user, writable, no_execute, dirty, global, large;
};
static struct {
    bool pae, global_pages;
    u32 space, root[SPACES], directory[SPACES][4];
    u32 table[SPACES][SLOTS][TABLE_BANKS]; /* 4 MiB each; the kernel's are shared */
    struct {
        unsigned count;
        struct grant grant[PAST];
    } past[SLOTS][1024]; /* what a TLB may still hold beside the truth */
    bool past_full;
    u64 filled, refused, emulated, swept;
} prop;

static bool grant_now(u32 lin, struct grant *g) {
    struct mmu_xlat x;
    struct mmu_walk walk = {.x = &x};
    if (mmu_walk_tables(&f->cpu, lin, &walk) != MMU_WALK_OK)
        return false;
    for (unsigned i = 0; i < walk.depth; i++)
        if (!(walk.entry[i] & PTE_A))
            return false; /* no TLB holds it */
    *g = (struct grant){.frame = x.gpa.v >> 12,
                        .user = x.user,
                        .writable = x.writable,
                        .no_execute = x.no_execute,
                        .dirty = x.dirty,
                        .global = x.global,
                        .large = x.page_bytes > 4096};
    return true;
}

static void remember(unsigned slot, u32 page) {
    struct grant g;
    if (!grant_now(slots[slot].lin + page * 0x1000, &g))
        return;
    unsigned n = prop.past[slot][page].count;
    for (unsigned i = 0; i < n; i++)
        if (!memcmp(&prop.past[slot][page].grant[i], &g, sizeof g))
            return;
    if (n == PAST) {
        prop.past_full = true; /* the caller flushes everything before it goes on */
        return;
    }
    prop.past[slot][page].grant[prop.past[slot][page].count++] = g;
}

static void forget(unsigned slot, u32 page, bool keep_global, bool keep_small) {
    unsigned kept = 0, n = prop.past[slot][page].count;
    struct grant *g = prop.past[slot][page].grant;
    for (unsigned i = 0; i < n; i++)
        if ((keep_global && g[i].global) || (keep_small && !g[i].large))
            g[kept++] = g[i];
    prop.past[slot][page].count = kept;
}
static void forget_all(bool keep_global) {
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (u32 page = 0; page < 1024; page++)
            forget(slot, page, keep_global, false);
}

/* ---- Changing the guest's tables ---- */

static void store_entry(u32 gpa, u64 entry) {
    if (prop.pae)
        fix_write64(f, gpa, entry);
    else
        fix_write32(f, gpa, (u32)entry);
}
static u32 pte_address(u32 space, unsigned slot, unsigned bank, u32 page) {
    return prop.table[space][slot][bank] + page * (prop.pae ? 8 : 4);
}
/* half: which 2 MiB, with PAE. */
static u32 pde_address(u32 space, unsigned slot, u32 half) {
    u32 lin = slots[slot].lin + half * 0x200000;
    if (prop.pae)
        return prop.directory[space][lin >> 30] + ((lin >> 21) & 511) * 8;
    return prop.root[space] + (lin >> 22) * 4;
}

static u64 random_flags(unsigned slot) {
    static const u32 flags[] = {0,
                                PTE_P,
                                PTE_P,
                                RWU & ~PTE_U,
                                PTE_P | PTE_A,
                                RWU,
                                RWU | PTE_A,
                                PTE_P | AD | PTE_W,
                                PTE_P | AD | PTE_W,
                                PTE_P | AD};
    static const u32 user_of_16[] = {15, 8, 1};
    u64 e = flags[rng(ARRAY_LEN(flags))] & ~(u32)PTE_U;
    e |= rng(16) < user_of_16[slots[slot].kind] ? PTE_U : 0;
    e |= rng(2) ? PTE_G : 0;
    return prop.pae && !rng(3) ? e | PTE_NX : e;
}
static u64 random_pte(unsigned slot) {
    u32 gpa = rng(20) ? 0x100000 + rng(0x400) * 0x1000 : 0xb8000;
    return gpa | random_flags(slot);
}
static u64 random_pde(u32 space, unsigned slot, u32 half) {
    u64 bank = pte_address(space, slot, rng(TABLE_BANKS), half * 512);
    switch (rng(8)) {
    case 0:
        return 0;
    case 1:
    case 2:
        return (prop.pae ? 0x200000 + rng(10) * 0x200000ull : 0x400000 + rng(5) * 0x400000ull) |
               random_flags(slot) | PTE_PS;
    case 3:
        return bank | random_flags(slot);
    default:
        return bank | RWU;
    }
}

static u32 random_page(void) {
    return rng(3) ? rng(40) : rng(1024);
}

static void change_ptes(u32 space, unsigned slot, u32 page, u32 n) {
    unsigned bank = rng(TABLE_BANKS);
    u64 first = random_pte(slot);
    bool run = rng(2);
    for (u32 i = 0; i < n && page + i < 1024; i++) {
        remember(slot, page + i);
        store_entry(pte_address(space, slot, bank, page + i),
                    run ? first + i * 0x1000 : random_pte(slot));
    }
}
/* Flips one right of entries and leaves their frames alone. */
static void change_rights(u32 space, unsigned slot, u32 page, u32 n) {
    static const u64 bits[] = {PTE_W, PTE_U, PTE_A, PTE_D, PTE_P, PTE_G, PTE_NX};
    u64 bit = bits[rng(prop.pae ? 7 : 6)];
    for (u32 i = 0; i < n && page + i < 1024; i++)
        for (unsigned bank = 0; bank < TABLE_BANKS; bank++) {
            u32 at = pte_address(space, slot, bank, page + i);
            remember(slot, page + i);
            store_entry(at, (prop.pae ? fix_read64(f, at) : fix_read32(f, at)) ^ bit);
        }
}
static void change_pde(u32 space, unsigned slot, u32 page) {
    u32 half = prop.pae ? page / 512 : 0, pages = prop.pae ? 512 : 1024;
    for (u32 i = 0; i < pages; i++)
        remember(slot, half * pages + i);
    u64 pde = random_pde(space, slot, half);
    for (u32 k = 0; k < SPACES; k++)
        if (k == space || slots[slot].kind == KERNEL_SLOT)
            store_entry(pde_address(k, slot, half), pde);
}

/* ---- Flushing ---- */

static void flush_page(unsigned slot, u32 page) {
    mmu_invlpg(&f->cpu, GLIN(slots[slot].lin + page * 0x1000 + rng(0x1000)));
    forget(slot, page, false, false);
    u32 pages = prop.pae ? 512 : 1024;
    for (u32 i = 0; i < pages; i++) /* a large page goes whole */
        forget(slot, page / pages * pages + i, false, true);
}
static void toggle(u32 *reg, u32 bit) {
    *reg ^= bit;
    mmu_mode_changed(&f->cpu);
    forget_all(false);
}
static void switch_space(u32 space) {
    for (unsigned slot = 0; slot < SLOTS && prop.global_pages; slot++)
        for (u32 page = 0; page < 1024; page++)
            remember(slot, page);
    forget_all(prop.global_pages);
    prop.space = space;
    f->cpu.cr3 = prop.root[space];
    if (prop.pae)
        assert_true(mmu_load_pdptrs(&f->cpu, f->cpu.cr3));
    mmu_cr3_loaded(&f->cpu);
}
static void flush_everything(void) {
    toggle(&f->cpu.cr4, CR4_PGE);
    toggle(&f->cpu.cr4, CR4_PGE);
    prop.past_full = false;
}

/* ---- Checking ---- */

static bool grants(const struct grant *g, u64 frame, bool user, enum mmu_access access) {
    if (g->frame != frame || (user && !g->user))
        return false;
    if (access == MMU_FETCH)
        return !g->no_execute;
    bool writable = g->writable || (!g->user && !(f->cpu.cr0 & CR0_WP));
    return access == MMU_READ || (writable && g->dirty);
}
/* May a TLB that obeys the flushes so far grant this? */
static bool may_grant(unsigned slot, u32 page, u64 frame, bool user, enum mmu_access access) {
    struct grant now;
    if (grant_now(slots[slot].lin + page * 0x1000, &now) && grants(&now, frame, user, access))
        return true;
    for (unsigned i = 0; i < prop.past[slot][page].count; i++)
        if (grants(&prop.past[slot][page].grant[i], frame, user, access))
            return true;
    return false;
}

static void random_access(void) {
    bool user = rng(2);
    enum mmu_access access = rng(user ? 3 : 2);
    unsigned slot = rng(SLOTS);
    u32 page = random_page(), lin = slots[slot].lin + page * 0x1000 + rng(4096);
    struct mmu_xlat x;
    bool ok = mmu_probe(&f->cpu, GLIN(lin), &x) && mmu_access_allowed(&f->cpu, &x, access, user);
    struct outcome o = touch(user, lin, access);
    if (o.kind == MMU_FAULT_TRUE) {
        prop.refused++;
        assert_false(ok);
    } else if (o.kind == MMU_FAULT_EMULATE) {
        prop.emulated++;
        assert_int_equal(o.faults, 1);
        assert_true(ok);
        bool ram = mmu_gpa_is_ram(f->mmu, x.gpa.v), past_wp = !user && x.user && !x.writable;
        assert_true(!ram || (access == MMU_WRITE && (past_wp || f->mmu->code_page[x.gpa.v >> 12])));
    } else {
        prop.filled++;
        assert_int_equal(o.gpa & 4095, lin & 4095);
        assert_true(may_grant(slot, page, o.gpa >> 12, user, access));
        assert_true(o.faults == 0 || (ok && o.gpa == x.gpa.v));
    }
}

/* Everything the hardware would grant without a fault, now; and so it is in its TLB from now on. */
static void sweep(void) {
    bool ring3 = !mmu_user_window_pending(&f->cpu);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (u32 page = 0; page < 1024; page++) {
            u64 entry = fake_look_up(slots[slot].lin + page * 0x1000);
            if (!entry)
                continue;
            u64 frame = ((entry & METAL_PTE_ADDRESS) - PHYS) >> 12;
            bool user = entry & METAL_PTE_U, write = entry & METAL_PTE_W;
            prop.swept++;
            assert_true(frame < f->mmu->ram_bytes >> 12 && !(write && f->mmu->code_page[frame]));
            assert_true(may_grant(slot, page, frame, false, write ? MMU_WRITE : MMU_READ));
            assert_true(user || (entry & METAL_PTE_NX));
            if (!user || !ring3)
                continue;
            assert_true(may_grant(slot, page, frame, true, write ? MMU_WRITE : MMU_READ));
            assert_true((entry & METAL_PTE_NX) || may_grant(slot, page, frame, true, MMU_FETCH));
        }
}

static void random_event(void) {
    unsigned slot = rng(SLOTS), kind = rng(100);
    u32 page = random_page(), space = rng(4) ? prop.space : rng(SPACES);
    struct gpa gpa;
    if (kind < 30)
        change_ptes(space, slot, page, rng(4) ? 1 : rng(40));
    else if (kind < 50)
        change_rights(space, slot, page, rng(2) ? 1 : rng(40));
    else if (kind < 55)
        change_pde(space, slot, page);
    else if (kind < 70)
        flush_page(slot, page);
    else if (kind < 80)
        switch_space(rng(4) ? rng(SPACES) : prop.space);
    else if (kind < 82)
        toggle(&f->cpu.cr0, CR0_WP);
    else if (kind < 83 && prop.global_pages)
        flush_everything();
    else if (kind < 84)
        toggle(&f->cpu.cr4, CR4_SMEP);
    else if (kind < 90)
        mmu_code_protect(f->mmu, GPA(0x100000 + rng(0x400) * 0x1000));
    else if (kind < 94)
        for (u32 i = 0; i < 60; i++)
            mmu_code_unprotect(f->mmu, GPA(0x100000 + rng(0x400) * 0x1000));
    else if (kind < 97)
        mmu_fetch(&f->cpu, GLIN(slots[slot].lin + page * 0x1000), rng(2), &gpa);
    else
        mmu_window_prefill(&f->cpu, rng(2), GLIN(slots[slot].lin + page * 0x1000), rng(2));
    if (kind < 50 && rng(2)) /* the usual case: store, then flush at once */
        flush_page(slot, page);
    if (prop.past_full)
        flush_everything();
}

static void build_spaces(void) {
    u32 halves = prop.pae ? 2 : 1;
    for (u32 s = 0; s < SPACES; s++) {
        prop.root[s] = fix_new_table(f);
        for (u32 k = 0; k < 4 && prop.pae; k++) {
            prop.directory[s][k] = fix_new_table(f);
            fix_write64(f, prop.root[s] + 8 * k, prop.directory[s][k] | PTE_P);
        }
        for (unsigned slot = 0; slot < SLOTS; slot++)
            for (unsigned bank = 0; bank < TABLE_BANKS; bank++) {
                bool shared = s && slots[slot].kind == KERNEL_SLOT;
                u32 table = shared ? prop.table[0][slot][bank] : fix_new_table(f);
                if (!shared && prop.pae)
                    fix_new_table(f);
                prop.table[s][slot][bank] = table;
                for (u32 half = 0; half < halves; half++)
                    store_entry(pde_address(s, slot, half), (table + half * 0x1000) | RWU);
            }
    }
    assert_true(f->next_table <= 0xa0000);
}

static void run_property(bool pae, bool global_pages, u32 rounds) {
    memset(&prop, 0, sizeof prop);
    prop.pae = pae;
    prop.global_pages = global_pages;
    f->cpu.cr4 = CR4_PSE | (pae ? CR4_PAE : 0) | (global_pages ? CR4_PGE : 0);
    f->cpu.efer = pae ? EFER_NXE : 0;
    build_spaces();
    f->cpu.cr3 = prop.root[0];
    if (pae)
        assert_true(mmu_load_pdptrs(&f->cpu, f->cpu.cr3));
    mmu_mode_changed(&f->cpu);
    for (u32 i = 0; i < rounds; i++) {
        random_event();
        for (u32 k = rng(12); k > 0; k--)
            random_access();
        if (i % 4 == 0)
            sweep();
        if (i % 16 == 0)
            validate();
    }
    printf("    %llu accesses made, %llu refused, %llu emulated, %llu entries swept\n",
           (unsigned long long)prop.filled, (unsigned long long)prop.refused,
           (unsigned long long)prop.emulated, (unsigned long long)prop.swept);
    assert_true(prop.filled > rounds && prop.refused > rounds / 4 && prop.emulated > rounds / 20);
    assert_true(prop.swept > rounds * 4ull);
}

static void the_hardware_grants_what_the_guests_tables_grant(void **state) {
    (void)state;
    run_property(false, false, 12000);
}
static void the_hardware_grants_what_the_guests_tables_grant_with_global_pages(void **state) {
    (void)state;
    run_property(false, true, 12000);
}
static void the_hardware_grants_what_pae_tables_grant(void **state) {
    (void)state;
    run_property(true, true, 12000);
}
static void the_hardware_grants_it_with_few_windows_and_regions(void **state) {
    (void)state;
    bare_teardown();
    bare_setup(2, 5);
    run_property(true, false, 12000);
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
        T(the_hardware_grants_what_the_guests_tables_grant),
        T(the_hardware_grants_what_the_guests_tables_grant_with_global_pages),
        T(the_hardware_grants_what_pae_tables_grant),
        T(the_hardware_grants_it_with_few_windows_and_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
