/*
 * Whatever CPUID announces works; what it does not announce raises #UD (or #GP for an MSR). SDM
 * volume 2A, "CPUID", tables 3-10 and 3-11; each instruction's own page, "#UD If CPUID...".
 * Expected: per instruction, V_DONE exactly when its feature bit is set; the leaves are consistent.
 * UNPAGED: untranslated applications find the processor's own features
 */
#include "guest.h"

CODE(f_cmov, "cmp %eax,%eax; cmove %ecx,%eax" DONE);
CODE(f_cx8, "cmpxchg8b scratch" DONE);
CODE(f_tsc, "rdtsc" DONE);
CODE(f_fxsr, "fxsave scratch; fxrstor scratch" DONE);
CODE(f_mmx, "pxor %mm0,%mm0; emms" DONE);
CODE(f_sse, "xorps %xmm0,%xmm0" DONE);
CODE(f_sse2, "pxor %xmm0,%xmm0; pause" DONE);
CODE(f_sse2_integer, "pavgb %xmm0,%xmm0" DONE);
CODE(f_sse3_x87, "fninit; fld1; fisttpl scratch" DONE);
CODE(f_clflush, "clflush scratch" DONE);
CODE(f_sse3, "haddps %xmm0,%xmm0" DONE);
CODE(f_ssse3, "pabsd %xmm0,%xmm0" DONE);
CODE(f_sse41, "pmulld %xmm0,%xmm0" DONE);
CODE(f_sse42, "pcmpgtq %xmm0,%xmm0; crc32 %eax,%eax" DONE);
CODE(f_popcnt, "popcnt %ecx,%eax" DONE);
CODE(f_movbe, "movbe scratch,%eax" DONE);
CODE(f_pclmul, "pclmulqdq $0,%xmm0,%xmm0" DONE);
CODE(f_aes, "aesenc %xmm0,%xmm0" DONE);
CODE(f_rdrand, "rdrand %eax" DONE);
CODE(f_rdseed, "rdseed %eax" DONE);
CODE(f_xgetbv, "xor %ecx,%ecx; xgetbv" DONE);
CODE(f_avx, ".byte 0xc5,0xfc,0x57,0xc0" DONE); /* vxorps ymm0,ymm0,ymm0 */
CODE(f_avx2, ".byte 0xc5,0xfd,0xef,0xc0" DONE);
CODE(f_bmi1, ".byte 0xc4,0xe2,0x78,0xf2,0xc1" DONE); /* andn eax,eax,ecx */
CODE(f_bmi2, ".byte 0xc4,0xe2,0x79,0xf7,0xc1" DONE); /* shlx eax,ecx,eax */
CODE(f_fma, ".byte 0xc4,0xe2,0x79,0x98,0xc1" DONE);
CODE(f_f16c, ".byte 0xc4,0xe2,0x79,0x13,0xc1" DONE);
CODE(f_avx512, ".byte 0x62,0xf1,0x7c,0x48,0x57,0xc0" DONE);
CODE(f_adx, "adcx %eax,%ecx" DONE);
CODE(f_clflushopt, ".byte 0x66,0x0f,0xae,0x3d; .long scratch" DONE);
CODE(f_rdtscp, "rdtscp" DONE);
CODE(f_rdpid, ".byte 0xf3,0x0f,0xc7,0xf8" DONE);
CODE(f_3dnow, ".byte 0x0f,0x0f,0xc0,0x0d" DONE); /* pi2fd */
CODE(f_sse4a, ".byte 0xf2,0x0f,0x79,0xc1" DONE); /* insertq */
CODE(f_sha, ".byte 0x0f,0x38,0xc8,0xc1" DONE);
CODE(f_gfni, ".byte 0x66,0x0f,0x38,0xcf,0xc1" DONE);
CODE(f_xsave, "mov $1,%eax; xor %edx,%edx; xsave scratch" DONE);
CODE(f_pkru, "xor %ecx,%ecx; xor %edx,%edx; rdpkru" DONE);
CODE(f_vmcall, ".byte 0x0f,0x01,0xc1" DONE);
CODE(f_getsec, ".byte 0x0f,0x37" DONE);
CODE(f_tbm, ".byte 0x8f,0xe9,0x78,0x01,0xc8" DONE);
CODE(f_lzcnt, "mov $1,%ecx; mov $0,%eax; lzcnt %ecx,%eax" DONE);
CODE(f_tzcnt, "mov $8,%ecx; tzcnt %ecx,%eax" DONE);

