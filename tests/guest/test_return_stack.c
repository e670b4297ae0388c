/*
 * Whatever a ring-3 program does with its calls and returns, the kernel's returns and its own later
 * ones go by the stacks in memory: calls without returns before entering the kernel, returns
 * without calls after it, kernel entries from every depth of a recursion, a kernel that comes back
 * to another place than it was entered from, two processes with different code at one address, and
 * the addresses a translator might have on its own return stack planted on the guest's. SDM volume
 * 1, section 6.4 "Calling Procedures Using CALL and RET".
 * Expected: control goes where the guest's own stacks say; a planted address is a page fault.
 * ROUNDS: 2
 * SECONDS: 40
 */
#include "guest.h"

enum { V_SERVICE = 0x91, V_AWAY = 0x92, DEPTH = 100000, SHARED_AT = 0x30000000 };

/* The kernel's side: a service of some calls deep whose result depends on all of them returning;
 * another that returns to ECX at the stack in EDX. */
CODE(service,
     "push %ecx; push %edx; mov $40,%ecx; xor %eax,%eax; call 1f; pop %edx; pop %ecx; iret\n"
     "1: dec %ecx; jz 2f; call 1b\n2: inc %eax; ret");
CODE(away, "mov %ecx,(%esp); mov %edx,12(%esp); iret");
/* At ring 0 there is no stack in the frame. */
CODE(away_0, "mov (%esp),%ebx; mov %edx,%esp; push $2; push $8; push %ecx; iret");

/* Enters the kernel at every call of a recursion and at every return of it. */
CODE(at_every_depth,
     "mov $scratch+1048576,%esp; xor %esi,%esi; mov $2000,%edi; call 1f; int $0x80\n"
     "1: int $0x91; add %eax,%esi; dec %edi; jz 2f; call 1b\n2: int $0x91; add %eax,%esi; ret");
/* 100,000 frames, the kernel entered at the bottom; then all of them are returned through. */
CODE(from_the_bottom, "mov $scratch+1048576,%esp; xor %ebx,%ebx; mov $100000,%edi; call 1f; int "
                      "$0x80\n1: dec %edi; jz 2f; call 1b; inc %ebx; ret\n2: int $0x91; ret");
/* Frames left behind: calls that never return, each entering the kernel; then returns that no call
 * made, by addresses pushed. */
CODE(calls_only,
     "mov $300,%edi; 1: call 2f\n2: pop %eax; int $0x91; dec %edi; jnz 1b; mov %eax,%esi;"
     "mov $300,%edi; 3: push $4f; ret\n4: int $0x91; dec %edi; jnz 3b" DONE);
/* A longjmp out of 60 frames by way of the kernel, which comes back elsewhere. */
CODE(unwound, "mov $200,%ebp; 1: mov %esp,%esi; mov $60,%edi; call 2f; ud2\n"
              "2: dec %edi; jz 3f; call 2b; ud2\n"
              "3: mov $4f,%ecx; mov %esi,%edx; int $0x92; ud2\n"
              "4: call 5f; dec %ebp; jnz 1b; int $0x80; 5: ret");
/* Stuffs a return predictor, as kernels do on a context switch, and retpolines into the kernel. */
CODE(stuffed,
     "mov $100,%edi; 1: mov $16,%ecx; 2: call 3f; int3\n3: call 4f; int3\n4: dec %ecx; jnz "
     "2b; add $128,%esp; int $0x91; mov $5f,%edx; call 6f; dec %edi; jnz 1b; int $0x80\n"
     "5: inc %ebx; ret; 6: call 7f; 8: pause; jmp 8b; 7: mov %edx,(%esp); ret");
/* RET to an address in EAX, with calls outstanding. */
CODE(plant, "call 1f; ud2; 1: call 2f; ud2; 2: push %eax; ret");
/* The same through the kernel's stack: ring 3 leaves them, ring 0 must not return to them. */
CODE(leave_frames, "mov $50,%ecx; 1: call 2f; ud2; 2: dec %ecx; jnz 1b; int $0x91; mov %eax,%esi;"
                   "int $0x91; add %eax,%esi" DONE);

static void services(u32 ring) {
    idt_set(V_SERVICE, gate((u32)service, KERNEL_CODE, 0xee));
    idt_set(V_AWAY, gate((u32)(ring ? away : away_0), KERNEL_CODE, 0xee));
}

static void one_process(u32 ring) {
    services(ring);
    for (u32 i = 0; i < 3; i++) {
        RUNS(ring, at_every_depth);
        EQ(trap.esi, 2 * 2000 * 40);
        EQ(trap.esp, SCRATCH + sizeof scratch);
        RUNS(ring, from_the_bottom);
        EQ(trap.ebx, DEPTH - 1);
        EQ(trap.eax, 40);
        RUNS(ring, calls_only);
        EQ(trap.eax, 40);
        RUNS(ring, unwound);
        EQ(trap.ebp, 0);
        RUNS(ring, stuffed);
        EQ(trap.ebx, 100);
        RUNS(ring, leave_frames);
        EQ(trap.esi, 80);
    }
}

