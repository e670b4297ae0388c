/*
 * Where an interrupt that waits comes in: behind the instruction after STI, also when that is a
 * load of SS, which has a shadow of its own; at once after POPF and IRET that set IF; behind HLT.
 * SDM volume 2B, "STI"; volume 2B, "MOV"; volume 3A, section 6.8.3 "Masking Exceptions and
 * Interrupts When Switching Stacks"; volume 2A, "HLT". Expected: the EIP in the interrupt's frame
 * as listed. The timer's interrupt is pending in the 8259 before each case begins, so nothing
 * depends on time.
 */
#include "guest.h"

CODE(s_sti, "sti; nop; .globl s_sti_at\ns_sti_at: nop; nop; cli" DONE);
CODE(s_sti_sti, "sti; sti; .globl s_sti_sti_at\ns_sti_sti_at: nop; nop; cli" DONE);
CODE(s_sti_cli, "sti; cli; nop; nop" DONE);
CODE(s_sti_mov,
     "mov %ss,%eax; sti; mov %eax,%ss; nop; .globl s_sti_mov_at\ns_sti_mov_at: nop; nop; "
     "cli" DONE);
CODE(s_popf, "pushf; orl $0x200,(%esp); popf; .globl s_popf_at\ns_popf_at: nop; nop; cli" DONE);
CODE(s_iret, "pushf; orl $0x200,(%esp); push %cs; push $s_iret_at; iret; .globl s_iret_at\n"
             "s_iret_at: nop; nop; cli" DONE);
CODE(s_popf_mov, "mov %ss,%eax; pushf; orl $0x200,(%esp); popf; .globl s_popf_mov_at\n"
                 "s_popf_mov_at: mov %eax,%ss; nop; cli" DONE);
CODE(s_hlt, "sti; hlt; .globl s_hlt_at\ns_hlt_at: nop; cli" DONE);
CODE(s_sti_jmp, "sti; jmp 1f; ud2; .globl s_sti_jmp_at\ns_sti_jmp_at: 1: nop; cli" DONE);
CODE(s_sti_call, "sti; call 1f; cli" DONE ".globl s_sti_call_at\ns_sti_call_at: 1: nop; ret");
CODE(s_sti_push, "sti; push %eax; .globl s_sti_push_at\ns_sti_push_at: pop %eax; nop; cli" DONE);
CODE(s_sti_rep, "mov $5,%ecx; mov $scratch,%edi; sti; rep stosb; .globl "
                "s_sti_rep_at\ns_sti_rep_at: nop; cli" DONE);
extern const u8 s_sti_at[], s_sti_sti_at[], s_sti_mov_at[], s_popf_at[], s_iret_at[],
    s_popf_mov_at[], s_hlt_at[], s_sti_jmp_at[], s_sti_call_at[], s_sti_push_at[], s_sti_rep_at[];
static u32 interrupts, at;

static void on_irq(u32 line, struct frame *f) {
    if (line != 0)
        return;
    if (!interrupts++)
        at = f->eip;
    f->eflags &= ~(u32)F_IF; /* once */
    outb(0x21, 0xff);
}

/* One interrupt request of line 0, waiting in the 8259. */
static void request(void) {
    pic_init(0xffff);
    outb(0x43, 0x30);
    outb(0x40, 2);
    outb(0x40, 0);
    do
        outb(0x20, 0x0a); /* read IRR */
    while (!(inb(0x20) & 1));
    outb(0x21, 0xfe);
}

static void expect(const u8 *code, u32 flags, const u8 *eip) {
    interrupts = at = 0;
    request();
    reset_run(0);
    in.eflags |= flags;
    RUNS(0, code);
    EQ(interrupts, eip ? 1 : 0);
    EQ(at, eip);
    pit_stop();
}

void test(void) {
    irq_hook = on_irq;
    expect(s_sti, 0, s_sti_at);
    expect(s_sti_cli, 0, NULL);
    expect(s_sti_sti, 0, s_sti_sti_at); /* the second finds IF set: no new shadow */
    expect(s_popf, 0, s_popf_at);
    expect(s_iret, 0, s_iret_at);
    expect(s_hlt, 0, s_hlt_at);
    expect(s_sti_jmp, 0, s_sti_jmp_at);
    expect(s_sti_call, 0, s_sti_call_at);
    expect(s_sti_push, 0, s_sti_push_at);
    if (is_tcg()) { /* the rest depends on where QEMU's blocks end */
        irq_hook = NULL;
        return;
    }
    expect(s_popf_mov, 0, s_popf_mov_at);
    expect(s_sti_mov, 0, s_sti_mov_at); /* a shadow of its own behind the STI's */
    expect(s_sti_rep, 0, s_sti_rep_at);
    irq_hook = NULL;
}
