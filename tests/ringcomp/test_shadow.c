/*
 * test_shadow.c: the descriptors of direct execution, rule by rule, and what it costs to know that
 * nothing has changed.
 */
#include "shadow_fixture.h"

#include <signal.h>
#include <stdio.h>

static u64 guest_entry(const struct rig *r, u32 at) {
    return load64(ram(r->cpu, at));
}
/* ---- What may stand in the tables ---- */

static void each_kind_of_descriptor_is_mirrored_hidden_or_keeps_the_state_out(void **state) {
    enum { IN, HIDE, REFUSE };
    static const struct {
        u32 attr;
        int what;
    } rows[] = {
        {UDATA_ATTR, IN},
        {UDATA_ATTR & ~ATTR_W, IN},
        {UDATA_ATTR | ATTR_E, IN},
        {UDATA_ATTR & ~ATTR_DB, IN},
        {UDATA_ATTR | ATTR_G | ATTR_AVL, IN},
        {UCODE_ATTR, IN},
        {UCODE_ATTR & ~ATTR_R, IN},
        {UCODE_ATTR & ~ATTR_DB, IN},
        {UCODE_ATTR | ATTR_C, IN},
        {(UCODE_ATTR & ~ATTR_DPL) | ATTR_C, IN},
        {(UCODE_ATTR & ~ATTR_DPL) | DPL(2) | ATTR_C, IN},
        {0, HIDE},
        {DATA_ATTR | ATTR_A, HIDE},
        {DATA_ATTR | ATTR_A | DPL(1), HIDE},
        {DATA_ATTR | DPL(2), HIDE},
        {CODE_ATTR | ATTR_A | DPL(2), HIDE},
        {CODE_ATTR | ATTR_L, HIDE},
        {ATTR_P | 2, HIDE},             /* LDT */
        {ATTR_P | 11 | DPL(2), HIDE},   /* TSS */
        {ATTR_P | 12 | DPL(0), HIDE},   /* call gate */
        {ATTR_P | 14 | DPL(3), HIDE},   /* an interrupt gate: LAR knows no such thing here */
        {ATTR_P | 15 | DPL(3), HIDE},   /* a trap gate */
        {DPL(3), HIDE},                 /* type 0 */
        {UDATA_ATTR & ~ATTR_P, REFUSE}, /* LAR shows it */
        {UDATA_ATTR & ~ATTR_A, REFUSE}, /* a load would set A in the copy */
        {UCODE_ATTR & ~ATTR_A, REFUSE}, /* the same */
        {UCODE_ATTR | ATTR_L, REFUSE},  /* would be 64-bit code */
        {(UCODE_ATTR & ~ATTR_DB) | ATTR_L, REFUSE},
        {UDATA_ATTR | ATTR_L, REFUSE},
        {CODE_ATTR | ATTR_C, REFUSE}, /* conforming, DPL 0, A=0 */
        {CODE_ATTR | ATTR_A | ATTR_C | ATTR_L, REFUSE},
        {ATTR_P | 12 | DPL(3), REFUSE}, /* call gate */
        {ATTR_P | 4 | DPL(3), REFUSE},  /* 16-bit call gate */
        {ATTR_P | 5 | DPL(3), REFUSE},  /* task gate */
        {ATTR_P | 9 | DPL(3), REFUSE},  /* TSS */
        {ATTR_P | 3 | DPL(3), REFUSE},  /* busy 16-bit TSS */
        {ATTR_P | 2 | DPL(3), REFUSE},  /* LDT */
        {12 | DPL(3), REFUSE},          /* a call gate not present */
    };
    struct rig *r = boot(state);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        u64 raw = desc_with(rows[i].attr);
        store64(ram(r->cpu, LGDT + L_FREE), raw);
        for (int lenient = 0; lenient < 2; lenient++) {
            r->s.lenient = lenient;
            assert_int_equal(rc_shadow_sync(&r->s, r->cpu), lenient || rows[i].what != REFUSE);
            assert_int_equal(rc_shadow_ready(&r->s, r->cpu), lenient || rows[i].what != REFUSE);
            assert_true(r->gdt[L_FREE / 8] == (rows[i].what == IN ? raw : 0));
        }
        assert_tables_are_harmless(r);
    }
    free(r);
}

