/*
 * run.c: one hostile guest on the monitor's own machine, from its creation to its destruction,
 * under one of the engines; and what must hold of the monitor when it is over.
 */
#include "hostile.h"

#include "devmodel/machine.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

const char *const hostile_engine_name[HOSTILE_ENGINES] = {"interp", "bt", "lockstep"};

/* Deliveries of exceptions after which a case is over: time stands still while no instruction
 * completes. Both engines come to the same one. */
#define MAX_FAULTS 400
/* Turns of the loop: what ends a case whose turns do nothing. Real guests need one per exit. */
#define MAX_TURNS 200000
#define LOCKSTEP_TURNS 3000
#define LOCKSTEP_NS 10000000 /* lockstep has no other time than the real one */
#define JOURNAL_ENTRIES 30000u
/* Real time until the alarm rings, and until somebody must have heard it. */
#ifdef RINGFOLD_SANITIZED
enum { ALARM_MS = 4000, DEADLINE_MS = 60000 };
#else
enum { ALARM_MS = 400, DEADLINE_MS = 30000 };
#endif
/* Resident memory beside guest RAM and translation cache. */
#define FIXED_BYTES (48ull << 20)
#define CACHE_BYTES (2u << 20)

/* ---- The alarm: a kick, as SIGTERM makes one ---- */

static struct {
    pthread_mutex_t lock;
    pthread_t vcpu;
    struct vm *vm; /* NULL: none runs */
    struct timespec started;
    bool rung;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static long elapsed_ms(const struct timespec *since) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000;
}

static void *watcher(void *opaque) {
    (void)opaque;
    for (;;) {
        usleep(50000);
        pthread_mutex_lock(&watch.lock);
        long ms = watch.vm ? elapsed_ms(&watch.started) : 0;
        if (watch.vm && ms > ALARM_MS) {
            watch.rung = true;
            watch.vm->events.pending_signal = SIGALRM;
            pthread_kill(watch.vcpu, SIGRTMIN + 2); /* events_hosted.c's KICK_SIGNAL */
        }
        if (ms > DEADLINE_MS)
            rf_assert_fail("the virtual CPU answers a kick", __FILE__, __LINE__);
        pthread_mutex_unlock(&watch.lock);
    }
    return NULL;
}

static void watch_begin(struct vm *vm) {
    pthread_mutex_lock(&watch.lock);
    watch.vcpu = pthread_self();
    watch.rung = false;
    clock_gettime(CLOCK_MONOTONIC, &watch.started);
    watch.vm = vm;
    pthread_mutex_unlock(&watch.lock);
}

static bool watch_end(void) {
    pthread_mutex_lock(&watch.lock);
    watch.vm = NULL;
    bool rung = watch.rung;
    pthread_mutex_unlock(&watch.lock);
    return rung;
}

/* ---- Set-up ---- */

static char kernel_path[32];

/* A Multiboot kernel of one HLT, for machines that never run it. */
static bool make_kernel(void) {
    u8 image[64] = {0};
    store32(image, 0x1badb002);
    store32(image + 4, 1u << 16);
    store32(image + 8, 0u - 0x1badb002 - (1u << 16));
    store32(image + 12, 0x100000);
    store32(image + 16, 0x100000);
    store32(image + 28, 0x100020);
    image[32] = 0xf4;
    int fd = memfd_create("kernel", 0);
    if (fd < 0 || write(fd, image, sizeof image) != sizeof image)
        return false;
    snprintf(kernel_path, sizeof kernel_path, "/proc/self/fd/%d", fd);
    return true;
}

bool hostile_setup(void) {
    pthread_t thread;
    return make_kernel() && pthread_create(&thread, NULL, watcher, NULL) == 0;
}

/* Instead of the monitor's (see CMakeLists.txt), which measures for 20 ms: a TSC of 2 GHz, on every
 * host. */
void __wrap_mon_host_tsc(struct mon_host_cpu *out);
void __wrap_mon_host_tsc(struct mon_host_cpu *out) {
    out->tsc_hz = 2000000000;
    out->tsc_invariant = true;
}

