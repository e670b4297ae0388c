/*
 * descriptors.c: everything the CPU looks up by itself when privilege changes: two GDTs, the LDT of
 * direct execution, the TSS with its stacks, the IDT, and the MSRs of SYSCALL and SYSENTER.
 *
 * Direct execution runs under a GDT that holds no 64-bit segment of DPL 3 and no call gate, so that
 * a far transfer cannot leave 32-bit mode. The monitor's two segments are in both tables because
 * traps and SYSCALL load them; TR and LDTR stay loaded from the monitor's table.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

enum { GDT_ENTRIES = 8192 };

/* Segment descriptors, accessed bit set so that the CPU never writes to them. SDM volume 3,
 * sections 3.4.5 "Segment Descriptors" and 5.2.1 "Code Segment Descriptor in 64-bit Mode". */
#define CODE64(dpl) (0x00af9b000000ffffull | (u64)(dpl) << 45)
#define DATA(dpl) (0x00cf93000000ffffull | (u64)(dpl) << 45)
enum { TYPE_LDT = 2, TYPE_TSS = 9, TYPE_INTERRUPT_GATE = 14, SYSTEM_PRESENT = 0x80 };

/* SDM volume 3, section 7.7 "Task Management in 64-bit Mode". */
struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7]; /* ist[0] is IST1 */
    u64 reserved2;
    u16 reserved3;
    u16 io_map_base;
} __attribute__((packed));
_Static_assert(sizeof(struct tss) == 104, "the CPU's format");

/* SDM volume 3, section 6.14.1 "64-Bit Mode IDT". */
struct gate {
    u16 offset_low;
    u16 selector;
    u8 ist;
    u8 type;
    u16 offset_middle;
    u32 offset_high;
    u32 reserved;
};
_Static_assert(sizeof(struct gate) == 16, "the CPU's format");

