/*
 * test_faults.c: a fault leaves no trace. Under paging, instructions that touch an absent or
 * read-only page fault with the right error code and CR2, and registers, flags, ESP and memory are
 * as before, so that the instruction can be restarted.
 */
#include "interp_fixture.h"

#define PD_BASE 0x4000u
#define PT_BASE 0x5000u           /* maps 8 MiB to 12 MiB, where data, code and stack lie */
#define HOLE (DATA_BASE + 0x2000) /* not present */
#define READ_ONLY (DATA_BASE + 0x4000)
#define PRESENT_RW 7u

static void set_page(struct guest *g, u32 lin, u32 flags) {
    store32(guest_at(g, PT_BASE + ((lin >> 12) & 0x3ff) * 4), flags ? (lin & ~0xfffu) | flags : 0);
    mmu_invlpg(g->cpu, GLIN(lin));
}

/* Identity-maps everything, with a hole and a read-only page among the data; runs at CPL 3. */
static void with_paging(struct guest *g) {
    for (u32 i = 0; i < 4; i++)
        store32(guest_at(g, PD_BASE + i * 4), i << 22 | 0x87);
    store32(guest_at(g, PD_BASE + 8), PT_BASE | PRESENT_RW);
    for (u32 i = 0; i < 1024; i++)
        store32(guest_at(g, PT_BASE + i * 4), (0x800000 + i * 4096) | PRESENT_RW);
    guest_reset(g, 3);
    g->cpu->cr3 = PD_BASE;
    g->cpu->cr4 = CR4_PSE;
    g->cpu->cr0 |= CR0_PG | CR0_WP;
    mmu_mode_changed(g->cpu);
    set_page(g, HOLE, 0);
    set_page(g, READ_ONLY, 5);
    for (unsigned i = 0; i < 8; i++)
        g->cpu->gpr[i] = 0x01010101u * (i + 1);
    g->cpu->gpr[R_ESP] = STACK_TOP;
    g->cpu->eflags |= F_CF | F_AF | F_ZF;
}

/* The instruction must raise #PF(error) at cr2 and change no register, no flag, no byte around the
 * pages. */
static void faults(struct guest *g, const char *code, size_t bytes, u32 error, u32 cr2) {
    struct cpu *cpu = g->cpu;
    u64 gpr[8];
    static u8 before[0x8000];
    u32 eflags = cpu->eflags;
    u64 count = cpu->insn_count;
    memcpy(gpr, cpu->gpr, sizeof gpr);
    memcpy(guest_at(g, CODE_BASE), code, bytes);
    memcpy(before, guest_at(g, DATA_BASE), sizeof before);
    cpu->eip = CODE_BASE;
    assert_int_equal(interp_step(g->it, cpu), INTERP_FAULT);
    assert_int_equal(cpu->fault.vector, VEC_PF);
    assert_int_equal(cpu->fault.error, error);
    assert_int_equal(cpu->fault.cr2, cr2);
    assert_memory_equal(gpr, cpu->gpr, sizeof gpr);
    assert_int_equal(eflags, cpu->eflags);
    assert_int_equal(cpu->eip, CODE_BASE);
    assert_int_equal(cpu->insn_count, count);
    assert_memory_equal(before, guest_at(g, DATA_BASE), sizeof before);
}
#define FAULTS(g, code, error, cr2) faults(g, code, sizeof(code) - 1, error, cr2)

enum { READ_ABSENT = PF_U, WRITE_ABSENT = PF_U | PF_W, WRITE_DENIED = PF_U | PF_W | PF_P };

static void loads_and_stores(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_EBX] = HOLE + 8;
    FAULTS(g, "\x8b\x03", READ_ABSENT, HOLE + 8);  /* mov eax, [ebx] */
    FAULTS(g, "\x89\x03", WRITE_ABSENT, HOLE + 8); /* mov [ebx], eax */
    FAULTS(g, "\x03\x03", READ_ABSENT, HOLE + 8);  /* add eax, [ebx] */
    g->cpu->gpr[R_EBX] = READ_ONLY;
    FAULTS(g, "\xc7\x03\1\0\0\0", WRITE_DENIED, READ_ONLY);
}

