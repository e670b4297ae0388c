/*
 * A program at ring 3 that looks for a way out: far JMP, CALL, RET and IRET to selectors of every
 * kind and of none, the same selectors into every segment register, LAR, LSL, VERR and VERW on all
 * 65,536 of them, INT n for every n, SYSCALL, SYSENTER and what belongs to them, the memory of
 * every 4 MiB, and accesses that a segment's base carries across 4 GiB. Expected: what a 32-bit CPU
 * does with the guest's own tables, and nothing else: a selector, a gate or a page of whoever runs
 * this guest must not show.
 *
 * ROUNDS: 1
 * SECONDS: 60
 */
#include "guest.h"

enum { S_DATA3 = FREE_GDT, S_CODE3, S_CONFORMING, S_LONG32, S_LONG16, S_ABSENT, S_ABSENT_DATA };
enum { S_GATE = S_ABSENT_DATA + 1, S_GATE0, S_LDT, S_WRAP, S_READ_ONLY, S_EXECUTE_ONLY };
enum { LDT_ENTRIES = 4, VECTOR_IRQ = 0x20, VECTOR_IRQ_END = 0x30 };

/* Ring 3 may execute and read this page, and write scratch and its stack. Where the code lands it
 * tells whether it is 64-bit code: 48h 90h is DEC EAX and NOP, or NOP alone. */
CODE(first, ".balign 4096");
CODE(landing, ".byte 0x48, 0x90" DONE);
CODE(by_jmp, "ljmp *(%ebx)");
CODE(by_call, "lcall *(%ebx)");
CODE(by_ret, "pushl 4(%ebx); pushl (%ebx); lret");
CODE(by_iret, "pushl $2; pushl 4(%ebx); pushl (%ebx); iret");
CODE(into_ds, "mov %ecx,%ds" DONE);
CODE(into_es, "mov %ecx,%es" DONE);
CODE(into_fs, "mov %ecx,%fs" DONE);
CODE(into_gs, "mov %ecx,%gs" DONE);
CODE(into_ss, "mov %ecx,%ss" DONE);
CODE(scan, "xor %ecx,%ecx\n"
           "1: lar %ecx,%eax; sete (%ebx,%ecx)\n"
           "lsl %ecx,%eax; sete 0x10000(%ebx,%ecx)\n"
           "verr %cx; sete 0x20000(%ebx,%ecx)\n"
           "verw %cx; sete 0x30000(%ebx,%ecx)\n"
           "inc %ecx; cmp $0x10000,%ecx; jb 1b" DONE);
CODE(load, "mov (%ecx),%eax" DONE);
CODE(store, "mov %edx,(%ecx)" DONE);
CODE(fs_load, "mov %fs:(%ecx),%eax" DONE);
CODE(fs_store, "mov %edx,%fs:(%ecx)" DONE);
CODE(syscall_, "syscall" DONE);
CODE(sysret_, "sysret" DONE);
CODE(sysenter_, "mov %esp,%ecx; mov $1f,%edx; sysenter; 1:" DONE);
CODE(sysexit_, "mov %esp,%ecx; mov $1f,%edx; sysexit; 1:" DONE);
CODE(swapgs_, ".byte 0x0f,0x01,0xf8" DONE);
CODE(nested, "pushfl; orl $0x4000,(%esp); popfl; iret" DONE);
CODE(stay, "1: incl (%ebx,%ecx); add $4096,%ecx; and $0x7ffff,%ecx; jmp 1b");
CODE(last, ".balign 4096");
CODE(gate_landing, DONE);

static u64 ldt[LDT_ENTRIES] __attribute__((aligned(4096)));

/* ---- What a CPU makes of a selector ---- */

struct seen {
    u64 descriptor;
    u32 access, dpl, rpl;
    bool null, there, present, segment, code, conforming, readable, writable;
};
static struct seen look(u32 selector) {
    struct seen s = {.rpl = selector & 3, .null = !(selector & 0xfffc)};
    u32 index = selector >> 3;
    bool local = selector & 4;
    s.there = !s.null && index < (local ? LDT_ENTRIES : GDT_ENTRIES);
    if (!s.there)
        return s;
    s.descriptor = local ? ldt[index] : gdt[index];
    s.access = (u32)(s.descriptor >> 40) & 0xff;
    s.dpl = s.access >> 5 & 3;
    s.present = s.access & 0x80;
    s.segment = s.access & 0x10;
    s.code = s.segment && s.access & 8;
    s.conforming = s.code && s.access & 4;
    s.readable = s.segment && (!s.code || s.access & 2);
    s.writable = s.segment && !s.code && s.access & 2;
    return s;
}

