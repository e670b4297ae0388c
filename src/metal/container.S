/*
 * container.S: the 32-bit ELF file that boot loaders understand, around the 64-bit image. It holds
 * the headers of three boot protocols, the code that takes the CPU from 32-bit protected mode to
 * long mode, the image and its symbol table.
 *
 * Multiboot 1: "Multiboot Specification version 0.6.96", section 3.1 "OS image format".
 * Multiboot 2: "Multiboot2 Specification version 2.0", section 3.1 "OS image format".
 * PVH: Xen, docs/misc/pvh.pandoc "x86/HVM direct boot ABI"; the note is XEN_ELFNOTE_PHYS32_ENTRY.
 * All three enter with flat 32-bit segments, paging off, interrupts off, A20 on.
 */
#include "metal/metal_contract.h"

#define COM1 0x3f8
#define EFER 0xc0000080

        .section .head, "ax"
        .code32

#ifndef METAL_WITHOUT_MULTIBOOT1
/* QEMU takes any file with this header for Multiboot 1, so that testing PVH needs a file without. */
        .balign 4
        .long   0x1badb002
        .long   0x00000003                      /* modules page aligned, memory map wanted */
        .long   -(0x1badb002 + 0x00000003)
#endif

        .balign 8
multiboot2_header:
        .long   0xe85250d6
        .long   0                               /* 32-bit protected mode of i386 */
        .long   multiboot2_end - multiboot2_header
        .long   -(0xe85250d6 + 0 + (multiboot2_end - multiboot2_header))
        .short  1, 0                            /* information request: memory map */
        .long   12
        .long   6
        .balign 8
        .short  6, 0                            /* modules page aligned */
        .long   8
        .short  0, 0
        .long   8
multiboot2_end:

        .globl  container_start
container_start:                                /* eax: the loader's magic, ebx: its information */
        mov     %eax, %edi
        mov     %ebx, %esi
        jmp     enter
pvh_start:                                      /* ebx: hvm_start_info */
        mov     $0x336ec578, %edi
        mov     %ebx, %esi

enter:
        cli
        cld
        mov     $boot_stack_top, %esp
        push    $0
        popf

/* Is there CPUID (EFLAGS.ID can change), long mode, NX? SDM volume 3, section 9.8.5 "Initializing
 * IA-32e Mode". */
        pushf
        pop     %eax
        mov     %eax, %ecx
        xor     $0x200000, %eax
        push    %eax
        popf
        pushf
        pop     %eax
        cmp     %eax, %ecx
        mov     $no_long_mode, %ebp
        je      refuse
        mov     $0x80000000, %eax
        cpuid
        mov     $no_long_mode, %ebp
        cmp     $0x80000001, %eax
        jb      refuse
        mov     $0x80000001, %eax
        cpuid
        bt      $29, %edx
        jnc     refuse
        mov     $no_nx, %ebp
        bt      $20, %edx
        jnc     refuse

/* The first page tables: 4 GiB in 2 MiB pages at 0 and METAL_DIRECT, its first half at METAL_IMAGE. */
        mov     %edi, %ebx
        mov     $boot_tables, %edi
        mov     $(boot_tables_end - boot_tables) / 4, %ecx
        xor     %eax, %eax
        rep stosl
        mov     $0x83, %eax                     /* present, writable, 2 MiB */
        mov     $boot_pd, %edi
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        jnc     1b
        mov     $boot_pd + 3, %eax
        mov     %eax, boot_pdpt_low
        mov     %eax, boot_pdpt_high + 8 * 510
        add     $0x1000, %eax
        mov     %eax, boot_pdpt_low + 8
        mov     %eax, boot_pdpt_high + 8 * 511
        add     $0x1000, %eax
        mov     %eax, boot_pdpt_low + 16
        add     $0x1000, %eax
        mov     %eax, boot_pdpt_low + 24
        movl    $boot_pdpt_low + 3, boot_pml4
        movl    $boot_pdpt_low + 3, boot_pml4 + 8 * 256
        movl    $boot_pdpt_high + 3, boot_pml4 + 8 * 511
        mov     %ebx, %edi

        mov     $0x620, %eax                    /* CR4: PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $boot_pml4, %eax
        mov     %eax, %cr3
        mov     $EFER, %ecx
        rdmsr
        or      $0x900, %eax                    /* LME, NXE */
        wrmsr
        mov     $0x80010033, %eax               /* CR0: PG WP NE ET MP PE */
        mov     %eax, %cr0
        lgdt    boot_gdt_pointer
        mov     $container_end, %edx
        ljmp    $8, $METAL_LOAD                 /* start.S, at its physical address */

/* ebp: what is wrong. Says so on the first serial port and stops. */
refuse:
        mov     $COM1 + 3, %edx                 /* 115200 8N1 */
        mov     $0x83, %al
        out     %al, %dx
        mov     $COM1, %edx
        mov     $1, %al
        out     %al, %dx
        inc     %edx
        xor     %eax, %eax
        out     %al, %dx
        mov     $COM1 + 3, %edx
        mov     $3, %al
        out     %al, %dx
        mov     $COM1 + 1, %edx
        xor     %eax, %eax
        out     %al, %dx
next_character:
        mov     (%ebp), %bl
        inc     %ebp
        test    %bl, %bl
        jz      stop
        mov     $COM1 + 5, %edx
        mov     $1000000, %ecx                  /* a port that never gets ready must not hang this */
1:      in      %dx, %al
        test    $0x20, %al
        loopz   1b
        mov     %bl, %al
        mov     $COM1, %edx
        out     %al, %dx
        jmp     next_character
stop:   hlt
        jmp     stop

no_long_mode:
        .asciz  "ringfold: this CPU has no long mode\r\n"
no_nx:  .asciz  "ringfold: this CPU has no NX (execute disable)\r\n"

        .balign 8
boot_gdt:
        .quad   0
        .quad   0x00af9b000000ffff              /* 64-bit code, DPL 0 */
boot_gdt_pointer:
        .short  . - boot_gdt - 1
        .long   boot_gdt

        .section .image, "a"
        .incbin METAL_IMAGE_FILE
        .balign 4096
        .incbin METAL_SYMBOLS_FILE
        .byte   0

        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 4, 18                        /* name and descriptor bytes, PHYS32_ENTRY */
        .asciz  "Xen"
        .long   pvh_start

        .section .bss
        .balign 4096
boot_tables:
boot_pml4:
        .skip   4096
boot_pdpt_low:
        .skip   4096
boot_pdpt_high:
        .skip   4096
boot_pd:
        .skip   4 * 4096
boot_tables_end:
        .skip   256
boot_stack_top:

        .section .note.GNU-stack, "", @progbits
