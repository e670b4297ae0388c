/*
 * Hardware task switches: by JMP and CALL to a TSS and through task gates in GDT, LDT and IDT, by
 * interrupts with and without an error code, by IRET with NT, nested three deep, from 32-bit to
 * 16-bit tasks and back, into V86 mode, to conforming code, with another CR3 and LDT. SDM volume
 * 3A, chapter 7 "Task Management", sections 7.2 to 7.4, tables 7-1 and 7-2. Expected: state saved
 * and loaded field by field; busy bits, NT and back link as table 7-2 has them; CR0.TS set; LDT,
 * CR3 and the T flag's #DB; local breakpoints disabled.
 */
#include "guest.h"

enum { TASK = FREE_GDT, TASK16, NEST1, NEST2, TGATE, LDT1, LDT2, CONFORMING };
enum { DR6_BT = 0x8000 };
static struct tss task __attribute__((aligned(256))), nest[2] __attribute__((aligned(256)));
static u16 task16[22] __attribute__((aligned(64)));
static u64 ldts[2][4];
static u32 stacks[4][512], directory[1024] __attribute__((aligned(4096)));
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) ts_far;
u32 ts_seen[24];

/* Stores everything, then leaves in the way that the test chose (an address in EAX at the start is
 * in ts_seen[0] by then). */
CODE(task_code, "1: mov %eax,%ss:ts_seen; mov %ecx,%ss:ts_seen+4; mov %edx,%ss:ts_seen+8;"
                "mov %ebx,%ss:ts_seen+12; mov %esp,%ss:ts_seen+16; mov %ebp,%ss:ts_seen+20;"
                "mov %esi,%ss:ts_seen+24; mov %edi,%ss:ts_seen+28; mov %es,%ss:ts_seen+32;"
                "mov %cs,%ss:ts_seen+36; mov %ss,%ss:ts_seen+40; mov %ds,%ss:ts_seen+44;"
                "mov %fs,%ss:ts_seen+48; mov %gs,%ss:ts_seen+52; pushf; popl %ss:ts_seen+56;"
                "sldt %ss:ts_seen+60; str %ss:ts_seen+64; mov %cr0,%eax; mov %eax,%ss:ts_seen+68;"
                "mov %cr3,%eax; mov %eax,%ss:ts_seen+72; mov %dr7,%eax; mov %eax,%ss:ts_seen+76;"
                "mov (%esp),%eax; mov %eax,%ss:ts_seen+80; mov $0x7a5c,%eax; jmp *%ss:ts_exit");
void *ts_exit;
CODE(exit_iret, "iret; .globl after_task_iret\nafter_task_iret: jmp task_code");
/* Leaves the error code and the instruction of three bytes behind. */
CODE(exit_skip, "addl $3,tss+32; add $4,%esp; iret; jmp task_code");
CODE(exit_jump, "ljmp *%ss:ts_back; .globl after_task_jump\nafter_task_jump: jmp task_code");
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) ts_back = {0, TSS_SEL};
extern const u8 after_task_iret[], after_task_jump[];

CODE(by_call, "lcall *ts_far; .globl after_switch1\nafter_switch1: clts; pushf; pop %eax" DONE);
CODE(by_jump, "ljmp *ts_far; .globl after_switch2\nafter_switch2: clts; pushf; pop %eax" DONE);
CODE(by_int, "int $0x90; .globl after_switch3\nafter_switch3: clts; pushf; pop %eax" DONE);
CODE(by_fault, "lldt %cx; .globl after_switch4\nafter_switch4: clts; "
               "pushf; pop %eax" DONE);
extern const u8 after_switch1[], after_switch2[], after_switch3[], after_switch4[];

static u32 type_of(u32 index) {
    return gdt[index] >> 40 & 0xff;
}

static void fill(struct tss *t, u32 index, const u8 *code, u32 *stack) {
    memset(t, 0, offsetof(struct tss, bitmap));
    *t = (struct tss){.link = 0xdead,
                      .cr3 = read_cr3(),
                      .eip = (u32)code,
                      .eflags = F_FIXED | F_CF,
                      .eax = 0x1001,
                      .ecx = 0x1002,
                      .edx = 0x1003,
                      .ebx = 0x1004,
                      .ebp = 0x1005,
                      .esi = 0x1006,
                      .edi = 0x1007,
                      .esp = (u32)(stack + 512),
                      .es = KERNEL_DATA,
                      .cs = KERNEL_CODE,
                      .ss = KERNEL_DATA,
                      .ds = USER_DATA,
                      .fs = 0,
                      .gs = KERNEL_CODE,
                      .iomap = 0x68};
    gdt_set(index, descriptor((u32)t, 0x67, 0x89, 0));
}

