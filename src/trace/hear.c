/*
 * hear.c: the half of the recorder that the translator calls. Light callouts reach it with the
 * guest's x87 and SSE state in the registers, so it only copies into a buffer: general registers
 * only, no library calls.
 */
#include "trace/recorder.h"

/* Not memcpy, which may use vector registers. */
static void copy(u8 *to, const u8 *from, u32 bytes) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"((u64){bytes}) : : "memory");
}

static struct heard *take_room(struct tt_recorder *r, u32 bytes) {
    bytes = (u32)ALIGN_UP(sizeof(struct heard) + bytes, 16);
    if (r->used + bytes > HEARD_BYTES) {
        r->lost = true;
        return NULL;
    }
    struct heard *h = (struct heard *)(r->buffer + r->used);
    r->used += bytes;
    h->bytes = bytes;
    /* The monitor drains the buffer between runs: ask for that in time. */
    if (r->used > HEARD_BYTES / 2)
        bt_kick_sigsafe(r->bt);
    return h;
}

void tt_hear(void *opaque, const struct bt_event *event) {
    struct tt_recorder *r = opaque;
    const struct bt_context *c = event->context;
    if (event->kind == BT_EVENT_flush)
        tt_hear_counts(r);
    struct heard *h = take_room(r, c ? c->code_bytes + c->code2_bytes : 0);
    if (!h)
        return;
    h->is_counts = false;
    h->event = *event;
    if (!c)
        return;
    if (event->unit < r->count_capacity && event->unit >= r->units)
        r->units = event->unit + 1;
    h->context = *c;
    copy(h->payload, c->code, c->code_bytes);
    copy(h->payload + c->code_bytes, c->code2, c->code2_bytes);
}

void tt_hear_counts(struct tt_recorder *r) {
    const u64 *exact = bt_executions(r->bt), *count = exact ? exact : r->count;
    u32 n = 0;
    for (u32 i = 0; i < r->units; i++)
        n += count[i] != 0;
    struct heard *h = n ? take_room(r, n * (u32)sizeof(struct tt_count)) : NULL;
    struct tt_count *to = h ? (struct tt_count *)h->payload : NULL;
    if (h) {
        h->is_counts = true;
        h->counts = n;
    }
    for (u32 i = 0; i < r->units; i++) {
        if (to && count[i])
            *to++ = (struct tt_count){i, count[i]};
        r->count[i] = 0;
    }
    r->units = 0;
}