static void read_modify_write_faults_as_a_write(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_EBX] = HOLE;
    FAULTS(g, "\x01\x03", WRITE_ABSENT, HOLE);         /* add [ebx], eax */
    FAULTS(g, "\xff\x03", WRITE_ABSENT, HOLE);         /* inc */
    FAULTS(g, "\xd3\x23", WRITE_ABSENT, HOLE);         /* shl [ebx], cl */
    FAULTS(g, "\xf7\x1b", WRITE_ABSENT, HOLE);         /* neg */
    FAULTS(g, "\x87\x03", WRITE_ABSENT, HOLE);         /* xchg */
    FAULTS(g, "\x0f\xb1\x0b", WRITE_ABSENT, HOLE);     /* cmpxchg [ebx], ecx */
    FAULTS(g, "\x0f\xc1\x0b", WRITE_ABSENT, HOLE);     /* xadd */
    FAULTS(g, "\xf0\x0f\xc7\x0b", WRITE_ABSENT, HOLE); /* lock cmpxchg8b */
    FAULTS(g, "\x0f\xba\x2b\x03", WRITE_ABSENT, HOLE); /* bts [ebx], 3 */
    FAULTS(g, "\x0f\xa4\x0b\x03", WRITE_ABSENT, HOLE); /* shld */
    g->cpu->gpr[R_EBX] = READ_ONLY + 4;
    FAULTS(g, "\x01\x03", WRITE_DENIED, READ_ONLY + 4);
    FAULTS(g, "\x0f\xb1\x0b", WRITE_DENIED, READ_ONLY + 4);
    FAULTS(g, "\x0f\xc7\x0b", WRITE_DENIED, READ_ONLY + 4);
}

static void accesses_across_a_page_border_write_nothing(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_EBX] = HOLE - 2;
    FAULTS(g, "\x89\x03", WRITE_ABSENT, HOLE);
    FAULTS(g, "\x01\x03", WRITE_ABSENT, HOLE);
    g->cpu->gpr[R_EBX] = HOLE - 4;
    FAULTS(g, "\x0f\xc7\x0b", WRITE_ABSENT, HOLE);
    g->cpu->gpr[R_EBX] = HOLE - 1;
    FAULTS(g, "\x8b\x03", READ_ABSENT, HOLE);
}

static void stack_instructions(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_ESP] = HOLE + 0x1000; /* pushes go into the hole */
    FAULTS(g, "\x50", WRITE_ABSENT, HOLE + 0xffc);
    FAULTS(g, "\x9c", WRITE_ABSENT, HOLE + 0xffc);
    FAULTS(g, "\xe8\x10\0\0\0", WRITE_ABSENT, HOLE + 0xffc);
    FAULTS(g, "\xc8\x20\0\0", WRITE_ABSENT, HOLE + 0xffc); /* enter */
    g->cpu->gpr[R_ESP] = HOLE + 0x1010;                    /* room for four of eight words */
    FAULTS(g, "\x60", WRITE_ABSENT, HOLE + 0xffc);
    g->cpu->gpr[R_ESP] = HOLE;
    FAULTS(g, "\x58", READ_ABSENT, HOLE);
    FAULTS(g, "\xc3", READ_ABSENT, HOLE);
    FAULTS(g, "\xc2\x08\0", READ_ABSENT, HOLE);
    g->cpu->gpr[R_ESP] = HOLE - 16;
    FAULTS(g, "\x61", READ_ABSENT, HOLE); /* popa */
    g->cpu->gpr[R_EBX] = HOLE;
    FAULTS(g, "\x8f\x03", WRITE_ABSENT, HOLE); /* pop [ebx] */
    g->cpu->gpr[R_EBP] = HOLE;
    FAULTS(g, "\xc9", READ_ABSENT, HOLE); /* leave */
}

