/* test_sysreg.c: control and debug registers, MSRs, CPUID, TSC, ports, and the guarded flags. */
#include "rc_fixture.h"

static bool rdmsr(struct cpu *cpu, u32 msr, u64 *value) {
    cpu->gpr[R_ECX] = msr;
    bool ok = rc_rdmsr(cpu);
    *value = cpu->gpr[R_EAX] | cpu->gpr[R_EDX] << 32;
    return ok;
}
static bool wrmsr(struct cpu *cpu, u32 msr, u64 value) {
    cpu->gpr[R_ECX] = msr;
    cpu->gpr[R_EAX] = (u32)value;
    cpu->gpr[R_EDX] = value >> 32;
    return rc_wrmsr(cpu);
}

static void cr0_combinations(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 value, old = cpu->cr0;
    assert_fault(rc_write_cr(cpu, 0, old | CR0_NW), VEC_GP, 0);
    assert_fault(rc_write_cr(cpu, 0, CR0_PG), VEC_GP, 0);
    assert_true(rc_write_cr(cpu, 0, old | 0x1ffaffc0));
    assert_true(rc_read_cr(cpu, 0, &value));
    assert_int_equal(value, old);
    assert_true(rc_lmsw(cpu, CR0_TS));
    assert_int_equal(cpu->cr0, old | CR0_TS); /* PE stays */
    assert_true(rc_write_cr(cpu, 0, old & ~CR0_ET));
    assert_true(cpu->cr0 & CR0_ET);
    assert_false(rc_write_cr(cpu, 1, 0));
    assert_int_equal(cpu->fault.vector, VEC_UD);
    enter_ring(cpu, 3);
    assert_fault(rc_write_cr(cpu, 0, old), VEC_GP, 0);
    assert_fault(rc_read_cr(cpu, 3, &value), VEC_GP, 0);
}

static void cr4_and_pae_pointers(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_fault(rc_write_cr(cpu, 4, CR4_VME), VEC_GP, 0);
    assert_true(rc_write_cr(cpu, 4, CR4_PAE | CR4_PGE));
    poke32(cpu, 0x6000, 0x7001);
    poke32(cpu, 0x6020, 0x7003); /* bit 1 is reserved in a PDPTE */
    assert_true(rc_write_cr(cpu, 3, 0x6020));
    u32 old = cpu->cr0;
    assert_fault(rc_write_cr(cpu, 0, old | CR0_PG), VEC_GP, 0);
    assert_int_equal(cpu->cr0, old);
    assert_true(rc_write_cr(cpu, 3, 0x6000));
    assert_true(rc_write_cr(cpu, 0, old | CR0_PG));
    assert_int_equal(cpu->pdptr[0], 0x7001);
    assert_fault(rc_write_cr(cpu, 3, 0x6020), VEC_GP, 0);
    assert_int_equal(cpu->cr3, 0x6000);
    poke32(cpu, 0x6000, 0x8001);
    assert_true(rc_write_cr(cpu, 4, CR4_PAE)); /* PGE change reloads */
    assert_int_equal(cpu->pdptr[0], 0x8001);
}

static void debug_registers_alias_and_guard(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 value;
    assert_true(rc_write_dr(cpu, 4, 0));
    assert_true(rc_read_dr(cpu, 6, &value));
    assert_int_equal(value, 0xffff0ff0);
    assert_true(rc_write_dr(cpu, 7, 0xffffffff & ~BIT(13)));
    assert_true(rc_read_dr(cpu, 5, &value));
    assert_int_equal(value, 0xffff07ff);
    assert_true(rc_write_cr(cpu, 4, CR4_DE));
    assert_false(rc_read_dr(cpu, 5, &value));
    assert_int_equal(cpu->fault.vector, VEC_UD);
    assert_true(rc_write_dr(cpu, 7, BIT(13)));
    assert_false(rc_read_dr(cpu, 0, &value));
    assert_int_equal(cpu->fault.vector, VEC_DB);
    assert_true(cpu->dr[6] & BIT(13));
}

