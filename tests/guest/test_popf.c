/*
 * POPF changes IF only when CPL <= IOPL and IOPL only at CPL 0, silently: at ring 3 with IOPL 0
 * an attempt to disable interrupts is ignored and does not trap. VM, VIP, VIF are never changed.
 * SDM volume 2B, "POPF/POPFD", table 4-16.
 * Expected: per case below, what PUSHF shows afterwards.
 */
#include "guest.h"

/* EAX = image to pop; result in EBX. */
CODE(pop_push, "push %eax; popf; pushf; pop %ebx; cli" DONE);
CODE(pop_push_user, "push %eax; popf; pushf; pop %ebx" DONE);
CODE(pop_16, "push %eax; popfw; lea 2(%esp),%esp; pushf; pop %ebx" DONE);
CODE(cli_user, "cli; nop" DONE);
CODE(sti_user, "sti; nop" DONE);

static u32 user(u32 start, u32 image) {
    reset_run(3);
    in.eflags = F_FIXED | start;
    in.eax = image;
    RUNS(3, pop_push_user);
    return trap.ebx & ~(u32)F_FIXED;
}

static u32 kernel(u32 image) {
    reset_run(0);
    in.eax = image;
    RUNS(0, pop_push);
    return trap.ebx & ~(u32)F_FIXED;
}

void test(void) {
    EQ(kernel(F_IF), F_IF);
    EQ(kernel(F_IF | F_IOPL), F_IF | F_IOPL);
    EQ(kernel(0), 0);
    EQ(kernel(F_NT | F_AC | F_ID | F_ARITH | F_DF), F_NT | F_AC | F_ID | F_ARITH | F_DF);
    EQ(kernel(F_VM), 0);
    EQ(kernel(F_RF), 0);
    EQ(kernel(0xffc0802a), 0); /* reserved bits read as zero */

    EQ(user(F_IF, 0), F_IF);
    EQ(user(0, F_IF), 0);
    EQ(user(F_IF, F_IOPL), F_IF);
    EQ(user(F_IF | F_IOPL, 0), F_IOPL);
    EQ(user(F_IOPL, F_IF | F_IOPL), F_IF | F_IOPL);
    EQ(user(F_IF | 0x1000, F_IOPL), F_IF | 0x1000);
    EQ(user(0, F_ARITH | F_DF | F_NT | F_ID), F_ARITH | F_DF | F_NT | F_ID);
    EQ(user(0, F_VM), 0);

    reset_run(3);
    in.eflags = F_FIXED | F_IF | F_ID;
    in.eax = F_CF;
    RUNS(3, pop_16); /* the upper half stays */
    EQ(trap.ebx, F_FIXED | F_IF | F_ID | F_CF);

    FAULTS(3, cli_user, V_GP, 0);
    FAULTS(3, sti_user, V_GP, 0);
    reset_run(3);
    in.eflags |= F_IOPL | F_IF;
    RUNS(3, cli_user);
    EQ(trap.eflags & F_IF, 0);
    reset_run(3);
    in.eflags |= F_IOPL;
    RUNS(3, sti_user);
    EQ(trap.eflags & F_IF, F_IF);
}
