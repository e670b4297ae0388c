/*
 * memory_hosted.c: memory in an ordinary Linux process: anonymous mappings, and memfds for what is
 * mapped more than once.
 */
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

void *memory_alloc(u64 bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void memory_free(void *p, u64 bytes) {
    if (p)
        munmap(p, bytes);
}

void *memory_shared_alloc(u64 bytes) {
    return memory_alloc(bytes);
}

void memory_shared_free(void *p, u64 bytes) {
    memory_free(p, bytes);
}

bool memory_shared_protect(void *p, u64 bytes, enum memory_rights rights) {
    int saved = errno;
    bool ok = mprotect(p, bytes, rights == MEMORY_NONE ? PROT_NONE : PROT_READ | PROT_WRITE) == 0;
    if (ok)
        errno = saved;
    return ok;
}

u64 memory_ring3_delta(void) {
    return 0;
}

/* One memfd of that size, mapped once with `prot`. */
static void *map_fd(int fd, u64 bytes, int prot, int flags) {
    void *p = mmap(NULL, bytes, prot, MAP_SHARED | flags, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

bool memory_code_create(struct memory_code *code, u64 bytes) {
    *code = (struct memory_code){.bytes = bytes};
    int fd = memfd_create("code", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    if (ftruncate(fd, (off_t)bytes) == 0) {
        code->rw = map_fd(fd, bytes, PROT_READ | PROT_WRITE, 0);
        code->rx = map_fd(fd, bytes, PROT_READ | PROT_EXEC, 0);
    }
    close(fd);
    if (code->rw && code->rx)
        return true;
    memory_code_destroy(code);
    return false;
}

void memory_code_destroy(struct memory_code *code) {
    memory_free(code->rw, code->bytes);
    memory_free(code->rx, code->bytes);
    *code = (struct memory_code){0};
}

bool memory_ram_create(struct memory_ram *ram, u64 bytes) {
    *ram = (struct memory_ram){.bytes = bytes};
    ram->fd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (ram->fd < 0)
        return false;
    if (ftruncate(ram->fd, (off_t)bytes) == 0)
        ram->flat = map_fd(ram->fd, bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE);
    if (!ram->flat) {
        int saved = errno;
        memory_ram_destroy(ram);
        errno = saved;
    }
    return ram->flat;
}

void memory_ram_destroy(struct memory_ram *ram) {
    memory_free(ram->flat, ram->bytes);
    if (ram->bytes && ram->fd >= 0)
        close(ram->fd);
    *ram = (struct memory_ram){.fd = -1};
}

void memory_ram_clear(struct memory_ram *ram) {
    if (fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)ram->bytes) != 0)
        memset(ram->flat, 0, ram->bytes);
}

u64 memory_host_bytes(void) {
    struct sysinfo info;
    if (sysinfo(&info) != 0)
        return 0;
    return ((u64)info.totalram + info.totalswap) * info.mem_unit;
}
