/*
 * native.c: runs cases on the host CPU itself. A child process has the cases' memory at the guest's
 * addresses, all of them below 4 GiB, and enters 32-bit code by a far jump; faults come back as
 * signals. Cases and results are in memory shared with the parent, a batch per round trip.
 *
 * A ticking timer ends cases that run on; what kills the child costs one case.
 */
#include "fuzz.h"

#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define TICK_US 20000
#define WAIT_MS 20000 /* for one batch */

/* What the assembly works on. */
struct native_state {
    _Alignas(64) u8 fx[512];
    u32 gpr[8];
    u64 flags;
    u32 far_eip;
    u16 far_cs, far_pad;
    u16 seg[6];
    u32 pad;
    u64 host_rsp, host_fs_base;
    u32 running;
    u64 iret[5]; /* EIP, CS, EFLAGS, ESP, SS */
};
#define CHECK_OFFSET(field, value)                                                                 \
    _Static_assert(offsetof(struct native_state, field) == (value), "native_entry.S hard-codes "   \
                                                                    "it")
CHECK_OFFSET(gpr, 512);
CHECK_OFFSET(flags, 544);
CHECK_OFFSET(far_eip, 552);
CHECK_OFFSET(seg, 560);
CHECK_OFFSET(host_rsp, 576);
CHECK_OFFSET(host_fs_base, 584);
CHECK_OFFSET(running, 592);
CHECK_OFFSET(iret, 600);

/* Global for the assembly and the signal handler of the child. */
struct native_state fuzz_native_state;
static struct fuzz_result *current_result;

int fuzz_native_enter(void);
void fuzz_native_leave(int value);
void fuzz_native_signal(int number, siginfo_t *info, void *context);
void fuzz_on_signal(int number, siginfo_t *info, void *context);
extern const u8 fuzz_stub[], fuzz_stub16[], fuzz_stub_end[];

/* In shared memory, in front of cases and results. */
struct control {
    volatile u32 next; /* the case being run */
    u8 template[FUZZ_SCRATCH_BYTES];
};

struct fuzz_native {
    struct control *control;
    struct fuzz_case *cases;
    struct fuzz_result *results;
    u8 *scratch, *code; /* the parent's view of them */
    int scratch_fd, code_fd;
    unsigned max_cases, count;
    pid_t child;
    int to_child, from_child;
};

/* ---- The child ---- */

/* Ways a case ends by a signal: values for fuzz_native_leave. */
enum { LEFT_FAULT = 1, LEFT_TICK };

static u8 trap_vector(const ucontext_t *uc) {
    return (u8)uc->uc_mcontext.gregs[REG_TRAPNO];
}

/* The state at the fault. */
static void result_from_signal(struct fuzz_result *r, const ucontext_t *uc) {
    static const int order[8] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX,
                                 REG_RSP, REG_RBP, REG_RSI, REG_RDI};
    const greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 8; i++)
        r->gpr[i] = (u32)g[order[i]];
    r->eflags = (u32)g[REG_EFL];
    r->eip = (u32)g[REG_RIP];
    r->vector = trap_vector(uc);
    r->error = (u32)g[REG_ERR];
    r->cr2 = r->vector == VEC_PF ? (u32)g[REG_CR2] : 0;
    memcpy(r->fx, uc->uc_mcontext.fpregs, FUZZ_FX_BYTES);
    memcpy(r->seg, fuzz_native_state.seg, sizeof r->seg);
    r->seg[SEG_CS] = (u16)g[REG_CSGSFS];
    r->seg[SEG_SS] = (u16)((u64)g[REG_CSGSFS] >> 48);
}

/* Reached through fuzz_native_signal. */
void fuzz_on_signal(int number, siginfo_t *info, void *context) {
    const ucontext_t *uc = context;
    (void)info;
    if (!fuzz_native_state.running) {
        if (number == SIGALRM)
            return;
        _exit(3); /* a bug here: the parent tells */
    }
    if (number == SIGALRM)
        fuzz_native_leave(LEFT_TICK);
    result_from_signal(current_result, uc);
    fuzz_native_leave(LEFT_FAULT);
}

