/*
 * console.c: who gets what is typed. The keyboard feeds a serial line; with -nographic and
 * mon:stdio, Ctrl-A is the escape to the monitor's keys and to a small console that shares the
 * line.
 */
#include "monitor/vm.h"

#include <stdio.h>
#include <stdlib.h>

#define PROMPT "(ringfold) "
/* -icount: standard input that is a file is looked at on this grid of virtual time. */
#define INPUT_GRID_NS 1000000u

static void say(struct vm *vm, const char *text) {
    mon_screen_write(vm, text, strlen(text));
}
static void say_line(void *opaque, const char *line) {
    say(opaque, line);
    say(opaque, "\r\n");
}

/* ---- Commands ---- */

static void examine(struct vm *vm, const char *args, void (*print)(void *, const char *),
                    void *opaque) {
    char text[64], *end;
    unsigned long lin = strtoul(args, &end, 0), words = 4;
    if (end == args) {
        print(opaque, "usage: x ADDRESS [WORDS]");
        return;
    }
    const char *second = end;
    unsigned long given = strtoul(second, &end, 0);
    if (end != second)
        words = given;
    for (unsigned long i = 0; i < MIN(words, 64ul); i++, lin += 4) {
        struct mmu_xlat x;
        u32 value;
        if (!mmu_probe(vm->cpu, GLIN((u32)lin), &x) ||
            !mmu_phys_read(vm->mmu, x.gpa, &value, sizeof value)) {
            snprintf(text, sizeof text, "%08x: cannot be read", (u32)lin);
            print(opaque, text);
            return;
        }
        snprintf(text, sizeof text, "%08x: 0x%08x", (u32)lin, value);
        print(opaque, text);
    }
}

static void print_units(struct vm *vm, void (*print)(void *, const char *), void *opaque) {
    struct bt_unit_info unit[16];
    unsigned n = vm->bt ? bt_last_units(vm->bt, unit, ARRAY_LEN(unit)) : 0;
    for (unsigned i = 0; i < n; i++) {
        char text[120];
        snprintf(text, sizeof text, "eip %08x cpl %u, %u instructions, %u bytes -> %u", unit[i].eip,
                 unit[i].cpl, unit[i].insns, unit[i].guest_bytes, unit[i].host_bytes);
        print(opaque, text);
    }
    if (!n)
        print(opaque, "no translated units");
}

/* Which guest code a host address belongs to: for those who look at the machine from outside. */
static void print_unit_at(struct vm *vm, const char *args, void (*print)(void *, const char *),
                          void *opaque) {
    u64 pc = strtoull(args, NULL, 16);
    struct bt_unit_info unit;
    u32 eip;
    char text[120];
    if (vm->bt && bt_unit_at(vm->bt, pc, &unit) && bt_pc_to_eip(vm->bt, pc, &eip))
        snprintf(text, sizeof text, "%llx: eip %08x in unit %08x cpl %u", (unsigned long long)pc,
                 eip, unit.eip, unit.cpl);
    else
        snprintf(text, sizeof text, "%llx: not in a unit", (unsigned long long)pc);
    print(opaque, text);
}

void mon_console_command(struct vm *vm, const char *line, void (*print)(void *, const char *),
                         void *opaque) {
    while (*line == ' ')
        line++;
    if (!*line)
        return;
    if (!strcmp(line, "quit") || !strcmp(line, "q")) {
        vm->finished = true;
        vm->exit_status = 0;
    } else if (!strcmp(line, "info registers")) {
        mon_engine_look(vm);
        cpu_dump(vm->cpu, print, opaque);
    } else if (!strcmp(line, "info stats")) {
        mon_stats_print(vm, false, print, opaque);
    } else if (!strcmp(line, "info rings")) {
        mon_rings_print(vm, print, opaque);
    } else if (!strcmp(line, "info units")) {
        print_units(vm, print, opaque);
    } else if (!strncmp(line, "info unit ", 10)) {
        print_unit_at(vm, line + 10, print, opaque);
    } else if (!strcmp(line, "info status")) {
        print(opaque, vm->paused ? "VM status: paused" : "VM status: running");
    } else if (!strcmp(line, "stop")) {
        vm->paused = true;
        mon_clock_pause(vm);
    } else if (!strcmp(line, "cont") || !strcmp(line, "c")) {
        vm->paused = false;
        mon_clock_resume(vm);
        vm->stop = 1;
    } else if (!strcmp(line, "system_reset")) {
        vm->reset_wanted = true;
        vm->stop = 1;
    } else if (!strcmp(line, "nmi")) {
        dev_nmi_pulse(vm->dev);
        vm->stop = 1;
    } else if (!strncmp(line, "x ", 2)) {
        examine(vm, line + 2, print, opaque);
    } else {
        if (strcmp(line, "help") && strcmp(line, "?"))
            print(opaque, "unknown command");
        print(opaque, "info registers|stats|unit HOST-ADDRESS|rings|units|status, stop, cont, "
                      "system_reset, nmi, x ADDRESS "
                      "[WORDS], quit");
    }
}

