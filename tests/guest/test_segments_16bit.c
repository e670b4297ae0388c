/*
 * 16-bit segments in protected mode: code whose default sizes are 16 bits, a stack that uses SP
 * only, and IRET from ring 0 to it, which (as on hardware) changes only SP and leaks the upper half
 * of ESP; Linux's espfix exists for that. SDM volume 3A, section 3.4.5 "Segment Descriptors", flag
 * D/B; volume 2A, "IRET".
 * Expected: results in 16-bit registers, stack pointers that wrap at 64 KiB, far returns to 32-bit
 * code.
 */
#include "guest.h"

/* Copied to scratch, so that 16-bit offsets reach it. */
__asm__(".pushsection .rodata\n.code16\n.globl code16\ncode16: mov $0x1234,%ax; mov $0xfffe,%bx; "
        "add %bx,%ax\n"
        "push %ax; pop %cx; mov %sp,%si; call 1f; mov (0x100),%dx; movl $0x11223344,%edi; movl "
        "%edi,(0x104)\n"
        "mov $3,%bp; 2: dec %bp; jnz 2b; movzwl %sp,%esp; addr32 mov 4(%esp),%bp; int $0x80\n"
        "1: ret\n.globl code16_end\ncode16_end:\n.code32\n.popsection");
extern const u8 code16[], code16_end[];
CODE(push_wrap,
     "mov $0,%esp; push $0x1111; mov %esp,%eax; push $0x2222; pop %ebx; mov %esp,%ecx; pop %edx;"
     "mov %esp,%esi" DONE);
CODE(esp_high, "mov %esp,%eax; push %eax; mov %esp,%ebx; pop %ecx; mov %esp,%edx" DONE);
CODE(call_wrap, "mov $2,%esp; call 1f; 1: mov %esp,%eax; pop %ebx; mov %esp,%ecx" DONE);

void test(void) {
    u16 code = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xffff, 0xfa, 0));
    u16 stack = gdt_set(FREE_GDT + 1, descriptor(SCRATCH + 0x10000, 0xffff, 0xf2, 0));
    u16 data = gdt_set(FREE_GDT + 2, descriptor(SCRATCH, 0xffff, 0xf2, 0));
    memcpy(scratch, code16, (u32)(code16_end - code16));
    *(u16 *)(scratch + 0x100) = 0xbeef;
    reset_run(3);
    in.cs = code;
    in.ss = stack;
    in.ds = data;
    in.esp = 0x8000;
    in.eax = in.ecx = 0xaaaa0000;
    *(u16 *)(scratch + 0x10000 + 0x8004) = 0x7777;
    RUNS(3, (const u8 *)0);
    EQ(trap.cs, code);
    EQ(trap.eax, 0xaaaa1232);
    EQ(trap.ecx, 0xaaaa1232);
    EQ(trap.esi & 0xffff, 0x8000);
    EQ(trap.edx & 0xffff, 0xbeef);
    EQ(trap.edi, 0x11223344);
    EQ(*(u32 *)(scratch + 0x104), 0x11223344);
    EQ(trap.ebp & 0xffff, 0x7777);
    EQ(trap.eip & 0xffff, code16_end - code16 - 1);

    reset_run(3);
    in.ss = stack;
    RUNS(3, push_wrap);
    EQ(trap.eax & 0xffff, 0xfffc);
    EQ(trap.ebx, 0x2222);
    EQ(trap.ecx & 0xffff, 0xfffc);
    EQ(trap.edx, 0x1111);
    EQ(trap.esi & 0xffff, 0);
    EQ(*(u32 *)(scratch + 0x1fffc), 0x1111);

    /* MOV from ESP shows all of it; PUSH and POP change SP only. IRET took SP alone from its frame:
     * what the upper half holds is the kernel's. */
    reset_run(3);
    in.ss = stack;
    in.esp = 0x1238000;
    RUNS(3, esp_high);
    EQ(trap.eax & 0xffff, 0x8000);
    EQ(trap.ebx, trap.eax - 4);
    EQ(trap.ecx, trap.eax);
    EQ(trap.edx, trap.eax);
    if (!is_tcg())
        EQ(trap.eax >> 16, tss.esp0 >> 16);
    reset_run(3);
    in.ss = stack;
    if (!is_tcg()) /* a push that wraps in the middle of its word violates the limit */
        FAULTS(3, call_wrap, V_SS, 0);
    in.eflags = 0;
    for (u32 i = 0; i < 3; i++)
        gdt_set(FREE_GDT + i, 0);
}
