/*
 * Unmasked x87 errors arrive as #MF at the next waiting instruction (CR0.NE=1), unmasked SSE
 * errors as #XM at once; alignment checks as #AC at ring 3 only. SDM volume 1, section 8.7
 * "Handling x87 FPU Exceptions in Software"; volume 3A, section 6.15, interrupts 16, 17 and 19.
 * Expected: vector, EIP of the instruction that found out, and the status bits.
 * UNPAGED: an emulating carrier checks no alignment of untranslated code
 */
#include "guest.h"

u32 zero, one = 0x3f800000, control = 0x037b, sse_control = 0x1d80, sse_default = 0x1f80;
u16 status;
CODE(x87_divide, "fninit; fldcw control; flds one; fdivs zero; nop; fnstsw status;"
                 ".globl at_wait\nat_wait: fwait" DONE);
CODE(x87_divide2,
     "fninit; fldcw control; flds one; fdivs zero; .globl at_fld1\nat_fld1: fld1" DONE);
CODE(x87_masked, "fninit; flds one; fdivs zero; fwait; fnstsw %ax; fnclex; fninit" DONE);
CODE(sse_divide,
     "ldmxcsr sse_control; movss one,%xmm0; .globl at_divss\nat_divss: divss zero,%xmm0" DONE);
CODE(sse_masked, "ldmxcsr sse_default; movss one,%xmm0; divss zero,%xmm0; stmxcsr 4(%esp);mov "
                 "4(%esp),%eax" DONE);
CODE(bad_mxcsr, "movl $0xffffffff,-4(%esp); ldmxcsr -4(%esp)" DONE);
CODE(unaligned, "mov 1(%esp),%eax" DONE);
CODE(aligned, "mov 4(%esp),%eax" DONE);
CODE(sse_unaligned, "movaps 4(%esp),%xmm0" DONE);
extern const u8 at_wait[], at_fld1[], at_divss[];

void test(void) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    write_cr0((cr0 & ~(CR0_TS | CR0_EM)) | CR0_NE | CR0_MP);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        reset_run(ring);
        in.esp = USER_STACK_TOP - 64;
        EQ(run(ring, x87_divide), V_MF);
        EQ(trap.eip, at_wait);
        EQ(status & 0x84, 0x84);
        if (!fpu_is_tcg()) { /* QEMU looks for pending errors at FWAIT only */
            EQ(run(ring, x87_divide2), V_MF);
            EQ(trap.eip, at_fld1);
        }
        RUNS(ring, x87_masked);
        EQ(trap.eax & 0x84, 4);
        if (!fpu_is_tcg()) { /* QEMU raises no SIMD exceptions */
            EQ(run(ring, sse_divide), 19);
            EQ(trap.eip, at_divss);
        }
        reset_run(ring);
        in.esp = USER_STACK_TOP - 64;
        RUNS(ring, sse_masked);
        EQ(trap.eax & 4, 4);
        if (!fpu_is_tcg())
            FAULTS(ring, bad_mxcsr, V_GP, 0);
        reset_run(ring);
        in.esp = USER_STACK_TOP - 64;
        if (!fpu_is_tcg())
            FAULTS(ring, sse_unaligned, V_GP, 0);
        __asm__ volatile("fninit; ldmxcsr sse_default");

        /* #AC needs AM, AC and ring 3. */
        for (u32 bits = 0; bits < 4; bits++) {
            write_cr0((read_cr0() & ~CR0_AM) | ((bits & 1) ? CR0_AM : 0));
            reset_run(ring);
            in.esp = USER_STACK_TOP - 64;
            in.eflags |= (bits & 2) ? F_AC : 0;
            bool trapped = ring == 3 && bits == 3;
            if (trapped && is_tcg())
                continue; /* QEMU has no alignment checks */
            EQ(run(ring, unaligned), trapped ? V_AC : V_DONE);
            EQ(trap.error, 0);
        }
        reset_run(ring);
        in.esp = USER_STACK_TOP - 64;
        in.eflags |= F_AC;
        RUNS(ring, aligned);
        write_cr0(read_cr0() & ~CR0_AM);
    }
    write_cr4(cr4);
    write_cr0(cr0);
}
