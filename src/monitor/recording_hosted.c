/*
 * recording_hosted.c: -trace-out: the translation trace of this run.
 */
#include "monitor/vm.h"
#include "trace/trace.h"

#include <stdio.h>

bool mon_recording_open(struct vm *vm, struct mon_error *err) {
    const struct mon_options *o = &vm->opt;
    struct tt_header header = {.ram_bytes = o->ram_bytes,
                               .config = o->bt,
                               .model = vm->model,
                               .version = RINGFOLD_VERSION,
                               .exact_counts = o->bt.count};
    struct tt_error why;
    if (!o->translation_trace)
        return true;
    if (!vm->bt)
        return mon_fail(err, "-trace-out: -accel %s translates nothing", o->accel);
    snprintf(header.note, sizeof header.note, "-kernel %.100s -append %.100s",
             o->kernel ? o->kernel : "none", o->append ? o->append : "");
    vm->recording = tt_record(vm->bt, o->translation_trace, &header, &why);
    return vm->recording || mon_fail(err, "-trace-out: %s", why.text);
}

void mon_recording_drain(struct vm *vm) {
    tt_record_drain(vm->recording);
}

bool mon_recording_end(struct vm *vm) {
    struct tt_totals totals;
    struct tt_error why;
    if (!vm->recording)
        return true;
    bool ok = tt_record_end(vm->recording, &totals, &why);
    vm->recording = NULL;
    if (!ok) {
        log_error("-trace-out: %s", why.text);
        return false;
    }
    u64 events = 0;
    for (unsigned i = 0; i < BT_EVENT_COUNT; i++)
        events += totals.events[i];
    log_printf("%s: %llu events, %llu units of %llu guest instructions in %llu bytes of code\n",
               vm->opt.translation_trace, (unsigned long long)events,
               (unsigned long long)totals.events[BT_EVENT_translate],
               (unsigned long long)totals.guest_insns, (unsigned long long)totals.code_bytes);
    return true;
}
