/*
 * sensitive_metal.c: -sensitive-report. Why a guest kernel cannot just run at ring 1: each of the
 * sensitive instructions (ringcomp/sensitive.h) runs three times from the same state of the same
 * small guest, and what became of it is shown side by side:
 *   natively at ring 1, in a 32-bit code segment of DPL 1, with nothing between it and the CPU,
 *   in the reference interpreter, which says what the guest should see,
 *   under translation, as a guest's kernel runs here.
 * All three columns are measured. It runs instead of a guest, never beside one: for its time the
 * table for direct execution holds segments of DPL 1.
 *
 * The guest's descriptors for its present code and stack stand in the real table as ring
 * compression makes them, at the guest's selectors with DPL 1; one more data segment of DPL 0,
 * which is not loaded, stands there bit by bit. Its TSS and LDT are not there, since TR and LDTR
 * are the machine's own.
 */
#include "interp/interp.h"
#include "metal/metal.h"
#include "monitor/vm.h"
#include "ringcomp/sensitive.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- The guest ---- */

#define RAM_BYTES (2u << 20)
enum {
    GDT_AT = 0x1000,
    IDT_AT = 0x2000,
    TSS_AT = 0x3000,
    LDT_AT = 0x3800,
    CODE_AT = 0x10000,
    TARGET_AT = 0x11000, /* far transfers lead here */
    HANDLER_AT = 0xa000, /* and INT n here */
    MEMORY_AT = 0x20000, /* EAX */
    STACK_AT = 0x30000,
    /* selectors */
    KERNEL_CS = 0x08,
    KERNEL_DS = 0x10,
    GUEST_TSS = 0x28,
    GUEST_LDT = 0x30,
    OTHER_DS = 0x38, /* DPL 0, not loaded */
    VECTOR = 0x80,
    HLT = 0xf4 /* ends each of the ways */
};
#define CODE32(dpl) (0x00cf9b000000ffffull | (u64)(dpl) << 45)
#define DATA32(dpl) (0x00cf93000000ffffull | (u64)(dpl) << 45)
#define SYSTEM_DESCRIPTOR(type, base, limit)                                                       \
    ((u64)(limit) | (u64)(base) << 16 | (u64)(0x80 | (type)) << 40)
#define GUEST_GDT_LIMIT 0x3f
#define GUEST_IDT_LIMIT 0x7ff
/* Interrupts off and IOPL 3: what the real flags at ring 1 can never be. */
#define GUEST_FLAGS (F_FIXED | F_IOPL | F_CF)
#define REAL_FLAGS (F_FIXED | F_IF | F_CF)

/* What to look at, of what became of an instruction. */
enum show {
    SHOW_TABLE,        /* six bytes at MEMORY_AT: limit and base */
    SHOW_EAX,          /* all of it */
    SHOW_SELECTOR,     /* a selector in EAX */
    SHOW_PUSHED_FLAGS, /* IF and IOPL of the word on the stack */
    SHOW_FLAGS,        /* IF and IOPL as they are now */
    SHOW_ZF_EAX,
    SHOW_ZF,
    SHOW_DS,
    SHOW_PUSHED,   /* the selector on the stack */
    SHOW_CALL,     /* the selector on the stack below the return address, and CS */
    SHOW_CS,       /* where it went */
    SHOW_CS_FLAGS, /* and with which flags */
    SHOW_NOTHING   /* it came to no end */
};
/* Runs before the instruction, in hexadecimal; @T stands for TARGET_AT. */
struct scenario {
    const char *name; /* of the row in rc_sensitive */
    const char *before;
    u32 ecx;
    enum show show;
    bool silent; /* known not to trap: Robin and Irvine's point */
};
static const struct scenario scenarios[RC_SENSITIVE_COUNT] = {
    {"SGDT", "", 0, SHOW_TABLE, true},
    {"SIDT", "", 0, SHOW_TABLE, true},
    {"SLDT", "", 0, SHOW_SELECTOR, true},
    {"SMSW", "", 0, SHOW_EAX, true},
    {"PUSHF", "", 0, SHOW_PUSHED_FLAGS, true},
    {"POPF", "68 03 30 00 00", 0, SHOW_FLAGS, true}, /* push 3003h: IOPL 3, IF 0, CF */
    {"LAR", "", KERNEL_CS, SHOW_ZF_EAX, true},
    {"LSL", "", GUEST_TSS, SHOW_ZF_EAX, true},
    {"VERR", "", OTHER_DS, SHOW_ZF, true},
    {"VERW", "", OTHER_DS, SHOW_ZF, true},
    {"POP", "6a 38", 0, SHOW_DS, false}, /* push OTHER_DS */
    {"PUSH", "", 0, SHOW_PUSHED, true},
    {"CALL", "", 0, SHOW_CALL, true},
    {"JMP", "", 0, SHOW_CS, true},
    {"INT n", "", 0, SHOW_CALL, false},
    {"RET", "6a 08 68 @T", 0, SHOW_CS, false}, /* push KERNEL_CS; push TARGET_AT */
    {"IRET", "68 03 30 00 00 0e 68 @T", 0, SHOW_CS_FLAGS, true}, /* with a selector by PUSH CS */
    {"STR", "", 0, SHOW_SELECTOR, true},
    {"MOV", "", 0, SHOW_SELECTOR, true},
};

