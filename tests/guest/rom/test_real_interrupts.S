/*
 * Interrupts and exceptions in real mode: the vector table, frames, IF, IRET, a moved table.
 * Source: SDM volume 3, section 20.1.4 "Interrupt and Exception Handling".
 * OPTIONS: -device pc-testdev
 */
#include "rom.h"

        .set LINE_5, 0x2005 /* pc-testdev's port for the interrupt line */
        .set COUNT, 0x600
        .set IP_SEEN, 0x602
        .set FLAGS_SEEN, 0x604
        .set SP_SEEN, 0x606
        .set CS_SEEN, 0x608

.macro VECTOR number:req, handler:req, table=0
        movw $\handler, \table + 4 * \number
        movw $ROM_SEGMENT, \table + 4 * \number + 2
.endm

reset:
        PLAIN_SEGMENTS
        GO_LOW
        movw $0, COUNT
        VECTOR 0, note
        VECTOR 6, note
        VECTOR 0x25, hardware
        VECTOR 0x40, note

        pushw $0x0cd7 /* everything but IF, TF and NT */
        popfw
        sti
        int $0x40
after_int:
        pushfw
        pop %ax
        cmp $0x0ed7, %ax
        MUST e, "IRET does not restore the flags"
        MUST_BE16 1, COUNT, "INT 40h does not arrive"
        MUST_BE16 after_int, IP_SEEN, "IP in the frame"
        MUST_BE16 ROM_SEGMENT, CS_SEEN, "CS in the frame"
        MUST_BE16 0x0ed7, FLAGS_SEEN, "flags in the frame"
        MUST_BE16 0x7bfa, SP_SEEN, "a frame is three words"
        cmp $0x7c00, %sp
        MUST e, "SP after IRET"
        cli

        xor %bl, %bl
        mov $after_divide, %di
divide: div %bl
after_divide:
        MUST_BE16 2, COUNT, "#DE does not arrive"
        MUST_BE16 divide, IP_SEEN, "#DE is a fault"

        mov $after_ud, %di
undefined:
        ud2
after_ud:
        MUST_BE16 3, COUNT, "#UD does not arrive"
        MUST_BE16 undefined, IP_SEEN, "#UD is a fault"

        /* Where there is a local APIC, the 8259 comes through its LINT0, which is masked after reset:
         * firmware makes that ExtINT. */
        mov $1, %eax
        cpuid
        bt $9, %edx
        jnc no_apic
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        mov $8, %bx
        mov %bx, %fs
        and $0xfe, %al
        mov %eax, %cr0
        mov $0xfee00000, %ebx
        movl $0x1ff, %fs:0xf0(%ebx)  /* spurious vector: enabled */
        movl $0x700, %fs:0x350(%ebx) /* LINT0 */
no_apic:

        /* A hardware interrupt: line 5 at vector 25h. */
        mov $0x11, %al
        out %al, $0x20
        mov $0x20, %al
        out %al, $0x21
        mov $0x04, %al
        out %al, $0x21
        mov $0x01, %al
        out %al, $0x21
        mov $0xdf, %al
        out %al, $0x21
        mov $LINE_5, %dx
        mov $1, %al
        out %al, %dx
        MUST_BE16 3, COUNT, "IF = 0 does not hold interrupts off"
        sti
        nop
        nop
        cli
        MUST_BE16 4, COUNT, "the interrupt does not arrive"
        sti
        /* The same line again: a second edge. */
        mov $LINE_5, %dx
        xor %al, %al
        out %al, %dx
        inc %al
        out %al, %dx
        jmp 1f /* TCG looks for interrupts at jumps */
1:      cli
        MUST_BE16 5, COUNT, "the second edge does not arrive"

        /* The table may lie elsewhere. */
        VECTOR 0x40, note, 0x5000
        movw $0, 4 * 0x40
        lidtl %cs:moved
        int $0x40
        MUST_BE16 6, COUNT, "LIDT does not move the table"

        IS_TCG
        je done
        /* Segments have limits: a word at FFFFh is #GP. */
        VECTOR 13, note, 0x5000
        mov $after_gp, %di
beyond: mov 0xffff, %ax
after_gp:
        MUST_BE16 7, COUNT, "a word at FFFFh is not #GP"
        MUST_BE16 beyond, IP_SEEN, "#GP is a fault"
done:   PASS

/* Writes down its frame. For faults DI says where to go on. */
note:
        mov %sp, SP_SEEN
        push %bp
        mov %sp, %bp
        push %ax
        incw COUNT
        mov 2(%bp), %ax
        mov %ax, IP_SEEN
        mov 4(%bp), %ax
        mov %ax, CS_SEEN
        mov 6(%bp), %ax
        mov %ax, FLAGS_SEEN
        pushfw
        pop %ax
        test $0x300, %ax
        MUST z, "IF or TF is set in a handler"
        cmpw $after_int, IP_SEEN
        je 1f
        test %di, %di
        jz 1f
        mov %di, 2(%bp)
        xor %di, %di
1:      pop %ax
        pop %bp
        iretw

hardware:
        push %ax
        incw COUNT
        mov $0x20, %al
        out %al, $0x20
        pop %ax
        iretw

moved:  .word 0x3ff
        .long 0x5000
        .balign 8
gdt:    .quad 0, 0x00cf93000000ffff
gdtr:   .word 15
        .long ROM_HIGH + gdt
