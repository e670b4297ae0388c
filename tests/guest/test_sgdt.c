/*
 * SGDT reads back what LGDT loaded, at ring 0 and at ring 3 (it does not trap without UMIP): the
 * guest's own table, never the host's. SDM volume 2B, "SGDT-Store Global Descriptor Table
 * Register".
 * Expected: limit = GDT_BYTES - 1, base = gdt, six bytes written and no more.
 */
#include "guest.h"

struct {
    u16 limit;
    u32 base;
    u16 beyond;
} __attribute__((packed)) stored;

CODE(store, "sgdt stored" DONE);
CODE(store_by_register, "sgdt (%ecx,%edx,2)" DONE);

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 form = 0; form < 2; form++) {
            stored.limit = 0, stored.base = 0, stored.beyond = 0x5a5a;
            reset_run(ring);
            in.ecx = (u32)&stored - 20;
            in.edx = 10;
            RUNS(ring, form ? store_by_register : store);
            EQ(stored.limit, GDT_BYTES - 1);
            EQ(stored.base, (u32)gdt);
            EQ(stored.beyond, 0x5a5a);
        }
}
