/*
 * events_hosted.c: how the world reaches the vCPU thread. One event thread sleeps on standard
 * input, gdb's socket and the termination signals; one POSIX timer stands at the devices' next
 * deadline. Both end in one real-time signal to the vCPU thread, whose handler sets vm->stop and
 * tells the engine to come back. The flag is set before and looked at after every wait, and waits
 * open the signal atomically (ppoll), so that no wake-up is lost.
 *
 * Everything else happens on the vCPU thread.
 */
#include "monitor/terminal.h"
#include "monitor/vm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL (SIGRTMIN + 2)
static const int termination_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
#define NS_PER_S 1000000000ull
/* A guest that cannot be stopped by a kick is a bug; the user's SIGTERM must work even then. */
#define GRACE_SECONDS 5

struct mon_events_host {
    pthread_t thread;
    pthread_t vcpu_thread;
    bool thread_running;
    int rearm_fd; /* written to when there is something else to watch */
    timer_t timer;
    bool timer_created;
};

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
    pthread_kill(vm->events.host->vcpu_thread, KICK_SIGNAL);
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
    struct mon_events_host *h = e->host;
    bool watch_stdin = e->watch_stdin, dying = false;
    int gdb_fd = e->watch_gdb_fd;
    event_vm = vm;
    sigset_t open_mask;
    pthread_sigmask(SIG_SETMASK, NULL, &open_mask);
    for (unsigned i = 0; i < ARRAY_LEN(termination_signals); i++)
        sigdelset(&open_mask, termination_signals[i]);
    while (h->thread_running) {
        struct pollfd fds[] = {{.fd = h->rearm_fd, .events = POLLIN},
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
            if (read(h->rearm_fd, &dummy, sizeof dummy) == sizeof dummy) {
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
    if (e->host && write(e->host->rearm_fd, &one, sizeof one) != sizeof one)
        log_warn("event thread: %s", strerror(errno));
}

/* ---- The vCPU thread's side ---- */

void mon_timer_set(struct vm *vm, u64 wait_ns) {
    struct itimerspec when = {{0, 0}, {0, 0}};
    if (wait_ns != DEV_NEVER) {
        when.it_value.tv_sec = (time_t)(wait_ns / NS_PER_S);
        when.it_value.tv_nsec = (long)(wait_ns % NS_PER_S);
    }
    timer_settime(vm->events.host->timer, 0, &when, NULL);
}

bool mon_sleep(struct vm *vm, u64 wait_ns) {
    sigset_t kick_only, old, open_mask;
    sigemptyset(&kick_only);
    sigaddset(&kick_only, KICK_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &kick_only, &old);
    open_mask = old;
    sigdelset(&open_mask, KICK_SIGNAL);
    bool interrupted = false;
    if (!vm->stop && wait_ns) {
        struct timespec ts = {(time_t)(wait_ns / NS_PER_S), (long)(wait_ns % NS_PER_S)};
        interrupted = ppoll(NULL, 0, wait_ns == DEV_NEVER ? NULL : &ts, &open_mask) < 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return interrupted;
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

static bool create_timer(struct mon_events_host *h) {
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    h->timer_created = timer_create(CLOCK_MONOTONIC, &ev, &h->timer) == 0;
    return h->timer_created;
}

static bool create_thread(struct vm *vm) {
    struct mon_events_host *h = vm->events.host;
    /* It inherits the mask: everything blocked but faults. */
    h->thread_running = true;
    errno = pthread_create(&h->thread, NULL, event_thread, vm);
    h->thread_running = errno == 0;
    return h->thread_running;
}

bool mon_events_start(struct vm *vm, struct mon_error *err) {
    struct mon_events *e = &vm->events;
    struct mon_events_host *h = e->host = calloc(1, sizeof *h);
    if (!h)
        return mon_fail(err, "out of memory");
    current_vm = vm;
    signal(SIGPIPE, SIG_IGN);
    h->vcpu_thread = pthread_self();
    h->rearm_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    sigaction(KICK_SIGNAL, &sa, NULL);
    set_masks();
    e->armed_ns = DEV_NEVER;
    e->watch_gdb_fd = vm->gdb.fd >= 0 ? vm->gdb.fd : vm->gdb.listen_fd;
    bool descriptors = h->rearm_fd >= 0 && create_timer(h);
    if (!descriptors || !create_thread(vm)) {
        mon_fail(err,
                 descriptors ? "cannot create the event thread: %s"
                             : "cannot create event descriptors: %s",
                 strerror(errno));
        mon_events_stop(vm);
        return false;
    }
    sigset_t kick_only;
    sigemptyset(&kick_only);
    sigaddset(&kick_only, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick_only, NULL);
    return true;
}

void mon_events_stop(struct vm *vm) {
    struct mon_events_host *h = vm->events.host;
    if (h->timer_created)
        timer_delete(h->timer);
    if (h->thread_running) {
        h->thread_running = false;
        mon_events_watch(vm, false, -1);
        pthread_join(h->thread, NULL);
    }
    if (h->rearm_fd >= 0)
        close(h->rearm_fd);
    vm->events.host = NULL;
    current_vm = NULL;
    free(h);
}
