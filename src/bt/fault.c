/*
 * fault.c: the host fault handler. A signal raised inside translated code becomes a window fill, a
 * guest exception, an instruction to emulate, or an interrupt poll that fired; a signal from
 * anywhere else is a bug of the monitor and goes to the crash reporter.
 *
 * Everything here runs on the alternate stack and is async-signal-safe.
 */
#include "bt/bt_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

/* The one thread-local of the translator: where the host fault handler starts from. */
static _Thread_local struct bt *current_bt;

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

/* Host exception numbers as the kernel reports them in REG_TRAPNO. */
enum {
    TRAP_DE = 0,
    TRAP_UD = 6,
    TRAP_GP = 13,
    TRAP_PF = 14,
    TRAP_MF = 16,
    TRAP_AC = 17,
    TRAP_XM = 19
};

/* Guest registers out of the signal frame; the flags stay in the hot area until bt_run merges. */
static void save_registers(struct cpu *cpu, const greg_t *g) {
    static const int order[8] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX,
                                 REG_R12, REG_RBP, REG_RSI, REG_RDI};
    for (int i = 0; i < 8; i++)
        cpu->gpr[i] = (u32)g[order[i]];
    bt_hot(cpu)->flags16 = bt_flags16((u32)g[REG_EFL]);
    bt_hot(cpu)->return_rsp = (u64)g[REG_RSP];
}

/* Leaves translated code when the handler returns. */
static void leave_from_handler(struct cpu *cpu, greg_t *g, u32 eip, u32 exit) {
    struct bt_hot *hot = bt_hot(cpu);
    save_registers(cpu, g);
    cpu->eip = eip;
    hot->exit = exit;
    g[REG_R15] = (greg_t)cpu;
    g[REG_RSP] = (greg_t)hot->host_rsp;
    g[REG_RBP] = (greg_t)(hot->host_rsp + 64);
    g[REG_RIP] = (greg_t)bt_fault_exit;
}

struct fault_place {
    struct bt *bt;
    struct cpu *cpu;
    const struct bt_unit *unit;
    const struct bt_pc *pc;
    u32 eip;
};

static void leave_unit(const struct fault_place *at, greg_t *g, u32 exit) {
    struct bt_hot *hot = bt_hot(at->cpu);
    if (at->bt->config.icount) /* give back what did not run */
        hot->budget += at->unit->insns > at->pc->index ? at->unit->insns - at->pc->index : 0;
    leave_from_handler(at->cpu, g, at->eip, exit);
    at->cpu->gpr[R_ESP] = (u32)(at->cpu->gpr[R_ESP] + (u32)at->pc->esp);
}

static void emulate(const struct fault_place *at, greg_t *g) {
    at->bt->fault_emulate = true;
    at->bt->fault_gpa = at->unit->gpa + at->pc->guest;
    leave_unit(at, g, BT_EXIT_EMULATE);
}

/* A ring-0 access to an application's page is not worth a mapping that the next CR3 load drops. */
static bool kernel_touches_user_page(const struct fault_place *at, struct glin lin) {
    struct mmu_xlat x;
    return at->bt->config.adapt && at->unit->cpl == 0 && cpu_paging(at->cpu) &&
           mmu_probe(at->cpu, lin, &x) && x.user;
}

static bool window_fault(const struct fault_place *at, greg_t *g, u64 address, bool write) {
    struct cpu *cpu = at->cpu;
    bool user = at->unit->cpl == 3;
    struct glin lin;
    if (!mmu_window_contains(cpu, address, user, &lin))
        return false;
    if (kernel_touches_user_page(at, lin)) {
        emulate(at, g);
        return true;
    }
    switch (mmu_window_fault(cpu, user, lin, write)) {
    case MMU_FAULT_FILLED:
        break;
    case MMU_FAULT_TRUE:
        at->bt->prefill_pending = user;
        at->bt->prefill_lin = (u32)lin.v;
        at->bt->prefill_write = write;
        leave_unit(at, g, BT_EXIT_FAULT);
        break;
    default:
        emulate(at, g);
        break;
    }
    return true;
}

/* Where the host call at the fault was going, as a guest EIP. */
static u32 call_target(const struct fault_place *at, const greg_t *g) {
    const struct bt *bt = at->bt;
    const u8 *pc = (const u8 *)g[REG_RIP];
    u32 patch = (u32)(pc + 1 - bt->cache_rx);
    for (u32 i = 0; *pc == 0xe8 && i < at->unit->slot_count; i++)
        if (bt->slot[at->unit->slot_first + i].patch == patch)
            return bt->slot[at->unit->slot_first + i].target_eip;
    return (u32)g[REG_R8];
}

/* The return stack is full: forget its frames and go on, or leave if a kick waits. The guest's own
 * push is done, so the place to leave at is the call's target. */
static void return_stack_full(const struct fault_place *at, greg_t *g, bool user) {
    u64 top = at->bt->return_top[user];
    *(u64 *)top = (u64)bt_stub_underflow;
    g[REG_RSP] = (greg_t)top;
    if (bt_hot(at->cpu)->kick)
        leave_from_handler(at->cpu, g, call_target(at, g), BT_EXIT_KICK);
}

