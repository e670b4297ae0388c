/*
 * micro.c: what this host itself charges for the operations that a hosted virtualizer is built
 * from. No row of bench/compare can cost less than the floors it consists of.
 *
 * usage: micro            prints `floor NAME ns X`, the best of several repetitions
 */
#include <asm/prctl.h>
#include <immintrin.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, AREA_PAGES = 4096, REPETITIONS = 7, HWCAP2_FSGSBASE_BIT = 2 };

static int memory_fd;
static uint8_t *area; /* AREA_PAGES pages of the memfd, or reserved and not accessible */

static uint64_t now_ns(void) {
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static void must(bool ok, const char *what) {
    if (ok)
        return;
    perror(what);
    exit(1);
}

static void map_file_flags(size_t page, size_t pages, size_t file_page, int protection, int flags) {
    void *at = mmap(area + page * PAGE_BYTES, pages * PAGE_BYTES, protection,
                    MAP_SHARED | MAP_FIXED | flags, memory_fd, (off_t)(file_page * PAGE_BYTES));
    must(at != MAP_FAILED, "mmap");
}

static void map_file(size_t page, size_t pages, size_t file_page, int protection) {
    map_file_flags(page, pages, file_page, protection, 0);
}

static void reserve_area(void) {
    must(mmap(area, (size_t)AREA_PAGES * PAGE_BYTES, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED,
         "mmap");
}

static void map_area(void) {
    map_file(0, AREA_PAGES, 0, PROT_READ | PROT_WRITE);
}

static void map_and_touch_area(void) {
    map_area();
    must(!madvise(area, (size_t)AREA_PAGES * PAGE_BYTES, MADV_POPULATE_WRITE), "madvise");
}

/* Pages in an order that no neighbour follows its neighbour, and no two mappings can merge. */
static size_t scattered(unsigned i) {
    return (size_t)i * 1237 % AREA_PAGES;
}

/* ---- Faults: the handler does what the row says, then the access is tried again ---- */

static enum { SKIP, MAP_ONE, MAP_SIXTEEN } on_fault;

static void handle_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *uc = context;
    size_t page = ((uint8_t *)info->si_addr - area) / PAGE_BYTES;

    (void)number;
    switch (on_fault) {
    case SKIP:
        uc->uc_mcontext.gregs[REG_RIP] += 2; /* movb (%rax), %al */
        break;
    case MAP_ONE:
        map_file(page, 1, scattered((unsigned)page), PROT_READ | PROT_WRITE);
        break;
    case MAP_SIXTEEN:
        map_file(page & ~15ul, 16, page & ~15ul, PROT_READ | PROT_WRITE);
        must(!madvise(area + (page & ~15ul) * PAGE_BYTES, 16 * PAGE_BYTES, MADV_POPULATE_WRITE),
             "madvise");
        break;
    }
}

static void install_handler(void) {
    struct sigaction action = {.sa_sigaction = handle_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    stack_t stack = {.ss_size = 65536, .ss_sp = malloc(65536)};

    must(stack.ss_sp && !sigaltstack(&stack, NULL), "sigaltstack");
    must(!sigaction(SIGSEGV, &action, NULL), "sigaction");
}

static void run_fault(unsigned n) {
    on_fault = SKIP;
    while (n--) {
        uint64_t address = (uint64_t)area;
        __asm__ volatile("movb (%%rax), %%al" : "+a"(address) : : "memory");
    }
}

static void run_fault_map(unsigned n) {
    on_fault = MAP_ONE;
    for (unsigned i = 0; i < n; i++)
        *(volatile uint8_t *)(area + scattered(i) * PAGE_BYTES) = 1;
}

static void run_fault_map16(unsigned n) {
    on_fault = MAP_SIXTEEN;
    for (unsigned i = 0; i < n; i++)
        *(volatile uint8_t *)(area + (size_t)i * PAGE_BYTES) = 1;
}

/* ---- Mappings ---- */

static void run_map_over(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        map_file(scattered(i), 1, scattered(i + 1), PROT_READ | PROT_WRITE);
}

static void run_map_madvise(unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        map_file(scattered(i), 1, scattered(i + 1), PROT_READ | PROT_WRITE);
        must(!madvise(area + scattered(i) * PAGE_BYTES, PAGE_BYTES, MADV_POPULATE_WRITE),
             "madvise");
    }
}

static void run_map_populate(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        map_file_flags(scattered(i), 1, scattered(i + 1), PROT_READ | PROT_WRITE, MAP_POPULATE);
}

static void run_map_populate16(unsigned n) {
    for (unsigned i = 0; i < n; i += 16)
        map_file_flags(i, 16, i ^ 16, PROT_READ | PROT_WRITE, MAP_POPULATE);
}

/* A page goes where the mapping already has exactly its own bounds: no neighbour is split. */
static void prepare_pieces(void) {
    for (unsigned i = 0; i < AREA_PAGES; i++)
        map_file(i, 1, i ^ 1, PROT_READ | PROT_WRITE);
}

static void run_map_pieces(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        map_file_flags(scattered(i), 1, scattered(i) ^ 3, PROT_READ | PROT_WRITE, MAP_POPULATE);
}

static void run_protect_pieces(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        must(!mprotect(area + scattered(i) * PAGE_BYTES, PAGE_BYTES, PROT_READ), "mprotect");
}

/* Reserved pages filled one after the other with the pages that follow in the file: every mapping
 * merges with the one before it. */
static void run_map_growing(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        map_file_flags(i, 1, i, PROT_READ | PROT_WRITE, MAP_POPULATE);
}

static void run_unmap(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        must(mmap(area + scattered(i) * PAGE_BYTES, PAGE_BYTES, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED,
             "mmap");
}

static void prepare_hole(void) {
    must(!munmap(area, (size_t)AREA_PAGES * PAGE_BYTES), "munmap");
}

static void run_unmap_pieces(unsigned n) {
    must(!munmap(area, (size_t)n * PAGE_BYTES), "munmap");
}

static void prepare_populated_pieces(void) {
    for (unsigned i = 0; i < AREA_PAGES; i++)
        map_file_flags(i, 1, i ^ 1, PROT_READ | PROT_WRITE, MAP_POPULATE);
}

static void run_hide_pieces(unsigned n) {
    must(!mprotect(area, (size_t)n * PAGE_BYTES, PROT_NONE), "mprotect");
}

static void prepare_hidden_pieces(void) {
    prepare_populated_pieces();
    run_hide_pieces(AREA_PAGES);
}

static void run_show_pieces(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        must(!mprotect(area + scattered(i) * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE),
             "mprotect");
}

static void run_minor_fault(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        *(volatile uint8_t *)(area + (size_t)i * PAGE_BYTES) = 1;
}

static void run_populate(unsigned n) {
    must(!madvise(area, (size_t)n * PAGE_BYTES, MADV_POPULATE_WRITE), "madvise");
}

static void run_populate_read(unsigned n) {
    must(!madvise(area, (size_t)n * PAGE_BYTES, MADV_POPULATE_READ), "madvise");
}

/* Are pages that were populated for reading writable without a further fault? Fault-around maps a
 * shared memfd with the mapping's own protection, so a store here should cost nothing. */
static void run_populate_read_write(unsigned n) {
    run_populate_read(n);
    run_minor_fault(n);
}

static void run_read_fault(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        (void)*(volatile uint8_t *)(area + (size_t)i * PAGE_BYTES);
}

static void run_protect(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        must(!mprotect(area + scattered(i) * PAGE_BYTES, PAGE_BYTES, PROT_READ), "mprotect");
}

static void run_protect_range(unsigned n) {
    must(!mprotect(area, (size_t)n * PAGE_BYTES, PROT_READ), "mprotect");
}

/* One page to read-only and back inside a mapping: splits it and merges it again. */
static void run_protect_toggle(unsigned n) {
    for (unsigned i = 0; i < n; i++)
        must(!mprotect(area + 5 * PAGE_BYTES, PAGE_BYTES,
                       i & 1 ? PROT_READ | PROT_WRITE : PROT_READ),
             "mprotect");
}

/* ---- Processor and kernel entry ---- */

static void run_syscall(unsigned n) {
    while (n--)
        syscall(SYS_getppid);
}

static void ignore_signal(int number) {
    (void)number;
}

static void install_kick(void) {
    must(signal(SIGUSR1, ignore_signal) != SIG_ERR, "signal");
}

static void run_kick(unsigned n) {
    long self = syscall(SYS_gettid), process = getpid();

    while (n--)
        syscall(SYS_tgkill, process, self, SIGUSR1);
}

static bool have_fsgsbase(void) {
    return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT;
}

static void run_wrgsbase(unsigned n) {
    while (n--)
        __asm__ volatile("wrgsbase %0" : : "r"((uint64_t)area));
}

static void run_arch_prctl(unsigned n) {
    while (n--)
        syscall(SYS_arch_prctl, ARCH_SET_GS, area);
}

static void run_fxsave(unsigned n) {
    static uint8_t state[512] __attribute__((aligned(64)));

    while (n--)
        __asm__ volatile("fxsave64 (%0)\n\tfxrstor64 (%0)" : : "r"(state) : "memory");
}

/* How a processor without SERIALIZE is made to see new code. */
static void run_iretq(unsigned n) {
    while (n--)
        __asm__ volatile("movq %%rsp, %%rcx\n\t"
                         "movl %%ss, %%eax\n\tpushq %%rax\n\tpushq %%rcx\n\tpushfq\n\t"
                         "movl %%cs, %%eax\n\tpushq %%rax\n\tleaq 1f(%%rip), %%rax\n\t"
                         "pushq %%rax\n\tiretq\n1:"
                         :
                         :
                         : "rax", "rcx", "memory", "cc");
}

static void run_cpuid(unsigned n) {
    while (n--) {
        uint32_t leaf = 0, count = 0;
        __asm__ volatile("cpuid" : "+a"(leaf), "+c"(count) : : "ebx", "edx", "memory");
    }
}

static void run_rdtsc(unsigned n) {
    while (n--)
        __asm__ volatile("rdtsc" : : : "eax", "edx");
}

struct floor_row {
    const char *name;
    unsigned operations;
    void (*prepare)(void); /* untimed, before every repetition */
    void (*run)(unsigned operations);
    bool (*possible)(void);
};

static const struct floor_row rows[] = {
    {"system_call", 100000, NULL, run_syscall, NULL},
    {"signal_to_itself", 10000, install_kick, run_kick, NULL},
    {"segv_round_trip", 10000, reserve_area, run_fault, NULL},
    {"segv_mmap_touch_scattered", 2048, reserve_area, run_fault_map, NULL},
    {"segv_mmap_populate_16_per_page", AREA_PAGES, reserve_area, run_fault_map16, NULL},
    {"mmap_over_mapped_page", 2048, map_and_touch_area, run_map_over, NULL},
    {"mmap_madvise_scattered", 2048, reserve_area, run_map_madvise, NULL},
    {"mmap_populate_scattered", 2048, reserve_area, run_map_populate, NULL},
    {"mmap_populate_16_per_page", AREA_PAGES, reserve_area, run_map_populate16, NULL},
    {"mmap_populate_same_bounds", 2048, prepare_pieces, run_map_pieces, NULL},
    {"mmap_populate_growing", AREA_PAGES, reserve_area, run_map_growing, NULL},
    {"mmap_populate_into_hole", 2048, prepare_hole, run_map_populate, NULL},
    {"munmap_pieces_per_page", AREA_PAGES, prepare_populated_pieces, run_unmap_pieces, NULL},
    {"mprotect_pieces_to_none_per_page", AREA_PAGES, prepare_populated_pieces, run_hide_pieces,
     NULL},
    {"mprotect_piece_from_none", 2048, prepare_hidden_pieces, run_show_pieces, NULL},
    {"mprotect_same_bounds", 2048, prepare_populated_pieces, run_protect_pieces, NULL},
    {"unmap_scattered_page", 2048, map_and_touch_area, run_unmap, NULL},
    {"minor_fault_memfd", AREA_PAGES, map_area, run_minor_fault, NULL},
    {"populate_write_per_page", AREA_PAGES, map_area, run_populate, NULL},
    {"populate_read_per_page", AREA_PAGES, map_area, run_populate_read, NULL},
    {"populate_read_then_write", AREA_PAGES, map_area, run_populate_read_write, NULL},
    {"read_fault_around_per_page", AREA_PAGES, map_area, run_read_fault, NULL},
    {"mprotect_scattered", 2048, map_and_touch_area, run_protect, NULL},
    {"mprotect_range_per_page", AREA_PAGES, map_and_touch_area, run_protect_range, NULL},
    {"mprotect_toggle_page", 10000, map_and_touch_area, run_protect_toggle, NULL},
    {"wrgsbase", 1000000, NULL, run_wrgsbase, have_fsgsbase},
    {"arch_prctl_set_gs", 100000, NULL, run_arch_prctl, NULL},
    {"fxsave_fxrstor", 100000, NULL, run_fxsave, NULL},
    {"iretq_to_itself", 100000, NULL, run_iretq, NULL},
    {"cpuid", 1000, NULL, run_cpuid, NULL},
    {"rdtsc", 1000000, NULL, run_rdtsc, NULL},
};

static double best_ns(const struct floor_row *row) {
    double best = 0;

    for (int i = 0; i < REPETITIONS; i++) {
        uint64_t start;
        double ns;

        if (row->prepare)
            row->prepare();
        start = now_ns();
        row->run(row->operations);
        ns = (double)(now_ns() - start) / row->operations;
        if (i == 0 || ns < best)
            best = ns;
    }
    return best;
}

int main(void) {
    memory_fd = memfd_create("micro", MFD_CLOEXEC);
    must(memory_fd >= 0 && !ftruncate(memory_fd, (off_t)AREA_PAGES * PAGE_BYTES), "memfd");
    area = mmap(NULL, (size_t)AREA_PAGES * PAGE_BYTES, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(area != MAP_FAILED, "mmap");
    map_and_touch_area(); /* the file has all its pages from here on */
    install_handler();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].possible && !rows[i].possible())
            printf("floor %-32s skipped\n", rows[i].name);
        else
            printf("floor %-32s ns %.1f\n", rows[i].name, best_ns(&rows[i]));
        fflush(stdout);
    }
    return 0;
}
