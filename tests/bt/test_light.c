/*
 * test_light.c: light callouts (bt_config.light) against leaving for the emulator: the guest cannot
 * tell which, and its x87 and SSE registers survive, while the callouts' host code may use theirs.
 */
#include "bt_fixture.h"
#include "interp/interp.h"

/* ---- A C library that spoils the SSE registers, as any may ---- */

#ifndef RINGFOLD_SANITIZED
__asm__(".pushsection .text\n"
        ".globl memcpy\nmemcpy: mov %rdi,%rax\nmov %rdx,%rcx\nrep movsb\njmp spoil\n"
        ".globl memset\nmemset: mov %rdi,%r8\nmov %esi,%eax\nmov %rdx,%rcx\nrep stosb\n"
        "mov %r8,%rax\njmp spoil\n"
        ".globl memcmp\nmemcmp: mov %rdx,%rcx\nxor %eax,%eax\nrepe cmpsb\nje spoil\n"
        "movzbl -1(%rdi),%eax\nmovzbl -1(%rsi),%edx\nsub %edx,%eax\n"
        "spoil: pcmpeqd %xmm0,%xmm0\n.irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "movdqa %xmm0,%xmm\\n\n.endr\nret\n.popsection");
#endif

/* ---- A machine with ports: from LEAVE_PORT on an access leaves, from HEAVY_PORT on none is light
 */

enum { LEAVE_PORT = 0x40, HEAVY_PORT = 0x80 };

struct machine {
    struct world w;
    struct cpu_bus bus;
    struct cpu_model model;
    struct interp *interp;
    u32 reads, light;
    u64 log;         /* hash of everything written and read */
    bool interrupts; /* the device asks for one at each access */
};
static void note(struct machine *m, u32 a, u32 b, u32 c) {
    m->log = (m->log ^ ((u64)a << 40 | (u64)b << 8 | c)) * 0x9e3779b97f4a7c15ull + 1;
}
static u32 port_read(void *opaque, u16 port, unsigned bytes) {
    struct machine *m = opaque;
    note(m, port, bytes, 1);
    u32 value = 0x81828384u + 0x01010101u * m->reads++;
    return bytes == 4 ? value : value & ((1u << (8 * bytes)) - 1);
}
static void port_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    note(opaque, port, bytes, 2);
    note(opaque, value, 0, 3);
}
static enum cpu_io port_light(void *opaque, u16 port, unsigned bytes, bool write, u32 *value) {
    struct machine *m = opaque;
    if (port >= HEAVY_PORT)
        return CPU_IO_HEAVY;
    m->light++;
    if (write)
        port_write(m, port, *value, bytes);
    else
        *value = port_read(m, port, bytes);
    if (m->interrupts)
        bt_set_interrupt_pending(m->w.bt, true);
    return port >= LEAVE_PORT ? CPU_IO_LEAVE : CPU_IO_DONE;
}

static void machine_create(struct machine *m, const struct bt_config *config) {
    *m = (struct machine){
        .bus = {.io_read = port_read, .io_write = port_write, .io_light = port_light},
        .model = {.cr4_allowed = CR4_PAE | CR4_PGE | CR4_TSD | CR4_OSFXSR | CR4_OSXMMEXCPT,
                  .max_basic = 2,
                  .count = 3,
                  .leaf = {{0, 0, 2, 3, 4, 5}, {1, 0, 6, 7, 8, 9}, {2, 0, 10, 11, 12, 13}},
                  .f1_edx = UINT32_MAX,
                  .f1_ecx = UINT32_MAX}};
    world_create(&m->w, config);
    m->bus.opaque = m;
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
        enum bt_exit exit = bt_run(m->w.bt);
        if (exit == BT_EXIT_FAULT)
            return;
        if (exit != BT_EXIT_EMULATE && exit != BT_EXIT_MODE)
            continue;
        if (cpu->eip != end && interp_step(m->interp, cpu) == INTERP_FAULT)
            return;
    }
}

static u64 emulated(const struct machine *m) {
    return bt_counters(m->w.bt)->exits_by_reason[BT_EXIT_EMULATE];
}

/* ---- The samples ---- */

