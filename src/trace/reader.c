/*
 * reader.c: hands out the records of a trace. It believes nothing: every number is checked against
 * the limits of an honest trace, and memory stays within them.
 */
#include "trace/trace_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zstd.h>

enum { IN_BYTES = 1 << 17, OUT_BYTES = 1 << 17 };

struct code {
    u64 at; /* offset in the arena */
    u32 bytes;
};

struct tt_reader {
    char path[200];
    FILE *file;
    ZSTD_DCtx *zstd;
    u8 *in, *out;
    ZSTD_inBuffer in_buffer;
    size_t out_used, out_at;
    u64 frame_left; /* bytes of the frame not read yet */
    XXH64_state_t *hash;
    bool frame_ended;
    const char *wrong; /* the first thing that was */
    struct tt_header header;
    struct code *code; /* by number - 1 */
    u32 code_count, code_capacity;
    u8 *arena;
    u64 arena_used, arena_capacity;
    struct tt_count *counts;
    u32 count_capacity;
    u32 unit; /* the next one made, counted from the last flush */
    u32 last_eip;
    u64 last_gpa;
    struct tt_totals totals;
};

/* ---- bytes ---- */

static void *wrong(struct tt_reader *r, const char *what) {
    if (!r->wrong)
        r->wrong = what;
    return NULL;
}

/* More of the frame into out. */
static void refill(struct tt_reader *r) {
    ZSTD_outBuffer out = {r->out, OUT_BYTES, 0};
    while (out.pos == 0 && !r->frame_ended && !r->wrong) {
        if (r->in_buffer.pos == r->in_buffer.size) {
            r->in_buffer.size = fread(r->in, 1, MIN(r->frame_left, (u64)IN_BYTES), r->file);
            r->in_buffer.pos = 0;
            r->frame_left -= r->in_buffer.size;
            XXH64_update(r->hash, r->in, r->in_buffer.size);
            if (r->in_buffer.size == 0) {
                wrong(r, "is truncated");
                return;
            }
        }
        size_t left = ZSTD_decompressStream(r->zstd, &out, &r->in_buffer);
        if (ZSTD_isError(left))
            wrong(r, "is damaged (its compressed data does not match its checksum)");
        r->frame_ended = left == 0;
    }
    r->out_used = out.pos;
    r->out_at = 0;
}

static u8 get_byte(struct tt_reader *r) {
    if (r->out_at == r->out_used)
        refill(r);
    if (r->out_at == r->out_used) {
        wrong(r, "ends in the middle of a record");
        return 0;
    }
    return r->out[r->out_at++];
}

/* A number of at most max. */
static u64 get_number(struct tt_reader *r, u64 max) {
    u64 v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        u8 b = get_byte(r);
        v |= (u64)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            if (v > max)
                wrong(r, "holds a number that no trace holds");
            return v > max ? 0 : v;
        }
    }
    wrong(r, "holds a number without an end");
    return 0;
}
static i64 get_signed(struct tt_reader *r) {
    u64 v = get_number(r, UINT64_MAX);
    return (i64)(v >> 1) ^ -(i64)(v & 1);
}
static u32 get32(struct tt_reader *r) {
    return (u32)get_number(r, UINT32_MAX);
}
static void get_bytes(struct tt_reader *r, u8 *to, u64 count) {
    for (u64 i = 0; i < count; i++)
        to[i] = get_byte(r);
}
static void get_text(struct tt_reader *r, char *to, size_t room) {
    u64 n = get_number(r, room - 1);
    get_bytes(r, (u8 *)to, n);
    to[n] = 0;
    for (u64 i = 0; i < n; i++)
        if (to[i] < ' ' || to[i] > '~') /* it will be printed */
            to[i] = '?';
}

/* ---- the header ---- */

static void get_model(struct tt_reader *r, struct cpu_model *m) {
#define X(word) m->word = get32(r);
    TT_MODEL_WORDS(X)
#undef X
    m->has_nx = get_number(r, 1);
    m->tsc_hz = get_number(r, UINT64_MAX);
    m->crystal_hz = get_number(r, UINT64_MAX);
    m->count = (unsigned)get_number(r, sizeof m->leaf / sizeof *m->leaf);
    for (unsigned i = 0; i < m->count; i++) {
        struct cpuid_leaf *l = &m->leaf[i];
        u32 *const leaf[] = {&l->leaf, &l->subleaf, &l->eax, &l->ebx, &l->ecx, &l->edx};
        for (unsigned k = 0; k < 6; k++)
            *leaf[k] = get32(r);
    }
}

