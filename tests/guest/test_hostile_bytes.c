/*
 * A stream of pseudo-random bytes as code, many thousand times, at ring 3: every start either
 * traps or is cut off by the timer. Nothing is expected of the values, everything of the monitor:
 * it survives, the kernel's memory is not touched, and the same bytes give the same first trap
 * every time.
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

static u32 seed;
static u32 next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

/* The time slice is over: end the run as if by a trap of its own. */
CODE(cut_off, DONE);
static void on_irq(u32 line, struct frame *f) {
    if ((f->cs & 3) == 3)
        f->eip = (u32)cut_off;
}

static u32 once(u32 start_seed) {
    seed = start_seed * 2654435761u + 12345;
    memset(scratch, 0, sizeof scratch); /* what the last run stored must not decide this one */
    memset(user_stack, 0, sizeof user_stack);
    for (u32 i = 0; i < 64; i++)
        ((u32 *)scratch)[i] = next_random();
    __asm__ volatile("fninit");
    reset_run(3);
    in.eflags |= F_IF;
    in.eax = next_random();
    in.ebx = SCRATCH + 8192;
    in.ecx = next_random() & 0xff;
    in.edx = 0x80;
    in.esi = SCRATCH + 12288;
    in.edi = SCRATCH + 16384;
    in.ebp = SCRATCH + 20480;
    u32 vector = run(3, scratch);
    return vector == V_DONE ? 0 : vector << 24 | (trap.eip & 0xffffff);
}

void test(void) {
    paging_prepare();
    /* Ring 3 sees only scratch, its stack and `cut_off`. */
    for (u32 address = 0; address < 32 << 20; address += 4096)
        if (!((address >= SCRATCH && address < SCRATCH + sizeof scratch) ||
              (address >= (u32)user_stack && address < (u32)user_stack + sizeof user_stack)))
            *pte(address) &= ~(u32)PT_U;
    *pte((u32)cut_off) |= PT_U;
    *pte((u32)cut_off) &= ~(u32)PT_W;
    write_cr0(read_cr0() | CR0_WP);
    paging_on();
    write_cr4(read_cr4() | CR4_TSD); /* no clock: the same bytes do the same twice */
    irq_hook = on_irq;
    pic_init(0xfffe);
    pit_start(500);
    static u32 base;
    for (u32 i = 0; i < 300; i++) {
        u32 first = once(base + i), second = once(base + i);
        if (first && second)
            EQ(first, second);
    }
    base += 300;
    pit_stop();
    irq_hook = NULL;
    paging_off();
    write_cr4(read_cr4() & ~CR4_TSD);
    __asm__ volatile("fninit");
}
