/*
 * target_gdb.c: any conversation with the gdb stub of a real machine: framed packets, one per line,
 * or bytes as they are.
 *
 * Input: a first byte of 'r' for raw bytes, else packets separated by newlines.
 */
#include "target.h"

#include "monitor/vm.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct vm *the_vm(void) {
    static struct vm *vm;
    struct mon_options o;
    struct mon_error err;
    char kernel[32];
    u8 image[64] = {0};
    if (vm)
        return vm;
    store32(image, 0x1badb002);
    store32(image + 4, 1u << 16);
    store32(image + 8, 0u - 0x1badb002 - (1u << 16));
    store32(image + 12, 0x100000);
    store32(image + 16, 0x100000);
    store32(image + 28, 0x100020);
    int fd = memfd_create("kernel", 0);
    CLAIM(fd >= 0 && write(fd, image, sizeof image) == sizeof image);
    snprintf(kernel, sizeof kernel, "/proc/self/fd/%d", fd);
    char *argv[] = {"fuzz", "-kernel", kernel, "-m", "2", "-nodefaults", "-icount", "0"};
    CLAIM(mon_parse_options(ARRAY_LEN(argv), argv, &o) == MON_PARSE_RUN);
    vm = mon_vm_create(&o, &err);
    CLAIM(vm);
    return vm;
}

static void drain(int fd) {
    char text[4096];
    while (recv(fd, text, sizeof text, MSG_DONTWAIT) > 0)
        ;
}

static void say(struct vm *vm, int fd, const void *data, size_t bytes) {
    for (size_t at = 0; at < bytes && vm->gdb.fd >= 0;) {
        ssize_t n = send(fd, (const u8 *)data + at, MIN(bytes - at, (size_t)256), MSG_NOSIGNAL);
        if (n <= 0)
            break;
        at += (size_t)n;
        mon_gdb_service(vm);
        drain(fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct vm *vm = the_vm();
    int pair[2];
    CLAIM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    vm->gdb.fd = pair[0];
    memset(&vm->gdb.parser, 0, sizeof vm->gdb.parser);
    vm->gdb.no_ack = vm->gdb.last_ran = false;
    if (bytes && data[0] == 'r') {
        say(vm, pair[1], data + 1, bytes - 1);
    } else {
        for (size_t at = 0; at < bytes;) {
            const u8 *end = memchr(data + at, '\n', bytes - at);
            size_t chars = end ? (size_t)(end - data) - at : bytes - at;
            char framed[8300];
            size_t n = mon_gdb_frame((const char *)data + at, chars, framed, sizeof framed);
            CLAIM(n <= sizeof framed);
            say(vm, pair[1], framed, n);
            at += chars + 1;
        }
    }
    CLAIM(vm->gdb.breakpoints <= MON_GDB_BREAKPOINTS);
    for (unsigned i = 0; i < 16; i++)
        CLAIM(vm->cpu->gpr[i] >> 32 == 0);
    CLAIM((vm->cpu->eflags & F_FIXED) && !(vm->cpu->eflags & ~(u32)F_ALL));
    close(pair[1]);
    if (vm->gdb.fd >= 0)
        mon_gdb_service(vm); /* the other side is gone */
    CLAIM(vm->gdb.fd < 0);
    vm->gdb.breakpoints = 0;
    vm->finished = vm->paused = false;
    return 0;
}
