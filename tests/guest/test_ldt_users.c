/*
 * Programs that use segments, as Linux lets them: two processes with LDTs of their own
 * (modify_ldt), 16-bit and 32-bit code and data in them, LAR and LSL on their entries, and
 * thread-local storage through GDT entries that the kernel rewrites at each switch. SDM volume 3A,
 * sections 2.4.2, 3.4.5 and 3.5.1. Expected: each process sees its own LDT; a register that the
 * kernel does not load again keeps the old base and limit; Linux reloads FS, GS and LDTR, and then
 * the new ones count.
 */
#include "guest.h"

enum { LDT0 = FREE_GDT, TLS = FREE_GDT + 2, ENTRIES = 8 };
/* Selectors in the LDT, RPL 3. */
enum { D32 = 0x07, C32 = 0x0f, D16 = 0x17, C16 = 0x1f, RO = 0x27, DOWN = 0x2f, ABSENT = 0x37 };
static u64 ldts[2][ENTRIES] __attribute__((aligned(16)));
static u32 directories[2][1024] __attribute__((aligned(4096)));
enum { PRIVATE = 0x30000000 };

/* 16-bit code at offset 0 of C16: calls 32-bit code by a far call and is called by one. */
__asm__(".pushsection .rodata\n.code16\n.globl lu16\nlu16: mov %cs,%bx; mov $0x1234,%ax;"
        "movw (4),%cx; push %ax; pop %dx; addr32 movl %eax,%ds:(8); data32 lret\n"
        ".globl lu16_end\nlu16_end:\n.code32\n.popsection");
extern const u8 lu16[], lu16_end[];
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) lu_far;
CODE(call_16, "mov %ebx,%ds; mov %edi,%eax; lcall *%es:lu_far; .globl lu_back\nlu_back: push "
              "$0x23; pop %ds; mov %cs,%esi" DONE);
CODE(in_32, "mov %cs,%eax; mov %ds:4,%ebx; mov %fs:(%ecx),%edx" DONE);
CODE(queries, "xor %eax,%eax; xor %ebx,%ebx; lar %ecx,%eax; setz %dl; lsl %ecx,%ebx; setz %dh;"
              "mov %ecx,%esi; verw %cx; setz %cl; verr %si; setz %ch" DONE);
CODE(read_gs, "mov %gs:0,%eax; mov %gs:(%ecx),%ebx" DONE);
extern const u8 lu_back[];

static void use(u32 process) {
    write_cr3((u32)directories[process]);
    __asm__ volatile("lldt %w0" ::"r"((LDT0 + process) << 3));
}

static void query(u32 selector, u32 rights, u32 limit, bool writable, bool readable) {
    reset_run(3);
    in.ecx = selector;
    RUNS(3, queries);
    bool visible = rights != 0;
    EQ(trap.edx & 0x101, visible ? 0x101 : 0);
    if (visible) {
        u32 accessed = is_tcg() ? 0x100 : 0; /* QEMU does not set it in code segments */
        EQ((trap.eax & 0x00f0ff00) | accessed, rights | accessed);
        EQ(trap.ebx, limit);
    }
    EQ(trap.ecx & 0x101, writable | readable << 8);
}

