/*
 * gdbstub_hosted.c: gdb's view of the guest: registers, memory by linear address, breakpoints,
 * stepping.
 *
 * Breakpoints do not touch guest memory, so that the guest cannot see them: the translator leaves
 * the instructions at their addresses to the emulator, and wherever the interpreter runs, EIP is
 * compared first. Everything here runs on the vCPU thread.
 *
 * Source: Debugging with GDB, appendix E "GDB Remote Serial Protocol" and G.5.20 "x86 Features".
 */
#include "monitor/vm.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_BYTES 8192
#define SIGNAL_INT 2
#define SIGNAL_TRAP 5
#define STEP_SLICE 4096

/* FXSAVE image offsets: SDM volume 1, table 10-2. */
enum { FX_FCW = 0, FX_FSW = 2, FX_FTW = 4, FX_FOP = 6, FX_MXCSR = 24, FX_ST = 32, FX_XMM = 160 };

static const char target_xml[] =
    "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
    "<target><architecture>i386</architecture>"
    "<feature name=\"org.gnu.gdb.i386.core\">"
    "<reg name=\"eax\" bitsize=\"32\" type=\"int32\"/><reg name=\"ecx\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"edx\" bitsize=\"32\" type=\"int32\"/><reg name=\"ebx\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"esp\" bitsize=\"32\" type=\"data_ptr\"/><reg name=\"ebp\" bitsize=\"32\" "
    "type=\"data_ptr\"/>"
    "<reg name=\"esi\" bitsize=\"32\" type=\"int32\"/><reg name=\"edi\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"eip\" bitsize=\"32\" type=\"code_ptr\"/><reg name=\"eflags\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"cs\" bitsize=\"32\" type=\"int32\"/><reg name=\"ss\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"ds\" bitsize=\"32\" type=\"int32\"/><reg name=\"es\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"fs\" bitsize=\"32\" type=\"int32\"/><reg name=\"gs\" bitsize=\"32\" "
    "type=\"int32\"/>"
    "<reg name=\"st0\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st1\" bitsize=\"80\" "
    "type=\"i387_ext\"/>"
    "<reg name=\"st2\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st3\" bitsize=\"80\" "
    "type=\"i387_ext\"/>"
    "<reg name=\"st4\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st5\" bitsize=\"80\" "
    "type=\"i387_ext\"/>"
    "<reg name=\"st6\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st7\" bitsize=\"80\" "
    "type=\"i387_ext\"/>"
    "<reg name=\"fctrl\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"fstat\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"ftag\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"fiseg\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"fioff\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"foseg\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"fooff\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
    "<reg name=\"fop\" bitsize=\"32\" type=\"int\" group=\"float\"/></feature>"
    "<feature name=\"org.gnu.gdb.i386.sse\">"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v4f\" type=\"ieee_single\" "
    "count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/><vector id=\"v4i32\" type=\"int32\" "
    "count=\"4\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" "
    "type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
    "<field name=\"uint128\" type=\"uint128\"/></union>"
    "<reg name=\"xmm0\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm1\" bitsize=\"128\" "
    "type=\"vec128\"/>"
    "<reg name=\"xmm2\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm3\" bitsize=\"128\" "
    "type=\"vec128\"/>"
    "<reg name=\"xmm4\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm5\" bitsize=\"128\" "
    "type=\"vec128\"/>"
    "<reg name=\"xmm6\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm7\" bitsize=\"128\" "
    "type=\"vec128\"/>"
    "<reg name=\"mxcsr\" bitsize=\"32\" type=\"int\" group=\"vector\"/></feature></target>";

/* ---- Registers, in the order of the target description ---- */
enum {
    G_EIP = 8,
    G_EFLAGS = 9,
    G_CS = 10, /* cs ss ds es fs gs */
    G_ST0 = 16,
    G_FCTRL = 24,
    G_XMM0 = 32,
    G_MXCSR = 40,
    G_COUNT = 41
};
static const u8 segment_order[6] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};

