/*
 * test_trap_classes.c: privileged instructions left to trap (bt_config.trap_classes). Each class is
 * run twice, rewritten and left in place, with the interpreter as the emulator of both: the guest
 * cannot tell. (Hosted, the instruction traps at ring 3 as it would at ring 1.)
 */
#include "bt_fixture.h"
#include "interp/interp.h"

enum { ALL_CLASSES = (1 << BT_TRAP_CLASS_COUNT) - 1 };

/* ---- A machine with ports ---- */

struct ports {
    u32 reads;
    u64 log; /* hash of everything written and read */
};
static void note(struct ports *p, u32 a, u32 b, u32 c) {
    p->log = (p->log ^ ((u64)a << 40 | (u64)b << 8 | c)) * 0x9e3779b97f4a7c15ull + 1;
}
static u32 port_read(void *opaque, u16 port, unsigned bytes) {
    struct ports *p = opaque;
    note(p, port, bytes, 1);
    u32 value = 0x81828384u + 0x01010101u * p->reads++;
    return bytes == 4 ? value : value & ((1u << (8 * bytes)) - 1);
}
static void port_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    note(opaque, port, bytes, 2);
    note(opaque, value, 0, 3);
}

struct machine {
    struct world w;
    struct ports ports;
    struct cpu_bus bus;
    struct cpu_model model;
    struct interp *interp;
};

static void machine_create(struct machine *m, const struct bt_config *config) {
    *m = (struct machine){
        .bus = {.io_read = port_read, .io_write = port_write},
        .model = {.cr4_allowed = CR4_PSE | CR4_PGE | CR4_TSD | CR4_OSFXSR | CR4_OSXMMEXCPT,
                  .f1_edx = UINT32_MAX,
                  .f1_ecx = UINT32_MAX}};
    world_create(&m->w, config);
    m->bus.opaque = &m->ports;
    m->w.cpu->bus = &m->bus;
    m->w.cpu->model = &m->model;
    m->interp = interp_create();
    assert_non_null(m->interp);
}
static void machine_destroy(struct machine *m) {
    interp_destroy(m->interp);
    world_destroy(&m->w);
}

/* Runs to eip `end` or to the first fault; what is not translated is interpreted. */
static void machine_run(struct machine *m, u32 end) {
    struct cpu *cpu = m->w.cpu;
    for (unsigned steps = 0; cpu->eip != end; steps++) {
        assert_true(steps < 1000);
        if (m->w.bt->config.lockstep)
            bt_lockstep_compare(m->w.bt);
        enum bt_exit exit = bt_run(m->w.bt);
        if (exit == BT_EXIT_FAULT)
            return;
        if (exit != BT_EXIT_EMULATE && exit != BT_EXIT_MODE)
            continue;
        if (cpu->eip == end)
            return;
        enum interp_result result = interp_step(m->interp, cpu);
        if (result == INTERP_FAULT)
            return;
        if (result == INTERP_HALT)
            note(&m->ports, 0xbeef, cpu->eip, 4);
        cpu->halted = false;
    }
}

/* ---- The samples ---- */

