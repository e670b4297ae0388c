/*
 * target_devices.c: any sequence of accesses to the devices of a PC: ports, memory-mapped
 * registers, the local APIC's MSRs, DMA, interrupts that are acknowledged, input that comes, time
 * that passes.
 *
 * Input: a byte of configuration, then steps: a byte of kind and its operands. With a device chosen
 * in the configuration, ports and addresses are that device's.
 */
#include "target.h"

#include "devmodel/dev.h"

#define RAM_BYTES (1u << 20)
#define MAX_STEPS 400
#define MAX_TIMERS 2000 /* that may fire in one step */

struct pc {
    u64 now_ns;
    struct machine_devices *m;
    u8 *ram;
    struct input *in;
};

static u64 clock_now(void *opaque) {
    return ((struct pc *)opaque)->now_ns;
}
static u64 clock_tsc(void *opaque) {
    return ((struct pc *)opaque)->now_ns * 2;
}
static size_t line_write(void *opaque, const u8 *data, size_t bytes) {
    (void)data;
    return ((struct pc *)opaque)->now_ns & 64 ? bytes : bytes / 2;
}
static size_t line_read(void *opaque, u8 *data, size_t max_bytes) {
    struct pc *pc = opaque;
    if (!max_bytes || !input_left(pc->in))
        return 0;
    data[0] = take8(pc->in);
    return 1;
}
static void dma_written(void *opaque, struct gpa addr, u64 bytes) {
    (void)opaque;
    CLAIM(addr.v < RAM_BYTES && bytes <= RAM_BYTES - addr.v);
}
static bool ram_writable(void *opaque, struct gpa addr, u64 bytes) {
    (void)opaque;
    return addr.v + bytes <= 0xc0000 || addr.v >= 0x100000;
}
static void shadow_changed(void *opaque, struct gpa addr, u64 bytes, bool writable) {
    (void)opaque, (void)writable;
    CLAIM(addr.v >= 0xc0000 && addr.v + bytes <= 0x100000);
}

static void create(struct pc *pc, u8 how) {
    static const u8 item[100] = "an item";
    static const struct dev_fw_cfg_item items[] = {{0, "opt/one", item, sizeof item},
                                                   {DEV_FW_CFG_KERNEL_DATA, NULL, item, 40}};
    struct dev_config c = {.ram_bytes = RAM_BYTES,
                           .clock = {clock_now, pc, 1704164645},
                           .serial = {{line_write, line_read, pc}, {line_write, line_read, pc}},
                           .debugcon = {line_write, NULL, pc},
                           .debug_exit = true,
                           .debug_exit_iobase = 0x501,
                           .debug_exit_iosize = 2,
                           .testdev = how & 1,
                           .ram = pc->ram,
                           .dma_written = dma_written,
                           .ram_writable = ram_writable,
                           .shadow_changed = how & 2 ? shadow_changed : NULL,
                           .dma_opaque = pc,
                           .fw_cfg = items,
                           .fw_cfg_items = ARRAY_LEN(items)};
    if (how & 4)
        c.apic =
            (struct dev_apic_config){true, how & 8, true, 100000000, 2000000000, clock_tsc, pc};
    pc->m = dev_machine_create(&c);
    CLAIM(pc->m);
}

static void pass_time(struct pc *pc, u64 ns) {
    u64 end = pc->now_ns + ns;
    for (unsigned fired = 0; fired < MAX_TIMERS; fired++) {
        u64 next = dev_next_deadline_ns(pc->m);
        if (next > end)
            break;
        pc->now_ns = MAX(pc->now_ns, next);
        dev_run_timers(pc->m, pc->now_ns);
        /* Every deadline is in the future when it has been served. */
        CLAIM(dev_next_deadline_ns(pc->m) > pc->now_ns);
    }
    pc->now_ns = end;
}

/* First port and number of ports of each device. */
static const u16 ports[][2] = {{0, 0},     {0x20, 2},  {0xa0, 2},  {0x4d0, 2},   {0x40, 4},
                               {0x61, 1},  {0x70, 2},  {0x3f8, 8}, {0x60, 5},    {0x0, 16},
                               {0x80, 16}, {0xc0, 32}, {0xcf8, 8}, {0x600, 64},  {0x510, 12},
                               {0xe0, 12}, {0x92, 1},  {0xb2, 2},  {0x2000, 24}, {0x501, 2}};
static const u32 memory[] = {0xfee00000, 0xfec00000, 0xff000000, 0xa0000, 0xfee00000};

static u16 port_of(struct pc *pc, u8 device) {
    u8 offset = take8(pc->in);
    const u16 *p = ports[device % ARRAY_LEN(ports)];
    return p[1] ? (u16)(p[0] + offset % p[1]) : (u16)(take8(pc->in) << 8 | offset);
}

static u64 address_of(struct pc *pc, u8 device) {
    u16 offset = take16(pc->in);
    return memory[device % ARRAY_LEN(memory)] + (device & 0x40 ? offset : (offset & 0x3f0u));
}

static void step(struct pc *pc, u8 chosen) {
    struct dev_bus *bus = dev_machine_bus(pc->m);
    u8 kind = take8(pc->in), device = chosen ? chosen : take8(pc->in);
    unsigned bytes = BIT(kind >> 4 & 3);
    u64 value;
    switch (kind & 15) {
    case 0:
    case 1:
    case 2:
    case 3:
        value = port_of(pc, device);
        dev_io_write(bus, (u16)value, take32(pc->in), MIN(bytes, 4u));
        break;
    case 4:
    case 5:
        dev_io_read(bus, port_of(pc, device), MIN(bytes, 4u));
        break;
    case 6:
    case 7:
        value = address_of(pc, device);
        dev_mmio_write(bus, GPA(value), take32(pc->in), bytes);
        break;
    case 8:
        dev_mmio_read(bus, GPA(address_of(pc, device)), bytes);
        break;
    case 9:
        value = take(pc->in, 8);
        dev_apic_msr(pc->m,
                     device & 0x80 ? 0x800 + device % 0x40u
                     : device & 1  ? 0x1b
                                   : 0x6e0,
                     kind & 16, &value);
        break;
    case 10:
        dev_apic_tsc_changed(pc->m);
        break;
    case 11:
        dev_msi_write(pc->m, GPA(0xfee00000 + (take16(pc->in) << 4)), take32(pc->in));
        break;
    case 12:
        if (dev_intr_pending(pc->m))
            dev_intr_acknowledge(pc->m);
        break;
    case 13:
        dev_serial_poll(pc->m);
        break;
    case 14:
        store32(pc->ram + take16(pc->in), take32(pc->in)); /* a descriptor for DMA, perhaps */
        break;
    default:
        pass_time(pc, (u64)take16(pc->in) << (device & 15));
    }
    struct dev_requests *r = dev_machine_requests(pc->m);
    if (r->reset || (kind & 0xc0) == 0xc0)
        dev_machine_reset(pc->m);
    *r = (struct dev_requests){0};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct input in = input_of(data, bytes);
    struct pc pc = {.in = &in};
    u8 how = take8(&in), chosen = take8(&in);
    static u8 *ram; /* a block of its own, so that the address sanitizer sees its bounds */
    pc.ram = ram = ram ? ram : malloc(RAM_BYTES);
    CLAIM(pc.ram);
    memset(pc.ram, 0, 0x20000);
    create(&pc, how);
    for (unsigned n = 0; n < MAX_STEPS && input_left(&in); n++)
        step(&pc, how & 0x80 ? 0 : chosen);
    pass_time(&pc, 1000000);
    dev_machine_destroy(pc.m);
    return 0;
}