static void msrs_of_the_model(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u64 value;
    for (u32 msr = 0x174; msr <= 0x176; msr++) {
        assert_true(wrmsr(cpu, msr, 0x1234000 + msr));
        assert_true(rdmsr(cpu, msr, &value));
        assert_int_equal(value, 0x1234000 + msr);
    }
    assert_int_equal(cpu->sysenter_eip, 0x1234176);
    assert_true(wrmsr(cpu, 0xc0000080, EFER_NXE));
    assert_true(rdmsr(cpu, 0xc0000080, &value));
    assert_int_equal(value, EFER_NXE);
    assert_fault(wrmsr(cpu, 0xc0000080, 1 << 8), VEC_GP, 0); /* LME */
    assert_fault(wrmsr(cpu, 0xc0000080, EFER_SCE), VEC_GP, 0);
    assert_fault(rdmsr(cpu, 0xc0000081, &value), VEC_GP, 0);
    assert_fault(rdmsr(cpu, 0x48, &value), VEC_GP, 0);
    assert_fault(wrmsr(cpu, 0x17, 1), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x8b, 0));
    assert_true(rdmsr(cpu, 0x8b, &value));
    assert_int_not_equal(value >> 32, 0);
    ((struct fixture *)*state)->model.has_nx = false;
    assert_fault(rdmsr(cpu, 0xc0000080, &value), VEC_GP, 0);
    enter_ring(cpu, 3);
    assert_fault(rdmsr(cpu, 0x10, &value), VEC_GP, 0);
}

static void msrs_come_with_features_and_generations(void **state) {
    struct fixture *f = *state;
    struct cpu *cpu = f->cpu;
    u64 value;
    assert_fault(rdmsr(cpu, 0xc0000103, &value), VEC_GP, 0);
    f->model.x1_edx |= BIT(27);
    assert_true(wrmsr(cpu, 0xc0000103, 0x89abcdef));
    assert_fault(wrmsr(cpu, 0xc0000103, 1ull << 32), VEC_GP, 0);
    assert_int_equal(cpu->msr_tsc_aux, 0x89abcdef);
    assert_true(rdmsr(cpu, 0x1a0, &value));
    assert_fault(wrmsr(cpu, 0x1a0, value | 1ull << 63), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x1a0, value & ~1ull)); /* fast strings off */
    assert_int_equal(cpu->msr_misc_enable & 1, 0);
    f->model.signature = 0x673;
    assert_fault(rdmsr(cpu, 0x1a0, &value), VEC_GP, 0);
    assert_true(rdmsr(cpu, 0x8b, &value));
    assert_true(wrmsr(cpu, 0x10, 0x700000000)); /* the high half is cleared */
    assert_true(rdmsr(cpu, 0x10, &value));
    assert_int_equal(value >> 32, 0);
    f->model.signature = 0x52c;
    assert_fault(rdmsr(cpu, 0x8b, &value), VEC_GP, 0);
    assert_true(rdmsr(cpu, 0, &value)); /* P5_MC_ADDR */
    f->model.f1_edx &= ~BIT(7);
    assert_fault(rdmsr(cpu, 0, &value), VEC_GP, 0);
    assert_false(rc_rdpmc(cpu));
    assert_int_equal(cpu->fault.vector, VEC_UD);
}

static void machine_check_banks_hold_their_control_only(void **state) {
    struct fixture *f = *state;
    struct cpu *cpu = f->cpu;
    u64 value;
    assert_true(rdmsr(cpu, 0x179, &value));
    assert_int_equal(value, CPU_MC_BANKS);
    assert_fault(wrmsr(cpu, 0x179, value), VEC_GP, 0);
    u32 last = 0x400 + 4 * (CPU_MC_BANKS - 1);
    assert_true(wrmsr(cpu, last, ~0ull));
    assert_int_equal(cpu->msr_mc_ctl[CPU_MC_BANKS - 1], ~0ull);
    assert_true(wrmsr(cpu, last + 1, 0));
    assert_fault(wrmsr(cpu, last + 1, 1), VEC_GP, 0);
    assert_fault(rdmsr(cpu, last + 4, &value), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x17a, 5));
    assert_fault(wrmsr(cpu, 0x17a, 8), VEC_GP, 0);
    f->model.f1_edx &= ~BIT(14);
    assert_fault(rdmsr(cpu, 0x179, &value), VEC_GP, 0);
    assert_fault(rdmsr(cpu, 0x400, &value), VEC_GP, 0);
}

/* A local APIC that notes what it is asked. */
struct apic {
    u32 index, calls;
    bool write, refuse;
    u64 value;
};
static struct apic apic;
static bool apic_msr(void *opaque, u32 index, bool write, u64 *value) {
    (void)opaque;
    apic.calls++;
    apic.index = index;
    apic.write = write;
    if (write)
        apic.value = *value;
    else
        *value = 0x123456789abcdef0;
    return !apic.refuse;
}

