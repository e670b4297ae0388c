/*
 * test_hostile_tables.c: random descriptors, gates, TSSs, stacks and page rights, and random
 * operations on them. Whatever the guest built: a failed operation changes nothing (but for what a
 * task switch did before its point of no return), and a successful one leaves privilege consistent.
 */
#include "rc_fixture.h"

#include <stdio.h>

#define ROUNDS 400000u

static u64 seed = 0x9e3779b97f4a7c15ull;
static u32 random32(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 16);
}
static bool one_in(u32 n) {
    return random32() % n == 0;
}
static u16 random_selector(void) {
    static const u16 good[] = {KCODE,     KDATA,      UCODE,   UDATA,  CODE1 | 1,
                               DATA1 | 1, CONFORMING, STACK16, CODE16, EXPAND_DOWN};
    if (one_in(3))
        return (u16)(random32() % (GDT_END + 16));
    return good[random32() % ARRAY_LEN(good)] | (one_in(8) ? random32() & 7 : 0);
}
static u32 random_address(void) {
    return one_in(8) ? random32() : random32() % 0xd000;
}

/* One random change to a table, a TSS, a stack or a page's rights. */
static void disturb(struct cpu *cpu) {
    u32 gdt_slot = GDT + 8 + 8 * (random32() % 23), tss = one_in(2) ? TSS_A : TSS_B;
    switch (random32() % 9) {
    case 0:
        put_desc(cpu->mmu, gdt_slot, one_in(2) ? 0 : random_address(),
                 one_in(2) ? FLAT_LIMIT : random32() & 0xffff, random32() & 0x70ff);
        break;
    case 1:
        put_gate(cpu->mmu, gdt_slot, random32() & 15, random32() & 3, random_selector(),
                 random_address(), random32() & 31);
        break;
    case 2:
    case 3:
        put_gate(cpu->mmu, IDT + 8 * (random32() & 255), one_in(4) ? random32() & 15 : 14,
                 random32() & 3, random_selector(), random_address(), 0);
        break;
    case 4:
        poke32(cpu, tss + (random32() % 26) * 4, one_in(2) ? random_selector() : random_address());
        break;
    case 5:
        poke32(cpu, STACK0 - 64 + (random32() % 32) * 4,
               one_in(2) ? random_selector() : random32());
        break;
    case 6:
        set_page(cpu, random32() % 0xd000, one_in(3) ? random32() & 7 : 7);
        break;
    case 7:
        set_page(cpu, GDT, 7);
        set_page(cpu, IDT, 7);
        set_page(cpu, STACK0 - 4, 7);
        break;
    default:
        put_gdt(cpu->mmu);
    }
}

/* TSS_B as a task that can run. */
static u8 task_template[104]; /* constant once made */
static void make_task_template(void) {
    store32(task_template + 0x1c, PAGE_DIRECTORY);
    store32(task_template + 0x24, F_FIXED);
    store32(task_template + 0x38, STACK1);
    for (unsigned s = 0; s < 6; s++)
        store32(task_template + 0x48 + 4 * s, s == SEG_CS ? KCODE : KDATA);
}

/* Brings the CPU to a random but architecturally possible state. */
static void restart(struct cpu *cpu) {
    put_gdt(cpu->mmu);
    poke32(cpu, PAGE_DIRECTORY, PAGE_TABLE | 7); /* a stray stack may have hit the page tables */
    for (u32 page = 0; page < 512; page++)
        poke32(cpu, PAGE_TABLE + 4 * page, page << 12 | 7);
    mmu_softtlb_flush(cpu);
    if (one_in(32))
        for (unsigned v = 0; v < 256; v++)
            put_gate(cpu->mmu, IDT + 8 * v, v == VEC_DF ? 5 : 14, 3, v == VEC_DF ? TASK_B : KCODE,
                     HANDLER, 0);
    if (one_in(4))
        memcpy(ram(cpu, TSS_B), task_template, sizeof task_template);
    cpu->shutdown = cpu->halted = false;
    cpu->eflags = F_FIXED;
    cpu->dr[7] = 0x400;
    cpu->gdtr.limit = GDT_END - 1;
    cpu->idtr.limit = one_in(8) ? random32() & 0x7ff : 0x7ff;
    cpu->cr0 = (cpu->cr0 | CR0_PE) & ~CR0_TS;
    cpu->cr4 = (cpu->cr4 & ~(u32)(CR4_VME | CR4_PVI)) | (random32() & (CR4_VME | CR4_PVI));
    cpu->cpl = 0;
    if (cpu->cr3 != PAGE_DIRECTORY)
        assert_true(rc_write_cr(cpu, 3, PAGE_DIRECTORY));
    assert_true(rc_ltr(cpu, TASK_A));
    assert_true(rc_lldt(cpu, LDT_SEL));
    enter_ring(cpu, one_in(2) ? 3 : 0);
    cpu->eflags = (random32() & F_ALL & ~(F_VM | (one_in(4) ? 0 : F_NT))) | F_FIXED;
    if (one_in(6)) {
        cpu->eflags = (cpu->eflags & ~F_NT) | F_VM;
        cpu->cpl = 3;
        for (unsigned s = SEG_ES; s <= SEG_GS; s++)
            rc_load_segment(cpu, s, (u16)(random32() & 0xfff));
    }
    cpu->gpr[R_ESP] = one_in(4) ? random_address() : STACK0 - 64;
}

