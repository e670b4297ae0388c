/*
 * shell.c: a guest kernel with a prompt on COM1. It shows the monitor's parts at work where no
 * Debian kernel can be had: ring 0 code, interrupts, the timer, paging, ring 3, ACPI.
 */
#include "shell.h"

enum { LINE_BYTES = 128, QUEUE_BYTES = 65536, COM1 = 0x3f8, HZ = 100 };

static volatile u8 queue[QUEUE_BYTES];
static volatile u32 queue_head, queue_tail, ticks;

static void on_irq(u32 line, struct frame *f) {
    if (line == 0)
        ticks++;
    while (line == 4 && (inb(COM1 + 5) & 1)) {
        u8 byte = inb(COM1);
        if (queue_head - queue_tail < QUEUE_BYTES)
            queue[queue_head++ % QUEUE_BYTES] = byte;
    }
}

static char get_char(void) {
    for (;;) {
        __asm__ volatile("cli");
        if (queue_head != queue_tail)
            break;
        __asm__ volatile("sti; hlt");
    }
    __asm__ volatile("sti");
    return (char)queue[queue_tail++ % QUEUE_BYTES];
}

static void get_line(char *line) {
    u32 used = 0;
    for (;;) {
        char c = get_char();
        if (c == '\r' || c == '\n')
            break;
        if ((c == 8 || c == 127) && used) {
            used--;
            print("\b \b");
        } else if (c >= ' ' && c < 127 && used < LINE_BYTES - 1) {
            line[used++] = c;
            put_char(c);
        }
    }
    line[used] = 0;
    print("\r\n");
}

static bool same(const char *a, const char *b) {
    for (; *a && *a == *b; a++, b++) {
    }
    return *a == *b;
}

static void say_number(const char *before, u32 value, const char *after) {
    print(before);
    print_dec(value);
    print(after);
}

static void command_uname(void) {
    print("Ringfold-guest ringfold 0.1 i686\r\n");
}
static void command_mem(void) {
    say_number("memory: ", memory_bytes() >> 20, " MiB\r\n");
}
static void command_uptime(void) {
    say_number("up ", ticks / HZ, " s\r\n");
}

/* Numbers that differ from run to run, unless a run is repeated. */
static void command_random(void) {
    u32 value = 0, high, numbers = 4;
    if (!(cpuid(1).ecx >> 30 & 1)) {
        print("this CPU has no RDRAND\r\n");
        return;
    }
    print("random:");
    while (numbers--) {
        __asm__ volatile("rdrand %0" : "=r"(value) : : "cc");
        print(" ");
        print_hex(value);
    }
    __asm__ volatile("rdtsc" : "=a"(value), "=d"(high));
    print(", time stamp ");
    print_hex(high);
    print_hex(value);
    print("\r\n");
}

static void command_cpu(void) {
    struct cpuid id = cpuid(0);
    u32 name[4] = {id.ebx, id.edx, id.ecx, 0};
    print((const char *)name);
    struct cpuid version = cpuid(1);
    say_number(", family ", version.eax >> 8 & 15, "");
    say_number(", model ", (version.eax >> 4 & 15) | (version.eax >> 12 & 0xf0), "");
    say_number(", stepping ", version.eax & 15, "\r\n");
}

CODE(user_sum, "xor %eax,%eax; 1: add %ecx,%eax; dec %ecx; jnz 1b" DONE);
CODE(user_cli, "cli" DONE);
static void command_ring3(void) {
    reset_run(3);
    in.ecx = 1000;
    in.eflags |= F_IF;
    run(3, user_sum);
    say_number("ring 3 summed 1 to 1000: ", trap.eax, "\r\n");
    say_number("ring 3 tried CLI: exception ", run(3, user_cli), "\r\n");
    __asm__ volatile("sti");
}

static void command_page(void) {
    __asm__ volatile("cli");
    paging_prepare();
    pte(0x30000000);
    paging_on();
    map(0x30000000, SCRATCH, PT_P | PT_W);
    *(volatile u32 *)0x30000000 = 0x5eed;
    print(*(volatile u32 *)SCRATCH == 0x5eed ? "one page at two addresses: works\r\n"
                                             : "one page at two addresses: FAILS\r\n");
    paging_off();
    __asm__ volatile("sti");
}

static void command_reboot(void) {
    for (;;)
        outb(0x64, 0xfe);
}

static void command_help(void);
static const struct {
    const char *name;
    void (*run)(void);
    const char *help;
} commands[] = {
    {"help", command_help, "this list"},
    {"uname -a", command_uname, "name of this kernel"},
    {"uname", command_uname, "the same"},
    {"cpu", command_cpu, "what CPUID says"},
    {"mem", command_mem, "size of memory"},
    {"uptime", command_uptime, "seconds by the timer interrupt"},
    {"random", command_random, "numbers from RDRAND and RDTSC"},
    {"ring3", command_ring3, "run code at ring 3"},
    {"page", command_page, "map one page at two addresses"},
    {"reboot", command_reboot, "reset the machine"},
    {"poweroff -f", acpi_power_off, "turn the machine off by ACPI"},
    {"poweroff", acpi_power_off, "the same"},
};

static void command_help(void) {
    for (u32 i = 0; i < sizeof commands / sizeof *commands; i++) {
        print(commands[i].name);
        print("\t\t");
        print(commands[i].help);
        print("\r\n");
    }
}

static void execute(const char *line) {
    if (!*line)
        return;
    for (u32 i = 0; i < sizeof commands / sizeof *commands; i++)
        if (same(commands[i].name, line)) {
            commands[i].run();
            return;
        }
    print(line);
    print(": not a command (help lists them)\r\n");
}

void test(void) {
    irq_hook = on_irq;
    pic_init((u16) ~(1u << 0 | 1u << 4));
    pit_start(HZ);
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 1);
    outb(COM1 + 4, 0x0b);
    outb(COM1 + 1, 1); /* interrupt on received data */
    __asm__ volatile("sti");
    print("\r\nRingfold's own guest kernel; `help' lists the commands.\r\n");
    for (;;) {
        char line[LINE_BYTES];
        print("# ");
        get_line(line);
        execute(line);
    }
}
