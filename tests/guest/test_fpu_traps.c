/*
 * Which of #UD, #NM, #MF and #XM an instruction raises: all of CR0.TS, EM, MP and CR4.OSFXSR,
 * OSXMMEXCPT against x87, WAIT, MMX, SSE, SSE2, FXSAVE, FXRSTOR, LDMXCSR and what needs none of
 * them; x87 stack faults (IE, SF, C1); MMX registers in the FXSAVE image. SDM volume 3A, table 2-2
 * "Action Taken By x87 FPU Instructions for Different Combinations of EM, MP, and TS",
 * section 13.1, table 13-1; volume 1, sections 8.5.1.1 "Stack Overflow or Underflow Exception"
 * and 9.5. Expected: per combination what those tables say; an MMX write leaves FFFFh in bits 64
 * to 79.
 */
#include "guest.h"

CODE(i_x87, "fnop" DONE);
CODE(i_fninit, "fninit" DONE);
CODE(i_fnstsw, "fnstsw %ax" DONE);
CODE(i_fld, "fld1" DONE);
CODE(i_wait, "fwait" DONE);
CODE(i_mmx, "movd %eax,%mm0" DONE);
CODE(i_emms, "emms" DONE);
CODE(i_sse, "xorps %xmm0,%xmm0" DONE);
CODE(i_sse2, "paddq %xmm0,%xmm1" DONE);
CODE(i_ldmxcsr, "ldmxcsr ft_mxcsr" DONE);
CODE(i_stmxcsr, "stmxcsr ft_image" DONE);
CODE(i_fxsave, "fxsave ft_image" DONE);
CODE(i_fxrstor, "fxrstor ft_image" DONE);
CODE(i_fnsave, "fnsave ft_image" DONE);
CODE(i_sfence, "sfence" DONE);
CODE(i_prefetch, "prefetcht0 ft_image" DONE);
CODE(i_movnti, "movnti %eax,ft_image" DONE);
u32 ft_mxcsr = 0x1f80, ft_unmasked = 0x1f00;
u8 ft_image[512] __attribute__((aligned(16)));
enum kind { X87, WAIT, MMX, SSE, FXS, NEITHER };
static const struct {
    const u8 *code;
    enum kind kind;
} instructions[] = {{i_x87, X87},          {i_fninit, X87},    {i_fnstsw, X87},
                    {i_fld, X87},          {i_fnsave, X87},    {i_wait, WAIT},
                    {i_mmx, MMX},          {i_emms, MMX},      {i_sse, SSE},
                    {i_sse2, SSE},         {i_ldmxcsr, SSE},   {i_stmxcsr, SSE},
                    {i_fxsave, FXS},       {i_fxrstor, FXS},   {i_sfence, NEITHER},
                    {i_prefetch, NEITHER}, {i_movnti, NEITHER}};

static u32 outcome(enum kind kind, u32 cr0, u32 cr4) {
    bool ts = cr0 & CR0_TS, em = cr0 & CR0_EM;
    switch (kind) {
    case X87:
        return ts || em ? V_NM : V_DONE;
    case WAIT:
        return ts && (cr0 & CR0_MP) ? V_NM : V_DONE;
    case MMX:
        return em ? V_UD : ts ? V_NM : V_DONE;
    case SSE:
        return em || !(cr4 & CR4_OSFXSR) ? V_UD : ts ? V_NM : V_DONE;
    case FXS: /* they work without OSFXSR, which only says whether XMM is included */
        return ts || em ? V_NM : V_DONE;
    default:
        return V_DONE;
    }
}

static void matrix(u32 ring) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    for (u32 bits = 0; bits < 16; bits++) {
        u32 new0 = (cr0 & ~(CR0_TS | CR0_EM | CR0_MP)) | (bits & 1 ? CR0_TS : 0) |
                   (bits & 2 ? CR0_EM : 0) | (bits & 4 ? CR0_MP : 0);
        u32 new4 = (cr4 & ~CR4_OSFXSR) | (bits & 8 ? CR4_OSFXSR : 0);
        for (u32 i = 0; i < sizeof instructions / sizeof *instructions; i++) {
            /* FXRSTOR wants an image with a valid MXCSR. */
            __asm__ volatile("clts");
            write_cr4(cr4 | CR4_OSFXSR);
            __asm__ volatile("fninit; fxsave ft_image" ::: "memory");
            write_cr4(new4);
            write_cr0(new0);
            u32 vector = run(ring, instructions[i].code);
            write_cr0(cr0);
            u32 expected = outcome(instructions[i].kind, new0, new4);
            if (is_tcg() && (instructions[i].code == i_emms ||
                             ((bits & 3) == 3 && outcome(instructions[i].kind, CR0_EM, 0) == V_UD)))
                continue; /* QEMU: EMMS always works, and #NM comes before #UD */
            if (vector != expected) {
                print_hex(bits << 8 | i);
                print(" ");
            }
            EQ(vector, expected);
            if (expected != V_DONE)
                EQ(trap.eip, instructions[i].code);
        }
    }
    write_cr0(cr0);
    write_cr4(cr4);
}