struct sample {
    const char *name;
    unsigned callout; /* CO_* */
    unsigned
        leaves; /* how often it leaves to the emulator all the same, the last HLT not counted */
    const char *guest;
};
static const struct sample samples[] = {
    {"in, immediate", CO_IO, 0, "e4 21 89 c1 e5 22 89 c2 66 e5 23"},
    {"in, dx", CO_IO, 0, "66 ba 21 00 ec 89 c3 ed 89 c6 66 ed"},
    {"out, immediate", CO_IO, 0, "b8 44 33 22 11 e6 20 e7 21 66 e7 22"},
    {"out, dx", CO_IO, 0, "b8 44 33 22 11 ba 20 00 ff ff ee ef 66 ef"},
    {"in that leaves behind itself", CO_IO, 0, "f9 50 e4 41 72 01 47 58 43"},
    {"in and out that are heavy", CO_IO, 2, "f9 50 e4 80 72 01 47 58 e6 81 43"},
    {"sti, out", CO_IO, 0, "b0 20 fb e6 20 43 fa"},
    {"cpuid", CO_CPUID, 0, "b8 01 00 00 00 0f a2 50 b8 02 00 00 00 f9 0f a2 72 01 43"},
    {"mov to cr0, nothing new", CO_WRITE_CR, 0, "0f 20 c0 f9 0f 22 c0 0f 20 c3"},
    {"mov to cr0, TS", CO_WRITE_CR, 0, "0f 20 c0 83 c8 08 0f 22 c0 0f 20 c3 83 e0 f7 0f 22 c0"},
    {"fp under TS: #NM", CO_WRITE_CR, 1, "0f 20 c0 83 c8 08 0f 22 c0 43 0f 57 c0 43"},
    {"mov to cr0, WP", CO_WRITE_CR, 1, "0f 20 c0 35 00 00 01 00 0f 22 c0 0f 20 c3"},
    {"mov to cr0, PG without PE: #GP", CO_WRITE_CR, 1, "b8 00 00 00 80 43 0f 22 c0 43"},
    {"clts", CO_WRITE_CR, 0, "0f 20 c0 83 c8 08 0f 22 c0 0f 06 0f 20 c1 0f 57 ff"},
    {"mov to cr3", CO_WRITE_CR, 0, "0f 20 d9 8b 15 00 00 30 00 0f 22 d9 8b 1d 00 00 30 00"},
    {"mov to cr3, esp", CO_WRITE_CR, 0, "bc 00 10 00 00 0f 22 dc 0f 20 db"},
    {"mov to cr4, nothing new", CO_WRITE_CR, 0, "0f 20 e2 0f 22 e2 0f 20 e6"},
    {"mov to cr4, PGE", CO_WRITE_CR, 0, "0f 20 e2 80 ca 80 0f 22 e2 0f 20 e6 b2 00 0f 22 e2"},
    {"mov to cr4, TSD", CO_WRITE_CR, 1, "0f 20 e2 83 ca 04 0f 22 e2 0f 20 e6"},
    {"mov to cr4, reserved bit: #GP", CO_WRITE_CR, 1, "b8 00 00 00 80 40 0f 22 e0 40"},
    {"mov to cr2", CO_COUNT, 1, "b8 78 56 34 12 0f 22 d0 0f 20 d3"},
    /* the entry of DATA is now that of DATA + 1000h, and back */
    {"invlpg of a page mapped anew", CO_INVLPG, 0,
     "8b 15 00 00 30 00 8b 1d 00 2c 00 00 80 f7 10 89 1d 00 2c 00 00 0f 01 3d 00 00 30 00"
     " 8b 0d 00 00 30 00 80 f7 10 89 1d 00 2c 00 00 0f 01 3d 00 00 30 00 8b 35 00 00 30 00"},
    {"the same by cr3", CO_WRITE_CR, 0,
     "8b 15 00 00 30 00 8b 1d 00 2c 00 00 80 f7 10 89 1d 00 2c 00 00 0f 20 d8 0f 22 d8"
     " 8b 0d 00 00 30 00 80 f7 10 89 1d 00 2c 00 00 0f 22 d8 8b 35 00 00 30 00"},
};
_Static_assert(PAGE_TABLES + (DATA >> 12) * 4 == 0x2c00 && PAGE_DIRECTORY == 0x1000 &&
                   DATA == 0x300000,
               "the samples hold them");

static void poison_fx(struct cpu *cpu) {
    for (unsigned i = 32; i < 288; i++)
        cpu->fx[i] = (u8)(i * 37 + 11);
    for (unsigned i = 0; i < 8; i++) /* the upper 48 bits of an x87 register's slot are reserved */
        memset(cpu->fx + 32 + 16 * i + 10, 0, 6);
    cpu->fx[4] = 0xff; /* no x87 register is empty */
}

static void run_sample(struct machine *m, const struct bt_config *config, const struct sample *s) {
    machine_create(m, config);
    struct world *w = &m->w;
    enable_paging(w, KERNEL_PAGE);
    store32(w->ram + DATA, 0x11112222);
    store32(w->ram + DATA + PAGE_BYTES, 0x33334444);
    u32 end = put(w, CODE, s->guest);
    put8(w, end, 0xf4);
    w->cpu->eflags |= F_CF | F_OF;
    poison_fx(w->cpu);
    bt_set_budget(w->bt, 1000);
    w->cpu->eip = CODE;
    machine_run(m, end);
}

