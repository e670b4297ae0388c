/*
 * test_window_metal_property.c: random changes of the guest's tables, flushes and accesses. What
 * the machine's MMU and TLB let rings 1 and 3 do must be what the guest's tables let rings 0 and 3
 * do, now or at any time since the last flush.
 */
#include "metal_fixture.h"

static u32 rng_state = 12345;
static u32 rng(u32 n) {
    rng_state = rng_state * 1664525 + 1013904223;
    return (u32)((u64)(rng_state >> 4) * n >> 28);
}

#define SPACES 5
#define SLOTS 5
#define PAST 8
#define TABLE_BANKS 2
enum slot_kind { USER_SLOT, MIXED_SLOT, KERNEL_SLOT };
static const struct {
    u32 lin;
    enum slot_kind kind;
} slots[SLOTS] = {{0x08000000, USER_SLOT},
                  {0x08400000, MIXED_SLOT},
                  {0x40000000, USER_SLOT},
                  {0xbfc00000, MIXED_SLOT},
                  {0xc0000000, KERNEL_SLOT}};

/* What the guest's tables granted at one page at one time. */
struct grant {
    u64 frame;
    bool user, writable, no_execute, dirty, global, large;
};
static struct {
    bool pae, global_pages;
    u32 space, root[SPACES], directory[SPACES][4];
    u32 table[SPACES][SLOTS][TABLE_BANKS]; /* 4 MiB each; the kernel's are shared */
    struct {
        unsigned count;
        struct grant grant[PAST];
    } past[SLOTS][1024]; /* what a TLB may still hold beside the truth */
    bool past_full;
    u64 filled, refused, emulated, swept;
} prop;

static bool grant_now(u32 lin, struct grant *g) {
    struct mmu_xlat x;
    struct mmu_walk walk = {.x = &x};
    if (mmu_walk_tables(&f->cpu, lin, &walk) != MMU_WALK_OK)
        return false;
    for (unsigned i = 0; i < walk.depth; i++)
        if (!(walk.entry[i] & PTE_A))
            return false; /* no TLB holds it */
    *g = (struct grant){.frame = x.gpa.v >> 12,
                        .user = x.user,
                        .writable = x.writable,
                        .no_execute = x.no_execute,
                        .dirty = x.dirty,
                        .global = x.global,
                        .large = x.page_bytes > 4096};
    return true;
}

static void remember(unsigned slot, u32 page) {
    struct grant g;
    if (!grant_now(slots[slot].lin + page * 0x1000, &g))
        return;
    unsigned n = prop.past[slot][page].count;
    for (unsigned i = 0; i < n; i++)
        if (!memcmp(&prop.past[slot][page].grant[i], &g, sizeof g))
            return;
    if (n == PAST) {
        prop.past_full = true; /* the caller flushes everything before it goes on */
        return;
    }
    prop.past[slot][page].grant[prop.past[slot][page].count++] = g;
}

static void forget(unsigned slot, u32 page, bool keep_global, bool keep_small) {
    unsigned kept = 0, n = prop.past[slot][page].count;
    struct grant *g = prop.past[slot][page].grant;
    for (unsigned i = 0; i < n; i++)
        if ((keep_global && g[i].global) || (keep_small && !g[i].large))
            g[kept++] = g[i];
    prop.past[slot][page].count = kept;
}
static void forget_all(bool keep_global) {
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (u32 page = 0; page < 1024; page++)
            forget(slot, page, keep_global, false);
}

/* ---- Changing the guest's tables ---- */

static void store_entry(u32 gpa, u64 entry) {
    if (prop.pae)
        fix_write64(f, gpa, entry);
    else
        fix_write32(f, gpa, (u32)entry);
}
static u32 pte_address(u32 space, unsigned slot, unsigned bank, u32 page) {
    return prop.table[space][slot][bank] + page * (prop.pae ? 8 : 4);
}
/* half: which 2 MiB, with PAE. */
static u32 pde_address(u32 space, unsigned slot, u32 half) {
    u32 lin = slots[slot].lin + half * 0x200000;
    if (prop.pae)
        return prop.directory[space][lin >> 30] + ((lin >> 21) & 511) * 8;
    return prop.root[space] + (lin >> 22) * 4;
}

