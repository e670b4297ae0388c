/*
 * perfmap_hosted.c: -perfmap and -jitdump: tells Linux `perf` what each piece of translated code
 * is. Formats: the kernel's tools/perf/Documentation/jit-interface.txt and
 * jitdump-specification.txt.
 */
#include "monitor/symbols.h"
#include "monitor/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct mon_perfmap {
    struct mon_symbols *symbols;
    FILE *map, *dump;
    void *marker; /* perf finds the dump by this mapping */
    u64 code_index;
};

/* jitdump's structures; all fields are in the machine's byte order. */
enum { JITDUMP_MAGIC = 0x4a695444, JITDUMP_VERSION = 1, ELF_MACHINE_X86_64 = 62 };
enum { JIT_CODE_LOAD = 0, JIT_CODE_CLOSE = 3 };
struct jit_header {
    u32 magic, version, total_size, elf_mach, pad1, pid;
    u64 timestamp, flags;
};
struct jit_record {
    u32 id, total_size;
    u64 timestamp;
};
struct jit_load {
    struct jit_record head;
    u32 pid, tid;
    u64 vma, code_addr, code_size, code_index;
};

static u64 timestamp(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (u64)at.tv_sec * 1000000000 + (u64)at.tv_nsec;
}

static void write_load(struct mon_perfmap *p, const struct bt_event *e, const char *name) {
    const size_t chars = strlen(name) + 1;
    struct jit_load load = {.head = {.id = JIT_CODE_LOAD,
                                     .total_size = (u32)(sizeof load + chars + e->host_bytes),
                                     .timestamp = timestamp()},
                            .pid = (u32)getpid(),
                            .tid = (u32)syscall(SYS_gettid),
                            .vma = (u64)e->host,
                            .code_addr = (u64)e->host,
                            .code_size = e->host_bytes,
                            .code_index = p->code_index++};
    fwrite(&load, sizeof load, 1, p->dump);
    fwrite(name, chars, 1, p->dump);
    fwrite(e->host, e->host_bytes, 1, p->dump);
}

/* Units are made between runs, so that files may be written here. */
static void on_event(void *opaque, const struct bt_event *e) {
    struct mon_perfmap *p = opaque;
    if (e->kind != BT_EVENT_translate)
        return;
    char name[200];
    bool user = e->context->cpl == 3;
    const char *symbol = user ? NULL : mon_symbols_find(p->symbols, e->context->eip);
    snprintf(name, sizeof name, "guest_%s_%08x%s%s", user ? "user" : "kernel", e->context->eip,
             symbol ? "_" : "", symbol ? symbol : "");
    if (p->map)
        fprintf(p->map, "%llx %x %s\n", (unsigned long long)(u64)e->host, e->host_bytes, name);
    if (p->dump)
        write_load(p, e, name);
}

static bool open_map(struct mon_perfmap *p, struct mon_error *err) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    /* Never through somebody else's link in a directory that all may write to. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    p->map = fd < 0 ? NULL : fdopen(fd, "w");
    return p->map || mon_fail(err, "-perfmap: could not create '%s': %s", path, strerror(errno));
}

static bool open_dump(struct mon_perfmap *p, struct mon_error *err) {
    char path[64];
    struct jit_header header = {.magic = JITDUMP_MAGIC,
                                .version = JITDUMP_VERSION,
                                .total_size = sizeof header,
                                .elf_mach = ELF_MACHINE_X86_64,
                                .pid = (u32)getpid(),
                                .timestamp = timestamp()};
    snprintf(path, sizeof path, "jit-%d.dump", (int)getpid());
    p->dump = fopen(path, "w+e");
    if (!p->dump)
        return mon_fail(err, "-jitdump: could not create '%s': %s", path, strerror(errno));
    fwrite(&header, sizeof header, 1, p->dump);
    if (fflush(p->dump))
        return mon_fail(err, "-jitdump: could not write '%s': %s", path, strerror(errno));
    p->marker = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(p->dump), 0);
    if (p->marker != MAP_FAILED)
        return true;
    p->marker = NULL;
    return mon_fail(err, "-jitdump: could not map '%s': %s", path, strerror(errno));
}

bool mon_perfmap_open(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    if (!o->perfmap && !o->jitdump)
        return true;
    if (!vm->bt)
        return mon_fail(err, "-perfmap, -jitdump: -accel %s translates nothing", o->accel);
    struct mon_perfmap *p = vm->perfmap = calloc(1, sizeof *p);
    if (!p)
        return mon_fail(err, "out of memory for -perfmap");
    if (o->symbols && !(p->symbols = mon_symbols_load(o->symbols, err)))
        return false;
    if ((o->perfmap && !open_map(p, err)) || (o->jitdump && !open_dump(p, err)))
        return false;
    return bt_observe(vm->bt, on_event, p) || mon_fail(err, "-perfmap: too many observers");
}

void mon_perfmap_close(struct vm *vm) {
    struct mon_perfmap *p = vm->perfmap;
    if (!p)
        return;
    if (vm->bt)
        bt_unobserve(vm->bt, on_event, p);
    if (p->dump) {
        struct jit_record end = {
            .id = JIT_CODE_CLOSE, .total_size = sizeof end, .timestamp = timestamp()};
        fwrite(&end, sizeof end, 1, p->dump);
        fclose(p->dump);
    }
    if (p->marker)
        munmap(p->marker, PAGE_BYTES);
    if (p->map)
        fclose(p->map);
    mon_symbols_free(p->symbols);
    free(p);
    vm->perfmap = NULL;
}
