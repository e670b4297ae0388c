/*
 * Computations under a storm of timer interrupts: carry chains, divisions, string instructions,
 * calls, self-checking copies, SSE, at ring 0 and ring 3, with a handler that destroys every flag
 * and register it may. SDM volume 3A, section 6.12.1 "Exception- or Interrupt-Handler
 * Procedures": an interrupt is invisible to what it interrupts.
 * Expected: the same results as without interrupts, and many interrupts taken.
 * ROUNDS: 1
 * SECONDS: 60
 */
#include "guest.h"

static volatile u32 ticks;

static void on_irq(u32 line, struct frame *f) {
    ticks += line == 0;
    __asm__ volatile("std; cld; mov $0x7fffffff,%%eax; add $1,%%eax; xor %%ecx,%%ecx; dec %%ecx; "
                     "imul %%ecx,%%edx" ::
                         : "eax", "ecx", "edx", "cc");
}

/* A 2048-bit number times a word, again and again: one long carry chain per pass. */
CODE(carry, "mov $200,%ebp; 3: mov $scratch,%esi; mov $64,%ecx; xor %ebx,%ebx; clc;"
            "1: mov (%esi),%eax; pushf; mov $0x9e3779b1,%edx; mul %edx; popf; adc %ebx,%eax; mov "
            "%eax,(%esi);"
            "mov %edx,%ebx; lea 4(%esi),%esi; dec %ecx; jnz 1b; adc $0,%ebx; xor %ebx,scratch;"
            "dec %ebp; jnz 3b; mov scratch,%eax; mov scratch+200,%ebx" DONE);
CODE(adc_chain,
     "mov $300,%ebp; 3: mov $scratch,%esi; mov $scratch+1024,%edi; mov $128,%ecx; clc;"
     "1: mov (%esi),%eax; adc (%edi),%eax; mov %eax,(%edi); lea 4(%esi),%esi; lea 4(%edi),%edi;"
     "dec %ecx; jnz 1b; setc %al; add %al,scratch; dec %ebp; jnz 3b; mov scratch+1024,%eax;"
     "mov scratch+1500,%ebx" DONE);
CODE(rotate_sum, "mov $40000,%ecx; xor %eax,%eax; xor %edx,%edx; 1: add $0x12345,%eax; rcl "
                 "$1,%eax; sbb %edx,%ebx;"
                 "xor %eax,%edx; ror $7,%edx; cmp %edx,%eax; adc $3,%ebx; bt %ecx,%eax; adc "
                 "$0,%esi; loop 1b" DONE);
CODE(fib, "cmp $2,%eax; jb 1f; push %ebx; push %eax; dec %eax; call fib; mov %eax,%ebx; pop %eax;"
          "sub $2,%eax; call fib; add %ebx,%eax; pop %ebx; 1: ret");
CODE(call_fib, "mov $20,%eax; call fib; mov %eax,%ebx; mov %esp,%ecx" DONE);
CODE(strings,
     "cld; mov $60,%ebp; 1: mov $scratch,%esi; mov $scratch+65537,%edi; mov $6000,%ecx; rep movsl;"
     "mov $scratch+65537,%esi; mov $scratch,%edi; mov $24000,%ecx; repe cmpsb; jne 2f; dec %ebp; "
     "jnz 1b;"
     "2: mov %ecx,%eax; mov %edi,%ebx" DONE);
CODE(indirect, "mov $20000,%ecx; xor %eax,%eax; mov $7,%edx; 1: imul $1103515245,%edx,%edx; add "
               "$12345,%edx; mov %edx,%esi;"
               "shr $16,%esi; and $7,%esi; call *routes(,%esi,4); dec %ecx; jnz 1b; int $0x80;"
               "r0: add $1,%eax; ret; r1: rol $3,%eax; ret; r2: xor $0x55,%eax; ret; r3: push "
               "%eax; pop %eax; inc %eax; ret;"
               "r4: sub %edx,%eax; ret; r5: call r0; ret; r6: adc $5,%eax; ret; r7: not %eax; ret;"
               ".balign 4; routes: .long r0,r1,r2,r3,r4,r5,r6,r7");
CODE(sse_sum, "mov $20000,%ecx; cvtsi2sd %ecx,%xmm1; xorpd %xmm0,%xmm0; 1: addsd %xmm1,%xmm0; "
              "sqrtsd %xmm0,%xmm2;"
              "addsd %xmm2,%xmm1; divsd %xmm2,%xmm1; dec %ecx; jnz 1b; movsd %xmm0,scratch; mov "
              "scratch,%eax; mov scratch+4,%ebx" DONE);
CODE(divisions, "mov $10000,%ecx; mov $0x12345678,%eax; 1: mov %ecx,%edx; shr $16,%edx; lea "
                "77(%ecx),%ebx; div %ebx;"
                "lea (%eax,%edx,4),%eax; imul $69069,%eax; loop 1b; mov %edx,%ebx" DONE);

static const u8 *const programs[] = {carry,   adc_chain, rotate_sum, call_fib,
                                     strings, indirect,  sse_sum,    divisions};
enum { COUNT = sizeof programs / sizeof *programs };

static void once(u32 ring, u32 i, bool storm) {
    for (u32 word = 0; word < 8192; word++)
        ((u32 *)scratch)[word] = word * 2654435761u + 1;
    reset_run(ring);
    if (storm)
        in.eflags |= F_IF;
    if (!ring)
        in.esp = USER_STACK_TOP;
    RUNS(ring, programs[i]);
}

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    write_cr4(read_cr4() | CR4_OSFXSR);
    irq_hook = on_irq;
    ticks = 0;
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            paging_on();
        }
        for (u32 i = 0; i < COUNT; i++) {
            once(3, i, false);
            u32 eax = trap.eax, ebx = trap.ebx;
            pic_init(0xfffe);
            pit_start(8000);
            for (u32 again = 0; again < 12; again++) {
                once(again & 1 ? 3 : 0, i, true);
                EQ(trap.eax, eax);
                EQ(trap.ebx, ebx);
            }
            pit_stop();
        }
    }
    CHECK(ticks > 0);
    irq_hook = NULL;
    paging_off();
}
