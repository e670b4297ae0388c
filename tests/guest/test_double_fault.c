/*
 * A contributory exception while delivering one makes a double fault: vector 8, error code 0,
 * through an interrupt gate and through a task gate (as Linux has it). SDM volume 3A, section
 * 6.15, "Interrupt 8-Double Fault Exception (#DF)", table 6-5.
 * Expected: #GP whose gate is not present -> #DF; #PF whose gate is not present -> #DF; #UD whose
 * gate is not present -> only #NP with the IDT error code (benign first). Through the task gate:
 * the new task finds error code 0 on its stack, its own registers, the old state saved in the old
 * TSS.
 */
#include "guest.h"

CODE(general, "mov $0x1111,%ebx; lldt %cx" DONE);
CODE(undefined, "ud2" DONE);
CODE(page, "mov 0x3ff00000,%eax" DONE);
CODE(divide, "xor %ecx,%ecx; div %ecx" DONE);

static void absent(u32 vector, bool on) {
    idt_set(vector, on ? default_gate(vector) & ~(0x80ull << 40) : default_gate(vector));
}

/* The double-fault task: notes what it finds, then leaves as a trap of its own would. */
struct tss df_tss __attribute__((aligned(4096)));
u32 df_stack[1024], df_error, df_esp, df_ebx, df_tr;
void df_back(void);
__asm__(".text\ndf_task: pop df_error; mov %esp,df_esp; mov %ebx,df_ebx; str %eax; mov %eax,df_tr;"
        "jmp df_back");
extern const u8 df_task[];
extern u32 run_kernel_esp;
_Noreturn void run_leave(void);

void df_back(void) {
    /* Make the old task current again without a task switch: clear busy, NT and TS. */
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0; clts; push $2; popf" ::"r"(TSS_SEL));
    gdt[FREE_GDT] &= ~(2ull << 40);
    trap.vector = V_DF;
    run_leave();
}

static void through_task_gate(u32 ring) {
    memset(&df_tss, 0, offsetof(struct tss, bitmap));
    df_tss.eip = (u32)df_task;
    df_tss.esp = (u32)df_stack + sizeof df_stack;
    df_tss.eflags = F_FIXED;
    df_tss.ebx = 0x2222;
    df_tss.cs = KERNEL_CODE;
    df_tss.ss = df_tss.ds = df_tss.es = df_tss.fs = df_tss.gs = KERNEL_DATA;
    df_tss.cr3 = read_cr3();
    u16 selector = gdt_set(FREE_GDT, descriptor((u32)&df_tss, 0x67, 0x89, 0));
    idt_set(V_DF, gate(0, selector, 0x85));
    absent(V_GP, true);
    df_error = 0x5a5a;
    reset_run(ring);
    in.ecx = 0xfff8;
    in.edx = 0x3333;
    EQ(run(ring, general), V_DF);
    EQ(df_error, 0);
    EQ(df_esp, (u32)df_stack + sizeof df_stack);
    EQ(df_ebx, 0x2222);
    EQ(df_tr, selector);
    EQ(df_tss.link, TSS_SEL);
    EQ(tss.ebx, 0x1111);
    EQ(tss.edx, 0x3333);
    EQ(tss.eip, general + 5);
    EQ(tss.cs & 0xffff, ring ? USER_CODE : KERNEL_CODE);
    absent(V_GP, false);
    idt_set(V_DF, default_gate(V_DF));
    gdt_set(FREE_GDT, 0);
}

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        absent(V_GP, true);
        reset_run(ring);
        in.ecx = 0xfff8;
        FAULTS(ring, general, V_DF, 0);
        EQ(trap.ebx, 0x1111);
        absent(V_GP, false);
        absent(V_UD, true);
        FAULTS(ring, undefined, V_NP, V_UD * 8 + 2 + (is_tcg() ? 0 : 1));
        absent(V_UD, false);
        absent(V_DE, true);
        FAULTS(ring, divide, V_DF, 0);
        absent(V_DE, false);
        paging_prepare();
        paging_on();
        absent(V_PF, true);
        FAULTS(ring, page, V_DF, 0);
        absent(V_PF, false);
        paging_off();
        through_task_gate(ring);
    }
}