static u64 random_flags(unsigned slot) {
    static const u32 flags[] = {0,
                                PTE_P,
                                PTE_P,
                                RWU & ~PTE_U,
                                PTE_P | PTE_A,
                                RWU,
                                RWU | PTE_A,
                                PTE_P | AD | PTE_W,
                                PTE_P | AD | PTE_W,
                                PTE_P | AD};
    static const u32 user_of_16[] = {15, 8, 1};
    u64 e = flags[rng(ARRAY_LEN(flags))] & ~(u32)PTE_U;
    e |= rng(16) < user_of_16[slots[slot].kind] ? PTE_U : 0;
    e |= rng(2) ? PTE_G : 0;
    return prop.pae && !rng(3) ? e | PTE_NX : e;
}
static u64 random_pte(unsigned slot) {
    u32 gpa = rng(20) ? 0x100000 + rng(0x400) * 0x1000 : 0xb8000;
    return gpa | random_flags(slot);
}
static u64 random_pde(u32 space, unsigned slot, u32 half) {
    u64 bank = pte_address(space, slot, rng(TABLE_BANKS), half * 512);
    switch (rng(8)) {
    case 0:
        return 0;
    case 1:
    case 2:
        return (prop.pae ? 0x200000 + rng(10) * 0x200000ull : 0x400000 + rng(5) * 0x400000ull) |
               random_flags(slot) | PTE_PS;
    case 3:
        return bank | random_flags(slot);
    default:
        return bank | RWU;
    }
}

static u32 random_page(void) {
    return rng(3) ? rng(40) : rng(1024);
}

static void change_ptes(u32 space, unsigned slot, u32 page, u32 n) {
    unsigned bank = rng(TABLE_BANKS);
    u64 first = random_pte(slot);
    bool run = rng(2);
    for (u32 i = 0; i < n && page + i < 1024; i++) {
        remember(slot, page + i);
        store_entry(pte_address(space, slot, bank, page + i),
                    run ? first + i * 0x1000 : random_pte(slot));
    }
}
/* Flips one right of entries and leaves their frames alone. */
static void change_rights(u32 space, unsigned slot, u32 page, u32 n) {
    static const u64 bits[] = {PTE_W, PTE_U, PTE_A, PTE_D, PTE_P, PTE_G, PTE_NX};
    u64 bit = bits[rng(prop.pae ? 7 : 6)];
    for (u32 i = 0; i < n && page + i < 1024; i++)
        for (unsigned bank = 0; bank < TABLE_BANKS; bank++) {
            u32 at = pte_address(space, slot, bank, page + i);
            remember(slot, page + i);
            store_entry(at, (prop.pae ? fix_read64(f, at) : fix_read32(f, at)) ^ bit);
        }
}
static void change_pde(u32 space, unsigned slot, u32 page) {
    u32 half = prop.pae ? page / 512 : 0, pages = prop.pae ? 512 : 1024;
    for (u32 i = 0; i < pages; i++)
        remember(slot, half * pages + i);
    u64 pde = random_pde(space, slot, half);
    for (u32 k = 0; k < SPACES; k++)
        if (k == space || slots[slot].kind == KERNEL_SLOT)
            store_entry(pde_address(k, slot, half), pde);
}

/* ---- Flushing ---- */

static void flush_page(unsigned slot, u32 page) {
    mmu_invlpg(&f->cpu, GLIN(slots[slot].lin + page * 0x1000 + rng(0x1000)));
    forget(slot, page, false, false);
    u32 pages = prop.pae ? 512 : 1024;
    for (u32 i = 0; i < pages; i++) /* a large page goes whole */
        forget(slot, page / pages * pages + i, false, true);
}
static void toggle(u32 *reg, u32 bit) {
    *reg ^= bit;
    mmu_mode_changed(&f->cpu);
    forget_all(false);
}
static void switch_space(u32 space) {
    for (unsigned slot = 0; slot < SLOTS && prop.global_pages; slot++)
        for (u32 page = 0; page < 1024; page++)
            remember(slot, page);
    forget_all(prop.global_pages);
    prop.space = space;
    f->cpu.cr3 = prop.root[space];
    if (prop.pae)
        assert_true(mmu_load_pdptrs(&f->cpu, f->cpu.cr3));
    mmu_cr3_loaded(&f->cpu);
}
static void flush_everything(void) {
    toggle(&f->cpu.cr4, CR4_PGE);
    toggle(&f->cpu.cr4, CR4_PGE);
    prop.past_full = false;
}

