/*
 * test_shadow_hostile.c: random descriptor tables at random places, and a model of the processor's
 * own checks that looks at the real tables: it must find there what the emulator finds in the
 * guest's, and nothing that could harm the monitor.
 */
#include "shadow_fixture.h"

#include <stdio.h>

static u64 seed = 0x2545f4914f6cdd1dull;
static u32 random32(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (u32)(seed >> 16);
}
static bool one_in(u32 n) {
    return random32() % n == 0;
}

/* LAR, LSL, VERR and VERW in ring 3 of compatibility mode, on the real tables. */
struct answer {
    bool lar, lsl, verr, verw;
    u32 rights, limit;
};
static struct answer processor_answer(const struct rig *r, u16 selector) {
    u64 raw = selector & 4 ? r->ldt[selector >> 3] : r->gdt[selector >> 3];
    u32 hi = (u32)(raw >> 32), dpl = hi >> 13 & 3;
    bool code = hi & BIT(11), conforming = code && (hi & BIT(10));
    bool visible = !(selector >> 2 == 0) && (hi & BIT(12)) && (conforming || dpl == 3);
    if (!visible)
        return (struct answer){0};
    u32 limit = ((u32)raw & 0xffff) | (hi & 0xf0000);
    return (struct answer){.lar = true,
                           .lsl = true,
                           .verr = !code || (hi & BIT(9)),
                           .verw = !code && (hi & BIT(9)),
                           .rights = hi & 0xffff00,
                           .limit = hi & BIT(23) ? limit << 12 | 0xfff : limit};
}
/* MOV to a data segment register; what it leaves there. */
static bool processor_loads(const struct rig *r, u16 selector) {
    struct answer a = processor_answer(r, selector);
    return a.verr && (a.rights & BIT(15));
}

static void assert_emulator_agrees(struct rig *r, u16 selector) {
    struct cpu *cpu = r->cpu;
    struct answer real = processor_answer(r, selector), guest = {0};
    assert_true(rc_lar(cpu, selector, &guest.lar, &guest.rights));
    assert_true(rc_lsl(cpu, selector, &guest.lsl, &guest.limit));
    assert_true(rc_verify(cpu, selector, false, &guest.verr));
    assert_true(rc_verify(cpu, selector, true, &guest.verw));
    assert_true(real.lar == guest.lar && real.lsl == guest.lsl && real.verr == guest.verr &&
                real.verw == guest.verw);
    assert_int_equal(real.rights, guest.rights);
    assert_int_equal(real.limit, guest.limit);
    if (!processor_loads(r, selector) || selector < 4)
        return;
    struct segment saved = cpu->seg[SEG_FS], emulated;
    u16 now[6];
    assert_true(rc_load_segment(cpu, SEG_FS, selector));
    emulated = cpu->seg[SEG_FS];
    cpu->seg[SEG_FS] = saved;
    for (unsigned s = 0; s < 6; s++)
        now[s] = s == SEG_FS ? selector : cpu->seg[s].selector;
    rc_shadow_reload(&r->s, cpu, now);
    if (saved.selector != selector)
        assert_memory_equal(&cpu->seg[SEG_FS], &emulated, sizeof emulated);
    cpu->seg[SEG_FS] = saved;
}

static u64 random_entry(void) {
    u64 raw = (u64)random32() << 32 | random32();
    if (one_in(200))
        return raw;
    if (one_in(4))
        return 0;
    raw |= BIT64(40) | BIT64(44) | BIT64(47);
    raw &= ~BIT64(53);
    return one_in(3) ? raw : raw | 3ull << 45;
}

/* Where tables begin: so few places that they overlap and share pages. */
static u32 random_base(void) {
    return BIG + (random32() % 0x4000 & (one_in(4) ? ~0u : ~7u));
}
static void map_page(struct cpu *cpu, u32 page, u32 entry) {
    poke32(cpu, PAGE_TABLE + 4 * ((BIG >> 12) + page), entry);
}

