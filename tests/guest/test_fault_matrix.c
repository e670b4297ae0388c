/*
 * Two exceptions in a row: every kind of first event (fault, trap, INT n) with every kind of second
 * one, found while the first is delivered. SDM volume 3A, section 6.15, "Interrupt 8-Double Fault
 * Exception (#DF)", tables 6-4 and 6-5; section 6.13 "Error Code".
 * Expected: #DF with error code 0 for contributory after contributory, and for contributory or page
 * fault after page fault; otherwise the second exception alone, at the instruction that began it,
 * with EXT set in its error code after an exception and clear after INT n, INT3 and INTO.
 */
#include "guest.h"

enum { LDT_SEL = FREE_GDT, ABSENT, SHORT_TSS, CODE1, ABSENT_SS, HOLE = 0x3f000000 };
enum class { BENIGN, CONTRIBUTORY, PAGE };

CODE(e_de, "xor %ecx,%ecx; div %ecx" DONE);
CODE(e_db, ".byte 0xf1" DONE);
CODE(e_bp, "int3" DONE);
CODE(e_of, "mov $0x7f,%al; inc %al; into" DONE);
CODE(e_br, "xor %eax,%eax; bound %eax,fm_bounds" DONE);
CODE(e_ud, "ud2" DONE);
CODE(e_nm, "fnop" DONE);
CODE(e_ts, "pushf; orl $0x4000,(%esp); popf; iret" DONE);
CODE(e_np, "mov %esi,%ds" DONE);
CODE(e_ss, "mov %esi,%ss" DONE);
CODE(e_gp, "mov $0xffff,%eax; mov %eax,%ds" DONE);
CODE(e_pf, "mov 0x3f000010,%eax" DONE);
CODE(e_int, "int $0x90" DONE);
int32_t fm_bounds[2] = {1, 2};

static const struct first {
    const u8 *code;
    u8 vector, class;
    bool soft, ring0_only;
} firsts[] = {
    {e_de, V_DE, CONTRIBUTORY, false, false}, {e_db, V_DB, BENIGN, false, false},
    {e_bp, V_BP, BENIGN, true, false},        {e_of, V_OF, BENIGN, true, false},
    {e_br, V_BR, BENIGN, false, false},       {e_ud, V_UD, BENIGN, false, false},
    {e_nm, V_NM, BENIGN, false, false},       {e_ts, V_TS, CONTRIBUTORY, false, true},
    {e_np, V_NP, CONTRIBUTORY, false, false}, {e_ss, V_SS, CONTRIBUTORY, false, false},
    {e_gp, V_GP, CONTRIBUTORY, false, false}, {e_pf, V_PF, PAGE, false, false},
    {e_int, 0x90, BENIGN, true, false},
};

/* Ways to make the gate of a vector fail. */
enum second {
    GATE_ABSENT,
    GATE_TYPE,
    CODE_NULL,
    CODE_ABSENT,
    TASK_SHORT,
    LDT_PAGE,
    STACK_ABSENT,
    STACK_NULL,
    SECONDS
};
static const struct {
    u8 vector, class;
    bool outer_only;
} seconds[SECONDS] = {
    [GATE_ABSENT] = {V_NP, CONTRIBUTORY, false}, [GATE_TYPE] = {V_GP, CONTRIBUTORY, false},
    [CODE_NULL] = {V_GP, CONTRIBUTORY, false},   [CODE_ABSENT] = {V_NP, CONTRIBUTORY, false},
    [TASK_SHORT] = {V_TS, CONTRIBUTORY, false},  [LDT_PAGE] = {V_PF, PAGE, false},
    [STACK_ABSENT] = {V_SS, CONTRIBUTORY, true}, [STACK_NULL] = {V_TS, CONTRIBUTORY, true},
};

