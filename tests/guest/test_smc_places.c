/*
 * Code is changed by everything that writes memory, and everywhere: the storing instruction itself,
 * earlier and later ones, jump targets in hot loops, code that returns are still to come back to,
 * through other addresses, in other address spaces, over page boundaries, by Linux's text_poke
 * through a temporary address space, by the processor's own writes (accessed bits of page tables
 * and descriptors, a task's state) into pages that hold code, by DMA, in 16-bit and in V86 code.
 * SDM volume 3A, section 9.1.3 "Handling Self- and Cross-Modifying Code"; sections 4.8 "Accessed
 * and Dirty Flags", 3.4.5.1 and 7.3 "Task Switching".
 * Expected: the new code runs, from the next instruction on.
 * ROUNDS: 2
 * SECONDS: 40
 */
#include "guest.h"

enum {
    REPEAT = 90,
    ALIAS = 0x30000000,
    TABLE_AREA = 0x30400000,
    INC_EDX = 0x42,
    INC_EBX = 0x43,
    V86_CODE = 0x1000
};

/* ---- In one piece of code ---- */
__asm__(
    ".pushsection .data\n"
    /* adds its own immediate to its own immediate */
    ".globl itself, itself_imm\nitself: mov $10,%ecx\n1: .byte 0x81,0x05; .long "
    "itself_imm\nitself_imm: .long 1\ndec %ecx; jnz 1b; int $0x80\n"
    /* a later instruction, past others; then the one at the loop's head */
    ".globl later\nlater: mov $1000,%ecx; xor %ebx,%ebx; xor %edx,%edx\n"
    "1: nop; mov %cl,%al; and $1,%al; add $0x42,%al; mov %al,2f; lea (%esi),%esi; lea "
    "(%edi),%edi\n2: inc %ebx; dec %ecx; jnz 1b; int $0x80\n"
    ".globl head\nhead: mov $1000,%ecx; xor %ebx,%ebx; xor %edx,%edx\n"
    "1: inc %ebx; mov %ecx,%eax; and $1,%eax; add $0x42,%eax; mov %al,1b; dec %ecx; jnz 1b; int "
    "$0x80\n"
    /* a jump and a call whose targets change at every turn, an immediate of each kind */
    ".globl targets\ntargets: mov $1000,%ecx; xor %ebx,%ebx; xor %edx,%edx\n"
    "1: xorl $(5f-2f)^(6f-2f),2f-4; .byte 0xe9; .long 5f-2f\n2: ud2\n"
    "5: inc %ebx; jmp 7f; 6: inc %edx; jmp 7f\n"
    "7: xorl $(5f-8f)^(6f-8f),8f-4; .byte 0xe8; .long 5f-8f\n8: dec %ecx; jnz 1b; int $0x80\n"
    "5: inc %ebx; ret; 6: inc %edx; ret\n"
    ".globl immediates, imm_sum\nimmediates: mov $500,%ecx; xor %ebx,%ebx; xor %edx,%edx\n"
    "1: mov %ecx,2f-4; mov %ecx,3f-4; mov %cl,4f-1; mov %ecx,5f-4; mov %cl,6f-1; mov %ecx,7f-4\n"
    "mov $0,%eax; 2: add %eax,%ebx; add $0x11111111,%ebx; 3: sub $0x11,%ebx; 4: push "
    "$0x11111111; 5: pop %eax; add %eax,%edx; mov $0,%al; 6: xor %al,%dl; cmp $0x11111111,%ecx; "
    "7: jne 8f; dec %ecx; jnz 1b; int $0x80; 8: ud2\n"
    /* 20,000 calls deep, the place they all return to changes */
    ".globl deep, deep_at\ndeep: mov $scratch+1048576,%esp; xor %ebx,%ebx; xor %edx,%edx; mov "
    "$20000,%ecx; call 1f; int $0x80\n"
    "1: dec %ecx; jz 2f; call 1b\ndeep_at: inc %ebx; ret; 2: xorb $1,deep_at; ret\n.popsection");
extern u8 itself[], later[], head[], targets[], immediates[], deep[], deep_at[];
extern u32 itself_imm;