static void turn_mechanisms_off(struct bt_config *bt, struct fuzz_rng *r) {
    bool *const switches[] = {&bt->chain, &bt->retstack, &bt->icache, &bt->adapt, &bt->foresight};
    if (fuzz_one_in(r, 2))
        return;
    for (unsigned i = 0; i < ARRAY_LEN(switches); i++)
        *switches[i] = !fuzz_one_in(r, 4);
}

static void options(const struct hostile_case *c, enum hostile_engine engine,
                    struct mon_options *o) {
    char memory[16];
    snprintf(memory, sizeof memory, "%u", HOSTILE_RAM_MIB);
    char *argv[] = {"fuzz_guest",
                    "-kernel",
                    kernel_path,
                    "-m",
                    memory,
                    "-no-reboot",
                    "-nodefaults",
                    "-device",
                    "isa-debug-exit",
                    "-device",
                    "pc-testdev",
                    "-serial",
                    "null",
                    "-debugcon",
                    "null",
                    "-accel",
                    engine == HOSTILE_INTERP ? "interp" : "bt"};
    if (mon_parse_options(ARRAY_LEN(argv), argv, o) != MON_PARSE_RUN)
        rf_assert_fail("the options are good", __FILE__, __LINE__);
    struct fuzz_rng r = fuzz_rng(c->seed ^ 0x6f7074, c->number);
    o->cpu = c->cpu;
    o->bt.hot_threshold = fuzz_one_in(&r, 4) ? 2 : 0;
    o->bt.verify = true;
    o->bt.cache_bytes = CACHE_BYTES;
    turn_mechanisms_off(&o->bt, &r);
    if (engine == HOSTILE_LOCKSTEP) {
        o->bt.lockstep = o->lockstep_all = true;
    } else {
        o->icount = o->bt.icount = true;
        o->icount_shift = c->shift;
    }
}

/* ---- One run ---- */

struct run {
    struct vm *vm;
    struct mmu_journal journal; /* interpreter only */
    u8 *tables;                 /* as they were at the start */
    struct engine engine;       /* the monitor's, with our count of turns */
    const struct engine *real;
    struct dev_timer timer;
    u64 turns;
    bool time_up, too_many_faults, too_many_turns, rewrote_rep;
    u64 rep_count, rep_code;
    u32 rep_eip;
};

/* The loop knows no user data but the VM: one case runs at a time. */
static struct run *current;

static u64 code_at_eip(const struct vm *vm) {
    const struct cpu *cpu = vm->cpu;
    struct mmu_xlat x;
    u64 code = 0;
    if (mmu_probe(cpu, GLIN((u32)(cpu->seg[SEG_CS].base + cpu->eip)), &x))
        mmu_phys_read(cpu->mmu, x.gpa, &code, MIN(8u, PAGE_BYTES - (x.gpa.v & PAGE_OFFSET_MASK)));
    return code;
}

/* A REP that stores to itself goes on as it was or as it is now: that is open. Only a repeated
 * instruction is left without being complete. */
static void watch_rep(struct run *r, struct vm *vm) {
    u64 code = code_at_eip(vm);
    if (vm->cpu->insn_count == r->rep_count && vm->cpu->eip == r->rep_eip && code != r->rep_code)
        r->rewrote_rep = true;
    r->rep_count = vm->cpu->insn_count;
    r->rep_eip = vm->cpu->eip;
    r->rep_code = code;
}

static enum mon_exit counted_run(struct vm *vm) {
    struct run *r = current;
    watch_rep(r, vm);
    if (vm->count.faults >= MAX_FAULTS || ++r->turns >= MAX_TURNS ||
        (vm->lockstep && r->turns >= LOCKSTEP_TURNS)) {
        r->too_many_faults = vm->count.faults >= MAX_FAULTS;
        r->too_many_turns = !r->too_many_faults;
        vm->finished = true;
        return MON_EXIT_STEPPED;
    }
    return r->real->run(vm);
}

