/*
 * Tests of the kernel loaders on images made here: what is placed where, and that every malformed
 * file is refused with a reason.
 */
#include "monitor/monitor.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM_BYTES (64u << 20)
static u8 *ram;
static struct cpu *cpu;
static struct mon_image image;
static struct mon_error err;
static char name[32], initrd_name[32];

static const char *write_file(char out[32], const void *data, size_t bytes) {
    strcpy(out, "/tmp/rf-load-XXXXXX");
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
    close(fd);
    return out;
}

/* Opens and loads; false with err filled. */
static bool load(const void *data, size_t bytes, const char *initrd, const char *append,
                 u64 ram_bytes) {
    write_file(name, data, bytes);
    bool good = mon_image_open(&image, name, initrd, append, &err);
    unlink(name);
    if (!good)
        return false;
    memset(ram, 0xcc, ram_bytes);
    cpu_reset(cpu);
    return mon_image_load(&image, ram, ram_bytes, cpu, &err);
}
static void refused(const void *data, size_t bytes, const char *reason) {
    assert_false(load(data, bytes, NULL, NULL, RAM_BYTES));
    assert_non_null(strstr(err.text, "could not load kernel '/tmp/rf-load-"));
    if (!strstr(err.text, reason))
        fail_msg("'%s' does not mention '%s'", err.text, reason);
    mon_image_close(&image);
}

/* ---- bzImage ---- */
#define SETUP_BYTES (5 * 512)
static u8 bz[SETUP_BYTES + 4096];
static void make_bzimage(void) {
    memset(bz, 0, sizeof bz);
    bz[0x1f1] = 4;
    store32(bz + 0x1f4, 4096 / 16);
    store16(bz + 0x1fe, 0xaa55);
    bz[0x201] = 0x66; /* the header ends at 268h */
    memcpy(bz + 0x202, "HdrS", 4);
    store16(bz + 0x206, 0x20f);
    bz[0x211] = 1;
    store32(bz + 0x22c, 0x7fffffff);
    store32(bz + 0x238, 100);
    store64(bz + 0x258, 0x1000000);
    store32(bz + 0x260, 0x800000);
    memset(bz + SETUP_BYTES, 0x90, 4096);
}

static void bzimage_is_placed_by_the_boot_protocol(void **state) {
    (void)state;
    static u8 initrd[5000] = {1, 2, 3};
    make_bzimage();
    write_file(initrd_name, initrd, sizeof initrd);
    assert_true(load(bz, sizeof bz, initrd_name, "console=ttyS0", RAM_BYTES));
    unlink(initrd_name);
    assert_int_equal(cpu->eip, 0x100000);
    assert_int_equal(ram[0x100000], 0x90);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x10);
    assert_int_equal(cpu->seg[SEG_DS].selector, 0x18);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_false(cpu->eflags & F_IF);
    assert_int_equal(cpu->gpr[R_EBX] | cpu->gpr[R_EBP] | cpu->gpr[R_EDI], 0);
    const u8 *zero = ram + cpu->gpr[R_ESI];
    assert_string_equal((const char *)ram + load32(zero + 0x228), "console=ttyS0");
    assert_int_equal(zero[0x210], 0xff);
    u32 at = load32(zero + 0x218);
    assert_int_equal(load32(zero + 0x21c), sizeof initrd);
    assert_int_equal(at & 0xfff, 0);
    assert_true(at + 2 * 4096 >= RAM_BYTES);
    assert_memory_equal(ram + at, initrd, sizeof initrd);
    assert_true(zero[0x1e8] >= 3); /* e820: the last entry ends at the end of RAM */
    const u8 *last = zero + 0x2d0 + 20 * (zero[0x1e8] - 1u);
    assert_int_equal(load64(last) + load64(last + 8), RAM_BYTES);
    assert_int_equal(load32(last + 16), 1);
    mon_image_close(&image);
}

static void initrd_respects_the_kernels_limit(void **state) {
    (void)state;
    static u8 initrd[4096];
    make_bzimage();
    store32(bz + 0x22c, 0x01ffffff);
    write_file(initrd_name, initrd, sizeof initrd);
    assert_true(load(bz, sizeof bz, initrd_name, "", RAM_BYTES));
    assert_int_equal(load32(ram + cpu->gpr[R_ESI] + 0x218), 0x01fff000);
    mon_image_close(&image);
    store32(bz + 0x22c, 0x017fffff); /* nothing above the kernel */
    assert_false(load(bz, sizeof bz, initrd_name, "", RAM_BYTES));
    assert_non_null(strstr(err.text, "does not fit"));
    mon_image_close(&image);
    unlink(initrd_name);
}

