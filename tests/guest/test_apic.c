/*
 * The local APIC as software drives it: self-IPIs by priority, TPR, nesting, timer (one-shot,
 * periodic, TSC-deadline), virtual wire mode, NMI by IPI, also in an NMI's handler, IA32_APIC_BASE,
 * and x2APIC where the CPU announces it. SDM volume 3, chapter 10 "Advanced Programmable Interrupt
 * Controller (APIC)".
 * Expected: vectors in order of their class, each once per request; nothing while TPR or an
 * interrupt in service holds it back; the 8259s through LINT0 only while it lets them; #GP for
 * illegal changes of mode and reserved bits.
 * UNPAGED: its registers lie above what the library maps
 */
#include "guest.h"

#define APIC 0xfee00000u
enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, SVR = 0xf0, ISR = 0x100 };
enum { IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310, TIMER = 0x320, LINT0 = 0x350 };
enum { LINT1 = 0x360, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };
enum { SELF = 0x40000, MASKED = 0x10000, PERIODIC = 0x20000, DEADLINE_MODE = 0x40000 };
enum { BASE_MSR = 0x1b, DEADLINE_MSR = 0x6e0 };
#define BASE_EN 0x800u
#define BASE_EXTD 0x400u

static u32 get(u32 reg) {
    return *(volatile u32 *)(APIC + reg);
}
static void put(u32 reg, u32 value) {
    *(volatile u32 *)(APIC + reg) = value;
}

/* ---- What came, in order ---- */

static volatile u32 came, nmis, nmis_in_handler, lines;
static volatile u8 order[16];
static volatile bool x2, nest, nmi_again;

static void end_of_interrupt(void) {
    if (x2)
        wrmsr(0x80b, 0);
    else
        put(EOI, 0);
}

static void window(void) {
    __asm__ volatile("sti; nop; nop; nop; nop; cli" ::: "memory");
}

static void nmi_to_itself(void) {
    put(ICR_HIGH, get(ID));
    put(ICR, 0x4400);
}

static bool on_trap(struct frame *f) {
    if (f->vector == V_NMI) {
        nmis++;
        if (nmi_again) { /* waits for this handler's IRET */
            nmi_again = false;
            nmi_to_itself();
            for (u32 i = 0; i < 1000; i++)
                __asm__ volatile("pause");
            nmis_in_handler = nmis;
        }
        return true;
    }
    if (f->vector < 0x30 || f->vector == V_DONE)
        return false;
    order[came++ & 15] = (u8)f->vector;
    if (nest)
        window(); /* higher classes come in here */
    end_of_interrupt();
    return true;
}

static void on_line(u32 line, struct frame *f) {
    lines++;
}

/* Waits with interrupts open until so many came; a limit makes failures end. */
static void wait_for(u32 count) {
    for (u32 i = 0; i < 100000000 && came < count; i++)
        window();
    EQ(came >= count, true);
}

static void priorities(void) {
    came = 0;
    put(ICR, SELF | 0x45), put(ICR, SELF | 0x61), put(ICR, SELF | 0x52);
    EQ(get(IRR + 0x20) & 1u << 5, 1u << 5);
    EQ(came, 0);
    window();
    EQ(came, 3);
    EQ(order[0], 0x61);
    EQ(order[1], 0x52);
    EQ(order[2], 0x45);
    EQ(get(IRR + 0x20) | get(ISR + 0x20), 0);

    came = 0;
    put(TPR, 0x6f);
    EQ(get(PPR), 0x6f);
    put(ICR, SELF | 0x61);
    window();
    EQ(came, 0);
    put(ICR, SELF | 0x71);
    window();
    EQ(came, 1);
    put(TPR, 0);
    window();
    EQ(came, 2);
    EQ(order[0], 0x71);
    EQ(order[1], 0x61);
}

/* In the handler of 51h the window lets 71h in, but not another of its own class. */
static bool send_more(struct frame *f) {
    if (f->vector == 0x51) {
        put(ICR, SELF | 0x5e);
        put(ICR, SELF | 0x71);
    }
    return on_trap(f);
}

static void nesting(void) {
    came = 0;
    nest = true;
    trap_hook = send_more;
    put(ICR, SELF | 0x51);
    window();
    nest = false;
    trap_hook = on_trap;
    EQ(came, 3);
    EQ(order[0], 0x51);
    EQ(order[1], 0x71);
    EQ(order[2], 0x5e);
    EQ(get(PPR), 0);
}

static void timer(void) {
    came = 0;
    put(DIVIDE, 0xb);
    put(TIMER, 0x60);
    put(INITIAL, 2000000);
    u32 first = get(CURRENT);
    CHECK(first <= 2000000);
    wait_for(1);
    EQ(order[0], 0x60);
    EQ(get(CURRENT), 0);
    for (u32 i = 0; i < 1000; i++)
        window();
    EQ(came, 1);

    came = 0;
    put(TIMER, PERIODIC | 0x62);
    put(INITIAL, 1000000);
    wait_for(5);
    EQ(order[4], 0x62);
    CHECK(get(CURRENT) <= 1000000);
    put(TIMER, MASKED | PERIODIC | 0x62);
    window(); /* one may be waiting */
    came = 0;
    for (u32 i = 0; i < 1000; i++)
        window();
    EQ(came, 0);
    put(INITIAL, 0);
    EQ(get(CURRENT), 0);

    /* HLT ends by it. */
    put(TIMER, 0x63);
    put(INITIAL, 3000000);
    __asm__ volatile("sti; hlt; cli" ::: "memory");
    EQ(came, 1);
    put(TIMER, MASKED);
}

