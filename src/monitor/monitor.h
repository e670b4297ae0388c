/*
 * monitor.h: the top of the system. It turns a command line into a machine (options, CPU model,
 * kernel loaders), runs it (one loop, one exit table) and talks to people (console, gdb, counters,
 * crash reports).
 *
 * Only main.c and the tests use this header; what the monitor's own files share is in vm.h.
 */
#ifndef RINGFOLD_MONITOR_MONITOR_H
#define RINGFOLD_MONITOR_MONITOR_H

#include "base/base.h"
#include "base/cpu.h"
#include "bt/bt.h"

/* One clear line of why something failed. */
struct mon_error {
    char text[320];
};
/* Formats into err->text and returns false, so that callers can `return mon_fail(...)`. */
bool mon_fail(struct mon_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- Options (options.c, option_text.c) ---- */

enum mon_chardev_kind { MON_CHR_DEFAULT, MON_CHR_NONE, MON_CHR_NULL, MON_CHR_STDIO, MON_CHR_FILE };
struct mon_chardev_option {
    enum mon_chardev_kind kind;
    bool mux;         /* mon:stdio: Ctrl-A keys and the console share the line */
    const char *path; /* MON_CHR_FILE */
};

enum mon_icount_log { MON_RR_NONE, MON_RR_RECORD, MON_RR_REPLAY };

#define MON_MAX_FW_CFG 32
/* Strings point into argv or into `owned`. */
struct mon_options {
    const char *kernel, *initrd, *append, *bios;
    const char *fw_cfg[MON_MAX_FW_CFG]; /* as given; good for mon_fw_cfg_parse */
    unsigned fw_cfg_count;
    const char *cpu;   /* NAME[,-feat][,+feat] */
    const char *accel; /* "bt" or "interp" */
    u64 ram_bytes;
    struct mon_chardev_option serial[2];
    unsigned serial_count;
    struct mon_chardev_option monitor, debugcon;
    bool nographic, no_reboot, no_shutdown, nodefaults, start_paused, stats, stats_json;
    bool debug_exit, testdev;
    u16 debug_exit_iobase;
    u8 debug_exit_iosize;
    u16 gdb_port; /* 0: no stub */
    bool icount;
    u8 icount_shift;
    enum mon_icount_log rr;
    char rr_file[512];
    bool rtc_set; /* -rtc base=... fixed the epoch */
    i64 rtc_epoch_s;
    const char *trace_list, *trace_file, *pidfile;
    const char *translation_trace; /* -trace-out: file, or NULL */
    bool perfmap, jitdump;
    const char *profile, *symbols; /* -profile, -symbols: files, or NULL */
    bool lockstep_all;             /* compare every execution, not a sample */
    bool ring_report;              /* metal: say at the end in which rings the guest ran */
    u8 escape_char;                /* -echr: 1 = Ctrl-A */
    struct bt_config bt;
};

enum mon_parse_result {
    MON_PARSE_RUN,  /* options are complete: run the machine */
    MON_PARSE_DONE, /* -help and the like were answered on stdout: status 0 */
    MON_PARSE_ERROR /* one line was printed on stderr: status 1 */
};
/* Parses a command line in QEMU's spelling (one or two dashes). Warnings and errors go to stderr.
 */
enum mon_parse_result mon_parse_options(int argc, char **argv, struct mon_options *out);
/* "128", "128M", "1.5G", "0x10M": bytes, in units of default_unit without a suffix. Suffixes B K M
 * G T. False when not a number or out of range of u64. */
bool mon_parse_size(const char *text, u64 default_unit, u64 *bytes);
/* The argument of -fw_cfg: [name=]NAME,file=FILE or [name=]NAME,string=TEXT; a doubled comma stands
 * for one. */
struct mon_fw_cfg_option {
    char name[56];
    char value[1024]; /* the file's name or the text */
    bool is_file;
};
bool mon_fw_cfg_parse(const char *arg, struct mon_fw_cfg_option *out, struct mon_error *err);
/* Splits a command line that comes as one string into words, in place, as a shell does: "..." and
 * '...' quote, a backslash takes the next character as it is. False when there are more than max or
 * a quote is not closed: then argv holds the words before that. */
bool mon_split_line(char *line, char **argv, int max, int *argc);

/* ---- CPU model (cpumodel.c) ---- */

/* What of the host the model may promise. mon_host_cpu() asks the host; tests make their own. */
struct mon_host_cpu {
    u32 f1_edx, f1_ecx; /* CPUID leaf 1; RDRAND (and RDSEED) where there are random numbers */
    u32 f7_ebx, x1_ecx; /* leaves 7 and 80000001h */
    u64 tsc_hz;         /* 0: not usable, time comes from CLOCK_MONOTONIC */
    bool tsc_invariant;
};
void mon_host_cpu(struct mon_host_cpu *out);
/* Builds the CPUID policy from -cpu's argument (NULL: the default model). tsc_hz: the guest's TSC
 * frequency. */
bool mon_cpu_model(const char *spec, const struct mon_host_cpu *host, u64 tsc_hz,
                   struct cpu_model *out, struct mon_error *err);
/* -cpu help. */
void mon_cpu_help(void);
/* True when the model has the CPUID leaf 1 (or 80000001h) feature of that name. */
bool mon_cpu_has(const struct cpu_model *model, const char *feature);

/* ---- Kernel loaders (load.c, load_bzimage.c, load_multiboot.c) ---- */

/* A file read whole; stays for resets. On metal, a module that the boot loader brought; its name
 * there is the first word of its command line, with or without directories, or "module N". */
struct mon_file {
    const char *name;
    const u8 *data;
    u64 bytes;
};
bool mon_file_read(struct mon_file *f, const char *name, struct mon_error *err);
void mon_file_free(struct mon_file *f);

#define MON_MAX_MODULES 32
struct mon_module {
    struct mon_file file;
    char *cmdline; /* owned */
};
/* What -kernel, -initrd and -append named, read once and placed into RAM at every reset. */
enum mon_kernel_kind { MON_KERNEL_BZIMAGE, MON_KERNEL_MULTIBOOT };
struct mon_image {
    enum mon_kernel_kind kind;
    struct mon_file kernel;
    struct mon_module module[MON_MAX_MODULES]; /* bzImage: at most one, the initrd */
    unsigned modules;
    const char *append;
    u32 header_offset; /* Multiboot: of the header in the file */
};
/* Reads and checks the files. */
bool mon_image_open(struct mon_image *image, const char *kernel, const char *initrd,
                    const char *append, struct mon_error *err);
void mon_image_close(struct mon_image *image);
/* Places the image into flat RAM of ram_bytes and sets the CPU's entry state. The CPU was reset. */
bool mon_image_load(const struct mon_image *image, u8 *ram, u64 ram_bytes, struct cpu *cpu,
                    struct mon_error *err);

/* BIOS-style memory map: type 1 RAM, 2 reserved. Returns the number of entries, at most 8. */
struct mon_e820 {
    u64 base, bytes;
    u32 type;
};
unsigned mon_memory_map(u64 ram_bytes, struct mon_e820 out[8]);

/* ---- gdb remote protocol, the parts without a socket (gdbpacket_hosted.c) ---- */

/* Feeds one byte from gdb. */
enum mon_gdb_event {
    MON_GDB_MORE,   /* nothing complete yet */
    MON_GDB_PACKET, /* p->text holds a packet with a good checksum */
    MON_GDB_BAD,    /* bad checksum or too long: answer '-' */
    MON_GDB_BREAK,  /* Ctrl-C */
    MON_GDB_ACK,
    MON_GDB_NAK
};
#define MON_GDB_PACKET_BYTES 4096
struct mon_gdb_parser {
    char text[MON_GDB_PACKET_BYTES + 1]; /* NUL-terminated, escapes resolved */
    unsigned length;
    u8 state, sum, expected;
    bool overflow;
};
enum mon_gdb_event mon_gdb_feed(struct mon_gdb_parser *p, u8 byte);
/* "$body#xx" into out; returns its length, 0 when it does not fit. */
size_t mon_gdb_frame(const char *body, size_t body_bytes, char *out, size_t out_bytes);

/* ---- The machine (machine.c, run.c) ---- */

struct vm;
/* Builds the machine. NULL with *err filled. */
struct vm *mon_vm_create(const struct mon_options *options, struct mon_error *err);
/* Runs until power-off, exit or a signal. Returns the process's exit status. */
int mon_vm_run(struct vm *vm);
void mon_vm_destroy(struct vm *vm);

#endif
