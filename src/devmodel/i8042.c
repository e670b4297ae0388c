/*
 * i8042.c: the keyboard controller at 60h/64h with a keyboard that is never typed on and an empty
 * auxiliary port. Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
 * Device Controller"; keyboard commands as an AT keyboard answers them.
 *
 * Bytes for the guest wait in two bounded queues and enter the output buffer one at a time; IRQ1
 * and IRQ12 follow the output buffer, so every byte is an edge of its own.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum {
    QUEUE_SLOTS = 16,
    FROM_AUX = 0x100,
    TIMED_OUT = 0x200, /* marks on a queued byte */
    ST_OBF = 0x01,
    ST_SYS = 0x04,
    ST_COMMAND = 0x08,
    ST_UNLOCKED = 0x10,
    ST_AUX = 0x20,
    ST_TIMEOUT = 0x40,
    CTR_IRQ1 = 0x01,
    CTR_IRQ12 = 0x02,
    CTR_SYS = 0x04,
    CTR_KBD_OFF = 0x10,
    CTR_AUX_OFF = 0x20,
    CTR_XLATE = 0x40,
    CTR_DEFAULT = CTR_IRQ1 | CTR_SYS | CTR_AUX_OFF | CTR_XLATE, /* as a BIOS leaves it */
    ACK = 0xfa,
    RESEND = 0xfe,
};

struct queue {
    u16 slot[QUEUE_SLOTS];
    u8 first, used;
};

struct i8042 {
    struct machine_devices *m;
    struct dev_irq irq1, irq12;
    struct queue replies;  /* of the controller itself: always deliverable */
    struct queue keyboard; /* held back while the keyboard interface is off */
    u16 out;               /* output buffer with its marks */
    bool full;
    u8 ctr;
    bool last_was_command;
    u8 pending_command;   /* controller command that waits for its data byte; 0 if none */
    u8 keyboard_argument; /* keyboard command that waits for its argument; 0 if none */
    u8 last_sent;         /* for the keyboard's resend command */
    u8 scancode_set;
};

static void enqueue(struct queue *q, u16 value) {
    if (q->used < QUEUE_SLOTS)
        q->slot[(q->first + q->used++) % QUEUE_SLOTS] = value;
}

static u16 dequeue(struct queue *q) {
    u16 value = q->slot[q->first];
    q->first = (q->first + 1) % QUEUE_SLOTS;
    q->used--;
    return value;
}

/* Refills the output buffer and drives the interrupt lines. */
static void update(struct i8042 *k) {
    if (!k->full && k->replies.used) {
        k->out = dequeue(&k->replies);
        k->full = true;
    } else if (!k->full && k->keyboard.used && !(k->ctr & CTR_KBD_OFF)) {
        k->out = dequeue(&k->keyboard);
        k->last_sent = (u8)k->out;
        k->full = true;
    }
    bool aux = k->out & FROM_AUX;
    dev_irq_set(&k->irq1, k->full && !aux && (k->ctr & CTR_IRQ1));
    dev_irq_set(&k->irq12, k->full && aux && (k->ctr & CTR_IRQ12));
}

static void set_output_port(struct i8042 *k, u8 value) {
    k->m->a20 = value & 2;
    if (!(value & 1))
        k->m->requests.reset = true;
}

static u8 output_port(const struct i8042 *k) {
    bool aux = k->out & FROM_AUX;
    return (u8)(0xc1 | k->m->a20 << 1 | (k->full && !aux) << 4 | (k->full && aux) << 5);
}

/* ---- The keyboard ---- */

static void keyboard_says(struct i8042 *k, u8 byte) {
    enqueue(&k->keyboard, byte);
}

/* Second byte of EDh (LEDs), F0h (scan code set), F3h (typematic rate), FBh-FDh (key types). */
static void keyboard_take_argument(struct i8042 *k, u8 value) {
    u8 command = k->keyboard_argument;
    k->keyboard_argument = 0;
    keyboard_says(k, ACK);
    if (command == 0xf0 && value == 0)
        keyboard_says(k, k->scancode_set);
    else if (command == 0xf0 && value <= 3)
        k->scancode_set = value;
}

static void keyboard_command(struct i8042 *k, u8 value) {
    switch (value) {
    case 0xed:
    case 0xf0:
    case 0xf3:
    case 0xfb:
    case 0xfc:
    case 0xfd:
        k->keyboard_argument = value;
        keyboard_says(k, ACK);
        break;
    case 0xee: /* echo */
        keyboard_says(k, 0xee);
        break;
    case 0xf2: /* identify: an MF2 keyboard; translation turns 83h into 41h */
        keyboard_says(k, ACK);
        keyboard_says(k, 0xab);
        keyboard_says(k, k->ctr & CTR_XLATE ? 0x41 : 0x83);
        break;
    case 0xf4:
    case 0xf5:
    case 0xf6:
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa:
        if (value == 0xf5 || value == 0xf6)
            k->scancode_set = 2;
        keyboard_says(k, ACK);
        break;
    case 0xfe:
        keyboard_says(k, k->last_sent);
        break;
    case 0xff: /* reset: acknowledge, then the self test's good result */
        k->keyboard.used = 0;
        k->scancode_set = 2;
        keyboard_says(k, ACK);
        keyboard_says(k, 0xaa);
        break;
    default:
        keyboard_says(k, RESEND);
    }
}

