/*
 * access.c: guest memory for emulated instructions. Soft TLBs hold host pointers for plain RAM;
 * everything else (page crossings, MMIO, code pages, journalled
 * stores) takes the slow path, which checks every byte's rights before it touches any.
 */
#include "mmu/mmu.h"

#define ACCESS_MAX_BYTES 512

/* The part of an access that lies in one page. */
struct piece {
    u64 gpa;
    u32 bytes;
    bool ram;
    const u8 *rom; /* NULL when not ROM */
};

static inline bool is_user(const struct cpu *cpu, unsigned access) {
    return cpu->cpl == 3 && !(access & MMU_SUPERVISOR);
}

static inline struct softtlb *tlb_of(struct mmu *mmu, unsigned access, bool user) {
    return &mmu->tlb[(user ? SOFTTLB_USER : 0) + (access & MMU_FETCH ? SOFTTLB_FETCH : 0)];
}
static inline u32 tag_of(u32 lin) {
    return (lin & ~PAGE_OFFSET_MASK) | 1;
}

/* The host address for an access inside one page, when the soft TLB knows it. */
static inline u8 *tlb_lookup(struct mmu *mmu, u32 lin, unsigned bytes, unsigned access, bool user) {
    u32 offset = lin & PAGE_OFFSET_MASK;
    const struct softtlb_entry *e = &tlb_of(mmu, access, user)->entry[softtlb_index(lin)];
    u32 tag = access & MMU_WRITE ? e->write_tag : access & MMU_FETCH ? e->fetch_tag : e->read_tag;
    return likely(tag == tag_of(lin) && offset + bytes <= PAGE_BYTES) ? e->host + offset : NULL;
}

/* The page is RAM, or ROM and not written. */
static void tlb_insert(struct cpu *cpu, u32 lin, unsigned access, bool user,
                       const struct mmu_xlat *x) {
    struct mmu *mmu = cpu->mmu;
    /* Under SMAP the right to a user page hangs on EFLAGS.AC, which may change at any time. */
    if (!user && x->user && (cpu->cr4 & CR4_SMAP))
        return;
    struct softtlb *tlb = tlb_of(mmu, access, user);
    u32 index = softtlb_index(lin), tag = tag_of(lin), gpa_page = (u32)(x->gpa.v >> PAGE_SHIFT);
    struct softtlb_entry *e = &tlb->entry[index];
    if ((e->read_tag != tag && e->write_tag != tag && e->fetch_tag != tag) ||
        e->gpa_page != gpa_page) {
        u64 *large = &tlb->large[index / 64], bit = BIT64(index % 64);
        *large = x->page_bytes > PAGE_BYTES ? *large | bit : *large & ~bit;
        tlb->used[index / 64] |= bit;
        tlb->used_words |= BIT(index / 64);
        u64 page = x->gpa.v & ~(u64)PAGE_OFFSET_MASK;
        const u8 *rom = mmu_rom_at(mmu, page);
        *e =
            (struct softtlb_entry){.gpa_page = gpa_page, .host = rom ? (u8 *)rom : mmu->ram + page};
    }
    if (access & MMU_FETCH) {
        e->fetch_tag = tag;
        return;
    }
    e->read_tag = tag;
    if ((access & MMU_WRITE) && !mmu->code_page[gpa_page])
        e->write_tag = tag;
}

void mmu_softtlb_flush(struct cpu *cpu) {
    struct mmu *mmu = cpu->mmu;
    mmu->translation_epoch++;
    for (struct softtlb *tlb = mmu->tlb; tlb < mmu->tlb + SOFTTLB_COUNT; tlb++) {
        for (u32 words = tlb->used_words; words; words &= words - 1) {
            u32 word = (u32)__builtin_ctz(words);
            for (u64 bits = tlb->used[word]; bits; bits &= bits - 1)
                tlb->entry[word * 64 + (u32)__builtin_ctzll(bits)] = (struct softtlb_entry){0};
            tlb->used[word] = tlb->large[word] = 0;
        }
        tlb->used_words = 0;
    }
}

/* A large page may sit in many entries: all those of the same 4 MiB made from large pages go. */
static void flush_large(struct softtlb *tlb, u32 lin) {
    for (u32 words = tlb->used_words; words; words &= words - 1) {
        u32 word = (u32)__builtin_ctz(words);
        for (u64 bits = tlb->large[word]; bits; bits &= bits - 1) {
            struct softtlb_entry *e = &tlb->entry[word * 64 + (u32)__builtin_ctzll(bits)];
            u32 tag = e->read_tag | e->write_tag | e->fetch_tag;
            if (tag >> 22 == lin >> 22)
                *e = (struct softtlb_entry){0};
        }
    }
}

