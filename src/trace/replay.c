/*
 * replay.c: makes the host code of a trace again, without the guest. Units are named by their
 * numbers in the recorded run; with a smaller cache than that run's, a unit that is used after it
 * was evicted is made again, as the run itself would have.
 */
#include "mmu/mmu.h"
#include "trace/trace_internal.h"

#include <stdlib.h>
#include <x86intrin.h>
#include <xxhash.h>

/* A record of the trace, its code where it stays. */
struct step {
    u64 number; /* among the translate events */
    struct bt_event event;
    struct bt_context context;
};

struct tt_script {
    struct tt_header header;
    struct tt_totals totals;
    struct step *step;
    u64 count, capacity, units;
    u8 *code; /* the contexts' bytes */
    u64 code_used, code_capacity;
};

enum { GONE = UINT32_MAX };

struct replay {
    const struct tt_script *script;
    const struct tt_replay_options *options;
    struct tt_replay_result *result;
    struct cpu *cpu;
    struct bt *bt;
    u64 *made_by; /* the step that made a recorded unit */
    u32 *unit;    /* its number here, or GONE */
    u32 units, capacity;
    XXH64_state_t *hash;
};

/* ---- loading ---- */

static bool grow(void **array, u64 *capacity, u64 needed, size_t element) {
    if (needed <= *capacity)
        return true;
    u64 more = MAX(*capacity * 2, MAX(needed, (u64)4096));
    void *p = realloc(*array, more * element);
    if (!p)
        return false;
    *array = p;
    *capacity = more;
    return true;
}

/* Copies code; pointers are made from offsets when all is loaded. */
static bool keep_code(struct tt_script *s, const u8 **code, u32 bytes) {
    if (!grow((void **)&s->code, &s->code_capacity, s->code_used + bytes, 1))
        return false;
    if (bytes)
        memcpy(s->code + s->code_used, *code, bytes);
    *code = (const u8 *)s->code_used;
    s->code_used += bytes;
    return true;
}

static bool keep(struct tt_script *s, const struct tt_record *record) {
    if (!grow((void **)&s->step, &s->capacity, s->count + 1, sizeof *s->step))
        return false;
    struct step *to = &s->step[s->count++];
    *to = (struct step){.event = record->event};
    if (record->event.kind != BT_EVENT_translate)
        return true;
    to->number = s->units++;
    to->context = record->context;
    return keep_code(s, &to->context.code, to->context.code_bytes) &&
           keep_code(s, &to->context.code2, to->context.code2_bytes);
}

static void fix_pointers(struct tt_script *s) {
    for (u64 i = 0; i < s->count; i++) {
        struct bt_context *c = &s->step[i].context;
        c->code = s->code + (u64)c->code;
        c->code2 = s->code + (u64)c->code2;
    }
}

static bool load(struct tt_script *s, struct tt_reader *reader, struct tt_error *err) {
    struct tt_record record;
    s->header = *tt_header(reader);
    for (;;) {
        if (!tt_next(reader, &record, err))
            return false;
        if (record.kind == TT_END)
            break;
        if (record.kind == TT_EVENT && !keep(s, &record))
            return tt_fail(err, "no memory for the trace");
    }
    s->totals = *tt_totals(reader);
    fix_pointers(s);
    return true;
}

struct tt_script *tt_script_load(const char *path, struct tt_error *err) {
    struct tt_reader *reader = tt_open(path, err);
    if (!reader)
        return NULL;
    struct tt_script *s = calloc(1, sizeof *s);
    if (!s)
        tt_fail(err, "no memory for the trace");
    if (s && !load(s, reader, err)) {
        tt_script_free(s);
        s = NULL;
    }
    tt_close(reader);
    return s;
}

void tt_script_free(struct tt_script *s) {
    if (!s)
        return;
    free(s->step);
    free(s->code);
    free(s);
}

const struct tt_header *tt_script_header(const struct tt_script *s) {
    return &s->header;
}

/* ---- the stage ---- */