enum { L1D, L1C, L7B, X1D, X1C, L7C, NEVER };
static const struct {
    const u8 *code;
    u8 leaf, bit;
} features[] = {
    {f_sse2_integer, L1D, 26}, {f_sse3_x87, L1C, 0},    {f_cmov, L1D, 15},    {f_cx8, L1D, 8},
    {f_tsc, L1D, 4},           {f_fxsr, L1D, 24},       {f_mmx, L1D, 23},     {f_sse, L1D, 25},
    {f_sse2, L1D, 26},         {f_clflush, L1D, 19},    {f_sse3, L1C, 0},     {f_ssse3, L1C, 9},
    {f_sse41, L1C, 19},        {f_sse42, L1C, 20},      {f_popcnt, L1C, 23},  {f_movbe, L1C, 22},
    {f_pclmul, L1C, 1},        {f_aes, L1C, 25},        {f_rdrand, L1C, 30},  {f_rdseed, L7B, 18},
    {f_xgetbv, L1C, 27},       {f_avx, L1C, 28},        {f_avx2, L7B, 5},     {f_bmi1, L7B, 3},
    {f_bmi2, L7B, 8},          {f_fma, L1C, 12},        {f_f16c, L1C, 29},    {f_avx512, L7B, 16},
    {f_adx, L7B, 19},          {f_clflushopt, L7B, 23}, {f_rdtscp, X1D, 27},  {f_rdpid, L7C, 22},
    {f_3dnow, X1D, 31},        {f_sse4a, X1C, 6},       {f_sha, L7B, 29},     {f_gfni, L7C, 8},
    {f_xsave, L1C, 27},        {f_pkru, L7C, 4},        {f_vmcall, NEVER, 0}, {f_getsec, NEVER, 0},
    {f_tbm, X1C, 21},
};

static bool announced(u8 leaf, u8 bit) {
    u32 basic = cpuid(0).eax, extended = cpuid(0x80000000).eax;
    struct cpuid one = cpuid(1), seven = {0}, more = {0};
    if (basic >= 7)
        seven = cpuid(7);
    if (extended >= 0x80000001u && extended < 0x80010000u)
        more = cpuid(0x80000001);
    u32 word[] = {one.edx, one.ecx, seven.ebx, more.edx, more.ecx, seven.ecx, 0};
    return word[leaf] >> bit & 1;
}

static void instructions(u32 ring) {
    for (u32 i = 0; i < sizeof features / sizeof *features; i++) {
        bool has = announced(features[i].leaf, features[i].bit);
        if (has && features[i].leaf == L1C && features[i].bit >= 27 && features[i].bit != 30)
            continue; /* XSAVE and AVX need CR4.OSXSAVE, which is not set here */
        if (is_tcg() && features[i].code == f_tbm)
            continue; /* QEMU takes it for a POP */
        u32 vector = run(ring, features[i].code);
        if ((vector == V_DONE) == has && (vector == V_DONE || vector == V_UD))
            continue;
        print("feature ");
        print_dec(i);
        print(has ? " (announced):" : " (not announced):");
        print(" wrong\n");
        EQ(vector, has ? V_DONE : V_UD);
    }
}

/* LZCNT and TZCNT are BSR and BSF where they are not announced. */
static void counts(u32 ring) {
    RUNS(ring, f_lzcnt);
    EQ(trap.eax, announced(X1C, 5) ? 31 : 0);
    RUNS(ring, f_tzcnt);
    EQ(trap.eax, 3);
}

static void leaves(void) {
    struct cpuid zero = cpuid(0), one = cpuid(1);
    CHECK(zero.eax >= 1 && zero.eax < 0x100);
    CHECK(zero.ebx && zero.ecx && zero.edx);
    EQ(one.edx & 1, 1);
    CHECK((one.edx >> 25 & 1) <= (one.edx >> 24 & 1)); /* SSE needs FXSR */
    CHECK((one.edx >> 26 & 1) <= (one.edx >> 25 & 1));
    struct cpuid beyond = cpuid(zero.eax), far = cpuid(0x0fffffff);
    if (!is_tcg()) /* a leaf above the highest basic one gives that one's data, on Intel's */
        CHECK(far.eax == beyond.eax || far.eax == 0);
    u32 flags;
    __asm__ volatile("pushf; xorl $0x200000,(%%esp); popf; pushf; pop %0; push $2; popf"
                     : "=r"(flags));
    EQ(flags >> 21 & 1, 1); /* ID can be changed: there is a CPUID */
}

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    u32 edx = cpuid(1).edx;
    write_cr4(read_cr4() | (edx >> 24 & 1 ? CR4_OSFXSR : 0) | (edx >> 25 & 1 ? CR4_OSXMMEXCPT : 0));
    leaves();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        instructions(ring);
        counts(ring);
        __asm__ volatile("fninit");
    }
}
