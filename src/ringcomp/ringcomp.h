/*
 * ringcomp.h: everything about privilege. Virtual CPL, segments and their cached descriptors,
 * gates and interrupt delivery, IRET, task switches, SYSENTER/SYSEXIT, control and debug registers,
 * MSRs and CPUID.
 *
 * All functions act on the architectural state in struct cpu. Those returning bool return false
 * with cpu->fault filled and the architectural state unchanged, unless said otherwise; eip is never
 * advanced by a failing function. "next_eip" is the address of the following instruction. The CPU
 * must have its mmu, model and bus. Accessed bits set in descriptors and page tables before a later
 * check failed stay set, as on hardware.
 *
 * The folder is compiled without floating point and vectors and calls no libc, so translated code
 * may call it with the guest's x87 and SSE state live in the host's registers.
 */
#ifndef RINGFOLD_RINGCOMP_RINGCOMP_H
#define RINGFOLD_RINGCOMP_RINGCOMP_H

#include "base/base.h"
#include "base/cpu.h"

/* ---- Segments (segment.c) ---- */

/* Loads ES, SS, DS, FS or GS as MOV/POP/LES.. do: protected, real and V86 mode. CS is not loaded
 * this way. SDM volume 2, MOV; volume 3, section 5.5 "Privilege Levels". */
bool rc_load_segment(struct cpu *cpu, enum seg seg, u16 selector);
bool rc_lldt(struct cpu *cpu, u16 selector);
bool rc_ltr(struct cpu *cpu, u16 selector);
/* LAR, LSL: *ok is the resulting ZF; value written only if *ok. VERR/VERW: *ok is ZF. They only
 * fault on page faults while reading the tables, and with #UD in real and V86 mode. */
bool rc_lar(struct cpu *cpu, u16 selector, bool *ok, u32 *value);
bool rc_lsl(struct cpu *cpu, u16 selector, bool *ok, u32 *value);
bool rc_verify(struct cpu *cpu, u16 selector, bool for_write, bool *ok);

/* Limit, type and presence check of an access of `bytes` at seg:offset and its linear address.
 * Raises #GP(0), or #SS(0) for SS. Flat segments pass at once. access: MMU_READ/MMU_WRITE bits. */
bool rc_linear(struct cpu *cpu, enum seg seg, u32 offset, unsigned bytes, bool write, u32 *lin);
/* True for a present, writable, expand-up data segment of limit 4 GiB (base may be anything). */
static inline bool rc_segment_is_unlimited(const struct segment *s) {
    u32 mask = ATTR_NULL | ATTR_P | ATTR_S | ATTR_CODE | ATTR_E | ATTR_W;
    return s->limit == UINT32_MAX && (s->attr & mask) == (ATTR_P | ATTR_S | ATTR_W);
}
/* The same with base 0: accesses through it cost and check nothing. */
static inline bool rc_segment_is_flat_data(const struct segment *s) {
    return s->base == 0 && rc_segment_is_unlimited(s);
}
/* A present, readable code segment of base 0 and limit 4 GiB. */
static inline bool rc_segment_is_flat_code(const struct segment *s) {
    u32 code = ATTR_P | ATTR_S | ATTR_CODE | ATTR_R;
    return s->base == 0 && s->limit == UINT32_MAX && (s->attr & (ATTR_NULL | code)) == code;
}
static inline bool rc_segment_is_flat(const struct segment *s) {
    return rc_segment_is_flat_data(s) || rc_segment_is_flat_code(s);
}

/* ---- Far transfers and the stack (transfer.c, iret.c, stack.c) ---- */
/* op_bytes 2 or 4. They set CS, EIP (and SS:ESP, CPL) on success. Through a TSS or task gate, and
 * by IRET with NT, they are task switches: see rc_task_switch() for what failure means then. IRET
 * ends the blocking of NMIs even when it faults. */
