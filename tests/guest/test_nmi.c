/*
 * NMIs: one waits while another is in service, until IRET, even one that faults; they end HLT with
 * interrupts off; through a task gate the new task is the handler. SDM volume 3A, section 6.7
 * "Nonmaskable Interrupt (NMI)" and 6.7.1 "Handling Multiple NMIs".
 * Expected: of several NMIs that arrive in a handler one comes after it; the #GP of its IRET lets
 * the waiting one in; PIT ticks that the local APIC's LINT0 turns into NMIs wake the CPU; the IRET
 * of the handler task unblocks.
 * UNPAGED: the APIC's registers lie above what the library maps
 */
#include "guest.h"

#define APIC 0xfee00000u
enum { ID = 0x20, SVR = 0xf0, ICR = 0x300, ICR_HIGH = 0x310, LINT0 = 0x350 };
enum { NMI_MODE = 0x400, EXTINT_MODE = 0x700, MASKED = 0x10000 };

static u32 get(u32 reg) {
    return *(volatile u32 *)(APIC + reg);
}
static void put(u32 reg, u32 value) {
    *(volatile u32 *)(APIC + reg) = value;
}
static void nmi_to_itself(void) {
    put(ICR_HIGH, get(ID));
    put(ICR, 0x4400);
}
static void pause_for(u32 n) {
    for (u32 i = 0; i < n; i++)
        __asm__ volatile("pause");
}

static volatile u32 nmis, during, more, faults, nmis_at_fault;

static bool on_trap(struct frame *f) {
    if (f->vector == V_GP) { /* of the IRET below: past it */
        faults++;
        pause_for(1000);
        nmis_at_fault = nmis;
        f->eip += 1;
        return true;
    }
    if (f->vector != V_NMI)
        return false;
    nmis++;
    for (; more; more--)
        nmi_to_itself();
    pause_for(1000);
    during = during ? during : nmis;
    return true;
}

static void wait_for(u32 count) {
    for (u32 i = 0; i < 1000000 && nmis < count; i++)
        __asm__ volatile("pause");
    pause_for(1000); /* and no more */
    EQ(nmis, count);
}

static void nested(void) {
    nmis = during = 0;
    more = 3;
    nmi_to_itself();
    wait_for(2);
    EQ(during, 1);
}

/* A handler that sends one more and leaves by an IRET to a null CS, then by a good one. */
void send_one(void);
void send_one(void) {
    nmi_to_itself();
}
__asm__(".text\n.globl bad_handler\nbad_handler: pushal; incl nmis_seen; cmpl $1,nmis_seen; jne 1f;"
        "call send_one; push $2; push $0; push $0; iret; add $12,%esp\n1: popal; iret");
extern const u8 bad_handler[];
u32 nmis_seen;

static void faulting_iret(void) {
    faults = nmis_at_fault = nmis_seen = 0;
    idt_set(V_NMI, gate((u32)bad_handler, KERNEL_CODE, 0x8e));
    nmi_to_itself();
    for (u32 i = 0; i < 1000000 && nmis_seen < 2; i++)
        __asm__ volatile("pause");
    EQ(faults, 1);
    EQ(nmis_seen, 2);
    idt_set(V_NMI, default_gate(V_NMI));
}

/* Interrupts stay off: only an NMI ends the HLT. */
static void wakes(void) {
    u32 svr = get(SVR), lint0 = get(LINT0);
    put(SVR, 0x1ff);
    put(LINT0, NMI_MODE);
    pic_init((u16)~1u);
    nmis = 0;
    pit_start(1000);
    __asm__ volatile("cli; hlt" ::: "memory");
    CHECK(nmis >= 1);
    put(LINT0, MASKED | EXTINT_MODE);
    pit_stop();
    put(LINT0, lint0);
    put(SVR, svr);
}

/* The handler as a task of its own. */
struct tss nmi_task __attribute__((aligned(4096)));
u32 nmi_stack[256], task_runs;
void in_task(void);
void in_task(void) {
    task_runs++;
    if (task_runs == 1) { /* waits for this task's IRET */
        nmi_to_itself();
        pause_for(1000);
        during = task_runs;
    }
}
__asm__(".text\n.globl nmi_code\nnmi_code: call in_task; iret; jmp nmi_code");
extern const u8 nmi_code[];

static void task_gate(void) {
    memset(&nmi_task, 0, offsetof(struct tss, bitmap));
    nmi_task.eip = (u32)nmi_code;
    nmi_task.esp = (u32)nmi_stack + sizeof nmi_stack;
    nmi_task.eflags = F_FIXED;
    nmi_task.cs = KERNEL_CODE;
    nmi_task.ss = nmi_task.ds = nmi_task.es = nmi_task.fs = nmi_task.gs = KERNEL_DATA;
    u16 selector = gdt_set(FREE_GDT, descriptor((u32)&nmi_task, 0x67, 0x89, 0));
    idt_set(V_NMI, gate(0, selector, 0x85));
    task_runs = during = 0;
    nmi_to_itself();
    for (u32 i = 0; i < 1000000 && task_runs < 2; i++)
        __asm__ volatile("pause");
    pause_for(1000);
    EQ(task_runs, 2);
    EQ(during, 1);
    idt_set(V_NMI, default_gate(V_NMI));
    gdt_set(FREE_GDT, 0);
    __asm__ volatile("clts");
}

void test(void) {
    if (!(cpuid(1).edx & 1 << 9))
        skip("this CPU has no local APIC");
    trap_hook = on_trap;
    nested();
    if (!is_tcg()) /* goes on blocking */
        faulting_iret();
    wakes();
    task_gate();
    trap_hook = NULL;
}
