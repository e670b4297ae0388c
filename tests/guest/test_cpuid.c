/*
 * CPUID tells one story: the features of the processor that the signature names, the leaves that go
 * with them, the CR4 bits that may be set, the MSRs that are there, the physical addresses that
 * fit. SDM volume 2, "CPUID", tables 3-8 to 3-12; volume 3, sections 2.5 "Control Registers"
 * and 4.3 "32-Bit Paging"; volume 1, section 3.4.3.3 "System Flags and IOPL Field".
 * Expected: below, for whatever -cpu says. Instructions are test_features.c's.
 * QEMU: its models are others
 * UNPAGED: CR4.PAE and CR4.SMEP are toggled
 */
#include "guest.h"

CODE(id_write_cr4, "mov %eax,%cr4" DONE);
CODE(id_rdmsr, "rdmsr" DONE);
CODE(id_rdtsc, "rdtsc" DONE);
CODE(id_rdpmc, "rdpmc" DONE);
CODE(id_long_nop, ".byte 0x0f,0x1f,0xc0" DONE);
CODE(id_read, "mov (%ecx),%eax" DONE);

/* Features that real ones of that signature have, among those that are virtualized here. */
static const struct {
    u32 signature, max_basic, edx, ecx;
    bool has_extended;
} known[] = {
    {0x480, 1, 0x00000001, 0, false},
    {0x52c, 1, 0x000003bf, 0, false},
    {0x673, 2, 0x0383fbff, 0, false},
    {0x6fb, 10, 0x078bfbff, 0x00000201, true},
    {0x106ca, 0x16, 0x078bfbff, 0x00000201, true},
};
static struct cpuid one, seven, extended;
static u32 max_basic, max_extended;

static void identity(void) {
    struct cpuid zero = cpuid(0);
    EQ(zero.ebx, 0x756e6547); /* GenuineIntel */
    EQ(zero.edx, 0x49656e69);
    EQ(zero.ecx, 0x6c65746e);
    bool found = false;
    for (u32 i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].signature != one.eax)
            continue;
        found = true;
        EQ(max_basic, known[i].max_basic);
        EQ(one.edx & known[i].edx, known[i].edx);
        EQ(one.ecx & known[i].ecx, known[i].ecx);
        EQ(max_extended != 0, known[i].has_extended);
        if (one.eax != 0x106ca) { /* and nothing more */
            EQ(one.edx, known[i].edx);
            EQ(one.ecx & 0x7fffffff, known[i].ecx);
        }
    }
    CHECK(found);
    struct cpuid last = cpuid(max_basic), beyond = cpuid(max_basic + 1);
    EQ(beyond.eax, last.eax);
    EQ(beyond.edx, last.edx);
    EQ(one.ebx >> 24, 0);                              /* APIC ID */
    EQ((one.ebx >> 8 & 0xff) != 0, one.edx >> 19 & 1); /* CLFLUSH line */
}

static void eflags(void) {
    u32 flags;
    __asm__ volatile("pushf; orl $0x240000,(%%esp); popf; pushf; pop %0; push $2; popf"
                     : "=r"(flags));
    EQ(flags & (F_ID | F_AC), F_ID | F_AC); /* a 486 has AC, and CPUID ID */
}

/* Leaves 2 and 4; the size of a cache is ways * line * sets. */
static void caches(void) {
    if (max_basic >= 2)
        EQ(cpuid(2).eax & 0xff, 1);
    if (max_basic < 4)
        return;
    u32 kib[4] = {0}, n = 0;
    for (; n < 8; n++) {
        u32 a, b, c, d;
        __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(4), "2"(n));
        if (!(a & 31))
            break;
        u32 level = a >> 5 & 7;
        CHECK(level >= 1 && level <= 3);
        EQ(b & 0xfff, 63); /* 64-byte lines */
        kib[level] += ((b >> 22) + 1) * 64 * (c + 1) / 1024;
    }
    EQ(n, 3);
    EQ(kib[1], 64);
    if (max_extended >= 0x80000006)
        EQ(cpuid(0x80000006).ecx >> 16, kib[2]);
}

static void brand(void) {
    if (max_extended < 0x80000004)
        return;
    u32 text[13] = {0};
    for (u32 i = 0; i < 3; i++) {
        struct cpuid c = cpuid(0x80000002 + i);
        memcpy(&text[4 * i], &c, sizeof c);
    }
    u32 chars = 0;
    for (const char *p = (const char *)text; *p; p++, chars++)
        CHECK(*p >= ' ' && *p <= '~');
    CHECK(chars > 8 && chars < 48);
}

