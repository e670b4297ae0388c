/*
 * test_selfcheck.c: pages that are stored to while they hold code stop being protected, and their
 * units notice every change of their source before the instruction it concerns. The tests act as
 * the emulator.
 */
#include "bt_fixture.h"

static const struct bt_counters *count(const struct world *w) {
    return bt_counters(w->bt);
}

/* Makes the page's units check themselves, as many writes to it would. */
static void check_page(struct world *w, u32 at) {
    u32 page = at >> PAGE_SHIFT;
    assert_int_not_equal(w->bt->page_head[page], BT_NONE);
    for (unsigned i = 0; i < 70; i++)
        selfcheck_note_write(w->bt, at);
    assert_true(w->bt->page_checked[page]);
    assert_int_equal(w->bt->page_head[page], BT_NONE);
    assert_false(mmu_code_is_protected(w->cpu->mmu, GPA(at)));
}

/* A world whose page at CODE is checked; code is put there and ends in HLT. */
static void checked_world(struct world *w, const struct bt_config *config, const char *hex) {
    world_create(w, config);
    put(w, CODE + 0xff0, "40 f4");
    run_to_hlt(w, CODE + 0xff0);
    check_page(w, CODE);
    put(w, CODE, hex);
}

static void a_page_that_is_stored_to_often_is_no_longer_protected(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    u32 hot = CODE + 0x800, at = put(&w, CODE, "ff 05"); /* inc dword [hot]; hlt */
    put8(&w, put32(&w, at, hot), 0xf4);
    unsigned emulated = 0;
    for (unsigned i = 0; i < 200; i++) {
        w.cpu->eip = CODE;
        assert_int_equal(bt_run(w.bt), BT_EXIT_EMULATE);
        if (w.cpu->eip == CODE) { /* the store was handed over */
            u32 value = load32(w.ram + hot) + 1;
            assert_true(mmu_write(w.cpu, hot, &value, 4, MMU_WRITE));
            emulated++;
        }
        assert_int_equal(load32(w.ram + hot), i + 1);
    }
    assert_in_range(emulated, 64, 67);
    assert_int_equal(count(&w)->checked_pages, 1);
    assert_int_equal(count(&w)->stale_units, 0);
    world_destroy(&w);
}

/* A kernel that patches each place of its code once keeps its units as they are. */
static void places_written_once_weigh_little(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    put(&w, CODE, "40 f4");
    run_to_hlt(&w, CODE);
    for (u32 i = 0; i < 1000; i++)
        selfcheck_note_write(w.bt, CODE + 4 * i);
    assert_int_equal(count(&w)->checked_pages, 0);
    for (u32 i = 0; i < 30; i++) /* but who goes on and on is heard at last */
        selfcheck_note_write(w.bt, CODE + 1 + 4 * i);
    assert_int_equal(count(&w)->checked_pages, 1);
    world_destroy(&w);
}

static void switched_off_the_page_stays_protected(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.selfcheck = false;
    world_create(&w, &config);
    put(&w, CODE, "40 f4");
    run_to_hlt(&w, CODE);
    for (unsigned i = 0; i < 1000; i++)
        selfcheck_note_write(w.bt, CODE);
    assert_int_equal(count(&w)->checked_pages, 0);
    assert_true(mmu_code_is_protected(w.cpu->mmu, GPA(CODE)));
    world_destroy(&w);
}

/* Expects that the unit at eip finds itself stale, with the state as it is before it. */
static void expect_stale(struct world *w, u32 eip) {
    u64 before = count(w)->stale_units;
    w->cpu->eflags = F_FIXED | F_CF | F_OF | F_ZF;
    w->cpu->gpr[R_ECX] = 0x12345678;
    w->cpu->eip = eip;
    expect_exit(w, BT_EXIT_EMULATE, eip);
    assert_int_equal(count(w)->stale_units, before + 1);
    assert_int_equal(w->cpu->eflags & F_ARITH, F_CF | F_OF | F_ZF);
    assert_int_equal(reg(w, R_ECX), 0x12345678);
}

static void every_byte_counts(void **state) {
    (void)state;
    struct world w;
    /* not ecx; lea eax,[ecx+55667788h]; cmovz edx,eax; hlt: 12 bytes but the HLT's */
    checked_world(&w, NULL, "f7 d1 8d 81 88 77 66 55 0f 44 d0 90 f4");
    for (u32 i = 0; i < 12; i++) {
        run_to_hlt(&w, CODE);
        run_to_hlt(&w, CODE);
        w.ram[CODE + i] ^= 0x40; /* behind everybody's back */
        expect_stale(&w, CODE);
        w.ram[CODE + i] ^= 0x40;
    }
    run_to_hlt(&w, CODE);
    w.ram[CODE + 12] = 0x90; /* what the emulator takes it reads itself */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE + 12);
    world_destroy(&w);
}

