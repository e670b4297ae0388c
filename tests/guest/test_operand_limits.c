/*
 * The size of every instruction's memory operand, as the limit of its segment sees it: an operand
 * that ends at the limit is accessed, one that ends a byte beyond raises #GP(0); those that access
 * nothing never fault. SDM volume 3A, section 5.3 "Limit Checking"; each instruction's own page for
 * the operand's size.
 * Expected: per instruction the size in the table; a store that faults has written nothing.
 *
 * QEMU: TCG checks no segment limits
 * UNPAGED: an emulating carrier checks no limits of untranslated code
 */
#include "guest.h"

/* name, size in bytes, instruction with its operand at FS:[ECX] */
/* clang-format off */
#define TABLE(X) \
    X(fldenv, 28, "fldenv %fs:(%ecx)") X(fnstenv, 28, "fnstenv %fs:(%ecx)") \
    X(fnsave, 108, "fnsave %fs:(%ecx)") X(frstor, 108, "frstor %fs:(%ecx)") \
    X(fldenv16, 14, ".byte 0x66; fldenv %fs:(%ecx)") \
    X(fnstenv16, 14, ".byte 0x66; fnstenv %fs:(%ecx)") \
    X(fnsave16, 94, ".byte 0x66; fnsave %fs:(%ecx)") \
    X(frstor16, 94, ".byte 0x66; frstor %fs:(%ecx)") X(fldcw, 2, "fldcw %fs:(%ecx)") \
    X(fnstcw, 2, "fnstcw %fs:(%ecx)") X(fnstsw, 2, "fnstsw %fs:(%ecx)") \
    X(fldt, 10, "fldt %fs:(%ecx)") X(fstpt, 10, "fstpt %fs:(%ecx)") \
    X(fbld, 10, "fbld %fs:(%ecx)") X(fbstp, 10, "fbstp %fs:(%ecx)") \
    X(fildll, 8, "fildll %fs:(%ecx)") X(fistpll, 8, "fistpll %fs:(%ecx)") \
    X(fildl, 4, "fildl %fs:(%ecx)") X(filds, 2, "filds %fs:(%ecx)") \
    X(fists, 2, "fists %fs:(%ecx)") X(fldl, 8, "fldl %fs:(%ecx)") X(fstl, 8, "fstl %fs:(%ecx)") \
    X(flds, 4, "flds %fs:(%ecx)") X(fadds, 4, "fadds %fs:(%ecx)") \
    X(faddl, 8, "faddl %fs:(%ecx)") X(ficomps, 2, "ficomps %fs:(%ecx)") \
    X(fxsave, 512, "fxsave %fs:(%ecx)") X(ldmxcsr, 4, "ldmxcsr %fs:(%ecx)") \
    X(stmxcsr, 4, "stmxcsr %fs:(%ecx)") X(movq, 8, "movq %fs:(%ecx),%mm0") \
    X(movq_store, 8, "movq %mm0,%fs:(%ecx)") X(movd, 4, "movd %fs:(%ecx),%mm0") \
    X(paddb, 8, "paddb %fs:(%ecx),%mm0") X(punpcklbw, 4, "punpcklbw %fs:(%ecx),%mm0") \
    X(movntq, 8, "movntq %mm0,%fs:(%ecx)") X(movups, 16, "movups %fs:(%ecx),%xmm0") \
    X(movups_store, 16, "movups %xmm0,%fs:(%ecx)") X(movlps, 8, "movlps %fs:(%ecx),%xmm0") \
    X(movhps, 8, "movhps %xmm0,%fs:(%ecx)") X(movss, 4, "movss %fs:(%ecx),%xmm0") \
    X(movsd, 8, "movsd %xmm0,%fs:(%ecx)") X(addss, 4, "addss %fs:(%ecx),%xmm0") \
    X(cvtsi2ss, 4, "cvtsi2ss %fs:(%ecx),%xmm0") X(cvtps2pd, 8, "cvtps2pd %fs:(%ecx),%xmm0") \
    X(cvttsd2si, 8, "cvttsd2si %fs:(%ecx),%eax") X(cvtpi2ps, 8, "cvtpi2ps %fs:(%ecx),%xmm0") \
    X(pinsrw, 2, "pinsrw $1,%fs:(%ecx),%mm0") X(comiss, 4, "comiss %fs:(%ecx),%xmm0") \
    X(movnti, 4, "movnti %eax,%fs:(%ecx)") X(cmpxchg8b, 8, "cmpxchg8b %fs:(%ecx)") \
    X(cmpxchg, 4, "cmpxchg %ebx,%fs:(%ecx)") X(xadd, 2, "xaddw %ax,%fs:(%ecx)") \
    X(xchg, 1, "xchgb %al,%fs:(%ecx)") X(bound, 8, "bound %eax,%fs:(%ecx)") \
    X(bound16, 4, ".byte 0x66; bound %eax,%fs:(%ecx)") X(sgdt, 6, "sgdt %fs:(%ecx)") \
    X(sidt, 6, "sidt %fs:(%ecx)") X(sldt, 2, "sldt %fs:(%ecx)") X(str, 2, "str %fs:(%ecx)") \
    X(smsw, 2, "smsw %fs:(%ecx)") X(lar, 2, "lar %fs:(%ecx),%eax") \
    X(lsl, 2, "lsl %fs:(%ecx),%eax") X(verr, 2, "verr %fs:(%ecx)") \
    X(arpl, 2, "arpl %ax,%fs:(%ecx)") X(les, 6, "les %fs:(%ecx),%eax") \
    X(lgs16, 4, ".byte 0x66; lgs %fs:(%ecx),%eax") X(mov_sreg, 2, "mov %fs:(%ecx),%gs") \
    X(mov_from_sreg, 2, "mov %ds,%fs:(%ecx)") X(push_m, 4, "push %fs:(%ecx)") \
    X(pushw_m, 2, "pushw %fs:(%ecx)") X(pop_m, 4, "push $0; pop %fs:(%ecx)") \
    X(popw_m, 2, "pushw $0; popw %fs:(%ecx)") X(movzx, 1, "movzbl %fs:(%ecx),%eax") \
    X(movsx, 2, "movswl %fs:(%ecx),%eax") X(setz, 1, "setz %fs:(%ecx)") \
    X(cmov, 4, "cmovz %fs:(%ecx),%eax") X(imul, 4, "imul %fs:(%ecx),%eax") \
    X(mul, 1, "mulb %fs:(%ecx)") X(shld, 4, "shld $3,%eax,%fs:(%ecx)") \
    X(rcl, 2, "rclw %fs:(%ecx)") X(bt, 4, "btl $31,%fs:(%ecx)") \
    X(bts16, 2, "btsw $15,%fs:(%ecx)") X(bsf, 4, "bsf %fs:(%ecx),%eax") \
    X(inc, 4, "incl %fs:(%ecx)") X(not, 2, "notw %fs:(%ecx)") X(test, 4, "testl $1,%fs:(%ecx)") \
    X(add, 4, "add %eax,%fs:(%ecx)") X(lods, 4, "fs lodsl") \
    X(cmps, 2, "mov $scratch,%edi; fs cmpsw") X(clflush, 1, "clflush %fs:(%ecx)") \
    X(lea, 0, ".byte 0x64; lea (%ecx),%eax") X(nop, 0, "nopl %fs:(%ecx)") \
    X(prefetch, 0, "prefetcht0 %fs:(%ecx)")