static void expect_same(const struct sample *s, const struct machine *a, const struct machine *b) {
    const struct cpu *x = a->w.cpu, *y = b->w.cpu;
    bool same = x->eip == y->eip && x->eflags == y->eflags && x->shadow == y->shadow &&
                memcmp(x->gpr, y->gpr, sizeof x->gpr) == 0 && x->cr0 == y->cr0 &&
                x->cr2 == y->cr2 && x->cr3 == y->cr3 && x->cr4 == y->cr4 &&
                memcmp(&x->fault, &y->fault, sizeof x->fault) == 0 && a->log == b->log &&
                memcmp(a->w.ram, b->w.ram, RAM_BYTES) == 0;
    if (!same)
        fail_msg("%s: the guest can tell: eip %08x %08x, eflags %08x %08x, eax %08x %08x, fault "
                 "%u %u",
                 s->name, x->eip, y->eip, x->eflags, y->eflags, (u32)x->gpr[0], (u32)y->gpr[0],
                 x->fault.vector, y->fault.vector);
    for (unsigned i = 32; i < 288; i++)
        if (x->fx[i] != y->fx[i])
            fail_msg("%s: byte %u of the x87 and SSE state", s->name, i);
}

static void the_guest_cannot_tell_a_light_callout_from_the_emulator(void **state) {
    (void)state;
    struct bt_config config;
    default_test_config(&config);
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        const struct sample *s = &samples[i];
        struct machine off, on;
        config.light = false;
        run_sample(&off, &config, s);
        config.light = true;
        run_sample(&on, &config, s);
        expect_same(s, &off, &on);
        const u64 *by_kind = bt_counters(on.w.bt)->callouts_by_kind;
        if (s->callout < CO_COUNT && by_kind[s->callout] == 0)
            fail_msg("%s: not by a light callout", s->name);
        if (emulated(&on) > s->leaves + 1)
            fail_msg("%s: left to the emulator %u times", s->name, (unsigned)emulated(&on));
        assert_int_equal(bt_counters(off.w.bt)->callouts_by_kind[CO_IO], 0);
        assert_int_equal(off.light, 0);
        machine_destroy(&off);
        machine_destroy(&on);
    }
}

/* -icount's clock and -lockstep's comparison stop at each of them. */
static void none_is_light_where_units_are_counted_or_compared(void **state) {
    (void)state;
    for (int lockstep = 0; lockstep < 2; lockstep++) {
        struct bt_config config;
        default_test_config(&config);
        config.lockstep = lockstep;
        config.icount = !lockstep;
        for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
            struct machine m;
            run_sample(&m, &config, &samples[i]);
            const u64 *by_kind = bt_counters(m.w.bt)->callouts_by_kind;
            assert_int_equal(by_kind[CO_IO] + by_kind[CO_CPUID] + by_kind[CO_WRITE_CR], 0);
            machine_destroy(&m);
        }
    }
}

/* ---- Interrupts ---- */

static void an_interrupt_leaves_behind_the_access_when_the_guest_is_open_to_it(void **state) {
    (void)state;
    for (int open = 0; open < 2; open++) {
        struct machine m;
        machine_create(&m, NULL);
        m.interrupts = true;
        put(&m.w, CODE, "b0 20 e6 20 43 fb 43 f4"); /* out 20h, al; inc ebx; sti; inc ebx; hlt */
        m.w.cpu->eflags |= open ? F_IF : 0;
        m.w.cpu->eip = CODE;
        /* Otherwise STI opens the door, behind its shadow. */
        assert_int_equal(bt_run(m.w.bt), BT_EXIT_KICK);
        assert_int_equal(m.w.cpu->eip, open ? CODE + 4 : CODE + 6);
        assert_int_equal(m.light, 1);
        machine_destroy(&m);
    }
}

static void an_access_in_a_loop_ends_when_the_monitor_wants_it(void **state) {
    (void)state;
    struct machine m;
    machine_create(&m, NULL);
    put(&m.w, CODE, "43 e4 40 eb fb"); /* inc ebx; in al, 40h; jmp */
    m.w.cpu->eip = CODE;
    for (unsigned i = 1; i < 5; i++) {
        expect_exit(&m.w, BT_EXIT_KICK, CODE + 3);
        assert_int_equal(m.light, i);
    }
    machine_destroy(&m);
}

static void applications_use_no_ports_lightly(void **state) {
    (void)state;
    static const char *const code[] = {"40 e4 21", "40 ee", "40 0f 06", "40 0f 22 c0"};
    for (size_t i = 0; i < ARRAY_LEN(code); i++) {
        struct machine m;
        machine_create(&m, NULL);
        enable_paging(&m.w, USER_PAGE);
        set_cpl(&m.w, 3);
        m.w.cpu->eflags |= 3u << IOPL_SHIFT; /* even where the emulator will allow it */
        put(&m.w, CODE, code[i]);
        m.w.cpu->eip = CODE;
        expect_exit(&m.w, BT_EXIT_EMULATE, CODE + 1);
        assert_int_equal(m.light, 0);
        machine_destroy(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guest_cannot_tell_a_light_callout_from_the_emulator),
        cmocka_unit_test(none_is_light_where_units_are_counted_or_compared),
        cmocka_unit_test(an_interrupt_leaves_behind_the_access_when_the_guest_is_open_to_it),
        cmocka_unit_test(an_access_in_a_loop_ends_when_the_monitor_wants_it),
        cmocka_unit_test(applications_use_no_ports_lightly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
