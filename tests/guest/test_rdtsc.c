/*
 * The time-stamp counter: RDTSC, RDTSCP, IA32_TIME_STAMP_COUNTER, IA32_TSC_AUX, CR4.TSD; RDPMC and
 * CR4.PCE. SDM volume 3, section 17.17 "Time-Stamp Counter"; volume 2, "RDTSC", "RDTSCP", "RDPMC".
 * Expected: the counter never goes back, a write to its MSR takes effect at once in every ring;
 * with TSD only ring 0 reads it; RDTSCP leaves IA32_TSC_AUX in ECX; RDPMC of a counter that is not
 * there is #GP(0) with and without PCE.
 * OPTIONS: -cpu max
 */
#include "guest.h"

enum { MSR_TSC = 0x10, MSR_TSC_AUX = 0xc0000103u };
CODE(tsc_read, "rdtsc" DONE);
CODE(tsc_read_twice, "rdtsc; mov %eax,%esi; mov %edx,%edi; rdtsc" DONE);
CODE(tsc_read_p, "mov $-1,%ecx; stc; rdtscp; setc %bl" DONE);
CODE(tsc_flags, "mov $0x8d5,%eax; push %eax; popf; rdtsc; pushf; pop %ebx" DONE);
CODE(tsc_rdpmc, "rdpmc" DONE);
CODE(tsc_wrmsr, "wrmsr" DONE);
CODE(tsc_rdmsr, "rdmsr" DONE);

static u64 now(u32 ring, const u8 *code) {
    EQ(run(ring, code), V_DONE);
    return trap.eax | (u64)trap.edx << 32;
}
static u32 write_msr(u32 msr, u64 value) {
    reset_run(0);
    in.ecx = msr;
    in.eax = (u32)value;
    in.edx = (u32)(value >> 32);
    return run(0, tsc_wrmsr);
}

static void reading(u32 ring) {
    u64 last = now(ring, tsc_read);
    for (u32 i = 0; i < 20; i++) {
        u64 next = now(ring, tsc_read);
        CHECK(next > last);
        last = next;
    }
    EQ(run(ring, tsc_read_twice), V_DONE);
    CHECK((trap.eax | (u64)trap.edx << 32) >= (trap.esi | (u64)trap.edi << 32));
    EQ(run(ring, tsc_flags), V_DONE);
    EQ(trap.ebx & F_ARITH, F_ARITH);
}

static void writing(u32 ring) {
    const u64 far = 0x5000000000000;
    EQ(write_msr(MSR_TSC, far), V_DONE);
    u64 a = now(ring, tsc_read);
    CHECK(a >= far && a < far + (far >> 2));
    EQ(write_msr(MSR_TSC, 0), V_DONE); /* and back */
    a = now(ring, tsc_read);
    CHECK(a < far);
    reset_run(0);
    in.ecx = MSR_TSC;
    CHECK(now(0, tsc_rdmsr) >= a);
}

static void with_aux(u32 ring) {
    EQ(write_msr(MSR_TSC_AUX, 0x12345678), V_DONE);
    u64 before = now(ring, tsc_read), p = now(ring, tsc_read_p);
    EQ(trap.ecx, 0x12345678);
    EQ(trap.ebx & 1, 1); /* the flags stay */
    CHECK(p >= before);
    EQ(write_msr(MSR_TSC_AUX, 7), V_DONE);
    RUNS(ring, tsc_read_p);
    EQ(trap.ecx, 7);
    EQ(write_msr(MSR_TSC_AUX, 1ull << 32), is_tcg() ? V_DONE : V_GP); /* reserved */
    EQ(rdmsr(MSR_TSC_AUX), is_tcg() ? 0 : 7);
    EQ(write_msr(MSR_TSC_AUX, 0), V_DONE);
}

static void disabled(bool has_aux) {
    write_cr4(read_cr4() | CR4_TSD);
    RUNS(0, tsc_read);
    FAULTS(3, tsc_read, V_GP, 0);
    EQ(trap.eip, (u32)tsc_read);
    if (has_aux) {
        RUNS(0, tsc_read_p);
        FAULTS(3, tsc_read_p, V_GP, 0);
        EQ(trap.ecx, -1u);
    }
    write_cr4(read_cr4() & ~CR4_TSD);
    RUNS(3, tsc_read);
}

static void counters(void) {
    for (u32 pce = 0; pce < 2; pce++) {
        write_cr4((read_cr4() & ~CR4_PCE) | (pce ? CR4_PCE : 0));
        for (u32 ring = 0; ring <= 3; ring += 3)
            for (u32 counter = 0; counter < 3; counter++) {
                reset_run(ring);
                in.ecx = counter == 2 ? 0x40000000 : counter; /* a fixed-function one */
                in.eax = 0x77;
                FAULTS(ring, tsc_rdpmc, V_GP, 0);
                EQ(trap.eax, 0x77);
            }
    }
    write_cr4(read_cr4() & ~CR4_PCE);
}

void test(void) {
    bool has_aux = cpuid(0x80000001).edx >> 27 & 1;
    for (u32 ring = 0; ring <= 3; ring += 3) {
        reading(ring);
        if (!is_tcg()) /* which ignores a write to the MSR */
            writing(ring);
        if (has_aux)
            with_aux(ring);
    }
    disabled(has_aux);
    if (!is_tcg()) /* which takes RDPMC for an unknown instruction */
        counters();
}
