/*
 * test_fault.c: host faults inside translated code. Each becomes what the guest's CPU would have
 * done: nothing visible (a hidden fault), an exception with the state exactly as it was before the
 * instruction, or one instruction for the emulator.
 */
#include "bt_fixture.h"

#define HOLE 0x700000u /* linear; its frame is FRAME */
#define FRAME 0x600000u
#define LANDING (CODE + 0x23) /* a HLT whose address is also a selector and a flag image */

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
}

static u32 rights_of(u8 cpl) {
    return cpl == 3 ? USER_PAGE : KERNEL_PAGE;
}

static void paged_world(struct world *w, u8 cpl) {
    world_create(w, NULL);
    enable_paging(w, rights_of(cpl));
    set_cpl(w, cpl);
    map_page(w, HOLE, 0);
}

/* ---- exceptions of the instruction itself ---- */

static void expect_divide_error(const char *hex, u32 eax, u32 edx, u32 ecx) {
    struct world w;
    world_create(&w, NULL);
    put8(&w, put(&w, CODE, hex), 0xf4);
    store32(w.ram + DATA, ecx);
    w.cpu->gpr[R_EAX] = eax;
    w.cpu->gpr[R_EDX] = edx;
    w.cpu->gpr[R_ECX] = ecx;
    w.cpu->gpr[R_EBX] = DATA;
    w.cpu->eflags = F_FIXED | F_CF | F_ZF | F_IF;
    expect_exit(&w, BT_EXIT_FAULT, CODE);
    assert_int_equal(w.cpu->fault.vector, VEC_DE);
    assert_false(w.cpu->fault.has_error);
    assert_int_equal(reg(&w, R_EAX), eax);
    assert_int_equal(reg(&w, R_EDX), edx);
    assert_int_equal(w.cpu->eflags, F_FIXED | F_CF | F_ZF | F_IF);
    world_destroy(&w);
}

static void division_errors_are_divide_exceptions(void **state) {
    (void)state;
    expect_divide_error("f7 f1", 5, 0, 0); /* div by zero */
    expect_divide_error("f7 f9", 5, 0, 0); /* idiv by zero */
    expect_divide_error("f7 f1", 0, 2, 1); /* the quotient does not fit */
    expect_divide_error("f7 f9", 0x80000000, 0xffffffff, 0xffffffff);
    expect_divide_error("f7 33", 5, 0, 0);       /* div [ebx] */
    expect_divide_error("f6 f1", 0xffff, 0, 1);  /* div cl */
    expect_divide_error("66 f7 f1", 0, 0x10, 1); /* div cx */
}

static void expect_emulated(struct world *w, const char *hex) {
    put8(w, put(w, CODE, hex), 0xf4);
    u64 sites = count(w)->adapted_sites;
    for (unsigned i = 0; i < 4; i++) {
        w->cpu->eip = CODE;
        enum bt_exit exit = bt_run(w->bt);
        if (exit != BT_EXIT_EMULATE || w->cpu->eip != CODE)
            fail_msg("%s: exit %d at %08x", hex, exit, w->cpu->eip);
    }
    assert_int_equal(count(w)->adapted_sites, sites);
    assert_int_equal(count(w)->faults, 4);
    world_destroy(w);
}

static void a_misaligned_sse_access_is_emulated_and_not_adapted(void **state) {
    (void)state;
    static const char *const hex[] = {"0f 28 03", "0f 29 03", "66 0f 6f 03", "0f 58 03"};
    for (size_t i = 0; i < ARRAY_LEN(hex); i++) {
        struct world w;
        world_create(&w, NULL);
        w.cpu->gpr[R_EBX] = DATA + 8;
        expect_emulated(&w, hex[i]);
    }
}

static void an_aligned_sse_access_just_runs(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "0f 28 03 0f 29 43 10 f4"); /* movaps xmm0,[ebx]; movaps [ebx+16],xmm0 */
    for (u32 i = 0; i < 16; i++)
        w.ram[DATA + i] = (u8)(i * 3 + 1);
    w.cpu->gpr[R_EBX] = DATA;
    run_to_hlt(&w, CODE);
    assert_memory_equal(w.ram + DATA, w.ram + DATA + 16, 16);
    assert_memory_equal(w.cpu->fx + 160, w.ram + DATA, 16); /* XMM0 in the FXSAVE image */
    world_destroy(&w);
}

