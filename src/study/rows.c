/*
 * rows.c: the rows of the table: what one operation is, whether there is such a thing at host user
 * level, and what Adams and Agesen published for it: "A Comparison of Software and Hardware
 * Techniques for x86 Virtualization", ASPLOS 2006, section 6.3 "Nanobenchmarks", in cycles of their
 * machine; RDTSC in the translation cache is from the same paper.
 *
 * Their cr8wr (about 140 natively, 35 in software, native under hardware assist) has no row: there
 * is no CR8 in 32-bit mode.
 */
#include "study/study_internal.h"

#define SYSCALL .published = {"syscall", 0, 2000, 0, true}

const struct study_row study_rows[] = {
    {.name = "loop_user", .operation = "DEC and JNZ in ring 3", .native = native_loop},
    {.name = "loop_kernel",
     .operation = "the same in ring 0",
     .native = native_loop,
     .native_is = "the same in ring 3"},
    {.name = "int80",
     .operation = "INT 80h and IRET, handler empty",
     .native = native_int80,
     .native_is = "getpid by INT 80h",
     SYSCALL},
    {.name = "sysenter",
     .operation = "SYSENTER, STI, SYSEXIT",
     .native = native_syscall,
     .native_is = "getppid by SYSCALL",
     SYSCALL},
    {.name = "hidden_fault", .operation = "first touch of every fourth page, all mapped"},
    {.name = "hidden_fault_seq", .operation = "first touch of a page, each after the other"},
    {.name = "true_fault",
     .operation = "page fault: the handler writes the entry and returns",
     .native = native_minor_fault,
     .native_is = "minor fault on an anonymous page, which the kernel clears",
     .published = {"pgfault", 1093, 3927, 11242, false},
     .signal_floor = true},
    {.name = "pt_write",
     .operation = "store to a page-table entry",
     .published = {"ptemod", 1, 391, 12733, false}},
    {.name = "pt_write_invlpg", .operation = "the same and INVLPG"},
    {.name = "kmap", .operation = "the same and a touch of the page"},
    {.name = "code_page_store", .operation = "store beside code that runs"},
    {.name = "timer_user", .operation = "timer interrupt of an application, with EOI"},
    {.name = "timer_kernel", .operation = "timer interrupt of the kernel, with EOI"},
    {.name = "cli_sti", .operation = "CLI, STI"},
    {.name = "pushf_popf",
     .operation = "PUSHF, POPF in ring 0",
     .native = native_pushf_popf,
     .native_is = "the same in ring 3"},
    {.name = "context_switch", .operation = "INT, CR3 load, IRET, touch of four pages"},
    {.name = "in_port",
     .operation = "IN from the interrupt controller",
     .published = {"in", 3209, 214, 15826, false}},
    {.name = "rdtsc",
     .operation = "RDTSC in ring 0",
     .native = native_rdtsc,
     .native_is = "the same in ring 3",
     .published = {"rdtsc", 0, 216, 0, false}},
    {.name = "mov_cr0", .operation = "MOV EAX,CR0"},
    {.name = "call_ret",
     .operation = "CALL, RET",
     .native = native_call,
     .published = {"call+ret", 11, 51, 11, false}},
    {.name = "call_indirect",
     .operation = "indirect CALL of two targets in turn, RET",
     .native = native_call_indirect},
    {.name = "out_port", .operation = "OUT to port 80h"},
    {.name = "write_cr0", .operation = "MOV CR0,EBX, same value"},
    {.name = "write_cr3", .operation = "MOV CR3,EBX, same value"},
    {.name = "write_cr4", .operation = "MOV CR4,EBX, same value"},
    {.name = "invlpg", .operation = "INVLPG"},
    {.name = "iret", .operation = "PUSHF, PUSH CS, PUSH, IRET in ring 0"},
    {.name = "cpuid",
     .operation = "CPUID in ring 0",
     .native = native_cpuid,
     .native_is = "the same in ring 3"},
    {.name = "div_zero",
     .operation = "DIV by zero: the handler skips it",
     .native = native_divide,
     .native_is = "SIGFPE to a handler that skips it",
     .published = {"divzero", 889, 3223, 1014, false},
     .signal_floor = true},
    {.name = "pt_map", .operation = "entry written, page read, entry cleared, INVLPG"},
    {.name = "pt_protect", .operation = "write permission changed, INVLPG, page read"},
    {.name = "rdtsc_user", .operation = "RDTSC in ring 3", .native = native_rdtsc},
    {.name = "hlt_wake", /* three short and three long sleeps, of which the best counts */
     .operation = "timer interrupt out of HLT, beyond the time slept",
     .done_per_counted = 6},
    {.name = "fork_page", .operation = "two entries copied read-only, as fork does"},
};
const unsigned study_row_count = ARRAY_LEN(study_rows);
_Static_assert(ARRAY_LEN(study_rows) <= STUDY_MAX_ROWS, "the columns have room for every row");

int study_row_index(const char *name, size_t chars) {
    for (unsigned i = 0; i < study_row_count; i++)
        if (strlen(study_rows[i].name) == chars && !memcmp(study_rows[i].name, name, chars))
            return (int)i;
    return -1;
}
