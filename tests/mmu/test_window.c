/*
 * test_window.c: windows seen from outside: real host accesses through a window, a SIGSEGV handler
 * that asks mmu_window_fault what each fault means, and the rule that after every architectural
 * flush an access through the window gives what a walk of the guest's tables gives.
 */
#include "mmu_fixture.h"

#include "mmu/window.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define LIN 0x08049000u
#define FRAME 0x00200000u
#define RWU (PTE_P | PTE_W | PTE_U)
#define AD (PTE_A | PTE_D)
#define PD2 0x2000u /* a second address space */

static struct fixture *f;
static bool access_user;
static sigjmp_buf access_escape;
static enum mmu_fault_result access_result;
static unsigned access_faults;

static void on_fault(int sig, siginfo_t *info, void *context) {
    (void)context;
    struct glin lin;
    if (!f || !mmu_window_contains(&f->cpu, (u64)info->si_addr, access_user, &lin)) {
        signal(sig, SIG_DFL);
        return;
    }
    access_faults++;
    bool write = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2;
    access_result = mmu_window_fault(&f->cpu, access_user, lin, write);
    if (access_result != MMU_FAULT_FILLED)
        siglongjmp(access_escape, 1);
}

/* cmocka puts its own handler in place around every test, so each access installs ours. */
static void catch_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
}

/* One access as translated code would make it. FILLED: it completed. */
static enum mmu_fault_result access32(bool user, u64 lin, u32 *value, bool write) {
    catch_faults();
    access_user = user;
    access_faults = 0;
    access_result = MMU_FAULT_FILLED;
    struct __attribute__((packed)) unaligned32 {
        u32 v;
    } volatile *p = (void *)(mmu_window_base(&f->cpu, user) + lin);
    if (sigsetjmp(access_escape, 1))
        return access_result;
    if (write)
        p->v = *value;
    else
        *value = p->v;
    return MMU_FAULT_FILLED;
}
static void expect_read(bool user, u32 lin, u32 expected) {
    u32 v = 0;
    assert_int_equal(access32(user, lin, &v, false), MMU_FAULT_FILLED);
    assert_int_equal(v, expected);
}
static void expect_write(bool user, u32 lin, u32 v) {
    assert_int_equal(access32(user, lin, &v, true), MMU_FAULT_FILLED);
}
static void expect_true_fault(bool user, u32 lin, bool write, u32 error) {
    u32 v = 0;
    assert_int_equal(access32(user, lin, &v, write), MMU_FAULT_TRUE);
    assert_int_equal(f->cpu.fault.vector, VEC_PF);
    assert_int_equal(f->cpu.fault.error, error);
    assert_int_equal(f->cpu.fault.cr2, lin);
}
static void expect_emulate(bool user, u64 lin, bool write) {
    u32 v = 0;
    assert_int_equal(access32(user, lin, &v, write), MMU_FAULT_EMULATE);
}
static void validate(void) {
    const char *bad = mmu_validate(&f->cpu);
    if (bad)
        fail_msg("%s", bad);
}
static u32 pte_of(u32 lin) {
    return fix_read32(f, fix_pte(f, FIX_PD, lin));
}
static u32 marker(u32 frame) {
    return load32(f->mmu->ram + frame);
}
static void load_cr3(u32 cr3) {
    f->cpu.cr3 = cr3;
    mmu_cr3_loaded(&f->cpu);
}
static void bare_setup(unsigned users, unsigned regions, u32 limit) {
    struct mmu_error err = {""};
    f = fix_create(FIX_RAM_BYTES);
    for (u32 gpa = 0x100000; gpa < FIX_RAM_BYTES; gpa += PAGE_BYTES)
        store32(f->mmu->ram + gpa, gpa ^ 0xa5a5a5a5);
    if (!mmu_windows_create_sized(&f->cpu, users, regions, limit, &err))
        fail_msg("%s", err.text);
}
static int setup(void **state) {
    (void)state;
    bare_setup(4, 64, 20000);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    if (f) {
        validate();
        fix_destroy(f);
    }
    f = NULL;
    return 0;
}

/* ---- Single accesses ---- */

static void a_read_fills_read_only_and_the_first_write_upgrades(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    expect_read(true, LIN, marker(FRAME));
    assert_int_equal(access_faults, 1);
    assert_int_equal(pte_of(LIN) & AD, PTE_A);
    expect_write(true, LIN, 0x1234);
    assert_int_equal(access_faults, 1);
    assert_int_equal(pte_of(LIN) & AD, AD);
    assert_int_equal(marker(FRAME), 0x1234);
    expect_write(true, LIN, 0x5678);
    assert_int_equal(access_faults, 0);
}

static void a_dirty_page_is_writable_at_once(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    expect_read(true, LIN, marker(FRAME));
    expect_write(true, LIN, 1);
    assert_int_equal(access_faults, 0);
}

static void true_faults_carry_the_guests_error_code(void **state) {
    (void)state;
    expect_true_fault(true, LIN, false, PF_U);
    fix_map(f, LIN, FRAME | PTE_P | PTE_U);
    expect_true_fault(true, LIN, true, PF_P | PF_U | PF_W);
    expect_read(true, LIN, marker(FRAME));
    expect_true_fault(true, LIN, true, PF_P | PF_U | PF_W);
    expect_true_fault(false, LIN, true, PF_P | PF_W);
}

