/*
 * test_walk.c: the walker against hand-built page tables: rights, error codes, A and D, large
 * pages, PSE-36, PAE, NX, SMEP and SMAP.
 */
#include "mmu_fixture.h"

#define LIN 0x08049000u
#define FRAME 0x00200000u

static struct fixture *f;
static int setup(void **state) {
    (void)state;
    f = fix_create(FIX_RAM_BYTES);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    fix_destroy(f);
    return 0;
}

static void expect_fault(u32 lin, unsigned access, bool user, u32 error) {
    struct mmu_xlat x;
    f->cpu.cr2 = 0x5a5a5a5a;
    assert_false(mmu_translate(&f->cpu, GLIN(lin), access, user, &x));
    assert_int_equal(f->cpu.fault.vector, VEC_PF);
    assert_true(f->cpu.fault.has_error);
    assert_int_equal(f->cpu.fault.error, error);
    assert_int_equal(f->cpu.fault.cr2, lin);
    assert_int_equal(f->cpu.cr2, 0x5a5a5a5a);
}
static struct mmu_xlat expect_gpa(u32 lin, unsigned access, bool user, u64 gpa) {
    struct mmu_xlat x;
    if (!mmu_translate(&f->cpu, GLIN(lin), access, user, &x))
        fail_msg("unexpected fault, error %x", f->cpu.fault.error);
    assert_int_equal(x.gpa.v, gpa);
    return x;
}

static void without_paging_linear_is_physical(void **state) {
    (void)state;
    f->cpu.cr0 = CR0_PE;
    struct mmu_xlat x = expect_gpa(0xfffff123, MMU_WRITE, true, 0xfffff123);
    assert_true(x.user && x.writable && x.dirty);
}

static void not_present_gives_error_without_p(void **state) {
    (void)state;
    expect_fault(LIN + 5, MMU_READ, true, PF_U);
    expect_fault(LIN + 5, MMU_WRITE, false, PF_W);
    expect_fault(LIN + 5, MMU_FETCH, true, PF_U); /* no I bit without NXE or SMEP */
    fix_map(f, LIN, 0);
    expect_fault(LIN, MMU_READ, false, 0);
}

static void tables_where_nothing_is_read_as_ones(void **state) {
    (void)state;
    u64 last = 0xfffff000;
    fix_write32(f, FIX_PD + (LIN >> 22) * 4, 0xf0000000u | PTE_P | PTE_W);
    assert_false(expect_gpa(LIN + 7, MMU_WRITE, false, last + 7).user); /* U=0 in the PDE */
    fix_write32(f, FIX_PD + (LIN >> 22) * 4, 0xa0000u | PTE_P | PTE_W | PTE_U);
    assert_true(expect_gpa(LIN, MMU_WRITE, true, last).user);
    f->cpu.cr3 = 0xf0000000; /* a PDE of ones is a large page with reserved bits */
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    f->cpu.cr4 &= ~(u32)CR4_PSE;
    expect_gpa(LIN, MMU_WRITE, true, last);
}

static void tables_in_rom_are_walked_and_keep_their_a_and_d(void **state) {
    (void)state;
    static _Alignas(8) u8 image[2 * PAGE_BYTES];
    u32 directory = 0xffffe000, table = 0xfffff000;
    store32(image + (LIN >> 22) * 4, table | PTE_P | PTE_W | PTE_U);
    store32(image + PAGE_BYTES + (LIN >> 12 & 1023) * 4, FRAME | PTE_P | PTE_W | PTE_U);
    mmu_set_rom(f->mmu, image, sizeof image);
    f->cpu.cr3 = directory;
    assert_true(expect_gpa(LIN, MMU_WRITE, true, FRAME).dirty);
    assert_int_equal(load32(image + PAGE_BYTES + (LIN >> 12 & 1023) * 4),
                     FRAME | PTE_P | PTE_W | PTE_U);
    expect_fault(LIN + 0x1000, MMU_READ, true, PF_U);
}

