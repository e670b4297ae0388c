/*
 * metal.h: the bare machine under the monitor, in the metal substrate only. What the hosted
 * substrate asks of Linux, this folder asks of the hardware: memory, page tables, traps, time,
 * a console, power. It knows nothing of guests.
 *
 * Who runs where:
 *   ring 0  the monitor, this folder included, at METAL_IMAGE and METAL_DIRECT
 *   ring 1  translated code of the guest's kernel, in 64-bit mode
 *   ring 3  translated code of applications in 64-bit mode, or the applications themselves in
 *           compatibility mode (direct execution)
 *
 * Linear addresses 0 to 4 GiB belong to the guest; everything of the monitor lies in the upper
 * half, which every page table shares. See docs/ring1.md.
 */
#ifndef RINGFOLD_METAL_METAL_H
#define RINGFOLD_METAL_METAL_H

#include "base/base.h"
#include "metal/metal_contract.h"

/* ---- What the boot loader said (boot.c) ---- */

#define METAL_MAX_MODULES 32
struct metal_module {
    const char *name; /* its command line or, without one, "module N" */
    const u8 *data;   /* in the direct map; never freed */
    u64 bytes;
};
struct metal_boot {
    const char *loader;       /* "multiboot", "multiboot2", "pvh" */
    const char *command_line; /* without the image's own name; never NULL */
    unsigned modules;
    struct metal_module module[METAL_MAX_MODULES];
    u64 memory_bytes; /* usable RAM */
    u64 rsdp;         /* physical address of the ACPI root pointer, 0 if the loader did not tell */
};
const struct metal_boot *metal_boot(void);

/* ---- Physical memory (memory.c) ---- */

/* Contiguous physical pages, not cleared, at a multiple of align_pages (a power of two). 0 when
 * there are none. */
u64 metal_pages_alloc(u64 pages, u64 align_pages);
void metal_pages_free(u64 phys, u64 pages);
/* Pages still free; the largest contiguous block of them. */
u64 metal_pages_left(void);
u64 metal_pages_largest(void);
static inline void *metal_phys_pointer(u64 phys) {
    return (void *)(METAL_DIRECT + phys);
}
/* Of a pointer into the direct map, the image or the shared area. */
u64 metal_pointer_phys(const void *p);

/* ---- Page tables (paging.c) ---- */

/* Hardware page-table entry bits: SDM volume 3, section 4.5 "4-Level Paging". */
enum { METAL_PTE_P = 1, METAL_PTE_W = 2, METAL_PTE_U = 4, METAL_PTE_A = 32, METAL_PTE_D = 64 };
#define METAL_PTE_NX (1ull << 63)
#define METAL_PTE_ADDRESS 0x000ffffffffff000ull

/* A root (PML4) with the monitor's upper half and an empty lower half; its physical address, or 0
 * without memory. The lower half is the caller's to fill. */
u64 metal_root_create(void);
/* Gives the root page back, not what the caller hung below it. */
void metal_root_destroy(u64 root);
/* Loads CR3 if it differs (flushes the TLB: no PCIDs, no global pages). */
void metal_root_load(u64 root);
u64 metal_root_current(void);
/* The root of the monitor alone, in force at start. */
u64 metal_root_monitor(void);
/* Drops every TLB entry of the current root; one page's entry. */
void metal_tlb_flush(void);
static inline void metal_tlb_flush_page(u64 linear) {
    __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

/* The shared area: memory that translated code reaches. Every page of it is mapped twice, at
 * METAL_SHARED for rings 0 and 1 (U=0) and METAL_RING3_DELTA above for ring 3 (U=1), with the same
 * rights. Returns zeroed page-aligned memory at METAL_SHARED, NULL without room. Not freed: the
 * monitor takes it once. */
enum metal_rights { METAL_NONE, METAL_READ, METAL_READ_WRITE, METAL_READ_EXECUTE };
void *metal_shared_alloc(u64 bytes, enum metal_rights rights);
/* Changes the rights of pages of the shared area, in both places. Interrupt safe. */
void metal_shared_protect(void *p, u64 bytes, enum metal_rights rights);

/* ---- The C library's floor (libc.c) ---- */

/* Points the FS base at the block that musl and stack protectors expect there: to be called after
 * anything that loaded FS. */
void metal_load_tls(void);

/* ---- Traps (trap.c, trap.S) ---- */

/* Everything of the interrupted code, in the order trap.S pushes it. */
struct metal_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error;
    u64 rip, cs, rflags, rsp, ss;
};
/* Handles a trap out of guest code (CPL 1 or 3): an exception, or INT n through a gate of DPL 3.
 * Returning resumes at what the frame then says, which may be ring 0. cr2 was read before anything
 * could change it. Interrupts are off. False: not explicable, the monitor ends with a report. */