/* #XM where CR4.OSXMMEXCPT is set, else #UD. */
CODE(sse_invalid,
     "ldmxcsr ft_unmasked; xorps %xmm0,%xmm0; .globl at_div\nat_div: divps %xmm0,%xmm0;"
     "ldmxcsr ft_mxcsr" DONE);
extern const u8 at_div[];
static void simd(u32 ring) {
    u32 cr4 = read_cr4();
    for (u32 on = 0; on < 2 && !fpu_is_tcg(); on++) {
        write_cr4((cr4 & ~CR4_OSXMMEXCPT) | CR4_OSFXSR | (on ? CR4_OSXMMEXCPT : 0));
        EQ(run(ring, sse_invalid), on ? 19 : V_UD);
        EQ(trap.eip, at_div);
        u32 mxcsr;
        __asm__ volatile("stmxcsr %0; ldmxcsr ft_mxcsr" : "=m"(mxcsr));
        EQ(mxcsr & 0x3f, 1);
    }
    write_cr4(cr4);
}

/* Stack faults: IE and SF, and C1 tells overflow from underflow. */
CODE(underflow, "fninit; fstp %st(0); fnstsw %ax" DONE);
CODE(overflow, "fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fldz; fnstsw %ax;"
               "fnstenv ft_image; fstps ft_image+64" DONE);
CODE(one_empty, "fninit; fld1; fadd %st(3),%st; fnstsw %ax; fstps ft_image+64" DONE);
CODE(xch_empty, "fninit; fld1; fxch %st(1); fnstsw %ax" DONE);
CODE(unmasked_stack, "fninit; fldcw ft_cw; fld1; fmul %st(2),%st; .globl at_pending\nat_pending: "
                     "fwait" DONE);
u16 ft_cw = 0x37e;
extern const u8 at_pending[];
static void stack_faults(u32 ring) {
    RUNS(ring, underflow);
    EQ(trap.eax & 0x0241, 0x0041); /* C1 = 0 */
    RUNS(ring, overflow);
    EQ(trap.eax & 0x3a41, 0x3a41 & (0x3800 | 0x0241)); /* TOP 7, C1 = 1 */
    EQ(*(u32 *)(ft_image + 64), 0xffc00000);           /* the indefinite value went over ST(0) */
    RUNS(ring, one_empty);
    EQ(trap.eax & 0x0241, 0x0041);
    EQ(*(u32 *)(ft_image + 64), 0xffc00000);
    RUNS(ring, xch_empty);
    EQ(trap.eax & 0x0241, 0x0041);
    EQ(run(ring, unmasked_stack), V_MF);
    EQ(trap.eip, at_pending);
    u16 status;
    __asm__ volatile("fnstsw %0; fninit" : "=m"(status));
    EQ(status & 0x82c1, 0x80c1); /* ES, SF, IE; B mirrors ES */
}

/* After MMX: exponents FFFFh, TOP 0, all tags valid; EMMS empties them again. */
CODE(mmx_image, "fninit; fld1; mov $0x12345678,%eax; movd %eax,%mm2; fxsave ft_image" DONE);
CODE(mmx_emms, "fninit; fld1; mov $0x12345678,%eax; movd %eax,%mm2; emms; fxsave ft_image" DONE);
CODE(mmx_read, "fninit; fld1; movd %mm7,%eax; fxsave ft_image" DONE);
static void mmx(u32 ring) {
    memset(ft_image, 0, sizeof ft_image);
    RUNS(ring, mmx_image);
    EQ(*(u16 *)(ft_image + 2) & 0x3800, 0);
    EQ(ft_image[4], 0xff);
    EQ(*(u32 *)(ft_image + 32 + 2 * 16), 0x12345678);
    EQ(*(u32 *)(ft_image + 32 + 2 * 16 + 4), 0);
    if (!fpu_is_tcg()) /* QEMU does not */
        EQ(*(u16 *)(ft_image + 32 + 2 * 16 + 8), 0xffff);
    EQ(*(u16 *)(ft_image + 32 + 7 * 16 + 8), 0x3fff); /* FLD1 went to physical register 7 */
    EQ(*(u32 *)(ft_image + 32 + 7 * 16 + 4), 0x80000000);
    RUNS(ring, mmx_emms);
    EQ(ft_image[4], 0);
    EQ(*(u16 *)(ft_image + 2) & 0x3800, 0);
    if (!fpu_is_tcg()) /* QEMU does not */
        EQ(*(u16 *)(ft_image + 32 + 2 * 16 + 8), 0xffff);
    RUNS(ring, mmx_read); /* a read marks all as valid, too, and changes no register */
    EQ(ft_image[4], 0xff);
    EQ(trap.eax, 0);
    EQ(*(u16 *)(ft_image + 32 + 7 * 16 + 8), 0x3fff);
    __asm__ volatile("fninit");
}

void test(void) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    write_cr0((cr0 & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        matrix(ring);
        simd(ring);
        if (!fpu_is_tcg()) /* QEMU has no stack faults */
            stack_faults(ring);
        mmx(ring);
    }
    write_cr0(cr0);
    write_cr4(cr4);
}
