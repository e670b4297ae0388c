/*
 * entry_metal.S: the world switch of the metal substrate. Guest code runs in ring 1 or 3 and is
 * entered by IRETQ; translated code comes back by SYSCALL (from the stubs), applications that run
 * untranslated by the traps of src/metal/trap.S. Ring-0 code here runs with interrupts off.
 *
 * The stubs are copied into shared memory, because ring 3 cannot execute the image and ring 1 shall
 * not: they are position-independent and reach nothing but r15, r13 and the return stack.
 */
#include "bt/bt_contract.h"
#include "bt/stubs.h"
#include "bt/world_metal.h"
#include "metal/metal_contract.h"

#define STUB(name)                                                                                 \
        .globl name;                                                                               \
        .type name, @function;                                                                     \
        name:

/* Flags of the guest that an application running untranslated has in the host's register. */
#define DIRECT_FLAGS 0x244dd5 /* CF PF AF ZF SF DF OF NT AC ID */
#define HOST_IF 0x202
#define BT_LEAVE_CODE 1 /* BT_LEAVE */

        .text

/* u32 bt_enter(struct cpu *cpu, const void *code) */
        .globl bt_enter
        .type bt_enter, @function
bt_enter:
        push    %rbp
        mov     %rsp, %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        sub     $24, %rsp               /* C calls find an aligned stack */
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
        cli
        cmp     $WORLD_DIRECT, %rsi     /* it polls nothing: was there a kick since the caller looked? */
        jne     1f
        cmpl    $0, HOT_KICK(%rdi)
        jne     kicked
1:      mov     %rsp, HOT_HOST_RSP(%rdi)
        mov     %rdi, %r15
        mov     %rsi, %r11
        mov     %rdi, bt_world+WORLD_CPU(%rip)
        fxrstor64 CPU_FX(%r15)
        .globl bt_enter_frame
bt_enter_frame:
        jmp     resume
        .size bt_enter, . - bt_enter

/* _Noreturn void bt_resume(struct cpu *cpu, u64 to): from a trap handler into guest code: `to` is
 * an address in the cache or BT_DIRECT. */
        .globl bt_resume
        .type bt_resume, @function
bt_resume:
        mov     %rdi, %r15
        mov     %rsi, %r11
resume:                                 /* r15 = cpu, r11 = where to; all guest state in struct cpu */
        cmpl    $0, bt_world+WORLD_MEASURE(%rip)
        jne     measure_entry
measured_entry:
        cmp     $WORLD_DIRECT, %r11
        je      resume_direct
        cmpl    $0, bt_world+WORLD_IS_DIRECT(%rip)
        jne     leave_direct_world
resume_translated:
        mov     HOT_RING_USER(%r15), %eax
        imul    $METAL_CS3-METAL_CS1, %eax, %eax
        lea     METAL_SS1(%rax), %ecx
        push    %rcx
        push    HOT_RETURN_RSP(%r15)
        movzwl  HOT_FLAGS16(%r15), %ecx
        mov     %ecx, %edx
        shr     $8, %ecx
        and     $1, %edx
        shl     $11, %edx
        lea     HOST_IF(%rcx,%rdx), %ecx
        push    %rcx
        add     $METAL_CS1, %eax
        push    %rax
        push    %r11
        mov     HOT_WINDOW(%r15), %r14
        mov     HOT_VIEW_TABLE(%r15), %r13
        mov     CPU_EIP(%r15), %r8d     /* for a unit's indirect entry */
        mov     CPU_GPR+8*4(%r15), %r12d
        mov     CPU_GPR+8*0(%r15), %eax /* the upper halves are zero, and may have
                                         * been left out when this was stored */
        mov     CPU_GPR+8*1(%r15), %ecx
        mov     CPU_GPR+8*2(%r15), %edx
        mov     CPU_GPR+8*3(%r15), %ebx
        mov     CPU_GPR+8*5(%r15), %ebp
        mov     CPU_GPR+8*6(%r15), %esi
        mov     CPU_GPR+8*7(%r15), %edi
        add     HOT_DELTA(%r15), %r15
        iretq

/* Back from direct execution: the monitor's descriptors, and GS with base 0. */
leave_direct_world:
        lgdt    bt_world+WORLD_GDT_MONITOR(%rip)
        mov     $METAL_SS3, %eax
        mov     %eax, %gs
        movl    $0, bt_world+WORLD_IS_DIRECT(%rip)
        jmp     resume_translated

/* The application itself, in compatibility mode. Its segments were checked (rc_shadow_matches). */
resume_direct:
        cmpl    $0, bt_world+WORLD_IS_DIRECT(%rip)
        jne     1f
        lgdt    bt_world+WORLD_GDT_DIRECT(%rip)
        movl    $1, bt_world+WORLD_IS_DIRECT(%rip)
