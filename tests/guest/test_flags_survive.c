/*
 * Flags between the instruction that sets them and the branch that uses them, across everything
 * that may stand between: page boundaries, jumps, calls and returns, loads of segment registers,
 * memory that faults (visibly or not), CLI and STI, interrupts, port accesses, code executed for
 * the first time. The code is generated anew from a seed each time, so that it is met cold, warm
 * and hot. SDM volume 1, section 3.4.3.1 "Status Flags".
 * Expected: no branch goes the wrong way (each would end in UD2 at its own address). The kernel
 * command line can narrow it: storm=0 (no interrupts), fillers=MASK (bit n: case n of filler()).
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

enum { CODE_BYTES = 96 << 10, AREA = 0x30000000, BLOCKS = 700 };
static u8 *at;
static u32 seed = 99;
static volatile u32 ticks;

static u32 random(u32 limit) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 10) % limit;
}

static void byte(u8 value) {
    *at++ = value;
}
static void bytes(const char *text, u32 count) {
    memcpy(at, text, count);
    at += count;
}
#define B(text) bytes(text, sizeof text - 1)
static void word(u32 value) {
    memcpy(at, &value, 4);
    at += 4;
}

/* Something that sets flags; the conditions (by number) that then hold are known. */
static u32 set_flags(void) {
    switch (random(6)) {
    case 0:
        B("\x31\xc0\x85\xc0"); /* xor eax,eax; test eax,eax */
        return 4;              /* E */
    case 1:
        B("\xb8\x05\0\0\0\x85\xc0"); /* mov eax,5; test eax,eax */
        return 5;                    /* NE */
    case 2:
        B("\xb8\x05\0\0\0\x83\xf8\x07"); /* cmp eax,7 */
        return 2;                        /* B */
    case 3:
        B("\xb8\xff\xff\xff\x7f\x83\xc0\x01"); /* add 1 to 7fffffff */
        return 0;                              /* O */
    case 4:
        B("\xb8\xf0\xff\xff\xff\x3d\x10\0\0\0"); /* cmp eax,10h with a negative eax */
        return 12;                               /* L */
    default:
        B("\xf9\xb8\x01\0\0\0\x48"); /* stc; mov eax,1; dec eax: carry stays */
        return random(2) ? 2 : 4;
    }
}

/* Something that leaves all flags alone. */
static void filler(u32 ring) {
    u32 kind = random(16);
    if (!(option("fillers", 0xffff) >> kind & 1))
        return;
    switch (kind) {
    case 0:
        break;
    case 1: /* jump ahead, often to another page */
        byte(0xe9);
        {
            u32 distance = random(3) ? random(40) : 4096 - ((u32)at & 4095);
            word(distance);
            memset(at, 0xcc, distance);
            at += distance;
        }
        break;
    case 2:
        B("\x50\x5a\x9c\x9d"); /* push eax; pop edx; pushf; popf */
        break;
    case 3: /* call and return */
        B("\xe8\x03\0\0\0\xeb\x02\x90\xc3\x90");
        break;
    case 4:
        B("\x8b\x0f\x89\x0e"); /* mov ecx,[edi]; mov [esi],ecx */
        break;
    case 5: /* a page that is mapped and not yet seen */
        B("\x8b\x8b");
        word(AREA + random(512) * 4096); /* mov ecx,[ebx+...] */
        break;
    case 6:
        B("\x89\x8b");
        word(AREA + random(512) * 4096); /* mov [ebx+...],ecx */
        break;
    case 7:                    /* a load of a segment register */
        B("\x8c\xe1\x8e\xe1"); /* mov ecx,fs; mov fs,ecx */
        break;
    case 8:
        B("\x8c\xd9\x8e\xc1"); /* mov ecx,ds; mov es,ecx */
        break;
    case 9:
        if (ring)
            B("\x90");
        else
            B("\xfa\x90\xfb\x90"); /* cli; nop; sti; nop */
        break;
    case 10:
        if (!ring)
            B("\xe6\x80"); /* out 80h */
        break;
    case 11: /* an indirect jump */
        byte(0xb9);
        word((u32)at + 4 + 2 + 3);
        B("\xff\xe1\xcc\xcc\xcc");
        break;
    case 12: /* an indirect call */
        byte(0xb9);
        word((u32)at + 4 + 2 + 2);
        B("\xff\xd1\xeb\x01\xc3");
        break;
    case 13: /* push and ret */
        byte(0x68);
        word((u32)at + 4 + 1);
        byte(0xc3);
        break;
    case 14:
        B("\xcd\x92"); /* a trap that resumes */
        break;
    default:
        B("\x8d\x49\x01\xf7\xd1\x87\xca"); /* lea ecx,[ecx+1]; not ecx; xchg edx,ecx */
    }
}

/* jcc over a UD2, in the short or the near form; or the opposite condition to a UD2 far away. */
static void branch(u32 condition) {
    if (random(2)) {
        byte((u8)(0x70 | condition));
        byte(2);
        B("\x0f\x0b");
    } else {
        byte(0x0f);
        byte((u8)(0x80 | (condition ^ 1)));
        word(2);
        B("\xeb\x02\x0f\x0b");
    }
}

static void generate(u32 ring) {
    at = scratch;
    for (u32 i = 0; i < BLOCKS && at < scratch + CODE_BYTES; i++) {
        u32 condition = set_flags();
        for (u32 n = random(3); n; n--)
            filler(ring);
        branch(condition);
    }
    B("\xcd\x80");
}

static bool resume(struct frame *f) {
    return f->vector == 0x92;
}

static void on_irq(u32 line, struct frame *f) {
    ticks++;
    __asm__ volatile("mov $-1,%%eax; shr $1,%%eax; add $1,%%eax" ::: "eax", "cc");
}

static void unmap_and_map(void) {
    for (u32 page = 0; page < 512; page++)
        *pte(AREA + page * 4096) = (20u << 20) + page * 4096 + (PT_P | PT_W | PT_U);
    write_cr3(read_cr3());
}

void test(void) {
    paging_prepare();
    unmap_and_map();
    paging_on();
    idt_set(0x92, gate((u32)trap_stubs + 16 * 0x92, KERNEL_CODE, 0xee));
    trap_hook = resume;
    irq_hook = on_irq;
    ticks = 0;
    pic_init(0xfffe);
    if (option("storm", 1))
        pit_start(5000);
    for (u32 i = 0; i < 10; i++) {
        u32 ring = i & 1 ? 3 : 0;
        generate(ring);
        for (u32 again = 0; again < 24; again++) {
            if ((again & 3) == 0)
                unmap_and_map();
            reset_run(ring);
            in.eflags |= F_IF;
            in.esp = USER_STACK_TOP;
            in.esi = SCRATCH + sizeof scratch - 4096;
            in.edi = in.esi + 64;
            RUNS(ring, scratch);
        }
    }
    pit_stop();
    CHECK(ticks > 5 || !option("storm", 1));
    trap_hook = NULL;
    irq_hook = NULL;
    idt_set(0x92, default_gate(0x92));
    paging_off();
}
