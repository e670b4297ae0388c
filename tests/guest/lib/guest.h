/*
 * guest.h: what every guest test is made of.
 *
 * A test is a freestanding 32-bit Multiboot kernel: one C file (with assembly where it matters)
 * plus this library. It defines test(), which the library calls one or more times (kernel command
 * line `rounds=N`), so that a translator meets its code cold, warm and hot; it must leave
 * everything as it found it. Results go to COM1 in words and to isa-debug-exit (port F4h) as a
 * number; the host sees the status (value << 1) | 1:
 *
 *     33 passed    35 failed    37 a trap nobody expected    39 skipped
 *
 * The central tool is run(): it executes a piece of code at ring 0 or 3 until something traps, and
 * leaves the whole machine state of that moment in `trap`. Code that ends well ends in DONE.
 */
#ifndef RINGFOLD_TESTS_GUEST_H
#define RINGFOLD_TESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

enum { KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, USER_CODE = 0x1b, USER_DATA = 0x23, TSS_SEL = 0x28 };
enum {
    FREE_GDT = 8,
    GDT_ENTRIES = 64,
    GDT_BYTES = GDT_ENTRIES * 8
}; /* tests may fill GDT entries FREE_GDT and up */

enum {
    V_DE,
    V_DB,
    V_NMI,
    V_BP,
    V_OF,
    V_BR,
    V_UD,
    V_NM,
    V_DF,
    V_TS = 10,
    V_NP,
    V_SS,
    V_GP,
    V_PF,
    V_MF = 16,
    V_AC,
    V_DONE = 0x80
};

enum {
    F_CF = 1,
    F_FIXED = 2,
    F_PF = 4,
    F_AF = 0x10,
    F_ZF = 0x40,
    F_SF = 0x80,
    F_TF = 0x100,
    F_IF = 0x200,
    F_DF = 0x400,
    F_OF = 0x800,
    F_IOPL = 0x3000,
    F_NT = 0x4000,
    F_RF = 0x10000,
    F_VM = 0x20000,
    F_AC = 0x40000,
    F_VIF = 0x80000,
    F_VIP = 0x100000,
    F_ID = 0x200000,
    F_ARITH = 0x8d5
};
#define CR0_PE 1u
#define CR0_MP 2u
#define CR0_EM 4u
#define CR0_TS 8u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_PG 0x80000000u
#define CR4_VME 1u
#define CR4_PVI 2u
#define CR4_TSD 4u
#define CR4_PSE 0x10u
#define CR4_MCE 0x40u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define CR4_PCE 0x100u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u

/* The frame that start.S builds; esp and ss exist only when the trap came from ring 3. */
struct frame {
    u32 gs, fs, es, ds;
    u32 edi, esi, ebp, esp_unused, ebx, edx, ecx, eax;
    u32 vector, error, eip, cs, eflags, esp, ss;
};

/* The state at the trap that ended the last run(); esp and ss are right for ring 0 too. */
extern struct frame trap;
extern u32 trap_cr2;

/* What run() loads. reset_run() gives zeros, flat segments of the ring, flags 2, user stack. */
struct run_in {
    u32 eax, ecx, edx, ebx, ebp, esi, edi, esp, eflags, cs, ss, ds, es, fs, gs;
};
extern struct run_in in;
void reset_run(u32 ring);

/* Runs code at ring 0 or 3 from `in` until a trap; returns the vector and resets `in` to defaults.
 * Interrupts (vectors 20h-2Fh) do not end a run. */
u32 run(u32 ring, const void *code);

/* A trap is first offered to the hook; true resumes at the (perhaps changed) frame by IRET. */
extern bool (*trap_hook)(struct frame *f);
/* Called for each hardware interrupt (line 0-15), which the library acknowledges. */
extern void (*irq_hook)(u32 line, struct frame *f);