static void begin(const void *leave) {
    memset(ts_seen, 0xee, sizeof ts_seen);
    ts_exit = (void *)leave;
    tss.cr3 = read_cr3();
    tss.ldt = 0;
    tss.trace = 0;
    reset_run(0);
    in.ecx = 0xfff8;
    in.edx = 0x2003;
    in.ebx = 0x2004;
    in.ebp = 0x2005;
    in.esi = 0x2006;
    in.edi = 0x2007;
    in.eflags = F_FIXED | F_ZF;
}

/* What the new task found, having come with an error code or not. */
static void arrived(u32 index, bool nested, u32 esp) {
    static const u32 gprs[4] = {0x1001, 0x1002, 0x1003, 0x1004};
    for (u32 i = 0; i < 4; i++)
        EQ(ts_seen[i], gprs[i]);
    EQ(ts_seen[4], esp);
    EQ(ts_seen[5], 0x1005);
    EQ(ts_seen[6], 0x1006);
    EQ(ts_seen[7], 0x1007);
    EQ(ts_seen[8] & 0xffff, KERNEL_DATA);
    EQ(ts_seen[9] & 0xffff, KERNEL_CODE);
    EQ(ts_seen[10] & 0xffff, KERNEL_DATA);
    EQ(ts_seen[11] & 0xffff, USER_DATA);
    EQ(ts_seen[12] & 0xffff, 0);
    EQ(ts_seen[13] & 0xffff, KERNEL_CODE);
    EQ(ts_seen[14], F_FIXED | F_CF | (nested ? F_NT : 0));
    EQ(ts_seen[16] & 0xffff, index << 3);
    EQ(ts_seen[17] & CR0_TS, CR0_TS);
}

/* The old task's state as saved, and as it came back. */
static void came_back(const u8 *eip, bool nested) {
    EQ(tss.eip, eip);
    EQ(tss.edx, 0x2003);
    EQ(tss.ebx, 0x2004);
    EQ(tss.ebp, 0x2005);
    EQ(tss.esi, 0x2006);
    EQ(tss.edi, 0x2007);
    EQ(tss.cs & 0xffff, KERNEL_CODE);
    EQ(tss.ss & 0xffff, KERNEL_DATA);
    EQ(tss.eflags & (F_ZF | F_NT), F_ZF);
    EQ(trap.eax & (F_ZF | F_NT | F_CF), F_ZF);
    EQ(trap.edx, 0x2003);
    EQ(trap.ebx, 0x2004);
    EQ(trap.ebp, 0x2005);
    EQ(trap.esi, 0x2006);
    EQ(trap.edi, 0x2007);
    EQ(type_of(TSS_SEL >> 3), 0x8b);
    EQ(type_of(TASK), 0x89);
    EQ(task.link & 0xffff, nested ? TSS_SEL : 0xdead);
    EQ(task.eax, 0x7a5c); /* as it was when that task left */
    u32 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    EQ(tr, TSS_SEL);
}

static void calls_and_jumps(void) {
    u32 esp = (u32)(stacks[0] + 512);
    gdt_set(TGATE, gate(0, TASK << 3, 0x85));
    ldts[0][1] = gate(0, TASK << 3, 0x85);
    gdt_set(LDT1, descriptor((u32)ldts[0], sizeof ldts[0] - 1, 0x82, 0));
    const u16 ways[3] = {TASK << 3, TGATE << 3, 0xc};
    for (u32 way = 0; way < 3; way++) {
        __asm__ volatile("lldt %w0" ::"r"(LDT1 << 3));
        ts_far.selector = ways[way];
        ts_far.offset = 0x12345678; /* nobody looks at it */
        fill(&task, TASK, task_code, stacks[0]);
        begin(exit_iret);
        tss.ldt = LDT1 << 3;
        RUNS(0, by_call);
        arrived(TASK, true, esp);
        came_back(after_switch1, true);
        EQ(task.eip, after_task_iret);
        EQ(task.eflags & F_NT, 0); /* IRET clears NT in what it saves */
        EQ(ts_seen[15] & 0xffff, 0);
        /* Again: the task goes on behind its IRET. */
        begin(exit_iret);
        tss.ldt = LDT1 << 3;
        RUNS(0, by_call);
        EQ(ts_seen[0], 0x7a5c);
        EQ(task.eip, after_task_iret);

        fill(&task, TASK, task_code, stacks[0]);
        begin(exit_jump);
        tss.ldt = LDT1 << 3;
        RUNS(0, by_jump);
        arrived(TASK, false, esp);
        came_back(after_switch2, false);
        EQ(task.eip, after_task_jump);
    }
    __asm__ volatile("lldt %w0" ::"r"(0));
}

