/*
 * SYSENTER and SYSEXIT with the three MSRs. SDM volume 2B, "SYSENTER-Fast System Call",
 * "SYSEXIT".
 * Expected: SYSENTER enters at MSR 176h on the stack of MSR 175h with CS = MSR 174h and SS = CS +
 * 8, flat, IF and VM cleared, other flags and registers kept; SYSEXIT goes to EDX with ESP = ECX
 * at ring 3, CS = MSR + 16 with RPL 3; #GP(0) when MSR 174h is null, and for SYSEXIT at ring 3.
 */
#include "guest.h"

enum { MSR_CS = 0x174, MSR_ESP, MSR_EIP };
u32 seen_cs, seen_ss, seen_esp, seen_flags;
CODE(caller,
     "mov %esp,%ecx; mov $.Lback,%edx; mov $0x77,%esi; stc; sysenter; ud2\n.Lback: mov %cs,%eax;"
     "mov %ss,%ebx; mov %esp,%edi" DONE);
CODE(entry,
     "mov %esp,%ss:seen_esp; pushf; pop %ss:seen_flags; mov %cs,%ss:seen_cs; mov %ss,%ss:seen_ss;"
     "sysexit");
CODE(exit_alone, "sysexit" DONE);
u32 entry_stack[256];
#define ENTRY_TOP ((u32)entry_stack + sizeof entry_stack)

void test(void) {
    if (!(cpuid(1).edx & 1 << 11))
        skip("this CPU has no SYSENTER");
    wrmsr(MSR_CS, KERNEL_CODE);
    wrmsr(MSR_ESP, ENTRY_TOP);
    wrmsr(MSR_EIP, (u32)entry);
    EQ(rdmsr(MSR_CS), KERNEL_CODE);
    EQ(rdmsr(MSR_ESP), ENTRY_TOP);
    EQ(rdmsr(MSR_EIP), (u32)entry);
    for (u32 i = 0; i < 3; i++) {
        reset_run(3);
        in.eflags |= F_IF;
        RUNS(3, caller);
        EQ(seen_cs, KERNEL_CODE);
        EQ(seen_ss, KERNEL_DATA);
        EQ(seen_esp, ENTRY_TOP);
        EQ(seen_flags & (F_IF | F_CF), F_CF);
        EQ(trap.eax, USER_CODE);
        EQ(trap.ebx, USER_DATA);
        EQ(trap.edi, USER_STACK_TOP);
        EQ(trap.esi, 0x77);
        EQ(trap.cs, USER_CODE);
        EQ(trap.ss, USER_DATA);
        EQ(trap.ds, USER_DATA);    /* data segments stay */
        EQ(trap.eflags & F_IF, 0); /* SYSEXIT does not bring IF back */
    }
    FAULTS(3, exit_alone, V_GP, 0);
    wrmsr(MSR_CS, 0);
    FAULTS(3, caller, V_GP, 0);
    FAULTS(0, exit_alone, V_GP, 0);
    wrmsr(MSR_CS, 3); /* null whatever its RPL */
    if (!is_tcg())
        FAULTS(3, caller, V_GP, 0);
    wrmsr(MSR_CS, 0);
}
