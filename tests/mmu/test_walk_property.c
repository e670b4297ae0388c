/*
 * test_walk_property.c: the walker and the software accesses against a model written from the
 * manual's tables alone. Random page tables, modes, CPU models and accesses; compared are the
 * outcome, the address, the error code, the data, and every A and D bit: the model works on a copy
 * of guest memory, which must stay the same as the real one. SDM volume 3, sections 4.3 "32-Bit
 * Paging", 4.4 "PAE Paging", 4.6.1 "Determination of Access Rights", 4.7 "Page-Fault Exceptions",
 * 4.8 "Accessed and Dirty Flags".
 */
#include "mmu_fixture.h"

#define RAM_BYTES (1u << 20)
#define TABLES 0x10000u /* eight pages that serve as tables of every level, and as data */
#define TABLES_END 0x18000u
#define POINTERS 0x18000u /* the four PDPTEs */
#define SCENES 50000
#define WALKS_PER_SCENE 20
#define ACCESSES_PER_SCENE 8

static struct fixture *f;
static struct cpu_model model;
static u8 copy[RAM_BYTES]; /* the model's memory */
static _Alignas(8) u8 rom[2 * PAGE_BYTES];
static u64 pointers[4]; /* the model's cached PDPTEs */

static u64 rng_state = 88172645463325252ull;
static u64 rng64(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    return rng_state ^= rng_state << 17;
}
static u32 rng(u32 n) {
    return (u32)((rng64() >> 11) % n);
}
static bool one_in(u32 n) {
    return rng(n) == 0;
}

/* How often each thing happened: a test that never meets a case proves nothing about it. */
enum seen {
    SEEN_OK,
    SEEN_NOT_PRESENT,
    SEEN_RESERVED,
    SEEN_USER_DENIED,
    SEEN_WRITE_DENIED,
    SEEN_NX,
    SEEN_SMEP,
    SEEN_SMAP,
    SEEN_SMAP_OPEN,
    SEEN_WP_OFF,
    SEEN_LARGE,
    SEEN_ABOVE_4G,
    SEEN_ROM_TABLE,
    SEEN_OPEN_TABLE,
    SEEN_POINTERS_REFUSED,
    SEEN_SPLIT,
    SEEN_SPLIT_FAULT,
    SEEN_COUNT
};
static u64 seen[SEEN_COUNT];

/* ---- The model ---- */

struct access {
    bool write, fetch, user, implicit;
};
struct verdict {
    bool ok;
    u32 error;
    u64 gpa;
};

static u64 a20(u64 gpa) {
    return f->cpu.a20_masked ? gpa & ~0x100000ull : gpa;
}
static bool is_ram(u64 gpa) {
    return gpa < RAM_BYTES && !(gpa >= 0xa0000 && gpa < 0xc0000);
}
static u8 byte_at(u64 gpa) {
    if (is_ram(gpa))
        return copy[gpa];
    return gpa >= 0xffffe000u && gpa <= 0xffffffffu ? rom[gpa - 0xffffe000u] : 0xff;
}
static u64 entry_at(u64 gpa, unsigned bytes) {
    u64 entry = 0;
    for (unsigned i = 0; i < bytes; i++)
        entry |= (u64)byte_at(gpa + i) << (8 * i);
    return entry;
}
static bool feature(unsigned bit) {
    return model.f1_edx >> bit & 1;
}
static unsigned max_phys(void) {
    return model.count ? model.leaf[0].eax & 0xff : feature(6) ? 36 : 32;
}
static u64 bits(unsigned high, unsigned low) {
    u64 mask = 0;
    for (unsigned i = low; i <= high; i++)
        mask |= 1ull << i;
    return mask;
}

/* Tables 4-4 to 4-6 and the text before them. level: 2 for PDEs, 1 for PTEs. */
static u64 reserved_32(unsigned level, bool large) {
    bool pse = f->cpu.cr4 & CR4_PSE;
    if (!pse)
        return 0;
    if (level == 1)
        return feature(16) ? 0 : 1u << 7;
    if (!large)
        return 0;
    unsigned m = max_phys() < 40 ? max_phys() : 40;
    u64 reserved = bits(21, feature(17) ? m - 19 : 13);
    return reserved | (feature(16) ? 0 : 1u << 12);
}
/* Tables 4-9 to 4-11. */
static u64 reserved_pae(unsigned level, bool large) {
    u64 reserved = bits(62, max_phys());
    if (!(f->cpu.efer & EFER_NXE))
        reserved |= 1ull << 63;
    if (level == 2 && large)
        reserved |= bits(20, 13) | (feature(16) ? 0 : 1u << 12);
    if (level == 1 && !feature(16))
        reserved |= 1u << 7;
    return reserved;
}

