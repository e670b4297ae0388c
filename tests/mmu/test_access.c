/*
 * test_access.c: software access to guest memory: page crossings, MMIO, the soft TLB's coherence
 * rules, the journal and the queue of writes to code pages.
 */
#include "mmu_fixture.h"

#define LIN 0x08049000u
#define FRAME 0x00200000u
#define RWU (PTE_P | PTE_W | PTE_U)

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
static u32 read32(u32 lin) {
    u32 v = 0;
    assert_true(mmu_read(&f->cpu, lin, &v, 4, MMU_READ));
    return v;
}

static void crossing_accesses_join_two_frames(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    fix_map(f, LIN + 0x1000, FRAME + 0x5000 + RWU);
    u32 v = 0xaabbccdd;
    assert_true(mmu_write(&f->cpu, LIN + 0xffe, &v, 4, MMU_WRITE));
    assert_int_equal(load16(f->mmu->ram + FRAME + 0xffe), 0xccdd);
    assert_int_equal(load16(f->mmu->ram + FRAME + 0x5000), 0xaabb);
    assert_int_equal(read32(LIN + 0xffe), 0xaabbccdd);
}

static void a_crossing_write_faults_before_it_touches_anything(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    fix_map(f, LIN + 0x1000, 0);
    u32 v = 0xaabbccdd;
    assert_false(mmu_write(&f->cpu, LIN + 0xffe, &v, 4, MMU_WRITE));
    assert_int_equal(f->cpu.fault.cr2, LIN + 0x1000);
    assert_int_equal(load32(f->mmu->ram + FRAME + 0xffc), 0);
    assert_false(mmu_check_write(&f->cpu, LIN + 0xffe, 4, MMU_WRITE));
    assert_true(mmu_check_write(&f->cpu, LIN + 0xffc, 4, MMU_WRITE));
}

static void accesses_wrap_at_4_gib(void **state) {
    (void)state;
    fix_map(f, 0xfffff000, FRAME | RWU);
    fix_map(f, 0, FRAME + 0x1000 + RWU);
    u64 v = 0x1122334455667788ull, got = 0;
    assert_true(mmu_write(&f->cpu, 0xfffffffc, &v, 8, MMU_WRITE));
    assert_int_equal(load32(f->mmu->ram + FRAME + 0xffc), 0x55667788);
    assert_int_equal(load32(f->mmu->ram + FRAME + 0x1000), 0x11223344);
    assert_true(mmu_read(&f->cpu, 0xfffffffc, &got, 8, MMU_READ));
    assert_int_equal(got, v);
}

static void mmio_goes_to_the_bus(void **state) {
    (void)state;
    fix_map(f, LIN, 0xb8000 | RWU);
    fix_map(f, LIN + 0x1000, 0xfee00000 | RWU);
    u32 v = 0xdeadbeef;
    assert_int_equal(read32(LIN + 8), 0x55667788);
    assert_int_equal(f->mmio_last_gpa, 0xb8008);
    assert_true(mmu_write(&f->cpu, LIN + 0x10b0, &v, 4, MMU_WRITE));
    assert_int_equal(f->mmio_last_gpa, 0xfee000b0);
    assert_int_equal(f->mmio_last_value, 0xdeadbeef);
    assert_int_equal(f->mmio_last_bytes, 4);
    assert_null(mmu_host_pointer(&f->cpu, LIN, 4, MMU_READ));
}

static void the_privilege_follows_cpl_unless_the_access_is_implicit(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | PTE_P | PTE_W);
    u32 v;
    f->cpu.cpl = 3;
    assert_false(mmu_read(&f->cpu, LIN, &v, 4, MMU_READ));
    assert_int_equal(f->cpu.fault.error, PF_P | PF_U);
    assert_true(mmu_read(&f->cpu, LIN, &v, 4, MMU_READ | MMU_SUPERVISOR));
    assert_false(mmu_read(&f->cpu, LIN, &v, 4, MMU_READ)); /* not from the supervisor's TLB */
}

static void invlpg_and_cr3_make_new_mappings_seen(void **state) {
    (void)state;
    store32(f->mmu->ram + FRAME, 1);
    store32(f->mmu->ram + FRAME + 0x1000, 2);
    fix_map(f, LIN, FRAME | RWU);
    assert_int_equal(read32(LIN), 1);
    fix_map(f, LIN, FRAME + 0x1000 + RWU);
    mmu_invlpg(&f->cpu, GLIN(LIN + 0x123));
    assert_int_equal(read32(LIN), 2);
    fix_map(f, LIN, FRAME | RWU);
    mmu_cr3_loaded(&f->cpu);
    assert_int_equal(read32(LIN), 1);
}

