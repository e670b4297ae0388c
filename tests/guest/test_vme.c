/*
 * Virtual-8086 mode extensions (CR4.VME): with IOPL below 3, VIF stands in for IF in CLI, STI,
 * PUSHF, POPF, INT n and IRET; INT n goes by the software interrupt redirection bit map. SDM volume
 * 3, chapter 20 "8086 Emulation", sections 20.3.2 and 20.3.3, table 20-2 (methods 1 to 6); volume
 * 2, "CLI", "STI", "PUSHF", "POPF", "INT n", "IRET".
 * Expected: the real IF never changes; PUSHF and INT n push VIF as IF and IOPL 3; what would let in
 * a pending virtual interrupt (VIP), turn on single-stepping or has 32-bit operands is #GP(0).
 * QEMU: TCG takes CR4.VME and does not act on it
 */
#include "guest.h"

/* IOPL 0 unless an argument says otherwise; the map lies from byte 68h of the TSS on. */
enum {
    CODE_SEGMENT = 0x1000,
    DATA_SEGMENT = 0x2000,
    STACK_SEGMENT = 0x3000,
    HANDLER_SEGMENT = 0x4000,
    HANDLER_OFFSET = 0x20,
    MAP_OFFSET = 0x68
};
CODE(enter_vme,
     "push $0x2000; push $0x2000; push $0x2000; push $0x2000; push $0x3000; push $0x100; push %edx;"
     "push $0x1000; push $0; mov $0x1234,%eax; iret");

static u8 *at(u32 segment, u32 offset) {
    return (u8 *)(segment * 16 + offset);
}
static u16 word(u32 offset) {
    return *(volatile u16 *)at(STACK_SEGMENT, offset);
}

/* Runs 16-bit code with these flags; every handler of the 8086 program is HLT, which is #GP(0). */
static u32 v86(const u8 *code, u32 bytes, u32 flags) {
    memset(at(STACK_SEGMENT, 0), 0xcc, 0x200);
    memcpy(at(CODE_SEGMENT, 0), code, bytes);
    *at(HANDLER_SEGMENT, HANDLER_OFFSET) = 0xf4;
    reset_run(0);
    in.edx = F_FIXED | F_VM | flags;
    u32 vector = run(0, enter_vme);
    EQ(trap.eflags & F_VM, F_VM);
    return vector;
}
#define V86(flags, ...) v86((const u8[]){__VA_ARGS__}, sizeof(const u8[]){__VA_ARGS__}, flags)
/* The same ends in #GP(0) at this CS:IP. */
#define STOPS(segment, ip, flags, ...)                                                             \
    do {                                                                                           \
        EQ(V86(flags, __VA_ARGS__), V_GP);                                                         \
        EQ(trap.error, 0);                                                                         \
        EQ(trap.cs & 0xffff, segment);                                                             \
        EQ(trap.eip, ip);                                                                          \
    } while (0)
#define HLT 0xf4 /* privileged: the end of a program */
#define POP_BX 0x5b
#define PUSHF 0x9c
#define POPF 0x9d
#define CLI 0xfa
#define STI 0xfb
#define O32 0x66 /* 32-bit operands */

static void cli_sti_pushf(void) {
    /* cli; pushf; pop bx; sti; pushf; pop cx; hlt */
    STOPS(CODE_SEGMENT, 6, F_IF | F_VIF, CLI, PUSHF, POP_BX, STI, PUSHF, 0x59, HLT);
    EQ(trap.ebx & 0xffff, F_FIXED | F_IOPL);
    EQ(trap.ecx & 0xffff, F_FIXED | F_IOPL | F_IF);
    EQ(trap.eflags & (F_IF | F_IOPL | F_VIF | F_VIP), F_IF | F_VIF);
    STOPS(CODE_SEGMENT, 1, F_IF | F_VIF, CLI, HLT);
    EQ(trap.eflags & (F_IF | F_VIF), F_IF);
    STOPS(CODE_SEGMENT, 1, 0, STI, HLT); /* not the real IF */
    EQ(trap.eflags & (F_IF | F_VIF), F_VIF);
    STOPS(CODE_SEGMENT, 0, F_VIP, STI); /* one waits */
    STOPS(CODE_SEGMENT, 1, F_VIP, CLI, HLT);
    EQ(trap.eflags & (F_VIF | F_VIP), F_VIP);
    STOPS(CODE_SEGMENT, 0, F_VIF, O32, PUSHF);
    EQ(trap.esp, 0x100);
}

