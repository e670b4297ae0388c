/*
 * nano.c: the nanobenchmarks: what privileged operations cost, one at a time: a Multiboot kernel
 * like the guest tests, and built with their library. Every row repeats one operation between two
 * readings of the TSC. `ringfold study` runs it under every engine of the host; bench/metal with
 * and without the bootable image, where the TSC counts instructions. The rows that Adams and Agesen
 * published ("A Comparison of Software and Hardware Techniques for x86 Virtualization", ASPLOS
 * 2006, section 6.3 "Nanobenchmarks") are among them.
 *
 * The memory map is that of a small system: the kernel in supervisor pages, global and mapped
 * alike in every address space; applications and their data in user pages 1 GiB further up.
 * Kernel command line: rounds=1 rows=NAME,NAME... (default: all) batches=N; for the timer rows
 * busy=N (repetitions of their loop) and tries=N (of which the least counts, for on a shared host
 * there are other interruptions, too). Output, after one batch of warm-up:
 *
 *     row NAME TICKS/OPERATIONS TICKS/OPERATIONS ...
 *
 * or, with total=1, one pair: 1 and the sum of all operations. Printing has exits, too: whoever
 * counts those of N and of M batches wants as many characters from both.
 */
#include "guest.h"

enum { MSR_CS = 0x174, MSR_ESP, MSR_EIP };
enum { V_END = 0x81, V_SWITCH = 0x82, V_TIMER = 0x20 }; /* beside INT 80h */
enum { CODE_BASE = 0x40000000, STACK_BASE = 0x40010000, DATA_BASE = 0x50000000 };
enum { DATA_TABLES = 4, DATA_PAGES = DATA_TABLES * 1024, DATA_FRAMES = 32 << 20 };
enum { KMAP_ADDRESS = 0x01fff000 }; /* the last page of the identity mapping */
enum { MAX_BATCHES = 8, SPACES = 64, PAGE = 4096, TIMER_HZ = 1000 };
enum { USER_PAGE = PT_P | PT_W | PT_U | PT_A | PT_D, KERNEL_PAGE = PT_P | PT_W | PT_A | PT_D };

/* ---- The operations ---- */

/* EDI = repetitions; EBX, ECX and EBP are the row's own, EAX and EDX free. */
#define TIMED(body)                                                                                \
    "rdtsc; mov %eax,%esi\n.balign 16\n1:" body "\ndec %edi; jnz 1b; rdtsc; sub %esi,%eax;"
#define RING0(name, body) CODE(name, TIMED(body) "ret")
#define RING3(name, body)                                                                          \
    __asm__(".pushsection .text.user,\"ax\"\n.globl " #name "\n" #name                             \
            ":\n" TIMED(body) "int $0x81\n.popsection");                                           \
    extern const u8 name[]
#define TEN(text) "\n.rept 10\n" text "\n.endr\n"

__asm__(".pushsection .text.user,\"ax\"\n.balign 4096\nuser_start:\n.popsection");
extern const u8 user_start[], user_back[];
RING3(user_loop, "");
RING3(user_int80, "int $0x80");
RING3(user_sysenter, "mov %esp,%ecx; mov %ebx,%edx; sysenter; .globl user_back; user_back:");
RING3(user_touch_fourth, "mov %eax,(%ebx); add $0x4000,%ebx");
RING3(user_touch_each, "mov %eax,(%ebx); add $0x1000,%ebx");
RING3(user_switch, "int $0x82; mov %eax,(%ebx); mov %eax,0x1000(%ebx); mov %eax,0x2000(%ebx);"
                   "mov %eax,0x3000(%ebx)");
