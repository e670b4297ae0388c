/*
 * shadow.c: the real tables of direct execution, made of the guest's descriptors one entry at a
 * time. The guest's raw entries are compared with those last seen, always: nothing tells when a
 * kernel writes its tables. Where a table lies is remembered with the words of the paging
 * structures that said so.
 */
#include "ringcomp/shadow.h"
#include "ringcomp/rc_internal.h"

/* ---- What a descriptor is to ring 3 ---- */

enum kind { HIDDEN, MIRRORED, OPAQUE };

/* System descriptors that LAR shows: SDM volume 2, "LAR-Load Access Rights Byte". */
#define VISIBLE_SYSTEM_TYPES                                                                       \
    (BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_CALL16) | BIT(SYS_TASK_GATE) |  \
     BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY) | BIT(SYS_CALL32))

static struct rc_desc desc_of(u64 raw) {
    return (struct rc_desc){.lo = (u32)raw, .hi = (u32)(raw >> 32)};
}

static enum kind kind_of(u64 raw) {
    struct rc_desc d = desc_of(raw);
    u32 attr = rc_desc_attr(&d);
    if (!(attr & ATTR_S)) {
        bool visible = rc_attr_dpl(attr) == 3 && (VISIBLE_SYSTEM_TYPES >> (attr & ATTR_TYPE) & 1);
        return visible ? OPAQUE : HIDDEN;
    }
    bool conforming = (attr & (ATTR_CODE | ATTR_C)) == (ATTR_CODE | ATTR_C);
    if (rc_attr_dpl(attr) != 3 && !conforming)
        return HIDDEN;
    return (attr & (ATTR_P | ATTR_A | ATTR_L)) == (ATTR_P | ATTR_A) ? MIRRORED : OPAQUE;
}

static enum kind kind_of_entry(const struct rc_shadow_table *t, u32 i, u64 raw) {
    if (i < t->first)
        return HIDDEN;
    enum kind kind = kind_of(raw);
    return kind == MIRRORED && i >= t->free ? OPAQUE : kind;
}

static void update(struct rc_shadow_table *t, u32 i, u64 raw) {
    if (likely(raw == t->seen[i]))
        return;
    enum kind old = kind_of_entry(t, i, t->seen[i]), new = kind_of_entry(t, i, raw);
    t->opaque += (u32)(new == OPAQUE) - (u32)(old == OPAQUE);
    t->seen[i] = raw;
    if (i < t->free)
        t->real[i] = new == MIRRORED ? raw : 0;
}

/* ---- Where the guest's tables lie ---- */

static void watch(struct rc_shadow *s, const u64 *at, u64 mask) {
    s->watch[s->watches++] = (struct rc_shadow_watch){at, *at & mask, mask};
}

/* An entry of the paging structures; of 4-byte ones, that half of the aligned 8 bytes. A and D may
 * change as they like. */
static void watch_entry(struct rc_shadow *s, const u8 *ram, u64 gpa, unsigned bytes) {
    u64 mask = bytes == 8 ? ~0ull : 0xffffffffull;
    mask &= ~(u64)(PTE_A | PTE_D);
    watch(s, (const u64 *)(ram + (gpa & ~7ull)), gpa & 4 ? mask << 32 : mask);
}

/* The page at lin, and what is to be watched beside cr0, cr3 and cr4. False when an application
 * cannot run under a table there: see rc_shadow_sync. */
static bool find_page(struct rc_shadow *s, const struct cpu *cpu, u32 lin, const u8 **host) {
    const struct mmu *mmu = cpu->mmu;
    struct mmu_xlat x;
    struct mmu_walk walk = {.x = &x};
    if (mmu_walk_tables(cpu, lin, &walk) != MMU_WALK_OK ||
        !mmu_access_allowed(cpu, &x, MMU_READ | MMU_SUPERVISOR, false) || (x.user && x.writable) ||
        !mmu_gpa_is_ram(mmu, x.gpa.v))
        return false;
    for (unsigned i = 0; i < walk.depth; i++)
        watch_entry(s, mmu->ram, walk.entry_gpa[i], walk.entry_bytes);
    if (walk.entry_bytes == 8) {
        watch(s, &cpu->pdptr[lin >> 30], ~0ull);
        watch(s, &cpu->efer, EFER_NXE);
    }
    *host = mmu->ram + x.gpa.v;
    return true;
}

