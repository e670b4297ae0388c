/*
 * load_multiboot.c: Multiboot 1 kernels, as ELF32 files or by the header's own address fields, with
 * modules, command lines and a memory map.
 *
 * Source: Multiboot Specification 0.6.96, sections 3.1 "OS image format", 3.2 "Machine state", 3.3
 * "Boot information format".
 */
#include "monitor/load.h"

#include <elf.h>
#include <stdio.h>

#define MB_HEADER_MAGIC 0x1badb002u
#define MB_LOADER_MAGIC 0x2badb002u
#define MB_SEARCH_BYTES 8192u
enum {
    MB_PAGE_ALIGN = 1 << 0,
    MB_MEMORY_INFO = 1 << 1,
    MB_VIDEO_MODE = 1 << 2,
    MB_AOUT_KLUDGE = 1 << 16
};
enum {
    INFO_MEMORY = 1 << 0,
    INFO_BOOTDEV = 1 << 1,
    INFO_CMDLINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MMAP = 1 << 6,
    INFO_LOADER = 1 << 9
};
/* Offsets in the boot information. */
enum {
    I_FLAGS = 0,
    I_MEM_LOWER = 4,
    I_MEM_UPPER = 8,
    I_BOOT_DEVICE = 12,
    I_CMDLINE = 16,
    I_MODS_COUNT = 20,
    I_MODS_ADDR = 24,
    I_MMAP_LENGTH = 44,
    I_MMAP_ADDR = 48,
    I_LOADER_NAME = 64,
    I_BYTES = 120
};
#define INFO_ADDRESS 0x9500u
#define MODS_ADDRESS 0x9600u /* 16 bytes per module */
#define MMAP_ADDRESS 0x9a00u /* 24 bytes per entry */
#define NAME_ADDRESS 0x9b00u
#define STRING_ADDRESS 0x9c00u
#define STRING_END 0x10000u
#define BOOT_GDT 0x1000u

struct mb_header {
    u32 flags, header_addr, load_addr, load_end, bss_end, entry;
};

static bool find_header(const struct mon_file *f, u32 *offset) {
    u64 end = MIN(f->bytes, (u64)MB_SEARCH_BYTES);
    for (u32 at = 0; at + 12 <= end; at += 4) {
        if (load32(f->data + at) != MB_HEADER_MAGIC)
            continue;
        if (MB_HEADER_MAGIC + load32(f->data + at + 4) + load32(f->data + at + 8) != 0)
            continue;
        *offset = at;
        return true;
    }
    return false;
}

static bool is_elf(const struct mon_file *f) {
    return f->bytes >= EI_NIDENT + 4 && !memcmp(f->data, ELFMAG, SELFMAG);
}

/* Why an ELF file cannot be started, or true. */
static bool check_elf(const struct mon_file *f, struct mon_error *err) {
    if (f->data[EI_CLASS] == ELFCLASS64)
        return mon_fail(err, "it is a 64-bit ELF kernel; the guest is a 32-bit machine");
    if (f->bytes < sizeof(Elf32_Ehdr))
        return mon_fail(err, "the file is truncated (%llu bytes)", (unsigned long long)f->bytes);
    Elf32_Ehdr e;
    memcpy(&e, f->data, sizeof e);
    if (f->data[EI_CLASS] != ELFCLASS32 || f->data[EI_DATA] != ELFDATA2LSB)
        return mon_fail(err, "it is an ELF file of an unknown class");
    if (e.e_machine != EM_386)
        return mon_fail(err, "it is an ELF file for another machine (e_machine %u)", e.e_machine);
    if (e.e_type != ET_EXEC && e.e_type != ET_DYN)
        return mon_fail(err, "it is an ELF file but not an executable");
    if (!e.e_phnum || e.e_phentsize < sizeof(Elf32_Phdr) ||
        (u64)e.e_phoff + (u64)e.e_phnum * e.e_phentsize > f->bytes)
        return mon_fail(err, "the file is truncated: its program headers are missing");
    return true;
}

