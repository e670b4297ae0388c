/*
 * entry_hosted.S: the hosted world switch. bt_enter leaves C for translated code; the callout stub comes
 * back to C on the monitor's stack, either for a light callout (guest x87/SSE state stays in the
 * registers: everything it calls uses general registers only) or for good (bt_exit_common, which
 * saves that state).
 */
#include "bt/bt_contract.h"
#include "bt/stubs.h"

/*
 * Unwind information. A debugger walks from a stub through the translated frames on the return stack
 * to the sentinel, and from there to bt_enter's caller; r15 leads the way in DWARF expressions.
 * Numbers are those of the DWARF 5 standard, section 7.7.1 "Operation Expressions", and section 7.24
 * "Call Frame Information"; 0x7f is DW_OP_breg15.
 */
#define AT_R15(offset) 0x7f, ((offset) & 0x7f) | 0x80, (offset) >> 7 /* 3 bytes, offsets 64..8191 */
#define DEREF 0x06
/* The frame of bt_enter, rsp = HOT_HOST_RSP, all registers saved. */
#define CFI_ENTER_FRAME                                                                            \
        .cfi_def_cfa %rsp, 80;                                                                     \
        .cfi_offset %rbp, -16;                                                                     \
        .cfi_offset %rbx, -24;                                                                     \
        .cfi_offset %r12, -32;                                                                     \
        .cfi_offset %r13, -40;                                                                     \
        .cfi_offset %r14, -48;                                                                     \
        .cfi_offset %r15, -56
/* On the return stack, nothing pushed by the stub; the caller's address is in a register. */
#define CFI_RETURN_STACK(register)                                                                 \
        .cfi_def_cfa %rsp, 0;                                                                      \
        .cfi_register 16, register
/* CFA = base + (HOT_CALLOUT_RETURN == 0) << 3: a callout that was jumped to has no frame of its own,
 * so that the next one is the caller's, at [base]. */
#define CFI_CALLOUT_CFA(bytes, ...)                                                                \
        .cfi_escape 0x0f, bytes + 9, __VA_ARGS__, AT_R15(HOT_CALLOUT_RETURN), DEREF, 0x30, 0x29,   \
                    0x33, 0x24, 0x22
/* Return address at HOT_CALLOUT_RETURN if that is not 0, else at CFA - 8. */
#define CFI_CALLOUT_RA                                                                             \
        .cfi_escape 0x10, 16, 15, AT_R15(HOT_CALLOUT_RETURN), DEREF, 0x28, 5, 0, 0x38, 0x1c, 0x2f, \
                    3, 0, AT_R15(HOT_CALLOUT_RETURN)
#define CFI_CALLOUT_ON_RETURN_STACK CFI_CALLOUT_CFA(2, 0x77, 0); CFI_CALLOUT_RA
#define CFI_CALLOUT_ON_HOST_STACK CFI_CALLOUT_CFA(4, AT_R15(HOT_RETURN_RSP), DEREF); CFI_CALLOUT_RA

#define STUB(name)                                                                                 \
        .globl name;                                                                               \
        .type name, @function;                                                                     \
        name:

#define FCW_INIT 0x37f                  /* the control word that FNINIT leaves */
#define FX_MXCSR 24                     /* in the FXSAVE image */

        .macro restore_guest            /* flags and registers but r8-r11, r13, r14 */
        mov     CPU_GPR+8*4(%r15), %r12
        movzwl  HOT_FLAGS16(%r15), %eax
        add     $0x7f, %al              /* OF from AL bit 0 */
        sahf
        mov     CPU_GPR+8*0(%r15), %rax
        mov     CPU_GPR+8*1(%r15), %rcx
        mov     CPU_GPR+8*2(%r15), %rdx
        mov     CPU_GPR+8*3(%r15), %rbx
        mov     CPU_GPR+8*5(%r15), %rbp
        mov     CPU_GPR+8*6(%r15), %rsi
        mov     CPU_GPR+8*7(%r15), %rdi
        .endm

        .text

/* u32 bt_enter(struct cpu *cpu, const void *code) */
        .globl bt_enter
        .type bt_enter, @function
bt_enter:
        .cfi_startproc
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset %rbp, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        .cfi_offset %rbx, -24
        .cfi_offset %r12, -32
        .cfi_offset %r13, -40
        .cfi_offset %r14, -48
        .cfi_offset %r15, -56
        sub     $24, %rsp               /* C calls from the stubs find an aligned stack */
        .cfi_def_cfa %rsp, 80
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
        mov     %rsp, HOT_HOST_RSP(%rdi)
        mov     %rdi, %r15
        mov     %rsi, %r11
        fxrstor64 CPU_FX(%r15)
        xor     %r14d, %r14d
        cmpl    $0, HOT_FSGSBASE(%r15)
        je      resume
        rdgsbase %r14                   /* reading costs a tenth of writing */
/* r11 = host address to continue at; all guest registers come from struct cpu. Also where the
 * sentinel frame "returns" to in a backtrace. */
        .globl bt_enter_frame
bt_enter_frame:
resume:
        mov     HOT_WINDOW(%r15), %rax
        cmp     %rax, %r14
        je      1f
        mov     %rax, %r14
        cmpl    $0, HOT_FSGSBASE(%r15)
        je      1f
        wrgsbase %r14
1:      mov     HOT_VIEW_TABLE(%r15), %r13
        mov     HOT_RETURN_RSP(%r15), %rsp
        CFI_RETURN_STACK(%r11)
        mov     CPU_EIP(%r15), %r8d     /* for a unit's indirect entry */
        restore_guest
        jmp     *%r11
        .cfi_endproc
        .size bt_enter, . - bt_enter

        .p2align 4
