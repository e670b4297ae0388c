/*
 * test_rom.c: what is not plain RAM and yet memory: the ROM below 4 GiB, read-only pages of RAM,
 * and what gate A20 makes of addresses.
 */
#include "mmu_fixture.h"

#define LIN 0x08049000u
#define FRAME 0x00200000u
#define RWU (PTE_P | PTE_W | PTE_U)
#define ROM_BYTES 0x10000u
#define ROM_BASE 0xffff0000u

static struct fixture *f;
static u8 rom[ROM_BYTES];

static int setup(void **state) {
    (void)state;
    f = fix_create(FIX_RAM_BYTES);
    for (u32 i = 0; i < ROM_BYTES; i++)
        rom[i] = (u8)(i * 7 + (i >> 8));
    mmu_set_rom(f->mmu, rom, ROM_BYTES);
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
static void write32(u32 lin, u32 v) {
    assert_true(mmu_write(&f->cpu, lin, &v, 4, MMU_WRITE));
}

static void the_rom_reads_and_keeps_what_it_holds(void **state) {
    (void)state;
    f->cpu.cr0 &= ~CR0_PG;
    for (unsigned turn = 0; turn < 2; turn++) { /* cold, and by the soft TLB */
        assert_int_equal(read32(ROM_BASE), load32(rom));
        assert_int_equal(read32(ROM_BASE + 0xffe), load32(rom + 0xffe)); /* over a page's end */
        assert_int_equal(read32(0xfffffffc), load32(rom + ROM_BYTES - 4));
        u8 before = rom[0x123];
        write32(ROM_BASE + 0x123, ~0u);
        write32(ROM_BASE + 0xffe, ~0u);
        assert_true(mmu_check_write(&f->cpu, ROM_BASE, 4, MMU_WRITE));
        assert_int_equal(rom[0x123], before);
        assert_int_equal(read32(ROM_BASE + 0xffe), load32(rom + 0xffe));
    }
    u8 code[16];
    assert_true(mmu_read(&f->cpu, 0xfffffff0, code, 16, MMU_FETCH));
    assert_memory_equal(code, rom + ROM_BYTES - 16, 16);
    assert_int_equal(f->mmio_last_bytes, 0); /* the bus saw none of it */
    read32(ROM_BASE - 4);
    assert_int_equal(f->mmio_last_gpa, ROM_BASE - 4);
}

static void host_pointers_into_the_rom_are_for_reading(void **state) {
    (void)state;
    fix_map(f, LIN, ROM_BASE + 0x3000 + RWU);
    assert_ptr_equal(mmu_host_pointer(&f->cpu, LIN + 8, 8, MMU_READ), rom + 0x3008);
    assert_null(mmu_host_pointer(&f->cpu, LIN + 8, 8, MMU_WRITE));
    assert_int_equal(read32(LIN + 8), load32(rom + 0x3008));
    u8 data[8];
    assert_true(mmu_phys_read(f->mmu, GPA(ROM_BASE + 0x3008), data, 8));
    assert_memory_equal(data, rom + 0x3008, 8);
    assert_false(mmu_phys_read(f->mmu, GPA(0xfffffffcull), data, 8));
    assert_false(mmu_phys_read(f->mmu, GPA(ROM_BASE - 4), data, 8));
    assert_false(mmu_phys_write(f->mmu, GPA(ROM_BASE), data, 8));
    mmu_set_rom(f->mmu, NULL, 0);
    assert_false(mmu_phys_read(f->mmu, GPA(ROM_BASE), data, 8));
}

static void read_only_pages_lose_writes(void **state) {
    (void)state;
    fix_map(f, LIN, FRAME | RWU);
    write32(LIN, 0x1111);
    assert_int_equal(load32(f->mmu->ram + FRAME), 0x1111);
    mmu_ram_set_read_only(f->mmu, GPA(FRAME), PAGE_BYTES, true);
    write32(LIN, 0x2222);
    assert_int_equal(read32(LIN), 0x1111);
    assert_null(mmu_host_pointer(&f->cpu, LIN, 4, MMU_WRITE));
    u32 v = 0x3333;
    assert_false(mmu_phys_write(f->mmu, GPA(FRAME - 2), &v, 4));
    assert_false(mmu_phys_writable(f->mmu, GPA(FRAME + 0xffc), 4));
    assert_true(mmu_phys_writable(f->mmu, GPA(FRAME + 0x1000), 4));

    /* Code may come to such a page and go; it stays read-only. */
    mmu_code_protect(f->mmu, GPA(FRAME));
    assert_true(mmu_code_is_protected(f->mmu, GPA(FRAME)));
    write32(LIN, 0x2222);
    struct gpa gpa;
    u32 bytes;
    bool all;
    assert_false(mmu_code_next_write(f->mmu, &gpa, &bytes, &all));
    mmu_code_unprotect(f->mmu, GPA(FRAME));
    write32(LIN, 0x2222);
    assert_int_equal(read32(LIN), 0x1111);
    mmu_ram_set_read_only(f->mmu, GPA(FRAME), PAGE_BYTES, false);
    write32(LIN, 0x2222);
    assert_int_equal(read32(LIN), 0x2222);
}

static void a_window_never_maps_a_read_only_page_writable(void **state) {
    (void)state;
    struct mmu_error err;
    fix_map(f, LIN, FRAME | RWU);
    assert_true(mmu_windows_create(&f->cpu, &err));
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN), true), MMU_FAULT_FILLED);
    volatile u32 *seen = (volatile u32 *)(mmu_window_base(&f->cpu, false) + LIN);
    *seen = 0x1111;
    mmu_ram_set_read_only(f->mmu, GPA(FRAME), PAGE_BYTES, true);
    assert_null(mmu_validate(&f->cpu));
    assert_int_equal(*seen, 0x1111);
    /* Other places each time: three faults at one look like no progress. */
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN + 8), true), MMU_FAULT_EMULATE);
    mmu_ram_set_read_only(f->mmu, GPA(FRAME), PAGE_BYTES, false);
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN + 16), true), MMU_FAULT_FILLED);
    *seen = 0x2222;
    assert_int_equal(load32(f->mmu->ram + FRAME), 0x2222);
    /* The ROM is not in it. */
    fix_map(f, LIN + 0x1000, ROM_BASE | RWU);
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN + 0x1000), false),
                     MMU_FAULT_EMULATE);
}

