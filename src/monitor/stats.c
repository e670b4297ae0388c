/*
 * stats.c: every counter there is, from its list, with the help text as the unit.
 */
#include "monitor/vm.h"

#include <stdio.h>

struct sink {
    void (*print)(void *, const char *);
    void *opaque;
};

static void row(struct sink *s, const char *name, u64 value, const char *help) {
    char text[160];
    snprintf(text, sizeof text, "%-24s %14llu  %s", name, (unsigned long long)value, help);
    s->print(s->opaque, text);
}

static void monitor_counters(struct vm *vm, struct sink *s) {
    row(s, "guest_insns", vm->cpu->insn_count, "guest instructions counted (interpreted ones)");
    row(s, "virtual_ms", mon_clock_now_ns(vm) / 1000000, "virtual time");
    row(s, "host_ms", (mon_host_ns() - vm->host_start_ns) / 1000000, "host time since the start");
#define X(name, help) row(s, #name, vm->count.name, help);
    MON_COUNTERS(X)
#undef X
#define X(name, help) row(s, "exit." #name, vm->exit_count[MON_EXIT_##name], help);
    MON_EXITS(X)
#undef X
}

static void interp_counter_rows(const struct interp_counters *c, struct sink *s) {
#define X(name, help) row(s, "interp." #name, c->name, help);
    INTERP_COUNTERS(X)
#undef X
}

static void mmu_counters(const struct mmu *m, struct sink *s) {
    row(s, "mmu.hidden_faults", m->stat_hidden_faults, "host faults that filled a window");
    row(s, "mmu.true_faults", m->stat_true_faults, "host faults that were the guest's");
    row(s, "mmu.emulate_faults", m->stat_emulate_faults, "host faults that need emulation");
    row(s, "mmu.fills", m->stat_fills, "window fills");
    row(s, "mmu.pages_filled", m->stat_pages_filled, "pages mapped by them");
    row(s, "mmu.cr3_loads", m->stat_cr3_loads, "CR3 loads");
    row(s, "mmu.revalidated", m->stat_revalidated_regions, "regions kept across a CR3 load");
    row(s, "mmu.dropped_pages", m->stat_dropped_pages, "pages dropped from windows");
    row(s, "mmu.window_evictions", m->stat_window_evictions, "windows reused");
    row(s, "mmu.invlpg", m->stat_invlpg, "INVLPG");
    row(s, "mmu.host_maps", m->stat_host_maps, "host mapping calls");
}

static void bt_counter_rows(const struct bt_counters *c, struct sink *s) {
#define X(name, help) row(s, "bt." #name, c->name, help);
    BT_COUNTERS(X)
#undef X
#define X(name, help) row(s, "callout." #name, c->callouts_by_kind[BT_CALLOUT_##name], help);
    BT_CALLOUTS(X)
#undef X
#define X(name, help) row(s, "trap." #name, c->traps_by_class[BT_TRAP_INDEX_##name], help);
    BT_TRAP_CLASSES(X)
#undef X
    char text[160];
    if (!c->guest_insns_translated || !c->guest_bytes_translated)
        return;
    snprintf(text, sizeof text, "%-24s %14.1f  host TSC cycles per guest instruction translated",
             "bt.translate_cycles", (double)c->translate_tsc / (double)c->guest_insns_translated);
    s->print(s->opaque, text);
    snprintf(text, sizeof text, "%-24s %14.2f  host bytes per guest byte", "bt.expansion",
             (double)c->host_bytes_emitted / (double)c->guest_bytes_translated);
    s->print(s->opaque, text);
}

void mon_stats_print(struct vm *vm, void (*print)(void *, const char *), void *opaque) {
    struct sink s = {print, opaque};
    monitor_counters(vm, &s);
    interp_counter_rows(interp_counters(vm->interp), &s);
    mmu_counters(vm->mmu, &s);
    if (vm->bt)
        bt_counter_rows(bt_counters(vm->bt), &s);
}

void mon_rings_print(struct vm *vm, void (*print)(void *, const char *), void *opaque) {
    if (vm->bt)
        bt_ring_report(vm->bt, print, opaque);
    else
        print(opaque, "rings: the interpreter runs no guest code on the CPU");
}