static u32 expected_sum(u32 *xored) {
    u32 ebx = 0, edx = 0;
    for (u32 i = 500; i; i--) {
        ebx += i + i - (u32)(int8_t)i;
        edx += i;
        edx ^= i & 0xff;
    }
    *xored = edx;
    return ebx;
}

static void in_one_piece(u32 ring) {
    for (u32 i = 0; i < 4; i++) {
        itself_imm = 1;
        RUNS(ring, itself);
        EQ(itself_imm, 1024);
        RUNS(ring, later);
        EQ(trap.ebx, 500);
        EQ(trap.edx, 500);
        head[9] = INC_EBX;
        RUNS(ring, head);
        EQ(trap.ebx, 500);
        EQ(trap.edx, 500);
        RUNS(ring, targets);
        EQ(trap.ebx, 1000);
        EQ(trap.edx, 1000);
        u32 edx, ebx = expected_sum(&edx);
        RUNS(ring, immediates);
        EQ(trap.ebx, ebx);
        EQ(trap.edx, edx);
    }
    for (u32 i = 0; i < 2; i++) {
        u8 after = *deep_at ^ 1;
        RUNS(ring, deep);
        EQ(after == INC_EDX ? trap.edx : trap.ebx, 19999);
        EQ(*deep_at, after);
    }
}

/* ---- Elsewhere ---- */

/* mov $value,%eax; int $0x80 */
static void write_code(u8 *at, u32 value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xcd, at[6] = 0x80;
}

static void over_a_boundary(u32 ring) {
    u8 *at = scratch + 4096 - 2;
    for (u32 i = 0; i < REPEAT; i++) {
        write_code(at, 0x01010101 * i);
        RUNS(ring, at);
        EQ(trap.eax, 0x01010101 * i);
        at[1] = (u8)~i; /* the first page alone */
        RUNS(ring, at);
        EQ(trap.eax, (0x01010101 * i & ~0xffu) | (u8)~i);
        at[4] = (u8)~i; /* the second */
        RUNS(ring, at);
        EQ(trap.eax >> 24, (u8)~i);
    }
    if (!(read_cr0() & CR0_PG))
        return;
    memcpy(scratch + 8192, scratch + 4096, 4096);
    *(u32 *)(scratch + 8192) ^= 0x00770000;
    u32 first = *(u32 *)(at + 1), flags = PT_P | PT_W | PT_U;
    for (u32 i = 0; i < REPEAT; i++) {
        map(SCRATCH + 4096, SCRATCH + 4096 + 4096 * (i & 1), flags);
        RUNS(ring, at);
        EQ(trap.eax, first ^ (i & 1 ? 0x77000000 : 0));
        if (i % 3 == 0) { /* by CR3 rather than by INVLPG */
            *pte(SCRATCH + 4096) = (SCRATCH + 4096 + 4096 * !(i & 1)) | flags;
            write_cr3(read_cr3());
            RUNS(ring, at);
            EQ(trap.eax, first ^ (i & 1 ? 0 : 0x77000000));
        }
    }
    map(SCRATCH + 4096, SCRATCH + 4096, flags);
}

static u32 other_directory[1024] __attribute__((aligned(4096)));
static u32 other_table[1024] __attribute__((aligned(4096)));

/* The same memory at ALIAS, in another address space only. */
static u32 prepare_other(void) {
    memcpy(other_directory, page_directory, 4096);
    memset(other_table, 0, sizeof other_table);
    other_directory[ALIAS >> 22] = (u32)other_table | PT_P | PT_W | PT_U;
    other_table[0] = SCRATCH | PT_P | PT_W | PT_U;
    return (u32)other_directory;
}

/* Writes through the temporary address space. */
static void poke(u32 offset, const void *bytes, u32 count) {
    u32 cr3 = read_cr3();
    write_cr3((u32)other_directory);
    memcpy((u8 *)ALIAS + offset, bytes, count);
    write_cr3(cr3);
    cpuid(0);
}

