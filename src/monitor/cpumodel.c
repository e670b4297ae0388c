/*
 * cpumodel.c: which CPU the guest sees. A model is a row: name, signature, features, caches; a
 * feature is a row: name, CPUID word, bit; what cannot be had without something else is a row, too.
 * What the host lacks and hardware must execute is taken away; what -cpu's +feat and -feat say is
 * added or removed last.
 *
 * The default is a part that Linux knows to have no speculation bugs (Atom "Bonnell", family 6
 * model 1Ch, stepping 10, past the large-page erratum), with the instruction sets the translator
 * runs at full speed. Source: SDM volume 2, CPUID, tables 3-8 to 3-12.
 */
#include "monitor/outside.h"

#include <cpuid.h>
#include <stdio.h>

enum feature_word { W_1_EDX, W_1_ECX, W_X1_EDX, W_X1_ECX, W_7_EBX, W_COUNT };

/* host: the instruction runs on the host, so the host must have it too. */
struct feature {
    const char *name;
    u8 word, bit;
    bool host;
};
/* Of several names the first is the one that is told. */
static const struct feature features[] = {
    {"fpu", W_1_EDX, 0, true},
    {"vme", W_1_EDX, 1, false},
    {"de", W_1_EDX, 2, false},
    {"pse", W_1_EDX, 3, false},
    {"tsc", W_1_EDX, 4, false},
    {"msr", W_1_EDX, 5, false},
    {"pae", W_1_EDX, 6, false},
    {"mce", W_1_EDX, 7, false},
    {"cx8", W_1_EDX, 8, true},
    {"apic", W_1_EDX, 9, false},
    {"sep", W_1_EDX, 11, false},
    {"mtrr", W_1_EDX, 12, false},
    {"pge", W_1_EDX, 13, false},
    {"mca", W_1_EDX, 14, false},
    {"cmov", W_1_EDX, 15, true},
    {"pat", W_1_EDX, 16, false},
    {"pse36", W_1_EDX, 17, false},
    {"clflush", W_1_EDX, 19, true},
    {"mmx", W_1_EDX, 23, true},
    {"fxsr", W_1_EDX, 24, true},
    {"sse", W_1_EDX, 25, true},
    {"sse2", W_1_EDX, 26, true},
    {"sse3", W_1_ECX, 0, true},
    {"pni", W_1_ECX, 0, true},
    {"pclmulqdq", W_1_ECX, 1, true},
    {"ssse3", W_1_ECX, 9, true},
    {"sse4.1", W_1_ECX, 19, true},
    {"sse4_1", W_1_ECX, 19, true},
    {"sse4.2", W_1_ECX, 20, true},
    {"sse4_2", W_1_ECX, 20, true},
    {"x2apic", W_1_ECX, 21, false},
    {"movbe", W_1_ECX, 22, true},
    {"popcnt", W_1_ECX, 23, true},
    {"tsc-deadline", W_1_ECX, 24, false},
    {"tsc_deadline", W_1_ECX, 24, false},
    {"aes", W_1_ECX, 25, true},
    {"rdrand", W_1_ECX, 30, true}, /* or any other source of random numbers: mon_host_cpu */
    {"hypervisor", W_1_ECX, 31, false},
    {"nx", W_X1_EDX, 20, false},
    {"rdtscp", W_X1_EDX, 27, false},
    {"lzcnt", W_X1_ECX, 5, true},
    {"abm", W_X1_ECX, 5, true},
    {"3dnowprefetch", W_X1_ECX, 8, false},
    {"smep", W_7_EBX, 7, false},
    {"rdseed", W_7_EBX, 18, true},
    {"adx", W_7_EBX, 19, false},
    {"smap", W_7_EBX, 20, false},
    {"clflushopt", W_7_EBX, 23, false},
    {"clwb", W_7_EBX, 24, false},
    {"sha-ni", W_7_EBX, 29, true},
    {"sha_ni", W_7_EBX, 29, true},
};

/* The first cannot be had without the second. A row that takes something away comes before those
 * that ask for it. */
