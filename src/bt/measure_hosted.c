/*
 * measure_hosted.c: a Linux process has one ring only, so there is nothing to tell apart.
 */
#include "bt/bt_internal.h"

void bt_ring_report(struct bt *bt, void (*print)(void *, const char *line), void *opaque) {
    (void)bt;
    print(opaque, "rings: on the hosted substrate everything runs in ring 3");
}

void bt_ring_measure(struct bt *bt, bool on) {
    (void)bt, (void)on;
}

void bt_ring_idle(struct bt *bt, u64 cycles) {
    (void)bt, (void)cycles;
}
