/*
 * vm.h: internal to the monitor: the machine's state, one struct per idea, and what the monitor's
 * files call of each other.
 */
#ifndef RINGFOLD_MONITOR_VM_H
#define RINGFOLD_MONITOR_VM_H

#include "base/base.h"
#include "base/cpu.h"
#include "bt/bt.h"
#include "devmodel/dev.h"
#include "interp/interp.h"
#include "mmu/mmu.h"
#include "monitor/monitor.h"
#include "monitor/outside.h"
#include "ringcomp/ringcomp.h"

/* ---- Exits: the engines' reasons, one list, one handler table (run.c). X(name, help) ---- */
#define MON_EXITS(X)                                                                               \
    BT_EXITS(X)                                                                                    \
    X(STEPPED, "interpreted for a while; nothing particular to do")                                \
    X(HALT, "HLT: wait for an interrupt")

enum mon_exit {
#define X(name, help) MON_EXIT_##name,
    MON_EXITS(X)
#undef X
        MON_EXIT_COUNT
};

/* ---- Engines: ways to run guest code ---- */
struct vm;
struct engine {
    const char *name;
    bool (*create)(struct vm *vm, struct mon_error *err);
    void (*destroy)(struct vm *vm);
    /* Runs guest code until there is something for the loop to do. */
    enum mon_exit (*run)(struct vm *vm);
    /* Makes run return soon; from a signal handler on the vCPU thread. */
    void (*kick_sigsafe)(struct vm *vm);
    /* Guest memory or state was replaced behind the engine's back. */
    void (*flush)(struct vm *vm);
    /* Delivers NMIs and external interrupts itself. NULL: the loop does. */
    void (*interrupts)(struct vm *vm);
    /* vm->cpu is going to be shown or changed: makes all of it true. NULL: it always is. */
    void (*look)(struct vm *vm);
};
extern const struct engine mon_engine_interp, mon_engine_bt;
extern const struct engine *const mon_engine_hardware; /* NULL where there is none */
/* Before vm->cpu is shown or changed by anyone but the engine. */
static inline void mon_engine_look(struct vm *vm);

/* ---- Virtual time (clock.c) ---- */
struct mon_clock {
    bool icount;
    bool from_tsc;      /* real time from the host's invariant TSC, else from CLOCK_MONOTONIC */
    u8 shift;           /* icount: 1 instruction = 2^shift ns */
    u64 tsc_hz;         /* the guest's TSC frequency */
    u64 start;          /* host TSC or CLOCK_MONOTONIC ns at virtual time 0 */
    u64 ns_per_tick_32; /* 32.32 fixed point */
    u64 skipped_ns;     /* icount: time skipped in HLT */
    u64 paused_at;      /* raw clock when the machine was stopped */
    bool paused;
};

/* ---- Events (events.c, and outside.h) ---- */
struct mon_events {
    struct mon_events_host *host; /* the substrate's part; NULL: no kicks yet, or no more */
    volatile int pending_signal;  /* SIGTERM and its kin; never on metal */
    volatile int signal_pid;
    volatile u32 stdin_ready, gdb_ready;
    /* What mon_events_watch was told. */
    volatile u32 watch_stdin;
    volatile int watch_gdb_fd;
    volatile u64 armed_ns; /* virtual time the host timer stands at, DEV_NEVER if disarmed */
};

/* ---- Console and serial lines (console.c, serial.c) ---- */
#define MON_INPUT_RING 4096
struct mon_serial {
    struct vm *vm;
    enum mon_chardev_kind kind;
    bool mux;
    struct mon_output *file;
    /* Bytes read from stdin and not yet taken by the UART. */
    u8 ring[MON_INPUT_RING];
    u32 head, tail;
};
struct mon_console {
    bool uses_stdin, stdin_eof, stdin_regular;
    bool active;      /* the console prompt has the keyboard */
    bool escape;      /* Ctrl-A was typed */
    bool only;        /* stdio belongs to the console alone (-monitor stdio) */
    int stdin_serial; /* which serial line stdin feeds, -1: none */
    u8 escape_char;
    char line[256];
    unsigned length;
    bool rewatch;      /* the UART took bytes: look at stdin again */
    bool skip_newline; /* after CR, an LF is not a second line */
};

/* ---- gdb (gdbstub_hosted.c) ---- */
#define MON_GDB_BREAKPOINTS BT_MAX_BREAKPOINTS
struct mon_gdb {
    int listen_fd, fd;
    bool no_ack, stepping;
    struct mon_gdb_parser parser;
    u32 breakpoint[MON_GDB_BREAKPOINTS];
    unsigned breakpoints;
    u32 known_to_bt[MON_GDB_BREAKPOINTS];
    unsigned known_count;
    bool last_ran;     /* gdb waits for a stop reply */
    bool just_resumed; /* the instruction at eip runs even if it carries a breakpoint */
};