static const char *const needs[][2] = {
    {"mmx", "fpu"},       {"fxsr", "fpu"},
    {"sse", "fxsr"},      {"sse", "mmx"},
    {"sse2", "sse"},      {"sse3", "sse2"},
    {"ssse3", "sse3"},    {"sse4.1", "ssse3"},
    {"sse4.2", "sse4.1"}, {"pclmulqdq", "sse2"},
    {"aes", "sse2"},      {"sha-ni", "ssse3"},
    {"nx", "pae"},        {"nx", "msr"},
    {"pse36", "pse"},     {"mca", "mce"},
    {"mca", "msr"},       {"mtrr", "msr"},
    {"pat", "msr"},       {"sep", "msr"},
    {"apic", "msr"},      {"x2apic", "apic"},
    {"rdtscp", "tsc"},    {"tsc-deadline", "tsc"},
    {"rdtscp", "msr"},    {"tsc-deadline", "apic"},
    {"clwb", "clflush"},  {"clflushopt", "clflush"},
};

/* Feature sets, as CPUID words. */
#define EDX_486 (BIT(0))
#define EDX_P5 (EDX_486 | BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(7) | BIT(8) | BIT(9))
#define EDX_PPRO                                                                                   \
    (EDX_P5 | BIT(6) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(16) | BIT(17))
#define EDX_P3 (EDX_PPRO | BIT(23) | BIT(24) | BIT(25))
#define EDX_SSE2 (EDX_P3 | BIT(19) | BIT(26))
#define ECX_HYPERVISOR BIT(31)
#define ECX_CORE2 (BIT(0) | BIT(9) | ECX_HYPERVISOR)
#define ECX_DEFAULT (ECX_CORE2 | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23) | BIT(24))
#define ECX_MAX (ECX_DEFAULT | BIT(1) | BIT(25) | BIT(30))
#define X1_NX BIT(20)
#define X1_RDTSCP BIT(27)
#define X1_ECX_MAX (BIT(5) | BIT(8))
#define EBX7_SMEP BIT(7)
#define EBX7_SMAP BIT(20)
#define EBX7_MAX (EBX7_SMEP | BIT(18) | BIT(19) | EBX7_SMAP | BIT(23) | BIT(24))
#define F1_EDX_APIC BIT(9)

/* A cache of 64-byte lines; ways 0: none. */
struct cache {
    u16 ways, sets;
};
/* Leaf 2's descriptors (FFh: see leaf 4), and leaf 4. */
struct caches {
    u32 descriptors[4];
    struct cache l1d, l1i, l2;
};
static const struct caches caches_p3 = {.descriptors = {0x03020101, 0, 0, 0x0c040843}};
static const struct caches caches_core2 = {
    .descriptors = {0x05b0b101, 0x005657f0, 0, 0x2cb43049}, {8, 64}, {8, 64}, {16, 4096}};
static const struct caches caches_small = {
    .descriptors = {0x0000ff01}, {8, 64}, {8, 64}, {8, 1024}};