enum {
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
enum { EFER_SCE = 1 };

struct table_pointer {
    u16 limit;
    u64 base;
} __attribute__((packed));

extern u8 metal_boot_stack_guard[]; /* start.S */

static u64 monitor_gdt[GDT_ENTRIES] __attribute__((aligned(PAGE_BYTES)));
static u64 direct_gdt[GDT_ENTRIES] __attribute__((aligned(PAGE_BYTES)));
static u64 direct_ldt[GDT_ENTRIES] __attribute__((aligned(PAGE_BYTES)));
static struct gate idt[256] __attribute__((aligned(PAGE_BYTES)));
static struct tss tss __attribute__((aligned(128))); /* inside one page */

/* SDM volume 3, section 6.14.5 "Interrupt Stack Table". The hook of guest traps runs on the trap
 * stack and may do a lot; a report prints. */
#define STACKS(X)                                                                                  \
    X(METAL_STACK_TRAP, trap_stack, "trap", 131072)                                                \
    X(METAL_STACK_NMI, nmi_stack, "NMI", 4096)                                                     \
    X(METAL_STACK_DEBUG, debug_stack, "#DB", 65536)                                                \
    X(METAL_STACK_DOUBLE_FAULT, double_fault_stack, "#DF", 65536)                                  \
    X(METAL_STACK_MACHINE_CHECK, machine_check_stack, "#MC", 65536)                                \
    X(METAL_STACK_DEVICE, device_stack, "device interrupt", 65536)
#define X(number, array, name, bytes)                                                              \
    static u8 array[PAGE_BYTES + bytes] __attribute__((aligned(PAGE_BYTES)));
STACKS(X)
#undef X
static const struct {
    u8 *guard; /* the page below */
    u64 bytes;
    const char *name;
} stacks[METAL_STACKS] = {
#define X(number, array, text, size) [number] = {array, size, text},
    STACKS(X)
#undef X
};

/* RSP0; trap.S reads it. */
u64 metal_trap_top;
/* What metal_compat_syscall puts into its frame. */
u64 metal_compat_cs = METAL_CS3, metal_compat_ss = METAL_SS3;
/* Where the vectors that only INT n reaches go. */
const void *metal_int_entry = metal_trap_common;

/* A 16-byte system descriptor. SDM volume 3, section 7.2.3 "TSS Descriptor in 64-bit mode". */
static void set_system_descriptor(u64 *entry, unsigned type, const void *p, u32 limit) {
    u64 base = (u64)(uintptr_t)p;
    entry[0] = (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)(type | SYSTEM_PRESENT) << 40 |
               (u64)(limit >> 16 & 0xf) << 48 | (base >> 24 & 0xff) << 56;
    entry[1] = base >> 32;
}

static void fill_gdts(void) {
    monitor_gdt[METAL_CS0 / 8] = direct_gdt[METAL_CS0 / 8] = CODE64(0);
    monitor_gdt[METAL_SS0 / 8] = direct_gdt[METAL_SS0 / 8] = DATA(0);
    monitor_gdt[METAL_CS1 / 8] = CODE64(1);
    monitor_gdt[METAL_SS1 / 8] = DATA(1);
    monitor_gdt[METAL_CS3 / 8] = CODE64(3);
    monitor_gdt[METAL_SS3 / 8] = DATA(3);
    /* The limit ends the TSS before its I/O map: ports are IOPL's to grant, and IOPL stays 0. */
    set_system_descriptor(&monitor_gdt[METAL_TSS / 8], TYPE_TSS, &tss, sizeof tss - 1);
    set_system_descriptor(&monitor_gdt[METAL_LDT / 8], TYPE_LDT, direct_ldt, sizeof direct_ldt - 1);
}

static void fill_tss(void) {
    for (unsigned i = 0; i < METAL_STACKS; i++) {
        u64 top = (u64)(uintptr_t)stacks[i].guard + PAGE_BYTES + stacks[i].bytes;
        if (i == METAL_STACK_TRAP)
            tss.rsp[0] = metal_trap_top = top;
        else
            tss.ist[i - 1] = top;
    }
    tss.io_map_base = sizeof tss;
}

static unsigned stack_of_vector(unsigned vector) {
    switch (vector) {
    case 1:
        return METAL_STACK_DEBUG;
    case 2:
        return METAL_STACK_NMI;
    case 8:
        return METAL_STACK_DOUBLE_FAULT;
    case 18:
        return METAL_STACK_MACHINE_CHECK;
    default:
        return vector >= METAL_VECTOR_PIC ? METAL_STACK_DEVICE : METAL_STACK_TRAP;
    }
}

static void fill_idt(void) {
    for (unsigned v = 0; v < 256; v++) {
        u64 stub = (u64)(uintptr_t)metal_trap_stubs[v];
        idt[v] = (struct gate){.offset_low = (u16)stub,
                               .offset_middle = (u16)(stub >> 16),
                               .offset_high = (u32)(stub >> 32),
                               .selector = METAL_CS0,
                               .ist = (u8)stack_of_vector(v),
                               .type = SYSTEM_PRESENT | TYPE_INTERRUPT_GATE};
    }
}

void metal_allow_int_n(bool on) {
    for (unsigned v = 0; v < METAL_VECTOR_PIC; v++)
        if (v == 3 || v == 4 || v >= 0x20)
            idt[v].type = SYSTEM_PRESENT | TYPE_INTERRUPT_GATE | (on ? 3 << 5 : 0);
}

void metal_set_int_entry(const void *entry) {
    metal_int_entry = entry ? entry : metal_trap_common;
}

static void load_gdt(const u64 *table) {
    struct table_pointer pointer = {GDT_ENTRIES * 8 - 1, (u64)(uintptr_t)table};
    __asm__ volatile("lgdt %0" : : "m"(pointer));
}

void metal_use_direct_gdt(bool direct) {
    load_gdt(direct ? direct_gdt : monitor_gdt);
}

/* SS holds what SYSCALL puts there. The others are null, so that an IRETQ to an outer ring finds
 * nothing to take away; FS and GS keep their bases, which a null selector destroys on some CPUs. */
static void load_tables(void) {
    u64 fs_base = metal_rdmsr(MSR_FS_BASE), gs_base = metal_rdmsr(MSR_GS_BASE);
    load_gdt(monitor_gdt);
    __asm__ volatile("pushq %0\n\t"
                     "leaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "lretq\n"
                     "1:\n\t"
                     "movl %1, %%ss\n\t"
                     "movl %2, %%ds\n\t"
                     "movl %2, %%es\n\t"
                     "movl %2, %%fs\n\t"
                     "movl %2, %%gs"
                     :
                     : "i"(METAL_CS0), "r"(METAL_SS0), "r"(0)
                     : "rax", "memory");
    metal_wrmsr(MSR_FS_BASE, fs_base);
    metal_wrmsr(MSR_GS_BASE, gs_base);
    __asm__ volatile("ltr %w0" : : "r"(METAL_TSS));
    __asm__ volatile("lldt %w0" : : "r"(METAL_LDT));
    struct table_pointer pointer = {sizeof idt - 1, (u64)(uintptr_t)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* SYSCALL: SDM volume 3, section 5.8.8 "Fast System Calls in 64-Bit Mode"; SYSENTER: section 5.8.7
 * "Performing Fast Calls to System Procedures with the SYSENTER and SYSEXIT Instructions". */

/* TF IF DF IOPL NT RF VM AC. Arithmetic flags arrive as they were. */
#define SYSCALL_CLEARS 0x77700u

void metal_set_syscall_entry(const void *entry) {
    metal_wrmsr(MSR_LSTAR, (u64)(uintptr_t)(entry ? entry : metal_syscall_refused));
}

/* Without an entry SYSENTER raises #GP(0), which the guest-trap hook sees: section 5.8.7. */
void metal_set_sysenter_entry(const void *entry) {
    metal_wrmsr(MSR_SYSENTER_ESP, metal_trap_top);
    metal_wrmsr(MSR_SYSENTER_EIP, (u64)(uintptr_t)entry);
    metal_wrmsr(MSR_SYSENTER_CS, entry ? METAL_CS0 : 0);
}

void metal_set_compat_selectors(u16 cs, u16 ss) {
    metal_compat_cs = cs;
    metal_compat_ss = ss;
}

static void enable_fast_calls(void) {
    metal_wrmsr(MSR_STAR, (u64)METAL_CS0 << 32); /* SYSRET is not used */
    metal_set_syscall_entry(NULL);
    metal_wrmsr(MSR_CSTAR, (u64)(uintptr_t)metal_compat_syscall);
    metal_wrmsr(MSR_SFMASK, SYSCALL_CLEARS);
    metal_wrmsr(MSR_EFER, metal_rdmsr(MSR_EFER) | EFER_SCE);
    metal_set_sysenter_entry(NULL);
}

void metal_descriptors_init(void) {
    fill_gdts();
    fill_tss();
    fill_idt();
    load_tables();
    enable_fast_calls();
}

void metal_stacks_guard(void) {
    for (unsigned i = 0; i < METAL_STACKS; i++)
        metal_page_remove(stacks[i].guard);
}

const char *metal_stack_overrun(u64 address) {
    for (unsigned i = 0; i < METAL_STACKS; i++)
        if (address - (u64)(uintptr_t)stacks[i].guard < PAGE_BYTES)
            return stacks[i].name;
    if (address - (u64)(uintptr_t)metal_boot_stack_guard < PAGE_BYTES)
        return "monitor's";
    return NULL;
}

u64 metal_trap_stack_top(void) {
    return metal_trap_top;
}

u64 *metal_direct_gdt(void) {
    return direct_gdt;
}

u64 *metal_direct_ldt(void) {
    return direct_ldt;
}

/* CPUID.(EAX=7,ECX=0):ECX[2]; SDM volume 2, "CPUID". */
bool metal_cpu_has_umip(void) {
    return metal_cpuid(0, 0).eax >= 7 && metal_cpuid(7, 0).ecx & BIT(2);
}
