/*
 * replay_hosted.c: -icount's log of inputs. Recording writes one line per arrival, "TIME-ns
 * HEXBYTES"; replaying feeds the same bytes at the same virtual times and ignores standard input.
 */
#include "monitor/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct mon_replay {
    FILE *file;
    bool recording;
    u64 next_ns; /* replay: when the pending bytes are due */
    u8 data[256];
    size_t bytes;
};

static void read_next(struct mon_replay *r) {
    char text[600];
    unsigned long long ns;
    int at;
    r->next_ns = DEV_NEVER;
    r->bytes = 0;
    if (!fgets(text, sizeof text, r->file) || sscanf(text, "%llu %n", &ns, &at) != 1)
        return;
    unsigned byte;
    for (const char *p = text + at; r->bytes < sizeof r->data && sscanf(p, "%2x", &byte) == 1;
         p += 2)
        r->data[r->bytes++] = (u8)byte;
    r->next_ns = ns;
}

bool mon_replay_open(struct vm *vm, struct mon_error *err) {
    if (vm->opt.rr == MON_RR_NONE)
        return true;
    struct mon_replay *r = vm->replay = calloc(1, sizeof *r);
    if (!r)
        return mon_fail(err, "out of memory");
    r->recording = vm->opt.rr == MON_RR_RECORD;
    r->file = fopen(vm->opt.rr_file, r->recording ? "we" : "re");
    if (!r->file)
        return mon_fail(err, "-icount: could not open '%s': %s", vm->opt.rr_file, strerror(errno));
    r->next_ns = DEV_NEVER;
    if (!r->recording)
        read_next(r);
    return true;
}

void mon_replay_close(struct vm *vm) {
    if (vm->replay && vm->replay->file)
        fclose(vm->replay->file);
    free(vm->replay);
    vm->replay = NULL;
}

void mon_replay_record(struct vm *vm, const u8 *data, size_t bytes) {
    struct mon_replay *r = vm->replay;
    if (!r || !r->recording)
        return;
    fprintf(r->file, "%llu ", (unsigned long long)mon_clock_now_ns(vm));
    for (size_t i = 0; i < bytes; i++)
        fprintf(r->file, "%02x", data[i]);
    fputc('\n', r->file);
    fflush(r->file);
}

u64 mon_replay_next_ns(const struct vm *vm) {
    return vm->replay && !vm->replay->recording ? vm->replay->next_ns : DEV_NEVER;
}

void mon_replay_poll(struct vm *vm) {
    struct mon_replay *r = vm->replay;
    while (mon_replay_next_ns(vm) <= mon_clock_now_ns(vm)) {
        mon_console_feed(vm, r->data, r->bytes);
        read_next(r);
    }
}