RING0(kernel_loop, "");
RING0(kernel_pt_write, "xor $0x1000,%ecx; mov %ecx,(%ebx)");
RING0(kernel_pt_write_invlpg, "xor $0x1000,%ecx; mov %ecx,(%ebx); invlpg (%ebp)");
RING0(kernel_kmap, "xor $0x1000,%ecx; mov %ecx,(%ebx); invlpg (%ebp); movl $1,(%ebp)");
RING0(kernel_store, "mov %ecx,(%ebx)");
RING0(kernel_cli_sti, TEN("cli; sti") "cli");
RING0(kernel_pushf_popf, TEN("pushf; popf"));
RING0(kernel_in, "in $0x21,%al");
RING0(kernel_out, "out %al,$0x80");
RING0(kernel_write_cr0, "mov %ebx,%cr0");
RING0(kernel_write_cr3, "mov %ebx,%cr3");
RING0(kernel_write_cr4, "mov %ebx,%cr4");
RING0(kernel_invlpg, "invlpg (%ebp)");
RING0(kernel_iret, "pushf; push %cs; push $2f; iret; 2:");
RING0(kernel_cpuid, "xor %eax,%eax; cpuid");
RING0(kernel_pt_map, "mov %ecx,(%ebx); mov (%ebp),%eax; movl $0,(%ebx); invlpg (%ebp)");
RING0(kernel_pt_protect, "xor $2,%ecx; mov %ecx,(%ebx); invlpg (%ebp); mov (%ebp),%eax");
RING3(user_divide, "xor %ecx,%ecx; div %ecx");
RING3(user_rdtsc, TEN("rdtsc"));
RING0(kernel_rdtsc, TEN("rdtsc"));
RING0(kernel_mov_cr0, TEN("mov %cr0,%eax"));
RING0(kernel_call, TEN("call call_target"));
RING0(kernel_call_indirect, "\n.rept 5\ncall *%ebx; call *%ecx\n.endr\n");
CODE(call_target, "ret; .balign 16; .globl call_target2; call_target2: ret");
extern const u8 call_target2[];
/* Code and data in one page, as hand-written assembly has it. */
__asm__(".pushsection .text.mixed,\"ax\"\n.balign 4096\n.globl mixed_code, mixed_data\n"
        "mixed_code: ret\n.balign 64\nmixed_data: .long 0\n.balign 4096\n.popsection");
extern const u8 mixed_code[], mixed_data[];

/* ---- Handlers, as short as can be ---- */

CODE(handle_int80, "iret");
CODE(handle_sysenter, "sti; sysexit");
CODE(handle_switch, "push %eax; mov %cr3,%eax; xor space_difference,%eax; mov %eax,%cr3; pop %eax;"
                    "iret");
CODE(handle_divide, "addl $2,(%esp); iret"); /* over the DIV */
CODE(handle_timer, "push %eax; incl ticks; mov $0x20,%al; out %al,$0x20; pop %eax; iret");
/* Makes the page of CR2 present: its table is fault_table, its frame at the same offset. */
CODE(handle_fault, "push %eax; push %edx; mov %cr2,%eax; mov %eax,%edx; shr $12,%edx;"
                   "and $0x3ff,%edx; and $0x3ff000,%eax; add $0x02000067,%eax;"
                   "shl $2,%edx; add fault_table,%edx; mov %eax,(%edx); pop %edx; pop %eax;"
                   "add $4,%esp; iret");
_Static_assert(DATA_FRAMES + USER_PAGE == 0x02000067, "as in handle_fault");
u32 space_difference, fault_table, sysenter_stack[256];
volatile u32 ticks;

/* ---- Address spaces ---- */

struct space {
    u32 directory[1024], data[DATA_TABLES][1024];
};
static struct space spaces[SPACES] __attribute__((aligned(4096)));
static u32 spaces_used, user_table[1024] __attribute__((aligned(4096)));

static u32 user_address(const u8 *code) {
    return CODE_BASE + (u32)(code - user_start);
}

static u32 cr3_of(const struct space *s) {
    return (u32)s->directory;
}