/* Section 4.6.1, item by item. */
static bool allowed(struct access a, bool user_page, bool writable, bool xd) {
    bool wp = f->cpu.cr0 & CR0_WP, smap = f->cpu.cr4 & CR4_SMAP, smep = f->cpu.cr4 & CR4_SMEP;
    if (a.user) {
        bool mode = user_page, right = !a.write || writable, execute = !a.fetch || !xd;
        seen[SEEN_USER_DENIED] += !mode;
        seen[SEEN_WRITE_DENIED] += mode && !right;
        seen[SEEN_NX] += mode && !execute;
        return mode && right && execute;
    }
    if (a.fetch) {
        seen[SEEN_SMEP] += user_page && smep;
        seen[SEEN_NX] += xd;
        return !xd && !(user_page && smep);
    }
    if (user_page && smap) {
        bool open = (f->cpu.eflags & F_AC) && !a.implicit;
        seen[open ? SEEN_SMAP_OPEN : SEEN_SMAP]++;
        if (!open)
            return false;
    }
    seen[SEEN_WP_OFF] += a.write && !writable && !wp;
    return !a.write || writable || !wp;
}

static struct verdict fault(struct access a, u32 error) {
    bool nxe = (f->cpu.cr4 & CR4_PAE) && (f->cpu.efer & EFER_NXE);
    error |= (a.write ? 2 : 0) | (a.user ? 4 : 0);
    if (a.fetch && (nxe || (f->cpu.cr4 & CR4_SMEP)))
        error |= 16;
    return (struct verdict){.error = error};
}

static void mark(u64 gpa, u8 flags) {
    if (is_ram(gpa))
        copy[gpa] |= flags;
}

static struct verdict walk(u32 lin, struct access a) {
    bool pae = f->cpu.cr4 & CR4_PAE;
    unsigned bytes = pae ? 8 : 4, index_bits = pae ? 9 : 10, shift = 12 + index_bits;
    u64 table = f->cpu.cr3 & 0xfffff000u, gpa[2], any = 0, all = ~0ull;
    unsigned depth = 0;
    if (!(f->cpu.cr0 & CR0_PG))
        return (struct verdict){.ok = true, .gpa = a20(lin)};
    if (pae) {
        if (!(pointers[lin >> 30] & 1))
            return fault(a, 0);
        table = pointers[lin >> 30] & bits(max_phys() - 1, 12);
    }
    for (unsigned level = 2; level; level--, shift -= index_bits) {
        u64 at = a20(table + (lin >> shift & ((1u << index_bits) - 1)) * bytes);
        u64 entry = entry_at(at, bytes);
        seen[SEEN_ROM_TABLE] += at >= 0xffffe000u && at <= 0xffffffffu;
        seen[SEEN_OPEN_TABLE] += !is_ram(at) && at < 0xffffe000u;
        if (!(entry & 1)) {
            seen[SEEN_NOT_PRESENT]++;
            return fault(a, 0);
        }
        bool large = level == 2 && (entry & 0x80) && (pae || (f->cpu.cr4 & CR4_PSE));
        if (entry & (pae ? reserved_pae(level, large) : reserved_32(level, large))) {
            seen[SEEN_RESERVED]++;
            return fault(a, 9);
        }
        gpa[depth++] = at;
        any |= entry;
        all &= entry;
        table = entry & (pae ? bits(max_phys() - 1, 12) : 0xfffff000u);
        if (large) {
            seen[SEEN_LARGE]++;
            table = pae ? entry & bits(max_phys() - 1, 21)
                        : (entry & 0xffc00000u) | (entry & bits(20, 13)) << 19;
            break;
        }
    }
    if (!allowed(a, all & 4, all & 2, pae && (any >> 63)))
        return fault(a, 1);
    for (unsigned i = 0; i < depth; i++)
        mark(gpa[i], i + 1 == depth && a.write ? 0x60 : 0x20);
    u64 offset = lin & ((1ull << (depth == 1 ? shift : 12)) - 1);
    seen[SEEN_OK]++;
    seen[SEEN_ABOVE_4G] += (table | offset) >> 32 != 0;
    return (struct verdict){.ok = true, .gpa = a20(table | offset)};
}

/* ---- Scenes ---- */