static void unmasked_x87_and_sse_exceptions_are_emulated(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    store16(w.cpu->fx, 0x37b);      /* #ZE unmasked */
    store16(w.cpu->fx + 2, 0x8084); /* and pending */
    expect_emulated(&w, "9b");      /* fwait */
    world_create(&w, NULL);
    store32(w.cpu->fx + 24, 0x1d80); /* MXCSR: divide by zero unmasked */
    store32(w.cpu->fx + 160, 0x3f800000);
    expect_emulated(&w, "f3 0f 5e c1"); /* divss xmm0,xmm1: 1/0 */
}

/* ---- page faults ---- */

static void a_hidden_fault_is_invisible_and_sets_accessed_and_dirty(void **state) {
    (void)state;
    for (u8 cpl = 0; cpl <= 3; cpl += 3) {
        struct world w;
        paged_world(&w, cpl);
        u32 clean = (PTE_P | PTE_W | (cpl == 3 ? PTE_U : 0));
        map_page(&w, HOLE, FRAME | clean);
        store32(w.ram + FRAME, 0xfeed);
        put(&w, CODE, "8b 03 f4 89 4b 04 f4"); /* mov eax,[ebx]; hlt; mov [ebx+4],ecx; hlt */
        w.cpu->gpr[R_EBX] = HOLE;
        w.cpu->gpr[R_ECX] = 0xbeef;
        run_to_hlt(&w, CODE);
        assert_int_equal(reg(&w, R_EAX), 0xfeed);
        assert_int_equal(load32(w.ram + pte_at(HOLE)), FRAME | clean | PTE_A);
        run_to_hlt(&w, CODE + 3);
        assert_int_equal(load32(w.ram + FRAME + 4), 0xbeef);
        assert_int_equal(load32(w.ram + pte_at(HOLE)), FRAME | clean | PTE_A | PTE_D);
        world_destroy(&w);
    }
}

static void expect_page_fault(u8 cpl, u32 pte, const char *hex, u32 error) {
    struct world w;
    paged_world(&w, cpl);
    map_page(&w, HOLE, pte);
    put8(&w, put(&w, CODE, hex), 0xf4);
    w.cpu->gpr[R_EBX] = HOLE + 0x124;
    expect_exit(&w, BT_EXIT_FAULT, CODE);
    assert_int_equal(w.cpu->fault.vector, VEC_PF);
    assert_true(w.cpu->fault.has_error);
    assert_int_equal(w.cpu->fault.error, error);
    assert_int_equal(w.cpu->fault.cr2, HOLE + 0x124);
    assert_int_equal(w.cpu->cr2, 0);
    world_destroy(&w);
}

static void a_true_fault_carries_the_error_code_and_address(void **state) {
    (void)state;
    expect_page_fault(3, 0, "8b 03", PF_U);
    expect_page_fault(3, 0, "89 03", PF_U | PF_W);
    expect_page_fault(3, FRAME | PTE_P | PTE_U, "89 03", PF_U | PF_W | PF_P);
    expect_page_fault(3, FRAME | PTE_P | PTE_W, "8b 03", PF_U | PF_P);
    expect_page_fault(3, FRAME | PTE_P | PTE_W, "01 03", PF_U | PF_W | PF_P);
    expect_page_fault(0, 0, "8b 03", 0);
    expect_page_fault(0, 0, "01 03", PF_W);
    expect_page_fault(0, FRAME | PTE_P, "89 03", PF_W | PF_P); /* CR0.WP */
}

/* ---- exactness: one instruction ---- */

