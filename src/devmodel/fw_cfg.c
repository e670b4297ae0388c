/*
 * fw_cfg.c: the firmware configuration device: numbered items of bytes, picked by a selector (port
 * 510h) and read byte by byte (511h) or by DMA (514h), some with a name in a directory.
 * Source: QEMU's docs/specs/fw_cfg, "Guest-side Hardware Interface" and "Guest-side DMA Interface".
 *
 * No item can be written, as in a QEMU without vmcoreinfo and the like.
 */
#include "devmodel/machine.h"

#include <stdlib.h>

enum {
    SELECTOR_PORT = 0x510,
    DMA_PORT = 0x514,
    KEY_MASK = 0xbfff, /* without the bit that once asked for write access */
    NO_GRAPHICS = 1,
    FEATURES = 3, /* the traditional interface and DMA */
    MAX_ITEMS = 96,
    NAME_BYTES = DEV_FW_CFG_NAME_BYTES,
    ENTRY_BYTES = 8 + NAME_BYTES,
    DMA_ERROR = 1,
    DMA_READ = 2,
    DMA_SKIP = 4,
    DMA_SELECT = 8,
    DMA_WRITE = 16,
    DMA_BLOCK_BYTES = 16,
};

struct fw_cfg {
    struct machine_devices *m;
    struct dev_fw_cfg_item item[MAX_ITEMS];
    unsigned items;
    const struct dev_fw_cfg_item *selected; /* NULL: a key that nothing has */
    u32 offset;
    u64 dma_address;
    u8 *directory;
    /* What the device itself knows. */
    u8 signature[4], id[4], uuid[16], ram_bytes[8], graphics[2], cpus[2], menu[2];
};

static u32 load_be32(const u8 *p) {
    return __builtin_bswap32(load32(p));
}
static void store_be32(u8 *p, u32 value) {
    store32(p, __builtin_bswap32(value));
}

static void select_item(struct fw_cfg *f, u32 key) {
    f->offset = 0;
    f->selected = NULL;
    for (unsigned i = 0; i < f->items; i++)
        if (f->item[i].key == (key & KEY_MASK))
            f->selected = &f->item[i];
}

static u32 bytes_left(const struct fw_cfg *f) {
    return f->selected ? f->selected->bytes - f->offset : 0;
}

/* ---- Selector and data ---- */

static u32 read_data(void *opaque, u32 offset, unsigned bytes) {
    (void)offset; /* the two ports overlap: either gives data */
    struct fw_cfg *f = opaque;
    return bytes == 1 && bytes_left(f) ? f->selected->data[f->offset++] : 0;
}

static void write_selector(void *opaque, u32 offset, u32 value, unsigned bytes) {
    if (offset == 0 && bytes == 2) /* bytes would be data, which cannot be written */
        select_item(opaque, value);
}

/* ---- DMA ---- */

static bool ram_holds(const struct machine_devices *m, u64 address, u64 bytes) {
    const struct dev_config *c = &m->config;
    if (!c->ram || address >= c->ram_bytes || bytes > c->ram_bytes - address)
        return false;
    return address + bytes <= 0xa0000 || address >= 0xc0000;
}

/* data NULL: zeros. */
static bool dma_store(struct machine_devices *m, u64 address, const u8 *data, u32 bytes) {
    const struct dev_config *c = &m->config;
    if (!ram_holds(m, address, bytes) ||
        (c->ram_writable && !c->ram_writable(c->dma_opaque, GPA(address), bytes)))
        return false;
    if (data)
        memcpy(c->ram + address, data, bytes);
    else
        memset(c->ram + address, 0, bytes);
    if (c->dma_written)
        c->dma_written(c->dma_opaque, GPA(address), bytes);
    return true;
}

/* The item, then zeros. */
static bool dma_read_item(struct fw_cfg *f, u64 address, u32 length) {
    u32 bytes = MIN(length, bytes_left(f));
    if (bytes && !dma_store(f->m, address, f->selected->data + f->offset, bytes))
        return false;
    f->offset += bytes;
    return bytes == length || dma_store(f->m, address + bytes, NULL, length - bytes);
}

static void dma_transfer(struct fw_cfg *f) {
    u64 at = f->dma_address;
    f->dma_address = 0;
    if (!ram_holds(f->m, at, DMA_BLOCK_BYTES))
        return; /* nowhere to tell */
    const u8 *block = f->m->config.ram + at;
    u32 control = load_be32(block), length = load_be32(block + 4);
    u64 address = (u64)load_be32(block + 8) << 32 | load_be32(block + 12);
    bool good = true;
    if (control & DMA_SELECT)
        select_item(f, control >> 16);
    if (control & DMA_READ)
        good = dma_read_item(f, address, length);
    else if (control & DMA_WRITE)
        good = length == 0;
    else if (control & DMA_SKIP)
        f->offset += MIN(length, bytes_left(f));
    u8 result[4];
    store_be32(result, good ? 0 : DMA_ERROR);
    dma_store(f->m, at, result, sizeof result);
}

