/*
 * rom.h: what every ROM test begins with. A test is one assembly file that becomes a ROM of 64 KiB:
 * the CPU starts at `reset`, in real mode, with CS at FFFF0000h. It ends in PASS, or in the first
 * check that fails; its words go to the debug console (port E9h), its result to isa-debug-exit
 * (port F4h), as guest.h has it: status 33 passed, 35 failed.
 *
 * Checks need a stack and preserve everything but flags.
 */
#define ROM_HIGH 0xffff0000
#define ROM_SEGMENT 0xf000
#define ROM_LOW 0xf0000

        .section .reset, "ax"
        .code16
        jmp reset

        .text
        .code16

/* The text behind the call is what failed. */
fail:
        cld
        pop %si
        mov $'!', %al
        out %al, $0xe9
1:      lodsb %cs:(%si), %al
        test %al, %al
        jz 2f
        out %al, $0xe9
        jmp 1b
2:      mov $'\n', %al
        out %al, $0xe9
        mov $0x11, %al
        out %al, $0xf4
3:      hlt
        jmp 3b

/* The same in 32-bit code whose CS base is 0. */
        .code32
fail32:
        cld
        pop %esi
        mov $'!', %al
        out %al, $0xe9
1:      lodsb %cs:(%esi), %al
        test %al, %al
        jz 2f
        out %al, $0xe9
        jmp 1b
2:      mov $'\n', %al
        out %al, $0xe9
        mov $0x11, %al
        out %al, $0xf4
3:      hlt
        jmp 3b
        .code16

/* Goes on when the condition (e, ne, b, ...) holds. */
.macro MUST cond:req, text:req
        j\cond 9f
        call fail
        .asciz "\text"
9:
.endm
.macro MUST32 cond:req, text:req
        j\cond 9f
        call fail32
        .asciz "\text"
9:
.endm
.macro MUST_BE expected:req, place:req, text:req
        cmpl $\expected, \place
        MUST e, "\text"
.endm
.macro MUST_BE16 expected:req, place:req, text:req
        cmpw $\expected, \place
        MUST e, "\text"
.endm
.macro MUST_BE32 expected:req, place:req, text:req
        cmpl $\expected, \place
        MUST32 e, "\text"
.endm

.macro PASS
        mov $0x10, %al
        out %al, $0xf4
9:      hlt
        jmp 9b
.endm

/* DS = ES = SS = 0, the stack below 7C00h. */
.macro PLAIN_SEGMENTS
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
.endm

/* Goes on in the copy of the ROM below 1 MiB. */
.macro GO_LOW
        ljmp $ROM_SEGMENT, $9f
9:
.endm

/* ZF when this is QEMU's TCG, which checks no segment limits and has an x87 after FNINIT. Changes
 * EAX to EDX. */
.macro IS_TCG
        mov $0x40000000, %eax
        cpuid
        cmp $0x54474354, %ebx /* "TCGT" */
.endm
