/*
 * code.c: hostile instructions: whatever decodes, what only kernels use, and what touches memory.
 */
#include "hostile.h"

void put_bytes(struct gen *g, const u8 *bytes, unsigned count) {
    for (unsigned i = 0; i < count && g->at < g->end; i++)
        g->ram[g->at++] = bytes[i];
}

void put32(struct gen *g, u32 value) {
    u8 bytes[4];
    store32(bytes, value);
    put_bytes(g, bytes, 4);
}

void put_move(struct gen *g, unsigned reg, u32 value) {
    PUT(g, (u8)(0xb8 + reg));
    put32(g, value);
}

/* ---- Values ---- */

u32 hostile_address(struct gen *g) {
    static const u32 places[] = {AT_IVT,     AT_GDT,     AT_IDT,      AT_LDT,     AT_TSS,
                                 AT_STUBS,   AT_TABLES,  AT_TABLES,   AT_REAL,    AT_KERNEL,
                                 AT_USER,    AT_DATA,    AT_DATA,     AT_DATA,    AT_STACK0,
                                 AT_STACK3,  AT_DMA,     0xa0000,     0xb8000,    0xc0000,
                                 0xe0000,    0xf0000,    HOSTILE_RAM, 0xfec00000, 0xfee00000,
                                 0xfffff000, 0x7ffff000, 0x80000000,  0xc0000000, 0xfffffff0};
    u32 place = PICK(g, places);
    switch (below(g, 6)) {
    case 0:
        return place - 1 - below(g, 8);
    case 1:
        return place + PAGE_BYTES - 1 - below(g, 8);
    case 2:
        return any(g) & (HOSTILE_RAM - 1);
    case 3:
        return one_in(g, 4) ? any(g) : place;
    default:
        return place + below(g, PAGE_BYTES);
    }
}

u32 hostile_value(struct gen *g) {
    switch (below(g, 4)) {
    case 0:
        return hostile_address(g);
    case 1:
        return below(g, 64);
    default:
        return fuzz_value(&g->r);
    }
}

static u16 any_selector(struct gen *g) {
    u16 selector = (u16)(8 * below(g, one_in(g, 8) ? 8192 : GDT_BYTES / 8 + 1));
    return (u16)(selector | (one_in(g, 3) ? below(g, 8) : one_in(g, 2) ? 3 : 0));
}

static u32 any_cr0(struct gen *g) {
    u32 value = g->cpu->cr0;
    for (unsigned n = 1 + below(g, 2); n--;)
        value ^= one_in(g, 4) ? BIT(below(g, 32))
                              : (const u32[]){CR0_PG, CR0_WP, CR0_TS, CR0_EM,         CR0_MP,
                                              CR0_AM, CR0_NE, CR0_PE, CR0_PG | CR0_PE}[below(g, 9)];
    return value;
}
static u32 any_cr4(struct gen *g) {
    u32 value = one_in(g, 2) ? g->cpu->cr4 : 0;
    return value ^ BIT(below(g, one_in(g, 8) ? 32 : 11)) ^ (one_in(g, 4) ? BIT(below(g, 22)) : 0);
}
static u32 any_cr3(struct gen *g) {
    u32 value = AT_TABLES + PAGE_BYTES * below(g, 6) + (one_in(g, 4) ? below(g, PAGE_BYTES) : 0);
    return one_in(g, 8) ? hostile_address(g) : value;
}

static u32 any_msr(struct gen *g) {
    static const u32 known[] = {0x10,  0x1b,  0x174, 0x175,      0x176,      0x1a0,     0x1d9,
                                0x200, 0x201, 0x277, 0x2ff,      0x250,      0x6e0,     0x802,
                                0x80b, 0x80f, 0x830, 0x838,      0xc0000080, 0x8b,      0xfe,
                                0x179, 0x17a, 0x186, 0xc0000081, 0xc0000102, 0x40000000};
    return one_in(g, 8) ? any(g) : PICK(g, known) + (one_in(g, 8) ? below(g, 16) : 0);
}

/* ---- Instructions ---- */

/* Translated code does not know the x87 pointers on every host (see docs/deviations.md). */
static bool stores_pointers(const struct insn *in) {
    return in->mnemonic == ZYDIS_MNEMONIC_FNSTENV || in->mnemonic == ZYDIS_MNEMONIC_FNSAVE ||
           in->mnemonic == ZYDIS_MNEMONIC_FXSAVE;
}

/* The outcome depends on the engine: also where a REP may come round to itself, as in 64 KiB, for
 * it is open when that takes effect. */
