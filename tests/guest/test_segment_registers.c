/*
 * PUSH, POP and MOV of segment registers show and load the guest's selectors, with virtual RPL: a
 * kernel that runs at a compressed ring still reads CS & 3 = 0. SDM volume 2B, "PUSH", "POP",
 * volume 2B "MOV", volume 3A section 5.5 "Privilege Levels".
 * Expected: CS 08h at ring 0 and 1Bh at ring 3; loads raise #GP(selector) on privilege or type,
 * #NP on a segment that is not present, #SS for SS; a null SS raises #GP(0); null DS loads, use
 * is #GP(0).
 */
#include "guest.h"

CODE(read_all,
     "mov %cs,%eax; mov %ss,%ecx; mov %ds,%edx; mov %es,%ebx; mov %fs,%esi; mov %gs,%edi" DONE);
CODE(push_all, "push %cs; pop %eax; push %ss; pop %ecx; push %ds; pop %edx; push %es; pop %ebx;"
               "push %fs; pop %esi; push %gs; pop %edi" DONE);
CODE(mov_ds, "mov %ecx,%ds; mov %ds,%edx" DONE);
CODE(mov_es, "mov %ecx,%es; mov %es,%edx" DONE);
CODE(mov_fs, "mov %ecx,%fs; mov %fs,%edx" DONE);
CODE(pop_gs, "push %ecx; pop %gs; mov %gs,%edx" DONE);
CODE(mov_ss, "mov %ecx,%ss; nop; mov %ss,%edx" DONE);
CODE(pop_ss, "push %ecx; pop %ss; nop; mov %ss,%edx" DONE);
CODE(mov_cs, ".byte 0x8e,0xc9" DONE);
CODE(mov_seg6, ".byte 0x8e,0xf1" DONE);
CODE(use_null, "mov %ecx,%fs; mov %fs:0,%eax" DONE);
CODE(push_16, "mov %esp,%edx; pushw %ds; sub %esp,%edx; add $2,%esp" DONE);
CODE(mov_to_word, "movl $-1,-8(%esp); mov %ds,-8(%esp); mov -8(%esp),%eax" DONE);

static const u8 *const loads[] = {mov_ds, mov_es, mov_fs, pop_gs};

static void load(u32 ring, u32 selector, u32 vector, u32 error) {
    for (u32 i = 0; i < 4; i++) {
        reset_run(ring);
        in.ecx = selector;
        EQ(run(ring, loads[i]), vector);
        if (vector == V_DONE)
            EQ(trap.edx, selector);
        else
            EQ(trap.error, error);
    }
}

static void load_ss(u32 ring, u32 selector, u32 vector, u32 error) {
    for (u32 i = 0; i < 2; i++) {
        reset_run(ring);
        in.ecx = selector;
        EQ(run(ring, i ? pop_ss : mov_ss), vector);
        if (vector == V_DONE)
            EQ(trap.edx, selector);
        else
            EQ(trap.error, error);
    }
}

void test(void) {
    u16 absent = gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0x72, 12));
    u16 execute_only = gdt_set(FREE_GDT + 1, descriptor(0, 0xfffff, 0xf8, 12));
    u16 read_only = gdt_set(FREE_GDT + 2, descriptor(0, 0xfffff, 0xf0, 12));
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 form = 0; form < 2; form++) {
            RUNS(ring, form ? push_all : read_all);
            EQ(trap.eax, ring ? USER_CODE : KERNEL_CODE);
            EQ(trap.ecx, ring ? USER_DATA : KERNEL_DATA);
            EQ(trap.edx, ring ? USER_DATA : KERNEL_DATA);
            EQ(trap.ebx, ring ? USER_DATA : KERNEL_DATA);
            EQ(trap.esi, ring ? USER_DATA : KERNEL_DATA);
            EQ(trap.edi, ring ? USER_DATA : KERNEL_DATA);
        }
    load(0, KERNEL_DATA, V_DONE, 0);
    load(0, USER_DATA, V_DONE, 0);
    load(0, USER_CODE, V_DONE, 0);
    load(0, 0, V_DONE, 0);
    load(0, 3, V_DONE, 0);
    load(0, read_only, V_DONE, 0);
    load(0, absent, V_NP, absent & ~3u);
    load(0, execute_only, V_GP, execute_only & ~3u);
    load(0, TSS_SEL, V_GP, TSS_SEL);
    load(0, GDT_ENTRIES * 8, V_GP, GDT_ENTRIES * 8);
    load(0, 0xf, V_GP, 0xc); /* the LDT is null */
    load(0, KERNEL_DATA | 3, V_GP, KERNEL_DATA);
    load(3, KERNEL_DATA, V_GP, KERNEL_DATA);
    load(3, USER_DATA, V_DONE, 0);
    load(3, USER_DATA & ~3u, V_DONE, 0);

    load_ss(0, KERNEL_DATA, V_DONE, 0);
    load_ss(0, 0, V_GP, 0);
    load_ss(0, USER_DATA, V_GP, USER_DATA & ~3u);
    load_ss(0, KERNEL_CODE, V_GP, KERNEL_CODE);
    load_ss(3, USER_DATA, V_DONE, 0);
    load_ss(3, USER_DATA & ~3u, V_GP, USER_DATA & ~3u);
    load_ss(3, absent, V_SS, absent & ~3u);
    load_ss(3, read_only, V_GP, read_only & ~3u);
    load_ss(3, 0, V_GP, 0);

    for (u32 ring = 0; ring <= 3; ring += 3) {
        EQ(run(ring, mov_cs), V_UD);
        EQ(run(ring, mov_seg6), V_UD);
        reset_run(ring);
        in.ecx = 0;
        if (!is_tcg())
            FAULTS(ring, use_null, V_GP, 0);
        RUNS(ring, push_16);
        EQ(trap.edx, 2);
        RUNS(ring, mov_to_word); /* to memory: two bytes only */
        EQ(trap.eax, 0xffff0000u | (ring ? USER_DATA : KERNEL_DATA));
    }
    for (u32 i = 0; i < 3; i++)
        gdt_set(FREE_GDT + i, 0);
}
