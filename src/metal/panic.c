/*
 * panic.c: last words. What the monitor says when it cannot go on, written so that nothing it meets
 * on the way keeps it from switching the machine off.
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

#include <stdio.h>

/* How often the end was begun: a failure while reporting must not report itself for ever. */
static unsigned endings;

static void say(const char *text) {
    metal_console_write(text, strlen(text));
}

static void say_line(const char *fmt, va_list ap) {
    static char line[512];
    vsnprintf(line, sizeof line, fmt, ap);
    say(line);
    say("\r\n");
}

static void line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void line(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say_line(fmt, ap);
    va_end(ap);
}

/* True the first time. The second time some words without any formatting are said; a third time
 * nothing but the power switch is tried, and then not even that. */
static bool begin_ending(void) {
    metal_interrupts_off();
    switch (endings++) {
    case 0:
        metal_load_tls(); /* library code below; a guest may have left another FS base */
        return true;
    case 1:
        say("\r\nringfold: failed again while reporting\r\n");
        return false;
    case 2:
        return false;
    default:
        for (;;)
            __asm__ volatile("cli; hlt");
    }
}

void metal_fatal(const char *fmt, ...) {
    if (begin_ending()) {
        va_list ap;
        va_start(ap, fmt);
        say("ringfold: ");
        say_line(fmt, ap);
        va_end(ap);
    }
    metal_power_off(1);
}

/* SDM volume 3, table 6-1 "Protected-Mode Exceptions and Interrupts". */
static const char *vector_name(u64 vector) {
    static const char *const names[32] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM",
                                          "#DF", NULL,  "#TS", "#NP", "#SS", "#GP", "#PF", NULL,
                                          "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};
    return vector < 32 && names[vector] ? names[vector] : "interrupt";
}

static void print_address(const char *label, u64 pc) {
    char name[96];
    metal_symbol(pc, name, sizeof name);
    line("%s %016llx %s", label, (unsigned long long)pc, name);
}

static void print_registers(const struct metal_frame *f, u64 cr2) {
    typedef unsigned long long ull;
    u64 cr0, cr3, cr4;
    __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    line("cs %04llx ss %04llx rflags %08llx cr0 %08llx cr2 %016llx cr3 %09llx cr4 %06llx",
         (ull)f->cs, (ull)f->ss, (ull)f->rflags, (ull)cr0, (ull)cr2, (ull)cr3, (ull)cr4);
    const struct {
        const char *name;
        u64 v;
    } r[] = {{"rax", f->rax}, {"rcx", f->rcx}, {"rdx", f->rdx}, {"rbx", f->rbx},
             {"rsp", f->rsp}, {"rbp", f->rbp}, {"rsi", f->rsi}, {"rdi", f->rdi},
             {"r8 ", f->r8},  {"r9 ", f->r9},  {"r10", f->r10}, {"r11", f->r11},
             {"r12", f->r12}, {"r13", f->r13}, {"r14", f->r14}, {"r15", f->r15}};
    for (unsigned i = 0; i < ARRAY_LEN(r); i += 4)
        line("%s %016llx %s %016llx %s %016llx %s %016llx", r[i].name, (ull)r[i].v, r[i + 1].name,
             (ull)r[i + 1].v, r[i + 2].name, (ull)r[i + 2].v, r[i + 3].name, (ull)r[i + 3].v);
}

/* The word on top of the stack stands in for a frame that a leaf or a stub did not make. */
static void print_backtrace(const struct metal_frame *f) {
    u64 pc[64], top;
    unsigned n = metal_backtrace(f->rbp, pc, ARRAY_LEN(pc));
    if (!(f->cs & 3) && metal_read_safely(f->rsp, &top) && (!n || top != pc[0]))
        print_address("(rsp)", top);
    for (unsigned i = 0, repeats = 0; i < n; i++) {
        repeats = i && pc[i] == pc[i - 1] ? repeats + 1 : 0;
        if (repeats < 2)                       /* recursion looks the same all the way */
            print_address("from ", pc[i] - 1); /* the call, not what follows it */
        else if (i + 1 == n || pc[i + 1] != pc[i])
            line("from  %u more of the same", repeats - 1);
    }
}

void metal_report_trap(const struct metal_frame *frame, u64 cr2, const char *what) {
    if (begin_ending()) {
        line("ringfold: %s: %s (vector %llu) error %llx at ring %llu", what,
             vector_name(frame->vector), (unsigned long long)frame->vector,
             (unsigned long long)frame->error, (unsigned long long)(frame->cs & 3));
        print_address("rip  ", frame->rip);
        print_registers(frame, cr2);
        const char *overrun = metal_stack_overrun(cr2);
        if (overrun)
            line("the %s stack was overrun", overrun);
        print_backtrace(frame);
        if (rf_crash_hook)
            rf_crash_hook(what);
    }
    metal_power_off(1);
}

unsigned metal_backtrace(u64 rbp, u64 *pc, unsigned max) {
    extern const u8 metal_text_start[], metal_text_end[];
    unsigned n = 0;
    while (n < max) {
        u64 next, address;
        if (rbp & 7 || !metal_read_safely(rbp, &next) || !metal_read_safely(rbp + 8, &address))
            break;
        if (address < (u64)(uintptr_t)metal_text_start || address >= (u64)(uintptr_t)metal_text_end)
            break;
        pc[n++] = address;
        if (next <= rbp) /* stacks grow down: callers lie above */
            break;
        rbp = next;
    }
    return n;
}
