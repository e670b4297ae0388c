/*
 * cpumodel.c: which CPU the guest sees. A model is a row: name, signature, features; a feature is a
 * row: name, CPUID word, bit. What the host lacks and hardware must execute is taken away; what
 * -cpu's +feat and -feat say is added or removed last.
 *
 * The default is a part that Linux knows to have no speculation bugs (Atom "Bonnell", family 6
 * model 1Ch, stepping 10, past the large-page erratum), with the instruction sets the translator
 * runs at full speed. Source: SDM volume 2, CPUID, tables 3-8 to 3-11.
 */
#include "monitor/outside.h"

#include <cpuid.h>

enum feature_word { W_1_EDX, W_1_ECX, W_X1_EDX, W_X1_ECX, W_7_EBX, W_COUNT };

/* host: the instruction runs on the host, so the host must have it too. */
struct feature {
    const char *name;
    u8 word, bit;
    bool host;
};
static const struct feature features[] = {
    {"fpu", W_1_EDX, 0, true},
    {"de", W_1_EDX, 2, false},
    {"pse", W_1_EDX, 3, false},
    {"tsc", W_1_EDX, 4, false},
    {"msr", W_1_EDX, 5, false},
    {"pae", W_1_EDX, 6, false},
    {"cx8", W_1_EDX, 8, true},
    {"sep", W_1_EDX, 11, false},
    {"mtrr", W_1_EDX, 12, false},
    {"pge", W_1_EDX, 13, false},
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
    {"ssse3", W_1_ECX, 9, true},
    {"sse4.1", W_1_ECX, 19, true},
    {"sse4_1", W_1_ECX, 19, true},
    {"sse4.2", W_1_ECX, 20, true},
    {"sse4_2", W_1_ECX, 20, true},
    {"apic", W_1_EDX, 9, false},
    {"x2apic", W_1_ECX, 21, false},
    {"tsc-deadline", W_1_ECX, 24, false},
    {"tsc_deadline", W_1_ECX, 24, false},
    {"movbe", W_1_ECX, 22, true},
    {"popcnt", W_1_ECX, 23, true},
    {"hypervisor", W_1_ECX, 31, false},
    {"nx", W_X1_EDX, 20, false},
    {"smep", W_7_EBX, 7, false},
    {"smap", W_7_EBX, 20, false},
};

/* Feature sets, as CPUID words. */
#define EDX_486 (BIT(0))
#define EDX_P5 (EDX_486 | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(8) | BIT(9))
#define EDX_PPRO (EDX_P5 | BIT(6) | BIT(11) | BIT(12) | BIT(13) | BIT(15) | BIT(16))
#define EDX_P3 (EDX_PPRO | BIT(23) | BIT(24) | BIT(25))
#define EDX_SSE2 (EDX_P3 | BIT(19) | BIT(26))
#define EDX_PSE36 BIT(17)
#define ECX_CORE2 (BIT(0) | BIT(9))
#define ECX_ALL (ECX_CORE2 | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23) | BIT(24) | BIT(31))
#define X1_NX BIT(20)
#define EBX7_SMEP BIT(7)
#define EBX7_SMAP BIT(20)
#define F1_EDX_APIC BIT(9)

struct model {
    const char *name, *help;
    u32 signature;
    u32 max_basic;
    u32 word[W_COUNT];
    const char *brand;
};
static const struct model models[] = {
    {"default",
     "Ringfold's CPU: what runs best (also: base, host, qemu32)",
     0x106ca,
     0x16,
     {EDX_SSE2, ECX_ALL, X1_NX, 0},
     "Ringfold virtual CPU"},
    {"max",
     "The same with all that is implemented",
     0x106ca,
     0x16,
     {EDX_SSE2 | EDX_PSE36, ECX_ALL, X1_NX, 0, EBX7_SMEP | EBX7_SMAP},
     "Ringfold virtual CPU"},
    {"486", "Intel 486 DX", 0x480, 1, {EDX_486, 0, 0, 0}, NULL},
    {"pentium", "Intel Pentium", 0x543, 1, {EDX_P5, 0, 0, 0}, NULL},
    {"pentium3", "Intel Pentium III", 0x673, 2, {EDX_P3, 0, 0, 0}, NULL},
    {"core2",
     "Intel Core 2 Duo (alias: core2duo), 32-bit only",
     0x6fb,
     10,
     {EDX_SSE2, ECX_CORE2, X1_NX, 0},
     "Intel(R) Core(TM)2 Duo CPU"},
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

void mon_host_cpu(struct mon_host_cpu *out) {
    unsigned a, b, c, d;
    memset(out, 0, sizeof *out);
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        out->f1_edx = d;
        out->f1_ecx = c;
    }
    mon_host_tsc(out);
}

