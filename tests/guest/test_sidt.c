/*
 * SIDT reads back what LIDT loaded, at ring 0 and at ring 3 (the "red pill": a monitor that lets
 * it run natively shows the host's table). SDM volume 2B, "SIDT".
 * Expected: limit = 256 * 8 - 1, then 1000h - 1 after a new LIDT; base = idt; six bytes written.
 */
#include "guest.h"

struct {
    u16 limit;
    u32 base;
    u16 beyond;
} __attribute__((packed)) stored;

CODE(store, "sidt stored" DONE);

static void expect(u32 limit) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        stored.limit = 0, stored.base = 0, stored.beyond = 0x5a5a;
        RUNS(ring, store);
        EQ(stored.limit, limit);
        EQ(stored.base, (u32)idt);
        EQ(stored.beyond, 0x5a5a);
    }
}

void test(void) {
    expect(sizeof idt - 1);
    load_idt_limit(0x0fff);
    expect(0x0fff);
    load_idt_limit(sizeof idt - 1);
}
