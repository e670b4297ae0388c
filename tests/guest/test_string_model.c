/*
 * Every string instruction with every prefix, against a model: MOVS, CMPS, STOS, LODS, SCAS; bytes,
 * words, double words; no prefix, REP/REPE, REPNE; 32-bit addresses in flat segments and 16-bit
 * ones in segments with a base, where SI, DI and CX wrap; both directions; overlaps of every
 * distance; counts from zero; limits and page faults in the middle of an element and between two,
 * repaired and gone on from; across 4 GiB. SDM volume 1, section 7.3.9 "String Operations"; volume
 * 2, "REP/REPE/REPZ/REPNE/REPNZ" and each instruction. Expected: registers, flags and memory as the
 * model has them; a fault leaves the state of the last whole element and the EIP of the first
 * prefix.
 *
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

enum { AREA = 2048, HALF = AREA / 2, PAGES = 0x30000000 };
enum { O_MOVS = 0xa4, O_CMPS = 0xa6, O_STOS = 0xaa, O_LODS = 0xac, O_SCAS = 0xae };
static const u8 ops[] = {O_MOVS, O_CMPS, O_STOS, O_LODS, O_SCAS};
static u8 code[4096] __attribute__((aligned(4096))); /* alone on its page */
static u8 mirror[AREA]; /* offsets -HALF to HALF - 1 around zero, modulo the address size */
static u32 zero;        /* the linear address of offset 0 of the real area */
#define real(offset) ((u8 *)(zero + (offset)))

struct state {
    u32 esi, edi, ecx, eax, flags;
};
struct insn {
    u32 op, bytes, rep; /* rep: 0, F2h, F3h */
    bool addr16, down;
};

static u32 signed_offset(const struct insn *i, u32 offset) {
    return i->addr16 ? (u32)(int32_t)(int16_t)offset : offset - zero;
}
static u8 *model_at(const struct insn *i, u32 offset) {
    return mirror + HALF + (int32_t)signed_offset(i, offset);
}

static u32 load(const u8 *p, u32 bytes) {
    u32 v = 0;
    memcpy(&v, p, bytes);
    return v;
}

/* The flags of a - b. */
static u32 compare(u32 a, u32 b, u32 bytes) {
    u32 sign = 1u << (8 * bytes - 1), mask = sign | (sign - 1), r = (a - b) & mask, flags = 0;
    flags |= (a & mask) < (b & mask) ? F_CF : 0;
    flags |= r ? 0 : F_ZF;
    flags |= r & sign ? F_SF : 0;
    flags |= (a ^ b ^ r) & 0x10 ? F_AF : 0;
    flags |= (a ^ b) & (a ^ r) & sign ? F_OF : 0;
    u32 parity = r ^ r >> 4;
    parity ^= parity >> 2;
    return flags | ((parity ^ parity >> 1) & 1 ? 0 : F_PF);
}

/* Runs the instruction on mirror; *stop elements at most. */
static void model(const struct insn *i, struct state *s, u32 stop) {
    u32 mask = i->addr16 ? 0xffff : 0xffffffff, step = i->down ? -i->bytes : i->bytes;
    bool uses_si = i->op <= O_CMPS || i->op == O_LODS, uses_di = i->op != O_LODS;
    while (stop-- && (!i->rep || (s->ecx & mask))) {
        u8 *from = uses_si ? model_at(i, s->esi & mask) : NULL;
        u8 *to = uses_di ? model_at(i, s->edi & mask) : NULL;
        u32 a = i->op == O_SCAS ? s->eax : from ? load(from, i->bytes) : 0;
        switch (i->op) {
        case O_MOVS:
            memcpy(to, &a, i->bytes);
            break;
        case O_STOS:
            memcpy(to, &s->eax, i->bytes);
            break;
        case O_LODS:
            memcpy(&s->eax, &a, i->bytes);
            break;
        default:
            s->flags = compare(a, load(to, i->bytes), i->bytes);
        }
        if (uses_si)
            s->esi = (s->esi & ~mask) | ((s->esi + step) & mask);
        if (uses_di)
            s->edi = (s->edi & ~mask) | ((s->edi + step) & mask);
        if (!i->rep)
            return;
        s->ecx = (s->ecx & ~mask) | ((s->ecx - 1) & mask);
        bool compares = i->op == O_CMPS || i->op == O_SCAS;
        if (compares && !(s->flags & F_ZF) == (i->rep == 0xf3))
            return;
    }
}

