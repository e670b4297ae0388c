/*
 * cpu.c: the CPU's state after reset, and its picture for people, in the layout that readers of
 * QEMU's "info registers" know.
 */
#include "base/cpu.h"

#include <stdio.h>

/* Byte offsets in the FXSAVE image: SDM volume 1, section 10.5.1 "FXSAVE Area". */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160
};

void cpu_reset(struct cpu *cpu) {
    struct cpu old = {.model = cpu->model, .bus = cpu->bus, .mmu = cpu->mmu, .owner = cpu->owner};
    memcpy(old.engine_area, cpu->engine_area, sizeof old.engine_area);
    *cpu = old;
    cpu->eip = 0xfff0;
    cpu->eflags = F_FIXED;
    cpu->gpr[R_EDX] = cpu->model ? cpu->model->signature : 0x600;
    cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = (struct segment){.attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A, .limit = 0xffff};
    cpu->seg[SEG_CS].selector = 0xf000;
    cpu->seg[SEG_CS].base = 0xffff0000u;
    cpu->seg[SEG_LDTR] = (struct segment){.attr = ATTR_P | 2, .limit = 0xffff};
    cpu->seg[SEG_TR] = (struct segment){.attr = ATTR_P | 11, .limit = 0xffff};
    cpu->gdtr.limit = cpu->idtr.limit = 0xffff;
    cpu->dr[6] = 0xffff0ff0u;
    cpu->dr[7] = 0x400;
    cpu->msr_pat = 0x0007040600070406ull;
    cpu->msr_apicbase = 0xfee00900u; /* enabled, bootstrap processor */
    cpu->msr_misc_enable = 1;        /* fast strings */
    store16(cpu->fx + FX_FCW, 0x40);
    cpu->fx[FX_FTW] = 0xff; /* tag word 5555h: all registers hold zero */
    store32(cpu->fx + FX_MXCSR, 0x1f80);
    store32(cpu->fx + FX_MXCSR_MASK, 0xffff);
}

struct printer {
    void (*print)(void *, const char *line);
    void *opaque;
    char line[256];
    int used;
};

static void put(struct printer *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct printer *p, const char *fmt, ...) {
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    int n = vsnprintf(p->line + p->used, sizeof p->line - (size_t)p->used, fmt, ap);
    __builtin_va_end(ap);
    if (n > 0)
        p->used = MIN(p->used + n, (int)sizeof p->line - 1);
}
static void end_line(struct printer *p) {
    p->print(p->opaque, p->line);
    p->used = 0;
    p->line[0] = 0;
}

static const char *const system_type[16] = {"Reserved",   "TSS16-avl", "LDT",       "TSS16-busy",
                                            "CallGate16", "TaskGate",  "IntGate16", "TrapGate16",
                                            "Reserved",   "TSS32-avl", "Reserved",  "TSS32-busy",
                                            "CallGate32", "Reserved",  "IntGate32", "TrapGate32"};

static void dump_segment(struct printer *p, const char *name, const struct segment *s) {
    u32 high = (s->attr & 0xff) << 8 | ((s->attr >> 12) & 0xf) << 20;
    u32 raw_limit = s->attr & ATTR_G ? s->limit >> 12 : s->limit;
    high |= raw_limit & 0xf0000;
    if (s->attr & ATTR_NULL)
        high = 0;
    put(p, "%-3s=%04x %08x %08x %08x", name, s->selector, s->base, s->limit, high);
    if (!(high & 0x8000)) {
        end_line(p);
        return;
    }
    put(p, " DPL=%d ", (s->attr >> ATTR_DPL_SHIFT) & 3);
    bool big = s->attr & ATTR_DB;
    if (!(s->attr & ATTR_S))
        put(p, "%s", system_type[s->attr & ATTR_TYPE]);
    else if (s->attr & ATTR_CODE)
        put(p, "CS%s [%c%c%c]", big ? "32" : "16", s->attr & ATTR_C ? 'C' : '-',
            s->attr & ATTR_R ? 'R' : '-', s->attr & ATTR_A ? 'A' : '-');
    else
        put(p, "DS%s [%c%c%c]", big ? "  " : "16", s->attr & ATTR_E ? 'E' : '-',
            s->attr & ATTR_W ? 'W' : '-', s->attr & ATTR_A ? 'A' : '-');
    end_line(p);
}

