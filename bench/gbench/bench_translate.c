/*
 * bench_translate.c: making units: all of it, lowering and emitting alone, our emitter beside
 * Zydis' encoder, the verifier; and the cache: lookup, linking and unlinking.
 */
#include "world.h"

#include <Zydis/Zydis.h>

struct sample {
    struct world w;
    u32 offset[SAMPLE_MAX_INSNS];
    unsigned units;
};

static void open_sample(struct sample *s) {
    world_open(&s->w);
    s->units = sample_units(&s->w, s->offset);
}

static void make_all(struct sample *s) {
    struct bt *bt = s->w.bt;
    for (unsigned i = 0; i < s->units; i++)
        bt_translate(bt, WORLD_CODE + s->offset[i], WORLD_CODE + s->offset[i]);
}

/* What one pass over the sample makes: the same in every run. */
static void report(struct gb_state *state, struct sample *s) {
    struct bt *bt = s->w.bt;
    cache_flush(bt, BT_CAUSE_request);
    const struct bt_counters before = *bt_counters(bt);
    make_all(s);
    const struct bt_counters *after = bt_counters(bt);
    u64 insns = after->guest_insns_translated - before.guest_insns_translated;
    gb_set_counter(state, "units", s->units, GB_COUNT);
    gb_set_counter(state, "insns", (double)insns, GB_COUNT);
    gb_set_counter(state, "bytes_in",
                   (double)(after->guest_bytes_translated - before.guest_bytes_translated),
                   GB_COUNT);
    gb_set_counter(state, "bytes_out",
                   (double)(after->host_bytes_emitted - before.host_bytes_emitted), GB_COUNT);
    gb_set_items(state, gb_iterations_done(state) * (int64_t)insns);
}

static void translate(struct gb_state *state, void *user) {
    (void)user;
    struct sample s;
    open_sample(&s);
    struct bt *bt = s.w.bt;
    while (gb_keep_running(state)) {
        /* Room in every table: half of one is left. */
        if (bt->unit_count + s.units > bt->unit_capacity / 64) {
            gb_pause(state);
            cache_flush(bt, BT_CAUSE_request);
            gb_resume(state);
        }
        make_all(&s);
    }
    report(state, &s);
    world_close(&s.w);
}

static void lower_emit(struct gb_state *state, void *user) {
    (void)user;
    static struct translation unit[SAMPLE_MAX_INSNS];
    struct sample s;
    open_sample(&s);
    for (unsigned i = 0; i < s.units; i++)
        translation_decode(&unit[i], s.w.bt, WORLD_CODE + s.offset[i], WORLD_CODE + s.offset[i]);
    while (gb_keep_running(state))
        for (unsigned i = 0; i < s.units; i++) {
            struct translation *t = &unit[i];
            t->esp_delta = 0;
            t->ended = false;
            t->e.p = t->e.start;
            gb_use(translation_emit(t));
            translation_roll_back(t);
        }
    report(state, &s);
    world_close(&s.w);
}

static void verify(struct gb_state *state, void *user) {
    (void)user;
    struct sample s;
    open_sample(&s);
    make_all(&s);
    while (gb_keep_running(state))
        for (unsigned i = 0; i < s.units; i++) {
            u32 offset;
            if (bt_verify(s.w.bt, &s.w.bt->unit[i], &offset))
                gb_skip_with_error(state, "the verifier refuses the sample");
        }
    report(state, &s);
    world_close(&s.w);
}

/* ---- one instruction: mov r32, gs:[base + index * 4 + disp] ---- */

static void emit_ours(struct gb_state *state, void *user) {
    (void)user;
    u8 code[32];
    while (gb_keep_running(state)) {
        struct emit e = {.p = code, .start = code, .end = code + sizeof code};
        emit_load32(&e, H_RDX,
                    (struct host_mem){
                        .base = H_RSI, .index = H_RBX, .scale = 4, .disp = 0x1234, .window = true});
        gb_use((u64)(e.p - code));
        gb_clobber_memory();
    }
}

static void emit_zydis(struct gb_state *state, void *user) {
    (void)user;
    u8 code[ZYDIS_MAX_INSTRUCTION_LENGTH];
    ZydisEncoderRequest r = {.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
                             .mnemonic = ZYDIS_MNEMONIC_MOV,
                             .prefixes = ZYDIS_ATTRIB_HAS_SEGMENT_GS,
                             .operand_count = 2};
    r.operands[0].type = ZYDIS_OPERAND_TYPE_REGISTER;
    r.operands[0].reg.value = ZYDIS_REGISTER_EDX;
    r.operands[1].type = ZYDIS_OPERAND_TYPE_MEMORY;
    r.operands[1].mem.base = ZYDIS_REGISTER_ESI;
    r.operands[1].mem.index = ZYDIS_REGISTER_EBX;
    r.operands[1].mem.scale = 4;
    r.operands[1].mem.displacement = 0x1234;
    r.operands[1].mem.size = 4;
    while (gb_keep_running(state)) {
        ZyanUSize length = sizeof code;
        if (!ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(&r, code, &length)))
            gb_skip_with_error(state, "Zydis does not encode it");
        gb_use(length);
    }
}

/* ---- the cache ---- */

/* So many units, of one NOP and a jump each. */
static void fill_cache(struct world *w, u32 units) {
    for (u32 i = 0; i < units; i++) {
        u8 *at = w->ram + WORLD_DATA + 8 * i;
        at[0] = 0x90;
        at[1] = 0xe9; /* jmp to the next */
        store32(at + 2, 2);
    }
    for (u32 i = 0; i < units; i++)
        bt_translate(w->bt, WORLD_DATA + 8 * i, WORLD_DATA + 8 * i);
}

static void lookup(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    u32 units = (u32)gb_range(state, 0), i = 0;
    world_open(&w);
    fill_cache(&w, units);
    while (gb_keep_running(state)) {
        u32 at = WORLD_DATA + 8 * i;
        gb_use(cache_find(w.bt, at, at, 0, true));
        i = (i + 7919) % units;
    }
    world_close(&w);
}

static void link_and_unlink(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    world_open(&w);
    fill_cache(&w, 2);
    while (gb_keep_running(state)) {
        cache_link(w.bt, w.bt->unit[0].slot_first, 1);
        cache_unlink_slot(w.bt, w.bt->unit[0].slot_first);
    }
    world_close(&w);
}

void bench_translate_register(void) {
    gb_register("translate", translate, NULL);
    gb_register("lower_emit", lower_emit, NULL);
    gb_register("verify", verify, NULL);
    gb_register("emit/ours", emit_ours, NULL);
    gb_register("emit/zydis", emit_zydis, NULL);
    gb_range_multiplier(gb_arg_range(gb_register("cache/lookup", lookup, NULL), 16, 16384), 32);
    gb_register("cache/link_unlink", link_and_unlink, NULL);
}
