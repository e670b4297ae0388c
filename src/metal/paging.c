/*
 * paging.c: the page tables under everything: the upper half of the address space, the same in all
 * roots, and the control registers that go with it.
 *
 *   PML4 256       the direct map, 512 GiB, RW NX
 *   PML4 257, 258  the shared area; one tree of tables, reached with U=0 and with U=1 (SDM volume
 * 3, section 4.6.1 "Determination of Access Rights": an address is a supervisor one if any entry on
 * the way has U=0) PML4 511       the image, W^X
 *
 * Bits of entries: SDM volume 3, section 4.5 "4-Level Paging and 5-Level Paging". The PAT stays as
 * at reset, so that PCD means uncached (section 11.12.4 "Programming the PAT").
 */
#include "metal/boot_internal.h"
#include "metal/metal_internal.h"

#include <cpuid.h>

#define PTE_PCD 16ull
#define PTE_LARGE 128ull
/* A and D are set beforehand: nobody reads them, and the CPU need not write them. */
#define PTE_RW (METAL_PTE_P | METAL_PTE_W | METAL_PTE_A | METAL_PTE_D)
#define PTE_RO (METAL_PTE_P | METAL_PTE_A | METAL_PTE_D)
#define PTE_TABLE (METAL_PTE_P | METAL_PTE_W | METAL_PTE_A)
#define GIB (1ull << 30)
#define LARGE_BYTES (1ull << 21)
#define ENTRIES 512

enum { SLOT_DIRECT = 256, SLOT_SHARED = 257, SLOT_RING3 = 258, SLOT_IMAGE = 511 };
_Static_assert((METAL_DIRECT >> 39 & 511) == SLOT_DIRECT, "the direct map's PML4 entry");
_Static_assert((METAL_SHARED >> 39 & 511) == SLOT_SHARED, "the shared area's PML4 entry");
_Static_assert(((METAL_SHARED + METAL_RING3_DELTA) >> 39 & 511) == SLOT_RING3, "its alias's");
_Static_assert((METAL_IMAGE >> 39 & 511) == SLOT_IMAGE, "the image's PML4 entry");
_Static_assert((METAL_SHARED & (GIB - 1)) == 0 && METAL_SHARED_BYTES <= GIB, "one page directory");

extern u8 metal_boot_stack_guard[]; /* start.S */

static u64 monitor_root;
static u64 current_root;
static u64 *shared_directory; /* of the shared area's one GiB */
static u64 shared_used;       /* bytes from METAL_SHARED on */

/* ---- Making tables ---- */

static u64 new_table(void) {
    u64 phys = metal_pages_alloc(1, 1);
    if (phys)
        memset(metal_phys_pointer(phys), 0, PAGE_BYTES);
    return phys;
}

static u64 *table_of(u64 entry) {
    return metal_phys_pointer(entry & METAL_PTE_ADDRESS);
}

/* The table that table[index] points at, made if there is none. NULL without memory. */
static u64 *next_table(u64 *table, unsigned index, u64 bits) {
    if (!table[index]) {
        u64 phys = new_table();
        if (!phys)
            return NULL;
        table[index] = phys | bits;
    }
    return table_of(table[index]);
}

static u64 *must_have(u64 *table) {
    if (!table)
        metal_fatal("no memory for page tables");
    return table;
}

/* ---- The direct map ---- */

static bool holds_memory(const struct metal_boot_info *info, u64 start, u64 end) {
    for (unsigned i = 0; i < info->ranges; i++) {
        const struct metal_range *range = &info->range[i];
        if (range->kind != RANGE_OTHER && range->start < end && range->end > start)
            return true;
    }
    return false;
}

/* May it be one page? It may if no part of it is mapped in another way than the rest. */
static bool uniform_gib(const struct metal_boot_info *info, u64 start) {
    bool first = holds_memory(info, start, start + LARGE_BYTES);
    for (u64 at = start; at < start + GIB; at += LARGE_BYTES) {
        if (holds_memory(info, at, at + LARGE_BYTES) != first)
            return false;
    }
    return true;
}

static u64 direct_entry(const struct metal_boot_info *info, u64 start, u64 bytes) {
    u64 cache = holds_memory(info, start, start + bytes) ? 0 : PTE_PCD;
    return start | PTE_RW | PTE_LARGE | METAL_PTE_NX | cache;
}

