/*
 * load_bzimage.c: Linux's 32-bit boot protocol, 2.02 and later: the protected-mode part at 1 MiB,
 * the zero page, the command line, the initrd as high as the kernel allows.
 *
 * Source: Linux, Documentation/x86/boot.rst, sections "The Real-Mode Kernel Header", "32-bit Boot
 * Protocol", and zero-page.rst.
 */
#include "monitor/load.h"

/* Offsets in the file's first sectors and, alike, in the zero page. */
enum {
    H_SETUP_SECTS = 0x1f1,
    H_SYSSIZE = 0x1f4,
    H_VID_MODE = 0x1fa,
    H_BOOT_FLAG = 0x1fe,
    H_JUMP = 0x200,
    H_MAGIC = 0x202,
    H_VERSION = 0x206,
    H_TYPE_OF_LOADER = 0x210,
    H_LOADFLAGS = 0x211,
    H_CODE32_START = 0x214,
    H_RAMDISK_IMAGE = 0x218,
    H_RAMDISK_SIZE = 0x21c,
    H_HEAP_END_PTR = 0x224,
    H_CMD_LINE_PTR = 0x228,
    H_INITRD_ADDR_MAX = 0x22c,
    H_KERNEL_ALIGNMENT = 0x230,
    H_RELOCATABLE = 0x234,
    H_XLOADFLAGS = 0x236,
    H_CMDLINE_SIZE = 0x238,
    H_PREF_ADDRESS = 0x258,
    H_INIT_SIZE = 0x260,
    H_END = 0x268,
    /* zero page only */
    Z_ALT_MEM_K = 0x1e0,
    Z_EXT_MEM_K = 0x002,
    Z_E820_ENTRIES = 0x1e8,
    Z_E820_TABLE = 0x2d0
};
enum { LOADFLAG_HIGH = 1, LOADFLAG_USE_HEAP = 0x80, XLF_KERNEL_64 = 1 };

/* Fixed places in low memory. */
#define BOOT_GDT 0x1000u
#define BOOT_STACK 0x9000u
#define ZERO_PAGE 0x10000u
#define CMDLINE 0x20000u
#define CMDLINE_MAX_BYTES 0x10000u
#define LOAD_ADDRESS 0x100000u
#define BOOT_CS 0x10
#define BOOT_DS 0x18

struct header {
    u16 version;
    u32 setup_bytes; /* boot sector and set-up code */
    u32 kernel_bytes;
    u32 initrd_max;  /* highest address an initrd byte may have */
    u32 cmdline_max; /* without the NUL */
    u64 needs_bytes; /* RAM the kernel needs to unpack itself */
};

bool mon_bzimage_recognise(const struct mon_file *f) {
    return f->bytes >= H_MAGIC + 4 && load16(f->data + H_BOOT_FLAG) == 0xaa55 &&
           !memcmp(f->data + H_MAGIC, "HdrS", 4);
}

static void parse(const struct mon_file *f, struct header *h) {
    const u8 *d = f->data;
    h->version = load16(d + H_VERSION);
    unsigned sects = d[H_SETUP_SECTS] ? d[H_SETUP_SECTS] : 4;
    h->setup_bytes = (sects + 1) * 512;
    h->kernel_bytes = (u32)(f->bytes - h->setup_bytes);
    h->initrd_max = h->version >= 0x203 ? load32(d + H_INITRD_ADDR_MAX) : 0x37ffffff;
    h->cmdline_max = h->version >= 0x206 ? load32(d + H_CMDLINE_SIZE) : 255;
    h->needs_bytes = (u64)LOAD_ADDRESS + h->kernel_bytes;
    if (h->version >= 0x20a) {
        u64 at = load64(d + H_PREF_ADDRESS);
        h->needs_bytes = MAX(h->needs_bytes, at + load32(d + H_INIT_SIZE));
    }
}

bool mon_bzimage_check(const struct mon_file *f, struct mon_error *err) {
    if (f->bytes < H_END)
        return mon_fail(err, "the file is truncated (%llu bytes)", (unsigned long long)f->bytes);
    const u8 *d = f->data;
    struct header h;
    u16 version = load16(d + H_VERSION);
    if (version < 0x202)
        return mon_fail(err, "boot protocol %u.%02u is older than 2.02", version >> 8,
                        version & 0xff);
    if (!(d[H_LOADFLAGS] & LOADFLAG_HIGH))
        return mon_fail(err, "zImage kernels (loaded low) are not supported");
    if (version >= 0x20c && (load16(d + H_XLOADFLAGS) & XLF_KERNEL_64))
        return mon_fail(err, "it is a 64-bit kernel; the guest is a 32-bit machine");
    unsigned sects = d[H_SETUP_SECTS] ? d[H_SETUP_SECTS] : 4;
    if (f->bytes <= (sects + 1) * 512)
        return mon_fail(err, "the file is truncated (%llu bytes)", (unsigned long long)f->bytes);
    parse(f, &h);
    /* syssize counts 16-byte paragraphs of the protected-mode part. */
    u64 wanted = (u64)load32(d + H_SYSSIZE) * 16;
    if (wanted > (u64)h.kernel_bytes + 15)
        return mon_fail(err, "the file is truncated: %llu bytes, its header announces %llu",
                        (unsigned long long)f->bytes, (unsigned long long)(h.setup_bytes + wanted));
    return true;
}

