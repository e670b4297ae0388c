/*
 * test_fuzz.c: random bytes as code in random machine states. Whatever a guest executes, the
 * interpreter comes back, and a fault has changed nothing (REP strings excepted: they stop between
 * iterations).
 */
#include "interp_fixture.h"

#include "isa/insn.h"

#include <stdio.h>
#include <stdlib.h>

static u64 seed_state = 88172645463325252ull;
static u32 rnd(void) {
    seed_state ^= seed_state << 13;
    seed_state ^= seed_state >> 7;
    seed_state ^= seed_state << 17;
    return (u32)(seed_state >> 16);
}
static bool one_in(u32 n) {
    return rnd() % n == 0;
}

#define PD_BASE 0x4000u
#define TSS_BASE 0x6000u

/* Any descriptor type but those that lead to a task switch, which may fault when it has passed the
 * point of no return: SDM volume 3, section 7.3 "Task Switching". */
static u8 random_type(void) {
    u8 type = (u8)rnd();
    bool task = !(type & 0x10) && BIT(type & 15) & (BIT(1) | BIT(3) | BIT(5) | BIT(9) | BIT(11));
    return task ? type | 0x10 : type;
}

/* Descriptor tables of mostly valid entries. */
static void random_tables(struct guest *g) {
    static const u8 types[] = {0x9b, 0x93, 0xfb, 0xf3, 0x9f, 0x97, 0x82, 0x8c, 0xec};
    for (u32 i = 0; i < 8; i++) {
        u64 type = one_in(8) ? random_type() : types[rnd() % ARRAY_LEN(types)];
        u64 flags = one_in(2) ? 0xcfull : rnd() & 0xff;
        store64(guest_at(g, GDT_BASE + 8 * i), flags << 48 | type << 40 | 0xffff);
    }
    for (u32 i = 0; i < 256; i++) {
        u64 type = one_in(4) ? random_type() : 0xee, selector = (rnd() % 8) * 8;
        store64(guest_at(g, IDT_BASE + 8 * i),
                (u64)(CODE_BASE >> 16) << 48 | type << 40 | selector << 16 | (rnd() & 0xff));
    }
    for (u32 i = 0; i < 0x68; i += 4)
        store32(guest_at(g, TSS_BASE + i), one_in(4) ? rnd() : STACK_TOP);
    for (u32 i = 0; i < 1024; i++)
        store32(guest_at(g, PD_BASE + 4 * i), one_in(64) ? rnd() : (i % 4) << 22 | 0x87);
}

static void random_state(struct guest *g) {
    struct cpu *cpu = g->cpu;
    guest_reset(g, one_in(2) ? 3 : 0);
    random_tables(g);
    cpu->seg[SEG_TR] =
        (struct segment){.selector = 0x30, .attr = ATTR_P | 11, .limit = 0x67, .base = TSS_BASE};
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = one_in(3) ? rnd() : DATA_BASE + (rnd() & 0xffff);
    cpu->gpr[R_ESP] = one_in(8) ? rnd() : STACK_TOP;
    cpu->eflags = F_FIXED | (rnd() & (F_ARITH | F_DF | F_IF | F_AC | F_NT | F_IOPL));
    if (one_in(8))
        cpu->eflags |= rnd() & (F_TF | F_RF);
    if (one_in(8)) {
        cpu->dr[0] = DATA_BASE + (rnd() & 0xffff);
        cpu->dr[1] = CODE_BASE + (rnd() & 7);
        cpu->dr[7] = 0x400 | (rnd() & 0xffff00ff);
    }
    if (one_in(4))
        cpu->seg[rnd() % 6].attr &= ~(u32)ATTR_DB;
    if (one_in(4))
        cpu->seg[rnd() % 6].limit = rnd() >> (rnd() & 31);
    if (one_in(6)) { /* real mode or V86 */
        bool v86 = one_in(2);
        cpu->cr4 |= v86 ? rnd() & CR4_VME : 0;
        cpu->eflags |= v86 ? rnd() & (F_VIF | F_VIP) : 0;
        cpu->cpl = v86 ? 3 : 0;
        cpu->eflags |= v86 ? F_VM : 0;
        cpu->cr0 = v86 ? cpu->cr0 : CR0_ET;
        for (unsigned s = 0; s < 6; s++)
            cpu->seg[s] =
                (struct segment){.selector = CODE_BASE >> 8,
                                 .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | (v86 ? ATTR_DPL : 0),
                                 .limit = 0xffff,
                                 .base = CODE_BASE};
        cpu->eip = 0;
    } else if (one_in(3)) {
        cpu->cr3 = PD_BASE;
        cpu->cr4 = CR4_PSE | (rnd() & (CR4_PGE | CR4_DE));
        cpu->cr0 |= CR0_PG | (rnd() & (CR0_WP | CR0_AM | CR0_TS | CR0_EM | CR0_MP));
    }
    mmu_mode_changed(cpu);
}

