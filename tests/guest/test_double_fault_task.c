/*
 * The double-fault task as Linux has it: the kernel's stack runs into an unmapped page, the #PF
 * finds no room for its frame, and #DF goes through a task gate to a task with its own stack and
 * CR3. It reads the state of the failed task from the TSS that the back link names, repairs it and
 * returns by IRET with NT set. The same from ring 3, when TSS.ESP0 points to nothing. SDM volume
 * 3A, section 6.15, "Interrupt 8-Double Fault Exception (#DF)", and sections 7.3 and 7.4.
 * Expected: saved EIP at the instruction that faulted and all its registers; CR2 of the second
 * fault; CR3, TS, NT and the busy bits as the task switch leaves them, on the way in and back.
 */
#include "guest.h"

enum { STACK_PAGE = 0x3f001000, DF_SEL = FREE_GDT << 3 };
static struct tss df_task_state __attribute__((aligned(4096)));
static u32 df_stack[512], df_directory[1024] __attribute__((aligned(4096)));
extern struct tss *const df_old;
u32 df_seen[12], df_count, df_new_eip, df_new_esp;
CODE(df_entry,
     "1: pop df_seen; mov %esp,df_seen+4; mov %cr2,%eax; mov %eax,df_seen+8; mov %cr3,%eax;"
     "mov %eax,df_seen+12; mov %cr0,%eax; mov %eax,df_seen+16; pushf; pop df_seen+20;"
     "str %eax; mov %eax,df_seen+24; mov tss+32,%eax; mov %eax,df_seen+28;"
     "mov tss+56,%eax; mov %eax,df_seen+32; mov gdt+5*8+4,%eax; mov %eax,df_seen+36;"
     "mov gdt+8*8+4,%eax; mov %eax,df_seen+40; incl df_count;"
     "mov df_new_eip,%eax; test %eax,%eax; jz 2f; mov %eax,tss+32;"
     "mov df_new_esp,%eax; mov %eax,tss+56; 2: mov df_new_esp,%eax; mov %eax,tss+4;"
     ".globl df_iret\ndf_iret: iret; jmp 1b");
CODE(overflow, "mov $0x1111,%ebx; mov $0x3f002000,%esp; 1: .globl overflow_call\noverflow_call: "
               "call 1b");
CODE(recovered, "mov %cr0,%edi; mov %cr3,%esi; pushf; pop %edx" DONE);
/* Goes to ring 3 with nothing behind TSS.ESP0. */
CODE(no_kernel_stack, "movl $0x3f001000,tss+4; push $0x23; push $user_stack+4096; push %edx;"
                      "push $0x1b; push $bare_user; iret; .globl bare_user\n bare_user: mov "
                      "$0x77,%ebx; .globl bare_int\nbare_int: " DONE);
extern const u8 df_iret[], overflow_call[], bare_int[];

static void begin(void) {
    memset(df_seen, 0, sizeof df_seen);
    df_count = 0;
    tss.cr3 = read_cr3();
    reset_run(0);
}

static void check_entry(const u8 *eip, u32 esp, u32 cr2) {
    EQ(df_count, 1);
    EQ(df_seen[0], 0); /* error code */
    EQ(df_seen[1], (u32)df_stack + sizeof df_stack);
    EQ(df_seen[2], cr2);
    EQ(df_seen[3], df_directory);
    EQ(df_seen[4] & CR0_TS, CR0_TS);
    EQ(df_seen[5] & F_NT, F_NT);
    EQ(df_seen[6], DF_SEL);
    EQ(df_task_state.link, TSS_SEL);
    EQ(df_seen[7], eip);
    EQ(df_seen[8], esp);
    EQ(df_seen[9] & 0xff00, 0x8b00);  /* the old task stays busy */
    EQ(df_seen[10] & 0xff00, 0x8b00); /* so is the new one */
    EQ(gdt[DF_SEL >> 3] >> 40 & 0xff, 0x89);
    EQ(gdt[TSS_SEL >> 3] >> 40 & 0xff, 0x8b);
    u32 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    EQ(tr, TSS_SEL);
}

void test(void) {
    paging_prepare();
    map(STACK_PAGE, SCRATCH, PT_P | PT_W);
    map(STACK_PAGE - 4096, 0, 0);
    memcpy(df_directory, page_directory, sizeof df_directory);
    paging_on();
    memset(&df_task_state, 0, offsetof(struct tss, bitmap));
    df_task_state.eip = (u32)df_entry;
    df_task_state.esp = (u32)df_stack + sizeof df_stack - 0;
    df_task_state.eflags = F_FIXED;
    df_task_state.cs = KERNEL_CODE;
    df_task_state.ss = df_task_state.ds = df_task_state.es = KERNEL_DATA;
    df_task_state.cr3 = (u32)df_directory;
    gdt_set(DF_SEL >> 3, descriptor((u32)&df_task_state, 0x67, 0x89, 0));
    idt_set(V_DF, gate(0, DF_SEL, 0x85));

    for (u32 i = 0; i < 4; i++) {
        begin();
        df_new_eip = (u32)recovered;
        df_new_esp = (u32)user_stack + 8192;
        RUNS(0, overflow);
        check_entry(overflow_call, STACK_PAGE, STACK_PAGE - 4);
        EQ(trap.ebx, 0x1111);
        EQ(trap.edi & CR0_TS, CR0_TS);
        EQ(trap.esi, page_directory);
        EQ(trap.edx & F_NT, 0);
        __asm__ volatile("clts");

        begin();
        df_new_eip = 0; /* goes on where it was */
        in.edx = F_FIXED;
        df_new_esp = (u32)user_stack + 8192;
        RUNS(0, no_kernel_stack);
        check_entry(bare_int, (u32)user_stack + 4096, STACK_PAGE - 4);
        EQ(trap.cs, USER_CODE);
        EQ(trap.ebx, 0x77);
        EQ(trap.esp, (u32)user_stack + 4096);
        __asm__ volatile("clts");
    }
    idt_set(V_DF, default_gate(V_DF));
    gdt_set(DF_SEL >> 3, 0);
    paging_off();
}