static void text_poke(u32 ring) {
    prepare_other();
    write_code(scratch + 64, 0x1000);
    *pte(SCRATCH) = SCRATCH | PT_P | PT_U;
    write_cr3(read_cr3());
    for (u32 i = 0; i < REPEAT; i++) {
        u32 value = 0x1000 + i;
        RUNS(ring, scratch + 64);
        EQ(trap.eax, value);
        poke(64, "\xcc", 1);
        EQ(run(ring, scratch + 64), V_BP);
        value++;
        poke(65, &value, 4);
        EQ(run(ring, scratch + 64), V_BP);
        poke(64, "\xb8", 1);
    }
    map(SCRATCH, SCRATCH, PT_P | PT_W | PT_U);
}

/* Two address spaces share a page: one writes it, the other runs it, at one address or two. */
static void shared_page(u32 ring) {
    u32 here = read_cr3(), there = prepare_other();
    for (u32 i = 0; i < REPEAT; i++) {
        write_code(scratch + 128, i);
        write_cr3(there);
        RUNS(ring, (u8 *)ALIAS + 128);
        EQ(trap.eax, i);
        RUNS(ring, scratch + 128);
        EQ(trap.eax, i);
        write_code((u8 *)ALIAS + 128, ~i);
        write_cr3(here);
        RUNS(ring, scratch + 128);
        EQ(trap.eax, ~i);
    }
}

/* ---- The processor writes ---- */

/* A page-table entry that is code: 03 C3 (add) becomes 23 C3 (and) when it is accessed, which the
 * instruction before does; CD 00 ends it. */
static void accessed_bit(void) {
    u32 *entry = pte(TABLE_AREA + 0x5000);
    for (u32 i = 0; i < REPEAT; i++) {
        entry[-1] = 0x0e8b0000; /* mov (%esi),%ecx */
        entry[0] = 0x00cdc303;
        invlpg(TABLE_AREA + 0x5000);
        reset_run(0);
        in.eax = 3;
        in.ebx = 5;
        in.esi = TABLE_AREA + 0x5000;
        EQ(run(0, (u8 *)entry - 2), V_DE);
        EQ(trap.eax, 3 & 5);
        EQ(entry[0], 0x00cdc323);
    }
    entry[-1] = entry[0] = 0;
    invlpg(TABLE_AREA + 0x5000);
}

/* A descriptor that is code: 92 (xchg eax,edx) becomes 93 (xchg eax,ebx) when it is loaded. */
static void descriptor_bit(void) {
    enum { ENTRY = FREE_GDT + 8 };
    for (u32 i = 0; i < REPEAT; i++) {
        u16 selector = gdt_set(ENTRY, 0x904f92e08e00ffffull); /* mov %eax,%fs; ..; dec %edi; nop */
        gdt_set(ENTRY + 1, 0x80cd);
        reset_run(0);
        in.eax = selector;
        in.edx = 0x1111;
        in.ebx = 0x2222;
        RUNS(0, (u8 *)&gdt[ENTRY] + 3);
        EQ(trap.eax, 0x2222);
        EQ(trap.ebx, selector);
        EQ(gdt[ENTRY] >> 40 & 0xff, 0x93);
    }
    gdt_set(ENTRY, 0);
    gdt_set(ENTRY + 1, 0);
}

/* A task's state is saved into code, which the next task runs. */
static void task_state(void) {
    struct tss *old = (struct tss *)(scratch + 0x4000), *new = (struct tss *)(scratch + 0x6000);
    static u8 jump[7];
    memset(new, 0, 104);
    for (u32 i = 0; i < REPEAT; i++) {
        u8 op = i & 1 ? INC_EBX : INC_EDX;
        memset(old, 0, 104);
        old->eax = 0x80cd0000 | (op ^ 1) << 8 | (op ^ 1);
        new->eip = (u32)&old->eax;
        new->esp = (u32)scratch + 0x10000;
        new->eflags = F_FIXED;
        new->cs = KERNEL_CODE;
        new->ss = new->ds = new->es = new->fs = new->gs = KERNEL_DATA;
        new->cr3 = read_cr3();
        u16 from = gdt_set(FREE_GDT, descriptor((u32)old, 103, 0x89, 0));
        u16 to = gdt_set(FREE_GDT + 1, descriptor((u32) new, 103, 0x89, 0));
        jump[0] = 0xea;
        memcpy(jump + 5, &to, 2);
        __asm__ volatile("ltr %w0" ::"r"(from));
        reset_run(0);
        in.eax = 0x80cd0000 | op << 8 | op;
        RUNS(0, jump);
        EQ(trap.edx, op == INC_EDX ? 2 : 0);
        EQ(trap.ebx, op == INC_EBX ? 2 : 0);
        gdt[TSS_SEL >> 3] &= ~(2ull << 40);
        __asm__ volatile("ltr %w0; clts" ::"r"(TSS_SEL));
    }
    gdt_set(FREE_GDT, 0);
    gdt_set(FREE_GDT + 1, 0);
}

