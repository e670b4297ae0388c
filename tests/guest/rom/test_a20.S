/*
 * Gate A20 by port 92h and by the 8042: while it is shut, physical address bit 20 is 0, in every
 * mode, for data, page tables and code.
 */
#include "rom.h"

        .set LOW, 0x500
        .set PD, 0x400000
        .set PT, 0x402000

reset:
        PLAIN_SEGMENTS
        GO_LOW
        call open_92
        mov $0xffff, %ax
        mov %ax, %es
        movw $0x1111, LOW
        movw $0x2222, %es:LOW + 0x10 /* 100500h */
        MUST_BE16 0x1111, LOW, "open, 500h and 100500h are one"

        call shut_92
        MUST_BE16 0x1111, %es:LOW + 0x10, "port 92h does not shut the gate"
        movw $0x3333, %es:LOW + 0x10
        MUST_BE16 0x3333, LOW, "a write through the wrap is lost"
        call open_92
        MUST_BE16 0x2222, %es:LOW + 0x10, "port 92h does not open the gate"
        MUST_BE16 0x3333, LOW, "what was written while it was shut"

        call shut_8042
        MUST_BE16 0x3333, %es:LOW + 0x10, "the 8042 does not shut the gate"
        call open_8042
        MUST_BE16 0x2222, %es:LOW + 0x10, "the 8042 does not open the gate"
        call shut_8042
        call open_92
        MUST_BE16 0x2222, %es:LOW + 0x10, "port 92h does not open what the 8042 shut"

        /* Code at 100600h is another than at 600h. */
        movl $0xcb42, 0x600 /* inc dx; retf */
        movw $0xcb4a, %es:0x610 /* dec dx; retf */
        mov $7, %dx
        lcall $0xffff, $0x610
        cmp $6, %dx
        MUST e, "code above 1 MiB"
        call shut_92_keep
        lcall $0xffff, $0x610
        cmp $7, %dx
        MUST e, "code does not wrap"
        call open_92_keep
        lcall $0xffff, $0x610
        cmp $6, %dx
        MUST e, "code is still wrapped"

        /* Flat 32-bit code with paging: linear 500000h is mapped to 300500h's page. */
        cli
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $ROM_LOW + flat

        .code32
flat:   mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %esp
        movl $0x22222222, 0x200500
        movl $0x33333333, 0x300500
        mov $PD, %edi
        xor %eax, %eax
        mov $0x800, %ecx
        rep stosl
        movl $PT + 7, PD
        movl $PT + 7, PD + 4
        mov $PT, %edi
        mov $7, %eax
        mov $1024, %ecx
1:      stosl
        add $0x1000, %eax
        loop 1b
        mov $PD, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        mov $200, %ebx /* so often that translated code is hot */
turn:   call look
        MUST_BE32 0x33333333, %eax, "open: 700500h maps to 300500h"
        in $0x92, %al
        and $0xfc, %al
        out %al, $0x92
        call look
        MUST_BE32 0x22222222, %eax, "shut: 700500h maps to 200500h"
        in $0x92, %al
        and $0xfe, %al
        or $2, %al
        out %al, $0x92
        dec %ebx
        jnz turn
        PASS
look:   mov 0x700500, %eax
        ret

        .code16
open_92:
        mov $2, %ah
        jmp set_92
shut_92:
        xor %ah, %ah
set_92: in $0x92, %al
        and $0xfc, %al
        or %ah, %al
        out %al, $0x92
        ret
open_92_keep:
        pusha
        call open_92
        popa
        ret
shut_92_keep:
        pusha
        call shut_92
        popa
        ret

open_8042:
        mov $0xdf, %ah
        jmp set_8042
shut_8042:
        mov $0xdd, %ah
set_8042:
        call ready
        mov $0xd1, %al /* write output port */
        out %al, $0x64
        call ready
        mov %ah, %al
        out %al, $0x60
        call ready
        ret
ready:  in $0x64, %al
        test $2, %al
        jnz ready
        ret

        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   .word 23
        .long ROM_LOW + gdt