/* clang-format on */
#define DEFINE(name, size, text) CODE(ol_##name, text DONE);
TABLE(DEFINE)
#define ROW(name, size, text) {ol_##name, size, #name},
static const struct {
    const u8 *code;
    u16 size;
    const char *name;
} rows[] = {TABLE(ROW)};

enum { LIMIT = 0x2ff };

static void one(u32 i, u16 selector, u32 offset, bool fits) {
    u8 before[LIMIT + 17];
    memset(scratch, 0, LIMIT + 17);
    memcpy(before, scratch, sizeof before);
    __asm__ volatile("fninit; fld1");
    reset_run(3);
    in.fs = selector;
    in.ecx = in.esi = offset;
    u32 vector = run(3, rows[i].code);
    if (vector != (fits ? V_DONE : V_GP)) {
        print(rows[i].name);
        print(" ");
        EQ(vector, fits ? V_DONE : V_GP);
    }
    if (fits)
        return;
    EQ(trap.error, 0);
    if (memcmp(before, scratch, sizeof before)) {
        print(rows[i].name);
        print(" ");
        CHECK(!"memory is as before");
    }
}

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR);
    u16 selector = gdt_set(FREE_GDT, descriptor(SCRATCH, LIMIT, 0xf2, 4));
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
        u32 size = rows[i].size, last = LIMIT + 1 - size;
        one(i, selector, last, true);
        if (!size) {
            one(i, selector, 0xfffffff0, true);
            continue;
        }
        one(i, selector, last + 1, false);
        one(i, selector, LIMIT + 1, false);
        one(i, selector, 0xffffffff, false);
        if (size > 2)
            one(i, selector, LIMIT, false);
    }
    __asm__ volatile("fninit");
    gdt_set(FREE_GDT, 0);
}
