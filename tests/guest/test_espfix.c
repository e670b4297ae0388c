/*
 * IRET to a 16-bit stack loads SP only; what the program then finds in the upper half of ESP is the
 * kernel's. Linux hides it (espfix32): it moves to a stack segment whose base makes up for an ESP
 * whose upper half is the program's, and returns from there; a fault of that IRET is taken on the
 * same based stack, and the handler has to undo the trick. SDM volume 2A, "IRET/IRETD"; volume 3A,
 * section 5.8.5; the manual does not say what the upper half becomes, this is what processors do.
 * Expected: without the trick the kernel's upper half, with it the program's own; traps from the
 * 16-bit stack push all 32 bits of ESP.
 */
#include "guest.h"

enum { LDT_SEL = FREE_GDT << 3, ESPFIX = (FREE_GDT + 1) << 3, STACK16 = 0x0f, DATA16 = 0x17 };
static u64 ldt[4];

CODE(on_16bit_stack,
     "mov %esp,%eax; push $0x1234; mov %esp,%ecx; pop %edx; pushw $7; mov %esp,%esi;"
     "popw %di" DONE);
/* ECX = CS, EDX = flags, EDI = SS, ESI = the program's ESP, EBX = the espfix descriptor. */
CODE(plain_iret, "push %edi; push %esi; push %edx; push %ecx; push $on_16bit_stack; iret");
CODE(espfix_iret, "push %edi; push %esi; push %edx; push %ecx; push $on_16bit_stack;"
                  "mov %esp,%edx; mov %esi,%eax; mov %dx,%ax; sub %eax,%edx; shr $16,%edx;"
                  "mov %dl,4(%ebx); mov %dh,7(%ebx); push $9*8; push %eax; lss (%esp),%esp;"
                  ".globl fixed_iret\nfixed_iret: iret");
/* #GP on the based stack: back to the flat one, then the library's way. */
CODE(unwind, "push %eax; push %edx; mov gdt+9*8+4,%edx; mov %edx,%eax; and $0xff000000,%eax;"
             "and $0xff,%edx; shl $16,%edx; or %edx,%eax; movzwl gdt+9*8+2,%edx; or %edx,%eax;"
             "add %esp,%eax; push $0x10; push %eax; lss (%esp),%esp; pop %edx; pop %eax;"
             "jmp trap_stubs+13*16");
extern const u8 fixed_iret[];

static u32 back(const u8 *code, u32 cs, u32 ss, u32 esp) {
    reset_run(0);
    in.ebx = (u32)&gdt[ESPFIX >> 3];
    in.ecx = cs;
    in.edx = F_FIXED;
    in.edi = ss;
    in.esi = esp;
    return run(0, code);
}

static void seen(u32 esp, u32 upper) {
    EQ(trap.ss, STACK16);
    EQ(trap.eax, upper | (esp & 0xffff));
    EQ(trap.ecx, upper | ((esp - 4) & 0xffff));
    EQ(trap.edx, 0x1234);
    EQ(trap.esi, upper | ((esp - 2) & 0xffff));
    EQ(trap.esp, upper | (esp & 0xffff));
}

void test(void) {
    ldt[1] = descriptor(SCRATCH, 0xffff, 0xf2, 0);
    ldt[2] = descriptor(SCRATCH, 0xffff, 0xf2, 0);
    gdt_set(LDT_SEL >> 3, descriptor((u32)ldt, sizeof ldt - 1, 0x82, 0));
    __asm__ volatile("lldt %w0" ::"r"(LDT_SEL));
    gdt_set(ESPFIX >> 3, descriptor(0, 0xfffff, 0x92, 12));

    EQ(back(plain_iret, USER_CODE, STACK16, 0xabcd8000), V_DONE);
    seen(0x8000, tss.esp0 & 0xffff0000u);
    for (u32 i = 0; i < 40; i++) {
        u32 esp = 0x8000 + i * 0x01234004u;
        EQ(back(espfix_iret, USER_CODE, STACK16, esp), V_DONE);
        seen(esp, esp & 0xffff0000u);
    }
    /* The same on a stack pointer of zero: SP wraps, the upper half stays. */
    EQ(back(espfix_iret, USER_CODE, STACK16, 0x56780000), V_DONE);
    seen(0x56780000, 0x56780000);

    /* The IRET faults: the frame of the #GP lies below, on the based stack. */
    idt_set(V_GP, gate((u32)unwind, KERNEL_CODE, 0x8e));
    for (u32 i = 0; i < 3; i++) {
        EQ(back(espfix_iret, KERNEL_DATA, STACK16, 0xabcd8000), V_GP);
        EQ(trap.error, KERNEL_DATA);
        EQ(trap.eip, fixed_iret);
        EQ(trap.cs, KERNEL_CODE);
        EQ(back(espfix_iret, USER_CODE, LDT_SEL, 0xabcd8000), V_GP);
        EQ(trap.error, LDT_SEL);
    }
    idt_set(V_GP, default_gate(V_GP));
    __asm__ volatile("lldt %w0" ::"r"(0));
    gdt_set(LDT_SEL >> 3, 0);
    gdt_set(ESPFIX >> 3, 0);
}