/* ---- Building the policy ---- */

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

/* Deterministic cache parameters: 32 KiB L1s, 512 KiB L2, 64-byte lines. */
static void add_caches(struct cpu_model *m) {
    add_values(m, 4, 0, 0x121, 0x01c0003f, 63, 1);
    add_values(m, 4, 1, 0x122, 0x01c0003f, 63, 1);
    add_values(m, 4, 2, 0x143, 0x01c0003f, 1023, 1);
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

static void fill_leaves(struct cpu_model *m, const struct model *row) {
    static const char vendor[] = "GenuineIntel", hypervisor[] = "RingfoldVMM\0";
    add_values(m, 0, 0, row->max_basic, load32(vendor), load32(vendor + 8), load32(vendor + 4));
    u32 ebx = (m->f1_edx & BIT(19)) ? 8u << 8 : 0; /* CLFLUSH line: 8 quadwords */
    if (m->f1_edx & F1_EDX_APIC)
        ebx |= 1u << 16; /* one logical processor, whose APIC ID is 0 */
    add_values(m, 1, 0, row->signature, ebx, m->f1_ecx, m->f1_edx);
    m->max_basic = row->max_basic;
    if (row->max_basic >= 2)
        add_values(m, 2, 0, 0x00000001, 0, 0, 0x0000002c);
    if (row->max_basic >= 4)
        add_caches(m);
    if (row->max_basic >= 6 && (m->f1_edx & F1_EDX_APIC))
        add_values(m, 6, 0, BIT(2), 0, 0, 0); /* ARAT: the APIC timer runs in every C-state */
    if (m->f7_ebx)
        add_values(m, 7, 0, 0, m->f7_ebx, 0, 0);
    if (row->max_basic >= 0x16 && (m->f1_edx & BIT(4)))
        add_tsc(m);
    if (row->brand) {
        m->max_extended = 0x80000008u;
        add_values(m, 0x80000000u, 0, m->max_extended, 0, 0, 0);
        add_values(m, 0x80000001u, 0, 0, 0, m->x1_ecx, m->x1_edx);
        add_brand(m, row->brand);
        u32 invariant = row->max_basic >= 0x16 ? BIT(8) : 0;
        add_values(m, 0x80000007u, 0, 0, 0, 0, invariant);
        add_values(m, 0x80000008u, 0, (m->f1_edx & BIT(6)) ? 0x2024 : 0x2020, 0, 0, 0);
    }
    if (m->f1_ecx & BIT(31)) {
        m->max_hypervisor = 0x40000000u;
        add_values(m, 0x40000000u, 0, m->max_hypervisor, load32(hypervisor), load32(hypervisor + 4),
                   load32(hypervisor + 8));
    }
}

static u32 allowed_cr4(const struct cpu_model *m) {
    u32 cr4 = 0;
    cr4 |= (m->f1_edx & BIT(2)) ? CR4_DE : 0;
    cr4 |= (m->f1_edx & BIT(3)) ? CR4_PSE : 0;
    cr4 |= (m->f1_edx & BIT(4)) ? CR4_TSD : 0;
    cr4 |= (m->f1_edx & BIT(6)) ? CR4_PAE : 0;
    cr4 |= (m->f1_edx & BIT(13)) ? CR4_PGE : 0;
    cr4 |= (m->f1_edx & BIT(24)) ? CR4_OSFXSR : 0;
    cr4 |= (m->f1_edx & BIT(25)) ? CR4_OSXMMEXCPT : 0;
    if (m->f1_edx & BIT(5))
        cr4 |= CR4_PCE;
    cr4 |= (m->f7_ebx & EBX7_SMEP) ? CR4_SMEP : 0;
    cr4 |= (m->f7_ebx & EBX7_SMAP) ? CR4_SMAP : 0;
    return cr4;
}

/* A feature cannot be had without what it builds on. */
static void drop_dependents(u32 word[W_COUNT], u32 max_basic) {
    if (!(word[W_1_EDX] & BIT(0)))
        word[W_1_EDX] &= ~(BIT(23) | BIT(24));
    if (!(word[W_1_EDX] & BIT(24)))
        word[W_1_EDX] &= ~BIT(25);
    if (!(word[W_1_EDX] & BIT(25)))
        word[W_1_EDX] &= ~BIT(26);
    if (!(word[W_1_EDX] & BIT(26)))
        word[W_1_ECX] &= ~(BIT(0) | BIT(9) | BIT(19) | BIT(20));
    if (!(word[W_1_EDX] & BIT(3)))
        word[W_1_EDX] &= ~EDX_PSE36;
    if (!(word[W_1_EDX] & BIT(6)))
        word[W_X1_EDX] &= ~BIT(20);
    if (!(word[W_1_EDX] & F1_EDX_APIC))
        word[W_1_ECX] &= ~(BIT(21) | BIT(24));
    if (!(word[W_1_EDX] & BIT(4)))
        word[W_1_ECX] &= ~BIT(24);
    if (max_basic < 7)
        word[W_7_EBX] = 0;
}

/* One item of the list after the model's name: +feat, -feat, feat, feat=on|off. */
static bool apply_item(const char *item, size_t chars, const struct mon_host_cpu *host,
                       u32 word[W_COUNT], struct mon_error *err) {
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
    const u32 host_words[W_COUNT] = {host->f1_edx, host->f1_ecx, 0, 0, 0};
    if (add && f->host && !(host_words[f->word] & BIT(f->bit)))
        return mon_fail(err, "-cpu: this host does not have '%s'", f->name);
    if (add)
        word[f->word] |= BIT(f->bit);
    else
        word[f->word] &= ~BIT(f->bit);
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
    u32 word[W_COUNT];
    memcpy(word, row->word, sizeof word);
    for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
        const struct feature *f = &features[i];
        u32 have = f->word == W_1_EDX ? host->f1_edx : host->f1_ecx;
        if (f->host && !(have & BIT(f->bit)))
            word[f->word] &= ~BIT(f->bit);
    }
    for (const char *p = spec + chars; *p == ',';) {
        size_t n = strcspn(++p, ",");
        if (n && !apply_item(p, n, host, word, err))
            return false;
        p += n;
    }
    drop_dependents(word, row->max_basic);
    memset(out, 0, sizeof *out);
    out->f1_edx = word[W_1_EDX];
    out->f1_ecx = word[W_1_ECX];
    out->x1_edx = word[W_X1_EDX];
    out->x1_ecx = word[W_X1_ECX];
    out->f7_ebx = word[W_7_EBX];
    out->has_nx = out->x1_edx & X1_NX;
    out->tsc_hz = tsc_hz;
    out->crystal_hz = crystal_hz(tsc_hz);
    out->cr4_allowed = allowed_cr4(out);
    fill_leaves(out, row);
    return true;
}

bool mon_cpu_has(const struct cpu_model *model, const char *feature) {
    const struct feature *f = find_feature(feature, strlen(feature));
    if (!f)
        return false;
    const u32 word[W_COUNT] = {model->f1_edx, model->f1_ecx, model->x1_edx, model->x1_ecx,
                               model->f7_ebx};
    return word[f->word] & BIT(f->bit);
}