bool rc_far_jump(struct cpu *cpu, u16 selector, u32 offset, unsigned op_bytes, u32 next_eip);
bool rc_far_call(struct cpu *cpu, u16 selector, u32 offset, unsigned op_bytes, u32 next_eip);
bool rc_far_return(struct cpu *cpu, unsigned op_bytes, u32 release_bytes);
bool rc_iret(struct cpu *cpu, unsigned op_bytes, u32 next_eip);
bool rc_sysenter(struct cpu *cpu);
bool rc_sysexit(struct cpu *cpu);
/* The stack as PUSH/POP see it (SS.B, limit, page rights); bytes 2 or 4. */
bool rc_push(struct cpu *cpu, u32 value, unsigned bytes);
bool rc_pop(struct cpu *cpu, u32 *value, unsigned bytes);

/* ---- Interrupts and exceptions (deliver.c) ---- */
enum rc_event {
    RC_EXTERNAL,  /* INTR: EXT=1 in error codes */
    RC_EXCEPTION, /* fault or trap raised by an instruction: EXT=1 */
    RC_SOFTWARE, /* INT n: gate DPL checked; in V86 mode IOPL and, with CR4.VME, the TSS's bitmap */
    RC_SOFT_TRAP, /* INT3, INTO: gate DPL checked, no IOPL check */
    RC_ICEBP,     /* INT1 */
    RC_NMI
};
/* One attempt to deliver through IVT or IDT; the return address is return_eip. False: the fault
 * that occurred during delivery. An NMI blocks further ones then, too: SDM volume 3, section 6.7.1
 * "Handling Multiple NMIs". */
bool rc_deliver(struct cpu *cpu, u8 vector, enum rc_event event, bool has_error, u32 error,
                u32 return_eip);
/* Delivers cpu->fault for the instruction at cpu->eip, with double- and triple-fault rules (SDM
 * volume 3, section 6.15, "Interrupt 8-Double Fault Exception"). Sets cpu->shutdown on a triple
 * fault. CR2 is loaded for #PF; RF is set in the pushed image for faults. */
void rc_deliver_fault(struct cpu *cpu);
/* Delivers an external interrupt or NMI at an instruction boundary, with the same rules. Clears
 * halted. */
void rc_deliver_external(struct cpu *cpu, u8 vector);
/* True when an external interrupt may be delivered now: IF set, no shadow. */
static inline bool rc_interruptible(const struct cpu *cpu) {
    return (cpu->eflags & F_IF) && !cpu->shadow;
}

/* INT n and IRET (32-bit) for an engine that makes many in a row (fast.c): like rc_deliver with
 * RC_SOFTWARE and rc_iret, but what a transfer between ring 3 and ring 0 found in the descriptor
 * tables is remembered, and used again while every entry involved still has the same value. The
 * engine calls rc_fast_doubt after anything that may change how the tables' addresses translate
 * (CR3, INVLPG, ...), and rc_fast_forget when the tables or the TSS may be others (LGDT, LIDT, LTR,
 * ...) and before the first call. */
bool rc_fast_int(struct cpu *cpu, u8 vector, u32 next_eip);
bool rc_fast_iret(struct cpu *cpu, u32 next_eip);
void rc_fast_forget(struct cpu *cpu);
void rc_fast_doubt(struct cpu *cpu);
/* Only the remembered part of each. False: nothing was done. True: CS, SS, ESP, EIP, flags and CPL
 * have changed as they should, the data segments and TR have not, and code and stack are flat and
 * 32-bit. IRET wants them to be so before, too, as in all translated code; RF and the arithmetic
 * flags need not be up to date, for it replaces them. */
bool rc_known_int(struct cpu *cpu, u8 vector, u32 next_eip);
bool rc_known_iret(struct cpu *cpu);

/* ---- Flags (flags.c) ---- */
/* POPF image rules by CPL and IOPL: sets eflags, or #GP(0). op_bytes 2 or 4 here and below. */
bool rc_popf(struct cpu *cpu, u32 image, unsigned op_bytes);
/* The image PUSHF stores (RF and VM clear), or #GP(0). */
bool rc_pushf(struct cpu *cpu, u32 *image, unsigned op_bytes);
bool rc_cli(struct cpu *cpu);
bool rc_sti(struct cpu *cpu); /* sets the STI shadow when IF was clear */
/* True where VIF stands in for IF: V86 mode with IOPL below 3 under CR4.VME (for CLI, STI, PUSHF,
 * POPF, INT n and IRET), ring 3 with IOPL below 3 under CR4.PVI (for CLI and STI). SDM volume 3,
 * sections 20.3.2 "Class 2-Maskable Hardware Interrupt Handling in Virtual-8086 Mode Using the
 * Virtual Interrupt Mechanism" and 20.4 "Protected-Mode Virtual Interrupts". */
