/*
 * world.c: see world.h.
 */
#include "world.h"

#include "ringcomp/ringcomp.h"

#include <stdio.h>
#include <stdlib.h>

static void need(bool ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "micro benchmarks: no memory for %s\n", what);
    exit(EXIT_FAILURE);
}

static struct segment flat_segment(u16 selector, bool code) {
    return (struct segment){.selector = selector,
                            .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G |
                                    (code ? (u32)ATTR_CODE : 0),
                            .limit = 0xffffffff};
}

void world_open(struct world *w) {
    struct bt_config config;
    struct mmu_error err;
    char text[160];
    w->cpu = cpu_create();
    need(w->cpu, "the CPU");
    w->cpu->mmu = mmu_create(WORLD_RAM_BYTES, &err);
    need(w->cpu->mmu, "the guest");
    w->ram = mmu_ram(w->cpu->mmu);
    cpu_reset(w->cpu);
    w->cpu->cr0 = CR0_PE | CR0_NE | CR0_ET | CR0_WP;
    w->cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        w->cpu->seg[s] = flat_segment(s == SEG_CS ? 8 : 16, s == SEG_CS);
    w->cpu->gpr[R_ESP] = WORLD_STACK_TOP;
    bt_config_default(&config);
    config.hot_threshold = 0;
    w->bt = bt_create(w->cpu, &config, text, sizeof text);
    need(w->bt, "the translator");
    world_put(w, sample_code, (size_t)(sample_code_end - sample_code));
}

void world_close(struct world *w) {
    bt_destroy(w->bt);
    mmu_destroy(w->cpu->mmu);
    cpu_destroy(w->cpu);
}

void world_enable_paging(struct world *w) {
    const u32 rights = PTE_P | PTE_W | PTE_A | PTE_D;
    for (u32 i = 0; i < WORLD_RAM_BYTES >> 22; i++)
        store32(w->ram + WORLD_PAGE_DIRECTORY + 4 * i,
                (WORLD_PAGE_TABLES + i * PAGE_BYTES) | rights);
    for (u32 page = 0; page < WORLD_RAM_BYTES >> PAGE_SHIFT; page++)
        store32(w->ram + WORLD_PAGE_TABLES + 4 * page, page << PAGE_SHIFT | rights);
    w->cpu->cr3 = WORLD_PAGE_DIRECTORY;
    w->cpu->cr0 |= CR0_PG;
    mmu_mode_changed(w->cpu);
}

void world_put(struct world *w, const u8 *code, size_t bytes) {
    memcpy(w->ram + WORLD_CODE, code, bytes);
    mmu_phys_written(w->cpu->mmu, GPA(WORLD_CODE), bytes);
    w->cpu->eip = WORLD_CODE;
}

unsigned sample_offsets(u32 offset[SAMPLE_MAX_INSNS]) {
    const size_t bytes = (size_t)(sample_code_end - sample_code);
    struct insn in;
    unsigned n = 0;
    for (size_t at = 0; at < bytes && n < SAMPLE_MAX_INSNS; at += in.length) {
        if (insn_decode(&in, sample_code + at, bytes - at, true, true) != INSN_OK)
            break;
        offset[n++] = (u32)at;
    }
    return n;
}

unsigned sample_units(struct world *w, u32 offset[SAMPLE_MAX_INSNS]) {
    const u32 bytes = (u32)(sample_code_end - sample_code);
    unsigned n = 0;
    for (u32 at = 0; at < bytes && n < SAMPLE_MAX_INSNS;) {
        offset[n++] = at;
        u32 unit = bt_translate(w->bt, WORLD_CODE + at, WORLD_CODE + at);
        at += w->bt->unit[unit].guest_bytes;
    }
    cache_flush(w->bt, BT_CAUSE_request);
    return n;
}