/* fw_cfg's signature, by DMA, over four times INC EBX: push %ecx; inc %ebp; dec %ebp; push %ebp. */
static void dma(void) {
    static struct { u32 control, length, high, low; } volatile block;
    u8 *out = scratch + 0x9000 - 3, *at = scratch + 0x9000;
    /* TCG misses what the device changes in the block that it runs. */
    memcpy(out, is_tcg() ? "\xef\xeb\x00" : "\x90\x90\xef", 3); /* out %eax,%dx */
    for (u32 i = 0; i < REPEAT; i++) {
        memcpy(at, "\x43\x43\x43\x43\xcd\x80", 6);
        block.control = __builtin_bswap32(0x0000000a); /* select item 0 and read */
        block.length = __builtin_bswap32(4);
        block.high = 0;
        block.low = __builtin_bswap32((u32)at);
        reset_run(0);
        in.eax = __builtin_bswap32((u32)&block);
        in.edx = 0x518;
        in.esp = (u32)scratch + 0x20000;
        RUNS(0, out);
        EQ(block.control, 0);
        EQ(trap.ebx, 0);
        EQ(trap.esp, (u32)scratch + 0x20000 - 8);
        memset(at, INC_EBX, 4); /* and by itself */
        RUNS(0, at);
        EQ(trap.ebx, 4);
    }
}

/* ---- Other modes ---- */

/* mov %al,(3): inc %bx or inc %dx; int $0x80 */
static void sixteen_bit(void) {
    u8 *at = scratch + 0xb000;
    u16 code = gdt_set(FREE_GDT, descriptor((u32)at, 0xfff, 0xfa, 0));
    u16 data = gdt_set(FREE_GDT + 1, descriptor((u32)at, 0xfff, 0xf2, 0));
    for (u32 i = 0; i < REPEAT; i++) {
        memcpy(at, "\xa2\x03\x00\x43\xcd\x80", 6);
        reset_run(3);
        in.cs = code;
        in.ds = data;
        in.eax = INC_EDX;
        RUNS(3, (const u8 *)0);
        EQ(trap.edx, 1);
        EQ(trap.ebx, 0);
    }
    gdt_set(FREE_GDT, 0);
    gdt_set(FREE_GDT + 1, 0);
}

CODE(enter_v86, "push $0; push $0; push $0x1000; push $0; push $0x3000; push $0x100; push "
                "$0x23002; push $0x1000; push $0; mov $0x42,%eax; iret");
static void v86(void) {
    for (u32 i = 0; i < REPEAT; i++) {
        memcpy((void *)(V86_CODE * 16), "\xa2\x03\x00\x43\xcd\x80", 6);
        RUNS(0, enter_v86);
        EQ(trap.edx, 1);
        EQ(trap.ebx, 0);
    }
}

void test(void) {
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            pte(TABLE_AREA);
            paging_on();
            write_cr0(read_cr0() | CR0_WP);
        }
        for (u32 ring = 0; ring <= 3; ring += 3) {
            in_one_piece(ring);
            over_a_boundary(ring);
            if (paged) {
                text_poke(ring);
                shared_page(ring);
            }
        }
        if (paged && !is_tcg()) /* which misses what its own walk of the tables changes */
            accessed_bit();
        descriptor_bit();
        task_state();
        dma();
        sixteen_bit();
        v86();
    }
    paging_off();
}