static void differences_that_add_up_to_zero_are_seen(void **state) {
    (void)state;
    struct world w;
    checked_world(&w, NULL, "b8 01 00 00 00 ba 02 00 00 00 f4");
    run_to_hlt(&w, CODE);
    /* The second doubleword less one, the first more by one. */
    store32(w.ram + CODE, load32(w.ram + CODE) + 1);
    store32(w.ram + CODE + 4, load32(w.ram + CODE + 4) - 1);
    expect_stale(&w, CODE);
    world_destroy(&w);
}

static void checks_keep_flags_and_registers(void **state) {
    (void)state;
    struct world w;
    checked_world(&w, NULL, "8d 5b 01 8d 76 01 f4");
    for (unsigned i = 0; i < 4; i++) {
        u32 flags = (i & 1 ? F_CF | F_PF | F_AF : 0) | (i & 2 ? F_ZF | F_SF | F_OF : 0);
        for (unsigned r = 0; r < 8; r++)
            w.cpu->gpr[r] = 0x80000000u + r * 0x01010101u;
        w.cpu->eflags = F_FIXED | flags;
        run_to_hlt(&w, CODE);
        assert_int_equal(w.cpu->eflags & F_ARITH, flags);
        for (unsigned r = 0; r < 8; r++)
            assert_int_equal(reg(&w, (enum gpr)r),
                             0x80000000u + r * 0x01010101u + (r == R_EBX || r == R_ESI));
    }
    world_destroy(&w);
}

/* The instruction behind each of these is changed by it, from INC EBX to INC EDX. EBX = DATA, where
 * the new code lies, EAX = its first doubleword, EDI = the target. */
static void stores_are_noticed_before_the_next_instruction(void **state) {
    (void)state;
    enum { NEW = (int)0xf4424242, ALL_HLT = (int)0xf4f4f4f4 };
    static const struct {
        const char *hex;
        u32 eax, ecx, edx, ebx, esp; /* esp: from the target; 0: at DATA */
    } stores[] = {
        {"88 07", 0x42, 0, 0, 0, 0},                        /* mov [edi],al */
        {"66 89 07", 0x4242, 0, 0, 0, 0},                   /* mov [edi],ax */
        {"89 07", NEW, 0, 0, 0, 0},                         /* mov [edi],eax */
        {"c6 07 42", 0, 0, 0, 0, 0},                        /* mov byte [edi],42h */
        {"86 07", 0x42, 0, 0, 0, 0},                        /* xchg [edi],al */
        {"80 37 01", 0, 0, 0, 0, 0},                        /* xor byte [edi],1 */
        {"fe 0f", 0, 0, 0, 0, 0},                           /* dec byte [edi] */
        {"f0 80 27 fe", 0, 0, 0, 0, 0},                     /* lock and byte [edi],0feh */
        {"aa", 0x42, 0, 0, 0, 0},                           /* stosb */
        {"a4", 0, 0, 0, 0, 0},                              /* movsb */
        {"f3 aa", 0x42, 1, 0, 0, 0},                        /* rep stosb */
        {"f3 a4", 0, 3, 0, 0, 0},                           /* rep movsb */
        {"f0 0f c1 0f", 0, 0xffffffff, 0, 0, 0},            /* lock xadd [edi],ecx */
        {"0f b0 27", 0x4243, 0, 0, 0, 0},                   /* cmpxchg [edi],ah */
        {"0f c7 0f", 0xf4424243, ALL_HLT, ALL_HLT, NEW, 0}, /* cmpxchg8b [edi] */
        {"0f c3 07", NEW, 0, 0, 0, 0},                      /* movnti [edi],eax */
        {"0f b3 0f", 0, 0, 0, 0, 0},                        /* btr [edi],ecx */
        {"66 0f 6e c0 66 0f 7e 07", NEW, 0, 0, 0, 0},       /* movd xmm0,eax; movd [edi],xmm0 */
        {"f3 0f 7e 03 0f 13 07", 0, 0, 0, 0, 0},            /* movq xmm0,[ebx]; movlps [edi],xmm0 */
        {"0f 10 03 0f 11 07", 0, 0, 0, 0, 0}, /* movups xmm0,[ebx]; movups [edi],xmm0 */
        {"db 03 db 1f", 0, 0, 0, 0, 0},       /* fild dword [ebx]; fistp dword [edi] */
        {"50", NEW, 0, 0, 0, 4},              /* push eax */
        {"68 42 42 42 f4", 0, 0, 0, 0, 4},    /* push imm32 */
        {"ff 33", 0, 0, 0, 0, 4},             /* push dword [ebx] */
        {"60", NEW, 0, 0, 0, 4},              /* pusha */
        {"8f 07", 0, 0, 0, 0, 0},             /* pop dword [edi] */
    };
    for (size_t i = 0; i < ARRAY_LEN(stores); i++) {
        struct world w;
        u8 bytes[16];
        u32 length = hex_bytes(bytes, stores[i].hex), at = CODE + 0x100, target = at + length;
        checked_world(&w, NULL, "");
        store16(w.cpu->fx, 0x37f); /* as FNINIT leaves it */
        w.cpu->fx[4] = 0;
        memset(w.ram + DATA, 0xf4, 16);
        store32(w.ram + DATA, (u32)NEW);
        for (unsigned round = 0; round < 3; round++) {
            memcpy(w.ram + at, bytes, length);
            memset(w.ram + target, 0xf4, 16);
            store32(w.ram + target, 0xf4424243);
            w.cpu->gpr[R_EAX] = stores[i].eax;
            w.cpu->gpr[R_ECX] = stores[i].ecx;
            w.cpu->gpr[R_EDX] = stores[i].edx;
            w.cpu->gpr[R_EBX] = stores[i].ebx ? stores[i].ebx : DATA;
            w.cpu->gpr[R_ESI] = DATA;
            w.cpu->gpr[R_EDI] = target;
            w.cpu->gpr[R_ESP] = stores[i].esp ? target + stores[i].esp : DATA;
            w.cpu->eip = at;
            /* The unit behind may find itself stale, which the emulator would take. */
            while (bt_run(w.bt) == BT_EXIT_EMULATE && w.ram[w.cpu->eip] != 0xf4)
                if (w.cpu->eip != target)
                    fail_msg("%s: stopped at %08x", stores[i].hex, w.cpu->eip);
            if (reg(&w, R_EDX) != stores[i].edx + 3 ||
                reg(&w, R_EBX) != (stores[i].ebx ? stores[i].ebx : DATA))
                fail_msg("%s: edx %08x ebx %08x", stores[i].hex, reg(&w, R_EDX), reg(&w, R_EBX));
        }
        world_destroy(&w);
    }
}

