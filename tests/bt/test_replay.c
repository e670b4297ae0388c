/*
 * test_replay.c: what an observer was told is enough to make the same host code again, elsewhere
 * and without the guest.
 */
#include "bt/bt_replay.h"
#include "bt_fixture.h"

#define MAX_EVENTS 4096

struct recorded {
    struct bt_event event;
    struct bt_context context;
    u8 code[BT_CONTEXT_CODE_BYTES], code2[16];
};
struct record {
    unsigned count, by_kind[BT_EVENT_COUNT];
    struct recorded *at;
};

static void observe(void *opaque, const struct bt_event *event) {
    struct record *r = opaque;
    assert_true(r->count < MAX_EVENTS);
    struct recorded *to = &r->at[r->count++];
    r->by_kind[event->kind]++;
    to->event = *event;
    if (!event->context)
        return;
    to->context = *event->context;
    memcpy(to->code, event->context->code, event->context->code_bytes);
    if (event->context->code2)
        memcpy(to->code2, event->context->code2, event->context->code2_bytes);
}

static struct bt_context *context_of(struct recorded *r) {
    r->context.code = r->code;
    r->context.code2 = r->code2;
    return &r->context;
}

static void replay_one(struct world *w, struct recorded *r) {
    u32 unit;
    switch (r->event.kind) {
    case BT_EVENT_translate:
        assert_true(bt_replay_translate(w->bt, context_of(r), &unit));
        assert_int_equal(unit, r->event.unit);
        break;
    case BT_EVENT_chain:
        assert_true(bt_replay_chain(w->bt, r->event.from, r->event.branch, r->event.unit));
        break;
    case BT_EVENT_unchain:
        bt_replay_unchain(w->bt);
        break;
    case BT_EVENT_invalidate:
        assert_true(bt_replay_invalidate(w->bt, r->event.unit));
        break;
    case BT_EVENT_flush:
        bt_replay_flush(w->bt);
        break;
    default:
        break;
    }
}

/* Calls, returns, an indirect jump, SSE, a jump over the page's end, a loop, and an
 * instruction across two pages. */
static void put_program(struct world *w) {
    u32 at = put(w, CODE, "b9 14 00 00 00"); /* mov ecx,20 */
    u32 top = at;
    at = put_branch(w, at, 0xe8, CODE + 0x100);
    at = put(w, at, "0f 57 c0 49 0f 85"); /* xorps xmm0,xmm0; dec ecx; jnz top */
    at = put32(w, at, top - (at + 4));
    at = put_branch(w, at, 0xe9, CODE + 0xffe);
    put(w, CODE + 0x100, "90 b8 00 02 20 00 ff e0"); /* nop; mov eax,CODE+200h; jmp eax */
    put(w, CODE + 0x200, "83 c3 03 c3");             /* add ebx,3; ret */
    put(w, CODE + 0xffe, "bf 78 56 34 12 f4");       /* mov edi,12345678h across pages; hlt */
}

static void record_a_run(struct world *w, struct record *r) {
    r->at = calloc(MAX_EVENTS, sizeof *r->at);
    world_create(w, NULL);
    enable_paging(w, KERNEL_PAGE);
    put_program(w);
    bt_observe(w->bt, observe, r);
    run_to_hlt(w, CODE);
    put8(w, CODE + 0x202, 5); /* add ebx,5 */
    mmu_phys_written(w->cpu->mmu, GPA(CODE + 0x202), 1);
    run_to_hlt(w, CODE);
    assert_int_equal(reg(w, R_EBX), 20 * 3 + 20 * 5);
    bt_unobserve(w->bt, observe, r);
}

static void the_same_events_make_the_same_image(void **state) {
    (void)state;
    struct world w, again;
    struct record r = {0};
    record_a_run(&w, &r);
    assert_true(r.by_kind[BT_EVENT_translate] > 5 && r.by_kind[BT_EVENT_chain] > 2 &&
                r.by_kind[BT_EVENT_invalidate] > 0 && r.by_kind[BT_EVENT_icache_fill] > 0);
    world_create(&again, NULL);
    for (unsigned i = 0; i < r.count; i++)
        replay_one(&again, &r.at[i]);
    u32 bytes, bytes_again;
    const u8 *image = bt_replay_image(w.bt, &bytes);
    const u8 *image_again = bt_replay_image(again.bt, &bytes_again);
    assert_int_equal(bytes, bytes_again);
    assert_memory_equal(image, image_again, bytes);
    world_destroy(&w);
    world_destroy(&again);
    free(r.at);
}

static void measuring_leaves_the_cache_as_it_is(void **state) {
    (void)state;
    struct world w, again;
    struct record r = {0};
    u64 cycles[BT_STAGE_COUNT] = {0};
    record_a_run(&w, &r);
    world_create(&again, NULL);
    for (unsigned i = 0; i < r.count; i++) {
        if (r.at[i].event.kind == BT_EVENT_translate)
            assert_true(bt_replay_measure(again.bt, context_of(&r.at[i]), 3, cycles));
        replay_one(&again, &r.at[i]);
    }
    u32 bytes, bytes_again;
    const u8 *image = bt_replay_image(w.bt, &bytes);
    assert_memory_equal(image, bt_replay_image(again.bt, &bytes_again), bytes);
    assert_int_equal(bytes, bytes_again);
    assert_true(cycles[BT_STAGE_decode] > 0 && cycles[BT_STAGE_lower] > 0);
    world_destroy(&w);
    world_destroy(&again);
    free(r.at);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    struct world w;
    u32 unit;
    u8 code[16] = {0x90, 0xc3};
    world_create(&w, NULL);
    struct bt_context good = {
        .eip = CODE, .gpa = CODE, .gpa2 = UINT64_MAX, .code = code, .code_bytes = sizeof code};
    struct bt_context bad[] = {good, good, good, good, good};
    bad[0].gpa = RAM_BYTES;
    bad[1].eip = CODE + 1;
    bad[2].cpl = 1;
    bad[3].code_bytes = BT_CONTEXT_CODE_BYTES + 1;
    bad[4].gpa2 = CODE + 8;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(bt_replay_translate(w.bt, &bad[i], &unit));
    assert_true(bt_replay_translate(w.bt, &good, &unit));
    assert_false(bt_replay_chain(w.bt, unit, 0, unit));
    assert_false(bt_replay_chain(w.bt, unit + 1, 0, unit));
    assert_false(bt_replay_invalidate(w.bt, unit + 1));
    assert_true(bt_replay_invalidate(w.bt, unit));
    assert_false(bt_replay_invalidate(w.bt, unit));
    world_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_events_make_the_same_image),
        cmocka_unit_test(measuring_leaves_the_cache_as_it_is),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