static void the_null_descriptor_and_the_monitors_entries_are_never_written(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    cpu->gdtr = (struct table_register){.base = BIG, .limit = 0xffff};
    put_desc(cpu->mmu, BIG, 0, FLAT_LIMIT, UDATA_ATTR);
    put_desc(cpu->mmu, BIG + METAL_CS0 - 8, 0, FLAT_LIMIT, UDATA_ATTR);
    assert_true(rc_shadow_sync(&r->s, cpu));
    assert_int_equal(r->gdt[0], 0);
    assert_true(r->gdt[METAL_CS0 / 8 - 1] == guest_entry(r, BIG + METAL_CS0 - 8));
    put_desc(cpu->mmu, BIG + METAL_CS0, 0, FLAT_LIMIT, CODE_ATTR); /* hidden: no matter */
    assert_true(rc_shadow_sync(&r->s, cpu));
    put_desc(cpu->mmu, BIG + METAL_SS0, 0, FLAT_LIMIT, UDATA_ATTR);
    assert_false(rc_shadow_sync(&r->s, cpu));
    assert_tables_are_harmless(r);
    cpu->gdtr.limit = METAL_SS0 + 6; /* now beyond the limit */
    assert_true(rc_shadow_sync(&r->s, cpu));
    assert_true(rc_shadow_init(&r->s, r->gdt, r->ldt));
    assert_tables_are_harmless(r);
    assert_int_equal(r->gdt[METAL_CS0 / 8 - 1], 0);
    free(r);
}

static void tables_that_are_not_aligned_to_entries_are_refused(void **state) {
    struct rig *r = boot(state);
    assert_false(rc_shadow_init(&r->s, NULL, r->ldt));
    assert_false(rc_shadow_init(&r->s, r->gdt, NULL));
    assert_false(rc_shadow_init(&r->s, (u64 *)((u8 *)r->gdt + 4), r->ldt));
    free(r);
}

/* ---- Limits, places, paging ---- */

static void entries_beyond_the_limit_are_absent(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    u32 index = L_UDATA / 8;
    static const u16 limits[] = {0xff, L_UDATA | 7, (L_UDATA | 7) - 1, L_UDATA & ~7, 7, 0, 0xff};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        bool inside = limits[i] >= (L_UDATA | 7);
        cpu->gdtr.limit = limits[i];
        assert_int_equal(rc_shadow_ready(&r->s, cpu), inside);
        assert_true(r->gdt[index] == (inside ? guest_entry(r, LGDT + index * 8) : 0));
        assert_true(rc_shadow_sync(&r->s, cpu));
    }
    free(r);
}

static void ldt_selectors_go_by_ldtr(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    for (u32 i = 0; i < 32; i++)
        put_desc(cpu->mmu, LLDT + i * 8, i << 16, 0xfff, UDATA_ATTR);
    assert_true(rc_shadow_sync(&r->s, cpu));
    assert_int_equal(r->ldt[0], 0);
    cpu->cpl = 0;
    assert_true(rc_lldt(cpu, L_LDT));
    cpu->cpl = 3;
    assert_true(rc_shadow_sync(&r->s, cpu));
    for (u32 i = 0; i < 32; i++)
        assert_true(r->ldt[i] == guest_entry(r, LLDT + i * 8));
    assert_true(rc_load_segment(cpu, SEG_FS, 7)); /* entry 0 of an LDT is a descriptor */
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->seg[SEG_LDTR].limit = 6;
    assert_false(rc_shadow_ready(&r->s, cpu));
    assert_int_equal(r->ldt[0] | r->ldt[31], 0);
    cpu->seg[SEG_LDTR].limit = 0xfffff; /* only 8192 entries have selectors */
    cpu->seg[SEG_LDTR].base = BIG;
    store64(ram(cpu, BIG + 0xfff8), desc_with(UDATA_ATTR));
    store64(ram(cpu, BIG), guest_entry(r, LLDT));
    assert_true(rc_shadow_ready(&r->s, cpu));
    assert_true(r->ldt[RC_SHADOW_ENTRIES - 1] == desc_with(UDATA_ATTR));
    cpu->cpl = 0;
    assert_true(rc_lldt(cpu, 0));
    cpu->cpl = 3;
    assert_false(rc_shadow_ready(&r->s, cpu));
    assert_int_equal(r->ldt[0] | r->ldt[RC_SHADOW_ENTRIES - 1], 0);
    free(r);
}