struct sample {
    const char *name;
    u32 class;
    const char *guest;      /* @D in it: the address of DATA */
    const char *privileged; /* host form of one of its instructions */
};
static const struct sample samples[] = {
    {"mov from cr", BT_TRAP_CR, "f9 0f 20 c0 0f 20 d1 0f 20 da 0f 20 e3 0f 20 c6", "0f 20 c0"},
    {"mov esp, cr3", BT_TRAP_CR, "55 0f 20 dc", "41 0f 20 dc"},
    {"mov to cr0", BT_TRAP_CR, "0f 20 c0 83 c8 08 0f 22 c0 0f 20 c3", "0f 22 c0"},
    {"mov to cr2, cr3, cr4", BT_TRAP_CR,
     "b8 78 56 34 12 0f 22 d0 0f 20 d9 0f 22 d9 0f 20 e2 80 ca 80 0f 22 e2 0f 20 e6", "0f 22 e2"},
    {"mov cr2, esp", BT_TRAP_CR, "50 50 0f 22 d4 58 58", "41 0f 22 d4"},
    {"mov to cr4, reserved bit", BT_TRAP_CR, "b8 00 00 00 80 40 0f 22 e0", "0f 22 e0"},
    {"clts", BT_TRAP_CR, "0f 20 c0 83 c8 08 0f 22 c0 0f 06 0f 20 c1", "0f 06"},
    {"lmsw ax", BT_TRAP_CR, "66 b8 0b 00 0f 01 f0 0f 20 c1", "0f 01 f0"},
    {"lmsw word [m]", BT_TRAP_CR, "66 c7 05 @D 0b 00 0f 01 35 @D 0f 20 c1", "0f 01 f0"},
    {"in, immediate", BT_TRAP_IO, "e4 60 89 c1 e5 61 89 c2 66 e5 62", "e4 60"},
    {"in, dx", BT_TRAP_IO, "66 ba f8 03 ec 89 c3 ed 89 c6 66 ed", "66 ed"},
    {"out, immediate", BT_TRAP_IO, "b8 44 33 22 11 e6 80 e7 81 66 e7 82", "66 e7 82"},
    {"out, dx", BT_TRAP_IO, "b8 44 33 22 11 66 ba 00 10 ee ef 66 ef", "ef"},
    {"ins", BT_TRAP_IO, "66 ba f0 01 bf @D 6c 6d 66 6d a1 @D", "66 ed"},
    {"rep ins", BT_TRAP_IO, "66 ba f0 01 bf @D b9 05 00 00 00 f3 6d", "ed"},
    {"outs", BT_TRAP_IO, "c7 05 @D 44 33 22 11 66 ba f0 01 be @D 6e 6f 66 6f", "ee"},
    {"rep outs", BT_TRAP_IO, "c7 05 @D 44 33 22 11 66 ba f0 01 be @D b9 03 00 00 00 f3 66 6f",
     "66 ef"},
    {"cli, sti", BT_TRAP_CLI_STI, "fb 43 9c 58 fa 9c 59 fb 46 9c 5a", "fa"},
    {"sti behind a push", BT_TRAP_CLI_STI, "f9 50 fb 72 01 47 58 fa", "fb"},
    {"hlt", BT_TRAP_HLT, "40 f4 43 f4 41", "f4"},
    {"wrmsr, rdmsr", BT_TRAP_MSR, "b9 75 01 00 00 b8 44 33 22 11 31 d2 0f 30 31 c0 0f 32", "0f 30"},
    {"rdmsr of nothing", BT_TRAP_MSR, "43 b9 00 00 ad de 0f 32 43", "0f 32"},
    {"lgdt, lidt", BT_TRAP_DESCRIPTOR, "66 c7 05 @D ff 00 0f 01 15 @D 0f 01 1d @D b8 07 00 00 00",
     "41 0f 01 97 30 01 00 00"},
    {"lldt", BT_TRAP_DESCRIPTOR, "31 c0 0f 00 d0 40", "0f 00 d0"},
    {"lldt of code: #GP", BT_TRAP_DESCRIPTOR, "b8 08 00 00 00 0f 00 d0 40", "0f 00 d0"},
    {"ltr", BT_TRAP_DESCRIPTOR, "b8 28 00 00 00 0f 00 d8 40", "0f 00 d8"},
    {"ltr null: #GP", BT_TRAP_DESCRIPTOR, "31 c0 43 0f 00 d8 40", "0f 00 d8"},
    {"invlpg", BT_TRAP_INVLPG, "43 0f 01 3d @D 8b 15 @D", "41 0f 01 bf 30 01 00 00"},
};
_Static_assert(HOT_SCRATCH == 0x130, "the forms above hold it");

/* The sample's code at CODE; the address behind it. */
static u32 put_sample(struct world *w, const char *guest) {
    u32 at = CODE;
    for (const char *p = guest; *p;) {
        if (p[0] == '@') {
            at = put32(w, at, DATA);
            p += 2;
        } else if (*p == ' ') {
            p++;
        } else {
            at = put8(w, at, (u8)strtoul((char[]){p[0], p[1], 0}, NULL, 16));
            p += 2;
        }
    }
    put8(w, at, 0xf4);
    return at;
}

/* Does any unit hold these bytes right in front of a callout to the emulator? */
static const struct bt_unit *unit_with(const struct bt *bt, const char *hex) {
    u8 bytes[24];
    unsigned n = hex_bytes(bytes, hex);
    for (u32 i = 0; i < bt->unit_count; i++) {
        const struct bt_unit *u = &bt->unit[i];
        const u8 *p = bt->cache_rx + u->host;
        for (u32 at = 0; at + n + 12 <= u->host_bytes; at++)
            if (memcmp(p + at, bytes, n) == 0 && memcmp(p + at + n, "\x41\xb8", 2) == 0 &&
                memcmp(p + at + n + 6, "\x41\xb9\0\0\0\0", 6) == 0)
                return u;
    }
    return NULL;
}