static void get_config(struct tt_reader *r, struct bt_config *c) {
    bt_config_default(c);
    c->cache_bytes = get_number(r, 1u << 30);
    c->hot_threshold = get32(r);
    c->trap_classes = (u32)get_number(r, (1u << BT_TRAP_CLASS_COUNT) - 1);
    u64 bits = get_number(r, 2 * TT_CONFIG_LIGHT - 1);
    c->chain = bits & TT_CONFIG_CHAIN;
    c->retstack = bits & TT_CONFIG_RETSTACK;
    c->icache = bits & TT_CONFIG_ICACHE;
    c->adapt = bits & TT_CONFIG_ADAPT;
    c->foresight = bits & TT_CONFIG_FORESIGHT;
    c->icount = bits & TT_CONFIG_ICOUNT;
    c->lockstep = bits & TT_CONFIG_LOCKSTEP;
    c->direct = bits & TT_CONFIG_DIRECT;
    c->light = bits & TT_CONFIG_LIGHT;
    if (c->cache_bytes < 1u << 20)
        wrong(r, "tells of a translation cache that no translator has");
}

static void get_header(struct tt_reader *r) {
    struct tt_header *h = &r->header;
    if (get_byte(r) != TT_TYPE_HEADER && !r->wrong)
        wrong(r, "does not begin with a header");
    get_text(r, h->version, sizeof h->version);
    get_text(r, h->note, sizeof h->note);
    h->ram_bytes = get_number(r, TT_MAX_RAM_BYTES);
    if (h->ram_bytes < 1u << 20 || h->ram_bytes % PAGE_BYTES)
        wrong(r, "tells of RAM that no machine has");
    h->exact_counts = get_number(r, 1);
    get_config(r, &h->config);
    get_model(r, &h->model);
}

/* ---- open ---- */

static bool report(const struct tt_reader *r, struct tt_error *err) {
    return tt_fail(err, "'%s' %s", r->path, r->wrong);
}

static void check_prelude(struct tt_reader *r) {
    u8 prelude[TT_PRELUDE_BYTES];
    static const u8 magic[TT_MAGIC_BYTES] = TT_MAGIC;
    size_t n = fread(prelude, 1, sizeof prelude, r->file);
    struct stat st;
    XXH64_update(r->hash, prelude, n);
    if (n < sizeof prelude || memcmp(prelude, magic, sizeof magic))
        wrong(r, "is not a translation trace");
    else if (load32(prelude + TT_MAGIC_BYTES) != TT_VERSION)
        wrong(r, "is a trace of another version: this program reads version 1");
    else if (fstat(fileno(r->file), &st) || st.st_size < TT_PRELUDE_BYTES + TT_HASH_BYTES)
        wrong(r, "is truncated");
    else
        r->frame_left = (u64)st.st_size - TT_PRELUDE_BYTES - TT_HASH_BYTES;
}

struct tt_reader *tt_open(const char *path, struct tt_error *err) {
    struct tt_reader *r = calloc(1, sizeof *r);
    if (!r) {
        tt_fail(err, "no memory to read '%s'", path);
        return NULL;
    }
    snprintf(r->path, sizeof r->path, "%s", path);
    r->file = fopen(path, "re");
    if (!r->file) {
        tt_fail(err, "could not open '%s': %s", path, strerror(errno));
        tt_close(r);
        return NULL;
    }
    r->in = malloc(IN_BYTES);
    r->out = malloc(OUT_BYTES);
    r->zstd = ZSTD_createDCtx();
    r->hash = XXH64_createState();
    r->in_buffer.src = r->in;
    if (!r->in || !r->out || !r->zstd || !r->hash) {
        wrong(r, "could not be read: no memory");
    } else {
        XXH64_reset(r->hash, 0);
        check_prelude(r);
        if (!r->wrong)
            get_header(r);
    }
    if (!r->wrong)
        return r;
    report(r, err);
    tt_close(r);
    return NULL;
}