/* Addresses such as a monitor's code, stacks and stubs have, cut to 32 bits as all are here, among
 * them those that a 32-bit RET cannot tell from a guest's. Nothing is mapped there. */
static void planted(u32 ring) {
    static const u32 addresses[] = {0x40000000, 0x55555000, 0x7f000000, 0x7fff0000,
                                    0x80000000, 0xc0000000, 0xfffff000, 0xffffffff};
    services(ring);
    for (u32 i = 0; i < 40; i++) {
        reset_run(ring);
        u32 address = in.eax = addresses[i % 8] + (i >= 8 && i % 8 < 7 ? i * 16 : 0);
        EQ(run(ring, plant), V_PF);
        EQ(trap.eip, address);
        EQ(trap_cr2, address);
        RUNS(ring, leave_frames);
        EQ(trap.esi, 80);
    }
}

/* ---- Two processes with different code at one address ---- */
__asm__(".pushsection .rodata\n"
        ".globl process_a, process_b, process_c\n"
        /* five calls deep in A, and in B the same bytes' addresses mean another thing */
        "process_a: call 1f; int $0x80; 1: call 2f; inc %ebx; ret\n"
        "2: call 3f; inc %ebx; ret; 3: int $0x93; inc %ebx; ret\n.balign 64\n"
        "process_b: call 1f; int $0x80; 1: call 2f; inc %edx; ret\n"
        "2: call 3f; inc %edx; ret; 3: int $0x93; inc %edx; ret\n.balign 64\nprocess_c:\n"
        ".popsection");
extern const u8 process_a[], process_b[], process_c[];
static u32 directory[2][1024] __attribute__((aligned(4096)));
static u32 table[2][1024] __attribute__((aligned(4096)));

/* INT 93h goes over to the other process, which stands where it left off. */
static struct frame saved[2];
static u32 now, switches;
static bool other_process(struct frame *f) {
    if (f->vector != 0x93)
        return false;
    u32 words = (u32)sizeof *f / 4;
    memcpy(&saved[now], f, words * 4);
    now ^= 1;
    switches++;
    memcpy(f, &saved[now], words * 4);
    write_cr3((u32)directory[now]);
    return true;
}

static void two_processes(void) {
    for (u32 p = 0; p < 2; p++) {
        u8 *frame = scratch + 4096 * (2 * p);
        memcpy(directory[p], page_directory, 4096);
        memset(table[p], 0, 4096);
        directory[p][SHARED_AT >> 22] = (u32)table[p] | PT_P | PT_W | PT_U;
        table[p][0] = (u32)frame | PT_P | PT_W | PT_U;
        table[p][1] = ((u32)frame + 4096) | PT_P | PT_W | PT_U;
        memcpy(frame, p ? process_b : process_a, 64);
    }
    idt_set(0x93, default_gate(0x93) | 0x60ull << 40);
    for (u32 i = 0; i < 60; i++) {
        /* B starts from the top when A first gives way, and gives way to it at once. */
        memset(&saved[1], 0, sizeof saved[1]);
        saved[1] = (struct frame){.ds = USER_DATA,
                                  .es = USER_DATA,
                                  .fs = USER_DATA,
                                  .gs = USER_DATA,
                                  .eip = SHARED_AT,
                                  .cs = USER_CODE,
                                  .eflags = F_FIXED,
                                  .esp = SHARED_AT + 8192,
                                  .ss = USER_DATA};
        now = switches = 0;
        write_cr3((u32)directory[0]);
        trap_hook = other_process;
        reset_run(3);
        in.esp = SHARED_AT + 8192;
        RUNS(3, (const u8 *)SHARED_AT);
        trap_hook = NULL;
        EQ(switches, 2);
        EQ(trap.ebx, 3);
        EQ(trap.edx, 0);
        /* B goes on where it gave way. */
        write_cr3((u32)directory[1]);
        reset_run(3);
        in.esp = saved[1].esp;
        RUNS(3, (const u8 *)saved[1].eip);
        EQ(trap.edx, 3);
        EQ(trap.ebx, 0);
    }
    write_cr3((u32)page_directory);
    idt_set(0x93, default_gate(0x93));
}

void test(void) {
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            paging_on();
        }
        for (u32 ring = 0; ring <= 3; ring += 3) {
            one_process(ring);
            if (paged)
                planted(ring);
        }
        if (paged)
            two_processes();
    }
    idt_set(V_SERVICE, default_gate(V_SERVICE));
    idt_set(V_AWAY, default_gate(V_AWAY));
    paging_off();
}