/* One that was never in force. Its data pages are present or not, but for that all the same. */
static struct space *new_space(bool present) {
    if (spaces_used == SPACES) {
        print("out of address spaces\n");
        finish(0x12);
    }
    struct space *s = &spaces[spaces_used++];
    memcpy(s->directory, page_directory, sizeof s->directory);
    for (u32 i = 0; i < DATA_TABLES; i++)
        s->directory[(DATA_BASE >> 22) + i] = (u32)s->data[i] | USER_PAGE;
    for (u32 i = 0; present && i < DATA_PAGES; i++)
        s->data[i / 1024][i % 1024] = (DATA_FRAMES + i * PAGE) | USER_PAGE;
    return s;
}

static void prepare_memory(void) {
    bool global = cpuid(1).edx & 1 << 13;
    paging_prepare();
    for (u32 address = 0; address < 32 << 20; address += PAGE)
        *pte(address) = address | KERNEL_PAGE | (global ? PT_G : 0);
    for (u32 i = 0; i < 8; i++)
        *pde(i << 22) = (*pde(i << 22) & ~0xfffu) | KERNEL_PAGE;
    *pte(KMAP_ADDRESS) &= ~(u32)PT_G;
    *pde(CODE_BASE) = (u32)user_table | USER_PAGE;
    map(CODE_BASE, (u32)user_start, USER_PAGE);
    map(STACK_BASE, (u32)user_stack, USER_PAGE);
    if (global)
        write_cr4(read_cr4() | CR4_PGE);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
}

/* As Linux has them: a GDT of 32 entries, FXSAVE and SSE for applications. */
static void prepare_processor(void) {
    const struct {
        u16 limit;
        u64 *base;
    } __attribute__((packed)) gdtr = {32 * sizeof gdt[0] - 1, gdt};
    __asm__ volatile("lgdt %0" ::"m"(gdtr));
    if (cpuid(1).edx & 1 << 24)
        write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
}

/* ---- Running them ---- */

struct arguments {
    u32 ebx, ecx, ebp;
};

static u32 time_ring0(const u8 *code, u32 n, struct arguments a) {
    u32 passed;
    __asm__ volatile("push %%ebp; mov %[ebp],%%ebp; call *%%eax; pop %%ebp"
                     : "=a"(passed), "+D"(n), "+b"(a.ebx), "+c"(a.ecx)
                     : "0"(code), [ebp] "d"(a.ebp)
                     : "esi", "memory", "cc");
    return passed;
}

static u32 time_ring3(const u8 *code, u32 n, u32 ebx) {
    reset_run(3);
    in.eflags |= F_IF;
    in.edi = n;
    in.ebx = ebx;
    in.esp = STACK_BASE + PAGE;
    EQ(run(3, (const void *)user_address(code)), V_END);
    return trap.eax;
}

/* One batch of a row: its ticks, and how many operations they were for. */
struct result {
    u32 ticks, operations;
};
struct row {
    const char *name;
    struct result (*batch)(const struct row *row);
    u32 repetitions, per_repetition;
    const u8 *code;
    struct arguments arguments;
};

static struct result result_of(const struct row *row, u32 passed) {
    return (struct result){passed, row->repetitions * row->per_repetition};
}

static struct result in_ring0(const struct row *row) {
    return result_of(row, time_ring0(row->code, row->repetitions, row->arguments));
}

static struct result in_ring3(const struct row *row) {
    return result_of(row, time_ring3(row->code, row->repetitions, row->arguments.ebx));
}

static struct result in_ring3_after_sysenter(const struct row *row) {
    return result_of(row, time_ring3(row->code, row->repetitions, user_address(user_back)));
}

static struct result in_fresh_space(const struct row *row) {
    write_cr3(cr3_of(new_space(true)));
    u32 passed = time_ring3(row->code, row->repetitions, DATA_BASE);
    write_cr3((u32)page_directory);
    return result_of(row, passed);
}

