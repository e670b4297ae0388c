/*
 * timer.c: one-shot timers in an unsorted list. A machine has fewer than a dozen, so a scan is
 * cheaper than keeping them in order.
 */
#include "devmodel/machine.h"

void dev_timer_init(struct dev_timers *list, struct dev_timer *t, void (*fire)(void *),
                    void *opaque) {
    *t = (struct dev_timer){.deadline_ns = DEV_NEVER, .fire = fire, .opaque = opaque};
    t->next = list->head;
    list->head = t;
}

void dev_timer_arm(struct dev_timer *t, u64 deadline_ns) {
    t->deadline_ns = deadline_ns;
}

void dev_timer_cancel(struct dev_timer *t) {
    t->deadline_ns = DEV_NEVER;
}

u64 dev_timers_next_ns(const struct dev_timers *list) {
    u64 next = DEV_NEVER;
    for (const struct dev_timer *t = list->head; t; t = t->next)
        next = MIN(next, t->deadline_ns);
    return next;
}

/* One pass: a timer that arms itself again for a time already past waits for the next call, so
 * that no guest setting can keep the monitor here. */
void dev_timers_run(struct dev_timers *list, u64 now_ns) {
    for (struct dev_timer *t = list->head; t; t = t->next) {
        if (t->deadline_ns == DEV_NEVER || t->deadline_ns > now_ns)
            continue;
        t->deadline_ns = DEV_NEVER;
        t->fire(t->opaque);
    }
}