static bool set_up(struct replay *r, struct tt_error *err) {
    struct mmu_error mmu_err;
    char why[200] = "";
    struct bt_config config = r->script->header.config;
    config.verify = r->options->verify;
    config.direct = false; /* nothing runs here */
    config.count = false;
    if (r->options->cache_bytes)
        config.cache_bytes = r->options->cache_bytes;
    r->cpu = cpu_create();
    r->hash = XXH64_createState();
    if (!r->cpu || !r->hash)
        return tt_fail(err, "no memory to replay the trace");
    cpu_reset(r->cpu);
    r->cpu->model = &r->script->header.model;
    r->cpu->cr0 |= CR0_PE;
    r->cpu->mmu = mmu_create(r->script->header.ram_bytes, &mmu_err);
    if (!r->cpu->mmu)
        return tt_fail(err, "%s", mmu_err.text);
    r->bt = bt_create(r->cpu, &config, why, sizeof why);
    if (!r->bt)
        return tt_fail(err, "could not start the translator: %s", why);
    XXH64_reset(r->hash, 0);
    return true;
}

static void tear_down(struct replay *r) {
    if (r->bt)
        bt_destroy(r->bt);
    if (r->cpu && r->cpu->mmu)
        mmu_destroy(r->cpu->mmu);
    if (r->cpu)
        cpu_destroy(r->cpu);
    XXH64_freeState(r->hash);
    free(r->made_by);
    free(r->unit);
}

/* ---- steps ---- */

static void take_image(struct replay *r) {
    u32 bytes;
    const u8 *image = bt_replay_image(r->bt, &bytes);
    XXH64_update(r->hash, image, bytes);
    r->result->peak_bytes = MAX(r->result->peak_bytes, (u64)bytes);
}

/* The cache is full here, though it was not in the recorded run, or not at this point. */
static void evict(struct replay *r) {
    take_image(r);
    r->result->flushes++;
    for (u32 i = 0; i < r->units; i++) {
        r->result->evicted_units += r->unit[i] != GONE;
        r->unit[i] = GONE;
    }
    bt_replay_flush(r->bt);
}

/* Whether the unit came out as in the recorded run. */
static void compare(struct replay *r, const struct bt_event *e, u32 unit) {
    struct bt_unit_info u;
    bool same = bt_replay_unit(r->bt, unit, &u) && u.insns == e->insns &&
                u.guest_bytes == e->guest_bytes && u.host_bytes == e->host_bytes;
    r->result->differing += !same;
}

static bool make(struct replay *r, u64 step, u32 *unit) {
    const struct bt_context *c = &r->script->step[step].context;
    if (r->options->stage_repeat)
        bt_replay_measure(r->bt, c, r->options->stage_repeat, r->result->stage_cycles);
    u64 start = __rdtsc();
    bool ok = bt_replay_translate(r->bt, c, unit);
    if (ok && *unit == GONE) {
        evict(r);
        ok = bt_replay_translate(r->bt, c, unit) && *unit != GONE;
    }
    r->result->cycles += __rdtsc() - start;
    if (ok)
        compare(r, &r->script->step[step].event, *unit);
    r->result->units += ok;
    if (ok && r->options->made)
        r->options->made(r->options->opaque, r->script->step[step].number, r->bt, *unit);
    return ok;
}

/* The unit of that recorded number; made again if it is gone. GONE: there is none. */
static u32 find(struct replay *r, u32 recorded) {
    if (recorded >= r->units)
        return GONE;
    if (r->unit[recorded] == GONE && r->made_by[recorded] != UINT64_MAX) {
        u32 unit;
        if (make(r, r->made_by[recorded], &unit)) {
            r->unit[recorded] = unit;
            r->result->remade_units++;
        }
    }
    return r->unit[recorded];
}