struct model {
    const char *name, *help;
    u32 signature; /* leaf 1 EAX, and EDX after reset */
    u32 max_basic;
    u32 word[W_COUNT];
    const struct caches *caches;
    const char *brand; /* NULL: no extended leaves either */
    bool tells_tsc;    /* leaves 15h, 16h: the TSC is invariant and its frequency known */
    bool adapts;       /* "what the host has": nothing is missed when it is dropped */
};
static const struct model models[] = {
    {"default",
     "Ringfold's CPU: an Atom with what runs best (also: base, host, qemu32)",
     0x106ca,
     0x16,
     {EDX_SSE2, ECX_DEFAULT, X1_NX, 0, 0},
     &caches_small,
     "Ringfold virtual CPU",
     true,
     true},
    {"max",
     "The same with all that is implemented and the host has",
     0x106ca,
     0x16,
     {EDX_SSE2, ECX_MAX, X1_NX | X1_RDTSCP, X1_ECX_MAX, EBX7_MAX},
     &caches_small,
     "Ringfold virtual CPU",
     true,
     true},
    {"486", "Intel 486 DX4, with CPUID", 0x480, 1, {EDX_486}, NULL, NULL, false, false},
    {"pentium", "Intel Pentium", 0x52c, 1, {EDX_P5}, NULL, NULL, false, false},
    {"pentium3",
     "Intel Pentium III",
     0x673,
     2,
     {EDX_P3, ECX_HYPERVISOR},
     &caches_p3,
     NULL,
     false,
     false},
    {"core2",
     "Intel Core 2 Duo (alias: core2duo), 32-bit only",
     0x6fb,
     10,
     {EDX_SSE2, ECX_CORE2, X1_NX},
     &caches_core2,
     "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
     false,
     false},
};
static const char *const aliases[][2] = {
    {"base", "default"},  {"host", "default"},   {"qemu32", "default"}, {"qemu64", "default"},
    {"kvm32", "default"}, {"core2duo", "core2"}, {"n270", "default"},
};

static const struct model *find_model(const char *name, size_t chars) {
    for (unsigned i = 0; i < ARRAY_LEN(aliases); i++)
        if (strlen(aliases[i][0]) == chars && !strncmp(name, aliases[i][0], chars)) {
            name = aliases[i][1];
            chars = strlen(name);
        }
    for (unsigned i = 0; i < ARRAY_LEN(models); i++)
        if (strlen(models[i].name) == chars && !strncmp(name, models[i].name, chars))
            return &models[i];
    return NULL;
}

static const struct feature *find_feature(const char *name, size_t chars) {
    for (unsigned i = 0; i < ARRAY_LEN(features); i++)
        if (strlen(features[i].name) == chars && !strncmp(name, features[i].name, chars))
            return &features[i];
    return NULL;
}

static bool has(const u32 word[W_COUNT], const struct feature *f) {
    return word[f->word] >> f->bit & 1;
}

void mon_cpu_help(void) {
    mon_print("Available CPUs:\n");
    for (unsigned i = 0; i < ARRAY_LEN(models); i++)
        mon_print("x86 %-20s %s\n", models[i].name, models[i].help);
    mon_print("\nRecognized CPUID flags:\n ");
    for (unsigned i = 0; i < ARRAY_LEN(features); i++)
        mon_print(" %s", features[i].name);
    mon_print("\n");
}

/* ---- The host ---- */

#define F1_ECX_RDRAND BIT(30)
#define F7_EBX_RDSEED BIT(18)

void mon_host_cpu(struct mon_host_cpu *out) {
    unsigned a, b, c, d;
    u64 random;
    memset(out, 0, sizeof *out);
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        out->f1_edx = d;
        out->f1_ecx = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        out->f7_ebx = b;
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d))
        out->x1_ecx = c;
    /* RDRAND and RDSEED are emulated wherever random numbers are to be had. */
    bool has_random = mon_host_random(&random);
    out->f1_ecx = (out->f1_ecx & ~F1_ECX_RDRAND) | (has_random ? F1_ECX_RDRAND : 0);
    out->f7_ebx = (out->f7_ebx & ~F7_EBX_RDSEED) | (has_random ? F7_EBX_RDSEED : 0);
    mon_host_tsc(out);
}

/* ---- Leaves ---- */

static struct cpuid_leaf *add_leaf(struct cpu_model *m, u32 leaf, u32 subleaf) {
    RF_ASSERT(m->count < ARRAY_LEN(m->leaf));
    struct cpuid_leaf *l = &m->leaf[m->count++];
    *l = (struct cpuid_leaf){.leaf = leaf, .subleaf = subleaf};
    return l;
}

static void add_values(struct cpu_model *m, u32 leaf, u32 subleaf, u32 eax, u32 ebx, u32 ecx,
                       u32 edx) {
    struct cpuid_leaf *l = add_leaf(m, leaf, subleaf);
    l->eax = eax;
    l->ebx = ebx;
    l->ecx = ecx;
    l->edx = edx;
}

