/*
 * devices.c: what a hostile driver does: any port, any size, registers of every device, descriptors
 * for DMA that name any address.
 */
#include "hostile.h"

static u16 any_port(struct gen *g) {
    static const u16 ports[] = {
        0x00,  0x08,  0x0f,  0x20,  0x21,  0x40,  0x41,  0x42,  0x43,   0x60,  0x61,  0x64,
        0x70,  0x71,  0x80,  0x81,  0x92,  0xa0,  0xa1,  0xb2,  0xb3,   0xc0,  0xd0,  0xe9,
        0xf4,  0x2f8, 0x3f8, 0x3d4, 0x3c0, 0x402, 0x4d0, 0x4d1, 0x501,  0x510, 0x511, 0x514,
        0x518, 0x600, 0x604, 0x608, 0x60c, 0xcf8, 0xcf9, 0xcfc, 0xae00, 0xe0,  0xe4,  0x2000};
    return one_in(g, 8) ? (u16)any(g) : (u16)(PICK(g, ports) + (one_in(g, 2) ? below(g, 8) : 0));
}

/* What some registers want to see. Ends of the machine (reset, power-off) come rarely. */
static u32 value_for(struct gen *g, u16 port) {
    switch (port) {
    case 0xcf8:
        return 0x80000000 | below(g, 4) << 11 | below(g, 8) << 8 | (any(g) & 0xff);
    case 0x510:
        return one_in(g, 2) ? below(g, 0x30) : any(g);
    case 0x70:
        return below(g, 128);
    case 0x20:
    case 0xa0:
        return one_in(g, 2) ? 0x10 | below(g, 16) : any(g);
    case 0x43:
        return any(g);
    case 0x64:
        return one_in(g, 16) ? any(g)
                             : (const u8[]){0x20, 0x60, 0xd0, 0xd1, 0xd4, 0xaa,
                                            0xad, 0xae, 0xd2, 0xd3, 0xa7, 0xa8}[below(g, 12)];
    case 0x92:
        return any(g) & (one_in(g, 16) ? 0xff : 0xfe);
    case 0xcf9:
        return any(g) & (one_in(g, 16) ? 0xff : 0xfb);
    default:
        return hostile_value(g);
    }
}

static void put_port_access(struct gen *g) {
    u16 port = any_port(g);
    put_move(g, R_EDX, port);
    put_move(g, R_EAX, value_for(g, port));
    if (one_in(g, 4))
        PUT(g, 0x66);
    if (one_in(g, 12) && (g->cpu->seg[SEG_CS].attr & ATTR_DB)) { /* INS, OUTS */
        put_move(g, one_in(g, 2) ? R_ESI : R_EDI, hostile_address(g));
        put_move(g, R_ECX, below(g, 40));
        PUT(g, 0xf3, (u8)(0x6c + below(g, 4)));
        return;
    }
    PUT(g, (u8)((one_in(g, 3) ? 0xec : 0xee) | below(g, 2)));
}

/* DMA through fw_cfg: the address of a block that make_dma made, high half and low half. */
static void put_fw_cfg_dma(struct gen *g) {
    u32 block = one_in(g, 8) ? hostile_address(g) : AT_DMA + 16 * below(g, 64);
    put_move(g, R_EDX, 0x514);
    put_move(g, R_EAX, one_in(g, 8) ? any(g) : 0);
    PUT(g, 0xef);
    put_move(g, R_EDX, 0x518);
    put_move(g, R_EAX, __builtin_bswap32(block));
    PUT(g, 0xef);
}

void make_dma(struct gen *g) {
    for (u32 at = AT_DMA; at < AT_DMA + 16 * 64; at += 16) {
        u32 control = (any(g) & 0x1f) | (one_in(g, 2) ? 8 | below(g, 0x30) << 16 : 0);
        u32 length = one_in(g, 4) ? any(g) : below(g, 0x2000);
        store32(g->ram + at, __builtin_bswap32(control));
        store32(g->ram + at + 4, __builtin_bswap32(length));
        store32(g->ram + at + 8, one_in(g, 8) ? any(g) : 0);
        store32(g->ram + at + 12, __builtin_bswap32(hostile_address(g)));
    }
}

static u32 any_mmio(struct gen *g) {
    switch (below(g, 8)) {
    case 0:
        return 0xa0000 + below(g, 0x20000);
    case 1:
        return 0xfec00000 + (one_in(g, 2) ? below(g, 5) * 16 : below(g, PAGE_BYTES));
    case 2:
        return HOSTILE_RAM + (one_in(g, 2) ? below(g, 64) : any(g) & 0x7fffffff);
    case 3:
        return 0xff000000 + (any(g) & 0xffffff); /* pc-testdev's and the ROM's place */
    default:
        return 0xfee00000 + (one_in(g, 8) ? below(g, PAGE_BYTES) : 16 * below(g, 0x40));
    }
}

static void put_mmio_access(struct gen *g) {
    static const u8 ops[] = {0x89, 0x89, 0x89, 0x8b, 0x8b, 0x88, 0x8a, 0x01, 0x87, 0x09};
    u32 address = any_mmio(g);
    put_move(g, R_EBX, address);
    put_move(g, R_EAX, address == 0xfec00000 ? below(g, 64) : hostile_value(g));
    if (one_in(g, 8)) { /* 8 and 16 bytes */
        PUT(g, 0x0f, (u8)(one_in(g, 2) ? 0x11 : 0x10), 0x03);
        return;
    }
    if (one_in(g, 6))
        PUT(g, 0x66);
    PUT(g, PICK(g, ops), 0x03);
}

/* The I/O APIC's registers by index; a redirection that is likely to come through. */
static void put_redirection(struct gen *g) {
    put_move(g, R_EBX, 0xfec00000);
    put_move(g, R_EAX, 0x10 + below(g, 48));
    PUT(g, 0x89, 0x03);
    put_move(g, R_EAX, one_in(g, 4) ? any(g) : (any(g) & 0xe7ff) | 0x20);
    PUT(g, 0x89, 0x43, 0x10);
}

/* An interrupt line of pc-testdev, up or down. */
static void put_line(struct gen *g) {
    put_move(g, R_EDX, 0x2000 + below(g, 24));
    put_move(g, R_EAX, below(g, 2));
    PUT(g, 0xee);
}

void put_device_insn(struct gen *g) {
    switch (below(g, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        put_port_access(g);
        break;
    case 4:
    case 5:
        put_mmio_access(g);
        break;
    case 6:
        put_fw_cfg_dma(g);
        break;
    case 7:
        put_redirection(g);
        break;
    case 8:
        put_line(g);
        break;
    default:
        PUT(g, 0xfb, 0x90);
        if (one_in(g, 3))
            PUT(g, 0xf4);
    }
}
