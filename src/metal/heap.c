/*
 * heap.c: malloc for the monitor and its libraries. Small objects come from chunks of 64 KiB, each
 * cut into slots of one size; a large object is a chunk of its own. The chunk of any object is
 * found from its address, so that objects carry no header.
 *
 * Single-threaded; never called from an interrupt.
 */
#include "metal/metal.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_BYTES 0x10000u
#define CHUNK_PAGES (CHUNK_BYTES / PAGE_BYTES)
#define CHUNK_MAGIC 0x6b6e7568636d7266ull
#define SMALL_MAX 16384u
#define CLASSES 36 /* of size_class(SMALL_MAX) + 1 */

struct slot {
    struct slot *next;
};
/* At the start of a chunk. Objects begin behind it. */
struct chunk {
    u64 magic;
    u64 pages;
    u8 *end;        /* of the last slot, or of the large object */
    u32 slot_bytes; /* 0: one large object */
    u32 class, used;
    u8 *fresh;                      /* slots from here on were never taken */
    struct slot *free;              /* slots given back */
    struct chunk *next, **previous; /* among the chunks of its class with room */
} __attribute__((aligned(16)));

static struct chunk *with_room[CLASSES];

/* ---- Sizes: 16 32 48 64, then four steps to each power of two ---- */

static unsigned size_class(size_t bytes) {
    if (bytes <= 64)
        return bytes ? (unsigned)(bytes - 1) / 16 : 0;
    unsigned power = 63 - (unsigned)__builtin_clzll(bytes - 1); /* 2^power < bytes <= 2^(power+1) */
    return 4 + (power - 6) * 4 + (unsigned)((bytes - 1) >> (power - 2) & 3);
}

static u32 class_bytes(unsigned class) {
    if (class < 4)
        return (class + 1) * 16;
    unsigned power = 6 + (class - 4) / 4;
    return (1u << power) + ((class - 4) % 4 + 1) * (1u << (power - 2));
}

/* ---- Chunks ---- */

/* An object may start exactly at the end of 64 KiB (aligned ones do), never at the start. */
static struct chunk *chunk_of(const void *p) {
    struct chunk *chunk = (struct chunk *)(((u64)p - 1) & ~(u64)(CHUNK_BYTES - 1));
    RF_ASSERT(chunk->magic == CHUNK_MAGIC);
    return chunk;
}

static void link_chunk(struct chunk *chunk) {
    struct chunk **head = &with_room[chunk->class];
    chunk->next = *head;
    chunk->previous = head;
    if (*head)
        (*head)->previous = &chunk->next;
    *head = chunk;
}

static void unlink_chunk(struct chunk *chunk) {
    *chunk->previous = chunk->next;
    if (chunk->next)
        chunk->next->previous = chunk->previous;
    chunk->previous = NULL;
}

static void release_chunk(struct chunk *chunk) {
    chunk->magic = 0;
    metal_pages_free(metal_pointer_phys(chunk), chunk->pages);
}

static bool new_chunk(unsigned class) {
    u64 phys = metal_pages_alloc(CHUNK_PAGES, CHUNK_PAGES);
    if (!phys)
        return false;
    struct chunk *chunk = metal_phys_pointer(phys);
    u8 *slots = (u8 *)(chunk + 1);
    u32 bytes = class_bytes(class);
    *chunk = (struct chunk){.magic = CHUNK_MAGIC,
                            .pages = CHUNK_PAGES,
                            .slot_bytes = bytes,
                            .class = class,
                            .fresh = slots,
                            .end = slots + (CHUNK_BYTES - sizeof *chunk) / bytes * bytes};
    link_chunk(chunk);
    return true;
}

/* ---- Small objects ---- */

static void *alloc_small(unsigned class) {
    if (!with_room[class] && !new_chunk(class))
        return NULL;
    struct chunk *chunk = with_room[class];
    struct slot *slot = chunk->free;
    if (slot) {
        chunk->free = slot->next;
    } else {
        slot = (struct slot *)chunk->fresh;
        chunk->fresh += chunk->slot_bytes;
    }
    chunk->used++;
    if (!chunk->free && chunk->fresh == chunk->end)
        unlink_chunk(chunk);
    return slot;
}

