/*
 * ENTER at all 32 nesting levels, with 16-bit and 32-bit operands on 16-bit and 32-bit stacks, and
 * LEAVE; the write that ENTER makes sure of at its new ESP, and faults in the middle. SDM volume
 * 2A, "ENTER-Make Stack Frame for Procedure Parameters", "LEAVE". Expected: memory, ESP and EBP as
 * the manual's pseudocode gives them, written out below; on a fault ESP and EBP as before.
 */
#include "guest.h"

enum { HOLE = 0x30000000, LOW = 0x7c00, HIGH = 0xc100 }; /* of the stack, what frames touch */
static u8 code[4096] __attribute__((aligned(4096)));     /* alone on its page */
static u8 mirror[65536];
#define stack ((u8 *)((SCRATCH + 0x1ffff) & ~0xffffu)) /* 64 KiB, so aligned */

static u32 load(const u8 *p, u32 bytes) {
    return bytes == 4 ? *(const u32 *)p : *(const u16 *)p;
}
static void store(u8 *p, u32 bytes, u32 value) {
    memcpy(p, &value, bytes);
}

/* The pseudocode, on `mirror`. */
static void model(u32 op, u32 mask, u32 level, u32 size, u32 *esp, u32 *ebp) {
    u32 sp = (*esp - op) & mask, bp = *ebp;
    store(mirror + (sp & 0xffff), op, bp);
    u32 frame = (*esp & ~mask) | sp;
    for (u32 i = 1; i < level; i++) {
        bp -= op;
        sp = (sp - op) & mask;
        store(mirror + (sp & 0xffff), op, load(mirror + (bp & mask & 0xffff), op));
    }
    if (level) {
        sp = (sp - op) & mask;
        store(mirror + (sp & 0xffff), op, frame);
    }
    sp = (sp - size) & mask;
    *esp = (*esp & ~mask) | sp;
    *ebp = op == 4 ? frame : (*ebp & 0xffff0000u) | (frame & 0xffff);
}

static void emit(u32 op, u32 level, u32 size, bool leave) {
    u8 *p = code;
    *p++ = 0x89; /* MOV ESP,ESI: all of ESP, also on a 16-bit stack */
    *p++ = 0xf4;
    if (op == 2)
        *p++ = 0x66;
    *p++ = 0xc8;
    *p++ = (u8)size;
    *p++ = (u8)(size >> 8);
    *p++ = (u8)level;
    static const u8 see[] = {0x89, 0xe0, 0x89, 0xe9}; /* MOV EAX,ESP; MOV ECX,EBP */
    memcpy(p, see, sizeof see);
    p += sizeof see;
    if (leave) {
        if (op == 2)
            *p++ = 0x66;
        *p++ = 0xc9;
    }
    *p++ = 0xcd;
    *p = V_DONE;
}

static void one(u32 op, bool stack32, u16 selector, u32 level, u32 size) {
    /* The outer frame stands above; upper halves count only on a 32-bit stack. */
    u32 base = selector == USER_DATA ? (u32)stack : 0, mask = stack32 ? 0xffffffff : 0xffff;
    u32 esp = base + 0x8000, ebp = base + 0xc000, sp = esp, bp = ebp;
    for (u32 i = LOW; i < HIGH; i += 4)
        *(u32 *)(stack + i) = i * 0x01000193u + 0x811c9dc5u;
    memcpy(mirror + LOW, stack + LOW, HIGH - LOW);
    model(op, mask, level, size, &sp, &bp);
    emit(op, level, size, true);
    reset_run(3);
    in.ss = selector;
    in.esi = in.esp = esp;
    in.ebp = ebp;
    RUNS(3, code);
    EQ(trap.eax & mask, sp & mask);
    EQ(trap.ecx, bp);
    for (u32 i = LOW; i < HIGH; i += 4)
        if (*(u32 *)(stack + i) != *(u32 *)(mirror + i))
            EQ(*(u32 *)(stack + i), *(u32 *)(mirror + i));
    /* LEAVE has undone it; with 16-bit operands on a 32-bit stack ESP came from EBP as a whole. */
    EQ(trap.esp & mask, esp & mask);
    EQ(trap.ebp, ebp);
}

static void fault(u32 level, u32 size, u32 esp, u32 ebp, u16 ss, u32 vector, u32 cr2) {
    emit(4, level, size, false);
    reset_run(3);
    in.ss = ss;
    in.esi = in.esp = esp;
    in.ebp = ebp;
    EQ(run(3, code), vector);
    EQ(trap.eip, code + 2);
    EQ(trap.esp, esp);
    EQ(trap.ebp, ebp);
    if (vector == V_PF)
        EQ(trap_cr2, cr2);
    else
        EQ(trap.error, 0);
}

static void faults(void) {
    paging_prepare();
    pte(HOLE);
    paging_on();
    map(HOLE + 0x1000, SCRATCH, PT_P | PT_W | PT_U);
    map(HOLE + 0x2000, SCRATCH + 0x1000, PT_P | PT_W | PT_U);
    map(HOLE + 0x4000, SCRATCH + 0x2000, PT_P | PT_U); /* read-only */
    u32 top = HOLE + 0x2000;
    /* The first push, a copied pointer, the last push, and the probe at the new ESP. */
    fault(0, 0, HOLE + 0x1000, top, USER_DATA, V_PF, HOLE + 0xffc);
    fault(3, 0, top, HOLE + 0x1004, USER_DATA, V_PF, HOLE + 0xffc);
    fault(2, 0, HOLE + 0x1008, top, USER_DATA, V_PF, HOLE + 0xffc);
    if (!is_tcg()) { /* QEMU does not probe */
        fault(0, 0x1000, top, top, USER_DATA, V_PF, HOLE + 0xffc);
        EQ(trap.error, 6);
        fault(0, 0x800, HOLE + 0x5004, top, USER_DATA, V_PF, HOLE + 0x5000);
        fault(5, 0x3000, HOLE + 0x2ff8, top, USER_DATA, V_PF, HOLE - 0x20);
        u16 small = gdt_set(FREE_GDT, descriptor(SCRATCH, 0x7fff, 0xf2, 4));
        fault(0, 0, 2, 0x4000, small, V_SS, 0);
        fault(0, 0x4001, 0x4000, 0x4000, small, V_SS, 0);
        fault(2, 0, 0x4000, 0x8002, small, V_SS, 0);
        gdt_set(FREE_GDT, 0);
    }
    paging_off();
}

void test(void) {
    u16 stack16 = gdt_set(FREE_GDT, descriptor((u32)stack, 0xffff, 0xf2, 0));
    u16 based32 = gdt_set(FREE_GDT + 1, descriptor((u32)stack, 0xffff, 0xf2, 4));
    for (u32 level = 0; level < 64; level = level < 33 ? level + 1 : level + 15)
        for (u32 op = 2; op <= 4; op += 2) {
            one(op, true, USER_DATA, level & 31, level * 9);
            one(op, false, stack16, level & 31, level * 9);
            one(op, true, based32, level & 31, 0x2000);
        }
    faults();
    gdt_set(FREE_GDT, 0);
    gdt_set(FREE_GDT + 1, 0);
}