/* ---- Checking ---- */

static bool grants(const struct grant *g, u64 frame, bool user, enum mmu_access access) {
    if (g->frame != frame || (user && !g->user))
        return false;
    if (access == MMU_FETCH)
        return !g->no_execute;
    bool writable = g->writable || (!g->user && !(f->cpu.cr0 & CR0_WP));
    return access == MMU_READ || (writable && g->dirty);
}
/* May a TLB that obeys the flushes so far grant this? */
static bool may_grant(unsigned slot, u32 page, u64 frame, bool user, enum mmu_access access) {
    struct grant now;
    if (grant_now(slots[slot].lin + page * 0x1000, &now) && grants(&now, frame, user, access))
        return true;
    for (unsigned i = 0; i < prop.past[slot][page].count; i++)
        if (grants(&prop.past[slot][page].grant[i], frame, user, access))
            return true;
    return false;
}

static void random_access(void) {
    bool user = rng(2);
    enum mmu_access access = rng(user ? 3 : 2);
    unsigned slot = rng(SLOTS);
    u32 page = random_page(), lin = slots[slot].lin + page * 0x1000 + rng(4096);
    struct mmu_xlat x;
    bool ok = mmu_probe(&f->cpu, GLIN(lin), &x) && mmu_access_allowed(&f->cpu, &x, access, user);
    struct outcome o = touch(user, lin, access);
    if (o.kind == MMU_FAULT_TRUE) {
        prop.refused++;
        assert_false(ok);
    } else if (o.kind == MMU_FAULT_EMULATE) {
        prop.emulated++;
        assert_int_equal(o.faults, 1);
        assert_true(ok);
        bool ram = mmu_gpa_is_ram(f->mmu, x.gpa.v), past_wp = !user && x.user && !x.writable;
        assert_true(!ram || (access == MMU_WRITE && (past_wp || f->mmu->code_page[x.gpa.v >> 12])));
    } else {
        prop.filled++;
        assert_int_equal(o.gpa & 4095, lin & 4095);
        assert_true(may_grant(slot, page, o.gpa >> 12, user, access));
        assert_true(o.faults == 0 || (ok && o.gpa == x.gpa.v));
    }
}

/* Everything the hardware would grant without a fault, now; and so it is in its TLB from now on. */
static void sweep(void) {
    bool ring3 = !mmu_user_window_pending(&f->cpu);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (u32 page = 0; page < 1024; page++) {
            u64 entry = fake_look_up(slots[slot].lin + page * 0x1000);
            if (!entry)
                continue;
            u64 frame = ((entry & METAL_PTE_ADDRESS) - PHYS) >> 12;
            bool user = entry & METAL_PTE_U, write = entry & METAL_PTE_W;
            prop.swept++;
            assert_true(frame < f->mmu->ram_bytes >> 12 && !(write && f->mmu->code_page[frame]));
            assert_true(may_grant(slot, page, frame, false, write ? MMU_WRITE : MMU_READ));
            assert_true(user || (entry & METAL_PTE_NX));
            if (!user || !ring3)
                continue;
            assert_true(may_grant(slot, page, frame, true, write ? MMU_WRITE : MMU_READ));
            assert_true((entry & METAL_PTE_NX) || may_grant(slot, page, frame, true, MMU_FETCH));
        }
}

