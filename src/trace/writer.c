/*
 * writer.c: records into a file: numbers packed, each piece of guest code once, all of it through
 * one zstd stream. An error is kept until the end: nobody looks at the file before.
 */
#include "trace/trace_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

enum { IN_BYTES = 1 << 17, OUT_BYTES = 1 << 17, RECORD_BYTES = 1 << 14, LEVEL = 3 };

struct known_code {
    XXH128_hash_t hash;
    u32 id; /* 0: an empty slot */
};

struct tt_writer {
    char *path;
    FILE *file;
    ZSTD_CCtx *zstd;
    XXH64_state_t *hash; /* over the file */
    u8 *in, *out;
    size_t in_used;
    int error; /* errno of the first failure */
    struct known_code *code;
    u32 code_slots; /* a power of two */
    u32 last_eip;
    u64 last_gpa;
    struct tt_totals totals;
};

bool tt_fail(struct tt_error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return false;
}

/* ---- bytes ---- */

static void write_bytes(struct tt_writer *w, const void *bytes, size_t count) {
    XXH64_update(w->hash, bytes, count);
    if (!w->error && fwrite(bytes, 1, count, w->file) != count)
        w->error = errno ? errno : EIO;
}

static void compress(struct tt_writer *w, ZSTD_EndDirective end) {
    ZSTD_inBuffer in = {w->in, w->in_used, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {w->out, OUT_BYTES, 0};
        left = ZSTD_compressStream2(w->zstd, &out, &in, end);
        if (ZSTD_isError(left)) {
            w->error = w->error ? w->error : ENOMEM;
            return;
        }
        write_bytes(w, w->out, out.pos);
    } while (end == ZSTD_e_end ? left != 0 : in.pos < in.size);
    w->in_used = 0;
}

static void make_room(struct tt_writer *w, size_t bytes) {
    if (w->in_used + bytes > IN_BYTES)
        compress(w, ZSTD_e_continue);
}

static void put_byte(struct tt_writer *w, u8 v) {
    w->in[w->in_used++] = v;
}
static void put_number(struct tt_writer *w, u64 v) {
    for (; v >= 0x80; v >>= 7)
        put_byte(w, (u8)(v | 0x80));
    put_byte(w, (u8)v);
}
static void put_signed(struct tt_writer *w, i64 v) {
    put_number(w, (u64)v << 1 ^ (u64)(v >> 63));
}
static void put_bytes(struct tt_writer *w, const void *bytes, size_t count) {
    put_number(w, count);
    if (count)
        memcpy(w->in + w->in_used, bytes, count);
    w->in_used += count;
}

/* ---- the header ---- */

static u64 config_bits(const struct bt_config *c) {
    return (c->chain ? TT_CONFIG_CHAIN : 0) | (c->retstack ? TT_CONFIG_RETSTACK : 0) |
           (c->icache ? TT_CONFIG_ICACHE : 0) | (c->adapt ? TT_CONFIG_ADAPT : 0) |
           (c->foresight ? TT_CONFIG_FORESIGHT : 0) | (c->icount ? TT_CONFIG_ICOUNT : 0) |
           (c->lockstep ? TT_CONFIG_LOCKSTEP : 0) | (c->direct ? TT_CONFIG_DIRECT : 0) |
           (c->light ? TT_CONFIG_LIGHT : 0);
}

static void put_model(struct tt_writer *w, const struct cpu_model *m) {
#define X(word) put_number(w, m->word);
    TT_MODEL_WORDS(X)
#undef X
    put_number(w, m->has_nx);
    put_number(w, m->tsc_hz);
    put_number(w, m->crystal_hz);
    put_number(w, m->count);
    for (unsigned i = 0; i < m->count; i++) {
        const struct cpuid_leaf *l = &m->leaf[i];
        const u32 leaf[] = {l->leaf, l->subleaf, l->eax, l->ebx, l->ecx, l->edx};
        for (unsigned k = 0; k < 6; k++)
            put_number(w, leaf[k]);
    }
}

