/*
 * engines.c: a guest in which cases run under the interpreter or translated: flat 32-bit protected
 * mode at CPL 3 with PAE paging, so that pages can be read-only and not executable, and with the
 * descriptors that Linux gives the native process.
 */
#include "fuzz.h"

#include "bt/bt.h"
#include "interp/interp.h"
#include "mmu/mmu.h"
#include "ringcomp/ringcomp.h"

#include <stdlib.h>

enum {
    RAM_BYTES = 8 << 20,
    AT_PDPT = 0x1000,
    AT_TABLES = 0x2000,  /* page directories and tables, one after the other */
    AT_SYSTEM = 0x80000, /* descriptor tables and TSS: supervisor pages at FUZZ_SYSTEM */
    GDT_OFFSET = 0,
    IDT_OFFSET = 0x800,
    LDT_OFFSET = 0x1000,
    TSS_OFFSET = 0x2000,
    STACK_OFFSET = 0x2ff0,    /* of ring 0: grows down */
    HANDLERS_OFFSET = 0x3000, /* a HLT per vector */
    AT_SCRATCH = 0x100000,
    AT_CODE = 0x200000,
    MAX_STEPS = 6000
};

struct fuzz_guest {
    enum fuzz_engine engine;
    struct cpu *cpu;
    struct interp *interp;
    struct bt *bt;
    struct cpu_bus bus;
    u32 next_table;
    u8 *ram;
};

/* ---- Buses: ports and MMIO are out of a case's reach ---- */

static u32 no_io_read(void *opaque, u16 port, unsigned bytes) {
    (void)opaque, (void)port, (void)bytes;
    return 0xffffffff;
}
static void no_io_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    (void)opaque, (void)port, (void)value, (void)bytes;
}
static u64 no_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    (void)opaque, (void)addr, (void)bytes;
    return ~0ull;
}
static void no_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)addr, (void)value, (void)bytes;
}
static u64 no_tsc(void *opaque) {
    (void)opaque;
    return 0;
}

/* ---- Page tables ---- */

/* The table that the entry at gpa points to, made when it is not there. */
static u32 table_below(struct fuzz_guest *g, u32 at, u64 rights) {
    u64 entry = load64(g->ram + at);
    if (!(entry & PTE_P)) {
        entry = g->next_table | rights;
        g->next_table += PAGE_BYTES;
        store64(g->ram + at, entry);
    }
    return (u32)entry & ~PAGE_OFFSET_MASK;
}

static void map_page(struct fuzz_guest *g, u32 lin, u32 gpa, u64 rights) {
    u32 directory = table_below(g, AT_PDPT + 8 * (lin >> 30), PTE_P);
    u32 table = table_below(g, directory + 8 * (lin >> 21 & 511), PTE_P | PTE_W | PTE_U | PTE_A);
    store64(g->ram + table + 8 * (lin >> 12 & 511), gpa | rights | PTE_P | PTE_A | PTE_D);
}

static void map_all(struct fuzz_guest *g) {
    for (u32 i = 0; i < FUZZ_PAGES; i++)
        if (fuzz_page_lin[i] >= 65536 || fuzz_has_low())
            map_page(g, fuzz_page_lin[i], AT_SCRATCH + i * PAGE_BYTES,
                     PTE_NX | PTE_U | (i < FUZZ_RW_PAGES ? PTE_W : 0));
    for (u32 at = 0; at < FUZZ_CODE_BYTES; at += PAGE_BYTES)
        map_page(g, FUZZ_CODE + at, AT_CODE + at, PTE_U);
    for (u32 at = 0; at < FUZZ_SYSTEM_BYTES; at += PAGE_BYTES)
        map_page(g, FUZZ_SYSTEM + at, AT_SYSTEM + at, PTE_W);
}

/* ---- Descriptors ---- */

static u64 descriptor(u32 base, u32 limit, u32 type, u32 flags) {
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)type << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