/* A random change to tables, their place, or the pages they lie in. */
static void disturb(struct rig *r) {
    struct cpu *cpu = r->cpu;
    struct segment *ldtr = &cpu->seg[SEG_LDTR];
    u32 at = one_in(2) ? cpu->gdtr.base : ldtr->attr & ATTR_NULL ? BIG : ldtr->base;
    switch (random32() % 16) {
    case 0:
        cpu->gdtr.base = random_base();
        cpu->gdtr.limit = one_in(300) ? (u16)random32() : random32() % 0x200;
        break;
    case 1:
        ldtr->attr = one_in(3) ? ATTR_NULL : ATTR_P | 2;
        ldtr->base = random_base();
        ldtr->limit = one_in(300) ? random32() & 0xfffff : random32() % 0x100;
        break;
    case 2:
        map_page(cpu, random32() % 6,
                 (one_in(12) ? 0xa0000 : BIG + (random32() % 8) * PAGE_BYTES) |
                     (one_in(5) ? random32() & 7 : 3));
        mmu_softtlb_flush(cpu);
        break;
    case 3: /* bad pages and opaque entries go */
        for (u32 page = 0; page < 64; page++) {
            map_page(cpu, page, (BIG + page * PAGE_BYTES) | 3);
            for (u32 i = 0; i < PAGE_BYTES / 8; i += page < 6 ? 1 : PAGE_BYTES)
                store64(ram(cpu, BIG + page * PAGE_BYTES + i * 8), 0);
        }
        mmu_softtlb_flush(cpu);
        break;
    case 4:
        for (u32 i = 0; i < 64; i++)
            store64(ram(cpu, at + i * 8), random_entry());
        break;
    default:
        store64(ram(cpu, at + (random32() % 64) * 8), random_entry());
    }
}

static bool table_is_usable(const struct cpu *cpu, u32 base, u32 count) {
    for (u32 i = 0; i < count * 8; i++) {
        struct mmu_xlat x;
        if (i && ((base + i) & PAGE_OFFSET_MASK))
            continue;
        if (!mmu_probe(cpu, GLIN(base + i), &x) || (x.user && x.writable) ||
            !mmu_gpa_is_ram(cpu->mmu, x.gpa.v))
            return false;
    }
    return true;
}

/* What sync must make of one table; whether that shows ring 3 all that it may see. */
static bool table_is_exact(struct rig *r, u32 base, u32 count, const u64 *real, bool is_gdt) {
    struct cpu *cpu = r->cpu;
    bool exact = true;
    for (u32 i = 0; i < RC_SHADOW_ENTRIES; i++) {
        if (i >= count) {
            if (!is_gdt || i < RC_SHADOW_GDT_FREE)
                assert_true(real[i] == 0);
            continue;
        }
        u64 raw;
        assert_true(mmu_read(cpu, base + i * 8, &raw, 8, MMU_SUPERVISOR));
        bool in_reach = is_gdt ? i > 0 && i < RC_SHADOW_GDT_FREE : true;
        bool user = (raw >> 45 & 3) == 3, segment = raw & BIT64(44);
        bool conforming = segment && (raw & BIT64(43)) && (raw & BIT64(42));
        bool fit = (raw & BIT64(47)) && (raw & BIT64(40)) && !(raw & BIT64(53));
        bool mirrored = in_reach && segment && (user || conforming) && fit;
        if (!is_gdt || i < RC_SHADOW_GDT_FREE)
            assert_true(real[i] == (mirrored ? raw : 0));
        u32 type = raw >> 40 & 15;
        bool lar_shows = segment ? user || conforming : user && (0x1a3eu >> type & 1);
        if (lar_shows && !mirrored && !(is_gdt && i == 0))
            exact = false;
    }
    return exact;
}

static void no_table_harms_the_monitor_and_all_are_told_truly(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    u32 good = 0, loads = 0, unusable = 0;
    cpu->gdtr = (struct table_register){.base = BIG, .limit = 0xff};
    for (u32 round = 0; round < 100000; round++) {
        for (u32 n = random32() % 8; n > 0; n--)
            disturb(r);
        r->s.lenient = one_in(8);
        const struct segment *ldtr = &cpu->seg[SEG_LDTR];
        u32 ldt_count = ldtr->attr & ATTR_NULL ? 0 : MIN((ldtr->limit + 1) / 8, 8192u);
        u32 gdt_count = (cpu->gdtr.limit + 1u) / 8;
        bool usable = table_is_usable(cpu, cpu->gdtr.base, gdt_count) &&
                      table_is_usable(cpu, ldtr->base, ldt_count);
        bool ok = rc_shadow_sync(&r->s, cpu), exact = true;
        assert_tables_are_harmless(r);
        if (usable) {
            exact &= table_is_exact(r, cpu->gdtr.base, gdt_count, r->gdt, true);
            exact &= table_is_exact(r, ldtr->base, ldt_count, r->ldt, false);
        }
        assert_int_equal(ok, usable && (exact || r->s.lenient));
        unusable += !usable;
        if (!ok || !exact)
            continue;
        good++;
        for (int n = 0; n < 8; n++) {
            u16 selector = (u16)(one_in(20) ? random32() : random32() % 0x200);
            loads += processor_loads(r, selector);
            assert_emulator_agrees(r, selector);
        }
    }
    printf("  %u tables exact, %u not usable, %u loads\n", good, unusable, loads);
    assert_true(good > 10000 && unusable > 1000 && loads > 10000);
    free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(no_table_harms_the_monitor_and_all_are_told_truly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
