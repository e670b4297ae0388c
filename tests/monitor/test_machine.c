/*
 * Tests of the whole machine inside this process, under both engines, on kernels of a few bytes:
 * exit status, serial output, triple faults, virtual time, sleeping, and a session with gdb.
 */
#include "monitor/monitor.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define LOAD_ADDRESS 0x100000u
#define CODE_OFFSET 32u
static const char *const engines[] = {"interp", "bt"};
static char kernel_name[32], serial_name[32];

static void make_name(char out[32]) {
    strcpy(out, "/tmp/rf-machine-XXXXXX");
    int fd = mkstemp(out);
    assert_true(fd >= 0);
    close(fd);
}

/* A Multiboot kernel whose entry point is the first byte of code. */
static void write_kernel(const u8 *code, size_t bytes) {
    u8 image[4096] = {0};
    store32(image, 0x1badb002);
    store32(image + 4, 1u << 16);
    store32(image + 8, 0u - 0x1badb002 - (1u << 16));
    store32(image + 12, LOAD_ADDRESS);
    store32(image + 16, LOAD_ADDRESS);
    store32(image + 28, LOAD_ADDRESS + CODE_OFFSET);
    assert_true(bytes <= sizeof image - CODE_OFFSET);
    memcpy(image + CODE_OFFSET, code, bytes);
    FILE *f = fopen(kernel_name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(image, sizeof image, 1, f), 1);
    fclose(f);
}

static void options(struct mon_options *o, const char *engine) {
    char serial[48];
    snprintf(serial, sizeof serial, "file:%s", serial_name);
    char *argv[] = {"ringfold",     "-kernel",    kernel_name,
                    "-m",           "8",          "-serial",
                    serial,         "-no-reboot", "-accel",
                    (char *)engine, "-device",    "isa-debug-exit,iobase=0xf4,iosize=4",
                    "-hot",         "0"};
    assert_int_equal(mon_parse_options(ARRAY_LEN(argv), argv, o), MON_PARSE_RUN);
    o->serial[0].path = serial_name; /* the option's text dies with this frame */
}

static int run_with(const struct mon_options *o) {
    struct mon_error err;
    struct vm *vm = mon_vm_create(o, &err);
    if (!vm)
        fail_msg("%s", err.text);
    int status = mon_vm_run(vm);
    mon_vm_destroy(vm);
    return status;
}
static int run(const u8 *code, size_t bytes, const char *engine) {
    struct mon_options o;
    write_kernel(code, bytes);
    options(&o, engine);
    return run_with(&o);
}

static void debug_exit_gives_the_status(void **state) {
    (void)state;
    static const u8 code[] = {0xb0, 0x15, 0xe6, 0xf4, 0xf4}; /* mov al,15h; out f4h,al; hlt */
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++)
        assert_int_equal(run(code, sizeof code, engines[e]), (0x15 << 1) | 1);
}

static void serial_output_reaches_the_file(void **state) {
    (void)state;
    static const u8 code[] = {
        0x66, 0xba, 0xf8, 0x03,       /* mov dx,3f8h */
        0xb9, 0x05, 0x00, 0x00, 0x00, /* mov ecx,5 */
        0xb0, 'a',                    /* mov al,'a' */
        0xee, 0xfe, 0xc0,             /* out dx,al; inc al */
        0xe2, 0xfb,                   /* loop */
        0xe6, 0xf4,
    };
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++) {
        run(code, sizeof code, engines[e]);
        char text[16] = "";
        FILE *f = fopen(serial_name, "r");
        assert_non_null(f);
        assert_non_null(fgets(text, sizeof text, f));
        fclose(f);
        assert_string_equal(text, "abcde");
    }
}

static void a_triple_fault_ends_the_run_under_no_reboot(void **state) {
    (void)state;
    static const u8 code[] = {0x0f, 0x0b}; /* ud2 without an IDT */
    int keep = dup(2);
    assert_non_null(freopen("/dev/null", "w", stderr));
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++)
        assert_int_equal(run(code, sizeof code, engines[e]), 0);
    fflush(stderr);
    dup2(keep, 2);
    close(keep);
}

