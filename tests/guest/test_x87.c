/*
 * x87: loads and stores of all formats, arithmetic, compares into EFLAGS, control and status
 * words, FSAVE, FRSTOR, FXSAVE, FXRSTOR, environment pointers, the register stack, MMX aliasing.
 * SDM volume 1, chapter 8.
 * Expected: results computed by hand; FXSAVE leaves the bytes beyond XMM7 alone; FIP names the
 * last x87 instruction (with CS) or is not kept at all.
 */
#include "guest.h"

/* By bits: the compiler must not use floating point here. */
#define IS(variable, value)                                                                        \
    (!memcmp(&(variable), &(const __typeof__(variable)){value}, sizeof(variable)))

double two = 2.0, three = 3.0, result;
float single = 1.5f;
u64 integer = 123456789012345ull, back;
u16 control, status;
u8 image[512] __attribute__((aligned(16)));
u32 environment[7], state[27];
u8 ten_bytes[10];
CODE(
    arith,
    "fninit; fldl two; fldl three; fmulp; fadds single; fsubrl two; fabs; fchs; fsqrt; fstp %st(0);"
    "fldl three; fdivl two; fstpl result" DONE);
CODE(integers,
     "fninit; fildll integer; fistpll back; push $-77; fildl (%esp); fistps 2(%esp); pop %eax;"
     "fld1; fldpi; fldz; fldl2e; fcompp; fnstsw %ax; mov %ax,status" DONE);
CODE(compare, "fninit; fldl three; fldl two; fcomi %st(1),%st; setb %al; setz %ah; fucomip "
              "%st(1),%st; seta %bl;"
              "fstp %st(0); fldz; ftst; fnstsw %ax; shr $8,%eax; fstp %st(0)" DONE);
CODE(control_words,
     "fninit; fnstcw control; movw $0x0f7f,-2(%esp); fldcw -2(%esp); fnstcw -4(%esp);"
     "movzwl -4(%esp),%eax; fldl three; fldl two; fdivp; fldpi; frndint; fistpl -8(%esp);"
     "mov -8(%esp),%ebx; fninit" DONE);
CODE(bcd, "fninit; fildll integer; fbstp ten_bytes; fbld ten_bytes; fistpll back" DONE);
CODE(save, "fninit; fldl two; fldl three; fnsave state; fnstsw %ax; mov %eax,%ebx; frstor state; "
           "fstpl result; fnstcw control" DONE);
CODE(env,
     "fninit; fldl two; .globl env_at\nenv_at: fmull three; nop; nop; fnstenv environment" DONE);
CODE(fxsave_it,
     "fninit; fldl two; fldl three; fxsave image; fninit; fxrstor image; faddp; fstpl result" DONE);
CODE(fcmov, "fninit; fldl two; fldl three; cmp %eax,%eax; fcmove %st(1),%st; fstpl result; fstp "
            "%st(0)" DONE);
CODE(
    transcendental,
    "fninit; fldpi; fsin; fabs; fld1; fcomip %st(1),%st; seta %al; fstp %st(0); fld1; fld1; fscale;"
    "fstpl result; fstp %st(0); fldl three; fxam; fnstsw %ax; fstp %st(0)" DONE);
CODE(mmx, "fninit; mov $0x01020304,%eax; movd %eax,%mm0; punpcklbw %mm0,%mm0; movd %mm0,%ebx; "
          "paddb %mm0,%mm0;"
          "movq %mm0,back; emms" DONE);
CODE(stack_fault, "fninit; fstp %st(0); fnstsw %ax; fninit" DONE);
CODE(tbyte,
     "fninit; fldl three; fstpt ten_bytes; fldt ten_bytes; fstps -4(%esp); mov -4(%esp),%eax" DONE);
extern const u8 env_at[];

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, arith);
        CHECK(IS(result, 1.5));
        back = 0;
        RUNS(ring, integers);
        CHECK(back == 123456789012345ull);
        EQ(trap.eax >> 16, 0xffb3);
        RUNS(ring, compare);
        EQ(trap.ebx & 1, 0);
        EQ(trap.eax & 0x45, 0x40);
        RUNS(ring, control_words);
        EQ(control, 0x37f);
        EQ(trap.eax, 0xf7f);
        EQ(trap.ebx, 3);
        back = 0;
        RUNS(ring, bcd);
        CHECK(back == 123456789012345ull);
        EQ(ten_bytes[0], 0x45);
        RUNS(ring, save);
        CHECK(IS(result, 3.0));
        EQ(trap.ebx & 0xffff, 0); /* FNSAVE initialises */
        EQ(state[0] & 0xffff, 0x37f);
        EQ(state[2] & 0xffff, 0x0fff);
        RUNS(ring, env);
        /* QEMU keeps the pointers, but not always; translated code loses them (zero) where the
         * host's FXSAVE does, as AMD's do for want of a pending exception. */
        if (!is_tcg() && environment[3]) {
            EQ(environment[3], env_at);
            EQ(environment[4] & 0xffff, ring ? USER_CODE : KERNEL_CODE);
            EQ(environment[5], &three);
        }
        memset(image, 0xee, sizeof image);
        RUNS(ring, fxsave_it);
        CHECK(IS(result, 5.0));
        EQ(image[4], 0xc0); /* abridged tag: two registers in use */
        EQ(image[288], 0xee);
        EQ(image[415], 0xee);
        EQ(image[511], 0xee);
        RUNS(ring, fcmov);
        CHECK(IS(result, 2.0));
        RUNS(ring, transcendental);
        CHECK(IS(result, 2.0));
        EQ(trap.eax & 0x4500, 0x0400);
        RUNS(ring, mmx);
        EQ(trap.ebx, 0x03030404);
        CHECK(back == 0x0202040406060808ull);
        RUNS(ring, stack_fault);
        if (!fpu_is_tcg()) /* QEMU has no stack faults */
            EQ(trap.eax & 0x41, 0x41);
        RUNS(ring, tbyte);
        EQ(trap.eax, 0x40400000);
        EQ(ten_bytes[9], 0x40);
    }
}