/* Linux keeps the number of the CPU in the limit of descriptor 15. */
static u32 cpu_number_limit(void) {
    u32 limit = 0;
    __asm__("lsl %1, %0" : "+r"(limit) : "r"(0x7b) : "cc");
    return limit;
}

static u64 ldt_descriptor(const struct fuzz_descriptor *d) {
    u32 type = 0x71u | (d->absent ? 0 : 0x80) | (d->code ? 8 : 0) | (d->read_only ? 0 : 2) |
               (d->down || d->conforming ? 4 : 0);
    return descriptor(d->base, d->limit, type, (d->pages ? 8u : 0) | (d->small ? 0 : 4u));
}

/* As Linux has them: programs may call INT3 and INTO. Each gate leads to a HLT of its own. */
static void fill_gates(struct fuzz_guest *g) {
    u64 *idt = (u64 *)(g->ram + AT_SYSTEM + IDT_OFFSET);
    for (u32 i = 0; i < 256; i++) {
        u32 to = FUZZ_SYSTEM + HANDLERS_OFFSET + i;
        u32 type = i == VEC_BP || i == VEC_OF ? 0xee : 0x8e;
        idt[i] = (to & 0xffff) | 8u << 16 | (u64)type << 40 | (u64)(to >> 16) << 48;
    }
    memset(g->ram + AT_SYSTEM + HANDLERS_OFFSET, 0xf4, 256);
    store32(g->ram + AT_SYSTEM + TSS_OFFSET + 4, FUZZ_SYSTEM + STACK_OFFSET);
    store32(g->ram + AT_SYSTEM + TSS_OFFSET + 8, 0x18);
    store16(g->ram + AT_SYSTEM + TSS_OFFSET + 0x66, 0x68); /* no I/O bitmap */
}

/* Linux's GDT as far as user programs can see it: the kernel's segments at 1 to 3, user code, data
 * and 64-bit code at 4 to 6, system descriptors at 8 to 11, empty TLS entries. */
static void fill_descriptors(struct fuzz_guest *g) {
    u64 *gdt = (u64 *)(g->ram + AT_SYSTEM + GDT_OFFSET);
    u64 *ldt = (u64 *)(g->ram + AT_SYSTEM + LDT_OFFSET);
    const struct fuzz_descriptor *d;
    gdt[1] = descriptor(0, 0xfffff, 0x9b, 0xc);
    gdt[2] = descriptor(0, 0xfffff, 0x9b, 0xa);
    gdt[3] = descriptor(0, 0xfffff, 0x93, 0xc);
    gdt[4] = descriptor(0, 0xfffff, 0xfb, 0xc);
    gdt[5] = descriptor(0, 0xfffff, 0xf3, 0xc);
    gdt[6] = descriptor(0, 0xfffff, 0xfb, 0xa);
    gdt[15] = descriptor(0, cpu_number_limit(), 0xf5, 4);
    gdt[8] = descriptor(FUZZ_SYSTEM + TSS_OFFSET, 0x67, 0x8b, 0);
    gdt[10] = descriptor(FUZZ_SYSTEM + LDT_OFFSET, FUZZ_LDT_LIMIT, 0x82, 0);
    for (unsigned i = 0; i < FUZZ_LDT_ENTRIES; i++)
        if ((d = fuzz_descriptor((u16)FUZZ_LDT(i))))
            ldt[i] = ldt_descriptor(d);
    if ((d = fuzz_descriptor(FUZZ_LDT_EXIT)))
        ldt[FUZZ_LDT_EXIT >> 3] = ldt_descriptor(d);
    fill_gates(g);
}