static u64 tsc(void) {
    u64 v;
    __asm__ volatile("rdtsc" : "=A"(v));
    return v;
}

static void deadline(void) {
    if (!(cpuid(1).ecx & 1u << 24))
        return;
    came = 0;
    put(TIMER, DEADLINE_MODE | 0x64);
    u64 at = tsc() + 3000000;
    wrmsr(DEADLINE_MSR, at);
    while (tsc() < at - 100000 && !came)
        window();
    if (came)
        CHECK(tsc() >= at);
    wait_for(1);
    CHECK(tsc() >= at);
    CHECK(rdmsr(DEADLINE_MSR) == 0);
    wrmsr(DEADLINE_MSR, 1); /* long past */
    window();
    EQ(came, 2);
    wrmsr(DEADLINE_MSR, tsc() + 100000000000ull);
    wrmsr(DEADLINE_MSR, 0);
    window();
    EQ(came, 2);
    put(TIMER, MASKED);
}

/* One interrupt of the 8254, through the 8259s. */
static void one_tick(void) {
    pic_init(0xfffe);
    outb(0x43, 0x30);
    outb(0x40, 0x80);
    outb(0x40, 0x00);
    for (u32 i = 0; i < 100000; i++) {
        outb(0x20, 0x0a);
        if (inb(0x20) & 1)
            break;
    }
}

static void virtual_wire(void) {
    irq_hook = on_line;
    lines = 0;
    u32 lint0 = get(LINT0);
    put(LINT0, 0x700);
    put(TPR, 0xff); /* does not hold back the 8259s */
    one_tick();
    window();
    EQ(lines, 1);
    put(TPR, 0);
    put(LINT0, MASKED | 0x700);
    one_tick();
    window();
    EQ(lines, 1);
    put(LINT0, 0x700);
    window();
    EQ(lines, 2);
    put(LINT0, lint0);
    pit_stop();
    irq_hook = NULL;
}

/* Interrupts are off all the time. */
static void nmi(void) {
    nmis = 0;
    nmi_to_itself();
    for (u32 i = 0; i < 1000000 && !nmis; i++)
        __asm__ volatile("pause");
    EQ(nmis, 1);
    nmis = 0;
    nmi_again = true;
    nmi_to_itself();
    for (u32 i = 0; i < 1000000 && nmis < 2; i++)
        __asm__ volatile("pause");
    EQ(nmis_in_handler, 1);
    EQ(nmis, 2);
}

static void errors(void) {
    if (is_tcg()) /* knows no errors */
        return;
    put(ESR, 0);
    put(ESR, 0);
    EQ(get(ESR), 0);
    put(ICR, SELF | 0x05);
    put(ESR, 0);
    EQ(get(ESR), 0x20);
    put(ESR, 0);
    EQ(get(ESR), 0);
}

CODE(write_msr, "wrmsr" DONE);
CODE(read_msr, "rdmsr" DONE);
static void refuses(u32 msr, u64 value) {
    reset_run(0);
    in.ecx = msr;
    in.eax = (u32)value;
    in.edx = (u32)(value >> 32);
    FAULTS(0, write_msr, V_GP, 0);
}
static void not_readable(u32 msr) {
    reset_run(0);
    in.ecx = msr;
    FAULTS(0, read_msr, V_GP, 0);
}

static void modes(void) {
    u64 base = rdmsr(BASE_MSR);
    EQ(base, APIC | BASE_EN | 0x100);
    CHECK(cpuid(1).edx & 1u << 9);
    EQ(cpuid(1).ebx >> 24, get(ID) >> 24);
    if (!(cpuid(1).ecx & 1u << 21) || is_tcg())
        return;
    u32 svr = get(SVR), lint0 = get(LINT0), lint1 = get(LINT1);
    not_readable(0x803);
    refuses(BASE_MSR, (base & ~(u64)BASE_EN) | BASE_EXTD);
    wrmsr(BASE_MSR, base | BASE_EXTD);
    x2 = true;
    EQ(*(volatile u32 *)(APIC + VERSION), 0xffffffff);
    EQ(rdmsr(0x802), 0);
    EQ(rdmsr(0x80f), svr);
    came = 0;
    wrmsr(0x83f, 0x57);
    wrmsr(0x830, SELF | 0x47);
    window();
    EQ(came, 2);
    EQ(order[0], 0x57);
    EQ(order[1], 0x47);
    refuses(BASE_MSR, base);
    refuses(0x80b, 1);
    refuses(0x802, 0);
    refuses(0x808, 0x100);
    not_readable(0x80e);
    not_readable(0x80b);
    wrmsr(BASE_MSR, base & ~(u64)BASE_EN);
    CHECK(!(cpuid(1).edx & 1u << 9));
    refuses(BASE_MSR, base | BASE_EXTD);
    wrmsr(BASE_MSR, base);
    x2 = false;
    CHECK(cpuid(1).edx & 1u << 9);
    EQ(get(SVR), 0xff);
    EQ(get(LINT0), MASKED);
    put(SVR, svr);
    put(LINT0, lint0);
    put(LINT1, lint1);
}

void test(void) {
    trap_hook = on_trap;
    put(SVR, 0x1ff);
    EQ((get(VERSION) & 0xf0), 0x10);
    CHECK((get(VERSION) >> 16 & 0xff) >= 5);
    priorities();
    nesting();
    timer();
    deadline();
    virtual_wire();
    nmi();
    errors();
    modes();
    trap_hook = NULL;
}
