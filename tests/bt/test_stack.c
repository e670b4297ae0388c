/*
 * test_stack.c: sequences of stack instructions in one unit against the same instructions one by
 * one, each in a unit of its own. The translator moves the host's copy of ESP lazily; at every
 * place where the guest can look (a fault, an exit, a callout, a branch) it must stand where it
 * belongs.
 */
#include "bt_fixture.h"

#define HOLE 0x700000u
#define STACK (DATA + 0x8000)
enum { MAX_LENGTH = 18 };

static u64 seed = 0x243f6a8885a308d3;
static u32 rnd(u32 below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)((seed * 0x9e3779b97f4a7c15ull) >> 33) % below;
}

/* Each leaves ESP near where it was and the other registers free. */
static const char *const pool[] = {
    "50",                   /* push eax */
    "51",                   /* push ecx */
    "54",                   /* push esp */
    "6a 85",                /* push imm8 */
    "68 78 56 34 12",       /* push imm32 */
    "66 50",                /* push ax */
    "ff 34 24",             /* push [esp] */
    "ff 74 24 08",          /* push [esp+8] */
    "ff 35 00 00 30 00",    /* push [DATA] */
    "58",                   /* pop eax */
    "5a",                   /* pop edx */
    "5d",                   /* pop ebp */
    "66 59",                /* pop cx */
    "8f 04 24",             /* pop [esp] */
    "8f 44 24 10",          /* pop [esp+16] */
    "8f 05 04 00 30 00",    /* pop [DATA+4] */
    "54 5c",                /* push esp; pop esp */
    "83 c4 08",             /* add esp,8 */
    "83 ec 0c",             /* sub esp,12 */
    "4c",                   /* dec esp */
    "8d 44 24 04",          /* lea eax,[esp+4] */
    "8d 64 24 f8",          /* lea esp,[esp-8] */
    "8b 44 24 08",          /* mov eax,[esp+8] */
    "89 0c 24",             /* mov [esp],ecx */
    "89 64 24 04",          /* mov [esp+4],esp */
    "8a 64 24 05",          /* mov ah,[esp+5] */
    "88 74 24 03",          /* mov [esp+3],dh */
    "89 e5",                /* mov ebp,esp */
    "89 e5 51 c9",          /* mov ebp,esp; push ecx; leave */
    "39 e0",                /* cmp eax,esp */
    "87 0c 24",             /* xchg [esp],ecx */
    "f0 0f c1 04 24",       /* lock xadd [esp],eax */
    "94 94",                /* xchg eax,esp, twice */
    "60",                   /* pusha */
    "61",                   /* popa */
    "9c",                   /* pushf */
    "9c 9d",                /* pushf; popf */
    "51 9c 9d 59",          /* and deeper */
    "0f a0 0f a1",          /* push fs; pop fs */
    "1e",                   /* push ds */
    "1e 1f",                /* push ds; pop ds */
    "8e d8 8e d8",          /* replaced below: see put_step */
    "75 00",                /* jnz to the next instruction */
    "74 00",                /* jz */
    "e3 00",                /* jecxz */
    "eb 00",                /* jmp */
    "e8 00 00 00 00",       /* call the next instruction */
    "51 e8 00 00 00 00 5a", /* between a push and a pop */
    "68 01 00 00 00 fa",    /* push; cli */
    "fb",                   /* sti */
    "11 04 24",             /* adc [esp],eax */
    "0f 94 04 24",          /* setz [esp] */
    "d9 04 24 d9 5c 24 08", /* fld [esp]; fstp [esp+8] */
    "f3 0f 6f 04 24",       /* movdqu xmm0,[esp] */
    "64 8b 4c 24 04",       /* mov ecx,fs:[esp+4] */
    "40",                   /* inc eax */
    "fc",                   /* cld: nothing */
};

static unsigned put_step(u8 *out, unsigned step) {
    static const char load_ds[] = "1e 66 8e 1c 24 58"; /* push ds; mov ds,[esp]; pop eax */
    const char *hex = pool[step];
    return hex_bytes(out, strcmp(hex, "8e d8 8e d8") ? hex : load_ds);
}

struct snapshot {
    u32 r[8], flags;
    u8 memory[0x200], data[16];
};

static void initial_state(struct world *w) {
    for (int r = 0; r < 8; r++)
        w->cpu->gpr[r] = 0x01010101u * (u32)(r + 1);
    w->cpu->gpr[R_ESP] = STACK;
    w->cpu->eflags = F_FIXED;
    w->cpu->shadow = 0;
    set_cpl(w, 0);
    for (u32 i = 0; i < 0x2000; i++)
        w->ram[STACK - 0x1000 + i] = (u8)(i * 13 + 5);
    memset(w->ram + DATA, 0x5a, 16);
    memset(w->cpu->fx, 0, sizeof w->cpu->fx);
    store16(w->cpu->fx, 0x37f);
    store32(w->cpu->fx + 24, 0x1f80);
}

