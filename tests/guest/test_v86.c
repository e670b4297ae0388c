/*
 * Virtual-8086 mode: entry by IRET from ring 0, 16-bit segments, sensitive instructions by IOPL,
 * interrupts out to ring 0 with the data segments pushed, and back. SDM volume 3B, chapter 21
 * "8086 Emulation".
 * Expected: linear = segment * 16 + offset; CLI, STI, PUSHF, POPF, INT n, IRET raise #GP(0) with
 * IOPL 0 and run with IOPL 3; on the way out DS, ES, FS, GS are zero and the frame has the
 * real-mode ones.
 */
#include "guest.h"

enum { CODE_SEGMENT = 0x1000, DATA_SEGMENT = 0x2000, STACK_SEGMENT = 0x3000 };
u32 v86_frame[16], v86_edi, v86_regs[4];
static u32 ended, error;
extern u32 run_kernel_esp;
CODE(enter_v86,
     "push $0x2000; push $0x2000; push $0x2000; push $0x2000; push $0x3000; push $0x100; push %edx;"
     "push $0x1000; push $0; mov $0x1234,%eax; iret");

static u32 v86(const u8 *code, u32 bytes, u32 iopl) {
    memcpy((void *)(CODE_SEGMENT * 16), code, bytes);
    reset_run(0);
    in.edx = F_FIXED | F_VM | iopl;
    u32 vector = run(0, enter_v86);
    if (trap.eflags & F_VM) {
        ended = trap.eip & 0xffff;
        error = trap.error;
        EQ(trap.cs & 0xffff, CODE_SEGMENT);
    }
    return vector;
}
#define V86(iopl, ...) v86((const u8[]){__VA_ARGS__}, sizeof(const u8[]){__VA_ARGS__}, iopl)

void test(void) {
    *(volatile u16 *)(DATA_SEGMENT * 16 + 0x10) = 0xbeef;
    /* mov bx,[10h]; mov [12h],ax; push ax; pop cx; mov dx,ds; int 80h needs IOPL 3 */
    EQ(V86(F_IOPL, 0x8b, 0x1e, 0x10, 0, 0xa3, 0x12, 0, 0x50, 0x59, 0x8c, 0xda, 0xcd, 0x80), V_DONE);
    EQ(trap.eflags & F_VM, F_VM);
    EQ(ended, 13);
    EQ(trap.ebx & 0xffff, 0xbeef);
    EQ(*(volatile u16 *)(DATA_SEGMENT * 16 + 0x12), 0x1234);
    EQ(trap.ecx & 0xffff, 0x1234);
    EQ(trap.edx & 0xffff, DATA_SEGMENT);
    EQ(trap.esp & 0xffff, 0x100);
    EQ(trap.ss & 0xffff, STACK_SEGMENT);
    EQ(trap.ds, 0);
    EQ(trap.gs, 0);
    static const u8 sensitive[][2] = {{0xfa, 0}, {0xfb, 0},    {0x9c, 0},
                                      {0x9d, 0}, {0xcd, 0x80}, {0xcf, 0}};
    for (u32 i = 0; i < sizeof sensitive / sizeof *sensitive; i++) {
        EQ(v86(sensitive[i], 2, 0), V_GP);
        EQ(error, 0);
        EQ(ended, 0);
    }
    /* cli; pushf; pop ax; sti; pushf; pop bx; cli; int 80h */
    EQ(V86(F_IOPL, 0xfa, 0x9c, 0x58, 0xfb, 0x9c, 0x5b, 0xfa, 0xcd, 0x80), V_DONE);
    EQ(trap.eax & F_IF, 0);
    EQ(trap.ebx & F_IF, F_IF);
    EQ(V86(F_IOPL, 0xf4), V_GP);             /* hlt */
    EQ(V86(F_IOPL, 0x0f, 0x20, 0xc0), V_GP); /* mov eax,cr0 */
    EQ(V86(F_IOPL, 0xcc), V_BP);             /* int3: DPL 3 */
    EQ(V86(F_IOPL, 0x0f, 0x00, 0xc0), V_UD); /* sldt is not recognised */
    EQ(V86(F_IOPL, 0xe4, 0x61), V_GP);       /* in: by the bitmap, whatever IOPL */
    /* far jump to 1000:0007 and int 80h there; then mov ax,3000h; mov es,ax; mov es:[0],ax */
    EQ(V86(F_IOPL, 0xea, 7, 0, 0, 0x10, 0x0f, 0x0b, 0xb8, 0, 0x30, 0x8e, 0xc0, 0x26, 0xa3, 0, 0,
           0xcd, 0x80),
       V_DONE);
    EQ(*(volatile u16 *)(STACK_SEGMENT * 16), 0x3000);
    EQ(ended, 18);
}