static void write_keyboard(struct i8042 *k, u8 value) {
    k->ctr &= (u8)~CTR_KBD_OFF; /* sending to the keyboard turns its interface on */
    if (k->keyboard_argument && value < 0xed)
        keyboard_take_argument(k, value);
    else {
        k->keyboard_argument = 0;
        keyboard_command(k, value);
    }
}

/* ---- The controller ---- */

static void controller_command(struct i8042 *k, u8 value) {
    k->pending_command = 0;
    if (value >= 0xf0) { /* pulse output port bits low; bit 0 is the reset line */
        if (!(value & 1))
            k->m->requests.reset = true;
        return;
    }
    if ((value & 0xe0) == 0x20) { /* read controller RAM; byte 0 is the command byte */
        enqueue(&k->replies, value == 0x20 ? k->ctr : 0);
        return;
    }
    switch (value) {
    case 0xa7:
        k->ctr |= CTR_AUX_OFF;
        break;
    case 0xa8:
        k->ctr &= (u8)~CTR_AUX_OFF;
        break;
    case 0xa9:
    case 0xab: /* test the auxiliary and keyboard interfaces: no fault */
        enqueue(&k->replies, 0x00);
        break;
    case 0xaa: /* self test */
        k->ctr |= CTR_SYS;
        enqueue(&k->replies, 0x55);
        break;
    case 0xad:
        k->ctr |= CTR_KBD_OFF;
        break;
    case 0xae:
        k->ctr &= (u8)~CTR_KBD_OFF;
        break;
    case 0xc0: /* input port: keyboard not locked */
        enqueue(&k->replies, 0x80);
        break;
    case 0xd0:
        enqueue(&k->replies, output_port(k));
        break;
    case 0xdd:
    case 0xdf: /* A20 off, on (as later controllers have it) */
        k->m->a20 = value == 0xdf;
        break;
    case 0xe0: /* test inputs */
        enqueue(&k->replies, 0x00);
        break;
    default:
        if ((value & 0xe0) == 0x60 || (value >= 0xd1 && value <= 0xd4))
            k->pending_command = value;
        else
            TRACE(guest_errors, "8042: unknown command %02x\n", value);
    }
}

static void controller_data(struct i8042 *k, u8 value) {
    u8 command = k->pending_command;
    k->pending_command = 0;
    switch (command) {
    case 0x60:
        k->ctr = value & 0x7f;
        break;
    case 0xd1:
        set_output_port(k, value);
        break;
    case 0xd2: /* loops the byte back as the keyboard's */
        enqueue(&k->replies, value);
        break;
    case 0xd3: /* the same for the auxiliary device */
        enqueue(&k->replies, FROM_AUX | value);
        break;
    case 0xd4: /* nobody is there: the controller reports a time-out */
        k->ctr &= (u8)~CTR_AUX_OFF;
        enqueue(&k->replies, FROM_AUX | TIMED_OUT | RESEND);
        break;
    default: /* the rest of the controller RAM (61h-7Fh) is not kept */
        break;
    }
}

static u32 i8042_read_data(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    struct i8042 *k = opaque;
    u8 value = (u8)k->out;
    if (k->full) {
        k->full = false;
        dev_irq_set(&k->irq1, false);
        dev_irq_set(&k->irq12, false);
        update(k);
    }
    return value;
}

static void i8042_write_data(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct i8042 *k = opaque;
    k->last_was_command = false;
    if (k->pending_command)
        controller_data(k, (u8)value);
    else
        write_keyboard(k, (u8)value);
    update(k);
}

static u32 i8042_read_status(void *opaque, u32 offset, unsigned bytes) {
    (void)offset, (void)bytes;
    const struct i8042 *k = opaque;
    u8 status = ST_UNLOCKED | (k->ctr & CTR_SYS) | (k->last_was_command ? ST_COMMAND : 0);
    if (k->full)
        status |= ST_OBF | (k->out & FROM_AUX ? ST_AUX : 0) | (k->out & TIMED_OUT ? ST_TIMEOUT : 0);
    return status;
}

static void i8042_write_command(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)offset, (void)bytes;
    struct i8042 *k = opaque;
    k->last_was_command = true;
    controller_command(k, (u8)value);
    update(k);
}

static const struct dev_region_ops data_ops = {i8042_read_data, i8042_write_data, 1,
                                               dev_light_reads};
static const struct dev_region_ops command_ops = {i8042_read_status, i8042_write_command, 1,
                                                  dev_light_reads};

static bool i8042_init(struct machine_devices *m, void **state) {
    struct i8042 *k = calloc(1, sizeof *k);
    if (!k)
        return false;
    *state = k;
    k->m = m;
    k->irq1 = dev_machine_irq(m, 1);
    k->irq12 = dev_machine_irq(m, 12);
    return dev_bus_add_ports(m->bus, 0x60, 1, &data_ops, k) &&
           dev_bus_add_ports(m->bus, 0x64, 1, &command_ops, k);
}

static void i8042_reset(void *state) {
    struct i8042 *k = state;
    struct i8042 fresh = {
        .m = k->m, .irq1 = k->irq1, .irq12 = k->irq12, .ctr = CTR_DEFAULT, .scancode_set = 2};
    *k = fresh;
    update(k);
}

const struct dev_descriptor dev_i8042 = {"8042", i8042_init, i8042_reset, free};