/* Memory operand in the hole through EBX, ESI, EDI, EBP; a stack operand if `stack`. */
struct probe {
    const char *hex;
    bool stack;
};
static const struct probe probes[] = {
    {"03 03", false},
    {"01 03", false},
    {"11 03", false},
    {"29 03", false},
    {"39 03", false},
    {"f0 0f c1 03", false},
    {"0f b1 03", false},
    {"f0 0f c7 0b", false},
    {"87 03", false},
    {"86 23", false},
    {"f7 1b", false},
    {"f7 13", false},
    {"ff 03", false},
    {"fe 0b", false},
    {"c1 23 05", false},
    {"d3 2b", false},
    {"0f a4 03 04", false},
    {"0f ba 2b 07", false},
    {"8b 03", false},
    {"89 03", false},
    {"8a 63 01", false},
    {"88 63 01", false},
    {"c7 03 78 56 34 12", false},
    {"66 c7 03 34 12", false},
    {"0f b6 03", false},
    {"0f bf 03", false},
    {"f7 23", false},
    {"6b 03 07", false},
    {"f7 33", false},
    {"f7 3b", false},
    {"0f 44 03", false},
    {"0f 94 03", false},
    {"0f bc 03", false},
    {"0f bd 03", false},
    {"a4", false},
    {"a5", false},
    {"f3 a4", false},
    {"f3 66 a5", false},
    {"aa", false},
    {"f3 ab", false},
    {"ac", false},
    {"66 ad", false},
    {"a6", false},
    {"f3 a7", false},
    {"ae", false},
    {"f2 ae", false},
    {"ff 33", false},
    {"66 ff 33", false},
    {"8f 03", false},
    {"64 8b 03", false},
    {"65 03 44 8b 04", false},
    {"64 88 23", false},
    {"c9", false},
    {"ff 13", false},
    {"ff 23", false},
    {"8e 1b", false},
    {"8e 23", false},
    {"8c 1b", false},
    {"d9 03", false},
    {"d9 1b", false},
    {"0f 28 03", false},
    {"0f 11 03", false},
    {"f2 0f 58 03", false},
    {"0f 6f 03", false},
    {"66 0f 7f 03", false},
    {"0f ae 5b 04", false},
    {"d9 2b", false},
    {"c6 03 11", false},
    {"84 23", false},
    /* the stack */
    {"50", true},
    {"58", true},
    {"54", true},
    {"5c", true},
    {"66 50", true},
    {"66 58", true},
    {"60", true},
    {"61", true},
    {"9c", true},
    {"9d", true},
    {"6a 85", true},
    {"68 78 56 34 12", true},
    {"e8 1e 00 00 00", true},
    {"c3", true},
    {"c2 08 00", true},
    {"ff d2", true},
    {"06", true},
    {"1f", true},
    {"0f a1", true},
    {"0f a8", true},
    {"8a 24 24", true},
    {"88 64 24 03", true},
    {"00 64 24 04", true},
    {"0f c0 24 24", true},
    {"0f b0 64 24 04", true},
    {"86 3c 24", true},
    {"ff 34 24", true},
    {"8f 04 24", true},
    {"ff 14 24", true},
    {"8b 64 24 04", true},
    {"64 8b 44 24 04", true},
    {"f6 54 24 02", true},
};

static void prepare(struct world *w, u8 cpl, const struct probe *p, bool present) {
    paged_world(w, cpl);
    for (u32 i = 0; i < PAGE_BYTES; i += 4)
        store32(w->ram + FRAME + i, LANDING);
    for (u32 i = 0; i < 0x100; i++)
        w->ram[DATA + i] = (u8)(i * 5 + 1);
    if (present)
        map_page(w, HOLE, FRAME | rights_of(cpl));
    put8(w, put(w, CODE, p->hex), 0xf4);
    put8(w, LANDING, 0xf4);
    struct cpu *cpu = w->cpu;
    static const u32 registers[8] = {0x11223344, 8,           LANDING,     HOLE + 0x20,
                                     0,          HOLE + 0x60, HOLE + 0x40, HOLE + 0x80};
    for (int r = 0; r < 8; r++)
        cpu->gpr[r] = registers[r];
    cpu->gpr[R_ESP] = p->stack ? HOLE + 0x200 : STACK_TOP - 0x40;
    if (p->hex[0] == 'f' && p->hex[1] == '7') /* DIV: the quotient fits */
        cpu->gpr[R_EDX] = 3;
    cpu->eflags = F_FIXED | F_CF | F_ZF | F_AF | F_OF;
    cpu->eip = CODE;
}

static void expect_same_state(const struct probe *p, const struct world *a, const struct world *b) {
    for (int r = 0; r < 8; r++)
        if (a->cpu->gpr[r] != b->cpu->gpr[r])
            fail_msg("%s: register %d is %08x, not %08x", p->hex, r, reg(a, (enum gpr)r),
                     reg(b, (enum gpr)r));
    if (a->cpu->eflags != b->cpu->eflags || a->cpu->eip != b->cpu->eip)
        fail_msg("%s: eflags %x eip %08x, not %x %08x", p->hex, a->cpu->eflags, a->cpu->eip,
                 b->cpu->eflags, b->cpu->eip);
    assert_memory_equal(a->ram + FRAME, b->ram + FRAME, PAGE_BYTES);
    assert_memory_equal(a->ram + STACK_TOP - 0x100, b->ram + STACK_TOP - 0x100, 0x100);
    assert_memory_equal(a->cpu->fx + 32, b->cpu->fx + 32, 256); /* ST, XMM */
    for (int s = 0; s < 6; s++)
        assert_int_equal(a->cpu->seg[s].selector, b->cpu->seg[s].selector);
}

