/*
 * What segment registers keep when PE goes to 0 without a reload, and what a load in real mode then
 * changes: limits smaller than 64 KiB and their #GP and #SS, the size of the stack pointer, 32-bit
 * code without a far jump, offsets that wrap at 64 KiB, a stack that wraps, and real mode's own
 * interrupts on all that. Source: SDM volume 3, sections 9.9.2 "Switching Back to Real-Address Mode",
 * 20.1.1 "Address Translation in Real-Address Mode" and 20.1.4 "Interrupt and Exception Handling".
 * QEMU: TCG checks no segment limits and forgets them on loads in real mode
 */
#include "rom.h"

        .set COUNT, 0x600
        .set IP_SEEN, 0x602
        .set VECTOR_SEEN, 0x604

.macro FAULTS place:req, vector:req, text:req
        MUST_BE16 \place, IP_SEEN, "\text"
        MUST_BE16 \vector, VECTOR_SEEN, "\text (vector)"
        movw $0, IP_SEEN
        movw $0, VECTOR_SEEN
.endm
.macro VECTOR number:req, handler:req
        movw $\handler, 4 * \number
        movw $ROM_SEGMENT, 4 * \number + 2
.endm

reset:
        PLAIN_SEGMENTS
        GO_LOW
        cli
        VECTOR 6, note_6
        VECTOR 12, note_12
        VECTOR 13, note_13
        VECTOR 0x40, plain

        /* Limits of 64 KiB first. */
        movw $0x1111, 0xfffe
        mov $1f, %di
a1:     mov 0xffff, %ax
1:      FAULTS a1, 13, "a word at FFFFh"
        mov $1f, %di
        mov $0xfffd, %bp
a2:     mov (%bp), %eax
1:      FAULTS a2, 12, "a double word at SS:FFFDh is #SS"
        mov $1f, %di
        mov $0x10000, %ebx
a3:     mov (%ebx), %al
1:      FAULTS a3, 13, "32-bit address beyond 64 KiB"
        mov 0xfffe, %ax
        cmp $0x1111, %ax
        MUST e, "the last word"
        /* Effective addresses wrap before the limit is looked at. */
        mov $0xfff0, %bx
        movw $0x2222, 0x0610
        cmpw $0x2222, 0x0620(%bx)
        MUST e, "16-bit addresses wrap"

        /* A stack pointer that wraps, and one that cannot. */
        mov %sp, %dx
        xor %sp, %sp
        push $0x3333
        cmp $0xfffe, %sp
        MUST e, "PUSH with SP = 0"
        cmpw $0x3333, 0xfffe
        MUST e, "the word is at the top"
        pop %ax
        test %sp, %sp
        MUST z, "POP back to 0"
        mov %dx, %sp

        /* Protected mode: FS with a limit of FFh, GS of 4 GiB, SS with B = 1, and back without
         * loading any of them. */
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        mov $8, %bx
        mov %bx, %fs
        mov $16, %bx
        mov %bx, %gs
        mov %bx, %ss
        and $0xfe, %al
        mov %eax, %cr0
        movl $0x44444444, %fs:0xfc
        mov $1f, %di
b1:     movb $1, %fs:0x100
1:      FAULTS b1, 13, "FS keeps its limit"
        mov $0x1000, %ax
        mov %ax, %fs
        mov $1f, %di
b2:     movb $1, %fs:0x100
1:      FAULTS b2, 13, "a load in real mode keeps the limit"
        movb $0x55, %fs:0xff
        mov $0x100ff, %ebx
        cmpb $0x55, %gs:(%ebx)
        MUST e, "the base is new"
        mov $0x200000, %ebx
        movl $0x66666666, %gs:(%ebx)
        cmpl $0x66666666, %gs:(%ebx)
        MUST e, "GS reaches all memory"
        /* B of SS is kept: ESP counts, all of it. */
        mov $0x00210000, %esp
        push $0x7777
        cmp $0x0020fffe, %esp
        MUST e, "PUSH uses ESP"
        cmpw $0x7777, %gs:(%esp)
        MUST e, "the word lies beyond 1 MiB"
        mov $0, %edi
        int $0x40
        cmpw $0x4040, COUNT
        MUST e, "an interrupt on that stack"
        add $2, %esp
        xor %ax, %ax
        mov %ax, %ss /* base 0 as before; B and limit stay */
        mov $0x00210000, %esp
        push $0x1234
        cmp $0x0020fffe, %esp
        MUST e, "a load of SS in real mode keeps B"
        pop %ax
        mov $0x7c00, %esp

        /* SS with B = 0 again, by way of protected mode. */
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        mov $24, %bx
        mov %bx, %ss
        and $0xfe, %al
        mov %eax, %cr0
        mov $0x00217c00, %esp
        push $0x5678
        cmp $0x00217bfe, %esp
        MUST e, "SP alone moves"
        cmpw $0x5678, 0x7bfe
        MUST e, "SP alone addresses"
        mov $0x7c00, %esp

        /* 32-bit code with PE = 0: CS was loaded in protected mode and not since. */
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $32, $code32
        .code32
code32: and $0xfe, %al
        mov %eax, %cr0
        mov $0x11223344, %eax /* five bytes: the immediate has 32 bits */
        nop
        cmp $0x11223344, %eax
        jne 1f
        call 2f /* pushes four bytes */
2:      cmp $0x7bfc, %esp
        jne 1f
        add $4, %esp
        ljmpw $ROM_SEGMENT, $back
1:      mov $0x11, %al
        out %al, $0xf4
        hlt
        .code16
back:   PASS

plain:  movw $0x4040, COUNT
        iretw

note_6: push $6
        jmp note
note_12:
        push $12
        jmp note
note_13:
        push $13
/* The vector is on the stack; DI says where to go on. */
note:   push %bp
        mov %esp, %ebp
        push %eax
        mov %ss:2(%ebp), %ax
        mov %ax, VECTOR_SEEN
        mov %ss:4(%ebp), %ax
        mov %ax, IP_SEEN
        mov %di, %ss:4(%ebp)
        xor %di, %di
        pop %eax
        pop %bp
        add $2, %sp
        iretw

        .balign 8
gdt:    .quad 0
        .quad 0x00409300000000ff /* 8: limit FFh */
        .quad 0x00cf93000000ffff /* 16: 4 GiB, B = 1 */
        .quad 0x000093000000ffff /* 24: 64 KiB, B = 0 */
        .quad 0x00409b0f0000ffff /* 32: 32-bit code at F0000h */
gdtr:   .word 39
        .long ROM_LOW + gdt