void mmu_softtlb_flush_page(struct cpu *cpu, u32 lin) {
    cpu->mmu->translation_epoch++;
    for (struct softtlb *tlb = cpu->mmu->tlb; tlb < cpu->mmu->tlb + SOFTTLB_COUNT; tlb++) {
        struct softtlb_entry *e = &tlb->entry[softtlb_index(lin)];
        if ((e->read_tag | e->write_tag | e->fetch_tag) == tag_of(lin))
            *e = (struct softtlb_entry){0};
        flush_large(tlb, lin);
    }
}

/* Translates an access page by page; all pieces are granted or none is. */
static bool resolve(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access,
                    struct piece piece[2], unsigned *count) {
    bool user = is_user(cpu, access);
    u32 first = MIN(bytes, PAGE_BYTES - (lin & PAGE_OFFSET_MASK));
    *count = first < bytes ? 2 : 1;
    for (unsigned i = 0; i < *count; i++) {
        struct mmu_xlat x;
        u32 at = i ? lin + first : lin; /* wraps at 4 GiB like the hardware */
        if (!mmu_translate(cpu, GLIN(at), access, user, &x))
            return false;
        piece[i] = (struct piece){.gpa = x.gpa.v,
                                  .bytes = i ? bytes - first : first,
                                  .ram = mmu_gpa_is_ram(cpu->mmu, x.gpa.v),
                                  .rom = mmu_rom_at(cpu->mmu, x.gpa.v)};
        if (piece[i].ram || (piece[i].rom && !(access & MMU_WRITE)))
            tlb_insert(cpu, at, access, user, &x);
    }
    return true;
}

/* Bus accesses are naturally sized: the largest power of two that fits the rest, up to 8. */
static unsigned bus_step(u32 bytes) {
    return bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
}

static void mmio_read(struct cpu *cpu, u64 gpa, u8 *buf, u32 bytes) {
    while (bytes) {
        unsigned step = bus_step(bytes);
        u64 value = ~0ull;
        if (cpu->bus && cpu->bus->mmio_read)
            value = cpu->bus->mmio_read(cpu->bus->opaque, GPA(gpa), step);
        memcpy(buf, &value, step);
        buf += step, gpa += step, bytes -= step;
    }
}

static void mmio_write(struct cpu *cpu, u64 gpa, const u8 *buf, u32 bytes) {
    while (bytes) {
        unsigned step = bus_step(bytes);
        u64 value = 0;
        memcpy(&value, buf, step);
        if (cpu->bus && cpu->bus->mmio_write)
            cpu->bus->mmio_write(cpu->bus->opaque, GPA(gpa), value, step);
        buf += step, gpa += step, bytes -= step;
    }
}

/* Copies of machine size are single accesses, so that a device sees no torn values. */
static inline void copy_in(void *buf, const u8 *host, u32 bytes) {
    switch (bytes) {
    case 1:
        *(u8 *)buf = *host;
        break;
    case 2:
        store16(buf, load16(host));
        break;
    case 4:
        store32(buf, load32(host));
        break;
    case 8:
        store64(buf, load64(host));
        break;
    default:
        memcpy(buf, host, bytes);
    }
}

static void ram_write(struct mmu *mmu, u64 gpa, const u8 *buf, u32 bytes) {
    if (unlikely(mmu->code_page[gpa >> PAGE_SHIFT] & PAGE_IS_READ_ONLY))
        return;
    if (mmu->journal)
        mmu_journal_record(mmu, gpa, buf, bytes);
    copy_in(mmu->ram + gpa, buf, bytes);
    mmu_code_note_write(mmu, gpa, bytes);
}

static bool read_slow(struct cpu *cpu, u32 lin, u8 *buf, unsigned bytes, unsigned access) {
    struct piece piece[2];
    unsigned count;
    if (!resolve(cpu, lin, bytes, access, piece, &count))
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (piece[i].ram)
            copy_in(buf, cpu->mmu->ram + piece[i].gpa, piece[i].bytes);
        else if (piece[i].rom)
            copy_in(buf, piece[i].rom, piece[i].bytes);
        else
            mmio_read(cpu, piece[i].gpa, buf, piece[i].bytes);
        buf += piece[i].bytes;
    }
    return true;
}

static bool write_slow(struct cpu *cpu, u32 lin, const u8 *buf, unsigned bytes, unsigned access) {
    struct piece piece[2];
    unsigned count;
    if (!resolve(cpu, lin, bytes, access, piece, &count))
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (piece[i].ram)
            ram_write(cpu->mmu, piece[i].gpa, buf, piece[i].bytes);
        else if (!piece[i].rom)
            mmio_write(cpu, piece[i].gpa, buf, piece[i].bytes);
        buf += piece[i].bytes;
    }
    return true;
}

