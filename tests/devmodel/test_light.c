/*
 * Light accesses: the same as any other access, but nothing that the machine's owner or the C
 * library does happens during one.
 */
#include "pc_fixture.h"

static unsigned library_calls;

#ifndef RINGFOLD_SANITIZED
/* In the place of the C library's, which would use vector registers. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    void *start = to;
    library_calls++;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
    return start;
}
void *memset(void *to, int value, size_t bytes) {
    void *start = to;
    library_calls++;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
    return start;
}
#endif

static u32 random_state;
static u32 draw(u32 below) {
    random_state = random_state * 1664525u + 1013904223u;
    return (u32)((u64)random_state * below >> 32);
}

/* Bases of regions, and a port where nothing is. */
static const u16 bases[] = {0x00,  0x20,  0x40,  0x60,  0x61,  0x64,  0x70,  0x80,
                            0x92,  0xa0,  0xb2,  0xc0,  0xe8,  0xed,  0x2f8, 0x3f8,
                            0x4d0, 0x510, 0x600, 0xcf8, 0xcf9, 0xcfc, 0x300};

struct access {
    u16 port;
    u8 bytes;
    bool write;
    u32 value;
};

static struct access draw_access(void) {
    struct access a = {.port =
                           (u16)(bases[draw(ARRAY_LEN(bases))] + (draw(3) ? draw(4) : draw(16))),
                       .bytes = (u8)(draw(4) ? 1 : 1u << draw(3)),
                       .write = draw(2)};
    a.value = draw(2) ? draw(256) : random_state;
    if (a.bytes < 4)
        a.value &= BIT(8 * a.bytes) - 1;
    return a;
}

static u32 make(struct pc *pc, const struct access *a) {
    if (!a->write)
        return dev_io_read(dev_machine_bus(pc->m), a->port, a->bytes);
    dev_io_write(dev_machine_bus(pc->m), a->port, a->value, a->bytes);
    return a->value;
}

/* What the owner of the machine notices of the accesses made. */
struct outside {
    size_t sent[3];
    const char *input[3];
    u64 dma_first, dma_bytes;
};
static struct outside look(const struct pc *pc) {
    struct outside o = {.dma_first = pc->dma_first, .dma_bytes = pc->dma_bytes};
    for (unsigned i = 0; i < 3; i++) {
        o.sent[i] = pc->line[i].sent_bytes;
        o.input[i] = pc->line[i].input;
    }
    return o;
}

static bool make_lightly(struct pc *pc, const struct access *a, u32 *value) {
    struct outside before = look(pc);
    unsigned calls = library_calls;
    *value = a->value;
    bool light = dev_io_light(dev_machine_bus(pc->m), a->port, a->bytes, a->write, value);
    calls = library_calls - calls;
    struct outside after = look(pc);
    assert_memory_equal(&before, &after, sizeof before);
    if (calls)
        fail_msg("port %x: the C library is called", a->port);
    return light;
}

static void expect_equal(const struct pc *a, const struct pc *b) {
    assert_int_equal(dev_next_deadline_ns(a->m), dev_next_deadline_ns(b->m));
    assert_int_equal(dev_intr_pending(a->m), dev_intr_pending(b->m));
    assert_int_equal(dev_a20_enabled(a->m), dev_a20_enabled(b->m));
    const struct dev_requests *x = dev_machine_requests(a->m), *y = dev_machine_requests(b->m);
    assert_true(x->reset == y->reset && x->poweroff == y->poweroff && x->exit == y->exit &&
                x->intr_changed == y->intr_changed && x->nmi == y->nmi);
}

static void pass_time(struct pc *pc, u32 ns, bool acknowledge) {
    static const char typed[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    for (unsigned i = 0; i < 3; i++) {
        pc->line[i].sent_bytes = 0;
        pc->line[i].input = typed;
    }
    pc_advance(pc, ns);
    if (acknowledge && dev_intr_pending(pc->m))
        dev_intr_acknowledge(pc->m);
}

static void a_light_access_does_what_any_access_does(void **state) {
    (void)state;
    for (int with_apic = 0; with_apic < 2; with_apic++) {
        struct pc *a = pc_create_with(true, with_apic), *b = pc_create_with(true, with_apic);
        unsigned light = 0, heavy = 0;
        random_state = 1;
        for (unsigned i = 0; i < 200000; i++) {
            struct access access = draw_access();
            u32 value, expected = make(b, &access);
            if (make_lightly(a, &access, &value))
                light++;
            else
                heavy++, value = make(a, &access);
            assert_int_equal(value, expected);
            expect_equal(a, b);
            if (draw(4) == 0) {
                u32 ns = draw(2) ? draw(2000) : draw(20000000), acknowledge = draw(2);
                pass_time(a, ns, acknowledge);
                pass_time(b, ns, acknowledge);
                expect_equal(a, b);
            }
        }
        assert_true(light > 10000 && heavy > 10000);
        pc_destroy(a);
        pc_destroy(b);
    }
}

static bool is_light(struct pc *pc, u16 port, bool write, unsigned bytes) {
    u32 value;
    return make_lightly(pc, &(struct access){port, (u8)bytes, write, 0}, &value);
}

static void what_kernels_use_most_is_light(void **state) {
    struct pc *pc = *state;
    static const u16 read[] = {0x20, 0x21, 0xa0, 0xa1, 0x40, 0x61, 0x71, 0x64, 0x80, 0x3fa, 0x3fd},
                     written[] = {0x20, 0x21, 0xa0, 0xa1, 0x40, 0x43,
                                  0x61, 0x70, 0x80, 0xed, 0x3f9};
    for (size_t i = 0; i < ARRAY_LEN(read); i++)
        assert_true(is_light(pc, read[i], false, 1));
    for (size_t i = 0; i < ARRAY_LEN(written); i++)
        assert_true(is_light(pc, written[i], true, 1));
    assert_true(is_light(pc, 0x608, false, 4)); /* the PM timer */
    assert_true(is_light(pc, 0xcf8, true, 4));
    assert_true(is_light(pc, 0xcfc, false, 4));
}

static void what_reaches_the_outside_is_not(void **state) {
    struct pc *pc = *state;
    assert_false(is_light(pc, 0x3f8, true, 1)); /* a character leaves */
    assert_false(is_light(pc, 0xe9, true, 1));
    assert_false(is_light(pc, 0x64, true, 1)); /* reset, A20 */
    assert_false(is_light(pc, 0x92, true, 1));
    assert_false(is_light(pc, 0xcfc, true, 4)); /* what of C0000h-FFFFFh can be written */
    assert_false(is_light(pc, 0x514, true, 4)); /* fw_cfg's DMA */
    assert_false(is_light(pc, 0x501, true, 1)); /* the debug exit */
    assert_false(is_light(pc, 0x21, true, 2));  /* two ports in one access */
    /* The eighth look at LSR in a row asks the back end for input. */
    for (unsigned i = 1; i < 8; i++)
        assert_true(is_light(pc, 0x3fd, false, 1));
    assert_false(is_light(pc, 0x3fd, false, 1));
    out8(pc, 0x3fb, 0x80); /* with DLAB it is a divisor that is written */
    assert_true(is_light(pc, 0x3f8, true, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_light_access_does_what_any_access_does),
        cmocka_unit_test_setup_teardown(what_kernels_use_most_is_light, pc_setup, pc_teardown),
        cmocka_unit_test_setup_teardown(what_reaches_the_outside_is_not, pc_setup, pc_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