static void counted_instructions_stay_exact(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.icount = true;
    world_create(&w, &config);
    bt_set_budget(w.bt, 1000);
    put(&w, CODE, "40 40 40 f4");
    run_to_hlt(&w, CODE);
    check_page(&w, CODE);
    w.cpu->insn_count = 0;
    /* The check's first look at the page faults and fills it. */
    u64 filled = w.cpu->mmu->stat_hidden_faults;
    run_to_hlt(&w, CODE);
    assert_int_equal(w.cpu->mmu->stat_hidden_faults, filled + 1);
    assert_int_equal(w.cpu->insn_count, 3);
    w.ram[CODE + 1] ^= 8; /* dec eax */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE);
    assert_int_equal(w.cpu->insn_count, 3);
    run_to_hlt(&w, CODE);
    assert_int_equal(w.cpu->insn_count, 6);
    world_destroy(&w);
}

/* The callee, elsewhere, changes what the caller does behind the call. */
static void returns_meet_the_check(void **state) {
    (void)state;
    for (int retstack = 0; retstack < 2; retstack++) {
        struct bt_config config;
        struct world w;
        u32 callee = CODE + 0x10000;
        default_test_config(&config);
        config.retstack = retstack;
        checked_world(&w, &config, "");
        u32 behind = put_branch(&w, CODE, 0xe8, callee);
        put(&w, behind, "43 f4");                                      /* inc ebx; hlt */
        put(&w, put32(&w, put(&w, callee, "80 35"), behind), "01 c3"); /* xor byte [behind],1 */
        for (unsigned i = 0; i < 20; i++) {
            w.cpu->gpr[R_EBX] = w.cpu->gpr[R_EDX] = 0;
            w.cpu->eip = CODE;
            while (bt_run(w.bt) == BT_EXIT_EMULATE && w.ram[w.cpu->eip] != 0xf4)
                assert_int_equal(w.cpu->eip, behind);
            assert_int_equal(reg(&w, R_EDX), !(i & 1)); /* 42: inc edx, 43: inc ebx */
            assert_int_equal(reg(&w, R_EBX), i & 1);
        }
        assert_int_equal(w.bt->page_head[callee >> PAGE_SHIFT] == BT_NONE, false);
        world_destroy(&w);
    }
}

