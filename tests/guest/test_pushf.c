/*
 * PUSHF shows the guest's virtual flags: IF, IOPL, NT, AC, ID and the arithmetic ones, with VM
 * and RF as zero, at both rings. SDM volume 2B, "PUSHF/PUSHFD".
 * Expected: at ring 0 after CLI IF=0, after STI IF=1; at ring 3 the image that IRET loaded.
 */
#include "guest.h"

CODE(push_cli, "cli; xor %eax,%eax; pushf; pop %eax" DONE);
CODE(push_sti, "sti; nop; xor %eax,%eax; pushf; pop %eax; cli" DONE);
CODE(push_as_is, "pushf; pop %eax" DONE);
CODE(push_16,
     "mov %esp,%edx; push $-1; add $4,%esp; pushfw; sub %esp,%edx; movzwl (%esp),%eax" DONE);
CODE(push_std, "std; pushf; cld; pop %eax" DONE);
CODE(push_arith, "mov $0x7fffffff,%eax; add $1,%eax; pushf; pop %eax" DONE);

void test(void) {
    RUNS(0, push_cli);
    EQ(trap.eax, F_FIXED | F_ZF | F_PF);
    RUNS(0, push_sti);
    EQ(trap.eax, F_FIXED | F_ZF | F_PF | F_IF);
    static const u32 images[] = {0,    F_CF | F_SF, F_IF,        F_IF | F_IOPL, F_NT,
                                 F_AC, F_ID,        F_DF | F_OF, F_RF};
    for (u32 ring = 0; ring <= 3; ring += 3) {
        for (u32 i = 0; i < sizeof images / sizeof *images; i++) {
            reset_run(ring);
            in.eflags = F_FIXED | images[i];
            RUNS(ring, push_as_is);
            EQ(trap.eax, F_FIXED | (images[i] & ~(u32)F_RF));
        }
        RUNS(ring, push_std);
        EQ(trap.eax & F_DF, F_DF);
        RUNS(ring, push_arith);
        EQ(trap.eax & ~(u32)F_IF, F_FIXED | F_SF | F_OF | F_AF | F_PF);
        reset_run(ring);
        in.eflags |= F_ID | F_CF;
        RUNS(ring, push_16);
        EQ(trap.eax & 0xfd02, F_FIXED);
        EQ(trap.edx, 2);
    }
}
