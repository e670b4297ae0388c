/*
 * Running off the end of RAM with paging off: beyond it there is nothing, reads give all ones (FF
 * FF is undefined).
 * Expected: #UD behind the last instruction in RAM; loads of ones, stores without effect.
 * UNPAGED: it looks at all of RAM, of which the library maps 32 MiB
 */
#include "guest.h"

CODE(go, "jmp *%ecx");
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %eax,(%ecx)" DONE);
CODE(copy, "mov $64,%ecx; mov %edx,%edi; mov $scratch,%esi; cld; rep movsb" DONE);

void test(void) {
    u32 end = memory_bytes() & ~0xfffu;
    if (end < 32u << 20 || end >= 0xe0000000u)
        skip("no usable memory size in the boot information");
    end = option("ram", 64) << 20;
    memset((void *)(end - 16), 0x90, 16);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        reset_run(ring);
        in.ecx = end;
        RUNS(ring, load);
        EQ(trap.eax, is_tcg() ? trap.eax : 0xffffffff);
        reset_run(ring);
        in.ecx = end;
        in.eax = 0x1234;
        RUNS(ring, store);
        reset_run(ring);
        in.edx = end - 32;
        RUNS(ring, copy);
        EQ(memcmp((void *)(end - 32), scratch, 32), 0);
        if (is_tcg())
            continue; /* QEMU stops when code leaves RAM */
        memset((void *)(end - 16), 0x90, 16);
        reset_run(ring);
        in.ecx = end - 16;
        EQ(run(ring, go), V_UD);
        EQ(trap.eip, end);
        reset_run(ring);
        in.ecx = 0x90000000; /* far from everything */
        EQ(run(ring, go), V_UD);
        EQ(trap.eip, 0x90000000);
    }
}