static void immediates_that_change_are_read_where_they_stand(void **state) {
    (void)state;
    static const struct {
        const char *hex;
        u8 at, bytes;
        u32 value, eax;
    } forms[] = {
        {"b8 00 00 00 00 f4", 1, 4, 0x11223344, 0x11223344},    /* mov eax,imm */
        {"b0 00 f4", 1, 1, 0x77, 0x00010077},                   /* mov al,imm */
        {"b4 00 f4", 1, 1, 0x77, 0x00017700},                   /* mov ah,imm */
        {"c7 c0 00 00 00 00 f4", 2, 4, 0x11223344, 0x11223344}, /* mov eax,imm */
        {"05 00 00 00 00 f4", 1, 4, 0x11, 0x10011},             /* add eax,imm */
        {"81 c0 00 00 00 00 f4", 2, 4, 0x11, 0x10011},
        {"83 e8 00 f4", 2, 1, 0xff, 0x10001}, /* sub eax,-1 */
        {"35 00 00 00 00 f4", 1, 4, 0x10001, 1},
        {"81 03 00 00 00 00 03 03 f4", 2, 4, 5, 0x10005 + DATA}, /* add [ebx],imm */
        {"c7 03 00 00 00 00 03 03 f4", 2, 4, 5, 0x10005},        /* mov [ebx],imm */
        {"68 00 00 00 00 58 f4", 1, 4, 0xabcdef, 0xabcdef},      /* push imm; pop eax */
        {"6a 00 58 f4", 1, 1, 0x80, 0xffffff80},
        {"e9 00 00 00 00 f4 40 f4", 1, 4, 1, 0x10001},          /* jmp to inc eax */
        {"e8 00 00 00 00 f4 58 f4", 1, 4, 1, CODE + 5},         /* call to pop eax */
        {"a9 00 00 00 00 0f 95 c0 f4", 1, 4, 0x10000, 0x10001}, /* test; setnz al */
        {"f7 c0 00 00 00 00 0f 95 c0 f4", 2, 4, 0x10000, 0x10001},
    };
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct world w;
        checked_world(&w, NULL, forms[i].hex);
        store32(w.ram + DATA, DATA);
        u64 stale = 0;
        for (unsigned round = 0; round < 6; round++) {
            u32 value = round == 5 ? forms[i].value : round * 3 * (forms[i].hex[0] != 'e');
            memcpy(w.ram + CODE + forms[i].at, &value, forms[i].bytes);
            w.cpu->gpr[R_EBX] = DATA;
            store32(w.ram + DATA, forms[i].hex[0] == '8' ? DATA : 0);
            w.cpu->gpr[R_EAX] = 0x10000;
            w.cpu->eflags = F_FIXED;
            w.cpu->eip = CODE;
            assert_int_equal(bt_run(w.bt), BT_EXIT_EMULATE);
            if (w.cpu->eip ==
                CODE) { /* stale: take another way than the emulator's, the same unit */
                assert_int_equal(bt_run(w.bt), BT_EXIT_EMULATE);
            }
            if (round == 2)
                stale = count(&w)->stale_units;
        }
        if (reg(&w, R_EAX) != forms[i].eax)
            fail_msg("%s: eax %08x", forms[i].hex, reg(&w, R_EAX));
        /* Branches change for the first time in the last round. */
        if (forms[i].hex[0] != 'e' && count(&w)->stale_units != stale)
            fail_msg("%s: found stale again", forms[i].hex);
        assert_true(count(&w)->live_immediates > 0);
        world_destroy(&w);
    }
}

/* mov eax,imm32 across a page boundary: either page may be the one that is written. */
static void units_over_two_pages_check_both(void **state) {
    (void)state;
    for (u32 side = 0; side < 2; side++) {
        struct world w;
        world_create(&w, NULL);
        u32 at = CODE + PAGE_BYTES - 2, page = CODE + side * PAGE_BYTES;
        put(&w, page + 0x800, "40 f4");
        run_to_hlt(&w, page + 0x800);
        check_page(&w, page);
        put(&w, at, "8d 83 11 11 11 11 f4"); /* lea eax,[ebx+11111111h] */
        w.cpu->gpr[R_EBX] = 0;
        run_to_hlt(&w, at);
        assert_int_equal(reg(&w, R_EAX), 0x11111111);
        /* The other page is protected and this one not. */
        assert_int_equal(mmu_code_is_protected(w.cpu->mmu, GPA(CODE)), side == 1);
        assert_int_equal(mmu_code_is_protected(w.cpu->mmu, GPA(CODE + PAGE_BYTES)), side == 0);
        w.ram[page + (side ? 1 : PAGE_BYTES - 1)] ^= 1;
        expect_stale(&w, at);
        world_destroy(&w);
    }
}

