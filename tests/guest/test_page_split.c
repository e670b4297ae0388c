/*
 * Accesses that lie on two pages: both are looked at before a byte is written, reads set A in both
 * and D in none, writes set A and D in both; read-modify-write and a compare-exchange that fails
 * count as writes (SDM volume 2, "CMPXCHG": the destination receives a write cycle in any case),
 * and so do pushes of far transfers. A REP string instruction that faults has done what its
 * registers say. SDM volume 3A, section 4.8 "Accessed and Dirty Flags"; volume 1, section 7.3.9.3
 * "Repeated String Operations".
 * Expected: the flags as tabled; after a fault on the second page memory and registers as before,
 * its entry without A and D, CR2 at its first byte. (Whether a fault leaves D in the first page's
 * entry the manual does not say: not looked at.)
 */
#include "guest.h"

enum { AREA = 0x30000000, SECOND = AREA + 4096, NONE = 0, READ = PT_A, WRITTEN = PT_A | PT_D };
#define ALL (PT_P | PT_W | PT_U)
CODE(load, "mov (%ecx),%eax" DONE);
CODE(load2, "movzwl 1(%ecx),%eax" DONE);
CODE(compare, "cmp %edx,(%ecx)" DONE);
CODE(bit_test, "btl $31,(%ecx)" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(store2, "mov %dx,1(%ecx)" DONE);
CODE(add, "add %edx,(%ecx)" DONE);
CODE(add_zero, "addl $0,(%ecx)" DONE);
CODE(locked, "lock add %edx,(%ecx)" DONE);
CODE(exchange, "xchg %edx,(%ecx)" DONE);
CODE(exchange_add, "lock xadd %edx,(%ecx)" DONE);
CODE(cmpxchg_fails, "mov $0x55aa55aa,%eax; cmpxchg %edx,(%ecx)" DONE);
CODE(cmpxchg_locked_fails, "mov $0x55aa55aa,%eax; lock cmpxchg %edx,(%ecx)" DONE);
CODE(cmpxchg8b_fails, "mov $0x55aa55aa,%eax; mov %eax,%edx; cmpxchg8b -2(%ecx)" DONE);
CODE(bit_set, "btsl $31,(%ecx)" DONE);
CODE(shift_by_0, "push %ecx; mov %ecx,%edx; xor %ecx,%ecx; roll %cl,(%edx); pop %ecx" DONE);
CODE(sse_load, "movups -6(%ecx),%xmm0" DONE);
CODE(sse_store, "movups %xmm0,-6(%ecx)" DONE);
CODE(fpu_store, "fldz; fstpt -4(%ecx)" DONE);
CODE(push_it, "mov %esp,%ebp; lea 4(%ecx),%esp; push %edx; mov %ebp,%esp" DONE);
CODE(push_all, "mov %esp,%ebx; lea 18(%ecx),%esp; pusha; mov %ebx,%esp" DONE);
CODE(pop_all, "mov %esp,scratch+16384; lea -14(%ecx),%esp; popa; mov scratch+16384,%esp" DONE);
CODE(frame, "mov %esp,%ebx; lea 8(%ecx),%esp; enter $0,$0; push %edx; mov %ebx,%esp" DONE);
CODE(far_call, "mov %esp,%ebp; lea 6(%ecx),%esp; lcall *(%edx); mov %ebp,%esp" DONE);
CODE(far_target, "lret");
CODE(near_call, "mov %esp,%ebp; lea 4(%ecx),%esp; call *(%edx); mov %ebp,%esp" DONE);
CODE(near_target, "ret");
CODE(move_out, "cld; lea -8(%ecx),%edi; mov %edx,%esi; mov $16,%ecx; rep movsb" DONE);
CODE(move_in, "cld; lea -8(%ecx),%esi; mov %edx,%edi; mov $16,%ecx; rep movsb" DONE);
CODE(fill, "cld; lea -8(%ecx),%edi; mov $0xee,%eax; mov $16,%ecx; rep stosb" DONE);
CODE(fill_words, "cld; lea -9(%ecx),%edi; mov $0xeeeeeeee,%eax; mov $4,%ecx; rep stosl" DONE);
CODE(fill_none, "cld; mov %ecx,%edi; xor %ecx,%ecx; rep stosl" DONE);

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) target;
static u32 elsewhere[16];

static void clear(void) {
    *pte(AREA) = SCRATCH | ALL;
    *pte(SECOND) = (SCRATCH + 8192) | ALL;
    write_cr3(read_cr3());
}
static u32 at(u32 ring, const u8 *code, u32 edx) {
    reset_run(ring);
    in.ecx = AREA + 4094;
    in.edx = edx;
    return run(ring, code);
}

