/*
 * test_native.c: the host CPU is the judge. Random user-mode integer instructions run natively in
 * a 32-bit code segment and in interp, from the same registers, flags and memory; all of them must
 * agree afterwards, or both must have faulted alike.
 */
#include "interp_fixture.h"

#include "isa/insn.h"
#include "native.inc"

#include <cpuid.h>
#include <stdio.h>

/* ---- Random numbers: xorshift, seeded by the test, so that failures repeat ---- */

static u64 seed_state;
static u32 rnd(void) {
    seed_state ^= seed_state << 13;
    seed_state ^= seed_state >> 7;
    seed_state ^= seed_state << 17;
    return (u32)(seed_state >> 16);
}
static u32 rnd_below(u32 n) {
    return rnd() % n;
}
static u32 rnd_value(void) {
    static const u32 edges[] = {0,          1,          2,          0x7f,       0x80,
                                0xff,       0x7fff,     0x8000,     0xffff,     0x10000,
                                0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, 0x99};
    switch (rnd_below(4)) {
    case 0:
        return edges[rnd_below(ARRAY_LEN(edges))];
    case 1:
        return rnd() & 0xff;
    default:
        return rnd() ^ rnd() << 11;
    }
}

/* ---- What may be generated ---- */

enum form_flags {
    MODRM = 1,    /* register and r/m */
    DIGIT = 2,    /* r/m and an opcode extension out of `digits` */
    MEM_ONLY = 4, /* no register r/m */
    IMM8 = 8,
    IMMZ = 16, /* immediate of operand size */
    MOFFS = 32,
    STRING = 64,  /* may be repeated */
    BRANCH = 128, /* displacement jumps over the five bytes behind */
    BITS = 256,   /* the register is a bit index that moves the address */
    NO66 = 512,
    F3 = 1024,
    F2 = 2048,
    ADDR16 = 4096, /* 16-bit addressing: only LEA, which accesses nothing */
    IMM16_8 = 8192 /* ENTER */
};
struct form {
    u8 map, first, last; /* opcodes first..last */
    u16 flags;
    u8 digits;     /* allowed /digits, a bit each */
    u16 undefined; /* flags not compared: only where no native instruction computes them in interp
                    */
};

/* SDM volume 2: AAA/AAS leave OF SF ZF PF undefined, AAM/AAD OF AF CF, DAA/DAS OF; TZCNT and
 * LZCNT leave OF SF PF AF undefined. */
#define ALU(op)                                                                                    \
    {0, op, op + 3, MODRM, 0, 0}, {0, op + 4, op + 4, IMM8, 0, 0}, {                               \
        0, op + 5, op + 5, IMMZ, 0, 0                                                              \
    }
