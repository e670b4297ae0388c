/*
 * timer.c: the interrupt controllers, and the one timer that wakes the monitor. The 8259 pair
 * brings the serial port's interrupt through the local APIC's LINT0 (virtual wire mode); the timer
 * is the local APIC's, by TSC deadline where the CPU can, or the PIT's first counter where there is
 * no APIC. Source: SDM volume 3, chapter 10 "Advanced Programmable Interrupt Controller (APIC)";
 * Intel 8259A data sheet (231468).
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

/* ---- The 8259 pair ---- */

enum { PIC1 = 0x20, PIC1_DATA = 0x21, PIC2 = 0xa0, PIC2_DATA = 0xa1 };
enum { ICW1_INIT_ICW4 = 0x11, ICW4_8086 = 1, OCW2_EOI = 0x20, OCW3_READ_ISR = 0x0b };
enum { IRQ_TIMER = 0, IRQ_CASCADE = 2, IRQ_SERIAL = 4, IRQ_SPURIOUS = 7 };

static u8 pic1_mask = (u8) ~(BIT(IRQ_SERIAL) | BIT(IRQ_CASCADE));

static void pics_init(void) {
    out8(PIC1, ICW1_INIT_ICW4);
    out8(PIC1_DATA, METAL_VECTOR_PIC);
    out8(PIC1_DATA, BIT(IRQ_CASCADE));
    out8(PIC1_DATA, ICW4_8086);
    out8(PIC2, ICW1_INIT_ICW4);
    out8(PIC2_DATA, METAL_VECTOR_PIC + 8);
    out8(PIC2_DATA, IRQ_CASCADE);
    out8(PIC2_DATA, ICW4_8086);
    out8(PIC1_DATA, pic1_mask);
    out8(PIC2_DATA, 0xff);
}

/* An 8259 whose request went away answers with its lowest priority and sets no in-service bit: that
 * takes no EOI, but the cascade at the other one does. */
static bool pic_acknowledge(unsigned irq) {
    u16 port = irq < 8 ? PIC1 : PIC2;
    bool real = true;
    if ((irq & 7) == IRQ_SPURIOUS) {
        out8(port, OCW3_READ_ISR);
        real = in8(port) & BIT(IRQ_SPURIOUS);
    }
    if (irq >= 8 && real)
        out8(PIC2, OCW2_EOI);
    if (irq >= 8 || real)
        out8(PIC1, OCW2_EOI);
    return real;
}

/* ---- The local APIC ---- */

#define MSR_APIC_BASE 0x1bu
#define MSR_X2APIC 0x800u
#define MSR_TSC_DEADLINE 0x6e0u
enum { BASE_X2APIC = BIT(10), BASE_ENABLE = BIT(11) };
/* Registers by their offset in the page. Section 10.4.1 "The Local APIC Block Diagram". */
enum {
    APIC_TPR = 0x80,
    APIC_EOI = 0xb0,
    APIC_SPURIOUS = 0xf0,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_COUNTERS = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_INITIAL_COUNT = 0x380,
    APIC_CURRENT_COUNT = 0x390,
    APIC_DIVIDE = 0x3e0,
    APIC_VERSION = 0x30,
};
enum {
    SPURIOUS_ENABLE = BIT(8),
    LVT_NMI = 4 << 8,
    LVT_EXTINT = 7 << 8,
    LVT_MASKED = BIT(16),
    LVT_TSC_DEADLINE = 2 << 17,
    DIVIDE_BY_1 = 0xb,
};

static volatile u8 *apic_page; /* NULL: x2APIC mode or none */
static bool has_apic;

static u32 apic_read(u32 offset) {
    if (apic_page)
        return *(volatile u32 *)(apic_page + offset);
    return (u32)metal_rdmsr(MSR_X2APIC + (offset >> 4));
}