static void popf(void) {
    /* mov ax,IMAGE; push ax; popf; hlt */
#define POPF_OF(image) 0xb8, (image)&0xff, (image) >> 8, 0x50, POPF, HLT
    STOPS(CODE_SEGMENT, 5, F_VIF | F_IF, POPF_OF(F_CF | F_NT));
    EQ(trap.eflags & (F_ARITH | F_NT | F_VIF | F_IF | F_IOPL), F_CF | F_NT | F_IF);
    STOPS(CODE_SEGMENT, 5, 0, POPF_OF(F_IF | F_IOPL));
    EQ(trap.eflags & (F_VIF | F_IF | F_IOPL), F_VIF);
    STOPS(CODE_SEGMENT, 5, F_VIP, POPF_OF(F_ZF)); /* VIP stays */
    EQ(trap.eflags & (F_ZF | F_VIF | F_VIP), F_ZF | F_VIP);
    STOPS(CODE_SEGMENT, 4, F_VIP, POPF_OF(F_IF));
    EQ(trap.esp, 0xfe); /* nothing was popped */
    STOPS(CODE_SEGMENT, 4, 0, POPF_OF(F_TF));
    STOPS(CODE_SEGMENT, 0, 0, O32, POPF);
}

/* An IRET of the 8086 program: mov ax,FLAGS; push ax; push 4000h; push HANDLER; iret */
static void iret(void) {
#define IRET_OF(image)                                                                             \
    0xb8, (image)&0xff, (image) >> 8, 0x50, 0xb8, 0, HANDLER_SEGMENT >> 8, 0x50, 0xb8,             \
        HANDLER_OFFSET, 0, 0x50, 0xcf
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_IF, IRET_OF(F_IF | F_ZF | F_IOPL));
    EQ(trap.eflags & (F_IF | F_VIF | F_ZF | F_IOPL), F_IF | F_VIF | F_ZF);
    EQ(trap.esp, 0x100);
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_VIF, IRET_OF(F_CF));
    EQ(trap.eflags & (F_VIF | F_IF | F_CF), F_CF);
    STOPS(CODE_SEGMENT, 12, F_VIP, IRET_OF(F_IF));
    EQ(trap.esp, 0xfa);
    STOPS(CODE_SEGMENT, 12, 0, IRET_OF(F_TF));
    STOPS(CODE_SEGMENT, 0, 0, O32, 0xcf);
}

static void redirect(u32 vector, bool to_protected_mode) {
    u8 *map = (u8 *)&tss + MAP_OFFSET;
    map[vector / 8] &= (u8) ~(1 << vector % 8);
    map[vector / 8] |= (u8)(to_protected_mode << vector % 8);
}
#define INT(n) 0xcd, (n)