static bool is_open(const struct insn *in, bool code32) {
    bool string = in->map == 0 && (in->opcode & 0xfc) >= 0xa4 && (in->opcode & 0xfc) <= 0xac;
    bool pushes_all = in->map == 0 && in->opcode == 0x60; /* how much of it a fault leaves */
    return pushes_all || stores_pointers(in) || (!code32 && string && (in->rep || in->repne));
}

static unsigned random_insn(struct gen *g, u8 out[16]) {
    static const u8 prefixes[] = {0x66, 0xf3, 0xf2, 0x64, 0x65, 0x36, 0xf0, 0x67, 0x2e};
    bool code32 = g->cpu->seg[SEG_CS].attr & ATTR_DB;
    for (unsigned tries = 0; tries < 64; tries++) {
        struct insn in;
        unsigned at = 0;
        for (unsigned i = 0; i < 16; i++)
            out[i] = (u8)any(g);
        while (one_in(g, 6) && at < 4)
            out[at++] = PICK(g, prefixes);
        if (one_in(g, 3))
            out[at++] = 0x0f;
        if (insn_decode(&in, out, INSN_MAX_BYTES, code32, true) != INSN_OK)
            continue;
        if (is_open(&in, code32) && !one_in(g, 64))
            continue;
        g->c->incomparable |= is_open(&in, code32);
        /* A displacement that leads somewhere, now and then. */
        if (in.disp_bytes == 4 && one_in(g, 2))
            store32(out + in.disp_offset, hostile_address(g));
        return in.length;
    }
    out[0] = 0x90;
    return 1;
}

void put_random_insn(struct gen *g) {
    u8 bytes[16];
    unsigned length = random_insn(g, bytes);
    if (one_in(g, 16)) { /* nothing that decodes, or the start of something */
        for (unsigned i = below(g, length); i < length; i++)
            bytes[i] = (u8)any(g);
    }
    put_bytes(g, bytes, length);
}

/* [disp32] */
static void put_absolute(struct gen *g, const u8 *opcode, unsigned opcode_bytes, unsigned reg,
                         u32 address) {
    put_bytes(g, opcode, opcode_bytes);
    PUT(g, (u8)(5 | reg << 3));
    put32(g, address);
}
#define PUT_ABSOLUTE(g, reg, address, ...)                                                         \
    put_absolute(g, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), reg, address)

static void put_control_move(struct gen *g) {
    static const u8 numbers[] = {0, 0, 2, 3, 3, 3, 4, 4};
    u8 number = one_in(g, 16) ? (u8)below(g, 8) : PICK(g, numbers);
    u8 reg = (u8)below(g, 8);
    if (one_in(g, 4)) {
        PUT(g, 0x0f, 0x20, (u8)(0xc0 | number << 3 | reg));
        return;
    }
    put_move(g, reg,
             number == 0   ? any_cr0(g)
             : number == 3 ? any_cr3(g)
             : number == 4 ? any_cr4(g)
                           : any(g));
    PUT(g, 0x0f, 0x22, (u8)(0xc0 | number << 3 | reg));
}

static void put_debug_move(struct gen *g) {
    u8 number = (u8)below(g, 8), reg = (u8)below(g, 8);
    put_move(g, reg, number < 4 ? hostile_address(g) : any(g) & 0xffff03ff);
    PUT(g, 0x0f, (u8)(one_in(g, 4) ? 0x21 : 0x23), (u8)(0xc0 | number << 3 | reg));
}

static void put_msr_access(struct gen *g) {
    put_move(g, R_ECX, any_msr(g));
    put_move(g, R_EAX, hostile_value(g));
    put_move(g, R_EDX, one_in(g, 4) ? any(g) : 0);
    PUT(g, 0x0f, (u8)(one_in(g, 3) ? 0x32 : 0x30));
}

/* A pseudo-descriptor in the data, and LGDT or LIDT of it. */
static void put_table_load(struct gen *g) {
    u32 at = AT_DATA + (below(g, DATA_BYTES - 8) & ~7u);
    bool idt = one_in(g, 2);
    store16(g->ram + at, (u16)(one_in(g, 3) ? any(g) : idt ? 0x7ff : GDT_BYTES - 1));
    store32(g->ram + at + 2, one_in(g, 3) ? hostile_address(g) : idt ? AT_IDT : AT_GDT);
    PUT_ABSOLUTE(g, idt ? 3 : 2, at, 0x0f, 0x01);
}

