/*
 * events.c: how the outside world reaches the vCPU thread. One event thread sleeps on standard
 * input, gdb's socket and the termination signals; one POSIX timer stands at the devices' next
 * deadline. Both end in one real-time signal to the vCPU thread, whose handler sets vm->stop and
 * tells the engine to come back. The flag is set before and looked at after every wait, and waits
 * open the signal atomically (ppoll), so that no wake-up is lost.
 *
 * Everything else happens on the vCPU thread.
 */
#include "monitor/vm.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL (SIGRTMIN + 2)
static const int termination_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
#define NS_PER_S 1000000000ull
/* A guest that cannot be stopped by a kick is a bug; the user's SIGTERM must work even then. */
#define GRACE_SECONDS 5

/* The fault and kick handlers start from here. */
static __thread struct vm *current_vm;
struct vm *mon_current_vm(void) {
    return current_vm;
}

static void on_kick(int signal) {
    (void)signal;
    struct vm *vm = current_vm;
    if (!vm)
        return;
    vm->stop = 1;
    vm->engine->kick_sigsafe(vm);
}

static void kick(struct vm *vm) {
    pthread_kill(vm->events.vcpu_thread, KICK_SIGNAL);
}

/* ---- The event thread ---- */

/*
 * The termination signals are open in this thread only, and only while it waits. Not a signalfd:
 * one that is polled is woken by every signal of the process, that is, by every fault of the vCPU.
 */
static __thread struct vm *event_vm;

static void on_termination(int number, siginfo_t *info, void *context) {
    (void)context;
    struct vm *vm = event_vm;
    if (!vm)
        return;
    vm->events.signal_pid = info->si_code <= 0 ? (int)info->si_pid : 0;
    vm->events.pending_signal = number;
    kick(vm);
}

static void force_exit(struct vm *vm) {
    mon_terminal_restore_sigsafe();
    log_error("terminating on signal %d: the virtual CPU does not respond",
              vm->events.pending_signal);
    _exit(1);
}

static void *event_thread(void *opaque) {
    struct vm *vm = opaque;
    struct mon_events *e = &vm->events;
    bool watch_stdin = e->watch_stdin, dying = false;
    int gdb_fd = e->watch_gdb_fd;
    event_vm = vm;
    sigset_t open_mask;
    pthread_sigmask(SIG_SETMASK, NULL, &open_mask);
    for (unsigned i = 0; i < ARRAY_LEN(termination_signals); i++)
        sigdelset(&open_mask, termination_signals[i]);
    while (e->thread_running) {
        struct pollfd fds[] = {{.fd = e->rearm_fd, .events = POLLIN},
                               {.fd = watch_stdin ? 0 : -1, .events = POLLIN},
                               {.fd = gdb_fd, .events = POLLIN}};
        struct timespec grace = {GRACE_SECONDS, 0};
        int n = ppoll(fds, ARRAY_LEN(fds), dying ? &grace : NULL, &open_mask);
        if (n == 0 && dying)
            force_exit(vm);
        if (n < 0) {
            dying = dying || e->pending_signal;
            continue;
        }
        if (fds[0].revents) {
            u64 dummy;
            if (read(e->rearm_fd, &dummy, sizeof dummy) == sizeof dummy) {
                watch_stdin = e->watch_stdin;
                gdb_fd = e->watch_gdb_fd;
            }
            continue; /* the other results may be of descriptors no longer watched */
        }
        if (n > 0 && fds[1].revents) {
            watch_stdin = false;
            e->stdin_ready = 1;
            kick(vm);
        }
        if (n > 0 && fds[2].revents) {
            gdb_fd = -1;
            e->gdb_ready = 1;
            kick(vm);
        }
    }
    return NULL;
}

void mon_events_watch(struct vm *vm, bool stdin_too, int gdb_fd) {
    struct mon_events *e = &vm->events;
    u64 one = 1;
    e->watch_stdin = stdin_too;
    e->watch_gdb_fd = gdb_fd;
    if (e->rearm_fd >= 0 && write(e->rearm_fd, &one, sizeof one) != sizeof one)
        log_warn("event thread: %s", strerror(errno));
}

/* ---- The vCPU thread's side ---- */