static void interrupts(void) {
    u32 esp = (u32)(stacks[0] + 512);
    fill(&task, TASK, task_code, stacks[0]);
    idt_set(0x90, gate(0, TASK << 3, 0xe5));
    begin(exit_iret);
    RUNS(0, by_int);
    arrived(TASK, true, esp);
    came_back(after_switch3, true);
    idt_set(0x90, default_gate(0x90));

    /* An exception with an error code: on the new task's stack; the saved EIP is the fault's. */
    fill(&task, TASK, task_code, stacks[0]);
    idt_set(V_GP, gate(0, TASK << 3, 0x85));
    begin(exit_skip);
    RUNS(0, by_fault);
    arrived(TASK, true, esp - 4);
    EQ(ts_seen[20], 0xfff8);
    came_back(after_switch4, true); /* three bytes on */
    EQ(tss.eflags & F_RF, is_tcg() ? tss.eflags & F_RF : F_RF);
    idt_set(V_GP, default_gate(V_GP));
}

static void switches_more(void) {
    /* CR3 and LDT. */
    paging_prepare();
    memcpy(directory, page_directory, sizeof directory);
    paging_on();
    gdt_set(LDT2, descriptor((u32)ldts[1], sizeof ldts[1] - 1, 0x82, 0));
    ldts[1][1] = descriptor(SCRATCH, 0xfffff, 0x92, 12);
    fill(&task, TASK, task_code, stacks[0]);
    task.cr3 = (u32)directory;
    task.ldt = LDT2 << 3;
    task.fs = 0xc;
    ts_far.selector = TASK << 3;
    begin(exit_iret);
    RUNS(0, by_call);
    EQ(ts_seen[18], directory);
    EQ(ts_seen[15] & 0xffff, LDT2 << 3);
    EQ(ts_seen[12] & 0xffff, 0xc);
    EQ(read_cr3(), page_directory);
    u32 ldtr;
    __asm__ volatile("sldt %0" : "=r"(ldtr));
    EQ(ldtr & 0xffff, 0);
    paging_off();

    /* Local breakpoints are disabled, global ones stay. */
    fill(&task, TASK, task_code, stacks[0]);
    begin(exit_iret);
    __asm__ volatile("mov %0,%%dr7" ::"r"(0x755));
    RUNS(0, by_call);
    EQ(ts_seen[19] & 0x6ff, 0x600);
    __asm__ volatile("mov %0,%%dr7" ::"r"(0x400));

    /* The T flag: #DB in the new task, before its first instruction. */
    fill(&task, TASK, task_code, stacks[0]);
    task.trace = 1;
    begin(exit_iret);
    u32 dr6 = 0xffff0ff0;
    __asm__ volatile("mov %0,%%dr6" ::"r"(dr6));
    if (!is_tcg()) {
        EQ(run(0, by_call), V_DB);
        EQ(trap.eip, task_code);
        EQ(trap.eflags & F_NT, F_NT);
        __asm__ volatile("mov %%dr6,%0" : "=r"(dr6));
        EQ(dr6 & 0xe00f, DR6_BT);
        __asm__ volatile("clts; push $2; popf; mov %0,%%dr6" ::"r"(0xffff0ff0));
        gdt[TSS_SEL >> 3] &= ~(2ull << 40);
        __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
    }

    /* Conforming code: CPL is CS's RPL, DPL may be lower. */
    gdt_set(CONFORMING, descriptor(0, 0xfffff, 0x9e, 12));
    fill(&task, TASK, task_code, stacks[0]);
    task.cs = CONFORMING << 3;
    begin(exit_iret);
    RUNS(0, by_call);
    EQ(ts_seen[9] & 0xffff, CONFORMING << 3);
    if (is_tcg())
        return; /* after these QEMU finds no way into ring 0 */
    /* At ring 3, where it ends the run. */
    static const u8 end[] = {0xcd, 0x80};
    fill(&task, TASK, end, stacks[0]);
    task.cs = CONFORMING << 3 | 3;
    task.ss = task.es = USER_DATA;
    task.gs = 0;
    task.esp0 = tss.esp0;
    task.ss0 = KERNEL_DATA;
    task.esp0 = (u32)(stacks[3] + 512);
    begin(exit_iret);
    RUNS(0, by_call);
    EQ(trap.cs, CONFORMING << 3 | 3);
    EQ(trap.eip, end + 2);
    EQ(trap.ss, USER_DATA);
    EQ(trap.esp, (u32)(stacks[0] + 512));
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("clts; push $2; popf; ltr %w0" ::"r"(TSS_SEL));
    /* V86 mode. */
    *(volatile u16 *)0x10000 = 0x80cd;
    fill(&task, TASK, 0, stacks[0]);
    task.eflags = F_FIXED | F_VM | F_IOPL;
    task.cs = 0x1000, task.ss = 0x3000, task.ds = 0x1111, task.es = 0x2222, task.fs = 0x3333;
    task.gs = 0x4444;
    task.esp = 0x100;
    task.ss0 = KERNEL_DATA;
    task.esp0 = (u32)(stacks[3] + 512);
    begin(exit_iret);
    RUNS(0, by_call);
    EQ(trap.eflags & F_VM, F_VM);
    EQ(trap.cs, 0x1000);
    EQ(trap.eip, 2);
    EQ(trap.ss, 0x3000);
    EQ(trap.esp, 0x100);
    const u32 *old = stacks[3] + 508; /* ES DS FS GS */
    EQ(old[0] & 0xffff, 0x2222);
    EQ(old[1] & 0xffff, 0x1111);
    EQ(old[2] & 0xffff, 0x3333);
    EQ(old[3] & 0xffff, 0x4444);
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("clts; push $2; popf; ltr %w0" ::"r"(TSS_SEL));
    gdt_set(TASK, 0);
}

