/*
 * kernel.c: rows that enter the kernel: what ring compression and the shadow MMU cost. Page counts
 * are fixed, for they are most of the cost.
 */
#include "rfbench.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, FAULT_PAGES = 256, PROTECT_PAGES = 16, FORK_PAGES = 64 };
enum { FILL_PAGES = 24576, COLD_BYTES = 64, COLD_FUNCTIONS = 4096 };

static volatile uint8_t *map_pages(size_t pages, int protection) {
    void *at = mmap(NULL, pages * PAGE_BYTES, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    madvise(at, pages * PAGE_BYTES, MADV_NOHUGEPAGE); /* a host must not win by large pages */
    return at;
}

static uint32_t run_int80(uint32_t n) {
    uint32_t ok = 1;

    for (; n; n--) {
        int result;
        __asm__ volatile("int $0x80" : "=a"(result) : "0"(SYS_getppid) : "memory");
        ok &= result >= 0;
    }
    return ok;
}

static uintptr_t vdso_entry;

static int prepare_sysenter(void) {
    vdso_entry = getauxval(AT_SYSINFO);
    return vdso_entry == 0;
}

static uint32_t run_sysenter(uint32_t n) {
    uint32_t ok = 1;

    for (; n; n--) {
        int result;
        __asm__ volatile("call *%1" : "=a"(result) : "r"(vdso_entry), "0"(SYS_getppid) : "memory");
        ok &= result >= 0;
    }
    return ok;
}

static int pipe_ends[2];
static char pipe_data[PAGE_BYTES];

static int prepare_pipe(void) {
    return pipe_ends[1] ? 0 : pipe(pipe_ends);
}

static uint32_t pass_through_pipe(uint32_t n, size_t bytes) {
    uint32_t total = 0;

    for (; n; n--) {
        if (write(pipe_ends[1], pipe_data, bytes) != (ssize_t)bytes)
            return 0;
        total += read(pipe_ends[0], pipe_data, bytes);
    }
    return total;
}

static uint32_t run_pipe(uint32_t n) {
    return pass_through_pipe(n, 1);
}
static uint32_t run_pipe_page(uint32_t n) {
    return pass_through_pipe(n, PAGE_BYTES);
}

static uint32_t touch_fresh(uint32_t n, uint32_t pages) {
    uint32_t sum = 0;

    for (; n; n -= pages) {
        volatile uint8_t *at = map_pages(pages, PROT_READ | PROT_WRITE);
        if (!at)
            return 0;
        for (uint32_t i = 0; i < pages; i++)
            at[i * PAGE_BYTES] = 1; /* a read first would make it two faults */
        sum += at[n % pages * PAGE_BYTES];
        munmap((void *)at, pages * PAGE_BYTES);
    }
    return sum;
}

static uint32_t run_fault(uint32_t n) {
    return touch_fresh(n, FAULT_PAGES);
}

static volatile uint8_t *protect_area;

static int prepare_protect(void) {
    protect_area = map_pages(PROTECT_PAGES, PROT_READ | PROT_WRITE);
    for (int i = 0; protect_area && i < PROTECT_PAGES; i++)
        protect_area[i * PAGE_BYTES] = 1;
    return protect_area == NULL;
}

/* One operation: read-only and back, every page read in between and written after. */
static uint32_t run_protect(uint32_t n) {
    uint32_t sum = 0;

    for (; n; n--) {
        mprotect((void *)protect_area, PROTECT_PAGES * PAGE_BYTES, PROT_READ);
        for (int i = 0; i < PROTECT_PAGES; i++)
            sum += protect_area[i * PAGE_BYTES] != 0;
        mprotect((void *)protect_area, PROTECT_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE);
        for (int i = 0; i < PROTECT_PAGES; i++)
            protect_area[i * PAGE_BYTES] = 1;
    }
    return sum;
}

static volatile uint8_t *fork_area;

static int prepare_fork(void) {
    if (!fork_area)
        fork_area = map_pages(FORK_PAGES, PROT_READ | PROT_WRITE);
    for (int i = 0; fork_area && i < FORK_PAGES; i++)
        fork_area[i * PAGE_BYTES] = 1;
    return fork_area == NULL;
}

static uint32_t wait_for(pid_t child) {
    int status = -1;

    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)
               ? (uint32_t)WEXITSTATUS(status)
               : 0;
}

/* The parent writes its pages again after each fork: copy-on-write is part of the price. */
static uint32_t run_fork(uint32_t n) {
    uint32_t sum = 0;

    for (; n; n--) {
        pid_t child = fork();
        if (child == 0)
            _exit(fork_area[0] + 2);
        for (int i = 0; i < FORK_PAGES; i++)
            fork_area[i * PAGE_BYTES] = 1;
        sum += wait_for(child);
    }
    return sum;
}

static uint32_t run_exec(uint32_t n) {
    uint32_t sum = 0;

    for (; n; n--) {
        pid_t child = fork();
        if (child == 0) {
            execl(self_path, self_path, "--exit", (char *)NULL);
            _exit(0);
        }
        sum += wait_for(child);
    }
    return sum;
}

/* One operation is one switch, so a round trip counts twice. */
static uint32_t run_switch(uint32_t n) {
    int there[2], back[2];
    uint32_t passed = 0;
    char byte = 0;
    pid_t child;

    if (pipe(there) || pipe(back))
        return 0;
    child = fork();
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            continue;
        _exit(0);
    }
    close(there[0]);
    for (uint32_t i = 0; child > 0 && i < n; i += 2)
        passed += write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1;
    close(there[1]);
    wait_for(child);
    close(back[0]);
    close(back[1]);
    return passed;
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int number) {
    (void)number;
    signals_seen++;
}