static void the_apics_registers_are_asked_of_the_bus(void **state) {
    struct fixture *f = *state;
    struct cpu *cpu = f->cpu;
    u64 value;
    apic = (struct apic){0};
    assert_fault(rdmsr(cpu, 0x802, &value), VEC_GP, 0); /* no such features */
    assert_fault(wrmsr(cpu, 0x6e0, 0), VEC_GP, 0);
    f->model.f1_ecx |= BIT(21) | BIT(24);
    assert_fault(rdmsr(cpu, 0x802, &value), VEC_GP, 0); /* nobody there */
    f->bus.msr = apic_msr;
    assert_true(rdmsr(cpu, 0x802, &value));
    assert_int_equal(value, 0x123456789abcdef0);
    assert_true(apic.index == 0x802 && !apic.write);
    assert_true(wrmsr(cpu, 0x6e0, 0x1111222233334444));
    assert_true(apic.index == 0x6e0 && apic.write && apic.value == 0x1111222233334444);
    assert_true(wrmsr(cpu, 0x1b, 0xfee00c00)); /* BSP stays; x2APIC now exists */
    assert_int_equal(apic.value, 0xfee00d00);
    assert_int_equal(cpu->msr_apicbase, 0xfee00d00);
    apic.calls = 0;
    assert_fault(wrmsr(cpu, 0x1b, 0xfee00e00), VEC_GP, 0); /* reserved: not even asked */
    assert_int_equal(apic.calls, 0);
    apic.refuse = true;
    assert_fault(wrmsr(cpu, 0x1b, 0xfee00800), VEC_GP, 0);
    assert_int_equal(cpu->msr_apicbase, 0xfee00d00);
    assert_fault(rdmsr(cpu, 0x8ff, &value), VEC_GP, 0);
    assert_fault(wrmsr(cpu, 0x830, 0), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x10, 5)); /* told, not asked */
    assert_int_equal(apic.index, 0x10);
    enter_ring(cpu, 3);
    apic.calls = 0;
    assert_fault(rdmsr(cpu, 0x802, &value), VEC_GP, 0);
    assert_int_equal(apic.calls, 0);
}

static void memory_types_are_checked(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u64 value;
    assert_true(wrmsr(cpu, 0x277, 0x0007010600070106));
    assert_fault(wrmsr(cpu, 0x277, 0x0007010600070102), VEC_GP, 0);
    assert_fault(wrmsr(cpu, 0x277, 0x0807010600070106), VEC_GP, 0);
    assert_true(rdmsr(cpu, 0xfe, &value));
    assert_int_equal(value & 0xff, 8);
    assert_true(wrmsr(cpu, 0x250, 0x0606060606060606));
    assert_true(wrmsr(cpu, 0x26f, 0x0505050505050505));
    assert_int_equal(cpu->msr_mtrr_fixed[10], 0x0505050505050505);
    assert_fault(wrmsr(cpu, 0x259, 0x07), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x200, 0x80000006));
    assert_true(wrmsr(cpu, 0x201, 0xf80000800));
    assert_fault(wrmsr(cpu, 0x201, 0xff80000800), VEC_GP, 0); /* 36 physical bits */
    assert_fault(wrmsr(cpu, 0x202, 0x80000106), VEC_GP, 0);
    assert_true(wrmsr(cpu, 0x2ff, 0xc06));
    assert_fault(wrmsr(cpu, 0x2ff, 0xc02), VEC_GP, 0);
    assert_fault(wrmsr(cpu, 0x1b, 0xfee00d00), VEC_GP, 0); /* x2APIC */
}

static void tsc_follows_its_msr_and_tsd(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    assert_true(wrmsr(cpu, 0x10, 0x500000000));
    assert_true(rc_rdtsc(cpu));
    assert_int_equal(cpu->gpr[R_EDX], 5);
    assert_in_range(cpu->gpr[R_EAX], 0, 10);
    assert_true(rc_write_cr(cpu, 4, CR4_TSD));
    assert_true(rc_rdtsc(cpu));
    enter_ring(cpu, 3);
    assert_fault(rc_rdtsc(cpu), VEC_GP, 0);
    assert_fault(rc_rdpmc(cpu), VEC_GP, 0);
}

static void cpuid_ranges_and_dynamic_bits(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    cpu->gpr[R_EAX] = 1;
    cpu->gpr[R_ECX] = 99; /* leaf 1 ignores ECX */
    rc_cpuid(cpu);
    assert_int_equal(cpu->gpr[R_EAX], 0x106ca);
    assert_true(cpu->gpr[R_EDX] & BIT(9));
    cpu->msr_apicbase &= ~(u64)BIT(11);
    cpu->gpr[R_EAX] = 1;
    rc_cpuid(cpu);
    assert_false(cpu->gpr[R_EDX] & BIT(9));
    cpu->gpr[R_EAX] = 4;
    cpu->gpr[R_ECX] = 1;
    rc_cpuid(cpu);
    assert_int_equal(cpu->gpr[R_EAX], 0);
    static const u32 beyond[3] = {11, 0x40000000, 0x80000009};
    for (unsigned i = 0; i < 3; i++) {
        cpu->gpr[R_EAX] = beyond[i];
        rc_cpuid(cpu);
        assert_int_equal(cpu->gpr[R_EAX], 0xaaaa);
    }
}

