/*
 * interp.c: how many guest instructions a second the reference interpreter executes, by kind of
 * code. Each row is an endless loop in a small guest with paging; what is counted is
 * cpu->insn_count.
 *
 * usage: bench_interp [ROW ...]    prints `interp NAME M_insns_per_s X kind K`: the best of several
 *                                  repetitions, by the CPU time that they took
 *
 * Kinds: `integer` rows are code as compilers make it, which has a bar; `fp` rows are x87, MMX and
 * SSE; `corner` rows are rare instructions, and what the interpreter's caches are not made for.
 */
#include "interp/interp.h"
#include "mmu/mmu.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    RAM_BYTES = 64 << 20,
    PAGE_DIRECTORY = 0x10000, /* one table follows for each 4 MiB */
    IDT_BASE = 0x8000,
    GDT_BASE = 0x9000,
    CODE_BASE = 0x200000,
    DATA_BASE = 0x800000, /* ESI and EDI */
    STACK_TOP = 0x700000,
    KERNEL_STACK_TOP = 0x600000,
    TSS_BASE = 0xa000,
    HANDLER_BASE = 0x1f0000,
    REPETITIONS = 5
};

/* ---- The loops ----
 *
 * GUEST(name, body) assembles a body for the guest: `name` is its first byte, `name_end` the first
 * behind it. It does not depend on where it stands. At the start ESI and EDI point at data, EBP at
 * data further on, ESP at the stack; the other registers are 0. */
#define GUEST(name, body)                                                                          \
    __asm__(".pushsection .rodata\n.code32\n" #name ":\n" body #name "_end:\n.code64\n"            \
            ".popsection\n");                                                                      \
    extern const u8 name[], name##_end[]

GUEST(alu, "1: addl %edx, %eax\n xorl %eax, %ebx\n leal 5(%ebx,%eax,4), %edx\n shrl $3, %ebx\n"
           "subl $0x1234567, %eax\n andl $0xffffff, %edx\n movl %ebx, %ecx\n roll $7, %ecx\n"
           "orl %ecx, %eax\n negl %edx\n incl %ecx\n cmpl %ecx, %edx\n jmp 1b\n");
GUEST(alu_narrow, "1: addb %dl, %al\n xorb %ah, %bl\n addw $77, %cx\n movzbl %bl, %edx\n"
                  "movsbl %al, %ecx\n setc %bh\n adcb $3, %dh\n cmovzl %edx, %ebx\n testb $8, %al\n"
                  "sets %ah\n movw %cx, %dx\n jmp 1b\n");
GUEST(load_store, "1: movl (%esi), %eax\n movl %eax, 4(%edi)\n movl 8(%esi,%ebx,4), %ecx\n"
                  "addl %ecx, %eax\n movzbl 3(%esi), %edx\n movb %dl, 17(%edi)\n"
                  "movl %ecx, (%edi,%ebx,8)\n movzwl 6(%esi), %ecx\n movw %cx, 2(%edi)\n jmp 1b\n");
GUEST(read_modify_write, "1: addl $3, (%esi)\n incl 4(%esi)\n andb $0x7f, 9(%esi)\n"
                         "xorl %eax, 12(%esi)\n addl 4(%esi), %eax\n cmpl $7, (%esi)\n"
                         "orw $2, 16(%esi)\n decl 20(%esi)\n jmp 1b\n");
/* a linear congruential generator decides the branches */
GUEST(branches, "1: imull $1103515245, %eax\n addl $12345, %eax\n testl $0x10000, %eax\n jz 2f\n"
                "incl %ebx\n 2: testl $0x20000, %eax\n jnz 3f\n decl %ebx\n 3: btl $20, %eax\n"
                "jc 4f\n incl %ecx\n 4: cmpl %ebx, %ecx\n jg 5f\n nop\n 5: jmp 1b\n");
GUEST(call_return, "1: pushl %eax\n call 2f\n addl $4, %esp\n jmp 1b\n"
                   "2: pushl %ebp\n movl %esp, %ebp\n pushl %ebx\n movl 8(%ebp), %eax\n call 3f\n"
                   "incl %eax\n popl %ebx\n popl %ebp\n ret\n 3: xorl %ebx, %eax\n ret\n");
GUEST(indirect, "call 8f\n 8: popl %ebp\n leal (2f-8b)(%ebp), %ebx\n movl %ebx, (%esi)\n"
                "leal (3f-8b)(%ebp), %ebx\n movl %ebx, 4(%esi)\n"
                "1: movl %ecx, %edx\n incl %ecx\n andl $1, %edx\n call *(%esi,%edx,4)\n jmp 1b\n"
                "2: addl $5, %eax\n ret\n 3: subl $3, %eax\n ret\n");