bool mon_multiboot_check(const struct mon_file *f, u32 *header_offset, struct mon_error *err) {
    if (f->bytes == 0)
        return mon_fail(err, "the file is empty");
    if (is_elf(f) && !check_elf(f, err))
        return false;
    if (!find_header(f, header_offset)) {
        if (is_elf(f))
            return mon_fail(err, "it is an ELF file without a Multiboot header");
        return mon_fail(err, "neither a Linux bzImage nor a Multiboot kernel");
    }
    u32 flags = load32(f->data + *header_offset + 4);
    if (flags & 0xffff & ~(u32)(MB_PAGE_ALIGN | MB_MEMORY_INFO | MB_VIDEO_MODE))
        return mon_fail(err, "its Multiboot header demands unknown features (flags %#x)", flags);
    if ((flags & MB_AOUT_KLUDGE) && *header_offset + 32 > f->bytes)
        return mon_fail(err, "the file is truncated inside its Multiboot header");
    if (!(flags & MB_AOUT_KLUDGE) && !is_elf(f))
        return mon_fail(err, "its Multiboot header has no addresses and it is not an ELF file");
    return true;
}

/* True when [addr, addr+bytes) is RAM that a kernel may be loaded to. */
static bool fits(u64 addr, u64 bytes, u64 ram_bytes) {
    u64 end = addr + bytes;
    if (end > ram_bytes)
        return false;
    return end <= 0xa0000 || addr >= HIGH_RAM_BASE;
}

static bool load_by_addresses(const struct mon_image *image, u8 *ram, u64 ram_bytes, u64 *end,
                              u32 *entry, struct mon_error *err) {
    const struct mon_file *f = &image->kernel;
    const u8 *p = f->data + image->header_offset;
    struct mb_header h = {load32(p + 4),  load32(p + 12), load32(p + 16),
                          load32(p + 20), load32(p + 24), load32(p + 28)};
    u64 skip = (u64)h.header_addr - h.load_addr;
    if (h.header_addr < h.load_addr || skip > image->header_offset)
        return mon_fail(err, "its Multiboot header's addresses contradict each other");
    u64 offset = image->header_offset - skip;
    u64 bytes = f->bytes - offset;
    if (h.load_end) {
        if (h.load_end < h.load_addr)
            return mon_fail(err, "its Multiboot header's addresses contradict each other");
        if (h.load_end - h.load_addr > bytes)
            return mon_fail(err, "the file is truncated: its header announces %u bytes",
                            h.load_end - h.load_addr);
        bytes = h.load_end - h.load_addr;
    }
    u64 span = bytes;
    if (h.bss_end) {
        if ((u64)h.bss_end < h.load_addr + bytes)
            return mon_fail(err, "its Multiboot header's addresses contradict each other");
        span = h.bss_end - h.load_addr;
    }
    if (!fits(h.load_addr, span, ram_bytes))
        return mon_fail(err, "its load address %#x does not fit into RAM (see -m)", h.load_addr);
    memcpy(ram + h.load_addr, f->data + offset, bytes);
    memset(ram + h.load_addr + bytes, 0, span - bytes);
    *end = h.load_addr + span;
    *entry = h.entry;
    return true;
}

static bool load_elf(const struct mon_file *f, u8 *ram, u64 ram_bytes, u64 *end, u32 *entry,
                     struct mon_error *err) {
    Elf32_Ehdr e;
    memcpy(&e, f->data, sizeof e);
    *end = 0;
    *entry = e.e_entry;
    for (unsigned i = 0; i < e.e_phnum; i++) {
        Elf32_Phdr p;
        memcpy(&p, f->data + e.e_phoff + (u64)i * e.e_phentsize, sizeof p);
        if (p.p_type != PT_LOAD || !p.p_memsz)
            continue;
        if (p.p_filesz > p.p_memsz)
            return mon_fail(err, "its ELF segment %u is malformed", i);
        if ((u64)p.p_offset + p.p_filesz > f->bytes)
            return mon_fail(err, "the file is truncated inside ELF segment %u", i);
        if (!fits(p.p_paddr, p.p_memsz, ram_bytes))
            return mon_fail(err, "its ELF segment at %#x does not fit into RAM (see -m)",
                            p.p_paddr);
        memcpy(ram + p.p_paddr, f->data + p.p_offset, p.p_filesz);
        memset(ram + p.p_paddr + p.p_filesz, 0, p.p_memsz - p.p_filesz);
        *end = MAX(*end, (u64)p.p_paddr + p.p_memsz);
        /* Entry points are virtual in some kernels: translate by the segment that holds it. */
        if (e.e_entry >= p.p_vaddr && e.e_entry - p.p_vaddr < p.p_memsz)
            *entry = e.e_entry - p.p_vaddr + p.p_paddr;
    }
    if (!*end)
        return mon_fail(err, "its ELF program headers load nothing");
    return true;
}