static void process(u32 p) {
    u32 base = SCRATCH + 0x10000 * p;
    use(p);
    reset_run(3);
    in.cs = C32;
    in.ds = D32;
    in.fs = D16;
    in.ecx = 4;
    RUNS(3, in_32);
    EQ(trap.cs, C32);
    EQ(trap.eax, C32);
    EQ(trap.ebx, 0xbeef0001 + p);
    EQ(trap.edx, 0xbeef0001 + p);
    /* 16-bit code and back: RETF with operand size 32 finds what the 32-bit CALL pushed. */
    for (u32 i = 0; i < 3; i++) {
        reset_run(3);
        lu_far.offset = 0x100;
        lu_far.selector = C16;
        in.ebx = D16;
        in.edi = 0x55550000;
        *(u32 *)(base + 8) = 0;
        RUNS(3, call_16);
        EQ(trap.ebx & 0xffff, C16);
        EQ(trap.eax, 0x55551234);
        EQ(trap.ecx & 0xffff, 0x0001 + p);
        EQ(trap.edx & 0xffff, 0x1234);
        EQ(trap.esi, USER_CODE);
        EQ(trap.esp, USER_STACK_TOP);
        EQ(*(u32 *)(base + 8), 0x55551234);
    }
    /* D16 ends at FFFFh, RO may not be written, ABSENT not loaded. */
    if (!is_tcg()) {
        reset_run(3);
        in.cs = C32;
        in.ds = D32;
        in.fs = D16;
        in.ecx = 0xfffd;
        FAULTS(3, in_32, V_GP, 0);
        reset_run(3);
        in.cs = C32;
        in.ds = D32;
        in.fs = DOWN;
        in.ecx = 0xffc;
        FAULTS(3, in_32, V_GP, 0);
    }
    reset_run(3);
    in.fs = ABSENT;
    FAULTS(3, in_32, V_NP, ABSENT & ~3u);
    reset_run(3);
    in.cs = ABSENT;
    FAULTS(3, in_32, V_GP, ABSENT & ~3u); /* data */
    query(D32, 0xc0f300, 0xffffffff, true, true);
    query(C32, 0xc0fb00, 0xffffffff, false, true);
    query(D16, 0x00f300, 0xffff, true, true);
    query(C16, 0x00f900, 0xffff, false, false);
    query(RO, 0x40f100, 0x1ff + p, false, true);
    query(DOWN, 0x40f700, 0xfff, true, true);
    query(ABSENT, 0x407200, 0x10, true, true); /* presence is none of their business */
    query(ENTRIES * 8 + 7, 0, 0, false, false);
}

/* GS names thread-local storage; the kernel rewrites the entry and loads GS again, or does not. */
static void thread_local_storage(void) {
    u32 expected = 0, value;
    for (u32 i = 0; i < 24; i++) {
        u32 base = SCRATCH + 0x20000 + 64 * i;
        *(u32 *)base = 0x7150000 + i;
        gdt_set(TLS, descriptor(base, 63, 0xf2, 4));
        if (i % 3 != 1) {
            __asm__ volatile("mov %0,%%gs" ::"r"(TLS << 3 | 3));
            expected = 0x7150000 + i;
        }
        __asm__ volatile("mov %%gs:0,%0" : "=r"(value));
        EQ(value, expected);
        if (i % 3 != 2)
            continue;
        reset_run(3);
        in.gs = TLS << 3 | 3;
        RUNS(3, read_gs);
        EQ(trap.eax, 0x7150000 + i);
        if (is_tcg())
            continue;
        reset_run(3);
        in.gs = TLS << 3 | 3;
        in.ecx = 61;
        FAULTS(3, read_gs, V_GP, 0);
    }
    /* A thread without storage: the entry is empty, its selector cannot be loaded. */
    gdt_set(TLS, 0);
    reset_run(3);
    in.gs = TLS << 3 | 3;
    EQ(run(3, read_gs), V_GP);
    EQ(trap.error, TLS << 3);
    __asm__ volatile("mov %0,%%gs" ::"r"(KERNEL_DATA));
}

void test(void) {
    paging_prepare();
    pte(PRIVATE);
    for (u32 p = 0; p < 2; p++) {
        u32 base = SCRATCH + 0x10000 * p;
        memset((void *)base, 0, 4096);
        *(u32 *)(base + 4) = 0xbeef0001 + p;
        memcpy((void *)(base + 0x100), lu16, (u32)(lu16_end - lu16));
        memset(ldts[p], 0, sizeof ldts[p]);
        ldts[p][D32 >> 3] = descriptor(base, 0xfffff, 0xf2, 12);
        ldts[p][C32 >> 3] = descriptor(0, 0xfffff, 0xfa, 12);
        ldts[p][D16 >> 3] = descriptor(base, 0xffff, 0xf2, 0);
        ldts[p][C16 >> 3] = descriptor(base, 0xffff, 0xf8, 0);
        ldts[p][RO >> 3] = descriptor(base, 0x1ff + p, 0xf1, 4);
        ldts[p][DOWN >> 3] = descriptor(base, 0xfff, 0xf7, 4);
        ldts[p][ABSENT >> 3] = descriptor(base, 0x10, 0x72, 4);
        gdt_set(LDT0 + p, descriptor((u32)ldts[p], sizeof ldts[p] - 1, 0x82, 0));
        memcpy(directories[p], page_directory, sizeof page_directory);
    }
    paging_on();
    for (u32 i = 0; i < 6; i++)
        process(i & 1);
    thread_local_storage();
    __asm__ volatile("lldt %w0" ::"r"(0));
    gdt_set(LDT0, 0);
    gdt_set(LDT0 + 1, 0);
    paging_off();
}
