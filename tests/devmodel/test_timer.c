/* The timer list: the earliest deadline, one firing per arming, and no way to hang the monitor. */
#include "pc_fixture.h"

#include "devmodel/machine.h"

struct probe {
    struct dev_timer timer;
    unsigned fired;
    u64 rearm_ns; /* 0: stay silent */
};

static void fire(void *opaque) {
    struct probe *p = opaque;
    p->fired++;
    if (p->rearm_ns)
        dev_timer_arm(&p->timer, p->rearm_ns);
}

static void timers_fire_once_when_due(void **state) {
    (void)state;
    struct dev_timers list = {0};
    struct probe a = {0}, b = {0};
    dev_timer_init(&list, &a.timer, fire, &a);
    dev_timer_init(&list, &b.timer, fire, &b);
    assert_int_equal(dev_timers_next_ns(&list), DEV_NEVER);
    dev_timer_arm(&a.timer, 200);
    dev_timer_arm(&b.timer, 100);
    assert_int_equal(dev_timers_next_ns(&list), 100);
    dev_timers_run(&list, 99);
    assert_int_equal(a.fired + b.fired, 0);
    dev_timers_run(&list, 100);
    assert_int_equal(b.fired, 1);
    assert_int_equal(dev_timers_next_ns(&list), 200);
    dev_timers_run(&list, 1000);
    dev_timers_run(&list, 2000);
    assert_int_equal(a.fired, 1);
    assert_int_equal(b.fired, 1);
}

static void cancelled_timers_stay_silent(void **state) {
    (void)state;
    struct dev_timers list = {0};
    struct probe a = {0};
    dev_timer_init(&list, &a.timer, fire, &a);
    dev_timer_arm(&a.timer, 5);
    dev_timer_cancel(&a.timer);
    dev_timers_run(&list, UINT64_MAX - 1);
    assert_int_equal(a.fired, 0);
}

static void rearming_in_the_past_does_not_loop(void **state) {
    (void)state;
    struct dev_timers list = {0};
    struct probe a = {.rearm_ns = 1};
    dev_timer_init(&list, &a.timer, fire, &a);
    dev_timer_arm(&a.timer, 1);
    dev_timers_run(&list, 100);
    assert_int_equal(a.fired, 1);
    assert_int_equal(dev_timers_next_ns(&list), 1);
}

static void ticks_and_nanoseconds_agree(void **state) {
    (void)state;
    static const u64 hz[] = {1193182, 3579545, 32768};
    for (unsigned i = 0; i < ARRAY_LEN(hz); i++)
        for (u64 t = 1; t < UINT64_C(1) << 44; t = t * 3 + 1) {
            u64 ns = dev_ticks_to_ns(t, hz[i]);
            assert_int_equal(dev_ns_to_ticks(ns, hz[i]), t);
            assert_int_equal(dev_ns_to_ticks(ns - 1, hz[i]), t - 1);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_once_when_due),
        cmocka_unit_test(cancelled_timers_stay_silent),
        cmocka_unit_test(rearming_in_the_past_does_not_loop),
        cmocka_unit_test(ticks_and_nanoseconds_agree),
    };
    return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
