/*
 * child.c: processes that run to their end or to a time limit, their output caught through pipes.
 * A child dies with its parent.
 */
#include "study/study_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OUTPUT_LIMIT = 1 << 20 };

struct stream {
    int fd;
    char *text;
    size_t used;
};

static double now_s(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* False at the end. What does not fit is read and forgotten, so that nobody blocks on it. */
static bool drain(struct stream *s) {
    char rest[4096];
    size_t room = OUTPUT_LIMIT - s->used;
    ssize_t n = read(s->fd, room ? s->text + s->used : rest, room ? room : sizeof rest);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (room)
        s->used += (size_t)n;
    return n > 0;
}

/* Until both ends are closed: true; false at the time limit. */
static bool collect(struct stream s[2], double end_s) {
    while (s[0].fd >= 0 || s[1].fd >= 0) {
        struct pollfd p[2] = {{.fd = s[0].fd, .events = POLLIN}, {.fd = s[1].fd, .events = POLLIN}};
        double left = end_s - now_s();
        if (left <= 0)
            return false;
        int n = poll(p, 2, (int)(left * 1000) + 1);
        if (n < 0 && errno != EINTR)
            return false;
        for (int i = 0; n > 0 && i < 2; i++)
            if (p[i].fd >= 0 && p[i].revents && !drain(&s[i])) {
                close(s[i].fd);
                s[i].fd = -1;
            }
    }
    return true;
}

/* Its status, once it is gone; it is killed when it has closed its output and stays. */
static int reap(pid_t pid, double end_s, bool *timed_out) {
    int status;
    pid_t got;
    while (!(got = waitpid(pid, &status, WNOHANG)) || (got < 0 && errno == EINTR)) {
        if (!*timed_out && now_s() > end_s) {
            *timed_out = true;
            kill(pid, SIGKILL);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (got < 0)
        return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static _Noreturn void be_child(int out, int err, pid_t parent, void (*body)(void *), void *opaque) {
    int null = open("/dev/null", O_RDONLY);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
        dup2(err, 2) < 0)
        _exit(127);
    body(opaque);
    fflush(stdout);
    _exit(0);
}

static bool open_streams(struct stream s[2], int ends[2]) {
    int p[2][2] = {{-1, -1}, {-1, -1}};
    s[0].text = malloc(OUTPUT_LIMIT + 1);
    s[1].text = malloc(OUTPUT_LIMIT + 1);
    bool ok = s[0].text && s[1].text && !pipe2(p[0], O_CLOEXEC) && !pipe2(p[1], O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        s[i].fd = p[i][0];
        ends[i] = p[i][1];
        s[i].used = 0;
    }
    return ok;
}

static void close_all(struct stream s[2], int ends[2]) {
    for (int i = 0; i < 2; i++) {
        if (s[i].fd >= 0)
            close(s[i].fd);
        if (ends[i] >= 0)
            close(ends[i]);
    }
}

bool child_call(void (*body)(void *), void *opaque, double limit_s, struct child_result *out) {
    struct stream s[2];
    int ends[2];
    double end_s = now_s() + limit_s;
    pid_t parent = getpid(), pid = -1;
    fflush(stdout);
    if (open_streams(s, ends))
        pid = fork();
    if (pid == 0)
        be_child(ends[0], ends[1], parent, body, opaque);
    if (pid < 0) {
        close_all(s, ends);
        free(s[0].text);
        free(s[1].text);
        return false;
    }
    close(ends[0]);
    close(ends[1]);
    ends[0] = ends[1] = -1;
    out->timed_out = !collect(s, end_s);
    if (out->timed_out)
        kill(pid, SIGKILL);
    out->status = reap(pid, end_s, &out->timed_out);
    close_all(s, ends);
    s[0].text[s[0].used] = s[1].text[s[1].used] = 0;
    out->out = s[0].text;
    out->err = s[1].text;
    return true;
}

static void become(void *argv) {
    execvp(((char **)argv)[0], argv);
    _exit(127);
}

bool child_run(const char *const argv[], double limit_s, struct child_result *out) {
    return child_call(become, (void *)argv, limit_s, out);
}

void child_free(struct child_result *r) {
    free(r->out);
    free(r->err);
}