static void user_windows_hold_no_supervisor_pages(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_W);
    expect_write(false, LIN, 7);
    expect_true_fault(true, LIN, false, PF_P | PF_U);
}

static void mmio_and_guards_are_emulated(void **state) {
    (void)state;
    fix_map(f, LIN, 0xb8000 | RWU);
    fix_map(f, LIN + 0x1000, 0xfee00000 | RWU);
    fix_map(f, 0xfffff000, FRAME | RWU | AD);
    expect_emulate(true, LIN, false);
    expect_emulate(false, LIN + 0x1000, true);
    expect_read(false, 0xfffff000, marker(FRAME));
    expect_emulate(false, 0xfffffffe, false); /* straddles 4 GiB: hits the upper guard */
    expect_emulate(false, WINDOW_BYTES + 0x123, true);
}

static void contains_knows_windows_from_other_memory(void **state) {
    (void)state;
    struct glin lin;
    u64 base = mmu_window_base(&f->cpu, true);
    assert_int_equal(base & (WINDOW_BYTES - 1), 0);
    assert_true(mmu_window_contains(&f->cpu, base + 0xdeadbeef, true, &lin));
    assert_int_equal(lin.v, 0xdeadbeef);
    assert_true(mmu_window_contains(&f->cpu, base + WINDOW_BYTES, true, &lin));
    assert_true(lin.v >= WINDOW_BYTES);
    assert_true(mmu_window_contains(&f->cpu, mmu_window_base(&f->cpu, false) - 1, false, &lin));
    assert_true(lin.v >= WINDOW_BYTES);
    assert_false(mmu_window_contains(&f->cpu, (u64)&lin, true, &lin));
}

static void a_fault_that_repeats_without_progress_is_emulated(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    struct glin lin = GLIN(LIN);
    assert_int_equal(mmu_window_fault(&f->cpu, true, lin, false), MMU_FAULT_FILLED);
    assert_int_equal(mmu_window_fault(&f->cpu, true, lin, false), MMU_FAULT_FILLED);
    assert_int_equal(mmu_window_fault(&f->cpu, true, lin, false), MMU_FAULT_EMULATE);
}

static void write_protect_off_lets_the_kernel_write_read_only_pages(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P);
    expect_true_fault(false, LIN, true, PF_P | PF_W);
    f->cpu.cr0 &= ~CR0_WP;
    mmu_mode_changed(&f->cpu);
    expect_write(false, LIN, 9);
    f->cpu.cr0 |= CR0_WP;
    mmu_mode_changed(&f->cpu);
    validate();
    expect_true_fault(false, LIN, true, PF_P | PF_W);
    expect_read(false, LIN, 9);
}

static void smap_keeps_user_pages_out_of_the_kernel_window(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    expect_read(false, LIN, marker(FRAME));
    f->cpu.cr4 |= CR4_SMAP;
    mmu_mode_changed(&f->cpu);
    expect_emulate(false, LIN, false);
}

static void tables_in_rom_fill_windows_and_two_directories_there_are_told_apart(void **state) {
    (void)state;
    static _Alignas(8) u8 image[4 * PAGE_BYTES];
    u32 rom = 0xffffc000, at = (LIN >> 12 & 1023) * 4;
    for (u32 i = 0; i < 2; i++) {
        store32(image + i * 0x2000 + (LIN >> 22) * 4, (rom + i * 0x2000 + 0x1000) | RWU | PTE_A);
        store32(image + i * 0x2000 + 0x1000 + at, (FRAME + i * 0x1000) | RWU | AD);
    }
    mmu_set_rom(f->mmu, image, sizeof image);
    for (u32 i = 0; i < 6; i++) {
        f->cpu.cr3 = rom + (i & 1) * 0x2000;
        mmu_cr3_loaded(&f->cpu);
        expect_read(false, LIN, marker(FRAME + (i & 1) * 0x1000));
        expect_read(true, LIN, marker(FRAME + (i & 1) * 0x1000));
        expect_write(true, LIN + 8, i);
        validate();
    }
    expect_true_fault(true, LIN + 0x1000, false, PF_U);
    f->cpu.cr3 = 0xe0000000; /* where nothing is: ones, a large page with reserved bits */
    mmu_cr3_loaded(&f->cpu);
    expect_true_fault(true, LIN, false, PF_P | PF_U | PF_RSVD);
    validate();
}

static void without_paging_the_window_shows_physical_memory(void **state) {
    (void)state;
    f->cpu.cr0 &= ~CR0_PG;
    mmu_mode_changed(&f->cpu);
    expect_read(false, 0x300000, marker(0x300000));
    expect_write(false, 0x5ff000, 3);
    expect_emulate(false, 0xa0000, false);
    expect_emulate(false, (u32)FIX_RAM_BYTES, false);
    assert_int_equal(marker(0x5ff000), 3);
}

/* ---- Foresight ---- */