void mon_events_arm(struct vm *vm) {
    struct mon_events *e = &vm->events;
    if (vm->clock.icount || !e->timer_created)
        return;
    u64 deadline = vm->paused ? DEV_NEVER : dev_next_deadline_ns(vm->dev);
    if (deadline == e->armed_ns)
        return;
    e->armed_ns = deadline;
    struct itimerspec when = {{0, 0}, {0, 0}};
    if (deadline != DEV_NEVER) {
        u64 now = mon_clock_now_ns(vm);
        u64 wait = deadline > now ? MIN(deadline - now, 3600 * NS_PER_S) : 1;
        when.it_value.tv_sec = (time_t)(wait / NS_PER_S);
        when.it_value.tv_nsec = (long)(wait % NS_PER_S);
    }
    timer_settime(e->timer, 0, &when, NULL);
}

void mon_events_wait(struct vm *vm, u64 deadline_ns) {
    sigset_t kick_only, old, open_mask;
    sigemptyset(&kick_only);
    sigaddset(&kick_only, KICK_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &kick_only, &old);
    open_mask = old;
    sigdelset(&open_mask, KICK_SIGNAL);
    u64 now = mon_clock_now_ns(vm);
    u64 wait = deadline_ns == DEV_NEVER ? DEV_NEVER : deadline_ns > now ? deadline_ns - now : 0;
    /* -icount skips idle time; only while someone may type does it pass at its real pace. */
    bool skip = vm->clock.icount && deadline_ns != DEV_NEVER;
    bool sleep =
        !skip || (vm->console.uses_stdin && !vm->console.stdin_regular && !vm->console.stdin_eof);
    u64 begin = skip ? mon_host_ns() : 0;
    bool interrupted = false;
    if (!vm->stop && wait && sleep) {
        struct timespec ts = {(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
        interrupted = ppoll(NULL, 0, wait == DEV_NEVER ? NULL : &ts, &open_mask) < 0;
    }
    if (skip && sleep)
        vm->clock.skipped_ns += interrupted ? MIN(mon_host_ns() - begin, wait) : wait;
    else if (skip)
        vm->clock.skipped_ns += wait;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* The vCPU thread takes the kick and the faults, nothing else: the event thread has the rest. */
static void set_masks(void) {
    sigset_t blocked;
    struct sigaction sa = {.sa_sigaction = on_termination, .sa_flags = SA_SIGINFO};
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_LEN(termination_signals); i++)
        sigaction(termination_signals[i], &sa, NULL);
    sigfillset(&blocked);
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    for (unsigned i = 0; i < ARRAY_LEN(own); i++)
        sigdelset(&blocked, own[i]);
    /* Job control stays with the process as a whole. */
    sigdelset(&blocked, SIGCONT);
    sigdelset(&blocked, SIGTSTP);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
}

static bool create_timer(struct mon_events *e) {
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    e->timer_created = timer_create(CLOCK_MONOTONIC, &ev, &e->timer) == 0;
    return e->timer_created;
}

bool mon_events_start(struct vm *vm, struct mon_error *err) {
    struct mon_events *e = &vm->events;
    current_vm = vm;
    signal(SIGPIPE, SIG_IGN);
    e->vcpu_thread = pthread_self();
    e->rearm_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    sigaction(KICK_SIGNAL, &sa, NULL);
    set_masks();
    if (e->rearm_fd < 0 || !create_timer(e))
        return mon_fail(err, "cannot create event descriptors: %s", strerror(errno));
    e->armed_ns = DEV_NEVER;
    e->thread_running = true;
    e->watch_gdb_fd = vm->gdb.fd >= 0 ? vm->gdb.fd : vm->gdb.listen_fd;
    /* The event thread inherits this mask: everything blocked but faults. */
    if (pthread_create(&e->thread, NULL, event_thread, vm) != 0) {
        e->thread_running = false;
        return mon_fail(err, "cannot create the event thread: %s", strerror(errno));
    }
    sigset_t kick_only;
    sigemptyset(&kick_only);
    sigaddset(&kick_only, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick_only, NULL);
    return true;
}

void mon_events_stop(struct vm *vm) {
    struct mon_events *e = &vm->events;
    if (e->timer_created)
        timer_delete(e->timer);
    e->timer_created = false;
    if (e->thread_running) {
        e->thread_running = false;
        mon_events_watch(vm, false, -1);
        pthread_join(e->thread, NULL);
    }
    if (e->rearm_fd >= 0)
        close(e->rearm_fd);
    e->rearm_fd = -1;
    current_vm = NULL;
}