static struct result in_empty_space(const struct row *row) {
    struct space *s = new_space(false);
    fault_table = (u32)s->data[0];
    write_cr3(cr3_of(s));
    idt_set(V_PF, gate((u32)handle_fault, KERNEL_CODE, 0x8e));
    u32 passed = time_ring3(row->code, row->repetitions, DATA_BASE);
    idt_set(V_PF, default_gate(V_PF));
    write_cr3((u32)page_directory);
    return result_of(row, passed);
}

static struct result in_two_spaces(const struct row *row) {
    static struct space *a, *b;
    if (!a) {
        a = new_space(true);
        b = new_space(true);
        space_difference = cr3_of(a) ^ cr3_of(b);
    }
    write_cr3(cr3_of(a));
    u32 passed = time_ring3(row->code, row->repetitions, DATA_BASE);
    write_cr3((u32)page_directory);
    return result_of(row, passed);
}

static struct result on_mixed_page(const struct row *row) {
    for (u32 i = 0; i < 100; i++)
        __asm__ volatile("call *%0" ::"r"(mixed_code) : "memory");
    return in_ring0(row);
}

static u32 busy(const struct row *row, bool user) {
    if (user)
        return time_ring3(row->code, row->repetitions, 0);
    __asm__ volatile("sti");
    u32 passed = time_ring0(row->code, row->repetitions, row->arguments);
    __asm__ volatile("cli");
    return passed;
}

static struct result busy_with_timer(const struct row *row, bool user) {
    ticks = 0;
    pic_init(0xfffe);
    pit_start(TIMER_HZ);
    u32 passed = busy(row, user);
    pit_stop();
    return (struct result){passed, ticks};
}

/* The same busy loop without and with the timer. 0 ticks: the loop alone was disturbed more. */
static struct result with_timer(const struct row *row, bool user) {
    struct row loop = *row;
    struct result least = {~0u, 1};
    u32 alone = ~0u, tries = option("tries", 1);
    loop.repetitions = option("busy", row->repetitions);
    for (u32 i = 0; i < tries; i++) {
        u32 passed = busy(&loop, user);
        alone = passed < alone ? passed : alone;
    }
    for (u32 i = 0; i < tries; i++) {
        struct result r = busy_with_timer(&loop, user);
        r.ticks = r.ticks > alone ? r.ticks - alone : 0;
        if ((u64)r.ticks * least.operations < (u64)least.ticks * r.operations)
            least = r;
    }
    return least;
}
static struct result with_timer_in_ring0(const struct row *row) {
    return with_timer(row, false);
}
static struct result with_timer_in_ring3(const struct row *row) {
    return with_timer(row, true);
}

static struct result after_division(const struct row *row) {
    idt_set(V_DE, gate((u32)handle_divide, KERNEL_CODE, 0x8e));
    struct result result = in_ring3(row);
    idt_set(V_DE, default_gate(V_DE));
    return result;
}

static struct result with_cr(const struct row *row) {
    struct row with = *row;
    with.arguments.ebx = row->code == kernel_write_cr0   ? read_cr0()
                         : row->code == kernel_write_cr3 ? read_cr3()
                                                         : read_cr4();
    return in_ring0(&with);
}

/* ---- Waking up from HLT ---- */

enum { SHORT_COUNT = 1193, LONG_COUNT = 10 * SHORT_COUNT }; /* of the PIT: 1 ms, 10 ms */

/* TSC ticks from programming a one-shot to the instruction after HLT. */
static u32 sleep_for(u32 count) {
    u64 start, end;
    ticks = 0;
    __asm__ volatile("rdtsc" : "=A"(start)::"memory");
    outb(0x43, 0x30); /* mode 0: the output rises when the count is over */
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
    while (!ticks)
        __asm__ volatile("sti; hlt; cli" ::: "memory");
    __asm__ volatile("rdtsc" : "=A"(end)::"memory");
    return (u32)(end - start);
}