static void add_brand(struct cpu_model *m, const char *brand) {
    char text[48] = {0};
    strncpy(text, brand, sizeof text - 1);
    for (u32 i = 0; i < 3; i++)
        add_values(m, 0x80000002u + i, 0, load32(text + i * 16), load32(text + i * 16 + 4),
                   load32(text + i * 16 + 8), load32(text + i * 16 + 12));
}

enum { CACHE_DATA = 1, CACHE_CODE = 2, CACHE_UNIFIED = 3 };
#define LINE_BYTES 64u

/* Leaf 4: self-initializing, one thread, one core; WBINVD reaches no other. */
static void add_cache(struct cpu_model *m, u32 subleaf, u32 type, u32 level,
                      const struct cache *c) {
    add_values(m, 4, subleaf, type | level << 5 | BIT(8),
               (LINE_BYTES - 1) | (u32)(c->ways - 1) << 22, c->sets - 1u, 1);
}

static void add_caches(struct cpu_model *m, const struct caches *c) {
    if (m->max_basic >= 2)
        add_values(m, 2, 0, c->descriptors[0], c->descriptors[1], c->descriptors[2],
                   c->descriptors[3]);
    if (m->max_basic < 4 || !c->l1d.ways)
        return;
    add_cache(m, 0, CACHE_DATA, 1, &c->l1d);
    add_cache(m, 1, CACHE_CODE, 1, &c->l1i);
    add_cache(m, 2, CACHE_UNIFIED, 2, &c->l2);
}

/* Leaf 80000006h: the L2 cache again. */
static u32 l2_word(const struct cache *c) {
    u32 kib = c->ways * c->sets * LINE_BYTES / 1024, associativity = c->ways == 16 ? 8 : 6;
    return kib << 16 | associativity << 12 | LINE_BYTES;
}

/* A crystal that does not fit into leaf 15h's register is a fraction of the TSC's frequency. */
#define CRYSTAL_DIVISOR 4
static u64 crystal_hz(u64 tsc_hz) {
    return tsc_hz > 0xffffffffu ? tsc_hz / CRYSTAL_DIVISOR : tsc_hz;
}

/* Core crystal clock = the TSC itself, ratio 1; base frequency in MHz. Linux takes leaf 15h as the
 * known TSC frequency and skips calibration. */
static void add_tsc(struct cpu_model *m) {
    u32 ratio = m->crystal_hz == m->tsc_hz ? 1 : CRYSTAL_DIVISOR;
    add_values(m, 0x15, 0, 1, ratio, (u32)m->crystal_hz, 0);
    u32 mhz = (u32)(m->tsc_hz / 1000000);
    add_values(m, 0x16, 0, mhz, mhz, 100, 0);
}

static void add_extended(struct cpu_model *m, const struct model *row) {
    const struct feature *pae = find_feature("pae", 3), *pse36 = find_feature("pse36", 5);
    const u32 word[W_COUNT] = {m->f1_edx};
    u32 physical_bits = has(word, pae) || has(word, pse36) ? 36 : 32;
    m->max_extended = row->brand ? 0x80000008u : 0x80000001u;
    add_values(m, 0x80000000u, 0, m->max_extended, 0, 0, 0);
    add_values(m, 0x80000001u, 0, 0, 0, m->x1_ecx, m->x1_edx);
    if (!row->brand)
        return;
    add_brand(m, row->brand);
    add_values(m, 0x80000006u, 0, 0, 0, l2_word(&row->caches->l2), 0);
    add_values(m, 0x80000007u, 0, 0, 0, 0, row->tells_tsc ? BIT(8) : 0);
    add_values(m, 0x80000008u, 0, 32u << 8 | physical_bits, 0, 0, 0);
}

