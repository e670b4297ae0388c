/*
 * observe.c: tells an observer what happens to the translation cache. Light callouts reach this
 * with the guest's x87 and SSE state in the registers: general registers only.
 */
#include "bt/bt_internal.h"

bool bt_observe(struct bt *bt, bt_observer *observer, void *opaque) {
    if (bt->listeners == BT_MAX_OBSERVERS)
        return false;
    bt->listener[bt->listeners++] = (struct bt_listener){observer, opaque};
    return true;
}

void bt_unobserve(struct bt *bt, bt_observer *observer, void *opaque) {
    unsigned kept = 0;
    for (unsigned i = 0; i < bt->listeners; i++)
        if (bt->listener[i].observer != observer || bt->listener[i].opaque != opaque)
            bt->listener[kept++] = bt->listener[i];
    bt->listeners = kept;
}

const u64 *bt_executions(const struct bt *bt) {
    return bt->executions;
}

void bt_tell(struct bt *bt, const struct bt_event *event) {
    for (unsigned i = 0; i < bt->listeners; i++)
        bt->listener[i].observer(bt->listener[i].opaque, event);
}

/* The decoder looks as far as the longest instruction behind the last byte it took, within the
 * page; an instruction that spans two pages is alone in its unit. */
void bt_tell_translation(struct bt *bt, const struct translation *t, u32 unit) {
    const struct bt_unit *u = &bt->unit[unit];
    const u8 *ram = mmu_ram(bt->cpu->mmu);
    u32 room = PAGE_BYTES - (t->eip & PAGE_OFFSET_MASK);
    struct bt_context context = {.eip = t->eip,
                                 .gpa = t->gpa,
                                 .gpa2 = t->page2,
                                 .cpl = t->cpl,
                                 .fp_ok = t->fp_ok,
                                 .tsc_inline = bt->tsc_inline,
                                 .tsd = bt->cpu->cr4 & CR4_TSD,
                                 .checked = t->checked,
                                 .live = t->live,
                                 .adapted = t->adapted,
                                 .broken = t->broken,
                                 .code = ram + t->gpa,
                                 .code_bytes = MIN(t->guest_bytes + INSN_MAX_BYTES, room)};
    if (t->page2 != UINT64_MAX) {
        context.code2 = ram + t->page2;
        context.code2_bytes = INSN_MAX_BYTES;
    }
    BT_TELL(bt, .kind = BT_EVENT_translate, .unit = unit, .context = &context, .insns = u->insns,
            .guest_bytes = u->guest_bytes, .host_bytes = u->host_bytes,
            .host = bt->cache_rx + u->host);
}
