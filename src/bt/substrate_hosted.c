/*
 * substrate_hosted.c: translated code in an ordinary Linux process. Traps arrive as signals on an
 * alternate stack; a signal from anywhere but translated code is a bug of the monitor and goes to
 * the crash reporter.
 */
#include "bt/bt_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <ucontext.h>

/* The one thread-local of the translator: where the host fault handler starts from. */
static _Thread_local struct bt *current_bt;

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

struct substrate {
    void *fault_stack; /* alternate signal stack */
};

/* The signal frame's registers by hardware number. */
static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

static void trap_from_signal(struct bt_trap *t, const ucontext_t *uc, const siginfo_t *info) {
    const greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++)
        t->reg[i] = (u64)g[greg_of[i]];
    t->rip = (u64)g[REG_RIP];
    t->rflags = (u64)g[REG_EFL];
    t->vector = (u64)g[REG_TRAPNO];
    t->error = (u64)g[REG_ERR];
    t->address = (u64)info->si_addr;
    t->leave = false;
}

static void resume_at(const struct bt_trap *t, ucontext_t *uc) {
    greg_t *g = uc->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)t->reg[i];
    g[REG_RIP] = (greg_t)t->rip;
}

_Noreturn static void unexpected(int sig, const ucontext_t *uc, const siginfo_t *info) {
    static char text[160];
    struct bt_trap trap;
    trap_from_signal(&trap, uc, info);
    if (current_bt)
        bt_trap_save_guest(current_bt, &trap);
    snprintf(text, sizeof text, "host signal %d at pc %#llx, address %p", sig,
             (unsigned long long)trap.rip, info->si_addr);
    if (rf_crash_hook)
        rf_crash_hook(text);
    signal(SIGABRT, SIG_DFL);
    abort();
}

static void on_fault(int sig, siginfo_t *info, void *context) {
    int saved_errno = errno;
    ucontext_t *uc = context;
    struct bt_trap trap;
    if (!current_bt || info->si_code <= 0)
        unexpected(sig, uc, info);
    trap_from_signal(&trap, uc, info);
    if (!bt_trap(current_bt, &trap))
        unexpected(sig, uc, info);
    resume_at(&trap, uc);
    errno = saved_errno;
}

static size_t alternate_stack_bytes(void) {
    unsigned long min = getauxval(AT_MINSIGSTKSZ);
    return 65536 + (min ? min : 4096) * 2;
}

bool substrate_open(struct bt *bt, char *err, size_t err_bytes) {
    size_t bytes = alternate_stack_bytes();
    bt->substrate = calloc(1, sizeof *bt->substrate);
    if (bt->substrate)
        bt->substrate->fault_stack = malloc(bytes);
    if (!bt->substrate || !bt->substrate->fault_stack) {
        snprintf(err, err_bytes, "no memory for a signal stack");
        return false;
    }
    stack_t stack = {.ss_sp = bt->substrate->fault_stack, .ss_size = bytes};
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (sigaltstack(&stack, NULL) != 0) {
        snprintf(err, err_bytes, "no alternate signal stack");
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(fault_signals); i++)
        if (sigaction(fault_signals[i], &action, NULL) != 0) {
            snprintf(err, err_bytes, "cannot handle signal %d: %s", fault_signals[i],
                     strerror(errno));
            return false;
        }
    current_bt = bt;
    return true;
}

void substrate_close(struct bt *bt) {
    if (current_bt == bt)
        current_bt = NULL;
    if (!bt->substrate)
        return;
    if (bt->substrate->fault_stack) {
        stack_t off = {.ss_flags = SS_DISABLE};
        sigaltstack(&off, NULL);
        free(bt->substrate->fault_stack);
    }
    free(bt->substrate);
}

/* WRGSBASE, where the kernel lets user programs use it. */
bool substrate_switches_gs(void) {
    return getauxval(AT_HWCAP2) & 2;
}

#define ARCH_SET_GS_CODE 0x1001
void substrate_set_gs_base(u64 base) {
    long result;
    register long nr __asm__("rax") = 158; /* arch_prctl */
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "r"(nr), "D"(ARCH_SET_GS_CODE), "S"(base)
                     : "rcx", "r11", "memory");
}

void bt_interrupted(struct bt *bt, void *frame) {
    (void)bt, (void)frame; /* signals interrupt nothing but translated code */
}

void substrate_load_tsc(struct bt *bt) {
    (void)bt; /* RDTSCP is emulated */
}

bool substrate_direct_ready(struct bt *bt) {
    (void)bt;
    return false;
}