static void run_sample(struct machine *m, const struct bt_config *config, const struct sample *s) {
    machine_create(m, config);
    struct world *w = &m->w;
    enable_paging(w, KERNEL_PAGE);
    /* An available TSS of 68h bytes at 28h. */
    store64(w->ram + GDT_AT + 0x28, 0x0000890060000067ull);
    u32 end = put_sample(w, s->guest);
    w->cpu->gpr[R_EBP] = 0x55aa1234;
    w->cpu->eflags |= F_CF | F_OF;
    bt_set_budget(w->bt, 1000);
    w->cpu->eip = CODE;
    machine_run(m, end);
}

static void expect_same(const struct sample *s, const struct machine *a, const struct machine *b) {
    const struct cpu *x = a->w.cpu, *y = b->w.cpu;
    bool same =
        x->eip == y->eip && x->eflags == y->eflags && x->shadow == y->shadow &&
        memcmp(x->gpr, y->gpr, sizeof x->gpr) == 0 && memcmp(x->seg, y->seg, sizeof x->seg) == 0 &&
        x->cr0 == y->cr0 && x->cr2 == y->cr2 && x->cr3 == y->cr3 && x->cr4 == y->cr4 &&
        memcmp(&x->gdtr, &y->gdtr, sizeof x->gdtr) == 0 &&
        memcmp(&x->idtr, &y->idtr, sizeof x->idtr) == 0 && x->sysenter_esp == y->sysenter_esp &&
        (!a->w.bt->config.icount || x->insn_count == y->insn_count) &&
        memcmp(&x->fault, &y->fault, sizeof x->fault) == 0 && a->ports.log == b->ports.log &&
        memcmp(a->w.ram + DATA - PAGE_BYTES, b->w.ram + DATA - PAGE_BYTES, 2 * PAGE_BYTES) == 0 &&
        memcmp(a->w.ram + STACK_TOP - PAGE_BYTES, b->w.ram + STACK_TOP - PAGE_BYTES, PAGE_BYTES) ==
            0;
    if (!same)
        fail_msg("%s: the guest can tell: eip %08x %08x, eflags %08x %08x, eax %08x %08x, fault "
                 "%u %u",
                 s->name, x->eip, y->eip, x->eflags, y->eflags, (u32)x->gpr[0], (u32)y->gpr[0],
                 x->fault.vector, y->fault.vector);
}

static void expect_verdicts(struct bt *bt, const struct sample *s) {
    struct bt_unit u = *unit_with(bt, s->privileged);
    u32 offset, own = bt->config.trap_classes;
    const char *wrong = bt_verify(bt, &u, &offset);
    if (wrong)
        fail_msg("%s: %s at %u", s->name, wrong, offset);
    bt->config.trap_classes = ALL_CLASSES & ~s->class;
    assert_non_null(bt_verify(bt, &u, &offset));
    bt->config.trap_classes = ALL_CLASSES;
    u.cpl = 3;
    assert_non_null(bt_verify(bt, &u, &offset));
    bt->config.trap_classes = own;
}

static void compare_samples(bool icount, bool lockstep) {
    struct bt_config config;
    default_test_config(&config);
    config.icount = icount;
    config.lockstep = lockstep;
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        const struct sample *s = &samples[i];
        struct machine off, on;
        config.trap_classes = 0;
        run_sample(&off, &config, s);
        config.trap_classes = s->class;
        run_sample(&on, &config, s);
        expect_same(s, &off, &on);
        if (unit_with(off.w.bt, s->privileged))
            fail_msg("%s: left in place although nothing asked for it", s->name);
        if (!unit_with(on.w.bt, s->privileged))
            fail_msg("%s: no unit holds %s", s->name, s->privileged);
        expect_verdicts(on.w.bt, s);
        assert_int_equal(bt_counters(off.w.bt)->traps_by_class[__builtin_ctz(s->class)], 0);
        assert_true(bt_counters(on.w.bt)->traps_by_class[__builtin_ctz(s->class)] > 0);
        machine_destroy(&off);
        machine_destroy(&on);
    }
}

static void the_guest_cannot_tell_a_trap_from_a_translation(void **state) {
    (void)state;
    compare_samples(false, false);
}

static void nor_where_units_are_counted_or_compared(void **state) {
    (void)state;
    compare_samples(true, false);
    compare_samples(false, true);
}

/* ---- Details ---- */

static void the_trap_leaves_exact_state(void **state) {
    (void)state;
    struct bt_config config;
    struct world w;
    default_test_config(&config);
    config.trap_classes = BT_TRAP_CLI_STI;
    world_create(&w, &config);
    put(&w, CODE, "f9 50 51 40 fa 43 f4"); /* stc; push eax; push ecx; inc eax; cli; inc ebx */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE + 4);
    assert_int_equal(reg(&w, R_ESP), STACK_TOP - 8);
    assert_int_equal(reg(&w, R_EAX), 1);
    assert_int_equal(reg(&w, R_EBX), 0);
    assert_true(w.cpu->eflags & F_CF);
    assert_false(w.bt->fault_emulate); /* the site does not count as one that keeps faulting */
    assert_int_equal(bt_counters(w.bt)->callouts_by_kind[BT_CALLOUT_emulate], 0);
    world_destroy(&w);
}