/* Adds the pages of a table. Entries are numbered by where they begin. */
static bool find_table(struct rc_shadow *s, const struct cpu *cpu, struct rc_shadow_table *t) {
    u32 bytes = t->count * 8, done = 0; /* bytes of the table in the pages before this one */
    while (done < bytes) {
        struct rc_shadow_page *page = &s->page[s->pages];
        const u8 *host;
        u32 lin = t->base + done; /* wraps at 4 GiB like the hardware */
        if (!find_page(s, cpu, lin, &host))
            return false;
        u32 end = MIN(bytes, done + PAGE_BYTES - (lin & PAGE_OFFSET_MASK));
        u32 first = (done + 7) / 8;
        *page = (struct rc_shadow_page){.raw = host + (first * 8 - done),
                                        .seen = t->seen + first,
                                        .count = end / 8 - first,
                                        .first = first,
                                        .straddled = end % 8 != 0,
                                        .table = t};
        s->pages++;
        done = end;
    }
    return true;
}

static inline bool watched_words_stay(const struct rc_shadow *s) {
    for (const struct rc_shadow_watch *w = s->watch, *end = w + s->watches; w != end; w++)
        if (unlikely((*w->at & w->mask) != w->value))
            return false;
    return true;
}

/* ---- Comparing ---- */

#define SAME(i) (load64(raw + 8 * (i)) == seen[i])
#define SAME_4(i) (SAME(i) && SAME((i) + 1) && SAME((i) + 2) && SAME((i) + 3))

/* Long comparisons go by 16 bytes in the processor's SSE registers. Those are the guest's: two of
 * them are borrowed, and nothing but this touches them in between. */
struct borrowed {
    u8 xmm0[16], xmm1[16];
};

static inline __attribute__((always_inline)) void borrow(struct borrowed *b) {
    __asm__ volatile("movups %%xmm0, %0\n\tmovups %%xmm1, %1\n\tpcmpeqd %%xmm1, %%xmm1"
                     : "=m"(b->xmm0), "=m"(b->xmm1));
}

/* 16 bytes more; `b` is aligned. */
static inline __attribute__((always_inline)) void compare_16(const void *a, const void *b) {
    __asm__ volatile("movdqu %0, %%xmm0\n\tpcmpeqd %1, %%xmm0\n\tpand %%xmm0, %%xmm1"
                     :
                     : "m"(*(const u8(*)[16])a), "m"(*(const u8(*)[16])b));
}

/* Was everything equal? */
static inline __attribute__((always_inline)) bool give_back(const struct borrowed *b) {
    u32 equal;
    __asm__ volatile("pmovmskb %%xmm1, %0\n\tmovups %1, %%xmm0\n\tmovups %2, %%xmm1"
                     : "=r"(equal)
                     : "m"(b->xmm0), "m"(b->xmm1));
    return equal == 0xffff;
}

/* 16 entries more. */
static inline __attribute__((always_inline)) void compare_block(const u8 *raw, const u64 *seen) {
#pragma GCC unroll 8
    for (unsigned i = 0; i < 16; i += 2)
        compare_16(raw + 8 * i, seen + i);
}

/* False when one that is compared at once differs. */
static inline bool compare_entries(const u8 *raw, const u64 *seen, u32 n) {
    if (((uintptr_t)seen & 8) && n) {
        if (!SAME(0))
            return false;
        n--, raw += 8, seen++;
    }
    for (; n >= 16; n -= 16, raw += 128, seen += 16)
        compare_block(raw, seen);
    for (; n >= 2; n -= 2, raw += 16, seen += 2)
        compare_16(raw, seen);
    return !n || SAME(0);
}

static void update_page(const struct rc_shadow_page *page) {
    const u8 *raw = page->raw;
    const u64 *seen = page->seen;
    u32 n = page->count;
    for (; n >= 4; n -= 4, raw += 32, seen += 4)
        if (unlikely(!SAME_4(0)))
            for (u32 i = 0; i < 4; i++)
                update(page->table, page->first + page->count - n + i, load64(raw + 8 * i));
    for (; n; n--, raw += 8)
        update(page->table, page->first + page->count - n, load64(raw));
}
#undef SAME
#undef SAME_4

