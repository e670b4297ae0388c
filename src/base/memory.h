/*
 * memory.h: where the monitor's own memory comes from: the one interface to it on each substrate
 * (memory_hosted.c asks Linux, memory_metal.c the bare machine). Small objects come from malloc on
 * both.
 */
#ifndef RINGFOLD_BASE_MEMORY_H
#define RINGFOLD_BASE_MEMORY_H

#include "base/base.h"

/* Zeroed page-aligned memory, on the hosted substrate taken from the host only where touched. NULL
 * (errno set) without room. `bytes` is the same at release. */
void *memory_alloc(u64 bytes);
void memory_free(void *p, u64 bytes);

/* The same for memory that translated code reaches itself: it can be protected, and on metal ring 3
 * sees it at another address (memory_ring3_delta). */
void *memory_shared_alloc(u64 bytes);
void memory_shared_free(void *p, u64 bytes);
enum memory_rights { MEMORY_NONE, MEMORY_READ_WRITE };
/* Whole pages of shared memory. Signal and interrupt safe. False when the host refuses. */
bool memory_shared_protect(void *p, u64 bytes, enum memory_rights rights);
/* What translated code at ring 3 must add to the address of anything shared: 0 when hosted. */
u64 memory_ring3_delta(void);
#define MEMORY_SHARED_MAX_BYTES 0x40000000ull /* all shared memory lies within that of its first   \
                                               */

/* Memory for code: the same pages written through one address and executed through another. The
 * executable side counts as shared. */
struct memory_code {
    u8 *rw, *rx;
    u64 bytes;
};
bool memory_code_create(struct memory_code *code, u64 bytes);
void memory_code_destroy(struct memory_code *code);

/* Guest RAM: zeroed, mapped once flat. `fd` is what windows are made of when hosted; `phys` its
 * physical address on metal, where it is contiguous. False with errno set. */
struct memory_ram {
    u8 *flat;
    u64 bytes;
    int fd;
    u64 phys;
};
bool memory_ram_create(struct memory_ram *ram, u64 bytes);
void memory_ram_destroy(struct memory_ram *ram);
/* Zeroes all of it. */
void memory_ram_clear(struct memory_ram *ram);
/* Memory the host has for such a purpose in all, in bytes; 0 when unknown. */
u64 memory_host_bytes(void);

#endif