void tt_close(struct tt_reader *r) {
    if (!r)
        return;
    if (r->file)
        fclose(r->file);
    ZSTD_freeDCtx(r->zstd);
    XXH64_freeState(r->hash);
    free(r->in);
    free(r->out);
    free(r->code);
    free(r->arena);
    free(r->counts);
    free(r);
}

const struct tt_header *tt_header(const struct tt_reader *r) {
    return &r->header;
}
const struct tt_totals *tt_totals(const struct tt_reader *r) {
    return &r->totals;
}

/* ---- guest code ---- */

static bool room_for_code(struct tt_reader *r, u64 bytes) {
    if (r->code_count == r->code_capacity) {
        u32 capacity = MAX(r->code_capacity * 2, 1024u);
        struct code *more = realloc(r->code, capacity * sizeof *more);
        if (!more)
            return false;
        r->code = more;
        r->code_capacity = capacity;
    }
    if (r->arena_used + bytes > r->arena_capacity) {
        u64 capacity = MAX(r->arena_capacity * 2, (u64)1 << 16);
        u8 *more = realloc(r->arena, capacity);
        if (!more)
            return false;
        r->arena = more;
        r->arena_capacity = capacity;
    }
    return true;
}

static void get_code(struct tt_reader *r) {
    u64 bytes = get_number(r, BT_CONTEXT_CODE_BYTES);
    if (r->code_count == TT_MAX_CODES || r->arena_used + bytes > TT_MAX_CODE_BYTES) {
        wrong(r, "holds more code than any trace");
        return;
    }
    if (!room_for_code(r, bytes)) {
        wrong(r, "could not be read: no memory");
        return;
    }
    r->code[r->code_count++] = (struct code){.at = r->arena_used, .bytes = (u32)bytes};
    get_bytes(r, r->arena + r->arena_used, bytes);
    r->arena_used += bytes;
    r->totals.codes++;
    r->totals.code_bytes += bytes;
}

const u8 *tt_code(const struct tt_reader *r, u32 id, u32 *bytes) {
    if (id == 0 || id > r->code_count)
        return NULL;
    *bytes = r->code[id - 1].bytes;
    return r->arena + r->code[id - 1].at;
}

static const u8 *code_of(struct tt_reader *r, u64 id, u32 *bytes) {
    const u8 *code = tt_code(r, (u32)MIN(id, (u64)UINT32_MAX), bytes);
    return code ? code : wrong(r, "names code that it does not hold");
}

/* ---- events ---- */

static void get_translate(struct tt_reader *r, struct tt_record *out) {
    struct bt_event *e = &out->event;
    struct bt_context *c = &out->context;
    u8 bits = get_byte(r);
    *c = (struct bt_context){.cpl = bits & TT_USER ? 3 : 0,
                             .fp_ok = bits & TT_FP,
                             .tsc_inline = bits & TT_TSC_INLINE,
                             .tsd = bits & TT_TSD,
                             .checked = bits & TT_CHECKED,
                             .gpa2 = UINT64_MAX};
    out->code_id = (u32)get_number(r, TT_MAX_CODES);
    c->code = code_of(r, out->code_id, &c->code_bytes);
    c->eip = r->last_eip += (u32)get_signed(r);
    c->gpa = r->last_gpa += (u64)get_signed(r);
    if (bits & TT_SPANS) {
        c->gpa2 = get_number(r, TT_MAX_RAM_BYTES);
        c->code2 = code_of(r, get_number(r, TT_MAX_CODES), &c->code2_bytes);
    }
    if (bits & TT_MASKS) {
        c->adapted = get_number(r, UINT64_MAX);
        c->broken = get_number(r, UINT64_MAX);
        c->live = get_number(r, UINT64_MAX);
    }
    e->insns = (u16)get_number(r, UINT16_MAX);
    e->guest_bytes = (u16)get_number(r, UINT16_MAX);
    e->host_bytes = get32(r);
    e->unit = r->unit++;
    e->context = c;
    r->totals.guest_insns += e->insns;
    r->totals.guest_bytes += e->guest_bytes;
    r->totals.host_bytes += e->host_bytes;
}