/* Bytes of register n, and its value. */
static unsigned read_register(const struct cpu *cpu, unsigned n, u8 out[16]) {
    memset(out, 0, 16);
    if (n < 8) {
        store32(out, (u32)cpu->gpr[n]);
    } else if (n == G_EIP) {
        store32(out, cpu->eip);
    } else if (n == G_EFLAGS) {
        store32(out, cpu->eflags);
    } else if (n < G_ST0) {
        store32(out, cpu->seg[segment_order[n - G_CS]].selector);
    } else if (n < G_FCTRL) {
        memcpy(out, cpu->fx + FX_ST + 16 * (n - G_ST0), 10);
        return 10;
    } else if (n < G_XMM0) {
        static const u8 at[8] = {FX_FCW, FX_FSW, FX_FTW, 0xff, 0xff, 0xff, 0xff, FX_FOP};
        if (at[n - G_FCTRL] != 0xff)
            store32(out, load16(cpu->fx + at[n - G_FCTRL]));
    } else if (n < G_MXCSR) {
        memcpy(out, cpu->fx + FX_XMM + 16 * (n - G_XMM0), 16);
        return 16;
    } else {
        store32(out, load32(cpu->fx + FX_MXCSR));
    }
    return 4;
}

/* Segment registers are left alone: their cached descriptors cannot be set this way. */
static void write_register(struct cpu *cpu, unsigned n, const u8 *in) {
    if (n < 8)
        cpu->gpr[n] = load32(in);
    else if (n == G_EIP)
        cpu->eip = load32(in);
    else if (n == G_EFLAGS)
        cpu->eflags = (load32(in) & (F_ARITH | F_DF | F_IF | F_TF)) |
                      (cpu->eflags & ~(u32)(F_ARITH | F_DF | F_IF | F_TF));
    else if (n >= G_ST0 && n < G_FCTRL)
        memcpy(cpu->fx + FX_ST + 16 * (n - G_ST0), in, 10);
    else if (n >= G_XMM0 && n < G_MXCSR)
        memcpy(cpu->fx + FX_XMM + 16 * (n - G_XMM0), in, 16);
}

static unsigned register_bytes(unsigned n) {
    return n >= G_ST0 && n < G_FCTRL ? 10 : n >= G_XMM0 && n < G_MXCSR ? 16 : 4;
}

/* ---- Hex ---- */
static int hex_digit(char c) {
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}
static char *put_hex(char *p, const u8 *data, size_t bytes) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes; i++) {
        *p++ = digits[data[i] >> 4];
        *p++ = digits[data[i] & 15];
    }
    *p = 0;
    return p;
}
/* Decodes up to max bytes; returns how many there were. */
static size_t get_hex(const char *text, u8 *out, size_t max) {
    size_t n = 0;
    while (n < max && hex_digit(text[2 * n]) >= 0 && hex_digit(text[2 * n + 1]) >= 0) {
        out[n] = (u8)(hex_digit(text[2 * n]) << 4 | hex_digit(text[2 * n + 1]));
        n++;
    }
    return n;
}

/* ---- Memory ---- */

/* One piece inside a page. */
static bool access_piece(struct vm *vm, u32 lin, u8 *data, unsigned bytes, bool write) {
    struct mmu_xlat x;
    if (!mmu_probe(vm->cpu, GLIN(lin), &x))
        return false;
    if (!write)
        return mmu_phys_read(vm->mmu, x.gpa, data, bytes);
    if (!mmu_phys_write(vm->mmu, x.gpa, data, bytes))
        return false;
    mmu_phys_written(vm->mmu, x.gpa, bytes);
    return true;
}

/* Returns how many bytes could be reached. */
static size_t access_memory(struct vm *vm, u32 lin, u8 *data, size_t bytes, bool write) {
    size_t done = 0;
    while (done < bytes) {
        u32 at = lin + (u32)done;
        unsigned n = (unsigned)MIN(bytes - done, PAGE_BYTES - (at & PAGE_OFFSET_MASK));
        if (!access_piece(vm, at, data + done, n, write))
            break;
        done += n;
    }
    return done;
}

/* ---- Sending ---- */
static void send_all(struct vm *vm, const char *data, size_t bytes) {
    while (bytes && vm->gdb.fd >= 0) {
        ssize_t n = send(vm->gdb.fd, data, bytes, MSG_NOSIGNAL);
        if (n > 0) {
            data += n;
            bytes -= (size_t)n;
        } else if (n < 0 && errno != EINTR) {
            return;
        }
    }
}
static void send_packet(struct vm *vm, const char *body) {
    char framed[REPLY_BYTES * 2 + 8];
    size_t n = mon_gdb_frame(body, strlen(body), framed, sizeof framed);
    send_all(vm, framed, n);
}

