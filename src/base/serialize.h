/*
 * serialize.h: after code was written through one mapping, before it runs through another.
 */
#ifndef RINGFOLD_BASE_SERIALIZE_H
#define RINGFOLD_BASE_SERIALIZE_H

#include "base/base.h"

/* Serialises instruction execution: SDM volume 3, section 8.1.3 "Handling Self- and Cross-Modifying
 * Code". IRETQ does it on every processor, at every privilege, and leaves no hypervisor a reason to
 * intervene. Signal safe; general registers only. */
static inline void host_serialize(void) {
    u64 scratch;
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t" /* past the red zone */
                     "mov %%rsp, %0\n\t"
                     "mov %%ss, %%ecx\n\t"
                     "push %%rcx\n\t"
                     "push %0\n\t"
                     "pushfq\n\t"
                     "mov %%cs, %%ecx\n\t"
                     "push %%rcx\n\t"
                     "lea 1f(%%rip), %%rcx\n\t"
                     "push %%rcx\n\t"
                     "iretq\n"
                     "1:\n\t"
                     "lea 128(%%rsp), %%rsp"
                     : "=&r"(scratch)
                     :
                     : "rcx", "memory", "cc");
}

#endif