GUEST(push_pop, "1: pushl %eax\n pushl $5\n pushl (%esi)\n popl %ecx\n popl %edx\n popl %ebx\n"
                "pushl %ebp\n movl %esp, %ebp\n subl $16, %esp\n leave\n jmp 1b\n");
GUEST(frames, "1: pushal\n popal\n enter $16, $0\n leave\n jmp 1b\n");
GUEST(multiply_divide, "movl $7, %ecx\n 1: movl %ecx, %eax\n mull %ecx\n imull $77, %eax, %ebx\n"
                       "xorl %edx, %edx\n divl %ecx\n movl %ebx, %eax\n cltd\n idivl %ecx\n"
                       "imull %ecx, %ebx\n jmp 1b\n");
GUEST(bits, "movl $1, %ebx\n 1: bsfl %ebx, %eax\n bsrl %ebx, %ecx\n btsl $5, %ebx\n"
            "btl %ecx, %ebx\n shldl $3, %eax, %ebx\n shrdl %cl, %ebx, %eax\n bswapl %eax\n"
            "btsl %ecx, (%esi)\n orl $1, %ebx\n sarl %cl, %eax\n rcll $1, %eax\n jmp 1b\n");
GUEST(strings_one, "1: movsl\n lodsb\n stosb\n cmpsb\n scasl\n subl $6, %esi\n subl $10, %edi\n"
                   "jmp 1b\n");
/* counted as instructions, whatever the number of elements */
GUEST(strings_repeated, "1: movl $8, %ecx\n rep movsl\n movl $16, %ecx\n xorl %eax, %eax\n"
                        "rep stosb\n subl $32, %esi\n subl $48, %edi\n jmp 1b\n");
/* five instructions for each 16 elements */
GUEST(strings_scan, "1: movl $16, %ecx\n movb $1, %al\n repne scasb\n movl %esi, %edi\n jmp 1b\n");
GUEST(flags, "1: pushfl\n popfl\n lahf\n sahf\n clc\n stc\n cmc\n cld\n jmp 1b\n");
GUEST(locks, "1: lock incl (%esi)\n xchgl %eax, 4(%esi)\n lock cmpxchgl %ecx, 8(%esi)\n"
             "lock xaddl %eax, 12(%esi)\n jmp 1b\n");
GUEST(cli_sti, "1: cli\n incl %eax\n sti\n nop\n incl %eax\n jmp 1b\n");
/* each access in another page of 8 MiB */
GUEST(load_pages, "1: movl (%esi,%ebx), %eax\n addl $0x1010, %ebx\n andl $0x7fffff, %ebx\n"
                  "incl %ecx\n addl %eax, %edx\n xorl %ecx, %edx\n jmp 1b\n");
GUEST(load_across_pages, "1: movl 0xffe(%esi), %eax\n incl %ecx\n addl %eax, %edx\n"
                         "xorl %ecx, %edx\n movl %edx, 0x1ffe(%esi)\n incl %edx\n jmp 1b\n");
/* the second instruction crosses a page, and the others stand in the last 16 bytes */
GUEST(code_across_pages, "jmp 1f\n .skip 0xff1 - 5\n 1: addl $1, %eax\n incl %ebx\n decl %ecx\n"
                         "addl %ebx, %edx\n addl %ecx, %edx\n movl $0x12345678, %ebx\n"
                         "incl %eax\n jmp 1b\n");
#define LINE "addl $0x12345678, %eax\n movl 4(%esi), %ecx\n xorl %eax, %ebx\n testl %ecx, %ecx\n"
/* straight on through 216 KiB of code, and 1 MiB: about as many instructions as the decode cache
 * has room for, and six times as many */
GUEST(code_big, "1: .rept 18000\n" LINE ".endr\n jmp 1b\n");
GUEST(code_huge, "1: .rept 90000\n" LINE ".endr\n jmp 1b\n");
GUEST(code_rewritten,
      "call 8f\n 8: popl %ebp\n 1: incl %ecx\n movb %cl, (2f-8b+1)(%ebp)\n nop\n"
      "xorl %ebx, %eax\n addl %eax, %edx\n decl %edx\n 2: movl $0, %eax\n jmp 1b\n");