static u64 bad_gate(u32 vector, enum second kind) {
    u64 good = default_gate(vector) | 3ull << 45;
    switch (kind) {
    case GATE_ABSENT:
        return good & ~(0x80ull << 40);
    case GATE_TYPE:
        return gate((u32)trap_stubs, KERNEL_CODE, 0xec); /* a call gate */
    case CODE_NULL:
        return gate((u32)trap_stubs, 0, 0xee);
    case CODE_ABSENT:
        return gate((u32)trap_stubs, ABSENT << 3, 0xee);
    case TASK_SHORT:
        return gate(0, SHORT_TSS << 3, 0xe5);
    case LDT_PAGE:
        return gate((u32)trap_stubs, 0xc, 0xee);
    default:
        return gate((u32)trap_stubs, CODE1 << 3 | 1, 0xee); /* to ring 1 */
    }
}
static u32 error_of(const struct first *f, enum second kind) {
    u32 ext = f->soft ? 0 : 1;
    switch (kind) {
    case GATE_ABSENT:
    case GATE_TYPE:
        return f->vector * 8u + 2 + ext;
    case CODE_ABSENT:
        return ABSENT << 3 | ext;
    case TASK_SHORT:
        return SHORT_TSS << 3 | ext;
    case STACK_ABSENT:
        return ABSENT_SS << 3 | ext;
    case LDT_PAGE:
        return 0; /* the table is read as supervisor */
    default:
        return ext;
    }
}
static bool doubles(u32 first, u32 second) {
    return first == PAGE ? second != BENIGN : first == CONTRIBUTORY && second == CONTRIBUTORY;
}

static void pair(u32 ring, const struct first *f, enum second kind) {
    bool doubled = doubles(f->class, seconds[kind].class);
    if (!doubled && f->vector == seconds[kind].vector)
        return; /* it would fail again */
    if (kind == STACK_NULL)
        tss.ss1 = 0;
    else
        tss.ss1 = ABSENT_SS << 3 | 1;
    idt_set(f->vector, bad_gate(f->vector, kind));
    u32 cr0 = read_cr0();
    if (f->vector == V_NM)
        write_cr0(cr0 | CR0_TS);
    tss.link = GDT_ENTRIES * 8;
    reset_run(ring);
    in.esi = ABSENT_SS << 3 | 1; /* e_ss wants its own level */
    if (f->vector == V_NP)
        in.esi = (ABSENT_SS + 1) << 3 | 3;
    if (f->vector == V_SS)
        in.esi = (ABSENT_SS + 1 + (ring ? 0 : 1)) << 3 | ring;
    u32 vector = run(ring, f->code);
    if (ring == 0 && f->vector == V_TS)
        __asm__ volatile("push $2; popf");
    write_cr0(cr0);
    idt_set(f->vector, default_gate(f->vector));
    EQ(vector, doubled ? V_DF : seconds[kind].vector);
    u32 mask = is_tcg() ? ~1u : ~0u; /* QEMU leaves EXT out */
    EQ(trap.error & mask, (doubled ? 0 : error_of(f, kind)) & mask);
    EQ(trap.cs & 3, ring);
    CHECK(trap.eip >= (u32)f->code && trap.eip < (u32)f->code + 16);
    if (kind == LDT_PAGE)
        EQ(trap_cr2, HOLE + 8);
}

void test(void) {
    paging_prepare();
    pte(HOLE);
    paging_on();
    gdt_set(LDT_SEL, descriptor(HOLE, 0xff, 0x82, 0));
    gdt_set(ABSENT, descriptor(0, 0xfffff, 0x1a, 12));
    gdt_set(SHORT_TSS, descriptor(SCRATCH, 0x20, 0x89, 0));
    gdt_set(CODE1, descriptor(0, 0xfffff, 0xba, 12));
    gdt_set(ABSENT_SS, descriptor(0, 0xfffff, 0x32, 12));
    gdt_set(ABSENT_SS + 1, descriptor(0, 0xfffff, 0x72, 12));
    gdt_set(ABSENT_SS + 2, descriptor(0, 0xfffff, 0x12, 12));
    __asm__ volatile("lldt %w0" ::"r"(LDT_SEL << 3));
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 i = 0; i < sizeof firsts / sizeof *firsts; i++)
            for (enum second kind = 0; kind < SECONDS; kind++) {
                if ((firsts[i].ring0_only && ring) || (seconds[kind].outer_only && !ring))
                    continue;
                if (is_tcg() && (firsts[i].code == e_db || kind == STACK_ABSENT))
                    continue; /* QEMU: no INT1 in this version; #TS for #SS */
                pair(ring, &firsts[i], kind);
            }
    __asm__ volatile("lldt %w0" ::"r"(0));
    for (u32 i = 0; i < 8; i++)
        gdt_set(FREE_GDT + i, 0);
    tss.link = 0;
    tss.ss1 = 0;
    paging_off();
}