static void user_rights_are_the_and_of_both_levels(void **state) {
    (void)state;
    u32 pde_gpa = FIX_PD + (LIN >> 22) * 4;
    fix_map(f, LIN, FRAME | PTE_P | PTE_W | PTE_U);
    expect_gpa(LIN + 4, MMU_WRITE, true, FRAME + 4);
    u32 pde = fix_read32(f, pde_gpa);
    fix_write32(f, pde_gpa, pde & ~(u32)PTE_U);
    expect_fault(LIN, MMU_READ, true, PF_P | PF_U);
    assert_false(expect_gpa(LIN, MMU_READ, false, FRAME).user);
    fix_write32(f, pde_gpa, pde & ~(u32)PTE_W);
    expect_fault(LIN, MMU_WRITE, true, PF_P | PF_U | PF_W);
    expect_gpa(LIN, MMU_READ, true, FRAME);
}

static void write_protect_binds_the_supervisor_only_with_wp(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_U);
    expect_fault(LIN, MMU_WRITE, false, PF_P | PF_W);
    f->cpu.cr0 &= ~CR0_WP;
    expect_gpa(LIN, MMU_WRITE, false, FRAME);
    expect_fault(LIN, MMU_WRITE, true, PF_P | PF_W | PF_U);
}

static void a_is_set_by_reads_and_d_by_writes(void **state) {
    (void)state;
    u32 pte = fix_pte(f, FIX_PD, LIN), pde = FIX_PD + (LIN >> 22) * 4;
    fix_map(f, LIN, FRAME | PTE_P | PTE_W | PTE_U);
    struct mmu_xlat x;
    assert_true(mmu_probe(&f->cpu, GLIN(LIN), &x));
    assert_false(fix_read32(f, pte) & (PTE_A | PTE_D));
    assert_false(expect_gpa(LIN, MMU_READ, true, FRAME).dirty);
    assert_int_equal(fix_read32(f, pte) & (PTE_A | PTE_D), PTE_A);
    assert_true(fix_read32(f, pde) & PTE_A);
    assert_false(fix_read32(f, pde) & PTE_D);
    assert_true(expect_gpa(LIN, MMU_WRITE, true, FRAME).dirty);
    assert_int_equal(fix_read32(f, pte) & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void a_refused_access_leaves_the_entries_alone(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P);
    expect_fault(LIN, MMU_WRITE, true, PF_P | PF_W | PF_U);
    assert_int_equal(fix_read32(f, fix_pte(f, FIX_PD, LIN)), FRAME | PTE_P);
    assert_false(fix_read32(f, FIX_PD + (LIN >> 22) * 4) & PTE_A);
}

static void large_pages_need_pse_and_keep_pse36_bits(void **state) {
    (void)state;
    fix_map_large(f, LIN, 0x01000000 | PTE_P | PTE_W | PTE_U | PTE_G);
    struct mmu_xlat x = expect_gpa(LIN + 0x123, MMU_WRITE, true, 0x01049123);
    assert_int_equal(x.page_bytes, 4u << 20);
    assert_true(x.global && x.dirty);
    assert_int_equal(fix_read32(f, FIX_PD + (LIN >> 22) * 4) & (PTE_A | PTE_D), PTE_A | PTE_D);
    fix_map_large(f, LIN, 0x01000000 | BIT(13) | PTE_P);
    expect_gpa(LIN, MMU_READ, false, 0x101049000ull);
    fix_map_large(f, LIN, 0x01000000 | BIT(17) | PTE_P); /* beyond 36 bits */
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    fix_map_large(f, LIN, 0x01000000 | BIT(21) | PTE_P);
    expect_fault(LIN, MMU_READ, true, PF_P | PF_RSVD | PF_U);
    f->cpu.cr4 &= ~(u32)CR4_PSE; /* now the entry names a table of zeroes */
    fix_map_large(f, LIN, 0x01000000 | PTE_P);
    expect_fault(LIN, MMU_READ, false, 0);
}

static void the_pat_bits_are_reserved_without_pat(void **state) {
    (void)state;
    const struct cpu_model without = {.f1_edx = BIT(17)}, with = {.f1_edx = BIT(16) | BIT(17)};
    fix_map(f, LIN, FRAME | PTE_P | BIT(7));
    fix_map_large(f, LIN + 0x400000, 0x01000000 | BIT(12) | PTE_P);
    f->cpu.model = &with;
    f->mmu->phys_bits = 0; /* another CPU */
    expect_gpa(LIN, MMU_READ, false, FRAME);
    assert_true(mmu_probe(&f->cpu, GLIN(LIN + 0x400000), &(struct mmu_xlat){.pte = 0}));
    f->cpu.model = &without;
    f->mmu->phys_bits = 0;
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    expect_fault(LIN + 0x400000, MMU_READ, false, PF_P | PF_RSVD);
    f->cpu.cr4 &= ~(u32)CR4_PSE; /* nobody looks at it */
    expect_gpa(LIN, MMU_READ, false, FRAME);
    fix_enable_pae(f, false);
    fix_write64(f, fix_pae_pte(f, LIN), FRAME | PTE_P | BIT(7));
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    f->cpu.model = NULL;
    f->mmu->phys_bits = 0;
}

static void global_needs_pge(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_G);
    assert_true(expect_gpa(LIN, MMU_READ, false, FRAME).global);
    f->cpu.cr4 &= ~(u32)CR4_PGE;
    assert_false(expect_gpa(LIN, MMU_READ, false, FRAME).global);
}

