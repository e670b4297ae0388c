/*
 * PSE-36: 4 MiB pages above 4 GiB. Bits 13-20 of the directory entry are physical address bits
 * 32-39, as far as MAXPHYADDR goes; the rest of them and bit 21 are reserved. SDM volume 3A,
 * section 4.3 "32-Bit Paging", table 4-4.
 * Expected: where there is no memory reads give ones, writes are lost, and memory at the address
 * without the upper bits stays as it was; reserved bits raise #PF with bit 3; A and D are set.
 * OPTIONS: -cpu max
 */
#include "guest.h"

enum { AREA = 0x30000000, PHYSICAL = 16 << 20 };
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(add, "add %edx,(%ecx)" DONE);
CODE(copy, "mov %ecx,%esi; mov %edx,%edi; mov $4,%ecx; rep movsl" DONE);
static u32 landed[4];

static u32 access(u32 ring, const u8 *code, u32 offset, u32 edx) {
    reset_run(ring);
    in.ecx = AREA + offset;
    in.edx = edx;
    return run(ring, code);
}
static void set(u32 entry) {
    *pde(AREA) = entry | PT_P | PT_W | PT_U | PT_PS;
    invlpg(AREA);
}

static void bit_by_bit(u32 ring, u32 address_bits) {
    volatile u32 *memory = (volatile u32 *)(PHYSICAL + 0x123450);
    for (u32 bit = 13; bit <= 21; bit++) {
        bool reserved = bit == 21 || bit - 13 + 32 >= address_bits;
        *memory = 0x1234abcd;
        set(PHYSICAL | 1u << bit);
        u32 vector = access(ring, load, 0x123450, 0);
        if (reserved) {
            if (is_tcg()) /* QEMU knows other reserved bits, and leaves P out */
                continue;
            EQ(vector, V_PF);
            EQ(trap.error, ring ? 0xd : 9);
            EQ(*pde(AREA) & (PT_A | PT_D), 0);
            EQ(access(ring, store, 0x123450, 5), V_PF);
            EQ(trap.error, ring ? 0xf : 0xb);
        } else {
            EQ(vector, V_DONE);
            CHECK(trap.eax != 0x1234abcd);
            if (!is_tcg())
                EQ(trap.eax, 0xffffffff);
            EQ(*pde(AREA) & (PT_A | PT_D), PT_A);
            EQ(access(ring, store, 0x123450, 5), V_DONE);
            EQ(*pde(AREA) & (PT_A | PT_D), PT_A | PT_D);
            EQ(access(ring, add, 0x123450, 5), V_DONE);
            landed[3] = 1;
            EQ(access(ring, copy, 0x123450, (u32)landed), V_DONE);
            if (!is_tcg())
                EQ(landed[3], 0xffffffff);
        }
        EQ(*memory, 0x1234abcd);
        set(PHYSICAL); /* the same page without the bit */
        EQ(access(ring, load, 0x123450, 0), V_DONE);
        EQ(trap.eax, 0x1234abcd);
    }
}

void test(void) {
    if (!(cpuid(1).edx >> 17 & 1))
        skip("this CPU has no PSE-36");
    u32 address_bits = cpuid(0x80000000).eax >= 0x80000008 ? cpuid(0x80000008).eax & 0xff : 36;
    if (address_bits > 40)
        address_bits = 40;
    paging_prepare();
    write_cr4(read_cr4() | CR4_PSE);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    bit_by_bit(0, address_bits);
    bit_by_bit(3, address_bits);
    /* Without CR4.PSE the entry names a table, and no bit is reserved. */
    write_cr4(read_cr4() & ~CR4_PSE);
    *(u32 *)(PHYSICAL + 4 * 0x123) = SCRATCH | PT_P;
    *(u32 *)(SCRATCH + 0x450) = 0x5151;
    *pde(AREA) = PHYSICAL | PT_P | PT_PS;
    write_cr3(read_cr3());
    EQ(access(0, load, 0x123450, 0), V_DONE);
    EQ(trap.eax, 0x5151);
    *(u32 *)(PHYSICAL + 4 * 0x123) = 0;
    paging_off();
}
