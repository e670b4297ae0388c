/*
 * Control flow into nowhere: unmapped addresses, memory-mapped holes, the end of RAM, an
 * instruction that straddles into an absent page, the end of the address space, a stack that is
 * not there at ring 3.
 * Expected: #PF at the target (error code 0 or 4, CR2 = EIP), or with paging off whatever all
 * ones or zeros decode to, but never the end of the monitor.
 */
#include "guest.h"

CODE(jump, "jmp *%ecx");
CODE(call_it, "call *%ecx");
CODE(ret_to, "push %ecx; ret");

static void nowhere(u32 ring) {
    static const u8 *const ways[] = {jump, call_it, ret_to};
    static const u32 addresses[] = {0x30000000, 0xdeadbeef, 0xfffffffc,
                                    0x80000fff, 0x08000000, 0xfee00000};
    for (u32 i = 0; i < 3; i++)
        for (u32 j = 0; j < sizeof addresses / sizeof *addresses; j++) {
            reset_run(ring);
            in.ecx = addresses[j];
            FAULTS(ring, ways[i], V_PF, ring ? 4 : 0);
            EQ(trap.eip, addresses[j]);
            EQ(trap_cr2, addresses[j]);
        }
    /* Straddling: B8 xx xx | absent page. */
    scratch[4095] = 0xb8;
    scratch[4094] = 0x90;
    map(0x30000000, SCRATCH, PT_P | PT_U);
    reset_run(ring);
    in.ecx = 0x30000ffe;
    FAULTS(ring, jump, V_PF, ring ? 4 : 0);
    EQ(trap.eip, 0x30000fff);
    EQ(trap_cr2, 0x30001000);
    map(0x30000000, 0, 0);
    /* The same at the top of the address space: the next byte is at 0. */
    u32 zero = *pte(0);
    map(0xfffff000, SCRATCH, PT_P | PT_U);
    map(0, 0, 0);
    reset_run(ring);
    in.ecx = 0xffffffff;
    run(ring, jump); /* an access across the top may wrap or be refused: SDM 3A, section 5.3 */
    CHECK((trap.vector == V_PF && trap_cr2 == 0) || (trap.vector == V_GP && trap.error == 0));
    map(0xfffff000, 0, 0);
    *pte(0) = zero;
    invlpg(0);
}

void test(void) {
    paging_prepare();
    pte(0x30000000);
    pte(0xfffff000);
    paging_on();
    nowhere(0);
    nowhere(3);
    reset_run(3);
    in.esp = 0x30000800;
    in.ecx = (u32)jump;
    FAULTS(3, call_it, V_PF, 6);
    EQ(trap_cr2, 0x308007fc - 0x800000);
    EQ(trap.eip, call_it);
    EQ(trap.esp, 0x30000800);
    paging_off();
}