static void icount_time_is_the_number_of_instructions(void **state) {
    (void)state;
    static const u8 code[] = {
        0x0f, 0x31, 0x89, 0xc3, /* rdtsc; mov ebx,eax */
        0x90, 0x90, 0x90, 0x90, /* four nops */
        0x0f, 0x31, 0x29, 0xd8, /* rdtsc; sub eax,ebx */
        0xe6, 0xf4,             /* out f4h,al */
    };
    write_kernel(code, sizeof code);
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++) {
        struct mon_options o;
        options(&o, engines[e]);
        o.icount = o.bt.icount = true;
        assert_int_equal(run_with(&o),
                         (6 << 1) | 1); /* from one rdtsc to the next: 6 instructions */
    }
}

/* Code whose last two bytes are the handler of vector 20h, with an IDT at LOAD_ADDRESS + 100h that
 * the pseudo-descriptor at LOAD_ADDRESS + 60h names. */
static void put_with_idt(u8 image[4096 - CODE_OFFSET], const u8 *code, size_t bytes) {
    memset(image, 0, 4096 - CODE_OFFSET);
    memcpy(image, code, bytes);
    u32 handler = LOAD_ADDRESS + CODE_OFFSET + (u32)bytes - 2;
    u8 *idtr = image + 0x60 - CODE_OFFSET;
    store16(idtr, 0x21 * 8 - 1);
    store32(idtr + 2, LOAD_ADDRESS + 0x100);
    u8 *gate = image + 0x100 - CODE_OFFSET + 0x20 * 8;
    store16(gate, (u16)handler);
    store16(gate + 2, 8);
    store16(gate + 4, 0x8e00);
    store16(gate + 6, (u16)(handler >> 16));
}

/* Sets up the PIC and the PIT's channel 0 (mode 2, about 18 Hz), waits for two ticks in HLT. */
static void a_halted_guest_sleeps_until_its_timer(void **state) {
    (void)state;
    static const u8 code[] = {
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21,             /* ICW1, ICW2 = 20h */
        0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x03, 0xe6, 0x21,             /* ICW3, ICW4: automatic EOI */
        0xb0, 0xfe, 0xe6, 0x21,                                     /* IRQ 0 only */
        0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xe6, 0x40, /* channel 0: 65536 */
        0x0f, 0x01, 0x1d, 0x60, 0x00, 0x10, 0x00,                   /* lidt [100060h] */
        0x31, 0xc9, 0xfb, 0xf4, 0xf4,                               /* xor ecx,ecx; sti; hlt; hlt */
        0x88, 0xc8, 0xe6, 0xf4,                                     /* mov al,cl; out f4h,al */
        /* the handler, at 100050h + ... */
        0x41, 0xcf, /* inc ecx; iret */
    };
    u8 image[4096 - CODE_OFFSET];
    put_with_idt(image, code, sizeof code);
    _Static_assert(sizeof code <= 0x60 - CODE_OFFSET, "the IDTR lies behind the code");
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++) {
        struct rusage before, after;
        getrusage(RUSAGE_THREAD, &before);
        assert_int_equal(run(image, sizeof image, engines[e]), (2 << 1) | 1);
        getrusage(RUSAGE_THREAD, &after);
        long used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
                       after.ru_utime.tv_usec - before.ru_utime.tv_usec;
        assert_true(used_us < 90000); /* it waited 110 ms */
    }
}

/* Timers come due under -icount in code that is not translated, too: DF is set. */
static void icount_timers_interrupt_every_mode(void **state) {
    (void)state;
    static const u8 code[] = {
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21,             /* as above */
        0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x03, 0xe6, 0x21,             /* */
        0xb0, 0xfe, 0xe6, 0x21,                                     /* */
        0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xe6, 0x40, /* */
        0x0f, 0x01, 0x1d, 0x60, 0x00, 0x10, 0x00,                   /* lidt [100060h] */
        0x31, 0xc9, 0xfd, 0xfb,                                     /* xor ecx,ecx; std; sti */
        0x80, 0xf9, 0x02, 0x72, 0xfb,                               /* until cl is 2 */
        0x88, 0xc8, 0xe6, 0xf4,                                     /* mov al,cl; out f4h,al */
        0x41, 0xcf,                                                 /* inc ecx; iret */
    };
    _Static_assert(sizeof code <= 0x60 - CODE_OFFSET, "the IDTR lies behind the code");
    u8 image[4096 - CODE_OFFSET];
    put_with_idt(image, code, sizeof code);
    write_kernel(image, sizeof image);
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++) {
        struct mon_options o;
        options(&o, engines[e]);
        o.icount = o.bt.icount = true;
        o.icount_shift = 10;
        assert_int_equal(run_with(&o), (2 << 1) | 1);
    }
}