static void contiguous_accessed_neighbours_are_mapped_in_one_call(void **state) {
    (void)state;
    for (u32 i = 0; i < 16; i++)
        fix_map(f, 0x08040000 + i * 0x1000, (FRAME + i * 0x1000) | RWU | AD);
    u64 calls = f->mmu->stat_host_maps;
    expect_read(true, 0x08045000, marker(FRAME + 0x5000));
    assert_int_equal(f->mmu->stat_host_maps - calls, 1);
    for (u32 i = 0; i < 16; i++) {
        expect_write(true, 0x08040000 + i * 0x1000, i);
        assert_int_equal(access_faults, 0);
    }
}

static void foresight_never_sets_accessed_or_dirty(void **state) {
    (void)state;
    for (u32 i = 0; i < 16; i++)
        fix_map(f, 0x08040000 + i * 0x1000, (FRAME + i * 0x1000) | RWU | (i & 1 ? PTE_A : 0));
    expect_read(true, 0x08045000, marker(FRAME + 0x5000));
    for (u32 i = 0; i < 16; i++)
        assert_int_equal(pte_of(0x08040000 + i * 0x1000) & AD, i & 1 ? PTE_A : 0);
    expect_read(true, 0x08044000, marker(FRAME + 0x4000)); /* A=0: was not foreseen */
    assert_int_equal(access_faults, 1);
    assert_int_equal(pte_of(0x08044000) & AD, PTE_A);
}

static void foresight_leaves_a_stale_neighbour_to_its_own_flush(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    expect_read(true, LIN, marker(FRAME));
    fix_map(f, LIN, (FRAME + 0x7000) | RWU | AD); /* not flushed yet */
    fix_map(f, LIN + 0x1000, (FRAME + 0x9000) | RWU | AD);
    expect_read(true, LIN + 0x1000, marker(FRAME + 0x9000));
    mmu_invlpg(&f->cpu, GLIN(LIN));
    expect_read(true, LIN, marker(FRAME + 0x7000));
}

static void prefill_maps_only_what_is_granted_already(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, LIN + 0x10000, FRAME | RWU | PTE_A);
    fix_map(f, LIN + 0x20000, FRAME | RWU);
    fix_map(f, LIN + 0x30000, FRAME | RWU);
    expect_read(true, LIN + 0x30000, marker(FRAME)); /* sets A in the PDE */
    mmu_window_prefill(&f->cpu, true, GLIN(LIN), true);
    mmu_window_prefill(&f->cpu, true, GLIN(LIN + 0x10000), true);
    mmu_window_prefill(&f->cpu, true, GLIN(LIN + 0x20000), false);
    mmu_window_prefill(&f->cpu, true, GLIN(0x70000000), false);
    expect_write(true, LIN, 5);
    assert_int_equal(access_faults, 0);
    expect_write(true, LIN + 0x10000, 5);
    assert_int_equal(access_faults, 1);
    assert_int_equal(pte_of(LIN + 0x20000) & AD, 0);
}

/* ---- Large pages ---- */

static void large_pages_are_mapped_whole_at_one_fault(void **state) {
    (void)state;
    fix_map_large(f, 0xc0000000, 0x00400000 | RWU | AD);
    expect_read(false, 0xc0000000, marker(0x400000));
    for (u32 off = 0; off < 4u << 20; off += 0x1000) {
        expect_read(false, 0xc0000000 + off, marker(0x400000 + off));
        assert_int_equal(access_faults, 0);
    }
    validate();
}

static void a_large_page_spares_mmio_and_code_pages(void **state) {
    (void)state;
    mmu_code_protect(f->mmu, GPA(0x300000));
    fix_map_large(f, 0xc0000000, 0 | RWU | AD);
    expect_write(false, 0xc0200000, 1);
    expect_write(false, 0xc02ff000, 1);
    expect_emulate(false, 0xc00b8000, true);
    expect_emulate(false, 0xc0300000, true);
    expect_read(false, 0xc0300000, marker(0x300000));
    validate();
}

static void a_clean_large_page_becomes_writable_as_a_whole(void **state) {
    (void)state;
    fix_map_large(f, 0xc0000000, 0x00400000 | RWU);
    expect_read(false, 0xc0001000, marker(0x401000));
    expect_write(false, 0xc0001000, 1);
    assert_int_equal(access_faults, 1);
    expect_write(false, 0xc03ff000, 1);
    assert_int_equal(access_faults, 0);
    assert_int_equal(fix_read32(f, FIX_PD + 0xc00) & AD, AD);
}

static void invlpg_of_one_address_drops_a_changed_large_page_whole(void **state) {
    (void)state;
    fix_map_large(f, 0xc0000000, 0x00400000 | RWU | AD | PTE_G);
    expect_read(false, 0xc0000000, marker(0x400000));
    expect_read(false, 0xc0123000, marker(0x523000));
    fix_map_large(f, 0xc0000000, 0x00800000 | RWU | AD | PTE_G);
    mmu_invlpg(&f->cpu, GLIN(0xc0000000));
    expect_read(false, 0xc0123000, marker(0x923000));
    fix_map(f, 0xc0123000, FRAME | RWU); /* split: the rest is absent */
    mmu_invlpg(&f->cpu, GLIN(0xc0000000));
    expect_read(false, 0xc0123000, marker(FRAME));
    expect_true_fault(false, 0xc0000000, false, 0);
}

