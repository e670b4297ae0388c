/*
 * test_run.c: running many instructions: what is decoded is decoded once, changed code is seen by
 * the very next instruction whatever changed it, and nothing keeps interp_run from coming back.
 */
#include "interp_fixture.h"

#define PAGE_DIRECTORY 0x00100000u
#define MMIO 0x000a0000u
#define FRAME_A 0x00900000u
#define FRAME_B 0x00901000u
#define LIN_CODE 0x00a00000u
#define LIN_ALIAS 0x00b00000u

/* ---- Fixture ---- */

static void map(struct guest *g, u32 lin, u32 entry) {
    u8 *table = guest_at(g, PAGE_DIRECTORY + PAGE_BYTES * (1 + (lin >> 22)));
    store32(table + ((lin >> PAGE_SHIFT) & 1023) * 4, entry);
}

/* Pages of 4 KiB, one to one. */
static void paging_on(struct guest *g) {
    for (u32 table = 0; table < RAM_BYTES >> 22; table++)
        store32(guest_at(g, PAGE_DIRECTORY + table * 4),
                (PAGE_DIRECTORY + PAGE_BYTES * (1 + table)) | PTE_P | PTE_W | PTE_U);
    for (u32 lin = 0; lin < RAM_BYTES; lin += PAGE_BYTES)
        map(g, lin, lin | PTE_P | PTE_W | PTE_U);
    g->cpu->cr3 = PAGE_DIRECTORY;
    g->cpu->cr0 |= CR0_PG | CR0_WP;
    mmu_mode_changed(g->cpu);
}

static void run(struct guest *g, u32 eip, u64 insns) {
    u64 end = g->cpu->insn_count + insns;
    g->cpu->eip = eip;
    assert_int_equal(interp_run(g->it, g->cpu, insns, NULL), INTERP_OK);
    assert_int_equal(g->cpu->insn_count, end);
}

static u32 eax(const struct guest *g) {
    return (u32)g->cpu->gpr[R_EAX];
}

/* ---- What the caches keep ---- */

static void a_loop_is_decoded_once(void **state) {
    struct guest *g = *state;
    const struct interp_counters *c = interp_counters(g->it);
    GUEST_CODE(g, "\x40\x01\xc3\x0f\xb6\xcb\x53\x5a\xeb\xf6"); /* inc add movzx push pop jmp */
    run(g, CODE_BASE, 60000);
    assert_int_equal(c->decodes, 6);
    assert_int_equal(c->slow_fetches, 6);
    assert_int_equal(c->careful_steps, 0);
}

static void sixty_kib_of_code_stay_decoded(void **state) {
    struct guest *g = *state;
    const struct interp_counters *c = interp_counters(g->it);
    enum { INSNS = 20000 }; /* add eax, imm8: 3 bytes each */
    for (u32 i = 0; i < INSNS; i++)
        memcpy(guest_at(g, CODE_BASE + 3 * i), "\x83\xc0\x01", 3);
    run(g, CODE_BASE, INSNS);
    assert_int_equal(c->decodes >= INSNS, true);
    u64 decodes = c->decodes;
    run(g, CODE_BASE, INSNS);
    assert_int_equal(c->decodes, decodes);
    assert_int_equal(eax(g), 2 * INSNS);
}

/* A load and a store to each of four pages whose numbers differ from the code's by powers of 2. */
static void code_and_data_share_the_soft_tlb(void **state) {
    struct guest *g = *state;
    const struct interp_counters *c = interp_counters(g->it);
    static const u32 distance[] = {0x100000, 0x200000, 0x400000, 0x800000};
    paging_on(g);
    GUEST_CODE(g, "\x8b\x06\x40\x89\x07\xeb\xf9"); /* mov eax,[esi]; inc; mov [edi],eax; jmp */
    for (unsigned i = 0; i < ARRAY_LEN(distance); i++) {
        g->cpu->gpr[R_ESI] = (CODE_BASE ^ distance[i]) + 0x100;
        g->cpu->gpr[R_EDI] = (CODE_BASE ^ distance[i]) + 0x100;
        run(g, CODE_BASE, 4000);
        assert_int_equal(eax(g), 1000);
    }
    assert_int_equal(c->slow_fetches, 4);
}

/* ---- Code that changes ---- */

static void a_loop_rewrites_code_further_on(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_EBX] = CODE_BASE + 6;
    /* inc ecx; mov [ebx], cl; nop; add al, 0; jmp */
    GUEST_CODE(g, "\x41\x88\x0b\x90\x90\x04\x00\xeb\xf7");
    run(g, CODE_BASE, 6 * 100);
    assert_int_equal(eax(g) & 0xff, (100 * 101 / 2) & 0xff);
}

