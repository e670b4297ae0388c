/*
 * kvm.c: a guest so plain that even a /dev/kvm that only emulates runs it: ring 0, no paging, no
 * interrupts. It computes, talks to ports of every width and to memory-mapped registers, and ends
 * through isa-debug-exit, or by HLT with interrupts off when the command line says halt=1.
 * tests/system/kvm.py runs it under -accel kvm.
 */
#include "guest.h"

#define IOAPIC ((volatile u32 *)0xfec00000u)
enum { DEBUGCON = 0xe9, PIC_MASK = 0x21, PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc };

static u32 ioapic(u32 index) {
    IOAPIC[0] = index;
    return IOAPIC[4];
}

/* As a compiler makes it: memory, multiplication, shifts, branches. */
static void computes(void) {
    static u32 sieve[64];
    u32 primes = 0, product = 1;
    memset(sieve, 0xff, sizeof sieve);
    for (u32 n = 2; n < 64 * 32; n++) {
        if (!(sieve[n / 32] >> n % 32 & 1))
            continue;
        primes++;
        product *= n;
        for (u32 m = n * n; m < 64 * 32; m += n)
            sieve[m / 32] &= ~(1u << m % 32);
    }
    EQ(primes, 309);
    EQ(product & 3, 2); /* 2 is the only even one */
    EQ(product % 4 * 0x10001u, 0x20002);
}

static void uses_ports(void) {
    const char text[] = "kvm: a string to a port\n";
    const char *p = text;
    u32 n = sizeof text - 1;
    __asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(DEBUGCON) : "memory");
    EQ(n, 0);
    EQ(p, text + sizeof text - 1);
    EQ(inb(DEBUGCON), DEBUGCON);
    for (u32 mask = 0; mask < 256; mask += 51) {
        outb(PIC_MASK, (u8)mask);
        EQ(inb(PIC_MASK), mask);
    }
    outb(PIC_MASK, 0xff);
    u32 id;
    outl(PCI_ADDRESS, 0x80000000u);
    __asm__ volatile("inl %1,%0" : "=a"(id) : "Nd"((u16)PCI_DATA));
    EQ(id & 0xffff, 0x8086); /* the host bridge */
}

static void uses_memory_mapped_registers(void) {
    EQ(ioapic(1) >> 16, 23);
    IOAPIC[0] = 0x10 + 2 * 5; /* the low half of pin 5 */
    IOAPIC[4] = 0x10031;      /* masked */
    EQ(ioapic(0x10 + 2 * 5) & 0x100ff, 0x10031);
    u32 version;
    IOAPIC[0] = 1;
    __asm__ volatile("mov %1,%0; add %1,%0" : "=&r"(version) : "m"(IOAPIC[4]));
    EQ(version, 2 * ioapic(1));
}

static void tsc_goes_on(void) {
    u64 a, b;
    __asm__ volatile("rdtsc" : "=A"(a));
    __asm__ volatile("rdtsc" : "=A"(b));
    CHECK(b >= a && b);
}

void test(void) {
    computes();
    uses_ports();
    uses_memory_mapped_registers();
    tsc_goes_on();
    if (option("halt", 0)) {
        print("halting\n");
        __asm__ volatile("cli; hlt");
        print("woke up\n");
    }
}
