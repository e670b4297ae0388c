/*
 * pic.c: the cascaded pair of 8259A interrupt controllers with the PIIX3's edge/level registers.
 * Source: Intel 8259A data sheet (231468), "Operation Command Words"; Intel PIIX/PIIX3 data sheet
 * (290550), "Interrupt Controller Registers".
 *
 * DEVIATION: ICW1's LTIM is ignored in favour of ELCR, as the PIIX3 does; MCS-80 mode (ICW4 bit 0
 * clear) behaves like 8086 mode. The power-on state is what a BIOS leaves: vectors 08h and 70h,
 * everything masked.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum { CASCADE = 2 };

struct chip {
    u8 line; /* levels of the eight inputs */
    u8 irr, imr, isr;
    u8 elcr;      /* 1 = level triggered */
    u8 elcr_mask; /* which ELCR bits can be set */
    u8 base;      /* vector of input 0 */
    u8 lowest;    /* input with the lowest priority; the next one has the highest */
    u8 icw;       /* next initialisation word expected: 2, 3 or 4; 0 when initialised */
    bool want_icw4, single;
    bool read_isr, poll, special_mask, auto_eoi, rotate_auto, nested_fully;
};

struct dev_pic {
    struct machine_devices *m;
    struct chip chip[2]; /* master, slave */
    bool output;
};

/* The highest priority set bit of mask, -1 when mask is empty. */
static int highest(const struct chip *c, u8 mask) {
    for (unsigned i = 1; i <= 8; i++)
        if (mask & BIT((c->lowest + i) & 7))
            return (c->lowest + i) & 7;
    return -1;
}

/* Distance from the top of the current priority order: 0 is the highest. */
static int rank(const struct chip *c, int input) {
    return (input - c->lowest - 1) & 7;
}

/* The input that would be acknowledged now, -1 if none outranks those in service. */
static int winner(const struct chip *c, bool master) {
    int request = highest(c, c->irr & (u8)~c->imr);
    if (request < 0)
        return -1;
    u8 blocking = c->isr;
    if (c->special_mask)
        blocking &= (u8)~c->imr;
    if (c->nested_fully && master)
        blocking &= (u8)~BIT(CASCADE);
    int served = highest(c, blocking);
    return served < 0 || rank(c, request) < rank(c, served) ? request : -1;
}

static void chip_set_line(struct chip *c, unsigned input, bool level) {
    u8 bit = (u8)BIT(input);
    bool rising = level && !(c->line & bit);
    c->line = level ? c->line | bit : c->line & (u8)~bit;
    if (!level)
        c->irr &= (u8)~bit; /* a request withdrawn before INTA becomes a spurious interrupt */
    else if (rising || (c->elcr & bit))
        c->irr |= bit;
}

static void update(struct dev_pic *pic) {
    chip_set_line(&pic->chip[0], CASCADE, winner(&pic->chip[1], false) >= 0);
    bool output = winner(&pic->chip[0], true) >= 0;
    if (output == pic->output)
        return;
    pic->output = output;
    dev_intr_pic_output(pic->m, output);
}

/* The INTA cycle as one chip sees it. */
static void chip_acknowledge(struct chip *c, int input) {
    u8 bit = (u8)BIT(input);
    if (!(c->elcr & bit))
        c->irr &= (u8)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto)
        c->lowest = (u8)input;
}

/* INTA at the slave: its INT pin drops for the cycle, so that a further request is a new edge at
 * the master. */
static int slave_acknowledge(struct dev_pic *pic) {
    int input = winner(&pic->chip[1], false);
    if (input >= 0)
        chip_acknowledge(&pic->chip[1], input);
    chip_set_line(&pic->chip[0], CASCADE, false);
    return input;
}

bool dev_pic_output(const struct dev_pic *pic) {
    return pic->output;
}

u8 dev_pic_acknowledge(struct dev_pic *pic) {
    struct chip *master = &pic->chip[0], *slave = &pic->chip[1];
    int input = winner(master, true);
    u8 vector = master->base + 7;
    if (input >= 0) {
        chip_acknowledge(master, input);
        vector = (u8)(master->base + input);
        if (input == CASCADE) {
            int second = slave_acknowledge(pic);
            vector = (u8)(slave->base + (second >= 0 ? second : 7));
        }
    }
    update(pic);
    TRACE(int, "8259: acknowledge vector %02x\n", vector);
    return vector;
}

void dev_pic_set_line(void *opaque, unsigned line, bool level) {
    struct dev_pic *pic = opaque;
    if (line > 15 || line == CASCADE)
        return;
    chip_set_line(&pic->chip[line >> 3], line & 7, level);
    update(pic);
}

