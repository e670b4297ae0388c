/*
 * bt_contract.h: the contract between emitted code, the assembly stubs and C. Every number that
 * emitted code hard-codes stands here once; bt_internal.h asserts each against the C structures.
 *
 * Registers while translated code runs:
 *   rax rcx rdx rbx rbp rsi rdi   the guest's, by the same number; r12 = guest ESP
 *   r15 = struct cpu, r14 = window base (also the GS base), r13 = the view's jump table
 *   rsp = return stack of host addresses, r8-r11 scratch; RFLAGS = the guest's arithmetic flags
 */
#ifndef RINGFOLD_BT_CONTRACT_H
#define RINGFOLD_BT_CONTRACT_H

/* struct cpu, from r15 */
#define CPU_GPR 0
#define CPU_HOT 128
#define CPU_FX 640
#define CPU_EIP 1152
#define CPU_EFLAGS 1156
#define CPU_SAFEPOINT 4096 /* one word of the safepoint page */
#define HOT(off) (CPU_HOT + (off))
#define HOT_FLAG_IF HOT(0)      /* u32: 0 or F_IF */
#define HOT_FLAG_REST HOT(4)    /* u32: eflags but arithmetic and IF */
#define HOT_FS_BASE_PTR HOT(8)  /* address of the FS base, or of the poison page */
#define HOT_GS_BASE_PTR HOT(16) /* likewise GS */
#define HOT_STI_POLL HOT(24)    /* a readable address, or the poison page */
#define HOT_HOST_RSP HOT(32)    /* the monitor's stack */
#define HOT_RETURN_RSP HOT(40)  /* return stack pointer while out of translated code */
#define HOT_WINDOW HOT(48)      /* window base to run with (r14, GS) */
#define HOT_VIEW_TABLE HOT(56)  /* jump table to run with (r13) */
#define HOT_FLAGS16 HOT(64)     /* u16: AL = OF, AH = SF ZF AF PF CF, as LAHF/SETO leave them */
#define HOT_EXIT HOT(68)        /* u32: value bt_enter returns */
#define HOT_ARG0 HOT(72)        /* u32 callout arguments */
#define HOT_ARG1 HOT(76)
#define HOT_STUB_CALLOUT HOT(80) /* entry points of entry_*.S */
#define HOT_STUB_RETURN_MISS HOT(88)
#define HOT_STUB_INDIRECT_MISS HOT(96)
#define HOT_BUDGET HOT(104)   /* i64: -icount */
#define HOT_FSGSBASE HOT(112) /* u32: wrgsbase usable */
#define HOT_CR0 HOT(116)      /* u32 copies for inline reads */
#define HOT_CR2 HOT(120)
#define HOT_CR3 HOT(124)
#define HOT_CR4 HOT(128)
#define HOT_SELECTORS HOT(132) /* u16[6] in MOV Sreg order */
#define HOT_ARG2 HOT(144)
#define HOT_CALLOUT_RETURN HOT(152) /* where a returning callout goes back to */
#define HOT_STUB_CALLOUT_RETURNING HOT(160)
#define HOT_STUB_LOAD_SEGMENT                                                                      \
    HOT(168) /* the returning callout of CO_LOAD_*, tried inline first                             \
              */
#define HOT_SCRATCH HOT(176)
/* Per CO_LOAD_*, what the last load found: host address of the descriptor, minus its value, minus
 * the selector. Equal again means nothing to do. */
#define HOT_SEGMENT_CACHE HOT(184)
#define SEGMENT_CACHE_BYTES 24
#define HOT_TSC_DELTA HOT(280) /* guest TSC minus host TSC */
/* For the stubs only. */
#define HOT_RETURN_MISSES HOT(288)  /* u64 counter */
#define HOT_CALLOUT_COUNTS HOT(296) /* address of u64[CO_COUNT] */
#define HOT_ENTER_FRAME HOT(304) /* bt_enter_frame: what the sentinel returns to, for unwinders */

