/*
 * SMSW shows the guest's CR0, at both rings, and does not trap. SDM volume 2B, "SMSW".
 * Expected: the low 16 bits equal MOV from CR0 (which at ring 3 raises #GP(0)); a change of TS or
 * WP shows at once; LMSW at ring 3 raises #GP(0) and cannot clear PE at ring 0.
 */
#include "guest.h"

u32 word;
CODE(to_register, "mov $-1,%eax; smsw %eax" DONE);
CODE(to_memory, "smsw word" DONE);
CODE(load, "lmsw %cx" DONE);
CODE(from_cr0, "mov %cr0,%eax" DONE);

static void expect(void) {
    u32 cr0 = read_cr0();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, to_register);
        EQ(trap.eax & 0xffff, cr0 & 0xffff);
        word = 0xa5a50000;
        RUNS(ring, to_memory);
        EQ(word, 0xa5a50000u | (cr0 & 0xffff));
    }
}

void test(void) {
    expect();
    write_cr0(read_cr0() | CR0_TS);
    expect();
    __asm__ volatile("clts");
    expect();
    u32 before = read_cr0();
    reset_run(0);
    in.ecx = CR0_TS; /* PE clear: stays set */
    RUNS(0, load);
    EQ(read_cr0() & 0xf, CR0_PE | CR0_TS);
    write_cr0(before);
    reset_run(3);
    in.ecx = 1;
    FAULTS(3, load, V_GP, 0);
    FAULTS(3, from_cr0, V_GP, 0);
    RUNS(0, from_cr0);
    EQ(trap.eax, before);
}