static void apic_write(u32 offset, u32 v) {
    if (apic_page)
        *(volatile u32 *)(apic_page + offset) = v;
    else
        metal_wrmsr(MSR_X2APIC + (offset >> 4), v);
}

/* Finds it and switches it on, in the mode that the firmware chose. Sections 10.4.3 "Enabling or
 * Disabling the Local APIC" and 10.12.1 "Detecting and Enabling x2APIC Mode". */
static bool apic_find(void) {
    if (!(metal_cpuid(1, 0).edx & BIT(9)))
        return false;
    u64 base = metal_rdmsr(MSR_APIC_BASE);
    if (!(base & BASE_ENABLE))
        metal_wrmsr(MSR_APIC_BASE, base |= BASE_ENABLE);
    if (!(base & BASE_X2APIC)) {
        u64 phys = base & METAL_PTE_ADDRESS;
        if (!metal_phys_mapped(phys, PAGE_BYTES))
            return false;
        apic_page = metal_phys_pointer(phys);
    }
    return true;
}

static void apic_init(void) {
    apic_write(APIC_SPURIOUS, SPURIOUS_ENABLE | METAL_VECTOR_SPURIOUS);
    apic_write(APIC_TPR, 0);
    unsigned last_lvt = apic_read(APIC_VERSION) >> 16 & 0xff;
    apic_write(APIC_LVT_TIMER, LVT_MASKED | METAL_VECTOR_TIMER);
    if (last_lvt >= 4)
        apic_write(APIC_LVT_COUNTERS, LVT_MASKED);
    if (last_lvt >= 5)
        apic_write(APIC_LVT_THERMAL, LVT_MASKED);
    apic_write(APIC_LVT_ERROR, LVT_MASKED | METAL_VECTOR_SPURIOUS);
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    apic_write(APIC_LVT_LINT1, LVT_NMI);
    apic_write(APIC_EOI, 0); /* one that the firmware may have left in service */
}

void metal_interrupt_controllers_init(void) {
    pics_init();
    has_apic = apic_find();
    if (has_apic)
        apic_init();
}

/* ---- The timer ---- */

enum { PIT_COUNTER0 = 0x40, PIT_CONTROL = 0x43, PIT_HZ = 1193182 };
enum { CALIBRATION_DIVISOR = 100 }; /* of a second */

static enum { TIMER_PIT, TIMER_APIC_COUNT, TIMER_TSC_DEADLINE } timer_kind;
static u64 apic_timer_hz;
/* One interrupt each time: what was under way when the timer was disarmed is not told. */
static bool armed;

/* Against the TSC. Being kept away between the two readings of one end makes the interval look
 * shorter or longer: the measurement with the quickest readings is the one to believe. */
static u64 apic_timer_measure(void) {
    enum { MEASUREMENTS = 10, PRECISION = 5000 };
    u64 best_took = UINT64_MAX, hz = 0, interval = metal_tsc_hz() / CALIBRATION_DIVISOR;
    for (unsigned i = 0; i < MEASUREMENTS && best_took > interval / PRECISION; i++) {
        u64 t0 = metal_tsc();
        apic_write(APIC_INITIAL_COUNT, 0xffffffff);
        u64 t1 = metal_tsc(), t2;
        do
            t2 = metal_tsc();
        while (t2 - t1 < interval);
        u32 left = apic_read(APIC_CURRENT_COUNT);
        u64 t3 = metal_tsc(), took = t1 - t0 + t3 - t2;
        apic_write(APIC_INITIAL_COUNT, 0);
        u64 cycles = (t2 + t3) / 2 - (t0 + t1) / 2;
        if (took < best_took && left) {
            best_took = took;
            hz = (u64)(0xffffffff - left) * metal_tsc_hz() / cycles;
        }
    }
    return hz;
}