/* What became of an instruction. Compared as bytes. */
struct outcome {
    u32 trapped, vector, error; /* the rest is of the trapping instruction then */
    u32 lost;                   /* came to no end */
    u32 eax, ecx, esp, eip, eflags;
    u16 cs, ss, ds, pad;
    u8 memory[8];
    u32 stack[3];
};

struct report {
    struct cpu *cpu;
    struct cpu_model model;
    struct cpu_bus bus;
    struct interp *interp;
    u8 *ram;
    u64 root, tables[3]; /* PML4; PDPT, PD, PT: physical */
    struct outcome hardware[RC_SENSITIVE_COUNT], umip[RC_SENSITIVE_COUNT];
    struct outcome expected[RC_SENSITIVE_COUNT], translated[RC_SENSITIVE_COUNT];
};

static const struct scenario *scenario_of(const struct rc_sensitive *row) {
    for (size_t i = 0; i < ARRAY_LEN(scenarios); i++)
        if (!strcmp(scenarios[i].name, row->name))
            return &scenarios[i];
    RF_ASSERT(!"every sensitive instruction has a scenario");
    return NULL;
}

static u8 hex_digit(char c) {
    return (u8)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void put_code(u8 *p, const struct rc_sensitive *row) {
    for (const char *s = scenario_of(row)->before; *s;) {
        if (*s == ' ') {
            s++;
        } else if (*s == '@') {
            store32(p, TARGET_AT);
            p += 4;
            s += 2;
        } else {
            *p++ = (u8)(hex_digit(s[0]) << 4 | hex_digit(s[1]));
            s += 2;
        }
    }
    memcpy(p, row->bytes, row->length);
    p[row->length] = HLT;
}

/* The guest's memory before each run. */
static void put_guest(struct report *r, const struct rc_sensitive *row) {
    u8 *ram = r->ram;
    mmu_ram_clear(r->cpu->mmu);
    store64(ram + GDT_AT + KERNEL_CS, CODE32(0));
    store64(ram + GDT_AT + KERNEL_DS, DATA32(0));
    store64(ram + GDT_AT + OTHER_DS, DATA32(0));
    store64(ram + GDT_AT + GUEST_TSS, SYSTEM_DESCRIPTOR(11, TSS_AT, 0x67));
    store64(ram + GDT_AT + GUEST_LDT, SYSTEM_DESCRIPTOR(2, LDT_AT, 7));
    store64(ram + IDT_AT + 8 * VECTOR,
            HANDLER_AT | (u64)KERNEL_CS << 16 | 0x8e00ull << 32); /* an interrupt gate */
    ram[TARGET_AT] = ram[HANDLER_AT] = HLT;
    store32(ram + MEMORY_AT, TARGET_AT); /* a far pointer */
    store16(ram + MEMORY_AT + 4, KERNEL_CS);
    put_code(ram + CODE_AT, row);
}

static struct segment segment(u16 selector, u32 type) {
    return (struct segment){.selector = selector,
                            .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G | type,
                            .limit = UINT32_MAX};
}

/* Its processor: protected mode without paging. */
static void put_cpu(struct report *r, const struct rc_sensitive *row) {
    struct cpu *cpu = r->cpu;
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_ET;
    cpu->cr4 = CR4_OSFXSR;
    cpu->cpl = 0;
    cpu->eflags = GUEST_FLAGS;
    for (int s = SEG_ES; s <= SEG_GS; s++)
        cpu->seg[s] = segment(KERNEL_DS, 0);
    cpu->seg[SEG_CS] = segment(KERNEL_CS, ATTR_CODE);
    cpu->seg[SEG_TR] =
        (struct segment){.selector = GUEST_TSS, .attr = ATTR_P | 11, .limit = 0x67, .base = TSS_AT};
    cpu->seg[SEG_LDTR] =
        (struct segment){.selector = GUEST_LDT, .attr = ATTR_P | 2, .limit = 7, .base = LDT_AT};
    cpu->gdtr = (struct table_register){GDT_AT, GUEST_GDT_LIMIT};
    cpu->idtr = (struct table_register){IDT_AT, GUEST_IDT_LIMIT};
    cpu->gpr[R_EAX] = MEMORY_AT;
    cpu->gpr[R_ECX] = scenario_of(row)->ecx;
    cpu->gpr[R_ESP] = STACK_AT;
    cpu->eip = CODE_AT;
    mmu_mode_changed(cpu);
}

/* The memory part of an outcome, and flags without RF, which faults set in what they push. */
static void finish_outcome(const struct report *r, struct outcome *o) {
    memcpy(o->memory, r->ram + MEMORY_AT, sizeof o->memory);
    if (o->esp <= RAM_BYTES - sizeof o->stack)
        memcpy(o->stack, r->ram + o->esp, sizeof o->stack);
    o->eflags &= ~(u32)F_RF;
}

/* ---- (a) Natively, at ring 1 ---- */

struct native {
    u64 host_rsp;
    u32 eax, ecx;
    struct metal_frame frame; /* of the trap that ended it */
    u16 ds;
};

/* Stores RSP at host_rsp, loads DS, ES, EAX and ECX and leaves by IRETQ with that frame (RIP, CS,
 * RFLAGS, RSP, SS); returns by sensitive_landing. Interrupts off. */
void sensitive_enter(u64 *host_rsp, const u64 *iret_frame, u64 eax, u64 ecx, u64 data_selector);
extern const u8 sensitive_landing[];
__asm__(".text\n"
        ".globl sensitive_enter, sensitive_landing\n"
        "sensitive_enter:\n"
        "    push %rbx\n"
        "    push %rbp\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    push 32(%rsi)\n"
        "    push 24(%rsi)\n"
        "    push 16(%rsi)\n"
        "    push 8(%rsi)\n"
        "    push (%rsi)\n"
        "    mov %r8d, %ds\n"
        "    mov %r8d, %es\n"
        "    mov %rdx, %rax\n"
        "    xor %edx, %edx\n"
        "    xor %ebx, %ebx\n"
        "    xor %ebp, %ebp\n"
        "    xor %esi, %esi\n"
        "    xor %edi, %edi\n"
        "    iretq\n"
        /* The trap hook sends the frame here, on the stack of sensitive_enter. */
        "sensitive_landing:\n"
        "    xor %eax, %eax\n"
        "    mov %eax, %ds\n"
        "    mov %eax, %es\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbp\n"
        "    pop %rbx\n"
        "    ret\n");

static bool on_trap(void *opaque, struct metal_frame *f, u64 cr2) {
    struct native *n = opaque;
    (void)cr2;
    n->frame = *f;
    __asm__ volatile("movw %%ds, %0" : "=r"(n->ds));
    f->rip = (u64)(uintptr_t)sensitive_landing;
    f->cs = METAL_CS0;
    f->ss = 0;
    f->rsp = n->host_rsp;
    f->rflags = F_FIXED;
    return true;
}

static u64 new_table(void) {
    u64 phys = metal_pages_alloc(1, 1);
    if (phys)
        memset(metal_phys_pointer(phys), 0, PAGE_BYTES);
    return phys;
}

/* Linear 0 to 2 MiB are the guest's RAM, for supervisors: ring 1 is one. */
static bool map_guest(struct report *r) {
    const u64 rights = METAL_PTE_P | METAL_PTE_W | METAL_PTE_A | METAL_PTE_D;
    u64 above = r->root = metal_root_create();
    for (unsigned level = 0; level < 3 && above; level++) {
        r->tables[level] = new_table();
        if (!r->tables[level])
            return false;
        *(u64 *)metal_phys_pointer(above) = r->tables[level] | rights;
        above = r->tables[level];
    }
    u64 *pt = above ? metal_phys_pointer(above) : NULL;
    for (u32 i = 0; pt && i < RAM_BYTES / PAGE_BYTES; i++)
        pt[i] = metal_pointer_phys(r->ram + i * PAGE_BYTES) | rights;
    return pt;
}

static void unmap_guest(struct report *r) {
    for (int i = 0; i < 3; i++)
        if (r->tables[i])
            metal_pages_free(r->tables[i], 1);
    if (r->root)
        metal_root_destroy(r->root);
}

/* The guest's segments of ring 0 as ring compression shows them to the CPU; or nothing. */
static void set_real_segments(bool present) {
    u64 *gdt = metal_direct_gdt();
    gdt[KERNEL_CS / 8] = present ? CODE32(1) : 0;
    gdt[KERNEL_DS / 8] = present ? DATA32(1) : 0;
    gdt[OTHER_DS / 8] = present ? DATA32(0) : 0;
}

static void run_natively(struct report *r, const struct rc_sensitive *row, struct outcome *o) {
    struct native n = {.eax = MEMORY_AT, .ecx = scenario_of(row)->ecx};
    const u64 frame[5] = {CODE_AT, KERNEL_CS | 1, REAL_FLAGS, STACK_AT, KERNEL_DS | 1};
    put_guest(r, row);
    __asm__ volatile("cli" : : : "memory");
    metal_set_guest_trap(on_trap, &n);
    metal_use_direct_gdt(true);
    sensitive_enter(&n.host_rsp, frame, n.eax, n.ecx, KERNEL_DS | 1);
    metal_use_direct_gdt(false);
    metal_set_guest_trap(NULL, NULL);
    __asm__ volatile("sti" : : : "memory");
    const struct metal_frame *f = &n.frame;
    *o = (struct outcome){.eax = (u32)f->rax,
                          .ecx = (u32)f->rcx,
                          .esp = (u32)f->rsp,
                          .eip = (u32)f->rip,
                          .eflags = (u32)f->rflags,
                          .cs = (u16)f->cs,
                          .ss = (u16)f->ss,
                          .ds = n.ds};
    finish_outcome(r, o);
    /* HLT, the end of every way, is privileged, too. */
    bool end = f->vector == VEC_GP && f->error == 0 && o->eip < RAM_BYTES && r->ram[o->eip] == HLT;
    if (end)
        return;
    o->trapped = 1;
    o->vector = (u32)f->vector;
    o->error = (u32)f->error;
}

static u64 read_cr4(void) {
    u64 value;
    __asm__ volatile("movq %%cr4, %0" : "=r"(value));
    return value;
}
static void write_cr4(u64 value) {
    __asm__ volatile("movq %0, %%cr4" : : "r"(value) : "memory");
}

/* All of them, with CR4.UMIP clear or set. */
static void run_all_natively(struct report *r, bool umip, struct outcome *out) {
    u64 cr4 = read_cr4(), root = metal_root_current();
    write_cr4((cr4 & ~(u64)CR4_UMIP) | (umip ? CR4_UMIP : 0));
    metal_root_load(r->root);
    set_real_segments(true);
    metal_allow_int_n(true);
    for (int i = 0; i < RC_SENSITIVE_COUNT; i++)
        run_natively(r, &rc_sensitive[i], &out[i]);
    metal_allow_int_n(false);
    set_real_segments(false);
    metal_root_load(root);
    write_cr4(cr4);
}

/* ---- (b) and (c) ---- */

static bool at_end(const struct report *r) {
    return r->cpu->eip < RAM_BYTES && r->ram[r->cpu->eip] == HLT;
}

static void outcome_of_cpu(const struct report *r, bool fault, struct outcome *o) {
    const struct cpu *cpu = r->cpu;
    *o = (struct outcome){.trapped = fault,
                          .vector = fault ? cpu->fault.vector : 0,
                          .error = fault && cpu->fault.has_error ? cpu->fault.error : 0,
                          .lost = !fault && !at_end(r),
                          .eax = (u32)cpu->gpr[R_EAX],
                          .ecx = (u32)cpu->gpr[R_ECX],
                          .esp = (u32)cpu->gpr[R_ESP],
                          .eip = cpu->eip,
                          .eflags = cpu->eflags,
                          .cs = cpu->seg[SEG_CS].selector,
                          .ss = cpu->seg[SEG_SS].selector,
                          .ds = cpu->seg[SEG_DS].selector};
    finish_outcome(r, o);
}

#define MAX_STEPS 64

static void interpret(struct report *r, struct outcome *o) {
    bool fault = false;
    for (int i = 0; i < MAX_STEPS && !at_end(r) && !fault; i++)
        fault = interp_step(r->interp, r->cpu) == INTERP_FAULT;
    outcome_of_cpu(r, fault, o);
}

/* As the monitor runs a guest: translated code, and the interpreter where it asks for it. */
static void translate(struct report *r, struct bt *bt, struct outcome *o) {
    bool fault = false;
    bt_flush(bt);
    for (int i = 0; i < MAX_STEPS && !fault; i++) {
        enum bt_exit exit = bt_run(bt);
        fault = exit == BT_EXIT_FAULT;
        if (at_end(r))
            break;
        if (exit == BT_EXIT_EMULATE || exit == BT_EXIT_MODE || exit == BT_EXIT_COLD)
            fault = interp_step(r->interp, r->cpu) == INTERP_FAULT;
    }
    outcome_of_cpu(r, fault, o);
}

static bool run_virtually(struct report *r) {
    char why[160];
    struct bt_config config;
    bt_config_default(&config);
    config.hot_threshold = 0;
    config.verify = true;
    struct bt *bt = bt_create(r->cpu, &config, why, sizeof why);
    if (!bt) {
        log_error("-sensitive-report: %s", why);
        return false;
    }
    for (int i = 0; i < RC_SENSITIVE_COUNT; i++) {
        const struct rc_sensitive *row = &rc_sensitive[i];
        put_guest(r, row);
        put_cpu(r, row);
        interpret(r, &r->expected[i]);
        put_guest(r, row);
        put_cpu(r, row);
        translate(r, bt, &r->translated[i]);
    }
    bt_destroy(bt);
    return true;
}

/* ---- The table ---- */

static const char *describe_trap(const struct outcome *o, char *text, size_t bytes) {
    static const char *const names[] = {[VEC_DE] = "#DE", [VEC_UD] = "#UD", [VEC_NP] = "#NP",
                                        [VEC_SS] = "#SS", [VEC_GP] = "#GP", [VEC_PF] = "#PF"};
    if (o->vector < ARRAY_LEN(names) && names[o->vector])
        snprintf(text, bytes, "traps: %s(%04x)", names[o->vector], o->error);
    else
        snprintf(text, bytes, "vector %02xh of the real IDT", o->vector);
    return text;
}

static const char *describe_flags(u32 flags, char *text, size_t bytes) {
    snprintf(text, bytes, "IF=%u IOPL=%u", !!(flags & F_IF), (flags & F_IOPL) >> IOPL_SHIFT);
    return text;
}

static const char *describe(const struct outcome *o, enum show show, char *text, size_t bytes) {
    unsigned zf = !!(o->eflags & F_ZF);
    char flags[24];
    if (o->trapped)
        return describe_trap(o, text, bytes);
    if (o->lost)
        show = SHOW_NOTHING;
    switch (show) {
    case SHOW_TABLE:
        snprintf(text, bytes, "base %08x limit %04x", load32(o->memory + 2), load16(o->memory));
        break;
    case SHOW_EAX:
        snprintf(text, bytes, "eax=%08x", o->eax);
        break;
    case SHOW_SELECTOR:
        snprintf(text, bytes, "eax=%04x", o->eax & 0xffff);
        break;
    case SHOW_PUSHED_FLAGS:
        return describe_flags(o->stack[0], text, bytes);
    case SHOW_FLAGS:
        return describe_flags(o->eflags, text, bytes);
    case SHOW_ZF_EAX:
        if (zf)
            snprintf(text, bytes, "ZF=1 eax=%08x", o->eax);
        else
            snprintf(text, bytes, "ZF=0");
        break;
    case SHOW_ZF:
        snprintf(text, bytes, "ZF=%u", zf);
        break;
    case SHOW_DS:
        snprintf(text, bytes, "ds=%04x", o->ds);
        break;
    case SHOW_PUSHED:
        snprintf(text, bytes, "pushed %04x", o->stack[0] & 0xffff);
        break;
    case SHOW_CALL:
        snprintf(text, bytes, "cs=%04x, pushed cs %04x", o->cs, o->stack[1] & 0xffff);
        break;
    case SHOW_CS:
        snprintf(text, bytes, "cs=%04x eip=%08x", o->cs, o->eip);
        break;
    case SHOW_NOTHING:
        snprintf(text, bytes, "came to no end");
        break;
    case SHOW_CS_FLAGS:
        snprintf(text, bytes, "cs=%04x %s", o->cs, describe_flags(o->eflags, flags, sizeof flags));
        break;
    }
    return text;
}

/* Bytes of a column. */
#define COLUMN 30

static bool print_row(const struct report *r, int i) {
    const struct rc_sensitive *row = &rc_sensitive[i];
    const struct scenario *s = scenario_of(row);
    char hardware[64], expected[64], translated[64];
    describe(&r->hardware[i], s->show, hardware, sizeof hardware);
    describe(&r->expected[i], s->show, expected, sizeof expected);
    describe(&r->translated[i], s->show, translated, sizeof translated);
    bool same = !strcmp(hardware, expected), silent = !r->hardware[i].trapped;
    bool exact =
        !r->expected[i].lost && !memcmp(&r->expected[i], &r->translated[i], sizeof r->expected[i]);
    log_printf("%-16s %-*s %-*s %-*s%s\n", row->example, COLUMN, hardware, COLUMN, expected, COLUMN,
               translated,
               !exact   ? "TRANSLATION DIFFERS"
               : same   ? "same"
               : silent ? "silent"
                        : "");
    return exact && (!s->silent || (silent && !same));
}

/* False: the table does not show what it is there to show. */
static bool print_table(const struct report *r) {
    bool good = true;
    log_printf("%-16s %-*s %-*s %-*s\n", "instruction", COLUMN, "hardware at ring 1 did", COLUMN,
               "guest should have seen", COLUMN, "under translation");
    for (int i = 0; i < RC_SENSITIVE_COUNT; i++)
        good &= print_row(r, i);
    return good;
}

/* What CR4.UMIP makes of the first column. */
static void print_umip(const struct report *r) {
    unsigned changed = 0;
    for (int i = 0; i < RC_SENSITIVE_COUNT; i++) {
        const struct scenario *s = scenario_of(&rc_sensitive[i]);
        char without[64], with[64];
        describe(&r->hardware[i], s->show, without, sizeof without);
        describe(&r->umip[i], s->show, with, sizeof with);
        if (!strcmp(without, with))
            continue;
        if (!changed++)
            log_printf("\nwith CR4.UMIP, at ring 1:\n");
        log_printf("%-16s %s\n", rc_sensitive[i].example, with);
    }
    if (!changed)
        log_printf("\nwith CR4.UMIP, at ring 1: nothing changes\n");
}

/* ---- Set-up ---- */

static u32 no_port_read(void *opaque, u16 port, unsigned bytes) {
    (void)opaque, (void)port, (void)bytes;
    return UINT32_MAX;
}
static void no_port_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    (void)opaque, (void)port, (void)value, (void)bytes;
}
static u64 no_mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    (void)opaque, (void)addr, (void)bytes;
    return UINT64_MAX;
}
static void no_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)addr, (void)value, (void)bytes;
}
static u64 no_tsc(void *opaque) {
    (void)opaque;
    return 0;
}

