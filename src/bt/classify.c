/*
 * classify.c: what the translator does with each mnemonic, as one table. A mnemonic without a row
 * goes to the emulator: a missing row is slow, never wrong.
 *
 * flags_written names only flags that every execution of every form writes; bt_flags_of refines it
 * for shift counts. Manual: Intel SDM volume 2, "Instruction Set Reference", under the name given.
 */
#include "bt/bt_internal.h"

#define ALL F_ARITH
#define NO_CF (F_ARITH & ~F_CF)

#define ROW(mn, cls, priv, rd, wr, man)                                                            \
    { ZYDIS_MNEMONIC_##mn, BT_CLASS_##cls, PRIV_##priv, BT_FEATURE_NONE, (rd), (wr), man }
/* The same for what CPUID must announce. */
#define NEEDS(feature, mn, cls, priv, rd, wr, man)                                                 \
    { ZYDIS_MNEMONIC_##mn, BT_CLASS_##cls, PRIV_##priv, BT_FEATURE_##feature, (rd), (wr), man }
/* Plain instructions that read no flag and write none. */
#define DATA(mn) ROW(mn, PLAIN, NONE, 0, 0, #mn)
/* FP, MMX, SSE instructions without flags. */
#define FPU(mn, feature) NEEDS(feature, mn, FP, NONE, 0, 0, #mn)
#define ALU(mn) ROW(mn, PLAIN, NONE, 0, ALL, #mn)
#define COND(mn, cls, rd, man) ROW(mn, cls, NONE, rd, 0, man)

static const struct bt_class_row rows[] = {
    /* integer arithmetic and logic */
    ALU(ADD),
    ALU(SUB),
    ALU(AND),
    ALU(OR),
    ALU(XOR),
    ALU(CMP),
    ALU(TEST),
    ALU(NEG),
    ALU(XADD),
    ALU(CMPXCHG),
    ALU(MUL),
    ALU(IMUL),
    ROW(ADC, PLAIN, NONE, F_CF, ALL, "ADC"),
    ROW(SBB, PLAIN, NONE, F_CF, ALL, "SBB"),
    ROW(INC, INCDEC, NONE, 0, NO_CF, "INC"),
    ROW(DEC, INCDEC, NONE, 0, NO_CF, "DEC"),
    ROW(DIV, PLAIN, NONE, 0, 0, "DIV"),
    ROW(IDIV, PLAIN, NONE, 0, 0, "IDIV"),
    ROW(NOT, PLAIN, NONE, 0, 0, "NOT"),
    NEEDS(CX8, CMPXCHG8B, PLAIN, NONE, 0, F_ZF, "CMPXCHG8B/CMPXCHG16B"),
    /* Shifts: a zero count preserves every flag; see bt_flags_of. */
    ROW(SHL, PLAIN, NONE, 0, 0, "SAL/SAR/SHL/SHR"),
    ROW(SHR, PLAIN, NONE, 0, 0, "SAL/SAR/SHL/SHR"),
    ROW(SAR, PLAIN, NONE, 0, 0, "SAL/SAR/SHL/SHR"),
    ROW(SALC, EMULATE, NONE, F_CF, 0, "SALC"),
    ROW(ROL, PLAIN, NONE, 0, 0, "RCL/RCR/ROL/ROR"),
    ROW(ROR, PLAIN, NONE, 0, 0, "RCL/RCR/ROL/ROR"),
    ROW(RCL, PLAIN, NONE, F_CF, 0, "RCL/RCR/ROL/ROR"),
    ROW(RCR, PLAIN, NONE, F_CF, 0, "RCL/RCR/ROL/ROR"),
    ROW(SHLD, PLAIN, NONE, 0, 0, "SHLD"),
    ROW(SHRD, PLAIN, NONE, 0, 0, "SHRD"),
    /* Bits. Memory forms with a register bit offset reach outside the operand: bt_class_of. */
    ROW(BT, PLAIN, NONE, 0, F_CF, "BT"),
    ROW(BTS, PLAIN, NONE, 0, F_CF, "BTS"),
    ROW(BTR, PLAIN, NONE, 0, F_CF, "BTR"),
    ROW(BTC, PLAIN, NONE, 0, F_CF, "BTC"),
    ROW(BSF, PLAIN, NONE, 0, F_ZF, "BSF"),
    ROW(BSR, PLAIN, NONE, 0, F_ZF, "BSR"),
    NEEDS(POPCNT, POPCNT, PLAIN, NONE, 0, ALL, "POPCNT"),
    NEEDS(SSE42, CRC32, PLAIN, NONE, 0, 0, "CRC32"),
    NEEDS(MOVBE, MOVBE, PLAIN, NONE, 0, 0, "MOVBE"),
    /* moves */
    ROW(MOV, MOV, NONE, 0, 0, "MOV"),
    DATA(MOVZX),
    DATA(MOVSX),
    DATA(XCHG),
    DATA(BSWAP),
    DATA(CBW),
    DATA(CWDE),
    DATA(CWD),
    DATA(CDQ),
    ROW(LEA, LEA, NONE, 0, 0, "LEA"),
    ROW(LAHF, PLAIN, NONE, F_ARITH & ~F_OF, 0, "LAHF"),
    ROW(SAHF, PLAIN, NONE, 0, F_ARITH & ~F_OF, "SAHF"),
    ROW(CLC, PLAIN, NONE, 0, F_CF, "CLC"),
    ROW(STC, PLAIN, NONE, 0, F_CF, "STC"),
    ROW(CMC, PLAIN, NONE, F_CF, F_CF, "CMC"),
    ROW(CLD, NOP, NONE, 0, 0, "CLD"),
    ROW(NOP, NOP, NONE, 0, 0, "NOP"),
    ROW(PAUSE, NOP, NONE, 0, 0, "PAUSE"),
    NEEDS(SSE, PREFETCHNTA, NOP, NONE, 0, 0, "PREFETCHh"),
    NEEDS(SSE, PREFETCHT0, NOP, NONE, 0, 0, "PREFETCHh"),
    NEEDS(SSE, PREFETCHT1, NOP, NONE, 0, 0, "PREFETCHh"),
    NEEDS(SSE, PREFETCHT2, NOP, NONE, 0, 0, "PREFETCHh"),
    ROW(PREFETCHW, NOP, NONE, 0, 0, "PREFETCHW"),
    NEEDS(SSE2, MOVNTI, PLAIN, NONE, 0, 0, "MOVNTI"),
    NEEDS(SSE2, LFENCE, PLAIN, NONE, 0, 0, "LFENCE"),
    NEEDS(SSE2, MFENCE, PLAIN, NONE, 0, 0, "MFENCE"),
    NEEDS(SSE, SFENCE, PLAIN, NONE, 0, 0, "SFENCE"),
    NEEDS(CMOV, CMOVB, PLAIN, NONE, F_CF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNB, PLAIN, NONE, F_CF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVZ, PLAIN, NONE, F_ZF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNZ, PLAIN, NONE, F_ZF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVS, PLAIN, NONE, F_SF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNS, PLAIN, NONE, F_SF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVO, PLAIN, NONE, F_OF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNO, PLAIN, NONE, F_OF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVP, PLAIN, NONE, F_PF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNP, PLAIN, NONE, F_PF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVBE, PLAIN, NONE, F_CF | F_ZF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNBE, PLAIN, NONE, F_CF | F_ZF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVL, PLAIN, NONE, F_SF | F_OF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNL, PLAIN, NONE, F_SF | F_OF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVLE, PLAIN, NONE, F_SF | F_OF | F_ZF, 0, "CMOVcc"),
    NEEDS(CMOV, CMOVNLE, PLAIN, NONE, F_SF | F_OF | F_ZF, 0, "CMOVcc"),
    COND(SETB, PLAIN, F_CF, "SETcc"),
    COND(SETNB, PLAIN, F_CF, "SETcc"),
    COND(SETZ, PLAIN, F_ZF, "SETcc"),
    COND(SETNZ, PLAIN, F_ZF, "SETcc"),
    COND(SETS, PLAIN, F_SF, "SETcc"),
    COND(SETNS, PLAIN, F_SF, "SETcc"),
    COND(SETO, PLAIN, F_OF, "SETcc"),
    COND(SETNO, PLAIN, F_OF, "SETcc"),
    COND(SETP, PLAIN, F_PF, "SETcc"),
    COND(SETNP, PLAIN, F_PF, "SETcc"),
    COND(SETBE, PLAIN, F_CF | F_ZF, "SETcc"),
    COND(SETNBE, PLAIN, F_CF | F_ZF, "SETcc"),
    COND(SETL, PLAIN, F_SF | F_OF, "SETcc"),
    COND(SETNL, PLAIN, F_SF | F_OF, "SETcc"),
    COND(SETLE, PLAIN, F_SF | F_OF | F_ZF, "SETcc"),
    COND(SETNLE, PLAIN, F_SF | F_OF | F_ZF, "SETcc"),
    /* stack */
    ROW(PUSH, PUSH, NONE, 0, 0, "PUSH"),
    ROW(POP, POP, NONE, 0, 0, "POP"),
    ROW(PUSHA, PUSHA, NONE, 0, 0, "PUSHA/PUSHAD"),
    ROW(PUSHAD, PUSHA, NONE, 0, 0, "PUSHA/PUSHAD"),
    ROW(POPA, POPA, NONE, 0, 0, "POPA/POPAD"),
    ROW(POPAD, POPA, NONE, 0, 0, "POPA/POPAD"),
    ROW(LEAVE, LEAVE, NONE, 0, 0, "LEAVE"),
    ROW(ENTER, EMULATE, NONE, 0, 0, "ENTER"),
    /* control */
    ROW(JMP, JMP, NONE, 0, 0, "JMP"),
    ROW(CALL, CALL, NONE, 0, 0, "CALL"),
    ROW(RET, RET, NONE, 0, 0, "RET"),
    COND(JB, JCC, F_CF, "Jcc"),
    COND(JNB, JCC, F_CF, "Jcc"),
    COND(JZ, JCC, F_ZF, "Jcc"),
    COND(JNZ, JCC, F_ZF, "Jcc"),
    COND(JS, JCC, F_SF, "Jcc"),
    COND(JNS, JCC, F_SF, "Jcc"),
    COND(JO, JCC, F_OF, "Jcc"),
    COND(JNO, JCC, F_OF, "Jcc"),
    COND(JP, JCC, F_PF, "Jcc"),
    COND(JNP, JCC, F_PF, "Jcc"),
    COND(JBE, JCC, F_CF | F_ZF, "Jcc"),
    COND(JNBE, JCC, F_CF | F_ZF, "Jcc"),
    COND(JL, JCC, F_SF | F_OF, "Jcc"),
    COND(JNL, JCC, F_SF | F_OF, "Jcc"),
    COND(JLE, JCC, F_SF | F_OF | F_ZF, "Jcc"),
    COND(JNLE, JCC, F_SF | F_OF | F_ZF, "Jcc"),
    ROW(LOOP, LOOP, NONE, 0, 0, "LOOP/LOOPcc"),
    ROW(LOOPE, LOOP, NONE, F_ZF, 0, "LOOP/LOOPcc"),
    ROW(LOOPNE, LOOP, NONE, F_ZF, 0, "LOOP/LOOPcc"),
    ROW(JECXZ, LOOP, NONE, 0, 0, "Jcc"),
    /* strings */
    ROW(MOVSB, STRING, NONE, 0, 0, "MOVS"),
    ROW(MOVSW, STRING, NONE, 0, 0, "MOVS"),
    ROW(MOVSD, STRING, NONE, 0, 0, "MOVS"),
    ROW(STOSB, STRING, NONE, 0, 0, "STOS"),
    ROW(STOSW, STRING, NONE, 0, 0, "STOS"),
    ROW(STOSD, STRING, NONE, 0, 0, "STOS"),
    ROW(LODSB, STRING, NONE, 0, 0, "LODS"),
    ROW(LODSW, STRING, NONE, 0, 0, "LODS"),
    ROW(LODSD, STRING, NONE, 0, 0, "LODS"),
    ROW(SCASB, STRING, NONE, 0, 0, "SCAS"),
    ROW(SCASW, STRING, NONE, 0, 0, "SCAS"),
    ROW(SCASD, STRING, NONE, 0, 0, "SCAS"),
    ROW(CMPSB, STRING, NONE, 0, 0, "CMPS"),
    ROW(CMPSW, STRING, NONE, 0, 0, "CMPS"),
    ROW(CMPSD, STRING, NONE, 0, 0, "CMPS"),
    /* Sensitive instructions that do not trap, and what stands near them. */
    ROW(PUSHF, PUSHF, SENSITIVE, ALL, 0, "PUSHF/PUSHFD"),
    ROW(PUSHFD, PUSHF, SENSITIVE, ALL, 0, "PUSHF/PUSHFD"),
    ROW(POPF, POPF, SENSITIVE, 0, ALL, "POPF/POPFD"),
    ROW(POPFD, POPF, SENSITIVE, 0, ALL, "POPF/POPFD"),
    ROW(CLI, CLI, IOPL, 0, 0, "CLI"),
    ROW(STI, STI, IOPL, 0, 0, "STI"),
    ROW(SGDT, EMULATE, SENSITIVE, 0, 0, "SGDT"),
    ROW(SIDT, EMULATE, SENSITIVE, 0, 0, "SIDT"),
    ROW(SLDT, EMULATE, SENSITIVE, 0, 0, "SLDT"),
    ROW(SMSW, EMULATE, SENSITIVE, 0, 0, "SMSW"),
    ROW(STR, EMULATE, SENSITIVE, 0, 0, "STR"),
    ROW(LAR, EMULATE, SENSITIVE, 0, 0, "LAR"),
    ROW(LSL, EMULATE, SENSITIVE, 0, 0, "LSL"),
    ROW(VERR, EMULATE, SENSITIVE, 0, 0, "VERR/VERW"),
    ROW(VERW, EMULATE, SENSITIVE, 0, 0, "VERR/VERW"),
    ROW(INT, INT, SENSITIVE, 0, 0, "INT n/INTO/INT3/INT1"),
    ROW(INT3, EMULATE, SENSITIVE, 0, 0, "INT n/INTO/INT3/INT1"),
    ROW(IRET, IRET, SENSITIVE, 0, 0, "IRET/IRETD"),
    ROW(IRETD, IRET, SENSITIVE, 0, 0, "IRET/IRETD"),
    ROW(LDS, EMULATE, SENSITIVE, 0, 0, "LDS/LES/LFS/LGS/LSS"),
    NEEDS(SEP, SYSENTER, SYSENTER, SENSITIVE, 0, 0, "SYSENTER"),
    NEEDS(SEP, SYSEXIT, SYSEXIT, CPL0, 0, 0, "SYSEXIT"),
    ROW(CPUID, LIGHT, SENSITIVE, 0, 0, "CPUID"),
    NEEDS(TSC, RDTSC, RDTSC, SENSITIVE, 0, 0, "RDTSC"),
    ROW(STD, EMULATE, NONE, 0, 0, "STD"),
    /* Privileged. */
    ROW(HLT, EMULATE, CPL0, 0, 0, "HLT"),
    ROW(LGDT, EMULATE, CPL0, 0, 0, "LGDT/LIDT"),
    ROW(LIDT, EMULATE, CPL0, 0, 0, "LGDT/LIDT"),
    ROW(LLDT, EMULATE, CPL0, 0, 0, "LLDT"),
    ROW(LTR, EMULATE, CPL0, 0, 0, "LTR"),
    ROW(LMSW, EMULATE, CPL0, 0, 0, "LMSW"),
    ROW(CLTS, LIGHT, CPL0, 0, 0, "CLTS"),
    ROW(INVLPG, INVLPG, CPL0, 0, 0, "INVLPG"),
    NEEDS(SMAP, STAC, AC, CPL0, 0, 0, "STAC"),
    NEEDS(SMAP, CLAC, AC, CPL0, 0, 0, "CLAC"),
    ROW(INVD, EMULATE, CPL0, 0, 0, "INVD"),
    ROW(WBINVD, EMULATE, CPL0, 0, 0, "WBINVD"),
    ROW(RDMSR, EMULATE, CPL0, 0, 0, "RDMSR"),
    ROW(WRMSR, EMULATE, CPL0, 0, 0, "WRMSR"),
    ROW(IN, LIGHT, IOPL, 0, 0, "IN"),
    ROW(OUT, LIGHT, IOPL, 0, 0, "OUT"),
    /* x87. Environment and state images hold pointers that the host would fill with its own. */
    FPU(FLD, FPU),
    FPU(FST, FPU),
    FPU(FSTP, FPU),
    FPU(FILD, FPU),
    FPU(FIST, FPU),
    FPU(FISTP, FPU),
    FPU(FBLD, FPU),
    FPU(FBSTP, FPU),
    FPU(FXCH, FPU),
    FPU(FADD, FPU),
    FPU(FADDP, FPU),
    FPU(FIADD, FPU),
    FPU(FSUB, FPU),
    FPU(FSUBP, FPU),
    FPU(FISUB, FPU),
    FPU(FSUBR, FPU),
    FPU(FSUBRP, FPU),
    FPU(FISUBR, FPU),
    FPU(FMUL, FPU),
    FPU(FMULP, FPU),
    FPU(FIMUL, FPU),
    FPU(FDIV, FPU),
    FPU(FDIVP, FPU),
    FPU(FIDIV, FPU),
    FPU(FDIVR, FPU),
    FPU(FDIVRP, FPU),
    FPU(FIDIVR, FPU),
    FPU(FPREM, FPU),
    FPU(FPREM1, FPU),
    FPU(FABS, FPU),
    FPU(FCHS, FPU),
    FPU(FRNDINT, FPU),
    FPU(FSCALE, FPU),
    FPU(FSQRT, FPU),
    FPU(FXTRACT, FPU),
    FPU(FCOM, FPU),
    FPU(FCOMP, FPU),
    FPU(FCOMPP, FPU),
    FPU(FUCOM, FPU),
    FPU(FUCOMP, FPU),
    FPU(FUCOMPP, FPU),
    FPU(FICOM, FPU),
    FPU(FICOMP, FPU),
    FPU(FTST, FPU),
    FPU(FXAM, FPU),
    FPU(FSIN, FPU),
    FPU(FCOS, FPU),
    FPU(FSINCOS, FPU),
    FPU(FPTAN, FPU),
    FPU(FPATAN, FPU),
    FPU(F2XM1, FPU),
    FPU(FYL2X, FPU),
    FPU(FYL2XP1, FPU),
    FPU(FLD1, FPU),
    FPU(FLDL2T, FPU),
    FPU(FLDL2E, FPU),
    FPU(FLDPI, FPU),
    FPU(FLDLG2, FPU),
    FPU(FLDLN2, FPU),
    FPU(FLDZ, FPU),
    FPU(FINCSTP, FPU),
    FPU(FDECSTP, FPU),
    FPU(FFREE, FPU),
    FPU(FNINIT, FPU),
    FPU(FLDCW, FPU),
    FPU(FNSTCW, FPU),
    FPU(FNSTSW, FPU),
    FPU(FNCLEX, FPU),
    FPU(FNOP, FPU),
    FPU(FISTTP, SSE3),
    FPU(FWAIT, FPU),
    NEEDS(CMOV, FCOMI, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    NEEDS(CMOV, FCOMIP, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    NEEDS(CMOV, FUCOMI, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    NEEDS(CMOV, FUCOMIP, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    NEEDS(CMOV, FCMOVB, FP, NONE, F_CF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVNB, FP, NONE, F_CF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVE, FP, NONE, F_ZF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVNE, FP, NONE, F_ZF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVBE, FP, NONE, F_CF | F_ZF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVNBE, FP, NONE, F_CF | F_ZF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVU, FP, NONE, F_PF, 0, "FCMOVcc"),
    NEEDS(CMOV, FCMOVNU, FP, NONE, F_PF, 0, "FCMOVcc"),
    /* MMX */
    FPU(EMMS, MMX),
    FPU(MOVD, MMX),
    FPU(MOVQ, MMX),
    FPU(PACKSSWB, MMX),
    FPU(PACKSSDW, MMX),
    FPU(PACKUSWB, MMX),
    FPU(PADDB, MMX),
    FPU(PADDW, MMX),
    FPU(PADDD, MMX),
    FPU(PADDQ, MMX),
    FPU(PADDSB, MMX),
    FPU(PADDSW, MMX),
    FPU(PADDUSB, MMX),
    FPU(PADDUSW, MMX),
    FPU(PAND, MMX),
    FPU(PANDN, MMX),
    FPU(PCMPEQB, MMX),
    FPU(PCMPEQW, MMX),
    FPU(PCMPEQD, MMX),
    FPU(PCMPGTB, MMX),
    FPU(PCMPGTW, MMX),
    FPU(PCMPGTD, MMX),
    FPU(PMADDWD, MMX),
    FPU(PMULHW, MMX),
    FPU(PMULLW, MMX),
    FPU(POR, MMX),
    FPU(PSLLW, MMX),
    FPU(PSLLD, MMX),
    FPU(PSLLQ, MMX),
    FPU(PSRAW, MMX),
    FPU(PSRAD, MMX),
    FPU(PSRLW, MMX),
    FPU(PSRLD, MMX),
    FPU(PSRLQ, MMX),
    FPU(PSUBB, MMX),
    FPU(PSUBW, MMX),
    FPU(PSUBD, MMX),
    FPU(PSUBQ, MMX),
    FPU(PSUBSB, MMX),
    FPU(PSUBSW, MMX),
    FPU(PSUBUSB, MMX),
    FPU(PSUBUSW, MMX),
    FPU(PUNPCKHBW, MMX),
    FPU(PUNPCKHWD, MMX),
    FPU(PUNPCKHDQ, MMX),
    FPU(PUNPCKLBW, MMX),
    FPU(PUNPCKLWD, MMX),
    FPU(PUNPCKLDQ, MMX),
    FPU(PXOR, MMX),
    /* SSE */
    FPU(ADDPS, SSE),
    FPU(ADDSS, SSE),
    FPU(ANDNPS, SSE),
    FPU(ANDPS, SSE),
    FPU(CMPPS, SSE),
    FPU(CMPSS, SSE),
    FPU(CVTPI2PS, SSE),
    FPU(CVTPS2PI, SSE),
    FPU(CVTSI2SS, SSE),
    FPU(CVTSS2SI, SSE),
    FPU(CVTTPS2PI, SSE),
    FPU(CVTTSS2SI, SSE),
    FPU(DIVPS, SSE),
    FPU(DIVSS, SSE),
    FPU(LDMXCSR, SSE),
    FPU(STMXCSR, SSE),
    FPU(MAXPS, SSE),
    FPU(MAXSS, SSE),
    FPU(MINPS, SSE),
    FPU(MINSS, SSE),
    FPU(MOVAPS, SSE),
    FPU(MOVHLPS, SSE),
    FPU(MOVHPS, SSE),
    FPU(MOVLHPS, SSE),
    FPU(MOVLPS, SSE),
    FPU(MOVMSKPS, SSE),
    FPU(MOVNTPS, SSE),
    FPU(MOVNTQ, SSE),
    FPU(MOVSS, SSE),
    FPU(MOVUPS, SSE),
    FPU(MULPS, SSE),
    FPU(MULSS, SSE),
    FPU(ORPS, SSE),
    FPU(PAVGB, SSE),
    FPU(PAVGW, SSE),
    FPU(PEXTRW, SSE),
    FPU(PINSRW, SSE),
    FPU(PMAXSW, SSE),
    FPU(PMAXUB, SSE),
    FPU(PMINSW, SSE),
    FPU(PMINUB, SSE),
    FPU(PMOVMSKB, SSE),
    FPU(PMULHUW, SSE),
    FPU(PSADBW, SSE),
    FPU(PSHUFW, SSE),
    FPU(RCPPS, SSE),
    FPU(RCPSS, SSE),
    FPU(RSQRTPS, SSE),
    FPU(RSQRTSS, SSE),
    FPU(SHUFPS, SSE),
    FPU(SQRTPS, SSE),
    FPU(SQRTSS, SSE),
    FPU(SUBPS, SSE),
    FPU(SUBSS, SSE),
    FPU(UNPCKHPS, SSE),
    FPU(UNPCKLPS, SSE),
    FPU(XORPS, SSE),
    NEEDS(SSE, COMISS, FP, NONE, 0, ALL, "COMISS"),
    NEEDS(SSE, UCOMISS, FP, NONE, 0, ALL, "UCOMISS"),
    /* SSE2 */
    FPU(ADDPD, SSE2),
    FPU(ADDSD, SSE2),
    FPU(ANDNPD, SSE2),
    FPU(ANDPD, SSE2),
    FPU(CMPPD, SSE2),
    FPU(CVTDQ2PD, SSE2),
    FPU(CVTDQ2PS, SSE2),
    FPU(CVTPD2DQ, SSE2),
    FPU(CVTPD2PI, SSE2),
    FPU(CVTPD2PS, SSE2),
    FPU(CVTPI2PD, SSE2),
    FPU(CVTPS2DQ, SSE2),
    FPU(CVTPS2PD, SSE2),
    FPU(CVTSD2SI, SSE2),
    FPU(CVTSD2SS, SSE2),
    FPU(CVTSI2SD, SSE2),
    FPU(CVTSS2SD, SSE2),
    FPU(CVTTPD2DQ, SSE2),
    FPU(CVTTPD2PI, SSE2),
    FPU(CVTTPS2DQ, SSE2),
    FPU(CVTTSD2SI, SSE2),
    FPU(DIVPD, SSE2),
    FPU(DIVSD, SSE2),
    FPU(MAXPD, SSE2),
    FPU(MAXSD, SSE2),
    FPU(MINPD, SSE2),
    FPU(MINSD, SSE2),
    FPU(MOVAPD, SSE2),
    FPU(MOVDQ2Q, SSE2),
    FPU(MOVDQA, SSE2),
    FPU(MOVDQU, SSE2),
    FPU(MOVHPD, SSE2),
    FPU(MOVLPD, SSE2),
    FPU(MOVMSKPD, SSE2),
    FPU(MOVNTDQ, SSE2),
    FPU(MOVNTPD, SSE2),
    FPU(MOVQ2DQ, SSE2),
    FPU(MOVUPD, SSE2),
    FPU(MULPD, SSE2),
    FPU(MULSD, SSE2),
    FPU(ORPD, SSE2),
    FPU(PMULUDQ, SSE2),
    FPU(PSHUFD, SSE2),
    FPU(PSHUFHW, SSE2),
    FPU(PSHUFLW, SSE2),
    FPU(PSLLDQ, SSE2),
    FPU(PSRLDQ, SSE2),
    FPU(PUNPCKHQDQ, SSE2),
    FPU(PUNPCKLQDQ, SSE2),
    FPU(SHUFPD, SSE2),
    FPU(SQRTPD, SSE2),
    FPU(SQRTSD, SSE2),
    FPU(SUBPD, SSE2),
    FPU(SUBSD, SSE2),
    FPU(UNPCKHPD, SSE2),
    FPU(UNPCKLPD, SSE2),
    FPU(XORPD, SSE2),
    NEEDS(SSE2, COMISD, FP, NONE, 0, ALL, "COMISD"),
    NEEDS(SSE2, UCOMISD, FP, NONE, 0, ALL, "UCOMISD"),
    /* SSE3, SSSE3 */
    FPU(ADDSUBPD, SSE3),
    FPU(ADDSUBPS, SSE3),
    FPU(HADDPD, SSE3),
    FPU(HADDPS, SSE3),
    FPU(HSUBPD, SSE3),
    FPU(HSUBPS, SSE3),
    FPU(LDDQU, SSE3),
    FPU(MOVDDUP, SSE3),
    FPU(MOVSHDUP, SSE3),
    FPU(MOVSLDUP, SSE3),
    FPU(PABSB, SSSE3),
    FPU(PABSW, SSSE3),
    FPU(PABSD, SSSE3),
    FPU(PALIGNR, SSSE3),
    FPU(PHADDW, SSSE3),
    FPU(PHADDD, SSSE3),
    FPU(PHADDSW, SSSE3),
    FPU(PHSUBW, SSSE3),
    FPU(PHSUBD, SSSE3),
    FPU(PHSUBSW, SSSE3),
    FPU(PMADDUBSW, SSSE3),
    FPU(PMULHRSW, SSSE3),
    FPU(PSHUFB, SSSE3),
    FPU(PSIGNB, SSSE3),
    FPU(PSIGNW, SSSE3),
    FPU(PSIGND, SSSE3),
    /* SSE4.1, SSE4.2 */
    FPU(BLENDPD, SSE41),
    FPU(BLENDPS, SSE41),
    FPU(BLENDVPD, SSE41),
    FPU(BLENDVPS, SSE41),
    FPU(DPPD, SSE41),
    FPU(DPPS, SSE41),
    FPU(EXTRACTPS, SSE41),
    FPU(INSERTPS, SSE41),
    FPU(MOVNTDQA, SSE41),
    FPU(MPSADBW, SSE41),
    FPU(PACKUSDW, SSE41),
    FPU(PBLENDVB, SSE41),
    FPU(PBLENDW, SSE41),
    FPU(PCMPEQQ, SSE41),
    FPU(PCMPGTQ, SSE42),
    FPU(PEXTRB, SSE41),
    FPU(PEXTRD, SSE41),
    FPU(PHMINPOSUW, SSE41),
    FPU(PINSRB, SSE41),
    FPU(PINSRD, SSE41),
    FPU(PMAXSB, SSE41),
    FPU(PMAXSD, SSE41),
    FPU(PMAXUD, SSE41),
    FPU(PMAXUW, SSE41),
    FPU(PMINSB, SSE41),
    FPU(PMINSD, SSE41),
    FPU(PMINUD, SSE41),
    FPU(PMINUW, SSE41),
    FPU(PMOVSXBW, SSE41),
    FPU(PMOVSXBD, SSE41),
    FPU(PMOVSXBQ, SSE41),
    FPU(PMOVSXWD, SSE41),
    FPU(PMOVSXWQ, SSE41),
    FPU(PMOVSXDQ, SSE41),
    FPU(PMOVZXBW, SSE41),
    FPU(PMOVZXBD, SSE41),
    FPU(PMOVZXBQ, SSE41),
    FPU(PMOVZXWD, SSE41),
    FPU(PMOVZXWQ, SSE41),
    FPU(PMOVZXDQ, SSE41),
    FPU(PMULDQ, SSE41),
    FPU(PMULLD, SSE41),
    FPU(ROUNDPD, SSE41),
    FPU(ROUNDPS, SSE41),
    FPU(ROUNDSD, SSE41),
    FPU(ROUNDSS, SSE41),
    NEEDS(SSE41, PTEST, FP, NONE, 0, ALL, "PTEST"),
    NEEDS(SSE42, PCMPESTRI, FP, NONE, 0, ALL, "PCMPESTRI"),
    NEEDS(SSE42, PCMPESTRM, FP, NONE, 0, ALL, "PCMPESTRM"),
    NEEDS(SSE42, PCMPISTRI, FP, NONE, 0, ALL, "PCMPISTRI"),
    NEEDS(SSE42, PCMPISTRM, FP, NONE, 0, ALL, "PCMPISTRM"),
};

static const struct bt_class_row no_row = {
    0, BT_CLASS_EMULATE, PRIV_NONE, BT_FEATURE_NONE, F_ARITH, 0, ""};

/* mnemonic -> row + 1; filled once at load time, constant afterwards. */
static u16 row_index[ZYDIS_MNEMONIC_MAX_VALUE + 1];

__attribute__((constructor)) static void index_rows(void) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        row_index[rows[i].mnemonic] = (u16)(i + 1);
}

const struct bt_class_row *bt_classify(u16 mnemonic) {
    if (mnemonic > ZYDIS_MNEMONIC_MAX_VALUE || row_index[mnemonic] == 0)
        return &no_row;
    return &rows[row_index[mnemonic] - 1];
}

const char *bt_class_name(enum bt_class class) {
    static const char *const names[] = {
#define X(name, help) #name,
        BT_CLASSES(X)
#undef X
    };
    return class < BT_CLASS_COUNT ? names[class] : "?";
}

static bool has_memory(const struct insn *in) {
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_MEM)
            return true;
    return false;
}

static bool has_class(const struct insn *in, u8 reg_class) {
    for (unsigned i = 0; i < in->op_count; i++)
        if (in->op[i].type == OP_REG && in->op[i].reg_class == reg_class)
            return true;
    return false;
}

/* FP and SSE mnemonics whose CMPSD/MOVSD string namesakes share the Zydis mnemonic. */
static bool is_sse_form(const struct insn *in) {
    return in->map != 0;
}

/* 66 is an operand size, or in the other maps possibly part of the opcode. */
bool bt_has_prefix66(const struct insn *in) {
    for (unsigned i = 0; i < in->opcode_offset; i++)
        if (in->bytes[i] == 0x66)
            return true;
    return false;
}

#define X1_ECX_LZCNT BIT(5)
#define F7_EBX_BMI1 BIT(3)

/* Encodings that are another instruction, or none, on some models: LZCNT and TZCNT are BSR and BSF
 * where there is no such feature; the hints of 0F 0D and 0F 18 to 0F 1F came with the Pentium Pro.
 */
static bool means_something_else(const struct cpu_model *model, const struct insn *in) {
    if (in->mnemonic == ZYDIS_MNEMONIC_BSR || in->mnemonic == ZYDIS_MNEMONIC_BSF)
        return in->rep && (in->mnemonic == ZYDIS_MNEMONIC_BSR ? model->x1_ecx & X1_ECX_LZCNT
                                                              : model->f7_ebx & F7_EBX_BMI1);
    bool hint = in->map == 1 && (in->opcode == 0x0d || (in->opcode & 0xf8) == 0x18);
    return hint && cpu_model_family(model) < 6;
}

/* Where CPUID announces each feature: word 0 is leaf 1 EDX, word 1 leaf 1 ECX, word 2 leaf 7 EBX.
 */
bool bt_announced(const struct cpu_model *model, const struct insn *in) {
    static const struct {
        u8 word, bit;
    } place[BT_FEATURE_COUNT] = {
        [BT_FEATURE_FPU] = {0, 0},    [BT_FEATURE_TSC] = {0, 4},     [BT_FEATURE_CX8] = {0, 8},
        [BT_FEATURE_SEP] = {0, 11},   [BT_FEATURE_CMOV] = {0, 15},   [BT_FEATURE_MMX] = {0, 23},
        [BT_FEATURE_SSE] = {0, 25},   [BT_FEATURE_SSE2] = {0, 26},   [BT_FEATURE_SSSE3] = {1, 9},
        [BT_FEATURE_SSE3] = {1, 0},   [BT_FEATURE_SSE41] = {1, 19},  [BT_FEATURE_SSE42] = {1, 20},
        [BT_FEATURE_MOVBE] = {1, 22}, [BT_FEATURE_POPCNT] = {1, 23}, [BT_FEATURE_SMAP] = {2, 20},
    };
    u8 feature = bt_classify(in->mnemonic)->feature;
    if (model && means_something_else(model, in))
        return false;
    if (is_sse_form(in) &&
        (in->mnemonic == ZYDIS_MNEMONIC_MOVSD || in->mnemonic == ZYDIS_MNEMONIC_CMPSD))
        feature = BT_FEATURE_SSE2; /* not the string instructions of that name */
    /* The integer instructions of MMX and SSE came to the XMM registers with SSE2. */
    bool integer = feature == BT_FEATURE_MMX || (feature == BT_FEATURE_SSE && bt_has_prefix66(in));
    if (integer && has_class(in, RC_XMM))
        feature = BT_FEATURE_SSE2;
    if (feature == BT_FEATURE_NONE || !model)
        return true;
    const u32 words[] = {model->f1_edx, model->f1_ecx, model->f7_ebx};
    return (words[place[feature].word] >> place[feature].bit) & 1;
}

/* Forms whose memory operand cannot be lowered in place. */
static bool awkward_memory(const struct insn *in) {
    if (!has_memory(in))
        return false;
    if (in->addr_bytes != 4)
        return true;
    /* CS cannot be written and may be execute-only. */
    return in->mem_seg == SEG_CS;
}

/* MOVZX/MOVSX/CRC32 of AH..BH beside ESP: no encoding holds both. */
static bool high_byte_beside_esp(const struct insn *in) {
    bool high = false, esp = false;
    for (unsigned i = 0; i < in->op_count; i++) {
        const struct insn_op *op = &in->op[i];
        high |= op->type == OP_REG && op->reg_class == RC_GPR8 && op->reg >= 4;
        esp |= op->type == OP_REG && (op->reg_class == RC_GPR32 || op->reg_class == RC_GPR16) &&
               op->reg == R_ESP;
    }
    return high && esp;
}

/* MOV and POP to a control register, SS or CS. */
static bool loads_system_register(const struct insn *in) {
    const struct insn_op *dst = &in->op[0];
    return dst->type == OP_REG &&
           (dst->reg_class == RC_CR ||
            (dst->reg_class == RC_SEG && (dst->reg == SEG_SS || dst->reg == SEG_CS)));
}

/* MOV to CR0, CR3, CR4. */
static bool writes_light_register(const struct insn *in) {
    const struct insn_op *dst = &in->op[0];
    return dst->type == OP_REG && dst->reg_class == RC_CR &&
           (dst->reg == 0 || dst->reg == 3 || dst->reg == 4);
}

enum bt_class bt_class_of(const struct insn *in, u8 cpl, bool fp_ok) {
    const struct bt_class_row *row = bt_classify(in->mnemonic);
    enum bt_class class = row->class;
    if (class == BT_CLASS_STRING && is_sse_form(in))
        class = BT_CLASS_FP;
    if (awkward_memory(in) && class != BT_CLASS_NOP && class != BT_CLASS_LEA)
        return BT_CLASS_EMULATE;
    switch (class) {
    case BT_CLASS_PLAIN:
    case BT_CLASS_INCDEC:
        if (high_byte_beside_esp(in))
            return BT_CLASS_EMULATE;
        /* A register bit offset reaches memory outside the operand, which the 32-bit truncated
         * address handles; LOCK on a register destination is #UD and never decodes. */
        break;
    case BT_CLASS_FP:
        if (!fp_ok)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_LIGHT:
        if (cpl != 0 && row->privilege != PRIV_SENSITIVE)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_MOV:
        if (cpl == 0 && writes_light_register(in))
            return BT_CLASS_LIGHT;
        if (has_class(in, RC_DR) || (has_class(in, RC_CR) && cpl != 0) || loads_system_register(in))
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_POP: /* SS casts a shadow; 16-bit ESP */
        if (loads_system_register(in) ||
            (in->op[0].type == OP_REG && in->op_bytes == 2 && in->op[0].reg_class == RC_GPR16 &&
             in->op[0].reg == R_ESP))
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_LEA:
        if (in->addr_bytes != 4)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_CLI:
    case BT_CLASS_STI:
    case BT_CLASS_SYSEXIT:
    case BT_CLASS_AC:
        if (cpl != 0)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_INVLPG:
        if (cpl != 0 || in->mem_seg >= SEG_FS)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_POPF:
    case BT_CLASS_IRET:
    case BT_CLASS_JMP:
    case BT_CLASS_JCC:
    case BT_CLASS_CALL:
    case BT_CLASS_RET:
        if (in->op_bytes != 4) /* 16-bit forms truncate EIP */
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_PUSHF:
    case BT_CLASS_PUSHA:
    case BT_CLASS_POPA:
    case BT_CLASS_LEAVE:
        if (in->op_bytes != 4)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_LOOP:
        if (in->addr_bytes != 4 || in->op_bytes != 4)
            return BT_CLASS_EMULATE;
        break;
    case BT_CLASS_STRING:
        if (in->addr_bytes != 4 ||
            (in->seg_override != INSN_NO_REG && in->seg_override >= SEG_FS) ||
            in->seg_override == SEG_CS)
            return BT_CLASS_EMULATE;
        break;
    default:
        break;
    }
    return class;
}

/* MOV CRn where CRn exists: others are #UD, which comes before #GP. */
static bool moves_control_register(const struct insn *in) {
    for (unsigned i = 0; i < in->op_count; i++) {
        const struct insn_op *op = &in->op[i];
        if (op->type == OP_REG && op->reg_class == RC_CR)
            return op->reg == 0 || (op->reg >= 2 && op->reg <= 4);
    }
    return false;
}

u32 bt_trap_class_of(const struct insn *in) {
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return moves_control_register(in) ? BT_TRAP_CR : 0;
    case ZYDIS_MNEMONIC_CLTS:
    case ZYDIS_MNEMONIC_LMSW:
        return BT_TRAP_CR;
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
        return BT_TRAP_IO;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
        return BT_TRAP_CLI_STI;
    case ZYDIS_MNEMONIC_HLT:
        return BT_TRAP_HLT;
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
        return BT_TRAP_MSR;
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
        return BT_TRAP_DESCRIPTOR;
    case ZYDIS_MNEMONIC_INVLPG:
        return BT_TRAP_INVLPG;
    default:
        return 0;
    }
}

/* Shift and rotate counts decide whether any flag is written. */
static u16 shift_flags_written(const struct insn *in) {
    bool by_cl = in->map == 0 ? (in->opcode == 0xd2 || in->opcode == 0xd3)
                              : (in->opcode == 0xa5 || in->opcode == 0xad);
    u32 count = in->imm_bytes ? (u32)in->imm & 31 : 1;
    if (by_cl || count == 0)
        return 0;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return F_CF | F_PF | F_ZF | F_SF;
    default:
        return F_CF;
    }
}

void bt_flags_of(const struct insn *in, u16 *read, u16 *written) {
    const struct bt_class_row *row = bt_classify(in->mnemonic);
    *read = row->flags_read;
    *written = row->flags_written;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        *written = shift_flags_written(in);
        break;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        *written = F_CF | F_OF; /* the others are undefined; keep them live to be exact */
        break;
    default:
        break;
    }
    /* Leaving translated code hands every flag on. */
    if (row->class == BT_CLASS_EMULATE || row->class == BT_CLASS_LIGHT)
        *read = F_ARITH;
    /* A faulting instruction shows its flags, but then those before it, which are in RFLAGS. */
}