static void rep_movs_overwrites_itself_and_what_follows(void **state) {
    struct guest *g = *state;
    memcpy(guest_at(g, DATA_BASE), "\x40\x40\x40\x40", 4); /* four times inc eax */
    g->cpu->gpr[R_ESI] = DATA_BASE;
    g->cpu->gpr[R_EDI] = CODE_BASE;
    g->cpu->gpr[R_ECX] = 4;
    GUEST_CODE(g, "\xf3\xa4\x4b\x4b"); /* rep movsb; dec ebx; dec ebx */
    run(g, CODE_BASE, 3);
    assert_int_equal(g->cpu->gpr[R_ECX], 0);
    assert_int_equal(g->cpu->gpr[R_EBX], 0);
    assert_int_equal(eax(g), 2);
    run(g, CODE_BASE, 4);
    assert_int_equal(eax(g), 6);
}

static void code_is_rewritten_through_another_address(void **state) {
    struct guest *g = *state;
    paging_on(g);
    map(g, LIN_CODE, FRAME_A | PTE_P | PTE_W);
    map(g, LIN_ALIAS, FRAME_A | PTE_P | PTE_W);
    /* mov byte [ebx], 48h (dec eax); inc eax; the first time the store changes what follows it */
    memcpy(guest_at(g, FRAME_A), "\xc6\x03\x48\x40", 4);
    run(g, LIN_CODE + 3, 1);
    assert_int_equal(eax(g), 1);
    g->cpu->gpr[R_EBX] = LIN_ALIAS + 3;
    run(g, LIN_CODE, 2);
    assert_int_equal(eax(g), 0);
}

static void a_device_rewrites_code(void **state) {
    struct guest *g = *state;
    GUEST_CODE(g, "\x40\x40\x40");
    run(g, CODE_BASE, 3);
    assert_true(mmu_phys_write(g->cpu->mmu, GPA(CODE_BASE + 1), "\x48\x48", 2));
    run(g, CODE_BASE, 3);
    assert_int_equal(eax(g), 3 + 1 - 2);
}

/* An instruction across a page: its second half changes, then the page under it. */
static void the_second_half_of_an_instruction_changes(void **state) {
    struct guest *g = *state;
    paging_on(g);
    map(g, LIN_CODE + PAGE_BYTES, FRAME_A | PTE_P | PTE_W);
    store32(guest_at(g, FRAME_A), 0x11111111);
    store32(guest_at(g, FRAME_B), 0x33333333);
    *guest_at(g, LIN_CODE + PAGE_BYTES - 1) = 0xb8; /* mov eax, imm32 */
    for (unsigned again = 0; again < 2; again++) {
        run(g, LIN_CODE + PAGE_BYTES - 1, 1);
        assert_int_equal(eax(g), 0x11111111);
    }
    store32(guest_at(g, FRAME_A), 0x22222222);
    run(g, LIN_CODE + PAGE_BYTES - 1, 1);
    assert_int_equal(eax(g), 0x22222222);
    map(g, LIN_CODE + PAGE_BYTES, FRAME_B | PTE_P | PTE_W);
    mmu_invlpg(g->cpu, GLIN(LIN_CODE + PAGE_BYTES));
    run(g, LIN_CODE + PAGE_BYTES - 1, 1);
    assert_int_equal(eax(g), 0x33333333);
}

/* The guest changes the mapping of its own code; the instruction behind the flush is the new
 * page's. */
static void a_remapped_page_is_seen_behind_the_flush(void **state) {
    struct guest *g = *state;
    static const char flush[][5] = {"\x0f\x01\x3a",
                                    "\x0f\x22\xd9"}; /* invlpg [edx]; mov cr3, ecx */
    paging_on(g);
    for (unsigned i = 0; i < ARRAY_LEN(flush); i++) {
        for (u32 frame = FRAME_A; frame <= FRAME_B; frame += PAGE_BYTES) {
            memcpy(guest_at(g, frame), "\x89\x33", 2); /* mov [ebx], esi */
            memcpy(guest_at(g, frame + 2), flush[i], 3);
            memcpy(guest_at(g, frame + 5), frame == FRAME_A ? "\xb0\x0a" : "\xb0\x0b", 2);
        }
        map(g, LIN_CODE, FRAME_A | PTE_P | PTE_W);
        mmu_invlpg(g->cpu, GLIN(LIN_CODE));
        g->cpu->gpr[R_EBX] = PAGE_DIRECTORY + PAGE_BYTES * (1 + (LIN_CODE >> 22)) +
                             ((LIN_CODE >> PAGE_SHIFT) & 1023) * 4;
        g->cpu->gpr[R_ESI] = FRAME_A | PTE_P | PTE_W;
        g->cpu->gpr[R_EDX] = LIN_CODE;
        g->cpu->gpr[R_ECX] = PAGE_DIRECTORY;
        for (unsigned b = 0; b < 2; b++) {
            g->cpu->eip = LIN_CODE;
            u64 end = g->cpu->insn_count + 3;
            while (g->cpu->insn_count < end)
                assert_int_not_equal(interp_run(g->it, g->cpu, end - g->cpu->insn_count, NULL),
                                     INTERP_FAULT);
            assert_int_equal(eax(g) & 0xff, b ? 0x0b : 0x0a);
            g->cpu->gpr[R_ESI] = FRAME_B | PTE_P | PTE_W;
        }
    }
}

