/*
 * bus.c: which device answers at which port or guest physical address. Ports go through a byte
 * table of 64 Ki region numbers, MMIO through a short list searched newest first. An access that
 * the region cannot take whole (too wide, or running off its end) is halved until it fits, as the
 * ISA bus does for 8-bit devices.
 */
#include "devmodel/dev.h"

#include <stdlib.h>

enum { MAX_PORT_REGIONS = 64, MAX_MMIO_REGIONS = 16, PORT_COUNT = 0x10000 };

struct region {
    u64 base;
    u64 count;
    const struct dev_region_ops *ops;
    void *opaque;
};

struct dev_bus {
    u8 port_region[PORT_COUNT]; /* index into ports[] plus one; 0 is unclaimed */
    struct region ports[MAX_PORT_REGIONS];
    unsigned port_regions;
    struct region mmio[MAX_MMIO_REGIONS];
    unsigned mmio_regions;
};

struct dev_bus *dev_bus_create(void) {
    return calloc(1, sizeof(struct dev_bus));
}

void dev_bus_destroy(struct dev_bus *bus) {
    free(bus);
}

bool dev_bus_add_ports(struct dev_bus *bus, u16 base, u32 count, const struct dev_region_ops *ops,
                       void *opaque) {
    if (bus->port_regions == MAX_PORT_REGIONS || count == 0 || base + (u64)count > PORT_COUNT)
        return false;
    bus->ports[bus->port_regions++] = (struct region){base, count, ops, opaque};
    memset(bus->port_region + base, (int)bus->port_regions, count);
    return true;
}

bool dev_bus_add_mmio(struct dev_bus *bus, struct gpa base, u64 bytes,
                      const struct dev_region_ops *ops, void *opaque) {
    if (bus->mmio_regions == MAX_MMIO_REGIONS || bytes == 0 || base.v + (bytes - 1) < base.v)
        return false;
    bus->mmio[bus->mmio_regions++] = (struct region){base.v, bytes, ops, opaque};
    return true;
}

void dev_bus_move_mmio(struct dev_bus *bus, const struct dev_region_ops *ops, void *opaque,
                       struct gpa base) {
    for (unsigned i = 0; i < bus->mmio_regions; i++)
        if (bus->mmio[i].ops == ops && bus->mmio[i].opaque == opaque)
            bus->mmio[i].base = base.v;
}

static const struct region *find_port(const struct dev_bus *bus, u32 port) {
    unsigned number = port < PORT_COUNT ? bus->port_region[port] : 0;
    return number ? &bus->ports[number - 1] : NULL;
}

static const struct region *find_mmio(const struct dev_bus *bus, u64 addr) {
    for (unsigned i = bus->mmio_regions; i-- > 0;)
        if (addr - bus->mmio[i].base < bus->mmio[i].count && bus->mmio[i].base != DEV_NOWHERE)
            return &bus->mmio[i];
    return NULL;
}

/* Whether the region takes this access in one call. */
static bool takes_whole(const struct region *r, u64 addr, unsigned bytes) {
    unsigned limit = r->ops->max_bytes ? r->ops->max_bytes : 4;
    return bytes <= limit && bytes != 3 && r->count - (addr - r->base) >= bytes;
}

static u32 low_bytes(u32 value, unsigned bytes) {
    return bytes >= 4 ? value : value & (BIT(8 * bytes) - 1);
}

static u32 region_read(const struct region *r, u64 addr, unsigned bytes) {
    u32 value = r->ops->read ? r->ops->read(r->opaque, (u32)(addr - r->base), bytes) : UINT32_MAX;
    return low_bytes(value, bytes);
}

static void region_write(const struct region *r, u64 addr, u32 value, unsigned bytes) {
    if (r->ops->write)
        r->ops->write(r->opaque, (u32)(addr - r->base), low_bytes(value, bytes), bytes);
}

