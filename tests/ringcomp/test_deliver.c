/* test_deliver.c: interrupts and exceptions through IVT and IDT, and faults while delivering. */
#include "rc_fixture.h"

static struct cpu *boot(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    for (unsigned v = 0; v < 256; v++)
        put_gate(cpu->mmu, IDT + 8 * v, 14, 0, KCODE, HANDLER + v, 0);
    put_gate(cpu->mmu, IDT + 8 * 0x80, 15, 3, KCODE, HANDLER, 0);
    return cpu;
}

static void software_interrupt_from_ring_3_switches_stack(void **state) {
    struct cpu *cpu = boot(state);
    enter_ring(cpu, 3);
    cpu->eflags = F_FIXED | F_IF | F_ZF | F_TF | F_AC;
    assert_true(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002));
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->eip, HANDLER);
    assert_int_equal(cpu->seg[SEG_CS].selector, KCODE);
    assert_int_equal(cpu->seg[SEG_SS].selector, KDATA);
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 20);
    assert_int_equal(peek32(cpu, STACK0 - 4), UDATA);
    assert_int_equal(peek32(cpu, STACK0 - 8), STACK3);
    assert_int_equal(peek32(cpu, STACK0 - 12), F_FIXED | F_IF | F_ZF | F_TF | F_AC);
    assert_int_equal(peek32(cpu, STACK0 - 16), UCODE);
    assert_int_equal(peek32(cpu, STACK0 - 20), 0x1002);
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_ZF | F_AC); /* a trap gate leaves IF */
    assert_int_equal(cpu->seg[SEG_DS].selector, UDATA);
}

static void interrupt_gate_in_the_same_ring_clears_if(void **state) {
    struct cpu *cpu = boot(state);
    cpu->eflags = F_FIXED | F_IF | F_NT;
    cpu->halted = true;
    rc_deliver_external(cpu, 0x20);
    assert_false(cpu->halted);
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 12);
    assert_int_equal(peek32(cpu, STACK0 - 4), F_FIXED | F_IF | F_NT);
    assert_int_equal(peek32(cpu, STACK0 - 12), 0x100);
    assert_int_equal(cpu->eflags, F_FIXED);
    assert_int_equal(cpu->eip, HANDLER + 0x20);
}

static void sixteen_bit_gate_pushes_words(void **state) {
    struct cpu *cpu = boot(state);
    put_gate(cpu->mmu, IDT + 8 * 0x21, 6, 0, KCODE, 0x55554444, 0);
    cpu->eflags = F_FIXED | F_IF;
    assert_true(rc_deliver(cpu, 0x21, RC_EXCEPTION, true, 0x1234, 0x100));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 8);
    assert_int_equal(peek32(cpu, STACK0 - 8), 0x01001234);
    assert_int_equal(peek32(cpu, STACK0 - 4), (F_FIXED | F_IF) << 16 | KCODE);
    assert_int_equal(cpu->eip, 0x4444);
}

static void sixteen_bit_tss_gives_the_inner_stack(void **state) {
    struct cpu *cpu = boot(state);
    store16(ram(cpu, TSS_16 + 2), 0x8800);
    store16(ram(cpu, TSS_16 + 4), KDATA);
    assert_true(rc_ltr(cpu, TASK_16));
    enter_ring(cpu, 3);
    assert_true(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002));
    assert_int_equal(cpu->gpr[R_ESP], 0x8800 - 20);
}