/* The register after a load of one of the selectors that cases start with. */
static struct segment segment_of(u16 selector) {
    const struct fuzz_descriptor *d = fuzz_descriptor(selector);
    const u32 flat = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G | 3u << ATTR_DPL_SHIFT;
    if (selector == 0)
        return (struct segment){.attr = ATTR_NULL};
    struct segment s = {.selector = selector, .attr = flat, .limit = 0xffffffff};
    if (!d) {
        s.attr |= selector == FUZZ_CS ? (u32)ATTR_CODE : 0;
        return s;
    }
    s.base = d->base;
    s.limit = d->pages ? d->limit << 12 | 0xfff : d->limit;
    s.attr &= ~((d->pages ? 0 : (u32)ATTR_G) | (d->read_only ? (u32)ATTR_W : 0) |
                (d->small ? (u32)ATTR_DB : 0));
    s.attr |= (d->down ? (u32)ATTR_E : 0) | (d->code ? (u32)ATTR_CODE : 0);
    return s;
}

/* ---- Creation ---- */

static void fill_cpu(struct fuzz_guest *g) {
    struct cpu *cpu = g->cpu;
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->efer = EFER_NXE;
    cpu->cr3 = AT_PDPT;
    cpu->cpl = 3;
    cpu->gdtr = (struct table_register){FUZZ_SYSTEM + GDT_OFFSET, 0x7f};
    cpu->idtr = (struct table_register){FUZZ_SYSTEM + IDT_OFFSET, 0x7ff};
    cpu->seg[SEG_LDTR] = (struct segment){.attr = ATTR_NULL};
    if (fuzz_has_ldt())
        cpu->seg[SEG_LDTR] = (struct segment){.selector = 0x50,
                                              .attr = ATTR_P | 2,
                                              .limit = FUZZ_LDT_LIMIT,
                                              .base = FUZZ_SYSTEM + LDT_OFFSET};
    cpu->seg[SEG_TR] = (struct segment){
        .selector = 0x40, .attr = ATTR_P | 11, .limit = 0x67, .base = FUZZ_SYSTEM + TSS_OFFSET};
}

static bool create_bt(struct fuzz_guest *g, bool checked) {
    struct bt_config config;
    char err[160];
    bt_config_default(&config);
    config.hot_threshold = 0;
    config.cache_bytes = 32 << 20;
    config.verify = true;
    config.selfcheck_all = checked;
    g->bt = bt_create(g->cpu, &config, err, sizeof err);
    if (!g->bt)
        fprintf(stderr, "fuzz_native: %s\n", err);
    return g->bt;
}

struct fuzz_guest *fuzz_guest_create(const struct cpu_model *model, enum fuzz_engine engine,
                                     bool checked) {
    struct fuzz_guest *g = calloc(1, sizeof *g);
    struct mmu_error err;
    g->engine = engine;
    g->cpu = cpu_create();
    g->bus = (struct cpu_bus){.io_read = no_io_read,
                              .io_write = no_io_write,
                              .mmio_read = no_mmio_read,
                              .mmio_write = no_mmio_write,
                              .tsc = no_tsc,
                              .opaque = g};
    g->cpu->bus = &g->bus;
    g->cpu->model = model;
    g->cpu->mmu = mmu_create(RAM_BYTES, &err);
    g->interp = interp_create();
    g->ram = mmu_ram(g->cpu->mmu);
    g->next_table = AT_TABLES;
    map_all(g);
    fill_descriptors(g);
    fill_cpu(g);
    memset(g->ram + AT_CODE + FUZZ_HALTS, 0xf4, PAGE_BYTES);
    if (!mmu_load_pdptrs(g->cpu, AT_PDPT))
        return NULL;
    mmu_mode_changed(g->cpu);
    if (engine == FUZZ_BT && !create_bt(g, checked))
        return NULL;
    return g;
}

void fuzz_guest_destroy(struct fuzz_guest *g) {
    if (!g)
        return;
    bt_destroy(g->bt);
    interp_destroy(g->interp);
    mmu_destroy(g->cpu->mmu);
    cpu_destroy(g->cpu);
    free(g);
}

u8 *fuzz_guest_scratch(struct fuzz_guest *g) {
    return g->ram + AT_SCRATCH;
}

/* ---- Running ---- */

