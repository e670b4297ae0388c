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
    { ZYDIS_MNEMONIC_##mn, BT_CLASS_##cls, PRIV_##priv, (rd), (wr), man }
/* Plain instructions that read no flag and write none. */
#define DATA(mn) ROW(mn, PLAIN, NONE, 0, 0, #mn)
/* FP, MMX, SSE instructions without flags. */
#define FPU(mn) ROW(mn, FP, NONE, 0, 0, #mn)
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
    ROW(CMPXCHG8B, PLAIN, NONE, 0, F_ZF, "CMPXCHG8B/CMPXCHG16B"),
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
    ROW(POPCNT, PLAIN, NONE, 0, ALL, "POPCNT"),
    DATA(CRC32),
    DATA(MOVBE),
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
    ROW(PREFETCHNTA, NOP, NONE, 0, 0, "PREFETCHh"),
    ROW(PREFETCHT0, NOP, NONE, 0, 0, "PREFETCHh"),
    ROW(PREFETCHT1, NOP, NONE, 0, 0, "PREFETCHh"),
    ROW(PREFETCHT2, NOP, NONE, 0, 0, "PREFETCHh"),
    ROW(PREFETCHW, NOP, NONE, 0, 0, "PREFETCHW"),
    DATA(MOVNTI),
    DATA(LFENCE),
    DATA(MFENCE),
    DATA(SFENCE),
    COND(CMOVB, PLAIN, F_CF, "CMOVcc"),
    COND(CMOVNB, PLAIN, F_CF, "CMOVcc"),
    COND(CMOVZ, PLAIN, F_ZF, "CMOVcc"),
    COND(CMOVNZ, PLAIN, F_ZF, "CMOVcc"),
    COND(CMOVS, PLAIN, F_SF, "CMOVcc"),
    COND(CMOVNS, PLAIN, F_SF, "CMOVcc"),
    COND(CMOVO, PLAIN, F_OF, "CMOVcc"),
    COND(CMOVNO, PLAIN, F_OF, "CMOVcc"),
    COND(CMOVP, PLAIN, F_PF, "CMOVcc"),
    COND(CMOVNP, PLAIN, F_PF, "CMOVcc"),
    COND(CMOVBE, PLAIN, F_CF | F_ZF, "CMOVcc"),
    COND(CMOVNBE, PLAIN, F_CF | F_ZF, "CMOVcc"),
    COND(CMOVL, PLAIN, F_SF | F_OF, "CMOVcc"),
    COND(CMOVNL, PLAIN, F_SF | F_OF, "CMOVcc"),
    COND(CMOVLE, PLAIN, F_SF | F_OF | F_ZF, "CMOVcc"),
    COND(CMOVNLE, PLAIN, F_SF | F_OF | F_ZF, "CMOVcc"),
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
    ROW(SYSENTER, SYSENTER, SENSITIVE, 0, 0, "SYSENTER"),
    ROW(SYSEXIT, SYSEXIT, CPL0, 0, 0, "SYSEXIT"),
    ROW(RDTSC, RDTSC, SENSITIVE, 0, 0, "RDTSC"),
    ROW(STD, EMULATE, NONE, 0, 0, "STD"),
    /* Privileged. */
    ROW(HLT, EMULATE, CPL0, 0, 0, "HLT"),
    ROW(LGDT, EMULATE, CPL0, 0, 0, "LGDT/LIDT"),
    ROW(LIDT, EMULATE, CPL0, 0, 0, "LGDT/LIDT"),
    ROW(LLDT, EMULATE, CPL0, 0, 0, "LLDT"),
    ROW(LTR, EMULATE, CPL0, 0, 0, "LTR"),
    ROW(LMSW, EMULATE, CPL0, 0, 0, "LMSW"),
    ROW(CLTS, EMULATE, CPL0, 0, 0, "CLTS"),
    ROW(INVLPG, INVLPG, CPL0, 0, 0, "INVLPG"),
    ROW(INVD, EMULATE, CPL0, 0, 0, "INVD"),
    ROW(WBINVD, EMULATE, CPL0, 0, 0, "WBINVD"),
    ROW(RDMSR, EMULATE, CPL0, 0, 0, "RDMSR"),
    ROW(WRMSR, EMULATE, CPL0, 0, 0, "WRMSR"),
    ROW(IN, EMULATE, IOPL, 0, 0, "IN"),
    ROW(OUT, EMULATE, IOPL, 0, 0, "OUT"),
    /* x87. Environment and state images hold pointers that the host would fill with its own. */
    FPU(FLD),
    FPU(FST),
    FPU(FSTP),
    FPU(FILD),
    FPU(FIST),
    FPU(FISTP),
    FPU(FBLD),
    FPU(FBSTP),
    FPU(FXCH),
    FPU(FADD),
    FPU(FADDP),
    FPU(FIADD),
    FPU(FSUB),
    FPU(FSUBP),
    FPU(FISUB),
    FPU(FSUBR),
    FPU(FSUBRP),
    FPU(FISUBR),
    FPU(FMUL),
    FPU(FMULP),
    FPU(FIMUL),
    FPU(FDIV),
    FPU(FDIVP),
    FPU(FIDIV),
    FPU(FDIVR),
    FPU(FDIVRP),
    FPU(FIDIVR),
    FPU(FPREM),
    FPU(FPREM1),
    FPU(FABS),
    FPU(FCHS),
    FPU(FRNDINT),
    FPU(FSCALE),
    FPU(FSQRT),
    FPU(FXTRACT),
    FPU(FCOM),
    FPU(FCOMP),
    FPU(FCOMPP),
    FPU(FUCOM),
    FPU(FUCOMP),
    FPU(FUCOMPP),
    FPU(FICOM),
    FPU(FICOMP),
    FPU(FTST),
    FPU(FXAM),
    FPU(FSIN),
    FPU(FCOS),
    FPU(FSINCOS),
    FPU(FPTAN),
    FPU(FPATAN),
    FPU(F2XM1),
    FPU(FYL2X),
    FPU(FYL2XP1),
    FPU(FLD1),
    FPU(FLDL2T),
    FPU(FLDL2E),
    FPU(FLDPI),
    FPU(FLDLG2),
    FPU(FLDLN2),
    FPU(FLDZ),
    FPU(FINCSTP),
    FPU(FDECSTP),
    FPU(FFREE),
    FPU(FNINIT),
    FPU(FLDCW),
    FPU(FNSTCW),
    FPU(FNSTSW),
    FPU(FNCLEX),
    FPU(FNOP),
    FPU(FISTTP),
    FPU(FWAIT),
    ROW(FCOMI, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    ROW(FCOMIP, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    ROW(FUCOMI, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    ROW(FUCOMIP, FP, NONE, 0, F_ZF | F_PF | F_CF, "FCOMI/FCOMIP/FUCOMI/FUCOMIP"),
    ROW(FCMOVB, FP, NONE, F_CF, 0, "FCMOVcc"),
    ROW(FCMOVNB, FP, NONE, F_CF, 0, "FCMOVcc"),
    ROW(FCMOVE, FP, NONE, F_ZF, 0, "FCMOVcc"),
    ROW(FCMOVNE, FP, NONE, F_ZF, 0, "FCMOVcc"),
    ROW(FCMOVBE, FP, NONE, F_CF | F_ZF, 0, "FCMOVcc"),
    ROW(FCMOVNBE, FP, NONE, F_CF | F_ZF, 0, "FCMOVcc"),
    ROW(FCMOVU, FP, NONE, F_PF, 0, "FCMOVcc"),
    ROW(FCMOVNU, FP, NONE, F_PF, 0, "FCMOVcc"),
    /* MMX */
    FPU(EMMS),
    FPU(MOVD),
    FPU(MOVQ),
    FPU(PACKSSWB),
    FPU(PACKSSDW),
    FPU(PACKUSWB),
    FPU(PADDB),
    FPU(PADDW),
    FPU(PADDD),
    FPU(PADDQ),
    FPU(PADDSB),
    FPU(PADDSW),
    FPU(PADDUSB),
    FPU(PADDUSW),
    FPU(PAND),
    FPU(PANDN),
    FPU(PCMPEQB),
    FPU(PCMPEQW),
    FPU(PCMPEQD),
    FPU(PCMPGTB),
    FPU(PCMPGTW),
    FPU(PCMPGTD),
    FPU(PMADDWD),
    FPU(PMULHW),
    FPU(PMULLW),
    FPU(POR),
    FPU(PSLLW),
    FPU(PSLLD),
    FPU(PSLLQ),
    FPU(PSRAW),
    FPU(PSRAD),
    FPU(PSRLW),
    FPU(PSRLD),
    FPU(PSRLQ),
    FPU(PSUBB),
    FPU(PSUBW),
    FPU(PSUBD),
    FPU(PSUBQ),
    FPU(PSUBSB),
    FPU(PSUBSW),
    FPU(PSUBUSB),
    FPU(PSUBUSW),
    FPU(PUNPCKHBW),
    FPU(PUNPCKHWD),
    FPU(PUNPCKHDQ),
    FPU(PUNPCKLBW),
    FPU(PUNPCKLWD),
    FPU(PUNPCKLDQ),
    FPU(PXOR),
    /* SSE */
    FPU(ADDPS),
    FPU(ADDSS),
    FPU(ANDNPS),
    FPU(ANDPS),
    FPU(CMPPS),
    FPU(CMPSS),
    FPU(CVTPI2PS),
    FPU(CVTPS2PI),
    FPU(CVTSI2SS),
    FPU(CVTSS2SI),
    FPU(CVTTPS2PI),
    FPU(CVTTSS2SI),
    FPU(DIVPS),
    FPU(DIVSS),
    FPU(LDMXCSR),
    FPU(STMXCSR),
    FPU(MAXPS),
    FPU(MAXSS),
    FPU(MINPS),
    FPU(MINSS),
    FPU(MOVAPS),
    FPU(MOVHLPS),
    FPU(MOVHPS),
    FPU(MOVLHPS),
    FPU(MOVLPS),
    FPU(MOVMSKPS),
    FPU(MOVNTPS),
    FPU(MOVNTQ),
    FPU(MOVSS),
    FPU(MOVUPS),
    FPU(MULPS),
    FPU(MULSS),
    FPU(ORPS),
    FPU(PAVGB),
    FPU(PAVGW),
    FPU(PEXTRW),
    FPU(PINSRW),
    FPU(PMAXSW),
    FPU(PMAXUB),
    FPU(PMINSW),
    FPU(PMINUB),
    FPU(PMOVMSKB),
    FPU(PMULHUW),
    FPU(PSADBW),
    FPU(PSHUFW),
    FPU(RCPPS),
    FPU(RCPSS),
    FPU(RSQRTPS),
    FPU(RSQRTSS),
    FPU(SHUFPS),
    FPU(SQRTPS),
    FPU(SQRTSS),
    FPU(SUBPS),
    FPU(SUBSS),
    FPU(UNPCKHPS),
    FPU(UNPCKLPS),
    FPU(XORPS),
    ROW(COMISS, FP, NONE, 0, ALL, "COMISS"),
    ROW(UCOMISS, FP, NONE, 0, ALL, "UCOMISS"),
    /* SSE2 */
    FPU(ADDPD),
    FPU(ADDSD),
    FPU(ANDNPD),
    FPU(ANDPD),
    FPU(CMPPD),
    FPU(CVTDQ2PD),
    FPU(CVTDQ2PS),
    FPU(CVTPD2DQ),
    FPU(CVTPD2PI),
    FPU(CVTPD2PS),
    FPU(CVTPI2PD),
    FPU(CVTPS2DQ),
    FPU(CVTPS2PD),
    FPU(CVTSD2SI),
    FPU(CVTSD2SS),
    FPU(CVTSI2SD),
    FPU(CVTSS2SD),
    FPU(CVTTPD2DQ),
    FPU(CVTTPD2PI),
    FPU(CVTTPS2DQ),
    FPU(CVTTSD2SI),
    FPU(DIVPD),
    FPU(DIVSD),
    FPU(MAXPD),
    FPU(MAXSD),
    FPU(MINPD),
    FPU(MINSD),
    FPU(MOVAPD),
    FPU(MOVDQ2Q),
    FPU(MOVDQA),
    FPU(MOVDQU),
    FPU(MOVHPD),
    FPU(MOVLPD),
    FPU(MOVMSKPD),
    FPU(MOVNTDQ),
    FPU(MOVNTPD),
    FPU(MOVQ2DQ),
    FPU(MOVUPD),
    FPU(MULPD),
    FPU(MULSD),
    FPU(ORPD),
    FPU(PMULUDQ),
    FPU(PSHUFD),
    FPU(PSHUFHW),
    FPU(PSHUFLW),
    FPU(PSLLDQ),
    FPU(PSRLDQ),
    FPU(PUNPCKHQDQ),
    FPU(PUNPCKLQDQ),
    FPU(SHUFPD),
    FPU(SQRTPD),
    FPU(SQRTSD),
    FPU(SUBPD),
    FPU(SUBSD),
    FPU(UNPCKHPD),
    FPU(UNPCKLPD),
    FPU(XORPD),
    ROW(COMISD, FP, NONE, 0, ALL, "COMISD"),
    ROW(UCOMISD, FP, NONE, 0, ALL, "UCOMISD"),
    /* SSE3, SSSE3 */
    FPU(ADDSUBPD),
    FPU(ADDSUBPS),
    FPU(HADDPD),
    FPU(HADDPS),
    FPU(HSUBPD),
    FPU(HSUBPS),
    FPU(LDDQU),
    FPU(MOVDDUP),
    FPU(MOVSHDUP),
    FPU(MOVSLDUP),
    FPU(PABSB),
    FPU(PABSW),
    FPU(PABSD),
    FPU(PALIGNR),
    FPU(PHADDW),
    FPU(PHADDD),
    FPU(PHADDSW),
    FPU(PHSUBW),
    FPU(PHSUBD),
    FPU(PHSUBSW),
    FPU(PMADDUBSW),
    FPU(PMULHRSW),
    FPU(PSHUFB),
    FPU(PSIGNB),
    FPU(PSIGNW),
    FPU(PSIGND),
    /* SSE4.1, SSE4.2 */
    FPU(BLENDPD),
    FPU(BLENDPS),
    FPU(BLENDVPD),
    FPU(BLENDVPS),
    FPU(DPPD),
    FPU(DPPS),
    FPU(EXTRACTPS),
    FPU(INSERTPS),
    FPU(MOVNTDQA),
    FPU(MPSADBW),
    FPU(PACKUSDW),
    FPU(PBLENDVB),
    FPU(PBLENDW),
    FPU(PCMPEQQ),
    FPU(PCMPGTQ),
    FPU(PEXTRB),
    FPU(PEXTRD),
    FPU(PHMINPOSUW),
    FPU(PINSRB),
    FPU(PINSRD),
    FPU(PMAXSB),
    FPU(PMAXSD),
    FPU(PMAXUD),
    FPU(PMAXUW),
    FPU(PMINSB),
    FPU(PMINSD),
    FPU(PMINUD),
    FPU(PMINUW),
    FPU(PMOVSXBW),
    FPU(PMOVSXBD),
    FPU(PMOVSXBQ),
    FPU(PMOVSXWD),
    FPU(PMOVSXWQ),
    FPU(PMOVSXDQ),
    FPU(PMOVZXBW),
    FPU(PMOVZXBD),
    FPU(PMOVZXBQ),
    FPU(PMOVZXWD),
    FPU(PMOVZXWQ),
    FPU(PMOVZXDQ),
    FPU(PMULDQ),
    FPU(PMULLD),
    FPU(ROUNDPD),
    FPU(ROUNDPS),
    FPU(ROUNDSD),
    FPU(ROUNDSS),
    ROW(PTEST, FP, NONE, 0, ALL, "PTEST"),
    ROW(PCMPESTRI, FP, NONE, 0, ALL, "PCMPESTRI"),
    ROW(PCMPESTRM, FP, NONE, 0, ALL, "PCMPESTRM"),
    ROW(PCMPISTRI, FP, NONE, 0, ALL, "PCMPISTRI"),
    ROW(PCMPISTRM, FP, NONE, 0, ALL, "PCMPISTRM"),
};

static const struct bt_class_row no_row = {0, BT_CLASS_EMULATE, PRIV_NONE, F_ARITH, 0, ""};

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

/* FP and SSE mnemonics whose CMPSD/MOVSD string namesakes share the Zydis mnemonic. */
static bool is_sse_form(const struct insn *in) {
    return in->map != 0;
}

/* MOV and POP to a control register, SS or CS. */
static bool loads_system_register(const struct insn *in) {
    const struct insn_op *dst = &in->op[0];
    return dst->type == OP_REG &&
           (dst->reg_class == RC_CR ||
            (dst->reg_class == RC_SEG && (dst->reg == SEG_SS || dst->reg == SEG_CS)));
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
    case BT_CLASS_MOV:
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
    if (row->class == BT_CLASS_EMULATE)
        *read = F_ARITH;
    /* A faulting instruction shows its flags, but then those before it, which are in RFLAGS. */
}