static void child_signals(void) {
    static u8 stack[65536 * 2];
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM};
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&ss, NULL);
    struct sigaction sa = {.sa_sigaction = fuzz_native_signal,
                           .sa_flags = SA_ONSTACK | SA_NODEFER | SA_SIGINFO};
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &sa, NULL);
}

static bool map_at(u32 lin, u32 bytes, int rights, int fd, u64 offset) {
    void *want = (void *)(uintptr_t)lin;
    return mmap(want, bytes, rights, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
                (off_t)offset) == want;
}

bool fuzz_has_low(void) {
    FILE *f = fopen("/proc/sys/vm/mmap_min_addr", "r");
    unsigned long least = 65536;
    if (f) {
        if (fscanf(f, "%lu", &least) != 1)
            least = 65536;
        fclose(f);
    }
    return least <= FUZZ_LOW;
}

static bool child_memory(const struct fuzz_native *n) {
    for (u32 i = 0; i < FUZZ_PAGES; i++) {
        int rights = i < FUZZ_RW_PAGES ? PROT_READ | PROT_WRITE : PROT_READ;
        if (fuzz_page_lin[i] < 65536 && !fuzz_has_low())
            continue;
        if (!map_at(fuzz_page_lin[i], PAGE_BYTES, rights, n->scratch_fd, i * (u64)PAGE_BYTES))
            return false;
    }
    if (!map_at(FUZZ_CODE, FUZZ_CODE_BYTES, PROT_READ | PROT_EXEC, n->code_fd, 0))
        return false;
    void *stub = (void *)(uintptr_t)FUZZ_STUB;
    if (mmap(stub, PAGE_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != stub)
        return false;
    memcpy(stub, fuzz_stub, (size_t)(fuzz_stub_end - fuzz_stub));
    if (fuzz_stub16 - fuzz_stub != FUZZ_STUB16)
        return false;
    return mprotect(stub, PAGE_BYTES, PROT_READ | PROT_EXEC) == 0;
}

static bool set_descriptor(u16 selector, const struct fuzz_descriptor *d) {
    struct user_desc u = {.entry_number = selector >> 3,
                          .base_addr = d->base,
                          .limit = d->limit,
                          .seg_32bit = !d->small,
                          .contents = d->conforming ? 3u
                                      : d->code     ? 2u
                                      : d->down     ? 1u
                                                    : 0u,
                          .read_exec_only = d->read_only,
                          .limit_in_pages = d->pages,
                          .seg_not_present = d->absent,
                          .useable = 0};
    return syscall(SYS_modify_ldt, 0x11, &u, sizeof u) == 0;
}

/* The LDT as far as the host allows it: kernels without CONFIG_MODIFY_LDT_SYSCALL and seccomp
 * filters of containers refuse all of it, kernels without espfix its 16-bit segments. */
static bool child_ldt(void) {
    const struct fuzz_descriptor *d;
    for (unsigned i = 0; i < FUZZ_LDT_ENTRIES; i++)
        if ((d = fuzz_descriptor((u16)FUZZ_LDT(i))) && !set_descriptor((u16)FUZZ_LDT(i), d))
            return false;
    d = fuzz_descriptor(FUZZ_LDT_EXIT);
    return !d || set_descriptor(FUZZ_LDT_EXIT, d);
}

/* Tries what the LDT may hold, in a process of its own. */
static void probe_ldt(void) {
    static const struct fuzz_descriptor plain = {.limit = 1}, small = {.limit = 1, .small = true};
    pid_t child = fork();
    int status = 0;
    if (child == 0)
        _exit(set_descriptor(7, &plain) ? set_descriptor(15, &small) ? 2 : 1 : 0);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    int allowed = child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    fuzz_segments_allow(allowed >= 1, allowed >= 2);
}

/* No case may call the host's kernel, whatever bytes it runs into: INT 80h, SYSENTER and SYSCALL of
 * 32-bit code end the process, which is a difference. Kernels without seccomp go without. */
static void child_fence(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(filter), .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void child_load(const struct fuzz_case *c) {
    struct native_state *s = &fuzz_native_state;
    memcpy(s->fx, c->fx, sizeof s->fx);
    memcpy(s->gpr, c->gpr, sizeof s->gpr);
    memcpy(s->seg, c->seg, sizeof s->seg);
    s->flags = c->eflags;
    s->far_eip = c->entry - fuzz_base(c->seg[SEG_CS]);
    s->far_cs = c->seg[SEG_CS];
    s->iret[0] = s->far_eip;
    s->iret[1] = s->far_cs;
    s->iret[2] = c->eflags;
    s->iret[3] = c->gpr[R_ESP];
    s->iret[4] = c->seg[SEG_SS];
}

/* The single-step trap behind a case's last jump. */
static bool trapped_behind(const struct fuzz_result *r) {
    return r->vector == VEC_DB &&
           ((r->seg[SEG_CS] == FUZZ_CS64 && r->eip == FUZZ_STUB) ||
            (r->seg[SEG_CS] == FUZZ_LDT_EXIT && r->eip == (FUZZ_STUB & 0xffff)));
}

/* A case that ran to its end, and one whose single-step trap came behind its last jump. */
static void child_result(struct fuzz_result *r, const struct fuzz_case *c, int left) {
    struct native_state *s = &fuzz_native_state;
    u32 end = c->entry + c->code_bytes;
    if (left == LEFT_FAULT) {
        bool done = trapped_behind(r);
        r->end = done ? FUZZ_DONE : FUZZ_FAULT;
        if (done) {
            r->eip = end;
            r->seg[SEG_CS] = FUZZ_CS;
            r->vector = 0;
            r->error = 0;
        }
        return;
    }
    r->end = FUZZ_DONE;
    r->vector = 0;
    r->error = r->cr2 = 0;
    memcpy(r->fx, s->fx, FUZZ_FX_BYTES);
    memcpy(r->gpr, s->gpr, sizeof r->gpr);
    memcpy(r->seg, s->seg, sizeof r->seg);
    r->seg[SEG_CS] = FUZZ_CS;
    r->eflags = (u32)s->flags;
    r->eip = end;
}

static void child_run(struct fuzz_native *n, u32 i) {
    const struct fuzz_case *c = &n->cases[i];
    struct fuzz_result *r = &n->results[i];
    current_result = r;
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        fuzz_memory_reset(n->scratch, n->control->template, c);
        child_load(c);
        int left = fuzz_native_enter();
        r->memory = fuzz_memory_hash(n->scratch, n->control->template, c);
        if (left != LEFT_TICK) {
            child_result(r, c, left);
            return;
        }
    }
    memset(r, 0, sizeof *r);
    r->end = FUZZ_TIMEOUT;
}

_Noreturn static void child_main(struct fuzz_native *n, int from_parent, int to_parent) {
    u32 count;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    child_signals();
    char ok = child_memory(n) && child_ldt();
    child_fence();
    if (write(to_parent, &ok, 1) != 1 || !ok)
        _exit(2);
    struct itimerval tick = {{0, TICK_US}, {0, TICK_US}}, off = {{0, 0}, {0, 0}};
    while (read(from_parent, &count, sizeof count) == sizeof count) {
        setitimer(ITIMER_REAL, &tick, NULL);
        while (n->control->next < count) {
            if (!n->cases[n->control->next].skip)
                child_run(n, n->control->next);
            n->control->next++;
        }
        setitimer(ITIMER_REAL, &off, NULL);
        if (write(to_parent, &ok, 1) != 1)
            break;
    }
    _exit(0);
}

/* ---- The parent ---- */

static void close_pipes(struct fuzz_native *n) {
    if (n->to_child >= 0)
        close(n->to_child);
    if (n->from_child >= 0)
        close(n->from_child);
    n->to_child = n->from_child = -1;
}

static bool spawn(struct fuzz_native *n) {
    int down[2], up[2];
    char ok = 0;
    if (pipe2(down, O_CLOEXEC) != 0)
        return false;
    if (pipe2(up, O_CLOEXEC) != 0) {
        close(down[0]);
        close(down[1]);
        return false;
    }
    fflush(NULL);
    n->child = fork();
    if (n->child == 0) {
        close(down[1]);
        close(up[0]);
        child_main(n, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    n->to_child = down[1];
    n->from_child = up[0];
    return n->child > 0 && read(n->from_child, &ok, 1) == 1 && ok;
}

static void reap(struct fuzz_native *n) {
    if (n->child > 0) {
        kill(n->child, SIGKILL);
        while (waitpid(n->child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    n->child = 0;
    close_pipes(n);
}

static void *shared(size_t bytes, int *fd) {
    int file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0)
        return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (fd)
        *fd = file;
    else
        close(file);
    return p == MAP_FAILED ? NULL : p;
}

struct fuzz_native *fuzz_native_create(unsigned max_cases, bool ldt, const char **why) {
    static struct fuzz_native native;
    struct fuzz_native *n = &native;
    *n = (struct fuzz_native){.max_cases = max_cases, .to_child = -1, .from_child = -1};
    signal(SIGPIPE, SIG_IGN); /* a dead child is found out by its answer */
    *why = "the kernel does not let programs write the FS base";
    if (!(getauxval(AT_HWCAP2) & 2))
        return NULL;
    *why = "no shared memory";
    n->scratch = shared(FUZZ_SCRATCH_BYTES, &n->scratch_fd);
    n->code = shared(FUZZ_CODE_BYTES, &n->code_fd);
    n->control = shared(sizeof *n->control, NULL);
    n->cases = shared(max_cases * sizeof *n->cases, NULL);
    n->results = shared(max_cases * sizeof *n->results, NULL);
    if (!n->scratch || !n->code || !n->control || !n->cases || !n->results)
        return NULL;
    memset(n->code + FUZZ_HALTS, 0xf4, PAGE_BYTES);
    if (ldt)
        probe_ldt();
    *why = "no memory below 4 GiB";
    if (!spawn(n)) {
        fuzz_native_destroy(n);
        return NULL;
    }
    return n;
}

void fuzz_native_destroy(struct fuzz_native *n) {
    reap(n);
    munmap(n->scratch, FUZZ_SCRATCH_BYTES);
    munmap(n->code, FUZZ_CODE_BYTES);
    munmap(n->control, sizeof *n->control);
    munmap(n->cases, n->max_cases * sizeof *n->cases);
    munmap(n->results, n->max_cases * sizeof *n->results);
    close(n->scratch_fd);
    close(n->code_fd);
}

struct fuzz_case *fuzz_native_cases(struct fuzz_native *n) {
    return n->cases;
}
const struct fuzz_result *fuzz_native_results(struct fuzz_native *n) {
    return n->results;
}
u8 *fuzz_native_template(struct fuzz_native *n) {
    return n->control->template;
}
u8 *fuzz_native_scratch(struct fuzz_native *n) {
    return n->scratch;
}

static void go(struct fuzz_native *n) {
    if (write(n->to_child, &n->count, sizeof n->count) != sizeof n->count)
        return; /* it died: fuzz_native_wait finds out */
}

void fuzz_native_start(struct fuzz_native *n, unsigned count) {
    n->count = count;
    n->control->next = 0;
    for (unsigned i = 0; i < count; i++)
        memcpy(n->code + (n->cases[i].entry - FUZZ_CODE), n->cases[i].code,
               n->cases[i].code_bytes + FUZZ_EXIT_BYTES);
    memcpy(n->scratch + FUZZ_RW_BYTES, n->control->template + FUZZ_RW_BYTES,
           FUZZ_SCRATCH_BYTES - FUZZ_RW_BYTES);
    go(n);
}

void fuzz_native_wait(struct fuzz_native *n) {
    for (;;) {
        struct pollfd p = {.fd = n->from_child, .events = POLLIN};
        char ok;
        int ready = poll(&p, 1, WAIT_MS);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready > 0 && read(n->from_child, &ok, 1) == 1)
            return;
        reap(n);
        n->results[n->control->next] = (struct fuzz_result){.end = FUZZ_CRASH};
        n->control->next++;
        if (!spawn(n)) {
            fprintf(stderr, "fuzz_native: the native process does not start again\n");
            exit(1);
        }
        go(n);
    }
}
