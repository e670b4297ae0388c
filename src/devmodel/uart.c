/*
 * uart.c: 16550A serial ports COM1 and COM2. Characters leave at once unless the back end refuses
 * them; then the transmit FIFO holds them and a timer tries again. What has to be exact is the
 * interrupt logic: sources latch and clear as in the data sheet's table of interrupt control
 * functions. Source: National Semiconductor PC16550D data sheet, section 8 "Registers".
 *
 * DEVIATION: line speed and format only set the receive time-out; break and modem line changes do
 * not reach the back end.
 *
 * DEVIATION: turning the FIFO on keeps a character that was received before: Linux enables the
 * receive interrupt a moment before the FIFO, and piped input must not lose its first byte.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum {
    FIFO_BYTES = 16,
    RX_POLL_READS = 8,      /* reads of LSR in a row that mean: the guest polls for input */
    RX_SETTLE_NS = 5000000, /* a driver that enables interrupts may yet turn the FIFO on */
    RX_REFILL_NS = 300000,  /* 16 bytes per period: more than a 115200 baud line carries */
    TX_RETRY_NS = 1000000,
    IER_RDA = 1,
    IER_THRE = 2,
    IER_RLS = 4,
    IER_MSR = 8,
    IIR_NONE = 0x01,
    IIR_MSR = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_RLS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,
    FCR_ENABLE = 1,
    FCR_CLEAR_RX = 2,
    FCR_CLEAR_TX = 4,
    LCR_DLAB = 0x80,
    MCR_OUT2 = 8,
    MCR_LOOP = 0x10,
    LSR_DR = 1,
    LSR_OE = 2,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    MSR_CONNECTED = 0xb0, /* DCD, DSR, CTS */
};

struct fifo {
    u8 data[FIFO_BYTES];
    u8 first, used;
};

struct dev_uart {
    struct machine_devices *m;
    struct dev_irq irq;
    struct dev_chardev back;
    struct dev_timer rx_timeout;
    struct dev_timer service; /* next try at the back end, both ways */
    struct fifo rx, tx;
    u8 ier, fcr, lcr, mcr, msr, scr;
    u64 rda_since_ns; /* when the receive interrupt was enabled */
    u8 lsr_reads;     /* since the last character was sent, saturating */
    u16 divisor;
    bool overrun;
    bool thre_pending;    /* THR became empty and nobody has looked yet */
    bool timeout_pending; /* characters rest in the receive FIFO */
};

static void push(struct fifo *f, u8 byte) {
    f->data[(f->first + f->used) % FIFO_BYTES] = byte;
    f->used++;
}

static u8 pop(struct fifo *f) {
    u8 byte = f->data[f->first];
    f->first = (f->first + 1) % FIFO_BYTES;
    f->used--;
    return byte;
}