static void emit(const struct insn *i, bool source_fs) {
    u8 *p = code;
    if (i->addr16)
        *p++ = 0x67;
    if (i->bytes == 2)
        *p++ = 0x66;
    if (i->rep)
        *p++ = (u8)i->rep;
    if (source_fs)
        *p++ = 0x64;
    *p++ = (u8)(i->op | (i->bytes > 1));
    *p++ = 0xcd;
    *p = V_DONE;
}

/* Mostly equal elements, so that comparisons go some way. */
static void fill(const struct insn *i, u32 salt) {
    for (u32 n = 0; n < AREA; n++)
        mirror[n] = 0x11;
    for (u32 n = salt % 7; n < AREA; n += 29 + salt % 13)
        mirror[n] = (u8)(n * 5 + salt);
    for (u32 n = 0; n < HALF; n += 4) {
        *(u32 *)real(n) = *(u32 *)(mirror + HALF + n);
        *(u32 *)real((u32)(n - HALF) & (i->addr16 ? 0xffff : ~0u)) = *(u32 *)(mirror + n);
    }
}
static bool same_memory(const struct insn *i) {
    for (u32 n = 0; n < HALF; n += 4)
        if (*(u32 *)real(n) != *(u32 *)(mirror + HALF + n) ||
            *(u32 *)real((u32)(n - HALF) & (i->addr16 ? 0xffff : ~0u)) != *(u32 *)(mirror + n))
            return false;
    return true;
}

static void describe(const struct insn *i, const struct state *s) {
    print("op ");
    print_hex(i->op << 16 | i->bytes << 12 | i->rep << 4 | i->addr16 << 1 | i->down);
    print(" esi ");
    print_hex(s->esi);
    print(" edi ");
    print_hex(s->edi);
    print(" ecx ");
    print_hex(s->ecx);
    print("\n");
}

static u16 based;
static void begin(u32 ring, const struct insn *i, const struct state *s) {
    reset_run(ring);
    if (i->addr16)
        in.es = in.fs = based;
    in.esi = s->esi;
    in.edi = s->edi;
    in.ecx = s->ecx;
    in.eax = s->eax;
    in.eflags |= i->down ? F_DF : 0;
}
static bool matches(const struct state *s) {
    return trap.esi == s->esi && trap.edi == s->edi && trap.ecx == s->ecx && trap.eax == s->eax &&
           (trap.eflags & F_ARITH) == s->flags;
}

static void one(u32 ring, const struct insn *i, u32 from, u32 to, u32 count, u32 salt) {
    struct state s = {from, to, i->addr16 ? count | 0xabcd0000 : count, 0x11111111, 0};
    struct state before = s;
    fill(i, salt);
    emit(i, true);
    begin(ring, i, &s);
    model(i, &s, ~0u);
    u32 vector = run(ring, code);
    if (vector == V_DONE && matches(&s) && same_memory(i))
        return;
    describe(i, &before);
    EQ(vector, V_DONE);
    EQ(trap.esi, s.esi);
    EQ(trap.edi, s.edi);
    EQ(trap.ecx, s.ecx);
    EQ(trap.eax, s.eax);
    EQ(trap.eflags & F_ARITH, s.flags);
    CHECK(same_memory(i));
}