static const struct form forms[] = {
    ALU(0x00),
    ALU(0x08),
    ALU(0x10),
    ALU(0x18),
    ALU(0x20),
    ALU(0x28),
    ALU(0x30),
    ALU(0x38),
    {0, 0x27, 0x27, 0, 0, F_OF},
    {0, 0x2f, 0x2f, 0, 0, F_OF},
    {0, 0x37, 0x37, 0, 0, F_OF | F_SF | F_ZF | F_PF},
    {0, 0x3f, 0x3f, 0, 0, F_OF | F_SF | F_ZF | F_PF},
    {0, 0xd4, 0xd4, IMM8, 0, F_OF | F_AF | F_CF},
    {0, 0xd5, 0xd5, IMM8, 0, F_OF | F_AF | F_CF},
    {0, 0x40, 0x5f, 0, 0, 0},
    {0, 0x60, 0x61, 0, 0, 0},
    {0, 0x62, 0x62, MODRM | MEM_ONLY, 0, 0},
    {0, 0x63, 0x63, MODRM, 0, 0},
    {0, 0x68, 0x68, IMMZ, 0, 0},
    {0, 0x69, 0x69, MODRM | IMMZ, 0, 0},
    {0, 0x6a, 0x6a, IMM8, 0, 0},
    {0, 0x6b, 0x6b, MODRM | IMM8, 0, 0},
    {0, 0x70, 0x7f, BRANCH | NO66, 0, 0},
    {0, 0x80, 0x80, DIGIT | IMM8, 0xff, 0},
    {0, 0x81, 0x81, DIGIT | IMMZ, 0xff, 0},
    {0, 0x83, 0x83, DIGIT | IMM8, 0xff, 0},
    {0, 0x84, 0x8b, MODRM, 0, 0},
    {0, 0x8d, 0x8d, MODRM | MEM_ONLY, 0, 0},
    {0, 0x8d, 0x8d, MODRM | MEM_ONLY | ADDR16, 0, 0},
    {0, 0x8f, 0x8f, DIGIT, 1, 0},
    {0, 0x90, 0x99, 0, 0, 0},
    {0, 0x9c, 0x9c, 0, 0, 0},
    {0, 0x9e, 0x9f, 0, 0, 0},
    {0, 0xa0, 0xa3, MOFFS, 0, 0},
    {0, 0xa4, 0xa7, STRING, 0, 0},
    {0, 0xa8, 0xa8, IMM8, 0, 0},
    {0, 0xa9, 0xa9, IMMZ, 0, 0},
    {0, 0xaa, 0xaf, STRING, 0, 0},
    {0, 0xb0, 0xb7, IMM8, 0, 0},
    {0, 0xb8, 0xbf, IMMZ, 0, 0},
    {0, 0xc0, 0xc1, DIGIT | IMM8, 0xbf, 0},
    {0, 0xc6, 0xc6, DIGIT | IMM8, 1, 0},
    {0, 0xc7, 0xc7, DIGIT | IMMZ, 1, 0},
    {0, 0xc8, 0xc8, IMM16_8, 0, 0},
    {0, 0xc9, 0xc9, 0, 0, 0},
    {0, 0xd0, 0xd3, DIGIT, 0xbf, 0},
    {0, 0xd6, 0xd7, 0, 0, 0},
    {0, 0xe0, 0xe3, BRANCH | NO66, 0, 0},
    {0, 0xf5, 0xf5, 0, 0, 0},
    {0, 0xf6, 0xf6, DIGIT, 0xfc, 0},
    {0, 0xf7, 0xf7, DIGIT, 0xfc, 0},
    {0, 0xf6, 0xf6, DIGIT | IMM8, 1, 0},
    {0, 0xf7, 0xf7, DIGIT | IMMZ, 1, 0},
    {0, 0xf8, 0xf9, 0, 0, 0},
    {0, 0xfc, 0xfd, 0, 0, 0},
    {0, 0xfe, 0xfe, DIGIT, 3, 0},
    {0, 0xff, 0xff, DIGIT, 0x43, 0},
    {1, 0x1f, 0x1f, DIGIT, 1, 0},
    {1, 0x40, 0x4f, MODRM, 0, 0},
    {1, 0x90, 0x9f, DIGIT, 1, 0},
    {1, 0xa3, 0xa3, MODRM | BITS, 0, 0},
    {1, 0xab, 0xab, MODRM | BITS, 0, 0},
    {1, 0xb3, 0xb3, MODRM | BITS, 0, 0},
    {1, 0xbb, 0xbb, MODRM | BITS, 0, 0},
    {1, 0xba, 0xba, DIGIT | IMM8, 0xf0, 0},
    {1, 0xa4, 0xa4, MODRM | IMM8, 0, 0},
    {1, 0xa5, 0xa5, MODRM, 0, 0},
    {1, 0xac, 0xac, MODRM | IMM8, 0, 0},
    {1, 0xad, 0xad, MODRM, 0, 0},
    {1, 0xaf, 0xb1, MODRM, 0, 0},
    {1, 0xb6, 0xb7, MODRM, 0, 0},
    {1, 0xb8, 0xb8, MODRM | F3, 0, 0},
    {1, 0xbc, 0xbf, MODRM, 0, 0},
    {1, 0xbc, 0xbd, MODRM | F3, 0, F_OF | F_SF | F_PF | F_AF},
    {1, 0xc0, 0xc1, MODRM, 0, 0},
    {1, 0xc3, 0xc3, MODRM | MEM_ONLY | NO66, 0, 0},
    {1, 0xc7, 0xc7, DIGIT | MEM_ONLY | NO66, 2, 0},
    {1, 0xc8, 0xcf, NO66, 0, 0},
    {2, 0xf0, 0xf1, MODRM | MEM_ONLY, 0, 0},
    {2, 0xf0, 0xf1, MODRM | F2, 0, 0},
    {2, 0xf6, 0xf6, MODRM | F3, 0, 0},
};