/* The entry that begins in this page and ends in the next, where the first whole one follows it. */
static void update_straddling(const struct rc_shadow_page *page) {
    u32 index = page->first + page->count;
    u32 here = PAGE_BYTES - ((page->table->base + index * 8) & PAGE_OFFSET_MASK);
    const u8 *head = page->raw + page->count * 8, *tail = page[1].raw - 8;
    u64 raw = 0;
    for (u32 i = 0; i < 8; i++)
        raw |= (u64)(i < here ? head[i] : tail[i]) << (8 * i);
    update(page->table, index, raw);
}

/* ---- Sync ---- */

/* Neighbouring fields that are compared at once. */
_Static_assert(offsetof(struct cpu, cr4) == offsetof(struct cpu, cr3) + 4, "cr3, cr4");
_Static_assert(offsetof(struct cpu, shadow) == offsetof(struct cpu, cpl) + 1, "cpl, shadow");
_Static_assert(sizeof(struct table_register) == 8, "gdtr");
_Static_assert(7 * sizeof(struct segment) == sizeof(((struct rc_shadow *)0)->segments) &&
                   SEG_LDTR == SEG_GS + 1,
               "segments");
#define LDTR_WORD (2 * SEG_LDTR)

static inline u64 segment_word(const struct cpu *cpu, unsigned i) {
    return load64((const u8 *)cpu->seg + 8 * i);
}

/* Whether the tables are where they were found, and as large. */
static inline bool place_is_known(const struct rc_shadow *s, const struct cpu *cpu) {
    return cpu->cr0 == s->cr0 && load64(&cpu->cr3) == s->cr3_cr4 && load64(&cpu->gdtr) == s->gdtr &&
           watched_words_stay(s);
}

static inline bool ldtr_is_known(const struct rc_shadow *s, const struct cpu *cpu) {
    return segment_word(cpu, LDTR_WORD) == s->segments[LDTR_WORD] &&
           segment_word(cpu, LDTR_WORD + 1) == s->segments[LDTR_WORD + 1];
}

static void set_size(struct rc_shadow_table *t, u32 base, u32 count) {
    for (u32 i = count; i < t->count; i++) /* beyond the limit now */
        update(t, i, 0);
    t->base = base;
    t->count = count;
}

static bool find_tables(struct rc_shadow *s, const struct cpu *cpu) {
    const struct segment *ldtr = &cpu->seg[SEG_LDTR];
    u64 ldt_bytes = ldtr->attr & ATTR_NULL ? 0 : (u64)ldtr->limit + 1;
    s->watches = s->pages = 0;
    set_size(&s->gdt, cpu->gdtr.base, (cpu->gdtr.limit + 1u) / 8);
    set_size(&s->ldt, ldtr->base, (u32)MIN(ldt_bytes / 8, RC_SHADOW_ENTRIES));
    s->cr0 = cpu->cr0;
    s->cr3_cr4 = load64(&cpu->cr3);
    s->gdtr = load64(&cpu->gdtr);
    s->segments[LDTR_WORD] = segment_word(cpu, LDTR_WORD);
    s->segments[LDTR_WORD + 1] = segment_word(cpu, LDTR_WORD + 1);
    return find_table(s, cpu, &s->gdt) && find_table(s, cpu, &s->ldt);
}

bool rc_shadow_sync(struct rc_shadow *s, struct cpu *cpu) {
    s->known = false;
    if (!s->in_step || !ldtr_is_known(s, cpu) || !place_is_known(s, cpu))
        s->in_step = find_tables(s, cpu);
    if (!s->in_step)
        return false;
    for (u32 i = 0; i < s->pages; i++) {
        update_page(&s->page[i]);
        if (s->page[i].straddled)
            update_straddling(&s->page[i]);
    }
    return s->lenient || s->gdt.opaque + s->ldt.opaque == 0;
}

/* The compiler would make a loop a call of memset. */
static void clear(u64 *entry, u32 count) {
    u64 n = count;
    __asm__ volatile("rep stosq" : "+D"(entry), "+c"(n) : "a"(0) : "memory");
}

