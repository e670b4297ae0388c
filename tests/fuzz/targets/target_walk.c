/*
 * target_walk.c: any page tables: the walker, software access, and windows filled by them. What is
 * granted is what the tables grant, and the windows' books stay right.
 *
 * Input: a byte of modes, a count of table changes (8 bytes of entry, 2 of place), then accesses
 * (linear address, kind).
 */
#include "target.h"

#include "base/cpu.h"
#include "mmu/mmu.h"

enum { RAM_BYTES = 2 << 20, TABLES = 0x10000, TABLE_PAGES = 8 };

static u32 no_io_read(void *opaque, u16 port, unsigned bytes) {
    (void)opaque, (void)port, (void)bytes;
    return 0;
}
static void no_io_write(void *opaque, u16 port, u32 value, unsigned bytes) {
    (void)opaque, (void)port, (void)value, (void)bytes;
}
static u64 mmio_read(void *opaque, struct gpa addr, unsigned bytes) {
    CLAIM(!mmu_gpa_is_ram(((struct cpu *)opaque)->mmu, addr.v) && bytes <= 8);
    return ~0ull;
}
static void mmio_write(void *opaque, struct gpa addr, u64 value, unsigned bytes) {
    (void)value;
    CLAIM(!mmu_gpa_is_ram(((struct cpu *)opaque)->mmu, addr.v) && bytes <= 8);
}

static struct cpu *cpu;
static void destroy(void) {
    mmu_windows_destroy(cpu);
    mmu_destroy(cpu->mmu);
    cpu_destroy(cpu);
}

static void make_cpu(void) {
    static struct cpu_model model = {.has_nx = true, .cr4_allowed = ~0u};
    static struct cpu_bus bus = {.io_read = no_io_read,
                                 .io_write = no_io_write,
                                 .mmio_read = mmio_read,
                                 .mmio_write = mmio_write};
    struct mmu_error err;
    if (cpu)
        return;
    cpu = cpu_create();
    CLAIM(cpu);
    bus.opaque = cpu;
    cpu->model = &model;
    cpu->bus = &bus;
    cpu->mmu = mmu_create(RAM_BYTES, &err);
    CLAIM(cpu->mmu);
    cpu_reset(cpu);
    CLAIM(mmu_windows_create(cpu, &err));
    atexit(destroy);
}

/* Tables that map something, so that changes meet a whole. */
static void default_tables(u8 *ram, bool pae) {
    memset(ram, 0, RAM_BYTES);
    for (u32 i = 0; i < 4; i++)
        if (pae)
            store64(ram + TABLES + 8 * i, (TABLES + PAGE_BYTES) | PTE_P);
    u32 directory = TABLES + (pae ? PAGE_BYTES : 0), table = directory + PAGE_BYTES;
    for (u32 i = 0; i < 4; i++) {
        u64 entry = (table + (i & 1) * PAGE_BYTES) | PTE_P | PTE_W | (i & 2 ? PTE_U : 0);
        if (pae)
            store64(ram + directory + 8 * i, entry);
        else
            store32(ram + directory + 4 * i, (u32)entry);
    }
    for (u32 i = 0; i < 512; i++) {
        u64 entry = i << PAGE_SHIFT | PTE_P | (i & 1 ? PTE_W : 0) | (i & 2 ? PTE_U : 0);
        if (pae)
            store64(ram + table + 8 * i, entry);
        else
            store32(ram + table + 4 * i, (u32)entry);
    }
}

static bool set_modes(u8 modes) {
    cpu->cr0 = CR0_PE | CR0_ET | CR0_PG | (modes & 1 ? CR0_WP : 0);
    cpu->cr4 = (modes & 2 ? CR4_PAE : 0) | (modes & 4 ? CR4_PSE : 0) | (modes & 8 ? CR4_PGE : 0) |
               (modes & 16 ? CR4_SMEP : 0) | (modes & 32 ? CR4_SMAP : 0);
    cpu->efer = modes & 64 ? EFER_NXE : 0;
    cpu->cr3 = TABLES;
    cpu->eflags = F_FIXED | (modes & 128 ? F_AC : 0);
    bool good = !(modes & 2) || mmu_load_pdptrs(cpu, TABLES);
    mmu_mode_changed(cpu);
    return good;
}

static void check_translation(u32 lin, unsigned access, bool user) {
    struct mmu_xlat x, probe;
    if (!mmu_translate(cpu, GLIN(lin), access, user, &x)) {
        CLAIM(cpu->fault.vector == VEC_PF && cpu->fault.cr2 == lin && cpu->fault.has_error);
        return;
    }
    CLAIM((x.gpa.v & PAGE_OFFSET_MASK) == (lin & PAGE_OFFSET_MASK));
    CLAIM(!user || x.user);
    CLAIM(!(access & MMU_WRITE) || x.dirty);
    CLAIM(!(access & MMU_WRITE) || x.writable || (!user && !(cpu->cr0 & CR0_WP)));
    CLAIM(!(access & MMU_FETCH) || !x.no_execute);
    CLAIM(mmu_probe(cpu, GLIN(lin), &probe) && probe.gpa.v == x.gpa.v);
}

static void access_memory(struct input *in) {
    u8 buffer[512] = {0}, kind = take8(in);
    u32 lin = take32(in);
    unsigned bytes = 1 + (kind & 8 ? take16(in) % 512 : take8(in) % 16);
    bool user = kind & 1;
    cpu->cpl = user ? 3 : 0;
    switch (kind >> 4 & 7) {
    case 0:
        check_translation(lin, MMU_READ, user);
        break;
    case 1:
        check_translation(lin, MMU_WRITE, user);
        break;
    case 2:
        check_translation(lin, MMU_FETCH, user);
        break;
    case 3:
        mmu_read(cpu, lin, buffer, bytes, kind & 2 ? MMU_SUPERVISOR : MMU_READ);
        break;
    case 4:
        if (mmu_check_write(cpu, lin, bytes, MMU_WRITE))
            CLAIM(mmu_write(cpu, lin, buffer, bytes, MMU_WRITE));
        break;
    case 5:
        mmu_invlpg(cpu, GLIN(lin));
        break;
    case 6:
        cpu->cr3 = TABLES + (lin & 0x18);
        if (!(cpu->cr4 & CR4_PAE) || mmu_load_pdptrs(cpu, cpu->cr3))
            mmu_cr3_loaded(cpu);
        break;
    default:
        mmu_current_view(cpu, user);
        mmu_window_base(cpu, user);
        mmu_window_fault(cpu, user, GLIN(lin), kind & 2);
        if (kind & 4)
            mmu_window_prefill(cpu, user, GLIN(lin), kind & 2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct input in = input_of(data, bytes);
    make_cpu();
    u8 modes = take8(&in);
    default_tables(mmu_ram(cpu->mmu), modes & 2);
    for (u8 changes = take8(&in); changes-- && input_left(&in);) {
        u32 place = take16(&in) % (TABLE_PAGES * PAGE_BYTES / 8);
        store64(mmu_ram(cpu->mmu) + TABLES + 8 * place, take(&in, 8));
    }
    mmu_phys_written(cpu->mmu, GPA(0), RAM_BYTES);
    if (!set_modes(modes))
        return 0;
    for (unsigned n = 0; n < 200 && input_left(&in); n++)
        access_memory(&in);
    /* What the guest changed without a word may be in the windows until it says so. */
    mmu_mode_changed(cpu);
    const char *wrong = mmu_validate(cpu);
    if (wrong)
        fprintf(stderr, "%s\n", wrong);
    CLAIM(!wrong);
    return 0;
}
