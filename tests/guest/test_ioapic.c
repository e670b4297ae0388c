/*
 * The I/O APIC as software drives it, with lines that pc-testdev pulls: edges, levels with remote
 * IRR and EOI, masks, the timer's pin, and the same line at the 8259s. Intel 82093AA data sheet,
 * chapter 3; SDM volume 3, section 10.8.5 "Signaling Interrupt Servicing Completion".
 * OPTIONS: -device pc-testdev
 * Expected: one interrupt per edge, none for edges at a masked pin; a level interrupts again after
 * each EOI until it is lowered.
 * UNPAGED: its registers lie above what the library maps
 */
#include "guest.h"

#define APIC 0xfee00000u
#define IOAPIC 0xfec00000u
enum { EOI = 0xb0, SVR = 0xf0, TPR = 0x80, TMR = 0x180 };
enum { LINE = 11, LINE_PORT = 0x2000 };
enum { LEVEL = 0x8000, REMOTE_IRR = 0x4000, MASKED = 0x10000, STATUS = 0x1000 };

static u32 apic(u32 reg) {
    return *(volatile u32 *)(APIC + reg);
}
static void apic_write(u32 reg, u32 value) {
    *(volatile u32 *)(APIC + reg) = value;
}
static u32 get(u32 index) {
    *(volatile u32 *)IOAPIC = index;
    return *(volatile u32 *)(IOAPIC + 0x10);
}
static void put(u32 index, u32 value) {
    *(volatile u32 *)IOAPIC = index;
    *(volatile u32 *)(IOAPIC + 0x10) = value;
}
static void redirect(u32 pin, u32 entry) {
    put(0x11 + 2 * pin, 0); /* to the CPU with APIC ID 0 */
    put(0x10 + 2 * pin, entry);
}
static u32 redirection(u32 pin) {
    return get(0x10 + 2 * pin) & ~(u32)STATUS;
}
static void line(bool level) {
    outb(LINE_PORT + LINE, level);
}

static volatile u32 came, last, lower_after, seen_remote_irr, by_8259;

static bool on_trap(struct frame *f) {
    if (f->vector < 0x30 || f->vector == V_DONE)
        return false;
    came++;
    last = f->vector;
    if (get(0x10 + 2 * LINE) & REMOTE_IRR)
        seen_remote_irr++;
    if (came == lower_after)
        line(false);
    apic_write(EOI, 0);
    return true;
}
static void on_line(u32 number, struct frame *f) {
    by_8259++;
}

static void window(void) {
    __asm__ volatile("sti; nop; nop; nop; nop; cli" ::: "memory");
}
static void windows(void) {
    for (u32 i = 0; i < 20; i++)
        window();
}

static void edges(void) {
    came = 0;
    redirect(LINE, 0x51);
    line(true);
    windows();
    EQ(came, 1);
    EQ(last, 0x51);
    line(false);
    windows();
    EQ(came, 1);
    line(true), line(false), line(true), line(false); /* two edges, one request bit */
    windows();
    EQ(came, 2);
    redirect(LINE, MASKED | 0x51);
    line(true), line(false);
    redirect(LINE, 0x51);
    windows();
    EQ(came, 2);
    redirect(LINE, MASKED | 0x51);
}

static void levels(void) {
    came = seen_remote_irr = 0;
    lower_after = 3;
    redirect(LINE, LEVEL | 0x62);
    line(true);
    EQ(redirection(LINE), LEVEL | REMOTE_IRR | 0x62);
    windows();
    EQ(came, 3);
    EQ(seen_remote_irr, 3);
    EQ(redirection(LINE), LEVEL | 0x62);

    came = 0;
    lower_after = 1;
    redirect(LINE, MASKED | LEVEL | 0x62);
    line(true);
    windows();
    EQ(came, 0);
    redirect(LINE, LEVEL | 0x62); /* still high */
    EQ(apic(TMR + 0x30) & 1u << 2, 1u << 2);
    windows();
    EQ(came, 1);
    lower_after = 0;

    /* Mask, edge, level: an end without an EOI. */
    came = 0;
    apic_write(TPR, 0xff);
    redirect(LINE, LEVEL | 0x63);
    line(true);
    redirect(LINE, MASKED | LEVEL | 0x63);
    EQ(redirection(LINE), MASKED | LEVEL | REMOTE_IRR | 0x63);
    redirect(LINE, MASKED | 0x63);
    redirect(LINE, MASKED | LEVEL | 0x63);
    EQ(redirection(LINE), MASKED | LEVEL | 0x63);
    line(false);
    apic_write(TPR, 0);
    windows();
    EQ(came, 1); /* accepted before */
}

/* The 8254 stands at pin 2; line 0 of the 8259s sees it at the same time. */
static void timer_pin(void) {
    came = by_8259 = 0;
    irq_hook = on_line;
    redirect(2, 0x70);
    outb(0x43, 0x30);
    outb(0x40, 0x80);
    outb(0x40, 0x00);
    for (u32 i = 0; i < 1000000 && !came; i++)
        window();
    windows();
    EQ(came, 1);
    EQ(last, 0x70);
    EQ(by_8259, 0);
    outb(0x21, 0xfe);
    window();
    EQ(by_8259, 1);
    redirect(2, MASKED);
    pit_stop();
    irq_hook = NULL;
}

void test(void) {
    apic_write(SVR, 0x1ff);
    trap_hook = on_trap;
    EQ(get(1) >> 16 & 0xff, 23);
    u32 id = get(0);
    put(0, 0x05000000);
    EQ(get(0), 0x05000000);
    put(0, id);
    for (u32 pin = 0; pin < 24; pin++)
        CHECK(get(0x10 + 2 * pin) & MASKED);
    line(false);
    edges();
    levels();
    timer_pin();
    trap_hook = NULL;
}
