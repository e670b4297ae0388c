/*
 * Flat 32-bit code that executes in the ROM below 4 GiB, below 1 MiB and in RAM, with descriptor
 * tables in the ROM whose accessed bits cannot be set, with and without paging; and back.
 * Source: SDM volume 3, sections 9.9.1 "Switching to Protected Mode" and 9.9.2.
 */
#include "rom.h"

        .set PD, 0x200000
        .set COPY, 0x300000

reset:
        PLAIN_SEGMENTS
        lgdtl %cs:gdtr
        lidtl %cs:idtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $ROM_HIGH + high

        .code32
high:   mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %esp
        sldt %eax
        test %ax, %ax
        MUST32 z, "LDTR after reset"
        str %eax
        test %ax, %ax
        MUST32 z, "TR after reset"

        call work_call
        /* The ROM and its copy read alike and take no writes. */
        MUST_BE32 0x13572468, ROM_HIGH + mark, "the ROM"
        MUST_BE32 0x13572468, ROM_LOW + mark, "its copy"
        movl $0, ROM_HIGH + mark
        movl $0, ROM_LOW + mark
        mov $ROM_LOW + mark, %edi
        xor %eax, %eax
        mov $3, %ecx
        rep stosl
        incl ROM_LOW + mark
        lock incl ROM_HIGH + mark
        MUST_BE32 0x13572468, ROM_HIGH + mark, "the ROM was written"
        MUST_BE32 0x13572468, ROM_LOW + mark, "its copy was written"
        movzbl ROM_HIGH + gdt + 8 + 5, %eax
        MUST_BE32 0x9a, %eax, "the accessed bit was set in ROM"

        /* An interrupt through a gate in the ROM. */
        xor %edx, %edx
        int $0x20
        MUST_BE32 0x77, %edx, "INT through the ROM's IDT"

        /* In the copy below 1 MiB: often, so that it gets hot. */
        mov $ROM_LOW + work, %eax
        call twenty_times
        /* In RAM. */
        mov $ROM_HIGH + work, %esi
        mov $COPY, %edi
        mov $work_end - work, %ecx
        rep movsb
        mov $COPY, %eax
        call twenty_times
        /* In the ROM again. */
        mov $ROM_HIGH + work, %eax
        call twenty_times

        /* The same with paging: the first and the last 4 MiB mapped where they are. */
        mov $PD, %edi
        xor %eax, %eax
        mov $1024, %ecx
        rep stosl
        movl $0x83, PD
        movl $0xffc00083, PD + 4 * 1023
        mov %cr4, %eax
        or $0x10, %eax /* PSE */
        mov %eax, %cr4
        mov $PD, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        mov $ROM_HIGH + work, %eax
        call twenty_times
        mov $ROM_LOW + work, %eax
        call twenty_times
        movl $0, ROM_HIGH + mark
        MUST_BE32 0x13572468, ROM_HIGH + mark, "the ROM was written through a page"
        mov %cr0, %eax
        and $0x7fffffff, %eax
        mov %eax, %cr0

        /* Back to real mode. */
        ljmp $24, $half
        .code16
half:   mov $32, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        GO_LOW
        PLAIN_SEGMENTS
        mov %cs, %ax
        cmp $ROM_SEGMENT, %ax
        MUST e, "real mode again"
        PASS

        .code32
work_call:
        mov $ROM_HIGH + work, %eax
/* Calls a copy of work() with 20 different arguments. */
twenty_times:
        mov $20, %ebx
1:      mov %ebx, %ecx
        call *%eax
        mov %ebx, %edi
        imul %ebx, %edi
        cmp %edi, %edx
        MUST32 e, "work"
        dec %ebx
        jnz 1b
        ret

/* EDX = ECX squared, the long way; position independent. */
work:   xor %edx, %edx
        mov %ecx, %esi
1:      add %esi, %edx
        loop 1b
        ret
work_end:

on_int: mov $0x77, %edx
        iret

        .balign 8
mark:   .long 0x13572468, 0, 0
        .balign 8
gdt:    .quad 0
        .quad 0x00cf9a000000ffff /* 8: flat code, not accessed */
        .quad 0x00cf92000000ffff /* 16: flat data, not accessed */
        .quad 0x00009a0f0000ffff /* 24: 16-bit code at F0000h */
        .quad 0x000092000000ffff /* 32: 16-bit data at 0 */
gdtr:   .word 39
        .long ROM_HIGH + gdt
        .balign 8
idt:    .fill 32, 8, 0
        /* Link-time sums cannot be cut in halves: the handler's high half is known. */
        .word on_int, 8, 0x8e00, 0xffff
idtr:   .word 33 * 8 - 1
        .long ROM_HIGH + idt
