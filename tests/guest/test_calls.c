/*
 * Calls and returns that do not pair: push and ret, retpolines, call $+5, return-stack stuffing,
 * a longjmp over many frames, deep recursion, RET imm16, swapped stacks, recursion that unwinds
 * in another order. SDM volume 2A "CALL", volume 2B "RET"; volume 1, section 6.4.
 * Expected: control flow by the guest's own stack only, whatever the host's return stack
 * believes.
 */
#include "guest.h"

CODE(fib, "cmp $2,%eax; jb 1f; push %ebx; push %eax; dec %eax; call fib; mov %eax,%ebx; pop %eax;"
          "sub $2,%eax; call fib; add %ebx,%eax; pop %ebx; 1: ret");
CODE(call_fib, "mov $18,%eax; call fib" DONE);
CODE(push_ret,
     "mov $1000,%ecx; xor %eax,%eax; 1: push $2f; ret; ud2; 2: inc %eax; dec %ecx; jnz 1b" DONE);
CODE(get_pc, "mov $1000,%ecx; xor %eax,%eax; 1: call 2f; 2: pop %edx; inc %eax; dec %ecx; jnz 1b;"
             "sub $2b,%edx" DONE);
CODE(retpoline, "mov $1000,%ecx; xor %eax,%eax; mov $3f,%edx; 1: call thunk_edx; dec %ecx; jnz 1b;"
                "int $0x80; 3: inc %eax; ret");
CODE(thunk_edx, "call 5f; 4: pause; lfence; jmp 4b; 5: mov %edx,(%esp); ret");
CODE(stuffing,
     "mov $16,%ecx; 1: call 2f; int3; 2: dec %ecx; jnz 1b; add $64,%esp; mov $5,%eax" DONE);
CODE(deep, "mov $100000,%ecx; mov $scratch+1048576,%esp; xor %eax,%eax; call deeper" DONE);
CODE(deeper, "inc %eax; dec %ecx; jz 1f; call deeper; 1: ret");
CODE(long_jump, "mov $200,%edi; 1: mov %esp,%ebp; mov $50,%ecx; call dig; ud2;"
                ".globl landing\nlanding: dec %edi; jnz 1b; mov $9,%eax" DONE);
CODE(dig, "dec %ecx; jz 1f; call dig; ud2; 1: mov %ebp,%esp; jmp landing");
CODE(ret_imm,
     "mov %esp,%ebp; mov $100,%ecx; 1: push $1; push $2; push $3; call takes3; dec %ecx; jnz 1b;"
     "sub %esp,%ebp" DONE);
CODE(takes3, "mov 4(%esp),%eax; add 12(%esp),%eax; ret $12");
CODE(swap_stacks,
     "mov $scratch+4096,%ebx; mov $scratch+8192,%edx; movl $co_b,-4(%edx); sub $4,%edx;"
     "xor %eax,%eax; mov %ebx,%esp; mov $500,%ecx; co_a: call switch_to; add $1,%eax;"
     "dec %ecx; jnz co_a; mov %eax,%ecx" DONE);
CODE(co_b, "call switch_to; add $0x10000,%eax; jmp co_b");
CODE(switch_to, "mov %esp,%ebx; mov %edx,%esp; mov %ebx,%edx; ret");
CODE(wrong_return,
     "mov $300,%ecx; 1: call changes_return; ud2; 2: dec %ecx; jnz 1b; mov $3,%eax" DONE);
CODE(changes_return, "addl $2,(%esp); ret");
CODE(tail,
     "mov $100,%ecx; xor %eax,%eax; 1: call t1; dec %ecx; jnz 1b; int $0x80; t1: inc %eax; jmp t2;"
     "t2: inc %eax; push $t3; ret; t3: inc %eax; ret");
CODE(
    esp_call,
    "mov $2f,%eax; push %eax; mov $7,%edx; call *(%esp); add $4,%esp; int $0x80; 2: inc %edx; ret");

void test(void) {
    for (u32 ring = 0; ring <= 3; ring += 3) {
        RUNS(ring, call_fib);
        EQ(trap.eax, 2584);
        RUNS(ring, push_ret);
        EQ(trap.eax, 1000);
        RUNS(ring, get_pc);
        EQ(trap.eax, 1000);
        EQ(trap.edx, 0);
        RUNS(ring, retpoline);
        EQ(trap.eax, 1000);
        RUNS(ring, stuffing);
        EQ(trap.eax, 5);
        RUNS(ring, deep);
        EQ(trap.eax, 100000);
        EQ(trap.esp, SCRATCH + sizeof scratch);
        RUNS(ring, long_jump);
        EQ(trap.eax, 9);
        RUNS(ring, ret_imm);
        EQ(trap.eax, 4);
        EQ(trap.ebp, 0);
        RUNS(ring, swap_stacks);
        EQ(trap.ecx, 500 + 500 * 0x10000 - 0x10000);
        RUNS(ring, wrong_return);
        EQ(trap.eax, 3);
        RUNS(ring, tail);
        EQ(trap.eax, 300);
        RUNS(ring, esp_call);
        EQ(trap.edx, 8);
    }
}