static void pae_large_pages_cover_half_a_region(void **state) {
    (void)state;
    fix_enable_pae(f, true);
    fix_write64(f, fix_pae_pde(f, 0xc0000000), 0x00600000ull | RWU | AD | PTE_PS);
    fix_write64(f, fix_pae_pte(f, 0xc0200000), FRAME | RWU | AD | PTE_NX);
    expect_write(false, 0xc01ff000, 1);
    expect_write(false, 0xc0200000, 2);
    assert_int_equal(marker(0x7ff000), 1);
    assert_int_equal(marker(FRAME), 2);
    expect_true_fault(false, 0xc0201000, false, 0);
    fix_write64(f, fix_pae_pde(f, 0xc0000000), 0);
    mmu_cr3_loaded(&f->cpu);
    expect_true_fault(false, 0xc01ff000, false, 0);
    expect_read(false, 0xc0200000, 2);
    assert_int_equal(access_faults, 0);
}

/* ---- Flushes ---- */

static void an_unchanged_page_survives_every_flush(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    expect_write(true, LIN, 1);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    load_cr3(FIX_PD);
    expect_write(true, LIN, 2);
    assert_int_equal(access_faults, 0);
}

static void cr3_load_notices_frames_rights_accessed_and_dirty(void **state) {
    (void)state;
    for (u32 i = 0; i < 5; i++) {
        fix_map(f, LIN + i * 0x1000, (FRAME + i * 0x2000) | RWU | AD);
        expect_write(true, LIN + i * 0x1000, i);
    }
    fix_map(f, LIN, (FRAME + 0x20000) | RWU | AD);
    fix_map(f, LIN + 0x1000, (FRAME + 0x2000) | PTE_P | PTE_U | AD);
    fix_map(f, LIN + 0x2000, (FRAME + 0x4000) | RWU | PTE_D);
    fix_map(f, LIN + 0x3000, (FRAME + 0x6000) | RWU | PTE_A);
    load_cr3(FIX_PD);
    expect_read(true, LIN, marker(FRAME + 0x20000));
    expect_true_fault(true, LIN + 0x1000, true, PF_P | PF_U | PF_W);
    expect_read(true, LIN + 0x2000, 2);
    assert_int_equal(access_faults, 1);
    assert_true(pte_of(LIN + 0x2000) & PTE_A);
    expect_read(true, LIN + 0x3000, 3);
    assert_int_equal(access_faults, 0);
    expect_write(true, LIN + 0x3000, 3);
    assert_int_equal(access_faults, 1);
    assert_true(pte_of(LIN + 0x3000) & PTE_D);
    expect_write(true, LIN + 0x4000, 4);
    assert_int_equal(access_faults, 0);
}

static void each_address_space_keeps_its_window(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_write32(f, fix_pte(f, PD2, LIN), (FRAME + 0x1000) | RWU | AD);
    expect_read(true, LIN, marker(FRAME));
    struct mmu_view first = mmu_current_view(&f->cpu, true);
    load_cr3(PD2);
    expect_read(true, LIN, marker(FRAME + 0x1000));
    assert_int_not_equal(mmu_current_view(&f->cpu, true).id, first.id);
    load_cr3(FIX_PD);
    expect_read(true, LIN, marker(FRAME));
    assert_int_equal(access_faults, 0);
    assert_int_equal(mmu_current_view(&f->cpu, true).id, first.id);
    assert_int_equal(mmu_current_view(&f->cpu, true).epoch, first.epoch);
}

static void global_kernel_pages_outlive_a_cr3_load_until_invlpg(void **state) {
    (void)state;
    u32 lin = 0xc0800000;
    fix_map(f, lin, FRAME | PTE_P | PTE_W | PTE_G | AD);
    fix_map(f, lin + 0x1000, (FRAME + 0x4000) | PTE_P | PTE_W | AD);
    expect_read(false, lin, marker(FRAME));
    expect_read(false, lin + 0x1000, marker(FRAME + 0x4000));
    fix_map(f, lin, (FRAME + 0x1000) | PTE_P | PTE_W | PTE_G | AD);
    fix_map(f, lin + 0x1000, (FRAME + 0x5000) | PTE_P | PTE_W | AD);
    load_cr3(FIX_PD);
    expect_read(false, lin, marker(FRAME)); /* stale, as the architecture allows */
    expect_read(false, lin + 0x1000, marker(FRAME + 0x5000));
    mmu_invlpg(&f->cpu, GLIN(lin));
    expect_read(false, lin, marker(FRAME + 0x1000));
}

static void toggling_pge_flushes_global_pages(void **state) {
    (void)state;
    u32 lin = 0xc0800000;
    fix_map(f, lin, FRAME | PTE_P | PTE_W | PTE_G | AD);
    expect_read(false, lin, marker(FRAME));
    fix_map(f, lin, (FRAME + 0x1000) | PTE_P | PTE_W | PTE_G | AD);
    f->cpu.cr4 &= ~(u32)CR4_PGE;
    mmu_mode_changed(&f->cpu);
    expect_read(false, lin, marker(FRAME + 0x1000));
}