static void bad_bzimages_are_refused(void **state) {
    (void)state;
    make_bzimage();
    refused(bz, 0x210, "truncated");
    refused(bz, SETUP_BYTES, "truncated");
    refused(bz, sizeof bz - 100, "truncated");
    bz[0x236] = 1;
    refused(bz, sizeof bz, "64-bit kernel");
    make_bzimage();
    store16(bz + 0x206, 0x201);
    refused(bz, sizeof bz, "older than 2.02");
    make_bzimage();
    bz[0x211] = 0;
    refused(bz, sizeof bz, "zImage");
    make_bzimage();
    store32(bz + 0x260, 0x10000000);
    refused(bz, sizeof bz, "MiB of RAM");
    store64(bz + 0x258, UINT64_MAX - 5);
    make_bzimage();
    char append[200];
    memset(append, 'x', sizeof append - 1);
    append[sizeof append - 1] = 0;
    assert_false(load(bz, sizeof bz, NULL, append, RAM_BYTES));
    assert_non_null(strstr(err.text, "command line"));
    mon_image_close(&image);
}

/* ---- Multiboot ---- */
#define FLAGS_AOUT (1u << 16)
static u8 mb[8192];
static void make_aout(u32 flags) {
    memset(mb, 0, sizeof mb);
    store32(mb + 64, 0x1badb002);
    store32(mb + 68, flags);
    store32(mb + 72, 0u - 0x1badb002 - flags);
    store32(mb + 76, 0x200000 + 64);
    store32(mb + 80, 0x200000);
    store32(mb + 84, 0x200000 + 4096);
    store32(mb + 88, 0x200000 + 6000);
    store32(mb + 92, 0x200123);
    mb[4095] = 0x77;
    mb[4096] = 0x88;
}

static void multiboot_by_addresses(void **state) {
    (void)state;
    static const char module[] = "module text";
    char list[128];
    make_aout(FLAGS_AOUT | 3);
    write_file(initrd_name, module, sizeof module);
    snprintf(list, sizeof list, "%s one two,%s", initrd_name, initrd_name);
    assert_true(load(mb, sizeof mb, list, "arg", RAM_BYTES));
    unlink(initrd_name);
    assert_int_equal(cpu->eip, 0x200123);
    assert_int_equal(cpu->gpr[R_EAX], 0x2badb002);
    assert_int_equal(ram[0x200fff], 0x77);
    assert_int_equal(ram[0x201000], 0); /* behind load_end: bss */
    const u8 *info = ram + cpu->gpr[R_EBX];
    char cmdline[64];
    snprintf(cmdline, sizeof cmdline, "%s arg", name);
    assert_string_equal((const char *)ram + load32(info + 16), cmdline);
    assert_int_equal(load32(info + 8), (RAM_BYTES >> 10) - 1024);
    assert_int_equal(load32(info + 20), 2);
    const u8 *mods = ram + load32(info + 24);
    assert_string_equal((const char *)ram + load32(mods), module);
    assert_int_equal(load32(mods + 4) - load32(mods), sizeof module);
    snprintf(cmdline, sizeof cmdline, "%s one two", initrd_name);
    assert_string_equal((const char *)ram + load32(mods + 8), cmdline);
    assert_int_equal(load32(mods + 16) & 0xfff, 0);
    assert_true(load32(info) & 0x48);
    assert_int_equal(load32(ram + load32(info + 48)), 20);
    mon_image_close(&image);
}

/* Zeros in the optional fields: everything behind the header is loaded, and nothing is cleared. */
static void multiboot_by_addresses_to_the_files_end(void **state) {
    (void)state;
    make_aout(FLAGS_AOUT);
    store32(mb + 80, 0x200040); /* nothing before the header */
    store32(mb + 84, 0);
    store32(mb + 88, 0);
    assert_true(load(mb, sizeof mb, NULL, NULL, RAM_BYTES));
    assert_int_equal(cpu->eip, 0x200123);
    assert_int_equal(load32(ram + 0x200040), 0x1badb002);
    assert_int_equal(ram[0x20003f], 0xcc);
    assert_int_equal(ram[0x200fff], 0x77);
    assert_int_equal(ram[0x201000], 0x88);
    assert_int_equal(ram[0x200000 + sizeof mb], 0xcc);
    mon_image_close(&image);
}

static void make_elf(Elf32_Phdr ph) {
    Elf32_Ehdr e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                    .e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_version = 1,
                    .e_entry = 0xc0300010,
                    .e_phoff = sizeof e,
                    .e_ehsize = sizeof e,
                    .e_phentsize = sizeof ph,
                    .e_phnum = 1};
    make_aout(0);
    memmove(mb + 1024, mb + 64, 12);
    memset(mb + 64, 0, 64);
    memcpy(mb, &e, sizeof e);
    memcpy(mb + sizeof e, &ph, sizeof ph);
}
static const Elf32_Phdr good_ph = {.p_type = PT_LOAD,
                                   .p_offset = 1024,
                                   .p_vaddr = 0xc0300000,
                                   .p_paddr = 0x300000,
                                   .p_filesz = 100,
                                   .p_memsz = 200};