static bool run_probe(struct world *w, const struct probe *p) {
    enum bt_exit exit = bt_run(w->bt);
    if (exit == BT_EXIT_FAULT)
        return false;
    if (exit != BT_EXIT_EMULATE || w->ram[w->cpu->eip] != 0xf4)
        fail_msg("%s: exit %d at %08x", p->hex, exit, w->cpu->eip);
    return true;
}

/* The instruction without its page; the state must not have moved; then with it, and the same end
 * as when the page was there all along. */
static void expect_restartable(const struct probe *p, u8 cpl) {
    struct world before, w, straight;
    prepare(&before, cpl, p, false);
    prepare(&w, cpl, p, false);
    if (run_probe(&w, p))
        fail_msg("%s: no fault", p->hex);
    assert_int_equal(w.cpu->fault.vector, VEC_PF);
    assert_int_equal(w.cpu->fault.cr2 & ~PAGE_OFFSET_MASK, HOLE);
    expect_same_state(p, &w, &before);
    world_destroy(&before);
    remap_page(&w, HOLE, FRAME | rights_of(cpl));
    assert_true(run_probe(&w, p));
    /* bt keeps one handler per thread: it belongs to the world made last. */
    prepare(&straight, cpl, p, true);
    assert_true(run_probe(&straight, p));
    expect_same_state(p, &w, &straight);
    world_destroy(&straight);
    world_destroy(&w);
}

static void every_lowering_is_restartable_at_cpl_3(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(probes); i++)
        expect_restartable(&probes[i], 3);
}
static void every_lowering_is_restartable_at_cpl_0(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(probes); i++)
        expect_restartable(&probes[i], 0);
}

static void a_rep_interrupted_by_a_fault_shows_its_progress(void **state) {
    (void)state;
    struct world w;
    paged_world(&w, 3);
    for (u32 i = 0; i < 0x2000; i++)
        w.ram[DATA + i] = (u8)(i * 11);
    put(&w, CODE, "f3 a4 f4"); /* rep movsb into the hole, from 100h bytes before it */
    w.cpu->gpr[R_ESI] = DATA;
    w.cpu->gpr[R_EDI] = HOLE - 0x100;
    w.cpu->gpr[R_ECX] = 0x180;
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_FAULT, CODE);
    assert_int_equal(w.cpu->fault.cr2, HOLE);
    assert_int_equal(reg(&w, R_ECX), 0x80);
    assert_int_equal(reg(&w, R_ESI), DATA + 0x100);
    assert_int_equal(reg(&w, R_EDI), HOLE);
    remap_page(&w, HOLE, FRAME | USER_PAGE);
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_ECX), 0);
    assert_memory_equal(w.ram + HOLE - 0x100, w.ram + DATA, 0x100);
    assert_memory_equal(w.ram + FRAME, w.ram + DATA + 0x100, 0x80);
    world_destroy(&w);
}

/* ---- exactness: every place of a unit ---- */

struct model {
    u32 r[8], flags;
    u32 memory[32];
};

static u32 common_flags(u32 r) {
    return (r == 0 ? F_ZF : 0) | (r >> 31 ? F_SF : 0) | (__builtin_parity(r & 0xff) ? 0 : F_PF);
}
static u32 model_add(struct model *m, u32 a, u32 b, u32 carry) {
    u64 wide = (u64)a + b + carry;
    u32 r = (u32)wide;
    m->flags = common_flags(r) | (wide >> 32 ? F_CF : 0) | ((a ^ b ^ r) & F_AF) |
               (((a ^ r) & (b ^ r)) >> 31 ? F_OF : 0);
    return r;
}
static u32 model_sub(struct model *m, u32 a, u32 b) {
    u32 r = a - b;
    m->flags = common_flags(r) | (a < b ? F_CF : 0) | ((a ^ b ^ r) & F_AF) |
               (((a ^ b) & (a ^ r)) >> 31 ? F_OF : 0);
    return r;
}

