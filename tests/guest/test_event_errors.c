/*
 * The EXT bit of error codes: a fault met while an external interrupt is delivered has it set, the
 * same fault met by INT n with the same gate has not. SDM volume 3A, section 6.13 "Error Code".
 * Expected: per way the gate can fail; the interrupted instruction's EIP; the interrupt stays in
 * service at the 8259 until the handler of the fault ends it.
 */
#include "guest.h"

enum { ABSENT = FREE_GDT, DATA1, SHORT_TSS, CODE1, ABSENT_SS };
CODE(wait_irq, "sti; nop; .globl waited\nwaited: nop; nop; cli" DONE);
CODE(by_int, "int $0x20; cli" DONE);
extern const u8 waited[];

static void request(void) {
    pic_init(0xffff);
    outb(0x43, 0x30);
    outb(0x40, 2);
    outb(0x40, 0);
    do
        outb(0x20, 0x0a);
    while (!(inb(0x20) & 1));
    outb(0x21, 0xfe);
}

static void expect(u32 ring, u64 entry, u32 vector, u32 error) {
    idt_set(0x20, entry);
    request();
    reset_run(ring);
    in.eflags = (in.eflags & ~(u32)F_IF) | F_IOPL;
    EQ(run(ring, wait_irq), vector);
    EQ(trap.error, error | (is_tcg() ? 0 : 1));
    EQ(trap.eip, waited);
    EQ(trap.cs & 3, ring);
    outb(0x20, 0x0b);
    EQ(inb(0x20) & 1, 1); /* in service */
    outb(0x20, 0x20);
    outb(0x21, 0xff);
    EQ(run(ring, by_int), vector);
    EQ(trap.error, error);
    EQ(trap.eip, by_int);
    pit_stop();
    idt_set(0x20, default_gate(0x20));
}

void test(void) {
    gdt_set(ABSENT, descriptor(0, 0xfffff, 0x1a, 12));
    gdt_set(SHORT_TSS, descriptor(SCRATCH, 0x20, 0x89, 0));
    gdt_set(CODE1, descriptor(0, 0xfffff, 0xba, 12));
    gdt_set(ABSENT_SS, descriptor(0, 0xfffff, 0x32, 12));
    u32 stub = (u32)trap_stubs;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        expect(ring, gate(stub, KERNEL_CODE, 0x6e), V_NP, 0x20 * 8 + 2);
        expect(ring, gate(stub, KERNEL_CODE, 0xec), V_GP, 0x20 * 8 + 2);
        expect(ring, 0, V_GP, 0x20 * 8 + 2);
        expect(ring, gate(stub, 0, 0xee), V_GP, 0);
        expect(ring, gate(stub, KERNEL_DATA, 0xee), V_GP, KERNEL_DATA);
        expect(ring, gate(stub, GDT_ENTRIES * 8, 0xee), V_GP, GDT_ENTRIES * 8);
        expect(ring, gate(stub, ABSENT << 3, 0xee), V_NP, ABSENT << 3);
        expect(ring, gate(0, SHORT_TSS << 3, 0xe5), V_TS, SHORT_TSS << 3);
        expect(ring, gate(0, KERNEL_CODE, 0xe5), V_GP, KERNEL_CODE);
    }
    /* The inner stack: #TS and #SS with EXT. */
    tss.ss1 = 0;
    expect(3, gate(stub, CODE1 << 3, 0xee), V_TS, 0);
    tss.ss1 = KERNEL_DATA;
    expect(3, gate(stub, CODE1 << 3, 0xee), V_TS, KERNEL_DATA);
    tss.ss1 = ABSENT_SS << 3 | 1;
    if (!is_tcg()) /* QEMU: #TS */
        expect(3, gate(stub, CODE1 << 3, 0xee), V_SS, ABSENT_SS << 3);
    tss.ss1 = 0;
    for (u32 i = 0; i < 5; i++)
        gdt_set(FREE_GDT + i, 0);
}
