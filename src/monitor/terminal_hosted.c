/*
 * terminal_hosted.c: raw mode while the guest has the keyboard, and the way back on every way out.
 * The terminal belongs to the process, hence the one piece of process-wide state here.
 */
#include "monitor/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved, raw;
static volatile bool is_raw;

void mon_terminal_restore_sigsafe(void) {
    if (is_raw) {
        is_raw = false;
        tcsetattr(0, TCSANOW, &saved);
    }
}

/* Back from job control: the shell has put its own modes back meanwhile. */
static void on_continue(int number) {
    (void)number;
    if (is_raw)
        tcsetattr(0, TCSANOW, &raw);
}

bool mon_terminal_raw(bool keep_signals) {
    if (!isatty(0) || tcgetpgrp(0) != getpgrp() || tcgetattr(0, &saved) != 0)
        return false;
    static bool registered;
    if (!registered) {
        atexit(mon_terminal_restore_sigsafe);
        struct sigaction sa = {.sa_handler = on_continue, .sa_flags = SA_RESTART | SA_ONSTACK};
        sigaction(SIGCONT, &sa, NULL);
        registered = true;
    }
    struct termios t = saved;
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag |= OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!keep_signals)
        t.c_lflag &= ~(tcflag_t)ISIG;
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    raw = t;
    is_raw = true;
    return tcsetattr(0, TCSANOW, &raw) == 0;
}