static void interrupted_rep_movs_keeps_whole_iterations(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    with_paging(g);
    cpu->gpr[R_ESI] = DATA_BASE;
    cpu->gpr[R_EDI] = HOLE - 6;
    cpu->gpr[R_ECX] = 5;
    for (u32 i = 0; i < 16; i++)
        *guest_at(g, DATA_BASE + i) = (u8)(0xa0 + i);
    assert_int_equal(STEP(g, "\xf3\xa5"), INTERP_FAULT); /* the second dword crosses */
    assert_int_equal(cpu->fault.cr2, HOLE);
    assert_int_equal(cpu->gpr[R_ECX], 4);
    assert_int_equal(cpu->gpr[R_ESI], DATA_BASE + 4);
    assert_int_equal(cpu->gpr[R_EDI], HOLE - 2);
    assert_int_equal(cpu->eip, CODE_BASE);
    assert_int_equal(*guest_at(g, HOLE - 3), 0xa3);
    assert_int_equal(*guest_at(g, HOLE - 2), 0);
    set_page(g, HOLE, PRESENT_RW);
    assert_int_equal(interp_step(g->it, cpu), INTERP_OK);
    assert_int_equal(cpu->gpr[R_ECX], 0);
    assert_memory_equal(guest_at(g, HOLE - 6), guest_at(g, DATA_BASE), 20);
}

static void ins_asks_the_device_only_when_the_store_will_succeed(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->eflags |= F_IOPL;
    g->cpu->gpr[R_EDI] = HOLE;
    FAULTS(g, "\x6c", WRITE_ABSENT, HOLE);
    assert_int_equal(g->ports.reads, 0);
}

static void fetch_faults_name_the_second_page(void **state) {
    struct guest *g = *state;
    with_paging(g);
    u32 eip = HOLE - 2;
    memcpy(guest_at(g, eip), "\xb8\x01", 2); /* mov eax, imm32: cut off by the hole */
    g->cpu->eip = eip;
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_PF);
    assert_int_equal(g->cpu->fault.cr2, HOLE);
    assert_int_equal(g->cpu->eip, eip);
    set_page(g, HOLE, PRESENT_RW);
    memset(guest_at(g, HOLE), 0, 3);
    assert_int_equal(interp_step(g->it, g->cpu), INTERP_OK);
    assert_int_equal(g->cpu->gpr[R_EAX], 1);
}

static void segment_limits_raise_gp_or_ss(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    cpu->seg[SEG_DS].limit = 0xffff;
    cpu->gpr[R_EBX] = 0xfffd;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_FAULT);
    assert_int_equal(cpu->fault.vector, VEC_GP);
    cpu->gpr[R_EBX] = 0xfffc;
    assert_int_equal(STEP(g, "\x8b\x03"), INTERP_OK);
    cpu->seg[SEG_SS].limit = STACK_TOP - 0x10000;
    assert_int_equal(STEP(g, "\x50"), INTERP_FAULT);
    assert_int_equal(cpu->fault.vector, VEC_SS);
    assert_int_equal(cpu->gpr[R_ESP], STACK_TOP);
    cpu->seg[SEG_ES].attr = ATTR_NULL;
    assert_int_equal(STEP(g, "\xaa"), INTERP_FAULT);
    assert_int_equal(cpu->fault.vector, VEC_GP);
    /* writing through CS never, reading when the segment is readable */
    cpu->gpr[R_EBX] = DATA_BASE;
    assert_int_equal(STEP(g, "\x2e\x89\x03"), INTERP_FAULT);
    assert_int_equal(STEP(g, "\x2e\x8b\x03"), INTERP_OK);
}

static void near_branches_beyond_the_cs_limit_raise_gp(void **state) {
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    cpu->seg[SEG_CS].limit = CODE_BASE + 0xff;
    assert_int_equal(STEP(g, "\xe9\0\x10\0\0"), INTERP_FAULT);
    assert_int_equal(cpu->fault.vector, VEC_GP);
    assert_int_equal(cpu->eip, CODE_BASE);
    assert_int_equal(STEP(g, "\xe8\0\x10\0\0"), INTERP_FAULT);
    assert_int_equal(cpu->gpr[R_ESP], STACK_TOP);
    cpu->gpr[R_ECX] = 2;
    cpu->seg[SEG_CS].limit = CODE_BASE + 3;
    assert_int_equal(STEP(g, "\xe2\x70"), INTERP_FAULT);
    assert_int_equal(cpu->gpr[R_ECX], 2);
}

