/*
 * start.S: the first 64-bit instructions. container.S jumps here at the physical address, with its
 * own page tables: edi holds the boot loader's magic, esi its information, edx the end of all that
 * was loaded.
 */
#include "metal/metal_contract.h"

#define BOOT_STACK_BYTES 0x40000

        .section .text.metal_start, "ax", @progbits
        .globl  metal_start
        .type   metal_start, @function
metal_start:
        movabs  $1f, %rax
        jmp     *%rax
1:      xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %eax, %fs
        mov     %eax, %gs
        lea     metal_boot_stack_top(%rip), %rsp
        xor     %ebp, %ebp                      /* the end of every backtrace */
        fninit
        pushq   $0x1f80                         /* MXCSR at reset: all exceptions masked */
        ldmxcsr (%rsp)
        pop     %rax
        mov     %edi, %edi
        mov     %esi, %esi
        mov     %edx, %edx
        call    metal_boot_entry
1:      hlt
        jmp     1b
        .size   metal_start, . - metal_start

/* The stack of the monitor. paging.c takes the page below it away. */
        .section .bss.guarded, "aw", @nobits
        .balign 4096
        .globl  metal_boot_stack_guard, metal_boot_stack_top
metal_boot_stack_guard:
        .skip   4096
        .skip   BOOT_STACK_BYTES
metal_boot_stack_top:

        .section .note.GNU-stack, "", @progbits
