/*
 * Every kind of segment at all its edges: byte and page granular limits, expand-down with 16-bit
 * and 32-bit upper bounds, read-only, execute-only, readable and conforming code, limits of zero,
 * bases that wrap at 4 GiB; read and written through each segment register, in sizes from 1 to 16
 * bytes. SDM volume 3A, sections 5.3 "Limit Checking", 5.4 "Type Checking" and 3.4.5.1.
 * Expected: what a model of those rules says, for each combination: the bytes, or #GP(0), or #SS(0)
 * through SS, with EIP at the access and nothing changed. An access across the top of a segment of
 * 4 GiB is left out: there the manual leaves the choice to the processor.
 * QEMU: TCG checks no segment limits and no types
 * UNPAGED: an emulating carrier checks no limits of untranslated code
 * ROUNDS: 2
 * SECONDS: 60
 */
#include "guest.h"

enum { BASE = 0x8000 };
static const struct kind {
    u8 access, flags;
    u32 limit;
} kinds[] = {
    {0xf2, 4, 0x1ff},    {0xf2, 0, 0x1ff},   {0xf2, 12, 1},       {0xf0, 4, 0x1ff},
    {0xf2, 4, 0},        {0xf2, 4, 0xfffff}, {0xf2, 12, 0xfffff}, {0xf0, 12, 0xfffff},
    {0xf6, 4, 0xfff},    {0xf6, 0, 0xfff},   {0xf4, 4, 0xfff},    {0xf6, 12, 1},
    {0xf6, 12, 0xfffff}, {0xf6, 4, 0},       {0xf6, 0, 0xffff},   {0xf6, 0, 0xfffe},
    {0xfa, 4, 0x1ff},    {0xf8, 4, 0x1ff},   {0xfe, 4, 0x1ff},    {0xfc, 12, 0xfffff},
};