/* A vector, or V_DONE: SDM volume 2, "JMP", "CALL", "RET", "IRET/IRETD". */
static u32 transfer_result(const u8 *how, const struct seen *s) {
    bool returns = how == by_ret || how == by_iret;
    if (!s->there)
        return V_GP;
    if (!s->segment) {
        bool gate = (s->access & 0x1f) == 0x0c && !returns;
        return gate && s->dpl == 3 && how == by_call ? V_DONE : V_GP;
    }
    if (!s->code || (returns && s->rpl < 3) || (!s->conforming && s->dpl != 3))
        return V_GP;
    return s->present ? V_DONE : V_NP;
}

/* SDM volume 2, "MOV". */
static u32 load_result(const u8 *into, const struct seen *s) {
    if (into == into_ss) {
        if (!s->there || s->rpl != 3 || !s->writable || s->dpl != 3)
            return V_GP;
        return s->present ? V_DONE : V_SS;
    }
    if (s->null)
        return V_DONE;
    if (!s->there || !s->readable || (!s->conforming && s->dpl < 3))
        return V_GP;
    return s->present ? V_DONE : V_NP;
}

/* ---- Attempts ---- */

/* As programs run: with interrupts on (all lines are masked), x87 and SSE allowed. */
static void program(void) {
    reset_run(3);
    in.eflags |= F_IF;
}

/* For far transfers: {offset, selector}, where ring 3 finds it. */
#define FAR_POINTER ((u32 *)(SCRATCH + 0x800))

static u32 segment_base(u64 d) {
    return (u32)(d >> 16 & 0xffffff) | (u32)(d >> 56 << 24);
}

static void try_transfer(const u8 *how, u32 selector) {
    struct seen s = look(selector);
    u32 expected = transfer_result(how, &s), error = expected == V_DONE ? 0 : selector & 0xfffc;
    /* A gate that is open to all leads a JMP, which cannot change the ring, to a code segment. */
    if (how == by_jmp && s.there && (s.access & 0x1f) == 0x0c && s.dpl == 3)
        error = KERNEL_CODE;
    FAR_POINTER[0] = (u32)landing - segment_base(s.segment ? s.descriptor : 0);
    FAR_POINTER[1] = selector;
    program();
    in.eax = 1;
    in.ebx = (u32)FAR_POINTER;
    FAULTS(3, how, expected, error);
    if (expected != V_DONE)
        return;
    EQ(trap.cs, s.segment ? selector | 3 : KERNEL_CODE);
    EQ(trap.eax, s.segment ? 0 : 1);
}

static void try_load(const u8 *into, u32 selector) {
    struct seen s = look(selector);
    u32 expected = load_result(into, &s);
    program();
    in.ecx = selector;
    FAULTS(3, into, expected, expected == V_DONE ? 0 : selector & 0xfffc);
    if (expected != V_DONE)
        return;
    u32 now = into == into_ds   ? trap.ds
              : into == into_es ? trap.es
              : into == into_fs ? trap.fs
              : into == into_gs ? trap.gs
                                : trap.ss;
    EQ(now & 0xffff, selector);
}

static void try_selector(u32 selector) {
    static const u8 *const ways[] = {by_jmp, by_call, by_ret, by_iret};
    static const u8 *const registers[] = {into_ds, into_es, into_fs, into_gs, into_ss};
    for (u32 i = 0; i < sizeof ways / sizeof *ways; i++)
        try_transfer(ways[i], selector);
    for (u32 i = 0; i < sizeof registers / sizeof *registers; i++)
        try_load(registers[i], selector);
}

/* Everything near the ends of the tables, and a sample of the rest. */
static void selectors(void) {
    for (u32 selector = 0; selector < FREE_GDT * 8 + 16 * 8; selector++)
        try_selector(selector);
    for (u32 selector = 0xffc0; selector < 0x10000; selector++)
        try_selector(selector);
    for (u32 selector = 0x1f8; selector < 0xffc0; selector += 0xfd1)
        try_selector(selector);
}