static void multiboot_elf(void **state) {
    (void)state;
    make_elf(good_ph);
    assert_true(load(mb, sizeof mb, NULL, NULL, RAM_BYTES));
    assert_int_equal(cpu->eip, 0x300010);
    assert_int_equal(load32(ram + 0x300000), 0x1badb002);
    assert_int_equal(ram[0x300000 + 150], 0);
    assert_int_equal(ram[0x300000 + 200], 0xcc);
    mon_image_close(&image);
}

static void bad_multiboot_kernels_are_refused(void **state) {
    (void)state;
    refused("", 0, "empty");
    refused("hello", 5, "neither");
    make_aout(0);
    refused(mb, sizeof mb, "not an ELF file");
    make_aout(FLAGS_AOUT | 0x40);
    refused(mb, sizeof mb, "unknown features");
    make_aout(FLAGS_AOUT);
    refused(mb, 80, "truncated");
    store32(mb + 84, 0x200000 + 100000);
    refused(mb, sizeof mb, "truncated");
    make_aout(FLAGS_AOUT);
    store32(mb + 80, 0x200064); /* load address above the header */
    refused(mb, sizeof mb, "contradict");
    make_aout(FLAGS_AOUT);
    store32(mb + 88, 0xfffffff0);
    refused(mb, sizeof mb, "fit");
    Elf32_Phdr ph = good_ph;
    ph.p_paddr = 0xfffff000;
    make_elf(ph);
    refused(mb, sizeof mb, "fit");
    ph = good_ph;
    ph.p_filesz = 300;
    make_elf(ph);
    refused(mb, sizeof mb, "malformed");
    ph = good_ph;
    ph.p_offset = 0xfffffff0;
    make_elf(ph);
    refused(mb, sizeof mb, "truncated");
    ph.p_type = PT_NOTE;
    make_elf(ph);
    refused(mb, sizeof mb, "nothing");
    make_elf(good_ph);
    mb[EI_CLASS] = ELFCLASS64;
    refused(mb, sizeof mb, "64-bit ELF");
    make_elf(good_ph);
    mb[1024] = 0;
    refused(mb, sizeof mb, "without a Multiboot header");
    make_elf(good_ph);
    store16(mb + 18, EM_ARM);
    refused(mb, sizeof mb, "another machine");
}

static void random_damage_never_crashes_the_loader(void **state) {
    (void)state;
    srand(7);
    for (unsigned round = 0; round < 400; round++) {
        u8 *data = round & 1 ? bz : mb;
        size_t bytes = round & 1 ? sizeof bz : sizeof mb;
        if (round & 1)
            make_bzimage();
        else if (round & 2)
            make_elf(good_ph);
        else
            make_aout(FLAGS_AOUT);
        for (unsigned i = 0; i < 3; i++) {
            u32 at = round & 1 ? 0x1f1u + (u32)rand() % 0x78 : (u32)rand() % 128;
            data[at] = (u8)rand();
        }
        load(data, (size_t)rand() % 4 ? bytes : (size_t)rand() % bytes, NULL, "x", 4u << 20);
        mon_image_close(&image);
    }
}

static void missing_files_are_named(void **state) {
    (void)state;
    assert_false(mon_image_open(&image, "/nonexistent/k", NULL, NULL, &err));
    assert_string_equal(err.text,
                        "could not load kernel '/nonexistent/k': No such file or directory");
    assert_false(mon_image_open(&image, "/tmp", NULL, NULL, &err));
    make_bzimage();
    assert_false(load(bz, sizeof bz, "/nonexistent/i", NULL, RAM_BYTES));
    assert_non_null(strstr(err.text, "could not load initrd '/nonexistent/i'"));
}

static int set_up(void **state) {
    (void)state;
    ram = malloc(RAM_BYTES);
    cpu = cpu_create();
    return ram && cpu ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bzimage_is_placed_by_the_boot_protocol),
        cmocka_unit_test(initrd_respects_the_kernels_limit),
        cmocka_unit_test(bad_bzimages_are_refused),
        cmocka_unit_test(multiboot_by_addresses),
        cmocka_unit_test(multiboot_by_addresses_to_the_files_end),
        cmocka_unit_test(multiboot_elf),
        cmocka_unit_test(bad_multiboot_kernels_are_refused),
        cmocka_unit_test(random_damage_never_crashes_the_loader),
        cmocka_unit_test(missing_files_are_named),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