/* The least that either sleep took in any batch: what disturbs only makes them longer. */
static u32 least_short = ~0u, least_long = ~0u;

static u32 sleep_both(const struct row *row) {
    u32 least = ~0u;
    pic_init(0xfffe);
    for (u32 i = 0; i < row->repetitions; i++) {
        u32 a = sleep_for(SHORT_COUNT), b = sleep_for(LONG_COUNT);
        least = a < least ? a : least;
        least_long = b < least_long ? b : least_long;
    }
    pit_stop();
    least_short = least < least_short ? least : least_short;
    return least;
}

/* What is left of a sleep when its own time is taken off, which the long one tells. */
static struct result wake_up(const struct row *row) {
    u32 least = sleep_both(row);
    u32 per_short = (least_long - least_short) / ((LONG_COUNT - SHORT_COUNT) / SHORT_COUNT);
    return (struct result){least > per_short ? least - per_short : 0, 1};
}

/* TSC ticks in one of the PIT's, 1/1,193,182 s: for whoever knows how fast the host's TSC is. */
static struct result compare_clocks(const struct row *row) {
    sleep_both(row);
    return (struct result){least_long - least_short, LONG_COUNT - SHORT_COUNT};
}

/* ---- A new process ---- */

/* What fork does to page tables: every entry copied, both copies write-protected, then one flush.
 */
static struct result like_fork(const struct row *row) {
    struct space *parent = new_space(true), *child = new_space(false);
    u64 start, end;
    write_cr3(cr3_of(parent));
    __asm__ volatile("rdtsc" : "=A"(start)::"memory");
    for (u32 t = 0; t < DATA_TABLES; t++)
        for (u32 i = 0; i < 1024; i++) {
            u32 entry = parent->data[t][i] & ~(u32)PT_W;
            *(volatile u32 *)&parent->data[t][i] = entry;
            *(volatile u32 *)&child->data[t][i] = entry;
        }
    write_cr3(cr3_of(parent));
    __asm__ volatile("rdtsc" : "=A"(end)::"memory");
    write_cr3((u32)page_directory);
    return (struct result){(u32)(end - start), row->repetitions};
}

/* ---- The rows ---- */

/* Whether rows= on the command line, if there, names it. */
static bool wanted(const char *name) {
    const char *list = NULL;
    for (const char *p = command_line(); *p; p++)
        if (p[0] == 'r' && p[1] == 'o' && p[2] == 'w' && p[3] == 's' && p[4] == '=')
            list = p + 5;
    for (const char *p = list; p && *p && *p != ' ';) {
        const char *q = p, *n = name;
        while (*n && *q == *n)
            q++, n++;
        if (!*n && (*q == ',' || *q == ' ' || !*q))
            return true;
        while (*p && *p != ' ' && *p++ != ',')
            ;
    }
    return !list;
}

static void print_result(struct result result) {
    print(" ");
    print_dec(result.ticks);
    print("/");
    print_dec(result.operations);
}

static void run_row(const struct row *row, u32 batches, bool total) {
    struct result result[MAX_BATCHES], sum = {1, 0};
    row->batch(row);
    for (u32 i = 0; i < batches; i++) {
        result[i] = row->batch(row);
        sum.operations += result[i].operations;
    }
    print("row ");
    print(row->name);
    if (total)
        print_result(sum);
    for (u32 i = 0; i < batches && !total; i++)
        print_result(result[i]);
    print("\n");
}

static void prepare_handlers(void) {
    idt_set(0x80, gate((u32)handle_int80, KERNEL_CODE, 0xee));
    idt_set(V_SWITCH, gate((u32)handle_switch, KERNEL_CODE, 0xee));
    idt_set(V_TIMER, gate((u32)handle_timer, KERNEL_CODE, 0x8e));
    u64 end = default_gate(V_END);
    idt_set(V_END, end | 0x60ull << 40); /* DPL 3 */
    wrmsr(MSR_CS, KERNEL_CODE);
    wrmsr(MSR_ESP, (u32)(sysenter_stack + 256));
    wrmsr(MSR_EIP, (u32)handle_sysenter);
}

