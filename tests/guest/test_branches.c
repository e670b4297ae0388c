/*
 * Indirect jumps and calls with one, few and many targets; every condition code; LOOP, LOOPE,
 * LOOPNE, JECXZ with 32- and 16-bit counts; short and near forms; jumps across pages. SDM volume
 * 2A, "Jcc", "LOOP/LOOPcc".
 * Expected: sums and counts as computed in C.
 */
#include "guest.h"

u32 targets[64], results[32];
CODE(many_targets,
     "mov $6400,%ecx; xor %eax,%eax; 1: mov %ecx,%edx; and $63,%edx; call *targets(,%edx,4);"
     "dec %ecx; jnz 1b" DONE);
CODE(two_targets,
     "mov $1000,%ecx; xor %eax,%eax; 1: mov %ecx,%edx; and $1,%edx; mov targets(,%edx,4),%esi;"
     "call *%esi; dec %ecx; jnz 1b" DONE);
CODE(jump_table,
     "mov $1000,%ecx; xor %eax,%eax; 1: mov %ecx,%edx; and $3,%edx; jmp *table4(,%edx,4);"
     "j0: add $1,%eax; jmp 2f; j1: add $10,%eax; jmp 2f; j2: add $100,%eax; jmp 2f;"
     "j3: add $1000,%eax; 2: dec %ecx; jnz 1b; int $0x80; .balign 4; table4: .long j0,j1,j2,j3");
/* 64 functions of 8 bytes: add $n,%eax; ret */
CODE(functions, ".set n,0; .rept 64; .balign 8; add $n,%eax; ret; .set n,n+1; .endr");
CODE(conditions,
     "push %ecx; popf; xor %eax,%eax; mov $0,%edx;"
     ".macro cond c, bit; push %ecx; popf; j\\c 1f; jmp 2f; 1: or $1<<\\bit,%edx; 2: push %ecx; "
     "popf;"
     "set\\c %al; cmov\\c %ebx,%esi; .endm;"
     "cond o,0; cond no,1; cond b,2; cond ae,3; cond e,4; cond ne,5; cond be,6; cond a,7; cond s,8;"
     "cond ns,9; cond p,10; cond np,11; cond l,12; cond ge,13; cond le,14; cond g,15" DONE);
CODE(loops, "mov $5,%ecx; xor %eax,%eax; 1: inc %eax; loop 1b;"
            "mov $0x10005,%ecx; 2: inc %eax; addr16 loop 2b; mov %ecx,%ebx;"
            "mov $9,%ecx; 3: inc %eax; cmp $15,%eax; loopne 3b; mov %ecx,%edx;"
            "mov $9,%ecx; xor %esi,%esi; 4: inc %esi; cmp $10,%esi; loope 4b; mov %ecx,%edi;"
            "xor %ecx,%ecx; jecxz 5f; ud2; 5: mov $0x10000,%ecx; addr16 jecxz 6f; ud2; 6: jecxz "
            "7f; jmp 8f; 7: ud2; 8:" DONE);
CODE(near_form, "mov $50,%ecx; xor %eax,%eax; 1: test $1,%cl; jz far_away; add $2,%eax; 2: dec "
                "%ecx; jnz 1b" DONE ".skip 8192,0x90; far_away: add $3,%eax; jmp 2b");
CODE(loop_flags, "stc; mov $3,%ecx; 1: loop 1b; setc %al; inc %ecx; loop 1f; 1: setc %ah" DONE);

static u32 condition_bits(u32 f) {
    bool c = f & F_CF, z = f & F_ZF, s = f & F_SF, o = f & F_OF, p = f & F_PF;
    bool yes[8] = {o, c, z, c || z, s, p, s != o, z || s != o};
    u32 bits = 0;
    for (u32 i = 0; i < 8; i++)
        bits |= (yes[i] ? 1u : 2u) << (2 * i);
    return bits;
}

void test(void) {
    for (u32 i = 0; i < 64; i++)
        targets[i] = (u32)functions + 8 * i;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, many_targets);
        EQ(trap.eax, 100 * (63 * 64 / 2));
        RUNS(ring, two_targets);
        EQ(trap.eax, 500);
        RUNS(ring, jump_table);
        EQ(trap.eax, 250 * 1111);
        for (u32 i = 0; i < 32; i++) {
            u32 f = (i & 1 ? F_CF : 0) | (i & 2 ? F_ZF : 0) | (i & 4 ? F_SF : 0) |
                    (i & 8 ? F_OF : 0) | (i & 16 ? F_PF : 0);
            reset_run(ring);
            in.ecx = f | F_FIXED;
            RUNS(ring, conditions);
            EQ(trap.edx, condition_bits(f));
            EQ(trap.eax, condition_bits(f) >> 15 & 1);
        }
        RUNS(ring, loops);
        EQ(trap.eax, 15);
        EQ(trap.ebx, 0x10000);
        EQ(trap.edx, 4);
        EQ(trap.esi, 1);
        EQ(trap.edi, 8);
        RUNS(ring, near_form);
        EQ(trap.eax, 125);
        RUNS(ring, loop_flags);
        EQ(trap.eax & 0x101, 0x101);
    }
}
