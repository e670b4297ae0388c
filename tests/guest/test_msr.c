/*
 * Model-specific registers: what is there holds what was written, what is reserved in them and what
 * is not there at all is #GP(0), for RDMSR and for WRMSR. SDM volume 4, chapter 2 "Model-Specific
 * Registers"; volume 3, sections 10.4.4 "Local APIC Status and Location", 11.11 "Memory Type Range
 * Registers (MTRRs)", 11.12 "Page Attribute Table (PAT)", 15.3 "Machine-Check MSRs".
 * Expected: the values below; nothing in ring 3.
 * QEMU: TCG reads unknown registers as zero, ignores writes to them and checks few reserved bits
 */
#include "guest.h"

CODE(msr_read, "rdmsr" DONE);
CODE(msr_write, "wrmsr" DONE);

static u32 read(u32 msr) {
    reset_run(0);
    in.ecx = msr;
    in.eax = in.edx = 0x55555555;
    return run(0, msr_read);
}
static u32 write(u32 msr, u64 value) {
    reset_run(0);
    in.ecx = msr;
    in.eax = (u32)value;
    in.edx = (u32)(value >> 32);
    return run(0, msr_write);
}
static u64 value_of(u32 msr) {
    EQ(read(msr), V_DONE);
    return trap.eax | (u64)trap.edx << 32;
}
#define EQ64(a, b)                                                                                 \
    do {                                                                                           \
        u64 a_ = (a), b_ = (b);                                                                    \
        EQ((u32)a_, (u32)b_);                                                                      \
        EQ((u32)(a_ >> 32), (u32)(b_ >> 32));                                                      \
    } while (0)
/* Written and read back, and as it was before. */
static void holds(u32 msr, u64 value) {
    u64 old = value_of(msr);
    EQ(write(msr, value), V_DONE);
    EQ64(value_of(msr), value);
    EQ(write(msr, old), V_DONE);
}
/* Refused, and nothing changed. */
static void refuses(u32 msr, u64 value) {
    u64 old = value_of(msr);
    EQ(write(msr, value), V_GP);
    EQ(trap.error, 0);
    EQ64(value_of(msr), old);
}
static void absent(u32 msr) {
    EQ(read(msr), V_GP);
    EQ(trap.error, 0);
    EQ(trap.eax, 0x55555555);
    EQ(trap.edx, 0x55555555);
    EQ(write(msr, 0), V_GP);
}

static void unknown(void) {
    static const u32 none[] = {2,     0x48,       0xc1,       0x186,      0x300,      0x309,
                               0x38d, 0x38f,      0x480,      0x4b564d00, 0x7fffffff, 0xc0000081,
                               0xfff, 0xc0000082, 0xc0010000, 0xc0010015, 0xffffffff, 0x40000000};
    for (u32 i = 0; i < sizeof none / sizeof *none; i++)
        absent(none[i]);
}

static void system_calls_and_identity(void) {
    for (u32 msr = 0x174; msr <= 0x176; msr++)
        holds(msr, 0x12345678);
    EQ(write(0x17, 1), V_GP); /* IA32_PLATFORM_ID is fixed by the factory */
    EQ(write(0x8b, 0), V_DONE);
    cpuid(1);
    CHECK(value_of(0x8b) >> 32); /* the revision of the microcode */
    EQ((u32)value_of(0x8b), 0);
    u64 misc = value_of(0x1a0);
    EQ(misc & 0x1800, 0x1800); /* no branch trace store, no precise sampling */
    EQ(write(0x1a0, misc), V_DONE);
    refuses(0x1a0, misc | 1ull << 40);
    refuses(0x1a0, misc | 2);
}

static void apic_base(void) {
    u64 base = value_of(0x1b);
    EQ(base & 0xf00, 0x900); /* the bootstrap processor, enabled */
    refuses(0x1b, base | 1);
    refuses(0x1b, base | 0x200);
    refuses(0x1b, base | 1ull << 36);
    EQ(write(0x1b, base & ~0x100ull), V_DONE); /* BSP is read-only */
    EQ64(value_of(0x1b), base);
}

static void pat(void) {
    EQ64(value_of(0x277), 0x0007040600070406);
    holds(0x277, 0x0706050401000706);
    for (u32 i = 0; i < 8; i++) {
        refuses(0x277, 2ull << 8 * i);
        refuses(0x277, 3ull << 8 * i);
        refuses(0x277, 8ull << 8 * i);
    }
}

static void mtrrs(void) {
    u64 cap = value_of(0xfe), physical = (1ull << (cpuid(0x80000008).eax & 0xff)) - 1;
    EQ(cap & 0xff, 8);
    EQ(cap & 0x500, 0x500); /* fixed ranges, write combining */
    EQ(write(0xfe, cap), V_GP);
    static const u32 fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
    for (u32 i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        holds(fixed[i], 0x0605040100060504);
        refuses(fixed[i], 0x0200000000000000);
        refuses(fixed[i], 7); /* UC- is for the PAT only */
    }
    for (u32 i = 0; i < 8; i++) {
        u32 at = 0x200 + 2 * i;
        holds(at, 0x80000000 + (i << 20) + 6);
        holds(at + 1, (physical & ~0xfffffull) | 0x800);
        refuses(at, 0x80000002);
        refuses(at, 0x80000106);
        refuses(at, physical + 1);
        refuses(at + 1, 0x400);
        refuses(at + 1, physical + 1);
    }
    absent(0x210);
    holds(0x2ff, 0xc06);
    holds(0x2ff, 0x800);
    refuses(0x2ff, 0xc02);
    refuses(0x2ff, 0x1006);
    refuses(0x2ff, 0x106);
}

static void machine_check(void) {
    struct cpuid one = cpuid(1);
    if (!(one.edx >> 14 & 1)) {
        absent(0x179);
        absent(0x400);
        return;
    }
    u32 banks = value_of(0x179) & 0xff;
    CHECK(banks > 0 && banks < 32);
    EQ(value_of(0x179) & 0x100, 0); /* no IA32_MCG_CTL */
    absent(0x17b);
    EQ(write(0x179, 0), V_GP);
    holds(0x17a, 4);
    refuses(0x17a, 0x10);
    for (u32 i = 0; i < banks; i++) {
        holds(0x400 + 4 * i, ~0ull);
        for (u32 j = 1; j < 4; j++) { /* status, address, the rest: software only clears them */
            EQ64(value_of(0x400 + 4 * i + j), 0);
            EQ(write(0x400 + 4 * i + j, 0), V_DONE);
            refuses(0x400 + 4 * i + j, 1);
        }
    }
    absent(0x400 + 4 * banks);
    write_cr4(read_cr4() | CR4_MCE);
    EQ(read_cr4() & CR4_MCE, CR4_MCE);
    write_cr4(read_cr4() & ~CR4_MCE);
}

static void efer(void) {
    holds(0xc0000080, 0x800);
    static const u32 bits[] = {0, 8, 9, 10, 12, 14, 31}; /* SYSCALL and long mode are not there */
    for (u32 i = 0; i < sizeof bits / sizeof *bits; i++)
        refuses(0xc0000080, 1ull << bits[i]);
    refuses(0xc0000080, 1ull << 32);
}

void test(void) {
    unknown();
    system_calls_and_identity();
    apic_base();
    pat();
    mtrrs();
    machine_check();
    efer();
    reset_run(3);
    in.ecx = 0x10;
    FAULTS(3, msr_read, V_GP, 0);
    reset_run(3);
    in.ecx = 0x10;
    FAULTS(3, msr_write, V_GP, 0);
}
