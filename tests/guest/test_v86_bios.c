/*
 * A V86 monitor as Linux's vm86 and EMM386 are: a real-mode program calls its "BIOS" by INT n in a
 * loop; the monitor at ring 0 takes each #GP, does what the instruction would have done in real
 * mode (INT, IRET, PUSHF, POPF, CLI, STI with a virtual IF, IN and OUT) and reflects interrupts of
 * its own through the interrupt vector table. SDM volume 3B, section 20.3 "Interrupt and Exception
 * Handling in Virtual-8086 Mode", method by the monitor, with IOPL 0.
 * Expected: the program's counts; every sensitive instruction has trapped exactly once.
 */
#include "guest.h"

enum { CODE_SEG = 0x1000, DATA_SEG = 0x2000, STACK_SEG = 0x3000, BIOS_SEG = 0xf00, LOOPS = 50 };
/* CX loops of: INT 10h with AX = CX, PUSHF, CLI, POPF, OUT to the port 80h; then HLT. */
__asm__(
    ".pushsection .rodata\n.code16\n.globl vb_program\nvb_program:\n"
    "mov $0x2000,%ax; mov %ax,%ds; xor %si,%si; sti\n"
    "1: mov %cx,%ax; int $0x10; add %ax,%si; pushf; cli; pushf; pop %bx; popf; pushf; pop %dx;"
    "mov %dx,(2); mov %bx,(4); out %al,$0x80; pushfl; popfl; loop 1b; mov %si,(0); hlt\n"
    ".globl vb_end\nvb_end:\n"
    /* INT 10h: AX = 3 * AX; INT 8: counts at 2000:0010. */
    ".globl vb_bios\nvb_bios: push %bp; mov %sp,%bp; testw $0x200,6(%bp); jz 2f; pushf; pop %bp;"
    "test $0x200,%bp; jnz 2f; mov %ax,%bp; add %ax,%ax; add %bp,%ax; pop %bp; iret\n"
    "2: xor %ax,%ax; pop %bp; iret\n"
    ".globl vb_tick\nvb_tick: push %ds; push %ax; mov $0x2000,%ax; mov %ax,%ds; incw (0x10);"
    "pop %ax; pop %ds; iret\n.globl vb_bios_end\nvb_bios_end:\n.code32\n.popsection");
extern const u8 vb_program[], vb_end[], vb_bios[], vb_tick[], vb_bios_end[];
CODE(enter_v86, "push $0; push $0; push $0; push $0; push $0x3000; push $0x1000; push $0x20002;"
                "push $0x1000; push $0; iret");

static bool virtual_if;
static u32 count[256], ticks;

static u8 *real(u32 segment, u32 offset) {
    return (u8 *)((segment & 0xffff) * 16 + (offset & 0xffff));
}
static void push16(struct frame *f, u32 value) {
    f->esp = (f->esp & ~0xffffu) | ((f->esp - 2) & 0xffff);
    *(u16 *)real(f->ss, f->esp) = (u16)value;
}
static u32 pop16(struct frame *f) {
    u32 value = *(u16 *)real(f->ss, f->esp);
    f->esp = (f->esp & ~0xffffu) | ((f->esp + 2) & 0xffff);
    return value;
}
static u32 flags_image(const struct frame *f) {
    return (f->eflags & 0xcffd & ~(u32)F_IF) | F_FIXED | (virtual_if ? F_IF : 0);
}
static void set_flags(struct frame *f, u32 image) {
    virtual_if = image & F_IF;
    f->eflags = (f->eflags & ~0x4dd5u) | (image & 0x4dd5) | F_FIXED;
}
static void reflect(struct frame *f, u32 vector) {
    const u16 *entry = (const u16 *)real(0, 4 * vector);
    push16(f, flags_image(f));
    push16(f, f->cs);
    push16(f, f->eip);
    virtual_if = false;
    f->eip = entry[0];
    f->cs = entry[1];
}

/* What the trapped instruction would have done; false: not known, the run ends. */
static bool emulate(struct frame *f) {
    u8 *at = real(f->cs, f->eip);
    u32 bytes = 1;
    bool wide = *at == 0x66;
    if (wide)
        at++, f->eip++;
    count[*at]++;
    switch (*at) {
    case 0xcd:
        f->eip += 2;
        reflect(f, at[1]);
        return true;
    case 0xcf:
        f->eip = pop16(f);
        f->cs = pop16(f);
        set_flags(f, pop16(f));
        return true;
    case 0x9c:
        if (wide)
            push16(f, f->eflags >> 16 & 0x24);
        push16(f, flags_image(f));
        break;
    case 0x9d:
        set_flags(f, pop16(f));
        if (wide)
            pop16(f);
        break;
    case 0xfa:
    case 0xfb:
        virtual_if = *at & 1;
        break;
    case 0xe6:
        if (f->eax & 1)
            ticks++, f->eip += 2, reflect(f, 8), bytes = 0;
        else
            bytes = 2;
        break;
    default:
        return false;
    }
    f->eip += bytes;
    return true;
}
static bool on_trap(struct frame *f) {
    if (f->vector != V_GP || !(f->eflags & F_VM))
        return false;
    EQ(f->error, 0);
    EQ(f->ds | f->es | f->fs | f->gs, 0); /* the program's are in the frame above SS */
    return emulate(f);
}

void test(void) {
    static u8 saved[0x600];
    memcpy(saved, (void *)0, sizeof saved);
    memcpy(real(CODE_SEG, 0), vb_program, (u32)(vb_end - vb_program));
    memcpy(real(BIOS_SEG, 0x200), vb_bios, (u32)(vb_bios_end - vb_bios));
    *(volatile u32 *)real(0, 0x40) = BIOS_SEG << 16 | 0x200;
    *(volatile u32 *)real(0, 0x20) = BIOS_SEG << 16 | (0x200 + (u32)(vb_tick - vb_bios));
    memset(real(DATA_SEG, 0), 0, 64);
    memset(count, 0, sizeof count);
    ticks = 0;
    virtual_if = false;
    trap_hook = on_trap;
    memset(tss.bitmap, 0xff, sizeof tss.bitmap);
    reset_run(0);
    in.ecx = LOOPS;
    EQ(run(0, enter_v86), V_GP); /* the HLT */
    EQ(*real(CODE_SEG, trap.eip), 0xf4);
    EQ(trap.eflags & F_VM, F_VM);
    u16 *data = (u16 *)real(DATA_SEG, 0);
    EQ(data[0], 3 * LOOPS * (LOOPS + 1) / 2);
    EQ(data[1] & F_IF, F_IF);
    EQ(data[2] & (F_IF | F_IOPL), 0);
    EQ(data[8], ticks);
    EQ(count[0xcd], LOOPS);
    EQ(count[0xcf], LOOPS + ticks);
    EQ(count[0x9c], 5 * LOOPS); /* one of them in the BIOS, one with operand size 32 */
    EQ(count[0x9d], 2 * LOOPS);
    EQ(count[0xfa], LOOPS);
    EQ(count[0xfb], 1);
    EQ(count[0xe6], LOOPS);
    EQ(trap.esp & 0xffff, 0x1000);
    memset(tss.bitmap, 0, sizeof tss.bitmap);
    memcpy((void *)0, saved, sizeof saved);
    trap_hook = NULL;
}