static void tables_that_cannot_be_read_or_that_ring_3_may_write_are_not_run_under(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    static const struct {
        u32 entry;
        bool ready;
    } rows[] = {{LGDT | 3, true}, {LGDT | 1, true},     {LGDT | 5, true}, {LGDT | 7, false},
                {LGDT, false},    {0xa0000 | 3, false}, {LGDT | 3, true}, {0x40000000 | 3, false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        /* Behind the MMU's back, as a kernel does that grants rights. */
        poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), rows[i].entry);
        assert_int_equal(rc_shadow_ready(&r->s, cpu), rows[i].ready);
        assert_int_equal(rc_shadow_sync(&r->s, cpu), rows[i].ready);
        assert_int_equal(rc_shadow_matches(&r->s, cpu), rows[i].ready);
        assert_tables_are_harmless(r);
    }
    poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), LGDT | 5);
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->cr4 |= CR4_SMAP; /* implicit accesses to a user page now fault */
    assert_false(rc_shadow_ready(&r->s, cpu));
    cpu->cr4 &= ~CR4_SMAP;
    assert_true(rc_shadow_ready(&r->s, cpu));
    poke32(cpu, PAGE_DIRECTORY, PAGE_TABLE | 6);
    assert_false(rc_shadow_ready(&r->s, cpu));
    poke32(cpu, PAGE_DIRECTORY, PAGE_TABLE | 7);
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->cr0 &= ~CR0_PG;
    assert_false(rc_shadow_sync(&r->s, cpu));
    free(r);
}

static void sync_leaves_faults_and_accessed_bits_alone(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), LGDT | 3);
    poke32(cpu, PAGE_DIRECTORY, PAGE_TABLE | 7);
    struct cpu before = snapshot(cpu);
    assert_true(rc_shadow_ready(&r->s, cpu));
    poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), LGDT | 3 | PTE_A | PTE_D);
    assert_true(rc_shadow_ready(&r->s, cpu));
    poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), LGDT | 2);
    assert_false(rc_shadow_ready(&r->s, cpu));
    assert_memory_equal(cpu, &before, sizeof before);
    assert_int_equal(peek32(cpu, PAGE_DIRECTORY), PAGE_TABLE | 7);
    assert_int_equal(peek32(cpu, PAGE_TABLE + 4 * (LGDT >> 12)), LGDT | 2);
    free(r);
}

