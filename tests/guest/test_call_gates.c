/*
 * Call gates: 16-bit and 32-bit, with 0, 1, 2 and 31 parameters, from every ring to every inner
 * one, from ring to ring to ring and back by far RET, which releases the parameters on both stacks;
 * and everything that can be wrong with the stack that the TSS names. SDM volume 3A, sections 5.8.3
 * "Call Gates" to 5.8.6 "Returning from a Called Procedure"; volume 2, "CALL", "RET".
 * Expected: the inner stack's words in order; the caller's ESP behind its parameters; #TS, #SS, #NP
 * with the selector at fault, at the CALL, with nothing changed; #SS(0) for the caller's stack.
 */
#include "rings.h"

enum {
    GATE = FREE_GDT,
    LOCAL = FREE_GDT + 1,
    SMALL = FREE_GDT + 2,
    TSS2 = FREE_GDT + 3,
    BASED_OUT = FREE_GDT + 4,
    BASED_IN = FREE_GDT + 5,
    STACK_OUT = FREE_GDT + 6,
    STACK_IN = FREE_GDT + 7
};
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) cg_far, cg_next[4];
u32 cg_frame[40], cg_esp, cg_ss, cg_cs;

/* Notes its stack, then leaves by the RET that the test wrote into it. */
CODE(callee32, "push %eax; mov %cs,%eax; mov %eax,%ss:cg_cs; pop %eax; mov %esp,%ss:cg_esp;"
               "mov %ss,%ss:cg_ss; push %esi; push %edi; push %ecx; push %es; push %ds;"
               "push %ss; pop %es; push %ss; pop %ds; mov cg_esp,%esi; mov $cg_frame,%edi;"
               "mov $35,%ecx; cld; rep movsl; pop %ds; pop %es; pop %ecx; pop %edi; pop %esi;"
               ".globl callee32_ret\ncallee32_ret: lret $0");
extern u8 callee32_ret[];
CODE(caller,
     "lcall *cg_far; .globl after_call\nafter_call: mov %cs,%eax; mov %ss,%ebx; mov %ds,%ecx;"
     "mov %es,%edx" DONE);
extern const u8 after_call[];

static u32 params(u32 esp, u32 count) {
    for (u32 i = 0; i < count; i++)
        *(u32 *)(esp + 4 * i) = 0xa0000000 + i * 0x01010101u;
    return esp;
}

static void call(u32 from, u32 to, u32 count) {
    gdt_set(GATE, gate((u32)callee32, (u16)(ring_code(to) & ~3), 0xec) | (u64)count << 32);
    cg_far.selector = GATE << 3 | 3;
    *(u16 *)(callee32_ret + 1) = (u16)(4 * count);
    reset_at(from);
    u32 outer = params(ring_stack(from) - 256, count);
    in.esp = outer;
    in.es = ring_data(to) & 0xfffc ? ring_data(3) : 0; /* may stay */
    EQ(run_at(from, caller), V_DONE);
    u32 inner = to == 0 ? tss.esp0 : ring_stack(to);
    EQ(cg_cs & 0xffff, ring_code(to));
    EQ(cg_ss & 0xffff, ring_data(to));
    EQ(cg_esp, inner - 4 * (4 + count));
    EQ(cg_frame[0], after_call);
    EQ(cg_frame[1] & 0xffff, ring_code(from));
    for (u32 i = 0; i < count; i++)
        EQ(cg_frame[2 + i], 0xa0000000 + i * 0x01010101u);
    EQ(cg_frame[2 + count], outer);
    EQ(cg_frame[3 + count] & 0xffff, ring_data(from));
    EQ(trap.eax & 0xffff, ring_code(from));
    EQ(trap.ebx & 0xffff, ring_data(from));
    EQ(trap.ecx & 0xffff, ring_data(from)); /* DS was usable all the time */
    EQ(trap.esp, outer + 4 * count);
}

/* Ring 3 calls 2 calls 1 calls 0, and back. */
CODE(ring2, "push $0x22; lcall *%ss:cg_next+12; lret $4");
CODE(ring1, "push $0x11; lcall *%ss:cg_next+6; lret $4");
CODE(ring0, "mov %cs,%eax; mov 8(%esp),%ebx; mov 12(%esp),%ecx; mov 16(%esp),%edx; lret $4");
CODE(nest, "push $0x33; lcall *cg_next+18; mov %eax,%esi; mov %cs,%edi" DONE);
static void nested(void) {
    static const u8 *const codes[3] = {ring0, ring1, ring2};
    for (u32 i = 0; i < 3; i++) {
        gdt_set(GATE + i, gate((u32)codes[i], (u16)(ring_code(i) & ~3), 0xec) | 1ull << 32);
        cg_next[i + 1] = (__typeof__(cg_far)){0, (u16)((GATE + i) << 3)};
    }
    reset_at(3);
    EQ(run_at(3, nest), V_DONE);
    EQ(trap.esi, KERNEL_CODE);
    EQ(trap.edi, ring_code(3));
    EQ(trap.ebx, 0x11);
    EQ(trap.ecx, ring_stack(1) - 24); /* below what ring 1 was called with, and its parameter */
    EQ(trap.edx & 0xffff, ring_data(1));
    EQ(trap.esp, ring_stack(3));
}

