/*
 * test_trace.c: a trace gives back what was written, its replay makes the same code as the recorded
 * run, and no damaged, truncated or invented file is believed.
 */
#include "../bt/bt_fixture.h"
#include "trace/trace_internal.h"

#include <fcntl.h>
#include <unistd.h>

static char path[] = "/tmp/ringfold-trace-XXXXXX";

/* ---- a recorded run ---- */

/* A loop that calls, jumps through a register and runs over a page's end. */
static void put_program(struct world *w) {
    u32 at = put(w, CODE, "b9 14 00 00 00"); /* mov ecx,20 */
    u32 top = at;
    at = put_branch(w, at, 0xe8, CODE + 0x100);
    at = put(w, at, "49 0f 85"); /* dec ecx; jnz top */
    at = put32(w, at, top - (at + 4));
    at = put_branch(w, at, 0xe9, CODE + 0xffe);
    put(w, CODE + 0x100, "90 b8 00 02 20 00 ff e0"); /* nop; mov eax,CODE+200h; jmp eax */
    put(w, CODE + 0x200, "83 c3 03 c3");             /* add ebx,3; ret */
    put(w, CODE + 0xffe, "bf 78 56 34 12 f4");       /* mov edi,12345678h across pages; hlt */
}

struct image {
    u8 *bytes;
    u32 count;
};

static struct image image_of(struct bt *bt) {
    struct image i;
    const u8 *bytes = bt_replay_image(bt, &i.count);
    i.bytes = malloc(i.count);
    memcpy(i.bytes, bytes, i.count);
    return i;
}

static struct image record_run(struct tt_totals *totals) {
    static struct cpu_model model = {.f1_edx = 0x07808111}; /* x87 to SSE2 */
    struct world w;
    struct tt_header header = {.version = "test", .note = "a note", .ram_bytes = RAM_BYTES};
    struct tt_error err;
    default_test_config(&header.config);
    header.config.verify = false;
    world_create(&w, &header.config);
    w.cpu->model = &model;
    header.model = model;
    enable_paging(&w, KERNEL_PAGE);
    put_program(&w);
    struct tt_recorder *r = tt_record(w.bt, path, &header, &err);
    if (!r)
        fail_msg("%s", err.text);
    run_to_hlt(&w, CODE);
    tt_record_drain(r);
    put8(&w, CODE + 0x202, 5);
    mmu_phys_written(w.cpu->mmu, GPA(CODE + 0x202), 1);
    run_to_hlt(&w, CODE);
    struct bt_unit_info unit;
    assert_true(bt_replay_unit(w.bt, 0, &unit));
    for (int i = 0; i < 3; i++)
        tt_record_sample_sigsafe(r, (u64)unit.host + 1);
    struct image made = image_of(w.bt);
    if (!tt_record_end(r, totals, &err))
        fail_msg("%s", err.text);
    world_destroy(&w);
    return made;
}

static void a_trace_tells_what_was_recorded(void **state) {
    (void)state;
    struct tt_totals totals;
    struct tt_record record;
    struct tt_error err;
    u64 kinds[BT_EVENT_COUNT] = {0}, sampled = 0;
    free(record_run(&totals).bytes);
    struct tt_reader *r = tt_open(path, &err);
    if (!r)
        fail_msg("%s", err.text);
    assert_string_equal(tt_header(r)->note, "a note");
    assert_int_equal(tt_header(r)->ram_bytes, RAM_BYTES);
    assert_int_equal(tt_header(r)->model.f1_edx, 0x07808111);
    assert_int_equal(tt_header(r)->config.cache_bytes, 2 << 20);
    do {
        if (!tt_next(r, &record, &err))
            fail_msg("%s", err.text);
        if (record.kind == TT_EVENT)
            kinds[record.event.kind]++;
        for (u32 i = 0; record.kind == TT_COUNTS && i < record.count_count; i++)
            sampled += record.counts[i].count;
    } while (record.kind != TT_END);
    assert_memory_equal(kinds, totals.events, sizeof kinds);
    assert_memory_equal(kinds, tt_totals(r)->events, sizeof kinds);
    assert_int_equal(sampled, 3);
    assert_true(totals.events[BT_EVENT_translate] > 5);
    assert_true(totals.codes < totals.events[BT_EVENT_translate] + 2);
    assert_true(tt_totals(r)->exits[BT_EXIT_EMULATE] == 2);
    tt_close(r);
}

static void hash_of_image(void *opaque, u64 number, struct bt *bt, u32 unit) {
    (void)number, (void)unit;
    struct image *i = opaque;
    free(i->bytes);
    *i = image_of(bt);
}

