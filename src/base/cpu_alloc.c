/*
 * cpu_alloc.c: where a struct cpu lives: one page of state, then the safepoint page, whose
 * protection is how an interrupt poll fires, then the poison page, which is never accessible.
 */
#include "base/cpu.h"
#include "base/memory.h"

_Static_assert(sizeof(struct cpu) <= CPU_SAFEPOINT_OFFSET, "struct cpu must fit its page");

struct cpu *cpu_create(void) {
    u8 *block = memory_shared_alloc(CPU_BLOCK_BYTES);
    if (!block)
        return NULL;
    if (!memory_shared_protect(block + CPU_POISON_OFFSET, PAGE_BYTES, MEMORY_NONE)) {
        memory_shared_free(block, CPU_BLOCK_BYTES);
        return NULL;
    }
    return (struct cpu *)block;
}

void cpu_destroy(struct cpu *cpu) {
    if (cpu)
        memory_shared_free(cpu, CPU_BLOCK_BYTES);
}