/* A table across pages that are not neighbours in RAM, at any alignment; entries straddle. */
static void tables_may_lie_anywhere(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    for (u32 page = 0; page < 32; page++) /* linear page n is physical page 63 - n */
        poke32(cpu, PAGE_TABLE + 4 * ((BIG >> 12) + page), (BIG + (63 - page) * PAGE_BYTES) | 3);
    mmu_softtlb_flush(cpu);
    for (u32 skew = 0; skew < 24; skew++) {
        u32 base = BIG + PAGE_BYTES - 100 + skew;
        cpu->gdtr = (struct table_register){.base = base, .limit = skew % 3 ? 0x2fff : 0xffff};
        u32 count = (cpu->gdtr.limit + 1u) / 8;
        for (u32 i = 0; i < count; i++) {
            u64 raw = desc_with(i % 7 ? UDATA_ATTR : DATA_ATTR) + i;
            cpu->cpl = 0;
            assert_true(mmu_write(cpu, base + i * 8, &raw, 8, MMU_WRITE | MMU_SUPERVISOR));
            cpu->cpl = 3;
        }
        for (u32 change = 0; change < 40; change++) {
            assert_int_equal(rc_shadow_sync(&r->s, cpu), count < RC_SHADOW_GDT_FREE);
            for (u32 i = 0; i < RC_SHADOW_GDT_FREE; i++) {
                u64 raw = 0;
                if (i && i < count)
                    assert_true(mmu_read(cpu, base + i * 8, &raw, 8, MMU_SUPERVISOR));
                assert_true(r->gdt[i] == ((raw >> 45 & 3) == 3 ? raw : 0));
            }
            u32 at = base + 8 + change; /* bytes around the first page boundary */
            u8 byte = (u8)(change * 37 + skew);
            if ((at - base) % 8 < 5)
                assert_true(mmu_write(cpu, at + 64, &byte, 1, MMU_WRITE | MMU_SUPERVISOR));
        }
    }
    free(r);
}

static void a_table_wraps_at_4_gib(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    memcpy(ram(cpu, BIG + 0xfc0), ram(cpu, LGDT), 64);
    memcpy(ram(cpu, BIG + 0x1000), ram(cpu, LGDT + 64), 192);
    poke32(cpu, PAGE_DIRECTORY + 4 * 1023, (BIG + 0x2000) | 3);
    poke32(cpu, BIG + 0x2000 + 4 * 1023, BIG | 3);
    set_page(cpu, 0, 3);
    poke32(cpu, PAGE_TABLE, (BIG + 0x1000) | 3);
    cpu->gdtr.base = 0xffffffc0u;
    assert_true(rc_shadow_ready(&r->s, cpu));
    assert_true(r->gdt[L_UCODE / 8] == guest_entry(r, LGDT + (L_UCODE & ~7)));
    store64(ram(cpu, BIG + 0x1000 + 8), desc_with(UDATA_ATTR));
    assert_true(rc_shadow_ready(&r->s, cpu));
    assert_true(r->gdt[9] == desc_with(UDATA_ATTR));
    free(r);
}

static void pae_tables_are_watched_at_all_levels(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    u32 directory = BIG + 0x1000, table = BIG + 0x2000;
    store64(ram(cpu, directory), (u64)table | 7);
    for (u32 i = 0; i < 512; i++)
        store64(ram(cpu, table + 8 * i), (u64)i << 12 | (i == LGDT >> 12 ? 3 : 7));
    cpu->pdptr[0] = (u64)directory | 1;
    cpu->cr4 |= CR4_PAE;
    mmu_mode_changed(cpu);
    u64 *pte = (u64 *)ram(cpu, table + 8 * (LGDT >> 12)), *pde = (u64 *)ram(cpu, directory);
    assert_true(rc_shadow_ready(&r->s, cpu));
    *pte |= 4;
    assert_false(rc_shadow_ready(&r->s, cpu));
    *pte = (LGDT | 3) | BIT64(40); /* not RAM */
    assert_false(rc_shadow_ready(&r->s, cpu));
    *pte = (LGDT | 3) | PTE_NX; /* reserved without EFER.NXE */
    assert_false(rc_shadow_ready(&r->s, cpu));
    cpu->efer |= EFER_NXE;
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->efer &= ~(u64)EFER_NXE;
    assert_false(rc_shadow_ready(&r->s, cpu));
    *pte = LGDT | 3;
    assert_true(rc_shadow_ready(&r->s, cpu));
    *pde ^= 1;
    assert_false(rc_shadow_ready(&r->s, cpu));
    *pde ^= 1;
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->pdptr[0] = 0;
    assert_false(rc_shadow_ready(&r->s, cpu));
    free(r);
}

/* ---- Staleness ---- */