static void refused(u32 from, u32 vector, u32 error) {
    reset_at(from);
    in.esp = params(ring_stack(from) - 256, 3);
    u32 esp = in.esp;
    EQ(run_at(from, caller), vector);
    EQ(trap.error, error);
    EQ(trap.eip, caller);
    EQ(trap.esp, esp);
    EQ(trap.cs & 0xffff, ring_code(from));
    EQ(trap.ss & 0xffff, ring_data(from));
}

/* What may be wrong with SS:ESP of ring 1. */
static void bad_inner_stack(void) {
    gdt_set(GATE, gate((u32)callee32, (u16)(ring_code(1) & ~3), 0xec) | 3ull << 32);
    cg_far.selector = GATE << 3 | 3;
    static const struct {
        u8 access;
        u32 rpl, vector;
    } cases[] = {{0xb2, 0, V_TS}, {0xb2, 2, V_TS}, {0xb2, 3, V_TS}, {0x92, 1, V_TS},
                 {0xd2, 1, V_TS}, {0xf2, 1, V_TS}, {0xb0, 1, V_TS}, {0xba, 1, V_TS},
                 {0xbe, 1, V_TS}, {0xa2, 1, V_TS}, {0x32, 1, V_SS}};
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++) {
        gdt_set(LOCAL, descriptor(0, 0xfffff, cases[i].access, 12));
        tss.ss1 = LOCAL << 3 | cases[i].rpl;
        if (is_tcg() && cases[i].vector == V_SS)
            continue; /* QEMU: #TS */
        refused(3, cases[i].vector, LOCAL << 3);
        refused(2, cases[i].vector, LOCAL << 3);
    }
    tss.ss1 = 0;
    refused(3, V_TS, 0);
    tss.ss1 = 3; /* null, too */
    refused(3, V_TS, 0);
    tss.ss1 = GDT_ENTRIES * 8 + 1;
    refused(3, V_TS, GDT_ENTRIES * 8);
    tss.ss1 = 0xd; /* LDT, which is null */
    refused(3, V_TS, 0xc);
    /* Seven words need 28 bytes. */
    gdt_set(SMALL, descriptor(SCRATCH, 0xff, 0xb2, 4));
    tss.ss1 = SMALL << 3 | 1;
    memset(scratch, 0x5a, 4096);
    for (u32 esp = 0; esp < 28 && !is_tcg(); esp += 4) {
        tss.esp1 = esp;
        refused(3, V_SS, SMALL << 3);
        EQ(*(u32 *)scratch, 0x5a5a5a5a); /* not even a part was written */
        tss.esp1 = 0x104 + esp;
        refused(3, V_SS, SMALL << 3);
    }
    *(u16 *)(callee32_ret + 1) = 12;
    tss.esp1 = 28;
    reset_at(3);
    in.esp = params(ring_stack(3) - 256, 3);
    if (!is_tcg()) { /* the callee itself needs more than there is */
        EQ(run_at(3, caller), V_SS);
        EQ(trap.error, 0);
        EQ(trap.eip, callee32);
        EQ(*(u32 *)scratch, after_call);
    }
    /* The TSS itself ends before SS1. */
    tss.ss1 = ring_data(1), tss.esp1 = ring_stack(1);
    static const u8 limits[] = {0x67, 0x13, 0x12};
    for (u32 i = 0; i < sizeof limits; i++) {
        gdt_set(TSS2, descriptor((u32)&tss, limits[i], 0x89, 0));
        __asm__ volatile("ltr %w0" ::"r"(TSS2 << 3));
        if (limits[i] == 0x12) {
            refused(3, V_TS, TSS2 << 3);
            continue;
        }
        reset_at(3);
        in.esp = params(ring_stack(3) - 256, 3);
        EQ(run_at(3, caller), V_DONE);
    }
    gdt[TSS_SEL >> 3] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
}

/* The caller's own stack ends among the parameters. */
static void bad_outer_stack(void) {
    gdt_set(GATE, gate((u32)callee32, (u16)(ring_code(1) & ~3), 0xec) | 3ull << 32);
    gdt_set(SMALL, descriptor(SCRATCH, 0xff, 0xf2, 4));
    for (u32 esp = 0xf4; esp <= 0x100; esp += 4) {
        reset_at(3);
        in.ss = SMALL << 3 | 3;
        in.esp = esp;
        params(SCRATCH + esp, 3);
        if (esp == 0xf4) {
            *(u16 *)(callee32_ret + 1) = 12;
            EQ(run_at(3, caller), V_DONE);
            EQ(trap.esp, 0x100);
        } else if (!is_tcg()) {
            FAULTS(3, caller, V_SS, 0);
            EQ(trap.eip, caller);
            EQ(trap.esp, esp);
        }
    }
}

