/*
 * callout_access.c: the memory accesses of adapted sites, through the software TLB. What it cannot
 * do at once (a fault, a device, a page with code) leaves to the emulator with the state as it was.
 * Compiled for general registers only, like callout.c.
 */
#include "bt/bt_internal.h"

static u32 load_bytes(const u8 *p, unsigned bytes) {
    return bytes == 4 ? load32(p) : bytes == 2 ? load16(p) : *p;
}

static void store_bytes(u8 *p, u32 value, unsigned bytes) {
    if (bytes == 4)
        store32(p, value);
    else if (bytes == 2)
        store16(p, (u16)value);
    else
        *p = (u8)value;
}

static u32 sign_extend(u32 value, unsigned bytes) {
    return bytes == 1 ? (u32)(i8)value : bytes == 2 ? (u32)(i16)value : value;
}

/* 8-bit registers 4-7 are the high bytes of the first four. */
static u32 read_register(const struct cpu *cpu, unsigned reg, unsigned bytes) {
    if (bytes == 1 && reg >= 4)
        return (u32)cpu->gpr[reg - 4] >> 8;
    return (u32)cpu->gpr[reg];
}

static void write_register(struct cpu *cpu, unsigned reg, unsigned bytes, u32 value) {
    if (bytes == 4)
        cpu->gpr[reg] = value;
    else if (bytes == 2)
        cpu->gpr[reg] = ((u32)cpu->gpr[reg] & ~0xffffu) | (value & 0xffff);
    else if (reg >= 4)
        cpu->gpr[reg - 4] = ((u32)cpu->gpr[reg - 4] & ~0xff00u) | ((value & 0xff) << 8);
    else
        cpu->gpr[reg] = ((u32)cpu->gpr[reg] & ~0xffu) | (value & 0xff);
}

u64 co_access(struct cpu *cpu, u32 eip) {
    const struct bt_hot *hot = bt_hot(cpu);
    u32 a = hot->arg1;
    unsigned bytes = ACCESS_BYTES(a), kind = ACCESS_KIND(a);
    bool store = kind == ACCESS_STORE || kind == ACCESS_STORE_IMM;
    u8 *p = mmu_host_pointer(cpu, hot->arg0, bytes, store ? MMU_WRITE : MMU_READ);
    if (!p)
        return co_leave_emulate_inside(cpu, eip);
    if (bt_code_writes_pending(cpu)) /* accessed and dirty bits, in tables that lie among code */
        return co_leave_again_inside(cpu, eip);
    if (store) {
        u32 value = kind == ACCESS_STORE_IMM
                        ? hot->arg2
                        : read_register(cpu, ACCESS_REG(a), ACCESS_REG_BYTES(a));
        store_bytes(p, value, bytes);
        return 0;
    }
    u32 value = load_bytes(p, bytes);
    if (kind == ACCESS_LOAD_SIGNED)
        value = sign_extend(value, bytes);
    write_register(cpu, ACCESS_REG(a), ACCESS_REG_BYTES(a), value);
    return 0;
}

/* Elements of `unit` bytes that fit before both pages end, at most `want`. */
static u32 elements_in_page(u32 lin, u32 unit, u32 want) {
    return MIN(want, (PAGE_BYTES - (lin & PAGE_OFFSET_MASK)) / unit);
}

static void move_elements(u8 *dst, const u8 *src, u32 unit, u64 count) {
    if (unit == 4)
        __asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(count)::"memory");
    else if (unit == 2)
        __asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(count)::"memory");
    else
        __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(count)::"memory");
}

static void store_elements(u8 *dst, u32 value, u32 unit, u64 count) {
    if (unit == 4)
        __asm__ volatile("rep stosl" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
    else if (unit == 2)
        __asm__ volatile("rep stosw" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
    else
        __asm__ volatile("rep stosb" : "+D"(dst), "+c"(count) : "a"(value) : "memory");
}

/* One stretch inside the current pages. Returns elements done, 0 if it takes the emulator. */
static u32 string_stretch(struct cpu *cpu, u32 a, u32 want) {
    u32 unit = STRING_BYTES(a), edi = (u32)cpu->gpr[R_EDI], esi = (u32)cpu->gpr[R_ESI];
    u32 n = elements_in_page(edi, unit, want);
    if (!(a & STRING_STOS))
        n = elements_in_page(esi, unit, n);
    if (n == 0)
        return 0;
    u8 *dst = mmu_host_pointer(cpu, edi, n * unit, MMU_WRITE);
    if (!dst || bt_code_writes_pending(cpu))
        return 0;
    if (a & STRING_STOS) {
        store_elements(dst, (u32)cpu->gpr[R_EAX], unit, n);
    } else {
        const u8 *src = mmu_host_pointer(cpu, esi, n * unit, MMU_READ);
        if (!src || bt_code_writes_pending(cpu))
            return 0;
        move_elements(dst, src, unit, n);
        cpu->gpr[R_ESI] = esi + n * unit;
    }
    cpu->gpr[R_EDI] = edi + n * unit;
    return n;
}

u64 co_string(struct cpu *cpu, u32 eip) {
    const struct bt_hot *hot = bt_hot(cpu);
    u32 a = hot->arg1;
    u32 left = a & STRING_REP ? (u32)cpu->gpr[R_ECX] : 1;
    while (left) {
        u32 n = string_stretch(cpu, a, left);
        if (n == 0)
            return bt_code_writes_pending(cpu) ? co_leave_again_inside(cpu, eip)
                                               : co_leave_emulate_inside(cpu, eip);
        left -= n;
        if (a & STRING_REP)
            cpu->gpr[R_ECX] = left;
        if (left && hot->kick)
            return co_leave_kick_inside(cpu, eip); /* a REP resumes where it stood */
    }
    return 0;
}