static bool page_fault(const struct fault_place *at, ucontext_t *uc, u64 address) {
    greg_t *g = uc->uc_mcontext.gregs;
    u64 base = (u64)at->cpu;
    if (address - (base + CPU_SAFEPOINT_OFFSET) < PAGE_BYTES) {
        bt_disarm_safepoint(at->cpu);
        at->bt->stats->safepoints++;
        if (at->pc->recovery == RECOVER_STI)
            at->cpu->shadow = SHADOW_STI;
        leave_unit(at, g, BT_EXIT_KICK);
        return true;
    }
    if (address - (base + CPU_POISON_OFFSET) < PAGE_BYTES) {
        if (at->pc->recovery == RECOVER_STI) {
            at->cpu->shadow = SHADOW_STI;
            leave_unit(at, g, BT_EXIT_KICK);
        } else if (at->pc->recovery == RECOVER_POPF) {
            leave_unit(at, g, BT_EXIT_KICK);
        } else {
            at->bt->fault_emulate = false; /* FS or GS base not usable: not the site's fault */
            leave_unit(at, g, BT_EXIT_EMULATE);
        }
        return true;
    }
    for (int user = 0; user < 2; user++)
        if (address - (u64)at->bt->return_stack[user] < PAGE_BYTES) {
            return_stack_full(at, g, user);
            return true;
        }
    return window_fault(at, g, address, g[REG_ERR] & 2);
}

/* Handles a fault whose host pc lies in a unit. False: not explicable, so a bug. */
static bool unit_fault(const struct fault_place *at, ucontext_t *uc, const siginfo_t *info) {
    greg_t *g = uc->uc_mcontext.gregs;
    at->bt->stats->faults++;
    switch (g[REG_TRAPNO]) {
    case TRAP_PF:
        return page_fault(at, uc, (u64)info->si_addr);
    case TRAP_DE:
        at->cpu->fault = (struct guest_fault){.vector = VEC_DE};
        leave_unit(at, g, BT_EXIT_FAULT);
        return true;
    case TRAP_GP: /* misaligned SSE operand, bad MXCSR, non-canonical end of a window */
    case TRAP_UD:
    case TRAP_MF:
    case TRAP_XM:
    case TRAP_AC:
        at->bt->fault_emulate = false;
        leave_unit(at, g, BT_EXIT_EMULATE);
        return true;
    default:
        return false;
    }
}

/* The poll in the return-miss stub: r8 holds the EIP to go on at. */
static bool stub_poll(struct bt *bt, ucontext_t *uc) {
    greg_t *g = uc->uc_mcontext.gregs;
    if ((u64)g[REG_RIP] != (u64)bt_stub_poll)
        return false;
    bt_disarm_safepoint(bt->cpu);
    bt->stats->safepoints++;
    leave_from_handler(bt->cpu, g, (u32)g[REG_R8], BT_EXIT_KICK);
    return true;
}

/* For the crash report: the guest's registers, if they are in the host's. */
static void save_guest_state(ucontext_t *uc) {
    struct bt *bt = current_bt;
    u32 eip;
    if (!bt || !bt_pc_to_eip(bt, (u64)uc->uc_mcontext.gregs[REG_RIP], &eip))
        return;
    save_registers(bt->cpu, uc->uc_mcontext.gregs);
    hot_store_flags(bt->cpu);
    bt->cpu->eip = eip;
}

_Noreturn static void unexpected(int sig, ucontext_t *uc, const siginfo_t *info) {
    static char text[160];
    save_guest_state(uc);
    snprintf(text, sizeof text, "host signal %d at pc %#llx, address %p", sig,
             (unsigned long long)uc->uc_mcontext.gregs[REG_RIP], info->si_addr);
    if (rf_crash_hook)
        rf_crash_hook(text);
    signal(SIGABRT, SIG_DFL);
    abort();
}

static void on_fault(int sig, siginfo_t *info, void *context) {
    int saved_errno = errno;
    ucontext_t *uc = context;
    struct bt *bt = current_bt;
    u64 pc = (u64)uc->uc_mcontext.gregs[REG_RIP];
    if (!bt || info->si_code <= 0)
        unexpected(sig, uc, info);
    u32 index = cache_unit_at(bt, pc);
    if (index != BT_NONE) {
        struct fault_place at = {.bt = bt, .cpu = bt->cpu, .unit = &bt->unit[index]};
        at.pc = cache_pc_lookup(bt, at.unit, (u32)(pc - (u64)bt->cache_rx) - at.unit->host);
        at.eip = at.unit->eip + at.pc->guest;
        if (!unit_fault(&at, uc, info))
            unexpected(sig, uc, info);
    } else if (!stub_poll(bt, uc)) {
        unexpected(sig, uc, info);
    }
    errno = saved_errno;
}

static size_t alternate_stack_bytes(void) {
    unsigned long min = getauxval(AT_MINSIGSTKSZ);
    return 65536 + (min ? min : 4096) * 2;
}

bool bt_install_fault_handlers(struct bt *bt, char *err, size_t err_bytes) {
    size_t bytes = alternate_stack_bytes();
    bt->fault_stack = malloc(bytes);
    stack_t stack = {.ss_sp = bt->fault_stack, .ss_size = bytes};
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (!bt->fault_stack || sigaltstack(&stack, NULL) != 0) {
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

void bt_remove_fault_handlers(struct bt *bt) {
    if (current_bt == bt)
        current_bt = NULL;
    if (bt->fault_stack) {
        stack_t off = {.ss_flags = SS_DISABLE};
        sigaltstack(&off, NULL);
        free(bt->fault_stack);
    }
}
