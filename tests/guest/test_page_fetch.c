/*
 * Instructions that lie on two pages, paging switched on and off under running code, and one
 * address that holds different code in different spaces. SDM volume 3A, section 4.7 "Page-Fault
 * Exceptions", 4.10.4 "Invalidation of TLBs and Paging-Structure Caches", 9.9 "Mode Switching".
 * Expected: what does not lie on the first page is fetched from the second as that is mapped now;
 * if it cannot be, #PF with EIP at the instruction and CR2 at the second page's first byte, and
 * nothing of the instruction is done; an instruction that ends with the first page does not look
 * at the second.
 */
#include "guest.h"

enum { AREA = 0x30000000, SECOND = AREA + 4096, DATA = 0x30400000 };
#define ALL (PT_P | PT_W | PT_U)
#define FIRST_FRAME (SCRATCH + 0x10000)
#define SECOND_FRAME(n) (SCRATCH + 0x20000 + (n)*4096u)
#define PAGE(n) (SCRATCH + (n)*4096u)

/* Instructions of many lengths; each ends in a byte that its frames may differ in, if any. */
CODE(increment, "incl DATA_AREA" DONE);
CODE(immediate, "mov $0x11223344,%eax" DONE);
CODE(both, "movl $0x11223344,DATA_AREA" DONE);
CODE(prefixed, ".byte 0x36,0x3e,0x26,0x36,0x3e; addl $0x11223344,DATA_AREA" DONE);
CODE(jump_over, "jmp 1f; ud2; 1: mov $7,%eax" DONE);
CODE(jump_far, ".byte 0xe9,4,0,0,0; ud2; ud2; mov $7,%eax" DONE);
CODE(call_near, "call 1f; ud2; 1: pop %eax; mov $7,%eax" DONE);
CODE(simd, "movups DATA_AREA,%xmm0; mov $7,%eax" DONE);
CODE(software, "int $0x80");
__asm__(".globl DATA_AREA\n.set DATA_AREA, 0x30400000");
static const struct {
    const u8 *code;
    u32 length;
} instructions[] = {{increment, 6}, {immediate, 5}, {both, 10}, {prefixed, 15}, {jump_over, 2},
                    {jump_far, 5},  {call_near, 5}, {simd, 7},  {software, 2}};

static u32 filled;
static bool fill_second(struct frame *f) {
    if (f->vector != V_PF || read_cr2() != SECOND)
        return false;
    *pte(SECOND) = SECOND_FRAME(0) | ALL;
    filled++;
    return true;
}

/* Puts the code so that `before` bytes of its first instruction lie on the first page. */
static u32 place(const u8 *code, u32 before, u32 frame) {
    memcpy((void *)(FIRST_FRAME + 4096 - before), code, before);
    memcpy((void *)SECOND_FRAME(frame), code + before, 48);
    return SECOND - before;
}

static void refuses(u32 ring, u32 at, u32 entry, u32 error) {
    *pte(SECOND) = entry;
    invlpg(SECOND);
    *(u32 *)PAGE(0) = 1000;
    EQ(run(ring, (void *)at), V_PF);
    EQ(trap.error, error | (ring ? 4 : 0));
    EQ(trap_cr2, SECOND);
    EQ(trap.eip, at);
    EQ(*(u32 *)PAGE(0), 1000);
    EQ(*pte(SECOND), entry);
}

static void splits(u32 ring) {
    for (u32 i = 0; i < sizeof instructions / sizeof instructions[0]; i++)
        for (u32 before = 1; before < instructions[i].length; before++) {
            u32 at = place(instructions[i].code, before, 0);
            for (u32 warm = 0; warm < 2; warm++) {
                refuses(ring, at, 0, 0);
                if (ring)
                    refuses(ring, at, SECOND_FRAME(0) | PT_P | PT_W, 1);
                /* The handler brings the page: the instruction runs once. */
                *pte(SECOND) = 0;
                invlpg(SECOND);
                filled = 0;
                trap_hook = fill_second;
                *(u32 *)PAGE(0) = 1000;
                RUNS(ring, (void *)at);
                trap_hook = NULL;
                EQ(filled, 1);
                if (instructions[i].code == increment)
                    EQ(*(u32 *)PAGE(0), 1001);
                if (instructions[i].code == prefixed)
                    EQ(*(u32 *)PAGE(0), 1000 + 0x11223344);
                EQ(*pte(SECOND) & (PT_A | PT_D), PT_A);
                RUNS(ring, (void *)at); /* hot, so that what is cached is tried next */
                RUNS(ring, (void *)at);
            }
        }
}

