/* start.S: how a guest test begins and how every trap reaches C.
 *
 * The loader (Multiboot 1) enters in flat 32-bit protected mode with paging and interrupts off. All
 * 256 vectors enter through a table of stubs that make one frame of it (struct frame in guest.h). */

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10

    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

    .text
    .globl start
start:
    cli
    cld
    mov $boot_stack_top, %esp
    push $0
    popf
    mov %eax, boot_magic
    mov %ebx, boot_info
    lgdt gdt_pointer
    ljmp $KERNEL_CODE, $1f
1:  mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    call guest_main
    cli
2:  hlt
    jmp 2b

/* One stub of 16 bytes per vector; those without an error code push a zero. */
    .align 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .align 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    pushal
    push %ds
    push %es
    push %fs
    push %gs
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    push %esp
    call trap_entry
    add $4, %esp
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popal
    add $8, %esp
    iret

/* void run_enter(u32 entry, u32 ring): loads the registers in run_in and goes to entry at ring 0 or 3;
 * comes back through run_leave when a trap ends the run. */
    .globl run_enter
run_enter:
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    pushal
    mov %esp, run_kernel_esp
    lea -64(%esp), %edx
    mov %edx, tss_esp0
    cmp $0, %ecx
    jne 1f
    mov run_in_esp, %edx
    test %edx, %edx
    jnz 2f
    mov %esp, %edx
2:
    mov %edx, %esp
    pushl run_in_eflags
    push $KERNEL_CODE
    push %eax
    jmp 2f
1:  pushl run_in_ss
    pushl run_in_esp
    pushl run_in_eflags
    pushl run_in_cs
    push %eax
2:  mov run_in_eax, %eax
    mov run_in_ecx, %ecx
    mov run_in_edx, %edx
    mov run_in_ebx, %ebx
    mov run_in_ebp, %ebp
    mov run_in_esi, %esi
    mov run_in_edi, %edi
    mov run_in_es, %es
    mov run_in_fs, %fs
    mov run_in_gs, %gs
    mov run_in_ds, %ds
    iret

    .globl run_leave
run_leave:
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    mov run_kernel_esp, %esp
    popal
    ret

    .bss
    .align 16
    .globl boot_stack_top, boot_magic, boot_info, run_kernel_esp
    .space 65536
boot_stack_top:
boot_magic: .long 0
boot_info: .long 0
run_kernel_esp: .long 0
    .section .note.GNU-stack, "", @progbits