/* Frames on pages that are not there: #PF at the CALL, as a supervisor's write. */
static void inner_stack_page(void) {
    paging_prepare();
    pte(0x30000000);
    paging_on();
    map(0x30001000, SCRATCH, PT_P | PT_W | PT_U);
    gdt_set(GATE, gate((u32)callee32, (u16)(ring_code(1) & ~3), 0xec) | 3ull << 32);
    *(u16 *)(callee32_ret + 1) = 12;
    for (u32 esp = 0x30001000; esp <= 0x30001000 + 28; esp += 4) {
        tss.esp1 = esp;
        if (esp == 0x30001000 + 28)
            break;
        refused(3, V_PF, 2);
        EQ(trap_cr2 & ~0xfffu, 0x30000000);
    }
    tss.esp1 = 0x30001800;
    map(0x30001000, SCRATCH, PT_P | PT_W); /* a supervisor's page is good enough for ring 1 */
    reset_at(3);
    in.esp = params(ring_stack(3) - 256, 3);
    EQ(run_at(3, caller), V_DONE);
    EQ(cg_esp, 0x30001800 - 28);
    tss.esp1 = ring_stack(1);
    paging_off();
}

/* 16-bit gates push words, and take 16 bits of the target's offset. Segments with bases bring
 * everything within reach of 16 bits. */
u16 cg_words[40];
CODE(callee16,
     "mov %esp,%ss:0x40; pushal; push %es; push %ds; push %ss; pop %ds; push %fs; pop %es;"
     "mov 0x40,%esi; mov $cg_words,%edi; mov $35,%ecx; cld; rep movsw; pop %ds; pop %es;"
     "popal; .globl callee16_ret\ncallee16_ret: .byte 0x66; lret $0");
CODE(caller16, "lcall *%es:cg_far; mov %cs,%eax; mov %ss,%ebx" DONE);
extern u8 callee16_ret[];
static void gates_16(u32 count) {
    gdt_set(BASED_OUT, descriptor((u32)caller16, 0xffff, 0xfa, 4));
    gdt_set(BASED_IN, descriptor((u32)callee16, 0xffff, 0xba, 4));
    gdt_set(STACK_OUT, descriptor(SCRATCH, 0xffff, 0xf2, 4));
    gdt_set(STACK_IN, descriptor(SCRATCH + 0x20000, 0xffff, 0xb2, 4));
    /* QEMU takes all 32 bits of the offset. */
    gdt_set(GATE, gate(is_tcg() ? 0 : 0xdead0000, BASED_IN << 3, 0xe4) | (u64)count << 32);
    cg_far.selector = GATE << 3 | 3;
    *(u16 *)(callee16_ret + 2) = (u16)(2 * count);
    for (u32 i = 0; i < 40; i++)
        *(u16 *)(SCRATCH + 0x8000 + 2 * i) = (u16)(0xb000 + i);
    reset_run(3);
    in.cs = BASED_OUT << 3 | 3;
    in.ss = STACK_OUT << 3 | 3;
    in.esp = 0x8000;
    tss.ss1 = STACK_IN << 3 | 1;
    tss.esp1 = 0x9000;
    EQ(run(3, (const u8 *)0), V_DONE);
    u32 esp = 0x9000 - 2 * (4 + count);
    EQ(*(u32 *)(SCRATCH + 0x20040), esp);
    EQ(cg_words[0], 7); /* IP behind the call */
    EQ(cg_words[1], BASED_OUT << 3 | 3);
    for (u32 i = 0; i < count; i++)
        EQ(cg_words[2 + i], 0xb000 + i);
    EQ(cg_words[2 + count], 0x8000);
    EQ(cg_words[3 + count], STACK_OUT << 3 | 3);
    EQ(trap.eax & 0xffff, BASED_OUT << 3 | 3);
    EQ(trap.ebx & 0xffff, STACK_OUT << 3 | 3);
    EQ(trap.esp, 0x8000 + 2 * count);
}

void test(void) {
    rings_prepare();
    tss.ss1 = ring_data(1), tss.esp1 = ring_stack(1);
    tss.ss2 = ring_data(2), tss.esp2 = ring_stack(2);
    static const u8 counts[] = {0, 1, 2, 31};
    for (u32 from = 1; from < 4; from++)
        for (u32 to = 0; to < from; to++)
            for (u32 i = 0; i < sizeof counts; i++)
                call(from, to, counts[i]);
    nested();
    bad_inner_stack();
    bad_outer_stack();
    inner_stack_page();
    for (u32 i = 0; i < sizeof counts; i++)
        gates_16(counts[i]);
    for (u32 i = 0; i < 8; i++)
        gdt_set(FREE_GDT + i, 0);
    rings_remove();
}