void mon_gdb_stopped(struct vm *vm, int signal) {
    if (vm->gdb.fd < 0)
        return;
    char text[32];
    vm->gdb.stepping = false;
    vm->paused = true;
    mon_clock_pause(vm);
    if (vm->gdb.last_ran) {
        snprintf(text, sizeof text, "T%02xthread:01;", (unsigned)signal);
        send_packet(vm, text);
    }
    vm->gdb.last_ran = false;
}

/* gdb takes its breakpoints out at every stop and puts them back to go on: only real changes cost
 * translations. */
static void tell_translator(struct vm *vm) {
    struct mon_gdb *g = &vm->gdb;
    size_t bytes = g->breakpoints * sizeof g->breakpoint[0];
    if (!vm->bt ||
        (g->known_count == g->breakpoints && !memcmp(g->known_to_bt, g->breakpoint, bytes)))
        return;
    memcpy(g->known_to_bt, g->breakpoint, bytes);
    g->known_count = g->breakpoints;
    bt_set_breakpoints(vm->bt, g->breakpoint, g->breakpoints);
}

static void resume(struct vm *vm, bool step) {
    if (!step)
        tell_translator(vm);
    vm->gdb.stepping = step;
    vm->gdb.last_ran = true;
    vm->gdb.just_resumed = true;
    vm->paused = false;
    mon_clock_resume(vm);
    vm->stop = 1;
}

/* ---- Packets ---- */
static void reply_registers(struct vm *vm, char *reply) {
    u8 value[16];
    for (unsigned n = 0; n < G_COUNT; n++) {
        unsigned bytes = read_register(vm->cpu, n, value);
        reply = put_hex(reply, value, bytes);
    }
}

static void set_registers(struct vm *vm, const char *text) {
    u8 value[16];
    for (unsigned n = 0; n < G_COUNT; n++) {
        unsigned bytes = register_bytes(n);
        if (get_hex(text, value, bytes) != bytes)
            return;
        write_register(vm->cpu, n, value);
        text += 2 * bytes;
    }
}

static void reply_memory(struct vm *vm, const char *args, char *reply) {
    unsigned long addr, bytes;
    u8 data[REPLY_BYTES / 2 - 16];
    if (sscanf(args, "%lx,%lx", &addr, &bytes) != 2) {
        strcpy(reply, "E01");
        return;
    }
    size_t n = access_memory(vm, (u32)addr, data, MIN(bytes, sizeof data), false);
    if (n || !bytes)
        put_hex(reply, data, n);
    else
        strcpy(reply, "E14");
}

static void write_memory(struct vm *vm, const char *args, char *reply) {
    unsigned long addr, bytes;
    int at = 0;
    u8 data[MON_GDB_PACKET_BYTES / 2];
    if (sscanf(args, "%lx,%lx:%n", &addr, &bytes, &at) != 2 || !at || bytes > sizeof data ||
        get_hex(args + at, data, bytes) != bytes)
        strcpy(reply, "E01");
    else if (access_memory(vm, (u32)addr, data, bytes, true) != bytes)
        strcpy(reply, "E14");
    else
        strcpy(reply, "OK");
}

static void change_breakpoint(struct vm *vm, const char *packet, char *reply) {
    struct mon_gdb *g = &vm->gdb;
    unsigned kind;
    unsigned long addr;
    bool insert = packet[0] == 'Z';
    if (sscanf(packet + 1, "%u,%lx", &kind, &addr) != 2) {
        strcpy(reply, "E01");
        return;
    }
    if (kind > 1)
        return; /* watchpoints: not supported, an empty reply says so */
    unsigned i = 0;
    while (i < g->breakpoints && g->breakpoint[i] != (u32)addr)
        i++;
    strcpy(reply, "OK");
    if (insert && i == g->breakpoints) {
        if (g->breakpoints == MON_GDB_BREAKPOINTS)
            strcpy(reply, "E1c");
        else
            g->breakpoint[g->breakpoints++] = (u32)addr;
    } else if (!insert && i < g->breakpoints) {
        g->breakpoint[i] = g->breakpoint[--g->breakpoints];
    }
}

static void reply_features(const char *args, char *reply) {
    unsigned long offset, bytes;
    if (strncmp(args, "target.xml:", 11) || sscanf(args + 11, "%lx,%lx", &offset, &bytes) != 2) {
        strcpy(reply, "E00");
        return;
    }
    size_t total = sizeof target_xml - 1;
    size_t left = offset < total ? total - offset : 0;
    size_t n = MIN(MIN(left, bytes), (size_t)REPLY_BYTES / 2);
    reply[0] = n < left ? 'm' : 'l';
    memcpy(reply + 1, target_xml + MIN(offset, total), n);
    reply[1 + n] = 0;
}