static bool place_initrd(const struct mon_image *image, const struct header *h, u8 *ram,
                         u64 ram_bytes, u8 *zero, struct mon_error *err) {
    const struct mon_file *f = &image->module[0].file;
    u64 end = MIN((u64)h->initrd_max + 1, ram_bytes);
    u64 start = f->bytes < end ? (end - f->bytes) & ~(u64)PAGE_OFFSET_MASK : 0;
    u64 floor = MIN(ALIGN_UP(h->needs_bytes, PAGE_BYTES), end);
    if (start < floor)
        return mon_fail(err, "the initrd '%s' (%llu KiB) does not fit into %llu MiB of RAM",
                        f->name, (unsigned long long)(f->bytes >> 10),
                        (unsigned long long)(ram_bytes >> 20));
    memcpy(ram + start, f->data, f->bytes);
    store32(zero + H_RAMDISK_IMAGE, (u32)start);
    store32(zero + H_RAMDISK_SIZE, (u32)f->bytes);
    return true;
}

static void place_memory_map(u64 ram_bytes, u8 *zero) {
    struct mon_e820 map[8];
    unsigned n = mon_memory_map(ram_bytes, map);
    zero[Z_E820_ENTRIES] = (u8)n;
    for (unsigned i = 0; i < n; i++) {
        u8 *entry = zero + Z_E820_TABLE + i * 20;
        store64(entry, map[i].base);
        store64(entry + 8, map[i].bytes);
        store32(entry + 16, map[i].type);
    }
    u64 high_k = (ram_bytes - HIGH_RAM_BASE) >> 10;
    store32(zero + Z_ALT_MEM_K, (u32)high_k);
    store16(zero + Z_EXT_MEM_K, (u16)MIN(high_k, 0xfc00));
}

/* The segments the protocol demands, also as descriptors: the kernel may reload them. */
static void enter(struct cpu *cpu, u8 *ram) {
    memset(ram + BOOT_GDT, 0, 32);
    store64(ram + BOOT_GDT + BOOT_CS, 0x00cf9a000000ffffull);
    store64(ram + BOOT_GDT + BOOT_DS, 0x00cf92000000ffffull);
    cpu->gdtr = (struct table_register){.base = BOOT_GDT, .limit = 31};
    cpu->idtr = (struct table_register){0};
    mon_flat_segments(cpu, BOOT_CS, BOOT_DS);
    for (unsigned r = 0; r < 8; r++)
        cpu->gpr[r] = 0;
    cpu->gpr[R_ESP] = BOOT_STACK;
    cpu->gpr[R_ESI] = ZERO_PAGE;
    cpu->eip = LOAD_ADDRESS;
}

bool mon_bzimage_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                      struct mon_error *err) {
    const struct mon_file *f = &image->kernel;
    struct header h;
    parse(f, &h);
    if (h.needs_bytes > ram_bytes)
        return mon_fail(err, "it needs at least %llu MiB of RAM, the machine has %llu (see -m)",
                        (unsigned long long)((h.needs_bytes + 0xfffff) >> 20),
                        (unsigned long long)(ram_bytes >> 20));
    size_t cmdline_chars = strlen(image->append);
    u64 limit = MIN(h.cmdline_max, CMDLINE_MAX_BYTES - 1);
    if (cmdline_chars > limit)
        return mon_fail(err, "the command line (-append) has %zu characters, the kernel takes %llu",
                        cmdline_chars, (unsigned long long)limit);

    u8 *zero = ram + ZERO_PAGE;
    memset(zero, 0, PAGE_BYTES);
    /* The header's own length is given by the jump that skips it. */
    u32 header_end = MIN(0x202u + f->data[H_JUMP + 1], (u32)Z_E820_TABLE);
    header_end = MIN(header_end, h.setup_bytes);
    memcpy(zero + H_SETUP_SECTS, f->data + H_SETUP_SECTS, header_end - H_SETUP_SECTS);
    zero[H_TYPE_OF_LOADER] = 0xff; /* no assigned number */
    zero[H_LOADFLAGS] |= LOADFLAG_USE_HEAP;
    store16(zero + H_HEAP_END_PTR, 0xe000);
    store16(zero + H_VID_MODE, 0xffff);
    store32(zero + H_CODE32_START, LOAD_ADDRESS);
    store32(zero + H_CMD_LINE_PTR, CMDLINE);
    memcpy(ram + CMDLINE, image->append, cmdline_chars + 1);
    store32(zero + H_RAMDISK_IMAGE, 0);
    store32(zero + H_RAMDISK_SIZE, 0);
    if (image->modules && !place_initrd(image, &h, ram, ram_bytes, zero, err))
        return false;
    place_memory_map(ram_bytes, zero);
    memcpy(ram + LOAD_ADDRESS, f->data + h.setup_bytes, h.kernel_bytes);
    enter(cpu, ram);
    return true;
}