/* ---- Coming back ---- */

static u32 stop;
static void stopping_mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)opaque, (void)addr, (void)value, (void)bytes;
    stop = 1;
}

static void the_stop_flag_ends_the_run_at_once(void **state) {
    struct guest *g = *state;
    g->bus.mmio_write = stopping_mmio_write;
    g->cpu->gpr[R_EBX] = MMIO;
    GUEST_CODE(g, "\x40\x40\x89\x03\x40\x40\xeb\xfc"); /* inc inc mov [ebx],eax inc inc jmp */
    stop = 0;
    assert_int_equal(interp_run(g->it, g->cpu, 1000, &stop), INTERP_OK);
    assert_int_equal(g->cpu->insn_count, 3);
    assert_int_equal(g->cpu->eip, CODE_BASE + 4);
    assert_int_equal(interp_run(g->it, g->cpu, 1000, &stop), INTERP_OK); /* still set */
    assert_int_equal(g->cpu->insn_count, 3);
}

static void a_repeated_instruction_comes_back_in_pieces(void **state) {
    struct guest *g = *state;
    g->cpu->gpr[R_ESI] = g->cpu->gpr[R_EDI] = DATA_BASE;
    g->cpu->gpr[R_ECX] = 0x400000;
    g->cpu->eflags |= F_DF; /* element by element */
    GUEST_CODE(g, "\xf3\xa4");
    u32 left = 0x400000, rounds = 0;
    while (left && rounds++ < 0x400) {
        enum interp_result result = interp_run(g->it, g->cpu, 1, NULL);
        assert_int_equal(result, left > 0x1000 ? INTERP_REP_MORE : INTERP_OK);
        assert_true(left - g->cpu->gpr[R_ECX] <= 0x1000);
        left = (u32)g->cpu->gpr[R_ECX];
    }
    assert_int_equal(left, 0);
    assert_int_equal(g->cpu->insn_count, 1);
}

static void a_trap_flag_set_within_a_run_traps_after_one_instruction(void **state) {
    struct guest *g = *state;
    store32(guest_at(g, STACK_TOP - 4), F_FIXED | F_TF);
    g->cpu->gpr[R_ESP] = STACK_TOP - 4;
    GUEST_CODE(g, "\x40\x40\x9d\x40\x40\x40"); /* inc inc popf inc inc inc */
    enum interp_result result = INTERP_OK;
    for (unsigned i = 0; i < 4 && result == INTERP_OK; i++)
        result = interp_run(g->it, g->cpu, 1000, NULL);
    assert_int_equal(result, INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_DB);
    assert_int_equal(g->cpu->eip, CODE_BASE + 4);
    assert_int_equal(eax(g), 3);
}

/* An interrupt may be due: the engine gets to look behind each instruction that lets it in. */
static void interrupts_let_in_within_a_run_are_looked_for(void **state) {
    struct guest *g = *state;
    GUEST_CODE(g, "\x40\xfb\x40\x40\x40"); /* inc sti inc inc inc */
    assert_int_equal(interp_run(g->it, g->cpu, 1000, NULL), INTERP_OK);
    if (g->cpu->shadow) /* right behind STI: none before one more instruction */
        assert_int_equal(interp_run(g->it, g->cpu, 1000, NULL), INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 3);
    store32(guest_at(g, STACK_TOP - 4), F_FIXED | F_IF);
    g->cpu->gpr[R_ESP] = STACK_TOP - 4;
    g->cpu->eflags &= ~(u32)F_IF;
    GUEST_CODE(g, "\x40\x9d\x40\x40"); /* inc popf inc inc */
    g->cpu->eip = CODE_BASE;
    assert_int_equal(interp_run(g->it, g->cpu, 1000, NULL), INTERP_OK);
    assert_int_equal(g->cpu->eip, CODE_BASE + 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(a_loop_is_decoded_once),
        CASE(sixty_kib_of_code_stay_decoded),
        CASE(code_and_data_share_the_soft_tlb),
        CASE(a_loop_rewrites_code_further_on),
        CASE(rep_movs_overwrites_itself_and_what_follows),
        CASE(code_is_rewritten_through_another_address),
        CASE(a_device_rewrites_code),
        CASE(the_second_half_of_an_instruction_changes),
        CASE(a_remapped_page_is_seen_behind_the_flush),
        CASE(the_stop_flag_ends_the_run_at_once),
        CASE(a_repeated_instruction_comes_back_in_pieces),
        CASE(a_trap_flag_set_within_a_run_traps_after_one_instruction),
        CASE(interrupts_let_in_within_a_run_are_looked_for),
    };
    return cmocka_run_group_tests_name("interp.run", tests, NULL, NULL);
}