static void combinations(u32 ring, bool addr16) {
    static const int8_t distances[] = {-9, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 100};
    static const u8 counts[] = {0, 1, 2, 3, 7, 40};
    static const u8 reps[] = {0, 0xf3, 0xf2};
    u32 salt = ring;
    for (u32 o = 0; o < 5; o++)
        for (u32 bytes = 1; bytes <= 4; bytes *= 2)
            for (u32 r = 0; r < 3; r++)
                for (u32 d = 0; d < sizeof distances; d++)
                    for (u32 c = 0; c < sizeof counts; c++) {
                        struct insn i = {ops[o], bytes, reps[r], addr16, salt & 1};
                        u32 high = addr16 ? 0x55550000 : zero;
                        /* Around zero: 16-bit pointers wrap on the way. */
                        u32 from = (u32)(i.down ? 60 : -60) + salt % 5;
                        u32 to = from + (u32)distances[d];
                        if (addr16)
                            from = (from & 0xffff) | high, to = (to & 0xffff) | high;
                        else
                            from += zero, to += zero;
                        /* An element across 64 KiB is not the same thing as one that wraps. */
                        u32 align = addr16 ? ~(bytes - 1) : ~0u;
                        one(ring, &i, from & align, to & align, counts[c], salt++);
                    }
}

/* The element that reaches beyond the limit faults; those before are done. */
static void limits(void) {
    for (u32 o = 0; o < 5; o++)
        for (u32 bytes = 1; bytes <= 4; bytes *= 2)
            for (u32 cut = 0; cut < 4; cut++)
                for (u32 side = 0; side < 2; side++) { /* source or destination */
                    struct insn i = {ops[o], bytes, 0xf3, false, false};
                    bool uses = side ? i.op != O_LODS : i.op <= O_CMPS || i.op == O_LODS;
                    if (!uses)
                        continue;
                    u32 limit = 0x100 + cut, fits = (limit + 1) / bytes;
                    gdt_set(FREE_GDT + 1, descriptor(SCRATCH, limit, 0xf2, 4));
                    memset(scratch, 0x11, 0x2000);
                    emit(&i, true);
                    reset_run(3);
                    in.fs = side ? based : (FREE_GDT + 1) << 3 | 3;
                    in.es = side ? (FREE_GDT + 1) << 3 | 3 : based;
                    in.ecx = 1000;
                    in.eax = 0x11111111;
                    EQ(run(3, code), V_GP);
                    EQ(trap.error, 0);
                    EQ(trap.eip, code);
                    EQ(trap.ecx, 1000 - fits);
                    EQ(side ? trap.edi : trap.esi, fits * bytes);
                }
    gdt_set(FREE_GDT + 1, 0);
}

/* Pages come when they are asked for; the instruction goes on where it was. */
static u32 faults, total, start_esi, start_edi;
static struct insn *running;
static bool repair(struct frame *f) {
    u32 address = read_cr2(), page = address & ~0xfffu;
    if (f->vector != V_PF || faults > 8)
        return false;
    faults++;
    EQ(f->eip, code);
    EQ(page - PAGES < 0x6000, true);
    u32 done = total - f->ecx, step = running->down ? -running->bytes : running->bytes;
    if (running->op <= O_CMPS || running->op == O_LODS)
        EQ(f->esi, start_esi + done * step);
    map(page, SCRATCH + 0x10000 + (page - PAGES), PT_P | PT_W | PT_U);
    return true;
}

static void page_faults(u32 ring) {
    trap_hook = repair;
    for (u32 o = 0; o < 5; o++)
        for (u32 bytes = 1; bytes <= 4; bytes *= 2)
            for (u32 down = 0; down < 2; down++)
                for (u32 shift = 0; shift < 4; shift++) {
                    struct insn i = {ops[o], bytes, 0xf3, false, down};
                    running = &i;
                    memset(scratch + 0x10000, 0x11, 0x6000);
                    for (u32 page = 0; page < 6; page++)
                        map(PAGES + page * 4096, 0, 0);
                    /* Source in the first pages, destination in the last. */
                    start_esi = PAGES + (down ? 0x2800 : 0x800) + shift;
                    start_edi = PAGES + (down ? 0x5810 : 0x3810) + shift * 3 % 4;
                    total = 0x2000 / bytes;
                    faults = 0;
                    emit(&i, false);
                    reset_run(ring);
                    in.esi = start_esi;
                    in.edi = start_edi;
                    in.ecx = total;
                    in.eax = i.op == O_STOS ? 0x22222222 : 0x11111111;
                    in.eflags |= down ? F_DF : 0;
                    RUNS(ring, code);
                    u32 way = down ? -0x2000u : 0x2000u;
                    bool si = i.op <= O_CMPS || i.op == O_LODS, di = i.op != O_LODS;
                    EQ(trap.ecx, 0);
                    EQ(trap.esi, start_esi + (si ? way : 0));
                    EQ(trap.edi, start_edi + (di ? way : 0));
                    EQ(faults, 3 * (si + di));
                    if (i.op == O_STOS) {
                        u32 low = start_edi - (down ? 0x2000 - bytes : 0) - PAGES + 0x10000;
                        EQ(scratch[low], 0x22);
                        EQ(scratch[low - 1], 0x11);
                        EQ(scratch[low + 0x1fff], 0x22);
                        EQ(scratch[low + 0x2000], 0x11);
                    }
                }
    trap_hook = NULL;
}

