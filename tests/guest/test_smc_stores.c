/*
 * Every kind of store, as the instruction right before the one it changes: moves, read-modify-write
 * and locked forms, strings (one that runs over itself, too), stack pushes of all sorts with ESP in
 * the code, x87 and SSE stores, state images; again and again, so that it happens in pages that
 * hold code, in pages that are known to mix code and data, and in rewritten immediates. SDM volume
 * 3A, section 9.1.3 "Handling Self- and Cross-Modifying Code".
 * Expected: the new instruction runs. The old one is INC EBX and the new one INC EDX, or the other
 * way round; the store brings one or more of them.
 * ROUNDS: 3
 */
#include "guest.h"

enum {
    REPEAT = 90,
    INC_EDX = 0x42,
    INC_EBX = 0x43,
    CODE_AT = 0x00cd0000, /* unused memory */
    SOURCE = CODE_AT + 0x8000
};

#define SHAPE(name, text)                                                                          \
    __asm__(".pushsection .text\n.globl " #name ", " #name "_end\n" #name ":\n" text "\n" #name    \
            "_end:\n.popsection");                                                                 \
    extern const u8 name[], name##_end[]
/* EDI: the target; ESI: the source, which holds what is to come; EBP likewise; EAX: the same. */
SHAPE(mov_byte, "mov %al,(%edi)");
SHAPE(mov_high, "mov %ah,(%edi)");
SHAPE(mov_word, "mov %ax,(%edi)");
SHAPE(mov_long, "mov %eax,(%edi)");
SHAPE(mov_moffs, "mov %eax,0x00cd1000");
SHAPE(xchg, "xchg %eax,(%edi)");
SHAPE(xor_byte, "xorb $1,(%edi)");
SHAPE(lock_xor, "lock xorl $1,(%edi)");
SHAPE(lock_btc, "lock btcl $0,(%edi)");
SHAPE(btc_reg, "xor %ecx,%ecx; btc %ecx,(%edi)");
SHAPE(xadd, "mov %ebp,%ecx; sub (%edi),%ecx; lock xadd %ecx,(%edi)");
SHAPE(cmpxchg, "mov (%edi),%eax; lock cmpxchg %ebp,(%edi)");
SHAPE(stosb, "stosb");
SHAPE(stosl, "stosl");
SHAPE(movsb, "movsb");
SHAPE(movsl, "movsl");
SHAPE(rep_movsb, "mov $9,%ecx; rep movsb");
SHAPE(rep_movsl, "mov $3,%ecx; rep movsl");
SHAPE(rep_stosl, "mov $1,%ecx; rep stosl");
SHAPE(movnti, "movnti %eax,(%edi)");
SHAPE(pop_mem, "mov %esi,%esp; pop (%edi)");
SHAPE(push_reg, "lea 4(%edi),%esp; push %eax");
SHAPE(push_mem, "lea 4(%edi),%esp; pushl (%esi)");
SHAPE(pusha_all, "lea 4(%edi),%esp; pusha");
SHAPE(enter_0, "lea 4(%edi),%esp; enter $0,$0");
SHAPE(enter_locals, "lea 4(%edi),%esp; enter $64,$0");
SHAPE(movd, "movd (%esi),%xmm0; movd %xmm0,(%edi)");
SHAPE(movq_mmx, "movq (%esi),%mm0; movq %mm0,(%edi); emms");
SHAPE(movups, "movups (%esi),%xmm0; movups %xmm0,(%edi)");
SHAPE(movaps, "movups (%esi),%xmm0; movaps %xmm0,(%edi)");
SHAPE(movntps, "movups (%esi),%xmm0; movntps %xmm0,(%edi)");
SHAPE(fistp, "fildll (%esi); fistpll (%edi)");
SHAPE(fnsave, "fildl (%esi); fldt 16(%esi); fnsave -28(%edi)");
SHAPE(fxsave, "movups (%esi),%xmm0; fxsave -160(%edi)");

