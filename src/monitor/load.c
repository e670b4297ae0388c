/*
 * load.c: the guest's image: which files it is made of, what kind of kernel the first one is, and
 * the machine's memory map that both boot protocols hand to it.
 */
#include "monitor/load.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool mon_fail(struct mon_error *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return false;
}

unsigned mon_memory_map(u64 ram_bytes, struct mon_e820 out[8]) {
    unsigned n = 0;
    u64 low = MIN(ram_bytes, (u64)LOW_RAM_END);
    out[n++] = (struct mon_e820){0, low, E820_RAM};
    out[n++] = (struct mon_e820){LOW_RAM_END, 0xa0000 - LOW_RAM_END, E820_RESERVED}; /* EBDA */
    out[n++] = (struct mon_e820){0xe0000, 0x20000, E820_RESERVED}; /* ACPI tables */
    if (ram_bytes > HIGH_RAM_BASE)
        out[n++] = (struct mon_e820){HIGH_RAM_BASE, ram_bytes - HIGH_RAM_BASE, E820_RAM};
    return n;
}

void mon_flat_segments(struct cpu *cpu, u16 code, u16 data) {
    const u32 common = ATTR_P | ATTR_S | ATTR_A | ATTR_W | ATTR_DB | ATTR_G;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = (struct segment){.selector = data, .attr = common, .limit = 0xffffffffu};
    cpu->seg[SEG_CS].selector = code;
    cpu->seg[SEG_CS].attr = common | ATTR_CODE;
    cpu->cr0 = CR0_PE | CR0_ET;
    cpu->eflags = F_FIXED;
    cpu->cpl = 0;
}

/* Splits Multiboot's "-initrd 'file args,file2 args'"; the bzImage's initrd is one file name. */
static bool open_modules(struct mon_image *image, const char *list, struct mon_error *err) {
    struct mon_error why;
    for (const char *p = list; *p;) {
        size_t chars = strcspn(p, ",");
        const char *start = p;
        p += chars + (p[chars] == ',');
        while (chars && *start == ' ')
            start++, chars--;
        if (!chars)
            continue;
        if (image->modules == MON_MAX_MODULES)
            return mon_fail(err, "-initrd: more than %u modules", MON_MAX_MODULES);
        struct mon_module *m = &image->module[image->modules];
        m->cmdline = strndup(start, chars);
        char *name = strndup(start, strcspn(start, " ,"));
        bool good = m->cmdline && name && mon_file_read(&m->file, name, &why);
        if (!good)
            mon_fail(err, "could not load module '%s': %s", name ? name : "",
                     name ? why.text : "out of memory");
        free(name);
        image->modules++; /* also on failure, so that closing frees it */
        m->file.name = m->cmdline;
        if (!good)
            return false;
    }
    return true;
}

static bool open_initrd(struct mon_image *image, const char *initrd, struct mon_error *err) {
    struct mon_error why;
    if (image->kind == MON_KERNEL_MULTIBOOT)
        return open_modules(image, initrd, err);
    if (!mon_file_read(&image->module[0].file, initrd, &why))
        return mon_fail(err, "could not load initrd '%s': %s", initrd, why.text);
    image->modules = 1;
    return true;
}

bool mon_image_open(struct mon_image *image, const char *kernel, const char *initrd,
                    const char *append, struct mon_error *err) {
    memset(image, 0, sizeof *image);
    image->append = append ? append : "";
    struct mon_error why;
    bool good = mon_file_read(&image->kernel, kernel, &why);
    if (good) {
        if (mon_bzimage_recognise(&image->kernel)) {
            image->kind = MON_KERNEL_BZIMAGE;
            good = mon_bzimage_check(&image->kernel, &why);
        } else {
            image->kind = MON_KERNEL_MULTIBOOT;
            good = mon_multiboot_check(&image->kernel, &image->header_offset, &why);
        }
    }
    if (!good) {
        mon_image_close(image);
        return mon_fail(err, "could not load kernel '%s': %s", kernel, why.text);
    }
    if (initrd && !open_initrd(image, initrd, err)) {
        mon_image_close(image);
        return false;
    }
    return true;
}

void mon_image_close(struct mon_image *image) {
    mon_file_free(&image->kernel);
    for (unsigned i = 0; i < image->modules; i++) {
        mon_file_free(&image->module[i].file);
        free(image->module[i].cmdline);
    }
    image->modules = 0;
}

/* What a BIOS would have left in its data area: EBDA segment and size of low memory. */
static void place_bios_data(u8 *ram) {
    store16(ram + 0x40e, LOW_RAM_END >> 4);
    store16(ram + 0x413, LOW_RAM_END >> 10);
    store16(ram + 0x400, 0x3f8);  /* COM1 */
    store16(ram + 0x410, 1 << 9); /* one serial port */
}

bool mon_image_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                    struct mon_error *err) {
    place_bios_data(ram);
    struct mon_error why;
    bool good = image->kind == MON_KERNEL_BZIMAGE
                    ? mon_bzimage_load(image, ram, ram_bytes, cpu, &why)
                    : mon_multiboot_load(image, ram, ram_bytes, cpu, &why);
    return good || mon_fail(err, "could not load kernel '%s': %s", image->kernel.name, why.text);
}
