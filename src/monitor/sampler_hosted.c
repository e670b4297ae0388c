/*
 * sampler_hosted.c: looks at the vCPU's thread some thousand times per second of its CPU time, for
 * -profile and for the execution counts of -trace-out. libunwind walks through translated frames,
 * too.
 */
#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "monitor/profile.h"
#include "trace/trace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define SAMPLE_SIGNAL (SIGRTMIN + 3)
/* A prime rate: not in step with timers of 100, 250 or 1000 Hz. Kernels round it to their own tick.
 */
#define SAMPLES_PER_SECOND 997

struct mon_sampler {
    timer_t timer;
    bool timer_created;
    struct mon_profile *profile;
};

/* A frame's address: the guest's where it is translated code. */
static u64 frame_of(const struct bt *bt, u64 pc, u64 look_at) {
    struct bt_unit_info unit;
    u32 eip;
    if (!bt || !bt_pc_to_eip(bt, look_at, &eip) || !bt_unit_at(bt, look_at, &unit))
        return pc;
    return PROFILE_GUEST | (unit.cpl == 3 ? PROFILE_USER : 0) | eip;
}

/* Stops at the first translated frame: what lies below is always the run loop. */
static void take(struct vm *vm, struct profile_sample *s, ucontext_t *context) {
    unw_cursor_t cursor;
    bool exact = true; /* not a return address */
    *s = (struct profile_sample){.eip = vm->cpu->eip, .user = vm->cpu->cpl == 3};
    if (unw_init_local2(&cursor, context, UNW_INIT_SIGNAL_FRAME) != 0)
        return;
    while (s->frames < PROFILE_FRAMES) {
        unw_word_t pc;
        if (unw_get_reg(&cursor, UNW_REG_IP, &pc) != 0 || !pc)
            break;
        u64 frame = frame_of(vm->bt, pc, exact ? pc : pc - 1);
        s->frame[s->frames++] = frame;
        if (frame & PROFILE_GUEST)
            break;
        exact = unw_is_signal_frame(&cursor) > 0;
        if (unw_step(&cursor) <= 0)
            break;
    }
}

static void on_sample(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    struct vm *vm = mon_current_vm();
    ucontext_t *uc = context;
    if (!vm || !vm->sampler)
        return;
    if (vm->recording)
        tt_record_sample_sigsafe(vm->recording, (u64)uc->uc_mcontext.gregs[REG_RIP]);
    if (!vm->sampler->profile)
        return;
    struct profile_sample *s = mon_profile_next_sigsafe(vm->sampler->profile);
    if (!s)
        return;
    take(vm, s, uc);
    mon_profile_took_sigsafe(vm->sampler->profile);
}

static bool start_timer(struct mon_sampler *s) {
    struct sigaction sa = {.sa_sigaction = on_sample,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SAMPLE_SIGNAL};
    const struct timespec period = {0, 1000000000 / SAMPLES_PER_SECOND};
    const struct itimerspec when = {period, period};
    sigset_t only;
    sigfillset(&sa.sa_mask);
    sigaction(SAMPLE_SIGNAL, &sa, NULL);
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    s->timer_created = timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &s->timer) == 0;
    if (!s->timer_created || timer_settime(s->timer, 0, &when, NULL))
        return false;
    sigemptyset(&only);
    sigaddset(&only, SAMPLE_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    return true;
}

bool mon_sampler_start(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    if (!o->profile && !(vm->recording && !o->bt.count))
        return true;
    struct mon_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return mon_fail(err, "out of memory for the sampler");
    vm->sampler = s;
    if (o->profile) {
        s->profile = mon_profile_create(o->profile, o->symbols, err);
        if (!s->profile)
            return false;
    }
    return start_timer(s) || mon_fail(err, "no timer for the sampler: %s", strerror(errno));
}

void mon_sampler_drain(struct vm *vm) {
    if (vm->sampler->profile)
        mon_profile_drain(vm->sampler->profile);
}

bool mon_sampler_end(struct vm *vm) {
    struct mon_sampler *s = vm->sampler;
    struct mon_error err;
    if (!s)
        return true;
    if (s->timer_created)
        timer_delete(s->timer);
    vm->sampler = NULL;
    bool good = !s->profile || mon_profile_write(s->profile, &err);
    if (!good)
        log_error("%s", err.text);
    mon_profile_free(s->profile);
    free(s);
    return good;
}