static unsigned capacity(const struct dev_uart *u) {
    return u->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned rx_trigger(const struct dev_uart *u) {
    static const u8 level[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

/* Highest priority interrupt (data sheet, table IV). */
static u8 pending(const struct dev_uart *u) {
    if ((u->ier & IER_RLS) && u->overrun)
        return IIR_RLS;
    if ((u->ier & IER_RDA) && u->rx.used >= rx_trigger(u))
        return IIR_RDA;
    if ((u->ier & IER_RDA) && u->timeout_pending)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre_pending)
        return IIR_THRE;
    if ((u->ier & IER_MSR) && (u->msr & 0x0f))
        return IIR_MSR;
    return IIR_NONE;
}

/* On the PC the chip's INTR reaches the bus only while the OUT2 pin is active. */
static void update(struct dev_uart *u) {
    bool gate = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    dev_irq_set(&u->irq, gate && pending(u) != IIR_NONE);
}

/* Four character times without a receive FIFO access (data sheet, "FIFO Interrupt Mode"). */
static void arm_rx_timeout(struct dev_uart *u) {
    u->timeout_pending = false;
    dev_timer_cancel(&u->rx_timeout);
    if (!(u->fcr & FCR_ENABLE) || u->rx.used == 0)
        return;
    u64 bits = 4 * (7 + (u64)(u->lcr & 3) + (u->lcr >> 2 & 1) + (u->lcr >> 3 & 1));
    u64 divisor = u->divisor ? u->divisor : 1;
    dev_timer_arm(&u->rx_timeout, dev_now_ns(u->m) + bits * divisor * DEV_NS_PER_S / 115200);
}

static void rx_timed_out(void *opaque) {
    struct dev_uart *u = opaque;
    u->timeout_pending = u->rx.used != 0;
    update(u);
}

static void receive(struct dev_uart *u, u8 byte) {
    if (u->rx.used < capacity(u)) {
        push(&u->rx, byte);
    } else {
        u->overrun = true;
        if (!(u->fcr & FCR_ENABLE)) /* without FIFO the new character replaces the old one */
            u->rx.data[u->rx.first] = byte;
    }
}

/* Input stays in the back end until the guest listens, by interrupt or by polling: a driver that
 * is still probing would throw it away. */
static bool listening(const struct dev_uart *u) {
    if (!(u->ier & IER_RDA))
        return u->lsr_reads >= RX_POLL_READS;
    return (u->fcr & FCR_ENABLE) || dev_now_ns(u->m) >= u->rda_since_ns + RX_SETTLE_NS;
}

static void fill_from_back_end(struct dev_uart *u) {
    u8 bytes[FIFO_BYTES];
    unsigned room = capacity(u) - u->rx.used;
    if (!u->back.read || (u->mcr & MCR_LOOP) || room == 0 || !listening(u))
        return;
    size_t got = u->back.read(u->back.opaque, bytes, room);
    for (size_t i = 0; i < MIN(got, room); i++)
        push(&u->rx, bytes[i]);
    if (got)
        arm_rx_timeout(u);
}

static void arm_service(struct dev_uart *u, u64 delay_ns) {
    dev_timer_arm(&u->service, MIN(u->service.deadline_ns, dev_now_ns(u->m) + delay_ns));
}

/* Empties the transmit FIFO as far as the receiver takes it. */
static void transmit(struct dev_uart *u) {
    while (u->tx.used) {
        u8 byte = u->tx.data[u->tx.first];
        if (u->mcr & MCR_LOOP) {
            receive(u, byte);
            arm_rx_timeout(u);
        } else if (u->back.write(u->back.opaque, &byte, 1) != 1) {
            arm_service(u, TX_RETRY_NS);
            return;
        }
        pop(&u->tx);
    }
    u->thre_pending = true;
}

void dev_uart_poll(struct dev_uart *u) {
    if (u->tx.used)
        transmit(u);
    fill_from_back_end(u);
    update(u);
}

static void service(void *opaque) {
    dev_uart_poll(opaque);
}

/* Would the next look at LSR be one that asks the back end for input? */
static bool polls_back_end(const struct dev_uart *u) {
    return !u->rx.used && !(u->ier & IER_RDA) && u->lsr_reads + 1 >= RX_POLL_READS;
}

static u8 line_status(struct dev_uart *u) {
    bool poll = polls_back_end(u);
    if (u->lsr_reads < RX_POLL_READS)
        u->lsr_reads++;
    if (poll)
        fill_from_back_end(u);
    u8 lsr = u->rx.used ? LSR_DR : 0;
    if (u->overrun)
        lsr |= LSR_OE;
    if (u->tx.used == 0)
        lsr |= LSR_THRE | LSR_TEMT;
    u->overrun = false;
    return lsr;
}

/* Modem lines from MCR in loopback, else those of a connected peer; changes set delta bits. */
static void update_modem_lines(struct dev_uart *u) {
    u8 lines = MSR_CONNECTED, old = u->msr & 0xf0;
    if (u->mcr & MCR_LOOP)
        lines = (u8)((u->mcr & 0x0c) << 4 | (u->mcr & 0x02) << 3 | (u->mcr & 0x01) << 5);
    u8 changed = (lines ^ old) >> 4;
    if (lines & 0x40)
        changed &= (u8)~0x04; /* TERI is the trailing edge only */
    u->msr = lines | (u->msr & 0x0f) | changed;
}

static void write_fcr(struct dev_uart *u, u8 value) {
    bool toggled = (value ^ u->fcr) & FCR_ENABLE;
    bool keep = toggled && (value & FCR_ENABLE);
    if ((toggled && !keep) || (value & FCR_CLEAR_RX)) {
        u->rx.used = 0;
        arm_rx_timeout(u);
    }
    if ((toggled || (value & FCR_CLEAR_TX)) && u->tx.used) {
        u->tx.used = 0;
        u->thre_pending = true;
    }
    u->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
}

static void write_thr(struct dev_uart *u, u8 value) {
    u->thre_pending = false;
    u->lsr_reads = 0;
    update(u); /* so that an empty THR right after this is a new edge */
    if (u->tx.used < capacity(u))
        push(&u->tx, value);
    transmit(u);
}

static u8 read_rbr(struct dev_uart *u) {
    u8 byte = u->rx.used ? pop(&u->rx) : 0;
    arm_rx_timeout(u);
    if (u->rx.used == 0)
        arm_service(u, RX_REFILL_NS); /* not at once: the guest's read loop must find an end */
    return byte;
}

static u8 read_iir(struct dev_uart *u) {
    u8 iir = pending(u);
    if (iir == IIR_THRE)
        u->thre_pending = false;
    return iir | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u32 uart_read(void *opaque, u32 offset, unsigned bytes) {
    (void)bytes;
    struct dev_uart *u = opaque;
    u8 value = 0;
    switch (offset) {
    case 0:
        value = u->lcr & LCR_DLAB ? (u8)u->divisor : read_rbr(u);
        break;
    case 1:
        value = u->lcr & LCR_DLAB ? (u8)(u->divisor >> 8) : u->ier;
        break;
    case 2:
        value = read_iir(u);
        break;
    case 3:
        return u->lcr;
    case 4:
        return u->mcr;
    case 5:
        value = line_status(u);
        break;
    case 6:
        value = u->msr;
        u->msr &= 0xf0;
        break;
    default:
        return u->scr;
    }
    update(u);
    return value;
}

static void uart_write(void *opaque, u32 offset, u32 value, unsigned bytes) {
    (void)bytes;
    struct dev_uart *u = opaque;
    switch (offset) {
    case 0:
        if (u->lcr & LCR_DLAB)
            u->divisor = (u16)((u->divisor & 0xff00) | value);
        else
            write_thr(u, (u8)value);
        break;
    case 1:
        if (u->lcr & LCR_DLAB) {
            u->divisor = (u16)((u->divisor & 0xff) | value << 8);
        } else {
            if ((value & ~u->ier & IER_THRE) && u->tx.used == 0)
                u->thre_pending = true; /* enabling it with THR empty interrupts at once */
            if (value & ~u->ier & IER_RDA) {
                u->rda_since_ns = dev_now_ns(u->m);
                arm_service(u, RX_SETTLE_NS);
            }
            u->ier = value & 0x0f;
        }
        break;
    case 2:
        write_fcr(u, (u8)value);
        break;
    case 3:
        u->lcr = (u8)value;
        break;
    case 4:
        u->mcr = value & 0x1f;
        update_modem_lines(u);
        break;
    case 7:
        u->scr = (u8)value;
        break;
    default: /* LSR and MSR are read only */
        break;
    }
    update(u);
}

static bool uart_light(const void *opaque, u32 offset, bool write, u32 value) {
    const struct dev_uart *u = opaque;
    (void)value;
    if (write)
        return offset != 0 || (u->lcr & LCR_DLAB);
    return offset != 5 || !polls_back_end(u);
}

static const struct dev_region_ops uart_ops = {uart_read, uart_write, 1, uart_light};

static bool init_port(struct machine_devices *m, void **state, unsigned which) {
    static const struct {
        u16 base;
        u8 irq;
    } place[2] = {{0x3f8, 4}, {0x2f8, 3}};
    if (!m->config.serial[which].write)
        return true;
    struct dev_uart *u = calloc(1, sizeof *u);
    if (!u)
        return false;
    *state = m->uart[which] = u;
    u->m = m;
    u->back = m->config.serial[which];
    u->irq = dev_machine_irq(m, place[which].irq);
    dev_timer_init(&m->timers, &u->rx_timeout, rx_timed_out, u);
    dev_timer_init(&m->timers, &u->service, service, u);
    return dev_bus_add_ports(m->bus, place[which].base, 8, &uart_ops, u);
}

static bool com1_init(struct machine_devices *m, void **state) {
    return init_port(m, state, 0);
}
static bool com2_init(struct machine_devices *m, void **state) {
    return init_port(m, state, 1);
}

/* Master reset; characters that the guest had already sent still leave. */
static void uart_reset(void *state) {
    struct dev_uart *u = state;
    u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->lsr_reads = 0;
    u->msr = MSR_CONNECTED;
    u->divisor = 12; /* 9600 baud, as a BIOS sets it */
    u->overrun = u->thre_pending = false;
    u->rx.used = 0;
    arm_rx_timeout(u);
    update(u);
}

const struct dev_descriptor dev_com1 = {"16550A COM1", com1_init, uart_reset, free};
const struct dev_descriptor dev_com2 = {"16550A COM2", com2_init, uart_reset, free};