/* SDM volume 2, "LAR", "LSL", "VERR/VERW". Nothing of this faults, so that all are tried. */
static void scan_all(void) {
    u8 *seen = scratch + 0x40000;
    memset(seen, 2, 0x40000);
    program();
    in.ebx = (u32)seen;
    RUNS(3, scan);
    for (u32 selector = 0; selector < 0x10000; selector++) {
        struct seen s = look(selector);
        u32 type = s.access & 0x1f;
        bool open = s.there && (s.conforming || (s.dpl == 3));
        bool lar = s.segment || type == 2 || type == 9 || type == 11 || type == 12;
        bool lsl = s.segment || type == 2 || type == 9 || type == 11;
        bool right = seen[selector] == (open && lar) && seen[0x10000 + selector] == (open && lsl) &&
                     seen[0x20000 + selector] == (open && s.readable) &&
                     seen[0x30000 + selector] == (open && s.writable);
        if (!right)
            EQ(selector, 0);
    }
}

/* Gates as the library makes them, then all of them open to ring 3. */
static void interrupts(void) {
    u8 *code = scratch;
    code[0] = 0xcd;
    code[2] = 0xcd, code[3] = V_DONE;
    for (u32 n = 0; n < 256; n++) {
        bool open = n == V_BP || n == V_OF || n == V_DONE;
        code[1] = (u8)n;
        program();
        FAULTS(3, code, open ? n : V_GP, open ? 0 : n * 8 + 2);
        EQ(trap.eip, open ? code + 2 : code);
        if (n >= VECTOR_IRQ && n < VECTOR_IRQ_END)
            continue;
        idt_set(n, gate((u32)trap_stubs + 16 * n, KERNEL_CODE, 0xee));
        bool error_code = n == 8 || (n >= 10 && n <= 14) || n == 17 || n == 21;
        program();
        u32 vector = run(3, code);
        if (!error_code) { /* INT n pushes no error code: those stubs take EIP for one */
            EQ(vector, n);
            EQ(trap.eip, code + 2);
        }
        idt_set(n, default_gate(n));
    }
}

static void fast_calls(void) {
    static const struct {
        const u8 *code;
        u32 vector;
    } ways[] = {
        {syscall_, V_UD},  {sysret_, V_UD},  {swapgs_, V_UD},
        {sysenter_, V_GP}, {sysexit_, V_GP}, {nested, V_TS}, /* no task to go back to */
    };
    wrmsr(0x174, 0);
    tss.link = 0;
    for (u32 i = 0; i < sizeof ways / sizeof *ways; i++) {
        program();
        FAULTS(3, ways[i].code, ways[i].vector, 0);
    }
    FAULTS(0, nested, V_TS, 0);
}

/* ---- Memory ---- */

static void try_address(u32 address) {
    u32 entry = *pde(address) & PT_P ? *pte(address) : 0;
    u32 error = 4 | (entry & PT_P);
    if ((entry & (PT_P | PT_U)) == (PT_P | PT_U))
        return;
    program();
    in.ecx = address;
    FAULTS(3, load, V_PF, error);
    EQ(trap_cr2, address);
    program();
    in.ecx = address;
    FAULTS(3, store, V_PF, error | 2);
    EQ(trap_cr2, address);
}

static void memory(void) {
    for (u32 i = 0; i < 1024; i++) {
        try_address(i << 22);
        if (i % 8 == 7)
            try_address((i << 22) + 0x3ff000);
    }
    for (u32 address = 0; address < 2 << 20; address += 4096)
        try_address(address);
}

/* A base just below 4 GiB: offsets from 1000h on are linear addresses from 0 on. */
static void wrap(void) {
    static u8 low[4096] __attribute__((aligned(4096)));
    u16 selector = (u16)(S_WRAP << 3 | 3);
    u32 zero = *pte(0);
    map(0xfffff000, SCRATCH, PT_P | PT_W | PT_U);
    *(u32 *)(scratch + 0xffc) = 0x44332211;
    *(u32 *)low = 0x88776655;
    for (u32 user = 0; user < 2; user++) {
        map(0, (u32)low, PT_P | PT_W | (user ? PT_U : 0));
        for (u32 offset = 0xffc; offset <= 0x1004; offset++) {
            bool above = offset > 0xffc; /* some of it is in page 0 */
            u32 bytes = offset - 0xffc, expected = 0x44332211;
            if (bytes >= 4)
                memcpy(&expected, low + bytes - 4, 4);
            else if (bytes)
                expected = 0x44332211u >> 8 * bytes | 0x88776655u << (32 - 8 * bytes);
            program();
            in.fs = selector;
            in.ecx = offset;
            EQ(run(3, fs_load), above && !user ? V_PF : V_DONE);
            if (trap.vector == V_DONE)
                EQ(trap.eax, expected);
            else
                EQ(trap_cr2, bytes < 4 ? 0 : bytes - 4);
            program();
            in.fs = selector;
            in.ecx = offset;
            in.edx = expected;
            EQ(run(3, fs_store), above && !user ? V_PF : V_DONE);
        }
    }
    EQ(*(u32 *)(scratch + 0xffc), 0x44332211);
    EQ(*(u32 *)low, 0x88776655);
    map(0xfffff000, 0, 0);
    *pte(0) = zero;
    invlpg(0);
}