static void any_changed_bit_of_any_entry_is_picked_up(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    cpu->cpl = 0;
    assert_true(rc_lldt(cpu, L_LDT));
    cpu->cpl = 3;
    for (u32 i = 0; i < 32; i++)
        put_desc(cpu->mmu, LLDT + i * 8, i << 16, 0xfff, i % 3 ? UDATA_ATTR : UCODE_ATTR);
    assert_true(rc_shadow_ready(&r->s, cpu));
    for (u32 n = 0; n < 2 * 32 * 64; n++) {
        bool in_ldt = n & 1;
        u32 bit = n >> 1 & 63, i = n >> 7;
        u64 *guest = (u64 *)ram(cpu, (in_ldt ? LLDT : LGDT) + i * 8);
        u64 *real = (in_ldt ? r->ldt : r->gdt) + i, before = *real;
        *guest ^= BIT64(bit);
        bool used = !in_ldt && (i == L_UCODE / 8 || i == L_UDATA / 8 || i == L_TLS / 8);
        bool ready = rc_shadow_ready(&r->s, cpu);
        if (used)
            assert_false(ready);
        assert_entry_is_harmless(*real);
        if (*real)
            assert_true(*real == *guest);
        else if (before) /* it went: only these bits decide */
            assert_true(bit == 40 || (bit >= 42 && bit <= 47) || bit == 53);
        *guest ^= BIT64(bit);
        assert_true(rc_shadow_ready(&r->s, cpu));
        assert_true(*real == before);
    }
    free(r);
}

/* Through the remembered state, too: each entry of tables of all sizes, some of them in two pages.
 */
static void a_changed_entry_is_picked_up_at_any_size_and_place(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    for (u32 count = 16; count < 40; count++) {
        for (u32 skew = 0; skew < 16; skew += 4) {
            u32 base = BIG + PAGE_BYTES - 17 * 8 - 20 + skew; /* entries 19 or 18 may straddle */
            memset(ram(cpu, base), 0, 40 * 8);
            memcpy(ram(cpu, base), ram(cpu, LGDT), 16 * 8);
            cpu->gdtr = (struct table_register){.base = base, .limit = (u16)(count * 8 - 1)};
            for (u32 i = 16; i < count; i++) {
                assert_true(rc_shadow_ready(&r->s, cpu));
                assert_true(rc_shadow_ready(&r->s, cpu));
                assert_int_equal(r->gdt[i], 0);
                store64(ram(cpu, base + i * 8), desc_with(UDATA_ATTR));
                assert_true(rc_shadow_ready(&r->s, cpu));
                assert_true(r->gdt[i] == desc_with(UDATA_ATTR));
            }
        }
    }
    free(r);
}

static void a_change_of_address_space_is_picked_up(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    u32 directory = BIG + 0x1000, table = BIG + 0x2000, other = BIG + 0x3000;
    memcpy(ram(cpu, table), ram(cpu, PAGE_TABLE), PAGE_BYTES);
    memcpy(ram(cpu, other), ram(cpu, LGDT), PAGE_BYTES);
    poke32(cpu, directory, table | 7);
    poke32(cpu, table + 4 * (LGDT >> 12), other | 3);
    store64(ram(cpu, other + L_FREE), desc_with(UDATA_ATTR));
    for (int i = 0; i < 4; i++) {
        assert_true(rc_shadow_ready(&r->s, cpu));
        assert_true(r->gdt[L_FREE / 8] == (i & 1 ? desc_with(UDATA_ATTR) : 0));
        cpu->cr3 = i & 1 ? PAGE_DIRECTORY : directory;
        mmu_cr3_loaded(cpu);
    }
    poke32(cpu, PAGE_TABLE + 4 * (LGDT >> 12), other | 3); /* moved without a flush */
    assert_true(rc_shadow_ready(&r->s, cpu));
    assert_true(r->gdt[L_FREE / 8] == desc_with(UDATA_ATTR));
    free(r);
}

