/*
 * system.c: the tables that a processor trusts its kernel with: valid to begin with, and then no
 * longer.
 */
#include "hostile.h"

#include "ringcomp/ringcomp.h"

/* ---- Descriptors ---- */

static void put_descriptor(struct gen *g, u16 selector, u32 base, u32 limit, u32 type, u32 flags) {
    u64 d = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
            (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
    store64(g->ram + AT_GDT + (selector & ~7u), d);
}

static void put_gate(u8 *at, u16 selector, u32 offset, u32 type, u32 count) {
    store32(at, (offset & 0xffff) | (u32)selector << 16);
    store32(at + 4, (offset & 0xffff0000) | type << 8 | count);
}

static void fill_gdt(struct gen *g) {
    put_descriptor(g, SEL_CODE0, 0, 0xfffff, 0x9b, 0xc);
    put_descriptor(g, SEL_DATA0, 0, 0xfffff, 0x93, 0xc);
    put_descriptor(g, SEL_CODE3, 0, 0xfffff, 0xfb, 0xc);
    put_descriptor(g, SEL_DATA3, 0, 0xfffff, 0xf3, 0xc);
    for (unsigned i = 0; i < HOSTILE_TSSS; i++)
        put_descriptor(g, (u16)(SEL_TSS + 8 * i), AT_TSS + 256 * i, i == 3 ? 0x2b : 0x67,
                       i == 3 ? 0x81 : 0x89, 0);
    put_descriptor(g, SEL_LDT, AT_LDT, 0x3f, 0x82, 0);
    put_gate(g->ram + AT_GDT + SEL_CALL_GATE, SEL_CODE0, AT_KERNEL, 0xec, below(g, 4));
    put_gate(g->ram + AT_GDT + SEL_TASK_GATE, SEL_TSS + 8, 0, 0xe5, 0);
    put_descriptor(g, SEL_CODE16, 0, 0xffff, 0x9b, 0);
    put_descriptor(g, SEL_DATA16, 0, 0xffff, 0x93, 0);
    put_descriptor(g, SEL_CONFORMING, 0, 0xfffff, 0x9f, 0xc);
    put_descriptor(g, SEL_LIMITED, AT_DATA, 0xfff, 0xf3, 0x4);
    memcpy(g->ram + AT_LDT, g->ram + AT_GDT, 0x40);
}

static void fill_tss(struct gen *g, unsigned n) {
    u8 *tss = g->ram + AT_TSS + 256 * n;
    bool user = n == 2;
    store32(tss + 4, AT_STACK0 - 0x400 * n);
    store32(tss + 8, SEL_DATA0);
    store32(tss + 0x1c, AT_TABLES);
    store32(tss + 0x20, user ? AT_USER : AT_KERNEL);
    store32(tss + 0x24, F_FIXED | (one_in(g, 4) ? F_IF : 0));
    store32(tss + 0x38, user ? AT_STACK3 : AT_STACK0 - 0x800);
    for (unsigned s = 0; s < 6; s++)
        store32(tss + 0x48 + 4 * s,
                s == SEG_CS ? (user ? SEL_CODE3 : SEL_CODE0) : (user ? SEL_DATA3 : SEL_DATA0));
    store16(tss + 0x66, (u16)(one_in(g, 2) ? 0x68 : below(g, 0x70)));
}

/* Each handler throws the error code away, moves the return address over a byte or two, now and
 * then takes its time, and returns. */
static void fill_handlers(struct gen *g) {
    u32 kept_at = g->at, kept_end = g->end;
    for (unsigned v = 0; v < 256; v++) {
        bool error = v == VEC_DF || (v >= VEC_TS && v <= VEC_PF) || v == VEC_AC;
        g->at = AT_STUBS + 16 * v;
        g->end = g->at + 16;
        if (error)
            PUT(g, 0x83, 0xc4, 0x04); /* add esp,4 */
        if (v < 32 && v != VEC_DB && v != VEC_BP && v != VEC_OF)
            PUT(g, 0xff, 0x04, 0x24); /* inc dword [esp] */
        if (v >= 32 && one_in(g, 2))
            PUT(g, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58); /* EOI to the 8259 */
        PUT(g, 0xcf);
        u32 type = one_in(g, 8) ? 0x8f : 0xee;
        put_gate(g->ram + AT_IDT + 8 * v, SEL_CODE0, AT_STUBS + 16 * v, type, 0);
    }
    if (one_in(g, 4))
        put_gate(g->ram + AT_IDT + 8 * VEC_DF, SEL_TSS + 8, 0, 0xe5, 0);
    g->at = kept_at;
    g->end = kept_end;
    for (unsigned v = 0; v < 256; v++) { /* real mode: IRET at the end of a handler */
        store16(g->ram + AT_IVT + 4 * v, (u16)(v & 0xf0));
        store16(g->ram + AT_IVT + 4 * v + 2, (AT_REAL >> 4) + 0xf00);
    }
    for (unsigned i = 0; i < 0x110; i++)
        g->ram[AT_REAL + 0xf000 + i] = 0xcf;
}

void make_tables(struct gen *g) {
    fill_gdt(g);
    for (unsigned n = 0; n < HOSTILE_TSSS; n++)
        fill_tss(g, n);
    fill_handlers(g);
    g->cpu->gdtr = (struct table_register){AT_GDT, GDT_BYTES - 1};
    g->cpu->idtr = (struct table_register){AT_IDT, 0x7ff};
    g->cpu->seg[SEG_TR] =
        (struct segment){.selector = SEL_TSS, .attr = ATTR_P | 11, .limit = 0x67, .base = AT_TSS};
    g->cpu->seg[SEG_LDTR] =
        (struct segment){.selector = SEL_LDT, .attr = ATTR_P | 2, .limit = 0x3f, .base = AT_LDT};
    g->ram[AT_GDT + SEL_TSS + 5] |= 2; /* busy */
    g->cpu->sysenter_cs = SEL_CODE0;
    g->cpu->sysenter_esp = AT_STACK0;
    g->cpu->sysenter_eip = AT_KERNEL;
}

void random_descriptor(struct gen *g, u32 at) {
    static const u32 bases[] = {0, 0, 0, AT_DATA, AT_KERNEL, AT_TSS, AT_LDT, 0xfffff000};
    u32 type = one_in(g, 3) ? any(g) & 0xff : 0x80 | below(g, 4) << 5 | below(g, 32);
    u32 base = one_in(g, 4) ? hostile_address(g) : PICK(g, bases);
    u32 limit = one_in(g, 2) ? 0xfffff : any(g) >> (12 + below(g, 20));
    if (one_in(g, 8)) {
        store32(g->ram + at, any(g));
        store32(g->ram + at + 4, any(g));
    } else if (!(type & 0x10) && one_in(g, 2)) { /* a gate */
        put_gate(g->ram + at, (u16)(8 * below(g, GDT_BYTES / 8) | below(g, 4)),
                 one_in(g, 4) ? any(g) : AT_KERNEL + below(g, 0x400), type, any(g) & 0xff);
    } else {
        u64 d = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
                (u64)(limit >> 16 & 0xf) << 48 | (u64)(any(g) & 0xf) << 52 |
                (u64)(base >> 24) << 56;
        store64(g->ram + at, d);
    }
}

void tamper_with_tables(struct gen *g, unsigned changes) {
    while (changes--)
        switch (below(g, 8)) {
        case 0:
        case 1:
            random_descriptor(g, AT_GDT + 8 * below(g, GDT_BYTES / 8));
            break;
        case 2:
            random_descriptor(g, AT_LDT + 8 * below(g, 8));
            break;
        case 3:
        case 4:
            random_descriptor(g, AT_IDT + 8 * below(g, one_in(g, 4) ? 256 : 32));
            break;
        case 5:
            g->ram[AT_TSS + below(g, 256 * HOSTILE_TSSS)] = (u8)any(g);
            break;
        case 6: /* a dword of a TSS */
            store32(g->ram + AT_TSS + 256 * below(g, HOSTILE_TSSS) + 4 * below(g, 26),
                    hostile_value(g));
            break;
        default: /* one bit of anything */
            g->ram[AT_GDT + below(g, GDT_BYTES)] ^= (u8)BIT(below(g, 8));
        }
}

/* ---- Page tables ---- */

static void fill_legacy(struct gen *g) {
    for (u32 i = 0; i < (HOSTILE_RAM + 0x3fffff) >> 22; i++) {
        u32 table = AT_TABLES + PAGE_BYTES * (1 + i);
        store32(g->ram + AT_TABLES + 4 * i, table | PTE_P | PTE_W | PTE_U);
        for (u32 n = 0; n < 1024; n++)
            store32(g->ram + table + 4 * n, i << 22 | n << 12 | PTE_P | PTE_W | PTE_U);
    }
    /* The APICs, for kernels that look for them, and the tables themselves. */
    store32(g->ram + AT_TABLES + 4 * 0x3fb, 0xfec00000 | PTE_P | PTE_W | PTE_PS);
    store32(g->ram + AT_TABLES + 4 * 0x300, AT_TABLES | PTE_P | PTE_W);
}

static void fill_pae(struct gen *g) {
    for (u32 i = 0; i < 4; i++) {
        u32 directory = AT_TABLES + PAGE_BYTES * (1 + i);
        store64(g->ram + AT_TABLES + 8 * i, directory | PTE_P);
    }
    for (u32 i = 0; i < HOSTILE_RAM >> 21; i++) {
        u32 table = AT_TABLES + PAGE_BYTES * (5 + i);
        store64(g->ram + AT_TABLES + PAGE_BYTES + 8 * i, table | PTE_P | PTE_W | PTE_U);
        for (u32 n = 0; n < 512; n++)
            store64(g->ram + table + 8 * n, i << 21 | n << 12 | PTE_P | PTE_W | PTE_U);
    }
    u8 *last = g->ram + AT_TABLES + 4 * PAGE_BYTES;
    store64(last + 8 * 0x1f6, 0xfec00000 | PTE_P | PTE_W | PTE_PS);
    store64(last + 8 * 0x1f7, 0xfee00000 | PTE_P | PTE_W | PTE_PS);
    store64(last, AT_TABLES + 4 * PAGE_BYTES); /* a self-map at C0000000h, not present */
    last[0] |= PTE_P | PTE_W;
}

void make_pages(struct gen *g, bool pae) {
    struct cpu *cpu = g->cpu;
    cpu->cr3 = AT_TABLES;
    if (pae) {
        fill_pae(g);
        cpu->cr4 |= CR4_PAE;
        if (one_in(g, 2))
            cpu->efer |= EFER_NXE;
        for (unsigned i = 0; i < 4; i++)
            cpu->pdptr[i] = load64(g->ram + AT_TABLES + 8 * i);
    } else {
        fill_legacy(g);
        cpu->cr4 |= CR4_PSE;
    }
    if (one_in(g, 2))
        cpu->cr4 |= CR4_PGE;
    cpu->cr0 |= CR0_PG | (one_in(g, 2) ? CR0_WP : 0);
}

/* Any entry, more often one that means something. */
static u64 random_entry(struct gen *g, bool pae) {
    static const u32 frames[] = {AT_TABLES,  AT_DATA,    AT_KERNEL,  AT_USER,     0xa0000,
                                 0xb8000,    0xc0000,    0xf0000,    HOSTILE_RAM, 0xfec00000,
                                 0xfee00000, 0xfffff000, 0x7ffff000, AT_STACK0};
    u64 entry =
        one_in(g, 4) ? any(g) & ~(u64)PAGE_OFFSET_MASK : PICK(g, frames) + PAGE_BYTES * below(g, 8);
    entry |= any(g) & (PTE_W | PTE_U | PTE_A | PTE_D | PTE_G);
    if (!one_in(g, 6))
        entry |= PTE_P;
    if (one_in(g, 4))
        entry |= PTE_PS;
    if (one_in(g, 8))
        entry ^= 1ull << below(g, pae ? 64 : 32);
    if (pae && one_in(g, 4))
        entry |= 1ull << 63;
    return entry;
}

void tamper_with_pages(struct gen *g, unsigned changes) {
    bool pae = g->cpu->cr4 & CR4_PAE;
    u32 bytes = pae ? 8 : 4, per_page = PAGE_BYTES / bytes;
    while (changes--) {
        u32 page = below(g, pae ? 7 : 2), index = below(g, per_page);
        /* Most entries are never used: take one that maps RAM. */
        if (page == 0 || (pae && page < 5))
            index = one_in(g, 2) ? below(g, 4) : index;
        else if (one_in(g, 2))
            index = (hostile_address(g) >> 12) % per_page;
        u64 entry = random_entry(g, pae);
        memcpy(g->ram + AT_TABLES + PAGE_BYTES * page + bytes * index, &entry, bytes);
    }
    if (pae && one_in(g, 2)) /* as a CR3 load would have found them */
        for (unsigned i = 0; i < 4; i++)
            g->cpu->pdptr[i] = load64(g->ram + AT_TABLES + 8 * i) & ~0xffffff00000001e6ull;
}

/* ---- Modes ---- */

static struct segment flat(u16 selector, bool code, unsigned dpl) {
    return (struct segment){.selector = selector,
                            .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G |
                                    dpl << ATTR_DPL_SHIFT | (code ? (u32)ATTR_CODE : 0),
                            .limit = 0xffffffff};
}

static void random_registers(struct gen *g) {
    for (unsigned i = 0; i < 8; i++)
        g->cpu->gpr[i] = i == R_ESP ? g->cpu->gpr[i] : hostile_value(g);
    g->cpu->eflags =
        F_FIXED | (any(g) & F_ARITH) | (one_in(g, 2) ? F_IF : 0) | (one_in(g, 8) ? F_IOPL : 0);
}

void enter_protected(struct gen *g, unsigned cpl) {
    struct cpu *cpu = g->cpu;
    cpu->cr0 |= CR0_PE | CR0_NE | CR0_ET | (one_in(g, 4) ? CR0_AM : 0);
    cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->cpl = (u8)cpl;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = flat(cpl ? SEL_DATA3 : SEL_DATA0, false, cpl);
    cpu->seg[SEG_CS] = flat(cpl ? SEL_CODE3 : SEL_CODE0, true, cpl);
    cpu->eip = cpl ? AT_USER : AT_KERNEL;
    cpu->gpr[R_ESP] = cpl ? AT_STACK3 : AT_STACK0;
    random_registers(g);
}

static void paragraph_segments(struct gen *g, u32 dpl) {
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        g->cpu->seg[s] = (struct segment){.selector = AT_REAL >> 4,
                                          .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | dpl,
                                          .limit = 0xffff,
                                          .base = AT_REAL};
    g->cpu->gpr[R_ESP] = 0xe000;
    g->cpu->eip = 0;
    random_registers(g);
    /* A long REP would come round and rewrite itself, and when that takes effect is open. */
    g->cpu->gpr[R_ECX] &= 0xffff00ff;
}

void enter_real(struct gen *g) {
    struct cpu *cpu = g->cpu;
    cpu->cr0 = CR0_ET;
    cpu->cr4 = 0;
    cpu->cpl = 0;
    cpu->idtr = (struct table_register){AT_IVT, 0x3ff};
    paragraph_segments(g, 0);
}

void enter_v86(struct gen *g) {
    g->cpu->cr0 |= CR0_PE | CR0_NE | CR0_ET;
    g->cpu->cpl = 3;
    paragraph_segments(g, ATTR_DPL);
    g->cpu->eflags |= F_VM;
}
