/*
 * metal_contract.h: numbers that assembly and C of the metal substrate share.
 */
#ifndef RINGFOLD_METAL_CONTRACT_H
#define RINGFOLD_METAL_CONTRACT_H

#ifdef __ASSEMBLER__
#define METAL_U64(x) x
#else
#define METAL_U64(x) x##ull
#endif

/* ---- The upper half of the address space ---- */
#define METAL_DIRECT METAL_U64(0xffff800000000000) /* all physical memory, RW, NX, U=0 */
#define METAL_SHARED METAL_U64(0xffff808000000000) /* what translated code reaches, U=0 */
#define METAL_RING3_DELTA METAL_U64(0x8000000000)  /* the same with U=1 this much above */
#define METAL_SHARED_BYTES METAL_U64(0x40000000)   /* at most */
#define METAL_IMAGE METAL_U64(0xffffffff80000000)  /* the image: this + its physical address */

/* Where the image's container starts (container.S: physical, above the hole that some machines have
 * at 15 MiB), and the image in it. */
#define METAL_CONTAINER METAL_U64(0x1000000)
#define METAL_LOAD METAL_U64(0x1001000)

/* ---- Selectors. Those below METAL_CS0 are in the monitor's GDT only. ---- */
#define METAL_CS0 0xfff0 /* ring 0, 64-bit: in both tables; SYSCALL loads CS with it */
#define METAL_SS0 0xfff8 /* ring 0 data: SYSCALL loads SS with it */
#define METAL_CS1 0x09   /* 64-bit code, DPL 1, RPL 1 */
#define METAL_SS1 0x11   /* data, DPL 1 */
#define METAL_CS3 0x1b   /* 64-bit code, DPL 3 */
#define METAL_SS3 0x23   /* flat data, base 0, DPL 3 */
#define METAL_TSS 0x30   /* 16 bytes */
#define METAL_LDT 0x40   /* 16 bytes: the LDT of direct execution */

/* ---- Vectors of the machine's own interrupts, DPL 0 gates ---- */
#define METAL_VECTOR_PIC 0xe0   /* e0h-efh: the 8259 pair, IRQ 0-15 */
#define METAL_VECTOR_TIMER 0xf0 /* local APIC timer */
#define METAL_VECTOR_SPURIOUS 0xff
#define METAL_TRAP_STUB_BYTES 16 /* distance of the vectors' stubs in trap.S */

/* struct metal_frame, from its start */
#define FRAME_VECTOR 120
#define FRAME_ERROR 128
#define FRAME_RIP 136
#define FRAME_CS 144
#define FRAME_RFLAGS 152
#define FRAME_RSP 160
#define FRAME_SS 168
#define FRAME_BYTES 176

#endif