/* ---- Segment registers ---- */

static void a_register_that_a_reload_would_change_is_seen(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    assert_true(rc_shadow_ready(&r->s, cpu));
    for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
        struct segment *s = &cpu->seg[seg], saved = *s;
        for (unsigned what = 0; what < 20; what++) {
            if (what < 16)
                s->attr ^= BIT(what);
            else if (what == 16)
                s->limit ^= 0x1000;
            else if (what == 17)
                s->base += 16;
            else if (what == 18)
                s->selector = L_FREE | 3; /* absent */
            else
                s->attr |= ATTR_NULL;
            bool null = seg == SEG_FS && what != 18; /* an unusable register has no attributes */
            if (!null) {
                assert_false(rc_shadow_ready(&r->s, cpu));
                assert_false(rc_shadow_matches(&r->s, cpu));
            }
            *s = saved;
            assert_true(rc_shadow_ready(&r->s, cpu));
        }
    }
    free(r);
}

static void null_selectors_must_be_zero_and_unusable(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (size_t i = 0; i < ARRAY_LEN(data); i++) {
        for (u16 selector = 0; selector < 4; selector++) {
            assert_true(rc_load_segment(cpu, data[i], selector));
            assert_int_equal(rc_shadow_ready(&r->s, cpu), selector == 0);
        }
        assert_true(rc_load_segment(cpu, data[i], L_UDATA));
        cpu->seg[data[i]].selector = 0;
        assert_false(rc_shadow_ready(&r->s, cpu));
        cpu->seg[data[i]].selector = L_UDATA;
        assert_true(rc_shadow_ready(&r->s, cpu));
    }
    cpu->seg[SEG_SS].selector = 0;
    cpu->seg[SEG_SS].attr = ATTR_NULL;
    assert_true(rc_shadow_sync(&r->s, cpu));
    assert_false(rc_shadow_matches(&r->s, cpu));
    free(r);
}

static void each_register_takes_what_the_processor_would_load_there(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    static const struct {
        u32 attr;
        u8 rpl;
        bool cs, ss, data;
    } rows[] = {
        {UDATA_ATTR, 3, false, true, true},
        {UDATA_ATTR, 0, false, false, true},
        {UDATA_ATTR & ~ATTR_W, 3, false, false, true},
        {UDATA_ATTR | ATTR_E, 3, false, true, true},
        {UCODE_ATTR, 3, true, false, true},
        {UCODE_ATTR, 1, false, false, true},
        {UCODE_ATTR & ~ATTR_R, 3, true, false, false},
        {UCODE_ATTR & ~ATTR_DB, 3, true, false, true},
        {(UCODE_ATTR & ~ATTR_DPL) | ATTR_C, 3, true, false, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        put_desc(cpu->mmu, LGDT + L_FREE, 0x10000, FLAT_LIMIT, rows[i].attr);
        for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
            struct segment *s = &cpu->seg[seg], saved = *s;
            *s = (struct segment){.selector = (u16)(L_FREE | rows[i].rpl),
                                  .attr = rows[i].attr | ATTR_G,
                                  .limit = FLAT_LIMIT,
                                  .base = 0x10000};
            bool ok = seg == SEG_CS ? rows[i].cs : seg == SEG_SS ? rows[i].ss : rows[i].data;
            assert_int_equal(rc_shadow_ready(&r->s, cpu), ok);
            *s = saved;
        }
    }
    free(r);
}

