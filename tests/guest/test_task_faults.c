/*
 * What a task switch refuses, and in whose name. Before the commit point the fault is the old
 * task's: #GP, #NP or #TS with the TSS's selector, nothing changed. After it the state is the new
 * task's, as far as it was loaded, and the fault is delivered there: #TS, #NP or #SS with the
 * selector that could not be loaded. SDM volume 3A, section 7.3 "Task Switching" and table 7-1;
 * section 6.15, "Interrupt 10-Invalid TSS Exception (#TS)", table 6-6.
 * Expected: vector, error code (EXT set when an exception caused the switch), EIP and TR of the
 * task that takes the fault; busy bits and back link of a switch that has happened.
 */
#include "guest.h"

enum {
    TASK = FREE_GDT,
    OTHER,
    ABSENT_DATA,
    ABSENT_CODE,
    READ_ONLY,
    LDT_SEL,
    ABSENT_LDT,
    DATA3,
    CODE3,
    CONFORMING3,
    TGATE
};
static struct tss task __attribute__((aligned(256)));
static u32 stack[512];
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) tf_far;
CODE(never, "ud2");
CODE(by_call, "lcall *tf_far" DONE);
CODE(by_jump, "ljmp *tf_far" DONE);
CODE(by_int, "int $0x90" DONE);
CODE(by_exception, "ud2" DONE);
CODE(contributory, "lldt %cx" DONE);
CODE(by_iret, "pushf; orl $0x4000,(%esp); popf; .globl nt_iret\nnt_iret: iret");
extern const u8 nt_iret[];
enum way { CALL, JUMP, INT, EXCEPTION, IRET };
static const u8 *const codes[] = {by_call, by_jump, by_int, by_exception, by_iret};
static const u8 *const at[] = {by_call, by_jump, by_int, by_exception, nt_iret};

static u32 current_task(void) {
    u32 tr;
    __asm__ volatile("str %0" : "=r"(tr));
    return tr & 0xffff;
}
/* Makes the library's TSS the current one again. */
static void settle(void) {
    __asm__ volatile("clts; push $2; popf; lldt %w0" ::"r"(0));
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
}

static void begin(u8 access) {
    memset(&task, 0, offsetof(struct tss, bitmap));
    task = (struct tss){.link = 0xdead,
                        .cr3 = read_cr3(),
                        .eip = (u32)never,
                        .eflags = F_FIXED,
                        .esp = (u32)(stack + 512),
                        .es = KERNEL_DATA,
                        .cs = KERNEL_CODE,
                        .ss = KERNEL_DATA,
                        .ds = KERNEL_DATA,
                        .fs = KERNEL_DATA,
                        .gs = KERNEL_DATA,
                        .iomap = 0x68};
    gdt_set(TASK, descriptor((u32)&task, 0x67, access, 0));
    idt_set(0x90, gate(0, TASK << 3, 0xe5));
    tf_far.selector = TASK << 3;
    tss.link = TASK << 3;
    tss.cr3 = read_cr3();
}
static u32 try(enum way way) {
    reset_run(0);
    in.ecx = 0xfff8;
    u32 task_gate = idt[0x90] >> 16 & 0xffff;
    if (way == EXCEPTION)
        idt_set(V_UD, gate(0, (u16)task_gate, 0x85));
    u32 vector = run(0, codes[way]);
    idt_set(V_UD, default_gate(V_UD));
    if (way == IRET)
        __asm__ volatile("push $2; popf");
    return vector;
}

/* Refused in the old task. */
static void refused(enum way way, u32 vector, u32 error) {
    EQ(try(way), vector);
    EQ(trap.error, error);
    EQ(trap.eip, at[way]);
    EQ(current_task(), TSS_SEL);
    EQ(task.link & 0xffff, 0xdead);
    EQ(gdt[TSS_SEL >> 3] >> 40 & 0xff, 0x8b);
    EQ(read_cr0() & CR0_TS, 0);
}