static void pae_walks_three_levels(void **state) {
    (void)state;
    fix_enable_pae(f, false);
    fix_write64(f, fix_pae_pte(f, 0xc0123000), FRAME | PTE_P | PTE_W);
    expect_gpa(0xc0123456, MMU_WRITE, false, FRAME + 0x456);
    assert_int_equal(fix_read64(f, fix_pae_pte(f, 0xc0123000)) & (PTE_A | PTE_D), PTE_A | PTE_D);
    fix_write64(f, fix_pae_pte(f, 0xc0123000), 0x3ffff000ull | PTE_P | BIT64(36));
    expect_fault(0xc0123000, MMU_READ, false, PF_P | PF_RSVD);
    fix_write64(f, fix_pae_pte(f, 0xc0123000), FRAME | PTE_P | PTE_NX); /* NXE off: reserved */
    expect_fault(0xc0123000, MMU_READ, false, PF_P | PF_RSVD);
    fix_write64(f, fix_pae_pde(f, 0x40000000), 0x00600000ull | PTE_P | PTE_PS | PTE_U);
    struct mmu_xlat x = expect_gpa(0x401abcde, MMU_READ, true, 0x7abcde);
    assert_int_equal(x.page_bytes, 2u << 20);
    fix_write64(f, fix_pae_pde(f, 0x40000000), 0x00602000ull | PTE_P | PTE_PS | PTE_U);
    expect_fault(0x401abcde, MMU_READ, true, PF_P | PF_RSVD | PF_U);
}

static void nx_at_any_level_forbids_fetches(void **state) {
    (void)state;
    fix_enable_pae(f, true);
    u32 pte = fix_pae_pte(f, LIN), pde = fix_pae_pde(f, LIN);
    fix_write64(f, pte, FRAME | PTE_P | PTE_U);
    expect_gpa(LIN, MMU_FETCH, true, FRAME);
    fix_write64(f, pte, FRAME | PTE_P | PTE_U | PTE_NX);
    expect_fault(LIN, MMU_FETCH, true, PF_P | PF_U | PF_I);
    expect_gpa(LIN, MMU_READ, true, FRAME);
    fix_write64(f, pte, FRAME | PTE_P | PTE_U);
    fix_write64(f, pde, fix_read64(f, pde) | PTE_NX);
    expect_fault(LIN, MMU_FETCH, false, PF_P | PF_I);
}