static void a_replay_makes_the_code_of_the_run(void **state) {
    (void)state;
    struct tt_totals totals;
    struct tt_error err;
    struct image made = record_run(&totals), again = {0};
    struct tt_replay_options options = {.verify = true, .made = hash_of_image, .opaque = &again};
    struct tt_replay_result result, second;
    if (!tt_replay(path, &options, &result, &err))
        fail_msg("%s", err.text);
    assert_int_equal(result.units, totals.events[BT_EVENT_translate]);
    assert_int_equal(result.guest_insns, totals.guest_insns);
    assert_int_equal(result.chains, totals.events[BT_EVENT_chain]);
    assert_int_equal(result.unmatched, 0);
    /* After the last unit only links may still change bytes. */
    assert_int_equal(again.count, made.count);
    options = (struct tt_replay_options){.stage_repeat = 2};
    if (!tt_replay(path, &options, &second, &err))
        fail_msg("%s", err.text);
    assert_int_equal(result.image_hash, second.image_hash);
    assert_true(second.stage_cycles[BT_STAGE_decode] > 0);
    free(made.bytes);
    free(again.bytes);
}

/* ---- files that are not to be believed ---- */

static u8 *read_file(size_t *bytes) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    static u8 content[1 << 16];
    *bytes = fread(content, 1, sizeof content, f);
    fclose(f);
    return content;
}
static void write_file(const u8 *content, size_t bytes) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(content, 1, bytes, f), bytes);
    fclose(f);
}

static bool replays(struct tt_error *err) {
    struct tt_replay_options options = {.verify = false};
    struct tt_replay_result result;
    return tt_replay(path, &options, &result, err);
}

static void a_truncated_trace_is_refused(void **state) {
    (void)state;
    struct tt_error err;
    size_t bytes;
    free(record_run(NULL).bytes);
    u8 *content = read_file(&bytes);
    for (size_t n = 0; n < bytes; n++) {
        write_file(content, n);
        assert_false(replays(&err));
        assert_non_null(strstr(err.text, path));
    }
    content[bytes] = 0;
    write_file(content, bytes + 1);
    assert_false(replays(&err));
}

static void an_altered_trace_is_refused(void **state) {
    (void)state;
    struct tt_error err;
    size_t bytes;
    free(record_run(NULL).bytes);
    u8 *content = read_file(&bytes);
    for (size_t i = 0; i < bytes * 8; i++) {
        content[i / 8] ^= (u8)(1 << i % 8);
        write_file(content, bytes);
        if (replays(&err))
            fail_msg("bit %zu of byte %zu may be anything", i % 8, i / 8);
        content[i / 8] ^= (u8)(1 << i % 8);
    }
}

/* What a malicious writer with the right checksums could say. */
static void nonsense_with_a_valid_checksum_is_refused(void **state) {
    (void)state;
    struct tt_header header = {.version = "test", .ram_bytes = RAM_BYTES};
    struct tt_error err;
    u8 code[BT_CONTEXT_CODE_BYTES] = {0x90, 0xc3};
    default_test_config(&header.config);
    struct bt_context good = {
        .eip = CODE, .gpa = CODE, .gpa2 = UINT64_MAX, .code = code, .code_bytes = 16};
    for (unsigned i = 0; i < 7; i++) {
        struct bt_context c = good;
        struct bt_event event = {.kind = BT_EVENT_translate, .context = &c, .insns = 2};
        struct bt_event chain = {.kind = BT_EVENT_chain, .from = 9, .branch = 9, .unit = 1u << 31};
        struct tt_count count = {.unit = UINT32_MAX, .count = 1};
        c.gpa = i == 0 ? RAM_BYTES : i == 1 ? 0xa0000 : c.gpa;
        c.eip = i == 2 ? CODE + 3 : c.eip;
        c.code_bytes = i == 3 ? BT_CONTEXT_CODE_BYTES : c.code_bytes;
        c.gpa2 = i == 4 ? RAM_BYTES * 2ull : c.gpa2;
        c.code2 = code;
        header.ram_bytes = i == 5 ? PAGE_BYTES : RAM_BYTES;
        struct tt_writer *w = tt_writer_open(path, &header, &err);
        assert_non_null(w);
        if (i == 3)
            c.gpa = c.eip = CODE + PAGE_BYTES - 4;
        tt_write_event(w, &event);
        tt_write_event(w, &chain);
        tt_write_counts(w, &count, 1);
        assert_true(tt_writer_close(w, NULL, &err));
        assert_int_equal(replays(&err), i == 6);
    }
}

static void writing_where_nothing_can_be_written_is_told(void **state) {
    (void)state;
    struct tt_header header = {.ram_bytes = RAM_BYTES};
    struct tt_error err;
    default_test_config(&header.config);
    assert_null(tt_writer_open("/nonexistent/trace", &header, &err));
    assert_non_null(strstr(err.text, "/nonexistent/trace"));
    struct tt_writer *w = tt_writer_open("/dev/full", &header, &err);
    assert_non_null(w);
    assert_false(tt_writer_close(w, NULL, &err));
    assert_non_null(strstr(err.text, "No space left"));
    assert_int_equal(access("/dev/full", F_OK), 0);
}

static int make_path(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd);
}
static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trace_tells_what_was_recorded),
        cmocka_unit_test(a_replay_makes_the_code_of_the_run),
        cmocka_unit_test(a_truncated_trace_is_refused),
        cmocka_unit_test(an_altered_trace_is_refused),
        cmocka_unit_test(nonsense_with_a_valid_checksum_is_refused),
        cmocka_unit_test(writing_where_nothing_can_be_written_is_told),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
