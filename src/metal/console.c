/*
 * console.c: the first serial port, a 16550, as the machine's console. Output waits for room in the
 * FIFO, but never for ever; input raises IRQ 4. Where there is no such port, everything written is
 * dropped.
 * Source: National Semiconductor PC16550D data sheet, section 8 "Registers".
 */
#include "metal/metal_internal.h"
#include "metal/ports.h"

enum {
    COM1 = 0x3f8,
    DATA = COM1,
    IER = COM1 + 1, /* interrupt enable */
    FCR = COM1 + 2, /* FIFO control, written */
    IIR = COM1 + 2, /* interrupt identification, read */
    LCR = COM1 + 3, /* line control */
    MCR = COM1 + 4, /* modem control */
    LSR = COM1 + 5, /* line status */
    SCRATCH = COM1 + 7,
    IER_RECEIVED = 1,
    IER_HOLDING_EMPTY = 2,
    FCR_ENABLE_AND_CLEAR = 7,
    IIR_FIFOS = 0xc0,
    LCR_8N1 = 3,
    LCR_DIVISOR = 0x80,
    MCR_DTR_RTS_OUT2 = 0x0b, /* OUT2 connects the interrupt line */
    LSR_DATA_READY = 1,
    LSR_HOLDING_EMPTY = 0x20,
};
/* A port access takes about a microsecond; 16 bytes leave at 115200 baud in 1.4 ms. A reader of a
 * virtual port may be slower. */
enum {
    PATIENCE_POLLS = 2000000,
    LITTLE_PATIENCE_POLLS = 2000,
    QUIET_POLLS = 1000,
    TYPING_QUIET_POLLS = 50000
};

static bool present, stuck, input_on;
static unsigned fifo_bytes;
/* What was typed before the FIFO was switched on, which empties it. A carrier whose input is piped
 * delivers the next byte as soon as one is read, so all there is comes at once. */
static u8 early[0x10000];
static unsigned early_bytes, early_read;

/* The scratch register keeps what is written, and the status register is not what an empty bus
 * reads as. A test by the loop back from transmitter to receiver would mix with input. */
static bool port_answers(void) {
    static const u8 probe[] = {0x5a, 0xa5};
    for (unsigned i = 0; i < sizeof probe; i++) {
        out8(SCRATCH, probe[i]);
        if (in8(LSR) == 0xff || in8(SCRATCH) != probe[i])
            return false;
    }
    return true;
}

/* Once somebody has begun to type, the next byte may take a busy carrier some time to deliver. */
static void collect_early(void) {
    for (unsigned quiet = 0;
         quiet < (early_bytes ? TYPING_QUIET_POLLS : QUIET_POLLS) && early_bytes < sizeof early;
         quiet++)
        if (in8(LSR) & LSR_DATA_READY) {
            early[early_bytes++] = in8(DATA);
            quiet = 0;
        }
}

void metal_console_init(void) {
    present = port_answers();
    if (!present)
        return;
    out8(IER, 0);
    out8(LCR, LCR_8N1);
    if ((in8(IIR) & IIR_FIFOS) != IIR_FIFOS) {
        collect_early();
        out8(FCR, FCR_ENABLE_AND_CLEAR); /* each byte received interrupts */
    }
    out8(LCR, LCR_8N1 | LCR_DIVISOR);
    out8(DATA, 1); /* 115200 */
    out8(IER, 0);
    out8(LCR, LCR_8N1);
    out8(MCR, MCR_DTR_RTS_OUT2);
    fifo_bytes = (in8(IIR) & IIR_FIFOS) == IIR_FIFOS ? 16 : 1;
}

static bool wait_for_room(void) {
    unsigned polls = stuck ? LITTLE_PATIENCE_POLLS : PATIENCE_POLLS;
    while (!(in8(LSR) & LSR_HOLDING_EMPTY))
        if (!--polls) {
            stuck = true; /* do not wait that long for each byte to come */
            return false;
        }
    stuck = false;
    return true;
}

void metal_console_write(const void *data, size_t bytes) {
    const u8 *p = data;
    if (!present)
        return;
    while (bytes) {
        if (!wait_for_room())
            return;
        for (unsigned room = fifo_bytes; room && bytes; room--, bytes--)
            out8(DATA, *p++);
    }
}

/* The 8259 sees edges only: all causes go away and come back, so that bytes already there make one.
 * For those kept in `early` the empty transmitter stands in. */
static void raise_line_if_waiting(void) {
    out8(IER, 0);
    out8(IER, early_read < early_bytes ? IER_RECEIVED | IER_HOLDING_EMPTY : IER_RECEIVED);
}

void metal_console_enable_input(void) {
    if (!present)
        return;
    input_on = true;
    raise_line_if_waiting();
}

/* When the caller's room ends before the input does, the line has not fallen: it is raised anew. */
size_t metal_console_read(void *data, size_t max_bytes) {
    u8 *p = data;
    size_t n = 0;
    if (!present)
        return 0;
    bool on = metal_interrupts_save(); /* the interrupt hook may read, too */
    bool had_early = early_read < early_bytes;
    while (n < max_bytes && early_read < early_bytes)
        p[n++] = early[early_read++];
    while (n < max_bytes && in8(LSR) & LSR_DATA_READY)
        p[n++] = in8(DATA);
    if ((n == max_bytes || had_early) && input_on)
        raise_line_if_waiting();
    metal_interrupts_restore(on);
    return n;
}
