/*
 * Local descriptor tables, as Linux's modify_ldt users have them: code and data segments from the
 * LDT at ring 3, a descriptor changed in memory that counts only after a reload, and two LDTs that
 * change places. SDM volume 3A, sections 2.4.2 and 3.5.1.
 * Expected: a register keeps what it loaded (the hidden part) until it is loaded again, across
 * interrupts and changes of ring; selectors beyond the limit raise #GP(selector).
 */
#include "guest.h"

static u64 ldts[2][8];
CODE(read_fs, "mov %fs:0,%eax; mov %fs:4,%ebx" DONE);
CODE(load_fs, "mov %ecx,%fs; mov %fs:0,%eax; mov %fs,%edx" DONE);
CODE(back_to_null, "mov %ecx,%fs; mov %edx,%fs; mov %ecx,%fs; mov %fs,%eax" DONE);
u32 kept[2];
CODE(keeps, "mov %ecx,%fs; mov %fs:0,%eax; mov %eax,kept; movl $0,8(%esi); movl $0,12(%esi);"
            "mov %fs:0,%ebx; mov %ebx,kept+4; int $0x92; mov %fs:0,%edi" DONE);
CODE(ldt_code, "mov %cs,%eax; mov %ds:0,%ebx" DONE);

static bool resume(struct frame *f) {
    return f->vector == 0x92;
}

static void use(u32 table) {
    gdt_set(FREE_GDT, descriptor((u32)ldts[table], 6 * 8 - 1, 0x82, 0));
    __asm__ volatile("lldt %w0" ::"r"(FREE_GDT << 3));
}

void test(void) {
    trap_hook = resume;
    idt_set(0x92, gate((u32)trap_stubs + 16 * 0x92, KERNEL_CODE, 0xee));
    for (u32 i = 0; i < 64; i++)
        ((u32 *)scratch)[i] = 0x500 + i;
    for (u32 table = 0; table < 2; table++) {
        ldts[table][0] = 0;
        ldts[table][1] = descriptor(SCRATCH + 64 * table, 0xfffff, 0xf2, 12);
        ldts[table][2] = descriptor(0, 0xfffff, 0xfa, 12);
        ldts[table][3] = descriptor(SCRATCH + 16, 0xfffff, 0xf2, 12);
        ldts[table][6] = ldts[table][1];
    }
    enum { DATA = 0x0f, CODE = 0x17, OTHER = 0x1f, BEYOND = 0x37 };
    for (u32 table = 0; table < 2; table++) {
        use(table);
        reset_run(3);
        in.fs = DATA;
        RUNS(3, read_fs);
        EQ(trap.eax, 0x500 + 16 * table);
        EQ(trap.fs, DATA);
        reset_run(3);
        in.ecx = BEYOND;
        FAULTS(3, load_fs, V_GP, BEYOND & ~3u);
        reset_run(3);
        in.ecx = 7; /* index 0 of the LDT is no null selector */
        FAULTS(3, load_fs, V_GP, 4);
        reset_run(3);
        in.ecx = 3; /* null, whatever an engine remembers of the first load */
        in.edx = DATA;
        RUNS(3, back_to_null);
        EQ(trap.eax, 3);
        reset_run(3);
        in.cs = CODE;
        in.ds = OTHER;
        RUNS(3, ldt_code);
        EQ(trap.eax, CODE);
        EQ(trap.ebx, 0x504);
        reset_run(3);
        in.ecx = DATA;
        in.esi = (u32)ldts[table];
        u64 saved = ldts[table][1];
        u32 vector = run(3, keeps);
        ldts[table][1] = saved;
        /* The way back from the trap pops FS: from a descriptor that is gone, #GP in the kernel's
         * hands; the library's frame code takes it there, so that the run ends in that #GP. */
        EQ(vector, V_GP);
        EQ(trap.error, DATA & ~3u);
        EQ(kept[0], 0x500 + 16 * table);
        EQ(kept[1], 0x500 + 16 * table);
    }
    /* A register loaded from one LDT, then the other LDT comes into force without a reload. */
    use(0);
    __asm__ volatile("mov %0,%%fs" ::"r"(DATA & ~3));
    use(1);
    u32 value;
    __asm__ volatile("mov %%fs:0,%0" : "=r"(value));
    EQ(value, 0x500);
    __asm__ volatile("mov %1,%%fs; mov %%fs:0,%0; mov %2,%%fs"
                     : "=&r"(value)
                     : "r"(DATA & ~3), "r"(KERNEL_DATA));
    EQ(value, 0x510);
    __asm__ volatile("lldt %w0" ::"r"(0));
    gdt_set(FREE_GDT, 0);
    idt_set(0x92, default_gate(0x92));
    trap_hook = NULL;
}