void fuzz_guest_load(struct fuzz_guest *g, const struct fuzz_case *cases, unsigned count,
                     const u8 *template) {
    if (g->bt)
        bt_flush(g->bt);
    memcpy(fuzz_guest_scratch(g) + FUZZ_RW_BYTES, template + FUZZ_RW_BYTES,
           FUZZ_SCRATCH_BYTES - FUZZ_RW_BYTES);
    for (unsigned i = 0; i < count; i++)
        memcpy(g->ram + AT_CODE + (cases[i].entry - FUZZ_CODE), cases[i].code,
               cases[i].code_bytes + FUZZ_EXIT_BYTES);
}

static void load_state(struct fuzz_guest *g, const struct fuzz_case *c) {
    struct cpu *cpu = g->cpu;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = c->gpr[i];
    memcpy(cpu->fx, c->fx, FUZZ_FX_BYTES);
    cpu->eip = c->entry - fuzz_base(c->seg[SEG_CS]);
    cpu->eflags = c->eflags;
    cpu->shadow = 0;
    cpu->dr[6] = 0xffff0ff0;
    cpu->cpl = 3;
    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = segment_of(c->seg[i]);
}

/* Steps to the end; true when a result says how. */
static bool step(struct fuzz_guest *g, enum fuzz_end *end) {
    switch (interp_step(g->interp, g->cpu)) {
    case INTERP_OK:
    case INTERP_REP_MORE:
    case INTERP_DELIVERED:
        return false;
    case INTERP_FAULT:
        *end = FUZZ_FAULT;
        return true;
    default:
        *end = FUZZ_ODD;
        return true;
    }
}

static u32 linear_eip(const struct cpu *cpu) {
    return cpu->seg[SEG_CS].base + cpu->eip;
}

/* An exception that an instruction asked for has gone through its gate. */
static bool in_handler(const struct fuzz_guest *g) {
    return g->cpu->cpl == 0;
}

/* Why the native process must not run what comes next, or 0. */
static enum fuzz_left_out why_not(const struct fuzz_guest *g, struct fuzz_case *c) {
    const struct cpu *cpu = g->cpu;
    u32 lin = linear_eip(cpu), at = lin - c->entry;
    bool code16 = !(cpu->seg[SEG_CS].attr & ATTR_DB);
    struct insn in;
    if (cpu->seg[SEG_CS].selector == FUZZ_CS64)
        return FUZZ_LEFT_64BIT;
    if (lin - FUZZ_CODE >= FUZZ_HALTS)
        return FUZZ_LEFT_NOT;
    /* The jump at the end is fetched under the limit of CS. */
    if (at == c->code_bytes)
        return (u64)cpu->eip + FUZZ_EXIT_BYTES - 1 > cpu->seg[SEG_CS].limit ? FUZZ_LEFT_STRAYS
                                                                            : FUZZ_LEFT_NOT;
    if (at > c->code_bytes || code16 != c->code16)
        return FUZZ_LEFT_STRAYS;
    bool start = false;
    for (unsigned i = 0; i < c->insns; i++)
        start |= at == c->insn_start[i];
    if (start && !c->careful)
        return FUZZ_LEFT_NOT;
    bool valid = fuzz_decode(c, at, &in);
    if (!start && (!valid || fuzz_excluded(&in, cpu->model)))
        return FUZZ_LEFT_STRAYS;
    return valid ? fuzz_host_differs(c, cpu, &in) : FUZZ_LEFT_NOT;
}

static enum fuzz_end run_interp(struct fuzz_guest *g, struct fuzz_case *c, u32 stop) {
    enum fuzz_end end;
    for (unsigned steps = 0; steps < MAX_STEPS; steps++) {
        if ((c->left_out = (u8)why_not(g, c)))
            return FUZZ_TIMEOUT;
        if (linear_eip(g->cpu) == stop)
            return FUZZ_DONE;
        if (step(g, &end))
            return end;
        if (in_handler(g))
            return FUZZ_FAULT;
    }
    c->left_out = FUZZ_LEFT_LONG;
    return FUZZ_TIMEOUT;
}

