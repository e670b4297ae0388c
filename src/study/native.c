/*
 * native.c: the operations that an ordinary process can do, without any virtual machine. Each is
 * timed as the guest kernel times its own: a loop between two readings of the TSC. They run in a
 * child process, for some end by a signal where the host does not have them.
 */
#include "study/study_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define TEN(text) "\n.rept 10\n" text "\n.endr\n"
/* Below the red zone of whoever called. */
#define TIMED(n, body)                                                                             \
    ({                                                                                             \
        u64 start_ = __builtin_ia32_rdtsc();                                                       \
        u64 left_ = (n);                                                                           \
        __asm__ volatile("sub $128,%%rsp\n.balign 16\n1:" body "\ndec %0; jnz 1b\nadd $128,%%rsp"  \
                         : "+D"(left_)                                                             \
                         :                                                                         \
                         : "rax", "rbx", "rcx", "rdx", "r11", "memory", "cc");                     \
        (u32)(__builtin_ia32_rdtsc() - start_);                                                    \
    })

__asm__(".pushsection .text\n.balign 16\nnative_target: ret\n.balign 16\nnative_target2: ret\n"
        ".popsection");

void native_loop(struct study_batch *out) {
    *out = (struct study_batch){TIMED(100000, ""), 100000};
}

void native_int80(struct study_batch *out) {
    *out = (struct study_batch){TIMED(1000, "mov $20,%%eax; int $0x80"), 1000}; /* i386 getpid */
}

void native_syscall(struct study_batch *out) {
    *out = (struct study_batch){TIMED(1000, "mov $110,%%eax; syscall"), 1000};
}
_Static_assert(SYS_getppid == 110, "as in native_syscall");

void native_rdtsc(struct study_batch *out) {
    *out = (struct study_batch){TIMED(100, TEN("rdtsc")), 1000};
}

void native_call(struct study_batch *out) {
    *out = (struct study_batch){TIMED(100, TEN("call native_target")), 1000};
}

void native_call_indirect(struct study_batch *out) {
    *out = (struct study_batch){
        TIMED(100, "lea native_target(%%rip),%%rbx; lea native_target2(%%rip),%%rcx"
                   "\n.rept 5\ncall *%%rbx; call *%%rcx\n.endr\n"),
        1000};
}

void native_pushf_popf(struct study_batch *out) {
    *out = (struct study_batch){TIMED(100, TEN("pushf; popf")), 1000};
}

void native_cpuid(struct study_batch *out) {
    *out = (struct study_batch){TIMED(1000, "xor %%eax,%%eax; cpuid"), 1000};
}

void native_minor_fault(struct study_batch *out) {
    enum { PAGES = 1000 };
    u8 *p =
        mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *out = (struct study_batch){0};
    if (p == MAP_FAILED)
        return;
    madvise(p, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
    u64 start = __builtin_ia32_rdtsc();
    for (unsigned i = 0; i < PAGES; i++)
        *(volatile u8 *)(p + i * PAGE_BYTES) = 1;
    *out = (struct study_batch){(u32)(__builtin_ia32_rdtsc() - start), PAGES};
    munmap(p, PAGES * PAGE_BYTES);
}

/* Over `div %ecx` and over `mov %al,(%rbx)`: two bytes each. */
static void skip_two_bytes(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void handle(int signal) {
    struct sigaction act = {.sa_sigaction = skip_two_bytes, .sa_flags = SA_SIGINFO};
    sigaction(signal, &act, NULL);
}

void native_divide(struct study_batch *out) {
    handle(SIGFPE);
    *out = (struct study_batch){TIMED(1000, "xor %%ecx,%%ecx; div %%ecx"), 1000};
}

void native_signal(struct study_batch *out) {
    handle(SIGSEGV);
    *out = (struct study_batch){TIMED(1000, "xor %%ebx,%%ebx; mov %%al,(%%rbx)"), 1000};
}

void native_print(const char *name, void (*batch)(struct study_batch *), unsigned count) {
    struct study_batch b;
    batch(&b);
    printf("row %s", name);
    for (unsigned i = 0; i < count; i++) {
        batch(&b);
        printf(" %u/%u", b.ticks, b.operations);
    }
    printf("\n");
}

struct reading {
    double ns, tsc;
};

/* The clock between two readings of the TSC that lie close together. */
static struct reading read_both(void) {
    struct reading best = {0};
    u64 closest = ~0ull;
    for (int i = 0; i < 20; i++) {
        struct timespec at;
        u64 before = __builtin_ia32_rdtsc();
        clock_gettime(CLOCK_MONOTONIC, &at);
        u64 after = __builtin_ia32_rdtsc();
        if (after - before < closest) {
            closest = after - before;
            best = (struct reading){(double)at.tv_sec * 1e9 + (double)at.tv_nsec,
                                    (double)(before + closest / 2)};
        }
    }
    return best;
}

double study_tsc_hz(void) {
    struct reading a = read_both();
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    struct reading b = read_both();
    return (b.tsc - a.tsc) / (b.ns - a.ns) * 1e9;
}
