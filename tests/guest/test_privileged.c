/*
 * Every privileged instruction raises #GP(0) at ring 3, with EIP at the instruction and nothing
 * changed, and works at ring 0. SDM volume 3A, section 5.9 "Privileged Instructions".
 * Expected: #GP(0) for each; RDTSC at ring 3 depends on CR4.TSD, RDPMC is refused without
 * CR4.PCE.
 */
#include "guest.h"

struct {
    u16 limit;
    u32 base;
} __attribute__((packed)) table;
u16 word;

CODE(i_lgdt, "lgdt table" DONE);
CODE(i_lidt, "lidt table" DONE);
CODE(i_lldt, "xor %eax,%eax; lldt %ax" DONE);
CODE(i_ltr, "lldt word" DONE);
CODE(i_cr0, "mov %cr0,%eax; mov %eax,%cr0" DONE);
CODE(i_cr2, "mov %eax,%cr2" DONE);
CODE(i_cr3, "mov %cr3,%eax; mov %eax,%cr3" DONE);
CODE(i_cr4, "mov %cr4,%eax; mov %eax,%cr4" DONE);
CODE(i_dr7, "mov %dr7,%eax" DONE);
CODE(i_dr0, "mov %eax,%dr0" DONE);
CODE(i_clts, "clts" DONE);
CODE(i_lmsw, "smsw %eax; lmsw %ax" DONE);
CODE(i_invlpg, "invlpg (%eax)" DONE);
CODE(i_invd, "wbinvd" DONE);
CODE(i_rdmsr, "mov $0x174,%ecx; rdmsr" DONE);
CODE(i_wrmsr, "mov $0x174,%ecx; xor %eax,%eax; xor %edx,%edx; wrmsr" DONE);
CODE(i_cli, "cli" DONE);
CODE(i_sti, "sti; cli" DONE);
CODE(i_in, "in $0x61,%al" DONE);
CODE(i_out, "mov $0x80,%dx; out %al,%dx" DONE);
CODE(i_ins, "mov $0x61,%dx; mov $scratch,%edi; insb" DONE);
CODE(i_outs, "mov $0x80,%dx; mov $scratch,%esi; outsb" DONE);
CODE(i_hlt, "hlt" DONE);
CODE(rdtsc_it,
     "rdtsc; mov %eax,%ecx; mov %edx,%ebx; rdtsc; sub %ecx,%eax; sbb %ebx,%edx; sets %cl" DONE);
CODE(rdpmc_it, "xor %ecx,%ecx; rdpmc" DONE);
CODE(bad_msr, "mov $0x12345678,%ecx; rdmsr" DONE);
CODE(bad_cr4, "mov %cr4,%eax; or $0x80000000,%eax; mov %eax,%cr4" DONE);
CODE(bad_cr0, "mov %cr0,%eax; or $0x80000000,%eax; and $~1,%eax; mov %eax,%cr0" DONE);
CODE(bad_cr0_nw, "mov %cr0,%eax; or $0x20000000,%eax; and $~0x40000000,%eax; mov %eax,%cr0" DONE);
CODE(cpuid_it, "xor %eax,%eax; cpuid" DONE);

static const struct {
    const u8 *code;
    u32 skip; /* bytes in front of the refused instruction */
} cases[] = {{i_lgdt, 0},   {i_lidt, 0}, {i_lldt, 2},  {i_ltr, 0},   {i_cr0, 0},  {i_cr2, 0},
             {i_cr3, 0},    {i_cr4, 0},  {i_dr7, 0},   {i_dr0, 0},   {i_clts, 0}, {i_lmsw, 3},
             {i_invlpg, 0}, {i_invd, 0}, {i_rdmsr, 5}, {i_wrmsr, 9}, {i_cli, 0},  {i_sti, 0},
             {i_in, 0},     {i_out, 4},  {i_ins, 9},   {i_outs, 9},  {i_hlt, 0}};

void test(void) {
    __asm__ volatile("sgdt table");
    u16 gdt_limit = table.limit;
    for (u32 i = 0; i < sizeof cases / sizeof *cases; i++) {
        __asm__ volatile("sgdt table");
        if (cases[i].code == i_lidt)
            __asm__ volatile("sidt table");
        FAULTS(3, cases[i].code, V_GP, 0);
        EQ(trap.eip, cases[i].code + cases[i].skip);
        if (cases[i].code == i_hlt)
            continue; /* ring 0 would wait */
        RUNS(0, cases[i].code);
    }
    EQ(gdt_limit, GDT_BYTES - 1);
    RUNS(3, rdtsc_it);
    EQ(trap.ecx & 1 ? 1 : 0, 0); /* time does not run backwards */
    write_cr4(read_cr4() | CR4_TSD);
    FAULTS(3, rdtsc_it, V_GP, 0);
    RUNS(0, rdtsc_it);
    write_cr4(read_cr4() & ~CR4_TSD);
    if (!is_tcg())
        FAULTS(3, rdpmc_it, V_GP, 0);
    RUNS(3, cpuid_it);
    if (!is_tcg()) { /* QEMU takes all of these */
        FAULTS(0, bad_cr0, V_GP, 0);
        FAULTS(0, bad_cr0_nw, V_GP, 0);
        FAULTS(0, bad_msr, V_GP, 0);
        FAULTS(0, bad_cr4, V_GP, 0);
    }
}
