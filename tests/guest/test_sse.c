/*
 * SSE and SSE2 (and SSE3 to SSE4.2 where CPUID has them): moves, arithmetic, compares,
 * conversions, shuffles, integer forms, MXCSR rounding, streaming stores, masked moves. SDM
 * volume 1, chapters 10 and 11.
 * Expected: results computed by hand; registers survive traps and page faults.
 */
#include "guest.h"

/* By bits: the compiler must not use floating point here. */
#define IS(variable, value)                                                                        \
    (!memcmp(&(variable), &(const __typeof__(variable)){value}, sizeof(variable)))

float a4[4] __attribute__((aligned(16))) = {1, 2, 3, 4},
            b4[4] __attribute__((aligned(16))) = {10, 20, 30, 40};
double a2[2] __attribute__((aligned(16))) = {1.25, -2.5},
             b2[2] __attribute__((aligned(16))) = {4, 8};
float out4[4] __attribute__((aligned(16)));
double out2[2] __attribute__((aligned(16)));
u32 i4[4] __attribute__((aligned(16))) = {1, 0xffffffff, 0x80000000, 7},
          iout[4] __attribute__((aligned(16)));
u32 rounding = 0x3f80, normal = 0x1f80;
CODE(packed, "movaps a4,%xmm0; movaps b4,%xmm1; addps %xmm1,%xmm0; mulps a4,%xmm0; subps b4,%xmm0;"
             "divps a4,%xmm0; maxps b4,%xmm0; movaps %xmm0,out4" DONE);
CODE(doubles, "movapd a2,%xmm7; addpd b2,%xmm7; sqrtsd b2,%xmm7; movupd %xmm7,out2; movsd "
              "a2,%xmm2; comisd b2,%xmm2;"
              "setb %al; ucomisd %xmm2,%xmm2; sete %ah" DONE);
CODE(convert,
     "cvttsd2si a2,%eax; cvtsd2si a2+8,%ebx; mov $-9,%ecx; cvtsi2sd %ecx,%xmm0; movsd %xmm0,out2;"
     "cvtss2sd a4+8,%xmm1; movsd %xmm1,out2+8; ldmxcsr rounding; cvtsd2si a2,%edx; ldmxcsr "
     "normal" DONE);
CODE(ints, "movdqa i4,%xmm0; paddd %xmm0,%xmm0; pshufd $0x1b,%xmm0,%xmm1; pxor i4,%xmm1; movdqu "
           "%xmm1,iout;"
           "pmovmskb %xmm0,%eax; movd %xmm1,%ebx; pcmpeqd %xmm2,%xmm2; movmskps %xmm2,%ecx; pslldq "
           "$4,%xmm2;"
           "movmskps %xmm2,%edx" DONE);
CODE(stream, "movaps a4,%xmm0; movntps %xmm0,out4; mov $0x1234,%eax; movnti %eax,iout; sfence; "
             "mfence; lfence;"
             "movhlps %xmm0,%xmm1; movlps %xmm1,out2; prefetchnta out4" DONE);
CODE(flush, "clflush out2" DONE);
CODE(masked, "pcmpeqd %xmm1,%xmm1; psrldq $12,%xmm1; movdqa i4,%xmm0; mov $iout,%edi; maskmovdqu "
             "%xmm1,%xmm0" DONE);
CODE(spin_int,
     "movaps a4,%xmm5; movaps b4,%xmm3; int $0x91; addps %xmm3,%xmm5; movaps %xmm5,out4" DONE);
CODE(load_far, "movaps b4,%xmm6; movaps (%ecx),%xmm5; movaps %xmm6,out4" DONE);
CODE(sse3, "movaps a4,%xmm0; haddps %xmm0,%xmm0; movaps %xmm0,out4; lddqu i4,%xmm1; fninit; fld1; "
           "fisttpl iout" DONE);
CODE(ssse3, "movdqa i4,%xmm0; pabsd %xmm0,%xmm0; pshufb %xmm0,%xmm0; palignr $4,i4,%xmm0; movdqa "
            "%xmm0,iout" DONE);
