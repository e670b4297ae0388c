/*
 * cpu_alloc.c: where a struct cpu lives: one page of state, then the safepoint page, whose
 * protection is how an interrupt poll fires, then the poison page, which is never accessible.
 */
#include "base/cpu.h"

#include <sys/mman.h>

_Static_assert(sizeof(struct cpu) <= CPU_SAFEPOINT_OFFSET, "struct cpu must fit its page");

struct cpu *cpu_create(void) {
    u8 *block =
        mmap(NULL, 3 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return NULL;
    if (mprotect(block + CPU_POISON_OFFSET, PAGE_BYTES, PROT_NONE) != 0) {
        munmap(block, 3 * PAGE_BYTES);
        return NULL;
    }
    return (struct cpu *)block;
}

void cpu_destroy(struct cpu *cpu) {
    if (cpu)
        munmap(cpu, 3 * PAGE_BYTES);
}
