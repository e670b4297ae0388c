/*
 * code.c: which physical pages hold translated code, and the one queue through which every kind of
 * write to them (stores of the emulator, the walker's A/D updates, DMA) reaches the translator.
 *
 * Invariant: a protected page has no write tag in the soft TLB and no writable mapping in a window.
 */
#include "mmu/mmu.h"

static bool page_in_ram(const struct mmu *mmu, u64 page) {
    return page < mmu->ram_bytes >> PAGE_SHIFT;
}

void mmu_code_protect(struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    if (!page_in_ram(mmu, page) || mmu->code_page[page])
        return;
    mmu->code_page[page] = 1;
    for (unsigned user = 0; user < 2; user++)
        for (unsigned i = 0; i < SOFTTLB_ENTRIES; i++)
            if (mmu->tlb[user][i].gpa_page == page)
                mmu->tlb[user][i].write_tag = 0;
    mmu_windows_protect_page(mmu, page);
}

/* Windows stay read-only: the next write fault finds the page unprotected and upgrades it. */
void mmu_code_unprotect(struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    if (page_in_ram(mmu, page))
        mmu->code_page[page] = 0;
}

bool mmu_code_is_protected(const struct mmu *mmu, struct gpa gpa) {
    u64 page = gpa.v >> PAGE_SHIFT;
    return page_in_ram(mmu, page) && mmu->code_page[page];
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
        if (page_in_ram(mmu, gpa >> PAGE_SHIFT) && mmu->code_page[gpa >> PAGE_SHIFT])
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