static void run_line(struct vm *vm) {
    struct mon_console *c = &vm->console;
    c->line[c->length] = 0;
    c->length = 0;
    say(vm, "\r\n");
    mon_console_command(vm, c->line, say_line, vm);
    if (c->active && !vm->finished)
        say(vm, PROMPT);
}

static void edit(struct vm *vm, u8 byte) {
    struct mon_console *c = &vm->console;
    bool newline_after_return = byte == '\n' && c->skip_newline;
    c->skip_newline = byte == '\r';
    if (newline_after_return)
        return;
    if (byte == '\r' || byte == '\n') {
        run_line(vm);
    } else if (byte == 8 || byte == 127) {
        if (c->length) {
            c->length--;
            say(vm, "\b \b");
        }
    } else if (byte >= ' ' && byte < 127 && c->length < sizeof c->line - 1) {
        char echo[2] = {(char)byte, 0};
        c->line[c->length++] = (char)byte;
        say(vm, echo);
    }
}

/* ---- Keys ---- */

static void toggle(struct vm *vm) {
    struct mon_console *c = &vm->console;
    c->active = c->only || !c->active;
    c->length = 0;
    say(vm, c->active ? "\r\nringfold " RINGFOLD_VERSION " console, 'help' for help\r\n" PROMPT
                      : "\r\n");
}

static void escaped_key(struct vm *vm, u8 byte) {
    switch (byte) {
    case 'x':
        say(vm, "\r\nringfold: terminated\r\n");
        vm->finished = true;
        vm->exit_status = 0;
        break;
    case 'c':
        toggle(vm);
        break;
    case 'h':
    case '?':
        say(vm, "\r\nC-a h    print this help\r\n"
                "C-a x    end the virtual machine\r\n"
                "C-a c    switch between the console and the serial port\r\n"
                "C-a C-a  send C-a\r\n");
        break;
    default:
        if (byte == vm->console.escape_char && vm->console.stdin_serial >= 0)
            mon_serial_feed(&vm->serial[vm->console.stdin_serial], byte);
        break;
    }
}

static void key(struct vm *vm, u8 byte) {
    struct mon_console *c = &vm->console;
    bool mux = c->only || (c->stdin_serial >= 0 && vm->serial[c->stdin_serial].mux);
    if (mux && c->escape) {
        c->escape = false;
        escaped_key(vm, byte);
    } else if (mux && byte == c->escape_char) {
        c->escape = true;
    } else if (c->active) {
        edit(vm, byte);
    } else if (c->stdin_serial >= 0) {
        mon_serial_feed(&vm->serial[c->stdin_serial], byte);
    }
}

static size_t room(const struct vm *vm) {
    const struct mon_console *c = &vm->console;
    if (c->active || c->stdin_serial < 0)
        return 256;
    return mon_serial_room(&vm->serial[c->stdin_serial]);
}

size_t mon_console_feed(struct vm *vm, const u8 *data, size_t bytes) {
    size_t n = 0;
    while (n < bytes && room(vm) && !vm->finished)
        key(vm, data[n++]);
    vm->stop = 1;
    return n;
}

static void schedule_next_look(struct vm *vm) {
    struct mon_console *c = &vm->console;
    bool open = c->uses_stdin && !c->stdin_eof && vm->opt.rr != MON_RR_REPLAY;
    bool grid = vm->clock.icount && c->stdin_regular;
    u64 now = mon_clock_now_ns(vm);
    vm->next_input_poll_ns =
        open && grid && room(vm) ? now - now % INPUT_GRID_NS + INPUT_GRID_NS : DEV_NEVER;
    mon_events_watch(vm, open && !grid && room(vm),
                     vm->gdb.fd >= 0 ? vm->gdb.fd : vm->gdb.listen_fd);
}

void mon_console_input(struct vm *vm) {
    struct mon_console *c = &vm->console;
    vm->events.stdin_ready = 0;
    c->rewatch = false;
    u8 data[256];
    size_t max = MIN(room(vm), sizeof data);
    i64 n = max && !c->stdin_eof ? mon_keyboard_read(vm, data, max) : MON_KEYBOARD_NOTHING;
    if (n > 0) {
        mon_replay_record(vm, data, (size_t)n);
        mon_console_feed(vm, data, (size_t)n);
    } else if (n == MON_KEYBOARD_END) {
        c->stdin_eof = true; /* the machine goes on without input */
    }
    schedule_next_look(vm);
}

void mon_console_open(struct vm *vm) {
    struct mon_console *c = &vm->console;
    c->escape_char = vm->opt.escape_char;
    c->stdin_serial = -1;
    bool mux = false;
    for (unsigned i = 0; i < ARRAY_LEN(vm->serial); i++)
        if (vm->serial[i].kind == MON_CHR_STDIO) {
            c->stdin_serial = (int)i;
            mux = vm->serial[i].mux;
        }
    c->only = vm->opt.monitor.kind == MON_CHR_STDIO;
    c->uses_stdin = c->only || c->stdin_serial >= 0;
    if (!c->uses_stdin)
        return;
    c->stdin_regular = mon_keyboard_open(!mux);
    if (c->only)
        toggle(vm);
    schedule_next_look(vm);
}