static inline bool rc_has_virtual_if(const struct cpu *cpu) {
    return cpu->cpl == 3 && (cpu->cr4 & (cpu_v86(cpu) ? CR4_VME : CR4_PVI)) &&
           (cpu->eflags & F_IOPL) != F_IOPL;
}
/* True when the next instruction is a #GP(0), because a virtual interrupt waits (VIP) and the
 * program has just become ready for it (VIF) by IRET or a task switch: the same sections. */
static inline bool rc_virtual_interrupt_due(const struct cpu *cpu) {
    return unlikely((cpu->eflags & (F_VIF | F_VIP)) == (F_VIF | F_VIP)) && rc_has_virtual_if(cpu);
}

/* ---- System registers (sysreg.c, msr.c) ---- */
bool rc_write_cr(struct cpu *cpu, unsigned n, u32 value); /* CR0, CR2, CR3, CR4; others #UD */
bool rc_read_cr(struct cpu *cpu, unsigned n, u32 *value);
bool rc_lmsw(struct cpu *cpu, u16 value);
bool rc_write_dr(struct cpu *cpu, unsigned n, u32 value);
bool rc_read_dr(struct cpu *cpu, unsigned n, u32 *value);
bool rc_rdmsr(struct cpu *cpu); /* ECX -> EDX:EAX; unknown #GP(0) */
bool rc_wrmsr(struct cpu *cpu);
bool rc_rdtsc(struct cpu *cpu); /* EDX:EAX; CR4.TSD */
bool rc_rdpmc(struct cpu *cpu);
void rc_cpuid(struct cpu *cpu); /* from cpu->model; OSXSAVE etc. follow CR4 */
/* Port access rights: IOPL and the TSS bitmap. */
bool rc_check_io(struct cpu *cpu, u16 port, unsigned bytes);
/* #GP(0) unless CPL is 0 (or real mode). */
bool rc_require_cpl0(struct cpu *cpu);

/* ---- Breakpoints and alignment (debug.c) ---- */
/* Kinds of breakpoints, as bits over the R/W fields of DR7. */
enum { RC_DR_EXEC = 1 << 0, RC_DR_WRITE = 1 << 1, RC_DR_IO = 1 << 2, RC_DR_ACCESS = 1 << 3 };
/* DR6's B0 to B3 of the enabled breakpoints of these kinds that overlap [lin, lin + bytes), a range
 * of linear addresses or (RC_DR_IO, under CR4.DE only) ports. SDM volume 3, section 17.2.5
 * "Breakpoint Field Recognition". */
u32 rc_debug_hits(const struct cpu *cpu, u32 lin, unsigned bytes, u32 kinds);
/* True when misaligned accesses of the program raise #AC: SDM volume 3, section 6.15, "Interrupt
 * 17-Alignment Check Exception (#AC)". */
static inline bool rc_alignment_checked(const struct cpu *cpu) {
    return (cpu->eflags & F_AC) && cpu->cpl == 3 && (cpu->cr0 & CR0_AM);
}

/* ---- Tasks (task.c) ---- */
/* SDM volume 3, section 7.3 "Task Switching". A fault found before the commit point leaves the old
 * task; one found after it (bad selectors in the new TSS, a trap bit's #DB, the push of an error
 * code) has switched already: the state is the new task's and the fault belongs to it, so that the
 * caller delivers it at cpu->eip either way. next_eip is saved in the old TSS. */
enum rc_task_cause { RC_TASK_JUMP, RC_TASK_CALL, RC_TASK_IRET, RC_TASK_EVENT };
bool rc_task_switch(struct cpu *cpu, u16 tss_selector, enum rc_task_cause cause, u32 next_eip,
                    bool has_error, u32 error);

#endif