GUEST(int_iret, "1: int $0x80\n addl %eax, %ebx\n incl %ecx\n jmp 1b\n");
GUEST(int_handler, "pushl %ebx\n movl %eax, %ebx\n popl %ebx\n iretl\n");
GUEST(sse_scalar, "1: movsd (%esi), %xmm0\n addsd %xmm1, %xmm0\n mulsd %xmm2, %xmm0\n"
                  "movapd %xmm0, %xmm1\n movsd %xmm0, 8(%esi)\n incl %eax\n cvtsi2sdl %eax, %xmm2\n"
                  "ucomisd %xmm0, %xmm1\n jmp 1b\n");
GUEST(sse_packed, "1: movdqu (%esi), %xmm0\n paddd %xmm1, %xmm0\n pxor %xmm2, %xmm0\n"
                  "pshufd $0x1b, %xmm0, %xmm1\n movdqa %xmm0, 16(%esi)\n punpcklbw %xmm1, %xmm2\n"
                  "pmovmskb %xmm0, %eax\n addps %xmm3, %xmm4\n jmp 1b\n");
GUEST(mmx,
      "fninit\n 1: movq (%esi), %mm0\n paddw %mm1, %mm0\n pxor %mm2, %mm0\n movq %mm0, 8(%esi)\n"
      "movd %eax, %mm1\n psrlq $3, %mm2\n jmp 1b\n");
GUEST(x87, "fninit\n fld1\n 1: fldl (%esi)\n fadd %st(1), %st\n fmull 8(%esi)\n fstpl 16(%esi)\n"
           "fildl (%esi)\n fchs\n fistpl 24(%esi)\n jmp 1b\n");
GUEST(fp_control, "1: fnstcw (%esi)\n fldcw (%esi)\n fnstsw %ax\n stmxcsr 4(%esi)\n"
                  "ldmxcsr 4(%esi)\n jmp 1b\n");

enum kind { KIND_INTEGER, KIND_FP, KIND_CORNER };
static const char *const kind_name[] = {"integer", "fp", "corner"};

static const struct bench_row {
    const char *name;
    const u8 *code, *end;
    enum kind kind;
    u8 cpl;
} rows[] = {
#define ROW(row_name, row_kind, row_cpl)                                                           \
    { #row_name, row_name, row_name##_end, KIND_##row_kind, row_cpl }
    ROW(alu, INTEGER, 3),
    ROW(alu_narrow, INTEGER, 3),
    ROW(load_store, INTEGER, 3),
    ROW(read_modify_write, INTEGER, 3),
    ROW(branches, INTEGER, 3),
    ROW(call_return, INTEGER, 3),
    ROW(indirect, INTEGER, 3),
    ROW(push_pop, INTEGER, 3),
    ROW(multiply_divide, INTEGER, 3),
    ROW(bits, INTEGER, 3),
    ROW(strings_one, INTEGER, 3),
    ROW(strings_repeated, INTEGER, 3),
    ROW(flags, INTEGER, 3),
    ROW(locks, INTEGER, 3),
    ROW(cli_sti, INTEGER, 0),
    ROW(sse_scalar, FP, 3),
    ROW(sse_packed, FP, 3),
    ROW(mmx, FP, 3),
    ROW(x87, FP, 3),
    ROW(fp_control, FP, 3),
    ROW(frames, CORNER, 3),
    ROW(strings_scan, CORNER, 3),
    ROW(load_across_pages, CORNER, 0),
    ROW(code_across_pages, CORNER, 0),
    ROW(code_big, CORNER, 0),
    ROW(code_huge, CORNER, 0),
    ROW(code_rewritten, CORNER, 0),
    ROW(int_iret, CORNER, 3),
    ROW(load_pages, CORNER, 0),
#undef ROW
};

/* ---- The guest ---- */

static u64 cpu_time_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (u64)at.tv_sec * 1000000000 + (u64)at.tv_nsec;
}

static void must(bool ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "interp: %s\n", what);
    exit(1);
}

static void put32(struct cpu *cpu, u32 gpa, u32 value) {
    store32(mmu_ram(cpu->mmu) + gpa, value);
}

/* Everything mapped one to one by 4-KiB pages, for both privileges. */
static void make_page_tables(struct cpu *cpu) {
    for (u32 page = 0; page < RAM_BYTES / PAGE_BYTES; page++)
        put32(cpu, PAGE_DIRECTORY + PAGE_BYTES + page * 4,
              page << PAGE_SHIFT | PTE_P | PTE_W | PTE_U);
    for (u32 table = 0; table < RAM_BYTES >> 22; table++)
        put32(cpu, PAGE_DIRECTORY + table * 4,
              (PAGE_DIRECTORY + (table + 1) * PAGE_BYTES) | PTE_P | PTE_W | PTE_U);
}

