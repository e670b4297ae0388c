/*
 * dispatch.c: which function executes which mnemonic, and under which CPUID feature. A mnemonic
 * without a row goes to the host's floating-point and vector unit if that knows it, else it is #UD.
 */
#include "interp/interp_internal.h"

/* A CPUID feature: word of the model, bit. 0 means always there. */
enum feature_word { W_NONE, W_F1_EDX, W_F1_ECX, W_F7_EBX, W_X1_EDX, W_X1_ECX };
#define FEATURE(word, bit) ((word) << 5 | (bit))
enum {
    FEAT_TSC = FEATURE(W_F1_EDX, 4),
    FEAT_MSR = FEATURE(W_F1_EDX, 5),
    FEAT_CX8 = FEATURE(W_F1_EDX, 8),
    FEAT_SEP = FEATURE(W_F1_EDX, 11),
    FEAT_CMOV = FEATURE(W_F1_EDX, 15),
    FEAT_CLFSH = FEATURE(W_F1_EDX, 19),
    FEAT_SSE = FEATURE(W_F1_EDX, 25),
    FEAT_SSE2 = FEATURE(W_F1_EDX, 26),
    FEAT_MONITOR = FEATURE(W_F1_ECX, 3),
    FEAT_SSE42 = FEATURE(W_F1_ECX, 20),
    FEAT_MOVBE = FEATURE(W_F1_ECX, 22),
    FEAT_POPCNT = FEATURE(W_F1_ECX, 23),
    FEAT_RDRAND = FEATURE(W_F1_ECX, 30),
    FEAT_BMI1 = FEATURE(W_F7_EBX, 3),
    FEAT_RDSEED = FEATURE(W_F7_EBX, 18),
    FEAT_ADX = FEATURE(W_F7_EBX, 19),
    FEAT_SMAP = FEATURE(W_F7_EBX, 20),
    FEAT_CLFLUSHOPT = FEATURE(W_F7_EBX, 23),
    FEAT_CLWB = FEATURE(W_F7_EBX, 24),
    FEAT_RDTSCP = FEATURE(W_X1_EDX, 27),
    FEAT_LZCNT = FEATURE(W_X1_ECX, 5)
};

static bool has_feature(const struct cpu *cpu, unsigned feature) {
    const struct cpu_model *m = cpu->model;
    if (!feature || !m)
        return true;
    const u32 words[] = {0, m->f1_edx, m->f1_ecx, m->f7_ebx, m->x1_edx, m->x1_ecx};
    return (words[feature >> 5] >> (feature & 31)) & 1;
}

/* String MOVSD and CMPSD share their names with SSE2 instructions. */
static exec_fn bind_movsd(const struct insn *in) {
    return in->map == 0 ? exec_movs : NULL;
}
static exec_fn bind_cmpsd(const struct insn *in) {
    return in->map == 0 ? exec_cmps : NULL;
}

