/*
 * nano.S: the nanobenchmark kernel (tests/guest/nano), as it was built. STUDY_NANO is its file's
 * name; where no 32-bit code could be compiled there is none, and the kernel is empty.
 */
    .section .rodata, "a"
    .balign 16
    .globl study_nano, study_nano_bytes
study_nano:
#ifdef STUDY_NANO
    .incbin STUDY_NANO
#endif
nano_end:
    .balign 8
study_nano_bytes:
    .quad nano_end - study_nano
    .section .note.GNU-stack, "", @progbits