static void before_commit(void) {
    for (enum way way = CALL; way <= IRET; way++) {
        bool back = way == IRET;
        u32 bad = back ? V_TS : V_GP, ext = way == EXCEPTION && !is_tcg(); /* QEMU: 0 */
        /* Busy where it must be free and the other way round. */
        begin(back ? 0x89 : 0x8b);
        refused(way, bad, TASK << 3 | ext);
        begin(back ? 0x0b : 0x09);
        if (way == CALL || way == JUMP || !is_tcg())
            refused(way, V_NP, TASK << 3 | ext);
        if (!is_tcg()) { /* busy and absent: the type comes first */
            begin(back ? 0x09 : 0x0b);
            refused(way, bad, TASK << 3 | ext);
        }
        /* Not a TSS at all. */
        if (way >= INT) {
            static const u8 types[] = {0x82, 0x84, 0x85, 0x8c, 0x8e, 0x92, 0x9a, 0x80, 0x88};
            for (u32 i = 0; i < sizeof types; i++) {
                begin(types[i]);
                refused(way, bad, TASK << 3 | ext);
            }
            begin(0x89);
            idt_set(0x90, gate(0, GDT_ENTRIES * 8, 0xe5));
            tss.link = GDT_ENTRIES * 8;
            refused(way, bad, GDT_ENTRIES * 8 | ext);
            begin(0x89);
            idt_set(0x90, gate(0, 0xc, 0xe5)); /* in the LDT */
            tss.link = 0xc;
            if (back || !is_tcg()) /* QEMU: #TS */
                refused(way, bad, 0xc | ext);
        }
        /* Too short. */
        begin(back ? 0x8b : 0x89);
        gdt_set(TASK, descriptor((u32)&task, 0x66, back ? 0x8b : 0x89, 0));
        refused(way, V_TS, TASK << 3 | ext);
        gdt_set(TASK, descriptor((u32)&task, 0x2a, back ? 0x83 : 0x81, 0));
        refused(way, V_TS, TASK << 3 | ext);
    }
    /* Through gates: those of the GDT, and the DPL of a TSS. */
    begin(0x89);
    gdt_set(TGATE, gate(0, TASK << 3, 0x05));
    tf_far.selector = TGATE << 3;
    refused(CALL, V_NP, TGATE << 3);
    gdt_set(TGATE, gate(0, GDT_ENTRIES * 8, 0x85));
    refused(JUMP, V_GP, GDT_ENTRIES * 8);
    gdt_set(TGATE, gate(0, KERNEL_CODE, 0x85));
    refused(JUMP, V_GP, KERNEL_CODE);
    gdt_set(TGATE, gate(0, TASK << 3, 0x85));
    tf_far.selector = TGATE << 3 | 1; /* RPL above the gate's DPL */
    refused(CALL, V_GP, TGATE << 3);
    tf_far.selector = TASK << 3 | 1;
    refused(CALL, V_GP, TASK << 3);
    reset_run(3);
    tf_far.selector = TASK << 3;
    FAULTS(3, by_call, V_GP, TASK << 3);
    tf_far.selector = TGATE << 3;
    FAULTS(3, by_call, V_GP, TGATE << 3);
    /* A #GP whose task gate cannot be used is a double fault. */
    begin(0x8b);
    idt_set(V_GP, gate(0, TASK << 3, 0x85));
    reset_run(0);
    in.ecx = 0xfff8;
    FAULTS(0, contributory, V_DF, 0);
    EQ(trap.eip, contributory);
    idt_set(V_GP, default_gate(V_GP));
}

/* Refused in the new task. */
static void accepted(enum way way, u32 vector, u32 error) {
    EQ(try(way), vector);
    EQ(trap.error, error | (way == EXCEPTION));
    EQ(trap.eip, never);
    EQ(current_task(), TASK << 3);
    EQ(gdt[TASK] >> 40 & 0xff, 0x8b);
    EQ(gdt[TSS_SEL >> 3] >> 40 & 0xff, way == JUMP || way == IRET ? 0x89 : 0x8b);
    EQ(task.link & 0xffff, way == JUMP || way == IRET ? 0xdead : TSS_SEL);
    EQ(tss.eip, way == IRET   ? at[way] + 1
                : way == CALL ? by_call + 6
                : way == JUMP ? by_jump + 6
                : way == INT  ? by_int + 2
                              : by_exception);
    EQ(read_cr0() & CR0_TS, CR0_TS);
    settle();
}