static void init_table(struct rc_shadow_table *t, u64 *real, u32 first, u32 free_entries) {
    clear(real, free_entries);
    clear(t->seen, RC_SHADOW_ENTRIES);
    t->real = real;
    t->first = first;
    t->free = free_entries;
    t->base = t->count = t->opaque = 0;
}

bool rc_shadow_init(struct rc_shadow *s, u64 *gdt, u64 *ldt) {
    if (!gdt || !ldt || ((uintptr_t)gdt | (uintptr_t)ldt) % 8)
        return false;
    s->lenient = s->in_step = s->known = false;
    init_table(&s->gdt, gdt, 1, RC_SHADOW_GDT_FREE); /* entry 0 is no descriptor */
    init_table(&s->ldt, ldt, 0, RC_SHADOW_ENTRIES);
    return true;
}

/* ---- Segment registers ---- */

/* The guest's descriptor behind a selector, if it stands in the real table. */
static inline bool mirrored(const struct rc_shadow *s, u16 selector, struct rc_desc *d) {
    const struct rc_shadow_table *t = selector & 4 ? &s->ldt : &s->gdt;
    u32 i = selector >> 3;
    *d = desc_of(t->real[i]);
    return i < t->free && t->real[i] != 0;
}

/* Would the processor load this register in ring 3? (DPL 3 or conforming: it is mirrored.) */
static inline bool loadable(enum seg seg, u16 selector, u32 attr) {
    switch (seg) {
    case SEG_CS:
        return (attr & ATTR_CODE) && (selector & 3) == 3;
    case SEG_SS:
        return rc_attr_is_writable_data(attr) && (selector & 3) == 3;
    default:
        return !(attr & ATTR_CODE) || (attr & ATTR_R);
    }
}

static inline bool segment_matches(const struct rc_shadow *s, enum seg seg,
                                   const struct segment *now) {
    struct rc_desc d;
    if (rc_null(now->selector))
        return now->selector == 0 && (now->attr & ATTR_NULL) && seg != SEG_CS && seg != SEG_SS;
    return mirrored(s, now->selector, &d) && now->attr == rc_desc_attr(&d) &&
           now->limit == rc_desc_limit(&d) && now->base == rc_desc_base(&d) &&
           loadable(seg, now->selector, now->attr);
}

bool rc_shadow_matches(const struct rc_shadow *s, const struct cpu *cpu) {
    if (!s->in_step)
        return false;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        if (!segment_matches(s, (enum seg)i, &cpu->seg[i]))
            return false;
    return true;
}

void rc_shadow_reload(struct rc_shadow *s, struct cpu *cpu, const u16 selectors[6]) {
    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        struct segment *now = &cpu->seg[i];
        struct rc_desc d;
        if (likely(now->selector == selectors[i]))
            continue;
        if (rc_null(selectors[i])) {
            rc_fill_null(now, selectors[i]);
            continue;
        }
        /* The processor loaded it from there, and the tables have not changed since. */
        RF_ASSERT(mirrored(s, selectors[i], &d));
        rc_fill_desc(now, selectors[i], &d);
    }
}

/* ---- The state as a whole ---- */

/* Flags that keep a state from running directly, and the one that must be there. */
#define REFUSED_FLAGS ((u32)(F_TF | F_IOPL | F_VM | F_VIF | F_VIP))

/* The machine's own CR0.AM is always set, so that an application which sets AC meets its #AC: with
 * the guest's AM clear it may not run with AC set. */
bool rc_direct_state(const struct cpu *cpu) {
    const struct segment *cs = &cpu->seg[SEG_CS], *ss = &cpu->seg[SEG_SS];
    return cpu->cpl == 3 && (cpu->cr0 & (CR0_PE | CR0_PG)) == (CR0_PE | CR0_PG) &&
           !(cpu->cr0 & (CR0_TS | CR0_EM)) && (cpu->cr4 & CR4_OSFXSR) &&
           (cpu->eflags & (REFUSED_FLAGS | F_IF)) == F_IF &&
           ((cpu->cr0 & CR0_AM) || !(cpu->eflags & F_AC)) && !(cpu->dr[7] & DR7_ANY_ENABLE) &&
           !cpu->shadow && !cpu->ferr && (ss->attr & ATTR_DB) && cpu->eip <= cs->limit;
}