/* ---- One test: code, registers, memory ---- */

#define WINDOW_START (DATA_BASE + 0x2000)
#define WINDOW_BYTES 0x4000u
#define STACK_START (STACK_TOP - 0x400)
#define STACK_BYTES 0x800u
#define POINTER (DATA_BASE + 0x4000)

struct trial {
    const struct form *form;
    u8 code[32];
    u32 bytes;
    struct native_regs regs;
};

static void put(struct trial *t, unsigned byte) {
    t->code[t->bytes++] = (u8)byte;
}
static void put_n(struct trial *t, u32 value, unsigned n) {
    for (unsigned i = 0; i < n; i++)
        put(t, value >> (8 * i) & 0xff);
}

static void random_regs(struct trial *t) {
    static const u8 pointers[] = {R_EBX, R_EBP, R_ESI, R_EDI};
    for (unsigned i = 0; i < 8; i++)
        t->regs.gpr[i] = rnd_value();
    for (unsigned i = 0; i < ARRAY_LEN(pointers); i++)
        t->regs.gpr[pointers[i]] = POINTER + rnd_below(0x200) - 0x100;
    t->regs.gpr[R_ESP] = STACK_TOP - rnd_below(64);
    t->regs.eflags = F_FIXED | F_IF | (rnd() & (F_ARITH | F_DF));
}

/* r/m as memory: a pointer register with small displacement, SIB with ECX small, or absolute. */
static void put_memory(struct trial *t, unsigned reg) {
    static const u8 bases[] = {R_EBX, R_ESI, R_EDI, R_EBP};
    unsigned base = bases[rnd_below(4)], mod = base == R_EBP ? 1 + rnd_below(2) : rnd_below(3);
    if (rnd_below(6) == 0) {
        put(t, reg << 3 | 5);
        put_n(t, POINTER + rnd_below(256), 4);
        return;
    }
    if (rnd_below(3) == 0) {
        bool index = rnd() & 1;
        put(t, mod << 6 | reg << 3 | 4);
        put(t, (rnd() & 3) << 6 | (index ? R_ECX : 4) << 3 | base);
        if (index)
            t->regs.gpr[R_ECX] = rnd() & 63;
    } else {
        put(t, mod << 6 | reg << 3 | base);
    }
    if (mod)
        put_n(t, rnd() & 0x7f, mod == 1 ? 1 : 4);
}

static unsigned random_digit(u8 digits) {
    unsigned d;
    do
        d = rnd_below(8);
    while (!(digits >> d & 1));
    return d;
}

/* Any 16-bit memory form: SDM volume 2, table 2-1. */
static void put_memory16(struct trial *t, unsigned reg) {
    unsigned mod = rnd_below(3), rm = rnd_below(8);
    put(t, mod << 6 | reg << 3 | rm);
    if (mod == 2 || (mod == 0 && rm == 6))
        put_n(t, rnd(), 2);
    else if (mod == 1)
        put(t, rnd());
}

static void put_modrm(struct trial *t) {
    const struct form *f = t->form;
    bool memory = f->flags & MEM_ONLY || rnd() & 1;
    unsigned reg = f->flags & DIGIT ? random_digit(f->digits) : rnd_below(8);
    if (f->flags & BITS && memory) {
        reg = rnd_below(3);
        t->regs.gpr[reg] = rnd_below(8000) - 4000;
        if (reg == R_ECX) { /* not also an index */
            put(t, reg << 3 | R_ESI);
            return;
        }
    }
    if (f->flags & ADDR16)
        put_memory16(t, reg);
    else if (memory)
        put_memory(t, reg);
    else
        put(t, 0xc0 | reg << 3 | rnd_below(8));
}