/* ---- Counters of the loop itself. X(name, help) ---- */
#define MON_COUNTERS(X)                                                                            \
    X(loops, "turns of the run loop")                                                              \
    X(kicks, "kicks processed")                                                                    \
    X(interrupts, "external interrupts delivered")                                                 \
    X(faults, "exceptions delivered to the guest by the loop")                                     \
    X(emulated, "instructions emulated because translated code handed them over")                  \
    X(cold_runs, "stretches of cold code interpreted")                                             \
    X(mode_runs, "stretches interpreted because of the CPU's mode")                                \
    X(halts, "times the CPU waited in HLT")                                                        \
    X(io_reads, "port reads")                                                                      \
    X(io_writes, "port writes")                                                                    \
    X(mmio_reads, "memory-mapped reads")                                                           \
    X(mmio_writes, "memory-mapped writes")                                                         \
    X(hardware_exits, "exits of the processor's own virtualization (-accel kvm)")                  \
    X(resets, "machine resets")                                                                    \
    X(lockstep_units, "units compared by -lockstep")
struct mon_counters {
#define X(name, help) u64 name;
    MON_COUNTERS(X)
#undef X
};

/* ---- Firmware and fw_cfg (firmware.c) ---- */
#define MON_FIRMWARE_ITEMS (32 + MON_MAX_FW_CFG)
struct mon_firmware_file {
    struct mon_fw_cfg_option option;
    struct mon_file content; /* file= */
};
struct mon_firmware {
    struct mon_file rom; /* -bios; data NULL: none */
    struct dev_fw_cfg_item item[MON_FIRMWARE_ITEMS];
    unsigned items;
    struct mon_firmware_file *file; /* of -fw_cfg */
    unsigned files;
    u8 *setup;       /* the kernel's first sectors, filled in */
    u8 value[12][4]; /* what items of 32 bits hold */
    unsigned values;
    u8 e820[20];
};

struct mon_lockstep;
struct mon_sampler;
struct mon_perfmap;
struct mon_kvm;
struct tt_recorder;
struct mon_replay;

/* ---- The machine ---- */
struct vm {
    struct mon_options opt;
    struct cpu *cpu;
    struct cpu_model model;
    struct cpu_bus bus;
    struct mmu *mmu;
    struct machine_devices *dev;
    struct dev_bus *dev_bus;
    struct interp *interp;
    struct bt *bt; /* NULL under -accel interp */
    const struct engine *engine;
    struct mon_image image;
    struct mon_firmware firmware;

    /* Non-zero: leave guest code and look at events. Set by the kick handler and by the bus. */
    volatile u32 stop;
    bool paused;   /* by -S, the console or gdb */
    bool finished; /* leave the loop with exit_status */
    bool reset_wanted;
    bool nmi_pending;
    int exit_status;
    u64 triple_faults;
    u64 host_start_ns;

    struct mon_clock clock;
    struct mon_events events;
    struct mon_serial serial[2], debugcon;
    struct mon_console console;
    struct mon_gdb gdb;
    struct mon_counters count;
    u64 exit_count[MON_EXIT_COUNT];
    struct mon_lockstep *lockstep;
    u64 random_state; /* -icount: of the generator behind RDRAND */
    struct mon_replay *replay;
    struct mon_kvm *kvm;           /* -accel kvm */
    struct mon_perfmap *perfmap;   /* -perfmap, -jitdump */
    struct mon_sampler *sampler;   /* -profile, -trace-out */
    struct tt_recorder *recording; /* -trace-out */
    u64 next_input_poll_ns;        /* icount with a regular file as stdin */
};

static inline void mon_engine_look(struct vm *vm) {
    if (vm->engine->look)
        vm->engine->look(vm);
}

/* clock.c */
void mon_clock_init(struct mon_clock *clock, const struct mon_options *opt,
                    const struct mon_host_cpu *host);
u64 mon_clock_now_ns(const struct vm *vm);
u64 mon_clock_tsc(const struct vm *vm);
void mon_clock_pause(struct vm *vm);
void mon_clock_resume(struct vm *vm);
/* Lets translated code read the TSC itself where the guest's is the host's minus a constant. */
void mon_clock_tell_bt(struct vm *vm);
/* icount: instructions until virtual time reaches deadline_ns, at least 1. */
u64 mon_clock_budget(const struct vm *vm, u64 deadline_ns);

/* machine.c */
bool mon_machine_reset(struct vm *vm, struct mon_error *err);
/* cpu_bus.io_light, for the engine that translates. */
enum cpu_io mon_io_light(void *opaque, u16 port, unsigned bytes, bool write, u32 *value);
/* The next moment at which something is due without the guest doing anything. */
u64 mon_next_deadline_ns(struct vm *vm);

/* firmware.c */
/* Reads -bios and -fw_cfg's files and makes the items; vm->image is open. */
bool mon_firmware_open(struct vm *vm, struct mon_error *err);
void mon_firmware_close(struct vm *vm);
/* Maps the ROM and its copy below 1 MiB, into cleared RAM. False when there is none. */
bool mon_firmware_place(struct vm *vm);
/* The host bridge opened or closed this part of C0000h-FFFFFh for writing. */
void mon_firmware_shadow(struct vm *vm, struct gpa addr, u64 bytes, bool writable);

