/*
 * outside.h: what the monitor needs of the world around the machine, made once by each substrate:
 * outside_hosted.c, events_hosted.c and console_hosted.c from a Linux process, their namesakes
 * *_metal.c from the bare machine. The rest of the monitor includes no header of either.
 *
 * Everything runs on the vCPU thread.
 */
#ifndef RINGFOLD_MONITOR_OUTSIDE_H
#define RINGFOLD_MONITOR_OUTSIDE_H

#include "monitor/monitor.h"

/* ---- What there is (outside_*.c) ---- */
struct mon_outside {
    const char *name; /* "hosted" or "metal" */
    bool files;       /* to write to: -D, -pidfile, file:PATH, the log of -icount */
    bool debuggers;   /* -gdb, -lockstep */
    bool rings;       /* -direct, -trap-classes, -ring-report: guest code runs in rings 1 and 3 */
};
extern const struct mon_outside mon_outside;
/* Fills in what the command line left open and the world has an answer to: on metal, the boot
 * loader's modules are the kernel and the rest, and there is one console. False with a reason. */
bool mon_outside_defaults(struct mon_options *o, struct mon_error *err);

/* ---- Text for people (outside_*.c): answers to -help and the like ---- */
void mon_print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- Time (outside_*.c) ---- */

/* Monotonic, of no particular origin. */
u64 mon_host_ns(void);
/* Seconds since 1970, UTC. */
i64 mon_epoch_s(void);
/* The same of the local time, as if it were UTC. False where no time zone is known. */
bool mon_local_epoch_s(i64 *epoch_s);
/* Fills in the host's TSC: frequency, 0 when it cannot be used as a clock. */
void mon_host_tsc(struct mon_host_cpu *out);

/* ---- Random numbers (outside_*.c) ---- */

/* 64 bits that nobody can guess. False: there are none, now or ever. Never waits. */
bool mon_host_random(u64 *value);

/* ---- Files (outside_*.c). For mon_file_read see monitor.h. ---- */

/* A file that a serial line writes to. NULL with the bare reason. */
struct mon_output;
struct mon_output *mon_output_open(const char *path, struct mon_error *err);
void mon_output_write(struct mon_output *out, const u8 *data, size_t bytes);
/* May be NULL. */
void mon_output_close(struct mon_output *out);

/* ---- The user's console: standard input and output, or the first serial port (console_*.c) ----
 */

struct vm;
/* The guest has the keyboard from here on. keep_signals: keys like Ctrl-C still end the monitor.
 * True when input is a plain file, which never makes anyone wait. */
bool mon_keyboard_open(bool keep_signals);
/* Up to max bytes of what was typed, without waiting. Returns their number, or one of these. */
enum { MON_KEYBOARD_NOTHING = 0, MON_KEYBOARD_END = -1 };
i64 mon_keyboard_read(struct vm *vm, u8 *data, size_t max);
/* Writes all of it as it is, unless nobody listens or the monitor is to end. */
void mon_screen_write(struct vm *vm, const void *data, size_t bytes);

/* ---- Events (events_*.c): everything that wakes the vCPU ends in vm->stop = 1 and a kick ---- */

/* From here on there are kicks. */
bool mon_events_start(struct vm *vm, struct mon_error *err);
void mon_events_stop(struct vm *vm);
/* Says which input should kick and set events.stdin_ready or gdb_ready, once each. gdb_fd -1: none.
 */
void mon_events_watch(struct vm *vm, bool stdin_too, int gdb_fd);
/* One kick after that long, or none any more (DEV_NEVER). It may come early, and then leaves
 * events.armed_ns at DEV_NEVER. */
void mon_timer_set(struct vm *vm, u64 wait_ns);
/* Sleeps until a kick, at most wait_ns (DEV_NEVER: no limit); not at all when vm->stop is set or
 * wait_ns is 0. True when something came before the time was up. No kick is lost. */
bool mon_sleep(struct vm *vm, u64 wait_ns);
/* The VM that runs here, for crash reports; NULL elsewhere. Signal safe. */
struct vm *mon_current_vm(void);

#endif
