/*
 * ram.c: guest RAM and ROM. RAM is mapped once flat for the monitor and the devices (and piecewise
 * into windows by the window backing). Physical accesses that are not the CPU's own end here.
 */
#include "mmu/mmu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static struct mmu *fail(struct mmu *mmu, struct mmu_error *err, const char *what) {
    if (err)
        snprintf(err->text, sizeof err->text, "guest RAM: %s: %s", what, strerror(errno));
    mmu_destroy(mmu);
    return NULL;
}

struct mmu *mmu_create(u64 ram_bytes, struct mmu_error *err) {
    errno = EINVAL;
    if (ram_bytes % PAGE_BYTES || ram_bytes < (1u << 20) || ram_bytes > 3ull << 30)
        return fail(NULL, err, "size must be a multiple of 4 KiB from 1 MiB to 3 GiB");
    struct mmu *mmu = calloc(1, sizeof *mmu);
    if (!mmu)
        return fail(NULL, err, "no memory");
    mmu->ram_bytes = ram_bytes;
    mmu->code_page = calloc(ram_bytes >> PAGE_SHIFT, 1);
    if (!mmu->code_page)
        return fail(mmu, err, "no memory");
    if (!memory_ram_create(&mmu->memory, ram_bytes))
        return fail(mmu, err, "no memory");
    mmu->ram = mmu->memory.flat;
    memset(mmu->nothing, 0xff, sizeof mmu->nothing);
    return mmu;
}

void mmu_destroy(struct mmu *mmu) {
    if (!mmu)
        return;
    mmu_windows_free(mmu);
    if (mmu->ram)
        memory_ram_destroy(&mmu->memory);
    free(mmu->code_page);
    free(mmu);
}

u8 *mmu_ram(struct mmu *mmu) {
    return mmu->ram;
}
u64 mmu_ram_bytes(const struct mmu *mmu) {
    return mmu->ram_bytes;
}
void mmu_ram_clear(struct mmu *mmu) {
    memory_ram_clear(&mmu->memory);
}

void mmu_set_rom(struct mmu *mmu, const u8 *image, u32 bytes) {
    RF_ASSERT(bytes % PAGE_BYTES == 0);
    mmu->rom = image;
    mmu->rom_bytes = image ? bytes : 0;
}

/* True when [gpa, gpa+bytes) is RAM throughout: inside the RAM's size, clear of the VGA hole. */
static bool range_is_ram(const struct mmu *mmu, u64 gpa, u64 bytes) {
    if (gpa >= mmu->ram_bytes || bytes > mmu->ram_bytes - gpa)
        return false;
    return gpa + bytes <= 0xa0000 || gpa >= 0xc0000;
}

bool mmu_phys_read(struct mmu *mmu, struct gpa gpa, void *buf, u64 bytes) {
    const u8 *rom = mmu_rom_at(mmu, gpa.v);
    if (!range_is_ram(mmu, gpa.v, bytes) && (!rom || bytes > 0x100000000ull - gpa.v))
        return false;
    memcpy(buf, rom ? rom : mmu->ram + gpa.v, bytes);
    return true;
}

bool mmu_phys_writable(const struct mmu *mmu, struct gpa gpa, u64 bytes) {
    if (!range_is_ram(mmu, gpa.v, bytes))
        return false;
    for (u64 at = gpa.v & ~(u64)PAGE_OFFSET_MASK; at < gpa.v + bytes; at += PAGE_BYTES)
        if (mmu->code_page[at >> PAGE_SHIFT] & PAGE_IS_READ_ONLY)
            return false;
    return true;
}

bool mmu_phys_write(struct mmu *mmu, struct gpa gpa, const void *buf, u64 bytes) {
    if (!mmu_phys_writable(mmu, gpa, bytes))
        return false;
    memcpy(mmu->ram + gpa.v, buf, bytes);
    mmu_phys_written(mmu, gpa, bytes);
    return true;
}

void mmu_phys_written(struct mmu *mmu, struct gpa gpa, u64 bytes) {
    if (gpa.v < mmu->ram_bytes)
        mmu_code_note_write(mmu, gpa.v, MIN(bytes, mmu->ram_bytes - gpa.v));
}
