/*
 * lib.c: traps, runs, checks and console of the guest tests.
 *
 * One idea: a run ends in a trap, and the trap's frame is the result.
 */
#include "guest.h"

extern u32 boot_magic, boot_info;
void run_enter(u32 entry, u32 ring);
_Noreturn void run_leave(void);
_Noreturn void guest_main(void);
void trap_entry(struct frame *f);

struct frame trap;
u32 trap_cr2;
bool (*trap_hook)(struct frame *f);
void (*irq_hook)(u32 line, struct frame *f);

struct run_in in;
/* start.S reaches the fields by name. */
#define FIELD(name)                                                                                \
    __asm__(".globl run_in_" #name "\n.set run_in_" #name                                          \
            ", in + %c0" ::"i"(offsetof(struct run_in, name)))
static bool running;
static u32 failures;

u8 scratch[1 << 20] __attribute__((aligned(4096)));
u8 user_stack[16384] __attribute__((aligned(4096)));

/* ---- Console ---- */

void put_char(char c) {
    while (!(inb(0x3fd) & 0x20)) {
    }
    outb(0x3f8, (u8)c);
}

void print(const char *text) {
    for (; *text; text++)
        put_char(*text);
}

void print_hex(u32 value) {
    for (int shift = 28; shift >= 0; shift -= 4)
        put_char("0123456789abcdef"[value >> shift & 15]);
}

void print_dec(u32 value) {
    if (value >= 10)
        print_dec(value / 10);
    put_char((char)('0' + value % 10));
}

_Noreturn void finish(u32 value) {
    outl(0xf4, value);
    print("no isa-debug-exit device\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void skip(const char *why) {
    print("skipped: ");
    print(why);
    print("\n");
    finish(0x13);
}

const char *command_line(void) {
    const u32 *info = (const u32 *)boot_info;
    if (boot_magic != 0x2badb002 || !(info[0] & 4))
        return "";
    return (const char *)info[4];
}

u32 memory_bytes(void) {
    const u32 *info = (const u32 *)boot_info;
    if (boot_magic != 0x2badb002 || !(info[0] & 1))
        return 0;
    return (info[2] + 1024) * 1024;
}

u32 option(const char *name, u32 fallback) {
    for (const char *p = command_line(); *p; p++) {
        const char *q = p, *n = name;
        while (*n && *q == *n)
            q++, n++;
        if (*n || *q != '=')
            continue;
        u32 value = 0;
        for (q++; *q >= '0' && *q <= '9'; q++)
            value = value * 10 + (u32)(*q - '0');
        return value;
    }
    return fallback;
}

struct cpuid cpuid(u32 leaf) {
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(0));
    return r;
}

bool is_tcg(void) {
    if (!(cpuid(1).ecx & 0x80000000u))
        return false;
    return cpuid(0x40000000).ebx == 0x54474354; /* "TCGT" */
}

bool fpu_is_tcg(void) {
    return is_tcg() || option("carrier_tcg", 0);
}

/* ---- Checks ---- */

static void failed(const char *file, int line) {
    const char *name = file;
    for (const char *p = file; *p; p++)
        if (*p == '/')
            name = p + 1;
    failures++;
    print("FAIL ");
    print(name);
    print(":");
    print_dec((u32)line);
    print(": ");
}

static void limit_failures(void) {
    if (failures >= 20) {
        print("too many failures\n");
        finish(0x11);
    }
}

void check(bool ok, const char *file, int line, const char *what) {
    if (ok)
        return;
    failed(file, line);
    print(what);
    print("\n");
    limit_failures();
}

void check_eq(u32 actual, u32 expected, const char *file, int line, const char *what) {
    if (actual == expected)
        return;
    failed(file, line);
    print(what);
    print(" is ");
    print_hex(actual);
    print(", expected ");
    print_hex(expected);
    print(" (last trap: vector ");
    print_hex(trap.vector);
    print(" error ");
    print_hex(trap.error);
    print(" eip ");
    print_hex(trap.eip);
    print(" cr2 ");
    print_hex(trap_cr2);
    print(")\n");
    limit_failures();
}

/* ---- Traps and runs ---- */

static void dump(const struct frame *f) {
    const u32 *word = (const u32 *)f;
    static const char *const names[] = {"gs",  "fs",  "es",     "ds",  "edi", "esi",    "ebp",
                                        "-",   "ebx", "edx",    "ecx", "eax", "vector", "error",
                                        "eip", "cs",  "eflags", "esp", "ss"};
    for (u32 i = 0; i < sizeof names / sizeof names[0]; i++) {
        print(names[i]);
        print("=");
        print_hex(word[i]);
        print(i % 6 == 5 ? "\n" : " ");
    }
    print("cr2=");
    print_hex(read_cr2());
    print("\n");
}

static void acknowledge(u32 line) {
    if (line >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

void trap_entry(struct frame *f) {
    if (f->vector >= 0x20 && f->vector < 0x30) {
        acknowledge(f->vector - 0x20);
        if (irq_hook)
            irq_hook(f->vector - 0x20, f);
        return;
    }
    u32 cr2 = read_cr2();
    if (trap_hook && trap_hook(f))
        return;
    if (!running) {
        print("a trap nobody expected:\n");
        dump(f);
        finish(0x12);
    }
    running = false;
    bool from_user = (f->cs & 3) || (f->eflags & F_VM);
    memcpy(&trap, f, from_user ? sizeof trap : offsetof(struct frame, esp));
    if (!from_user) {
        trap.esp = (u32)&f->esp;
        trap.ss = KERNEL_DATA;
    }
    trap_cr2 = cr2;
    run_leave();
}

static u32 user_eflags = F_FIXED;

void reset_run(u32 ring) {
    u32 data = ring ? USER_DATA : KERNEL_DATA;
    in = (struct run_in){.eflags = ring ? user_eflags : F_FIXED,
                         .cs = USER_CODE,
                         .esp = ring ? USER_STACK_TOP : 0,
                         .ss = data,
                         .ds = data,
                         .es = data,
                         .fs = data,
                         .gs = data};
}

u32 run(u32 ring, const void *code) {
    if (!in.eflags)
        reset_run(ring);
    running = true;
    run_enter((u32)code, ring);
    in.eflags = 0;
    return trap.vector;
}

_Noreturn void guest_main(void) {
    FIELD(eax);
    FIELD(ecx);
    FIELD(edx);
    FIELD(ebx);
    FIELD(ebp);
    FIELD(esi);
    FIELD(edi);
    FIELD(esp);
    FIELD(eflags);
    FIELD(cs);
    FIELD(ss);
    FIELD(ds);
    FIELD(es);
    FIELD(fs);
    FIELD(gs);
    outb(0x3f9, 0); /* the serial line polls */
    void machine_init(void);
    machine_init();
    u32 rounds = option("rounds", 3);
    if (option("paged", 0)) { /* as applications of a real kernel run */
        paging_prepare();
        paging_on();
        write_cr4(read_cr4() | CR4_OSFXSR);
        user_eflags = F_FIXED | F_IF;
    }
    for (u32 round = 0; round < rounds && !failures; round++)
        test();
    print(failures ? "failed\n" : "passed\n");
    finish(failures ? 0x11 : 0x10);
}

/* ---- What the compiler calls ---- */

void *memset(void *to, int value, size_t bytes) {
    void *p = to;
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t bytes) {
    void *p = to;
    __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(bytes)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes) {
    const u8 *x = a, *y = b;
    for (; bytes; bytes--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
