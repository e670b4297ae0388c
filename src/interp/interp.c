/*
 * interp.c: fetch, decode cache and the loop.
 *
 * The decode cache is keyed by linear address and mode. Invariant: a cached instruction is executed
 * only after its bytes were compared, this very time, with those in memory, so that self-modifying
 * code, remapping and DMA need no notification, and the next instruction is seen changed whatever
 * changed it. The bytes are found through the soft TLB for fetches, which like a processor's knows
 * of remapping by the architectural flushes.
 *
 * Whatever is rare (single-step, breakpoints, RF, interrupt shadow, alignment checks) runs in
 * step_careful; the loop itself only asks whether any of it is in force.
 */
#include "interp/interp_internal.h"

#include <stdlib.h>

struct interp *interp_create(void) {
    struct interp *it = calloc(1, sizeof *it);
    if (!it)
        return NULL;
    it->cache = calloc(DECODE_ENTRIES, sizeof *it->cache);
    it->fp = hostfp_create();
    if (!it->cache || !it->fp) {
        interp_destroy(it);
        return NULL;
    }
    it->rep_budget = REP_CHUNK;
    return it;
}

void interp_destroy(struct interp *it) {
    if (!it)
        return;
    if (it->fp)
        hostfp_destroy(it->fp);
    free(it->cache);
    free(it);
}

const struct interp_counters *interp_counters(const struct interp *it) {
    return &it->count;
}

/* ---- Fetch ---- */

/* Key of a cache slot: linear address, CS.D, SS.B and a bit that no empty slot has. */
static inline u64 decode_key(const struct cpu *cpu, u32 lin) {
    return lin | (u64)(cpu->seg[SEG_CS].attr & ATTR_DB) << 20 |
           (u64)(cpu->seg[SEG_SS].attr & ATTR_DB) << 21 | BIT64(40);
}
static inline struct decoded *decode_slot(struct interp *it, u32 lin) {
    return &it->cache[(lin ^ (lin / DECODE_ENTRIES)) % DECODE_ENTRIES];
}

/* Whether the 16 bytes at code begin with those of the instruction. */
static inline bool same_bytes(const struct insn *in, const u8 *code) {
    unsigned n = in->length;
    u64 low = load64(code) ^ load64(in->bytes);
    if (likely(n <= 8))
        return low << (64 - 8 * n) == 0;
    u64 high = load64(code + 8) ^ load64(in->bytes + 8);
    return (low | high << (128 - 8 * n)) == 0;
}

/* Bytes of code at eip: as far as page and CS limit reach. */
struct code_bytes {
    u8 byte[16];
    unsigned count;
};

/* Appends what lies at lin + count, up to `limit` bytes in all and the end of that page. */
static bool fetch_more(struct cpu *cpu, u32 lin, unsigned limit, struct code_bytes *code) {
    u32 at = lin + code->count;
    unsigned n = MIN(limit - code->count, PAGE_BYTES - (at & PAGE_OFFSET_MASK));
    if (!mmu_read(cpu, at, code->byte + code->count, n, MMU_FETCH))
        return false;
    code->count += n;
    return true;
}

static struct decoded *fetch_failed(struct cpu *cpu, enum insn_status status) {
    if (status == INSN_INVALID)
        cpu_fault(cpu, VEC_UD);
    else /* longer than 15 bytes, or beyond the CS limit */
        cpu_fault_error(cpu, VEC_GP, 0);
    return NULL;
}

/* Fetch and decode without the short cuts. NULL: cpu->fault. */
static __attribute__((noinline)) struct decoded *fetch_slow(struct interp *it, struct cpu *cpu,
                                                            u32 lin) {
    u64 key = decode_key(cpu, lin), room = (u64)cpu->seg[SEG_CS].limit + 1;
    struct decoded *slot = decode_slot(it, lin);
    struct code_bytes code = {.count = 0};
    bool code32 = cpu->seg[SEG_CS].attr & ATTR_DB, stack32 = cpu->seg[SEG_SS].attr & ATTR_DB;
    it->count.slow_fetches++;
    if (cpu->eip >= room)
        return fetch_failed(cpu, INSN_MORE);
    unsigned limit = (unsigned)MIN(room - cpu->eip, (u64)INSN_MAX_BYTES);
    enum insn_status status = INSN_MORE;
    while (status == INSN_MORE && code.count < limit) {
        if (!fetch_more(cpu, lin, limit, &code))
            return NULL;
        /* As far as there are bytes they are the cached ones: the next page may hold the rest. */
        bool known = slot->key == key &&
                     memcmp(slot->insn.bytes, code.byte, MIN(slot->insn.length, code.count)) == 0;
        if (known && slot->insn.length <= code.count)
            return slot;
        if (known && code.count < limit)
            continue;
        it->count.decodes++;
        status = insn_decode(&it->scratch, code.byte, code.count, code32, stack32);
    }
    if (status != INSN_OK)
        return fetch_failed(cpu, status);
    slot->key = key;
    slot->insn = it->scratch;
    slot->exec = interp_bind(cpu, &slot->insn);
    return slot;
}