/* Main calls 1, which calls 2; they return in order. */
CODE(nest1_code,
     "1: mov $1,%eax; lcall $10*8+8,$0; add $0x10,%eax; mov %eax,ts_seen; iret; jmp 1b");
CODE(nest2_code,
     "1: mov tss,%eax; pushf; pop %ecx; mov %ecx,ts_seen+4; str ts_seen+8; clts; iret; jmp 1b");
static void nesting(void) {
    fill(&nest[0], NEST1, nest1_code, stacks[1]);
    fill(&nest[1], NEST2, nest2_code, stacks[2]);
    nest[0].ds = nest[1].ds = KERNEL_DATA;
    ts_far.selector = NEST1 << 3;
    begin(NULL);
    RUNS(0, by_call);
    EQ(ts_seen[0], 0x11);
    EQ(ts_seen[1] & F_NT, F_NT);
    EQ(ts_seen[2] & 0xffff, NEST2 << 3);
    EQ(nest[0].link & 0xffff, TSS_SEL);
    EQ(nest[1].link & 0xffff, NEST1 << 3);
    EQ(type_of(NEST1), 0x89);
    EQ(type_of(NEST2), 0x89);
    EQ(type_of(TSS_SEL >> 3), 0x8b);
}

/* A 16-bit task: words in its TSS; CR3, FS, GS and the upper halves are not in it. Its code is
 * 32-bit all the same, for that is a matter of CS. */
CODE(code16, "mov %ax,%ss:ts_seen; mov %sp,%ss:ts_seen+4; mov %es,%ss:ts_seen+8; mov "
             "%fs,%ss:ts_seen+12; pushf; popl %ss:ts_seen+16; str %ss:ts_seen+20; clts; mov "
             "$0x7a5c,%eax; iret; .globl after16\nafter16: ud2");
extern const u8 after16[];
static void sixteen(void) {
    u8 *low = (u8 *)0x7800; /* IP has 16 bits */
    memcpy(low, code16, 128);
    memset(task16, 0, sizeof task16);
    task16[0x0e / 2] = 0x7800;
    task16[0x10 / 2] = F_FIXED | F_CF;
    static const u16 gprs[8] = {0x1001, 0x1002, 0x1003, 0x1004, 0x7f00, 0x1005, 0x1006, 0x1007};
    memcpy((u8 *)task16 + 0x12, gprs, 16);
    task16[0x22 / 2] = KERNEL_DATA;
    task16[0x24 / 2] = KERNEL_CODE;
    task16[0x26 / 2] = KERNEL_DATA;
    task16[0x28 / 2] = KERNEL_DATA;
    gdt_set(TASK16, descriptor((u32)task16, 0x2b, 0x81, 0));
    ts_far.selector = TASK16 << 3;
    begin(NULL);
    RUNS(0, by_call);
    EQ(ts_seen[0] & 0xffff, 0x1001);
    EQ(ts_seen[1] & 0xffff, 0x7f00);
    EQ(ts_seen[2] & 0xffff, KERNEL_DATA);
    EQ(ts_seen[4] & ~(u32)0x8000, F_FIXED | F_CF | F_NT);
    EQ(ts_seen[5] & 0xffff, TASK16 << 3);
    EQ(task16[0], TSS_SEL);
    EQ(task16[0x0e / 2], 0x7800 + (u32)(after16 - code16));
    EQ(task16[0x12 / 2], 0x7a5c);
    EQ(task16[0x10 / 2] & F_NT, 0);
    EQ(tss.eip, after_switch1);
    EQ(trap.edi, 0x2007);
    EQ(type_of(TASK16), 0x81);
}

void test(void) {
    calls_and_jumps();
    interrupts();
    switches_more();
    nesting();
    sixteen();
    for (u32 i = 0; i < 8; i++)
        gdt_set(FREE_GDT + i, 0);
    memset(&tss.cr3, 0, offsetof(struct tss, trace) - offsetof(struct tss, cr3));
}