static void gate_checks_report_the_idt_entry(void **state) {
    struct cpu *cpu = boot(state);
    enter_ring(cpu, 3);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_deliver(cpu, 0x20, RC_SOFTWARE, false, 0, 0), VEC_GP, 0x20 * 8 + 2);
    assert_fault(rc_deliver(cpu, 3, RC_SOFT_TRAP, false, 0, 0), VEC_GP, 3 * 8 + 2);
    ram(cpu, IDT)[8 * 0x30 + 5] &= 0x7f;
    assert_fault(rc_deliver(cpu, 0x30, RC_EXTERNAL, false, 0, 0), VEC_NP, 0x30 * 8 + 3);
    put_gate(cpu->mmu, IDT + 8 * 0x31, 12, 3, KCODE, HANDLER, 0);
    assert_fault(rc_deliver(cpu, 0x31, RC_SOFTWARE, false, 0, 0), VEC_GP, 0x31 * 8 + 2);
    put_gate(cpu->mmu, IDT + 8 * 0x32, 14, 3, 0, HANDLER, 0);
    assert_fault(rc_deliver(cpu, 0x32, RC_EXTERNAL, false, 0, 0), VEC_GP, 1);
    put_gate(cpu->mmu, IDT + 8 * 0x33, 14, 3, KDATA, HANDLER, 0);
    assert_fault(rc_deliver(cpu, 0x33, RC_SOFTWARE, false, 0, 0), VEC_GP, KDATA);
    put_gate(cpu->mmu, IDT + 8 * 0x34, 14, 3, CODE16, 0x10000, 0);
    assert_fault(rc_deliver(cpu, 0x34, RC_SOFTWARE, false, 0, 0), VEC_GP, 0);
    cpu->idtr.limit = before.idtr.limit = 0x100;
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_GP, 0x80 * 8 + 2);
    assert_unchanged(cpu, &before);
    assert_true(rc_deliver(cpu, 1, RC_ICEBP, false, 0, 0)); /* no DPL check */
}

static void inner_stack_faults_name_the_tss_or_its_stack(void **state) {
    struct cpu *cpu = boot(state);
    enter_ring(cpu, 3);
    struct cpu before = snapshot(cpu);
    poke32(cpu, TSS_A + 8, 0);
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_TS, 0);
    poke32(cpu, TSS_A + 8, UDATA);
    assert_fault(rc_deliver(cpu, 0x20, RC_EXTERNAL, false, 0, 0), VEC_TS, (UDATA & ~3) | 1);
    poke32(cpu, TSS_A + 8, KCODE);
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_TS, KCODE);
    put_desc(cpu->mmu, GDT + ABSENT, 0, 0xffff, DATA_ATTR & ~ATTR_P);
    poke32(cpu, TSS_A + 8, ABSENT);
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_SS, ABSENT);
    poke32(cpu, TSS_A + 8, EXPAND_DOWN);
    poke32(cpu, TSS_A + 4, 0x1008);
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_SS, EXPAND_DOWN);
    cpu->seg[SEG_TR].limit = before.seg[SEG_TR].limit = 10;
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_TS, TASK_A);
    assert_unchanged(cpu, &before);
}

static void frame_across_an_absent_page_writes_nothing(void **state) {
    struct cpu *cpu = boot(state);
    enable_paging(cpu);
    enter_ring(cpu, 3);
    poke32(cpu, TSS_A + 4, STACK0 + 8); /* two slots in one page, three in the next lower */
    set_page(cpu, STACK0 - 4, 0);
    memset(ram(cpu, STACK0), 0xee, 16);
    struct cpu before = snapshot(cpu);
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002), VEC_PF, PF_W);
    assert_in_range(cpu->fault.cr2, STACK0 - 12, STACK0 - 1);
    assert_unchanged(cpu, &before);
    assert_int_equal(peek32(cpu, STACK0), 0xeeeeeeee);
    assert_int_equal(peek32(cpu, STACK0 + 4), 0xeeeeeeee);
    set_page(cpu, STACK0 - 4, 3);
    assert_true(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002));
    assert_int_equal(peek32(cpu, STACK0 + 4), UDATA);
    assert_int_equal(peek32(cpu, STACK0 - 12), 0x1002);
}