static void fill_leaves(struct cpu_model *m, const struct model *row) {
    static const char vendor[] = "GenuineIntel", hypervisor[] = "RingfoldVMM\0";
    /* A feature that was added may need more leaves than the CPU had. */
    m->max_basic = m->f7_ebx ? MAX(row->max_basic, 7u) : row->max_basic;
    add_values(m, 0, 0, m->max_basic, load32(vendor), load32(vendor + 8), load32(vendor + 4));
    u32 ebx = (m->f1_edx & BIT(19)) ? LINE_BYTES / 8 << 8 : 0; /* CLFLUSH line in quadwords */
    if (m->f1_edx & F1_EDX_APIC)
        ebx |= 1u << 16; /* one logical processor, whose APIC ID is 0 */
    add_values(m, 1, 0, row->signature, ebx, m->f1_ecx, m->f1_edx);
    if (row->caches)
        add_caches(m, row->caches);
    if (row->max_basic >= 0x16 && (m->f1_edx & F1_EDX_APIC))
        add_values(m, 6, 0, BIT(2), 0, 0, 0); /* ARAT: the APIC timer runs in every C-state */
    if (m->f7_ebx)
        add_values(m, 7, 0, 0, m->f7_ebx, 0, 0);
    if (row->tells_tsc && (m->f1_edx & BIT(4)))
        add_tsc(m);
    if (row->brand || m->x1_edx || m->x1_ecx)
        add_extended(m, row);
    if (m->f1_ecx & ECX_HYPERVISOR) {
        m->max_hypervisor = 0x40000000u;
        add_values(m, 0x40000000u, 0, m->max_hypervisor, load32(hypervisor), load32(hypervisor + 4),
                   load32(hypervisor + 8));
    }
}

static u32 allowed_cr4(const struct cpu_model *m) {
    u32 cr4 = 0;
    cr4 |= (m->f1_edx & BIT(1)) ? CR4_VME | CR4_PVI : 0;
    cr4 |= (m->f1_edx & BIT(2)) ? CR4_DE : 0;
    cr4 |= (m->f1_edx & BIT(3)) ? CR4_PSE : 0;
    cr4 |= (m->f1_edx & BIT(4)) ? CR4_TSD : 0;
    cr4 |= (m->f1_edx & BIT(6)) ? CR4_PAE : 0;
    cr4 |= (m->f1_edx & BIT(7)) ? CR4_MCE : 0;
    cr4 |= (m->f1_edx & BIT(13)) ? CR4_PGE : 0;
    cr4 |= (m->f1_edx & BIT(24)) ? CR4_OSFXSR : 0;
    cr4 |= (m->f1_edx & BIT(25)) ? CR4_OSXMMEXCPT : 0;
    cr4 |= cpu_model_has_rdpmc(m) ? CR4_PCE : 0;
    cr4 |= (m->f7_ebx & EBX7_SMEP) ? CR4_SMEP : 0;
    cr4 |= (m->f7_ebx & EBX7_SMAP) ? CR4_SMAP : 0;
    return cr4;
}

/* ---- The list after the model's name ---- */

struct selection {
    const struct mon_host_cpu *host;
    u32 word[W_COUNT];
    u32 asked[W_COUNT]; /* by +feat */
};

static bool host_has(const struct mon_host_cpu *host, const struct feature *f) {
    const u32 word[W_COUNT] = {[W_1_EDX] = host->f1_edx,
                               [W_1_ECX] = host->f1_ecx,
                               [W_X1_ECX] = host->x1_ecx,
                               [W_7_EBX] = host->f7_ebx};
    return !f->host || has(word, f);
}

/* Appends a name to a list that is cut off where it does not fit. */
static void list_name(char *list, size_t bytes, const char *name) {
    size_t used = strlen(list);
    snprintf(list + used, bytes - used, " %s", name);
}

/* Takes away what the host must execute and cannot. */
static void drop_what_the_host_lacks(struct selection *s, const struct model *row) {
    char missing[200] = "";
    for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
        const struct feature *f = &features[i];
        if (!has(s->word, f) || host_has(s->host, f))
            continue;
        s->word[f->word] &= ~BIT(f->bit);
        list_name(missing, sizeof missing, f->name);
    }
    if (missing[0] && !row->adapts)
        log_warn("-cpu %s: the host CPU lacks these features, so the guest's does:%s", row->name,
                 missing);
}