static void a_class_leaves_the_others_alone(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        struct machine m;
        config.trap_classes = ALL_CLASSES & ~samples[i].class;
        run_sample(&m, &config, &samples[i]);
        assert_null(unit_with(m.w.bt, samples[i].privileged));
        machine_destroy(&m);
    }
}

static void applications_never_hold_privileged_instructions(void **state) {
    (void)state;
    static const char *const code[] = {"40 fa",       "40 f4",    "40 ec",
                                       "40 0f 20 c0", "40 0f 32", "40 0f 01 3d 00 00 30 00",
                                       "40 0f 06"};
    struct bt_config config;
    default_test_config(&config);
    config.trap_classes = ALL_CLASSES;
    for (size_t i = 0; i < ARRAY_LEN(code); i++) {
        struct world w;
        world_create(&w, &config);
        enable_paging(&w, USER_PAGE);
        set_cpl(&w, 3);
        put(&w, CODE, code[i]);
        w.cpu->eip = CODE;
        expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
        assert_int_equal(w.bt->counters.faults, 0);
        assert_int_equal(w.bt->counters.callouts_by_kind[BT_CALLOUT_emulate], 1);
        world_destroy(&w);
    }
}

static void control_registers_that_do_not_exist_are_not_left_in_place(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    config.trap_classes = ALL_CLASSES;
    struct world w;
    world_create(&w, &config);
    put(&w, CODE, "40 0f 21 c0 f4"); /* inc eax; mov eax, dr0 */
    w.cpu->eip = CODE;
    expect_exit(&w, BT_EXIT_EMULATE, CODE + 1);
    assert_int_equal(w.bt->counters.faults, 0);
    put(&w, CODE + 64, "40 0f 20 c8 f4"); /* mov eax, cr1 */
    w.cpu->eip = CODE + 64;
    expect_exit(&w, BT_EXIT_EMULATE, CODE + 65);
    assert_int_equal(w.bt->counters.faults, 0);
    world_destroy(&w);
}

/* Only the exact forms: neighbours of each, a byte changed, are none. */
static void privileged_forms_are_exact(void **state) {
    (void)state;
    static const char *const others[] = {
        "0f 01 f8",                /* swapgs */
        "0f 01 d0",                /* xgetbv */
        "0f 01 f1",                /* lmsw cx */
        "0f 20 c8",                /* mov eax, cr1 */
        "0f 20 dc",                /* mov rsp, cr3 */
        "41 0f 20 df",             /* mov r15, cr3 */
        "44 0f 20 c0",             /* mov rax, cr8 */
        "0f 21 c0",                /* mov rax, dr0 */
        "0f 22 40",                /* no memory form */
        "66 e4 60",                /* a prefix without a meaning */
        "f3 6e",                   /* rep outsb */
        "6c",                      /* insb */
        "0f 00 d1",                /* lldt cx */
        "0f 00 c0",                /* sldt eax */
        "0f 01 10",                /* lgdt [rax] */
        "41 0f 01 97 00 00 00 00", /* lgdt elsewhere in the vCPU */
        "41 0f 01 87 30 01 00 00", /* sgdt into it */
        "0f 05",                   /* syscall */
        "0f 08",                   /* invd */
        "cd 80",                   /* int */
        "cf",                      /* iret */
        "0f 33",                   /* rdpmc */
        "0f 07",                   /* sysret */
    };
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        u8 bytes[16] = {0};
        u32 class, n = hex_bytes(bytes, others[i]);
        if (bt_privileged_form(bytes, n, &class))
            fail_msg("%s is taken for one that traps", others[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) { /* and not half of one */
        u8 bytes[16] = {0};
        u32 class, n = hex_bytes(bytes, samples[i].privileged);
        assert_int_equal(bt_privileged_form(bytes, n, &class), n);
        assert_int_equal(class, samples[i].class);
        assert_int_equal(bt_privileged_form(bytes, n - 1, &class), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guest_cannot_tell_a_trap_from_a_translation),
        cmocka_unit_test(nor_where_units_are_counted_or_compared),
        cmocka_unit_test(the_trap_leaves_exact_state),
        cmocka_unit_test(a_class_leaves_the_others_alone),
        cmocka_unit_test(applications_never_hold_privileged_instructions),
        cmocka_unit_test(control_registers_that_do_not_exist_are_not_left_in_place),
        cmocka_unit_test(privileged_forms_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
