/*
 * memory_metal.c: the monitor's own memory from the machine's: pages of the direct map, and of the
 * shared area where translated code must reach it.
 */
#include "base/memory.h"
#include "metal/metal.h"

#include <errno.h>

/* Guest RAM starts at a large page of the host. */
#define RAM_ALIGN_PAGES 512

static u64 pages_of(u64 bytes) {
    return ALIGN_UP(bytes, PAGE_BYTES) >> PAGE_SHIFT;
}

static void zero_pages(void *p, u64 pages) {
    u64 words = pages * (PAGE_BYTES / 8);
    __asm__ volatile("rep stosq" : "+D"(p), "+c"(words) : "a"(0) : "memory");
}

static void *no_memory(void) {
    errno = ENOMEM;
    return NULL;
}

void *memory_alloc(u64 bytes) {
    u64 phys = metal_pages_alloc(pages_of(bytes), 1);
    if (!phys)
        return no_memory();
    zero_pages(metal_phys_pointer(phys), pages_of(bytes));
    return metal_phys_pointer(phys);
}

void memory_free(void *p, u64 bytes) {
    if (p)
        metal_pages_free(metal_pointer_phys(p), pages_of(bytes));
}

/* ---- Shared with translated code ---- */

void *memory_shared_alloc(u64 bytes) {
    void *p = metal_shared_alloc(bytes, METAL_READ_WRITE);
    return p ? p : no_memory();
}

/* The pages go back; the addresses stay used up. */
void memory_shared_free(void *p, u64 bytes) {
    if (!p)
        return;
    u64 phys = metal_pointer_phys(p);
    metal_shared_protect(p, bytes, METAL_NONE);
    metal_pages_free(phys, pages_of(bytes));
}

bool memory_shared_protect(void *p, u64 bytes, enum memory_rights rights) {
    metal_shared_protect(p, bytes, rights == MEMORY_NONE ? METAL_NONE : METAL_READ_WRITE);
    return true;
}

u64 memory_ring3_delta(void) {
    return METAL_RING3_DELTA;
}

bool memory_code_create(struct memory_code *code, u64 bytes) {
    *code = (struct memory_code){.bytes = bytes};
    code->rx = metal_shared_alloc(bytes, METAL_READ_EXECUTE);
    if (!code->rx)
        return no_memory();
    /* The pages of one piece of shared memory are contiguous. */
    code->rw = metal_phys_pointer(metal_pointer_phys(code->rx));
    return true;
}

void memory_code_destroy(struct memory_code *code) {
    memory_shared_free(code->rx, code->bytes);
    *code = (struct memory_code){0};
}

/* ---- Guest RAM ---- */

bool memory_ram_create(struct memory_ram *ram, u64 bytes) {
    *ram = (struct memory_ram){.bytes = bytes, .fd = -1};
    ram->phys = metal_pages_alloc(pages_of(bytes), RAM_ALIGN_PAGES);
    if (!ram->phys)
        return no_memory();
    ram->flat = metal_phys_pointer(ram->phys);
    memory_ram_clear(ram);
    return true;
}

void memory_ram_destroy(struct memory_ram *ram) {
    memory_free(ram->flat, ram->bytes);
    *ram = (struct memory_ram){.fd = -1};
}

void memory_ram_clear(struct memory_ram *ram) {
    zero_pages(ram->flat, pages_of(ram->bytes));
}

/* Guest RAM is contiguous: the largest block is what there is for it. */
u64 memory_host_bytes(void) {
    return metal_pages_largest() << PAGE_SHIFT;
}
