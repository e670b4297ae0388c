/*
 * test_crash.c: the report that a bug of the monitor leaves behind. A child process runs a machine
 * whose bus this test has broken; the guest provokes it two calls deep in translated code.
 */
#include "bt/bt_internal.h"
#include "monitor/vm.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A Multiboot kernel of a page, loaded at 1 MiB; its GDT lies where there is no RAM, so that
 * loading ES reads the bus from a callout. */
#define BASE 0x100000u
static const u32 header[8] = {0x1badb002,    0x10000,    -(0x1badb002u + 0x10000u),
                              BASE,          BASE,       BASE + 0x1000,
                              BASE + 0x1000, BASE + 0x20};
static const u8 entry_code[] = {
    0xbc, 0x00, 0x00, 0x18, 0x00,             /* 20: mov esp,180000h */
    0x0f, 0x01, 0x15, 0x80, 0x00, 0x10, 0x00, /* 25: lgdt [100080h] */
    0xbb, 0x78, 0x56, 0x34, 0x12,             /* 2c: mov ebx,12345678h */
    0xe8, 0x2a, 0x00, 0x00, 0x00,             /* 31: call 60h */
    0xf4,
};
static const u8 callee_code[] = {
    0xb8, 0x10, 0x00, 0x00, 0x00, /* 60: mov eax,10h */
    0x8e, 0xc0,                   /* 65: mov es,eax */
    0xfb, 0x90,                   /* 67: sti; nop */
    0xc3,
};
static const u8 gdt_pointer[] = {0xff, 0x00, 0x00, 0x00, 0x00, 0xf0};

static u64 failing_assertion(void *opaque, struct gpa addr, unsigned bytes) {
    RF_ASSERT(addr.v == bytes && !opaque);
    return 0;
}
static u64 wild_pointer(void *opaque, struct gpa addr, unsigned bytes) {
    (void)opaque, (void)bytes;
    return *(volatile u64 *)(addr.v & 0xff0);
}
/* A good descriptor, but emitted code will follow a pointer of the monitor's to nowhere. */
static u64 break_the_hot_area(void *opaque, struct gpa addr, unsigned bytes) {
    bt_hot(((struct vm *)opaque)->cpu)->sti_poll = 8;
    u64 descriptor = 0x00cf93000000ffffull;
    return bytes == 8 ? descriptor : descriptor >> (addr.v & 4 ? 32 : 0);
}

static void write_kernel(char *path) {
    u8 image[4096] = {0};
    memcpy(image, header, sizeof header);
    memcpy(image + 0x20, entry_code, sizeof entry_code);
    memcpy(image + 0x60, callee_code, sizeof callee_code);
    memcpy(image + 0x80, gdt_pointer, sizeof gdt_pointer);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, image, sizeof image), sizeof image);
    close(fd);
}

typedef u64 mmio_read_function(void *opaque, struct gpa addr, unsigned bytes);

static _Noreturn void run_machine(char *kernel, mmio_read_function *broken) {
    char *argv[] = {"ringfold", "-kernel", kernel, "-hot",     "0",    "-m",
                    "16",       "-serial", "null", "-monitor", "none", NULL};
    struct mon_options options;
    struct mon_error err;
    signal(SIGABRT, SIG_DFL);
    alarm(20);
    if (mon_parse_options(ARRAY_LEN(argv) - 1, argv, &options) != MON_PARSE_RUN)
        _exit(1);
    mon_crash_install();
    struct vm *vm = mon_vm_create(&options, &err);
    if (!vm)
        _exit(2);
    vm->bus.mmio_read = broken;
    mon_vm_run(vm);
    _exit(3);
}

/* The child's standard error; its end is checked to be SIGABRT. */
static char *report_of(mmio_read_function *broken) {
    static char text[16384];
    char kernel[] = "/tmp/ringfold-crash-XXXXXX";
    write_kernel(kernel);
    int pipe_fd[2], status;
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(pipe_fd[1], STDERR_FILENO);
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        run_machine(kernel, broken);
    }
    close(pipe_fd[1]);
    size_t bytes = 0;
    for (ssize_t n; bytes < sizeof text - 1 &&
                    (n = read(pipe_fd[0], text + bytes, sizeof text - 1 - bytes)) > 0;)
        bytes += (size_t)n;
    text[bytes] = 0;
    close(pipe_fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    unlink(kernel);
    printf("%s", text);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    return text;
}

/* The strings occur in this order. */
static void assert_order(const char *text, const char *const *parts) {
    for (; *parts; parts++) {
        const char *at = strstr(text, *parts);
        if (!at)
            fail_msg("\"%s\" is missing", *parts);
        text = at + strlen(*parts);
    }
}

static void a_failed_assertion_reports_translated_frames_and_registers(void **state) {
    (void)state;
    static const char *const parts[] = {"assertion failed",
                                        "monitor backtrace:",
                                        "failing_assertion",
                                        "bt_stub_callout",
                                        "guest eip 00100065",
                                        "guest eip 00100031",
                                        "bt_sentinel",
                                        "bt_enter",
                                        "bt_run",
                                        "mon_vm_run",
                                        "main",
                                        "guest state:",
                                        "EBX=12345678",
                                        "EIP=00100065",
                                        "last units",
                                        "eip 0010002c",
                                        NULL};
    assert_order(report_of(failing_assertion), parts);
}

static void a_wild_pointer_reports_the_signal_and_the_frames_below_it(void **state) {
    (void)state;
    static const char *const parts[] = {
        "host signal 11",     "wild_pointer",       "bt_stub_callout",
        "guest eip 00100065", "guest eip 00100031", "mon_vm_run",
        "EBX=12345678",       "last units",         NULL};
    assert_order(report_of(wild_pointer), parts);
}

static void a_fault_in_translated_code_reports_registers_from_the_signal(void **state) {
    (void)state;
    static const char *const parts[] = {
        "host signal 11",     "address 0x8", "on_fault",   "guest eip 00100068",
        "guest eip 00100031", "bt_sentinel", "mon_vm_run", "EAX=00000010 EBX=12345678",
        "EIP=00100068",       "last units",  NULL};
    assert_order(report_of(break_the_hot_area), parts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_assertion_reports_translated_frames_and_registers),
        cmocka_unit_test(a_wild_pointer_reports_the_signal_and_the_frames_below_it),
        cmocka_unit_test(a_fault_in_translated_code_reports_registers_from_the_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