/* ICW1 (data sheet, "Initialization Command Word 1"): clears the edge detectors and the mask. */
static void chip_start_init(struct chip *c, u8 value) {
    c->irr &= c->elcr & c->line;
    c->imr = c->isr = 0;
    c->lowest = 7;
    c->read_isr = c->poll = c->special_mask = false;
    c->want_icw4 = value & 1;
    c->single = value & 2;
    if (!c->want_icw4)
        c->auto_eoi = c->nested_fully = false;
    c->rotate_auto = false;
    c->icw = 2;
}

static void end_of_interrupt(struct chip *c, u8 value) {
    bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
    int input = value & 7;
    if (!specific && eoi) {
        u8 candidates = c->special_mask ? c->isr & (u8)~c->imr : c->isr;
        input = highest(c, candidates);
    }
    if (!specific && !eoi) {
        c->rotate_auto = rotate;
    } else if (input >= 0) {
        if (eoi)
            c->isr &= (u8)~BIT(input);
        if (rotate)
            c->lowest = (u8)input;
    }
}

static void write_command(struct chip *c, u8 value) {
    if (value & 0x10) {
        chip_start_init(c, value);
    } else if (value & 0x08) { /* OCW3 */
        c->poll = value & 4;
        if (value & 2)
            c->read_isr = value & 1;
        if (value & 0x40)
            c->special_mask = value & 0x20;
    } else {
        end_of_interrupt(c, value);
    }
}

static void write_data(struct chip *c, u8 value) {
    switch (c->icw) {
    case 2:
        c->base = value & 0xf8;
        c->icw = c->single ? (c->want_icw4 ? 4 : 0) : 3;
        break;
    case 3: /* the cascade wiring is fixed */
        c->icw = c->want_icw4 ? 4 : 0;
        break;
    case 4:
        c->auto_eoi = value & 2;
        c->nested_fully = value & 0x10;
        c->icw = 0;
        break;
    default:
        c->imr = value;
    }
}

static void pic_write(struct dev_pic *pic, unsigned which, u32 offset, u8 value) {
    if (offset == 0)
        write_command(&pic->chip[which], value);
    else
        write_data(&pic->chip[which], value);
    update(pic);
}

/* Poll command: the next read is an INTA whose answer is the input number (data sheet, "Poll
 * Command"). */
static u8 read_poll(struct dev_pic *pic, unsigned which) {
    struct chip *c = &pic->chip[which];
    c->poll = false;
    int input = which == 0 ? winner(c, true) : slave_acknowledge(pic);
    if (which == 0 && input >= 0)
        chip_acknowledge(c, input);
    update(pic);
    return input >= 0 ? 0x80 | (u8)input : 0;
}

static u8 pic_read(struct dev_pic *pic, unsigned which, u32 offset) {
    struct chip *c = &pic->chip[which];
    if (c->poll)
        return read_poll(pic, which);
    if (offset == 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static u32 read_master(void *o, u32 offset, unsigned bytes) {
    (void)bytes;
    return pic_read(o, 0, offset);
}
static u32 read_slave(void *o, u32 offset, unsigned bytes) {
    (void)bytes;
    return pic_read(o, 1, offset);
}
static void write_master(void *o, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    pic_write(o, 0, offset, (u8)value);
}
static void write_slave(void *o, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    pic_write(o, 1, offset, (u8)value);
}

static u32 read_elcr(void *o, u32 offset, unsigned bytes) {
    (void)bytes;
    return ((struct dev_pic *)o)->chip[offset].elcr;
}

static void write_elcr(void *o, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    struct dev_pic *pic = o;
    struct chip *c = &pic->chip[offset];
    u8 old = c->elcr;
    c->elcr = (u8)value & c->elcr_mask;
    c->irr |= c->line & c->elcr & (u8)~old; /* a level input that is high requests at once */
    update(pic);
}

static const struct dev_region_ops master_ops = {read_master, write_master, 1, dev_light_always};
static const struct dev_region_ops slave_ops = {read_slave, write_slave, 1, dev_light_always};
static const struct dev_region_ops elcr_ops = {read_elcr, write_elcr, 1, dev_light_always};

static bool pic_init(struct machine_devices *m, void **state) {
    struct dev_pic *pic = calloc(1, sizeof *pic);
    if (!pic)
        return false;
    *state = m->pic = pic;
    pic->m = m;
    return dev_bus_add_ports(m->bus, 0x20, 2, &master_ops, pic) &&
           dev_bus_add_ports(m->bus, 0xa0, 2, &slave_ops, pic) &&
           dev_bus_add_ports(m->bus, 0x4d0, 2, &elcr_ops, pic);
}

static void pic_reset(void *state) {
    struct dev_pic *pic = state;
    for (unsigned i = 0; i < 2; i++)
        pic->chip[i] = (struct chip){
            .imr = 0xff, .lowest = 7, .base = i ? 0x70 : 0x08, .elcr_mask = i ? 0xde : 0xf8};
    update(pic);
}

const struct dev_descriptor dev_pic = {"8259", pic_init, pic_reset, free};
