/*
 * profile_hosted.c: -profile: samples summed up by stack, written as folded stacks, one per line,
 * for flame graphs: what kind of work, which guest function, and the monitor's functions on top of
 * it.
 *
 *     translated;do_fork;... 12
 *     callout;schedule;co_iret;rc_iret 3
 */
#include "monitor/profile.h"
#include "monitor/symbols.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { RING = 4096, TABLE = 1 << 15, MAX_STACKS = TABLE / 4 * 3, LINE_BYTES = 4096 };

struct stack {
    struct profile_sample sample;
    u64 count; /* 0: an empty slot */
};

struct mon_profile {
    char path[512];
    FILE *file;
    struct mon_symbols *guest, *own;
    struct profile_sample *ring;
    volatile u32 head, tail;
    volatile u64 lost; /* samples that found no room */
    struct stack *table;
    u32 stacks;
    u64 others; /* samples beyond MAX_STACKS different ones */
};

struct mon_profile *mon_profile_create(const char *path, const char *symbols,
                                       struct mon_error *err) {
    struct mon_profile *p = calloc(1, sizeof *p);
    if (p) {
        p->ring = calloc(RING, sizeof *p->ring);
        p->table = calloc(TABLE, sizeof *p->table);
    }
    if (!p || !p->ring || !p->table) {
        mon_fail(err, "-profile: out of memory");
        mon_profile_free(p);
        return NULL;
    }
    snprintf(p->path, sizeof p->path, "%s", path);
    struct mon_error none;
    p->own = mon_symbols_own(&none); /* a stripped program's functions stay addresses */
    if (symbols && !(p->guest = mon_symbols_load(symbols, &none))) {
        mon_fail(err, "-symbols: %s", none.text);
        mon_profile_free(p);
        return NULL;
    }
    p->file = fopen(path, "we");
    if (!p->file) {
        mon_fail(err, "-profile: could not create '%s': %s", path, strerror(errno));
        mon_profile_free(p);
        return NULL;
    }
    return p;
}

void mon_profile_free(struct mon_profile *p) {
    if (!p)
        return;
    if (p->file)
        fclose(p->file);
    mon_symbols_free(p->guest);
    mon_symbols_free(p->own);
    free(p->ring);
    free(p->table);
    free(p);
}

/* ---- taking ---- */

struct profile_sample *mon_profile_next_sigsafe(struct mon_profile *p) {
    if (p->head - p->tail == RING) {
        p->lost++;
        return NULL;
    }
    return &p->ring[p->head % RING];
}

void mon_profile_took_sigsafe(struct mon_profile *p) {
    p->head++;
}

static u64 hash_of(const struct profile_sample *s) {
    u64 h = s->eip * 0x9e3779b97f4a7c15ull + s->user;
    for (u32 i = 0; i < s->frames; i++)
        h = (h ^ s->frame[i]) * 0x100000001b3ull;
    return h ^ h >> 29;
}

static bool same(const struct profile_sample *a, const struct profile_sample *b) {
    return a->frames == b->frames && a->eip == b->eip && a->user == b->user &&
           !memcmp(a->frame, b->frame, a->frames * sizeof *a->frame);
}

static void sum_up(struct mon_profile *p, const struct profile_sample *s) {
    u32 i = (u32)hash_of(s) % TABLE;
    while (p->table[i].count && !same(&p->table[i].sample, s))
        i = (i + 1) % TABLE;
    if (!p->table[i].count) {
        if (p->stacks == MAX_STACKS) {
            p->others++;
            return;
        }
        p->stacks++;
        p->table[i].sample = *s;
    }
    p->table[i].count++;
}

void mon_profile_drain(struct mon_profile *p) {
    for (; p->tail != p->head; p->tail++)
        sum_up(p, &p->ring[p->tail % RING]);
}

/* ---- names ---- */

struct line {
    char text[LINE_BYTES];
    size_t used;
};

static void put(struct line *l, const char *name) {
    int n = snprintf(l->text + l->used, LINE_BYTES - l->used, "%s%s", l->used ? ";" : "", name);
    l->used = MIN(l->used + (size_t)MAX(n, 0), (size_t)LINE_BYTES - 1);
}

static void put_guest(const struct mon_profile *p, struct line *l, u32 eip, bool user) {
    const char *name = user ? NULL : mon_symbols_find(p->guest, eip);
    char text[40];
    if (!name) { /* programs and unknown kernels: by page */
        snprintf(text, sizeof text, "%s_%08x", user ? "program" : "kernel", eip & ~0xfffu);
        name = text;
    }
    put(l, name);
}