typedef bool (*metal_guest_trap)(void *opaque, struct metal_frame *frame, u64 cr2);
void metal_set_guest_trap(metal_guest_trap handler, void *opaque);
/* Called at every device interrupt, with interrupts off, on its own stack, whatever ran: guest code
 * (then `frame` may be changed) or the monitor (then frame is NULL). Must be short. */
typedef void (*metal_interrupt)(void *opaque, struct metal_frame *frame);
void metal_set_interrupt(metal_interrupt handler, void *opaque);
/* Lets INT n of ring 3 arrive as vector n (gate DPL 3) for vectors 3, 4 and all from 20h on but the
 * machine's own; otherwise it arrives as #GP. */
void metal_allow_int_n(bool on);
/* An exception in ring 0 at an instruction in [from, to) goes on at `landing` instead of ending the
 * monitor: registers as they were, but RAX = vector << 32 | error code, and on the same stack. Up
 * to 16 of them. A fault of the IRETQ that ends a trap needs none: it is told to the guest-trap
 * hook, with the frame that could not be loaded. */
void metal_add_fixup(const void *from, const void *to, const void *landing);
/* Where SYSCALL out of 64-bit code goes (ring 0, interrupts off, RSP still the guest's), and
 * SYSENTER out of compatibility mode (on RSP0's stack). */
void metal_set_syscall_entry(const void *entry);
void metal_set_sysenter_entry(const void *entry);
/* Where vectors 32 to METAL_VECTOR_PIC go, which nothing but INT n reaches (interrupts off, on
 * RSP0's stack: vector, error code 0, the processor's frame; all registers as they were). Jumping
 * to metal_trap_common from there is what happens without an entry. */
void metal_set_int_entry(const void *entry);
extern const u8 metal_trap_common[];
/* SYSCALL out of compatibility mode (AMD) reaches the guest-trap hook as #UD at its instruction. CS
 * and SS are lost then: the frame shows these. ECX is lost, too. */
void metal_set_compat_selectors(u16 cs, u16 ss);
/* RSP that the next trap out of rings 1 to 3 starts from; its frame is FRAME_BYTES below. */
u64 metal_trap_stack_top(void);

/* Segment descriptors for direct execution: the table that LGDT loads before an application runs
 * untranslated. Only entries that are the caller's to set; METAL_CS0 in it is the monitor's.
 * 8192 entries each, page aligned. */
u64 *metal_direct_gdt(void);
u64 *metal_direct_ldt(void);
/* LGDT: the table for direct execution, or the monitor's own. Segment registers keep what they
 * hold. */
void metal_use_direct_gdt(bool direct);
/* The CPU's features that matter here. */
bool metal_cpu_has_umip(void);

/* ---- Time (time.c) ---- */

/* Frequency of the TSC, measured at start or told by CPUID. */
u64 metal_tsc_hz(void);
/* Seconds since 1970 by the machine's clock at start. */
i64 metal_epoch_s(void);
/* One timer interrupt when that many ns have passed (at least 1 us; the longest wait the hardware
 * can may be shorter: then it comes early). */
void metal_timer_arm(u64 ns);
void metal_timer_disarm(void);
/* Sleeps until an interrupt unless *stop is set; no wake-up is lost. */
void metal_wait(const volatile u32 *stop);

/* ---- Console (console.c): the first serial port, 115200 8N1 ---- */

void metal_console_write(const void *data, size_t bytes);
/* What has arrived, without waiting. Input raises an interrupt. */
size_t metal_console_read(void *data, size_t max_bytes);

/* ---- The end (power.c, panic.c) ---- */

/* Where a carrier's isa-debug-exit stands: metal_power_off writes the status there first. */
void metal_set_exit_port(u16 port);
/* Powers the machine off: exit port, ACPI, known hypervisors' ports, at last a halt. Through the
 * exit port odd statuses up to 255 arrive as they are, even ones as the next greater; 0 goes by way
 * of ACPI, which carriers report as 0. */
_Noreturn void metal_power_off(int status);
/* One clear line, then metal_power_off(1). */
_Noreturn void metal_fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Return addresses from a frame pointer on, by frame pointers, as long as they stay in the image.
 */
unsigned metal_backtrace(u64 rbp, u64 *pc, unsigned max);
/* "name+0x12" of an address in the image, or "". */
void metal_symbol(u64 pc, char *text, size_t bytes);

/* ---- Entry (main_metal.c in monitor) ---- */

/* Called on a stack of 256 KiB with interrupts on, paging, traps, heap, console and clock ready. */
int metal_main(void);

#endif