/* "monitor COMMAND" in gdb: console output goes back line by line. */
static void console_line(void *opaque, const char *line) {
    char text[600];
    size_t chars = MIN(strlen(line), (size_t)250);
    text[0] = 'O';
    char *p = put_hex(text + 1, (const u8 *)line, chars);
    put_hex(p, (const u8 *)"\n", 1);
    send_packet(opaque, text);
}

static void reply_query(struct vm *vm, const char *q, char *reply) {
    if (!strncmp(q, "Supported", 9)) {
        snprintf(reply, REPLY_BYTES,
                 "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+",
                 MON_GDB_PACKET_BYTES);
    } else if (!strncmp(q, "Xfer:features:read:", 19)) {
        reply_features(q + 19, reply);
    } else if (!strcmp(q, "C")) {
        strcpy(reply, "QC1");
    } else if (!strcmp(q, "fThreadInfo")) {
        strcpy(reply, "m1");
    } else if (!strcmp(q, "sThreadInfo")) {
        strcpy(reply, "l");
    } else if (!strncmp(q, "Attached", 8)) {
        strcpy(reply, "1");
    } else if (!strncmp(q, "Rcmd,", 5)) {
        char line[256];
        size_t n = get_hex(q + 5, (u8 *)line, sizeof line - 1);
        line[n] = 0;
        mon_console_command(vm, line, console_line, vm);
        strcpy(reply, "OK");
    }
}

static void detach(struct vm *vm) {
    struct mon_gdb *g = &vm->gdb;
    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
    g->breakpoints = 0;
    g->stepping = g->no_ack = false;
    tell_translator(vm);
    vm->paused = false;
    mon_clock_resume(vm);
    vm->stop = 1;
}

static void one_register(struct vm *vm, const char *packet, char *reply) {
    char *end;
    u8 value[16];
    unsigned long n = strtoul(packet + 1, &end, 16);
    if (n >= G_COUNT) {
        strcpy(reply, "E00");
    } else if (packet[0] == 'p') {
        unsigned bytes = read_register(vm->cpu, (unsigned)n, value);
        put_hex(reply, value, bytes);
    } else if (*end == '=' && get_hex(end + 1, value, 16) == register_bytes((unsigned)n)) {
        write_register(vm->cpu, (unsigned)n, value);
        strcpy(reply, "OK");
    } else {
        strcpy(reply, "E01");
    }
}

/* vCont: the first action decides, there is one CPU. True when the guest was resumed. */
static bool resume_packet(struct vm *vm, const char *p) {
    bool vcont = !strncmp(p, "vCont;", 6);
    char action = vcont ? p[6] : p[0];
    if (!vcont && (action == 'c' || action == 's') && p[1])
        vm->cpu->eip = (u32)strtoul(p + 1, NULL, 16);
    bool step = action == 's' || action == 'S';
    if (!step && action != 'c' && action != 'C')
        return false;
    resume(vm, step);
    return true;
}

static void handle_packet(struct vm *vm, const char *p) {
    char reply[REPLY_BYTES];
    reply[0] = 0;
    switch (p[0]) {
    case '?':
        strcpy(reply, "T05thread:01;");
        break;
    case 'g':
        reply_registers(vm, reply);
        break;
    case 'G':
        set_registers(vm, p + 1);
        strcpy(reply, "OK");
        break;
    case 'p':
    case 'P':
        one_register(vm, p, reply);
        break;
    case 'm':
        reply_memory(vm, p + 1, reply);
        break;
    case 'M':
        write_memory(vm, p + 1, reply);
        break;
    case 'Z':
    case 'z':
        change_breakpoint(vm, p, reply);
        break;
    case 'H':
    case 'T':
        strcpy(reply, "OK");
        break;
    case 'q':
        reply_query(vm, p + 1, reply);
        break;
    case 'Q':
        if (!strcmp(p, "QStartNoAckMode")) {
            send_packet(vm, "OK");
            vm->gdb.no_ack = true;
            return;
        }
        break;
    case 'c':
    case 's':
    case 'C':
    case 'S':
        resume_packet(vm, p);
        return;
    case 'v':
        if (!strcmp(p, "vCont?"))
            strcpy(reply, "vCont;c;C;s;S");
        else if (!strncmp(p, "vCont;", 6) && resume_packet(vm, p))
            return;
        break;
    case 'D':
        send_packet(vm, "OK");
        detach(vm);
        return;
    case 'k':
        vm->finished = true;
        return;
    default:
        break;
    }
    send_packet(vm, reply);
}