static enum fuzz_end run_bt(struct fuzz_guest *g, u32 stop) {
    enum fuzz_end end;
    for (unsigned exits = 0; exits < MAX_STEPS; exits++) {
        enum bt_exit exit = bt_run(g->bt);
        if (in_handler(g) || exit == BT_EXIT_FAULT)
            return FUZZ_FAULT;
        if (exit != BT_EXIT_EMULATE && exit != BT_EXIT_MODE)
            return FUZZ_ODD;
        if (linear_eip(g->cpu) == stop)
            return FUZZ_DONE;
        if (step(g, &end))
            return end;
        if (in_handler(g))
            return FUZZ_FAULT;
        if (linear_eip(g->cpu) == stop)
            return FUZZ_DONE;
    }
    return FUZZ_TIMEOUT;
}

/* Every eighth case finds the windows without its pages: each access is a hidden fault first. */
static void hide_pages(struct fuzz_guest *g) {
    for (unsigned i = 0; i < FUZZ_PAGES; i++)
        mmu_invlpg(g->cpu, GLIN(fuzz_page_lin[i]));
}

static void save_state(const struct fuzz_guest *g, struct fuzz_result *out) {
    const struct cpu *cpu = g->cpu;
    bool fault = out->end == FUZZ_FAULT;
    out->vector = fault ? cpu->fault.vector : 0;
    out->error = fault && cpu->fault.has_error ? cpu->fault.error : 0;
    out->cr2 = fault && cpu->fault.vector == VEC_PF ? cpu->fault.cr2 : 0;
    for (unsigned i = 0; i < 8; i++)
        out->gpr[i] = (u32)cpu->gpr[i];
    out->eflags = cpu->eflags;
    out->eip = cpu->eip;
    for (unsigned i = 0; i < 6; i++)
        out->seg[i] = cpu->seg[i].selector;
    memcpy(out->fx, cpu->fx, FUZZ_FX_BYTES);
}

/* INT3, INTO and INT1 are looked at behind their gates: the vector tells the handler, the frame on
 * the stack of ring 0 the rest, as a signal does natively. */
static void unwind_handler(const struct fuzz_guest *g, struct fuzz_result *out) {
    const u8 *frame = g->ram + AT_SYSTEM + STACK_OFFSET - 20;
    if (out->gpr[R_ESP] != FUZZ_SYSTEM + STACK_OFFSET - 20) {
        out->end = FUZZ_ODD;
        return;
    }
    out->vector = (u8)(out->eip - FUZZ_SYSTEM - HANDLERS_OFFSET);
    out->error = out->cr2 = 0;
    out->eip = load32(frame);
    out->seg[SEG_CS] = load16(frame + 4);
    out->eflags = load32(frame + 8);
    out->gpr[R_ESP] = load32(frame + 12);
    out->seg[SEG_SS] = load16(frame + 16);
}

void fuzz_guest_run(struct fuzz_guest *g, struct fuzz_case *c, const u8 *template,
                    struct fuzz_result *out) {
    u8 *scratch = fuzz_guest_scratch(g);
    u32 stop = c->entry + c->code_bytes;
    fuzz_memory_reset(scratch, template, c);
    load_state(g, c);
    if (g->bt && c->number % 8 == 0)
        hide_pages(g);
    out->end = (u8)(g->bt ? run_bt(g, stop) : run_interp(g, c, stop));
    save_state(g, out);
    if (in_handler(g))
        unwind_handler(g, out);
    else if (g->engine == FUZZ_INTERP && out->end == FUZZ_FAULT)
        fuzz_ignore_partial(c, g->cpu);
    if (out->end == FUZZ_DONE) { /* the far jump forgets where it came from */
        out->eip = stop;
        out->seg[SEG_CS] = FUZZ_CS;
    }
    out->memory = fuzz_memory_hash(scratch, template, c);
}
