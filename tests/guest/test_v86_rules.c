/*
 * Virtual-8086 mode, instruction by instruction and IOPL by IOPL: what traps to the monitor, what
 * does not, what is not recognised; gates that V86 code may and may not use; limits of 64 KiB; the
 * I/O bitmap, which counts whatever IOPL says. SDM volume 3B, sections 20.2.7 "Sensitive
 * Instructions", 20.2.8 "Virtual-8086 Mode I/O", 20.3.1 "Class 1-Hardware Interrupt and Exception
 * Handling", table 20-2 (method 1 and 5 without VME).
 * Expected: the vector, error code and IP per case; flags and stack as each instruction leaves
 * them.
 */
#include "guest.h"

enum { CODE_SEGMENT = 0x1000, STACK_SEGMENT = 0x3000 };
CODE(enter_v86,
     "push $0x2000; push $0x2000; push $0x2000; push $0x2000; push $0x3000; push $0x100; "
     "push %edx; push $0x1000; push $0; mov $0x1234,%eax; mov %ebx,%edx; iret");
static u8 *const at = (u8 *)(CODE_SEGMENT * 16);
static u16 *const top = (u16 *)(STACK_SEGMENT * 16 + 0x100);

static u32 v86(u32 iopl, const u8 *bytes, u32 count) {
    memset(at, 0x90, 64);
    memcpy(at, bytes, count);
    reset_run(0);
    in.edx = F_FIXED | F_VM | iopl << 12;
    in.ebx = 0x61;
    u32 vector = run(0, enter_v86);
    EQ(trap.eflags & (F_VM | F_IOPL), F_VM | iopl << 12);
    return vector;
}
#define V86(iopl, ...) v86(iopl, (const u8[]){__VA_ARGS__}, sizeof(const u8[]){__VA_ARGS__})
#define REFUSED(iopl, ...)                                                                         \
    do {                                                                                           \
        EQ(V86(iopl, __VA_ARGS__), V_GP);                                                          \
        EQ(trap.error, 0);                                                                         \
        EQ(trap.eip, 0);                                                                           \
        EQ(trap.esp & 0xffff, 0x100);                                                              \
    } while (0)

/* CLI STI PUSHF POPF INT n IRET: only with IOPL 3. INT 80h ends a run that went well. */
static void sensitive(void) {
    for (u32 iopl = 0; iopl < 3; iopl++) {
        REFUSED(iopl, 0xfa);
        REFUSED(iopl, 0xfb);
        REFUSED(iopl, 0x9c);
        REFUSED(iopl, 0x66, 0x9c);
        REFUSED(iopl, 0x9d);
        REFUSED(iopl, 0x66, 0x9d);
        REFUSED(iopl, 0xcd, 0x80);
        REFUSED(iopl, 0xcd, 0x03); /* the long form of INT3 is INT n */
        REFUSED(iopl, 0xcf);
        REFUSED(iopl, 0x66, 0xcf);
        EQ(V86(iopl, 0xcc), V_BP); /* INT3, INTO and INT1 do not ask */
        EQ(trap.eip, 1);
        EQ(V86(iopl, 0xb0, 0x7f, 0xfe, 0xc0, 0xce), V_OF);
        EQ(trap.eip, 5);
    }
    EQ(V86(3, 0xcd, 0x03), V_BP);
    EQ(trap.eip, 2);
    EQ(V86(3, 0xcd, 0x81), V_GP); /* gate of DPL 0 */
    EQ(trap.error, 0x81 * 8 + 2);
    /* pushf; pushfd; cli; pushf; sti; pushf; cli */
    EQ(V86(3, 0x9c, 0x66, 0x9c, 0xfa, 0x9c, 0xfb, 0x9c, 0xfa, 0xcd, 0x80), V_DONE);
    EQ(top[-1], 0x3002);
    EQ(top[-3], 0x3002); /* PUSHFD: VM and RF read as zero */
    EQ(top[-2], 0);
    EQ(top[-4], 0x3002);
    EQ(top[-5], 0x3202);
    /* push 4fd7h (IOPL 0, NT); popf; pushf; pop bx; push 2; popf */
    EQ(V86(3, 0x68, 0xd7, 0x4e, 0x9d, 0x9c, 0x5b, 0x6a, 0x02, 0x9d, 0xcd, 0x80), V_DONE);
    EQ(trap.ebx & 0xffff, 0x7ed7);
    EQ(trap.eip, 11);
    /* pushd 003f0000h | 2: POPFD takes ID and AC, not VM, RF, VIF, VIP */
    EQ(V86(3, 0x66, 0x68, 2, 0, 0x3f, 0, 0x66, 0x9d, 0x66, 0x9c, 0x66, 0x5b, 0x66, 0x6a, 2, 0x66,
           0x9d, 0xcd, 0x80),
       V_DONE);
    EQ(trap.ebx, F_FIXED | F_IOPL | F_AC | F_ID);
    /* push flags, cs, ip; iret: IOPL stays */
    EQ(V86(3, 0x68, 0xd7, 0x0e, 0x0e, 0x6a, 0x09, 0xcf, 0xf4, 0xf4, 0x9c, 0x5b, 0x6a, 0x02, 0x9d,
           0xcd, 0x80),
       V_DONE);
    EQ(trap.ebx & 0xffff, 0x3ed7);
    EQ(trap.eip, 16);
    if (is_tcg())
        return;
    /* IRETD to an offset above FFFFh */
    EQ(V86(3, 0x66, 0x6a, 2, 0x66, 0x68, 0, 0x10, 0, 0, 0x66, 0x68, 0, 0, 1, 0, 0x66, 0xcf), V_GP);
    EQ(trap.error, 0);
    EQ(trap.eip, 15);
}