bool mmu_read(struct cpu *cpu, u32 lin, void *buf, unsigned bytes, unsigned access) {
    const u8 *host = tlb_lookup(cpu->mmu, lin, bytes, access, is_user(cpu, access));
    if (likely(host)) {
        copy_in(buf, host, bytes);
        return true;
    }
    RF_ASSERT(bytes && bytes <= ACCESS_MAX_BYTES);
    return read_slow(cpu, lin, buf, bytes, access);
}

bool mmu_write(struct cpu *cpu, u32 lin, const void *buf, unsigned bytes, unsigned access) {
    access |= MMU_WRITE;
    u8 *host = tlb_lookup(cpu->mmu, lin, bytes, access, is_user(cpu, access));
    if (likely(host && !cpu->mmu->journal)) {
        copy_in(host, buf, bytes);
        return true;
    }
    RF_ASSERT(bytes && bytes <= ACCESS_MAX_BYTES);
    return write_slow(cpu, lin, buf, bytes, access);
}

bool mmu_check_write(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access) {
    struct piece piece[2];
    unsigned count;
    access |= MMU_WRITE;
    if (tlb_lookup(cpu->mmu, lin, bytes, access, is_user(cpu, access)))
        return true;
    return resolve(cpu, lin, bytes, access, piece, &count);
}

void *mmu_host_pointer(struct cpu *cpu, u32 lin, unsigned bytes, unsigned access) {
    struct mmu *mmu = cpu->mmu;
    if ((access & MMU_WRITE) && mmu->journal)
        return NULL;
    bool user = is_user(cpu, access);
    u8 *host = tlb_lookup(mmu, lin, bytes, access, user);
    if (host || (lin & PAGE_OFFSET_MASK) + bytes > PAGE_BYTES)
        return host;
    struct guest_fault saved = cpu->fault;
    struct mmu_xlat x;
    if (!mmu_translate(cpu, GLIN(lin), access, user, &x)) {
        cpu->fault = saved;
        return NULL;
    }
    const u8 *rom = mmu_rom_at(mmu, x.gpa.v);
    if (!mmu_gpa_is_ram(mmu, x.gpa.v) && (!rom || (access & MMU_WRITE)))
        return NULL;
    tlb_insert(cpu, lin, access, user, &x);
    if (rom)
        return (u8 *)rom;
    if ((access & MMU_WRITE) && mmu->code_page[x.gpa.v >> PAGE_SHIFT])
        return NULL;
    return mmu->ram + x.gpa.v;
}

/* ---- Journal ---- */

void mmu_journal_record(struct mmu *mmu, u64 gpa, const void *new_value, unsigned bytes) {
    struct mmu_journal *j = mmu->journal;
    const u8 *value = new_value;
    while (bytes) {
        if (j->count == j->capacity) {
            j->overflow = true;
            return;
        }
        struct mmu_journal_entry *e = &j->entry[j->count++];
        unsigned step = MIN(bytes, (unsigned)sizeof e->new_value);
        e->gpa = gpa;
        e->bytes = (u8)step;
        memcpy(e->old_value, mmu->ram + gpa, step);
        memcpy(e->new_value, value, step);
        gpa += step, value += step, bytes -= step;
    }
}

void mmu_set_journal(struct mmu *mmu, struct mmu_journal *journal) {
    mmu->journal = journal;
}

/* ---- Architectural events ---- */

void mmu_cr3_loaded(struct cpu *cpu) {
    cpu->mmu->stat_cr3_loads++;
    TRACE(mmu, "cr3 load: %08x\n", cpu->cr3);
    mmu_softtlb_flush(cpu);
    if (cpu->mmu->windows)
        mmu_windows_cr3_loaded(cpu);
}

void mmu_mode_changed(struct cpu *cpu) {
    cpu->mmu->phys_bits = 0;
    mmu_softtlb_flush(cpu);
    if (cpu->mmu->windows)
        mmu_windows_mode_changed(cpu);
}

void mmu_set_a20(struct cpu *cpu, bool enabled) {
    if (cpu->a20_masked == !enabled)
        return;
    TRACE(mmu, "A20 %s\n", enabled ? "on" : "off");
    cpu->a20_masked = !enabled;
    mmu_mode_changed(cpu);
}

void mmu_invlpg(struct cpu *cpu, struct glin lin) {
    cpu->mmu->stat_invlpg++;
    TRACE_AT(mmu, lin.v, "invlpg %08x\n", (u32)lin.v);
    mmu_softtlb_flush_page(cpu, (u32)lin.v);
    if (cpu->mmu->windows)
        mmu_windows_invlpg(cpu, (u32)lin.v);
}