static void after_commit(void) {
    gdt_set(ABSENT_DATA, descriptor(0, 0xfffff, 0x12, 12));
    gdt_set(ABSENT_CODE, descriptor(0, 0xfffff, 0x1a, 12));
    gdt_set(READ_ONLY, descriptor(0, 0xfffff, 0x90, 12));
    gdt_set(LDT_SEL, descriptor(SCRATCH, 0xff, 0x82, 0));
    gdt_set(ABSENT_LDT, descriptor(SCRATCH, 0xff, 0x02, 0));
    gdt_set(DATA3, descriptor(0, 0xfffff, 0xf2, 12));
    gdt_set(CODE3, descriptor(0, 0xfffff, 0xfa, 12));
    gdt_set(CONFORMING3, descriptor(0, 0xfffff, 0xfe, 12));
    enum { OFF_ES, OFF_CS, OFF_SS, OFF_DS, OFF_FS, OFF_GS, OFF_LDT };
    static const struct {
        u8 field;
        u16 selector;
        u8 vector;
        u16 error;
    } cases[] = {
        {OFF_LDT, KERNEL_DATA, V_TS, KERNEL_DATA},
        {OFF_LDT, ABSENT_LDT << 3, V_TS, ABSENT_LDT << 3},
        {OFF_LDT, 0xc, V_TS, 0xc},
        {OFF_LDT, 0x3f8, V_TS, 0x3f8},
        {OFF_ES, TSS_SEL, V_TS, TSS_SEL},
        {OFF_ES, ABSENT_DATA << 3, V_NP, ABSENT_DATA << 3},
        {OFF_DS, KERNEL_DATA | 1, V_TS, KERNEL_DATA},
        {OFF_FS, 0x3f8, V_TS, 0x3f8},
        {OFF_GS, ABSENT_CODE << 3, V_NP, ABSENT_CODE << 3},
        {OFF_GS, 0xc, V_TS, 0xc},
    };
    /* With a bad CS or SS the handler's frame has no stack to go to, unless the fault is taken by a
     * task of its own: that comes last. */
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++)
        for (enum way way = CALL; way <= IRET; way++) {
            if (cases[i].field == OFF_LDT)
                continue;
            begin(way == IRET ? 0x8b : 0x89);
            u32 *const fields[] = {&task.es, &task.cs, &task.ss, &task.ds,
                                   &task.fs, &task.gs, &task.ldt};
            *fields[cases[i].field] = cases[i].selector;
            accepted(way, cases[i].vector, cases[i].error);
        }
    /* EIP beyond the limit of CS. */
    if (!is_tcg()) {
        begin(0x89);
        gdt_set(OTHER, descriptor(0, 0xfff, 0x9a, 4));
        task.cs = OTHER << 3;
        EQ(try(CALL), V_GP);
        EQ(trap.error, 0);
        EQ(trap.eip, never);
        EQ(current_task(), TASK << 3);
        settle();
    }
}

/* Faults on LDT, CS and SS are taken by a second task, whose link names the one that failed. */
static struct tss fault_task __attribute__((aligned(256)));
static u32 fault_stack[256];
u32 tf_error, tf_vector;
void tf_taken(void);
_Noreturn void run_leave(void);
CODE(take_ts, "movl $10,tf_vector; jmp take_any");
CODE(take_np, "movl $11,tf_vector; jmp take_any");
CODE(take_ss, "movl $12,tf_vector; jmp take_any");
__asm__(".text\ntake_any: pop tf_error; jmp tf_taken");
void tf_taken(void) {
    trap.vector = tf_vector;
    trap.error = tf_error;
    run_leave();
}