/* All of the lowest 4 GiB, where devices are, and above that every GiB with memory in it. */
static void map_direct(const struct metal_boot_info *info, u64 *pml4) {
    u32 eax, ebx, ecx, edx = 0;
    __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx);
    bool has_gib_pages = edx & BIT(26);
    u64 *pdpt = must_have(next_table(pml4, SLOT_DIRECT, PTE_TABLE));
    for (unsigned i = 0; i < ENTRIES; i++) {
        u64 start = i * GIB;
        if (i >= 4 && !holds_memory(info, start, start + GIB))
            continue;
        if (has_gib_pages && uniform_gib(info, start)) {
            pdpt[i] = direct_entry(info, start, GIB);
            continue;
        }
        u64 *directory = must_have(next_table(pdpt, i, PTE_TABLE));
        for (unsigned k = 0; k < ENTRIES; k++)
            directory[k] = direct_entry(info, start + k * LARGE_BYTES, LARGE_BYTES);
    }
}

bool metal_phys_mapped(u64 phys, u64 bytes) {
    if (!bytes || phys + bytes < phys || phys + bytes > ENTRIES * GIB)
        return false;
    const u64 *pdpt = table_of(((u64 *)metal_phys_pointer(monitor_root))[SLOT_DIRECT]);
    for (u64 i = phys / GIB; i <= (phys + bytes - 1) / GIB; i++) {
        if (!pdpt[i]) /* a GiB is mapped whole or not at all */
            return false;
    }
    return true;
}

/* ---- The image ---- */

static void map_image_page(u64 *pdpt, u64 linear, u64 bits) {
    u64 *directory = must_have(next_table(pdpt, linear >> 30 & 511, PTE_TABLE));
    u64 *table = must_have(next_table(directory, linear >> 21 & 511, PTE_TABLE));
    table[linear >> 12 & 511] = (linear - METAL_IMAGE) | bits;
}

static void map_image(u64 *pml4) {
    u64 *pdpt = must_have(next_table(pml4, SLOT_IMAGE, PTE_TABLE));
    u64 end = METAL_IMAGE + metal_image_end_phys();
    for (u64 at = (u64)metal_text_start; at < end; at += PAGE_BYTES) {
        u64 bits = PTE_RO | METAL_PTE_NX; /* read-only data; the symbols */
        if (at < (u64)metal_text_end)
            bits = PTE_RO;
        else if (at >= (u64)metal_rodata_end && at < (u64)metal_data_end)
            bits = PTE_RW | METAL_PTE_NX;
        map_image_page(pdpt, at, bits);
    }
}

/* Every root shares the image's tables. */
void metal_page_remove(const void *page) {
    u64 linear = (u64)page;
    RF_ASSERT(linear >= (u64)metal_rodata_end && linear < (u64)metal_data_end);
    u64 *pml4 = metal_phys_pointer(monitor_root);
    u64 *directory = table_of(table_of(pml4[SLOT_IMAGE])[linear >> 30 & 511]);
    table_of(directory[linear >> 21 & 511])[linear >> 12 & 511] = 0;
    metal_tlb_flush_page(linear);
}

/* ---- Control registers ---- */

/* SDM volume 3, section 2.5 "Control Registers". What the CPU does not have must stay 0. */
static void set_control_registers(void) {
    enum { CR4_PAE = BIT(5), CR4_MCE = BIT(6), CR4_OSFXSR = BIT(9), CR4_OSXMMEXCPT = BIT(10) };
    enum { CR4_UMIP = BIT(11), CR4_SMEP = BIT(20) };
    u32 eax, ebx = 0, ecx = 0, edx = 0;
    u64 cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    if (edx & BIT(7))
        cr4 |= CR4_MCE;
    ebx = ecx = 0;
    __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
    if (ebx & BIT(7))
        cr4 |= CR4_SMEP;
    if (ecx & BIT(2))
        cr4 |= CR4_UMIP;
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4) : "memory");
    u64 cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
}