static void take(const struct world *w, struct snapshot *s) {
    for (int r = 0; r < 8; r++)
        s->r[r] = reg(w, (enum gpr)r);
    s->flags = w->cpu->eflags;
    memcpy(s->memory, w->ram + STACK - 0x100, sizeof s->memory);
    memcpy(s->data, w->ram + DATA, sizeof s->data);
}

struct sequence {
    unsigned length, step[MAX_LENGTH];
    u32 at[MAX_LENGTH + 1]; /* guest address of each step and of the end */
};

static void fail_sequence(const struct sequence *s, unsigned at, const char *what, u32 got,
                          u32 want) {
    for (unsigned i = 0; i < s->length; i++)
        fprintf(stderr, "%s %s\n", i == at ? "->" : "  ", pool[s->step[i]]);
    fail_msg("step %u: %s %08x, expected %08x", at, what, got, want);
}

static void expect_snapshot(const struct sequence *q, unsigned at, const struct snapshot *got,
                            const struct snapshot *want) {
    static const char *const names[8] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
    for (int r = 0; r < 8; r++)
        if (got->r[r] != want->r[r])
            fail_sequence(q, at, names[r], got->r[r], want->r[r]);
    if (got->flags != want->flags)
        fail_sequence(q, at, "eflags", got->flags, want->flags);
    if (memcmp(got->memory, want->memory, sizeof got->memory) ||
        memcmp(got->data, want->data, sizeof got->data))
        fail_sequence(q, at, "memory", 0, 0);
}

/* Puts the sequence at `from`; before step `stop` an access to the hole, at the end a HLT. */
static void put_sequence(struct world *w, struct sequence *q, u32 from, unsigned stop) {
    for (unsigned i = 0; i <= q->length; i++) {
        q->at[i] = from;
        if (i == stop) /* mov [HOLE],eax: no flags, faults before it does anything */
            from = put32(w, put8(w, from, 0xa3), HOLE);
        if (i < q->length)
            from += put_step(w->ram + from, q->step[i]);
    }
    put8(w, from, 0xf4);
}

static bool stays_near(const struct snapshot *s) {
    return s->r[R_ESP] - (STACK - 0xc0) < 0x180;
}

/* CALL and PUSH of EIP leave addresses behind, so both ways run at the same ones: the reference has
 * a HLT in place of everything behind its step. */
static void reference(struct world *w, struct sequence *q, unsigned stop, struct snapshot *out) {
    initial_state(w);
    u32 at = CODE;
    for (unsigned i = 0; i < stop; i++) {
        u8 bytes[16];
        unsigned n = put_step(bytes, q->step[i]);
        memcpy(w->ram + at, bytes, n);
        for (u32 from = at, end = at + n; from < end;) { /* one guest instruction at a time */
            struct insn in;
            assert_int_equal(insn_decode(&in, bytes + (from - at), n - (from - at), true, true),
                             INSN_OK);
            w->ram[from + in.length] = 0xf4;
            bt_flush(w->bt);
            run_to_hlt(w, from);
            memcpy(w->ram + at, bytes, n);
            from += in.length;
        }
        at += n;
    }
    take(w, out);
}

static void make_sequence(struct world *w, struct sequence *q) {
    struct snapshot s;
    q->length = 0;
    while (q->length < MAX_LENGTH) {
        q->step[q->length] = rnd(ARRAY_LEN(pool));
        reference(w, q, q->length + 1, &s);
        if (stays_near(&s))
            q->length++;
    }
}

static void compare_sequences(const struct bt_config *config, unsigned rounds, bool adapt) {
    struct world w;
    world_create(&w, config);
    enable_paging(&w, KERNEL_PAGE);
    map_page(&w, HOLE, 0);
    for (unsigned round = 0; round < rounds; round++) {
        struct sequence q;
        memset(w.bt->site, 0, sizeof w.bt->site);
        make_sequence(&w, &q);
        for (unsigned stop = 0; stop <= q.length; stop++) {
            struct snapshot want, got;
            memset(w.bt->site, 0, sizeof w.bt->site);
            reference(&w, &q, stop, &want);
            bt_flush(w.bt);
            initial_state(&w);
            put_sequence(&w, &q, CODE, stop);
            for (unsigned i = 0; adapt && i < q.length; i++)
                site_note_fault(w.bt, q.at[i], BT_NONE, 1);
            w.cpu->eip = CODE;
            enum bt_exit exit;
            /* An adapted form without a callout leaves: run it as the reference does. */
            unsigned guard = 0;
            while ((exit = bt_run(w.bt)) == BT_EXIT_EMULATE && adapt && guard++ < 64) {
                struct bt_site *s = w.bt->site;
                for (unsigned i = 0; i < ARRAY_LEN(w.bt->site); i++)
                    if (s[i].gpa == w.cpu->eip && s[i].adapted)
                        s[i] = (struct bt_site){0};
                bt_flush(w.bt);
            }
            if (exit != BT_EXIT_FAULT || w.cpu->eip != q.at[stop])
                fail_sequence(&q, stop, "eip", w.cpu->eip, q.at[stop]);
            take(&w, &got);
            expect_snapshot(&q, stop, &got, &want);
        }
    }
    world_destroy(&w);
}