/* PUSHA's words go downward one by one: the first that cannot be stored is the one CR2 tells. */
static void pusha_faults_at_its_first_word(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_ESP] = HOLE + 0x100;
    FAULTS(g, "\x60", WRITE_ABSENT, HOLE + 0xfc);
    FAULTS(g, "\x66\x60", WRITE_ABSENT, HOLE + 0xfe);
    g->cpu->gpr[R_ESP] = HOLE + 0x1010; /* 16 bytes above the hole's end */
    FAULTS(g, "\x60", WRITE_ABSENT, HOLE + 0xffc);
}

/* ARPL reads its destination, and writes it only to raise the RPL. */
static void arpl_writes_only_what_it_changes(void **state) {
    struct guest *g = *state;
    with_paging(g);
    g->cpu->gpr[R_EBX] = HOLE;
    FAULTS(g, "\x63\x03", READ_ABSENT, HOLE); /* arpl [ebx], ax */
    g->cpu->gpr[R_EBX] = READ_ONLY;
    g->cpu->gpr[R_EAX] = 1;
    FAULTS(g, "\x63\x03", WRITE_DENIED, READ_ONLY);
    store16(guest_at(g, READ_ONLY), 3);
    assert_int_equal(STEP(g, "\x63\x03"), INTERP_OK);
    assert_false(g->cpu->eflags & F_ZF);
}

/* The permission is looked at before the count. */
static void rep_ins_and_outs_without_permission_fault_even_for_no_element(void **state) {
    static const char *const codes[] = {"\xf3\x6c", "\xf3\x6d", "\xf3\x6e", "\xf2\x6f"};
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->seg[SEG_TR] = (struct segment){.attr = ATTR_P | 11, .limit = 0x67, .base = 0x6000};
    store16(guest_at(g, 0x6066), 0x68);
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        memcpy(guest_at(g, CODE_BASE), codes[i], 2);
        g->cpu->eip = CODE_BASE;
        g->cpu->gpr[R_ECX] = 0;
        assert_int_equal(interp_step(g->it, g->cpu), INTERP_FAULT);
        assert_int_equal(g->cpu->fault.vector, VEC_GP);
        assert_int_equal(g->cpu->eip, CODE_BASE);
    }
}

/* #AC goes by the size of each item: SDM volume 3, table 6-7. */
static void alignment_is_that_of_each_item(void **state) {
    struct guest *g = *state;
    guest_reset(g, 3);
    g->cpu->cr0 |= CR0_AM;
    g->cpu->eflags |= F_AC;
    g->cpu->gpr[R_EBX] = DATA_BASE + 2;
    store32(guest_at(g, DATA_BASE + 2), 0x00000000);      /* a null selector */
    assert_int_equal(STEP(g, "\x66\xc4\x03"), INTERP_OK); /* les ax, [ebx]: 16:16 */
    g->cpu->gpr[R_EAX] = 0;
    assert_int_equal(STEP(g, "\x66\x62\x03"), INTERP_OK); /* bound ax, [ebx] */
    g->cpu->gpr[R_EBX] = DATA_BASE + 4;
    assert_int_equal(STEP(g, "\x62\x03"), INTERP_OK);
    g->cpu->gpr[R_ESP] = STACK_TOP - 4;
    assert_int_equal(STEP(g, "\x60"), INTERP_OK); /* pushad */
    g->cpu->gpr[R_ESP] = STACK_TOP - 2;
    assert_int_equal(STEP(g, "\x60"), INTERP_FAULT);
    assert_int_equal(g->cpu->fault.vector, VEC_AC);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(loads_and_stores),
        CASE(read_modify_write_faults_as_a_write),
        CASE(accesses_across_a_page_border_write_nothing),
        CASE(stack_instructions),
        CASE(interrupted_rep_movs_keeps_whole_iterations),
        CASE(ins_asks_the_device_only_when_the_store_will_succeed),
        CASE(fetch_faults_name_the_second_page),
        CASE(segment_limits_raise_gp_or_ss),
        CASE(near_branches_beyond_the_cs_limit_raise_gp),
        CASE(pusha_faults_at_its_first_word),
        CASE(arpl_writes_only_what_it_changes),
        CASE(rep_ins_and_outs_without_permission_fault_even_for_no_element),
        CASE(alignment_is_that_of_each_item),
    };
    return cmocka_run_group_tests_name("interp.faults", tests, NULL, NULL);
}
