/*
 * pc-testdev's scratch register and memory, the debug console's presence, accesses of every size.
 * OPTIONS: -device pc-testdev
 */
#include "rom.h"

reset:
        PLAIN_SEGMENTS
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        mov $8, %bx
        mov %bx, %ds
        and $0xfe, %al
        mov %eax, %cr0
        jmp 1f
1:
        mov $0x12345678, %eax
        out %eax, $0xe0
        in $0xe1, %al
        cmp $0x56, %al
        MUST e, "byte 1"
        in $0xe2, %ax
        cmp $0x1234, %ax
        MUST e, "word 2"
        in $0xe8, %al
        cmp $0x78, %al
        MUST e, "byte 0 through the byte ports"
        mov $0xab, %al
        out %al, $0xeb
        in $0xe0, %eax
        cmp $0xab345678, %eax
        MUST e, "a write through the byte ports"
        mov $0x1000, %eax
        out %eax, $0xe4 /* flush a page: nothing to see */
        in $0xe9, %al
        cmp $0xe9, %al
        MUST e, "the debug console is not found"

        mov $0xff000000, %ebx
        movl $0x44332211, (%ebx)
        movl $0x88776655, 0xfffc(%ebx)
        cmpb $0x33, 2(%ebx)
        MUST e, "a byte of the memory"
        cmpw $0x8877, 0xfffe(%ebx)
        MUST e, "the memory's last word"
        movb $0x99, 1(%ebx)
        MUST_BE 0x44339911, (%ebx), "a byte written to the memory"
        PASS

        .balign 8
gdt:    .quad 0, 0x00cf93000000ffff
gdtr:   .word 15
        .long ROM_HIGH + gdt
