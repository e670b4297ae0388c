/*
 * metal_fixture.h: a CPU with windows on the machine that fake_metal.h plays, and accesses to it as
 * guest code makes them.
 */
#ifndef RINGFOLD_TESTS_METAL_FIXTURE_H
#define RINGFOLD_TESTS_METAL_FIXTURE_H

#include "fake_metal.h"
#include "mmu_fixture.h"

#include "mmu/window.h"

#define PHYS 0x40000000ull /* where guest RAM lies in the machine's */
#define RWU (PTE_P | PTE_W | PTE_U)
#define AD (PTE_A | PTE_D)

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
static void validate(void) {
    const char *bad = mmu_validate(&f->cpu);
    if (bad)
        fail_msg("%s", bad);
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

#endif