static void the_least_recently_used_window_is_evicted(void **state) {
    (void)state;
    u32 pd[6];
    for (u32 i = 0; i < ARRAY_LEN(pd); i++) {
        pd[i] = fix_new_table(f);
        fix_write32(f, fix_pte(f, pd[i], LIN), (FRAME + i * 0x1000) | RWU | AD);
        load_cr3(pd[i]);
        expect_read(true, LIN, marker(FRAME + i * 0x1000));
    }
    assert_int_equal(f->mmu->stat_window_evictions, 2);
    load_cr3(pd[2]);
    expect_read(true, LIN, marker(FRAME + 0x2000));
    assert_int_equal(access_faults, 0);
    load_cr3(pd[0]);
    expect_read(true, LIN, marker(FRAME));
    assert_int_equal(access_faults, 1);
}

static void a_copy_on_write_is_mapped_before_its_page_is_touched(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_U | AD);
    expect_read(true, LIN, marker(FRAME));
    expect_true_fault(true, LIN, true, PF_P | PF_U | PF_W);
    fix_map(f, LIN, 0);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    assert_true(mmu_user_window_pending(&f->cpu));
    fix_map(f, LIN, (FRAME + 0x5000) | RWU | AD);
    expect_write(true, LIN, 1);
    assert_int_equal(access_faults, 0);
    assert_int_equal(marker(FRAME + 0x5000), 1);
    assert_false(mmu_user_window_pending(&f->cpu));
}

static void a_burst_of_invlpg_revalidates_the_whole_user_window(void **state) {
    (void)state;
    for (u32 i = 0; i < 100; i++) {
        fix_map(f, LIN + i * 0x1000, (FRAME + i * 0x2000) | RWU | AD);
        expect_write(true, LIN + i * 0x1000, i);
    }
    for (u32 i = 0; i < 100; i++) {
        fix_map(f, LIN + i * 0x1000, 0);
        mmu_invlpg(&f->cpu, GLIN(LIN + i * 0x1000));
    }
    for (u32 i = 0; i < 100; i++)
        expect_true_fault(true, LIN + i * 0x1000, false, PF_U);
}

/* ---- Code ---- */

static void protecting_a_page_takes_it_from_every_window(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU | AD);
    fix_map(f, 0xc0000000, FRAME | PTE_P | PTE_W | AD);
    fix_write32(f, fix_pte(f, PD2, LIN + 0x5000), FRAME | RWU | AD);
    expect_write(true, LIN, 1);
    expect_write(false, 0xc0000000, 1);
    load_cr3(PD2);
    expect_write(true, LIN + 0x5000, 1);
    load_cr3(FIX_PD);
    mmu_code_protect(f->mmu, GPA(FRAME));
    validate();
    expect_emulate(true, LIN, true);
    expect_emulate(false, 0xc0000000, true);
    expect_read(true, LIN, 1);
    load_cr3(PD2);
    expect_emulate(true, LIN + 0x5000, true);
    mmu_code_unprotect(f->mmu, GPA(FRAME));
    expect_write(true, LIN + 0x5000, 2);
    assert_int_equal(access_faults, 1);
}

static void a_changed_fetch_translation_bumps_the_epoch(void **state) {
    (void)state;
    struct gpa gpa;
    fix_map(f, LIN, FRAME | PTE_P | PTE_U);
    fix_map(f, LIN + 0x1000, (FRAME + 0x3000) | RWU | AD);
    assert_true(mmu_fetch(&f->cpu, GLIN(LIN + 0x10), true, &gpa));
    assert_int_equal(gpa.v, FRAME + 0x10);
    expect_write(true, LIN + 0x1000, 1);
    u32 epoch = mmu_current_view(&f->cpu, true).epoch;
    fix_map(f, LIN + 0x1000, (FRAME + 0x4000) | RWU | AD); /* data only */
    load_cr3(FIX_PD);
    assert_int_equal(mmu_current_view(&f->cpu, true).epoch, epoch);
    fix_map(f, LIN, (FRAME + 0x1000) | PTE_P | PTE_U | PTE_A);
    mmu_invlpg(&f->cpu, GLIN(LIN));
    assert_int_equal(mmu_current_view(&f->cpu, true).epoch, epoch + 1);
    assert_true(mmu_fetch(&f->cpu, GLIN(LIN), true, &gpa));
    fix_map(f, LIN, 0);
    load_cr3(FIX_PD);
    assert_int_equal(mmu_current_view(&f->cpu, true).epoch, epoch + 2);
    assert_false(mmu_fetch(&f->cpu, GLIN(LIN), true, &gpa));
    assert_int_equal(f->cpu.fault.error, PF_U);
}

static void global_code_keeps_the_kernel_epoch_across_cr3_loads(void **state) {
    (void)state;
    struct gpa gpa;
    fix_map_large(f, 0xc0000000, 0x00400000 | PTE_P | PTE_W | PTE_G | AD);
    fix_write32(f, PD2 + 0xc00, fix_read32(f, FIX_PD + 0xc00));
    assert_true(mmu_fetch(&f->cpu, GLIN(0xc0012345), false, &gpa));
    assert_int_equal(gpa.v, 0x412345);
    u32 epoch = mmu_current_view(&f->cpu, false).epoch;
    load_cr3(PD2);
    assert_int_equal(mmu_current_view(&f->cpu, false).epoch, epoch);
    assert_int_equal(mmu_current_view(&f->cpu, false).id, 0);
    f->cpu.cr4 &= ~(u32)CR4_PSE;
    mmu_mode_changed(&f->cpu);
    assert_true(mmu_current_view(&f->cpu, false).epoch != epoch);
}