static void put_selector_load(struct gen *g) {
    static const u8 what[] = {0, 2, 2, 3, 4, 5};
    put_move(g, R_EAX, any_selector(g));
    switch (below(g, 6)) {
    case 0:
        PUT(g, 0x0f, 0x00, (u8)(0xd0 | (one_in(g, 2) ? 8 : 0))); /* LLDT, LTR */
        break;
    case 1:
        PUT(g, 0x0f, 0x00, (u8)(0xe0 | (one_in(g, 2) ? 8 : 0))); /* VERR, VERW */
        break;
    case 2:
        PUT(g, 0x0f, (u8)(one_in(g, 2) ? 2 : 3), 0xd8); /* LAR, LSL */
        break;
    case 3:
        PUT(g, 0x50, (u8)(const u8[]){0x07, 0x17, 0x1f}[below(g, 3)]); /* PUSH; POP Sreg */
        break;
    default:
        PUT(g, 0x8e, (u8)(0xc0 | PICK(g, what) << 3));
    }
}

static void put_far_transfer(struct gen *g) {
    u32 offset = one_in(g, 4) ? hostile_address(g) : (g->at & ~0xffu) + below(g, 0x200);
    u16 selector = any_selector(g);
    switch (below(g, 5)) {
    case 0:
    case 1: /* JMP, CALL ptr16:32 */
        PUT(g, (u8)(one_in(g, 2) ? 0xea : 0x9a));
        put32(g, offset);
        PUT(g, (u8)selector, (u8)(selector >> 8));
        break;
    case 2: { /* the same through memory */
        u32 at = AT_DATA + below(g, DATA_BYTES - 8);
        store32(g->ram + at, offset);
        store16(g->ram + at + 4, selector);
        PUT_ABSOLUTE(g, one_in(g, 2) ? 5 : 3, at, 0xff);
        break;
    }
    case 3: /* RETF */
        PUT(g, 0x68);
        put32(g, selector);
        PUT(g, 0x68);
        put32(g, offset);
        PUT(g, 0xcb);
        break;
    default: /* IRET, to some privilege or none */
        for (unsigned i = 0; i < 2; i++) {
            PUT(g, 0x68);
            put32(g, one_in(g, 2) ? any_selector(g) : hostile_address(g));
        }
        PUT(g, 0x68);
        put32(g, one_in(g, 2) ? F_FIXED : any(g) & F_ALL);
        PUT(g, 0x68);
        put32(g, selector);
        PUT(g, 0x68);
        put32(g, offset);
        PUT(g, 0xcf);
    }
}

static void put_flag_change(struct gen *g) {
    static const u8 simple[] = {0xfa, 0xfb, 0xfc, 0xfd, 0x9c, 0x9d, 0xf8, 0xf5};
    if (one_in(g, 2)) {
        PUT(g, PICK(g, simple));
        return;
    }
    static const u32 images[] = {F_TF, F_AC, F_NT, F_DF, F_IF, F_IOPL, F_RF, F_VM, F_ID, F_VIP};
    PUT(g, 0x68);
    put32(g, (PICK(g, images) | (any(g) & F_ARITH)) ^ (one_in(g, 4) ? any(g) & F_ALL : 0));
    PUT(g, 0x9d);
}

static void put_other_system(struct gen *g) {
    static const u8 second[][2] = {{0x06, 0x90}, {0x08, 0x90}, {0x09, 0x90}, {0x31, 0x90},
                                   {0x33, 0x90}, {0xa2, 0x90}, {0x34, 0x90}, {0x35, 0x90},
                                   {0x0b, 0x90}, {0x77, 0x90}, {0x05, 0x90}, {0xff, 0xc0}};
    static const u8 single[] = {0xf4, 0xcc, 0xce, 0xf1, 0x9b, 0xcf, 0xcb, 0x3f, 0x61,
                                0xc9, 0xd7, 0x27, 0x2f, 0x37, 0x3f, 0x98, 0xd6};
    switch (below(g, 6)) {
    case 0:
        PUT(g, 0x0f, 0x00, (u8)(0xc0 | below(g, 2) << 3 | below(g, 8))); /* SLDT, STR */
        break;
    case 1:
        PUT_ABSOLUTE(g, below(g, 8), hostile_address(g), 0x0f, 0x01); /* SGDT .. INVLPG */
        break;
    case 2:
        PUT(g, 0x0f, 0x01, (u8)(0xc0 | any(g))); /* SMSW, LMSW, and what is newer */
        break;
    case 3:
        PUT(g, 0xcd, (u8)(one_in(g, 2) ? below(g, 32) : any(g)));
        break;
    case 4:
        PUT(g, PICK(g, single));
        break;
    default:
        if (one_in(g, 16)) { /* FXSAVE, FXRSTOR, LDMXCSR and their kin */
            g->c->incomparable = true;
            PUT_ABSOLUTE(g, below(g, 8), hostile_address(g) & ~15u, 0x0f, 0xae);
        } else {
            put_bytes(g, PICK(g, second), 2);
        }
    }
}