static bool aligned(const struct region *r, u32 port, unsigned bytes) {
    return (port - r->base) % bytes == 0;
}

static u32 port_read(struct dev_bus *bus, u32 port, unsigned bytes) {
    const struct region *r = find_port(bus, port);
    if (r && r->ops->max_bytes == DEV_UNDIVIDED)
        return aligned(r, port, bytes) ? region_read(r, port, bytes) : 0;
    if (r && takes_whole(r, port, bytes))
        return region_read(r, port, bytes);
    if (bytes <= 1)
        return 0xff;
    unsigned half = bytes / 2;
    u32 low = port_read(bus, port, half);
    return low | port_read(bus, port + half, bytes - half) << (8 * half);
}

static void port_write(struct dev_bus *bus, u32 port, u32 value, unsigned bytes) {
    const struct region *r = find_port(bus, port);
    if (r && r->ops->max_bytes == DEV_UNDIVIDED) {
        if (aligned(r, port, bytes))
            region_write(r, port, value, bytes);
    } else if (r && takes_whole(r, port, bytes)) {
        region_write(r, port, value, bytes);
    } else if (bytes > 1) {
        unsigned half = bytes / 2;
        port_write(bus, port, value, half);
        port_write(bus, port + half, value >> (8 * half), bytes - half);
    }
}

u32 dev_io_read(struct dev_bus *bus, u16 port, unsigned bytes) {
    return port_read(bus, port, MIN(bytes, 4u));
}

void dev_io_write(struct dev_bus *bus, u16 port, u32 value, unsigned bytes) {
    port_write(bus, port, value, MIN(bytes, 4u));
}

bool dev_light_always(const void *opaque, u32 offset, bool write, u32 value) {
    (void)opaque, (void)offset, (void)write, (void)value;
    return true;
}

bool dev_light_reads(const void *opaque, u32 offset, bool write, u32 value) {
    (void)opaque, (void)offset, (void)value;
    return !write;
}

bool dev_io_light(struct dev_bus *bus, u16 port, unsigned bytes, bool write, u32 *value) {
    const struct region *r = find_port(bus, port);
    if (!r || !r->ops->light || !takes_whole(r, port, bytes) ||
        !r->ops->light(r->opaque, (u32)(port - r->base), write, *value))
        return false;
    if (write)
        region_write(r, port, *value, bytes);
    else
        *value = region_read(r, port, bytes);
    return true;
}

static u64 mmio_read(struct dev_bus *bus, u64 addr, unsigned bytes) {
    const struct region *r = find_mmio(bus, addr);
    if (r && takes_whole(r, addr, bytes))
        return region_read(r, addr, bytes);
    if (bytes <= 1)
        return 0xff;
    unsigned half = bytes / 2;
    u64 low = mmio_read(bus, addr, half);
    return low | mmio_read(bus, addr + half, bytes - half) << (8 * half);
}

u64 dev_mmio_read(struct dev_bus *bus, struct gpa addr, unsigned bytes) {
    if (unlikely(!find_mmio(bus, addr.v)))
        TRACE(guest_errors, "bus: read of %u bytes at %08llx, where nothing is\n", bytes,
              (unsigned long long)addr.v);
    return mmio_read(bus, addr.v, MIN(bytes, 8u));
}

static void mmio_write(struct dev_bus *bus, u64 addr, u64 value, unsigned bytes) {
    const struct region *r = find_mmio(bus, addr);
    if (r && takes_whole(r, addr, bytes)) {
        region_write(r, addr, (u32)value, bytes);
    } else if (bytes > 1) {
        unsigned half = bytes / 2;
        mmio_write(bus, addr, value, half);
        mmio_write(bus, addr + half, value >> (8 * half), bytes - half);
    }
}

void dev_mmio_write(struct dev_bus *bus, struct gpa addr, u64 value, unsigned bytes) {
    mmio_write(bus, addr.v, value, MIN(bytes, 8u));
}
