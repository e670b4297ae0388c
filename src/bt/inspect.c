/*
 * inspect.c: looking inside the translator: units by host pc, guest and host code side by side,
 * counters.
 */
#include "bt/bt_internal.h"

#include <capstone/capstone.h>
#include <stdio.h>

static void describe(const struct bt *bt, u32 index, struct bt_unit_info *out) {
    const struct bt_unit *u = &bt->unit[index];
    *out = (struct bt_unit_info){.eip = u->eip,
                                 .guest_bytes = u->guest_bytes,
                                 .insns = u->insns,
                                 .gpa = u->gpa,
                                 .host = bt->cache_rx + u->host,
                                 .host_bytes = u->host_bytes,
                                 .cpl = u->cpl,
                                 .due = bt->lockstep_sample || u->lockstep_runs < LOCKSTEP_FIRST,
                                 .id = bt->generation << 32 | index};
}

bool bt_unit_at(const struct bt *bt, u64 pc, struct bt_unit_info *out) {
    u32 index = cache_unit_at(bt, pc);
    if (index == BT_NONE)
        return false;
    describe(bt, index, out);
    return true;
}

bool bt_pc_to_eip(const struct bt *bt, u64 pc, u32 *eip) {
    u32 index = cache_unit_at(bt, pc);
    if (index == BT_NONE)
        return false;
    const struct bt_unit *u = &bt->unit[index];
    *eip = u->eip +
           cache_pc_lookup(bt, u, (u32)(bt_plain_address(bt, pc) - (u64)bt->cache_rx) - u->host)
               ->guest;
    return true;
}

bool bt_unit_current(struct bt *bt, struct bt_unit_info *out) {
    struct cpu *cpu = bt->cpu;
    struct mmu_xlat x;
    if (!bt_mode_translatable(cpu) || !mmu_probe(cpu, GLIN(cpu->eip), &x))
        return false;
    u32 index = cache_find(bt, x.gpa.v, cpu->eip, cpu->cpl, bt_fp_allowed(cpu));
    if (index == BT_NONE)
        return false;
    describe(bt, index, out);
    return true;
}

void bt_lockstep_compare(struct bt *bt) {
    bt->lockstep_compare = true;
    bt->lockstep_sample = false;
}

u32 bt_last_unit_insns(const struct bt *bt) {
    return bt->last_unit_insns;
}

unsigned bt_last_units(const struct bt *bt, struct bt_unit_info *out, unsigned max) {
    unsigned n = 0;
    for (u32 i = 0; i < BT_RECENT && n < max; i++) {
        u32 index = bt->recent[(bt->recent_next - 1 - i) % BT_RECENT];
        if (index == BT_NONE || index >= bt->unit_count)
            break;
        describe(bt, index, &out[n++]);
    }
    return n;
}

const struct bt_counters *bt_counters(const struct bt *bt) {
    struct bt_counters *c = bt->stats;
    c->return_misses = bt_hot(bt->cpu)->return_misses;
    c->callouts = 0;
    for (unsigned i = 0; i < BT_CALLOUT_COUNT; i++)
        c->callouts += c->callouts_by_kind[i];
    return c;
}

/* ---- listing ---- */

struct listing {
    const struct bt *bt;
    void (*print)(void *, const char *);
    void *opaque;
    csh capstone;
    cs_insn *host;
};

static void list_guest(struct listing *l, const struct bt_unit *u, u32 offset) {
    struct insn in;
    char text[96], line[160];
    u32 eip = u->eip + offset;
    const u8 *code = mmu_ram(l->bt->cpu->mmu) + u->gpa + offset;
    size_t room = PAGE_BYTES - ((u->gpa + offset) & PAGE_OFFSET_MASK);
    if (insn_decode(&in, code, MIN(room, INSN_MAX_BYTES), true, true) == INSN_OK)
        insn_format(&in, eip, text, sizeof text);
    else
        snprintf(text, sizeof text, "(not decoded)");
    snprintf(line, sizeof line, "%08x  %s", eip, text);
    l->print(l->opaque, line);
}

static void list_host(struct listing *l, const struct bt_unit *u, u32 from, u32 to) {
    const u8 *code = l->bt->cache_rx + u->host + from;
    size_t left = to - from;
    u64 address = (u64)(u->host + from);
    char line[256];
    while (left && cs_disasm_iter(l->capstone, &code, &left, &address, l->host)) {
        snprintf(line, sizeof line, "                 +%-5llx %s %s",
                 (unsigned long long)(l->host->address - u->host), l->host->mnemonic,
                 l->host->op_str);
        l->print(l->opaque, line);
    }
}

void bt_dump_unit(struct bt *bt, const struct bt_unit_info *info,
                  void (*print)(void *, const char *line), void *opaque) {
    struct listing l = {.bt = bt, .print = print, .opaque = opaque};
    u32 index = cache_unit_at(bt, (u64)info->host);
    if (index == BT_NONE || cs_open(CS_ARCH_X86, CS_MODE_64, &l.capstone) != CS_ERR_OK)
        return;
    l.host = cs_malloc(l.capstone);
    const struct bt_unit *u = &bt->unit[index];
    char line[128];
    snprintf(line, sizeof line, "unit %u: eip %08x cpl %u, %u guest bytes -> %u host bytes", index,
             u->eip, u->cpl, u->guest_bytes, u->host_bytes);
    print(opaque, line);
    for (u32 i = 0; i < u->pc_count; i++) {
        const struct bt_pc *pc = &bt->pc[u->pc_first + i];
        u32 end = i + 1 < u->pc_count ? bt->pc[u->pc_first + i + 1].host : u->host_bytes;
        if (i > 0 && pc->recovery == RECOVER_PLAIN && pc->guest < u->guest_bytes)
            list_guest(&l, u, pc->guest);
        list_host(&l, u, pc->host, end);
    }
    cs_free(l.host, 1);
    cs_close(&l.capstone);
}