static void random_event(void) {
    unsigned slot = rng(SLOTS), kind = rng(100);
    u32 page = random_page(), space = rng(4) ? prop.space : rng(SPACES);
    struct gpa gpa;
    if (kind < 30)
        change_ptes(space, slot, page, rng(4) ? 1 : rng(40));
    else if (kind < 50)
        change_rights(space, slot, page, rng(2) ? 1 : rng(40));
    else if (kind < 55)
        change_pde(space, slot, page);
    else if (kind < 70)
        flush_page(slot, page);
    else if (kind < 80)
        switch_space(rng(4) ? rng(SPACES) : prop.space);
    else if (kind < 82)
        toggle(&f->cpu.cr0, CR0_WP);
    else if (kind < 83 && prop.global_pages)
        flush_everything();
    else if (kind < 84)
        toggle(&f->cpu.cr4, CR4_SMEP);
    else if (kind < 90)
        mmu_code_protect(f->mmu, GPA(0x100000 + rng(0x400) * 0x1000));
    else if (kind < 94)
        for (u32 i = 0; i < 60; i++)
            mmu_code_unprotect(f->mmu, GPA(0x100000 + rng(0x400) * 0x1000));
    else if (kind < 97)
        mmu_fetch(&f->cpu, GLIN(slots[slot].lin + page * 0x1000), rng(2), &gpa);
    else
        mmu_window_prefill(&f->cpu, rng(2), GLIN(slots[slot].lin + page * 0x1000), rng(2));
    if (kind < 50 && rng(2)) /* the usual case: store, then flush at once */
        flush_page(slot, page);
    if (prop.past_full)
        flush_everything();
}

static void build_spaces(void) {
    u32 halves = prop.pae ? 2 : 1;
    for (u32 s = 0; s < SPACES; s++) {
        prop.root[s] = fix_new_table(f);
        for (u32 k = 0; k < 4 && prop.pae; k++) {
            prop.directory[s][k] = fix_new_table(f);
            fix_write64(f, prop.root[s] + 8 * k, prop.directory[s][k] | PTE_P);
        }
        for (unsigned slot = 0; slot < SLOTS; slot++)
            for (unsigned bank = 0; bank < TABLE_BANKS; bank++) {
                bool shared = s && slots[slot].kind == KERNEL_SLOT;
                u32 table = shared ? prop.table[0][slot][bank] : fix_new_table(f);
                if (!shared && prop.pae)
                    fix_new_table(f);
                prop.table[s][slot][bank] = table;
                for (u32 half = 0; half < halves; half++)
                    store_entry(pde_address(s, slot, half), (table + half * 0x1000) | RWU);
            }
    }
    assert_true(f->next_table <= 0xa0000);
}

static void run_property(bool pae, bool global_pages, u32 rounds) {
    memset(&prop, 0, sizeof prop);
    prop.pae = pae;
    prop.global_pages = global_pages;
    f->cpu.cr4 = CR4_PSE | (pae ? CR4_PAE : 0) | (global_pages ? CR4_PGE : 0);
    f->cpu.efer = pae ? EFER_NXE : 0;
    build_spaces();
    f->cpu.cr3 = prop.root[0];
    if (pae)
        assert_true(mmu_load_pdptrs(&f->cpu, f->cpu.cr3));
    mmu_mode_changed(&f->cpu);
    for (u32 i = 0; i < rounds; i++) {
        random_event();
        for (u32 k = rng(12); k > 0; k--)
            random_access();
        if (i % 4 == 0)
            sweep();
        if (i % 16 == 0)
            validate();
    }
    printf("    %llu accesses made, %llu refused, %llu emulated, %llu entries swept\n",
           (unsigned long long)prop.filled, (unsigned long long)prop.refused,
           (unsigned long long)prop.emulated, (unsigned long long)prop.swept);
    assert_true(prop.filled > rounds && prop.refused > rounds / 4 && prop.emulated > rounds / 20);
    assert_true(prop.swept > rounds * 4ull);
}

static void the_hardware_grants_what_the_guests_tables_grant(void **state) {
    (void)state;
    run_property(false, false, 12000);
}
static void the_hardware_grants_what_the_guests_tables_grant_with_global_pages(void **state) {
    (void)state;
    run_property(false, true, 12000);
}
static void the_hardware_grants_what_pae_tables_grant(void **state) {
    (void)state;
    run_property(true, true, 12000);
}
static void the_hardware_grants_it_with_few_windows_and_regions(void **state) {
    (void)state;
    bare_teardown();
    bare_setup(2, 5);
    run_property(true, false, 12000);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(the_hardware_grants_what_the_guests_tables_grant),
        T(the_hardware_grants_what_the_guests_tables_grant_with_global_pages),
        T(the_hardware_grants_what_pae_tables_grant),
        T(the_hardware_grants_it_with_few_windows_and_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