/* ---- gdb ---- */
struct gdb_session {
    u16 port;
    const char *failure;
};

static bool expect(int fd, const char *packet, const char *answer) {
    char text[8192];
    size_t n = mon_gdb_frame(packet, strlen(packet), text, sizeof text);
    if (send(fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
        return false;
    struct mon_gdb_parser p = {0};
    u8 byte;
    while (recv(fd, &byte, 1, 0) == 1) {
        if (mon_gdb_feed(&p, byte) != MON_GDB_PACKET)
            continue;
        send(fd, "+", 1, MSG_NOSIGNAL);
        return !strncmp(p.text, answer, strlen(answer));
    }
    return false;
}

static int connect_to(u16 port) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (unsigned tries = 0; tries < 100; tries++, usleep(20000)) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
            return fd;
        close(fd);
    }
    return -1;
}

static void *gdb_thread(void *opaque) {
    static const char *const dialogue[][2] = {
        {"qSupported:xmlRegisters=i386", "PacketSize="},
        {"?", "T05"},
        {"qXfer:features:read:target.xml:0,100", "m<?xml"},
        {"p8", "20001000"}, /* eip = 100020h */
        {"s", "T05"},       /* mov eax,7 */
        {"p0", "07000000"},
        {"Z0,10002b,1", "OK"},
        {"c", "T05"},
        {"p8", "2b001000"},
        {"p3", "01000000"},
        {"c", "T05"}, /* the next turn */
        {"p3", "02000000"},
        {"m100020,5", "b807000000"},
        {"M100021,1:09", "OK"},
        {"m100020,5", "b809000000"},
        {"mdead0000,4", "E14"},
        {"Z2,100000,4", ""},
        {"P0=2a000000", "OK"},
        {"z0,10002b,1", "OK"},
    };
    struct gdb_session *s = opaque;
    int fd = connect_to(s->port);
    if (fd < 0) {
        s->failure = "connect";
        return NULL;
    }
    for (unsigned i = 0; i < ARRAY_LEN(dialogue) && !s->failure; i++)
        if (!expect(fd, dialogue[i][0], dialogue[i][1]))
            s->failure = dialogue[i][0];
    char text[16];
    send(fd, text, mon_gdb_frame("c", 1, text, sizeof text), MSG_NOSIGNAL);
    if (s->failure)
        send(fd, text, mon_gdb_frame("k", 1, text, sizeof text), MSG_NOSIGNAL);
    while (recv(fd, text, 1, 0) == 1)
        ;
    close(fd);
    return NULL;
}

static void gdb_reads_steps_and_stops(void **state) {
    (void)state;
    static const u8 code[] = {
        0xb8, 0x07, 0x00, 0x00, 0x00, /* 100020: mov eax,7 */
        0x31, 0xdb,                   /* xor ebx,ebx */
        0x43, 0x83, 0xfb, 0x64,       /* 100027: inc ebx; cmp ebx,100 */
        0x75, 0xfa,                   /* 10002b: jne 100027 */
        0xe6, 0xf4,                   /* out f4h,al */
    };
    write_kernel(code, sizeof code);
    for (unsigned e = 0; e < ARRAY_LEN(engines); e++) {
        struct mon_options o;
        options(&o, engines[e]);
        o.start_paused = true;
        struct gdb_session s = {.port = (u16)(20000 + getpid() % 20000 + (int)e)};
        o.gdb_port = s.port;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, gdb_thread, &s), 0);
        int status = run_with(&o);
        pthread_join(thread, NULL);
        if (s.failure)
            fail_msg("%s: gdb got a wrong answer to '%s'", engines[e], s.failure);
        assert_int_equal(status, (0x2a << 1) | 1); /* AL as gdb set it */
    }
}

static int set_up(void **state) {
    (void)state;
    make_name(kernel_name);
    make_name(serial_name);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    unlink(kernel_name);
    unlink(serial_name);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(debug_exit_gives_the_status),
        cmocka_unit_test(serial_output_reaches_the_file),
        cmocka_unit_test(a_triple_fault_ends_the_run_under_no_reboot),
        cmocka_unit_test(icount_time_is_the_number_of_instructions),
        cmocka_unit_test(a_halted_guest_sleeps_until_its_timer),
        cmocka_unit_test(icount_timers_interrupt_every_mode),
        cmocka_unit_test(gdb_reads_steps_and_stops),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