/* A feature cannot be had without what it builds on. False: one was asked for that way. */
static bool drop_dependents(struct selection *s, struct mon_error *err) {
    for (unsigned i = 0; i < ARRAY_LEN(needs); i++) {
        const struct feature *f = find_feature(needs[i][0], strlen(needs[i][0]));
        const struct feature *base = find_feature(needs[i][1], strlen(needs[i][1]));
        if (!has(s->word, f) || has(s->word, base))
            continue;
        s->word[f->word] &= ~BIT(f->bit);
        if (has(s->asked, f))
            return mon_fail(err, "-cpu: '%s' needs '%s', which this CPU does not have", f->name,
                            base->name);
    }
    return true;
}

/* One item: +feat, -feat, feat, feat=on|off. */
static bool apply_item(struct selection *s, const char *item, size_t chars, struct mon_error *err) {
    bool add = item[0] != '-';
    const char *name = item + (item[0] == '+' || item[0] == '-');
    size_t name_chars = chars - (size_t)(name - item);
    const char *equals = memchr(name, '=', name_chars);
    if (equals) {
        size_t value = (size_t)(item + chars - equals) - 1;
        add = value == 2 && !strncmp(equals + 1, "on", 2);
        if (!add && !(value == 3 && !strncmp(equals + 1, "off", 3)))
            return mon_fail(err, "-cpu: '%.*s': the value must be on or off", (int)chars, item);
        name_chars = (size_t)(equals - name);
    }
    const struct feature *f = find_feature(name, name_chars);
    if (!f) {
        if (!add) /* not there anyway */
            return true;
        return mon_fail(err, "-cpu: the feature '%.*s' is not available", (int)name_chars, name);
    }
    if (add && !host_has(s->host, f))
        return mon_fail(err, "-cpu: this host does not have '%s'", f->name);
    s->word[f->word] &= ~BIT(f->bit);
    s->asked[f->word] &= ~BIT(f->bit);
    if (add) {
        s->word[f->word] |= BIT(f->bit);
        s->asked[f->word] |= BIT(f->bit);
    }
    return true;
}

bool mon_cpu_model(const char *spec, const struct mon_host_cpu *host, u64 tsc_hz,
                   struct cpu_model *out, struct mon_error *err) {
    if (!spec)
        spec = "default";
    size_t chars = strcspn(spec, ",");
    const struct model *row = find_model(spec, chars);
    if (!row)
        return mon_fail(err, "unable to find CPU model '%.*s' (-cpu help lists them)", (int)chars,
                        spec);
    struct selection s = {.host = host};
    memcpy(s.word, row->word, sizeof s.word);
    drop_what_the_host_lacks(&s, row);
    for (const char *p = spec + chars; *p == ',';) {
        size_t n = strcspn(++p, ",");
        if (n && !apply_item(&s, p, n, err))
            return false;
        p += n;
    }
    if (!drop_dependents(&s, err))
        return false;
    memset(out, 0, sizeof *out);
    out->signature = row->signature;
    out->f1_edx = s.word[W_1_EDX];
    out->f1_ecx = s.word[W_1_ECX];
    out->x1_edx = s.word[W_X1_EDX];
    out->x1_ecx = s.word[W_X1_ECX];
    out->f7_ebx = s.word[W_7_EBX];
    out->has_nx = out->x1_edx & X1_NX;
    out->tsc_hz = tsc_hz;
    out->crystal_hz = crystal_hz(tsc_hz);
    out->cr4_allowed = allowed_cr4(out);
    fill_leaves(out, row);
    return true;
}

bool mon_cpu_has(const struct cpu_model *model, const char *feature) {
    const struct feature *f = find_feature(feature, strlen(feature));
    const u32 word[W_COUNT] = {model->f1_edx, model->f1_ecx, model->x1_edx, model->x1_ecx,
                               model->f7_ebx};
    return f && has(word, f);
}
