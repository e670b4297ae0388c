/*
 * traps_guest.S: pieces of guest code for test_traps.c, copied to the start of the guest's code
 * page, and the way into them and back.
 */
#include "traps_guest.h"
#include "metal/metal_contract.h"

        .section .rodata
        .macro snippet name
        .balign SNIPPET_BYTES
        .globl  snippet_\name
snippet_\name:
        .endm

        .code64
snippet ud2
        ud2
snippet read_hole
        movb    HOLE + 5, %al
snippet write_hole
        movb    %al, HOLE + 6
snippet read_system
        movb    SYSTEM_PAGE + 7, %al
snippet write_read_only
        movb    %al, READ_ONLY + 8
snippet jump_to_code3
        mov     $CODE3 + 0x800, %eax
        jmp     *%rax
snippet syscall
        nop
        syscall
snippet int3
        int3
snippet int_80
        int     $0x80
snippet int_e4
        int     $0xe4
snippet int_2
        int     $2
snippet in_port
        in      (%dx), %al
snippet cli
        cli
snippet sgdt
        sgdt    STACK3
        ud2
snippet nops
        nop
        nop
        ud2
snippet spin
1:      jmp     1b
snippet wait_for_flag
1:      cmpl    $0, FLAG
        je      1b
        ud2
snippet touch_and_ud2
        movb    READ_ONLY, %al
        ud2

        .code32
snippet compat_int_80
        int     $0x80
snippet compat_into
        mov     $0x7fffffff, %eax
        inc     %eax
        into
snippet compat_syscall
        nop
        .byte   0x0f, 0x05
snippet compat_sysenter
        nop
        .byte   0x0f, 0x34
snippet compat_sysenter_step        /* TF set by the application itself */
        pushf
        orl     $0x100, (%esp)
        popf
        .byte   0x0f, 0x34
snippet compat_jump_cs3
        ljmp    $METAL_CS3, $CODE3
snippet compat_jump_cs0
        ljmp    $METAL_CS0 + 3, $CODE3
snippet compat_call_tss
        lcall   $METAL_TSS + 3, $0
snippet compat_load_bad_ds
        mov     $METAL_SS0 + 3, %eax
        mov     %eax, %ds
        .balign SNIPPET_BYTES
        .code64

        .text
/* void guest_enter(const struct metal_frame *frame): returns after guest_leave. */
        .globl  guest_enter
guest_enter:
        push    %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cli
        mov     %rsp, guest_home_rsp(%rip)
        mov     %rdi, %rsp
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
        add     $16, %rsp
        iretq

/* At ring 0 with RSP = guest_home_rsp. */
        .globl  guest_leave
guest_leave:
        cld
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        sti
        ret

/* Entries for metal_set_syscall_entry and metal_set_sysenter_entry: note what arrived, and leave. */
        .globl  test_syscall_entry, test_sysenter_entry
test_syscall_entry:
        movl    $1, entry_taken(%rip)
        jmp     1f
test_sysenter_entry:
        movl    $2, entry_taken(%rip)
1:      mov     %rsp, entry_rsp(%rip)
        mov     %rcx, entry_rcx(%rip)
        mov     %r11, entry_r11(%rip)
        mov     guest_home_rsp(%rip), %rsp
        pushf
        popq    entry_flags(%rip)
        mov     %cs, entry_cs(%rip)
        mov     %ss, entry_ss(%rip)
        jmp     guest_leave

/* u64 fixup_probe(void): the upper half of what a fixup leaves in RAX after UD2. */
        .globl  fixup_probe, fixup_from, fixup_to, fixup_landing
fixup_probe:
        xor     %eax, %eax
fixup_from:
        ud2
fixup_to:
        ret
fixup_landing:
        shr     $32, %rax
        ret

        .bss
        .balign 8
        .globl  guest_home_rsp, entry_taken, entry_rsp, entry_rcx, entry_r11, entry_flags
        .globl  entry_cs, entry_ss
guest_home_rsp:
        .quad   0
entry_rsp:
        .quad   0
entry_rcx:
        .quad   0
entry_r11:
        .quad   0
entry_flags:
        .quad   0
entry_taken:
        .long   0
entry_cs:
        .short  0
entry_ss:
        .short  0

        .section .note.GNU-stack, "", @progbits
