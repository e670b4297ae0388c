/*
 * target_load.c: any file as a kernel, with an initrd or modules and a command line. What is not
 * refused with a reason is loaded, inside RAM.
 *
 * Input: a byte of options, a byte that says how long the command line is, the command line, the
 * file.
 */
#include "target.h"

#include "monitor/monitor.h"

#include <sys/mman.h>
#include <unistd.h>

#define RAM_BYTES (4u << 20)

/* A file that is anew what the input says; its name. */
static const char *file_of(int *fd, char name[32], const void *data, size_t bytes) {
    if (*fd < 0)
        *fd = memfd_create("input", 0);
    CLAIM(*fd >= 0 && ftruncate(*fd, 0) == 0);
    CLAIM(pwrite(*fd, data, bytes, 0) == (ssize_t)bytes);
    snprintf(name, 32, "/proc/self/fd/%d", *fd);
    return name;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static int kernel_fd = -1, initrd_fd = -1;
    static u8 *ram;
    static struct cpu *cpu;
    struct input in = input_of(data, bytes);
    u8 options = take8(&in), chars = take8(&in);
    char append[256] = "", kernel[32], initrd[32], modules[160];
    struct mon_image image;
    struct mon_error err = {""};
    for (u8 i = 0; i < chars; i++)
        append[i] = (char)take8(&in);
    ram = ram ? ram : malloc(RAM_BYTES);
    cpu = cpu ? cpu : cpu_create();
    CLAIM(ram && cpu);
    file_of(&kernel_fd, kernel, in.at, (size_t)(in.end - in.at));
    file_of(&initrd_fd, initrd, data, bytes);
    snprintf(modules, sizeof modules, "%s one,%s,,%s %.20s", initrd, initrd, initrd, append);
    if (!mon_image_open(&image, kernel,
                        options & 1   ? initrd
                        : options & 2 ? modules
                                      : NULL,
                        append, &err)) {
        CLAIM(err.text[0]);
        return 0;
    }
    u64 ram_bytes = options & 4 ? RAM_BYTES : options & 8 ? 1 << 20 : 2 << 20;
    cpu_reset(cpu);
    bool loaded = mon_image_load(&image, ram, ram_bytes, cpu, &err);
    CLAIM(loaded || err.text[0]);
    mon_image_close(&image);
    return 0;
}
