/*
 * What kernels do at ring 0 all the time, in a loop: ports of the 8259, the 8254, the clock, the
 * serial line and PCI; CPUID, CLTS, MOV to CR0, CR3, CR4, INVLPG. A translator may do each without
 * leaving its code: the x87 and SSE registers are those of the guest all along. SDM volume 2, IN,
 * OUT, CPUID, CLTS, MOV (control registers), INVLPG.
 * Expected: every register keeps its value; what the ports answer is as written; a request that an
 * OUT unmasks comes in right behind it, if IF is set; mappings change at INVLPG and at MOV CR3.
 */
#include "guest.h"

#define LOAD(n) "movups pattern+16*" #n ",%xmm" #n ";"
#define KEEP(n) "movups %xmm" #n ",kept+16*" #n ";"
#define EACH(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define FP(body)                                                                                   \
    EACH(LOAD)                                                                                     \
    "fninit; fldl numbers; fldl numbers+8; fldl numbers+16;" body                                  \
    "fstpl kept_numbers+16; fstpl kept_numbers+8; fstpl kept_numbers;" EACH(KEEP) DONE
#define AGAIN(body) "mov $100,%edi; 1:" body "dec %edi; jnz 1b;"

u8 pattern[128], kept[128];
u32 numbers[6] = {0x54442d18, 0x400921fb, 0x8b145769, 0x4005bf0a, 0x667f3bcd, 0x3ff6a09e};
u32 kept_numbers[6], remapped[2];
CODE(ports, FP(AGAIN("in $0x21,%al; out %al,$0x21; in $0xa1,%al; out %al,$0xa1;"
                     "in $0x61,%al; out %al,$0x80; mov $0x00,%al; out %al,$0x43; in $0x40,%al;"
                     "in $0x40,%al; mov $0x0d,%al; out %al,$0x70; in $0x71,%al; mov %al,%bl;"
                     "mov $0x3ff,%edx; mov %edi,%eax; out %al,%dx; in %dx,%al;"
                     "mov $0xcf8,%edx; mov $0x80000000,%eax; out %eax,%dx; in %dx,%eax;"
                     "mov %eax,%esi; add $4,%edx; in %dx,%eax; in $0x64,%al; in $0x20,%al;"
                     "mov $0x20,%al; out %al,$0x20;")));
CODE(registers, FP(AGAIN("xor %eax,%eax; cpuid; mov %cr0,%eax; mov %eax,%cr0; clts; mov %cr4,%eax;"
                         "mov %eax,%cr4; mov %cr3,%eax; mov %eax,%cr3; invlpg numbers;")));
/* The page at EBP by the entry at EBX: ECX and EDX in turn. */
CODE(mappings, FP(AGAIN("mov %ecx,(%ebx); invlpg (%ebp); mov (%ebp),%eax; mov %eax,remapped;"
                        "mov %edx,(%ebx); mov %cr3,%eax; mov %eax,%cr3; mov (%ebp),%eax;"
                        "mov %eax,remapped+4;")));

static void check_registers(void) {
    CHECK(!memcmp(pattern, kept, sizeof kept));
    CHECK(!memcmp(numbers, kept_numbers, sizeof numbers));
    memset(kept, 0, sizeof kept);
    memset(kept_numbers, 0, sizeof kept_numbers);
}

volatile u32 fired;
static void on_irq(u32 line, struct frame *f) {
    fired += line == 0;
}

/* A request waits behind the mask: the OUT that opens it lets it in, or STI does. */
static void unmask(bool open) {
    u32 before, between, after, loops = 50; /* a chip takes its time */
    fired = 0;
    outb(0x21, 0xff);
    outb(0x43, 0x30);
    outb(0x40, 20);
    outb(0x40, 0);
    outb(0x20, 0x0a);
    while (!(inb(0x20) & 1))
        ;
    if (open)
        __asm__ volatile("sti; nop");
    __asm__ volatile("mov fired,%0; out %b4,$0x21; 1: loop 1b; mov fired,%1; sti; nop; nop; cli;"
                     "mov fired,%2"
                     : "=&r"(before), "=&r"(between), "=&r"(after), "+c"(loops)
                     : "a"(0xfe)
                     : "memory");
    EQ(before, 0);
    EQ(between, open);
    EQ(after, 1);
}

void test(void) {
    for (u32 i = 0; i < sizeof pattern; i++)
        pattern[i] = (u8)(i * 29 + 5);
    paging_prepare();
    paging_on();
    write_cr4(read_cr4() | CR4_OSFXSR);
    pic_init(0xffff);
    for (u32 i = 0; i < 20; i++) {
        RUNS(0, ports);
        EQ(trap.esi, 0x80000000);
        EQ(trap.ebx & 0xff, 0x80); /* CMOS register D */
        check_registers();
        RUNS(0, registers);
        check_registers();
    }
    u32 page = (u32)scratch, *entry = pte(page), there = *entry;
    *(u32 *)page = 0x11111111;
    *(u32 *)(page + 0x1000) = 0x22222222;
    for (u32 i = 0; i < 5; i++) {
        reset_run(0);
        in.ebx = (u32)entry;
        in.ebp = page;
        in.edx = there;
        in.ecx = there + 0x1000;
        RUNS(0, mappings);
        EQ(remapped[0], 0x22222222);
        EQ(remapped[1], 0x11111111);
        check_registers();
    }
    irq_hook = on_irq;
    for (u32 i = 0; i < 20; i++)
        unmask(i & 1);
    outb(0x21, 0xff);
    irq_hook = NULL;
    paging_off();
}
