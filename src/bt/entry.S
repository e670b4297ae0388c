/*
 * entry.S: the hosted world switch. bt_enter leaves C for translated code; the callout stub comes
 * back to C on the monitor's stack, either for a light callout (guest x87/SSE state stays in the
 * registers: everything it calls uses general registers only) or for good (bt_exit_common, which
 * saves that state).
 */
#include "bt/bt_contract.h"

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
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
        mov     %rsp, HOT_HOST_RSP(%rdi)
        mov     %rdi, %r15
        mov     %rsi, %r11
        fxrstor64 CPU_FX(%r15)
        xor     %r14d, %r14d
/* r11 = host address to continue at; all guest registers come from struct cpu. */
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
        mov     CPU_EIP(%r15), %r8d     /* for a unit's indirect entry */
restore:
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
        jmp     *%r11

/* CO_LOAD_*: the selector and descriptor of the last load again? Then only ESP moves. Flags stay. */
        .globl bt_stub_load_segment
        .p2align 4
bt_stub_load_segment:
        lea     (%r9,%r9,2), %r10
        lea     HOT_SEGMENT_CACHE-SEGMENT_CACHE_BYTES*CO_LOAD_ES(%r15,%r10,8), %r10
        mov     %rcx, %r11
        mov     %r8, HOT_SCRATCH(%r15)
        mov     HOT_ARG0(%r15), %ecx
        mov     16(%r10), %r8
        lea     (%rcx,%r8), %rcx
        jrcxz   1f
        jmp     2f
1:      mov     (%r10), %r8
        mov     (%r8), %rcx
        mov     8(%r10), %r8
        lea     (%rcx,%r8), %rcx
        jrcxz   3f
2:      mov     %r11, %rcx
        mov     HOT_SCRATCH(%r15), %r8
        jmp     bt_stub_callout_returning
3:      mov     %r11, %rcx
        mov     HOT_ARG2(%r15), %r8d
        lea     (%r12,%r8), %r12d
        ret

/* From translated code: r8d = argument, r9d = callout. The returning kind is called; its return
 * address leaves the return stack at once, or a callout that does not come back would leave there a
 * frame that is no continuation. */
        .globl bt_stub_callout_returning
        .p2align 4
bt_stub_callout_returning:
        pop     %r10
        mov     %r10, HOT_CALLOUT_RETURN(%r15)
        .globl bt_stub_callout
bt_stub_callout:
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
        mov     HOT_CALLOUT_RETURN(%r15), %r11
        jmp     restore

/* The fault handler lands here: guest registers already stored, rsp = HOT_HOST_RSP, r15 = cpu. */
        .globl bt_fault_exit
bt_fault_exit:
bt_exit_common:
        fxsave64 CPU_FX(%r15)
        fninit
        fldcw   4(%rsp)
        ldmxcsr (%rsp)
        mov     HOT_EXIT(%r15), %eax
        add     $24, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        .cfi_def_cfa %rsp, 8
        cld
        ret
        .cfi_endproc
        .size bt_enter, . - bt_enter

/* A return whose prediction failed, or whose stack was empty: r8d = guest EIP. Flags preserved. */
        .globl bt_stub_underflow
        .p2align 4
bt_stub_underflow:                      /* the sentinel frame: put it back */
        lea     bt_stub_underflow(%rip), %r9
        push    %r9
        .globl bt_stub_return_miss
bt_stub_return_miss:
        .globl bt_stub_poll
bt_stub_poll:
        mov     CPU_SAFEPOINT(%r15), %r9d
        lea     (,%r8,4), %r9d
        movzwl  %r9w, %r9d
        jmp     *(%r13,%r9,2)

/* An indirect branch whose table entry is empty or another unit's: r8d = guest EIP. */
        .globl bt_stub_indirect_miss
        .p2align 4
bt_stub_indirect_miss:
        mov     $CO_INDIRECT, %r9d
        jmp     bt_stub_callout

        .section .note.GNU-stack,"",@progbits
