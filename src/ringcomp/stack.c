/*
 * stack.c: pushing and popping. A frame is checked as a whole, limits and page rights, before its
 * first byte is written, so that a fault in the middle leaves no trace.
 */
#include "ringcomp/rc_internal.h"

static inline void store_slot(u8 *p, unsigned bytes, u32 value) {
    if (bytes == 4)
        store32(p, value);
    else
        store16(p, (u16)value);
}

/* The general path: any size of stack, any limit, page crossings, MMIO, code pages. */
static bool push_frame_slow(struct cpu *cpu, const struct segment *ss, u32 *esp,
                            const struct rc_frame *f, unsigned access, u32 ss_error) {
    u32 mask = rc_stack_mask(ss);
    bool flat = rc_segment_is_unlimited(ss);
    for (unsigned i = 0; i < f->count; i++) {
        u32 offset = (*esp - (i + 1) * f->bytes) & mask;
        if (!flat && !rc_in_limit(ss, offset, f->bytes))
            return cpu_fault_error(cpu, VEC_SS, ss_error);
        if (!rc_frame_aligned(cpu, ss->base + offset, f->bytes, access) ||
            !mmu_check_write(cpu, ss->base + offset, f->bytes, access | MMU_WRITE))
            return false;
    }
    for (unsigned i = 0; i < f->count; i++) {
        u32 offset = (*esp - (i + 1) * f->bytes) & mask;
        if (!mmu_write(cpu, ss->base + offset, &f->slot[i], f->bytes, access | MMU_WRITE))
            return false;
        rc_frame_watched(cpu, ss->base + offset, f->bytes, true);
    }
    *esp = rc_stack_pointer(ss, *esp, *esp - f->count * f->bytes);
    return true;
}

bool rc_push_frame(struct cpu *cpu, const struct segment *ss, u32 *esp, const struct rc_frame *f,
                   unsigned access, u32 ss_error) {
    u32 total = f->count * f->bytes;
    u32 low = *esp - total;
    u8 *p = NULL;
    if (likely((ss->attr & ATTR_DB) && !rc_frame_checked(cpu)) &&
        (rc_segment_is_unlimited(ss) || rc_in_limit(ss, low, total)))
        p = rc_host(cpu, ss->base + low, total, access | MMU_WRITE);
    if (unlikely(!p))
        return push_frame_slow(cpu, ss, esp, f, access, ss_error);
    p += total;
    for (unsigned i = 0; i < f->count; i++)
        store_slot(p -= f->bytes, f->bytes, f->slot[i]);
    *esp = low;
    return true;
}

static bool read_slot(struct cpu *cpu, u32 offset, unsigned bytes, u32 *value) {
    const struct segment *ss = &cpu->seg[SEG_SS];
    u32 raw = 0;
    if (!rc_segment_is_unlimited(ss) && !rc_in_limit(ss, offset, bytes))
        return cpu_fault_error(cpu, VEC_SS, 0);
    if (!rc_frame_aligned(cpu, ss->base + offset, bytes, 0) ||
        !mmu_read(cpu, ss->base + offset, &raw, bytes, MMU_READ))
        return false;
    rc_frame_watched(cpu, ss->base + offset, bytes, false);
    *value = raw;
    return true;
}

bool rc_peek_frame(struct cpu *cpu, u32 skip, unsigned count, unsigned bytes, u32 *slot) {
    const struct segment *ss = &cpu->seg[SEG_SS];
    u32 mask = rc_stack_mask(ss), esp = (u32)cpu->gpr[R_ESP] + skip;
    if (likely(bytes == 4 && mask == 0xffffffffu && rc_segment_is_unlimited(ss) &&
               !rc_frame_checked(cpu))) {
        const u8 *p = rc_host(cpu, ss->base + esp, count * 4, MMU_READ);
        if (likely(p != NULL)) {
            for (unsigned i = 0; i < count; i++)
                slot[i] = load32(p + i * 4);
            return true;
        }
    }
    for (unsigned i = 0; i < count; i++)
        if (!read_slot(cpu, (esp + i * bytes) & mask, bytes, &slot[i]))
            return false;
    return true;
}