static bool set_up(struct report *r, struct mon_error *err) {
    struct mon_host_cpu host;
    struct mmu_error mmu_err;
    mon_host_cpu(&host);
    if (!mon_cpu_model(NULL, &host, host.tsc_hz, &r->model, err))
        return false;
    r->bus = (struct cpu_bus){.io_read = no_port_read,
                              .io_write = no_port_write,
                              .mmio_read = no_mmio_read,
                              .mmio_write = no_mmio_write,
                              .tsc = no_tsc};
    r->interp = interp_create();
    r->cpu = cpu_create();
    if (!r->interp || !r->cpu)
        return mon_fail(err, "no memory");
    r->cpu->model = &r->model;
    r->cpu->bus = &r->bus;
    r->cpu->mmu = mmu_create(RAM_BYTES, &mmu_err);
    if (!r->cpu->mmu)
        return mon_fail(err, "%s", mmu_err.text);
    r->ram = mmu_ram(r->cpu->mmu);
    return map_guest(r) || mon_fail(err, "no memory");
}

static void tear_down(struct report *r) {
    unmap_guest(r);
    if (r->cpu) {
        mmu_destroy(r->cpu->mmu);
        cpu_destroy(r->cpu);
    }
    if (r->interp)
        interp_destroy(r->interp);
}

int mon_sensitive_report(void) {
    static struct report report;
    struct report *r = &report;
    struct mon_error err;
    bool umip = metal_cpu_has_umip(), good = false;
    if (!set_up(r, &err)) {
        log_error("-sensitive-report: %s", err.text);
    } else {
        run_all_natively(r, false, r->hardware);
        if (umip)
            run_all_natively(r, true, r->umip);
        good = run_virtually(r) && print_table(r);
        if (umip)
            print_umip(r);
        else
            log_printf("\nthis CPU has no UMIP\n");
    }
    tear_down(r);
    return good ? 0 : 1;
}
