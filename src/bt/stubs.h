/*
 * stubs.h: the body of the stub that needs no world switch, for the assembly of both substrates.
 */
#ifndef RINGFOLD_BT_STUBS_H
#define RINGFOLD_BT_STUBS_H

#ifdef __ASSEMBLER__
/* CO_LOAD_*: the selector and descriptor of the last load again? Then only ESP moves. Flags stay. */
        .macro load_segment_body
        lea     (%r9,%r9,2), %r10
        lea     HOT_SEGMENT_CACHE-SEGMENT_CACHE_BYTES*CO_LOAD_ES(%r15,%r10,8), %r10
        mov     %rcx, %r11
        mov     %r8, HOT_SCRATCH(%r15)
        mov     HOT_ARG0(%r15), %ecx
        mov     16(%r10), %r8
        lea     (%rcx,%r8), %rcx
        jrcxz   1f
        jmp     2f
1:      mov     (%r10), %r8
        mov     (%r8), %rcx
        mov     8(%r10), %r8
        lea     (%rcx,%r8), %rcx
        jrcxz   3f
2:      mov     %r11, %rcx
        mov     HOT_SCRATCH(%r15), %r8
        jmp     bt_stub_callout_returning
3:      mov     %r11, %rcx
        mov     HOT_ARG2(%r15), %r8d
        lea     (%r12,%r8), %r12d
        ret
        .endm
#endif

#endif