static const char *const unit_code[] = {"03 05",    "13 1d", "2b 15", "33 35",
                                        "0f c1 3d", "3b 2d", "ff 05"};

static void model_step(struct model *m, unsigned i) {
    u32 *mem = &m->memory[i], t;
    switch (i % ARRAY_LEN(unit_code)) {
    case 0:
        m->r[R_EAX] = model_add(m, m->r[R_EAX], *mem, 0);
        break;
    case 1:
        m->r[R_EBX] = model_add(m, m->r[R_EBX], *mem, m->flags & F_CF);
        break;
    case 2:
        m->r[R_EDX] = model_sub(m, m->r[R_EDX], *mem);
        break;
    case 3:
        m->flags = common_flags(m->r[R_ESI] ^= *mem);
        break;
    case 4:
        t = *mem;
        *mem = model_add(m, t, m->r[R_EDI], 0);
        m->r[R_EDI] = t;
        break;
    case 5:
        model_sub(m, m->r[R_EBP], *mem);
        break;
    default:
        t = m->flags & F_CF;
        *mem = model_add(m, *mem, 1, 0);
        m->flags = (m->flags & ~(u32)F_CF) | t;
        break;
    }
}

static void a_fault_at_any_instruction_of_a_unit_shows_the_exact_state(void **state) {
    (void)state;
    enum { STEPS = 28, FIRST = 0x500000 };
    for (unsigned missing = 0; missing <= STEPS; missing++) {
        struct world w;
        struct model m = {.r = {0x7fffffff, 0x80000001, 5, 0xffffffff, 0, 77, 0x1234, 0xfffffff0}};
        u32 at = CODE, start[STEPS + 1];
        paged_world(&w, 3);
        for (unsigned i = 0; i < STEPS; i++) {
            start[i] = at;
            m.memory[i] = i * 0x9e3779b9u + (i & 1 ? 0x80000000u : 1);
            store32(w.ram + FIRST + i * PAGE_BYTES + 8 * i, m.memory[i]);
            at = put32(&w, put(&w, at, unit_code[i % ARRAY_LEN(unit_code)]),
                       FIRST + i * PAGE_BYTES + 8 * i);
        }
        start[STEPS] = at;
        put8(&w, at, 0xf4);
        if (missing < STEPS)
            map_page(&w, FIRST + missing * PAGE_BYTES, 0);
        for (int r = 0; r < 8; r++)
            w.cpu->gpr[r] = m.r[r];
        w.cpu->eflags = F_FIXED | F_IF | F_IOPL;
        w.cpu->eip = CODE;
        expect_exit(&w, missing < STEPS ? BT_EXIT_FAULT : BT_EXIT_EMULATE, start[missing]);
        for (unsigned i = 0; i < missing; i++)
            model_step(&m, i);
        for (int r = 0; r < 8; r++)
            assert_int_equal(reg(&w, (enum gpr)r), m.r[r]);
        assert_int_equal(w.cpu->eflags, F_FIXED | F_IF | F_IOPL | m.flags);
        for (unsigned i = 0; i < STEPS; i++)
            assert_int_equal(load32(w.ram + FIRST + i * PAGE_BYTES + 8 * i), m.memory[i]);
        assert_int_equal(count(&w)->units_translated, 1);
        world_destroy(&w);
    }
}

/* ---- what is left to the emulator ---- */

static void an_unusable_fs_is_emulated(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    w.cpu->seg[SEG_FS].attr = ATTR_NULL;
    w.cpu->gpr[R_EBX] = DATA;
    expect_emulated(&w, "64 8b 03");
    world_create(&w, NULL);
    w.cpu->seg[SEG_GS].limit = 0xfff;
    w.cpu->gpr[R_EBX] = DATA;
    expect_emulated(&w, "65 89 03");
}

static void a_segment_base_is_added_modulo_4_gib(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    store32(w.ram + DATA + 0x44, 0x5eed);
    w.cpu->seg[SEG_FS].base = 0xfffff000;
    w.cpu->gpr[R_EBX] = DATA + 0x1000;
    w.cpu->gpr[R_ECX] = 0x10;
    put(&w, CODE, "64 8b 44 8b 04 f4"); /* mov eax,fs:[ebx+ecx*4+4] */
    run_to_hlt(&w, CODE);
    assert_int_equal(reg(&w, R_EAX), 0x5eed);
    world_destroy(&w);
}