/* A CR4 bit may be set exactly where its feature is announced. */
static void cr4(void) {
    u32 family = one.eax >> 8 & 15;
    bool has_rdpmc = family > 5 || (family == 5 && (one.eax >> 4 & 15) >= 4);
    const struct {
        u32 bit;
        bool allowed;
    } bits[] = {
        {0, one.edx >> 1 & 1},
        {1, one.edx >> 1 & 1},
        {2, one.edx >> 4 & 1},
        {3, one.edx >> 2 & 1},
        {4, one.edx >> 3 & 1},
        {5, one.edx >> 6 & 1},
        {6, one.edx >> 7 & 1},
        {7, one.edx >> 13 & 1},
        {8, has_rdpmc},
        {9, one.edx >> 24 & 1},
        {10, one.edx >> 25 & 1},
        {13, false},
        {14, false},
        {17, false},
        {18, false},
        {20, seven.ebx >> 7 & 1},
        {21, seven.ebx >> 20 & 1},
        {22, false},
        {23, false},
        {24, false},
        {31, false},
    };
    u32 before = read_cr4();
    for (u32 i = 0; i < sizeof bits / sizeof *bits; i++) {
        reset_run(0);
        in.eax = before | 1u << bits[i].bit;
        u32 vector = run(0, id_write_cr4);
        if (vector != (bits[i].allowed ? V_DONE : V_GP)) {
            print("CR4 bit ");
            print_dec(bits[i].bit);
            print("\n");
        }
        EQ(vector, bits[i].allowed ? V_DONE : V_GP);
        write_cr4(before);
    }
}

/* A feature and the MSR that goes with it. */
static void msrs(void) {
    u32 family = one.eax >> 8 & 15;
    bool p6 = family >= 6, core = p6 && (one.eax >> 4 & 15) + (one.eax >> 12 & 0xf0) >= 14;
    const struct {
        u32 msr;
        bool there;
    } rows[] = {
        {0x10, one.edx >> 4 & 1},
        {0, one.edx >> 7 & 1},
        {0x1b, p6 && (one.edx >> 9 & 1)},
        {0x8b, p6},
        {0x174, one.edx >> 11 & 1},
        {0xfe, one.edx >> 12 & 1},
        {0x277, one.edx >> 16 & 1},
        {0x179, one.edx >> 14 & 1},
        {0x1a0, core},
        {0xcd, core},
        {0xc0000080, extended.edx >> 20 & 1},
        {0xc0000103, extended.edx >> 27 & 1},
        {0xc0000081, false},
    };
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
        reset_run(0);
        in.ecx = rows[i].msr;
        u32 vector = run(0, id_rdmsr), expected = rows[i].there ? V_DONE : V_GP;
        if (!(one.edx >> 5 & 1))
            expected = V_UD; /* RDMSR itself */
        if (vector != expected) {
            print("MSR ");
            print_hex(rows[i].msr);
            print("\n");
        }
        EQ(vector, expected);
    }
    EQ(run(0, id_rdtsc), one.edx >> 4 & 1 ? V_DONE : V_UD);
    EQ(run(0, id_rdpmc), p6 ? V_GP : V_UD);
    EQ(run(3, id_long_nop), p6 ? V_DONE : V_UD); /* came with the Pentium Pro */
}

/* Entry bits that are reserved only without PAT or PSE-36: read through them. */
static u32 read_at(u32 address) {
    reset_run(0);
    in.ecx = address;
    return run(0, id_read);
}
static void entries(void) {
    bool has_pat = one.edx >> 16 & 1, has_pse = one.edx >> 3 & 1, has_pse36 = one.edx >> 17 & 1;
    const u32 area = 0x40000000;
    paging_prepare();
    *pte(area) = SCRATCH | PT_P | PT_W | 0x80; /* PAT */
    if (has_pse) {
        *pde(area + 0x400000) = 0x800000 | PT_P | PT_W | PT_PS | 0x1000; /* PAT of a large page */
        *pde(area + 0x800000) = 0x800000 | PT_P | PT_W | PT_PS | 0x2000; /* address bit 32 */
        *pde(area + 0xc00000) = 0x800000 | PT_P | PT_W | PT_PS | 0x200000;
    }
    paging_on();
    EQ(read_at(area), V_DONE); /* nobody looks without PSE and PAE */
    if (has_pse) {
        write_cr4(read_cr4() | CR4_PSE);
        write_cr3(read_cr3());
        EQ(read_at(area), has_pat ? V_DONE : V_PF);
        EQ(read_at(area + 0x400000), has_pat ? V_DONE : V_PF);
        EQ(read_at(area + 0x800000), has_pse36 ? V_DONE : V_PF);
        EQ(read_at(area + 0xc00000), V_PF);
        EQ(trap.error & 8, 8);
    }
    paging_off();
}

void test(void) {
    max_basic = cpuid(0).eax;
    one = cpuid(1);
    if (max_basic >= 7)
        seven = cpuid(7);
    max_extended = cpuid(0x80000000).eax;
    if (max_extended >> 16 != 0x8000)
        max_extended = 0;
    if (max_extended)
        extended = cpuid(0x80000001);
    identity();
    eflags();
    caches();
    brand();
    cr4();
    msrs();
    entries();
}