static void a_reused_window_is_another_epoch(void **state) {
    (void)state;
    fix_destroy(f);
    bare_setup(1, 8, 1000);
    u32 epoch = mmu_current_view(&f->cpu, true).epoch;
    load_cr3(PD2);
    assert_int_not_equal(mmu_current_view(&f->cpu, true).epoch, epoch);
}

/* ---- Limits ---- */

static void scatter(u32 pages) {
    for (u32 i = 0; i < pages; i++) {
        u32 lin = 0x10000000 + i * 0x10000;
        fix_map(f, lin, (0x00400000 + i * 0x3000) | RWU | AD);
        expect_write(i & 1, lin, i);
    }
}

static void the_mapping_limit_evicts_and_never_fails(void **state) {
    (void)state;
    fix_destroy(f);
    bare_setup(3, 64, 40);
    scatter(500);
    validate();
    assert_true(f->cpu.mmu->windows->maps <= 40);
    assert_true(f->mmu->stat_window_evictions > 10);
    u32 pd = fix_new_table(f);
    memcpy(f->mmu->ram + pd, f->mmu->ram + FIX_PD, PAGE_BYTES);
    load_cr3(pd);
    scatter(100);
    expect_read(true, 0x10000000, 0);
}

static void an_exhausted_region_pool_evicts(void **state) {
    (void)state;
    fix_destroy(f);
    bare_setup(3, 2, 1000);
    for (u32 i = 0; i < 200; i++) {
        u32 lin = 0x10000000 + (i % 50) * 0x400000;
        fix_map(f, lin, (0x00400000 + i * 0x3000) | RWU | AD);
        if (i % 50 != i)
            load_cr3(FIX_PD);
        expect_write(i % 3, lin, i);
        struct gpa gpa;
        assert_true(mmu_fetch(&f->cpu, GLIN(lin), i % 2, &gpa));
    }
}

static void a_mapping_too_scattered_for_the_limit_falls_back_to_one_page(void **state) {
    (void)state;
    fix_destroy(f);
    bare_setup(1, 8, 8);
    for (u32 i = 0; i < 1024; i += 2)
        mmu_code_protect(f->mmu, GPA(0x400000 + i * 0x1000));
    fix_map_large(f, 0xc0000000, 0x00400000 | RWU | AD);
    for (u32 i = 1; i < 200; i += 2)
        expect_write(false, 0xc0000000 + i * 0x1000, i);
}