static void taken_by_a_task(void) {
    static const struct {
        u16 cs, ss, ldt;
        u8 vector;
        u16 error;
    } cases[] = {
        {0, KERNEL_DATA, 0, V_TS, 0},
        {KERNEL_DATA, KERNEL_DATA, 0, V_TS, KERNEL_DATA},
        {CODE3 << 3, KERNEL_DATA, 0, V_TS, CODE3 << 3}, /* DPL is not RPL */
        {KERNEL_CODE | 3, USER_DATA, 0, V_TS, KERNEL_CODE},
        {CONFORMING3 << 3, KERNEL_DATA, 0, V_TS, CONFORMING3 << 3}, /* DPL above RPL */
        {ABSENT_CODE << 3, KERNEL_DATA, 0, V_NP, ABSENT_CODE << 3},
        {0x3f8, KERNEL_DATA, 0, V_TS, 0x3f8},
        {TSS_SEL, KERNEL_DATA, 0, V_TS, TSS_SEL},
        {KERNEL_CODE, 0, 0, V_TS, 0},
        {KERNEL_CODE, READ_ONLY << 3, 0, V_TS, READ_ONLY << 3},
        {KERNEL_CODE, KERNEL_CODE, 0, V_TS, KERNEL_CODE},
        {KERNEL_CODE, DATA3 << 3, 0, V_TS, DATA3 << 3},
        {KERNEL_CODE, KERNEL_DATA | 3, 0, V_TS, KERNEL_DATA},
        {KERNEL_CODE, ABSENT_DATA << 3, 0, V_SS, ABSENT_DATA << 3},
        {KERNEL_CODE, 0x3f8, 0, V_TS, 0x3f8},
        {KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, V_TS, KERNEL_DATA},
        {KERNEL_CODE, KERNEL_DATA, ABSENT_LDT << 3, V_TS, ABSENT_LDT << 3},
        {KERNEL_CODE, KERNEL_DATA, 0xc, V_TS, 0xc},
        {KERNEL_CODE, KERNEL_DATA, 0x3f8, V_TS, 0x3f8},
    };
    static const u8 *const entries[3] = {take_ts, take_np, take_ss};
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++)
        for (enum way way = CALL; way <= IRET; way++) {
            begin(way == IRET ? 0x8b : 0x89);
            task.cs = cases[i].cs;
            task.ss = cases[i].ss;
            task.ldt = cases[i].ldt;
            u32 vector = cases[i].vector;
            fault_task = task;
            fault_task.cs = KERNEL_CODE, fault_task.ss = KERNEL_DATA, fault_task.ldt = 0;
            fault_task.eip = (u32)entries[vector - V_TS];
            fault_task.esp = (u32)(fault_stack + 256);
            gdt_set(OTHER, descriptor((u32)&fault_task, 0x67, 0x89, 0));
            idt_set(vector, gate(0, OTHER << 3, 0x85));
            tf_vector = tf_error = 0x5a5a;
            EQ(try(way), vector);
            EQ(trap.error, cases[i].error | (way == EXCEPTION));
            EQ(current_task(), OTHER << 3);
            EQ(fault_task.link & 0xffff, TASK << 3);
            EQ(task.eip, never);
            EQ(task.cs & 0xffff, cases[i].cs); /* selectors as loaded, good or bad */
            EQ(task.ss & 0xffff, cases[i].ss);
            idt_set(vector, default_gate(vector));
            settle();
        }
}

void test(void) {
    before_commit();
    if (!is_tcg()) { /* QEMU gives these faults the old task's EIP */
        after_commit();
        taken_by_a_task();
    }
    idt_set(0x90, default_gate(0x90));
    for (u32 i = 0; i < 11; i++)
        gdt_set(FREE_GDT + i, 0);
    memset(&tss.link, 0, 4);
    memset(&tss.cr3, 0, offsetof(struct tss, trace) - offsetof(struct tss, cr3));
}
