/*
 * Protected-mode virtual interrupts (CR4.PVI): at CPL 3 with IOPL below 3, CLI and STI change VIF.
 * SDM volume 3, section 20.4 "Protected-Mode Virtual Interrupts"; volume 2, "CLI", "STI".
 * Expected: PUSHF, POPF and IRET go by the real IF as ever; STI with VIP set, and any instruction
 * with VIF and VIP both set, is #GP(0); IRET from ring 0 loads VIF and VIP.
 * QEMU: TCG takes CR4.PVI and does not act on it
 */
#include "guest.h"

CODE(pvi_cli, "cli" DONE);
CODE(pvi_sti, "sti" DONE);
CODE(pvi_nop, "nop" DONE);
CODE(pvi_flags,
     "cli; pushf; pop %eax; sti; pushf; pop %ebx; push $0x43; popf; pushf; pop %ecx" DONE);
/* From ring 0: interrupts off, VIF as it was; back in ring 3 it is there again. */
CODE(pvi_int, "sti; int $0x81; cli; int $0x81" DONE);
CODE(pvi_handler, "pushf; pop %eax; shl $8,%ecx; mov 8(%esp),%edx; and %eax,%edx; shr $19,%edx;"
                  "and $1,%edx; or %edx,%ecx; pushf; pop %eax; iret");

static u32 run_with(const u8 *code, u32 flags) {
    reset_run(3);
    in.eflags = F_FIXED | flags;
    return run(3, code);
}
#define VIRTUAL (F_IF | F_VIF | F_VIP | F_IOPL)

static void cli_and_sti(void) {
    EQ(run_with(pvi_cli, F_IF | F_VIF), V_DONE);
    EQ(trap.eflags & VIRTUAL, F_IF);
    EQ(run_with(pvi_sti, F_IF), V_DONE);
    EQ(trap.eflags & VIRTUAL, F_IF | F_VIF);
    EQ(run_with(pvi_sti, 0), V_DONE); /* not the real IF */
    EQ(trap.eflags & VIRTUAL, F_VIF);
    EQ(run_with(pvi_cli, F_IF | F_VIP), V_DONE);
    EQ(trap.eflags & VIRTUAL, F_IF | F_VIP);
    EQ(run_with(pvi_sti, F_IF | F_VIP), V_GP);
    EQ(trap.error, 0);
    EQ(trap.eip, (u32)pvi_sti);
    EQ(trap.eflags & VIRTUAL, F_IF | F_VIP);
    EQ(run_with(pvi_sti, F_IF | F_IOPL), V_DONE); /* IOPL 3: the real one */
    EQ(trap.eflags & VIRTUAL, F_IF | F_IOPL);
    EQ(run_with(pvi_cli, F_IF | F_IOPL | F_VIF), V_DONE);
    EQ(trap.eflags & VIRTUAL, F_IOPL | F_VIF);
}

static void other_instructions(void) {
    EQ(run_with(pvi_flags, F_IF | F_VIF), V_DONE);
    EQ(trap.eax & VIRTUAL, F_IF);
    EQ(trap.ebx & VIRTUAL, F_IF | F_VIF);
    EQ(trap.ecx & (VIRTUAL | F_ARITH), F_IF | F_VIF | F_CF | F_ZF);
}

static void pending(void) {
    EQ(run_with(pvi_nop, F_IF | F_VIF | F_VIP), V_GP);
    EQ(trap.error, 0);
    EQ(trap.eip, (u32)pvi_nop);
    EQ(trap.eflags & VIRTUAL, F_IF | F_VIF | F_VIP);
    EQ(run_with(pvi_nop, F_IF | F_VIP), V_DONE);
    EQ(run_with(pvi_nop, F_IF | F_VIF | F_VIP | F_IOPL), V_DONE);
    reset_run(0); /* nobody looks at them in ring 0 */
    in.eflags = F_FIXED | F_VIF | F_VIP;
    EQ(run(0, pvi_nop), V_DONE);
    EQ(trap.eflags & VIRTUAL, F_VIF | F_VIP);
    reset_run(0);
    in.eflags = F_FIXED | F_IF;
    EQ(run(0, pvi_cli), V_DONE);
    EQ(trap.eflags & VIRTUAL, 0);
}

void test(void) {
    if (!(cpuid(1).edx & 2))
        skip("no PVI");
    u64 old = idt[0x81];
    idt_set(0x81, gate((u32)pvi_handler, KERNEL_CODE, 0xee));
    EQ(run_with(pvi_cli, F_IF | F_VIF), V_GP); /* without PVI */
    EQ(run_with(pvi_sti, F_IF), V_GP);
    EQ(run_with(pvi_nop, F_IF | F_VIF | F_VIP), V_DONE);
    write_cr4(read_cr4() | CR4_PVI);
    cli_and_sti();
    other_instructions();
    pending();
    for (u32 i = 0; i < 3; i++) { /* remembered transfers keep VIF, too */
        EQ(run_with(pvi_int, F_IF), V_DONE);
        EQ(trap.ecx, 0x100);
        EQ(trap.eflags & VIRTUAL, F_IF);
        CHECK(!(trap.eax & F_IF));
    }
    write_cr4(read_cr4() & ~CR4_PVI);
    idt_set(0x81, old);
}