static void dump_fpu(struct printer *p, const struct cpu *cpu) {
    u16 fsw = load16(cpu->fx + FX_FSW);
    put(p, "FCW=%04x FSW=%04x [ST=%d] FTW=%02x MXCSR=%08x", load16(cpu->fx + FX_FCW), fsw,
        (fsw >> 11) & 7, cpu->fx[FX_FTW], load32(cpu->fx + FX_MXCSR));
    end_line(p);
    for (unsigned i = 0; i < 8; i++) {
        const u8 *st = cpu->fx + FX_ST + 16 * i;
        put(p, "FPR%u=%016llx %04x%s", i, (unsigned long long)load64(st), load16(st + 8),
            i % 2 ? "" : " ");
        if (i % 2)
            end_line(p);
    }
    for (unsigned i = 0; i < 8; i++) {
        const u8 *x = cpu->fx + FX_XMM + 16 * i;
        put(p, "XMM%02u=%016llx %016llx%s", i, (unsigned long long)load64(x + 8),
            (unsigned long long)load64(x), i % 2 ? "" : " ");
        if (i % 2)
            end_line(p);
    }
}

void cpu_dump(const struct cpu *cpu, void (*print)(void *, const char *line), void *opaque) {
    struct printer printer = {.print = print, .opaque = opaque}, *p = &printer;
    static const char *const names[SEG_COUNT] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDT", "TR"};
    const u64 *r = cpu->gpr;
    put(p, "EAX=%08x EBX=%08x ECX=%08x EDX=%08x", (u32)r[R_EAX], (u32)r[R_EBX], (u32)r[R_ECX],
        (u32)r[R_EDX]);
    end_line(p);
    put(p, "ESI=%08x EDI=%08x EBP=%08x ESP=%08x", (u32)r[R_ESI], (u32)r[R_EDI], (u32)r[R_EBP],
        (u32)r[R_ESP]);
    end_line(p);
    u32 f = cpu->eflags;
    put(p, "EIP=%08x EFL=%08x [%c%c%c%c%c%c%c] CPL=%d II=%d A20=%d SMM=0 HLT=%d", cpu->eip, f,
        f & F_DF ? 'D' : '-', f & F_OF ? 'O' : '-', f & F_SF ? 'S' : '-', f & F_ZF ? 'Z' : '-',
        f & F_AF ? 'A' : '-', f & F_PF ? 'P' : '-', f & F_CF ? 'C' : '-', cpu->cpl,
        cpu->shadow != 0, !cpu->a20_masked, cpu->halted);
    end_line(p);
    for (unsigned s = 0; s < SEG_COUNT; s++)
        dump_segment(p, names[s], &cpu->seg[s]);
    put(p, "GDT=     %08x %08x", cpu->gdtr.base, cpu->gdtr.limit);
    end_line(p);
    put(p, "IDT=     %08x %08x", cpu->idtr.base, cpu->idtr.limit);
    end_line(p);
    put(p, "CR0=%08x CR2=%08x CR3=%08x CR4=%08x", cpu->cr0, cpu->cr2, cpu->cr3, cpu->cr4);
    end_line(p);
    put(p, "DR0=%08x DR1=%08x DR2=%08x DR3=%08x", cpu->dr[0], cpu->dr[1], cpu->dr[2], cpu->dr[3]);
    end_line(p);
    put(p, "DR6=%08x DR7=%08x", cpu->dr[6], cpu->dr[7]);
    end_line(p);
    put(p, "EFER=%016llx", (unsigned long long)cpu->efer);
    end_line(p);
    dump_fpu(p, cpu);
}
