/*
 * crash_hosted.c: what is left behind when the monitor itself fails: where it was (libunwind walks
 * through translated frames too), what the guest's registers were, which units ran last.
 */
#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "monitor/terminal.h"
#include "monitor/vm.h"

#include <signal.h>
#include <stdio.h>

#define MAX_FRAMES 64

static void print_stderr(void *opaque, const char *line) {
    (void)opaque;
    log_printf("  %s\n", line);
}

/* look_at: the pc, or the byte before it where it is a return address. */
static void describe_frame(struct vm *vm, unsigned index, u64 pc, u64 look_at,
                           unw_cursor_t *cursor) {
    char name[128] = "";
    unw_word_t offset = 0;
    u32 eip;
    if (vm && vm->bt && bt_pc_to_eip(vm->bt, look_at, &eip)) {
        log_printf("  #%-2u %016llx guest eip %08x\n", index, (unsigned long long)pc, eip);
        return;
    }
    if (unw_get_proc_name(cursor, name, sizeof name, &offset) != 0)
        strcpy(name, "?");
    log_printf("  #%-2u %016llx %s+0x%llx\n", index, (unsigned long long)pc, name,
               (unsigned long long)offset);
}

static void backtrace(struct vm *vm) {
    unw_context_t context;
    unw_cursor_t cursor;
    bool exact = true; /* not a return address */
    unw_getcontext(&context);
    if (unw_init_local(&cursor, &context) != 0)
        return;
    log_printf("monitor backtrace:\n");
    for (unsigned i = 0; i < MAX_FRAMES; i++) {
        unw_word_t pc;
        if (unw_get_reg(&cursor, UNW_REG_IP, &pc) != 0 || !pc)
            break;
        describe_frame(vm, i, pc, exact ? pc : pc - 1, &cursor);
        exact = unw_is_signal_frame(&cursor) > 0;
        if (unw_step(&cursor) <= 0)
            break;
    }
}

static void report(const char *what) {
    static volatile bool reporting;
    mon_terminal_restore_sigsafe();
    if (reporting)
        return;
    reporting = true;
    struct vm *vm = mon_current_vm();
    log_printf("ringfold: internal error: %s\n", what);
    backtrace(vm);
    if (vm) {
        log_printf("guest state:\n");
        mon_crash_guest_state(vm, print_stderr, NULL);
    }
}

/* Faults of the monitor itself when no engine owns these signals. */
static void on_fatal_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    char what[96];
    snprintf(what, sizeof what, "signal %d at address %p", number, info->si_addr);
    report(what);
    signal(number, SIG_DFL);
    raise(number);
}

void mon_crash_install(void) {
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    rf_crash_hook = report;
    struct sigaction sa = {.sa_sigaction = on_fatal_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | SA_NODEFER};
    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_LEN(fatal); i++)
        sigaction(fatal[i], &sa, NULL);
}
