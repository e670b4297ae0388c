/*
 * A small time-sharing kernel: eight processes with address spaces of their own, at the same
 * linear addresses, preempted by the timer; memory is given on demand by page faults, shared
 * copy-on-write after a fork, and frames go round quickly between code, data, stacks and page
 * tables. SDM volume 3A, sections 4.7, 4.10.2 and 6.12.
 * Expected: every process ends with the checksum that its seed alone decides; no process sees
 * another's pages.
 * ROUNDS: 1
 * SECONDS: 90
 */
#include "guest.h"

enum {
    PROCESSES = 8,
    STARTED = 5,
    FRAMES = 1024,
    FIRST_FRAME = 24 << 20,
    GOAL = 400,
    TEXT = 0x08048000,
    HEAP = 0x10000000,
    HEAP_PAGES = 24,
    STACK_TOP = 0xbffff000u,
    V_EXIT = 0x91,
    V_FORK = 0x92,
    COW = 0x200 /* a software bit of the entry */
};

/* The program: fills HEAP_PAGES pages with a stream from its seed, recurses, sums them up again. It
 * is copied to a fresh frame for each process, with its seed in its first instruction, and makes
 * its own code run at the start of the second page too, by way of a jump over the page boundary. */
__asm__(".pushsection .rodata\n.globl program\nprogram: mov $0x12345678,%eax\n"
        "mov %eax,%ebp; mov $0x10000000,%edi; mov $"
        "24"
        ",%ecx\n"
        "1: mov $64,%edx\n2: imul $1664525,%eax,%eax; add $1013904223,%eax; mov %eax,(%edi); add "
        "$64,%edi; dec %edx; jnz 2b\n"
        "dec %ecx; jnz 1b; mov $40,%ecx; call 7f; test $1,%ebp; jz 3f; int $0x92; add %eax,%ebp\n"
        "3: jmp 5f\n6: mov $0x10000000,%esi; xor %ebx,%ebx; mov $24*64,%ecx\n"
        "4: mov (%esi),%eax; lea (%eax,%ebx,2),%edx; rol $5,%ebx; xor %edx,%ebx; rolb $1,(%esi); "
        "add $64,%esi; dec %ecx; jnz 4b\n"
        "mov %ebx,%eax; mov %ebp,%ecx; int $0x91\n"
        "7: push %ecx; sub $256,%esp; mov %ecx,(%esp); dec %ecx; jz 8f; call 7b\n8: mov "
        "(%esp),%edx; add $256,%esp; pop %ecx\n"
        "cmp %ecx,%edx; jne 9f; ret\n9: mov $0xbad,%eax; int $0x91\n"
        ".skip program+4094-.,0x90\n5: nop; nop; nop; xor %eax,%eax; jmp 6b\n"
        ".globl program_end\nprogram_end:\n.popsection");
extern const u8 program[], program_end[];
CODE(leave_user, DONE);

static struct process {
    bool alive;
    u32 directory, seed;
    struct frame frame;
} processes[PROCESSES];
static u8 uses[FRAMES];
static u32 current, finished, next_seed, forks, switches;

static u32 take_frame(void) {
    static u32 hand;
    for (u32 i = 0; i < FRAMES; i++) {
        hand = (hand + 7) %
               FRAMES; /* not in order: neighbours in linear space are no neighbours here */
        if (!uses[hand]) {
            uses[hand] = 1;
            u32 address = FIRST_FRAME + hand * 4096;
            memset((void *)address, 0, 4096);
            return address;
        }
    }
    print("out of frames\n");
    finish(0x12);
}

static u8 *use_count(u32 address) {
    return &uses[((address & ~0xfffu) - FIRST_FRAME) / 4096];
}
static void drop(u32 address) {
    --*use_count(address);
}

static u32 *slot(u32 directory, u32 address, bool make) {
    u32 *d = (u32 *)directory + (address >> 22);
    if (!(*d & PT_P)) {
        if (!make)
            return NULL;
        *d = take_frame() | PT_P | PT_W | PT_U;
    }
    return (u32 *)(*d & ~0xfffu) + (address >> 12 & 1023);
}

static bool in_user(u32 index) {
    return index >= TEXT >> 22;
}

static u32 new_directory(void) {
    u32 directory = take_frame();
    memcpy((void *)directory, page_directory, 4096);
    return directory;
}

static void free_directory(u32 directory) {
    u32 *d = (u32 *)directory;
    for (u32 i = 0; i < 1024; i++) {
        if (!in_user(i) || !(d[i] & PT_P))
            continue;
        u32 *table = (u32 *)(d[i] & ~0xfffu);
        for (u32 j = 0; j < 1024; j++)
            if (table[j] & PT_P)
                drop(table[j]);
        drop(d[i]);
    }
    drop(directory);
}

static void create(struct process *p, u32 seed) {
    p->directory = new_directory();
    p->seed = seed;
    p->alive = true;
    for (u32 page = 0; page < 2; page++) {
        u32 frame = take_frame();
        u32 bytes = page ? (u32)(program_end - program) - 4096 : 4096;
        memcpy((void *)frame, program + page * 4096, bytes);
        if (!page)
            memcpy((void *)(frame + 1), &seed, 4);
        *slot(p->directory, TEXT + page * 4096, true) = frame | PT_P | PT_U;
    }
    memset(&p->frame, 0, sizeof p->frame);
    p->frame = (struct frame){.eip = TEXT,
                              .cs = USER_CODE,
                              .eflags = F_FIXED | F_IF,
                              .esp = STACK_TOP,
                              .ss = USER_DATA,
                              .ds = USER_DATA,
                              .es = USER_DATA,
                              .fs = USER_DATA,
                              .gs = USER_DATA};
}