/* The registers are those of the remembered state, but for what may differ and the segments. */
static inline bool registers_are_known(const struct rc_shadow *s, const struct cpu *cpu) {
    /* CPL, and neither shadow nor FERR#; a CPU that runs is not halted */
    _Static_assert(offsetof(struct cpu, halted) == offsetof(struct cpu, cpl) + 3, "four bytes");
    return likely(s->known && load32(&cpu->cpl) == 3 &&
                  (cpu->eflags & (REFUSED_FLAGS | F_AC | F_IF)) == F_IF &&
                  !(cpu->dr[7] & DR7_ANY_ENABLE) && cpu->eip <= cpu->seg[SEG_CS].limit);
}

static inline __attribute__((always_inline)) void compare_segments(const struct rc_shadow *s,
                                                                   const struct cpu *cpu) {
#pragma GCC unroll 7
    for (unsigned i = 0; i <= SEG_LDTR; i++)
        compare_16(&cpu->seg[i], &s->segments[2 * i]);
}

/* The same contents in the segment registers, LDTR included, and in every entry of the tables. */
static __attribute__((noinline)) bool contents_are_known(const struct rc_shadow *s,
                                                         const struct cpu *cpu) {
    struct borrowed registers;
    bool same = true;
    borrow(&registers);
    compare_segments(s, cpu);
    for (u32 i = 0; i < s->pages && same; i++)
        same = compare_entries(s->page[i].raw, s->page[i].seen, s->page[i].count);
    return give_back(&registers) && same;
}

/* That of the usual case: a GDT in one page, no LDT. */
static inline bool plain_contents_are_known(const struct rc_shadow *s, const struct cpu *cpu) {
    struct borrowed registers;
    const u8 *raw = s->page[0].raw;
    const u64 *seen = s->page[0].seen;
    u32 blocks = s->plain_blocks;
    borrow(&registers);
    compare_segments(s, cpu);
    do {
        compare_block(raw, seen);
        raw += 128, seen += 16;
    } while (--blocks);
    return give_back(&registers);
}

static bool any_straddled(const struct rc_shadow *s) {
    for (u32 i = 0; i < s->pages; i++)
        if (s->page[i].straddled)
            return true;
    return false;
}

static u32 plain_blocks(const struct rc_shadow *s) {
    const struct rc_shadow_page *page = &s->page[0];
    return s->pages == 1 && page->count % 16 == 0 && (uintptr_t)page->seen % 16 == 0
               ? page->count / 16
               : 0;
}

/* After a change of address space, or of a watched word: the same tables and registers as before,
 * though perhaps elsewhere? */
static bool only_moved(struct rc_shadow *s, const struct cpu *cpu) {
    if (!registers_are_known(s, cpu) || cpu->cr0 != s->cr0 || cpu->cr4 != s->cr3_cr4 >> 32 ||
        load64(&cpu->gdtr) != s->gdtr || !ldtr_is_known(s, cpu) || place_is_known(s, cpu))
        return false;
    s->known = false;
    s->in_step = find_tables(s, cpu);
    if (!s->in_step || any_straddled(s) || !contents_are_known(s, cpu))
        return false;
    s->plain_blocks = plain_blocks(s);
    s->known = true;
    return true;
}

static __attribute__((noinline)) bool ready_slow(struct rc_shadow *s, struct cpu *cpu) {
    if (only_moved(s, cpu))
        return true;
    if (!rc_direct_state(cpu) || !rc_shadow_sync(s, cpu) || !rc_shadow_matches(s, cpu))
        return false;
    for (unsigned i = 0; i < LDTR_WORD; i++)
        s->segments[i] = segment_word(cpu, i);
    s->known = !any_straddled(s); /* contents_are_known does not look at entries in two pages */
    s->plain_blocks = plain_blocks(s);
    return true;
}

bool rc_shadow_ready(struct rc_shadow *s, struct cpu *cpu) {
    if (likely(registers_are_known(s, cpu) && place_is_known(s, cpu)) &&
        (likely(s->plain_blocks) ? plain_contents_are_known(s, cpu) : contents_are_known(s, cpu)))
        return true;
    return ready_slow(s, cpu);
}