static void put_header(struct tt_writer *w, const struct tt_header *h) {
    put_byte(w, TT_TYPE_HEADER);
    put_bytes(w, h->version, strnlen(h->version, sizeof h->version));
    put_bytes(w, h->note, strnlen(h->note, sizeof h->note));
    put_number(w, h->ram_bytes);
    put_number(w, h->exact_counts);
    put_number(w, h->config.cache_bytes);
    put_number(w, h->config.hot_threshold);
    put_number(w, h->config.trap_classes);
    put_number(w, config_bits(&h->config));
    put_model(w, &h->model);
}

/* ---- open ---- */

static bool allocate(struct tt_writer *w) {
    w->in = malloc(IN_BYTES);
    w->out = malloc(OUT_BYTES);
    w->code_slots = 1 << 14;
    w->code = calloc(w->code_slots, sizeof *w->code);
    w->zstd = ZSTD_createCCtx();
    w->hash = XXH64_createState();
    return w->in && w->out && w->code && w->zstd && w->hash;
}

static void release(struct tt_writer *w) {
    if (w->file)
        fclose(w->file);
    ZSTD_freeCCtx(w->zstd);
    XXH64_freeState(w->hash);
    free(w->in);
    free(w->out);
    free(w->code);
    free(w->path);
    free(w);
}

static void write_prelude(struct tt_writer *w) {
    u8 prelude[TT_PRELUDE_BYTES] = TT_MAGIC;
    store32(prelude + TT_MAGIC_BYTES, TT_VERSION);
    write_bytes(w, prelude, sizeof prelude);
}

struct tt_writer *tt_writer_open(const char *path, const struct tt_header *header,
                                 struct tt_error *err) {
    struct tt_writer *w = calloc(1, sizeof *w);
    if (w)
        w->path = strdup(path);
    if (!w || !w->path || !allocate(w)) {
        tt_fail(err, "no memory to record '%s'", path);
        if (w)
            release(w);
        return NULL;
    }
    w->file = fopen(path, "we");
    if (!w->file) {
        tt_fail(err, "could not create '%s': %s", path, strerror(errno));
        release(w);
        return NULL;
    }
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL);
    ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    XXH64_reset(w->hash, 0);
    write_prelude(w);
    put_header(w, header);
    return w;
}

/* ---- guest code, each piece once ---- */

static struct known_code *find_code(struct known_code *table, u32 slots, XXH128_hash_t hash) {
    u32 i = (u32)hash.low64 & (slots - 1);
    while (table[i].id && !XXH128_isEqual(table[i].hash, hash))
        i = (i + 1) & (slots - 1);
    return &table[i];
}

static void grow_codes(struct tt_writer *w) {
    u32 slots = w->code_slots * 2;
    struct known_code *table = calloc(slots, sizeof *table);
    if (!table) {
        w->error = ENOMEM;
        return;
    }
    for (u32 i = 0; i < w->code_slots; i++)
        if (w->code[i].id)
            *find_code(table, slots, w->code[i].hash) = w->code[i];
    free(w->code);
    w->code = table;
    w->code_slots = slots;
}

/* The number of a piece of code, from 1; a new one goes into the file. */
static u32 code_id(struct tt_writer *w, const u8 *bytes, u32 count) {
    struct known_code *c = find_code(w->code, w->code_slots, XXH3_128bits(bytes, count));
    if (c->id)
        return c->id;
    c->hash = XXH3_128bits(bytes, count);
    u32 id = c->id = (u32)++w->totals.codes;
    w->totals.code_bytes += count;
    put_byte(w, TT_TYPE_CODE);
    put_bytes(w, bytes, count);
    if (w->totals.codes * 2 > w->code_slots)
        grow_codes(w);
    return id;
}

/* ---- events ---- */