void metal_timer_init(void) {
    if (has_apic && metal_cpuid(1, 0).ecx & BIT(24)) {
        timer_kind = TIMER_TSC_DEADLINE;
        apic_write(APIC_LVT_TIMER, LVT_TSC_DEADLINE | METAL_VECTOR_TIMER);
        __asm__ volatile("mfence" : : : "memory"); /* before the first deadline: section 10.5.4.1 */
        return;
    }
    if (has_apic) {
        apic_write(APIC_DIVIDE, DIVIDE_BY_1);
        apic_timer_hz = apic_timer_measure();
        if (apic_timer_hz) {
            timer_kind = TIMER_APIC_COUNT;
            apic_write(APIC_LVT_TIMER, METAL_VECTOR_TIMER);
            return;
        }
    }
    timer_kind = TIMER_PIT;
    metal_timer_disarm();
    pic1_mask &= (u8)~BIT(IRQ_TIMER);
    out8(PIC1_DATA, pic1_mask);
}

#define NS_PER_S 1000000000ull
#define MIN_NS 1000ull

/* ns in ticks of hz, at least 1, at most max. 2^32 ns times any plausible hz fits in 64 bits. */
static u64 ns_to_ticks(u64 ns, u64 hz, u64 max) {
    u64 s = ns / NS_PER_S, rest = ns % NS_PER_S;
    if (s > max / hz)
        return max;
    u64 ticks = s * hz + rest * hz / NS_PER_S;
    return MIN(MAX(ticks, 1), max);
}

void metal_timer_arm(u64 ns) {
    ns = MAX(ns, MIN_NS);
    bool on = metal_interrupts_save();
    armed = true;
    switch (timer_kind) {
    case TIMER_TSC_DEADLINE:
        metal_wrmsr(MSR_TSC_DEADLINE,
                    metal_tsc() + ns_to_ticks(ns, metal_tsc_hz(), (u64)INT64_MAX / 2));
        break;
    case TIMER_APIC_COUNT:
        apic_write(APIC_INITIAL_COUNT, (u32)ns_to_ticks(ns, apic_timer_hz, 0xffffffff));
        break;
    case TIMER_PIT: {
        u16 count = (u16)ns_to_ticks(ns, PIT_HZ, 0xffff);
        out8(PIT_CONTROL, 0x30); /* counter 0, low then high byte, mode 0: rises once */
        out8(PIT_COUNTER0, (u8)count);
        out8(PIT_COUNTER0, (u8)(count >> 8));
        break;
    }
    }
    metal_interrupts_restore(on);
}

void metal_timer_disarm(void) {
    armed = false;
    switch (timer_kind) {
    case TIMER_TSC_DEADLINE:
        metal_wrmsr(MSR_TSC_DEADLINE, 0);
        break;
    case TIMER_APIC_COUNT:
        apic_write(APIC_INITIAL_COUNT, 0);
        break;
    case TIMER_PIT:
        out8(PIT_CONTROL, 0x30); /* waits for a count, its output low */
        break;
    }
}

static bool timer_fired(void) {
    bool told = armed;
    armed = false;
    return told;
}

bool metal_interrupt_acknowledge(u8 vector) {
    if (vector >= METAL_VECTOR_PIC && vector < METAL_VECTOR_PIC + 16) {
        unsigned irq = vector - METAL_VECTOR_PIC;
        return pic_acknowledge(irq) && (irq != IRQ_TIMER || timer_fired());
    }
    if (vector != METAL_VECTOR_TIMER)
        return false; /* spurious takes no EOI: section 10.9 "Spurious Interrupt" */
    apic_write(APIC_EOI, 0);
    return timer_fired();
}

/* An interrupt between the test and HLT would be slept over: interrupts are off for the test, and
 * STI lets none in before the next instruction has begun. SDM volume 2, "STI". */
void metal_wait(const volatile u32 *stop) {
    metal_interrupts_off();
    if (*stop)
        metal_interrupts_on();
    else
        __asm__ volatile("sti; hlt" : : : "memory");
}
