/*
 * post.c: port 80h (POST code) and port EDh, which kernels write to let an I/O cycle's time pass.
 * Each reads back what was written last.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

struct post {
    u8 code, delay;
};

static u32 post_read(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    return *(u8 *)opaque;
}

static void post_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    *(u8 *)opaque = (u8)value;
}

static const struct dev_region_ops post_ops = {post_read, post_write, 1, dev_light_always};

static bool post_init(struct machine_devices *m, void **state) {
    struct post *p = calloc(1, sizeof *p);
    if (!p)
        return false;
    *state = p;
    return dev_bus_add_ports(m->bus, 0x80, 1, &post_ops, &p->code) &&
           dev_bus_add_ports(m->bus, 0xed, 1, &post_ops, &p->delay);
}

static void post_reset(void *state) {
    *(struct post *)state = (struct post){0};
}

const struct dev_descriptor dev_post = {"POST", post_init, post_reset, free};