/* Flat segments 8 and 16 for CPL 0, 24 and 32 for CPL 3; gate 80h; a TSS for its stack. */
static void make_tables(struct cpu *cpu) {
    static const u32 access[] = {0, 0xcf9b00, 0xcf9300, 0xcffb00, 0xcff300};
    for (u32 i = 1; i < ARRAY_LEN(access); i++) {
        put32(cpu, GDT_BASE + 8 * i, 0xffff);
        put32(cpu, GDT_BASE + 8 * i + 4, access[i]);
    }
    cpu->gdtr = (struct table_register){GDT_BASE, 8 * ARRAY_LEN(access) - 1};
    put32(cpu, IDT_BASE + 8 * 0x80, 8 << 16 | (HANDLER_BASE & 0xffff));
    put32(cpu, IDT_BASE + 8 * 0x80 + 4, (HANDLER_BASE & 0xffff0000u) | 0xee00);
    cpu->idtr = (struct table_register){IDT_BASE, 0x7ff};
    put32(cpu, TSS_BASE + 4, KERNEL_STACK_TOP);
    put32(cpu, TSS_BASE + 8, 16);
    cpu->seg[SEG_TR] =
        (struct segment){.selector = 40, .attr = ATTR_P | 0xb, .limit = 0x67, .base = TSS_BASE};
    memcpy(mmu_ram(cpu->mmu) + HANDLER_BASE, int_handler, (size_t)(int_handler_end - int_handler));
}

static void set_state(struct cpu *cpu, const struct bench_row *row) {
    cpu_reset(cpu);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->cr3 = PAGE_DIRECTORY;
    cpu->cpl = row->cpl;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++) {
        u32 code = s == SEG_CS ? ATTR_CODE : 0;
        cpu->seg[s] = (struct segment){.selector = (u16)((code ? 8 : 16) + (row->cpl ? 16 + 3 : 0)),
                                       .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB |
                                               ATTR_G | code | (u32)row->cpl << ATTR_DPL_SHIFT,
                                       .limit = 0xffffffff};
    }
    make_tables(cpu);
    cpu->gpr[R_ESP] = STACK_TOP;
    cpu->gpr[R_ESI] = cpu->gpr[R_EDI] = DATA_BASE;
    cpu->gpr[R_EBP] = DATA_BASE + 0x8000;
    cpu->eip = CODE_BASE;
    cpu->eflags = F_FIXED;
    mmu_mode_changed(cpu);
}

/* ---- Measuring ---- */

/* Runs until insns more were completed; events only interrupt interp_run. */
static void run(struct interp *it, struct cpu *cpu, u64 insns, const char *name) {
    u64 end = cpu->insn_count + insns;
    while (cpu->insn_count < end)
        must(interp_run(it, cpu, end - cpu->insn_count, NULL) != INTERP_FAULT, name);
}

static double best_rate(struct interp *it, struct cpu *cpu, const struct bench_row *row) {
    enum { WARM_UP = 400000, CHUNK_NS = 40000000 };
    double best = 0;
    set_state(cpu, row);
    memset(mmu_ram(cpu->mmu) + DATA_BASE, 0, RAM_BYTES / 4);
    memcpy(mmu_ram(cpu->mmu) + CODE_BASE, row->code, (size_t)(row->end - row->code));
    run(it, cpu, WARM_UP, row->name);
    for (unsigned i = 0; i < REPETITIONS; i++) {
        u64 start = cpu_time_ns(), first = cpu->insn_count, spent;
        do
            run(it, cpu, 100000, row->name);
        while ((spent = cpu_time_ns() - start) < CHUNK_NS);
        double rate = (double)(cpu->insn_count - first) * 1e3 / (double)spent;
        best = rate > best ? rate : best;
    }
    return best;
}

static bool wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

int main(int argc, char **argv) {
    static const struct cpu_model model = {.f1_edx = ~0u, .f1_ecx = ~0u, .cr4_allowed = ~0u};
    struct mmu_error err;
    struct cpu *cpu = cpu_create();
    struct interp *it = interp_create();
    must(cpu && it, "no memory");
    cpu->mmu = mmu_create(RAM_BYTES, &err);
    must(cpu->mmu != NULL, "no memory for the guest");
    cpu->model = &model;
    make_page_tables(cpu);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!wanted(rows[i].name, argc, argv))
            continue;
        printf("interp %-20s M_insns_per_s %-6.1f kind %s\n", rows[i].name,
               best_rate(it, cpu, &rows[i]), kind_name[rows[i].kind]);
        fflush(stdout);
    }
    interp_destroy(it);
    mmu_destroy(cpu->mmu);
    cpu_destroy(cpu);
    return 0;
}