static void int_n(void) {
    /* Method 6: to the program's own handler, VIF in the place of IF. */
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_IF | F_VIF | F_CF, INT(0x21));
    EQ(trap.esp, 0xfa);
    EQ(word(0xfa), 2);
    EQ(word(0xfc), CODE_SEGMENT);
    EQ(word(0xfe), F_FIXED | F_CF | F_IOPL | F_IF);
    EQ(trap.eflags & (F_IF | F_VIF | F_CF | F_IOPL), F_IF | F_CF);
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_IF | F_NT | F_VIP, INT(0x21));
    EQ(word(0xfe), F_FIXED | F_NT | F_IOPL);
    EQ(trap.eflags & (F_IF | F_NT | F_VIF | F_VIP), F_IF | F_NT | F_VIP);
    /* INT n of the vectors of exceptions, too; INT3 and exceptions themselves never. */
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, 0, INT(3));
    EQ(V86(0, 0xcc), V_BP);
    EQ(V86(0, 0x0f, 0x0b), V_UD);
    /* Method 5: with IOPL 3 it is the real IF, and the flags are pushed as they are. */
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_IOPL | F_IF | F_VIF, INT(0x21));
    EQ(word(0xfe), F_FIXED | F_IOPL | F_IF);
    EQ(trap.eflags & (F_IOPL | F_IF | F_VIF), F_IOPL | F_VIF);
    /* Method 3: #GP(0), with IOPL below 3. */
    redirect(0x80, true);
    STOPS(CODE_SEGMENT, 0, F_VIF, INT(0x80));
    EQ(trap.eflags & F_VIF, F_VIF);
    /* Method 4: through the IDT, with IOPL 3; the gate's DPL is checked. */
    EQ(V86(F_IOPL, INT(0x80)), V_DONE);
    EQ(trap.eip, 2);
    redirect(0x21, true);
    EQ(V86(F_IOPL, INT(0x21)), V_GP);
    EQ(trap.error, 0x21 * 8 + 2);
    redirect(0x21, false);
    /* Single steps: TF is cleared on the way, and no #DB comes before the handler. */
    STOPS(HANDLER_SEGMENT, HANDLER_OFFSET, F_TF, INT(0x21));
    EQ(trap.eflags & F_TF, 0);
    EQ(word(0xfe), F_FIXED | F_TF | F_IOPL);
    /* No map: #GP(0). */
    tss.iomap = 0x10;
    STOPS(CODE_SEGMENT, 0, F_VIF, INT(0x21));
    tss.iomap = 0xffff;
    STOPS(CODE_SEGMENT, 0, F_VIF, INT(0x21));
    tss.iomap = MAP_OFFSET + 32;
}

/* A virtual interrupt waits and the program is ready: #GP(0) before its next instruction. */
static void pending(void) {
    STOPS(CODE_SEGMENT, 0, F_VIF | F_VIP, 0x90, HLT);
    EQ(trap.eflags & (F_VIF | F_VIP), F_VIF | F_VIP);
    STOPS(CODE_SEGMENT, 1, F_VIF | F_VIP | F_IOPL, 0x90, HLT); /* IOPL 3: nobody looks */
}

/* Methods 1 and 2, and VIF as any bit. */
static void without_vme(void) {
    write_cr4(read_cr4() & ~CR4_VME);
    STOPS(CODE_SEGMENT, 0, F_VIF, INT(0x21));
    STOPS(CODE_SEGMENT, 0, F_VIF, CLI);
    STOPS(CODE_SEGMENT, 0, F_VIF, PUSHF);
    STOPS(CODE_SEGMENT, 1, F_VIF | F_VIP, 0x90, STI);
    EQ(V86(F_IOPL, INT(0x80)), V_DONE);
    write_cr4(read_cr4() | CR4_VME);
}

void test(void) {
    if (!(cpuid(1).edx & 2))
        skip("no VME");
    u16 iomap = tss.iomap;
    u8 saved[32];
    memcpy(saved, (u8 *)&tss + MAP_OFFSET, sizeof saved);
    memset((u8 *)&tss + MAP_OFFSET, 0, sizeof saved);
    tss.iomap = MAP_OFFSET + 32;
    for (u32 v = 0; v < 256; v++)
        ((volatile u32 *)0)[v] = HANDLER_SEGMENT << 16 | HANDLER_OFFSET;
    write_cr4(read_cr4() | CR4_VME);
    cli_sti_pushf();
    popf();
    iret();
    int_n();
    pending();
    without_vme();
    write_cr4(read_cr4() & ~CR4_VME);
    tss.iomap = iomap;
    memcpy((u8 *)&tss + MAP_OFFSET, saved, sizeof saved);
}
