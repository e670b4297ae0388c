/*
 * The timer interrupts running code and wakes HLT; STI and loads of SS hold interrupts back for
 * one instruction; CLI holds them back for good. SDM volume 2B, "STI"; volume 3A, section 6.8.3
 * "Masking Exceptions and Interrupts When Switching Stacks"; Intel 8259A and 8254 data sheets.
 * Expected: counts as below; after `sti; hlt` the interrupt returns behind the HLT; registers and
 * flags of the interrupted loop survive.
 */
#include "guest.h"

volatile u32 ticks, tick_eip, tick_cs;
u32 sti_esp;
CODE(wait_hlt, "sti; hlt; .globl behind_hlt\nbehind_hlt: cli" DONE);
CODE(sti_cli, "mov $20000,%ecx; 1: sti; cli; dec %ecx; jnz 1b" DONE);
CODE(sti_pop, "sti; pop %eax; .globl behind_pop\nbehind_pop: nop; cli" DONE);
CODE(sti_ss, "mov %ss,%eax; sti; mov %eax,%ss; .globl behind_ss\nbehind_ss: nop; nop; cli" DONE);
CODE(spin, "mov $0x1234,%ebx; mov $0x5678,%edx; stc; 1: cmpl $3,ticks; jb 1b; mov $1,%eax" DONE);
CODE(spin_here, "mov $2,%ecx; 1: jmp 1b");
CODE(hlt_only, "hlt" DONE);
extern const u8 behind_hlt[], behind_pop[], behind_ss[];

static void on_irq(u32 line, struct frame *f) {
    if (line == 0) {
        ticks++;
        tick_eip = f->eip;
        tick_cs = f->cs;
    }
}

/* Ends an endless loop: the third tick sends it to DONE. */
CODE(way_out, DONE);
static void on_irq_redirect(u32 line, struct frame *f) {
    on_irq(line, f);
    if (ticks == 3)
        f->eip = (u32)way_out;
}

/* Waits until the master 8259 has a request pending while interrupts are off. */
static void wait_pending(void) {
    do
        outb(0x20, 0x0a);
    while (!(inb(0x20) & 1));
}

static void start(u32 hz) {
    ticks = 0;
    pic_init(0xfffe);
    pit_start(hz);
}

void test(void) {
    irq_hook = on_irq;
    start(1000);
    for (u32 i = 0; i < 5; i++) {
        ticks = 0;
        RUNS(0, wait_hlt);
        CHECK(ticks >= 1); /* a slow host may fit in another one */
        EQ(tick_eip, behind_hlt);
    }
    /* Pending, then STI; POP: delivered behind the POP, not behind the STI. */
    wait_pending();
    ticks = 0;
    reset_run(0);
    in.esp = USER_STACK_TOP - 16;
    RUNS(0, sti_pop);
    CHECK(ticks >= 1);
    EQ(tick_eip, behind_pop);
    wait_pending();
    ticks = 0;
    RUNS(0, sti_cli); /* the shadow of STI covers the CLI */
    EQ(ticks, 0);
    wait_pending();
    ticks = 0;
    RUNS(0, sti_ss);
    CHECK(ticks >= 1);
    /* STI's shadow ends with the load of SS, which need not add one of its own (it does, when
     * alone). */
    CHECK(tick_eip == (u32)behind_ss || tick_eip == (u32)behind_ss + 1);

    for (u32 ring = 0; ring <= 3; ring += 3) {
        start(1000);
        reset_run(ring);
        in.eflags |= F_IF;
        RUNS(ring, spin);
        CHECK(ticks >= 3);
        EQ(trap.ebx, 0x1234);
        EQ(trap.edx, 0x5678);
        EQ(tick_cs, ring ? USER_CODE : KERNEL_CODE);
        irq_hook = on_irq_redirect;
        start(1000);
        reset_run(ring);
        in.eflags |= F_IF;
        RUNS(ring, spin_here); /* a loop with nothing in it can be interrupted too */
        EQ(trap.ecx, 2);
        irq_hook = on_irq;
    }
    FAULTS(3, hlt_only, V_GP, 0);
    pit_stop();
    irq_hook = NULL;
}
