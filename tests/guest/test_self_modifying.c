/*
 * Code that rewrites code: the next instruction, another page, through an alias, by rep movs and
 * by rep stos, in a loop until hot, on a page that also holds hot data, a function generated into
 * data, and patches of the five-byte kind that Linux makes. SDM volume 3A, section 9.1.3
 * "Handling Self- and Cross-Modifying Code".
 * Expected: the new code runs (on one CPU after a branch or at the next instruction: P6 and later
 * watch the prefetch queue by linear address of the store).
 */
#include "guest.h"

enum { ALIAS = 0x30000000 };
/* Patch the immediate of the next instruction. */
__asm__(".pushsection .data\n.globl next_insn\nnext_insn: movb %cl,patch1+1; patch1: mov "
        "$0x11,%eax; int $0x80\n"
        ".globl loop_patch\nloop_patch: xor %ebx,%ebx; mov $1000,%ecx\n"
        "1: mov %ecx,patch2+1; jmp patch2; .balign 16\npatch2: mov $0,%eax; add %eax,%ebx; dec "
        "%ecx; jnz 1b; int $0x80\n"
        ".globl mixed\nmixed: mov $1000,%ecx; 1: incl counter; mov counter,%eax; dec %ecx; jnz 1b; "
        "int $0x80\n"
        ".globl counter\ncounter: .long 0\n"
        ".globl behind_store\nbehind_store: movl $0x90909090,1f; jmp 1f; 1: ud2; ud2; mov "
        "$0x99,%eax; int $0x80\n"
        ".popsection");
extern u8 next_insn[], patch1[], loop_patch[], patch2[], mixed[], behind_store[];
extern volatile u32 counter;
CODE(call_scratch, "mov $20,%ecx; 1: push %ecx; call scratch; pop %ecx; dec %ecx; jnz 1b" DONE);
CODE(patch_by_movs,
     "cld; mov $scratch,%edi; mov $source_code,%esi; mov $6,%ecx; rep movsb; call scratch" DONE);
CODE(patch_by_stos, "cld; mov $scratch,%edi; mov $0xc3,%al; mov $8,%ecx; rep stosb; mov "
                    "$0x42,%eax; call scratch" DONE);
__asm__(".pushsection .data\nsource_code: mov $0x77777777,%eax; ret\n.popsection");

/* mov $value,%eax; ret */
static void write_function(u8 *at, u32 value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static void generated(u32 ring) {
    for (u32 i = 0; i < 50; i++) {
        write_function(scratch, 0x1000 + i);
        RUNS(ring, call_scratch);
        EQ(trap.eax, 0x1000 + i);
    }
    RUNS(ring, patch_by_movs);
    EQ(trap.eax, 0x77777777);
    RUNS(ring, patch_by_stos);
    EQ(trap.eax, 0x42);
    /* A function over a page boundary: either half may change. */
    u8 *at = scratch + 4096 - 3;
    for (u32 i = 0; i < 30; i++) {
        write_function(at, 0x20002000 + (i & 1) * 0x10 + (i & 2) * 0x10000000u);
        reset_run(ring);
        in.ecx = (u32)at;
        static const u8 code[] = {0xff, 0xd1, 0xcd, 0x80}; /* call *%ecx; int $0x80 */
        RUNS(ring, code);
        EQ(trap.eax, 0x20002000 + (i & 1) * 0x10 + (i & 2) * 0x10000000u);
    }
}

static void in_place(u32 ring) {
    for (u32 i = 0; i < 40; i++) {
        reset_run(ring);
        in.ecx = i;
        RUNS(ring, next_insn);
        EQ(trap.eax, i);
    }
    RUNS(ring, loop_patch);
    EQ(trap.ebx, 1000 * 1001 / 2);
    counter = 0;
    RUNS(ring, mixed);
    EQ(counter, 1000);
    EQ(trap.eax, 1000);
    static const u8 original[] = {0x0f, 0x0b, 0x0f, 0x0b};
    for (u32 i = 0; i < 5; i++) {
        memcpy(behind_store + 12, original, 4);
        RUNS(ring, behind_store);
        EQ(trap.eax, 0x99);
    }
}

/* Linux's text_poke: the code is read-only where it runs, and is written through another address.
 */
static void by_alias(u32 ring) {
    map(ALIAS, SCRATCH, PT_P | PT_W);
    *pte(SCRATCH) = SCRATCH | PT_P | PT_U;
    write_cr3(read_cr3());
    for (u32 i = 0; i < 40; i++) {
        write_function((u8 *)ALIAS, 0x5000 + i);
        RUNS(ring, call_scratch);
        EQ(trap.eax, 0x5000 + i);
    }
    /* The page under the code changes: the old translation must not run. */
    write_function(scratch + 4096, 0xabcd);
    for (u32 i = 0; i < 6; i++) {
        map(SCRATCH, SCRATCH + (i & 1) * 4096, PT_P | PT_U);
        RUNS(ring, call_scratch);
        EQ(trap.eax, (i & 1) ? 0xabcd : 0x5000 + 39);
    }
    map(SCRATCH, SCRATCH, PT_P | PT_W | PT_U);
    map(ALIAS, 0, 0);
}

/* int3 first, then the tail, then the head: no torn instruction is ever seen. */
static void breakpoint_patch(u32 ring) {
    write_function(scratch, 0x11111111);
    RUNS(ring, call_scratch);
    scratch[0] = 0xcc;
    EQ(run(ring, call_scratch), V_BP);
    EQ(trap.eip, scratch + 1);
    memset(scratch + 1, 0x22, 4);
    EQ(run(ring, call_scratch), V_BP);
    scratch[0] = 0xb8;
    RUNS(ring, call_scratch);
    EQ(trap.eax, 0x22222222);
}

void test(void) {
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            pte(ALIAS);
            paging_on();
            write_cr0(read_cr0() | CR0_WP);
        }
        for (u32 ring = 0; ring <= 3; ring += 3) {
            generated(ring);
            in_place(ring);
            breakpoint_patch(ring);
            if (paged)
                by_alias(ring);
        }
    }
    paging_off();
}