static void time_up(void *opaque) {
    struct run *r = opaque;
    r->time_up = true;
    r->vm->finished = true;
}

static void prepare(struct run *r, struct hostile_case *c) {
    struct vm *vm = r->vm;
    u8 *ram = mmu_ram(vm->mmu); /* the rest of it is fresh */
    memset(ram, 0, 0x20000);
    memset(ram + 0xe0000, 0, 0x21000);
    cpu_reset(vm->cpu);
    hostile_generate(c, ram, vm->cpu);
    mmu_mode_changed(vm->cpu);
    r->real = vm->engine;
    r->engine = *vm->engine;
    r->engine.run = counted_run;
    vm->engine = &r->engine;
    memcpy(r->tables, ram + AT_TABLES, TABLES_END - AT_TABLES);
    if (r->journal.capacity)
        mmu_set_journal(vm->mmu, &r->journal);
    dev_timer_init(&vm->dev->timers, &r->timer, time_up, r);
    dev_timer_arm(&r->timer, vm->lockstep ? LOCKSTEP_NS : c->budget_ns);
    current = r;
}

static const char *check_after(const struct run *r, const struct hostile_usage *before) {
    const struct vm *vm = r->vm;
    struct hostile_usage now = hostile_usage();
    if (vm->bt && bt_counters(vm->bt)->units_translated != bt_counters(vm->bt)->verified_units)
        return "units that the verifier has not passed";
#ifndef RINGFOLD_SANITIZED
    if (now.resident_bytes > before->resident_bytes + HOSTILE_RAM + CACHE_BYTES + FIXED_BYTES)
        return "resident memory grew beyond its bound";
#endif
    if (now.maps > before->maps + 40000)
        return "host mappings grew beyond their bound";
    if (vm->cpu->eflags & ~(u32)F_ALL || !(vm->cpu->eflags & F_FIXED))
        return "flags that do not exist";
    for (unsigned i = 0; i < 16; i++)
        if (vm->cpu->gpr[i] >> 32)
            return "a register of more than 32 bits";
    return mmu_ram_bytes(vm->mmu) == HOSTILE_RAM ? NULL : "another RAM";
}

/* ---- Changes of page tables ----
 * A guest that changes an entry and does not flush the TLB gets the old one or the new one, and
 * which of them depends on the engine. */

static bool sets_accessed_dirty(const struct mmu_journal_entry *e) {
    u8 changed = e->old_value[0] ^ e->new_value[0];
    return (e->bytes == 4 || e->bytes == 8) && changed && !(changed & ~(PTE_A | PTE_D)) &&
           !memcmp(e->old_value + 1, e->new_value + 1, e->bytes - 1u);
}

/* Pages in which the walker has set an A or D bit are tables; so is where tables lie by design. */
static bool tables_were_written(const struct run *r, const u8 *ram) {
    static u8 is_table[HOSTILE_RAM >> PAGE_SHIFT];
    const struct mmu_journal *j = &r->journal;
    if (j->overflow)
        return true;
    for (u32 at = 0; at < TABLES_END - AT_TABLES; at++) {
        u8 changed = ram[AT_TABLES + at] ^ r->tables[at];
        if (at % 4 == 0 ? changed & ~(PTE_A | PTE_D) : changed)
            return true;
    }
    memset(is_table, 0, sizeof is_table);
    for (u32 i = 0; i < j->count; i++)
        is_table[j->entry[i].gpa >> PAGE_SHIFT] |= sets_accessed_dirty(&j->entry[i]);
    for (u32 i = 0; i < j->count; i++)
        if (is_table[j->entry[i].gpa >> PAGE_SHIFT] && !sets_accessed_dirty(&j->entry[i]))
            return true;
    return false;
}