enum { FLOATS = 1 };
static const struct shape {
    const char *name;
    const u8 *start, *end;
    u32 flags;
} shapes[] = {
#define ROW(name, flags)                                                                           \
    { #name, name, name##_end, flags }
    ROW(mov_byte, 0),    ROW(mov_high, 0),     ROW(mov_word, 0),     ROW(mov_long, 0),
    ROW(mov_moffs, 0),   ROW(xchg, 0),         ROW(xor_byte, 0),     ROW(lock_xor, 0),
    ROW(lock_btc, 0),    ROW(btc_reg, 0),      ROW(xadd, 0),         ROW(cmpxchg, 0),
    ROW(stosb, 0),       ROW(stosl, 0),        ROW(movsb, 0),        ROW(movsl, 0),
    ROW(rep_movsb, 0),   ROW(rep_movsl, 0),    ROW(rep_stosl, 0),    ROW(movnti, 0),
    ROW(pop_mem, 0),     ROW(push_reg, 0),     ROW(push_mem, 0),     ROW(pusha_all, 0),
    ROW(enter_0, 0),     ROW(enter_locals, 0), ROW(movd, FLOATS),    ROW(movq_mmx, FLOATS),
    ROW(movups, FLOATS), ROW(movaps, FLOATS),  ROW(movntps, FLOATS), ROW(fistp, FLOATS),
    ROW(fnsave, FLOATS), ROW(fxsave, FLOATS),
};

/* inc; inc; int $0x80 */
static u32 increments(u8 first, u8 second) {
    return first | (u32)second << 8 | 0x80cd0000;
}

/* The shape in front of the target, whose two increments are `old` and `new`. */
static void write_code(const struct shape *s, u32 target, u8 old, u8 new) {
    u32 length = (u32)(s->end - s->start);
    memcpy((void *)(target - length), s->start, length);
    u32 *at = (u32 *)target;
    at[0] = increments(old, new);
    for (u32 i = 1; i < 16; i++)
        at[i] = 0x80cd80cd;
    /* What is stored, the 80-bit number whose significand it is, and the rest as in the code. */
    u32 *source = (u32 *)SOURCE;
    source[0] = increments(new, new);
    for (u32 i = 1; i < 4; i++)
        source[i] = 0x80cd80cd;
    source[4] = increments(new, new);
    source[5] = 0x80cd80cd;
    *(u16 *)&source[6] = 0x3fff;
}

static void run_shape(const struct shape *s, u32 ring, u32 target) {
    for (u32 i = 0; i < REPEAT; i++) {
        u8 new = i & 1 ? INC_EBX : INC_EDX, old = new ^ 1;
        write_code(s, target, old, new);
        reset_run(ring);
        in.esi = SOURCE;
        in.edi = target;
        in.eax = in.ebp = increments(new, new);
        RUNS(ring, (void *)(target - (u32)(s->end - s->start)));
        if (trap.edx != 2 * (new == INC_EDX) || trap.ebx != 2 * (new == INC_EBX)) {
            print(s->name);
            print(": ");
            EQ(trap.edx, 2 * (new == INC_EDX));
            EQ(trap.ebx, 2 * (new == INC_EBX));
        }
    }
}

/* CALL pushes 0080CD42h or 0080CD43h, in memory 42 CD 80 00: inc; int $0x80. That is what it
 * calls. */
static u32 write_call(u32 target, u8 new) {
    u32 behind = 0x0080cd00 | new;
    u8 *call = (u8 *)behind - 8;
    memcpy(call, "\x8d\x67\x04\xe8", 4); /* lea 4(%edi),%esp; call */
    u32 displacement = target - behind;
    memcpy(call + 4, &displacement, 4);
    return behind - 8;
}

static void calls(u32 ring, u32 target) {
    for (u32 i = 0; i < REPEAT; i++) {
        u8 new = i & 1 ? INC_EBX : INC_EDX;
        *(u32 *)target = 0x0080cd00 | (new ^ 1);
        reset_run(ring);
        in.edi = target;
        RUNS(ring, (void *)write_call(target, new));
        EQ(trap.edx, new == INC_EDX);
        EQ(trap.ebx, new == INC_EBX);
    }
}

/* The same by a far call at ring 0. */
static void far_calls(u32 target) {
    for (u32 i = 0; i < REPEAT; i++) {
        u8 new = i & 1 ? INC_EBX : INC_EDX;
        u32 behind = 0x0080cd00 | new, selector = KERNEL_CODE;
        u8 *call = (u8 *)behind - 10;
        memcpy(call, "\x8d\x67\x08\x9a", 4); /* lea 8(%edi),%esp; lcall */
        memcpy(call + 4, &target, 4);
        memcpy(call + 8, &selector, 2);
        *(u32 *)target = 0x0080cd00 | (new ^ 1);
        reset_run(0);
        in.edi = target;
        RUNS(0, call);
        EQ(trap.edx, new == INC_EDX);
        EQ(trap.ebx, new == INC_EBX);
    }
}

/* INT pushes its return address into what the code then calls. */
CODE(iret_only, "iret");
static void interrupt_frames(u32 target) {
    idt_set(0x90, gate((u32)iret_only, KERNEL_CODE, 0xee));
    for (u32 i = 0; i < REPEAT; i++) {
        u8 new = i & 1 ? INC_EBX : INC_EDX;
        u8 *code = (u8 *)(0x0080cd00 | new) - 5;
        memcpy(code, "\x8d\x67\x0c\xcd\x90\xff\xe7", 7); /* lea 12(%edi),%esp; int; jmp *%edi */
        *(u32 *)target = 0x0080cd00 | (new ^ 1);
        reset_run(0);
        in.edi = target;
        RUNS(0, code);
        EQ(trap.edx, new == INC_EDX);
        EQ(trap.ebx, new == INC_EBX);
    }
    idt_set(0x90, default_gate(0x90));
}

/* A REP that runs over itself: what it stores is what was there, but behind it. */
__asm__(".pushsection .text\n.globl over_itself, over_itself_end\nover_itself: rep movsb\n"
        "inc %ebx; inc %ebx; int $0x80\nover_itself_end:\n.popsection");
extern const u8 over_itself[], over_itself_end[];
static void rep_over_itself(u32 ring, u32 at) {
    u32 length = (u32)(over_itself_end - over_itself);
    for (u32 i = 0; i < REPEAT; i++) {
        memcpy((void *)at, over_itself, length);
        memcpy((void *)SOURCE, over_itself, length);
        *(u8 *)(SOURCE + 2) = *(u8 *)(SOURCE + 3) = i & 1 ? INC_EBX : INC_EDX;
        reset_run(ring);
        in.esi = SOURCE;
        in.edi = at;
        in.ecx = length;
        RUNS(ring, (void *)at);
        EQ(trap.ecx, 0);
        EQ(trap.edx, i & 1 ? 0 : 2);
        EQ(trap.ebx, i & 1 ? 2 : 0);
    }
}

static void all(u32 ring) {
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (u32 i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (!(shapes[i].flags & FLOATS) || (cpuid(1).edx & 1 << 25))
            run_shape(&shapes[i], ring, CODE_AT + 0x1000);
    /* The store in one page, what it changes in the next, or the store itself in two. */
    run_shape(&shapes[3], ring, CODE_AT + 0x3000);
    run_shape(&shapes[3], ring, CODE_AT + 0x3001);
    run_shape(&shapes[3], ring, CODE_AT + 0x2fff);
    run_shape(&shapes[7], ring, CODE_AT + 0x3002);
    calls(ring, CODE_AT + 0x4100);
    if (ring == 0) {
        far_calls(CODE_AT + 0x5100);
        interrupt_frames(CODE_AT + 0x5200);
    }
    rep_over_itself(ring, CODE_AT + 0x6100);
}

void test(void) {
    for (u32 paged = 0; paged < 2; paged++) {
        if (paged) {
            paging_prepare();
            paging_on();
        }
        for (u32 ring = 0; ring <= 3; ring += 3)
            all(ring);
    }
    paging_off();
}