STUB(bt_stub_load_segment)
        .cfi_startproc                  /* as after a call */
        load_segment_body
        .cfi_endproc
        .size bt_stub_load_segment, . - bt_stub_load_segment

/* From translated code: r8d = argument, r9d = callout. The kind that does not come back is jumped
 * to. */
        .p2align 4
STUB(bt_stub_callout)
        .cfi_startproc
        movq    $0, HOT_CALLOUT_RETURN(%r15)
        jmp     callout
        .cfi_endproc
        .size bt_stub_callout, . - bt_stub_callout

/* The returning kind is called; its return address leaves the return stack at once, or a callout
 * that does not come back would leave there a frame that is no continuation. */
        .p2align 4
STUB(bt_stub_callout_returning)
        .cfi_startproc
        pop     %r10
        CFI_RETURN_STACK(%r10)
        mov     %r10, HOT_CALLOUT_RETURN(%r15)
callout:
        CFI_CALLOUT_ON_RETURN_STACK
        mov     %rax, CPU_GPR+8*0(%r15)
        mov     %rcx, CPU_GPR+8*1(%r15)
        mov     %rdx, CPU_GPR+8*2(%r15)
        mov     %rbx, CPU_GPR+8*3(%r15)
        mov     %r12, CPU_GPR+8*4(%r15)
        mov     %rbp, CPU_GPR+8*5(%r15)
        mov     %rsi, CPU_GPR+8*6(%r15)
        mov     %rdi, CPU_GPR+8*7(%r15)
        lahf
        seto    %al
        mov     %ax, HOT_FLAGS16(%r15)
        mov     %rsp, HOT_RETURN_RSP(%r15)
        mov     HOT_HOST_RSP(%r15), %rsp
        CFI_CALLOUT_ON_HOST_STACK
        mov     HOT_CALLOUT_COUNTS(%r15), %r10
        incq    (%r10,%r9,8)
        lea     64(%rsp), %rbp          /* bt_enter's frame: 40 + 24 bytes below rbp */
        mov     %r15, %rdi
        mov     %r8d, %esi
        lea     bt_callout_table(%rip), %r10
        call    *(%r10,%r9,8)
        cmp     $1, %rax
        je      bt_exit_common
        mov     %rax, %r11
        ja      resume
        mov     HOT_RETURN_RSP(%r15), %rsp
        push    HOT_CALLOUT_RETURN(%r15) /* a RET, so that the host's return predictor stays in step */
        .cfi_def_cfa %rsp, 8
        .cfi_offset 16, -8
        restore_guest
        ret
        .cfi_endproc
        .size bt_stub_callout_returning, . - bt_stub_callout_returning

/* The fault handler lands here: guest registers already stored, rsp = HOT_HOST_RSP, r15 = cpu. */
STUB(bt_fault_exit)
        .cfi_startproc
        CFI_ENTER_FRAME
bt_exit_common:
        fxsave64 CPU_FX(%r15)
        fninit                          /* an empty register stack */
        cmpw    $FCW_INIT, 4(%rsp)
        je      1f
        fldcw   4(%rsp)
1:      mov     CPU_FX+FX_MXCSR(%r15), %eax
        cmp     %eax, (%rsp)
        je      1f
        ldmxcsr (%rsp)
1:      mov     HOT_EXIT(%r15), %eax
        add     $24, %rsp
        .cfi_def_cfa_offset 56
        pop     %r15
        .cfi_def_cfa_offset 48
        pop     %r14
        .cfi_def_cfa_offset 40
        pop     %r13
        .cfi_def_cfa_offset 32
        pop     %r12
        .cfi_def_cfa_offset 24
        pop     %rbx
        .cfi_def_cfa_offset 16
        pop     %rbp
        .cfi_def_cfa_offset 8
        cld
        ret
        .cfi_endproc
        .size bt_fault_exit, . - bt_fault_exit

/* The sentinel frame: where the oldest translated frame returns to. In a backtrace bt_enter's frame
 * follows. Unwinders look up the byte before a return address, hence the nop. */
        .p2align 4
STUB(bt_sentinel)
        .cfi_startproc
        .cfi_escape 0x0f, 4, AT_R15(HOT_HOST_RSP), DEREF
        .cfi_escape 0x10, 16, 3, AT_R15(HOT_ENTER_FRAME)
        nop
        .globl bt_stub_underflow
bt_stub_underflow:                      /* put it back */
        lea     bt_stub_underflow(%rip), %r9
        push    %r9
        .size bt_sentinel, . - bt_sentinel
/* A return whose prediction failed, or whose stack was empty: r8d = guest EIP. Flags preserved. */
STUB(bt_stub_return_miss)
        .cfi_def_cfa %rsp, 8            /* the frame that returned is gone: its caller is next */
        .cfi_offset 16, -8
        mov     HOT_RETURN_MISSES(%r15), %r9
        lea     1(%r9), %r9
        mov     %r9, HOT_RETURN_MISSES(%r15)
        .globl bt_stub_poll
bt_stub_poll:
        mov     CPU_SAFEPOINT(%r15), %r9d
        lea     (,%r8,4), %r9d
        movzwl  %r9w, %r9d
        jmp     *(%r13,%r9,2)
        .cfi_endproc
        .size bt_stub_return_miss, . - bt_stub_return_miss

/* An indirect branch whose table entry is empty or another unit's: r8d = guest EIP. */
        .p2align 4
STUB(bt_stub_indirect_miss)
        .cfi_startproc                  /* of the frame that branched */
        mov     $CO_INDIRECT, %r9d
        jmp     bt_stub_callout
        .cfi_endproc
        .size bt_stub_indirect_miss, . - bt_stub_indirect_miss

        .section .note.GNU-stack,"",@progbits