static void v86_interrupt_saves_and_nulls_data_segments(void **state) {
    struct cpu *cpu = boot(state);
    cpu->cpl = 3;
    cpu->eflags = F_FIXED | F_VM | F_IF | F_IOPL;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        assert_true(rc_load_segment(cpu, s, (u16)(0x100 + s)));
    cpu->gpr[R_ESP] = 0xfff0;
    assert_true(rc_deliver(cpu, 0x20, RC_EXTERNAL, false, 0, 0x77));
    assert_int_equal(cpu->gpr[R_ESP], STACK0 - 36);
    const u32 want[9] = {0x77,           0x100 + SEG_CS, F_FIXED | F_VM | F_IF | F_IOPL,
                         0xfff0,         0x100 + SEG_SS, 0x100 + SEG_ES,
                         0x100 + SEG_DS, 0x100 + SEG_FS, 0x100 + SEG_GS};
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(peek32(cpu, STACK0 - 36 + 4 * i), want[i]);
    assert_int_equal(cpu->eflags, F_FIXED | F_IOPL);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[SEG_DS].selector, 0);
    assert_int_equal(cpu->seg[SEG_GS].attr, ATTR_NULL);
    /* And back. */
    assert_true(rc_iret(cpu, 4, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->eip, 0x77);
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IF | F_IOPL);
    assert_int_equal(cpu->seg[SEG_GS].base, (0x100 + SEG_GS) << 4);
    assert_int_equal(cpu->gpr[R_ESP], 0xfff0);
}

static void v86_int_n_needs_iopl_3_and_a_ring_0_handler(void **state) {
    struct cpu *cpu = boot(state);
    cpu->cpl = 3;
    cpu->eflags = F_FIXED | F_VM;
    assert_fault(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0), VEC_GP, 0);
    cpu->eflags |= F_IOPL;
    put_gate(cpu->mmu, IDT + 8 * 0x40, 14, 3, CONFORMING, HANDLER, 0);
    assert_fault(rc_deliver(cpu, 0x40, RC_SOFTWARE, false, 0, 0), VEC_GP, CONFORMING);
    put_gate(cpu->mmu, IDT + 8 * 0x40, 14, 3, CODE1, HANDLER, 0);
    assert_fault(rc_deliver(cpu, 0x40, RC_SOFTWARE, false, 0, 0), VEC_GP, CODE1);
    assert_true(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0));
}

static void real_mode_uses_the_ivt(void **state) {
    struct cpu *cpu = boot(state);
    assert_true(rc_load_segment(cpu, SEG_SS, STACK16));
    assert_true(rc_write_cr(cpu, 0, cpu->cr0 & ~CR0_PE));
    cpu->idtr = (struct table_register){.base = 0, .limit = 0x3ff};
    poke32(cpu, 0x10 * 4, 0xc0001234);
    assert_true(rc_far_jump(cpu, 0x700, 0x20, 2, 0));
    assert_true(rc_load_segment(cpu, SEG_SS, 0x800));
    cpu->gpr[R_ESP] = 0xabcd0100;
    cpu->eflags = F_FIXED | F_IF | F_TF;
    assert_true(rc_deliver(cpu, 0x10, RC_SOFTWARE, false, 0, 0x22));
    assert_int_equal(cpu->gpr[R_ESP], 0xabcd00fa);
    assert_int_equal(load16(ram(cpu, 0x80fa)), 0x22);
    assert_int_equal(load16(ram(cpu, 0x80fc)), 0x700);
    assert_int_equal(load16(ram(cpu, 0x80fe)), F_FIXED | F_IF | F_TF);
    assert_int_equal(cpu->eip, 0x1234);
    assert_int_equal(cpu->seg[SEG_CS].base, 0xc0000);
    assert_int_equal(cpu->eflags, F_FIXED);
    assert_true(rc_iret(cpu, 2, 0));
    assert_int_equal(cpu->eip, 0x22);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x700);
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_TF);
    assert_int_equal(cpu->gpr[R_ESP], 0xabcd0100);
}

static void fault_sets_rf_and_cr2(void **state) {
    struct cpu *cpu = boot(state);
    cpu_fault_error(cpu, VEC_PF, 6);
    cpu->fault.cr2 = 0xdeadb000;
    rc_deliver_fault(cpu);
    assert_int_equal(cpu->cr2, 0xdeadb000);
    assert_int_equal(cpu->eip, HANDLER + VEC_PF);
    assert_int_equal(peek32(cpu, STACK0 - 16), 6);
    assert_true(peek32(cpu, STACK0 - 4) & F_RF);
    assert_false(cpu->eflags & F_RF);
}