/* Where the slot of an object starts: aligned objects start inside their slot. */
static u8 *slot_of(struct chunk *chunk, const void *p) {
    u8 *slots = (u8 *)(chunk + 1);
    u32 offset = (u32)((const u8 *)p - slots);
    return slots + offset / chunk->slot_bytes * chunk->slot_bytes;
}

static void free_small(struct chunk *chunk, void *p) {
    struct slot *slot = (struct slot *)slot_of(chunk, p);
    RF_ASSERT(chunk->used && (u8 *)slot < chunk->fresh);
    slot->next = chunk->free;
    chunk->free = slot;
    chunk->used--;
    if (!chunk->previous)
        link_chunk(chunk);
    /* One empty chunk stays, so that a single object coming and going costs nothing. */
    if (!chunk->used && (chunk->next || with_room[chunk->class] != chunk)) {
        unlink_chunk(chunk);
        release_chunk(chunk);
    }
}

/* ---- Large objects ---- */

/* The chunk's header lies within 64 KiB before the object, at a multiple of 64 KiB. With a larger
 * alignment the pages before it are given back. */
static void *alloc_large(size_t bytes, size_t align) {
    u64 before = align <= CHUNK_BYTES ? ALIGN_UP(sizeof(struct chunk), align) : CHUNK_BYTES;
    u64 pages = ALIGN_UP(before + bytes, PAGE_BYTES) >> PAGE_SHIFT;
    u64 align_pages = MAX(align, CHUNK_BYTES) >> PAGE_SHIFT;
    u64 skip_pages = align <= CHUNK_BYTES ? 0 : align_pages - CHUNK_PAGES;
    u64 phys = metal_pages_alloc(skip_pages + pages, align_pages);
    if (!phys)
        return NULL;
    if (skip_pages)
        metal_pages_free(phys, skip_pages);
    struct chunk *chunk = metal_phys_pointer(phys + (skip_pages << PAGE_SHIFT));
    *chunk = (struct chunk){
        .magic = CHUNK_MAGIC, .pages = pages, .end = (u8 *)chunk + (pages << PAGE_SHIFT)};
    return (u8 *)chunk + before;
}

/* ---- The C library's functions ---- */

static void *alloc(size_t bytes, size_t align) {
    void *p;
    bytes = MAX(bytes, 1); /* the object must start in its slot */
    /* Far beyond any memory, and nothing below can overflow. */
    if (bytes > 1ull << 46 || align > 1ull << 46) {
        p = NULL;
    } else if (align <= 16 ? bytes <= SMALL_MAX : bytes + align <= SMALL_MAX) {
        size_t slack = align <= 16 ? 0 : align - 16;
        p = alloc_small(size_class(bytes + slack));
        if (p && slack)
            p = (void *)ALIGN_UP((u64)p, align);
    } else {
        p = alloc_large(bytes, align);
    }
    if (!p)
        errno = ENOMEM;
    return p;
}

void *malloc(size_t bytes) {
    return alloc(bytes, 16);
}

void free(void *p) {
    if (!p)
        return;
    struct chunk *chunk = chunk_of(p);
    if (chunk->slot_bytes)
        free_small(chunk, p);
    else
        release_chunk(chunk);
}

void *calloc(size_t count, size_t bytes) {
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = malloc(all);
    if (p) {
        void *to = p;
        u64 words = ALIGN_UP(all, 8) / 8; /* slots and pages are multiples of 8 */
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(0) : "memory");
    }
    return p;
}

void *realloc(void *p, size_t bytes) {
    if (!p)
        return malloc(bytes);
    struct chunk *chunk = chunk_of(p);
    u8 *end = chunk->slot_bytes ? slot_of(chunk, p) + chunk->slot_bytes : chunk->end;
    size_t room = (size_t)(end - (u8 *)p);
    if (bytes <= room && bytes >= room / 2)
        return p;
    void *new = malloc(bytes);
    if (!new)
        return bytes <= room ? p : NULL;
    memcpy(new, p, MIN(bytes, room));
    free(p);
    return new;
}

int posix_memalign(void **p, size_t align, size_t bytes) {
    if (align < sizeof(void *) || align & (align - 1))
        return EINVAL;
    int saved = errno;
    *p = alloc(bytes, align);
    errno = saved;
    return *p ? 0 : ENOMEM;
}

void *aligned_alloc(size_t align, size_t bytes) {
    if (!align || align & (align - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return alloc(bytes, align);
}