/* Uses up the process' mappings for real (vm.max_map_count), but for `spare`. */
#define HOG_PAGES 200000u
static void *hog_mappings(u32 spare) {
    u8 *p = mmap(NULL, HOG_PAGES * 4096ull, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    assert_true(p != MAP_FAILED);
    u32 i = 0;
    while (i < HOG_PAGES && !mprotect(p + i * 4096ull, 4096, PROT_READ))
        i += 2;
    assert_true(i < HOG_PAGES);
    for (u32 k = 0; k < spare; k += 2)
        mprotect(p + (i -= 2) * 4096ull, 4096, PROT_NONE);
    return p;
}

static void a_host_without_mappings_left_costs_speed_and_nothing_else(void **state) {
    (void)state;
#ifdef RINGFOLD_SANITIZED
    skip(); /* the sanitizer itself needs mappings */
#endif
    f->mmu->windows->map_limit = 1u << 20;
    for (u32 spare = 0; spare < 12; spare += 4) {
        void *hog = hog_mappings(spare);
        u32 done = 0;
        for (u32 i = 0; i < 60; i++) {
            u32 lin = 0x10000000 + i * 0x10000, v = i;
            fix_map(f, lin, (0x00400000 + i * 0x3000) | RWU | AD);
            enum mmu_fault_result result = access32(i & 1, lin, &v, true);
            assert_int_not_equal(result, MMU_FAULT_TRUE);
            done += result == MMU_FAULT_FILLED;
        }
        validate();
        munmap(hog, HOG_PAGES * 4096ull);
        assert_true(spare < 8 || done == 60);
    }
}

/* ---- The property ---- */

static u32 rng_state = 12345;
static u32 rng(u32 n) {
    rng_state = rng_state * 1664525 + 1013904223;
    return (u32)((u64)(rng_state >> 4) * n >> 28);
}

#define PROP_SPACES 6
#define PROP_REGIONS 5
static u32 prop_pd[PROP_SPACES];
static const u32 prop_base[PROP_REGIONS] = {0x08000000, 0x08400000, 0x40000000, 0xbfc00000,
                                            0xc0000000};
static u32 prop_lin(void) {
    return prop_base[rng(PROP_REGIONS)] + (rng(3) ? rng(40) : rng(1024)) * 0x1000;
}
static u64 prop_entry(void) {
    static const u32 flags[] = {0,
                                PTE_P,
                                PTE_P | PTE_U,
                                RWU,
                                RWU,
                                RWU | AD,
                                RWU | AD,
                                RWU | PTE_A,
                                RWU | AD,
                                PTE_P | PTE_W | AD,
                                PTE_P | PTE_W | AD | PTE_U};
    u32 gpa = rng(20) ? 0x100000 + rng(0x400) * 0x1000 : 0xb8000;
    return gpa | flags[rng(ARRAY_LEN(flags))] | (rng(2) ? PTE_G : 0);
}

struct prop_ops {
    u32 (*pte)(struct fixture *, u32 space, u32 lin);
    u32 (*pde)(struct fixture *, u32 space, u32 lin);
    u32 entry_bytes, large_mask;
    void (*load)(u32 space);
};
static const struct prop_ops *ops;
static bool prop_global;
static u32 prop_current;

static u32 pte_32(struct fixture *fx, u32 space, u32 lin) {
    return fix_pte(fx, prop_pd[space], lin);
}
static u32 pde_32(struct fixture *fx, u32 space, u32 lin) {
    (void)fx;
    return prop_pd[space] + (lin >> 22) * 4;
}
static void load_32(u32 space) {
    prop_current = space;
    load_cr3(prop_pd[space]);
}
static u32 pde_pae(struct fixture *fx, u32 space, u32 lin) {
    return (u32)(fix_read64(fx, prop_pd[space] + (lin >> 30) * 8) & ~0xfffull) +
           ((lin >> 21) & 511) * 8;
}
static u32 pte_pae(struct fixture *fx, u32 space, u32 lin) {
    u32 pde_gpa = pde_pae(fx, space, lin);
    if (!(fix_read64(fx, pde_gpa) & PTE_P) || (fix_read64(fx, pde_gpa) & PTE_PS))
        fix_write64(fx, pde_gpa, fix_new_table(fx) | RWU);
    return (u32)(fix_read64(fx, pde_gpa) & 0xfffff000u) + ((lin >> 12) & 511) * 8;
}
static void load_pae(u32 space) {
    prop_current = space;
    f->cpu.cr3 = prop_pd[space];
    assert_true(mmu_load_pdptrs(&f->cpu, f->cpu.cr3));
    mmu_cr3_loaded(&f->cpu);
}
static const struct prop_ops ops_32 = {pte_32, pde_32, 4, 0x00c00000, load_32};
static const struct prop_ops ops_pae = {pte_pae, pde_pae, 8, 0x00e00000, load_pae};

static void prop_store(u32 gpa, u64 entry) {
    if (ops->entry_bytes == 8)
        fix_write64(f, gpa, entry);
    else
        fix_write32(f, gpa, (u32)entry);
}

/* With global pages in play a CR3 load proves nothing about the kernel window; toggling PGE does.
 */
static void flush(u32 space) {
    ops->load(rng(4) ? space : rng(PROP_SPACES));
    if (!prop_global)
        return;
    f->cpu.cr4 ^= CR4_PGE;
    mmu_mode_changed(&f->cpu);
    f->cpu.cr4 ^= CR4_PGE;
    mmu_mode_changed(&f->cpu);
}

/* Changes one entry of the current space and flushes it by INVLPG alone. */
static void mutate_one(void) {
    u32 lin = prop_lin();
    u32 pde = ops->pde(f, prop_current, lin);
    if ((fix_read32(f, pde) & (PTE_P | PTE_PS)) != PTE_P)
        return;
    prop_store(ops->pte(f, prop_current, lin), prop_entry());
    mmu_invlpg(&f->cpu, GLIN(lin + rng(0x1000)));
}

/* Changes entries of the given space at random and flushes as an operating system would. */
static void mutate(u32 space) {
    u32 lin = prop_lin(), n = rng(4) ? 1 : rng(40), kind = rng(40);
    if (f->next_table > 0xf0000) /* tables used up: from now on only leaves change */
        kind = MAX(kind, 3u);
    if (kind == 0) {
        prop_store(ops->pde(f, space, lin), 0);
    } else if (kind == 1) {
        u64 large = (rng(7) << 21 & ops->large_mask) | (rng(2) ? RWU | AD : PTE_P | PTE_W | PTE_U);
        prop_store(ops->pde(f, space, lin), large | PTE_PS);
    } else if (f->next_table <= 0xf0000 ||
               (fix_read32(f, ops->pde(f, space, lin)) & (PTE_P | PTE_PS)) == PTE_P) {
        u32 pte = ops->pte(f, space, lin);
        u64 frame = prop_entry();
        bool run = rng(2);
        for (u32 i = 0; i < n && ((pte + i * ops->entry_bytes) & ~0xfffu) == (pte & ~0xfffu); i++)
            prop_store(pte + i * ops->entry_bytes, run ? frame + i * 0x1000 : prop_entry());
    }
    flush(space);
}

/* One access: what a walk says must be what the window does. */
static void check_access(void) {
    bool user = rng(2), write = rng(2);
    u32 lin = prop_lin() + rng(1024) * 4, v = rng(1u << 27), got = v;
    struct mmu_xlat x;
    struct mmu_walk walk = {.x = &x};
    bool ok = mmu_walk_tables(&f->cpu, lin, &walk) == MMU_WALK_OK &&
              mmu_access_allowed(&f->cpu, &x, write ? MMU_WRITE : MMU_READ, user);
    enum mmu_fault_result result = access32(user, lin, &got, write);
    if (!ok) {
        assert_int_equal(result, MMU_FAULT_TRUE);
        return;
    }
    if (!mmu_gpa_is_ram(f->mmu, x.gpa.v) || (write && f->mmu->code_page[x.gpa.v >> 12])) {
        assert_int_equal(result, MMU_FAULT_EMULATE);
        return;
    }
    assert_int_equal(result, MMU_FAULT_FILLED);
    assert_int_equal(load32(f->mmu->ram + x.gpa.v), got);
    assert_true(mmu_walk_tables(&f->cpu, lin, &walk) == MMU_WALK_OK);
    for (unsigned i = 0; i < walk.depth; i++)
        assert_true(walk.entry[i] & PTE_A);
    assert_true(!write || x.dirty);
}

/* Writes of the property go to frames from 1 MiB up, tables lie below. */
static void run_property(u32 rounds) {
    for (u32 i = 0; i < rounds; i++) {
        if (rng(3))
            mutate(rng(PROP_SPACES));
        else
            mutate_one();
        for (u32 k = rng(12); k > 0; k--)
            check_access();
        u32 page = 0x100000 + rng(0x400) * 0x1000;
        if (!rng(5))
            mmu_code_protect(f->mmu, GPA(page));
        if (!rng(3))
            for (u32 k = 0; k < 20; k++)
                mmu_code_unprotect(f->mmu, GPA(0x100000 + rng(0x400) * 0x1000));
        if (i % 64 == 0)
            validate();
    }
}

static void after_any_change_the_window_agrees_with_a_walk(void **state) {
    (void)state;
    ops = &ops_32;
    f->cpu.cr4 &= ~(u32)CR4_PGE;
    f->mmu->windows->map_limit = 300;
    for (u32 i = 0; i < PROP_SPACES; i++)
        prop_pd[i] = fix_new_table(f);
    ops->load(0);
    run_property(4000);
}

static void after_any_change_the_window_agrees_with_a_walk_with_global_pages(void **state) {
    (void)state;
    ops = &ops_32;
    prop_global = true;
    for (u32 i = 0; i < PROP_SPACES; i++)
        prop_pd[i] = fix_new_table(f);
    ops->load(0);
    run_property(4000);
    prop_global = false;
}

static void after_any_change_the_window_agrees_with_a_pae_walk(void **state) {
    (void)state;
    ops = &ops_pae;
    f->cpu.cr4 &= ~(u32)CR4_PGE;
    f->cpu.cr4 |= CR4_PAE;
    f->cpu.efer = EFER_NXE;
    mmu_mode_changed(&f->cpu);
    for (u32 i = 0; i < PROP_SPACES; i++) {
        prop_pd[i] = fix_new_table(f);
        for (u32 k = 0; k < 4; k++)
            fix_write64(f, prop_pd[i] + 8 * k, fix_new_table(f) | PTE_P);
    }
    load_pae(0);
    run_property(4000);
}

int main(void) {
    stack_t stack = {.ss_sp = malloc(256 << 10), .ss_size = 256 << 10};
    sigaltstack(&stack, NULL);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_read_fills_read_only_and_the_first_write_upgrades),
        T(a_dirty_page_is_writable_at_once),
        T(true_faults_carry_the_guests_error_code),
        T(user_windows_hold_no_supervisor_pages),
        T(mmio_and_guards_are_emulated),
        T(contains_knows_windows_from_other_memory),
        T(a_fault_that_repeats_without_progress_is_emulated),
        T(write_protect_off_lets_the_kernel_write_read_only_pages),
        T(tables_in_rom_fill_windows_and_two_directories_there_are_told_apart),
        T(smap_keeps_user_pages_out_of_the_kernel_window),
        T(without_paging_the_window_shows_physical_memory),
        T(contiguous_accessed_neighbours_are_mapped_in_one_call),
        T(foresight_never_sets_accessed_or_dirty),
        T(foresight_leaves_a_stale_neighbour_to_its_own_flush),
        T(prefill_maps_only_what_is_granted_already),
        T(large_pages_are_mapped_whole_at_one_fault),
        T(a_large_page_spares_mmio_and_code_pages),
        T(a_clean_large_page_becomes_writable_as_a_whole),
        T(invlpg_of_one_address_drops_a_changed_large_page_whole),
        T(pae_large_pages_cover_half_a_region),
        T(an_unchanged_page_survives_every_flush),
        T(cr3_load_notices_frames_rights_accessed_and_dirty),
        T(each_address_space_keeps_its_window),
        T(global_kernel_pages_outlive_a_cr3_load_until_invlpg),
        T(toggling_pge_flushes_global_pages),
        T(the_least_recently_used_window_is_evicted),
        T(a_copy_on_write_is_mapped_before_its_page_is_touched),
        T(a_burst_of_invlpg_revalidates_the_whole_user_window),
        T(protecting_a_page_takes_it_from_every_window),
        T(a_changed_fetch_translation_bumps_the_epoch),
        T(global_code_keeps_the_kernel_epoch_across_cr3_loads),
        T(a_reused_window_is_another_epoch),
        T(the_mapping_limit_evicts_and_never_fails),
        T(an_exhausted_region_pool_evicts),
        T(a_mapping_too_scattered_for_the_limit_falls_back_to_one_page),
        T(after_any_change_the_window_agrees_with_a_walk),
        T(after_any_change_the_window_agrees_with_a_walk_with_global_pages),
        T(after_any_change_the_window_agrees_with_a_pae_walk),
        T(a_host_without_mappings_left_costs_speed_and_nothing_else),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(stack.ss_sp);
    return failed;
}