static void put_prefixes(struct trial *t, bool *word) {
    static const u8 segments[] = {0x26, 0x36, 0x3e};
    u16 flags = t->form->flags;
    *word = !(flags & NO66) && rnd_below(4) == 0;
    if (rnd_below(10) == 0 && !(flags & BRANCH))
        put(t, segments[rnd_below(3)]);
    if (*word)
        put(t, 0x66);
    if (flags & ADDR16)
        put(t, 0x67);
    if (flags & (MODRM | DIGIT) && rnd_below(16) == 0)
        put(t, 0xf0); /* LOCK: #UD on most */
    if (flags & (MODRM | DIGIT) && t->form->map == 0 && rnd_below(16) == 0)
        put(t, rnd() & 1 ? 0xf2 : 0xf3); /* means nothing here */
    if (flags & (F3 | F2))
        put(t, flags & F3 ? 0xf3 : 0xf2);
    if (flags & STRING && rnd() & 1) {
        put(t, rnd() & 1 ? 0xf3 : 0xf2);
        t->regs.gpr[R_ECX] = rnd_below(40);
    }
}

static void make_trial(struct trial *t) {
    bool word;
    memset(t, 0, sizeof *t);
    t->form = &forms[rnd_below(ARRAY_LEN(forms))];
    const struct form *f = t->form;
    random_regs(t);
    put_prefixes(t, &word);
    if (f->map)
        put(t, 0x0f);
    if (f->map == 2)
        put(t, 0x38);
    put(t, f->first + rnd_below(f->last - f->first + 1u));
    if (f->flags & (MODRM | DIGIT))
        put_modrm(t);
    if (f->flags & MOFFS)
        put_n(t, POINTER + rnd_below(256), 4);
    if (f->flags & IMM8)
        put(t, rnd());
    if (f->flags & IMMZ)
        put_n(t, rnd_value(), word ? 2 : 4);
    if (f->flags & IMM16_8) {
        put_n(t, rnd_below(64), 2);
        put(t, rnd_below(6));
    }
    if (f->flags & BRANCH) {
        put(t, 5);
        put(t, 0xb8); /* mov eax, imm32: skipped when taken */
        put_n(t, rnd(), 4);
    }
}

/* ---- Comparison ---- */

static int signal_of(const struct guest_fault *fault) {
    switch (fault->vector) {
    case VEC_DE:
        return SIGFPE;
    case VEC_UD:
        return SIGILL;
    default:
        return SIGSEGV;
    }
}

/* Runs the trial in interp: 0 or the signal its fault would be. */
static int run_interp(struct guest *g, const struct trial *t, struct native_regs *regs) {
    struct cpu *cpu = g->cpu;
    guest_reset(g, 3);
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = regs->gpr[i];
    cpu->eflags = regs->eflags;
    memcpy(guest_at(g, CODE_BASE), t->code, t->bytes);
    while (cpu->eip != CODE_BASE + t->bytes) {
        enum interp_result r = interp_step(g->it, cpu);
        if (r == INTERP_FAULT)
            return signal_of(&cpu->fault);
        assert_int_equal(r, INTERP_OK);
    }
    for (unsigned i = 0; i < 8; i++)
        regs->gpr[i] = (u32)cpu->gpr[i];
    regs->eflags = cpu->eflags;
    return 0;
}

