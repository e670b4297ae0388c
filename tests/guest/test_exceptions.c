/*
 * Every exception that a program can raise arrives at its vector with the right error code and a
 * return EIP at the faulting instruction (faults) or behind it (traps), from both rings. SDM
 * volume 3A, section 6.15 "Exception and Interrupt Reference".
 * Expected: the table in test(). Registers are as before the faulting instruction.
 * UNPAGED: an emulating carrier executes some of what is undefined, in untranslated code, too
 */
#include "guest.h"

CODE(de_zero,
     "mov $7,%eax; xor %edx,%edx; xor %ecx,%ecx; .globl at_de_zero\nat_de_zero: div %ecx" DONE);
CODE(de_overflow, "mov $1,%edx; mov $1,%ecx; .globl at_de_overflow\nat_de_overflow: div %ecx" DONE);
CODE(de_idiv,
     "mov $0x80000000,%eax; cdq; mov $-1,%ecx; .globl at_de_idiv\nat_de_idiv: idiv %ecx" DONE);
CODE(de_byte, "mov $0x8000,%eax; mov $-1,%cl; .globl at_de_byte\nat_de_byte: idiv %cl" DONE);
CODE(de_word,
     "xor %eax,%eax; mov $5,%edx; mov $5,%ecx; .globl at_de_word\nat_de_word: div %cx" DONE);
CODE(de_aam, "mov $0x1234,%eax; .globl at_de_aam\nat_de_aam: aam $0" DONE);
CODE(ud_ud2, "ud2" DONE);
CODE(ud_lock_reg, ".byte 0xf0,0x01,0xc0" DONE);
CODE(ud_lock_mov, ".byte 0xf0; mov %eax,user_stack" DONE);
CODE(ud_lock_cmp, ".byte 0xf0; cmp %eax,user_stack" DONE);
CODE(ud_0fff, ".byte 0x0f,0xff,0xc0" DONE);
CODE(ud_lea_reg, ".byte 0x8d,0xc0" DONE);
CODE(ud_les_reg, ".byte 0xc5,0xc0,0" DONE);
CODE(ud_bound_reg, ".byte 0x62,0x05,0,0,0,0" DONE);
CODE(ud_ff7, ".byte 0xff,0xf8" DONE);
CODE(ud_fe2, ".byte 0xfe,0xd0" DONE);
CODE(ud_c6_1, ".byte 0xc6,0xc8,0" DONE);
CODE(ud_cr1, ".byte 0x0f,0x20,0xc8" DONE);
CODE(br_high, "mov $5,%eax; bound %eax,bounds" DONE);
CODE(br_low, "mov $-3,%eax; bound %eax,bounds" DONE);
CODE(br_inside, "mov $4,%eax; bound %eax,bounds; mov $-2,%eax; bound %eax,bounds" DONE);
CODE(bound_16, "mov $0x10004,%eax; .byte 0x66; bound %eax,bounds16" DONE);
CODE(nm_fpu, "fnop" DONE);
CODE(nm_wait, "fwait" DONE);
CODE(nm_sse, "movaps %xmm0,%xmm1" DONE);
CODE(long_15, ".fill 14,1,0x3e; nop" DONE);
CODE(gp_16_bytes, ".fill 15,1,0x3e; nop" DONE);
CODE(int1, ".byte 0xf1; .globl after_int1\nafter_int1:" DONE);
extern const u8 at_de_zero[], at_de_overflow[], at_de_idiv[], at_de_byte[], at_de_word[],
    at_de_aam[], after_int1[];
int32_t bounds[2] = {-2, 4};
int16_t bounds16[2] = {-2, 4};

static const struct {
    const u8 *code, *at;
    u32 vector;
} cases[] = {
    {de_zero, at_de_zero, V_DE},      {de_overflow, at_de_overflow, V_DE},
    {de_idiv, at_de_idiv, V_DE},      {de_byte, at_de_byte, V_DE},
    {de_word, at_de_word, V_DE},      {de_aam, at_de_aam, V_DE},
    {ud_ud2, ud_ud2, V_UD},           {ud_lock_reg, ud_lock_reg, V_UD},
    {ud_lock_mov, ud_lock_mov, V_UD}, {ud_lock_cmp, ud_lock_cmp, V_UD},
    {ud_0fff, ud_0fff, V_UD},         {ud_lea_reg, ud_lea_reg, V_UD},
    {ud_ff7, ud_ff7, V_UD},           {ud_fe2, ud_fe2, V_UD},
    {ud_c6_1, ud_c6_1, V_UD},
};

static void divide_and_undefined(u32 ring) {
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (is_tcg() && (cases[i].code == ud_c6_1 || cases[i].code == ud_lock_mov ||
                         cases[i].code == ud_lock_cmp))
            continue; /* QEMU takes C6 /1 for a MOV and does not mind these LOCKs */
        EQ(run(ring, cases[i].code), cases[i].vector);
        EQ(trap.error, 0);
        EQ(trap.eip, cases[i].at);
    }
}

static void bound(u32 ring) {
    EQ(run(ring, br_high), V_BR);
    EQ(trap.eip, br_high + 5);
    EQ(run(ring, br_low), V_BR);
    RUNS(ring, br_inside);
    RUNS(ring, bound_16);
}

static void no_math(u32 ring) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    write_cr0((cr0 & ~(CR0_EM | CR0_MP)) | CR0_TS | CR0_NE);
    EQ(run(ring, nm_fpu), V_NM);
    EQ(trap.eip, nm_fpu);
    EQ(run(ring, nm_sse), V_NM);
    RUNS(ring, nm_wait); /* WAIT looks at MP and TS together */
    write_cr0(read_cr0() | CR0_MP);
    EQ(run(ring, nm_wait), V_NM);
    write_cr0((read_cr0() & ~(CR0_TS | CR0_MP)) | CR0_EM);
    EQ(run(ring, nm_fpu), V_NM);
    EQ(run(ring, nm_sse), V_UD); /* EM makes SSE undefined */
    write_cr0((read_cr0() & ~CR0_EM) | CR0_MP);
    RUNS(ring, nm_fpu);
    RUNS(ring, nm_sse);
    write_cr4(cr4 & ~CR4_OSFXSR);
    EQ(run(ring, nm_sse), V_UD);
    write_cr4(cr4);
    write_cr0(cr0);
}

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        divide_and_undefined(ring);
        bound(ring);
        no_math(ring);
        EQ(run(ring, long_15), V_DONE);
        FAULTS(ring, gp_16_bytes, V_GP, 0);
        EQ(trap.eip, gp_16_bytes);
        if (!is_tcg()) { /* undefined there */
            EQ(run(ring, int1), V_DB);
            EQ(trap.eip, after_int1);
        }
    }
    EQ(run(0, ud_cr1), V_UD);
    CHECK(run(3, ud_cr1) == V_UD || trap.vector == V_GP);
}