/* Load and store of 1, 2, 4, 8 and 16 bytes at ECX through a segment. */
#define FORMS(seg)                                                                                 \
    CODE(seg##_l1, "movb %" #seg ":(%ecx),%al" DONE);                                              \
    CODE(seg##_l2, "movw %" #seg ":(%ecx),%ax" DONE);                                              \
    CODE(seg##_l4, "movl %" #seg ":(%ecx),%eax" DONE);                                             \
    CODE(seg##_l8, "movq %" #seg ":(%ecx),%mm0; movd %mm0,%eax; emms" DONE);                       \
    CODE(seg##_l16, "movups %" #seg ":(%ecx),%xmm0; movd %xmm0,%eax" DONE);                        \
    CODE(seg##_s1, "movb %al,%" #seg ":(%ecx)" DONE);                                              \
    CODE(seg##_s2, "movw %ax,%" #seg ":(%ecx)" DONE);                                              \
    CODE(seg##_s4, "movl %eax,%" #seg ":(%ecx)" DONE);                                             \
    CODE(seg##_s8, "movd %eax,%mm0; punpckldq %mm0,%mm0; movq %mm0,%" #seg ":(%ecx); emms" DONE);  \
    CODE(seg##_s16, "movd %eax,%xmm0; pshufd $0,%xmm0,%xmm0; movups %xmm0,%" #seg ":(%ecx)" DONE)
FORMS(ds);
FORMS(es);
FORMS(fs);
FORMS(gs);
FORMS(ss);
#define ROW(seg)                                                                                   \
    {                                                                                              \
        {seg##_l1, seg##_l2, seg##_l4, seg##_l8, seg##_l16}, {                                     \
            seg##_s1, seg##_s2, seg##_s4, seg##_s8, seg##_s16                                      \
        }                                                                                          \
    }
static const u8 *const forms[5][2][5] = {ROW(ds), ROW(es), ROW(fs), ROW(gs), ROW(ss)};
enum { THROUGH_SS = 4 };

static bool may(const struct kind *k, u32 offset, u32 bytes, bool write) {
    u64 limit = k->flags & 8 ? (u64)k->limit << 12 | 0xfff : k->limit;
    u64 first = offset, last = (u64)offset + bytes - 1;
    bool code = k->access & 8, bit1 = k->access & 2, expand_down = !code && (k->access & 4);
    if (code ? write || !bit1 : write && !bit1)
        return false;
    if (!expand_down)
        return last <= limit;
    u64 top = k->flags & 4 ? 0xffffffff : 0xffff;
    return first > limit && last <= top;
}

static void access(u32 reg, u32 ring, const struct kind *k, u16 selector, u32 offset, u32 size,
                   bool write) {
    u32 bytes = 1u << size;
    u8 *at = (u8 *)(SCRATCH + BASE + offset);
    bool inside = (u32)(at - scratch) < sizeof scratch - 16;
    if (!inside && write)
        return; /* the library's own memory */
    u32 value = 0x1020304u * (offset | 1) ^ bytes, before = inside ? *(u32 *)at : 0;
    reset_run(ring);
    u32 *const selectors[5] = {&in.ds, &in.es, &in.fs, &in.gs, &in.ss};
    *selectors[reg] = selector;
    in.ecx = offset;
    in.eax = value;
    const u8 *code = forms[reg][write][size];
    u32 vector = run(ring, code);
    u32 mask = size >= 2 ? 0xffffffff : (1u << 8 * bytes) - 1;
    if (may(k, offset, bytes, write)) {
        EQ(vector, V_DONE);
        if (write)
            EQ(*(u32 *)at & mask, value & mask);
        else if (inside)
            EQ(trap.eax & mask, before & mask);
        return;
    }
    EQ(vector, reg == THROUGH_SS ? V_SS : V_GP);
    EQ(trap.error, 0);
    CHECK(trap.eip >= (u32)code && trap.eip < (u32)code + 12);
    if (inside)
        EQ(*(u32 *)at, before);
}

static void edges(const struct kind *k, u16 selector, u32 reg, u32 ring) {
    u32 limit = k->flags & 8 ? k->limit << 12 | 0xfff : k->limit;
    static const u8 back[] = {16, 15, 8, 7, 4, 3, 2, 1, 0};
    u32 tops[4] = {limit + 1, 0x10000, 0x2000, 0x17};
    for (u32 edge = 0; edge < 4; edge++)
        for (u32 i = 0; i < sizeof back; i++)
            for (u32 form = 0; form < 10; form++) {
                u32 offset = tops[edge] - back[i], size = form >> 1;
                if (offset + (1u << size) - 1 < offset)
                    continue; /* across 4 GiB */
                access(reg, ring, k, selector, offset, size, form & 1);
            }
}

void test(void) {
    write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
    write_cr4(read_cr4() | CR4_OSFXSR);
    for (u32 i = 0; i < sizeof scratch; i += 4)
        *(u32 *)(scratch + i) = i * 0x9e3779b1u;
    for (u32 i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *k = &kinds[i];
        u16 selector = gdt_set(FREE_GDT, descriptor(SCRATCH + BASE, k->limit, k->access, k->flags));
        bool readable = !(k->access & 8) || (k->access & 2);
        for (u32 reg = 0; readable && reg < 4; reg++)
            edges(k, selector, reg, (i + reg) & 1 ? 3 : 0);
        if ((k->access & 0xa) == 2)
            edges(k, selector, THROUGH_SS, 3);
    }
    /* Null selectors: every use is #GP(0), and the selector alone faults nothing. */
    for (u32 reg = 0; reg < 4; reg++)
        for (u32 null = 0; null < 4; null++)
            for (u32 form = 0; form < 10; form++)
                access(reg, 3, &(struct kind){0xf8, 0, 0}, (u16)null, form * 3, form >> 1,
                       form & 1);
    gdt_set(FREE_GDT, 0);
}