/* The decoded instruction at eip. NULL: cpu->fault. */
static inline struct decoded *fetch(struct interp *it, struct cpu *cpu) {
    u32 lin = cpu->seg[SEG_CS].base + cpu->eip, offset = lin & PAGE_OFFSET_MASK;
    struct decoded *slot = decode_slot(it, lin);
    const struct softtlb_entry *e =
        &cpu->mmu->tlb[SOFTTLB_FETCH + (cpu->cpl == 3)].entry[softtlb_index(lin)];
    if (likely(slot->key == decode_key(cpu, lin) && softtlb_hit(e->fetch_tag, lin, 16) &&
               (u64)cpu->eip + INSN_MAX_BYTES <= cpu->seg[SEG_CS].limit &&
               same_bytes(&slot->insn, e->host + offset)))
        return slot;
    return fetch_slow(it, cpu, lin);
}

/* ---- Execution ---- */

/* Moves eip and counts, as the outcome says. */
static inline enum interp_result retire(struct cpu *cpu, const struct insn *in, enum ex outcome) {
    switch (outcome) {
    case EX_NEXT:
    case EX_SYNC:
        cpu->eip += in->length;
        cpu->insn_count++;
        return INTERP_OK;
    case EX_JUMP:
        cpu->insn_count++;
        return INTERP_OK;
    case EX_DELIVERED:
    case EX_INT:
        cpu->insn_count++;
        return INTERP_DELIVERED;
    case EX_HALT:
        cpu->eip += in->length;
        cpu->insn_count++;
        return INTERP_HALT;
    case EX_FREEZE:
        return INTERP_HALT;
    case EX_REP_MORE:
        /* What comes now pushes RF set: SDM volume 3, section 17.3.1.1. */
        cpu->eflags |= F_RF;
        return INTERP_REP_MORE;
    default:
        return INTERP_FAULT;
    }
}

/* True when the next instruction must go through step_careful. */
static inline bool needs_care(const struct cpu *cpu) {
    return unlikely(cpu->shadow | (cpu->dr[7] & DR7_ANY_ENABLE) |
                    (cpu->eflags & (F_TF | F_RF | F_AC | F_VIP)));
}

/* Raises the #DB that ends an instruction; eip is already behind it. */
static enum interp_result debug_trap(struct cpu *cpu, u32 dr6_bits) {
    cpu->dr[6] |= dr6_bits;
    cpu->halted = false;
    cpu_fault(cpu, VEC_DB);
    return INTERP_FAULT;
}

/* What is raised instead of the instruction: the data breakpoints that waited, or else a breakpoint
 * on it. MOV SS holds both back. SDM volume 3, table 6-2 "Priority Among Simultaneous Exceptions
 * and Interrupts". */
static bool debug_before(struct cpu *cpu, u32 *dr6_bits) {
    *dr6_bits = 0;
    if (cpu->shadow & SHADOW_SS)
        return false;
    if (cpu->shadow & SHADOW_DEBUG) {
        *dr6_bits = cpu->shadow >> SHADOW_DEBUG_SHIFT;
        cpu->shadow &= (u8)~SHADOW_DEBUG;
    } else if ((cpu->dr[7] & DR7_ANY_ENABLE) && !(cpu->eflags & F_RF)) {
        *dr6_bits = rc_debug_hits(cpu, cpu->seg[SEG_CS].base + cpu->eip, 1, RC_DR_EXEC);
    }
    return *dr6_bits;
}

/* Takes back what the start of an instruction changed, for it did not come to its end; but a task
 * switch that failed late has left RF and shadow as they are in the new task. */
static void undo_start(struct cpu *cpu, u16 task, u32 flags, u8 shadow) {
    if (cpu->seg[SEG_TR].selector != task)
        return;
    cpu->eflags |= flags & F_RF;
    cpu->shadow = shadow;
}

