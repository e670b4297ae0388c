/*
 * The state after power-on, and the same after a reset by software from a changed state.
 * Source: SDM volume 3, section 9.1.1 "Processor State After Reset", table 9-1.
 * OPTIONS: -device pc-testdev
 */
#include "rom.h"

        .set STATE, 0x600 /* eax, ecx, edx, ebx, esp, ebp, esi, edi, eflags, cr0, cr2, cr3, cr4 */
        .set PROBE, 0x8000 /* a word of the ROM that the copy gets another value for */
        .set RUNS, 0xe0   /* pc-testdev's scratch register outlives resets */

reset:
        mov %eax, STATE
        mov %ecx, STATE + 4
        mov %edx, STATE + 8
        mov %ebx, STATE + 12
        mov %esp, STATE + 16
        mov %ebp, STATE + 20
        mov %esi, STATE + 24
        mov %edi, STATE + 28
        pushfl /* SS:SP is 0:0: this goes to the end of the first 64 KiB */
        popl STATE + 32
        mov %cr0, %eax
        mov %eax, STATE + 36
        mov %cr2, %eax
        mov %eax, STATE + 40
        mov %cr3, %eax
        mov %eax, STATE + 44
        mov %cr4, %eax
        mov %eax, STATE + 48

        .irp register, 0, 4, 12, 16, 20, 24, 28
        MUST_BE 0, STATE + \register, "a general register other than EDX is not 0"
        .endr
        MUST_BE 2, STATE + 32, "EFLAGS"
        MUST_BE 0x60000010, STATE + 36, "CR0"
        MUST_BE 0, STATE + 40, "CR2"
        MUST_BE 0, STATE + 44, "CR3"
        MUST_BE 0, STATE + 48, "CR4"

        mov %cs, %ax
        cmp $0xf000, %ax
        MUST e, "CS selector"
        .irp segment, ds, es, fs, gs, ss
        mov %\segment, %ax
        test %ax, %ax
        MUST z, "\segment"
        .endr
        mov %dr6, %eax
        cmp $0xffff0ff0, %eax
        MUST e, "DR6"
        mov %dr7, %eax
        cmp $0x400, %eax
        MUST e, "DR7"
        .irp number, 0, 1, 2, 3
        mov %dr\number, %eax
        test %eax, %eax
        MUST z, "DR0 to DR3"
        .endr
        sgdtl STATE
        MUST_BE16 0xffff, STATE, "GDTR limit"
        MUST_BE 0, STATE + 2, "GDTR base"
        sidtl STATE
        MUST_BE16 0xffff, STATE, "IDTR limit"
        MUST_BE 0, STATE + 2, "IDTR base"

        mov $1, %eax
        cpuid
        cmp %eax, STATE + 8
        MUST e, "EDX is not the processor's signature"

        bt $24, %edx /* FXSR */
        jnc no_sse
        mov $0x200, %eax
        mov %eax, %cr4
        stmxcsr STATE
        MUST_BE 0x1f80, STATE, "MXCSR"
        xor %eax, %eax
        mov %eax, %cr4
no_sse:
        IS_TCG
        je no_x87
        fnstenv STATE
        MUST_BE16 0x40, STATE, "x87 control word"
        MUST_BE16 0, STATE + 2, "x87 status word"
        MUST_BE16 0x5555, STATE + 4, "x87 tag word"
no_x87:

/* CS's base: what the copy below 1 MiB says differs from what CS sees. */
        mov $ROM_SEGMENT, %ax
        mov %ax, %es
        movw $0x1234, %es:PROBE
        cmpw $0xffff, %es:PROBE
        MUST e, "the copy below 1 MiB can be written"
        mov $0x80000058, %eax /* PAM0 of the host bridge */
        mov $0xcf8, %dx
        out %eax, %dx
        mov $0xcfd, %dx
        mov $0x30, %al
        out %al, %dx
        movw $0x1234, %es:PROBE
        cmpw $0x1234, %es:PROBE
        MUST e, "PAM does not open the copy"
        cmpw $0xffff, %cs:PROBE
        MUST e, "CS does not lie at FFFF0000h"
        movw $0x1234, %cs:PROBE
        cmpw $0xffff, %cs:PROBE
        MUST e, "the ROM can be written"

/* Once more after a reset that finds everything changed. */
        in $RUNS, %eax
        inc %eax
        out %eax, $RUNS
        cmp $2, %eax
        je done
        xor %al, %al /* QEMU's reset leaves PAM as it is */
        mov $0xcfd, %dx
        out %al, %dx
        mov $0x12345678, %eax
        mov %eax, %cr3
        mov %eax, %ebx
        mov %eax, %ebp
        mov %eax, %dr0
        lidtl %cs:table
        mov %ax, %fs
        fninit
        mov $3, %al
        out %al, $0x92
stay:   hlt
        jmp stay
done:   PASS

table:  .word 0x3ff
        .long 0x5000