static bool is_rep_string(const u8 *code, bool code32) {
    struct insn in;
    if (insn_decode(&in, code, 15, code32, true) != INSN_OK)
        return false;
    return in.map == 0 && (in.rep || in.repne) &&
           ((in.opcode >= 0xa4 && in.opcode <= 0xaf) || (in.opcode & 0xfc) == 0x6c);
}

static bool same_segments(const struct cpu *a, const struct cpu *b) {
    for (unsigned s = 0; s < SEG_COUNT; s++)
        if (a->seg[s].selector != b->seg[s].selector || a->seg[s].base != b->seg[s].base ||
            a->seg[s].limit != b->seg[s].limit)
            return false;
    return true;
}

static bool unchanged(const struct cpu *now, const struct cpu *before) {
    return now->eip == before->eip && now->eflags == before->eflags && now->cpl == before->cpl &&
           !memcmp(now->gpr, before->gpr, sizeof now->gpr) && same_segments(now, before) &&
           now->cr0 == before->cr0 && now->cr3 == before->cr3 && now->cr4 == before->cr4 &&
           now->insn_count == before->insn_count;
}

/* After a fault that is not a debug trap: everything as before. `code` was at EIP. */
static void check_unchanged(struct guest *g, const struct cpu *before, const u8 *code) {
    struct insn in;
    char text[96] = "?";
    if (unchanged(g->cpu, before))
        return;
    if (insn_decode(&in, code, 15, before->seg[SEG_CS].attr & ATTR_DB, true) == INSN_OK)
        insn_format(&in, before->eip, text, sizeof text);
    fail_msg("'%s' at %08x (cpl %u, eflags %08x) raised %u and left eip %08x eflags %08x", text,
             before->eip, before->cpl, before->eflags, g->cpu->fault.vector, g->cpu->eip,
             g->cpu->eflags);
}

static void check_sane(const struct cpu *cpu) {
    assert_true(cpu->eflags & F_FIXED);
    assert_int_equal(cpu->eflags & ~(u32)F_ALL, 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(cpu->gpr[i] >> 32, 0);
}

static void run_some(struct guest *g) {
    static struct cpu before;
    for (unsigned i = 0; i < 6; i++) {
        before = *g->cpu;
        u8 code[16] = {0};
        u32 lin = before.seg[SEG_CS].base + before.eip;
        bool known = mmu_read(g->cpu, lin, code, 15, MMU_FETCH);
        bool rep = !known || is_rep_string(code, before.seg[SEG_CS].attr & ATTR_DB);
        enum interp_result r = interp_step(g->it, g->cpu);
        check_sane(g->cpu);
        bool trap = r == INTERP_FAULT && g->cpu->fault.vector == VEC_DB;
        if (r == INTERP_FAULT && !trap && !rep)
            check_unchanged(g, &before, code);
        if (r == INTERP_FAULT || r == INTERP_HALT || g->cpu->shutdown)
            break;
    }
}

static void random_code_leaves_a_sane_machine(void **state) {
    struct guest *g = *state;
    const char *more = getenv("RINGFOLD_FUZZ_ROUNDS");
    unsigned rounds = more ? (unsigned)strtoul(more, NULL, 0) : 30000;
    if (more)
        seed_state ^= (u64)rounds << 16;
    for (unsigned i = 0; i < rounds; i++) {
        random_state(g);
        for (u32 at = 0; at < 64; at += 4)
            store32(guest_at(g, CODE_BASE + at), rnd());
        if (one_in(2)) /* two-byte opcodes, more often than chance has them */
            *guest_at(g, CODE_BASE) = 0x0f;
        run_some(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {CASE(random_code_leaves_a_sane_machine)};
    return cmocka_run_group_tests_name("interp.fuzz", tests, NULL, NULL);
}
