/* fw_cfg through its ports and by DMA, as firmware drives it. */
#include "pc_fixture.h"

enum { SELECTOR = 0x510, DATA = 0x511, DMA = 0x514, BLOCK = 0x1000, TARGET = 0x3000 };

static const u8 kernel[] = "kernel text";
static const struct dev_fw_cfg_item items[] = {
    {.name = "opt/zebra", .data = (const u8 *)"stripes", .bytes = 7},
    {.key = DEV_FW_CFG_KERNEL_DATA, .data = kernel, .bytes = sizeof kernel},
    {.name = "etc/e820", .data = (const u8 *)"map", .bytes = 3},
    {.name = "bootorder", .data = (const u8 *)"", .bytes = 0},
};

static bool writable(void *opaque, struct gpa addr, u64 bytes) {
    (void)opaque;
    return addr.v + bytes <= 0x8000 || addr.v >= 0x9000;
}

static int setup(void **state) {
    struct pc *pc = calloc(1, sizeof *pc);
    pc->ram = calloc(1, 2 << 20);
    struct dev_config c = {.ram_bytes = 2 << 20,
                           .ram = pc->ram,
                           .dma_written = pc_dma_written,
                           .ram_writable = writable,
                           .dma_opaque = pc,
                           .fw_cfg = items,
                           .fw_cfg_items = ARRAY_LEN(items)};
    pc->m = dev_machine_create(&c);
    *state = pc;
    return !pc->m;
}

static void read_item(struct pc *pc, u16 key, u8 *out, unsigned bytes) {
    out16(pc, SELECTOR, key);
    for (unsigned i = 0; i < bytes; i++)
        out[i] = in8(pc, DATA);
}
static u32 read_u32(struct pc *pc, u16 key, unsigned bytes) {
    u8 value[4] = {0};
    read_item(pc, key, value, bytes);
    return load32(value);
}

static void put_be32(struct pc *pc, u32 at, u32 value) {
    store32(pc->ram + at, __builtin_bswap32(value));
}
/* One transfer; returns what control has become. */
static u32 transfer(struct pc *pc, u32 control, u32 length, u64 address) {
    put_be32(pc, BLOCK, control);
    put_be32(pc, BLOCK + 4, length);
    put_be32(pc, BLOCK + 8, (u32)(address >> 32));
    put_be32(pc, BLOCK + 12, (u32)address);
    out32(pc, DMA + 4, __builtin_bswap32(BLOCK));
    return __builtin_bswap32(load32(pc->ram + BLOCK));
}
#define SELECT(key) ((u32)(key) << 16 | 8)

static void the_machine_describes_itself(void **state) {
    struct pc *pc = *state;
    u8 text[5];
    read_item(pc, DEV_FW_CFG_SIGNATURE, text, 5);
    assert_memory_equal(text, "QEMU", 5); /* a zero behind the end */
    assert_int_equal(read_u32(pc, DEV_FW_CFG_ID, 4), 3);
    assert_int_equal(read_u32(pc, DEV_FW_CFG_RAM_SIZE, 4), 2 << 20);
    assert_int_equal(read_u32(pc, DEV_FW_CFG_NB_CPUS, 2), 1);
    assert_int_equal(read_u32(pc, DEV_FW_CFG_MAX_CPUS, 2), 1);
    assert_int_equal(read_u32(pc, 0x3fff, 4), 0);
    /* The signature is what a reset selects. */
    dev_machine_reset(pc->m);
    assert_int_equal(in8(pc, DATA), 'Q');
    assert_int_equal(in8(pc, SELECTOR), 'E'); /* the ports overlap */
}

static void only_a_word_at_the_selector_selects(void **state) {
    struct pc *pc = *state;
    out16(pc, SELECTOR, DEV_FW_CFG_KERNEL_DATA);
    out8(pc, SELECTOR, 0);
    out8(pc, DATA, 'x'); /* data cannot be written */
    assert_int_equal(in8(pc, DATA), 'k');
    out16(pc, SELECTOR, DEV_FW_CFG_KERNEL_DATA | 0x4000); /* asks for write access, in vain */
    out8(pc, DATA, 'x');
    assert_int_equal(in8(pc, DATA), 'k');
}