static void the_number_of_checked_pages_is_bounded(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    for (u32 i = 0; i < BT_CHECKED_PAGES + 50; i++) {
        u32 at = CODE + i * PAGE_BYTES;
        put(&w, at, "40 f4");
        run_to_hlt(&w, at);
        check_page(&w, at);
        run_to_hlt(&w, at);
    }
    assert_int_equal(w.bt->checked_pages, BT_CHECKED_PAGES);
    u32 checked = 0;
    for (u32 i = 0; i < w.bt->page_count; i++)
        checked += w.bt->page_checked[i];
    assert_int_equal(checked, BT_CHECKED_PAGES);
    /* In time all are given up: their units are made anew and protect them. */
    for (unsigned i = 0; i < 1024; i++)
        selfcheck_age(w.bt);
    assert_int_equal(w.bt->checked_pages, 0);
    run_to_hlt(&w, CODE);
    assert_true(mmu_code_is_protected(w.cpu->mmu, GPA(CODE)));
    world_destroy(&w);
}

/* A debugger or a device writes physical memory: protected pages hear of it, checked ones see. */
static void physical_writes_are_noticed(void **state) {
    (void)state;
    for (unsigned checked = 0; checked < 2; checked++)
        for (unsigned behind = 0; behind < 2; behind++) {
            struct world w;
            if (checked)
                checked_world(&w, NULL, "43 43 43 f4");
            else
                world_create(&w, NULL), put(&w, CODE, "43 43 43 f4");
            run_to_hlt(&w, CODE);
            u8 edx = 0x42;
            if (behind) {
                w.ram[CODE + 1] = edx;
                mmu_phys_written(w.cpu->mmu, GPA(CODE + 1), 1);
            } else {
                assert_true(mmu_phys_write(w.cpu->mmu, GPA(CODE + 1), &edx, 1));
            }
            w.cpu->gpr[R_EBX] = w.cpu->gpr[R_EDX] = 0;
            if (checked)
                expect_stale(&w, CODE);
            run_to_hlt(&w, CODE);
            assert_int_equal(reg(&w, R_EBX), 2);
            assert_int_equal(reg(&w, R_EDX), 1);
            world_destroy(&w);
        }
}

static void sites_that_stored_beside_code_store_directly_again(void **state) {
    (void)state;
    struct world w;
    world_create(&w, NULL);
    u32 other = CODE + 0x10000;
    put(&w, other, "40 f4");
    run_to_hlt(&w, other);
    put(&w, CODE, "89 03 43 f4"); /* mov [ebx],eax; inc ebx; hlt */
    for (unsigned i = 0; i < 10; i++) {
        w.cpu->gpr[R_EBX] = other + 0x100 + 4 * i;
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE);
    }
    assert_true(site_adapted(w.bt, CODE));
    check_page(&w, other);
    assert_false(site_adapted(w.bt, CODE));
    u64 callouts = count(&w)->callouts_by_kind[BT_CALLOUT_access];
    run_to_hlt(&w, CODE);
    assert_int_equal(count(&w)->callouts_by_kind[BT_CALLOUT_access], callouts);
    world_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_is_stored_to_often_is_no_longer_protected),
        cmocka_unit_test(places_written_once_weigh_little),
        cmocka_unit_test(switched_off_the_page_stays_protected),
        cmocka_unit_test(every_byte_counts),
        cmocka_unit_test(differences_that_add_up_to_zero_are_seen),
        cmocka_unit_test(checks_keep_flags_and_registers),
        cmocka_unit_test(stores_are_noticed_before_the_next_instruction),
        cmocka_unit_test(counted_instructions_stay_exact),
        cmocka_unit_test(returns_meet_the_check),
        cmocka_unit_test(immediates_that_change_are_read_where_they_stand),
        cmocka_unit_test(units_over_two_pages_check_both),
        cmocka_unit_test(the_number_of_checked_pages_is_bounded),
        cmocka_unit_test(physical_writes_are_noticed),
        cmocka_unit_test(sites_that_stored_beside_code_store_directly_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