void test(void) {
    prepare_memory();
    prepare_processor();
    prepare_handlers();
    struct arguments kmap = {(u32)pte(KMAP_ADDRESS), DATA_FRAMES | KERNEL_PAGE, KMAP_ADDRESS};
    const struct row rows[] = {
        {"loop_user", in_ring3, 100000, 1, user_loop, {0}},
        {"loop_kernel", in_ring0, 100000, 1, kernel_loop, {0}},
        {"int80", in_ring3, 1000, 1, user_int80, {0}},
        {"sysenter", in_ring3_after_sysenter, 1000, 1, user_sysenter, {0}},
        {"hidden_fault", in_fresh_space, 1000, 1, user_touch_fourth, {0}},
        {"hidden_fault_seq", in_fresh_space, 4000, 1, user_touch_each, {0}},
        {"true_fault", in_empty_space, 1000, 1, user_touch_each, {0}},
        {"pt_write", in_ring0, 1000, 1, kernel_pt_write, kmap},
        {"pt_write_invlpg", in_ring0, 1000, 1, kernel_pt_write_invlpg, kmap},
        {"kmap", in_ring0, 1000, 1, kernel_kmap, kmap},
        {"code_page_store", on_mixed_page, 1000, 1, kernel_store, {(u32)mixed_data, 1, 0}},
        {"timer_user", with_timer_in_ring3, 5000000, 1, user_loop, {0}},
        {"timer_kernel", with_timer_in_ring0, 5000000, 1, kernel_loop, {0}},
        {"cli_sti", in_ring0, 100, 10, kernel_cli_sti, {0}},
        {"pushf_popf", in_ring0, 100, 10, kernel_pushf_popf, {0}},
        {"context_switch", in_two_spaces, 1000, 1, user_switch, {0}},
        {"in_port", in_ring0, 1000, 1, kernel_in, {0}},
        {"rdtsc", in_ring0, 100, 10, kernel_rdtsc, {0}},
        {"mov_cr0", in_ring0, 100, 10, kernel_mov_cr0, {0}},
        {"call_ret", in_ring0, 100, 10, kernel_call, {0}},
        {"call_indirect",
         in_ring0,
         100,
         10,
         kernel_call_indirect,
         {(u32)call_target, (u32)call_target2, 0}},
        {"out_port", in_ring0, 1000, 1, kernel_out, {0}},
        {"write_cr0", with_cr, 1000, 1, kernel_write_cr0, {0}},
        {"write_cr3", with_cr, 1000, 1, kernel_write_cr3, {0}},
        {"write_cr4", with_cr, 1000, 1, kernel_write_cr4, {0}},
        {"invlpg", in_ring0, 1000, 1, kernel_invlpg, kmap},
        {"iret", in_ring0, 1000, 1, kernel_iret, {0}},
        {"cpuid", in_ring0, 1000, 1, kernel_cpuid, {0}},
        {"div_zero", after_division, 1000, 1, user_divide, {0}},
        {"pt_map", in_ring0, 1000, 1, kernel_pt_map, kmap},
        {"pt_protect", in_ring0, 1000, 1, kernel_pt_protect, kmap},
        {"rdtsc_user", in_ring3, 100, 10, user_rdtsc, {0}},
        {"hlt_wake", wake_up, 3, 1, NULL, {0}},
        {"clock", compare_clocks, 3, 1, NULL, {0}},
        {"fork_page", like_fork, DATA_PAGES, 1, NULL, {0}},
    };
    u32 batches = option("batches", 5);
    if (batches > MAX_BATCHES)
        batches = MAX_BATCHES;
    for (u32 i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (wanted(rows[i].name))
            run_row(&rows[i], batches, option("total", 0));
    print("rows end\n");
}