static void handle_byte(struct vm *vm, u8 byte) {
    struct mon_gdb *g = &vm->gdb;
    switch (mon_gdb_feed(&g->parser, byte)) {
    case MON_GDB_PACKET:
        if (!g->no_ack)
            send_all(vm, "+", 1);
        handle_packet(vm, g->parser.text);
        break;
    case MON_GDB_BAD:
        if (!g->no_ack)
            send_all(vm, "-", 1);
        break;
    case MON_GDB_BREAK:
        mon_gdb_stopped(vm, SIGNAL_INT);
        break;
    case MON_GDB_MORE:
    case MON_GDB_ACK:
    case MON_GDB_NAK:
        break;
    }
}

/* ---- The socket ---- */
static void accept_gdb(struct vm *vm) {
    struct mon_gdb *g = &vm->gdb;
    g->fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (g->fd < 0)
        return;
    int one = 1;
    setsockopt(g->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memset(&g->parser, 0, sizeof g->parser);
    g->no_ack = g->last_ran = false;
    vm->paused = true; /* gdb finds the guest stopped */
    mon_clock_pause(vm);
}

void mon_gdb_service(struct vm *vm) {
    struct mon_gdb *g = &vm->gdb;
    vm->events.gdb_ready = 0;
    if (g->fd < 0 && g->listen_fd >= 0) {
        accept_gdb(vm);
    } else if (g->fd >= 0) {
        u8 data[512];
        ssize_t n = recv(g->fd, data, sizeof data, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            detach(vm);
        for (ssize_t i = 0; i < n && g->fd >= 0; i++)
            handle_byte(vm, data[i]);
    }
    mon_events_watch(vm, vm->events.watch_stdin, g->fd >= 0 ? g->fd : g->listen_fd);
}

bool mon_gdb_open(struct vm *vm, struct mon_error *err) {
    if (!vm->opt.gdb_port)
        return true;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(vm->opt.gdb_port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 1) != 0) {
        mon_fail(err, "-gdb: cannot listen on port %u: %s", vm->opt.gdb_port, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    vm->gdb.listen_fd = fd;
    return true;
}

void mon_gdb_close(struct vm *vm) {
    if (vm->gdb.fd >= 0)
        close(vm->gdb.fd);
    if (vm->gdb.listen_fd >= 0)
        close(vm->gdb.listen_fd);
    vm->gdb.fd = vm->gdb.listen_fd = -1;
}

/* ---- Running under gdb's eyes ---- */
bool mon_gdb_is_breakpoint(const struct vm *vm, u32 lin) {
    for (unsigned i = 0; i < vm->gdb.breakpoints; i++)
        if (vm->gdb.breakpoint[i] == lin)
            return true;
    return false;
}

/* One instruction. True unless a long REP is still under way. */
static bool interpret_one(struct vm *vm) {
    enum interp_result r = interp_step(vm->interp, vm->cpu);
    if (r == INTERP_FAULT)
        rc_deliver_fault(vm->cpu);
    return r != INTERP_REP_MORE;
}

/* Without translated code to stop by itself: one instruction at a time. */
static void interpret_to_breakpoint(struct vm *vm) {
    for (unsigned n = 0; n < STEP_SLICE && !vm->stop; n++) {
        interpret_one(vm);
        if (vm->cpu->halted || vm->cpu->shutdown || mon_gdb_at_breakpoint(vm) ||
            dev_intr_pending(vm->dev))
            break;
    }
}

bool mon_gdb_step(struct vm *vm) {
    struct mon_gdb *g = &vm->gdb;
    if (!g->just_resumed && mon_gdb_at_breakpoint(vm)) {
        mon_gdb_stopped(vm, SIGNAL_TRAP);
        return true;
    }
    if (g->stepping) {
        g->just_resumed = !interpret_one(vm);
        if (!g->just_resumed)
            mon_gdb_stopped(vm, SIGNAL_TRAP);
        return true;
    }
    if (g->just_resumed) { /* off the breakpoint it stands at */
        g->just_resumed = !interpret_one(vm);
        return true;
    }
    if (vm->bt)
        return false;
    interpret_to_breakpoint(vm);
    return true;
}