/* In front of an x87 instruction that waits for an interrupt. */
static enum interp_result frozen(struct cpu *cpu, u32 flags, u8 shadow) {
    cpu->eflags |= flags & F_RF;
    cpu->shadow = 0;
    if (shadow & SHADOW_DEBUG)
        return debug_trap(cpu, shadow >> SHADOW_DEBUG_SHIFT);
    return INTERP_HALT;
}

/* The traps of an instruction that is done: data breakpoints, single step. After one that loads SS
 * the former wait for the next instruction, whose own single step takes the place of this one. */
static enum interp_result debug_after(struct cpu *cpu, u32 hits, bool single_step,
                                      enum interp_result result) {
    hits |= cpu->shadow >> SHADOW_DEBUG_SHIFT;
    cpu->shadow &= (u8)~SHADOW_DEBUG;
    if (cpu->shadow & SHADOW_SS) {
        cpu->shadow |= (u8)(hits << SHADOW_DEBUG_SHIFT);
        return result;
    }
    u32 dr6_bits = hits | (single_step ? DR6_BS : 0);
    return dr6_bits ? debug_trap(cpu, dr6_bits) : result;
}

/* One instruction with single-stepping, breakpoints, RF, shadow and alignment checks. SDM volume 3,
 * sections 17.3.1 "Debug Exception" and 6.8.3 "Masking Exceptions and Interrupts When Switching
 * Stacks". */
static __attribute__((noinline)) enum interp_result step_careful(struct interp *it,
                                                                 struct cpu *cpu) {
    const u32 flags = cpu->eflags;
    const u16 task = cpu->seg[SEG_TR].selector;
    const bool single_step = flags & F_TF, armed = cpu->dr[7] & DR7_ANY_ENABLE;
    u32 dr6_bits;
    if (debug_before(cpu, &dr6_bits))
        return debug_trap(cpu, dr6_bits);
    const u8 shadow = cpu->shadow;
    if (rc_virtual_interrupt_due(cpu)) {
        cpu_fault_error(cpu, VEC_GP, 0);
        return INTERP_FAULT;
    }
    struct decoded *d = fetch(it, cpu);
    if (!d)
        return INTERP_FAULT;
    it->count.careful_steps++;
    it->shadow_before = shadow;
    it->watch_hits = 0;
    it->checks = (armed ? CHECK_WATCH : 0) | (rc_alignment_checked(cpu) ? CHECK_ALIGN : 0);
    if (single_step || armed)
        it->rep_budget = 1;
    cpu->shadow = shadow & SHADOW_DEBUG;
    cpu->eflags &= ~(u32)F_RF;
    enum ex outcome = d->exec(it, cpu, &d->insn);
    it->shadow_before = 0;
    it->checks = 0;
    it->rep_budget = REP_CHUNK;
    enum interp_result result = retire(cpu, &d->insn, outcome);
    if (outcome == EX_FREEZE) /* no shadow may keep the CPU from waking up */
        return frozen(cpu, flags, shadow);
    if (result == INTERP_FAULT) {
        undo_start(cpu, task, flags, shadow);
        return result;
    }
    return debug_after(cpu, it->watch_hits, single_step && outcome != EX_INT, result);
}

enum interp_result interp_step(struct interp *it, struct cpu *cpu) {
    if (needs_care(cpu))
        return step_careful(it, cpu);
    struct decoded *d = fetch(it, cpu);
    if (!d)
        return INTERP_FAULT;
    return retire(cpu, &d->insn, d->exec(it, cpu, &d->insn));
}

enum interp_result interp_run(struct interp *it, struct cpu *cpu, u64 max_insns,
                              const volatile u32 *stop) {
    static const u32 never;
    const u64 end = cpu->insn_count + max_insns;
    if (!stop)
        stop = &never;
    while (cpu->insn_count < end && !*stop) {
        /* The engine looks again after each of these: an interrupt may be due when a shadow ends.
         */
        if (needs_care(cpu))
            return step_careful(it, cpu);
        struct decoded *d = fetch(it, cpu);
        if (unlikely(!d))
            return INTERP_FAULT;
        enum ex outcome = d->exec(it, cpu, &d->insn);
        if (likely(outcome <= EX_JUMP)) {
            cpu->eip += outcome == EX_NEXT ? d->insn.length : 0;
            cpu->insn_count++;
            continue;
        }
        return retire(cpu, &d->insn, outcome);
    }
    return INTERP_OK;
}
