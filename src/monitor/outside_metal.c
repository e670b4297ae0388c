/*
 * outside_metal.c: the world around the machine when there is nothing but the bare machine: the
 * boot loader's modules are the files, the TSC is the clock, the console is all there is to write
 * to.
 */
#include "metal/metal.h"
#include "monitor/load.h"
#include "monitor/outside.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#define NS_PER_S 1000000000ull

const struct mon_outside mon_outside = {.name = "metal", .rings = true};

void mon_print(const char *fmt, ...) {
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_printf("%s", text);
}

/* ---- Time ---- */

u64 mon_host_ns(void) {
    return (u64)((unsigned __int128)__rdtsc() * NS_PER_S / metal_tsc_hz());
}

i64 mon_epoch_s(void) {
    return metal_epoch_s();
}

bool mon_local_epoch_s(i64 *epoch_s) {
    (void)epoch_s;
    return false;
}

/* Ring 0 has nothing else to rely on: that the TSC counts evenly is taken as given. */
void mon_host_tsc(struct mon_host_cpu *out) {
    out->tsc_invariant = true;
    out->tsc_hz = metal_tsc_hz();
}

/* ---- Random numbers: the processor's, if it has them ---- */

#define F1_ECX_RDRAND BIT(30)
#define RDRAND_TRIES 10 /* SDM volume 1, section 7.3.17 "Random Number Generator Instructions" */

bool mon_host_random(u64 *value) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & F1_ECX_RDRAND))
        return false;
    for (int i = 0; i < RDRAND_TRIES; i++) {
        bool good;
        __asm__ volatile("rdrand %0" : "=r"(*value), "=@ccc"(good));
        if (good)
            return true;
    }
    return false;
}

/* ---- Modules as files ---- */

/* boot.c calls a module without a command line "module N". */
static bool is_number(const char *name, unsigned *index) {
    if (strncmp(name, "module", 6))
        return false;
    const char *digits = name + 6 + (name[6] == ' ');
    char *end;
    *index = (unsigned)strtoul(digits, &end, 10);
    return end != digits && !*end;
}

/* The first word of a module's command line is its file's name. */
static size_t name_chars(const struct metal_module *m) {
    return strcspn(m->name, " ");
}

static const char *base_name(const char *name, size_t chars) {
    const char *base = name;
    for (size_t i = 0; i < chars; i++)
        if (name[i] == '/')
            base = name + i + 1;
    return base;
}

static bool same_name(const struct metal_module *m, const char *name, bool whole) {
    size_t chars = name_chars(m);
    const char *base = whole ? m->name : base_name(m->name, chars);
    chars -= (size_t)(base - m->name);
    return strlen(name) == chars && !strncmp(base, name, chars);
}

static const struct metal_module *find_module(const char *name) {
    const struct metal_boot *boot = metal_boot();
    for (unsigned whole = 2; whole--;)
        for (unsigned i = 0; i < boot->modules; i++)
            if (same_name(&boot->module[i], name, whole))
                return &boot->module[i];
    unsigned index;
    return is_number(name, &index) && index < boot->modules ? &boot->module[index] : NULL;
}

bool mon_file_read(struct mon_file *f, const char *name, struct mon_error *err) {
    *f = (struct mon_file){.name = name};
    const struct metal_module *m = find_module(name);
    if (!m)
        return mon_fail(err, "the boot loader brought no module of that name (%u in all)",
                        metal_boot()->modules);
    f->data = m->data;
    f->bytes = m->bytes;
    return true;
}

/* Modules stay where the boot loader put them. */
void mon_file_free(struct mon_file *f) {
    f->data = NULL;
    f->bytes = 0;
}

struct mon_output *mon_output_open(const char *path, struct mon_error *err) {
    (void)path;
    mon_fail(err, "there are no files to write to");
    return NULL;
}
void mon_output_write(struct mon_output *out, const u8 *data, size_t bytes) {
    (void)out, (void)data, (void)bytes;
}
void mon_output_close(struct mon_output *out) {
    (void)out;
}

/* ---- Defaults: module 0 is the kernel, the others go with it ---- */

/* How -kernel would name a module: without its arguments; "module N" is taken whole. */
static char *option_name(const struct metal_module *m) {
    unsigned index;
    return is_number(m->name, &index) ? strdup(m->name) : strndup(m->name, name_chars(m));
}

/* All modules but the kernel's, in -initrd's grammar: "name args,name args". In it a blank ends the
 * name, so that a module without one is "moduleN". */
static char *join_modules(const struct metal_module *kernel) {
    const struct metal_boot *boot = metal_boot();
    size_t room = 1;
    for (unsigned i = 0; i < boot->modules; i++)
        room += strlen(boot->module[i].name) + 1;
    char *list = malloc(room), *p = list;
    if (!list)
        return NULL;
    *p = 0;
    for (unsigned i = 0; i < boot->modules; i++) {
        const struct metal_module *m = &boot->module[i];
        unsigned index;
        if (m == kernel)
            continue;
        const char *comma = p == list ? "" : ",";
        size_t left = room - (size_t)(p - list);
        p += is_number(m->name, &index) ? snprintf(p, left, "%smodule%u", comma, index)
                                        : snprintf(p, left, "%s%s", comma, m->name);
    }
    return list;
}

/* A bzImage takes one initrd: the first of the other modules. */
static char *first_other(const struct metal_module *kernel) {
    const struct metal_boot *boot = metal_boot();
    unsigned i = kernel == &boot->module[0];
    if (boot->modules > i + 1 && kernel)
        log_warn("the modules after '%s' are not used", boot->module[i].name);
    return option_name(&boot->module[i]);
}

/* What is allocated here lasts as long as the machine is on. */
bool mon_outside_defaults(struct mon_options *o, struct mon_error *err) {
    const struct metal_boot *boot = metal_boot();
    o->nographic = true;
    if (!boot->modules)
        return mon_fail(err, "no kernel: the boot loader (%s) brought no modules", boot->loader);
    if (!o->kernel)
        o->kernel = option_name(&boot->module[0]);
    if (!o->kernel)
        return mon_fail(err, "out of memory");
    const struct metal_module *kernel = find_module(o->kernel);
    if (o->initrd || !kernel || boot->modules == 1)
        return true;
    struct mon_file f = {.name = o->kernel, .data = kernel->data, .bytes = kernel->bytes};
    o->initrd = mon_bzimage_recognise(&f) ? first_other(kernel) : join_modules(kernel);
    return o->initrd || mon_fail(err, "out of memory");
}
