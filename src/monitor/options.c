/*
 * options.c: the command line, in QEMU's spelling, as one table: a row per option with its
 * argument, its handler and its help. Options of QEMU's that change nothing here are accepted, some
 * silently because this machine is like that anyway, the others with a warning; options that ask
 * for a device or a service that is not there fail.
 */
#include "monitor/option_text.h"
#include "monitor/outside.h"

#include <stdarg.h>
#include <stdio.h>

#define QEMU_VERSION "7.2.0"
#define MIN_RAM_BYTES (2ull << 20)
#define MAX_RAM_BYTES (3ull << 30)
#define DEFAULT_RAM_BYTES (128ull << 20)
#define MIN_CACHE_BYTES (1ull << 20)
#define MAX_CACHE_BYTES (1ull << 30)

/* What an option takes, and what it needs of the substrate. */
enum {
    NO_ARG = 0,
    ARG = 1,
    NEEDS_FILES = 2,
    NEEDS_DEBUGGERS = 4,
    NEEDS_RINGS = 8,
    MAY_BE_JSON = 16 /* the word "json" may follow */
};
struct option_row;
/* One option met on the command line. */
struct met {
    struct mon_options *o;
    const struct option_row *row;
    const char *arg; /* NULL for options without one */
};
typedef enum mon_parse_result option_handler(const struct met *met);
struct option_row {
    const char *name;
    u8 flags;
    option_handler *handle;
    const char *help; /* as printed after "-name"; NULL: not listed */
};

static enum mon_parse_result fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static enum mon_parse_result fail(const char *fmt, ...) {
    va_list ap;
    char text[400];
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_error("%s", text);
    return MON_PARSE_ERROR;
}

/* ---- Handlers ---- */
static enum mon_parse_result accept_silently(const struct met *met) {
    (void)met;
    return MON_PARSE_RUN;
}
static enum mon_parse_result warn_ignored(const struct met *met) {
    log_warn("-%s has no effect here", met->row->name);
    return MON_PARSE_RUN;
}
static enum mon_parse_result not_supported(const struct met *met) {
    return fail("-%s: not supported", met->row->name);
}
static enum mon_parse_result disks_not_supported(const struct met *met) {
    return fail("-%s: disks are not supported", met->row->name);
}