CODE(sse41, "movdqa i4,%xmm0; pmulld i4,%xmm0; pextrd $3,%xmm0,%eax; pinsrd $0,%eax,%xmm0; ptest "
            "%xmm0,%xmm0;"
            "setz %bl; roundsd $1,a2+8,%xmm1; movsd %xmm1,out2; movdqa %xmm0,iout" DONE);
CODE(sse42, "mov $-1,%eax; crc32b i4,%eax; crc32l i4+4,%eax; mov $0xf0f0,%ecx; popcnt %ecx,%ecx;"
            "movdqa i4,%xmm0; pcmpgtq i4,%xmm0; movd %xmm0,%edx" DONE);

static bool back(struct frame *f) {
    if (f->vector != 0x91)
        return false;
    __asm__ volatile("pushf; popf");
    return true;
}

static bool fill(struct frame *f) {
    if (f->vector != V_PF)
        return false;
    map(read_cr2() & ~0xfffu, SCRATCH, PT_P | PT_W | PT_U);
    return true;
}

static void newer(u32 ring) {
    u32 features = cpuid(1).ecx;
    if (features & 1) {
        RUNS(ring, sse3);
        CHECK(IS(out4[0], 3.0) && IS(out4[1], 7.0));
        EQ(iout[0], 1);
    } else
        EQ(run(ring, sse3), V_UD);
    if (features & 1 << 9) {
        RUNS(ring, ssse3);
        EQ(iout[0], 0xffffffff);
        EQ(iout[2], 7);
    } else
        EQ(run(ring, ssse3), V_UD);
    if (features & 1 << 19) {
        RUNS(ring, sse41);
        EQ(trap.eax, 49);
        EQ(iout[0], 49);
        EQ(iout[1], 1);
        CHECK(IS(out2[0], -3.0));
    } else
        EQ(run(ring, sse41), V_UD);
    if (features & 1 << 20) {
        RUNS(ring, sse42);
        EQ(trap.edx, 0);
        EQ(trap.ecx, 8);
    } else
        EQ(run(ring, sse42), V_UD);
}

void test(void) {
    if (!(cpuid(1).edx & 1 << 26))
        skip("this CPU has no SSE2");
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    __asm__ volatile("fninit; ldmxcsr normal");
    idt_set(0x91, gate((u32)trap_stubs + 16 * 0x91, KERNEL_CODE, 0xee));
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, packed);
        CHECK(IS(out4[0], 10.0) && IS(out4[1], 20.0) && IS(out4[2], 30.0) && IS(out4[3], 40.0));
        RUNS(ring, doubles);
        CHECK(IS(out2[0], 2.0) && IS(out2[1], 5.5));
        EQ(trap.eax & 0x101, 0x101);
        RUNS(ring, convert);
        EQ(trap.eax, 1);
        EQ(trap.ebx, (u32)-2);
        EQ(trap.edx, 1);
        CHECK(IS(out2[0], -9.0) && IS(out2[1], 3.0));
        RUNS(ring, ints);
        EQ(iout[0], 14 ^ 1);
        EQ(iout[1], 0 ^ 0xffffffff);
        EQ(iout[2], 0xfffffffe ^ 0x80000000);
        EQ(iout[3], 2 ^ 7);
        EQ(trap.eax, 0x00f0);
        EQ(trap.ebx, 15);
        EQ(trap.ecx, 15);
        EQ(trap.edx, 14);
        RUNS(ring, stream);
        CHECK(IS(out4[3], 4.0));
        EQ(iout[0], 0x1234);
        EQ(((u32 *)out2)[0], 0x40400000);
        EQ(run(ring, flush), cpuid(1).edx & 1 << 19 ? V_DONE : V_UD);
        iout[1] = 0x5555;
        RUNS(ring, masked);
        EQ(iout[0], 1);
        EQ(iout[1], 0x5555);
        trap_hook = back;
        RUNS(ring, spin_int);
        CHECK(IS(out4[0], 11.0) && IS(out4[3], 44.0));
        trap_hook = NULL;
        newer(ring);
        paging_prepare();
        pte(0x30000000);
        paging_on();
        trap_hook = fill;
        reset_run(ring);
        in.ecx = 0x30000100;
        RUNS(ring, load_far);
        CHECK(IS(out4[0], 10.0) && IS(out4[3], 40.0));
        trap_hook = NULL;
        paging_off();
    }
    idt_set(0x91, default_gate(0x91));
}