static bool operate(struct cpu *cpu) {
    bool ok;
    u32 value;
    u8 vector = (u8)random32();
    unsigned op_bytes = one_in(3) ? 2 : 4;
    switch (random32() % 12) {
    case 0:
        return rc_load_segment(
            cpu, (const enum seg[]){SEG_ES, SEG_SS, SEG_DS, SEG_FS, SEG_GS}[random32() % 5],
            random_selector());
    case 1:
        return rc_far_jump(cpu, random_selector(), random_address(), op_bytes, 1);
    case 2:
        return rc_far_call(cpu, random_selector(), random_address(), op_bytes, 1);
    case 3:
        return rc_far_return(cpu, op_bytes, random32() & 31);
    case 4:
    case 5:
        return rc_iret(cpu, op_bytes, 1);
    case 6:
        return rc_deliver(cpu, vector, (enum rc_event)(random32() % 6), one_in(2), 0x18, 1);
    case 7:
        return rc_lar(cpu, random_selector(), &ok, &value);
    case 8:
        return rc_push(cpu, 1, op_bytes);
    case 9:
        return one_in(2) ? rc_sysenter(cpu) : rc_sysexit(cpu);
    case 10:
        return rc_check_io(cpu, (u16)random32(), 4);
    default:
        return rc_popf(cpu, random32(), op_bytes);
    }
}

static void assert_privilege_is_consistent(const struct cpu *cpu) {
    const struct segment *cs = &cpu->seg[SEG_CS], *ss = &cpu->seg[SEG_SS];
    if (cpu_v86(cpu)) {
        assert_int_equal(cpu->cpl, 3);
        assert_int_equal(cs->base, (u32)cs->selector << 4);
        return;
    }
    assert_int_equal(cs->selector & 3, cpu->cpl);
    assert_int_equal(ss->selector & 3, cpu->cpl);
    assert_int_equal(ss->attr >> ATTR_DPL_SHIFT & 3, cpu->cpl);
    assert_true(cs->attr & ATTR_CODE);
    assert_false(cs->attr & ATTR_NULL);
    for (unsigned s = SEG_ES; s <= SEG_GS; s++) {
        bool conforming = (cpu->seg[s].attr & (ATTR_CODE | ATTR_C)) == (ATTR_CODE | ATTR_C);
        if (s != SEG_CS && s != SEG_SS && !(cpu->seg[s].attr & ATTR_NULL) && !conforming)
            assert_true((cpu->seg[s].attr >> ATTR_DPL_SHIFT & 3u) >= cpu->cpl);
    }
    assert_true(cpu->eflags & F_FIXED);
    assert_int_equal(cpu->eflags & ~(u32)F_ALL, 0);
}

static void no_table_breaks_atomicity_or_privilege(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    unsigned done = 0, failed = 0, switched = 0, shutdowns = 0;
    make_task_template();
    enable_paging(cpu);
    for (u32 i = 0; i < ROUNDS; i++) {
        restart(cpu);
        for (u32 n = random32() % 6; n > 0; n--)
            disturb(cpu);
        struct cpu before = snapshot(cpu);
        bool ok = operate(cpu);
        bool task = cpu->cr0 & CR0_TS; /* only a task switch sets it here */
        switched += task;
        if (ok) {
            done++;
            assert_privilege_is_consistent(cpu);
            continue;
        }
        failed++;
        if (!task) {
            before.nmi_blocked = cpu->nmi_blocked;
            assert_unchanged(cpu, &before);
        }
        rc_deliver_fault(cpu);
        if (cpu->shutdown)
            shutdowns++;
        else
            assert_privilege_is_consistent(cpu);
    }
    printf("  %u done, %u failed, %u task switches, %u shutdowns\n", done, failed, switched,
           shutdowns);
    assert_true(done > ROUNDS / 10 && failed > ROUNDS / 10 && switched > 100 && shutdowns > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(no_table_breaks_atomicity_or_privilege),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
