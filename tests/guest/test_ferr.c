/*
 * x87 errors with CR0.NE=0, as PC/AT software handles them: IRQ 13 in front of the next waiting
 * instruction, port F0h, IGNNE#. SDM volume 1, section 8.7.2 "MS-DOS Compatibility Sub-mode" and
 * appendix D.2.
 * Expected: the instruction that finds the error is not executed but waits; interrupt 2Dh pushes
 * its address; after a write to port F0h waiting instructions pass the error over, until FNCLEX;
 * any other interrupt wakes the CPU, too, and it waits again. With NE=1: #MF, and no interrupt.
 * QEMU: aborts when FERR# asks for its interrupt (7.2)
 */
#include "guest.h"

u32 zero, one = 0x3f800000, control = 0x037b;
CODE(divides, "fninit; fldcw control; flds one; fdivs zero; nop; mov $7,%ebx; .globl ferr_at\n"
              "ferr_at: fwait; .globl ferr_after\nferr_after: fninit; mov $8,%ebx" DONE);
CODE(divides_mmx, "fninit; fldcw control; flds one; fdivs zero; nop; .globl mmx_at\n"
                  "mmx_at: movd %eax,%mm0; emms" DONE);
extern const u8 ferr_at[], ferr_after[], mmx_at[];

static volatile u32 errors, ticks, eip, status, loaded, after_clear;
static bool quiet;

static void on_line(u32 line, struct frame *f) {
    u16 word;
    if (line == 0) { /* the CPU waited, and will again */
        if (f->eip == (u32)ferr_at && ++ticks == 3)
            __asm__ volatile("fnclex");
        return;
    }
    if (line != 13)
        return;
    errors++;
    eip = f->eip;
    __asm__ volatile("fnstsw %0" : "=m"(word));
    status = word;
    if (!quiet) {
        outb(0xf0, 0);
        /* IGNNE#: these would wait */
        __asm__ volatile("fwait; fld1; fnstsw %0" : "=m"(word));
        loaded = word;
    }
    __asm__ volatile("fnclex; fwait; fnstsw %0" : "=m"(word));
    after_clear = word;
}

static void errors_interrupt(u32 ring) {
    for (u32 i = 0; i < 3; i++) { /* again and again: the latch was cleared */
        errors = 0;
        reset_run(ring);
        in.eflags |= F_IF;
        RUNS(ring, divides);
        EQ(trap.ebx, 8);
        EQ(errors, 1);
        EQ(eip, ferr_at);
        EQ(status & 0x84, 0x84);
        EQ(loaded & 0x84, 0x84);
        EQ((status - loaded) >> 11 & 7, 1); /* one more on the stack */
        EQ(after_clear & 0x84, 0);
    }
    if (fpu_is_tcg()) /* only FWAIT looks for errors */
        return;
    errors = 0;
    reset_run(ring);
    in.eflags |= F_IF;
    RUNS(ring, divides_mmx);
    EQ(errors, 1);
    EQ(eip, mmx_at);
}

/* Line 13 is masked: the timer ends each wait. */
static void waits(u32 ring) {
    pic_init((u16)~5u);
    pit_start(1000);
    errors = ticks = 0;
    reset_run(ring);
    in.eflags |= F_IF;
    RUNS(ring, divides);
    EQ(trap.ebx, 8);
    EQ(ticks, 3);
    EQ(errors, 0);
    pit_stop();
    outb(0xf0, 0);
}

void test(void) {
    u32 cr0 = read_cr0();
    irq_hook = on_line;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        write_cr0((cr0 & ~(CR0_NE | CR0_EM | CR0_TS)) | CR0_MP);
        pic_init((u16) ~(1u << 13 | 1u << 2));
        errors_interrupt(ring);
        waits(ring);
        write_cr0(cr0 | CR0_NE | CR0_MP);
        pic_init((u16) ~(1u << 13 | 1u << 2));
        errors = 0;
        reset_run(ring);
        in.eflags |= F_IF;
        EQ(run(ring, divides), V_MF);
        EQ(trap.eip, ferr_at);
        EQ(errors, 0);
        __asm__ volatile("fninit");
    }
    pic_init(0xffff);
    irq_hook = NULL;
    write_cr0(cr0);
}
