/*
 * code.c: which physical pages hold translated code or are read-only, and the one queue through
 * which every kind of write to them (stores of the emulator, the walker's A/D updates, DMA) reaches
 * the translator.
 *
 * Invariant: a protected page has no write tag in the soft TLB and no writable mapping in a window.
 */
#include "mmu/mmu.h"

static bool page_in_ram(const struct mmu *mmu, u64 page) {
    return page < mmu->ram_bytes >> PAGE_SHIFT;
}

/* Takes the page's write tags from one soft TLB. */
static void forget_write_tags(struct softtlb *tlb, u64 page) {
    for (u32 words = tlb->used_words; words; words &= words - 1) {
        u32 word = (u32)__builtin_ctz(words);
        for (u64 bits = tlb->used[word]; bits; bits &= bits - 1) {
            struct softtlb_entry *e = &tlb->entry[word * 64 + (u32)__builtin_ctzll(bits)];
            if (e->gpa_page == page)
                e->write_tag = 0;
        }
    }
}

/* Every write to the page goes the slow way from here on. */
static void protect(struct mmu *mmu, u64 page, u8 why) {
    u8 before = mmu->code_page[page];
    mmu->code_page[page] |= why;
    if (before)
        return;
    forget_write_tags(&mmu->tlb[0], page);
    forget_write_tags(&mmu->tlb[SOFTTLB_USER], page);
    mmu_windows_protect_page(mmu, page);
}

void mmu_code_protect(struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    if (page_in_ram(mmu, page))
        protect(mmu, page, PAGE_IS_CODE);
}

void mmu_ram_set_read_only(struct mmu *mmu, struct gpa gpa, u64 bytes, bool on) {
    for (u64 page = gpa.v >> PAGE_SHIFT; page < (gpa.v + bytes) >> PAGE_SHIFT; page++) {
        if (!page_in_ram(mmu, page))
            continue;
        if (on)
            protect(mmu, page, PAGE_IS_READ_ONLY);
        else
            mmu->code_page[page] &= (u8)~PAGE_IS_READ_ONLY;
    }
}

/* Windows stay read-only: the next write fault finds the page unprotected and upgrades it. */
void mmu_code_unprotect(struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    if (page_in_ram(mmu, page))
        mmu->code_page[page] &= (u8)~PAGE_IS_CODE;
}

bool mmu_code_is_protected(const struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    return page_in_ram(mmu, page) && (mmu->code_page[page] & PAGE_IS_CODE);
}

/* Queues one write inside one page. Runs of ascending stores (a guest copying code) merge. */
static void queue_write(struct mmu *mmu, u64 gpa, u32 bytes) {
    u32 head = mmu->code_queue_head, tail = mmu->code_queue_tail;
    if (mmu->code_queue_overflow)
        return;
    if (head != tail) {
        struct mmu_code_write *last = &mmu->code_queue[(tail - 1) % MMU_CODE_QUEUE];
        bool same_page = last->gpa >> PAGE_SHIFT == gpa >> PAGE_SHIFT;
        if (same_page && last->gpa + last->bytes == gpa) {
            last->bytes += bytes;
            return;
        }
        if (same_page && last->gpa <= gpa && gpa + bytes <= last->gpa + last->bytes)
            return;
    }
    if (tail - head == MMU_CODE_QUEUE) {
        mmu->code_queue_overflow = true;
        return;
    }
    mmu->code_queue[tail % MMU_CODE_QUEUE] = (struct mmu_code_write){.gpa = gpa, .bytes = bytes};
    mmu->code_queue_tail = tail + 1;
}

void mmu_code_note_write(struct mmu *mmu, u64 gpa, u64 bytes) {
    while (bytes) {
        u64 piece = MIN(bytes, PAGE_BYTES - (gpa & PAGE_OFFSET_MASK));
        if (page_in_ram(mmu, gpa >> PAGE_SHIFT) &&
            (mmu->code_page[gpa >> PAGE_SHIFT] & PAGE_IS_CODE))
            queue_write(mmu, gpa, (u32)piece);
        gpa += piece;
        bytes -= piece;
    }
}

bool mmu_code_next_write(struct mmu *mmu, struct gpa *gpa, u32 *bytes, bool *all) {
    *all = mmu->code_queue_overflow;
    if (mmu->code_queue_overflow) {
        mmu->code_queue_overflow = false;
        mmu->code_queue_head = mmu->code_queue_tail;
        *gpa = GPA(0);
        *bytes = 0;
        return true;
    }
    if (mmu->code_queue_head == mmu->code_queue_tail)
        return false;
    const struct mmu_code_write *w = &mmu->code_queue[mmu->code_queue_head++ % MMU_CODE_QUEUE];
    *gpa = GPA(w->gpa);
    *bytes = w->bytes;
    return true;
}