struct row {
    const u8 *code;
    u32 first, second; /* A and D afterwards */
    u32 edx;
    bool reads_first; /* QEMU, also as a carrier, makes the read of a read-modify-write first */
    bool moves_esp;   /* a fault at ring 0 would have no stack */
};
static const struct row rows[] = {
    {load, READ, READ, 0, 0, 0},
    {load2, NONE, READ, 0, 0, 0}, /* begins at 4095 */
    {compare, READ, READ, 0, 0, 0},
    {bit_test, READ, READ, 0, 0, 0},
    {store, WRITTEN, WRITTEN, 0x1234, 0, 0},
    {store2, NONE, WRITTEN, 0x1234, 0, 0},
    {add, WRITTEN, WRITTEN, 1, true, 0},
    {add_zero, WRITTEN, WRITTEN, 0, true, 0},
    {locked, WRITTEN, WRITTEN, 1, true, 0},
    {exchange, WRITTEN, WRITTEN, 1, true, 0},
    {exchange_add, WRITTEN, WRITTEN, 1, true, 0},
    {cmpxchg_fails, WRITTEN, WRITTEN, 1, true, 0},
    {cmpxchg_locked_fails, WRITTEN, WRITTEN, 1, true, 0},
    {cmpxchg8b_fails, WRITTEN, WRITTEN, 1, true, 0},
    {bit_set, WRITTEN, WRITTEN, 0, true, 0},
    {sse_load, READ, READ, 0, 0, 0},
    {sse_store, WRITTEN, WRITTEN, 0, 0, 0},
    {fpu_store, WRITTEN, WRITTEN, 0, 0, 0},
    {push_it, WRITTEN, WRITTEN, 1, 0, true},
    {push_all, WRITTEN, WRITTEN, 1, 0, true},
    {pop_all, READ, READ, 1, 0, true},
    {frame, WRITTEN, WRITTEN, 1, 0, true},
    {far_call, WRITTEN, WRITTEN, (u32)&target, 0, true},
    {near_call, WRITTEN, WRITTEN, (u32)&target, 0, true},
    {move_out, WRITTEN, WRITTEN, (u32)elsewhere, 0, 0},
    {move_in, READ, READ, (u32)elsewhere, 0, 0},
    {fill, WRITTEN, WRITTEN, 0, 0, 0},
    {fill_words, WRITTEN, WRITTEN, 0, 0, 0},
    {fill_none, NONE, NONE, 0, 0, 0},
};

static void aim(const u8 *code, u32 ring) {
    target.offset = (u32)(code == far_call ? far_target : near_target);
    target.selector = ring ? USER_CODE : KERNEL_CODE;
}

static void flags_of_both(u32 ring, const struct row *r) {
    aim(r->code, ring);
    clear();
    u32 second = r->second;
    EQ(at(ring, r->code, r->edx), V_DONE);
    EQ(*pte(SECOND) & (PT_A | PT_D), second);
    /* 4095 is on the first page. */
    u32 first = r->first == NONE && second != NONE ? second : r->first;
    EQ(*pte(AREA) & (PT_A | PT_D), first);
    EQ(at(ring, r->code, r->edx), V_DONE); /* and again, with the pages known */
    EQ(*pte(AREA) & (PT_A | PT_D), first);
    EQ(*pte(SECOND) & (PT_A | PT_D), second);
}

/* The second page refuses: not there, read-only, the supervisor's. */
static void second_page_refuses(u32 ring, const struct row *r) {
    static const u32 states[] = {PT_W | PT_U, PT_P | PT_U, PT_P | PT_W};
    bool writes = r->second == WRITTEN;
    if (is_tcg() && r->code == far_call)
        return; /* QEMU pushes with the rights of ring 0 */
    for (u32 i = 0; i < 3; i++) {
        if ((i == 1 && !writes) || (i == 2 && !ring) || r->second == NONE ||
            (r->moves_esp && !ring))
            continue;
        clear();
        for (u32 k = 0; k < 16; k++)
            scratch[4080 + k] = (u8)(0xa0 + k), scratch[8192 + k] = (u8)(0xb0 + k);
        *pte(SECOND) = (SCRATCH + 8192) | states[i];
        write_cr3(read_cr3());
        u32 error = (i ? 1 : 0) | (writes ? 2 : 0) | (ring ? 4 : 0);
        EQ(at(ring, r->code, r->edx), V_PF);
        u32 mask = is_tcg() && r->reads_first ? ~2u : ~0u;
        EQ(trap.error & mask, error & mask);
        EQ(r->moves_esp ? trap_cr2 & ~0xfffu : trap_cr2, SECOND);
        EQ(*pte(SECOND) & (r->reads_first ? PT_D : PT_A | PT_D), 0);
        bool rep = r->code == move_out || r->code == fill || r->code == fill_words;
        for (u32 k = 0; k < 16; k++) {
            /* PUSHA and the REPs write one element after the other. */
            if (!rep && r->code != push_all && !is_tcg())
                EQ(scratch[4080 + k], 0xa0 + k);
            EQ(scratch[8192 + k], 0xb0 + k);
        }
        if (r->code == fill || r->code == move_out) {
            EQ(trap.edi, SECOND);
            EQ(trap.ecx, 6);
            EQ(scratch[4095], r->code == fill ? 0xee : ((u8 *)elsewhere)[9]);
        }
        if (r->code == fill_words) { /* from 4085 on; the element that straddles is not begun */
            EQ(trap.edi, AREA + 4093);
            EQ(trap.ecx, 2);
        }
    }
}

void test(void) {
    write_cr4(read_cr4() | CR4_OSFXSR);
    paging_prepare();
    pte(AREA);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 i = 0; i < 16; i++)
        elsewhere[i] = 0x01020304 * (i + 1);
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            u32 before = option("verbose", 0);
            if (before)
                print_dec(i), print("\n");
            flags_of_both(ring, &rows[i]);
            aim(rows[i].code, ring);
            second_page_refuses(ring, &rows[i]);
        }
    /* A rotate by 0 on memory reads; whether it also writes is the implementation's business. */
    clear();
    EQ(at(0, shift_by_0, 0), V_DONE);
    EQ(*pte(SECOND) & PT_A, PT_A);
    __asm__ volatile("fninit");
    paging_off();
}
