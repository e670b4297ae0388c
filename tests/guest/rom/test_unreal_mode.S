/*
 * Segment limits of protected mode outlive the return to real mode, and loads there change the base
 * only. Source: SDM volume 3, section 9.9.2 "Switching Back to Real-Address Mode"; section 20.1.1
 * "Address Translation in Real-Address Mode".
 */
#include "rom.h"

        .set FAR_AWAY, 0x300000 /* in RAM, beyond what real mode reaches */

reset:
        PLAIN_SEGMENTS
        GO_LOW
        cli
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        jmp 1f
1:      mov $8, %bx
        mov %bx, %ds
        mov %bx, %fs
        and $0xfe, %al
        mov %eax, %cr0
        jmp 1f
1:
        mov $FAR_AWAY, %ebx
        movl $0xcafe1234, (%ebx)
        cmpl $0xcafe1234, %fs:(%ebx)
        MUST e, "DS and FS do not see the same"
        xor %ax, %ax
        mov %ax, %ds
        cmpl $0xcafe1234, (%ebx)
        MUST e, "MOV DS in real mode cut the limit"
        mov $0x1000, %ax
        mov %ax, %fs
        cmpl $0xcafe1234, %fs:-0x10000(%ebx)
        MUST e, "MOV FS in real mode does not change the base alone"
        mov $ROM_HIGH + mark, %esi
        cmpl $0x21436587, (%esi)
        MUST e, "the ROM at FFFF0000h"
        movl $0, (%esi)
        cmpl $0x21436587, (%esi)
        MUST e, "the ROM can be written"

        /* A copy from the ROM, byte by byte with 32-bit addresses. */
        mov $4, %ecx
        mov $FAR_AWAY + 0x100, %edi
        mov $ROM_HIGH + mark, %esi
1:      mov (%esi), %al
        mov %al, (%edi)
        inc %esi
        inc %edi
        addr32 loop 1b
        cmpl $0x21436587, -4(%edi)
        MUST e, "a copy from the ROM"
        PASS

mark:   .long 0x21436587
        .balign 8
gdt:    .quad 0, 0x00cf93000000ffff
gdtr:   .word 15
        .long ROM_LOW + gdt