/* ---- The tables ---- */

/* Descriptors that a monitor may let ring 3 use as they are. */
static void plain_tables(void) {
    gdt_set(S_DATA3, descriptor(0, 0xfffff, 0xf3, 0xc));
    gdt_set(S_CODE3, descriptor(0, 0xfffff, 0xfb, 0xc));
    gdt_set(S_CONFORMING, descriptor(0, 0xfffff, 0x9f, 0xc));
    gdt_set(S_GATE0, gate((u32)gate_landing, KERNEL_CODE, 0x8c));
    gdt_set(S_LDT, descriptor((u32)ldt, sizeof ldt - 1, 0x82, 0));
    gdt_set(S_WRAP, descriptor(0xfffff000, 0xfffff, 0xf3, 0xc));
    gdt_set(S_READ_ONLY, descriptor(0, 0xfffff, 0xf1, 0xc));
    gdt_set(S_EXECUTE_ONLY, descriptor(0, 0xfffff, 0xf9, 0xc));
    ldt[1] = descriptor(0, 0xfffff, 0xf3, 0xc);
    ldt[2] = descriptor(0, 0xfffff, 0xfb, 0xc);
    __asm__ volatile("lldt %w0" ::"r"(S_LDT << 3));
}

/* Descriptors that mean something else to a 64-bit CPU, or that it would write to. */
static void odd_tables(void) {
    gdt_set(S_LONG32, descriptor(0, 0xfffff, 0xfb, 0xe)); /* L: reserved on a 32-bit CPU */
    gdt_set(S_LONG16, descriptor((u32)landing & ~0xfffu, 0xfffff, 0xfb, 0xa));
    gdt_set(S_ABSENT, descriptor(0, 0xfffff, 0x7b, 0xc));
    gdt_set(S_ABSENT_DATA, descriptor(0, 0xfffff, 0x73, 0xc));
    gdt_set(S_GATE, gate((u32)gate_landing, KERNEL_CODE, 0xec));
}

/* The kernel's memory after all that: every byte that is not scratch, stack or table. */
static u32 sum_of_text(void) {
    u32 sum = 0;
    for (const u8 *p = (const u8 *)0x100000; p < last; p++)
        sum = sum * 31 + *p;
    return sum;
}

static void work_in_kernel(u32 line, struct frame *f) {
    static volatile u32 work[1024];
    for (u32 i = 0; i < 20000; i++)
        work[i % 1024] += i;
}

static void linger(void) {
    irq_hook = work_in_kernel;
    pic_init(0xfffe);
    pit_start(50);
    program();
    in.ebx = SCRATCH;
    run(3, stay);
}

void test(void) {
    plain_tables();
    paging_prepare();
    pte(0xfffff000);
    for (u32 address = 0; address < 32 << 20; address += 4096) {
        bool own = (address >= SCRATCH && address < SCRATCH + sizeof scratch) ||
                   (address >= (u32)user_stack && address < USER_STACK_TOP);
        if (address >= (u32)first && address < (u32)last)
            *pte(address) &= ~(u32)PT_W;
        else if (!own)
            *pte(address) &= ~(u32)PT_U;
    }
    u32 cr4 = read_cr4();
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    write_cr0(read_cr0() | CR0_WP);
    u32 before = sum_of_text();
    paging_on();
    if (option("linger", 0))
        linger();
    selectors();
    scan_all();
    interrupts();
    fast_calls();
    memory();
    wrap();
    odd_tables();
    selectors();
    scan_all();
    paging_off();
    write_cr4(cr4);
    EQ(sum_of_text(), before);
    __asm__ volatile("lldt %w0" ::"r"(0));
    for (u32 i = FREE_GDT; i < GDT_ENTRIES; i++)
        gdt[i] = 0;
}