/* Not even for an instruction breakpoint or general detect: the handler's business. */
static void debug_exceptions_leave_rf_alone(void **state) {
    struct cpu *cpu = boot(state);
    cpu->dr[7] = 0x2401;
    cpu->dr[6] |= DR6_BD;
    cpu_fault(cpu, VEC_DB);
    rc_deliver_fault(cpu);
    assert_false(peek32(cpu, STACK0 - 4) & F_RF);
    assert_int_equal(cpu->dr[7], 0x401); /* GD cleared for the handler */
    cpu->dr[6] |= 1;
    cpu->dr[0] = cpu->eip;
    cpu_fault(cpu, VEC_DB);
    rc_deliver_fault(cpu);
    assert_false(peek32(cpu, STACK0 - 16) & F_RF);
    cpu->eflags |= F_RF; /* in the middle of a repeated string instruction */
    cpu_fault(cpu, VEC_DB);
    rc_deliver_fault(cpu);
    assert_true(peek32(cpu, STACK0 - 28) & F_RF);
}

/* The pushes of a delivery are accesses; what they hit is reported in front of the handler. */
static void watched_frame_waits_for_the_handler(void **state) {
    struct cpu *cpu = boot(state);
    cpu->dr[1] = STACK0 - 8;
    cpu->dr[7] = 0x400 | 1 << 2 | 0xdu << 20; /* writes, four bytes */
    rc_deliver_external(cpu, 0x20);
    assert_int_equal(cpu->eip, HANDLER + 0x20);
    assert_int_equal(cpu->shadow, 2 << SHADOW_DEBUG_SHIFT);
    cpu->eflags |= F_IF;
    assert_false(rc_interruptible(cpu)); /* before any interrupt */
    cpu->shadow = 0;
    cpu->gpr[R_ESP] = STACK0 - 64; /* elsewhere */
    rc_deliver_external(cpu, 0x21);
    assert_int_equal(cpu->shadow, 0);
}

static void misaligned_frame_of_ring_3_is_refused(void **state) {
    struct cpu *cpu = boot(state);
    enter_ring(cpu, 3);
    cpu->gpr[R_ESP] = STACK3 - 2;
    cpu->eflags |= F_AC;
    assert_true(rc_far_call(cpu, UCODE, 0x2000, 4, 0x1005));
    cpu->cr0 |= CR0_AM;
    assert_fault(rc_far_return(cpu, 4, 0), VEC_AC, 0);
    assert_fault(rc_far_call(cpu, UCODE, 0x2000, 4, 0x1005), VEC_AC, 0);
    cpu->gpr[R_ESP] = STACK3 - 4;
    assert_true(rc_far_call(cpu, UCODE, 0x2000, 4, 0x1005));
    assert_true(rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002)); /* ring 0's own stack */
}

static void contributory_pair_makes_a_double_fault(void **state) {
    struct cpu *cpu = boot(state);
    ram(cpu, IDT)[8 * VEC_GP + 5] &= 0x7f; /* #NP while delivering #GP */
    cpu_fault_error(cpu, VEC_GP, 0x10);
    rc_deliver_fault(cpu);
    assert_int_equal(cpu->eip, HANDLER + VEC_DF);
    assert_int_equal(peek32(cpu, STACK0 - 16), 0);
    assert_int_equal(peek32(cpu, STACK0 - 12), 0x100);
    assert_false(cpu->shutdown);
}

static void benign_then_contributory_is_delivered_serially(void **state) {
    struct cpu *cpu = boot(state);
    ram(cpu, IDT)[8 * VEC_UD + 5] &= 0x7f;
    cpu_fault(cpu, VEC_UD);
    rc_deliver_fault(cpu);
    assert_int_equal(cpu->eip, HANDLER + VEC_NP);
    assert_int_equal(peek32(cpu, STACK0 - 16), VEC_UD * 8 + 3);
}

static void third_fault_shuts_the_cpu_down(void **state) {
    struct cpu *cpu = boot(state);
    cpu->idtr.limit = 0;
    cpu_fault(cpu, VEC_UD);
    rc_deliver_fault(cpu);
    assert_true(cpu->shutdown);
    cpu->shutdown = false;
    rc_deliver_external(cpu, 0x20);
    assert_true(cpu->shutdown);
}