/* Hands out space for strings in low memory. */
struct strings {
    u8 *ram;
    u32 next;
};
static u32 put_string(struct strings *s, const char *a, const char *b) {
    size_t chars = strlen(a) + (b ? strlen(b) + 1 : 0) + 1;
    if (chars > STRING_END - s->next)
        return 0;
    u32 at = s->next;
    snprintf((char *)s->ram + at, chars, "%s%s%s", a, b ? " " : "", b ? b : "");
    s->next += (u32)chars;
    return at;
}

static bool load_modules(const struct mon_image *image, u8 *ram, u64 ram_bytes, u64 kernel_end,
                         struct strings *strings, struct mon_error *err) {
    u64 at = ALIGN_UP(MAX(kernel_end, (u64)HIGH_RAM_BASE), PAGE_BYTES);
    for (unsigned i = 0; i < image->modules; i++) {
        const struct mon_module *m = &image->module[i];
        if (!fits(at, m->file.bytes, ram_bytes))
            return mon_fail(err, "the module '%s' does not fit into %llu MiB of RAM", m->cmdline,
                            (unsigned long long)(ram_bytes >> 20));
        memcpy(ram + at, m->file.data, m->file.bytes);
        u8 *entry = ram + MODS_ADDRESS + i * 16;
        store32(entry, (u32)at);
        store32(entry + 4, (u32)(at + m->file.bytes));
        store32(entry + 8, put_string(strings, m->cmdline, NULL));
        store32(entry + 12, 0);
        if (!load32(entry + 8))
            return mon_fail(err, "the modules' command lines are too long");
        at = ALIGN_UP(at + m->file.bytes, PAGE_BYTES);
    }
    return true;
}

static void place_info(u8 *ram, u64 ram_bytes, unsigned modules, u32 cmdline) {
    u8 *info = ram + INFO_ADDRESS;
    memset(info, 0, I_BYTES);
    store32(info + I_FLAGS,
            INFO_MEMORY | INFO_BOOTDEV | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER);
    store32(info + I_MEM_LOWER, LOW_RAM_END >> 10);
    store32(info + I_MEM_UPPER, (u32)((ram_bytes - HIGH_RAM_BASE) >> 10));
    store32(info + I_BOOT_DEVICE, 0x8000ffff); /* first disk, no partition */
    store32(info + I_CMDLINE, cmdline);
    store32(info + I_MODS_COUNT, modules);
    store32(info + I_MODS_ADDR, MODS_ADDRESS);
    struct mon_e820 map[8];
    unsigned n = mon_memory_map(ram_bytes, map);
    store32(info + I_MMAP_LENGTH, n * 24);
    store32(info + I_MMAP_ADDR, MMAP_ADDRESS);
    for (unsigned i = 0; i < n; i++) {
        u8 *entry = ram + MMAP_ADDRESS + i * 24;
        store32(entry, 20); /* size of the rest */
        store64(entry + 4, map[i].base);
        store64(entry + 12, map[i].bytes);
        store32(entry + 20, map[i].type);
    }
    strcpy((char *)ram + NAME_ADDRESS, "ringfold");
    store32(info + I_LOADER_NAME, NAME_ADDRESS);
}

bool mon_multiboot_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                        struct mon_error *err) {
    u64 end = 0;
    u32 entry = 0;
    u32 flags = load32(image->kernel.data + image->header_offset + 4);
    bool good = (flags & MB_AOUT_KLUDGE)
                    ? load_by_addresses(image, ram, ram_bytes, &end, &entry, err)
                    : load_elf(&image->kernel, ram, ram_bytes, &end, &entry, err);
    if (!good)
        return false;
    struct strings strings = {ram, STRING_ADDRESS};
    const char *name = image->kernel.name;
    u32 cmdline = put_string(&strings, name, image->append[0] ? image->append : NULL);
    if (!cmdline)
        return mon_fail(err, "the command line (-append) is too long");
    if (!load_modules(image, ram, ram_bytes, end, &strings, err))
        return false;
    place_info(ram, ram_bytes, image->modules, cmdline);

    memset(ram + BOOT_GDT, 0, 24);
    store64(ram + BOOT_GDT + 8, 0x00cf9a000000ffffull);
    store64(ram + BOOT_GDT + 16, 0x00cf92000000ffffull);
    cpu->gdtr = (struct table_register){.base = BOOT_GDT, .limit = 23};
    mon_flat_segments(cpu, 8, 16);
    for (unsigned r = 0; r < 8; r++)
        cpu->gpr[r] = 0;
    cpu->gpr[R_EAX] = MB_LOADER_MAGIC;
    cpu->gpr[R_EBX] = INFO_ADDRESS;
    cpu->gpr[R_ESP] = 0x9000;
    cpu->eip = entry;
    return true;
}
