/*
 * The rules of CPL, RPL, DPL and type as one table: all 16 types of segment and all four levels of
 * each, present or not, loaded into a data segment register, into SS, and into CS by far JMP, far
 * CALL, far RET, IRET, and through call gates of every DPL. SDM volume 3A, sections 5.6 to 5.8,
 * figures 5-4 to 5-12; volume 2, "MOV", "JMP", "CALL", "RET", "IRET".
 * Expected: what a model of those sections says: the new CS (or selector), or the vector and the
 * selector in its error code, at the ring where it happened and with EIP at the instruction.
 * ROUNDS: 1
 * SECONDS: 60
 */
#include "rings.h"

enum { TARGET = FREE_GDT, GATE };
struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pm_far;
CODE(load_ds, "mov %ecx,%ds; mov %ds,%eax" DONE);
CODE(load_gs, "mov %ecx,%gs; mov %gs,%eax" DONE);
CODE(load_ss, "mov %ecx,%ss; mov %ss,%eax" DONE);
CODE(jump, "ljmp *pm_far");
CODE(call, "lcall *pm_far");
/* EDI:ESI = SS:ESP of the outer ring */
CODE(far_ret, "push %edi; push %esi; push %ecx; push $landed; .globl at_lret\nat_lret: lret");
CODE(int_ret,
     "push %edi; push %esi; push $2; push %ecx; push $landed; .globl at_iret\nat_iret: iret");
CODE(landed, "mov %cs,%eax; mov %ss,%ebx" DONE);
extern const u8 at_lret[], at_iret[];

struct outcome {
    u32 vector, error, cs;
};
struct target {
    u32 cpl, rpl, dpl, type;
    bool present;
};
static bool is_code(const struct target *t) {
    return t->type & 8;
}
static bool conforming(const struct target *t) {
    return (t->type & 12) == 12;
}
static struct outcome fault(u32 vector) {
    return (struct outcome){vector, TARGET << 3, 0};
}
static struct outcome arrives(const struct target *t, u32 cpl) {
    return t->present ? (struct outcome){V_DONE, 0, TARGET << 3 | cpl} : fault(V_NP);
}

static struct outcome data_rule(const struct target *t) {
    if (is_code(t) && !(t->type & 2))
        return fault(V_GP);
    if (!conforming(t) && (t->rpl > t->dpl || t->cpl > t->dpl))
        return fault(V_GP);
    return arrives(t, t->rpl);
}
static struct outcome stack_rule(const struct target *t) {
    if (is_code(t) || !(t->type & 2) || t->rpl != t->cpl || t->dpl != t->cpl)
        return fault(V_GP);
    return t->present ? arrives(t, t->rpl) : fault(V_SS);
}
static struct outcome direct_rule(const struct target *t) {
    if (!is_code(t) || (conforming(t) ? t->dpl > t->cpl : t->rpl > t->cpl || t->dpl != t->cpl))
        return fault(V_GP);
    return arrives(t, t->cpl);
}
static struct outcome return_rule(const struct target *t) {
    if (!is_code(t) || t->rpl < t->cpl || (conforming(t) ? t->dpl > t->rpl : t->dpl != t->rpl))
        return fault(V_GP);
    return arrives(t, t->rpl);
}
/* A gate of gate_dpl, named with RPL gate_rpl, to the target; the RPL in the gate does not count.
 */
static struct outcome gate_rule(const struct target *t, u32 gate_dpl, u32 gate_rpl, bool is_call) {
    if (gate_dpl < t->cpl || gate_dpl < gate_rpl)
        return (struct outcome){V_GP, GATE << 3, 0};
    bool inward = is_call || conforming(t);
    if (!is_code(t) || (inward ? t->dpl > t->cpl : t->dpl != t->cpl))
        return fault(V_GP);
    return arrives(t, conforming(t) ? t->cpl : t->dpl);
}

static void expect(const struct target *t, const u8 *code, const u8 *at, struct outcome o) {
    u32 vector = run_at(t->cpl, code);
    EQ(vector, o.vector);
    if (o.vector == V_DONE && vector == V_DONE) {
        EQ(trap.eax & 0xffff, o.cs);
        return;
    }
    EQ(trap.error, o.error);
    EQ(trap.eip, at);
    EQ(trap.cs & 0xffff, ring_code(t->cpl));
}

static void begin(const struct target *t) {
    bool expand_down = (t->type & 12) == 4; /* of 4 GiB, too: a stack must hold the next trap */
    u8 access = (u8)((t->present ? 0x90 : 0x10) | t->dpl << 5 | t->type);
    gdt_set(TARGET, descriptor(0, expand_down ? 0 : 0xfffff, access, expand_down ? 4 : 12));
    reset_at(t->cpl);
    in.ecx = TARGET << 3 | t->rpl;
    in.edi = ring_data(t->rpl);
    in.esi = ring_stack(t->rpl);
    pm_far.offset = (u32)landed;
    pm_far.selector = (u16)in.ecx;
}

static void one(const struct target *t) {
    begin(t);
    expect(t, load_ds, load_ds, data_rule(t));
    begin(t);
    expect(t, load_gs, load_gs, data_rule(t));
    begin(t);
    expect(t, load_ss, load_ss, stack_rule(t));
    begin(t);
    expect(t, jump, jump, direct_rule(t));
    begin(t);
    expect(t, call, call, direct_rule(t));
    begin(t);
    expect(t, far_ret, at_lret, return_rule(t));
    begin(t);
    expect(t, int_ret, at_iret, return_rule(t));
}

static void through_gate(const struct target *t) {
    for (u32 gate_dpl = 0; gate_dpl < 4; gate_dpl++)
        for (u32 gate_rpl = 0; gate_rpl < 4; gate_rpl++)
            for (u32 is_call = 0; is_call < 2; is_call++) {
                /* QEMU lets conforming code change the ring, and jumps to what is not present give
                 * #GP. */
                if (is_tcg() && (is_call ? conforming(t) && t->dpl < t->cpl : !t->present))
                    continue;
                begin(t);
                gdt_set(GATE,
                        gate((u32)landed, (u16)(TARGET << 3 | t->rpl), (u8)(0x8c | gate_dpl << 5)));
                pm_far.offset = 0;
                pm_far.selector = (u16)(GATE << 3 | gate_rpl);
                const u8 *code = is_call ? call : jump;
                expect(t, code, code, gate_rule(t, gate_dpl, gate_rpl, is_call));
            }
}

void test(void) {
    rings_prepare();
    tss.ss1 = ring_data(1), tss.esp1 = ring_stack(1);
    tss.ss2 = ring_data(2), tss.esp2 = ring_stack(2);
    for (u32 i = 0; i < 4 * 4 * 4 * 16 * 2; i++) {
        struct target t = {.cpl = i & 3,
                           .rpl = i >> 2 & 3,
                           .dpl = i >> 4 & 3,
                           .type = i >> 6 & 15,
                           .present = !(i >> 10 & 1)};
        one(&t);
        /* Gates look at few types: data, code, conforming code. */
        if (t.type == 2 || ((t.type == 10 || t.type == 14) && (t.rpl & 1)))
            through_gate(&t);
    }
    gdt_set(TARGET, 0);
    gdt_set(GATE, 0);
    rings_remove();
}