1:      movl    $1, bt_world+WORLD_FS_FOREIGN(%rip)
        movzwl  HOT_SELECTORS+4(%r15), %eax
        push    %rax
        push    CPU_GPR+8*4(%r15)
        mov     CPU_EFLAGS(%r15), %eax
        and     $DIRECT_FLAGS, %eax
        or      $HOST_IF, %eax
        push    %rax
        movzwl  HOT_SELECTORS+2(%r15), %eax
        push    %rax
        mov     CPU_EIP(%r15), %eax
        push    %rax
        mov     HOT_SELECTORS+0(%r15), %es
        mov     HOT_SELECTORS+6(%r15), %ds
        mov     HOT_SELECTORS+8(%r15), %fs
        mov     HOT_SELECTORS+10(%r15), %gs
        mov     CPU_GPR+8*0(%r15), %eax
        mov     CPU_GPR+8*1(%r15), %ecx
        mov     CPU_GPR+8*2(%r15), %edx
        mov     CPU_GPR+8*3(%r15), %ebx
        mov     CPU_GPR+8*5(%r15), %ebp
        mov     CPU_GPR+8*6(%r15), %esi
        mov     CPU_GPR+8*7(%r15), %edi
        iretq

measure_entry:
        mov     %r15, %rdi
        mov     %r11, %rsi
        mov     %r11, %rbx
        mov     %rsp, %r12
        and     $-16, %rsp
        call    bt_measure_entry
        mov     %r12, %rsp
        mov     %rbx, %r11
        jmp     measured_entry
        .size bt_resume, . - bt_resume

/* SYSCALL out of a stub: r8d = argument, r9d = callout, r10 = the guest's ECX. RSP is still the
 * return stack. */
        .p2align 4
        .globl bt_syscall_entry
        .type bt_syscall_entry, @function
bt_syscall_entry:
        mov     bt_world+WORLD_CPU(%rip), %r15
        mov     %rax, CPU_GPR+8*0(%r15)
        mov     %r10, CPU_GPR+8*1(%r15)
        mov     %rdx, CPU_GPR+8*2(%r15)
        mov     %rbx, CPU_GPR+8*3(%r15)
        mov     %r12, CPU_GPR+8*4(%r15)
        mov     %rbp, CPU_GPR+8*5(%r15)
        mov     %rsi, CPU_GPR+8*6(%r15)
        mov     %rdi, CPU_GPR+8*7(%r15)
        mov     %r11d, %eax             /* RFLAGS as they were (an emulated SYSCALL may lose some) */
        mov     %r11d, %ecx
        shr     $11, %eax
        shl     $8, %ecx
        and     $1, %eax
        and     $0xd500, %ecx
        or      %ecx, %eax
        mov     %ax, HOT_FLAGS16(%r15)
        mov     %rsp, HOT_RETURN_RSP(%r15)
        mov     HOT_HOST_RSP(%r15), %rsp
        lea     64(%rsp), %rbp          /* bt_enter's frame */
        cmpl    $0, bt_world+WORLD_MEASURE(%rip)
        jne     measure_callout
measured_callout:
        cmp     $CO_COUNT, %r9
        jae     bad_callout
        mov     HOT_CALLOUT_COUNTS(%r15), %r10
        incq    (%r10,%r9,8)
        mov     %r15, %rdi
        mov     %r8d, %esi
        call    *bt_callout_table(,%r9,8)
        cmp     $BT_LEAVE_CODE, %rax
        je      bt_exit_common
        mov     %rax, %r11
        ja      resume
        mov     HOT_CALLOUT_RETURN(%r15), %r11
        jmp     resume
measure_callout:
        mov     %r8, %r12
        mov     %r9, %r13
        mov     %r15, %rdi
        mov     %r9d, %esi
        mov     %r8d, %edx
        call    bt_measure_callout
        mov     %r12, %r8
        mov     %r13, %r9
        jmp     measured_callout
bad_callout:
        mov     %r9, %rdi
        call    bt_bad_callout
        .size bt_syscall_entry, . - bt_syscall_entry

/* INT n, most often of an application that runs untranslated: as trap.S leaves vectors from 32 on,
 * with a vector, an error code and the processor's frame on RSP0's stack. Where everything is plain
 * the registers go to struct cpu at once; else this is a trap like any other. Compatibility mode
 * does not reach r8-r15. */
#define INT_VECTOR 0
#define INT_RIP 16
#define INT_CS 24
#define INT_RFLAGS 32
#define INT_RSP 40
#define INT_SS 48
#define INT_STEPPED_OR_AC 0x40100

        .p2align 4
        .globl bt_int_entry
        .type bt_int_entry, @function