static void show(const struct trial *t, const struct native_regs *interp, int s1,
                 const struct native_regs *native, int s2) {
    struct insn in;
    char text[128] = "?";
    if (insn_decode(&in, t->code, t->bytes, true, true) == INSN_OK)
        insn_format(&in, CODE_BASE, text, sizeof text);
    print_message("%s  [", text);
    for (u32 i = 0; i < t->bytes; i++)
        print_message(" %02x", t->code[i]);
    print_message(" ]\n          before   interp   native\n");
    for (unsigned i = 0; i < 9; i++) {
        u32 a = i < 8 ? interp->gpr[i] : interp->eflags,
            b = i < 8 ? native->gpr[i] : native->eflags;
        u32 o = i < 8 ? t->regs.gpr[i] : t->regs.eflags;
        print_message("%s %08x %08x %08x %s\n",
                      (const char *[]){"eax  ", "ecx  ", "edx  ", "ebx  ", "esp  ", "ebp  ",
                                       "esi  ", "edi  ", "flags"}[i],
                      o, a, b, a == b ? "" : "<-");
    }
    print_message("signals: interp %d native %d\n", s1, s2);
}

static bool agree(const struct trial *t, const struct native_regs *a, const struct native_regs *b) {
    u32 mask = (F_ARITH | F_DF) & ~(u32)t->form->undefined;
    return memcmp(a->gpr, b->gpr, sizeof a->gpr) == 0 && !((a->eflags ^ b->eflags) & mask);
}

static void fill_memory(struct guest *g) {
    u8 *native = (u8 *)(uintptr_t)WINDOW_START;
    for (u32 i = 0; i < WINDOW_BYTES; i += 4)
        store32(native + i, rnd());
    for (u32 i = 0; i < STACK_BYTES; i += 4)
        store32((u8 *)(uintptr_t)STACK_START + i, rnd());
    memcpy(guest_at(g, WINDOW_START), native, WINDOW_BYTES);
    memcpy(guest_at(g, STACK_START), (u8 *)(uintptr_t)STACK_START, STACK_BYTES);
}
static bool memory_agrees(struct guest *g) {
    return !memcmp(guest_at(g, WINDOW_START), (u8 *)(uintptr_t)WINDOW_START, WINDOW_BYTES) &&
           !memcmp(guest_at(g, STACK_START), (u8 *)(uintptr_t)STACK_START, STACK_BYTES);
}

/* One trial on both sides. A faulting instruction may have written memory only in interp or only
 * natively where the manual leaves it open, so memory is refilled then. */
static bool run_trial(struct guest *g, const struct trial *t) {
    struct native_regs interp = t->regs, native = t->regs;
    int s1 = run_interp(g, t, &interp);
    memcpy((u8 *)(uintptr_t)CODE_BASE, t->code, t->bytes);
    int s2 = native_run(CODE_BASE, t->bytes, &native);
    if (s1 && s1 == s2) {
        fill_memory(g);
        return true;
    }
    if (s1 == s2 && agree(t, &interp, &native) && memory_agrees(g))
        return true;
    show(t, &interp, s1, &native, s2);
    if (!memory_agrees(g))
        print_message("memory differs\n");
    fill_memory(g);
    return false;
}

static void random_instructions_agree_with_the_host(void **state) {
    struct guest *g = *state;
    const char *more = getenv("RINGFOLD_NATIVE_TRIALS");
    unsigned trials = more ? (unsigned)strtoul(more, NULL, 0) : 200000, failed = 0;
    seed_state = 0x9e3779b97f4a7c15ull;
    if (more)
        seed_state ^= (u64)trials << 20;
    if (!native_init()) {
        print_message("the host lends no memory below 4 GiB\n");
        skip();
    }
    /* What only some hosts have is tried only there. */
    u32 eax, ebx, ecx, edx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        g->model.f7_ebx = ebx;
    if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx))
        g->model.x1_ecx = ecx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        g->model.f1_ecx = ecx;
    fill_memory(g);
    for (unsigned i = 0; i < trials && failed < 10; i++) {
        struct trial t;
        if (i % 64 == 0)
            fill_memory(g);
        make_trial(&t);
        failed += !run_trial(g, &t);
    }
    assert_int_equal(failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {CASE(random_instructions_agree_with_the_host)};
    return cmocka_run_group_tests_name("interp.native", tests, NULL, NULL);
}