static u64 random_frame(void) {
    switch (rng(16)) {
    case 0:
        return rng(256) << 12; /* anywhere in RAM, the hole included */
    case 1:
        return 0xffffe000u + (rng(2) << 12);
    case 2:
        return rng64() & 0xfffff000u;
    case 3:
        return rng64() & bits(39, 12);
    default:
        return TABLES + (rng(10) << 12);
    }
}
static u64 random_entry(bool wide) {
    u64 entry = random_frame() | (rng64() & 0xffe) | !one_in(10);
    if (!one_in(4))
        entry &= ~0x80ull; /* PS, PAT */
    if ((entry & 0x80) && !one_in(3))
        entry &= ~bits(21, 17);
    if (!one_in(3))
        entry |= 7;
    if (!wide)
        return entry & 0xffffffffu;
    entry &= bits(39, 0);
    return entry | (one_in(4) ? 1ull << 63 : 0) | (one_in(24) ? 1ull << (36 + rng(27)) : 0);
}
/* Few indices are used, so that entries are met often. */
static u32 random_index(unsigned index_bits) {
    u32 i = rng(5);
    return i == 4 ? (1u << index_bits) - 1 : i;
}
static u32 random_lin(void) {
    u32 offset = one_in(3) ? 0xff8 + rng(8) : rng(0x1000);
    if (f->cpu.cr4 & CR4_PAE)
        return rng(4) << 30 | random_index(9) << 21 | random_index(9) << 12 | offset;
    return random_index(10) << 22 | random_index(10) << 12 | offset;
}

static void put(u32 gpa, u64 value, unsigned bytes) {
    memcpy(copy + gpa, &value, bytes);
    memcpy(f->mmu->ram + gpa, &value, bytes);
}
static void change_tables(u32 changes) {
    bool pae = f->cpu.cr4 & CR4_PAE;
    unsigned bytes = pae ? 8 : 4;
    while (changes--)
        put(TABLES + (rng(8) << 12) + random_index(pae ? 9 : 10) * bytes, random_entry(pae), bytes);
}

static void change_model(void) {
    model = (struct cpu_model){.f1_edx = 1u << 3 | 1u << 6};
    model.f1_edx |= (one_in(4) ? 0 : 1u << 16) | (one_in(3) ? 0 : 1u << 17);
    if (!one_in(3))
        model.leaf[model.count++] =
            (struct cpuid_leaf){.leaf = 0x80000008u, .eax = one_in(3) ? 36 : 32 + rng(21)};
}

static void load_pointers(void) {
    u64 reserved = bits(63, max_phys()) | bits(2, 1) | bits(8, 5), loaded[4];
    bool ok = true;
    u32 cr3 = one_in(12) ? 0xffffe000u + rng(64) * 32 : POINTERS + (rng(2) << 5);
    for (u32 i = 0; i < 8; i++) {
        u64 entry = (random_frame() & bits(31, 12)) | (rng64() & 0xe18) | !one_in(6);
        entry |= one_in(60) ? 1ull << rng(64) : 0;
        put(POINTERS + 8 * i, entry, 8);
    }
    for (u32 i = 0; i < 4; i++) {
        loaded[i] = entry_at(a20(cr3) + 8 * i, 8);
        ok &= !(loaded[i] & 1) || !(loaded[i] & reserved);
    }
    assert_int_equal(mmu_load_pdptrs(&f->cpu, cr3 | rng(32)), ok);
    if (ok)
        memcpy(pointers, loaded, sizeof pointers);
    else
        assert_true(f->cpu.fault.vector == VEC_GP && f->cpu.fault.error == 0);
    seen[SEEN_POINTERS_REFUSED] += !ok;
}

static void change_mode(void) {
    struct cpu *cpu = &f->cpu;
    u32 random = (u32)rng64();
    cpu->cr0 = CR0_PE | (one_in(40) ? 0 : CR0_PG) | (random & 1 ? CR0_WP : 0);
    cpu->cr4 = (one_in(5) ? 0 : CR4_PSE) | (random & 2 ? CR4_PAE : 0) | (random & 4 ? CR4_PGE : 0) |
               (random & 8 ? CR4_SMEP : 0) | (random & 16 ? CR4_SMAP : 0);
    cpu->efer = random & 32 ? EFER_NXE : 0;
    cpu->cr3 = (one_in(20) ? (u32)random_frame() : TABLES + (rng(8) << 12)) | rng(4096);
    mmu_set_a20(cpu, !one_in(10));
    mmu_mode_changed(cpu);
    if (cpu->cr4 & CR4_PAE)
        load_pointers();
    mmu_mode_changed(cpu);
}

static void change_cpu(void) {
    f->cpu.cpl = (u8)rng(4);
    f->cpu.eflags = F_FIXED | (rng(2) ? F_AC : 0);
}

/* ---- Comparison ---- */

static void complain(const char *what, u32 lin, struct access a, const struct verdict *v) {
    fail_msg("%s at %08x (write %d fetch %d user %d implicit %d), cr0 %08x cr3 %08x cr4 %08x efer "
             "%llx eflags %08x: the model says ok %d error %x gpa %llx, the fault here is %x",
             what, lin, a.write, a.fetch, a.user, a.implicit, f->cpu.cr0, f->cpu.cr3, f->cpu.cr4,
             (unsigned long long)f->cpu.efer, f->cpu.eflags, v->ok, v->error,
             (unsigned long long)v->gpa, f->cpu.fault.error);
}