static void privileged(void) {
    static const u8 protected_only[][4] = {
        {0x0f, 0x00, 0xc0}, {0x0f, 0x00, 0xc8}, {0x0f, 0x00, 0xd0},
        {0x0f, 0x00, 0xd8}, {0x0f, 0x00, 0xe0}, {0x0f, 0x00, 0xe8},
        {0x0f, 0x02, 0xc0}, {0x0f, 0x03, 0xc0}, {0x63, 0xc0},
    };
    for (u32 i = 0; i < sizeof protected_only / sizeof *protected_only; i++) {
        EQ(v86(3, protected_only[i], 3), V_UD);
        EQ(trap.eip, 0);
    }
    static const u8 ring0_only[][4] = {
        {0xf4},
        {0x0f, 0x20, 0xc0},
        {0x0f, 0x22, 0xc0},
        {0x0f, 0x23, 0xc0},
        {0x0f, 0x06},
        {0x0f, 0x01, 0x17},
        {0x0f, 0x01, 0x1f},
        {0x0f, 0x01, 0xf0},
        {0x0f, 0x01, 0x3f},
        {0x0f, 0x08},
        {0x0f, 0x09},
        {0x0f, 0x30},
        {0x0f, 0x32},
    };
    for (u32 i = 0; i < sizeof ring0_only / sizeof *ring0_only; i++) {
        EQ(v86(3, ring0_only[i], 4), V_GP);
        EQ(trap.error, 0);
        EQ(trap.eip, 0);
    }
    /* SMSW and SGDT are free: smsw bx; sgdt [10h] */
    EQ(V86(3, 0x0f, 0x01, 0xe3, 0x0f, 0x01, 0x06, 0x10, 0, 0xcd, 0x80), V_DONE);
    EQ(trap.ebx & 1, 1);
    EQ(*(volatile u16 *)0x20010, GDT_BYTES - 1);
}

/* Interrupts leave V86 mode for ring 0 only. */
static void gates(void) {
    u64 saved = idt[0x80];
    static const u8 access[3] = {0xba, 0xda, 0xfa};
    for (u32 i = 0; i < 3; i++) {
        gdt_set(FREE_GDT, descriptor(0, 0xfffff, access[i], 12));
        idt_set(0x82, gate((u32)trap_stubs, FREE_GDT << 3, 0xee));
        EQ(V86(3, 0xcd, 0x82), V_GP);
        EQ(trap.error, FREE_GDT << 3);
        EQ(trap.eip, 0);
    }
    gdt_set(FREE_GDT, descriptor(0, 0xfffff, 0x9e, 12)); /* conforming would keep ring 3 */
    EQ(V86(3, 0xcd, 0x82), V_GP);
    EQ(trap.error, FREE_GDT << 3);
    idt_set(0x82, default_gate(0x82));
    EQ(idt[0x80] == saved, true);
    gdt_set(FREE_GDT, 0);
}

static void limits(void) {
    /* mov bx,ffffh; mov ax,[bx] */
    EQ(V86(0, 0xbb, 0xff, 0xff, 0x8b, 0x07), V_GP);
    EQ(trap.eip, 3);
    EQ(V86(0, 0xbb, 0xff, 0xff, 0x8a, 0x07, 0xcc), V_BP);
    /* mov bp,ffffh; mov ax,[bp+0]: #SS */
    EQ(V86(0, 0xbd, 0xff, 0xff, 0x8b, 0x46, 0), V_SS);
    EQ(trap.error, 0);
    /* 32-bit addresses beyond 64 KiB: mov ebx,10000h; mov al,[ebx] */
    EQ(V86(0, 0x66, 0xbb, 0, 0, 1, 0, 0x67, 0x8a, 0x03), V_GP);
    /* mov sp,1; push ax: half beyond the top; mov sp,0; push ax wraps */
    EQ(V86(0, 0xbc, 1, 0, 0x50), V_SS);
    EQ(V86(0, 0xbc, 0, 0, 0x50, 0xcc), V_BP);
    EQ(trap.esp & 0xffff, 0xfffe);
    EQ(*(volatile u16 *)(STACK_SEGMENT * 16 + 0xfffe), 0x1234);
    /* jmp far 32 to an offset above FFFFh; jmp near ebx */
    EQ(V86(0, 0x66, 0xea, 0, 0, 1, 0, 0, 0x10), V_GP);
    EQ(trap.eip, 0);
    EQ(V86(0, 0x66, 0xbb, 0, 0, 1, 0, 0x66, 0xff, 0xe3), V_GP);
    EQ(trap.eip, 6);
}

static void io(void) {
    memset(tss.bitmap, 0xff, sizeof tss.bitmap);
    tss.iomap = offsetof(struct tss, bitmap);
    for (u32 iopl = 0; iopl < 4; iopl++)
        REFUSED(iopl, 0xe4, 0x61);
    tss.bitmap[0x61 / 8] &= ~2;
    for (u32 iopl = 0; iopl < 4; iopl++) {
        EQ(V86(iopl, 0xe4, 0x61, 0xcc), V_BP);
        REFUSED(iopl, 0xe5, 0x61); /* a word takes port 62h, too */
        REFUSED(iopl, 0xe6, 0x62);
        EQ(V86(iopl, 0xbf, 0, 0, 0xba, 0x61, 0, 0x6c, 0xcc), V_BP); /* insb */
        EQ(trap.edi & 0xffff, 1);
    }
    tss.iomap = sizeof tss;
    memset(tss.bitmap, 0, sizeof tss.bitmap);
}

void test(void) {
    sensitive();
    privileged();
    if (!is_tcg()) {
        gates();
        limits();
    }
    io();
}