static void smep_and_smap_guard_user_pages_from_the_supervisor(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_W | PTE_U);
    expect_gpa(LIN, MMU_FETCH, false, FRAME);
    f->cpu.cr4 |= CR4_SMEP;
    expect_fault(LIN, MMU_FETCH, false, PF_P | PF_I);
    expect_gpa(LIN, MMU_READ, false, FRAME);
    f->cpu.cr4 |= CR4_SMAP;
    expect_fault(LIN, MMU_READ, false, PF_P);
    f->cpu.eflags |= F_AC;
    expect_gpa(LIN, MMU_READ, false, FRAME);
    expect_fault(LIN, MMU_READ | MMU_SUPERVISOR, false, PF_P);
    expect_gpa(LIN, MMU_READ, true, FRAME);
}

/* The PAT bit is reserved on a CPU without PAT, in 32-bit tables only under CR4.PSE; PSE-36 and
 * MAXPHYADDR come from CPUID. */
static void the_cpu_model_decides_which_bits_are_reserved(void **state) {
    (void)state;
    static struct cpu_model model = {.f1_edx = BIT(3) | BIT(6)};
    f->cpu.model = &model;
    mmu_mode_changed(&f->cpu);
    fix_map(f, LIN, FRAME | PTE_P | PTE_PAT);
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    f->cpu.cr4 &= ~(u32)CR4_PSE;
    expect_gpa(LIN, MMU_READ, false, FRAME);
    f->cpu.cr4 |= CR4_PSE;
    fix_map_large(f, LIN, 0x01000000 | PTE_P | PDE_PAT);
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    fix_map_large(f, LIN, 0x01000000 | PTE_P | BIT(13));
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    model.f1_edx |= BIT(16) | BIT(17);
    model.leaf[model.count++] = (struct cpuid_leaf){.leaf = 0x80000008u, .eax = 34};
    mmu_mode_changed(&f->cpu);
    expect_gpa(LIN, MMU_READ, false, 0x101049000ull);
    fix_map_large(f, LIN, 0x01000000 | PTE_P | PDE_PAT | BIT(15)); /* bit 34 */
    expect_fault(LIN, MMU_READ, false, PF_P | PF_RSVD);
    fix_map(f, LIN, FRAME | PTE_P | PTE_PAT);
    expect_gpa(LIN, MMU_READ, false, FRAME);
}

static void pdptes_are_checked_when_loaded(void **state) {
    (void)state;
    fix_write64(f, FIX_PDPT, 0x5000 | PTE_P | PTE_W); /* bit 1 is reserved here */
    f->cpu.pdptr[0] = 0x77;
    assert_false(mmu_load_pdptrs(&f->cpu, FIX_PDPT));
    assert_int_equal(f->cpu.fault.vector, VEC_GP);
    assert_int_equal(f->cpu.pdptr[0], 0x77);
    fix_write64(f, FIX_PDPT, 0x5000 | PTE_W); /* not present: no check */
    assert_true(mmu_load_pdptrs(&f->cpu, FIX_PDPT));
    assert_int_equal(f->cpu.pdptr[0], 0x5000 | PTE_W);
    assert_false(mmu_load_pdptrs(&f->cpu, 0xfffffff0)); /* ones: reserved bits */
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(without_paging_linear_is_physical),
        T(not_present_gives_error_without_p),
        T(tables_where_nothing_is_read_as_ones),
        T(tables_in_rom_are_walked_and_keep_their_a_and_d),
        T(user_rights_are_the_and_of_both_levels),
        T(write_protect_binds_the_supervisor_only_with_wp),
        T(a_is_set_by_reads_and_d_by_writes),
        T(a_refused_access_leaves_the_entries_alone),
        T(large_pages_need_pse_and_keep_pse36_bits),
        T(the_pat_bits_are_reserved_without_pat),
        T(global_needs_pge),
        T(pae_walks_three_levels),
        T(nx_at_any_level_forbids_fetches),
        T(smep_and_smap_guard_user_pages_from_the_supervisor),
        T(the_cpu_model_decides_which_bits_are_reserved),
        T(pdptes_are_checked_when_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
