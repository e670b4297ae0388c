/*
 * console_hosted.c: the user's console in a Linux process: standard input and output.
 */
#include "monitor/terminal.h"
#include "monitor/vm.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

bool mon_keyboard_open(bool keep_signals) {
    struct stat st;
    bool regular = fstat(0, &st) == 0 && S_ISREG(st.st_mode);
    mon_terminal_raw(keep_signals);
    return regular;
}

i64 mon_keyboard_read(struct vm *vm, u8 *data, size_t max) {
    (void)vm;
    struct pollfd fd = {.fd = 0, .events = POLLIN};
    if (poll(&fd, 1, 0) <= 0)
        return MON_KEYBOARD_NOTHING;
    ssize_t n = read(0, data, max);
    if (n > 0)
        return n;
    return n == 0 || (errno != EINTR && errno != EAGAIN) ? MON_KEYBOARD_END : MON_KEYBOARD_NOTHING;
}

/* A reader of our output that is stuck must not keep SIGTERM from working. */
void mon_screen_write(struct vm *vm, const void *data, size_t bytes) {
    const u8 *p = data;
    while (bytes) {
        ssize_t n = write(1, p, bytes);
        if (n > 0) {
            p += n;
            bytes -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd fd = {.fd = 1, .events = POLLOUT};
            poll(&fd, 1, 100);
        } else if (n < 0 && errno != EINTR) {
            return; /* nobody listens: output is lost, the guest goes on */
        }
        if (vm->events.pending_signal)
            return;
    }
}