static void port_rights_come_from_iopl_and_the_bitmap(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    store16(ram(cpu, TSS_A + 0x66), 0x80);
    memset(ram(cpu, TSS_A + 0x80), 0xff, 0x100);
    ram(cpu, TSS_A + 0x80)[0x60 / 8] = 0xfe; /* port 60h only */
    assert_true(rc_check_io(cpu, 0x3f8, 4));
    enter_ring(cpu, 3);
    assert_true(rc_check_io(cpu, 0x60, 1));
    assert_fault(rc_check_io(cpu, 0x60, 2), VEC_GP, 0);
    assert_fault(rc_check_io(cpu, 0x61, 1), VEC_GP, 0);
    ram(cpu, TSS_A + 0x80)[0x70 / 8 - 1] = 0x7f; /* 6fh, and 70h clear in the next byte */
    ram(cpu, TSS_A + 0x80)[0x70 / 8] = 0xfe;
    assert_true(rc_check_io(cpu, 0x6f, 2));
    assert_fault(rc_check_io(cpu, 0xffff, 1), VEC_GP, 0); /* beyond the TSS */
    cpu->eflags |= F_IOPL;
    assert_true(rc_check_io(cpu, 0x3f8, 1));
    cpu->eflags |= F_VM; /* IOPL does not help V86 mode */
    assert_fault(rc_check_io(cpu, 0x3f8, 1), VEC_GP, 0);
}

static void popf_obeys_cpl_and_iopl_silently(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    cpu->eflags = F_FIXED | F_RF;
    assert_true(rc_popf(cpu, 0xffffffff, 4));
    assert_int_equal(cpu->eflags, F_ALL & ~(F_VM | F_RF | F_VIF | F_VIP));
    cpu->eflags = F_FIXED;
    assert_true(rc_popf(cpu, 0xffffffff, 2));
    assert_int_equal(cpu->eflags, F_ALL & 0xffff);
    enter_ring(cpu, 3);
    cpu->eflags = F_FIXED | F_IF;
    assert_true(rc_popf(cpu, F_IOPL | F_CF, 4));
    assert_int_equal(cpu->eflags, F_FIXED | F_IF | F_CF);
    cpu->eflags = F_FIXED | F_IF | F_IOPL;
    assert_true(rc_popf(cpu, 0, 4));
    assert_int_equal(cpu->eflags, F_FIXED | F_IOPL);
}

static void pushf_cli_sti(void **state) {
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    u32 image;
    cpu->eflags = F_FIXED | F_RF | F_AC;
    assert_true(rc_pushf(cpu, &image, 4));
    assert_int_equal(image, F_FIXED | F_AC);
    assert_true(rc_sti(cpu));
    assert_int_equal(cpu->shadow, SHADOW_STI);
    assert_false(rc_interruptible(cpu));
    cpu->shadow = 0;
    assert_true(rc_sti(cpu)); /* IF was set: no shadow */
    assert_true(rc_interruptible(cpu));
    assert_true(rc_cli(cpu));
    assert_false(cpu->eflags & F_IF);
    enter_ring(cpu, 3);
    assert_fault(rc_cli(cpu), VEC_GP, 0);
    assert_fault(rc_sti(cpu), VEC_GP, 0);
    cpu->eflags = F_FIXED | F_VM;
    assert_fault(rc_pushf(cpu, &image, 4), VEC_GP, 0);
    assert_fault(rc_popf(cpu, 0, 2), VEC_GP, 0);
    assert_fault(rc_cli(cpu), VEC_GP, 0);
    cpu->eflags |= F_IOPL;
    assert_true(rc_cli(cpu));
    assert_true(rc_pushf(cpu, &image, 4));
    assert_int_equal(image, F_FIXED | F_IOPL);
    assert_true(rc_popf(cpu, 0, 2));
    assert_int_equal(cpu->eflags, F_FIXED | F_VM | F_IOPL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(cr0_combinations),
        TEST(cr4_and_pae_pointers),
        TEST(debug_registers_alias_and_guard),
        TEST(msrs_of_the_model),
        TEST(msrs_come_with_features_and_generations),
        TEST(machine_check_banks_hold_their_control_only),
        TEST(the_apics_registers_are_asked_of_the_bus),
        TEST(memory_types_are_checked),
        TEST(tsc_follows_its_msr_and_tsd),
        TEST(cpuid_ranges_and_dynamic_bits),
        TEST(port_rights_come_from_iopl_and_the_bitmap),
        TEST(popf_obeys_cpl_and_iopl_silently),
        TEST(pushf_cli_sti),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