static void expect_emulated_once(u32 ebx, const char *hex) {
    struct world w;
    world_create(&w, NULL);
    put8(&w, put(&w, CODE, hex), 0xf4);
    w.cpu->gpr[R_EBX] = ebx;
    w.cpu->gpr[R_ESP] = ebx;
    w.cpu->gpr[R_ESI] = w.cpu->gpr[R_EDI] = ebx;
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE);
    assert_int_equal(reg(&w, R_EBX), ebx);
    assert_int_equal(reg(&w, R_ESP), ebx);
    assert_int_equal(reg(&w, R_EDI), ebx);
    world_destroy(&w);
}

static void accesses_around_4_gib_are_emulated(void **state) {
    (void)state;
    for (u32 ebx = 0xfffffffd; ebx != 0; ebx++) {
        expect_emulated_once(ebx, "8b 03");
        expect_emulated_once(ebx, "01 03");
        expect_emulated_once(ebx, "0f 11 03");
        expect_emulated_once(ebx, "58");
        expect_emulated_once(ebx, "a5");
    }
    expect_emulated_once(2, "50"); /* the push wraps */
    expect_emulated_once(0, "50");
}

static void device_addresses_are_emulated(void **state) {
    (void)state;
    expect_emulated_once(0xa0000, "8b 03");
    expect_emulated_once(0xbfffe, "89 03");
    expect_emulated_once(RAM_BYTES, "01 03");
    expect_emulated_once(RAM_BYTES - 2, "8b 03");
    expect_emulated_once(0xfee00000, "87 03");
}

static void a_kernel_access_to_a_user_page_is_adapted_not_mapped(void **state) {
    (void)state;
    struct world w;
    paged_world(&w, 0);
    map_page(&w, HOLE, FRAME | USER_PAGE);
    put(&w, CODE, "8b 03 40 f4"); /* mov eax,[ebx]; inc eax */
    w.cpu->gpr[R_EBX] = HOLE;
    for (u32 i = 0; i < 2; i++) {
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE);
    }
    for (u32 i = 0; i < 10; i++) {
        store32(w.ram + FRAME, i);
        run_to_hlt(&w, CODE);
        assert_int_equal(reg(&w, R_EAX), i + 1);
    }
    assert_int_equal(count(&w)->adapted_sites, 1);
    assert_int_equal(count(&w)->faults, 2);
    /* An adapted site still sees the page go away. */
    remap_page(&w, HOLE, 0);
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE);
    world_destroy(&w);
}

static void rdtsc_obeys_tsd_set_after_translation(void **state) {
    (void)state;
    struct world w;
    paged_world(&w, 3);
    bt_set_tsc_base(w.bt, 0);
    for (unsigned round = 0; round < 2; round++) {
        /* RDTSC with flags live behind it, and with every flag dead. */
        put(&w, CODE + 0x10 * round, round ? "0f 31 31 c9 f4" : "0f 31 f4");
        w.cpu->cr4 &= ~(u32)CR4_TSD;
        run_to_hlt(&w, CODE + 0x10 * round);
        w.cpu->cr4 |= CR4_TSD;
        w.cpu->eip = CODE + 0x10 * round;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 0x10 * round);
    }
    world_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(division_errors_are_divide_exceptions),
        cmocka_unit_test(a_misaligned_sse_access_is_emulated_and_not_adapted),
        cmocka_unit_test(an_aligned_sse_access_just_runs),
        cmocka_unit_test(unmasked_x87_and_sse_exceptions_are_emulated),
        cmocka_unit_test(a_hidden_fault_is_invisible_and_sets_accessed_and_dirty),
        cmocka_unit_test(a_true_fault_carries_the_error_code_and_address),
        cmocka_unit_test(every_lowering_is_restartable_at_cpl_3),
        cmocka_unit_test(every_lowering_is_restartable_at_cpl_0),
        cmocka_unit_test(a_rep_interrupted_by_a_fault_shows_its_progress),
        cmocka_unit_test(a_fault_at_any_instruction_of_a_unit_shows_the_exact_state),
        cmocka_unit_test(an_unusable_fs_is_emulated),
        cmocka_unit_test(a_segment_base_is_added_modulo_4_gib),
        cmocka_unit_test(accesses_around_4_gib_are_emulated),
        cmocka_unit_test(device_addresses_are_emulated),
        cmocka_unit_test(a_kernel_access_to_a_user_page_is_adapted_not_mapped),
        cmocka_unit_test(rdtsc_obeys_tsd_set_after_translation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
