/*
 * debug_metal.c: what the bare machine does without: a socket for gdb, a log of inputs, lockstep
 * with the interpreter. Options refuse them (see struct mon_outside); the run loop finds them
 * absent.
 */
#include "monitor/vm.h"

/* ---- gdb: no file descriptor ever comes to be ---- */
bool mon_gdb_open(struct vm *vm, struct mon_error *err) {
    return !vm->opt.gdb_port || mon_fail(err, "-gdb: there is no network here");
}
void mon_gdb_close(struct vm *vm) {
    (void)vm;
}
void mon_gdb_service(struct vm *vm) {
    vm->events.gdb_ready = 0;
}
void mon_gdb_stopped(struct vm *vm, int signal) {
    (void)vm, (void)signal;
}
bool mon_gdb_step(struct vm *vm) {
    (void)vm;
    return false;
}
bool mon_gdb_is_breakpoint(const struct vm *vm, u32 lin) {
    (void)vm, (void)lin;
    return false;
}

/* ---- The log of inputs ---- */
bool mon_replay_open(struct vm *vm, struct mon_error *err) {
    return vm->opt.rr == MON_RR_NONE || mon_fail(err, "-icount: rr needs a file");
}
void mon_replay_close(struct vm *vm) {
    (void)vm;
}
void mon_replay_record(struct vm *vm, const u8 *data, size_t bytes) {
    (void)vm, (void)data, (void)bytes;
}
void mon_replay_poll(struct vm *vm) {
    (void)vm;
}
u64 mon_replay_next_ns(const struct vm *vm) {
    (void)vm;
    return DEV_NEVER;
}

/* ---- Hardware assist ---- */
const struct engine *const mon_engine_hardware = NULL;

/* ---- perf ---- */
bool mon_perfmap_open(struct vm *vm, struct mon_error *err) {
    (void)vm, (void)err;
    return true; /* the options are not there */
}
void mon_perfmap_close(struct vm *vm) {
    (void)vm;
}

/* ---- The sampler ---- */
bool mon_sampler_start(struct vm *vm, struct mon_error *err) {
    (void)vm, (void)err;
    return true; /* the options are not there */
}
void mon_sampler_drain(struct vm *vm) {
    (void)vm;
}
bool mon_sampler_end(struct vm *vm) {
    (void)vm;
    return true;
}

/* ---- The translation trace ---- */
bool mon_recording_open(struct vm *vm, struct mon_error *err) {
    (void)vm, (void)err;
    return true; /* the option is not there */
}
void mon_recording_drain(struct vm *vm) {
    (void)vm;
}
bool mon_recording_end(struct vm *vm) {
    (void)vm;
    return true;
}

/* ---- Lockstep ---- */
bool mon_lockstep_open(struct vm *vm, struct mon_error *err) {
    (void)vm;
    return mon_fail(err, "-lockstep: only the hosted substrate can do that");
}
void mon_lockstep_close(struct vm *vm) {
    (void)vm;
}
/* Without mon_lockstep_open having succeeded nobody comes here. */
enum mon_exit mon_lockstep_run(struct vm *vm) {
    RF_ASSERT(vm->lockstep);
    return MON_EXIT_STEPPED;
}
