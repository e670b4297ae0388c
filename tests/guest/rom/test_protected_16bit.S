/*
 * Protected mode of the 80286: 16-bit code, stack, data and gates.
 * Source: SDM volume 3, sections 3.4.5 "Segment Descriptors" and 21.6 "Gates" (mixed 16- and 32-bit
 * code).
 */
#include "rom.h"

        .set IDT, 0x1000
        .set GDT, 0x2000
        .set STACK, 0x30000
        .set SEEN, 0x600

reset:
        PLAIN_SEGMENTS
        GO_LOW
        /* The GDT in RAM, so that accessed bits can be seen. */
        mov $gdt, %si
        mov $GDT, %di
        mov $gdt_end - gdt, %cx
        cld
        rep movsb %cs:(%si), %es:(%di)
        /* 16-bit gates: an interrupt gate 30h, a trap gate 31h, #GP. */
        xor %ax, %ax
        mov $IDT, %di
        mov $0x100, %cx
        rep stosw
        .macro GATE16 number:req, handler:req, rights:req
        movw $\handler, IDT + 8 * \number
        movw $8, IDT + 8 * \number + 2
        movw $\rights, IDT + 8 * \number + 4
        .endm
        GATE16 0x30, on_interrupt, 0x8600
        GATE16 0x31, on_trap, 0x8700
        GATE16 13, on_gp, 0x8600
        lgdtw %cs:gdtr
        lidtw %cs:idtr
        mov $1, %ax
        lmsw %ax
        ljmp $8, $in16
in16:   mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov $24, %ax
        mov %ax, %ss
        mov $2, %sp
        /* SP wraps in 64 KiB, whatever ESP's upper half says. */
        or $0x7fff0000, %esp
        push %ax
        push %ax
        cmp $0xfffe, %sp
        MUST e, "SP does not wrap"
        mov %esp, %eax
        shr $16, %eax
        cmp $0x7fff, %ax
        MUST e, "ESP's upper half"
        pop %ax
        pop %ax
        mov $0x8000, %sp
        testb $1, GDT + 24 + 5
        MUST nz, "the stack's descriptor is not accessed"

        sti
        int $0x30
after_30:
        MUST_BE16 after_30, SEEN, "IP in a 16-bit frame"
        MUST_BE16 8, SEEN + 2, "CS in a 16-bit frame"
        MUST_BE16 0x7ffa, SEEN + 4, "a 16-bit frame is three words"
        testw $0x200, SEEN + 6
        MUST z, "an interrupt gate leaves IF set"
        pushfw
        pop %ax
        test $0x200, %ax
        MUST nz, "IRET does not restore IF"
        int $0x31
        testw $0x200, SEEN + 6
        MUST nz, "a trap gate clears IF"
        cli

        /* A 16-bit call gate, which may also be called by a 32-bit instruction. */
        movw $0, SEEN
        lcall $32, $0
        MUST_BE16 1, SEEN, "a call gate"
        cmp $0x8000, %sp
        MUST e, "SP after the call gate's RETF"

        /* Beyond a limit: #GP with the error code as a word. */
        IS_TCG
        je real
        mov $after_gp, %di
        mov $40, %ax
        mov %ax, %es /* 16 bytes */
        mov %es:14, %ax
beyond: mov %es:15, %ax
after_gp:
        MUST_BE16 beyond, SEEN + 2, "#GP beyond a limit"
        MUST_BE16 0, SEEN, "its error code"

real:   mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        GO_LOW
        PLAIN_SEGMENTS
        PASS

on_trap:
on_interrupt:
        mov %sp, SEEN + 4
        push %bp
        mov %sp, %bp
        push %ax
        mov 2(%bp), %ax
        mov %ax, SEEN
        mov 4(%bp), %ax
        mov %ax, SEEN + 2
        pushfw
        popw SEEN + 6
        pop %ax
        pop %bp
        iretw
on_gp:  popw SEEN
        popw SEEN + 2
        push %di
        iretw
gated:  incw SEEN
        lret

        .balign 8
gdt:    .quad 0
        .quad 0x00009a0f0000ffff /* 8: code at F0000h */
        .quad 0x000092000000ffff /* 16: data at 0 */
        .quad 0x000092030000ffff /* 24: stack at 30000h */
        .word gated, 8, 0x8400, 0 /* 32: call gate */
        .quad 0x000092000600000f /* 40: 16 bytes at 600h */
gdt_end:
gdtr:   .word 47
        .long GDT
idtr:   .word 0x1ff
        .long IDT
