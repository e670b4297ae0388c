/*
 * native_entry.S: the way into 32-bit code and back. 64-bit code loads the state, a far jump to the
 * kernel's 32-bit user segment enters the case, and the far jump behind the case ends in the copy
 * of fuzz_stub, which comes back here.
 */
    .intel_syntax noprefix
    .text

/* struct native_state of native.c */
#define AT(off) [rip + fuzz_native_state + off]
#define FX 0
#define GPR 512
#define FLAGS 544
#define FAR 552
#define SEGS 560        /* ES, CS, SS, DS, FS, GS */
#define HOST_RSP 576
#define HOST_FS_BASE 584
#define RUNNING 592
#define IRET 600        /* EIP, CS, EFLAGS, ESP, SS */
#define TF 0x100
#define FLAT_DS 0x2b

/* void fuzz_native_enter(void): runs what fuzz_native_state holds, and leaves there what comes out.
 * Returns 0, or what fuzz_native_leave was given. */
    .globl fuzz_native_enter
    .type fuzz_native_enter, @function
fuzz_native_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    rdfsbase rax
    mov AT(HOST_FS_BASE), rax
    mov AT(HOST_RSP), rsp
    mov dword ptr AT(RUNNING), 1
    fxrstor AT(FX)
    test dword ptr AT(FLAGS), TF
    mov ax, AT(SEGS + 6)
    mov ds, eax
    mov ax, AT(SEGS)
    mov es, eax
    mov ax, AT(SEGS + 4)
    mov ss, eax
    mov ax, AT(SEGS + 8)
    mov fs, eax
    mov ax, AT(SEGS + 10)
    mov gs, eax
    mov eax, AT(GPR)
    mov ecx, AT(GPR + 4)
    mov edx, AT(GPR + 8)
    mov ebx, AT(GPR + 12)
    mov ebp, AT(GPR + 20)
    mov esi, AT(GPR + 24)
    mov edi, AT(GPR + 28)
    jnz 1f
    push qword ptr AT(FLAGS)
    popfq
    mov esp, AT(GPR + 16)
    jmp fword ptr AT(FAR)
/* With TF, the first instruction to be trapped is the case's. IRETQ leaves the upper half of ESP
 * alone when SS is a 16-bit segment: such cases start without TF. */
1:  lea rsp, AT(IRET)
    iretq

/* What lies at FUZZ_STUB: only copied from here. A case ends with the bytes EA 00 90 FF 0F 33 00:
 * 32-bit code jumps to 0033:0FFF9000, which is fuzz_stub, 16-bit code to 0FFF:9000, where an LDT
 * descriptor has 32-bit code with its base such that it is fuzz_stub16. */
    .section .data.rel.ro, "aw", @progbits
    .globl fuzz_stub, fuzz_stub16, fuzz_stub_end
fuzz_stub:
    jmp qword ptr [rip + fuzz_stub_target]
    .balign 8
fuzz_stub_target:
    .quad fuzz_native_exit
    .balign 64
fuzz_stub16:
    .byte 0xea
    .long 0x0fff9000
    .short 0x33
fuzz_stub_end:
    .text

    .globl fuzz_native_exit
fuzz_native_exit:
    mov AT(GPR), eax
    mov AT(GPR + 4), ecx
    mov AT(GPR + 8), edx
    mov AT(GPR + 12), ebx
    mov AT(GPR + 16), esp
    mov AT(GPR + 20), ebp
    mov AT(GPR + 24), esi
    mov AT(GPR + 28), edi
    mov rsp, AT(HOST_RSP)
    pushfq
    pop qword ptr AT(FLAGS)
    push 2
    popfq
    fxsave AT(FX)
    mov word ptr AT(SEGS), es
    mov word ptr AT(SEGS + 4), ss
    mov word ptr AT(SEGS + 6), ds
    mov word ptr AT(SEGS + 8), fs
    mov word ptr AT(SEGS + 10), gs
    xor eax, eax
leave_native:
    mov ecx, FLAT_DS
    mov ss, ecx
    mov ds, ecx
    mov es, ecx
    xor ecx, ecx
    mov fs, ecx
    mov rcx, AT(HOST_FS_BASE)
    wrfsbase rcx
    fninit
    push 0x1f80
    ldmxcsr [rsp]
    pop rcx
    mov dword ptr AT(RUNNING), 0
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size fuzz_native_enter, . - fuzz_native_enter

/* void fuzz_native_leave(int value): ends the case from a signal handler. */
    .globl fuzz_native_leave
    .type fuzz_native_leave, @function
fuzz_native_leave:
    mov eax, edi
    mov rsp, AT(HOST_RSP)
    jmp leave_native
    .size fuzz_native_leave, . - fuzz_native_leave

/* The signal handlers begin here: alignment checks, NT and TF off, then the thread's own FS base, before any C
 * code runs. The case's selectors stay to be read. */
    .globl fuzz_native_signal
    .type fuzz_native_signal, @function
fuzz_native_signal:
    pushfq
    and dword ptr [rsp], ~0x44500
    popfq
    cmp dword ptr AT(RUNNING), 0
    je 1f
    mov word ptr AT(SEGS), es
    mov word ptr AT(SEGS + 6), ds
    mov word ptr AT(SEGS + 8), fs
    mov word ptr AT(SEGS + 10), gs
    mov rax, AT(HOST_FS_BASE)
    wrfsbase rax
1:  jmp fuzz_on_signal
    .size fuzz_native_signal, . - fuzz_native_signal
    .section .note.GNU-stack, "", @progbits
