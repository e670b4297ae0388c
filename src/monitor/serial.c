/*
 * serial.c: character back ends for the serial ports and the debug console: the user's console, a
 * file, or nothing. Input waits in a ring until the UART takes it, so that piped input comes at the
 * pace of the guest.
 */
#include "monitor/vm.h"

static size_t serial_write(void *opaque, const u8 *data, size_t bytes) {
    struct mon_serial *s = opaque;
    if (s->kind == MON_CHR_STDIO)
        mon_screen_write(s->vm, data, bytes);
    else if (s->kind == MON_CHR_FILE)
        mon_output_write(s->file, data, bytes);
    return bytes;
}

static size_t serial_read(void *opaque, u8 *data, size_t max_bytes) {
    struct mon_serial *s = opaque;
    size_t n = 0;
    while (n < max_bytes && s->tail != s->head)
        data[n++] = s->ring[s->tail++ % MON_INPUT_RING];
    if (n && s->tail == s->head && s->vm->console.uses_stdin) {
        s->vm->console.rewatch = true; /* there is room again */
        s->vm->stop = 1;
    }
    return n;
}

struct dev_chardev mon_serial_chardev(struct mon_serial *s) {
    if (s->kind == MON_CHR_NONE || s->kind == MON_CHR_DEFAULT)
        return (struct dev_chardev){0};
    return (struct dev_chardev){.write = serial_write, .read = serial_read, .opaque = s};
}

unsigned mon_serial_room(const struct mon_serial *s) {
    return MON_INPUT_RING - (s->head - s->tail);
}

bool mon_serial_feed(struct mon_serial *s, u8 byte) {
    if (!mon_serial_room(s))
        return false;
    s->ring[s->head++ % MON_INPUT_RING] = byte;
    return true;
}

bool mon_serial_waiting(const struct vm *vm) {
    return vm->serial[0].head != vm->serial[0].tail || vm->serial[1].head != vm->serial[1].tail;
}

static bool open_one(struct vm *vm, struct mon_serial *s, const struct mon_chardev_option *o,
                     const char *option, struct mon_error *err) {
    s->vm = vm;
    s->kind = o->kind;
    s->mux = o->mux;
    if (o->kind != MON_CHR_FILE)
        return true;
    struct mon_error why;
    s->file = mon_output_open(o->path, &why);
    return s->file || mon_fail(err, "-%s: could not open '%s': %s", option, o->path, why.text);
}

bool mon_serial_open(struct vm *vm, struct mon_error *err) {
    for (unsigned i = 0; i < vm->opt.serial_count; i++)
        if (!open_one(vm, &vm->serial[i], &vm->opt.serial[i], "serial", err))
            return false;
    return open_one(vm, &vm->debugcon, &vm->opt.debugcon, "debugcon", err);
}

void mon_serial_close(struct vm *vm) {
    struct mon_serial *all[] = {&vm->serial[0], &vm->serial[1], &vm->debugcon};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        mon_output_close(all[i]->file);
}