/* The metal substrate's stubs. */
#define HOT_DELTA HOT(312)     /* what r15 has on top of the monitor's address */
#define HOT_RING_USER HOT(320) /* u32: 0 = the kernel's window and stack are loaded, 1 = ring 3's  \
                                */
#define HOT_KICK HOT(336)      /* u32: to be looked at before guest code runs untranslated */

/* bt_config.count: u64 per unit, how often it was entered. */
#define HOT_UNIT_COUNTS HOT(344)

/* The view's jump table: 2^VIEW_BITS host addresses indexed by the low bits of the guest EIP. */
#define VIEW_BITS 14
#define VIEW_ENTRIES (1 << VIEW_BITS)

/* Callouts: index into bt_callout_table; result 0 = return to the caller, 1 = leave translated
 * code, else the host address to continue at (registers reloaded from struct cpu). */
#define CO_EMULATE 0  /* r8d = eip: exit BT_EXIT_EMULATE */
#define CO_LINK 1     /* r8d = slot: resolve and link a direct branch */
#define CO_INDIRECT 2 /* r8d = target eip: resolve an indirect branch */
#define CO_LOAD_ES 3  /* r8d = eip, ARG0 = selector, ARG1 = next eip, ARG2 = bytes to pop */
#define CO_LOAD_DS 4
#define CO_LOAD_FS 5
#define CO_LOAD_GS 6
#define CO_INT 7      /* r8d = eip, ARG0 = vector, ARG1 = next eip */
#define CO_IRET 8     /* r8d = eip, ARG1 = next eip */
#define CO_SYSENTER 9 /* r8d = eip */
#define CO_SYSEXIT 10
#define CO_POPF 11   /* ARG0 = image, ARG1 = next eip (ESP already advanced) */
#define CO_INVLPG 12 /* r8d = eip, ARG0 = linear address, ARG1 = next eip */
#define CO_BUDGET 13 /* r8d = eip: exit BT_EXIT_BUDGET */
#define CO_ACCESS 14 /* r8d = eip, ARG0 = EA, ARG1 = packed access (ACCESS_*), ARG2 = immediate */
#define CO_STRING 15 /* r8d = eip, ARG1 = packed string (STRING_*): adapted MOVS/STOS */
#define CO_AC 16     /* r8d = eip, ARG0 = F_AC or 0: STAC, CLAC */
#define CO_STALE 17  /* r8d = unit: its code is no longer what it was made from */
#define CO_IO 18     /* r8d = eip, ARG0 = port, ARG1 = next eip, ARG2 = bytes, IO_OUT */
#define CO_CPUID 19
#define CO_WRITE_CR 20 /* r8d = eip, ARG0 = value, ARG1 = next eip, ARG2 = number or CR_CLTS */
#define CO_COUNT 21

/* A packed memory access of an adapted MOV: register number, bytes in memory, bytes of the
 * register, kind. */
#define ACCESS_REG(a) ((a)&15)
#define ACCESS_BYTES(a) (((a) >> 4) & 15)
#define ACCESS_REG_BYTES(a) (((a) >> 8) & 15)
#define ACCESS_KIND(a) (((a) >> 12) & 15)
#define ACCESS_PACK(reg, bytes, reg_bytes, kind)                                                   \
    ((u32)(reg) | (u32)(bytes) << 4 | (u32)(reg_bytes) << 8 | (u32)(kind) << 12)
#define ACCESS_LOAD 0 /* MOV, MOVZX */
#define ACCESS_LOAD_SIGNED 1
#define ACCESS_STORE 2
#define ACCESS_STORE_IMM 3

/* A packed string operation: element bytes, STOS, REP. */
#define STRING_BYTES(a) ((a)&15)
#define STRING_STOS 16
#define STRING_REP 32

#define IO_BYTES(a) ((a)&7)
#define IO_OUT 8

#define CR_CLTS 8 /* CR0 without TS */

#endif