/* Defines a piece of code with a name that C can take the address of. */
#define CODE(name, text)                                                                           \
    __asm__(".pushsection .text\n.globl " #name "\n" #name ":\n" text "\n.popsection");            \
    extern const u8 name[]
#define DONE "\n int $0x80\n"

/* ---- Checks ---- */
void check(bool ok, const char *file, int line, const char *what);
void check_eq(u32 actual, u32 expected, const char *file, int line, const char *what);
#define CHECK(condition) check(condition, __FILE__, __LINE__, #condition)
#define EQ(actual, expected) check_eq((u32)(actual), (u32)(expected), __FILE__, __LINE__, #actual)
/* A run that must end in a vector, with an error code and with EIP at a label. */
#define FAULTS(ring, code, v, err)                                                                 \
    do {                                                                                           \
        EQ(run(ring, code), v);                                                                    \
        EQ(trap.error, err);                                                                       \
    } while (0)
#define RUNS(ring, code) EQ(run(ring, code), V_DONE)

/* ---- Console and exit ---- */
void put_char(char c);
void print(const char *text);
void print_hex(u32 value);
void print_dec(u32 value);
_Noreturn void finish(u32 value);
_Noreturn void skip(const char *why);
const char *command_line(void);
/* Value of `name=N` on the command line, or fallback. */
u32 option(const char *name, u32 fallback);
u32 memory_bytes(void);
/* True under QEMU's TCG, which checks no segment limits and has other known gaps. */
bool is_tcg(void);
/* True when x87 and SSE instructions run on TCG: there, and where it carries the monitor. */
bool fpu_is_tcg(void);

void test(void);

/* ---- Machine ---- */
static inline void outb(u16 port, u8 value) {
    __asm__ volatile("outb %0,%1" ::"a"(value), "Nd"(port));
}
static inline void outw(u16 port, u16 value) {
    __asm__ volatile("outw %0,%1" ::"a"(value), "Nd"(port));
}
static inline void outl(u16 port, u32 value) {
    __asm__ volatile("outl %0,%1" ::"a"(value), "Nd"(port));
}
static inline u8 inb(u16 port) {
    u8 value;
    __asm__ volatile("inb %1,%0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline u32 read_cr0(void) {
    u32 v;
    __asm__ volatile("mov %%cr0,%0" : "=r"(v));
    return v;
}
static inline u32 read_cr2(void) {
    u32 v;
    __asm__ volatile("mov %%cr2,%0" : "=r"(v));
    return v;
}
static inline u32 read_cr3(void) {
    u32 v;
    __asm__ volatile("mov %%cr3,%0" : "=r"(v));
    return v;
}
static inline u32 read_cr4(void) {
    u32 v;
    __asm__ volatile("mov %%cr4,%0" : "=r"(v));
    return v;
}
static inline void write_cr0(u32 v) {
    __asm__ volatile("mov %0,%%cr0" ::"r"(v) : "memory");
}
static inline void write_cr3(u32 v) {
    __asm__ volatile("mov %0,%%cr3" ::"r"(v) : "memory");
}
static inline void write_cr4(u32 v) {
    __asm__ volatile("mov %0,%%cr4" ::"r"(v) : "memory");
}
static inline void invlpg(u32 v) {
    __asm__ volatile("invlpg (%0)" ::"r"(v) : "memory");
}
static inline void wrmsr(u32 msr, u64 v) {
    __asm__ volatile("wrmsr" ::"c"(msr), "A"(v));
}
static inline u64 rdmsr(u32 msr) {
    u64 v;
    __asm__ volatile("rdmsr" : "=A"(v) : "c"(msr));
    return v;
}
struct cpuid {
    u32 eax, ebx, ecx, edx;
};
struct cpuid cpuid(u32 leaf);

struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
        edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trace, iomap;
    u8 bitmap[8192 + 1];
};
extern struct tss tss;
extern u64 gdt[512], idt[256]; /* the GDT's limit is that of GDT_ENTRIES */

/* Descriptor: access is the byte at bits 40-47, flags the nibble at bits 52-55 (8 G, 4 D/B). */
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
/* Writes GDT entry index and returns its selector with RPL = DPL. */
u16 gdt_set(u32 index, u64 value);
/* Gate type: 8Eh interrupt, 8Fh trap, with DPL in bits 5-6 (EEh: DPL 3). */
u64 gate(u32 offset, u16 selector, u8 type);
void idt_set(u32 vector, u64 value);
/* The library's own gate of that vector. */
u64 default_gate(u32 vector);
void load_idt_limit(u16 limit);
extern u8 trap_stubs[];

/* ---- Paging: two-level, identity by default ---- */
enum { PT_P = 1, PT_W = 2, PT_U = 4, PT_A = 0x20, PT_D = 0x40, PT_PS = 0x80, PT_G = 0x100 };
#define PT_NX 0x8000000000000000ull
/* Fresh tables: identity for the first 32 MiB, present, writable, user; 4 KiB pages. */
void paging_prepare(void);
void paging_on(void);  /* CR3, then CR0.PG; WP as it is */
void paging_off(void); /* also clears WP, PSE, PGE, PAE */
u32 *pte(u32 address); /* the entry; its table is made when missing */
u32 *pde(u32 address);
void map(u32 address, u32 physical, u32 flags); /* one 4 KiB page, with INVLPG */
extern u32 page_directory[1024];
/* The same with three levels. */
void pae_prepare(void);
void pae_on(void);
u64 *pae_pte(u32 address);
extern u64 pae_pointers[4];

/* Memory that tests may use freely: 1 MiB, page aligned, and a user stack. */
extern u8 scratch[1 << 20];
extern u8 user_stack[16384];
#define USER_STACK_TOP ((u32)user_stack + sizeof user_stack)
#define SCRATCH ((u32)scratch)

/* ---- Interrupts ---- */
void pic_init(u16 mask); /* vectors 20h-2Fh, mask bit set = line off */
void pit_start(u32 hz);  /* channel 0, mode 2 */
void pit_stop(void);

void *memset(void *to, int value, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

#endif