static bool add_unit(struct replay *r, u64 step, struct tt_error *err) {
    if (r->units == r->capacity) {
        u32 capacity = MAX(r->capacity * 2, 4096u);
        u64 *made_by = realloc(r->made_by, capacity * sizeof *made_by);
        if (made_by)
            r->made_by = made_by;
        u32 *unit = realloc(r->unit, capacity * sizeof *unit);
        if (unit)
            r->unit = unit;
        if (!made_by || !unit)
            return tt_fail(err, "no memory to replay the trace");
        r->capacity = capacity;
    }
    u32 unit;
    if (!make(r, step, &unit))
        return tt_fail(err, "the trace holds a unit that no translator makes");
    r->made_by[r->units] = step;
    r->unit[r->units++] = unit;
    return true;
}

static void chain(struct replay *r, const struct bt_event *e) {
    u32 to = find(r, e->unit), from = find(r, e->from);
    to = find(r, e->unit); /* making the other may have evicted it */
    u64 start = __rdtsc();
    bool ok = to != GONE && from != GONE && bt_replay_chain(r->bt, from, e->branch, to);
    u64 cycles = __rdtsc() - start;
    r->result->cycles += cycles;
    r->result->link_cycles += cycles;
    r->result->chains += ok;
    r->result->unmatched += !ok;
}

static void invalidate(struct replay *r, const struct bt_event *e) {
    u64 start = __rdtsc();
    if (e->unit >= r->units) {
        r->result->unmatched++;
        return;
    }
    if (r->unit[e->unit] != GONE)
        r->result->invalidated += bt_replay_invalidate(r->bt, r->unit[e->unit]);
    r->unit[e->unit] = GONE;
    r->made_by[e->unit] = UINT64_MAX;
    r->result->cycles += __rdtsc() - start;
}

static bool play(struct replay *r, u64 step, struct tt_error *err) {
    const struct bt_event *e = &r->script->step[step].event;
    switch ((enum bt_event_kind)e->kind) {
    case BT_EVENT_translate:
        return add_unit(r, step, err);
    case BT_EVENT_chain:
        chain(r, e);
        break;
    case BT_EVENT_unchain:
        bt_replay_unchain(r->bt);
        break;
    case BT_EVENT_icache_fill: /* it runs now, so it has to be there */
        find(r, e->unit);
        break;
    case BT_EVENT_invalidate:
        invalidate(r, e);
        break;
    case BT_EVENT_flush:
        /* One for want of room happens here when the room ends here. */
        if (e->cause != BT_CAUSE_full || !r->options->cache_bytes) {
            take_image(r);
            bt_replay_flush(r->bt);
            for (u32 i = 0; i < r->units; i++)
                r->unit[i] = GONE;
        }
        r->units = 0;
        break;
    default:
        break;
    }
    return true;
}

bool tt_script_run(const struct tt_script *script, const struct tt_replay_options *options,
                   struct tt_replay_result *result, struct tt_error *err) {
    struct replay r = {.script = script, .options = options, .result = result};
    *result = (struct tt_replay_result){.totals = script->totals};
    bool ok = set_up(&r, err);
    for (u64 i = 0; ok && i < script->count; i++)
        ok = play(&r, i, err);
    if (ok) {
        take_image(&r);
        const struct bt_counters *c = bt_counters(r.bt);
        result->guest_insns = c->guest_insns_translated;
        result->guest_bytes = c->guest_bytes_translated;
        result->host_bytes = c->host_bytes_emitted;
        result->image_hash = XXH64_digest(r.hash);
        u64 staged = 0;
        for (unsigned i = 0; i < BT_STAGE_link; i++)
            staged += result->stage_cycles[i];
        u64 translating = result->cycles - result->link_cycles;
        result->stage_cycles[BT_STAGE_link] =
            result->link_cycles + (translating > staged ? translating - staged : 0);
    }
    tear_down(&r);
    return ok;
}

bool tt_replay(const char *path, const struct tt_replay_options *options,
               struct tt_replay_result *result, struct tt_error *err) {
    struct tt_script *script = tt_script_load(path, err);
    if (!script)
        return false;
    bool ok = tt_script_run(script, options, result, err);
    tt_script_free(script);
    return ok;
}