static void page_fault_on_the_kernel_stack_becomes_a_double_fault_task(void **state) {
    struct cpu *cpu = boot(state);
    enable_paging(cpu);
    put_gate(cpu->mmu, IDT + 8 * VEC_DF, 5, 0, TASK_B, 0, 0);
    poke32(cpu, TSS_B + 0x1c, PAGE_DIRECTORY);
    poke32(cpu, TSS_B + 0x20, 0x4242);
    poke32(cpu, TSS_B + 0x24, F_FIXED);
    poke32(cpu, TSS_B + 0x38, STACK1);
    for (unsigned s = 0; s < 6; s++)
        poke32(cpu, TSS_B + 0x48 + 4 * s, s == SEG_CS ? KCODE : KDATA);
    cpu->gpr[R_ESP] = STACK0;
    set_page(cpu, STACK0 - 4, 0);
    cpu_fault_error(cpu, VEC_PF, PF_W);
    cpu->fault.cr2 = STACK0 - 8;
    rc_deliver_fault(cpu);
    assert_false(cpu->shutdown);
    assert_int_equal(cpu->eip, 0x4242);
    assert_int_equal(cpu->seg[SEG_TR].selector, TASK_B);
    assert_int_equal(cpu->gpr[R_ESP], STACK1 - 4);
    assert_int_equal(peek32(cpu, STACK1 - 4), 0);
    assert_int_equal(peek32(cpu, TSS_A + 0x20), 0x100);
    assert_int_equal(peek32(cpu, TSS_A + 0x38), STACK0);
    assert_int_equal(load16(ram(cpu, TSS_B)), TASK_A);
    assert_true(cpu->eflags & F_NT);
}

static void nmi_blocks_nmi_until_iret(void **state) {
    struct cpu *cpu = boot(state);
    rc_deliver_external(cpu, VEC_NMI);
    assert_true(cpu->nmi_blocked);
    assert_true(rc_iret(cpu, 4, 0));
    assert_false(cpu->nmi_blocked);
}

static void tracing_leaves_x87_and_sse_state(void **state) {
    struct cpu *cpu = boot(state);
    static _Alignas(16) u8 before[512], after[512];
    static const u64 pattern[2] = {0x1122334455667788, 0x99aabbccddeeff00};
    u32 old_mask = trace_mask;
    assert_true(trace_open("/dev/null"));
    trace_mask |= BIT(TRACE_int);
    __asm__ volatile("movdqu %1, %%xmm0; movdqu %1, %%xmm15; fldpi; fxsave64 %0; fninit"
                     : "=m"(before)
                     : "m"(pattern)
                     : "xmm0", "xmm15");
    __asm__ volatile("fxrstor64 %0" : : "m"(before));
    rc_deliver(cpu, 0x80, RC_SOFTWARE, false, 0, 0x1002);
    __asm__ volatile("fxsave64 %0; fninit" : "=m"(after));
    trace_mask = old_mask;
    assert_true(trace_open(NULL));
    assert_memory_equal(before, after, 416);
    assert_int_equal(cpu->eip, HANDLER);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(software_interrupt_from_ring_3_switches_stack),
        TEST(interrupt_gate_in_the_same_ring_clears_if),
        TEST(sixteen_bit_gate_pushes_words),
        TEST(sixteen_bit_tss_gives_the_inner_stack),
        TEST(gate_checks_report_the_idt_entry),
        TEST(inner_stack_faults_name_the_tss_or_its_stack),
        TEST(frame_across_an_absent_page_writes_nothing),
        TEST(v86_interrupt_saves_and_nulls_data_segments),
        TEST(v86_int_n_needs_iopl_3_and_a_ring_0_handler),
        TEST(real_mode_uses_the_ivt),
        TEST(fault_sets_rf_and_cr2),
        TEST(debug_exceptions_leave_rf_alone),
        TEST(watched_frame_waits_for_the_handler),
        TEST(misaligned_frame_of_ring_3_is_refused),
        TEST(contributory_pair_makes_a_double_fault),
        TEST(benign_then_contributory_is_delivered_serially),
        TEST(third_fault_shuts_the_cpu_down),
        TEST(page_fault_on_the_kernel_stack_becomes_a_double_fault_task),
        TEST(nmi_blocks_nmi_until_iret),
        TEST(tracing_leaves_x87_and_sse_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