/* The second page is exchanged for one with another end of the immediate. */
static void second_page_changes(u32 ring) {
    for (u32 before = 1; before < 5; before++) {
        u32 at = place(immediate, before, 0);
        for (u32 n = 1; n < 4; n++) {
            place(immediate, before, n);
            ((u8 *)SECOND_FRAME(n))[4 - before] = (u8)(0x50 + n);
        }
        for (u32 i = 0; i < 12; i++) {
            u32 n = i % 4;
            map(SECOND, SECOND_FRAME(n), ALL);
            RUNS(ring, (void *)at);
            EQ(trap.eax, n ? 0x00223344u | (0x50 + n) << 24 : 0x11223344);
        }
        /* And written through another mapping. */
        map(SECOND, SECOND_FRAME(0), ALL);
        for (u32 i = 0; i < 6; i++) {
            ((volatile u8 *)SECOND_FRAME(0))[4 - before] = (u8)i;
            RUNS(ring, (void *)at);
            EQ(trap.eax, 0x00223344u | i << 24);
        }
    }
}

static void ends_with_the_page(u32 ring) {
    map(SECOND, 0, 0);
    for (u32 i = 0; i < 6; i++) {
        memcpy((void *)(FIRST_FRAME + 4096 - 7), immediate, 7); /* MOV, INT 80h */
        RUNS(ring, (void *)(SECOND - 7));
        EQ(trap.eax, 0x11223344);
        EQ(trap.eip, SECOND);
        memcpy((void *)(FIRST_FRAME + 4096 - 5), immediate, 5); /* then off the end */
        EQ(run(ring, (void *)(SECOND - 5)), V_PF);
        EQ(trap.eax, 0x11223344);
        EQ(trap.eip, SECOND);
        EQ(trap_cr2, SECOND);
    }
}

/* CR0.PG from a page that is mapped where it lies; the data page is not. */
CODE(toggle, "mov (%ecx),%eax; mov %cr0,%edx; and $0x7fffffff,%edx; mov %edx,%cr0; mov (%ecx),%ebx;"
             "addl $1,(%ecx); or $0x80000000,%edx; mov %edx,%cr0; mov (%ecx),%esi;"
             "addl $16,(%ecx); and $0x7fffffff,%edx; mov %edx,%cr0; mov (%ecx),%edi;"
             "or $0x80000000,%edx; mov %edx,%cr0; mov (%ecx),%ebp" DONE);
static void paging_toggled(void) {
    u32 virtual = PAGE(1), other = PAGE(2), saved = *pte(virtual);
    *(volatile u32 *)virtual = 100;
    *(volatile u32 *)other = 5000;
    *pte(virtual) = other | ALL;
    invlpg(virtual);
    for (u32 i = 0; i < 20; i++) {
        reset_run(0);
        in.ecx = virtual;
        RUNS(0, toggle);
        EQ(trap.eax, 5000 + 16 * i);
        EQ(trap.ebx, 100 + i);
        EQ(trap.esi, 5000 + 16 * i);
        EQ(trap.edi, 101 + i);
        EQ(trap.ebp, 5016 + 16 * i);
    }
    *pte(virtual) = saved;
    invlpg(virtual);
}

/* Two spaces, one address, different code; both rings; kernel code that differs, too. */
static u32 other_directory[1024] __attribute__((aligned(4096)));
static u32 other_table[1024] __attribute__((aligned(4096)));
static void two_codes(u32 ring) {
    memcpy(other_directory, page_directory, sizeof other_directory);
    memset(other_table, 0, sizeof other_table);
    for (u32 n = 0; n < 2; n++) {
        memcpy((void *)PAGE(4 + n), immediate, 16);
        *(u32 *)(PAGE(4 + n) + 1) = 0xc0de0000 + n;
    }
    map(AREA, PAGE(4), ALL);
    other_table[AREA >> 12 & 1023] = PAGE(5) | ALL;
    other_directory[AREA >> 22] = (u32)other_table | ALL;
    for (u32 i = 0; i < 20; i++) {
        write_cr3(i & 1 ? (u32)other_directory : (u32)page_directory);
        RUNS(ring, (void *)AREA);
        EQ(trap.eax, 0xc0de0000 + (i & 1));
        if (i == 9) { /* one of them rewritten while the other is in force */
            *(u32 *)(PAGE(4) + 1) = 0xc0de0000;
            *(u32 *)(PAGE(5) + 1) = 0xc0de0001;
        }
    }
    write_cr3((u32)page_directory);
    map(AREA, FIRST_FRAME, ALL);
}

void test(void) {
    write_cr4(read_cr4() | CR4_OSFXSR);
    paging_prepare();
    map(AREA, FIRST_FRAME, ALL);
    map(DATA, PAGE(0), ALL);
    paging_on();
    write_cr0(read_cr0() | CR0_WP);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        splits(ring);
        second_page_changes(ring);
        ends_with_the_page(ring);
        two_codes(ring);
    }
    paging_toggled();
    paging_off();
}
