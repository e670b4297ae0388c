/*
 * Segments with a base: %fs and %gs as Linux has them, a based DS, ES for string instructions, a
 * based stack and a based code segment; wrap-around of base + offset at 4 GiB. SDM volume 3A,
 * section 3.4.3.
 * Expected: linear address = base + effective address, modulo 2^32, for every addressing form.
 */
#include "guest.h"

CODE(load_fs, "mov %fs:(%ecx),%eax; mov %fs:8(%ecx),%ebx; mov %fs:8,%edx; movzbl %fs:4,%esi" DONE);
CODE(store_gs, "mov %edx,%gs:(%ecx); addl $1,%gs:(%ecx); xadd %edx,%gs:(%ecx)" DONE);
CODE(moffs_fs, ".byte 0x64,0xa1,8,0,0,0; .byte 0x64,0xa3,12,0,0,0" DONE);
CODE(lods_fs, "cld; xor %esi,%esi; fs lodsl" DONE);
CODE(movs_fs, "cld; mov $4,%ecx; xor %esi,%esi; mov $scratch+256,%edi; rep fs movsl" DONE);
CODE(stos_es, "cld; mov $4,%ecx; xor %edi,%edi; rep stosl" DONE);
CODE(load_ds,
     "mov (%ecx),%eax; mov 4(%esp),%ebx; mov 4(%ebp),%edx; mov $8,%ebp; mov %ds:4(%ebp),%edi" DONE);
CODE(stack,
     "push $0x1111; push $0x2222; pop %eax; mov (%esp),%ebx; call 1f; 1: pop %ecx; pop %edx" DONE);
CODE(based_code, "call 1f; 1: pop %eax; mov %cs:(%eax),%ebx; jmp *%ecx");
CODE(based_end, "mov $7,%edi" DONE);
CODE(segment_16bit_ea,
     "mov $0x10004,%ebx; .byte 0x67; mov (%bx),%eax; .byte 0x64,0x67,0xa1,8,0" DONE);
CODE(tls_exchange, "mov $1,%eax; xchg %eax,%fs:0; lock incl %fs:4; cmpxchg %ecx,%fs:8" DONE);

#define WORD(i) (((u32 *)scratch)[i])

static void fill(void) {
    for (u32 i = 0; i < 512; i++)
        WORD(i) = 0x1000 + i;
}

void test(void) {
    u16 based = gdt_set(FREE_GDT, descriptor(SCRATCH, 0xfffff, 0xf2, 12));
    u16 wrap = gdt_set(FREE_GDT + 1, descriptor(SCRATCH + 0x1000, 0xfffff, 0xf2, 12));
    u16 code = gdt_set(FREE_GDT + 2, descriptor(0x1000, 0xfffff, 0xfa, 12));
    for (u32 ring = 0; ring <= 3; ring += 3) {
        fill();
        reset_run(ring);
        in.fs = based;
        in.ecx = 16;
        RUNS(ring, load_fs);
        EQ(trap.eax, WORD(4));
        EQ(trap.ebx, WORD(6));
        EQ(trap.edx, WORD(2));
        EQ(trap.esi, WORD(1) & 0xff);
        reset_run(ring);
        in.fs = wrap;
        in.ecx = (u32)-0x1000; /* base + offset wraps to the start of scratch */
        RUNS(ring, load_fs);
        EQ(trap.eax, WORD(0));
        EQ(trap.edx, WORD(1026));
        reset_run(ring);
        in.gs = based;
        in.ecx = 64;
        in.edx = 0x5000;
        RUNS(ring, store_gs);
        EQ(WORD(16), 0xa001);
        EQ(trap.edx, 0x5001);
        reset_run(ring);
        in.fs = based;
        in.eax = 9;
        RUNS(ring, moffs_fs);
        EQ(trap.eax, WORD(2));
        EQ(WORD(3), WORD(2));
        reset_run(ring);
        in.fs = based;
        RUNS(ring, lods_fs);
        EQ(trap.eax, WORD(0));
        EQ(trap.esi, 4);
        reset_run(ring);
        in.fs = based;
        RUNS(ring, movs_fs);
        EQ(WORD(67), WORD(3));
        EQ(trap.esi, 16);
        EQ(trap.edi, SCRATCH + 272);
        reset_run(ring);
        in.es = based;
        in.eax = 0xabab;
        RUNS(ring, stos_es);
        EQ(WORD(3), 0xabab);
        EQ(trap.edi, 16);
        fill();
        reset_run(ring);
        in.ds = based; /* SS-relative accesses stay flat */
        in.ecx = 40;
        in.ebp = (u32)user_stack;
        in.esp = USER_STACK_TOP - 64;
        ((u32 *)user_stack)[1] = 0x6161;
        ((u32 *)(USER_STACK_TOP - 64))[1] = 0x6262;
        RUNS(ring, load_ds);
        EQ(trap.eax, WORD(10));
        EQ(trap.ebx, 0x6262);
        EQ(trap.edx, 0x6161);
        EQ(trap.edi, WORD(3));
        reset_run(ring);
        in.fs = based;
        in.ecx = 0x7777;
        RUNS(ring, tls_exchange);
        EQ(trap.eax, WORD(2));
        EQ(WORD(0), 1);
        EQ(WORD(1), 0x1002);
    }
    /* A based stack, at ring 3 only (the library's own ring 0 stack must stay flat). */
    reset_run(3);
    in.ss = based;
    in.esp = 4096;
    RUNS(3, stack);
    EQ(trap.eax, 0x2222);
    EQ(trap.ebx, 0x1111);
    EQ(trap.edx, 0x1111);
    EQ(trap.esp, 4096);
    EQ(WORD(1023), 0x1111);
    reset_run(3);
    in.cs = code;
    in.ecx = (u32)based_end - 0x1000;
    RUNS(3, based_code - 0x1000);
    EQ(trap.eax, based_code + 5 - 0x1000);
    EQ(trap.ebx, *(u32 *)(based_code + 5));
    EQ(trap.cs, code);
    EQ(trap.edi, 7);
    fill();
    reset_run(3);
    in.fs = in.ds = based;
    RUNS(3, segment_16bit_ea);
    EQ(trap.eax, WORD(2));
    for (u32 i = 0; i < 3; i++)
        gdt_set(FREE_GDT + i, 0);
}
