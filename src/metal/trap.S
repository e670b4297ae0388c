/*
 * trap.S: the way into ring 0 and back. Every vector has a stub that completes the CPU's frame to a
 * struct metal_frame; an exception out of guest code goes straight to the guest-trap hook, all else
 * to trap.c. Nothing here touches GS, FS or a data segment register.
 */
#include "metal/metal_contract.h"

        .macro push_registers           /* struct metal_frame below vector */
        push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        .endm

        .macro pop_registers
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        .endm

        .text

/* One stub per vector, METAL_TRAP_STUB_BYTES apart. Vectors 8, 10-14, 17, 21, 29 and 30 come with an
 * error code: SDM volume 3, section 6.13 "Error Code", and for 29 and 30 AMD's volume 2, section
 * 8.2 "Vectors". */
        .balign METAL_TRAP_STUB_BYTES
        .globl  metal_trap_stubs
        .type   metal_trap_stubs, @object
metal_trap_stubs:
        .set    vector, 0
        .rept   256
        .balign METAL_TRAP_STUB_BYTES
        .if vector == 2
        jmp     nmi
        .else
        .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
        .else
        push    $0
        .endif
        push    $vector
        .if vector == 1 || vector == 8 || vector == 18
        jmp     trap_on_own_stack
        .elseif vector >= METAL_VECTOR_PIC
        jmp     device
        .elseif vector >= 32
        jmp     *metal_int_entry(%rip)
        .else
        jmp     trap
        .endif
        .endif
        .set    vector, vector + 1
        .endr
        .balign METAL_TRAP_STUB_BYTES
        .size   metal_trap_stubs, . - metal_trap_stubs

/* On RSP0's stack when it comes from guest code, else on that of the interrupted code. */
        .balign 64
        .globl  metal_trap_common
metal_trap_common:
trap:
        push_registers
        cld
        .globl  metal_trap_clac
metal_trap_clac:                        /* becomes CLAC where the CPU has it; elsewhere AC means
                                         * nothing at CPL 0 */
        .byte   0x0f, 0x1f, 0x00        /* nopl (%rax) */
        mov     %cr2, %rbx
        testb   $3, FRAME_CS(%rsp)
        jz      slow
guest_trap:                             /* rsp: frame, rbx: CR2 */
        mov     metal_guest_trap_opaque(%rip), %rdi
        mov     %rsp, %rsi
        mov     %rbx, %rdx
        call    *metal_guest_trap_hook(%rip)
        test    %al, %al
        jz      unexplained
resume:                                 /* rsp: frame */
        pop_registers
        add     $16, %rsp
        .globl  metal_trap_iret
metal_trap_iret:
        iretq

/* #DB, #DF and #MC: on stacks of their own. */
trap_on_own_stack:
        push_registers
        cld
        mov     %cr2, %rbx
slow:
        mov     %rsp, %rdi
        mov     %rbx, %rsi
        call    metal_trap_slow
        mov     %rax, %rsp
        testb   $3, FRAME_CS(%rsp)
        jnz     guest_trap
        jmp     resume

unexplained:
        mov     %rsp, %rdi
        mov     %rbx, %rsi
        call    metal_trap_unexplained
        ud2

device:
        push_registers
        cld
        mov     %rsp, %rdi
        call    metal_device_interrupt
        jmp     resume

/* Nothing here is worth a non-maskable interrupt: counted, no register touched. */
nmi:
        incl    metal_nmi_count(%rip)
        iretq

/*
 * SYSCALL that nobody expected: made to look like #UD at the SYSCALL instruction. The CPU has put
 * EIP into RCX and EFLAGS into R11, and forgotten CS and SS, so that the frame shows those told to
 * metal_set_compat_selectors. AMD64 manual, volume 3, chapter 4 "System
 * Instruction Reference", SYSCALL.
 */
        .globl  metal_compat_syscall
metal_compat_syscall:
        mov     %esp, %esp              /* what compatibility mode leaves above is undefined */
        mov     %rsp, syscall_rsp(%rip)
        mov     metal_trap_top(%rip), %rsp
        pushq   metal_compat_ss(%rip)
        pushq   syscall_rsp(%rip)
        push    %r11
        pushq   metal_compat_cs(%rip)
        jmp     1f
        .globl  metal_syscall_refused
metal_syscall_refused:
        mov     %rsp, syscall_rsp(%rip)
        mov     metal_trap_top(%rip), %rsp
        push    $METAL_SS3
        pushq   syscall_rsp(%rip)
        push    %r11
        push    $METAL_CS3
1:      sub     $2, %rcx
        push    %rcx
        push    $0
        push    $6
        jmp     trap

/* bool metal_read_safely(u64 address, u64 *value) */
        .globl  metal_read_safely
        .type   metal_read_safely, @function
metal_read_safely:
        .globl  metal_read_from, metal_read_to, metal_read_landing
metal_read_from:
        mov     (%rdi), %rdi
metal_read_to:
        mov     %rdi, (%rsi)
        mov     $1, %eax
        ret
metal_read_landing:
        xor     %eax, %eax
        ret

        .bss
        .balign 8
syscall_rsp:
        .quad   0
        .globl  metal_nmi_count
metal_nmi_count:
        .long   0

        .section .note.GNU-stack, "", @progbits