/* events.c */
/* Re-arms the host timer to the next deadline. */
void mon_events_arm(struct vm *vm);
/* Sleeps until a kick, at most until virtual time deadline_ns (DEV_NEVER: no limit). */
void mon_events_wait(struct vm *vm, u64 deadline_ns);

/* serial.c, console.c */
bool mon_serial_open(struct vm *vm, struct mon_error *err);
void mon_serial_close(struct vm *vm);
struct dev_chardev mon_serial_chardev(struct mon_serial *s);
/* Puts one byte of input into the line's ring; false when full. */
bool mon_serial_feed(struct mon_serial *s, u8 byte);
unsigned mon_serial_room(const struct mon_serial *s);
bool mon_serial_waiting(const struct vm *vm);
void mon_console_open(struct vm *vm);
/* Reads what stdin holds and hands it out: to the UART, the console or the key bindings. */
void mon_console_input(struct vm *vm);
/* Hands out bytes as if typed. Returns how many were taken (flow control). */
size_t mon_console_feed(struct vm *vm, const u8 *data, size_t bytes);
/* Runs one console command; output through print. */
void mon_console_command(struct vm *vm, const char *line, void (*print)(void *, const char *),
                         void *opaque);

/* replay_hosted.c: -icount rr=record|replay. debug_metal.c: nothing to record to. */
bool mon_replay_open(struct vm *vm, struct mon_error *err);
void mon_replay_close(struct vm *vm);
void mon_replay_record(struct vm *vm, const u8 *data, size_t bytes);
/* Feeds what the log holds for this moment. */
void mon_replay_poll(struct vm *vm);
u64 mon_replay_next_ns(const struct vm *vm);

/* gdbstub_hosted.c; debug_metal.c: no gdb ever comes */
bool mon_gdb_open(struct vm *vm, struct mon_error *err);
void mon_gdb_close(struct vm *vm);
/* True when code must be single-stepped so that breakpoints are seen. */
static inline bool mon_gdb_watches(const struct vm *vm) {
    return vm->gdb.fd >= 0 && (vm->gdb.stepping || vm->gdb.breakpoints);
}
/* Serves the socket; may pause, resume or step the machine. */
void mon_gdb_service(struct vm *vm);
/* Tells gdb that the machine stopped with that signal number. */
void mon_gdb_stopped(struct vm *vm, int signal);
/* Does what gdb needs before guest code runs: stops at a breakpoint, steps. True when that was all
 * for this turn of the loop. */
bool mon_gdb_step(struct vm *vm);
bool mon_gdb_is_breakpoint(const struct vm *vm, u32 lin);
static inline bool mon_gdb_at_breakpoint(const struct vm *vm) {
    return unlikely(vm->gdb.breakpoints) &&
           mon_gdb_is_breakpoint(vm, (u32)(vm->cpu->seg[SEG_CS].base + vm->cpu->eip));
}

/* run.c: shared with lockstep_hosted.c */
enum mon_exit mon_interp_exit(enum interp_result result);

/* perfmap_hosted.c; debug_metal.c: there is none */
bool mon_perfmap_open(struct vm *vm, struct mon_error *err);
void mon_perfmap_close(struct vm *vm);

/* sampler_hosted.c; debug_metal.c: there is none. Starts after mon_events_start, where it is asked
 * for; the end writes the profile, false after an error message. */
bool mon_sampler_start(struct vm *vm, struct mon_error *err);
void mon_sampler_drain(struct vm *vm);
bool mon_sampler_end(struct vm *vm);

/* recording_hosted.c; debug_metal.c: there is none. The end says what was recorded; false after an
 * error message. */
bool mon_recording_open(struct vm *vm, struct mon_error *err);
void mon_recording_drain(struct vm *vm);
bool mon_recording_end(struct vm *vm);

/* lockstep_hosted.c; debug_metal.c: refuses */
bool mon_lockstep_open(struct vm *vm, struct mon_error *err);
void mon_lockstep_close(struct vm *vm);
enum mon_exit mon_lockstep_run(struct vm *vm);

/* sensitive_metal.c: -sensitive-report. The exit status: 0 if the sensitive instructions that do
 * not trap went wrong silently at ring 1, and translation put all of them right. */
int mon_sensitive_report(void);

/* stats.c */
void mon_stats_print(struct vm *vm, bool json, void (*print)(void *, const char *), void *opaque);
/* Time by executing ring. */
void mon_rings_print(struct vm *vm, void (*print)(void *, const char *), void *opaque);

/* crash_hosted.c, crash_metal.c: has rf_crash_hook, and fatal signals, report. */
void mon_crash_install(void);
/* crash.c: registers, last units: what a report holds besides the backtrace. */
void mon_crash_guest_state(struct vm *vm, void (*print)(void *, const char *), void *opaque);

#endif