static void look(const struct run *r, struct hostile_state *out) {
    const struct vm *vm = r->vm;
    out->cpu = *vm->cpu;
    memcpy(out->ram, mmu_ram(vm->mmu), HOSTILE_RAM);
    out->faults = vm->count.faults;
    out->tables_written = tables_were_written(r, out->ram);
    out->end = r->time_up ? HOSTILE_TIME_UP : r->too_many_faults ? HOSTILE_FAULTS : HOSTILE_ENDED;
}

void hostile_run(const struct hostile_case *c, enum hostile_engine engine,
                 struct hostile_state *out) {
    struct mon_options o;
    struct mon_error err;
    struct hostile_case mine = *c;
    struct run r = {.tables = malloc(TABLES_END - AT_TABLES)};
    struct hostile_usage before = hostile_usage();
    if (engine == HOSTILE_INTERP) {
        r.journal.capacity = JOURNAL_ENTRIES;
        r.journal.entry = malloc(JOURNAL_ENTRIES * sizeof *r.journal.entry);
    }
    options(c, engine, &o);
    r.vm = mon_vm_create(&o, &err);
    if (!r.vm) {
        log_error("%s", err.text);
        rf_assert_fail("the machine can be made", __FILE__, __LINE__);
    }
    prepare(&r, &mine);
    watch_begin(r.vm);
    int status = mon_vm_run(r.vm);
    bool rung = watch_end();
    look(&r, out);
    out->wrong = check_after(&r, &before);
    out->incomparable = mine.incomparable || r.rewrote_rep;
    if (rung || r.too_many_turns)
        out->end = HOSTILE_ALARM;
    /* Lockstep says so when it has found a difference; isa-debug-exit's status is odd, too. */
    if (engine == HOSTILE_LOCKSTEP && out->end == HOSTILE_ENDED && status == 1 &&
        !dev_machine_requests(r.vm->dev)->exit)
        out->wrong = "lockstep found a difference";
    mon_vm_destroy(r.vm);
    free(r.journal.entry);
    free(r.tables);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* ---- Comparison ---- */

struct field {
    const char *name;
    size_t offset, bytes;
};
#define FIELD(name)                                                                                \
    { #name, offsetof(struct cpu, name), sizeof(((struct cpu *)0)->name) }
static const struct field fields[] = {
    FIELD(gpr),          FIELD(eip),          FIELD(cpl),          FIELD(halted),
    FIELD(shutdown),     FIELD(nmi_blocked),  FIELD(a20_masked),   FIELD(cr0),
    FIELD(cr2),          FIELD(cr3),          FIELD(cr4),          FIELD(dr),
    FIELD(efer),         FIELD(sysenter_cs),  FIELD(sysenter_esp), FIELD(tsc_offset),
    FIELD(msr_pat),      FIELD(msr_apicbase), FIELD(msr_debugctl), FIELD(insn_count),
    FIELD(msr_mtrr_var),
};

static const char *compare_segments(const struct cpu *a, const struct cpu *b) {
    for (unsigned s = 0; s < SEG_COUNT; s++)
        if (a->seg[s].selector != b->seg[s].selector || a->seg[s].attr != b->seg[s].attr ||
            a->seg[s].limit != b->seg[s].limit || a->seg[s].base != b->seg[s].base)
            return "segment registers";
    if (a->gdtr.base != b->gdtr.base || a->gdtr.limit != b->gdtr.limit ||
        a->idtr.base != b->idtr.base || a->idtr.limit != b->idtr.limit)
        return "descriptor table registers";
    return NULL;
}

/* Translated code drops RF (see docs/deviations.md), which shows in the images that interrupts
 * push: bit 16 of a flags image is bit 0 of its third byte. */
static bool same_byte(u8 a, u8 b) {
    return !((a ^ b) & ~(F_RF >> 16));
}

/* An instruction that had begun to look at its operands when time was up has set A and D bits. */
static bool may_be_accessed(const struct hostile_state *s, u32 at, u8 a, u8 b) {
    return s->end == HOSTILE_TIME_UP && at >= AT_TABLES && at < TABLES_END && at % 4 == 0 &&
           !((a ^ b) & ~(PTE_A | PTE_D));
}

static bool same_ram(const struct hostile_state *a, const struct hostile_state *b) {
    for (u32 page = 0; page < HOSTILE_RAM; page += PAGE_BYTES) {
        if (!memcmp(a->ram + page, b->ram + page, PAGE_BYTES))
            continue;
        for (u32 at = page; at < page + PAGE_BYTES; at++)
            if (!same_byte(a->ram[at], b->ram[at]) &&
                !may_be_accessed(a, at, a->ram[at], b->ram[at]))
                return false;
    }
    return true;
}

static void print_ram_difference(const struct hostile_state *a, const struct hostile_state *b,
                                 FILE *out) {
    unsigned shown = 0;
    for (u32 at = 0; at < HOSTILE_RAM && shown < 8; at += 4)
        if (load32(a->ram + at) != load32(b->ram + at)) {
            fprintf(out, "  %08x: %08x %08x\n", at, load32(a->ram + at), load32(b->ram + at));
            shown++;
        }
}

/* The lines of cpu_dump that differ. */
struct dump {
    char line[64][96];
    unsigned lines;
};
static void keep_line(void *opaque, const char *line) {
    struct dump *d = opaque;
    if (d->lines < ARRAY_LEN(d->line))
        snprintf(d->line[d->lines++], sizeof d->line[0], "%s", line);
}
static void print_cpu_difference(const struct cpu *a, const struct cpu *b, FILE *out) {
    struct dump x = {.lines = 0}, y = {.lines = 0};
    cpu_dump(a, keep_line, &x);
    cpu_dump(b, keep_line, &y);
    for (unsigned i = 0; i < MIN(x.lines, y.lines); i++)
        if (strcmp(x.line[i], y.line[i]) != 0)
            fprintf(out, "  %s\n  %s\n", x.line[i], y.line[i]);
}

static const char *first_difference(const struct hostile_state *a, const struct hostile_state *b) {
    if (a->end != b->end)
        return "how it ended";
    if (a->faults != b->faults)
        return "the number of exceptions";
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++)
        if (memcmp((const u8 *)&a->cpu + fields[i].offset, (const u8 *)&b->cpu + fields[i].offset,
                   fields[i].bytes) != 0)
            return fields[i].name;
    if ((a->cpu.eflags ^ b->cpu.eflags) & ~(u32)F_RF)
        return "eflags";
    const char *segments = compare_segments(&a->cpu, &b->cpu);
    if (segments)
        return segments;
    if (memcmp(a->cpu.fx + 32, b->cpu.fx + 32, 256) != 0 ||
        load32(a->cpu.fx + 24) != load32(b->cpu.fx + 24) || memcmp(a->cpu.fx, b->cpu.fx, 5) != 0)
        return "x87/SSE state";
    return same_ram(a, b) ? NULL : "memory";
}

const char *hostile_compare(const struct hostile_state *a, const struct hostile_state *b,
                            FILE *out) {
    const char *what = first_difference(a, b);
    if (!what || !out)
        return what;
    fprintf(out, "  end %d %d, exceptions %llu %llu, instructions %llu %llu\n", a->end, b->end,
            (unsigned long long)a->faults, (unsigned long long)b->faults,
            (unsigned long long)a->cpu.insn_count, (unsigned long long)b->cpu.insn_count);
    print_cpu_difference(&a->cpu, &b->cpu, out);
    print_ram_difference(a, b, out);
    return what;
}

/* ---- What the process uses ---- */

struct hostile_usage hostile_usage(void) {
    struct hostile_usage u = {0};
    char text[4096];
    unsigned long pages = 0, resident = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    text[MAX(n, 0)] = 0;
    sscanf(text, "%lu %lu", &pages, &resident);
    close(fd);
    u.resident_bytes = (u64)resident * PAGE_BYTES;
    fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while ((n = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < n; i++)
            u.maps += text[i] == '\n';
    close(fd);
    DIR *files = opendir("/proc/self/fd");
    while (files && readdir(files))
        u.files++;
    if (files)
        closedir(files);
    return u;
}