static void put_translate(struct tt_writer *w, const struct bt_event *e) {
    const struct bt_context *c = e->context;
    bool spans = c->gpa2 != UINT64_MAX, masks = c->adapted | c->broken | c->live;
    u32 code = code_id(w, c->code, c->code_bytes);
    u32 code2 = spans ? code_id(w, c->code2, c->code2_bytes) : 0;
    put_byte(w, TT_TYPE_EVENT + BT_EVENT_translate);
    put_byte(w,
             (u8)((c->cpl == 3 ? TT_USER : 0) | (c->fp_ok ? TT_FP : 0) |
                  (c->tsc_inline ? TT_TSC_INLINE : 0) | (c->tsd ? TT_TSD : 0) |
                  (spans ? TT_SPANS : 0) | (masks ? TT_MASKS : 0) | (c->checked ? TT_CHECKED : 0)));
    put_number(w, code);
    put_signed(w, (i32)(c->eip - w->last_eip));
    put_signed(w, (i64)(c->gpa - w->last_gpa));
    if (spans) {
        put_number(w, c->gpa2);
        put_number(w, code2);
    }
    if (masks) {
        put_number(w, c->adapted);
        put_number(w, c->broken);
        put_number(w, c->live);
    }
    put_number(w, e->insns);
    put_number(w, e->guest_bytes);
    put_number(w, e->host_bytes);
    w->last_eip = c->eip;
    w->last_gpa = c->gpa;
    w->totals.guest_insns += e->insns;
    w->totals.guest_bytes += e->guest_bytes;
    w->totals.host_bytes += e->host_bytes;
}

void tt_write_event(struct tt_writer *w, const struct bt_event *e) {
    make_room(w, RECORD_BYTES);
    w->totals.events[e->kind]++;
    if (e->kind == BT_EVENT_translate) {
        put_translate(w, e);
        return;
    }
    put_byte(w, (u8)(TT_TYPE_EVENT + e->kind));
    switch ((enum bt_event_kind)e->kind) {
    case BT_EVENT_chain:
        put_number(w, e->from);
        put_number(w, e->branch);
        put_number(w, e->unit);
        break;
    case BT_EVENT_icache_fill:
        put_number(w, e->view);
        put_number(w, e->unit);
        break;
    case BT_EVENT_icache_clear:
        put_number(w, e->view);
        break;
    case BT_EVENT_invalidate:
        put_number(w, e->cause);
        put_number(w, e->unit);
        break;
    case BT_EVENT_flush:
        put_number(w, e->cause);
        break;
    case BT_EVENT_adapt:
        put_number(w, e->gpa);
        break;
    default:
        break;
    }
}

void tt_write_counts(struct tt_writer *w, const struct tt_count *counts, u32 count) {
    make_room(w, RECORD_BYTES);
    put_byte(w, TT_TYPE_COUNTS);
    put_number(w, count);
    u32 last = 0;
    for (u32 i = 0; i < count; i++) {
        make_room(w, 32);
        put_number(w, counts[i].unit - last);
        put_number(w, counts[i].count);
        last = counts[i].unit;
    }
}

/* A device that was named as output stays. */
static void remove_file(const struct tt_writer *w) {
    struct stat st;
    if (!fstat(fileno(w->file), &st) && S_ISREG(st.st_mode))
        unlink(w->path);
}

void tt_write_counters(struct tt_writer *w, const struct bt_counters *from,
                       const struct bt_counters *to) {
    for (unsigned i = 0; i < BT_EXIT_COUNT; i++)
        w->totals.exits[i] = to->exits_by_reason[i] - from->exits_by_reason[i];
    for (unsigned i = 0; i < BT_CALLOUT_COUNT; i++)
        w->totals.callouts[i] = to->callouts_by_kind[i] - from->callouts_by_kind[i];
}

bool tt_writer_close(struct tt_writer *w, struct tt_totals *totals, struct tt_error *err) {
    make_room(w, RECORD_BYTES);
    put_byte(w, TT_TYPE_END);
    for (unsigned i = 0; i < BT_EVENT_COUNT; i++)
        put_number(w, w->totals.events[i]);
    put_number(w, w->totals.guest_insns);
    put_number(w, BT_EXIT_COUNT);
    for (unsigned i = 0; i < BT_EXIT_COUNT; i++)
        put_number(w, w->totals.exits[i]);
    put_number(w, BT_CALLOUT_COUNT);
    for (unsigned i = 0; i < BT_CALLOUT_COUNT; i++)
        put_number(w, w->totals.callouts[i]);
    compress(w, ZSTD_e_end);
    u8 hash[TT_HASH_BYTES];
    store64(hash, XXH64_digest(w->hash));
    write_bytes(w, hash, sizeof hash);
    if (fflush(w->file) && !w->error)
        w->error = errno;
    bool ok = !w->error;
    if (!ok) {
        tt_fail(err, "could not write '%s': %s", w->path, strerror(w->error));
        remove_file(w);
    }
    if (totals)
        *totals = w->totals;
    release(w);
    return ok;
}