static enum mon_parse_result set_kernel(const struct met *met) {
    met->o->kernel = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_initrd(const struct met *met) {
    met->o->initrd = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_append(const struct met *met) {
    met->o->append = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_bios(const struct met *met) {
    met->o->bios = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result add_fw_cfg(const struct met *met) {
    struct mon_fw_cfg_option parsed;
    struct mon_error err;
    if (!mon_fw_cfg_parse(met->arg, &parsed, &err))
        return fail("-fw_cfg: %s", err.text);
    if (met->o->fw_cfg_count == ARRAY_LEN(met->o->fw_cfg))
        return fail("-fw_cfg: more than %u items", MON_MAX_FW_CFG);
    if (strncmp(parsed.name, "opt/", 4))
        log_warn("externally provided fw_cfg item names should be prefixed with \"opt/\"");
    met->o->fw_cfg[met->o->fw_cfg_count++] = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_nographic(const struct met *met) {
    met->o->nographic = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_no_reboot(const struct met *met) {
    met->o->no_reboot = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_no_shutdown(const struct met *met) {
    met->o->no_shutdown = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_nodefaults(const struct met *met) {
    met->o->nodefaults = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_paused(const struct met *met) {
    met->o->start_paused = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_perfmap(const struct met *met) {
    met->o->perfmap = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_jitdump(const struct met *met) {
    met->o->jitdump = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_profile(const struct met *met) {
    met->o->profile = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_symbols(const struct met *met) {
    met->o->symbols = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_translation_trace(const struct met *met) {
    met->o->translation_trace = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_trace_counts(const struct met *met) {
    met->o->bt.count = !strcmp(met->arg, "exact");
    if (!met->o->bt.count && strcmp(met->arg, "sampled"))
        return fail("-trace-counts: '%s' is neither sampled nor exact", met->arg);
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_trace_file(const struct met *met) {
    met->o->trace_file = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_pidfile(const struct met *met) {
    met->o->pidfile = met->arg;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_stats(const struct met *met) {
    met->o->stats = true;
    met->o->stats_json = met->arg != NULL;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_verify(const struct met *met) {
    met->o->bt.verify = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_selfcheck_all(const struct met *met) {
    met->o->bt.selfcheck_all = true;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_lockstep(const struct met *met) {
    met->o->bt.lockstep = true;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_lockstep_all(const struct met *met) {
    met->o->bt.lockstep = met->o->lockstep_all = true;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_cpu(const struct met *met) {
    if (!strcmp(met->arg, "help") || !strcmp(met->arg, "?")) {
        mon_cpu_help();
        return MON_PARSE_DONE;
    }
    met->o->cpu = met->arg;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_memory(const struct met *met) {
    char text[64];
    if (!option_property(met->arg, "size", text, sizeof text))
        option_first_item(met->arg, text, sizeof text);
    u64 bytes;
    if (!mon_parse_size(text, 1 << 20, &bytes))
        return fail("-m: '%s' is not a size (use -m N, in MiB, or N with K, M or G)", met->arg);
    if (bytes < MIN_RAM_BYTES || bytes > MAX_RAM_BYTES)
        return fail("-m: '%s' is out of range: the machine takes %llu MiB to %llu MiB", met->arg,
                    MIN_RAM_BYTES >> 20, MAX_RAM_BYTES >> 20);
    met->o->ram_bytes = bytes & ~(u64)PAGE_OFFSET_MASK;
    return MON_PARSE_RUN;
}

/* "kvm:tcg" lists in order of preference; tcg names the translator of this program. */
static enum mon_parse_result choose_accel(struct mon_options *o, const char *list) {
    static const struct {
        const char *name, *accel;
    } known[] = {{"bt", "bt"}, {"tcg", "bt"}, {"interp", "interp"}, {"kvm", "kvm"}};
    for (const char *p = list; *p;) {
        size_t chars = strcspn(p, ":,");
        for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
            if (strlen(known[i].name) != chars || strncmp(p, known[i].name, chars))
                continue;
            /* kvm is there to be compared with: who gives a choice gets the translator. */
            if (!strcmp(known[i].accel, "kvm") && (p[chars] == ':' || !mon_outside.files))
                continue;
            o->accel = known[i].accel;
            return MON_PARSE_RUN;
        }
        if (p[chars] != ':')
            break;
        p += chars + 1;
    }
    return fail("-accel: invalid accelerator '%s' (bt, interp%s)", list,
                mon_outside.files ? ", kvm" : "");
}

static enum mon_parse_result set_accel(const struct met *met) {
    char text[64];
    if (!option_property(met->arg, "accel", text, sizeof text))
        option_first_item(met->arg, text, sizeof text);
    if (!strcmp(text, "help") || !strcmp(text, "?")) {
        mon_print("Accelerators supported in ringfold binary:\n"
                  "bt       ring compression and binary translation (default; alias: tcg)\n"
                  "interp   the reference interpreter\n");
        if (mon_outside.files)
            mon_print("kvm      hardware assist through /dev/kvm, to compare with\n");
        return MON_PARSE_DONE;
    }
    return choose_accel(met->o, text);
}

static enum mon_parse_result enable_kvm(const struct met *met) {
    return choose_accel(met->o, "kvm");
}

static enum mon_parse_result set_machine(const struct met *met) {
    static const char *const names[] = {"pc", "q35", "isapc", "microvm", "none"};
    char text[64];
    if (!option_property(met->arg, "type", text, sizeof text))
        option_first_item(met->arg, text, sizeof text);
    if (!strcmp(text, "help") || !strcmp(text, "?")) {
        mon_print("Supported machines are:\n"
                  "pc                   Standard PC (i440FX + PIIX, 1996) (default)\n");
        return MON_PARSE_DONE;
    }
    char accel[64];
    if (option_property(met->arg, "accel", accel, sizeof accel) &&
        choose_accel(met->o, accel) != MON_PARSE_RUN)
        return MON_PARSE_ERROR;
    bool good = strchr(text, '=') || !strncmp(text, "pc-i440fx", 9);
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(text, names[i])) {
            good = true;
            if (i)
                log_warn("-machine %s: the machine is always 'pc'", text);
        }
    return good ? MON_PARSE_RUN
                : fail("-machine: unsupported machine type '%s' (use -machine help)", text);
}

static enum mon_parse_result set_smp(const struct met *met) {
    char text[64];
    if (!option_property(met->arg, "cpus", text, sizeof text))
        option_first_item(met->arg, text, sizeof text);
    u64 cpus;
    if (!option_unsigned(text, 1u << 20, &cpus) || !cpus)
        return fail("-smp: '%s' is not a number of CPUs", met->arg);
    if (cpus != 1)
        return fail("-smp: the machine has one CPU, not %llu", (unsigned long long)cpus);
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_display(const struct met *met) {
    char text[64];
    option_first_item(met->arg, text, sizeof text);
    if (strcmp(text, "none"))
        log_warn("-%s %s: there is no display", met->row->name, text);
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_none_only(const struct met *met) {
    char text[64];
    option_first_item(met->arg, text, sizeof text);
    if (strcmp(text, "none") && strcmp(text, "null"))
        log_warn("-%s %s has no effect here", met->row->name, text);
    return MON_PARSE_RUN;
}

static bool parse_chardev(const char *arg, struct mon_chardev_option *out) {
    *out = (struct mon_chardev_option){.kind = MON_CHR_NULL};
    if (!strncmp(arg, "mon:", 4)) {
        out->mux = true;
        arg += 4;
    }
    if (!strcmp(arg, "stdio"))
        out->kind = MON_CHR_STDIO;
    else if (!strcmp(arg, "none"))
        out->kind = MON_CHR_NONE;
    else if (!strncmp(arg, "file:", 5) && arg[5] && mon_outside.files) {
        out->kind = MON_CHR_FILE;
        out->path = arg + 5;
    } else if (strcmp(arg, "null") && strcmp(arg, "vc"))
        return false;
    return true;
}

static const char *file_kind(void) {
    return mon_outside.files ? "file:PATH, " : "";
}

static enum mon_parse_result set_serial(const struct met *met) {
    struct mon_chardev_option c;
    if (!parse_chardev(met->arg, &c))
        return fail("-serial: '%s' is not supported (stdio, mon:stdio, %snull, none)", met->arg,
                    file_kind());
    if (met->o->serial_count == ARRAY_LEN(met->o->serial))
        return fail("-serial: the machine has %zu serial ports", ARRAY_LEN(met->o->serial));
    met->o->serial[met->o->serial_count++] = c;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_monitor(const struct met *met) {
    if (!parse_chardev(met->arg, &met->o->monitor) || met->o->monitor.kind == MON_CHR_FILE)
        return fail("-monitor: '%s' is not supported (stdio, null, none)", met->arg);
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_debugcon(const struct met *met) {
    if (!parse_chardev(met->arg, &met->o->debugcon))
        return fail("-debugcon: '%s' is not supported (stdio, %snull, none)", met->arg,
                    file_kind());
    return MON_PARSE_RUN;
}

static enum mon_parse_result device_number(const char *arg, const char *key, u64 max, u64 *out) {
    char text[32];
    if (option_property(arg, key, text, sizeof text) && (!option_unsigned(text, max, out) || !*out))
        return fail("-device: '%s' is not a value for %s", text, key);
    return MON_PARSE_RUN;
}

static enum mon_parse_result add_device(const struct met *met) {
    char name[64];
    if (!option_property(met->arg, "driver", name, sizeof name))
        option_first_item(met->arg, name, sizeof name);
    if (!strcmp(name, "help") || !strcmp(name, "?")) {
        mon_print("name \"isa-debug-exit\", bus ISA\nname \"pc-testdev\", bus ISA\n");
        return MON_PARSE_DONE;
    }
    if (!strcmp(name, "pc-testdev")) {
        met->o->testdev = true;
        return MON_PARSE_RUN;
    }
    if (strcmp(name, "isa-debug-exit"))
        return fail("-device %s: '%s' is not a valid device model name", met->arg, name);
    u64 base = met->o->debug_exit_iobase, size = met->o->debug_exit_iosize;
    if (device_number(met->arg, "iobase", 0xffff, &base) != MON_PARSE_RUN ||
        device_number(met->arg, "iosize", 8, &size) != MON_PARSE_RUN)
        return MON_PARSE_ERROR;
    met->o->debug_exit = true;
    met->o->debug_exit_iobase = (u16)base;
    met->o->debug_exit_iosize = (u8)size;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_gdb(const struct met *met) {
    if (!strcmp(met->arg, "none")) {
        met->o->gdb_port = 0;
        return MON_PARSE_RUN;
    }
    char text[128];
    option_first_item(met->arg, text, sizeof text);
    const char *colon = strrchr(text, ':');
    u64 port;
    if (strncmp(text, "tcp:", 4) || !colon || !option_unsigned(colon + 1, 65535, &port) || !port)
        return fail("-gdb: '%s' is not supported (tcp::PORT)", met->arg);
    met->o->gdb_port = (u16)port;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_gdb_default(const struct met *met) {
    met->o->gdb_port = 1234;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_trace(const struct met *met) {
    const char *bad = NULL;
    if (!trace_parse(met->arg, &bad))
        return fail("-d: unknown category '%.*s' (-d help lists them)",
                    (int)strcspn(bad ? bad : met->arg, ","), bad ? bad : met->arg);
    met->o->trace_list = met->arg;
    return strstr(met->arg, "help") ? MON_PARSE_DONE : MON_PARSE_RUN;
}

static enum mon_parse_result set_trace_filter(const struct met *met) {
    if (!trace_filter_parse(met->arg))
        return fail("-dfilter: '%s' is not a list of ranges (START..END, START+BYTES, START-BYTES)",
                    met->arg);
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_rtc(const struct met *met) {
    char text[64];
    if (!option_property(met->arg, "base", text, sizeof text) || !strcmp(text, "utc"))
        return MON_PARSE_RUN;
    if (!strcmp(text, "localtime")) {
        if (!mon_local_epoch_s(&met->o->rtc_epoch_s))
            return fail("-rtc: the local time zone is not known here");
    } else if (!option_date(text, &met->o->rtc_epoch_s)) {
        return fail("-rtc: '%s' is not a date (YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS)", text);
    }
    met->o->rtc_set = true;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_icount(const struct met *met) {
    char text[256];
    u64 shift = 0;
    if (option_property(met->arg, "shift", text, sizeof text) && strcmp(text, "auto") &&
        !option_unsigned(text, 10, &shift))
        return fail("-icount: '%s' is not a shift (0 to 10)", text);
    met->o->icount = true;
    met->o->icount_shift = (u8)shift;
    if (option_property(met->arg, "rr", text, sizeof text)) {
        if (!mon_outside.files)
            return fail("-icount: rr=%s needs a file, there are none here", text);
        bool record = !strcmp(text, "record");
        if (!record && strcmp(text, "replay"))
            return fail("-icount: rr must be record or replay, not '%s'", text);
        if (!option_property(met->arg, "rrfile", met->o->rr_file, sizeof met->o->rr_file))
            return fail("-icount: rr needs rrfile=PATH");
        met->o->rr = record ? MON_RR_RECORD : MON_RR_REPLAY;
    }
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_echr(const struct met *met) {
    u64 code;
    if (!option_unsigned(met->arg, 255, &code))
        return fail("-echr: '%s' is not a character code", met->arg);
    met->o->escape_char = (u8)code;
    return MON_PARSE_RUN;
}

static enum mon_parse_result switch_off(const struct met *met) {
    static const struct {
        const char *name;
        size_t offset;
    } rows[] = {
        {"no-chain", offsetof(struct bt_config, chain)},
        {"no-retstack", offsetof(struct bt_config, retstack)},
        {"no-icache", offsetof(struct bt_config, icache)},
        {"no-adapt", offsetof(struct bt_config, adapt)},
        {"no-foresight", offsetof(struct bt_config, foresight)},
        {"no-selfcheck", offsetof(struct bt_config, selfcheck)},
        {"no-light", offsetof(struct bt_config, light)},
        {"no-direct", offsetof(struct bt_config, direct)},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (!strcmp(met->row->name, rows[i].name))
            *(bool *)((u8 *)&met->o->bt + rows[i].offset) = false;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_hot(const struct met *met) {
    u64 n;
    if (!option_unsigned(met->arg, 1u << 30, &n))
        return fail("-hot: '%s' is not a number of executions", met->arg);
    met->o->bt.hot_threshold = (u32)n;
    return MON_PARSE_RUN;
}

static enum mon_parse_result set_cache(const struct met *met) {
    u64 bytes;
    if (!mon_parse_size(met->arg, 1 << 20, &bytes))
        return fail("-cache: '%s' is not a size", met->arg);
    if (bytes < MIN_CACHE_BYTES || bytes > MAX_CACHE_BYTES)
        return fail("-cache: '%s' is out of range: %llu MiB to %llu MiB", met->arg,
                    MIN_CACHE_BYTES >> 20, MAX_CACHE_BYTES >> 20);
    met->o->bt.cache_bytes = bytes;
    return MON_PARSE_RUN;
}

/* What only the metal substrate can do; elsewhere it can only be declined. */
static enum mon_parse_result needs_rings(const struct met *met) {
    return fail("-%s %s: only the metal substrate can do that, not the %s one", met->row->name,
                met->arg, mon_outside.name);
}

static enum mon_parse_result set_ring_switch(const struct met *met, bool *out) {
    bool on;
    if (!option_switch(met->arg, &on))
        return fail("-%s: '%s' is neither on nor off", met->row->name, met->arg);
    if (on && !mon_outside.rings)
        return needs_rings(met);
    *out = on;
    return MON_PARSE_RUN;
}
static enum mon_parse_result set_direct(const struct met *met) {
    return set_ring_switch(met, &met->o->bt.direct);
}
static enum mon_parse_result set_ring_report(const struct met *met) {
    return set_ring_switch(met, &met->o->ring_report);
}

static enum mon_parse_result set_trap_classes(const struct met *met) {
    u32 classes;
    size_t chars;
    const char *bad = option_trap_classes(met->arg, &classes, &chars);
    if (bad)
        return fail("-trap-classes: '%.*s' is not a class (cr, io, cli-sti, hlt, msr, descriptor, "
                    "invlpg, none, all)",
                    (int)chars, bad);
    if (classes && !mon_outside.rings)
        return needs_rings(met);
    met->o->bt.trap_classes = classes;
    return MON_PARSE_RUN;
}

static enum mon_parse_result print_version(const struct met *met) {
    (void)met;
    /* The second form is what scripts that drive QEMU look for. */
    mon_print("ringfold version " RINGFOLD_VERSION " (QEMU emulator version " QEMU_VERSION
              " compatible command line)\n");
    return MON_PARSE_DONE;
}

static enum mon_parse_result print_help(const struct met *met);

/* ---- The table ---- */
static const struct option_row options[] = {
    {"h", NO_ARG, print_help, " or -help     display this help and exit"},
    {"help", NO_ARG, print_help, NULL},
    {"version", NO_ARG, print_version, "        display version information and exit"},
    {"machine", ARG, set_machine,
     " [type=]name[,prop[=value][,...]]\n                selects emulated machine ('-machine help' "
     "for list); accel=bt|interp|kvm"},
    {"M", ARG, set_machine, NULL},
    {"cpu", ARG, set_cpu, " cpu        select CPU ('-cpu help' for list); NAME,-feature,+feature"},
    {"accel", ARG, set_accel,
     " [accel=]accelerator\n                select accelerator (bt, interp or kvm; use 'help' for "
     "a "
     "list)"},
    {"smp", ARG, set_smp, " [cpus=]n    set the number of CPUs to 'n' (1)"},
    {"m", ARG, set_memory, " [size=]megs  configure guest RAM (default 128M; suffixes K, M, G)"},
    {"k", ARG, warn_ignored, NULL},
    {"name", ARG, accept_silently, " string      set the name of the guest (ignored)"},
    {"device", ARG, add_device,
     " driver[,prop[=value][,...]]\n                add device: "
     "isa-debug-exit[,iobase=N][,iosize=N]"
     ", pc-testdev"},
    {"kernel", ARG, set_kernel,
     " bzImage use 'bzImage' as kernel image (Linux bzImage or Multiboot)"},
    {"append", ARG, set_append, " cmdline use 'cmdline' as kernel command line"},
    {"initrd", ARG, set_initrd,
     " file    use 'file' as initial ram disk (Multiboot: \"file args,file2 args\")"},
    {"bios", ARG, set_bios,
     " file      firmware, 64 to 256 KiB, started at the reset vector instead of the kernel"},
    {"fw_cfg", ARG, add_fw_cfg,
     " [name=]<name>,file=<file>|string=<str>\n                add named fw_cfg entry with "
     "contents "
     "from file or string"},
    {"display", ARG, set_display, " none   there is no display"},
    {"nographic", NO_ARG, set_nographic,
     "      serial port and console on standard input and output"},
    {"vga", ARG, set_display, " none       there is no VGA"},
    {"serial", ARG, set_serial,
     " dev     redirect the serial port to char device 'dev':\n                stdio, mon:stdio, "
     "file:PATH, null, none"},
    {"monitor", ARG, set_monitor, " dev    redirect the console to char device 'dev': stdio, none"},
    {"debugcon", ARG, set_debugcon, " dev   redirect the debug console (port e9h)"},
    {"echr", ARG, set_echr, " chr       set terminal escape character instead of ctrl-a"},
    {"nodefaults", NO_ARG, set_nodefaults, "     don't create default devices"},
    {"no-user-config", NO_ARG, accept_silently,
     "\n                don't load user-provided config "
     "files (there are none)"},
    {"no-reboot", NO_ARG, set_no_reboot, "      exit instead of rebooting"},
    {"no-shutdown", NO_ARG, set_no_shutdown, "    stop before shutdown"},
    {"rtc", ARG, set_rtc, " base=utc|localtime|<datetime>\n                set the RTC base"},
    {"icount", ARG, set_icount,
     " [shift=N][,rr=record|replay,rrfile=<filename>]\n                deterministic virtual time: "
     "2^N ns per instruction"},
    {"S", NO_ARG, set_paused, "              freeze CPU at startup (use 'c' to start execution)"},
    {"gdb", ARG | NEEDS_DEBUGGERS, set_gdb,
     " dev        accept gdb connection on 'dev': tcp::PORT"},
    {"s", NEEDS_DEBUGGERS, set_gdb_default, "              shorthand for -gdb tcp::1234"},
    {"d", ARG, set_trace,
     " item1,...    enable logging of specified items (use '-d help' for a list)"},
    {"D", ARG | NEEDS_FILES, set_trace_file,
     " logfile      output log to logfile (default stderr)"},
    {"dfilter", ARG, set_trace_filter,
     " range,..  limit in_asm, out_asm, exec, exits, int, page, mmu to guest addresses\n           "
     "     (START..END, "
     "START+BYTES or START-BYTES)"},
    {"pidfile", ARG | NEEDS_FILES, set_pidfile, " file   write PID to 'file'"},
    /* Ringfold's own. */
    {"stats", MAY_BE_JSON, set_stats,
     " [json]   print counters at exit, for people or as one JSON object"},
    {"profile", ARG | NEEDS_FILES, set_profile,
     " file   sample where time goes: folded stacks for flame graphs"},
    {"perfmap", NO_ARG | NEEDS_FILES, set_perfmap,
     "        write /tmp/perf-PID.map, by which perf names translated code"},
    {"jitdump", NO_ARG | NEEDS_FILES, set_jitdump,
     "        write jit-PID.dump for perf inject --jit"},
    {"symbols", ARG | NEEDS_FILES, set_symbols,
     " file   the guest kernel's names: System.map, kallsyms or vmlinux"},
    {"trace-out", ARG | NEEDS_FILES, set_translation_trace,
     " file\n                record the translation trace of this run"},
    {"trace-counts", ARG | NEEDS_FILES, set_trace_counts,
     " sampled|exact\n                how -trace-out learns how often code ran (sampled by "
     "default)"},
    {"verify", NO_ARG, set_verify, "         let Capstone check every translated unit"},
    {"lockstep", NEEDS_DEBUGGERS, set_lockstep,
     "       run units in the interpreter too, stop at the first difference"},
    {"lockstep-all", NEEDS_DEBUGGERS, set_lockstep_all,
     "\n                the same at every execution"},
    {"no-chain", NO_ARG, switch_off, "       do not link translated units"},
    {"no-retstack", NO_ARG, switch_off, "    do not pair calls and returns"},
    {"no-icache", NO_ARG, switch_off, "      no inline caches for indirect branches"},
    {"no-adapt", NO_ARG, switch_off, "       do not rewrite sites that keep faulting"},
    {"no-foresight", NO_ARG, switch_off, "   do not map pages before they are touched"},
    {"no-selfcheck", NO_ARG, switch_off,
     "   do not let code check itself where its pages are written"},
    {"selfcheck-all", NO_ARG, set_selfcheck_all, "\n                let all of it (to test that)"},
    {"no-light", NO_ARG, switch_off,
     "       leave translated code for each IN, OUT, CPUID, MOV to CRn"},
    {"no-direct", NO_ARG, switch_off, "      as -direct off: translate applications, too"},
    {"hot", ARG, set_hot, " N          translate code at its N-th execution"},
    {"cache", ARG, set_cache, " size     size of the translation cache"},
    {"direct", ARG, set_direct,
     " on|off  run applications untranslated (metal only, where it is the default)"},
    {"trap-classes", ARG, set_trap_classes,
     " list\n                leave privileged instructions of these classes to trap in kernel "
     "code\n                (metal only): cr,io,cli-sti,hlt,msr,descriptor,invlpg, none or all"},
    {"ring-report", ARG, set_ring_report,
     " on|off\n                report at the end in which rings the guest ran (metal only)"},
    {"sensitive-report", NO_ARG | NEEDS_RINGS, accept_silently,
     "\n                show what ring 1 does to sensitive instructions, instead of running a "
     "guest\n                (metal only)"},
    {"carrier-exit", ARG | NEEDS_RINGS, accept_silently,
     " port\n                isa-debug-exit port of the machine around us, for the exit status "
     "(metal only)"},
    /* Already so. */
    {"no-fd-bootchk", NO_ARG, accept_silently, NULL},
    {"no-hpet", NO_ARG, accept_silently, NULL},
    {"boot", ARG, accept_silently, NULL},
    {"net", ARG, set_none_only, NULL},
    {"nic", ARG, set_none_only, NULL},
    {"parallel", ARG, set_none_only, NULL},
    {"msg", ARG, accept_silently, NULL},
    {"uuid", ARG, accept_silently, NULL},
    {"sandbox", ARG, accept_silently, NULL},
    {"action", ARG, warn_ignored, NULL},
    {"no-acpi", NO_ARG, warn_ignored, NULL},
    {"usb", NO_ARG, warn_ignored, NULL},
    {"vnc", ARG, set_none_only, NULL},
    {"spice", ARG, warn_ignored, NULL},
    {"audio", ARG, warn_ignored, NULL},
    {"audiodev", ARG, warn_ignored, NULL},
    {"full-screen", NO_ARG, warn_ignored, NULL},
    {"qmp", ARG, set_none_only, NULL},
    {"qmp-pretty", ARG, set_none_only, NULL},
    {"L", ARG, warn_ignored, NULL},
    {"global", ARG, warn_ignored, NULL},
    {"object", ARG, warn_ignored, NULL},
    {"mem-path", ARG, warn_ignored, NULL},
    {"mem-prealloc", NO_ARG, warn_ignored, NULL},
    {"overcommit", ARG, warn_ignored, NULL},
    {"compat", ARG, warn_ignored, NULL},
    {"seed", ARG, warn_ignored, NULL},
    {"trace", ARG, warn_ignored, NULL},
    {"singlestep", NO_ARG, warn_ignored, NULL},
    {"smbios", ARG, warn_ignored, NULL},
    {"watchdog-action", ARG, warn_ignored, NULL},
    {"snapshot", NO_ARG, warn_ignored, NULL},
    {"numa", ARG, warn_ignored, NULL},
    /* What asks for something that is not there. */
    {"enable-kvm", NO_ARG | NEEDS_FILES, enable_kvm, NULL},
    {"daemonize", NO_ARG, not_supported, NULL},
    {"chardev", ARG, not_supported, NULL},
    {"mon", ARG, not_supported, NULL},
    {"netdev", ARG, not_supported, NULL},
    {"virtfs", ARG, not_supported, NULL},
    {"fsdev", ARG, not_supported, NULL},
    {"usbdevice", ARG, not_supported, NULL},
    {"loadvm", ARG, not_supported, NULL},
    {"incoming", ARG, not_supported, NULL},
    {"dtb", ARG, not_supported, NULL},
    {"drive", ARG, disks_not_supported, NULL},
    {"blockdev", ARG, disks_not_supported, NULL},
    {"hda", ARG, disks_not_supported, NULL},
    {"hdb", ARG, disks_not_supported, NULL},
    {"hdc", ARG, disks_not_supported, NULL},
    {"hdd", ARG, disks_not_supported, NULL},
    {"fda", ARG, disks_not_supported, NULL},
    {"fdb", ARG, disks_not_supported, NULL},
    {"cdrom", ARG, disks_not_supported, NULL},
    {"pflash", ARG, disks_not_supported, NULL},
    {"sd", ARG, disks_not_supported, NULL},
    {"mtdblock", ARG, disks_not_supported, NULL},
};

static bool available(const struct option_row *row) {
    return !((row->flags & NEEDS_FILES) && !mon_outside.files) &&
           !((row->flags & NEEDS_DEBUGGERS) && !mon_outside.debuggers) &&
           !((row->flags & NEEDS_RINGS) && !mon_outside.rings);
}

static enum mon_parse_result print_help(const struct met *met) {
    print_version(met);
    mon_print("usage: ringfold [options]\n\nStandard options:\n");
    for (unsigned i = 0; i < ARRAY_LEN(options); i++)
        if (options[i].help && available(&options[i]))
            mon_print("-%s%s\n", options[i].name, options[i].help);
    mon_print("\nDuring emulation, the following keys are useful (-nographic, -serial mon:stdio):\n"
              "ctrl-a h        print this help\n"
              "ctrl-a x        end the virtual machine\n"
              "ctrl-a c        switch between the console and the serial port\n"
              "ctrl-a ctrl-a   send ctrl-a\n");
    return MON_PARSE_DONE;
}

static const struct option_row *find_option(const char *name) {
    for (unsigned i = 0; i < ARRAY_LEN(options); i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    return NULL;
}

static void set_defaults(struct mon_options *o) {
    memset(o, 0, sizeof *o);
    o->accel = "bt";
    o->ram_bytes = DEFAULT_RAM_BYTES;
    o->debug_exit_iobase = 0x501;
    o->debug_exit_iosize = 2;
    o->escape_char = 1;
    bt_config_default(&o->bt);
    o->bt.direct = mon_outside.rings;
}

/* Fills in what the options leave open, and rejects what does not go together. */
static enum mon_parse_result finish(struct mon_options *o) {
    struct mon_error err;
    if (!mon_outside_defaults(o, &err))
        return fail("%s", err.text);
    if (!o->kernel) {
        if (o->append)
            return fail("-append only allowed with -kernel option");
        if (o->initrd)
            return fail("-initrd only allowed with -kernel option");
        if (!o->bios)
            return fail("no kernel: use -kernel FILE (there is no BIOS to boot a disk)");
    }
    bool serial_uses_stdio = false;
    for (unsigned i = 0; i < o->serial_count; i++)
        serial_uses_stdio |= o->serial[i].kind == MON_CHR_STDIO;
    /* Without a display the serial port is the console unless the user says otherwise. */
    if (!o->serial_count && (o->nographic || !o->nodefaults)) {
        bool console = o->monitor.kind == MON_CHR_DEFAULT;
        o->serial[o->serial_count++] = (struct mon_chardev_option){
            .kind = o->monitor.kind == MON_CHR_STDIO ? MON_CHR_NULL : MON_CHR_STDIO,
            .mux = console};
    } else if (o->nographic && o->monitor.kind == MON_CHR_DEFAULT && !serial_uses_stdio) {
        o->monitor.kind = MON_CHR_STDIO;
    }
    unsigned users = o->monitor.kind == MON_CHR_STDIO;
    for (unsigned i = 0; i < o->serial_count; i++)
        users += o->serial[i].kind == MON_CHR_STDIO;
    if (users > 1)
        return fail("cannot use stdio by multiple character devices");
    o->bt.icount = o->icount;
    if (o->icount) /* nobody counts what runs untranslated */
        o->bt.direct = false;
    if (trace_on(TRACE_nochain))
        o->bt.chain = o->bt.icache = o->bt.retstack = false;
    if (o->bt.lockstep)
        o->accel = "bt";
    return MON_PARSE_RUN;
}

enum mon_parse_result mon_parse_options(int argc, char **argv, struct mon_options *o) {
    set_defaults(o);
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (text[0] != '-' || !text[1])
            return disks_not_supported(&(struct met){.row = find_option("hda")});
        const char *name = text + 1 + (text[1] == '-');
        const struct option_row *row = find_option(name);
        if (!row)
            return fail("%s: invalid option", text);
        if (!available(row))
            return fail("%s: not available on the %s substrate", text, mon_outside.name);
        const char *arg = NULL;
        if ((row->flags & MAY_BE_JSON) && i + 1 < argc && !strcmp(argv[i + 1], "json"))
            arg = argv[++i];
        if (row->flags & ARG) {
            if (i + 1 == argc)
                return fail("%s: requires an argument", text);
            arg = argv[++i];
        }
        enum mon_parse_result r = row->handle(&(struct met){o, row, arg});
        if (r != MON_PARSE_RUN)
            return r;
    }
    return finish(o);
}
