/*
 * Fast and slow ways into the kernel with TF set. SYSENTER and far calls through gates leave TF
 * alone, so the first trap comes at the kernel's first instruction, at ring 0; Linux clears TF
 * there, remembers the step and gives the program its trap after the return. INT n clears TF: the
 * step is taken after the IRET. SDM volume 3B, section 17.3.1.4 "Single-Step Exception Condition";
 * volume 2B, "SYSENTER".
 * Expected: the EIPs and DR6.BS as listed; flags in each frame show TF as the program set it.
 */
#include "guest.h"

enum { MSR_CS = 0x174, MSR_ESP, MSR_EIP };
CODE(by_sysenter, "mov %esp,%ecx; mov $.Lback,%edx; pushf; orl $0x100,(%esp); popf; sysenter\n"
                  ".Lback: .globl se_back\nse_back: nop; .globl se_next\nse_next: nop;"
                  "pushf; andl $~0x100,(%esp); popf; nop" DONE);
CODE(by_int, "pushf; orl $0x100,(%esp); popf; int $0x90; .globl int_back\nint_back: nop;"
             ".globl int_next\nint_next: pushf; andl $~0x100,(%esp); popf; nop" DONE);
CODE(by_gate, "pushf; orl $0x100,(%esp); popf; lcall *tf_far; .globl gate_back\ngate_back: nop;"
              "pushf; andl $~0x100,(%esp); popf; nop" DONE);
CODE(se_entry, "incl %ss:entries; .globl se_second\nse_second: sysexit");
/* Ends the call by IRET, with the flags that ESI holds. */
CODE(se_entry_iret,
     "incl %ss:entries; push $0x23; push %ecx; push %esi; push $0x1b; push %edx; iret");
CODE(int_entry, "incl %ss:entries; iret");
CODE(gate_entry, "incl %ss:entries; .globl gate_lret\ngate_lret: lret");
extern const u8 se_back[], se_next[], int_back[], int_next[], gate_back[], se_second[], gate_lret[];
u32 entries, tf_stack[64];
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) tf_far;

static struct { u32 eip, cs, flags, dr6; } step[32];
static u32 steps;
static bool fix_up;

static u32 take_dr6(void) {
    u32 v;
    __asm__ volatile("mov %%dr6,%0; mov %1,%%dr6" : "=&r"(v) : "r"(0xffff0ff0u));
    return v;
}
static bool on_debug(struct frame *f) {
    if (f->vector != V_DB || steps == 32)
        return false;
    step[steps].eip = f->eip;
    step[steps].cs = f->cs;
    step[steps].flags = f->eflags;
    step[steps++].dr6 = take_dr6();
    if (fix_up && !(f->cs & 3))
        f->eflags &= ~(u32)F_TF;
    return true;
}
static void begin(bool fixing) {
    steps = entries = 0;
    fix_up = fixing;
    take_dr6();
    reset_run(3);
}
static void stepped(u32 n, const u8 *eip, u32 cs) {
    EQ(step[n].eip, eip);
    EQ(step[n].cs & 0xffff, cs);
    EQ(step[n].flags & F_TF, F_TF);
    EQ(step[n].dr6 & 0x600f, 0x4000);
}

static void sysenter(void) {
    wrmsr(MSR_CS, KERNEL_CODE);
    wrmsr(MSR_ESP, (u32)tf_stack + sizeof tf_stack);
    wrmsr(MSR_EIP, (u32)se_entry);
    begin(true);
    RUNS(3, by_sysenter);
    EQ(entries, 1);
    EQ(steps, 1); /* TF was cleared in the kernel: SYSEXIT does not bring it back */
    stepped(0, se_entry, KERNEL_CODE);
    begin(false);
    RUNS(3, by_sysenter);
    stepped(0, se_entry, KERNEL_CODE);
    stepped(1, se_second, KERNEL_CODE);
    stepped(2, se_back, USER_CODE); /* behind SYSEXIT */
    stepped(3, se_next, USER_CODE);
    EQ(steps, 8); /* NOP, PUSHF, AND, POPF; not the NOP behind */
    wrmsr(MSR_EIP, (u32)se_entry_iret);
    begin(true);
    in.esi = F_FIXED | F_TF;
    RUNS(3, by_sysenter);
    stepped(0, se_entry_iret, KERNEL_CODE);
    stepped(1, se_next, USER_CODE); /* one instruction behind the IRET */
    EQ(steps, 6);
    wrmsr(MSR_CS, 0);
}

void test(void) {
    trap_hook = on_debug;
    if (cpuid(1).edx & 1 << 11)
        sysenter();
    idt_set(0x90, gate((u32)int_entry, KERNEL_CODE, 0xee));
    for (u32 i = 0; i < 2; i++) {
        begin(false);
        RUNS(3, by_int);
        EQ(entries, 1);
        EQ(steps, 4);
        stepped(0, int_next, USER_CODE); /* no trap at the handler, nor right behind the INT */
        idt_set(0x90, gate((u32)int_entry, KERNEL_CODE, 0xef)); /* the same for a trap gate */
    }
    idt_set(0x90, default_gate(0x90));
    tf_far.selector = gdt_set(FREE_GDT, gate((u32)gate_entry, KERNEL_CODE, 0xec)) | 3;
    begin(false);
    RUNS(3, by_gate);
    EQ(entries, 1);
    stepped(0, gate_entry, KERNEL_CODE);
    stepped(1, gate_lret, KERNEL_CODE);
    stepped(2, gate_back, USER_CODE);
    EQ(steps, 7);
    gdt_set(FREE_GDT, 0);
    trap_hook = NULL;
}