struct row {
    exec_fn exec;
    exec_fn (*bind)(const struct insn *in); /* used instead of exec when present */
    u8 feature;
};
#define M(name) [ZYDIS_MNEMONIC_##name]
#define EXEC(fn)                                                                                   \
    { .exec = exec_##fn }
#define FEAT(fn, need)                                                                             \
    { .exec = exec_##fn, .feature = FEAT_##need }
#define BIND(fn)                                                                                   \
    { .bind = bind_##fn }

/* clang-format off */
static const struct row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    /* arithmetic and logic */
    M(ADD) = BIND(add), M(OR) = BIND(or), M(ADC) = BIND(adc), M(SBB) = BIND(sbb),
    M(AND) = BIND(and), M(SUB) = BIND(sub), M(XOR) = BIND(xor), M(CMP) = BIND(cmp),
    M(TEST) = BIND(test), M(INC) = BIND(inc), M(DEC) = BIND(dec), M(NEG) = EXEC(neg),
    M(NOT) = EXEC(not), M(XADD) = EXEC(xadd), M(CMPXCHG) = EXEC(cmpxchg),
    M(CMPXCHG8B) = FEAT(cmpxchg8b, CX8), M(ADCX) = FEAT(adcx, ADX), M(ADOX) = FEAT(adox, ADX),
    /* shifts and rotates */
    M(ROL) = EXEC(rol), M(ROR) = EXEC(ror), M(RCL) = EXEC(rcl), M(RCR) = EXEC(rcr),
    M(SHL) = EXEC(shl), M(SHR) = EXEC(shr), M(SAR) = EXEC(sar), M(SHLD) = EXEC(shld),
    M(SHRD) = EXEC(shrd),
    /* multiplication, division, decimal */
    M(MUL) = EXEC(mul), M(IMUL) = EXEC(imul), M(DIV) = EXEC(div), M(IDIV) = EXEC(idiv),
    M(AAA) = EXEC(aaa), M(AAS) = EXEC(aas), M(AAM) = EXEC(aam), M(AAD) = EXEC(aad),
    M(DAA) = EXEC(daa), M(DAS) = EXEC(das),
    /* bits */
    M(BT) = EXEC(bt), M(BTS) = EXEC(bts), M(BTR) = EXEC(btr), M(BTC) = EXEC(btc),
    M(BSF) = EXEC(bsf), M(BSR) = EXEC(bsr), M(POPCNT) = FEAT(popcnt, POPCNT),
    M(BSWAP) = EXEC(bswap), M(CRC32) = FEAT(crc32, SSE42),
    /* data movement */
    M(MOV) = BIND(mov), M(MOVZX) = EXEC(movzx), M(MOVSX) = EXEC(movsx),
    M(MOVBE) = FEAT(movbe, MOVBE), M(MOVNTI) = {.bind = bind_mov, .feature = FEAT_SSE2},
    M(XCHG) = EXEC(xchg), M(LEA) = EXEC(lea), M(XLAT) = EXEC(xlat), M(CBW) = EXEC(cbw),
    M(CWDE) = EXEC(cwde), M(CWD) = EXEC(cwd), M(CDQ) = EXEC(cdq), M(LDS) = EXEC(lds),
    M(LES) = EXEC(les), M(LFS) = EXEC(lfs), M(LGS) = EXEC(lgs), M(LSS) = EXEC(lss),
    M(LAHF) = EXEC(lahf), M(SAHF) = EXEC(sahf), M(SALC) = EXEC(salc), M(CLC) = EXEC(clc),
    M(STC) = EXEC(stc), M(CMC) = EXEC(cmc), M(CLD) = EXEC(cld), M(STD) = EXEC(std),
    M(NOP) = EXEC(nop), M(PAUSE) = EXEC(nop),
    /* conditions */
    M(CMOVO) = FEAT(cmov, CMOV), M(CMOVNO) = FEAT(cmov, CMOV), M(CMOVB) = FEAT(cmov, CMOV),
    M(CMOVNB) = FEAT(cmov, CMOV), M(CMOVZ) = FEAT(cmov, CMOV), M(CMOVNZ) = FEAT(cmov, CMOV),
    M(CMOVBE) = FEAT(cmov, CMOV), M(CMOVNBE) = FEAT(cmov, CMOV), M(CMOVS) = FEAT(cmov, CMOV),
    M(CMOVNS) = FEAT(cmov, CMOV), M(CMOVP) = FEAT(cmov, CMOV), M(CMOVNP) = FEAT(cmov, CMOV),
    M(CMOVL) = FEAT(cmov, CMOV), M(CMOVNL) = FEAT(cmov, CMOV), M(CMOVLE) = FEAT(cmov, CMOV),
    M(CMOVNLE) = FEAT(cmov, CMOV), M(SETO) = EXEC(setcc), M(SETNO) = EXEC(setcc),
    M(SETB) = EXEC(setcc), M(SETNB) = EXEC(setcc), M(SETZ) = EXEC(setcc), M(SETNZ) = EXEC(setcc),
    M(SETBE) = EXEC(setcc), M(SETNBE) = EXEC(setcc), M(SETS) = EXEC(setcc), M(SETNS) = EXEC(setcc),
    M(SETP) = EXEC(setcc), M(SETNP) = EXEC(setcc), M(SETL) = EXEC(setcc), M(SETNL) = EXEC(setcc),
    M(SETLE) = EXEC(setcc), M(SETNLE) = EXEC(setcc), M(JO) = BIND(jcc), M(JNO) = BIND(jcc),
    M(JB) = BIND(jcc), M(JNB) = BIND(jcc), M(JZ) = BIND(jcc), M(JNZ) = BIND(jcc),
    M(JBE) = BIND(jcc), M(JNBE) = BIND(jcc), M(JS) = BIND(jcc), M(JNS) = BIND(jcc),
    M(JP) = BIND(jcc), M(JNP) = BIND(jcc), M(JL) = BIND(jcc), M(JNL) = BIND(jcc),
    M(JLE) = BIND(jcc), M(JNLE) = BIND(jcc),
    /* strings */
    M(MOVSB) = EXEC(movs), M(MOVSW) = EXEC(movs), M(MOVSD) = BIND(movsd), M(STOSB) = EXEC(stos),
    M(STOSW) = EXEC(stos), M(STOSD) = EXEC(stos), M(LODSB) = EXEC(lods), M(LODSW) = EXEC(lods),
    M(LODSD) = EXEC(lods), M(CMPSB) = EXEC(cmps), M(CMPSW) = EXEC(cmps), M(CMPSD) = BIND(cmpsd),
    M(SCASB) = EXEC(scas), M(SCASW) = EXEC(scas), M(SCASD) = EXEC(scas), M(INSB) = EXEC(ins),
    M(INSW) = EXEC(ins), M(INSD) = EXEC(ins), M(OUTSB) = EXEC(outs), M(OUTSW) = EXEC(outs),
    M(OUTSD) = EXEC(outs),
    /* stack */
    M(PUSH) = EXEC(push), M(POP) = EXEC(pop), M(PUSHA) = EXEC(pusha), M(PUSHAD) = EXEC(pusha),
    M(POPA) = EXEC(popa), M(POPAD) = EXEC(popa), M(PUSHF) = EXEC(pushf), M(PUSHFD) = EXEC(pushf),
    M(POPF) = EXEC(popf), M(POPFD) = EXEC(popf), M(ENTER) = EXEC(enter), M(LEAVE) = EXEC(leave),
    /* control transfer */
    M(JMP) = EXEC(jmp), M(CALL) = EXEC(call), M(RET) = EXEC(ret), M(IRET) = EXEC(iret),
    M(IRETD) = EXEC(iret), M(JCXZ) = EXEC(jcxz), M(JECXZ) = EXEC(jcxz), M(LOOP) = EXEC(loop),
    M(LOOPE) = EXEC(loop), M(LOOPNE) = EXEC(loop), M(INT) = EXEC(int), M(INT3) = EXEC(int3),
    M(INTO) = EXEC(into), M(INT1) = EXEC(int1), M(BOUND) = EXEC(bound),
    M(SYSENTER) = FEAT(sysenter, SEP), M(SYSEXIT) = FEAT(sysexit, SEP), M(UD0) = EXEC(ud),
    M(UD1) = EXEC(ud), M(UD2) = EXEC(ud),
    /* system */
    M(HLT) = EXEC(hlt), M(CLI) = EXEC(cli), M(STI) = EXEC(sti), M(CLTS) = EXEC(clts),
    M(IN) = EXEC(in), M(OUT) = EXEC(out), M(LGDT) = EXEC(lgdt), M(LIDT) = EXEC(lidt),
    M(SGDT) = EXEC(sgdt), M(SIDT) = EXEC(sidt), M(LLDT) = EXEC(lldt), M(LTR) = EXEC(ltr),
    M(SLDT) = EXEC(sldt), M(STR) = EXEC(str), M(LMSW) = EXEC(lmsw), M(SMSW) = EXEC(smsw),
    M(LAR) = EXEC(lar), M(LSL) = EXEC(lsl), M(VERR) = EXEC(verr), M(VERW) = EXEC(verw),
    M(ARPL) = EXEC(arpl), M(INVLPG) = EXEC(invlpg), M(INVD) = EXEC(invd), M(WBINVD) = EXEC(invd),
    M(RDMSR) = FEAT(rdmsr, MSR), M(WRMSR) = FEAT(wrmsr, MSR), M(RDTSC) = FEAT(rdtsc, TSC),
    M(RDTSCP) = FEAT(rdtscp, RDTSCP), M(RDPMC) = EXEC(rdpmc), M(CPUID) = EXEC(cpuid),
    M(MONITOR) = FEAT(monitor, MONITOR), M(MWAIT) = FEAT(mwait, MONITOR),
    M(CLFLUSH) = FEAT(clflush, CLFSH), M(CLFLUSHOPT) = FEAT(clflush, CLFLUSHOPT),
    M(CLWB) = FEAT(clflush, CLWB), M(RDRAND) = FEAT(rdrand, RDRAND),
    M(RDSEED) = FEAT(rdrand, RDSEED), M(CLAC) = FEAT(clac, SMAP), M(STAC) = FEAT(stac, SMAP),
    M(LFENCE) = FEAT(nop, SSE2), M(MFENCE) = FEAT(nop, SSE2), M(SFENCE) = FEAT(nop, SSE)};
/* clang-format on */

enum ex exec_hostfp(struct interp *it, struct cpu *cpu, const struct insn *in) {
    if (!hostfp_execute(it, cpu, in))
        return EX_FAULT;
    return unlikely(cpu->halted) ? EX_FREEZE : EX_NEXT;
}

/* 0F 0D and 0F 18 to 0F 1F: prefetches and hints, no operation where not known better. They came
 * with the Pentium Pro. */
static bool is_hint(const struct insn *in) {
    return in->map == 1 && (in->opcode == 0x0d || (in->opcode & 0xf8) == 0x18);
}
static exec_fn bind_hint(const struct cpu *cpu) {
    return cpu->model && cpu_model_family(cpu->model) < 6 ? exec_ud : exec_nop;
}

exec_fn interp_bind(const struct cpu *cpu, const struct insn *in) {
    /* F3 before BSF and BSR means TZCNT and LZCNT only on processors that have them. */
    if (in->rep && in->mnemonic == ZYDIS_MNEMONIC_BSF && has_feature(cpu, FEAT_BMI1))
        return exec_tzcnt;
    if (in->rep && in->mnemonic == ZYDIS_MNEMONIC_BSR && has_feature(cpu, FEAT_LZCNT))
        return exec_lzcnt;
    if (is_hint(in))
        return bind_hint(cpu);
    const struct row *row = &rows[in->mnemonic];
    exec_fn exec = row->bind ? row->bind(in) : row->exec;
    if (exec)
        return has_feature(cpu, row->feature) ? exec : exec_ud;
    return hostfp_handles(in) ? exec_hostfp : exec_ud;
}
