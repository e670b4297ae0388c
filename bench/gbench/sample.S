/*
 * sample.S: 32-bit guest code for the micro benchmarks, in the mix that compiled programs have: loads,
 * stores, address arithmetic, comparisons, branches, calls, pushes and pops, some bytes and words, a
 * few string, floating-point and SSE instructions. It is decoded and translated, never run.
 */
        .section .rodata
        .code32
        .balign 64
        .globl  sample_code, sample_code_end
sample_code:
        /* a function with a frame, a loop over an array, an early return */
        pushl   %ebp
        movl    %esp, %ebp
        pushl   %edi
        pushl   %esi
        pushl   %ebx
        subl    $28, %esp
        movl    8(%ebp), %esi
        movl    12(%ebp), %edi
        testl   %edi, %edi
        jle     2f
        xorl    %eax, %eax
        xorl    %ebx, %ebx
1:      movl    (%esi,%ebx,4), %edx
        leal    (%edx,%edx,2), %ecx
        addl    %ecx, %eax
        cmpl    %eax, -16(%ebp)
        jge     3f
        movl    %eax, -16(%ebp)
3:      addl    $1, %ebx
        cmpl    %ebx, %edi
        jne     1b
2:      addl    $28, %esp
        popl    %ebx
        popl    %esi
        popl    %edi
        popl    %ebp
        ret

        /* calls, bytes and words, a table jump */
        subl    $12, %esp
        movzbl  16(%esp), %eax
        cmpb    $9, %al
        ja      4f
        jmp     *0x8049000(,%eax,4)
4:      movl    $0, (%esp)
        call    sample_code
        movw    %ax, 8(%esp)
        movsbl  8(%esp), %edx
        shrl    $3, %edx
        andl    $31, %edx
        btl     %edx, 4(%esp)
        setc    %cl
        movzbl  %cl, %ecx
        call    *%eax
        testb   %al, %al
        je      5f
        imull   $100, %ecx, %ecx
        negl    %ecx
        sbbl    %edx, %edx
        cmovne  %edx, %ecx
5:      addl    $12, %esp
        ret

        /* a copy, a checksum, floating point */
        pushl   %edi
        pushl   %esi
        movl    12(%esp), %edi
        movl    16(%esp), %esi
        movl    20(%esp), %ecx
        shrl    $2, %ecx
        rep movsl
        lock xaddl %eax, (%edi)
        movl    %gs:20, %eax
        fldl    8(%edi)
        fmull   16(%edi)
        faddp
        fstpl   24(%edi)
        movsd   (%esi), %xmm0
        mulsd   8(%esi), %xmm0
        addsd   %xmm0, %xmm1
        movsd   %xmm1, (%edi)
        cvttsd2si %xmm1, %eax
        movdqu  (%esi), %xmm2
        pxor    %xmm3, %xmm2
        movdqa  %xmm2, %xmm4
        popl    %esi
        popl    %edi
        ret

        /* what kernels do */
        pushfl
        cli
        movl    %cr0, %eax
        popfl
        sti
        rdtsc
        pushl   %eax
        call    sample_code
        iret
sample_code_end:

        .section .note.GNU-stack,"",@progbits