/* More pages than the soft TLB has entries, as data and as code, by each kind of flush. */
static void flushes_reach_every_soft_tlb_entry(void **state) {
    (void)state;
    enum { PAGES = 2 * SOFTTLB_ENTRIES, ROUNDS = 3 };
    for (u32 round = 0; round < ROUNDS; round++) {
        store32(f->mmu->ram + FRAME + round * PAGE_BYTES, round);
        for (u32 i = 0; i < PAGES; i++)
            fix_map(f, LIN + i * PAGE_BYTES, (FRAME + round * PAGE_BYTES) | RWU);
        if (round == 1)
            mmu_softtlb_flush(&f->cpu);
        for (u32 i = 0; i < PAGES; i++) {
            u32 lin = LIN + i * PAGE_BYTES, code = ~0u;
            if (round == 2)
                mmu_invlpg(&f->cpu, GLIN(lin));
            assert_int_equal(read32(lin), round);
            assert_true(mmu_read(&f->cpu, lin, &code, 4, MMU_FETCH));
            assert_int_equal(code, round);
        }
    }
}

/* A page that becomes a code page is written the slow way, wherever its entry stands. */
static void protecting_a_page_takes_every_write_tag(void **state) {
    (void)state;
    u32 v = 1, bytes;
    struct gpa gpa;
    bool all;
    for (u32 i = 0; i < 2 * SOFTTLB_ENTRIES; i += 97) {
        u32 lin = LIN + i * PAGE_BYTES;
        fix_map(f, lin, FRAME | RWU);
        assert_true(mmu_write(&f->cpu, lin, &v, 4, MMU_WRITE));
        mmu_code_protect(f->mmu, GPA(FRAME));
        assert_true(mmu_write(&f->cpu, lin, &v, 4, MMU_WRITE));
        assert_true(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
        assert_int_equal(gpa.v, FRAME);
        mmu_code_unprotect(f->mmu, GPA(FRAME));
    }
}

static void invlpg_drops_a_whole_large_page(void **state) {
    (void)state;
    store32(f->mmu->ram + 0x01000000, 1);
    store32(f->mmu->ram + 0x01005000, 2);
    store32(f->mmu->ram + FRAME, 3);
    fix_map_large(f, 0x08000000, 0x01000000 | RWU);
    assert_int_equal(read32(0x08000000), 1);
    assert_int_equal(read32(0x08005000), 2);
    fix_map(f, 0x08005000, FRAME | RWU); /* now a table */
    mmu_invlpg(&f->cpu, GLIN(0x08000000));
    assert_int_equal(read32(0x08005000), 3);
}

static void the_first_write_sets_d_even_after_reads(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    read32(LIN);
    assert_false(fix_read32(f, fix_pte(f, FIX_PD, LIN)) & PTE_D);
    u8 v = 1;
    assert_true(mmu_write(&f->cpu, LIN, &v, 1, MMU_WRITE));
    assert_true(fix_read32(f, fix_pte(f, FIX_PD, LIN)) & PTE_D);
}

static void host_pointers_end_at_page_ends_and_code_pages(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    fix_map(f, LIN + 0x1000, FRAME + 0x1000 + RWU);
    assert_ptr_equal(mmu_host_pointer(&f->cpu, LIN + 0xff0, 16, MMU_WRITE),
                     f->mmu->ram + FRAME + 0xff0);
    assert_null(mmu_host_pointer(&f->cpu, LIN + 0xff1, 16, MMU_READ));
    mmu_code_protect(f->mmu, GPA(FRAME));
    assert_null(mmu_host_pointer(&f->cpu, LIN, 4, MMU_WRITE));
    assert_non_null(mmu_host_pointer(&f->cpu, LIN, 4, MMU_READ));
    f->cpu.fault.vector = 99;
    assert_null(mmu_host_pointer(&f->cpu, 0x70000000, 4, MMU_READ));
    assert_int_equal(f->cpu.fault.vector, 99);
}

static void writes_to_code_pages_are_queued_and_merged(void **state) {
    (void)state;
    struct gpa gpa;
    u32 bytes, v = 0;
    bool all;
    fix_map(f, LIN, FRAME | RWU);
    assert_true(mmu_write(&f->cpu, LIN, &v, 4, MMU_WRITE)); /* TLB now warm */
    mmu_code_protect(f->mmu, GPA(FRAME + 0x10));
    assert_false(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    for (u32 i = 0; i < 8; i++)
        assert_true(mmu_write(&f->cpu, LIN + 4 * i, &v, 4, MMU_WRITE));
    assert_true(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    assert_int_equal(gpa.v, FRAME);
    assert_int_equal(bytes, 32);
    assert_false(all);
    assert_false(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    assert_true(mmu_phys_write(f->mmu, GPA(FRAME - 2), &v, 4)); /* DMA over the edge */
    assert_true(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    assert_int_equal(gpa.v, FRAME);
    assert_int_equal(bytes, 2);
    mmu_code_unprotect(f->mmu, GPA(FRAME));
    assert_true(mmu_write(&f->cpu, LIN, &v, 4, MMU_WRITE));
    assert_false(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
}

static void a_full_code_queue_says_all(void **state) {
    (void)state;
    struct gpa gpa;
    u32 bytes;
    bool all;
    u8 v = 0;
    fix_map(f, LIN, FRAME | RWU);
    mmu_code_protect(f->mmu, GPA(FRAME));
    for (u32 i = 0; i <= MMU_CODE_QUEUE; i++)
        assert_true(mmu_write(&f->cpu, LIN + 2 * i, &v, 1, MMU_WRITE));
    assert_true(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    assert_true(all);
    assert_false(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
}

static void accessed_bits_set_in_a_code_page_are_queued(void **state) {
    (void)state;
    struct gpa gpa;
    u32 bytes;
    bool all;
    u32 pte = fix_pte(f, FIX_PD, LIN);
    fix_map(f, LIN, FRAME | RWU);
    mmu_code_protect(f->mmu, GPA(pte));
    read32(LIN);
    assert_true(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    assert_int_equal(gpa.v, pte);
}

static void the_journal_records_old_and_new_values_in_order(void **state) {
    (void)state;
    struct mmu_journal_entry entry[4];
    struct mmu_journal j = {.entry = entry, .capacity = 4};
    u32 a = 0x11111111, b = 0x22222222;
    fix_map(f, LIN, FRAME | RWU | PTE_A);
    u32 pde = FIX_PD + (LIN >> 22) * 4;
    fix_write32(f, pde, fix_read32(f, pde) | PTE_A);
    mmu_set_journal(f->mmu, &j);
    assert_null(mmu_host_pointer(&f->cpu, LIN, 4, MMU_WRITE));
    assert_true(mmu_write(&f->cpu, LIN, &a, 4, MMU_WRITE));
    assert_true(mmu_write(&f->cpu, LIN, &b, 4, MMU_WRITE));
    assert_int_equal(j.count, 3);
    assert_int_equal(entry[0].gpa, fix_pte(f, FIX_PD, LIN)); /* D */
    assert_int_equal(entry[1].gpa, FRAME);
    assert_int_equal(load32(entry[1].old_value), 0);
    assert_int_equal(load32(entry[2].old_value), a);
    assert_int_equal(load32(entry[2].new_value), b);
    u8 big[64] = {0};
    assert_true(mmu_write(&f->cpu, LIN, big, 64, MMU_WRITE));
    assert_true(j.overflow);
    assert_int_equal(j.count, 4);
    mmu_set_journal(f->mmu, NULL);
}

static void physical_access_stays_inside_ram(void **state) {
    (void)state;
    u8 buf[16] = {0};
    assert_true(mmu_phys_read(f->mmu, GPA(FIX_RAM_BYTES - 16), buf, 16));
    assert_false(mmu_phys_read(f->mmu, GPA(FIX_RAM_BYTES - 15), buf, 16));
    assert_false(mmu_phys_write(f->mmu, GPA(~0ull - 3), buf, 16));
    assert_false(mmu_phys_write(f->mmu, GPA(0x9fff8), buf, 16));
    assert_false(mmu_phys_write(f->mmu, GPA(0xbfff8), buf, 16));
    assert_true(mmu_phys_write(f->mmu, GPA(0xc0000), buf, 16));
    mmu_phys_written(f->mmu, GPA(~0ull), ~0ull);
}

static void impossible_ram_sizes_are_refused(void **state) {
    (void)state;
    struct mmu_error err;
    assert_null(mmu_create(12345, &err));
    assert_null(mmu_create(0, &err));
    assert_null(mmu_create(4ull << 30, &err));
    assert_non_null(strstr(err.text, "multiple of 4 KiB"));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(crossing_accesses_join_two_frames),
        T(a_crossing_write_faults_before_it_touches_anything),
        T(accesses_wrap_at_4_gib),
        T(mmio_goes_to_the_bus),
        T(the_privilege_follows_cpl_unless_the_access_is_implicit),
        T(invlpg_and_cr3_make_new_mappings_seen),
        T(flushes_reach_every_soft_tlb_entry),
        T(protecting_a_page_takes_every_write_tag),
        T(invlpg_drops_a_whole_large_page),
        T(the_first_write_sets_d_even_after_reads),
        T(host_pointers_end_at_page_ends_and_code_pages),
        T(writes_to_code_pages_are_queued_and_merged),
        T(a_full_code_queue_says_all),
        T(accessed_bits_set_in_a_code_page_are_queued),
        T(the_journal_records_old_and_new_values_in_order),
        T(physical_access_stays_inside_ram),
        T(impossible_ram_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
