/*
 * bench_mmu.c: guest memory: the walk of the guest's tables, an emulated access that the soft TLB
 * knows, and filling and dropping a window's page.
 */
#include "world.h"

static void walk(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    struct mmu_xlat x;
    u32 at = WORLD_DATA;
    world_open(&w);
    world_enable_paging(&w);
    while (gb_keep_running(state)) {
        gb_use(mmu_translate(w.cpu, GLIN(at), MMU_READ, false, &x));
        at = WORLD_DATA + ((at + PAGE_BYTES) & 0xfffff);
    }
    world_close(&w);
}

static void soft_access(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    u32 value;
    world_open(&w);
    world_enable_paging(&w);
    while (gb_keep_running(state)) {
        mmu_read(w.cpu, WORLD_DATA, &value, sizeof value, MMU_READ);
        gb_use(value);
    }
    world_close(&w);
}

/* A hidden fault without the host's signal, and the INVLPG that takes the page out again because
 * the guest's entry has changed. */
static void fill_and_drop(struct gb_state *state, void *user) {
    (void)user;
    struct world w;
    world_open(&w);
    world_enable_paging(&w);
    mmu_windows_set_foresight(w.cpu, false);
    u8 *entry = w.ram + WORLD_PAGE_TABLES + (WORLD_DATA >> PAGE_SHIFT) * 4;
    while (gb_keep_running(state)) {
        store32(entry, load32(entry) | PTE_P);
        if (mmu_window_fault(w.cpu, false, GLIN(WORLD_DATA), true) != MMU_FAULT_FILLED)
            gb_skip_with_error(state, "the page was not filled");
        store32(entry, load32(entry) & ~(u32)PTE_P);
        mmu_invlpg(w.cpu, GLIN(WORLD_DATA));
        mmu_current_view(w.cpu, false);
    }
    gb_set_counter(state, "host_maps", (double)w.cpu->mmu->stat_host_maps, GB_PER_ITERATION);
    world_close(&w);
}

void bench_mmu_register(void) {
    gb_register("mmu/walk", walk, NULL);
    gb_register("mmu/soft_access", soft_access, NULL);
    gb_register("mmu/window_fill_drop", fill_and_drop, NULL);
}