/* What the program computes, done here. */
static u32 model(u32 seed) {
    static u32 words[HEAP_PAGES * 64];
    u32 a = seed, b = 0;
    for (u32 i = 0; i < HEAP_PAGES * 64; i++)
        words[i] = a = a * 1664525 + 1013904223;
    for (u32 i = 0; i < HEAP_PAGES * 64; i++) {
        u32 d = words[i] + 2 * b;
        b = b << 5 | b >> 27;
        b ^= d;
    }
    return b;
}

static void switch_to(struct frame *f, u32 next) {
    current = next;
    switches++;
    *f = processes[next].frame;
    write_cr3(processes[next].directory);
}

static void schedule(struct frame *f) {
    processes[current].frame = *f;
    for (u32 i = 1; i <= PROCESSES; i++)
        if (processes[(current + i) % PROCESSES].alive) {
            switch_to(f, (current + i) % PROCESSES);
            return;
        }
}

static void page_fault(struct frame *f) {
    u32 address = read_cr2(), directory = processes[current].directory;
    bool known = (address >= HEAP && address < HEAP + HEAP_PAGES * 4096) ||
                 (address < STACK_TOP && address >= STACK_TOP - 65536);
    u32 *entry = slot(directory, address, true);
    if (*entry & PT_P) {
        CHECK(known && (f->error & 3) == 3 && (*entry & COW));
        if (*use_count(*entry) > 1) {
            u32 frame = take_frame();
            memcpy((void *)frame, (void *)(*entry & ~0xfffu), 4096);
            drop(*entry);
            *entry = frame | PT_P | PT_W | PT_U;
            invlpg(address);
        } else
            *entry = (*entry & ~(u32)COW) | PT_W; /* more rights: no flush needed */
        return;
    }
    check_eq(known, true, __FILE__, __LINE__, "a process touches only its heap and stack");
    *entry = take_frame() | PT_P | PT_W | PT_U;
}

static void fork_process(struct frame *f) {
    f->eax = 0;
    u32 child = 0;
    while (child < PROCESSES && processes[child].alive)
        child++;
    if (child == PROCESSES)
        return;
    forks++;
    struct process *p = &processes[child], *parent = &processes[current];
    p->alive = true;
    p->seed = parent->seed;
    p->directory = new_directory();
    u32 *d = (u32 *)parent->directory;
    for (u32 i = 0; i < 1024; i++) {
        if (!in_user(i) || !(d[i] & PT_P))
            continue;
        u32 *table = (u32 *)(d[i] & ~0xfffu);
        for (u32 j = 0; j < 1024; j++) {
            if (!(table[j] & PT_P))
                continue;
            if (table[j] & PT_W)
                table[j] = (table[j] & ~(u32)PT_W) | COW;
            *slot(p->directory, i << 22 | j << 12, true) = table[j];
            ++*use_count(table[j]);
        }
    }
    write_cr3(parent->directory);
    p->frame = *f;
}

static void exit_process(struct frame *f) {
    struct process *p = &processes[current];
    EQ(f->eax, model(p->seed));
    EQ(f->ecx, p->seed);
    EQ(f->esp, STACK_TOP);
    finished++;
    write_cr3((u32)page_directory);
    free_directory(p->directory);
    p->alive = false;
    u32 alive = 0;
    for (u32 i = 0; i < PROCESSES; i++)
        alive += processes[i].alive;
    if (alive < STARTED && next_seed < GOAL)
        create(p, (++next_seed) * 2654435761u);
    for (u32 i = 1; i <= PROCESSES; i++)
        if (processes[(current + i) % PROCESSES].alive) {
            switch_to(f, (current + i) % PROCESSES);
            return;
        }
    *f = (struct frame){.eip = (u32)leave_user,
                        .cs = USER_CODE,
                        .eflags = F_FIXED,
                        .esp = USER_STACK_TOP,
                        .ss = USER_DATA,
                        .ds = USER_DATA,
                        .es = USER_DATA,
                        .fs = USER_DATA,
                        .gs = USER_DATA};
}

static bool on_trap(struct frame *f) {
    if (f->vector == V_PF && (f->cs & 3))
        page_fault(f);
    else if (f->vector == V_EXIT)
        exit_process(f);
    else if (f->vector == V_FORK)
        fork_process(f);
    else
        return false;
    return true;
}

static void on_irq(u32 line, struct frame *f) {
    if (line == 0 && (f->cs & 3) && processes[current].alive)
        schedule(f);
}

void test(void) {
    paging_prepare();
    finished = forks = switches = next_seed = 0;
    memset(uses, 0, sizeof uses);
    write_cr0(read_cr0() | CR0_WP);
    paging_on();
    for (u32 vector = V_EXIT; vector <= V_FORK; vector++)
        idt_set(vector, gate((u32)trap_stubs + 16 * vector, KERNEL_CODE, 0xee));
    trap_hook = on_trap;
    irq_hook = on_irq;
    for (u32 i = 0; i < STARTED; i++)
        create(&processes[i], (++next_seed) * 2654435761u);
    pic_init(0xfffe);
    pit_start(2000);
    /* Enter the first process as if by a switch. */
    current = 0;
    write_cr3(processes[0].directory);
    reset_run(3);
    in.eflags |= F_IF;
    in.esp = STACK_TOP;
    RUNS(3, (const u8 *)TEXT);
    pit_stop();
    CHECK(finished >= GOAL);
    CHECK(forks > 10);
    u32 left = 0;
    for (u32 i = 0; i < FRAMES; i++)
        left += uses[i];
    EQ(left, 0);
    trap_hook = NULL;
    irq_hook = NULL;
    for (u32 vector = V_EXIT; vector <= V_FORK; vector++)
        idt_set(vector, default_gate(vector));
    paging_off();
}