bool rc_push(struct cpu *cpu, u32 value, unsigned bytes) {
    const struct segment *ss = &cpu->seg[SEG_SS];
    u32 esp = (u32)cpu->gpr[R_ESP], offset = (esp - bytes) & rc_stack_mask(ss);
    if (!rc_segment_is_unlimited(ss) && !rc_in_limit(ss, offset, bytes))
        return cpu_fault_error(cpu, VEC_SS, 0);
    u8 *p = rc_host(cpu, ss->base + offset, bytes, MMU_WRITE);
    if (likely(p != NULL))
        store_slot(p, bytes, value);
    else if (!mmu_write(cpu, ss->base + offset, &value, bytes, MMU_WRITE))
        return false;
    cpu->gpr[R_ESP] = rc_stack_pointer(ss, esp, offset);
    return true;
}

bool rc_pop(struct cpu *cpu, u32 *value, unsigned bytes) {
    const struct segment *ss = &cpu->seg[SEG_SS];
    u32 esp = (u32)cpu->gpr[R_ESP];
    if (!rc_peek_frame(cpu, 0, 1, bytes, value))
        return false;
    cpu->gpr[R_ESP] = rc_stack_pointer(ss, esp, esp + bytes);
    return true;
}

/* ---- Stack switching: SDM volume 3, section 5.8.5 "Stack Switching" ---- */

/* Reads SS:ESP of a ring from the current TSS, 32-bit or 16-bit. */
static inline bool read_tss_stack(struct cpu *cpu, unsigned dpl, u32 ext, u16 *ss, u32 *esp) {
    const struct segment *tr = &cpu->seg[SEG_TR];
    if (unlikely(tr->attr & ATTR_NULL))
        return rc_fault_selector(cpu, VEC_TS, tr->selector, ext);
    u64 raw;
    if (likely(tr->attr & SYS_32)) {
        u32 offset = 4 + dpl * 8;
        if (unlikely(offset + 7 > tr->limit))
            return rc_fault_selector(cpu, VEC_TS, tr->selector, ext);
        if (unlikely(!rc_read_sys(cpu, tr->base + offset, &raw, 8)))
            return false;
        *esp = (u32)raw;
        *ss = (u16)(raw >> 32);
        return true;
    }
    u32 offset = 2 + dpl * 4;
    if (offset + 3 > tr->limit)
        return rc_fault_selector(cpu, VEC_TS, tr->selector, ext);
    if (!rc_read_sys(cpu, tr->base + offset, &raw, 4))
        return false;
    *esp = (u16)raw;
    *ss = (u16)(raw >> 16);
    return true;
}

bool rc_inner_stack(struct cpu *cpu, unsigned dpl, u32 ext, struct rc_stack *out) {
    struct rc_desc d;
    u16 selector;
    if (unlikely(!read_tss_stack(cpu, dpl, ext, &selector, &out->esp)))
        return false;
    if (unlikely(rc_null(selector)))
        return cpu_fault_error(cpu, VEC_TS, ext);
    if (unlikely(!rc_fetch(cpu, selector, VEC_TS, ext, &d)))
        return false;
    u32 attr = rc_desc_attr(&d);
    if (unlikely((selector & 3u) != dpl || rc_attr_dpl(attr) != dpl ||
                 !rc_attr_is_writable_data(attr)))
        return rc_fault_selector(cpu, VEC_TS, selector, ext);
    if (unlikely(!(attr & ATTR_P)))
        return rc_fault_selector(cpu, VEC_SS, selector, ext);
    if (unlikely(!rc_set_accessed(cpu, &d)))
        return false;
    rc_fill_desc(&out->ss, selector, &d);
    return true;
}