static void reload_takes_over_what_the_program_loaded(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    put_desc(cpu->mmu, LGDT + L_FREE, 0x30000, 0xfff, UDATA_ATTR);
    put_desc(cpu->mmu, LLDT + 8, 0x40000, FLAT_LIMIT, UDATA_ATTR);
    put_desc(cpu->mmu, LGDT + L_FREE + 8, 0, FLAT_LIMIT,
             (UCODE_ATTR & ~(ATTR_DPL | ATTR_DB)) | ATTR_C);
    cpu->cpl = 0;
    assert_true(rc_lldt(cpu, L_LDT));
    cpu->cpl = 3;
    assert_true(rc_shadow_ready(&r->s, cpu));
    struct cpu emulated = snapshot(cpu);
    u16 now[6] = {L_FREE | 1, (L_FREE + 8) | 3, L_UDATA, 0, 0x0f, 2};
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        if (s != SEG_CS)
            assert_true(rc_load_segment(&emulated, s, now[s]));
    assert_true(rc_far_jump(&emulated, now[SEG_CS], cpu->eip, 4, 0));
    rc_shadow_reload(&r->s, cpu, now);
    assert_memory_equal(cpu->seg, emulated.seg, sizeof cpu->seg);
    assert_false(rc_shadow_ready(&r->s, cpu)); /* selector 2 */
    now[SEG_GS] = 0;
    rc_shadow_reload(&r->s, cpu, now);
    assert_true(rc_shadow_ready(&r->s, cpu));
    struct cpu before = snapshot(cpu);
    rc_shadow_reload(&r->s, cpu, now);
    assert_unchanged(cpu, &before);
    free(r);
}

/* ---- The state ---- */

static void states_that_must_not_run_directly_do_not(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    struct cpu good = snapshot(cpu);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        assert_true(rc_shadow_ready(&r->s, cpu) && rc_direct_state(cpu));                          \
        change;                                                                                    \
        assert_false(rc_direct_state(cpu));                                                        \
        assert_false(rc_shadow_ready(&r->s, cpu));                                                 \
        *cpu = good;                                                                               \
    } while (0)
#define ALLOWED(change)                                                                            \
    do {                                                                                           \
        assert_true(rc_shadow_ready(&r->s, cpu));                                                  \
        change;                                                                                    \
        assert_true(rc_direct_state(cpu));                                                         \
        assert_true(rc_shadow_ready(&r->s, cpu));                                                  \
        *cpu = good;                                                                               \
    } while (0)
    for (u8 cpl = 0; cpl < 3; cpl++)
        REFUSED(cpu->cpl = cpl);
    REFUSED(cpu->cr0 &= ~CR0_PE);
    REFUSED(cpu->cr0 &= ~CR0_PG);
    REFUSED(cpu->cr0 |= CR0_TS);
    REFUSED(cpu->cr0 |= CR0_EM);
    REFUSED(cpu->cr4 &= ~CR4_OSFXSR);
    REFUSED(cpu->eflags |= F_TF);
    REFUSED(cpu->eflags &= ~F_IF);
    REFUSED(cpu->eflags |= 1 << IOPL_SHIFT);
    REFUSED(cpu->eflags |= F_IOPL);
    REFUSED(cpu->eflags |= F_VM);
    REFUSED(cpu->eflags |= F_VIF);
    REFUSED(cpu->eflags |= F_VIP);
    REFUSED(cpu->eflags |= F_AC);
    REFUSED(cpu->shadow = SHADOW_STI);
    REFUSED(cpu->shadow = SHADOW_SS);
    for (unsigned bit = 0; bit < 8; bit++)
        REFUSED(cpu->dr[7] |= BIT(bit));
    REFUSED(cpu->seg[SEG_SS].attr &= ~ATTR_DB);
    REFUSED((cpu->seg[SEG_CS].limit = 0xfff, cpu->eip = 0x1000));
    ALLOWED((cpu->eflags |= F_AC, cpu->cr0 |= CR0_AM));
    ALLOWED(cpu->cr0 |= CR0_AM);
    ALLOWED(cpu->eflags |= F_RF | F_DF | F_NT | F_ID | F_ARITH);
    ALLOWED(cpu->cr4 |= CR4_TSD | CR4_DE);
    ALLOWED(cpu->dr[7] |= 0xffff0000u);
    ALLOWED(cpu->nmi_blocked = true);
    ALLOWED(cpu->eip = 0xffffffffu);
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->eflags |= F_AC; /* after the state without it was remembered as good */
    assert_false(rc_shadow_ready(&r->s, cpu));
    free(r);
}