bt_int_entry:
        cmpl    $0, bt_world+WORLD_IS_DIRECT(%rip)
        je      metal_trap_common
        cmpl    $0, bt_world+WORLD_MEASURE(%rip)
        jne     metal_trap_common
        testl   $INT_STEPPED_OR_AC, INT_RFLAGS(%rsp)
        jnz     metal_trap_common
        mov     bt_world+WORLD_CPU(%rip), %r15
        movzwl  INT_CS(%rsp), %r8d      /* the selectors as they were when ring 3 was entered? */
        cmp     %r8w, HOT_SELECTORS+2(%r15)
        jne     metal_trap_common
        movzwl  INT_SS(%rsp), %r9d
        cmp     %r9w, HOT_SELECTORS+4(%r15)
        jne     metal_trap_common
        mov     %es, %r8d
        cmp     %r8w, HOT_SELECTORS+0(%r15)
        jne     metal_trap_common
        mov     %ds, %r9d
        cmp     %r9w, HOT_SELECTORS+6(%r15)
        jne     metal_trap_common
        mov     %fs, %r8d
        cmp     %r8w, HOT_SELECTORS+8(%r15)
        jne     metal_trap_common
        mov     %gs, %r9d
        cmp     %r9w, HOT_SELECTORS+10(%r15)
        jne     metal_trap_common
        cld
        mov     INT_RSP(%rsp), %r10d
        mov     INT_RFLAGS(%rsp), %r11d
        mov     %eax, CPU_GPR+8*0(%r15) /* the upper halves stay zero */
        mov     %ecx, CPU_GPR+8*1(%r15)
        mov     %edx, CPU_GPR+8*2(%r15)
        mov     %ebx, CPU_GPR+8*3(%r15)
        mov     %r10d, CPU_GPR+8*4(%r15)
        mov     %ebp, CPU_GPR+8*5(%r15)
        mov     %esi, CPU_GPR+8*6(%r15)
        mov     %edi, CPU_GPR+8*7(%r15)
        mov     CPU_EFLAGS(%r15), %eax
        and     $DIRECT_FLAGS, %r11d
        and     $~DIRECT_FLAGS, %eax
        or      %r11d, %eax
        mov     %eax, CPU_EFLAGS(%r15)
        mov     %r15, %rdi
        movzbl  INT_VECTOR(%rsp), %esi
        mov     INT_RIP(%rsp), %edx
        mov     HOT_HOST_RSP(%r15), %rsp
        lea     64(%rsp), %rbp          /* bt_enter's frame */
        call    bt_direct_int
        cmp     $BT_LEAVE_CODE, %rax
        mov     %rax, %r11
        jne     measured_entry
        jmp     bt_exit_common
        .size bt_int_entry, . - bt_int_entry

/* A trap handler ends here (by IRETQ to ring 0): guest registers already stored,
 * rsp = HOT_HOST_RSP, r15 = cpu. */
        .globl bt_fault_exit
        .type bt_fault_exit, @function
bt_fault_exit:
bt_exit_common:
        fxsave64 CPU_FX(%r15)
        fninit
        fldcw   4(%rsp)
        ldmxcsr (%rsp)
        cmpl    $0, bt_world+WORLD_FS_FOREIGN(%rip)
        je      1f
        movl    $0, bt_world+WORLD_FS_FOREIGN(%rip)
        call    metal_load_tls
1:      mov     HOT_EXIT(%r15), %eax
leave_bt_enter:
        add     $24, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        sti
        ret
kicked:
        mov     $WORLD_EXIT_KICK, %eax
        jmp     leave_bt_enter
        .size bt_fault_exit, . - bt_fault_exit

/* ---- Stubs: executed by ring 1 and ring 3, at a copy ---- */

        .section .text.stubs, "ax", @progbits
        .p2align 12
        .globl bt_stubs_start
bt_stubs_start:

STUB(bt_stub_load_segment)
        load_segment_body

/* r8d = argument, r9d = callout. The kind that does not come back is jumped to, the returning kind
 * called. */
        .p2align 4
STUB(bt_stub_callout)
        movq    $0, HOT_CALLOUT_RETURN(%r15)
        mov     %rcx, %r10
        syscall
        .p2align 4
STUB(bt_stub_callout_returning)
        pop     HOT_CALLOUT_RETURN(%r15)
        mov     %rcx, %r10
        syscall

/* The sentinel frame: where the oldest translated frame returns to. */
        .p2align 4
        nop
STUB(bt_stub_underflow)
        lea     bt_stub_underflow(%rip), %r9
        push    %r9
/* A return whose prediction failed, or whose stack was empty: r8d = guest EIP. Flags preserved. */
STUB(bt_stub_return_miss)
        mov     HOT_RETURN_MISSES(%r15), %r9
        lea     1(%r9), %r9
        mov     %r9, HOT_RETURN_MISSES(%r15)
STUB(bt_stub_poll)
        mov     CPU_SAFEPOINT(%r15), %r9d
        lea     (,%r8,4), %r9d
        movzwl  %r9w, %r9d
        jmp     *(%r13,%r9,2)

/* An indirect branch whose table entry is empty or another unit's: r8d = guest EIP. */
        .p2align 4
STUB(bt_stub_indirect_miss)
        mov     $CO_INDIRECT, %r9d
        jmp     bt_stub_callout
        .globl bt_stubs_end
bt_stubs_end:

        .section .note.GNU-stack,"",@progbits