void metal_paging_init(const struct metal_boot_info *info) {
    monitor_root = new_table();
    u64 *pml4 = must_have(monitor_root ? metal_phys_pointer(monitor_root) : NULL);
    map_direct(info, pml4);
    map_image(pml4);
    u64 *pdpt = must_have(next_table(pml4, SLOT_SHARED, PTE_TABLE));
    shared_directory =
        must_have(next_table(pdpt, METAL_SHARED >> 30 & 511, PTE_TABLE | METAL_PTE_U));
    pml4[SLOT_RING3] = pml4[SLOT_SHARED] | METAL_PTE_U;
    metal_root_load(monitor_root);
    set_control_registers();
    metal_page_remove(metal_boot_stack_guard);
}

/* ---- Roots ---- */

u64 metal_root_create(void) {
    u64 root = new_table();
    if (root) {
        u64 *pml4 = metal_phys_pointer(root), *monitor = metal_phys_pointer(monitor_root);
        memcpy(pml4 + ENTRIES / 2, monitor + ENTRIES / 2, PAGE_BYTES / 2);
    }
    return root;
}

void metal_root_destroy(u64 root) {
    RF_ASSERT(root != current_root && root != monitor_root);
    metal_pages_free(root, 1);
}

void metal_tlb_flush(void) {
    __asm__ volatile("mov %0, %%cr3" : : "r"(current_root) : "memory");
}

void metal_root_load(u64 root) {
    if (root == current_root)
        return;
    current_root = root;
    metal_tlb_flush();
}

u64 metal_root_current(void) {
    return current_root;
}

u64 metal_root_monitor(void) {
    return monitor_root;
}

/* ---- The shared area ---- */

static u64 rights_bits(enum metal_rights rights) {
    static const u64 bits[] = {
        [METAL_NONE] = METAL_PTE_NX,
        [METAL_READ] = PTE_RO | METAL_PTE_U | METAL_PTE_NX,
        [METAL_READ_WRITE] = PTE_RW | METAL_PTE_U | METAL_PTE_NX,
        [METAL_READ_EXECUTE] = PTE_RO | METAL_PTE_U,
    };
    return bits[rights];
}

/* The entry of a linear address in the area; its table must exist. */
static u64 *shared_entry(u64 linear) {
    return &table_of(shared_directory[linear >> 21 & 511])[linear >> 12 & 511];
}

void *metal_shared_alloc(u64 bytes, enum metal_rights rights) {
    bytes = ALIGN_UP(bytes, PAGE_BYTES);
    if (!bytes || bytes > METAL_SHARED_BYTES - shared_used)
        return NULL;
    u64 start = METAL_SHARED + shared_used;
    for (u64 at = start; at < start + bytes; at += PAGE_BYTES) {
        if (!next_table(shared_directory, at >> 21 & 511, PTE_TABLE | METAL_PTE_U))
            return NULL;
    }
    u64 phys = metal_pages_alloc(bytes >> PAGE_SHIFT, 1);
    if (!phys)
        return NULL;
    memset(metal_phys_pointer(phys), 0, bytes);
    for (u64 at = 0; at < bytes; at += PAGE_BYTES)
        *shared_entry(start + at) = (phys + at) | rights_bits(rights);
    shared_used += bytes;
    return (void *)start;
}

void metal_shared_protect(void *p, u64 bytes, enum metal_rights rights) {
    u64 start = (u64)p, end = start + bytes;
    RF_ASSERT(start >= METAL_SHARED && end <= METAL_SHARED + shared_used);
    for (u64 at = start & ~(u64)PAGE_OFFSET_MASK; at < end; at += PAGE_BYTES) {
        u64 *entry = shared_entry(at);
        *entry = (*entry & METAL_PTE_ADDRESS) | rights_bits(rights);
        metal_tlb_flush_page(at);
        metal_tlb_flush_page(at + METAL_RING3_DELTA);
    }
}

u64 metal_pointer_phys(const void *p) {
    u64 linear = (u64)p;
    if (linear >= METAL_IMAGE)
        return linear - METAL_IMAGE;
    if (linear >= METAL_SHARED + METAL_RING3_DELTA)
        linear -= METAL_RING3_DELTA;
    if (linear >= METAL_SHARED) {
        RF_ASSERT(linear < METAL_SHARED + shared_used);
        return (*shared_entry(linear) & METAL_PTE_ADDRESS) | (linear & PAGE_OFFSET_MASK);
    }
    RF_ASSERT(linear >= METAL_DIRECT);
    return linear - METAL_DIRECT;
}