static void a_shut_gate_forces_bit_20_to_zero(void **state) {
    (void)state;
    f->cpu.cr0 &= ~CR0_PG;
    write32(0x300500, 3);
    write32(0x200500, 2);
    assert_int_equal(read32(0x300500), 3);
    mmu_set_a20(&f->cpu, false);
    assert_int_equal(read32(0x300500), 2);
    write32(0x300500, 4);
    assert_int_equal(load32(f->mmu->ram + 0x200500), 4);
    u64 v = 0;
    assert_true(mmu_read(&f->cpu, 0x1ffffc, &v, 8, MMU_READ)); /* 0ffffch, then 200000h */
    mmu_set_a20(&f->cpu, true);
    assert_int_equal(read32(0x300500), 3);
    assert_int_equal(read32(0x200500), 4);
}

static void the_gate_holds_for_page_tables(void **state) {
    (void)state;
    fix_map(f, LIN, 0x300000 | RWU);
    write32(LIN + 4, 3);
    store32(f->mmu->ram + 0x200004, 2);
    assert_int_equal(read32(LIN + 4), 3);
    /* The page directory now appears to lie 1 MiB above where it is. */
    f->cpu.cr3 = FIX_PD | 0x100000;
    assert_int_equal(FIX_PD & 0x100000, 0);
    mmu_set_a20(&f->cpu, false);
    assert_int_equal(read32(LIN + 4), 2);
    f->cpu.cr3 = FIX_PD;
    mmu_set_a20(&f->cpu, true);
    assert_int_equal(read32(LIN + 4), 3);
}

static void windows_forget_what_the_gate_made_of_them(void **state) {
    (void)state;
    struct mmu_error err;
    fix_map(f, LIN, 0x300000 | RWU);
    assert_true(mmu_windows_create(&f->cpu, &err));
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN), false), MMU_FAULT_FILLED);
    store32(f->mmu->ram + 0x300000, 3);
    store32(f->mmu->ram + 0x200000, 2);
    mmu_set_a20(&f->cpu, false);
    assert_int_equal(read32(LIN), 2);
    mmu_set_a20(&f->cpu, true);
    assert_int_equal(mmu_window_fault(&f->cpu, false, GLIN(LIN), false), MMU_FAULT_FILLED);
    assert_int_equal(*(volatile u32 *)(mmu_window_base(&f->cpu, false) + LIN), 3);
    assert_null(mmu_validate(&f->cpu));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_rom_reads_and_keeps_what_it_holds),
        T(host_pointers_into_the_rom_are_for_reading),
        T(read_only_pages_lose_writes),
        T(a_window_never_maps_a_read_only_page_writable),
        T(a_shut_gate_forces_bit_20_to_zero),
        T(the_gate_holds_for_page_tables),
        T(windows_forget_what_the_gate_made_of_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