static int prepare_signal(void) {
    struct sigaction action = {.sa_handler = on_signal};

    return sigaction(SIGUSR1, &action, NULL);
}

static uint32_t run_signal(uint32_t n) {
    pid_t self = getpid();

    signals_seen = 0;
    for (; n; n--)
        kill(self, SIGUSR1);
    return signals_seen;
}

static volatile uint8_t *code_area;
typedef uint32_t (*code_fn)(void);

static int prepare_code(void) {
    if (!code_area)
        code_area =
            map_pages(COLD_FUNCTIONS * COLD_BYTES / PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
    return code_area == NULL;
}

/* mov eax, value; ret */
static code_fn write_function(volatile uint8_t *at, uint32_t value) {
    at[0] = 0xb8;
    memcpy((void *)(at + 1), &value, 4);
    at[5] = 0xc3;
    __asm__ volatile("" : : : "memory");
    return (code_fn)at;
}

static uint32_t run_rewrite(uint32_t n) {
    uint32_t sum = 0;

    for (; n; n--)
        sum += write_function(code_area, n)();
    return sum;
}

/* Eight functions on one page, one of them rewritten between 64 calls of each. */
static uint32_t run_jit(uint32_t n) {
    uint32_t sum = 0;

    for (int k = 0; k < 8; k++)
        write_function(code_area + k * 256, k);
    for (uint32_t i = 0; i < n; i++) {
        write_function(code_area + i % 8 * 256, i);
        for (int call = 0; call < 64; call++)
            for (int k = 0; k < 8; k++)
                sum += ((code_fn)(code_area + k * 256))();
    }
    return sum;
}

/* 4,096 functions of ten instructions, written and then called twice each. */
static uint32_t run_cold(uint32_t n) {
    /* lea/add/xor/rol/imul/sub/not/shr/... on eax, ecx and edx, which a callee may change */
    static const uint8_t body[] = {0xb9, 1,    0,    0,    0,    0x01, 0xc8, 0x31, 0xc1,
                                   0xc1, 0xc0, 5,    0x8d, 0x14, 0x08, 0x29, 0xd0, 0xf7,
                                   0xd1, 0x21, 0xca, 0xc1, 0xea, 3,    0x01, 0xd0, 0xc3};
    uint32_t sum = 0;

    for (; n; n -= COLD_FUNCTIONS) {
        for (uint32_t k = 0; k < COLD_FUNCTIONS; k++) {
            write_function(code_area + k * COLD_BYTES, n + k);
            memcpy((void *)(code_area + k * COLD_BYTES + 5), body, sizeof(body));
        }
        for (uint32_t k = 0; k < 2 * COLD_FUNCTIONS; k++)
            sum += ((code_fn)(code_area + k % COLD_FUNCTIONS * COLD_BYTES))();
    }
    return sum;
}

/* Left mapped on purpose: the memory of the whole machine is read while it stands. */
static uint32_t run_fill(uint32_t n) {
    volatile uint8_t *at = map_pages(n, PROT_READ | PROT_WRITE);
    uint32_t sum = 0;

    for (uint32_t i = 0; at && i < n; i++)
        at[i * PAGE_BYTES] = 1;
    for (uint32_t i = 0; at && i < n; i += 64)
        sum += at[i * PAGE_BYTES];
    return sum;
}

const struct row kernel_rows[] = {
    {"syscall_int80", "getppid by int 0x80", 50000, 1, 0, NULL, run_int80},
    {"syscall_sysenter", "getppid through the vDSO", 100000, 1, 0, prepare_sysenter, run_sysenter},
    {"pipe_byte", "write and read of 1 byte", 20000, 1, 1, prepare_pipe, run_pipe},
    {"pipe_page", "write and read of 4 KiB", 10000, 1, 1, prepare_pipe, run_pipe_page},
    {"demand_zero", "first write to a page, mmap and munmap of 256", FAULT_PAGES * 16, FAULT_PAGES,
     FAULT_PAGES, NULL, run_fault},
    {"mprotect", "16 pages read-only, read, writable, written", 1000, 1, PROTECT_PAGES,
     prepare_protect, run_protect},
    {"fork_wait", "fork, 64 pages written, wait", 100, 1, FORK_PAGES, prepare_fork, run_fork},
    {"fork_exec", "fork, exec of this program, wait", 60, 1, FORK_PAGES, prepare_fork, run_exec},
    {"context_switch", "switch between two processes", 4000, 2, 1, NULL, run_switch},
    {"signal", "kill of itself, handler and return", 10000, 1, 0, prepare_signal, run_signal},
    {"code_rewrite", "function written and called once", 5000, 1, 1, prepare_code, run_rewrite},
    {"code_jit", "one of 8 functions written, 512 calls", 2000, 1, 1, prepare_code, run_jit},
    {"code_cold", "function of 10 instructions written, called twice", COLD_FUNCTIONS,
     COLD_FUNCTIONS, COLD_FUNCTIONS *COLD_BYTES / PAGE_BYTES, prepare_code, run_cold},
    {"ram_fill", "first write to a page, 96 MiB left mapped", FILL_PAGES, FILL_PAGES, FILL_PAGES,
     NULL, run_fill},
    {0},
};