static void get_event(struct tt_reader *r, enum bt_event_kind kind, struct tt_record *out) {
    struct bt_event *e = &out->event;
    *e = (struct bt_event){.kind = (u8)kind};
    out->kind = TT_EVENT;
    switch (kind) {
    case BT_EVENT_translate:
        get_translate(r, out);
        break;
    case BT_EVENT_chain:
        e->from = get32(r);
        e->branch = get32(r);
        e->unit = get32(r);
        break;
    case BT_EVENT_icache_fill:
        e->view = get32(r);
        e->unit = get32(r);
        break;
    case BT_EVENT_icache_clear:
        e->view = get32(r);
        break;
    case BT_EVENT_invalidate:
        e->cause = (u8)get_number(r, BT_CAUSE_COUNT - 1);
        e->unit = get32(r);
        break;
    case BT_EVENT_flush:
        e->cause = (u8)get_number(r, BT_CAUSE_COUNT - 1);
        r->unit = 0;
        break;
    case BT_EVENT_adapt:
        e->gpa = get_number(r, UINT64_MAX);
        break;
    default:
        break;
    }
    r->totals.events[kind]++;
}

static void get_counts(struct tt_reader *r, struct tt_record *out) {
    u32 n = (u32)get_number(r, TT_MAX_COUNTS), unit = 0;
    out->kind = TT_COUNTS;
    for (u32 i = 0; i < n && !r->wrong; i++) {
        if (i == r->count_capacity) { /* grows with what is really there */
            u32 capacity = MAX(r->count_capacity * 2, 1024u);
            struct tt_count *more = realloc(r->counts, capacity * sizeof *more);
            if (!more) {
                wrong(r, "could not be read: no memory");
                return;
            }
            r->counts = more;
            r->count_capacity = capacity;
        }
        unit += get32(r);
        r->counts[i] = (struct tt_count){unit, get_number(r, UINT64_MAX)};
    }
    out->counts = r->counts;
    out->count_count = n;
}

/* Kinds that a later version added at the end are skipped. */
static void get_counters(struct tt_reader *r, u64 *to, unsigned known) {
    unsigned n = (unsigned)get_number(r, 256);
    for (unsigned i = 0; i < n; i++) {
        u64 v = get_number(r, UINT64_MAX);
        if (i < known)
            to[i] = v;
    }
}

/* The totals match, the frame's checksum does, and nothing follows it. */
static void check_end(struct tt_reader *r) {
    for (unsigned i = 0; i < BT_EVENT_COUNT; i++)
        if (get_number(r, UINT64_MAX) != r->totals.events[i])
            wrong(r, "is damaged (its totals do not match its events)");
    if (get_number(r, UINT64_MAX) != r->totals.guest_insns)
        wrong(r, "is damaged (its totals do not match its events)");
    get_counters(r, r->totals.exits, BT_EXIT_COUNT);
    get_counters(r, r->totals.callouts, BT_CALLOUT_COUNT);
    if (!r->wrong && r->out_at == r->out_used)
        refill(r);
    if (!r->wrong && (r->out_at != r->out_used || !r->frame_ended))
        wrong(r, "goes on after its end");
    if (!r->wrong && (r->in_buffer.pos != r->in_buffer.size || r->frame_left))
        wrong(r, "goes on after its end");
    u8 hash[TT_HASH_BYTES];
    if (!r->wrong && (fread(hash, 1, sizeof hash, r->file) != sizeof hash ||
                      load64(hash) != XXH64_digest(r->hash)))
        wrong(r, "is damaged (its bytes do not match their checksum)");
}

bool tt_next(struct tt_reader *r, struct tt_record *out, struct tt_error *err) {
    u8 type;
    while ((type = get_byte(r)) == TT_TYPE_CODE && !r->wrong)
        get_code(r);
    if (!r->wrong && type >= TT_TYPE_EVENT && type < TT_TYPE_EVENT + BT_EVENT_COUNT) {
        get_event(r, (enum bt_event_kind)(type - TT_TYPE_EVENT), out);
    } else if (!r->wrong && type == TT_TYPE_COUNTS) {
        get_counts(r, out);
    } else if (!r->wrong && type == TT_TYPE_END) {
        out->kind = TT_END;
        check_end(r);
    } else {
        wrong(r, "holds a record of an unknown type");
    }
    return !r->wrong || report(r, err);
}