static void the_directory_is_sorted_by_name(void **state) {
    struct pc *pc = *state;
    static const char *const names[] = {"bootorder", "etc/e820", "opt/zebra"};
    u8 directory[4 + 3 * 64 + 1];
    read_item(pc, DEV_FW_CFG_FILE_DIR, directory, sizeof directory);
    assert_int_equal(__builtin_bswap32(load32(directory)), 3);
    for (unsigned i = 0; i < 3; i++) {
        const u8 *entry = directory + 4 + 64 * i;
        assert_string_equal((const char *)entry + 8, names[i]);
        assert_int_equal(__builtin_bswap16(load16(entry + 4)), DEV_FW_CFG_FILE_FIRST + i);
    }
    u8 text[8];
    assert_int_equal(__builtin_bswap32(load32(directory + 4 + 128)), 7);
    read_item(pc, DEV_FW_CFG_FILE_FIRST + 2, text, 8);
    assert_string_equal((const char *)text, "stripes");
}

static void dma_reads_and_skips(void **state) {
    struct pc *pc = *state;
    assert_int_equal(in32(pc, DMA), 0x554d4551);     /* "QEMU" */
    assert_int_equal(in32(pc, DMA + 4), 0x47464320); /* " CFG" */
    memset(pc->ram + TARGET, 0xcc, 32);
    assert_int_equal(transfer(pc, SELECT(DEV_FW_CFG_KERNEL_DATA) | 2, 20, TARGET), 0);
    assert_memory_equal(pc->ram + TARGET, kernel, sizeof kernel);
    assert_int_equal(pc->ram[TARGET + 19], 0); /* zeros behind the end */
    assert_int_equal(pc->ram[TARGET + 20], 0xcc);
    assert_int_equal(transfer(pc, SELECT(DEV_FW_CFG_KERNEL_DATA) | 4, 7, 0), 0);
    assert_int_equal(transfer(pc, 2, 4, TARGET), 0); /* goes on there */
    assert_memory_equal(pc->ram + TARGET, "text", 4);
    assert_int_equal(pc->dma_first, BLOCK); /* the last store is the answer */
    assert_int_equal(transfer(pc, SELECT(0x3fff) | 2, 4, TARGET), 0);
    assert_int_equal(load32(pc->ram + TARGET), 0);
}

static void dma_takes_two_halves_of_an_address(void **state) {
    struct pc *pc = *state;
    put_be32(pc, BLOCK, SELECT(0) | 2);
    put_be32(pc, BLOCK + 4, 4);
    put_be32(pc, BLOCK + 8, 0);
    put_be32(pc, BLOCK + 12, TARGET);
    out32(pc, DMA, __builtin_bswap32(1)); /* above 4 GiB: nothing is there */
    out32(pc, DMA + 4, __builtin_bswap32(BLOCK));
    assert_int_equal(load32(pc->ram + TARGET), 0);
    out32(pc, DMA + 4, __builtin_bswap32(BLOCK)); /* the upper half is 0 again */
    assert_memory_equal(pc->ram + TARGET, "QEMU", 4);
}

static void dma_refuses_what_it_cannot_reach(void **state) {
    struct pc *pc = *state;
    static const u64 bad[] = {2u << 20, (2u << 20) - 2, 0x9fffe,    0xa0000,       0xbffff,
                              0x7ffe,   0x8000,         1ull << 32, UINT64_MAX - 1};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(transfer(pc, SELECT(0) | 2, 4, bad[i]), 1);
    assert_int_equal(transfer(pc, SELECT(0) | 2, UINT32_MAX, TARGET), 1);
    assert_int_equal(transfer(pc, SELECT(0) | 16, 1, TARGET), 1); /* no writes */
    assert_int_equal(transfer(pc, SELECT(0), 1, TARGET), 0);
    out32(pc, DMA + 4, __builtin_bswap32((2u << 20) - 8)); /* a block that is not all RAM */
    out16(pc, DMA + 4, 0xffff);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, pc_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_machine_describes_itself),       TEST(only_a_word_at_the_selector_selects),
        TEST(the_directory_is_sorted_by_name),    TEST(dma_reads_and_skips),
        TEST(dma_takes_two_halves_of_an_address), TEST(dma_refuses_what_it_cannot_reach),
    };
    return cmocka_run_group_tests_name("fw_cfg", tests, NULL, NULL);
}
