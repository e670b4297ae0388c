/*
 * console_metal.c: the user's console on the bare machine: its first serial port. Piped input comes
 * as fast as the line carries it, and the port itself holds 16 bytes: the interrupt hook moves them
 * into a ring. When that is full they stay in the port, and a sender that knows flow control waits.
 *
 * The port belongs to the machine, hence the one piece of machine-wide state here. This file is
 * compiled for general registers only: the hook interrupts code that holds the guest's.
 */
#include "monitor/console_metal.h"
#include "metal/metal.h"
#include "metal/ports.h"
#include "monitor/vm.h"

#define RING_BYTES 0x10000u
static struct {
    u8 byte[RING_BYTES];
    u32 head, tail; /* of bytes put in and taken out, both ever growing */
} ring;

bool mon_keyboard_collect(void) {
    while (1) {
        u32 at = ring.head % RING_BYTES;
        u32 room = MIN(RING_BYTES - (ring.head - ring.tail), RING_BYTES - at);
        u32 n = room ? (u32)metal_console_read(ring.byte + at, room) : 0;
        ring.head += n;
        if (!n || n < room)
            return ring.head != ring.tail;
    }
}

bool mon_keyboard_open(bool keep_signals) {
    (void)keep_signals; /* there are none */
    return false;
}

i64 mon_keyboard_read(struct vm *vm, u8 *data, size_t max) {
    (void)vm;
    size_t n = 0;
    bool on = metal_interrupts_save(); /* the hook fills the ring */
    while (n < max && mon_keyboard_collect())
        while (n < max && ring.tail != ring.head)
            data[n++] = ring.byte[ring.tail++ % RING_BYTES];
    metal_interrupts_restore(on);
    return (i64)n; /* the keyboard never ends */
}

void mon_screen_write(struct vm *vm, const void *data, size_t bytes) {
    (void)vm;
    metal_console_write(data, bytes);
}
