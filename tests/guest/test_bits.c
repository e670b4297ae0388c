/*
 * BT, BTS, BTR, BTC with register offsets far outside the addressed word (they reach +-256 MiB),
 * with immediates and in registers; LOCK forms; page faults at the reached word. SDM volume 2A,
 * "BT".
 * Expected: the byte at base + offset/8 (signed) changes; CF = the old bit; other flags kept (ZF)
 * or ignored.
 */
#include "guest.h"

enum { AREA = 0x30000000 };
CODE(bt_m, "bt %edx,(%ecx); setc %al" DONE);
CODE(bts_m, "bts %edx,(%ecx); setc %al" DONE);
CODE(btr_m, "lock btr %edx,(%ecx); setc %al" DONE);
CODE(btc_m, "btc %edx,(%ecx); setc %al" DONE);
CODE(bts_m16, "bts %dx,(%ecx); setc %al" DONE);
CODE(bts_imm, "btsl $37,(%ecx); setc %al" DONE);
CODE(bt_reg, "mov $0x80000001,%ecx; bt %edx,%ecx; setc %al; btc %edx,%ecx" DONE);
CODE(zf_kept, "cmp %eax,%eax; bts %edx,(%ecx); sete %al" DONE);

static u32 go(u32 ring, const u8 *code, u32 base, u32 bit) {
    reset_run(ring);
    in.ecx = base;
    in.edx = bit;
    return run(ring, code);
}

void test(void) {
    static const int32_t offsets[] = {0, 1, 31, 32, 33, 1000, 32767, -1, -32, -33, -5000};
    u32 middle = SCRATCH + 65536;
    paging_prepare();
    pte(AREA);
    paging_on();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        for (u32 i = 0; i < sizeof offsets / sizeof *offsets; i++) {
            int32_t bit = offsets[i];
            u8 *byte = (u8 *)middle + (bit >> 3);
            u8 mask = (u8)(1 << (bit & 7));
            *byte = 0;
            EQ(go(ring, bt_m, middle, (u32)bit), V_DONE);
            EQ(trap.eax & 1, 0);
            EQ(go(ring, bts_m, middle, (u32)bit), V_DONE);
            EQ(trap.eax & 1, 0);
            EQ(*byte, mask);
            EQ(go(ring, bt_m, middle, (u32)bit), V_DONE);
            EQ(trap.eax & 1, 1);
            EQ(go(ring, btr_m, middle, (u32)bit), V_DONE);
            EQ(trap.eax & 1, 1);
            EQ(*byte, 0);
            EQ(go(ring, btc_m, middle, (u32)bit), V_DONE);
            EQ(*byte, mask);
            EQ(go(ring, zf_kept, middle, (u32)bit), V_DONE);
            EQ(trap.eax & 1, 1);
            *byte = 0;
        }
        *((u8 *)middle + 4095) = 0;
        EQ(go(ring, bts_m16, middle, 0x7fff), V_DONE); /* the upper half of EDX does not count */
        EQ(*((u8 *)middle + 4095), 0x80);
        *((u8 *)middle - 4096) = 0;
        EQ(go(ring, bts_m16, middle, 0x12348000), V_DONE);
        EQ(*((u8 *)middle - 4096), 1);
        *(u32 *)middle = 0;
        EQ(go(ring, bts_imm, middle, 0), V_DONE); /* immediates are modulo 32 */
        EQ(*(u32 *)middle, 0x20);
        EQ(go(ring, bt_reg, 0, 31 + 64), V_DONE);
        EQ(trap.eax & 1, 1);
        EQ(trap.ecx, 1);
        map(AREA, SCRATCH, PT_P | PT_W | PT_U);
        map(AREA + 4096, 0, 0);
        EQ(go(ring, bts_m, AREA, 4096 * 8 + 70), V_PF);
        EQ(trap_cr2, AREA + 4096 + 8);
        EQ(go(ring, bts_m, AREA + 0x100000, (u32)-0x800000 + 5), V_DONE);
        EQ(scratch[0] & 0x20, 0x20);
        scratch[0] = 0;
        map(AREA, 0, 0);
    }
    paging_off();
}