static void a_unit_of_stack_instructions_is_the_sum_of_its_instructions(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    compare_sequences(&config, 60, false);
}

static void adapted_sites_among_pushes_and_pops_see_the_right_stack(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    compare_sequences(&config, 40, true);
}

static void icount_and_no_return_stack_change_nothing(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    config.retstack = false;
    compare_sequences(&config, 20, false);
}

/* PUSHA and POPA over a page end: whichever half is missing, no register may have moved. */
static void pusha_and_popa_over_a_missing_page_are_restartable(void **state) {
    (void)state;
    for (unsigned popa = 0; popa < 2; popa++)
        for (unsigned upper = 0; upper < 2; upper++)
            for (int distance = 1; distance < 32; distance++) {
                struct world w;
                u32 bottom = HOLE - (u32)distance, hole = upper ? HOLE : HOLE - PAGE_BYTES;
                world_create(&w, NULL);
                enable_paging(&w, KERNEL_PAGE);
                map_page(&w, hole, 0);
                put(&w, CODE, popa ? "61 f4" : "60 f4");
                for (int r = 0; r < 8; r++)
                    w.cpu->gpr[r] = 0x11111111u * (u32)r;
                u32 esp = popa ? bottom : bottom + 32;
                w.cpu->gpr[R_ESP] = esp;
                w.cpu->eip = CODE;
                expect_exit(&w, BT_EXIT_FAULT, CODE);
                assert_int_equal(w.cpu->fault.cr2 & ~PAGE_OFFSET_MASK, hole);
                /* Upwards, the word of ESP is skipped. */
                u32 missing = !upper                            ? bottom
                              : distance >= 12 && distance < 16 ? bottom + 16
                                                                : HOLE;
                if (popa)
                    assert_int_equal(w.cpu->fault.cr2, missing);
                for (int r = 0; r < 8; r++)
                    assert_int_equal(reg(&w, (enum gpr)r), r == R_ESP ? esp : 0x11111111u * (u32)r);
                world_destroy(&w);
            }
}

/* CALL through ESP goes to where ESP stood in front of it, after pops that moved it. */
static void call_through_esp_sees_the_pops_before_it(void **state) {
    struct world w;
    (void)state;
    world_create(&w, NULL);
    put(&w, CODE, "58 ff d4"); /* pop eax; call esp */
    put(&w, STACK + 4, "f4");  /* hlt */
    w.cpu->gpr[R_ESP] = STACK;
    run_to_hlt(&w, CODE);
    assert_int_equal(w.cpu->eip, STACK + 4);
    assert_int_equal(reg(&w, R_ESP), STACK);
    assert_int_equal(load32(w.ram + STACK), CODE + 3);
    world_destroy(&w);
}

/* POP Sreg reads as much as it moves ESP. */
static void pop_of_a_segment_register_reads_the_whole_operand(void **state) {
    static const char *const codes[] = {"1f f4", "07 f4", "0f a1 f4", "0f a9 f4"};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        struct world w;
        world_create(&w, NULL);
        enable_paging(&w, KERNEL_PAGE);
        map_page(&w, HOLE, 0);
        put(&w, CODE, codes[i]);
        w.cpu->gpr[R_ESP] = HOLE - 2;
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_FAULT, CODE);
        assert_int_equal(w.cpu->fault.cr2, HOLE);
        assert_int_equal(reg(&w, R_ESP), HOLE - 2);
        world_destroy(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unit_of_stack_instructions_is_the_sum_of_its_instructions),
        cmocka_unit_test(adapted_sites_among_pushes_and_pops_see_the_right_stack),
        cmocka_unit_test(icount_and_no_return_stack_change_nothing),
        cmocka_unit_test(pusha_and_popa_over_a_missing_page_are_restartable),
        cmocka_unit_test(call_through_esp_sees_the_pops_before_it),
        cmocka_unit_test(pop_of_a_segment_register_reads_the_whole_operand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