static const char *host_name(const struct mon_profile *p, u64 pc, char *text, size_t bytes) {
    Dl_info info;
    const char *name = mon_symbols_find(p->own, pc);
    if (name)
        return name;
    if (dladdr((void *)pc, &info) && info.dli_fname) {
        const char *file = strrchr(info.dli_fname, '/');
        snprintf(text, bytes, "%s!%s", file ? file + 1 : info.dli_fname,
                 info.dli_sname ? info.dli_sname : "?");
    } else {
        snprintf(text, bytes, "host_%llx", (unsigned long long)pc);
    }
    return text;
}

/* ---- kinds of work ---- */

/* The first match from the innermost frame outwards names the kind. */
static const struct {
    const char *function, *kind; /* a prefix of the function's name */
} kinds[] = {
    {"bt_translate", "translator"},
    {"on_fault", "fault"},
    {"dev_", "devices"},
    {"rc_", NULL},
    {"co_", "callout"},
    {"interp_step", "interp"},
    {"interp_run", "interp"},
    {"mmu_window", NULL},
    {"bt_verify", "translator"},
    {"cache_flush", "translator"},
    {"mon_serial", "devices"},
};

static const char *kind_of_function(const char *name) {
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        if (!strncmp(name, kinds[i].function, strlen(kinds[i].function)))
            return kinds[i].kind;
    return NULL;
}

static const char *kind_of(const struct mon_profile *p, const struct profile_sample *s) {
    char text[200];
    bool stubs = false; /* a translated frame with something on top */
    for (u32 i = 0; i < s->frames; i++) {
        if (s->frame[i] & PROFILE_GUEST)
            return i == 0 ? "translated" : stubs ? "callout" : "translated";
        const char *kind = kind_of_function(host_name(p, s->frame[i], text, sizeof text));
        if (kind)
            return kind;
        stubs = true;
    }
    return "monitor";
}

/* Root first: the kind of work, the guest's function, then the monitor's from the outside in. */
static void fold(const struct mon_profile *p, const struct profile_sample *s, struct line *l) {
    char text[200];
    u32 guest = 0;
    while (guest < s->frames && !(s->frame[guest] & PROFILE_GUEST))
        guest++;
    l->used = 0;
    put(l, kind_of(p, s));
    if (guest < s->frames) {
        put_guest(p, l, (u32)s->frame[guest], s->frame[guest] & PROFILE_USER);
    } else {
        put_guest(p, l, s->eip, s->user);
        guest = s->frames;
    }
    u32 outermost = guest; /* what lies around the run loop is always the same */
    for (u32 i = 0; i < guest; i++)
        if (!strcmp(host_name(p, s->frame[i], text, sizeof text), "mon_vm_run"))
            outermost = i;
    for (u32 i = outermost; i-- > 0;)
        put(l, host_name(p, s->frame[i], text, sizeof text));
}

/* ---- writing ---- */

struct folded {
    char *text;
    u64 count;
};
static int by_text(const void *a, const void *b) {
    return strcmp(((const struct folded *)a)->text, ((const struct folded *)b)->text);
}

static void print_sums(FILE *f, struct folded *row, u32 rows) {
    qsort(row, rows, sizeof *row, by_text);
    for (u32 i = 0; i < rows;) {
        u64 count = 0;
        u32 first = i;
        for (; i < rows && !strcmp(row[i].text, row[first].text); i++)
            count += row[i].count;
        fprintf(f, "%s %llu\n", row[first].text, (unsigned long long)count);
    }
}

bool mon_profile_write(struct mon_profile *p, struct mon_error *err) {
    static struct line line;
    mon_profile_drain(p);
    struct folded *row = calloc(p->stacks + 1u, sizeof *row);
    u32 rows = 0;
    for (u32 i = 0; row && i < TABLE; i++) {
        if (!p->table[i].count)
            continue;
        fold(p, &p->table[i].sample, &line);
        row[rows].text = strdup(line.text);
        row[rows].count = p->table[i].count;
        rows += row[rows].text != NULL;
    }
    bool good = row && rows == p->stacks;
    if (good)
        print_sums(p->file, row, rows);
    for (u32 i = 0; i < rows; i++)
        free(row[i].text);
    free(row);
    if (p->lost + p->others)
        fprintf(p->file, "not_kept %llu\n", (unsigned long long)(p->lost + p->others));
    good = good && !fflush(p->file) && !ferror(p->file);
    return good || mon_fail(err, "-profile: could not write '%s': %s", p->path, strerror(errno));
}