/* Elements end at 4 GiB, the next begins at 0. */
static void across_4_gib(u32 ring) {
    static u8 saved[64];
    memcpy(saved, (void *)0, sizeof saved);
    map(0xfffff000, SCRATCH + 0x8000, PT_P | PT_W | PT_U);
    for (u32 bytes = 1; bytes <= 4; bytes *= 2)
        for (u32 down = 0; down < 2; down++) {
            struct insn i = {O_MOVS, bytes, 0xf3, false, down};
            u8 *top = scratch + 0x9000 - 16;
            for (u32 n = 0; n < 16; n++)
                top[n] = (u8)(n + 1), *(volatile u8 *)n = (u8)(n + 17);
            memset(scratch + 0x4000, 0, 64);
            emit(&i, false);
            reset_run(ring);
            in.esi = down ? 16 - bytes : (u32)-16;
            in.edi = SCRATCH + 0x4000 + (down ? 32 - bytes : 0);
            in.ecx = 32 / bytes;
            in.eflags |= down ? F_DF : 0;
            RUNS(ring, code);
            for (u32 n = 0; n < 32; n++)
                EQ(scratch[0x4000 + n], n + 1);
            EQ(trap.esi, down ? (u32)-16 - bytes : 16);
        }
    memcpy((void *)0, saved, sizeof saved);
}

/* Ports: rights first, whatever the count; then memory; then the device. */
CODE(do_ins, "rep insb" DONE);
CODE(do_outs, "rep outsb" DONE);
CODE(do_outsw, "fs rep outsw" DONE);
static void ports(void) {
    tss.iomap = sizeof tss;
    static const u8 *const forms[3] = {do_ins, do_outs, do_outsw};
    for (u32 n = 0; n < 3; n++)
        for (u32 allowed = 0; allowed < 2; allowed++) {
            reset_run(3);
            in.eflags |= allowed ? F_IOPL : 0;
            in.edx = n ? 0x80 : 0x61;
            in.ecx = 3;
            in.esi = in.edi = PAGES + 0x7000 - (n == 2 ? 2 : 1); /* one element, then a hole */
            map(PAGES + 0x6000, SCRATCH, PT_P | PT_W | PT_U);
            map(PAGES + 0x7000, 0, 0);
            EQ(run(3, forms[n]), allowed ? V_PF : V_GP);
            EQ(trap.eip, forms[n]);
            EQ(trap.ecx, allowed ? 2 : 3);
            if (allowed)
                EQ(trap_cr2, PAGES + 0x7000);
        }
}

void test(void) {
    based = gdt_set(FREE_GDT, descriptor(SCRATCH + 0x20000, 0xfffff, 0xf2, 12));
    for (u32 ring = 0; ring <= 3; ring += 3) {
        zero = SCRATCH + 0x2000;
        combinations(ring, false);
        zero = SCRATCH + 0x20000;
        combinations(ring, true);
    }
    if (!is_tcg())
        limits();
    paging_prepare();
    pte(PAGES);
    pte(0xfffff000);
    paging_on();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        page_faults(ring);
        across_4_gib(ring);
    }
    ports();
    paging_off();
    gdt_set(FREE_GDT, 0);
}
