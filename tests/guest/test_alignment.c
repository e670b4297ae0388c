/*
 * Alignment checks (CR0.AM, EFLAGS.AC, ring 3) of every kind of operand: integers, bit strings,
 * pointers, descriptor tables, the stack, x87, MMX and SSE. SDM volume 3A, section 6.15, "Interrupt
 * 17-Alignment Check Exception (#AC)", table 6-7; section 3.5.1 for SGDT.
 * Expected: each operand may begin only at the offsets from a multiple of 16 that its row names,
 * else #AC with error code 0; SSE operands that must be aligned raise #GP(0) whatever AC says.
 * FXSAVE, MOVUPS and MASKMOVDQU as on AMD family 1Ah: the manuals leave them to the processor.
 * QEMU: has no alignment checks
 * UNPAGED: an emulating carrier checks no alignment of untranslated code
 */
#include "guest.h"

#define OPERANDS(X)                                                                                \
    X(word, "movw (%edx),%ax", 0x5555, 0)                                                          \
    X(dword, "addl $1,(%edx)", 0x1111, 0)                                                          \
    X(quadword, "cmpxchg8b (%edx)", 0x0101, 0)                                                     \
    X(bits16, "btw $3,(%edx)", 0x5555, 0)                                                          \
    X(bits32, "btsl $3,(%edx)", 0x1111, 0)                                                         \
    X(byte, "movb (%edx),%al", 0xffff, 0)                                                          \
    X(string, "mov %edx,%esi; lodsl", 0x1111, 0)                                                   \
    X(bounds, "xor %eax,%eax; bound %eax,(%edx)", 0x1111, 0)                                       \
    X(push, "mov %esp,%ecx; lea 4(%edx),%esp; push %eax; mov %ecx,%esp", 0x1111, 0)                \
    X(frame, "mov %esp,%ecx; lea 16(%edx),%esp; lcall $0x1b,$1f; ud2; 1: mov %ecx,%esp", 0x1111,   \
      0)                                                                                           \
    X(gdtr, "sgdt (%edx)", 0x4444, 0)                                                              \
    X(selector, "str (%edx)", 0x5555, 0)                                                           \
    X(control_word, "fnstcw (%edx)", 0x5555, 0)                                                    \
    X(single, "flds (%edx)", 0x1111, 0)                                                            \
    X(real, "fldl (%edx)", 0x0101, 0)                                                              \
    X(extended, "fldt (%edx)", 0x0101, 0)                                                          \
    X(decimal, "fbstp (%edx)", 0x0101, 0)                                                          \
    X(environment, "fnstenv (%edx)", 0x1111, 0)                                                    \
    X(environment16, "data16 fnstenv (%edx)", 0x5555, 0)                                           \
    X(state, "fnsave (%edx)", 0x1111, 0)                                                           \
    X(state16, "data16 fnsave (%edx)", 0x5555, 0)                                                  \
    X(mmx, "movq (%edx),%mm0", 0x0101, 0)                                                          \
    X(mmx_half, "movd %mm0,(%edx)", 0x1111, 0)                                                     \
    X(scalar, "addss (%edx),%xmm0", 0x1111, 0)                                                     \
    X(scalar_double, "movsd %xmm0,(%edx)", 0x0101, 0)                                              \
    X(half, "movhps (%edx),%xmm0", 0x0101, 0)                                                      \
    X(unaligned, "movups (%edx),%xmm0", 0x0001, 0)                                                 \
    X(aligned, "movaps %xmm0,(%edx)", 0x0001, 0xfffe)                                              \
    X(packed, "addps (%edx),%xmm0", 0x0001, 0xfffe)                                                \
    X(mxcsr, "stmxcsr (%edx)", 0x1111, 0)                                                          \
    X(fx, "fxsave (%edx)", 0x0001, 0x1110)                                                         \
    X(masked, "mov %edx,%edi; maskmovdqu %xmm1,%xmm0", 0x0101, 0)

#define X(name, text, fine, gp) CODE(op_##name, "fninit\n" text DONE);
OPERANDS(X)
#undef X

static const struct operand {
    const char *name;
    const u8 *code;
    u16 fine, gp;
} operands[] = {
#define X(name, text, fine, gp) {#name, op_##name, fine, gp},
    OPERANDS(X)
#undef X
};

static void check_operand(const struct operand *o, u32 offset, bool checked) {
    u32 expected = V_DONE;
    if (o->gp >> offset & 1 || (o->gp && !checked && !(o->fine >> offset & 1)))
        expected = V_GP;
    else if (checked && !(o->fine >> offset & 1))
        expected = V_AC;
    memset(scratch + 256, 0, 512);
    reset_run(3);
    in.eflags |= F_AC;
    in.edx = SCRATCH + 256 + offset;
    u32 vector = run(3, o->code);
    if (vector != expected) {
        print(o->name);
        print(" ");
        print_dec(offset);
        print("\n");
    }
    EQ(vector, expected);
    EQ(trap.error, 0);
}

void test(void) {
    u32 cr0 = read_cr0(), cr4 = read_cr4();
    write_cr4(cr4 | CR4_OSFXSR);
    for (u32 checked = 0; checked < 2; checked++) {
        write_cr0((cr0 & ~CR0_AM) | (checked ? CR0_AM : 0));
        for (u32 i = 0; i < sizeof operands / sizeof operands[0]; i++)
            for (u32 offset = 0; offset < 16; offset++)
                check_operand(&operands[i], offset, checked);
    }
    /* The limit comes first, here that of the 4 GiB. */
    write_cr0(cr0 | CR0_AM);
    reset_run(3);
    in.eflags |= F_AC;
    in.edx = 0xfffffffe;
    FAULTS(3, op_dword, V_GP, 0);
    write_cr0(cr0);
    write_cr4(cr4);
}