void put_privileged_insn(struct gen *g) {
    switch (below(g, 12)) {
    case 0:
    case 1:
        put_control_move(g);
        break;
    case 2:
        put_debug_move(g);
        break;
    case 3:
    case 4:
        put_msr_access(g);
        break;
    case 5:
        put_table_load(g);
        break;
    case 6:
        put_selector_load(g);
        break;
    case 7:
        put_flag_change(g);
        break;
    case 8:
        put_device_insn(g);
        break;
    case 9:
        put_far_transfer(g);
        break;
    default:
        put_other_system(g);
    }
}

void put_system_insn(struct gen *g) {
    switch (below(g, 8)) {
    case 0:
    case 1:
    case 2:
        put_far_transfer(g);
        break;
    case 3:
    case 4:
        put_selector_load(g);
        break;
    case 5:
        put_flag_change(g);
        break;
    case 6:
        if (one_in(g, 4))
            put_table_load(g);
        else
            put_selector_load(g);
        break;
    default:
        PUT(g, 0xcd, (u8)(one_in(g, 2) ? below(g, 32) : any(g)));
    }
}

/* A string instruction over a stretch that may run into anything. */
static void put_string_insn(struct gen *g) {
    static const u8 ops[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    if (!(g->cpu->seg[SEG_CS].attr & ATTR_DB))
        return; /* see is_open */
    put_move(g, R_ESI, hostile_address(g));
    put_move(g, R_EDI, hostile_address(g));
    put_move(g, R_ECX, one_in(g, 16) ? 0x8000 : below(g, 64));
    if (one_in(g, 4))
        PUT(g, 0x66);
    PUT(g, (u8)(one_in(g, 4) ? 0xf2 : 0xf3), PICK(g, ops));
}

static void put_x87_insn(struct gen *g, u8 base) {
    u8 bytes[] = {(u8)(0xd8 + below(g, 8)), (u8)(below(g, 8) << 3 | base)};
    struct insn in;
    if (insn_decode(&in, bytes, sizeof bytes, true, true) == INSN_OK && stores_pointers(&in)) {
        if (!one_in(g, 64))
            return;
        g->c->incomparable = true;
    }
    put_bytes(g, bytes, sizeof bytes);
}

void put_memory_insn(struct gen *g) {
    static const u8 ops[] = {0x8b, 0x8a, 0x89, 0x88, 0x01, 0x03, 0x09, 0x31,
                             0x39, 0x85, 0x87, 0x29, 0x11, 0x19, 0x3b, 0x33};
    static const u8 two[] = {0xb6, 0xb7, 0xbe, 0xbf, 0xaf, 0xa3, 0xab, 0xb3, 0xb1, 0xc1};
    u8 reg = (u8)below(g, 8), base = (u8)(const u8[]){0, 1, 2, 3, 6, 7}[below(g, 6)];
    if (one_in(g, 8)) {
        put_string_insn(g);
        return;
    }
    put_move(g, base, hostile_address(g));
    reg = reg == R_ESP ? R_EAX : reg;
    if (one_in(g, 6))
        PUT(g, 0x66);
    switch (below(g, 6)) {
    case 0:
        PUT(g, 0x0f, PICK(g, two), (u8)(reg << 3 | base));
        break;
    case 1:
        PUT(g, 0xff, (u8)(below(g, 2) * 0x30 | base)); /* INC, PUSH */
        break;
    case 2: /* SSE and x87 */
        if (one_in(g, 2))
            PUT(g, 0x0f, (u8)(0x10 + below(g, 2)), (u8)(reg << 3 | base));
        else
            put_x87_insn(g, base);
        break;
    default:
        PUT(g, PICK(g, ops), (u8)(0x40 | reg << 3 | base), (u8)any(g));
    }
}

void put_self_store(struct gen *g, u32 from, u32 to) {
    u32 target = from + below(g, to - from);
    if (one_in(g, 3))
        target = (g->at & ~15u) + below(g, 48); /* the instructions right here */
    u8 bytes[16];
    random_insn(g, bytes);
    if (one_in(g, 4)) { /* C6: one byte */
        PUT_ABSOLUTE(g, 0, target, 0xc6);
        PUT(g, bytes[0]);
    } else {
        PUT_ABSOLUTE(g, 0, target, 0xc7);
        put32(g, load32(bytes));
    }
}