static bool same_fault(u32 lin, const struct verdict *v) {
    const struct guest_fault *now = &f->cpu.fault;
    return now->vector == VEC_PF && now->has_error && now->error == v->error && now->cr2 == lin;
}

static void compare_walk(void) {
    struct access a = {.implicit = one_in(4)};
    u32 lin = random_lin(), kind = rng(3);
    a.write = kind == 1;
    a.fetch = kind == 2 && !a.implicit;
    a.user = !a.implicit && f->cpu.cpl == 3;
    struct mmu_xlat x;
    unsigned access =
        (a.write ? MMU_WRITE : 0) | (a.fetch ? MMU_FETCH : 0) | (a.implicit ? MMU_SUPERVISOR : 0);
    bool ok = mmu_translate(&f->cpu, GLIN(lin), access, a.user, &x);
    struct verdict v = walk(lin, a);
    if (ok != v.ok || (ok && x.gpa.v != v.gpa) || (!ok && !same_fault(lin, &v)))
        complain("a walk differs", lin, a, &v);
}

static u64 bus_read(void *opaque, struct gpa gpa, unsigned bytes) {
    (void)opaque, (void)gpa, (void)bytes;
    return ~0ull;
}
static void bus_write(void *opaque, struct gpa gpa, u64 value, unsigned bytes) {
    (void)opaque, (void)gpa, (void)value, (void)bytes;
}

/* Reads and writes of up to 8 bytes go through the soft TLB, which must not widen any right. */
static void compare_access(void) {
    struct access a = {.write = rng(2), .implicit = one_in(6)};
    u32 lin = random_lin(), bytes = 1 + rng(8), first = MIN(bytes, 4096 - (lin & 0xfff));
    u64 value = rng64();
    u8 got[8], *data = (u8 *)&value;
    a.user = !a.implicit && f->cpu.cpl == 3;
    unsigned access = a.implicit ? MMU_SUPERVISOR : 0;
    bool ok = a.write ? mmu_write(&f->cpu, lin, data, bytes, access)
                      : mmu_read(&f->cpu, lin, got, bytes, access);
    struct verdict v[2] = {walk(lin, a)};
    unsigned last = 0;
    if (v[0].ok && first < bytes) {
        v[++last] = walk(lin + first, a);
        seen[SEEN_SPLIT]++;
        seen[SEEN_SPLIT_FAULT] += !v[1].ok;
    }
    if (ok != v[last].ok || (!ok && !same_fault(last ? lin + first : lin, &v[last])))
        complain("an access differs", lin, a, &v[last]);
    bool tables = false;
    for (u32 i = 0; ok && i < bytes; i++) {
        u64 gpa = i < first ? v[0].gpa + i : v[1].gpa + i - first;
        if (!a.write && got[i] != byte_at(gpa))
            complain("data differ", lin, a, &v[last]);
        if (a.write && is_ram(gpa))
            copy[gpa] = data[i];
        tables |= gpa >= TABLES && gpa < TABLES_END;
    }
    if (a.write && tables)
        mmu_softtlb_flush(&f->cpu);
}

static void walks_and_accesses_are_what_the_manual_says(void **state) {
    (void)state;
    static struct cpu_bus bus = {.mmio_read = bus_read, .mmio_write = bus_write};
    f = fix_create(RAM_BYTES);
    f->cpu.bus = &bus;
    f->cpu.model = &model;
    for (u32 i = 0; i < sizeof rom; i += 8)
        store64(rom + i, one_in(2) ? random_entry(true) : 0);
    mmu_set_rom(f->mmu, rom, sizeof rom);
    for (u32 i = 0; i < RAM_BYTES; i += 8)
        put(i, i * 0x0101010101ull, 8);
    for (u32 scene = 0; scene < SCENES; scene++) {
        if (one_in(3)) {
            if (one_in(5))
                change_model();
            change_mode();
        }
        change_tables(8);
        mmu_softtlb_flush(&f->cpu);
        for (u32 i = 0; i < WALKS_PER_SCENE; i++) {
            change_cpu();
            compare_walk();
        }
        mmu_softtlb_flush(&f->cpu);
        for (u32 i = 0; i < ACCESSES_PER_SCENE; i++) {
            change_cpu();
            compare_access();
        }
        bool all = scene % 1000 == 999;
        u32 at = all ? 0 : TABLES, length = all ? 0xa0000 : POINTERS + 64 - TABLES;
        assert_memory_equal(f->mmu->ram + at, copy + at, length);
    }
    assert_memory_equal(f->mmu->ram + 0xc0000, copy + 0xc0000, RAM_BYTES - 0xc0000);
    for (unsigned i = 0; i < SEEN_COUNT; i++)
        if (seen[i] < 500)
            fail_msg("case %u was met only %llu times", i, (unsigned long long)seen[i]);
    fix_destroy(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walks_and_accesses_are_what_the_manual_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
