/*
 * ports.h: the instructions that only ring 0 may execute, one inline function each. For src/metal
 * only.
 */
#ifndef RINGFOLD_METAL_PORTS_H
#define RINGFOLD_METAL_PORTS_H

#include "base/base.h"

static inline u8 in8(u16 port) {
    u8 v;
    __asm__ volatile("inb %w1, %b0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u16 in16(u16 port) {
    u16 v;
    __asm__ volatile("inw %w1, %w0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 in32(u16 port) {
    u32 v;
    __asm__ volatile("inl %w1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline void out8(u16 port, u8 v) {
    __asm__ volatile("outb %b0, %w1" : : "a"(v), "Nd"(port));
}
static inline void out16(u16 port, u16 v) {
    __asm__ volatile("outw %w0, %w1" : : "a"(v), "Nd"(port));
}
static inline void out32(u16 port, u32 v) {
    __asm__ volatile("outl %0, %w1" : : "a"(v), "Nd"(port));
}

static inline u64 metal_rdmsr(u32 msr) {
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return low | (u64)high << 32;
}
static inline void metal_wrmsr(u32 msr, u64 v) {
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline u64 metal_tsc(void) {
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (u64)high << 32;
}

static inline void metal_interrupts_off(void) {
    __asm__ volatile("cli" : : : "memory");
}
static inline void metal_interrupts_on(void) {
    __asm__ volatile("sti" : : : "memory");
}
/* Off, and what to give back: whether they were on. */
static inline bool metal_interrupts_save(void) {
    u64 flags;
    __asm__ volatile("pushfq; popq %0; cli" : "=r"(flags) : : "memory");
    return flags & 0x200;
}
static inline void metal_interrupts_restore(bool on) {
    if (on)
        metal_interrupts_on();
}

struct metal_cpuid {
    u32 eax, ebx, ecx, edx;
};
static inline struct metal_cpuid metal_cpuid(u32 leaf, u32 subleaf) {
    struct metal_cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

#endif