static void eip_beyond_a_small_code_segment_is_refused(void **state) {
    struct rig *r = boot(state);
    struct cpu *cpu = r->cpu;
    put_desc(cpu->mmu, LGDT + L_FREE, 0, 0xffff, UCODE_ATTR & ~ATTR_DB);
    cpu->cpl = 3;
    assert_true(rc_far_jump(cpu, L_FREE | 3, 0xffff, 4, 0));
    assert_true(rc_shadow_ready(&r->s, cpu));
    cpu->eip = 0x10000;
    assert_false(rc_shadow_ready(&r->s, cpu));
    cpu->eip = 0;
    assert_true(rc_shadow_ready(&r->s, cpu));
    free(r);
}

/* ---- Cost ---- */

static volatile sig_atomic_t steps;
static void on_step(int signal_number) {
    (void)signal_number;
    steps++;
}
#define SET_TF(operation, value)                                                                   \
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\t" operation " $" value                   \
                     ", (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp" ::                              \
                         : "memory", "cc")

/* Host instructions of one call, by the processor's single step. The few around it count, too. */
static __attribute__((noinline)) unsigned instructions_of(struct rig *r) {
    steps = 0;
    SET_TF("orq", "0x100");
    bool ready = rc_shadow_ready(&r->s, r->cpu);
    SET_TF("andq", "-0x101");
    assert_true(ready);
    return (unsigned)steps;
}

static void the_remembered_path_is_short(void **state) {
    struct rig *r = boot(state);
    struct sigaction action = {.sa_handler = on_step}, old;
    assert_int_equal(sigaction(SIGTRAP, &action, &old), 0);
    unsigned first = instructions_of(r), again = instructions_of(r);
    store64(ram(r->cpu, LGDT + (L_TLS & ~7) + 8), desc_with(UDATA_ATTR));
    unsigned changed = instructions_of(r);
    r->cpu->cpl = 0;
    assert_true(rc_lldt(r->cpu, L_LDT));
    r->cpu->cpl = 3;
    unsigned new_ldt = instructions_of(r), with_ldt = instructions_of(r);
    assert_int_equal(sigaction(SIGTRAP, &old, NULL), 0);
    printf("  host instructions: first %u, remembered %u, one entry changed %u; with an LDT of 32 "
           "entries: first %u, remembered %u\n",
           first, again, changed, new_ldt, with_ldt);
    assert_true(again < first);
#if defined(__OPTIMIZE__) && !defined(RINGFOLD_SANITIZED)
    assert_true(again <= 170);
#endif
    free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(each_kind_of_descriptor_is_mirrored_hidden_or_keeps_the_state_out),
        TEST(the_null_descriptor_and_the_monitors_entries_are_never_written),
        TEST(tables_that_are_not_aligned_to_entries_are_refused),
        TEST(entries_beyond_the_limit_are_absent),
        TEST(ldt_selectors_go_by_ldtr),
        TEST(tables_that_cannot_be_read_or_that_ring_3_may_write_are_not_run_under),
        TEST(sync_leaves_faults_and_accessed_bits_alone),
        TEST(tables_may_lie_anywhere),
        TEST(a_table_wraps_at_4_gib),
        TEST(pae_tables_are_watched_at_all_levels),
        TEST(any_changed_bit_of_any_entry_is_picked_up),
        TEST(a_changed_entry_is_picked_up_at_any_size_and_place),
        TEST(a_change_of_address_space_is_picked_up),
        TEST(a_register_that_a_reload_would_change_is_seen),
        TEST(null_selectors_must_be_zero_and_unusable),
        TEST(each_register_takes_what_the_processor_would_load_there),
        TEST(reload_takes_over_what_the_program_loaded),
        TEST(states_that_must_not_run_directly_do_not),
        TEST(eip_beyond_a_small_code_segment_is_refused),
        TEST(the_remembered_path_is_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