static u32 read_dma(void *opaque, u32 offset, unsigned bytes) {
    static const char signature[] = "QEMU CFG";
    (void)opaque;
    u32 value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (u32)signature[offset + i] << (8 * i);
    return value;
}

/* The address is big-endian; its low half starts the transfer. */
static void write_dma(void *opaque, u32 offset, u32 value, unsigned bytes) {
    struct fw_cfg *f = opaque;
    if (bytes != 4 || offset % 4)
        return;
    value = __builtin_bswap32(value);
    if (offset == 0) {
        f->dma_address = (u64)value << 32;
    } else {
        f->dma_address |= value;
        dma_transfer(f);
    }
}

static const struct dev_region_ops data_ops = {read_data, write_selector, 2, NULL};
static const struct dev_region_ops dma_ops = {read_dma, write_dma, 4, NULL};

/* ---- Items ---- */

static bool add_item(struct fw_cfg *f, struct dev_fw_cfg_item item) {
    if (f->items == MAX_ITEMS)
        return false;
    f->item[f->items++] = item;
    return true;
}
static bool add_own(struct fw_cfg *f, u16 key, u8 *at, u64 value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (u8)(value >> (8 * MIN(i, 7u)));
    return add_item(f, (struct dev_fw_cfg_item){.key = key, .data = at, .bytes = bytes});
}

static void sort_by_name(struct dev_fw_cfg_item *item, u32 count) {
    for (u32 i = 1; i < count; i++) {
        struct dev_fw_cfg_item moving = item[i];
        u32 to = i;
        for (; to && strcmp(item[to - 1].name, moving.name) > 0; to--)
            item[to] = item[to - 1];
        item[to] = moving;
    }
}

/* Gives the named ones, from `first` on, keys in the order of their names, and lists them. */
static bool add_directory(struct fw_cfg *f, unsigned first) {
    u32 count = f->items - first, bytes = 4 + count * ENTRY_BYTES;
    f->directory = calloc(1, bytes);
    if (!f->directory)
        return false;
    sort_by_name(f->item + first, count);
    store_be32(f->directory, count);
    for (unsigned i = 0; i < count; i++) {
        struct dev_fw_cfg_item *item = &f->item[first + i];
        u8 *entry = f->directory + 4 + i * ENTRY_BYTES;
        item->key = (u16)(DEV_FW_CFG_FILE_FIRST + i);
        store_be32(entry, item->bytes);
        store16(entry + 4, __builtin_bswap16(item->key));
        memcpy(entry + 8, item->name, MIN(strlen(item->name), (size_t)NAME_BYTES - 1));
    }
    return add_item(f, (struct dev_fw_cfg_item){
                           .key = DEV_FW_CFG_FILE_DIR, .data = f->directory, .bytes = bytes});
}

static bool add_items(struct fw_cfg *f) {
    const struct dev_config *c = &f->m->config;
    if (!add_own(f, DEV_FW_CFG_SIGNATURE, f->signature, 0x554d4551, 4) || /* "QEMU" */
        !add_own(f, DEV_FW_CFG_ID, f->id, FEATURES, 4) ||
        !add_own(f, DEV_FW_CFG_UUID, f->uuid, 0, sizeof f->uuid) ||
        !add_own(f, DEV_FW_CFG_RAM_SIZE, f->ram_bytes, c->ram_bytes, 8) ||
        !add_own(f, DEV_FW_CFG_NOGRAPHIC, f->graphics, NO_GRAPHICS, 2) ||
        !add_own(f, DEV_FW_CFG_NB_CPUS, f->cpus, 1, 2) ||
        !add_own(f, DEV_FW_CFG_MAX_CPUS, f->cpus, 1, 2) ||
        !add_own(f, DEV_FW_CFG_BOOT_MENU, f->menu, 0, 2))
        return false;
    for (unsigned i = 0; i < c->fw_cfg_items; i++)
        if (!c->fw_cfg[i].name && !add_item(f, c->fw_cfg[i]))
            return false;
    unsigned first = f->items;
    for (unsigned i = 0; i < c->fw_cfg_items; i++)
        if (c->fw_cfg[i].name && !add_item(f, c->fw_cfg[i]))
            return false;
    return add_directory(f, first);
}

static bool fw_cfg_init(struct machine_devices *m, void **state) {
    struct fw_cfg *f = calloc(1, sizeof *f);
    if (!f)
        return false;
    *state = f;
    f->m = m;
    return add_items(f) && dev_bus_add_ports(m->bus, SELECTOR_PORT, 2, &data_ops, f) &&
           dev_bus_add_ports(m->bus, DMA_PORT, 8, &dma_ops, f);
}

static void fw_cfg_reset(void *state) {
    struct fw_cfg *f = state;
    f->dma_address = 0;
    select_item(f, DEV_FW_CFG_SIGNATURE);
}

static void fw_cfg_done(void *state) {
    free(((struct fw_cfg *)state)->directory);
    free(state);
}

const struct dev_descriptor dev_fw_cfg = {"fw_cfg", fw_cfg_init, fw_cfg_reset, fw_cfg_done};
