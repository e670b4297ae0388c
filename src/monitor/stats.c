/*
 * stats.c: every counter there is, from its list, with the help text as the unit; or all of them as
 * one JSON object.
 */
#include "monitor/vm.h"

#include <stdio.h>

struct sink {
    void (*print)(void *, const char *);
    void *opaque;
    bool json;
    bool begun; /* json: a row was printed */
};

static void put(struct sink *s, const char *name, const char *value, const char *help) {
    char text[160];
    if (s->json)
        snprintf(text, sizeof text, "%s\"%s\": %s", s->begun ? ", " : "{", name, value);
    else
        snprintf(text, sizeof text, "%-24s %14s  %s", name, value, help);
    s->begun = true;
    s->print(s->opaque, text);
}

static void row(struct sink *s, const char *name, u64 value, const char *help) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    put(s, name, text, help);
}

static void ratio_row(struct sink *s, const char *name, u64 a, u64 b, unsigned digits,
                      const char *help) {
    char text[40];
    snprintf(text, sizeof text, "%.*f", (int)digits, (double)a / (double)b);
    put(s, name, text, help);
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
    if (!c->guest_insns_translated || !c->guest_bytes_translated)
        return;
    ratio_row(s, "bt.translate_cycles", c->translate_tsc, c->guest_insns_translated, 1,
              "host TSC cycles per guest instruction translated");
    ratio_row(s, "bt.expansion", c->host_bytes_emitted, c->guest_bytes_translated, 2,
              "host bytes per guest byte");
}

void mon_stats_print(struct vm *vm, bool json, void (*print)(void *, const char *), void *opaque) {
    struct sink s = {.print = print, .opaque = opaque, .json = json};
    monitor_counters(vm, &s);
    interp_counter_rows(interp_counters(vm->interp), &s);
    mmu_counters(vm->mmu, &s);
    if (vm->bt)
        bt_counter_rows(bt_counters(vm->bt), &s);
    if (json)
        print(opaque, "}");
}

void mon_rings_print(struct vm *vm, void (*print)(void *, const char *), void *opaque) {
    if (vm->bt)
        bt_ring_report(vm->bt, print, opaque);
    else
        print(opaque, "rings: the interpreter runs no guest code on the CPU");
}
